//! The expressions that the tables are written in.

use std::net::Ipv6Addr;

use linux::netlink::nft::{ADDRESS_LOCAL, Base, Conntrack, Expr, Family, Field, Found, Meta, Register, Type, Verdict};

use crate::Block;

/// The two families of addresses; as a number an index of names that differ by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ip {
    V4 = 0,
    V6 = 1,
}

pub const BOTH: [Ip; 2] = [Ip::V4, Ip::V6];

impl Ip {
    pub fn of(ipv4: bool) -> Self {
        if ipv4 { Self::V4 } else { Self::V6 }
    }

    pub const fn is_v4(self) -> bool {
        matches!(self, Self::V4)
    }

    pub const fn address_type(self) -> Type {
        match self {
            Self::V4 => Type::Ipv4,
            Self::V6 => Type::Ipv6,
        }
    }

    /// An address's length in registers.
    pub const fn registers(self) -> Register {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }

    pub const fn length(self) -> u32 {
        self.registers() as u32 * 4
    }

    pub const fn family(self) -> Family {
        match self {
            Self::V4 => Family::Ip,
            Self::V6 => Family::Ip6,
        }
    }

    /// The address that stands for any of this node's in keys.
    pub fn any(self) -> Field {
        match self {
            Self::V4 => Field::Address(std::net::Ipv4Addr::UNSPECIFIED.into()),
            Self::V6 => Field::Address(Ipv6Addr::UNSPECIFIED.into()),
        }
    }

    pub fn is_spoken(self) -> Vec<Expr> {
        let protocol = if self.is_v4() { 2 } else { 10 };
        vec![
            Expr::Meta { key: Meta::NetworkProtocol, to: 0 },
            Expr::Compare { from: 0, equal: true, value: vec![protocol] },
        ]
    }

    pub const fn source(self, to: Register) -> Expr {
        let offset = if self.is_v4() { 12 } else { 8 };
        Expr::Payload { base: Base::Network, offset, length: self.length(), to }
    }

    pub const fn destination(self, to: Register) -> Expr {
        let offset = if self.is_v4() { 16 } else { 24 };
        Expr::Payload { base: Base::Network, offset, length: self.length(), to }
    }

    /// Where the connection was sent to at first.
    pub const fn original_destination(self, to: Register) -> Expr {
        let key = if self.is_v4() { Conntrack::OriginalIpv4 } else { Conntrack::OriginalIpv6 };
        Expr::Conntrack { key, to }
    }
}

pub const fn protocol(to: Register) -> Expr {
    Expr::Meta { key: Meta::TransportProtocol, to }
}

pub const fn destination_port(to: Register) -> Expr {
    Expr::Payload { base: Base::Transport, offset: 2, length: 2, to }
}

/// Whether an address in register 0 is in a block; changes the register.
pub fn in_block(block: &Block, equal: bool) -> [Expr; 2] {
    [Expr::Mask { from: 0, mask: block.mask(), to: 0 }, Expr::Compare { from: 0, equal, value: block.octets() }]
}

/// The packet's address is (not) one of this node's. Of IPv6, loopback does not count: nobody outside could answer it.
pub fn is_local(ip: Ip, destination: bool) -> Vec<Expr> {
    let mut expressions = vec![
        Expr::AddressType { destination, to: 0 },
        Expr::Compare { from: 0, equal: true, value: ADDRESS_LOCAL.to_ne_bytes().to_vec() },
    ];
    if !ip.is_v4() && destination {
        expressions.push(ip.destination(0));
        expressions.push(Expr::Compare { from: 0, equal: false, value: Ipv6Addr::LOCALHOST.octets().to_vec() });
    }
    expressions
}

pub const NEW: u32 = 8;
/// `IPS_DST_NAT`
pub const TRANSLATED: u32 = 1 << 5;

/// Any (or none) of the bits is set.
pub fn has_bits(key: Conntrack, bits: u32, any: bool) -> [Expr; 3] {
    [
        Expr::Conntrack { key, to: 0 },
        Expr::Mask { from: 0, mask: bits.to_ne_bytes().to_vec(), to: 0 },
        Expr::Compare { from: 0, equal: !any, value: vec![0; 4] },
    ]
}

pub fn verdict_of(map: &str) -> Expr {
    Expr::Lookup { set: map.into(), from: 0, found: Found::Verdict }
}

pub fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.into()))
}

pub fn rule(parts: impl IntoIterator<Item = Vec<Expr>>) -> Vec<Expr> {
    parts.into_iter().flatten().collect()
}
