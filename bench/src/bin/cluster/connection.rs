//! The smallest HTTPS client that can load a server without being what is measured: HTTP/1.1, one connection, one
//! request at a time, a thread each.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::Failure;

/// What a kubeconfig says: where, and as whom.
#[derive(Clone)]
pub struct Access {
    pub address: SocketAddr,
    pub tls: Arc<ClientConfig>,
}

impl Default for Access {
    fn default() -> Self {
        let tls = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), tls: Arc::new(tls) }
    }
}

impl Access {
    /// Reads the few lines of a kubeconfig that matter here.
    pub fn parse(kubeconfig: &str) -> Result<Self, Failure> {
        let line = |name: &str| {
            let found = kubeconfig.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
            found.ok_or_else(|| format!("the kubeconfig has no {name}"))
        };
        let data = |name: &str| -> Result<Vec<u8>, Failure> {
            Ok(base64::engine::general_purpose::STANDARD.decode(line(name)?)?)
        };
        let address = line("server")?.trim_start_matches("https://").parse()?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&data("certificate-authority-data")?) {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&data("client-certificate-data")?).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&data("client-key-data")?)?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        Ok(Self { address, tls: Arc::new(tls) })
    }

    pub fn server_name(&self) -> ServerName<'static> {
        ServerName::from(self.address.ip())
    }
}

/// A socket that is read in large pieces: rustls asks for small ones.
struct Socket(BufReader<TcpStream>);

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}

pub struct Connection {
    stream: StreamOwned<ClientConnection, Socket>,
    /// Bytes read that belong to no answer yet.
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// What was kept of the body, all of it unless it was only counted.
    pub body: Vec<u8>,
    pub length: usize,
}

impl Connection {
    pub fn open(access: &Access) -> Result<Self, Failure> {
        let socket = TcpStream::connect(access.address)?;
        socket.set_nodelay(true)?;
        let tls = ClientConnection::new(access.tls.clone(), access.server_name())?;
        Ok(Self {
            stream: StreamOwned::new(tls, Socket(BufReader::with_capacity(256 << 10, socket))),
            buffer: Vec::with_capacity(64 << 10),
        })
    }

    /// Asks and reads the whole answer.
    pub fn call(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Result<Answer, Failure> {
        self.exchange(method, path, headers, body, true)
    }

    /// Asks and counts the answer's bytes, so that a large one costs this side nothing.
    pub fn count(&mut self, path: &str, headers: &[&str]) -> Result<Answer, Failure> {
        self.exchange("GET", path, headers, b"", false)
    }

    /// Asks and fails unless the answer has this code.
    pub fn expect(
        &mut self,
        code: u16,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Result<Answer, Failure> {
        let answer = self.call(method, path, headers, body)?;
        match answer.status == code {
            true => Ok(answer),
            false => {
                let text = String::from_utf8_lossy(&answer.body);
                Err(format!("{method} {path}: {} {text}", answer.status).into())
            }
        }
    }

    fn exchange(
        &mut self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &[u8],
        keep: bool,
    ) -> Result<Answer, Failure> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench/1\r\n").into_bytes();
        for header in headers {
            request.extend_from_slice(header.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(body);
        self.stream.write_all(&request)?;
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect())?.to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("not an answer in HTTP")?;
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mut answer = Answer { status, body: Vec::new(), length: 0 };
        if header("transfer-encoding:") == Some("chunked") {
            loop {
                let line = loop {
                    if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                        break at;
                    }
                    self.fill()?;
                };
                let size = usize::from_str_radix(std::str::from_utf8(&self.buffer[..line])?, 16)?;
                self.buffer.drain(..line + 2);
                self.take(size, keep, &mut answer)?;
                self.take(2, false, &mut Answer { status: 0, body: Vec::new(), length: 0 })?;
                if size == 0 {
                    return Ok(answer);
                }
            }
        }
        let length = header("content-length:").ok_or("an answer without a length")?.parse()?;
        self.take(length, keep, &mut answer)?;
        Ok(answer)
    }

    fn take(&mut self, mut size: usize, keep: bool, answer: &mut Answer) -> Result<(), Failure> {
        while size > 0 {
            if self.buffer.is_empty() {
                self.fill()?;
            }
            let part = size.min(self.buffer.len());
            if keep {
                answer.body.extend_from_slice(&self.buffer[..part]);
            }
            self.buffer.drain(..part);
            answer.length += part;
            size -= part;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), Failure> {
        let mut chunk = [0; 32 << 10];
        let count = self.stream.read(&mut chunk)?;
        if count == 0 {
            return Err("the server ended the connection".into());
        }
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(())
    }
}
