//! The distribution protocol: a client that pulls and pushes, and a server that gives out the content store.
//!
//! What it is for: everything between an image's name and its bytes on another machine. The server speaks the OCI
//! distribution specification 1.1 straight from the image store: a blob that an image brought and one that a client pushed
//! are the same file. The client speaks it to anybody, and trusts nobody: every byte is counted and hashed before it counts.
//!
//! What it never does: it runs nothing and unpacks nothing itself (`image` does), and it knows no Docker JSON: what it
//! reports are values that the edges put into words.
//!
//! * `names`, `media`, `ranges`, `query`, `challenge` — the protocol's words, pure
//! * `body` — bodies that are read from files on threads that may block
//! * `server` — the registry
//! * `client` — pull, push, login, search

pub mod body;
mod challenge;
pub mod client;
mod media;
mod names;
mod query;
mod ranges;
pub mod server;
mod tls;

pub use names::Repository;
