//! Create, list, inspect, remove and prune networks.

use std::collections::BTreeMap;

use super::{Net, Networks, State, subnets};
use crate::core::Inner;
use crate::core::records::NETWORKS;
use crate::decide::network::{self as decide, Facts};
use crate::{EndpointView, Error, EventKind, Filters, NetworkCreated, NetworkRequest, NetworkView, Result};

impl Networks {
    fn view(state: &State, id: &str, net: &Net) -> NetworkView {
        let mut view = decide::view(id, &net.record);
        for (container, running) in &state.running {
            for endpoint in running.endpoints.iter().filter(|endpoint| endpoint.network == id) {
                let address = |ipv4: bool| {
                    let found = endpoint.addresses.iter().find(|address| address.is_ipv4() == ipv4);
                    let pool = |address| net.record.pools.iter().find(|pool| pool.subnet.contains(address));
                    found
                        .map(|address| format!("{address}/{}", pool(*address).map_or(0, |pool| pool.subnet.prefix())))
                        .unwrap_or_default()
                };
                let shown = EndpointView {
                    name: running.name.clone(),
                    endpoint_id: endpoint.endpoint_id.to_string(),
                    mac_address: endpoint.mac.clone(),
                    ipv4_address: address(true),
                    ipv6_address: address(false),
                };
                view.containers.insert(container.to_string(), shown);
            }
        }
        view
    }
}

impl Inner {
    /// Blocking.
    pub(crate) fn network_create(&self, request: NetworkRequest) -> Result<NetworkCreated> {
        let networks = &self.networks;
        let _alone = networks.managing.lock().unwrap_or_else(|e| e.into_inner());
        let id = crate::ContainerId::from_bytes(self.random_bytes()).to_string();
        {
            let mut state = networks.state();
            if state.networks.values().any(|net| net.record.name == request.name)
                && !decide::is_predefined(&request.name)
            {
                return Err(Error::Conflict(format!("network with name {} already exists", request.name)));
            }
            // Until the bridge is up nobody else on this machine chooses: both would choose the same.
            let choosing = networks.bridges.choosing()?;
            let machine = networks.bridges.taken()?;
            let facts = Facts {
                networks: &subnets(&state),
                machine: &machine,
                seed: &networks.seed,
                bridge: network::names::bridge(networks.bridges.tag(), u64::from_le_bytes(self.random_bytes())),
                now: jiff::Timestamp::now(),
            };
            let record = decide::plan_network(request, &facts)?;
            let links = networks.bridges.links()?;
            let bridged = record.driver == "bridge";
            let used = |name: &String| state.networks.values().any(|net| net.record.bridge == *name);
            if bridged && (links.contains(&record.bridge) || used(&record.bridge)) {
                return Err(Error::Forbidden(format!("an interface named {} exists already", record.bridge)));
            }
            if !bridged && !links.contains(&record.bridge) {
                return Err(Error::Invalid(format!("invalid parent interface: {} does not exist", record.bridge)));
            }
            let net = Net::new(&id, record.clone())?;
            vocab::crash::point("engine.network.create.before_commit");
            self.db.write(|txn| txn.put(&NETWORKS, &id, &record)).map_err(|e: db::Error| Error::from(e))?;
            vocab::crash::point("engine.network.create.after_commit");
            state.networks.insert(id.clone(), net);
            drop(choosing);
            if let Err(error) = networks.ensure_up(&mut state, &id, &self.db) {
                let net = state.networks.remove(&id);
                networks.unpin(&[record.bridge]);
                if let Some(net) = net
                    && let Err(left) = networks.bridges.remove_network(&net.kernel, 1)
                {
                    tracing::warn!(network = id, error = %left, "the bridge of a failed create stays behind");
                }
                self.db.write(|txn| txn.remove(&NETWORKS, &id)).map_err(|e: db::Error| Error::from(e))?;
                return Err(error);
            }
        }
        self.network_event(&id, "create", None);
        Ok(NetworkCreated { id, warning: String::new() })
    }

    pub(crate) fn network_view(&self, reference: &str) -> Result<NetworkView> {
        let state = self.networks.state();
        let (id, net) = state.find(reference)?;
        Ok(Networks::view(&state, &id, net))
    }

