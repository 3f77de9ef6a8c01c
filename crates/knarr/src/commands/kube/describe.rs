//! `describe`: everything about an object, and what has happened to it.

use resources::table::human;
use serde_json::Value;

use super::super::{Command, Context, out};
use crate::client::http::encode;
use crate::failure::Failure;
use crate::flags::{Arity, Matches};
use crate::kube::{self, Cluster, seconds};
use crate::text::printable;
use crate::units;

pub(crate) static DESCRIBE: Command = Command {
    name: "describe",
    usage: "KIND NAME... | KIND/NAME... [OPTIONS]",
    about: "Show everything about objects, and what happened to them",
    examples: "  knarr describe pod web
  knarr describe deploy/web
  knarr describe nodes",
    flags: &[kube::FLAGS, kube::ALL_NAMESPACES, kube::SELECTORS],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run,
};

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let cluster = Cluster::open(context.settings(), matches)?;
    let mut objects = Vec::new();
    for target in cluster.targets(&matches.arguments)? {
        match &target.name {
            Some(name) => objects.push(cluster.api.get(&target.resource.object(&cluster.namespace, name))?),
            None => objects.extend(cluster.list(target.resource, &cluster.namespace, &kube::selectors(matches))?),
        }
    }
    if objects.is_empty() {
        eprintln!("No resources found");
    }
    let texts: Result<Vec<String>, Failure> = objects
        .iter()
        .map(|object| Ok(format!("{}{}", render(object), events_table(&events(&cluster, object)?, units::now()))))
        .collect();
    out(&printable(&texts?.join("\n\n")))?;
    Ok(0)
}

/// What was told about an object, oldest first.
pub(super) fn events(cluster: &Cluster, object: &Value) -> Result<Vec<Value>, Failure> {
    let metadata = &object["metadata"];
    let uid = metadata["uid"].as_str().unwrap_or_default();
    let name = metadata["name"].as_str().unwrap_or_default();
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    let field = encode(&format!("involvedObject.name={name}"));
    let events = cluster.catalog.named("events.v1")?;
    let mut found = cluster.list(events, namespace, &format!("?fieldSelector={field}"))?;
    // Nodes tell of themselves by name, others by uid.
    found.retain(|event| [uid, name].iter().any(|id| event["involvedObject"]["uid"] == *id));
    found.sort_by_key(|event| last_seen(event).unwrap_or(0));
    Ok(found)
}

pub(super) fn last_seen(event: &Value) -> Option<i64> {
    let series = &event["series"]["lastObservedTime"];
    [series, &event["lastTimestamp"], &event["eventTime"], &event["metadata"]["creationTimestamp"]]
        .into_iter()
        .find_map(seconds)
}

/// Pure.
fn events_table(events: &[Value], now: i64) -> String {
    if events.is_empty() {
        return "Events:  <none>\n".into();
    }
    let mut lines =
        vec!["  Type\tReason\tAge\tFrom\tMessage".to_owned(), "  ----\t------\t----\t----\t-------".to_owned()];
    for event in events {
        let text = |value: &Value| value.as_str().unwrap_or_default().trim().replace('\n', " ");
        let age = last_seen(event).map_or_else(|| "<unknown>".into(), |at| human((now - at).max(0)));
        let count = event["count"].as_i64().or(event["series"]["count"].as_i64()).unwrap_or(1);
        let age = match (count, seconds(&event["firstTimestamp"])) {
            (2.., Some(first)) => format!("{age} (x{count} over {})", human((now - first).max(0))),
            _ => age,
        };
        let from = [&event["source"]["component"], &event["reportingComponent"]].into_iter().map(text);
        let from = from.into_iter().find(|from| !from.is_empty()).unwrap_or_default();
        lines.push(format!(
            "  {}\t{}\t{age}\t{from}\t{}",
            text(&event["type"]),
            text(&event["reason"]),
            text(&event["message"])
        ));
    }
    format!("Events:\n{}", crate::show::align_with(&lines, 0, 2))
}

/// An object in words: its name, labels and annotations, then every field. Pure.
fn render(object: &Value) -> String {
    let metadata = &object["metadata"];
    let mut lines = Vec::new();
    let mut head = |name: &str, values: Vec<String>| {
        let values = if values.is_empty() { vec!["<none>".to_owned()] } else { values };
        for (at, value) in values.iter().enumerate() {
            lines.push(format!("{:14}{value}", if at == 0 { format!("{name}:") } else { String::new() }));
        }
    };
    let pairs = |field: &str, between: &str| -> Vec<String> {
        let map = metadata[field].as_object().into_iter().flatten();
        map.map(|(key, value)| format!("{key}{between}{}", value.as_str().unwrap_or_default())).collect()
    };
    head("Name", vec![metadata["name"].as_str().unwrap_or_default().to_owned()]);
    if let Some(namespace) = metadata["namespace"].as_str() {
        head("Namespace", vec![namespace.to_owned()]);
    }
    head("Labels", pairs("labels", "="));
    head("Annotations", pairs("annotations", ": "));
    let word = |value: &Value| vec![value.as_str().unwrap_or_default().to_owned()];
    head("API Version", word(&object["apiVersion"]));
    head("Kind", word(&object["kind"]));
    let mut text = lines.join("\n") + "\n";
    let secret = object["kind"] == "Secret";
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                let mut rest = value.clone();
                if let Some(map) = rest.as_object_mut() {
                    for known in ["name", "namespace", "labels", "annotations", "managedFields"] {
                        map.remove(known);
                    }
                }
                field("Metadata", &rest, 0, &mut text);
            }
            "data" if secret => {
                // What a secret says is not for whoever looks over a shoulder.
                text.push_str("Data:\n");
                for (name, value) in value.as_object().into_iter().flatten() {
                    let length = value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4);
                    text.push_str(&format!("  {name}:  {length} bytes\n"));
                }
            }
            key => field(&title(key), value, 0, &mut text),
        }
    }
    text
}

