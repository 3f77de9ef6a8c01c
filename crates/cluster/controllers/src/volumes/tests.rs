//! Stories of claims and volumes that find and leave each other.

use resources::Value;
use serde_json::json;

use super::*;
use crate::testing::World;

fn claim(world: &mut World, name: &str, more: Value) {
    let mut claim = json!({"metadata": {"name": name, "namespace": "d", "uid": format!("u-{name}")}, "status": {"phase": "Pending"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "resources": {"requests": {"storage": "1Gi"}}}});
    resources::patch::merge_patch(&mut claim, &more);
    world.put(Kind::Claim, claim);
}

fn volume(world: &mut World, name: &str, more: Value) {
    let mut volume = json!({"metadata": {"name": name}, "status": {"phase": "Pending"},
        "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "s",
            "persistentVolumeReclaimPolicy": "Retain"}});
    resources::patch::merge_patch(&mut volume, &more);
    world.put(Kind::Volume, volume);
}

fn class(world: &mut World, provisioner: &str, mode: &str) {
    world.put(
        Kind::StorageClass,
        json!({"metadata": {"name": "s"}, "provisioner": provisioner, "reclaimPolicy": "Delete", "volumeBindingMode": mode}),
    );
}

/// Looks at everything until only events are left to tell.
fn settle(world: &mut World) {
    for _ in 0..20 {
        let keys: Vec<Key> =
            world.view.list(Kind::Claim).chain(world.view.list(Kind::Volume)).map(|object| Key::of(object)).collect();
        let mut quiet = true;
        for key in keys {
            let writes = world.look(&mut VolumeBinder, &key).writes;
            quiet &= writes.iter().all(|write| matches!(write, Write::Event { .. }));
            world.apply(writes);
        }
        if quiet {
            return;
        }
    }
    panic!("it never comes to rest");
}

fn phases(world: &World) -> Vec<String> {
    let all = world.view.list(Kind::Claim).chain(world.view.list(Kind::Volume));
    all.map(|object| format!("{} {}", meta::name(object), meta::str_at(object, &["status", "phase"]))).collect()
}

#[test]
fn a_claim_gets_the_smallest_volume_that_fits_and_gives_it_back() {
    let mut world = World::new();
    volume(&mut world, "large", json!({}));
    volume(&mut world, "small", json!({"spec": {"capacity": {"storage": "2Gi"}}}));
    claim(&mut world, "c", json!({}));
    settle(&mut world);
    assert_eq!(phases(&world), ["c Bound", "large Available", "small Bound"]);
    let bound = world.find(Kind::Claim, "c");
    assert_eq!(
        (&bound["spec"]["volumeName"], &bound["status"]["capacity"]["storage"]),
        (&json!("small"), &json!("2Gi"))
    );
    assert_eq!(world.find(Kind::Volume, "small")["spec"]["claimRef"]["uid"], "u-c");
    world.view.remove(Kind::Claim, &bound);
    settle(&mut world);
    assert_eq!(phases(&world), ["large Available", "small Released"]);
    // Whoever is retained is not given to the next one.
    claim(&mut world, "d", json!({}));
    settle(&mut world);
    assert_eq!(phases(&world), ["d Bound", "large Bound", "small Released"]);
}

#[test]
fn people_may_choose() {
    let mut world = World::new();
    volume(&mut world, "kept", json!({"spec": {"claimRef": {"name": "c", "namespace": "d"}}}));
    volume(&mut world, "other", json!({"spec": {"capacity": {"storage": "1Gi"}}}));
    claim(&mut world, "c", json!({}));
    claim(&mut world, "named", json!({"spec": {"volumeName": "other"}}));
    claim(&mut world, "late", json!({"spec": {"volumeName": "other"}}));
    settle(&mut world);
    assert_eq!(world.find(Kind::Claim, "c")["spec"]["volumeName"], "kept");
    let bound: Vec<String> = phases(&world).into_iter().filter(|one| one.ends_with("Bound")).collect();
    assert_eq!(bound.len(), 4, "{bound:?}");
    assert!(world.events.contains(&"FailedBinding: volume \"other\" already bound to a different claim.".to_owned()));
}

