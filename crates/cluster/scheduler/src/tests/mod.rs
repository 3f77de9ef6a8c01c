//! Tables of the rules: nodes and pods in, a node or upstream's sentence out.

use cache::{Key, Kind, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta, patch};
use serde_json::json;

use crate::Scheduler;

mod rules;

fn put(view: &mut View, kind: Kind, mut object: Value) {
    let serial = view.count(kind) + 1;
    meta::set(&mut object, "resourceVersion", serial.to_string());
    if meta::uid(&object).is_empty() {
        let uid = format!("{}-{serial}", meta::name(&object));
        meta::set(&mut object, "uid", uid);
    }
    view.put(kind, object);
}

fn node(name: &str, more: Value) -> Value {
    let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
    patch::merge_patch(&mut node, &more);
    node
}

fn pod(name: &str, on: &str, more: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name, "namespace": "d", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c"}]}});
    if !on.is_empty() {
        pod["spec"]["nodeName"] = on.into();
    }
    patch::merge_patch(&mut pod, &more);
    pod
}

fn asks(cpu: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

/// The node that the pod named `p` is bound to, or why none.
fn place(objects: Vec<(Kind, Value)>) -> String {
    let mut view = View::default();
    objects.into_iter().for_each(|(kind, object)| put(&mut view, kind, object));
    let outcome = Scheduler::default().reconcile(&view, &Key::new("d", "p"), Timestamp::UNIX_EPOCH);
    let preempts = outcome.writes.iter().any(|write| matches!(write, Write::Delete { .. }));
    for write in outcome.writes.iter().filter(|_| !preempts) {
        match write {
            Write::Bind { node, .. } => return node.clone(),
            Write::Event { reason, message, .. } if reason == "FailedScheduling" => return message.clone(),
            _ => {}
        }
    }
    format!("{:?}", outcome.writes)
}

fn two_nodes(one: Value, other: Value, pods: Vec<Value>) -> String {
    let mut objects = vec![(Kind::Node, node("n1", one)), (Kind::Node, node("n2", other))];
    objects.extend(pods.into_iter().map(|pod| (Kind::Pod, pod)));
    place(objects)
}

const HELPLESS: &str = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str = "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";

#[test]
fn one_node_is_left() {
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": effect}]}});
    let none = || json!({});
    let affinity = |operator: &str| {
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": operator, "values": ["ssd"]}]}]}}}}})
    };
    let ssd = || json!({"metadata": {"labels": {"disk": "ssd"}}});
    let port = || json!({"spec": {"containers": [{"name": "c", "ports": [{"hostPort": 80, "protocol": "TCP"}]}]}});
    for (what, one, other, wanted, others) in [
        ("cordoned", json!({"spec": {"unschedulable": true}}), none(), none(), vec![]),
        ("tainted", taint("NoSchedule"), none(), none(), vec![]),
        ("tainted softly", taint("PreferNoSchedule"), none(), none(), vec![]),
        ("selected", none(), ssd(), json!({"spec": {"nodeSelector": {"disk": "ssd"}}}), vec![]),
        ("affine", none(), ssd(), affinity("In"), vec![]),
        ("not affine", ssd(), none(), affinity("NotIn"), vec![]),
        ("full", none(), none(), asks("1500m"), vec![pod("x", "n1", asks("1"))]),
        ("emptier", none(), none(), asks("500m"), vec![pod("x", "n1", asks("1"))]),
        ("port taken", none(), none(), port(), vec![pod("x", "n1", port())]),
        ("ended pods take nothing", none(), json!({"status": {"allocatable": {"cpu": "3"}}}), asks("2500m"), vec![]),
    ] {
        let mut pods = others;
        pods.push(pod("p", "", wanted));
        assert_eq!(two_nodes(one, other, pods), "n2", "{what}");
    }
}

#[test]
fn nothing_fits_in_upstreams_words() {
    let none = || json!({});
    let cordoned = || json!({"spec": {"unschedulable": true}});
    let tainted = || json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
    for (one, other, wanted, others, told) in [
        (cordoned(), tainted(), none(), vec![], format!(
            "0/2 nodes are available: 1 node(s) had untolerated taint {{gpu: yes}}, 1 node(s) were unschedulable. {HELPLESS}")),
        (none(), none(), asks("5"), vec![], format!("0/2 nodes are available: 2 Insufficient cpu. {HELPLESS}")),
        (none(), none(), asks("2"), vec![pod("x", "n1", asks("1")), pod("y", "n2", asks("1"))], format!(
            "0/2 nodes are available: 2 Insufficient cpu. {NO_VICTIMS}")),
        (none(), cordoned(), asks("2"), vec![pod("x", "n1", asks("1"))],
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: 0/2 nodes are available: \
             1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.".to_owned()),
        (none(), none(), json!({"spec": {"nodeSelector": {"disk": "ssd"}}}), vec![], format!(
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. {HELPLESS}")),
    ] {
        let mut pods = others;
        pods.push(pod("p", "", wanted));
        assert_eq!(two_nodes(one, other, pods), told);
    }
    assert_eq!(place(vec![(Kind::Pod, pod("p", "", none()))]), "no nodes available to schedule pods");
}

#[test]
fn pods_keep_together_and_apart() {
    let term = |which: &str| {
        json!({"spec": {"affinity": {which: {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}}})
    };
    let spread = |when: &str| {
        json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "web"}}}]}})
    };
    let none = || json!({});
    let at = |on: &str, more: Value| pod("x", on, more);
    assert_eq!(two_nodes(none(), none(), vec![at("n2", none()), pod("p", "", term("podAffinity"))]), "n2");
    assert_eq!(two_nodes(none(), none(), vec![at("n1", none()), pod("p", "", term("podAntiAffinity"))]), "n2");
    assert_eq!(two_nodes(none(), none(), vec![at("n1", term("podAntiAffinity")), pod("p", "", none())]), "n2");
    assert_eq!(two_nodes(none(), none(), vec![pod("p", "", term("podAffinity"))]), "n1", "the first of its kind");
    assert_eq!(two_nodes(none(), none(), vec![at("n1", none()), pod("p", "", spread("DoNotSchedule"))]), "n2");
    let full = json!({"spec": {"unschedulable": true}});
    let crowded = vec![at("n1", none()), pod("p", "", spread("DoNotSchedule"))];
    assert_eq!(
        two_nodes(none(), full.clone(), crowded),
        "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable. \
         preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful \
         for scheduling."
    );
    assert_eq!(two_nodes(none(), full, vec![at("n1", none()), pod("p", "", spread("ScheduleAnyway"))]), "n1");
}

