//! exec: one more process in a running container.

use std::path::Path;

use oci_spec::runtime::{Capabilities, LinuxCapabilitiesBuilder, Process};

use crate::exec::launch_exec;
use crate::launch::{Stdio, end};
use crate::plan::{ExecTarget, HostFacts, capability_sets, plan_exec, seccomp_of};
use crate::report::Event;

use super::args::{Flag, Parsed, parse, switch, value};
use super::container::{load_spec, preserve_fds, send_pidfd, write_pid};
use super::state::{Dir, Doing, Record};
use super::{Context, Fatal, Outcome, foreground, protect};

const FLAGS: &[Flag] = &[
    value(&["console-socket"]),
    value(&["cwd"]),
    value(&["env", "e"]),
    switch(&["tty", "t"]),
    value(&["user", "u"]),
    value(&["additional-gids", "g"]),
    value(&["process", "p"]),
    switch(&["detach", "d"]),
    value(&["pid-file"]),
    value(&["pidfd-socket"]),
    value(&["process-label"]),
    value(&["apparmor"]),
    switch(&["no-new-privs"]),
    value(&["cap", "c"]),
    value(&["preserve-fds"]),
    value(&["cgroup"]),
    switch(&["ignore-paused"]),
    switch(&["no-subreaper"]),
];

pub(super) fn exec(context: &Context, rest: &[String]) -> Outcome {
    let flags = parse(rest, FLAGS)?;
    if flags.words.is_empty() {
        return Err("runc: \"exec\" requires a minimum of 1 argument, and 0 were given".into());
    }
    protect(context)?;
    run(context, &flags).map_err(|fatal| Fatal::with_code(format!("exec failed: {}", fatal.message), 255))
}

fn run(context: &Context, flags: &Parsed) -> Outcome {
    let preserve = preserve_fds(flags)?;
    let dir = Dir::of(&context.root, &flags.words[0])?;
    let record = dir.read()?;
    match record.doing(&dir) {
        Doing::Stopped => return Err("cannot exec in a stopped container".into()),
        Doing::Paused if !flags.is_set("ignore-paused") => {
            return Err("cannot exec in a paused container (use --ignore-paused to override)".into());
        }
        _ => {}
    }
    let target = record.process().ok_or("cannot exec in a stopped container")?;
    let spec = load_spec(&record.bundle)?;
    let process = process(flags, spec.process().clone())?;
    let facts = HostFacts::gather()?;
    let exec_target = ExecTarget {
        id: record.id.clone(),
        namespaces: record.namespaces.clone(),
        cgroup: sub_cgroup(&record, flags)?,
        cgroup_optional: record.cgroup_optional,
        setgroups: record.setgroups,
        seccomp: seccomp_of(&spec)?,
        capabilities: spec.process().as_ref().and_then(|p| p.capabilities().as_ref()).map(capability_sets),
        state: record.hook_state(crate::hooks::Status::Running),
        personality: None,
    };
    let plan = plan_exec(&process, &exec_target, &facts, preserve)?;
    for warning in &plan.warnings {
        context.log.warn(warning);
    }
    let detach = flags.is_set("detach");
    let socket = flags.get("console-socket").filter(|path| !path.is_empty());
    let stdio = match (plan.terminal, socket, detach) {
        (false, None, _) => Stdio::Inherit,
        (true, Some(path), true) => {
            Stdio::ConsoleSocket { socket: linux::socket::connect(path, linux::socket::Kind::Stream)?, size: None }
        }
        (true, None, false) => Stdio::Terminal { size: foreground::size() },
        (true, None, true) => {
            return Err("cannot allocate tty if runc will detach without setting console socket".into());
        }
        (_, Some(_), _) => return Err("cannot use console socket if runc will not detach or allocate tty".into()),
    };
    let signals = if detach { None } else { Some(foreground::Signals::block(!flags.is_set("no-subreaper"))?) };
    let launched = launch_exec(&context.token, &plan, &target, stdio)
        .map_err(|failure| format!("unable to start container process: {failure}"))?;
    let mut master = None;
    loop {
        match launched.report.wait() {
            Event::Warning(text) => context.log.warn(&text),
            Event::Console(fd) => master = Some(fd),
            Event::Started => break,
            Event::Failed(failure) => {
                end(launched.pid, &launched.pidfd);
                return Err(format!("unable to start container process: {failure}").into());
            }
            Event::Pending | Event::RuntimeHooks | Event::Ready => {}
        }
    }
    if let Some(path) = flags.get("pid-file").filter(|path| !path.is_empty()) {
        write_pid(Path::new(path), launched.pid)?;
    }
    send_pidfd(flags, &launched.pidfd, "setns")?;
    match signals {
        None => Ok(0),
        Some(signals) => foreground::wait(signals, launched.pid, &launched.pidfd, master),
    }
}

