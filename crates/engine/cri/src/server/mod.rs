//! The services of the interface over the engine.
//!
//! * `records` — sandboxes as they are remembered in the run directory
//! * `sandboxes`, `containers`, `images`, `stats`, `events` — what is done, one file a noun
//! * `request` — what a sandbox and a container are to the engine (pure)
//! * `streams` — exec, attach and port-forward at an address that is given away with a ticket

mod containers;
mod events;
mod images;
mod records;
mod request;
mod sandboxes;
mod stats;
mod streams;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use engine::Engine;
use futures_util::stream::once;
use grpc::{Answer, Outcome, server_stream, unary, unimplemented};
use http::Request;
use hyper::body::Incoming;
use pods::{EngineRuntime, NetworkConfig, Runtime, RuntimeError};
use tokio::net::UnixListener;
use tonic::Status;

use crate::wire::*;
use records::Records;
use stats::Samples;
use streams::Tickets;

const RUNTIME: &str = "runtime.v1.RuntimeService";
const IMAGE: &str = "runtime.v1.ImageService";
const NAME: &str = "knarr";

/// How the interface is served.
#[derive(Debug, Clone)]
pub struct Config {
    /// The instance's run directory.
    pub run: PathBuf,
    /// The pods' subnets until a kubelet names others; the first of these that nobody on this machine uses.
    pub subnets: Vec<String>,
    pub version: String,
}

/// The interface. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: EngineRuntime,
    records: Records,
    tickets: Tickets,
    samples: Samples,
    /// Why pods have no network.
    problem: Mutex<Option<String>>,
    config: Config,
}

/// An error as the interface tells it.
fn status(error: RuntimeError) -> Status {
    match error {
        RuntimeError::NotFound(message) => Status::not_found(message),
        RuntimeError::Invalid(message) => Status::invalid_argument(message),
        RuntimeError::Failed(message) => Status::unknown(message),
    }
}

fn refused(error: engine::Error) -> Status {
    match error.kind() {
        vocab::ErrorKind::NotFound => Status::not_found(error.to_string()),
        vocab::ErrorKind::Invalid | vocab::ErrorKind::Unsupported => Status::invalid_argument(error.to_string()),
        _ => Status::unknown(error.to_string()),
    }
}

fn now() -> i64 {
    nanos(jiff::Timestamp::now())
}

