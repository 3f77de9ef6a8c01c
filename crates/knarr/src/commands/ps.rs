//! `ps`: the list of containers.

use serde_json::{Map, Value, json};

use super::{Command, Context, out};
use crate::client::{filters, query};
use crate::failure::Failure;
use crate::flags::{Arity, Matches, int, list, switch, text};
use crate::show::{self, Headings};
use crate::text::{ellipsis, quoted, short_id};
use crate::units;

const HEADINGS: Headings = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Platform", "PLATFORM"),
];

pub(super) static PS: Command = Command {
    name: "ps",
    usage: "[OPTIONS]",
    about: "List containers",
    examples: "  knarr ps                                   what runs
  knarr ps -a --filter status=exited         what has ended
  knarr ps --format '{{.Names}}: {{.Status}}'
  knarr rm $(knarr ps -aq --filter label=job)",
    flags: &[&[
        switch("all", "Show all containers (default shows just running)").short('a'),
        list("filter", "Filter output based on conditions provided").short('f'),
        text("format", "Format output using a custom template: table, table TEMPLATE, json, or a Go template"),
        int("last", "Show n last created containers (includes all states)").short('n').default("-1"),
        switch("latest", "Show the latest created container (includes all states)").short('l'),
        switch("no-trunc", "Don't truncate output"),
        switch("quiet", "Only display container IDs").short('q'),
        switch("size", "Display total file sizes").short('s'),
    ]],
    interspersed: true,
    arity: Arity::None,
    run,
};

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let quiet = matches.is("quiet");
    let format = matches.text("format").unwrap_or("table");
    let size = matches.is("size") || (!quiet && format.contains(".Size"));
    let mut parameters = Vec::new();
    let limit = if matches.is("latest") { Some(1) } else { matches.int("last").filter(|count| *count > 0) };
    let limit = limit.map(|count| count.to_string());
    if matches.is("all") {
        parameters.push(("all", "1"));
    }
    if let Some(limit) = &limit {
        parameters.push(("limit", limit));
    }
    if size {
        parameters.push(("size", "1"));
    }
    let filters = filters(matches.list("filter"))?;
    if !matches.list("filter").is_empty() {
        parameters.push(("filters", &filters));
    }
    let answer = context.client.get(&format!("/containers/json{}", query(&parameters)))?;
    let now = units::now();
    let whole = matches.is("no-trunc");
    let rows: Vec<Value> = answer.as_array().into_iter().flatten().map(|entry| row(entry, whole, now)).collect();
    if quiet {
        out(&show::rows("{{.ID}}", HEADINGS, &rows)?)?;
        return Ok(0);
    }
    let mut default =
        "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}".to_owned();
    if matches.is("size") {
        default.push_str("\t{{.Size}}");
    }
    let format = if format == "table" { &default } else { format };
    out(&show::rows(format, HEADINGS, &rows)?)?;
    Ok(0)
}

