//! state, list, ps, events: what a container is and does.

use std::io::Write;

use linux::cgroup::{Stats, WatchKind};
use linux::epoll::Interest;
use serde_json::{Map, Value, json};

use super::args::{Flag, parse, switch, value};
use super::control::group;
use super::state::{Dir, Doing, Record};
use super::{Context, Fatal, Outcome, container_id};

pub(super) fn state(context: &Context, rest: &[String]) -> Outcome {
    let flags = parse(rest, &[])?;
    let dir = Dir::of(&context.root, container_id(&flags, "state")?)?;
    let record = dir.read()?;
    let state = state_value(&record, record.doing(&dir));
    println!("{}", serde_json::to_string_pretty(&state)?);
    Ok(0)
}

fn state_value(record: &Record, doing: Doing) -> Value {
    let mut state = json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": if doing == Doing::Stopped { 0 } else { record.init_process_pid },
        "status": doing.word(),
        "bundle": record.bundle.to_string_lossy(),
        "rootfs": record.rootfs,
        "created": record.created,
        "owner": record.owner,
    });
    if !record.annotations.is_empty() {
        let map: Map<String, Value> =
            record.annotations.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        state["annotations"] = map.into();
    }
    state
}

pub(super) fn list(context: &Context, rest: &[String]) -> Outcome {
    const FLAGS: &[Flag] = &[value(&["format", "f"]), switch(&["quiet", "q"])];
    let flags = parse(rest, FLAGS)?;
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(&context.root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return list_of(&found, flags.get("format"), flags.is_set("quiet"));
        }
        Err(error) => return Err(format!("read {}: {error}", context.root.display()).into()),
    };
    for entry in entries {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let Ok(dir) = Dir::of(&context.root, &name) else { continue };
        // One that is being made or removed right now is not there yet, or no longer.
        let Ok(record) = dir.read() else { continue };
        let doing = record.doing(&dir);
        found.push((record, doing));
    }
    found.sort_by(|a, b| a.0.id.cmp(&b.0.id));
    list_of(&found, flags.get("format"), flags.is_set("quiet"))
}

fn list_of(found: &[(Record, Doing)], format: Option<&str>, quiet: bool) -> Outcome {
    let mut out = String::new();
    match format.unwrap_or("table") {
        _ if quiet => found.iter().for_each(|(record, _)| out.push_str(&format!("{}\n", record.id))),
        "json" => {
            let values: Vec<Value> = found.iter().map(|(record, doing)| state_value(record, *doing)).collect();
            // runc says null for an empty list.
            out = if values.is_empty() { "null".into() } else { Value::from(values).to_string() };
        }
        "table" => {
            let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
            rows.extend(found.iter().map(|(record, doing)| {
                let pid = if *doing == Doing::Stopped { 0 } else { record.init_process_pid };
                [
                    record.id.clone(),
                    pid.to_string(),
                    doing.word().to_owned(),
                    record.bundle.to_string_lossy().into_owned(),
                    record.created.clone(),
                    record.owner.clone(),
                ]
            }));
            let widths: Vec<usize> =
                (0..6).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(8) + 4).collect();
            for row in rows {
                let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
                out.push_str(line.trim_end());
                out.push('\n');
            }
        }
        other => return Err(format!("invalid format option: {other}").into()),
    }
    Ok(write_out(&out)?)
}

/// A reader that has seen enough is no error.
fn write_out(text: &str) -> Result<u8, std::io::Error> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(0),
    }
}

fn pids(record: &Record) -> Result<Vec<i32>, Fatal> {
    match group(record) {
        Some(group) => {
            let mut pids = group.all_pids()?;
            pids.sort_unstable();
            pids.dedup();
            Ok(pids)
        }
        None => Ok(record.process().map(|_| record.init_process_pid).into_iter().collect()),
    }
}

pub(super) fn ps(context: &Context, rest: &[String]) -> Outcome {
    const FLAGS: &[Flag] = &[value(&["format", "f"])];
    let flags = parse(rest, FLAGS)?;
    let Some((id, words)) = flags.words.split_first() else {
        return Err("runc: \"ps\" requires a minimum of 1 argument, and 0 were given".into());
    };
    let dir = Dir::of(&context.root, id)?;
    let record = dir.read()?;
    let pids = pids(&record)?;
    match flags.get("format").unwrap_or("table") {
        "json" => Ok(write_out(&Value::from(pids).to_string())?),
        "table" => {
            let words = if words.is_empty() { vec!["-ef".to_owned()] } else { words.to_vec() };
            let output =
                std::process::Command::new("ps").args(&words).output().map_err(|error| format!("ps: {error}"))?;
            if !output.status.success() {
                return Err(format!("ps: {}", String::from_utf8_lossy(&output.stderr).trim_end()).into());
            }
            Ok(write_out(&only_ours(&String::from_utf8_lossy(&output.stdout), &pids)?)?)
        }
        other => Err(format!("invalid format option: {other}").into()),
    }
}

/// The header and the lines whose PID column names one of ours.
fn only_ours(table: &str, pids: &[i32]) -> Result<String, Fatal> {
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let column =
        header.split_whitespace().position(|name| name == "PID").ok_or("couldn't find PID field in ps output")?;
    let ours = lines.filter(|line| {
        line.split_whitespace()
            .nth(column)
            .and_then(|pid| pid.parse::<i32>().ok())
            .is_some_and(|pid| pids.contains(&pid))
    });
    Ok(std::iter::once(header).chain(ours).map(|line| format!("{line}\n")).collect())
}

