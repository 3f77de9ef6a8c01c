//! A thousand watchers of one collection while somebody writes to it, a hundred times a second: how late events come, and that
//! each watcher got every event once and in order.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::connection::{Access, Connection};
use crate::objects::config_map;
use crate::process::Process;
use crate::writes::JSON;
use crate::{Failure, at, progress, tell};

const WATCHERS: usize = 1000;
const EVENTS: usize = 2000;
const PER_SECOND: u32 = 100;
const ALL: &str = "/api/v1/namespaces/default/configmaps";
const PATIENCE: Duration = Duration::from_secs(30);

pub fn thousand(knarr: &Path, folder: &Path) -> Result<(), Failure> {
    // As client-go does it: all watches of one program share connections. And as nodes do it: one each.
    for (name, connections) in [
        ("1,000 watchers on 10 connections, 100 events/s", 10),
        ("1,000 watchers on a connection each, 100 events/s", WATCHERS),
    ] {
        let process = Process::start(knarr, folder, &[])?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let figures = runtime.block_on(measure(&process, name, connections))?;
        tell(name, figures);
    }
    Ok(())
}

/// What the writer and the watchers share.
struct Shared {
    /// When the request that made this event was sent.
    sent: Mutex<Vec<Instant>>,
    ready: AtomicUsize,
}

async fn measure(process: &Process, name: &str, connections: usize) -> Result<Value, Failure> {
    let shared = Arc::new(Shared { sent: Mutex::default(), ready: AtomicUsize::new(0) });
    let mut watchers = Vec::new();
    for _ in 0..connections {
        let sender = connect(&process.access).await?;
        for _ in 0..WATCHERS / connections {
            watchers.push(tokio::spawn(watch(sender.clone(), shared.clone())));
        }
    }
    let begun = Instant::now();
    while shared.ready.load(Ordering::Acquire) < WATCHERS {
        if begun.elapsed() > PATIENCE {
            return Err("not all watches began".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    progress(&format!("{WATCHERS} watchers watch; the server has {:.0} MB", process.resident()?));
    let cpu = process.cpu()?;
    let writer = {
        let (access, shared) = (process.access.clone(), shared.clone());
        std::thread::spawn(move || write(&access, &shared))
    };
    let mut late = Vec::new();
    for watcher in watchers {
        late.extend(tokio::time::timeout(PATIENCE + Duration::from_secs(60), watcher).await???);
    }
    let wrote_in = writer.join().map_err(|_| "the writer panicked")??;
    let share = (process.cpu()? - cpu).as_secs_f64() / wrote_in.as_secs_f64() * 100.0;
    late.sort();
    let rate = EVENTS as f64 / wrote_in.as_secs_f64();
    let (p50, p99, worst) = (at(&late, 0.5), at(&late, 0.99), at(&late, 1.0));
    progress(&format!(
        "{name}: {} deliveries, none lost, doubled or out of order; {rate:.0} events/s; p50 {p50:.1} ms, p99 {p99:.1} ms, the last {worst:.1} ms; server's CPU {share:.0} % of a core",
        late.len()
    ));
    Ok(json!({"p50_ms": p50, "p99_ms": p99, "worst_ms": worst, "per_second": rate, "cpu_percent": share}))
}

type Sender = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

async fn connect(access: &Access) -> Result<Sender, Failure> {
    let socket = tokio::net::TcpStream::connect(access.address).await?;
    socket.set_nodelay(true)?;
    let mut tls = (*access.tls).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(access.server_name(), socket).await?;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Follows the collection until the last event; answers how late each was. Fails at the first that is not the one to come.
async fn watch(mut sender: Sender, shared: Arc<Shared>) -> Result<Vec<Duration>, Failure> {
    let uri = format!("https://bench{ALL}?watch=1&resourceVersion=1&labelSelector=app%3Dbench");
    let answer = sender.send_request(Request::get(uri).body(Empty::new())?).await?;
    if answer.status() != 200 {
        return Err(format!("a watch was answered with {}", answer.status()).into());
    }
    shared.ready.fetch_add(1, Ordering::Release);
    let mut body = answer.into_body();
    let mut pending: Vec<u8> = Vec::new();
    let mut late = Vec::with_capacity(EVENTS);
    while late.len() < EVENTS {
        let frame = body.frame().await.ok_or("a watch ended early")??;
        let came = Instant::now();
        pending.extend_from_slice(&frame.into_data().unwrap_or_default());
        let mut from = 0;
        while let Some(length) = pending[from..].iter().position(|byte| *byte == b'\n') {
            let number = number_of(&pending[from..from + length])?;
            if number != late.len() {
                return Err(format!("event {number} came where {} was to come", late.len()).into());
            }
            let sent = shared.sent.lock().unwrap_or_else(PoisonError::into_inner)[number];
            late.push(came - sent);
            from += length + 1;
        }
        pending.drain(..from);
    }
    Ok(late)
}

/// Which of the writer's objects an event is about. Reads no more than it must.
fn number_of(line: &[u8]) -> Result<usize, Failure> {
    const BEFORE: &[u8] = b"\"name\":\"event-";
    let unlike = || format!("not an event of the writer's: {}", String::from_utf8_lossy(line));
    if !line.starts_with(b"{\"type\":\"ADDED\"") {
        return Err(unlike().into());
    }
    let at = line.windows(BEFORE.len()).position(|part| part == BEFORE).ok_or_else(unlike)? + BEFORE.len();
    let digits = line[at..].split(|byte| *byte == b'"').next().unwrap_or_default();
    Ok(std::str::from_utf8(digits)?.parse()?)
}

fn write(access: &Access, shared: &Shared) -> Result<Duration, Failure> {
    let mut connection = Connection::open(access)?;
    let begun = Instant::now();
    for number in 0..EVENTS {
        let due = begun + Duration::from_secs(1) / PER_SECOND * number as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let body = config_map(&format!("event-{number}"), 0).to_string();
        shared.sent.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        connection.expect(201, "POST", ALL, &[JSON], body.as_bytes())?;
    }
    Ok(begun.elapsed())
}
