//! Which webhooks see a request: their configurations, compiled once, and the match. Pure.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cel::{Program, Val};
use resources::selector::LabelSelector;
use resources::{Value, meta};
use serde_json::json;

use super::Attributes;
use crate::catalog::{Catalog, Resource};

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    Url(String),
    Service { namespace: String, name: String, port: u16, path: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Client {
    pub place: Place,
    /// PEM; empty means the machine's authorities.
    pub ca_bundle: Vec<u8>,
}

impl Client {
    /// Reads a `WebhookClientConfig`.
    pub fn read(config: &Value) -> Self {
        let service = &config["service"];
        let text = |key: &str| service[key].as_str().unwrap_or_default().to_owned();
        let place = match config["url"].as_str() {
            Some(url) => Place::Url(url.to_owned()),
            None => Place::Service {
                namespace: text("namespace"),
                name: text("name"),
                port: service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
                path: text("path"),
            },
        };
        use base64::Engine as _;
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        let ca_bundle = base64::engine::general_purpose::STANDARD.decode(bundle).unwrap_or_default();
        Self { place, ca_bundle }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Hook {
    /// Configuration and position, which order the calls.
    pub order: (String, usize),
    pub name: String,
    rules: Vec<Rule>,
    equivalent: bool,
    pub fails: bool,
    pub timeout: Duration,
    /// It may be asked about a dry run.
    pub dry: bool,
    pub again: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
    /// Name and program; `None` if it does not compile.
    conditions: Vec<(String, Option<Program>)>,
    pub client: Client,
}

/// Names that match conditions can use.
const VARIABLES: [&str; 4] = ["object", "oldObject", "request", "namespaceObject"];
const CONDITIONS_COST_MAX: u64 = 10_000_000;

fn words(value: &Value, key: &str) -> Vec<String> {
    meta::list_at(value, &[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Hook {
    fn read(config: &Value, at: usize, hook: &Value) -> Self {
        let text = |key: &str| hook[key].as_str().unwrap_or_default();
        let selector = |key: &str| LabelSelector::from_object(&hook[key]).unwrap_or_default();
        let rules = meta::list_at(hook, &["rules"]).iter().map(|rule| Rule {
            operations: words(rule, "operations"),
            groups: words(rule, "apiGroups"),
            versions: words(rule, "apiVersions"),
            resources: words(rule, "resources"),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
        });
        let conditions = meta::list_at(hook, &["matchConditions"]).iter().map(|condition| {
            let name = condition["name"].as_str().unwrap_or_default().to_owned();
            let source = condition["expression"].as_str().unwrap_or_default();
            (name, Program::compile(source, &VARIABLES).ok())
        });
        Self {
            order: (meta::name(config).to_owned(), at),
            name: text("name").to_owned(),
            rules: rules.collect(),
            equivalent: text("matchPolicy") != "Exact",
            fails: text("failurePolicy") != "Ignore",
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)),
            dry: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            again: text("reinvocationPolicy") == "IfNeeded",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            conditions: conditions.collect(),
            client: Client::read(&hook["clientConfig"]),
        }
    }

    /// The version of the resource in which the webhook wants to see the request; `None` if it does not.
    pub fn wants(&self, attributes: &Attributes<'_>, catalog: &Catalog) -> Option<Arc<Resource>> {
        let resource = attributes.resource;
        // Webhooks that could keep themselves from being repaired would lock everybody out.
        if resource.group == "admissionregistration.k8s.io" {
            return None;
        }
        let rules = |resource: &Resource| self.rules.iter().any(|rule| rule.covers(attributes, resource));
        if rules(resource) {
            return catalog.resource(&resource.group, &resource.version, &resource.plural).cloned();
        }
        if !self.equivalent {
            return None;
        }
        let versions = catalog.groups.iter().flat_map(|group| &group.versions);
        let same = versions.flat_map(|version| &version.resources).filter(|other| other.prefix == resource.prefix);
        same.into_iter().find(|other| rules(other)).cloned()
    }

    /// The selectors accept the namespace and the object, before or after.
    pub fn selects(&self, namespace: Option<&Value>, object: Option<&Value>, old: Option<&Value>) -> bool {
        let any = object.is_none() && old.is_none();
        let labelled = |object: Option<&Value>| object.is_some_and(|object| self.objects.matches_object(object));
        (self.objects.is_empty() || any || labelled(object) || labelled(old))
            && namespace.is_none_or(|namespace| self.namespaces.matches_object(namespace))
    }

    /// All match conditions hold. An error says which one could not be decided.
    pub fn conditions_hold(&self, request: &Value, namespace: Option<&Value>) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let val = |value: &Value| Val::from_json(value);
        let variables = [
            ("object", val(&request["object"])),
            ("oldObject", val(&request["oldObject"])),
            ("request", val(request)),
            ("namespaceObject", namespace.map_or(Val::Null, val)),
        ];
        let mut budget = CONDITIONS_COST_MAX;
        let mut fault = None;
        for (name, program) in &self.conditions {
            let outcome = match program {
                None => Err("the expression does not compile".to_owned()),
                Some(program) => program.eval(&variables, &mut budget).map_err(|error| error.to_string()),
            };
            match outcome {
                Ok(Val::Bool(true)) => {}
                // One that is false decides, whatever the others are.
                Ok(Val::Bool(false)) => return Ok(false),
                Ok(other) => fault = Some(format!("{name}: {} is no bool", other.type_name())),
                Err(error) => fault = Some(format!("{name}: {error}")),
            }
        }
        fault.map_or(Ok(true), Err)
    }
}

impl Rule {
    fn covers(&self, attributes: &Attributes<'_>, resource: &Resource) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
        // A namespace is judged as if it were in itself.
        let namespaced = resource.namespaced || (resource.plural == "namespaces" && resource.group.is_empty());
        let scope = match self.scope.as_str() {
            "Cluster" => !resource.namespaced,
            "Namespaced" => namespaced && resource.namespaced,
            _ => true,
        };
        let listed = |one: &String| match (one.as_str(), attributes.sub) {
            ("*/*", _) => true,
            ("*", "") => true,
            (one, "") => one == resource.plural,
            (one, sub) => one
                .split_once('/')
                .is_some_and(|(main, own)| (main == "*" || main == resource.plural) && (own == "*" || own == sub)),
        };
        scope
            && any(&self.operations, attributes.operation.as_str())
            && any(&self.groups, &resource.group)
            && any(&self.versions, &resource.version)
            && self.resources.iter().any(listed)
    }
}

/// All webhooks, those that change objects and those that judge them.
#[derive(Debug, Default)]
pub struct Hooks {
    pub mutating: Vec<Arc<Hook>>,
    pub validating: Vec<Arc<Hook>>,
}

impl Hooks {
    pub fn new(mutating: &[Value], validating: &[Value]) -> Self {
        let all = |configs: &[Value]| {
            let mut out: Vec<Arc<Hook>> = Vec::new();
            for config in configs {
                let hooks = meta::list_at(config, &["webhooks"]).iter().enumerate();
                out.extend(hooks.map(|(at, hook)| Arc::new(Hook::read(config, at, hook))));
            }
            out.sort_by(|a, b| a.order.cmp(&b.order));
            out
        };
        Self { mutating: all(mutating), validating: all(validating) }
    }
}

/// The current webhooks, exchanged as a whole.
#[derive(Default)]
pub struct Current(RwLock<Arc<Hooks>>);

impl Current {
    pub fn get(&self) -> Arc<Hooks> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, hooks: Hooks) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(hooks);
    }
}

/// What a webhook is asked: the `request` of an `AdmissionReview`.
pub fn request(
    attributes: &Attributes<'_>,
    shown: &Resource,
    uid: &str,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Value {
    let kind = |resource: &Resource| match resource.subresource(attributes.sub) {
        Some(sub) if !attributes.sub.is_empty() && !sub.version.is_empty() => {
            json!({"group": sub.group, "version": sub.version, "kind": sub.kind})
        }
        Some(sub) if !attributes.sub.is_empty() => {
            json!({"group": resource.group, "version": resource.version, "kind": sub.kind})
        }
        _ => json!({"group": resource.group, "version": resource.version, "kind": resource.kind}),
    };
    let place = |resource: &Resource| json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
    let mut out = json!({
        "uid": uid,
        "kind": kind(shown),
        "resource": place(shown),
        "requestKind": kind(attributes.resource),
        "requestResource": place(attributes.resource),
        "operation": attributes.operation.as_str(),
        "userInfo": attributes.user.to_value(),
        "object": object.cloned().unwrap_or(Value::Null),
        "oldObject": old.cloned().unwrap_or(Value::Null),
        "dryRun": attributes.dry,
        "options": attributes.options,
    });
    for (key, text) in [("name", attributes.name), ("namespace", attributes.namespace)] {
        if !text.is_empty() {
            out[key] = text.into();
        }
    }
    if !attributes.sub.is_empty() {
        out["subResource"] = attributes.sub.into();
        out["requestSubResource"] = attributes.sub.into();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Operation, options};
    use super::*;
    use crate::authn::User;

    fn hook(more: Value) -> Hook {
        let mut hook = json!({"name": "a.example.com", "rules": [{"operations": ["CREATE"], "apiGroups": [""],
            "apiVersions": ["v1"], "resources": ["pods"], "scope": "*"}], "clientConfig": {"url": "https://x/"}});
        resources::patch::merge_patch(&mut hook, &more);
        Hook::read(&json!({"metadata": {"name": "c"}}), 0, &hook)
    }

    #[test]
    fn rules_say_which_requests_are_seen() {
        let catalog = Catalog::builtin();
        let user = User::default();
        let rule = |operations: &str, group: &str, version: &str, resource: &str, scope: &str| {
            hook(json!({"rules": [{"operations": [operations], "apiGroups": [group], "apiVersions": [version],
                "resources": [resource], "scope": scope}]}))
        };
        let rows = [
            (rule("CREATE", "", "v1", "pods", "*"), Operation::Create, ("", "v1", "pods"), "", true),
            (rule("UPDATE", "", "v1", "pods", "*"), Operation::Create, ("", "v1", "pods"), "", false),
            (rule("*", "*", "*", "*", "*"), Operation::Delete, ("apps", "v1", "deployments"), "", true),
            (rule("*", "*", "*", "*", "*"), Operation::Update, ("apps", "v1", "deployments"), "status", false),
            (rule("*", "*", "*", "*/*", "*"), Operation::Update, ("apps", "v1", "deployments"), "status", true),
            (rule("*", "*", "*", "*/scale", "*"), Operation::Update, ("apps", "v1", "deployments"), "scale", true),
            (rule("*", "*", "*", "pods/*", "*"), Operation::Connect, ("", "v1", "pods"), "exec", true),
            (rule("*", "*", "*", "*", "Cluster"), Operation::Create, ("", "v1", "pods"), "", false),
            (rule("*", "*", "*", "*", "Cluster"), Operation::Create, ("", "v1", "nodes"), "", true),
            (rule("*", "*", "*", "*", "Namespaced"), Operation::Create, ("", "v1", "namespaces"), "", false),
            // Another version of the same resource is the same resource.
            (
                rule("*", "autoscaling", "v1", "horizontalpodautoscalers", "*"),
                Operation::Create,
                ("autoscaling", "v2", "horizontalpodautoscalers"),
                "",
                true,
            ),
            (
                rule("*", "*", "*", "*", "*"),
                Operation::Delete,
                ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
                "",
                false,
            ),
        ];
        for (hook, operation, (group, version, plural), sub, expected) in rows {
            let resource = catalog.resource(group, version, plural).unwrap();
            let attributes = Attributes {
                operation,
                resource,
                sub,
                namespace: "n",
                name: "x",
                user: &user,
                dry: false,
                old: None,
                options: options(operation, false, false, ""),
            };
            assert_eq!(hook.wants(&attributes, &catalog).is_some(), expected, "{plural} {sub} {:?}", hook.rules);
        }
    }

    #[test]
    fn selectors_and_conditions_narrow() {
        let labelled = |value: &str| json!({"metadata": {"labels": {"a": value}}});
        let picky = hook(
            json!({"objectSelector": {"matchLabels": {"a": "1"}}, "namespaceSelector": {"matchLabels": {"a": "2"}}}),
        );
        let (one, two) = (labelled("1"), labelled("2"));
        assert!(picky.selects(Some(&two), Some(&one), None));
        assert!(picky.selects(Some(&two), Some(&two), Some(&one)), "the old object counts too");
        assert!(!picky.selects(Some(&one), Some(&one), None) && !picky.selects(Some(&two), Some(&two), None));
        let conditioned = hook(json!({"matchConditions": [
            {"name": "one", "expression": "request.operation == 'CREATE'"},
            {"name": "two", "expression": "object.metadata.labels.a == '1'"}]}));
        let request = |object: &Value| json!({"operation": "CREATE", "object": object, "oldObject": null});
        assert_eq!(conditioned.conditions_hold(&request(&one), None), Ok(true));
        assert_eq!(conditioned.conditions_hold(&request(&two), None), Ok(false));
        assert!(conditioned.conditions_hold(&request(&json!({})), None).is_err());
    }
}
