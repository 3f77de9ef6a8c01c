//! Which node a pod runs on.
//!
//! * `facts` — pods and nodes as the rules see them: numbers and lists, read once
//! * `rules` — one rule a file: which nodes can take a pod ([`rules::FILTERS`]), and which of them is best ([`rules::SCORES`])
//! * `preempt` — which pods of lower priority would have to go
//! * `schedule` — the scheduler as a part of the cluster: pods in, bindings and events out
//!
//! Pure: the same view gives the same answer. A decision under way is remembered until the view shows it.

mod facts;
mod preempt;
pub mod rules;
mod schedule;

pub use facts::{Facts, NodeFacts, PodFacts, Resources};
pub use schedule::Scheduler;
