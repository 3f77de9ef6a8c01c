//! `knarr agent`: a machine that runs pods for a cluster whose API is elsewhere. Engine, Docker socket and node agent in one
//! process; servers may come and go, pods run on.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use cache::{Driver, Keep, Kind, Observer, View};
use client::{Client, Https, Identity, Peers, Selectors, Target};
use engine::Engine;
use kubelet::{Kubelet, NodeRuntime, RuntimeName, Serving, Shutdown, Wanted};
use resources::Value;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::join::{Joined, Kept, join};
use super::leaving::Leaving;
use super::mesh::Ways;
use super::token::Token;
use crate::client::http::Host;
use crate::cloud::{self, PODS_MAX, Running};
use crate::cluster_services::ClusterServices;
use crate::daemon;
use crate::failure::{Failure, chain};
use crate::flags::{Flag, Matches, list, text};
use crate::node::{self, NodePlan, word};
use crate::plain::Mirrors;
use crate::services::Services;
use crate::settings::Settings;

pub const FLAGS: &[Flag] = &[
    list("server", "URL of a server of the cluster, https://ADDRESS:PORT; may be given several times"),
    text("token", "Token to join with, as 'knarr token create' shows it (or KNARR_TOKEN)"),
    text("token-file", "File with the token"),
    text("certificate-authority", "File with the cluster's authority, PEM, if the token does not name it"),
    text("node-name", "Name of this machine as a node (default: the host's name)"),
    text("node-ip", "Address of this machine as a node (default: that of the default route)"),
    text("kubelet-port", "Port at which servers reach this node; 0 takes a free one (default: 10250)"),
    text("cluster-cidr", "Subnets of all nodes' pods, as the servers have them (default: 10.42.0.0/16)"),
    text("registries", "File that says how registries are reached (default: KNARR_REGISTRIES)"),
    daemon::BUILD_CACHE,
    daemon::CDI_DIRECTORIES,
    daemon::USERNS_REMAP,
    daemon::PUBLISHED_PORTS,
    daemon::PLUGIN_DIRECTORIES,
    daemon::PLUGIN_PATIENCE,
];

/// Threads that serve and run pods.
const WORKERS: usize = 2;
const KUBELET_PORT: u16 = 10250;
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How often agents look which servers there are.
const SERVERS_EVERY: Duration = Duration::from_secs(60);

fn failed(what: impl std::fmt::Display) -> Failure {
    Failure::new(format!("knarr agent: {what}"))
}

/// What the command line asks for.
struct Plan {
    servers: Vec<Target>,
    token: Option<Token>,
    node: String,
    address: IpAddr,
    port: u16,
    cluster: Vec<String>,
    own: NodePlan,
}

impl Plan {
    fn read(matches: &Matches) -> Result<Self, Failure> {
        let urls = matches.list("server").iter().flat_map(|urls| urls.split(',')).filter(|url| !url.is_empty());
        let servers: Result<Vec<Target>, String> = urls.map(Target::parse).collect();
        let token = match (matches.text("token"), matches.text("token-file")) {
            (Some(_), Some(_)) => return Err(failed("--token and --token-file exclude each other")),
            (Some(token), None) => Some(token.to_owned()),
            (None, Some(path)) => {
                Some(fs::read_to_string(path).map_err(|error| failed(format!("--token-file {path}: {error}")))?)
            }
            (None, None) => std::env::var("KNARR_TOKEN").ok().filter(|token| !token.is_empty()),
        };
        let token = token.map(|token| Token::parse(&token)).transpose().map_err(failed)?;
        let cluster = matches.text("cluster-cidr").unwrap_or(crate::pod_cidr::USUAL);
        let cluster =
            crate::pod_cidr::parse(cluster).map_err(|error| failed(format!("--cluster-cidr {cluster}: {error}")))?;
        Ok(Self {
            own: NodePlan::read(matches).map_err(failed)?,
            cluster: cluster.iter().map(ToString::to_string).collect(),
            servers: servers.map_err(failed)?,
            token,
            node: matches.text("node-name").map_or_else(cloud::host_name, str::to_owned),
            address: match matches.text("node-ip") {
                Some(text) => text.parse().map_err(|error| failed(format!("--node-ip {text}: {error}")))?,
                None => cloud::own_address(),
            },
            port: match matches.text("kubelet-port") {
                Some(text) => text.parse().map_err(|error| failed(format!("--kubelet-port {text}: {error}")))?,
                None => KUBELET_PORT,
            },
        })
    }
}

