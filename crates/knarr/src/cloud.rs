//! A whole cloud in one process: engine, Docker socket, API server, controllers, scheduler and node, started and stopped in
//! order. The parts talk through Rust; only clients come over sockets.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use apiserver::{Config, Server, User};
use cache::{Driver, Kind, Member, Observer};
use engine::{Engine, EngineConfig};
use kubelet::{EngineRuntime, Kubelet};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::info;

use crate::client::http::Host;
use crate::daemon;
use crate::failure::Failure;
use crate::flags::Matches;
use crate::settings::Settings;

/// Threads that serve both APIs and the parts.
const WORKERS: usize = 2;
/// A file in the run directory: when the process ends, its pods end as well.
pub const ENDING: &str = "ending";
const PODS_MAX: u64 = 500;
/// Grace of pods when the cloud goes down with them.
const DOWN_GRACE: Duration = Duration::from_secs(5);

/// What a running cloud says about itself in its run directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    pub pid: i32,
    /// As `/proc/PID/stat` counts it: tells the process from a later one of the same number.
    pub started: u64,
    pub node: String,
    pub api: SocketAddr,
    pub kubeconfig: String,
}

impl Running {
    fn path(run: &Path) -> PathBuf {
        run.join("cloud.json")
    }

    /// The cloud of this run directory, if its process lives.
    pub fn find(run: &Path) -> Option<Self> {
        let running: Self = serde_json::from_slice(&fs::read(Self::path(run)).ok()?).ok()?;
        (start_time(running.pid)? == running.started).then_some(running)
    }
}

/// Field 22 of `/proc/PID/stat`.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    if words.next()? == "Z" {
        return None;
    }
    words.nth(18)?.parse().ok()
}

/// Runs the cloud until a signal asks it to end.
pub fn run(settings: &Settings, matches: &Matches) -> Result<u8, Failure> {
    let background = matches.is("background");
    if background {
        linux::process::setsid().map_err(|error| Failure::new(format!("knarr up: {error}")))?;
    }
    daemon::log(settings);
    let Host::Unix(socket) = &settings.host else {
        return Err("knarr up: the Docker API listens on a unix socket only: --host unix:///PATH".into());
    };
    daemon::make_directory(&settings.run, 0o711)?;
    daemon::make_directory(&settings.root, 0o711)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("knarr up: start threads: {error}")))?;
    let served = runtime.block_on(serve(settings, socket, matches, background));
    runtime.shutdown_background();
    served.map(|()| 0)
}

fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    let mut text = format!("knarr up: {what}: {error}");
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    Failure::new(text)
}

