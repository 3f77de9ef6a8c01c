//! Pods are bound once, to a node that exists and has room for them.

use cache::Kind;
use resources::{Value, meta};
use scheduler::{Resources, amounts, requests};

use super::{Change, Rule, Truth, is_ended};

fn node_of(pod: &Value) -> &str {
    meta::str_at(pod, &["spec", "nodeName"])
}

/// A pod keeps its node.
pub struct OnceBound;

impl Rule for OnceBound {
    fn check(&mut self, _: &Truth, change: &Change) -> Result<(), String> {
        let (Kind::Pod, Some(before), Some(after)) = (change.kind, &change.before, &change.after) else {
            return Ok(());
        };
        let moved =
            meta::uid(before) == meta::uid(after) && !node_of(before).is_empty() && node_of(before) != node_of(after);
        match moved {
            false => Ok(()),
            true => Err(format!("pod {} moved from {} to {}", change.key, node_of(before), node_of(after))),
        }
    }
}

/// The pods of a node never ask for more than it has.
pub struct Room;

impl Rule for Room {
    fn check(&mut self, truth: &Truth, change: &Change) -> Result<(), String> {
        let (Kind::Pod, Some(after)) = (change.kind, &change.after) else { return Ok(()) };
        let bound =
            !node_of(after).is_empty() && change.before.as_ref().is_none_or(|before| node_of(before).is_empty());
        if !bound {
            return Ok(());
        }
        let Some(node) = truth.view.get(Kind::Node, "", node_of(after)) else { return Ok(()) };
        let room = amounts(&node["status"]["allocatable"]);
        let mut used = Resources::default();
        let mut count = 0;
        for pod in truth.view.pods_on(node_of(after)).filter(|pod| !is_ended(pod)) {
            count += 1;
            used.add(&requests(pod));
        }
        used.others.insert("pods".to_owned(), count);
        let over = used.iter().find(|(name, amount)| *amount > room.get(name));
        match over {
            None => Ok(()),
            Some((name, amount)) => Err(format!(
                "pod {} is bound to {}, whose pods now ask for {amount} {name} of {}",
                change.key,
                node_of(after),
                room.get(name)
            )),
        }
    }
}
