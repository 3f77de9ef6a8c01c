//! One table a rule.

use std::time::Duration;

use super::*;
use crate::profile::Profile;
use crate::{Config, config};

fn app(name: &str) -> Value {
    json!({"metadata": {"labels": {"app": name}}})
}

fn zone(name: &str) -> Value {
    json!({"metadata": {"labels": {"topology.kubernetes.io/zone": name}}})
}

fn merged(one: Value, other: Value) -> Value {
    let mut all = one;
    patch::merge_patch(&mut all, &other);
    all
}

/// Where the pod named `p` goes in a cluster of these objects.
fn goes(objects: Vec<(Kind, Value)>) -> String {
    place(objects)
}

fn nodes(all: &[(&str, Value)]) -> Vec<(Kind, Value)> {
    all.iter().map(|(name, more)| (Kind::Node, node(name, more.clone()))).collect()
}

fn with(mut nodes: Vec<(Kind, Value)>, more: Vec<(Kind, Value)>) -> Vec<(Kind, Value)> {
    nodes.extend(more);
    nodes
}

fn pods(all: Vec<Value>) -> Vec<(Kind, Value)> {
    all.into_iter().map(|pod| (Kind::Pod, pod)).collect()
}

#[test]
fn resources_of_every_kind_have_to_fit() {
    let gpu = |count: &str| json!({"status": {"allocatable": {"example.com/gpu": count}}});
    let wants = |what: Value| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": what}}]}});
    let full = json!({"status": {"allocatable": {"pods": "1"}}});
    for (what, one, other, wanted, others, expected) in [
        ("extended", json!({}), gpu("1"), wants(json!({"example.com/gpu": "1"})), vec![], "n2"),
        (
            "memory",
            json!({"status": {"allocatable": {"memory": "1Gi"}}}),
            json!({}),
            wants(json!({"memory": "2Gi"})),
            vec![],
            "n2",
        ),
        ("number of pods", full, json!({}), json!({}), vec![pod("x", "n1", json!({}))], "n2"),
        (
            "storage",
            json!({}),
            json!({}),
            wants(json!({"ephemeral-storage": "1Gi"})),
            vec![],
            "0/2 nodes are available: 2 Insufficient ephemeral-storage. preemption: 0/2 nodes are available: 2 Preemption is \
             not helpful for scheduling.",
        ),
    ] {
        let mut all = others;
        all.push(pod("p", "", wanted));
        assert_eq!(two_nodes(one, other, all), expected, "{what}");
    }
}

/// Where a pod goes by a profile.
fn by(profile: Profile, nodes: Vec<(Kind, Value)>, mut wanted: Value) -> String {
    let mut view = View::default();
    wanted["spec"]["schedulerName"] = profile.name.as_str().into();
    for (kind, object) in with(nodes, pods(vec![wanted])) {
        put(&mut view, kind, object);
    }
    let config = Config { profiles: vec![profile], ..Config::default() };
    let outcome = Scheduler::new(config).reconcile(&view, &Key::new("d", "p"), Timestamp::UNIX_EPOCH);
    let bound = outcome.writes.into_iter().find_map(|write| match write {
        Write::Bind { node, .. } => Some(node),
        _ => None,
    });
    bound.unwrap_or_default()
}

#[test]
fn profiles_pack_or_spread() {
    let cluster = || {
        with(
            nodes(&[("n1", json!({})), ("n2", json!({})), ("n3", json!({}))]),
            pods(vec![pod("x", "n2", asks("500m")), pod("y", "n3", asks("1"))]),
        )
    };
    let config = |scoring: Value| {
        json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "profiles": [
            {"schedulerName": "mine", "plugins": {"score": {"disabled": [{"name": "NodeResourcesBalancedAllocation"}]}},
             "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": scoring}}]}]})
    };
    let cpu = json!([{"name": "cpu", "weight": 1}]);
    let half = json!({"shape": [{"utilization": 0, "score": 0}, {"utilization": 50, "score": 10}, {"utilization": 100, "score": 0}]});
    for (scoring, expected) in [
        (json!({"type": "LeastAllocated", "resources": cpu}), "n1"),
        (json!({"type": "MostAllocated", "resources": cpu}), "n3"),
        (json!({"type": "RequestedToCapacityRatio", "resources": cpu, "requestedToCapacityRatio": half}), "n2"),
    ] {
        let mut read = config::parse(&config(scoring.clone())).unwrap();
        assert_eq!(by(read.profiles.remove(0), cluster(), pod("p", "", asks("500m"))), expected, "{scoring}");
    }
    assert_eq!(by(Profile { name: "other".into(), ..Profile::default() }, vec![], pod("p", "", json!({}))), "");
}

