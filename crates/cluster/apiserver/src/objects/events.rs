//! Reads for parts of the same process: the items of a list and the changes of a watch, as values.

use std::sync::Arc;

use bytes::Bytes;
use resources::Value;
use store::{Change, RangeRequest, Watch, WatchRequest};

use super::Call;
use super::read::Selection;
use crate::api::{Outcome, store_error};
use crate::catalog::Resource;
use crate::codec;

/// What happened to an object, as a watcher with selectors sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    Added,
    Modified,
    Deleted,
}

impl Happened {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub happened: Happened,
    pub object: Value,
}

/// A running watch. A reader that is slow costs no memory; dropping it ends it.
pub struct Events {
    watch: Box<dyn Watch>,
    resource: Arc<Resource>,
    selection: Selection,
}

impl Events {
    /// Waits for the next changes; answers them with the revision up to which nothing was missed. Fails with 410 when
    /// the reader fell too far behind: list again. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Outcome<(Vec<Event>, u64)> {
        loop {
            let batch = self.watch.next().await.map_err(store_error)?;
            let seen = batch.events.iter().filter_map(|event| judge(event, &self.selection, &self.resource));
            let events: Vec<Event> =
                seen.map(|(happened, bytes)| Event { happened, object: codec::decode(&bytes) }).collect();
            if !events.is_empty() {
                return Ok((events, batch.through));
            }
        }
    }
}

/// What a change means to a watcher, and the object to show: it can come into the selection and leave it.
pub(super) fn judge(event: &store::Event, selection: &Selection, resource: &Resource) -> Option<(Happened, Bytes)> {
    let shown = |stored: &Bytes| crate::convert::to_version(stored, resource);
    match event.change {
        Change::Put => {
            let object = shown(&event.kv.value);
            let before = event.prev.as_ref().is_some_and(|prev| selection.matches(&shown(&prev.value)));
            match (before, selection.matches(&object)) {
                (false, true) => Some((Happened::Added, object)),
                (true, true) => Some((Happened::Modified, object)),
                // What leaves is shown as it is now.
                (true, false) => Some((Happened::Deleted, object)),
                (false, false) => None,
            }
        }
        Change::Delete => {
            let matched = selection.matches(&shown(&event.kv.value));
            matched.then(|| (Happened::Deleted, shown(&event.kv.restamped(event.revision))))
        }
    }
}

impl Call {
    /// All objects that the request selects, in the version asked for, and the revision at which they stood so.
    pub(crate) async fn items(&mut self) -> Outcome<(Vec<Bytes>, u64)> {
        let selection = self.selection()?;
        let reply = self.api.store.range(RangeRequest::newest(self.span(&selection))).await.map_err(store_error)?;
        let items = reply.kvs.iter().map(|kv| self.shown(&kv.value)).filter(|shown| selection.matches(shown));
        Ok((items.collect(), reply.revision))
    }

    pub(crate) async fn events(&mut self, after: u64) -> Outcome<Events> {
        let selection = self.selection()?;
        let request = WatchRequest { span: self.span(&selection), start: after + 1 };
        let watch = self.api.store.watch(request).await.map_err(store_error)?;
        self.api.metrics.watches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Events { watch, resource: self.resource.clone(), selection })
    }
}
