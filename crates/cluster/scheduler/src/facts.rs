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
        match place {
            Ok(index) => self.nodes[index] = Arc::new(fresh),
            Err(index) => self.nodes.insert(index, Arc::new(fresh)),
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
        }
        self.groups.leave(group);
    }

    pub fn facts<'a>(&'a self, view: &'a View) -> Facts<'a> {
        Facts { view, nodes: &self.nodes, cluster: self }
    }
}

impl Facts<'_> {
    /// The nodes with one of them changed.
    pub fn changed(&self, node: &Arc<NodeFacts>) -> Vec<Arc<NodeFacts>> {
        let mut nodes = self.nodes.to_vec();
        if let Ok(index) = self.cluster.index(&node.name) {
            nodes[index] = node.clone();
        }
        nodes
    }
}
