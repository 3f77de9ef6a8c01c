//! Which addresses belong to which port of a bridge: what claims another's is dropped before the bridge learns from it (NW-08).
//!
//! Only claims of what is somebody's are judged: addresses of containers, and the gateway's. A container that gives itself an
//! address that nobody has (a virtual address that moves, a nested bridge) is free to. Pure, but for whoever applies it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use linux::netlink::nft::{
    Base, Chain, Data, Element, Expr, Family, Field, Found, Hook, HookKind, HookPoint, Meta, Set, Table, Type, Value,
    Verdict,
};

use crate::Mac;

/// What a port of a bridge, or the bridge itself, may claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The host's end of a container's interface. `None`: the bridge, whose claims pass no port.
    pub port: Option<String>,
    pub mac: Option<Mac>,
    pub addresses: Vec<IpAddr>,
}

/// In which sets a claim stands: all that are somebody's, and each with the port that may claim it.
const MACS: [&str; 2] = ["macs", "macs-at"];
const IPV4: [&str; 2] = ["ipv4", "ipv4-at"];
const IPV6: [&str; 2] = ["ipv6", "ipv6-at"];

type Key = (&'static str, Vec<Field>);

/// All pins of an instance, and how many claim the same: two containers may have been given one MAC address.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    pins: BTreeMap<String, Pin>,
    claims: BTreeMap<Key, usize>,
}

