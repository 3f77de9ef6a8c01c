//! What is run in or asked of a container besides its workload: lifecycle hooks and probes.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use resources::{Value, meta};

use crate::manage::Doors;
use crate::pod;
use crate::runtime::Runtime;

/// Longest answer of an HTTP probe that is read.
const ANSWER_BYTES_MAX: usize = 10 << 10;
const HOOK_TIME_MAX: Duration = Duration::from_secs(3600);

/// Runs a lifecycle hook.
pub async fn run<R: Runtime>(doors: &Doors<R>, pod: &Value, hook: &Value, id: &str) -> Result<(), String> {
    if let Some(secs) = hook["sleep"]["seconds"].as_u64() {
        tokio::time::sleep(Duration::from_secs(secs)).await;
        return Ok(());
    }
    ask(doors, pod, None, hook, id, HOOK_TIME_MAX).await
}

/// Does what a probe or hook says: a program, an HTTP request or a connection.
pub async fn ask<R: Runtime>(
    doors: &Doors<R>,
    pod: &Value,
    container: Option<&Value>,
    action: &Value,
    id: &str,
    timeout: Duration,
) -> Result<(), String> {
    if action["exec"].is_object() {
        let command: Vec<String> =
            meta::list_at(action, &["exec", "command"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let (code, output) = doors.runtime.exec_sync(id, &command, timeout).await.map_err(|error| error.to_string())?;
        return if code == 0 { Ok(()) } else { Err(output.trim_end().to_owned()) };
    }
    let number = |port: &Value| -> Result<u16, String> {
        let named = |name: &str| {
            let own = container.map_or(&[][..], |container| meta::list_at(container, &["ports"]));
            let all = pod::containers(pod).flat_map(|(_, container)| meta::list_at(container, &["ports"]));
            own.iter().chain(all).find(|port| port["name"] == name).and_then(|port| port["containerPort"].as_u64())
        };
        let found = match port {
            Value::String(text) => text.parse().ok().or_else(|| named(text)),
            other => other.as_u64(),
        };
        found.and_then(|port| u16::try_from(port).ok()).ok_or_else(|| format!("no port {port}"))
    };
    let uid = meta::uid(pod);
    let attempt = async {
        if action["tcpSocket"].is_object() {
            let port = number(&action["tcpSocket"]["port"])?;
            return doors.runtime.connect(uid, port).await.map(drop).map_err(|error| error.to_string());
        }
        let get = &action["httpGet"];
        if get.is_object() {
            if get["scheme"] == "HTTPS" {
                return Err("HTTPS probes are not supported yet".to_owned());
            }
            let port = number(&get["port"])?;
            let stream = doors.runtime.connect(uid, port).await.map_err(|error| error.to_string())?;
            return http_get(stream, get, port).await;
        }
        if action["grpc"].is_object() {
            return Err("gRPC probes are not supported yet".to_owned());
        }
        Err("nothing to do".to_owned())
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(done) => done,
        Err(_) => Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into()),
    }
}

async fn http_get(stream: tokio::net::TcpStream, get: &Value, port: u16) -> Result<(), String> {
    let failed = |error: hyper::Error| format!("Get {:?}: {error}", get["path"].as_str().unwrap_or("/"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let driving = tokio::spawn(connection);
    let path = match get["path"].as_str() {
        None | Some("") => "/".to_owned(),
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(path) => format!("/{path}"),
    };
    let mut request = http::Request::get(path);
    let mut named = false;
    for header in meta::list_at(get, &["httpHeaders"]) {
        let (name, value) = (header["name"].as_str().unwrap_or_default(), header["value"].as_str().unwrap_or_default());
        named |= name.eq_ignore_ascii_case("host");
        request = request.header(name, value);
    }
    if !named {
        let host = get["host"].as_str().filter(|host| !host.is_empty()).unwrap_or("localhost");
        request = request.header("Host", format!("{host}:{port}"));
    }
    let request = request.header("User-Agent", "kube-probe/1.36").header("Accept", "*/*");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(failed);
    let outcome = match answer {
        Err(error) => Err(error),
        Ok(answer) if (200..400).contains(&answer.status().as_u16()) => Ok(()),
        Ok(answer) => {
            let code = answer.status().as_u16();
            // Read so that a workload that logs its answers is not cut off; what it says is not told.
            let _ = http_body_util::Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            Err(format!("HTTP probe failed with statuscode: {code}"))
        }
    };
    driving.abort();
    outcome
}
