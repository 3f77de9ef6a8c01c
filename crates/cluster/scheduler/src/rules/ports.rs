//! Ports on the node: each is one pod's alone.

use super::{Happened, Judge, Refusal, Rule};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::{HostPort, PodFacts};
use crate::profile::Profile;

pub struct Ports;

struct Wants<'a>(&'a [HostPort]);

impl Rule for Ports {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, _: Facts<'a>, _: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        (!pod.ports.is_empty()).then(|| Box::new(Wants(&pod.ports)) as Box<dyn Judge>)
    }

    fn may_help(&self, happened: Happened) -> bool {
        matches!(happened, Happened::NodeCame | Happened::PodLeft)
    }
}

impl Judge for Wants<'_> {
    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        if node.with_ports == 0 {
            return Ok(());
        }
        let taken = node.all_pods().flat_map(|other| &other.ports);
        let clashes = |(protocol, address, port): &HostPort, (p, a, n): &HostPort| {
            p == protocol && n == port && (a == address || a.is_empty() || address.is_empty())
        };
        match taken.into_iter().any(|other| self.0.iter().any(|own| clashes(own, other))) {
            false => Ok(()),
            true => Err(Refusal::curable("node(s) didn't have free ports for the requested pod ports")),
        }
    }
}
