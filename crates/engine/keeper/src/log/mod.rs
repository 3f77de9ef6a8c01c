//! Logs: raw bytes become records ([`encode`]), records are appended to files that rotate ([`file`]), and a [`journal`] in shared memory says
//! at any instant how far that has come, so that the next keeper goes on exactly there.

pub(crate) mod encode;
pub(crate) mod file;
pub(crate) mod journal;
pub(crate) mod recover;
pub(crate) mod time;
