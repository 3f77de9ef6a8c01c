//! Network policies: which pods may talk to which. Pure; `run` carries it out.
//!
//! A pod that a policy selects is isolated in that direction: a verdict map leads from its address to the chain of all policies
//! that select it, which lets through what one of them allows and drops the rest. Peers stand in sets of addresses, shared by
//! all rules that name the same ones, so that a pod that comes or goes is an element here and there.
//!
//! | chain | what it does |
//! |---|---|
//! | `egress`, `egress-here` | what isolated pods send, to others and to this node |
//! | `ingress` | what isolated pods are sent; what this node itself sends (probes) is not asked about |

mod run;
mod select;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use linux::netlink::nft::{
    Chain, Conntrack, Data, Element, Expr, Family, Field, Found, Hook, HookKind, HookPoint, Protocol, Set, Table, Type,
    Value, Verdict,
};

pub use run::{KINDS, Policies};
pub use select::policies;

use crate::block::{self, Block, merged};
use crate::words::{BOTH, Ip, destination_port, has_bits, protocol, rule, verdict_of};

/// Conntrack state bits: established and related.
const ANSWERS: u32 = 2 | 4;

/// What a policy says about one direction, with its selectors carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// NAMESPACE/NAME
    pub name: String,
    pub direction: Direction,
    /// Addresses of this node's pods that it isolates.
    pub isolates: BTreeSet<IpAddr>,
    pub allows: Vec<Allow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// `None`: everybody.
    pub peers: Option<Vec<Peers>>,
    /// `None`: every port and protocol.
    pub ports: Option<Vec<Ports>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Pods, with what selected them: rules that say the same share a set.
    Pods {
        selected: String,
        addresses: BTreeSet<IpAddr>,
    },
    Blocks {
        with: Vec<Block>,
        without: Vec<Block>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    Any(Protocol),
    Range(Protocol, u16, u16),
    /// A name, which is another number for each pod that is sent to.
    Named {
        name: String,
        protocol: Protocol,
        at: BTreeSet<(IpAddr, u16)>,
    },
}

