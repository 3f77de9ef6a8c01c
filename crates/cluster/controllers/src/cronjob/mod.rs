//! CronJobs: a job at each time of a schedule.

mod schedule;

use std::sync::Arc;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use resources::{Value, decode, meta};
use serde_json::json;

use crate::job;
use crate::pods;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are told of.
const MISSED_MAX: i64 = 100;
/// A clock that is a little early must not make the time come twice.
const SLACK: Duration = Duration::from_millis(100);

pub struct CronJobs;

impl Part for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::CronJob, Kind::Job]
    }

    fn keys(&self, _: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::CronJob => vec![Key::of(object)],
            _ => pods::controller_key(object, Kind::CronJob).into_iter().collect(),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let Some(cron) = view.at(Kind::CronJob, key) else { return Outcome::default() };
        if meta::is_terminating(cron) {
            return Outcome::default();
        }
        let mut look = Look {
            cron,
            now,
            jobs: view.owned(Kind::Job, meta::uid(cron)).cloned().collect(),
            active: meta::list_at(cron, &["status", "active"]).to_vec(),
            status: cron["status"].clone(),
            writes: Vec::new(),
        };
        look.take_stock(view);
        look.trim_history();
        let again = look.start();
        look.finish(again)
    }
}

struct Look<'a> {
    cron: &'a Value,
    now: Timestamp,
    jobs: Vec<Arc<Value>>,
    /// As the status names them.
    active: Vec<Value>,
    status: Value,
    writes: Vec<Write>,
}

