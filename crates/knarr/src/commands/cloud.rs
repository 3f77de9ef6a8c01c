//! `knarr up` and `down`: a whole cloud in one process, from the outside.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Arity, Command, out};
use crate::client::autostart::READY;
use crate::cloud::{self, Running};
use crate::docker_context;
use crate::failure::Failure;
use crate::flags::{Flag, Matches, switch, text};
use crate::node::word;
use crate::settings::{self, Settings};

const OWN: &[Flag] = &[
    text("port", "Port of the Kubernetes API on this machine; 0 takes a free one (default: 6443)"),
    text(
        "address",
        "Address that the Kubernetes API listens on; others can join if it is not the default (default: 127.0.0.1)",
    ),
    text("kubeconfig", "Where to write the administrator's kubeconfig (default: kubeconfig in the run directory)"),
    text("node-name", "Name of this machine as a node (default: the host's name)"),
    text("node-ip", "Address of this machine as a node (default: that of the default route)"),
    text("cluster-cidr", "Subnet of pods, or one of each family: IPV4/16,IPV6/56 (default: a free one of 10.0.0.0/8)"),
    text("service-cidr", "Addresses of services (default: what it was, else a free part of 10.96.0.0/12)"),
    crate::control::LOAD_BALANCER_POOL,
    crate::control::SIGNING_DURATION,
    crate::scheduler_config::FLAG,
    text(
        "docker-context",
        "Context of the docker client to write; empty writes none (default: knarr, for the usual run directory)",
    ),
    text("registries", "File that says how registries are reached (default: KNARR_REGISTRIES)"),
    crate::daemon::BUILD_CACHE,
    crate::daemon::CDI_DIRECTORIES,
    crate::daemon::USERNS_REMAP,
    crate::daemon::PUBLISHED_PORTS,
    crate::daemon::PLUGIN_DIRECTORIES,
    crate::daemon::PLUGIN_PATIENCE,
    switch("foreground", "Stay in the foreground and log to standard error"),
    switch("background", "").hidden(),
];

pub static UP: Command = Command {
    name: "up",
    usage: "[OPTIONS]",
    about: "Start a whole cloud: engine, Docker socket, Kubernetes API, controllers, scheduler and node",
    examples: "  knarr up                                            then: export KUBECONFIG=/run/knarr/kubeconfig
  knarr --root /srv/k --run /run/k up --port 7443     another cloud beside it

Images that this engine has are what pods run: no push, no pull. Pods run on when it ends.",
    flags: &[OWN, crate::node::FLAGS, settings::FLAGS],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| up(context.settings(), matches),
};

pub static DOWN: Command = Command {
    name: "down",
    usage: "[OPTIONS]",
    about: "End the cloud that knarr up has started, and the pods of its node",
    examples: "  knarr down          end it and its pods; what was declared is kept for the next up
  knarr down --keep   end the process only: pods run on",
    flags: &[&[switch("keep", "Leave the pods running")], settings::FLAGS],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| down(context.settings(), matches.is("keep")),
};