/// Elements to remove and to add, by set.
pub(crate) type Changes = [BTreeMap<&'static str, Vec<Element>>; 2];

impl Pins {
    pub(crate) fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// Puts pins in place of those of the same name, and takes others away. What has to change in the table.
    pub(crate) fn change(&mut self, add: &[(String, Pin)], remove: &[String]) -> Changes {
        let before: Vec<Key> = add
            .iter()
            .map(|(name, _)| name)
            .chain(remove)
            .filter_map(|name| self.pins.remove(name))
            .flat_map(keys)
            .collect();
        let after: Vec<Key> = add.iter().flat_map(|(_, pin)| keys(pin.clone())).collect();
        let touched: BTreeMap<Key, bool> =
            before.iter().chain(&after).map(|key| (key.clone(), self.claims.contains_key(key))).collect();
        for key in before {
            let count = self.claims.entry(key.clone()).or_insert(1);
            *count -= 1;
            if *count == 0 {
                self.claims.remove(&key);
            }
        }
        for key in after {
            *self.claims.entry(key).or_default() += 1;
        }
        self.pins.extend(add.iter().cloned());
        let mut changes = Changes::default();
        for (key, was) in touched {
            let is = self.claims.contains_key(&key);
            if was != is {
                let (set, key) = key;
                changes[usize::from(is)].entry(set).or_default().push(Element { key, value: Value::None });
            }
        }
        changes
    }

    /// The whole table of the instance `tag`, in the bridges' family.
    pub(crate) fn table(&self, tag: &str) -> Table {
        let sets = [(MACS, Type::Mac), (IPV4, Type::Ipv4), (IPV6, Type::Ipv6)]
            .into_iter()
            .flat_map(|(names, kind)| [(names[0], vec![kind]), (names[1], vec![Type::Interface, kind])]);
        let sets = sets.map(|(name, key)| {
            let own = self.claims.keys().filter(|(set, _)| *set == name);
            let elements = own.map(|(_, key)| Element { key: key.clone(), value: Value::None });
            Set { name: name.into(), key, data: Data::None, elements: elements.collect() }
        });
        let hook = Hook { kind: HookKind::Filter, at: HookPoint::Prerouting, priority: -300, accept: true };
        Table {
            family: Family::Bridge,
            name: crate::table_name(tag),
            sets: sets.collect(),
            chains: vec![Chain { name: "claims".into(), hook: Some(hook), rules: rules(tag) }],
        }
    }
}

fn keys(pin: Pin) -> Vec<Key> {
    let macs = pin.mac.map(|mac| (MACS, Field::Mac(mac)));
    let addresses = pin.addresses.iter().map(|address| {
        let sets = if address.is_ipv4() { IPV4 } else { IPV6 };
        (sets, Field::Address(*address))
    });
    let claims = macs.into_iter().chain(addresses);
    claims
        .flat_map(|([all, at], field)| {
            let port = pin.port.clone().map(|port| (at, vec![Field::Interface(port), field.clone()]));
            [(all, vec![field])].into_iter().chain(port)
        })
        .collect()
}

const ARP: [u8; 2] = [0x08, 0x06];
const IP6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

fn rules(tag: &str) -> Vec<Vec<Expr>> {
    let input = |to| Expr::Meta { key: Meta::InputName, to };
    let field = |base, offset, length, to| Expr::Payload { base, offset, length, to };
    let claim = |conditions: &[Expr], sets: [&str; 2], base, offset, length| {
        let mut rule = conditions.to_vec();
        rule.extend([
            field(base, offset, length, 0),
            Expr::Lookup { set: sets[0].into(), from: 0, found: Found::Match },
            input(0),
            field(base, offset, length, 4),
            Expr::Lookup { set: sets[1].into(), from: 0, found: Found::NoMatch },
            Expr::Counter,
            Expr::Verdict(Verdict::Drop),
        ]);
        rule
    };
    let protocol = |number: [u8; 2]| {
        [Expr::Meta { key: Meta::Protocol, to: 0 }, Expr::Compare { from: 0, equal: true, value: number.to_vec() }]
    };
    let kind = |test| [field(Base::Transport, 0, 1, 0), test];
    let icmpv6 = [
        Expr::Meta { key: Meta::TransportProtocol, to: 0 },
        Expr::Compare { from: 0, equal: true, value: vec![ICMPV6] },
    ];
    // Solicitations and advertisements of routers and neighbours, and redirects: the source is learnt from.
    let discovery = kind(Expr::Within { from: 0, first: vec![133], last: vec![137] });
    let advertisement = kind(Expr::Compare { from: 0, equal: true, value: vec![NEIGHBOUR_ADVERTISEMENT] });
    let (arp, ip6) = (protocol(ARP), [protocol(IP6), icmpv6].concat());
    let ports = crate::names::port_prefix(tag).into_bytes();
    vec![
        // Other people's bridges, and pairs between ours, behind which a port has been judged.
        vec![input(0), Expr::Compare { from: 0, equal: false, value: ports }, Expr::Verdict(Verdict::Accept)],
        claim(&[], MACS, Base::Link, 6, 6),
        claim(&arp, MACS, Base::Network, 8, 6),
        claim(&arp, IPV4, Base::Network, 14, 4),
        claim(&[&ip6[..], &discovery].concat(), IPV6, Base::Network, 8, 16),
        claim(&[&ip6[..], &advertisement].concat(), IPV6, Base::Transport, 8, 16),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(port: &str, last: u8) -> (String, Pin) {
        let addresses = vec![[10, 0, 0, last].into(), format!("fd00::{last}").parse().unwrap()];
        (port.into(), Pin { port: Some(port.into()), mac: Some([2, 0, 0, 0, 0, last]), addresses })
    }

    /// How many elements go and come.
    fn counts(changes: &Changes) -> [usize; 2] {
        [0, 1].map(|which| changes[which].values().map(Vec::len).sum())
    }

    #[test]
    fn only_what_differs_is_changed_and_what_two_claim_stays_with_the_other() {
        let mut pins = Pins::default();
        assert_eq!(counts(&pins.change(&[pin("a", 1)], &[])), [0, 6]);
        assert_eq!(counts(&pins.change(&[pin("a", 1)], &[])), [0, 0], "known already");
        // The same addresses at another port: a container that starts again before the old port is gone.
        assert_eq!(counts(&pins.change(&[pin("b", 1)], &[])), [0, 3]);
        assert_eq!(counts(&pins.change(&[], &["a".into()])), [3, 0]);
        assert_eq!(counts(&pins.change(&[pin("b", 2)], &["nobody".into()])), [6, 6]);
        assert_eq!(counts(&pins.change(&[], &["b".into()])), [6, 0]);
        assert!(pins.is_empty() && pins.claims.is_empty());
    }

    #[test]
    fn a_bridge_owns_what_no_port_may_claim() {
        let mut pins = Pins::default();
        let bridge = Pin { port: None, mac: Some([2; 6]), addresses: vec![[10, 0, 0, 1].into()] };
        pins.change(&[("k".into(), bridge), pin("a", 2)], &[]);
        let table = pins.table("t");
        let sizes: Vec<(&str, usize)> = table.sets.iter().map(|set| (set.name.as_str(), set.elements.len())).collect();
        assert_eq!(sizes, [("macs", 2), ("macs-at", 1), ("ipv4", 2), ("ipv4-at", 1), ("ipv6", 1), ("ipv6-at", 1)]);
    }
}
