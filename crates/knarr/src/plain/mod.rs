//! Containers that somebody runs without the cluster, shown in it: each has a mirror pod in a namespace of its own, which nothing can
//! change or end but the container itself.
//!
//! * `mirror` — the pod of a container, and what the pod's status is (pure)
//! * here — follows the engine and the API, and makes the pods be so

mod mirror;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cache::{Driver, Kind, Observer, View};
use client::{Client, DeleteOptions, PODS, Patch};
use engine::{Engine, EventQuery, ListOptions};
use resources::{Status, Value, meta};
use serde_json::json;
use tokio::sync::mpsc;
use vocab::ErrorKind;

use mirror::{Plain, is_within, pods, status};

/// Where the pods are.
const NAMESPACE: &str = "knarr-containers";
/// What happens together is shown together; what is gone again by then is not shown at all.
const PAUSE: Duration = Duration::from_millis(100);
/// Everything is looked at so often, whatever was heard.
const EVERY: Duration = Duration::from_secs(30);
/// By this label a pod's containers are told from others.
const POD: &str = "io.kubernetes.pod.uid";

/// Makes the namespace, unless it is there.
pub async fn begin(api: &Client) -> Result<(), Status> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    match api.create(&Kind::Namespace.gvr(), "", &namespace).await {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}

/// Shows the containers of one node.
pub struct Mirrors {
    engine: Engine,
    api: Client,
    node: String,
    ip: String,
    view: Arc<RwLock<View>>,
    changes: mpsc::UnboundedReceiver<(Kind, Arc<Value>)>,
    /// Containers that are no pod's, by id.
    plain: BTreeMap<String, Plain>,
    complained: String,
}

impl Mirrors {
    /// `api` asks as the node; the driver's view shows the node's pods.
    pub fn new(engine: &Engine, api: Client, driver: &mut Driver, node: &str, ip: &str) -> Self {
        let (tell, changes) = mpsc::unbounded_channel();
        driver.observe(Observer { kinds: &[Kind::Pod], tell });
        Self {
            engine: engine.clone(),
            api,
            node: node.to_owned(),
            ip: ip.to_owned(),
            view: driver.view(),
            changes,
            plain: BTreeMap::new(),
            complained: String::new(),
        }
    }

    /// Follows both until dropped, or until the view's changes end.
    pub async fn run(mut self) {
        let mut events = None;
        loop {
            if events.is_none() {
                // Before the list: what happens after it is heard.
                let mut query = EventQuery::default();
                query.filters.insert("type", "container");
                events = self.engine.events(query).await.ok();
                self.list().await;
            }
            self.bring_about().await;
            let mut dirty = BTreeSet::new();
            let heard = tokio::select! {
                event = async { match &mut events { Some(events) => events.next().await, None => std::future::pending().await } } => {
                    match event {
                        Some(Ok(event)) => drop(dirty.insert(event.actor)),
                        // It fell behind.
                        _ => events = None,
                    }
                    true
                }
                change = self.changes.recv() => match change {
                    None => return,
                    Some((_, pod)) => meta::namespace(&pod) == NAMESPACE,
                },
                () = tokio::time::sleep(EVERY) => { events = None; true }
            };
            if !heard {
                continue;
            }
            tokio::time::sleep(PAUSE).await;
            while self.changes.try_recv().is_ok() {}
            while let Some(Some(Ok(event))) = match &mut events {
                Some(events) => tokio::time::timeout(Duration::ZERO, events.next()).await.ok(),
                None => None,
            } {
                dirty.insert(event.actor);
            }
            for id in dirty {
                self.look(&id).await;
            }
        }
    }

    async fn list(&mut self) {
        let options = ListOptions { all: true, ..ListOptions::default() };
        let Ok(all) = self.engine.list(options).await else { return };
        let ids: BTreeSet<String> = all.iter().map(|summary| summary.id.to_string()).collect();
        self.plain.retain(|id, _| ids.contains(id));
        for id in ids {
            self.look(&id).await;
        }
    }

    async fn look(&mut self, id: &str) {
        match self.engine.inspect(id, false).await {
            Ok(view) if view.config.labels.contains_key(POD) => {}
            Ok(view) => drop(self.plain.insert(id.to_owned(), Plain::of(&view))),
            Err(error) if error.kind() == ErrorKind::NotFound => drop(self.plain.remove(id)),
            Err(error) => tracing::debug!(%error, id, "cannot look at a container"),
        }
    }

    /// Makes the pods be what the containers are.
    async fn bring_about(&mut self) {
        let have: Vec<Arc<Value>> = {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            if !view.has_listed(Kind::Pod) {
                return;
            }
            let here = view.pods_on(&self.node).filter(|pod| meta::namespace(pod) == NAMESPACE);
            here.filter(|pod| kubelet::shown_container(pod).is_some()).cloned().collect()
        };
        let wanted = pods(self.plain.values(), NAMESPACE, &self.node);
        let mut problem = None;
        for pod in &have {
            let same = wanted.get(meta::name(pod)).is_some_and(|(wanted, _)| is_within(wanted, pod));
            if same && !meta::is_terminating(pod) {
                continue;
            }
            let options =
                DeleteOptions { grace_secs: Some(0), uid: meta::uid(pod).to_owned(), ..DeleteOptions::default() };
            match self.api.delete(&PODS, NAMESPACE, meta::name(pod), &options).await {
                Err(status) if !matches!(status.code, 404 | 409) => problem = Some(status),
                _ => {}
            }
        }
        for (name, (pod, plain)) in &wanted {
            let found = have.iter().find(|pod| meta::name(pod) == name);
            let shown = match found {
                Some(found) if is_within(pod, found) && !meta::is_terminating(found) => (**found).clone(),
                _ => match self.api.create(&PODS, NAMESPACE, pod).await {
                    Ok(made) => made,
                    // The view does not know it yet, or another one of the name has not gone yet.
                    Err(status) if status.reason == "AlreadyExists" => continue,
                    Err(status) => {
                        problem = Some(status);
                        continue;
                    }
                },
            };
            let wanted = status(plain, &shown, &self.ip);
            if is_within(&wanted, &shown["status"]) {
                continue;
            }
            let patch = json!({"metadata": {"uid": meta::uid(&shown)}, "status": wanted});
            match self.api.patch(&PODS, NAMESPACE, name, "status", &Patch::Merge(patch)).await {
                Err(status) if !matches!(status.code, 404 | 409) => problem = Some(status),
                _ => {}
            }
        }
        let message = problem.map(|status| status.message).unwrap_or_default();
        if !message.is_empty() && message != self.complained {
            tracing::warn!(message, "cannot show all containers as pods");
        }
        self.complained = message;
    }
}
