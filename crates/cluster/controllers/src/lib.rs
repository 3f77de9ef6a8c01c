//! What keeps declared things true: one module a controller, each a pure function from a view and a time to writes.
//!
//! A controller never asks the API and never waits; [`cache::Driver`] runs it when something that concerns it changes. What
//! several controllers need to know about pods is in `pods`.

mod deployment;
mod names;
mod pods;
mod replicaset;

use cache::Part;

pub use deployment::Deployments;
pub use names::Names;
pub use replicaset::ReplicaSets;

/// All controllers. `seed` decides the names of what they make.
pub fn all(seed: u64) -> Vec<Box<dyn Part>> {
    vec![Box::new(ReplicaSets::new(Names::new(seed))), Box::new(Deployments)]
}
