//! Messages in the two formats of runc's log: to stderr, or to the file that `--log` names.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Debug)]
pub(super) struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
}

impl Log {
    pub(super) fn open(path: Option<&str>, format: Option<&str>, debug: bool) -> Result<Self, String> {
        let format = match format {
            None | Some("text" | "") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => return Err(format!("invalid log-format: {other}")),
        };
        let file = match path.filter(|path| !path.is_empty()) {
            None => None,
            Some(path) => Some(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .mode(0o644)
                    .open(path)
                    .map_err(|error| format!("open log {path}: {error}"))?,
            ),
        };
        Ok(Self { file, format, debug })
    }

    /// Whether [`Self::debug`] does anything: for messages that cost something to make.
    pub(super) const fn debugs(&self) -> bool {
        self.debug
    }

    pub(super) fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    pub(super) fn warn(&self, message: &str) {
        self.write("warning", message);
    }

    /// The end of a command that failed: in the log, and for the person who typed it.
    pub(super) fn fatal(&self, message: &str) {
        self.write("error", message);
        if self.file.is_some() {
            eprintln!("{message}");
        }
    }

    fn write(&self, level: &str, message: &str) {
        let line = line(self.format, level, message, &timestamp(linux::process::wall_clock(), false));
        let _ = match &self.file {
            Some(file) => {
                let mut file: &File = file;
                file.write_all(line.as_bytes())
            }
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

fn line(format: Format, level: &str, message: &str, time: &str) -> String {
    match format {
        Format::Text => format!("time=\"{time}\" level={level} msg={}\n", serde_json::Value::from(message)),
        Format::Json => {
            format!("{{\"level\":\"{level}\",\"msg\":{},\"time\":\"{time}\"}}\n", serde_json::Value::from(message))
        }
    }
}

/// RFC 3339 in UTC, with nanoseconds if asked for.
pub(super) fn timestamp((seconds, nanos): (i64, u32), fine: bool) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Civil date from days since 1970 (Hinnant's algorithm): eras of 400 years, years that start in March.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = if fine { format!(".{nanos:09}") } else { String::new() };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp((0, 0), false), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp((951_782_399, 5), true), "2000-02-28T23:59:59.000000005Z");
        assert_eq!(timestamp((951_868_799, 0), false), "2000-02-29T23:59:59Z");
        assert_eq!(timestamp((1_795_223_532, 0), false), "2026-11-21T01:12:12Z");
    }

    #[test]
    fn lines_are_what_tools_parse() {
        assert_eq!(line(Format::Text, "error", "a \"b\"", "T"), "time=\"T\" level=error msg=\"a \\\"b\\\"\"\n");
        assert_eq!(
            line(Format::Json, "error", "a\nb", "T"),
            "{\"level\":\"error\",\"msg\":\"a\\nb\",\"time\":\"T\"}\n"
        );
    }
}
