//! What to do about a pod. Pure: spec, what runs and what probes said in; steps out.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use resources::{Value, meta};

use crate::pod::{self, Role};
use crate::runtime::{ContainerSeen, State};

const FIRST_DELAY: Duration = Duration::from_secs(10);
const DELAY_MAX: Duration = Duration::from_secs(300);
const CONFIG_DELAY_MAX: Duration = Duration::from_secs(15);
/// A container that ran this long is forgiven its past.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
/// How long the reason of a failed pull is shown before the waiting is.
const FRESH: Duration = Duration::from_secs(2);

/// What probes said about one running container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The startup probe has passed, or there is none.
    pub started: bool,
    /// The readiness probe passes, or there is none.
    pub ready: bool,
    /// Why it has to be ended: a liveness or startup probe failed.
    pub sick: Option<String>,
}

/// Why a container could not be made, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub reason: &'static str,
    pub message: String,
    pub image: String,
    pub tries: u32,
    pub at: Timestamp,
}

impl Trouble {
    pub fn delay(&self) -> Duration {
        // Configuration is looked at again soon; images come from afar.
        let of_image = self.reason.contains("Image");
        let (first, most) =
            if of_image { (FIRST_DELAY, DELAY_MAX) } else { (Duration::from_secs(2), CONFIG_DELAY_MAX) };
        first.saturating_mul(1 << self.tries.saturating_sub(1).min(8)).min(most)
    }

    /// Reason and message, as a status tells them: first what failed, then that it is waited.
    pub fn shown(&self, now: Timestamp) -> (&'static str, String) {
        if self.reason != "ErrImagePull" || passed(self.at, now) < FRESH {
            return (self.reason, self.message.clone());
        }
        ("ImagePullBackOff", format!("Back-off pulling image {:?}: ErrImagePull: {}", self.image, self.message))
    }
}

fn passed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// How long a container has to wait after its next end, and when that was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    pub delay: Duration,
    pub since: Timestamp,
}

/// What a worker knows beyond spec and runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// By container id.
    pub health: BTreeMap<String, Health>,
    /// By container name.
    pub troubles: BTreeMap<String, Trouble>,
    /// Resources that running containers have been given, by their names.
    pub allocated: BTreeMap<String, Value>,
    /// Condition, reason and message of a resize that is not done.
    pub resize: Option<(&'static str, &'static str, String)>,
    /// By container name.
    pub backoffs: BTreeMap<String, BackOff>,
}

impl Memory {
    /// A container was started; a first start owes nothing.
    pub fn note_start(&mut self, name: &str, attempt: u32, now: Timestamp) {
        if attempt == 0 {
            return;
        }
        let delay = match self.backoffs.get(name) {
            Some(have) if passed(have.since, now) <= FORGIVEN_AFTER => (have.delay * 2).min(DELAY_MAX),
            _ => FIRST_DELAY,
        };
        self.backoffs.insert(name.to_owned(), BackOff { delay, since: now });
    }

    /// How long to wait after the end of a container before it is started again.
    pub fn restart_delay(&self, seen: &ContainerSeen) -> Duration {
        let State::Exited { finished, .. } = &seen.state else { return Duration::ZERO };
        match self.backoffs.get(&seen.name) {
            Some(have) if passed(have.since, *finished) <= FORGIVEN_AFTER => have.delay,
            _ => Duration::ZERO,
        }
    }

    /// What is left of the delay.
    pub fn delay_left(&self, seen: &ContainerSeen, now: Timestamp) -> Duration {
        let State::Exited { finished, .. } = &seen.state else { return Duration::ZERO };
        self.restart_delay(seen).saturating_sub(passed(*finished, now))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make and start the container of this name for the n-th time.
    Start { role: Role, name: String, attempt: u32 },
    /// End it; the policy decides what comes after.
    Stop { id: String, name: String, why: String },
    /// Forget an ended container that nobody asks for any more.
    Forget { id: String },
}

/// How a pod ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub phase: &'static str,
    pub reason: &'static str,
    pub message: String,
    /// All the time that the node has for the pod's goodbye, if that is less than the pod asks for.
    pub within: Option<Duration>,
}

