//! Subresources.

use http::Response;
use resources::kinds::conditions_set;
use resources::{FieldError, Status, Value, meta, patch};
use serde_json::json;

use super::Call;
use super::write::Change;
use client::Nodes as _;

use crate::admission::placement;
use crate::api::{Outcome, now};
use crate::deletion::{self, Options};
use crate::{codec, respond};
use client::Body;

/// Verbs of a subresource where discovery and requests name them differently.
fn verb_of(verb: &str) -> &str {
    if verb == "list" || verb == "watch" { "get" } else { verb }
}

impl Call {
    pub(super) async fn subresource(&mut self) -> Outcome<Response<Body>> {
        let sub = self.path.subresource.clone();
        let Some(known) = self.resource.subresource(&sub) else { return Err(Status::no_such_path()) };
        if !known.verbs.iter().any(|verb| verb == verb_of(self.verb)) {
            return Err(self.not_supported());
        }
        match (self.resource.plural.as_str(), sub.as_str(), self.verb) {
            (_, "scale", _) => self.scale().await,
            ("namespaces", "finalize", "update") => self.finalize().await,
            ("pods", "binding", "create") => self.bind().await,
            ("pods", "eviction", "create") => self.evict().await,
            ("serviceaccounts", "token", "create") => self.token_request().await,
            ("pods", "log" | "exec" | "attach" | "portforward", _) => self.through_node().await,
            ("nodes", "proxy", _) => self.node_proxy().await,
            ("pods", "proxy", _) => self.pod_proxy().await,
            ("services", "proxy", _) => self.service_proxy().await,
            (_, "status" | "approval" | "ephemeralcontainers" | "resize", "get") => self.get().await,
            (_, "status", "update") => self.update("status").await,
            (_, "status", "patch") => self.patch("status").await,
            (_, sub @ ("approval" | "ephemeralcontainers" | "resize"), "update") => self.update(sub).await,
            (_, sub @ ("approval" | "ephemeralcontainers" | "resize"), "patch") => self.patch(sub).await,
            _ => Err(self.not_supported()),
        }
    }

    /// Streams from a pod go through its node's agent.
    async fn through_node(&mut self) -> Outcome<Response<Body>> {
        let found = self.api.get_object(&self.resource, &self.path.namespace, &self.path.name).await?;
        let (pod, _) = found.ok_or_else(|| self.not_found())?;
        let name = &self.path.name;
        match meta::str_at(&pod, &["spec", "nodeName"]).to_owned() {
            // As upstream: nothing has been said yet.
            node if node.is_empty() && self.path.subresource == "log" => Ok(respond::text(204, "")),
            node if node.is_empty() => Err(Status::bad_request(format!("pod {name} does not have a host assigned"))),
            node => self.ask_node(node, Some(pod)).await,
        }
    }

    async fn node_proxy(&mut self) -> Outcome<Response<Body>> {
        let found = self.api.get_object(&self.resource, "", &self.path.name).await?;
        let (node, _) = found.ok_or_else(|| self.not_found())?;
        self.ask_node(meta::name(&node).to_owned(), None).await
    }

    async fn ask_node(&mut self, node: String, pod: Option<Value>) -> Outcome<Response<Body>> {
        if self.path.subresource != "log" {
            self.admit_connect().await?;
        }
        let api = self.api.clone();
        let (Some(nodes), Some(stream)) = (api.nodes.get(), self.stream.take()) else {
            let message = format!("the agent of node {node:?} cannot be reached: this server runs without nodes");
            return Err(Status::new(503, "ServiceUnavailable", message));
        };
        let request = client::NodeRequest {
            node,
            pod,
            subresource: self.path.subresource.clone(),
            rest: self.path.rest.clone(),
            method: stream.method,
            query: self.query.clone(),
            headers: stream.headers,
            body: self.body.clone(),
            upgrade: stream.upgrade,
            user: self.user.clone(),
        };
        nodes.answer(request).await
    }

