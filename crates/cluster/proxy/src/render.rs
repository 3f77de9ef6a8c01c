//! One service in, its elements out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use linux::netlink::nft::{Chain, Element, Expr, Field, Protocol, Value, Verdict};

use crate::frame::{
    ALWAYS, GUARDED, HAIRPIN, IF_HOST, NODE_PORTS, OUTSIDE, OUTSIDE_PORTS, REFUSE, REFUSED, REFUSED_PORTS, SERVICES,
    SOURCE, SOURCE_PORTS, UNLESS_POD,
};
use crate::model::{Service, ServicePort};
use crate::pick::{By, Pick, Scope};
use crate::words::{BOTH, Ip, in_block, rule};

/// The elements of one service by set and key, and the chains that they lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    pub elements: BTreeMap<(&'static str, Vec<Field>), Value>,
    pub picks: BTreeSet<Pick>,
    /// Chains of source ranges, by name.
    pub chains: BTreeMap<String, Chain>,
    /// Where datagrams for an address and port go: connections that went elsewhere are to be forgotten.
    pub datagrams: BTreeMap<(IpAddr, u16), BTreeSet<IpAddr>>,
}

impl Rendered {
    fn put(&mut self, set: &'static str, key: Vec<Field>, value: Value) {
        self.elements.insert((set, key), value);
    }

    fn goto(&mut self, set: &'static str, key: Vec<Field>, chain: &str) {
        self.put(set, key, Value::Verdict(Verdict::Goto(chain.into())));
    }

    pub fn element(key: &[Field], value: &Value) -> Element {
        Element { key: key.to_vec(), value: value.clone() }
    }

    /// Lists endpoints under an address (`any` for ports of the node) and answers the chain that picks one.
    fn endpoints(
        &mut self,
        ip: Ip,
        by: By,
        scope: Scope,
        asked: &[Field; 3],
        endpoints: &[(IpAddr, u16)],
        affinity_secs: Option<u64>,
    ) -> String {
        for (number, (address, port)) in endpoints.iter().enumerate() {
            let endpoint = vec![Field::Address(*address), Field::Port(*port)];
            let mut key = asked.to_vec();
            key.push(Field::Number(number as u32));
            if affinity_secs.is_some() {
                self.put(scope.known(ip), [&endpoint[..], &asked[..]].concat(), Value::None);
            }
            self.put(scope.endpoints(ip), key, Value::Fields(endpoint));
        }
        let pick = Pick { ip, by, scope, count: endpoints.len() as u32, affinity_secs };
        self.picks.insert(pick);
        pick.name()
    }
}

/// Pure.
pub fn render(service: &Service) -> Rendered {
    let mut out = Rendered::default();
    let guard = source_chain(service);
    for port in &service.ports {
        for ip in BOTH {
            let all = port.usable(ip.is_v4(), false);
            let near = port.usable(ip.is_v4(), true);
            for backend in
                port.backends.iter().filter(|backend| backend.local && backend.address.is_ipv4() == ip.is_v4())
            {
                let own = Field::Address(backend.address);
                out.put(HAIRPIN[ip as usize], vec![own.clone(), own], Value::None);
            }
            let of_family = |list: &[IpAddr]| -> Vec<IpAddr> {
                list.iter().copied().filter(|address| address.is_ipv4() == ip.is_v4()).collect()
            };
            for address in of_family(&service.cluster_ips) {
                let chosen = if service.internal_local { &near } else { &all };
                let asked = [Field::Address(address), Field::Protocol(port.protocol), Field::Port(port.port)];
                // Endpoints elsewhere are no reason to say that there are none at all.
                let drops = chosen.is_empty() && !all.is_empty();
                lead(&mut out, ip, &asked, chosen, drops, service.affinity_secs);
                out.goto(SOURCE[ip as usize], asked.to_vec(), UNLESS_POD);
                datagrams(&mut out, port, address, port.port, chosen);
            }
            let (external, balancer) = (of_family(&service.external_ips), of_family(&service.balancer_ips));
            for address in external.iter().chain(&balancer).copied() {
                let asked = [Field::Address(address), Field::Protocol(port.protocol), Field::Port(port.port)];
                lead(&mut out, ip, &asked, &all, false, service.affinity_secs);
                let source = if service.external_local { IF_HOST } else { ALWAYS };
                out.goto(SOURCE[ip as usize], asked.to_vec(), source);
                if service.external_local && !all.is_empty() {
                    let verdict = from_outside(&mut out, ip, By::Address, &asked, &near, service.affinity_secs);
                    out.put(OUTSIDE[ip as usize], asked.to_vec(), verdict);
                }
                datagrams(&mut out, port, address, port.port, &all);
                if let Some((name, chain)) = &guard
                    && balancer.contains(&address)
                {
                    out.goto(GUARDED[ip as usize], asked.to_vec(), name);
                    out.chains.insert(name.clone(), chain.clone());
                }
            }
            // A service has a family where it has an address of it.
            let spoken = !of_family(&service.cluster_ips).is_empty();
            if let Some(node_port) = port.node_port.filter(|_| spoken) {
                lead_port(&mut out, ip, port, node_port, &all, &near, service);
            }
        }
    }
    out
}