impl End {
    /// The node cannot wait: what is left is a signal that is heard.
    pub const AT_ONCE: Duration = Duration::from_secs(1);

    /// The node has a reason of its own.
    pub fn failed(reason: &'static str, message: String) -> Self {
        Self { phase: "Failed", reason, message, within: Some(Self::AT_ONCE) }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actions {
    pub steps: Vec<Step>,
    /// Everything is to be ended; with a phase if the pod ends by itself.
    pub end: Option<Option<End>>,
    pub again: Option<Duration>,
}

impl Actions {
    fn look_again(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |have| have.min(after)));
    }
}

/// The latest container of a name.
pub fn current<'a>(seen: &'a [ContainerSeen], name: &str) -> Option<&'a ContainerSeen> {
    seen.iter().filter(|container| container.name == name).max_by_key(|container| container.attempt)
}

pub fn previous<'a>(seen: &'a [ContainerSeen], name: &str) -> Option<&'a ContainerSeen> {
    let latest = current(seen, name)?.attempt;
    let older = seen.iter().filter(|container| container.name == name && container.attempt < latest);
    older.max_by_key(|container| container.attempt)
}

/// Whether a container that ended this way is started again.
pub fn restarts(pod: &Value, role: Role, container: &Value, code: i32) -> bool {
    let policy = match container["restartPolicy"].as_str() {
        Some(own) if role != Role::Ephemeral => own,
        _ => pod["spec"]["restartPolicy"].as_str().unwrap_or("Always"),
    };
    let rules = meta::list_at(container, &["restartPolicyRules"]);
    if role != Role::Ephemeral && rules.iter().any(|rule| rule_applies(rule, code)) {
        return true;
    }
    match role {
        Role::Sidecar => true,
        Role::Ephemeral => false,
        Role::Init => code != 0 && policy != "Never",
        Role::Main => match policy {
            "Never" => false,
            "OnFailure" => code != 0,
            _ => true,
        },
    }
}

/// A rule that restarts by exit code.
fn rule_applies(rule: &Value, code: i32) -> bool {
    let listed = meta::list_at(rule, &["exitCodes", "values"]).iter().any(|value| value.as_i64() == Some(code.into()));
    rule["action"] == "Restart"
        && match rule["exitCodes"]["operator"].as_str() {
            Some("In") => listed,
            Some("NotIn") => !listed,
            _ => false,
        }
}

pub fn pod_actions(pod: &Value, seen: &[ContainerSeen], memory: &Memory, now: Timestamp) -> Actions {
    let mut actions = Actions::default();
    if meta::is_terminating(pod) {
        actions.end = Some(None);
        return actions;
    }
    if matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed") {
        actions.end = Some(None);
        return actions;
    }
    if let Some(limit) = pod["spec"]["activeDeadlineSeconds"].as_i64()
        && let Some(start) = meta::at(pod, &["status", "startTime"]).and_then(pod::time)
    {
        let left = limit - now.duration_since(start).as_secs();
        if left <= 0 {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            actions.end = Some(Some(End { phase: "Failed", reason: "DeadlineExceeded", message, within: None }));
            return actions;
        }
        actions.look_again(Duration::from_secs(left.unsigned_abs()));
    }
    for container in seen {
        let kept = [current(seen, &container.name), previous(seen, &container.name)];
        if !kept.into_iter().flatten().any(|kept| kept.id == container.id) {
            actions.steps.push(Step::Forget { id: container.id.clone() });
        }
    }
    if !init(pod, seen, memory, now, &mut actions) {
        return actions;
    }
    let main: Vec<(Role, &Value)> = pod::containers(pod).filter(|(role, _)| *role == Role::Main).collect();
    let ended = |(role, container): &(Role, &Value)| match current(seen, pod::name(container)).map(|c| &c.state) {
        Some(State::Exited { code, .. }) => (!restarts(pod, *role, container, *code)).then_some(*code),
        _ => None,
    };
    let codes: Vec<i32> = main.iter().filter_map(ended).collect();
    if codes.len() == main.len() && !main.is_empty() {
        let phase = if codes.iter().all(|code| *code == 0) { "Succeeded" } else { "Failed" };
        actions.end = Some(Some(End { phase, reason: "", message: String::new(), within: None }));
        return actions;
    }
    for (role, container) in main {
        keep_running(pod, role, container, seen, memory, now, &mut actions);
    }
    for (role, container) in pod::containers(pod).filter(|(role, _)| *role == Role::Ephemeral) {
        keep_running(pod, role, container, seen, memory, now, &mut actions);
    }
    actions
}

