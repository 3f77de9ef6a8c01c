//! Jobs run no more pods at a time than they may, and what is finished stays finished.

use cache::Kind;
use resources::{Value, meta};

use super::{Change, Rule, Truth, condition, is_active, owner};

fn finished(job: &Value) -> Option<&'static str> {
    ["Complete", "Failed"].into_iter().find(|kind| condition(job, kind).is_some_and(|have| have["status"] == "True"))
}

pub struct Parallelism;

impl Rule for Parallelism {
    fn check(&mut self, truth: &Truth, change: &Change) -> Result<(), String> {
        let (Kind::Pod, Some(pod), None) = (change.kind, &change.after, &change.before) else { return Ok(()) };
        let Some((key, uid)) = owner(pod, Kind::Job) else { return Ok(()) };
        let Some(job) = truth.view.at(Kind::Job, &key).filter(|job| meta::uid(job) == uid) else { return Ok(()) };
        let active = truth.view.owned(Kind::Pod, &uid).filter(|pod| is_active(pod)).count() as u64;
        let most = job["spec"]["parallelism"].as_u64().unwrap_or(1);
        match active <= most + truth.doubtful() {
            true => Ok(()),
            false => Err(format!("job {key} has {active} active pods and may have {most}")),
        }
    }
}

pub struct Finished;

impl Rule for Finished {
    fn check(&mut self, _: &Truth, change: &Change) -> Result<(), String> {
        let (Kind::Job, Some(before), Some(after)) = (change.kind, &change.before, &change.after) else {
            return Ok(());
        };
        if meta::uid(before) != meta::uid(after) {
            return Ok(());
        }
        match (finished(before), finished(after)) {
            (Some(was), is) if is != Some(was) => Err(format!("job {} was {was} and is {is:?}", change.key)),
            (_, Some("Complete")) => {
                let (ok, wanted) =
                    (after["status"]["succeeded"].as_i64().unwrap_or(0), after["spec"]["completions"].as_i64());
                match wanted.is_none_or(|wanted| ok >= wanted) {
                    true => Ok(()),
                    false => Err(format!("job {} is complete with {ok} of {wanted:?} pods", change.key)),
                }
            }
            _ => Ok(()),
        }
    }
}
