//! `why`: the causal story of a pod, another object of the cluster, or a container: what happened when, and what is wrong now.

use resources::table::human;
use serde_json::Value;

use super::super::{Command, Context, out};
use super::describe::{events, last_seen};
use crate::client::http::encode;
use crate::client::query;
use crate::failure::Failure;
use crate::flags::{Arity, Matches};
use crate::kube::kinds::is_of_cluster;
use crate::kube::{self, Cluster, seconds};
use crate::text::printable;
use crate::units;

pub(crate) static WHY: Command = Command {
    name: "why",
    usage: "KIND/NAME | CONTAINER [OPTIONS]",
    about: "Tell the story of a pod or a container: what happened when, and what is wrong",
    examples: "  knarr why pod/web        admission, scheduling, pulls, starts, probes, ends
  knarr why deploy/web     of the workload and its pods
  knarr why web            of a container",
    flags: &[kube::FLAGS],
    interspersed: true,
    arity: Arity::Exactly(1),
    run,
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    at: i64,
    /// Within one second causes come before their effects: what the step is, then when the API was told of it.
    order: u8,
    serial: u64,
    whose: String,
    text: String,
    bad: bool,
}

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let word = &matches.arguments[0];
    if !is_of_cluster(word) && !word.contains('/') {
        return container(context, word);
    }
    let cluster = Cluster::open(context.settings(), matches)?;
    let (_, object) = cluster.object(word, "pods")?;
    let mut steps = Vec::new();
    let mut wrong = Vec::new();
    let mut concerned = owners(&cluster, &object)?;
    concerned.reverse();
    concerned.push(object.clone());
    if object["kind"] != "Pod" && kube::pod_selector(&object).is_some() {
        concerned.extend(cluster.pods_of(&object)?);
    }
    for object in &concerned {
        steps.extend(of_object(object));
        steps.extend(events(&cluster, object)?.iter().filter_map(|event| of_event(object, event)));
        wrong.extend(complaints(object));
    }
    tell(word, steps, &wrong, units::now())
}

/// What controls an object, and what controls that.
fn owners(cluster: &Cluster, object: &Value) -> Result<Vec<Value>, Failure> {
    let mut found: Vec<Value> = Vec::new();
    let mut at = object.clone();
    while let Some(owner) =
        at["metadata"]["ownerReferences"].as_array().into_iter().flatten().find(|owner| owner["controller"] == true)
    {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let Ok(resource) = cluster.catalog.of_kind(text("apiVersion"), text("kind")) else { break };
        let namespace = at["metadata"]["namespace"].as_str().unwrap_or_default();
        let Some(next) = cluster.api.find(&resource.object(namespace, text("name")))? else { break };
        found.push(next.clone());
        at = next;
        // Owners in a circle are somebody's mistake, not ours to follow for ever.
        if found.len() >= 8 {
            break;
        }
    }
    Ok(found)
}

fn label(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text(&object["kind"]).to_lowercase(), text(&object["metadata"]["name"]))
}

