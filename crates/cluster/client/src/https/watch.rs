//! A watch that goes on where it stopped when its connection breaks or another server takes over.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use resources::{Status, Value, meta};

use super::connection::{Https, unavailable};
use crate::api::{Answer, EventSource};
use crate::{Event, Happened, Told};

/// Largest event.
const LINE_BYTES_MAX: usize = 16 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

pub struct Watching {
    api: Https,
    path: String,
    query: String,
    revision: u64,
    body: Option<Incoming>,
    lines: Lines,
    pause: Duration,
}

impl Watching {
    pub fn new(api: Https, path: String, query: String, revision: u64) -> Self {
        Self { api, path, query, revision, body: None, lines: Lines::default(), pause: FIRST_PAUSE }
    }

    async fn open(&mut self) -> Result<(), Status> {
        let mut path = format!("{}?watch=1&allowWatchBookmarks=true&resourceVersion={}", self.path, self.revision);
        if !self.query.is_empty() {
            path.push_str(&format!("&{}", self.query));
        }
        let response = self.api.send(Method::GET, &path, "", Bytes::new()).await?;
        let code = response.status();
        if code.is_success() {
            self.body = Some(response.into_body());
            self.lines = Lines::default();
            return Ok(());
        }
        let body = http_body_util::Limited::new(response.into_body(), 1 << 20).collect().await;
        Err(super::status_of(code.as_u16(), &body.map(|body| body.to_bytes()).unwrap_or_default()))
    }

    /// The pause doubles until something arrives.
    async fn rest(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    async fn changes(&mut self) -> Result<(Vec<Event>, u64), Status> {
        loop {
            if self.body.is_none() {
                match self.open().await {
                    Ok(()) => {}
                    // Nobody there, or too busy: go on later from the same place.
                    Err(status) if matches!(status.code, 429 | 500..) => {
                        tracing::debug!(path = self.path, message = status.message, "a watch will go on later");
                        self.rest().await;
                        continue;
                    }
                    Err(status) => return Err(status),
                }
            }
            let Some(body) = &mut self.body else { continue };
            match body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    self.pause = FIRST_PAUSE;
                    let events = self.take_in(&bytes)?;
                    if !events.is_empty() {
                        return Ok((events, self.revision));
                    }
                }
                // Its time was over, or the connection broke.
                Some(Err(_)) | None => {
                    self.body = None;
                    self.rest().await;
                }
            }
        }
    }

    fn take_in(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Status> {
        let mut events = Vec::new();
        for said in self.lines.feed(bytes)? {
            match said {
                Said::Event(event) => {
                    self.revision = self.revision.max(revision(&event.object));
                    events.push(event);
                }
                Said::Bookmark(object) => self.revision = self.revision.max(revision(&object)),
                Said::Error(status) if status.code == 410 => return Err(status),
                Said::Error(status) => {
                    tracing::debug!(path = self.path, message = status.message, "a watch ended");
                    self.body = None;
                }
            }
        }
        Ok(events)
    }
}

impl EventSource for Watching {
    fn next(&mut self) -> Answer<'_, (Vec<Told>, u64)> {
        Box::pin(async move {
            let (events, through) = self.changes().await?;
            let told = |event: Event| Told { happened: event.happened, object: event.object.to_string().into() };
            Ok((events.into_iter().map(told).collect(), through))
        })
    }
}

fn revision(object: &Value) -> u64 {
    meta::resource_version(object).parse().unwrap_or(0)
}

/// What a line of a watch says.
enum Said {
    Event(Event),
    Bookmark(Value),
    Error(Status),
}

/// Puts lines together from pieces.
#[derive(Default)]
struct Lines(BytesMut);

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Said>, Status> {
        let mut from = self.0.len();
        self.0.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let Some(end) = self.0[from..].iter().position(|byte| *byte == b'\n') {
            let line = self.0.split_to(from + end + 1);
            from = 0;
            if !line.trim_ascii().is_empty() {
                out.push(read(&line)?);
            }
        }
        match self.0.len() > LINE_BYTES_MAX {
            true => Err(unavailable("an event of the watch is too large")),
            false => Ok(out),
        }
    }
}

fn read(line: &[u8]) -> Result<Said, Status> {
    let mut line: Value = serde_json::from_slice(line)
        .map_err(|error| unavailable(format!("an event of the watch is no JSON: {error}")))?;
    let object = line["object"].take();
    let happened = match line["type"].as_str().unwrap_or_default() {
        "ADDED" => Happened::Added,
        "MODIFIED" => Happened::Modified,
        "DELETED" => Happened::Deleted,
        "BOOKMARK" => return Ok(Said::Bookmark(object)),
        "ERROR" => {
            let code = object["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or(500);
            return Ok(Said::Error(super::status_of(code, object.to_string().as_bytes())));
        }
        other => return Err(unavailable(format!("an event of the watch is a {other:?}"))),
    };
    Ok(Said::Event(Event { happened, object }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_put_together_from_pieces_of_any_size() {
        let object = |revision: &str| json!({"metadata": {"name": "a", "resourceVersion": revision}});
        let text = [
            json!({"type": "ADDED", "object": object("5")}),
            json!({"type": "BOOKMARK", "object": object("9")}),
            json!({"type": "DELETED", "object": object("11")}),
            json!({"type": "ERROR", "object": Status::expired("too old").to_value()}),
        ]
        .map(|line| format!("{line}\n"))
        .concat();
        for size in [1, 7, text.len()] {
            let mut lines = Lines::default();
            let said: Vec<String> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|chunk| lines.feed(chunk).unwrap())
                .map(|said| match said {
                    Said::Event(event) => format!("{} {}", event.happened.as_str(), revision(&event.object)),
                    Said::Bookmark(object) => format!("at {}", revision(&object)),
                    Said::Error(status) => format!("error {}", status.code),
                })
                .collect();
            assert_eq!(said, ["ADDED 5", "at 9", "DELETED 11", "error 410"]);
        }
        assert!(Lines::default().feed(b"{\"type\":\"WHAT\"}\n").is_err());
        assert!(Lines::default().feed(b"no json\n").is_err());
    }
}