/// The init containers, in order. True: the others may run.
fn init(pod: &Value, seen: &[ContainerSeen], memory: &Memory, now: Timestamp, actions: &mut Actions) -> bool {
    // Once a main container exists init is over, also when its containers have been forgotten.
    let begun = pod::containers(pod)
        .any(|(role, container)| role == Role::Main && current(seen, pod::name(container)).is_some());
    for (role, container) in pod::containers(pod) {
        let name = pod::name(container);
        match role {
            Role::Main | Role::Ephemeral => {}
            Role::Sidecar => {
                keep_running(pod, role, container, seen, memory, now, actions);
                let started = current(seen, name).is_some_and(|seen| {
                    matches!(seen.state, State::Running { .. })
                        && memory.health.get(&seen.id).map_or(container["startupProbe"].is_null(), |h| h.started)
                });
                if !started && !begun {
                    return false;
                }
            }
            Role::Init if begun => {}
            Role::Init => match current(seen, name).map(|seen| &seen.state) {
                Some(State::Exited { code: 0, error, .. }) if error.is_empty() => {}
                Some(State::Exited { code, .. }) if !restarts(pod, role, container, *code) => {
                    actions.end = Some(Some(End { phase: "Failed", reason: "", message: String::new(), within: None }));
                    return false;
                }
                _ => {
                    keep_running(pod, role, container, seen, memory, now, actions);
                    return false;
                }
            },
        }
    }
    true
}