fn field(name: &str, value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) if map.is_empty() => {}
        Value::Object(map) => {
            text.push_str(&format!("{pad}{name}:\n"));
            map.iter().for_each(|(key, value)| field(&title(key), value, indent + 2, text));
        }
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) => {
            text.push_str(&format!("{pad}{name}:\n"));
            for item in items {
                match item {
                    Value::Object(map) => {
                        // The first field stands apart, so that one sees where an item begins.
                        for (at, (key, value)) in map.iter().enumerate() {
                            let lead = if at == 0 { 2 } else { 4 };
                            field(&title(key), value, indent + lead, text);
                        }
                    }
                    other => text.push_str(&format!("{pad}  {}\n", kube::jsonpath::shown(other))),
                }
            }
        }
        Value::Null => {}
        scalar => {
            let shown = kube::jsonpath::shown(scalar);
            let mut lines = shown.lines();
            text.push_str(&format!("{pad}{name}:  {}\n", lines.next().unwrap_or_default()));
            lines.for_each(|line| text.push_str(&format!("{pad}  {line}\n")));
        }
    }
}

/// `creationTimestamp` as `Creation Timestamp`; keys that are nobody's field names stay as they are.
fn title(key: &str) -> String {
    if key.contains(['.', '/', '-', '_']) || !key.starts_with(|c: char| c.is_ascii_lowercase()) {
        return key.to_owned();
    }
    let mut out = String::new();
    let chars: Vec<char> = key.chars().collect();
    for (at, c) in chars.iter().enumerate() {
        let after_small = at > 0 && chars[at - 1].is_ascii_lowercase();
        let before_small = at > 0 && chars.get(at + 1).is_some_and(char::is_ascii_lowercase);
        if c.is_ascii_uppercase() && (after_small || before_small) {
            out.push(' ');
        }
        if at == 0 { out.extend(c.to_uppercase()) } else { out.push(*c) }
    }
    // `podIP`, `hostIPC`: the small s of a plural belongs to its capitals.
    out.replace(" I Ps", " IPs")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_told_in_words() {
        let object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "d", "labels": {"app": "web"}, "creationTimestamp": "t", "managedFields": [1]},
            "spec": {"containers": [{"image": "busybox", "name": "c"}], "args": ["a", "b"]}, "status": {"podIP": "10.0.0.1"}});
        let wanted = "Name:         web\nNamespace:    d\nLabels:       app=web\nAnnotations:  <none>\nAPI Version:  v1\nKind:         Pod\n\
            Metadata:\n  Creation Timestamp:  t\n\
            Spec:\n  Args:\n    a\n    b\n  Containers:\n    Image:  busybox\n      Name:  c\nStatus:\n  Pod IP:  10.0.0.1\n";
        assert_eq!(render(&object), wanted);
        let secret = json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"password": "c2VjcmV0"}});
        assert!(render(&secret).contains("password:  6 bytes") && !render(&secret).contains("c2Vj"));
    }

    #[test]
    fn events_line_up() {
        let event = json!({"type": "Warning", "reason": "BackOff", "message": "again", "count": 3, "source": {"component": "kubelet"},
            "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:01:00Z"});
        let wanted = [
            "Events:",
            "  Type     Reason   Age                From     Message",
            "  ----     ------   ----               ----     -------",
            "  Warning  BackOff  30s (x3 over 90s)  kubelet  again",
            "",
        ];
        assert_eq!(events_table(&[event], 90), wanted.join("\n"));
        assert_eq!(events_table(&[], 0), "Events:  <none>\n");
    }

    #[test]
    fn field_names_become_words() {
        for (key, wanted) in [
            ("creationTimestamp", "Creation Timestamp"),
            ("podIP", "Pod IP"),
            ("podIPs", "Pod IPs"),
            ("uid", "Uid"),
            ("hostIPC", "Host IPC"),
            ("app.kubernetes.io/name", "app.kubernetes.io/name"),
            ("qosClass", "Qos Class"),
        ] {
            assert_eq!(title(key), wanted, "{key}");
        }
    }
}
