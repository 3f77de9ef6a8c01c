//! nftables as values: a [`Table`] is chains, rules, sets and maps; [`Socket::replace_table`] puts one in place of what was there,
//! atomically, and [`Socket::update_elements`] changes elements of its sets. Other people's tables are never touched; what they say
//! of a hook is read by [`Socket::foreign_tables`], as the kernel writes it, so that it can be said again in a table of ours
//! ([`Expr::Copied`], [`Data::Copied`]).
//!
//! Attribute numbers are those of `linux/netfilter/nf_tables.h`; all numbers on this wire are big endian.

mod change;
mod foreign;

use std::net::IpAddr;
use std::sync::Arc;

pub use change::{Change, difference};
pub use foreign::{Attributes, ForeignChain, ForeignExpr, ForeignHook, ForeignSet, ForeignTable};

use super::{
    HEADER, Message, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLMSG_ERROR, Socket, attributes, messages, verdict,
};
use crate::{Attempt, Result};

/// The address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Inet = 1,
    Ip = 2,
    Bridge = 7,
    Ip6 = 10,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub name: String,
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    /// `None` makes a chain that only other chains jump to.
    pub hook: Option<Hook>,
    pub rules: Vec<Vec<Expr>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    pub kind: HookKind,
    pub at: HookPoint,
    /// Lower runs earlier; -100 is destination NAT, 0 filtering, 100 source NAT.
    pub priority: i32,
    /// What happens to a packet that no rule decides.
    pub accept: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    Filter,
    Nat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A set, a map, or a verdict map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    /// The fields of a key, concatenated.
    pub key: Vec<Type>,
    pub data: Data,
    pub elements: Vec<Element>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Keys only.
    None,
    /// A value for each key, its fields concatenated.
    Values(Vec<Type>),
    Verdicts,
    /// Keys of one field that begin ranges, and keys that end them ([`Value::End`]).
    Ranges,
    /// A map that rules write themselves ([`Expr::Learn`]), each entry for a time; of at most this many entries.
    Learned(Vec<Type>, u32),
    /// The set's key and elements here are empty.
    Copied(Arc<CopiedSet>),
}

/// What the kernel said of somebody's set. It may be large: it is shared.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CopiedSet {
    pub attributes: Attributes,
    pub elements: Vec<Attributes>,
}

/// The type of a field, as `nft list` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Ipv4,
    Ipv6,
    /// tcp or udp
    Protocol,
    Port,
    Mac,
    Interface,
    /// A number of four bytes.
    Number,
}

impl Type {
    /// nft's own number for the type, and the field's length in bytes.
    const fn facts(self) -> (u32, u32) {
        match self {
            Self::Ipv4 => (7, 4),
            Self::Ipv6 => (8, 16),
            Self::Protocol => (12, 1),
            Self::Port => (13, 2),
            Self::Mac => (9, 6),
            Self::Interface => (41, 16),
            Self::Number => (19, 4),
        }
    }
}

