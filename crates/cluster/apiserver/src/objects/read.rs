//! get and list.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Response;
use resources::selector::{FieldSelector, LabelSelector};
use resources::{Status, Value, meta};
use serde::Deserialize;
use serde_json::json;
use store::{RangeRequest, Span};

use super::Call;
use crate::api::{Outcome, store_error};
use crate::catalog::Resource;
use crate::codec;
use client::Body;

/// Label and field selectors of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection {
    pub(super) labels: LabelSelector,
    pub(super) fields: FieldSelector,
}

impl Selection {
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Judges stored bytes; parses no more of them than the selectors need.
    pub(super) fn matches(&self, stored: &[u8]) -> bool {
        if self.is_empty() {
            return true;
        }
        if self.fields.terms.iter().all(|term| term.field.starts_with("metadata.name")) {
            #[derive(Deserialize)]
            struct Head<'a> {
                #[serde(borrow)]
                metadata: Meta<'a>,
            }
            #[derive(Deserialize)]
            struct Meta<'a> {
                #[serde(borrow, default)]
                name: std::borrow::Cow<'a, str>,
                #[serde(borrow, default)]
                namespace: std::borrow::Cow<'a, str>,
                #[serde(borrow, default)]
                labels: std::collections::BTreeMap<std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>>,
            }
            if let Ok(Head { metadata }) = serde_json::from_slice::<Head<'_>>(stored) {
                return self.labels.matches(&|key: &str| metadata.labels.get(key).map(AsRef::as_ref))
                    && self.fields.matches(|field| match field {
                        "metadata.name" => metadata.name.to_string(),
                        _ => metadata.namespace.to_string(),
                    });
            }
        }
        let object = codec::decode(stored);
        self.labels.matches_object(&object) && self.fields.matches(|field| field_text(&object, field))
    }
}

/// A field as selectors see it.
fn field_text(object: &Value, field: &str) -> String {
    let path: Vec<&str> = field.split('.').collect();
    match meta::at(object, &path) {
        Some(Value::String(text)) => text.clone(),
        None if field == "spec.unschedulable" => "false".into(),
        None if matches!(field, "spec.hostNetwork") => "false".into(),
        None if matches!(field, "status.replicas") => "0".into(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// Fields that can be selected by, besides name and namespace.
fn selectable(resource: &Resource) -> Vec<&str> {
    if let Some(custom) = &resource.custom {
        return custom.selectable.iter().map(String::as_str).collect();
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => vec![
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "nodes") => vec!["spec.unschedulable"],
        ("", "namespaces") => vec!["status.phase"],
        ("", "secrets") => vec!["type"],
        ("", "services") => vec!["spec.clusterIP", "spec.type"],
        ("", "events") => vec![
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "events") => vec![
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        ("", "replicationcontrollers") | ("apps", "replicasets") => vec!["status.replicas"],
        ("batch", "jobs") => vec!["status.successful"],
        ("certificates.k8s.io", "certificatesigningrequests") => vec!["spec.signerName"],
        ("resource.k8s.io", "resourceslices") => vec!["spec.nodeName", "spec.driver"],
        _ => Vec::new(),
    }
}

/// Objects that a list takes from the store at a time, all at one revision: what is known of each besides its bytes is gone before the next.
const PAGE: usize = 4096;

/// What a `continue` token holds.
struct Continue {
    revision: u64,
    after: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after}).to_string())
    }

    fn decode(token: &str) -> Outcome<Self> {
        let read = || -> Option<Self> {
            let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
            Some(Self { revision: value["rv"].as_u64()?, after: value["start"].as_str()?.to_owned() })
        };
        read().ok_or_else(|| Status::bad_request("continue key is not valid: encoded continue token is malformed"))
    }
}

impl Call {
    pub(super) async fn get(&mut self) -> Outcome<Response<Body>> {
        let key = self.resource.key(&self.path.namespace, &self.path.name);
        let kv = self.api.get_kv(&key).await?.ok_or_else(|| self.not_found())?;
        self.respond(200, kv.value).await
    }

