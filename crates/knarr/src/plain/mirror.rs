//! The pod that shows a container. Pure.

use std::collections::BTreeMap;

use engine::{ContainerView, HealthStatus, RestartMode, Status};
use jiff::Timestamp;
use resources::{Value, decode, meta};
use serde_json::{Map, json};

/// What a pod shows of a container. Neither its environment nor its mounts: whoever reads pods is not who may see those.
#[derive(Debug, Clone)]
pub struct Plain {
    id: String,
    name: String,
    labels: BTreeMap<String, String>,
    image: String,
    image_id: String,
    command: Vec<String>,
    restart: RestartMode,
    host_network: bool,
    /// Port, protocol, and where the host has it.
    ports: Vec<(u16, String, Option<u16>)>,
    ips: Vec<String>,
    created: Timestamp,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
    status: Status,
    health: HealthStatus,
    code: i32,
    oom: bool,
    error: String,
    restarts: u32,
}

impl Plain {
    pub fn of(view: &ContainerView) -> Self {
        let mut ports = Vec::new();
        for (port, bindings) in &view.ports {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            let Ok(number) = number.parse() else { continue };
            let host = bindings.iter().find_map(|binding| binding.host_port.parse().ok());
            ports.push((number, protocol.to_uppercase(), host));
        }
        let addresses = view.networks.values().flat_map(|one| [&one.ip_address, &one.global_ipv6_address]);
        Self {
            id: view.id.to_string(),
            name: view.name.clone(),
            labels: view.config.labels.clone(),
            image: view.config.image.clone(),
            image_id: view.image_id.to_string(),
            command: std::iter::once(&view.path).chain(&view.args).filter(|word| !word.is_empty()).cloned().collect(),
            restart: view.host.restart_policy.mode,
            host_network: view.host.network_mode == "host",
            ports,
            ips: addresses.filter(|ip| !ip.is_empty()).cloned().collect(),
            created: view.created_at,
            started: view.state.started_at,
            finished: view.state.finished_at,
            status: view.state.status,
            health: view.state.health.as_ref().map(|health| health.status).unwrap_or_default(),
            code: view.state.exit_code,
            oom: view.state.oom_killed,
            error: view.state.error.clone(),
            restarts: view.restart_count,
        }
    }

    fn runs(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused | Status::Restarting)
    }
}

/// Letters, digits and the marks that a name may have; everything else becomes a dash.
fn name_of(text: &str, dots: bool) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || (dots && c == '.');
    let text: String = text.to_lowercase().chars().map(|c| if fits(c) { c } else { '-' }).collect();
    // Each part between dots begins and ends with a letter or a digit.
    let parts = text.split('.').map(|part| part.trim_matches('-')).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(".")
}

/// Pods by their names, each with its container. Two containers whose names become one keep apart by their ids.
pub fn pods<'a>(
    all: impl Iterator<Item = &'a Plain>,
    namespace: &str,
    node: &str,
) -> BTreeMap<String, (Value, &'a Plain)> {
    let mut pods = BTreeMap::new();
    let mut sorted: Vec<&Plain> = all.collect();
    sorted.sort_by_key(|plain| (plain.created, &plain.id));
    for plain in sorted {
        let short: String = plain.id.chars().take(12).collect();
        let base: String = name_of(&plain.name, true).chars().take(180).collect();
        let plainly = name_of(&format!("{base}-{node}"), true);
        let name = match base.is_empty() || pods.contains_key(&plainly) {
            true => name_of(&format!("{base}-{short}-{node}"), true),
            false => plainly,
        };
        let pod = pod(plain, &name, namespace, node);
        pods.insert(name, (pod, plain));
    }
    pods
}