/// One field of a key or value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    Address(IpAddr),
    Protocol(Protocol),
    Port(u16),
    Mac([u8; 6]),
    Interface(String),
    Number(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Field {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Address(IpAddr::V4(address)) => address.octets().to_vec(),
            Self::Address(IpAddr::V6(address)) => address.octets().to_vec(),
            Self::Protocol(protocol) => vec![*protocol as u8],
            Self::Port(port) => port.to_be_bytes().to_vec(),
            Self::Mac(mac) => mac.to_vec(),
            Self::Interface(name) => interface(name),
            Self::Number(number) => number.to_ne_bytes().to_vec(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<Field>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    None,
    Fields(Vec<Field>),
    Verdict(Verdict),
    /// The first key that a range does not have any more.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// A register, in units of four bytes: concatenated fields stand in successive ones.
pub type Register = u8;

/// One expression of a rule. A rule goes on as long as its comparisons hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    Meta {
        key: Meta,
        to: Register,
    },
    /// Bytes of a packet's header.
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        to: Register,
    },
    Conntrack {
        key: Conntrack,
        to: Register,
    },
    /// What kind of address the packet's source or destination is here.
    AddressType {
        destination: bool,
        to: Register,
    },
    Compare {
        from: Register,
        equal: bool,
        value: Vec<u8>,
    },
    /// `to = from & mask`
    Mask {
        from: Register,
        mask: Vec<u8>,
        to: Register,
    },
    /// The key in `from` is (or is not) in the set; where it is a map, its value goes to `to`, a verdict takes effect.
    Lookup {
        set: String,
        from: Register,
        found: Found,
    },
    /// `from` is between both values, or one of them. Compared as the bytes stand.
    Within {
        from: Register,
        first: Vec<u8>,
        last: Vec<u8>,
    },
    /// A random number below `below`, for each packet another one.
    Random {
        below: u32,
        to: Register,
    },
    /// Writes a value into a [`Data::Learned`] map, or makes it last anew.
    Learn {
        map: String,
        key: Register,
        value: Register,
        seconds: u64,
    },
    /// Takes a key out of a [`Data::Learned`] map. The kernel wants to see a register with a value as well.
    Forget {
        map: String,
        key: Register,
        value: Register,
    },
    /// Tells the sender that nobody listens there.
    Reject,
    Load {
        value: Vec<u8>,
        to: Register,
    },
    Verdict(Verdict),
    SourceNat {
        family: Family,
        address: Register,
    },
    DestinationNat {
        family: Family,
        address: Register,
        port: Option<Register>,
    },
    Masquerade,
    Counter,
    /// What the kernel said of somebody's expression.
    Copied {
        name: String,
        data: Attributes,
    },
    /// No expression: the protocol of which a rule's copied extensions of iptables are.
    Compat(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Match,
    NoMatch,
    Value(Register),
    Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// What a frame carries, as its header says.
    Protocol = 1,
    Mark = 3,
    InputName = 6,
    OutputName = 7,
    /// The network protocol's number: 2 is IPv4, 10 is IPv6.
    NetworkProtocol = 15,
    TransportProtocol = 16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conntrack {
    /// 2 is established, 4 related, 8 new (bits).
    State = 0,
    /// Bit 5: destination NAT.
    Status = 2,
    /// Where the connection's first packet was sent to, before any translation.
    OriginalPort = 12,
    OriginalIpv4 = 20,
    OriginalIpv6 = 22,
}

/// What `AddressType` gives for an address of this host (`RTN_LOCAL`).
pub const ADDRESS_LOCAL: u32 = 2;

/// An interface's name as the kernel compares it: all sixteen bytes.
pub fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

/// Elements in one message: a list attribute holds less than 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 300;
/// The same for copied elements, whose size is not ours.
const COPIED_BYTES_PER_MESSAGE: usize = 30_000;

/// Elements by the name of their set.
pub type Elements<'a> = &'a [(&'a str, Vec<Element>)];

impl Socket {
    /// Puts `table` in place of the table of that name, or makes it, in one transaction: no packet sees a state in between.
    pub fn replace_table(&mut self, table: &Table) -> Result<()> {
        self.replace_tables(std::slice::from_ref(table), &[])
    }

    /// The same with several, and takes others (of the name of the first) away.
    pub fn replace_tables(&mut self, tables: &[Table], gone: &[Family]) -> Result<()> {
        let Some(first) = tables.first() else { return Ok(()) };
        let mut batch = Batch::new(first.family);
        for family in gone {
            batch.family = *family;
            batch.table(NEWTABLE, &first.name);
            batch.table(DELTABLE, &first.name);
        }
        let mut ids = 1..;
        for table in tables {
            batch.family = table.family;
            batch.table(NEWTABLE, &table.name);
            batch.table(DELTABLE, &table.name);
            batch.whole(table, &mut ids);
        }
        self.commit(batch, format_args!("replace nftables table {}", first.name))
    }

    /// Makes a table that is not there; rules would be added to one that is. Nothing is taken away, so closing the socket does not
    /// wait until the kernel has given something back, some ten milliseconds.
    pub fn add_table(&mut self, table: &Table) -> Result<()> {
        let mut batch = Batch::new(table.family);
        batch.whole(table, &mut (1..));
        self.commit(batch, format_args!("add nftables table {}", table.name))
    }

    /// Removes the table and all in it; no error where there is none.
    pub fn remove_table(&mut self, family: Family, name: &str) -> Result<()> {
        let mut batch = Batch::new(family);
        batch.table(NEWTABLE, name);
        batch.table(DELTABLE, name);
        self.commit(batch, format_args!("remove nftables table {name}"))
    }

    /// Removes and adds elements of sets in one transaction. Removing what is not there fails with ENOENT and changes nothing.
    pub fn update_elements(
        &mut self,
        family: Family,
        table: &str,
        remove: &[(&str, Vec<Element>)],
        add: &[(&str, Vec<Element>)],
    ) -> Result<()> {
        self.update_tables(table, &[(family, remove, add)])
    }

    /// The same with the tables of one name in several families.
    pub fn update_tables(&mut self, table: &str, changes: &[(Family, Elements<'_>, Elements<'_>)]) -> Result<()> {
        let mut batch = Batch::new(Family::Inet);
        for (family, remove, add) in changes {
            batch.family = *family;
            for (set, elements) in *remove {
                batch.elements(DELSETELEM, table, set, elements);
            }
            for (set, elements) in *add {
                batch.elements(NEWSETELEM, table, set, elements);
            }
        }
        self.commit(batch, format_args!("update nftables table {table}"))
    }

    /// Whether the table is there: somebody may have flushed the ruleset.
    pub fn has_table(&mut self, family: Family, name: &str) -> Result<bool> {
        const GETTABLE: u16 = 1;
        let mut message = Message::new(NFTABLES << 8 | GETTABLE, 0, &header(family, 0));
        message.string(1, name);
        match self.request(message, format_args!("find nftables table {name}")) {
            Ok(()) => Ok(true),
            Err(error) if error.is(crate::Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn commit(&mut self, mut batch: Batch, what: std::fmt::Arguments<'_>) -> Result<()> {
        if batch.requests.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let mut add = |message: &mut Message, flags, sequence: &mut u32| {
            *sequence = sequence.wrapping_add(1);
            message.finish(flags, *sequence);
            bytes.extend_from_slice(&message.bytes);
        };
        let first = self.sequence;
        add(&mut batch_edge(BATCH_BEGIN), 0, &mut self.sequence);
        let last = batch.requests.len() - 1;
        for (index, request) in batch.requests.iter_mut().enumerate() {
            // One acknowledgement is enough: a message that fails answers whether asked or not.
            add(request, if index == last { NLM_F_ACK } else { 0 }, &mut self.sequence);
        }
        let acknowledged = self.sequence;
        add(&mut batch_edge(BATCH_END), 0, &mut self.sequence);
        // A ruleset of thousands of elements is larger than a socket's usual buffer; without the right to exceed the system's
        // limit the send says so.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&self.fd, bytes.len() + (64 << 10))
            .or_else(|_| rustix::net::sockopt::set_socket_send_buffer_size(&self.fd, bytes.len() + (64 << 10)));
        self.send_bytes(&bytes).attempt("netlink send", what)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let received = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.fd, &mut buffer[..], rustix::net::RecvFlags::empty())
            });
            let (length, _) = received.attempt("netlink recv", what)?;
            for (kind, sequence, body) in messages(&buffer[..length]) {
                let ours = sequence.wrapping_sub(first) <= self.sequence.wrapping_sub(first) && sequence != first;
                if kind != NLMSG_ERROR || !ours {
                    continue;
                }
                match batch.about(sequence.wrapping_sub(first).wrapping_sub(2) as usize) {
                    Some(part) => verdict(body, &format_args!("{what}: {part}"))?,
                    None => verdict(body, &what)?,
                }
                if sequence == acknowledged {
                    return Ok(());
                }
            }
        }
    }
}

pub(super) const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// `struct nfgenmsg`
fn header(family: Family, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family as u8, 0, high, low]
}

fn batch_edge(kind: u16) -> Message {
    Message::new(kind, 0, &[0, 0, 0, NFTABLES as u8])
}

struct Batch {
    family: Family,
    requests: Vec<Message>,
}

impl Batch {
    fn new(family: Family) -> Self {
        Self { family, requests: Vec::new() }
    }

    fn push(&mut self, kind: u16, flags: u16, write: impl FnOnce(&mut Message)) {
        let mut message = Message::new(NFTABLES << 8 | kind, flags, &header(self.family, 0));
        write(&mut message);
        self.requests.push(message);
    }

    /// What a request is about, for the error that it is answered with.
    fn about(&self, index: usize) -> Option<String> {
        let facts = |message: &Message| {
            let kind = u16::from_ne_bytes([message.bytes[4], message.bytes[5]]) & 0xff;
            let name = |wanted: u16| {
                let found = attributes(&message.bytes[HEADER + 4..]).find(|(kind, _)| *kind == wanted);
                found.map(|(_, name)| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
            };
            Some((kind, name(if kind == NEWCHAIN { 3 } else { 2 })?))
        };
        let (kind, name) = facts(self.requests.get(index)?)?;
        match kind {
            NEWCHAIN => Some(format!("chain {name}")),
            NEWSET => Some(format!("set {name}")),
            NEWSETELEM => Some(format!("elements of set {name}")),
            NEWRULE => {
                let same = |message: &&Message| facts(message).is_some_and(|other| other == (NEWRULE, name.clone()));
                let number = self.requests[..=index].iter().filter(same).count();
                Some(format!("rule {number} of chain {name}"))
            }
            _ => None,
        }
    }

    /// A table and all in it. Each set gets the next of `ids`, which name sets within a batch.
    fn whole(&mut self, table: &Table, ids: &mut impl Iterator<Item = u32>) {
        self.table(NEWTABLE, &table.name);
        for chain in &table.chains {
            self.chain(&table.name, chain);
        }
        for (set, id) in table.sets.iter().zip(ids) {
            self.set(&table.name, set, id);
            self.contents(&table.name, set);
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                self.rule(&table.name, &chain.name, rule);
            }
        }
    }

    fn table(&mut self, kind: u16, name: &str) {
        let flags = if kind == NEWTABLE { NLM_F_CREATE } else { 0 };
        self.push(kind, flags, |message| {
            message.string(1, name);
            if kind == NEWTABLE {
                message.be32(2, 0);
            }
        });
    }

    fn chain(&mut self, table: &str, chain: &Chain) {
        self.push(NEWCHAIN, NLM_F_CREATE, |message| {
            message.string(1, table);
            message.string(3, &chain.name);
            let Some(hook) = chain.hook else { return };
            message.nest(4, |inner| {
                inner.be32(1, hook.at as u32);
                inner.be32(2, hook.priority as u32);
            });
            message.be32(5, u32::from(hook.accept));
            message.string(
                7,
                match hook.kind {
                    HookKind::Filter => "filter",
                    HookKind::Nat => "nat",
                },
            );
        });
    }

    fn set(&mut self, table: &str, set: &Set, id: u32) {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        const TIMEOUT: u32 = 0x10;
        const EVAL: u32 = 0x20;
        const VERDICT_TYPE: u32 = 0xffff_ff00;
        let (key_type, key_length) = concatenated(&set.key);
        self.push(NEWSET, NLM_F_CREATE, |message| {
            message.string(1, table);
            message.string(2, &set.name);
            if let Data::Copied(copied) = &set.data {
                copied.attributes.write(message);
                return message.be32(10, id);
            }
            let flags = match &set.data {
                Data::None | Data::Copied(..) => 0,
                Data::Values(_) | Data::Verdicts => MAP,
                Data::Ranges => INTERVAL,
                Data::Learned(..) => MAP | TIMEOUT | EVAL,
            };
            message.be32(3, flags);
            message.be32(4, key_type);
            message.be32(5, key_length);
            match &set.data {
                Data::None | Data::Ranges | Data::Copied(..) => {}
                Data::Values(types) | Data::Learned(types, _) => {
                    let (data_type, data_length) = concatenated(types);
                    message.be32(6, data_type);
                    message.be32(7, data_length);
                }
                Data::Verdicts => {
                    message.be32(6, VERDICT_TYPE);
                    message.be32(7, 0);
                }
            }
            if let Data::Learned(_, size) = &set.data {
                message.nest(9, |description| description.be32(1, *size));
            }
            message.be32(10, id);
        });
    }

    /// What a new set has from its beginning.
    fn contents(&mut self, table: &str, set: &Set) {
        let Data::Copied(copied) = &set.data else {
            return self.elements(NEWSETELEM, table, &set.name, &set.elements);
        };
        let mut rest = copied.elements.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |element: &&Attributes| {
                bytes += element.length();
                bytes < COPIED_BYTES_PER_MESSAGE
            };
            let (part, left) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = left;
            self.push(NEWSETELEM, NLM_F_CREATE, |message| {
                message.string(1, table);
                message.string(2, &set.name);
                message.nest(3, |list| part.iter().for_each(|element| list.nest(1, |inner| element.write(inner))));
            });
        }
    }

    fn elements(&mut self, kind: u16, table: &str, set: &str, elements: &[Element]) {
        let flags = if kind == NEWSETELEM { NLM_F_CREATE } else { 0 };
        for part in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push(kind, flags, |message| {
                message.string(1, table);
                message.string(2, set);
                message.nest(3, |list| {
                    part.iter().for_each(|element| list.nest(1, |inner| write_element(inner, element)))
                });
            });
        }
    }

    fn rule(&mut self, table: &str, chain: &str, rule: &[Expr]) {
        self.push(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |message| {
            message.string(1, table);
            message.string(2, chain);
            let expressions = rule.iter().filter(|expr| !matches!(expr, Expr::Compat(_)));
            message.nest(4, |list| expressions.for_each(|expr| list.nest(1, |inner| write_expr(inner, expr))));
            if let Some(Expr::Compat(protocol)) = rule.iter().find(|expr| matches!(expr, Expr::Compat(_))) {
                message.nest(5, |compat| {
                    compat.be32(1, (*protocol).into());
                    compat.be32(2, 0);
                });
            }
        });
    }
}

