//! The cluster from the command line: what `knarr get`, `apply`, `rollout` and their like stand on.
//!
//! `config` finds the cluster, `api` speaks to it, `kinds` knows its resources, `output` prints what it answers, `files` reads manifests.
//! The commands themselves are in `commands/kube`.

pub mod api;
pub mod config;
pub mod files;
pub mod jsonpath;
pub mod kinds;
pub mod output;
pub mod websocket;

use serde_json::Value;

use self::api::Api;
use self::kinds::{Catalog, Resource};
use crate::client::http::encode;
use crate::cloud::Running;
use crate::failure::Failure;
use crate::flags::{Flag, Matches, switch, text};
use crate::settings::Settings;

/// Flags of every command that talks to a cluster.
pub const FLAGS: &[Flag] = &[
    text("namespace", "Namespace to work in (default: that of the kubeconfig's context)").short('n'),
    text("kubeconfig", "File that says where the cluster is (default: KUBECONFIG, then the cloud that runs here)"),
    text("context", "Context of the kubeconfig to use"),
];

pub const ALL_NAMESPACES: &[Flag] = &[switch("all-namespaces", "Look into all namespaces").short('A')];

pub const SELECTORS: &[Flag] = &[
    text("selector", "Only objects with these labels, such as app=web,tier!=front").short('l'),
    text("field-selector", "Only objects with these fields, such as status.phase=Running"),
];

/// One cluster, one namespace.
pub struct Cluster {
    pub api: Api,
    pub catalog: Catalog,
    /// Empty: all of them.
    pub namespace: String,
    /// The namespace was named on the command line.
    pub namespace_named: bool,
}

/// What a word or two on the command line mean.
pub struct Target<'a> {
    pub resource: &'a Resource,
    pub name: Option<String>,
}

impl Cluster {
    pub fn open(settings: &Settings, matches: &Matches) -> Result<Self, Failure> {
        let running = Running::find(&settings.run);
        let variable = std::env::var("KUBECONFIG").ok();
        let home = std::env::var("HOME").ok();
        let path = config::find(
            matches.text("kubeconfig"),
            variable.as_deref(),
            running.as_ref().map(|running| running.kubeconfig.as_str()),
            home.as_deref(),
        )?;
        let api = Api::new(config::load(&path, matches.text("context"))?)?;
        let catalog = Catalog::ask(&api)?;
        let named = matches.text("namespace");
        let namespace = match matches.is("all-namespaces") {
            true => String::new(),
            false => named.unwrap_or(api.namespace()).to_owned(),
        };
        Ok(Self { api, catalog, namespace, namespace_named: named.is_some() })
    }

