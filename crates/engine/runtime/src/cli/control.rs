//! kill, delete, pause, resume.

use std::time::{Duration, Instant};

use crate::hooks::{self, Status};
use crate::launch::{cgroups, cleanup};
use crate::plan::CgroupPlan;

use super::args::{Flag, parse, switch};
use super::state::{Dir, Doing, Record, StateError};
use super::{Context, Fatal, Outcome, container_id};

const KILL: i32 = 9;
const TERM: i32 = 15;
const PATIENCE: Duration = Duration::from_secs(10);
/// Milliseconds in which a killed process that nothing holds up has ended.
const GOES_AT_ONCE: i32 = 100;

pub(super) fn kill(context: &Context, rest: &[String]) -> Outcome {
    const FLAGS: &[Flag] = &[switch(&["all", "a"])];
    let flags = parse(rest, FLAGS)?;
    // runc takes the flag after the words, too.
    let words: Vec<&String> = flags.words.iter().filter(|word| !matches!(word.as_str(), "--all" | "-a")).collect();
    let all = flags.is_set("all") || words.len() < flags.words.len();
    let (id, signal) = match words.as_slice() {
        [id] => (id, TERM),
        [id, signal] => (id, parse_signal(signal)?),
        _ => return Err("runc: \"kill\" requires a minimum of 1 and a maximum of 2 arguments".into()),
    };
    let dir = Dir::of(&context.root, id)?;
    let record = dir.read()?;
    // Processes of a shared pid namespace do not die with the first one.
    if all || (signal == KILL && !record.private_pids()) {
        let sent = signal_all(&record, signal)?;
        if !sent && !all {
            return Err("container not running".into());
        }
        return Ok(0);
    }
    let Some(process) = record.process() else { return Err("container not running".into()) };
    match linux::pidfd::send_signal(&process, signal) {
        Err(error) if error.is(linux::Errno::SRCH) => return Err("container not running".into()),
        other => other?,
    }
    if signal == KILL {
        thaw(&record);
    }
    Ok(0)
}

fn parse_signal(text: &str) -> Result<i32, Fatal> {
    let number = text.parse::<i32>().ok().filter(|n| (0..=64).contains(n)).or_else(|| linux::signal::from_name(text));
    number.ok_or_else(|| format!("unknown signal {text:?}").into())
}

/// A frozen process takes no signal until it is thawed.
fn thaw(record: &Record) {
    if let Some(group) = group(record)
        && group.is_frozen().unwrap_or(false)
    {
        let _ = group.thaw();
    }
}

pub(super) fn group(record: &Record) -> Option<linux::cgroup::Group> {
    if record.cgroup.is_empty() {
        return None;
    }
    cgroups().ok()?.find(std::path::Path::new(&record.cgroup)).ok()
}

/// To every process of the container, each by its pidfd. False if there is none.
fn signal_all(record: &Record, signal: i32) -> Result<bool, Fatal> {
    let mut sent = false;
    if let Some(group) = group(record) {
        if signal == KILL {
            sent = group.is_populated()?;
            group.kill()?;
            return Ok(sent);
        }
        for pid in group.all_pids()? {
            if let Ok(process) = linux::pidfd::open(pid) {
                sent |= linux::pidfd::send_signal(&process, signal).is_ok();
            }
        }
    } else if let Some(process) = record.process() {
        sent = linux::pidfd::send_signal(&process, signal).is_ok();
    }
    Ok(sent)
}

pub(super) fn delete(context: &Context, rest: &[String]) -> Outcome {
    const FLAGS: &[Flag] = &[switch(&["force", "f"])];
    let flags = parse(rest, FLAGS)?;
    let words: Vec<&String> = flags.words.iter().filter(|word| !matches!(word.as_str(), "--force" | "-f")).collect();
    let force = flags.is_set("force") || words.len() < flags.words.len();
    let [id] = words.as_slice() else {
        return Err(format!("runc: \"delete\" requires exactly 1 argument(s), and {} were given", words.len()).into());
    };
    let dir = Dir::of(&context.root, id)?;
    let record = match dir.read() {
        Ok(record) => record,
        Err(StateError::NotFound(_)) if force => return Ok(0),
        Err(StateError::Incomplete(_) | StateError::Format { .. }) if force => {
            let path = dir.cgroup_hint().unwrap_or_default();
            cleanup(&CgroupPlan { path, resources: Default::default(), optional: true })?;
            dir.remove()?;
            return Ok(0);
        }
        Err(error) => return Err(error.into()),
    };
    match record.doing(&dir) {
        Doing::Stopped => {}
        Doing::Created => end(&record)?,
        doing if !force => {
            return Err(format!("cannot delete container {id} that is not stopped: {}", doing.word()).into());
        }
        _ => end(&record)?,
    }
    destroy(context, &dir, &record)?;
    Ok(0)
}

/// Kills the container's processes and waits until the first is gone.
fn end(record: &Record) -> Result<(), Fatal> {
    let Some(process) = record.process() else { return Ok(()) };
    let _ = linux::pidfd::send_signal(&process, KILL);
    // All of a pid namespace goes with its first process, and has gone when that is seen to end. Unless it is frozen.
    if record.private_pids() && linux::epoll::poll_one(&process, linux::epoll::Interest::IN, GOES_AT_ONCE)? {
        return Ok(());
    }
    thaw(record);
    signal_all(record, KILL)?;
    let end = Instant::now() + PATIENCE;
    while !linux::pidfd::has_ended(&process)? {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("container init still running".into());
        }
        linux::epoll::poll_one(&process, linux::epoll::Interest::IN, left.as_millis().max(1) as i32)?;
    }
    Ok(())
}

/// Removes what is left of a stopped container.
pub(super) fn destroy(context: &Context, dir: &Dir, record: &Record) -> Result<(), Fatal> {
    match cleanup(&record.cgroup_plan()) {
        Err(failure) if record.cgroup_optional => context.log.warn(&failure.to_string()),
        other => other?,
    }
    vocab::crash::point("runtime.delete.group_removed");
    if !record.poststop.is_empty()
        && let Err(cause) = hooks::run(&record.poststop, "poststop", &record.hook_state(Status::Stopped))
    {
        context.log.warn(&cause.to_string());
    }
    Ok(dir.remove()?)
}

pub(super) fn pause(context: &Context, rest: &[String]) -> Outcome {
    let flags = parse(rest, &[])?;
    let dir = Dir::of(&context.root, container_id(&flags, "pause")?)?;
    let record = dir.read()?;
    match record.doing(&dir) {
        Doing::Running | Doing::Created => {
            let group = group(&record).ok_or("the container has no cgroup to freeze")?;
            group.freeze(PATIENCE)?;
            Ok(0)
        }
        Doing::Paused => Err("container not running: it is paused".into()),
        Doing::Stopped => Err("container not running".into()),
    }
}

pub(super) fn resume(context: &Context, rest: &[String]) -> Outcome {
    let flags = parse(rest, &[])?;
    let dir = Dir::of(&context.root, container_id(&flags, "resume")?)?;
    let record = dir.read()?;
    let frozen = group(&record).filter(|group| group.is_frozen().unwrap_or(false));
    match frozen {
        Some(group) => {
            group.thaw()?;
            Ok(0)
        }
        None => Err("container not paused".into()),
    }
}
