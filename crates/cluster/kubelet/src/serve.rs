//! The agent's own HTTPS: what the API server and monitors ask this node for, in the kubelet's words. Nobody anonymous is
//! answered: a client shows a certificate of the cluster's authority or a token, and the API says what it may.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Body, Gvr, Identity, NodeRequest, Nodes, Query, Request as ApiRequest, User, certificate_user};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use resources::{Status, Value, meta};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::manage::Doors;
use crate::runtime::Runtime;
use crate::stream::NodeDoor;

const HANDSHAKE: Duration = Duration::from_secs(10);
const BODY_BYTES_MAX: usize = 3 << 20;
const CONNECTIONS_MAX: usize = 1000;
/// How long the API's answers about users are believed, as upstream's defaults.
const ALLOWED: Duration = Duration::from_secs(300);
const DENIED: Duration = Duration::from_secs(30);
const KNOWN: Duration = Duration::from_secs(120);
const REMEMBERED_MAX: usize = 1000;

/// The page by which nodes acknowledge to each other.
const REACHED: [&str; 2] = ["knarr", "reached"];

/// What the HTTPS side of an agent stands on.
pub struct Serving {
    pub listener: TcpListener,
    /// The serving certificate; as long as there is none, nobody is answered.
    pub identity: Identity,
    /// The cluster's authority, PEM: clients' certificates are held against it.
    pub authority: String,
}

impl Serving {
    fn tls(&self) -> Result<Arc<rustls::ServerConfig>, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = client::trust(&self.authority).map_err(|error| error.to_string())?;
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| error.to_string())?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(self.identity.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Serves until dropped.
pub async fn run<R: Runtime>(doors: Arc<Doors<R>>, serving: Serving) {
    let tls = match serving.tls() {
        Ok(tls) => TlsAcceptor::from(tls),
        Err(error) => {
            tracing::error!(error, "the agent's port cannot be served");
            return;
        }
    };
    let server = Arc::new(Server { door: NodeDoor::new(doors.clone()), doors, judge: Judge::default() });
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    // Connections end with this future.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match serving.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept a connection to the agent");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (server, tls) = (server.clone(), tls.clone());
        connections.spawn(async move {
            let _place = place;
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await else { return };
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let user = certificate.and_then(|der| certificate_user(der));
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let answer = move |request| {
                let (server, user) = (server.clone(), user.clone());
                async move { server.answer(user, request).await }
            };
            client::serve_connection(stream, h2, std::future::pending(), answer).await;
        });
    }
}

struct Server<R> {
    doors: Arc<Doors<R>>,
    door: NodeDoor<R>,
    judge: Judge,
}

impl<R: Runtime> Server<R> {
    async fn answer(&self, certificate: Option<User>, request: Request<Incoming>) -> Response<Body> {
        match self.route(certificate, request).await {
            Ok(response) => response,
            Err(status) => {
                let mut response = Response::new(Body::from(format!("{}\n", status.message)));
                *response.status_mut() = http::StatusCode::from_u16(status.code).unwrap_or_default();
                response
            }
        }
    }

