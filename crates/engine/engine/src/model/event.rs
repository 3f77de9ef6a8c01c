//! What happened, for whoever listens.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Filters;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    Container,
    Image,
    Volume,
    Network,
    Daemon,
    Builder,
}

impl EventKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Daemon => "daemon",
            Self::Builder => "builder",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// `create`, `start`, `die`, `exec_start: ls -l`, ...
    pub action: String,
    /// A container's or image's id, a volume's or network's name.
    pub actor: String,
    pub attributes: BTreeMap<String, String>,
    pub at: Timestamp,
}

#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Replay what is still remembered from this instant.
    pub since: Option<Timestamp>,
    /// End the stream at this instant, which may lie ahead.
    pub until: Option<Timestamp>,
    /// `type`, `event`, `container`, `image`, `volume`, `network`, `label`, `daemon`, `scope`.
    pub filters: Filters,
}
