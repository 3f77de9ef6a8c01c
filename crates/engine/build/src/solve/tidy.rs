//! Keeps the cache to its limits once builds are over: in the background, and not after each of many small ones.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::BuilderInner;
use crate::cache::Keep;

/// Between two looks at the cache, as BuildKit has it.
const EVERY: Duration = Duration::from_secs(60);

/// When the cache was last looked at, and whether somebody will look again.
#[derive(Debug, Default)]
pub(super) struct Tidying {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    planned: bool,
}

impl Tidying {
    /// How long to wait before the next look; nothing if one is planned already.
    fn plan(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if std::mem::replace(&mut state.planned, true) {
            return None;
        }
        Some(state.last.map_or(Duration::ZERO, |last| EVERY.saturating_sub(now.duration_since(last))))
    }

    fn done(&self, now: Instant) {
        *self.state.lock().unwrap_or_else(|e| e.into_inner()) = State { last: Some(now), planned: false };
    }
}

/// What a build has just read or made is safe: it was used a moment ago, or its builder still holds it.
pub(super) fn after_build(inner: &Arc<BuilderInner>) {
    if inner.keep == Keep::All {
        return;
    }
    let Some(pause) = inner.tidying.plan(Instant::now()) else { return };
    // An engine that ends does not wait for it.
    let weak = Arc::downgrade(inner);
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        let Some(inner) = weak.upgrade() else { return };
        let tidied = tokio::task::spawn_blocking(move || {
            let removed = inner.keep_within(inner.keep);
            inner.tidying.done(Instant::now());
            removed
        });
        match tidied.await {
            Ok(Ok(removed)) if removed.is_empty() => {}
            Ok(Ok(removed)) => {
                let bytes: u64 = removed.iter().map(|entry| entry.record.bytes).sum();
                tracing::info!(entries = removed.len(), bytes, "the build cache was kept to its limit");
            }
            Ok(Err(error)) => tracing::warn!(%error, "the build cache could not be kept to its limit"),
            Err(error) => tracing::warn!(%error, "keeping the build cache to its limit was cut short"),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_builds_make_one_look_a_minute() {
        let tidying = Tidying::default();
        let begin = Instant::now();
        assert_eq!(tidying.plan(begin), Some(Duration::ZERO));
        assert_eq!(tidying.plan(begin), None);
        tidying.done(begin);
        assert_eq!(tidying.plan(begin + Duration::from_secs(20)), Some(Duration::from_secs(40)));
        assert_eq!(tidying.plan(begin + Duration::from_secs(30)), None);
        tidying.done(begin + Duration::from_secs(60));
        assert_eq!(tidying.plan(begin + Duration::from_secs(300)), Some(Duration::ZERO));
    }
}
