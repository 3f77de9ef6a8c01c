//! One task a pod: looks at spec and runtime, decides, acts, tells.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apiserver::{DeleteOptions, Gvr, PODS, Patch};
use cache::{Kind, Telling};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::actions::{self, Actions, End, Health, Memory, Step, Trouble};
use crate::container::{self, Found, Volumes};
use crate::files::{self, TokenRequest};
use crate::manage::Doors;
use crate::pod::{self, Role};
use crate::probes::Probes;
use crate::runtime::{ContainerSeen, Runtime, RuntimeError, Sandbox, SandboxRequest, State};
use crate::{hooks, status};

/// How often what comes from the API's objects is looked at again.
const REFRESH: Duration = Duration::from_secs(30);
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
    tokens: BTreeMap<TokenRequest, (String, Timestamp)>,
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
            tokens: BTreeMap::new(),
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
        self.probes.follow(&self.doors, pod, &seen, &self.health, &self.nudge);
        self.memory.health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let decided = actions::pod_actions(pod, &seen, &self.memory, Timestamp::now());
        let Actions { steps, end, again } = decided;
        if let Some(end) = end {
            return self.end(pod, end).await;
        }
        let mut wait = again.unwrap_or(REFRESH);
        let starts = steps.iter().any(|step| matches!(step, Step::Start { .. }));
        let mut prepared = Ok(());
        if starts || !self.volumes.is_empty() {
            prepared = self.prepare(pod).await;
        }
        if let Err(refused) = &prepared {
            self.doors.event(pod, true, refused.reason, &refused.message);
            wait = wait.min(RETRY);
        }
        for step in steps {
            match step {
                Step::Forget { id } => self.doors.runtime.remove(&id).await?,
                Step::Stop { id, name, why } => self.stop_sick(pod, &id, &name, &why).await?,
                Step::Start { .. } if prepared.is_err() => {}
                Step::Start { role, name, attempt } => {
                    self.start(pod, role, &name, attempt).await;
                    wait = Duration::ZERO;
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
        self.doors.runtime.containers(Some(&self.uid)).await
    }

    fn tell_back_off(&self, pod: &Value, seen: &[ContainerSeen]) {
        let now = Timestamp::now();
        for (role, container) in pod::containers(pod) {
            let name = pod::name(container);
            let Some(current) = actions::current(seen, name) else { continue };
            let State::Exited { code, .. } = current.state else { continue };
            if actions::restarts(pod, role, container, code) && !actions::delay_left(current, now).is_zero() {
                let text = format!(
                    "Back-off restarting failed container {name} in pod {}_{}({})",
                    meta::name(pod),
                    meta::namespace(pod),
                    meta::uid(pod)
                );
                self.doors.event(pod, true, "BackOff", &text);
            }
        }
    }

    async fn tell(&mut self, pod: &Arc<Value>, seen: &[ContainerSeen], end: Option<&End>) {
        let pod = self.latest().unwrap_or_else(|| pod.clone());
        let sandbox = self.doors.runtime.find_sandbox(&self.uid).await;
        let patch =
            status::pod_status(&pod, sandbox.as_ref(), seen, &self.memory, &self.doors.node, end, Timestamp::now());
        if !status::differs(&pod, &patch) {
            return;
        }
        let mut patch = patch;
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
        let node = &self.doors.node;
        let mut sysctls = std::collections::BTreeMap::new();
        for sysctl in meta::list_at(pod, &["spec", "securityContext", "sysctls"]) {
            let text = |name: &str| sysctl[name].as_str().unwrap_or_default();
            let name = crate::sysctls::check(text("name"), pod::host_network(pod), pod["spec"]["hostIPC"] == true)
                .map_err(|message| Refused::new("SysctlForbidden", message))?;
            sysctls.insert(name, text("value").to_owned());
        }
        let request = SandboxRequest {
            uid: self.uid.clone(),
            namespace: meta::namespace(pod).into(),
            name: meta::name(pod).into(),
            hostname: pod::hostname(pod, &node.name),
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
        };
        let failed = |error: RuntimeError| {
            Refused::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"))
        };
        let sandbox = self.doors.runtime.sandbox(&request).await.map_err(failed)?;
        let found = self.find(pod).await.map_err(|message| Refused::new("FailedMount", message))?;
        self.refresh_tokens(pod).await.map_err(|message| Refused::new("FailedMount", message))?;
        for volume in meta::list_at(pod, &["spec", "volumes"]) {
            let name = volume["name"].as_str().unwrap_or_default();
            let path = self.volume(pod, volume, name, &sandbox, &found).await.map_err(|message| {
                Refused::new("FailedMount", format!("MountVolume.SetUp failed for volume {name:?} : {message}"))
            })?;
            self.volumes.insert(name.to_owned(), path);
        }
        Ok(())
    }

    /// ConfigMaps, Secrets and Services that the pod refers to.
    async fn find(&self, pod: &Value) -> Result<Found, String> {
        let (maps, secrets) = container::references(pod);
        let namespace = meta::namespace(pod);
        let mut found = Found::default();
        for (names, kind) in [(maps, Kind::ConfigMap), (secrets, Kind::Secret)] {
            for name in names {
                let object = match self.doors.api.get(&kind.gvr(), namespace, &name).await {
                    Ok(object) => Some(object),
                    Err(status) if status.code == 404 => None,
                    Err(status) => return Err(status.message),
                };
                let all = if kind == Kind::ConfigMap { &mut found.maps } else { &mut found.secrets };
                all.insert(name, object);
            }
        }
        let view = self.doors.view.read().unwrap_or_else(PoisonError::into_inner);
        let mut services: Vec<Value> =
            view.in_namespace(Kind::Service, namespace).map(|service| Value::clone(service)).collect();
        if namespace != "default" {
            services.extend(view.get(Kind::Service, "default", "kubernetes").map(|service| Value::clone(service)));
        }
        found.services = services;
        Ok(found)
    }

    /// Tokens are taken anew when four fifths of their time have passed.
    async fn refresh_tokens(&mut self, pod: &Value) -> Result<(), String> {
        let now = Timestamp::now();
        for wanted in files::tokens(pod) {
            if self.tokens.get(&wanted).is_some_and(|(_, until)| *until > now) {
                continue;
            }
            let audiences: Vec<&str> = [wanted.audience.as_str()].into_iter().filter(|a| !a.is_empty()).collect();
            let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
                "audiences": audiences, "expirationSeconds": wanted.seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta::name(pod), "uid": meta::uid(pod)}}});
            let account = match meta::str_at(pod, &["spec", "serviceAccountName"]) {
                "" => "default",
                account => account,
            };
            let accounts = Gvr::new("", "v1", "serviceaccounts");
            let made = self.doors.api.create_sub(&accounts, meta::namespace(pod), account, "token", &body).await;
            let token =
                made.map_err(|status| format!("fetch a token of service account {account}: {}", status.message))?;
            let text = meta::str_at(&token, &["status", "token"]).to_owned();
            let until = now.saturating_add(Duration::from_secs(wanted.seconds.unsigned_abs() * 4 / 5)).unwrap_or(now);
            self.tokens.insert(wanted, (text, until));
        }
        Ok(())
    }

    /// Makes a volume ready; its path on this machine.
    async fn volume(
        &self,
        pod: &Value,
        volume: &Value,
        name: &str,
        sandbox: &Sandbox,
        found: &Found,
    ) -> Result<PathBuf, String> {
        let group = pod["spec"]["securityContext"]["fsGroup"].as_u64().map(|group| group as u32);
        if files::is_made_here(volume) {
            let tokens = self.tokens.iter().map(|(wanted, (token, _))| (wanted.clone(), token.clone())).collect();
            let (node, allocatable) = (&self.doors.node, &self.doors.allocatable);
            let contents = files::contents(pod, volume, found, &tokens, Some(sandbox), node, allocatable)?;
            let path = sandbox.directory.join("volumes").join(name);
            let serial = Timestamp::now().as_nanosecond().unsigned_abs();
            files::put(&path, &contents, group, serial)
                .map_err(|error| format!("write {}: {error}", path.display()))?;
            return Ok(path);
        }
        if volume["emptyDir"].is_object() {
            let path = match volume["emptyDir"]["medium"].as_str() {
                Some("Memory") => sandbox.directory.join("volumes").join(name),
                _ => self.doors.pod_directory(&self.uid).join("volumes").join(name),
            };
            return shared_directory(&path, group).map(|()| path);
        }
        if volume["hostPath"].is_object() {
            let path = PathBuf::from(volume["hostPath"]["path"].as_str().unwrap_or_default());
            return host_path(&path, volume["hostPath"]["type"].as_str().unwrap_or_default()).map(|()| path);
        }
        let claim = match volume["persistentVolumeClaim"]["claimName"].as_str() {
            Some(claim) => Some(claim.to_owned()),
            None if volume["ephemeral"].is_object() => Some(format!("{}-{name}", meta::name(pod))),
            None => None,
        };
        if let Some(claim) = claim {
            let path = self.claimed(meta::namespace(pod), &claim).await?;
            if let Some(group) = group {
                let _ = std::os::unix::fs::chown(&path, None, Some(group));
                let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o2775));
            }
            return Ok(path);
        }
        let kind = volume.as_object().and_then(|fields| fields.keys().find(|field| *field != "name"));
        Err(format!("volumes of kind {} are not supported", kind.map_or("?", String::as_str)))
    }

    async fn claimed(&self, namespace: &str, name: &str) -> Result<PathBuf, String> {
        let claim = self.doors.api.get(&Kind::Claim.gvr(), namespace, name).await.map_err(|status| status.message)?;
        if meta::str_at(&claim, &["status", "phase"]) != "Bound" {
            return Err(format!("persistentvolumeclaim {name:?} is not bound yet"));
        }
        let volume = meta::str_at(&claim, &["spec", "volumeName"]);
        let volume = self.doors.api.get(&Kind::Volume.gvr(), "", volume).await.map_err(|status| status.message)?;
        for kind in ["local", "hostPath"] {
            if let Some(path) = volume["spec"][kind]["path"].as_str() {
                let path = PathBuf::from(path);
                if kind == "hostPath" {
                    host_path(&path, volume["spec"][kind]["type"].as_str().unwrap_or("DirectoryOrCreate"))?;
                }
                return Ok(path);
            }
        }
        Err(format!("volume {} is of a kind that is not supported", meta::name(&volume)))
    }

    // Starting and stopping.

    async fn start(&mut self, pod: &Arc<Value>, role: Role, name: &str, attempt: u32) {
        let found = pod::containers(pod).find(|(of, container)| *of == role && pod::name(container) == name);
        let Some((_, container)) = found else { return };
        match self.try_start(pod, container, attempt).await {
            Ok(id) => {
                self.memory.troubles.remove(name);
                self.doors.event(pod, false, "Created", &format!("Created container: {name}"));
                self.doors.event(pod, false, "Started", &format!("Started container {name}"));
                self.after_start(pod, container, id);
            }
            Err(refused) => {
                let tries = self.memory.troubles.get(name).map_or(0, |trouble| trouble.tries) + 1;
                let (mut reason, mut message) = (refused.reason, refused.message);
                self.doors.event(pod, true, "Failed", &format!("Error: {message}"));
                if reason == "ErrImagePull" && tries > 1 {
                    reason = "ImagePullBackOff";
                    let image = container["image"].as_str().unwrap_or_default();
                    message = format!("Back-off pulling image {image:?}: ErrImagePull: {message}");
                }
                tracing::debug!(
                    pod = meta::name(pod),
                    container = name,
                    reason,
                    message,
                    "a container was not started"
                );
                let at = Timestamp::now();
                self.memory.troubles.insert(name.to_owned(), Trouble { reason, message, tries, at });
            }
        }
    }

    async fn try_start(&self, pod: &Arc<Value>, container: &Value, attempt: u32) -> Result<String, Refused> {
        let runtime = &self.doors.runtime;
        let config = |message: String| Refused::new("CreateContainerConfigError", message);
        let sandbox =
            runtime.find_sandbox(&self.uid).await.ok_or_else(|| config("the pod's sandbox is gone".into()))?;
        let image = self.image(pod, container).await?;
        let found = self.find(pod).await.map_err(config)?;
        let (node, allocatable) = (&self.doors.node, &self.doors.allocatable);
        let env = container::environment(pod, container, &found, Some(&sandbox), node, allocatable).map_err(config)?;
        let mut number = 0;
        let mounts = container::mounts(container, &env, &self.volumes, |_, volume, below| {
            number += 1;
            let place = sandbox.directory.join("subpaths").join(format!("{}-{attempt}-{number}", pod::name(container)));
            sub_path(volume, below, &place)
        })
        .map_err(config)?;
        let mut request =
            container::request(pod, container, attempt, env, mounts, &image, &sandbox, node).map_err(config)?;
        if let Some((_, file)) = &request.message {
            let made = fs::write(file, "").and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(0o666)));
            made.map_err(|error| config(format!("make {}: {error}", file.display())))?;
        }
        if let Some(target) = container["targetContainerName"].as_str() {
            let seen = self.seen().await.map_err(|error| config(error.to_string()))?;
            request.pid_of = actions::current(&seen, target).map(|seen| seen.id.clone());
        }
        runtime.start(&request).await.map_err(|error| match error {
            RuntimeError::Invalid(message) => Refused::new("CreateContainerError", message),
            error => Refused::new("RunContainerError", error.to_string()),
        })
    }

    async fn image(&self, pod: &Value, container: &Value) -> Result<crate::ImageSeen, Refused> {
        let name = container["image"].as_str().unwrap_or_default();
        let pull = |message: String| Refused::new("ErrImagePull", message);
        let runtime = &self.doors.runtime;
        if let Some(image) = runtime.image(name).await.map_err(|error| pull(error.to_string()))? {
            self.doors.event(pod, false, "Pulled", &format!("Container image {name:?} already present on machine"));
            return Ok(image);
        }
        if container["imagePullPolicy"] == "Never" {
            let text = format!("Container image {name:?} is not present with pull policy of Never");
            return Err(Refused::new("ErrImageNeverPull", text));
        }
        self.doors.event(pod, false, "Pulling", &format!("Pulling image {name:?}"));
        runtime.pull(name).await.map_err(|error| pull(format!("failed to pull image {name:?}: {error}")))?;
        let image = runtime.image(name).await.map_err(|error| pull(error.to_string()))?;
        image.ok_or_else(|| pull(format!("image {name:?} is not there after it was pulled")))
    }

    fn after_start(&self, pod: &Arc<Value>, container: &Value, id: String) {
        let hook = container["lifecycle"]["postStart"].clone();
        if !hook.is_object() {
            return;
        }
        let (doors, pod, nudge, name) =
            (self.doors.clone(), pod.clone(), self.nudge.clone(), pod::name(container).to_owned());
        tokio::spawn(async move {
            if let Err(error) = hooks::run(&doors, &pod, &hook, &id).await {
                doors.event(&pod, true, "FailedPostStartHook", &format!("PostStartHook failed: {error}"));
                doors.event(&pod, false, "Killing", &format!("FailedPostStartHook: stopping container {name}"));
                let _ = doors.runtime.stop(&id, pod::grace(&pod)).await;
            }
            nudge.notify_one();
        });
    }

    async fn stop_sick(&self, pod: &Value, id: &str, name: &str, why: &str) -> Result<(), RuntimeError> {
        let found = pod::containers(pod).find(|(_, container)| pod::name(container) == name);
        self.doors.event(pod, false, "Killing", &format!("Container {name} {why}, will be restarted"));
        let own = found.and_then(|(_, container)| {
            ["livenessProbe", "startupProbe"]
                .iter()
                .find_map(|p| container[*p]["terminationGracePeriodSeconds"].as_u64())
        });
        let grace = own.map_or_else(|| pod::grace(pod), Duration::from_secs);
        if let Some((_, container)) = found {
            stop_one(&self.doors, pod, container, id, grace).await?;
        }
        Ok(())
    }

    /// Ends everything. `Ok(None)`: the API knows, and this worker has nothing more to do.
    async fn end(&mut self, pod: &Arc<Value>, end: Option<End>) -> Result<Option<Duration>, RuntimeError> {
        self.probes.end();
        let running = |seen: &ContainerSeen| matches!(seen.state, State::Running { .. });
        let seen = self.seen().await?;
        if seen.iter().any(running) {
            self.tell(pod, &seen, None).await;
            let grace = pod::grace(pod);
            let began = tokio::time::Instant::now();
            let stopping = stop_all(self.doors.clone(), pod.clone(), seen, grace);
            tokio::pin!(stopping);
            loop {
                tokio::select! {
                    stopped = &mut stopping => { stopped?; break }
                    changed = self.pod.changed() => {
                        // Somebody has less patience now, or the pod is gone altogether.
                        let left = self.pod.borrow_and_update().as_ref().map_or(Duration::ZERO, |pod| pod::grace(pod));
                        if left < grace || changed.is_err() {
                            tokio::select! {
                                stopped = &mut stopping => stopped?,
                                () = tokio::time::sleep_until(began + left) => {}
                            }
                            break;
                        }
                    }
                }
            }
            for container in self.seen().await?.iter().filter(|seen| running(seen)) {
                self.doors.runtime.kill(&container.id).await?;
            }
        }
        let seen = self.seen().await?;
        self.tell(pod, &seen, end.as_ref()).await;
        let Some(latest) = self.latest() else {
            self.clear_away(true).await;
            return Ok(None);
        };
        if !meta::is_terminating(&latest) {
            return Ok(Some(REFRESH));
        }
        self.clear_away(false).await;
        if !meta::finalizers(&latest).is_empty() {
            // Somebody else has to let go first; nothing is left here.
            let options = DeleteOptions { grace_secs: Some(0), propagation: String::new(), uid: self.uid.clone() };
            let _ = self.doors.api.delete(&PODS, meta::namespace(&latest), meta::name(&latest), &options).await;
            return Ok(Some(REFRESH));
        }
        let options = DeleteOptions { grace_secs: Some(0), propagation: String::new(), uid: self.uid.clone() };
        match self.doors.api.delete(&PODS, meta::namespace(&latest), meta::name(&latest), &options).await {
            Ok(_) => Ok(None),
            Err(status) if matches!(status.code, 404 | 409) => Ok(None),
            Err(status) => Err(RuntimeError::Failed(status.message)),
        }
    }

    /// Removes containers, sandbox and files of the pod.
    async fn clear_away(&mut self, kill: bool) {
        self.probes.end();
        let runtime = &self.doors.runtime;
        let attempt = async {
            for container in self.seen().await? {
                if kill && matches!(container.state, State::Running { .. }) {
                    runtime.kill(&container.id).await?;
                }
                runtime.remove(&container.id).await?;
            }
            runtime.remove_sandbox(&self.uid).await
        };
        if let Err(error) = attempt.await {
            tracing::warn!(pod = self.uid, %error, "cannot clear the pod away");
        }
        let directory = self.doors.pod_directory(&self.uid);
        if let Err(error) = fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %directory.display(), %error, "cannot remove the pod's files");
        }
        self.volumes.clear();
    }
}

