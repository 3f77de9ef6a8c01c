//! A name server's messages (RFC 1035): a question is read strictly, an answer is written from records. Pure; what is not a
//! plain question is refused or handed on as it came, and no byte of it is trusted (DN-01). Containers' resolver and the
//! cluster's name server both speak it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a container finds its resolver.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Seconds for which an answer of ours holds, as Docker's.
const TTL_SECS: u32 = 600;
/// A UDP answer without EDNS has at most this many bytes.
pub const UDP_MAX: usize = 512;
const HEADER: usize = 12;

pub const A: u16 = 1;
pub const NS: u16 = 2;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const PTR: u16 = 12;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;
const OPT: u16 = 41;
/// Any kind of record.
pub const ANY: u16 = 255;
/// The largest UDP answer, whatever a client says it takes: larger ones are cut into fragments on their way.
const EDNS_MAX: usize = 1232;
const CLASS_IN: u16 = 1;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub id: u16,
    /// Lower case, labels joined by dots, without the last dot.
    pub name: String,
    pub kind: u16,
    pub class: u16,
    /// Where the question ends in the message.
    end: usize,
}

/// How an answer ends, besides its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Fine = 0,
    Malformed = 1,
    Failed = 2,
    NoSuchName = 3,
    Refused = 5,
}

/// Names are without the last dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    Address(IpAddr),
    /// Whose address that is (PTR).
    Name(String),
    /// The name's own name is another (CNAME).
    Canonical(String),
    /// Where a service listens (SRV).
    Service {
        priority: u16,
        weight: u16,
        port: u16,
        target: String,
    },
    Text(String),
    /// Who answers for a zone (NS).
    Server(String),
    /// The beginning of a zone (SOA), with the seconds for which it holds that a name is not there.
    Zone {
        server: String,
        mailbox: String,
        serial: u32,
        negative_secs: u32,
    },
}

impl Record {
    pub fn kind(&self) -> u16 {
        match self {
            Self::Address(IpAddr::V4(_)) => A,
            Self::Address(IpAddr::V6(_)) => AAAA,
            Self::Name(_) => PTR,
            Self::Canonical(_) => CNAME,
            Self::Service { .. } => SRV,
            Self::Text(_) => TXT,
            Self::Server(_) => NS,
            Self::Zone { .. } => SOA,
        }
    }

    fn data(&self) -> Vec<u8> {
        match self {
            Self::Address(IpAddr::V4(address)) => address.octets().to_vec(),
            Self::Address(IpAddr::V6(address)) => address.octets().to_vec(),
            Self::Name(name) | Self::Canonical(name) | Self::Server(name) => write_name(name),
            Self::Service { priority, weight, port, target } => {
                let mut out = [priority, weight, port].into_iter().flat_map(|number| number.to_be_bytes()).collect();
                Vec::append(&mut out, &mut write_name(target));
                out
            }
            Self::Text(text) => {
                let text = &text.as_bytes()[..text.len().min(255)];
                let mut out = vec![text.len() as u8];
                out.extend_from_slice(text);
                out
            }
            Self::Zone { server, mailbox, serial, negative_secs } => {
                let mut out = [write_name(server), write_name(mailbox)].concat();
                // Refresh, retry and expiry are for secondary servers, of which there are none.
                for number in [*serial, 7200, 1800, 86400, *negative_secs] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
                out
            }
        }
    }
}

/// A record with the name that it is about; `None` is what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: Option<String>,
    pub ttl_secs: u32,
    pub record: Record,
}

/// An answer to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: Code,
    /// By one who knows, not by one who asked others.
    pub authoritative: bool,
    pub answers: Vec<Entry>,
    pub authority: Vec<Entry>,
    /// What the client will ask next. The first to be left out where there is no room.
    pub additional: Vec<Entry>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

