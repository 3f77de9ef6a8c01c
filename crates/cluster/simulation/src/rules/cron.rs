//! A CronJob that forbids it never has two of its jobs at work, and starts each of its times once.

use cache::Kind;
use resources::{Value, meta};

use super::{Change, Rule, Truth, condition, owner};

fn at_work(job: &Value) -> bool {
    let ended = |kind: &str| condition(job, kind).is_some_and(|have| have["status"] == "True");
    !meta::is_terminating(job) && !ended("Complete") && !ended("Failed")
}

pub struct Forbidden;

impl Rule for Forbidden {
    fn check(&mut self, truth: &Truth, change: &Change) -> Result<(), String> {
        let (Kind::Job, Some(job), None) = (change.kind, &change.after, &change.before) else { return Ok(()) };
        let Some((key, uid)) = owner(job, Kind::CronJob) else { return Ok(()) };
        let Some(cron) = truth.view.at(Kind::CronJob, &key).filter(|cron| meta::uid(cron) == uid) else {
            return Ok(());
        };
        let jobs: Vec<_> = truth.view.owned(Kind::Job, &uid).collect();
        let time = |job: &Value| {
            meta::str_at(job, &["metadata", "annotations", "batch.kubernetes.io/cronjob-scheduled-timestamp"])
                .to_owned()
        };
        if jobs.iter().filter(|other| time(other) == time(job)).count() > 1 {
            return Err(format!("cron job {key} started {} twice", time(job)));
        }
        let busy = jobs.iter().filter(|job| at_work(job)).count();
        match cron["spec"]["concurrencyPolicy"] == "Forbid" && busy > 1 {
            false => Ok(()),
            true => Err(format!("cron job {key} forbids concurrency and has {busy} jobs at work")),
        }
    }
}
