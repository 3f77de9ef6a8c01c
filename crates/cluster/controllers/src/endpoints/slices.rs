//! EndpointSlices of services with a selector: the addresses of its pods, a hundred to a slice, with what can be said of each:
//! ready, serving, terminating. Slices are changed in place where they can be, so that a change of one pod is a write of one slice.

use std::collections::{BTreeMap, BTreeSet};

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;

use super::{HEADLESS, Members, SERVICE_NAME, SLICE_MANAGED_BY};
use crate::{Names, pods};

const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Addresses in one slice.
const SLICE_MAX: usize = 100;
const ZONE: &str = "topology.kubernetes.io/zone";

pub struct EndpointSlices {
    names: Names,
    members: Members,
    /// Zones of nodes that have one: most changes of a node are heartbeats.
    zones: BTreeMap<String, String>,
    /// Services with pods on a node whose zone is another now.
    moved: Vec<Key>,
}

impl EndpointSlices {
    pub fn new(names: Names) -> Self {
        Self { names, members: Members::default(), zones: BTreeMap::new(), moved: Vec::new() }
    }
}

impl Part for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::Pod, Kind::EndpointSlice, Kind::Node]
    }

    fn notice(&mut self, view: &View, kind: Kind, object: &Value) {
        self.moved.clear();
        if kind != Kind::Node {
            return;
        }
        let name = meta::name(object);
        let zone = zone(view, name).and_then(Value::as_str);
        if self.zones.get(name).map(String::as_str) == zone {
            return;
        }
        match zone {
            Some(zone) => self.zones.insert(name.to_owned(), zone.to_owned()),
            None => self.zones.remove(name),
        };
        let moved: BTreeSet<Key> =
            view.pods_on(name).flat_map(|pod| super::pod_keys(view, &self.members, pod)).collect();
        self.moved.extend(moved);
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::Service => vec![Key::of(object)],
            Kind::Pod => super::pod_keys(view, &self.members, object),
            Kind::Node => self.moved.clone(),
            _ if is_ours(object) => {
                let service = meta::at(object, &["metadata", "labels", SERVICE_NAME]).and_then(Value::as_str);
                service.map(|service| Key::new(meta::namespace(object), service)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, _: Timestamp) -> Outcome {
        let service = view.at(Kind::Service, key).filter(|service| !meta::is_terminating(service));
        let Some(service) = service else {
            // The collector takes what a service owned.
            self.members.set(key, [].into_iter());
            return Outcome::default();
        };
        let existing: Vec<&Value> = view.slices_of(key).filter(|slice| is_ours(slice)).map(|slice| &**slice).collect();
        if service["spec"]["type"] == "ExternalName" {
            self.members.set(key, [].into_iter());
            return Outcome::of(existing.into_iter().map(|slice| Write::delete(Kind::EndpointSlice, slice)).collect());
        }
        // Without a selector people keep slices themselves.
        if super::selector_of(service).is_none() {
            return Outcome::default();
        }
        let members = super::pods_of(view, service, true);
        self.members.set(key, members.iter().map(|pod| Key::of(pod)));
        let mut writes = Vec::new();
        for family in super::families(service) {
            let groups = groups(view, service, &members, family);
            let of_family: Vec<&Value> =
                existing.iter().copied().filter(|slice| slice["addressType"] == family).collect();
            self.settle(service, family, groups, &of_family, &mut writes);
        }
        let families = super::families(service);
        let stray = existing.iter().filter(|slice| !families.iter().any(|family| slice["addressType"] == *family));
        writes.extend(stray.map(|slice| Write::delete(Kind::EndpointSlice, slice)));
        Outcome::of(writes)
    }
}

fn is_ours(slice: &Value) -> bool {
    meta::at(slice, &["metadata", "labels", SLICE_MANAGED_BY]) == Some(&Value::from(MANAGER))
}

/// Endpoints by the ports that they have.
type Groups = BTreeMap<String, (Vec<Value>, Vec<Value>)>;

fn groups(view: &View, service: &Value, members: &[&std::sync::Arc<Value>], family: &str) -> Groups {
    let mut groups = Groups::new();
    for pod in members {
        let Some(address) = super::address(pod, family == "IPv6") else { continue };
        let ports = super::ports(service, pod);
        let group = groups.entry(Value::from(ports.clone()).to_string()).or_insert_with(|| (ports, Vec::new()));
        group.1.push(endpoint(view, service, pod, address));
    }
    groups
}

fn endpoint(view: &View, service: &Value, pod: &Value, address: &str) -> Value {
    let (serving, terminating) = (pods::is_ready(pod), meta::is_terminating(pod));
    let published = service["spec"]["publishNotReadyAddresses"] == true;
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {"ready": published || (serving && !terminating), "serving": serving, "terminating": terminating},
        "targetRef": super::target(pod),
    });
    let node = meta::str_at(pod, &["spec", "nodeName"]);
    if !node.is_empty() {
        endpoint["nodeName"] = node.into();
        if let Some(zone) = zone(view, node) {
            endpoint["zone"] = zone.clone();
        }
    }
    if let Some(hostname) = super::hostname(service, pod) {
        endpoint["hostname"] = hostname.into();
    }
    if let Some(hints) = hints(service, &endpoint) {
        endpoint["hints"] = hints;
    }
    endpoint
}

