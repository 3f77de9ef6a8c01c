//! Chains that choose one of so many endpoints. One serves all services with as many: which service it is stands in the key
//! under which the endpoints are found.
//!
//! Registers: the endpoint's address and port, then the address, protocol and port that the client asked for, then a number or
//! the client's address.

use linux::netlink::nft::{Chain, Data, Expr, Found, Set, Type};

use crate::words::{BOTH, Ip, destination_port, protocol};

/// Endpoints that there are: for everybody, or this node's for what comes from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    All,
    Near,
}

/// What the client asked for: an address of the service, or a port of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    Address,
    Port,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    pub ip: Ip,
    pub by: By,
    pub scope: Scope,
    pub count: u32,
    pub affinity_secs: Option<u64>,
}

impl Scope {
    /// Address, protocol, port, number -> address, port.
    pub const fn endpoints(self, ip: Ip) -> &'static str {
        match (self, ip) {
            (Self::All, Ip::V4) => "endpoints4",
            (Self::All, Ip::V6) => "endpoints6",
            (Self::Near, Ip::V4) => "near4",
            (Self::Near, Ip::V6) => "near6",
        }
    }

    /// Endpoints with who asks for them: what a client was given before may have gone.
    pub const fn known(self, ip: Ip) -> &'static str {
        match (self, ip) {
            (Self::All, Ip::V4) => "known4",
            (Self::All, Ip::V6) => "known6",
            (Self::Near, Ip::V4) => "nearknown4",
            (Self::Near, Ip::V6) => "nearknown6",
        }
    }

    /// What each client was given.
    const fn learned(self, ip: Ip) -> &'static str {
        match (self, ip) {
            (Self::All, Ip::V4) => "clients4",
            (Self::All, Ip::V6) => "clients6",
            (Self::Near, Ip::V4) => "nearclients4",
            (Self::Near, Ip::V6) => "nearclients6",
        }
    }
}

/// Clients that are remembered at a time.
const CLIENTS_MAX: u32 = 1 << 16;

/// The sets that these chains look into.
pub fn sets() -> Vec<Set> {
    let mut sets = Vec::new();
    for ip in BOTH {
        let asked = [ip.address_type(), Type::Protocol, Type::Port];
        let endpoint = vec![ip.address_type(), Type::Port];
        for scope in [Scope::All, Scope::Near] {
            let set = |name: &str, key: Vec<Type>, data| Set { name: name.into(), key, data, elements: Vec::new() };
            let numbered = [&asked[..], &[Type::Number]].concat();
            sets.push(set(scope.endpoints(ip), numbered, Data::Values(endpoint.clone())));
            sets.push(set(scope.known(ip), [&endpoint[..], &asked[..]].concat(), Data::None));
            let client = [&asked[..], &[ip.address_type()]].concat();
            sets.push(set(scope.learned(ip), client, Data::Learned(endpoint.clone(), CLIENTS_MAX)));
        }
    }
    sets
}

impl Pick {
    pub fn name(&self) -> String {
        let by = if self.by == By::Address { "pick" } else { "port" };
        let near = if self.scope == Scope::Near { "-near" } else { "" };
        let version = if self.ip.is_v4() { 4 } else { 6 };
        let affine = self.affinity_secs.map(|secs| format!("-for-{secs}")).unwrap_or_default();
        format!("{by}{version}-{}{near}{affine}", self.count)
    }

    pub fn chain(&self) -> Chain {
        let wide = self.ip.registers();
        let (address, port) = (0, wide);
        let asked = wide + 1;
        let last = 2 * wide + 3;
        let scope = self.scope;
        let asked_for = || {
            let to = match self.by {
                By::Address => self.ip.destination(asked),
                By::Port => Expr::Load { value: vec![0; self.ip.length() as usize], to: asked },
            };
            vec![to, protocol(asked + wide), destination_port(asked + wide + 1)]
        };
        let endpoint = [
            Expr::Random { below: self.count.max(1), to: last },
            Expr::Lookup { set: scope.endpoints(self.ip).into(), from: asked, found: Found::Value(address) },
        ];
        let translate = Expr::DestinationNat { family: self.ip.family(), address, port: Some(port) };
        let mut rules = Vec::new();
        match self.affinity_secs {
            None => {
                let mut rule = asked_for();
                rule.extend(endpoint);
                rule.push(translate);
                rules.push(rule);
            }
            Some(seconds) => {
                let map = || scope.learned(self.ip).to_owned();
                let learn = || Expr::Learn { map: map(), key: asked, value: address, seconds };
                let mut again = asked_for();
                again.extend([
                    self.ip.source(last),
                    Expr::Lookup { set: map(), from: asked, found: Found::Value(address) },
                    Expr::Lookup { set: scope.known(self.ip).into(), from: address, found: Found::Match },
                    learn(),
                    translate.clone(),
                ]);
                // An entry that leads nowhere any more would otherwise only live longer.
                let mut forget = asked_for();
                forget.extend([
                    self.ip.source(last),
                    Expr::Lookup { set: map(), from: asked, found: Found::Value(address) },
                    Expr::Forget { map: map(), key: asked, value: address },
                ]);
                let mut anew = asked_for();
                anew.extend(endpoint);
                anew.extend([self.ip.source(last), learn(), translate]);
                rules.extend([again, forget, anew]);
            }
        }
        Chain { name: self.name(), hook: None, rules }
    }
}
