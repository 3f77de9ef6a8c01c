//! How the parts of a cluster talk to its API, and the API to its nodes: the words, and one client with several ways.
//!
//! * `api` — [`Client`], what a part reads and writes through; [`Api`] is the way behind it
//! * `words` — resources, selectors, patches, events: requests and answers as values
//! * `node` — what only a node can answer (logs, exec, port-forward), and the door to it
//! * `usage` — what pods and nodes use, as the nodes told it last
//! * `query`, `user`, `certificate`, `body` — what both directions share
//! * `https` — the API from another machine, and nodes from the API; a connection from the side that answers
//!
//! A part never knows which way its client goes: within the process (the API server implements [`Api`], nothing is
//! encoded that is not stored so anyway) or over HTTPS.

mod api;
mod body;
mod certificate;
mod https;
mod node;
mod query;
mod usage;
mod user;
mod words;

pub use api::{Answer, Api, Client, EventSource, Events};
pub use body::Body;
pub use certificate::{certificate_user, request_groups, validity};
pub use https::{
    ConnectError, Https, Identity, Peers, RemoteNodes, Target, TlsError, believing_anybody, fetch_authority,
    serve_connection, trust,
};
pub use node::{NodeRequest, Nodes};
pub use query::{Query, percent_decode, percent_encode};
pub use resources::Status;
pub use usage::{Amounts, NodeUsage, PodUsage, UsageTable};
pub use user::User;
pub use vocab::world::Simulation;
pub use words::{DeleteOptions, Event, Gvr, Happened, List, Listing, PODS, Patch, Request, Selectors, Told};

/// The time, for whoever writes it into an object or hands it to a part: the machine's, or a simulation's.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(vocab::world::now_nanos()).unwrap_or(jiff::Timestamp::MAX)
}
