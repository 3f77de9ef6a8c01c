//! Exec and attach over WebSocket: channels 0 to 4 are input, output, errors, the outcome and the terminal's size.

use std::sync::Arc;

use apiserver::{Body, NodeRequest};
use bytes::Bytes;
use docker_api::websocket::{self, Decoder, Message};
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use hyper_util::rt::TokioIo;
use resources::{Status, Value};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{container_name, failed, running};
use crate::manage::Doors;
use crate::runtime::{Input, Process, Runtime, RuntimeError};

const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Since version 5: the channel named by the next byte is closed.
const CLOSE: u8 = 255;

pub async fn serve<R: Runtime>(
    doors: Arc<Doors<R>>,
    pod: Value,
    request: NodeRequest,
) -> Result<Response<Body>, Status> {
    let query = &request.query;
    let name = container_name(&pod, query.get("container"))?;
    let (stdin, stdout, stderr, tty) =
        (query.flag("stdin")?, query.flag("stdout")?, query.flag("stderr")?, query.flag("tty")?);
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    let attach = request.subresource == "attach";
    if !attach && command.is_empty() {
        return Err(Status::bad_request("you must specify at least one command for the container"));
    }
    if !(stdin || stdout || stderr) {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let (key, protocol) = handshake(&request.headers)?;
    let Some(upgrade) = request.upgrade else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let container = running(&doors, &pod, &name).await?;
    let process = match attach {
        true => doors.runtime.attach(&container.id, stdin).await.map_err(failed),
        false => doors.runtime.exec(&container.id, &command, tty, stdin).await.map_err(failed),
    };
    let shows = (stdout, stderr && !tty);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
        Session { shows, command }.run(reader, writer, process).await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::try_from(websocket::accept_key(&key)).map_err(Status::internal)?;
    headers.insert("sec-websocket-accept", accept);
    headers.insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
    Ok(response)
}

/// The client's key and the protocol that both sides speak.
fn handshake(headers: &HeaderMap) -> Result<(Vec<u8>, &'static str), Status> {
    let is_websocket = headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let key = headers.get("sec-websocket-key").filter(|_| is_websocket);
    let Some(key) = key else {
        let message = "this server speaks WebSocket (v5.channel.k8s.io, v4.channel.k8s.io) for streams, not SPDY";
        return Err(Status::bad_request(message));
    };
    let offered = headers.get_all("sec-websocket-protocol").iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|text| text.split(',')).map(str::trim).collect();
    let protocol = PROTOCOLS.iter().find(|known| offered.contains(known));
    let protocol = protocol
        .ok_or_else(|| Status::bad_request(format!("none of {offered:?} is a protocol that this server speaks")))?;
    Ok((key.as_bytes().to_vec(), protocol))
}

struct Session {
    /// Whether standard output and error are wanted.
    shows: (bool, bool),
    command: Vec<String>,
}

impl Session {
    async fn run(
        self,
        mut reader: impl AsyncReadExt + Unpin + Send + 'static,
        mut writer: impl AsyncWriteExt + Unpin + Send + 'static,
        process: Result<Process, Status>,
    ) {
        let process = match process {
            Ok(process) => process,
            Err(status) => {
                let _ = send(&mut writer, ERROR, status.to_value().to_string().as_bytes()).await;
                let _ = close(&mut writer).await;
                return;
            }
        };
        let Process { mut output, input, exit } = process;
        let (say, mut said) = mpsc::channel::<Vec<u8>>(4);
        let listening = tokio::spawn(async move {
            let mut decoder = Decoder::default();
            let mut buffer = vec![0; 16 << 10];
            loop {
                let count = match reader.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => count,
                };
                for message in decoder.feed(&buffer[..count]) {
                    match message {
                        Ok(Message::Data(bytes)) => {
                            if let Some(next) = read_message(&bytes)
                                && input.send(next).await.is_err()
                            {
                                // Nobody reads input any more; the rest is thrown away.
                            }
                        }
                        Ok(Message::Ping(bytes)) => drop(say.try_send(bytes)),
                        Ok(Message::Close) | Err(_) => return,
                    }
                }
            }
        });
        let (show_out, show_err) = self.shows;
        loop {
            tokio::select! {
                piece = output.recv() => {
                    let Some(piece) = piece else { break };
                    let channel = if piece.stderr { STDERR } else { STDOUT };
                    let wanted = if piece.stderr { show_err } else { show_out };
                    if wanted && send(&mut writer, channel, &piece.bytes).await.is_err() {
                        listening.abort();
                        return;
                    }
                }
                Some(ping) = said.recv() => {
                    let mut frame = websocket::header(websocket::Kind::Pong, ping.len());
                    frame.extend_from_slice(&ping);
                    if writer.write_all(&frame).await.is_err() {
                        break;
                    }
                }
            }
        }
        let outcome = outcome(
            exit.await.unwrap_or_else(|_| Err(RuntimeError::Failed("the process was lost".into()))),
            &self.command,
        );
        let _ = send(&mut writer, ERROR, outcome.to_string().as_bytes()).await;
        let _ = close(&mut writer).await;
        // The client closes when it has read all.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), listening).await;
    }
}

fn read_message(bytes: &[u8]) -> Option<Input> {
    match bytes {
        [STDIN, data @ ..] => Some(Input::Bytes(Bytes::copy_from_slice(data))),
        [RESIZE, data @ ..] => {
            let size: Value = serde_json::from_slice(data).ok()?;
            let number = |name: &str| size[name].as_u64().and_then(|number| u16::try_from(number).ok());
            Some(Input::Size(number("Height")?, number("Width")?))
        }
        [CLOSE, STDIN] => Some(Input::End),
        _ => None,
    }
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), channel: u8, bytes: &[u8]) -> std::io::Result<()> {
    let mut frame = websocket::header(websocket::Kind::Binary, bytes.len() + 1);
    frame.push(channel);
    frame.extend_from_slice(bytes);
    writer.write_all(&frame).await?;
    writer.flush().await
}

async fn close(writer: &mut (impl AsyncWriteExt + Unpin)) -> std::io::Result<()> {
    let mut frame = websocket::header(websocket::Kind::Close, 2);
    frame.extend_from_slice(&websocket::NORMAL_CLOSURE);
    writer.write_all(&frame).await?;
    writer.flush().await
}

/// How a process ended, as clients read it.
fn outcome(exit: Result<i32, RuntimeError>, command: &[String]) -> Value {
    match exit {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit code {code}, executed command {command:?}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
        Err(error) => Status::internal(error).to_value(),
    }
}
