//! A whole cloud in one process: engine, Docker socket, API server, controllers, scheduler and node, started and stopped in
//! order. The parts talk through Rust; only clients come over sockets.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use apiserver::{Config, Server, User};
use cache::{Driver, Kind, Observer};
use engine::Engine;
use kubelet::Kubelet;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::info;

use crate::client::http::Host;
use crate::control::{self, Balancing, Control};
use crate::daemon;
use crate::failure::{Failure, chain};
use crate::flags::Matches;
use crate::node::{self, NodePlan, word};
use crate::nodes::leaving::Leaving;
use crate::nodes::mesh::Ways;
use crate::plain::Mirrors;
use crate::pod_cidr::{self, ClusterCidrs};
use crate::services::{Services, Unfinished};
use crate::settings::Settings;

/// Threads that serve both APIs and the parts.
const WORKERS: usize = 2;
pub const PODS_MAX: u64 = 500;
/// Grace of pods when the cloud goes down with them.
pub const DOWN_GRACE: Duration = Duration::from_secs(5);

/// What a running cloud says about itself in its run directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    pub pid: i32,
    /// As `/proc/PID/stat` counts it: tells the process from a later one of the same number.
    pub started: u64,
    /// Empty for a server without a node.
    pub node: String,
    /// `None` for an agent: its servers are elsewhere.
    pub api: Option<SocketAddr>,
    pub kubeconfig: String,
}

impl Running {
    fn path(run: &Path) -> PathBuf {
        run.join("cloud.json")
    }

    /// Says in the run directory that this process is its cloud.
    pub fn tell(run: &Path, node: &str, api: Option<SocketAddr>, kubeconfig: Option<&Path>) -> std::io::Result<()> {
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let started = start_time(pid).unwrap_or_default();
        let kubeconfig = kubeconfig.map(|path| path.display().to_string()).unwrap_or_default();
        let running = Self { pid, started, node: node.to_owned(), api, kubeconfig };
        fs::write(Self::path(run), serde_json::to_vec(&running)?)
    }