fn pod(plain: &Plain, name: &str, namespace: &str, node: &str) -> Value {
    let container: String = name_of(&plain.name, false).chars().take(63).collect();
    let container = if container.is_empty() { "container".to_owned() } else { name_of(&container, false) };
    let mut ports = Vec::new();
    for (number, protocol, host) in &plain.ports {
        let mut port = json!({"containerPort": number, "protocol": protocol});
        if let Some(host) = host.or(plain.host_network.then_some(*number)) {
            port["hostPort"] = host.into();
        }
        ports.push(port);
    }
    let mut spec = json!({
        "nodeName": node,
        // The scheduler gives its place to nobody, and nothing sends it away.
        "priorityClassName": "system-node-critical",
        "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
        "restartPolicy": match plain.restart {
            RestartMode::Always | RestartMode::UnlessStopped => "Always",
            RestartMode::OnFailure => "OnFailure",
            _ => "Never",
        },
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": container, "image": plain.image, "imagePullPolicy": "Never", "command": plain.command}],
    });
    if plain.command.is_empty() {
        spec["containers"][0].as_object_mut().map(|container| container.remove("command"));
    }
    if !ports.is_empty() {
        spec["containers"][0]["ports"] = ports.into();
    }
    if plain.host_network {
        spec["hostNetwork"] = true.into();
    }
    let mut labels: Map<String, Value> = plain
        .labels
        .iter()
        .filter(|(key, value)| is_label(key, value))
        .map(|(key, value)| (key.clone(), value.as_str().into()))
        .collect();
    labels.insert("app.kubernetes.io/managed-by".into(), "knarr-engine".into());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels,
        "annotations": {"kubernetes.io/config.mirror": plain.id, "kubernetes.io/config.source": "engine",
            kubelet::SHOWN_CONTAINER: plain.id}}, "spec": spec})
}

/// Whether a container's label can be a pod's: many are whole documents.
fn is_label(key: &str, value: &str) -> bool {
    let word = |text: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.len() <= 63
            && ends(text.chars().next())
            && ends(text.chars().next_back())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let name = match key.split_once('/') {
        None => key,
        Some((prefix, _)) if prefix.len() > 253 || prefix != name_of(prefix, true) => return false,
        Some((_, name)) => name,
    };
    word(name) && (value.is_empty() || word(value))
}

/// What the pod's status is to be; conditions keep the times at which they changed.
pub fn status(plain: &Plain, pod: &Value, node_ip: &str) -> Value {
    let stamp = |at: Timestamp| decode::format_time(at, 0);
    let ready = plain.status == Status::Running && matches!(plain.health, HealthStatus::None | HealthStatus::Healthy);
    let id = format!("knarr://{}", plain.id);
    let begun = plain.started.unwrap_or(plain.created);
    let (phase, state) = match plain.status {
        _ if plain.runs() => ("Running", json!({"running": {"startedAt": stamp(begun)}})),
        Status::Created if plain.error.is_empty() => {
            ("Pending", json!({"waiting": {"reason": "Created", "message": "the container was not started"}}))
        }
        _ => {
            let (phase, reason) = match plain.code {
                0 => ("Succeeded", "Completed"),
                _ if plain.oom => ("Failed", "OOMKilled"),
                _ => ("Failed", "Error"),
            };
            let ended = json!({"terminated": {"exitCode": plain.code, "reason": reason, "startedAt": stamp(begun),
                "finishedAt": stamp(plain.finished.unwrap_or(begun)), "containerID": id}});
            (phase, ended)
        }
    };
    let mut shown = json!({"running": null, "waiting": null, "terminated": null});
    for (key, value) in state.as_object().into_iter().flatten() {
        shown[key] = value.clone();
    }
    let changed = plain.finished.filter(|_| !plain.runs()).unwrap_or(begun);
    let conditions: Vec<Value> = [
        ("PodScheduled", true),
        ("Initialized", true),
        ("ContainersReady", ready),
        ("Ready", ready),
    ]
    .into_iter()
    .map(|(kind, holds)| {
        let holds = if holds { "True" } else { "False" };
        let before = meta::list_at(pod, &["status", "conditions"]).iter().find(|one| one["type"] == kind);
        let since = before.filter(|one| one["status"] == holds).map(|one| one["lastTransitionTime"].clone());
        json!({"type": kind, "status": holds, "lastTransitionTime": since.unwrap_or_else(|| stamp(changed).into())})
    })
    .collect();
    let ips = if plain.host_network { vec![node_ip.to_owned()] } else { plain.ips.clone() };
    let name = &pod["spec"]["containers"][0]["name"];
    let mut status = json!({"phase": phase, "hostIP": node_ip, "hostIPs": [{"ip": node_ip}], "qosClass": "BestEffort",
        "startTime": stamp(begun), "conditions": conditions,
        "containerStatuses": [{"name": name, "state": shown, "ready": ready, "started": plain.runs(), "image": plain.image,
            "imageID": plain.image_id, "containerID": id, "restartCount": plain.restarts}]});
    status["podIP"] = ips.first().map_or(Value::Null, |ip| ip.as_str().into());
    status["podIPs"] = if ips.is_empty() { Value::Null } else { ips.iter().map(|ip| json!({"ip": ip})).collect() };
    status
}

