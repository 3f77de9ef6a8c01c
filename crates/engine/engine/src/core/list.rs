//! What list shows, and Docker's filters over it.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use vocab::Digest;

use super::networks::asked_networks;
use super::view::shown_mounts;
use super::{Container, Inner};
use crate::decide::merge::command_line;
use crate::decide::text::{command_text, status_text};
use crate::{ContainerSummary, Error, Filters, HealthStatus, ListOptions, PortView, Result, Status};

const KNOWN: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

impl Inner {
    /// Blocking when sizes or ancestors are asked for.
    pub(crate) fn list(&self, options: &ListOptions) -> Result<Vec<ContainerSummary>> {
        let filters = &options.filters;
        if let Some(key) = filters.unknown_key(&KNOWN) {
            return Err(Error::Invalid(format!("invalid filter '{key}'")));
        }
        let chosen = Chosen::new(self, options)?;
        let mut containers = self.registry().all();
        containers.sort_by_key(|c| std::cmp::Reverse(c.record().created_at));
        let now = Timestamp::now();
        let mut lines = Vec::new();
        for container in containers {
            if options.limit > 0 && lines.len() == options.limit {
                break;
            }
            if chosen.wants(&container) {
                let mut line = self.summary(&container, now);
                if options.size {
                    line.size = self.container_size(&container).ok();
                }
                lines.push(line);
            }
        }
        Ok(lines)
    }

    pub(crate) fn summary(&self, container: &Container, now: Timestamp) -> ContainerSummary {
        let record = container.record();
        let state = container.state();
        let (program, args) = command_line(&record.config);
        let mut ports = self.networks.port_views(container.id);
        for port in &record.config.exposed_ports {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            let Ok(private) = number.parse() else { continue };
            if !ports.iter().any(|p| p.private == private && p.protocol == protocol) {
                ports.push(PortView { ip: String::new(), private, public: 0, protocol: protocol.to_owned() });
            }
        }
        ContainerSummary {
            id: container.id,
            names: vec![record.name.clone()],
            image: record.config.image.clone(),
            image_id: record.image,
            command: command_text(&program, &args),
            created_at: record.created_at,
            status: status_text(&state, now),
            labels: record.config.labels.clone(),
            network_mode: record.host.network_mode.clone(),
            annotations: record.host.annotations.clone(),
            mounts: shown_mounts(&self.volumes.placed(container.id, &record.mounts), &record.host),
            networks: self.networks.shown(container.id, &record),
            ports: if state.status.is_running() { ports } else { Vec::new() },
            size: None,
            state,
        }
    }
}

/// The filters, read once.
struct Chosen<'a> {
    inner: &'a Inner,
    filters: &'a Filters,
    all: bool,
    statuses: BTreeSet<Status>,
    exit_codes: BTreeSet<i32>,
    names: Vec<NamePattern>,
    before: Option<Arc<Container>>,
    since: Option<Arc<Container>>,
    /// Images that count as ancestors; `None`: not asked.
    ancestors: Option<Vec<Digest>>,
}

impl<'a> Chosen<'a> {
    fn new(inner: &'a Inner, options: &'a ListOptions) -> Result<Self> {
        let filters = &options.filters;
        let mut statuses = BTreeSet::new();
        for text in filters.values("status") {
            let status = Status::parse(text).ok_or_else(|| {
                Error::Invalid(format!(
                    "invalid filter 'status={text}': invalid value for state ({text}): must be one of created, running, paused, restarting, removing, exited, dead"
                ))
            })?;
            statuses.insert(status);
        }
        let mut exit_codes = BTreeSet::new();
        for text in filters.values("exited") {
            let code = text.parse().map_err(|_| Error::Invalid(format!("invalid filter 'exited={text}'")))?;
            exit_codes.insert(code);
        }
        for text in filters.values("health") {
            if !matches!(text, "none" | "starting" | "healthy" | "unhealthy") {
                return Err(Error::Invalid(format!("unrecognised filter value for health: {text}")));
            }
        }
        let named = |key: &str| filters.values(key).last().map(|name| inner.find(name)).transpose();
        let ancestors = filters.has("ancestor").then(|| {
            let digests = filters.values("ancestor").filter_map(|name| inner.images.resolve(name).ok());
            digests.collect()
        });
        Ok(Self {
            inner,
            filters,
            // A question about what does not run is about all.
            all: options.all
                || options.limit > 0
                || !statuses.is_empty()
                || !exit_codes.is_empty()
                || filters.has("before")
                || filters.has("since"),
            statuses,
            exit_codes,
            names: filters.values("name").map(NamePattern::new).collect(),
            before: named("before")?,
            since: named("since")?,
            ancestors,
        })
    }

