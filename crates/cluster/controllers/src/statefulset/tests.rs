//! Stories of sets that grow, shrink and change in order.

use super::*;
use crate::testing::World;

fn set(more: Value) -> Value {
    let mut set = json!({"metadata": {"name": "db", "namespace": "d", "uid": "u", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "svc", "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    resources::patch::merge_patch(&mut set["spec"], &more);
    set
}

fn world(more: Value) -> World {
    let mut world = World::new();
    world.put(Kind::StatefulSet, set(more));
    world
}

/// Looks, lets pods become ready and old ones end, until nothing moves.
fn run(world: &mut World) {
    for _ in 0..30 {
        let before = world.names(Kind::Pod);
        world.settle(&mut StatefulSets, "db");
        world.all_ready();
        if world.names(Kind::Pod) == before && world.look(&mut StatefulSets, &Key::new("d", "db")).writes.is_empty() {
            return;
        }
    }
    panic!("it never comes to rest");
}

fn images(world: &World) -> Vec<String> {
    let live = world.view.list(Kind::Pod).filter(|pod| !meta::is_terminating(pod));
    live.map(|pod| format!("{}={}", meta::name(pod), pod["spec"]["containers"][0]["image"].as_str().unwrap())).collect()
}

fn image(world: &mut World, image: &str) {
    world.change(Kind::StatefulSet, "db", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
        let next = meta::generation(set) + 1;
        meta::set(set, "generation", next);
    });
}

fn status(world: &World, field: &str) -> i64 {
    world.find(Kind::StatefulSet, "db")["status"][field].as_i64().unwrap_or(0)
}

#[test]
fn pods_come_one_after_the_other_with_their_storage() {
    let mut world = world(json!({}));
    world.settle(&mut StatefulSets, "db");
    assert_eq!((world.live(), world.names(Kind::Claim)), (vec!["db-0".to_owned()], vec!["data-db-0".to_owned()]));
    let pod = world.find(Kind::Pod, "db-0");
    assert_eq!(pod["spec"]["hostname"], "db-0");
    assert_eq!(pod["spec"]["subdomain"], "svc");
    assert_eq!(pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"], "db-0");
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "0");
    assert_eq!(
        pod["metadata"]["labels"]["controller-revision-hash"],
        world.names(Kind::ControllerRevision)[0].as_str()
    );
    assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-db-0");
    assert_eq!(
        world.events,
        [
            "SuccessfulCreate: create Claim data-db-0 Pod db-0 in StatefulSet db success",
            "SuccessfulCreate: create Pod db-0 in StatefulSet db successful"
        ]
    );
    world.ready("db-0");
    world.settle(&mut StatefulSets, "db");
    assert_eq!(world.live(), ["db-0", "db-1"]);
    run(&mut world);
    assert_eq!(world.live(), ["db-0", "db-1", "db-2"]);
    let fields =
        ["replicas", "readyReplicas", "availableReplicas", "currentReplicas", "updatedReplicas", "observedGeneration"];
    assert_eq!(fields.map(|field| status(&world, field)), [3, 3, 3, 3, 3, 1]);
    // Scaled down from the top, one at a time; the storage stays.
    world.change(Kind::StatefulSet, "db", |set| set["spec"]["replicas"] = 1.into());
    world.step(&mut StatefulSets, "db");
    assert_eq!(world.live(), ["db-0", "db-1"]);
    world.step(&mut StatefulSets, "db");
    assert_eq!(world.live(), ["db-0", "db-1"], "db-2 has not ended yet");
    run(&mut world);
    assert_eq!((world.live().len(), world.names(Kind::Claim).len()), (1, 3));
}

#[test]
fn parallel_sets_do_everything_at_once() {
    let mut world = world(json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}));
    world.step(&mut StatefulSets, "db");
    assert_eq!(world.live(), ["db-5", "db-6", "db-7"]);
    world.change(Kind::StatefulSet, "db", |set| set["spec"]["replicas"] = 0.into());
    world.step(&mut StatefulSets, "db");
    assert!(world.live().is_empty());
}

#[test]
fn updates_go_from_the_top_down_to_the_partition() {
    let mut world = world(json!({"updateStrategy": {"rollingUpdate": {"partition": 1}}}));
    run(&mut world);
    image(&mut world, "two");
    world.step(&mut StatefulSets, "db");
    assert_eq!(world.live(), ["db-0", "db-1"], "one at a time, the highest first");
    world.reap();
    run(&mut world);
    assert_eq!(images(&world), ["db-0=one", "db-1=two", "db-2=two"]);
    assert_eq!((status(&world, "currentReplicas"), status(&world, "updatedReplicas")), (1, 2));
    // A pod below the partition comes back as it was.
    let pod = world.find(Kind::Pod, "db-0");
    world.view.remove(Kind::Pod, &pod);
    run(&mut world);
    assert_eq!(images(&world)[0], "db-0=one");
    world.change(Kind::StatefulSet, "db", |set| set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = 0.into());
    run(&mut world);
    assert_eq!(images(&world), ["db-0=two", "db-1=two", "db-2=two"]);
    let set = world.find(Kind::StatefulSet, "db");
    assert_eq!(set["status"]["currentRevision"], set["status"]["updateRevision"]);
    assert_eq!(status(&world, "currentReplicas"), 3);
}