/// nft's type number and the length of fields that stand one after another, each on a boundary of four bytes.
fn concatenated(types: &[Type]) -> (u32, u32) {
    match types {
        [one] => one.facts(),
        several => several.iter().fold((0, 0), |(number, length), one| {
            let (own, bytes) = one.facts();
            (number << 6 | own, length + bytes.next_multiple_of(4))
        }),
    }
}

fn joined(fields: &[Field]) -> Vec<u8> {
    if let [one] = fields {
        return one.bytes();
    }
    let mut all = Vec::new();
    for field in fields {
        all.extend(field.bytes());
        all.resize(all.len().next_multiple_of(4), 0);
    }
    all
}

fn write_element(message: &mut Message, element: &Element) {
    message.nest(1, |key| key.attribute(1, &joined(&element.key)));
    match &element.value {
        Value::None => {}
        Value::End => message.be32(3, 1),
        Value::Fields(fields) => message.nest(2, |data| data.attribute(1, &joined(fields))),
        Value::Verdict(verdict) => message.nest(2, |data| write_verdict(data, verdict)),
    }
}

fn write_verdict(message: &mut Message, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5i32, None),
    };
    message.nest(2, |inner| {
        inner.be32(1, code as u32);
        if let Some(chain) = chain {
            inner.string(2, chain);
        }
    });
}

