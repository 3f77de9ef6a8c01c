//! What is run in or asked of a container besides its workload: lifecycle hooks and probes.

use std::time::Duration;

use resources::{Value, meta};

use crate::ask;
use crate::manage::Doors;
use crate::pod;
use crate::runtime::Runtime;

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
    let sandbox = doors.runtime.find_sandbox(meta::uid(pod)).await;
    let own = match sandbox.as_ref().and_then(|sandbox| sandbox.ips.first()) {
        Some(ip) => ip.clone(),
        None if pod::host_network(pod) => doors.node.ip.clone(),
        None => return Err("the pod has no address".into()),
    };
    let host = |asked: &Value| asked["host"].as_str().filter(|host| !host.is_empty()).unwrap_or(&own).to_owned();
    let attempt = async {
        if action["tcpSocket"].is_object() {
            let port = number(&action["tcpSocket"]["port"])?;
            return ask::connect(&host(&action["tcpSocket"]), port).await.map(drop);
        }
        let get = &action["httpGet"];
        if get.is_object() {
            return ask::http(get, &host(get), number(&get["port"])?).await;
        }
        if action["grpc"].is_object() {
            let service = action["grpc"]["service"].as_str().unwrap_or_default();
            return ask::grpc(service, &own, number(&action["grpc"]["port"])?).await;
        }
        Err("missing probe handler for the container".to_owned())
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(done) => done,
        Err(_) => Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into()),
    }
}
