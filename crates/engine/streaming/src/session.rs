//! Exec and attach. Over WebSocket, channels 0 to 4 are input, output, errors, the outcome and the terminal's size; over SPDY each is a
//! stream (`remote`).

use bytes::Bytes;
use pods::{Input, Process, RuntimeError};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::remote;
use crate::upgrade::Wire;
use crate::websocket::{self, Decoder, Message};

pub const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// The first one tells an outcome as an object, the last one no terminal's size.
pub const SPDY_PROTOCOLS: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Since version 5: the channel named by the next byte is closed.
const CLOSE: u8 = 255;

/// What the client asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
    /// Empty for an attach.
    pub command: Vec<String>,
}

/// Carries one process over a connection that has been switched, until either ends. `start` is awaited when the client is there.
pub async fn serve(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    wire: Wire,
    asked: Asked,
    start: impl Future<Output = Result<Process, RuntimeError>> + Send,
) {
    let (reader, writer) = tokio::io::split(io);
    let Asked { stdin, stdout, stderr, tty, command } = asked;
    match wire {
        Wire::WebSocket { .. } => {
            Session { shows: (stdout, stderr && !tty), command }.run(reader, writer, start.await).await;
        }
        Wire::Spdy { protocol } => {
            let plain = protocol != SPDY_PROTOCOLS[0];
            let resize = tty && protocol != SPDY_PROTOCOLS[2];
            let wanted = remote::Wanted { stdin, stdout, stderr: stderr && !tty, resize, plain, command };
            remote::run(spdy::serve(reader, writer), wanted, start).await;
        }
    }
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
        process: Result<Process, RuntimeError>,
    ) {
        let process = match process {
            Ok(process) => process,
            Err(error) => {
                let _ = send(&mut writer, ERROR, failure(&error).to_string().as_bytes()).await;
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
        [RESIZE, data @ ..] => read_size(&serde_json::from_slice(data).ok()?),
        [CLOSE, STDIN] => Some(Input::End),
        _ => None,
    }
}

/// A terminal's size as clients tell it.
pub(super) fn read_size(size: &Value) -> Option<Input> {
    let number = |name: &str| size[name].as_u64().and_then(|number| u16::try_from(number).ok());
    Some(Input::Size(number("Height")?, number("Width")?))
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
pub(super) fn outcome(exit: Result<i32, RuntimeError>, command: &[String]) -> Value {
    match exit {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit code {code}, executed command {command:?}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
        Err(error) => failure(&error),
    }
}

/// Why there was no process, or nobody knows how it ended.
pub(super) fn failure(error: &RuntimeError) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": error.to_string(),
        "reason": "InternalError", "code": 500})
}