#[test]
fn more_than_one_may_be_away() {
    let mut world = world(json!({"replicas": 5, "updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}));
    run(&mut world);
    image(&mut world, "two");
    world.step(&mut StatefulSets, "db");
    assert_eq!(world.live(), ["db-0", "db-1", "db-2"]);
    world.step(&mut StatefulSets, "db");
    assert_eq!(world.live(), ["db-0", "db-1", "db-2"]);
}

#[test]
fn on_delete_waits_for_people() {
    let mut world = world(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}));
    run(&mut world);
    image(&mut world, "two");
    run(&mut world);
    assert_eq!(images(&world), ["db-0=one", "db-1=one", "db-2=one"]);
    let pod = world.find(Kind::Pod, "db-1");
    world.view.remove(Kind::Pod, &pod);
    run(&mut world);
    assert_eq!(images(&world), ["db-0=one", "db-1=two", "db-2=one"]);
}

#[test]
fn pods_that_ended_are_made_again() {
    let mut world = world(json!({}));
    run(&mut world);
    world.ended("db-1", 1);
    run(&mut world);
    assert_eq!(world.live(), ["db-0", "db-1", "db-2"]);
    assert!(world.events.contains(&"RecreatingFailedPod: StatefulSet d/db is recreating failed Pod db-1".to_owned()));
}

#[test]
fn the_policy_says_who_takes_claims_along() {
    let owner = |world: &World, name: &str| -> String {
        let claim = world.find(Kind::Claim, name);
        meta::list_at(&claim, &["metadata", "ownerReferences"])
            .first()
            .map_or(String::new(), |owner| owner["name"].as_str().unwrap().to_owned())
    };
    for (deleted, scaled, kept, too_much) in [
        ("Retain", "Retain", "", ""),
        ("Delete", "Retain", "db", "db"),
        ("Retain", "Delete", "", "db-2"),
        ("Delete", "Delete", "db", "db-2"),
    ] {
        let policy = json!({"whenDeleted": deleted, "whenScaled": scaled});
        let mut world = world(json!({"persistentVolumeClaimRetentionPolicy": policy}));
        run(&mut world);
        assert_eq!(owner(&world, "data-db-2"), kept, "{deleted} {scaled}");
        world.change(Kind::StatefulSet, "db", |set| set["spec"]["replicas"] = 2.into());
        world.step(&mut StatefulSets, "db");
        assert_eq!(owner(&world, "data-db-2"), too_much, "{deleted} {scaled}");
        assert_eq!(owner(&world, "data-db-0"), kept, "{deleted} {scaled}");
    }
}

#[test]
fn a_pod_waits_for_a_claim_that_goes() {
    let mut world = world(json!({}));
    world.put(
        Kind::Claim,
        json!({"metadata": {"name": "data-db-0", "namespace": "d", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    world.settle(&mut StatefulSets, "db");
    assert!(world.live().is_empty());
    let claim = world.find(Kind::Claim, "data-db-0");
    assert_eq!(StatefulSets.keys(&world.view, Kind::Claim, &claim), [Key::new("d", "db")]);
    world.view.remove(Kind::Claim, &claim);
    world.settle(&mut StatefulSets, "db");
    assert_eq!(world.live(), ["db-0"]);
}

/// The writes end where one is refused: nothing is made for a set that was deleted after it was looked at.
#[test]
fn claims_are_made_only_while_the_set_is_there() {
    for more in [json!({}), json!({"podManagementPolicy": "Parallel"})] {
        let mut world = world(more);
        let set = world.find(Kind::StatefulSet, "db");
        let writes = world.look(&mut StatefulSets, &Key::new("d", "db")).writes;
        let first = writes.iter().position(|write| matches!(write, Write::Create(Kind::Claim, _))).unwrap();
        let checks: Vec<usize> = (0..writes.len())
            .filter(|at| {
                let Write::Merge { kind: Kind::StatefulSet, patch, .. } = &writes[*at] else { return false };
                *patch == json!({"metadata": {"uid": "u", "resourceVersion": meta::resource_version(&set)}})
            })
            .collect();
        assert_eq!(checks, [first - 1], "{writes:?}");
    }
}