#[test]
fn pods_of_another_scheduler_are_left_alone() {
    let theirs = json!({"spec": {"schedulerName": "theirs"}});
    assert_eq!(two_nodes(json!({}), json!({}), vec![pod("p", "", theirs)]), "[]");
}

fn whole(more: Value) -> Value {
    merged(json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"}), more)
}

fn with_plugins(plugins: Value) -> Value {
    whole(json!({"profiles": [{"plugins": plugins}]}))
}

fn told(plugin: &str, args: Value) -> Value {
    whole(json!({"profiles": [{"pluginConfig": [{"name": plugin, "args": args}]}]}))
}

#[test]
fn configurations_that_are_not_understood_are_refused() {
    for (config, expected) in [
        (
            json!({"kind": "Pod"}),
            "want a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1, not \"Pod\" of \"\"",
        ),
        (
            with_plugins(json!({"score": {"enabled": [{"name": "Mine"}]}})),
            "profiles[0].plugins.score.enabled[0]: plugin \"Mine\" is not known",
        ),
        (
            with_plugins(json!({"bind": {"disabled": [{"name": "*"}]}})),
            "profiles[0].plugins.bind: nothing else does what DefaultBinder does: it cannot be disabled",
        ),
        (with_plugins(json!({"sort": {}})), "profiles[0].plugins.sort: unknown field"),
        (whole(json!({"profiles": [{}, {}]})), "profiles[1].schedulerName: Duplicate value: \"default-scheduler\""),
        (told("Other", json!({"x": 1})), "profiles[0].pluginConfig[0].args: arguments of \"Other\" are not supported"),
        (
            told("InterPodAffinity", json!({"hardPodAffinityWeight": 101})),
            "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: 101: must be 0 to 100",
        ),
        (
            told("NodeResourcesFit", json!({"scoringStrategy": {"type": "RequestedToCapacityRatio"}})),
            "profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio.shape: at least one point must be specified",
        ),
        (
            told("PodTopologySpread", json!({"defaultingType": "System", "defaultConstraints": [{"maxSkew": 1}]})),
            "profiles[0].pluginConfig[0].args.defaultConstraints: when .defaultingType is System, none can be given",
        ),
        (whole(json!({"extenders": [{}]})), "extenders: not supported: decisions are made in one process"),
        (
            whole(json!({"podInitialBackoffSeconds": 20, "podMaxBackoffSeconds": 0, "percent": 1})),
            "percent: unknown field; podMaxBackoffSeconds: Invalid value: 0: must be 1 or more",
        ),
        (
            whole(json!({"podInitialBackoffSeconds": 20, "podMaxBackoffSeconds": 5})),
            "podMaxBackoffSeconds: Invalid value: 5: must be greater than or equal to PodInitialBackoffSeconds",
        ),
    ] {
        assert_eq!(config::parse(&config).unwrap_err().join("; "), expected);
    }
}

#[test]
fn a_configuration_says_how_pods_find_their_nodes() {
    let read = |config: Value| config::parse(&config).unwrap();
    let weights = with_plugins(
        json!({"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeAffinity", "weight": 7}]}}),
    );
    assert_eq!(read(weights).profiles[0].weights, [("NodeAffinity".to_owned(), 7)]);
    let process =
        whole(json!({"leaderElection": {"leaderElect": true}, "clientConnection": {"qps": 50}, "parallelism": 16,
        "podInitialBackoffSeconds": 3, "podMaxBackoffSeconds": 40, "percentageOfNodesToScore": 30,
        "profiles": [{}, {"schedulerName": "other", "percentageOfNodesToScore": 70}]}));
    let config = read(process);
    assert_eq!(config.idle, ["clientConnection", "leaderElection", "parallelism"]);
    assert_eq!(config.backoff, (Duration::from_secs(3), Duration::from_secs(40)));
    let percentages: Vec<u64> = config.profiles.iter().map(|profile| profile.percentage_of_nodes).collect();
    assert_eq!(percentages, [30, 70]);
    assert_eq!(config.profiles[1].name, "other");
    // As upstream's own examples switch a plugin's points on and off one by one.
    let points = json!({"preFilter": {"disabled": [{"name": "NodePorts"}]}, "filter": {"disabled": [{"name": "NodePorts"}]},
        "queueSort": {"disabled": [{"name": "*"}], "enabled": [{"name": "PrioritySort"}]}, "permit": {"disabled": [{"name": "*"}]}});
    let profile = read(with_plugins(points)).profiles.remove(0);
    assert!(!profile.filters_with("NodePorts") && profile.filters_with("NodeResourcesFit") && profile.preempts);
}

