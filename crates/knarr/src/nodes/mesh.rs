//! Keeps this machine's way to the pods of the other nodes as the Node objects say.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cache::{Kind, View};
use network::{Mesh, Own, Peer, Subnet};
use resources::{Value, meta};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tracing::warn;

/// How often what others may have changed is put back.
const REPAIR: Duration = Duration::from_secs(30);

/// What a node is to others. Pure; `None` without an address or a subnet.
fn peer(node: &Value) -> Option<Peer> {
    let addresses = meta::list_at(node, &["status", "addresses"]);
    let address =
        addresses.iter().find(|address| address["type"] == "InternalIP")?["address"].as_str()?.parse().ok()?;
    let all = meta::list_at(node, &["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
    let subnets: Vec<Subnet> = all.filter_map(|text| text.parse().ok()).collect();
    (!subnets.is_empty()).then_some(Peer { address, subnets })
}

/// All machines of a cluster say the same number on the wire: it follows from the authority.
fn number(authority: &str) -> u32 {
    let digest = Sha256::digest(authority.as_bytes());
    u32::from_be_bytes([0, digest[0], digest[1], digest[2]])
}

/// What leads to other nodes' pods.
pub struct Ways {
    mesh: Mesh,
    node: String,
    address: IpAddr,
    cluster: Vec<Subnet>,
}

impl Ways {
    pub fn new(tag: &str, authority: &str, node: &str, address: IpAddr, cluster: &[String]) -> Self {
        let cluster = cluster.iter().filter_map(|text| text.parse().ok()).collect();
        Self { mesh: Mesh::new(tag, number(authority)), node: node.to_owned(), address, cluster }
    }

    /// Keeps them right until dropped. `changes` tells of nodes; they stay when this ends: pods run on.
    pub async fn keep(mut self, view: Arc<RwLock<View>>, mut changes: mpsc::UnboundedReceiver<(Kind, Arc<Value>)>) {
        let mut told = None;
        loop {
            let now = {
                let view = view.read().unwrap_or_else(PoisonError::into_inner);
                let own = view.get(Kind::Node, "", &self.node).and_then(|node| peer(node));
                let others = view.list(Kind::Node).filter(|node| meta::name(node) != self.node);
                view.has_listed(Kind::Node).then(|| (own, others.filter_map(|node| peer(node)).collect::<Vec<_>>()))
            };
            // Without a subnet of its own there are no pods here that could be answered.
            if let Some((Some(own), peers)) = now {
                let own = Own { address: self.address, subnets: own.subnets };
                let applied = tokio::task::spawn_blocking(move || {
                    let outcome = self.mesh.apply(&own, &peers, &self.cluster);
                    (self, outcome)
                });
                let Ok((back, outcome)) = applied.await else { return };
                self = back;
                let problem = outcome.err().map(|error| crate::failure::chain(&error));
                if problem != told
                    && let Some(error) = &problem
                {
                    warn!(error, "the pods of other nodes cannot be reached; trying again");
                }
                told = problem;
            }
            match tokio::time::timeout(REPAIR, changes.recv()).await {
                Ok(None) => return,
                // Changes that come together are one.
                Ok(Some(_)) => while changes.try_recv().is_ok() {},
                Err(_) => {}
            }
        }
    }

    /// Takes them away.
    pub fn remove(&mut self) {
        if let Err(error) = self.mesh.remove(&self.cluster) {
            warn!(error = crate::failure::chain(&error), "cannot remove the routes to other nodes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_with_address_and_subnet_are_peers() {
        let node = |addresses: Value, subnets: Value| {
            json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": subnets},
            "status": {"addresses": addresses}})
        };
        let own = json!([{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.2"}]);
        let found = peer(&node(own.clone(), json!(["10.42.4.0/22", "bad"]))).unwrap();
        assert_eq!(
            found,
            Peer { address: "10.0.0.2".parse().unwrap(), subnets: vec!["10.42.4.0/22".parse().unwrap()] }
        );
        assert_eq!(peer(&node(own, json!([]))), None);
        assert_eq!(peer(&node(json!([]), json!(["10.42.4.0/22"]))), None);
        assert!(number("a") < 1 << 24 && number("a") != number("b"));
    }
}
