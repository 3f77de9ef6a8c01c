//! What a new engine finds: endpoints of containers that run on, leftovers of what ended meanwhile, rules that were flushed.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use network::names::{self, Kind};

use super::{Networks, Running};
use crate::core::open::names_in;
use crate::core::{Inner, blocking};
use crate::{ContainerId, Finding, Result};

/// How often rules are looked after where news of changes cannot be had.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Networks {
    /// Takes over what the containers in `running` have, and removes what the others left. Blocking.
    pub(crate) fn adopt(&self, running: &BTreeSet<ContainerId>) -> Result<()> {
        let mut state = self.state();
        for file in names_in(&self.dir) {
            let path = self.dir.join(&file);
            let id = file.parse::<ContainerId>().ok().filter(|id| running.contains(id));
            let text = std::fs::read(&path).unwrap_or_default();
            let known = serde_json::from_slice::<Running>(&text).ok();
            let Some((id, known)) = id.zip(known) else {
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "cannot remove");
                }
                continue;
            };
            for endpoint in &known.endpoints {
                if let Some(net) = state.networks.get_mut(&endpoint.network) {
                    net.up = true;
                    net.segments = net.segments.max(endpoint.segment + 1);
                    for address in &endpoint.addresses {
                        for ipam in net.ipams.iter_mut().filter(|ipam| ipam.subnet().contains(*address)) {
                            // Given once: nobody else has it.
                            let _ = ipam.take(*address);
                        }
                    }
                }
                for port in &endpoint.ports {
                    // Its traffic goes to the container all the same.
                    if let Err(error) = self.ports.hold(&binding_of(port)) {
                        tracing::warn!(container = %id, %error, "a published port was taken while no engine held it");
                    }
                }
            }
            state.running.insert(id, known);
        }
        state.pods = self.read_pods();
        self.rest_pods(&mut state.pods)?;
        // Links: of what runs and of networks that exist; the rest was left by a crash.
        let wanted: BTreeSet<String> = state
            .running
            .values()
            .flat_map(|running| running.endpoints.iter().map(|endpoint| endpoint.host_name.clone()))
            .chain(state.networks.values().map(|net| net.kernel.bridge.clone()))
            .chain(state.networks.values().flat_map(|net| {
                let segments =
                    (1..net.segments).flat_map(|n| names::segment(self.bridges.tag(), &net.kernel.bridge, n));
                segments.collect::<Vec<_>>()
            }))
            .chain(state.pods.links().map(str::to_owned))
            .collect();
        let links = self.bridges.links()?;
        let left: Vec<&str> = links
            .iter()
            .map(String::as_str)
            .filter(|name| names::kind(self.bridges.tag(), name).is_some() && !wanted.contains(*name))
            .collect();
        if !left.is_empty() {
            tracing::info!(?left, "removes interfaces that a crash left behind");
            self.bridges.remove_links(&left)?;
        }
        for net in state.networks.values_mut() {
            net.up |= net.kernel.driver == network::Driver::Bridge && links.contains(&net.kernel.bridge);
            if net.up {
                // Addresses and settings may be missing where an engine died in the middle.
                self.bridges.add_network(&net.kernel)?;
            }
        }
        if let Some(network) = state.pods.network() {
            self.bridges.add_network(network)?;
        }
        if state.pods.network().is_some() || state.networks.values().any(|net| net.up) {
            let mut pins = self.pins(&state, state.running.values().flat_map(|running| &running.endpoints), None);
            for (id, _) in state.networks.iter().filter(|(_, net)| net.up) {
                pins.extend(self.pins(&state, [], Some(id)));
            }
            self.change_pins(&pins, &[]);
            self.apply(&state)?;
        } else if self.firewall.is_there().unwrap_or(false) {
            self.firewall.remove()?;
        }
        Ok(())
    }

    /// Removes bridges that no container is on, and the rules if there is none: they come back when they are needed. Blocking.
    pub(crate) fn rest(&self) {
        let mut state = self.state();
        let dying = std::mem::take(&mut state.dying);
        let mut gone = self.bridges.remove_links(&dying.iter().map(String::as_str).collect::<Vec<_>>());
        self.unpin(&dying);
        let used: BTreeSet<String> = state
            .running
            .values()
            .flat_map(|running| running.endpoints.iter().map(|endpoint| endpoint.network.clone()))
            .collect();
        for (id, net) in state.networks.iter_mut().filter(|(id, net)| net.up && !used.contains(*id)) {
            tracing::debug!(network = id, "nobody is on it: its bridge goes until it is needed");
            gone = gone.and(self.bridges.remove_network(&net.kernel, net.segments));
            self.unpin(std::slice::from_ref(&net.kernel.bridge));
            net.up = false;
        }
        let state = &mut *state;
        if let Err(error) = self.rest_pods(&mut state.pods) {
            tracing::warn!(%error, "the bridge of pods stays behind");
        }
        let needless = state.pods.network().is_none() && state.networks.values().all(|net| !net.up);
        if needless && self.firewall.is_applied() {
            gone = gone.and(self.firewall.remove());
        }
        if let Err(error) = gone {
            tracing::warn!(%error, "something of the networks stays behind");
        }
    }

    /// What starts or ends just now is between two states: what is still wrong a moment later is told. Blocking.
    pub(crate) fn doctor(&self, runs: &dyn Fn(ContainerId) -> bool) -> Result<Vec<Finding>> {
        let mut found = self.look(runs)?;
        for _ in 0..100 {
            if found.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            found = self.look(runs)?;
        }
        Ok(found)
    }

    fn look(&self, runs: &dyn Fn(ContainerId) -> bool) -> Result<Vec<Finding>> {
        let mut found = Vec::new();
        let mut add = |place: String, problem: &str, remedy: &str| {
            found.push(Finding { area: "network".into(), place, problem: problem.into(), remedy: remedy.into() });
        };
        let state = self.state();
        let links: BTreeSet<String> = self.bridges.links()?.into_iter().collect();
        for (id, running) in &state.running {
            if !runs(*id) {
                add(id.to_string(), "a container that does not run has endpoints", "restart the engine");
                continue;
            }
            for endpoint in running.endpoints.iter().filter(|e| !e.host_name.is_empty()) {
                if !links.contains(&endpoint.host_name) {
                    let place = format!("{} of container {id}", endpoint.host_name);
                    add(place, "the host's end of an interface is missing", "restart the container");
                }
            }
        }
        for net in state.networks.values().filter(|net| net.up && net.kernel.driver == network::Driver::Bridge) {
            if !links.contains(&net.kernel.bridge) {
                let place = format!("{} of network {}", net.kernel.bridge, net.record.name);
                add(place, "the bridge is missing", "restart the network's containers");
            }
        }
        for name in &links {
            let ours = match names::kind(self.bridges.tag(), name) {
                None | Some(Kind::Segment) => continue,
                Some(_) if state.pods.links().any(|link| link == name) => continue,
                Some(Kind::Bridge) => state.networks.values().any(|net| net.kernel.bridge == *name),
                Some(Kind::Port) => {
                    let endpoints = state.running.values().flat_map(|running| &running.endpoints);
                    endpoints.into_iter().any(|endpoint| endpoint.host_name == *name) || state.dying.contains(name)
                }
            };
            if !ours {
                add(name.clone(), "an interface without a container or network", "restart the engine: it removes it");
            }
        }
        for file in names_in(&self.dir) {
            if !file.parse::<ContainerId>().is_ok_and(|id| state.running.contains_key(&id)) {
                let place = self.dir.join(file).display().to_string();
                add(place, "endpoints without a running container", "restart the engine: it removes them");
            }
        }
        self.look_at_pods(&state.pods, &links, &mut add);
        self.look_at_services(&state.pods, &links, &mut add)?;
        if !self.firewall.is_pinned() {
            let problem = "containers may claim each other's addresses: nftables has no rules for bridges";
            add("nftables".into(), problem, "restart the engine; load the kernel's nf_tables for bridges");
        }
        if self.firewall.is_applied() && !self.firewall.is_there()? {
            add("nftables".into(), "the table of this engine is missing", "restart the engine");
        }
        Ok(found)
    }
}