/// Billionths of a second since 1970.
fn nanos(at: jiff::Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

impl Server {
    /// Finds what an earlier process left, and gives pods a network.
    pub async fn open(runtime: EngineRuntime, config: Config) -> std::io::Result<Self> {
        let records = Records::open(&config.run)?;
        let tickets = Tickets::open().await?;
        let problem = Mutex::new(None);
        let server = Self(Arc::new(Inner { runtime, records, tickets, samples: Samples::default(), problem, config }));
        server.clear_strays().await;
        server.first_network().await;
        Ok(server)
    }

    fn engine(&self) -> &Engine {
        self.0.runtime.engine()
    }

    /// Answers on a socket and at the address for streams, until dropped.
    pub async fn serve(self, listener: UnixListener) {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(streams::serve(self.clone()));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tasks.spawn(async move {
                        grpc::serve(stream, move |request| server.clone().answer(request)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of a kubelet");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
            while tasks.try_join_next().is_some() {}
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let (service, method) = path.split_once('/').unwrap_or_default();
        tracing::debug!(method, "a kubelet asks");
        macro_rules! one {
            ($work:ident) => {
                unary(request, move |asked| async move {
                    self.$work(asked).await.inspect_err(|status| {
                        tracing::debug!(asked = stringify!($work), code = ?status.code(), message = status.message(), "refused");
                    })
                })
                .await
            };
        }
        // A list as a stream of lists: here of one, whose message has the same form.
        macro_rules! streamed {
            ($work:ident) => {
                server_stream(request, move |asked| once(async move { self.$work(asked).await })).await
            };
        }
        match (service, method) {
            (RUNTIME, "Version") => one!(version),
            (RUNTIME, "Status") => one!(status),
            (RUNTIME, "RuntimeConfig") => one!(runtime_config),
            (RUNTIME, "UpdateRuntimeConfig") => one!(update_runtime_config),
            (RUNTIME, "RunPodSandbox") => one!(run_sandbox),
            (RUNTIME, "StopPodSandbox") => one!(stop_sandbox),
            (RUNTIME, "RemovePodSandbox") => one!(remove_sandbox),
            (RUNTIME, "PodSandboxStatus") => one!(sandbox_status),
            (RUNTIME, "ListPodSandbox") => one!(list_sandboxes),
            (RUNTIME, "UpdatePodSandboxResources") => one!(update_sandbox),
            (RUNTIME, "CreateContainer") => one!(create_container),
            (RUNTIME, "StartContainer") => one!(start_container),
            (RUNTIME, "StopContainer") => one!(stop_container),
            (RUNTIME, "RemoveContainer") => one!(remove_container),
            (RUNTIME, "ListContainers") => one!(list_containers),
            (RUNTIME, "ContainerStatus") => one!(container_status),
            (RUNTIME, "UpdateContainerResources") => one!(update_container),
            (RUNTIME, "ReopenContainerLog") => one!(reopen_log),
            (RUNTIME, "ExecSync") => one!(exec_sync),
            (RUNTIME, "Exec") => one!(exec),
            (RUNTIME, "Attach") => one!(attach),
            (RUNTIME, "PortForward") => one!(port_forward),
            (RUNTIME, "ContainerStats") => one!(container_stats),
            (RUNTIME, "ListContainerStats") => one!(list_container_stats),
            (RUNTIME, "PodSandboxStats") => one!(sandbox_stats),
            (RUNTIME, "ListPodSandboxStats") => one!(list_sandbox_stats),
            (RUNTIME, "ListMetricDescriptors") => one!(metric_descriptors),
            (RUNTIME, "ListPodSandboxMetrics") => one!(sandbox_metrics),
            (RUNTIME, "GetContainerEvents") => server_stream(request, move |_: GetEventsRequest| self.events()).await,
            (RUNTIME, "StreamPodSandboxes") => streamed!(list_sandboxes),
            (RUNTIME, "StreamContainers") => streamed!(list_containers),
            (RUNTIME, "StreamContainerStats") => streamed!(list_container_stats),
            (RUNTIME, "StreamPodSandboxStats") => streamed!(list_sandbox_stats),
            (RUNTIME, "StreamPodSandboxMetrics") => streamed!(sandbox_metrics),
            (IMAGE, "StreamImages") => streamed!(list_images),
            (IMAGE, "ListImages") => one!(list_images),
            (IMAGE, "ImageStatus") => one!(image_status),
            (IMAGE, "PullImage") => one!(pull_image),
            (IMAGE, "RemoveImage") => one!(remove_image),
            (IMAGE, "ImageFsInfo") => one!(image_fs_info),
            _ => unimplemented(&path),
        }
    }

    async fn version(&self, _: VersionRequest) -> Outcome<VersionResponse> {
        Ok(VersionResponse {
            // Of the kubelet's side of the interface; it has been this since the beginning.
            version: "0.1.0".into(),
            runtime_name: NAME.into(),
            runtime_version: self.0.config.version.clone(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self, asked: StatusRequest) -> Outcome<StatusResponse> {
        let problem = self.0.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ready = RuntimeCondition { kind: "RuntimeReady".into(), status: true, ..RuntimeCondition::default() };
        let network = RuntimeCondition {
            kind: "NetworkReady".into(),
            status: problem.is_none(),
            reason: if problem.is_none() { String::new() } else { "NetworkPluginNotReady".into() },
            message: problem.unwrap_or_default(),
        };
        let mut info = std::collections::BTreeMap::new();
        if asked.verbose {
            let text = serde_json::json!({"run": self.0.config.run, "subnets": self.0.config.subnets});
            info.insert("config".to_owned(), text.to_string());
        }
        let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
        Ok(StatusResponse {
            status: Some(RuntimeStatus { conditions: vec![ready, network] }),
            info,
            runtime_handlers: vec![RuntimeHandler { name: String::new(), features: Some(features) }],
            features: Some(RuntimeFeatures::default()),
        })
    }

    async fn runtime_config(&self, _: RuntimeConfigRequest) -> Outcome<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs as i32 };
        Ok(RuntimeConfigResponse { linux: Some(linux) })
    }

    /// The node's subnets for pods, one or one of each family.
    async fn update_runtime_config(&self, asked: UpdateRuntimeConfigRequest) -> Outcome<UpdateRuntimeConfigResponse> {
        let network = asked.runtime_config.and_then(|config| config.network_config).unwrap_or_default();
        let subnets: Vec<String> = network.pod_cidr.split(',').map(|text| text.trim().to_owned()).collect();
        let subnets: Vec<String> = subnets.into_iter().filter(|text| !text.is_empty()).collect();
        if !subnets.is_empty() {
            self.set_network(subnets).await.map_err(status)?;
        }
        Ok(UpdateRuntimeConfigResponse {})
    }

    async fn set_network(&self, subnets: Vec<String>) -> Result<(), RuntimeError> {
        let config = NetworkConfig { cluster: subnets.clone(), subnets };
        let made = self.0.runtime.network(&config).await;
        let problem = made.as_ref().err().map(ToString::to_string);
        *self.0.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        made
    }

    /// The first subnet that is free. Where pods have addresses already they keep their network.
    async fn first_network(&self) {
        if !self.0.records.all().is_empty() && !self.engine().pods_plugged().is_empty() {
            return;
        }
        for subnet in &self.0.config.subnets {
            match self.set_network(subnet.split(',').map(str::to_owned).collect()).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(subnet, %error, "pods cannot have this subnet"),
            }
        }
        tracing::warn!("pods have no network until a kubelet names a subnet");
    }
}
