//! A pod's whole life over the container runtime interface of `knarr engine --cri`, as a kubelet drives it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use blackbox::{Registry, World, eventually, is_root};
use cri::Client;
use cri::wire::*;
use tonic::Code;

/// An engine with the interface, and a client of it.
struct Kubelet {
    world: World,
    client: Client,
    tokio: tokio::runtime::Runtime,
}

impl Kubelet {
    fn start() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let world = World::start_with(&["--cri", "default"]);
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = {
            let _inside = tokio.enter();
            Client::new(&world.run_dir().join("cri.sock")).unwrap()
        };
        Some(Self { world, client, tokio })
    }

    /// A kubelet whose connection has broken makes another.
    fn connect_again(&mut self) {
        let _inside = self.tokio.enter();
        self.client = Client::new(&self.world.run_dir().join("cri.sock")).unwrap();
    }

    #[track_caller]
    fn ask<Q: prost_message::Message, R: prost_message::Message>(&self, method: &str, message: Q) -> R {
        let answer = self.try_ask(method, message);
        answer.unwrap_or_else(|status| panic!("{method}: {status:?}\n{}", self.world.engine_log()))
    }

    fn try_ask<Q: prost_message::Message, R: prost_message::Message>(
        &self,
        method: &str,
        message: Q,
    ) -> Result<R, tonic::Status> {
        match method {
            "ListImages" | "ImageStatus" | "PullImage" | "RemoveImage" | "ImageFsInfo" => {
                self.tokio.block_on(self.client.image(method, message))
            }
            _ => self.tokio.block_on(self.client.runtime(method, message)),
        }
    }

    fn sandbox(&self, config: PodSandboxConfig) -> String {
        let asked = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        self.ask::<_, RunPodSandboxResponse>("RunPodSandbox", asked).pod_sandbox_id
    }

    /// Makes and starts it.
    fn container(&self, sandbox: &str, config: ContainerConfig) -> String {
        let asked =
            CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(config), sandbox_config: None };
        let id = self.ask::<_, CreateContainerResponse>("CreateContainer", asked).container_id;
        self.ask::<_, StartContainerResponse>("StartContainer", StartContainerRequest { container_id: id.clone() });
        id
    }

    fn status(&self, container: &str) -> ContainerStatus {
        let asked = ContainerStatusRequest { container_id: container.into(), verbose: false };
        self.ask::<_, ContainerStatusResponse>("ContainerStatus", asked).status.unwrap()
    }

    fn exec(&self, container: &str, script: &str, timeout: i64) -> Result<ExecSyncResponse, tonic::Status> {
        let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
        self.try_ask("ExecSync", ExecSyncRequest { container_id: container.into(), cmd, timeout })
    }

    /// What a script prints.
    #[track_caller]
    fn run(&self, container: &str, script: &str) -> String {
        let ran = self.exec(container, script, 10).unwrap();
        assert_eq!(ran.exit_code, 0, "{script}: {ran:?}");
        String::from_utf8(ran.stdout.to_vec()).unwrap()
    }

    fn sandboxes(&self, filter: PodSandboxFilter) -> Vec<PodSandbox> {
        self.ask::<_, ListPodSandboxResponse>("ListPodSandbox", ListPodSandboxRequest { filter: Some(filter) }).items
    }

    fn containers(&self, filter: ContainerFilter) -> Vec<Container> {
        self.ask::<_, ListContainersResponse>("ListContainers", ListContainersRequest { filter: Some(filter) })
            .containers
    }

    fn remove(&self, sandbox: &str) {
        let id = sandbox.to_owned();
        self.ask::<_, StopPodSandboxResponse>("StopPodSandbox", StopPodSandboxRequest { pod_sandbox_id: id.clone() });
        self.ask::<_, RemovePodSandboxResponse>("RemovePodSandbox", RemovePodSandboxRequest { pod_sandbox_id: id });
    }
}

/// Sandboxes are no containers: whatever the test has come to, none outlives it.
impl Drop for Kubelet {
    fn drop(&mut self) {
        self.connect_again();
        let listed: Result<ListPodSandboxResponse, _> =
            self.try_ask("ListPodSandbox", ListPodSandboxRequest { filter: None });
        for sandbox in listed.map(|listed| listed.items).unwrap_or_default() {
            let asked = RemovePodSandboxRequest { pod_sandbox_id: sandbox.id };
            let _ = self.try_ask::<_, RemovePodSandboxResponse>("RemovePodSandbox", asked);
        }
    }
}

