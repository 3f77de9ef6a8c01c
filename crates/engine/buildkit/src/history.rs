//! Builds that are over: what was asked, how it ended, and all that was told. Two files a build: `REF.record`, `REF.log`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use jiff::{SignedDuration, Timestamp};
use prost::Message;
use tokio::sync::broadcast;
use tonic::Status;

use crate::filter::Filters;
use crate::kit::Kit;
use crate::solve::{Solve, error_of};
use crate::wire::control::{
    HistoryEvent, HistoryEventKind, HistoryRecord, HistoryRequest, SolveResponse, StatusResponse, UpdateHistoryRequest,
};

/// Builds that are remembered, and for how long, unless they are pinned: as BuildKit has it.
const RECORDS_MAX: usize = 50;
const AGE_MAX: Duration = Duration::from_secs(48 * 3600);
/// Bytes of one build's log on disk.
const LOG_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug)]
pub(crate) struct History {
    root: PathBuf,
    records: Mutex<HashMap<String, HistoryRecord>>,
    events: broadcast::Sender<HistoryEvent>,
}

impl History {
    /// Reads what earlier engines left. Blocking.
    pub(crate) fn open(root: PathBuf) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        let mut records = HashMap::new();
        for entry in std::fs::read_dir(&root)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "record")
                && let Ok(record) = HistoryRecord::decode(std::fs::read(&path)?.as_slice())
            {
                records.insert(record.reference.clone(), record);
            }
        }
        Ok(Self { root, records: Mutex::new(records), events: broadcast::channel(64).0 })
    }

    pub(crate) fn started(&self, solve: &Solve) {
        self.tell(HistoryEventKind::Started, running(solve));
    }

    pub(crate) async fn finished(self: &Arc<Self>, solve: &Solve, result: &Result<SolveResponse, Status>) {
        let mut record = running(solve);
        record.completed_at = Some(Timestamp::now().into());
        record.error = error_of(result);
        if let Ok(response) = result {
            record.exporter_response = response.exporter_response.clone();
        }
        let messages = solve.progress.messages();
        let this = self.clone();
        let kept = tokio::task::spawn_blocking(move || this.keep(record, &messages)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(build = solve.reference, %error, "a build is not in the history");
        }
    }

    fn keep(&self, record: HistoryRecord, messages: &[Arc<StatusResponse>]) -> std::io::Result<()> {
        let mut log = Vec::new();
        for message in messages {
            message.encode_length_delimited(&mut log).map_err(std::io::Error::other)?;
        }
        self.write(&record.reference, "log", &log)?;
        self.write(&record.reference, "record", &record.encode_to_vec())?;
        let unwanted = {
            let mut records = self.records.lock().unwrap_or_else(|e| e.into_inner());
            records.insert(record.reference.clone(), record.clone());
            unwanted(records.values(), Timestamp::now())
        };
        self.tell(HistoryEventKind::Complete, record);
        for reference in unwanted {
            self.remove(&reference)?;
        }
        Ok(())
    }

    fn write(&self, reference: &str, kind: &str, bytes: &[u8]) -> std::io::Result<()> {
        let draft = self.root.join(format!("{reference}.{kind}.new"));
        std::fs::write(&draft, bytes)?;
        std::fs::rename(&draft, self.path(reference, kind))
    }

    fn path(&self, reference: &str, kind: &str) -> PathBuf {
        self.root.join(format!("{reference}.{kind}"))
    }

    fn remove(&self, reference: &str) -> std::io::Result<()> {
        let record = self.records.lock().unwrap_or_else(|e| e.into_inner()).remove(reference);
        let Some(record) = record else { return Ok(()) };
        for kind in ["record", "log"] {
            match std::fs::remove_file(self.path(reference, kind)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.tell(HistoryEventKind::Deleted, record);
        Ok(())
    }

    fn tell(&self, kind: HistoryEventKind, record: HistoryRecord) {
        // Nobody listening is fine.
        let _ = self.events.send(HistoryEvent { kind: kind as i32, record: Some(record) });
    }

    fn record(&self, reference: &str) -> Option<HistoryRecord> {
        self.records.lock().unwrap_or_else(|e| e.into_inner()).get(reference).cloned()
    }

    /// What a finished build told; `None` if there is none of that name.
    pub(crate) async fn messages(&self, reference: &str) -> Result<Option<Vec<StatusResponse>>, Status> {
        if self.record(reference).is_none() {
            return Ok(None);
        }
        let path = self.path(reference, "log");
        let read = tokio::task::spawn_blocking(move || read_log(&path)).await;
        let read = read.map_err(|error| Status::internal(error.to_string()))?;
        read.map(Some).map_err(|error| Status::unknown(format!("read the log of build {reference}: {error}")))
    }

    pub(crate) async fn update(self: &Arc<Self>, request: &UpdateHistoryRequest) -> Result<(), Status> {
        let mut record = self
            .record(&request.reference)
            .ok_or_else(|| Status::not_found(format!("failed to retrieve record {}: not found", request.reference)))?;
        let (this, request) = (self.clone(), request.clone());
        let done = tokio::task::spawn_blocking(move || {
            if request.delete {
                return this.remove(&request.reference);
            }
            if !request.finalize && record.pinned != request.pinned {
                record.pinned = request.pinned;
                record.generation += 1;
                this.write(&request.reference, "record", &record.encode_to_vec())?;
                let mut records = this.records.lock().unwrap_or_else(|e| e.into_inner());
                records.insert(request.reference.clone(), record);
            }
            Ok(())
        });
        let done = done.await.map_err(|error| Status::internal(error.to_string()))?;
        done.map_err(|error| Status::unknown(format!("update the history: {error}")))
    }
}

fn read_log(path: &Path) -> std::io::Result<Vec<StatusResponse>> {
    if std::fs::metadata(path)?.len() > LOG_BYTES_MAX {
        return Err(std::io::Error::other("it is too large"));
    }
    let bytes = std::fs::read(path)?;
    let mut bytes = bytes.as_slice();
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        messages.push(StatusResponse::decode_length_delimited(&mut bytes).map_err(std::io::Error::other)?);
    }
    Ok(messages)
}

