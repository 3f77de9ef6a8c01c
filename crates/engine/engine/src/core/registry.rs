//! All containers, by id and by name. Memory only: the database has the same, and is read once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use linux::idmap::IdMaps;

use super::Container;
use crate::{ContainerId, Error, Result};

#[derive(Debug, Default)]
pub(crate) struct Registry {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    /// Names, also those of containers that are just being made.
    by_name: HashMap<String, ContainerId>,
    /// Ids of containers that are just being made.
    ids: HashMap<ContainerId, IdMaps>,
}

impl Registry {
    /// Takes a name for a container, before anything of it exists.
    pub(crate) fn reserve_name(&mut self, name: &str, id: ContainerId) -> Result<()> {
        match self.by_name.get(name) {
            Some(holder) if *holder != id => Err(Error::NameInUse { name: name.to_owned(), holder: *holder }),
            _ => {
                self.by_name.insert(name.to_owned(), id);
                Ok(())
            }
        }
    }

    /// Takes ids of the host for a container, before anything of it exists: `decide` can ask which are in use.
    pub(crate) fn reserve_ids(
        &mut self,
        id: ContainerId,
        decide: impl FnOnce(&dyn Fn() -> Vec<IdMaps>) -> Result<Option<IdMaps>>,
    ) -> Result<Option<IdMaps>> {
        let used = || {
            let records = self.by_id.values().map(|container| container.record());
            records.filter_map(|record| record.users.clone()).chain(self.ids.values().cloned()).collect()
        };
        let ids = decide(&used)?;
        self.ids.extend(ids.clone().map(|ids| (id, ids)));
        Ok(ids)
    }

    /// The container is not made after all.
    pub(crate) fn release(&mut self, name: &str, id: ContainerId) {
        self.release_name(name, id);
        self.ids.remove(&id);
    }

    /// Gives a name back if `id` holds it.
    pub(crate) fn release_name(&mut self, name: &str, id: ContainerId) {
        if self.by_name.get(name) == Some(&id) {
            self.by_name.remove(name);
        }
    }

    /// Whether a name is taken for this id: it exists or is just being made.
    pub(crate) fn holds_name(&self, id: ContainerId) -> bool {
        self.by_name.values().any(|holder| *holder == id)
    }

    pub(crate) fn insert(&mut self, container: Arc<Container>) {
        self.ids.remove(&container.id);
        self.by_id.insert(container.id, container);
    }

    pub(crate) fn remove(&mut self, id: ContainerId) {
        self.by_id.remove(&id);
        self.by_name.retain(|_, holder| *holder != id);
    }

    pub(crate) fn get(&self, id: ContainerId) -> Option<Arc<Container>> {
        self.by_id.get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.by_id.values().cloned().collect()
    }

    /// By full id, name, or unique prefix of an id, in that order.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Container>> {
        let missing = || Error::NoSuchContainer(reference.to_owned());
        if let Ok(id) = reference.parse::<ContainerId>()
            && let Some(container) = self.by_id.get(&id)
        {
            return Ok(container.clone());
        }
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if let Some(container) = self.by_name.get(name).and_then(|id| self.by_id.get(id)) {
            return Ok(container.clone());
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if reference.is_empty() || reference.len() >= 64 || !reference.bytes().all(hex) {
            return Err(missing());
        }
        let lowest = format!("{reference:0<64}").parse::<ContainerId>().map_err(|_| missing())?;
        let mut matching = self.by_id.range(lowest..).take_while(|(id, _)| id.to_string().starts_with(reference));
        match (matching.next(), matching.next()) {
            (Some((_, container)), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(Error::AmbiguousPrefix(reference.to_owned())),
            (None, _) => Err(missing()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::records::{ContainerRecord, StateRecord};

    fn registry() -> Registry {
        let mut registry = Registry::default();
        for (name, byte) in [("alpha", 0xab), ("abcd", 0xac), ("ac", 0x12)] {
            let id = ContainerId::from_bytes([byte; 32]);
            let record = ContainerRecord {
                name: name.into(),
                created_at: jiff::Timestamp::UNIX_EPOCH,
                image: vocab::Digest::from_sha256([0; 32]),
                platform: "linux".into(),
                config: Default::default(),
                host: Default::default(),
                mounts: Vec::new(),
                networks: None,
                users: None,
            };
            registry.reserve_name(name, id).unwrap();
            registry.insert(Arc::new(Container::new(id, record, StateRecord::default())));
        }
        registry
    }

    #[test]
    fn ids_then_names_then_prefixes() {
        let registry = registry();
        let find = |text: &str| match registry.find(text) {
            Ok(container) => container.name(),
            Err(error) => error.to_string(),
        };
        let rows = [
            ("alpha", "alpha"),
            ("/alpha", "alpha"),
            (&"ab".repeat(32)[..], "alpha"),
            ("abab", "alpha"),
            // A name wins over a prefix.
            ("ac", "ac"),
            ("acac", "abcd"),
            ("a", "multiple IDs found with provided prefix: a"),
            ("ad", "No such container: ad"),
            ("", "No such container: "),
            ("../..", "No such container: ../.."),
            ("AB", "No such container: AB"),
        ];
        for (text, wanted) in rows {
            assert_eq!(find(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_name_is_held_from_reservation_to_release() {
        let mut registry = registry();
        let (one, two) = (ContainerId::from_bytes([1; 32]), ContainerId::from_bytes([2; 32]));
        registry.reserve_name("new", one).unwrap();
        assert_eq!(
            registry.reserve_name("new", two).unwrap_err().to_string(),
            format!(
                "Conflict. The container name \"/new\" is already in use by container \"{one}\". You have to remove (or rename) that container to be able to reuse that name."
            )
        );
        registry.release_name("new", two);
        assert!(registry.reserve_name("new", two).is_err());
        registry.release_name("new", one);
        registry.reserve_name("new", two).unwrap();
    }
}
