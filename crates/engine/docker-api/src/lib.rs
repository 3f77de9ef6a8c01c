//! Docker's Engine HTTP API over the engine; the only crate that knows Docker's JSON.
//!
//! * `server` — the socket, its connections and their limits
//! * `router` — which handler answers a method and path
//! * `routes` — the handlers: read the request, call the engine, write the answer
//! * `wire` — Docker's JSON and the ways to and from the engine's words
//! * `http` — versions, queries, filters, bodies, takeovers and refusals, without any of Docker's nouns
//!
//! It decides nothing about containers or images: what the engine answers is what the client gets.

// `info` is one JSON object of some eighty fields, and the macro that writes it recurses once a field.
#![recursion_limit = "256"]

mod http;
pub mod own_build;
mod router;
mod routes;
mod server;
mod wire;

pub use router::Doors;
pub use server::{BindError, Limits, bind, serve, serve_within};
pub use wire::info::finding;