#[test]
fn what_a_profile_leaves_out_is_not_asked() {
    let read = |config: Value| config::parse(&config).unwrap().profiles.remove(0);
    let full = || with(nodes(&[("n1", json!({}))]), pods(vec![pod("x", "n1", asks("2"))]));
    let urgent = || merged(asks("1"), json!({"spec": {"priority": 10}}));
    let outcome = |profile: Profile, cluster: Vec<(Kind, Value)>, wanted: Value| {
        let mut view = View::default();
        for (kind, object) in with(cluster, pods(vec![wanted])) {
            put(&mut view, kind, object);
        }
        let config = Config { profiles: vec![profile], ..Config::default() };
        Scheduler::new(config).reconcile(&view, &Key::new("d", "p"), Timestamp::UNIX_EPOCH).writes
    };
    let pushes = |writes: &[Write]| writes.iter().any(|write| matches!(write, Write::Delete { .. }));
    assert!(pushes(&outcome(Profile::default(), full(), pod("p", "", urgent()))));
    let meek = read(with_plugins(json!({"postFilter": {"disabled": [{"name": "*"}]}})));
    let writes = outcome(meek, full(), pod("p", "", urgent()));
    let message = writes.iter().find_map(|write| match write {
        Write::Event { message, .. } => Some(message.as_str()),
        _ => None,
    });
    assert!(!pushes(&writes));
    assert_eq!(message, Some("0/1 nodes are available: 1 Insufficient cpu."));
    // A resource that somebody else looks after need not be there.
    let gpu = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}});
    let one = || nodes(&[("n1", json!({}))]);
    assert_eq!(by(Profile::default(), one(), pod("p", "", gpu.clone())), "");
    for args in [json!({"ignoredResources": ["example.com/gpu"]}), json!({"ignoredResourceGroups": ["example.com"]})] {
        assert_eq!(by(read(told("NodeResourcesFit", args)), one(), pod("p", "", gpu.clone())), "n1");
    }
    // What the profile adds, all pods must have.
    let term =
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]});
    let added = json!({"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
    let two = nodes(&[("n1", json!({})), ("n2", json!({"metadata": {"labels": {"disk": "ssd"}}}))]);
    assert_eq!(by(read(told("NodeAffinity", added)), two, pod("p", "", json!({}))), "n2");
}

fn near(which: &str, term: Value) -> Value {
    json!({"spec": {"affinity": {which: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
}

fn wishes(which: &str, weight: i64, app: &str) -> Value {
    json!({"spec": {"affinity": {which: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight,
        "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}}]}}}})
}

#[test]
fn wishes_of_both_sides_count() {
    let plain = |name: &str, on: &str, app_name: &str| pod(name, on, app(app_name));
    let wishing = |name: &str, on: &str, wish: Value| pod(name, on, merged(app("db"), wish));
    let p = |more: Value| pod("p", "", merged(app("web"), more));
    for (what, others, wanted, expected) in [
        ("wants to be near", vec![plain("x", "n2", "db")], p(wishes("podAffinity", 50, "db")), "n2"),
        ("wants to be away", vec![plain("x", "n1", "db")], p(wishes("podAntiAffinity", 50, "db")), "n2"),
        ("is wanted near", vec![wishing("x", "n2", wishes("podAffinity", 50, "web"))], p(json!({})), "n2"),
        ("is wanted away", vec![wishing("x", "n1", wishes("podAntiAffinity", 50, "web"))], p(json!({})), "n2"),
        (
            "a required affinity is a wish for those that come later",
            vec![wishing(
                "x",
                "n2",
                near(
                    "podAffinity",
                    json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}),
                ),
            )],
            p(json!({})),
            "n2",
        ),
    ] {
        let mut all = others;
        all.push(wanted);
        assert_eq!(two_nodes(json!({}), json!({}), all), expected, "{what}");
    }
}

#[test]
fn label_keys_narrow_what_a_term_selects() {
    let term = |keys: Value| {
        merged(json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}), keys)
    };
    let version = |version: &str| json!({"metadata": {"labels": {"version": version}}});
    let cluster = || vec![pod("x", "n1", version("1")), pod("y", "n2", version("2"))];
    for (which, keys, expected) in [
        ("podAffinity", json!({"matchLabelKeys": ["version"]}), "n2"),
        ("podAntiAffinity", json!({"matchLabelKeys": ["version"]}), "n1"),
        ("podAffinity", json!({"mismatchLabelKeys": ["version"]}), "n1"),
    ] {
        let mut all = cluster();
        all.push(pod("p", "", merged(version("2"), near(which, term(keys.clone())))));
        assert_eq!(two_nodes(json!({}), json!({}), all), expected, "{which} {keys}");
    }
}

#[test]
fn namespaces_of_a_term() {
    let term = |more: Value| {
        let base = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}});
        near("podAntiAffinity", merged(base, more))
    };
    let elsewhere = || pod("x", "n1", json!({"metadata": {"namespace": "e"}}));
    let namespace = || (Kind::Namespace, json!({"metadata": {"name": "e", "labels": {"team": "a"}}}));
    for (more, expected) in [
        (json!({}), "n1"),
        (json!({"namespaces": ["e"]}), "n2"),
        (json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}), "n2"),
        (json!({"namespaceSelector": {"matchLabels": {"team": "b"}}}), "n1"),
        (json!({"namespaceSelector": {}}), "n2"),
    ] {
        let cluster = with(nodes(&[("n1", json!({})), ("n2", json!({}))]), vec![namespace(), (Kind::Pod, elsewhere())]);
        // Of two empty nodes the first is taken; the second has to be worse for that.
        let busy = pod("b", "n2", merged(asks("1"), app("other")));
        let all = with(cluster, pods(vec![busy, pod("p", "", merged(asks("100m"), term(more.clone())))]));
        assert_eq!(goes(all), expected, "{more}");
    }
}