/// Runs the agent until a signal asks it to end.
pub fn run(settings: &Settings, matches: &Matches) -> Result<u8, Failure> {
    let plan = Plan::read(matches)?;
    daemon::log(settings.debug);
    let Host::Unix(socket) = &settings.host else {
        return Err(failed("the Docker API listens on a unix socket only: --host unix:///PATH"));
    };
    daemon::make_directory(&settings.run, 0o711)?;
    daemon::make_directory(&settings.root, 0o711)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(|error| failed(format!("start threads: {error}")))?;
    let served = runtime.block_on(serve(settings, socket, matches, plan));
    runtime.shutdown_background();
    served.map(|()| 0)
}

async fn serve(settings: &Settings, socket: &Path, matches: &Matches, plan: Plan) -> Result<(), Failure> {
    let stop = daemon::stop_signal().map_err(|error| failed(format!("take signals: {error}")))?;
    let (end, mut ended) = tokio::sync::watch::channel(false);
    let signals = tokio::spawn(async move {
        stop.await;
        let _ = end.send(true);
    });
    let config = daemon::engine_config(settings, matches)?;
    let keep = daemon::build_cache(matches)?;
    // The engine first: containers are adopted, whether or not a server answers.
    let engine = Engine::open(config).await.map_err(|error| failed(format!("open the engine: {}", chain(&error))))?;
    let listener = docker_api::bind(socket, None).map_err(|error| failed(format!("listen: {}", chain(&error))))?;
    let doors =
        daemon::doors(&engine, keep).map_err(|error| failed(format!("open the builder: {}", chain(error.as_ref()))))?;
    let mut until = ended.clone();
    let docker = tokio::spawn(docker_api::serve(doors, listener, async move {
        let _ = until.wait_for(|ended| *ended).await;
    }));
    node::forget_word(&settings.run);
    Running::tell(&settings.run, &plan.node, None, None)
        .map_err(|error| failed(format!("describe this process in {}: {error}", settings.run.display())))?;
    let authority_file = matches.text("certificate-authority").map(Path::new);
    let kept = Kept::new(&settings.root);
    let plugins = crate::cri::plugins(settings, matches);
    let runtime = crate::cri::node_runtime(plan.own.endpoint.as_deref(), plugins, &engine, settings).await?;
    let shutdown = OnceLock::new();
    let outcome = tokio::select! {
        outcome = work(settings, &engine, &runtime, &kept, &plan, authority_file, &shutdown) => outcome,
        () = async {
            let _ = ended.wait_for(|ended| *ended).await;
            if let Some(shutdown) = shutdown.get().filter(|_| node::is_unsaid(&settings.run)) {
                shutdown.run().await;
            }
        } => Ok(()),
    };
    signals.abort();
    docker.abort();
    let _ = docker.await;
    if settings.run.join(word::ENDING).exists() {
        kubelet::end_all(&runtime.0, &settings.root, &node::logs(settings), cloud::DOWN_GRACE).await;
        Services::remove(&engine::instance_tag(&settings.run));
        ways(settings, &plan, "").remove();
    }
    node::forget_word(&settings.run);
    Running::forget(&settings.run);
    engine.shutdown().await;
    info!("ended; pods run on");
    outcome
}

/// What leads to the pods of other nodes.
fn ways(settings: &Settings, plan: &Plan, authority: &str) -> Ways {
    let tag = engine::instance_tag(&settings.run);
    Ways::new(&tag, authority, &plan.node, plan.address, &plan.cluster)
}

