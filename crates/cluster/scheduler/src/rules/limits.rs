//! How many volumes of a driver a node can hold.

use std::collections::{BTreeMap, BTreeSet};

use cache::{Kind, View};
use resources::{Value, binding, meta};

use super::{Happened, Judge, Refusal, Rule};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;

pub struct Limits;

/// The pod's volumes by driver.
struct Wants<'a> {
    volumes: BTreeMap<String, BTreeSet<String>>,
    view: &'a View,
}

/// Driver and handle of the volume that a claim has, or will have.
fn volume(view: &View, namespace: &str, name: &str) -> Option<(String, String)> {
    let claim = view.get(Kind::Claim, namespace, name)?;
    let bound = meta::str_at(claim, &["spec", "volumeName"]);
    if let Some(volume) = view.get(Kind::Volume, "", bound) {
        let csi = &volume["spec"]["csi"];
        let text = |name: &str| csi[name].as_str().map(str::to_owned);
        return Some((text("driver")?, text("volumeHandle")?));
    }
    let class = view.get(Kind::StorageClass, "", binding::class(claim))?;
    let driver = class["provisioner"].as_str().filter(|driver| *driver != binding::NO_PROVISIONER)?;
    Some((driver.to_owned(), format!("{namespace}/{name}")))
}

fn by_driver(view: &View, pod: &PodFacts, into: &mut BTreeMap<String, BTreeSet<String>>) {
    for claim in &pod.claims {
        if let Some((driver, handle)) = volume(view, pod.namespace(), claim) {
            into.entry(driver).or_default().insert(handle);
        }
    }
}

impl Rule for Limits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, facts: Facts<'a>, _: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        if pod.claims.is_empty() || facts.view.count(Kind::CsiNode) == 0 {
            return None;
        }
        let mut volumes = BTreeMap::new();
        by_driver(facts.view, pod, &mut volumes);
        (!volumes.is_empty()).then(|| Box::new(Wants { volumes, view: facts.view }) as Box<dyn Judge>)
    }

    fn may_help(&self, happened: Happened) -> bool {
        matches!(happened, Happened::NodeCame | Happened::NodeChanged | Happened::PodLeft | Happened::VolumesChanged)
    }
}

/// How many volumes of a driver a node says that it can hold.
fn limit(node: &Value, driver: &str) -> Option<i64> {
    let found = meta::list_at(node, &["spec", "drivers"]).iter().find(|one| one["name"] == driver)?;
    found["allocatable"]["count"].as_i64()
}

impl Judge for Wants<'_> {
    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        let Some(says) = self.view.get(Kind::CsiNode, "", &node.name) else { return Ok(()) };
        let mut held = BTreeMap::new();
        node.all_pods().for_each(|pod| by_driver(self.view, pod, &mut held));
        for (driver, wanted) in &self.volumes {
            let Some(limit) = limit(says, driver) else { continue };
            let held = held.get(driver).cloned().unwrap_or_default();
            let fresh = wanted.difference(&held).count();
            if fresh > 0 && (held.len() + fresh) as i64 > limit {
                return Err(Refusal::curable("node(s) exceed max volume count"));
            }
        }
        Ok(())
    }
}