    /// By the network's name or id.
    fn on_network(&self, record: &super::records::ContainerRecord, wanted: &str) -> bool {
        let on = asked_networks(record);
        on.contains_key(wanted) || self.inner.networks.id_of(wanted).is_ok_and(|(_, name)| on.contains_key(&name))
    }

    fn wants(&self, container: &Container) -> bool {
        let record = container.record();
        let state = container.state();
        let f = self.filters;
        let any = |key: &str, test: &dyn Fn(&str) -> bool| !f.has(key) || f.values(key).any(test);
        let id = container.id.to_string();
        let health = state.health.as_ref().map_or(HealthStatus::None, |h| h.status);
        (self.all || state.status.is_running())
            && (self.statuses.is_empty() || self.statuses.contains(&state.status))
            && (self.exit_codes.is_empty()
                || (self.exit_codes.contains(&state.exit_code) && state.status == Status::Exited))
            && any("id", &|prefix| id.starts_with(prefix))
            && (self.names.is_empty() || self.names.iter().any(|p| p.matches(&record.name)))
            && f.allows_labels("label", &record.config.labels)
            && self.before.as_ref().is_none_or(|c| record.created_at < c.record().created_at)
            && self.since.as_ref().is_none_or(|c| record.created_at > c.record().created_at)
            && self.ancestors.as_ref().is_none_or(|images| images.contains(&record.image))
            && any("health", &|wanted| health.as_str() == wanted)
            && any("is-task", &|wanted| matches!(wanted, "false" | "0"))
            && any("network", &|name| self.on_network(&record, name))
            && any("volume", &|wanted| {
                record.mounts.iter().any(|m| m.volume == wanted || m.destination == wanted || m.source == wanted)
            })
            && any("expose", &|port| {
                let full = if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") };
                record.config.exposed_ports.contains(&full)
            })
            && any("publish", &|port| publishes(&record, port))
    }
}

/// Whether the container publishes the port, `8000`, `8000/udp` or a range of them, whatever the host's side is.
fn publishes(record: &super::records::ContainerRecord, wanted: &str) -> bool {
    let (ports, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else { return false };
    record.host.port_bindings.keys().any(|key| {
        let (number, own) = key.split_once('/').unwrap_or((key, "tcp"));
        own == protocol && number.parse::<u16>().is_ok_and(|number| (first..=last).contains(&number))
    })
}

/// A name filter: a substring, with `^` and `$` as anchors and an optional slash in front, which is how Docker's
/// regular expressions are used in the field.
struct NamePattern {
    text: String,
    start: bool,
    end: bool,
}

impl NamePattern {
    fn new(pattern: &str) -> Self {
        let (start, rest) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
        let (end, rest) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
        let rest = rest.strip_prefix('/').unwrap_or(rest);
        Self { text: rest.replace('\\', ""), start, end }
    }

    fn matches(&self, name: &str) -> bool {
        match (self.start, self.end) {
            (true, true) => name == self.text,
            (true, false) => name.starts_with(&self.text),
            (false, true) => name.ends_with(&self.text),
            (false, false) => name.contains(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_filters_match_as_they_are_used() {
        let rows = [
            ("web", "my-web-1", true),
            ("^web", "my-web-1", false),
            ("^/web$", "web", true),
            ("^/?web$", "web", false),
            ("/web", "web1", true),
            ("1$", "my-web-1", true),
        ];
        for (pattern, name, wanted) in rows {
            assert_eq!(NamePattern::new(pattern).matches(name), wanted, "{pattern} {name}");
        }
    }
}
