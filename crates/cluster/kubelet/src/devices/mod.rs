//! Devices that plugins offer: they register at a socket of ours, tell what they have, and say what a container gets with a device.
//!
//! * `book` — which devices there are, and whose they are (pure)
//! * `wire` — the messages

mod book;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pods::{ContainerRequest, DeviceRequest, Mount};
use resources::Value;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tonic::Status;

use book::Book;
use wire::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// A plugin that has registered.
#[derive(Debug, Clone)]
struct Plugin {
    client: grpc::Client,
    options: Options,
    /// A plugin that registers anew is another one.
    number: u64,
}

#[derive(Debug, Default)]
struct Inner {
    book: Book,
    plugins: BTreeMap<String, Plugin>,
    registered: u64,
}

/// The devices of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Devices {
    /// Where plugins and we have our sockets.
    directory: PathBuf,
    /// Whose devices are whose, for the next agent.
    kept: PathBuf,
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

impl Devices {
    pub fn new(directory: &Path, root: &Path) -> Self {
        let kept = root.join("agent").join("devices.json");
        let mut inner = Inner::default();
        let before = std::fs::read(&kept).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        inner.book.restore(&before.unwrap_or_default());
        Self { directory: directory.to_owned(), kept, inner: Arc::new(Mutex::new(inner)), changed: Arc::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many devices of each resource there are, and how many of them are healthy.
    pub fn counts(&self) -> BTreeMap<String, (usize, usize)> {
        self.with(|inner| inner.book.counts())
    }

    /// Until something about them is different.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes registrations until it is dropped. Plugins that see the socket come up register, also those of before.
    pub async fn serve(self) {
        let socket = self.directory.join("kubelet.sock");
        let bound = std::fs::create_dir_all(&self.directory).and_then(|()| {
            let _ = std::fs::remove_file(&socket);
            UnixListener::bind(&socket)
        });
        let listener = match bound {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(socket = %socket.display(), %error, "device plugins cannot register");
                return;
            }
        };
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let devices = self.clone();
            tasks.spawn(grpc::serve(stream, move |request| {
                let devices = devices.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    if path != format!("/{REGISTRATION}/Register") {
                        return grpc::unimplemented(&path);
                    }
                    grpc::unary(request, move |asked| async move { devices.register(asked) }).await
                }
            }));
            while tasks.try_join_next().is_some() {}
        }
    }

    fn register(&self, asked: RegisterRequest) -> Result<Empty, Status> {
        if asked.version != VERSION {
            let text = format!(
                "requested API version {:?} is not supported by kubelet. Supported version is {VERSION:?}",
                asked.version
            );
            return Err(Status::invalid_argument(text));
        }
        let resource = asked.resource_name;
        if !book::is_extended(&resource) {
            return Err(Status::invalid_argument(format!("the ResourceName {resource:?} is invalid")));
        }
        if asked.endpoint.is_empty() || asked.endpoint.contains('/') {
            return Err(Status::invalid_argument(format!("the endpoint {:?} is no file name", asked.endpoint)));
        }
        let client = grpc::Client::new(&self.directory.join(&asked.endpoint))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let plugin = self.with(|inner| {
            inner.registered += 1;
            let plugin = Plugin { client, options: asked.options.unwrap_or_default(), number: inner.registered };
            inner.plugins.insert(resource.clone(), plugin.clone());
            plugin
        });
        tracing::info!(resource, endpoint = asked.endpoint, "a device plugin has registered");
        tokio::spawn(self.clone().follow(resource, plugin));
        Ok(Empty {})
    }

    /// What a plugin has, until it goes.
    async fn follow(self, resource: String, plugin: Plugin) {
        let listed = plugin.client.server_stream::<_, ListAndWatchResponse>(PLUGIN, "ListAndWatch", Empty {}).await;
        match listed {
            Ok(mut stream) => {
                while let Ok(Some(told)) = stream.message().await {
                    let devices =
                        told.devices.into_iter().map(|device| (device.id, device.health == HEALTHY)).collect();
                    self.with(|inner| inner.book.set(&resource, devices));
                    self.changed.notify_one();
                }
            }
            Err(status) => tracing::warn!(resource, message = status.message(), "a device plugin does not answer"),
        }
        let gone = self.with(|inner| {
            let same = inner.plugins.get(&resource).is_some_and(|now| now.number == plugin.number);
            if same {
                inner.plugins.remove(&resource);
                inner.book.lose(&resource);
            }
            same
        });
        if gone {
            tracing::info!(resource, "a device plugin has gone");
            self.changed.notify_one();
        }
    }

    /// Gives a container its devices, with what its plugins say belongs to them.
    pub async fn equip(&self, container: &Value, request: &mut ContainerRequest) -> Result<(), String> {
        for (resource, count) in book::wanted(container) {
            let (given, plugin) = self.with(|inner| {
                let given = inner.book.give(&request.pod_uid, &request.name, &resource, count);
                (given, inner.plugins.get(&resource).cloned())
            });
            let failed = |message: String| format!("Allocate failed due to {message}, which is unexpected");
            let ids: Vec<String> = given.map_err(failed)?.into_iter().collect();
            self.keep_file();
            let plugin = plugin.ok_or_else(|| failed(format!("no plugin for {resource}")))?;
            let containers = vec![ContainerAllocateRequest { ids: ids.clone() }];
            let allocated: Result<AllocateResponse, Status> =
                plugin.client.unary(PLUGIN, "Allocate", AllocateRequest { containers }, Some(PATIENCE)).await;
            let allocated = allocated.map_err(|status| failed(format!("the plugin's answer: {}", status.message())))?;
            let given = allocated.containers.into_iter().next().unwrap_or_default();
            add(given, request);
            if plugin.options.pre_start_required {
                let asked = PreStartContainerRequest { ids };
                let started: Result<Empty, Status> =
                    plugin.client.unary(PLUGIN, "PreStartContainer", asked, Some(PATIENCE)).await;
                started
                    .map_err(|status| format!("device plugin PreStartContainer rpc failed: {}", status.message()))?;
            }
        }
        Ok(())
    }

    /// Takes back what pods had that are gone.
    pub fn keep(&self, known: impl Fn(&str) -> bool) {
        let (before, after) = self.with(|inner| {
            let before = inner.book.to_value();
            inner.book.keep(known);
            (before, inner.book.to_value())
        });
        if before != after {
            self.keep_file();
        }
    }

    fn keep_file(&self) {
        let text = self.with(|inner| inner.book.to_value()).to_string();
        if let Err(error) = crate::certificates::write_secret(&self.kept, text.as_bytes()) {
            tracing::warn!(%error, "cannot keep whose devices are whose");
        }
    }
}