/// What a message has to be, without a dependency on its own crate.
mod prost_message {
    pub trait Message: prost::Message + Default + 'static {}
    impl<T: prost::Message + Default + 'static> Message for T {}
}

fn pod(name: &str, logs: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: logs.display().to_string(),
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        annotations: BTreeMap::from([("note".to_owned(), "kept as it is".to_owned())]),
        dns_config: Some(DnsConfig { servers: vec!["192.0.2.53".into()], ..DnsConfig::default() }),
        ..PodSandboxConfig::default()
    }
}

/// A container of busybox with a process namespace of its own.
fn script(name: &str, script: &str) -> ContainerConfig {
    let options = NamespaceOption { pid: NamespaceMode::Container as i32, ..NamespaceOption::default() };
    let context =
        LinuxContainerSecurityContext { namespace_options: Some(options), ..LinuxContainerSecurityContext::default() };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: "busybox".into(), ..ImageSpec::default() }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        envs: vec![KeyValue { key: "GREETING".into(), value: "hello".into() }],
        labels: BTreeMap::from([("tier".to_owned(), name.to_owned())]),
        annotations: BTreeMap::from([("hash".to_owned(), "1f".to_owned())]),
        log_path: format!("{name}/0.log"),
        linux: Some(LinuxContainerConfig { resources: None, security_context: Some(context) }),
        ..ContainerConfig::default()
    }
}

const WAIT: &str = "trap 'exit 3' TERM; while :; do sleep 0.1; done";