/// What holds a published port again.
pub(super) fn binding_of(port: &network::PublishedPort) -> network::PortBinding {
    network::PortBinding {
        protocol: port.protocol,
        container_port: port.container_port,
        host_address: port.host_address,
        host_ports: network::Range { first: port.host_port, last: port.host_port },
    }
}

impl Inner {
    /// Starts the resolvers of containers that run on, with the sockets that they had where the keeper has them. Whose they are.
    /// Blocking, on a thread of the runtime's pool.
    pub(crate) fn adopt_resolvers(self: &Arc<Self>) -> Vec<ContainerId> {
        let named: Vec<ContainerId> = {
            let state = self.networks.state();
            let named = state.running.iter().filter(|(_, r)| r.endpoints.iter().any(|e| !e.names.is_empty()));
            named.map(|(id, _)| *id).collect()
        };
        for id in &named {
            let id = *id;
            let Some(container) = self.registry().get(id) else { continue };
            let started = match self.keeper.names(&id.to_string()) {
                Ok(Some(sockets)) => super::resolver::serve(self, id, &container.record(), sockets),
                _ => linux::ns::open(format!("/proc/{}/ns/net", container.state().pid))
                    .map_err(crate::Error::from)
                    .and_then(|netns| super::resolver::start(self, id, &container.record(), &netns)),
            };
            match started {
                Ok(handle) => {
                    if let Some(running) = self.networks.state().running.get_mut(&id) {
                        running.resolver = Some(handle);
                    }
                }
                Err(error) => tracing::warn!(container = %id, %error, "no names are resolved for it"),
            }
        }
        named
    }

