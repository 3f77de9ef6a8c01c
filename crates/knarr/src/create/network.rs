//! The flags about networks: `--network` and what goes with it, and published ports. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::flags::Matches;
use crate::text::quoted;

/// What the flags say: the network mode, and the endpoints by network.
pub struct Networking {
    pub mode: String,
    pub endpoints: Map<String, Value>,
}

/// One `--network`: a name, or `name=NET,alias=...`.
#[derive(Default)]
struct Asked {
    name: String,
    aliases: Vec<String>,
    ipv4: Option<String>,
    ipv6: Option<String>,
    mac: Option<String>,
    link_local: Vec<String>,
    options: BTreeMap<String, String>,
    priority: Option<i64>,
}

pub fn networking(matches: &Matches) -> Result<Networking, String> {
    let flags = [matches.list("network"), matches.list("net")].concat();
    let mut asked = flags.iter().map(|flag| parse(flag)).collect::<Result<Vec<_>, _>>()?;
    let single = ["network-alias", "ip", "ip6", "link-local-ip", "mac-address"];
    let given = single.iter().find(|flag| matches.given(flag));
    if asked.is_empty() {
        asked.push(Asked { name: "default".into(), ..Asked::default() });
    }
    if asked.len() > 1
        && let Some(flag) = given
    {
        return Err(format!(
            "conflicting options: cannot use --{flag} with several networks: use --network name=NET,..."
        ));
    }
    let first = &mut asked[0];
    let put = |field: &mut Option<String>, flag: &str| match (matches.text(flag), &field) {
        (Some(_), Some(_)) => Err(format!("conflicting options: --{flag} is said twice")),
        (Some(value), None) => {
            *field = Some(value.to_owned());
            Ok(())
        }
        (None, _) => Ok(()),
    };
    put(&mut first.ipv4, "ip")?;
    put(&mut first.ipv6, "ip6")?;
    put(&mut first.mac, "mac-address")?;
    let aliases = matches.list("network-alias").iter().chain(matches.list("net-alias"));
    first.aliases.extend(aliases.cloned());
    first.link_local.extend(matches.list("link-local-ip").iter().cloned());
    let mode = first.name.clone();
    let several = asked.len() > 1;
    let mut endpoints = Map::new();
    for network in asked {
        let settings = settings(&network);
        if several || settings.as_object().is_some_and(|fields| !fields.is_empty()) {
            let known = endpoints.insert(network.name.clone(), settings);
            if known.is_some() {
                return Err(format!("network {} is specified multiple times", quoted(&network.name)));
            }
        }
    }
    Ok(Networking { mode, endpoints })
}

fn settings(asked: &Asked) -> Value {
    let mut fields = Map::new();
    let mut ipam = Map::new();
    for (name, value) in [("IPv4Address", &asked.ipv4), ("IPv6Address", &asked.ipv6)] {
        if let Some(value) = value {
            ipam.insert(name.into(), json!(value));
        }
    }
    if !asked.link_local.is_empty() {
        ipam.insert("LinkLocalIPs".into(), json!(asked.link_local));
    }
    if !ipam.is_empty() {
        fields.insert("IPAMConfig".into(), Value::Object(ipam));
    }
    if !asked.aliases.is_empty() {
        fields.insert("Aliases".into(), json!(asked.aliases));
    }
    if let Some(mac) = &asked.mac {
        fields.insert("MacAddress".into(), json!(mac));
    }
    if !asked.options.is_empty() {
        fields.insert("DriverOpts".into(), json!(asked.options));
    }
    if let Some(priority) = asked.priority {
        fields.insert("GwPriority".into(), json!(priority));
    }
    Value::Object(fields)
}