fn spread(more: Value) -> Value {
    let base = json!({"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    json!({"spec": {"topologySpreadConstraints": [merged(base, more)]}})
}

#[test]
fn spreading_counts_what_it_is_told_to() {
    let tainted =
        || merged(zone("c"), json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}));
    let two = || nodes(&[("n1", zone("a")), ("n2", zone("b"))]);
    let three = || nodes(&[("n1", zone("a")), ("n2", zone("b")), ("n3", tainted())]);
    let x = |on: &str| (Kind::Pod, pod(&format!("x-{on}"), on, json!({})));
    let p = |more: Value| (Kind::Pod, pod("p", "", more));
    let none = "node(s) didn't match pod topology spread constraints";
    for (what, cluster, others, wanted, expected) in [
        ("the emptier zone", two(), vec![x("n1")], spread(json!({})), "n2"),
        ("a zone that taints keep out counts", three(), vec![x("n1"), x("n2")], spread(json!({})), none),
        (
            "unless taints are honoured",
            three(),
            vec![x("n1"), x("n2")],
            spread(json!({"nodeTaintsPolicy": "Honor"})),
            "n1",
        ),
        ("too few zones", two(), vec![x("n1"), x("n2")], spread(json!({"minDomains": 3})), none),
        ("enough zones", two(), vec![x("n1"), x("n2")], spread(json!({"minDomains": 2})), "n1"),
        (
            "nodes that the pod does not select do not count",
            two(),
            vec![x("n1")],
            merged(spread(json!({})), json!({"spec": {"nodeSelector": {"topology.kubernetes.io/zone": "a"}}})),
            "n1",
        ),
        (
            "unless affinity is ignored",
            two(),
            vec![x("n1")],
            merged(
                spread(json!({"nodeAffinityPolicy": "Ignore"})),
                json!({"spec": {"nodeSelector": {"topology.kubernetes.io/zone": "a"}}}),
            ),
            none,
        ),
        (
            "other versions do not count",
            nodes(&[("n1", zone("a")), ("n2", merged(zone("b"), json!({"spec": {"unschedulable": true}})))]),
            vec![x("n1")],
            merged(spread(json!({"matchLabelKeys": ["version"]})), json!({"metadata": {"labels": {"version": "2"}}})),
            "n1",
        ),
        ("a node without the label", nodes(&[("n1", json!({}))]), vec![], spread(json!({})), "missing required label"),
    ] {
        let told = goes(with(cluster, others.into_iter().chain([p(wanted)]).collect()));
        assert!(told.contains(expected), "{what}: {told}");
    }
}

