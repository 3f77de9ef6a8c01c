//! Watches: what is there first (if asked), then changes as they come, with bookmarks between.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response};
use resources::{Status, Value, proto};
use serde_json::json;
use std::sync::Arc;
use store::{Event, RangeRequest, Watch, WatchRequest};
use tokio::sync::mpsc;

use super::Call;
use super::read::Selection;
use crate::api::{Api, Outcome, store_error};
use crate::catalog::Resource;
use crate::codec;
use crate::respond::{self, As, Format, Wanted};
use client::Body;

/// Time between bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Batches waiting for a slow client; the store keeps the rest.
const WAITING_MAX: usize = 8;
/// Longest watch without a timeout of its own, as upstream: between half an hour and an hour.
const TIMEOUT_SECS_MIN: u64 = 1800;

struct Stream {
    api: Arc<Api>,
    resource: Arc<Resource>,
    selection: Selection,
    wanted: Wanted,
    include: String,
    bookmarks: bool,
    out: mpsc::Sender<Bytes>,
}

impl Call {
    pub(super) async fn watch(&mut self) -> Outcome<Response<Body>> {
        let selection = self.selection()?;
        let span = self.span(&selection);
        let asked = self.resource_version()?;
        let bookmarks = self.query.flag("allowWatchBookmarks")?;
        let streaming = self.query.has("sendInitialEvents");
        let initial = self.query.flag("sendInitialEvents")?;
        let matching = self.query.get("resourceVersionMatch");
        if streaming && matching != "NotOlderThan" {
            let error = resources::FieldError::forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &[error]));
        }
        if !streaming && !matching.is_empty() {
            let error = resources::FieldError::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &[error]));
        }
        let random: [u8; 2] = crate::api::random();
        let limit = self.query.number("timeoutSeconds")?.filter(|secs| *secs > 0);
        let timeout = limit.unwrap_or(TIMEOUT_SECS_MIN + u64::from(u16::from_le_bytes(random)) % TIMEOUT_SECS_MIN);

        // Without a version, or with 0, the client wants to begin with what is there.
        let begin_with_state = if streaming { initial } else { matches!(asked, None | Some(0)) };
        let mut state = Vec::new();
        let start = if begin_with_state {
            if let Some(version) = asked.filter(|version| *version != 0) {
                self.wait_for(version).await?;
            }
            let reply = self.api.store.range(RangeRequest::newest(span.clone())).await.map_err(store_error)?;
            state = reply.kvs;
            reply.revision
        } else {
            match asked {
                Some(version) if version != 0 => version,
                _ => self.api.store.revision().await.map_err(store_error)?,
            }
        };
        let watch = self.api.store.watch(WatchRequest { span, start: start + 1 }).await;
        let (out, events) = mpsc::channel(WAITING_MAX);
        let stream = Stream {
            api: self.api.clone(),
            resource: self.resource.clone(),
            selection,
            wanted: self.wanted,
            include: self.query.get("includeObject").to_owned(),
            bookmarks,
            out,
        };
        let announce = streaming && initial && bookmarks;
        let stopping = self.api.stopping.clone();
        match watch {
            Err(error) => {
                // Watchers learn of a version that is gone by an event, as upstream's cache answers them.
                let status = store_error(error);
                tokio::spawn(async move { stream.fail(&status).await });
            }
            Ok(watch) => {
                let run = async move {
                    let work = async {
                        let mut pending = BytesMut::new();
                        let state = state.into_iter().map(|kv| kv.value).collect();
                        let state = match crate::convert::show_all(&stream.api, state, &stream.resource).await {
                            Ok(state) => state,
                            Err(status) => return stream.fail(&status).await,
                        };
                        for shown in state {
                            if stream.selection.matches(&shown) {
                                stream.encode("ADDED", &shown, &mut pending);
                            }
                            if pending.len() > 64 << 10 && stream.out.send(pending.split().freeze()).await.is_err() {
                                return;
                            }
                        }
                        if announce {
                            stream.bookmark(start, true, &mut pending);
                        }
                        if !pending.is_empty() && stream.out.send(pending.freeze()).await.is_err() {
                            return;
                        }
                        stream.follow(watch, Duration::from_secs(timeout)).await;
                    };
                    tokio::select! {
                        () = work => {}
                        () = stream.out.closed() => {}
                        () = stopping.cancelled() => {}
                    }
                };
                self.api.metrics.watches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::spawn(run);
            }
        }
        let mut response = Response::new(Body::Stream(events));
        let kind = match self.wanted.format {
            Format::Proto => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        };
        response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
        response.headers_mut().insert("cache-control", HeaderValue::from_static("no-cache, private"));
        Ok(response)
    }
}

