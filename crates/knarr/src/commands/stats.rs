//! `stats`: what containers use, once or again and again.

use std::io::{BufRead, BufReader};
use std::sync::mpsc;

use serde_json::{Value, json};

use super::{Command, Context, out};
use crate::client::Client;
use crate::client::http::{Body, encode};
use crate::failure::Failure;
use crate::flags::{Arity, Matches, switch, text};
use crate::show::{self, Headings};
use crate::text::short_id;
use crate::units::{size, size_binary};

const HEADINGS: Headings = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

pub(super) static STATS: Command = Command {
    name: "stats",
    usage: "[OPTIONS] [CONTAINER...]",
    about: "Display a live stream of containers' resource usage statistics",
    examples: "  knarr stats                  everything that runs, until ctrl-c
  knarr stats --no-stream web  once",
    flags: &[&[
        switch("all", "Show all containers (default shows just running)").short('a'),
        text("format", "Format output using a custom template: table, table TEMPLATE, json, or a Go template"),
        switch("no-stream", "Disable streaming stats and only pull the first result"),
        switch("no-trunc", "Do not truncate output"),
    ]],
    interspersed: true,
    arity: Arity::AtLeast(0),
    run,
};

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let default =
        "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";
    let format = matches.text("format").filter(|format| *format != "table").unwrap_or(default);
    let whole = matches.is("no-trunc");
    if matches.is("no-stream") {
        // Each reading takes a second on the engine's side: all at once, in the order of the names.
        let names = names(context, matches)?;
        let readings = at_once(context, &names, "?stream=false");
        let mut rows = Vec::new();
        for (name, reading) in names.iter().zip(readings) {
            rows.push(row(name, &reading?, whole));
        }
        out(&show::rows(format, HEADINGS, &rows)?)?;
        return Ok(0);
    }
    let terminal = crate::client::terminal::is_terminal(std::io::stdout());
    loop {
        // Asked again each round, so that containers come and go. A reading takes a second, which is the pace.
        let names = names(context, matches)?;
        let readings = at_once(context, &names, "?stream=false");
        let rows: Vec<Value> =
            names.iter().zip(readings).filter_map(|(name, reading)| Some(row(name, &reading.ok()?, whole))).collect();
        let text = show::rows(format, HEADINGS, &rows)?;
        out(&if terminal { format!("\x1b[H\x1b[J{text}") } else { text })?;
        if names.is_empty() {
            // Nothing gives the pace: wait for the next event instead of spinning.
            wait_for_start(context)?;
        }
    }
}

fn names(context: &Context, matches: &Matches) -> Result<Vec<String>, Failure> {
    if !matches.arguments.is_empty() {
        return Ok(matches.arguments.clone());
    }
    let all = if matches.is("all") { "?all=1" } else { "" };
    let list = context.client.get(&format!("/containers/json{all}"))?;
    let ids = list.as_array().into_iter().flatten().filter_map(|entry| entry["Id"].as_str());
    Ok(ids.map(|id| short_id(id).to_owned()).collect())
}

fn wait_for_start(context: &Context) -> Result<(), Failure> {
    let filters = crate::client::query(&[("filters", "{\"type\":{\"container\":true},\"event\":{\"start\":true}}")]);
    let answer = context.client.request("GET", &format!("/events{filters}"), Body::Empty)?;
    BufReader::new(answer).read_line(&mut String::new())?;
    Ok(())
}

/// One reading for each name, all asked for at once.
fn at_once(context: &Context, names: &[String], parameters: &str) -> Vec<Result<Value, Failure>> {
    let (sender, receiver) = mpsc::channel();
    for (at, name) in names.iter().enumerate() {
        let (sender, settings) = (sender.clone(), context.client.settings.clone());
        let path = format!("/containers/{}/stats{parameters}", encode(name));
        std::thread::spawn(move || {
            // The receiver outlives this unless the process is ending.
            let _ = sender.send((at, Client::new(settings).get(&path)));
        });
    }
    drop(sender);
    let mut readings: Vec<(usize, Result<Value, Failure>)> = receiver.into_iter().collect();
    readings.sort_by_key(|(at, _)| *at);
    readings.into_iter().map(|(_, reading)| reading).collect()
}

fn row(name: &str, reading: &Value, whole: bool) -> Value {
    let number = |pointer: &str| reading.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
    let id = reading["id"].as_str().unwrap_or("");
    let cpu = processor_percent(reading);
    // What could be dropped at any time is not counted as used: the page cache that no one has touched lately.
    let cache = ["/memory_stats/stats/total_inactive_file", "/memory_stats/stats/inactive_file"];
    let cache = cache.iter().find_map(|pointer| reading.pointer(pointer).and_then(Value::as_f64)).unwrap_or(0.0);
    let usage = number("/memory_stats/usage");
    let used = if cache < usage { usage - cache } else { usage };
    let limit = number("/memory_stats/limit");
    let sum = |field: &str| -> f64 {
        let networks = reading["networks"].as_object();
        networks.into_iter().flatten().filter_map(|(_, network)| network[field].as_f64()).sum()
    };
    let blocks = |kind: &str| -> f64 {
        let entries = reading.pointer("/blkio_stats/io_service_bytes_recursive").and_then(Value::as_array);
        let of_kind = entries
            .into_iter()
            .flatten()
            .filter(|entry| entry["op"].as_str().is_some_and(|op| op.eq_ignore_ascii_case(kind)));
        of_kind.filter_map(|entry| entry["value"].as_f64()).sum()
    };
    json!({
        "Container": name,
        "ID": if whole { id } else { short_id(id) },
        "Name": reading["name"].as_str().unwrap_or("").trim_start_matches('/'),
        "CPUPerc": format!("{cpu:.2}%"),
        "MemUsage": format!("{} / {}", size_binary(used), size_binary(limit)),
        "MemPerc": format!("{:.2}%", if limit > 0.0 { used / limit * 100.0 } else { 0.0 }),
        "NetIO": format!("{} / {}", size(sum("rx_bytes")), size(sum("tx_bytes"))),
        "BlockIO": format!("{} / {}", size(blocks("read")), size(blocks("write"))),
        "PIDs": (number("/pids_stats/current") as i64).to_string(),
    })
}

/// Share of one processor between the two readings that an answer holds; 200 % is two whole processors.
fn processor_percent(reading: &Value) -> f64 {
    let number = |pointer: &str| reading.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
    let used = number("/cpu_stats/cpu_usage/total_usage") - number("/precpu_stats/cpu_usage/total_usage");
    let all = number("/cpu_stats/system_cpu_usage") - number("/precpu_stats/system_cpu_usage");
    let processors = number("/cpu_stats/online_cpus").max(1.0);
    if used > 0.0 && all > 0.0 { used / all * processors * 100.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_becomes_a_row() {
        let reading = json!({
            "id": "0123456789abcdef", "name": "/web",
            "cpu_stats": {"cpu_usage": {"total_usage": 150}, "system_cpu_usage": 1100, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 2_097_152, "limit": 67_108_864, "stats": {"total_inactive_file": 1_048_576}},
            "pids_stats": {"current": 3},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 4096}, {"op": "Write", "value": 0}]},
        });
        let found = row("web", &reading, false);
        assert_eq!(
            (&found["CPUPerc"], &found["MemUsage"], &found["MemPerc"], &found["BlockIO"], &found["PIDs"]),
            (&json!("100.00%"), &json!("1MiB / 64MiB"), &json!("1.56%"), &json!("4.1kB / 0B"), &json!("3"))
        );
    }
}