/// Everything but the Docker socket; ends with an error only.
async fn work(
    settings: &Settings,
    engine: &Engine,
    (runtime, runtime_name): &(NodeRuntime, RuntimeName),
    kept: &Kept,
    plan: &Plan,
    authority_file: Option<&Path>,
    shutdown: &OnceLock<Shutdown<NodeRuntime>>,
) -> Result<(), Failure> {
    let Joined { authority, identity, servers } =
        join(kept, &plan.node, plan.servers.clone(), plan.token.as_ref(), authority_file).await?;
    let https = Https::new(servers, &authority, &identity, None, "kubelet");
    let https = https.map_err(|error| failed(chain(&error)))?;
    let api = Client::new(https.clone());
    let listen = SocketAddr::new(plan.address, plan.port);
    let listener = tokio::net::TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| failed(format!("listen on {listen}: {error}")))?;
    let port = listener.local_addr().map_err(|error| failed(error.to_string()))?.port();

    let tag = engine::instance_tag(&settings.run);
    // Both are known from before where this machine has joined before: pods go on whether or not a server answers.
    let cluster = ClusterServices::learn(&api, &kept.directory().join("services.json")).await;
    let services = Services::join(&settings.root, &tag, &cluster, plan.address)?;

    let mut driver = Driver::new(api.clone());
    driver.keep(Keep::new(kept.directory().join("view")));
    // A node sees its own pods only.
    driver.select(Kind::Pod, Selectors { fields: format!("spec.nodeName={}", plan.node), ..Selectors::default() });
    let (tell, changes) = mpsc::unbounded_channel();
    driver.observe(Observer { kinds: &[Kind::Pod, Kind::Service, Kind::Volume], tell });
    let config = kubelet::Config {
        node: plan.node.clone(),
        ip: plan.address.to_string(),
        port,
        root: settings.root.clone(),
        logs: node::logs(settings),
        pods_max: PODS_MAX,
        dns: Some(services.dns().to_string()),
        domain: crate::services::DOMAIN.into(),
        cluster_cidrs: plan.cluster.clone(),
        eviction: plan.own.eviction.clone(),
        image_gc: plan.own.image_gc,
        manifests: plan.own.manifests.clone(),
        runtime: runtime_name.clone(),
        device_plugins: node::device_plugins(settings),
    };
    let mirrors = Mirrors::new(engine, api.clone(), &mut driver, &plan.node, &plan.address.to_string());
    let kubelet = Kubelet::new(config, runtime.clone(), api.clone(), driver.view());
    let _ = shutdown.set(kubelet.shutdown(plan.own.shutdown.clone()));
    let started = services.start(&mut driver, &plan.node, &plan.cluster).await;
    // Its tasks end with the driver.
    let (outlets, _) = started.map_err(|error| failed(format!("start the name server: {error}")))?;
    let peers = Peers::new(&authority, &identity).map_err(|error| failed(chain(&error)))?;
    let leaving = Leaving::new(&plan.node, driver.view(), outlets, peers);
    kubelet.leave_by(leaving.leave());
    kubelet.acknowledge_by(leaving.reached());
    let serving = Identity::default();
    let (tell, nodes) = mpsc::unbounded_channel();
    driver.observe(Observer { kinds: &[Kind::Node], tell });
    let (tell, policies) = mpsc::unbounded_channel();
    driver.observe(Observer { kinds: &[Kind::NetworkPolicy], tell });
    let mut parts = tokio::task::JoinSet::new();
    parts.spawn(ways(settings, plan, &authority).keep(driver.view(), nodes));
    parts.spawn(kubelet.serve(Serving { listener, identity: serving.clone(), authority: authority.clone() }));
    let judged = Judged { services, tag, api: api.clone(), node: plan.node.clone() };
    parts.spawn(judged.run(policies, driver.listed(), driver.view()));
    parts.spawn(driver.run());
    let registrar = kubelet.registrar();
    registrar.resume().await;
    parts.spawn(kubelet.run(changes));
    parts.spawn(mirrors.run());
    let mut pause = RETRY;
    while let Err(status) = registrar.register().await {
        warn!(message = status.message, "cannot register the node; trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    info!(node = plan.node, address = %listen.ip(), port, "the node is registered");
    let renewing = https.clone();
    let client = Wanted::client(&plan.node, kept.directory());
    // New certificates are shown by new connections.
    parts.spawn(client.keep(api.clone(), identity, async move || renewing.reconnect().await));
    let wanted = Wanted::serving(&plan.node, &plan.address.to_string(), kept.directory());
    parts.spawn(wanted.keep(api.clone(), serving, async || {}));
    parts.spawn(follow_servers(api, https, Kept::new(&settings.root)));
    match parts.join_next().await {
        Some(Err(error)) => Err(failed(format!("a part of the agent ended: {error}"))),
        _ => Err(failed("a part of the agent ended")),
    }
}

/// Enforces network policies, from the first one on: whom they speak of takes a view of all pods of the cluster, which a node without
/// policies does without.
struct Judged {
    services: Services,
    tag: String,
    api: Client,
    node: String,
}

impl Judged {
    async fn run(
        self,
        mut changes: mpsc::UnboundedReceiver<(Kind, Arc<Value>)>,
        mut listed: watch::Receiver<bool>,
        view: Arc<RwLock<View>>,
    ) {
        if listed.wait_for(|listed| *listed).await.is_err() {
            return;
        }
        let any = || view.read().unwrap_or_else(PoisonError::into_inner).count(Kind::NetworkPolicy) > 0;
        if !any()
            && let Err(error) = proxy::remove_policies(&self.tag)
        {
            warn!(error = chain(&error), "cannot take earlier network policies away");
        }
        while !any() {
            if changes.recv().await.is_none() {
                return;
            }
        }
        let mut driver = Driver::new(self.api);
        let _judge = self.services.judge(&mut driver, &self.node);
        let drain = async { while changes.recv().await.is_some() {} };
        tokio::join!(driver.run(), drain);
    }
}

/// Learns which servers there are, from the endpoints of the API's own service.
async fn follow_servers(api: Client, https: Https, kept: Kept) {
    loop {
        match api.get(&Kind::EndpointSlice.gvr(), "default", "kubernetes").await {
            Ok(slice) => {
                https.learn(servers(&slice));
                kept.keep_servers(&https.servers());
            }
            Err(status) => tracing::debug!(message = status.message, "cannot look which servers there are"),
        }
        tokio::time::sleep(SERVERS_EVERY).await;
    }
}

/// The servers that an EndpointSlice names. Pure.
fn servers(slice: &serde_json::Value) -> Vec<Target> {
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let ports: Vec<u64> = list(&slice["ports"]).iter().filter_map(|port| port["port"].as_u64()).collect();
    let Some(port) = ports.first().and_then(|port| u16::try_from(*port).ok()) else { return Vec::new() };
    let addresses = list(&slice["endpoints"]).into_iter().flat_map(|endpoint| list(&endpoint["addresses"]));
    addresses
        .filter_map(|address| address.as_str()?.parse::<IpAddr>().ok())
        // The loopback of the server is not this machine's.
        .filter(|address| !address.is_loopback())
        .map(|address| Target { host: address.to_string(), port })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn servers_are_learned_from_the_apis_own_service() {
        let slice = json!({"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}, {"addresses": ["127.0.0.1"]},
            {"addresses": ["not an address"]}], "ports": [{"port": 6443}]});
        let found: Vec<String> = servers(&slice).iter().map(Target::to_string).collect();
        assert_eq!(found, ["https://10.0.0.1:6443", "https://[fd00::1]:6443"]);
        assert!(servers(&json!({"endpoints": [{"addresses": ["10.0.0.1"]}]})).is_empty());
    }
}
