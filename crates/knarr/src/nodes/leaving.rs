//! A pod's end waits until nobody is led to it: its endpoint leaves the data plane of every node, the nodes acknowledge, and
//! only then are its containers told to end.
//!
//! What is waited for is a revision: that of the newest slice which says that the pod ends. Every node tells up to which revision its
//! data plane has come. A pod that ends before any node has heard of it as an endpoint is no exception: its slices will name it, too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use cache::{Key, Kind, View};
use client::{Peers, percent_encode};
use proxy::Outlets;
use resources::{Value, meta};
use tokio::time::Instant;
use tracing::debug;

/// For all of it. Less than what the node agent has.
const PATIENCE: Duration = Duration::from_secs(4);
/// A node that kept silent is not waited for again for so long: whoever asks from there would not get here either.
const SILENT: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(50);

/// What a pod's end asks on this node.
pub struct Leaving {
    node: String,
    view: Arc<RwLock<View>>,
    outlets: Outlets,
    peers: Peers,
    /// What is known of the other nodes, by their names.
    others: Mutex<BTreeMap<String, Other>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Other {
    /// The newest revision that it has acknowledged.
    reached: u64,
    silent_until: Option<Instant>,
}

impl Leaving {
    /// `view` shows services, slices and nodes.
    pub fn new(node: &str, view: Arc<RwLock<View>>, outlets: Outlets, peers: Peers) -> Arc<Self> {
        Arc::new(Self { node: node.to_owned(), view, outlets, peers, others: Mutex::default() })
    }

    /// For the node agent: what a pod of this node waits for before it ends.
    pub fn leave(self: &Arc<Self>) -> kubelet::Leave {
        let this = self.clone();
        Arc::new(move |pod| {
            let this = this.clone();
            Box::pin(async move { this.left(&pod).await })
        })
    }

    /// For the node agent: what others wait for.
    pub fn reached(&self) -> kubelet::Reached {
        let outlets = self.outlets.clone();
        Arc::new(move |revision| {
            let outlets = outlets.clone();
            Box::pin(async move { outlets.reached(revision, PATIENCE).await })
        })
    }