fn up(settings: &Settings, matches: &Matches) -> Result<u8, Failure> {
    if matches.is("foreground") {
        return cloud::run(settings, matches, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    if let Some(running) = Running::find(&settings.run) {
        return Err(Failure::new(format!("knarr up: a cloud runs already (process {})", running.pid)));
    }
    let failed = |what: String| Failure::new(format!("knarr up: {what}"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&settings.run)
        .map_err(|error| failed(format!("create {}: {error}", settings.run.display())))?;
    let log_path = settings.run.join("up.log");
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.map_err(|error| failed(format!("open {}: {error}", log_path.display())))?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("--root").arg(&settings.root).arg("--run").arg(&settings.run);
    command.arg("--host").arg(settings.host.to_string());
    if settings.debug {
        command.arg("--debug");
    }
    command.args(["up", "--foreground", "--background"]);
    for flag in [
        "address",
        "port",
        "node-name",
        "node-ip",
        "cluster-cidr",
        "service-cidr",
        "load-balancer-pool",
        "cluster-signing-duration",
        "eviction-hard",
        "eviction-soft",
        "eviction-soft-grace-period",
        "eviction-max-pod-grace-period",
        "eviction-minimum-reclaim",
        "image-gc-high-threshold",
        "image-gc-low-threshold",
        "minimum-image-ttl-duration",
        "shutdown-grace-period",
        "shutdown-grace-period-critical-pods",
        "shutdown-grace-period-by-pod-priority",
        "container-runtime-endpoint",
        "cni-bin-dir",
        "registries",
        "build-cache",
        "plugin-timeout",
    ] {
        if let Some(value) = matches.text(flag) {
            command.arg(format!("--{flag}={value}"));
        }
    }
    for flag in ["cdi-spec-dir", "plugin-dir"] {
        for directory in matches.list(flag) {
            let path = std::path::absolute(directory).unwrap_or_else(|_| PathBuf::from(directory));
            command.arg(format!("--{flag}")).arg(path);
        }
    }
    for flag in ["kubeconfig", "pod-manifests", "cni-conf-dir", "scheduler-config"] {
        if let Some(path) = matches.text(flag) {
            let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
            command.arg(format!("--{flag}")).arg(path);
        }
    }
    let began = Instant::now();
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().map_err(|error| failed(format!("run /proc/self/exe: {error}")))?;
    let mut said = String::new();
    if let Some(mut output) = child.stdout.take() {
        // It closes this pipe after the word, and dying closes it as well.
        let _ = output.read_to_string(&mut said);
    }
    if said != READY {
        let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let text = fs::read_to_string(&log_path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(5)..].join("\n");
        return Err(failed(format!("it ended ({status}); see {}\n{tail}", log_path.display())));
    }
    let running = Running::find(&settings.run).ok_or_else(|| failed("it ended right after it was ready".into()))?;
    let context = write_context(settings, matches.text("docker-context"));
    let context = context.map(|name| format!("   (or: docker --context {name} ps)")).unwrap_or_default();
    out(&format!(
        "The cloud is up: node {} is ready after {:.2} s\n\n  export KUBECONFIG={}\n  export DOCKER_HOST={}{context}\n\n\
         Try: kubectl get nodes; knarr status; knarr down ends it\n",
        running.node,
        began.elapsed().as_secs_f64(),
        running.kubeconfig,
        settings.host
    ))?;
    Ok(0)
}

/// Writes docker's context and remembers its name, so that `down` takes it away again. What it cannot write is no reason not to run.
fn write_context(settings: &Settings, asked: Option<&str>) -> Option<String> {
    let name = docker_context::name(asked, &settings.run)?;
    let folder = docker_context::settings_folder()?;
    match docker_context::write(&folder, name, &settings.host.to_string()) {
        Ok(true) => {
            let _ = fs::write(settings.run.join(CONTEXT), name);
            Some(name.to_owned())
        }
        Ok(false) => {
            eprintln!("knarr up: docker has a context {name:?} of somebody else; it is left alone");
            None
        }
        Err(error) => {
            eprintln!("knarr up: write docker's context {name:?}: {error}");
            None
        }
    }
}

fn remove_context(settings: &Settings) {
    let file = settings.run.join(CONTEXT);
    if let (Ok(name), Some(folder)) = (fs::read_to_string(&file), docker_context::settings_folder()) {
        if let Err(error) = docker_context::remove(&folder, &name, &settings.host.to_string()) {
            eprintln!("knarr down: remove docker's context {name:?}: {error}");
        }
        let _ = fs::remove_file(file);
    }
}

/// A file in the run directory: the name of docker's context for this cloud.
const CONTEXT: &str = "docker-context";

/// How long a cloud may take to end: its pods get their grace.
const PATIENCE: Duration = Duration::from_secs(60);

fn down(settings: &Settings, keep: bool) -> Result<u8, Failure> {
    let Some(running) = Running::find(&settings.run) else {
        return Err(Failure::new(format!("knarr down: no cloud runs in {}", settings.run.display())));
    };
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::new(format!("knarr down: {what}: {error}"));
    let word = if keep { word::KEEPING } else { word::ENDING };
    fs::write(settings.run.join(word), "").map_err(|error| failed("leave word of what pods are to do", &error))?;
    let pid = rustix::process::Pid::from_raw(running.pid).ok_or_else(|| failed("find it", &running.pid))?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    let pidfd = pidfd.map_err(|error| failed("open the process", &error))?;
    if Running::find(&settings.run).is_none() {
        return Ok(0);
    }
    linux::pidfd::send_signal(&pidfd, 15).map_err(|error| failed("signal it", &error))?;
    let deadline = Instant::now() + PATIENCE;
    while !linux::pidfd::has_ended(&pidfd).unwrap_or(true) {
        if Instant::now() > deadline {
            return Err(failed("wait for its end", &"it still runs after a minute; see its log"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if !keep {
        remove_context(settings);
    }
    out("The cloud is down\n")?;
    Ok(0)
}
