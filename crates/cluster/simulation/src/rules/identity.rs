//! No two pods hold one StatefulSet identity: not in the API, and not on nodes, also not on one that nobody reaches.

use std::collections::BTreeMap;

use cache::{Key, Kind};
use resources::{Value, meta};

use super::{Change, Rule, Truth, owner};

/// What really runs on nodes: uid and node of the holder of each name.
#[derive(Debug, Default)]
pub struct Running {
    holders: BTreeMap<Key, Vec<(String, String)>>,
}

impl Running {
    /// A pod's first process starts.
    pub fn starts(&mut self, pod: &Value, node: &str) -> Result<(), String> {
        let holders = self.holders.entry(Key::of(pod)).or_default();
        let other = holders.iter().find(|(uid, _)| uid != meta::uid(pod)).cloned();
        holders.push((meta::uid(pod).to_owned(), node.to_owned()));
        match other.filter(|_| owner(pod, Kind::StatefulSet).is_some()) {
            None => Ok(()),
            Some((uid, on)) => {
                let text = "starts on {node} while the one before it";
                let text = text.replace("{node}", node);
                Err(format!("stateful pod {} {text} ({uid}) still runs on {on}", Key::of(pod)))
            }
        }
    }

    /// Its last process has ended.
    pub fn ends(&mut self, key: &Key, uid: &str, node: &str) {
        if let Some(holders) = self.holders.get_mut(key) {
            holders.retain(|(one, on)| one != uid || on != node);
            if holders.is_empty() {
                self.holders.remove(key);
            }
        }
    }

    pub fn count(&self) -> usize {
        self.holders.values().map(Vec::len).sum()
    }
}

/// A pod of a set has a name that the set gives, and is its only holder.
pub struct Names;

impl Rule for Names {
    fn check(&mut self, _: &Truth, change: &Change) -> Result<(), String> {
        let (Kind::Pod, Some(pod), None) = (change.kind, &change.after, &change.before) else { return Ok(()) };
        let Some((set, _)) = owner(pod, Kind::StatefulSet) else { return Ok(()) };
        let ordinal = meta::name(pod).strip_prefix(&format!("{}-", set.name)).and_then(|text| text.parse::<u32>().ok());
        match ordinal {
            Some(_) => Ok(()),
            None => Err(format!("pod {} of stateful set {set} has no ordinal", change.key)),
        }
    }
}
