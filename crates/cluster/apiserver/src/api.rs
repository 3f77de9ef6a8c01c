//! The heart: store, catalog, keys and rules in one place, and the steps that every write shares.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use resources::{Status, Value, decode};
use store::{KeyValue, Op, OpReply, Put, RangeRequest, Revision, Span, Store, StoreError, Test, Txn};

use crate::allocated::GUARD;
use crate::authn::Keys;
use crate::authz::Rbac;
use crate::catalog::{Catalog, Resource};
use crate::codec;

/// Largest request body, as upstream.
pub const BODY_BYTES_MAX: usize = 3 << 20;

pub struct Api {
    pub store: Arc<dyn Store>,
    catalog: RwLock<Arc<Catalog>>,
    pub rbac: Rbac,
    /// Webhooks.
    pub hooks: crate::admission::hooks::Current,
    /// Held while room in a quota is looked for and the object written that takes it.
    pub quota: Arc<tokio::sync::Mutex<()>>,
    pub keys: Keys,
    pub service_range: crate::services::Range,
    /// Addresses and ports of services.
    pub allocated: crate::allocated::Allocated,
    pub ready: AtomicBool,
    pub stopping: tokio_util::sync::CancellationToken,
    pub metrics: Metrics,
    pub openapi: crate::openapi::Cache,
    /// Who answers for the nodes, once there are any.
    pub nodes: std::sync::OnceLock<client::RemoteNodes>,
    pub usage: crate::usage::Usage,
    pub events_lease: tokio::sync::Mutex<Option<(store::LeaseId, tokio::time::Instant)>>,
    trees: Mutex<HashMap<Bytes, (u64, Arc<Value>)>>,
}

/// Trees kept of objects that admission asks for with every write: namespaces, service accounts, ranges, quotas.
const TREES_MAX: usize = 512;

/// Verb, resource, code; how often, and how long in sum.
pub type Answered = std::collections::BTreeMap<(String, String, u16), (u64, std::time::Duration)>;

/// Counters that `/metrics` shows.
#[derive(Default)]
pub struct Metrics {
    pub requests: AtomicU64,
    pub errors: AtomicU64,
    pub watches: AtomicU64,
    pub inflight: AtomicU64,
    /// Answered requests and the time they took, by verb, resource and code.
    pub answered: std::sync::Mutex<Answered>,
}

pub type Outcome<T> = Result<T, Status>;

/// The store's errors as clients see them.
pub fn store_error(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { asked, oldest } => {
            Status::expired(format!("too old resource version: {asked} ({oldest})"))
        }
        StoreError::Future { asked, current } => {
            let message = format!("Too large resource version: {asked}, current: {current}");
            let mut status =
                Status::new(504, "Timeout", message).cause("ResourceVersionTooLarge", "Too large resource version", "");
            status.retry_after_secs = 1;
            status
        }
        StoreError::TooLarge { limit, .. } => Status::too_large(limit),
        StoreError::Full { .. } | StoreError::Write { .. } | StoreError::Closed => {
            let mut status = Status::new(503, "ServiceUnavailable", format!("the store cannot write: {error}"));
            status.retry_after_secs = 1;
            status
        }
        // Away for a moment, as a rule: clients wait and ask again.
        StoreError::Unreachable { .. } => {
            let mut status = Status::new(503, "ServiceUnavailable", error.to_string());
            status.retry_after_secs = 1;
            status
        }
        error => Status::internal(error),
    }
}

impl Api {
    pub fn new(store: Arc<dyn Store>, keys: Keys, service_range: crate::services::Range) -> Arc<Self> {
        Arc::new(Self {
            store,
            catalog: RwLock::new(Arc::new(Catalog::builtin())),
            rbac: Rbac::default(),
            hooks: crate::admission::hooks::Current::default(),
            quota: Arc::default(),
            keys,
            service_range,
            allocated: crate::allocated::Allocated::default(),
            ready: AtomicBool::new(false),
            stopping: tokio_util::sync::CancellationToken::new(),
            metrics: Metrics::default(),
            openapi: crate::openapi::Cache::default(),
            nodes: std::sync::OnceLock::new(),
            usage: crate::usage::Usage::default(),
            events_lease: tokio::sync::Mutex::new(None),
            trees: Mutex::default(),
        })
    }

    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_catalog(&self, mut catalog: Catalog) {
        let mut place = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        catalog.serial = place.serial + 1;
        *place = Arc::new(catalog);
    }

