//! ConfigMaps and Secrets that pods of this node refer to: read once, then followed, each by a watch of its own, for as long as a
//! pod refers to it. A change wakes those pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cache::Kind;
use client::{Client, Happened, Selectors};
use resources::{Status, Value};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// After a watch broke off or could not be begun.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    kind: Kind,
    namespace: String,
    name: String,
}

struct Entry {
    /// `None`: there is no such object.
    object: Option<Arc<Value>>,
    users: BTreeMap<String, Arc<Notify>>,
    watching: AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

#[derive(Clone)]
pub struct Objects {
    api: Client,
    entries: Arc<Mutex<BTreeMap<Place, Entry>>>,
}

impl Objects {
    pub fn new(api: Client) -> Self {
        Self { api, entries: Arc::default() }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<Place, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object as last heard of; from now on the pod `uid` is woken when it changes.
    pub async fn get(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        uid: &str,
        wake: &Arc<Notify>,
    ) -> Result<Option<Arc<Value>>, Status> {
        let place = Place { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        if let Some(entry) = self.entries().get_mut(&place) {
            entry.users.insert(uid.to_owned(), wake.clone());
            return Ok(entry.object.clone());
        }
        let (object, revision) = self.look(&place).await?;
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(&place) {
            // Somebody else was as quick.
            entry.users.insert(uid.to_owned(), wake.clone());
            return Ok(entry.object.clone());
        }
        let watching = tokio::spawn(self.clone().follow(place.clone(), revision)).abort_handle();
        let users = BTreeMap::from([(uid.to_owned(), wake.clone())]);
        entries.insert(place, Entry { object: object.clone(), users, watching });
        Ok(object)
    }

    /// The pod refers to these and nothing else any more.
    pub fn keep(&self, uid: &str, kept: &BTreeSet<(Kind, String)>) {
        self.entries().retain(|place, entry| {
            if !kept.contains(&(place.kind, place.name.clone())) {
                entry.users.remove(uid);
            }
            !entry.users.is_empty()
        });
    }

    async fn look(&self, place: &Place) -> Result<(Option<Arc<Value>>, u64), Status> {
        let list = self.api.list(&place.kind.gvr(), &place.namespace, &selector(&place.name)).await?;
        let mut object = list.items.into_iter().next();
        if let Some(object) = &mut object {
            object["kind"] = place.kind.as_str().into();
        }
        Ok((object.map(Arc::new), list.revision))
    }

    async fn follow(self, place: Place, revision: u64) {
        let mut revision = revision;
        loop {
            let watched = self.api.watch(&place.kind.gvr(), &place.namespace, &selector(&place.name), revision).await;
            if let Ok(mut events) = watched {
                while let Ok((batch, at)) = events.next().await {
                    revision = at.max(revision);
                    for event in batch {
                        let mut object = event.object;
                        object["kind"] = place.kind.as_str().into();
                        let now = (event.happened != Happened::Deleted).then(|| Arc::new(object));
                        self.set(&place, now);
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
            // Whatever was missed meanwhile.
            if let Ok((object, at)) = self.look(&place).await {
                revision = at;
                self.set(&place, object);
            }
        }
    }

    fn set(&self, place: &Place, object: Option<Arc<Value>>) {
        if let Some(entry) = self.entries().get_mut(place)
            && entry.object != object
        {
            entry.object = object;
            entry.users.values().for_each(|wake| wake.notify_one());
        }
    }
}

fn selector(name: &str) -> Selectors {
    Selectors { fields: format!("metadata.name={name}"), ..Selectors::default() }
}