#[test]
fn pods_of_a_service_or_a_set_are_spread_unless_they_say_otherwise() {
    let service =
        (Kind::Service, json!({"metadata": {"name": "s", "namespace": "d"}, "spec": {"selector": {"app": "web"}}}));
    let set = (
        Kind::ReplicaSet,
        json!({"metadata": {"name": "r", "namespace": "d", "uid": "r"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}}),
    );
    let owned =
        json!({"metadata": {"ownerReferences": [{"kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}});
    let small = json!({"status": {"allocatable": {"cpu": "1950m"}}});
    for (what, more, own, expected) in [
        ("neither", vec![], json!({}), "n1"),
        ("a service", vec![service], json!({}), "n2"),
        ("a set", vec![set], owned, "n2"),
    ] {
        // n2 is a little smaller, so that without spreading n1 is as good or better.
        let cluster = nodes(&[("n1", json!({"status": {"allocatable": {"cpu": "64"}}})), ("n2", small.clone())]);
        let mut all = with(cluster, more);
        all.extend(pods(vec![pod("x", "n1", json!({})), pod("p", "", own)]));
        assert_eq!(goes(all), expected, "{what}");
    }
}

#[test]
fn images_draw_pods() {
    let has = |image: &str| json!({"status": {"images": [{"names": [image], "sizeBytes": 800_000_000}]}});
    let wants = json!({"spec": {"containers": [{"name": "c", "image": "app"}]}});
    assert_eq!(two_nodes(has("other:latest"), has("app:latest"), vec![pod("p", "", wants)]), "n2");
}

fn claim(more: Value) -> (Kind, Value) {
    let base = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"volumeName": "v", "accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Bound"}});
    (Kind::Claim, merged(base, more))
}

fn volume(more: Value) -> (Kind, Value) {
    (Kind::Volume, merged(json!({"metadata": {"name": "v"}, "spec": {}}), more))
}

fn uses(claim: &str) -> Value {
    json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
}

#[test]
fn volumes_are_in_zones_and_have_numbers() {
    let zoned = |zones: &str| volume(json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zones}}}));
    let two = || nodes(&[("n1", zone("a")), ("n2", zone("b"))]);
    let p = || (Kind::Pod, pod("p", "", uses("c")));
    assert_eq!(goes(with(two(), vec![claim(json!({})), zoned("b"), p()])), "n2");
    assert_eq!(goes(with(two(), vec![claim(json!({})), zoned("b__c"), p()])), "n2");
    let nowhere = goes(with(two(), vec![claim(json!({})), zoned("c"), p()]));
    assert!(nowhere.contains("2 node(s) had no available volume zone"), "{nowhere}");

    let csi = |name: &str| {
        (Kind::Volume, json!({"metadata": {"name": name}, "spec": {"csi": {"driver": "d.io", "volumeHandle": name}}}))
    };
    let limited = |node: &str| {
        (
            Kind::CsiNode,
            json!({"metadata": {"name": node}, "spec": {"drivers": [{"name": "d.io", "allocatable": {"count": 1}}]}}),
        )
    };
    let other = claim(json!({"metadata": {"name": "e"}, "spec": {"volumeName": "w"}}));
    let held = (Kind::Pod, pod("x", "n1", uses("e")));
    let cluster = |more: Vec<(Kind, Value)>| {
        let base = vec![claim(json!({})), csi("v"), csi("w"), other.clone(), held.clone(), limited("n1"), p()];
        goes(with(with(two(), base), more))
    };
    assert_eq!(cluster(vec![]), "n2");
    let full = cluster(vec![
        limited("n2"),
        (Kind::Pod, pod("y", "n2", uses("f"))),
        claim(json!({"metadata": {"name": "f"}, "spec": {"volumeName": "z"}})),
        csi("z"),
    ]);
    assert!(full.contains("2 node(s) exceed max volume count"), "{full}");
}

