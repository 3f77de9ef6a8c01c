//! What keeps declared things true: one module a controller, each a pure function from a view and a time to writes.
//!
//! A controller never asks the API and never waits; [`cache::Driver`] runs it when something that concerns it changes. What
//! several controllers need to know about pods is in `pods`.

mod autoscaler;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod job;
mod load_balancer;
mod names;
mod node_ipam;
mod nodes;
mod pods;
mod replicaset;
mod revisions;
mod statefulset;
#[cfg(test)]
mod testing;
mod volumes;

use cache::Part;

pub use autoscaler::{Autoscalers, Reading};
pub use cronjob::CronJobs;
pub use daemonset::DaemonSets;
pub use deployment::Deployments;
pub use disruption::DisruptionBudgets;
pub use endpoints::{EndpointSlices, LegacyEndpoints, MirroredSlices};
pub use job::Jobs;
pub use load_balancer::{ANNOUNCED_BY, LoadBalancers, PoolRange};
pub use names::Names;
pub use node_ipam::{Cidr, NodeIpam};
pub use nodes::{NodeLifecycle, PodGarbage, TaintEviction};
pub use replicaset::ReplicaSets;
pub use statefulset::StatefulSets;
pub use volumes::{VolumeBinder, storage_class};

/// All controllers that need no settings. `seed` decides the names of what they make.
pub fn all(seed: u64) -> Vec<Box<dyn Part>> {
    // Each has a sequence of its own, so that what one makes does not depend on how busy another is.
    let names = |number: u64| Names::new(seed.wrapping_add(number.wrapping_mul(0xd1b5_4a32_d192_ed03)));
    vec![
        Box::new(ReplicaSets::new(names(0))),
        Box::new(Deployments),
        Box::new(DaemonSets::new(names(1))),
        Box::new(StatefulSets),
        Box::new(ReplicaSets::of_controllers(names(2))),
        Box::new(Jobs::new(names(3))),
        Box::new(CronJobs),
        Box::new(DisruptionBudgets),
        Box::new(NodeLifecycle::default()),
        Box::new(TaintEviction::default()),
        Box::new(PodGarbage::default()),
        Box::new(VolumeBinder),
        Box::new(EndpointSlices::new(Names::new(seed ^ 1))),
        Box::new(MirroredSlices::new(Names::new(seed ^ 2))),
        Box::new(LegacyEndpoints::default()),
    ]
}
