//! delete and deletecollection: preconditions, grace, finalizers, propagation.

use http::Response;
use resources::{FieldError, Status, Value, meta};
use serde_json::json;

use super::Call;
use super::decode::parse;
use crate::api::Outcome;
use crate::catalog::Resource;
use crate::deletion::{self, Deleted, Options, Policy};
use crate::respond;
use client::Body;

/// Whether a delete answers what was deleted instead of a Status; upstream differs by kind, and typed clients read
/// the one that its OpenAPI document names.
fn answers_object(resource: &Resource) -> bool {
    match resource.group.as_str() {
        "" => matches!(
            resource.plural.as_str(),
            "persistentvolumeclaims"
                | "persistentvolumes"
                | "pods"
                | "podtemplates"
                | "resourcequotas"
                | "serviceaccounts"
                | "services"
        ),
        "storage.k8s.io" => resource.plural != "csistoragecapacities",
        "resource.k8s.io" => true,
        _ => false,
    }
}

impl Call {
    fn delete_options(&self) -> Outcome<Options> {
        let body = match self.body.is_empty() {
            true => Value::Null,
            false => parse(&self.content_type, &self.body)?.value,
        };
        let kind = meta::str_at(&body, &["kind"]);
        if !kind.is_empty() && kind != "DeleteOptions" {
            return Err(Status::bad_request(format!("{kind} cannot be handled as DeleteOptions")));
        }
        let refuse = |error: FieldError| Status::invalid("meta.k8s.io", "DeleteOptions", "", &[error]);
        let grace = match body["gracePeriodSeconds"].as_i64() {
            Some(secs) => Some(secs),
            None => match self.query.get("gracePeriodSeconds") {
                "" => None,
                text => Some(
                    text.parse().map_err(|_| Status::bad_request(format!("invalid gracePeriodSeconds {text:?}")))?,
                ),
            },
        };
        if let Some(secs) = grace.filter(|secs| *secs < 0) {
            return Err(refuse(FieldError::invalid("gracePeriodSeconds", secs, "must be greater than or equal to 0")));
        }
        let policy = match meta::str_at(&body, &["propagationPolicy"]) {
            "" => self.query.get("propagationPolicy"),
            policy => policy,
        };
        let orphan = body["orphanDependents"].as_bool().or(match self.query.get("orphanDependents") {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        });
        let policy = match (policy, orphan) {
            ("", None) => None,
            ("", Some(true)) | ("Orphan", None) => Some(Policy::Orphan),
            ("", Some(false)) | ("Background", None) => Some(Policy::Background),
            ("Foreground", None) => Some(Policy::Foreground),
            (other, None) => {
                return Err(refuse(FieldError::unsupported(
                    "propagationPolicy",
                    other,
                    &["Background", "Foreground", "Orphan"],
                )));
            }
            (_, Some(_)) => {
                let detail = "orphanDependents and deletionPropagation cannot be both set";
                return Err(refuse(FieldError::invalid("propagationPolicy", policy, detail)));
            }
        };
        let dry = self.dry_run()? || meta::list_at(&body, &["dryRun"]).iter().any(|value| value == "All");
        Ok(Options {
            grace_secs: grace,
            policy,
            uid: meta::str_at(&body, &["preconditions", "uid"]).to_owned(),
            resource_version: meta::str_at(&body, &["preconditions", "resourceVersion"]).to_owned(),
            dry,
        })
    }

    pub(super) async fn delete(&mut self) -> Outcome<Response<Body>> {
        let options = self.delete_options()?;
        self.check_deletable(&self.path.name)?;
        let key = self.resource.key(&self.path.namespace, &self.path.name);
        let (namespace, name) = (self.path.namespace.clone(), self.path.name.clone());
        if let Some((mut old, _)) = self.api.get_object(&self.resource.clone(), &namespace, &name).await? {
            crate::convert::show_value(&self.api, &mut old, &self.resource).await?;
            self.admit_delete(&old).await?;
        }
        let deleted = deletion::delete(&self.api, &self.resource, &key, &options).await?;
        self.take_effect().await?;
        match deleted {
            Deleted::Missing => Err(self.not_found()),
            Deleted::Waiting(object) => {
                let bytes = serde_json::to_vec(&object).expect("trees always encode");
                self.respond(200, bytes.into()).await
            }
            Deleted::Gone(object) if answers_object(&self.resource) => {
                let bytes = serde_json::to_vec(&object).expect("trees always encode");
                self.respond(200, bytes.into()).await
            }
            Deleted::Gone(object) => {
                let mut details =
                    json!({"name": meta::name(&object), "kind": self.resource.plural, "uid": meta::uid(&object)});
                if !self.resource.group.is_empty() {
                    details["group"] = self.resource.group.as_str().into();
                }
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
                Ok(respond::value(200, &status, self.wanted.format))
            }
        }
    }

    /// Namespaces without which the cluster does not work.
    fn check_deletable(&self, name: &str) -> Outcome<()> {
        let fixed = self.resource.prefix == "/registry/core/namespaces/"
            && matches!(name, "default" | "kube-system" | "kube-public");
        match fixed {
            true => Err(Status::forbidden("", "namespaces", name, "this namespace may not be deleted")),
            false => Ok(()),
        }
    }

    pub(super) async fn delete_collection(&mut self) -> Outcome<Response<Body>> {
        let options = self.delete_options()?;
        let selection = self.selection()?;
        let request = store::RangeRequest::newest(self.span(&selection));
        let reply = self.api.store.range(request).await.map_err(crate::api::store_error)?;
        let mut items = std::collections::VecDeque::new();
        let all = self.shown(reply.kvs.iter().map(|kv| kv.value.clone()).collect()).await?;
        for (kv, shown) in reply.kvs.iter().zip(all) {
            if !selection.matches(&shown) {
                continue;
            }
            let key = String::from_utf8_lossy(&kv.key);
            self.admit_delete(&crate::codec::decode(&shown)).await?;
            match deletion::delete(&self.api, &self.resource, &key, &options).await? {
                Deleted::Missing => {}
                Deleted::Gone(_) | Deleted::Waiting(_) => items.push_back(shown),
            }
        }
        let metadata = json!({"resourceVersion": reply.revision.to_string()});
        Ok(respond::list(&self.resource, items, metadata, self.wanted, self.query.get("includeObject")))
    }
}