#[test]
fn a_claim_for_one_pod_is_one_pods() {
    let alone = || claim(json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}));
    let two = || nodes(&[("n1", json!({})), ("n2", json!({}))]);
    let p = |priority: i64| (Kind::Pod, pod("p", "", merged(uses("c"), json!({"spec": {"priority": priority}}))));
    let held = || (Kind::Pod, pod("x", "n1", uses("c")));
    assert_eq!(goes(with(two(), vec![alone(), volume(json!({})), p(0)])), "n1");
    let told = goes(with(two(), vec![alone(), volume(json!({})), held(), p(0)]));
    assert!(
        told.contains("2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod"),
        "{told}"
    );
    let pushed = goes(with(two(), vec![alone(), volume(json!({})), held(), p(9)]));
    assert!(pushed.contains("Preempted by pod") && pushed.contains("\"n1\""), "{pushed}");
}

#[test]
fn a_place_is_kept_for_the_pod_that_pushed_others_out() {
    let asks = |cpu: &str, priority: i64, nominated: &str| {
        let mut more = super::asks(cpu);
        more["spec"]["priority"] = priority.into();
        if !nominated.is_empty() {
            more["status"]["nominatedNodeName"] = nominated.into();
        }
        more
    };
    let waits = |priority: i64| pod("z", "", asks("1500m", priority, "n1"));
    let p = |priority: i64| pod("p", "", asks("1", priority, ""));
    let one = |pods_there: Vec<Value>| goes(with(nodes(&[("n1", json!({}))]), pods(pods_there)));
    assert!(one(vec![waits(10), p(0)]).contains("1 Insufficient cpu"), "the place is another's");
    assert_eq!(one(vec![waits(10), p(11)]), "n1", "who matters more takes it");
    let own = pod("p", "", asks("1500m", 10, "n2"));
    assert_eq!(two_nodes(json!({}), json!({}), vec![own]), "n2", "one's own place first");
}