    fn scale_paths(&self) -> (Vec<String>, Vec<String>, Vec<String>) {
        let split = |path: &str| path.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        match self.resource.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
            Some(scale) => (split(&scale.spec_replicas), split(&scale.status_replicas), split(&scale.label_selector)),
            None => (split("spec.replicas"), split("status.replicas"), Vec::new()),
        }
    }

    fn scale_of(&self, object: &Value) -> Value {
        let (spec, status, selector) = self.scale_paths();
        let number = |path: &[String]| {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            meta::at(object, &path).and_then(Value::as_i64).unwrap_or(0)
        };
        let mut metadata = json!({});
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = meta::at(object, &["metadata", field]) {
                metadata[field] = value.clone();
            }
        }
        let selector = match self.resource.custom {
            Some(_) => {
                let path: Vec<&str> = selector.iter().map(String::as_str).collect();
                meta::str_at(object, &path).to_owned()
            }
            None => selector_text(&object["spec"]["selector"]),
        };
        let mut out = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": {"replicas": number(&spec)}, "status": {"replicas": number(&status)}});
        if !selector.is_empty() {
            out["status"]["selector"] = selector.into();
        }
        out
    }

    async fn scale(&mut self) -> Outcome<Response<Body>> {
        let key = self.resource.key(&self.path.namespace, &self.path.name);
        for _ in 0..100 {
            let kv = self.api.get_kv(&key).await?.ok_or_else(|| self.not_found())?;
            let mut object = codec::decode(&kv.value);
            crate::convert::show_value(&self.api, &mut object, &self.resource).await?;
            let mut scale = self.scale_of(&object);
            if self.verb == "get" {
                return Ok(respond::value(200, &scale, self.wanted.format));
            }
            let body = self.parse_body()?;
            match (self.verb, self.content_type.as_str()) {
                ("patch", "application/json-patch+json") => {
                    patch::json_patch(&mut scale, &body).map_err(|error| Status::bad_request(error.to_string()))?;
                }
                ("patch", _) => patch::merge_patch(&mut scale, &body),
                _ => {
                    let version = meta::resource_version(&body);
                    if !version.is_empty() && version != meta::resource_version(&object) {
                        return Err(Status::modified(&self.resource.group, &self.resource.plural, &self.path.name));
                    }
                    scale = body;
                }
            }
            let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
            if replicas < 0 {
                let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
                return Err(Status::invalid("autoscaling", "Scale", &self.path.name, &[error]));
            }
            let mut new = object.clone();
            let (path, _, _) = self.scale_paths();
            if let Some((last, parents)) = path.split_last() {
                let parents: Vec<&str> = parents.iter().map(String::as_str).collect();
                meta::object_at(&mut new, &parents).insert(last.clone(), replicas.into());
            }
            // The books name the subresource, as for every other writer.
            let saved = std::mem::take(&mut self.path.subresource);
            let outcome = self.write_over(Change::Replace(new), "scale").await;
            self.path.subresource = saved;
            match outcome {
                Err(status) if status.reason == "Conflict" && self.verb == "patch" => {}
                Err(status) => return Err(status),
                Ok(_) => {
                    let (mut object, _) = self
                        .api
                        .get_object(&self.resource, &self.path.namespace, &self.path.name)
                        .await?
                        .ok_or_else(|| self.not_found())?;
                    crate::convert::show_value(&self.api, &mut object, &self.resource).await?;
                    return Ok(respond::value(200, &self.scale_of(&object), self.wanted.format));
                }
            }
        }
        Err(Status::modified(&self.resource.group, &self.resource.plural, &self.path.name))
    }

    /// `spec.finalizers` of a namespace; when the last goes from one that is terminating, so does the namespace.
    async fn finalize(&mut self) -> Outcome<Response<Body>> {
        let body = self.body_object()?;
        let wanted = body["spec"].get("finalizers").cloned().unwrap_or_else(|| json!([]));
        let key = self.resource.key("", &self.path.name);
        loop {
            let kv = self.api.get_kv(&key).await?.ok_or_else(|| self.not_found())?;
            let mut namespace = codec::decode(&kv.value);
            let version = meta::resource_version(&body);
            if !version.is_empty() && version != meta::resource_version(&namespace) {
                return Err(Status::modified("", "namespaces", &self.path.name));
            }
            namespace["spec"]["finalizers"] = wanted.clone();
            let gone = wanted.as_array().is_none_or(Vec::is_empty)
                && meta::is_terminating(&namespace)
                && meta::finalizers(&namespace).is_empty();
            if gone {
                if self.api.delete_at(&key, kv.mod_revision).await? {
                    let bytes = serde_json::to_vec(&namespace).expect("trees always encode");
                    return self.respond(200, bytes.into()).await;
                }
            } else if let Some(stored) = self.api.put_over(&key, &namespace, kv.mod_revision).await? {
                return self.respond(200, stored).await;
            }
        }
    }

    /// The older way to bind: a collection of its own, nothing of which is kept; the pod is named in the body.
    pub(super) async fn bind_named(&mut self) -> Outcome<Response<Body>> {
        let body = self.parse_body()?;
        let name = meta::name(&body).to_owned();
        if name.is_empty() {
            let error = FieldError::required("metadata.name", "name or generateName is required");
            return Err(Status::invalid("", "Binding", "", &[error]));
        }
        self.path.name = name;
        self.resource = self.api.builtin("", "pods");
        self.bind().await
    }

    async fn bind(&mut self) -> Outcome<Response<Body>> {
        let mut body = self.parse_body()?;
        self.admit_sub(&mut body, &Value::Null, "binding").await?;
        let target = meta::str_at(&body, &["target", "name"]).to_owned();
        if target.is_empty() {
            let error = FieldError::required("target.name", "");
            return Err(Status::invalid("", "Binding", &self.path.name, &[error]));
        }
        if let Some(node) = self.node(&target).await? {
            placement::label(&mut body, &node, false);
        }
        let key = self.resource.key(&self.path.namespace, &self.path.name);
        let mut taken = None;
        let bound = self
            .api
            .modify(&key, |pod| {
                taken = None;
                if meta::is_terminating(pod) {
                    taken = Some(format!("pod {} is being deleted, cannot be assigned to a host", meta::name(pod)));
                    return false;
                }
                let host = meta::str_at(pod, &["spec", "nodeName"]);
                if !host.is_empty() {
                    taken = Some(format!("pod {} is already assigned to node {host:?}", meta::name(pod)));
                    return false;
                }
                pod["spec"]["nodeName"] = target.as_str().into();
                placement::label(pod, &body, true);
                conditions_set(pod, "PodScheduled", "True", "", "", client::now());
                true
            })
            .await?;
        if !bound {
            return Err(self.not_found());
        }
        if let Some(why) = taken {
            return Err(Status::conflict("", "pods/binding", &self.path.name, &why));
        }
        Ok(respond::value(
            201,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
            self.wanted.format,
        ))
    }

    async fn evict(&mut self) -> Outcome<Response<Body>> {
        let mut body = self.parse_body()?;
        let found = self.api.get_object(&self.resource, &self.path.namespace, &self.path.name).await?;
        let (pod, _) = found.ok_or_else(|| self.not_found())?;
        self.admit_sub(&mut body, &pod, "eviction").await?;
        if !crate::eviction::is_free(&pod) {
            crate::eviction::grant(&self.api, &pod, self.dry_run()?).await?;
            let key = self.resource.key(&self.path.namespace, &self.path.name);
            if !self.dry_run()? {
                self.api.modify(&key, crate::eviction::mark).await?;
            }
        }
        let options = Options {
            grace_secs: body["deleteOptions"]["gracePeriodSeconds"].as_i64(),
            uid: meta::str_at(&body, &["deleteOptions", "preconditions", "uid"]).to_owned(),
            dry: self.dry_run()?,
            ..Options::default()
        };
        let key = self.resource.key(&self.path.namespace, &self.path.name);
        deletion::delete(&self.api, &self.resource, &key, &options).await?;
        Ok(respond::value(
            201,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
            self.wanted.format,
        ))
    }

    async fn token_request(&mut self) -> Outcome<Response<Body>> {
        let mut body = self.parse_body()?;
        let found = self.api.get_object(&self.resource, &self.path.namespace, &self.path.name).await?;
        let (account, _) = found.ok_or_else(|| self.not_found())?;
        self.admit_sub(&mut body, &account, "token").await?;
        let asked = body["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
        if asked < 600 {
            let error =
                FieldError::invalid("spec.expirationSeconds", asked, "may not specify a duration less than 10 minutes");
            return Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &[error]));
        }
        let seconds = asked.min(1 << 32);
        let keys = &self.api.keys;
        let audiences = match body["spec"]["audiences"].as_array() {
            Some(list) if !list.is_empty() => list.clone(),
            _ => vec![keys.issuer.as_str().into()],
        };
        let issued = client::now().as_second();
        let namespace = &self.path.namespace;
        let mut private = json!({"namespace": namespace,
            "serviceaccount": {"name": meta::name(&account), "uid": meta::uid(&account)}});
        let bound = &body["spec"]["boundObjectRef"];
        if bound.is_object() {
            let (kind, name) = (meta::str_at(bound, &["kind"]), meta::str_at(bound, &["name"]));
            let plural = match kind {
                "Pod" => "pods",
                "Secret" => "secrets",
                "Node" => "nodes",
                other => {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {name:?} to type {other}"
                    )));
                }
            };
            let resource = self.api.builtin("", plural);
            let (object, _) = self
                .api
                .get_object(&resource, namespace, name)
                .await?
                .ok_or_else(|| Status::not_found("", plural, name))?;
            let uid = meta::str_at(bound, &["uid"]);
            if !uid.is_empty() && uid != meta::uid(&object) {
                let why = format!(
                    "the UID in the bound object reference ({uid}) does not match the UID in record ({})",
                    meta::uid(&object)
                );
                return Err(Status::conflict("", plural, name, &why));
            }
            private[kind.to_lowercase()] = json!({"name": name, "uid": meta::uid(&object)});
        }
        let token = keys.sign(&json!({
            "iss": keys.issuer,
            "sub": format!("system:serviceaccount:{namespace}:{}", meta::name(&account)),
            "aud": audiences,
            "iat": issued,
            "nbf": issued,
            "exp": issued + seconds,
            "jti": crate::api::new_uid(),
            "kubernetes.io": private,
        }));
        let ends = jiff::Timestamp::from_second(issued + seconds).map_err(Status::internal)?;
        body["kind"] = "TokenRequest".into();
        body["apiVersion"] = "authentication.k8s.io/v1".into();
        body["metadata"] = json!({"name": meta::name(&account), "namespace": namespace, "creationTimestamp": now()});
        body["spec"]["audiences"] = audiences.into();
        body["spec"]["expirationSeconds"] = seconds.into();
        body["status"] = json!({"token": token, "expirationTimestamp": resources::decode::format_time(ends, 0)});
        Ok(respond::value(201, &body, self.wanted.format))
    }
}

/// A label selector as text, as scales carry it.
fn selector_text(selector: &Value) -> String {
    let plain = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let labels = if plain { selector } else { &selector["matchLabels"] };
    let pairs = labels.as_object().into_iter().flatten();
    let mut parts: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = meta::list_at(expression, &["values"]).iter().filter_map(Value::as_str).collect();
        parts.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.join(",")
}
