//! A container's network namespace: made and wired before the start, let go at the exit, changed while it runs.
//!
//! The namespace lives by a descriptor of ours until the container's first process is in it, and by that process from then on:
//! an engine that dies at any moment leaves nothing behind that the kernel does not remove.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use linux::clone::Owner;
use network::Plug;

use super::state::{Asking, choose_gateway, give_back, take_endpoint};
use super::{Attached, Net, Networks, State, resolver};
use crate::core::records::{CONTAINERS, ContainerRecord};
use crate::core::{Container, Inner, blocking};
use crate::decide::network as decide;
use crate::spec::{self, NamespaceMode};
use crate::{ContainerId, EndpointSettings, Error, PortView, Result};

/// A network namespace that is ready and that nobody runs in yet.
#[derive(Debug)]
pub(crate) struct Sandbox {
    network: OwnedFd,
    /// Whose it is, where that is not the host's.
    user: Option<OwnedFd>,
}

impl Sandbox {
    /// Where another process of ours opens it, for as long as this lives.
    pub(crate) fn path(&self) -> PathBuf {
        path(&self.network)
    }

    /// As [`Sandbox::path`], of its user namespace.
    pub(crate) fn user_path(&self) -> Option<PathBuf> {
        self.user.as_ref().map(path)
    }
}

fn path(fd: &OwnedFd) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()).into()
}

/// The networks that a container is on, running or not, by name.
pub(crate) fn asked_networks(record: &ContainerRecord) -> BTreeMap<String, EndpointSettings> {
    let mode = record.host.network_mode.as_str();
    let mode = if matches!(mode, "" | "default") { decide::BRIDGE.0 } else { mode };
    match &record.networks {
        _ if mode.starts_with("container:") || mode.starts_with("ns:/") => BTreeMap::new(),
        _ if matches!(mode, "host" | "none") => [(mode.to_owned(), EndpointSettings::default())].into(),
        Some(networks) => networks.clone(),
        None => [(mode.to_owned(), EndpointSettings::default())].into(),
    }
}

/// Whether it has interfaces of its own.
fn has_interfaces(record: &ContainerRecord) -> Result<bool> {
    Ok(spec::network_mode(&record.host)? == NamespaceMode::Private
        && record.host.network_mode != decide::NONE.0
        && !record.config.network_disabled)
}

fn plug<'a>(net: &'a Net, endpoint: &'a Attached) -> Result<Plug<'a>> {
    Ok(Plug {
        network: &net.kernel,
        host_name: &endpoint.host_name,
        name: &endpoint.name,
        addresses: &endpoint.addresses,
        mac: Some(decide::parse_mac(&endpoint.mac)?),
        segment: endpoint.segment,
        default_route: endpoint.gateway,
        send_limit: endpoint.send_limit,
        receive_limit: endpoint.receive_limit,
    })
}

impl Networks {
    /// What the kernel needs to know of these endpoints' networks.
    fn nets(&self, endpoints: &[Attached]) -> Result<Vec<Net>> {
        let state = self.state();
        let one = |endpoint: &Attached| {
            let net = state.networks.get(&endpoint.network);
            let net = net.ok_or_else(|| Error::NoSuchNetwork(endpoint.network_name.clone()))?;
            Net::new(&endpoint.network, net.record.clone())
        };
        endpoints.iter().map(one).collect()
    }

    fn wire(&self, endpoints: &[Attached], owner: Option<Owner<'_>>) -> Result<Sandbox> {
        let nets = self.nets(endpoints)?;
        let plugs =
            nets.iter().zip(endpoints).map(|(net, endpoint)| plug(net, endpoint)).collect::<Result<Vec<_>>>()?;
        let Some(owner) = owner else {
            return Ok(Sandbox { network: self.bridges.sandbox(&plugs)?, user: None });
        };
        let made = linux::clone::user_namespaces(owner)?;
        self.bridges.furnish(&made.network, &plugs)?;
        Ok(Sandbox { network: made.network, user: Some(made.user) })
    }

    /// Names for `/etc/hosts`: each address of a container.
    pub(crate) fn addresses(&self, id: ContainerId) -> Vec<std::net::IpAddr> {
        let state = self.state();
        let endpoints = state.running.get(&id).into_iter().flat_map(|running| &running.endpoints);
        endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
    }

