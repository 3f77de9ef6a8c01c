//! What Kubernetes adds to CEL: quantities, URLs, addresses and networks, semantic versions, named formats.

use std::cmp::Ordering;
use std::net::IpAddr;

use vocab::quantity::Quantity;

use crate::EvalError;
use crate::library::{failed, regex, text_map};
use crate::value::Val;

type Made = Result<Val, EvalError>;

pub const FUNCTIONS: &[(&str, &[usize])] = &[
    ("quantity", &[1]),
    ("isQuantity", &[1]),
    ("sign", &[1]),
    ("isInteger", &[1]),
    ("asInteger", &[1]),
    ("asApproximateFloat", &[1]),
    ("add", &[2]),
    ("sub", &[2]),
    ("isGreaterThan", &[2]),
    ("isLessThan", &[2]),
    ("compareTo", &[2]),
    ("url", &[1]),
    ("isURL", &[1]),
    ("getScheme", &[1]),
    ("getHost", &[1]),
    ("getHostname", &[1]),
    ("getPort", &[1]),
    ("getEscapedPath", &[1]),
    ("getQuery", &[1]),
    ("ip", &[1]),
    ("isIP", &[1]),
    ("ip.isCanonical", &[1]),
    ("family", &[1]),
    ("isUnspecified", &[1]),
    ("isLoopback", &[1]),
    ("isLinkLocalMulticast", &[1]),
    ("isLinkLocalUnicast", &[1]),
    ("isGlobalUnicast", &[1]),
    ("cidr", &[1]),
    ("isCIDR", &[1]),
    ("containsIP", &[2]),
    ("containsCIDR", &[2]),
    ("masked", &[1]),
    ("prefixLength", &[1]),
    ("semver", &[1, 2]),
    ("isSemver", &[1, 2]),
    ("major", &[1]),
    ("minor", &[1]),
    ("patch", &[1]),
    ("format.dns1123Label", &[0]),
    ("format.dns1123Subdomain", &[0]),
    ("format.dns1035Label", &[0]),
    ("format.qualifiedName", &[0]),
    ("format.dns1123LabelPrefix", &[0]),
    ("format.dns1123SubdomainPrefix", &[0]),
    ("format.dns1035LabelPrefix", &[0]),
    ("format.labelValue", &[0]),
    ("format.uri", &[0]),
    ("format.uuid", &[0]),
    ("format.byte", &[0]),
    ("format.date", &[0]),
    ("format.datetime", &[0]),
    ("format.named", &[1]),
    ("validate", &[2]),
];

/// A URL as Go takes it apart: absolute, or a path that begins with a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    pub fn parse(text: &str) -> Option<Self> {
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return None;
        }
        let rest = text.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let made = |scheme: &str, host: &str, path: &str| {
            Some(Self {
                text: text.to_owned(),
                scheme: scheme.to_owned(),
                host: host.to_owned(),
                path: path.to_owned(),
                query: query.to_owned(),
            })
        };
        if rest.starts_with('/') {
            return made("", "", rest);
        }
        let (scheme, rest) = rest.split_once("://")?;
        let good = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        if !good {
            return None;
        }
        let end = rest.find('/').unwrap_or(rest.len());
        let host = rest[..end].rsplit('@').next().unwrap_or_default();
        let port = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or("", |(_, port)| port);
        if !port.bytes().all(|byte| byte.is_ascii_digit()) || (host.starts_with('[') && !host.contains(']')) {
            return None;
        }
        made(&scheme.to_ascii_lowercase(), host, &rest[end..])
    }

    fn port(&self) -> &str {
        self.host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or("", |(_, port)| port)
    }

    fn hostname(&self) -> &str {
        let end = self.host.len() - if self.port().is_empty() { 0 } else { self.port().len() + 1 };
        self.host[..end].trim_start_matches('[').trim_end_matches(']')
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip(pub IpAddr);

/// An address without zone, and no IPv4 address in IPv6's clothes.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let ip: IpAddr = text.parse().ok()?;
    (!matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())).then_some(ip)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    ip: IpAddr,
    length: u8,
}

impl Cidr {
    fn parse(text: &str) -> Option<Self> {
        let (ip, length) = text.split_once('/')?;
        let (ip, length) = (parse_ip(ip)?, length.parse().ok()?);
        (length <= if ip.is_ipv4() { 32 } else { 128 }).then_some(Self { ip, length })
    }