    /// The resource in the preferred version; for our own use with names that exist.
    pub fn builtin(&self, group: &str, plural: &str) -> Arc<Resource> {
        let catalog = self.catalog();
        catalog.preferred(group, plural).unwrap_or_else(|| panic!("{plural}.{group} is built in")).clone()
    }

    pub async fn get_kv(&self, key: &str) -> Outcome<Option<KeyValue>> {
        let request = RangeRequest::newest(Span::key(key.to_owned()));
        let reply = self.store.range(request).await.map_err(store_error)?;
        Ok(reply.kvs.into_iter().next())
    }

    /// A stored object as a tree, with its revision.
    pub async fn get_object(&self, resource: &Resource, namespace: &str, name: &str) -> Outcome<Option<(Value, u64)>> {
        let found = self.get_kv(&resource.key(namespace, name)).await?;
        Ok(found.map(|kv| (codec::decode(&kv.value), kv.mod_revision)))
    }

    /// The tree of an object that many requests look at; made once for each of its revisions.
    fn shared_tree(&self, kv: &KeyValue) -> Arc<Value> {
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((revision, tree)) = trees.get(&kv.key)
            && *revision == kv.mod_revision
        {
            return tree.clone();
        }
        if trees.len() >= TREES_MAX {
            trees.clear();
        }
        let tree = Arc::new(codec::decode(&kv.value));
        trees.insert(kv.key.clone(), (kv.mod_revision, tree.clone()));
        tree
    }

    /// [`Self::get_object`] of something that many requests look at.
    pub async fn get_shared(&self, resource: &Resource, namespace: &str, name: &str) -> Outcome<Option<Arc<Value>>> {
        Ok(self.get_kv(&resource.key(namespace, name)).await?.map(|kv| self.shared_tree(&kv)))
    }

    /// [`Self::list_objects`] of something that many requests look at, and of which there is not much.
    pub async fn list_shared(&self, resource: &Resource, namespace: &str) -> Outcome<Vec<Arc<Value>>> {
        let span = Span::prefix(resource.collection(namespace));
        let reply = self.store.range(RangeRequest::newest(span)).await.map_err(store_error)?;
        Ok(reply.kvs.iter().map(|kv| self.shared_tree(kv)).collect())
    }

    /// All objects of a resource below a namespace (all namespaces when empty).
    pub async fn list_objects(&self, resource: &Resource, namespace: &str) -> Outcome<Vec<Value>> {
        let span = Span::prefix(resource.collection(namespace));
        let reply = self.store.range(RangeRequest::newest(span)).await.map_err(store_error)?;
        Ok(reply.kvs.iter().map(|kv| codec::decode(&kv.value)).collect())
    }

    /// Writes a new object; `Ok(None)` if there is one already. `present` are keys that must exist.
    pub async fn put_new(
        &self,
        key: &str,
        object: &Value,
        present: &[String],
        lease: u64,
        guard: Option<Revision>,
    ) -> Outcome<Created> {
        let encoded = codec::encode(object);
        let put = Put { key: key.to_owned().into(), value: encoded.bytes, lease, stamp_at: Some(encoded.stamp_at) };
        let mut txn =
            Txn::new().when(key.to_owned(), Test::Absent).then(Op::Put(put)).otherwise(Op::get(key.to_owned()));
        for key in present {
            txn = txn.when(key.clone(), Test::Exists).otherwise(Op::get(key.clone()));
        }
        let reply = self.store.txn(guarded(txn, guard)).await.map_err(store_error)?;
        let there = |reply: &OpReply| matches!(reply, OpReply::Get { kvs } if !kvs.is_empty());
        Ok(match reply.replies.as_slice() {
            [OpReply::Put { now, .. }, ..] => Created::Yes(now.value.clone()),
            [own, ..] if there(own) => Created::Exists,
            [_, others @ ..] if others.iter().all(there) => Created::Crowded,
            _ => Created::Orphan,
        })
    }

