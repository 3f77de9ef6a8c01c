//! The store, with a look at every write the moment it is made: it goes into the log, into the truth, and before the rules.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cache::{Key, Kind};
use resources::{Value, meta};
use store::{
    Answer, Embedded, LeaseId, OpReply, RangeReply, RangeRequest, Revision, Store, StoreError, Txn, TxnReply, Watch,
    WatchRequest,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::rules::{Change, Rule, Truth};

/// Lines of the log that a failure shows.
const SHOWN: usize = 120;

/// What has happened so far.
pub struct Books {
    began: Instant,
    /// The last lines, or all of them.
    log: VecDeque<String>,
    keep_all: bool,
    /// Of the whole log.
    hash: u64,
    pub truth: Truth,
    rules: Vec<Box<dyn Rule>>,
    pub broken: Option<String>,
    pub writes: u64,
    /// When something was last written that is no heartbeat.
    pub changed: Instant,
}

impl Books {
    pub fn tell(&mut self, line: &str) {
        let line = format!("{:>10.3} {line}", self.began.elapsed().as_secs_f64());
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.log.push_back(line);
        if !self.keep_all && self.log.len() > SHOWN {
            self.log.pop_front();
        }
    }

    pub fn log(&self) -> Vec<String> {
        self.log.iter().cloned().collect()
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// Shared by everybody in a simulated world.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    store: Embedded,
    books: Mutex<Books>,
    failed: Notify,
}

impl Ledger {
    pub fn new(rules: Vec<Box<dyn Rule>>, keep_all: bool) -> Self {
        let now = Instant::now();
        let books = Books {
            began: now,
            log: VecDeque::new(),
            keep_all,
            hash: 0xcbf2_9ce4_8422_2325,
            truth: Truth::new(now),
            rules,
            broken: None,
            writes: 0,
            changed: now,
        };
        Self(Arc::new(Inner { store: Embedded::solo(), books: Mutex::new(books), failed: Notify::new() }))
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tell(&self, line: &str) {
        self.books().tell(line);
    }

    /// Somebody does not know whether a thing was done.
    pub fn doubt(&self) {
        self.books().truth.doubts.push(Instant::now());
    }

    /// A rule is broken; the first time counts.
    pub fn fail(&self, why: String) {
        let mut books = self.books();
        books.tell(&format!("BROKEN {why}"));
        books.broken.get_or_insert(why);
        self.0.failed.notify_one();
    }

    /// Ends when a rule is broken.
    pub async fn failed(&self) -> String {
        loop {
            if let Some(why) = self.books().broken.clone() {
                return why;
            }
            self.0.failed.notified().await;
        }
    }

    fn note(&self, reply: &TxnReply) {
        for op in &reply.replies {
            match op {
                OpReply::Get { .. } => {}
                OpReply::Put { now, .. } => self.note_one(&now.key, Some(&now.value)),
                OpReply::Delete { prev } => prev.iter().for_each(|gone| self.note_one(&gone.key, None)),
            }
        }
    }

    fn note_one(&self, key: &[u8], value: Option<&[u8]>) {
        let path = String::from_utf8_lossy(key);
        let mut books = self.books();
        books.writes += 1;
        let Some((kind, key)) = parse(&path) else { return };
        let after: Option<Arc<Value>> = value.and_then(|value| serde_json::from_slice(value).ok()).map(Arc::new);
        let before = books.truth.view.at(kind, &key).cloned();
        let line = match &after {
            Some(object) => format!("{} {key} {}", kind.as_str(), summary(kind, object)),
            None => format!("{} {key} gone", kind.as_str()),
        };
        books.tell(&line);
        if !is_heartbeat(kind, before.as_deref(), after.as_deref()) {
            books.changed = Instant::now();
        }
        match (&before, &after) {
            (_, Some(object)) => {
                // The same name may come again in one transaction's time.
                if let Some(before) = &before
                    && meta::uid(before) != meta::uid(object)
                {
                    books.truth.view.remove(kind, before);
                }
                books.truth.view.put(kind, object.clone());
            }
            (Some(object), None) => books.truth.view.remove(kind, object),
            (None, None) => {}
        }
        let change = Change { kind, key, before, after };
        let books = &mut *books;
        books.truth.note(&change);
        let broken = books.rules.iter_mut().find_map(|rule| rule.check(&books.truth, &change).err());
        if let Some(why) = broken {
            books.tell(&format!("BROKEN {why}"));
            books.broken.get_or_insert(why);
            self.0.failed.notify_one();
        }
    }
}

/// `/registry/apps/deployments/default/web`.
fn parse(path: &str) -> Option<(Kind, Key)> {
    let mut parts = path.strip_prefix("/registry/")?.split('/');
    let (group, plural) = (parts.next()?, parts.next()?);
    let group = if group == "core" { "" } else { group };
    let kind = *Kind::ALL.iter().find(|kind| kind.gvr().group == group && kind.gvr().plural == plural)?;
    let first = parts.next()?;
    Some((kind, parts.next().map_or_else(|| Key::new("", first), |name| Key::new(first, name))))
}

/// Nodes say again and again that they are there.
fn is_heartbeat(kind: Kind, before: Option<&Value>, after: Option<&Value>) -> bool {
    match (kind, before, after) {
        (Kind::Lease, ..) => true,
        (Kind::Node, Some(before), Some(after)) => before["spec"] == after["spec"],
        _ => false,
    }
}

/// What a reader of the log wants to know about an object.
fn summary(kind: Kind, object: &Value) -> String {
    let spec = &object["spec"];
    let status = &object["status"];
    let mut text = format!("r{}", meta::resource_version(object));
    if meta::is_terminating(object) {
        text += " terminating";
    }
    match kind {
        Kind::Pod => {
            let ready = crate::rules::is_ready(object);
            text += &format!(
                " on={} {}",
                spec["nodeName"].as_str().unwrap_or("-"),
                status["phase"].as_str().unwrap_or("-")
            );
            text += if ready { " ready" } else { "" };
            text += &format!(" {}", spec["containers"][0]["image"].as_str().unwrap_or("-"));
        }
        Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet => {
            text += &format!(
                " g{}/{} wants={} has={} updated={} ready={} available={}",
                meta::generation(object),
                status["observedGeneration"],
                spec["replicas"],
                status["replicas"],
                status["updatedReplicas"],
                status["readyReplicas"],
                status["availableReplicas"]
            );
        }
        Kind::DaemonSet => text += &format!(" {}/{}", status["numberReady"], status["desiredNumberScheduled"]),
        Kind::Job => {
            text += &format!(" active={} ok={} failed={}", status["active"], status["succeeded"], status["failed"])
        }
        Kind::Node => {
            let taints = meta::list_at(object, &["spec", "taints"]).iter().filter_map(|taint| taint["key"].as_str());
            text += &format!(" ready={} taints={:?}", crate::rules::is_ready(object), taints.collect::<Vec<_>>());
        }
        Kind::DisruptionBudget => text += &format!(" allowed={}", status["disruptionsAllowed"]),
        Kind::EndpointSlice => {
            let ready = meta::list_at(object, &["endpoints"]).iter().filter(|one| one["conditions"]["ready"] == true);
            text += &format!(" ready={}", ready.count());
        }
        _ => {}
    }
    text
}

impl Store for Ledger {
    fn revision(&self) -> Answer<'_, Revision> {
        self.0.store.revision()
    }

    fn range(&self, request: RangeRequest) -> Answer<'_, RangeReply> {
        self.0.store.range(request)
    }

    fn txn(&self, txn: Txn) -> Answer<'_, TxnReply> {
        Box::pin(async move {
            let reply: Result<TxnReply, StoreError> = self.0.store.txn(txn).await;
            if let Ok(reply) = &reply {
                self.note(reply);
            }
            reply
        })
    }

    fn watch(&self, request: WatchRequest) -> Answer<'_, Box<dyn Watch>> {
        self.0.store.watch(request)
    }

    fn compact(&self, revision: Revision) -> Answer<'_, ()> {
        self.0.store.compact(revision)
    }

    fn lease_grant(&self, id: LeaseId, ttl_secs: u64) -> Answer<'_, LeaseId> {
        self.0.store.lease_grant(id, ttl_secs)
    }

    fn lease_keep_alive(&self, id: LeaseId) -> Answer<'_, u64> {
        self.0.store.lease_keep_alive(id)
    }

    fn lease_revoke(&self, id: LeaseId) -> Answer<'_, ()> {
        self.0.store.lease_revoke(id)
    }
}