    async fn left(&self, pod: &Value) {
        let until = Instant::now() + PATIENCE;
        // Slices that somebody keeps by hand lead to it as well.
        self.outlets.left(meta::uid(pod), PATIENCE).await;
        if let Some(revision) = self.told(pod, until).await.filter(|revision| *revision > 0) {
            let others = self.others(revision);
            let asked = others.iter().map(|other| self.ask(other, revision, until));
            let mut all: Vec<_> = asked.map(Box::pin).collect();
            // Concurrently, without a task for each: they end with this.
            std::future::poll_fn(|context| {
                all.retain_mut(|one| one.as_mut().poll(context).is_pending());
                if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
        }
        let listed = meta::list_at(pod, &["status", "podIPs"]).iter();
        let addresses: Vec<IpAddr> = listed.filter_map(|entry| entry["ip"].as_str()?.parse().ok()).collect();
        proxy::drain(&addresses).await;
    }

    /// The revision at which all services have let go of the pod, once that is known here and in this node's data plane.
    async fn told(&self, pod: &Value, until: Instant) -> Option<u64> {
        let mut changes = self.outlets.changes();
        loop {
            let now = {
                let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
                let nodes = view.count(Kind::Node);
                let own = view.get(Kind::Pod, meta::namespace(pod), meta::name(pod));
                let own = own.filter(|own| meta::uid(own) == meta::uid(pod));
                (ends_at(&view, own.map_or(pod, |own| own)), nodes)
            };
            match now {
                (Some(revision), 0 | 1) => return self.here(revision, until).await.then_some(0),
                (Some(revision), _) => return self.here(revision, until).await.then_some(revision),
                (None, _) => {}
            }
            match tokio::time::timeout_at(until, changes.changed()).await {
                Ok(Ok(())) => {}
                _ => return None,
            }
        }
    }

    async fn here(&self, revision: u64, until: Instant) -> bool {
        self.outlets.reached(revision, until.saturating_duration_since(Instant::now())).await
    }

    /// The nodes that have not acknowledged this revision yet and can be expected to.
    fn others(&self, revision: u64) -> Vec<Arc<Value>> {
        let now = Instant::now();
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| view.get(Kind::Node, "", name).is_some());
        let behind = |name: &str| {
            known
                .get(name)
                .is_none_or(|other| other.reached < revision && other.silent_until.is_none_or(|until| until < now))
        };
        let all = view.list(Kind::Node).filter(|node| meta::name(node) != self.node && is_ready(node));
        all.filter(|node| behind(meta::name(node))).cloned().collect()
    }

    async fn ask(&self, node: &Value, revision: u64, until: Instant) {
        let name = meta::name(node);
        let path = format!("/knarr/reached?revision={}", percent_encode(&revision.to_string()));
        let asking = async {
            loop {
                match self.peers.ask(node, &path).await {
                    Ok((code, text)) if code.is_success() && text == "true" => return true,
                    // It has not come so far in its own patience, which is ours.
                    Ok((code, _)) if code.is_success() => return false,
                    // Somebody else's agent, or one without services: nothing to wait for.
                    Ok((code, text)) if code.is_client_error() => {
                        debug!(node = name, %code, text, "a node does not acknowledge");
                        return true;
                    }
                    Ok((code, text)) => debug!(node = name, %code, text, "a node does not acknowledge; asking again"),
                    Err(why) => debug!(node = name, why, "a node cannot be asked; asking again"),
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        let there = tokio::time::timeout_at(until, asking).await;
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let other = others.entry(name.to_owned()).or_default();
        match there {
            Ok(true) => *other = Other { reached: revision.max(other.reached), silent_until: None },
            Ok(false) | Err(_) => {
                tracing::warn!(node = name, "a node does not say that it leads nobody to a pod that ends");
                other.silent_until = Some(Instant::now() + SILENT);
            }
        }
    }
}

/// The revision at which every service of a pod has said that it ends; zero for one without. `None`: some have not yet. Pure.
fn ends_at(view: &View, pod: &Value) -> Option<u64> {
    let addressed = !meta::list_at(pod, &["status", "podIPs"]).is_empty();
    let over = matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed");
    if !addressed || over {
        return Some(0);
    }
    let mut newest = 0;
    let labels = &pod["metadata"]["labels"];
    for service in view.services_of(meta::namespace(pod), labels).filter(|service| leads(service)) {
        let mut named = false;
        for slice in view.slices_of(&Key::of(service)) {
            let own = |endpoint: &&Value| endpoint["targetRef"]["uid"].as_str() == Some(meta::uid(pod));
            let Some(endpoint) = meta::list_at(slice, &["endpoints"]).iter().find(own) else { continue };
            if endpoint["conditions"]["terminating"] != true {
                return None;
            }
            named = true;
            newest = newest.max(meta::resource_version(slice).parse().unwrap_or(0));
        }
        // A pod with an address is in a slice of each of its services, or will be.
        if !named {
            return None;
        }
    }
    Some(newest)
}

/// Whether a service has endpoints.
fn leads(service: &Value) -> bool {
    service["spec"]["type"] != "ExternalName" && !meta::is_terminating(service)
}

fn is_ready(node: &Value) -> bool {
    let conditions = meta::list_at(node, &["status", "conditions"]);
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, service: &str, revision: u64, endpoints: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": revision.to_string(),
            "labels": {"kubernetes.io/service-name": service}}, "endpoints": endpoints})
    }

    fn endpoint(uid: &str, terminating: bool) -> Value {
        json!({"targetRef": {"uid": uid}, "conditions": {"terminating": terminating, "ready": !terminating}})
    }

    #[test]
    fn every_service_of_a_pod_has_to_let_go() {
        let mut pod = json!({"metadata": {"name": "a", "namespace": "d", "uid": "u", "labels": {"app": "web", "x": "y"}},
            "status": {"podIPs": [{"ip": "10.0.0.1"}]}});
        let service = |name: &str, selector: Value| json!({"metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "1"}, "spec": {"selector": selector}});
        let mut view = View::default();
        assert_eq!(ends_at(&view, &pod), Some(0), "no service");
        view.put(Kind::Service, service("web", json!({"app": "web"})));
        view.put(Kind::Service, service("other", json!({"app": "other"})));
        view.put(Kind::Service, service("none", json!({})));
        assert_eq!(ends_at(&view, &pod), None, "nobody has said yet that it is an endpoint");
        view.put(Kind::EndpointSlice, slice("s", "web", 5, json!([endpoint("other", false), endpoint("u", false)])));
        assert_eq!(ends_at(&view, &pod), None);
        view.put(Kind::EndpointSlice, slice("s", "web", 7, json!([endpoint("u", true)])));
        assert_eq!(ends_at(&view, &pod), Some(7));
        view.put(Kind::Service, service("more", json!({"x": "y"})));
        assert_eq!(ends_at(&view, &pod), None);
        view.put(Kind::EndpointSlice, slice("t", "more", 9, json!([endpoint("u", true)])));
        assert_eq!(ends_at(&view, &pod), Some(9));
        pod["status"] = json!({});
        assert_eq!(ends_at(&view, &pod), Some(0), "what never had an address is no endpoint");
    }
}
