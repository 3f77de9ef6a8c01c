//! What the API asks of nodes: in the kubelet's own words over HTTPS, or through the door of a node in this process.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use resources::{Status, Value, meta};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls::{self, Identity, TlsError};
use crate::{Body, Client, Gvr, NodeRequest, Nodes, percent_encode};

const NODES: Gvr = Gvr::new("", "v1", "nodes");
const CONNECT: Duration = Duration::from_secs(5);
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a node may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// All nodes of a cluster: one that runs in this process by its door, the others over HTTPS.
pub struct RemoteNodes {
    api: Client,
    tls: Arc<ClientConfig>,
    own: OnceLock<(String, Arc<dyn Nodes>)>,
}

impl RemoteNodes {
    /// `api` reads nodes; to them this side shows `identity`.
    pub fn new(api: Client, authority: &str, identity: &Identity) -> Result<Self, TlsError> {
        // HTTP/1.1: streams are taken over from it.
        let tls = tls::client(authority, identity, &["http/1.1"])?;
        Ok(Self { api, tls, own: OnceLock::new() })
    }

    /// The node of this process. The first one to be named stays.
    pub fn connect(&self, node: String, door: Arc<dyn Nodes>) {
        let _ = self.own.set((node, door));
    }

    async fn ask(&self, request: NodeRequest) -> Result<Response<Body>, Status> {
        if let Some((name, door)) = self.own.get()
            && *name == request.node
        {
            return door.answer(request).await;
        }
        let node = request.node.clone();
        let unreachable = |why: String| {
            Status::new(503, "ServiceUnavailable", format!("the agent of node {node:?} cannot be reached: {why}"))
        };
        let object = match self.api.get(&NODES, "", &node).await {
            Err(status) if status.code == 404 => return Err(unreachable("there is no such node".into())),
            other => other?,
        };
        let (address, port) = place(&object).map_err(unreachable)?;
        let path = path(&request)?;
        let dial = async {
            let stream = TcpStream::connect((address.as_str(), port)).await.map_err(|error| error.to_string())?;
            let _ = stream.set_nodelay(true);
            // The node's name is in its certificate and cannot be another's; its addresses are what it says itself.
            let name = ServerName::try_from(node.clone()).map_err(|error| error.to_string())?;
            let connecting = TlsConnector::from(self.tls.clone()).connect(name, stream);
            let stream =
                tokio::time::timeout(HANDSHAKE, connecting).await.map_err(|_| "TLS takes too long".to_owned())?;
            stream.map_err(|error| format!("TLS: {error}"))
        };
        let dialled = tokio::time::timeout(CONNECT + HANDSHAKE, dial).await;
        let stream = dialled.map_err(|_| unreachable("it does not answer".into()))?.map_err(unreachable)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| unreachable(error.to_string()))?;
        tokio::spawn(connection.with_upgrades());
        let mut asked = http::Request::builder().method(request.method.clone()).uri(path).body(Full::new(request.body));
        if let Ok(asked) = &mut asked {
            *asked.headers_mut() = headers(&request.headers, request.upgrade.is_some());
            let host = format!("{address}:{port}");
            asked.headers_mut().insert(HOST, host.parse().map_err(Status::internal)?);
        }
        let asked = asked.map_err(|error| Status::bad_request(format!("ask the node: {error}")))?;
        let answered = tokio::time::timeout(PATIENCE, sender.send_request(asked)).await;
        let answer = answered.map_err(|_| unreachable("it does not answer in time".into()))?;
        let answer = answer.map_err(|error| unreachable(error.to_string()))?;
        match (answer.status(), request.upgrade) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(upgrade)) => Ok(join(answer, upgrade)),
            (StatusCode::SWITCHING_PROTOCOLS, None) => {
                Err(Status::new(502, "", "the backend switched to another protocol, which nobody asked for"))
            }
            // Where a node sends people is not where the API has let them; proxied pages may lead on.
            (status, _)
                if status.is_redirection()
                    && request.subresource != "proxy"
                    && request.pod.is_some()
                    && !vocab::weak::without("redirect") =>
            {
                Err(Status::new(502, "", "the backend attempted to redirect this request, which is not permitted"))
            }
            _ => Ok(pass_on(answer)),
        }
    }
}

