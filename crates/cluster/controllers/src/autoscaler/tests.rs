//! Stories of a web service under load.

use std::sync::{Mutex, PoisonError};

use super::*;
use crate::testing::World;

type Table = Arc<Mutex<BTreeMap<String, (i64, i64)>>>;

/// Two ready pods that ask for 100m and 100 bytes each, and an autoscaler.
fn world(spec: Value) -> (World, Autoscalers, Table) {
    let mut world = World::new();
    world.put(
        Kind::Deployment,
        json!({"metadata": {"name": "web", "namespace": "d", "uid": "w"}, "status": {"replicas": 2},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}}}),
    );
    let table: Table = Arc::default();
    for name in ["a", "b"] {
        pod(&mut world, name);
        table.lock().unwrap().insert(name.into(), (50, 50));
    }
    world.pass(600);
    let mut object = json!({"metadata": {"name": "web", "namespace": "d", "uid": "h"}, "spec": {"minReplicas": 1, "maxReplicas": 10,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    resources::patch::merge_patch(&mut object["spec"], &spec);
    world.put(Kind::HorizontalPodAutoscaler, object);
    let (read, now) = (table.clone(), world.now);
    let part = Autoscalers::new(Box::new(move |_, name| {
        let (cpu, memory) = *read.lock().unwrap_or_else(PoisonError::into_inner).get(name)?;
        let containers = BTreeMap::from([("c".to_owned(), (cpu, memory))]);
        Some(Reading { at: now, window: Duration::from_secs(15), containers })
    }));
    (world, part, table)
}

fn pod(world: &mut World, name: &str) {
    world.put(
        Kind::Pod,
        json!({"metadata": {"name": name, "namespace": "d", "labels": {"app": "web"}},
            "status": {"phase": "Pending", "startTime": decode::format_time(world.now, 0)},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "100"}}}]}}),
    );
    world.ready(name);
}

fn load(table: &Table, all: &[(&str, i64)]) {
    let mut table = table.lock().unwrap();
    for (name, used) in all {
        table.insert((*name).to_owned(), (*used, *used));
    }
}

fn look(world: &mut World, part: &mut Autoscalers) -> i64 {
    world.pass(15);
    world.step(part, "web");
    world.find(Kind::Deployment, "web")["spec"]["replicas"].as_i64().unwrap()
}

fn reason(world: &World, kind: &str) -> String {
    let scaler = world.find(Kind::HorizontalPodAutoscaler, "web");
    let condition = pods::condition(&scaler, kind).unwrap_or_else(|| panic!("{kind} is told"));
    format!("{} {}", condition["status"].as_str().unwrap(), condition["reason"].as_str().unwrap())
}

#[test]
fn use_decides() {
    for (loads, replicas) in [
        ([("a", 50), ("b", 50)], 2),
        ([("a", 54), ("b", 54)], 2),
        ([("a", 60), ("b", 60)], 3),
        ([("a", 100), ("b", 100)], 4),
        ([("a", 20), ("b", 20)], 2),
    ] {
        let (mut world, mut part, table) = world(json!({}));
        load(&table, &loads);
        assert_eq!(look(&mut world, &mut part), replicas, "{loads:?}");
    }
}

#[test]
fn it_says_what_it_does() {
    let (mut world, mut part, table) = world(json!({}));
    load(&table, &[("a", 100), ("b", 100)]);
    look(&mut world, &mut part);
    assert_eq!(
        world.events,
        ["SuccessfulRescale: New size: 4; reason: cpu resource utilization (percentage of request) above target"]
    );
    assert_eq!(reason(&world, "AbleToScale"), "True SucceededRescale");
    assert_eq!(reason(&world, "ScalingActive"), "True ValidMetricFound");
    assert_eq!(reason(&world, "ScalingLimited"), "False DesiredWithinRange");
    let status = world.find(Kind::HorizontalPodAutoscaler, "web")["status"].clone();
    assert_eq!((&status["currentReplicas"], &status["desiredReplicas"]), (&json!(2), &json!(4)));
    assert_eq!(
        status["currentMetrics"][0]["resource"]["current"],
        json!({"averageUtilization": 100, "averageValue": "100m"})
    );
    // Only once a period, whatever wakes it.
    assert!(world.look(&mut part, &Key::new("d", "web")).writes.is_empty());
}

#[test]
fn down_only_after_the_window() {
    let (mut world, mut part, table) = world(json!({}));
    load(&table, &[("a", 5), ("b", 5)]);
    assert_eq!(look(&mut world, &mut part), 2);
    assert_eq!(reason(&world, "AbleToScale"), "True ScaleDownStabilized");
    world.pass(300);
    assert_eq!(look(&mut world, &mut part), 1);
    assert_eq!(world.events, ["SuccessfulRescale: New size: 1; reason: All metrics below target"]);
}

#[test]
fn pods_without_readings_hold_back() {
    let (mut world, mut part, table) = world(json!({}));
    pod(&mut world, "new");
    load(&table, &[("a", 100), ("b", 100)]);
    // Three pods, one of them unread: as if it were idle.
    assert_eq!(look(&mut world, &mut part), 4);
    let (mut world, mut part, table) = self::world(json!({}));
    table.lock().unwrap().clear();
    assert_eq!(look(&mut world, &mut part), 2);
    assert_eq!(reason(&world, "ScalingActive"), "False FailedGetResourceMetric");
    assert!(world.events[0].starts_with("FailedGetResourceMetric: failed to get cpu resource metric value"));
}

#[test]
fn values_and_single_containers() {
    let value = json!([{"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "25"}}}]);
    let (mut world, mut part, _) = world(json!({"metrics": value}));
    assert_eq!(look(&mut world, &mut part), 4);
    let container = json!([{"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
        "target": {"type": "Utilization", "averageUtilization": 25}}}]);
    let (mut world, mut part, _) = self::world(json!({"metrics": container}));
    assert_eq!(look(&mut world, &mut part), 4);
    let custom = json!([{"type": "Pods", "pods": {"metric": {"name": "rps"}}}]);
    let (mut world, mut part, _) = self::world(json!({"metrics": custom}));
    assert_eq!(look(&mut world, &mut part), 2);
    assert_eq!(reason(&world, "ScalingActive"), "False FailedGetPodsMetric");
}

#[test]
fn bounds_are_kept_whatever_the_use() {
    for (spec, replicas, told) in [
        (
            json!({"minReplicas": 3}),
            3,
            "SuccessfulRescale: New size: 3; reason: Current number of replicas below Spec.MinReplicas",
        ),
        (
            json!({"maxReplicas": 1}),
            1,
            "SuccessfulRescale: New size: 1; reason: Current number of replicas above Spec.MaxReplicas",
        ),
    ] {
        let (mut world, mut part, _) = world(spec);
        assert_eq!((look(&mut world, &mut part), world.events[0].as_str()), (replicas, told));
    }
    let (mut world, mut part, _) = world(json!({}));
    world.change(Kind::Deployment, "web", |set| set["spec"]["replicas"] = 0.into());
    look(&mut world, &mut part);
    assert_eq!(reason(&world, "ScalingActive"), "False ScalingDisabled");
    let (mut world, mut part, _) = self::world(json!({"scaleTargetRef": {"name": "other"}}));
    look(&mut world, &mut part);
    assert_eq!(reason(&world, "AbleToScale"), "False FailedGetScale");
}
