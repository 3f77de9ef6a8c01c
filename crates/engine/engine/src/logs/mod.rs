//! Reading containers' logs: Docker's json-file format, with its rotated files, forwards and from the end, with or
//! without following. The keeper writes these files; nothing here does.
//!
//! A reader remembers the file (by inode) and the offset of the first byte it has not delivered, so that rotation and
//! a new keeper neither lose nor double a record. No thread waits: following wakes on inotify.

mod reader;
mod record;
mod tail;

pub(crate) use reader::{Batch, LogReader};
pub use record::parse_cri;
