//! Machines of a cluster: network namespaces on a switch of their own, and the roles that run in them.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;

use crate::{Answer, World, eventually, finish, program};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A switch with hosts at `10.99.0.N` (and others behind a router, see [`Lan::host_behind`]). Nothing of it is seen outside.
pub struct Lan {
    prefix: String,
    hosts: Vec<String>,
}

impl Lan {
    pub fn new() -> Self {
        let prefix = format!("knt{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let lan = Self { prefix, hosts: Vec::new() };
        let switch = lan.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "set", "lo", "up"]);
        ip(&["-n", &switch, "link", "add", "sw", "type", "bridge"]);
        ip(&["-n", &switch, "address", "add", "10.99.0.254/24", "dev", "sw"]);
        ip(&["-n", &switch, "link", "set", "sw", "up"]);
        lan.inside(&switch, "sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
        lan
    }

    fn switch(&self) -> String {
        format!("{}sw", self.prefix)
    }

    fn add(&mut self, address: &str, gateway: &str) -> (Host, String) {
        let number = self.hosts.len() + 1;
        let (name, port) = (format!("{}h{number}", self.prefix), format!("p{number}"));
        self.hosts.push(name.clone());
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        let switch = self.switch();
        ip(&["-n", &name, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &switch]);
        ip(&["-n", &name, "address", "add", &format!("{address}/24"), "dev", "eth0"]);
        ip(&["-n", &name, "link", "set", "eth0", "up"]);
        ip(&["-n", &name, "route", "add", "default", "via", gateway]);
        (Host { netns: name, switch, port: port.clone(), address: address.to_owned() }, port)
    }

    /// One more machine on the switch.
    pub fn host(&mut self) -> Host {
        let number = self.hosts.len() + 1;
        let (host, port) = self.add(&format!("10.99.0.{number}"), "10.99.0.254");
        ip(&["-n", &host.switch, "link", "set", &port, "master", "sw", "up"]);
        host
    }

    /// One more machine that the others reach through a router only.
    pub fn host_behind(&mut self) -> Host {
        let number = self.hosts.len() + 1;
        let (host, port) = self.add(&format!("10.99.{number}.1"), &format!("10.99.{number}.254"));
        ip(&["-n", &host.switch, "address", "add", &format!("10.99.{number}.254/24"), "dev", &port]);
        ip(&["-n", &host.switch, "link", "set", &port, "up"]);
        host
    }

    fn inside(&self, netns: &str, program: &str, words: &[&str]) {
        let mut command = within(netns, program);
        command.args(words);
        finish(command, b"").success();
    }
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain([&self.switch()]) {
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }
}

/// One machine.
#[derive(Debug, Clone)]
pub struct Host {
    netns: String,
    switch: String,
    port: String,
    pub address: String,
}

impl Host {
    /// A program on this machine, to be given arguments.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        within(&self.netns, program)
    }

    /// The file of its network namespace.
    pub fn netns(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.netns)
    }

    pub fn run(&self, line: &str) -> Answer {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a program"));
        command.args(words);
        finish(command, b"")
    }

    /// Pulls the cable.
    pub fn cut_off(&self) {
        ip(&["-n", &self.switch, "link", "set", &self.port, "down"]);
    }

    pub fn reconnect(&self) {
        ip(&["-n", &self.switch, "link", "set", &self.port, "up"]);
    }
}

/// Joins the network namespace alone: mounts, cgroups and processes are the machine's.
fn within(netns: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{netns}")).arg("--").arg(program);
    command
}

#[track_caller]
fn ip(words: &[&str]) {
    let mut command = Command::new("ip");
    command.args(words);
    finish(command, b"").success();
}

fn log(path: &Path) -> Stdio {
    OpenOptions::new().create(true).append(true).open(path).expect("open a log").into()
}

fn end(child: &mut Option<Child>, signal: Signal) {
    let Some(mut running) = child.take() else { return };
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&running), signal);
    let _ = running.wait();
}

/// `knarr server` on a machine.
pub struct Server {
    pub host: Host,
    dir: tempfile::TempDir,
    words: Vec<String>,
    child: Option<Child>,
}

impl Server {
    pub fn start(host: &Host, words: &[&str]) -> Self {
        let mut server = Self::prepare(host, words);
        server.again();
        server
    }

    fn prepare(host: &Host, words: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("knarr-test-").tempdir().expect("make a temporary directory");
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { host: host.clone(), dir, words, child: None }
    }

