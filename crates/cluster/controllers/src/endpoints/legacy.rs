//! Endpoints: the older form, one object a service with all of its ready pods, for clients that still read it.

use std::collections::{BTreeMap, BTreeSet};

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;

use super::{HEADLESS, LEADER, Members};
use crate::pods;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object; the slices have all of them.
const ADDRESSES_MAX: usize = 1000;

#[derive(Default)]
pub struct LegacyEndpoints {
    members: Members,
    /// Services that were there: what belonged to one goes with it.
    known: BTreeSet<Key>,
}

impl Part for LegacyEndpoints {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::Pod, Kind::Endpoints]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::Service => vec![Key::of(object)],
            Kind::Pod => super::pod_keys(view, &self.members, object),
            // What people keep by hand is theirs.
            _ if meta::at(object, &["metadata", "labels", MANAGED_BY]).is_some() => vec![Key::of(object)],
            _ => Vec::new(),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, _: Timestamp) -> Outcome {
        let have = view.at(Kind::Endpoints, key);
        let Some(service) = view.at(Kind::Service, key) else {
            self.members.set(key, [].into_iter());
            let was_known = self.known.remove(key);
            let elects = |object: &Value| meta::at(object, &["metadata", "annotations", LEADER]).is_some();
            let ours = |object: &Value| meta::at(object, &["metadata", "labels", MANAGED_BY]).is_some();
            let gone = have.filter(|have| !elects(have) && (was_known || ours(have)));
            return Outcome::of(gone.map(|have| Write::delete(Kind::Endpoints, have)).into_iter().collect());
        };
        self.known.insert(key.clone());
        if super::selector_of(service).is_none() || service["spec"]["type"] == "ExternalName" {
            self.members.set(key, [].into_iter());
            return Outcome::default();
        }
        let published = service["spec"]["publishNotReadyAddresses"] == true;
        let members = super::pods_of(view, service, published);
        self.members.set(key, members.iter().map(|pod| Key::of(pod)));
        let (subsets, truncated) = subsets(service, &members, published);
        let mut own = vec![(MANAGED_BY, MANAGER)];
        if super::is_headless(service) {
            own.push((HEADLESS, ""));
        }
        let labels: Value = super::copied_labels(service, &own).into();
        let mut wanted = have.map_or_else(
            || {
                json!({"apiVersion": "v1", "kind": "Endpoints",
                    "metadata": {"name": key.name, "namespace": key.namespace}})
            },
            |have| (**have).clone(),
        );
        wanted["metadata"]["labels"] = labels;
        wanted["subsets"] = subsets.into();
        let annotations = meta::object_at(&mut wanted, &["metadata", "annotations"]);
        match truncated {
            true => drop(annotations.insert(OVER_CAPACITY.into(), "truncated".into())),
            false => drop(annotations.remove(OVER_CAPACITY)),
        }
        if annotations.is_empty() {
            meta::unset(&mut wanted, "annotations");
        }
        Outcome::of(match have {
            None => vec![Write::Create(Kind::Endpoints, wanted)],
            Some(have) => {
                let same = meta::list_at(have, &["subsets"]) == meta::list_at(&wanted, &["subsets"])
                    && have["metadata"] == wanted["metadata"];
                if same { Vec::new() } else { vec![Write::Update(Kind::Endpoints, wanted)] }
            }
        })
    }
}

