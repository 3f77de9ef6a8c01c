//! Connections to receivers: made when there is something to send, made anew when they break. Each try has a time limit, so
//! that a receiver which accepts and never reads holds up its own container's deliveries alone.

use std::io::{self, Write};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};

use super::options::{self, Address};
use crate::core::blocking;
use crate::{LogConfig, Result};

const PATIENCE: Duration = Duration::from_secs(5);
/// What a GELF datagram may carry before it is sent in pieces: what a path of 1,500 bytes takes.
const GELF_CHUNK: usize = 1420;
/// The protocol's own limit.
const GELF_CHUNKS_MAX: usize = 128;

#[derive(Debug)]
pub(super) struct Sink {
    address: Address,
    form: Form,
    connection: Option<Connection>,
    /// Numbers GELF messages that are sent in pieces.
    count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Gelf(Squeeze),
    /// A message ends with a zero byte.
    GelfStream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Squeeze {
    Not,
    Gzip(u32),
    Zlib(u32),
}

#[derive(Debug)]
enum Connection {
    Unixgram(UnixDatagram),
    Udp(UdpSocket),
    UnixStream(UnixStream),
    Tcp(TcpStream),
}

impl Sink {
    pub(super) fn new(log: &LogConfig) -> Result<Self> {
        let option = |name: &str| log.options.get(name).map(String::as_str);
        let (address, form) = match log.driver.as_str() {
            "syslog" => (options::syslog_address(log)?, Form::Plain),
            "fluentd" => (options::fluentd_address(log)?, Form::Plain),
            "gelf" => {
                let address = options::gelf_address(log)?;
                // Docker's own default.
                let level = option("gelf-compression-level").and_then(|l| l.parse::<i8>().ok()).unwrap_or(1);
                let level = u32::try_from(level).unwrap_or(6);
                let form = match (&address, option("gelf-compression-type")) {
                    (Address::Tcp(_), _) => Form::GelfStream,
                    (_, Some("none")) => Form::Gelf(Squeeze::Not),
                    (_, Some("zlib")) => Form::Gelf(Squeeze::Zlib(level)),
                    _ => Form::Gelf(Squeeze::Gzip(level)),
                };
                (address, form)
            }
            _ => (Address::Unixgram(options::JOURNALD.into()), Form::Plain),
        };
        Ok(Self { address, form, connection: None, count: 0 })
    }

    /// Sends one message whole, or tells why it was not taken; then the next try makes a new connection.
    pub(super) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let sent = tokio::time::timeout(PATIENCE, self.try_send(message)).await;
        let sent = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if sent.is_err() {
            self.connection = None;
        }
        sent
    }

    async fn try_send(&mut self, message: &[u8]) -> io::Result<()> {
        if let Some(connection) = &self.connection
            && connection.is_closed()
        {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(&self.address).await?),
        };
        match self.form {
            Form::Plain => connection.write(message).await,
            Form::GelfStream => {
                let mut whole = message.to_vec();
                whole.push(0);
                connection.write(&whole).await
            }
            Form::Gelf(squeeze) => {
                self.count += 1;
                for datagram in gelf_datagrams(&squeezed(message, squeeze)?, self.count)? {
                    connection.write(&datagram).await?;
                }
                Ok(())
            }
        }
    }
}

impl Connection {
    async fn open(address: &Address) -> io::Result<Self> {
        let found = |name: &str| {
            let name = name.to_owned();
            blocking(move || options::resolve(&name))
        };
        Ok(match address {
            Address::Unixgram(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Self::Unixgram(socket)
            }
            Address::UnixStream(path) => Self::UnixStream(UnixStream::connect(path).await?),
            Address::Udp(name) => {
                let to = found(name).await?;
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(to).await?;
                Self::Udp(socket)
            }
            Address::Tcp(name) => Self::Tcp(TcpStream::connect(found(name).await?).await?),
        })
    }

    /// Whether the other side has said that it is done: what would be written now would be lost.
    fn is_closed(&self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::UnixStream(stream) => stream.try_read(&mut byte),
            _ => return false,
        };
        match read {
            Ok(count) => count == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unixgram(socket) => socket.send(bytes).await.map(drop),
            Self::Udp(socket) => match socket.send(bytes).await {
                // The answer to an earlier datagram: nobody listens there. Datagrams are sent regardless.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                other => other.map(drop),
            },
            Self::UnixStream(stream) => stream.write_all(bytes).await,
            Self::Tcp(stream) => stream.write_all(bytes).await,
        }
    }
}

fn squeezed(message: &[u8], squeeze: Squeeze) -> io::Result<Vec<u8>> {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    match squeeze {
        Squeeze::Not => Ok(message.to_vec()),
        Squeeze::Gzip(level) => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
            encoder.write_all(message)?;
            encoder.finish()
        }
        Squeeze::Zlib(level) => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(level));
            encoder.write_all(message)?;
            encoder.finish()
        }
    }
}

/// One datagram, or pieces that the receiver puts together by their number.
fn gelf_datagrams(message: &[u8], count: u64) -> io::Result<Vec<Vec<u8>>> {
    if message.len() <= GELF_CHUNK {
        return Ok(vec![message.to_vec()]);
    }
    let pieces: Vec<&[u8]> = message.chunks(GELF_CHUNK - 12).collect();
    if pieces.len() > GELF_CHUNKS_MAX {
        // It would never arrive: saying that it was sent is all that lets the next one go.
        tracing::warn!(bytes = message.len(), "a line is too long for gelf and was left out");
        return Ok(Vec::new());
    }
    let id = (u64::from(std::process::id()) << 40) ^ count;
    let all = pieces.len() as u8;
    Ok(pieces
        .into_iter()
        .enumerate()
        .map(|(at, piece)| {
            let mut datagram = vec![0x1e, 0x0f];
            datagram.extend(id.to_be_bytes());
            datagram.extend([at as u8, all]);
            datagram.extend(piece);
            datagram
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_gelf_messages_go_in_pieces() {
        assert_eq!(gelf_datagrams(&[7; 1420], 1).unwrap(), [vec![7; 1420]]);
        let pieces = gelf_datagrams(&[7; 3000], 1).unwrap();
        assert_eq!(
            pieces.iter().map(|p| (p.len(), p[10], p[11])).collect::<Vec<_>>(),
            [(1420, 0, 3), (1420, 1, 3), (196, 2, 3)]
        );
        assert!(pieces.iter().all(|p| p[..2] == [0x1e, 0x0f] && p[2..10] == pieces[0][2..10]));
        assert!(gelf_datagrams(&vec![7; 200 << 10], 1).unwrap().is_empty());
    }
}
