//! `kubectl port-forward`: connections of the client, carried to ports of the pod.
//!
//! Over SPDY, bare or in a WebSocket, each connection has two streams, for its data and for what went wrong. Over a WebSocket alone
//! each port has two channels, and one connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use pods::Pipe;
use spdy::{Connection, Stream, Writer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::upgrade::{self, Refusal, Wire};
use crate::websocket::{self, Decoder, Message};

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const CHANNELS: &str = "v4.channel.k8s.io";
pub const PROTOCOLS: &[&str] = &[TUNNEL, CHANNELS];
pub const SPDY_PROTOCOLS: &[&str] = &["portforward.k8s.io"];
/// Most ports of one WebSocket: each takes two of its 256 channels.
const PORTS_MAX: usize = 127;
/// Most connections whose second stream has not come.
const HALF_MAX: usize = 100;

/// The way to the pod that is forwarded to: connects to one of its ports, or says why not.
pub trait Connect: Send + Sync + 'static {
    fn connect(&self, port: u16) -> impl Future<Output = Result<Box<dyn Pipe>, String>> + Send;
}

impl<F, A> Connect for F
where
    F: Fn(u16) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Box<dyn Pipe>, String>> + Send,
{
    fn connect(&self, port: u16) -> impl Future<Output = Result<Box<dyn Pipe>, String>> + Send {
        self(port)
    }
}

/// The ports that a client has to name before the connection is switched; none where it names them later.
pub fn ports<'a>(wire: &Wire, texts: impl Iterator<Item = &'a str>) -> Result<Vec<u16>, Refusal> {
    match wire {
        Wire::WebSocket { protocol, .. } if *protocol == CHANNELS => read_ports(texts),
        _ => Ok(Vec::new()),
    }
}

/// Carries connections until the client goes.
pub async fn serve(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    wire: Wire,
    ports: Vec<u16>,
    target: impl Connect,
) {
    let target = Arc::new(target);
    match wire {
        Wire::WebSocket { protocol, .. } if protocol == CHANNELS => channels(io, ports, target).await,
        Wire::WebSocket { .. } => {
            let (reader, writer) = tokio::io::split(upgrade::tunnel(io));
            streams(spdy::serve(reader, writer), target).await;
        }
        Wire::Spdy { .. } => {
            let (reader, writer) = tokio::io::split(io);
            streams(spdy::serve(reader, writer), target).await;
        }
    }
}

fn read_ports<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<u16>, Refusal> {
    let ports = texts.flat_map(|text| text.split(',')).filter(|text| !text.is_empty()).map(|text| {
        let port = text.parse().ok().filter(|port| *port != 0);
        port.ok_or_else(|| Refusal::bad_request(format!("query parameter \"ports\" has an invalid port: {text:?}")))
    });
    match ports.collect::<Result<Vec<u16>, _>>()? {
        ports if ports.is_empty() => Err(Refusal::bad_request("query parameter \"ports\" is required")),
        ports if ports.len() > PORTS_MAX => Err(Refusal::bad_request("too many ports")),
        ports => Ok(ports),
    }
}

/// Pairs streams by the client's number for the connection. Everything ends with the connection.
async fn streams<C: Connect>(mut connection: Connection, target: Arc<C>) {
    let mut errors: BTreeMap<String, Writer> = BTreeMap::new();
    let mut running = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = connection.next() => stream,
            Some(_) = running.join_next(), if !running.is_empty() => continue,
        };
        let Some(stream) = stream else { return };
        let number = stream.headers.get("requestid").to_owned();
        match (stream.headers.get("streamtype"), stream.headers.get("port").parse::<u16>()) {
            ("error", _) if errors.len() < HALF_MAX => drop(errors.insert(number, stream.writer)),
            ("data", Ok(port)) if errors.contains_key(&number) => {
                if let Some(error) = errors.remove(&number) {
                    running.spawn(forward(target.clone(), port, stream, error));
                }
            }
            _ => drop(stream.writer.reset().await),
        }
    }
}

