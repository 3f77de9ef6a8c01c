//! `wait pod/web --for=...`: until an object is as wanted.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::{Command, Context, out};
use crate::client::http::encode;
use crate::failure::Failure;
use crate::flags::{Arity, Matches, duration, switch, text};
use crate::kube::jsonpath::{JsonPath, shown};
use crate::kube::kinds::Resource;
use crate::kube::{self, Cluster};

pub(crate) static WAIT: Command = Command {
    name: "wait",
    usage: "KIND/NAME... --for=WHAT [OPTIONS]",
    about: "Wait until objects of the cluster are as wanted",
    examples: "  knarr wait pod/web --for=condition=Ready --timeout=60s
  knarr wait deploy/web --for=condition=Available
  knarr wait pod/web --for=jsonpath='{.status.phase}'=Running
  knarr wait pod/web --for=delete",
    flags: &[
        kube::FLAGS,
        &[
            text("for", "condition=NAME[=VALUE], jsonpath=PATH[=VALUE], create or delete"),
            duration("timeout", "How long to wait at most").default("30s"),
            switch("all", "All objects of the kind"),
            text("selector", "Only objects with these labels").short('l'),
        ],
    ],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run,
};

#[derive(Debug, Clone, PartialEq)]
enum Wish {
    Condition(String, String),
    Path(JsonPath, Option<String>),
    Create,
    Delete,
}

impl Wish {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("condition=") {
            let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
            return Ok(Wish::Condition(name.to_lowercase(), value.to_lowercase()));
        }
        if let Some(rest) = text.strip_prefix("jsonpath=") {
            // The first `=` after the closing brace: filters have some of their own.
            let end = rest.rfind('}').map_or(0, |at| at + 1);
            let (path, value) = match rest[end..].split_once('=') {
                Some((left, value)) => (&rest[..end + left.len()], Some(value.to_owned())),
                None => (rest, None),
            };
            return Ok(Wish::Path(JsonPath::parse(path)?, value));
        }
        match text {
            "create" => Ok(Wish::Create),
            "delete" => Ok(Wish::Delete),
            _ => Err(format!("unrecognized condition: {text:?}")),
        }
    }

    /// Pure.
    fn is_met(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Wish::Delete, object) => object.is_none(),
            (_, None) => false,
            (Wish::Create, Some(_)) => true,
            (Wish::Condition(name, value), Some(object)) => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
                let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
                let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
                // What was said of an earlier spec is not yet true of this one.
                conditions.any(|condition| {
                    text(&condition["type"]) == *name
                        && text(&condition["status"]) == *value
                        && condition["observedGeneration"].as_i64().is_none_or(|seen| seen >= generation)
                })
            }
            (Wish::Path(path, value), Some(object)) => {
                let found = path.find(object);
                match value {
                    None => !found.is_empty(),
                    Some(value) => found.iter().any(|found| shown(found) == *value),
                }
            }
        }
    }
}

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let wish = matches.text("for").ok_or("error: required flag(s) \"for\" not set")?;
    let wish = Wish::parse(wish).map_err(|problem| Failure::new(format!("error: {problem}")))?;
    let nanos = matches.duration_nanos("timeout").unwrap_or(30_000_000_000);
    // A negative time is a week, as kubectl has it.
    let patience = if nanos < 0 { Duration::from_secs(7 * 86_400) } else { Duration::from_nanos(nanos.unsigned_abs()) };
    let deadline = Instant::now() + patience;
    let cluster = Cluster::open(context.settings(), matches)?;
    for target in cluster.targets(&matches.arguments)? {
        let names = match target.name {
            Some(name) => vec![name],
            None => {
                let all = cluster.list(target.resource, &cluster.namespace, &kube::selectors(matches))?;
                all.iter().filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned)).collect()
            }
        };
        if names.is_empty() {
            return Err("error: no matching resources found".into());
        }
        for name in names {
            until(&cluster, target.resource, &name, &wish, deadline)?;
            let met = match wish {
                Wish::Create => "created",
                _ => "condition met",
            };
            out(&format!("{}/{name} {met}\n", target.resource.shown()))?;
        }
    }
    Ok(0)
}

fn until(cluster: &Cluster, resource: &Resource, name: &str, wish: &Wish, deadline: Instant) -> Result<(), Failure> {
    let path = resource.object(&cluster.namespace, name);
    loop {
        let object = cluster.api.find(&path)?;
        if wish.is_met(object.as_ref()) {
            return Ok(());
        }
        if object.is_none() && *wish != Wish::Create {
            // The same refusal as everybody else's.
            cluster.api.get(&path)?;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::new(format!(
                "error: timed out waiting for the condition on {}/{name}",
                resource.plural
            )));
        }
        let field = encode(&format!("metadata.name={name}"));
        let seconds = left.as_secs().clamp(1, 60);
        let watch =
            format!("{}?watch=1&fieldSelector={field}&timeoutSeconds={seconds}", resource.path(&cluster.namespace));
        cluster.api.watch(&watch, kube::api::JSON, |kind, object| {
            Ok(match kind {
                "DELETED" | "ERROR" => false,
                _ => !wish.is_met(Some(object)),
            })
        })?;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wishes_are_read_and_met() {
        let pod = json!({"metadata": {"generation": 2}, "status": {"phase": "Running", "conditions":
            [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "True", "observedGeneration": 1}]}});
        let met = |text: &str| Wish::parse(text).unwrap().is_met(Some(&pod));
        assert!(
            met("condition=ready")
                && met("condition=Ready=true")
                && !met("condition=Ready=False")
                && !met("condition=Old")
        );
        assert!(met("jsonpath={.status.phase}=Running") && !met("jsonpath={.status.phase}=Pending"));
        assert!(met("jsonpath={.status.phase}") && !met("jsonpath={.status.none}"));
        assert!(met("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True"));
        assert!(met("create") && !met("delete") && Wish::Delete.is_met(None));
        assert_eq!(Wish::parse("x").unwrap_err(), "unrecognized condition: \"x\"");
    }
}
