//! Log drivers that deliver elsewhere: syslog, journald, fluentd, gelf.
//!
//! The keeper writes every line of such a container to a bounded json-file, as it does for any other; the engine reads that
//! file and delivers. So a container is never held up by a receiver, `logs` works with every driver, and what is written
//! while the engine is away is delivered when it is back. A receiver that is away is tried again until it answers; what
//! rotation removes meanwhile is lost and said so in the engine's log. After a killed engine up to a second's lines are
//! delivered twice.
//!
//! * `options` — which driver takes which options
//! * `subject` — tags and attributes, of which container
//! * `message` — a line in the receiver's form
//! * `sink` — connections
//! * here — the task of a container that delivers

mod message;
pub(crate) mod options;
mod sink;
pub(crate) mod subject;

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::core::{Container, Inner, Stage, blocking};
use crate::{LogEntry, LogOptions};
use message::Encoder;
use sink::Sink;
use subject::Subject;

/// How often the position is written down.
const REMEMBER_EVERY: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long the removal of a container waits for its last lines.
const LAST_LINES_WAIT: Duration = Duration::from_secs(5);

/// What has been delivered: everything before `at`, and `same` lines of that very instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    at: Option<Timestamp>,
    same: u64,
}

impl Position {
    fn passed(&mut self, entry: &LogEntry) {
        self.same = if self.at == Some(entry.at) { self.same + 1 } else { 1 };
        self.at = Some(entry.at);
    }
}

impl Inner {
    /// Sees to it that what the container writes is delivered. May be called again at each start.
    pub(crate) fn ship_logs(self: &Arc<Self>, container: &Arc<Container>) {
        let record = container.record();
        if !options::is_remote(&record.host.log.driver) {
            return;
        }
        let mut live = container.live();
        if let Some(shipped) = &live.shipped {
            shipped.send_replace(false);
            return;
        }
        let shipped = Arc::new(watch::channel(false).0);
        live.shipped = Some(shipped.clone());
        drop(live);
        tokio::spawn(ship(Arc::downgrade(self), container.clone(), shipped));
    }

    /// Waits, for a few seconds at most, until everything that an ended container wrote is delivered.
    pub(crate) async fn last_lines(&self, container: &Container) {
        let shipped = container.live().shipped.clone();
        let Some(shipped) = shipped else { return };
        let mut shipped = shipped.subscribe();
        if tokio::time::timeout(LAST_LINES_WAIT, shipped.wait_for(|done| *done)).await.is_err() {
            tracing::warn!(container = %container.id, "the log's receiver does not answer: last lines are lost");
        }
    }

    fn position_path(&self, container: &Container) -> PathBuf {
        self.container_dir(container.id).join("delivered")
    }
}

/// One container's deliveries, until it is removed. Holds the engine only while it opens the log.
async fn ship(inner: Weak<Inner>, container: Arc<Container>, shipped: Arc<watch::Sender<bool>>) {
    let (path, mut position, encoder, mut sink) = {
        let Some(inner) = inner.upgrade() else { return };
        let record = container.record();
        let path = inner.position_path(&container);
        let reading = path.clone();
        let position: Position = blocking(move || {
            let text = std::fs::read(reading).unwrap_or_default();
            serde_json::from_slice(&text).unwrap_or_default()
        })
        .await;
        let subject = Subject::new(container.id, &record);
        let (encoder, sink) = match Encoder::new(&record.host.log, &subject)
            .and_then(|encoder| Ok((encoder, Sink::new(&record.host.log)?)))
        {
            Ok(both) => both,
            Err(error) => {
                // Checked at create: only an older engine's record gets here.
                tracing::error!(container = %container.id, %error, "logs are not delivered");
                shipped.send_replace(true);
                return;
            }
        };
        (path, position, encoder, sink)
    };
    let mut stages = container.stages();
    loop {
        let gone = *stages.borrow_and_update() == Stage::Removed;
        if !gone {
            let Some(inner) = inner.upgrade() else { return };
            let options = LogOptions { follow: true, since: position.at, ..Default::default() };
            match inner.logs(&container, options).await {
                Ok(stream) => {
                    drop(inner);
                    deliver(&container, stream, &mut position, &encoder, &mut sink, &path).await;
                }
                Err(error) => tracing::warn!(container = %container.id, %error, "cannot read the log to deliver it"),
            }
        }
        shipped.send_replace(true);
        if gone || stages.changed().await.is_err() {
            return;
        }
        shipped.send_replace(false);
    }
}

async fn deliver(
    container: &Container,
    mut stream: crate::LogStream,
    position: &mut Position,
    encoder: &Encoder,
    sink: &mut Sink,
    path: &std::path::Path,
) {
    let (from, mut skipped) = (*position, 0);
    let mut remembered = Instant::now();
    while let Some(entry) = stream.next().await {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                tracing::warn!(container = %container.id, %error, "reading the log to deliver it");
                return;
            }
        };
        if Some(entry.at) == from.at && skipped < from.same {
            skipped += 1;
            continue;
        }
        let message = encoder.encode(&entry);
        let mut wait = RETRY_MIN;
        while let Err(error) = sink.send(&message).await {
            if wait == RETRY_MIN {
                tracing::warn!(container = %container.id, %error, "the log's receiver does not take it; trying again");
            }
            if container.live().removed {
                // Nobody waits for it any more.
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
        position.passed(&entry);
        if remembered.elapsed() >= REMEMBER_EVERY {
            remember(path, *position).await;
            remembered = Instant::now();
        }
    }
    remember(path, *position).await;
}

/// A position that cannot be written costs lines delivered twice, nothing more.
async fn remember(path: &std::path::Path, position: Position) {
    let path = path.to_owned();
    blocking(move || {
        let draft = path.with_extension("new");
        let text = serde_json::to_vec(&position).expect("two numbers are JSON");
        let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &path));
        if let Err(error) = written {
            tracing::debug!(path = %path.display(), %error, "cannot remember what was delivered");
        }
    })
    .await;
}