impl Stream {
    async fn follow(&self, mut watch: Box<dyn Watch>, timeout: Duration) {
        let end = tokio::time::Instant::now() + timeout;
        let mut next_bookmark = tokio::time::Instant::now() + BOOKMARK_EVERY;
        loop {
            let wake = end.min(next_bookmark);
            let batch = tokio::time::timeout_at(wake, watch.next()).await;
            let mut pending = BytesMut::new();
            match batch {
                Ok(Ok(batch)) => match self.events(&batch.events, &mut pending).await {
                    Ok(()) => {}
                    Err(status) => return self.fail(&status).await,
                },
                Ok(Err(error)) => return self.fail(&store_error(error)).await,
                Err(_) => {
                    next_bookmark = tokio::time::Instant::now() + BOOKMARK_EVERY;
                    match watch.poll().await {
                        Ok(batch) => {
                            if let Err(status) = self.events(&batch.events, &mut pending).await {
                                return self.fail(&status).await;
                            }
                            if self.bookmarks {
                                self.bookmark(batch.through, false, &mut pending);
                            }
                        }
                        Err(error) => return self.fail(&store_error(error)).await,
                    }
                }
            }
            if !pending.is_empty() && self.out.send(pending.freeze()).await.is_err() {
                return;
            }
            if tokio::time::Instant::now() >= end {
                return;
            }
        }
    }

    async fn events(&self, events: &[Event], out: &mut BytesMut) -> Outcome<()> {
        for (happened, shown) in super::events::seen(&self.api, events, &self.selection, &self.resource).await? {
            self.encode(happened.as_str(), &shown, out);
        }
        Ok(())
    }

    fn encode(&self, kind: &str, shown: &Bytes, out: &mut BytesMut) {
        if self.wanted.format == Format::Proto {
            let whole = match self.wanted.form {
                As::Metadata => Bytes::from(respond::partial(&codec::decode(shown)).to_string()),
                _ => shown.clone(),
            };
            return frame(kind, &whole, out);
        }
        out.put_slice(b"{\"type\":\"");
        out.put_slice(kind.as_bytes());
        out.put_slice(b"\",\"object\":");
        match self.wanted.form {
            As::Object => out.put_slice(shown),
            As::Metadata => put_value(out, &respond::partial(&codec::decode(shown))),
            As::Table => {
                let object = codec::decode(shown);
                let version = resources::meta::resource_version(&object).to_owned();
                let rows = vec![respond::row(&self.resource, &object, &self.include)];
                put_value(out, &respond::table_value(&self.resource, rows, json!({"resourceVersion": version})));
            }
        }
        out.put_slice(b"}\n");
    }

    fn bookmark(&self, revision: u64, initial_end: bool, out: &mut BytesMut) {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if self.wanted.format != Format::Proto {
            metadata["creationTimestamp"] = Value::Null;
        }
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.wanted.form {
            As::Table => respond::table_value(&self.resource, Vec::new(), metadata),
            As::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            As::Object => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
        };
        self.special("BOOKMARK", object, out);
    }

    /// An event that carries no object of the resource.
    fn special(&self, kind: &str, object: Value, out: &mut BytesMut) {
        match self.wanted.format {
            Format::Proto => frame(kind, object.to_string().as_bytes(), out),
            _ => {
                put_value(out, &json!({"type": kind, "object": object}));
                out.put_slice(b"\n");
            }
        }
    }

    async fn fail(&self, status: &Status) {
        let mut out = BytesMut::new();
        self.special("ERROR", status.to_value(), &mut out);
        let _ = self.out.send(out.freeze()).await;
    }
}

/// An event in protobuf, from the JSON of its object.
fn frame(kind: &str, json: &[u8], out: &mut BytesMut) {
    match respond::protobuf(json) {
        Some(body) => out.put_slice(&proto::frame(kind, &body)),
        None => tracing::error!(kind, "an event cannot be written as protobuf"),
    }
}

fn put_value(out: &mut BytesMut, value: &Value) {
    serde_json::to_writer(out.writer(), value).expect("trees always encode into memory");
}