    /// The host as the container reaches it.
    pub(crate) fn host_address(&self, id: ContainerId) -> Option<std::net::IpAddr> {
        let state = self.state();
        let endpoints = &state.running.get(&id)?.endpoints;
        let endpoint = endpoints.iter().find(|e| e.gateway).or(endpoints.first())?;
        Some(state.networks.get(&endpoint.network)?.record.pools.first()?.gateway)
    }

    /// Whether names are resolved for it.
    pub(crate) fn has_names(&self, id: ContainerId) -> bool {
        let state = self.state();
        state.running.get(&id).is_some_and(|running| running.endpoints.iter().any(|e| !e.names.is_empty()))
    }

    /// Addresses of a running container on the default bridge, for links.
    pub(crate) fn bridge_address(&self, id: ContainerId) -> Option<std::net::IpAddr> {
        let state = self.state();
        let endpoints = &state.running.get(&id)?.endpoints;
        endpoints.iter().find(|e| e.network == decide::BRIDGE.1)?.addresses.first().copied()
    }

    /// Networks as `inspect` shows them: what was asked for, and what it has while it runs.
    pub(crate) fn shown(&self, id: ContainerId, record: &ContainerRecord) -> BTreeMap<String, EndpointSettings> {
        let state = self.state();
        let mut shown = asked_networks(record);
        for (name, settings) in &mut shown {
            let Ok((network, net)) = state.find(name) else { continue };
            settings.network_id.clone_from(&network);
            let endpoint = state.running.get(&id).and_then(|r| r.endpoints.iter().find(|e| e.network == network));
            if let Some(endpoint) = endpoint {
                fill(settings, endpoint, net);
            }
        }
        shown
    }

    pub(crate) fn published(&self, id: ContainerId) -> Vec<network::PublishedPort> {
        let state = self.state();
        let endpoints = state.running.get(&id).into_iter().flat_map(|running| &running.endpoints);
        endpoints.flat_map(|endpoint| endpoint.ports.clone()).collect()
    }

    /// Published ports as `ps` lists them.
    pub(crate) fn port_views(&self, id: ContainerId) -> Vec<PortView> {
        let view = |port: network::PublishedPort| PortView {
            ip: port.host_address.to_string(),
            private: port.container_port,
            public: port.host_port,
            protocol: network::protocol_name(port.protocol).to_owned(),
        };
        self.published(id).into_iter().map(view).collect()
    }

    pub(crate) fn renamed(&self, id: ContainerId, old: &str, new: &str) {
        let mut state = self.state();
        let Some(running) = state.running.get_mut(&id) else { return };
        running.name = new.to_owned();
        for name in running.endpoints.iter_mut().flat_map(|endpoint| &mut endpoint.names) {
            if name == old {
                *name = new.to_owned();
            }
        }
        if let Err(error) = self.write_file(id, running) {
            tracing::warn!(container = %id, %error, "the new name is not noted for the next engine");
        }
    }

    /// Whether a container that runs now uses the name of this network.
    pub(crate) fn id_of(&self, reference: &str) -> Result<(String, String)> {
        let state = self.state();
        let (id, net) = state.find(reference)?;
        Ok((id, net.record.name.clone()))
    }

