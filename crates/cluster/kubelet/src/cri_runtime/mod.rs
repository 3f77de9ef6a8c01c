//! Any runtime that speaks the container runtime interface, behind the same door as the engine.
//!
//! * `config` — what a pod's sandbox and its containers are in the interface, and what it says of them (pure)
//! * `logs` — files of log lines, as the runtime writes them and we rotate them
//! * `watch` — what changes: the runtime's events, or looking again and again where it has none
//!
//! Sandboxes and containers are found again by the labels that every kubelet sets. What is the kubelet's own part is kept here: the
//! pod's small files beneath `<run>/foreign`, and its control group.

mod config;
mod logs;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cri::Client;
use cri::wire::*;
use pods::{
    ContainerRequest, ContainerSeen, GroupRequest, Groups, ImageSeen, Limits, LogLine, LogQuery, Login, NetworkConfig,
    Pipe, Process, Runtime, RuntimeError, Sandbox, SandboxRequest, Sandboxes, Traffic, Used, labels,
};
use streaming::session::Asked;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::pod_logs::PodLogs;
use crate::status::RuntimeName;

const PROBE_OUTPUT_MAX: usize = 10 << 10;
/// The sandbox as it was asked for, among the pod's files: the runtime wants to be told again with every container.
const CONFIG_FILE: &str = "sandbox";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct CriRuntime {
    client: Client,
    /// The pods' small files.
    files: Sandboxes,
    groups: Groups,
    /// Where the logs of all pods are.
    logs: PathBuf,
}

fn told(status: Status) -> RuntimeError {
    let message = status.message().to_owned();
    match status.code() {
        Code::NotFound => RuntimeError::NotFound(message),
        Code::InvalidArgument => RuntimeError::Invalid(message),
        _ => RuntimeError::Failed(message),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(RuntimeError::Failed(format!("a thread ended: {error}"))))
}

type Answer<T> = Result<T, RuntimeError>;

impl CriRuntime {
    /// `socket`: where the runtime listens. `run`: the instance's; `tag`: the instance's, for its control groups.
    pub fn new(socket: &Path, logs: &PodLogs, run: &Path, tag: &str) -> Answer<Self> {
        let client = Client::new(socket)
            .map_err(|error| RuntimeError::Invalid(format!("{} is no socket: {error}", socket.display())))?;
        let (files, groups) = (Sandboxes::new(&run.join("foreign")), Groups::new(tag));
        Ok(Self { client, files, groups, logs: logs.pods() })
    }

    /// An error if nobody answers.
    pub async fn name(&self) -> Answer<RuntimeName> {
        let version: VersionResponse = self.ask("Version", VersionRequest { version: "0.1.0".into() }).await?;
        Ok(RuntimeName { name: version.runtime_name, version: version.runtime_version })
    }

    async fn ask<Q, R>(&self, method: &str, message: Q) -> Answer<R>
    where
        Q: prost::Message + Default + 'static,
        R: prost::Message + Default + 'static,
    {
        self.client.runtime(method, message).await.map_err(told)
    }

    /// Sandboxes that kubelets have made, of one pod or of all.
    async fn found_sandboxes(&self, uid: Option<&str>) -> Answer<Vec<PodSandbox>> {
        let label_selector = uid.map(|uid| (labels::POD_UID.to_owned(), uid.to_owned())).into_iter().collect();
        let filter = Some(PodSandboxFilter { label_selector, ..PodSandboxFilter::default() });
        let found: ListPodSandboxResponse = self.ask("ListPodSandbox", ListPodSandboxRequest { filter }).await?;
        Ok(found.items.into_iter().filter(|item| item.labels.contains_key(labels::POD_UID)).collect())
    }

    /// The pod's sandbox that runs.
    async fn ready(&self, uid: &str) -> Answer<PodSandbox> {
        let found = self.found_sandboxes(Some(uid)).await?.into_iter();
        let ready = found.filter(|item| item.state == PodSandboxState::Ready as i32).max_by_key(|item| item.created_at);
        ready.ok_or_else(|| RuntimeError::NotFound(format!("pod {uid} has no sandbox: it does not run")))
    }

