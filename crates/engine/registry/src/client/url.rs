//! Addresses of registries and of what they redirect to. Pure.

use std::fmt;

/// Scheme, host and port: what a password may be sent to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) https: bool,
    /// In lower case; IPv6 in brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Path and query, from the first slash on.
    pub(crate) path: String,
}

impl Origin {
    /// `host[:port]`, where the port is the scheme's own if it is missing.
    pub(crate) fn parse(https: bool, authority: &str) -> Option<Self> {
        let clean =
            |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (format!("[{address}]"), after.strip_prefix(':').or((after.is_empty()).then_some("")))
            }
            None => {
                let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
                clean(host).then(|| (host.to_owned(), Some(port)))?
            }
        };
        let port = match port? {
            "" if https => 443,
            "" => 80,
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            _ => return None,
        };
        Some(Self { https, host: host.to_ascii_lowercase(), port })
    }

    /// The host as the system's resolver takes it.
    pub(crate) fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// What a `Host` header says: the port only where it is not the usual one.
    pub(crate) fn authority(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.bare_host();
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    pub(crate) fn url(&self, path: impl Into<String>) -> Url {
        Url { origin: self.clone(), path: path.into() }
    }
}

impl Url {
    /// An absolute address. Users, passwords and fragments in it are refused or dropped.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (https, rest) = match text.split_once("://")? {
            (scheme, rest) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            (scheme, rest) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return None,
        };
        let rest = rest.split('#').next()?;
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        clean_path(&path).then_some(())?;
        Some(Self { origin: Origin::parse(https, authority)?, path })
    }

    /// What a `Location` means that came as the answer of this address.
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        if location.contains("://") && !location.starts_with('/') {
            return Self::parse(location);
        }
        let location = location.split('#').next()?;
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", if self.origin.https { "https" } else { "http" }));
        }
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let own = self.path.split('?').next()?;
            format!("{}/{location}", own.rsplit_once('/')?.0)
        };
        clean_path(&path).then(|| self.origin.url(path))
    }

    /// With more to its query.
    pub(crate) fn with(&self, query: &str) -> Self {
        let sign = if self.path.contains('?') { '&' } else { '?' };
        self.origin.url(format!("{}{sign}{query}", self.path))
    }
}

/// No spaces and no control characters: what goes into a request line.
fn clean_path(path: &str) -> bool {
    path.bytes().all(|b| b.is_ascii_graphic())
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.origin.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.origin.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print() {
        for (text, expected) in [
            ("https://r.example/v2/", Some("https://r.example/v2/")),
            ("HTTP://R.example:80", Some("http://r.example/")),
            ("http://[::1]:5000/x?y=1#z", Some("http://[::1]:5000/x?y=1")),
            ("https://r:443/a", Some("https://r/a")),
            ("https://user@r/", None),
            ("ftp://r/", None),
            ("https://r:99999/", None),
            ("https:///x", None),
            ("https://r/a b", None),
            ("https://r/\r\nx", None),
        ] {
            assert_eq!(Url::parse(text).map(|url| url.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn locations_are_seen_from_where_they_were_given() {
        let base = Url::parse("https://r:5000/v2/a/blobs/uploads/?x=1").unwrap();
        for (location, expected) in [
            ("/v2/b", "https://r:5000/v2/b"),
            ("id?state=2", "https://r:5000/v2/a/blobs/uploads/id?state=2"),
            ("http://other/x", "http://other/x"),
            ("//other/x", "https://other/x"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), expected, "{location}");
        }
        assert_eq!(base.join("/a\nb"), None);
    }

    #[test]
    fn the_loopback_is_known_in_all_its_forms() {
        for (host, loopback) in [
            ("localhost:5000", true),
            ("127.0.0.9", true),
            ("[::1]:1", true),
            ("localhost.x", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(Origin::parse(true, host).unwrap().is_loopback(), loopback, "{host}");
        }
    }
}
