//! Containers: made, started, looked at, stopped and removed; programs run in them; their limits and their logs.

use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use engine::{ContainerState as Kept, Status as Stage};
use grpc::Outcome;
use pods::{ContainerRequest, Ran, Runtime};
use serde_json::json;
use tonic::Status;

use super::sandboxes::host_name;
use super::{Server, nanos, refused, request, status};
use crate::wire::*;

/// Of each stream of a program that is run, as the interface asks.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
const PROFILE_BYTES_MAX: u64 = 1 << 20;

impl Server {
    pub(super) async fn create_container(&self, asked: CreateContainerRequest) -> Outcome<CreateContainerResponse> {
        let (sandbox, record) = self.0.records.find(&asked.pod_sandbox_id)?;
        if record.stopped {
            return Err(Status::failed_precondition(format!("sandbox {sandbox} is not running")));
        }
        let config = asked.config.ok_or_else(|| Status::invalid_argument("container config is missing"))?;
        let profile = match request::seccomp_file(&config) {
            Some(path) => Some(read_profile(path)?),
            None => None,
        };
        let mut wanted = request::container(&sandbox, &record, &config, profile, &host_name())?;
        for (number, mount) in config.mounts.iter().enumerate() {
            if let Some(image) = &mount.image {
                let name = format!("{}-{}-{number}", wanted.name, wanted.attempt);
                wanted.mounts.push(self.image_mount(&wanted, mount, &image.image, &name).await?);
            }
        }
        if let Some(log) = wanted.foreign.as_ref().and_then(|foreign| foreign.log.as_ref())
            && let Some(directory) = log.parent()
        {
            let made = std::fs::create_dir_all(directory);
            made.map_err(|error| Status::unknown(format!("make {}: {error}", directory.display())))?;
        }
        let container_id = self.0.runtime.create(&wanted).await.map_err(status)?;
        Ok(CreateContainerResponse { container_id })
    }

    /// An image's files, mounted beside the sandbox's others.
    async fn image_mount(
        &self,
        container: &ContainerRequest,
        mount: &Mount,
        image: &str,
        name: &str,
    ) -> Outcome<pods::Mount> {
        if !mount.host_path.is_empty() {
            return Err(Status::invalid_argument("an image is mounted without a path of the host"));
        }
        let volume = ContainerRequest { name: name.to_owned(), image: image.to_owned(), ..container.clone() };
        let place = self.0.runtime.held().path(container.sandbox()).join("volumes").join(name);
        let mut source = self.0.runtime.image_volume(&volume, &place).await.map_err(status)?;
        if !mount.image_sub_path.is_empty() {
            let (below, whole) = (mount.image_sub_path.clone(), source);
            let place = self.0.runtime.held().path(container.sandbox()).join("subpaths").join(name);
            let mounted = tokio::task::spawn_blocking(move || pods::sub_path(&whole, &below, &place)).await;
            source = mounted.map_err(|error| Status::unknown(error.to_string()))?.map_err(Status::unknown)?;
        }
        let target = mount.container_path.clone();
        Ok(pods::Mount { source, target, read_only: true, recursive_read_only: false, propagation: "rprivate" })
    }

    pub(super) async fn start_container(&self, asked: StartContainerRequest) -> Outcome<StartContainerResponse> {
        let id = self.container_id(&asked.container_id).await?;
        match self.engine().start(&id).await {
            Err(error) if error.kind() == vocab::ErrorKind::NotModified => {
                Err(Status::failed_precondition(format!("container {id} runs already")))
            }
            other => other.map(|()| StartContainerResponse {}).map_err(refused),
        }
    }

    pub(super) async fn stop_container(&self, asked: StopContainerRequest) -> Outcome<StopContainerResponse> {
        let grace = Duration::from_secs(u64::try_from(asked.timeout).unwrap_or(0));
        if let Some(id) = self.known_container(&asked.container_id).await? {
            match grace.is_zero() {
                true => self.0.runtime.kill(&id).await.map_err(status)?,
                false => self.0.runtime.stop(&id, grace).await.map_err(status)?,
            }
        }
        Ok(StopContainerResponse {})
    }

    pub(super) async fn remove_container(&self, asked: RemoveContainerRequest) -> Outcome<RemoveContainerResponse> {
        if let Some(id) = self.known_container(&asked.container_id).await? {
            self.0.runtime.remove(&id).await.map_err(status)?;
        }
        Ok(RemoveContainerResponse {})
    }

    /// A container of a kubelet's by its id or a unique beginning of it; others are none of its business.
    pub(super) async fn container_id(&self, reference: &str) -> Outcome<String> {
        let missing =
            || Status::not_found(format!("an error occurred when try to find container {reference:?}: not found"));
        let view = self.engine().inspect(reference, false).await.map_err(refused)?;
        let id = view.id.to_string();
        (id.starts_with(reference) && request::named(&view.config.labels).is_some()).then_some(id).ok_or_else(missing)
    }

