//! Published ports: what `-p`, `-P` and `EXPOSE` ask for, as bindings to be held. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use network::{PortBinding, Protocol, Range, parse_protocol};

use crate::{Error, HostConfig, Result};

/// `80/tcp`, `80`.
pub(crate) fn parse_port(text: &str) -> Result<(u16, Protocol)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port = number.parse::<u16>().ok().filter(|port| *port != 0 && number.bytes().all(|b| b.is_ascii_digit()));
    let protocol = parse_protocol(&protocol.to_ascii_lowercase());
    port.zip(protocol).ok_or_else(|| Error::Invalid(format!("invalid port specification: {text:?}")))
}

/// A host port, a range, or nothing for any.
fn parse_host_ports(text: &str) -> Result<Range> {
    if text.is_empty() {
        return Ok(Range { first: 0, last: 0 });
    }
    let refused = || Error::Invalid(format!("invalid port specification: {text:?}"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits).ok_or_else(refused)
    };
    let range = Range { first: number(first)?, last: number(last)? };
    if range.first > range.last { Err(refused()) } else { Ok(range) }
}

/// One published port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) container_port: u16,
    pub(crate) protocol: Protocol,
    /// Every address of the host, of both families where the container has both, when none was named.
    pub(crate) host_address: Option<IpAddr>,
    pub(crate) host_ports: Range,
}

/// What a container publishes: named host ports first, so that a free choice does not take one of them.
pub(crate) fn wanted_ports(host: &HostConfig, exposed: &BTreeSet<String>) -> Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    for (port, bindings) in &host.port_bindings {
        let (container_port, protocol) = parse_port(port)?;
        let any = [crate::PortBinding::default()];
        for binding in if bindings.is_empty() { &any[..] } else { bindings } {
            let host_address = match binding.host_ip.as_str() {
                "" => None,
                text => {
                    Some(text.parse::<IpAddr>().map_err(|_| Error::Invalid(format!("invalid IP address: {text:?}")))?)
                }
            };
            let host_ports = parse_host_ports(&binding.host_port)?;
            wanted.push(Wanted { container_port, protocol, host_address, host_ports });
        }
    }
    if host.publish_all_ports {
        for port in exposed {
            let (container_port, protocol) = parse_port(port)?;
            let published = |w: &Wanted| (w.container_port, w.protocol) == (container_port, protocol);
            if !wanted.iter().any(published) {
                let host_ports = Range { first: 0, last: 0 };
                wanted.push(Wanted { container_port, protocol, host_address: None, host_ports });
            }
        }
    }
    wanted.sort_by_key(|w| (w.host_ports.first == 0, w.host_ports.last - w.host_ports.first));
    Ok(wanted)
}

/// The binding on one family of addresses; `None` if it was asked for the other one. `default`: where ports are published that
/// name no address.
pub(crate) fn binding(wanted: &Wanted, ipv4: bool, default: Option<IpAddr>) -> Option<PortBinding> {
    let unspecified = if ipv4 { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    let host_address = wanted.host_address.or(default).unwrap_or(unspecified);
    (host_address.is_ipv4() == ipv4).then_some(PortBinding {
        protocol: wanted.protocol,
        container_port: wanted.container_port,
        host_address,
        host_ports: wanted.host_ports,
    })
}

/// `80/tcp` to the host's side, as `inspect` shows it: exposed ports that are not published have none.
pub(crate) fn shown_ports(
    exposed: &BTreeSet<String>,
    published: &[network::PublishedPort],
) -> BTreeMap<String, Vec<crate::PortBinding>> {
    let mut shown: BTreeMap<String, Vec<crate::PortBinding>> =
        exposed.iter().map(|port| (port.clone(), Vec::new())).collect();
    for port in published {
        let name = format!("{}/{}", port.container_port, network::protocol_name(port.protocol));
        shown
            .entry(name)
            .or_default()
            .push(crate::PortBinding { host_ip: port.host_address.to_string(), host_port: port.host_port.to_string() });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(bindings: &[(&str, &str, &str)], all: bool, exposed: &[&str]) -> Result<Vec<String>, String> {
        let mut host = HostConfig { publish_all_ports: all, ..Default::default() };
        for (port, ip, host_port) in bindings {
            let binding = crate::PortBinding { host_ip: (*ip).into(), host_port: (*host_port).into() };
            host.port_bindings.entry((*port).into()).or_default().push(binding);
        }
        let exposed = exposed.iter().map(|port| (*port).to_owned()).collect();
        let wanted = wanted_ports(&host, &exposed).map_err(|e| e.to_string())?;
        let show = |w: &Wanted| {
            let both: Vec<String> = [true, false]
                .into_iter()
                .filter_map(|ipv4| binding(w, ipv4, None))
                .map(|b| format!("{}:{}-{}", b.host_address, b.host_ports.first, b.host_ports.last))
                .collect();
            format!("{}/{} {}", w.container_port, network::protocol_name(w.protocol), both.join(" "))
        };
        Ok(wanted.iter().map(show).collect())
    }

    #[test]
    fn bindings_name_addresses_ports_and_ranges() {
        assert_eq!(
            wanted(&[("80/tcp", "", "8080"), ("53/udp", "127.0.0.1", ""), ("81", "::", "9000-9010")], false, &[])
                .unwrap(),
            ["80/tcp 0.0.0.0:8080-8080 :::8080-8080", "81/tcp :::9000-9010", "53/udp 127.0.0.1:0-0",]
        );
        assert_eq!(
            wanted(&[("80/tcp", "", "8080")], true, &["80/tcp", "443/tcp"]).unwrap(),
            ["80/tcp 0.0.0.0:8080-8080 :::8080-8080", "443/tcp 0.0.0.0:0-0 :::0-0"]
        );
        assert_eq!(wanted(&[], false, &["80/tcp"]).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_port_is_refused() {
        let bad = [
            ("0/tcp", "", "1"),
            ("80/xyz", "", "1"),
            ("+80", "", "1"),
            ("80", "", "70000"),
            ("80", "", "9-8"),
            ("80", "", "+8"),
            ("80", "", "-"),
            ("80", "localhost", "8080"),
        ];
        for row in bad {
            assert!(wanted(&[row], false, &[]).is_err(), "{row:?}");
        }
    }
}
