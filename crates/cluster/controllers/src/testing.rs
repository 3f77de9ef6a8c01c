//! For tests: a small cluster that writes are applied to, so that a table can tell a story in steps.

use std::sync::Arc;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, decode, meta, patch};
use serde_json::json;

pub fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// Objects and a clock.
pub struct World {
    pub view: View,
    pub now: Timestamp,
    revision: u64,
    /// `Reason: message` of all events told, in order.
    pub events: Vec<String>,
}

impl World {
    pub fn new() -> Self {
        Self { view: View::default(), now: at("2026-01-01T00:00:00Z"), revision: 0, events: Vec::new() }
    }

    pub fn pass(&mut self, secs: i64) {
        self.now += jiff::SignedDuration::from_secs(secs);
    }

    /// Puts an object, with what a server would give it.
    pub fn put(&mut self, kind: Kind, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        if meta::uid(&object).is_empty() {
            let uid = format!("uid-{}-{}", meta::name(&object), self.revision);
            meta::set(&mut object, "uid", uid);
        }
        if meta::get(&object, "creationTimestamp").is_empty() {
            meta::set(&mut object, "creationTimestamp", decode::format_time(self.now, 0));
        }
        if kind == Kind::Pod && object["status"].get("phase").is_none() {
            object["status"]["phase"] = "Pending".into();
        }
        meta::set(&mut object, "resourceVersion", self.revision.to_string());
        let key = Key::of(&object);
        assert!(self.view.put(kind, object), "the newest counts");
        self.view.at(kind, &key).expect("it was put").clone()
    }

    pub fn change(&mut self, kind: Kind, name: &str, change: impl FnOnce(&mut Value)) {
        let found = self.view.list(kind).find(|object| meta::name(object) == name).cloned();
        let mut object = (*found.unwrap_or_else(|| panic!("{name} is there"))).clone();
        change(&mut object);
        self.put(kind, object);
    }

    pub fn node(&mut self, name: &str) {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        self.put(Kind::Node, node);
    }

    pub fn ready(&mut self, pod: &str) {
        let now = decode::format_time(self.now, 0);
        self.change(Kind::Pod, pod, |pod| {
            pod["status"]["phase"] = "Running".into();
            pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": now}]);
        });
    }

    /// All pods that do not end become ready.
    pub fn all_ready(&mut self) {
        for name in self.names(Kind::Pod) {
            let pod = self.find(Kind::Pod, &name);
            if !meta::is_terminating(&pod) && pod["status"]["phase"] == "Pending" {
                self.ready(&name);
            }
        }
    }

    /// A pod's only container has ended.
    pub fn ended(&mut self, pod: &str, code: i64) {
        let now = decode::format_time(self.now, 0);
        self.change(Kind::Pod, pod, |pod| {
            pod["status"]["phase"] = if code == 0 { "Succeeded" } else { "Failed" }.into();
            let name = pod["spec"]["containers"][0]["name"].clone();
            pod["status"]["conditions"] = json!([]);
            pod["status"]["containerStatuses"] =
                json!([{"name": name, "state": {"terminated": {"exitCode": code, "finishedAt": now}}}]);
        });
    }

    /// What was told to end has ended.
    pub fn reap(&mut self) {
        for name in self.names(Kind::Pod) {
            let pod = self.find(Kind::Pod, &name);
            if meta::is_terminating(&pod) && meta::finalizers(&pod).is_empty() {
                self.view.remove(Kind::Pod, &pod);
            }
        }
    }

    pub fn find(&self, kind: Kind, name: &str) -> Arc<Value> {
        let found = self.view.list(kind).find(|object| meta::name(object) == name);
        found.unwrap_or_else(|| panic!("{name} is not there, but {:?}", self.names(kind))).clone()
    }

    pub fn names(&self, kind: Kind) -> Vec<String> {
        self.view.list(kind).map(|object| meta::name(object).to_owned()).collect()
    }