    /// Checks what a create request says about networks; keys become names.
    pub(crate) fn check_request(
        &self,
        mode: &mut String,
        asked: BTreeMap<String, EndpointSettings>,
    ) -> Result<Option<BTreeMap<String, EndpointSettings>>> {
        let others = mode.starts_with("container:") || mode.starts_with("ns:/");
        let own = !(others || matches!(mode.as_str(), "host" | "none"));
        if !own {
            if let Some((name, _)) = asked.iter().find(|(name, _)| *name != mode && *name != "default") {
                let why = match mode.as_str() {
                    "host" => "container cannot be disconnected from host network or connected to host network",
                    "none" => {
                        "container cannot be connected to multiple networks with one of the networks in private (none) mode"
                    }
                    _ => {
                        "container sharing network namespace with another container or host cannot be connected to any other network"
                    }
                };
                return Err(Error::Invalid(format!("conflicting options: network {name}: {why}")));
            }
            for settings in asked.values() {
                decide::check_no_endpoint(settings)?;
            }
            return Ok(None);
        }
        let state = self.state();
        let (_, net) = state.find(mode)?;
        // By id as well as by name, as clients do.
        mode.clone_from(&net.record.name);
        let mut networks = BTreeMap::new();
        for (reference, settings) in asked {
            let reference = if reference == "default" { decide::BRIDGE.0 } else { &reference };
            let (_, net) = state.find(reference)?;
            if matches!(net.record.driver.as_str(), "host" | "null") {
                return Err(Error::Invalid(format!(
                    "conflicting options: a container on network {mode} cannot be on {} as well",
                    net.record.name
                )));
            }
            decide::check_endpoint(&net.record, &settings)?;
            networks.insert(net.record.name.clone(), settings);
        }
        networks.entry(mode.clone()).or_default();
        Ok(Some(networks))
    }
}

fn fill(settings: &mut EndpointSettings, endpoint: &Attached, net: &Net) {
    settings.endpoint_id = endpoint.endpoint_id.to_string();
    settings.mac_address.clone_from(&endpoint.mac);
    settings.dns_names.clone_from(&endpoint.names);
    for address in &endpoint.addresses {
        let Some(pool) = net.record.pools.iter().find(|pool| pool.subnet.contains(*address)) else { continue };
        let gateway = if net.record.internal { String::new() } else { pool.gateway.to_string() };
        if address.is_ipv4() {
            settings.ip_address = address.to_string();
            settings.ip_prefix_len = pool.subnet.prefix();
            settings.gateway = gateway;
        } else {
            settings.global_ipv6_address = address.to_string();
            settings.global_ipv6_prefix_len = pool.subnet.prefix();
            settings.ipv6_gateway = gateway;
        }
    }
}

impl Inner {
    /// Takes addresses and ports and makes the network namespace, wired. `None` for a container without interfaces of its own.
    /// Blocking, on a thread of the runtime's pool.
    pub(crate) fn attach_networks(
        self: &Arc<Self>,
        container: &Container,
        record: &ContainerRecord,
    ) -> Result<Option<Sandbox>> {
        if !has_interfaces(record)? {
            return Ok(None);
        }
        let random = || self.random_bytes::<32>();
        let asking = Asking { id: container.id, record, random: &random };
        let endpoints = self.networks.reserve(&asking, &asked_networks(record), &self.db)?;
        let made = self.make_sandbox(container, record, &endpoints);
        if made.is_err() {
            self.release_networks(container);
        }
        made.map(Some)
    }

    fn make_sandbox(
        self: &Arc<Self>,
        container: &Container,
        record: &ContainerRecord,
        endpoints: &[Attached],
    ) -> Result<Sandbox> {
        let networks = &self.networks;
        let pins = networks.pins(&networks.state(), endpoints, None);
        networks.change_pins(&pins, &[]);
        let shared = self.shared_user_namespace(record)?.map(linux::ns::open).transpose()?;
        let owner = match (&shared, &record.users) {
            (Some(user), _) => Some(Owner::Existing(user.as_fd())),
            (None, users) => users.as_ref().map(Owner::New),
        };
        let sandbox = match networks.wire(endpoints, owner) {
            Ok(sandbox) => sandbox,
            // Somebody may have removed a bridge of ours.
            Err(Error::Network(network::NetworkError::Kernel(error))) if error.is(linux::Errno::NODEV) => {
                let mut state = networks.state();
                for endpoint in endpoints {
                    if let Some(net) = state.networks.get_mut(&endpoint.network) {
                        net.up = false;
                    }
                    networks.ensure_up(&mut state, &endpoint.network, &self.db)?;
                }
                drop(state);
                networks.wire(endpoints, owner)?
            }
            Err(error) => return Err(error),
        };
        vocab::crash::point("engine.network.after_wire");
        if endpoints.iter().any(|endpoint| !endpoint.ports.is_empty()) {
            networks.apply(&networks.state())?;
        }
        vocab::crash::point("engine.network.after_rules");
        if endpoints.iter().any(|endpoint| !endpoint.names.is_empty()) {
            self.start_resolver(container.id, record, &sandbox.network)?;
        }
        for endpoint in endpoints {
            self.network_event(&endpoint.network, "connect", Some(container.id));
        }
        Ok(sandbox)
    }