fn keep_running(
    pod: &Value,
    role: Role,
    container: &Value,
    seen: &[ContainerSeen],
    memory: &Memory,
    now: Timestamp,
    actions: &mut Actions,
) {
    let name = pod::name(container);
    let start = |attempt| Step::Start { role, name: name.to_owned(), attempt };
    if let Some(trouble) = memory.troubles.get(name) {
        let since = passed(trouble.at, now);
        let left = trouble.delay().saturating_sub(since);
        if !left.is_zero() {
            actions.look_again(left);
            if since < FRESH {
                actions.look_again(FRESH - since);
            }
            return;
        }
    }
    let Some(have) = current(seen, name) else {
        actions.steps.push(start(0));
        return;
    };
    match &have.state {
        State::Created => actions.steps.push(start(have.attempt)),
        State::Running { .. } => {
            if let Some(why) = memory.health.get(&have.id).and_then(|health| health.sick.clone()) {
                actions.steps.push(Step::Stop { id: have.id.clone(), name: name.to_owned(), why });
            } else if container["image"].as_str().is_some_and(|image| image != have.image) {
                let why = "definition changed".to_owned();
                actions.steps.push(Step::Stop { id: have.id.clone(), name: name.to_owned(), why });
            }
        }
        State::Exited { code, .. } if restarts(pod, role, container, *code) => {
            let left = memory.delay_left(have, now);
            if left.is_zero() {
                actions.steps.push(start(have.attempt + 1));
            } else {
                actions.look_again(left);
            }
        }
        State::Exited { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + secs).unwrap()
    }

    /// `name attempt state`: `created`, `running`, `exit:CODE:SECOND`.
    fn seen(lines: &[&str]) -> Vec<ContainerSeen> {
        let one = |line: &&str| {
            let words: Vec<&str> = line.split(' ').collect();
            let parts: Vec<&str> = words[2].split(':').collect();
            let state = match parts[0] {
                "created" => State::Created,
                "running" => State::Running { started: at(0) },
                _ => State::Exited {
                    started: Some(at(0)),
                    finished: at(parts[2].parse().unwrap()),
                    code: parts[1].parse().unwrap(),
                    oom: false,
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

    fn shown(actions: &Actions) -> String {
        let mut words: Vec<String> = actions
            .steps
            .iter()
            .map(|step| match step {
                Step::Start { name, attempt, .. } => format!("start {name} {attempt}"),
                Step::Stop { id, .. } => format!("stop {id}"),
                Step::Forget { id } => format!("forget {id}"),
            })
            .collect();
        if let Some(end) = &actions.end {
            words.push(format!("end {}", end.as_ref().map_or("", |end| end.phase)).trim().to_owned());
        }
        if let Some(again) = actions.again {
            words.push(format!("again {}", again.as_secs()));
        }
        words.join(", ")
    }

    fn pod(policy: &str) -> Value {
        json!({"spec": {"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]}})
    }

    #[test]
    fn containers_come_in_order_and_come_back_as_the_policy_says() {
        let rows: &[(&str, &[&str], &str)] = &[
            ("Always", &[], "start i 0"),
            ("Always", &["i 0 running"], ""),
            ("Always", &["i 0 created"], "start i 0"),
            ("Always", &["i 0 exit:1:50"], "start i 1"),
            ("Always", &["i 0 exit:1:50", "i 1 exit:1:95"], "again 5"),
            ("Never", &["i 0 exit:1:50"], "end Failed"),
            ("Always", &["i 0 exit:0:50"], "start s 0"),
            ("Always", &["i 0 exit:0:50", "s 0 running"], "start a 0, start b 0"),
            ("Always", &["i 0 exit:0:50", "s 0 running", "a 0 running", "b 0 running"], ""),
            ("Always", &["s 0 running", "a 0 exit:0:99", "b 0 running"], "start a 1"),
            ("Always", &["s 0 exit:0:99", "a 0 running", "b 0 running"], "start s 1"),
            ("Always", &["s 0 running", "a 1 exit:0:95", "b 0 running"], "again 5"),
            ("Always", &["s 0 running", "a 0 exit:0:1", "a 1 exit:1:2", "a 2 running", "b 0 running"], "forget a-0"),
            ("OnFailure", &["s 0 running", "a 0 exit:0:99", "b 0 running"], ""),
            ("OnFailure", &["s 0 running", "a 0 exit:1:99", "b 0 running"], "start a 1"),
            ("OnFailure", &["s 0 running", "a 0 exit:0:99", "b 0 exit:0:99"], "end Succeeded"),
            ("Never", &["s 0 running", "a 0 exit:3:99", "b 0 exit:0:99"], "end Failed"),
        ];
        for (policy, have, expected) in rows {
            let mut memory = Memory::default();
            let have = seen(have);
            have.iter().for_each(|seen| memory.note_start(&seen.name, seen.attempt, at(90)));
            let actions = pod_actions(&pod(policy), &have, &memory, at(100));
            assert_eq!(shown(&actions), *expected, "{policy} {have:?}");
        }
    }

    #[test]
    fn sick_containers_are_ended_and_troubled_ones_waited_for() {
        let have = seen(&["s 0 running", "a 0 running", "b 0 running"]);
        let mut memory = Memory::default();
        let sick = Health { sick: Some("Liveness probe failed".into()), ..Health::default() };
        memory.health.insert("a-0".into(), sick);
        let actions = pod_actions(&pod("Always"), &have, &memory, at(100));
        assert_eq!(shown(&actions), "stop a-0");
        let trouble =
            Trouble { reason: "ErrImagePull", message: String::new(), image: String::new(), tries: 1, at: at(96) };
        let memory = Memory { troubles: [("i".to_owned(), trouble)].into(), ..Memory::default() };
        let actions = pod_actions(&pod("Always"), &[], &memory, at(100));
        assert_eq!(shown(&actions), "again 6");
    }

    #[test]
    fn a_pod_that_is_told_to_end_starts_nothing() {
        let mut ending = pod("Always");
        meta::set(&mut ending, "deletionTimestamp", "2026-01-01T00:00:00Z");
        assert_eq!(shown(&pod_actions(&ending, &[], &Memory::default(), at(0))), "end");
        let mut late = pod("Always");
        late["spec"]["activeDeadlineSeconds"] = 5.into();
        late["status"]["startTime"] = at(0).to_string().into();
        assert_eq!(shown(&pod_actions(&late, &[], &Memory::default(), at(6))), "end Failed");
    }
}
