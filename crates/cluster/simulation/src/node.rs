//! A node: an agent that follows its pods over a way to the API that may fail, and processes that outlive it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cache::{Key, Kind};
use client::{Client, DeleteOptions, Event, Happened, PODS, Patch, Selectors};
use resources::{Value, decode, meta};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::rng::Rng;
use crate::rules::is_ended;

/// The image of pods that never become ready.
pub const BAD_IMAGE: &str = "bad";
/// Pods with this image end by themselves.
pub const WORK_IMAGE: &str = "work";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starts { until: Instant },
    Runs { since: Instant, ready_at: Option<Instant>, ends_at: Option<(Instant, bool)> },
    Stops { until: Instant },
    Ended { good: bool },
}

/// A pod's processes.
#[derive(Debug, Clone)]
struct Process {
    key: Key,
    pod: Arc<Value>,
    stage: Stage,
    restarts: u64,
    address: String,
    ready_since: Option<String>,
}

/// How the pods of a node behave.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// A running container ends by itself within a second, in millionths.
    pub crashes: u64,
    /// Work fails, in thousandths.
    pub fails: u64,
    pub heartbeat: Duration,
    /// No node controller runs: the taint of a new node is the node's own to take away.
    pub alone: bool,
}

/// The machine: what runs on it whether or not its agent does.
#[derive(Clone)]
pub struct Machine {
    pub name: String,
    zone: String,
    number: u64,
    habits: Habits,
    ledger: Ledger,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: Rng,
    habits: Habits,
    processes: BTreeMap<String, Process>,
    addresses: u64,
}

impl Machine {
    pub fn new(number: u64, habits: Habits, rng: Rng, ledger: &Ledger) -> Self {
        Self {
            name: format!("node-{number}"),
            zone: format!("zone-{}", number % 2),
            number,
            habits,
            ledger: ledger.clone(),
            state: Arc::new(Mutex::new(State { rng, habits, processes: BTreeMap::new(), addresses: 1 })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing crashes or fails by itself.
    pub fn calm(&self) {
        let mut state = self.state();
        state.habits.crashes = 0;
        state.habits.fails = 0;
    }

    /// The power goes: everything that runs here is gone.
    pub fn lose_power(&self) {
        let gone = std::mem::take(&mut self.state().processes);
        self.ledger.tell(&format!("{} loses power with {} pods", self.name, gone.len()));
        let mut books = self.ledger.books();
        for (uid, process) in gone {
            books.truth.running.ends(&process.key, &uid, &self.name);
        }
    }

    fn object(&self) -> Value {
        let name = &self.name;
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": self.zone}},
            "status": {"capacity": {"cpu": "4", "memory": "8Gi", "pods": "24"},
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "24"},
                "addresses": [{"type": "InternalIP", "address": format!("192.168.0.{}", self.number + 10)}],
                "conditions": [ready()]}})
    }
}

fn stamp() -> String {
    decode::format_time(client::now(), 0)
}

fn ready() -> Value {
    let now = stamp();
    json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now, "lastTransitionTime": now})
}

/// Runs the agent of a machine until it is aborted.
pub async fn agent(machine: Machine, api: Client) {
    machine.ledger.tell(&format!("agent of {} starts", machine.name));
    let mut agent = Agent {
        machine: machine.clone(),
        api: api.clone(),
        pods: BTreeMap::new(),
        listed: false,
        at_work: BTreeSet::new(),
    };
    let (tell, mut told) = mpsc::unbounded_channel();
    let (seen, mut reported) = mpsc::unbounded_channel();
    let mut helpers = JoinSet::new();
    helpers.spawn(follow(api.clone(), machine.name.clone(), tell));
    helpers.spawn(beat(machine, api));
    loop {
        let next = agent.step(&seen);
        let wait = next.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
        tokio::select! {
            biased;
            Some(news) = told.recv() => agent.take_in(news),
            Some(uid) = reported.recv() => drop(agent.at_work.remove::<String>(&uid)),
            () = tokio::time::sleep(wait + Duration::from_millis(1)) => {}
        }
    }
}

