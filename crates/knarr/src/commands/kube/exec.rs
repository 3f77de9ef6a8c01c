//! `exec pod/web` and `attach pod/web`: the streams of a process in a pod, over a WebSocket.

use std::io::{Read, Write};

use linux::pty::RawMode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::super::stream::check_terminal;
use super::super::{Command, Context};
use super::logs::chosen;
use crate::client::terminal;
use crate::failure::Failure;
use crate::flags::{Arity, Flag, Matches, switch, text};
use crate::kube::websocket::{Frame, Reader, frame};
use crate::kube::{self, Cluster};

const STREAMS: &[Flag] = &[
    text("container", "Container of the pod").short('c'),
    switch("stdin", "Pass standard input to it").short('i'),
    switch("tty", "Standard input is a terminal").short('t'),
];

pub(crate) static EXEC: Command = Command {
    name: "exec",
    usage: "KIND/NAME [OPTIONS] -- COMMAND [ARG...]",
    about: "Run a command in a container of a pod",
    examples: "  knarr exec -it pod/web -- sh
  knarr exec deploy/web -c app -- date",
    flags: &[kube::FLAGS, STREAMS],
    interspersed: true,
    arity: Arity::AtLeast(2),
    run: |context, matches| session(context, matches, "exec"),
};

pub(crate) static ATTACH: Command = Command {
    name: "attach",
    usage: "KIND/NAME [OPTIONS]",
    about: "Attach to the first process of a container of a pod",
    examples: "  knarr attach -it pod/web",
    flags: &[kube::FLAGS, STREAMS],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |context, matches| session(context, matches, "attach"),
};

/// The protocol in which an end of input can be said.
const PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTCOME: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

fn session(context: &Context, matches: &Matches, verb: &str) -> Result<u8, Failure> {
    let (stdin, tty) = (matches.is("stdin"), matches.is("tty"));
    check_terminal(tty, stdin)?;
    let cluster = Cluster::open(context.settings(), matches)?;
    let (_, object) = cluster.object(&matches.arguments[0], "pods")?;
    let pods = cluster.pods_of(&object)?;
    let pod = pods.first().ok_or("error: there is no pod yet")?;
    let container = chosen(pod, matches.text("container"), false)?.remove(0);
    let mut pairs = vec![("container", container.as_str()), ("stdout", "true")];
    if stdin {
        pairs.push(("stdin", "true"));
    }
    pairs.push(if tty { ("tty", "true") } else { ("stderr", "true") });
    pairs.extend(matches.arguments[1..].iter().map(|word| ("command", word.as_str())));
    let (namespace, name) = (&pod["metadata"]["namespace"], &pod["metadata"]["name"]);
    let resource = cluster.catalog.named("pods")?;
    let base = resource.object(namespace.as_str().unwrap_or_default(), name.as_str().unwrap_or_default());
    let path = format!("{base}/{verb}{}", crate::client::query(&pairs));
    let raw = match tty && stdin && terminal::is_terminal(std::io::stdin()) {
        true => Some(RawMode::enter(std::io::stdin()).map_err(|error| Failure::new(error.to_string()))?),
        false => None,
    };
    let outcome = cluster.api.runtime().block_on(async {
        let socket = cluster.api.websocket(&path, PROTOCOL).await?;
        converse(socket, stdin, tty).await
    });
    drop(raw);
    exit_code(&outcome?)
}

/// Copies both ways until the server tells the outcome.
async fn converse(
    socket: impl tokio::io::AsyncRead + tokio::io::AsyncWrite,
    stdin: bool,
    tty: bool,
) -> Result<Value, Failure> {
    let (mut from, mut to) = tokio::io::split(socket);
    let broken = |error: std::io::Error| Failure::new(format!("error: the stream broke: {error}"));
    let (tell, mut input) = mpsc::channel::<Vec<u8>>(4);
    if stdin {
        read_input(tell.clone());
    }
    let mut resized = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())?;
    let send_size = || {
        terminal::size().filter(|_| tty).map(|(rows, columns)| {
            let size = json!({"Width": columns, "Height": rows}).to_string();
            [&[RESIZE], size.as_bytes()].concat()
        })
    };
    if let Some(size) = send_size() {
        to.write_all(&frame(Frame::Binary, &size)).await.map_err(broken)?;
    }
    let mut reader = Reader::default();
    let mut buffer = vec![0; 32 << 10];
    loop {
        tokio::select! {
            count = from.read(&mut buffer) => {
                let count = count.map_err(broken)?;
                if count == 0 {
                    return Err("error: the stream ended without an outcome".into());
                }
                for (kind, payload) in reader.feed(&buffer[..count]).map_err(|problem| Failure::new(format!("error: {problem}")))? {
                    match (kind, payload.split_first()) {
                        (Frame::Ping, _) => to.write_all(&frame(Frame::Pong, &payload)).await.map_err(broken)?,
                        (Frame::Binary, Some((&STDOUT, bytes))) => {
                            let mut stdout = std::io::stdout().lock();
                            stdout.write_all(bytes)?;
                            stdout.flush()?;
                        }
                        (Frame::Binary, Some((&STDERR, bytes))) => std::io::stderr().write_all(bytes)?,
                        (Frame::Binary, Some((&OUTCOME, bytes))) => {
                            return serde_json::from_slice(bytes)
                                .map_err(|error| Failure::new(format!("error: the outcome is not JSON: {error}")));
                        }
                        (Frame::Close, _) => return Err("error: the stream was closed without an outcome".into()),
                        _ => {}
                    }
                }
            }
            Some(bytes) = input.recv() => {
                let message = match bytes.is_empty() {
                    true => vec![CLOSE, STDIN],
                    false => [&[STDIN], bytes.as_slice()].concat(),
                };
                to.write_all(&frame(Frame::Binary, &message)).await.map_err(broken)?;
            }
            _ = resized.recv(), if tty => {
                if let Some(size) = send_size() {
                    to.write_all(&frame(Frame::Binary, &size)).await.map_err(broken)?;
                }
            }
        }
    }
}

/// Standard input in a thread of its own, which ends with the process; an empty message is its end.
fn read_input(tell: mpsc::Sender<Vec<u8>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        loop {
            match std::io::stdin().lock().read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(count) if count > 0 => {
                    if tell.blocking_send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
                _ => {
                    let _ = tell.blocking_send(Vec::new());
                    return;
                }
            }
        }
    });
}

/// What the server's Status says of the process.
fn exit_code(status: &Value) -> Result<u8, Failure> {
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
    match code.and_then(|cause| cause["message"].as_str()?.parse::<i64>().ok()) {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok((code & 0xff) as u8)
        }
        None => Err(Failure::new(format!(
            "error: {}",
            status["message"].as_str().unwrap_or("the process could not be run")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_is_an_exit_code_or_an_error() {
        assert_eq!(exit_code(&json!({"status": "Success"})).unwrap(), 0);
        let failed = json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "x",
            "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}});
        assert_eq!(exit_code(&failed).unwrap(), 7);
        assert_eq!(
            exit_code(&json!({"status": "Failure", "message": "no such file"})).unwrap_err().message,
            "error: no such file"
        );
    }
}
