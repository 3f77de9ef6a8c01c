//! What limits, orders and scales.

use serde_json::Value;

use super::text::{age, condition, integer as int, name, number, text};
use super::{AGE, NAME, Table, boolean, integer, string};
use crate::meta::{at, list_at, map_at, str_at};

pub(super) const AUTOSCALER: Table = Table {
    columns: &[
        NAME,
        string("Reference"),
        string("Targets"),
        string("MinPods"),
        string("MaxPods"),
        string("Replicas"),
        AGE,
    ],
    cells: |object, now| {
        let to = &object["spec"]["scaleTargetRef"];
        let part = |key: &str| to[key].as_str().unwrap_or_default().to_owned();
        vec![
            name(object),
            format!("{}/{}", part("kind"), part("name")).into(),
            targets(object).into(),
            at(object, &["spec", "minReplicas"]).map_or("<unset>".into(), |n| n.to_string()).into(),
            number(object, &["spec", "maxReplicas"]),
            number(object, &["status", "currentReplicas"]),
            age(object, now),
        ]
    },
};

/// Each metric's value beside what is aimed at; two of them, and how many more.
fn targets(object: &Value) -> String {
    let metrics = list_at(object, &["spec", "metrics"]);
    if metrics.is_empty() {
        return "<none>".into();
    }
    let shown = |at: usize, metric: &Value| {
        let kind = metric["type"].as_str().unwrap_or_default();
        let field = match kind {
            "ContainerResource" => "containerResource",
            "External" => "external",
            "Object" => "object",
            "Pods" => "pods",
            "Resource" => "resource",
            _ => return "<unknown type>".to_owned(),
        };
        let target = &metric[field]["target"];
        let now = list_at(object, &["status", "currentMetrics"]).get(at).map(|now| &now[field]["current"]);
        let amount = |name: &str| now.and_then(|now| now[name].as_str()).unwrap_or("<unknown>");
        let by_average = target["averageValue"].as_str();
        match kind {
            "Resource" | "ContainerResource" => {
                let name = metric[field]["name"].as_str().unwrap_or_default();
                if let Some(wanted) = by_average {
                    return format!("{name}: {}/{wanted}", amount("averageValue"));
                }
                let percent = |value: Option<i64>, missing: &str| value.map_or(missing.to_owned(), |n| format!("{n}%"));
                let current = percent(now.and_then(|now| now["averageUtilization"].as_i64()), "<unknown>");
                format!("{name}: {current}/{}", percent(target["averageUtilization"].as_i64(), "<auto>"))
            }
            "Pods" => format!("{}/{}", amount("averageValue"), by_average.unwrap_or_default()),
            _ => match by_average {
                Some(wanted) => format!("{}/{wanted} (avg)", amount("averageValue")),
                None => format!("{}/{}", amount("value"), target["value"].as_str().unwrap_or_default()),
            },
        }
    };
    let texts: Vec<String> = metrics.iter().enumerate().take(2).map(|(at, metric)| shown(at, metric)).collect();
    match metrics.len() {
        0..=2 => texts.join(", "),
        all => format!("{} + {} more...", texts.join(", "), all - 2),
    }
}

pub(super) const DISRUPTION_BUDGET: Table = Table {
    columns: &[NAME, string("Min Available"), string("Max Unavailable"), integer("Allowed Disruptions"), AGE],
    cells: |object, now| {
        let amount = |field: &str| match &object["spec"][field] {
            Value::Null => Value::from("N/A"),
            Value::String(text) => text.as_str().into(),
            other => other.to_string().into(),
        };
        vec![
            name(object),
            amount("minAvailable"),
            amount("maxUnavailable"),
            number(object, &["status", "disruptionsAllowed"]),
            age(object, now),
        ]
    },
};

pub(super) const RESOURCE_QUOTA: Table = Table {
    columns: &[NAME, string("Request"), string("Limit"), AGE],
    cells: |object, now| {
        let mut hard: Vec<(&String, &Value)> = map_at(object, &["status", "hard"]).collect();
        hard.sort_by_key(|(key, _)| *key);
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (key, hard) in hard {
            let used = match str_at(object, &["status", "used", key]) {
                "" => "0",
                used => used,
            };
            let shown = format!("{key}: {used}/{}", hard.as_str().unwrap_or_default());
            if key.starts_with("limits.") { &mut limits } else { &mut requests }.push(shown);
        }
        vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
    },
};

pub(super) const PRIORITY_CLASS: Table = Table {
    columns: &[NAME, integer("Value"), boolean("Global-Default"), AGE, string("PreemptionPolicy")],
    cells: |object, now| {
        vec![
            name(object),
            number(object, &["value"]),
            (object["globalDefault"] == true).into(),
            age(object, now),
            text(object, &["preemptionPolicy"]),
        ]
    },
};

pub(super) const FLOW_SCHEMA: Table = Table {
    columns: &[
        NAME,
        string("PriorityLevel"),
        integer("MatchingPrecedence"),
        string("DistinguisherMethod"),
        AGE,
        string("MissingPL"),
    ],
    cells: |object, now| {
        let method = match str_at(object, &["spec", "distinguisherMethod", "type"]) {
            "" => "<none>",
            method => method,
        };
        let dangling = condition(object, "Dangling").map_or("?", |c| c["status"].as_str().unwrap_or_default());
        vec![
            name(object),
            text(object, &["spec", "priorityLevelConfiguration", "name"]),
            number(object, &["spec", "matchingPrecedence"]),
            method.into(),
            age(object, now),
            dangling.into(),
        ]
    },
};

pub(super) const PRIORITY_LEVEL: Table = Table {
    columns: &[
        NAME,
        string("Type"),
        integer("NominalConcurrencyShares"),
        integer("Queues"),
        integer("HandSize"),
        integer("QueueLengthLimit"),
        AGE,
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let limited = &spec["limited"];
        let of = if spec["exempt"].is_object() { &spec["exempt"] } else { limited };
        let shares = match of.is_object() {
            true => int(of, &["nominalConcurrencyShares"]).into(),
            false => Value::from("<none>"),
        };
        let queuing = &limited["limitResponse"]["queuing"];
        let queues = |field: &str| match queuing.is_object() {
            true => number(queuing, &[field]),
            false => "<none>".into(),
        };
        vec![
            name(object),
            text(object, &["spec", "type"]),
            shares,
            queues("queues"),
            queues("handSize"),
            queues("queueLengthLimit"),
            age(object, now),
        ]
    },
};
