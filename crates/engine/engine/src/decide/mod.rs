//! Decisions as pure functions of plain values: no clock, no lock, no file. The shell around them gathers facts and
//! carries out.

pub(crate) mod adopt;
pub(crate) mod caps;
pub(crate) mod changes;
pub(crate) mod health;
pub(crate) mod merge;
pub(crate) mod mounts;
pub(crate) mod names;
pub(crate) mod network;
pub(crate) mod ports;
pub(crate) mod request;
pub(crate) mod restart;
pub(crate) mod signal;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod user;
pub(crate) mod userns;