pub(super) fn events(context: &Context, rest: &[String]) -> Outcome {
    const FLAGS: &[Flag] = &[value(&["interval"]), switch(&["stats"])];
    let flags = parse(rest, FLAGS)?;
    let interval = super::specfile::duration(flags.get("interval").unwrap_or("5s"))?;
    if interval.is_zero() {
        return Err("duration interval must be greater than 0".into());
    }
    let dir = Dir::of(&context.root, container_id(&flags, "events")?)?;
    let record = dir.read()?;
    if record.doing(&dir) == Doing::Stopped {
        return Err(format!("container with id {} is not running", record.id).into());
    }
    let group = group(&record).ok_or("the container has no cgroup")?;
    let emit = |kind: &str, data: Value| -> Result<(), std::io::Error> {
        let mut event = json!({"type": kind, "id": record.id});
        if !data.is_null() {
            event["data"] = data;
        }
        let mut out = std::io::stdout();
        writeln!(out, "{event}").and_then(|()| out.flush())
    };
    if flags.is_set("stats") {
        emit("stats", stats_value(&group.stats()))?;
        return Ok(0);
    }
    let process = record.process().ok_or("container not running")?;
    let watch = group.watch(WatchKind::Memory)?;
    let epoll = linux::epoll::Epoll::new()?;
    epoll.add(&process, 0, Interest::IN)?;
    let mut kills = group.events().oom_kill.unwrap_or(0);
    if let Some(watch) = &watch {
        epoll.add(watch, 1, if watch.waits_for_input() { Interest::IN } else { Interest::PRI })?;
    }
    let mut ready = Vec::new();
    let mut next = std::time::Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(std::time::Instant::now());
        epoll.wait(&mut ready, i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX))?;
        if ready.iter().any(|event| event.token == 0) {
            return Ok(0);
        }
        if ready.iter().any(|event| event.token == 1)
            && let Some(watch) = &watch
        {
            let news = watch.read();
            let killed = news.oom_kill.unwrap_or(kills);
            if killed > kills || news.under_oom == Some(true) {
                emit("oom", Value::Null)?;
            }
            kills = killed.max(kills);
        }
        if next <= std::time::Instant::now() {
            emit("stats", stats_value(&group.stats()))?;
            next += interval;
        }
    }
}

/// The shape that runc's `events` has had since its first version.
fn stats_value(stats: &Stats) -> Value {
    let entry = |usage: Option<u64>, max: Option<u64>, limit: Option<u64>| json!({"limit": limit.unwrap_or(u64::MAX), "usage": usage.unwrap_or(0), "max": max.unwrap_or(0), "failcnt": stats.memory.failures.unwrap_or(0)});
    let io = |pick: fn(&linux::cgroup::IoDevice) -> (u64, u64)| -> Value {
        stats
            .io
            .iter()
            .flat_map(|((major, minor), device)| {
                let (read, write) = pick(device);
                [
                    json!({"major": major, "minor": minor, "op": "Read", "value": read}),
                    json!({"major": major, "minor": minor, "op": "Write", "value": write}),
                ]
            })
            .collect()
    };
    let hugetlb: Map<String, Value> = stats
        .hugetlb
        .iter()
        .map(|(size, use_)| {
            (size.clone(), json!({"usage": use_.usage, "max": use_.max_usage.unwrap_or(0), "failcnt": use_.failures}))
        })
        .collect();
    let raw: Map<String, Value> = stats.memory.stat.iter().map(|(key, value)| (key.clone(), (*value).into())).collect();
    json!({
        "cpu": {
            "usage": {
                "total": stats.cpu.usage_ns,
                "percpu": stats.cpu.per_cpu_ns,
                "kernel": stats.cpu.system_ns,
                "user": stats.cpu.user_ns,
            },
            "throttling": {
                "periods": stats.cpu.periods,
                "throttledPeriods": stats.cpu.throttled_periods,
                "throttledTime": stats.cpu.throttled_ns,
            },
        },
        "memory": {
            "usage": entry(stats.memory.usage, stats.memory.max_usage, stats.memory.limit),
            "swap": entry(stats.memory.swap_usage, None, stats.memory.swap_limit),
            "cache": stats.memory.stat.get("cache").or(stats.memory.stat.get("file")).copied().unwrap_or(0),
            "raw": raw,
        },
        "pids": {"current": stats.pids.current.unwrap_or(0), "limit": stats.pids.limit.unwrap_or(0)},
        "blkio": {"ioServiceBytesRecursive": io(|d| (d.read_bytes, d.write_bytes)), "ioServicedRecursive": io(|d| (d.read_ops, d.write_ops))},
        "hugetlb": hugetlb,
        "intel_rdt": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_keeps_the_header_and_our_lines() {
        let table = "UID  PID PPID CMD\nroot   1    0 init\nroot  77    1 sh -c 1\n";
        assert_eq!(only_ours(table, &[77]).unwrap(), "UID  PID PPID CMD\nroot  77    1 sh -c 1\n");
        assert!(only_ours("nothing here", &[1]).is_err());
    }
}
