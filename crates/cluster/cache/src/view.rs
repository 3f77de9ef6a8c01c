//! Objects by kind, owner and node.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use resources::{Value, meta};

use crate::Kind;

/// An object's place within its kind. The namespace of a cluster-wide object is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub fn of(object: &Value) -> Self {
        Self::new(meta::namespace(object), meta::name(object))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// What is known of the cluster. It may lag behind the truth, never ahead of it and never backwards: of two versions of an
/// object the newer one counts, whoever told it.
#[derive(Debug, Clone, Default)]
pub struct View {
    objects: BTreeMap<Kind, BTreeMap<Key, Arc<Value>>>,
    /// By the uid of the owner that controls.
    owned: BTreeMap<String, BTreeSet<(Kind, Key)>>,
    /// Pods by the name of their node; empty: not bound yet.
    on_node: BTreeMap<String, BTreeSet<Key>>,
    /// Objects that this process deleted and whose end the API has not told yet.
    gone: HashSet<String>,
}

impl View {
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.at(kind, &Key::new(namespace, name))
    }

    pub fn at(&self, kind: Kind, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(&kind)?.get(key)
    }

    /// All of a kind, in the order of namespace and name.
    pub fn list(&self, kind: Kind) -> impl Iterator<Item = &Arc<Value>> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.objects.get(&kind).map_or(0, BTreeMap::len)
    }

    pub fn in_namespace(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &Arc<Value>> {
        let from = Key::new(namespace, "");
        let within = move |(key, _): &(&Key, &Arc<Value>)| key.namespace == from.namespace;
        let start = Key::new(namespace, "");
        self.objects
            .get(&kind)
            .into_iter()
            .flat_map(move |all| all.range(start.clone()..).take_while(within.clone()).map(|(_, object)| object))
    }

    /// Objects of a kind that the object with this uid controls.
    pub fn owned(&self, kind: Kind, owner_uid: &str) -> impl Iterator<Item = &Arc<Value>> {
        let all = self.owned.get(owner_uid).into_iter().flatten();
        all.filter(move |(of, _)| *of == kind).filter_map(|(of, key)| self.at(*of, key))
    }

    /// Pods bound to a node; with an empty name those that have none yet.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Value>> {
        self.on_node.get(node).into_iter().flatten().filter_map(|key| self.at(Kind::Pod, key))
    }

    /// Takes in what the API says now. False: something newer is known already.
    pub fn put(&mut self, kind: Kind, object: impl Into<Arc<Value>>) -> bool {
        let object = object.into();
        let key = Key::of(&object);
        if self.gone.contains(meta::uid(&object)) {
            return false;
        }
        if let Some(have) = self.at(kind, &key)
            && revision(have) >= revision(&object)
        {
            return false;
        }
        self.forget(kind, &key);
        if let Some(uid) = controller_uid(&object) {
            self.owned.entry(uid.to_owned()).or_default().insert((kind, key.clone()));
        }
        if kind == Kind::Pod {
            let node = meta::str_at(&object, &["spec", "nodeName"]).to_owned();
            self.on_node.entry(node).or_default().insert(key.clone());
        }
        self.objects.entry(kind).or_default().insert(key, object);
        true
    }

    /// The API told that an object has gone.
    pub fn remove(&mut self, kind: Kind, object: &Value) {
        self.gone.remove(meta::uid(object));
        let key = Key::of(object);
        // Another one of the same name may have come meanwhile.
        if self.at(kind, &key).is_some_and(|have| meta::uid(have) == meta::uid(object)) {
            self.forget(kind, &key);
        }
    }

    /// This process deleted an object: nothing older brings it back until the API has told its end.
    pub fn bury(&mut self, kind: Kind, key: &Key, uid: &str) {
        if self.at(kind, key).is_some_and(|have| meta::uid(have) == uid) {
            self.gone.insert(uid.to_owned());
            self.forget(kind, key);
        }
    }

    /// Replaces everything of a kind by a list; answers the objects that have gone.
    pub fn replace(&mut self, kind: Kind, items: Vec<Value>) -> Vec<Arc<Value>> {
        let listed: BTreeSet<Key> = items.iter().map(Key::of).collect();
        let lost: Vec<Arc<Value>> =
            self.list(kind).filter(|object| !listed.contains(&Key::of(object))).cloned().collect();
        for object in &lost {
            self.remove(kind, object);
        }
        for item in items {
            self.put(kind, item);
        }
        lost
    }

    fn forget(&mut self, kind: Kind, key: &Key) -> Option<Arc<Value>> {
        let object = self.objects.get_mut(&kind)?.remove(key)?;
        if let Some(uid) = controller_uid(&object)
            && let Some(set) = self.owned.get_mut(uid)
        {
            set.remove(&(kind, key.clone()));
            if set.is_empty() {
                self.owned.remove(uid);
            }
        }
        if kind == Kind::Pod {
            let node = meta::str_at(&object, &["spec", "nodeName"]);
            if let Some(set) = self.on_node.get_mut(node) {
                set.remove(key);
            }
        }
        Some(object)
    }
}

fn revision(object: &Value) -> u64 {
    meta::resource_version(object).parse().unwrap_or(0)
}

fn controller_uid(object: &Value) -> Option<&str> {
    let owners = meta::list_at(object, &["metadata", "ownerReferences"]);
    owners.iter().find(|owner| owner["controller"] == true).and_then(|owner| owner["uid"].as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, revision: u64, node: &str, owner: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "d", "uid": format!("u-{name}"), "resourceVersion": revision.to_string(),
            "ownerReferences": [{"uid": owner, "controller": true}]}, "spec": {"nodeName": node}})
    }

    #[test]
    fn a_view_never_goes_back() {
        let mut view = View::default();
        assert!(view.put(Kind::Pod, pod("a", 5, "", "o")));
        assert!(view.put(Kind::Pod, pod("a", 7, "n1", "o")));
        assert!(!view.put(Kind::Pod, pod("a", 6, "", "o")), "an old event comes late");
        assert_eq!(view.pods_on("n1").count(), 1);
        assert_eq!(view.pods_on("").count(), 0);
        assert_eq!(view.owned(Kind::Pod, "o").count(), 1);
        view.bury(Kind::Pod, &Key::new("d", "a"), "u-a");
        assert!(!view.put(Kind::Pod, pod("a", 8, "n1", "o")), "what was deleted here does not come back");
        assert_eq!((view.pods_on("n1").count(), view.owned(Kind::Pod, "o").count()), (0, 0));
        view.remove(Kind::Pod, &pod("a", 9, "n1", "o"));
        assert!(view.put(Kind::Pod, pod("a", 10, "", "o")));
    }

    #[test]
    fn a_new_list_takes_away_what_it_does_not_name() {
        let mut view = View::default();
        view.put(Kind::Pod, pod("a", 5, "", "o"));
        view.put(Kind::Pod, pod("b", 6, "", "o"));
        let lost = view.replace(Kind::Pod, vec![pod("b", 6, "", "o"), pod("c", 8, "", "o")]);
        assert_eq!(lost.iter().map(|pod| meta::name(pod)).collect::<Vec<_>>(), ["a"]);
        let names: Vec<_> = view.in_namespace(Kind::Pod, "d").map(|pod| meta::name(pod)).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(view.in_namespace(Kind::Pod, "other").count(), 0);
    }
}