    async fn status(&self, id: &str) -> Answer<ContainerStatus> {
        let asked = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let status: ContainerStatusResponse = self.ask("ContainerStatus", asked).await?;
        status.status.ok_or_else(|| RuntimeError::Failed(format!("the runtime says nothing of container {id}")))
    }

    async fn stats(&self, id: &str) -> Answer<ContainerStats> {
        let asked = ContainerStatsRequest { container_id: id.to_owned() };
        let stats: ContainerStatsResponse = self.ask("ContainerStats", asked).await?;
        Ok(stats.stats.unwrap_or_default())
    }

    async fn listed(&self, label_selector: BTreeMap<String, String>) -> Answer<Vec<Container>> {
        let filter = Some(ContainerFilter { label_selector, ..ContainerFilter::default() });
        let found: ListContainersResponse = self.ask("ListContainers", ListContainersRequest { filter }).await?;
        Ok(found.containers.into_iter().filter(|found| found.labels.contains_key(labels::POD_UID)).collect())
    }

    /// The pod's own files with the sandbox's description in them.
    async fn prepare(&self, request: &SandboxRequest, config: &PodSandboxConfig) -> Answer<()> {
        let (files, asked, config) = (self.files.clone(), request.clone(), config.clone());
        blocking(move || {
            files.prepare_files(&asked)?;
            let path = files.path(&asked.uid).join(CONFIG_FILE);
            std::fs::write(&path, prost::Message::encode_to_vec(&config))
                .map_err(|error| RuntimeError::Failed(format!("write {}: {error}", path.display())))
        })
        .await
    }

    fn config(&self, uid: &str) -> Answer<PodSandboxConfig> {
        let path = self.files.path(uid).join(CONFIG_FILE);
        let failed = |error: &dyn std::fmt::Display| RuntimeError::Failed(format!("read {}: {error}", path.display()));
        let bytes = std::fs::read(&path).map_err(|error| failed(&error))?;
        prost::Message::decode(bytes.as_slice()).map_err(|error| failed(&error))
    }
}

impl Runtime for CriRuntime {
    async fn network(&self, config: &NetworkConfig) -> Answer<()> {
        let network_config = Some(cri::wire::NetworkConfig { pod_cidr: config.subnets.join(",") });
        let runtime_config = Some(RuntimeConfig { network_config });
        self.ask::<_, UpdateRuntimeConfigResponse>(
            "UpdateRuntimeConfig",
            UpdateRuntimeConfigRequest { runtime_config },
        )
        .await?;
        let status: StatusResponse = self.ask("Status", StatusRequest { verbose: false }).await?;
        let conditions = status.status.unwrap_or_default().conditions;
        match conditions.into_iter().find(|condition| condition.kind == "NetworkReady" && !condition.status) {
            Some(condition) => Err(RuntimeError::Failed(condition.message)),
            None => Ok(()),
        }
    }

    async fn sandbox(&self, request: &SandboxRequest) -> Answer<Sandbox> {
        if let Some(sandbox) = self.find_sandbox(&request.uid).await {
            return Ok(sandbox);
        }
        // What has ended, or was left half made by a crash.
        let attempt = self.found_sandboxes(Some(&request.uid)).await?.into_iter();
        let attempt = attempt.filter_map(|item| item.metadata).map(|metadata| metadata.attempt + 1).max().unwrap_or(0);
        self.remove_sandbox(&request.uid).await?;
        let parent = self.groups.path(request.class, &request.uid);
        let config = config::sandbox(request, attempt, &parent, &self.logs);
        self.prepare(request, &config).await?;
        std::fs::create_dir_all(&config.log_directory)
            .map_err(|error| RuntimeError::Failed(format!("make {}: {error}", config.log_directory)))?;
        let asked = RunPodSandboxRequest { config: Some(config), runtime_handler: request.handler.clone() };
        let made: RunPodSandboxResponse = self.ask("RunPodSandbox", asked).await?;
        let asked = PodSandboxStatusRequest { pod_sandbox_id: made.pod_sandbox_id, verbose: false };
        let status: PodSandboxStatusResponse = self.ask("PodSandboxStatus", asked).await?;
        let ips = if request.host_network { Vec::new() } else { config::addresses(&status) };
        let (files, asked) = (self.files.clone(), request.clone());
        blocking(move || files.finish(&asked, ips)).await
    }