/// Main containers together, then sidecars in the reverse of their order, all within the grace.
async fn stop_all<R: Runtime>(
    doors: Arc<Doors<R>>,
    pod: Arc<Value>,
    seen: Vec<ContainerSeen>,
    grace: Duration,
) -> Result<(), RuntimeError> {
    let began = tokio::time::Instant::now();
    let running = |name: &str| {
        actions::current(&seen, name)
            .filter(|seen| matches!(seen.state, State::Running { .. }))
            .map(|seen| seen.id.clone())
    };
    let mut first = tokio::task::JoinSet::new();
    for (role, container) in pod::containers(&pod) {
        if role == Role::Sidecar {
            continue;
        }
        let Some(id) = running(pod::name(container)) else { continue };
        doors.event(&pod, false, "Killing", &format!("Stopping container {}", pod::name(container)));
        let (doors, pod, container) = (doors.clone(), pod.clone(), container.clone());
        first.spawn(async move { stop_one(&doors, &pod, &container, &id, grace).await });
    }
    while let Some(stopped) = first.join_next().await {
        stopped.unwrap_or_else(|error| Err(RuntimeError::Failed(error.to_string())))?;
    }
    let sidecars: Vec<&Value> =
        pod::containers(&pod).filter(|(role, _)| *role == Role::Sidecar).map(|(_, container)| container).collect();
    for container in sidecars.into_iter().rev() {
        let Some(id) = running(pod::name(container)) else { continue };
        doors.event(&pod, false, "Killing", &format!("Stopping container {}", pod::name(container)));
        let left = grace.saturating_sub(began.elapsed()).max(Duration::from_secs(2).min(grace));
        stop_one(&doors, &pod, container, &id, left).await?;
    }
    Ok(())
}