    /// Another server of a cluster, with the same authority.
    pub fn join(host: &Host, words: &[&str], first: &Self) -> Self {
        let mut server = Self::prepare(host, words);
        let (from, to) = (first.root().join("cluster/pki"), server.root().join("cluster/pki"));
        std::fs::create_dir_all(&to).expect("make the directory of the authority");
        for entry in std::fs::read_dir(from).expect("the authority's files").map(|entry| entry.expect("an entry")) {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copy the authority");
        }
        server.again();
        server
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Starts it (again), and waits until it answers.
    pub fn again(&mut self) {
        self.spawn();
        eventually("the server answers", || {
            let ended = self.child.as_mut().expect("just started").try_wait().expect("look after it");
            assert!(ended.is_none(), "the server ended: {}", self.log());
            self.kubectl("get --raw /readyz").code == 0
        });
    }

    fn spawn(&mut self) {
        let _ = std::fs::remove_file(self.kubeconfig());
        let mut command = self.host.command(program());
        command.arg("server").arg("--root").arg(self.root()).arg("--run").arg(self.dir.path().join("run"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(["--no-node", "--advertise-address"]);
        command.arg(&self.host.address).args(&self.words).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log(&self.dir.path().join("log")));
        self.child = Some(command.spawn().expect("start the server"));
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn kill(&mut self) {
        end(&mut self.child, Signal::KILL);
    }

    /// Signals it, and does not wait.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("signal the server");
    }

    pub fn url(&self) -> String {
        format!("https://{}:6443", self.host.address)
    }

    /// The token that is in its files.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.root().join("cluster/token")).expect("the server's token").trim().to_owned()
    }

    /// `knarr` on the server's machine, about it.
    pub fn knarr(&self, line: &str) -> Answer {
        let mut command = self.host.command(program());
        command.arg("--root").arg(self.root()).arg("--run").arg(self.dir.path().join("run"));
        command.args(line.split_whitespace());
        finish(command, b"")
    }

    pub fn kubectl(&self, line: &str) -> Answer {
        self.kubectl_with(&line.split_whitespace().collect::<Vec<_>>(), "")
    }

    pub fn kubectl_with(&self, words: &[&str], input: &str) -> Answer {
        let mut command = self.host.command("kubectl");
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir.path()).args(words);
        finish(command, input.as_bytes())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() && self.child.is_some() {
            eprintln!("{}", self.kubectl("get nodes,pods,events,csr -A -o wide").text());
            eprintln!("--- server\n{}", self.log());
        }
        end(&mut self.child, Signal::TERM);
    }
}

/// Debian's etcd on a machine.
pub struct Etcd {
    child: Option<Child>,
    _dir: tempfile::TempDir,
    pub url: String,
}

impl Etcd {
    pub fn start(host: &Host) -> Self {
        let dir = tempfile::tempdir().expect("make a temporary directory");
        let (url, peer) = (format!("http://{}:2379", host.address), format!("http://{}:2380", host.address));
        let mut command = host.command("etcd");
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")]);
        command.args(["--log-level", "error", "--data-dir"]).arg(dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = Some(command.spawn().expect("start etcd"));
        let (netns, at) = (host.netns(), format!("{}:2379", host.address));
        eventually("etcd listens", || {
            let at = at.clone();
            crate::traffic::within(netns.clone(), move || std::net::TcpStream::connect(at).is_ok())
        });
        Self { child, _dir: dir, url }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        end(&mut self.child, Signal::KILL);
    }
}

/// `knarr agent` on a machine.
pub struct Agent {
    pub host: Host,
    pub name: String,
    pub world: World,
    words: Vec<String>,
    child: Option<Child>,
}

impl Agent {
    /// Starts an agent that has `busybox:latest`.
    pub fn start(host: &Host, name: &str, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let world = World::without_engine();
        let mut agent = Self { host: host.clone(), name: name.to_owned(), world, words, child: None };
        agent.again();
        agent.world.load(&crate::image::busybox());
        agent
    }

    /// Starts it (again), and waits until its engine answers.
    pub fn again(&mut self) {
        let mut command = self.host.command(program());
        command.arg("--root").arg(self.world.root()).arg("--run").arg(self.world.run_dir());
        command.arg("--host").arg(self.world.host()).args(["agent", "--node-name", &self.name, "--node-ip"]);
        command.arg(&self.host.address).args(&self.words).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log(&self.world.dir().join("agent.log")));
        self.child = Some(command.spawn().expect("start the agent"));
        eventually("the agent's engine answers", || {
            let ended = self.child.as_mut().expect("just started").try_wait().expect("look after it");
            assert!(ended.is_none(), "the agent ended: {}", self.log());
            std::os::unix::net::UnixStream::connect(self.world.socket()).is_ok()
        });
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.world.dir().join("agent.log")).unwrap_or_default()
    }

    /// Ends the process; pods run on.
    pub fn end(&mut self, signal: Signal) {
        end(&mut self.child, signal);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- agent {}\n{}", self.name, self.log());
        }
        // Whatever the test has come to: an agent ends its pods, with or without a server.
        if self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None))) {
            self.child = None;
            let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.again()));
            if started.is_err() {
                return;
            }
        }
        let down = self.world.knarr(["down"]);
        end(&mut self.child, Signal::TERM);
        if !std::thread::panicking() {
            down.success();
        }
    }
}
