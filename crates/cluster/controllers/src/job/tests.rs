//! Stories of jobs that succeed, fail and are interrupted.

use super::*;
use crate::testing::World;

fn world(more: Value) -> (World, Jobs) {
    let mut world = World::new();
    let mut job = json!({"metadata": {"name": "j", "namespace": "d", "uid": "u"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
            "podReplacementPolicy": "TerminatingOrFailed", "selector": {"matchLabels": {"job": "j"}},
            "template": {"metadata": {"labels": {"job": "j"}},
                "spec": {"nodeName": "n", "restartPolicy": "Never", "containers": [{"name": "main"}]}}}});
    resources::patch::merge_patch(&mut job["spec"], &more);
    world.put(Kind::Job, job);
    (world, Jobs::new(Names::new(1)))
}

fn status(world: &World) -> Value {
    world.find(Kind::Job, "j")["status"].clone()
}

fn count(world: &World, field: &str) -> i64 {
    status(world)[field].as_i64().unwrap_or(0)
}

/// `Type=Status Reason` of all conditions.
fn conditions(world: &World) -> Vec<String> {
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    let all = meta::list_at(&status(world), &["conditions"]).to_vec();
    all.iter().map(|one| format!("{}={} {}", text(one, "type"), text(one, "status"), text(one, "reason"))).collect()
}

fn active(world: &World) -> Vec<String> {
    let active = world.view.list(Kind::Pod).filter(|pod| pods::is_active(pod));
    active.map(|pod| meta::name(pod).to_owned()).collect()
}

fn of_index(world: &World, index: i64) -> String {
    let found = world.view.list(Kind::Pod).find(|pod| pods::is_active(pod) && index_of(pod) == Some(index));
    meta::name(found.unwrap_or_else(|| panic!("index {index} runs"))).to_owned()
}

#[test]
fn a_job_runs_its_pods_to_completion() {
    let (mut world, mut part) = world(json!({"parallelism": 2, "completions": 3}));
    world.settle(&mut part, "j");
    assert_eq!((active(&world).len(), count(&world, "active")), (2, 2));
    let pod = world.view.list(Kind::Pod).next().unwrap().clone();
    assert!(tally::has_finalizer(&pod));
    assert_eq!(status(&world)["startTime"], "2026-01-01T00:00:00Z");
    world.all_ready();
    world.settle(&mut part, "j");
    assert_eq!(count(&world, "ready"), 2);
    for left in [2, 1, 0] {
        let name = active(&world)[0].clone();
        world.ended(&name, 0);
        world.settle(&mut part, "j");
        assert!(!tally::has_finalizer(&world.find(Kind::Pod, &name)));
        assert_eq!((active(&world).len(), count(&world, "succeeded")), (left, 3 - left as i64));
    }
    assert_eq!(conditions(&world), ["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"]);
    assert_eq!(status(&world)["completionTime"], "2026-01-01T00:00:00Z");
    assert_eq!(status(&world)["uncountedTerminatedPods"], json!({}));
    assert_eq!(world.events.last().unwrap(), "Completed: Job completed");
    assert_eq!(world.names(Kind::Pod).len(), 3);
}

#[test]
fn a_pod_is_counted_once_wherever_it_is_interrupted() {
    for cut in 0..6 {
        let (mut world, mut part) = world(json!({"completions": 2}));
        world.settle(&mut part, "j");
        let name = active(&world)[0].clone();
        world.ended(&name, 0);
        // The first writes are carried out, then the controller begins anew, and the pod goes meanwhile or stays.
        for round in 0..3 {
            let mut writes = world.look(&mut part, &Key::new("d", "j")).writes;
            writes.truncate(if round == 0 { cut } else { cut + round });
            world.apply(writes);
            part = Jobs::new(Names::new(7 + cut as u64 * 10 + round as u64));
        }
        let pod = world.find(Kind::Pod, &name);
        if !tally::has_finalizer(&pod) {
            world.view.remove(Kind::Pod, &pod);
        }
        world.settle(&mut part, "j");
        assert_eq!((count(&world, "succeeded"), active(&world).len()), (1, 1), "cut {cut}");
    }
}