async fn forward<C: Connect>(target: Arc<C>, port: u16, stream: Stream, error: Writer) {
    let Stream { mut reader, writer, .. } = stream;
    let went = async {
        let (mut from_pod, mut to_pod) = tokio::io::split(target.connect(port).await?);
        let inward = async {
            while let Some(bytes) = reader.next().await {
                if to_pod.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            let _ = to_pod.shutdown().await;
        };
        let outward = async {
            let mut buffer = vec![0; 32 << 10];
            loop {
                match from_pod.read(&mut buffer).await {
                    Ok(0) => return Ok(()),
                    Ok(count) => {
                        if writer.write(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                            return Ok(());
                        }
                    }
                    Err(error) => return Err(format!("error forwarding port {port}: {error}")),
                }
            }
        };
        tokio::pin!(inward, outward);
        // Who has asked everything may still be answered; who has answered everything is asked no more.
        tokio::select! {
            () = &mut inward => outward.await,
            answered = &mut outward => answered,
        }
    };
    let went: Result<(), String> = went.await;
    if let Err(text) = went {
        let _ = error.write(Bytes::from(text)).await;
    }
    let _ = error.finish().await;
    let _ = writer.finish().await;
}

/// Ports over a WebSocket alone: channel 2n is the data of the port number n, 2n + 1 its errors; each begins with the port.
async fn channels<C: Connect>(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ports: Vec<u16>,
    target: Arc<C>,
) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let (out, mut frames) = mpsc::channel::<Vec<u8>>(16);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(frame) = frames.recv().await {
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    });
    let mut inputs = Vec::new();
    let mut forwards = JoinSet::new();
    for (number, port) in ports.into_iter().enumerate() {
        let (input, received) = mpsc::channel::<Vec<u8>>(16);
        inputs.push(input);
        forwards.spawn(forward_channel(target.clone(), port, number as u8 * 2, received, out.clone()));
    }
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0; 32 << 10]);
    loop {
        let count = tokio::select! {
            count = reader.read(&mut buffer) => match count {
                Ok(count @ 1..) => count,
                _ => return,
            },
            ended = forwards.join_next() => {
                if ended.is_some() && !forwards.is_empty() {
                    continue;
                }
                // The pod has ended the last connection: the client learns it by this one's end.
                let _ = out.send(upgrade::message(websocket::Kind::Close, &websocket::NORMAL_CLOSURE)).await;
                drop(out);
                while tasks.join_next().await.is_some() {}
                return;
            }
        };
        for message in decoder.feed(&buffer[..count]) {
            match message {
                Ok(Message::Data(bytes)) => {
                    let Some((channel, data)) = bytes.split_first() else { continue };
                    // Nobody reads what is said on a channel for errors.
                    if channel % 2 == 0
                        && let Some(input) = inputs.get(usize::from(channel / 2))
                    {
                        let _ = input.send(data.to_vec()).await;
                    }
                }
                Ok(Message::Ping(bytes)) => drop(out.send(upgrade::message(websocket::Kind::Pong, &bytes)).await),
                Ok(Message::Close) | Err(_) => return,
            }
        }
    }
}

async fn forward_channel<C: Connect>(
    target: Arc<C>,
    port: u16,
    channel: u8,
    mut input: mpsc::Receiver<Vec<u8>>,
    out: mpsc::Sender<Vec<u8>>,
) {
    let say = async |channel: u8, bytes: &[u8]| {
        let bytes = [&[channel], bytes].concat();
        out.send(upgrade::message(websocket::Kind::Binary, &bytes)).await
    };
    for channel in [channel, channel + 1] {
        if say(channel, &port.to_le_bytes()).await.is_err() {
            return;
        }
    }
    let (mut from_pod, mut to_pod) = match target.connect(port).await {
        Ok(stream) => tokio::io::split(stream),
        Err(text) => {
            let _ = say(channel + 1, text.as_bytes()).await;
            return;
        }
    };
    let mut buffer = vec![0; 32 << 10];
    loop {
        tokio::select! {
            bytes = input.recv() => {
                let Some(bytes) = bytes else { return };
                if to_pod.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            count = from_pod.read(&mut buffer) => match count {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    if say(channel, &buffer[..count]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_and_not_too_many() {
        let read =
            |texts: &[&'static str]| read_ports(texts.iter().copied()).map_err(|refusal| refusal.status.as_u16());
        assert_eq!(read(&["80", "81,82"]), Ok(vec![80, 81, 82]));
        for bad in [&[][..], &["0"], &["x"], &["65536"], &["1,2,"; 100][..]] {
            assert_eq!(read(bad), Err(400), "{bad:?}");
        }
    }
}