fn parse(flag: &str) -> Result<Asked, String> {
    let mut asked = Asked::default();
    let long = flag.split(',').any(|part| part.starts_with("name="));
    if !long {
        flag.clone_into(&mut asked.name);
        return Ok(asked);
    }
    for part in flag.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("invalid network option: {}", quoted(part)))?;
        let value = value.to_owned();
        match name.trim().to_ascii_lowercase().as_str() {
            "name" => asked.name = value,
            "alias" => asked.aliases.push(value),
            "ip" => asked.ipv4 = Some(value),
            "ip6" => asked.ipv6 = Some(value),
            "mac-address" => asked.mac = Some(value),
            "link-local-ip" => asked.link_local.push(value),
            "driver-opt" => {
                let (option, value) = value
                    .split_once('=')
                    .ok_or_else(|| format!("invalid key value pair format in driver options: {value}"))?;
                asked.options.insert(option.to_owned(), value.to_owned());
            }
            "gw-priority" => {
                asked.priority = Some(value.parse().map_err(|_| format!("invalid gw-priority: {}", quoted(&value)))?);
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    Ok(asked)
}

/// What `-p` says: bindings by container port, as the API has them.
pub fn published(flags: &[String]) -> Result<BTreeMap<String, Vec<Value>>, String> {
    let mut bindings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for flag in flags {
        for (port, address, host) in publish(flag)? {
            bindings.entry(port).or_default().push(json!({ "HostIp": address, "HostPort": host }));
        }
    }
    Ok(bindings)
}

/// `[[ADDRESS:][HOST[-HOST]]:]CONTAINER[-CONTAINER][/PROTOCOL]`
fn publish(flag: &str) -> Result<Vec<(String, String, String)>, String> {
    let invalid = |why: &str| format!("invalid argument {} for \"-p, --publish\" flag: {why}", quoted(flag));
    let (ports, protocol) = flag.split_once('/').unwrap_or((flag, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(invalid(&format!("invalid proto: {protocol}")));
    }
    let (address, rest) = match ports.strip_prefix('[') {
        Some(inner) => {
            let (address, rest) = inner.split_once("]:").ok_or_else(|| invalid("invalid IP address"))?;
            (address, rest)
        }
        None => match ports.matches(':').count() {
            0 | 1 => ("", ports),
            2 => ports.split_once(':').unwrap_or_default(),
            _ => return Err(invalid("invalid hostPort: IPv6 addresses stand in brackets")),
        },
    };
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(invalid(&format!("invalid IP address: {address}")));
    }
    let (host, container) = rest.split_once(':').unwrap_or(("", rest));
    let range = |text: &str, what: &str| -> Result<(u16, u16), String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.parse::<u16>().map_err(|_| invalid(&format!("invalid {what}: {text}")));
        let (first, last) = (number(first)?, number(last)?);
        if first > last { Err(invalid(&format!("invalid {what}: {text}"))) } else { Ok((first, last)) }
    };
    if container.is_empty() {
        return Err(invalid(&format!("no port specified: {flag}<empty>")));
    }
    let inside = range(container, "containerPort")?;
    let count = inside.1 - inside.0;
    let name = |at: u16| format!("{}/{protocol}", inside.0 + at);
    if host.is_empty() {
        return Ok((0..=count).map(|at| (name(at), address.to_owned(), String::new())).collect());
    }
    let outside = range(host, "hostPort")?;
    if outside.1 - outside.0 == count {
        return Ok((0..=count).map(|at| (name(at), address.to_owned(), (outside.0 + at).to_string())).collect());
    }
    if count == 0 {
        // One of the range, the engine chooses.
        return Ok(vec![(name(0), address.to_owned(), host.to_owned())]);
    }
    Err(invalid(&format!("invalid ranges specified for container and host Ports: {container} and {host}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports_read_as_docker_reads_them() {
        let show = |flag: &str| {
            publish(flag).map(|list| {
                list.iter()
                    .map(|(port, address, host)| format!("{port}={address}:{host}"))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
        };
        let rows = [
            ("80", "80/tcp=:"),
            ("8080:80", "80/tcp=:8080"),
            ("127.0.0.1:8080:80/udp", "80/udp=127.0.0.1:8080"),
            ("127.0.0.1::80", "80/tcp=127.0.0.1:"),
            ("[::1]:8080:80", "80/tcp=::1:8080"),
            ("8000-8001:80-81", "80/tcp=:8000 81/tcp=:8001"),
            ("8000-8010:80", "80/tcp=:8000-8010"),
            ("80-81", "80/tcp=: 81/tcp=:"),
        ];
        for (flag, wanted) in rows {
            assert_eq!(show(flag).unwrap(), wanted, "{flag}");
        }
        for bad in ["", "x", "80:", "1:2:3:4", "80/x", "9-8", "1-3:1-2", "[::1]80", "localhost:1:2", "70000"] {
            assert!(publish(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_may_say_more_than_its_name() {
        let asked = parse("name=net,alias=a,alias=b,ip=10.0.0.5,driver-opt=x=y,gw-priority=3").unwrap();
        assert_eq!(asked.name, "net");
        assert_eq!(
            settings(&asked),
            json!({
                "Aliases": ["a", "b"],
                "IPAMConfig": { "IPv4Address": "10.0.0.5" },
                "DriverOpts": { "x": "y" },
                "GwPriority": 3,
            })
        );
        assert_eq!(parse("container:x").unwrap().name, "container:x");
        assert!(parse("name=net,what=1").is_err());
        assert!(parse("name=net,gw-priority=x").is_err());
    }
}
