//! Attached streams: the client's side of a container's or exec's standard streams.
//!
//! Three ways lead here: a takeover of the connection (the usual one), the older plain answer whose body is the output,
//! and a WebSocket.

use std::ops::ControlFlow;

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use streaming::websocket;

use super::containers::{FRAMES_SAY_SO, frame_stream, stream_type};
use crate::http::body::Body;
use crate::http::error::{ApiError, ApiResult};
use crate::http::handshake;
use crate::http::hijack::{self, FromClient, ToClient};
use crate::http::reply::{self, Reply};
use crate::router::Call;
use crate::wire::frames;

pub(crate) fn options(call: &Call) -> engine::AttachOptions {
    engine::AttachOptions {
        stdin: call.query.flag("stdin"),
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
        logs: call.query.flag("logs"),
        stream: call.query.flag("stream"),
    }
}

pub(crate) async fn attach(call: Call, id: &str) -> ApiResult<Reply> {
    let keys = DetachKeys::parse(call.query.get("detachKeys").unwrap_or_default())?;
    let attached = call.engine.attach(id, options(&call)).await?;
    let owner = Owner::Container(call.engine.clone(), id.to_owned());
    take_over(call, attached, owner, keys)
}

/// Output goes out in binary messages without Docker's frames, whatever comes in is standard input. Before 1.42 the
/// streams could not be chosen.
pub(crate) async fn websocket(mut call: Call, id: &str) -> ApiResult<Reply> {
    let accept = handshake::accept(call.request.headers())?;
    let keys = DetachKeys::parse(call.query.get("detachKeys").unwrap_or_default())?;
    let mut options = options(&call);
    if call.version < FRAMES_SAY_SO {
        (options.stdin, options.stdout, options.stderr) = (true, true, true);
    }
    let attached = call.engine.attach(id, options).await?;
    let upgrade = hyper::upgrade::on(&mut call.request);
    tokio::spawn(async move {
        match hijack::take(upgrade).await {
            Ok((from, to)) => pump_messages(attached, from, to, keys).await,
            Err(error) => tracing::debug!(%error, "take over a connection"),
        }
    });
    Ok(hijack::websocket_reply(accept))
}