impl Nodes for RemoteNodes {
    fn answer(
        &self,
        request: NodeRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send + '_>> {
        Box::pin(self.ask(request))
    }
}

/// Where a node's agent listens.
pub(super) fn place(node: &Value) -> Result<(String, u16), String> {
    let addresses = meta::list_at(node, &["status", "addresses"]);
    let of = |kind: &str| {
        addresses.iter().find(|address| address["type"] == kind).and_then(|found| found["address"].as_str())
    };
    let address = of("InternalIP").or_else(|| of("ExternalIP")).ok_or("it has told no address")?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    Ok((address.to_owned(), port.ok_or("it has told no port")?))
}

/// The request as kubelets name it.
fn path(request: &NodeRequest) -> Result<String, Status> {
    let query = &request.query;
    let segment = |text: &str| percent_encode(text).replace('/', "%2F");
    let Some(pod) = &request.pod else {
        let rest: Vec<String> = request.rest.split('/').map(segment).collect();
        return Ok(format!("/{}?{}", rest.join("/"), query.to_text()));
    };
    let place = format!("{}/{}", segment(meta::namespace(pod)), segment(meta::name(pod)));
    let others = |skip: &[&str]| {
        let kept = query.pairs().filter(|(key, _)| !skip.contains(key));
        kept.map(|(key, value)| format!("{}={}", percent_encode(key), percent_encode(value))).collect::<Vec<_>>()
    };
    match request.subresource.as_str() {
        "log" => {
            let container = container(pod, query.get("container"))?;
            Ok(format!("/containerLogs/{place}/{}?{}", segment(&container), others(&["container"]).join("&")))
        }
        kind @ ("exec" | "attach") => {
            let container = container(pod, query.get("container"))?;
            let mut words = Vec::new();
            for (theirs, ours) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                if query.flag(theirs)? {
                    words.push(format!("{ours}=1"));
                }
            }
            words.extend(query.all("command").map(|word| format!("command={}", percent_encode(word))));
            Ok(format!("/{kind}/{place}/{}?{}", segment(&container), words.join("&")))
        }
        "portforward" => Ok(format!("/portForward/{place}?{}", query.to_text())),
        // Kubelets have no such page; our own agents answer it.
        "proxy" => {
            let rest: Vec<String> = request.rest.split('/').map(segment).collect();
            Ok(format!("/podProxy/{place}/{}?{}", rest.join("/"), query.to_text()))
        }
        other => Err(Status::new(501, "NotImplemented", format!("pods/{other} is not supported"))),
    }
}

/// The container that a request means: the one it names, else the default one, else the only one.
pub fn container(pod: &Value, asked: &str) -> Result<String, Status> {
    let of = |list: &str| -> Vec<&str> {
        meta::list_at(pod, &["spec", list]).iter().filter_map(|container| container["name"].as_str()).collect()
    };
    let name = meta::name(pod);
    if !asked.is_empty() {
        let known =
            ["containers", "initContainers", "ephemeralContainers"].iter().any(|list| of(list).contains(&asked));
        return match known {
            true => Ok(asked.to_owned()),
            false => Err(Status::bad_request(format!("container {asked} is not valid for pod {name}"))),
        };
    }
    let main = of("containers");
    let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match (main.as_slice(), default) {
        ([only], _) => Ok((*only).to_owned()),
        (_, Some(default)) if main.contains(&default) => Ok(default.to_owned()),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            main.join(" ")
        ))),
    }
}

