//! What a controller or the scheduler is: a pure function from a view to writes.

use std::time::Duration;

use jiff::Timestamp;
use resources::Value;

use crate::{Key, Kind, View};

/// One change that a part asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Create(Kind, Value),
    /// The whole object; refused if someone else has changed it meanwhile.
    Update(Kind, Value),
    /// Its status only, under the same condition.
    Status(Kind, Value),
    /// A merge patch of an object, or of the subresource named.
    Merge {
        kind: Kind,
        key: Key,
        sub: &'static str,
        patch: Value,
    },
    /// A strategic merge patch, for lists that several parts write to (conditions, addresses).
    Strategic {
        kind: Kind,
        key: Key,
        sub: &'static str,
        patch: Value,
    },
    /// Deletes the object with this uid and no later one of its name. `None` leaves the grace to the object.
    Delete {
        kind: Kind,
        key: Key,
        uid: String,
        grace_secs: Option<i64>,
    },
    /// Gives a pod its node.
    Bind {
        pod: Key,
        node: String,
    },
    /// Tells people what happened to an object.
    Event {
        about: Value,
        warning: bool,
        reason: String,
        message: String,
    },
}

impl Write {
    pub fn delete(kind: Kind, object: &Value) -> Self {
        Self::Delete { kind, key: Key::of(object), uid: resources::meta::uid(object).to_owned(), grace_secs: None }
    }

    pub fn normal(kind: Kind, about: &Value, reason: &str, message: impl Into<String>) -> Self {
        Self::Event { about: reference(kind, about), warning: false, reason: reason.into(), message: message.into() }
    }

    pub fn warning(kind: Kind, about: &Value, reason: &str, message: impl Into<String>) -> Self {
        Self::Event { about: reference(kind, about), warning: true, reason: reason.into(), message: message.into() }
    }
}

/// As events name their object.
fn reference(kind: Kind, object: &Value) -> Value {
    use resources::meta;
    serde_json::json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "name": meta::name(object),
        "namespace": meta::namespace(object), "uid": meta::uid(object),
        "resourceVersion": meta::resource_version(object)})
}

/// What a look at one key led to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// In order; the first that fails ends the rest, and the key is looked at again later.
    pub writes: Vec<Write>,
    /// Look again after this time, even if nothing changes.
    pub again: Option<Duration>,
}

impl Outcome {
    pub fn of(writes: Vec<Write>) -> Self {
        Self { writes, again: None }
    }

    pub fn after(mut self, again: Duration) -> Self {
        self.again = Some(self.again.map_or(again, |have| have.min(again)));
        self
    }
}

/// A controller. Level-triggered: `reconcile` looks at how things are, never at what happened.
pub trait Part: Send {
    /// As events and `managedFields` name it.
    fn name(&self) -> &'static str;

    /// Kinds whose changes concern it.
    fn watches(&self) -> &'static [Kind];

    /// An object came, changed or went, and the view shows it. For parts that keep more than the view does; asked before
    /// [`Part::keys`].
    fn notice(&mut self, _view: &View, _kind: Kind, _object: &Value) {}

    /// The keys to look at because this object came, changed or went.
    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key>;

    /// The API did not answer what this part asked of it, or said that it cannot: what was not heard of meanwhile may have happened.
    fn unanswered(&mut self, _now: Timestamp) {}

    /// What to do about one key.
    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome;
}