    pub(super) fn selection(&self) -> Outcome<Selection> {
        let labels = LabelSelector::parse(self.query.get("labelSelector"))
            .map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))?;
        let mut fields =
            FieldSelector::parse(self.query.get("fieldSelector")).map_err(|error| Status::bad_request(error.0))?;
        if !self.path.name.is_empty() {
            let term = resources::selector::FieldTerm {
                field: "metadata.name".into(),
                value: self.path.name.clone(),
                negated: false,
            };
            fields.terms.push(term);
        }
        let known = selectable(&self.resource);
        for term in &fields.terms {
            if !matches!(term.field.as_str(), "metadata.name" | "metadata.namespace")
                && !known.contains(&term.field.as_str())
            {
                let message = match &self.resource.custom {
                    Some(_) => format!("field label not supported: {}", term.field),
                    None => format!(
                        "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                        term.field
                    ),
                };
                return Err(Status::bad_request(message));
            }
        }
        Ok(Selection { labels, fields })
    }

    /// Where the objects asked for lie: one key when the name is fixed.
    pub(super) fn span(&self, selection: &Selection) -> Span {
        let namespace = match (self.path.namespace.as_str(), selection.fields.exact("metadata.namespace")) {
            ("", Some(namespace)) => namespace,
            (namespace, _) => namespace,
        };
        match selection.fields.exact("metadata.name") {
            Some(name) if !self.resource.namespaced || !namespace.is_empty() => {
                Span::key(self.resource.key(namespace, name))
            }
            _ => Span::prefix(self.resource.collection(namespace)),
        }
    }

    pub(super) fn resource_version(&self) -> Outcome<Option<u64>> {
        match self.query.get("resourceVersion") {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                let error = resources::FieldError::invalid(
                    "resourceVersion",
                    text,
                    format!("strconv.ParseUint: parsing {text:?}: invalid syntax"),
                );
                Status::invalid("meta.k8s.io", "ListOptions", "", &[error])
            }),
        }
    }

    pub(super) async fn list(&mut self) -> Outcome<Response<Body>> {
        let selection = self.selection()?;
        let span = self.span(&selection);
        let limit = self.query.number("limit")?.filter(|_| !vocab::weak::without("pages")).unwrap_or(0) as usize;
        let asked = self.resource_version()?;
        let exact = match self.query.get("resourceVersionMatch") {
            "" | "NotOlderThan" => false,
            "Exact" => true,
            other => {
                let error =
                    resources::FieldError::unsupported("resourceVersionMatch", other, &["Exact", "NotOlderThan"]);
                return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &[error]));
            }
        };
        if self.query.has("resourceVersionMatch")
            && asked.is_none()
            && !self.query.get("resourceVersionMatch").is_empty()
        {
            let error = resources::FieldError::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            );
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &[error]));
        }
        let token = self.query.get("continue");
        let (revision, mut from) = if !token.is_empty() {
            if asked.is_some_and(|version| version != 0) {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            let token = Continue::decode(token)?;
            let revision = (token.revision != 0).then_some(token.revision);
            (revision, Some(format!("{}\0", token.after)))
        } else {
            (asked.filter(|version| *version != 0 && exact), None)
        };
        if let Some(version) = asked.filter(|version| *version != 0)
            && revision.is_none()
        {
            self.wait_for(version).await?;
        }

        // Pages are cut from one revision; what selectors reject does not count towards the limit.
        let mut items: VecDeque<Bytes> = VecDeque::new();
        let mut at = revision;
        let mut last = None::<Bytes>;
        let (more, remaining);
        loop {
            let start = from.clone().map_or_else(|| span.clone(), |from| span.starting_at(from));
            let page = match limit {
                0 => PAGE,
                _ => (limit - items.len()).max(if selection.is_empty() { 1 } else { 500 }),
            };
            let request =
                RangeRequest { span: start, revision: at, limit: page, count: limit > 0 && selection.is_empty() };
            let reply = self.api.store.range(request).await.map_err(|error| self.expired(error))?;
            let at_now = *at.get_or_insert(reply.revision);
            let got = reply.kvs.len();
            let mut used = 0;
            let keys: Vec<Bytes> = reply.kvs.iter().map(|kv| kv.key.clone()).collect();
            let shown = self.shown(reply.kvs.into_iter().map(|kv| kv.value).collect()).await?;
            for (key, shown) in keys.into_iter().zip(shown) {
                if limit > 0 && items.len() == limit {
                    break;
                }
                used += 1;
                if selection.matches(&shown) {
                    items.push_back(shown);
                }
                last = Some(key);
            }
            let rest = reply.more || used < got;
            if !rest || (limit > 0 && items.len() >= limit) {
                at = Some(at_now);
                more = rest;
                remaining = reply.count.map(|count| count - used);
                break;
            }
            from = last.as_ref().map(|last| format!("{}\0", text(last)));
        }
        let revision = at.unwrap_or(0);
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if more && let Some(after) = last {
            metadata["continue"] = Continue { revision, after: text(&after) }.encode().into();
            if let Some(remaining) = remaining {
                metadata["remainingItemCount"] = remaining.into();
            }
        }
        let include = self.query.get("includeObject");
        Ok(crate::respond::list(&self.resource, items, metadata, self.wanted, include))
    }

    /// A compacted revision as the client should hear it: a continue token that came too late.
    fn expired(&self, error: store::StoreError) -> Status {
        match error {
            store::StoreError::Compacted { .. } if !self.query.get("continue").is_empty() => Status::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                 without the continue parameter.",
            ),
            store::StoreError::Compacted { .. } => {
                Status::expired("The resourceVersion for the provided list is too old.")
            }
            error => store_error(error),
        }
    }

    /// Waits a moment for a revision that the store has not reached; a client may have it from another server.
    pub(super) async fn wait_for(&self, version: u64) -> Outcome<()> {
        let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(3);
        loop {
            let current = self.api.store.revision().await.map_err(store_error)?;
            if current >= version {
                return Ok(());
            }
            if tokio::time::Instant::now() >= patience {
                return Err(store_error(store::StoreError::Future { asked: version, current }));
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

fn text(key: &Bytes) -> String {
    String::from_utf8_lossy(key).into_owned()
}