/// `--cgroup [controller:]path`, beneath the container's own.
fn sub_cgroup(record: &Record, flags: &Parsed) -> Result<String, Fatal> {
    let Some(sub) = flags.all("cgroup").last() else { return Ok(record.cgroup.clone()) };
    if flags.all("cgroup").len() > 1 || sub.contains(':') {
        return Err("--cgroup: one path for all controllers is supported".into());
    }
    if sub.split('/').any(|part| part == "..") {
        return Err(format!("--cgroup {sub}: outside of the container's cgroup").into());
    }
    let sub = sub.trim_matches('/');
    Ok(if sub.is_empty() || record.cgroup.is_empty() {
        record.cgroup.clone()
    } else {
        format!("{}/{sub}", record.cgroup)
    })
}

/// The process object of `--process`, or the container's own with what the flags change.
fn process(flags: &Parsed, own: Option<Process>) -> Result<Process, Fatal> {
    if let Some(path) = flags.get("process").filter(|path| !path.is_empty()) {
        let bytes = std::fs::read(path).map_err(|error| format!("--process {path}: {error}"))?;
        return Ok(serde_json::from_slice(&bytes).map_err(|error| format!("--process {path}: {error}"))?);
    }
    let mut process = own.ok_or("the container's configuration has no process")?;
    let args = flags.words[1..].to_vec();
    if args.is_empty() {
        return Err("exec args cannot be empty".into());
    }
    process.set_args(Some(args));
    if let Some(cwd) = flags.get("cwd") {
        process.set_cwd(cwd.into());
    }
    if let Some(label) = flags.get("apparmor") {
        process.set_apparmor_profile(Some(label.to_owned()));
    }
    if let Some(label) = flags.get("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if flags.is_set("no-new-privs") {
        process.set_no_new_privileges(Some(true));
    }
    let caps = flags.all("cap");
    if !caps.is_empty() {
        let names = caps.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty());
        let asked: Capabilities = names
            .map(|name| {
                serde_json::from_value(serde_json::Value::from(name))
                    .map_err(|_| format!("unknown capability {name:?}"))
            })
            .collect::<Result<_, _>>()?;
        let mut sets = process
            .capabilities()
            .clone()
            .unwrap_or_else(|| LinuxCapabilitiesBuilder::default().build().unwrap_or_default());
        let join =
            |set: &Option<Capabilities>| Some(set.iter().flatten().copied().chain(asked.iter().copied()).collect());
        let (bounding, effective, permitted) = (join(sets.bounding()), join(sets.effective()), join(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        process.set_capabilities(Some(sets));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(flags.all("env").iter().cloned());
    process.set_env(Some(env));
    process.set_terminal(Some(flags.is_set("tty")));
    if let Some(user) = flags.get("user").filter(|user| !user.is_empty()) {
        let (uid, gid) =
            user_ids(user).ok_or_else(|| format!("--user {user}: ids are numbers from 0 to {}", i32::MAX))?;
        let mut changed = process.user().clone();
        changed.set_uid(uid);
        if let Some(gid) = gid {
            changed.set_gid(gid);
        }
        process.set_user(changed);
    }
    let gids = flags.all("additional-gids");
    if !gids.is_empty() {
        let numbers = gids
            .iter()
            .flat_map(|list| list.split(','))
            .map(|gid| gid.trim().parse::<u32>().map_err(|_| format!("--additional-gids {gid}: ids are numbers")))
            .collect::<Result<Vec<_>, _>>()?;
        let mut user = process.user().clone();
        user.set_additional_gids(Some(numbers));
        process.set_user(user);
    }
    Ok(process)
}

/// `uid` or `uid:gid`: digits and nothing else, and none that a signed number of the kernel's interfaces could turn into another.
fn user_ids(text: &str) -> Option<(u32, Option<u32>)> {
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u32>().ok().filter(|id| plain && *id <= i32::MAX as u32)
    };
    match text.split_once(':') {
        Some((uid, gid)) => Some((number(uid)?, Some(number(gid)?))),
        None => Some((number(text)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each character of a number may be, said another way than the code does.
    fn model(text: &str) -> Option<u32> {
        let mut value = 0u64;
        for c in text.chars() {
            value = value * 10 + u64::try_from("0123456789".find(c)?).ok()?;
            if value > 2_147_483_647 {
                return None;
            }
        }
        (!text.is_empty()).then_some(value as u32)
    }

    #[test]
    fn ids_are_what_they_look_like() {
        let pieces = [
            "0",
            "1",
            "00",
            "1000",
            "2147483647",
            "2147483648",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "-0",
            "-1",
            "+5",
            "0x0",
            "1e3",
            " 0",
            "0\n",
            "root",
            "\u{663}",
            "\u{ff10}",
            "",
            ":",
            "::",
            "0:",
            ":0",
            "\0",
            ".",
            "1_0",
        ];
        let mut random = fuzz::Random::new(14);
        for _ in 0..10_000 {
            let text: String = (0..random.below(4)).map(|_| pieces[random.below(pieces.len())]).collect();
            let expected = match text.split_once(':') {
                None => model(&text).map(|uid| (uid, None)),
                Some((uid, gid)) => model(uid).zip(model(gid)).map(|(uid, gid)| (uid, Some(gid))),
            };
            assert_eq!(user_ids(&text), expected, "{text:?}");
        }
    }
}
