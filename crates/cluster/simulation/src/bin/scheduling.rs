//! How fast pods find their nodes: the scheduler alone, through the API, and a deployment's pods made and bound by all
//! controllers. `bench/run scheduler` builds and runs it.
//!
//!     scheduling [NODES [PODS [REPLICAS]]]
//!
//! Nodes are objects only. The API is the real one, with its store on disk below a temporary directory, its admission and its
//! access rules; parts reach it as they do in `knarr up`, within the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{Config, Server, User};
use cache::{Driver, Key, Kind, Member, Observer, Part as _, View, Write};
use client::{Client, PODS, Patch};
use resources::{Value, meta};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Requests under way at a time while objects are prepared.
const WRITERS: usize = 32;

fn node(number: usize) -> Value {
    let name = format!("node-{number:05}");
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": format!("zone-{}", number % 3)}},
        "status": {"capacity": {"cpu": "32", "memory": "64Gi", "pods": "110"},
            "allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}})
}

fn spec() -> Value {
    json!({"containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10",
        "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}}}]})
}

fn pod(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{number:05}"), "namespace": "default",
        "labels": {"app": "measured"}}, "spec": spec()})
}

/// Decisions alone: no API, one thread.
fn alone(nodes: usize, pods: usize) -> f64 {
    let (mut view, mut scheduler) = (View::default(), scheduler::Scheduler::default());
    let mut revision = 0;
    let mut put = |view: &mut View, scheduler: &mut scheduler::Scheduler, kind: Kind, mut object: Value| {
        revision += 1;
        meta::set(&mut object, "resourceVersion", revision.to_string());
        if meta::uid(&object).is_empty() {
            meta::set(&mut object, "uid", format!("uid-{revision}"));
        }
        let object = Arc::new(object);
        view.put(kind, object.clone());
        scheduler.notice(view, kind, &object);
    };
    (0..nodes).for_each(|number| put(&mut view, &mut scheduler, Kind::Node, node(number)));
    (0..pods).for_each(|number| put(&mut view, &mut scheduler, Kind::Pod, pod(number)));
    let keys: Vec<Key> = view.list(Kind::Pod).map(|pod| Key::of(pod)).collect();
    let begun = Instant::now();
    for key in &keys {
        let outcome = scheduler.reconcile(&view, key, client::now());
        for write in outcome.writes {
            if let Write::Bind { pod, node } = write {
                let mut bound = (**view.at(Kind::Pod, &pod).expect("it waits")).clone();
                bound["spec"]["nodeName"] = node.into();
                put(&mut view, &mut scheduler, Kind::Pod, bound);
            }
        }
    }
    let took = begun.elapsed();
    assert_eq!(view.pods_on("").count(), 0, "all pods have a node");
    pods as f64 / took.as_secs_f64()
}