#[test]
fn what_was_decided_counts_until_it_is_seen() {
    let mut view = View::default();
    let mut scheduler = Scheduler::default();
    put(&mut view, Kind::Node, node("n1", json!({})));
    for name in ["p", "q"] {
        put(&mut view, Kind::Pod, pod(name, "", asks("1500m")));
    }
    let look = |scheduler: &mut Scheduler, view: &View, name: &str| {
        scheduler.reconcile(view, &Key::new("d", name), Timestamp::UNIX_EPOCH).writes
    };
    assert!(matches!(&look(&mut scheduler, &view, "p")[0], Write::Bind { .. }));
    let told = format!("{:?}", look(&mut scheduler, &view, "q"));
    assert!(told.contains("Insufficient cpu"), "{told}");
    assert!(
        matches!(&look(&mut scheduler, &view, "p")[0], Write::Bind { node, .. } if node == "n1"),
        "asked again, the same"
    );
    // It has gone, and the other one is tried again for that reason alone.
    let gone = view.get(Kind::Pod, "d", "p").unwrap().clone();
    view.remove(Kind::Pod, &gone);
    scheduler.notice(&view, Kind::Pod, &gone);
    assert_eq!(scheduler.keys(&view, Kind::Pod, &gone), [Key::new("d", "q")]);
    let later = Timestamp::from_second(2).unwrap();
    let writes = scheduler.reconcile(&view, &Key::new("d", "q"), later).writes;
    assert!(matches!(&writes[0], Write::Bind { node, .. } if node == "n1"), "{writes:?}");
}

#[test]
fn shares_of_resources_are_wanted_alike() {
    // On n1 the pod evens CPU out with memory, on n2 it makes the distance larger; both are as full in sum.
    let uses = |name: &str, on: &str, cpu: &str, memory: &str| {
        let wanted =
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}});
        pod(name, on, wanted)
    };
    let cluster = || {
        with(
            nodes(&[("n1", json!({})), ("n2", json!({}))]),
            pods(vec![uses("x", "n1", "200m", "2Gi"), uses("y", "n2", "1", "400Mi")]),
        )
    };
    let only = |name: &str| {
        let plugins = json!({"score": {"disabled": [{"name": "*"}], "enabled": [{"name": name}]}});
        config::parse(&with_plugins(plugins)).unwrap().profiles.remove(0)
    };
    let wanted = || uses("p", "", "800m", "64Mi");
    assert_eq!(by(only("NodeResourcesBalancedAllocation"), cluster(), wanted()), "n1");
    // Of memory and storage alone the other one is better.
    let args = json!({"resources": [{"name": "memory", "weight": 1}, {"name": "example.com/gpu", "weight": 1}]});
    let mut other = config::parse(&told("NodeResourcesBalancedAllocation", args)).unwrap().profiles.remove(0);
    assert_eq!(other.balanced, ["memory", "example.com/gpu"]);
    other.weights = only("NodeResourcesBalancedAllocation").weights;
    let gpus = |name: &str, count: &str| {
        (Kind::Node, node(name, json!({"status": {"allocatable": {"example.com/gpu": count}}})))
    };
    let cluster = with(
        vec![gpus("n1", "8"), gpus("n2", "1")],
        pods(vec![uses("x", "n1", "1m", "2Gi"), uses("y", "n2", "1m", "2Gi")]),
    );
    let gpu = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1", "memory": "2Gi"}}}]}});
    assert_eq!(by(other, cluster, pod("p", "", gpu)), "n2", "all of both is as alike as can be");
}

#[test]
fn preemption_breaks_no_budget_where_another_node_will_do() {
    let budget = |allowed: i64| {
        (
            Kind::DisruptionBudget,
            json!({"metadata": {"name": "b", "namespace": "d"}, "spec": {"selector": {"matchLabels": {"app": "kept"}}},
                "status": {"disruptionsAllowed": allowed}}),
        )
    };
    let pushed = |allowed: i64| {
        let kept = |name: &str, on: &str| pod(name, on, merged(asks("2"), app("kept")));
        let other = pod("y", "n2", merged(asks("2"), json!({"spec": {"priority": 5}})));
        let urgent = pod("p", "", merged(asks("1"), json!({"spec": {"priority": 10}})));
        let all = with(nodes(&[("n1", json!({})), ("n2", json!({}))]), pods(vec![kept("x", "n1"), other, urgent]));
        goes(with(all, vec![budget(allowed)]))
    };
    assert!(pushed(1).contains("nominatedNodeName\": String(\"n1\")"), "the least important goes");
    assert!(pushed(0).contains("nominatedNodeName\": String(\"n2\")"), "a more important one, that nobody guards");
}
