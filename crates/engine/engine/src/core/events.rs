//! The event stream: what happened lately, and to whom it is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::{broadcast, watch};

use super::Inner;
use crate::{Error, Event, EventKind, EventQuery, EventStream, Filters, Result};

/// How many events are remembered for `--since`, as many as Docker does.
const REMEMBERED: usize = 256;
/// How far a listener may fall behind before it is told no more.
const BEHIND_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Events {
    past: Mutex<VecDeque<Arc<Event>>>,
    live: broadcast::Sender<Arc<Event>>,
    /// Told with each event.
    activity: watch::Sender<()>,
}

impl Default for Events {
    fn default() -> Self {
        Self { past: Mutex::default(), live: broadcast::channel(BEHIND_MAX).0, activity: watch::channel(()).0 }
    }
}

impl Events {
    pub(crate) fn emit(
        &self,
        kind: EventKind,
        action: impl Into<String>,
        actor: String,
        attributes: BTreeMap<String, String>,
    ) {
        let event = Arc::new(Event { kind, action: action.into(), actor, attributes, at: Timestamp::now() });
        let mut past = self.past.lock().unwrap_or_else(|e| e.into_inner());
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Under the lock, so that a new listener sees each event exactly once: replayed or live.
        let _ = self.live.send(event);
        self.activity.send_replace(());
    }

    /// Tells that something happens, not what.
    pub(crate) fn activity(&self) -> watch::Receiver<()> {
        self.activity.subscribe()
    }

    pub(crate) fn listeners(&self) -> usize {
        self.live.receiver_count()
    }

    fn subscribe(&self, since: Option<Timestamp>) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let past = self.past.lock().unwrap_or_else(|e| e.into_inner());
        let replay = match since {
            Some(since) => past.iter().filter(|e| e.at >= since).cloned().collect(),
            None => Vec::new(),
        };
        (replay, self.live.subscribe())
    }
}

impl Inner {
    /// An event about a container: its labels, its image and its name come along.
    pub(crate) fn container_event(
        &self,
        container: &super::Container,
        action: impl Into<String>,
        extra: &[(&str, String)],
    ) {
        let record = container.record();
        let mut attributes = record.config.labels.clone();
        attributes.insert("image".into(), record.config.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.events.emit(EventKind::Container, action, container.id.to_string(), attributes);
    }

    pub(crate) fn image_event(&self, action: &str, actor: String, name: Option<String>) {
        let attributes = name.map(|name| ("name".to_owned(), name)).into_iter().collect();
        self.events.emit(EventKind::Image, action, actor, attributes);
    }

    pub(crate) fn event_stream(&self, query: EventQuery) -> Result<EventStream> {
        const KNOWN: [&str; 14] = [
            "config",
            "container",
            "daemon",
            "event",
            "image",
            "label",
            "network",
            "node",
            "plugin",
            "scope",
            "secret",
            "service",
            "type",
            "volume",
        ];
        if let Some(key) = query.filters.unknown_key(&KNOWN) {
            return Err(Error::Invalid(format!("invalid filter '{key}'")));
        }
        if let (Some(since), Some(until)) = (query.since, query.until)
            && until < since
        {
            return Err(Error::Invalid("`since` time cannot be after `until` time".into()));
        }
        let (replay, mut live) = self.events.subscribe(query.since);
        let (sender, stream) = EventStream::channel(64);
        tokio::spawn(async move {
            let wanted = |e: &Event| query.until.is_none_or(|until| e.at <= until) && matches(e, &query.filters);
            for event in replay {
                if wanted(&event) && sender.send(Ok((*event).clone())).await.is_err() {
                    return;
                }
            }
            let left = query
                .until
                .map(|until| std::time::Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default());
            let end = async {
                match left {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(end);
            loop {
                let event = tokio::select! {
                    event = live.recv() => event,
                    () = &mut end => return,
                    () = sender.closed() => return,
                };
                match event {
                    Ok(event) if wanted(&event) => {
                        if sender.send(Ok((*event).clone())).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        let error = Error::Conflict(format!("the listener fell behind: {lost} events were dropped"));
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        Ok(stream)
    }
}

/// Docker's event filters.
fn matches(event: &Event, filters: &Filters) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str).unwrap_or_default();
    let names = |key: &str, kind: EventKind| {
        if !filters.has(key) {
            return true;
        }
        event.kind == kind
            && filters.values(key).any(|v| event.actor == v || event.actor.starts_with(v) || attribute("name") == v)
    };
    // `exec_create: ls` is found by `exec_create`.
    let action = event.action.split(':').next().unwrap_or_default();
    let image = !filters.has("image")
        || filters.values("image").any(|v| {
            let name = if event.kind == EventKind::Image { attribute("name") } else { attribute("image") };
            let bare = name.split(':').next().unwrap_or_default();
            name == v || bare == v || (event.kind == EventKind::Image && event.actor == v)
        });
    filters.allows("type", event.kind.as_str())
        && (filters.allows("event", &event.action) || filters.allows("event", action))
        && filters.allows("scope", "local")
        && names("container", EventKind::Container)
        && names("volume", EventKind::Volume)
        && names("network", EventKind::Network)
        && names("daemon", EventKind::Daemon)
        && image
        && filters.allows_labels("label", &event.attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_choose_events() {
        let event = Event {
            kind: EventKind::Container,
            action: "exec_create: ls -l".into(),
            actor: "abcdef".into(),
            attributes: [("name", "box"), ("image", "busybox:latest"), ("tier", "web")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            at: Timestamp::UNIX_EPOCH,
        };
        let rows: [(&[(&str, &str)], bool); 10] = [
            (&[], true),
            (&[("type", "container"), ("type", "image")], true),
            (&[("type", "image")], false),
            (&[("event", "exec_create")], true),
            (&[("event", "start")], false),
            (&[("container", "box")], true),
            (&[("container", "abc")], true),
            (&[("image", "busybox")], true),
            (&[("label", "tier=web"), ("label", "tier")], true),
            (&[("label", "tier=db")], false),
        ];
        for (pairs, wanted) in rows {
            let mut filters = Filters::default();
            for (key, value) in pairs {
                filters.insert(*key, *value);
            }
            assert_eq!(matches(&event, &filters), wanted, "{pairs:?}");
        }
    }
}
