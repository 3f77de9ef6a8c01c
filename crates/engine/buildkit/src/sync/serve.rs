//! The engine's side.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use build::Context;
use bytes::BytesMut;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::PACKET_BYTES_MAX;
use crate::files::Wire;
use crate::kit::Kit;
use crate::wire::fsutil::{Kind, Packet};

/// Folders whose connections are open, by the names that were given to their clients.
#[derive(Debug, Default)]
pub(crate) struct Offered {
    all: Mutex<HashMap<String, Arc<Context>>>,
    next: AtomicU64,
}

impl Offered {
    fn add(&self, context: Context) -> String {
        let name = format!("{:x}", self.next.fetch_add(1, Ordering::Relaxed));
        self.all.lock().unwrap_or_else(|e| e.into_inner()).insert(name.clone(), Arc::new(context));
        name
    }

    fn remove(&self, name: &str) {
        self.all.lock().unwrap_or_else(|e| e.into_inner()).remove(name);
    }

    fn get(&self, name: &str) -> Option<Arc<Context>> {
        self.all.lock().unwrap_or_else(|e| e.into_inner()).get(name).cloned()
    }
}

impl Kit {
    /// The folder that a client has brought, and whose connection it still holds.
    pub fn brought(&self, name: &str) -> Option<Arc<Context>> {
        self.offered.get(name)
    }

    /// Takes a folder that is kept under `key`, and holds it until the client closes the connection.
    pub async fn serve_folder<I: AsyncRead + AsyncWrite + Send + 'static>(&self, key: &str, io: I) {
        let (mut from, to) = tokio::io::split(io);
        let (replies, to_send) = mpsc::unbounded_channel();
        let (packets, received) = mpsc::channel(256);
        let writing = tokio::spawn(write_all(to, to_send));
        let folder = self.folders.take(key, "local source for context");
        let last_words = replies.clone();
        let filling = tokio::task::spawn_blocking(move || {
            folder.update(&mut Wire { packets: received, replies })?;
            Ok::<_, crate::files::TransferError>(folder)
        });
        let mut bytes = BytesMut::with_capacity(64 << 10);
        let filled = {
            tokio::pin!(filling);
            let reading = read_all(&mut from, &mut bytes, packets);
            tokio::pin!(reading);
            let mut gone = false;
            loop {
                tokio::select! {
                    filled = &mut filling => break filled,
                    // What has come is still worked through.
                    () = &mut reading, if !gone => gone = true,
                }
            }
        };
        let filled = match filled {
            Ok(filled) => filled.map_err(|error| error.to_string()),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let made = filled.and_then(|folder| Arc::new(folder).context().map_err(|error| error.to_string()));
        let (last, name) = match made {
            Ok(context) => {
                let name = self.offered.add(context);
                (Packet { data: name.clone().into(), ..Packet::of(Kind::Data) }, Some(name))
            }
            Err(error) => (Packet { data: error.into(), ..Packet::of(Kind::Error) }, None),
        };
        let _ = last_words.send(last);
        drop(last_words);
        // It ends when the client ends it, and then the folder is free. A client that is told of an error may be in the middle of a
        // file, and hears it when that is written.
        bytes.clear();
        while from.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
            bytes.clear();
        }
        if let Some(name) = name {
            self.offered.remove(&name);
        }
        let _ = writing.await;
    }
}

/// Packets from the connection, until it ends, nobody wants them any more, or they make no sense.
async fn read_all(from: &mut (impl AsyncRead + Unpin), bytes: &mut BytesMut, packets: mpsc::Sender<Packet>) {
    loop {
        loop {
            match take(bytes) {
                Ok(Some(packet)) => {
                    if packets.send(packet).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(packet) => {
                    let _ = packets.send(packet).await;
                    return;
                }
            }
        }
        if !from.read_buf(bytes).await.is_ok_and(|count| count > 0) {
            return;
        }
    }
}

/// The next packet, if it is there; an error as the packet that says so.
fn take(bytes: &mut BytesMut) -> Result<Option<Packet>, Packet> {
    let invalid = |text: String| Packet { data: text.into(), ..Packet::of(Kind::Error) };
    let head: usize = match bytes.iter().position(|byte| *byte < 0x80) {
        Some(at) => at + 1,
        None if bytes.len() < 10 => return Ok(None),
        None => return Err(invalid("a packet without a length".into())),
    };
    let length = prost::decode_length_delimiter(&bytes[..head]).map_err(|error| invalid(error.to_string()))?;
    if length > PACKET_BYTES_MAX {
        return Err(invalid(format!("a packet of {length} bytes")));
    }
    if bytes.len() < head + length {
        bytes.reserve(head + length - bytes.len());
        return Ok(None);
    }
    let packet = bytes.split_to(head + length).freeze().slice(head..);
    Packet::decode(packet).map(Some).map_err(|error| invalid(error.to_string()))
}

/// Packets to the connection, as many in one write as are there.
async fn write_all(mut to: impl AsyncWrite + Unpin, mut packets: mpsc::UnboundedReceiver<Packet>) {
    while let Some(packet) = packets.recv().await {
        let mut bytes = packet.encode_length_delimited_to_vec();
        while let Ok(packet) = packets.try_recv() {
            bytes.extend_from_slice(&packet.encode_length_delimited_to_vec());
        }
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_taken_whole_and_nonsense_is_refused() {
        let packet = Packet { id: 7, data: vec![1; 300].into(), ..Packet::of(Kind::Data) };
        let whole = packet.encode_length_delimited_to_vec();
        for cut in 0..whole.len() {
            assert_eq!(take(&mut BytesMut::from(&whole[..cut])), Ok(None), "cut at {cut}");
        }
        let mut twice = BytesMut::from([whole.clone(), whole.clone()].concat().as_slice());
        assert_eq!((take(&mut twice), take(&mut twice)), (Ok(Some(packet.clone())), Ok(Some(packet))));
        assert!(twice.is_empty());
        assert!(take(&mut BytesMut::from(&[0xff; 12][..])).is_err());
        assert!(take(&mut BytesMut::from(&[0xff, 0xff, 0xff, 0x7f][..])).is_err(), "a length beyond all limits");
        assert!(take(&mut BytesMut::from(&[2, 0xff, 0xff][..])).is_err());
    }
}
