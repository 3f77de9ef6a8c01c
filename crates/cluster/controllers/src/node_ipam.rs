//! Every node gets a part of the cluster's subnets for its pods, once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;

/// A node's part: 1,022 pods, or a /64.
const NODE_PREFIX: (u8, u8) = (22, 64);

/// An address and the length of its prefix; host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    fn bits(&self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn number(&self) -> u128 {
        match self.address {
            IpAddr::V4(address) => u32::from(address).into(),
            IpAddr::V6(address) => address.into(),
        }
    }

    /// The part number `at` of those with a longer prefix.
    fn part(&self, prefix: u8, at: u128) -> Option<Self> {
        let parts = 1u128.checked_shl((prefix - self.prefix).into()).unwrap_or(u128::MAX);
        let number = (at < parts).then(|| self.number() + (at << (self.bits() - prefix)))?;
        let address = match self.address {
            IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from(number).into(),
        };
        Some(Self { address, prefix })
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        let host = self.bits() - self.prefix.min(other.prefix);
        let cut = |cidr: &Self| cidr.number().checked_shr(host.into()).unwrap_or(0);
        self.address.is_ipv4() == other.address.is_ipv4() && cut(self) == cut(other)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no subnet: expected an address and a prefix length, as 10.42.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let cidr = Self {
            address: address.parse().map_err(|_| bad())?,
            prefix: prefix.parse().ok().filter(|_| prefix.bytes().all(|b| b.is_ascii_digit())).ok_or_else(bad)?,
        };
        let host = cidr.bits().checked_sub(cidr.prefix).ok_or_else(bad)?;
        let all = 1u128.checked_shl(host.into()).map_or(u128::MAX, |size| size - 1);
        if cidr.number() & all != 0 {
            return Err(format!("{text:?} is no subnet: it has bits beyond its prefix"));
        }
        Ok(cidr)
    }
}

/// The controller that upstream calls `node-ipam-controller`.
pub struct NodeIpam {
    /// One of each family at most.
    cluster: Vec<Cidr>,
    /// What was given and what the view does not show yet.
    given: BTreeMap<String, Vec<Cidr>>,
}

impl NodeIpam {
    pub fn new(cluster: Vec<Cidr>) -> Self {
        Self { cluster, given: BTreeMap::new() }
    }

    /// The first part of a subnet that nobody has.
    fn free(cluster: &Cidr, taken: &[Cidr]) -> Option<Cidr> {
        let wanted = if cluster.address.is_ipv4() { NODE_PREFIX.0 } else { NODE_PREFIX.1 };
        let prefix = wanted.max(cluster.prefix);
        // Among one more part than is taken, one is free.
        (0..=taken.len() as u128)
            .map_while(|at| cluster.part(prefix, at))
            .find(|part| !taken.iter().any(|other| other.overlaps(part)))
    }
}

/// The subnets that a node has.
fn subnets(node: &Value) -> Vec<Cidr> {
    let all = meta::list_at(node, &["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
    all.chain([meta::str_at(node, &["spec", "podCIDR"])]).filter_map(|text| text.parse().ok()).collect()
}

impl Part for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Node]
    }

    fn keys(&self, view: &View, _kind: Kind, object: &Value) -> Vec<Key> {
        match view.at(Kind::Node, &Key::of(object)) {
            Some(_) => vec![Key::of(object)],
            // Its part may be what another one waits for.
            None => view.list(Kind::Node).filter(|node| subnets(node).is_empty()).map(|node| Key::of(node)).collect(),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, _now: Timestamp) -> Outcome {
        self.given.retain(|name, _| view.get(Kind::Node, "", name).is_some_and(|node| subnets(node).is_empty()));
        let Some(node) = view.at(Kind::Node, key) else { return Outcome::default() };
        if !subnets(node).is_empty() {
            return Outcome::default();
        }
        if !self.given.contains_key(&key.name) {
            let mut taken: Vec<Cidr> = view.list(Kind::Node).flat_map(|node| subnets(node)).collect();
            taken.extend(self.given.values().flatten());
            taken.sort();
            taken.dedup();
            let parts: Option<Vec<Cidr>> = self.cluster.iter().map(|cluster| Self::free(cluster, &taken)).collect();
            let Some(parts) = parts else {
                let text = format!("Node {} status is now: CIDRNotAvailable", key.name);
                return Outcome::of(vec![Write::normal(Kind::Node, node, "CIDRNotAvailable", text)]);
            };
            self.given.insert(key.name.clone(), parts);
        }
        let parts: Vec<String> = self.given[&key.name].iter().map(Cidr::to_string).collect();
        let Some(first) = parts.first() else { return Outcome::default() };
        let patch = json!({"spec": {"podCIDR": first, "podCIDRs": parts}});
        Outcome::of(vec![Write::Merge { kind: Kind::Node, key: key.clone(), sub: "", patch }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, revision: u64, subnet: &str) -> Value {
        let mut node = json!({"metadata": {"name": name, "uid": name, "resourceVersion": revision.to_string()}});
        if !subnet.is_empty() {
            node["spec"] = json!({"podCIDR": subnet, "podCIDRs": [subnet]});
        }
        node
    }

    fn given(ipam: &mut NodeIpam, view: &View, name: &str) -> String {
        match ipam.reconcile(view, &Key::new("", name), Timestamp::UNIX_EPOCH).writes.as_slice() {
            [] => "nothing".into(),
            [Write::Merge { patch, .. }] => {
                let all = patch["spec"]["podCIDRs"].as_array().unwrap();
                all.iter().map(|part| part.as_str().unwrap()).collect::<Vec<_>>().join(" ")
            }
            [Write::Event { reason, .. }] => reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_subnet_reads_back_and_has_no_host_bits() {
        for text in ["10.42.0.0/16", "0.0.0.0/0", "fd00:1::/48", "10.1.2.3/32"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        for bad in ["10.42.0.1/16", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "x/8", "fd00::1/64", ""] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_two_nodes_have_one_part_and_a_part_comes_back() {
        let mut ipam = NodeIpam::new(vec!["10.42.0.0/20".parse().unwrap()]);
        let mut view = View::default();
        view.put(Kind::Node, node("a", 1, "10.42.4.0/22"));
        for name in ["b", "c", "d", "e"] {
            view.put(Kind::Node, node(name, 2, ""));
        }
        assert_eq!(given(&mut ipam, &view, "a"), "nothing");
        assert_eq!(given(&mut ipam, &view, "b"), "10.42.0.0/22");
        assert_eq!(given(&mut ipam, &view, "c"), "10.42.8.0/22", "b's is not in the view yet");
        assert_eq!(given(&mut ipam, &view, "b"), "10.42.0.0/22", "the same when it is asked again");
        assert_eq!(given(&mut ipam, &view, "d"), "10.42.12.0/22");
        assert_eq!(given(&mut ipam, &view, "e"), "CIDRNotAvailable");
        let gone = node("c", 3, "");
        view.remove(Kind::Node, &gone);
        assert!(ipam.keys(&view, Kind::Node, &gone).contains(&Key::new("", "e")));
        assert_eq!(given(&mut ipam, &view, "e"), "10.42.8.0/22");
    }

    #[test]
    fn both_families_and_small_clusters() {
        let mut ipam = NodeIpam::new(vec!["10.1.0.0/24".parse().unwrap(), "fd00:1::/56".parse().unwrap()]);
        let mut view = View::default();
        view.put(Kind::Node, node("a", 1, ""));
        assert_eq!(given(&mut ipam, &view, "a"), "10.1.0.0/24 fd00:1::/64");
    }
}