impl Look<'_> {
    fn normal(&mut self, reason: &str, message: impl Into<String>) {
        self.writes.push(Write::normal(Kind::CronJob, self.cron, reason, message));
    }

    fn warn(&mut self, reason: &str, message: impl Into<String>) {
        self.writes.push(Write::warning(Kind::CronJob, self.cron, reason, message));
    }

    /// Which jobs run, which have ended, which have gone.
    fn take_stock(&mut self, view: &View) {
        for job in self.jobs.clone() {
            let listed = self.active.iter().position(|entry| entry["uid"] == meta::uid(&job));
            match (listed, job::finished(&job)) {
                // Made here in a look whose status was never written. What a person makes from the template is theirs.
                (None, None) if meta::at(&job, &["metadata", "annotations", SCHEDULED]).is_some() => {
                    self.active.push(reference(&job));
                }
                (Some(at), Some(condition)) => {
                    self.active.remove(at);
                    let kind = condition["type"].as_str().unwrap_or_default().to_owned();
                    let text = format!("Saw completed job: {}, condition: {kind}", meta::name(&job));
                    self.normal("SawCompletedJob", text);
                }
                _ => {}
            }
            let ended = job["status"]["completionTime"].clone();
            let later = pods::time(&ended) > pods::time(&self.status["lastSuccessfulTime"]);
            if ended.is_string() && later {
                self.status["lastSuccessfulTime"] = ended;
            }
        }
        let namespace = meta::namespace(self.cron);
        let gone: Vec<Value> = self
            .active
            .iter()
            .filter(|entry| {
                let job = view.get(Kind::Job, namespace, entry["name"].as_str().unwrap_or_default());
                job.is_none_or(|job| entry["uid"] != meta::uid(job))
            })
            .cloned()
            .collect();
        for entry in gone {
            self.active.retain(|have| have["uid"] != entry["uid"]);
            self.normal(
                "MissingJob",
                format!("Active job went missing: {}", entry["name"].as_str().unwrap_or_default()),
            );
        }
    }

    /// Finished jobs beyond those that are kept.
    fn trim_history(&mut self) {
        for (kind, limit) in [("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")] {
            let Some(keep) = self.cron["spec"][limit].as_u64() else { continue };
            let ended = |job: &&Arc<Value>| {
                !meta::is_terminating(job) && job::finished(job).is_some_and(|condition| condition["type"] == kind)
            };
            let mut jobs: Vec<Arc<Value>> = self.jobs.iter().filter(ended).cloned().collect();
            jobs.sort_by_key(|job| (pods::time(&job["status"]["startTime"]), meta::name(job).to_owned()));
            for job in jobs.iter().take(jobs.len().saturating_sub(keep as usize)) {
                self.delete(job);
            }
        }
    }

    fn delete(&mut self, job: &Value) {
        self.writes.push(Write::delete(Kind::Job, job));
        self.active.retain(|entry| entry["uid"] != meta::uid(job));
        self.normal("SuccessfulDelete", format!("Deleted job {}", meta::name(job)));
    }

    /// Starts the job whose time has come, unless something is against it; answers when to look again.
    fn start(&mut self) -> Option<Duration> {
        let spec = &self.cron["spec"];
        if spec["suspend"] == true {
            return None;
        }
        let zone = match spec["timeZone"].as_str().unwrap_or_default() {
            "" => TimeZone::UTC,
            name => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(_) => {
                    self.warn("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"));
                    return None;
                }
            },
        };
        let text = spec["schedule"].as_str().unwrap_or_default();
        let schedule = match schedule::parse(text) {
            Ok(schedule) => schedule,
            Err(why) => {
                self.warn("UnparseableSchedule", format!("unparseable schedule: {text:?} : {why}"));
                return None;
            }
        };
        let deadline = spec["startingDeadlineSeconds"].as_i64();
        let created = pods::time(&self.cron["metadata"]["creationTimestamp"])?;
        let last = pods::time(&self.status["lastScheduleTime"]);
        let mut from = last.map_or(created, |last| last.max(created));
        if let Some(secs) = deadline {
            from = from.max(self.now.saturating_sub(SignedDuration::from_secs(secs)).unwrap_or(from));
        }
        let next = |from: Timestamp| {
            let next = schedule.next(from, &zone)?;
            Some(Duration::try_from(next.duration_since(self.now)).unwrap_or_default() + SLACK)
        };
        let again = next(self.now);
        let Some((time, missed)) = schedule.latest(from, self.now, &zone) else { return again };
        if missed > MISSED_MAX {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.warn("TooManyMissedTimes", format!("{text} ({missed} missed)"));
        }
        if deadline.is_some_and(|secs| self.now.duration_since(time).as_secs() > secs) {
            let stamp = time.to_zoned(zone).strftime("%a, %d %b %Y %H:%M:%S %z").to_string();
            self.warn("MissSchedule", format!("Missed scheduled time to start a job: {stamp}"));
            return again;
        }
        let name = format!("{}-{}", meta::name(self.cron), time.as_second() / 60);
        let known = self.jobs.iter().any(|job| meta::name(job) == name);
        let fired = last.is_some_and(|last| last >= time);
        if known || fired {
            if known && !fired {
                self.status["lastScheduleTime"] = decode::format_time(time, 0).into();
            }
            return again;
        }
        match spec["concurrencyPolicy"].as_str() {
            Some("Forbid") if !self.active.is_empty() => {
                let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.normal("JobAlreadyActive", text);
                return again;
            }
            Some("Replace") => {
                let running: Vec<Arc<Value>> = (self.jobs.iter())
                    .filter(|job| self.active.iter().any(|entry| entry["uid"] == meta::uid(job)))
                    .cloned()
                    .collect();
                running.iter().for_each(|job| self.delete(job));
            }
            _ => {}
        }
        let job = self.job(&name, time, &zone);
        self.writes.push(Write::Create(Kind::Job, job));
        self.normal("SuccessfulCreate", format!("Created job {name}"));
        self.status["lastScheduleTime"] = decode::format_time(time, 0).into();
        again
    }

    fn job(&self, name: &str, time: Timestamp, zone: &TimeZone) -> Value {
        let template = &self.cron["spec"]["jobTemplate"];
        let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "spec": template["spec"],
            "metadata": {"name": name, "namespace": meta::namespace(self.cron),
                "ownerReferences": pods::owner_reference(Kind::CronJob, self.cron)}});
        for field in ["labels", "annotations"] {
            if let Some(value) = meta::at(template, &["metadata", field]) {
                job["metadata"][field] = value.clone();
            }
        }
        let stamp = time.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        let stamp = stamp.strip_suffix("+00:00").map_or(stamp.clone(), |plain| format!("{plain}Z"));
        meta::object_at(&mut job, &["metadata", "annotations"]).insert(SCHEDULED.into(), stamp.into());
        job
    }

    fn finish(mut self, again: Option<Duration>) -> Outcome {
        let mut status = match self.status {
            Value::Object(_) => self.status,
            _ => json!({}),
        };
        match self.active.is_empty() {
            true => drop(status.as_object_mut().map(|map| map.remove("active"))),
            false => status["active"] = self.active.into(),
        }
        let before = match self.cron["status"].is_object() {
            true => self.cron["status"].clone(),
            false => json!({}),
        };
        if status != before {
            let mut changed = self.cron.clone();
            changed["status"] = status;
            self.writes.push(Write::Status(Kind::CronJob, changed));
        }
        Outcome { writes: self.writes, again }
    }
}

fn reference(job: &Value) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "name": meta::name(job), "namespace": meta::namespace(job),
        "uid": meta::uid(job), "resourceVersion": meta::resource_version(job)})
}

#[cfg(test)]
mod tests;
