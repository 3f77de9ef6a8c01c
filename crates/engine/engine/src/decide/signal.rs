//! Signals by name and number, as Docker reads them.

use crate::{Error, Result};

/// The highest signal number of Linux (`SIGRTMAX`).
const HIGHEST: i32 = 64;

const NAMES: [(&str, i32); 33] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
];

/// `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`, `SIGRTMAX-1`.
pub(crate) fn parse_signal(text: &str) -> Result<i32> {
    let refused = || Error::Invalid(format!("invalid signal: {text}"));
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let number: i32 = text.parse().map_err(|_| refused())?;
        return if (1..=HIGHEST).contains(&number) { Ok(number) } else { Err(refused()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let realtime = match name {
        "XFSZ" => Some(25),
        "RTMIN" => Some(34),
        "RTMAX" => Some(HIGHEST),
        _ => {
            let up = name.strip_prefix("RTMIN+").and_then(|n| n.parse::<u8>().ok()).map(|n| 34 + i32::from(n));
            let down = name.strip_prefix("RTMAX-").and_then(|n| n.parse::<u8>().ok()).map(|n| HIGHEST - i32::from(n));
            up.or(down)
        }
    };
    realtime.filter(|n| *n == 25 || (34..=HIGHEST).contains(n)).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_read_as_docker_reads_them() {
        let rows = [
            ("TERM", Some(15)),
            ("SIGTERM", Some(15)),
            ("sigkill", Some(9)),
            ("9", Some(9)),
            ("64", Some(64)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-14", Some(50)),
            ("XFSZ", Some(25)),
            ("0", None),
            ("65", None),
            ("", None),
            ("-9", None),
            ("RTMAX-40", None),
            ("RTMIN+99999999999", None),
            ("TERMINATE", None),
        ];
        for (text, wanted) in rows {
            assert_eq!(parse_signal(text).ok(), wanted, "{text}");
        }
    }
}