/// From everywhere to the endpoints, or a refusal.
fn lead(
    out: &mut Rendered,
    ip: Ip,
    asked: &[Field; 3],
    endpoints: &[(IpAddr, u16)],
    drops: bool,
    affinity_secs: Option<u64>,
) {
    if !endpoints.is_empty() {
        let chain = out.endpoints(ip, By::Address, Scope::All, asked, endpoints, affinity_secs);
        out.goto(SERVICES[ip as usize], asked.to_vec(), &chain);
    } else if drops {
        out.put(REFUSED[ip as usize], asked.to_vec(), Value::Verdict(Verdict::Drop));
    } else {
        out.goto(REFUSED[ip as usize], asked.to_vec(), REFUSE);
    }
}

/// What comes from outside goes to this node's endpoints or nowhere: a balancer is to ask another node.
fn from_outside(
    out: &mut Rendered,
    ip: Ip,
    by: By,
    asked: &[Field; 3],
    near: &[(IpAddr, u16)],
    affinity_secs: Option<u64>,
) -> Value {
    if near.is_empty() {
        return Value::Verdict(Verdict::Drop);
    }
    let chain = out.endpoints(ip, by, Scope::Near, asked, near, affinity_secs);
    Value::Verdict(Verdict::Goto(chain))
}

fn lead_port(
    out: &mut Rendered,
    ip: Ip,
    port: &ServicePort,
    node_port: u16,
    all: &[(IpAddr, u16)],
    near: &[(IpAddr, u16)],
    service: &Service,
) {
    let asked = [ip.any(), Field::Protocol(port.protocol), Field::Port(node_port)];
    let key = asked[1..].to_vec();
    if all.is_empty() {
        out.goto(REFUSED_PORTS[ip as usize], key, REFUSE);
        return;
    }
    let chain = out.endpoints(ip, By::Port, Scope::All, &asked, all, service.affinity_secs);
    out.goto(NODE_PORTS[ip as usize], key.clone(), &chain);
    if service.external_local {
        let verdict = from_outside(out, ip, By::Port, &asked, near, service.affinity_secs);
        out.put(OUTSIDE_PORTS[ip as usize], key.clone(), verdict);
    }
    out.goto(SOURCE_PORTS[ip as usize], key, if service.external_local { IF_HOST } else { ALWAYS });
    let any = if ip.is_v4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    datagrams(out, port, any, node_port, all);
}

fn datagrams(out: &mut Rendered, port: &ServicePort, address: IpAddr, number: u16, endpoints: &[(IpAddr, u16)]) {
    if port.protocol == Protocol::Udp {
        let to = out.datagrams.entry((address, number)).or_default();
        to.extend(endpoints.iter().map(|(address, _)| *address));
    }
}

/// The chain that lets through who may use the balancer's addresses, named after what it says.
fn source_chain(service: &Service) -> Option<(String, Chain)> {
    if service.sources.is_empty() {
        return None;
    }
    let mut blocks = service.sources.clone();
    blocks.sort_unstable();
    blocks.dedup();
    let text: String = blocks.iter().map(|block| format!("{block} ")).collect();
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let name = format!("from-{hash:016x}");
    let mut rules: Vec<Vec<Expr>> = blocks
        .iter()
        .map(|block| {
            let ip = Ip::of(block.is_ipv4());
            rule([
                ip.is_spoken(),
                vec![ip.source(0)],
                in_block(block, true).to_vec(),
                vec![Expr::Verdict(Verdict::Return)],
            ])
        })
        .collect();
    rules.push(vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]);
    Some((name.clone(), Chain { name, hook: None, rules }))
}