fn zone<'a>(view: &'a View, node: &str) -> Option<&'a Value> {
    meta::at(view.get(Kind::Node, "", node)?, &["metadata", "labels", ZONE])
}

/// For whom an endpoint is meant before others, where the service wants its traffic kept near.
fn hints(service: &Value, endpoint: &Value) -> Option<Value> {
    let wanted = service["spec"]["trafficDistribution"].as_str()?;
    if endpoint["conditions"]["ready"] != true {
        return None;
    }
    let named = |name: &Value| json!([{"name": name}]);
    let mut hints = json!({});
    if let Some(zone) = endpoint.get("zone") {
        hints["forZones"] = named(zone);
    }
    match wanted {
        // The same under an older name and its own.
        "PreferClose" | "PreferSameZone" => {}
        "PreferSameNode" => {
            if let Some(node) = endpoint.get("nodeName") {
                hints["forNodes"] = named(node);
            }
        }
        _ => return None,
    }
    hints.as_object().is_some_and(|hints| !hints.is_empty()).then_some(hints)
}

impl EndpointSlices {
    /// Makes the slices of one family hold these groups.
    fn settle(
        &mut self,
        service: &Value,
        family: &str,
        mut groups: Groups,
        existing: &[&Value],
        writes: &mut Vec<Write>,
    ) {
        if groups.is_empty() {
            // One empty slice says that somebody has looked and there is nobody.
            groups.insert("[]".into(), Default::default());
        }
        let labels = labels(service);
        let mut kept: Vec<Value> = Vec::new();
        for (_, (ports, endpoints)) in groups {
            let mut left: BTreeMap<String, Value> =
                endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
            let mut slices: Vec<Value> = existing
                .iter()
                .filter(|slice| meta::list_at(slice, &["ports"]) == ports.as_slice())
                .filter(|slice| !kept.iter().any(|kept| meta::name(kept) == meta::name(slice)))
                .map(|slice| (*slice).clone())
                .collect();
            for slice in &mut slices {
                let have = meta::list_at(slice, &["endpoints"]);
                let stay: Vec<Value> = have.iter().filter_map(|endpoint| left.remove(&identity(endpoint))).collect();
                slice["endpoints"] = stay.into();
            }
            let mut left: Vec<Value> = left.into_values().collect();
            for slice in &mut slices {
                let Some(endpoints) = slice["endpoints"].as_array_mut() else { continue };
                let room = SLICE_MAX.saturating_sub(endpoints.len()).min(left.len());
                endpoints.extend(left.drain(..room));
            }
            // An empty slice stays only where there is no other.
            let full = slices.iter().any(|slice| !meta::list_at(slice, &["endpoints"]).is_empty()) || !left.is_empty();
            let mut first = true;
            slices.retain(|slice| {
                let keep = !meta::list_at(slice, &["endpoints"]).is_empty() || (!full && first);
                first &= !keep;
                keep
            });
            for slice in &mut slices {
                slice["metadata"]["labels"] = labels.clone();
                let before = existing.iter().find(|before| meta::name(before) == meta::name(slice));
                let same = before.is_some_and(|before| {
                    meta::list_at(before, &["endpoints"]) == meta::list_at(slice, &["endpoints"])
                        && before["metadata"]["labels"] == slice["metadata"]["labels"]
                });
                if !same {
                    writes.push(Write::Update(Kind::EndpointSlice, slice.clone()));
                }
            }
            let none = slices.is_empty();
            kept.extend(slices);
            let mut rest = left.as_slice();
            let mut make = none && rest.is_empty();
            while make || !rest.is_empty() {
                let (part, after) = rest.split_at(rest.len().min(SLICE_MAX));
                writes.push(Write::Create(Kind::EndpointSlice, self.new_slice(service, family, &labels, &ports, part)));
                (rest, make) = (after, false);
            }
        }
        let gone = existing.iter().filter(|slice| !kept.iter().any(|kept| meta::name(kept) == meta::name(slice)));
        // First what is new: nobody is to see a service without its pods in between.
        writes.extend(gone.map(|slice| Write::delete(Kind::EndpointSlice, slice)));
    }

