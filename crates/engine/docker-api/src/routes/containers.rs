//! Containers: life, lists, logs, statistics.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hyper::body::Body as _;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::to_the_end;
use crate::http::body::{Body, read_json, read_json_or_none};
use crate::http::error::{ApiError, ApiResult};
use crate::http::reply::{self, Reply};
use crate::http::version::ApiVersion;
use crate::http::{filters, query, query::Query};
use crate::router::Call;
use crate::wire::config::CreateBody;
use crate::wire::host::UpdateBody;
use crate::wire::{container, frames, stats, time};

const LIST_FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// From this version on a stream in frames says so in its content type.
pub(crate) const FRAMES_SAY_SO: ApiVersion = ApiVersion(42);

/// How often `stats` reads.
const STATS_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn list(call: Call) -> ApiResult<Reply> {
    let options = engine::ListOptions {
        all: call.query.flag("all"),
        limit: call.query.number::<i64>("limit")?.map_or(0, |limit| usize::try_from(limit).unwrap_or(0)),
        size: call.query.flag("size"),
        filters: filters::parse(&call.query, LIST_FILTERS)?,
    };
    let summaries = call.engine.list(options).await?;
    reply::ok(&summaries.into_iter().map(container::Summary::from_model).collect::<Vec<_>>())
}

pub(crate) async fn create(call: Call) -> ApiResult<Reply> {
    let name = call.query.text("name").map(str::to_owned);
    let platform = call.query.text("platform").map(str::to_owned);
    let (parts, body) = call.request.into_parts();
    let body: CreateBody = read_json(&parts.headers, body).await?;
    let request = body.into_request(name, platform)?;
    let engine = call.engine;
    let created = to_the_end(async move { engine.create(request).await }).await.map_err(|error| {
        // The client takes a 404 for a missing image and would go and pull one, whatever it is that is missing.
        let is = |start: &str| error.message.starts_with(start);
        let image = is("No such image") || is("image with reference ");
        let another = error.status == StatusCode::NOT_FOUND && !image;
        if another { ApiError::invalid(error.message) } else { error }
    })?;
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        id: String,
        warnings: Vec<String>,
    }
    reply::json(StatusCode::CREATED, &Answer { id: created.id.to_string(), warnings: created.warnings })
}

pub(crate) async fn inspect(call: Call, id: &str) -> ApiResult<Reply> {
    let view = call.engine.inspect(id, call.query.flag("size")).await?;
    reply::ok(&container::Inspect::from_model(view))
}

pub(crate) async fn start(call: Call, id: &str) -> ApiResult<Reply> {
    if call.request.body().size_hint().lower() > 2
        || !call.request.body().is_end_stream() && call.request.body().size_hint().upper().is_none()
    {
        let text = "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24";
        return Err(ApiError::invalid(text));
    }
    if call.query.text("checkpoint").is_some() {
        return Err(super::elsewhere::checkpoints());
    }
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move { engine.start(&id).await }).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `signal` and `t` of stop and restart.
fn stop_options(query: &Query) -> ApiResult<(Option<String>, Option<i64>)> {
    Ok((query.text("signal").map(str::to_owned), query.number("t")?))
}

pub(crate) async fn stop(call: Call, id: &str) -> ApiResult<Reply> {
    let (signal, timeout) = stop_options(&call.query)?;
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move { engine.stop(&id, signal.as_deref(), timeout).await }).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn restart(call: Call, id: &str) -> ApiResult<Reply> {
    let (signal, timeout) = stop_options(&call.query)?;
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move { engine.restart(&id, signal.as_deref(), timeout).await }).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn kill(call: Call, id: &str) -> ApiResult<Reply> {
    let signal = call.query.text("signal").unwrap_or_default().to_owned();
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move { engine.kill(&id, &signal).await }).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn pause(call: Call, id: &str) -> ApiResult<Reply> {
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move { engine.pause(&id).await }).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn unpause(call: Call, id: &str) -> ApiResult<Reply> {
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move { engine.unpause(&id).await }).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn rename(call: Call, id: &str) -> ApiResult<Reply> {
    let name = call.query.get("name").unwrap_or_default().to_owned();
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move { engine.rename(&id, &name).await }).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn update(call: Call, id: &str) -> ApiResult<Reply> {
    let (parts, body) = call.request.into_parts();
    let request = read_json::<UpdateBody>(&parts.headers, body).await?.into_model()?;
    let (engine, id) = (call.engine, id.to_owned());
    let warnings = to_the_end(async move { engine.update(&id, request).await }).await?;
    reply::ok(&json!({ "Warnings": if warnings.is_empty() { None } else { Some(warnings) } }))
}

