//! Asks other name servers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use vocab::dns::Question;

use crate::{Transport, random, read_message, write_message};

/// For one of the servers.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first answer of any server, in this order, with the question's own number. `None`: nobody answers.
pub async fn ask(servers: &[SocketAddr], query: &[u8], question: &Question, transport: Transport) -> Option<Vec<u8>> {
    for server in servers {
        let asked = async {
            match transport {
                Transport::Udp => ask_udp(query, question, *server).await,
                Transport::Tcp => ask_tcp(query, question, *server).await,
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
