//! Exec, attach and port-forward: finds what the client means, and lets `streaming` carry it.

use std::sync::Arc;

use client::{Body, NodeRequest};
use http::Response;
use hyper_util::rt::TokioIo;
use resources::{Status, Value, meta};
use streaming::{Refusal, Wire, port_forward, session};

use super::{container_name, running};
use crate::manage::Doors;
use crate::runtime::Runtime;

fn refused(refusal: Refusal) -> Status {
    let reason = if refusal.status == http::StatusCode::FORBIDDEN { "Forbidden" } else { "BadRequest" };
    Status::new(refusal.status.as_u16(), reason, refusal.message)
}

fn switched(wire: &Wire) -> Response<Body> {
    streaming::switch(wire).map(|()| Body::empty())
}

pub async fn serve<R: Runtime>(
    doors: Arc<Doors<R>>,
    pod: Value,
    request: NodeRequest,
) -> Result<Response<Body>, Status> {
    let query = &request.query;
    let name = container_name(&pod, query.get("container"))?;
    let asked = session::Asked {
        stdin: query.flag("stdin")?,
        stdout: query.flag("stdout")?,
        stderr: query.flag("stderr")?,
        tty: query.flag("tty")?,
        command: query.all("command").map(str::to_owned).collect(),
    };
    let attach = request.subresource == "attach";
    if !attach && asked.command.is_empty() {
        return Err(Status::bad_request("you must specify at least one command for the container"));
    }
    if !(asked.stdin || asked.stdout || asked.stderr) {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let wire = streaming::negotiate(&request.headers, session::PROTOCOLS, session::SPDY_PROTOCOLS).map_err(refused)?;
    let Some(upgrade) = request.upgrade else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let container = running(&doors, &pod, &name).await?;
    let response = switched(&wire);
    let wanted = asked.clone();
    let start = async move {
        match attach {
            true => doors.runtime.attach(&container, wanted.stdin).await,
            false => doors.runtime.exec(&container, &wanted.command, wanted.tty, wanted.stdin).await,
        }
    };
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        session::serve(TokioIo::new(upgraded), wire, asked, start).await;
    });
    Ok(response)
}

pub async fn forward<R: Runtime>(
    doors: Arc<Doors<R>>,
    pod: Value,
    request: NodeRequest,
) -> Result<Response<Body>, Status> {
    let wire = streaming::negotiate(&request.headers, port_forward::PROTOCOLS, port_forward::SPDY_PROTOCOLS);
    let wire = wire.map_err(refused)?;
    let Some(upgrade) = request.upgrade else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let ports = port_forward::ports(&wire, request.query.all("ports")).map_err(refused)?;
    let (uid, name) = (meta::uid(&pod).to_owned(), meta::name(&pod).to_owned());
    let connect = move |port: u16| {
        let (doors, uid, name) = (doors.clone(), uid.clone(), name.clone());
        async move {
            let connected = doors.runtime.connect(&uid, port).await;
            connected.map_err(|error| format!("error forwarding port {port} to pod {name}, uid {uid}: {error}"))
        }
    };
    let response = switched(&wire);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        port_forward::serve(TokioIo::new(upgraded), wire, ports, connect).await;
    });
    Ok(response)
}