/// A build as far as it is.
fn running(solve: &Solve) -> HistoryRecord {
    let request = &solve.request;
    let steps = solve.progress.steps();
    let (frontend, frontend_attrs) = solve.frontend();
    HistoryRecord {
        reference: solve.reference.clone(),
        frontend,
        frontend_attrs,
        exporters: request.exporters.clone(),
        created_at: Some(solve.created_at.into()),
        generation: 1,
        total_steps: steps.total as i32,
        completed_steps: steps.completed as i32,
        cached_steps: steps.cached as i32,
        warnings: steps.warnings as i32,
        ..HistoryRecord::default()
    }
}

/// The builds to be forgotten: too old ones, then the oldest of too many.
fn unwanted<'r>(records: impl Iterator<Item = &'r HistoryRecord>, now: Timestamp) -> Vec<String> {
    let created = |r: &HistoryRecord| r.created_at.and_then(|t| t.timestamp()).unwrap_or_default();
    let limit = now - SignedDuration::try_from(AGE_MAX).unwrap_or_default();
    let mut loose: Vec<&HistoryRecord> = records.filter(|r| !r.pinned).collect();
    loose.sort_by_key(|r| std::cmp::Reverse(created(r)));
    let old = |(at, record): &(usize, &&HistoryRecord)| *at >= RECORDS_MAX || created(record) < limit;
    loose.iter().enumerate().filter(old).map(|(_, record)| record.reference.clone()).collect()
}

/// Builds that are known, then, unless the client only wants those, what happens to builds from now on.
pub(crate) async fn listen(
    kit: &Kit,
    request: HistoryRequest,
    filters: Filters,
) -> Result<BoxStream<'static, Result<HistoryEvent, Status>>, Status> {
    // Subscribed before the look, so that nothing falls in between.
    let events = kit.history.events.subscribe();
    let mut known = Vec::new();
    for solve in kit.solves.all().iter().filter(|solve| !solve.request.internal) {
        known.push((HistoryEventKind::Started, running(solve)));
    }
    if !request.active_only {
        let records = kit.history.records.lock().unwrap_or_else(|e| e.into_inner());
        known.extend(records.values().map(|record| (HistoryEventKind::Complete, record.clone())));
    }
    let named = request.reference.clone();
    let wanted = move |record: &HistoryRecord| named.is_empty() || record.reference == named;
    known.retain(|(_, record)| wanted(record) && filters.matches(record));
    known.sort_by_key(|(_, record)| std::cmp::Reverse(record.created_at.map(|t| (t.seconds, t.nanos))));
    known.dedup_by(|a, b| a.1.reference == b.1.reference);
    if request.limit > 0 {
        known.truncate(request.limit as usize);
    }
    if known.is_empty() && !request.reference.is_empty() && request.early_exit {
        return Err(Status::not_found(format!("no build record found for {}", request.reference)));
    }
    let first = stream::iter(
        known.into_iter().map(|(kind, record)| Ok(HistoryEvent { kind: kind as i32, record: Some(record) })),
    );
    if request.early_exit {
        return Ok(first.boxed());
    }
    let later = stream::unfold(events, |mut events| async move {
        loop {
            match events.recv().await {
                Ok(event) => return Some((Ok(event), events)),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    })
    .filter(move |event: &Result<HistoryEvent, Status>| {
        let record = event.as_ref().ok().and_then(|event| event.record.as_ref());
        std::future::ready(record.is_some_and(&wanted))
    });
    Ok(first.chain(later).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_builds_are_forgotten_and_pinned_ones_are_not() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().expect("a time");
        let record = |name: &str, hours: i64, pinned| HistoryRecord {
            reference: name.into(),
            created_at: Some((now - SignedDuration::from_hours(hours)).into()),
            pinned,
            ..HistoryRecord::default()
        };
        let records = [record("new", 1, false), record("old", 49, false), record("kept", 490, true)];
        assert_eq!(unwanted(records.iter(), now), ["old"]);
        let many: Vec<HistoryRecord> = (0..52).map(|n| record(&n.to_string(), 0, false)).collect();
        assert_eq!(unwanted(many.iter(), now).len(), 2);
    }
}