#[test]
fn a_pod_lives_its_whole_life() {
    let Some(mut kubelet) = Kubelet::start() else { return };
    let version: VersionResponse = kubelet.ask("Version", VersionRequest::default());
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("knarr", "v1"));
    let status: StatusResponse = kubelet.ask("Status", StatusRequest { verbose: true });
    let conditions = status.status.unwrap().conditions;
    assert!(conditions.iter().all(|condition| condition.status), "{conditions:?}");

    let logs = kubelet.world.dir().join("logs");
    let sandbox = kubelet.sandbox(pod("web", &logs));
    let other = kubelet.sandbox(pod("other", &kubelet.world.dir().join("other")));
    let status: PodSandboxStatusResponse =
        kubelet.ask("PodSandboxStatus", PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true });
    let seen = status.status.unwrap();
    assert_eq!((seen.state, seen.annotations["note"].as_str()), (PodSandboxState::Ready as i32, "kept as it is"));
    let address = seen.network.unwrap().ip;
    assert!(address.starts_with("10."), "{address}");
    let of = |label: &str| PodSandboxFilter {
        label_selector: BTreeMap::from([("app".to_owned(), label.to_owned())]),
        ..PodSandboxFilter::default()
    };
    assert_eq!(kubelet.sandboxes(of("web")).iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), [&sandbox]);
    assert!(kubelet.sandboxes(of("nobody")).is_empty());

    let web = kubelet.container(&sandbox, script("web", &format!("echo out; echo err >&2; {WAIT}")));
    let near = kubelet.container(&other, script("near", WAIT));
    let seen = kubelet.status(&web);
    assert_eq!((seen.state, seen.labels["tier"].as_str()), (ContainerState::Running as i32, "web"));
    assert_eq!((seen.labels.len(), seen.annotations["hash"].as_str()), (1, "1f"), "nothing is added");
    assert_eq!(seen.log_path, logs.join("web/0.log").display().to_string());
    let log = || std::fs::read_to_string(logs.join("web/0.log")).unwrap_or_default();
    eventually("both lines are in the log", || log().lines().count() == 2);
    for (line, stream) in [("out", "stdout"), ("err", "stderr")] {
        assert!(log().lines().any(|have| have.ends_with(&format!(" {stream} F {line}"))), "{}", log());
    }

    // What it is in: its own name, resolver, network and processes.
    assert_eq!(
        kubelet.run(&web, "hostname; echo $GREETING; cat /etc/resolv.conf"),
        "web\nhello\nnameserver 192.0.2.53\n"
    );
    assert!(kubelet.run(&web, "ip -4 addr show eth0").contains(&address));
    assert_eq!(kubelet.run(&near, &format!("ping -c 1 -W 5 {address} > /dev/null && echo reached")), "reached\n");
    assert!(kubelet.run(&web, "tr '\\0' ' ' < /proc/1/cmdline").starts_with("sh -c"));
    let apart = kubelet.exec(&web, "echo one; echo two >&2; exit 4", 10).unwrap();
    assert_eq!((&apart.stdout[..], &apart.stderr[..], apart.exit_code), (&b"one\n"[..], &b"two\n"[..], 4));
    assert_eq!(kubelet.exec(&web, "exec sleep 4321", 1).unwrap_err().code(), Code::DeadlineExceeded);
    eventually("what took too long is ended", || !kubelet.run(&web, "ps -o args").contains("4321"));
    kubelet.world.knarr(["doctor"]).success();

    // The kubelet rotates the log: it moves the file and asks for another.
    std::fs::rename(logs.join("web/0.log"), logs.join("web/0.log.old")).unwrap();
    let reopen = ReopenContainerLogRequest { container_id: web.clone() };
    kubelet.ask::<_, ReopenContainerLogResponse>("ReopenContainerLog", reopen);
    kubelet.run(&web, "echo later > /proc/1/fd/1");
    eventually("a line is in the new log", || log().ends_with(" stdout F later\n"));
    assert_eq!(log().lines().count(), 1);

    let stats: ContainerStatsResponse =
        kubelet.ask("ContainerStats", ContainerStatsRequest { container_id: web.clone() });
    let stats = stats.stats.unwrap();
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    let pods: ListPodSandboxStatsResponse =
        kubelet.ask("ListPodSandboxStats", ListPodSandboxStatsRequest { filter: None });
    let linux = pods.stats.iter().find(|stats| stats.attributes.as_ref().unwrap().id == sandbox).unwrap().linux.clone();
    let network = linux.unwrap().network.unwrap().default_interface.unwrap();
    assert!(network.name == "eth0" && network.rx_bytes.unwrap().value > 0);

    let resources = LinuxContainerResources { cpu_shares: 512, ..LinuxContainerResources::default() };
    let update = UpdateContainerResourcesRequest {
        container_id: web.clone(),
        linux: Some(resources),
        annotations: BTreeMap::new(),
    };
    kubelet.ask::<_, UpdateContainerResourcesResponse>("UpdateContainerResources", update);
    assert_eq!(kubelet.status(&web).resources.unwrap().linux.unwrap().cpu_shares, 512);

    // The engine dies; the pod does not, and the next engine knows it.
    kubelet.world.end_engine(rustix::process::Signal::KILL);
    kubelet.world.start_engine(&[]);
    kubelet.connect_again();
    let running = ContainerFilter {
        state: Some(ContainerStateValue { state: ContainerState::Running as i32 }),
        pod_sandbox_id: sandbox.clone(),
        ..ContainerFilter::default()
    };
    let found = kubelet.containers(running);
    assert_eq!(found.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), [&web]);
    assert_eq!(found[0].metadata.as_ref().unwrap().name, "web");
    let streamed = kubelet.tokio.block_on(async {
        let client = grpc::Client::new(&kubelet.world.run_dir().join("cri.sock")).unwrap();
        let asked = ListContainersRequest { filter: None };
        let stream = client.server_stream("runtime.v1.RuntimeService", "StreamContainers", asked).await;
        let mut stream: tonic::Streaming<ListContainersResponse> = stream.unwrap();
        let first = stream.message().await.unwrap().unwrap().containers.len();
        (first, stream.message().await.unwrap())
    });
    assert_eq!(streamed, (2, None), "all of them, once");
    assert_eq!(kubelet.run(&web, "hostname"), "web\n");

    let stop = StopContainerRequest { container_id: web.clone(), timeout: 10 };
    kubelet.ask::<_, StopContainerResponse>("StopContainer", stop.clone());
    kubelet.ask::<_, StopContainerResponse>("StopContainer", stop);
    let ended = kubelet.status(&web);
    assert_eq!((ended.state, ended.exit_code, ended.reason.as_str()), (ContainerState::Exited as i32, 3, "Error"));
    assert!(ended.finished_at >= ended.started_at && ended.started_at >= ended.created_at);

    for (sandbox, container) in [(&sandbox, &web), (&other, &near)] {
        kubelet.ask::<_, StopPodSandboxResponse>(
            "StopPodSandbox",
            StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() },
        );
        assert_eq!(kubelet.status(container).state, ContainerState::Exited as i32, "it cannot outlive its sandbox");
    }
    let states: Vec<i32> = kubelet.sandboxes(PodSandboxFilter::default()).iter().map(|item| item.state).collect();
    assert_eq!(states, [PodSandboxState::NotReady as i32; 2]);
    kubelet.remove(&sandbox);
    kubelet.remove(&other);
    assert!(kubelet.sandboxes(PodSandboxFilter::default()).is_empty());
    assert!(kubelet.containers(ContainerFilter::default()).is_empty());
    assert_eq!(std::fs::read_dir(kubelet.world.run_dir().join("pods")).unwrap().count(), 0);
    let gone = ContainerStatusRequest { container_id: web, verbose: false };
    let refused = kubelet.try_ask::<_, ContainerStatusResponse>("ContainerStatus", gone).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[test]
