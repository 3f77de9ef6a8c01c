//! Which devices there are, and whose they are. Pure.

use std::collections::{BTreeMap, BTreeSet};

use resources::{Value, meta};
use serde_json::json;

/// A pod's uid, a container's name and a resource.
type Holder = (String, String, String);

#[derive(Debug, Default)]
pub struct Book {
    /// Devices of each resource, and whether each is healthy.
    there: BTreeMap<String, BTreeMap<String, bool>>,
    given: BTreeMap<Holder, BTreeSet<String>>,
}

impl Book {
    /// What a plugin tells.
    pub fn set(&mut self, resource: &str, devices: BTreeMap<String, bool>) {
        self.there.insert(resource.to_owned(), devices);
    }

    /// The plugin has gone: nobody is given its devices until it is back.
    pub fn lose(&mut self, resource: &str) {
        for healthy in self.there.get_mut(resource).into_iter().flat_map(BTreeMap::values_mut) {
            *healthy = false;
        }
    }

    /// How many devices of each resource there are, and how many of them are healthy.
    pub fn counts(&self) -> BTreeMap<String, (usize, usize)> {
        let count =
            |devices: &BTreeMap<String, bool>| (devices.len(), devices.values().filter(|healthy| **healthy).count());
        self.there.iter().map(|(resource, devices)| (resource.clone(), count(devices))).collect()
    }

    /// Gives a container devices: the ones that it had before, or free ones.
    pub fn give(
        &mut self,
        uid: &str,
        container: &str,
        resource: &str,
        count: usize,
    ) -> Result<BTreeSet<String>, String> {
        let holder = (uid.to_owned(), container.to_owned(), resource.to_owned());
        if let Some(had) = self.given.get(&holder).filter(|had| had.len() == count) {
            return Ok(had.clone());
        }
        let taken: BTreeSet<&String> =
            self.given.iter().filter(|((.., of), _)| of == resource).flat_map(|(_, ids)| ids).collect();
        let devices = self.there.get(resource).into_iter().flatten();
        let free = devices.filter(|(id, healthy)| **healthy && !taken.contains(id)).map(|(id, _)| id.clone());
        let free: Vec<String> = free.collect();
        if free.len() < count {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {count}, Available: {}",
                free.len()
            ));
        }
        let given: BTreeSet<String> = free.into_iter().take(count).collect();
        self.given.insert(holder, given.clone());
        Ok(given)
    }

    /// Takes back what pods had that are gone.
    pub fn keep(&mut self, known: impl Fn(&str) -> bool) {
        self.given.retain(|(uid, ..), _| known(uid));
    }

    /// Whose devices are whose, for a file.
    pub fn to_value(&self) -> Value {
        let rows = self.given.iter().map(|((uid, container, resource), ids)| {
            json!({"uid": uid, "container": container, "resource": resource, "ids": ids})
        });
        rows.collect()
    }

    /// What an earlier agent has given stays given.
    pub fn restore(&mut self, value: &Value) {
        for row in value.as_array().into_iter().flatten() {
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            let ids = meta::list_at(row, &["ids"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            self.given.insert((text("uid"), text("container"), text("resource")), ids);
        }
    }
}

/// What a container asks for that plugins may have: resources with a domain in front, none of Kubernetes' own.
pub fn wanted(container: &Value) -> Vec<(String, usize)> {
    let limits = meta::map_at(container, &["resources", "limits"]);
    let extended = limits.filter(|(name, _)| is_extended(name));
    let counted = extended.filter_map(|(name, value)| {
        let count = resources::quantity::Quantity::parse(value.as_str()?).ok()?.ceil();
        Some((name.clone(), usize::try_from(count).ok().filter(|count| *count > 0)?))
    });
    counted.collect()
}

pub fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, rest)| {
        !domain.is_empty()
            && !rest.is_empty()
            && !rest.contains('/')
            && domain != "kubernetes.io"
            && !domain.ends_with(".kubernetes.io")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: &str = "example.com/gpu";

    fn devices(rows: &[(&str, bool)]) -> BTreeMap<String, bool> {
        rows.iter().map(|(id, healthy)| ((*id).to_owned(), *healthy)).collect()
    }

    #[test]
    fn a_device_is_one_containers_until_its_pod_is_gone() {
        let mut book = Book::default();
        book.set(GPU, devices(&[("a", true), ("b", true), ("c", false)]));
        assert_eq!(book.counts()[GPU], (3, 2));
        let given = |book: &mut Book, uid: &str, count| {
            book.give(uid, "main", GPU, count).map(|ids| ids.into_iter().collect::<Vec<_>>().join(","))
        };
        assert_eq!(given(&mut book, "1", 1).unwrap(), "a");
        assert_eq!(given(&mut book, "1", 1).unwrap(), "a", "made anew, it has the same one");
        let none = "requested number of devices unavailable for example.com/gpu. Requested: 2, Available: 1";
        assert_eq!(given(&mut book, "2", 2).unwrap_err(), none);
        assert_eq!(given(&mut book, "2", 1).unwrap(), "b");
        let mut next = Book::default();
        next.restore(&book.to_value());
        next.set(GPU, devices(&[("a", true), ("b", true)]));
        assert!(given(&mut next, "3", 1).is_err(), "the next agent knows whose they are");
        next.keep(|uid| uid != "1");
        assert_eq!(given(&mut next, "3", 1).unwrap(), "a");
        next.lose(GPU);
        assert_eq!(next.counts()[GPU], (2, 0));
        next.keep(|_| false);
        assert!(given(&mut next, "4", 1).is_err());
    }

    #[test]
    fn only_resources_of_others_are_devices() {
        let container = json!({"resources": {"limits": {"cpu": "1", "example.com/gpu": "2", "example.com/none": "0",
            "kubernetes.io/x": "1", "attachable.kubernetes.io/y": "1", "hugepages-2Mi": "1"}}});
        assert_eq!(wanted(&container), [(GPU.to_owned(), 2)]);
        for bad in ["gpu", "/gpu", "example.com/", "a/b/c"] {
            assert!(!is_extended(bad), "{bad}");
        }
    }
}
