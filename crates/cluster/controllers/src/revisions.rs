//! Revisions of a template: what was asked for, kept as ControllerRevisions so that it can be told apart and brought back.

use std::sync::Arc;

use cache::{Key, Kind, View, Write};
use resources::{Value, meta};
use serde_json::json;

use crate::names::template_hash;
use crate::pods;

/// The revisions of one owner, oldest first.
pub struct History<'a> {
    owner_kind: Kind,
    owner: &'a Value,
    pub revisions: Vec<Arc<Value>>,
}

/// The revision that the owner asks for now.
pub struct Current {
    pub name: String,
    /// What pods carry as `controller-revision-hash` when the owner is a DaemonSet.
    pub hash: String,
    pub collisions: i64,
}

impl<'a> History<'a> {
    pub fn new(view: &View, owner_kind: Kind, owner: &'a Value, writes: &mut Vec<Write>) -> Self {
        let claimed = pods::claim(view, Kind::ControllerRevision, owner_kind, owner, writes);
        let mut revisions: Vec<Arc<Value>> = claimed.into_iter().cloned().collect();
        revisions.sort_by_key(|revision| (number(revision), meta::name(revision).to_owned()));
        Self { owner_kind, owner, revisions }
    }

    pub fn named(&self, name: &str) -> Option<&Arc<Value>> {
        self.revisions.iter().find(|revision| meta::name(revision) == name)
    }

    /// The revision of the owner's template: the newest, an older one that is asked for again, or a new one.
    pub fn current(&mut self, view: &View, label: &str, more: &Value, writes: &mut Vec<Write>) -> Current {
        let template = &self.owner["spec"]["template"];
        let wanted = data(template);
        let newest = self.revisions.last().map_or(0, |revision| number(revision));
        let collisions = self.owner["status"]["collisionCount"].as_i64().unwrap_or(0);
        let equal = self.revisions.iter().rposition(|revision| revision["data"] == wanted);
        if let Some(at) = equal {
            let revision = self.revisions[at].clone();
            if number(&revision) < newest {
                let patch = json!({"revision": newest + 1});
                let kind = Kind::ControllerRevision;
                writes.push(Write::Merge { kind, key: Key::of(&revision), sub: "", patch });
                self.revisions.remove(at);
                self.revisions.push(revision.clone());
            }
            let hash = meta::str_at(&revision, &["metadata", "labels", label]).to_owned();
            return Current { name: meta::name(&revision).to_owned(), hash, collisions };
        }
        let (mut hash, mut at) = (template_hash(template, collisions), collisions);
        let name = |hash: &str| format!("{}-{hash}", meta::name(self.owner));
        while view.get(Kind::ControllerRevision, meta::namespace(self.owner), &name(&hash)).is_some() {
            at += 1;
            hash = template_hash(template, at);
        }
        let mut labels = more.clone();
        labels[label] = hash.as_str().into();
        let mut object = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": newest + 1, "data": wanted,
            "metadata": {"name": name(&hash), "namespace": meta::namespace(self.owner), "labels": labels,
                "ownerReferences": pods::owner_reference(self.owner_kind, self.owner)}});
        if let Some(annotations) = meta::at(self.owner, &["metadata", "annotations"]) {
            object["metadata"]["annotations"] = annotations.clone();
        }
        writes.push(Write::Create(Kind::ControllerRevision, object.clone()));
        self.revisions.push(Arc::new(object));
        Current { name: name(&hash), hash, collisions: at }
    }

    /// Deletes the oldest revisions that nobody uses, beyond the history that is kept.
    pub fn trim(&self, is_live: impl Fn(&Value) -> bool, writes: &mut Vec<Write>) {
        let keep = self.owner["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10).max(0) as usize;
        let idle: Vec<&Arc<Value>> =
            self.revisions.iter().filter(|revision| !meta::uid(revision).is_empty() && !is_live(revision)).collect();
        for revision in idle.iter().take(idle.len().saturating_sub(keep)) {
            writes.push(Write::delete(Kind::ControllerRevision, revision));
        }
    }
}

pub fn number(revision: &Value) -> i64 {
    revision["revision"].as_i64().unwrap_or(0)
}

/// What a revision keeps: a patch that brings the template back as it was.
pub fn data(template: &Value) -> Value {
    let mut template = template.clone();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps.
pub fn template(revision: &Value) -> Value {
    let mut template = revision["data"]["spec"]["template"].clone();
    template.as_object_mut().map(|map| map.remove("$patch"));
    template
}
