//! Owners take their dependents along: a graph of who owns whom, kept from the store's changes, and what follows from
//! a deletion (background, foreground, orphan).

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use resources::{Value, meta};
use serde::Deserialize;
use store::{Change, RangeRequest, Span, WatchRequest};

use crate::api::{Api, Outcome, store_error};
use crate::catalog::Resource;
use crate::deletion::{self, Deleted, Options, Policy};

/// What the graph knows of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    key: String,
    owners: Vec<String>,
    terminating: bool,
    foreground: bool,
    orphan: bool,
}

#[derive(Default)]
struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(borrow, default)]
    owner_references: Vec<Owner<'a>>,
    #[serde(borrow, default)]
    deletion_timestamp: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    finalizers: Vec<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Owner<'a> {
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
}

impl Graph {
    /// Takes an object in; answers its uid if something may follow from it.
    fn put(&mut self, key: &str, stored: &[u8]) -> Option<String> {
        let head: Head<'_> = serde_json::from_slice(stored).ok()?;
        let has = |name: &str| head.metadata.finalizers.iter().any(|finalizer| finalizer == name);
        let node = Node {
            key: key.to_owned(),
            owners: head.metadata.owner_references.iter().map(|owner| owner.uid.to_string()).collect(),
            terminating: head.metadata.deletion_timestamp.is_some(),
            foreground: has("foregroundDeletion"),
            orphan: has("orphan"),
        };
        let uid = head.metadata.uid.to_string();
        self.remove_edges(&uid);
        for owner in &node.owners {
            self.dependents.entry(owner.clone()).or_default().insert(uid.clone());
        }
        let follows = !node.owners.is_empty() || (node.terminating && (node.foreground || node.orphan));
        self.nodes.insert(uid.clone(), node);
        follows.then_some(uid)
    }

