//! A whole cluster in one thread, from a seed: the API on its real code, the real controllers and scheduler, and nodes that
//! only seem to run pods. Time passes when everybody waits, so that hours take moments; ways to the API fail, and parts
//! die and come again.
//!
//! * `world` — puts a cluster together, lets people and misfortune at it, and waits for it to come to rest
//! * `scenario` — what people ask for: workloads and what they do to them
//! * `faults`, `node` — what goes wrong on the way to the API, and on nodes
//! * `ledger` — sees every write when it is made: the log, the truth, and the rules
//! * `rules` — what must hold after every write; `rest` — what must hold when everything has come to rest
//! * `weaken` — parts with a fault put in, to show that the rules see it
//!
//! The same seed gives the same log, byte for byte. `scripts/simulate` runs many and replays one.

mod faults;
mod ledger;
mod node;
mod rest;
mod rng;
mod rules;
mod scenario;
mod weaken;
mod world;

pub use weaken::Weakness;
pub use world::{Failure, Options, Report, run};