/// Registers the node and says again and again that it is there.
async fn beat(machine: Machine, api: Client) {
    let nodes = Kind::Node.gvr();
    let leases = Kind::Lease.gvr();
    const NAMESPACE: &str = "kube-node-lease";
    loop {
        let registered = match api.get(&nodes, "", &machine.name).await {
            Ok(node) => {
                let tainted = machine.habits.alone && node["spec"]["taints"].is_array();
                let free = Patch::Merge(json!({"spec": {"taints": null}}));
                let free = !tainted || api.patch(&nodes, "", &machine.name, "", &free).await.is_ok();
                let known = crate::rules::condition(&node, "Ready").is_some_and(|ready| ready["status"] == "True");
                let patch = Patch::Strategic(json!({"status": {"conditions": [ready()]}}));
                free && (known || api.patch(&nodes, "", &machine.name, "status", &patch).await.is_ok())
            }
            // It is looked at again at once where something is left to do.
            Err(status) if status.code == 404 => {
                api.create(&nodes, "", &machine.object()).await.is_ok() && !machine.habits.alone
            }
            Err(_) => false,
        };
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": machine.name, "namespace": NAMESPACE},
            "spec": {"holderIdentity": machine.name, "leaseDurationSeconds": 40,
                "renewTime": decode::format_time(client::now(), 6)}});
        let patch = Patch::Merge(json!({"spec": lease["spec"]}));
        let renewed = match api.patch(&leases, NAMESPACE, &machine.name, "", &patch).await {
            Err(status) if status.code == 404 => api.create(&leases, NAMESPACE, &lease).await,
            other => other,
        };
        let good = registered && renewed.is_ok();
        tokio::time::sleep(if good { machine.habits.heartbeat } else { Duration::from_secs(2) }).await;
    }
}

enum News {
    All(Vec<Value>),
    Changes(Vec<Event>),
}

async fn follow(api: Client, node: String, tell: mpsc::UnboundedSender<News>) {
    let selectors = Selectors { fields: format!("spec.nodeName={node}"), ..Selectors::default() };
    loop {
        let Ok(list) = api.list(&PODS, "", &selectors).await else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        if tell.send(News::All(list.items)).is_err() {
            return;
        }
        let Ok(mut events) = api.watch(&PODS, "", &selectors, list.revision).await else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        while let Ok((batch, _)) = events.next().await {
            if tell.send(News::Changes(batch)).is_err() {
                return;
            }
        }
    }
}

struct Agent {
    machine: Machine,
    api: Client,
    /// By uid, as the API told them.
    pods: BTreeMap<String, Arc<Value>>,
    listed: bool,
    /// Pods that are being reported on.
    at_work: BTreeSet<String>,
}

impl Agent {
    fn take_in(&mut self, news: News) {
        match news {
            News::All(items) => {
                self.listed = true;
                self.pods = items.into_iter().map(|pod| (meta::uid(&pod).to_owned(), Arc::new(pod))).collect();
            }
            News::Changes(events) => {
                for event in events {
                    let uid = meta::uid(&event.object).to_owned();
                    match event.happened {
                        Happened::Deleted => drop(self.pods.remove(&uid)),
                        _ => drop(self.pods.insert(uid, Arc::new(event.object))),
                    }
                }
            }
        }
    }

