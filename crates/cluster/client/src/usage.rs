//! What pods and nodes use, as the nodes told it last: the API server asks them, controllers read.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;

/// Processor time in billionths of a processor, memory as the working set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu_nanos: u64,
    pub memory_bytes: u64,
}

/// One reading of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodUsage {
    pub uid: String,
    pub at: Timestamp,
    /// What time the rates are over.
    pub window: Duration,
    pub containers: BTreeMap<String, Amounts>,
}

/// One reading of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUsage {
    pub at: Timestamp,
    pub window: Duration,
    pub amounts: Amounts,
}

/// Everybody's last readings. Cheap to clone; all clones show the same.
#[derive(Debug, Clone, Default)]
pub struct UsageTable(Arc<RwLock<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    nodes: BTreeMap<String, NodeUsage>,
    /// By namespace and name; the node that told it beside it.
    pods: BTreeMap<(String, String), (String, Arc<PodUsage>)>,
}

impl UsageTable {
    /// A pod's last reading; nothing if it has not been read yet. A caller who knows the uid compares it.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<PodUsage>> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.pods.get(&(namespace.to_owned(), name.to_owned())).map(|(_, usage)| usage.clone())
    }

    pub fn node(&self, name: &str) -> Option<NodeUsage> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).nodes.get(name).cloned()
    }

    /// Takes in what a node tells: pods that it does not name any more are forgotten.
    pub fn put(&self, node: &str, usage: NodeUsage, pods: Vec<((String, String), PodUsage)>) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        tables.pods.retain(|_, (of, _)| of != node);
        tables.pods.extend(pods.into_iter().map(|(key, usage)| (key, (node.to_owned(), Arc::new(usage)))));
        tables.nodes.insert(node.to_owned(), usage);
    }

    /// Forgets nodes that are not among these, and their pods.
    pub fn keep_nodes(&self, names: &[String]) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        tables.nodes.retain(|name, _| names.contains(name));
        tables.pods.retain(|_, (of, _)| names.contains(of));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_tells_anew_replaces_what_it_told() {
        let table = UsageTable::default();
        let at = Timestamp::UNIX_EPOCH;
        let node = || NodeUsage { at, window: Duration::from_secs(10), amounts: Amounts::default() };
        let pod = |name: &str| {
            let usage =
                PodUsage { uid: name.into(), at, window: Duration::from_secs(10), containers: BTreeMap::default() };
            (("d".to_owned(), name.to_owned()), usage)
        };
        table.put("n1", node(), vec![pod("a"), pod("b")]);
        table.put("n2", node(), vec![pod("c")]);
        table.put("n1", node(), vec![pod("b")]);
        assert!(table.pod("d", "a").is_none() && table.pod("d", "b").is_some() && table.pod("d", "c").is_some());
        table.keep_nodes(&["n1".to_owned()]);
        assert!(table.pod("d", "c").is_none() && table.node("n2").is_none() && table.node("n1").is_some());
    }
}
