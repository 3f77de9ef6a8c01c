//! From readings to a number of replicas. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use resources::quantity::Quantity;
use resources::{Value, meta};
use serde_json::json;

use super::{Reading, Readings};
use crate::pods;

/// While a pod starts, its processor use says little.
const STARTING: Duration = Duration::from_secs(300);
/// A pod that was never ready within this time of its start is not ready yet, rather than not ready any more.
const FIRST_READY: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub replicas: i64,
    pub name: String,
    /// As the status shows it.
    pub status: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub reason: String,
    pub text: String,
}

/// What a metric is about.
struct About<'a> {
    resource: &'a str,
    /// One container of each pod; all of them otherwise.
    container: Option<&'a str>,
    kind: &'a str,
}

impl About<'_> {
    fn fault(&self, why: &str) -> Fault {
        let reason = format!("FailedGet{}Metric", self.kind);
        let of = match self.container {
            Some(container) => format!("{} metric for container {container}", self.resource),
            None => format!("{} resource metric value", self.resource),
        };
        Fault { reason, text: format!("failed to get {of}: {why}") }
    }

    fn used(&self, reading: &Reading) -> Option<i64> {
        let pick = |(cpu, memory): &(i64, i64)| if self.resource == "cpu" { *cpu } else { *memory };
        match self.container {
            Some(container) => reading.containers.get(container).map(pick),
            None => (!reading.containers.is_empty()).then(|| reading.containers.values().map(pick).sum()),
        }
    }

    fn asked(&self, pod: &Value) -> Result<i64, Fault> {
        let mut sum = 0;
        let sidecars =
            meta::list_at(pod, &["spec", "initContainers"]).iter().filter(|one| one["restartPolicy"] == "Always");
        for container in meta::list_at(pod, &["spec", "containers"]).iter().chain(sidecars) {
            let name = container["name"].as_str().unwrap_or_default();
            if self.container.is_some_and(|wanted| wanted != name) {
                continue;
            }
            let Some(amount) = container["resources"]["requests"].get(self.resource) else {
                let text =
                    format!("missing request for {} in container {name} of Pod {}", self.resource, meta::name(pod));
                return Err(self.fault(&text));
            };
            sum += self.amount(amount);
        }
        Ok(sum)
    }

    /// Thousandths for the processor, whole units for the rest.
    fn amount(&self, value: &Value) -> i64 {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let nanos = Quantity::parse(&text).map_or(0, |quantity| quantity.nanos());
        i64::try_from(nanos / if self.resource == "cpu" { 1_000_000 } else { 1_000_000_000 }).unwrap_or(i64::MAX)
    }

    fn shown(&self, amount: i64) -> String {
        if self.resource == "cpu" { format!("{amount}m") } else { amount.to_string() }
    }
}

/// `tolerance`: downwards and upwards.
pub fn metric(
    metric: &Value,
    all: &[&Arc<Value>],
    current: i64,
    readings: &Readings,
    tolerance: (f64, f64),
    now: Timestamp,
) -> Result<Measured, Fault> {
    let kind = metric["type"].as_str().unwrap_or_default();
    let (field, container) = match kind {
        "Resource" => ("resource", None),
        "ContainerResource" => ("containerResource", metric["containerResource"]["container"].as_str()),
        other => {
            // Whoever serves custom metrics would be asked here.
            let group = if other == "External" { "external" } else { "custom" };
            let text = format!(
                "unable to get metric: unable to fetch metrics from {group} metrics API: no such API is served"
            );
            return Err(Fault { reason: format!("FailedGet{other}Metric"), text });
        }
    };
    let source = &metric[field];
    let about = About { resource: source["name"].as_str().unwrap_or_default(), container, kind };
    if !matches!(about.resource, "cpu" | "memory") {
        return Err(about.fault(&format!("no metrics of resource {:?} are kept", about.resource)));
    }
    let groups = Groups::new(all, &about, readings, now);
    if groups.ready.is_empty() {
        let why = match all.is_empty() || groups.missing.len() == all.len() {
            true => {
                "unable to get metrics for resource ".to_owned()
                    + about.resource
                    + ": no metrics returned from resource metrics API"
            }
            false => "did not receive metrics for targeted pods (pods might be unready)".to_owned(),
        };
        return Err(about.fault(&why));
    }
    let average = groups.ready.values().sum::<i64>() / groups.ready.len() as i64;
    let what = match container {
        Some(container) => format!("container resource {} of container {container}", about.resource),
        None => format!("{} resource", about.resource),
    };
    let mut shown = json!({"averageValue": about.shown(average)});
    let (replicas, name) = match source["target"]["averageUtilization"].as_i64() {
        Some(target) => {
            let mut asked = BTreeMap::new();
            for pod in all.iter().filter(|pod| !groups.is_ignored(pod)) {
                asked.insert(meta::name(pod).to_owned(), about.asked(pod)?);
            }
            let of = |used: &BTreeMap<String, i64>| -> f64 {
                let total: i64 = used.keys().filter_map(|name| asked.get(name)).sum();
                if total == 0 { 0.0 } else { used.values().sum::<i64>() as f64 * 100.0 / total as f64 }
            };
            shown["averageUtilization"] = (of(&groups.ready) as i64).into();
            let ratio = |used: &BTreeMap<String, i64>| (of(used) as i64) as f64 / target as f64;
            let instead = |name: &str| asked.get(name).copied().unwrap_or(0) * target.max(100) / 100;
            let name = match container {
                Some(_) => format!("{what} utilization (percentage of request)"),
                None => format!("{what} utilization (percentage of request)"),
            };
            (groups.replicas(current, tolerance, ratio, instead), name)
        }
        None => {
            let target = about.amount(&source["target"]["averageValue"]);
            if target <= 0 {
                return Err(about.fault(
                    "invalid resource metric source: neither an average utilization nor an average value usable",
                ));
            }
            let ratio = |used: &BTreeMap<String, i64>| {
                used.values().sum::<i64>() as f64 / used.len().max(1) as f64 / target as f64
            };
            (groups.replicas(current, tolerance, ratio, |_| target), what)
        }
    };
    let mut status = json!({"type": kind, field: {"name": about.resource, "current": shown}});
    if let Some(container) = container {
        status[field]["container"] = container.into();
    }
    Ok(Measured { replicas, name, status })
}