    /// `pods`, `pods,svc`, `pod web db`, `pod/web svc/db`.
    pub fn targets(&self, words: &[String]) -> Result<Vec<Target<'_>>, Failure> {
        let Some((first, names)) = words.split_first() else {
            return Err("error: you must specify the type of resource, such as pods or deployment/web".into());
        };
        if first.contains('/') {
            let pairs = words.iter().map(|word| {
                let (kind, name) = word.split_once('/').unwrap_or((word, ""));
                if name.is_empty() || name.contains('/') {
                    return Err(Failure::new(format!("error: arguments in resource/name form may not have more than one slash, nor end in one: {word}")));
                }
                Ok(Target { resource: self.catalog.named(kind)?, name: Some(name.to_owned()) })
            });
            return pairs.collect();
        }
        let mut resources = Vec::new();
        for word in first.split(',').filter(|word| !word.is_empty()) {
            match self.catalog.category(word) {
                category if category.is_empty() => resources.push(self.catalog.named(word)?),
                category => resources.extend(category),
            }
        }
        if names.is_empty() {
            return Ok(resources.into_iter().map(|resource| Target { resource, name: None }).collect());
        }
        if let Some(name) = names.iter().find(|name| name.contains('/')) {
            return Err(Failure::new(format!(
                "error: there is no need to specify a resource type as a separate argument when passing arguments in resource/name form: {name}"
            )));
        }
        let mut targets = Vec::new();
        for resource in resources {
            targets.extend(names.iter().map(|name| Target { resource, name: Some(name.clone()) }));
        }
        Ok(targets)
    }

    /// One object by `kind/name` or, with `kind` for a bare name, by name alone.
    pub fn object(&self, word: &str, kind: &str) -> Result<(&Resource, Value), Failure> {
        let (kind, name) = word.split_once('/').unwrap_or((kind, word));
        let resource = self.catalog.named(kind)?;
        let object = self.api.get(&resource.object(&self.namespace, name))?;
        Ok((resource, object))
    }

    /// Objects of a resource that fit the selectors.
    pub fn list(&self, resource: &Resource, namespace: &str, selectors: &str) -> Result<Vec<Value>, Failure> {
        let list = self.api.get(&format!("{}{selectors}", resource.path(namespace)))?;
        let (api_version, kind) = (resource.api_version(), resource.kind.clone());
        let mut items = list["items"].as_array().cloned().unwrap_or_default();
        for item in &mut items {
            // Items of a list may go without what the list says for all of them.
            item["apiVersion"] = api_version.clone().into();
            item["kind"] = kind.clone().into();
        }
        Ok(items)
    }

    /// Pods that belong to an object: itself, or those that its selector names; newest first.
    pub fn pods_of(&self, object: &Value) -> Result<Vec<Value>, Failure> {
        if object["kind"] == "Pod" {
            return Ok(vec![object.clone()]);
        }
        let selector = pod_selector(object).ok_or_else(|| {
            Failure::new(format!(
                "error: cannot find the pods of {}: it has no selector",
                object["kind"].as_str().unwrap_or("this")
            ))
        })?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&self.namespace);
        let pods = self.catalog.named("pods")?;
        let mut found = self.list(pods, namespace, &format!("?labelSelector={}", encode(&selector)))?;
        found.sort_by(|a, b| {
            b["metadata"]["creationTimestamp"].as_str().cmp(&a["metadata"]["creationTimestamp"].as_str())
        });
        // One that runs says more than one that does not.
        found.sort_by_key(|pod| pod["status"]["phase"] != "Running");
        Ok(found)
    }
}

/// `?labelSelector=...&fieldSelector=...` of a command's flags.
pub fn selectors(matches: &Matches) -> String {
    let pairs = [("selector", "labelSelector"), ("field-selector", "fieldSelector")];
    let given: Vec<(&str, &str)> =
        pairs.iter().filter_map(|(flag, parameter)| matches.text(flag).map(|text| (*parameter, text))).collect();
    crate::client::query(&given)
}

/// Seconds since the epoch of a time as objects carry it; nothing where there is none.
pub fn seconds(text: &Value) -> Option<i64> {
    text.as_str()?.parse::<jiff::Timestamp>().ok().map(|time| time.as_second())
}

/// The selector of an object's pods, as a query writes it.
pub fn pod_selector(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let labels = selector["matchLabels"].as_object().or_else(|| {
        // Services and replication controllers have the labels right there.
        selector.as_object().filter(|map| !map.is_empty() && map.values().all(Value::is_string))
    });
    let mut words: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        words.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    (!words.is_empty()).then(|| words.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_written_as_in_a_query() {
        let of = |spec: Value| pod_selector(&json!({"spec": spec}));
        assert_eq!(of(json!({"selector": {"app": "web", "tier": "x"}})).as_deref(), Some("app=web,tier=x"));
        assert_eq!(
            of(json!({"selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["1", "2"]}, {"key": "b", "operator": "DoesNotExist"}]}}))
            .as_deref(),
            Some("app=web,a in (1,2),!b")
        );
        assert_eq!(of(json!({})), None);
    }
}
