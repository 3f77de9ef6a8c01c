//! What an engine that has just been started makes of each container: its record against what the keeper holds.

use crate::decide::restart::decide_start_at_boot;
use crate::{RestartPolicy, Status};

/// What the keeper says about a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldAs {
    Nothing,
    Running { frozen: bool },
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adoption {
    /// Nothing happened while we were away.
    Keep,
    /// It runs: take it over. `thaw`: it was frozen for a commit that died with its engine.
    TakeOver { paused: bool, thaw: bool },
    /// It ended while we were away, and its exit is known.
    LearnExit,
    /// It was running and nobody knows how it ended (a power cut, a reboot): exit code 255.
    Lost { restart: bool },
    /// It does not run and its policy wants it to.
    Start,
    /// It waited for its back-off.
    RestartSoon,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Remembered {
    pub(crate) status: Status,
    pub(crate) policy: RestartPolicy,
    pub(crate) stopped_by_user: bool,
    pub(crate) exit_code: i32,
    /// An exit that the keeper still holds has been taken into the record already.
    pub(crate) exit_known: bool,
}

pub(crate) fn decide_adoption(was: Remembered, held: HeldAs) -> Adoption {
    match held {
        HeldAs::Running { frozen } => {
            let paused = frozen && was.status == Status::Paused;
            Adoption::TakeOver { paused, thaw: frozen && !paused }
        }
        HeldAs::Ended if !was.exit_known => Adoption::LearnExit,
        HeldAs::Ended | HeldAs::Nothing => match was.status {
            Status::Running | Status::Paused => {
                Adoption::Lost { restart: decide_start_at_boot(was.policy, true, false, 255) }
            }
            Status::Restarting => Adoption::RestartSoon,
            Status::Exited if decide_start_at_boot(was.policy, false, was.stopped_by_user, was.exit_code) => {
                Adoption::Start
            }
            _ => Adoption::Keep,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RestartMode;

    fn was(status: Status, mode: RestartMode) -> Remembered {
        Remembered {
            status,
            policy: RestartPolicy { mode, retries_max: 0 },
            stopped_by_user: false,
            exit_code: 0,
            exit_known: false,
        }
    }

    #[test]
    fn the_keeper_is_believed_over_the_record() {
        use Adoption::*;
        use RestartMode::{Always, No, OnFailure, UnlessStopped};
        let running = HeldAs::Running { frozen: false };
        let stopped = |mode| Remembered { stopped_by_user: true, ..was(Status::Exited, mode) };
        let rows = [
            (was(Status::Running, No), running, TakeOver { paused: false, thaw: false }),
            // Killed between the keeper's answer and the record.
            (was(Status::Created, No), running, TakeOver { paused: false, thaw: false }),
            (was(Status::Paused, No), HeldAs::Running { frozen: true }, TakeOver { paused: true, thaw: false }),
            (was(Status::Paused, No), running, TakeOver { paused: false, thaw: false }),
            (was(Status::Running, No), HeldAs::Running { frozen: true }, TakeOver { paused: false, thaw: true }),
            (was(Status::Running, No), HeldAs::Ended, LearnExit),
            (was(Status::Created, No), HeldAs::Ended, LearnExit),
            (Remembered { exit_known: true, ..was(Status::Exited, No) }, HeldAs::Ended, Keep),
            (was(Status::Running, No), HeldAs::Nothing, Lost { restart: false }),
            (was(Status::Paused, Always), HeldAs::Nothing, Lost { restart: true }),
            (was(Status::Running, OnFailure), HeldAs::Nothing, Lost { restart: true }),
            (was(Status::Restarting, Always), HeldAs::Nothing, RestartSoon),
            (stopped(Always), HeldAs::Nothing, Start),
            (stopped(UnlessStopped), HeldAs::Nothing, Keep),
            (was(Status::Exited, No), HeldAs::Nothing, Keep),
            (was(Status::Created, Always), HeldAs::Nothing, Keep),
        ];
        for (record, held, wanted) in rows {
            assert_eq!(decide_adoption(record, held), wanted, "{record:?} {held:?}");
        }
    }
}