/// Pods by what their readings are worth.
#[derive(Debug, Default)]
struct Groups {
    ready: BTreeMap<String, i64>,
    unready: Vec<String>,
    missing: Vec<String>,
    ignored: Vec<String>,
}

impl Groups {
    fn new(all: &[&Arc<Value>], about: &About<'_>, readings: &Readings, now: Timestamp) -> Self {
        let mut groups = Self::default();
        for pod in all {
            let name = meta::name(pod).to_owned();
            let phase = meta::str_at(pod, &["status", "phase"]);
            if meta::is_terminating(pod) || matches!(phase, "Failed" | "Succeeded") {
                groups.ignored.push(name);
                continue;
            }
            if phase == "Pending" {
                groups.unready.push(name);
                continue;
            }
            let Some(reading) = readings(meta::namespace(pod), &name) else {
                groups.missing.push(name);
                continue;
            };
            let Some(used) = about.used(&reading) else {
                groups.missing.push(name);
                continue;
            };
            match about.resource == "cpu" && is_starting(pod, &reading, now) {
                true => groups.unready.push(name),
                false => drop(groups.ready.insert(name, used)),
            }
        }
        groups
    }

    fn is_ignored(&self, pod: &Value) -> bool {
        self.ignored.iter().any(|name| name == meta::name(pod))
    }

    /// `instead`: what a pod without reading is taken to use when that holds back a smaller number.
    fn replicas(
        &self,
        current: i64,
        (down, up): (f64, f64),
        ratio: impl Fn(&BTreeMap<String, i64>) -> f64,
        instead: impl Fn(&str) -> i64,
    ) -> i64 {
        let within = |ratio: f64| ratio >= 1.0 - down && ratio <= 1.0 + up;
        let count = |ratio: f64, of: usize| (ratio * of as f64).ceil() as i64;
        let first = ratio(&self.ready);
        // Those that start would take load if more came; they are counted as idle.
        let starting = !self.unready.is_empty() && first > 1.0;
        if !starting && self.missing.is_empty() {
            return if within(first) { current } else { count(first, self.ready.len()) };
        }
        let mut used = self.ready.clone();
        for name in &self.missing {
            match first {
                ratio if ratio < 1.0 => drop(used.insert(name.clone(), instead(name))),
                ratio if ratio > 1.0 => drop(used.insert(name.clone(), 0)),
                _ => {}
            }
        }
        if starting {
            used.extend(self.unready.iter().map(|name| (name.clone(), 0)));
        }
        let second = ratio(&used);
        if within(second) || (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0) {
            return current;
        }
        let replicas = count(second, used.len());
        // What is guessed never turns the direction round.
        let wrong = (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current);
        if wrong { current } else { replicas }
    }
}

fn is_starting(pod: &Value, reading: &Reading, now: Timestamp) -> bool {
    let (Some(condition), Some(began)) = (pods::condition(pod, "Ready"), pods::time(&pod["status"]["startTime"]))
    else {
        return true;
    };
    let Some(since) = pods::time(&condition["lastTransitionTime"]) else { return true };
    let within = |from: Timestamp, span: Duration, at: Timestamp| from.checked_add(span).is_ok_and(|end| end > at);
    let ready = condition["status"] == "True";
    if within(began, STARTING, now) {
        return !ready || within(since, reading.window, reading.at);
    }
    !ready && within(began, FIRST_READY, since)
}