    /// Names of pods that do not end.
    pub fn live(&self) -> Vec<String> {
        let live = self.view.list(Kind::Pod).filter(|pod| !meta::is_terminating(pod));
        live.map(|pod| meta::name(pod).to_owned()).collect()
    }

    pub fn look(&mut self, part: &mut dyn Part, key: &Key) -> Outcome {
        part.reconcile(&self.view, key, self.now)
    }

    /// One look at an object and what follows from it; answers when it wants to look again.
    pub fn step(&mut self, part: &mut dyn Part, name: &str) -> Option<std::time::Duration> {
        let outcome = self.look(part, &Key::new("d", name));
        let again = outcome.again;
        self.apply(outcome.writes);
        again
    }

    /// Looks until nothing is left to do. What ends has ended at once.
    pub fn settle(&mut self, part: &mut dyn Part, name: &str) {
        for _ in 0..50 {
            self.reap();
            let outcome = self.look(part, &Key::new("d", name));
            if outcome.writes.is_empty() {
                return;
            }
            self.apply(outcome.writes);
        }
        panic!("{} never comes to rest over {name}", part.name());
    }

    /// The server would take this status.
    fn judge(&self, kind: Kind, new: &Value) {
        let (gvr, mut faults) = (kind.gvr(), resources::kinds::Faults::default());
        let old = self.find(kind, meta::name(new));
        resources::kinds::strategy(&gvr.group, &gvr.plural).judge_status(new, &old, &mut faults);
        assert!(faults.0.is_empty(), "{faults:?} of {} for {}", new["status"], old["status"]);
    }

    pub fn apply(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::Create(kind, object) => {
                    let key = Key::of(&object);
                    assert!(self.view.at(kind, &key).is_none(), "{key} is made twice");
                    self.put(kind, object);
                }
                Write::Update(kind, object) => drop(self.put(kind, object)),
                Write::Status(kind, object) => {
                    self.judge(kind, &object);
                    self.put(kind, object);
                }
                Write::Merge { kind, key, patch: change, .. } => {
                    let Some(have) = self.view.at(kind, &key) else { continue };
                    let mut object = (**have).clone();
                    patch::merge_patch(&mut object, &change);
                    let done = meta::is_terminating(&object) && meta::finalizers(&object).is_empty();
                    let object = self.put(kind, object);
                    if done && (kind != Kind::Pod || pods_end(&object)) {
                        self.view.remove(kind, &object);
                    }
                }
                Write::Strategic { kind, key, patch: change, .. } => {
                    let Some(have) = self.view.at(kind, &key) else { continue };
                    let mut object = (**have).clone();
                    for fresh in meta::list_at(&change, &["status", "conditions"]) {
                        let list = meta::object_at(&mut object, &["status"]).entry("conditions");
                        let list = list.or_insert_with(|| json!([])).as_array_mut().expect("a list");
                        list.retain(|condition| condition["type"] != fresh["type"]);
                        list.push(fresh.clone());
                    }
                    self.put(kind, object);
                }
                Write::Delete { kind, key, .. } => {
                    let Some(have) = self.view.at(kind, &key).cloned() else { continue };
                    let waits = kind == Kind::Pod || !meta::finalizers(&have).is_empty();
                    if waits && !meta::is_terminating(&have) {
                        let mut object = (*have).clone();
                        meta::set(&mut object, "deletionTimestamp", decode::format_time(self.now, 0));
                        self.put(kind, object);
                    } else if !waits {
                        self.view.remove(kind, &have);
                    }
                }
                Write::Bind { pod, node } => {
                    self.change(Kind::Pod, &pod.name, |pod| pod["spec"]["nodeName"] = node.into())
                }
                Write::Event { reason, message, .. } => self.events.push(format!("{reason}: {message}")),
            }
        }
    }
}

fn pods_end(pod: &Value) -> bool {
    crate::pods::is_ended(pod)
}