/// Pure: what a plugin says belongs to its devices, added to a container.
fn add(given: ContainerAllocateResponse, request: &mut ContainerRequest) {
    for (name, value) in given.envs {
        // What the pod says itself counts.
        if !request.env.iter().any(|(have, _)| *have == name) {
            request.env.push((name, value));
        }
    }
    request.mounts.extend(given.mounts.into_iter().map(|mount| Mount {
        source: mount.host_path.into(),
        target: mount.container_path,
        read_only: mount.read_only,
        recursive_read_only: false,
        propagation: "rprivate",
    }));
    request.devices.extend(given.devices.into_iter().map(|device| DeviceRequest {
        source: device.host_path,
        target: device.container_path,
        permissions: device.permissions,
    }));
    request.cdi_devices.extend(given.cdi_devices.into_iter().map(|device| device.name));
    request.annotations.extend(given.annotations);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_device_is_the_containers() {
        let mut request = ContainerRequest { env: vec![("MODE".into(), "mine".into())], ..ContainerRequest::default() };
        let given = ContainerAllocateResponse {
            envs: [("MODE", "theirs"), ("GPUS", "a")].map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            mounts: vec![wire::Mount { container_path: "/lib/x".into(), host_path: "/opt/x".into(), read_only: true }],
            devices: vec![DeviceSpec {
                container_path: "/dev/gpu".into(),
                host_path: "/dev/null".into(),
                permissions: "rw".into(),
            }],
            ..ContainerAllocateResponse::default()
        };
        add(given, &mut request);
        let env: Vec<String> = request.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["MODE=mine", "GPUS=a"]);
        assert_eq!((request.mounts[0].target.as_str(), request.mounts[0].read_only), ("/lib/x", true));
        assert_eq!(request.devices[0].target, "/dev/gpu");
        let cdi =
            ContainerAllocateResponse { cdi_devices: vec![CdiDevice { name: "v/x=1".into() }], ..Default::default() };
        add(cdi, &mut request);
        assert_eq!(request.cdi_devices, ["v/x=1"]);
    }
}