    /// Moves everything on and reports what the API does not know; answers when to look again.
    fn step(&mut self, seen: &mpsc::UnboundedSender<String>) -> Option<Instant> {
        if !self.listed {
            return None;
        }
        let machine = self.machine.clone();
        let mut state = machine.state();
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut wake = |at: Instant| next = Some(next.map_or(at, |have| have.min(at)));
        for (uid, pod) in &self.pods {
            let waits = !is_ended(pod) && !meta::is_terminating(pod) && !state.processes.contains_key(uid);
            if waits {
                // What ran before the power went does not run again if it must not.
                let lost =
                    meta::str_at(pod, &["status", "phase"]) == "Running" && pod["spec"]["restartPolicy"] == "Never";
                let stage = if lost {
                    Stage::Ended { good: false }
                } else {
                    Stage::Starts { until: now + Duration::from_millis(state.rng.between(50, 3000)) }
                };
                state.addresses += 1;
                let address =
                    format!("10.{}.{}.{}", machine.number + 1, state.addresses / 250, state.addresses % 250 + 1);
                let process = Process {
                    key: Key::of(pod),
                    pod: pod.clone(),
                    stage,
                    restarts: pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0),
                    address,
                    ready_since: None,
                };
                state.processes.insert(uid.clone(), process);
            }
        }
        let uids: Vec<String> = state.processes.keys().cloned().collect();
        for uid in uids {
            let asked = self.pods.get(&uid);
            let leaves = asked.is_none_or(|pod| meta::is_terminating(pod) || is_ended(pod));
            let State { rng, habits, processes, .. } = &mut *state;
            let Some(process) = processes.get_mut(&uid) else { continue };
            if leaves && matches!(process.stage, Stage::Starts { .. }) {
                process.stage = Stage::Ended { good: false };
            }
            if leaves && matches!(process.stage, Stage::Runs { .. }) {
                let grace = asked.and_then(|pod| meta::at(pod, &["metadata", "deletionGracePeriodSeconds"])?.as_u64());
                let most = grace.unwrap_or(1).clamp(1, 30) * 1000;
                process.stage = Stage::Stops { until: now + Duration::from_millis(rng.between(20, most.min(8000))) };
            }
            loop {
                match process.stage {
                    Stage::Starts { until } if now >= until => {
                        let mut books = machine.ledger.books();
                        let started = books.truth.running.starts(&process.pod, &machine.name);
                        drop(books);
                        if let Err(why) = started {
                            machine.ledger.fail(why);
                        }
                        process.stage = begin(&process.pod, rng, *habits, now);
                    }
                    Stage::Runs { since, ends_at: Some((at, good)), .. } if now >= at => {
                        let policy = process.pod["spec"]["restartPolicy"].as_str().unwrap_or("Always");
                        let again = policy == "Always" || policy == "OnFailure" && !good;
                        process.ready_since = None;
                        if again {
                            process.restarts += 1;
                            let wait = if now - since > Duration::from_secs(60) { 1000 } else { 4000 };
                            let Stage::Runs { .. } = process.stage else { unreachable!() };
                            // The container waits for its restart; the pod stays where it is.
                            let mut next = begin(&process.pod, rng, *habits, now + Duration::from_millis(wait));
                            if let Stage::Runs { since, .. } = &mut next {
                                *since = now + Duration::from_millis(wait);
                            }
                            process.stage = next;
                        } else {
                            machine.ledger.books().truth.running.ends(&process.key, &uid, &machine.name);
                            process.stage = Stage::Ended { good };
                        }
                    }
                    Stage::Stops { until } if now >= until => {
                        machine.ledger.books().truth.running.ends(&process.key, &uid, &machine.name);
                        process.stage = Stage::Ended { good: false };
                    }
                    _ => break,
                }
            }
            match process.stage {
                Stage::Starts { until } | Stage::Stops { until } => wake(until),
                Stage::Runs { ready_at, ends_at, .. } => {
                    ready_at.filter(|at| *at > now).into_iter().for_each(&mut wake);
                    ends_at.into_iter().for_each(|(at, _)| wake(at));
                }
                Stage::Ended { .. } => {}
            }
            let is_ready =
                matches!(process.stage, Stage::Runs { since, ready_at: Some(at), .. } if now >= at && now >= since);
            if is_ready && process.ready_since.is_none() {
                process.ready_since = Some(stamp());
            }
            if !is_ready {
                process.ready_since = None;
            }
            if asked.is_none() && matches!(process.stage, Stage::Ended { .. }) {
                processes.remove(&uid);
            }
        }
        for (uid, pod) in &self.pods {
            if self.at_work.contains(uid) {
                continue;
            }
            let process = state.processes.get(uid).cloned();
            let report = report(pod, process.as_ref());
            let gone = process.as_ref().is_none_or(|process| matches!(process.stage, Stage::Ended { .. }));
            if report.is_none() && !(gone && meta::is_terminating(pod)) {
                continue;
            }
            self.at_work.insert(uid.clone());
            tokio::spawn(send(self.api.clone(), pod.clone(), report, gone, seen.clone()));
        }
        next
    }
}

