//! The API over HTTPS: one connection, kept while it answers, made anew when it does not, to whichever server answers.
//!
//! * `tls` — whom we believe and who we are; certificates can be exchanged while connections go on
//! * `connection` — servers, tried in order; requests and their limits
//! * `watch` — changes that go on where they stopped when a connection breaks
//! * `serving` — a connection from the side that answers
//! * `kubelet` — the other direction: what the API asks of nodes
//! * `peers` — what nodes ask each other

mod connection;
mod kubelet;
mod peers;
mod serving;
mod tls;
mod watch;

use std::pin::Pin;

use bytes::Bytes;
use http::Method;
use resources::{Status, Value};

pub use connection::{ConnectError, Https, Target};
pub use kubelet::RemoteNodes;
pub use peers::Peers;
pub use serving::serve_connection;
pub use tls::{Identity, TlsError, believing_anybody, fetch_authority, trust};

use crate::api::{Answer, Api, Events};
use crate::{Gvr, Listing, Request, Selectors, percent_encode};

/// Objects a page when everything is listed.
const PAGE: usize = 1000;

impl Api for Https {
    fn request<'a>(&'a self, of: &'a Gvr, request: Request) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let method = match request.verb {
                "create" => Method::POST,
                "update" => Method::PUT,
                "patch" => Method::PATCH,
                "delete" | "deletecollection" => Method::DELETE,
                "get" | "list" => Method::GET,
                other => return Err(Status::bad_request(format!("{other:?} is no verb of a request"))),
            };
            let mut path = path(of, &request.namespace, &request.name, &request.subresource);
            if !request.query.is_empty() {
                path.push('?');
                path.push_str(&request.query);
            }
            let content_type = if request.content_type.is_empty() { "application/json" } else { request.content_type };
            self.ask(method, &path, content_type, request.body).await
        })
    }

    fn list<'a>(&'a self, of: &'a Gvr, namespace: &'a str, selectors: &'a Selectors) -> Answer<'a, Listing> {
        Box::pin(async move {
            let mut items = Vec::new();
            let mut token = String::new();
            loop {
                let mut path = format!("{}?limit={PAGE}", path(of, namespace, "", ""));
                if !token.is_empty() {
                    path.push_str(&format!("&continue={}", percent_encode(&token)));
                }
                let query = selectors.query();
                if !query.is_empty() {
                    path.push_str(&format!("&{query}"));
                }
                let bytes = self.ask(Method::GET, &path, "", Bytes::new()).await?;
                let mut page: Value = serde_json::from_slice(&bytes)
                    .map_err(|error| Status::internal(format!("a list of {} is no JSON: {error}", of.plural)))?;
                let revision = page["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
                token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
                items.extend(named(&mut page).iter().map(|item| Bytes::from(item.to_string())));
                if token.is_empty() {
                    return Ok(Listing { items, revision: revision.unwrap_or(0) });
                }
            }
        })
    }

    fn watch<'a>(
        &'a self,
        of: &'a Gvr,
        namespace: &'a str,
        selectors: &'a Selectors,
        revision: u64,
    ) -> Answer<'a, Events> {
        Box::pin(async move {
            let path = path(of, namespace, "", "");
            Ok(Events::new(watch::Watching::new(self.clone(), path, selectors.query(), revision)))
        })
    }

    fn stopped(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        // A server that is away comes back; this side is ended by dropping it.
        Box::pin(std::future::pending())
    }
}

/// Lists of other servers name the kind once, for all items.
fn named(page: &mut Value) -> Vec<Value> {
    let kind = page["kind"].as_str().unwrap_or_default().strip_suffix("List").unwrap_or_default().to_owned();
    let version = page["apiVersion"].clone();
    let Value::Array(items) = page["items"].take() else { return Vec::new() };
    let name = |mut item: Value| {
        if let Some(object) = item.as_object_mut()
            && !object.contains_key("kind")
        {
            object.insert("kind".into(), kind.as_str().into());
            object.insert("apiVersion".into(), version.clone());
        }
        item
    };
    items.into_iter().map(name).collect()
}

