//! Admission: what a write is given and what keeps it out because of other objects and other people's rules.
//!
//! The built-in plugins stand one to a file and decide by values alone; [`plugins`] gathers what they need.
//! [`hooks`] decides which webhooks see a request, [`webhook`] asks them. The order is upstream's: what changes an
//! object first, webhooks that change it last among them; then validation; then what only judges, quotas at the end.

pub mod hooks;
pub mod limits;
pub mod node_restriction;
pub mod placement;
mod plugins;
pub mod pod_security;
pub mod quota;
pub mod webhook;

pub use plugins::{mutate, validate};

use resources::{Status, Value};
use serde_json::json;

use crate::authn::User;
use crate::catalog::Resource;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// What admission knows of a request besides the object.
pub struct Attributes<'a> {
    pub operation: Operation,
    pub resource: &'a Resource,
    pub sub: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub user: &'a User,
    pub dry: bool,
    pub old: Option<&'a Value>,
    /// `CreateOptions` and its like.
    pub options: Value,
}

impl Attributes<'_> {
    pub fn forbidden(&self, why: &str) -> Status {
        let resource = match self.sub {
            "" => self.resource.plural.clone(),
            sub => format!("{}/{sub}", self.resource.plural),
        };
        Status::forbidden(&self.resource.group, &resource, self.name, why)
    }

    /// The resource is this one, in any version.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }
}

/// The options object of a request, as webhooks see it.
pub fn options(operation: Operation, patch: bool, dry: bool, manager: &str) -> Value {
    let kind = match operation {
        Operation::Create => "CreateOptions",
        Operation::Update if patch => "PatchOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut out = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if dry {
        out["dryRun"] = json!(["All"]);
    }
    if operation != Operation::Delete && !manager.is_empty() {
        out["fieldManager"] = manager.into();
    }
    out
}
