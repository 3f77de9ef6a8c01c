//! Stories of sets over nodes that come, go and change.

use super::*;
use crate::revisions;
use crate::testing::World;

fn set(strategy: Value) -> Value {
    json!({"metadata": {"name": "ds", "namespace": "d", "uid": "u", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "log"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}})
}

fn rolling(unavailable: Value, surge: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}})
}

fn world(strategy: Value, nodes: &[&str]) -> (World, DaemonSets) {
    let mut world = World::new();
    for node in nodes {
        world.node(node);
    }
    world.put(Kind::DaemonSet, set(strategy));
    (world, DaemonSets::new(Names::new(1)))
}

fn status(world: &World) -> Value {
    world.find(Kind::DaemonSet, "ds")["status"].clone()
}

fn images(world: &World) -> Vec<String> {
    let live = world.view.list(Kind::Pod).filter(|pod| !meta::is_terminating(pod));
    let mut images: Vec<String> = live
        .map(|pod| format!("{}={}", nodes::of_pod(pod), pod["spec"]["containers"][0]["image"].as_str().unwrap()))
        .collect();
    images.sort();
    images
}

fn new_image(world: &mut World) {
    world.change(Kind::DaemonSet, "ds", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "two".into();
        set["metadata"]["generation"] = 2.into();
    });
}

#[test]
fn one_pod_on_every_node_that_fits() {
    let (mut world, mut part) = world(rolling(1.into(), 0.into()), &["a", "b", "c"]);
    world.change(Kind::Node, "b", |node| {
        node["spec"]["taints"] = json!([{"key": "mine", "value": "yes", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]);
    });
    world.change(Kind::Node, "c", |node| {
        node["spec"]["taints"] = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]);
    });
    world.settle(&mut part, "ds");
    assert_eq!(images(&world), ["a=one", "c=one"]);
    let pod = world.find(Kind::Pod, &world.names(Kind::Pod)[0]);
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 6);
    assert_eq!(pod["metadata"]["labels"][GENERATION], "1");
    let revision = &world.names(Kind::ControllerRevision)[0];
    let hash = pod["metadata"]["labels"][HASH].as_str().unwrap();
    assert_eq!(revision, &format!("ds-{hash}"));
    assert_eq!(
        status(&world),
        json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0,
            "numberReady": 0, "numberUnavailable": 2, "updatedNumberScheduled": 2})
    );
    world.all_ready();
    world.settle(&mut part, "ds");
    assert_eq!(
        (status(&world)["numberReady"].as_i64(), status(&world)["numberAvailable"].as_i64()),
        (Some(2), Some(2))
    );
    // A node that nobody tolerates any more loses its pod; one that takes nothing new keeps it.
    world.change(Kind::Node, "a", |node| node["spec"]["taints"] = json!([{"key": "x", "effect": "NoSchedule"}]));
    world.change(Kind::Node, "c", |node| node["spec"]["taints"] = json!([{"key": "x", "effect": "NoExecute"}]));
    world.settle(&mut part, "ds");
    assert_eq!(images(&world), ["a=one"]);
    assert_eq!(status(&world)["numberMisscheduled"], 1);
    assert!(world.events[0].starts_with("SuccessfulCreate: Created pod: ds-"), "{:?}", world.events);
}

#[test]
fn an_update_takes_as_many_as_it_may_and_waits() {
    let (mut world, mut part) = world(rolling(2.into(), 0.into()), &["a", "b", "c", "d"]);
    world.settle(&mut part, "ds");
    world.all_ready();
    world.settle(&mut part, "ds");
    new_image(&mut world);
    world.settle(&mut part, "ds");
    assert_eq!(images(&world), ["a=two", "b=two", "c=one", "d=one"], "two are not ready: nobody else goes");
    world.all_ready();
    world.settle(&mut part, "ds");
    world.all_ready();
    world.settle(&mut part, "ds");
    assert_eq!(images(&world), ["a=two", "b=two", "c=two", "d=two"]);
    assert_eq!(world.names(Kind::ControllerRevision).len(), 2, "history to go back to");
    // Back again: the old revision becomes the newest.
    world.change(Kind::DaemonSet, "ds", |set| set["spec"]["template"]["spec"]["containers"][0]["image"] = "one".into());
    world.settle(&mut part, "ds");
    let numbers: Vec<i64> = world.view.list(Kind::ControllerRevision).map(|one| revisions::number(one)).collect();
    assert_eq!((numbers.len(), numbers.iter().max()), (2, Some(&3)));
}

#[test]
fn a_surge_puts_the_new_pod_beside_the_old_one() {
    let (mut world, mut part) = world(rolling(0.into(), 1.into()), &["a", "b"]);
    world.settle(&mut part, "ds");
    world.all_ready();
    world.settle(&mut part, "ds");
    new_image(&mut world);
    world.settle(&mut part, "ds");
    assert_eq!(images(&world), ["a=one", "a=two", "b=one"]);
    world.all_ready();
    world.settle(&mut part, "ds");
    assert_eq!(images(&world), ["a=two", "b=one", "b=two"]);
    world.all_ready();
    world.settle(&mut part, "ds");
    assert_eq!(images(&world), ["a=two", "b=two"]);
}

#[test]
fn on_delete_waits_for_people() {
    let (mut world, mut part) = world(json!({"type": "OnDelete"}), &["a"]);
    world.settle(&mut part, "ds");
    new_image(&mut world);
    world.settle(&mut part, "ds");
    assert_eq!(images(&world), ["a=one"]);
    assert!(status(&world).get("updatedNumberScheduled").is_none());
    let pod = world.find(Kind::Pod, &world.names(Kind::Pod)[0]);
    world.view.remove(Kind::Pod, &pod);
    world.settle(&mut part, "ds");
    assert_eq!(images(&world), ["a=two"]);
}

#[test]
fn failed_pods_are_replaced_later_and_later() {
    let (mut world, mut part) = world(rolling(1.into(), 0.into()), &["a"]);
    world.settle(&mut part, "ds");
    let fail = |world: &mut World| {
        let name = world.live()[0].clone();
        world.ended(&name, 1);
    };
    fail(&mut world);
    world.settle(&mut part, "ds");
    assert_eq!(images(&world), ["a=one"]);
    assert!(world.events.iter().any(|event| event.starts_with("FailedDaemonPod: Found failed daemon pod d/ds-")));
    fail(&mut world);
    let again = world.step(&mut part, "ds");
    assert_eq!(again, Some(Duration::from_secs(1)));
    assert_eq!(world.view.list(Kind::Pod).next().unwrap()["status"]["phase"], "Failed");
    world.pass(1);
    world.settle(&mut part, "ds");
    fail(&mut world);
    assert_eq!(world.step(&mut part, "ds"), Some(Duration::from_secs(2)));
}

#[test]
fn pods_of_nodes_that_have_gone_go() {
    let (mut world, mut part) = world(rolling(1.into(), 0.into()), &["a", "b"]);
    world.settle(&mut part, "ds");
    let node = world.find(Kind::Node, "b");
    world.view.remove(Kind::Node, &node);
    world.settle(&mut part, "ds");
    assert_eq!(images(&world), ["a=one"]);
}
