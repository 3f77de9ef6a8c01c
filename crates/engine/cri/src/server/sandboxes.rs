//! Pod sandboxes: made, looked at, stopped and removed.

use grpc::Outcome;
use pods::Runtime;
use serde_json::json;
use tonic::{Code, Status};

use super::records::{Record, is_id, random_id};
use super::{Server, now, refused, request, status};
use crate::wire::*;

/// This machine's name, for pods on its network.
pub(super) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

impl Server {
    /// Sandboxes that were half made when the process ended, and those that are gone though their records stand.
    pub(super) async fn clear_strays(&self) {
        let (runtime, records) = (&self.0.runtime, &self.0.records);
        for id in runtime.held().list().into_iter().filter(|id| is_id(id) && records.find(id).is_err()) {
            if let Err(error) = runtime.remove_sandbox(&id).await {
                tracing::warn!(sandbox = id, %error, "cannot remove what was left of a sandbox");
            }
        }
        for (id, record) in records.all() {
            if !record.stopped && runtime.find_sandbox(&id).await.is_none() {
                let _ = records.put(&id, Record { stopped: true, ..record });
            }
        }
    }

    pub(super) async fn run_sandbox(&self, asked: RunPodSandboxRequest) -> Outcome<RunPodSandboxResponse> {
        if !matches!(asked.runtime_handler.as_str(), "" | "runc" | "knarr") {
            let handler = asked.runtime_handler;
            return Err(Status::unknown(format!("no runtime for {handler:?} is configured")));
        }
        let config = asked.config.ok_or_else(|| Status::invalid_argument("sandbox config is missing"))?;
        let id = random_id()?;
        let wanted = request::sandbox(&id, &config, &host_name())?;
        if !config.log_directory.is_empty() {
            let made = std::fs::create_dir_all(&config.log_directory);
            made.map_err(|error| Status::unknown(format!("make {}: {error}", config.log_directory)))?;
        }
        let made = match self.0.runtime.sandbox(&wanted).await {
            Ok(made) => made,
            Err(error) => {
                let _ = self.0.runtime.remove_sandbox(&id).await;
                return Err(status(error));
            }
        };
        let record =
            Record { config, created_at: now(), ips: made.ips, stopped: false, handler: asked.runtime_handler };
        if let Err(error) = self.0.records.put(&id, record) {
            let _ = self.0.runtime.remove_sandbox(&id).await;
            return Err(error);
        }
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    pub(super) async fn stop_sandbox(&self, asked: StopPodSandboxRequest) -> Outcome<StopPodSandboxResponse> {
        if let Some((id, record)) = self.known(&asked.pod_sandbox_id)? {
            self.end_sandbox(&id, record).await?;
        }
        Ok(StopPodSandboxResponse {})
    }

    /// Stopping or removing what is not there (any more) is no error.
    fn known(&self, id: &str) -> Outcome<Option<(String, Record)>> {
        match self.0.records.find(id) {
            Err(error) if error.code() == Code::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    async fn end_sandbox(&self, id: &str, record: Record) -> Outcome<()> {
        for container in self.containers_of(Some(id)).await? {
            if container.state.status.is_running() {
                self.0.runtime.kill(&container.id.to_string()).await.map_err(status)?;
            }
        }
        self.0.runtime.remove_sandbox(id).await.map_err(status)?;
        if !record.stopped {
            self.0.records.put(id, Record { stopped: true, ..record })?;
        }
        Ok(())
    }

    pub(super) async fn remove_sandbox(&self, asked: RemovePodSandboxRequest) -> Outcome<RemovePodSandboxResponse> {
        if let Some((id, record)) = self.known(&asked.pod_sandbox_id)? {
            self.end_sandbox(&id, record).await?;
            for container in self.containers_of(Some(&id)).await? {
                self.0.runtime.remove(&container.id.to_string()).await.map_err(status)?;
            }
            self.0.records.remove(&id)?;
        }
        Ok(RemovePodSandboxResponse {})
    }

    pub(super) async fn sandbox_status(&self, asked: PodSandboxStatusRequest) -> Outcome<PodSandboxStatusResponse> {
        let (id, record) = self.0.records.find(&asked.pod_sandbox_id)?;
        let mut containers = Vec::new();
        for container in self.containers_of(Some(&id)).await? {
            match self.status_of(&container.id.to_string()).await {
                Err(error) if error.code() == Code::NotFound => {}
                seen => containers.push(seen?.0),
            }
        }
        let mut info = std::collections::BTreeMap::new();
        if asked.verbose {
            let place = self.0.runtime.held().path(&id);
            info.insert(
                "info".to_owned(),
                json!({"pid": 0, "directory": place, "netns": place.join("net")}).to_string(),
            );
        }
        let status = Some(sandbox_status(&id, &record));
        Ok(PodSandboxStatusResponse { status, info, containers_statuses: containers, timestamp: now() })
    }

    pub(super) async fn list_sandboxes(&self, asked: ListPodSandboxRequest) -> Outcome<ListPodSandboxResponse> {
        let filter = asked.filter.unwrap_or_default();
        let wanted = |id: &String, record: &Record| {
            (filter.id.is_empty() || id.starts_with(&filter.id))
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == state(record))
                && request::matches(&filter.label_selector, &record.config.labels)
        };
        let all = self.0.records.all().into_iter().filter(|(id, record)| wanted(id, record));
        let items = all.map(|(id, record)| PodSandbox {
            id,
            state: state(&record),
            metadata: record.config.metadata,
            created_at: record.created_at,
            labels: record.config.labels,
            annotations: record.config.annotations,
            runtime_handler: record.handler,
        });
        Ok(ListPodSandboxResponse { items: items.collect() })
    }

    /// The kubelet has changed the pod's control group itself before; nothing of the sandbox's own has limits.
    pub(super) async fn update_sandbox(
        &self,
        asked: UpdatePodSandboxResourcesRequest,
    ) -> Outcome<UpdatePodSandboxResourcesResponse> {
        self.0.records.find(&asked.pod_sandbox_id)?;
        Ok(UpdatePodSandboxResourcesResponse {})
    }

    /// Containers of one sandbox, or of all.
    pub(super) async fn containers_of(&self, sandbox: Option<&str>) -> Outcome<Vec<engine::ContainerSummary>> {
        let mut options = engine::ListOptions { all: true, ..engine::ListOptions::default() };
        options.filters.insert("label", format!("{}=container", pods::labels::TYPE));
        options.filters.insert(
            "label",
            match sandbox {
                Some(id) => format!("{}={id}", pods::labels::SANDBOX),
                None => pods::labels::SANDBOX.to_owned(),
            },
        );
        self.engine().list(options).await.map_err(refused)
    }
}

fn state(record: &Record) -> i32 {
    if record.stopped { PodSandboxState::NotReady as i32 } else { PodSandboxState::Ready as i32 }
}

pub(super) fn sandbox_status(id: &str, record: &Record) -> PodSandboxStatus {
    let mut ips = record.ips.iter().cloned();
    let network = PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| PodIp { ip }).collect(),
    };
    let namespaces = Namespace { options: Some(request::namespaces(&record.config)) };
    PodSandboxStatus {
        id: id.to_owned(),
        metadata: record.config.metadata.clone(),
        state: state(record),
        created_at: record.created_at,
        network: Some(network),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(namespaces) }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.handler.clone(),
    }
}
