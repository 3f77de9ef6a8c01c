//! Reading what other people's tables say of a hook, as the kernel writes it: names and attributes, without a meaning for either.

use super::{Family, HookPoint, Message, NFTABLES, header};
use crate::netlink::{NLA_TYPE_MASK, Socket};
use crate::{Errno, Error, Result};

const GETTABLE: u16 = 1;
const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const GETSET: u16 = 10;
const GETSETELEM: u16 = 13;
const GETGEN: u16 = 16;
/// `NFT_TABLE_F_DORMANT`: its chains are not called.
const DORMANT: u32 = 1;
/// How often a ruleset that changes under our eyes is read.
const ATTEMPTS: usize = 20;

/// Netlink attributes: types (with their flags) and values, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attributes(Vec<(u16, Vec<u8>)>);

impl Attributes {
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut all = Vec::new();
        while let Some(head) = bytes.get(..4) {
            let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            let Some(value) = bytes.get(4..length) else { break };
            all.push((u16::from_ne_bytes([head[2], head[3]]), value.to_vec()));
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Self(all)
    }

    pub fn get(&self, kind: u16) -> Option<&[u8]> {
        self.0.iter().find(|(own, _)| own & NLA_TYPE_MASK == kind).map(|(_, value)| value.as_slice())
    }

    pub fn nested(&self, kind: u16) -> Option<Self> {
        self.get(kind).map(Self::parse)
    }

    /// Values of all attributes of a kind, each a list of attributes.
    pub fn list(&self, kind: u16) -> impl Iterator<Item = Self> {
        self.0.iter().filter(move |(own, _)| own & NLA_TYPE_MASK == kind).map(|(_, value)| Self::parse(value))
    }

    pub fn string(&self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        Some(String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned())
    }