    fn bits(ip: IpAddr) -> (u128, u8) {
        match ip {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
            IpAddr::V6(ip) => (u128::from(ip), 128),
        }
    }

    fn mask(&self) -> u128 {
        if self.length == 0 { 0 } else { u128::MAX << (128 - u32::from(self.length)) }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let ((own, own_size), (other, size)) = (Self::bits(self.ip), Self::bits(ip));
        own_size == size && own & self.mask() == other & self.mask()
    }

    fn masked(&self) -> Self {
        let (bits, size) = Self::bits(self.ip);
        let bits = bits & self.mask();
        let ip = match size {
            32 => IpAddr::V4(((bits >> 96) as u32).into()),
            _ => IpAddr::V6(bits.into()),
        };
        Self { ip, length: self.length }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
    build: String,
}

impl Semver {
    fn parse(text: &str) -> Option<Self> {
        let (rest, build) = text.split_once('+').unwrap_or((text, ""));
        let (core, pre) = match rest.split_once('-') {
            Some((core, pre)) => (core, pre.split('.').map(str::to_owned).collect()),
            None => (rest, Vec::new()),
        };
        let parts: Vec<&str> = core.split('.').collect();
        let number = |part: &str| {
            let plain = part == "0" || (!part.starts_with('0') && !part.is_empty());
            if plain && part.bytes().all(|b| b.is_ascii_digit()) { part.parse().ok() } else { None }
        };
        let [major, minor, patch] = parts[..] else { return None };
        let word = |part: &String| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if !pre.iter().all(word) {
            return None;
        }
        Some(Self { numbers: [number(major)?, number(minor)?, number(patch)?], pre, build: build.to_owned() })
    }

    fn normalized(text: &str) -> String {
        let text = text.strip_prefix('v').unwrap_or(text);
        let end = text.find(['-', '+']).unwrap_or(text.len());
        let mut parts: Vec<String> = text[..end]
            .split('.')
            .map(|part| {
                let short = part.trim_start_matches('0');
                if short.is_empty() && !part.is_empty() { "0".to_owned() } else { short.to_owned() }
            })
            .collect();
        while parts.len() < 3 {
            parts.push("0".into());
        }
        format!("{}{}", parts.join("."), &text[end..])
    }

    fn order(&self, other: &Self) -> Ordering {
        let identifier = |a: &String, b: &String| match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            _ => a.cmp(b),
        };
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let pairs = self.pre.iter().zip(&other.pre).map(|(a, b)| identifier(a, b));
                pairs.into_iter().find(|order| order.is_ne()).unwrap_or(self.pre.len().cmp(&other.pre.len()))
            }
        })
    }
}

/// The order of values that lists can be sorted by.
pub fn compare(a: &Val, b: &Val) -> Option<Ordering> {
    match (a, b) {
        (Val::Quantity(a), Val::Quantity(b)) => Some(a.nanos().cmp(&b.nanos())),
        (Val::Semver(a), Val::Semver(b)) => Some(a.order(b)),
        _ => a.order(b),
    }
}

pub fn to_text(value: &Val) -> Option<String> {
    Some(match value {
        Val::Ip(ip) => ip.0.to_string(),
        Val::Cidr(cidr) => format!("{}/{}", cidr.ip, cidr.length),
        Val::Url(url) => url.text.clone(),
        Val::Quantity(quantity) => quantity.canonical(),
        Val::Semver(version) => {
            let [major, minor, patch] = version.numbers;
            let pre = if version.pre.is_empty() { String::new() } else { format!("-{}", version.pre.join(".")) };
            let build = if version.build.is_empty() { String::new() } else { format!("+{}", version.build) };
            format!("{major}.{minor}.{patch}{pre}{build}")
        }
        _ => return None,
    })
}

fn quantity(value: &Val) -> Option<Quantity> {
    match value {
        Val::Quantity(quantity) => Some(*quantity),
        Val::Int(number) => {
            Some(Quantity::from_nanos(i128::from(*number) * 1_000_000_000, vocab::quantity::Format::Decimal))
        }
        _ => None,
    }
}

