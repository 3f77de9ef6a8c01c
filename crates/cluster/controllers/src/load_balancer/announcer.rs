//! Which node says on the wire that a service's address of the pool is its own. One node does, and keeps to it as long as it can:
//! every move costs the connections that go through it. Pure.

use std::collections::BTreeSet;

use cache::{Key, Kind, View, Write};
use resources::{Value, meta};
use serde_json::json;

use super::takes;

/// Names the node, for the nodes to read.
pub const ANNOUNCED_BY: &str = "knarr.io/announced-by";

fn announcer(service: &Value) -> Option<&str> {
    meta::at(service, &["metadata", "annotations", ANNOUNCED_BY]).and_then(Value::as_str)
}

/// The node that has it, if it still can; else one that follows from the service's name, so that services spread.
pub(super) fn choose(view: &View, key: &Key, service: &Value) -> Option<String> {
    let near = (service["spec"]["externalTrafficPolicy"] == "Local").then(|| with_endpoints(view, key));
    let can = |name: &str| near.as_ref().is_none_or(|near| near.contains(name));
    let nodes = view.list(Kind::Node).filter(|node| takes(node)).map(|node| meta::name(node));
    let mut nodes: Vec<&str> = nodes.filter(|name| can(name)).collect();
    if let Some(now) = announcer(service)
        && nodes.contains(&now)
    {
        return Some(now.to_owned());
    }
    nodes.sort_by_key(|name| weight(key, name));
    nodes.first().map(|name| (*name).to_owned())
}

/// Nodes with an endpoint that serves.
fn with_endpoints(view: &View, key: &Key) -> BTreeSet<String> {
    let all = view.slices_of(key).flat_map(|slice| meta::list_at(slice, &["endpoints"]));
    let ready = all.filter(|endpoint| endpoint["conditions"]["ready"].as_bool().unwrap_or(true));
    ready.filter_map(|endpoint| endpoint["nodeName"].as_str().map(str::to_owned)).collect()
}

/// FNV-1a of both names.
fn weight(key: &Key, node: &str) -> u64 {
    let bytes = format!("{key} {node}");
    bytes.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The annotation, unless it says so already.
pub(super) fn tell(service: &Value, node: Option<String>) -> Option<Write> {
    if announcer(service) == node.as_deref() {
        return None;
    }
    let patch = json!({"metadata": {"uid": meta::uid(service), "annotations": {ANNOUNCED_BY: node}}});
    Some(Write::Merge { kind: Kind::Service, key: Key::of(service), sub: "", patch })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name, "resourceVersion": "1"}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn service(local: bool, now: Option<&str>) -> Value {
        let policy = if local { "Local" } else { "Cluster" };
        json!({"metadata": {"name": "s", "namespace": "d", "annotations": {ANNOUNCED_BY: now}},
            "spec": {"externalTrafficPolicy": policy}})
    }

    #[test]
    fn who_announces_goes_on_until_it_cannot() {
        let endpoints = json!([{"nodeName": "a", "conditions": {"ready": false}}, {"nodeName": "c", "conditions": {"ready": true}}]);
        let slice = json!({"metadata": {"name": "s-1", "namespace": "d", "resourceVersion": "1",
            "labels": {"kubernetes.io/service-name": "s"}}, "endpoints": endpoints});
        for (nodes, local, now, wanted) in [
            (&[("a", "True"), ("b", "True"), ("c", "True")] as &[_], false, Some("b"), Some("b")),
            (&[("a", "True"), ("b", "Unknown")], false, Some("b"), Some("a")),
            (&[("a", "True"), ("b", "True"), ("c", "True")], true, Some("a"), Some("c")),
            (&[("a", "True"), ("b", "True")], true, Some("a"), None),
            (&[], false, None, None),
        ] {
            let mut view = View::default();
            nodes.iter().for_each(|(name, ready)| assert!(view.put(Kind::Node, node(name, ready))));
            view.put(Kind::EndpointSlice, slice.clone());
            let chosen = choose(&view, &Key::new("d", "s"), &service(local, now));
            assert_eq!(chosen.as_deref(), wanted, "{nodes:?} {local} {now:?}");
        }
    }

    #[test]
    fn services_spread_over_the_nodes() {
        let mut view = View::default();
        ["a", "b", "c"].iter().for_each(|name| assert!(view.put(Kind::Node, node(name, "True"))));
        let of = |number: usize| choose(&view, &Key::new("d", format!("web-{number}")), &service(false, None)).unwrap();
        let mut all: Vec<String> = (0..30).map(of).collect();
        all.sort();
        all.dedup();
        assert_eq!(all, ["a", "b", "c"]);
    }
}