    pub fn be32(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// Puts a value in place of the one of this kind, or behind all.
    pub fn set(&mut self, kind: u16, value: Vec<u8>) {
        match self.0.iter_mut().find(|(own, _)| own & NLA_TYPE_MASK == kind) {
            Some((_, old)) => *old = value,
            None => self.0.push((kind, value)),
        }
    }

    pub fn set_string(&mut self, kind: u16, value: &str) {
        self.set(kind, [value.as_bytes(), b"\0"].concat());
    }

    /// Keeps attributes of these kinds only.
    pub fn keep(&mut self, kinds: &[u16]) {
        self.0.retain(|(own, _)| kinds.contains(&(own & NLA_TYPE_MASK)));
    }

    pub fn remove(&mut self, kind: u16) {
        self.0.retain(|(own, _)| own & NLA_TYPE_MASK != kind);
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut message = Message { bytes: Vec::new() };
        self.write(&mut message);
        message.bytes
    }

    /// How long [`Attributes::bytes`] would be.
    pub(super) fn length(&self) -> usize {
        self.0.iter().map(|(_, value)| 4 + value.len().next_multiple_of(4)).sum::<usize>() + 4
    }

    pub(super) fn write(&self, message: &mut Message) {
        self.0.iter().for_each(|(kind, value)| message.attribute(*kind, value));
    }
}

/// Somebody's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignTable {
    pub family: Family,
    pub name: String,
    pub chains: Vec<ForeignChain>,
    pub sets: Vec<ForeignSet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignChain {
    pub name: String,
    /// `None`: only other chains jump to it.
    pub hook: Option<ForeignHook>,
    pub rules: Vec<Vec<ForeignExpr>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignHook {
    /// `filter`, `nat`, `route`.
    pub kind: String,
    pub at: u32,
    pub priority: i32,
    pub accept: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignExpr {
    pub name: String,
    pub data: Attributes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignSet {
    pub name: String,
    pub attributes: Attributes,
    pub elements: Vec<Attributes>,
}

impl Socket {
    /// The tables (inet, ip, ip6) that have a chain at this hook and whose name `wanted` wants, all of one moment.
    pub fn foreign_tables(&mut self, at: HookPoint, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ForeignTable>> {
        for _ in 0..ATTEMPTS {
            let before = self.generation()?;
            let tables = self.foreign_tables_once(at, wanted);
            if self.generation()? == before {
                return tables;
            }
        }
        Err(Error::new("netlink", "read nftables, which change all the time", Errno::AGAIN))
    }

    /// Which transaction was the last.
    fn generation(&mut self) -> Result<u32> {
        let mut generation = 0;
        let message = Message::new(NFTABLES << 8 | GETGEN, 0, &[0, 0, 0, 0]);
        self.fetch(message, "read the generation of nftables", |_, body| {
            generation = answer(body).be32(1).unwrap_or_default();
        })?;
        Ok(generation)
    }

    fn foreign_tables_once(&mut self, at: HookPoint, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ForeignTable>> {
        let mut tables: Vec<ForeignTable> = Vec::new();
        let all = |kind: u16| Message::new(NFTABLES << 8 | kind, 0, &[0, 0, 0, 0]);
        self.dump(all(GETTABLE), "read nftables' tables", |_, body| {
            let table = answer(body);
            let (Some(family), Some(name)) = (family(body), table.string(1)) else { return };
            if wanted(&name) && table.be32(2).unwrap_or_default() & DORMANT == 0 {
                tables.push(ForeignTable { family, name, chains: Vec::new(), sets: Vec::new() });
            }
        })?;
        self.dump(all(GETCHAIN), "read nftables' chains", |_, body| {
            let chain = answer(body);
            let found = tables
                .iter_mut()
                .find(|table| Some(table.family) == family(body) && Some(&table.name) == chain.string(1).as_ref());
            let (Some(table), Some(name)) = (found, chain.string(3)) else { return };
            let hook = chain.nested(4).map(|hook| ForeignHook {
                kind: chain.string(7).unwrap_or_default(),
                at: hook.be32(1).unwrap_or(u32::MAX),
                priority: hook.be32(2).unwrap_or_default() as i32,
                accept: chain.be32(5) != Some(0),
            });
            table.chains.push(ForeignChain { name, hook, rules: Vec::new() });
        })?;
        let is_there = |chain: &ForeignChain| chain.hook.as_ref().is_some_and(|hook| hook.at == at as u32);
        tables.retain(|table| table.chains.iter().any(is_there));
        for table in &mut tables {
            let of_table = |kind: u16| {
                let mut message = Message::new(NFTABLES << 8 | kind, 0, &header(table.family, 0));
                message.string(1, &table.name);
                message
            };
            let (rules, sets) = (of_table(GETRULE), of_table(GETSET));
            self.dump(rules, format_args!("read rules of nftables table {}", table.name), |_, body| {
                let rule = answer(body);
                // Kernels before 4.7 tell of all tables.
                if family(body) != Some(table.family) || rule.string(1).as_ref() != Some(&table.name) {
                    return;
                }
                let chain = rule.string(2).unwrap_or_default();
                if let Some(chain) = table.chains.iter_mut().find(|known| known.name == chain) {
                    chain.rules.push(expressions(&rule));
                }
            })?;
            self.dump(sets, format_args!("read sets of nftables table {}", table.name), |_, body| {
                let attributes = answer(body);
                if let Some(name) = attributes.string(2) {
                    table.sets.push(ForeignSet { name, attributes, elements: Vec::new() });
                }
            })?;
            for set in &mut table.sets {
                let mut message = Message::new(NFTABLES << 8 | GETSETELEM, 0, &header(table.family, 0));
                message.string(1, &table.name);
                message.string(2, &set.name);
                let what = format_args!("read set {} of nftables table {}", set.name, table.name);
                self.dump(message, what, |_, body| {
                    let list = answer(body).nested(3).unwrap_or_default();
                    set.elements.extend(list.list(1));
                })?;
            }
        }
        Ok(tables)
    }
}

fn answer(body: &[u8]) -> Attributes {
    Attributes::parse(body.get(4..).unwrap_or_default())
}

fn family(body: &[u8]) -> Option<Family> {
    [Family::Inet, Family::Ip, Family::Ip6].into_iter().find(|family| body.first() == Some(&(*family as u8)))
}

fn expressions(rule: &Attributes) -> Vec<ForeignExpr> {
    let list = rule.nested(4).unwrap_or_default();
    list.list(1)
        .map(|expr| ForeignExpr { name: expr.string(1).unwrap_or_default(), data: expr.nested(2).unwrap_or_default() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_written_as_they_were_read() {
        let mut message = Message { bytes: Vec::new() };
        message.string(1, "lookup");
        message.nest(2, |inner| {
            inner.string(1, "__set0");
            inner.be32(2, 9);
            inner.attribute(5, &[7]);
        });
        let read = Attributes::parse(&message.bytes);
        assert_eq!(read.bytes(), message.bytes);
        assert_eq!((read.string(1).as_deref(), read.nested(2).unwrap().be32(2)), (Some("lookup"), Some(9)));
        let mut data = read.nested(2).unwrap();
        data.set_string(1, "other");
        data.remove(5);
        assert_eq!(Attributes::parse(&data.bytes()), data);
        assert_eq!((data.string(1).as_deref(), data.get(5)), (Some("other"), None));
        assert_eq!(Attributes::parse(&[40, 0, 1, 0, 5]), Attributes::default(), "cut input");
        assert_eq!(Attributes::parse(&[0; 8]), Attributes::default(), "a length of zero must not loop");
    }
}
