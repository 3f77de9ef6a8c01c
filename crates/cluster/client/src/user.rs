//! Who asks.

use std::collections::BTreeMap;

use resources::Value;
use serde_json::json;

/// Someone who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }

    /// A part of the cluster itself, such as `system:kube-scheduler`.
    pub fn component(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }.authenticated()
    }

    /// The user as a member of one more group.
    pub fn with(mut self, group: &str) -> Self {
        self.groups.push(group.to_owned());
        self
    }

    /// The administrator of the cluster.
    pub fn admin() -> Self {
        Self { name: "kubernetes-admin".into(), groups: vec!["system:masters".into()], ..Self::default() }
            .authenticated()
    }

    /// The agent of a node.
    pub fn node(name: &str) -> Self {
        Self { name: format!("system:node:{name}"), groups: vec!["system:nodes".into()], ..Self::default() }
            .authenticated()
    }

    /// The user with the group that everyone known is in.
    pub fn authenticated(mut self) -> Self {
        let all = "system:authenticated";
        if !self.groups.iter().any(|group| group == all) {
            self.groups.push(all.into());
        }
        self
    }

    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")],
            extra: BTreeMap::new(),
        }
        .authenticated()
    }

    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == "system:masters")
    }

    pub fn to_value(&self) -> Value {
        let mut out = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            out["uid"] = self.uid.as_str().into();
        }
        if !self.extra.is_empty() {
            out["extra"] = json!(self.extra);
        }
        out
    }
}
