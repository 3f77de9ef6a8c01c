//! What tables say about a container, in Docker's words.

use jiff::Timestamp;

use crate::{ContainerState, HealthStatus, Status};

/// The STATUS column.
pub(crate) fn status_text(state: &ContainerState, now: Timestamp) -> String {
    let since = |at: Option<Timestamp>| human_duration(at.map_or(0, |at| now.as_second() - at.as_second()));
    match state.status {
        Status::Running => {
            let up = since(state.started_at);
            match state.health.as_ref().map(|h| h.status) {
                Some(HealthStatus::Starting) => format!("Up {up} (health: starting)"),
                Some(HealthStatus::Healthy) => format!("Up {up} (healthy)"),
                Some(HealthStatus::Unhealthy) => format!("Up {up} (unhealthy)"),
                Some(HealthStatus::None) | None => format!("Up {up}"),
            }
        }
        Status::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at)),
        Status::Removing => "Removal In Progress".into(),
        Status::Dead => "Dead".into(),
        Status::Created => "Created".into(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at)),
    }
}

/// A duration as Go prints it: `500ms`, `1.5s`, `1m30s`. What is below a microsecond is not said.
pub(crate) fn go_duration(duration: std::time::Duration) -> String {
    let (secs, micros) = (duration.as_secs(), duration.subsec_micros());
    let fraction = |whole: u64, part: u32, digits: usize, unit: &str| {
        let text = format!("{whole}.{part:0digits$}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match (secs / 3600, secs / 60 % 60) {
        (0, 0) if secs == 0 && micros == 0 => "0s".into(),
        (0, 0) if secs == 0 && micros < 1000 => format!("{micros}µs"),
        (0, 0) if secs == 0 => fraction(u64::from(micros / 1000), micros % 1000, 3, "ms"),
        (0, 0) => fraction(secs, micros, 6, "s"),
        (0, minutes) => format!("{minutes}m{}", fraction(secs % 60, micros, 6, "s")),
        (hours, minutes) => format!("{hours}h{minutes}m{}", fraction(secs % 60, micros, 6, "s")),
    }
}

/// A length of time in seconds, coarsely: "About a minute", "3 weeks".
pub fn human_duration(secs: i64) -> String {
    let minutes = secs / 60;
    let hours = (secs + 1800) / 3600;
    match () {
        _ if secs < 1 => "Less than a second".into(),
        _ if secs == 1 => "1 second".into(),
        _ if secs < 60 => format!("{secs} seconds"),
        _ if minutes == 1 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", secs / 3600 / 24 / 365),
    }
}

/// The COMMAND column: words with a space are quoted.
pub(crate) fn command_text(program: &str, args: &[String]) -> String {
    let mut text = program.to_owned();
    for arg in args {
        text.push(' ');
        if arg.contains(' ') {
            text.push('\'');
            text.push_str(arg);
            text.push('\'');
        } else {
            text.push_str(arg);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        let rows = [
            (0, "0s"),
            (7, "7µs"),
            (1500, "1.5ms"),
            (100_000, "100ms"),
            (1_000_000, "1s"),
            (1_050_000, "1.05s"),
            (90_000_000, "1m30s"),
            (3_600_000_000, "1h0m0s"),
        ];
        for (micros, text) in rows {
            assert_eq!(go_duration(std::time::Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn durations_are_said_as_docker_says_them() {
        let rows = [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (730 * 86400, "2 years"),
        ];
        for (secs, wanted) in rows {
            assert_eq!(human_duration(secs), wanted, "{secs}");
        }
    }

    #[test]
    fn every_status_has_its_words() {
        let at = |secs| Some(Timestamp::from_second(secs).unwrap());
        let state = |status| ContainerState {
            status,
            exit_code: 3,
            started_at: at(940),
            finished_at: at(995),
            ..Default::default()
        };
        let now = Timestamp::from_second(1000).unwrap();
        let rows = [
            (Status::Created, "Created"),
            (Status::Running, "Up About a minute"),
            (Status::Paused, "Up About a minute (Paused)"),
            (Status::Restarting, "Restarting (3) 5 seconds ago"),
            (Status::Removing, "Removal In Progress"),
            (Status::Exited, "Exited (3) 5 seconds ago"),
            (Status::Dead, "Dead"),
        ];
        for (status, wanted) in rows {
            assert_eq!(status_text(&state(status), now), wanted);
        }
    }

    #[test]
    fn words_with_spaces_are_quoted() {
        assert_eq!(command_text("sh", &["-c".into(), "echo hi".into()]), "sh -c 'echo hi'");
        assert_eq!(command_text("true", &[]), "true");
    }
}
