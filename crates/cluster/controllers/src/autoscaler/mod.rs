//! HorizontalPodAutoscalers: as many replicas as the measured use of resources asks for.
//!
//! * `measure` — from readings to a number of replicas, one metric at a time
//! * `behavior` — how fast that number may be followed
//!
//! Readings come from outside ([`Reading`]), so that tables and simulations give their own.

mod behavior;
mod measure;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::kinds::conditions_set;
use resources::{Value, decode, meta};
use serde_json::json;

use crate::pods;
use behavior::Memory;
use measure::Measured;

/// How often use is looked at.
const PERIOD: Duration = Duration::from_secs(15);
const TARGETS: [Kind; 4] = [Kind::Deployment, Kind::ReplicaSet, Kind::StatefulSet, Kind::ReplicationController];

/// What a pod's containers use.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub at: Timestamp,
    /// What time the rates are over.
    pub window: Duration,
    /// By container: thousandths of a processor, and bytes.
    pub containers: BTreeMap<String, (i64, i64)>,
}

/// The last reading of the pod with this namespace and name.
pub type Readings = Box<dyn Fn(&str, &str) -> Option<Reading> + Send>;

pub struct Autoscalers {
    readings: Readings,
    memory: BTreeMap<Key, Memory>,
}

impl Autoscalers {
    pub fn new(readings: Readings) -> Self {
        Self { readings, memory: BTreeMap::new() }
    }
}

impl Part for Autoscalers {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    fn watches(&self) -> &'static [Kind] {
        // Sets and pods are read, but their changes wait for the next period, as readings do.
        &[
            Kind::HorizontalPodAutoscaler,
            Kind::Deployment,
            Kind::ReplicaSet,
            Kind::StatefulSet,
            Kind::ReplicationController,
            Kind::Pod,
        ]
    }

    fn keys(&self, _: &View, kind: Kind, object: &Value) -> Vec<Key> {
        if kind == Kind::HorizontalPodAutoscaler { vec![Key::of(object)] } else { Vec::new() }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let Some(scaler) = view.at(Kind::HorizontalPodAutoscaler, key) else {
            self.memory.remove(key);
            return Outcome::default();
        };
        let memory = self.memory.entry(key.clone()).or_default();
        // Our own writes of its status bring us here again: once a period is enough.
        if let Some(last) = memory.looked.filter(|_| memory.generation == spec_of(scaler)) {
            let waited = Duration::try_from(now.duration_since(last)).unwrap_or_default();
            if waited < PERIOD {
                return Outcome::default().after(PERIOD - waited);
            }
        }
        (memory.looked, memory.generation) = (Some(now), spec_of(scaler));
        let mut look = Look { scaler, object: Value::clone(scaler), writes: Vec::new(), now };
        look.work(view, &self.readings, memory);
        Outcome::of(look.finish()).after(PERIOD)
    }
}

/// A change of what is asked for does not wait.
fn spec_of(scaler: &Value) -> String {
    scaler["spec"].to_string()
}

struct Look<'a> {
    scaler: &'a Value,
    object: Value,
    writes: Vec<Write>,
    now: Timestamp,
}

