//! Ports on the node: each is one pod's alone.

use super::Refusal;
use crate::{Facts, NodeFacts, PodFacts};

pub fn filter(pod: &PodFacts, node: &NodeFacts, _: &Facts<'_>) -> Result<(), Refusal> {
    let clash = |(protocol, address, port): &(String, String, i64)| {
        node.pods
            .iter()
            .flat_map(|other| &other.ports)
            .any(|(p, a, n)| p == protocol && n == port && (a == address || a.is_empty() || address.is_empty()))
    };
    match pod.ports.iter().any(clash) {
        false => Ok(()),
        true => Err(Refusal::curable("node(s) didn't have free ports for the requested pod ports")),
    }
}
