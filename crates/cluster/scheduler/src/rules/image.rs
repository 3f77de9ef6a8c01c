//! Nodes that have the pod's images already.

use resources::{Value, meta};

use crate::{Facts, NodeFacts, PodFacts};

const SMALL_BYTES: i64 = 23 << 20;
const LARGE_BYTES: i64 = 1000 << 20;

pub fn score(pod: &PodFacts, node: &NodeFacts, facts: &Facts<'_>) -> i64 {
    let images = meta::list_at(pod.spec(), &["containers"]).iter().filter_map(|container| container["image"].as_str());
    let total = facts.nodes.len().max(1) as i64;
    let worth: i64 = images
        .map(|image| {
            let holders = facts.nodes.iter().filter(|node| size(node, image).is_some()).count() as i64;
            size(node, image).unwrap_or(0) * holders / total
        })
        .sum();
    (worth - SMALL_BYTES).clamp(0, LARGE_BYTES) * 100 / LARGE_BYTES
}

fn size(node: &NodeFacts, image: &str) -> Option<i64> {
    let tagged = if image.rsplit('/').next().is_some_and(|last| last.contains([':', '@'])) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    };
    let named = |entry: &&Value| meta::list_at(entry, &["names"]).iter().any(|name| name == tagged.as_str());
    meta::list_at(&node.node, &["status", "images"]).iter().find(named).and_then(|entry| entry["sizeBytes"].as_i64())
}
