//! The cluster as its parts see it, and what they ask to change.
//!
//! * `kind` — the kinds that parts of the cluster read and write
//! * `kept` — an object of a view, as a tree only while somebody looks at it
//! * `lean` — an object without what only nodes read
//! * `view` — objects by kind, owner and node: the same shared values for every reader
//! * `keep` — what the API said last, in files
//! * `part` — what a controller or the scheduler is: keys in, writes out, pure
//! * `work` — which keys are to be looked at, when, and how often they failed
//! * `elect` — which of several processes runs the parts
//! * `drive` — keeps a view up to date, runs the parts over it and carries out what they ask for
//!
//! Parts decide from a [`View`] and a time alone, so that a simulation can run them from a seed; only `drive` knows the API.

mod drive;
mod elect;
mod keep;
mod kept;
mod kind;
mod lean;
mod part;
mod record;
mod selecting;
mod view;
mod work;

pub use drive::{Driver, Member, Observer};
pub use elect::Election;
pub use keep::Keep;
pub use kind::Kind;
pub use part::{Outcome, Part, Write};
pub use record::{EVENT_SECS, Recorder, Telling};
pub use view::{Key, View};
pub use work::Queue;