async fn serve(settings: &Settings, socket: &Path, matches: &Matches, background: bool) -> Result<(), Failure> {
    let began = Instant::now();
    let stop = daemon::stop_signal().map_err(|error| failed("take signals", &error))?;
    let port: u16 = match matches.text("port") {
        None => 6443,
        Some(text) => text.parse().map_err(|error| Failure::new(format!("knarr up: --port {text}: {error}")))?,
    };
    let node_ip: IpAddr = match matches.text("node-ip") {
        Some(text) => text.parse().map_err(|error| Failure::new(format!("knarr up: --node-ip {text}: {error}")))?,
        None => own_address(),
    };
    let node = matches.text("node-name").map_or_else(host_name, str::to_owned);
    let kubeconfig = matches.text("kubeconfig").map_or_else(|| settings.run.join("kubeconfig"), PathBuf::from);
    if let Some(parent) = kubeconfig.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|error| failed(&format!("make {}", parent.display()), &error))?;
    }
    let _ = fs::remove_file(settings.run.join(ENDING));
    let named = std::env::var("KNARR_REGISTRIES").ok().filter(|file| !file.is_empty());
    let registries = crate::registry::registries(matches.text("registries").or(named.as_deref()))?;
    let config = EngineConfig {
        root: settings.root.clone(),
        run: settings.run.clone(),
        keeper: vec!["/proc/self/exe".into(), "keeper".into()],
        labels: Vec::new(),
        registries,
    };
    let api_config = Config {
        root: Some(settings.root.join("cluster")),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        kubeconfig: Some(kubeconfig.clone()),
        names: vec![node_ip.to_string(), node.clone()],
        ..Config::default()
    };
    // Both read their records and neither needs the other.
    let (engine, server) = tokio::join!(Engine::open(config), Server::start(api_config));
    let engine = engine.map_err(|error| failed("open the engine", &error))?;
    let server = server.map_err(|error| failed("start the API", &error))?;
    let listener = docker_api::bind(socket, None).map_err(|error| failed("listen", &error))?;
    let runtime = EngineRuntime::new(engine.clone(), &settings.run);

    let manager = server.local(User::component("system:kube-controller-manager"), "kube-controller-manager");
    let mut driver = Driver::new(manager.clone());
    for part in controllers::all(seed()) {
        driver.add(Member::new(part, manager.clone()));
    }
    let scheduler = manager.as_user(User::component("system:kube-scheduler"), "kube-scheduler");
    driver.add(Member::new(Box::new(scheduler::Scheduler::default()), scheduler));
    let (tell, changes) = mpsc::unbounded_channel();
    driver.observe(Observer { kinds: &[Kind::Pod, Kind::Service], tell });
    let agent = manager.as_user(User::node(&node), "kubelet");
    let kubelet_config = kubelet::Config {
        node: node.clone(),
        ip: node_ip.to_string(),
        root: settings.root.clone(),
        pods_max: PODS_MAX,
        dns: None,
        domain: "cluster.local".into(),
    };
    let kubelet = Kubelet::new(kubelet_config, runtime.clone(), agent, driver.view());
    server.connect_nodes(kubelet.door());
    kubelet
        .register()
        .await
        .map_err(|status| Failure::new(format!("knarr up: register the node: {}", status.message)))?;
    let parts = [tokio::spawn(driver.run()), tokio::spawn(kubelet.run(changes))];

    let pid = i32::try_from(std::process::id()).unwrap_or_default();
    let running = Running {
        pid,
        started: start_time(pid).unwrap_or_default(),
        node: node.clone(),
        api: server.address(),
        kubeconfig: kubeconfig.display().to_string(),
    };
    let text = serde_json::to_vec(&running).map_err(|error| failed("describe this process", &error))?;
    fs::write(Running::path(&settings.run), text).map_err(|error| failed("describe this process", &error))?;
    info!(node, api = %server.address(), docker = %socket.display(), kubeconfig = %kubeconfig.display(), after = ?began.elapsed(), "ready");
    if background {
        daemon::say_ready().map_err(|error| failed("tell the client", &error))?;
    }
    let builder = build::Builder::open(&engine).map_err(|error| failed("open the builder", &error))?;
    let doors = docker_api::Doors { engine: engine.clone(), builder };
    docker_api::serve(doors, listener, stop).await.map_err(|error| failed("serve", &error))?;

    // Parts first, so that nobody starts anything again; then the API, then the engine.
    for part in &parts {
        part.abort();
    }
    for part in parts {
        let _ = part.await;
    }
    if settings.run.join(ENDING).exists() {
        kubelet::end_all(&runtime, &settings.root, DOWN_GRACE).await;
        let _ = fs::remove_file(settings.run.join(ENDING));
    }
    drop((manager, runtime));
    server.stop().await;
    engine.shutdown().await;
    let _ = fs::remove_file(Running::path(&settings.run));
    info!("ended");
    Ok(())
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    debug_assert!(got.is_ok());
    u64::from_ne_bytes(bytes)
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String =
        name.trim().to_lowercase().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    if name.is_empty() { "node".into() } else { name }
}

/// The address from which this machine would talk to others; nothing is sent to find it.
fn own_address() -> IpAddr {
    let asked = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    asked.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}