fn containers_of_a_pod_share_what_they_are_told_to() {
    let Some(kubelet) = Kubelet::start() else { return };
    let logs = kubelet.world.dir().join("logs");
    let sandbox = kubelet.sandbox(pod("pair", &logs));
    let mut shared = script("one", WAIT);
    let context = shared.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    context.namespace_options = Some(NamespaceOption::default());
    let one = kubelet.container(&sandbox, shared.clone());
    shared.metadata = Some(ContainerMetadata { name: "two".into(), attempt: 0 });
    shared.log_path = "two/0.log".into();
    let two = kubelet.container(&sandbox, shared);
    let processes = |id: &str| kubelet.run(id, "ps -o args | grep -c 'trap .exit'").trim().parse::<u32>().unwrap();
    // Each sees both, and itself looking.
    assert!(processes(&one) >= 2 && processes(&two) >= 2);
    kubelet.run(&one, "touch /dev/shm/here");
    assert_eq!(kubelet.run(&two, "ls /dev/shm; hostname"), "here\npair\n");
    let listed = kubelet.containers(ContainerFilter::default());
    assert_eq!(listed.len(), 2, "what holds the pod's processes together is no container of the kubelet's");

    let apart = kubelet.container(&sandbox, script("three", WAIT));
    assert!(!kubelet.run(&apart, "ps -o args").contains("trap 'exit 3' TERM; while :; do sleep 0.1; done\nsh"));
    let mut watching = script("four", WAIT);
    let context = watching.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    context.namespace_options = Some(NamespaceOption {
        pid: NamespaceMode::Target as i32,
        target_id: apart.clone(),
        ..NamespaceOption::default()
    });
    let four = kubelet.container(&sandbox, watching);
    assert_eq!(kubelet.run(&four, "readlink /proc/self/ns/pid"), kubelet.run(&apart, "readlink /proc/self/ns/pid"));
    kubelet.remove(&sandbox);
    assert!(kubelet.containers(ContainerFilter::default()).is_empty());
}

#[test]
fn images_come_from_a_registry_and_go() {
    let Some(kubelet) = Kubelet::start() else { return };
    let registry = Registry::start();
    let name = format!("{}/team/tool:1", registry.address);
    kubelet.world.docker(["tag", "busybox", &name]).success();
    kubelet.world.docker(["push", &name]).success();
    kubelet.world.docker(["rmi", &name]).success();
    let spec = |image: &str| Some(ImageSpec { image: image.into(), ..ImageSpec::default() });
    let look = |image: &str| {
        let asked = ImageStatusRequest { image: spec(image), verbose: false };
        kubelet.ask::<_, ImageStatusResponse>("ImageStatus", asked).image
    };
    assert_eq!(look(&name), None);
    let pull = PullImageRequest { image: spec(&name), auth: None, sandbox_config: None };
    let pulled: PullImageResponse = kubelet.ask("PullImage", pull);
    let image = look(&name).unwrap();
    assert_eq!(image.id, pulled.image_ref);
    assert!(image.repo_tags.contains(&name) && image.size > 0, "{image:?}");
    assert!(image.repo_tags.contains(&"docker.io/library/busybox:latest".to_owned()), "{image:?}");
    let listed: ListImagesResponse = kubelet.ask("ListImages", ListImagesRequest { filter: None });
    assert_eq!(listed.images.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), [&image.id]);
    let usage: ImageFsInfoResponse = kubelet.ask("ImageFsInfo", ImageFsInfoRequest {});
    assert!(usage.image_filesystems[0].used_bytes.unwrap().value > 0);
    for _ in 0..2 {
        kubelet.ask::<_, RemoveImageResponse>("RemoveImage", RemoveImageRequest { image: spec(&image.id) });
    }
    assert_eq!(look("busybox"), None, "all of its names are gone");
    let missing = PullImageRequest { image: spec(&format!("{}/team/none", registry.address)), ..Default::default() };
    assert!(kubelet.try_ask::<_, PullImageResponse>("PullImage", missing).is_err());
}

