//! The API for parts of the same process: requests as values, without TLS, HTTP or a socket.
//!
//! A [`Local`] asks as one user. Its requests take the way of everybody else's: they are authorized, admitted, checked
//! and written by the same code, so that a part that works here also works over HTTPS.

use std::pin::Pin;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use client::{Answer, Events, Gvr, Listing, Request, Selectors};
use resources::Status;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Outcome};
use crate::authn::User;
use crate::objects::Call;
use crate::request::{Query, RequestInfo, ResourcePath, Target};
use crate::respond::{As, Format, Wanted};
use client::Body;

/// The API as one user sees it. It does not keep the server alive: once that has stopped, every request answers 503.
pub struct Local {
    api: Weak<Api>,
    stopping: CancellationToken,
    user: User,
    /// Names the writer in `managedFields`.
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
        let resource = api.catalog().resource(&of.group, &of.version, &of.plural).cloned();
        let resource = resource.ok_or_else(Status::no_such_path)?;
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

    async fn perform(&self, of: &Gvr, request: Request) -> Result<Bytes, Status> {
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
}

impl client::Api for Local {
    fn request<'a>(&'a self, of: &'a Gvr, request: Request) -> Answer<'a, Bytes> {
        Box::pin(self.perform(of, request))
    }

    fn list<'a>(&'a self, of: &'a Gvr, namespace: &'a str, selectors: &'a Selectors) -> Answer<'a, Listing> {
        Box::pin(async move {
            let request = reading("list", namespace, selectors);
            let (items, revision) = self.call(of, request).await?.items().await?;
            Ok(Listing { items, revision })
        })
    }

    fn watch<'a>(
        &'a self,
        of: &'a Gvr,
        namespace: &'a str,
        selectors: &'a Selectors,
        revision: u64,
    ) -> Answer<'a, Events> {
        Box::pin(async move { self.call(of, reading("watch", namespace, selectors)).await?.events(revision).await })
    }

    fn stopped(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.stopping.cancelled())
    }
}

fn reading(verb: &'static str, namespace: &str, selectors: &Selectors) -> Request {
    Request { verb, namespace: namespace.to_owned(), query: selectors.query(), ..Request::default() }
}