/// How a container goes that starts now.
fn begin(pod: &Value, rng: &mut Rng, habits: Habits, now: Instant) -> Stage {
    let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    let ready_at = (image != BAD_IMAGE).then(|| now + Duration::from_millis(rng.between(0, 4000)));
    let ends_at = if image == WORK_IMAGE {
        let good = !rng.chance(habits.fails);
        Some((now + Duration::from_millis(rng.between(500, 40_000)), good))
    } else if habits.crashes > 0 {
        // Within the next ten minutes, or never.
        let secs = rng.between(1, 600);
        (rng.below(1_000_000) < habits.crashes * 600).then(|| (now + Duration::from_secs(secs), false))
    } else {
        None
    };
    Stage::Runs { since: now, ready_at, ends_at }
}

/// The status that the API should have, if it has another one.
fn report(pod: &Value, process: Option<&Process>) -> Option<Value> {
    let process = process?;
    let (phase, state) = match process.stage {
        Stage::Starts { .. } => ("Pending", json!({"waiting": {"reason": "ContainerCreating"}})),
        Stage::Runs { .. } | Stage::Stops { .. } => ("Running", json!({"running": {}})),
        Stage::Ended { good } => {
            let code = i64::from(!good);
            (
                if good { "Succeeded" } else { "Failed" },
                json!({"terminated": {"exitCode": code, "finishedAt": stamp()}}),
            )
        }
    };
    let ready = process.ready_since.is_some();
    let has = crate::rules::is_ready(pod);
    let told = |name: &str| meta::str_at(pod, &["status", name]);
    let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
    if told("phase") == phase
        && has == ready
        && (phase == "Pending" || told("podIP") == process.address)
        && restarts.unwrap_or(0) == process.restarts
    {
        return None;
    }
    // Of what has ended nothing changes any more.
    if is_ended(pod) {
        return None;
    }
    let truth = |yes: bool| if yes { "True" } else { "False" };
    let since = process.ready_since.clone().unwrap_or_else(stamp);
    let condition = |kind: &str, yes: bool| json!({"type": kind, "status": truth(yes), "lastTransitionTime": since});
    let name = pod["spec"]["containers"][0]["name"].clone();
    let mut status = json!({"phase": phase, "startTime": pod["metadata"]["creationTimestamp"],
        "conditions": [condition("Ready", ready), condition("ContainersReady", ready), condition("Initialized", true)],
        "containerStatuses": [{"name": name, "ready": ready, "restartCount": process.restarts, "state": state,
            "image": pod["spec"]["containers"][0]["image"], "imageID": "", "started": phase == "Running"}]});
    if phase != "Pending" {
        status["podIP"] = process.address.as_str().into();
        // The list is merged by address, and the one that the pod had before does not stay.
        status["podIPs"] = json!([{"ip": process.address}, {"$patch": "replace"}]);
    }
    Some(json!({"metadata": {"uid": meta::uid(pod)}, "status": status}))
}

/// Tells the API what became of a pod, and that it can go.
async fn send(api: Client, pod: Arc<Value>, report: Option<Value>, gone: bool, seen: mpsc::UnboundedSender<String>) {
    let (key, uid) = (Key::of(&pod), meta::uid(&pod).to_owned());
    let mut good = true;
    if let Some(report) = report {
        let sent = api.patch(&PODS, &key.namespace, &key.name, "status", &Patch::Strategic(report)).await;
        good = !sent.is_err_and(|status| status.code != 404 && status.code != 409);
    }
    if good && gone && meta::is_terminating(&pod) {
        let options = DeleteOptions { grace_secs: Some(0), uid: uid.clone(), ..DeleteOptions::default() };
        let _ = api.delete(&PODS, &key.namespace, &key.name, &options).await;
    }
    // Not again before the answer can have been seen.
    tokio::time::sleep(Duration::from_millis(if good { 300 } else { 1000 })).await;
    let _ = seen.send(uid);
}
