//! One question over HTTP and its answer. HTTP/1.0, so that the answer ends with the connection and is in no chunks.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::place::Address;

/// Of an answer: a list of a hundred thousand volumes.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// A plugin that is being started again is waited for.
const COMING_BACK: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(50);

#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

#[derive(Debug)]
pub(super) enum Failed {
    /// The question never reached it.
    Unreachable(String),
    Broken(String),
}

/// When an answer has to be there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    began: Instant,
    patience: Duration,
}

impl Deadline {
    pub(super) fn new(patience: Duration) -> Self {
        Self { began: Instant::now(), patience }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.patience.saturating_sub(self.began.elapsed());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

trait Line: Read + Write {
    fn give_up_after(&self, time: Duration) -> io::Result<()>;
}

impl Line for UnixStream {
    fn give_up_after(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

impl Line for TcpStream {
    fn give_up_after(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

/// Blocking.
pub(super) fn post(address: &Address, path: &str, body: &str, deadline: Deadline) -> Result<Answer, Failed> {
    let mut line = reach(address, deadline).map_err(|error| Failed::Unreachable(format!("{address}: {error}")))?;
    let broken = |error: io::Error| {
        Failed::Broken(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("{address}: no answer to {path} within {:?}", deadline.patience)
            }
            _ => format!("{address}: {path}: {error}"),
        })
    };
    ask(&mut *line, path, body, deadline).map_err(broken)
}

fn reach(address: &Address, deadline: Deadline) -> io::Result<Box<dyn Line>> {
    let began = Instant::now();
    loop {
        match connect(address, deadline.left()?) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
                    && began.elapsed() < COMING_BACK
                    && deadline.left()? > BETWEEN =>
            {
                std::thread::sleep(BETWEEN);
            }
            other => return other,
        }
    }
}

fn connect(address: &Address, left: Duration) -> io::Result<Box<dyn Line>> {
    match address {
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path)?)),
        Address::Tcp(host) => {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for place in host.to_socket_addrs()? {
                match TcpStream::connect_timeout(&place, left) {
                    Ok(line) => return Ok(Box::new(line)),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

fn ask(line: &mut dyn Line, path: &str, body: &str, deadline: Deadline) -> io::Result<Answer> {
    let kind = "application/vnd.docker.plugins.v1.2+json";
    let question = format!(
        "POST /{path} HTTP/1.0\r\nHost: plugin\r\nAccept: {kind}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    line.give_up_after(deadline.left()?)?;
    line.write_all(question.as_bytes())?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        // Each read has what is left of the whole time: one byte now and then is no answer.
        line.give_up_after(deadline.left()?)?;
        let count = match line.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        bytes.extend_from_slice(&buffer[..count]);
        if count == 0 || is_whole(&bytes) {
            break;
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other("the answer does not end"));
        }
    }
    parse(&bytes).ok_or_else(|| io::Error::other("the answer is no HTTP"))
}

/// Whether the length that the answer announces has come: some keep the connection open for all that.
fn is_whole(bytes: &[u8]) -> bool {
    let Some((head, body)) = split(bytes) else { return false };
    header(head, "content-length")
        .and_then(|text| text.parse::<usize>().ok())
        .is_some_and(|length| body.len() >= length)
}

fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 4..]))
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let (head, body) = split(bytes)?;
    let mut words = head.split("\r\n").next()?.split(' ');
    let version = words.next()?;
    let status = words.next()?.parse().ok()?;
    let length = header(head, "content-length").map(|text| text.parse::<usize>()).transpose().ok()?;
    // Cut short, or in chunks, which were not asked for.
    if !version.starts_with("HTTP/1.") || length.is_some_and(|length| body.len() < length) {
        return None;
    }
    if header(head, "transfer-encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return None;
    }
    let body = body[..length.unwrap_or(body.len())].to_vec();
    Some(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_or_none() {
        let body =
            |text: &str| parse(text.as_bytes()).map(|answer| (answer.status, String::from_utf8(answer.body).unwrap()));
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\n{}"), Some((200, "{}".into())));
        assert_eq!(body("HTTP/1.1 500 X\r\ncontent-LENGTH: 2\r\n\r\n{}more"), Some((500, "{}".into())));
        for bad in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "SSH-2.0\r\n\r\n",
        ] {
            assert_eq!(body(bad), None, "{bad}");
        }
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n\r\n{}"));
        assert!(is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    }
}
