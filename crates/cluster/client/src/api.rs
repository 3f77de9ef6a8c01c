//! The client that parts of the cluster read and write through.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use resources::{Status, Value, meta};
use serde_json::json;

use crate::{DeleteOptions, Event, Gvr, List, Listing, PODS, Patch, Request, Selectors, Told, percent_encode};

/// What a way to the API answers, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send + 'a>>;

/// A way to the API, for one user: within the process, or over HTTPS.
pub trait Api: Send + Sync {
    /// Any request but watches; the answer is a JSON object's bytes.
    fn request<'a>(&'a self, of: &'a Gvr, request: Request) -> Answer<'a, Bytes>;

    /// Everything of a namespace that the selectors let through; of all namespaces when it is empty.
    fn list<'a>(&'a self, of: &'a Gvr, namespace: &'a str, selectors: &'a Selectors) -> Answer<'a, Listing>;

    /// Changes after `revision`, as a list or an event told it.
    fn watch<'a>(
        &'a self,
        of: &'a Gvr,
        namespace: &'a str,
        selectors: &'a Selectors,
        revision: u64,
    ) -> Answer<'a, Events>;

    /// Ends when nothing will be answered any more.
    fn stopped(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Where a watch's changes come from.
pub trait EventSource: Send {
    fn next(&mut self) -> Answer<'_, (Vec<Told>, u64)>;
}

/// A running watch. Dropping it ends it.
pub struct Events(Box<dyn EventSource>);

impl Events {
    pub fn new(source: impl EventSource + 'static) -> Self {
        Self(Box::new(source))
    }

    /// Waits for the next changes; answers them with the revision up to which nothing was missed. Fails with 410 when
    /// the reader fell too far behind: list again. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<(Vec<Event>, u64), Status> {
        let (told, through) = self.next_told().await?;
        let read = |told: Told| Ok(Event { happened: told.happened, object: tree(&told.object)? });
        Ok((told.into_iter().map(read).collect::<Result<_, Status>>()?, through))
    }

    /// [`Self::next`] for readers that make trees of what they look at only.
    pub async fn next_told(&mut self) -> Result<(Vec<Told>, u64), Status> {
        self.0.next().await
    }
}

/// The API as one user sees it. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    api: Arc<dyn Api>,
}

impl Client {
    pub fn new(api: impl Api + 'static) -> Self {
        Self { api: Arc::new(api) }
    }

    /// Ends when the API does, or whatever this client stands on.
    pub async fn stopped(&self) {
        self.api.stopped().await;
    }

    /// Any request; the answer is a JSON object's bytes.
    pub async fn request(&self, of: &Gvr, request: Request) -> Result<Bytes, Status> {
        self.api.request(of, request).await
    }

    async fn object(&self, of: &Gvr, request: Request) -> Result<Value, Status> {
        tree(&self.request(of, request).await?)
    }

    pub async fn get(&self, of: &Gvr, namespace: &str, name: &str) -> Result<Value, Status> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.object(of, Request { verb: "get", namespace, name, ..Request::default() }).await
    }

    /// Everything of a namespace; of all namespaces when it is empty.
    pub async fn list(&self, of: &Gvr, namespace: &str, selectors: &Selectors) -> Result<List, Status> {
        let listing = self.listing(of, namespace, selectors).await?;
        let items = listing.items.iter().map(|item| tree(item)).collect::<Result<_, _>>()?;
        Ok(List { items, revision: listing.revision })
    }

    /// [`Self::list`] for readers that make trees of what they look at only.
    pub async fn listing(&self, of: &Gvr, namespace: &str, selectors: &Selectors) -> Result<Listing, Status> {
        self.api.list(of, namespace, selectors).await
    }

    /// Changes after `revision`, as a list or an event told it.
    pub async fn watch(
        &self,
        of: &Gvr,
        namespace: &str,
        selectors: &Selectors,
        revision: u64,
    ) -> Result<Events, Status> {
        self.api.watch(of, namespace, selectors, revision).await
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

    /// Overwrites what a subresource (`status`, `approval`) shows of an object.
    pub async fn update_sub(&self, of: &Gvr, object: &Value, subresource: &str) -> Result<Value, Status> {
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
            Patch::Apply { config, manager, force } => (
                "application/apply-patch+yaml",
                config,
                format!("fieldManager={}&force={force}", percent_encode(manager)),
            ),
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

fn tree(json: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(json).map_err(|error| Status::internal(format!("the API's answer is no JSON: {error}")))
}

fn bytes(object: &Value) -> Bytes {
    serde_json::to_vec(object).expect("trees always encode").into()
}