    pub fn forget(run: &Path) {
        let _ = fs::remove_file(Self::path(run));
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
///
/// `default_address` is where the API listens unless `--address` says otherwise.
pub fn run(settings: &Settings, matches: &Matches, default_address: IpAddr) -> Result<u8, Failure> {
    let background = matches.is("background");
    if background {
        linux::process::setsid().map_err(|error| Failure::new(format!("knarr up: {error}")))?;
    }
    daemon::log(settings.debug);
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
    let served = runtime.block_on(serve(settings, socket, matches, background, default_address));
    runtime.shutdown_background();
    served.map(|()| 0)
}

fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(format!("knarr up: {what}: {}", chain(error)))
}

async fn serve(
    settings: &Settings,
    socket: &Path,
    matches: &Matches,
    background: bool,
    default_address: IpAddr,
) -> Result<(), Failure> {
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
    let address: IpAddr = match matches.text("address") {
        Some(text) => text.parse().map_err(|error| Failure::new(format!("knarr up: --address {text}: {error}")))?,
        None => default_address,
    };
    let node = matches.text("node-name").map_or_else(host_name, str::to_owned);
    let plan = NodePlan::read(matches).map_err(|error| Failure::new(format!("knarr up: {error}")))?;
    let signing_lifetime = control::signing_lifetime(matches.text("cluster-signing-duration"))
        .map_err(|error| Failure::new(format!("knarr up: {error}")))?;
    let balancing = Balancing::parse(matches.text("load-balancer-pool"))
        .map_err(|error| Failure::new(format!("knarr up: {error}")))?;
    let scheduling = crate::scheduler_config::read(matches.text("scheduler-config"))
        .map_err(|error| Failure::new(format!("knarr up: {error}")))?;
    let names = format!("{node_ip},{node},{}", matches.text("tls-san").unwrap_or_default());
    let kubeconfig = matches.text("kubeconfig").map_or_else(|| settings.run.join("kubeconfig"), PathBuf::from);
    if let Some(parent) = kubeconfig.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|error| failed(&format!("make {}", parent.display()), &error))?;
    }
    node::forget_word(&settings.run);
    let tag = engine::instance_tag(&settings.run);
    let usual = !settings.root_named;
    let unfinished = Unfinished::new(&tag);
    let services = Services::prepare(&settings.root, &tag, usual, matches.text("service-cidr"), node_ip)?;
    let cidrs = ClusterCidrs::choose(&settings.root, &tag, usual, matches.text("cluster-cidr"), services.range())?;
    let config = daemon::engine_config(settings, matches)?;
    let keep = daemon::build_cache(matches)?;
    let api_config = Config {
        root: Some(settings.root.join("cluster")),
        datastore: crate::server::datastore(matches).map_err(|error| Failure::new(format!("knarr up: {error}")))?,
        listen: SocketAddr::new(address, port),
        // Agents reach it at the node's address, if it listens there.
        advertise: (!address.is_loopback()).then_some(node_ip),
        tokens: matches.text("token-auth-file").map(PathBuf::from),
        also_listen: vec![services.api()],
        service_range: services.range(),
        signing_lifetime,
        kubeconfig: Some(kubeconfig.clone()),
        names: names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        ..Config::default()
    };
    let datastore = api_config.datastore.is_some();
    // Both read their records and neither needs the other.
    let (engine, server) = tokio::join!(Engine::open(config), Server::start(api_config));
    let engine = engine.map_err(|error| failed("open the engine", &error))?;
    let server = server.map_err(|error| failed("start the API", &error))?;
    if !address.is_loopback() {
        control::own_token(&server, &settings.root.join("cluster")).await.map_err(Failure::new)?;
    }
    let listener = docker_api::bind(socket, None).map_err(|error| failed("listen", &error))?;
    let plugins = crate::cri::plugins(settings, matches);
    let (runtime, runtime_name) =
        crate::cri::node_runtime(plan.endpoint.as_deref(), plugins, &engine, settings).await?;

    let control = Control::new(&server, cidrs.all.clone(), balancing, scheduling);
    control.begin(services.dns()).await.map_err(|error| Failure::new(format!("knarr up: {error}")))?;
    // One view for all, unless other servers may lead.
    let candidate = datastore.then(control::candidate);
    let (mut driver, leading) = match &candidate {
        None => (control.driver(), None),
        Some(me) => {
            let agent = server.local(User::component("system:kube-controller-manager"), "kubelet");
            (Driver::new(agent), Some(tokio::spawn(control.lead(me.clone()))))
        }
    };
    let (tell, changes) = mpsc::unbounded_channel();
    driver.observe(Observer { kinds: &[Kind::Pod, Kind::Service, Kind::Volume], tell });
    let (tell, nodes) = mpsc::unbounded_channel();
    driver.observe(Observer { kinds: &[Kind::Node], tell });
    let authority = server.authority_pem().to_owned();
    let ways = || Ways::new(&tag, &authority, &node, node_ip, &cidrs.texts());
    let agent = server.local(User::node(&node), "kubelet");
    let (kubelet_listener, listener_port) = kubelet_port(node_ip).await.map_err(|error| failed("listen", &error))?;
    let kubelet_config = kubelet::Config {
        node: node.clone(),
        ip: node_ip.to_string(),
        port: listener_port,
        root: settings.root.clone(),
        logs: node::logs(settings),
        pods_max: PODS_MAX,
        dns: Some(services.dns().to_string()),
        domain: crate::services::DOMAIN.into(),
        cluster_cidrs: cidrs.texts(),
        eviction: plan.eviction,
        image_gc: plan.image_gc,
        manifests: plan.manifests,
        runtime: runtime_name,
        device_plugins: crate::node::device_plugins(settings),
    };
    let mirrors = Mirrors::new(&engine, agent.clone(), &mut driver, &node, &node_ip.to_string());
    let kubelet = Kubelet::new(kubelet_config, runtime.clone(), agent, driver.view());
    let shutdown = kubelet.shutdown(plan.shutdown);
    server.connect_node(&node, kubelet.door());
    let unregistered =
        |status: resources::Status| Failure::new(format!("knarr up: register the node: {}", status.message));
    let manager = server.local(User::component("system:kube-controller-manager"), "kube-controller-manager");
    pod_cidr::renumber(&manager, &node, &cidrs.all).await.map_err(unregistered)?;
    let (outlets, mut parts) = services
        .start(&mut driver, &node, &cidrs.texts())
        .await
        .map_err(|error| failed("start the name server", &error))?;
    parts.push(services.judge(&mut driver, &node));
    let peers = client::Peers::new(&authority, &server.to_nodes());
    let peers = peers.map_err(|error| failed("prepare to ask other nodes", &error))?;
    let leaving = Leaving::new(&node, driver.view(), outlets, peers);
    kubelet.leave_by(leaving.leave());
    kubelet.acknowledge_by(leaving.reached());
    parts.push(tokio::spawn(ways().keep(driver.view(), nodes)));
    // A controller gives the node its pods' subnet.
    parts.push(tokio::spawn(driver.run()));
    kubelet.registrar().register().await.map_err(unregistered)?;
    let identity = client::Identity::default();
    let serving =
        kubelet::Serving { listener: kubelet_listener, identity: identity.clone(), authority: authority.clone() };
    let wanted = kubelet::Wanted::serving(&node, &node_ip.to_string(), &settings.root.join("agent"));
    parts.push(tokio::spawn(kubelet.serve(serving)));
    parts.push(tokio::spawn(wanted.keep(server.local(User::node(&node), "kubelet"), identity, async || {})));
    parts.push(tokio::spawn(kubelet.run(changes)));
    parts.push(tokio::spawn(mirrors.run()));

    Running::tell(&settings.run, &node, Some(server.address()), Some(&kubeconfig))
        .map_err(|error| failed("describe this process", &error))?;
    info!(node, api = %server.address(), docker = %socket.display(), kubeconfig = %kubeconfig.display(), after = ?began.elapsed(), "ready");
    unfinished.runs();
    if background {
        daemon::say_ready().map_err(|error| failed("tell the client", &error))?;
    }
    let doors = daemon::doors(&engine, keep).map_err(|error| failed("open the builder", error.as_ref()))?;
    docker_api::serve(doors, listener, stop).await.map_err(|error| failed("serve", &error))?;

    if node::is_unsaid(&settings.run) {
        shutdown.run().await;
    }
    // Parts first, so that nobody starts anything again; then the API, then the engine.
    for part in &parts {
        part.abort();
    }
    for part in parts {
        let _ = part.await;
    }
    if let (Some(leading), Some(me)) = (leading, &candidate) {
        leading.abort();
        let _ = leading.await;
        control::resign(&server, me).await;
    }
    if settings.run.join(word::ENDING).exists() {
        kubelet::end_all(&runtime, &settings.root, &node::logs(settings), DOWN_GRACE).await;
        Services::remove(&tag);
        ways().remove();
    }
    node::forget_word(&settings.run);
    drop(shutdown);
    drop(runtime);
    server.stop().await;
    engine.shutdown().await;
    Running::forget(&settings.run);
    info!("ended");
    Ok(())
}

/// The agent's own port: the usual one, or another if somebody has it.
async fn kubelet_port(address: IpAddr) -> std::io::Result<(tokio::net::TcpListener, u16)> {
    use tokio::net::TcpListener;
    let listener = match TcpListener::bind((address, 10250)).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => TcpListener::bind((address, 0)).await?,
        other => other?,
    };
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

pub fn seed() -> u64 {
    let mut bytes = [0; 8];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    debug_assert!(got.is_ok());
    u64::from_ne_bytes(bytes)
}

pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String =
        name.trim().to_lowercase().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    if name.is_empty() { "node".into() } else { name }
}

/// The address from which this machine would talk to others; nothing is sent to find it.
pub fn own_address() -> IpAddr {
    let asked = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    asked.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}
