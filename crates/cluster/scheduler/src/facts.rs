//! Everything a decision may look at: nodes with their pods, kept up to date by what changes rather than made anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::{Key, Kind, View};
use resources::{Value, meta};

use crate::groups::{GroupId, Groups};
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;

/// Nodes and pods.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// In the order of names.
    pub nodes: Vec<Arc<NodeFacts>>,
    pub groups: Groups,
    /// Where each counted pod is, also on nodes that are not known yet.
    placed: BTreeMap<Key, (String, Arc<PodFacts>, GroupId)>,
    /// On how many nodes each image is.
    pub images: BTreeMap<String, i64>,
    /// Pods that say something about the pods near them, in the whole cluster.
    pub with_terms: usize,
    /// How many pods use each claim.
    pub claim_users: BTreeMap<Key, usize>,
    /// Pods that a node is kept for, by node.
    pub nominated: BTreeMap<String, BTreeMap<Key, (Arc<PodFacts>, GroupId)>>,
    nominated_at: BTreeMap<Key, String>,
    /// What spreading asks for most: it would take a walk over all nodes for each pod.
    pub zones: BTreeMap<String, Zone>,
}

/// The nodes of a zone taken together.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    nodes: usize,
    /// How many pods of each group are there.
    pub groups: BTreeMap<GroupId, i64>,
}

impl Zone {
    fn count(&mut self, group: GroupId, change: i64) {
        let have = self.groups.entry(group).or_default();
        *have += change;
        if *have == 0 {
            self.groups.remove(&group);
        }
    }
}

/// A decision's view.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub view: &'a View,
    pub nodes: &'a [Arc<NodeFacts>],
    pub cluster: &'a Cluster,
}

fn lives(pod: &Value) -> bool {
    !matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

impl Cluster {
    pub fn of(view: &View) -> Self {
        let mut cluster = Self::default();
        for node in view.list(Kind::Node) {
            cluster.node(meta::name(node), Some(node));
        }
        for pod in view.glance(Kind::Pod) {
            cluster.pod(&Key::of(&pod), Some(&pod));
        }
        cluster
    }

    fn index(&self, name: &str) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.name.as_str().cmp(name))
    }

    pub fn find(&self, name: &str) -> Option<&Arc<NodeFacts>> {
        self.index(name).ok().map(|index| &self.nodes[index])
    }

    /// A node as it is now, or that it has gone.
    pub fn node(&mut self, name: &str, node: Option<&Arc<Value>>) {
        let place = self.index(name);
        if let Ok(index) = place {
            for image in self.nodes[index].images.keys() {
                if let Some(count) = self.images.get_mut(image) {
                    *count -= 1;
                }
            }
        }
        if let Ok(index) = place {
            let before = self.nodes[index].clone();
            self.count_in_zone(&before, -1);
        }
        let Some(node) = node else {
            if let Ok(index) = place {
                self.nodes.remove(index);
                self.images.retain(|_, count| *count > 0);
            }
            return;
        };
        let fresh = match place {
            Ok(index) => self.nodes[index].renewed(node.clone()),
            Err(_) => {
                let mut fresh = NodeFacts::new(node.clone());
                // Pods may be told before their node is.
                for (_, pod, group) in self.placed.values().filter(|(on, ..)| on == name) {
                    fresh.add(pod.clone(), *group);
                }
                fresh
            }
        };
        for image in fresh.images.keys() {
            *self.images.entry(image.clone()).or_default() += 1;
        }
        self.count_in_zone(&fresh, 1);
        match place {
            Ok(index) => self.nodes[index] = Arc::new(fresh),
            Err(index) => self.nodes.insert(index, Arc::new(fresh)),
        }
    }

    /// Adds a node with its pods to its zone, or takes it out.
    fn count_in_zone(&mut self, node: &NodeFacts, sign: i64) {
        let Some(name) = &node.zone else { return };
        let zone = self.zones.entry(name.clone()).or_default();
        zone.nodes = zone.nodes.saturating_add_signed(sign as isize);
        for (group, count) in &node.groups {
            zone.count(*group, sign * count);
        }
        if zone.nodes == 0 {
            self.zones.remove(name);
        }
    }

    fn count_pod_in_zone(&mut self, index: usize, group: GroupId, change: i64) {
        if let Some(zone) = self.nodes[index].zone.as_ref().and_then(|name| self.zones.get_mut(name)) {
            zone.count(group, change);
        }
    }

    /// The group of a pod that is counted on a node.
    pub fn group_of(&self, key: &Key) -> Option<GroupId> {
        self.placed.get(key).map(|(.., group)| *group)
    }

    /// A pod as it is now, or that it has gone.
    pub fn pod(&mut self, key: &Key, pod: Option<&Arc<Value>>) {
        self.nominate(key, pod.filter(|pod| meta::str_at(pod, &["spec", "nodeName"]).is_empty()));
        let on = pod.map_or("", |pod| meta::str_at(pod, &["spec", "nodeName"]));
        match pod.filter(|pod| !on.is_empty() && lives(pod)) {
            None => self.lift(key),
            Some(pod) => {
                let revision = meta::resource_version(pod);
                let same =
                    |(have, facts, _): &(String, Arc<PodFacts>, GroupId)| have == on && facts.revision == revision;
                if !self.placed.get(key).is_some_and(same) {
                    self.place(PodFacts::new(pod.clone()), on);
                }
            }
        }
    }

    fn nominate(&mut self, key: &Key, pod: Option<&Arc<Value>>) {
        if let Some(at) = self.nominated_at.remove(key)
            && let Some(pods) = self.nominated.get_mut(&at)
        {
            if let Some((pod, group)) = pods.remove(key) {
                self.with_terms -= usize::from(!pod.terms.is_empty());
                self.groups.leave(group);
            }
            if pods.is_empty() {
                self.nominated.remove(&at);
            }
        }
        let Some(pod) = pod.filter(|pod| lives(pod) && !meta::is_terminating(pod)) else { return };
        let at = meta::str_at(pod, &["status", "nominatedNodeName"]);
        if !at.is_empty() {
            let pod = PodFacts::new(pod.clone());
            self.with_terms += usize::from(!pod.terms.is_empty());
            let group = self.groups.join(&pod);
            let pod = Arc::new(pod.placed());
            self.nominated_at.insert(key.clone(), at.to_owned());
            self.nominated.entry(at.to_owned()).or_default().insert(key.clone(), (pod, group));
        }
    }

    /// Counts a pod on a node.
    pub fn place(&mut self, pod: PodFacts, on: &str) {
        self.lift(&pod.key);
        let group = self.groups.join(&pod);
        let pod = Arc::new(pod.placed());
        self.with_terms += usize::from(!pod.terms.is_empty());
        for claim in &pod.claims {
            *self.claim_users.entry(Key::new(pod.namespace(), claim)).or_default() += 1;
        }
        if let Ok(index) = self.index(on) {
            Arc::make_mut(&mut self.nodes[index]).add(pod.clone(), group);
            self.count_pod_in_zone(index, group, 1);
        }
        self.placed.insert(pod.key.clone(), (on.to_owned(), pod, group));
    }

    /// Counts a pod no more.
    pub fn lift(&mut self, key: &Key) {
        let Some((on, pod, group)) = self.placed.remove(key) else { return };
        self.with_terms -= usize::from(!pod.terms.is_empty());
        for claim in &pod.claims {
            let claim = Key::new(pod.namespace(), claim);
            if let Some(users) = self.claim_users.get_mut(&claim) {
                *users -= 1;
                if *users == 0 {
                    self.claim_users.remove(&claim);
                }
            }
        }
        if let Ok(index) = self.index(&on) {
            Arc::make_mut(&mut self.nodes[index]).remove(key);
            self.count_pod_in_zone(index, group, -1);
        }
        self.groups.leave(group);
    }

    pub fn facts<'a>(&'a self, view: &'a View) -> Facts<'a> {
        Facts { view, nodes: &self.nodes, cluster: self }
    }
}