/// The hook, then the signal, then the end, all within the grace.
async fn stop_one<R: Runtime>(
    doors: &Arc<Doors<R>>,
    pod: &Value,
    container: &Value,
    id: &str,
    grace: Duration,
) -> Result<(), RuntimeError> {
    let began = tokio::time::Instant::now();
    let hook = &container["lifecycle"]["preStop"];
    if hook.is_object() && !grace.is_zero() {
        match tokio::time::timeout(grace, hooks::run(doors, pod, hook, id)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => doors.event(pod, true, "FailedPreStopHook", &format!("PreStopHook failed: {error}")),
            Err(_) => doors.event(pod, true, "FailedPreStopHook", "PreStopHook did not end in time"),
        }
    }
    // A hook that took all of the time leaves the workload two seconds.
    let left = grace.saturating_sub(began.elapsed()).max(Duration::from_secs(2).min(grace));
    doors.runtime.stop(id, left).await
}

/// A directory that any user of the pod may write to.
fn shared_directory(path: &Path, group: Option<u32>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("make {}: {error}", path.display());
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(failed)?;
    }
    fs::DirBuilder::new().create(path).map_err(failed)?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(failed)?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

/// Checks, or makes, what `hostPath.type` says.
fn host_path(path: &Path, kind: &str) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let shown = path.display();
    let failed = |error: std::io::Error| format!("make {shown}: {error}");
    let have = fs::metadata(path).ok();
    let is = |wanted: &dyn Fn(&fs::FileType) -> bool| have.as_ref().is_some_and(|meta| wanted(&meta.file_type()));
    let refuse = |what: &str| Err(format!("hostPath type check failed: {shown} is not a {what}"));
    match kind {
        "" => match have {
            Some(_) => Ok(()),
            // Upstream leaves it to the runtime, which makes a directory.
            None => fs::create_dir_all(path).map_err(failed),
        },
        "DirectoryOrCreate" if have.is_none() => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)
        }
        "FileOrCreate" if have.is_none() => fs::write(path, "").map_err(failed),
        "Directory" | "DirectoryOrCreate" if is(&fs::FileType::is_dir) => Ok(()),
        "Directory" | "DirectoryOrCreate" => refuse("directory"),
        "File" | "FileOrCreate" if is(&fs::FileType::is_file) => Ok(()),
        "File" | "FileOrCreate" => refuse("file"),
        "Socket" if is(&|kind| kind.is_socket()) => Ok(()),
        "Socket" => refuse("socket file"),
        "CharDevice" if is(&|kind| kind.is_char_device()) => Ok(()),
        "CharDevice" => refuse("character device"),
        "BlockDevice" if is(&|kind| kind.is_block_device()) => Ok(()),
        "BlockDevice" => refuse("block device"),
        other => Err(format!("hostPath type {other:?} is not known")),
    }
}