    fn start_resolver(self: &Arc<Self>, id: ContainerId, record: &ContainerRecord, netns: &OwnedFd) -> Result<()> {
        let handle = resolver::start(self, id, record, netns)?;
        if let Some(running) = self.networks.state().running.get_mut(&id) {
            running.resolver = Some(handle);
        }
        Ok(())
    }

    /// Gives everything back that the container had on its networks. No error where it had nothing. Blocking.
    pub(crate) fn release_networks(self: &Arc<Self>, container: &Container) {
        let networks = &self.networks;
        vocab::crash::point("engine.network.before_release");
        let endpoints = {
            let mut state = networks.state();
            if !state.running.contains_key(&container.id) {
                return;
            }
            let endpoints = networks.forget_running(&mut state, container.id);
            if endpoints.iter().any(|endpoint| !endpoint.ports.is_empty())
                && let Err(error) = networks.apply(&state)
            {
                tracing::warn!(container = %container.id, %error, "its published ports stay until the next change");
            }
            endpoints
        };
        vocab::crash::point("engine.network.after_release");
        for endpoint in &endpoints {
            self.network_event(&endpoint.network, "disconnect", Some(container.id));
        }
        let udp = |port: &network::PublishedPort| port.protocol == network::Protocol::Udp;
        if endpoints.iter().any(|endpoint| endpoint.ports.iter().any(udp)) {
            let addresses: Vec<_> = endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect();
            if let Err(error) = networks.firewall.forget_connections(&addresses) {
                tracing::warn!(container = %container.id, %error, "clients of its UDP ports may still be sent to it");
            }
        }
        let id = container.id.to_string();
        let joined = |other: &Container| {
            let record = other.record();
            let mode = record.host.network_mode.strip_prefix("container:");
            mode.is_some_and(|name| id.starts_with(name) || name == container.name()) && other.status().is_running()
        };
        // Where another container lives in the namespace, its interfaces do not go by themselves.
        let at_once = self.registry().all().iter().any(|other| joined(other));
        self.bury_links(if at_once { Duration::ZERO } else { Duration::from_millis(500) });
    }

    /// Removes links of containers that have ended, after the kernel had time to do so by itself: it does many at once.
    pub(super) fn bury_links(self: &Arc<Self>, after: Duration) {
        let inner = self.clone();
        let bury = move || {
            let dying = std::mem::take(&mut inner.networks.state().dying);
            let names: Vec<&str> = dying.iter().map(String::as_str).collect();
            let removed = inner.networks.bridges.remove_links(&names);
            inner.networks.unpin(&dying);
            if let Err(error) = removed {
                tracing::warn!(%error, "links of ended containers stay behind");
            }
        };
        if after.is_zero() {
            bury();
            return;
        }
        if self.networks.state().dying.len() == 1 {
            // Whoever is first waits for all that follow.
            tokio::runtime::Handle::current().spawn(async move {
                tokio::time::sleep(after).await;
                blocking(bury).await;
            });
        }
    }

    pub(crate) async fn network_connect(
        self: &Arc<Self>,
        network: &str,
        container: &Arc<Container>,
        settings: EndpointSettings,
    ) -> Result<()> {
        let _alone = container.operation.lock().await;
        let (inner, held, network) = (self.clone(), container.clone(), network.to_owned());
        blocking(move || inner.connect(&network, &held, settings)).await?;
        self.keep_resolver(container.id).await;
        Ok(())
    }