    async fn find_sandbox(&self, uid: &str) -> Option<Sandbox> {
        let kept = self.files.find(uid)?;
        self.ready(uid).await.ok().map(|_| kept)
    }

    async fn remove_sandbox(&self, uid: &str) -> Answer<()> {
        for item in self.found_sandboxes(Some(uid)).await? {
            let id = item.id;
            let stop = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
            self.ask::<_, StopPodSandboxResponse>("StopPodSandbox", stop).await?;
            let remove = RemovePodSandboxRequest { pod_sandbox_id: id };
            self.ask::<_, RemovePodSandboxResponse>("RemovePodSandbox", remove).await?;
        }
        let (files, groups, uid) = (self.files.clone(), self.groups.clone(), uid.to_owned());
        blocking(move || {
            files.remove(&uid)?;
            groups.remove(&uid)
        })
        .await
    }

    async fn sandboxes(&self) -> Vec<String> {
        let found = self.found_sandboxes(None).await.unwrap_or_default();
        let mut all: Vec<String> =
            found.into_iter().filter_map(|item| item.labels.get(labels::POD_UID).cloned()).collect();
        all.extend(self.files.list());
        all.sort();
        all.dedup();
        all
    }

    async fn group(&self, request: &GroupRequest) -> Answer<()> {
        let (groups, request) = (self.groups.clone(), request.clone());
        blocking(move || groups.make(&request).map(drop)).await
    }

    async fn share_class(&self, class: &'static str, shares: i64) -> Answer<()> {
        let groups = self.groups.clone();
        blocking(move || groups.share(class, shares)).await
    }

    async fn remove_groups(&self) -> Answer<()> {
        let groups = self.groups.clone();
        blocking(move || groups.remove_all()).await
    }

    async fn limit(&self, id: &str, limits: &Limits) -> Answer<()> {
        let linux = Some(config::resources(limits, 0));
        let asked =
            UpdateContainerResourcesRequest { container_id: id.to_owned(), linux, annotations: BTreeMap::new() };
        self.ask::<_, UpdateContainerResourcesResponse>("UpdateContainerResources", asked).await.map(drop)
    }

    async fn limits(&self, id: &str) -> Answer<Limits> {
        let resources = self.status(id).await?.resources.and_then(|resources| resources.linux).unwrap_or_default();
        Ok(config::limits(&resources))
    }

    async fn image(&self, name: &str) -> Answer<Option<ImageSeen>> {
        let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
        let asked = ImageStatusRequest { image, verbose: false };
        let status: ImageStatusResponse = self.client.image("ImageStatus", asked).await.map_err(told)?;
        Ok(status.image.map(config::image))
    }

    async fn images(&self) -> Answer<Vec<ImageSeen>> {
        let listed: Result<ListImagesResponse, _> =
            self.client.image("ListImages", ListImagesRequest { filter: None }).await;
        Ok(listed.map_err(told)?.images.into_iter().map(config::image).collect())
    }

    async fn pull(&self, name: &str, login: &Login) -> Answer<()> {
        let auth = (*login != Login::default()).then(|| AuthConfig {
            username: login.username.clone(),
            password: login.password.clone(),
            identity_token: login.identity_token.clone(),
            ..AuthConfig::default()
        });
        let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
        let asked = PullImageRequest { image, auth, sandbox_config: None };
        self.client.image::<_, PullImageResponse>("PullImage", asked).await.map(drop).map_err(told)
    }

