//! Watches: a cursor over the store's history. The reader pulls, so a slow one costs no memory; one that falls behind
//! compaction learns it by an error.

use crate::{Answer, KeyValue, Revision, Span};

#[derive(Debug, Clone)]
pub struct WatchRequest {
    pub span: Span,
    /// The first revision whose changes are wanted; 0 is "whatever comes next".
    pub start: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Put,
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub change: Change,
    pub revision: Revision,
    /// For a delete the key as it was before (its `mod_revision` is that of the last put).
    pub kv: KeyValue,
    /// For a put, the key as it was before, if it existed and is still kept.
    pub prev: Option<KeyValue>,
}

/// All changes of the span up to and including `through`; the events may be none, which makes it a progress
/// notification: the watcher has missed nothing up to that revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    pub events: Vec<Event>,
    pub through: Revision,
}

pub trait Watch: Send {
    /// Waits for changes of the span. A revision's changes are never split over two batches.
    /// Dropping the future loses nothing: the next call answers the same.
    fn next(&mut self) -> Answer<'_, WatchBatch>;

    /// What there is now, without waiting for a change: asks for progress.
    fn poll(&mut self) -> Answer<'_, WatchBatch>;
}
