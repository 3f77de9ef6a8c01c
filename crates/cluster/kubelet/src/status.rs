//! What to tell of a pod. Pure.

use jiff::Timestamp;
use resources::{Value, decode, meta};
use serde_json::{Map, json};

use crate::actions::{self, End, Memory};
use crate::pod::{self, Role};
use crate::runtime::{ContainerSeen, Sandbox, State};
use crate::shutdown;

/// The node as its pods show it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: String,
    pub ip: String,
    /// Where its agent listens.
    pub port: u16,
    pub runtime: RuntimeName,
}

/// What the node's pods run with, as statuses name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeName {
    pub name: String,
    pub version: String,
}

impl Default for RuntimeName {
    fn default() -> Self {
        Self { name: "knarr".into(), version: env!("CARGO_PKG_VERSION").into() }
    }
}

/// Conditions that the node decides about.
const OWN: &[&str] = &["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

/// A container id as statuses and clients name it.
fn container_id(node: &NodeFacts, id: &str) -> String {
    format!("{}://{id}", node.runtime.name)
}

/// `status` as a strategic merge patch that leaves other people's conditions alone.
pub fn pod_status(
    pod: &Value,
    sandbox: Option<&Sandbox>,
    seen: &[ContainerSeen],
    memory: &Memory,
    node: &NodeFacts,
    end: Option<&End>,
    now: Timestamp,
) -> Value {
    let statuses = |wanted: &[Role]| -> Vec<Value> {
        pod::containers(pod)
            .filter(|(role, _)| wanted.contains(role))
            .map(|(role, container)| container_status(pod, role, container, seen, memory, node, now))
            .collect()
    };
    let init = statuses(&[Role::Init, Role::Sidecar]);
    let main = statuses(&[Role::Main]);
    let ephemeral = statuses(&[Role::Ephemeral]);
    let phase = phase(pod, seen, &main, end);
    let mut status = Map::new();
    status.insert("phase".into(), phase.into());
    status.insert("observedGeneration".into(), meta::generation(pod).into());
    status.insert("qosClass".into(), pod::quality(pod).into());
    status.insert("hostIP".into(), node.ip.as_str().into());
    status.insert("hostIPs".into(), json!([{"ip": node.ip}]));
    let start = match meta::at(pod, &["status", "startTime"]) {
        Some(start) if start.is_string() => start.clone(),
        _ => decode::format_time(now, 0).into(),
    };
    status.insert("startTime".into(), start);
    let ips = match sandbox {
        Some(_) if pod::host_network(pod) => vec![node.ip.clone()],
        Some(sandbox) => sandbox.ips.clone(),
        None => Vec::new(),
    };
    if let Some(first) = ips.first() {
        status.insert("podIP".into(), first.as_str().into());
        status.insert("podIPs".into(), ips.iter().map(|ip| json!({"ip": ip})).collect());
    }
    match end {
        Some(end) if !end.reason.is_empty() => {
            status.insert("reason".into(), end.reason.into());
            status.insert("message".into(), end.message.as_str().into());
        }
        _ => {}
    }
    let mut conditions = conditions(pod, sandbox, phase, &init, &main, now);
    if let Some(list) = conditions.as_array_mut() {
        if let Some(end) = end.filter(|end| matches!(end.reason, "Evicted" | shutdown::REASON)) {
            list.push(json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
                "message": end.message, "lastTransitionTime": decode::format_time(now, 0), "lastProbeTime": null,
                "observedGeneration": meta::generation(pod)}));
        }
        list.extend(["PodResizePending", "PodResizeInProgress"].map(|kind| resize_condition(pod, kind, memory, now)));
    }
    status.insert("conditions".into(), conditions);
    status.insert("containerStatuses".into(), main.into());
    if !init.is_empty() {
        status.insert("initContainerStatuses".into(), init.into());
    }
    if !ephemeral.is_empty() {
        status.insert("ephemeralContainerStatuses".into(), ephemeral.into());
    }
    json!({"status": status})
}

