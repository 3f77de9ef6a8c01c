//! Nodes that have the pod's images already.

use resources::meta;

use super::{Happened, Judge, Rule, SCORE_MAX};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;

const SMALL_BYTES: i64 = 23 << 20;
const LARGE_BYTES: i64 = 1000 << 20;

pub struct Locality;

/// The pod's images with the number of nodes that have each.
struct Wants {
    images: Vec<(String, i64)>,
    nodes: i64,
    containers: i64,
}

impl Rule for Locality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn filters(&self) -> bool {
        false
    }

    fn judge<'a>(&self, pod: &'a PodFacts, facts: Facts<'a>, _: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        let lists = ["initContainers", "containers"].map(|list| meta::list_at(pod.spec(), &[list]));
        let containers = lists.iter().map(|list| list.len() as i64).sum();
        let names = lists.into_iter().flatten().filter_map(|container| container["image"].as_str()).map(tagged);
        let held = names.filter_map(|name| {
            let count = facts.cluster.images.get(&name).copied().filter(|count| *count > 0)?;
            Some((name, count))
        });
        let images: Vec<(String, i64)> = held.collect();
        let wants = Wants { images, nodes: facts.nodes.len().max(1) as i64, containers };
        (!wants.images.is_empty()).then(|| Box::new(wants) as Box<dyn Judge>)
    }

    fn may_help(&self, _: Happened) -> bool {
        false
    }
}

/// As nodes name it.
fn tagged(image: &str) -> String {
    match image.rsplit('/').next().is_some_and(|last| last.contains([':', '@'])) {
        true => image.to_owned(),
        false => format!("{image}:latest"),
    }
}

impl Judge for Wants {
    fn score(&self, node: &NodeFacts) -> i64 {
        // An image that few nodes have draws less, so that not all pods go where the first one went.
        let worth = self.images.iter().filter_map(|(name, holders)| {
            node.images.get(name).map(|size| (i128::from(*size) * i128::from(*holders) / i128::from(self.nodes)) as i64)
        });
        let most = LARGE_BYTES * self.containers.max(1);
        (worth.sum::<i64>().clamp(SMALL_BYTES, most) - SMALL_BYTES) * SCORE_MAX / (most - SMALL_BYTES)
    }
}