impl Question {
    /// Reads a query with exactly one question. `None`: there is nothing to answer.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let flags = u16_at(message, 2)?;
        let (is_answer, operation) = (flags & 0x8000 != 0, flags >> 11 & 15);
        if is_answer || operation != 0 || u16_at(message, 4)? != 1 {
            return None;
        }
        let (name, at) = read_name(message, HEADER)?;
        Some(Self {
            id: u16_at(message, 0)?,
            name,
            kind: u16_at(message, at)?,
            class: u16_at(message, at + 2)?,
            end: at + 4,
        })
    }

    /// Whether it asks about what a container's name can be.
    pub fn is_internet(&self) -> bool {
        self.class == CLASS_IN
    }

    /// Whether an answer from elsewhere is one to this question.
    pub fn is_answered_by(&self, id: u16, message: &[u8]) -> bool {
        let answer = u16_at(message, 2).is_some_and(|flags| flags & 0x8000 != 0);
        let question = || {
            let (name, at) = read_name(message, HEADER)?;
            Some(name == self.name && u16_at(message, at)? == self.kind && u16_at(message, at + 2)? == self.class)
        };
        let asks = u16_at(message, 4);
        answer && u16_at(message, 0) == Some(id) && (asks == Some(0) || question() == Some(true))
    }
}

/// A name and where it ends. A question's name has no pointers: that one is refused.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        if length > 63 || name.len() + length > 253 {
            return None;
        }
        let label = message.get(at..at + length)?;
        at += length;
        if !name.is_empty() {
            name.push('.');
        }
        // A dot or a control character in a label would make two names of one text.
        for byte in label {
            match byte {
                b'.' | b'\\' => return None,
                0x21..=0x7e => name.push(byte.to_ascii_lowercase() as char),
                _ => return None,
            }
        }
    }
}

/// The answer to a query. With `bytes_max` the records that do not fit are left out and the message says so.
pub fn answer(query: &[u8], question: &Question, code: Code, records: &[Record], bytes_max: usize) -> Vec<u8> {
    let answers =
        records.iter().map(|record| Entry { name: None, ttl_secs: TTL_SECS, record: record.clone() }).collect();
    let reply = Reply { code, authoritative: false, answers, authority: Vec::new(), additional: Vec::new() };
    write(query, question, &reply, bytes_max)
}

/// As [`answer`], with everything that an answer can have.
pub fn write(query: &[u8], question: &Question, reply: &Reply, bytes_max: usize) -> Vec<u8> {
    let mut out = query.get(..question.end).unwrap_or_default().to_vec();
    let recursion = out.get(2).is_some_and(|flags| flags & 1 != 0);
    // An answer, by one that recurses.
    let flags = 0x8080 | u16::from(reply.authoritative) << 10 | u16::from(recursion) << 8 | reply.code as u16;
    out[2..4].copy_from_slice(&flags.to_be_bytes());
    out[6..12].fill(0);
    let extended = extension(query, question).is_some();
    let room = bytes_max - if extended { OPTION.len() } else { 0 };
    let sections = [&reply.answers, &reply.authority, &reply.additional];
    for (at, section) in sections.into_iter().enumerate() {
        let mut written = 0u16;
        for entry in section {
            let bytes = entry_bytes(entry);
            if out.len() + bytes.len() > room {
                // What is only a help to the client may be missing.
                out[2] |= if at == 2 { 0 } else { 2 };
                break;
            }
            out.extend_from_slice(&bytes);
            written += 1;
        }
        out[6 + 2 * at..8 + 2 * at].copy_from_slice(&written.to_be_bytes());
    }
    if extended {
        let count = u16_at(&out, 10).unwrap_or(0) + 1;
        out[10..12].copy_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&OPTION);
    }
    out
}

/// EDNS: the root's name, the kind, the largest answer that we take, and nothing else.
const OPTION: [u8; 11] = [0, 0, OPT as u8, (EDNS_MAX >> 8) as u8, EDNS_MAX as u8, 0, 0, 0, 0, 0, 0];

fn entry_bytes(entry: &Entry) -> Vec<u8> {
    let mut out = match &entry.name {
        // A pointer to the question's.
        None => vec![0xc0, HEADER as u8],
        Some(name) => write_name(name),
    };
    let data = entry.record.data();
    out.extend_from_slice(&entry.record.kind().to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&entry.ttl_secs.to_be_bytes());
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(&data);
    out
}