/// Whether a status patch would change what the API has.
pub fn differs(pod: &Value, patch: &Value) -> bool {
    let have = &pod["status"];
    meta::map_at(patch, &["status"]).any(|(field, value)| match field.as_str() {
        "conditions" => value.as_array().into_iter().flatten().any(|condition| {
            if condition.get("$patch").is_some() {
                return meta::list_at(have, &["conditions"]).iter().any(|has| has["type"] == condition["type"]);
            }
            !meta::list_at(have, &["conditions"]).iter().any(|has| {
                OWN_FIELDS.iter().all(|field| {
                    has.get(*field).unwrap_or(&Value::Null) == condition.get(*field).unwrap_or(&Value::Null)
                })
            })
        }),
        _ => have.get(field) != Some(value),
    })
}

/// The patch as the API is to get it: it merges lists of addresses by address, and one that the pod had before must not stay.
pub fn for_api(mut patch: Value) -> Value {
    for list in ["podIPs", "hostIPs"] {
        if let Some(list) = patch["status"].get_mut(list).and_then(Value::as_array_mut) {
            list.push(json!({"$patch": "replace"}));
        }
    }
    patch
}

const OWN_FIELDS: &[&str] = &["type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"];

fn phase(pod: &Value, seen: &[ContainerSeen], main: &[Value], end: Option<&End>) -> &'static str {
    if let Some(end) = end {
        return end.phase;
    }
    match meta::str_at(pod, &["status", "phase"]) {
        "Succeeded" => return "Succeeded",
        "Failed" => return "Failed",
        _ => {}
    }
    let begun = |status: &Value| status["state"]["waiting"].is_null() || status["lastState"]["terminated"].is_object();
    let all_begun = main.iter().all(begun);
    if !all_begun || main.is_empty() {
        return "Pending";
    }
    if meta::is_terminating(pod) {
        // Everything has ended: how it went decides.
        let codes: Vec<i32> = pod::containers(pod)
            .filter(|(role, _)| *role == Role::Main)
            .filter_map(|(_, container)| match actions::current(seen, pod::name(container)).map(|c| &c.state) {
                Some(State::Exited { code, .. }) => Some(*code),
                _ => None,
            })
            .collect();
        if codes.len() == main.len() {
            return if codes.iter().all(|code| *code == 0) { "Succeeded" } else { "Failed" };
        }
    }
    "Running"
}