/// What goes along: everything but who asked, and what concerned the connection it came by.
fn headers(from: &HeaderMap, upgrades: bool) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in from {
        let word = name.as_str();
        let hop = matches!(
            word,
            "authorization"
                | "connection"
                | "content-length"
                | "host"
                | "keep-alive"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        );
        if !hop && !word.starts_with("impersonate-") && !word.starts_with("proxy-") {
            out.append(name.clone(), value.clone());
        }
    }
    if upgrades {
        for name in [CONNECTION, UPGRADE] {
            out.extend(from.get_all(&name).iter().map(|value| (name.clone(), value.clone())));
        }
    }
    out
}

/// Both sides have changed to another protocol: what one says the other hears, until either ends.
fn join(mut answer: Response<Incoming>, client: hyper::upgrade::OnUpgrade) -> Response<Body> {
    let node = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let (Ok(client), Ok(node)) = tokio::join!(client, node) else { return };
        let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
        let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
    });
    let (parts, _) = answer.into_parts();
    Response::from_parts(parts, Body::empty())
}

/// The node's answer as it comes.
fn pass_on(answer: Response<Incoming>) -> Response<Body> {
    let (mut parts, mut body) = answer.into_parts();
    for name in [CONNECTION, http::header::TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    let (send, pieces) = tokio::sync::mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = send.closed() => return,
            };
            let Some(Ok(frame)) = frame else { return };
            if let Ok(piece) = frame.into_data()
                && send.send(piece).await.is_err()
            {
                return;
            }
        }
    });
    Response::from_parts(parts, Body::Stream(pieces))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Query, User};
    use http::Method;
    use serde_json::json;

    fn request(pod: Option<Value>, subresource: &str, rest: &str, query: &str) -> NodeRequest {
        NodeRequest {
            node: "n".into(),
            pod,
            subresource: subresource.into(),
            rest: rest.into(),
            method: Method::GET,
            query: Query::parse(query),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            upgrade: None,
            user: User::admin(),
        }
    }

    #[test]
    fn requests_are_said_in_the_kubelets_words() {
        let pod = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": [{"name": "c"}]}});
        let two = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": [{"name": "c"}, {"name": "e"}]}});
        let check = |pod: &Value, sub: &str, rest: &str, query: &str| {
            path(&request(Some(pod.clone()), sub, rest, query)).unwrap_or_else(|status| status.message)
        };
        for (pod, sub, rest, query, expected) in [
            (&pod, "log", "", "follow=true&tailLines=5", "/containerLogs/d/p/c?follow=true&tailLines=5"),
            (&two, "log", "", "container=e", "/containerLogs/d/p/e?"),
            (&two, "log", "", "", "a container name must be specified for pod p, choose one of: [c e]"),
            (&two, "log", "", "container=x", "container x is not valid for pod p"),
            (
                &pod,
                "exec",
                "",
                "command=echo&command=a b&stdin=true&stdout=1&tty=false",
                "/exec/d/p/c?input=1&output=1&command=echo&command=a%20b",
            ),
            (&pod, "portforward", "", "ports=80", "/portForward/d/p?ports=80"),
            (&pod, "proxy", "a/b c", "x=1", "/podProxy/d/p/a/b%20c?x=1"),
        ] {
            assert_eq!(check(pod, sub, rest, query), expected);
        }
        assert_eq!(path(&request(None, "proxy", "stats/summary", "a=b")).unwrap(), "/stats/summary?a=b");
    }

    #[test]
    fn nodes_are_found_by_what_they_tell() {
        let node = |addresses: Value, port: Value| {
            json!({"status": {"addresses": addresses,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}})
        };
        let own = json!([{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.2"}]);
        assert_eq!(place(&node(own.clone(), json!(10250))).unwrap(), ("10.0.0.2".to_owned(), 10250));
        assert!(place(&node(own, json!(0))).is_err());
        assert!(place(&node(json!([]), json!(10250))).is_err());
    }

    #[test]
    fn nobodys_credentials_go_along() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("impersonate-user", "a"),
            ("accept", "y"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
        ] {
            from.insert(name, value.parse().unwrap());
        }
        let names = |map: &HeaderMap| map.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&headers(&from, false)), ["accept"]);
        assert_eq!(names(&headers(&from, true)), ["accept", "connection", "upgrade"]);
    }
}
