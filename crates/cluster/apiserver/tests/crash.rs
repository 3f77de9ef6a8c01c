//! A server that is killed under load: no acknowledged write is lost, and a watch that goes on from the last revision it
//! saw sees every change once.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use apiserver::{Config, Server};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS: usize = 8;

/// The child: a server below `root` that writes its address and authority for the parent and runs until killed.
#[test]
fn serve_until_killed() {
    let Ok(root) = std::env::var("APISERVER_CRASH_CHILD") else { return };
    let root = PathBuf::from(root);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = Config { root: Some(root.join("state")), tokens: Some(root.join("tokens")), ..Config::default() };
        let server = Server::start(config).await.unwrap();
        std::fs::write(root.join("ca"), server.authority_pem()).unwrap();
        // The address last, and at once: the parent waits for it.
        std::fs::write(root.join("address.tmp"), server.address().to_string()).unwrap();
        std::fs::rename(root.join("address.tmp"), root.join("address")).unwrap();
        std::future::pending::<()>().await;
    });
}

struct Running {
    child: Child,
    root: PathBuf,
    address: String,
}

impl Running {
    fn start(root: &Path) -> Self {
        let _ = std::fs::remove_file(root.join("address"));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve_until_killed", "--nocapture"])
            .env("APISERVER_CRASH_CHILD", root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let address = loop {
            if let Ok(address) = std::fs::read_to_string(root.join("address")) {
                break address;
            }
            assert!(std::time::Instant::now() < deadline, "the server did not start");
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        Self { child, root: root.to_owned(), address }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    async fn connect(&self) -> Option<SendRequest<Full<Bytes>>> {
        let pem = std::fs::read_to_string(self.root.join("ca")).unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der.into()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(&self.address).await.ok()?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.ok()?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(sender)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn send(sender: &mut SendRequest<Full<Bytes>>, method: Method, path: &str, body: String) -> Option<(u16, Bytes)> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("authorization", "Bearer secret")
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap();
    sender.ready().await.ok()?;
    let response = sender.send_request(request).await.ok()?;
    let code = response.status().as_u16();
    Some((code, response.into_body().collect().await.ok()?.to_bytes()))
}

/// Makes objects until the connection breaks; answers the revisions of those acknowledged.
async fn write(mut sender: SendRequest<Full<Bytes>>, round: usize, who: usize) -> BTreeMap<String, u64> {
    let mut acked = BTreeMap::new();
    for n in 0.. {
        let name = format!("r{round}-w{who}-{n}");
        let body = format!("{{\"metadata\":{{\"name\":\"{name}\"}},\"data\":{{\"n\":\"{n}\"}}}}");
        let Some((code, body)) = send(&mut sender, Method::POST, MAPS, body).await else { break };
        assert_eq!(code, 201, "{body:?}");
        let made: Value = serde_json::from_slice(&body).unwrap();
        acked.insert(name, made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap());
    }
    acked
}

#[test]
fn a_killed_server_has_lost_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join("tokens"))
        .unwrap()
        .write_all(b"secret,admin,1,\"system:masters\"\n")
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut acked: BTreeMap<String, u64> = BTreeMap::new();
    let mut server = Running::start(dir.path());
    let mut seen_to = 1;
    for round in 0..3 {
        runtime.block_on(async {
            let mut writers = Vec::new();
            for who in 0..WRITERS {
                writers.push(tokio::spawn(write(server.connect().await.unwrap(), round, who)));
            }
            // Until there has been some work; how much differs from run to run.
            let mut reader = server.connect().await.unwrap();
            loop {
                let (_, body) =
                    send(&mut reader, Method::GET, &format!("{MAPS}?limit=1"), String::new()).await.unwrap();
                let list: Value = serde_json::from_slice(&body).unwrap();
                let count = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
                if count as usize > acked.len() + 200 {
                    break;
                }
            }
            server.kill();
            for writer in writers {
                acked.extend(writer.await.unwrap());
            }
        });
        server = Running::start(dir.path());
        runtime.block_on(async {
            let mut reader = server.connect().await.unwrap();
            let (_, body) = send(&mut reader, Method::GET, MAPS, String::new()).await.unwrap();
            let list: Value = serde_json::from_slice(&body).unwrap();
            let found: BTreeMap<String, u64> = list["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|map| {
                    let text = |field: &str| map["metadata"][field].as_str().unwrap().to_owned();
                    (text("name"), text("resourceVersion").parse().unwrap())
                })
                .collect();
            for (name, revision) in &acked {
                assert_eq!(found.get(name), Some(revision), "round {round}: {name} is lost");
            }
            // A watch from where the last one ended shows everything since, each once, in order.
            let path = format!("{MAPS}?watch=1&resourceVersion={seen_to}&timeoutSeconds=1");
            let (_, body) = send(&mut reader, Method::GET, &path, String::new()).await.unwrap();
            let mut last = seen_to;
            let mut shown = BTreeMap::new();
            for line in body.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                let event: Value = serde_json::from_slice(line).unwrap();
                assert_eq!(event["type"], "ADDED", "{event}");
                let revision: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
                assert!(revision > last, "out of order: {revision} after {last}");
                last = revision;
                let name = event["object"]["metadata"]["name"].as_str().unwrap().to_owned();
                assert_eq!(shown.insert(name, revision), None, "shown twice");
            }
            let expected: BTreeMap<_, _> = found.into_iter().filter(|(_, revision)| *revision > seen_to).collect();
            assert_eq!(shown, expected);
            seen_to = last;
        });
    }
    assert!(acked.len() > 300, "{}", acked.len());
}
