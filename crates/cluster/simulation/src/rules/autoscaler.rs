//! An autoscaler asks for no more and no less than its bounds; and what pods use, for it to read.

use std::collections::BTreeMap;
use std::time::Duration;

use cache::Kind;
use controllers::Reading;
use resources::{Value, meta};

use super::{Change, Rule, Truth, is_active, is_ready};

pub struct Bounds;

fn number(object: &Value, path: &[&str]) -> Option<i64> {
    meta::at(object, path).and_then(Value::as_i64)
}

impl Rule for Bounds {
    fn check(&mut self, _: &Truth, change: &Change) -> Result<(), String> {
        let (Kind::HorizontalPodAutoscaler, Some(after)) = (change.kind, &change.after) else { return Ok(()) };
        let desired = |object: &Value| number(object, &["status", "desiredReplicas"]);
        let before = change.before.as_deref().and_then(desired);
        // Zero is what it says of a target that people have switched off.
        let Some(now) = desired(after).filter(|now| Some(*now) != before && *now != 0) else { return Ok(()) };
        let least = number(after, &["spec", "minReplicas"]).unwrap_or(1);
        let most = number(after, &["spec", "maxReplicas"]).unwrap_or(1);
        match (least..=most).contains(&now) {
            true => Ok(()),
            false => Err(format!("autoscaler {} wants {now} replicas of {least} to {most}", change.key)),
        }
    }
}

/// What a pod uses: the load of its application is shared by those that are ready.
pub fn reading(truth: &Truth, namespace: &str, name: &str) -> Option<Reading> {
    let pod = truth.view.get(Kind::Pod, namespace, name)?;
    let app = meta::str_at(pod, &["metadata", "labels", "app"]);
    let works =
        |pod: &Value| is_active(pod) && is_ready(pod) && meta::str_at(pod, &["metadata", "labels", "app"]) == app;
    if meta::str_at(pod, &["status", "phase"]) != "Running" {
        return None;
    }
    let workers = truth.view.in_namespace(Kind::Pod, namespace).filter(|pod| works(pod)).count() as i64;
    let load = truth.load.get(app).copied().unwrap_or(0);
    let share = if works(pod) { load / workers.max(1) } else { 0 };
    let containers = BTreeMap::from([("main".to_owned(), (share, 32 << 20))]);
    Some(Reading { at: client::now(), window: Duration::from_secs(15), containers })
}