    async fn route(&self, certificate: Option<User>, mut request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let upgrade = request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let words = segments(parts.uri.path())?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let user = match certificate {
            Some(user) => user,
            None => self.judge.user(&self.doors.api, &parts.headers).await?,
        };
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        if words == REACHED {
            return self.reached(&user, &query).await;
        }
        let (verb, subresource) = (verb(&parts.method), subresource(&words));
        self.judge.allow(&self.doors.api, &self.doors.node.name, &user, verb, subresource).await?;
        let body = http_body_util::Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Status::bad_request(format!("read the request's body: {error}")))?.to_bytes();
        let asked = |pod: Option<Value>, subresource: &str, query: Query, rest: String| NodeRequest {
            node: self.doors.node.name.clone(),
            pod,
            subresource: subresource.to_owned(),
            rest,
            method: parts.method.clone(),
            query,
            headers: parts.headers.clone(),
            body: body.clone(),
            upgrade,
            user: user.clone(),
        };
        match words[..] {
            ["containerLogs", namespace, pod, container] => {
                let query =
                    Query::parse(&format!("{}&container={}", query.to_text(), client::percent_encode(container)));
                self.door.answer(asked(Some(self.pod(namespace, pod)?), "log", query, String::new())).await
            }
            [kind @ ("exec" | "attach"), namespace, pod, container]
            | [kind @ ("exec" | "attach"), namespace, pod, _, container] => {
                let query = stream_query(&query, container)?;
                self.door.answer(asked(Some(self.pod(namespace, pod)?), kind, query, String::new())).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                self.door.answer(asked(Some(self.pod(namespace, pod)?), "portforward", query, String::new())).await
            }
            ["podProxy", namespace, pod, ref rest @ ..] => {
                self.door.answer(asked(Some(self.pod(namespace, pod)?), "proxy", query, rest.join("/"))).await
            }
            // The node's own pages.
            _ => self.door.answer(asked(None, "proxy", query, words.join("/"))).await,
        }
    }

    /// Other nodes ask what this one's data plane has come to, before a pod of theirs ends. Nodes and servers may, without the
    /// API being asked: it says no more than how far this node is.
    async fn reached(&self, user: &User, query: &Query) -> Result<Response<Body>, Status> {
        if !user.groups.iter().any(|group| group == "system:nodes" || group == "system:masters") {
            return Err(Status::new(403, "Forbidden", "only nodes ask each other"));
        }
        let revision = query.get("revision").parse();
        let revision = revision.map_err(|_| Status::bad_request("revision: expected a number"))?;
        match self.doors.reached(revision).await {
            None => Err(Status::new(404, "NotFound", "this node leads to no services")),
            Some(there) => Ok(Response::new(Body::from(there.to_string()))),
        }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Value, Status> {
        let view = self.doors.view.read().unwrap_or_else(PoisonError::into_inner);
        let pod = view.get(cache::Kind::Pod, namespace, name);
        let mine = pod.filter(|pod| meta::str_at(pod, &["spec", "nodeName"]) == self.doors.node.name);
        mine.map(|pod| Value::clone(pod))
            .ok_or_else(|| Status::new(404, "NotFound", format!("pod {name:?} does not exist")))
    }
}

/// The path's segments; what could be read in two ways is refused.
fn segments(path: &str) -> Result<Vec<String>, Status> {
    let path = path.trim_start_matches('/');
    let path = path.strip_suffix('/').unwrap_or(path);
    let decoded = path.split('/').map(|segment| {
        client::percent_decode(segment)
            .filter(|segment| segment != "." && segment != ".." && !segment.contains('\0'))
            .ok_or_else(|| Status::bad_request("the path cannot be read"))
    });
    decoded.collect()
}

/// As the API's own words have it: `input=1` is `stdin=true`.
fn stream_query(query: &Query, container: &str) -> Result<Query, Status> {
    let mut words = vec![format!("container={}", client::percent_encode(container))];
    for (theirs, ours) in [("input", "stdin"), ("output", "stdout"), ("error", "stderr"), ("tty", "tty")] {
        words.push(format!("{ours}={}", query.flag(theirs)?));
    }
    words.extend(query.all("command").map(|word| format!("command={}", client::percent_encode(word))));
    Ok(Query::parse(&words.join("&")))
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The subresource of nodes that a page stands for.
fn subresource(words: &[&str]) -> &'static str {
    match words.first().copied().unwrap_or_default() {
        "metrics" => "metrics",
        "stats" => "stats",
        "logs" => "log",
        "healthz" => "healthz",
        "configz" => "configz",
        "pods" | "runningpods" => "pods",
        _ => "proxy",
    }
}

/// User, groups, verb and subresource.
type Asked = (String, Vec<String>, &'static str, &'static str);

/// Who asks, and whether they may; the API knows.
#[derive(Default)]
struct Judge {
    users: Mutex<HashMap<String, (Instant, User)>>,
    verdicts: Mutex<HashMap<Asked, (Instant, bool)>>,
}