/// The largest answer that a client takes, if it says so after its question.
fn extension(query: &[u8], question: &Question) -> Option<usize> {
    let counts = [6, 8, 10].map(|at| u16_at(query, at).unwrap_or(0));
    let at = question.end;
    let is_option = counts == [0, 0, 1] && query.get(at) == Some(&0) && u16_at(query, at + 1) == Some(OPT);
    is_option.then(|| usize::from(u16_at(query, at + 3).unwrap_or(0)))
}

/// How many bytes an answer over UDP may have.
pub fn udp_max(query: &[u8], question: &Question) -> usize {
    extension(query, question).map_or(UDP_MAX, |asked| asked.clamp(UDP_MAX, EDNS_MAX))
}

/// A question for another name of the same kind.
pub fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[..2].copy_from_slice(&id.to_be_bytes());
    // Recursion desired, one question.
    (out[2], out[5]) = (1, 1);
    out.extend(write_name(name));
    out.extend(kind.to_be_bytes());
    out.extend(CLASS_IN.to_be_bytes());
    out
}

/// The addresses in somebody's answer, whatever names lead to them, with the seconds for which they hold.
pub fn addresses_in(message: &[u8]) -> Vec<(u32, IpAddr)> {
    let mut found = Vec::new();
    let mut read = || -> Option<()> {
        let mut at = HEADER;
        for _ in 0..u16_at(message, 4)? {
            at = skip_name(message, at)? + 4;
        }
        for _ in 0..u16_at(message, 6)? {
            at = skip_name(message, at)?;
            let kind = u16_at(message, at)?;
            let ttl = u32::from_be_bytes(message.get(at + 4..at + 8)?.try_into().ok()?);
            let length = usize::from(u16_at(message, at + 8)?);
            let data = message.get(at + 10..at + 10 + length)?;
            let address = match kind {
                A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
                AAAA => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
                _ => None,
            };
            found.extend(address.map(|address| (ttl, address)));
            at += 10 + length;
        }
        Some(())
    };
    // A message that is cut off has what came before.
    let _ = read();
    found
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

fn write_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        out.push(label.len() as u8);
        out.extend_from_slice(label);
    }
    out.push(0);
    out
}