    /// The runtime mounts it into the container itself: here is only said which image is meant.
    async fn image_volume(&self, request: &ContainerRequest, place: &Path) -> Answer<PathBuf> {
        let image = self.image(&request.image).await?;
        let image = image.ok_or_else(|| RuntimeError::NotFound(format!("no image {:?}", request.image)))?.id;
        let file = pods::image_note(&self.files.path(&request.pod_uid), &request.name);
        let written = std::fs::create_dir_all(place).and_then(|()| std::fs::write(&file, image));
        written.map_err(|error| RuntimeError::Failed(format!("write {}: {error}", file.display())))?;
        Ok(place.to_owned())
    }

    async fn remove_image(&self, id: &str) -> Answer<()> {
        let asked = RemoveImageRequest { image: Some(ImageSpec { image: id.to_owned(), ..ImageSpec::default() }) };
        self.client.image::<_, RemoveImageResponse>("RemoveImage", asked).await.map(drop).map_err(told)
    }

    async fn containers(&self, pod_uid: Option<&str>) -> Answer<Vec<ContainerSeen>> {
        let selector = pod_uid.map(|uid| (labels::POD_UID.to_owned(), uid.to_owned())).into_iter().collect();
        let mut seen = Vec::new();
        for listed in self.listed(selector).await? {
            match self.status(&listed.id).await {
                Ok(status) => seen.extend(config::seen(&status)),
                // Gone meanwhile.
                Err(RuntimeError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        seen.sort_by(|a, b| (&a.name, a.attempt).cmp(&(&b.name, b.attempt)));
        Ok(seen)
    }

    async fn start(&self, request: &ContainerRequest) -> Answer<String> {
        let sandbox = self.ready(&request.pod_uid).await?;
        let sandbox_config = self.config(&request.pod_uid)?;
        // An earlier try may have got as far as making it.
        let selector = [(labels::POD_UID, &request.pod_uid), (labels::CONTAINER, &request.name)];
        let selector = selector.map(|(name, value)| (name.to_owned(), value.clone())).into();
        let made = self.listed(selector).await?.into_iter().find(|made| {
            made.state == ContainerState::Created as i32
                && made.metadata.as_ref().is_some_and(|metadata| metadata.attempt == request.attempt)
        });
        let id = match made {
            Some(made) => made.id,
            None => {
                let directory = self.files.path(&request.pod_uid);
                let image = self.image(&request.image).await?.map_or_else(|| request.image.clone(), |image| image.id);
                let (mut config, profile) = config::container(request, &image, &directory);
                config.mounts.iter_mut().for_each(|mount| name_image(&directory, mount));
                if let Some((path, text)) = profile {
                    std::fs::write(&path, text)
                        .map_err(|error| RuntimeError::Failed(format!("write {}: {error}", path.display())))?;
                }
                let asked = CreateContainerRequest {
                    pod_sandbox_id: sandbox.id,
                    config: Some(config),
                    sandbox_config: Some(sandbox_config),
                };
                self.ask::<_, CreateContainerResponse>("CreateContainer", asked).await?.container_id
            }
        };
        vocab::crash::point("kubelet.start.created");
        let start = StartContainerRequest { container_id: id.clone() };
        self.ask::<_, StartContainerResponse>("StartContainer", start).await?;
        Ok(id)
    }

    async fn stop(&self, id: &str, grace: Duration) -> Answer<()> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let asked = StopContainerRequest { container_id: id.to_owned(), timeout };
        let stopped: Result<StopContainerResponse, _> = self.client.runtime_within("StopContainer", asked, grace).await;
        match stopped {
            Err(status) if status.code() != Code::NotFound => Err(told(status)),
            _ => Ok(()),
        }
    }

    async fn kill(&self, id: &str) -> Answer<()> {
        self.stop(id, Duration::ZERO).await
    }

    async fn remove(&self, id: &str) -> Answer<()> {
        let asked = RemoveContainerRequest { container_id: id.to_owned() };
        match self.ask::<_, RemoveContainerResponse>("RemoveContainer", asked).await {
            Err(error) if !matches!(error, RuntimeError::NotFound(_)) => Err(error),
            _ => Ok(()),
        }
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Answer<(i32, String)> {
        let secs = i64::try_from(timeout.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX);
        let asked = ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: secs };
        let ran: Result<ExecSyncResponse, _> = self.client.runtime_within("ExecSync", asked, timeout).await;
        match ran {
            Ok(ran) => {
                let mut text = [&ran.stdout[..], &ran.stderr[..]].concat();
                text.truncate(PROBE_OUTPUT_MAX);
                Ok((ran.exit_code, String::from_utf8_lossy(&text).into_owned()))
            }
            Err(status) if status.code() == Code::DeadlineExceeded => {
                Err(RuntimeError::Failed(format!("command timed out after {}s", timeout.as_secs())))
            }
            Err(status) => Err(told(status)),
        }
    }

    async fn exec(&self, id: &str, command: &[String], tty: bool, stdin: bool) -> Answer<Process> {
        let asked =
            ExecRequest { container_id: id.to_owned(), cmd: command.to_vec(), tty, stdin, stdout: true, stderr: !tty };
        let given: ExecResponse = self.ask("Exec", asked).await?;
        let asked = Asked { stdin, stdout: true, stderr: !tty, tty, command: Vec::new() };
        streaming::client::process(&given.url, &asked).await
    }

    async fn attach(&self, id: &str, stdin: bool) -> Answer<Process> {
        // The runtime wants to be told what it knows.
        let tty = self.status(id).await?.annotations.contains_key(config::TTY);
        let asked = AttachRequest { container_id: id.to_owned(), stdin, tty, stdout: true, stderr: !tty };
        let given: AttachResponse = self.ask("Attach", asked).await?;
        let asked = Asked { stdin, stdout: true, stderr: !tty, tty, command: Vec::new() };
        streaming::client::process(&given.url, &asked).await
    }

    async fn logs(&self, id: &str, query: &LogQuery) -> Answer<mpsc::Receiver<LogLine>> {
        let path = PathBuf::from(self.status(id).await?.log_path);
        let (runtime, id) = (self.clone(), id.to_owned());
        let runs = move || {
            let (runtime, id) = (runtime.clone(), id.clone());
            async move { runtime.status(&id).await.is_ok_and(|seen| seen.state == ContainerState::Running as i32) }
        };
        Ok(logs::read(path, query.clone(), runs))
    }

    async fn connect(&self, uid: &str, port: u16) -> Answer<Box<dyn Pipe>> {
        let sandbox = self.ready(uid).await?;
        let asked = PortForwardRequest { pod_sandbox_id: sandbox.id, port: vec![i32::from(port)] };
        let given: PortForwardResponse = self.ask("PortForward", asked).await?;
        streaming::client::connect(&given.url, port).await
    }

    async fn written(&self, id: &str) -> Answer<u64> {
        let layer = self.stats(id).await?.writable_layer.unwrap_or_default();
        Ok(layer.used_bytes.map_or(0, |bytes| bytes.value))
    }

    async fn used(&self, id: &str) -> Answer<Option<Used>> {
        match self.stats(id).await {
            Ok(stats) => Ok(config::used(&stats)),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn traffic(&self, uid: &str) -> Answer<BTreeMap<String, Traffic>> {
        let asked = PodSandboxStatsRequest { pod_sandbox_id: self.ready(uid).await?.id };
        let stats: PodSandboxStatsResponse = self.ask("PodSandboxStats", asked).await?;
        let network = stats.stats.and_then(|stats| stats.linux).and_then(|linux| linux.network).unwrap_or_default();
        Ok(config::traffic(network))
    }

    async fn changes(&self) -> Answer<mpsc::Receiver<String>> {
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(watch::run(self.clone(), sender));
        Ok(receiver)
    }
}

/// A mount of what stands for an image names the image instead, and the path within it.
fn name_image(directory: &Path, mount: &mut Mount) {
    let Some((image, below)) = pods::image_of(directory, Path::new(&mount.host_path)) else { return };
    mount.image = Some(ImageSpec { image, ..ImageSpec::default() });
    mount.image_sub_path = below.to_string_lossy().into_owned();
    mount.host_path.clear();
    mount.readonly = true;
}
