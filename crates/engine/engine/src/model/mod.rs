//! The engine's words: what a caller can ask for and what it sees.
//!
//! Values only. The shapes follow Docker's own notions field by field, so that an edge can turn them into Docker JSON
//! (or CRI messages) and back without losing anything, but no type here knows how any wire spells it.

mod config;
mod event;
mod exec;
mod filter;
mod host;
mod id;
mod image;
mod info;
mod log;
mod network;
mod state;
mod stats;
mod view;
mod volume;

pub use config::*;
pub use event::*;
pub use exec::*;
pub use filter::*;
pub use host::*;
pub use id::*;
pub use image::*;
pub use info::*;
pub use log::*;
pub use network::*;
pub use state::*;
pub use stats::*;
pub use view::*;
pub use volume::*;