/// The fields of one line, from one entry of the API's list.
fn row(entry: &Value, whole: bool, now: i64) -> Value {
    let text = |name: &str| entry[name].as_str().unwrap_or("").to_owned();
    let id = text("Id");
    let names: Vec<&str> = entry["Names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|name| name.trim_start_matches('/'))
        // Names with a slash are what links made of other containers.
        .filter(|name| whole || !name.contains('/'))
        .collect();
    let command = quoted(&if whole { text("Command") } else { ellipsis(&text("Command"), 20) });
    let created = entry["Created"].as_i64().unwrap_or(0);
    let empty = Map::new();
    let labels = entry["Labels"].as_object().unwrap_or(&empty);
    let pairs: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    let networks = entry.pointer("/NetworkSettings/Networks").and_then(Value::as_object).unwrap_or(&empty);
    let image = match text("Image") {
        image if image.is_empty() => "<no image>".to_owned(),
        image if whole => image,
        // An image that lost its name is shown by its id.
        image => image.strip_prefix("sha256:").map(|_| short_id(&image).to_owned()).unwrap_or(image),
    };
    json!({
        "ID": if whole { id.clone() } else { short_id(&id).to_owned() },
        "Image": image,
        "Command": command,
        "CreatedAt": units::go_time(created),
        "RunningFor": format!("{} ago", units::human_duration(now - created)),
        "Ports": ports(&entry["Ports"]),
        "State": text("State"),
        "Status": text("Status"),
        "Size": sizes(entry),
        "Names": names.join(","),
        "Labels": pairs.join(","),
        "Label": labels,
        "Mounts": mounts(&entry["Mounts"], whole),
        "Networks": networks.keys().cloned().collect::<Vec<_>>().join(","),
        "LocalVolumes": local_volumes(&entry["Mounts"]).to_string(),
        "Platform": "",
    })
}

fn sizes(entry: &Value) -> String {
    let own = units::size(entry["SizeRw"].as_f64().unwrap_or(0.0));
    match entry["SizeRootFs"].as_f64() {
        Some(all) if all > 0.0 => format!("{own} (virtual {})", units::size(all)),
        _ => own,
    }
}

fn mounts(value: &Value, whole: bool) -> String {
    let names = value.as_array().into_iter().flatten().map(|mount| {
        let name = mount["Name"].as_str().filter(|name| !name.is_empty()).or(mount["Source"].as_str()).unwrap_or("");
        if whole { name.to_owned() } else { ellipsis(name, 15) }
    });
    names.collect::<Vec<_>>().join(",")
}

fn local_volumes(value: &Value) -> usize {
    value.as_array().into_iter().flatten().filter(|mount| mount["Driver"] == "local").count()
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`; ports that follow one another on both sides are one range.
fn ports(value: &Value) -> String {
    let mut ports: Vec<(String, u64, u64, String)> = value
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let text = |name: &str| port[name].as_str().unwrap_or("").to_owned();
            let number = |name: &str| port[name].as_u64().unwrap_or(0);
            (text("IP"), number("PrivatePort"), number("PublicPort"), text("Type"))
        })
        .collect();
    ports.sort_by(|a, b| (&a.0, &a.3, a.1, a.2).cmp(&(&b.0, &b.3, b.1, b.2)));
    let mut ranges: Vec<(String, u64, u64, u64, String)> = Vec::new();
    for (address, private, public, protocol) in ports {
        match ranges.last_mut() {
            Some((known, first, public_first, count, kind))
                if *known == address
                    && *kind == protocol
                    && private == *first + *count
                    && (public == 0 && *public_first == 0 || public != 0 && public == *public_first + *count) =>
            {
                *count += 1;
            }
            _ => ranges.push((address, private, public, 1, protocol)),
        }
    }
    let range =
        |first: u64, count: u64| if count > 1 { format!("{first}-{}", first + count - 1) } else { first.to_string() };
    let words: Vec<String> = ranges
        .iter()
        .map(|(address, private, public, count, protocol)| {
            let inside = format!("{}/{protocol}", range(*private, *count));
            if *public == 0 {
                return inside;
            }
            let address = if address.contains(':') { format!("[{address}]") } else { address.clone() };
            format!("{address}:{}->{inside}", range(*public, *count))
        })
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_as_dockers() {
        let entry = json!({
            "Id": "0123456789abcdef0123", "Names": ["/web", "/other/web"], "Image": "busybox:1", "Command": "sh -c 'while true; do :; done'",
            "Created": 100, "State": "running", "Status": "Up 5 seconds", "Labels": {"a": "1"}, "SizeRw": 2500, "SizeRootFs": 4_000_000,
            "Mounts": [{"Type": "bind", "Source": "/very/long/path/to/data"}],
        });
        let found = row(&entry, false, 160);
        let fields = [
            ("ID", "0123456789ab"),
            ("Names", "web"),
            ("Command", "\"sh -c 'while true; …\""),
            ("RunningFor", "About a minute ago"),
            ("Size", "2.5kB (virtual 4MB)"),
            ("Labels", "a=1"),
            ("Mounts", "/very/long/pat…"),
        ];
        for (field, expected) in fields {
            assert_eq!(found[field], expected, "{field}");
        }
    }

    #[test]
    fn neighbouring_ports_are_one_range() {
        let list = json!([
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"IP": "0.0.0.0", "PrivatePort": 81, "PublicPort": 8081, "Type": "tcp"},
            {"PrivatePort": 443, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        ]);
        assert_eq!(ports(&list), "443/tcp, 0.0.0.0:8080-8081->80-81/tcp, [::]:8080->80/tcp");
    }
}