    fn new_slice(
        &mut self,
        service: &Value,
        family: &str,
        labels: &Value,
        ports: &[Value],
        endpoints: &[Value],
    ) -> Value {
        let (name, base) = pods::one_of_many(service, &self.names.suffix());
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"name": name, "generateName": base, "namespace": meta::namespace(service), "labels": labels,
                "ownerReferences": pods::owner_reference(Kind::Service, service)},
            "endpoints": endpoints, "ports": ports})
    }
}

fn labels(service: &Value) -> Value {
    let mut own = vec![(SERVICE_NAME, meta::name(service)), (SLICE_MANAGED_BY, MANAGER)];
    if super::is_headless(service) {
        own.push((HEADLESS, ""));
    }
    super::copied_labels(service, &own).into()
}

/// Two endpoints are one if they say the same pod at the same address; the rest may change.
fn identity(endpoint: &Value) -> String {
    format!("{} {}", endpoint["targetRef"]["uid"], endpoint["addresses"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ip: &str, ready: bool) -> Value {
        json!({"metadata": {"name": name, "namespace": "d", "uid": format!("u-{name}"), "resourceVersion": "1",
                "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
    }

    fn service(ports: Value) -> Value {
        json!({"metadata": {"name": "web", "namespace": "d", "uid": "s", "resourceVersion": "1", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.7", "ipFamilies": ["IPv4"], "ports": ports}})
    }

    struct World {
        view: View,
        part: EndpointSlices,
        revision: u64,
    }

    impl World {
        fn new(service: Value, pods: Vec<Value>) -> Self {
            let mut view = View::default();
            view.put(Kind::Service, service);
            for pod in pods {
                view.put(Kind::Pod, pod);
            }
            Self { view, part: EndpointSlices::new(Names::new(1)), revision: 10 }
        }

        /// Reconciles, takes the writes in, and answers each slice as a line.
        fn run(&mut self) -> (usize, Vec<String>) {
            let outcome = self.part.reconcile(&self.view, &Key::new("d", "web"), Timestamp::UNIX_EPOCH);
            let count = outcome.writes.len();
            for write in outcome.writes {
                self.revision += 1;
                match write {
                    Write::Create(kind, mut slice) | Write::Update(kind, mut slice) => {
                        slice["metadata"]["resourceVersion"] = self.revision.to_string().into();
                        let name = meta::name(&slice).to_owned();
                        slice["metadata"]["uid"] = name.into();
                        assert!(self.view.put(kind, slice));
                    }
                    Write::Delete { kind, key, uid, .. } => self.view.bury(kind, &key, &uid),
                    other => panic!("{other:?}"),
                }
            }
            let lines = self.view.list(Kind::EndpointSlice).map(|slice| line(slice)).collect();
            (count, lines)
        }

        fn put(&mut self, pod: Value) {
            let mut pod = pod;
            self.revision += 1;
            pod["metadata"]["resourceVersion"] = self.revision.to_string().into();
            assert!(self.view.put(Kind::Pod, pod));
        }
    }

    fn line(slice: &Value) -> String {
        let ports: Vec<String> = meta::list_at(slice, &["ports"])
            .iter()
            .map(|port| format!("{}{}", port["name"].as_str().unwrap(), port["port"]))
            .collect();
        let endpoints = meta::list_at(slice, &["endpoints"]);
        let shown: Vec<String> = endpoints
            .iter()
            .take(3)
            .map(|endpoint| {
                let flag = |name: &str, letter: &'static str| {
                    if endpoint["conditions"][name] == true { letter } else { "-" }
                };
                let address = endpoint["addresses"][0].as_str().unwrap();
                format!("{address}/{}{}{}", flag("ready", "r"), flag("serving", "s"), flag("terminating", "t"))
            })
            .collect();
        format!("[{}] {} {}", ports.join(","), endpoints.len(), shown.join(" "))
    }

    #[test]
    fn pods_come_get_ready_and_go_in_one_slice() {
        let mut world = World::new(service(json!([{"name": "w", "port": 80, "targetPort": "http"}])), vec![]);
        assert_eq!(world.run(), (1, vec!["[] 0 ".into()]), "somebody has looked");
        assert_eq!(world.run().0, 0);
        world.put(pod("a", "10.0.0.2", false));
        assert_eq!(world.run(), (2, vec!["[w8080] 1 10.0.0.2/---".into()]));
        world.put(pod("a", "10.0.0.2", true));
        assert_eq!(world.run(), (1, vec!["[w8080] 1 10.0.0.2/rs-".into()]));
        world.put(pod("b", "10.0.0.3", true));
        let mut ending = pod("a", "10.0.0.2", true);
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        world.put(ending);
        assert_eq!(world.run(), (1, vec!["[w8080] 2 10.0.0.2/-st 10.0.0.3/rs-".into()]));
        let mut ended = pod("a", "10.0.0.2", false);
        ended["status"]["phase"] = "Succeeded".into();
        world.put(ended);
        assert_eq!(world.run(), (1, vec!["[w8080] 1 10.0.0.3/rs-".into()]));
    }

    #[test]
    fn a_slice_has_a_hundred_and_a_change_writes_one() {
        let pods = (0..250).map(|n| pod(&format!("p{n:03}"), &format!("10.0.{}.{}", n / 200, n % 200 + 2), true));
        let mut world = World::new(service(json!([{"port": 80}])), pods.collect());
        let (writes, lines) = world.run();
        assert_eq!(writes, 3);
        let mut counts: Vec<&str> = lines.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
        counts.sort_unstable();
        assert_eq!(counts, ["100", "100", "50"]);
        world.put(pod("p007", "10.0.0.9", false));
        assert_eq!(world.run().0, 1);
        world.put(pod("zzz", "10.0.9.9", true));
        assert_eq!(world.run().0, 1);
        assert_eq!(world.run().0, 0);
    }

    #[test]
    fn pods_whose_named_port_differs_are_in_slices_of_their_own() {
        let mut other = pod("b", "10.0.0.3", true);
        other["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090.into();
        let pods = vec![pod("a", "10.0.0.2", true), other];
        let mut world = World::new(service(json!([{"name": "w", "port": 80, "targetPort": "http"}])), pods);
        let (_, mut lines) = world.run();
        lines.sort();
        assert_eq!(lines, ["[w8080] 1 10.0.0.2/rs-", "[w9090] 1 10.0.0.3/rs-"]);
    }

    #[test]
    fn not_ready_is_published_where_the_service_says_so_and_both_families_have_slices() {
        let mut service = service(json!([{"port": 80}]));
        service["spec"]["publishNotReadyAddresses"] = true.into();
        service["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
        let mut pod = pod("a", "10.0.0.2", false);
        pod["status"]["podIPs"] = json!([{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]);
        let mut world = World::new(service, vec![pod]);
        let (_, mut lines) = world.run();
        lines.sort();
        assert_eq!(lines, ["[80] 1 10.0.0.2/r--", "[80] 1 fd00::2/r--"]);
    }

    #[test]
    fn a_pod_that_leaves_by_its_labels_concerns_the_service_it_was_in() {
        let mut world = World::new(service(json!([{"port": 80}])), vec![pod("a", "10.0.0.2", true)]);
        world.run();
        let mut left = pod("a", "10.0.0.2", true);
        left["metadata"]["labels"] = json!({"app": "other"});
        world.put(left.clone());
        assert_eq!(world.part.keys(&world.view, Kind::Pod, &left), [Key::new("d", "web")]);
        assert_eq!(world.run(), (2, vec!["[] 0 ".into()]));
        assert_eq!(world.part.keys(&world.view, Kind::Pod, &left), []);
    }

    #[test]
    fn labels_are_the_services_and_the_controllers() {
        let mut service = service(json!([{"port": 80}]));
        service["spec"]["clusterIP"] = "None".into();
        let mut world = World::new(service, vec![pod("a", "10.0.0.2", true)]);
        world.run();
        let slice = world.view.list(Kind::EndpointSlice).next().unwrap();
        let wanted = json!({"team": "a", SERVICE_NAME: "web", SLICE_MANAGED_BY: MANAGER, HEADLESS: ""});
        assert_eq!(slice["metadata"]["labels"], wanted);
        assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Service");
    }

    #[test]
    fn a_nodes_new_zone_concerns_the_services_of_its_pods() {
        let mut world = World::new(service(json!([{"port": 80}])), vec![pod("a", "10.0.0.2", true)]);
        let told = |world: &mut World, node: &str, zone: Option<&str>, beat: &str| {
            world.revision += 1;
            let labels = zone.map_or(json!({}), |zone| json!({ZONE: zone}));
            let node = json!({"metadata": {"name": node, "uid": node, "resourceVersion": world.revision.to_string(),
                "labels": labels}, "status": {"beat": beat}});
            assert!(world.view.put(Kind::Node, node.clone()));
            world.part.notice(&world.view, Kind::Node, &node);
            let keys = world.part.keys(&world.view, Kind::Node, &node);
            world.run();
            let slice = world.view.list(Kind::EndpointSlice).next().unwrap();
            (keys.len(), slice["endpoints"][0]["zone"].as_str().unwrap_or_default().to_owned())
        };
        assert_eq!(told(&mut world, "n1", None, "1"), (0, "".into()));
        assert_eq!(told(&mut world, "n1", Some("east"), "1"), (1, "east".into()));
        assert_eq!(told(&mut world, "n1", Some("east"), "2"), (0, "east".into()), "a heartbeat");
        assert_eq!(told(&mut world, "n2", Some("north"), "1"), (0, "east".into()), "a node without its pods");
        assert_eq!(told(&mut world, "n1", Some("west"), "3"), (1, "west".into()));
        assert_eq!(told(&mut world, "n1", None, "3"), (1, "".into()));
    }

    #[test]
    fn traffic_that_is_kept_near_is_hinted_at() {
        let hints = |wanted: &str, ready: bool, zone: Option<&str>| {
            let mut wants = service(json!([{"name": "http", "port": 80, "targetPort": 8080}]));
            if !wanted.is_empty() {
                wants["spec"]["trafficDistribution"] = wanted.into();
            }
            let mut world = World::new(wants, vec![pod("a", "10.1.0.1", ready)]);
            let labels = zone.map_or(json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
            world.view.put(
                Kind::Node,
                json!({"metadata": {"name": "n1", "uid": "n", "resourceVersion": "1", "labels": labels}}),
            );
            world.run();
            let hints = world.view.list(Kind::EndpointSlice).next().unwrap()["endpoints"][0]["hints"].clone();
            if hints.is_null() { String::new() } else { hints.to_string() }
        };
        let zone = r#"{"forZones":[{"name":"east"}]}"#;
        assert_eq!(hints("", true, Some("east")), "");
        assert_eq!(hints("PreferClose", true, Some("east")), zone);
        assert_eq!(hints("PreferSameZone", true, Some("east")), zone);
        assert_eq!(hints("PreferSameZone", true, None), "");
        assert_eq!(hints("PreferSameZone", false, Some("east")), "", "nobody is sent there");
        assert_eq!(hints("PreferSameNode", true, None), r#"{"forNodes":[{"name":"n1"}]}"#);
        let both: Value = serde_json::from_str(&hints("PreferSameNode", true, Some("east"))).unwrap();
        assert_eq!(both, json!({"forZones": [{"name": "east"}], "forNodes": [{"name": "n1"}]}));
    }
}