    /// Tells the keeper that this engine answers for the container, and gives it the sockets if it has none yet.
    pub(crate) async fn keep_resolver(&self, id: ContainerId) {
        let unkept = {
            let state = self.networks.state();
            let Some(resolver) = state.running.get(&id).and_then(|running| running.resolver.as_ref()) else { return };
            resolver.take_unkept()
        };
        match self.keeper.answer_names(&id.to_string(), unkept).await {
            // It has ended already.
            Ok(()) | Err(keeper::client::Error::NotHeld(_)) => {}
            Err(error) => {
                tracing::warn!(container = %id, %error, "its names are not resolved while no engine is there")
            }
        }
    }
}

/// Puts the rules back when somebody else takes them away (NW-03).
pub(crate) async fn guard_rules(inner: Weak<Inner>) {
    let Some(strong) = inner.upgrade() else { return };
    let guard = strong.networks.firewall.guard().map_err(crate::Error::from).and_then(|guard| {
        let copy = guard.as_fd().try_clone_to_owned();
        let news = copy.and_then(|fd| crate::stream::register(fd, tokio::io::Interest::READABLE));
        Ok((guard, news.map_err(|e| crate::Error::internal("watch nftables", e))?))
    });
    // What others have changed between the first look and the first news.
    follow(strong.clone()).await;
    drop(strong);
    let (mut guard, news) = match guard {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "changes of nftables are not heard of: they are looked for");
            return look_after_rules(inner).await;
        }
    };
    loop {
        match news.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => {
                tracing::warn!(%error, "changes of nftables are no longer heard of");
                return look_after_rules(inner).await;
            }
        }
        let Some(inner) = inner.upgrade() else { return };
        match guard.hear(&inner.networks.firewall) {
            Ok(heard) if heard.lost => repair(inner).await,
            Ok(heard) if heard.others => follow(inner).await,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot read changes of nftables"),
        }
    }
}

async fn look_after_rules(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        let firewall = &inner.networks.firewall;
        if firewall.is_applied() && !firewall.is_there().unwrap_or(true) {
            repair(inner).await;
        } else {
            follow(inner).await;
        }
    }
}

async fn repair(inner: Arc<Inner>) {
    tracing::warn!("somebody changed our nftables rules: putting them back");
    let repaired = blocking(move || {
        let repaired = inner.networks.firewall.repair();
        inner.networks.tell_if_closed();
        repaired
    });
    let repaired = repaired.await;
    if let Err(error) = repaired {
        tracing::error!(%error, "the nftables rules cannot be put back");
    }
}

/// Published ports obey what others' filters say now.
async fn follow(inner: Arc<Inner>) {
    let followed = blocking(move || {
        let followed = inner.networks.firewall.follow();
        inner.networks.tell_if_closed();
        followed
    });
    if let Err(error) = followed.await {
        tracing::error!(%error, "published ports do not follow the filters at input");
    }
}