/// A path below a volume, mounted at a place of ours by descriptor: what the workload does to links meanwhile leads nowhere.
fn sub_path(volume: &Path, below: &str, place: &Path) -> Result<PathBuf, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("subPath {below:?}: {what}: {error}");
    let root = linux::fs::Root::open(volume).map_err(|error| failed("open the volume", &error))?;
    let fd = match root.open_path(below) {
        Ok(fd) => fd,
        Err(error) if error.is(linux::Errno::NOENT) => {
            root.mkdir_all(below, rustix::fs::Mode::from_raw_mode(0o755)).map_err(|error| failed("make it", &error))?;
            root.open_path(below).map_err(|error| failed("open it", &error))?
        }
        Err(error) => return Err(failed("open it", &error)),
    };
    let stat = linux::fs::fstat(&fd).map_err(|error| failed("look at it", &error))?;
    let is_directory = linux::fs::file_type(&stat) == rustix::fs::FileType::Directory;
    if linux::mount::is_mount_point(place).unwrap_or(false) {
        linux::mount::unmount_lazily(place).map_err(|error| failed("unmount an older one", &error))?;
    }
    let parent = place.parent().unwrap_or(place);
    fs::create_dir_all(parent).map_err(|error| failed("make its place", &error))?;
    if is_directory {
        fs::create_dir_all(place).map_err(|error| failed("make its place", &error))?;
    } else {
        fs::write(place, "").map_err(|error| failed("make its place", &error))?;
    }
    let tree = linux::mount::clone_tree(&fd, true).map_err(|error| failed("take it", &error))?;
    linux::mount::attach_at(tree, place).map_err(|error| failed("mount it", &error))?;
    Ok(place.to_owned())
}

/// Tells people about a pod.
pub fn event_of(doors_api: &apiserver::Local, telling: Telling) {
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
