//! The cluster as its parts see it, and what they ask to change.
//!
//! * `kind` — the kinds that parts of the cluster read and write
//! * `view` — objects by kind, owner and node: the same shared values for every reader
//! * `part` — what a controller or the scheduler is: keys in, writes out, pure
//! * `work` — which keys are to be looked at, when, and how often they failed
//! * `drive` — keeps a view up to date, runs the parts over it and carries out what they ask for
//!
//! Parts decide from a [`View`] and a time alone, so that a simulation can run them from a seed; only `drive` knows the API.

mod drive;
mod kind;
mod part;
mod record;
mod view;
mod work;

pub use drive::{Driver, Member, Observer};
pub use kind::Kind;
pub use part::{Outcome, Part, Write};
pub use record::{EVENT_SECS, Recorder, Telling};
pub use view::{Key, View};
pub use work::Queue;
