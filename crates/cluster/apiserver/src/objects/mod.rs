//! Requests about objects: reading, writing, deleting, and the subresources.

mod admission;
mod decode;
mod delete;
mod events;
mod proxy;
mod read;
mod sub;
mod watch;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use resources::Status;

use crate::api::{Api, Outcome};
use crate::authn::User;
use crate::catalog::Resource;
use crate::request::{Query, ResourcePath};
use crate::respond::{self, Wanted};
use client::Body;

pub use decode::limit_json;

/// One request about a resource.
pub struct Call {
    pub api: Arc<Api>,
    pub resource: Arc<Resource>,
    pub path: ResourcePath,
    pub verb: &'static str,
    pub query: Query,
    pub user: User,
    /// What the client calls itself, for field managers.
    pub agent: String,
    pub wanted: Wanted,
    pub content_type: String,
    pub body: Bytes,
    pub warnings: Vec<String>,
    /// What a node needs to answer in our place; only requests that came over HTTP have it.
    pub stream: Option<Stream>,
}

/// The parts of an HTTP request that are handed on to a node.
pub struct Stream {
    pub method: http::Method,
    pub headers: http::HeaderMap,
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
    pub uri: http::Uri,
}

impl Call {
    pub async fn answer(&mut self) -> Outcome<Response<Body>> {
        if !self.path.subresource.is_empty() {
            return self.subresource().await;
        }
        if !self.resource.verbs.iter().any(|verb| verb == self.verb) {
            return Err(self.not_supported());
        }
        if self.resource.namespaced
            && self.path.namespace.is_empty()
            && !matches!(self.verb, "list" | "watch" | "deletecollection")
        {
            // Objects of a namespaced resource are reached through their namespace.
            return Err(Status::no_such_path());
        }
        if !self.resource.namespaced && !self.path.namespace.is_empty() {
            return Err(Status::no_such_path());
        }
        if self.resource.group == crate::usage::GROUP {
            return crate::usage::answer(self).await;
        }
        match self.verb {
            "get" => self.get().await,
            "list" => self.list().await,
            "watch" => self.watch().await,
            "create" => self.create().await,
            "update" => self.update("").await,
            "patch" => self.patch("").await,
            "delete" => self.delete().await,
            "deletecollection" => self.delete_collection().await,
            _ => Err(self.not_supported()),
        }
    }

    fn not_supported(&self) -> Status {
        Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource").about(
            &self.resource.group,
            &self.resource.plural,
            &self.path.name,
        )
    }

    fn not_found(&self) -> Status {
        Status::not_found(&self.resource.group, &self.resource.plural, &self.path.name)
    }

    fn dry_run(&self) -> Outcome<bool> {
        let mut dry = false;
        for value in self.query.all("dryRun") {
            match value {
                "All" => dry = true,
                "" => {}
                other => {
                    let error = resources::FieldError::unsupported("dryRun", other, &["All"]);
                    return Err(Status::invalid("meta.k8s.io", "CreateOptions", "", &[error]));
                }
            }
        }
        Ok(dry)
    }

    /// The manager that owns what this request writes.
    fn manager(&self) -> Outcome<String> {
        let given = self.query.get("fieldManager");
        if given.len() > 128 {
            let error = resources::FieldError::too_long("fieldManager", 128);
            return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]));
        }
        if !given.is_empty() {
            return Ok(given.to_owned());
        }
        let name: String = self.agent.split('/').next().unwrap_or_default().chars().take(128).collect();
        Ok(if name.is_empty() { "unknown".into() } else { name })
    }

    /// An object as stored, in the version and form asked for.
    async fn respond(&self, code: u16, stored: Bytes) -> Outcome<Response<Body>> {
        let shown = self.shown(vec![stored]).await?.remove(0);
        Ok(respond::object(&self.resource, code, shown, self.wanted, self.query.get("includeObject")))
    }

    /// Stored bytes in the version asked for; the same bytes when that is the stored one.
    async fn shown(&self, stored: Vec<Bytes>) -> Outcome<Vec<Bytes>> {
        crate::convert::show_all(&self.api, stored, &self.resource).await
    }
}