    fn remove_edges(&mut self, uid: &str) {
        let Some(node) = self.nodes.get(uid) else { return };
        for owner in &node.owners {
            if let Some(set) = self.dependents.get_mut(owner) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }

    /// Takes an object out; answers who is touched by that: its dependents, and owners that wait for it.
    fn remove(&mut self, stored: &[u8]) -> Vec<String> {
        let Ok(head) = serde_json::from_slice::<Head<'_>>(stored) else { return Vec::new() };
        let uid = head.metadata.uid.to_string();
        self.remove_edges(&uid);
        let node = self.nodes.remove(&uid);
        let mut touched: Vec<String> = self.dependents.get(&uid).into_iter().flatten().cloned().collect();
        touched.extend(node.into_iter().flat_map(|node| node.owners));
        touched
    }

    /// What is to be done about an object.
    fn decide(&self, uid: &str) -> Action {
        let Some(node) = self.nodes.get(uid) else { return Action::Nothing };
        let dependents = || self.dependents.get(uid).into_iter().flatten().cloned().collect::<Vec<_>>();
        if node.terminating && node.orphan {
            return Action::Orphan(dependents());
        }
        if node.terminating && node.foreground {
            let left = dependents();
            return if left.is_empty() { Action::Finish } else { Action::DeleteAll(left) };
        }
        if node.terminating || node.owners.is_empty() {
            return Action::Nothing;
        }
        let (mut solid, mut gone, mut waiting) = (0, Vec::new(), 0);
        for owner in &node.owners {
            match self.nodes.get(owner) {
                None => gone.push(owner.clone()),
                Some(owner) if owner.terminating && owner.foreground => waiting += 1,
                Some(_) => solid += 1,
            }
        }
        match (solid, gone.is_empty(), waiting) {
            (0, _, waiting) => {
                // Whoever is waited for waits for its own dependents first.
                let foreground = waiting > 0 && self.dependents.contains_key(uid);
                Action::Delete(if foreground { Policy::Foreground } else { Policy::Background })
            }
            (_, false, _) => Action::Forget(gone),
            _ => Action::Nothing,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    Delete(Policy),
    DeleteAll(Vec<String>),
    /// Some of its owners have gone, not all.
    Forget(Vec<String>),
    Orphan(Vec<String>),
    /// Nobody depends on it any more: its foreground finalizer can go.
    Finish,
}

pub async fn collect(api: Arc<Api>) -> Outcome<()> {
    let everything = || Span::prefix("/registry/");
    loop {
        let mut graph = Graph::default();
        let state = api.store.range(RangeRequest::newest(everything())).await.map_err(store_error)?;
        let request = WatchRequest { span: everything(), start: state.revision + 1 };
        let mut work: BTreeSet<String> = BTreeSet::new();
        for kv in &state.kvs {
            work.extend(graph.put(&String::from_utf8_lossy(&kv.key), &kv.value));
        }
        drop(state);
        let mut watch = api.store.watch(request).await.map_err(store_error)?;
        loop {
            let mut failed = false;
            for uid in std::mem::take(&mut work) {
                if let Err(status) = act(&api, &graph, &uid).await {
                    tracing::debug!(uid, message = status.message, "the garbage collector will try again");
                    work.insert(uid);
                    failed = true;
                }
            }
            let next = match failed {
                true => match tokio::time::timeout(Duration::from_millis(500), watch.next()).await {
                    Ok(next) => next,
                    Err(_) => continue,
                },
                false => watch.next().await,
            };
            // Compacted away while we were busy: begin anew.
            let Ok(batch) = next else { break };
            for event in batch.events {
                match event.change {
                    Change::Put => work.extend(graph.put(&String::from_utf8_lossy(&event.kv.key), &event.kv.value)),
                    Change::Delete => work.extend(graph.remove(&event.kv.value)),
                }
            }
            // An owner that is now being deleted in the foreground touches its dependents.
            let touched: Vec<String> = work
                .iter()
                .filter(|uid| graph.nodes.get(*uid).is_some_and(|node| node.terminating && node.foreground))
                .flat_map(|uid| graph.dependents.get(uid).into_iter().flatten().cloned())
                .collect();
            work.extend(touched);
        }
    }
}

fn resource_of(api: &Api, key: &str) -> Option<Arc<Resource>> {
    let mut parts = key.trim_start_matches("/registry/").split('/');
    let (group, plural) = (parts.next()?, parts.next()?);
    let group = if group == "core" { "" } else { group };
    api.catalog().preferred(group, plural).cloned()
}

async fn act(api: &Arc<Api>, graph: &Graph, uid: &str) -> Outcome<()> {
    let action = graph.decide(uid);
    if action == Action::Nothing {
        return Ok(());
    }
    let Some(node) = graph.nodes.get(uid) else { return Ok(()) };
    match action {
        Action::Nothing => Ok(()),
        Action::Delete(policy) => remove(api, graph, uid, policy).await,
        Action::DeleteAll(dependents) => {
            for dependent in dependents {
                let policy =
                    if graph.dependents.contains_key(&dependent) { Policy::Foreground } else { Policy::Background };
                if graph.nodes.get(&dependent).is_some_and(|node| !node.terminating) {
                    remove(api, graph, &dependent, policy).await?;
                }
            }
            Ok(())
        }
        Action::Forget(gone) => drop_owners(api, &node.key, &gone).await,
        Action::Orphan(dependents) => {
            for dependent in dependents {
                if let Some(dependent) = graph.nodes.get(&dependent) {
                    drop_owners(api, &dependent.key, &[uid.to_owned()]).await?;
                }
            }
            drop_finalizer(api, &node.key, "orphan").await
        }
        Action::Finish => drop_finalizer(api, &node.key, "foregroundDeletion").await,
    }
}

async fn remove(api: &Arc<Api>, graph: &Graph, uid: &str, policy: Policy) -> Outcome<()> {
    let Some(node) = graph.nodes.get(uid) else { return Ok(()) };
    let Some(resource) = resource_of(api, &node.key) else { return Ok(()) };
    // Only this very object: another may have taken its name.
    let options = Options { policy: Some(policy), uid: uid.to_owned(), ..Options::default() };
    match deletion::delete(api, &resource, &node.key, &options).await {
        Ok(Deleted::Missing | Deleted::Gone(_) | Deleted::Waiting(_)) => Ok(()),
        Err(status) if status.reason == "Conflict" => Ok(()),
        Err(status) => Err(status),
    }
}

async fn drop_owners(api: &Api, key: &str, gone: &[String]) -> Outcome<()> {
    api.modify(key, |object| {
        let before = meta::list_at(object, &["metadata", "ownerReferences"]).to_vec();
        let kept: Vec<Value> =
            before.iter().filter(|owner| !gone.iter().any(|uid| owner["uid"] == uid.as_str())).cloned().collect();
        let changed = kept.len() != before.len();
        match kept.is_empty() {
            true => meta::unset(object, "ownerReferences"),
            false => meta::set(object, "ownerReferences", kept),
        }
        changed
    })
    .await?;
    Ok(())
}

async fn drop_finalizer(api: &Api, key: &str, name: &str) -> Outcome<()> {
    loop {
        let Some(kv) = api.get_kv(key).await? else { return Ok(()) };
        let mut object = crate::codec::decode(&kv.value);
        let mut finalizers = meta::finalizers(&object);
        finalizers.retain(|finalizer| finalizer != name);
        let grace = meta::at(&object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
        let done = match finalizers.is_empty() && grace == 0 {
            true => api.delete_at(key, kv.mod_revision).await?,
            false => {
                meta::set_finalizers(&mut object, finalizers);
                api.put_over(key, &object, kv.mod_revision).await?.is_some()
            }
        };
        if done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(uid: &str, owners: &[&str], deletes: &str) -> Vec<u8> {
        let owners: Vec<Value> = owners.iter().map(|uid| json!({"uid": uid, "name": uid, "kind": "K"})).collect();
        let mut metadata = json!({"uid": uid, "ownerReferences": owners});
        if !deletes.is_empty() {
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            metadata["finalizers"] = json!([deletes]);
        }
        serde_json::to_vec(&json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn what_follows_from_a_deletion() {
        let mut graph = Graph::default();
        for (uid, owners) in [("a", vec![]), ("b", vec!["a"]), ("c", vec!["b", "a"]), ("d", vec!["lost"])] {
            graph.put(&format!("/registry/core/x/{uid}"), &object(uid, &owners, ""));
        }
        assert_eq!(graph.decide("a"), Action::Nothing);
        assert_eq!(graph.decide("b"), Action::Nothing);
        assert_eq!(graph.decide("d"), Action::Delete(Policy::Background));
        graph.put("/registry/core/x/a", &object("a", &[], "foregroundDeletion"));
        assert_eq!(graph.decide("a"), Action::DeleteAll(vec!["b".into(), "c".into()]));
        assert_eq!(graph.decide("b"), Action::Delete(Policy::Foreground));
        assert_eq!(graph.decide("c"), Action::Nothing, "b still owns it");
        assert_eq!(graph.remove(&object("b", &["a"], "")), ["c", "a"]);
        assert_eq!(graph.decide("c"), Action::Delete(Policy::Background));
        graph.remove(&object("c", &["b", "a"], ""));
        assert_eq!(graph.decide("a"), Action::Finish);
        graph.put("/registry/core/x/a", &object("a", &[], ""));
        graph.put("/registry/core/x/e", &object("e", &["a", "gone"], ""));
        assert_eq!(graph.decide("e"), Action::Forget(vec!["gone".into()]));
        graph.put("/registry/core/x/a", &object("a", &[], "orphan"));
        assert_eq!(graph.decide("a"), Action::Orphan(vec!["e".into()]));
    }
}
