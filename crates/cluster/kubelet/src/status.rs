//! What to tell of a pod. Pure.

use jiff::Timestamp;
use resources::{Value, decode, meta};
use serde_json::{Map, json};

use crate::actions::{self, End, Memory};
use crate::pod::{self, Role};
use crate::runtime::{ContainerSeen, Sandbox, State};

/// The node as its pods show it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: String,
    pub ip: String,
}

/// Conditions that the node decides about.
const OWN: &[&str] = &["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

/// A container id as statuses and clients name it.
pub fn container_id(id: &str) -> String {
    format!("knarr://{id}")
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
            .map(|(role, container)| container_status(pod, role, container, seen, memory, now))
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
    let ip = match sandbox {
        Some(sandbox) if pod::host_network(pod) => Some((sandbox, node.ip.clone())),
        Some(sandbox) => Some((sandbox, sandbox.ip.clone())),
        None => None,
    };
    if let Some((_, ip)) = &ip
        && !ip.is_empty()
    {
        status.insert("podIP".into(), ip.as_str().into());
        status.insert("podIPs".into(), json!([{"ip": ip}]));
    }
    match end {
        Some(end) if !end.reason.is_empty() => {
            status.insert("reason".into(), end.reason.into());
            status.insert("message".into(), end.message.into());
        }
        _ => {}
    }
    status.insert("conditions".into(), conditions(pod, sandbox, phase, &init, &main, now));
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
            !meta::list_at(have, &["conditions"]).iter().any(|has| {
                OWN_FIELDS.iter().all(|field| {
                    has.get(*field).unwrap_or(&Value::Null) == condition.get(*field).unwrap_or(&Value::Null)
                })
            })
        }),
        _ => have.get(field) != Some(value),
    })
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
    let Some(current) = current else {
        match trouble {
            Some(trouble) => waiting(&mut status, trouble.reason, &trouble.message),
            None if role == Role::Main && !init_done(pod, seen) => waiting(&mut status, "PodInitializing", ""),
            None if role == Role::Main && pod["spec"]["initContainers"].is_array() => {
                waiting(&mut status, "PodInitializing", "");
            }
            None if matches!(role, Role::Init | Role::Sidecar) => waiting(&mut status, "PodInitializing", ""),
            None => waiting(&mut status, "ContainerCreating", ""),
        }
        return status;
    };
    status["containerID"] = container_id(&current.id).into();
    status["imageID"] = current.image_id.as_str().into();
    if let Some(previous) = actions::previous(seen, name)
        && let Some(ended) = terminated(previous)
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
            let ended = terminated(current);
            let again = actions::restarts(pod, role, container, *code) && !meta::is_terminating(pod);
            if again && let Some(trouble) = trouble {
                status["lastState"] = json!({"terminated": ended});
                waiting(&mut status, trouble.reason, &trouble.message);
            } else if again && !actions::delay_left(current, now).is_zero() {
                status["lastState"] = json!({"terminated": ended});
                let secs = actions::restart_delay(current).as_secs();
                let delay = if secs >= 60 { format!("{}m{}s", secs / 60, secs % 60) } else { format!("{secs}s") };
                let text = format!(
                    "back-off {delay} restarting failed container={name} pod={}_{}({})",
                    meta::name(pod),
                    meta::namespace(pod),
                    meta::uid(pod)
                );
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

fn terminated(seen: &ContainerSeen) -> Option<Value> {
    let State::Exited { started, finished, code, oom, error } = &seen.state else { return None };
    let reason = match () {
        _ if !error.is_empty() => "StartError",
        _ if *oom => "OOMKilled",
        _ if *code == 0 => "Completed",
        _ => "Error",
    };
    let mut ended = json!({"exitCode": code, "reason": reason, "containerID": container_id(&seen.id),
        "startedAt": decode::format_time(started.unwrap_or(Timestamp::UNIX_EPOCH), 0),
        "finishedAt": decode::format_time(*finished, 0)});
    let message = if error.is_empty() { &seen.message } else { error };
    if !message.is_empty() {
        ended["message"] = message.as_str().into();
    }
    Some(ended)
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
    let waiting_init: Vec<String> = init
        .iter()
        .filter(|status| status["state"]["terminated"]["exitCode"] != 0 && status["started"] != true)
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
        .map(|kind| format!("corresponding condition of pod readiness gate {kind:?} does not exist."))
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