/// [`pump`] in WebSocket messages.
async fn pump_messages(attached: engine::Attached, mut from: FromClient, to: ToClient, keys: DetachKeys) {
    let engine::Attached { tty, mut output, mut input } = attached;
    let to = tokio::sync::Mutex::new(to);
    let send = async |kind, bytes: &[u8]| {
        let header = websocket::header(kind, bytes.len());
        to.lock().await.write_framed(&header, bytes).await
    };
    let write_output = async {
        while let Some(Ok(chunk)) = output.next().await {
            if send(websocket::Kind::Binary, &chunk.bytes).await.is_err() {
                return;
            }
        }
        // The client may be gone already.
        let _ = send(websocket::Kind::Close, &websocket::NORMAL_CLOSURE).await;
    };
    let read_input = async {
        let mut keys = tty.then_some(keys);
        let mut decoder = websocket::Decoder::default();
        let mut buffer = vec![0; 32 << 10];
        let mut typed = Vec::new();
        loop {
            let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
            for message in decoder.feed(&buffer[..count]) {
                match message {
                    Ok(websocket::Message::Data(data)) => {
                        typed.clear();
                        let detach = match &mut keys {
                            Some(keys) => keys.filter(&data, &mut typed),
                            None => {
                                typed.extend_from_slice(&data);
                                false
                            }
                        };
                        if let Some(pipe) = &mut input
                            && pipe.write(&typed).await.is_err()
                        {
                            input = None;
                        }
                        if detach {
                            let _ = send(websocket::Kind::Close, &websocket::NORMAL_CLOSURE).await;
                            return;
                        }
                    }
                    Ok(websocket::Message::Ping(data)) => {
                        if send(websocket::Kind::Pong, &data).await.is_err() {
                            return;
                        }
                    }
                    Ok(websocket::Message::Close) => {
                        if let Some(input) = input.take() {
                            input.close();
                        }
                        let _ = send(websocket::Kind::Close, &websocket::NORMAL_CLOSURE).await;
                        return;
                    }
                    Err(websocket::ProtocolError) => {
                        let _ = send(websocket::Kind::Close, &websocket::PROTOCOL_ERROR).await;
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = write_output => {}
        () = read_input => return,
    }
    from.drain().await;
}

/// Whose streams they are.
pub(crate) enum Owner {
    Exec(engine::Engine, String),
    Container(engine::Engine, String),
}

impl Owner {
    /// After the last output: a client asks for an exec's exit code as soon as its output ends, so the output must not end
    /// before the exit is known. The two are told by different messengers; mostly there is nothing to wait for.
    async fn settle(&self) {
        if let Self::Exec(engine, id) = self {
            // Gone with its container: then there is nothing to ask for.
            let _ = engine.exec_wait(id).await;
        }
    }

    /// Whether the process sees the end of its input when the client's ends: an exec always, a container if it was
    /// created so (`StdinOnce`).
    async fn input_ends_with_client(&self) -> bool {
        match self {
            Self::Exec(..) => true,
            Self::Container(engine, id) => engine.inspect(id, false).await.is_ok_and(|view| view.config.stdin_once),
        }
    }
}

/// Answers and connects the client with the streams, in whichever way it asked for.
pub(crate) fn take_over(
    mut call: Call,
    attached: engine::Attached,
    owner: Owner,
    keys: DetachKeys,
) -> ApiResult<Reply> {
    let tty = attached.tty;
    if !hijack::wanted(call.request.headers()) {
        return Ok(plain(call, attached, owner));
    }
    let upgrade = hyper::upgrade::on(&mut call.request);
    tokio::spawn(async move {
        match hijack::take(upgrade).await {
            Ok((from, to)) => pump(attached, owner, from, to, keys).await,
            Err(error) => tracing::debug!(%error, "take over a connection"),
        }
    });
    Ok(hijack::reply(stream_type(tty, call.version)))
}

/// Takes the connection over and only then starts the exec, as Docker does: there are clients (docker-py) that lose output
/// which arrives together with the answer's head. If it cannot be started, the reason is all the output there is.
pub(crate) fn take_over_and_start(
    mut call: Call,
    id: String,
    options: engine::ExecStart,
    tty: bool,
    keys: DetachKeys,
) -> Reply {
    let upgrade = hyper::upgrade::on(&mut call.request);
    let engine = call.engine.clone();
    tokio::spawn(async move {
        let (mut from, mut to) = match hijack::take(upgrade).await {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "take over a connection"),
        };
        match engine.exec_start(&id, options).await {
            Ok(Some(attached)) => pump(attached, Owner::Exec(engine, id), from, to, keys).await,
            Ok(None) => {}
            Err(error) => {
                // A client that is gone already needs no reason.
                let _ = to.write(&text_output(tty, &format!("{error}\r\n"))).await;
                let _ = to.finish().await;
                from.drain().await;
            }
        }
    });
    hijack::reply(stream_type(tty, call.version))
}

fn text_output(tty: bool, text: &str) -> Vec<u8> {
    let mut output = Vec::new();
    if tty {
        output.extend_from_slice(text.as_bytes());
    } else {
        frames::append(&mut output, frames::Stream::Stdout, text.as_bytes());
    }
    output
}

/// The plain answer to an exec that could not be started.
pub(crate) fn output_as_text(tty: bool, text: String) -> Reply {
    reply::with_type(StatusCode::OK, reply::RAW_STREAM, Body::Full(text_output(tty, &text).into()))
}

/// The older form: 200, and the output as the body. Standard input, if any, is the request's body.
fn plain(call: Call, attached: engine::Attached, owner: Owner) -> Reply {
    let engine::Attached { tty, output, input } = attached;
    let mut body = call.request.into_body();
    if let Some(mut input) = input
        && !body.is_end_stream()
    {
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data()
                    && input.write(&data).await.is_err()
                {
                    return;
                }
            }
            input.close();
        });
    }
    let body = Body::encoded(output, move |chunk, out| match chunk {
        Ok(chunk) if tty => {
            out.extend_from_slice(&chunk.bytes);
            ControlFlow::Continue(())
        }
        Ok(chunk) => {
            frames::append(out, frame_stream(chunk.stream), &chunk.bytes);
            ControlFlow::Continue(())
        }
        Err(_) => ControlFlow::Break(()),
    });
    reply::with_type(StatusCode::OK, reply::RAW_STREAM, body.held_open(async move { owner.settle().await }))
}

/// Carries bytes both ways until the output ends, the client detaches, or the client is gone.
async fn pump(attached: engine::Attached, owner: Owner, mut from: FromClient, mut to: ToClient, keys: DetachKeys) {
    let engine::Attached { tty, mut output, input } = attached;
    let write_output = async {
        while let Some(chunk) = output.next().await {
            let sent = match chunk {
                Ok(chunk) if tty => to.write(&chunk.bytes).await,
                Ok(chunk) => {
                    let header = frames::header(frame_stream(chunk.stream), chunk.bytes.len() as u32);
                    to.write_framed(&header, &chunk.bytes).await
                }
                Err(error) if tty => to.write(format!("{error}\r\n").as_bytes()).await,
                Err(error) => {
                    let text = error.to_string();
                    to.write_framed(&frames::header(frames::Stream::SystemError, text.len() as u32), text.as_bytes())
                        .await
                }
            };
            if sent.is_err() {
                return;
            }
        }
        owner.settle().await;
        // The client may have closed its side already.
        let _ = to.finish().await;
    };
    let read_input = read_input(&mut from, input, &owner, tty.then_some(keys));
    tokio::select! {
        () = write_output => {}
        () = read_input => return,
    }
    from.drain().await;
}