pub(crate) async fn remove(call: Call, id: &str) -> ApiResult<Reply> {
    if call.query.flag("link") {
        return Err(ApiError::unsupported("container links are not supported"));
    }
    let options = engine::RemoveOptions { force: call.query.flag("force"), volumes: call.query.flag("v") };
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move { engine.remove(&id, options).await }).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn prune(call: Call) -> ApiResult<Reply> {
    let filters = filters::parse(&call.query, &["label", "label!", "until"])?;
    let engine = call.engine;
    let pruned = to_the_end(async move { engine.prune_containers(&filters).await }).await?;
    let ids = if pruned.ids.is_empty() { None } else { Some(pruned.ids) };
    reply::ok(&json!({ "ContainersDeleted": ids, "SpaceReclaimed": pruned.space_reclaimed_bytes }))
}

/// The head of the answer goes out as soon as the wait is armed: `docker run` starts the container only then.
pub(crate) async fn wait(call: Call, id: &str) -> ApiResult<Reply> {
    let condition = match call.query.get("condition").unwrap_or_default() {
        "" | "not-running" => engine::WaitCondition::NotRunning,
        "next-exit" => engine::WaitCondition::NextExit,
        "removed" => engine::WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: {other:?}"))),
    };
    let waiter = call.engine.wait(id, condition).await?;
    let body = Body::later(async move {
        let outcome = waiter
            .outcome()
            .await
            .unwrap_or_else(|error| engine::WaitOutcome { exit_code: -1, error: Some(error.to_string()) });
        wait_answer(&outcome)
    });
    Ok(reply::with_type(StatusCode::OK, reply::JSON, body))
}

fn wait_answer(outcome: &engine::WaitOutcome) -> Bytes {
    let text = match &outcome.error {
        None => format!("{{\"StatusCode\":{}}}\n", outcome.exit_code),
        Some(message) => format!("{}\n", json!({ "StatusCode": outcome.exit_code, "Error": { "Message": message } })),
    };
    Bytes::from(text)
}

/// `h` and `w` of both resize routes.
pub(crate) fn console_size(query: &Query) -> ApiResult<engine::ConsoleSize> {
    let side = |name| query.number::<u16>(name).map(Option::unwrap_or_default);
    Ok(engine::ConsoleSize { rows: side("h")?, cols: side("w")? })
}