    /// Overwrites an object whose revision is still `revision`; `Ok(None)` if it is not.
    pub async fn put_over(&self, key: &str, object: &Value, revision: u64) -> Outcome<Option<Bytes>> {
        self.put_over_guarded(key, object, revision, None).await
    }

    /// [`Self::put_over`], which also fails if another server took addresses or ports after `guard`.
    pub async fn put_over_guarded(
        &self,
        key: &str,
        object: &Value,
        revision: u64,
        guard: Option<Revision>,
    ) -> Outcome<Option<Bytes>> {
        let encoded = codec::encode(object);
        let put = Put { key: key.to_owned().into(), value: encoded.bytes, lease: 0, stamp_at: Some(encoded.stamp_at) };
        let txn = Txn::new().when(key.to_owned(), Test::ModRevision(revision)).then(Op::Put(put));
        let reply = self.store.txn(guarded(txn, guard)).await.map_err(store_error)?;
        Ok(match reply.replies.into_iter().next() {
            Some(OpReply::Put { now, .. }) => Some(now.value),
            _ => None,
        })
    }

    /// Deletes an object whose revision is still `revision`; answers whether it did.
    pub async fn delete_at(&self, key: &str, revision: u64) -> Outcome<bool> {
        let txn = Txn::new().when(key.to_owned(), Test::ModRevision(revision)).then(Op::delete(key.to_owned()));
        Ok(self.store.txn(txn).await.map_err(store_error)?.succeeded)
    }

    /// Reads, changes and writes an object until nobody interferes. `change` answers false to leave it alone. Whether there is one.
    pub async fn modify(&self, key: &str, mut change: impl FnMut(&mut Value) -> bool) -> Outcome<bool> {
        loop {
            let Some(kv) = self.get_kv(key).await? else { return Ok(false) };
            let mut object = codec::decode(&kv.value);
            if !change(&mut object) || self.put_over(key, &object, kv.mod_revision).await?.is_some() {
                return Ok(true);
            }
        }
    }

    /// A lease of an hour or so for events, shared by those of some minutes.
    pub async fn event_lease(&self) -> Outcome<u64> {
        const EVENT_SECS: u64 = 3600;
        const SHARE_SECS: u64 = 300;
        let mut current = self.events_lease.lock().await;
        if let Some((id, until)) = *current
            && tokio::time::Instant::now() < until
        {
            return Ok(id);
        }
        let id = self.store.lease_grant(0, EVENT_SECS + SHARE_SECS).await.map_err(store_error)?;
        *current = Some((id, tokio::time::Instant::now() + std::time::Duration::from_secs(SHARE_SECS)));
        Ok(id)
    }
}

pub enum Created {
    Yes(Bytes),
    Exists,
    /// Something that had to be there (the namespace) is not.
    Orphan,
    /// Another server took addresses or ports meanwhile.
    Crowded,
}

/// The same write, which takes addresses or ports that were free at `guard`, when no server took any since.
fn guarded(txn: Txn, guard: Option<Revision>) -> Txn {
    let Some(revision) = guard else { return txn };
    txn.when(GUARD, Test::ModUntil(revision)).then(Op::put(GUARD, "{}"))
}

/// Now, as objects write it.
pub fn now() -> String {
    decode::format_time(client::now(), 0)
}

/// A random UUID, version 4.
pub fn new_uid() -> String {
    let mut bytes: [u8; 16] = random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 0x0f] {
            text.push(char::from_digit(u32::from(digit), 16).expect("four bits"));
        }
    }
    text
}

/// What follows a `generateName`: five letters and digits that spell no words.
pub fn name_suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let bytes: [u8; 5] = random();
    bytes.iter().map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()] as char).collect()
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if vocab::world::fill_simulated(&mut bytes) {
        return bytes;
    }
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's randomness is available");
    bytes
}