fn hash(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

const INGRESS: [&str; 2] = ["ingress4", "ingress6"];
const EGRESS: [&str; 2] = ["egress4", "egress6"];
const ITSELF: [&str; 2] = ["itself4", "itself6"];

/// The whole table. `always` are addresses of this node that every pod may ask for names.
pub fn table(name: &str, always: &[IpAddr], policies: &[Policy]) -> Table {
    let mut made = Made::default();
    // The policies that isolate each pod, by direction.
    let mut isolated: BTreeMap<(Direction, IpAddr), Vec<&Policy>> = BTreeMap::new();
    for policy in policies {
        for address in &policy.isolates {
            isolated.entry((policy.direction, *address)).or_default().push(policy);
        }
    }
    for ((direction, address), policies) in &isolated {
        let ip = Ip::of(address.is_ipv4());
        let group = made.group(*direction, policies);
        let map = if *direction == Direction::Ingress { INGRESS } else { EGRESS };
        let key = vec![Field::Address(*address)];
        made.put(map[ip as usize], key, Value::Verdict(Verdict::Goto(group)));
        made.put(ITSELF[ip as usize], vec![Field::Address(*address); 2], Value::None);
    }
    let mut sets = Vec::new();
    for ip in BOTH {
        let set = |name: &str, key, data| Set { name: name.into(), key, data, elements: Vec::new() };
        sets.push(set(INGRESS[ip as usize], vec![ip.address_type()], Data::Verdicts));
        sets.push(set(EGRESS[ip as usize], vec![ip.address_type()], Data::Verdicts));
        sets.push(set(ITSELF[ip as usize], vec![ip.address_type(); 2], Data::None));
    }
    sets.extend(made.sets.into_values());
    for set in &mut sets {
        set.elements.extend(made.elements.remove(&set.name).unwrap_or_default());
    }
    let mut chains = base_chains(always);
    chains.extend(made.chains.into_values());
    Table { family: Family::Inet, name: name.into(), sets, chains }
}

fn base_chains(always: &[IpAddr]) -> Vec<Chain> {
    let accept = || Expr::Verdict(Verdict::Accept);
    let answers = || rule([has_bits(Conntrack::State, ANSWERS, true).to_vec(), vec![accept()]]);
    let itself = |ip: Ip| {
        let lookup = Expr::Lookup { set: ITSELF[ip as usize].into(), from: 0, found: Found::Match };
        rule([ip.is_spoken(), vec![ip.source(0), ip.destination(ip.registers()), lookup, accept()]])
    };
    let judged =
        |ip: Ip, map: [&str; 2], address: Expr| rule([ip.is_spoken(), vec![address, verdict_of(map[ip as usize])]]);
    let mut egress = vec![answers()];
    let mut ingress = vec![answers()];
    // A pod may always talk to itself, also by a service.
    egress.extend(BOTH.map(itself));
    ingress.extend(BOTH.map(itself));
    let mut here = vec![answers()];
    for address in always {
        let ip = Ip::of(address.is_ipv4());
        here.push(rule([
            ip.is_spoken(),
            vec![
                ip.destination(0),
                Expr::Compare { from: 0, equal: true, value: block::octets(*address) },
                destination_port(0),
                Expr::Compare { from: 0, equal: true, value: 53u16.to_be_bytes().to_vec() },
                accept(),
            ],
        ]));
    }
    egress.extend(BOTH.map(|ip| judged(ip, EGRESS, ip.source(0))));
    here.extend(BOTH.map(|ip| judged(ip, EGRESS, ip.source(0))));
    ingress.extend(BOTH.map(|ip| judged(ip, INGRESS, ip.destination(0))));
    let hook = |at, priority| Some(Hook { kind: HookKind::Filter, at, priority, accept: true });
    vec![
        Chain { name: "egress".into(), hook: hook(HookPoint::Forward, 10), rules: egress },
        Chain { name: "egress-here".into(), hook: hook(HookPoint::Input, 10), rules: here },
        Chain { name: "ingress".into(), hook: hook(HookPoint::Forward, 11), rules: ingress },
    ]
}

/// Chains and sets that policies lead to, by name.
#[derive(Default)]
struct Made {
    chains: BTreeMap<String, Chain>,
    sets: BTreeMap<String, Set>,
    elements: BTreeMap<String, Vec<Element>>,
}

impl Made {
    fn put(&mut self, set: &str, key: Vec<Field>, value: Value) {
        self.elements.entry(set.to_owned()).or_default().push(Element { key, value });
    }

    /// The chain of those policies together: whoever they all do not let through is dropped.
    fn group(&mut self, direction: Direction, policies: &[&Policy]) -> String {
        let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
        let prefix = if direction == Direction::Ingress { "in" } else { "out" };
        let name = format!("{prefix}-{}", hash(&names.join(" ")));
        if self.chains.contains_key(&name) {
            return name;
        }
        let mut rules = Vec::new();
        for policy in policies {
            let chain = format!("{prefix}-policy-{}", hash(&policy.name));
            if !self.chains.contains_key(&chain) {
                let allowed = policy.allows.iter().flat_map(|allow| self.allow(direction, allow)).collect();
                self.chains.insert(chain.clone(), Chain { name: chain.clone(), hook: None, rules: allowed });
            }
            rules.push(vec![Expr::Verdict(Verdict::Jump(chain))]);
        }
        rules.push(vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]);
        self.chains.insert(name.clone(), Chain { name: name.clone(), hook: None, rules });
        name
    }

    /// The rules of one `from` or `to`: each kind of peer with each port.
    fn allow(&mut self, direction: Direction, allow: &Allow) -> Vec<Vec<Expr>> {
        let mut peers: Vec<Vec<Expr>> = Vec::new();
        match &allow.peers {
            None => peers.push(Vec::new()),
            Some(all) => {
                for (peer, ip) in all.iter().flat_map(|peer| BOTH.map(|ip| (peer, ip))) {
                    let Some(set) = self.peer_set(peer, ip) else { continue };
                    let address = match direction {
                        Direction::Ingress => ip.source(0),
                        Direction::Egress => ip.destination(0),
                    };
                    peers.push(rule([
                        ip.is_spoken(),
                        vec![address, Expr::Lookup { set, from: 0, found: Found::Match }],
                    ]));
                }
            }
        }
        let mut ports: Vec<Vec<Expr>> = Vec::new();
        match &allow.ports {
            None => ports.push(Vec::new()),
            Some(all) => ports.extend(all.iter().flat_map(|port| self.port_rules(port))),
        }
        let accept = || vec![Expr::Verdict(Verdict::Accept)];
        peers
            .iter()
            .flat_map(|peer| ports.iter().map(move |port| rule([peer.clone(), port.clone(), accept()])))
            .collect()
    }

    /// The set of a peer's addresses of a family; none, if it has none of it and never will.
    fn peer_set(&mut self, peer: &Peers, ip: Ip) -> Option<String> {
        let version = if ip.is_v4() { 4 } else { 6 };
        let key = vec![ip.address_type()];
        match peer {
            Peers::Pods { selected, addresses } => {
                let name = format!("pods{version}-{}", hash(selected));
                if !self.sets.contains_key(&name) {
                    let set = Set { name: name.clone(), key, data: Data::None, elements: Vec::new() };
                    self.sets.insert(name.clone(), set);
                    for address in addresses.iter().filter(|address| address.is_ipv4() == ip.is_v4()) {
                        self.put(&name, vec![Field::Address(*address)], Value::None);
                    }
                }
                Some(name)
            }
            Peers::Blocks { with, without } => {
                let ends = |blocks: &[Block]| -> Vec<(u128, u128)> {
                    blocks.iter().filter(|block| block.is_ipv4() == ip.is_v4()).map(Block::ends).collect()
                };
                let ranges = merged(&ends(with), &ends(without));
                if ranges.is_empty() {
                    return None;
                }
                let name = format!("block{version}-{}", hash(&format!("{ranges:?}")));
                if !self.sets.contains_key(&name) {
                    let set = Set { name: name.clone(), key, data: Data::Ranges, elements: Vec::new() };
                    self.sets.insert(name.clone(), set);
                    let last_of_all = if ip.is_v4() { u128::from(u32::MAX) } else { u128::MAX };
                    for (first, last) in ranges {
                        let field = |number| vec![Field::Address(block::address(number, ip.is_v4()))];
                        self.put(&name, field(first), Value::None);
                        if last < last_of_all {
                            self.put(&name, field(last + 1), Value::End);
                        }
                    }
                }
                Some(name)
            }
        }
    }

    fn port_rules(&mut self, port: &Ports) -> Vec<Vec<Expr>> {
        let over =
            |number: Protocol| vec![protocol(0), Expr::Compare { from: 0, equal: true, value: vec![number as u8] }];
        match port {
            Ports::Any(number) => vec![over(*number)],
            Ports::Range(number, first, last) => {
                let (first, last) = (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec());
                let within = match first == last {
                    true => Expr::Compare { from: 0, equal: true, value: first },
                    false => Expr::Within { from: 0, first, last },
                };
                vec![rule([over(*number), vec![destination_port(0), within]])]
            }
            Ports::Named { name, protocol: number, at } => {
                let mut rules = Vec::new();
                for ip in BOTH {
                    let of_family: Vec<_> = at.iter().filter(|(address, _)| address.is_ipv4() == ip.is_v4()).collect();
                    if of_family.is_empty() {
                        continue;
                    }
                    let version = if ip.is_v4() { 4 } else { 6 };
                    // Whom the name is looked up for makes another set of it.
                    let set = format!("named{version}-{}", hash(&format!("{name} {number:?} {of_family:?}")));
                    if !self.sets.contains_key(&set) {
                        let key = vec![ip.address_type(), Type::Protocol, Type::Port];
                        let made = Set { name: set.clone(), key, data: Data::None, elements: Vec::new() };
                        self.sets.insert(set.clone(), made);
                        for (address, port) in of_family {
                            let key = vec![Field::Address(*address), Field::Protocol(*number), Field::Port(*port)];
                            self.put(&set, key, Value::None);
                        }
                    }
                    let wide = ip.registers();
                    let looked = Expr::Lookup { set, from: 0, found: Found::Match };
                    let asked = vec![ip.destination(0), protocol(wide), destination_port(wide + 1), looked];
                    rules.push(rule([ip.is_spoken(), asked]));
                }
                rules
            }
        }
    }
}
