//! The node's own object, and the lease that says that it lives.

use std::time::Duration;

use cache::Kind;
use client::{Client, Gvr, Patch};
use jiff::Timestamp;
use resources::{Status, Value, decode, meta};
use serde_json::json;

use crate::pressure::Thresholds;
use crate::runtime::ImageSeen;
use crate::status::NodeFacts;

pub const VERSION: &str = concat!("v1.36.0+knarr", env!("CARGO_PKG_VERSION"));
pub const LEASE_SECS: i64 = 40;
pub const LEASE_EVERY: Duration = Duration::from_secs(10);
/// How often the node's status is told when nothing changes.
pub const STATUS_EVERY: Duration = Duration::from_secs(300);
/// Most images that the node's status names.
const IMAGES_MAX: usize = 50;

type Words = (&'static str, &'static str);
/// Devices of each resource: all, and those that are healthy.
type Counts = std::collections::BTreeMap<String, (usize, usize)>;

/// Conditions of a node that is short of something: reason and message without and with it.
pub const PRESSURES: [(&str, Words, Words); 3] = [
    (
        "MemoryPressure",
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    ),
    (
        "DiskPressure",
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ),
    (
        "PIDPressure",
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    ),
];

/// What this machine offers.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    pub cpus: usize,
    pub memory_bytes: u64,
    /// Kept back, so that the node never runs out of it.
    pub memory_kept_bytes: u64,
    pub disk_bytes: u64,
    pub pods_max: u64,
    pub kernel: String,
    pub os: String,
    pub machine_id: String,
    pub boot_id: String,
}

impl Machine {
    pub fn read(root: &std::path::Path, pods_max: u64, thresholds: &Thresholds) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let memory = text("/proc/meminfo");
        let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = kib.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
        let release = text("/etc/os-release");
        let os = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        let disk = rustix::fs::statvfs(root).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib << 10,
            memory_kept_bytes: thresholds.memory_kept(kib << 10),
            disk_bytes: disk,
            pods_max,
            kernel: text("/proc/sys/kernel/osrelease"),
            os: os.trim_matches('"').to_owned(),
            machine_id: text("/etc/machine-id"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
        }
    }

    /// What pods get of it.
    pub fn allocatable(&self) -> Value {
        let mut all = self.capacity();
        all["memory"] = format!("{}Ki", self.memory_bytes.saturating_sub(self.memory_kept_bytes) >> 10).into();
        all
    }

    pub fn capacity(&self) -> Value {
        json!({"cpu": self.cpus.to_string(), "memory": format!("{}Ki", self.memory_bytes >> 10),
            "ephemeral-storage": format!("{}Ki", self.disk_bytes >> 10), "pods": self.pods_max.to_string(),
            "hugepages-1Gi": "0", "hugepages-2Mi": "0"})
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The node as it registers.
pub fn object(node: &NodeFacts) -> Value {
    let arch = architecture();
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels(node, arch)}, "spec": {}})
}

fn labels(node: &NodeFacts, arch: &str) -> Value {
    json!({"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": arch})
}

/// Its status. `network` is what is wrong with the network of pods. Pure.
#[allow(clippy::too_many_arguments)]
pub fn status(
    node: &NodeFacts,
    machine: &Machine,
    images: &[ImageSeen],
    network: Option<&str>,
    short: &[&str],
    devices: &Counts,
    before: &Value,
    now: Timestamp,
) -> Value {
    let stamp = decode::format_time(now, 0);
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let have = meta::list_at(before, &["status", "conditions"]).iter().find(|have| have["type"] == kind);
        let since = match have {
            Some(have) if have["status"] == status => have["lastTransitionTime"].clone(),
            _ => stamp.as_str().into(),
        };
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": stamp,
            "lastTransitionTime": since})
    };
    let mut images: Vec<&ImageSeen> = images.iter().filter(|image| !image.tags.is_empty()).collect();
    images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    images.truncate(IMAGES_MAX);
    let images: Vec<Value> =
        images.iter().map(|image| json!({"names": image.tags, "sizeBytes": image.size_bytes})).collect();
    let version = VERSION;
    let pressed = |at: usize| {
        let (kind, (good, calm), (bad, alarm)) = PRESSURES[at];
        match short.contains(&kind) {
            false => condition(kind, "False", good, calm),
            true => condition(kind, "True", bad, alarm),
        }
    };
    let (mut capacity, mut allocatable) = (machine.capacity(), machine.allocatable());
    for (resource, (all, healthy)) in devices {
        capacity[resource] = all.to_string().into();
        allocatable[resource] = healthy.to_string().into();
    }
    json!({"capacity": capacity, "allocatable": allocatable,
        "addresses": [{"type": "InternalIP", "address": node.ip}, {"type": "Hostname", "address": node.name}],
        "conditions": [
            pressed(0), pressed(1), pressed(2),
            match network {
                None => condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
                Some(problem) => condition("Ready", "False", "KubeletNotReady", problem),
            }],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": node.port}},
        "images": images,
        "nodeInfo": {"architecture": architecture(), "operatingSystem": "linux", "kernelVersion": machine.kernel,
            "osImage": machine.os, "machineID": machine.machine_id, "systemUUID": machine.machine_id,
            "bootID": machine.boot_id, "kubeletVersion": version, "kubeProxyVersion": "",
            "containerRuntimeVersion": format!("{}://{}", node.runtime.name, node.runtime.version)}})
}

/// Makes the node if it is missing; otherwise gives it back the labels that are this machine's to say.
pub async fn register(api: &Client, node: &NodeFacts) -> Result<Value, Status> {
    let nodes = Kind::Node.gvr();
    match api.create(&nodes, "", &object(node)).await {
        Err(status) if status.reason == "AlreadyExists" => {
            let patch = json!({"metadata": {"labels": labels(node, architecture())}});
            api.patch(&nodes, "", &node.name, "", &Patch::Merge(patch)).await
        }
        other => other,
    }
}

pub async fn tell(
    api: &Client,
    node: &NodeFacts,
    machine: &Machine,
    images: &[ImageSeen],
    network: Option<&str>,
    short: &[&str],
    devices: &Counts,
) -> Result<(), Status> {
    let nodes = Kind::Node.gvr();
    let before = match api.get(&nodes, "", &node.name).await {
        Err(status) if status.code == 404 => register(api, node).await?,
        other => other?,
    };
    let patch = json!({"status": status(node, machine, images, network, short, devices, &before, Timestamp::now())});
    api.patch(&nodes, "", &node.name, "status", &Patch::Merge(patch)).await.map(drop)
}

/// Renews the lease, or makes it.
pub async fn renew(api: &Client, node: &NodeFacts) -> Result<(), Status> {
    let leases: Gvr = Kind::Lease.gvr();
    let stamp = decode::format_time(Timestamp::now(), 6);
    let patch = json!({"spec": {"holderIdentity": node.name, "leaseDurationSeconds": LEASE_SECS, "renewTime": stamp}});
    match api.patch(&leases, "kube-node-lease", &node.name, "", &Patch::Merge(patch.clone())).await {
        Err(status) if status.code == 404 => {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": node.name, "namespace": "kube-node-lease"}, "spec": patch["spec"]});
            api.create(&leases, "kube-node-lease", &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