/// Whether an object says everything that is wanted; what the API adds is no difference.
pub fn is_within(wanted: &Value, have: &Value) -> bool {
    match (wanted, have) {
        (Value::Object(wanted), Value::Object(_)) => {
            wanted.iter().all(|(key, wanted)| is_within(wanted, &have[key.as_str()]))
        }
        (Value::Array(wanted), Value::Array(have)) => {
            wanted.len() == have.len() && std::iter::zip(wanted, have).all(|(wanted, have)| is_within(wanted, have))
        }
        (Value::Object(wanted), Value::Null) => wanted.is_empty(),
        _ => wanted == have,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(name: &str, status: Status) -> Plain {
        Plain {
            id: format!("{:0<64}", name.len()),
            name: name.into(),
            labels: BTreeMap::from([
                ("com.docker.compose.project".to_owned(), "shop".to_owned()),
                ("about".to_owned(), "a sentence, not a word".to_owned()),
            ]),
            image: "nginx:1".into(),
            image_id: "sha256:1".into(),
            command: vec!["nginx".into()],
            restart: RestartMode::UnlessStopped,
            host_network: false,
            ports: vec![(80, "TCP".into(), Some(8080))],
            ips: vec!["172.17.0.2".into()],
            created: Timestamp::UNIX_EPOCH,
            started: Some(Timestamp::UNIX_EPOCH),
            finished: None,
            status,
            health: HealthStatus::None,
            code: 0,
            oom: false,
            error: String::new(),
            restarts: 2,
        }
    }

    #[test]
    fn a_container_becomes_a_pod_that_nobody_sends_away() {
        let web = plain("my_Web", Status::Running);
        let all = pods([&web].into_iter(), "ns", "n1");
        let (pod, _) = &all["my-web-n1"];
        assert_eq!(
            pod["metadata"]["labels"],
            json!({"com.docker.compose.project": "shop", "app.kubernetes.io/managed-by": "knarr-engine"})
        );
        assert_eq!(
            pod["spec"]["containers"][0]["ports"],
            json!([{"containerPort": 80, "protocol": "TCP", "hostPort": 8080}])
        );
        assert_eq!(
            (&pod["spec"]["restartPolicy"], &pod["spec"]["priorityClassName"]),
            (&json!("Always"), &json!("system-node-critical"))
        );
        assert_eq!(kubelet::shown_container(pod), Some(web.id.as_str()));
        let status = status(&web, pod, "192.0.2.1");
        assert_eq!((&status["phase"], &status["podIP"]), (&json!("Running"), &json!("172.17.0.2")));
        assert_eq!(status["containerStatuses"][0]["restartCount"], 2);
    }

    #[test]
    fn names_that_become_one_keep_apart() {
        let (one, mut two) = (plain("a_b", Status::Running), plain("a-b", Status::Running));
        two.id = "f".repeat(64);
        let names: Vec<String> = pods([&one, &two].into_iter(), "ns", "n1").into_keys().collect();
        assert_eq!(names, ["a-b-ffffffffffff-n1", "a-b-n1"]);
        assert_eq!(name_of("._x..Y-", true), "x.y");
    }

    #[test]
    fn the_phase_follows_the_container() {
        let check = |status_now: Status, code: i32, health: HealthStatus| {
            let one = Plain { code, health, ..plain("w", status_now) };
            let told = status(&one, &json!({}), "192.0.2.1");
            let ready =
                told["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Ready").unwrap()["status"]
                    .clone();
            format!("{} {}", told["phase"].as_str().unwrap(), ready.as_str().unwrap())
        };
        assert_eq!(check(Status::Running, 0, HealthStatus::None), "Running True");
        assert_eq!(check(Status::Running, 0, HealthStatus::Unhealthy), "Running False");
        assert_eq!(check(Status::Paused, 0, HealthStatus::None), "Running False");
        assert_eq!(check(Status::Created, 0, HealthStatus::None), "Pending False");
        assert_eq!(check(Status::Exited, 0, HealthStatus::None), "Succeeded False");
        assert_eq!(check(Status::Exited, 3, HealthStatus::None), "Failed False");
    }

    #[test]
    fn what_the_api_adds_is_no_difference_and_what_people_change_is() {
        let wanted = json!({"spec": {"containers": [{"image": "a"}], "x": {}}});
        assert!(is_within(&wanted, &json!({"spec": {"containers": [{"image": "a", "added": 1}], "more": 2}})));
        assert!(!is_within(&wanted, &json!({"spec": {"containers": [{"image": "b"}]}})));
        assert!(!is_within(&wanted, &json!({"spec": {"containers": [{"image": "a"}, {"image": "a"}]}})));
    }
}
