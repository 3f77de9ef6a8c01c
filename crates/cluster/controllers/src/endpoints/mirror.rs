//! Slices that mirror Endpoints which people, or other controllers, keep for services without a selector: the data plane reads
//! slices alone.

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;

use super::{LEADER, SERVICE_NAME, SLICE_MANAGED_BY};
use crate::{Names, pods};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Addresses of one subset that are mirrored.
const SUBSET_MAX: usize = 1000;

pub struct MirroredSlices {
    names: Names,
}

impl MirroredSlices {
    pub fn new(names: Names) -> Self {
        Self { names }
    }
}

impl Part for MirroredSlices {
    fn name(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Endpoints, Kind::Service, Kind::EndpointSlice]
    }

    fn keys(&self, _: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::EndpointSlice if !is_ours(object) => Vec::new(),
            Kind::EndpointSlice => {
                let service = meta::at(object, &["metadata", "labels", SERVICE_NAME]).and_then(Value::as_str);
                service.map(|service| Key::new(meta::namespace(object), service)).into_iter().collect()
            }
            _ => vec![Key::of(object)],
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, _: Timestamp) -> Outcome {
        let mut existing: Vec<&Value> =
            view.slices_of(key).filter(|slice| is_ours(slice)).map(|slice| &**slice).collect();
        let endpoints = view.at(Kind::Endpoints, key).filter(|endpoints| is_mirrored(endpoints));
        let service = view.at(Kind::Service, key).filter(|service| super::selector_of(service).is_none());
        let wanted = match (endpoints, service) {
            (Some(endpoints), Some(_)) => wanted(endpoints),
            _ => Vec::new(),
        };
        let mut writes = Vec::new();
        for slice in wanted {
            let alike =
                |have: &&Value| have["addressType"] == slice["addressType"] && have.get("ports") == slice.get("ports");
            if let Some(at) = existing.iter().position(alike) {
                let have = existing.swap_remove(at);
                let labels = have["metadata"]["labels"] == slice["metadata"]["labels"];
                if have["endpoints"] != slice["endpoints"] || !labels {
                    let mut changed = have.clone();
                    changed["endpoints"] = slice["endpoints"].clone();
                    changed["metadata"]["labels"] = slice["metadata"]["labels"].clone();
                    writes.push(Write::Update(Kind::EndpointSlice, changed));
                }
                continue;
            }
            let mut slice = slice;
            let (name, base) = pods::one_of_many(&slice, &self.names.suffix());
            meta::set(&mut slice, "name", name);
            meta::set(&mut slice, "generateName", base);
            writes.push(Write::Create(Kind::EndpointSlice, slice));
        }
        writes.extend(existing.into_iter().map(|slice| Write::delete(Kind::EndpointSlice, slice)));
        Outcome::of(writes)
    }
}

fn is_ours(slice: &Value) -> bool {
    meta::at(slice, &["metadata", "labels", SLICE_MANAGED_BY]) == Some(&Value::from(MANAGER))
}

fn is_mirrored(endpoints: &Value) -> bool {
    let skipped = meta::at(endpoints, &["metadata", "labels", SKIP]) == Some(&json!("true"));
    let elects = meta::at(endpoints, &["metadata", "annotations", LEADER]).is_some();
    !skipped && !elects && !meta::is_terminating(endpoints)
}

/// The slices, named as the Endpoints yet: one a subset and family.
fn wanted(endpoints: &Value) -> Vec<Value> {
    let name = meta::name(endpoints);
    let labels: Value = super::copied_labels(endpoints, &[(SERVICE_NAME, name), (SLICE_MANAGED_BY, MANAGER)]).into();
    let mut slices = Vec::new();
    for subset in meta::list_at(endpoints, &["subsets"]) {
        let all = [("addresses", true), ("notReadyAddresses", false)]
            .into_iter()
            .flat_map(|(field, ready)| meta::list_at(subset, &[field]).iter().map(move |address| (address, ready)));
        let all: Vec<_> = all.take(SUBSET_MAX).collect();
        let ports: Vec<Value> = meta::list_at(subset, &["ports"])
            .iter()
            .map(|port| {
                let mut port = port.clone();
                port["name"] = port["name"].as_str().unwrap_or_default().into();
                port["protocol"] = port["protocol"].as_str().unwrap_or("TCP").into();
                port
            })
            .collect();
        for (family, ipv6) in [("IPv4", false), ("IPv6", true)] {
            let of_family: Vec<Value> = all
                .iter()
                .filter(|(address, _)| {
                    let ip = address["ip"].as_str().and_then(|ip| ip.parse::<std::net::IpAddr>().ok());
                    ip.is_some_and(|ip| ip.is_ipv6() == ipv6)
                })
                .map(|(address, ready)| {
                    let mut endpoint = json!({"addresses": [address["ip"]], "conditions": {"ready": ready}});
                    for field in ["hostname", "nodeName", "targetRef"] {
                        if let Some(value) = address.get(field) {
                            endpoint[field] = value.clone();
                        }
                    }
                    endpoint
                })
                .collect();
            if !of_family.is_empty() {
                slices.push(
                    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                    "metadata": {"name": name, "namespace": meta::namespace(endpoints), "labels": labels,
                        "ownerReferences": pods::owner_reference(Kind::Endpoints, endpoints)},
                    "endpoints": of_family, "ports": ports}),
                );
            }
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(selector: Value, endpoints: Value) -> View {
        let mut view = View::default();
        view.put(
            Kind::Service,
            json!({"metadata": {"name": "db", "namespace": "d", "uid": "s", "resourceVersion": "1"}, "spec": {"selector": selector}}),
        );
        view.put(Kind::Endpoints, endpoints);
        view
    }

    fn endpoints(labels: Value) -> Value {
        json!({"metadata": {"name": "db", "namespace": "d", "uid": "e", "resourceVersion": "1", "labels": labels},
            "subsets": [{"addresses": [{"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}], "ports": [{"port": 5432}]}]})
    }

    fn run(view: &View) -> Vec<Write> {
        MirroredSlices::new(Names::new(1)).reconcile(view, &Key::new("d", "db"), Timestamp::UNIX_EPOCH).writes
    }

    #[test]
    fn endpoints_kept_by_hand_get_a_slice_a_family() {
        let view = view(json!(null), endpoints(json!({"a": "b"})));
        let made: Vec<String> = run(&view)
            .iter()
            .map(|write| match write {
                Write::Create(Kind::EndpointSlice, slice) => format!(
                    "{} {} {} {}",
                    slice["addressType"],
                    slice["endpoints"][0]["addresses"],
                    slice["ports"][0]["port"],
                    slice["metadata"]["labels"]["a"]
                ),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(made, [r#""IPv4" ["192.0.2.7"] 5432 "b""#, r#""IPv6" ["2001:db8::7"] 5432 "b""#]);
    }

    #[test]
    fn what_has_a_selector_or_does_not_want_it_is_not_mirrored() {
        assert_eq!(run(&view(json!({"app": "db"}), endpoints(json!({})))), []);
        assert_eq!(run(&view(json!(null), endpoints(json!({SKIP: "true"})))), []);
    }
}
