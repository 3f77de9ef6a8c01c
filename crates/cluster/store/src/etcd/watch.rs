//! One watch on etcd: a stream that is opened when its reader first asks, and again from the revision reached whenever
//! it breaks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Streaming;

use super::client::Client;
use super::{convert, revision_of, wire};
use crate::{Answer, Revision, Span, StoreError, Watch, WatchBatch};

const PATH: &str = "/etcdserverpb.Watch/Watch";

struct Open {
    asks: mpsc::Sender<wire::WatchRequest>,
    answers: Streaming<wire::WatchResponse>,
    progress_asked: bool,
}

pub(super) struct EtcdWatch {
    client: Arc<Client>,
    span: Span,
    /// The first revision not yet delivered.
    next: Revision,
    open: Option<Open>,
    backoff: Duration,
    /// How often in a row the server would not have this watch.
    refused: u32,
}

/// How long events that are under way are waited for where the server cannot be asked.
const ARRIVES: Duration = Duration::from_millis(100);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

impl EtcdWatch {
    pub(super) fn new(client: Arc<Client>, span: Span, next: Revision) -> Self {
        Self { client, span, next, open: None, backoff: BACKOFF_MIN, refused: 0 }
    }

    async fn stream(&mut self) -> Result<&mut Open, StoreError> {
        if self.open.is_none() {
            self.open = Some(open(&self.client, &self.span, self.next).await?);
        }
        Ok(self.open.as_mut().expect("opened above"))
    }

    /// The next answer that tells something. `progress` asks for one even where nothing changes.
    async fn answer(&mut self, progress: bool) -> Result<WatchBatch, StoreError> {
        loop {
            let open = match self.stream().await {
                Ok(open) => open,
                Err(StoreError::Unreachable { .. }) => {
                    self.wait().await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if progress && !open.progress_asked {
                let ask = wire::WatchRequest { request: Some(wire::WatchAsk::Progress(wire::Empty {})) };
                // A closed channel is a broken stream, which the read below finds out.
                let _ = open.asks.send(ask).await;
                open.progress_asked = true;
            }
            match open.answers.message().await {
                Ok(Some(answer)) => {
                    if let Some(batch) = self.take(answer)? {
                        self.backoff = BACKOFF_MIN;
                        return Ok(batch);
                    }
                    if self.open.is_none() {
                        self.wait().await;
                    }
                }
                Ok(None) | Err(_) => {
                    self.open = None;
                    self.client.next_member();
                    self.wait().await;
                }
            }
        }
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    fn take(&mut self, answer: wire::WatchResponse) -> Result<Option<WatchBatch>, StoreError> {
        if answer.compact_revision > 0 {
            self.open = None;
            return Err(StoreError::Compacted { asked: self.next, oldest: answer.compact_revision as Revision });
        }
        if answer.canceled {
            self.open = None;
            if not_let_in(&answer.cancel_reason) {
                // Said of a token that died with its member, too: whoever is refused with a new one has no right to it.
                self.client.forget_token();
                self.refused += 1;
                if self.refused > 1 {
                    return Err(self.client.refused("watch", &answer.cancel_reason));
                }
            } else {
                // etcd cancels a watch when its member loses the cluster; the next member goes on.
                self.client.next_member();
            }
            return Ok(None);
        }
        self.refused = 0;
        if answer.created {
            return Ok(None);
        }
        let events = answer.events.into_iter().map(convert::event).collect::<Result<Vec<_>, _>>()?;
        let through = match events.last() {
            Some(last) => last.revision,
            None => {
                if let Some(open) = &mut self.open {
                    open.progress_asked = false;
                }
                // A watch from a future revision has seen nothing yet.
                revision_of(answer.header)
            }
        };
        self.next = self.next.max(through + 1);
        Ok(Some(WatchBatch { events, through }))
    }
}

impl Watch for EtcdWatch {
    fn next(&mut self) -> Answer<'_, WatchBatch> {
        Box::pin(self.answer(false))
    }

    fn poll(&mut self) -> Answer<'_, WatchBatch> {
        Box::pin(async {
            if self.client.trusts_progress().await {
                return self.answer(true).await;
            }
            // What has arrived is all that is known for certain.
            match tokio::time::timeout(ARRIVES, self.answer(false)).await {
                Ok(answer) => answer,
                Err(_) => Ok(WatchBatch { events: Vec::new(), through: self.next.saturating_sub(1) }),
            }
        })
    }
}

/// Whether a watch was cancelled because of who asks. Servers tell an old token apart from a missing right since 3.4.22 only.
fn not_let_in(reason: &str) -> bool {
    let texts = ["permission denied", "invalid auth token", "user name is empty", "revision of auth store is old"];
    texts.iter().any(|text| reason.contains(text))
}

async fn open(client: &Client, span: &Span, start: Revision) -> Result<Open, StoreError> {
    let (key, range_end) = convert::bounds(span);
    let create =
        wire::WatchCreate { key, range_end, start_revision: start as i64, progress_notify: true, prev_kv: true };
    let (asks, asked) = mpsc::channel(4);
    let ask = wire::WatchRequest { request: Some(wire::WatchAsk::Create(create)) };
    asks.try_send(ask).expect("a new channel has room");
    let asked = futures_util::stream::unfold(asked, |mut asked| async move { Some((asked.recv().await?, asked)) });
    let answers = client.stream(PATH, asked).await?;
    Ok(Open { asks, answers, progress_asked: false })
}

/// The oldest revision that etcd keeps: it tells only a watcher that asks for an older one.
pub(super) async fn oldest(client: &Client) -> Option<Revision> {
    let mut open = open(client, &Span::key("\0"), 1).await.ok()?;
    let answers = async {
        while let Ok(Some(answer)) = open.answers.message().await {
            if answer.compact_revision > 0 {
                return Some(answer.compact_revision as Revision);
            }
        }
        None
    };
    tokio::time::timeout(Duration::from_secs(2), answers).await.ok().flatten()
}
