//! Reads for parts of the same process: the items of a list and the changes of a watch, as they are stored.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use client::{Answer, EventSource, Happened, Told};
use resources::Status;
use store::{Change, RangeRequest, Watch, WatchRequest};

use super::Call;
use super::read::Selection;
use crate::api::{Api, Outcome, store_error};
use crate::catalog::Resource;

/// A running watch. A reader that is slow costs no memory.
pub struct Changes {
    api: Weak<Api>,
    watch: Box<dyn Watch>,
    resource: Arc<Resource>,
    selection: Selection,
}

impl EventSource for Changes {
    fn next(&mut self) -> Answer<'_, (Vec<Told>, u64)> {
        Box::pin(async move {
            loop {
                let batch = self.watch.next().await.map_err(store_error)?;
                let gone = || Status::new(503, "ServiceUnavailable", "the server has stopped");
                let api = self.api.upgrade().ok_or_else(gone)?;
                let seen = seen(&api, &batch.events, &self.selection, &self.resource).await?;
                let events: Vec<Told> = seen.into_iter().map(|(happened, object)| Told { happened, object }).collect();
                if !events.is_empty() {
                    return Ok((events, batch.through));
                }
            }
        })
    }
}

/// What a change means to a watcher, and the object to show: it can come into the selection and leave it.
fn judge(
    event: &store::Event,
    before: Option<&Bytes>,
    object: Bytes,
    selection: &Selection,
) -> Option<(Happened, Bytes)> {
    match event.change {
        Change::Put => {
            let before = before.is_some_and(|before| selection.matches(before));
            match (before, selection.matches(&object)) {
                (false, true) => Some((Happened::Added, object)),
                (true, true) => Some((Happened::Modified, object)),
                // What leaves is shown as it is now.
                (true, false) => Some((Happened::Deleted, object)),
                (false, false) => None,
            }
        }
        Change::Delete => selection.matches(&object).then_some((Happened::Deleted, object)),
    }
}

/// What changes mean to a watcher, in the version that it asked for.
pub(super) async fn seen(
    api: &Api,
    events: &[store::Event],
    selection: &Selection,
    resource: &Resource,
) -> Outcome<Vec<(Happened, Bytes)>> {
    let before = |event: &store::Event| match (event.change, &event.prev) {
        (Change::Put, Some(prev)) if !selection.is_empty() => Some(prev.value.clone()),
        _ => None,
    };
    let now = |event: &store::Event| match event.change {
        Change::Put => event.kv.value.clone(),
        Change::Delete => event.kv.restamped(event.revision),
    };
    let stored = events.iter().flat_map(|event| before(event).into_iter().chain([now(event)])).collect();
    let mut shown = crate::convert::show_all(api, stored, resource).await?.into_iter();
    let mut out = Vec::with_capacity(events.len());
    for event in events {
        // Without selectors everything that was there was seen.
        let old = before(event).and_then(|_| shown.next());
        let unseen = selection.is_empty().then(Bytes::new).filter(|_| event.prev.is_some());
        let Some(object) = shown.next() else { break };
        out.extend(judge(event, old.or(unseen).as_ref(), object, selection));
    }
    Ok(out)
}

impl Call {
    /// All objects that the request selects, in the version asked for, and the revision at which they stood so.
    pub(crate) async fn items(&mut self) -> Outcome<(Vec<Bytes>, u64)> {
        let selection = self.selection()?;
        let reply = self.api.store.range(RangeRequest::newest(self.span(&selection))).await.map_err(store_error)?;
        let mut items = self.shown(reply.kvs.into_iter().map(|kv| kv.value).collect()).await?;
        items.retain(|shown| selection.matches(shown));
        Ok((items, reply.revision))
    }

    pub(crate) async fn events(&mut self, after: u64) -> Outcome<client::Events> {
        let selection = self.selection()?;
        let request = WatchRequest { span: self.span(&selection), start: after + 1 };
        let watch = self.api.store.watch(request).await.map_err(store_error)?;
        self.api.metrics.watches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (api, resource) = (Arc::downgrade(&self.api), self.resource.clone());
        Ok(client::Events::new(Changes { api, watch, resource, selection }))
    }
}