#[test]
fn claims_decide_where() {
    let claim = |more: Value| {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"storageClassName": "s",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}});
        patch::merge_patch(&mut claim, &more);
        (Kind::Claim, claim)
    };
    let class = |provisioner: &str, mode: &str| {
        (Kind::StorageClass, json!({"metadata": {"name": "s"}, "provisioner": provisioner, "volumeBindingMode": mode}))
    };
    let volume = |on: &str| {
        let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [on]}]});
        (
            Kind::Volume,
            json!({"metadata": {"name": "v"}, "status": {"phase": "Available"}, "spec": {"storageClassName": "s",
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}}),
        )
    };
    let with = |more: Vec<(Kind, Value)>| {
        let uses = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
        let mut all = vec![(Kind::Node, node("n1", json!({}))), (Kind::Node, node("n2", json!({})))];
        all.extend(more);
        all.push((Kind::Pod, pod("p", "", uses)));
        place(all)
    };
    let bound = json!({"spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
    assert_eq!(with(vec![claim(bound), volume("n2")]), "n2");
    assert!(with(vec![]).contains("available: persistentvolumeclaim \"c\" not found. pre"));
    let immediate = with(vec![claim(json!({})), class("x.io/y", "Immediate")]);
    assert!(immediate.contains("available: pod has unbound immediate PersistentVolumeClaims. pre"), "{immediate}");
    let nowhere = with(vec![claim(json!({})), class("kubernetes.io/no-provisioner", "WaitForFirstConsumer")]);
    assert!(nowhere.contains("2 node(s) didn't find available persistent volumes to bind"), "{nowhere}");
    // The claim learns the node before the pod is bound to it.
    let waits =
        with(vec![claim(json!({})), class("kubernetes.io/no-provisioner", "WaitForFirstConsumer"), volume("n2")]);
    assert!(
        waits.contains("volume.kubernetes.io/selected-node") && waits.contains("\"n2\"") && !waits.contains("Bind"),
        "{waits}"
    );
}

#[test]
fn gated_pods_wait_and_important_ones_push() {
    let gated = json!({"spec": {"schedulingGates": [{"name": "x"}]}});
    assert!(two_nodes(json!({}), json!({}), vec![pod("p", "", gated)]).contains("SchedulingGated"));
    let important = |cpu: &str, priority: i64| {
        let mut more = asks(cpu);
        more["spec"]["priority"] = priority.into();
        more
    };
    let pods =
        vec![pod("x", "n1", important("2", 5)), pod("y", "n2", important("2", 1)), pod("p", "", important("1", 10))];
    let told = two_nodes(json!({}), json!({}), pods);
    assert!(told.contains("nominatedNodeName\": String(\"n2\")") && told.contains("Preempted by pod"), "{told}");
    let mut never = important("1", 10);
    never["spec"]["preemptionPolicy"] = "Never".into();
    let pods = vec![pod("x", "n1", important("2", 5)), pod("y", "n2", important("2", 1)), pod("p", "", never)];
    assert_eq!(
        two_nodes(json!({}), json!({}), pods),
        "0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
    );
}