    async fn known_container(&self, reference: &str) -> Outcome<Option<String>> {
        match self.container_id(reference).await {
            Err(error) if error.code() == tonic::Code::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    pub(super) async fn list_containers(&self, asked: ListContainersRequest) -> Outcome<ListContainersResponse> {
        let filter = asked.filter.unwrap_or_default();
        let sandbox = match filter.pod_sandbox_id.as_str() {
            "" => None,
            id => match self.0.records.find(id) {
                Ok((id, _)) => Some(id),
                // Its containers may be there still.
                Err(_) => Some(id.to_owned()),
            },
        };
        let all = self.containers_of(sandbox.as_deref()).await?.into_iter();
        let containers = all.filter_map(|summary| {
            let named = request::named(&summary.labels)?;
            Some(Container {
                id: summary.id.to_string(),
                pod_sandbox_id: named.sandbox,
                metadata: Some(named.metadata),
                image: Some(named.image),
                image_ref: summary.image_id.to_string(),
                state: state(&summary.state),
                created_at: nanos(summary.created_at),
                labels: named.labels,
                annotations: summary.annotations,
                image_id: summary.image_id.to_string(),
            })
        });
        let wanted = |container: &Container| {
            (filter.id.is_empty() || container.id.starts_with(&filter.id))
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == container.state)
                && request::matches(&filter.label_selector, &container.labels)
        };
        Ok(ListContainersResponse { containers: containers.filter(wanted).collect() })
    }

    pub(super) async fn container_status(&self, asked: ContainerStatusRequest) -> Outcome<ContainerStatusResponse> {
        let (status, pid) = self.status_of(&asked.container_id).await?;
        let mut info = std::collections::BTreeMap::new();
        if asked.verbose {
            info.insert("info".to_owned(), json!({"pid": pid}).to_string());
        }
        Ok(ContainerStatusResponse { status: Some(status), info })
    }

    /// How a container is, and its first process.
    pub(super) async fn status_of(&self, reference: &str) -> Outcome<(ContainerStatus, i32)> {
        let view = self.engine().inspect(reference, false).await.map_err(refused)?;
        let missing = || Status::not_found(format!("container {reference:?} is not found"));
        let named = request::named(&view.config.labels).ok_or_else(missing)?;
        let image_id = view.image_id.to_string();
        let digests = self.engine().image_inspect(&image_id).await.map(|image| image.digests).unwrap_or_default();
        let own = self.0.runtime.held().path(&named.sandbox);
        let mounts = view.host.mounts.iter().filter(|mount| !std::path::Path::new(&mount.source).starts_with(&own));
        let mounts = mounts.map(|mount| {
            let bind = mount.bind.clone().unwrap_or_default();
            Mount {
                container_path: mount.target.clone(),
                host_path: mount.source.clone(),
                readonly: mount.read_only,
                propagation: match bind.propagation.as_str() {
                    "rslave" => MountPropagation::HostToContainer as i32,
                    "rshared" => MountPropagation::Bidirectional as i32,
                    _ => MountPropagation::Private as i32,
                },
                recursive_read_only: bind.read_only_force_recursive,
                ..Mount::default()
            }
        });
        let (code, reason) = outcome(&view.state);
        let resources = &view.host.resources;
        let linux = LinuxContainerResources {
            cpu_period: resources.cpu_period_micros,
            cpu_quota: resources.cpu_quota_micros,
            cpu_shares: resources.cpu_shares,
            memory_limit_in_bytes: resources.memory_bytes,
            oom_score_adj: i64::from(view.host.oom_score_adj),
            cpuset_cpus: resources.cpuset_cpus.clone(),
            cpuset_mems: resources.cpuset_mems.clone(),
            ..LinuxContainerResources::default()
        };
        let at = |at: Option<jiff::Timestamp>| at.map_or(0, nanos);
        let ended = state(&view.state) == ContainerState::Exited as i32;
        let seen = ContainerStatus {
            id: view.id.to_string(),
            metadata: Some(named.metadata),
            state: state(&view.state),
            created_at: nanos(view.created_at),
            started_at: at(view.state.started_at),
            finished_at: if ended { at(view.state.finished_at.or(Some(view.created_at))) } else { 0 },
            exit_code: code,
            image: Some(named.image),
            image_ref: digests.first().map_or_else(|| image_id.clone(), |digest| super::images::canonical(digest)),
            reason: reason.into(),
            message: view.state.error.clone(),
            labels: named.labels,
            annotations: view.host.annotations.clone(),
            mounts: mounts.collect(),
            log_path: view.paths.log.to_string_lossy().into_owned(),
            resources: Some(ContainerResources { linux: Some(linux) }),
            image_id,
            stop_signal: signal_number(view.config.stop_signal.as_deref().unwrap_or("SIGTERM")),
        };
        Ok((seen, view.state.pid))
    }

    pub(super) async fn update_container(
        &self,
        asked: UpdateContainerResourcesRequest,
    ) -> Outcome<UpdateContainerResourcesResponse> {
        let id = self.container_id(&asked.container_id).await?;
        let wanted = asked.linux.unwrap_or_default();
        super::request::check_limits(&wanted)?;
        let resources = engine::Resources {
            cpu_shares: wanted.cpu_shares,
            cpu_quota_micros: wanted.cpu_quota,
            cpu_period_micros: wanted.cpu_period,
            memory_bytes: wanted.memory_limit_in_bytes,
            memory_swap_bytes: match wanted.memory_swap_limit_in_bytes {
                0 => wanted.memory_limit_in_bytes,
                limit => limit,
            },
            cpuset_cpus: wanted.cpuset_cpus,
            cpuset_mems: wanted.cpuset_mems,
            ..engine::Resources::default()
        };
        let update = engine::UpdateRequest { resources, ..engine::UpdateRequest::default() };
        self.engine().update(&id, update).await.map_err(refused)?;
        Ok(UpdateContainerResourcesResponse {})
    }

    /// The keeper finds out by itself that the file has another name; whoever waits for the new one finds it at once.
    pub(super) async fn reopen_log(&self, asked: ReopenContainerLogRequest) -> Outcome<ReopenContainerLogResponse> {
        let view = self.engine().inspect(&asked.container_id, false).await.map_err(refused)?;
        if !view.state.status.is_running() {
            return Err(Status::failed_precondition("container is not running"));
        }
        let path = view.paths.log;
        let opened = std::fs::OpenOptions::new().append(true).create(true).mode(0o640).open(&path);
        opened.map_err(|error| Status::unknown(format!("open {}: {error}", path.display())))?;
        Ok(ReopenContainerLogResponse {})
    }

    pub(super) async fn exec_sync(&self, asked: ExecSyncRequest) -> Outcome<ExecSyncResponse> {
        if asked.cmd.is_empty() {
            return Err(Status::invalid_argument("cmd must not be empty"));
        }
        let id = self.container_id(&asked.container_id).await?;
        let limit = u64::try_from(asked.timeout).ok().filter(|secs| *secs > 0).map(Duration::from_secs);
        match self.0.runtime.run(&id, &asked.cmd, limit, OUTPUT_BYTES_MAX).await.map_err(status)? {
            Some(Ran { stdout, stderr, code }) => {
                Ok(ExecSyncResponse { stdout: stdout.into(), stderr: stderr.into(), exit_code: code })
            }
            None => {
                let text = format!("command {:?} timed out: timeout {}s exceeded", asked.cmd, asked.timeout);
                Err(Status::deadline_exceeded(text))
            }
        }
    }
}

fn read_profile(path: &str) -> Outcome<String> {
    let failed = |error: &dyn std::fmt::Display| Status::invalid_argument(format!("seccomp profile {path:?}: {error}"));
    let length = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
    if length > PROFILE_BYTES_MAX {
        return Err(failed(&"it is too long"));
    }
    std::fs::read_to_string(path).map_err(|error| failed(&error))
}

pub(super) fn state(kept: &Kept) -> i32 {
    let state = match kept.status {
        Stage::Created if kept.error.is_empty() => ContainerState::Created,
        Stage::Running | Stage::Paused | Stage::Restarting => ContainerState::Running,
        Stage::Created | Stage::Exited | Stage::Dead | Stage::Removing => ContainerState::Exited,
    };
    state as i32
}

/// Exit code and its short reason.
fn outcome(kept: &Kept) -> (i32, &'static str) {
    match (state(kept) == ContainerState::Exited as i32, kept.exit_code) {
        (false, _) => (0, ""),
        (true, code) if kept.oom_killed => (code, "OOMKilled"),
        (true, code) if !kept.error.is_empty() => (if code == 0 { 128 } else { code }, "StartError"),
        (true, 0) => (0, "Completed"),
        (true, code) => (code, "Error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_end_has_a_reason() {
        let kept = |status, exit_code, oom_killed, error: &str| Kept {
            status,
            exit_code,
            oom_killed,
            error: error.into(),
            ..Kept::default()
        };
        for (kept, expected) in [
            (kept(Stage::Created, 0, false, ""), (ContainerState::Created, 0, "")),
            (kept(Stage::Running, 0, false, ""), (ContainerState::Running, 0, "")),
            (kept(Stage::Paused, 0, false, ""), (ContainerState::Running, 0, "")),
            (kept(Stage::Exited, 0, false, ""), (ContainerState::Exited, 0, "Completed")),
            (kept(Stage::Exited, 3, false, ""), (ContainerState::Exited, 3, "Error")),
            (kept(Stage::Exited, 137, true, ""), (ContainerState::Exited, 137, "OOMKilled")),
            (kept(Stage::Created, 127, false, "no such file"), (ContainerState::Exited, 127, "StartError")),
            (kept(Stage::Created, 0, false, "no root"), (ContainerState::Exited, 128, "StartError")),
        ] {
            let (code, reason) = outcome(&kept);
            assert_eq!((state(&kept), code, reason), (expected.0 as i32, expected.1, expected.2), "{kept:?}");
        }
    }
}
