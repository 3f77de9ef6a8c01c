//! Events: what is told twice is counted, not repeated. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use resources::{Value, decode, meta};
use serde_json::json;

/// How long an event is remembered for counting; the API forgets it after about as long.
pub const EVENT_SECS: i64 = 3600;
const REMEMBERED_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct What {
    uid: String,
    /// The part of the object, if it is about one.
    field: String,
    reason: String,
    message: String,
}

/// What a part has told.
#[derive(Debug, Default)]
pub struct Recorder {
    component: String,
    host: String,
    told: BTreeMap<What, (String, i64, Timestamp)>,
    serial: u64,
}

/// How to write an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Telling {
    New(Value),
    /// Patch the event of this namespace and name.
    Count {
        namespace: String,
        name: String,
        patch: Value,
    },
}

impl Recorder {
    /// `host`: the node of a part that belongs to one.
    pub fn new(component: &str, host: &str) -> Self {
        Self { component: component.to_owned(), host: host.to_owned(), ..Self::default() }
    }

    pub fn tell(&mut self, about: &Value, warning: bool, reason: &str, message: &str, now: Timestamp) -> Telling {
        let stamp = decode::format_time(now, 0);
        let namespace = match about["namespace"].as_str() {
            None | Some("") => "default".to_owned(),
            Some(namespace) => namespace.to_owned(),
        };
        let what = What {
            uid: about["uid"].as_str().unwrap_or_default().to_owned(),
            field: about["fieldPath"].as_str().unwrap_or_default().to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        if let Some((name, count, at)) = self.told.get_mut(&what)
            && now.duration_since(*at).as_secs() < EVENT_SECS
        {
            (*count, *at) = (*count + 1, now);
            let patch = json!({"count": *count, "lastTimestamp": stamp});
            return Telling::Count { namespace, name: name.clone(), patch };
        }
        if self.told.len() >= REMEMBERED_MAX {
            self.told.retain(|_, (_, _, at)| now.duration_since(*at).as_secs() < EVENT_SECS / 6);
        }
        if self.told.len() >= REMEMBERED_MAX {
            self.told.clear();
        }
        self.serial += 1;
        let unique = (now.as_nanosecond() as u64).wrapping_add(self.serial);
        let name = format!("{}.{unique:016x}", about["name"].as_str().unwrap_or("unnamed"));
        self.told.insert(what, (name.clone(), 1, now));
        let mut source = json!({"component": self.component});
        if !self.host.is_empty() {
            source["host"] = self.host.as_str().into();
        }
        let mut event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": namespace},
            "involvedObject": about, "reason": reason, "message": message, "source": source, "count": 1,
            "type": if warning { "Warning" } else { "Normal" }, "firstTimestamp": stamp, "lastTimestamp": stamp,
            "reportingComponent": self.component, "reportingInstance": self.host});
        if meta::str_at(&event, &["involvedObject", "namespace"]).is_empty() {
            meta::object_at(&mut event, &["involvedObject"]).remove("namespace");
        }
        Telling::New(event)
    }

    /// The API has lost the event (or never had it): tell it anew the next time.
    pub fn forget(&mut self, name: &str) {
        self.told.retain(|_, (told, _, _)| told != name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_twice_is_counted() {
        let mut recorder = Recorder::new("kubelet", "n1");
        let about = json!({"kind": "Pod", "name": "p", "namespace": "d", "uid": "u"});
        let at = |secs: i64| Timestamp::from_second(secs).unwrap();
        let Telling::New(event) = recorder.tell(&about, true, "BackOff", "again", at(0)) else { panic!() };
        assert_eq!((event["type"].as_str(), event["source"]["host"].as_str()), (Some("Warning"), Some("n1")));
        let Telling::Count { name, patch, .. } = recorder.tell(&about, true, "BackOff", "again", at(9)) else {
            panic!()
        };
        assert_eq!((name.as_str(), &patch["count"]), (event["metadata"]["name"].as_str().unwrap(), &json!(2)));
        assert!(matches!(recorder.tell(&about, true, "BackOff", "other", at(9)), Telling::New(_)));
        recorder.forget(&name);
        assert!(matches!(recorder.tell(&about, true, "BackOff", "again", at(10)), Telling::New(_)));
    }
}
