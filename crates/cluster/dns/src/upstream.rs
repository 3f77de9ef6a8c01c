//! Asks the host's name servers what the cluster does not know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use vocab::dns::Question;

/// For one of the servers.
const PATIENCE: Duration = Duration::from_secs(2);
/// As the C library reads.
const SERVERS_MAX: usize = 3;

/// Where answers of others come from.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The host's `resolv.conf`: it may change while we run.
    file: PathBuf,
    /// Addresses that are ours: asking ourselves would never end.
    own: Vec<IpAddr>,
}

/// How a question came, and goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Upstream {
    pub fn new(file: impl Into<PathBuf>, own: Vec<IpAddr>) -> Self {
        Self { file: file.into(), own }
    }

    async fn servers(&self) -> Vec<SocketAddr> {
        let text = tokio::fs::read_to_string(&self.file).await.unwrap_or_default();
        servers(&text, &self.own)
    }

    /// The first answer of any server, with the question's own number. `None`: nobody answers.
    pub async fn ask(&self, query: &[u8], question: &Question, transport: Transport) -> Option<Vec<u8>> {
        for server in self.servers().await {
            let asked = async {
                match transport {
                    Transport::Udp => ask_udp(query, question, server).await,
                    Transport::Tcp => ask_tcp(query, question, server).await,
                }
            };
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server does not answer"),
                Err(_) => tracing::debug!(%server, "a name server does not answer in time"),
            }
        }
        None
    }
}

/// Pure.
fn servers(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let addresses = named.filter_map(|address| address.split('%').next()?.parse::<IpAddr>().ok());
    addresses.filter(|address| !own.contains(address)).take(SERVERS_MAX).map(|address| (address, 53).into()).collect()
}

/// A new socket for each question: its port and the number are what a forger would have to guess.
async fn ask_udp(query: &[u8], question: &Question, server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = match server.is_ipv4() {
        true => (Ipv4Addr::UNSPECIFIED, 0).into(),
        false => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let id = random()?;
    let mut asked = query.to_vec();
    asked[..2].copy_from_slice(&id.to_be_bytes());
    socket.send(&asked).await?;
    let mut buffer = vec![0; 65535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything else is not for us.
        if question.is_answered_by(id, &buffer[..length]) {
            let mut answer = buffer[..length].to_vec();
            answer[..2].copy_from_slice(&question.id.to_be_bytes());
            return Ok(answer);
        }
    }
}

async fn ask_tcp(query: &[u8], question: &Question, server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    let answer = read_message(&mut stream).await?;
    match question.is_answered_by(question.id, &answer) {
        true => Ok(answer),
        false => Err(std::io::Error::other("an answer to another question")),
    }
}

pub async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub async fn write_message(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let mut bytes = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

pub fn random() -> std::io::Result<u16> {
    let mut bytes = [0; 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_servers_are_asked_but_never_ourselves() {
        let text =
            "search lan\nnameserver 10.96.0.10\n nameserver 9.9.9.9 # one\nnameserver fe80::1%eth0\nnameserver x\n";
        let found: Vec<String> =
            servers(text, &["10.96.0.10".parse().unwrap()]).iter().map(|server| server.to_string()).collect();
        assert_eq!(found, ["9.9.9.9:53", "[fe80::1]:53"]);
    }
}
