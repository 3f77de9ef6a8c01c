//! The chains and sets that are always there.
//!
//! | chain | what it does |
//! |---|---|
//! | `allowed` | drops what a balancer's address does not take from there |
//! | `prerouting`, `output` | lead what is for a service to one of its endpoints |
//! | `outside` | for what comes neither from pods nor from this node, where only this node's endpoints count |
//! | `postrouting` | gives connections this node's address where the answer would not find its way back, or is meant not to |
//! | `forward`, `input`, `outgoing` | refuse what is for a service that nobody answers for |

use linux::netlink::nft::{Chain, Conntrack, Data, Expr, Hook, HookKind, HookPoint, Set, Type, Verdict};

use crate::words::{
    self, BOTH, Ip, TRANSLATED, destination_port, goto, has_bits, in_block, is_local, protocol, rule, verdict_of,
};
use crate::{Block, pick};

pub const SERVICES: [&str; 2] = ["services4", "services6"];
pub const NODE_PORTS: [&str; 2] = ["nodeports4", "nodeports6"];
pub const OUTSIDE: [&str; 2] = ["outside4", "outside6"];
pub const OUTSIDE_PORTS: [&str; 2] = ["outsideports4", "outsideports6"];
pub const SOURCE: [&str; 2] = ["source4", "source6"];
pub const SOURCE_PORTS: [&str; 2] = ["sourceports4", "sourceports6"];
pub const HAIRPIN: [&str; 2] = ["hairpin4", "hairpin6"];
pub const REFUSED: [&str; 2] = ["refused4", "refused6"];
pub const REFUSED_PORTS: [&str; 2] = ["refusedports4", "refusedports6"];
pub const GUARDED: [&str; 2] = ["guarded4", "guarded6"];

/// Verdicts of `source*`.
pub const ALWAYS: &str = "masquerade";
pub const UNLESS_POD: &str = "masquerade-unless-pod";
pub const IF_HOST: &str = "masquerade-if-host";
/// Of `refused*`.
pub const REFUSE: &str = "refuse";

/// What does not depend on services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The table's name.
    pub table: String,
    /// Addresses of the cluster's pods.
    pub pods: Vec<Block>,
    /// Addresses that services may have: one that no service has refuses.
    pub services: Vec<Block>,
}

pub fn sets() -> Vec<Set> {
    let mut sets = Vec::new();
    for ip in BOTH {
        let at = ip as usize;
        let set = |name: &str, key: Vec<Type>, data| Set { name: name.into(), key, data, elements: Vec::new() };
        for name in [SERVICES, OUTSIDE, SOURCE, REFUSED, GUARDED] {
            sets.push(set(name[at], vec![ip.address_type(), Type::Protocol, Type::Port], Data::Verdicts));
        }
        for name in [NODE_PORTS, OUTSIDE_PORTS, SOURCE_PORTS, REFUSED_PORTS] {
            sets.push(set(name[at], vec![Type::Protocol, Type::Port], Data::Verdicts));
        }
        sets.push(set(HAIRPIN[at], vec![ip.address_type(); 2], Data::None));
    }
    sets.extend(pick::sets());
    sets
}

/// Address, protocol and port that a packet is for, from register 0 on.
fn asked_for(ip: Ip) -> Vec<Expr> {
    let wide = ip.registers();
    vec![ip.destination(0), protocol(wide), destination_port(wide + 1)]
}

fn port_asked_for() -> Vec<Expr> {
    vec![protocol(0), destination_port(1)]
}

