//! Who answers for a service: EndpointSlices of services with a selector, the older Endpoints beside them, and slices that mirror
//! Endpoints which people keep by hand.
//!
//! What the three have in common is here: which pods a service has, which of their addresses and ports count, and what is said
//! of them.

mod legacy;
mod mirror;
mod slices;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cache::{Key, Kind, View};
use resources::ports::named_port;
use resources::{Value, meta, selector};
use serde_json::{Map, json};

pub use legacy::LegacyEndpoints;
pub use mirror::MirroredSlices;
pub use slices::EndpointSlices;

use crate::pods;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const HEADLESS: &str = "service.kubernetes.io/headless";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// `spec.selector`, if it selects something.
fn selector_of(service: &Value) -> Option<BTreeMap<String, String>> {
    let selector: BTreeMap<String, String> = meta::map_at(service, &["spec", "selector"])
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    (!selector.is_empty()).then_some(selector)
}

fn selects(selector: &BTreeMap<String, String>, pod: &Value) -> bool {
    selector::matches_map(selector, meta::at(pod, &["metadata", "labels"]).unwrap_or(&Value::Null))
}

fn is_headless(service: &Value) -> bool {
    service["spec"]["clusterIP"] == "None"
}

/// Services of a namespace whose selector takes in a pod.
fn services_of(view: &View, pod: &Value) -> Vec<Key> {
    let labels = meta::at(pod, &["metadata", "labels"]).unwrap_or(&Value::Null);
    view.services_of(meta::namespace(pod), labels).map(|service| Key::of(service)).collect()
}

/// Pods that a service has, whether ready or not.
fn pods_of<'a>(view: &'a View, service: &Value, terminating: bool) -> Vec<&'a Arc<Value>> {
    let Some(selector) = selector_of(service) else { return Vec::new() };
    view.in_namespace(Kind::Pod, meta::namespace(service))
        .filter(|pod| !pods::is_ended(pod) && (terminating || !meta::is_terminating(pod)) && selects(&selector, pod))
        .collect()
}

/// A pod's address of a family.
fn address(pod: &Value, ipv6: bool) -> Option<&str> {
    let listed = meta::list_at(pod, &["status", "podIPs"]).iter().filter_map(|entry| entry["ip"].as_str());
    let of_family = |ip: &&str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == ipv6);
    listed.chain([meta::str_at(pod, &["status", "podIP"])]).find(of_family)
}

/// The families of a service's addresses, as slices name them.
fn families(service: &Value) -> Vec<&'static str> {
    let listed: Vec<&str> =
        meta::list_at(service, &["spec", "ipFamilies"]).iter().filter_map(|family| family.as_str()).collect();
    match listed.as_slice() {
        [] => vec!["IPv4"],
        _ => ["IPv4", "IPv6"].into_iter().filter(|family| listed.contains(family)).collect(),
    }
}

/// The ports of a service as they are on this pod. A port by a name that the pod does not have is left out.
fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    let found = meta::list_at(service, &["spec", "ports"]).iter().filter_map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let number = match &port["targetPort"] {
            Value::String(name) => named_port(pod, name, protocol)?,
            Value::Number(number) => number.as_i64().filter(|number| *number != 0).or(port["port"].as_i64())?,
            _ => port["port"].as_i64()?,
        };
        let mut out = json!({"name": port["name"].as_str().unwrap_or_default(), "port": number, "protocol": protocol});
        if let Some(app) = port["appProtocol"].as_str() {
            out["appProtocol"] = app.into();
        }
        Some(out)
    });
    found.collect()
}

fn target(pod: &Value) -> Value {
    json!({"kind": "Pod", "namespace": meta::namespace(pod), "name": meta::name(pod), "uid": meta::uid(pod)})
}

/// The name below the service's by which a pod can be asked for.
fn hostname(service: &Value, pod: &Value) -> Option<String> {
    let name = meta::str_at(pod, &["spec", "hostname"]);
    let within = meta::str_at(pod, &["spec", "subdomain"]) == meta::name(service);
    (!name.is_empty() && within).then(|| name.to_owned())
}

/// An object's labels, but for those that its maker keeps for itself.
fn copied_labels(object: &Value, own: &[(&str, &str)]) -> Map<String, Value> {
    let reserved = [SERVICE_NAME, SLICE_MANAGED_BY, HEADLESS];
    let mut labels: Map<String, Value> = meta::map_at(object, &["metadata", "labels"])
        .filter(|(key, _)| !reserved.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.extend(own.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))));
    labels
}

/// Which services a pod was last seen in: what changed its labels or went concerns those as well.
#[derive(Debug, Default)]
struct Members {
    services: BTreeMap<Key, BTreeSet<String>>,
    pods: BTreeMap<Key, BTreeSet<Key>>,
}

impl Members {
    fn set(&mut self, service: &Key, pods: impl Iterator<Item = Key>) {
        for pod in self.services.remove(service).unwrap_or_default() {
            let key = Key::new(&service.namespace, pod);
            if let Some(services) = self.pods.get_mut(&key) {
                services.remove(service);
                if services.is_empty() {
                    self.pods.remove(&key);
                }
            }
        }
        let mut names = BTreeSet::new();
        for pod in pods {
            names.insert(pod.name.clone());
            self.pods.entry(pod).or_default().insert(service.clone());
        }
        if !names.is_empty() {
            self.services.insert(service.clone(), names);
        }
    }

    fn of(&self, pod: &Value) -> impl Iterator<Item = Key> {
        self.pods.get(&Key::of(pod)).into_iter().flatten().cloned()
    }
}

/// Keys of the services that a pod concerns.
fn pod_keys(view: &View, members: &Members, pod: &Value) -> Vec<Key> {
    let mut keys: BTreeSet<Key> = services_of(view, pod).into_iter().collect();
    keys.extend(members.of(pod));
    keys.into_iter().collect()
}