/// `NFT_REG32_00` and on.
fn register(register: Register) -> u32 {
    8 + u32::from(register)
}

fn write_expr(message: &mut Message, expr: &Expr) {
    const EQUAL: u32 = 0;
    const NOT_EQUAL: u32 = 1;
    const INVERT: u32 = 1;
    let mut write = |name: &str, body: &dyn Fn(&mut Message)| {
        message.string(1, name);
        message.nest(2, body);
    };
    match expr {
        Expr::Meta { key, to } => write("meta", &|data| {
            data.be32(1, register(*to));
            data.be32(2, *key as u32);
        }),
        Expr::Payload { base, offset, length, to } => write("payload", &|data| {
            data.be32(1, register(*to));
            data.be32(2, *base as u32);
            data.be32(3, *offset);
            data.be32(4, *length);
        }),
        Expr::Conntrack { key, to } => write("ct", &|data| {
            data.be32(1, register(*to));
            data.be32(2, *key as u32);
            if !matches!(key, Conntrack::State | Conntrack::Status) {
                data.attribute(3, &[0]);
            }
        }),
        Expr::AddressType { destination, to } => write("fib", &|data| {
            const ADDRESS_TYPE: u32 = 3;
            data.be32(1, register(*to));
            data.be32(2, ADDRESS_TYPE);
            data.be32(3, if *destination { 2 } else { 1 });
        }),
        Expr::Compare { from, equal, value } => write("cmp", &|data| {
            data.be32(1, register(*from));
            data.be32(2, if *equal { EQUAL } else { NOT_EQUAL });
            data.nest(3, |inner| inner.attribute(1, value));
        }),
        Expr::Mask { from, mask, to } => write("bitwise", &|data| {
            data.be32(1, register(*from));
            data.be32(2, register(*to));
            data.be32(3, mask.len() as u32);
            data.nest(4, |inner| inner.attribute(1, mask));
            data.nest(5, |inner| inner.attribute(1, &vec![0; mask.len()]));
        }),
        Expr::Lookup { set, from, found } => write("lookup", &|data| {
            data.string(1, set);
            data.be32(2, register(*from));
            match found {
                Found::Match => {}
                Found::NoMatch => data.be32(5, INVERT),
                Found::Value(to) => data.be32(3, register(*to)),
                Found::Verdict => data.be32(3, 0),
            }
        }),
        Expr::Within { from, first, last } => write("range", &|data| {
            data.be32(1, register(*from));
            data.be32(2, EQUAL);
            data.nest(3, |inner| inner.attribute(1, first));
            data.nest(4, |inner| inner.attribute(1, last));
        }),
        Expr::Random { below, to } => write("numgen", &|data| {
            const RANDOM: u32 = 1;
            data.be32(1, register(*to));
            data.be32(2, *below);
            data.be32(3, RANDOM);
        }),
        Expr::Learn { map, key, value, seconds } => write("dynset", &|data| {
            const UPDATE: u32 = 1;
            data.string(1, map);
            data.be32(3, UPDATE);
            data.be32(4, register(*key));
            data.be32(5, register(*value));
            data.attribute(6, &(seconds * 1000).to_be_bytes());
        }),
        Expr::Forget { map, key, value } => write("dynset", &|data| {
            const DELETE: u32 = 2;
            data.string(1, map);
            data.be32(3, DELETE);
            data.be32(4, register(*key));
            data.be32(5, register(*value));
        }),
        Expr::Reject => write("reject", &|data| {
            const ANY_FAMILY: u32 = 2;
            const PORT_UNREACHABLE: u8 = 1;
            data.be32(1, ANY_FAMILY);
            data.attribute(2, &[PORT_UNREACHABLE]);
        }),
        Expr::Load { value, to } => write("immediate", &|data| {
            data.be32(1, register(*to));
            data.nest(2, |inner| inner.attribute(1, value));
        }),
        Expr::Verdict(verdict) => write("immediate", &|data| {
            data.be32(1, 0);
            data.nest(2, |inner| write_verdict(inner, verdict));
        }),
        Expr::SourceNat { family, address } => write("nat", &|data| {
            data.be32(1, 0);
            data.be32(2, *family as u32);
            data.be32(3, register(*address));
        }),
        Expr::DestinationNat { family, address, port } => write("nat", &|data| {
            data.be32(1, 1);
            data.be32(2, *family as u32);
            data.be32(3, register(*address));
            if let Some(port) = port {
                data.be32(5, register(*port));
            }
        }),
        Expr::Masquerade => write("masq", &|_| {}),
        Expr::Counter => write("counter", &|_| {}),
        Expr::Copied { name, data } => write(name, &|message| data.write(message)),
        Expr::Compat(_) => {}
    }
}
