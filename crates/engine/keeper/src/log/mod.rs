//! Container output as log records: which bytes of a batch are ready, how they are encoded, and where a killed writer's
//! successor continues. Everything here is pure; the keeper's loop does the system calls.
//!
//! One batch of one stream, in the loop's order of calls:
//!
//! 1. `tee` the container's pipe into a scratch pipe and read that: the bytes are seen, and still in the container's pipe
//! 2. [`ready`] says how many of them make whole records (a line waits in the pipe until its newline comes)
//! 3. encode them ([`Format::encode`]) and write down the [`Intent`] in memory shared with the engine
//! 4. append to the log file
//! 5. `splice` exactly those bytes from the container's pipe into the *sink*, a pipe that the engine also holds
//! 6. clear the intent, then empty the sink
//!
//! Whoever writes after a `kill -9` at any of these steps asks [`recover`] what is left to do. Nobody else puts bytes into
//! the sink, so its fill level says how far step 5 came, which the container's own pipe could not: its writer goes on.

mod cri;
mod json_file;
mod recover;

pub use recover::{Intent, Recovery, recover};

/// The longest record; a longer line is split, as Docker and containerd do (bytes).
pub const RECORD_MAX: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Format {
    /// Docker's json-file: `{"log":"line\n","stream":"stdout","time":"2026-01-01T00:00:00.000000001Z"}`.
    JsonFile,
    /// The CRI text format: `2026-01-01T00:00:00.000000001Z stdout F line`.
    Cri,
}

impl Format {
    /// Appends the records for `bytes` (which [`ready`] has measured) to `out`. `time` is RFC 3339 in UTC with nine
    /// digits of a second, as Docker and the kubelet parse it.
    pub fn encode(self, bytes: &[u8], stream: Stream, time: &str, out: &mut Vec<u8>) {
        match self {
            Self::JsonFile => json_file::encode(bytes, stream, time, out),
            Self::Cri => cri::encode(bytes, stream, time, out),
        }
    }
}

/// How many leading bytes can be written now: up to the last newline, or whole records of a line longer than
/// [`RECORD_MAX`]; everything when the stream has ended.
pub fn ready(bytes: &[u8], ended: bool) -> usize {
    if ended {
        return bytes.len();
    }
    let lines = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    lines + (bytes.len() - lines) / RECORD_MAX * RECORD_MAX
}

/// The records of a batch: lines with their newline, split at [`RECORD_MAX`].
fn records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let window = &rest[..rest.len().min(RECORD_MAX)];
        // A line of exactly RECORD_MAX bytes keeps its newline: it would otherwise become an empty record of its own.
        let end = match window.iter().position(|&byte| byte == b'\n') {
            Some(at) => at + 1,
            None if rest.get(RECORD_MAX) == Some(&b'\n') => RECORD_MAX + 1,
            None => window.len(),
        };
        let (record, after) = rest.split_at(end);
        rest = after;
        Some(record)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_waits_for_its_newline() {
        let long = vec![b'x'; RECORD_MAX + 10];
        let rows: [(&[u8], bool, usize); 7] = [
            (b"", false, 0),
            (b"prompt> ", false, 0),
            (b"prompt> ", true, 8),
            (b"a\nb", false, 2),
            (b"a\nb\n", false, 4),
            (&long, false, RECORD_MAX),
            (&long, true, RECORD_MAX + 10),
        ];
        for (bytes, ended, expected) in rows {
            assert_eq!(ready(bytes, ended), expected, "{} bytes, ended {ended}", bytes.len());
        }
    }

    #[test]
    fn records_are_lines_or_pieces_of_long_lines() {
        let mut long = vec![b'x'; RECORD_MAX];
        long.push(b'\n');
        long.extend(vec![b'y'; RECORD_MAX + 1]);
        let lengths: Vec<_> = records(&long).map(<[u8]>::len).collect();
        assert_eq!(lengths, [RECORD_MAX + 1, RECORD_MAX, 1]);
        let lines: Vec<_> = records(b"a\n\nb").collect();
        assert_eq!(lines, [&b"a\n"[..], b"\n", b"b"]);
    }
}
