//! Stories of schedules that fire, are missed and overlap.

use super::*;
use crate::testing::World;

fn world(more: Value) -> World {
    let mut world = World::new();
    let mut cron = json!({"metadata": {"name": "c", "namespace": "d", "uid": "u"},
        "spec": {"schedule": "*/10 * * * *", "concurrencyPolicy": "Allow", "suspend": false, "successfulJobsHistoryLimit": 2,
            "failedJobsHistoryLimit": 1, "jobTemplate": {"metadata": {"labels": {"l": "1"}}, "spec": {"completions": 1}}}});
    resources::patch::merge_patch(&mut cron["spec"], &more);
    world.put(Kind::CronJob, cron);
    world
}

/// Lets time pass and looks.
fn pass(world: &mut World, secs: i64) -> Option<Duration> {
    world.pass(secs);
    world.settle(&mut CronJobs, "c");
    world.step(&mut CronJobs, "c")
}

fn end(world: &mut World, job: &str, kind: &str) {
    let now = decode::format_time(world.now, 0);
    world.change(Kind::Job, job, |job| {
        job["status"] = json!({"startTime": now, "conditions": [{"type": kind, "status": "True"}]});
        if kind == "Complete" {
            job["status"]["completionTime"] = now.into();
        }
    });
    world.settle(&mut CronJobs, "c");
}

const FIRST: &str = "c-29453770";
const SECOND: &str = "c-29453780";

#[test]
fn it_fires_at_its_times() {
    let mut world = world(json!({}));
    assert_eq!(pass(&mut world, 0), Some(Duration::from_millis(600_100)));
    assert!(world.names(Kind::Job).is_empty());
    pass(&mut world, 600);
    assert_eq!(world.names(Kind::Job), [FIRST]);
    let job = world.find(Kind::Job, FIRST);
    assert_eq!(job["metadata"]["annotations"][SCHEDULED], "2026-01-01T00:10:00Z");
    assert_eq!((&job["metadata"]["labels"]["l"], &job["spec"]["completions"]), (&json!("1"), &json!(1)));
    let status = world.find(Kind::CronJob, "c")["status"].clone();
    assert_eq!(
        (&status["lastScheduleTime"], &status["active"][0]["name"]),
        (&json!("2026-01-01T00:10:00Z"), &json!(FIRST))
    );
    pass(&mut world, 60);
    assert_eq!(world.names(Kind::Job).len(), 1, "once each time");
    end(&mut world, FIRST, "Complete");
    let status = world.find(Kind::CronJob, "c")["status"].clone();
    assert_eq!((status.get("active"), &status["lastSuccessfulTime"]), (None, &json!("2026-01-01T00:11:00Z")));
    assert_eq!(
        world.events,
        [
            format!("SuccessfulCreate: Created job {FIRST}"),
            format!("SawCompletedJob: Saw completed job: {FIRST}, condition: Complete")
        ]
    );
}

#[test]
fn what_is_still_running_decides_by_policy() {
    for (policy, jobs) in [("Allow", vec![FIRST, SECOND]), ("Forbid", vec![FIRST]), ("Replace", vec![SECOND])] {
        let mut world = world(json!({"concurrencyPolicy": policy}));
        pass(&mut world, 600);
        world.pass(600);
        world.step(&mut CronJobs, "c");
        assert_eq!(world.names(Kind::Job), jobs, "{policy}");
        let told =
            "JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid";
        assert_eq!(world.events.iter().any(|event| event == told), policy == "Forbid");
    }
}

#[test]
fn a_time_that_forbid_skipped_is_made_up_for() {
    let mut world = world(json!({"concurrencyPolicy": "Forbid"}));
    pass(&mut world, 600);
    world.pass(600);
    world.step(&mut CronJobs, "c");
    end(&mut world, FIRST, "Complete");
    assert_eq!(world.names(Kind::Job), [FIRST, SECOND]);
}

#[test]
fn history_is_kept_within_its_limits() {
    let mut world = world(json!({}));
    for _ in 0..4 {
        pass(&mut world, 600);
        let job = world.names(Kind::Job).last().unwrap().clone();
        end(&mut world, &job, "Complete");
    }
    assert_eq!(world.names(Kind::Job).len(), 2);
    assert!(world.events.contains(&format!("SuccessfulDelete: Deleted job {FIRST}")));
}

#[test]
fn missed_times_are_made_up_for_once_or_not_at_all() {
    let mut world = world(json!({}));
    pass(&mut world, 3600 * 24 + 30);
    assert_eq!(world.names(Kind::Job), ["c-29455200"], "the latest only");
    assert!(world.events[0].starts_with("TooManyMissedTimes: too many missed start times."));
    let mut world = self::world(json!({"startingDeadlineSeconds": 60}));
    pass(&mut world, 600 + 61);
    assert!(world.names(Kind::Job).is_empty());
    pass(&mut world, 580);
    assert_eq!(world.names(Kind::Job), [SECOND]);
}

#[test]
fn suspended_or_wrong_it_does_nothing() {
    for (more, told) in [
        (json!({"suspend": true}), ""),
        (json!({"timeZone": "Nowhere/Never"}), "UnknownTimeZone: "),
        (json!({"schedule": "x"}), "UnparseableSchedule: "),
    ] {
        let mut world = world(more.clone());
        world.pass(6000);
        world.step(&mut CronJobs, "c");
        assert!(world.names(Kind::Job).is_empty());
        assert_eq!(world.events.first().is_some_and(|event| event.starts_with(told)), !told.is_empty(), "{more}");
    }
}

#[test]
fn a_job_that_somebody_took_away_is_missed() {
    let mut world = world(json!({}));
    pass(&mut world, 600);
    let job = world.find(Kind::Job, FIRST);
    world.view.remove(Kind::Job, &job);
    pass(&mut world, 1);
    assert!(world.names(Kind::Job).is_empty());
    assert!(world.events.contains(&format!("MissingJob: Active job went missing: {FIRST}")));
}
