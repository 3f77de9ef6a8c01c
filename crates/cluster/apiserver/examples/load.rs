//! Load on a throwaway API: `cargo run --release -p apiserver --example load -- [ROOT]` says how long a start takes, how
//! many objects a second sixteen writers make, update and read, how long a list takes and how much memory is held.
//! With a directory every write is durable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use apiserver::{Config, Server};
use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const WRITERS: usize = 16;

async fn connect(server: SocketAddr, pem: &str) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(base64::engine::general_purpose::STANDARD.decode(body)?.into())?;
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(server).await?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect("localhost".try_into()?, stream).await?;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    kind: &str,
    body: String,
) -> Result<(u16, Bytes), Failure> {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"))
        .header("authorization", "Bearer load")
        .header("content-type", kind)
        .body(Full::new(body.into()))?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let code = response.status().as_u16();
    Ok((code, response.into_body().collect().await?.to_bytes()))
}

/// Runs `count` requests by sixteen writers with a connection each.
async fn phase(
    name: &str,
    server: &Server,
    count: usize,
    make: impl Fn(usize) -> (Method, String, &'static str, String) + Send + Sync + Copy + 'static,
) -> Result<(), Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..WRITERS {
        let mut sender = connect(server.address(), server.authority_pem()).await?;
        let next = next.clone();
        tasks.push(tokio::spawn(async move {
            let mut slowest = std::time::Duration::ZERO;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<_, Failure>(slowest);
                }
                let (method, path, kind, body) = make(n);
                let begun = Instant::now();
                let (code, body) = send(&mut sender, method, &path, kind, body).await?;
                slowest = slowest.max(begun.elapsed());
                if code >= 300 {
                    return Err(format!("{path}: {code} {}", String::from_utf8_lossy(&body)).into());
                }
            }
        }));
    }
    let mut slowest = std::time::Duration::ZERO;
    for task in tasks {
        slowest = slowest.max(task.await??);
    }
    let secs = begun.elapsed().as_secs_f64();
    println!("{name:<28} {:>8.0} a second, slowest {:.1} ms", count as f64 / secs, slowest.as_secs_f64() * 1e3);
    Ok(())
}

fn memory() -> String {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    text.lines()
        .find(|line| line.starts_with("Pss:"))
        .unwrap_or("Pss: unknown")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn pod(n: usize) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"pod-{n}","labels":{{"app":"load","n":"{n}"}}}},"spec":{{"containers":[{{"name":"c","image":"registry.example.com/app:1.0","resources":{{"requests":{{"cpu":"100m","memory":"64Mi"}}}},"env":[{{"name":"A","value":"b"}}]}}]}}}}"#
    )
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let root = std::env::args().nth(1).map(PathBuf::from);
    let tokens = std::env::temp_dir().join(format!("load-tokens-{}", std::process::id()));
    std::fs::write(&tokens, "load,load,1,\"system:masters\"\n")?;
    let begun = Instant::now();
    let server = Server::start(Config { root, tokens: Some(tokens.clone()), ..Config::default() }).await?;
    println!("ready after {:.1} ms, {}", begun.elapsed().as_secs_f64() * 1e3, memory());
    std::fs::remove_file(&tokens)?;
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    const PODS: &str = "/api/v1/namespaces/default/pods";
    let json = "application/json";
    let map = |n: usize| format!(r#"{{"metadata":{{"name":"m{n}"}},"data":{{"k":"{}"}}}}"#, "v".repeat(200));
    phase("create config maps", &server, 10_000, move |n| (Method::POST, MAPS.into(), json, map(n))).await?;
    phase("get config maps", &server, 20_000, move |n| {
        (Method::GET, format!("{MAPS}/m{}", n % 10_000), json, String::new())
    })
    .await?;
    phase("update config maps", &server, 10_000, move |n| {
        (Method::PUT, format!("{MAPS}/m{n}"), json, map(n).replace("v\"", "w\""))
    })
    .await?;
    let apply = |n: usize| {
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"m{n}"}},"data":{{"x":"{n}"}}}}"#)
    };
    let manager = "fieldManager=load&force=true";
    phase("apply config maps", &server, 10_000, move |n| {
        (Method::PATCH, format!("{MAPS}/m{n}?{manager}"), "application/apply-patch+yaml", apply(n))
    })
    .await?;
    phase("create pods", &server, 40_000, move |n| (Method::POST, PODS.into(), json, pod(n))).await?;
    let mut sender = connect(server.address(), server.authority_pem()).await?;
    for (name, query) in
        [("list 40,000 pods", ""), ("list by label", "?labelSelector=n%3D7"), ("list the first 500", "?limit=500")]
    {
        let begun = Instant::now();
        let (_, body) = send(&mut sender, Method::GET, &format!("{PODS}{query}"), json, String::new()).await?;
        println!("{name:<28} {:>8.1} ms, {} bytes", begun.elapsed().as_secs_f64() * 1e3, body.len());
    }
    println!("{}", memory());
    server.stop().await;
    Ok(())
}
