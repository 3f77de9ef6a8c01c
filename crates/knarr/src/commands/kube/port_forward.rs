//! `port-forward pod/web 8080:80`: connections to this machine, carried to ports of a pod over a WebSocket each.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::super::{Command, out};
use crate::client::query;
use crate::failure::Failure;
use crate::flags::{Arity, Flag, text};
use crate::kube::websocket::{Frame, Reader, frame};
use crate::kube::{self, Cluster};

const OPTIONS: &[Flag] =
    &[text("address", "Addresses to listen on, separated by commas (default: localhost, of both families)")];

pub(crate) static PORT_FORWARD: Command = Command {
    name: "port-forward",
    usage: "KIND/NAME [OPTIONS] [LOCAL_PORT:]REMOTE_PORT...",
    about: "Carry connections to ports of this machine to a pod",
    examples: "  knarr port-forward pod/web 8080:80
  knarr port-forward svc/web :http        a free port of this machine, a port of the service by its name
  knarr port-forward deploy/web 5000 6000",
    flags: &[kube::FLAGS, OPTIONS],
    interspersed: true,
    arity: Arity::AtLeast(2),
    run: |context, matches| {
        let cluster = Cluster::open(context.settings(), matches)?;
        let (_, object) = cluster.object(&matches.arguments[0], "pods")?;
        let pods = cluster.pods_of(&object)?;
        let pod = pods.first().ok_or("error: there is no pod yet")?;
        let ports = matches.arguments[1..].iter().map(|word| Ports::parse(word, &object, pod));
        let ports = ports.collect::<Result<Vec<Ports>, Failure>>()?;
        let addresses = addresses(matches.text("address").unwrap_or("localhost"))?;
        let (namespace, name) = (&pod["metadata"]["namespace"], &pod["metadata"]["name"]);
        let resource = cluster.catalog.named("pods")?;
        let path = resource.object(namespace.as_str().unwrap_or_default(), name.as_str().unwrap_or_default());
        let local = tokio::task::LocalSet::new();
        local.block_on(cluster.api.runtime(), serve(&cluster, &format!("{path}/portforward"), &ports, &addresses))?;
        Ok(0)
    },
};

/// The protocol in which every port has two channels: its data, and what went wrong.
const PROTOCOL: &str = "v4.channel.k8s.io";
const DATA: u8 = 0;
const ERROR: u8 = 1;
/// How long an answer may still come to a client that has said everything: the protocol cannot tell the pod.
const LAST_WORDS: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    /// 0: any that is free.
    local: u16,
    remote: u16,
}

