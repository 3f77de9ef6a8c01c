//! An object of a view: a tree for those who decide, made of what the API told when somebody looks at it.
//!
//! A tree takes ten times the room of the JSON that it was made of, and that JSON lies in the store already where the API is in
//! the same process. So a view of tens of thousands of pods keeps trees of those only that are looked at.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use resources::Value;
use serde::Deserialize;

use crate::{Key, Kind};

#[derive(Debug, Clone)]
pub(crate) struct Kept {
    revision: u64,
    /// As the API told it. None of an object that a write has answered and no watch told yet.
    told: Option<Bytes>,
    tree: OnceLock<Arc<Value>>,
}

impl Kept {
    pub(crate) fn new(revision: u64, object: Arc<Value>, told: Option<Bytes>) -> Self {
        Self { revision, told, tree: OnceLock::from(object) }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The tree. `made` is called when there was none.
    pub(crate) fn tree(&self, kind: Kind, lean: bool, made: impl FnOnce()) -> &Arc<Value> {
        self.tree.get_or_init(|| {
            made();
            self.make(kind, lean)
        })
    }

    /// The tree; one that is made now is not kept.
    pub(crate) fn glance(&self, kind: Kind, lean: bool) -> Arc<Value> {
        self.tree.get().cloned().unwrap_or_else(|| self.make(kind, lean))
    }

    fn make(&self, kind: Kind, lean: bool) -> Arc<Value> {
        let told = self.told.as_deref().unwrap_or(b"null");
        Arc::new(read(kind, lean, told).expect("it was a tree before"))
    }

    /// The watch tells what a write has answered before.
    pub(crate) fn share(&mut self, revision: u64, told: Bytes) {
        if self.revision == revision {
            self.told = Some(told);
        }
    }

    #[cfg(test)]
    pub(crate) fn has_tree(&self) -> bool {
        self.tree.get().is_some()
    }

    pub(crate) fn let_go(&mut self) {
        if self.told.is_none()
            && let Some(tree) = self.tree.get()
        {
            self.told = Some(tree.to_string().into());
        }
        self.tree.take();
    }
}

/// An object's tree; `None` if it is no JSON.
pub(crate) fn read(kind: Kind, lean: bool, told: &[u8]) -> Option<Value> {
    match lean {
        true => crate::lean::read(kind, told),
        false => serde_json::from_slice(told).ok(),
    }
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
}

/// The key and the revision of an object in JSON; costs no tree.
pub(crate) fn head(told: &[u8]) -> Option<(Key, u64)> {
    let Head { metadata } = serde_json::from_slice(told).ok()?;
    Some((Key::new(metadata.namespace, metadata.name), metadata.resource_version.parse().unwrap_or(0)))
}

/// The key of an object in JSON.
pub(crate) fn key(told: &[u8]) -> Option<Key> {
    head(told).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_comes_back_as_it_was() {
        let object = json!({"metadata": {"name": "a", "namespace": "d", "managedFields": [{"manager": "m"}]},
            "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "A"}]}]}});
        let told = Bytes::from(object.to_string());
        assert_eq!(key(&told), Some(Key::new("d", "a")));
        let whole = read(Kind::Pod, false, &told).unwrap();
        assert_eq!(whole, object);
        let short = read(Kind::Pod, true, &told).unwrap();
        assert_eq!(
            short,
            json!({"metadata": {"name": "a", "namespace": "d"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
        );
        let mut made = 0;
        // Answered by a write, told by nobody: its own JSON is kept instead.
        let mut kept = Kept::new(5, Arc::new(short.clone()), None);
        kept.let_go();
        assert_eq!((**kept.tree(Kind::Pod, true, || made += 1)).clone(), short);
        assert_eq!(made, 1);
        kept.share(4, Bytes::from_static(b"{}"));
        kept.let_go();
        assert_eq!((**kept.tree(Kind::Pod, true, || made += 1)).clone(), short, "an older one is not taken");
        kept.share(5, told);
        kept.let_go();
        assert_eq!((**kept.tree(Kind::Pod, false, || ())).clone(), object);
    }
}