async fn make(api: &Client, kind: Kind, objects: Vec<Value>) -> Result<(), Failure> {
    let mut tasks = JoinSet::new();
    for object in objects {
        if tasks.len() >= WRITERS {
            tasks.join_next().await.ok_or("a writer")??;
        }
        let api = api.clone();
        tasks.spawn(async move {
            let made = api.create(&kind.gvr(), meta::namespace(&object), &object).await;
            made.map(drop).unwrap_or_else(|status| panic!("make {}: {}", meta::name(&object), status.message));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done?;
    }
    Ok(())
}

struct Cluster {
    server: Server,
    admin: Client,
    _dir: Dir,
}

/// A directory that goes with the value.
struct Dir(std::path::PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Cluster {
    async fn start(nodes: usize) -> Result<Self, Failure> {
        let dir = Dir(std::env::temp_dir().join(format!("knarr-scheduling-{}-{nodes}", std::process::id())));
        let server = Server::start(Config { root: Some(dir.0.clone()), ..Config::default() }).await?;
        let admin = server.local(User::admin(), "bench");
        make(&admin, Kind::Node, (0..nodes).map(node).collect()).await?;
        // A new node waits for its controller to see that it is ready.
        let ready = Patch::Merge(json!({"spec": {"taints": null}}));
        for number in 0..nodes {
            let name = format!("node-{number:05}");
            admin.patch(&Kind::Node.gvr(), "", &name, "", &ready).await.map_err(|status| status.message)?;
        }
        Ok(Self { server, admin, _dir: dir })
    }

    /// Answers when so many pods with this beginning of their names were made, and when they had nodes.
    async fn bound(
        &self,
        told: &mut mpsc::UnboundedReceiver<(Kind, Arc<Value>)>,
        beginning: &str,
        count: usize,
    ) -> (Duration, Duration) {
        let begun = Instant::now();
        let (mut made, mut all_made, mut bound) =
            (std::collections::BTreeSet::new(), None, std::collections::BTreeSet::new());
        while let Some((_, pod)) = told.recv().await {
            if !meta::name(&pod).starts_with(beginning) {
                continue;
            }
            made.insert(Key::of(&pod));
            if made.len() == count {
                all_made.get_or_insert_with(|| begun.elapsed());
            }
            if !meta::str_at(&pod, &["spec", "nodeName"]).is_empty() {
                bound.insert(Key::of(&pod));
                if bound.len() == count {
                    break;
                }
            }
        }
        (all_made.unwrap_or_default(), begun.elapsed())
    }
}

/// Pods that are there already, bound through the API by the scheduler's process.
async fn through_api(nodes: usize, pods: usize) -> Result<f64, Failure> {
    let cluster = Cluster::start(nodes).await?;
    make(&cluster.admin, Kind::Pod, (0..pods).map(pod).collect()).await?;
    let api = cluster.server.local(User::component("system:kube-scheduler"), "kube-scheduler");
    let reader = cluster.server.local(User::component("system:kube-controller-manager"), "kube-controller-manager");
    let mut driver = Driver::new(reader).lean();
    driver.add(Member::new(Box::new(scheduler::Scheduler::default()), api));
    let (tell, mut told) = mpsc::unbounded_channel();
    driver.observe(Observer { kinds: &[Kind::Pod], tell });
    let running = tokio::spawn(driver.run());
    let (_, took) = cluster.bound(&mut told, "pod-", pods).await;
    running.abort();
    let left = cluster
        .admin
        .list(&PODS, "default", &client::Selectors { fields: "spec.nodeName=".into(), ..Default::default() })
        .await;
    assert!(left.is_ok_and(|list| list.items.is_empty()), "all pods have a node");
    cluster.server.stop().await;
    Ok(pods as f64 / took.as_secs_f64())
}

/// A deployment's pods, made and bound with all controllers at work; seconds until all are made, and until all are bound.
async fn deployment(nodes: usize, replicas: usize) -> Result<(f64, f64), Failure> {
    let cluster = Cluster::start(nodes).await?;
    let manager = cluster.server.local(User::component("system:kube-controller-manager"), "kube-controller-manager");
    let mut driver = Driver::new(manager.clone()).lean();
    for part in controllers::all(7) {
        driver.add(Member::new(part, manager.clone()));
    }
    let api = cluster.server.local(User::component("system:kube-scheduler"), "kube-scheduler");
    driver.add(Member::new(Box::new(scheduler::Scheduler::default()), api));
    let (tell, mut told) = mpsc::unbounded_channel();
    driver.observe(Observer { kinds: &[Kind::Pod], tell });
    let mut listed = driver.listed();
    let running = tokio::spawn(driver.run());
    listed.wait_for(|listed| *listed).await?;
    let wanted = |name: &str, replicas: usize| {
        let labels = json!({"app": name});
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec()}}})
    };
    let make = async |name: &str, replicas: usize| {
        let made = cluster.admin.create(&Kind::Deployment.gvr(), "default", &wanted(name, replicas)).await;
        made.map(drop).map_err(|status| status.message)
    };
    // A first pod is bound when everybody has looked at all nodes once: what a start costs is not counted here.
    make("first", 1).await?;
    cluster.bound(&mut told, "first-", 1).await;
    make("measured", replicas).await?;
    let (made, bound) = cluster.bound(&mut told, "measured-", replicas).await;
    running.abort();
    cluster.server.stop().await;
    Ok((made.as_secs_f64(), bound.as_secs_f64()))
}

fn main() -> Result<(), Failure> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let mut next = |default: usize| numbers.next().unwrap_or(Ok(default));
    let (nodes, pods, replicas) = (next(1000)?, next(5000)?, next(1000)?);
    let decided = alone(nodes, pods);
    // As many threads as `knarr up` has.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let bound = runtime.block_on(through_api(nodes, pods))?;
    let (made, all) = runtime.block_on(deployment(nodes, replicas))?;
    println!(
        "{}",
        json!({"nodes": nodes, "pods": pods, "replicas": replicas, "decided_per_second": decided.round(),
            "bound_per_second": bound.round(), "deployment_made_secs": (made * 1e3).round() / 1e3,
            "deployment_bound_secs": (all * 1e3).round() / 1e3,
            "deployment_per_second": (replicas as f64 / all).round()})
    );
    Ok(())
}
