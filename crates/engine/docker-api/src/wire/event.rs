//! Events, one JSON document a line.

use std::collections::BTreeMap;

use serde::Serialize;

use super::time;

#[derive(Debug, Serialize)]
pub(crate) struct Event {
    // The first three are from before events had types; only containers and images have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Action")]
    action: String,
    #[serde(rename = "Actor")]
    actor: Actor,
    scope: &'static str,
    time: i64,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Debug, Serialize)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes")]
    attributes: BTreeMap<String, String>,
}

impl Event {
    pub(crate) fn from_model(event: engine::Event) -> Self {
        let legacy = matches!(event.kind, engine::EventKind::Container | engine::EventKind::Image);
        let from = event.attributes.get("image").filter(|_| event.kind == engine::EventKind::Container);
        Self {
            status: legacy.then(|| event.action.clone()),
            id: legacy.then(|| event.actor.clone()),
            from: from.cloned(),
            kind: event.kind.as_str(),
            action: event.action,
            actor: Actor { id: event.actor, attributes: event.attributes },
            scope: "local",
            time: event.at.as_second(),
            time_nano: time::unix_nanos(event.at),
        }
    }
}
