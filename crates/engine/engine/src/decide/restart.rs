//! Restart policies: whether a container that ended starts again, and when.

use std::time::Duration;

use crate::{RestartMode, RestartPolicy};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// A container that ran this long has proven itself: the next back-off starts over.
const PROVEN: Duration = Duration::from_secs(10);

/// What is known when a container has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) policy: RestartPolicy,
    pub(crate) exit_code: i32,
    /// How often the policy has restarted it since a user last started it.
    pub(crate) restarts: u32,
    /// A user asked for the end (`stop`, `kill` of a stopping signal, `remove`).
    pub(crate) manually: bool,
    pub(crate) ran: Duration,
    /// The last back-off, or zero.
    pub(crate) backoff: Duration,
}

/// `Some(back-off)` if it is to start again after that long.
pub(crate) fn decide_restart(ended: Ended) -> Option<Duration> {
    let wanted = match ended.policy.mode {
        RestartMode::No => false,
        RestartMode::Always | RestartMode::UnlessStopped => !ended.manually,
        RestartMode::OnFailure => {
            let left = ended.policy.retries_max == 0 || ended.restarts < ended.policy.retries_max;
            !ended.manually && ended.exit_code != 0 && left
        }
    };
    wanted.then(|| match ended.backoff {
        _ if ended.ran >= PROVEN => FIRST,
        Duration::ZERO => FIRST,
        last => (last * 2).min(LONGEST),
    })
}

/// Whether a container that is found not running when the engine starts is to be started.
///
/// `was_running`: it was when the engine last knew, so its end was not a user's wish.
pub(crate) fn decide_start_at_boot(
    policy: RestartPolicy,
    was_running: bool,
    stopped_by_user: bool,
    exit_code: i32,
) -> bool {
    match policy.mode {
        RestartMode::No => false,
        RestartMode::Always => was_running || stopped_by_user,
        RestartMode::UnlessStopped => was_running && !stopped_by_user,
        RestartMode::OnFailure => was_running && !stopped_by_user && exit_code != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(mode: RestartMode, retries_max: u32) -> RestartPolicy {
        RestartPolicy { mode, retries_max }
    }

    fn ended(policy: RestartPolicy) -> Ended {
        Ended { policy, exit_code: 1, restarts: 0, manually: false, ran: Duration::ZERO, backoff: Duration::ZERO }
    }

    #[test]
    fn policies_decide_by_exit_code_count_and_wish() {
        use RestartMode::*;
        let rows = [
            (ended(policy(No, 0)), false),
            (ended(policy(Always, 0)), true),
            (Ended { exit_code: 0, ..ended(policy(Always, 0)) }, true),
            (Ended { manually: true, ..ended(policy(Always, 0)) }, false),
            (Ended { manually: true, ..ended(policy(UnlessStopped, 0)) }, false),
            (ended(policy(UnlessStopped, 0)), true),
            (ended(policy(OnFailure, 0)), true),
            (Ended { exit_code: 0, ..ended(policy(OnFailure, 0)) }, false),
            (Ended { restarts: 2, ..ended(policy(OnFailure, 3)) }, true),
            (Ended { restarts: 3, ..ended(policy(OnFailure, 3)) }, false),
        ];
        for (row, wanted) in rows {
            assert_eq!(decide_restart(row).is_some(), wanted, "{row:?}");
        }
    }

    #[test]
    fn the_back_off_doubles_to_a_minute_and_starts_over_after_ten_seconds_of_running() {
        let mut row = ended(policy(RestartMode::Always, 0));
        let mut seen = Vec::new();
        for _ in 0..12 {
            row.backoff = decide_restart(row).unwrap();
            seen.push(row.backoff.as_millis());
        }
        assert_eq!(seen, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(decide_restart(Ended { ran: Duration::from_secs(10), ..row }), Some(FIRST));
    }

    #[test]
    fn at_boot_only_always_ignores_that_a_user_stopped_it() {
        use RestartMode::*;
        let rows = [
            (No, true, false, 1, false),
            (Always, true, false, 0, true),
            (Always, false, true, 0, true),
            (Always, false, false, 0, false),
            (UnlessStopped, true, false, 0, true),
            (UnlessStopped, true, true, 0, false),
            (OnFailure, true, false, 1, true),
            (OnFailure, true, false, 0, false),
        ];
        for (mode, was_running, stopped, code, wanted) in rows {
            assert_eq!(decide_start_at_boot(policy(mode, 0), was_running, stopped, code), wanted, "{mode:?} {stopped}");
        }
    }
}