fn container_status(
    pod: &Value,
    role: Role,
    container: &Value,
    seen: &[ContainerSeen],
    memory: &Memory,
    node: &NodeFacts,
    now: Timestamp,
) -> Value {
    let name = pod::name(container);
    let image = container["image"].as_str().unwrap_or_default();
    let current = actions::current(seen, name);
    let mut status = json!({"name": name, "image": image, "imageID": "", "ready": false, "started": false,
        "restartCount": current.map_or(0, |seen| seen.attempt), "state": {}, "lastState": {}});
    let trouble = memory.troubles.get(name);
    let waiting = |status: &mut Value, reason: &str, message: &str| {
        status["state"] = json!({"waiting": {"reason": reason}});
        if !message.is_empty() {
            status["state"]["waiting"]["message"] = message.into();
        }
    };
    if role != Role::Ephemeral {
        let resources = memory.allocated.get(name).unwrap_or(&container["resources"]);
        if let Some(requests) = resources.get("requests") {
            status["allocatedResources"] = requests.clone();
        }
        status["resources"] = if resources.is_object() { resources.clone() } else { json!({}) };
        if let Some(object) = status["resources"].as_object_mut() {
            object.remove("claims");
        }
    }
    let mounts = meta::list_at(container, &["volumeMounts"]);
    if !mounts.is_empty() {
        let row = |mount: &Value| {
            let mut row = json!({"name": mount["name"], "mountPath": mount["mountPath"]});
            if mount["readOnly"] == true {
                row["readOnly"] = true.into();
                row["recursiveReadOnly"] = "Disabled".into();
            }
            row
        };
        status["volumeMounts"] = mounts.iter().map(row).collect();
    }
    let Some(current) = current else {
        match trouble {
            Some(trouble) => {
                let (reason, message) = trouble.shown(now);
                waiting(&mut status, reason, &message);
            }
            None if role == Role::Main && !init_done(pod, seen) => waiting(&mut status, "PodInitializing", ""),
            None if role == Role::Main && pod["spec"]["initContainers"].is_array() => {
                waiting(&mut status, "PodInitializing", "");
            }
            None if matches!(role, Role::Init | Role::Sidecar) => waiting(&mut status, "PodInitializing", ""),
            None => waiting(&mut status, "ContainerCreating", ""),
        }
        return status;
    };
    status["containerID"] = container_id(node, &current.id).into();
    status["imageID"] = current.image_id.as_str().into();
    if let Some(previous) = actions::previous(seen, name)
        && let Some(ended) = terminated(node, previous)
    {
        status["lastState"] = json!({"terminated": ended});
    }
    match &current.state {
        State::Created => waiting(&mut status, "ContainerCreating", ""),
        State::Running { started } => {
            status["state"] = json!({"running": {"startedAt": decode::format_time(*started, 0)}});
            let health = memory.health.get(&current.id);
            let begun = health.map_or(container["startupProbe"].is_null(), |health| health.started);
            let ready = health.map_or(container["readinessProbe"].is_null(), |health| health.ready);
            status["started"] = begun.into();
            status["ready"] = (begun && ready && role != Role::Init).into();
        }
        State::Exited { code, error, .. } => {
            let ended = terminated(node, current);
            let again = actions::restarts(pod, role, container, *code) && !meta::is_terminating(pod);
            if again && let Some(trouble) = trouble {
                status["lastState"] = json!({"terminated": ended});
                let (reason, message) = trouble.shown(now);
                waiting(&mut status, reason, &message);
            } else if again && !memory.delay_left(current, now).is_zero() {
                status["lastState"] = json!({"terminated": ended});
                let secs = memory.restart_delay(current).as_secs();
                let delay = if secs >= 60 { format!("{}m{}s", secs / 60, secs % 60) } else { format!("{secs}s") };
                let text = format!("back-off {delay} restarting failed container={name} pod={}", pod::full_name(pod));
                waiting(&mut status, "CrashLoopBackOff", &text);
            } else {
                status["state"] = json!({"terminated": ended});
                // A finished init container has done what it was for.
                status["ready"] = (role == Role::Init && *code == 0 && error.is_empty()).into();
            }
        }
    }
    status
}

fn terminated(node: &NodeFacts, seen: &ContainerSeen) -> Option<Value> {
    let State::Exited { started, finished, code, oom, error } = &seen.state else { return None };
    let reason = match () {
        _ if !error.is_empty() => "StartError",
        _ if *oom => "OOMKilled",
        _ if *code == 0 => "Completed",
        _ => "Error",
    };
    let mut ended = json!({"exitCode": code, "reason": reason, "containerID": container_id(node, &seen.id),
        "startedAt": decode::format_time(started.unwrap_or(Timestamp::UNIX_EPOCH), 0),
        "finishedAt": decode::format_time(*finished, 0)});
    let message = if error.is_empty() { &seen.message } else { error };
    if !message.is_empty() {
        ended["message"] = message.as_str().into();
    }
    Some(ended)
}

/// A resize that is not done; an entry that takes the condition away otherwise.
fn resize_condition(pod: &Value, kind: &str, memory: &Memory, now: Timestamp) -> Value {
    let Some((_, reason, message)) = memory.resize.as_ref().filter(|(of, ..)| *of == kind) else {
        return json!({"type": kind, "$patch": "delete"});
    };
    let before = meta::list_at(pod, &["status", "conditions"]).iter().find(|condition| condition["type"] == kind);
    let since =
        before.map_or_else(|| decode::format_time(now, 0).into(), |before| before["lastTransitionTime"].clone());
    json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since,
        "lastProbeTime": null, "observedGeneration": meta::generation(pod)})
}

