//! Commands that act on containers by name and answer little: stop, kill, remove, rename, update and their kin.

use serde_json::{Map, Value, json};

use super::{Command, Context, for_each, out};
use crate::client::http::encode;
use crate::client::query;
use crate::failure::Failure;
use crate::flags::{Arity, Flag, Matches, bytes, decimal, int, switch, text};
use crate::show;

/// One request for each named container; the name is printed when it worked.
fn each(context: &Context, matches: &Matches, action: &str, parameters: &str) -> Result<u8, Failure> {
    for_each(&matches.arguments, |name| {
        context.client.post(&format!("/containers/{}/{action}{parameters}", encode(name)), None)?;
        out(&format!("{name}\n"))
    })
}

const STOP_FLAGS: &[Flag] = &[
    text("signal", "Signal to send to the container").short('s'),
    int("timeout", "Seconds to wait before killing the container").short('t'),
    int("time", "").hidden(),
];

fn stop_parameters(matches: &Matches) -> String {
    let seconds = matches.text("timeout").or(matches.text("time"));
    let pairs = [("signal", matches.text("signal")), ("t", seconds)];
    query(&pairs.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect::<Vec<_>>())
}

pub(super) static STOP: Command = Command {
    name: "stop",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Stop one or more running containers",
    examples: "  knarr stop web            asks, waits ten seconds, then kills\n  knarr stop -t 1 web db",
    flags: &[STOP_FLAGS],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| each(context, matches, "stop", &stop_parameters(matches)),
};

pub(super) static RESTART: Command = Command {
    name: "restart",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Restart one or more containers",
    examples: "",
    flags: &[STOP_FLAGS],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| each(context, matches, "restart", &stop_parameters(matches)),
};