    /// Filters: `dangling`, `driver`, `id`, `label`, `name`, `scope`, `type`.
    pub(crate) fn network_list(&self, filters: &Filters) -> Result<Vec<NetworkView>> {
        const KNOWN: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];
        if let Some(key) = filters.unknown_key(&KNOWN) {
            return Err(Error::Invalid(format!("invalid filter '{key}'")));
        }
        for kind in filters.values("type") {
            if !matches!(kind, "builtin" | "custom") {
                return Err(Error::Invalid(format!("invalid filter: 'type'='{kind}'")));
            }
        }
        let dangling = match filters.values("dangling").next() {
            None => None,
            Some("true" | "1") => Some(true),
            Some("false" | "0") => Some(false),
            Some(other) => return Err(Error::Invalid(format!("invalid filter 'dangling={other}'"))),
        };
        let any = |key: &str, test: &dyn Fn(&str) -> bool| !filters.has(key) || filters.values(key).any(test);
        let used = self.networks_in_use();
        let state = self.networks.state();
        let views = state.networks.iter().map(|(id, net)| Networks::view(&state, id, net));
        let mut chosen: Vec<NetworkView> = views
            .filter(|view| {
                let kind = if decide::is_predefined(&view.name) { "builtin" } else { "custom" };
                any("name", &|part| view.name.contains(part))
                    && any("id", &|prefix| view.id.starts_with(prefix))
                    && filters.allows("driver", &view.driver)
                    && filters.allows("scope", "local")
                    && filters.allows("type", kind)
                    && filters.allows_labels("label", &view.labels)
                    && dangling.is_none_or(|wanted| {
                        let idle = view.containers.is_empty() && !used.contains_key(&view.name);
                        wanted == (idle && kind == "custom")
                    })
            })
            .collect();
        chosen.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(chosen)
    }

    /// Names of networks that containers, running or not, are on.
    fn networks_in_use(&self) -> BTreeMap<String, String> {
        let containers = self.registry().all();
        let mut used = BTreeMap::new();
        for container in containers {
            for name in super::sandbox::asked_networks(&container.record()).into_keys() {
                used.insert(name, container.name());
            }
        }
        used
    }

    /// Blocking.
    pub(crate) fn network_remove(&self, reference: &str) -> Result<()> {
        let networks = &self.networks;
        let _alone = networks.managing.lock().unwrap_or_else(|e| e.into_inner());
        let (id, name) = {
            let mut state = networks.state();
            let (id, net) = state.find(reference)?;
            let name = net.record.name.clone();
            if decide::is_predefined(&name) {
                return Err(Error::Forbidden(format!("{name} is a pre-defined network and cannot be removed")));
            }
            let on = state.running.iter().find(|(_, running)| running.endpoints.iter().any(|e| e.network == id));
            if let Some((container, running)) = on {
                return Err(Error::Forbidden(format!(
                    "error while removing network: network {name} has active endpoints (name:\"{}\" id:\"{}\")",
                    running.name,
                    container.short()
                )));
            }
            vocab::crash::point("engine.network.remove.before_commit");
            self.db.write(|txn| txn.remove(&NETWORKS, &id)).map_err(|e: db::Error| Error::from(e))?;
            vocab::crash::point("engine.network.remove.after_commit");
            if let Some(net) = state.networks.remove(&id) {
                // The rules first: they name the bridge.
                if let Err(error) = networks.apply(&state) {
                    tracing::warn!(network = name, %error, "rules of a removed network stay until the next change");
                }
                networks.unpin(std::slice::from_ref(&net.kernel.bridge));
                if let Err(error) = networks.bridges.remove_network(&net.kernel, net.segments) {
                    tracing::warn!(network = name, %error, "the bridge stays behind until the next start");
                }
            }
            (id, name)
        };
        vocab::crash::point("engine.network.remove.after_bridge");
        let attributes = [("name".to_owned(), name), ("type".to_owned(), "bridge".to_owned())].into();
        self.events.emit(EventKind::Network, "destroy", id, attributes);
        Ok(())
    }

    /// Blocking. Filters: `until`, `label`, `label!`.
    pub(crate) fn network_prune(&self, filters: &Filters) -> Result<Vec<String>> {
        if let Some(key) = filters.unknown_key(&["until", "label", "label!"]) {
            return Err(Error::Invalid(format!("invalid filter '{key}'")));
        }
        let until = crate::decide::time::parse_until(filters, jiff::Timestamp::now())?;
        let used = self.networks_in_use();
        let mut pruned = Vec::new();
        for view in self.network_list(&Filters::default())? {
            let excluded = filters.has("label!") && filters.allows_labels("label!", &view.labels);
            let chosen = filters.allows_labels("label", &view.labels)
                && !excluded
                && until.is_none_or(|until| view.created_at <= until);
            let idle = view.containers.is_empty() && !used.contains_key(&view.name);
            if !chosen || !idle || decide::is_predefined(&view.name) {
                continue;
            }
            match self.network_remove(&view.id) {
                Ok(()) => pruned.push(view.name),
                // Somebody uses or removes it just now.
                Err(Error::Forbidden(_) | Error::NoSuchNetwork(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.events.emit(EventKind::Network, "prune", String::new(), [("reclaimed".to_owned(), "0".to_owned())].into());
        Ok(pruned)
    }

    /// An event about a network, and about a container on it.
    pub(crate) fn network_event(&self, id: &str, action: &str, container: Option<crate::ContainerId>) {
        let named = self.networks.state().networks.get(id).map(|n| (n.record.name.clone(), n.record.driver.clone()));
        let Some((name, driver)) = named else { return };
        let mut attributes = BTreeMap::from([("name".to_owned(), name), ("type".to_owned(), driver)]);
        if let Some(container) = container {
            attributes.insert("container".to_owned(), container.to_string());
        }
        self.events.emit(EventKind::Network, action, id.to_owned(), attributes);
    }
}
