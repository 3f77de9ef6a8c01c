//! Services by what they select, so that those of a pod are found without asking all of a namespace.

use std::collections::{BTreeMap, BTreeSet};

use resources::{Value, meta};

use crate::Key;

/// A label that pods of a service have in any case.
type Label = (String, String);

/// Each service stands under one label of its selector: a pod that it selects has that label.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selecting(BTreeMap<String, BTreeMap<Label, BTreeSet<Key>>>);

fn selector(service: &Value) -> impl Iterator<Item = (&String, &Value)> {
    meta::map_at(service, &["spec", "selector"])
}

/// The label it stands under; none if it selects nothing.
fn label_of(service: &Value) -> Option<Label> {
    let (name, value) = selector(service).min_by_key(|(name, _)| *name)?;
    Some((name.clone(), value.as_str()?.to_owned()))
}

/// Whether a service's selector takes in a pod with these labels.
pub(crate) fn selects(service: &Value, labels: &Value) -> bool {
    let mut any = false;
    let all = selector(service).all(|(name, value)| {
        any = true;
        labels.get(name) == Some(value)
    });
    any && all
}

impl Selecting {
    pub(crate) fn insert(&mut self, service: &Value) {
        if let Some(label) = label_of(service) {
            let labels = self.0.entry(meta::namespace(service).to_owned()).or_default();
            labels.entry(label).or_default().insert(Key::of(service));
        }
    }

    pub(crate) fn remove(&mut self, service: &Value) {
        let Some(label) = label_of(service) else { return };
        let Some(labels) = self.0.get_mut(meta::namespace(service)) else { return };
        if let Some(keys) = labels.get_mut(&label) {
            keys.remove(&Key::of(service));
            if keys.is_empty() {
                labels.remove(&label);
            }
        }
        if labels.is_empty() {
            self.0.remove(meta::namespace(service));
        }
    }

    /// Services that may select a pod with these labels; no other one does.
    pub(crate) fn candidates<'a>(&'a self, namespace: &str, labels: &'a Value) -> impl Iterator<Item = &'a Key> {
        let here = self.0.get(namespace);
        let labels = labels.as_object().into_iter().flatten();
        labels.filter_map(move |(name, value)| here?.get(&(name.clone(), value.as_str()?.to_owned()))).flatten()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Kind, View};

    #[test]
    fn a_pod_has_the_services_whose_whole_selector_it_meets() {
        let mut view = View::default();
        let mut revision = 0;
        let mut put = |view: &mut View, name: &str, namespace: &str, selector: Value| {
            revision += 1;
            let service = json!({"metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": revision.to_string()},
                "spec": {"selector": selector}});
            view.put(Kind::Service, service.clone());
            service
        };
        put(&mut view, "web", "d", json!({"app": "web"}));
        put(&mut view, "both", "d", json!({"tier": "front", "app": "web"}));
        put(&mut view, "none", "d", json!({}));
        put(&mut view, "null", "d", Value::Null);
        put(&mut view, "web", "elsewhere", json!({"app": "web"}));
        let names = |view: &View, labels: Value| {
            let mut names: Vec<String> =
                view.services_of("d", &labels).map(|service| meta::name(service).to_owned()).collect();
            names.sort();
            names.join(" ")
        };
        for (labels, expected) in [
            (json!({"app": "web"}), "web"),
            (json!({"app": "web", "tier": "front", "x": "y"}), "both web"),
            (json!({"tier": "front"}), ""),
            (json!({}), ""),
            (Value::Null, ""),
        ] {
            assert_eq!(names(&view, labels.clone()), expected, "{labels}");
        }
        let changed = put(&mut view, "both", "d", json!({"tier": "front"}));
        assert_eq!(names(&view, json!({"tier": "front"})), "both", "it selects something else now");
        assert_eq!(names(&view, json!({"app": "web"})), "web");
        view.remove(Kind::Service, &changed);
        assert_eq!(names(&view, json!({"tier": "front"})), "");
    }
}
