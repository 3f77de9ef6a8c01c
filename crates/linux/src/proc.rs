//! Readers of `/proc`: only what the engine needs, parsed into values.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::{Attempt, Error, Result};

/// The part of `/proc/PID/stat` that tells one process from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `Z` (ended, not reaped), `T`, …
    pub state: char,
    pub ppid: i32,
    pub session: i32,
    /// Clock ticks after boot.
    pub start_time: u64,
    /// The status word of `wait(2)` of a process that has ended and was not reaped; 0 otherwise, and for a reader without ptrace rights.
    pub exit_status: i32,
}

/// ENOENT or ESRCH if there is no such process.
pub fn stat(pid: i32) -> Result<Stat> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read(&path).attempt("read", format_args!("{path}"))?;
    parse_stat(&text).ok_or_else(|| Error::new("parse", path, Errno::PROTO))
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The command name is in parentheses and may hold any byte, parentheses too.
    let end = text.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let field: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        state: field.first()?.chars().next()?,
        ppid: field.get(1)?.parse().ok()?,
        session: field.get(3)?.parse().ok()?,
        start_time: field.get(19)?.parse().ok()?,
        exit_status: field.get(49).and_then(|status| status.parse().ok()).unwrap_or(0),
    })
}

/// Fields of `/proc/PID/status` by name, such as `Threads`, `NSpid`, `CapEff`; `None` pid is the caller.
pub fn status_field(pid: Option<i32>, name: &str) -> Result<Option<String>> {
    let path = pid.map_or_else(|| "/proc/self/status".to_owned(), |pid| format!("/proc/{pid}/status"));
    let text = std::fs::read_to_string(&path).attempt("read", format_args!("{path}"))?;
    Ok(text
        .lines()
        .find_map(|line| line.split_once(':').filter(|(key, _)| *key == name))
        .map(|(_, v)| v.trim().to_owned()))
}

/// One line of `/proc/PID/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub id: u32,
    pub parent: u32,
    pub major: u32,
    pub minor: u32,
    /// What of the file system is mounted.
    pub root: PathBuf,
    pub target: PathBuf,
    /// Options of this mount.
    pub options: String,
    /// `shared:N`, `master:N`, …
    pub propagation: Vec<String>,
    pub fs_type: String,
    pub source: OsString,
    /// Options of the super block.
    pub super_options: String,
}

/// The mount table of a process (`None`: the caller), in mount order.
pub fn mountinfo(pid: Option<i32>) -> Result<Vec<Mount>> {
    let path = pid.map_or_else(|| "/proc/self/mountinfo".to_owned(), |pid| format!("/proc/{pid}/mountinfo"));
    let text = std::fs::read(&path).attempt("read", format_args!("{path}"))?;
    text.split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_mount(line).ok_or_else(|| {
                Error::new("parse", format_args!("{path}: {}", String::from_utf8_lossy(line)), Errno::PROTO)
            })
        })
        .collect()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let mut text = || fields.next().map(|field| String::from_utf8_lossy(field).into_owned());
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let device = text()?;
    let (major, minor) = device.split_once(':')?;
    let root = unescape(fields.next()?).into();
    let target = unescape(fields.next()?).into();
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    let propagation =
        fields.by_ref().take_while(|f| *f != b"-").map(|f| String::from_utf8_lossy(f).into_owned()).collect();
    Some(Mount {
        id,
        parent,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        root,
        target,
        options,
        propagation,
        fs_type: String::from_utf8_lossy(fields.next()?).into_owned(),
        source: unescape(fields.next()?),
        super_options: String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned(),
    })
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&b, tail)) = rest.split_first() {
        let octal = (b == b'\\').then(|| tail.get(..3)).flatten().and_then(|digits| {
            digits.iter().try_fold(0u32, |n, d| (b'0'..=b'7').contains(d).then(|| n * 8 + u32::from(d - b'0')))
        });
        match octal {
            Some(byte) if byte < 256 => {
                out.push(byte as u8);
                rest = &tail[3..];
            }
            _ => {
                out.push(b);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// Pids of the direct children of one process (its main thread's and all others').
pub fn children(pid: i32) -> Result<Vec<i32>> {
    let dir = format!("/proc/{pid}/task");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).attempt("readdir", format_args!("{dir}"))? {
        let entry = entry.attempt("readdir", format_args!("{dir}"))?;
        // A thread may end while we look.
        if let Ok(text) = std::fs::read_to_string(entry.path().join("children")) {
            found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    Ok(found)
}

/// Seconds since the epoch at which this machine booted, from `/proc/stat`.
pub fn boot_time() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat").attempt("read", format_args!("/proc/stat"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| Error::new("parse", "/proc/stat btime", Errno::PROTO))
}

/// A number that differs after each boot.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path).map(|id| id.trim().to_owned()).attempt("read", format_args!("{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_any_command_name() {
        let line = b"42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        assert_eq!(parse_stat(line), Some(Stat { state: 'S', ppid: 1, session: 3, start_time: 777, exit_status: 0 }));
        assert_eq!(parse_stat(b"42 (a"), None);
        let me = stat(std::process::id() as i32).unwrap();
        assert!(matches!(me.state, 'R' | 'S'), "{me:?}");
    }

    #[test]
    fn mountinfo_is_unescaped() {
        let line = br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:7 - ext3 /dev/ro\134ot rw,errors=continue";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.target, PathBuf::from("/mnt 2"));
        assert_eq!(mount.source, OsString::from("/dev/ro\\ot"));
        assert_eq!(mount.propagation, ["master:1", "shared:7"]);
        assert!(mountinfo(None).unwrap().iter().any(|m| m.target.as_os_str() == "/"));
    }
}
