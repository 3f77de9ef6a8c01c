//! A small blocking HTTP/1.1 client: what a command needs to talk to one engine, and nothing that costs time at start.
//!
//! One connection is kept for the next request when the answer was read to its end. Answers are read with limits on
//! their head; bodies are streams. It never follows redirects and never speaks TLS.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Unix(PathBuf),
    Tcp(String),
}

impl Host {
    /// `unix:///path` or `tcp://address:port`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(format!(
                    "invalid host {}: a unix socket needs an absolute path",
                    crate::text::quoted(text)
                ));
            }
            return Ok(Host::Unix(path.into()));
        }
        if let Some(address) = text.strip_prefix("tcp://") {
            return Ok(Host::Tcp(address.trim_end_matches('/').to_owned()));
        }
        Err(format!("invalid host {}: expected unix:///PATH or tcp://ADDRESS:PORT", crate::text::quoted(text)))
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Host::Unix(path) => write!(f, "unix://{}", path.display()),
            Host::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub fn connect(host: &Host) -> io::Result<Self> {
        Ok(match host {
            Host::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            Host::Tcp(address) => Stream::Tcp(TcpStream::connect(address)?),
        })
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
        })
    }

    /// Says that nothing more will be written: the end of standard input for attach and exec.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
            Stream::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
        }
    }

    /// Wakes a thread that reads this stream.
    pub fn shutdown(&self) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(std::net::Shutdown::Both),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(buffer),
            Stream::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(buffer),
            Stream::Tcp(stream) => stream.write(buffer),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What goes with a request.
pub enum Body<'a> {
    Empty,
    /// No body, but credentials for a registry in a header.
    Registry(Option<&'a str>),
    Json(&'a serde_json::Value),
    /// Sent in chunks until the reader ends.
    /// Credentials for registries may go along in a header.
    Stream {
        reader: &'a mut dyn Read,
        kind: &'static str,
        logins: Option<&'a str>,
    },
}

/// The size at which an answer's head is refused.
const HEAD_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
enum Framing {
    Length(u64),
    /// Bytes left of the current chunk; none before the first and after each.
    Chunked(Option<u64>),
    UntilClose,
    Done,
}

/// An answer, with its body still to be read.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    reader: BufReader<Stream>,
    keep: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The connection, if the whole answer was read and the server keeps it open.
    pub(super) fn into_idle(self) -> Option<Stream> {
        let done = matches!(self.framing, Framing::Done | Framing::Length(0));
        (done && self.keep && self.reader.buffer().is_empty()).then(|| self.reader.into_inner())
    }

    /// For an answer that turned the connection into a plain byte stream: what was read ahead, and the stream.
    pub(super) fn into_raw(self) -> (Vec<u8>, Stream) {
        (self.reader.buffer().to_vec(), self.reader.into_inner())
    }

    fn chunk_left(&mut self, left: Option<u64>) -> io::Result<u64> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("bad chunked answer: {what}"));
        if let Some(left) = left {
            if left > 0 {
                return Ok(left);
            }
            let mut end = [0; 2];
            self.reader.read_exact(&mut end)?;
            if &end != b"\r\n" {
                return Err(bad("no line end after a chunk"));
            }
        }
        let line = read_line(&mut self.reader, 256)?;
        let digits = line.split(';').next().unwrap_or("").trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| bad("no size"))?;
        if size == 0 {
            // Trailers, then the empty line that ends the answer.
            while !read_line(&mut self.reader, 8192)?.is_empty() {}
        }
        Ok(size)
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.framing {
            Framing::Done => Ok(0),
            Framing::UntilClose => self.reader.read(buffer),
            Framing::Length(0) => Ok(0),
            Framing::Length(left) => {
                let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let count = self.reader.read(&mut buffer[..want])?;
                if count == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ended early"));
                }
                self.framing = Framing::Length(left - count as u64);
                Ok(count)
            }
            Framing::Chunked(left) => {
                let left = self.chunk_left(left)?;
                if left == 0 {
                    self.framing = Framing::Done;
                    return Ok(0);
                }
                let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let count = self.reader.read(&mut buffer[..want])?;
                if count == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ended inside a chunk"));
                }
                self.framing = Framing::Chunked(Some(left - count as u64));
                Ok(count)
            }
        }
    }
}

/// Writes one request and reads the head of its answer. `upgrade` asks for a plain byte stream afterwards.
pub fn exchange(mut stream: Stream, method: &str, target: &str, body: Body<'_>, upgrade: bool) -> io::Result<Response> {
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nHost: knarr\r\nUser-Agent: knarr/{}\r\n", env!("CARGO_PKG_VERSION"));
    if upgrade {
        head.push_str("Connection: Upgrade\r\nUpgrade: tcp\r\n");
    }
    let sent = match body {
        Body::Empty => {
            if method != "GET" && method != "HEAD" {
                head.push_str("Content-Length: 0\r\n");
            }
            head.push_str("\r\n");
            stream.write_all(head.as_bytes())
        }
        Body::Registry(credentials) => {
            if let Some(credentials) = credentials {
                head.push_str(&format!("X-Registry-Auth: {credentials}\r\n"));
            }
            if method != "GET" {
                head.push_str("Content-Length: 0\r\n");
            }
            head.push_str("\r\n");
            stream.write_all(head.as_bytes())
        }
        Body::Json(value) => {
            let text = value.to_string();
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
            stream.write_all(head.as_bytes())
        }
        Body::Stream { reader, kind, logins } => {
            if let Some(logins) = logins {
                head.push_str(&format!("X-Registry-Config: {logins}\r\n"));
            }
            head.push_str(&format!("Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"));
            stream.write_all(head.as_bytes())?;
            send_chunks(&mut stream, reader)?
        }
    };
    // A server that refuses a body may answer and close before it has read all of it: its answer is worth more than our EPIPE.
    if let Err(error) = &sent
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        sent?;
    }
    read_head(BufReader::with_capacity(32 << 10, stream), method == "HEAD")
}

