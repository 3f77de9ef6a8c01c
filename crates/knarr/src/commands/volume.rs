//! `volume`: docker's commands, and a volume as a tar (`export`, `import`).

use std::fs::File;
use std::io::{self, Read};

use serde_json::{Map, Value, json};

use super::archives::download;
use super::system::{FILTER, FORCE, confirmed, report};
use super::{Command, Context, for_each, out};
use crate::client::http::{Body, encode};
use crate::client::{filters, query, terminal};
use crate::failure::Failure;
use crate::flags::{Arity, list, switch, text};
use crate::show::{self, Headings};
use crate::units;

pub(super) static CREATE: Command = Command {
    name: "create",
    usage: "[OPTIONS] [VOLUME]",
    about: "Create a volume",
    examples: "  knarr volume create data\n  knarr volume create -o type=tmpfs -o device=tmpfs -o o=size=64m scratch\n  knarr volume create -o type=none -o o=bind -o device=/srv/www www",
    flags: &[&[
        text("driver", "Specify volume driver name").short('d').default("local"),
        list("label", "Set metadata for a volume"),
        text("name", "Specify volume name").hidden(),
        list("opt", "Set driver specific options").short('o'),
    ]],
    interspersed: true,
    arity: Arity::Between(0, 1),
    run: |context, matches| {
        let name = match (matches.arguments.first(), matches.text("name")) {
            (Some(_), Some(_)) => {
                return Err(
                    "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
                        .into(),
                );
            }
            (Some(name), None) => name.as_str(),
            (None, name) => name.unwrap_or(""),
        };
        let mut body = json!({
            "Driver": matches.text("driver").unwrap_or("local"),
            "DriverOpts": pairs(matches.list("opt")),
            "Labels": pairs(matches.list("label")),
        });
        if !name.is_empty() {
            body["Name"] = json!(name);
        }
        let made = context.client.post("/volumes/create", Some(&body))?;
        out(&format!("{}\n", made["Name"].as_str().unwrap_or(name)))?;
        Ok(0)
    },
};

/// `key=value` words; a word alone has an empty value.
fn pairs(words: &[String]) -> Map<String, Value> {
    words
        .iter()
        .map(|word| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            (key.to_owned(), Value::from(value))
        })
        .collect()
}

const HEADINGS: Headings = &[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Scope", "SCOPE"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
    ("Status", "STATUS"),
];

/// The fields of one line.
pub(super) fn row(volume: &Value) -> Value {
    let text = |name: &str| volume[name].as_str().unwrap_or("").to_owned();
    let empty = Map::new();
    let labels = volume["Labels"].as_object().unwrap_or(&empty);
    let shown: Vec<String> = labels.iter().map(|(key, v)| format!("{key}={}", v.as_str().unwrap_or(""))).collect();
    let usage = |name: &str| volume.pointer(&format!("/UsageData/{name}")).and_then(Value::as_f64);
    json!({
        "Driver": text("Driver"),
        "Name": text("Name"),
        "Mountpoint": text("Mountpoint"),
        "Scope": text("Scope"),
        "Labels": shown.join(","),
        "Label": labels,
        "Links": usage("RefCount").map_or("N/A".to_owned(), |count| count.to_string()),
        "Size": usage("Size").map_or("N/A".to_owned(), units::size4),
        "Availability": "N/A",
        "Group": "N/A",
        "Status": "N/A",
    })
}

