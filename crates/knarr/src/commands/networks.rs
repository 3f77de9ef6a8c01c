//! `network`: create, connect, disconnect, inspect, ls, prune, rm.

use serde_json::{Map, Value, json};

use super::{Command, Context, for_each, out};
use crate::client::http::encode;
use crate::client::{filters, query};
use crate::failure::Failure;
use crate::flags::{Arity, Matches, int, list, switch, text};
use crate::show::{self, Headings};
use crate::text::short_id;

const HEADINGS: Headings = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

fn pairs(flags: &[String]) -> Value {
    let pair = |flag: &String| {
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        (name.to_owned(), json!(value))
    };
    Value::Object(flags.iter().map(pair).collect())
}

pub(super) static CREATE: Command = Command {
    name: "create",
    usage: "[OPTIONS] NETWORK",
    about: "Create a network",
    examples: "  knarr network create back
  knarr network create --subnet 10.9.0.0/16 --gateway 10.9.0.1 back
  knarr network create --internal --ipv6 quiet
  knarr network create -d macvlan -o parent=eth1 --subnet 192.168.7.0/24 lan",
    flags: &[&[
        switch("attachable", "Enable manual container attachment"),
        list("aux-address", "Auxiliary IPv4 or IPv6 addresses used by the network driver (NAME=ADDRESS)"),
        text("config-from", "").refused("networks of a swarm are not there"),
        switch("config-only", "").refused("networks of a swarm are not there"),
        text("driver", "Driver to manage the network (bridge, macvlan, ipvlan)").short('d').default("bridge"),
        list("gateway", "IPv4 or IPv6 gateway for the subnet"),
        switch("ingress", "").refused("networks of a swarm are not there"),
        switch("internal", "Restrict external access to the network"),
        list("ip-range", "Allocate container ip from a sub-range"),
        text("ipam-driver", "IP address management driver").default("default"),
        list("ipam-opt", "Set IPAM driver specific options"),
        switch("ipv4", "Enable or disable IPv4 address assignment"),
        switch("ipv6", "Enable or disable IPv6 address assignment"),
        list("label", "Set metadata on a network"),
        list("opt", "Set driver specific options").short('o'),
        text("scope", "Control the network's scope").hidden(),
        list("subnet", "Subnet in CIDR format that represents a network segment"),
    ]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |context, matches| {
        let answer = context.client.post("/networks/create", Some(&create_body(matches).map_err(Failure::new)?))?;
        out(&format!("{}\n", answer["Id"].as_str().unwrap_or("")))?;
        Ok(0)
    },
};

/// Pure. Ranges, gateways and auxiliary addresses belong to the subnet of their address family.
fn create_body(matches: &Matches) -> Result<Value, String> {
    let family = |text: &str| text.contains(':');
    let mut pools: Vec<Map<String, Value>> = Vec::new();
    for subnet in matches.list("subnet") {
        pools.push(Map::from_iter([("Subnet".to_owned(), json!(subnet))]));
    }
    let of = |pools: &mut Vec<Map<String, Value>>, text: &str, field: &str, value: Value| {
        let pool = pools
            .iter_mut()
            .find(|pool| family(pool["Subnet"].as_str().unwrap_or("")) == family(text) && !pool.contains_key(field));
        match pool {
            Some(pool) => {
                pool.insert(field.to_owned(), value);
                Ok(())
            }
            None => Err(format!("no matching subnet for {} {text}", field.to_lowercase())),
        }
    };
    for range in matches.list("ip-range") {
        of(&mut pools, range, "IPRange", json!(range))?;
    }
    for gateway in matches.list("gateway") {
        of(&mut pools, gateway, "Gateway", json!(gateway))?;
    }
    let mut auxiliary: [Map<String, Value>; 2] = Default::default();
    for flag in matches.list("aux-address") {
        let (name, address) = flag.split_once('=').ok_or_else(|| format!("invalid auxiliary address: {flag}"))?;
        auxiliary[usize::from(family(address))].insert(name.to_owned(), json!(address));
    }
    for (at, addresses) in auxiliary.into_iter().enumerate().filter(|(_, addresses)| !addresses.is_empty()) {
        let like = if at == 0 { "0.0.0.0" } else { "::" };
        of(&mut pools, like, "AuxiliaryAddresses", Value::Object(addresses))?;
    }
    let mut body = json!({
        "Name": matches.arguments[0],
        "Driver": matches.text("driver").unwrap_or("bridge"),
        "Scope": matches.text("scope").unwrap_or(""),
        "Internal": matches.is("internal"),
        "Attachable": matches.is("attachable"),
        "IPAM": {
            "Driver": matches.text("ipam-driver").unwrap_or("default"),
            "Options": pairs(matches.list("ipam-opt")),
            "Config": pools,
        },
        "Options": pairs(matches.list("opt")),
        "Labels": pairs(matches.list("label")),
    });
    for (flag, field) in [("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")] {
        if matches.given(flag) {
            body[field] = json!(matches.is(flag));
        }
    }
    Ok(body)
}

pub(super) static CONNECT: Command = Command {
    name: "connect",
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Connect a container to a network",
    examples: "  knarr network connect --alias db back web",
    flags: &[&[
        list("alias", "Add network-scoped alias for the container"),
        list("driver-opt", "Driver options for the network"),
        int("gw-priority", "Highest gw-priority provides the default gateway. Accepts positive and negative values"),
        text("ip", "IPv4 address"),
        text("ip6", "IPv6 address"),
        list("link", "Add link to another container"),
        list("link-local-ip", "Add a link-local address for the container"),
    ]],
    interspersed: true,
    arity: Arity::Exactly(2),
    run: |context, matches| {
        let mut ipam = Map::new();
        for (flag, field) in [("ip", "IPv4Address"), ("ip6", "IPv6Address")] {
            if let Some(address) = matches.text(flag) {
                ipam.insert(field.to_owned(), json!(address));
            }
        }
        if !matches.list("link-local-ip").is_empty() {
            ipam.insert("LinkLocalIPs".into(), json!(matches.list("link-local-ip")));
        }
        let body = json!({
            "Container": matches.arguments[1],
            "EndpointConfig": {
                "IPAMConfig": ipam,
                "Aliases": matches.list("alias"),
                "Links": matches.list("link"),
                "DriverOpts": pairs(matches.list("driver-opt")),
                "GwPriority": matches.int("gw-priority").unwrap_or(0),
            },
        });
        context.client.post(&format!("/networks/{}/connect", encode(&matches.arguments[0])), Some(&body))?;
        Ok(0)
    },
};

pub(super) static DISCONNECT: Command = Command {
    name: "disconnect",
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Disconnect a container from a network",
    examples: "",
    flags: &[&[switch("force", "Force the container to disconnect from a network").short('f')]],
    interspersed: true,
    arity: Arity::Exactly(2),
    run: |context, matches| {
        let body = json!({ "Container": matches.arguments[1], "Force": matches.is("force") });
        context.client.post(&format!("/networks/{}/disconnect", encode(&matches.arguments[0])), Some(&body))?;
        Ok(0)
    },
};

pub(super) static LS: Command = Command {
    name: "ls",
    usage: "[OPTIONS]",
    about: "List networks",
    examples: "  knarr network ls --filter type=custom",
    flags: &[&[
        list("filter", "Provide filter values (e.g. \"driver=bridge\")").short('f'),
        text("format", "Format output using a custom template: table, table TEMPLATE, json, or a Go template"),
        switch("no-trunc", "Do not truncate the output"),
        switch("quiet", "Only display network IDs").short('q'),
    ]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let wanted = filters(matches.list("filter"))?;
        let parameters = if matches.list("filter").is_empty() { vec![] } else { vec![("filters", wanted.as_str())] };
        let answer = context.client.get(&format!("/networks{}", query(&parameters)))?;
        let whole = matches.is("no-trunc");
        let row = |network: &Value| {
            let id = network["Id"].as_str().unwrap_or("");
            let labels = network["Labels"].as_object().cloned().unwrap_or_default();
            let joined = labels.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or("")));
            json!({
                "ID": if whole { id } else { short_id(id) },
                "Name": network["Name"],
                "Driver": network["Driver"],
                "Scope": network["Scope"],
                "IPv4": network["EnableIPv4"].to_string(),
                "IPv6": network["EnableIPv6"].to_string(),
                "Internal": network["Internal"].to_string(),
                "Labels": joined.collect::<Vec<_>>().join(","),
                "Label": labels,
                "CreatedAt": network["Created"],
            })
        };
        let rows: Vec<Value> = answer.as_array().into_iter().flatten().map(row).collect();
        let default = "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}";
        let format = match matches.text("format") {
            _ if matches.is("quiet") => "{{.ID}}",
            None | Some("table") => default,
            Some(format) => format,
        };
        out(&show::rows(format, HEADINGS, &rows)?)?;
        Ok(0)
    },
};

pub(super) static RM: Command = Command {
    name: "rm",
    usage: "NETWORK [NETWORK...]",
    about: "Remove one or more networks",
    examples: "",
    flags: &[&[switch("force", "Do not error if the network does not exist").short('f')]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| {
        for_each(&matches.arguments, |name| match context.client.delete(&format!("/networks/{}", encode(name))) {
            Ok(_) => out(&format!("{name}\n")),
            Err(failure) if failure.is_not_found() && matches.is("force") => Ok(()),
            Err(failure) => Err(failure),
        })
    },
};

/// What `network prune` and `system prune` remove, as text.
pub(super) fn prune(context: &Context, wanted: &[String]) -> Result<String, Failure> {
    let answer = context.client.post(&format!("/networks/prune{}", query(&[("filters", &filters(wanted)?)])), None)?;
    let names: Vec<&str> =
        answer["NetworksDeleted"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    Ok(if names.is_empty() { String::new() } else { format!("Deleted Networks:\n{}\n\n", names.join("\n")) })
}
