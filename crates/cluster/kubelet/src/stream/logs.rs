//! `kubectl logs`.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use client::{Body, NodeRequest};
use http::Response;
use http::header::CONTENT_TYPE;
use jiff::{SignedDuration, Timestamp};
use resources::{Status, Value, decode, meta};
use tokio::sync::mpsc;

use super::{container_name, failed};
use crate::actions;
use crate::manage::Doors;
use crate::runtime::{LogQuery, Runtime};
use crate::shown::shown_container;

pub async fn serve<R: Runtime>(
    doors: &Arc<Doors<R>>,
    pod: &Value,
    request: &NodeRequest,
) -> Result<Response<Body>, Status> {
    let query = &request.query;
    let name = container_name(pod, query.get("container"))?;
    let since = match (query.get("sinceTime"), query.number("sinceSeconds")?) {
        ("", None) => None,
        ("", Some(secs)) => {
            let back = SignedDuration::from_secs(i64::try_from(secs).unwrap_or(i64::MAX));
            Some(Timestamp::now().saturating_sub(back).unwrap_or(Timestamp::MIN))
        }
        (text, _) => Some(text.parse().map_err(|error| Status::bad_request(format!("sinceTime: {error}")))?),
    };
    let asked = LogQuery { follow: query.flag("follow")?, since, tail: query.number("tailLines")? };
    let stamps = query.flag("timestamps")?;
    let mut left = query.number("limitBytes")?.unwrap_or(u64::MAX);
    let (want_out, want_err) = match query.get("stream") {
        "" | "All" => (true, true),
        "Stdout" => (true, false),
        "Stderr" => (false, true),
        other => return Err(Status::bad_request(format!("stream {other:?} is not known"))),
    };
    let seen = doors.runtime.containers(Some(meta::uid(pod))).await.map_err(failed)?;
    let previous = query.flag("previous")?;
    let container = if previous { actions::previous(&seen, &name) } else { actions::current(&seen, &name) };
    let container = container.map(|container| container.id.as_str()).or(shown_container(pod).filter(|_| !previous));
    let Some(container) = container else {
        let pod_name = meta::name(pod);
        return Err(Status::bad_request(match previous {
            true => format!("previous terminated container {name:?} in pod {pod_name:?} not found"),
            false => {
                let why = waiting_reason(pod, &name);
                format!("container {name:?} in pod {pod_name:?} is waiting to start: {why}")
            }
        }));
    };
    let mut lines = doors.runtime.logs(container, &asked).await.map_err(failed)?;
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        // A line that was cut into pieces gets one time.
        let mut fresh = true;
        loop {
            let next = tokio::select! {
                next = lines.recv() => next,
                () = sender.closed() => return,
            };
            let Some(line) = next else { return };
            if !(if line.stderr { want_err } else { want_out }) {
                continue;
            }
            let mut out = BytesMut::with_capacity(line.line.len() + 40);
            if stamps && fresh {
                out.extend_from_slice(decode::format_time(line.at, 9).as_bytes());
                out.extend_from_slice(b" ");
            }
            fresh = line.line.ends_with(b"\n");
            out.extend_from_slice(&line.line);
            out.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(out.len()));
            left -= out.len() as u64;
            if sender.send(out.freeze()).await.is_err() || left == 0 {
                return;
            }
        }
    });
    let mut response = Response::new(Body::Stream(receiver));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn waiting_reason(pod: &Value, name: &str) -> String {
    let all = ["containerStatuses", "initContainerStatuses"]
        .into_iter()
        .flat_map(|list| meta::list_at(pod, &["status", list]));
    let status = all.into_iter().find(|status| status["name"] == name);
    let reason = status.and_then(|status| status["state"]["waiting"]["reason"].as_str());
    reason.unwrap_or("ContainerCreating").to_owned()
}