#[test]
fn failures_are_tried_again_later_and_later_and_end_the_job() {
    let (mut world, mut part) = world(json!({"backoffLimit": 2}));
    for wait in [10, 20] {
        world.settle(&mut part, "j");
        let name = active(&world)[0].clone();
        world.ended(&name, 1);
        world.settle(&mut part, "j");
        assert!(active(&world).is_empty());
        assert_eq!(world.step(&mut part, "j"), Some(Duration::from_secs(wait)));
        world.pass(wait as i64);
    }
    world.settle(&mut part, "j");
    let name = active(&world)[0].clone();
    world.ended(&name, 1);
    world.settle(&mut part, "j");
    assert_eq!(count(&world, "failed"), 3);
    assert_eq!(conditions(&world), ["FailureTarget=True BackoffLimitExceeded", "Failed=True BackoffLimitExceeded"]);
    assert_eq!(world.events.last().unwrap(), "BackoffLimitExceeded: Job has reached the specified backoff limit");
}

#[test]
fn restarts_in_place_count_as_failures() {
    let (mut world, mut part) = world(json!({"backoffLimit": 2, "template": {"spec": {"restartPolicy": "OnFailure"}}}));
    world.settle(&mut part, "j");
    let name = active(&world)[0].clone();
    world.change(Kind::Pod, &name, |pod| {
        pod["status"]["containerStatuses"] = json!([{"name": "main", "restartCount": 2}])
    });
    world.step(&mut part, "j");
    assert_eq!(conditions(&world), ["FailureTarget=True BackoffLimitExceeded"], "its pods have to end first");
    world.settle(&mut part, "j");
    assert_eq!(conditions(&world).len(), 2);
}

#[test]
fn indexed_jobs_do_each_index_once() {
    let (mut world, mut part) = world(json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3}));
    world.settle(&mut part, "j");
    let pod = world.find(Kind::Pod, &of_index(&world, 1));
    assert!(meta::name(&pod).starts_with("j-1-"));
    assert_eq!(pod["spec"]["hostname"], "j-1");
    assert_eq!(pod["metadata"]["labels"][INDEX], "1");
    let variable = &pod["spec"]["containers"][0]["env"][0];
    assert_eq!(variable["name"], "JOB_COMPLETION_INDEX");
    assert_eq!(
        variable["valueFrom"]["fieldRef"]["fieldPath"],
        "metadata.labels['batch.kubernetes.io/job-completion-index']"
    );
    for index in [0, 2, 1, 3] {
        let name = of_index(&world, index);
        world.ended(&name, 0);
        world.settle(&mut part, "j");
    }
    assert_eq!((status(&world)["completedIndexes"].as_str(), count(&world, "succeeded")), (Some("0-3"), 4));
    assert!(is_finished(&world.find(Kind::Job, "j")));
}

#[test]
fn each_index_may_have_its_own_limit() {
    let spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 1,
        "backoffLimit": i32::MAX});
    let (mut world, mut part) = world(spec);
    world.settle(&mut part, "j");
    let name = of_index(&world, 0);
    world.ended(&name, 1);
    world.settle(&mut part, "j");
    world.pass(10);
    world.settle(&mut part, "j");
    let second = world.find(Kind::Pod, &of_index(&world, 0));
    assert_eq!(second["metadata"]["annotations"][FAILURES], "1");
    world.ended(meta::name(&second), 1);
    world.settle(&mut part, "j");
    assert_eq!(status(&world)["failedIndexes"], "0");
    assert!(!is_finished(&world.find(Kind::Job, "j")), "the other index goes on");
    let name = of_index(&world, 1);
    world.ended(&name, 0);
    world.settle(&mut part, "j");
    assert_eq!(conditions(&world)[1], "Failed=True FailedIndexes");
    assert_eq!(world.events.last().unwrap(), "FailedIndexes: Job has failed indexes");
}

#[test]
fn policies_decide_over_failure_and_success() {
    let rules = json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]);
    let (mut world, mut part) = world(json!({"podFailurePolicy": {"rules": rules}, "podReplacementPolicy": "Failed"}));
    world.settle(&mut part, "j");
    let name = active(&world)[0].clone();
    world.ended(&name, 42);
    world.settle(&mut part, "j");
    assert_eq!(conditions(&world)[1], "Failed=True PodFailurePolicy");
    let told = status(&world)["conditions"][1]["message"].as_str().unwrap().to_owned();
    assert_eq!(
        told,
        format!("Container main for pod d/{name} failed with exit code 42 matching FailJob rule at index 0")
    );

    let rules = json!([{"succeededIndexes": "0"}]);
    let (mut world, mut part) = self::world(
        json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "successPolicy": {"rules": rules}}),
    );
    world.settle(&mut part, "j");
    let name = of_index(&world, 0);
    world.ended(&name, 0);
    world.settle(&mut part, "j");
    assert_eq!(conditions(&world), ["SuccessCriteriaMet=True SuccessPolicy", "Complete=True SuccessPolicy"]);
    assert!(active(&world).is_empty());
}

