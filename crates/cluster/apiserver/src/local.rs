//! The API for parts of the same process: requests as values, without TLS, HTTP or a socket.
//!
//! A [`Local`] asks as one user. Its requests take the way of everybody else's: they are authorized, admitted, checked
//! and written by the same code, so that a part that works here also works over HTTPS.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use resources::{Status, Value, meta};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Outcome};
use crate::authn::User;
use crate::body::Body;
use crate::codec;
use crate::objects::{Call, Events};
use crate::request::{Query, RequestInfo, ResourcePath, Target};
use crate::respond::{As, Format, Wanted};

/// A resource by group, version and plural name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvr {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub plural: Cow<'static, str>,
}

impl Gvr {
    /// The core group's name is empty.
    pub const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self { group: Cow::Borrowed(group), version: Cow::Borrowed(version), plural: Cow::Borrowed(plural) }
    }
}

/// What to list or watch. The default is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selectors {
    /// As in a query: `app=web,tier!=front`.
    pub labels: String,
    /// As in a query: `spec.nodeName=n1`.
    pub fields: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct List {
    pub items: Vec<Value>,
    /// The revision at which all items stood so; a watch goes on from here.
    pub revision: u64,
}

/// How to change an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    /// Server-side apply by a field manager.
    Apply {
        config: Value,
        manager: String,
        force: bool,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_secs: Option<i64>,
    /// `Background`, `Foreground`, `Orphan`; empty leaves it to the kind.
    pub propagation: String,
    /// Delete only the object with this uid, unless it is empty.
    pub uid: String,
}

/// A request in full, for what the methods of [`Local`] have no name for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// get, list, create, update, patch, delete, deletecollection.
    pub verb: &'static str,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
    /// As in a URL: `dryRun=All&fieldManager=me`.
    pub query: String,
    /// Empty is JSON.
    pub content_type: &'static str,
    pub body: Bytes,
}

/// A request that only a node can answer: a pod's log, exec, attach, port-forward or proxy, or the node's own proxy.
pub struct NodeRequest {
    pub node: String,
    /// The pod it is about, as stored; `None` for the node itself.
    pub pod: Option<Value>,
    /// `log`, `exec`, `attach`, `portforward` or `proxy`.
    pub subresource: String,
    /// What follows a proxy in the path.
    pub rest: String,
    pub method: Method,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// For exec and its like: the connection, once a 101 has been answered.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
    pub user: User,
}

/// The door to the nodes. Authorization has been done when a request comes here.
pub trait Nodes: Send + Sync {
    fn answer(&self, request: NodeRequest)
    -> Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send + '_>>;
}

/// The API as one user sees it. Cheap to clone. It does not keep the server alive: once that has stopped, every request
/// answers 503.
#[derive(Clone)]
pub struct Local {
    api: Weak<Api>,
    stopping: CancellationToken,
    user: User,
    agent: String,
}

impl Local {
    pub(crate) fn new(api: &Arc<Api>, user: User, agent: &str) -> Self {
        Self { api: Arc::downgrade(api), stopping: api.stopping.clone(), user, agent: agent.to_owned() }
    }

    fn api(&self) -> Outcome<Arc<Api>> {
        let gone = || Status::new(503, "ServiceUnavailable", "the server has stopped");
        self.api.upgrade().filter(|_| !self.stopping.is_cancelled()).ok_or_else(gone)
    }

    /// The same API for another user. `agent` names the writer in `managedFields`.
    pub fn as_user(&self, user: User, agent: &str) -> Self {
        Self { user, agent: agent.to_owned(), ..self.clone() }
    }

    pub fn user(&self) -> &User {
        &self.user
    }

    /// Ends when the server stops.
    pub async fn stopped(&self) {
        self.stopping.cancelled().await;
    }

    /// The resource's names and rules, if it is served.
    pub fn resource(&self, of: &Gvr) -> Option<Arc<crate::catalog::Resource>> {
        self.api().ok()?.catalog().resource(&of.group, &of.version, &of.plural).cloned()
    }

    async fn call(&self, of: &Gvr, request: Request) -> Outcome<Call> {
        let path = ResourcePath {
            group: of.group.clone().into_owned(),
            version: of.version.clone().into_owned(),
            namespace: request.namespace,
            resource: of.plural.clone().into_owned(),
            name: request.name,
            subresource: request.subresource,
            rest: String::new(),
        };
        let query = Query::parse(&request.query);
        let info = RequestInfo { target: Target::Resource(path.clone()), query: query.clone(), verb: request.verb };
        let api = self.api()?;
        crate::server::authorize(&api, &self.user, &info).await?;
        let resource = self.resource(of).ok_or_else(Status::no_such_path)?;
        Ok(Call {
            api,
            resource,
            path,
            verb: request.verb,
            query,
            user: self.user.clone(),
            agent: self.agent.clone(),
            wanted: Wanted { format: Format::Json, form: As::Object },
            content_type: match request.content_type {
                "" => "application/json".into(),
                given => given.into(),
            },
            body: request.body,
            warnings: Vec::new(),
            stream: None,
        })
    }

