//! Requests and answers as values.

use std::borrow::Cow;

use bytes::Bytes;
use resources::Value;

use crate::percent_encode;

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

pub const PODS: Gvr = Gvr::new("", "v1", "pods");

/// What to list or watch. The default is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selectors {
    /// As in a query: `app=web,tier!=front`.
    pub labels: String,
    /// As in a query: `spec.nodeName=n1`.
    pub fields: String,
}

impl Selectors {
    /// As a query writes them.
    pub fn query(&self) -> String {
        let mut parts = Vec::new();
        for (key, text) in [("labelSelector", &self.labels), ("fieldSelector", &self.fields)] {
            if !text.is_empty() {
                parts.push(format!("{key}={}", percent_encode(text)));
            }
        }
        parts.join("&")
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct List {
    pub items: Vec<Value>,
    /// The revision at which all items stood so; a watch goes on from here.
    pub revision: u64,
}

/// A list as it came: each item is an object's JSON, for readers that do not look at all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    pub items: Vec<Bytes>,
    pub revision: u64,
}

/// What happened to an object, as a watcher with selectors sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    Added,
    Modified,
    Deleted,
}

impl Happened {
    /// As a watch's events say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub happened: Happened,
    pub object: Value,
}

/// An event as it came: the object's JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub happened: Happened,
    pub object: Bytes,
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

/// A request in full, for what the methods of [`crate::Client`] have no name for.
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