#[test]
fn a_job_can_be_suspended_and_resumed() {
    let (mut world, mut part) = world(json!({"suspend": true, "activeDeadlineSeconds": 30}));
    world.settle(&mut part, "j");
    assert_eq!((active(&world).len(), conditions(&world)), (0, vec!["Suspended=True JobSuspended".to_owned()]));
    assert!(status(&world).get("startTime").is_none());
    world.pass(100);
    world.change(Kind::Job, "j", |job| job["spec"]["suspend"] = false.into());
    world.settle(&mut part, "j");
    assert_eq!((active(&world).len(), conditions(&world)), (1, vec!["Suspended=False JobResumed".to_owned()]));
    assert_eq!(status(&world)["startTime"], "2026-01-01T00:01:40Z");
    world.change(Kind::Job, "j", |job| job["spec"]["suspend"] = true.into());
    world.settle(&mut part, "j");
    assert!(active(&world).is_empty());
    assert_eq!(world.events.iter().filter(|event| event.as_str() == "Suspended: Job suspended").count(), 2);
}

#[test]
fn deadlines_end_a_job_and_time_takes_it_away() {
    let (mut world, mut part) = world(json!({"activeDeadlineSeconds": 30, "ttlSecondsAfterFinished": 60}));
    assert_eq!(world.step(&mut part, "j"), Some(Duration::from_secs(30)));
    world.pass(30);
    world.settle(&mut part, "j");
    assert_eq!(conditions(&world)[1], "Failed=True DeadlineExceeded");
    assert_eq!(world.step(&mut part, "j"), Some(Duration::from_secs(60)));
    world.pass(60);
    world.step(&mut part, "j");
    assert!(world.names(Kind::Job).is_empty());
}

#[test]
fn a_queue_of_work_ends_when_one_succeeded_and_nobody_runs() {
    let (mut world, mut part) = world(json!({"completions": null, "parallelism": 2}));
    world.settle(&mut part, "j");
    let names = active(&world);
    world.ended(&names[0], 0);
    world.settle(&mut part, "j");
    assert_eq!(active(&world), names[1..]);
    world.ended(&names[1], 0);
    world.settle(&mut part, "j");
    assert_eq!(conditions(&world)[1], "Complete=True CompletionsReached");
}

#[test]
fn pods_told_to_end_are_replaced_at_once_or_when_they_have_ended() {
    for (policy, at_once) in [("TerminatingOrFailed", 1), ("Failed", 0)] {
        let (mut world, mut part) = world(json!({"podReplacementPolicy": policy}));
        world.settle(&mut part, "j");
        let name = active(&world)[0].clone();
        world.change(Kind::Pod, &name, |pod| meta::set(pod, "deletionTimestamp", "2026-01-01T00:00:00Z"));
        let more = world.look(&mut part, &Key::new("d", "j"));
        world.apply(more.writes);
        world.pass(10);
        world.step(&mut part, "j");
        world.step(&mut part, "j");
        assert_eq!(active(&world).len(), at_once, "{policy}");
    }
}

#[test]
fn pods_of_a_job_that_has_gone_are_let_go() {
    let (mut world, mut part) = world(json!({}));
    world.settle(&mut part, "j");
    let job = world.find(Kind::Job, "j");
    world.view.remove(Kind::Job, &job);
    world.step(&mut part, "j");
    let pod = world.view.list(Kind::Pod).next().unwrap();
    assert!(!tally::has_finalizer(pod));
}

#[test]
fn a_job_that_ends_at_the_first_look_began_then() {
    for more in [json!({"completions": 0}), json!({"completions": 0, "suspend": true})] {
        let (mut world, mut part) = world(more);
        world.settle(&mut part, "j");
        assert!(conditions(&world).contains(&"Complete=True CompletionsReached".to_owned()));
        assert_eq!(status(&world)["startTime"], "2026-01-01T00:00:00Z");
    }
}

#[test]
fn a_job_that_is_suspended_when_its_last_pod_succeeds_ends() {
    let (mut world, mut part) = world(json!({}));
    world.settle(&mut part, "j");
    world.ended(&active(&world)[0], 0);
    world.change(Kind::Job, "j", |job| job["spec"]["suspend"] = true.into());
    world.settle(&mut part, "j");
    assert!(conditions(&world).contains(&"Complete=True CompletionsReached".to_owned()), "{:?}", conditions(&world));
}
