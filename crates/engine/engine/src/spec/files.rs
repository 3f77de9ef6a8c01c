//! The files that Docker puts over an image's own: hosts, resolv.conf and hostname. Text is checked before it is
//! written, so that no name or address can add a line of its own (DA-09).

use crate::{Error, HostConfig, Result};

/// Checks what a request puts into these files.
pub(crate) fn check_files(hostname: &str, domainname: &str, host: &HostConfig) -> Result<()> {
    let name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if hostname.len() > 63 || !name(hostname) {
        return Err(Error::Invalid(format!("invalid hostname format: {hostname}")));
    }
    if domainname.len() > 64 || !name(domainname) {
        return Err(Error::Invalid(format!("invalid domainname format: {domainname}")));
    }
    for entry in &host.extra_hosts {
        parse_extra_host(entry)?;
    }
    for address in &host.dns {
        if address.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::Invalid(format!("invalid IP address in DNS server list: {address}")));
        }
    }
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    for search in host.dns_search.iter().filter(|s| *s != ".") {
        if !word(search) || !name(search) {
            return Err(Error::Invalid(format!("{search:?} is not a valid domain")));
        }
    }
    for option in &host.dns_options {
        if !word(option) {
            return Err(Error::Invalid(format!("invalid DNS option {option:?}")));
        }
    }
    Ok(())
}

/// `name:address` or `name=address`; the address may be IPv6 with or without brackets, or `host-gateway`.
fn parse_extra_host(entry: &str) -> Result<(&str, &str)> {
    let refused = || Error::Invalid(format!("invalid extra host: {entry:?}"));
    let (name, address) = entry.split_once(['=', ':']).ok_or_else(refused)?;
    let good_name =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    let good_address = address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok();
    if good_name && good_address { Ok((name, address)) } else { Err(refused()) }
}

/// What `/etc/hosts` is made of.
pub(crate) struct HostNames<'a> {
    pub(crate) hostname: &'a str,
    pub(crate) domainname: &'a str,
    /// `--add-host`.
    pub(crate) extra: &'a [String],
    /// The container's own.
    pub(crate) addresses: &'a [std::net::IpAddr],
    /// The host, as the container reaches it.
    pub(crate) gateway: Option<std::net::IpAddr>,
    /// Other containers: address, names.
    pub(crate) links: &'a [(std::net::IpAddr, String)],
}

/// `/etc/hosts`.
pub(crate) fn hosts_file(names: &HostNames<'_>) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (address, names) in names.links {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    for entry in names.extra {
        if let Ok((name, address)) = parse_extra_host(entry) {
            // Without a network the host is reached nowhere but through itself.
            let host = || names.gateway.map_or_else(|| "127.0.0.1".to_owned(), |gateway| gateway.to_string());
            let address = if address == "host-gateway" { host() } else { address.to_owned() };
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    for address in names.addresses {
        match names.domainname {
            "" => text.push_str(&format!("{address}\t{}\n", names.hostname)),
            domain => text.push_str(&format!("{address}\t{0}.{domain} {0}\n", names.hostname)),
        }
    }
    text
}

/// The name servers in a `resolv.conf`.
pub(crate) fn host_servers(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|words| words.first() == Some(&"nameserver"))
        .filter_map(|words| words.get(1).map(|s| (*s).to_owned()))
        .collect()
}

/// Whom a container asks for names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameServers {
    /// Whom the host asks.
    Host,
    /// Whom the host asks, but for those on its loopback, which cannot be reached from another network namespace.
    Reachable,
    /// The engine's, at 127.0.0.11.
    Embedded,
}

/// `/etc/resolv.conf`: the host's, with what was asked for in place of each part.
pub(crate) fn resolv_conf(host_file: &str, host: &HostConfig, from: NameServers) -> String {
    let mut servers = Vec::new();
    let mut search = Vec::new();
    let mut options = Vec::new();
    for line in host_file.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => search = words.map(str::to_owned).collect(),
            Some("options") => options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    if from == NameServers::Reachable {
        let loopback = |s: &String| s.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback());
        servers.retain(|s| !loopback(s));
    }
    if !host.dns.is_empty() {
        servers.clone_from(&host.dns);
    }
    if !host.dns_search.is_empty() {
        search = host.dns_search.iter().filter(|s| *s != ".").cloned().collect();
    }
    if !host.dns_options.is_empty() {
        options.clone_from(&host.dns_options);
    }
    if from == NameServers::Embedded {
        servers = vec!["127.0.0.11".to_owned()];
        if !options.iter().any(|option| option.starts_with("ndots:")) {
            // A name without a dot is a container's.
            options.push("ndots:0".to_owned());
        }
    }
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_add_a_line_of_its_own() {
        let host = HostConfig::default;
        let hostile = ["a\nb", "a b", "a\tb", "a\0", "é"];
        for text in hostile {
            assert!(check_files(text, "", &host()).is_err(), "{text:?}");
            assert!(check_files("", text, &host()).is_err(), "{text:?}");
            let rows = [
                HostConfig { extra_hosts: vec![format!("{text}:1.2.3.4")], ..host() },
                HostConfig { extra_hosts: vec![format!("a:{text}")], ..host() },
                HostConfig { dns: vec![text.into()], ..host() },
                HostConfig { dns_search: vec![text.into()], ..host() },
                HostConfig { dns_options: vec![text.into()], ..host() },
            ];
            for row in rows {
                assert!(check_files("box", "", &row).is_err(), "{row:?}");
            }
        }
        let good = HostConfig {
            extra_hosts: vec!["a:1.2.3.4".into(), "b=::1".into(), "c:[fe80::1]".into(), "h:host-gateway".into()],
            dns: vec!["1.1.1.1".into()],
            dns_search: vec!["example.org".into(), ".".into()],
            dns_options: vec!["ndots:2".into()],
            ..host()
        };
        check_files("box", "example.org", &good).unwrap();
        let hosts = hosts_file(&HostNames {
            hostname: "box",
            domainname: "example.org",
            extra: &good.extra_hosts,
            addresses: &[[10, 0, 0, 2].into()],
            gateway: Some([10, 0, 0, 1].into()),
            links: &[([10, 0, 0, 9].into(), "db other".to_owned())],
        });
        assert!(
            hosts.ends_with(
                "10.0.0.9\tdb other\n1.2.3.4\ta\n::1\tb\nfe80::1\tc\n10.0.0.1\th\n10.0.0.2\tbox.example.org box\n"
            ),
            "{hosts}"
        );
    }

    #[test]
    fn name_servers_come_from_the_host_unless_asked_for() {
        let file = "# made by hand\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch lan home\noptions edns0\n";
        let plain = HostConfig::default();
        assert_eq!(
            resolv_conf(file, &plain, NameServers::Reachable),
            "nameserver 9.9.9.9\nsearch lan home\noptions edns0\n"
        );
        assert!(resolv_conf(file, &plain, NameServers::Host).starts_with("nameserver 127.0.0.53\n"));
        let own = HostConfig { dns: vec!["1.1.1.1".into()], dns_search: vec![".".into()], ..plain };
        assert_eq!(resolv_conf(file, &own, NameServers::Reachable), "nameserver 1.1.1.1\noptions edns0\n");
    }
}