/// `None` if it is no function of Kubernetes, or of no such arguments.
pub fn call(name: &str, args: &[Val]) -> Option<Made> {
    use Val::*;
    let sign = |order: Ordering| Int(order as i64);
    const NANO: i128 = 1_000_000_000;
    Some(Ok(match (name, args) {
        ("quantity", [Text(text)]) => match vocab::quantity::Quantity::parse(text) {
            Ok(made) => Quantity(made),
            Err(error) => return Some(Err(failed(error.to_string()))),
        },
        ("isQuantity", [Text(text)]) => vocab::quantity::Quantity::parse(text).is_ok().into(),
        ("sign", [Quantity(one)]) => Int(one.nanos().signum() as i64),
        ("isInteger", [Quantity(one)]) => (one.nanos() % NANO == 0 && i64::try_from(one.nanos() / NANO).is_ok()).into(),
        ("asInteger", [Quantity(one)]) => match (one.nanos() % NANO, i64::try_from(one.nanos() / NANO)) {
            (0, Ok(number)) => Int(number),
            _ => return Some(Err(failed("cannot convert value to integer"))),
        },
        ("asApproximateFloat", [Quantity(one)]) => Double(one.nanos() as f64 / NANO as f64),
        ("add" | "sub", [Quantity(one), other]) => {
            let other = quantity(other)?;
            let sum = match name {
                "add" => one.nanos().checked_add(other.nanos()),
                _ => one.nanos().checked_sub(other.nanos()),
            };
            match sum {
                Some(nanos) => Quantity(vocab::quantity::Quantity::from_nanos(nanos, one.format)),
                None => return Some(Err(failed("quantity overflow"))),
            }
        }
        ("isGreaterThan", [Quantity(a), Quantity(b)]) => (a.nanos() > b.nanos()).into(),
        ("isLessThan", [Quantity(a), Quantity(b)]) => (a.nanos() < b.nanos()).into(),
        ("compareTo", [Quantity(a), Quantity(b)]) => sign(a.nanos().cmp(&b.nanos())),
        ("isGreaterThan", [Semver(a), Semver(b)]) => (a.order(b) == Ordering::Greater).into(),
        ("isLessThan", [Semver(a), Semver(b)]) => (a.order(b) == Ordering::Less).into(),
        ("compareTo", [Semver(a), Semver(b)]) => sign(a.order(b)),
        ("url", [Text(text)]) => match self::Url::parse(text) {
            Some(url) => Url(url.into()),
            None => return Some(Err(failed(format!("URL parse error during conversion from string: {text:?}")))),
        },
        ("isURL", [Text(text)]) => self::Url::parse(text).is_some().into(),
        ("getScheme", [Url(url)]) => url.scheme.as_str().into(),
        ("getHost", [Url(url)]) => url.host.as_str().into(),
        ("getHostname", [Url(url)]) => url.hostname().into(),
        ("getPort", [Url(url)]) => url.port().into(),
        ("getEscapedPath", [Url(url)]) => url.path.as_str().into(),
        ("getQuery", [Url(url)]) => {
            let mut found: std::collections::BTreeMap<String, Vec<Val>> = std::collections::BTreeMap::new();
            for pair in url.query.split('&').filter(|pair| !pair.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                found.entry(key.to_owned()).or_default().push(value.into());
            }
            text_map(found.into_iter().map(|(key, values)| (key, values.into())))
        }
        ("ip", [Text(text)]) => match parse_ip(text) {
            Some(ip) => Ip(self::Ip(ip)),
            None => return Some(Err(failed(format!("IP Address {text:?} parse error during conversion from string")))),
        },
        ("ip", [Cidr(cidr)]) => Ip(self::Ip(cidr.ip)),
        ("isIP", [Text(text)]) => parse_ip(text).is_some().into(),
        ("ip.isCanonical", [Text(text)]) => match parse_ip(text) {
            Some(ip) => (ip.to_string() == **text).into(),
            None => return Some(Err(failed(format!("IP Address {text:?} parse error")))),
        },
        ("family", [Ip(ip)]) => Int(if ip.0.is_ipv4() { 4 } else { 6 }),
        ("isUnspecified", [Ip(ip)]) => ip.0.is_unspecified().into(),
        ("isLoopback", [Ip(ip)]) => ip.0.is_loopback().into(),
        ("isLinkLocalMulticast", [Ip(ip)]) => match ip.0 {
            IpAddr::V4(ip) => ip.octets().starts_with(&[224, 0, 0]),
            IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
        }
        .into(),
        ("isLinkLocalUnicast", [Ip(ip)]) => is_link_local(ip.0).into(),
        ("isGlobalUnicast", [Ip(ip)]) => {
            let broadcast = matches!(ip.0, IpAddr::V4(ip) if ip.is_broadcast());
            let special = ip.0.is_unspecified() || ip.0.is_loopback() || ip.0.is_multicast() || is_link_local(ip.0);
            (!broadcast && !special).into()
        }
        ("cidr", [Text(text)]) => match self::Cidr::parse(text) {
            Some(cidr) => Cidr(cidr),
            None => {
                return Some(Err(failed(format!(
                    "network address parse error during conversion from string: {text:?}"
                ))));
            }
        },
        ("isCIDR", [Text(text)]) => self::Cidr::parse(text).is_some().into(),
        ("containsIP", [Cidr(cidr), Ip(ip)]) => cidr.contains(ip.0).into(),
        ("containsIP", [Cidr(cidr), Text(text)]) => cidr.contains(parse_ip(text)?).into(),
        ("containsCIDR", [Cidr(cidr), Cidr(other)]) => (cidr.length <= other.length && cidr.contains(other.ip)).into(),
        ("containsCIDR", [Cidr(cidr), Text(text)]) => {
            let other = self::Cidr::parse(text)?;
            (cidr.length <= other.length && cidr.contains(other.ip)).into()
        }
        ("masked", [Cidr(cidr)]) => Cidr(cidr.masked()),
        ("prefixLength", [Cidr(cidr)]) => Int(i64::from(cidr.length)),
        ("semver" | "isSemver", [Text(text), rest @ ..]) => {
            let made = match rest {
                [Bool(true)] => self::Semver::parse(&self::Semver::normalized(text)),
                [] | [Bool(false)] => self::Semver::parse(text),
                _ => return None,
            };
            match (name, made) {
                ("isSemver", made) => made.is_some().into(),
                (_, Some(made)) => Semver(made.into()),
                (_, None) => return Some(Err(failed(format!("Invalid character(s) found in version {text:?}")))),
            }
        }
        ("major", [Semver(version)]) => Int(version.numbers[0] as i64),
        ("minor", [Semver(version)]) => Int(version.numbers[1] as i64),
        ("patch", [Semver(version)]) => Int(version.numbers[2] as i64),
        ("format.named", [Text(wanted)]) => match FORMATS.iter().find(|(own, _)| *own == &**wanted) {
            Some((own, _)) => Optional(Some(Format(own).into())),
            None => Optional(None),
        },
        (name, []) if name.starts_with("format.") => {
            let wanted = &name["format.".len()..];
            Format(FORMATS.iter().find(|(own, _)| *own == wanted)?.0)
        }
        ("validate", [Format(format), Text(text)]) => match validate(format, text) {
            None => Optional(None),
            Some(fault) => Optional(Some(Val::from(vec![fault.into()]).into())),
        },
        _ => return None,
    }))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Named formats and the expression that a text must match, where that is all.
const FORMATS: [(&str, &str); 13] = [
    ("dns1123Label", LABEL),
    ("dns1123Subdomain", SUBDOMAIN),
    ("dns1035Label", "^[a-z]([-a-z0-9]*[a-z0-9])?$"),
    ("qualifiedName", r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"),
    ("dns1123LabelPrefix", "^[a-z0-9]([-a-z0-9]*)$"),
    ("dns1123SubdomainPrefix", r"^[a-z0-9]([-.a-z0-9]*)$"),
    ("dns1035LabelPrefix", "^[a-z]([-a-z0-9]*)$"),
    ("labelValue", "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"),
    ("uri", ""),
    ("uuid", "^(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"),
    ("byte", "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"),
    ("date", r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$"),
    ("datetime", ""),
];

/// What is wrong with a text of a named format.
fn validate(format: &str, text: &str) -> Option<String> {
    let longest = match format {
        "dns1123Label" | "dns1035Label" | "dns1123LabelPrefix" | "dns1035LabelPrefix" | "labelValue" => 63,
        "dns1123Subdomain" | "dns1123SubdomainPrefix" => 253,
        _ => usize::MAX,
    };
    if text.len() > longest {
        return Some(format!("must be no more than {longest} bytes"));
    }
    let good = match format {
        "uri" => Url::parse(text).is_some(),
        "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        _ => {
            let pattern = FORMATS.iter().find(|(own, _)| *own == format).map_or("", |(_, pattern)| pattern);
            regex(pattern).is_ok_and(|regex| regex.is_match(text))
        }
    };
    (!good).then(|| format!("does not match the format {format}"))
}
