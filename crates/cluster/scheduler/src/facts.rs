//! Pods and nodes as the rules see them.

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::{Key, Kind, View};
use resources::quantity::Quantity;
use resources::{Value, meta};

/// Amounts by resource name, in thousandths for `cpu` and whole units for everything else.
pub type Resources = BTreeMap<String, i64>;

/// What pods count for in scores that ask for nothing.
pub const DEFAULT_CPU_MILLIS: i64 = 100;
pub const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

pub fn amount(resource: &str, value: &Value) -> i64 {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let nanos = Quantity::parse(&text).map_or(0, |quantity| quantity.nanos());
    let unit = if resource == "cpu" { 1_000_000 } else { 1_000_000_000 };
    i64::try_from(nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) != 0)).unwrap_or(i64::MAX)
}

pub fn amounts(map: &Value) -> Resources {
    let entries = map.as_object().into_iter().flatten();
    entries.map(|(name, value)| (name.clone(), amount(name, value))).collect()
}

fn add(total: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        *total.entry(name.clone()).or_default() += amount;
    }
}

fn at_least(total: &mut Resources, floor: &Resources) {
    for (name, amount) in floor {
        let have = total.entry(name.clone()).or_default();
        *have = (*have).max(*amount);
    }
}

/// What a pod needs of its node: its containers together, or its hungriest init step if that is more.
pub fn requests(pod: &Value) -> Resources {
    let mut running = Resources::new();
    for container in meta::list_at(pod, &["spec", "containers"]) {
        add(&mut running, &amounts(&container["resources"]["requests"]));
    }
    let (mut sidecars, mut peak) = (Resources::new(), Resources::new());
    for container in meta::list_at(pod, &["spec", "initContainers"]) {
        let own = amounts(&container["resources"]["requests"]);
        if container["restartPolicy"] == "Always" {
            add(&mut sidecars, &own);
            at_least(&mut peak, &sidecars);
        } else {
            let mut step = own;
            add(&mut step, &sidecars);
            at_least(&mut peak, &step);
        }
    }
    add(&mut running, &sidecars);
    at_least(&mut running, &peak);
    add(&mut running, &amounts(&pod["spec"]["overhead"]));
    running
}

/// A pod that runs or is to run, with what the rules ask about it.
#[derive(Debug, Clone)]
pub struct PodFacts {
    pub pod: Arc<Value>,
    pub requests: Resources,
    pub priority: i64,
    /// Protocol, address (empty: all) and port on the node.
    pub ports: Vec<(String, String, i64)>,
}

impl PodFacts {
    pub fn new(pod: Arc<Value>) -> Self {
        let mut ports = Vec::new();
        for list in ["containers", "initContainers"] {
            for port in meta::list_at(&pod, &["spec", list]).iter().flat_map(|c| meta::list_at(c, &["ports"])) {
                if let Some(number) = port["hostPort"].as_i64().filter(|number| *number > 0) {
                    let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
                    let address = port["hostIP"].as_str().filter(|ip| *ip != "0.0.0.0").unwrap_or_default();
                    ports.push((protocol, address.to_owned(), number));
                }
            }
        }
        let priority = pod["spec"]["priority"].as_i64().unwrap_or(0);
        Self { requests: requests(&pod), priority, ports, pod }
    }

    pub fn namespace(&self) -> &str {
        meta::namespace(&self.pod)
    }

    pub fn spec(&self) -> &Value {
        &self.pod["spec"]
    }
}

/// A node with the pods that it has.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    pub node: Arc<Value>,
    pub pods: Vec<PodFacts>,
    pub allocatable: Resources,
    pub requested: Resources,
}

impl NodeFacts {
    pub fn new(node: Arc<Value>, pods: Vec<PodFacts>) -> Self {
        let allocatable = amounts(&node["status"]["allocatable"]);
        let mut requested = Resources::new();
        for pod in &pods {
            add(&mut requested, &pod.requests);
        }
        Self { node, pods, allocatable, requested }
    }

    pub fn name(&self) -> &str {
        meta::name(&self.node)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        meta::at(&self.node, &["metadata", "labels", key]).and_then(Value::as_str)
    }

    /// The node without these pods.
    pub fn without(&self, gone: &[Key]) -> Self {
        let left = self.pods.iter().filter(|pod| !gone.contains(&Key::of(&pod.pod))).cloned().collect();
        Self::new(self.node.clone(), left)
    }
}

/// Everything a decision about one pod may look at.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    pub view: &'a View,
    pub nodes: Vec<NodeFacts>,
}

impl<'a> Facts<'a> {
    /// `assumed`: pods whose binding is under way, with their node.
    pub fn new(view: &'a View, assumed: &BTreeMap<Key, String>) -> Self {
        let lives = |pod: &&Arc<Value>| !matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed");
        let nodes = view.list(Kind::Node).map(|node| {
            let name = meta::name(node);
            let mut pods: Vec<PodFacts> =
                view.pods_on(name).filter(lives).map(|pod| PodFacts::new(pod.clone())).collect();
            for (key, _) in assumed.iter().filter(|(_, on)| *on == name) {
                let unbound = view.at(Kind::Pod, key).filter(|pod| meta::str_at(pod, &["spec", "nodeName"]).is_empty());
                pods.extend(unbound.map(|pod| PodFacts::new(pod.clone())));
            }
            NodeFacts::new(node.clone(), pods)
        });
        Self { view, nodes: nodes.collect() }
    }
}
