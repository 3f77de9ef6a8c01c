//! What a build tells while it works. Every door makes its own words of these.

use jiff::Timestamp;

use crate::plan::NodeId;

#[derive(Debug, Clone)]
pub enum Event {
    Started {
        node: NodeId,
        at: Timestamp,
    },
    /// Nothing had to be done.
    Cached {
        node: NodeId,
    },
    Output {
        node: NodeId,
        stderr: bool,
        bytes: Vec<u8>,
        at: Timestamp,
    },
    Done {
        node: NodeId,
        error: Option<String>,
        at: Timestamp,
    },
}

/// Where events go: a full channel slows the build down, a closed one does not matter to it.
#[derive(Debug, Clone)]
pub struct Events(pub tokio::sync::mpsc::Sender<Event>);

impl Events {
    pub(crate) async fn tell(&self, event: Event) {
        let _ = self.0.send(event).await;
    }
}
