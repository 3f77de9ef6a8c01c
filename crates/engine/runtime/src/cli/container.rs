//! create, run, start.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::hooks::{self, Status};
use crate::launch::{Gate, Launched, Stdio, cleanup, end, launch, run_runtime_hooks};
use crate::plan::{HostFacts, Namespace, Options, Plan, RootfsSource, plan};
use crate::report::Event;

use super::args::{Flag, Parsed, parse, switch, value};
use super::state::{Dir, Doing, Record};
use super::{Context, Fatal, Outcome, container_id, foreground, protect};

const CREATE: &[Flag] = &[
    value(&["bundle", "b"]),
    value(&["console-socket"]),
    value(&["pid-file"]),
    value(&["pidfd-socket"]),
    switch(&["no-pivot"]),
    switch(&["no-new-keyring"]),
    value(&["preserve-fds"]),
];

const RUN: &[Flag] = &[
    value(&["bundle", "b"]),
    value(&["console-socket"]),
    value(&["pid-file"]),
    value(&["pidfd-socket"]),
    switch(&["no-pivot"]),
    switch(&["no-new-keyring"]),
    value(&["preserve-fds"]),
    switch(&["detach", "d"]),
    switch(&["keep"]),
    switch(&["no-subreaper"]),
];

pub(super) fn create(context: &Context, rest: &[String]) -> Outcome {
    let flags = parse(rest, CREATE)?;
    container_id(&flags, "create")?;
    protect(context)?;
    let mut made = make(context, &flags, Mode::Create).map_err(|fatal| fatal.prefix("runc create failed: "))?;
    made.commit().map_err(|fatal| fatal.prefix("runc create failed: "))?;
    Ok(0)
}

pub(super) fn run(context: &Context, rest: &[String]) -> Outcome {
    let flags = parse(rest, RUN)?;
    container_id(&flags, "run")?;
    protect(context)?;
    let prefix = |fatal: Fatal| fatal.prefix("runc run failed: ");
    let detach = flags.is_set("detach");
    let relay = if detach { None } else { Some(foreground::Signals::block(!flags.is_set("no-subreaper"))?) };
    let mut made = make(context, &flags, if detach { Mode::Detached } else { Mode::Foreground }).map_err(prefix)?;
    made.commit().map_err(prefix)?;
    let record = made.dir.read()?;
    let started = open_the_gate(context, &made.dir, &record);
    if let Err(fatal) = started {
        end(made.launched.pid, &made.launched.pidfd);
        let _ = super::control::destroy(context, &made.dir, &record);
        return Err(prefix(fatal));
    }
    let Some(relay) = relay else { return Ok(0) };
    let code = foreground::wait(relay, made.launched.pid, &made.launched.pidfd, made.master.take())?;
    if !flags.is_set("keep") {
        super::control::destroy(context, &made.dir, &record)?;
    }
    Ok(code)
}

pub(super) fn start(context: &Context, rest: &[String]) -> Outcome {
    let flags = parse(rest, &[])?;
    let dir = Dir::of(&context.root, container_id(&flags, "start")?)?;
    let record = dir.read()?;
    match record.doing(&dir) {
        Doing::Created => {}
        Doing::Stopped => return Err("cannot start a container that has stopped".into()),
        Doing::Running => return Err("cannot start an already running container".into()),
        Doing::Paused => return Err("cannot start a container in the paused state".into()),
    }
    open_the_gate(context, &dir, &record)?;
    Ok(0)
}

