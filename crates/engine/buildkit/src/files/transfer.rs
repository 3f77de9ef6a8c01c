//! One transfer from a client: the stream on one side, the thread that writes files on the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use prost::Message;
use tokio::sync::mpsc;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::receive::Wire;
use super::{Result, TransferError};
use crate::progress::Part;
use crate::session::Session;
use crate::wire::fsutil::Packet;

pub(crate) const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// How often a display is told how much has come.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Which of a client's files are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// The client's name of the folder.
    pub(crate) dir: String,
    /// Patterns of what is left out.
    pub(crate) exclude: Vec<String>,
    /// Only these, and what links among them lead to; all if none.
    pub(crate) follow: Vec<String>,
}

/// Hands what the client sends to `write`, which runs on a thread of its own.
pub(crate) async fn fetch<T, F>(
    session: &Arc<Session>,
    wanted: &Wanted,
    mut part: Part,
    write: F,
) -> std::result::Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce(&mut Wire) -> Result<T> + Send + 'static,
{
    if !session.supports(DIFF_COPY) {
        return Err(Status::failed_precondition("no local sources enabled"));
    }
    let (replies, to_send) = mpsc::unbounded_channel();
    let (packets, received) = mpsc::channel(256);
    let outgoing = futures_util::stream::unfold(to_send, |mut to_send: mpsc::UnboundedReceiver<Packet>| async move {
        to_send.recv().await.map(|packet| (packet, to_send))
    });
    let mut incoming = session.channel.streams(DIFF_COPY, metadata(wanted)?, Box::pin(outgoing)).await?;
    let mut writing = tokio::task::spawn_blocking(move || write(&mut Wire { packets: received, replies }));
    let (mut bytes, mut told) = (0u64, Instant::now());
    let broken = loop {
        let packet: Packet = match incoming.next().await {
            Some(Ok(packet)) => packet,
            Some(Err(status)) => break Some(status),
            None => break None,
        };
        bytes += packet.encoded_len() as u64;
        if told.elapsed() >= TELL_EVERY {
            part.current(bytes);
            told = Instant::now();
        }
        // The thread has what it wants, or has failed: it says which.
        if packets.send(packet).await.is_err() {
            break None;
        }
    };
    drop(packets);
    let written = (&mut writing).await;
    part.current(bytes);
    match written {
        Ok(Ok(result)) => {
            part.done();
            Ok(result)
        }
        // The stream's own error says more than that it ended.
        Ok(Err(TransferError::Gone)) if broken.is_some() => Err(broken.unwrap_or_else(|| Status::cancelled("gone"))),
        Ok(Err(error)) => Err(Status::new(Code::Unknown, error.to_string())),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn metadata(wanted: &Wanted) -> std::result::Result<MetadataMap, Status> {
    let mut map = MetadataMap::new();
    append(&mut map, "dir-name", std::slice::from_ref(&wanted.dir))?;
    append(&mut map, "exclude-patterns", &wanted.exclude)?;
    append(&mut map, "followpaths", &wanted.follow)?;
    Ok(map)
}

/// Values of one name; where one of them is not ASCII all of them are escaped, and that is said.
fn append(map: &mut MetadataMap, name: &'static str, values: &[String]) -> std::result::Result<(), Status> {
    let plain = |value: &String| value.bytes().all(|b| (0x20..0x7f).contains(&b));
    let escape = !values.iter().all(plain);
    for value in values {
        let text = if escape { query_escape(value) } else { value.clone() };
        let value = MetadataValue::try_from(text)
            .map_err(|_| Status::invalid_argument(format!("{name} {value:?} cannot be sent to the client")))?;
        map.append(name, value);
    }
    if escape {
        let key = MetadataKey::<Ascii>::from_bytes(format!("{name}-encoded").as_bytes())
            .map_err(|_| Status::internal("a header's name"))?;
        map.append(key, MetadataValue::from_static("1"));
    }
    Ok(())
}

/// As Go's `url.QueryEscape`.
fn query_escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_ascii_are_escaped() {
        assert_eq!(query_escape("a b/ü.txt"), "a+b%2F%C3%BC.txt");
    }
}
