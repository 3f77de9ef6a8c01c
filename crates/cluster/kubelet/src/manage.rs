//! Gives every pod of this node its worker, and keeps the node's own objects.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use apiserver::Local;
use cache::{Kind, Recorder, View};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::node::{self, Machine};
use crate::runtime::{Runtime, State};
use crate::status::NodeFacts;
use crate::stream::NodeDoor;
use crate::worker::{Worker, event_of};

/// How a node runs.
#[derive(Debug, Clone)]
pub struct Config {
    pub node: String,
    /// The node's address, as pods and services see it.
    pub ip: String,
    /// Durable files of pods go to `<root>/pods`.
    pub root: PathBuf,
    pub pods_max: u64,
    /// Address of the cluster's name server; `None`: pods ask the host's.
    pub dns: Option<String>,
    pub domain: String,
}

/// What all rooms of one node share.
pub struct Doors<R> {
    pub runtime: R,
    pub api: Local,
    pub view: Arc<RwLock<View>>,
    pub node: NodeFacts,
    pub allocatable: Value,
    config: Config,
    recorder: Mutex<Recorder>,
}

impl<R: Runtime> Doors<R> {
    pub fn pod_directory(&self, uid: &str) -> PathBuf {
        self.config.root.join("pods").join(uid)
    }

    /// Tells people about a pod.
    pub fn event(&self, pod: &Value, warning: bool, reason: &str, message: &str) {
        let about = json!({"apiVersion": "v1", "kind": "Pod", "name": meta::name(pod), "namespace": meta::namespace(pod),
            "uid": meta::uid(pod), "resourceVersion": meta::resource_version(pod)});
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
}

impl<R: Runtime> Kubelet<R> {
    /// `api` asks as the node; `view` shows pods and services.
    pub fn new(config: Config, runtime: R, api: Local, view: Arc<RwLock<View>>) -> Self {
        let machine = Machine::read(&config.root, config.pods_max);
        let node = NodeFacts { name: config.node.clone(), ip: config.ip.clone() };
        let doors = Doors {
            runtime,
            api,
            view,
            allocatable: machine.capacity(),
            recorder: Mutex::new(Recorder::new("kubelet", &config.node)),
            node,
            config,
        };
        Self { doors: Arc::new(doors), machine, pods: BTreeMap::new() }
    }

    /// Who answers what only this node can.
    pub fn door(&self) -> Arc<NodeDoor<R>> {
        Arc::new(NodeDoor::new(self.doors.clone()))
    }

    /// Registers the node; it is Ready when this returns.
    pub async fn register(&self) -> Result<(), resources::Status> {
        let doors = &self.doors;
        node::register(&doors.api, &doors.node).await?;
        let images = doors.runtime.images().await.unwrap_or_default();
        node::tell(&doors.api, &doors.node, &self.machine, &images).await?;
        node::renew(&doors.api, &doors.node).await
    }

    /// Runs pods until the API ends. Containers run on. `changes` tells of every pod that changed, after the view has it.
    pub async fn run(mut self, mut changes: mpsc::UnboundedReceiver<(Kind, Arc<Value>)>) {
        // Ends with this future, also when that is dropped.
        let mut heart = JoinSet::new();
        heart.spawn(beat(self.doors.clone(), self.machine.clone()));
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
        let mine = |pod: &Arc<Value>| meta::str_at(pod, &["spec", "nodeName"]) == self.doors.node.name;
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
            view.list(Kind::Pod).map(|pod| meta::uid(pod).to_owned()).collect()
        };
        for uid in uids.into_iter().filter(|uid| !known.contains(uid)) {
            for container in seen.iter().filter(|seen| seen.pod_uid == uid) {
                if matches!(container.state, State::Running { .. }) {
                    let _ = doors.runtime.kill(&container.id).await;
                }
                let _ = doors.runtime.remove(&container.id).await;
            }
            if let Err(error) = doors.runtime.remove_sandbox(&uid).await {
                tracing::warn!(pod = uid, %error, "cannot remove what a pod left");
            }
            let _ = std::fs::remove_dir_all(doors.pod_directory(&uid));
        }
    }
}

/// Ends all pods of a node and removes what they had here. Their objects stay: the next agent starts them again.
pub async fn end_all<R: Runtime + Clone>(runtime: &R, root: &std::path::Path, grace: std::time::Duration) {
    let seen = runtime.containers(None).await.unwrap_or_default();
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
    for uid in runtime.sandboxes().await {
        if let Err(error) = runtime.remove_sandbox(&uid).await {
            tracing::warn!(pod = uid, %error, "cannot remove a pod's sandbox");
        }
        let _ = std::fs::remove_dir_all(root.join("pods").join(uid));
    }
}

/// Renews the lease, and tells the node's status now and then.
async fn beat<R: Runtime>(doors: Arc<Doors<R>>, machine: Machine) {
    let mut told = tokio::time::Instant::now();
    let mut images = Vec::new();
    loop {
        tokio::time::sleep(node::LEASE_EVERY).await;
        if let Err(status) = node::renew(&doors.api, &doors.node).await {
            tracing::warn!(message = status.message, "cannot renew the node's lease");
        }
        let seen = doors.runtime.images().await.unwrap_or_default();
        if seen != images || told.elapsed() >= node::STATUS_EVERY {
            match node::tell(&doors.api, &doors.node, &machine, &seen).await {
                Ok(()) => (images, told) = (seen, tokio::time::Instant::now()),
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
