//! Gives every pod of this node its worker, and keeps the node's own objects.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use cache::{Kind, Recorder, View};
use client::Client;
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::actions::End;
use crate::devices::Devices;
use crate::images::{Pulls, Used};
use crate::network::Network;
use crate::node::{self, Machine};
use crate::objects::Objects;
use crate::pod_logs::PodLogs;
use crate::pressure::{Eviction, Pressure};
use crate::runtime::{Runtime, State};
use crate::shown::shown_container;
use crate::stats::Samples;
use crate::status::{NodeFacts, RuntimeName};
use crate::stream::NodeDoor;
use crate::upkeep::ImageGc;
use crate::worker::{Worker, event_of};
use crate::{admit, qos, shutdown, static_pods, upkeep};

const PROFILE_BYTES_MAX: u64 = 1 << 20;
const SHARE_EVERY: std::time::Duration = std::time::Duration::from_secs(15);

/// How a node runs.
#[derive(Debug, Clone)]
pub struct Config {
    pub node: String,
    /// The node's address, as pods and services see it.
    pub ip: String,
    /// Where the agent's own HTTPS listens at that address.
    pub port: u16,
    /// Durable files of pods go to `<root>/pods`.
    pub root: PathBuf,
    /// Where pods' logs go.
    pub logs: PodLogs,
    pub pods_max: u64,
    /// Address of the cluster's name server; `None`: pods ask the host's.
    pub dns: Option<String>,
    pub domain: String,
    /// Subnets of all nodes' pods; this node's part comes from its object.
    pub cluster_cidrs: Vec<String>,
    /// When pods are sent away because the node is short of something.
    pub eviction: Eviction,
    /// When images go that pods have done with.
    pub image_gc: ImageGc,
    /// A directory of files that declare pods of this node's own.
    pub manifests: Option<PathBuf>,
    /// What its pods run with.
    pub runtime: RuntimeName,
    /// Where device plugins register.
    pub device_plugins: PathBuf,
}

/// How long the start waits for the node's subnet, and how long a later look does.
const NETWORK_PATIENCE: Duration = Duration::from_secs(10);
const NETWORK_LOOK: Duration = Duration::from_secs(1);

