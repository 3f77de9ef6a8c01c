//! BuildKit's protocol on Docker's socket: what the stock `docker build`, buildx and compose speak, onto the builder.
//!
//! A client opens two connections. On `/grpc` it calls us: the control service (`control`, `solve`) and the gateway
//! (`gateway`) for what its own build function asks. On `/session` we call it (`session`): for files (`files`), a stream
//! from its standard input (`upload`), credentials, secrets and its ssh agent (`client`).
//!
//! * `wire` — the messages; no other crate knows them
//! * `rpc` — gRPC over a connection that somebody else opened
//! * `frontend` — attributes, Dockerfile and contexts to a graph
//! * `target` — one graph, carried out once
//! * `export` — what becomes of it; `cache` — caches from elsewhere and to elsewhere
//! * `sync` — how `knarr build` brings a folder
//! * `content` — blobs in folders of the client
//! * `progress`, `history` — what is told while it runs, and afterwards

mod cache;
mod caps;
mod client;
mod content;
mod control;
mod errors;
mod export;
mod files;
mod filter;
mod frontend;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod history;
mod ids;
mod kit;
mod progress;
mod results;
mod rpc;
mod service;
mod session;
mod solve;
pub mod sync;
mod target;
mod upload;
mod view;
mod warnings;
mod wire;

pub use kit::Kit;
pub use session::SessionOffer;
