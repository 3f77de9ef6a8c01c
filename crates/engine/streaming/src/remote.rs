//! Exec and attach over SPDY: a stream each for input, output, errors, the outcome and the terminal's size.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pods::{Input, Process, RuntimeError};
use serde_json::Value;
use spdy::{Connection, Stream, Writer};
use tokio::sync::mpsc;

use crate::session::{failure, outcome, read_size};

/// How long a client may take to open its streams, as upstream's.
const OPENING: Duration = Duration::from_secs(30);
/// A terminal's size takes a few bytes.
const SIZE_BYTES_MAX: usize = 1024;

/// What the client asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub resize: bool,
    /// Before version 4 an outcome is a plain text.
    pub plain: bool,
    pub command: Vec<String>,
}

impl Wanted {
    fn streams(&self) -> Vec<&'static str> {
        let all = [
            ("error", true),
            ("stdin", self.stdin),
            ("stdout", self.stdout),
            ("stderr", self.stderr),
            ("resize", self.resize),
        ];
        all.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name).collect()
    }
}

pub async fn run(
    mut connection: Connection,
    wanted: Wanted,
    start: impl Future<Output = Result<Process, RuntimeError>> + Send,
) {
    let Ok(Some(mut streams)) = tokio::time::timeout(OPENING, gather(&mut connection, &wanted.streams())).await else {
        return;
    };
    let Some(error) = streams.remove("error") else { return };
    let told = match start.await {
        Err(error) => failure(&error),
        Ok(process) => carry(process, &mut streams, &mut connection, &wanted.command).await,
    };
    for (_, stream) in streams {
        let _ = stream.writer.finish().await;
    }
    let text = match (wanted.plain, told["status"] == "Success") {
        (true, true) => String::new(),
        (true, false) => told["message"].as_str().unwrap_or_default().to_owned(),
        (false, _) => told.to_string(),
    };
    let _ = error.writer.write(Bytes::from(text)).await;
    let _ = error.writer.finish().await;
    connection.close().await;
}

/// All streams that the client has to open; `None` if it goes or opens another.
async fn gather(connection: &mut Connection, wanted: &[&'static str]) -> Option<BTreeMap<&'static str, Stream>> {
    let mut streams = BTreeMap::new();
    while streams.len() < wanted.len() {
        let stream = connection.next().await?;
        let kind = stream.headers.get("streamtype");
        let name = wanted.iter().find(|name| **name == kind)?;
        streams.insert(*name, stream);
    }
    Some(streams)
}

/// Until the process has ended; how it did.
async fn carry(
    process: Process,
    streams: &mut BTreeMap<&'static str, Stream>,
    connection: &mut Connection,
    command: &[String],
) -> Value {
    let Process { mut output, input, exit } = process;
    let mut listening = Vec::new();
    if let Some(stdin) = streams.remove("stdin") {
        listening.push(tokio::spawn(send_input(stdin, input.clone())));
    }
    if let Some(resize) = streams.remove("resize") {
        listening.push(tokio::spawn(send_sizes(resize, input.clone())));
    }
    drop(input);
    let writer = |name: &str| streams.get(name).map(|stream| stream.writer.clone());
    let writers: [Option<Writer>; 2] = [writer("stdout"), writer("stderr")];
    let mut alone = false;
    loop {
        tokio::select! {
            piece = output.recv() => {
                let Some(piece) = piece else { break };
                if let Some(writer) = &writers[usize::from(piece.stderr)] {
                    alone |= writer.write(piece.bytes).await.is_err();
                }
                if alone {
                    break;
                }
            }
            another = connection.next(), if !alone => {
                // Nobody has a use for more streams; the end of the connection is the end of the session.
                match another {
                    Some(stream) => drop(stream.writer.reset().await),
                    None => break,
                }
            }
        }
    }
    listening.iter().for_each(tokio::task::JoinHandle::abort);
    let lost = || Err(RuntimeError::Failed("the process was lost".into()));
    // Whose client has gone may run on for long: nobody waits for its end.
    let ended = if output.is_closed() { exit.await.unwrap_or_else(|_| lost()) } else { lost() };
    outcome(ended, command)
}

async fn send_input(mut stdin: Stream, input: mpsc::Sender<Input>) {
    while let Some(bytes) = stdin.reader.next().await {
        if input.send(Input::Bytes(bytes)).await.is_err() {
            return;
        }
    }
    let _ = input.send(Input::End).await;
    let _ = stdin.writer.finish().await;
}

/// Objects one after the other, however they are cut.
async fn send_sizes(mut resize: Stream, input: mpsc::Sender<Input>) {
    let mut text = Vec::new();
    while let Some(bytes) = resize.reader.next().await {
        text.extend_from_slice(&bytes);
        let mut objects = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
        let mut last = None;
        while let Some(Ok(size)) = objects.next() {
            last = read_size(&size).or(last);
        }
        let used = objects.byte_offset();
        text.drain(..used);
        if text.len() > SIZE_BYTES_MAX {
            return;
        }
        if let Some(size) = last
            && input.send(size).await.is_err()
        {
            return;
        }
    }
}