impl Facts<'_> {
    /// Whether the nodes are those of the cluster as it is, none of them changed.
    pub fn are_real(&self) -> bool {
        std::ptr::eq(self.nodes, self.cluster.nodes.as_slice())
    }

    /// The nodes with one of them changed.
    pub fn changed(&self, node: &Arc<NodeFacts>) -> Vec<Arc<NodeFacts>> {
        let mut nodes = self.nodes.to_vec();
        if let Ok(index) = self.cluster.index(&node.name) {
            nodes[index] = node.clone();
        }
        nodes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the books of zones say, by a walk over all nodes.
    fn walked(cluster: &Cluster) -> BTreeMap<String, BTreeMap<GroupId, i64>> {
        let mut zones: BTreeMap<String, BTreeMap<GroupId, i64>> = BTreeMap::new();
        for node in &cluster.nodes {
            let Some(zone) = &node.zone else { continue };
            let groups = zones.entry(zone.clone()).or_default();
            node.groups.iter().for_each(|(group, count)| *groups.entry(*group).or_default() += count);
        }
        zones
    }

    #[test]
    fn zones_are_counted_as_a_walk_would() {
        let (mut cluster, mut state) = (Cluster::default(), 7_u64);
        let mut below = |most: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % most
        };
        for step in 0..3000_u64 {
            let name = format!("n{}", below(6));
            match below(8) {
                0 => cluster.node(&name, None),
                1 => {
                    let labels = match below(3) {
                        0 => json!({}),
                        zone => json!({"topology.kubernetes.io/zone": format!("z{zone}")}),
                    };
                    let node = json!({"metadata": {"name": name, "labels": labels}});
                    cluster.node(&name, Some(&Arc::new(node)));
                }
                2 => cluster.pod(&Key::new("d", format!("p{}", below(20))), None),
                _ => {
                    let pod = format!("p{}", below(20));
                    let object = json!({"metadata": {"name": pod, "namespace": "d", "resourceVersion": step.to_string(),
                        "labels": {"app": format!("a{}", below(3))}}, "spec": {"nodeName": name}});
                    cluster.pod(&Key::new("d", pod), Some(&Arc::new(object)));
                }
            }
            let counted: BTreeMap<String, BTreeMap<GroupId, i64>> =
                cluster.zones.iter().map(|(name, zone)| (name.clone(), zone.groups.clone())).collect();
            assert_eq!(counted, walked(&cluster), "after step {step}");
        }
    }
}
