//! When nothing happens any more, memory that was needed while it did is given back.

use std::time::Duration;

use tokio::sync::watch;

use super::inner::blocking;

/// How long nothing must have happened. Longer than threads that did blocking work wait for more of it.
const QUIET: Duration = Duration::from_secs(3);

/// Runs as long as the engine does, and wakes for nothing while that is idle.
pub(crate) async fn give_memory_back(mut activity: watch::Receiver<()>) {
    loop {
        // At first the start itself is what has happened.
        match tokio::time::timeout(QUIET, activity.changed()).await {
            Ok(Ok(())) => continue,
            Ok(Err(_)) => return,
            Err(_quiet) => blocking(linux::memory::give_back).await,
        }
        if activity.changed().await.is_err() {
            return;
        }
    }
}