fn subsets(service: &Value, members: &[&std::sync::Arc<Value>], published: bool) -> (Vec<Value>, bool) {
    let ipv6 = service["spec"]["ipFamilies"][0] == "IPv6";
    type Addresses = BTreeMap<Vec<u8>, Value>;
    let mut groups: BTreeMap<String, (Vec<Value>, Addresses, Addresses)> = BTreeMap::new();
    let mut count = 0;
    let mut truncated = false;
    // Those that are ready first: they are what is kept where there are too many.
    let (ready, waiting): (Vec<&Value>, Vec<&Value>) =
        members.iter().map(|pod| &***pod).partition(|pod| published || pods::is_ready(pod));
    for (pod, ready) in ready.into_iter().map(|pod| (pod, true)).chain(waiting.into_iter().map(|pod| (pod, false))) {
        let Some(ip) = super::address(pod, ipv6) else { continue };
        let mut ports = super::ports(service, pod);
        if ports.is_empty() && !meta::list_at(service, &["spec", "ports"]).is_empty() {
            continue;
        }
        if count == ADDRESSES_MAX {
            truncated = true;
            break;
        }
        count += 1;
        for port in ports.iter_mut().filter(|port| port["name"] == "") {
            port.as_object_mut().map(|port| port.remove("name"));
        }
        let mut address = json!({"ip": ip, "targetRef": super::target(pod)});
        let node = meta::str_at(pod, &["spec", "nodeName"]);
        if !node.is_empty() {
            address["nodeName"] = node.into();
        }
        if let Some(hostname) = super::hostname(service, pod) {
            address["hostname"] = hostname.into();
        }
        let group = groups
            .entry(Value::from(ports.clone()).to_string())
            .or_insert_with(|| (ports, Addresses::new(), Addresses::new()));
        let place = if ready { &mut group.1 } else { &mut group.2 };
        let sorted = match ip.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(ip)) => ip.octets().to_vec(),
            Ok(std::net::IpAddr::V6(ip)) => ip.octets().to_vec(),
            Err(_) => ip.as_bytes().to_vec(),
        };
        place.insert(sorted, address);
    }
    let subsets = groups.into_values().map(|(ports, ready, waiting)| {
        let mut subset = json!({});
        for (field, list) in [
            ("addresses", ready.into_values().collect::<Vec<_>>()),
            ("notReadyAddresses", waiting.into_values().collect()),
            ("ports", ports),
        ] {
            if !list.is_empty() {
                subset[field] = list.into();
            }
        }
        subset
    });
    (subsets.collect(), truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ip: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "1", "labels": {"app": "w"}},
            "spec": {"nodeName": "n"}, "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn run(part: &mut LegacyEndpoints, view: &View) -> Vec<Write> {
        part.reconcile(view, &Key::new("d", "w"), Timestamp::UNIX_EPOCH).writes
    }

    #[test]
    fn ready_and_waiting_pods_are_told_apart_and_the_object_goes_with_its_service() {
        let mut view = View::default();
        let service = json!({"metadata": {"name": "w", "namespace": "d", "uid": "s", "resourceVersion": "1"},
            "spec": {"selector": {"app": "w"}, "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}});
        view.put(Kind::Service, service.clone());
        view.put(Kind::Pod, pod("a", "10.0.0.10", "True"));
        view.put(Kind::Pod, pod("b", "10.0.0.9", "True"));
        view.put(Kind::Pod, pod("c", "10.0.0.2", "False"));
        let mut part = LegacyEndpoints::default();
        let writes = run(&mut part, &view);
        let [Write::Create(Kind::Endpoints, made)] = writes.as_slice() else { panic!("{writes:?}") };
        let subset = &made["subsets"][0];
        let ips = |field: &str| -> Vec<String> {
            meta::list_at(subset, &[field]).iter().map(|entry| entry["ip"].as_str().unwrap().into()).collect()
        };
        assert_eq!(
            (ips("addresses"), ips("notReadyAddresses")),
            (vec!["10.0.0.9".into(), "10.0.0.10".into()], vec!["10.0.0.2".into()])
        );
        assert_eq!(subset["ports"], json!([{"port": 8080, "protocol": "TCP"}]));
        let mut made = made.clone();
        made["metadata"]["uid"] = "e".into();
        made["metadata"]["resourceVersion"] = "2".into();
        view.put(Kind::Endpoints, made);
        assert_eq!(run(&mut part, &view), []);
        view.remove(Kind::Service, &service);
        assert!(matches!(run(&mut part, &view).as_slice(), [Write::Delete { kind: Kind::Endpoints, .. }]));
    }

    #[test]
    fn what_people_keep_by_hand_is_left_alone() {
        let mut view = View::default();
        let manual =
            json!({"metadata": {"name": "w", "namespace": "d", "uid": "e", "resourceVersion": "1"}, "subsets": []});
        view.put(Kind::Endpoints, manual.clone());
        let mut part = LegacyEndpoints::default();
        assert_eq!(part.keys(&view, Kind::Endpoints, &manual), []);
        assert_eq!(run(&mut part, &view), [], "it was made before its service");
    }
}
