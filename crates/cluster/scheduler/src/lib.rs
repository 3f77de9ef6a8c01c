//! Which node a pod runs on.
//!
//! * `amounts`, `pods`, `nodes`, `groups` — pods and nodes as the rules see them: numbers and lists, read once
//! * `facts` — all of them, kept up to date by what changes
//! * `rules` — one rule a file: which nodes can take a pod, and which of them is best
//! * `profile` — how a scheduler of some name decides: weights, strategies, defaults; `config` — what a file says of that
//! * `place` — asks the rules about nodes
//! * `preempt` — which pods of lower priority would have to go
//! * `queue` — pods that wait, for how long and for what
//! * `schedule` — the scheduler as a part of the cluster: pods in, bindings and events out
//!
//! Pure: the same changes give the same answer. A decision under way is remembered until the view shows it.

mod amounts;
mod config;
mod facts;
mod groups;
mod nodes;
mod place;
mod pods;
mod preempt;
mod profile;
mod queue;
mod rules;
mod schedule;
#[cfg(test)]
mod tests;

pub use amounts::{Resources, amounts, requests};
pub use config::{Config, parse as parse_config};
pub use profile::{Defaults, Profile, Strategy};
pub use schedule::Scheduler;