impl Ports {
    /// `8080:80`, `80`, `:80`; a service's port, and a port by its name, are those of the pod behind it.
    fn parse(word: &str, object: &Value, pod: &Value) -> Result<Self, Failure> {
        let (local, remote) = match word.split_once(':') {
            None => (None, word),
            Some(("", remote)) => (Some(0), remote),
            Some((local, remote)) => {
                let number = local.parse().ok().filter(|port| *port != 0);
                let wrong = || Failure::new(format!("error: error parsing local port '{local}': invalid syntax"));
                (Some(number.ok_or_else(wrong)?), remote)
            }
        };
        let wanted = match object["kind"] == "Service" {
            false => Value::from(remote),
            true => target(object, remote)
                .ok_or_else(|| Failure::new(format!("error: Service does not have a service port {remote}")))?,
        };
        let number = match &wanted {
            Value::Number(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
            other => {
                let text = other.as_str().unwrap_or_default();
                text.parse().ok().or_else(|| named(pod, text))
            }
        };
        let remote_number = number
            .filter(|port| *port != 0)
            .ok_or_else(|| Failure::new(format!("error: Pod '{}' does not have a named port '{remote}'", name(pod))))?;
        // What people type is what they find here.
        let local = local.unwrap_or_else(|| remote.parse().unwrap_or(remote_number));
        Ok(Self { local, remote: remote_number })
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

/// Where a service's port leads: a number or a name.
fn target(service: &Value, port: &str) -> Option<Value> {
    let number = port.parse::<u64>().ok();
    let found = list(&service["spec"], "ports")
        .find(|entry| entry["name"].as_str() == Some(port) || (number.is_some() && entry["port"].as_u64() == number))?;
    match &found["targetPort"] {
        Value::Null => Some(found["port"].clone()),
        target => Some(target.clone()),
    }
}

fn named(pod: &Value, name: &str) -> Option<u16> {
    let ports = list(&pod["spec"], "containers").flat_map(|container| list(container, "ports"));
    let found = ports.into_iter().find(|port| port["name"].as_str() == Some(name))?;
    found["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok())
}

fn addresses(text: &str) -> Result<Vec<IpAddr>, Failure> {
    let mut all = Vec::new();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word {
            "localhost" => all.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]),
            other => all.push(other.parse().map_err(|_| Failure::new(format!("error: {other} is not a valid IP")))?),
        }
    }
    Ok(all)
}

/// Listens and carries until the process is ended.
async fn serve(cluster: &Cluster, path: &str, ports: &[Ports], addresses: &[IpAddr]) -> Result<(), Failure> {
    let mut listeners = Vec::new();
    for ports in ports {
        let mut local = ports.local;
        let mut refused = None;
        let before = listeners.len();
        for address in addresses {
            match TcpListener::bind((*address, local)).await {
                Ok(listener) => {
                    // A free port is the same one for both families.
                    let at = listener.local_addr()?;
                    local = at.port();
                    out(&format!("Forwarding from {at} -> {}\n", ports.remote))?;
                    listeners.push((listener, ports.remote));
                }
                Err(error) => refused = Some(format!("listen on {address}:{local}: {error}")),
            }
        }
        // A machine may have one family only.
        if let Some(why) = refused.filter(|_| listeners.len() == before) {
            return Err(Failure::new(format!("error: unable to listen on port {local}: {why}")));
        }
    }
    let mut carried = JoinSet::new();
    loop {
        let accepting =
            listeners.iter().map(|(listener, remote)| Box::pin(async { (listener.accept().await, *remote) }));
        let mut all: Vec<_> = accepting.collect();
        let accepted = std::future::poll_fn(|context| {
            let ready = all.iter_mut().find_map(|one| match one.as_mut().poll(context) {
                std::task::Poll::Ready(accepted) => Some(accepted),
                std::task::Poll::Pending => None,
            });
            ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        });
        let (accepted, remote) = tokio::select! {
            accepted = accepted => accepted,
            Some(ended) = carried.join_next(), if !carried.is_empty() => {
                if let Ok(Err(failure)) = ended {
                    let failure: Failure = failure;
                    eprintln!("{}", failure.message);
                }
                continue;
            }
        };
        let (stream, _) = accepted?;
        out(&format!("Handling connection for {}\n", stream.local_addr()?.port()))?;
        let asked = format!("{path}{}", query(&[("ports", &remote.to_string())]));
        match cluster.api.websocket(&asked, PROTOCOL).await {
            Ok(socket) => drop(carried.spawn_local(carry(stream, socket))),
            // The pod may be back for the next one.
            Err(failure) => eprintln!("{}", failure.message),
        }
    }
}

/// One connection, until either side has ended it.
async fn carry(stream: TcpStream, socket: impl tokio::io::AsyncRead + tokio::io::AsyncWrite) -> Result<(), Failure> {
    let broken = |error: std::io::Error| Failure::new(format!("error: the stream broke: {error}"));
    let (mut from_pod, mut to_pod) = tokio::io::split(socket);
    let (mut from_client, mut to_client) = stream.into_split();
    let mut reader = Reader::default();
    // Each channel begins with its port's number.
    let mut begun = [false; 2];
    let (mut inward, mut outward) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    let mut asked = false;
    loop {
        tokio::select! {
            count = from_client.read(&mut inward), if !asked => match count {
                Ok(0) | Err(_) => asked = true,
                Ok(count) => {
                    let message = [&[DATA], &inward[..count]].concat();
                    to_pod.write_all(&frame(Frame::Binary, &message)).await.map_err(broken)?;
                }
            },
            count = from_pod.read(&mut outward) => {
                let count = count.map_err(broken)?;
                if count == 0 {
                    return Ok(());
                }
                let frames = reader.feed(&outward[..count]).map_err(|why| Failure::new(format!("error: {why}")))?;
                for (kind, payload) in frames {
                    match (kind, payload.split_first()) {
                        (Frame::Ping, _) => to_pod.write_all(&frame(Frame::Pong, &payload)).await.map_err(broken)?,
                        (Frame::Close, _) => return Ok(()),
                        (Frame::Binary, Some((channel @ (&DATA | &ERROR), bytes))) => {
                            let head = std::mem::replace(&mut begun[usize::from(*channel)], true);
                            let bytes = if head { bytes } else { bytes.get(2..).unwrap_or_default() };
                            if *channel == ERROR && !bytes.is_empty() {
                                return Err(Failure::new(format!("error: {}", String::from_utf8_lossy(bytes).trim())));
                            }
                            if *channel == DATA && to_client.write_all(bytes).await.is_err() {
                                return Ok(());
                            }
                        }
                        _ => {}
                    }
                }
            }
            () = tokio::time::sleep(LAST_WORDS), if asked => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_those_of_the_pod_behind_a_service() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]}});
        let service = json!({"kind": "Service", "spec": {"ports": [{"name": "web", "port": 80, "targetPort": "http"}, {"port": 53}]}});
        let parse =
            |word: &str, object: &Value| Ports::parse(word, object, &pod).map(|ports| (ports.local, ports.remote));
        assert_eq!(parse("5000", &pod).unwrap(), (5000, 5000));
        assert_eq!(parse("8888:5000", &pod).unwrap(), (8888, 5000));
        assert_eq!(parse(":5000", &pod).unwrap(), (0, 5000));
        assert_eq!(parse("http", &pod).unwrap(), (8080, 8080));
        assert_eq!(parse("80", &service).unwrap(), (80, 8080));
        assert_eq!(parse("8888:web", &service).unwrap(), (8888, 8080));
        assert_eq!(parse("53", &service).unwrap(), (53, 53));
        let why = |word: &str, object: &Value| parse(word, object).unwrap_err().message;
        assert_eq!(why("81", &service), "error: Service does not have a service port 81");
        assert_eq!(why("none", &pod), "error: Pod 'web' does not have a named port 'none'");
        assert!(parse("x:80", &pod).is_err() && parse("0:80", &pod).is_err() && parse("0", &pod).is_err());
    }
}
