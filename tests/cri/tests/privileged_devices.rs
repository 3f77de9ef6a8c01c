//! A device plugin, as its authors write one, on a node of `knarr up`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use blackbox::{Cloud, eventually};
use tokio::net::UnixListener;
use tokio::sync::watch;

/// The messages of v1beta1 that a plugin needs, by their public numbers.
mod wire {
    use std::collections::BTreeMap;

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Empty {}

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Options {
        #[prost(bool, tag = "1")]
        pub pre_start_required: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Register {
        #[prost(string, tag = "1")]
        pub version: String,
        #[prost(string, tag = "2")]
        pub endpoint: String,
        #[prost(string, tag = "3")]
        pub resource_name: String,
        #[prost(message, optional, tag = "4")]
        pub options: Option<Options>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Device {
        #[prost(string, tag = "1")]
        pub id: String,
        #[prost(string, tag = "2")]
        pub health: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Devices {
        #[prost(message, repeated, tag = "1")]
        pub devices: Vec<Device>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Ids {
        #[prost(string, repeated, tag = "1")]
        pub ids: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Allocate {
        #[prost(message, repeated, tag = "1")]
        pub containers: Vec<Ids>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Mount {
        #[prost(string, tag = "1")]
        pub container_path: String,
        #[prost(string, tag = "2")]
        pub host_path: String,
        #[prost(bool, tag = "3")]
        pub read_only: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Spec {
        #[prost(string, tag = "1")]
        pub container_path: String,
        #[prost(string, tag = "2")]
        pub host_path: String,
        #[prost(string, tag = "3")]
        pub permissions: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Allocated {
        #[prost(btree_map = "string, string", tag = "1")]
        pub envs: BTreeMap<String, String>,
        #[prost(message, repeated, tag = "2")]
        pub mounts: Vec<Mount>,
        #[prost(message, repeated, tag = "3")]
        pub devices: Vec<Spec>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AllAllocated {
        #[prost(message, repeated, tag = "1")]
        pub containers: Vec<Allocated>,
    }
}

const RESOURCE: &str = "example.com/null";

/// Offers two devices, each of which is the host's `/dev/null` under another name.
struct Plugin {
    health: watch::Sender<Vec<(&'static str, &'static str)>>,
    /// Ids with which containers were about to start.
    started: Arc<Mutex<Vec<String>>>,
    tokio: tokio::runtime::Runtime,
}

impl Plugin {
    fn start(directory: PathBuf) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (health, told) = watch::channel(vec![("one", "Healthy"), ("two", "Healthy")]);
        let started = Arc::new(Mutex::new(Vec::new()));
        let shared = directory.join("library");
        std::fs::write(&shared, "of the plugin\n").unwrap();
        let _inside = tokio.enter();
        let listener = UnixListener::bind(directory.join("null.sock")).unwrap();
        tokio.spawn(serve(listener, told, started.clone(), shared));
        let register = wire::Register {
            version: "v1beta1".into(),
            endpoint: "null.sock".into(),
            resource_name: RESOURCE.into(),
            options: Some(wire::Options { pre_start_required: true }),
        };
        let kubelet = grpc::Client::new(&directory.join("kubelet.sock")).unwrap();
        let registered: Result<wire::Empty, tonic::Status> =
            tokio.block_on(kubelet.unary("v1beta1.Registration", "Register", register.clone(), None));
        registered.unwrap();
        let wrong = wire::Register { resource_name: "cpu".into(), ..register };
        let refused: Result<wire::Empty, tonic::Status> =
            tokio.block_on(kubelet.unary("v1beta1.Registration", "Register", wrong, None));
        assert_eq!(refused.unwrap_err().message(), "the ResourceName \"cpu\" is invalid");
        drop(_inside);
        Self { health, started, tokio }
    }
}

async fn serve(
    listener: UnixListener,
    told: watch::Receiver<Vec<(&'static str, &'static str)>>,
    started: Arc<Mutex<Vec<String>>>,
    shared: PathBuf,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (told, started, shared) = (told.clone(), started.clone(), shared.clone());
        tokio::spawn(grpc::serve(stream, move |request| {
            let (told, started, shared) = (told.clone(), started.clone(), shared.clone());
            async move {
                let path = request.uri().path().to_owned();
                match path.as_str() {
                    "/v1beta1.DevicePlugin/ListAndWatch" => {
                        grpc::server_stream(request, move |_: wire::Empty| watching(told)).await
                    }
                    "/v1beta1.DevicePlugin/Allocate" => {
                        grpc::unary(request, move |asked| async move { Ok(allocate(asked, &shared)) }).await
                    }
                    "/v1beta1.DevicePlugin/PreStartContainer" => {
                        grpc::unary(request, move |asked: wire::Ids| async move {
                            started.lock().unwrap().extend(asked.ids);
                            Ok(wire::Empty {})
                        })
                        .await
                    }
                    _ => grpc::unimplemented(&path),
                }
            }
        }));
    }
}

fn watching(
    told: watch::Receiver<Vec<(&'static str, &'static str)>>,
) -> impl futures_util::Stream<Item = Result<wire::Devices, tonic::Status>> + Send {
    futures_util::stream::unfold((told, true), |(mut told, first)| async move {
        if !first {
            told.changed().await.ok()?;
        }
        let device = |(id, health): &(&str, &str)| wire::Device { id: (*id).into(), health: (*health).into() };
        let devices = told.borrow_and_update().iter().map(device).collect();
        Some((Ok(wire::Devices { devices }), (told, false)))
    })
}

fn allocate(asked: wire::Allocate, shared: &Path) -> wire::AllAllocated {
    let containers = asked.containers.into_iter().map(|wanted| wire::Allocated {
        envs: BTreeMap::from([("NULLS".to_owned(), wanted.ids.join(","))]),
        mounts: vec![wire::Mount {
            container_path: "/opt/library".into(),
            host_path: shared.display().to_string(),
            read_only: true,
        }],
        devices: wanted
            .ids
            .iter()
            .map(|id| wire::Spec {
                container_path: format!("/dev/null-{id}"),
                host_path: "/dev/null".into(),
                permissions: "rw".into(),
            })
            .collect(),
    });
    wire::AllAllocated { containers: containers.collect() }
}

fn pod(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: Never
    command: [sleep, '1000']
    resources: {{limits: {{{RESOURCE}: 1}}}}
"
    )
}

#[test]
fn a_pod_gets_the_devices_of_a_plugin() {
    let Some(cloud) = Cloud::start() else { return };
    let directory = cloud.world.root().join("device-plugins");
    eventually("plugins can register", || directory.join("kubelet.sock").exists());
    let plugin = Plugin::start(directory);
    let offered = |kind: &str| cloud.value("node/node", &format!("{{.status.{kind}.example\\.com/null}}"));
    eventually("the node offers them", || offered("allocatable") == "2" && offered("capacity") == "2");
    for name in ["a", "b", "c"] {
        cloud.apply(&pod(name));
    }
    for name in ["a", "b"] {
        cloud.wait_for(&format!("pod/{name}"), "{.status.phase}", "Running");
    }
    let nulls = |name: &str| cloud.run_in(name, "echo $NULLS").success().text();
    let mut given = [nulls("a"), nulls("b")];
    let first = given[0].clone();
    given.sort();
    assert_eq!(given, ["one", "two"], "each has its own");
    let script = format!(
        "echo x > /dev/null-{first} && test -c /dev/null-{first} && cat /opt/library && ls /dev | grep -c null-"
    );
    cloud.run_in("a", &script).success().stdout("of the plugin\n1\n");
    let mut started = plugin.started.lock().unwrap().clone();
    started.sort();
    assert_eq!(started, ["one", "two"]);
    cloud.wait_for("pod/c", "{.status.conditions[?(@.type==\"PodScheduled\")].status}", "False");

    // What one gives back the next one has.
    cloud.kubectl("delete pod a --wait=true --timeout=60s").success();
    cloud.wait_for("pod/c", "{.status.phase}", "Running");
    assert_eq!(nulls("c"), first);

    // What the plugin tells later, and its end.
    plugin.health.send(vec![("one", "Healthy"), ("two", "Unhealthy")]).unwrap();
    eventually("one is sick", || offered("allocatable") == "1" && offered("capacity") == "2");
    plugin.tokio.shutdown_background();
    eventually("the plugin is gone", || offered("allocatable") == "0");
    cloud.kubectl("delete pod b c --wait=true --timeout=60s").success();
}