fn init_done(pod: &Value, seen: &[ContainerSeen]) -> bool {
    pod::containers(pod).filter(|(role, _)| *role == Role::Init).all(|(_, container)| {
        actions::current(seen, pod::name(container))
            .is_some_and(|seen| matches!(seen.state, State::Exited { code: 0, .. }))
    })
}

fn conditions(
    pod: &Value,
    sandbox: Option<&Sandbox>,
    phase: &str,
    init: &[Value],
    main: &[Value],
    now: Timestamp,
) -> Value {
    let over = matches!(phase, "Succeeded" | "Failed");
    let unready = |list: &[Value]| -> Vec<String> {
        let bad = list.iter().filter(|status| status["ready"] != true);
        bad.filter_map(|status| status["name"].as_str()).map(str::to_owned).collect()
    };
    let begun = main.iter().any(|status| status["containerID"].is_string());
    let is_sidecar = |status: &Value| {
        let name = status["name"].as_str().unwrap_or_default();
        pod::containers(pod).any(|(role, one)| role == Role::Sidecar && pod::name(one) == name)
    };
    let waiting_init: Vec<String> = init
        .iter()
        .filter(|status| match is_sidecar(status) {
            true => status["started"] != true,
            false => status["state"]["terminated"]["exitCode"] != 0,
        })
        .filter_map(|status| status["name"].as_str().map(str::to_owned))
        .collect();
    let sidecars: Vec<Value> = init
        .iter()
        .filter(|status| {
            pod::containers(pod)
                .any(|(role, c)| role == Role::Sidecar && pod::name(c) == status["name"].as_str().unwrap_or(""))
        })
        .cloned()
        .collect();
    let mut missing = unready(main);
    missing.extend(unready(&sidecars));
    let initialized = waiting_init.is_empty() || begun || phase == "Succeeded";
    let containers_ready = !over && missing.is_empty() && !main.is_empty();
    let gates: Vec<&str> = meta::list_at(pod, &["spec", "readinessGates"])
        .iter()
        .filter_map(|gate| gate["conditionType"].as_str())
        .filter(|kind| {
            let conditions = meta::list_at(pod, &["status", "conditions"]);
            !conditions.iter().any(|condition| condition["type"] == *kind && condition["status"] == "True")
        })
        .collect();
    let not_ready = format!("containers with unready status: [{}]", missing.join(" "));
    let incomplete = format!("containers with incomplete status: [{}]", waiting_init.join(" "));
    let ended = if phase == "Succeeded" { "PodCompleted" } else { "PodFailed" };
    let gate_text = gates
        .iter()
        .map(|kind| {
            let conditions = meta::list_at(pod, &["status", "conditions"]);
            match conditions.iter().find(|condition| condition["type"] == *kind) {
                None => format!("corresponding condition of pod readiness gate {kind:?} does not exist."),
                Some(condition) => {
                    let status = condition["status"].as_str().unwrap_or_default();
                    format!("the status of pod readiness gate {kind:?} is not \"True\", but {status}")
                }
            }
        })
        .collect::<Vec<_>>()
        .join(", ");
    let containers = match (containers_ready, over) {
        (true, _) => (true, "", ""),
        (false, true) => (false, ended, ""),
        (false, false) => (false, "ContainersNotReady", not_ready.as_str()),
    };
    let ready = match (containers_ready, gates.is_empty()) {
        (true, true) => (true, "", ""),
        (true, false) => (false, "ReadinessGatesNotReady", gate_text.as_str()),
        (false, _) => containers,
    };
    let rows = [
        ("PodReadyToStartContainers", (sandbox.is_some() && !over, "", "")),
        (
            "Initialized",
            match (initialized, phase) {
                (true, "Succeeded") => (true, "PodCompleted", ""),
                (true, _) => (true, "", ""),
                (false, _) => (false, "ContainersNotInitialized", incomplete.as_str()),
            },
        ),
        ("Ready", ready),
        ("ContainersReady", containers),
    ];
    debug_assert!(rows.iter().all(|(kind, _)| OWN.contains(kind)));
    let stamp = decode::format_time(now, 0);
    let made = rows.map(|(kind, (good, reason, message))| {
        let status = if good { "True" } else { "False" };
        let before = meta::list_at(pod, &["status", "conditions"]).iter().find(|condition| condition["type"] == kind);
        let since = match before {
            Some(before) if before["status"] == status => before["lastTransitionTime"].clone(),
            _ => stamp.as_str().into(),
        };
        let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": since,
            "observedGeneration": meta::generation(pod), "lastProbeTime": null});
        // Null takes away what an earlier state said.
        let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
        condition["reason"] = text(reason);
        condition["message"] = text(message);
        condition
    });
    made.to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::{Health, Trouble};

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + secs).unwrap()
    }

    #[test]
    fn an_address_that_a_pod_had_before_does_not_stay() {
        let mut pod = json!({"metadata": {}, "status": {"podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}]}});
        let patch = json!({"status": {"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]}});
        let schema = resources::facts::facts().node("a:core.v1.Pod");
        resources::patch::strategic_merge(&mut pod, &for_api(patch.clone()), &schema).unwrap();
        assert_eq!(pod["status"], patch["status"]);
        assert!(!differs(&pod, &patch), "or it would be told for ever");
    }

    /// `name attempt state`: `running`, `exit:CODE`.
    fn seen(lines: &[&str]) -> Vec<ContainerSeen> {
        let one = |line: &&str| {
            let words: Vec<&str> = line.split(' ').collect();
            let state = match words[2].strip_prefix("exit:") {
                None => State::Running { started: at(0) },
                Some(code) => State::Exited {
                    started: Some(at(0)),
                    finished: at(90),
                    code: code.parse().unwrap(),
                    oom: code == "137",
                    error: String::new(),
                },
            };
            ContainerSeen {
                id: format!("{}-{}", words[0], words[1]),
                pod_uid: "u".into(),
                name: words[0].into(),
                attempt: words[1].parse().unwrap(),
                image: String::new(),
                image_id: "sha".into(),
                state,
                message: String::new(),
            }
        };
        lines.iter().map(one).collect()
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "generation": 3}, "spec": {
            "initContainers": [{"name": "i"}], "containers": [{"name": "c", "image": "app"}]}})
    }

    /// Phase, the state and readiness of `i` and `c`, and the conditions that hold.
    fn shown(pod: &Value, seen: &[ContainerSeen], memory: &Memory) -> String {
        let sandbox = Sandbox { ips: vec!["10.0.0.2".into()], directory: "/run/u".into() };
        let patch = pod_status(pod, Some(&sandbox), seen, memory, &NodeFacts::default(), None, at(95));
        let status = &patch["status"];
        let state = |of: &Value| {
            let (kind, detail) = of["state"].as_object().unwrap().iter().next().unwrap();
            let ready = if of["ready"] == true { " ready" } else { "" };
            format!("{} {kind} {}{ready}", of["name"].as_str().unwrap(), detail["reason"].as_str().unwrap_or("-"))
        };
        let holds = meta::list_at(status, &["conditions"]).iter().filter(|condition| condition["status"] == "True");
        let holds: Vec<&str> = holds.filter_map(|condition| condition["type"].as_str()).collect();
        let (init, main) = (&status["initContainerStatuses"][0], &status["containerStatuses"][0]);
        format!("{}; {}; {}; {}", status["phase"].as_str().unwrap(), state(init), state(main), holds.join(" "))
    }

    #[test]
    fn statuses_say_what_upstream_says() {
        let rows: &[(&[&str], &str)] = &[
            (&[], "Pending; i waiting PodInitializing; c waiting PodInitializing; PodReadyToStartContainers"),
            (&["i 0 running"], "Pending; i running -; c waiting PodInitializing; PodReadyToStartContainers"),
            (
                &["i 0 exit:0"],
                "Pending; i terminated Completed ready; c waiting PodInitializing; PodReadyToStartContainers Initialized",
            ),
            (
                &["i 0 exit:0", "c 0 running"],
                "Running; i terminated Completed ready; c running - ready; PodReadyToStartContainers Initialized Ready ContainersReady",
            ),
            (
                &["i 0 exit:0", "c 0 exit:137"],
                "Running; i terminated Completed ready; c terminated OOMKilled; PodReadyToStartContainers Initialized",
            ),
            (
                &["i 0 exit:0", "c 0 exit:1", "c 1 exit:1"],
                "Running; i terminated Completed ready; c waiting CrashLoopBackOff; PodReadyToStartContainers Initialized",
            ),
        ];
        for (have, expected) in rows {
            let (have, mut memory) = (seen(have), Memory::default());
            have.iter().for_each(|seen| memory.note_start(&seen.name, seen.attempt, at(80)));
            assert_eq!(shown(&pod(), &have, &memory), *expected);
        }
    }

    #[test]
    fn what_keeps_a_container_from_starting_is_told_first_and_waited_for_then() {
        let trouble =
            |reason, since| Trouble { reason, message: "no".into(), image: "app".into(), tries: 1, at: at(since) };
        for (reason, since, expected) in [
            ("ErrImagePull", 95, "c waiting ErrImagePull"),
            ("ErrImagePull", 90, "c waiting ImagePullBackOff"),
            ("ErrImageNeverPull", 90, "c waiting ErrImageNeverPull"),
            ("CreateContainerConfigError", 90, "c waiting CreateContainerConfigError"),
        ] {
            let mut memory = Memory::default();
            memory.troubles.insert("c".into(), trouble(reason, since));
            let text = shown(&pod(), &seen(&["i 0 exit:0"]), &memory);
            assert!(text.contains(&format!("; {expected};")), "{text}");
        }
        let mut memory = Memory::default();
        memory.health.insert("c-0".into(), Health { started: true, ready: false, sick: None });
        let text = shown(&pod(), &seen(&["i 0 exit:0", "c 0 running"]), &memory);
        assert!(text.ends_with("c running -; PodReadyToStartContainers Initialized"), "{text}");
    }

    #[test]
    fn readiness_gates_and_resizes_are_conditions() {
        let mut gated = pod();
        gated["spec"]["readinessGates"] = json!([{"conditionType": "x/ready"}]);
        let have = seen(&["i 0 exit:0", "c 0 running"]);
        let ready = |pod: &Value, memory: &Memory| {
            let patch = pod_status(pod, None, &have, memory, &NodeFacts::default(), None, at(95));
            let conditions = meta::list_at(&patch, &["status", "conditions"]).to_vec();
            let of = |kind: &str| conditions.iter().find(|condition| condition["type"] == kind).cloned().unwrap();
            (of("Ready"), of("PodResizePending"))
        };
        let (condition, resize) = ready(&gated, &Memory::default());
        assert_eq!(condition["reason"], "ReadinessGatesNotReady");
        assert_eq!(condition["message"], "corresponding condition of pod readiness gate \"x/ready\" does not exist.");
        assert_eq!(resize["$patch"], "delete");
        gated["status"]["conditions"] = json!([{"type": "x/ready", "status": "False"}]);
        let memory = Memory { resize: Some(("PodResizePending", "Deferred", "later".into())), ..Memory::default() };
        let (condition, resize) = ready(&gated, &memory);
        assert_eq!(condition["message"], "the status of pod readiness gate \"x/ready\" is not \"True\", but False");
        assert_eq!((&resize["status"], &resize["reason"]), (&json!("True"), &json!("Deferred")));
    }
}