    fn connect(self: &Arc<Self>, network: &str, container: &Container, settings: EndpointSettings) -> Result<()> {
        let record = container.record();
        let (id, name) = self.networks.id_of(network)?;
        may_change(&record, &name)?;
        let mut asked = asked_networks(&record);
        if asked.contains_key(&name) {
            return Err(Error::Forbidden(format!(
                "endpoint with name {} already exists in network {name}",
                record.name
            )));
        }
        {
            let state = self.networks.state();
            let (_, net) = state.find(&id)?;
            decide::check_endpoint(&net.record, &settings)?;
        }
        asked.insert(name, settings.clone());
        let mut changed = (*record).clone();
        changed.networks = Some(asked);
        vocab::crash::point("engine.network.connect.before");
        let pid = container.state().pid;
        let runs =
            container.status().is_running() && pid != 0 && self.networks.state().running.contains_key(&container.id);
        if runs {
            self.connect_running(&id, container, &changed, &settings)?;
        }
        vocab::crash::point("engine.network.connect.before_commit");
        self.keep_record(container, changed)?;
        if runs {
            self.refresh_files(container);
        }
        if !runs {
            self.network_event(&id, "connect", Some(container.id));
        }
        Ok(())
    }

    fn connect_running(
        self: &Arc<Self>,
        id: &str,
        container: &Container,
        record: &ContainerRecord,
        settings: &EndpointSettings,
    ) -> Result<()> {
        let networks = &self.networks;
        let netns = linux::ns::open(format!("/proc/{}/ns/net", container.state().pid))?;
        let random = || self.random_bytes::<32>();
        let asking = Asking { id: container.id, record, random: &random };
        let endpoint = {
            let mut state = networks.state();
            networks.ensure_up(&mut state, id, &self.db)?;
            let used: Vec<String> = state
                .running
                .get(&container.id)
                .into_iter()
                .flat_map(|running| running.endpoints.iter().map(|e| e.name.clone()))
                .collect();
            let endpoint = take_endpoint(&mut state, &networks.bridges, &asking, id, settings, &used)?;
            if let Some(running) = state.running.get_mut(&container.id) {
                running.endpoints.push(endpoint.clone());
                networks.write_file(container.id, running)?;
            }
            endpoint
        };
        let nets = networks.nets(std::slice::from_ref(&endpoint))?;
        let pins = networks.pins(&networks.state(), [&endpoint], None);
        networks.change_pins(&pins, &[]);
        vocab::crash::point("engine.network.connect.before_plug");
        if let Err(error) = networks.bridges.plug(&netns, &plug(&nets[0], &endpoint)?) {
            let mut state = networks.state();
            if let Some(running) = state.running.get_mut(&container.id) {
                running.endpoints.retain(|e| e.endpoint_id != endpoint.endpoint_id);
            }
            give_back(&mut state, std::slice::from_ref(&endpoint));
            networks.unpin(std::slice::from_ref(&endpoint.host_name));
            if let Some(running) = state.running.get(&container.id) {
                networks.write_file(container.id, running)?;
            }
            return Err(error.into());
        }
        vocab::crash::point("engine.network.connect.after_plug");
        self.settle_gateway(container, record, &netns)?;
        let unnamed = networks.state().running.get(&container.id).is_some_and(|running| running.resolver.is_none());
        if unnamed && !endpoint.names.is_empty() {
            self.start_resolver(container.id, record, &netns)?;
        }
        self.network_event(id, "connect", Some(container.id));
        Ok(())
    }

    /// After a change of a running container's networks: the way out, and with it the published ports, may be another.
    fn settle_gateway(&self, container: &Container, record: &ContainerRecord, netns: &OwnedFd) -> Result<()> {
        let networks = &self.networks;
        let mut state = networks.state();
        let Some(running) = state.running.get(&container.id) else { return Ok(()) };
        let mut endpoints = running.endpoints.clone();
        let before = endpoints.iter().find(|e| e.gateway).map(|e| e.endpoint_id);
        choose_gateway(&mut endpoints, &state);
        let after = endpoints.iter().find(|e| e.gateway).cloned();
        if after.as_ref().map(|e| e.endpoint_id) != before {
            for endpoint in &mut endpoints {
                for port in std::mem::take(&mut endpoint.ports) {
                    networks.ports.release(&port);
                }
            }
            networks.publish(&state, record, &mut endpoints)?;
            let nets = match &after {
                Some(endpoint) => vec![
                    state.networks.get(&endpoint.network).map(|net| Net::new(&endpoint.network, net.record.clone())),
                ],
                None => Vec::new(),
            };
            let net = nets.into_iter().flatten().next().transpose()?;
            let way = match (&net, &after) {
                (Some(net), Some(endpoint)) => Some(plug(net, endpoint)?),
                _ => None,
            };
            networks.bridges.set_default_route(netns, way.as_ref())?;
        }
        store(networks, &mut state, container.id, endpoints)?;
        networks.apply(&state)
    }