/// Lets the program run and waits until it does.
fn open_the_gate(context: &Context, dir: &Dir, record: &Record) -> Result<(), Fatal> {
    let gate = dir.open_gate().ok_or_else(|| Fatal::from("cannot start a container that has stopped"))?;
    linux::pipe::write(&gate, b"0")?;
    vocab::crash::point("runtime.start.opened");
    // The process keeps the other end until it has executed the program or has failed.
    while !linux::epoll::poll_one(&gate, linux::epoll::Interest::ERR, -1)? {}
    let error = dir.late_error();
    if !error.is_empty() {
        return Err(format!("unable to start container process: {error}").into());
    }
    if !record.poststart.is_empty()
        && let Err(cause) = hooks::run(&record.poststart, "poststart", &record.hook_state(Status::Running))
    {
        context.log.warn(&cause.to_string());
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Create,
    Detached,
    Foreground,
}

/// A container whose process waits at the gate.
struct Made {
    dir: Dir,
    launched: Launched,
    master: Option<OwnedFd>,
}

impl Made {
    /// From here on the container does without this command.
    fn commit(&mut self) -> Result<(), Fatal> {
        vocab::crash::point("runtime.create.recorded");
        Ok(self.launched.report.commit()?)
    }
}

pub(super) fn load_spec(bundle: &Path) -> Result<Spec, Fatal> {
    let path = bundle.join("config.json");
    let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("JSON specification file {} not found", path.display()),
        _ => format!("read {}: {error}", path.display()),
    })?;
    Ok(serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// The bundle named by `--bundle`, or the working directory.
pub(super) fn bundle(flags: &Parsed) -> Result<PathBuf, Fatal> {
    match flags.get("bundle").filter(|bundle| !bundle.is_empty()) {
        Some(bundle) => Ok(std::path::absolute(bundle)?),
        None => Ok(std::env::current_dir()?),
    }
}

/// Descriptors to hand on must be there before anything of ours can take their numbers.
pub(super) fn preserve_fds(flags: &Parsed) -> Result<u32, Fatal> {
    let Some(text) = flags.get("preserve-fds") else { return Ok(0) };
    let count: u32 =
        text.parse().ok().filter(|n| *n < 1 << 16).ok_or_else(|| format!("--preserve-fds {text}: not a number"))?;
    for number in 3..3 + count as i32 {
        if linux::exec::borrow_inherited(number).is_none() {
            return Err(format!("--preserve-fds {count}: descriptor {number} is not open").into());
        }
    }
    Ok(count)
}

fn rootfs(spec: &Spec, bundle: &Path) -> Result<RootfsSource, Fatal> {
    let root = spec.root().as_ref().ok_or_else(|| Fatal::from("root: is missing"))?;
    let path = bundle.join(root.path());
    // A link to the root file system is common; its target is what the state shows.
    let path = std::fs::canonicalize(&path).map_err(|error| format!("root.path {}: {error}", path.display()))?;
    if !path.is_dir() {
        return Err(format!("root.path {}: not a directory", path.display()).into());
    }
    Ok(RootfsSource::Directory(path))
}

fn make(context: &Context, flags: &Parsed, mode: Mode) -> Result<Made, Fatal> {
    let id = flags.words.first().map_or("", String::as_str);
    // Before anything is opened.
    let preserve_fds = preserve_fds(flags)?;
    let bundle = bundle(flags)?;
    // Neither is ever given back: this process ends soon, and after a clone each page that is written to is copied.
    let spec = ManuallyDrop::new(load_spec(&bundle)?);
    let rootfs = rootfs(&spec, &bundle)?;
    let mut facts = HostFacts::gather()?;
    let absolute = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref()).is_some_and(|path| path.is_absolute());
    if !absolute && !context.systemd_cgroup {
        facts.find_own_cgroup();
    }
    let options = Options {
        no_pivot: flags.is_set("no-pivot"),
        new_keyring: !flags.is_set("no-new-keyring"),
        preserve_fds,
        systemd_cgroup: context.systemd_cgroup,
        cgroup_optional: context.rootless || !facts.initial_user_namespace,
        ..Options::new(id, &bundle)
    };
    let plan = plan(&spec, &rootfs, &facts, &options)
        .map_err(|error| Fatal::from(format!("invalid configuration: {error}")))
        .map(ManuallyDrop::new)?;
    for warning in &plan.warnings {
        context.log.warn(warning);
    }
    if context.log.debugs() {
        plan.steps.iter().for_each(|step| context.log.debug(&step.name()));
    }
    let stdio = stdio(flags, plan.terminal, mode)?;

    let dir = Dir::claim(&context.root, id, &plan.cgroup.path)?;
    let outcome = launch_in(context, flags, &plan, &rootfs, &dir, stdio);
    if outcome.is_err() {
        let _ = dir.remove();
    }
    outcome
}

fn stdio(flags: &Parsed, terminal: bool, mode: Mode) -> Result<Stdio, Fatal> {
    let socket = flags.get("console-socket").filter(|path| !path.is_empty());
    match (terminal, socket, mode) {
        (false, None, _) => Ok(Stdio::Inherit),
        (true, Some(path), Mode::Create | Mode::Detached) => {
            Ok(Stdio::ConsoleSocket { socket: linux::socket::connect(path, linux::socket::Kind::Stream)?, size: None })
        }
        (true, None, Mode::Foreground) => Ok(Stdio::Terminal { size: foreground::size() }),
        (true, None, _) => Err("cannot allocate tty if runc will detach without setting console socket".into()),
        (_, Some(_), _) => Err("cannot use console socket if runc will not detach or allocate tty".into()),
    }
}

