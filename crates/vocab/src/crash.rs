//! Named points at which a test can end the process as `kill -9` would, to prove that every step can be the last one.
//!
//! `KNARR_CRASH_POINT=image.load.before_commit` ends the process the first time that point is passed,
//! `KNARR_CRASH_POINT=image.load.before_commit:3` the third time. With `KNARR_CRASH_MARK=<file>` as well, a process ends
//! only if it can take that file away: a test arms the point by making the file, however late, and of all the processes
//! that inherited the variables exactly one ends, once. Without the variables a point costs one atomic load.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

struct Armed {
    name: String,
    left: AtomicU32,
    mark: Option<PathBuf>,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Ends the process here if the environment names this point. No destructor, buffer or exit handler runs.
pub fn point(name: &str) {
    let Some(armed) = ARMED.get_or_init(from_environment) else { return };
    if armed.name == name && armed.fires() {
        // Not `eprintln!`, which panics where it cannot write.
        let _ = writeln!(std::io::stderr(), "crash point {name}");
        std::process::abort();
    }
}

impl Armed {
    fn fires(&self) -> bool {
        match &self.mark {
            // Removing is atomic: of two who try, one succeeds.
            Some(mark) => std::fs::remove_file(mark).is_ok(),
            None => self.left.fetch_sub(1, Ordering::SeqCst) == 1,
        }
    }
}

fn from_environment() -> Option<Armed> {
    let value = std::env::var("KNARR_CRASH_POINT").ok()?;
    let (name, nth) = match value.rsplit_once(':') {
        Some((name, nth)) => (name.to_owned(), nth.parse().ok()?),
        None => (value, 1),
    };
    let mark = std::env::var_os("KNARR_CRASH_MARK").map(PathBuf::from);
    Some(Armed { name, left: AtomicU32::new(nth), mark })
}