    pub(crate) async fn network_disconnect(
        self: &Arc<Self>,
        network: &str,
        container: &Arc<Container>,
        force: bool,
    ) -> Result<()> {
        let _alone = container.operation.lock().await;
        let (inner, held, network) = (self.clone(), container.clone(), network.to_owned());
        blocking(move || inner.disconnect(&network, &held, force)).await
    }

    fn disconnect(self: &Arc<Self>, network: &str, container: &Container, force: bool) -> Result<()> {
        let record = container.record();
        let (id, name) = match self.networks.id_of(network) {
            Ok(found) => found,
            // A network that is gone, of which the container still speaks.
            Err(_) if force && asked_networks(&record).contains_key(network) => (String::new(), network.to_owned()),
            Err(error) => return Err(error),
        };
        may_change(&record, &name)?;
        let mut asked = asked_networks(&record);
        if asked.remove(&name).is_none() {
            return Err(Error::internal(
                format_args!("container {}", container.id),
                format_args!("is not connected to network {name}"),
            ));
        }
        let mut changed = (*record).clone();
        changed.networks = Some(asked);
        vocab::crash::point("engine.network.disconnect.before_commit");
        self.keep_record(container, changed)?;
        vocab::crash::point("engine.network.disconnect.after_commit");
        let networks = &self.networks;
        let endpoint = networks
            .state()
            .running
            .get(&container.id)
            .and_then(|running| running.endpoints.iter().find(|e| e.network == id).cloned());
        let Some(endpoint) = endpoint else {
            self.network_event(&id, "disconnect", Some(container.id));
            return Ok(());
        };
        let netns = linux::ns::open(format!("/proc/{}/ns/net", container.state().pid))?;
        networks.bridges.unplug(&netns, &endpoint.name)?;
        networks.unpin(std::slice::from_ref(&endpoint.host_name));
        {
            let mut state = networks.state();
            let mut endpoints = Vec::new();
            if let Some(running) = state.running.get(&container.id) {
                endpoints.extend(running.endpoints.iter().filter(|e| e.endpoint_id != endpoint.endpoint_id).cloned());
            }
            networks.release_ports(std::slice::from_ref(&endpoint));
            give_back(&mut state, std::slice::from_ref(&endpoint));
            store(networks, &mut state, container.id, endpoints)?;
        }
        self.settle_gateway(container, &container.record(), &netns)?;
        self.refresh_files(container);
        self.network_event(&id, "disconnect", Some(container.id));
        Ok(())
    }

    fn keep_record(&self, container: &Container, record: ContainerRecord) -> Result<()> {
        self.db.write(|txn| txn.put(&CONTAINERS, &container.id, &record)).map_err(|e: db::Error| Error::from(e))?;
        container.set_record(record);
        Ok(())
    }

    /// Hosts and name servers of a running container follow its networks.
    fn refresh_files(&self, container: &Container) {
        if let Err(error) =
            self.write_network_files(container.id, &container.record(), &self.container_dir(container.id))
        {
            tracing::warn!(container = %container.id, %error, "its hosts file does not follow its networks");
        }
    }
}

fn store(networks: &Networks, state: &mut State, id: ContainerId, endpoints: Vec<Attached>) -> Result<()> {
    match state.running.get_mut(&id) {
        Some(running) => {
            running.endpoints = endpoints;
            networks.write_file(id, running)
        }
        None => Ok(()),
    }
}

/// Whether a container's networks can be changed at all.
fn may_change(record: &ContainerRecord, network: &str) -> Result<()> {
    let mode = record.host.network_mode.as_str();
    let refused = |why: &str| Err(Error::Forbidden(why.into()));
    if mode.starts_with("container:") || mode.starts_with("ns:/") {
        return refused(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        );
    }
    if (mode == "host") || network == "host" {
        return refused("container cannot be disconnected from host network or connected to host network");
    }
    if (mode == "none") || network == "none" {
        return refused(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        );
    }
    Ok(())
}
