//! `knarr up`, `down` and `status`: a whole cloud in one process, from the outside.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Arity, Command, out};
use crate::client::autostart::READY;
use crate::cloud::{self, ENDING, Running};
use crate::failure::Failure;
use crate::flags::{Flag, Matches, switch, text};
use crate::settings::{self, Settings};

const OWN: &[Flag] = &[
    text("port", "Port of the Kubernetes API on this machine; 0 takes a free one (default: 6443)"),
    text("kubeconfig", "Where to write the administrator's kubeconfig (default: kubeconfig in the run directory)"),
    text("node-name", "Name of this machine as a node (default: the host's name)"),
    text("node-ip", "Address of this machine as a node (default: that of the default route)"),
    text("registries", "File that says how registries are reached (default: KNARR_REGISTRIES)"),
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
    flags: &[OWN, settings::FLAGS],
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

pub static STATUS: Command = Command {
    name: "status",
    usage: "[OPTIONS]",
    about: "Show whether the cloud runs, where it listens and what runs in it",
    examples: "  knarr status",
    flags: &[settings::FLAGS],
    interspersed: true,
    arity: Arity::None,
    run: |context, _| status(context.settings()),
};

fn up(settings: &Settings, matches: &Matches) -> Result<u8, Failure> {
    if matches.is("foreground") {
        return cloud::run(settings, matches);
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
    for flag in ["port", "node-name", "node-ip", "registries"] {
        if let Some(value) = matches.text(flag) {
            command.arg(format!("--{flag}={value}"));
        }
    }
    if let Some(path) = matches.text("kubeconfig") {
        let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
        command.arg("--kubeconfig").arg(path);
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
    out(&format!(
        "The cloud is up: node {} is ready after {:.2} s\n\n  export KUBECONFIG={}\n  export DOCKER_HOST={}\n\n\
         Try: kubectl get nodes; knarr status; knarr down ends it\n",
        running.node,
        began.elapsed().as_secs_f64(),
        running.kubeconfig,
        settings.host
    ))?;
    Ok(0)
}

/// How long a cloud may take to end: its pods get their grace.
const PATIENCE: Duration = Duration::from_secs(60);

fn down(settings: &Settings, keep: bool) -> Result<u8, Failure> {
    let Some(running) = Running::find(&settings.run) else {
        return Err(Failure::new(format!("knarr down: no cloud runs in {}", settings.run.display())));
    };
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::new(format!("knarr down: {what}: {error}"));
    if !keep {
        fs::write(settings.run.join(ENDING), "").map_err(|error| failed("leave word that pods end as well", &error))?;
    }
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
    out("The cloud is down\n")?;
    Ok(0)
}

fn status(settings: &Settings) -> Result<u8, Failure> {
    let Some(running) = Running::find(&settings.run) else {
        out(&format!("No cloud runs in {}\n\nStart one: knarr up\n", settings.run.display()))?;
        return Ok(1);
    };
    let api = std::net::TcpStream::connect_timeout(&running.api, Duration::from_secs(2)).is_ok();
    let engine = crate::client::http::Stream::connect(&settings.host).is_ok();
    let word = |good: bool| if good { "answers" } else { "does not answer: see the log" };
    let pods = fs::read_dir(settings.run.join("pods")).map_or(0, Iterator::count);
    out(&format!(
        "Process     {}\nNode        {}\nKubernetes  https://{} {}\nDocker      {} {}\nPods here   {pods}\nRoot        {}\n\n  \
         export KUBECONFIG={}\n  export DOCKER_HOST={}\n",
        running.pid,
        running.node,
        running.api,
        word(api),
        settings.host,
        word(engine),
        settings.root.display(),
        running.kubeconfig,
        settings.host,
    ))?;
    Ok(u8::from(!(api && engine)))
}
