//! The engine: containers, execs, logs, events and images on this machine, as one async Rust API in Rust words.
//!
//! It decides and remembers; it never clones a process (the keeper does), never mounts into the host's namespace and
//! never speaks JSON to anyone. The Docker HTTP API, the CRI and the cluster's kubelet all stand on [`Engine`].
//!
//! * `model` — the words: what can be asked for and what is seen
//! * `api_*` — the methods of [`Engine`], one file a story

mod api;
mod core;
mod decide;
mod error;
mod logs;
mod model;
mod procview;
mod ship;
mod spec;
mod stream;
mod volumes;

pub use api::*;
pub use core::instance_tag;
pub use core::networks::{PodNetwork, PodPlug, serve_names};
pub use core::step::{Step, StepKiller, StepMount, StepOutcome, StepRequest, StepSource, lookup_user};
pub use decide::text::human_duration;
pub use decide::time::parse_until;
pub use decide::userns::UserRanges;
pub use error::{Error, Result};
pub use logs::parse_cri;
pub use model::*;
pub use network::PublishedPorts;
pub use network::{PublishedPort, parse_protocol};
pub use ship::options::DRIVERS as LOG_DRIVERS;
pub use spec::{MASKED_PATHS, READONLY_PATHS};
pub use stream::{
    Attached, Body, BodySender, ByteStream, EventStream, InputSink, LogStream, OutputStream, Stream as ItemStream,
};
pub use volumes::PluginConfig;