impl Judge {
    async fn user(&self, api: &client::Client, headers: &HeaderMap) -> Result<User, Status> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let token = header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let token = token.map(|(_, token)| token.trim()).filter(|token| !token.is_empty());
        let token = token.ok_or_else(Status::unauthorized)?;
        let now = Instant::now();
        {
            let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.retain(|_, (until, _)| *until > now);
            if let Some((_, user)) = users.get(token) {
                return Ok(user.clone());
            }
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let answer = ask(api, Gvr::new("authentication.k8s.io", "v1", "tokenreviews"), &review).await?;
        if answer["status"]["authenticated"] != true {
            return Err(Status::unauthorized());
        }
        let said = &answer["status"]["user"];
        let groups = meta::list_at(said, &["groups"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let user = User {
            name: said["username"].as_str().unwrap_or_default().to_owned(),
            uid: said["uid"].as_str().unwrap_or_default().to_owned(),
            groups,
            ..User::default()
        };
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() < REMEMBERED_MAX {
            users.insert(token.to_owned(), (now + KNOWN, user.clone()));
        }
        Ok(user)
    }

    async fn allow(
        &self,
        api: &client::Client,
        node: &str,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<(), Status> {
        let key = (user.name.clone(), user.groups.clone(), verb, subresource);
        let now = Instant::now();
        let refused = || {
            let name = &user.name;
            let text = format!("Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])");
            Status::new(403, "Forbidden", text)
        };
        let remembered = {
            let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
            verdicts.retain(|_, (until, _)| *until > now);
            verdicts.get(&key).map(|(_, allowed)| *allowed)
        };
        if let Some(allowed) = remembered {
            return if allowed { Ok(()) } else { Err(refused()) };
        }
        let mut allowed = may(api, node, user, verb, subresource).await?;
        // Who may everything of a node may its pages.
        if !allowed && subresource != "proxy" {
            allowed = may(api, node, user, verb, "proxy").await?;
        }
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() < REMEMBERED_MAX {
            verdicts.insert(key, (now + if allowed { ALLOWED } else { DENIED }, allowed));
        }
        if allowed { Ok(()) } else { Err(refused()) }
    }
}

async fn may(api: &client::Client, node: &str, user: &User, verb: &str, subresource: &str) -> Result<bool, Status> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": user.name, "groups": user.groups, "resourceAttributes": {"verb": verb, "resource": "nodes",
            "subresource": subresource, "name": node, "version": "v1"}}});
    let answer = ask(api, Gvr::new("authorization.k8s.io", "v1", "subjectaccessreviews"), &review).await?;
    Ok(answer["status"]["allowed"] == true)
}

async fn ask(api: &client::Client, of: Gvr, review: &Value) -> Result<Value, Status> {
    let request = ApiRequest { verb: "create", body: Bytes::from(review.to_string()), ..ApiRequest::default() };
    let answer = api.request(&of, request).await?;
    serde_json::from_slice(&answer).map_err(|error| Status::internal(format!("a review's answer is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_asked_for_in_two_dialects() {
        let query = stream_query(&Query::parse("input=1&output=1&command=sh&command=a+b"), "c").unwrap();
        let text = "container=c&stdin=true&stdout=true&stderr=false&tty=false&command=sh&command=a%20b";
        assert_eq!(query.to_text(), text);
    }

    #[test]
    fn pages_stand_for_subresources_of_the_node() {
        for (path, expected) in [
            ("/metrics/cadvisor", "metrics"),
            ("/stats/summary", "stats"),
            ("/exec/d/p/c", "proxy"),
            ("/pods", "pods"),
            ("/", "proxy"),
        ] {
            let words = segments(path).unwrap();
            assert_eq!(subresource(&words.iter().map(String::as_str).collect::<Vec<_>>()), expected, "{path}");
        }
        assert!(segments("/exec/../x").is_err());
        assert!(segments("/exec/%2e%2e/x").is_err());
        assert!(segments("/%zz").is_err());
    }
}
