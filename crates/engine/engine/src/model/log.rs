//! What logs and attach carry.

use jiff::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

/// A piece of output as the process wrote it. With a terminal everything is `Stdout`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub stream: Stream,
    pub bytes: bytes::Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// Not younger than this; with `follow` the stream ends there.
    pub until: Option<Timestamp>,
    /// The last lines only; `None` is all.
    pub tail: Option<u64>,
    /// With the attributes that log options put beside each line.
    pub details: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { stdout: true, stderr: true, follow: false, since: None, until: None, tail: None, details: false }
    }
}

/// One record of the log. A line longer than 16 KiB arrives as several records of which only the last ends in a newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub stream: Stream,
    pub at: Timestamp,
    /// With its newline, if it has one.
    pub line: bytes::Bytes,
    /// By name; empty unless [`LogOptions::details`].
    pub attributes: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Send what the log holds first.
    pub logs: bool,
    /// Then send what comes (without it only the replay is sent).
    pub stream: bool,
}
