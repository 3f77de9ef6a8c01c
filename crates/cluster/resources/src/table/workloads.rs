//! Pods and what makes pods.

use jiff::Timestamp;
use serde_json::Value;

use super::text::{age, condition, holds, human, integer as int, labels, name, number, or_none, selector, since, text};
use super::{AGE, Column, NAME, Table, boolean, integer, string, wide};
use crate::meta::{self, at, list_at, str_at};

const CONTAINERS: Column = wide("Containers");
const IMAGES: Column = wide("Images");
const SELECTOR: Column = wide("Selector");

pub(super) const POD: Table = Table {
    columns: &[
        NAME,
        string("Ready"),
        string("Status"),
        string("Restarts"),
        AGE,
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells: |pod, now| {
        let seen = look(pod);
        let restarts = match &seen.last_restart {
            Some(last) if seen.restarts > 0 => {
                format!("{} ({} ago)", seen.restarts, since(last, now).as_str().unwrap_or_default())
            }
            _ => seen.restarts.to_string(),
        };
        let gates = list_at(pod, &["spec", "readinessGates"]);
        let open = gates.iter().filter(|gate| holds(pod, gate["conditionType"].as_str().unwrap_or_default())).count();
        vec![
            name(pod),
            format!("{}/{}", seen.ready, seen.containers).into(),
            seen.status.into(),
            restarts.into(),
            age(pod, now),
            or_none(match list_at(pod, &["status", "podIPs"]).first() {
                Some(first) => first["ip"].as_str().unwrap_or_default(),
                None => str_at(pod, &["status", "podIP"]),
            }),
            or_none(str_at(pod, &["spec", "nodeName"])),
            or_none(str_at(pod, &["status", "nominatedNodeName"])),
            if gates.is_empty() { "<none>".into() } else { format!("{open}/{}", gates.len()).into() },
        ]
    },
};

/// What `kubectl get pods` makes of a pod's status.
struct Seen {
    ready: usize,
    containers: usize,
    status: String,
    restarts: i64,
    last_restart: Option<String>,
}

/// Times of one form: the later is the greater text.
fn note_restart(last: &mut Option<String>, status: &Value) {
    let ended = status["lastState"]["terminated"]["finishedAt"].as_str().map(str::to_owned);
    *last = last.take().max(ended);
}

fn look(pod: &Value) -> Seen {
    let reason = match str_at(pod, &["status", "reason"]) {
        "" => str_at(pod, &["status", "phase"]).to_owned(),
        reason => reason.to_owned(),
    };
    let containers = list_at(pod, &["spec", "containers"]).len();
    let mut seen = Seen { ready: 0, containers, status: reason, restarts: 0, last_restart: None };
    if condition(pod, "PodScheduled").is_some_and(|condition| condition["reason"] == "SchedulingGated") {
        seen.status = "SchedulingGated".into();
    }
    // Init containers that go on running beside the others count with them.
    let inits = list_at(pod, &["spec", "initContainers"]);
    let stays = |name: &Value| inits.iter().any(|init| init["name"] == *name && init["restartPolicy"] == "Always");
    seen.containers += inits.iter().filter(|init| init["restartPolicy"] == "Always").count();
    let (mut kept_restarts, mut kept_last) = (0, None);
    let mut initializing = false;
    for (at, status) in list_at(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        let state = &status["state"];
        seen.restarts += int(status, &["restartCount"]);
        note_restart(&mut seen.last_restart, status);
        if stays(&status["name"]) {
            kept_restarts += int(status, &["restartCount"]);
            note_restart(&mut kept_last, status);
        }
        if state["terminated"]["exitCode"] == 0 {
            continue;
        }
        if stays(&status["name"]) && status["started"] == true {
            seen.ready += usize::from(status["ready"] == true);
            continue;
        }
        initializing = true;
        seen.status = match (state.get("terminated"), state["waiting"]["reason"].as_str()) {
            (Some(ended), _) => format!("Init:{}", ending(ended)),
            (None, Some(why)) if !why.is_empty() && why != "PodInitializing" => format!("Init:{why}"),
            _ => format!("Init:{at}/{}", inits.len()),
        };
        break;
    }
    if !initializing || holds(pod, "Initialized") {
        (seen.restarts, seen.last_restart) = (kept_restarts, kept_last);
        let mut running = false;
        for status in list_at(pod, &["status", "containerStatuses"]).iter().rev() {
            let state = &status["state"];
            seen.restarts += int(status, &["restartCount"]);
            note_restart(&mut seen.last_restart, status);
            if let Some(why) = state["waiting"]["reason"].as_str().filter(|why| !why.is_empty()) {
                seen.status = why.to_owned();
            } else if let Some(ended) = state.get("terminated") {
                seen.status = ending(ended);
            } else if status["ready"] == true && state.get("running").is_some() {
                running = true;
                seen.ready += 1;
            }
        }
        if seen.status == "Completed" && running {
            seen.status = if holds(pod, "Ready") { "Running" } else { "NotReady" }.into();
        }
    }
    if meta::is_terminating(pod) {
        if str_at(pod, &["status", "reason"]) == "NodeLost" {
            seen.status = "Unknown".into();
        } else if !matches!(str_at(pod, &["status", "phase"]), "Failed" | "Succeeded") {
            seen.status = "Terminating".into();
        }
    }
    seen
}

fn ending(terminated: &Value) -> String {
    match terminated["reason"].as_str().unwrap_or_default() {
        "" => match terminated["signal"].as_i64().unwrap_or(0) {
            0 => format!("ExitCode:{}", terminated["exitCode"]),
            signal => format!("Signal:{signal}"),
        },
        reason => reason.to_owned(),
    }
}

/// Names and images of the containers of a pod's spec.
fn containers(spec: &Value) -> (Value, Value) {
    let all = list_at(spec, &["containers"]);
    let join = |field: &str| {
        let texts: Vec<&str> = all.iter().filter_map(|container| container[field].as_str()).collect();
        Value::from(texts.join(","))
    };
    (join("name"), join("image"))
}

fn of_template(object: &Value) -> (Value, Value) {
    containers(&object["spec"]["template"]["spec"])
}

pub(super) const POD_TEMPLATE: Table = Table {
    columns: &[NAME, string("Containers"), string("Images"), string("Pod Labels")],
    cells: |object, _| {
        let (names, images) = containers(&object["template"]["spec"]);
        vec![name(object), names, images, labels(&object["template"]["metadata"]["labels"])]
    },
};

const REPLICATED: &[Column] =
    &[NAME, integer("Desired"), integer("Current"), integer("Ready"), AGE, CONTAINERS, IMAGES, SELECTOR];

fn replicated(object: &Value, selector: Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = of_template(object);
    vec![
        name(object),
        number(object, &["spec", "replicas"]),
        number(object, &["status", "replicas"]),
        number(object, &["status", "readyReplicas"]),
        age(object, now),
        names,
        images,
        selector,
    ]
}

pub(super) const REPLICA_SET: Table =
    Table { columns: REPLICATED, cells: |object, now| replicated(object, selector(&object["spec"]["selector"]), now) };

pub(super) const REPLICATION_CONTROLLER: Table =
    Table { columns: REPLICATED, cells: |object, now| replicated(object, labels(&object["spec"]["selector"]), now) };

fn ready_of_wanted(object: &Value) -> Value {
    format!("{}/{}", int(object, &["status", "readyReplicas"]), int(object, &["spec", "replicas"])).into()
}

pub(super) const DEPLOYMENT: Table = Table {
    columns: &[NAME, string("Ready"), integer("Up-to-date"), integer("Available"), AGE, CONTAINERS, IMAGES, SELECTOR],
    cells: |object, now| {
        let (names, images) = of_template(object);
        vec![
            name(object),
            ready_of_wanted(object),
            number(object, &["status", "updatedReplicas"]),
            number(object, &["status", "availableReplicas"]),
            age(object, now),
            names,
            images,
            selector(&object["spec"]["selector"]),
        ]
    },
};

pub(super) const STATEFUL_SET: Table = Table {
    columns: &[NAME, string("Ready"), AGE, CONTAINERS, IMAGES],
    cells: |object, now| {
        let (names, images) = of_template(object);
        vec![name(object), ready_of_wanted(object), age(object, now), names, images]
    },
};

pub(super) const DAEMON_SET: Table = Table {
    columns: &[
        NAME,
        integer("Desired"),
        integer("Current"),
        integer("Ready"),
        integer("Up-to-date"),
        integer("Available"),
        string("Node Selector"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let (names, images) = of_template(object);
        vec![
            name(object),
            number(object, &["status", "desiredNumberScheduled"]),
            number(object, &["status", "currentNumberScheduled"]),
            number(object, &["status", "numberReady"]),
            number(object, &["status", "updatedNumberScheduled"]),
            number(object, &["status", "numberAvailable"]),
            labels(&object["spec"]["template"]["spec"]["nodeSelector"]),
            age(object, now),
            names,
            images,
            selector(&object["spec"]["selector"]),
        ]
    },
};

pub(super) const CONTROLLER_REVISION: Table = Table {
    columns: &[NAME, string("Controller"), string("Revision"), AGE],
    cells: |object, now| {
        let controller = meta::owners(object).into_iter().find(|owner| owner.controller);
        let controller = controller.map_or("<none>".into(), |owner| {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            format!("{}/{}", crate::errors::qualified(group, &owner.kind.to_lowercase()), owner.name)
        });
        vec![name(object), controller.into(), number(object, &["revision"]), age(object, now)]
    },
};

pub(super) const JOB: Table = Table {
    columns: &[NAME, string("Status"), string("Completions"), string("Duration"), AGE, CONTAINERS, IMAGES, SELECTOR],
    cells: |job, now| {
        let done = int(job, &["status", "succeeded"]);
        let completions =
            match (at(job, &["spec", "completions"]).and_then(Value::as_i64), int(job, &["spec", "parallelism"])) {
                (Some(wanted), _) => format!("{done}/{wanted}"),
                (None, side_by_side) if side_by_side > 1 => format!("{done}/1 of {side_by_side}"),
                (None, _) => format!("{done}/1"),
            };
        let (names, images) = of_template(job);
        vec![
            name(job),
            job_status(job).into(),
            completions.into(),
            job_duration(job, now).into(),
            age(job, now),
            names,
            images,
            selector(&job["spec"]["selector"]),
        ]
    },
};

fn job_status(job: &Value) -> &'static str {
    for kind in ["Complete", "Failed"] {
        if holds(job, kind) {
            return kind;
        }
    }
    if meta::is_terminating(job) {
        return "Terminating";
    }
    ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|kind| holds(job, kind)).unwrap_or("Running")
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    let time = |field: &str| str_at(job, &["status", field]).parse::<Timestamp>().ok();
    match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => human(end.unwrap_or(now).as_second() - start.as_second()),
    }
}

pub(super) const CRON_JOB: Table = Table {
    columns: &[
        NAME,
        string("Schedule"),
        string("Timezone"),
        boolean("Suspend"),
        integer("Active"),
        string("Last Schedule"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let template = &object["spec"]["jobTemplate"];
        let (names, images) = of_template(template);
        let last = str_at(object, &["status", "lastScheduleTime"]);
        let suspended = match object["spec"]["suspend"].as_bool() {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        vec![
            name(object),
            text(object, &["spec", "schedule"]),
            or_none(str_at(object, &["spec", "timeZone"])),
            suspended.into(),
            list_at(object, &["status", "active"]).len().into(),
            if last.is_empty() { "<none>".into() } else { since(last, now) },
            age(object, now),
            names,
            images,
            selector(&template["spec"]["selector"]),
        ]
    },
};
