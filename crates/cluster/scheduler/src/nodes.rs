//! A node as the rules see it, with the pods that it has; kept up to date pod by pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::Key;
use resources::{Value, meta};

use crate::amounts::{Resources, amounts};
use crate::groups::GroupId;
use crate::pods::PodFacts;

#[derive(Debug, Clone)]
pub struct NodeFacts {
    pub node: Arc<Value>,
    pub name: String,
    pub pods: BTreeMap<Key, (Arc<PodFacts>, GroupId)>,
    pub allocatable: Resources,
    pub pods_max: i64,
    pub requested: Resources,
    /// CPU and memory in use as scores count them.
    pub counted: (i64, i64),
    /// How many pods of each group are here. Few, so a list.
    pub groups: Vec<(GroupId, i64)>,
    /// Pods that say something about the pods near them.
    pub with_terms: usize,
    pub with_ports: usize,
    /// Sizes of the images that are here, by name.
    pub images: BTreeMap<String, i64>,
    pub has_taints: bool,
    pub unschedulable: bool,
    /// Labels that spreading asks for again and again.
    pub hostname: Option<String>,
    pub zone: Option<String>,
}

impl NodeFacts {
    pub fn new(node: Arc<Value>) -> Self {
        let allocatable = amounts(&node["status"]["allocatable"]);
        let mut images = BTreeMap::new();
        for image in meta::list_at(&node, &["status", "images"]) {
            let size = image["sizeBytes"].as_i64().unwrap_or(0);
            images.extend(
                meta::list_at(image, &["names"]).iter().filter_map(Value::as_str).map(|name| (name.to_owned(), size)),
            );
        }
        let label =
            |key: &str| meta::at(&node, &["metadata", "labels", key]).and_then(Value::as_str).map(str::to_owned);
        Self {
            name: meta::name(&node).to_owned(),
            pods_max: node["status"]["allocatable"].get("pods").map_or(i64::MAX, |_| allocatable.get("pods")),
            has_taints: !meta::list_at(&node, &["spec", "taints"]).is_empty(),
            unschedulable: node["spec"]["unschedulable"] == true,
            hostname: label("kubernetes.io/hostname"),
            zone: label("topology.kubernetes.io/zone"),
            node,
            pods: BTreeMap::new(),
            allocatable,
            requested: Resources::default(),
            counted: (0, 0),
            groups: Vec::new(),
            with_terms: 0,
            with_ports: 0,
            images,
        }
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.node["metadata"]["labels"].get(key).and_then(Value::as_str)
    }

    pub fn add(&mut self, pod: Arc<PodFacts>, group: GroupId) {
        self.remove(&pod.key);
        self.requested.add(&pod.requests);
        self.counted.0 += pod.counted.0;
        self.counted.1 += pod.counted.1;
        self.with_terms += usize::from(!pod.terms.is_empty());
        self.with_ports += usize::from(!pod.ports.is_empty());
        match self.groups.iter_mut().find(|(id, _)| *id == group) {
            Some((_, count)) => *count += 1,
            None => self.groups.push((group, 1)),
        }
        self.pods.insert(pod.key.clone(), (pod, group));
    }

    pub fn remove(&mut self, key: &Key) {
        let Some((pod, group)) = self.pods.remove(key) else { return };
        self.requested.take(&pod.requests);
        self.counted.0 -= pod.counted.0;
        self.counted.1 -= pod.counted.1;
        self.with_terms -= usize::from(!pod.terms.is_empty());
        self.with_ports -= usize::from(!pod.ports.is_empty());
        if let Some(place) = self.groups.iter().position(|(id, _)| *id == group) {
            self.groups[place].1 -= 1;
            if self.groups[place].1 == 0 {
                self.groups.swap_remove(place);
            }
        }
    }

    /// The same pods on the node as it is now.
    pub fn renewed(&self, node: Arc<Value>) -> Self {
        let mut fresh = Self::new(node);
        for (pod, group) in self.pods.values() {
            fresh.add(pod.clone(), *group);
        }
        fresh
    }

    pub fn all_pods(&self) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.pods.values().map(|(pod, _)| pod)
    }
}