    /// Any request; the answer is a JSON object's bytes.
    pub async fn request(&self, of: &Gvr, request: Request) -> Result<Bytes, Status> {
        let mut call = self.call(of, request).await?;
        if crate::reviews::is_review(&of.group, &of.plural) && call.verb == "create" {
            let body = crate::objects::limit_json("", &call.body)?;
            let answer = crate::reviews::answer(&call.api, &self.user, &of.plural, &call.path.namespace, body).await?;
            return Ok(answer.to_string().into());
        }
        call.api.metrics.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match call.answer().await?.into_body() {
            Body::Whole(bytes) => Ok(bytes.unwrap_or_default()),
            other => {
                let collected = http_body_util::BodyExt::collect(other).await;
                Ok(collected.unwrap_or_else(|never| match never {}).to_bytes())
            }
        }
    }

    async fn object(&self, of: &Gvr, request: Request) -> Result<Value, Status> {
        Ok(codec::decode(&self.request(of, request).await?))
    }

    pub async fn get(&self, of: &Gvr, namespace: &str, name: &str) -> Result<Value, Status> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.object(of, Request { verb: "get", namespace, name, ..Request::default() }).await
    }

    /// Everything of a namespace; of all namespaces when it is empty.
    pub async fn list(&self, of: &Gvr, namespace: &str, selectors: &Selectors) -> Result<List, Status> {
        let request =
            Request { verb: "list", namespace: namespace.to_owned(), query: selectors.query(), ..Request::default() };
        let (stored, revision) = self.call(of, request).await?.items().await?;
        Ok(List { items: stored.iter().map(|bytes| codec::decode(bytes)).collect(), revision })
    }

    /// Changes after `revision`, as a list or an event told it.
    pub async fn watch(
        &self,
        of: &Gvr,
        namespace: &str,
        selectors: &Selectors,
        revision: u64,
    ) -> Result<Events, Status> {
        let request =
            Request { verb: "watch", namespace: namespace.to_owned(), query: selectors.query(), ..Request::default() };
        self.call(of, request).await?.events(revision).await
    }

    pub async fn create(&self, of: &Gvr, namespace: &str, object: &Value) -> Result<Value, Status> {
        let request =
            Request { verb: "create", namespace: namespace.to_owned(), body: bytes(object), ..Request::default() };
        self.object(of, request).await
    }

    /// Overwrites an object; its `resourceVersion` must be the current one, where it has one.
    pub async fn update(&self, of: &Gvr, object: &Value) -> Result<Value, Status> {
        self.update_sub(of, object, "").await
    }

    pub async fn update_status(&self, of: &Gvr, object: &Value) -> Result<Value, Status> {
        self.update_sub(of, object, "status").await
    }

    async fn update_sub(&self, of: &Gvr, object: &Value, subresource: &str) -> Result<Value, Status> {
        let request = Request {
            verb: "update",
            namespace: meta::namespace(object).to_owned(),
            name: meta::name(object).to_owned(),
            subresource: subresource.to_owned(),
            body: bytes(object),
            ..Request::default()
        };
        self.object(of, request).await
    }

    /// Patches an object, or a subresource of it unless that is empty.
    pub async fn patch(
        &self,
        of: &Gvr,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Patch,
    ) -> Result<Value, Status> {
        let (content_type, body, query) = match patch {
            Patch::Json(patch) => ("application/json-patch+json", patch, String::new()),
            Patch::Merge(patch) => ("application/merge-patch+json", patch, String::new()),
            Patch::Strategic(patch) => ("application/strategic-merge-patch+json", patch, String::new()),
            Patch::Apply { config, manager, force } => {
                ("application/apply-patch+yaml", config, format!("fieldManager={}&force={force}", escaped(manager)))
            }
        };
        let request = Request {
            verb: "patch",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            query,
            content_type,
            body: bytes(body),
        };
        self.object(of, request).await
    }

    /// Deletes an object; answers a Status, or the object that now waits for its end.
    pub async fn delete(
        &self,
        of: &Gvr,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value, Status> {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(secs) = options.grace_secs {
            body["gracePeriodSeconds"] = secs.into();
        }
        if !options.propagation.is_empty() {
            body["propagationPolicy"] = options.propagation.as_str().into();
        }
        if !options.uid.is_empty() {
            body["preconditions"] = json!({"uid": options.uid});
        }
        let request = Request {
            verb: "delete",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            body: bytes(&body),
            ..Request::default()
        };
        self.object(of, request).await
    }

    /// Puts a body to a subresource that is made, not kept: `binding`, `eviction`, `token`.
    pub async fn create_sub(
        &self,
        of: &Gvr,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, Status> {
        let request = Request {
            verb: "create",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            body: bytes(body),
            ..Request::default()
        };
        self.object(of, request).await
    }

    /// Gives a pod its node.
    pub async fn bind(&self, namespace: &str, pod: &str, node: &str) -> Result<(), Status> {
        let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        self.create_sub(&PODS, namespace, pod, "binding", &body).await.map(drop)
    }
}

pub const PODS: Gvr = Gvr::new("", "v1", "pods");

impl Selectors {
    fn query(&self) -> String {
        let mut parts = Vec::new();
        for (key, text) in [("labelSelector", &self.labels), ("fieldSelector", &self.fields)] {
            if !text.is_empty() {
                parts.push(format!("{key}={}", escaped(text)));
            }
        }
        parts.join("&")
    }
}

fn bytes(object: &Value) -> Bytes {
    serde_json::to_vec(object).expect("trees always encode").into()
}

/// Text for a query.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => out.push(byte as char),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