/// A data plane that does not answer holds a pod's end up for so long.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// Called with a pod before its containers are told to end; the answer is waited for, for a while.
pub type Leave = Arc<dyn Fn(Arc<Value>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Answers another node whether this one does what slices of endpoints said up to a revision, after a while at most.
pub type Reached = Arc<dyn Fn(u64) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// What all rooms of one node share.
pub struct Doors<R> {
    pub runtime: R,
    pub api: Client,
    pub view: Arc<RwLock<View>>,
    pub node: NodeFacts,
    pub allocatable: Value,
    pub pulls: Pulls,
    pub used_images: Used,
    pub network: Network,
    pub devices: Devices,
    pub samples: Samples,
    pub objects: Objects,
    /// What the node is short of.
    pub pressure: Mutex<Pressure>,
    /// Pods that have to go, by their uids.
    orders: Mutex<BTreeMap<String, End>>,
    /// Takes the uids of pods to look after now.
    wake: mpsc::UnboundedSender<String>,
    /// The machine goes down, and its pods with it.
    ends: AtomicBool,
    leave: OnceLock<Leave>,
    reached: OnceLock<Reached>,
    pub config: Config,
    recorder: Mutex<Recorder>,
}

impl<R: Runtime> Doors<R> {
    /// Where the instance's durable files are.
    pub fn root(&self) -> &std::path::Path {
        &self.config.root
    }

    /// Conditions that hold because something is short.
    fn conditions(&self) -> Vec<&'static str> {
        let pressure = self.pressure.lock().unwrap_or_else(PoisonError::into_inner);
        node::PRESSURES.iter().map(|(condition, ..)| *condition).filter(|condition| pressure.has(condition)).collect()
    }

    pub fn eviction(&self) -> &Eviction {
        &self.config.eviction
    }

    /// What keeps the node from being ready.
    fn problem(&self) -> Option<String> {
        let ends = self.ends.load(Ordering::Relaxed).then(|| "node is shutting down".to_owned());
        ends.or_else(|| self.network.problem())
    }

    /// Whether the node has told this pod to go.
    pub fn ordered(&self, uid: &str) -> Option<End> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// Tells a pod to go.
    pub fn order(&self, uid: &str, end: End) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), end);
        let _ = self.wake.send(uid.to_owned());
    }

    pub fn forget_order(&self, uid: &str) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// From now on nothing begins here.
    pub fn begin_to_end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    /// Why a pod that has not begun does not begin here.
    pub fn refuses(&self, pod: &Value) -> Option<End> {
        if self.ends.load(Ordering::Relaxed) {
            let message = "Pod was rejected as the node is shutting down.".to_owned();
            return Some(End::failed("NodeShutdown", message));
        }
        let refused = self.pressure.lock().unwrap_or_else(PoisonError::into_inner).refuses(pod);
        if let Some(message) = refused {
            return Some(End::failed("Evicted", message));
        }
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let others: Vec<&Value> = view.pods_on(&self.node.name).map(|pod| &**pod).collect();
        admit::refuse(pod, &others, &self.allocatable, admit::Host::look())
    }

    /// All of this node's memory.
    pub fn memory_bytes(&self) -> i64 {
        let text = self.allocatable["memory"].as_str().unwrap_or_default();
        resources::quantity::Quantity::parse(text).map_or(0, crate::qos::bytes)
    }

    /// A seccomp profile of this node, from `<root>/seccomp`.
    pub fn seccomp_profile(&self, path: &str) -> Result<String, String> {
        let failed = |error: &dyn std::fmt::Display| format!("seccomp profile {path:?}: {error}");
        let root = linux::fs::Root::open(self.config.root.join("seccomp")).map_err(|error| failed(&error))?;
        let bytes = root.read(path, PROFILE_BYTES_MAX).map_err(|error| failed(&error))?;
        String::from_utf8(bytes).map_err(|error| failed(&error))
    }

    pub fn pod_directory(&self, uid: &str) -> PathBuf {
        self.config.root.join("pods").join(uid)
    }

    /// A pod's name in the cluster, if it has one.
    pub fn fqdn(&self, pod: &Value) -> String {
        let renamed = !meta::str_at(pod, &["spec", "hostnameOverride"]).is_empty();
        match meta::str_at(pod, &["spec", "subdomain"]) {
            _ if renamed => String::new(),
            "" => String::new(),
            subdomain => format!(
                "{}.{subdomain}.{}.svc.{}",
                crate::pod::hostname(pod, &self.node.name),
                meta::namespace(pod),
                self.config.domain
            ),
        }
    }

    /// Waits until nobody is led to a pod any more, so that nothing is lost when it ends.
    pub async fn leave(&self, pod: &Arc<Value>) {
        let Some(leave) = self.leave.get() else { return };
        let left = tokio::time::timeout(LEAVE_PATIENCE, leave(pod.clone())).await;
        if left.is_err() {
            tracing::warn!(pod = meta::name(pod), "it ends while connections may still be led to it");
        }
    }

    /// Whether this node's data plane does what slices said up to a revision; `None`: it has none.
    pub async fn reached(&self, revision: u64) -> Option<bool> {
        match self.reached.get() {
            Some(reached) => Some(reached(revision).await),
            None => None,
        }
    }

    /// Tells people about a pod.
    pub fn event(&self, pod: &Value, warning: bool, reason: &str, message: &str) {
        let about = json!({"apiVersion": "v1", "kind": "Pod", "name": meta::name(pod), "namespace": meta::namespace(pod),
            "uid": meta::uid(pod), "resourceVersion": meta::resource_version(pod)});
        self.tell(about, warning, reason, message);
    }

    /// Tells people about one of a pod's containers.
    pub fn container_event(&self, pod: &Value, name: &str, warning: bool, reason: &str, message: &str) {
        let about = json!({"apiVersion": "v1", "kind": "Pod", "name": meta::name(pod), "namespace": meta::namespace(pod),
            "uid": meta::uid(pod), "resourceVersion": meta::resource_version(pod),
            "fieldPath": crate::pod::field_path(pod, name)});
        self.tell(about, warning, reason, message);
    }

    /// Tells people about the node.
    pub fn node_event(&self, warning: bool, reason: &str, message: &str) {
        let name = &self.node.name;
        self.tell(json!({"kind": "Node", "name": name, "uid": name}), warning, reason, message);
    }

    fn tell(&self, about: Value, warning: bool, reason: &str, message: &str) {
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        let telling = recorder.tell(&about, warning, reason, message, Timestamp::now());
        drop(recorder);
        event_of(&self.api, telling);
    }

    /// What a pod's `dnsPolicy` and `dnsConfig` make of the resolver's file; `None` is the host's.
    pub fn resolv_conf(&self, pod: &Value) -> Option<String> {
        resolv_conf(pod, self.config.dns.as_deref(), &self.config.domain, || {
            std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
        })
    }
}

