//! What must hold at every step, one promise a file. A rule sees the truth (not what some part believes) after each write.

mod autoscaler;
mod bounds;
mod budgets;
mod cron;
mod daemons;
mod identity;
mod jobs;
mod places;
mod rollout;
mod subnets;

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::{Key, Kind, View};
use resources::{Value, meta};
use tokio::time::{Duration, Instant};

pub use autoscaler::reading;
pub use bounds::Bounds;
pub use identity::Running;

/// One write.
#[derive(Debug)]
pub struct Change {
    pub kind: Kind,
    pub key: Key,
    pub before: Option<Arc<Value>>,
    pub after: Option<Arc<Value>>,
}

/// How long a part may believe what is no longer true: the most that answers and changes are late, and a relist.
pub const STALE: Duration = Duration::from_secs(90);

/// The cluster as it is.
pub struct Truth {
    pub view: View,
    pub running: Running,
    /// When an answer was lost: whoever asked does not know whether the thing was done, and may do it again.
    pub doubts: Vec<Instant>,
    /// Pods do not end or fall ill by themselves, and nodes stay: then nobody but the controllers makes pods unavailable.
    pub peaceful: bool,
    bounds: BTreeMap<Key, Bounds>,
    /// When a controller was last started anew and knew nothing.
    pub restarted: Option<Instant>,
    /// What the pods of an application have to do together, in thousandths of a processor.
    pub load: BTreeMap<String, i64>,
}

impl Truth {
    pub fn new(_: Instant) -> Self {
        Self {
            view: View::default(),
            running: Running::default(),
            doubts: Vec::new(),
            peaceful: true,
            bounds: BTreeMap::new(),
            restarted: None,
            load: BTreeMap::new(),
        }
    }

    /// Answers lost lately.
    pub fn doubtful(&self) -> u64 {
        let now = Instant::now();
        self.doubts.iter().rev().take_while(|at| now - **at < STALE).count() as u64
    }

    pub fn note(&mut self, change: &Change) {
        if change.kind == Kind::Deployment
            && let Some(deployment) = &change.after
        {
            self.bounds.entry(change.key.clone()).or_default().note(deployment);
        }
    }

    /// What a deployment's spec has allowed lately.
    pub fn bounds(&self, deployment: &Key) -> Option<&Bounds> {
        self.bounds.get(deployment)
    }
}

/// A promise.
pub trait Rule: Send {
    /// Looks at a write that has just been made.
    fn check(&mut self, truth: &Truth, change: &Change) -> Result<(), String>;
}

/// All of them.
pub fn all() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(rollout::Surge),
        Box::new(rollout::Available::default()),
        Box::new(identity::Names),
        Box::new(places::Room),
        Box::new(places::OnceBound),
        Box::new(jobs::Parallelism),
        Box::new(jobs::Finished),
        Box::new(cron::Forbidden),
        Box::new(daemons::OneOnANode),
        Box::new(budgets::Budgets),
        Box::new(autoscaler::Bounds),
        Box::new(subnets::OncePerNode),
    ]
}

pub fn is_ended(pod: &Value) -> bool {
    matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

pub fn is_active(pod: &Value) -> bool {
    !is_ended(pod) && !meta::is_terminating(pod)
}

pub fn is_ready(object: &Value) -> bool {
    condition(object, "Ready").is_some_and(|condition| condition["status"] == "True")
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    meta::list_at(object, &["status", "conditions"]).iter().find(|condition| condition["type"] == kind)
}

/// The controller of an object, if it is of this kind.
pub fn owner(object: &Value, kind: Kind) -> Option<(Key, String)> {
    let owner = meta::owners(object).into_iter().find(|owner| owner.controller && owner.kind == kind.as_str())?;
    Some((Key::new(meta::namespace(object), owner.name), owner.uid))
}