pub(super) static KILL: Command = Command {
    name: "kill",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Kill one or more running containers",
    examples: "  knarr kill web\n  knarr kill -s HUP web     only a signal",
    flags: &[&[text("signal", "Signal to send to the container").short('s')]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| {
        let signal = matches.text("signal").map(|signal| query(&[("signal", signal)])).unwrap_or_default();
        each(context, matches, "kill", &signal)
    },
};

pub(super) static PAUSE: Command = Command {
    name: "pause",
    usage: "CONTAINER [CONTAINER...]",
    about: "Pause all processes within one or more containers",
    examples: "",
    flags: &[],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| each(context, matches, "pause", ""),
};

pub(super) static UNPAUSE: Command = Command {
    name: "unpause",
    usage: "CONTAINER [CONTAINER...]",
    about: "Unpause all processes within one or more containers",
    examples: "",
    flags: &[],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| each(context, matches, "unpause", ""),
};

pub(super) static RM: Command = Command {
    name: "rm",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Remove one or more containers",
    examples: "  knarr rm job\n  knarr rm -f $(knarr ps -aq)     everything, running or not",
    flags: &[&[
        switch("force", "Force the removal of a running container (uses SIGKILL)").short('f'),
        switch("volumes", "Remove anonymous volumes associated with the container").short('v'),
        switch("link", "").short('l').refused("there are no links"),
    ]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| {
        let force = matches.is("force");
        let mut parameters = Vec::new();
        if force {
            parameters.push(("force", "1"));
        }
        if matches.is("volumes") {
            parameters.push(("v", "1"));
        }
        let parameters = query(&parameters);
        for_each(&matches.arguments, |name| {
            let name = name.trim_start_matches('/');
            match context.client.delete(&format!("/containers/{}{parameters}", encode(name))) {
                // Forcing what is not there is said, and is no failure.
                Err(failure) if force && failure.is_not_found() => {
                    eprintln!("{}", failure.message);
                    Ok(())
                }
                Err(failure) => Err(failure),
                Ok(_) => out(&format!("{name}\n")),
            }
        })
    },
};

pub(super) static RENAME: Command = Command {
    name: "rename",
    usage: "CONTAINER NEW_NAME",
    about: "Rename a container",
    examples: "",
    flags: &[],
    interspersed: true,
    arity: Arity::Exactly(2),
    run: |context, matches| {
        let name = query(&[("name", &matches.arguments[1])]);
        let old = &matches.arguments[0];
        context.client.post(&format!("/containers/{}/rename{name}", encode(old)), None).map_err(|failure| {
            let message = format!("{}\nError: failed to rename container named {old}", failure.message);
            Failure { message, ..failure }
        })?;
        Ok(0)
    },
};

pub(super) static WAIT: Command = Command {
    name: "wait",
    usage: "CONTAINER [CONTAINER...]",
    about: "Block until one or more containers stop, then print their exit codes",
    examples: "",
    flags: &[],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| {
        for_each(&matches.arguments, |name| {
            let answer = context.client.post(&format!("/containers/{}/wait", encode(name)), None)?;
            if let Some(message) = answer.pointer("/Error/Message").and_then(Value::as_str).filter(|m| !m.is_empty()) {
                return Err(Failure::new(message));
            }
            out(&format!("{}\n", answer["StatusCode"]))
        })
    },
};

pub(super) static UPDATE: Command = Command {
    name: "update",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Update configuration of one or more containers",
    examples: "  knarr update -m 128m --memory-swap 128m web\n  knarr update --restart always web",
    flags: &[&[
        int("blkio-weight", "Block IO (relative weight), between 10 and 1000, or 0 to disable"),
        int("cpu-period", "Limit CPU CFS (Completely Fair Scheduler) period"),
        int("cpu-quota", "Limit CPU CFS (Completely Fair Scheduler) quota"),
        int("cpu-rt-period", "Limit the CPU real-time period in microseconds"),
        int("cpu-rt-runtime", "Limit the CPU real-time runtime in microseconds"),
        int("cpu-shares", "CPU shares (relative weight)").short('c'),
        decimal("cpus", "Number of CPUs"),
        text("cpuset-cpus", "CPUs in which to allow execution (0-3, 0,1)"),
        text("cpuset-mems", "MEMs in which to allow execution (0-3, 0,1)"),
        bytes("memory", "Memory limit").short('m'),
        bytes("memory-reservation", "Memory soft limit"),
        bytes("memory-swap", "Swap limit equal to memory plus swap: -1 to enable unlimited swap"),
        int("pids-limit", "Tune container pids limit (set -1 for unlimited)"),
        text("restart", "Restart policy to apply when a container exits"),
    ]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| {
        let body = update_request(matches)?;
        for_each(&matches.arguments, |name| {
            let answer = context.client.post(&format!("/containers/{}/update", encode(name)), Some(&body))?;
            for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                eprintln!("{warning}");
            }
            out(&format!("{name}\n"))
        })
    },
};

fn update_request(matches: &Matches) -> Result<Value, String> {
    let mut body = Map::new();
    let ints = [
        ("blkio-weight", "BlkioWeight"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-rt-period", "CpuRealtimePeriod"),
        ("cpu-rt-runtime", "CpuRealtimeRuntime"),
        ("cpu-shares", "CpuShares"),
        ("pids-limit", "PidsLimit"),
    ];
    for (flag, field) in ints {
        if let Some(value) = matches.int(flag) {
            body.insert(field.into(), json!(value));
        }
    }
    for (flag, field) in
        [("memory", "Memory"), ("memory-reservation", "MemoryReservation"), ("memory-swap", "MemorySwap")]
    {
        if let Some(value) = matches.bytes(flag) {
            body.insert(field.into(), json!(value));
        }
    }
    for (flag, field) in [("cpuset-cpus", "CpusetCpus"), ("cpuset-mems", "CpusetMems")] {
        if let Some(value) = matches.text(flag) {
            body.insert(field.into(), json!(value));
        }
    }
    if let Some(nanos) = matches.nano_cpus("cpus") {
        body.insert("NanoCpus".into(), json!(nanos));
    }
    if let Some(policy) = matches.text("restart") {
        body.insert("RestartPolicy".into(), crate::create::restart_policy(policy)?);
    }
    if body.is_empty() {
        return Err("you must provide one or more flags when using this command".into());
    }
    Ok(Value::Object(body))
}

pub(super) static TOP: Command = Command {
    name: "top",
    usage: "CONTAINER [ps OPTIONS]",
    about: "Display the running processes of a container",
    examples: "  knarr top web\n  knarr top web -eo pid,comm",
    flags: &[],
    interspersed: false,
    arity: Arity::AtLeast(1),
    run: |context, matches| {
        let arguments = matches.arguments[1..].join(" ");
        let parameters = if arguments.is_empty() { String::new() } else { query(&[("ps_args", &arguments)]) };
        let answer = context.client.get(&format!("/containers/{}/top{parameters}", encode(&matches.arguments[0])))?;
        let line = |cells: &Value| {
            let cells = cells.as_array().into_iter().flatten().filter_map(Value::as_str);
            cells.collect::<Vec<_>>().join("\t")
        };
        let mut lines = vec![line(&answer["Titles"])];
        lines.extend(answer["Processes"].as_array().into_iter().flatten().map(line));
        out(&show::align_with(&lines, 20, 3))?;
        Ok(0)
    },
};

pub(super) static PORT: Command = Command {
    name: "port",
    usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
    about: "List port mappings or a specific mapping for the container",
    examples: "",
    flags: &[],
    interspersed: true,
    arity: Arity::Between(1, 2),
    run: |context, matches| {
        let view = context.client.get(&format!("/containers/{}/json", encode(&matches.arguments[0])))?;
        let ports = view.pointer("/NetworkSettings/Ports").and_then(Value::as_object).cloned().unwrap_or_default();
        let wanted = matches.arguments.get(1).map(|port| match port.contains('/') {
            true => port.clone(),
            false => format!("{port}/tcp"),
        });
        let mut lines = Vec::new();
        for (port, bindings) in ports.iter().filter(|(port, _)| wanted.as_ref().is_none_or(|wanted| wanted == *port)) {
            for binding in bindings.as_array().into_iter().flatten() {
                let (address, number) =
                    (binding["HostIp"].as_str().unwrap_or(""), binding["HostPort"].as_str().unwrap_or(""));
                let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
                lines.push(match wanted {
                    Some(_) => format!("{address}:{number}\n"),
                    None => format!("{port} -> {address}:{number}\n"),
                });
            }
        }
        if let (Some(wanted), true) = (wanted, lines.is_empty()) {
            return Err(Failure::new(format!(
                "Error: No public port '{wanted}' published for {}",
                matches.arguments[0]
            )));
        }
        lines.sort();
        out(&lines.concat())?;
        Ok(0)
    },
};

pub(super) static DIFF: Command = Command {
    name: "diff",
    usage: "CONTAINER",
    about: "Inspect changes to files or directories on a container's filesystem",
    examples: "  knarr diff web     A added, C changed, D deleted",
    flags: &[&[text("format", "Format output using a custom template").hidden()]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |context, matches| {
        let answer = context.client.get(&format!("/containers/{}/changes", encode(&matches.arguments[0])))?;
        let mut text = String::new();
        for change in answer.as_array().into_iter().flatten() {
            let kind = match change["Kind"].as_i64() {
                Some(0) => 'C',
                Some(1) => 'A',
                Some(2) => 'D',
                _ => '?',
            };
            text.push_str(&format!("{kind} {}\n", change["Path"].as_str().unwrap_or("")));
        }
        out(&text)?;
        Ok(0)
    },
};