fn path(of: &Gvr, namespace: &str, name: &str, subresource: &str) -> String {
    let mut path = match of.group.as_ref() {
        "" => format!("/api/{}", of.version),
        group => format!("/apis/{group}/{}", of.version),
    };
    let mut add = |segment: &str| {
        if !segment.is_empty() {
            path.push('/');
            path.push_str(&percent_encode(segment).replace('/', "%2F"));
        }
    };
    if !namespace.is_empty() {
        add("namespaces");
        add(namespace);
    }
    add(&of.plural);
    add(name);
    add(subresource);
    path
}

/// An error as a server says it.
fn status_of(code: u16, body: &[u8]) -> Status {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if said["kind"] != "Status" {
        let text = String::from_utf8_lossy(&body[..body.len().min(512)]).trim().to_owned();
        let reason = if code == 503 { "ServiceUnavailable" } else { "" };
        return Status::new(code, reason, if text.is_empty() { format!("the server answered {code}") } else { text });
    }
    let mut status = Status::new(code, reason(&text(&said["reason"])), text(&said["message"]));
    let details = &said["details"];
    status.name = text(&details["name"]);
    status.group = text(&details["group"]);
    status.kind = text(&details["kind"]);
    status.uid = text(&details["uid"]);
    status.retry_after_secs = details["retryAfterSeconds"].as_u64().and_then(|secs| secs.try_into().ok()).unwrap_or(0);
    for cause in details["causes"].as_array().into_iter().flatten() {
        status = status.cause(&text(&cause["reason"]), text(&cause["message"]), &text(&cause["field"]));
    }
    status
}

/// The reasons that statuses give; one that nobody knows is no reason.
fn reason(text: &str) -> &'static str {
    const KNOWN: &[&str] = &[
        "AlreadyExists",
        "BadRequest",
        "Conflict",
        "Expired",
        "Forbidden",
        "Gone",
        "InternalError",
        "Invalid",
        "MethodNotAllowed",
        "NotAcceptable",
        "NotFound",
        "NotImplemented",
        "RequestEntityTooLarge",
        "ServerTimeout",
        "ServiceUnavailable",
        "Timeout",
        "TooManyRequests",
        "Unauthorized",
        "UnsupportedMediaType",
    ];
    KNOWN.iter().find(|known| **known == text).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PODS;
    use serde_json::json;

    #[test]
    fn paths_name_what_is_asked_for() {
        let leases = Gvr::new("coordination.k8s.io", "v1", "leases");
        for (found, expected) in [
            (path(&PODS, "", "", ""), "/api/v1/pods"),
            (path(&PODS, "d", "a", "status"), "/api/v1/namespaces/d/pods/a/status"),
            (path(&leases, "n", "x:y", ""), "/apis/coordination.k8s.io/v1/namespaces/n/leases/x%3Ay"),
            (path(&PODS, "../x", "", ""), "/api/v1/namespaces/..%2Fx/pods"),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn items_of_a_list_are_whole_objects() {
        let mut page = json!({"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "a"}}]});
        assert_eq!(named(&mut page), [json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}})]);
        assert_eq!(named(&mut json!({"kind": "PodList"})), Vec::<Value>::new());
    }

    #[test]
    fn errors_keep_what_the_server_said() {
        let said = Status::conflict("apps", "deployments", "web", "changed").cause("A", "b", "c");
        let read = status_of(409, said.to_value().to_string().as_bytes());
        assert_eq!((read.code, read.reason, &read.message), (409, "Conflict", &said.message));
        assert_eq!(read.causes.len(), said.causes.len());
        assert_eq!(status_of(502, b"bad gateway").message, "bad gateway");
        assert_eq!(status_of(500, b"").message, "the server answered 500");
    }
}
