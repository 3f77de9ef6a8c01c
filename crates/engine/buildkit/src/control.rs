//! The control service, except the solve itself: status, workers, usage, pruning, the history's door.

use std::sync::Arc;

use build::{CacheEntry, CacheFilter, CacheKind, PrunePolicy};
use bytes::BytesMut;
use futures_util::{Stream, StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Status;

use crate::caps;
use crate::errors::status_of;
use crate::files::FolderFacts;
use crate::filter::Filters;
use crate::kit::Kit;
use crate::progress::Progress;
use crate::session::SessionOffer;
use crate::wire::control::{
    DiskUsageRequest, DiskUsageResponse, HistoryEvent, HistoryRequest, InfoResponse, ListWorkersResponse, PruneRequest,
    StatusRequest, StatusResponse, UpdateHistoryRequest, UsageRecord,
};
use crate::wire::rpc::Empty;
use crate::wire::session as wire;

/// Bytes of a session that are under way before either side waits.
const SESSION_BYTES: usize = 256 << 10;

pub(crate) fn workers(kit: &Kit) -> ListWorkersResponse {
    ListWorkersResponse { record: vec![caps::worker(kit)] }
}

pub(crate) fn info() -> InfoResponse {
    InfoResponse { version: Some(caps::version()) }
}

/// Everything that a build tells, from its beginning; of one that is over, what the history kept.
pub(crate) fn status(kit: Kit, request: StatusRequest) -> impl Stream<Item = Result<StatusResponse, Status>> + Send {
    stream::once(async move {
        let reference = request.reference;
        if kit.solves.progress_now(&reference).is_none()
            && let Some(messages) = kit.history.messages(&reference).await?
        {
            return Ok(stream::iter(messages.into_iter().map(Ok)).boxed());
        }
        match kit.solves.progress(&reference).await {
            Ok(progress) => Ok(follow(progress).boxed()),
            // It may have come and gone meanwhile.
            Err(status) => match kit.history.messages(&reference).await? {
                Some(messages) => Ok(stream::iter(messages.into_iter().map(Ok)).boxed()),
                None => Err(status),
            },
        }
    })
    .flat_map(|opened: Result<_, Status>| match opened {
        Ok(messages) => messages,
        Err(status) => stream::once(async { Err(status) }).boxed(),
    })
}

fn follow(progress: Arc<Progress>) -> impl Stream<Item = Result<StatusResponse, Status>> + Send {
    stream::unfold((progress, 0), |(progress, heard)| async move {
        let message = progress.next(heard).await?;
        Some((Ok(StatusResponse::clone(&message)), (progress, heard + 1)))
    })
}

pub(crate) async fn disk_usage(kit: Kit, request: DiskUsageRequest) -> Result<DiskUsageResponse, Status> {
    let filters = Filters::parse(&request.filter).map_err(Status::invalid_argument)?;
    let since = (request.age_limit > 0).then(|| Timestamp::now() - SignedDuration::from_nanos(request.age_limit));
    let mut record = usage(&kit).await?;
    record.retain(|r| filters.matches(r));
    if let Some(since) = since {
        record.retain(|r| r.last_used_at.and_then(|t| t.timestamp()).is_none_or(|at| at < since));
    }
    Ok(DiskUsageResponse { record })
}

async fn usage(kit: &Kit) -> Result<Vec<UsageRecord>, Status> {
    let entries = kit.builder.usage().await.map_err(|error| status_of(&error, None))?;
    let mut records: Vec<UsageRecord> = entries.iter().map(of_entry).collect();
    records.extend(listed(kit).await?.iter().map(of_folder));
    Ok(records)
}

fn of_entry(entry: &CacheEntry) -> UsageRecord {
    UsageRecord {
        id: entry.key.clone(),
        mutable: entry.kind == CacheKind::Mount,
        in_use: entry.in_use,
        size: entry.record.bytes as i64,
        created_at: Some(entry.record.created_at.into()),
        last_used_at: Some(entry.record.last_used_at.into()),
        usage_count: entry.record.uses as i64,
        description: entry.record.description.clone(),
        record_type: entry.kind.name().into(),
        shared: entry.shared,
        parents: entry.parent.iter().map(ToString::to_string).collect(),
    }
}

fn of_folder(folder: &FolderFacts) -> UsageRecord {
    UsageRecord {
        id: folder.name.clone(),
        mutable: true,
        in_use: folder.in_use,
        size: folder.bytes as i64,
        created_at: Some(folder.created_at.into()),
        last_used_at: Some(folder.last_used_at.into()),
        usage_count: folder.uses as i64,
        description: folder.description.clone(),
        record_type: "source.local".into(),
        shared: false,
        parents: Vec::new(),
    }
}

/// Removes what is not to be kept and tells each record that went.
pub(crate) fn prune(kit: Kit, request: PruneRequest) -> impl Stream<Item = Result<UsageRecord, Status>> + Send {
    stream::once(async move { removed(kit, request).await }).flat_map(|removed| match removed {
        Ok(records) => stream::iter(records.into_iter().map(Ok)).boxed(),
        Err(status) => stream::once(async { Err(status) }).boxed(),
    })
}

async fn removed(kit: Kit, request: PruneRequest) -> Result<Vec<UsageRecord>, Status> {
    kit.results.forget();
    if request.min_free_space > 0 {
        return Err(Status::unimplemented("pruning up to a minimum of free space is not supported"));
    }
    let filters = Filters::parse(&request.filter).map_err(Status::invalid_argument)?;
    let since =
        (request.keep_duration > 0).then(|| Timestamp::now() - SignedDuration::from_nanos(request.keep_duration));
    let keep = [request.max_used_space, request.reserved_space].into_iter().filter(|bytes| *bytes > 0).max();
    let mut records = match keep {
        None => removed_folders(&kit, &filters, since).await?,
        // Contexts are small beside layers and save more time than room.
        Some(_) => Vec::new(),
    };
    let mut policy = PrunePolicy {
        all: request.all,
        keep_bytes: keep.map(|bytes| bytes as u64),
        unused_since: since,
        filter: CacheFilter::default(),
    };
    if !filters.is_empty() {
        let entries = kit.builder.usage().await.map_err(|error| status_of(&error, None))?;
        let wanted = entries.iter().filter(|entry| filters.matches(&of_entry(entry)));
        policy.filter.ids = wanted.map(|entry| entry.key.clone()).collect();
        if policy.filter.ids.is_empty() {
            return Ok(records);
        }
    }
    let gone = kit.builder.prune(policy).await.map_err(|error| status_of(&error, None))?;
    records.extend(gone.iter().map(of_entry));
    Ok(records)
}

/// They are fetched again at no cost but time.
async fn removed_folders(kit: &Kit, filters: &Filters, since: Option<Timestamp>) -> Result<Vec<UsageRecord>, Status> {
    let mut gone = Vec::new();
    for facts in listed(kit).await? {
        let record = of_folder(&facts);
        let old = since.is_none_or(|since| facts.last_used_at < since);
        if facts.in_use || !old || !filters.matches(&record) {
            continue;
        }
        let folders = kit.folders.clone();
        let removed = tokio::task::spawn_blocking(move || folders.remove(&facts.name)).await;
        let removed = removed.map_err(|error| Status::internal(error.to_string()))?;
        if removed.map_err(|error| Status::unknown(error.to_string()))? {
            gone.push(record);
        }
    }
    Ok(gone)
}

async fn listed(kit: &Kit) -> Result<Vec<FolderFacts>, Status> {
    let folders = kit.folders.clone();
    let listed = tokio::task::spawn_blocking(move || folders.list()).await;
    listed.map_err(|e| Status::internal(e.to_string()))?.map_err(|e| Status::unknown(e.to_string()))
}

/// A session inside a stream of this very connection, where the client has no other way to open one.
pub(crate) async fn session(
    kit: Kit,
    offer: SessionOffer,
    mut pieces: tonic::Streaming<wire::Bytes>,
) -> Result<impl Stream<Item = Result<wire::Bytes, Status>> + Send, Status> {
    let (ours, theirs) = tokio::io::duplex(SESSION_BYTES);
    let (read, mut write) = tokio::io::split(theirs);
    tokio::spawn(async move { kit.serve_session(offer, ours).await });
    tokio::spawn(async move {
        while let Some(Ok(piece)) = pieces.next().await {
            if write.write_all(&piece.data).await.is_err() {
                return;
            }
        }
        // The client has closed its side: so does what reads ours.
        let _ = write.shutdown().await;
    });
    Ok(stream::unfold(read, |mut read| async move {
        let mut data = BytesMut::with_capacity(32 << 10);
        match read.read_buf(&mut data).await {
            Ok(count) if count > 0 => Some((Ok(wire::Bytes { data: data.freeze() }), read)),
            _ => None,
        }
    }))
}

pub(crate) fn listen_history(
    kit: Kit,
    request: HistoryRequest,
) -> impl Stream<Item = Result<HistoryEvent, Status>> + Send {
    stream::once(async move {
        let filters = Filters::parse(&request.filter).map_err(Status::invalid_argument)?;
        crate::history::listen(&kit, request, filters).await
    })
    .flat_map(|opened| match opened {
        Ok(events) => events,
        Err(status) => stream::once(async { Err(status) }).boxed(),
    })
}

pub(crate) async fn update_history(kit: Kit, request: UpdateHistoryRequest) -> Result<Empty, Status> {
    kit.history.update(&request).await?;
    Ok(Empty {})
}