/// Pure but for the host's file.
fn resolv_conf(pod: &Value, dns: Option<&str>, domain: &str, host: impl FnOnce() -> String) -> Option<String> {
    let policy = match meta::str_at(pod, &["spec", "dnsPolicy"]) {
        "" => "ClusterFirst",
        policy => policy,
    };
    let extra = &pod["spec"]["dnsConfig"];
    let cluster = match (policy, dns) {
        ("ClusterFirst", Some(dns)) if pod["spec"]["hostNetwork"] != true => Some(dns),
        ("ClusterFirstWithHostNet", Some(dns)) => Some(dns),
        _ => None,
    };
    let (mut servers, mut search, mut options): (Vec<String>, Vec<String>, Vec<String>) = Default::default();
    match (cluster, policy) {
        (Some(dns), _) => {
            servers.push(dns.to_owned());
            let namespace = meta::namespace(pod);
            search = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
            options.push("ndots:5".into());
        }
        (None, "None") => {}
        (None, _) if !extra.is_object() => return None,
        (None, _) => {
            for line in host().lines() {
                let mut words = line.split_whitespace();
                match words.next() {
                    Some("nameserver") => servers.extend(words.next().map(str::to_owned)),
                    Some("search") => search = words.map(str::to_owned).collect(),
                    Some("options") => options.extend(words.map(str::to_owned)),
                    _ => {}
                }
            }
        }
    }
    let words = |field: &str| {
        meta::list_at(extra, &[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    servers.extend(words("nameservers"));
    search.extend(words("searches"));
    for option in meta::list_at(extra, &["options"]) {
        let name = option["name"].as_str().unwrap_or_default();
        options.retain(|have| have.split(':').next() != Some(name));
        options.push(match option["value"].as_str() {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        });
    }
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    Some(text)
}

struct Running {
    pod: watch::Sender<Option<Arc<Value>>>,
    nudge: Arc<Notify>,
    task: JoinHandle<()>,
}

/// A worker does not outlive the agent: it would keep the API from ending.
impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The node agent.
pub struct Kubelet<R: Runtime> {
    doors: Arc<Doors<R>>,
    machine: Machine,
    pods: BTreeMap<String, Running>,
    woken: mpsc::UnboundedReceiver<String>,
}

impl<R: Runtime> Kubelet<R> {
    /// `api` asks as the node; `view` shows pods and services.
    pub fn new(config: Config, runtime: R, api: Client, view: Arc<RwLock<View>>) -> Self {
        let machine = Machine::read(&config.root, config.pods_max, &config.eviction.hard);
        let node = NodeFacts {
            name: config.node.clone(),
            ip: config.ip.clone(),
            port: config.port,
            runtime: config.runtime.clone(),
        };
        let objects = Objects::new(api.clone());
        let (wake, woken) = mpsc::unbounded_channel();
        let doors = Doors {
            runtime,
            api,
            view,
            allocatable: machine.allocatable(),
            pulls: Pulls::default(),
            used_images: Used::default(),
            devices: Devices::new(&config.device_plugins, &config.root),
            network: Network::new(config.cluster_cidrs.clone(), &config.root),
            samples: Samples::default(),
            objects,
            pressure: Mutex::default(),
            orders: Mutex::default(),
            wake,
            ends: AtomicBool::new(false),
            leave: OnceLock::new(),
            reached: OnceLock::new(),
            recorder: Mutex::new(Recorder::new("kubelet", &config.node)),
            node,
            config,
        };
        Self { doors: Arc::new(doors), machine, pods: BTreeMap::new(), woken }
    }

    /// Who answers what only this node can.
    pub fn door(&self) -> Arc<NodeDoor<R>> {
        Arc::new(NodeDoor::new(self.doors.clone()))
    }

    /// Says what a pod that is deleted waits for before its containers are told to end.
    pub fn leave_by(&self, leave: Leave) {
        let _ = self.doors.leave.set(leave);
    }

    /// Says how other nodes learn what this node's data plane has come to.
    pub fn acknowledge_by(&self, reached: Reached) {
        let _ = self.doors.reached.set(reached);
    }

    /// Answers API servers and monitors on a port of its own, until dropped.
    pub fn serve(&self, serving: crate::Serving) -> impl Future<Output = ()> + Send + use<R> {
        crate::serve::run(self.doors.clone(), serving)
    }

    /// What ends this node's pods when the machine goes down.
    pub fn shutdown(&self, periods: shutdown::Periods) -> shutdown::Shutdown<R> {
        shutdown::Shutdown::new(self.doors.clone(), self.machine.clone(), periods)
    }

    /// What registers the node, beside whoever runs its pods.
    pub fn registrar(&self) -> Registrar<R> {
        Registrar { doors: self.doors.clone(), machine: self.machine.clone() }
    }

    /// Runs pods until the API ends. Containers run on. `changes` tells of every pod that changed, after the view has it.
    pub async fn run(mut self, mut changes: mpsc::UnboundedReceiver<(Kind, Arc<Value>)>) {
        // Ends with this future, also when that is dropped.
        let mut heart = JoinSet::new();
        heart.spawn(beat(self.doors.clone(), self.machine.clone()));
        heart.spawn(share_out(self.doors.clone()));
        heart.spawn(self.doors.devices.clone().serve());
        heart.spawn(upkeep::run(self.doors.clone()));
        if let Some(directory) = self.doors.config.manifests.clone() {
            heart.spawn(static_pods::run(self.doors.clone(), directory));
        }
        let mut events = self.doors.runtime.changes().await.ok();
        let ended = self.doors.api.clone();
        let mut strays = tokio::time::interval(node::LEASE_EVERY * 3);
        strays.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick is at once; the view is not filled then.
        strays.tick().await;
        loop {
            tokio::select! {
                () = ended.stopped() => break,
                change = changes.recv() => match change {
                    Some((Kind::Pod, pod)) => self.take(&pod),
                    Some((Kind::Volume, volume)) => {
                        let (api, config) = (self.doors.api.clone(), &self.doors.config);
                        tokio::spawn(crate::local_path::take(api, config.root.clone(), config.node.clone(), volume));
                    }
                    Some(_) => {}
                    None => break,
                },
                uid = async { match &mut events { Some(events) => events.recv().await, None => std::future::pending().await } } => {
                    match uid {
                        Some(uid) => if let Some(running) = self.pods.get(&uid) { running.nudge.notify_one() },
                        // The listener fell behind: everybody looks, and we listen anew.
                        None => {
                            events = self.doors.runtime.changes().await.ok();
                            self.pods.values().for_each(|running| running.nudge.notify_one());
                        }
                    }
                }
                Some(uid) = self.woken.recv() => if let Some(running) = self.pods.get(&uid) { running.nudge.notify_one() },
                _ = strays.tick() => self.clear_strays().await,
            }
        }
    }

    fn take(&mut self, changed: &Arc<Value>) {
        let uid = meta::uid(changed).to_owned();
        let now = {
            let view = self.doors.view.read().unwrap_or_else(PoisonError::into_inner);
            view.get(Kind::Pod, meta::namespace(changed), meta::name(changed))
                .filter(|pod| meta::uid(pod) == uid)
                .cloned()
        };
        let mine = |pod: &Arc<Value>| {
            meta::str_at(pod, &["spec", "nodeName"]) == self.doors.node.name && shown_container(pod).is_none()
        };
        let now = now.filter(mine);
        self.pods.retain(|_, running| !running.task.is_finished());
        match self.pods.get(&uid) {
            Some(running) => drop(running.pod.send_replace(now)),
            None => {
                // What has ended and been told needs nobody, unless it is to be deleted.
                let Some(pod) = now else { return };
                let (sender, receiver) = watch::channel(Some(pod));
                let nudge = Arc::new(Notify::new());
                let worker = Worker::new(self.doors.clone(), uid.clone(), receiver, nudge.clone());
                self.pods.insert(uid, Running { pod: sender, nudge, task: tokio::spawn(worker.run()) });
            }
        }
    }

    /// Containers and sandboxes of pods that the API does not know (any more).
    async fn clear_strays(&mut self) {
        let doors = &self.doors;
        let Ok(seen) = doors.runtime.containers(None).await else { return };
        let mut uids: Vec<String> = seen.iter().map(|seen| seen.pod_uid.clone()).collect();
        uids.extend(doors.runtime.sandboxes().await);
        uids.sort();
        uids.dedup();
        uids.retain(|uid| self.pods.get(uid).is_none_or(|running| running.task.is_finished()));
        let known: Vec<String> = {
            let view = doors.view.read().unwrap_or_else(PoisonError::into_inner);
            // A server that has not told its pods yet knows more than this.
            if !view.has_listed(Kind::Pod) {
                return;
            }
            view.list(Kind::Pod).map(|pod| meta::uid(pod).to_owned()).collect()
        };
        doors.devices.keep(|uid| known.iter().any(|known| known == uid));
        for uid in uids.into_iter().filter(|uid| !known.contains(uid)) {
            for container in seen.iter().filter(|seen| seen.pod_uid == uid) {
                if matches!(container.state, State::Running { .. }) {
                    let _ = doors.runtime.kill(&container.id).await;
                }
                let _ = doors.runtime.remove(&container.id).await;
            }
            doors.config.logs.forget_pod(&uid);
            if let Err(error) = doors.runtime.remove_sandbox(&uid).await {
                tracing::warn!(pod = uid, %error, "cannot remove what a pod left");
            }
            let _ = std::fs::remove_dir_all(doors.pod_directory(&uid));
        }
    }
}

/// Makes the node known to the API.
pub struct Registrar<R> {
    doors: Arc<Doors<R>>,
    machine: Machine,
}

impl<R: Runtime> Registrar<R> {
    /// The network as it was last: an agent's pods go on before the API is asked.
    pub async fn resume(&self) {
        self.doors.network.resume(&self.doors.runtime).await;
    }

    /// Registers the node; it is Ready when this returns, if it was given a subnet for its pods meanwhile.
    pub async fn register(&self) -> Result<(), resources::Status> {
        let doors = &self.doors;
        node::register(&doors.api, &doors.node).await?;
        let images = doors.runtime.images().await.unwrap_or_default();
        doors.network.settle(&doors.runtime, &doors.api, &doors.node.name, NETWORK_PATIENCE).await;
        crate::local_path::announce(&doors.api, &doors.node.name, &doors.config.root).await?;
        let problem = doors.network.problem();
        let devices = doors.devices.counts();
        node::tell(&doors.api, &doors.node, &self.machine, &images, problem.as_deref(), &[], &devices).await?;
        node::renew(&doors.api, &doors.node).await
    }
}

/// Ends all pods of a node and removes what they had here. Their objects stay: the next agent starts them again.
pub async fn end_all<R: Runtime + Clone>(
    runtime: &R,
    root: &std::path::Path,
    logs: &PodLogs,
    grace: std::time::Duration,
) {
    let seen = runtime.containers(None).await.unwrap_or_default();
    let pods: std::collections::BTreeSet<String> = seen.iter().map(|seen| seen.pod_uid.clone()).collect();
    let mut ends = tokio::task::JoinSet::new();
    for container in seen {
        let runtime = runtime.clone();
        ends.spawn(async move {
            let _ = runtime.stop(&container.id, grace).await;
            if let Err(error) = runtime.remove(&container.id).await {
                tracing::warn!(container = container.id, %error, "cannot remove a pod's container");
            }
        });
    }
    while ends.join_next().await.is_some() {}
    pods.iter().for_each(|uid| logs.forget_pod(uid));
    for uid in runtime.sandboxes().await {
        if let Err(error) = runtime.remove_sandbox(&uid).await {
            tracing::warn!(pod = uid, %error, "cannot remove a pod's sandbox");
        }
        let _ = std::fs::remove_dir_all(root.join("pods").join(uid));
    }
    if let Err(error) = runtime.remove_groups().await {
        tracing::warn!(%error, "cannot remove the pods' control groups");
    }
}

/// Shares processor time out between the classes of pods, as pods come and go.
async fn share_out<R: Runtime>(doors: Arc<Doors<R>>) {
    let mut last = None;
    loop {
        let burstable = {
            let view = doors.view.read().unwrap_or_else(PoisonError::into_inner);
            qos::burstable_shares(view.pods_on(&doors.node.name).map(|pod| &**pod))
        };
        if last != Some(burstable) {
            match doors.runtime.share_class("burstable", burstable).await {
                Ok(()) => last = Some(burstable),
                Err(error) => tracing::debug!(%error, "cannot share out processor time"),
            }
        }
        tokio::time::sleep(SHARE_EVERY).await;
    }
}

/// Renews the lease, and tells the node's status now and then.
async fn beat<R: Runtime>(doors: Arc<Doors<R>>, machine: Machine) {
    let mut told = tokio::time::Instant::now();
    let mut images = Vec::new();
    let mut pressed = Vec::new();
    let mut devices = doors.devices.counts();
    loop {
        tokio::select! {
            () = tokio::time::sleep(node::LEASE_EVERY) => {}
            // The scheduler waits for it.
            () = doors.devices.changed() => {}
        }
        if let Err(status) = node::renew(&doors.api, &doors.node).await {
            tracing::warn!(message = status.message, "cannot renew the node's lease");
        }
        let seen = doors.runtime.images().await.unwrap_or_default();
        let short = doors.conditions();
        let before = doors.network.problem();
        if before.is_some() {
            doors.network.settle(&doors.runtime, &doors.api, &doors.node.name, NETWORK_LOOK).await;
        }
        let problem = doors.problem();
        // Somebody took this node for lost: it is not.
        let doubted = {
            let view = doors.view.read().unwrap_or_else(PoisonError::into_inner);
            view.get(Kind::Node, "", &doors.node.name).is_some_and(|node| {
                let told = meta::list_at(node, &["status", "conditions"])
                    .iter()
                    .find(|condition| condition["type"] == "Ready");
                told.is_none_or(|condition| condition["status"] == "Unknown")
            })
        };
        let counts = doors.devices.counts();
        let different = seen != images || short != pressed || problem != before || counts != devices;
        if doubted || different || told.elapsed() >= node::STATUS_EVERY {
            match node::tell(&doors.api, &doors.node, &machine, &seen, problem.as_deref(), &short, &counts).await {
                Ok(()) => (images, pressed, devices, told) = (seen, short, counts, tokio::time::Instant::now()),
                Err(status) => tracing::warn!(message = status.message, "cannot tell the node's status"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_ask_the_server_that_their_policy_names() {
        let host = || "nameserver 9.9.9.9\nsearch lan\n".to_owned();
        let check = |spec: Value, dns: Option<&str>| {
            resolv_conf(&json!({"metadata": {"namespace": "d"}, "spec": spec}), dns, "cluster.local", host)
        };
        let cluster =
            "nameserver 10.96.0.10\nsearch d.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
        assert_eq!(check(json!({}), Some("10.96.0.10")).as_deref(), Some(cluster));
        assert_eq!(check(json!({}), None), None);
        assert_eq!(check(json!({"dnsPolicy": "Default"}), Some("10.96.0.10")), None);
        assert_eq!(check(json!({"hostNetwork": true}), Some("10.96.0.10")), None);
        let none = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]}});
        assert_eq!(check(none, Some("10.96.0.10")).as_deref(), Some("nameserver 1.1.1.1\noptions ndots:2\n"));
        let extra = json!({"dnsPolicy": "Default", "dnsConfig": {"searches": ["x"]}});
        assert_eq!(check(extra, None).as_deref(), Some("nameserver 9.9.9.9\nsearch lan x\n"));
    }
}
