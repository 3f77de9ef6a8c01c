//! Pods that wait for a node: which are worth a try, which were refused and wait for something that may help, and how long
//! each must not be tried again. Pure: time comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cache::Key;
use jiff::Timestamp;
use resources::{Value, meta};

use crate::rules::{Happened, RULES};

/// A pod is let wait for more important ones so often at most: none of them may ever come to its turn.
const YIELDS_MAX: u32 = 200;

#[derive(Debug, Clone)]
struct Waiting {
    pod: Arc<Value>,
    priority: i64,
    /// Rules that refused it; `None` while it is worth a try.
    refused: Option<Vec<&'static str>>,
    attempts: u32,
    not_before: Option<Timestamp>,
    yields: u32,
}

#[derive(Debug, Clone)]
pub struct Waiters {
    /// How long a pod that was refused is not tried again: at first, and at most.
    backoff: (Duration, Duration),
    all: BTreeMap<Key, Waiting>,
    /// Those worth a try, by priority.
    ready: BTreeMap<i64, BTreeSet<Key>>,
}

impl Waiters {
    pub fn new(backoff: (Duration, Duration)) -> Self {
        Self { backoff, all: BTreeMap::new(), ready: BTreeMap::new() }
    }

    fn set_ready(&mut self, key: &Key, priority: i64, ready: bool) {
        if ready {
            self.ready.entry(priority).or_default().insert(key.clone());
        } else if let Some(keys) = self.ready.get_mut(&priority) {
            keys.remove(key);
            if keys.is_empty() {
                self.ready.remove(&priority);
            }
        }
    }

    /// A pod that waits was seen; answers whether it is worth a try.
    pub fn seen(&mut self, key: &Key, pod: &Arc<Value>) -> bool {
        let priority = pod["spec"]["priority"].as_i64().unwrap_or(0);
        if let Some(have) = self.all.get_mut(key) {
            let same = meta::uid(&have.pod) == meta::uid(pod)
                && have.pod["spec"] == pod["spec"]
                && have.pod["metadata"]["labels"] == pod["metadata"]["labels"];
            have.pod = pod.clone();
            if same {
                return have.refused.is_none();
            }
            let old = have.priority;
            self.set_ready(key, old, false);
        }
        let fresh = Waiting { pod: pod.clone(), priority, refused: None, attempts: 0, not_before: None, yields: 0 };
        self.all.insert(key.clone(), fresh);
        self.set_ready(key, priority, true);
        true
    }

    /// It waits no more.
    pub fn forget(&mut self, key: &Key) {
        if let Some(gone) = self.all.remove(key) {
            self.set_ready(key, gone.priority, false);
        }
    }

    /// It was tried, and these rules refused it.
    pub fn refused(&mut self, key: &Key, rules: Vec<&'static str>, now: Timestamp) {
        let Some(waiting) = self.all.get_mut(key) else { return };
        let (first, most) = self.backoff;
        let wait = first.saturating_mul(1 << waiting.attempts.min(16)).min(most);
        waiting.attempts += 1;
        waiting.refused = Some(rules);
        waiting.not_before = now.checked_add(wait).ok();
        waiting.yields = 0;
        let priority = waiting.priority;
        self.set_ready(key, priority, false);
    }

    /// Something happened; answers whom it may help, who are worth a try from now on.
    pub fn wake(&mut self, happened: Happened) -> Vec<Key> {
        let mut woken = Vec::new();
        for (key, waiting) in &mut self.all {
            let helps = waiting.refused.as_ref().is_some_and(|rules| {
                rules.iter().any(|name| RULES.iter().any(|rule| rule.name() == *name && rule.may_help(happened)))
            });
            // Without any node nobody refused.
            let nobody = waiting.refused.as_ref().is_some_and(Vec::is_empty) && happened == Happened::NodeCame;
            if helps || nobody {
                waiting.refused = None;
                woken.push((key.clone(), waiting.priority));
            }
        }
        woken.iter().for_each(|(key, priority)| self.set_ready(key, *priority, true));
        woken.into_iter().map(|(key, _)| key).collect()
    }

    /// Why a pod is not tried now: how long it must wait.
    pub fn hold(&mut self, key: &Key, now: Timestamp) -> Option<Duration> {
        let waiting = self.all.get(key)?;
        if let Some(at) = waiting.not_before.filter(|at| *at > now) {
            return Some(Duration::try_from(at.duration_since(now)).unwrap_or(self.backoff.0));
        }
        let able = |key: &Key| {
            self.all
                .get(key)
                .is_some_and(|other| other.refused.is_none() && other.not_before.is_none_or(|at| at <= now))
        };
        let above = (waiting.priority.saturating_add(1))..;
        let yields = waiting.yields < YIELDS_MAX && self.ready.range(above).any(|(_, keys)| keys.iter().any(able));
        let waiting = self.all.get_mut(key)?;
        if yields {
            waiting.yields += 1;
            return Some(Duration::from_millis(1));
        }
        None
    }

    /// It is being tried.
    pub fn begin(&mut self, key: &Key) {
        if let Some(priority) = self.all.get(key).map(|waiting| waiting.priority) {
            self.set_ready(key, priority, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn waiters() -> Waiters {
        Waiters::new((Duration::from_secs(1), Duration::from_secs(10)))
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).unwrap()
    }

    fn pod(priority: i64) -> Arc<Value> {
        Arc::new(json!({"metadata": {"uid": "u"}, "spec": {"priority": priority}}))
    }

    #[test]
    fn refused_pods_wait_for_what_may_help_and_ever_longer() {
        let (mut waiters, key) = (waiters(), Key::new("d", "p"));
        assert!(waiters.seen(&key, &pod(0)));
        waiters.refused(&key, vec!["NodeResourcesFit"], at(0));
        assert!(!waiters.seen(&key, &pod(0)), "its own status is no reason");
        assert!(waiters.wake(Happened::VolumesChanged).is_empty());
        assert_eq!(waiters.wake(Happened::PodLeft), std::slice::from_ref(&key));
        assert_eq!(waiters.hold(&key, at(0)), Some(Duration::from_secs(1)));
        assert_eq!(waiters.hold(&key, at(1)), None);
        for (tried, wait) in [(1, 2), (10, 4), (20, 8), (40, 10), (60, 10)] {
            waiters.refused(&key, vec!["NodeResourcesFit"], at(tried));
            assert_eq!(waiters.hold(&key, at(tried)), Some(Duration::from_secs(wait)), "at {tried}");
        }
        assert!(waiters.seen(&key, &pod(7)), "another spec is worth a try");
    }

    #[test]
    fn important_pods_go_first() {
        let (mut waiters, low, high) = (waiters(), Key::new("d", "a"), Key::new("d", "z"));
        waiters.seen(&low, &pod(0));
        waiters.seen(&high, &pod(10));
        assert!(waiters.hold(&low, at(0)).is_some());
        assert!(waiters.hold(&high, at(0)).is_none());
        waiters.refused(&high, vec!["NodeResourcesFit"], at(0));
        assert!(waiters.hold(&low, at(0)).is_none(), "what cannot be placed holds nobody up");
    }
}