#[test]
fn a_lost_volume_is_told() {
    let mut world = World::new();
    volume(&mut world, "v", json!({}));
    claim(&mut world, "c", json!({}));
    settle(&mut world);
    let lost = world.find(Kind::Volume, "v");
    world.view.remove(Kind::Volume, &lost);
    settle(&mut world);
    assert_eq!(phases(&world), ["c Lost"]);
    assert_eq!(world.events, ["ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!"]);
}

#[test]
fn what_cannot_be_had_says_why() {
    for (provisioner, mode, told) in [
        ("", "", "ProvisioningFailed: storageclass.storage.k8s.io \"s\" not found"),
        (
            "x.io/far",
            "Immediate",
            "ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'x.io/far'",
        ),
        (
            "x.io/far",
            "WaitForFirstConsumer",
            "WaitForFirstConsumer: waiting for first consumer to be created before binding",
        ),
    ] {
        let mut world = World::new();
        if !provisioner.is_empty() {
            class(&mut world, provisioner, mode);
        }
        claim(&mut world, "c", json!({}));
        settle(&mut world);
        assert!(world.events[0].starts_with(told), "{:?}", world.events);
    }
}

#[test]
fn a_directory_is_made_where_the_pod_is_and_goes_with_the_claim() {
    let mut world = World::new();
    world.node("n1");
    world.node("n2");
    world
        .change(Kind::Node, "n2", |node| node["metadata"]["annotations"] = json!({binding::LOCAL_PATH_ROOT: "/data/"}));
    class(&mut world, binding::LOCAL_PATH, "WaitForFirstConsumer");
    claim(&mut world, "c", json!({}));
    settle(&mut world);
    assert!(world.names(Kind::Volume).is_empty());
    world.change(Kind::Claim, "c", |claim| claim["metadata"]["annotations"] = json!({binding::SELECTED_NODE: "n2"}));
    settle(&mut world);
    assert_eq!(phases(&world), ["c Bound", "pvc-u-c Bound"]);
    let volume = world.find(Kind::Volume, "pvc-u-c");
    assert_eq!(volume["spec"]["hostPath"]["path"], "/data/pvc-u-c");
    assert!(resources::placement::reaches_volume(&volume, &world.find(Kind::Node, "n2")));
    assert!(!resources::placement::reaches_volume(&volume, &world.find(Kind::Node, "n1")));
    let bound = world.find(Kind::Claim, "c");
    world.view.remove(Kind::Claim, &bound);
    settle(&mut world);
    let going = world.find(Kind::Volume, "pvc-u-c");
    assert!(meta::is_terminating(&going), "its node removes the directory first");
    let node = world.find(Kind::Node, "n2");
    world.view.remove(Kind::Node, &node);
    settle(&mut world);
    assert!(world.names(Kind::Volume).is_empty(), "nobody is left to remove it");
}

#[test]
fn retained_directories_stay() {
    let mut world = World::new();
    world.node("n1");
    world.put(
        Kind::StorageClass,
        json!({"metadata": {"name": "s"}, "provisioner": binding::LOCAL_PATH, "reclaimPolicy": "Retain", "volumeBindingMode": "Immediate"}),
    );
    claim(&mut world, "c", json!({}));
    settle(&mut world);
    let bound = world.find(Kind::Claim, "c");
    world.view.remove(Kind::Claim, &bound);
    settle(&mut world);
    assert_eq!(phases(&world), ["pvc-u-c Released"]);
    claim(&mut world, "many", json!({"spec": {"accessModes": ["ReadWriteMany"]}}));
    settle(&mut world);
    assert!(world.events.last().unwrap().starts_with("ProvisioningFailed: failed to provision volume"));
}
