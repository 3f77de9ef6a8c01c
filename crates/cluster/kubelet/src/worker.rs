//! One task a pod: looks at spec and runtime, decides, acts, tells.

mod references;
mod resize;
mod start;
mod stop;
mod volumes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cache::Telling;
use client::{Gvr, PODS, Patch};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::actions::{self, Actions, End, Health, Memory, Step};
use crate::container::{Found, Volumes};
use crate::files::TokenRequest;
use crate::images::Pull;
use crate::manage::Doors;
use crate::pod;
use crate::probes::Probes;
use crate::runtime::{
    ContainerSeen, GroupRequest, Limits, LogQuery, Runtime, RuntimeError, Sandbox, SandboxRequest, State,
};
use crate::{network, qos, status};
use references::{Unfound, Unready};

/// How often what comes from the API's objects is looked at again.
const REFRESH: Duration = Duration::from_secs(30);
/// Lines and bytes of a log that stand in for a termination message.
const QUOTED_LINES: u64 = 80;
const QUOTED_BYTES: usize = 2048;
/// An image of a volume is on its way: nothing to tell.
const PULLING: &str = "Pulling";
/// How often the files of a pod that may not write without end are counted.
const BOUNDED: Duration = Duration::from_secs(10);
/// After something outside of the pod failed.
const RETRY: Duration = Duration::from_secs(2);

pub struct Worker<R: Runtime> {
    doors: Arc<Doors<R>>,
    uid: String,
    pod: watch::Receiver<Option<Arc<Value>>>,
    /// Something happened to a container or a probe.
    nudge: Arc<Notify>,
    memory: Memory,
    health: Arc<Mutex<BTreeMap<String, Health>>>,
    probes: Probes,
    /// What the API answered last, if that is newer than what the watch told.
    told: Option<Arc<Value>>,
    volumes: Volumes,
    /// The same as its file says it.
    kept: Volumes,
    tokens: BTreeMap<TokenRequest, (String, Timestamp)>,
    /// What running containers may use, by their ids.
    limits: BTreeMap<String, Limits>,
    /// What the pod's runtime class leads to, once it is known.
    handler: Option<String>,
    /// The pod's control group as it was set up last.
    group: Option<GroupRequest>,
    /// The end of the log of containers that ended badly, by their ids.
    last_words: BTreeMap<String, String>,
    /// What the pod's references led to when the API last said so.
    found: Option<Found>,
    /// Image and pull, by the name of the container that waits for it.
    pulls: BTreeMap<String, (String, Pull)>,
}

fn revision(object: &Value) -> u64 {
    meta::resource_version(object).parse().unwrap_or(0)
}

/// Why a container cannot be started now.
struct Refused {
    reason: &'static str,
    message: String,
}

impl Refused {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl<R: Runtime> Worker<R> {
    pub fn new(
        doors: Arc<Doors<R>>,
        uid: String,
        pod: watch::Receiver<Option<Arc<Value>>>,
        nudge: Arc<Notify>,
    ) -> Self {
        Self {
            doors,
            uid,
            pod,
            nudge,
            memory: Memory::default(),
            health: Arc::default(),
            probes: Probes::default(),
            told: None,
            volumes: Volumes::new(),
            kept: Volumes::new(),
            tokens: BTreeMap::new(),
            limits: BTreeMap::new(),
            handler: None,
            group: None,
            last_words: BTreeMap::new(),
            found: None,
            pulls: BTreeMap::new(),
        }
    }

    /// The newest that is known; `None`: the API has no such pod any more.
    fn latest(&mut self) -> Option<Arc<Value>> {
        let pod = self.pod.borrow_and_update().clone()?;
        match &self.told {
            Some(told) if revision(told) > revision(&pod) => Some(told.clone()),
            _ => Some(pod),
        }
    }

    pub async fn run(mut self) {
        loop {
            let Some(pod) = self.latest() else {
                self.clear_away(true).await;
                return;
            };
            let wait = match self.look(&pod).await {
                Ok(Some(wait)) => wait,
                // The pod has come to its end here and in the API.
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(pod = meta::name(&pod), %error, "will try again");
                    RETRY
                }
            };
            tokio::select! {
                changed = self.pod.changed() => if changed.is_err() { return },
                () = self.nudge.notified() => {}
                () = tokio::time::sleep(wait.min(REFRESH)) => {}
            }
        }
    }