/// The outer error is the reader's, the inner one the connection's.
fn send_chunks(stream: &mut Stream, reader: &mut dyn Read) -> io::Result<io::Result<()>> {
    const SIZE: usize = 256 << 10;
    // The chunk's length goes in front of the data in the same buffer, so that each chunk is one write.
    let mut buffer = vec![0; SIZE + 10];
    loop {
        let count = match reader.read(&mut buffer[8..SIZE + 8]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if count == 0 {
            return Ok(stream.write_all(b"0\r\n\r\n"));
        }
        buffer[..8].copy_from_slice(format!("{count:06x}\r\n").as_bytes());
        buffer[8 + count..10 + count].copy_from_slice(b"\r\n");
        if let Err(error) = stream.write_all(&buffer[..10 + count]) {
            return Ok(Err(error));
        }
    }
}

fn read_line(reader: &mut impl BufRead, limit: usize) -> io::Result<String> {
    let mut line = Vec::new();
    reader.take(limit as u64).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        let kind = if line.len() + 1 >= limit { io::ErrorKind::InvalidData } else { io::ErrorKind::UnexpectedEof };
        return Err(io::Error::new(kind, "the connection ended inside an answer's head"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "an answer's head is not text"))
}

fn read_head(mut reader: BufReader<Stream>, no_body: bool) -> io::Result<Response> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP answer: {what}"));
    loop {
        let line = read_line(&mut reader, 8192)?;
        let mut words = line.splitn(3, ' ');
        if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
            return Err(bad(&crate::text::quoted(&line)));
        }
        let status: u16 = words.next().and_then(|code| code.parse().ok()).ok_or_else(|| bad("no status"))?;
        let mut headers = Vec::new();
        let mut size = 0;
        loop {
            let line = read_line(&mut reader, 16 << 10)?;
            if line.is_empty() {
                break;
            }
            size += line.len();
            if size > HEAD_BYTES_MAX {
                return Err(bad("its head is too long"));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        // 100 Continue and its like announce the real answer.
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let find = |wanted: &str| {
            headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
        };
        let keep = !find("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let framing = if no_body || status == 204 || status == 304 {
            Framing::Done
        } else if find("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            Framing::Chunked(None)
        } else if let Some(length) = find("content-length") {
            Framing::Length(length.parse().map_err(|_| bad("a bad Content-Length"))?)
        } else {
            Framing::UntilClose
        };
        return Ok(Response { status, headers, framing, reader, keep });
    }
}

/// One path segment or query value, percent-encoded.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves one canned answer and gives back what was asked.
    fn against(
        answer: &'static [u8],
        ask: impl FnOnce(Stream) -> io::Result<Response>,
    ) -> (io::Result<(u16, Vec<u8>, bool)>, String) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            theirs.write_all(answer).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            let mut asked = Vec::new();
            theirs.read_to_end(&mut asked).unwrap();
            String::from_utf8(asked).unwrap()
        });
        let result = ask(Stream::Unix(ours)).and_then(|mut response| {
            let mut body = Vec::new();
            response.read_to_end(&mut body)?;
            Ok((response.status, body, response.into_idle().is_some()))
        });
        (result, server.join().unwrap())
    }

    fn get(stream: Stream) -> io::Result<Response> {
        exchange(stream, "GET", "/x", Body::Empty, false)
    }

    #[test]
    fn answers_are_framed_by_length_chunks_or_the_end() {
        let cases: [(&'static [u8], &[u8], bool); 5] = [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", true),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
                b"hello",
                true,
            ),
            (b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello", false),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
                b"x",
                false,
            ),
            (b"HTTP/1.1 204 No Content\r\n\r\n", b"", true),
        ];
        for (answer, body, kept) in cases {
            let (result, _) = against(answer, get);
            let (_, found, idle) = result.unwrap();
            assert_eq!((found.as_slice(), idle), (body, kept), "{}", String::from_utf8_lossy(answer));
        }
    }

    #[test]
    fn broken_answers_are_errors() {
        let cases: [&'static [u8]; 6] = [
            b"",
            b"hello\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        ];
        for answer in cases {
            assert!(against(answer, get).0.is_err(), "{}", String::from_utf8_lossy(answer));
        }
    }

    #[test]
    fn a_stream_is_sent_in_chunks() {
        let (_, asked) = against(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", |stream| {
            exchange(
                stream,
                "POST",
                "/load",
                Body::Stream { reader: &mut &b"hello"[..], kind: "application/x-tar", logins: None },
                false,
            )
        });
        assert!(asked.ends_with("\r\n\r\n000005\r\nhello\r\n0\r\n\r\n"), "{asked}");
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(encode("a/b:1?x&y z"), "a%2Fb%3A1%3Fx%26y%20z");
    }
}
