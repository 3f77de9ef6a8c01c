//! Kubernetes' container runtime interface, version 1.
//!
//! * `wire` — its messages
//! * `server` — the two services over the engine, so that any kubelet can use it; `Server` is the way in
//! * `client` — calls to a runtime that listens on a socket, this one or another
//!
//! What a pod is to the engine is decided in `pods`; here are names, states and filters as the interface has them.

mod client;
mod server;
pub mod wire;

pub use client::Client;
pub use server::{Config, Server};
