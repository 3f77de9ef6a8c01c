//! Health check ports: a balancer from outside asks each node whether it has pods of a service, and sends clients to those that do.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cache::Key;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A client that says nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of one service at a time.
const CLIENTS_MAX: usize = 64;

/// The ports that are answered now.
#[derive(Debug, Default)]
pub struct HealthPorts {
    services: BTreeMap<Key, Answering>,
}

#[derive(Debug)]
struct Answering {
    port: u16,
    local: Arc<AtomicUsize>,
    /// Ends with it.
    _task: JoinSet<()>,
}

impl HealthPorts {
    /// A service has this port, or none, and so many endpoints on this node.
    pub fn set(&mut self, key: &Key, port: Option<u16>, local: usize) {
        let Some(port) = port else {
            self.services.remove(key);
            return;
        };
        if let Some(answering) = self.services.get(key).filter(|answering| answering.port == port) {
            answering.local.store(local, Ordering::Relaxed);
            return;
        }
        self.services.remove(key);
        let bound = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .and_then(tokio::net::TcpListener::from_std);
        let listener = match bound {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(service = %key, port, %error, "nobody answers the health check port");
                return;
            }
        };
        let local = Arc::new(AtomicUsize::new(local));
        let mut task = JoinSet::new();
        task.spawn(serve(listener, key.clone(), local.clone()));
        self.services.insert(key.clone(), Answering { port, local, _task: task });
    }
}

async fn serve(listener: tokio::net::TcpListener, key: Key, local: Arc<AtomicUsize>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                Ok((stream, _)) => {
                    let text = answer(&key, local.load(Ordering::Relaxed));
                    drop(clients.spawn(async move { drop(tokio::time::timeout(PATIENCE, say(stream, text)).await) }));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// Whatever is asked, the answer is the same; the request's head is read so that the client is not cut off.
async fn say(mut stream: TcpStream, text: String) -> std::io::Result<()> {
    let mut head = vec![0; 4096];
    let mut length = 0;
    while length < head.len() && !head[..length].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut head[length..]).await? {
            0 => break,
            read => length += read,
        }
    }
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// As upstream's proxy says it.
fn answer(key: &Key, local: usize) -> String {
    let status = if local > 0 { "200 OK" } else { "503 Service Unavailable" };
    let service = serde_json::json!({"namespace": key.namespace, "name": key.name});
    let body =
        serde_json::json!({"service": service, "localEndpoints": local, "serviceProxyHealthy": true}).to_string();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {local}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    #[tokio::test]
    async fn a_node_says_how_many_endpoints_it_has() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let (mut ports, key) = (HealthPorts::default(), Key::new("d", "web"));
        ports.set(&key, Some(free), 2);
        let text = ask(free).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\"localEndpoints\":2"), "{text}");
        ports.set(&key, Some(free), 0);
        assert!(ask(free).await.unwrap().starts_with("HTTP/1.1 503 "));
        ports.set(&key, None, 0);
        while ask(free).await.is_some() {
            tokio::task::yield_now().await;
        }
    }
}
