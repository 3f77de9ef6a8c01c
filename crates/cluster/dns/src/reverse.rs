//! Which services an address belongs to: their own addresses, and those of endpoints that can be asked for by name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cache::{Key, View};
use resources::{Value, meta};

use crate::zone;

#[derive(Debug, Clone, Default)]
pub struct Addresses {
    services: BTreeMap<IpAddr, BTreeSet<Key>>,
    of: BTreeMap<Key, BTreeSet<IpAddr>>,
}

impl Addresses {
    /// A service, or one of its slices, is as the view has it now.
    pub fn service(&mut self, view: &View, key: &Key, service: Option<&Value>) {
        for address in self.of.remove(key).unwrap_or_default() {
            if let Some(keys) = self.services.get_mut(&address) {
                keys.remove(key);
                if keys.is_empty() {
                    self.services.remove(&address);
                }
            }
        }
        let Some(service) = service else { return };
        let mut all: BTreeSet<IpAddr> = zone::cluster_ips(service).into_iter().collect();
        let headless = service["spec"]["clusterIP"] == "None";
        for endpoint in view.slices_of(key).flat_map(|slice| meta::list_at(slice, &["endpoints"])) {
            let named = headless || endpoint["hostname"].as_str().is_some_and(|name| !name.is_empty());
            if named && endpoint["conditions"]["ready"] != false {
                let listed = meta::list_at(endpoint, &["addresses"]).iter();
                all.extend(listed.filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok()));
            }
        }
        for address in &all {
            self.services.entry(*address).or_default().insert(key.clone());
        }
        if !all.is_empty() {
            self.of.insert(key.clone(), all);
        }
    }

    pub fn services(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        self.services.get(&address).into_iter().flatten()
    }
}