/// What an object itself says of its past. Pure.
fn of_object(object: &Value) -> Vec<Step> {
    let whose = label(object);
    let mut steps = Vec::new();
    let mut push = |at: Option<i64>, order: u8, text: String, bad: bool| {
        if let Some(at) = at {
            steps.push(Step { at, order, serial: 0, whose: whose.clone(), text, bad });
        }
    };
    let metadata = &object["metadata"];
    let controller =
        metadata["ownerReferences"].as_array().into_iter().flatten().find(|owner| owner["controller"] == true);
    let by = controller.map(|owner| {
        format!(
            " by {}/{}",
            owner["kind"].as_str().unwrap_or_default().to_lowercase(),
            owner["name"].as_str().unwrap_or_default()
        )
    });
    push(seconds(&metadata["creationTimestamp"]), 0, format!("admitted and created{}", by.unwrap_or_default()), false);
    if let Some(at) = seconds(&metadata["deletionTimestamp"]) {
        let grace = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        push(Some(at - grace), 8, format!("deletion asked for, with a grace of {grace} s"), false);
    }
    for condition in object["status"]["conditions"].as_array().into_iter().flatten() {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        let value = if text("status") == "True" { "is true" } else { "is not true" };
        let why = [text("reason"), text("message")]
            .iter()
            .filter(|text| !text.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(": ");
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        push(
            seconds(&condition["lastTransitionTime"]),
            7,
            format!("{} {value}{why}", text("type")),
            text("status") == "False" && !why.is_empty(),
        );
    }
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    for status in lists.iter().flat_map(|list| object["status"][*list].as_array().into_iter().flatten()) {
        let name = status["name"].as_str().unwrap_or_default();
        for state in [&status["lastState"], &status["state"]] {
            let (running, ended) = (&state["running"], &state["terminated"]);
            for started in [&running["startedAt"], &ended["startedAt"]] {
                push(seconds(started), 5, format!("container {name} started"), false);
            }
            if ended.is_object() {
                let code = ended["exitCode"].as_i64().unwrap_or(0);
                let reason = ended["reason"].as_str().unwrap_or("Completed");
                let message = ended["message"].as_str().map(|text| format!(": {}", text.trim())).unwrap_or_default();
                push(
                    seconds(&ended["finishedAt"]),
                    6,
                    format!("container {name} ended with code {code} ({reason}){message}"),
                    code != 0,
                );
            }
        }
    }
    steps
}

/// Pure.
fn of_event(object: &Value, event: &Value) -> Option<Step> {
    let text = |field: &str| event[field].as_str().unwrap_or_default();
    let count = event["count"].as_i64().unwrap_or(1);
    let times = if count > 1 { format!(" ({count} times)") } else { String::new() };
    let order = match text("reason") {
        "Scheduled" | "FailedScheduling" => 1,
        "Pulling" => 2,
        "Killing" => 8,
        _ => 3,
    };
    let serial = event["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    let said = format!("{}: {}{times}", text("reason"), text("message").trim());
    Some(Step {
        at: last_seen(event)?,
        order,
        serial,
        whose: label(object),
        text: said,
        bad: event["type"] == "Warning",
    })
}

/// What is wrong with an object now, and what helps. Pure.
pub(in crate::commands) fn complaints(object: &Value) -> Vec<String> {
    let whose = label(object);
    let mut wrong = Vec::new();
    let conditions = || object["status"]["conditions"].as_array().into_iter().flatten();
    if object["kind"] != "Pod" {
        for condition in conditions() {
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            let is_bad = match text("type") {
                "Available" | "Progressing" | "Ready" | "Complete" => text("status") == "False",
                "ReplicaFailure" | "Failed" => text("status") == "True",
                _ => false,
            };
            if is_bad {
                wrong.push(format!("{whose}: {}: {}", text("reason"), text("message")));
            }
        }
        return wrong;
    }
    let unscheduled =
        conditions().find(|condition| condition["type"] == "PodScheduled" && condition["status"] == "False");
    if let Some(condition) = unscheduled {
        let message = condition["message"].as_str().unwrap_or_default();
        wrong.push(format!("{whose} has no node: {message}\n    See what nodes have: knarr describe nodes"));
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let lists = ["initContainerStatuses", "containerStatuses"];
    for status in lists.iter().flat_map(|list| object["status"][*list].as_array().into_iter().flatten()) {
        let container = status["name"].as_str().unwrap_or_default();
        let waiting = &status["state"]["waiting"];
        let last = [&status["state"]["terminated"], &status["lastState"]["terminated"]]
            .into_iter()
            .find(|ended| ended.is_object());
        let killed_for_memory = last.is_some_and(|ended| ended["reason"] == "OOMKilled");
        if killed_for_memory {
            wrong.push(format!("{whose}: container {container} took more memory than its limit and was killed\n    Raise resources.limits.memory, or find what takes it: knarr top pods --containers"));
        }
        let message = waiting["message"].as_str().unwrap_or_default();
        let help = match waiting["reason"].as_str() {
            Some("ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull") => {
                let image = status["image"].as_str().unwrap_or_default();
                format!(
                    "the image {image} cannot be had: {message}\n    Is the name right? knarr images; knarr pull {image}; or build it: knarr build -t {image} ."
                )
            }
            Some("CrashLoopBackOff") if !killed_for_memory => {
                let code = last.and_then(|ended| ended["exitCode"].as_i64()).unwrap_or(0);
                format!(
                    "it ends again and again, last with code {code}\n    What it said: knarr logs pod/{name} -c {container} --previous"
                )
            }
            Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
                format!("it cannot be made: {message}")
            }
            _ => continue,
        };
        wrong.push(format!("{whose}: container {container}: {help}"));
    }
    let not_ready = object["status"]["containerStatuses"].as_array().into_iter().flatten();
    for status in not_ready.filter(|status| status["state"]["running"].is_object() && status["ready"] != true) {
        let container = status["name"].as_str().unwrap_or_default();
        wrong.push(format!("{whose}: container {container} runs and is not ready\n    Its readiness probe says no, or has not been asked yet: knarr describe pod {name}"));
    }
    wrong
}

fn tell(name: &str, mut steps: Vec<Step>, wrong: &[String], now: i64) -> Result<u8, Failure> {
    out(&printable(&story(name, &mut steps, wrong, now)))?;
    Ok(0)
}

/// Pure.
fn story(name: &str, steps: &mut Vec<Step>, wrong: &[String], now: i64) -> String {
    steps.sort();
    steps.dedup_by(|a, b| a.at == b.at && a.whose == b.whose && a.text == b.text);
    let mut text = String::new();
    let began = steps.first().map_or(now, |step| step.at);
    let mut lines = Vec::new();
    for step in steps.iter() {
        let mark = if step.bad { "!" } else { " " };
        let clock =
            jiff::Timestamp::from_second(step.at).map(|time| time.strftime("%H:%M:%S").to_string()).unwrap_or_default();
        lines.push(format!("{mark} {clock}\t+{}\t{}\t{}", human(step.at - began), step.whose, step.text));
    }
    text.push_str(&format!("{name}: {} steps in {} (times in UTC)\n\n", steps.len(), human(now - began)));
    text.push_str(&crate::show::align_with(&lines, 0, 2));
    text.push('\n');
    match wrong.is_empty() {
        true => text.push_str("Nothing is wrong now.\n"),
        false => {
            text.push_str("What is wrong now:\n");
            wrong.iter().for_each(|line| text.push_str(&format!("  * {line}\n")));
        }
    }
    text
}

/// A container of the engine: its life from its records and from what the engine still remembers of it.
fn container(context: &Context, name: &str) -> Result<u8, Failure> {
    let client = &context.client;
    let view = client.get(&format!("/containers/{}/json", encode(name)))?;
    let own = view["Name"].as_str().unwrap_or(name).trim_start_matches('/').to_owned();
    let mut steps = of_container(&view);
    let filters = crate::client::filters(&[format!("container={}", view["Id"].as_str().unwrap_or_default())])?;
    let created = seconds(&view["Created"]).unwrap_or(0).to_string();
    let until = (units::now() + 1).to_string();
    let mut events = client.request(
        "GET",
        &format!("/events{}", query(&[("since", &created), ("until", &until), ("filters", &filters)])),
        crate::client::http::Body::Empty,
    )?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut events, &mut text)?;
    for line in text.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let action = event["Action"].as_str().unwrap_or_default();
        // Commands in a container are what somebody does in it, not what becomes of it.
        if action.starts_with("exec_") && !action.contains("die") {
            continue;
        }
        let code = event["Actor"]["Attributes"]["exitCode"].as_str().map(|code| format!(" with code {code}"));
        let bad = matches!(action, "oom" | "kill") || code.as_deref().is_some_and(|code| code != " with code 0");
        steps.push(Step {
            at: event["time"].as_i64().unwrap_or(0),
            order: 3,
            serial: event["timeNano"].as_u64().unwrap_or(0),
            whose: own.clone(),
            text: format!("{action}{}", code.unwrap_or_default()),
            bad,
        });
    }
    let wrong = container_complaints(&own, &view);
    tell(&own, steps, &wrong, units::now())
}