pub fn chains(frame: &Frame) -> Vec<Chain> {
    let hook = |kind, at, priority| Some(Hook { kind, at, priority, accept: true });
    let chain = |name: &str, hook, rules| Chain { name: name.into(), hook, rules };
    let from_pods = |action: Expr| -> Vec<Vec<Expr>> {
        let rules = frame.pods.iter().map(|block| {
            let ip = Ip::of(block.is_ipv4());
            rule([ip.is_spoken(), vec![ip.source(0)], in_block(block, true).to_vec(), vec![action.clone()]])
        });
        rules.collect()
    };
    let per_family = |parts: &dyn Fn(Ip) -> Vec<Vec<Expr>>| -> Vec<Vec<Expr>> {
        BOTH.into_iter().map(|ip| rule([vec![ip.is_spoken()], parts(ip)].concat())).collect()
    };

    let mut prerouting = from_pods(goto("services"));
    prerouting.extend(per_family(&|ip| vec![asked_for(ip), vec![verdict_of(OUTSIDE[ip as usize])]]));
    prerouting.extend(per_family(&|ip| {
        vec![is_local(ip, true), port_asked_for(), vec![verdict_of(OUTSIDE_PORTS[ip as usize])]]
    }));
    prerouting.push(vec![goto("services")]);

    let mut services = per_family(&|ip| vec![asked_for(ip), vec![verdict_of(SERVICES[ip as usize])]]);
    services.extend(per_family(&|ip| {
        vec![is_local(ip, true), port_asked_for(), vec![verdict_of(NODE_PORTS[ip as usize])]]
    }));

    let original_port = |to| Expr::Conntrack { key: Conntrack::OriginalPort, to };
    let mut untouched = has_bits(Conntrack::Status, TRANSLATED, false).to_vec();
    untouched.push(Expr::Verdict(Verdict::Accept));
    let mut postrouting = vec![untouched];
    postrouting.extend(per_family(&|ip| {
        let lookup =
            Expr::Lookup { set: HAIRPIN[ip as usize].into(), from: 0, found: linux::netlink::nft::Found::Match };
        vec![vec![ip.source(0), ip.destination(ip.registers()), lookup, Expr::Masquerade]]
    }));
    postrouting.extend(per_family(&|ip| {
        let wide = ip.registers();
        let asked = vec![ip.original_destination(0), protocol(wide), original_port(wide + 1)];
        vec![asked, vec![verdict_of(SOURCE[ip as usize])]]
    }));
    postrouting.extend(per_family(&|ip| {
        vec![vec![protocol(0), original_port(1)], vec![verdict_of(SOURCE_PORTS[ip as usize])]]
    }));

    let mut unless_pod = from_pods(Expr::Verdict(Verdict::Return));
    unless_pod.push(vec![Expr::Masquerade]);

    let mut refusals = per_family(&|ip| vec![asked_for(ip), vec![verdict_of(REFUSED[ip as usize])]]);
    refusals.extend(per_family(&|ip| {
        vec![is_local(ip, true), port_asked_for(), vec![verdict_of(REFUSED_PORTS[ip as usize])]]
    }));
    let mut elsewhere = refusals_of_range(frame);
    let new = || has_bits(Conntrack::State, words::NEW, true).to_vec();
    let refuse = |to: &str| vec![rule([new(), vec![Expr::Verdict(Verdict::Jump(to.into()))]])];
    let mut all_refusals = vec![vec![Expr::Verdict(Verdict::Jump("refusals".into()))]];
    all_refusals.append(&mut elsewhere);

    let mut allowed = per_family(&|ip| vec![asked_for(ip), vec![verdict_of(GUARDED[ip as usize])]]);
    for rule in &mut allowed {
        let lookups = std::mem::take(rule);
        *rule = new().into_iter().chain(lookups).collect();
    }

    let nat = HookKind::Nat;
    let filter = HookKind::Filter;
    vec![
        chain("services", None, services),
        chain(ALWAYS, None, vec![vec![Expr::Masquerade]]),
        chain(UNLESS_POD, None, unless_pod),
        chain(IF_HOST, None, per_family(&|ip| vec![is_local(ip, false), vec![Expr::Masquerade]])),
        chain(REFUSE, None, vec![vec![Expr::Counter, Expr::Reject]]),
        chain("refusals", None, refusals),
        chain("all-refusals", None, all_refusals),
        chain("allowed", hook(filter, HookPoint::Prerouting, -110), allowed),
        chain("prerouting", hook(nat, HookPoint::Prerouting, -100), prerouting),
        chain("output", hook(nat, HookPoint::Output, -100), vec![vec![goto("services")]]),
        chain("postrouting", hook(nat, HookPoint::Postrouting, 100), postrouting),
        chain("forward", hook(filter, HookPoint::Forward, 0), refuse("all-refusals")),
        chain("outgoing", hook(filter, HookPoint::Output, 0), refuse("all-refusals")),
        chain("input", hook(filter, HookPoint::Input, 0), refuse("refusals")),
    ]
}

/// What is still for a service's address here was not led anywhere. Addresses that this node answers itself are not meant.
fn refusals_of_range(frame: &Frame) -> Vec<Vec<Expr>> {
    let rules = frame.services.iter().map(|block| {
        let ip = Ip::of(block.is_ipv4());
        let not_local = vec![
            Expr::AddressType { destination: true, to: 0 },
            Expr::Compare { from: 0, equal: false, value: linux::netlink::nft::ADDRESS_LOCAL.to_ne_bytes().to_vec() },
        ];
        rule([ip.is_spoken(), vec![ip.destination(0)], in_block(block, true).to_vec(), not_local, vec![goto(REFUSE)]])
    });
    rules.collect()
}