#[test]
fn what_happens_to_containers_is_told() {
    let Some(kubelet) = Kubelet::start() else { return };
    let mut events = kubelet.tokio.block_on(kubelet.client.events()).unwrap();
    let sandbox = kubelet.sandbox(pod("short", &kubelet.world.dir().join("logs")));
    let id = kubelet.container(&sandbox, script("short", "exit 0"));
    let mut seen = Vec::new();
    kubelet.tokio.block_on(async {
        while seen.last() != Some(&(ContainerEventType::Stopped as i32)) {
            let event =
                tokio::time::timeout(Duration::from_secs(30), events.message()).await.unwrap().unwrap().unwrap();
            assert_eq!(event.container_id, id);
            assert_eq!(event.pod_sandbox_status.unwrap().id, sandbox);
            seen.push(event.container_event_type);
        }
    });
    let kinds = [ContainerEventType::Created, ContainerEventType::Started, ContainerEventType::Stopped];
    assert_eq!(seen, kinds.map(|kind| kind as i32));
    kubelet.remove(&sandbox);
}

#[test]
fn what_is_wrong_is_refused_and_leaves_nothing() {
    let Some(kubelet) = Kubelet::start() else { return };
    let logs = kubelet.world.dir().join("logs");
    let handler = RunPodSandboxRequest { config: Some(pod("p", &logs)), runtime_handler: "kata".into() };
    let refused = kubelet.try_ask::<_, RunPodSandboxResponse>("RunPodSandbox", handler).unwrap_err();
    assert_eq!(refused.message(), "no runtime for \"kata\" is configured");
    let taken = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mapping = PortMapping { container_port: 80, host_port: i32::from(port), ..PortMapping::default() };
    let config = PodSandboxConfig { port_mappings: vec![mapping], ..pod("p", &logs) };
    let asked = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    kubelet.try_ask::<_, RunPodSandboxResponse>("RunPodSandbox", asked).unwrap_err();
    assert!(kubelet.sandboxes(PodSandboxFilter::default()).is_empty());

    let sandbox = kubelet.sandbox(pod("p", &logs));
    let create = |config: ContainerConfig| {
        let asked =
            CreateContainerRequest { pod_sandbox_id: sandbox.clone(), config: Some(config), sandbox_config: None };
        kubelet.try_ask::<_, CreateContainerResponse>("CreateContainer", asked)
    };
    let mut none = script("c", WAIT);
    none.image = Some(ImageSpec { image: "no-such-image".into(), ..ImageSpec::default() });
    assert_eq!(create(none).unwrap_err().code(), Code::NotFound);
    let mut bad = script("c", WAIT);
    bad.command = vec!["/no/such/program".into()];
    let id = create(bad).unwrap().container_id;
    let start = StartContainerRequest { container_id: id.clone() };
    let refused = kubelet.try_ask::<_, StartContainerResponse>("StartContainer", start).unwrap_err();
    assert!(refused.message().contains("no such file or directory"), "{refused:?}");
    let ended = kubelet.status(&id);
    assert_eq!((ended.state, ended.exit_code), (ContainerState::Exited as i32, 127));
    let missing = PodSandboxStatusRequest { pod_sandbox_id: "0".repeat(64), verbose: false };
    let refused = kubelet.try_ask::<_, PodSandboxStatusResponse>("PodSandboxStatus", missing).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let unknown = kubelet.try_ask::<_, StatusResponse>("CheckpointContainer", StatusRequest::default()).unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    kubelet.remove(&sandbox);
    // Removing what is not there is no error.
    kubelet.remove(&sandbox);
}