pub(crate) async fn resize(call: Call, id: &str) -> ApiResult<Reply> {
    call.engine.resize(id, console_size(&call.query)?).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn top(call: Call, id: &str) -> ApiResult<Reply> {
    let table = call.engine.top(id, call.query.get("ps_args").unwrap_or_default()).await?;
    reply::ok(&container::Top::from_model(table))
}

pub(crate) async fn logs(call: Call, id: &str) -> ApiResult<Reply> {
    let query = &call.query;
    let options = engine::LogOptions {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        since: time::parse("since", query.get("since"))?,
        until: time::parse("until", query.get("until"))?,
        // Docker reads anything that is not a number as "all".
        tail: query.text("tail").and_then(|tail| tail.parse().ok()),
        details: query.flag("details"),
    };
    if !options.stdout && !options.stderr {
        return Err(ApiError::invalid("Bad parameters: you must choose at least one stream"));
    }
    let (timestamps, details) = (query.flag("timestamps"), query.flag("details"));
    let tty = call.engine.inspect(id, false).await?.config.tty;
    let entries = call.engine.logs(id, options).await?;
    let mut line = Vec::new();
    let body = Body::encoded(entries, move |entry, out| {
        let (stream, flow) = match entry {
            Ok(entry) => {
                line.clear();
                if timestamps {
                    time::fixed_nano(entry.at, &mut line);
                    line.push(b' ');
                }
                if details {
                    for (at, (name, value)) in entry.attributes.iter().enumerate() {
                        if at > 0 {
                            line.push(b',');
                        }
                        line.extend_from_slice(query::encode(name).as_bytes());
                        line.push(b'=');
                        line.extend_from_slice(query::encode(value).as_bytes());
                    }
                    line.push(b' ');
                }
                line.extend_from_slice(&entry.line);
                (frame_stream(entry.stream), ControlFlow::Continue(()))
            }
            Err(error) => {
                line = format!("Error grabbing logs: {error}\n").into_bytes();
                (frames::Stream::SystemError, ControlFlow::Break(()))
            }
        };
        if tty {
            out.extend_from_slice(&line);
        } else {
            frames::append(out, stream, &line);
        }
        flow
    });
    Ok(reply::with_type(StatusCode::OK, stream_type(tty, call.version), body))
}

pub(crate) const fn frame_stream(stream: engine::Stream) -> frames::Stream {
    match stream {
        engine::Stream::Stderr => frames::Stream::Stderr,
        engine::Stream::Stdin | engine::Stream::Stdout => frames::Stream::Stdout,
    }
}

/// The content type of a stream of output.
pub(crate) fn stream_type(tty: bool, version: ApiVersion) -> http::HeaderValue {
    if !tty && version >= FRAMES_SAY_SO { reply::MULTIPLEXED_STREAM } else { reply::RAW_STREAM }
}

/// `stream` (default) goes on until the client leaves or the container is removed; without it two readings a second
/// apart make one answer, unless `one-shot` says that one will do.
pub(crate) async fn stats(call: Call, id: &str) -> ApiResult<Reply> {
    let (stream, one_shot) = (call.query.flag_or("stream", true), call.query.flag("one-shot"));
    if stream && one_shot {
        return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
    }
    let first = call.engine.stats(id).await?;
    if !stream {
        if one_shot || !first.running {
            return reply::ok(&stats::Stats::from_model(first, None));
        }
        let (engine, id) = (call.engine, first.id.clone());
        let body = Body::later(async move {
            tokio::time::sleep(STATS_EVERY).await;
            // Gone within the second: the first reading is all there is.
            let second = engine.stats(&id).await.ok();
            let answer = match second {
                Some(second) => stats::Stats::from_model(second, Some(&first)),
                None => stats::Stats::from_model(first, None),
            };
            line(&answer)
        });
        return Ok(reply::with_type(StatusCode::OK, reply::JSON, body));
    }
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(stream_stats(call.engine, first, sender));
    Ok(reply::with_type(StatusCode::OK, reply::JSON, Body::Channel(receiver)))
}

async fn stream_stats(engine: engine::Engine, first: engine::Stats, client: mpsc::Sender<Bytes>) {
    let id = first.id.clone();
    let mut previous = None;
    let mut current = first;
    let mut tick = tokio::time::interval(STATS_EVERY);
    tick.tick().await;
    loop {
        let answer = line(&stats::Stats::from_model(current.clone(), previous.as_ref()));
        if client.send(answer).await.is_err() {
            return;
        }
        previous = Some(current);
        tokio::select! {
            _ = tick.tick() => {}
            () = client.closed() => return,
        }
        match engine.stats(&id).await {
            Ok(stats) => current = stats,
            // Removed meanwhile: that ends the stream.
            Err(_) => return,
        }
    }
}

fn line<T: Serialize>(value: &T) -> Bytes {
    let mut text = Vec::with_capacity(2048);
    // What cannot be encoded is left out; the client sees an empty line.
    let _ = super::system::append_line(&mut text, value);
    text.into()
}

pub(crate) async fn read_optional<T: serde::de::DeserializeOwned>(call: &mut Call) -> ApiResult<Option<T>> {
    let headers = call.request.headers().clone();
    read_json_or_none(&headers, call.request.body_mut()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_answers_with_the_code_and_perhaps_a_reason() {
        let answer = |exit_code, error: Option<&str>| {
            String::from_utf8(wait_answer(&engine::WaitOutcome { exit_code, error: error.map(str::to_owned) }).to_vec())
                .unwrap()
        };
        assert_eq!(answer(3, None), "{\"StatusCode\":3}\n");
        assert_eq!(answer(125, Some("a \"b\"")), "{\"Error\":{\"Message\":\"a \\\"b\\\"\"},\"StatusCode\":125}\n");
    }
}