fn launch_in(
    context: &Context,
    flags: &Parsed,
    plan: &Plan,
    rootfs: &RootfsSource,
    dir: &Dir,
    stdio: Stdio,
) -> Result<Made, Fatal> {
    let (gate, late) = dir.make_gate()?;
    let launched = launch(&context.token, plan, stdio, Gate::Wait { on: gate, late_errors: Some(late) })
        .map_err(|failure| Fatal::from(format!("unable to start container process: {failure}")))?;
    for warning in launched.warnings.iter().skip(plan.warnings.len()) {
        context.log.warn(warning);
    }
    let outcome = settle(context, flags, plan, rootfs, dir, &launched);
    match outcome {
        Ok(master) => Ok(Made { dir: dir.clone(), launched, master }),
        Err(fatal) => {
            end(launched.pid, &launched.pidfd);
            if let Err(failure) = cleanup(&plan.cgroup) {
                context.log.warn(&failure.to_string());
            }
            Err(fatal)
        }
    }
}

/// From clone to the gate, then on record.
fn settle(
    context: &Context,
    flags: &Parsed,
    plan: &Plan,
    rootfs: &RootfsSource,
    dir: &Dir,
    launched: &Launched,
) -> Result<Option<OwnedFd>, Fatal> {
    let mut master = None;
    loop {
        match launched.report.wait() {
            Event::Warning(text) => context.log.warn(&text),
            Event::Console(fd) => master = Some(fd),
            Event::RuntimeHooks => {
                // The child says again what went wrong here.
                let _ = run_runtime_hooks(plan, launched);
            }
            Event::Ready => break,
            Event::Failed(failure) => {
                return Err(format!("unable to start container process: error during container init: {failure}").into());
            }
            Event::Started | Event::Pending => {
                return Err("unable to start container process: the process ended while it was set up".into());
            }
        }
    }
    vocab::crash::point("runtime.create.ready");
    if let Some(path) = flags.get("pid-file").filter(|path| !path.is_empty()) {
        write_pid(Path::new(path), launched.pid)?;
    }
    send_pidfd(flags, &launched.pidfd, "standard")?;
    let stat = linux::proc::stat(launched.pid)?;
    let (RootfsSource::Directory(rootfs) | RootfsSource::Overlay { upper: rootfs, .. }) = rootfs;
    let target = plan.exec_target();
    dir.write(&Record {
        oci_version: plan.oci_version.clone(),
        id: plan.id.clone(),
        init_process_pid: launched.pid,
        init_process_start: stat.start_time,
        created: super::log::timestamp(linux::process::wall_clock(), true),
        bundle: plan.bundle.clone(),
        rootfs: rootfs.to_string_lossy().into_owned(),
        owner: if context.rootless { std::env::var("USER").unwrap_or_default() } else { String::new() },
        annotations: plan.annotations.clone(),
        cgroup: target.cgroup,
        cgroup_optional: target.cgroup_optional,
        namespaces: target.namespaces,
        private_pids: Some(plan.clone_flags & Namespace::Pid.flag() != 0),
        setgroups: target.setgroups,
        poststart: plan.hooks.poststart.clone(),
        poststop: plan.hooks.poststop.clone(),
    })?;
    Ok(master)
}

/// The descriptor of a process goes to who listens at `--pidfd-socket`, with runc's word for how the process came about.
pub(super) fn send_pidfd(flags: &Parsed, pidfd: &OwnedFd, how: &str) -> Result<(), Fatal> {
    let Some(path) = flags.get("pidfd-socket").filter(|path| !path.is_empty()) else { return Ok(()) };
    let failed = |error: linux::Error| Fatal::from(format!("--pidfd-socket: {error}"));
    let socket = linux::socket::connect(path, linux::socket::Kind::Stream).map_err(failed)?;
    linux::socket::send(&socket, how.as_bytes(), &[pidfd.as_fd()]).map(drop).map_err(failed)
}

/// Whole or not at all: who waits for the file reads it as soon as it is there.
pub(super) fn write_pid(path: &Path, pid: i32) -> Result<(), Fatal> {
    let name = path.file_name().ok_or_else(|| format!("--pid-file {}: not a file name", path.display()))?;
    let temporary = path.with_file_name(format!(".{}", name.to_string_lossy()));
    std::fs::write(&temporary, pid.to_string())
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|error| Fatal::from(format!("write {}: {error}", path.display())))
}
