//! What a health check's results mean. Pure: times come in, a status goes out; the rules are Docker's.

use std::time::Duration;

use crate::{ContainerConfig, Error, Health, HealthProbe, HealthStatus, Result};

/// How many probes are remembered.
const REMEMBERED: usize = 5;
/// How much a probe may say, bytes.
pub(crate) const OUTPUT_MAX: usize = 4096;

/// What is to be done when a container becomes unhealthy; Docker knows nothing but to say so.
pub(crate) const ACTION_LABEL: &str = "io.knarr.health-on-failure";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnFailure {
    Nothing,
    Kill,
    Restart,
    Stop,
}

/// A check with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) command: Vec<String>,
    interval: Duration,
    pub(crate) timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
    pub(crate) on_failure: OnFailure,
}

impl Check {
    /// The container's check; `None` if it has none or one that is switched off.
    pub(crate) fn of(config: &ContainerConfig) -> Option<Self> {
        let asked = config.healthcheck.as_ref()?;
        let (kind, words) = asked.test.split_first()?;
        let command = match kind.as_str() {
            "CMD" => words.to_vec(),
            "CMD-SHELL" => {
                let shell = config.shell.clone().filter(|shell| !shell.is_empty());
                let mut command = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
                command.extend(words.iter().cloned());
                command
            }
            _ => return None,
        };
        if command.is_empty() {
            return None;
        }
        let or = |time: Duration, default: u64| if time.is_zero() { Duration::from_secs(default) } else { time };
        Some(Self {
            command,
            interval: or(asked.interval, 30),
            timeout: or(asked.timeout, 30),
            start_period: asked.start_period,
            start_interval: or(asked.start_interval, 5),
            retries: if asked.retries == 0 { 3 } else { asked.retries },
            on_failure: on_failure(config).unwrap_or(OnFailure::Nothing),
        })
    }

    /// How long to wait before the next probe.
    pub(crate) fn wait(&self, status: HealthStatus, since_start: Duration) -> Duration {
        if status == HealthStatus::Starting && since_start < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }

    /// Takes a probe's result in. Returns the status if it has changed. A failure before the first success and within the
    /// start period counts for nothing.
    pub(crate) fn judge(
        &self,
        health: &mut Health,
        probe: HealthProbe,
        begun_after_start: Duration,
    ) -> Option<HealthStatus> {
        let before = health.status;
        if probe.exit_code == 0 {
            health.failing_streak = 0;
            health.status = HealthStatus::Healthy;
        } else if before != HealthStatus::Starting || begun_after_start >= self.start_period {
            health.failing_streak += 1;
            if health.failing_streak >= self.retries {
                health.status = HealthStatus::Unhealthy;
            }
        }
        if health.log.len() >= REMEMBERED {
            health.log.drain(..=health.log.len() - REMEMBERED);
        }
        health.log.push(probe);
        (health.status != before).then_some(health.status)
    }
}

/// What the label asks for.
pub(crate) fn on_failure(config: &ContainerConfig) -> Result<OnFailure> {
    Ok(match config.labels.get(ACTION_LABEL).map(String::as_str) {
        None | Some("" | "none") => OnFailure::Nothing,
        Some("kill") => OnFailure::Kill,
        Some("restart") => OnFailure::Restart,
        Some("stop") => OnFailure::Stop,
        Some(other) => {
            return Err(Error::Invalid(format!(
                "label {ACTION_LABEL}: {other:?} is none of \"none\", \"kill\", \"restart\" and \"stop\""
            )));
        }
    })
}

/// What a probe wrote, as it is kept.
pub(crate) fn output_text(bytes: &[u8], truncated: bool) -> String {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    if truncated {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Healthcheck;

    fn config(test: &[&str], start_period: u64, retries: u32) -> ContainerConfig {
        ContainerConfig {
            healthcheck: Some(Healthcheck {
                test: test.iter().map(|word| (*word).to_owned()).collect(),
                start_period: Duration::from_secs(start_period),
                retries,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn probe(exit_code: i32) -> HealthProbe {
        let at = jiff::Timestamp::UNIX_EPOCH;
        HealthProbe { started_at: at, finished_at: at, exit_code, output: String::new() }
    }

    #[test]
    fn a_check_is_what_its_first_word_says() {
        let command = |test: &[&str]| Check::of(&config(test, 0, 0)).map(|check| check.command.join("|"));
        assert_eq!(command(&["CMD", "true", "x y"]).unwrap(), "true|x y");
        assert_eq!(command(&["CMD-SHELL", "a && b"]).unwrap(), "/bin/sh|-c|a && b");
        assert_eq!(command(&["NONE"]), None);
        assert_eq!(command(&["CMD"]), None);
        assert_eq!(command(&[]), None);
    }

    #[test]
    fn statuses_follow_results() {
        // (seconds after the start, exit code) -> status, streak
        type Row = (&'static [(u64, i32)], HealthStatus, u32);
        let rows: [Row; 5] = [
            (&[(1, 1), (2, 1), (3, 1)], HealthStatus::Starting, 0),
            (&[(1, 1), (11, 1), (12, 1)], HealthStatus::Unhealthy, 2),
            (&[(1, 0), (2, 1)], HealthStatus::Healthy, 1),
            (&[(1, 0), (2, 1), (3, -1)], HealthStatus::Unhealthy, 2),
            (&[(11, 1), (12, 1), (13, 0)], HealthStatus::Healthy, 0),
        ];
        let check = Check::of(&config(&["CMD", "x"], 10, 2)).unwrap();
        for (results, status, streak) in rows {
            let mut health = Health { status: HealthStatus::Starting, ..Default::default() };
            for (after, code) in results {
                check.judge(&mut health, probe(*code), Duration::from_secs(*after));
            }
            assert_eq!((health.status, health.failing_streak), (status, streak), "{results:?}");
        }
    }

    #[test]
    fn the_log_keeps_five_and_changes_are_told_once() {
        let check = Check::of(&config(&["CMD", "x"], 0, 1)).unwrap();
        let mut health = Health { status: HealthStatus::Starting, ..Default::default() };
        let told: Vec<_> =
            [0, 0, 1, 1, 0, 1, 1].map(|code| check.judge(&mut health, probe(code), Duration::ZERO)).to_vec();
        use HealthStatus::{Healthy, Unhealthy};
        assert_eq!(told, [Some(Healthy), None, Some(Unhealthy), None, Some(Healthy), Some(Unhealthy), None]);
        assert_eq!(health.log.iter().map(|p| p.exit_code).collect::<Vec<_>>(), [1, 1, 0, 1, 1]);
    }

    #[test]
    fn the_start_period_has_a_rhythm_of_its_own() {
        let check = Check::of(&config(&["CMD", "x"], 10, 0)).unwrap();
        let wait = |status, secs| check.wait(status, Duration::from_secs(secs)).as_secs();
        assert_eq!(wait(HealthStatus::Starting, 1), 5);
        assert_eq!(wait(HealthStatus::Starting, 10), 30);
        assert_eq!(wait(HealthStatus::Healthy, 1), 30);
    }
}
