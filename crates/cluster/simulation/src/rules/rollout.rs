//! Rollouts respect their bounds: never more pods asked for than the surge allows, and while nothing else happens to pods
//! never fewer available than promised.

use std::collections::BTreeMap;

use cache::Kind;
use resources::{Value, meta};
use tokio::time::Instant;

use super::{Change, Rule, STALE, Truth, condition, is_active, is_ready, owner};

fn wants(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(0)
}

/// The replica sets of a deployment never ask for more pods together than its surge allows.
pub struct Surge;

impl Rule for Surge {
    fn check(&mut self, truth: &Truth, change: &Change) -> Result<(), String> {
        let (Kind::ReplicaSet, Some(after)) = (change.kind, &change.after) else { return Ok(()) };
        let before = change.before.as_ref().map_or(0, |before| wants(before));
        if wants(after) <= before {
            return Ok(());
        }
        let Some((key, uid)) = owner(after, Kind::Deployment) else { return Ok(()) };
        let Some(bounds) = truth.bounds(&key) else { return Ok(()) };
        let sum: i64 = truth.view.owned(Kind::ReplicaSet, &uid).map(|set| wants(set)).sum();
        match sum <= bounds.most() {
            true => Ok(()),
            false => Err(format!(
                "deployment {key} asks for {sum} pods in all its replica sets, and at most {} are allowed",
                bounds.most()
            )),
        }
    }
}

/// In peaceful times a deployment that once had enough available pods keeps them.
#[derive(Default)]
pub struct Available {
    /// Deployments that had as many as promised.
    reached: BTreeMap<String, bool>,
    /// When people evicted a deployment's pods: who took others away at that moment may have counted on them still.
    evicted: BTreeMap<String, Vec<Instant>>,
    /// When a set was last asked for fewer pods, by its uid, and when each pod became ready: a set that was told to be smaller
    /// for the pods that were not ready takes them away though they have become ready since, as upstream's does.
    lowered: BTreeMap<String, Instant>,
    ready: BTreeMap<String, Instant>,
}

fn available(truth: &Truth, deployment_uid: &str) -> i64 {
    let sets = truth.view.owned(Kind::ReplicaSet, deployment_uid);
    let pods = sets.flat_map(|set| truth.view.owned(Kind::Pod, meta::uid(set)));
    pods.filter(|pod| is_active(pod) && is_ready(pod)).count() as i64
}

impl Rule for Available {
    fn check(&mut self, truth: &Truth, change: &Change) -> Result<(), String> {
        if let (Kind::ReplicaSet, Some(before), Some(after)) = (change.kind, &change.before, &change.after)
            && wants(after) < wants(before)
        {
            self.lowered.insert(meta::uid(after).to_owned(), Instant::now());
        }
        if change.kind != Kind::Pod {
            return Ok(());
        }
        let Some(pod) = change.after.as_ref().or(change.before.as_ref()) else { return Ok(()) };
        if change.after.as_ref().is_some_and(|pod| is_ready(pod)) {
            self.ready.entry(meta::uid(pod).to_owned()).or_insert_with(Instant::now);
        }
        let became_ready = match change.after.as_ref().is_some_and(|pod| is_active(pod) && is_ready(pod)) {
            true => None,
            false => self.ready.remove(meta::uid(pod)),
        };
        if !truth.peaceful {
            return Ok(());
        }
        let Some(set) = Some(pod).and_then(|pod| owner(pod, Kind::ReplicaSet)) else { return Ok(()) };
        let Some(set) = truth.view.at(Kind::ReplicaSet, &set.0) else { return Ok(()) };
        let Some((key, uid)) = owner(set, Kind::Deployment) else { return Ok(()) };
        let Some(deployment) = truth.view.at(Kind::Deployment, &key).filter(|one| meta::uid(one) == uid) else {
            return Ok(());
        };
        if meta::is_terminating(deployment) || deployment["spec"]["strategy"]["type"] == "Recreate" {
            return Ok(());
        }
        let (least, now) = (truth.bounds(&key).map_or(0, |bounds| bounds.least()), available(truth, &uid));
        // A pod that ends is a fall; one that is not ready yet, or a spec that asks for more, is none.
        let stood = change.before.as_ref().is_some_and(|pod| is_active(pod) && is_ready(pod));
        let ends = change.after.as_ref().is_none_or(|pod| !is_active(pod));
        // People who evict a pod have asked for it.
        let asked = change.after.as_ref().is_some_and(|pod| condition(pod, "DisruptionTarget").is_some());
        let evicted = self.evicted.entry(uid.clone()).or_default();
        if stood && ends && asked {
            evicted.push(Instant::now());
        }
        evicted.retain(|at| at.elapsed() < STALE);
        let reached = self.reached.entry(uid).or_default();
        if now >= least {
            *reached = true;
            return Ok(());
        }
        let late = became_ready.is_some_and(|at| self.lowered.get(meta::uid(set)).is_some_and(|lowered| at > *lowered));
        let falls = stood && ends && !asked && !late && now + (evicted.len() as i64) < least;
        match *reached && falls {
            true => Err(format!("deployment {key} has {now} available pods, and at least {least} are promised")),
            false => {
                *reached = false;
                Ok(())
            }
        }
    }
}