/// The address that a reverse question asks about: `2.0.17.172.in-addr.arpa`.
pub fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = digits.split('.').rev().map(str::parse::<u8>);
        let mut next = || octets.next()?.ok();
        let address = Ipv4Addr::new(next()?, next()?, next()?, next()?);
        return octets.next().is_none().then_some(address.into());
    }
    let digits: Vec<u8> = name
        .strip_suffix(".ip6.arpa")?
        .split('.')
        .map(|digit| (digit.len() == 1).then(|| u8::from_str_radix(digit, 16).ok()).flatten())
        .collect::<Option<_>>()?;
    if digits.len() != 32 {
        return None;
    }
    let number = digits.iter().rev().fold(0u128, |number, digit| number << 4 | u128::from(*digit));
    Some(Ipv6Addr::from(number).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(write_name(name));
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message
    }

    #[test]
    fn a_question_reads_and_its_answer_points_back() {
        let message = query("Web.MyNet", A);
        let question = Question::parse(&message).unwrap();
        assert_eq!((question.id, question.name.as_str(), question.kind), (0x1234, "web.mynet", A));
        let records = [Record::Address([10, 0, 0, 2].into()), Record::Address([10, 0, 0, 3].into())];
        let out = answer(&message, &question, Code::Fine, &records, UDP_MAX);
        assert_eq!(&out[..12], [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
        assert_eq!(&out[message.len()..][..16], [0xc0, 12, 0, 1, 0, 1, 0, 0, 2, 88, 0, 4, 10, 0, 0, 2]);
        assert!(question.is_answered_by(0x1234, &out));
        assert!(!question.is_answered_by(0x1235, &out));
        assert!(!question.is_answered_by(0x1234, &message), "a question is no answer");
        let other = query("web.other", A);
        let other = answer(&other, &Question::parse(&other).unwrap(), Code::Fine, &[], UDP_MAX);
        assert!(!question.is_answered_by(0x1234, &other), "an answer to another question");
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        let message = query("many", A);
        let question = Question::parse(&message).unwrap();
        let records: Vec<Record> = (0..100).map(|n| Record::Address([10, 0, 0, n].into())).collect();
        let out = answer(&message, &question, Code::Fine, &records, UDP_MAX);
        assert!(out.len() <= UDP_MAX && out[2] & 2 != 0);
        assert_eq!(answer(&message, &question, Code::Fine, &records, 65535)[2] & 2, 0);
    }

    #[test]
    fn malformed_questions_are_none() {
        let good = query("a.b", A);
        for end in 0..good.len() {
            assert_eq!(Question::parse(&good[..end]), None, "cut at {end}");
        }
        let mut pointer = good.clone();
        pointer[12] = 0xc0;
        let mut answer = good.clone();
        answer[2] |= 0x80;
        let mut two = good.clone();
        two[5] = 2;
        let mut dotted = good.clone();
        dotted[13] = b'.';
        let long = query(&"abcdefgh.".repeat(40), A);
        for bad in [pointer, answer, two, dotted, long] {
            assert_eq!(Question::parse(&bad), None);
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        // A small generator with a fixed seed: every run sees the same bytes.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        let good = query("web.example", AAAA);
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..4 {
                let at = usize::from(next()) % bytes.len();
                bytes[at] = next();
            }
            if let Some(question) = Question::parse(&bytes) {
                let out = answer(&bytes, &question, Code::Failed, &[Record::Name("x.y".into())], UDP_MAX);
                assert!(question.is_answered_by(question.id, &out), "{bytes:?}");
            }
        }
    }

    #[test]
    fn reverse_names_are_addresses() {
        let rows = [
            ("2.0.17.172.in-addr.arpa", Some("172.17.0.2")),
            ("2.0.17.in-addr.arpa", None),
            ("1.2.0.17.172.in-addr.arpa", None),
            ("256.0.17.172.in-addr.arpa", None),
            ("web", None),
            ("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", Some("fd00::2")),
            ("20.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", None),
        ];
        for (name, wanted) in rows {
            assert_eq!(reversed(name), wanted.map(|text| text.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn an_answer_has_its_sections_and_says_what_it_takes() {
        let mut message = query("web.d.svc.cluster.local", SRV);
        message[11] = 1;
        message.extend([0, 0, OPT as u8, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        let question = Question::parse(&message).unwrap();
        assert_eq!(udp_max(&message, &question), EDNS_MAX);
        let entry = |name: Option<&str>, record| Entry { name: name.map(str::to_owned), ttl_secs: 5, record };
        let target = || "a.web.d.svc.cluster.local".to_owned();
        let reply = Reply {
            code: Code::Fine,
            authoritative: true,
            answers: vec![entry(None, Record::Service { priority: 0, weight: 100, port: 80, target: target() })],
            authority: Vec::new(),
            additional: vec![entry(Some(&target()), Record::Address([10, 0, 0, 2].into()))],
        };
        let out = write(&message, &question, &reply, EDNS_MAX);
        assert_eq!(&out[..12], [0x12, 0x34, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 2]);
        assert!(question.is_answered_by(0x1234, &out));
        assert_eq!(&out[out.len() - 11..], OPTION);
        assert_eq!(addresses_in(&out), [], "an address beside the answer is none of the answers");
        let plain = super::query(7, "x.y", A);
        let question = Question::parse(&plain).unwrap();
        assert_eq!((question.id, question.name.as_str(), udp_max(&plain, &question)), (7, "x.y", UDP_MAX));
        let records = [Record::Canonical("z".into()), Record::Address([10, 0, 0, 9].into())];
        let out = super::answer(&plain, &question, Code::Fine, &records, UDP_MAX);
        assert_eq!(addresses_in(&out), [(TTL_SECS, [10, 0, 0, 9].into())]);
        for end in 0..out.len() {
            assert!(addresses_in(&out[..end]).len() <= 1, "cut at {end}");
        }
    }
}