impl Look<'_> {
    fn condition(&mut self, kind: &str, status: bool, reason: &str, message: &str) {
        let status = if status { "True" } else { "False" };
        conditions_set(&mut self.object, kind, status, reason, message, self.now);
    }

    fn warn(&mut self, reason: &str, message: impl Into<String>) {
        self.writes.push(Write::warning(Kind::HorizontalPodAutoscaler, self.scaler, reason, message));
    }

    fn work(&mut self, view: &View, readings: &Readings, memory: &mut Memory) {
        let spec = &self.scaler["spec"];
        let target = &spec["scaleTargetRef"];
        let (kind, name) = (target["kind"].as_str().unwrap_or_default(), target["name"].as_str().unwrap_or_default());
        let namespace = meta::namespace(self.scaler);
        let found = TARGETS
            .iter()
            .find(|known| known.as_str() == kind)
            .map(|known| (*known, view.get(*known, namespace, name)));
        let (target_kind, set) = match found {
            Some((kind, Some(set))) => (kind, set.clone()),
            Some((target_kind, None)) => {
                let plural = target_kind.gvr().plural;
                let group = target_kind.gvr().group;
                let full = if group.is_empty() { plural.to_string() } else { format!("{plural}.{group}") };
                let why = format!(
                    "the HPA controller was unable to get the target's current scale: {full} {name:?} not found"
                );
                return self.no_scale(&why, &format!("{full} {name:?} not found"));
            }
            None => {
                let why = format!(
                    "no matches for kind {kind:?} in group {:?}",
                    target["apiVersion"].as_str().unwrap_or_default()
                );
                return self.no_scale(
                    &format!("the HPA controller was unable to get the target's current scale: {why}"),
                    &why,
                );
            }
        };
        self.condition(
            "AbleToScale",
            true,
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        let current = set["spec"]["replicas"].as_i64().unwrap_or(1);
        let counted = set["status"]["replicas"].as_i64().unwrap_or(0);
        let least = spec["minReplicas"].as_i64().unwrap_or(1);
        let most = spec["maxReplicas"].as_i64().unwrap_or(1);
        memory.begin(current, self.now);
        self.object["status"]["currentReplicas"] = counted.into();
        if current == 0 && least != 0 {
            self.object["status"]["desiredReplicas"] = 0.into();
            let text = "scaling is disabled since the replica count of the target is zero";
            return self.condition("ScalingActive", false, "ScalingDisabled", text);
        }
        let (desired, reason) = if current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let Some((desired, metric)) = self.measure(view, &set, current, readings) else { return };
            let reason = match desired.cmp(&current) {
                std::cmp::Ordering::Greater => format!("{metric} above target"),
                _ => "All metrics below target".to_owned(),
            };
            (self.follow(memory, current, desired, least, most), reason)
        };
        self.object["status"]["desiredReplicas"] = desired.into();
        if desired == current {
            return;
        }
        let key = Key::of(&set);
        let patch = json!({"spec": {"replicas": desired}});
        self.writes.push(Write::Merge { kind: target_kind, key, sub: "", patch });
        let text = format!("New size: {desired}; reason: {reason}");
        self.writes.push(Write::normal(Kind::HorizontalPodAutoscaler, self.scaler, "SuccessfulRescale", text));
        let text = format!("the HPA controller was able to update the target scale to {desired}");
        self.condition("AbleToScale", true, "SucceededRescale", &text);
        self.object["status"]["lastScaleTime"] = decode::format_time(self.now, 0).into();
        memory.scaled(desired - current, self.now);
    }

    fn no_scale(&mut self, condition: &str, event: &str) {
        self.condition("AbleToScale", false, "FailedGetScale", condition);
        self.warn("FailedGetScale", event);
    }

    /// The number that all metrics together ask for, and the one that asked for most; nothing if that cannot be known.
    fn measure(&mut self, view: &View, set: &Value, current: i64, readings: &Readings) -> Option<(i64, String)> {
        let Some(selector) = pods::selector(set) else {
            let text = "the HPA target's scale is missing a selector";
            self.condition("ScalingActive", false, "InvalidSelector", text);
            self.warn("SelectorRequired", "selector is required");
            return None;
        };
        let all: Vec<&Arc<Value>> = view
            .in_namespace(Kind::Pod, meta::namespace(self.scaler))
            .filter(|pod| selector.matches_object(pod))
            .collect();
        let mut best: Option<Measured> = None;
        let mut shown = Vec::new();
        let (mut failed, mut first) = (0, None);
        let metrics = meta::list_at(self.scaler, &["spec", "metrics"]);
        for metric in metrics {
            let up = tolerance(self.scaler, "scaleUp");
            let down = tolerance(self.scaler, "scaleDown");
            match measure::metric(metric, &all, current, readings, (down, up), self.now) {
                Ok(measured) => {
                    shown.push(measured.status.clone());
                    if best.as_ref().is_none_or(|best| measured.replicas > best.replicas) {
                        best = Some(measured);
                    }
                }
                Err(fault) => {
                    failed += 1;
                    shown.push(json!({"type": metric["type"]}));
                    first.get_or_insert(fault);
                }
            }
        }
        let known: Vec<Value> =
            shown.into_iter().filter(|one| one.as_object().is_some_and(|map| map.len() > 1)).collect();
        self.object["status"]["currentMetrics"] = known.into();
        if let Some(fault) = first {
            let text = format!("the HPA was unable to compute the replica count: {}", fault.text);
            self.warn(&fault.reason, &*fault.text);
            // With a part of the metrics only, more is safe and less is not.
            let unsafe_now = best.as_ref().is_none_or(|best| best.replicas < current);
            if unsafe_now {
                self.condition("ScalingActive", false, &fault.reason, &text);
                let text = format!(
                    "invalid metrics ({failed} invalid out of {}), first error is: {}",
                    metrics.len(),
                    fault.text
                );
                self.warn("FailedComputeMetricsReplicas", text);
                return None;
            }
        }
        let best = best?;
        let text = format!("the HPA was able to successfully calculate a replica count from {}", best.name);
        self.condition("ScalingActive", true, "ValidMetricFound", &text);
        Some((best.replicas, best.name))
    }

    /// What of the wish may be followed now.
    fn follow(&mut self, memory: &mut Memory, current: i64, desired: i64, least: i64, most: i64) -> i64 {
        let rules = &self.scaler["spec"]["behavior"];
        let (steady, why) = memory.stabilize(rules, current, desired, self.now);
        match why {
            Some((reason, text)) => self.condition("AbleToScale", true, reason, text),
            None => self.condition("AbleToScale", true, "ReadyForNewScale", "recommended size matches current size"),
        }
        let (allowed, reason, text) = memory.limit(rules, current, steady, least, most, self.now);
        self.condition("ScalingLimited", reason != "DesiredWithinRange", reason, text);
        allowed
    }

    fn finish(mut self) -> Vec<Write> {
        for field in ["currentReplicas", "desiredReplicas"] {
            if self.object["status"][field].is_null() {
                self.object["status"][field] = 0.into();
            }
        }
        let status = self.object["status"].take();
        self.writes.extend(pods::status_write(Kind::HorizontalPodAutoscaler, self.scaler, status));
        self.writes
    }
}

/// How far use may be from its target without anything happening.
fn tolerance(scaler: &Value, way: &str) -> f64 {
    let given = &scaler["spec"]["behavior"][way]["tolerance"];
    let text = given.as_str().map(str::to_owned).or_else(|| given.as_f64().map(|number| number.to_string()));
    let parsed = text.and_then(|text| resources::quantity::Quantity::parse(&text).ok());
    parsed.map_or(0.1, |quantity| quantity.nanos() as f64 / 1e9)
}

#[cfg(test)]
mod tests;