    async fn look(&mut self, pod: &Arc<Value>) -> Result<Option<Duration>, RuntimeError> {
        let seen = self.seen().await?;
        if !meta::is_terminating(pod)
            && let Some(end) = self.sent_away(pod, &seen).await
        {
            return self.end(pod, Some(end)).await;
        }
        if let Err(error) = self.resize(pod, &seen).await {
            tracing::debug!(pod = meta::name(pod), %error, "cannot look at the pod's resources");
        }
        self.probes.follow(&self.doors, pod, &seen, &self.health, &self.nudge);
        self.memory.health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let decided = actions::pod_actions(pod, &seen, &self.memory, Timestamp::now());
        let Actions { steps, end, again } = decided;
        if let Some(end) = end {
            return self.end(pod, end).await;
        }
        let mut wait = again.unwrap_or(REFRESH);
        if volumes::is_bounded(pod) {
            wait = wait.min(BOUNDED);
        }
        let starts = steps.iter().any(|step| matches!(step, Step::Start { .. }));
        let mut prepared = Ok(());
        if starts || !self.volumes.is_empty() {
            prepared = self.prepare(pod).await;
        }
        if let Err(refused) = &prepared {
            if refused.reason != PULLING {
                self.doors.event(pod, true, refused.reason, &refused.message);
            }
            wait = wait.min(RETRY);
        }
        for step in steps {
            match step {
                Step::Forget { id } => {
                    self.doors.runtime.remove(&id).await?;
                    self.doors.config.logs.forget(&id);
                }
                Step::Stop { id, name, why } => self.stop_sick(pod, &id, &name, &why).await?,
                Step::Start { .. } if prepared.is_err() => {}
                Step::Start { role, name, attempt } => {
                    if self.start(pod, role, &name, attempt).await {
                        wait = Duration::ZERO;
                    }
                }
            }
        }
        let seen = self.seen().await?;
        self.probes.follow(&self.doors, pod, &seen, &self.health, &self.nudge);
        self.memory.health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.tell_back_off(pod, &seen);
        self.tell(pod, &seen, None).await;
        // A container that was just started is looked at again at once only if a step is due; the runtime tells the rest.
        if wait.is_zero() {
            let next = actions::pod_actions(pod, &seen, &self.memory, Timestamp::now());
            wait = if next.steps.is_empty() && next.end.is_none() {
                next.again.unwrap_or(REFRESH)
            } else {
                Duration::ZERO
            };
        }
        Ok(Some(wait))
    }

    async fn seen(&self) -> Result<Vec<ContainerSeen>, RuntimeError> {
        let mut seen = self.doors.runtime.containers(Some(&self.uid)).await?;
        for seen in &mut seen {
            if let Some(words) = self.last_words.get(&seen.id) {
                seen.message.clone_from(words);
            }
        }
        Ok(seen)
    }

    /// Containers that ended badly without a word, and whose policy says so, are quoted from their logs.
    async fn quote(&mut self, pod: &Value, seen: &mut [ContainerSeen]) {
        self.last_words.retain(|id, _| seen.iter().any(|seen| seen.id == *id));
        for seen in seen {
            let bad = matches!(&seen.state, State::Exited { code, error, .. } if *code != 0 && error.is_empty());
            let quoted = pod::containers(pod).any(|(_, container)| {
                pod::name(container) == seen.name && container["terminationMessagePolicy"] == "FallbackToLogsOnError"
            });
            if bad && quoted && seen.message.is_empty() && !self.last_words.contains_key(&seen.id) {
                let query = LogQuery { tail: Some(QUOTED_LINES), ..LogQuery::default() };
                let mut words = Vec::new();
                if let Ok(mut lines) = self.doors.runtime.logs(&seen.id, &query).await {
                    while let Some(line) = lines.recv().await {
                        words.extend_from_slice(&line.line);
                    }
                }
                let words = &words[words.len().saturating_sub(QUOTED_BYTES)..];
                seen.message = String::from_utf8_lossy(words).into_owned();
                self.last_words.insert(seen.id.clone(), seen.message.clone());
            }
        }
    }