/// Pure.
fn of_container(view: &Value) -> Vec<Step> {
    let whose = view["Name"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
    let state = &view["State"];
    let mut steps = Vec::new();
    let mut push = |at: &Value, order: u8, text: String, bad: bool| {
        // Docker's zero time says that it has not happened.
        if let Some(at) = seconds(at).filter(|at| *at > 0) {
            steps.push(Step { at, order, serial: 0, whose: whose.clone(), text, bad });
        }
    };
    let image = view["Config"]["Image"].as_str().unwrap_or_default();
    push(&view["Created"], 0, format!("created from {image}"), false);
    push(&state["StartedAt"], 5, "started".into(), false);
    if state["Running"] != true {
        let code = state["ExitCode"].as_i64().unwrap_or(0);
        let error = state["Error"].as_str().filter(|text| !text.is_empty()).map(|text| format!(": {text}"));
        push(&state["FinishedAt"], 6, format!("ended with code {code}{}", error.unwrap_or_default()), code != 0);
    }
    for check in state["Health"]["Log"].as_array().into_iter().flatten() {
        let code = check["ExitCode"].as_i64().unwrap_or(0);
        if code != 0 {
            let output = check["Output"].as_str().unwrap_or_default().trim().to_owned();
            push(&check["End"], 6, format!("health check failed with code {code}: {output}"), true);
        }
    }
    steps
}

/// Pure.
pub(in crate::commands) fn container_complaints(name: &str, view: &Value) -> Vec<String> {
    let state = &view["State"];
    let mut wrong = Vec::new();
    if state["OOMKilled"] == true {
        wrong.push(format!("it took more memory than its limit and was killed\n    More: knarr update --memory 512m {name}; then knarr start {name}"));
    }
    if state["Restarting"] == true {
        wrong.push(format!(
            "it ends again and again (restarted {} times)\n    What it said: knarr logs {name}",
            view["RestartCount"]
        ));
    } else if state["Running"] != true
        && (state["Status"] == "exited" || state["Error"].as_str().is_some_and(|text| !text.is_empty()))
    {
        let code = state["ExitCode"].as_i64().unwrap_or(0);
        let meaning = match code {
            0 => return wrong,
            126 => "its program may not be executed".to_owned(),
            127 => "its program was not found".to_owned(),
            137 if state["OOMKilled"] != true => "it was killed (SIGKILL)".to_owned(),
            143 => "it was asked to end (SIGTERM)".to_owned(),
            129..=192 => format!("signal {} ended it", code - 128),
            _ => "its program says that it failed".to_owned(),
        };
        let ended = if state["Status"] == "exited" { "has ended" } else { "could not start and ended" };
        let error = state["Error"]
            .as_str()
            .filter(|text| !text.is_empty())
            .map(|text| format!(" ({text})"))
            .unwrap_or_default();
        wrong.push(format!("it {ended} with code {code}: {meaning}{error}\n    What it said: knarr logs {name}"));
    }
    if state["Health"]["Status"] == "unhealthy" {
        wrong.push(format!(
            "its health check fails, {} times in a row\n    See: knarr inspect -f '{{{{json .State.Health}}}}' {name}",
            state["Health"]["FailingStreak"]
        ));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: Value) -> Value {
        json!({"kind": "Pod", "metadata": {"name": "web", "creationTimestamp": "1970-01-01T00:01:40Z",
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "controller": true}]}, "status": status})
    }

    #[test]
    fn a_pods_story_is_in_order_and_says_what_helps() {
        let object = pod(json!({"containerStatuses": [{"name": "c", "image": "app", "ready": false,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
            "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "startedAt": "1970-01-01T00:01:42Z", "finishedAt": "1970-01-01T00:01:45Z"}}}]}));
        let event = json!({"type": "Normal", "reason": "Scheduled", "message": "on n1", "lastTimestamp": "1970-01-01T00:01:41Z"});
        let mut steps = of_object(&object);
        steps.extend(of_event(&object, &event));
        let text = story("pod/web", &mut steps, &complaints(&object), 160);
        let wanted = "pod/web: 4 steps in 60s (times in UTC)\n\n\
            \u{20} 00:01:40  +0s  pod/web  admitted and created by replicaset/web-1\n\
            \u{20} 00:01:41  +1s  pod/web  Scheduled: on n1\n\
            \u{20} 00:01:42  +2s  pod/web  container c started\n\
            ! 00:01:45  +5s  pod/web  container c ended with code 3 (Error)\n\n\
            What is wrong now:\n  * pod/web: container c: it ends again and again, last with code 3\n    What it said: knarr logs pod/web -c c --previous\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn each_complaint_says_what_to_do() {
        let first = |status: Value| complaints(&pod(status)).first().cloned().unwrap_or_default();
        let waiting = |reason: &str| json!({"containerStatuses": [{"name": "c", "image": "app", "state": {"waiting": {"reason": reason, "message": "m"}}}]});
        assert!(first(waiting("ImagePullBackOff")).contains("knarr pull app"));
        assert!(first(waiting("CreateContainerConfigError")).contains("cannot be made: m"));
        assert!(
            first(json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}))
                .contains("no node: 0/1 nodes")
        );
        assert!(first(json!({"containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}, "lastState": {"terminated": {"reason": "OOMKilled"}}}]})).contains("memory"));
        assert_eq!(first(json!({"containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]})), "");
    }

    #[test]
    fn a_containers_end_is_explained() {
        let of =
            |state: Value| container_complaints("web", &json!({"State": state})).first().cloned().unwrap_or_default();
        assert!(of(json!({"Status": "exited", "ExitCode": 127})).contains("was not found"));
        assert!(of(json!({"Status": "exited", "ExitCode": 139})).contains("signal 11"));
        assert!(of(json!({"Status": "exited", "ExitCode": 137, "OOMKilled": true})).contains("memory"));
        assert_eq!(of(json!({"Status": "exited", "ExitCode": 0})), "");
        assert!(
            of(json!({"Status": "running", "Running": true, "Health": {"Status": "unhealthy", "FailingStreak": 3}}))
                .contains("3 times")
        );
    }
}
