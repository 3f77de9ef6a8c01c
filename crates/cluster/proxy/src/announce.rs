//! Answers on the wire for addresses of the pool that a controller has given to this node: they stand on the services' link, and the
//! kernel says to whoever asks that they are here. What comes for them is led on by the services' rules as everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cache::{Key, Kind, View};
use linux::netlink::Socket;
use resources::{Value, meta};
use tokio::sync::{mpsc, watch};

use crate::{Block, ground};

/// What it has to hear of.
pub const KINDS: &[Kind] = &[Kind::Service];
/// How often what others may have changed is put back.
const REPAIR: Duration = Duration::from_secs(30);

pub struct Announcer {
    annotation: &'static str,
    node: String,
    address: IpAddr,
    /// The services' link.
    link: String,
    range: Block,
}

impl Announcer {
    /// `annotation` names the node that a service's addresses are announced by; at `address` this machine's link is, where others hear of
    /// new ones; `range` is the services' own, which stands on their link for other reasons.
    pub fn new(annotation: &'static str, tag: &str, node: &str, address: IpAddr, range: Block) -> Self {
        Self { annotation, node: node.to_owned(), address, link: ground::link_name(tag), range }
    }

    /// Follows the view until `changes` ends. Addresses stay then: what runs goes on.
    pub async fn run(
        self,
        view: Arc<RwLock<View>>,
        mut changes: mpsc::UnboundedReceiver<(Kind, Arc<Value>)>,
        mut listed: watch::Receiver<bool>,
    ) {
        if listed.wait_for(|listed| *listed).await.is_err() {
            return;
        }
        let mut announced: BTreeMap<Key, Vec<Ipv4Addr>> = {
            let view = view.read().unwrap_or_else(PoisonError::into_inner);
            view.list(Kind::Service).map(|service| (Key::of(service), self.addresses(service))).collect()
        };
        loop {
            announced.retain(|_, addresses| !addresses.is_empty());
            let wanted = announced.values().flatten().copied().collect();
            if let Err(error) = tokio::task::block_in_place(|| self.apply(&wanted)) {
                tracing::warn!(%error, "cannot announce the addresses of services; trying again");
            }
            let repair = tokio::time::Instant::now() + REPAIR;
            // Most services have no such address: their changes are nothing to look after.
            loop {
                let change = match tokio::time::timeout_at(repair, changes.recv()).await {
                    Ok(None) => return,
                    Ok(Some((_, service))) => Key::of(&service),
                    Err(_) => break,
                };
                let now = {
                    let view = view.read().unwrap_or_else(PoisonError::into_inner);
                    view.at(Kind::Service, &change).map(|service| self.addresses(service)).unwrap_or_default()
                };
                if announced.get(&change).map_or(&[][..], Vec::as_slice) != now {
                    announced.insert(change, now);
                    break;
                }
            }
        }
    }

    /// What this node announces for a service. Pure.
    fn addresses(&self, service: &Value) -> Vec<Ipv4Addr> {
        let announcer = meta::at(service, &["metadata", "annotations", self.annotation]).and_then(Value::as_str);
        if service["spec"]["type"] != "LoadBalancer" || announcer != Some(&self.node) {
            return Vec::new();
        }
        let list = meta::list_at(service, &["status", "loadBalancer", "ingress"]).iter();
        let addresses = list.filter_map(|entry| entry["ip"].as_str()?.parse::<Ipv4Addr>().ok());
        addresses.filter(|address| !self.range.contains((*address).into())).collect()
    }

    fn apply(&self, wanted: &BTreeSet<Ipv4Addr>) -> linux::Result<()> {
        let mut route = Socket::route()?;
        let Some(link) = route.link(&self.link)? else { return Ok(()) };
        let all = route.addresses()?;
        let have: BTreeSet<Ipv4Addr> = all
            .iter()
            .filter(|(index, address, prefix)| *index == link.index && *prefix == 32 && !self.range.contains(*address))
            .filter_map(|(_, address, _)| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            })
            .collect();
        for address in have.difference(wanted) {
            route.delete_address(link.index, (*address).into(), 32)?;
        }
        let new: Vec<Ipv4Addr> = wanted.difference(&have).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let outward = all.iter().find(|(_, address, _)| *address == self.address).map(|(index, _, _)| *index);
        let outward = route.links()?.into_iter().find(|link| Some(link.index) == outward);
        for address in new {
            route.add_address(link.index, address.into(), 32)?;
            if let Some((index, mac)) = outward.as_ref().and_then(|link| Some((link.index, link.mac?))) {
                linux::net::announce(index, mac, address)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_announces_what_is_given_to_it_and_nothing_of_the_range() {
        let range = Block::parse("10.96.0.0/16").unwrap();
        let announcer = Announcer::new("by", "0123abcd", "n", "192.0.2.1".parse().unwrap(), range);
        let service = |kind: &str, by: &str, ip: &str| {
            json!({"metadata": {"annotations": {"by": by}}, "spec": {"type": kind},
                "status": {"loadBalancer": {"ingress": [{"ip": ip}]}}})
        };
        let check = |service: Value, wanted: &[&str]| {
            let all: Vec<String> = announcer.addresses(&service).iter().map(ToString::to_string).collect();
            assert_eq!(all, wanted, "{service}");
        };
        check(service("LoadBalancer", "n", "192.0.2.9"), &["192.0.2.9"]);
        check(service("LoadBalancer", "m", "192.0.2.9"), &[]);
        check(service("ClusterIP", "n", "192.0.2.9"), &[]);
        check(service("LoadBalancer", "n", "10.96.0.10"), &[]);
        check(service("LoadBalancer", "n", "2001:db8::9"), &[]);
    }
}