pub(super) static LS: Command = Command {
    name: "ls",
    usage: "[OPTIONS]",
    about: "List volumes",
    examples: "  knarr volume ls --filter dangling=true\n  knarr volume ls --format '{{.Name}}: {{.Mountpoint}}'",
    flags: &[&[
        list("filter", "Provide filter values (e.g. \"dangling=true\")").short('f'),
        text("format", "Format output using a custom template: table, table TEMPLATE, json, or a Go template"),
        switch("quiet", "Only display volume names").short('q'),
        switch("cluster", "").refused("there is no swarm mode"),
    ]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let wanted = filters(matches.list("filter"))?;
        let answer = context.client.get(&format!("/volumes{}", query(&[("filters", &wanted)])))?;
        let rows: Vec<Value> = answer["Volumes"].as_array().into_iter().flatten().map(row).collect();
        let format = match matches.text("format").unwrap_or("table") {
            _ if matches.is("quiet") => "{{.Name}}",
            "table" => "table {{.Driver}}\t{{.Name}}",
            format => format,
        };
        out(&show::rows(format, HEADINGS, &rows)?)?;
        Ok(0)
    },
};

pub(super) static RM: Command = Command {
    name: "rm",
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Remove one or more volumes",
    examples: "",
    flags: &[&[switch("force", "Force the removal of one or more volumes").short('f')]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| {
        let force = if matches.is("force") { "?force=1" } else { "" };
        for_each(&matches.arguments, |name| {
            context.client.delete(&format!("/volumes/{}{force}", encode(name)))?;
            out(&format!("{name}\n"))
        })
    },
};

pub(super) fn prune(context: &Context, wanted: &[String], all: bool) -> Result<(String, f64), Failure> {
    let mut wanted = wanted.to_vec();
    if all {
        wanted.push("all=true".into());
    }
    let answer = context.client.post(&format!("/volumes/prune{}", query(&[("filters", &filters(&wanted)?)])), None)?;
    let names: Vec<&str> =
        answer["VolumesDeleted"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let text = if names.is_empty() { String::new() } else { format!("Deleted Volumes:\n{}\n\n", names.join("\n")) };
    Ok((text, answer["SpaceReclaimed"].as_f64().unwrap_or(0.0)))
}

pub(super) static PRUNE: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove unused local volumes",
    examples: "",
    flags: &[&[switch("all", "Remove all unused volumes, not just anonymous ones").short('a'), FILTER, FORCE]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let which = if matches.is("all") { "local volumes" } else { "anonymous local volumes" };
        let warning = format!("WARNING! This will remove {which} not used by at least one container.");
        match confirmed(matches, &warning)? {
            true => report(&[prune(context, matches.list("filter"), matches.is("all"))?]),
            false => Ok(0),
        }
    },
};

pub(super) static EXPORT: Command = Command {
    name: "export",
    usage: "[OPTIONS] VOLUME",
    about: "Write the contents of a volume as a tar archive",
    examples: "  knarr volume export -o data.tar data\n  knarr volume export data | ssh there knarr volume import data -",
    flags: &[&[text("output", "Write to a file, instead of STDOUT").short('o')]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |context, matches| {
        download(context, matches, &format!("/knarr/volumes/{}/archive", encode(&matches.arguments[0])))
    },
};

pub(super) static IMPORT: Command = Command {
    name: "import",
    usage: "VOLUME file|-",
    about: "Unpack a tar archive (plain, gzip or zstd) into a volume, which is made if it does not exist",
    examples: "  knarr volume import data data.tar",
    flags: &[&[]],
    interspersed: true,
    arity: Arity::Exactly(2),
    run: |context, matches| {
        let [name, source] = &matches.arguments[..] else { return Ok(1) };
        let mut input: Box<dyn Read> = match source.as_str() {
            "-" if terminal::is_terminal(io::stdin()) => {
                return Err("the archive is to come from standard input, which is a terminal".into());
            }
            "-" => Box::new(io::stdin().lock()),
            path => {
                Box::new(File::open(path).map_err(|e| Failure::new(format!("open {path}: {}", super::run::plain(&e))))?)
            }
        };
        context.client.post("/volumes/create", Some(&json!({ "Name": name })))?;
        let path = format!("/knarr/volumes/{}/archive", encode(name));
        let answer = context.client.request(
            "PUT",
            &path,
            Body::Stream { reader: &mut input, kind: "application/x-tar", logins: None },
        )?;
        context.client.json(answer)?;
        Ok(0)
    },
};
