//! Small folders that nobody needs any more: out of sight at once, removed beside the work. On a file system that hands freed blocks on
//! to the disk (`discard`), every removed directory waits for it, and a container that wrote nothing leaves five.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::staging::remove_tree;

/// As many folders may wait; whoever brings more removes them itself.
const WAITING_MAX: usize = 256;
/// The thread that removes ends when nothing came for this long.
const IDLE_MAX: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Discarded(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<PathBuf>,
    /// How many were ever taken to wait, and how many of them have gone.
    taken: u64,
    gone: u64,
    /// A thread is there, at work or idle.
    served: bool,
    closed: bool,
}

impl Discarded {
    /// Removes the folder soon, or here and now where too many wait. What a crash leaves, `tmp` is swept of at the next start.
    pub(super) fn take(&self, folder: PathBuf) {
        let mut state = self.0.lock();
        if state.waiting.len() >= WAITING_MAX || state.closed {
            drop(state);
            return remove_tree(&folder);
        }
        state.waiting.push_back(folder);
        state.taken += 1;
        if !state.served {
            let queue = self.0.clone();
            state.served = std::thread::Builder::new().name("discard".into()).spawn(move || queue.serve()).is_ok();
            if !state.served {
                // The machine has no thread to spare.
                state.waiting.drain(..).for_each(|folder| remove_tree(&folder));
                state.gone = state.taken;
            }
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until what was taken so far has gone.
    pub(super) fn settle(&self) {
        let state = self.0.lock();
        let taken = state.taken;
        drop(self.0.changed.wait_while(state, |state| state.gone < taken));
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(folder) = state.waiting.pop_front() {
                drop(state);
                remove_tree(&folder);
                state = self.lock();
                state.gone += 1;
                self.changed.notify_all();
                continue;
            }
            let idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
            let waited = self.changed.wait_timeout_while(state, IDLE_MAX, idle);
            state = waited.map_or_else(|e| e.into_inner().0, |(state, _)| state);
            if state.waiting.is_empty() {
                state.served = false;
                drop(state);
                return self.changed.notify_all();
            }
        }
    }
}

/// Waits for what was taken.
impl Drop for Discarded {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        self.0.changed.notify_all();
        while state.served {
            state = self.0.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_taken_is_gone_in_the_end() {
        let tmp = tempfile::tempdir().unwrap();
        let discarded = Discarded::default();
        for number in 0..2 * WAITING_MAX {
            let folder = tmp.path().join(number.to_string());
            std::fs::create_dir_all(folder.join("work/work")).unwrap();
            std::fs::write(folder.join("file"), "x").unwrap();
            discarded.take(folder);
        }
        discarded.settle();
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}