    /// Why the node does not run this pod, or not any longer.
    async fn sent_away(&self, pod: &Value, seen: &[ContainerSeen]) -> Option<End> {
        if matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed") {
            return None;
        }
        if let Some(end) = self.doors.ordered(&self.uid) {
            if end.reason == "Evicted" {
                self.doors.event(pod, true, "Evicted", &end.message);
            }
            return Some(end);
        }
        let begun = !seen.is_empty() || meta::at(pod, &["status", "startTime"]).is_some_and(Value::is_string);
        if !begun && let Some(end) = self.doors.refuses(pod) {
            self.doors.event(pod, true, end.reason, end.message.trim_start_matches("Pod was rejected: "));
            return Some(end);
        }
        self.outgrown(pod, seen).await
    }

    fn tell_back_off(&self, pod: &Value, seen: &[ContainerSeen]) {
        let now = Timestamp::now();
        for (role, container) in pod::containers(pod) {
            let name = pod::name(container);
            if let Some(trouble) = self.memory.troubles.get(name)
                && trouble.shown(now).0 == "ImagePullBackOff"
            {
                let text = format!("Back-off pulling image {:?}", trouble.image);
                self.doors.container_event(pod, name, false, "BackOff", &text);
                self.doors.container_event(pod, name, true, "Failed", "Error: ImagePullBackOff");
                continue;
            }
            let Some(current) = actions::current(seen, name) else { continue };
            let State::Exited { code, .. } = current.state else { continue };
            if actions::restarts(pod, role, container, code) && !self.memory.delay_left(current, now).is_zero() {
                let text = format!("Back-off restarting failed container {name} in pod {}", pod::full_name(pod));
                self.doors.container_event(pod, name, true, "BackOff", &text);
            }
        }
    }

    async fn tell(&mut self, pod: &Arc<Value>, seen: &[ContainerSeen], end: Option<&End>) {
        let pod = self.latest().unwrap_or_else(|| pod.clone());
        let mut seen = seen.to_vec();
        self.quote(&pod, &mut seen).await;
        let seen = &seen[..];
        let sandbox = self.doors.runtime.find_sandbox(&self.uid).await;
        let patch =
            status::pod_status(&pod, sandbox.as_ref(), seen, &self.memory, &self.doors.node, end, Timestamp::now());
        if !status::differs(&pod, &patch) {
            return;
        }
        let mut patch = status::for_api(patch);
        patch["metadata"] = json!({"uid": self.uid});
        let (namespace, name) = (meta::namespace(&pod), meta::name(&pod));
        match self.doors.api.patch(&PODS, namespace, name, "status", &Patch::Strategic(patch)).await {
            Ok(now) => self.told = Some(Arc::new(now)),
            Err(status) if matches!(status.code, 404 | 409) => {}
            Err(status) => {
                tracing::warn!(pod = name, message = status.message, "cannot tell the pod's status; will try again");
                self.nudge_later();
            }
        }
    }

    fn nudge_later(&self) {
        let nudge = self.nudge.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RETRY).await;
            nudge.notify_one();
        });
    }

    // Preparing.

    async fn prepare(&mut self, pod: &Arc<Value>) -> Result<(), Refused> {
        if let Some(why) = crate::admit::unsupported(pod) {
            return Err(Refused::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}")));
        }
        let node = &self.doors.node;
        let mut sysctls = std::collections::BTreeMap::new();
        for sysctl in meta::list_at(pod, &["spec", "securityContext", "sysctls"]) {
            let text = |name: &str| sysctl[name].as_str().unwrap_or_default();
            let name = crate::sysctls::check(text("name"), pod::host_network(pod), pod["spec"]["hostIPC"] == true)
                .map_err(|message| Refused::new("SysctlForbidden", message))?;
            sysctls.insert(name, text("value").to_owned());
        }
        if !pod::host_network(pod)
            && let Some(problem) = self.doors.network.problem()
        {
            return Err(Refused::new("NetworkNotReady", format!("network is not ready: {problem}")));
        }
        let (send_limit, receive_limit) =
            network::bandwidth(pod).map_err(|message| Refused::new("FailedCreatePodSandBox", message))?;
        let refused =
            |why: String| Refused::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"));
        let fqdn = self.doors.fqdn(pod);
        let request = SandboxRequest {
            uid: self.uid.clone(),
            namespace: meta::namespace(pod).into(),
            name: meta::name(pod).into(),
            hostname: pod::kernel_name(pod, &node.name, &fqdn).map_err(refused)?,
            fqdn,
            handler: self.handler(pod).await.map_err(refused)?,
            ports: network::host_ports(pod),
            send_limit,
            receive_limit,
            host_network: pod::host_network(pod),
            host_ipc: pod["spec"]["hostIPC"] == true,
            resolv_conf: self.doors.resolv_conf(pod),
            aliases: meta::list_at(pod, &["spec", "hostAliases"])
                .iter()
                .map(|alias| {
                    let names = meta::list_at(alias, &["hostnames"]).iter().filter_map(Value::as_str);
                    (alias["ip"].as_str().unwrap_or_default().to_owned(), names.map(str::to_owned).collect())
                })
                .collect(),
            sysctls,
            class: qos::group(pod).class,
            privileged: pod::containers(pod).any(|(_, container)| container["securityContext"]["privileged"] == true),
        };
        let failed = |error: RuntimeError| {
            Refused::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"))
        };
        let sandbox = self.doors.runtime.sandbox(&request).await.map_err(failed)?;
        // After the sandbox: making that anew takes away what an earlier one left, its group as well.
        let group = qos::group(pod);
        if self.group.as_ref() != Some(&group) {
            self.doors.runtime.group(&group).await.map_err(failed)?;
            self.group = Some(group);
        }
        match self.mount(pod, &sandbox).await {
            Ok(()) => {
                self.keep_volumes();
                Ok(())
            }
            // What an earlier agent has prepared holds until the API is back.
            Err(Unready::Unfound(unfound)) if unfound.away && self.restore_volumes() => Ok(()),
            Err(Unready::Unfound(unfound)) => Err(Refused::new("FailedMount", unfound.message)),
            Err(Unready::Refused(refused)) => Err(refused),
        }
    }

    /// How the pod's runtime class says that it is run; empty is as usual. It never changes while there is a pod of it.
    async fn handler(&mut self, pod: &Value) -> Result<String, String> {
        let name = meta::str_at(pod, &["spec", "runtimeClassName"]);
        if name.is_empty() {
            return Ok(String::new());
        }
        if self.handler.is_none() {
            let classes = Gvr::new("node.k8s.io", "v1", "runtimeclasses");
            let class = self.doors.api.get(&classes, "", name).await;
            let class = class.map_err(|status| format!("failed to get runtime class {name:?}: {}", status.message))?;
            self.handler = Some(class["handler"].as_str().unwrap_or_default().to_owned());
        }
        Ok(self.handler.clone().unwrap_or_default())
    }

    /// Makes the pod's volumes ready.
    async fn mount(&mut self, pod: &Arc<Value>, sandbox: &Sandbox) -> Result<(), Unready> {
        let found = self.find(pod).await?;
        self.refresh_tokens(pod).await?;
        for volume in meta::list_at(pod, &["spec", "volumes"]) {
            let name = volume["name"].as_str().unwrap_or_default();
            if volume["image"].is_object() {
                if !self.volumes.contains_key(name) {
                    let path = self.image_volume(pod, volume, name, sandbox).await?;
                    self.volumes.insert(name.to_owned(), path);
                }
                continue;
            }
            let path = self.volume(pod, volume, name, sandbox, &found).await.map_err(|unfound| {
                let message = format!("MountVolume.SetUp failed for volume {name:?} : {}", unfound.message);
                Unfound { message, ..unfound }
            })?;
            self.volumes.insert(name.to_owned(), path);
        }
        Ok(())
    }
}

/// Tells people about a pod.
pub fn event_of(doors_api: &client::Client, telling: Telling) {
    let api = doors_api.clone();
    tokio::spawn(async move {
        let events = Gvr::new("", "v1", "events");
        let told = match telling {
            Telling::New(event) => api.create(&events, meta::namespace(&event), &event).await.map(drop),
            Telling::Count { namespace, name, patch } => {
                api.patch(&events, &namespace, &name, "", &Patch::Merge(patch)).await.map(drop)
            }
        };
        if let Err(status) = told {
            tracing::debug!(message = status.message, "an event was not told");
        }
    });
}