/// Returns when the client has typed the detach keys or is gone. Either way the input is let go of, not closed; a
/// half-close closes it.
async fn read_input(
    from: &mut FromClient,
    input: Option<engine::InputSink>,
    owner: &Owner,
    mut keys: Option<DetachKeys>,
) {
    let Some(mut input) = input else {
        return from.gone().await;
    };
    let mut buffer = vec![0; 32 << 10];
    let mut typed = Vec::new();
    loop {
        let count = match from.read(&mut buffer).await {
            // As in Docker: input that ends without ending the process's input ends the attach.
            Ok(0) if keys.is_some() || !owner.input_ends_with_client().await => return,
            Ok(0) => {
                input.close();
                break;
            }
            Ok(count) => count,
            Err(_) => return,
        };
        let (bytes, detach) = match &mut keys {
            None => (&buffer[..count], false),
            Some(keys) => {
                typed.clear();
                let detach = keys.filter(&buffer[..count], &mut typed);
                (&typed[..], detach)
            }
        };
        let written = input.write(bytes).await;
        if detach {
            return;
        }
        if written.is_err() {
            // The process closed its input; its output goes on.
            break;
        }
    }
    from.gone().await;
}

/// The keys that detach a client from a terminal, and how much of them was typed so far.
#[derive(Debug, Clone)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    typed: usize,
}

impl DetachKeys {
    /// `ctrl-<letter>` or single characters, separated by commas; empty is Docker's `ctrl-p,ctrl-q`.
    pub(crate) fn parse(text: &str) -> ApiResult<Self> {
        if text.is_empty() {
            return Ok(Self { keys: vec![16, 17], typed: 0 });
        }
        let key = |name: &str| -> Option<u8> {
            match name.as_bytes() {
                [byte] => Some(*byte),
                _ => match name.strip_prefix("ctrl-")?.as_bytes() {
                    [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                    [b'@'] => Some(0),
                    [b'['] => Some(27),
                    [b'\\'] => Some(28),
                    [b']'] => Some(29),
                    [b'^'] => Some(30),
                    [b'_'] => Some(31),
                    _ => None,
                },
            }
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        let keys = keys.ok_or_else(|| ApiError::invalid(format!("Invalid escape keys ({text}) provided")))?;
        Ok(Self { keys, typed: 0 })
    }

    /// Passes typed bytes on to `out`; true when the whole sequence was typed. Bytes that began the sequence and did
    /// not go on are passed on late.
    fn filter(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        for &byte in input {
            if byte == self.keys[self.typed] {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    self.typed = 0;
                    return true;
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.typed]);
            self.typed = usize::from(byte == self.keys[0]);
            if self.typed == 0 {
                out.push(byte);
            } else if self.keys.len() == 1 {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_read_as_docker_writes_them() {
        for (text, keys) in [
            ("", vec![16, 17]),
            ("ctrl-a", vec![1]),
            ("a,ctrl-],ctrl-@", vec![b'a', 29, 0]),
            ("ctrl-^,x", vec![30, b'x']),
        ] {
            assert_eq!(DetachKeys::parse(text).unwrap().keys, keys, "{text}");
        }
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b", "shift-a"] {
            assert_eq!(DetachKeys::parse(bad).unwrap_err().message, format!("Invalid escape keys ({bad}) provided"));
        }
    }

    #[test]
    fn typed_bytes_pass_until_the_sequence_is_whole() {
        for (pieces, passed, detached) in [
            (vec![&b"ls\n"[..]], &b"ls\n"[..], false),
            (vec![b"a\x10\x11b"], b"a", true),
            (vec![b"a\x10", b"\x11"], b"a", true),
            (vec![b"a\x10", b"b"], b"a\x10b", false),
            (vec![b"\x10\x10\x11"], b"\x10", true),
            (vec![b"\x11\x10"], b"\x11", false),
        ] {
            let mut keys = DetachKeys::parse("").unwrap();
            let mut out = Vec::new();
            let ended = pieces.iter().any(|piece| keys.filter(piece, &mut out));
            assert_eq!((out.as_slice(), ended), (passed, detached), "{pieces:?}");
        }
    }
}
