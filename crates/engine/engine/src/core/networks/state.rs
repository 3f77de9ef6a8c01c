//! Addresses, ports and names: reserved when a container starts, given back when it ends.

use std::collections::BTreeMap;
use std::net::IpAddr;

use network::{NetworkError, PublishedPort, names};

use super::{Attached, Net, Networks, Running, State};
use crate::core::records::ContainerRecord;
use crate::decide::network as decide;
use crate::decide::ports::{self, Wanted};
use crate::{ContainerId, EndpointSettings, Error, Result};

/// Who asks for endpoints.
pub(super) struct Asking<'a> {
    pub(super) id: ContainerId,
    pub(super) record: &'a ContainerRecord,
    /// For endpoint ids and names of links.
    pub(super) random: &'a dyn Fn() -> [u8; 32],
}

impl Networks {
    /// Takes addresses and ports for a container that is to start, and notes them where the next engine finds them.
    pub(super) fn reserve(
        &self,
        asking: &Asking<'_>,
        asked: &BTreeMap<String, EndpointSettings>,
        db: &db::Db,
    ) -> Result<Vec<Attached>> {
        let mut state = self.state();
        if state.running.contains_key(&asking.id) {
            // An end that was never told.
            self.forget_running(&mut state, asking.id);
        }
        let mut endpoints = Vec::new();
        let reserved = asked.iter().try_for_each(|(name, settings)| {
            let (id, _) = state.find(name)?;
            self.ensure_up(&mut state, &id, db)?;
            let used: Vec<String> = endpoints.iter().map(|e: &Attached| e.name.clone()).collect();
            endpoints.push(take_endpoint(&mut state, &self.bridges, asking, &id, settings, &used)?);
            Ok(())
        });
        let published = reserved.and_then(|()| {
            choose_gateway(&mut endpoints, &state);
            self.publish(&state, asking.record, &mut endpoints)
        });
        if let Err(error) = published {
            give_back(&mut state, &endpoints);
            return Err(error);
        }
        let running = Running {
            name: asking.record.name.clone(),
            endpoints: endpoints.clone(),
            servers: super::resolver::servers(asking.record),
            resolver: None,
        };
        vocab::crash::point("engine.network.before_reserve");
        if let Err(error) = self.write_file(asking.id, &running) {
            give_back(&mut state, &endpoints);
            self.release_ports(&endpoints);
            return Err(error);
        }
        vocab::crash::point("engine.network.after_reserve");
        state.running.insert(asking.id, running);
        Ok(endpoints)
    }

    /// Takes the ports that a container publishes, on its way out.
    pub(super) fn publish(&self, state: &State, record: &ContainerRecord, endpoints: &mut [Attached]) -> Result<()> {
        let wanted = ports::wanted_ports(&record.host, &record.config.exposed_ports)?;
        let Some(endpoint) = endpoints.iter_mut().find(|endpoint| endpoint.gateway) else { return Ok(()) };
        let Some(net) = state.networks.get(&endpoint.network) else { return Ok(()) };
        if wanted.is_empty() || net.kernel.driver != network::Driver::Bridge {
            return Ok(());
        }
        let default = decide::host_binding(&net.record)?;
        let mut held = Vec::new();
        for wanted in &wanted {
            if let Err(error) = self.hold(wanted, &endpoint.addresses, default, &mut held) {
                held.iter().for_each(|port| self.ports.release(port));
                // The words that clients look for.
                let what = format!(
                    "failed to set up container networking: driver failed programming external connectivity on endpoint {} ({})",
                    record.name, endpoint.endpoint_id
                );
                return Err(Error::Other { what, kind: error.kind(), message: error.to_string() });
            }
        }
        endpoint.ports = held;
        Ok(())
    }

    /// One published port, on both families of addresses where the container has both.
    fn hold(
        &self,
        wanted: &Wanted,
        addresses: &[IpAddr],
        default: Option<IpAddr>,
        held: &mut Vec<PublishedPort>,
    ) -> Result<(), NetworkError> {
        let mut chosen: Option<u16> = None;
        for ipv4 in [true, false] {
            if !addresses.iter().any(|address| address.is_ipv4() == ipv4) {
                continue;
            }
            let Some(mut binding) = ports::binding(wanted, ipv4, default) else { continue };
            if let Some(port) = chosen {
                // The same port on both.
                binding.host_ports = network::Range { first: port, last: port };
            }
            let port = self.ports.hold(&binding)?;
            chosen = Some(port.host_port);
            held.push(port);
        }
        Ok(())
    }

    pub(super) fn release_ports(&self, endpoints: &[Attached]) {
        for port in endpoints.iter().flat_map(|endpoint| &endpoint.ports) {
            self.ports.release(port);
        }
    }

    /// Gives back everything of a container in memory and in its file; its links are noted as dying. Returns what it had.
    pub(super) fn forget_running(&self, state: &mut State, id: ContainerId) -> Vec<Attached> {
        let Some(running) = state.running.remove(&id) else { return Vec::new() };
        state.dying.extend(running.endpoints.iter().filter(|e| !e.host_name.is_empty()).map(|e| e.host_name.clone()));
        self.release_ports(&running.endpoints);
        give_back(state, &running.endpoints);
        self.remove_file(id);
        running.endpoints
    }
}

pub(super) fn give_back(state: &mut State, endpoints: &[Attached]) {
    for endpoint in endpoints {
        if let Some(net) = state.networks.get_mut(&endpoint.network) {
            for address in &endpoint.addresses {
                net.ipams.iter_mut().for_each(|ipam| ipam.release(*address));
            }
        }
    }
}

/// One endpoint with addresses of its own.
pub(super) fn take_endpoint(
    state: &mut State,
    bridges: &network::Bridges,
    asking: &Asking<'_>,
    id: &str,
    settings: &EndpointSettings,
    names_used: &[String],
) -> Result<Attached> {
    let counts = segment_counts(state, id);
    let net = state.networks.get_mut(id).ok_or_else(|| Error::NoSuchNetwork(id.to_owned()))?;
    decide::check_endpoint(&net.record, settings)?;
    let bridged = net.kernel.driver == network::Driver::Bridge;
    let segment = if bridged { choose_segment(net, &counts)? } else { 0 };
    let (send_limit, receive_limit) = decide::rate_limits(settings)?;
    if receive_limit.is_some() && !bridged {
        return Err(Error::Unsupported(format!("a {} network has no limit of what is received", net.record.driver)));
    }
    let addresses = take_addresses(net, settings)?;
    let mac = match settings.mac_address.as_str() {
        "" => addresses.iter().find_map(|address| mac_of(*address)).unwrap_or_else(|| {
            let [a, b, c, d, ..] = (asking.random)();
            [2, 0x42, a, b, c, d]
        }),
        text => decide::parse_mac(text)?,
    };
    let name = settings.driver_options.get(decide::INTERFACE_NAME).cloned().unwrap_or_else(|| {
        let prefix = decide::interface_prefix(&net.record);
        let free = |name: &String| !names_used.contains(name);
        (0..).map(|n| format!("{prefix}{n}")).find(free).unwrap_or_default()
    });
    let random = (asking.random)();
    let number = u64::from_le_bytes(random[..8].try_into().unwrap_or_default());
    let mut own_names = Vec::new();
    if decide::has_names(&net.record) {
        let short = asking.id.short();
        let record = asking.record;
        let all = [&record.name].into_iter().chain(&settings.aliases).chain([&short, &record.config.hostname]);
        for name in all.filter(|name| !name.is_empty()) {
            if !own_names.contains(name) {
                own_names.push(name.clone());
            }
        }
    }
    let links = settings.links.iter().map(|link| {
        let (container, alias) = link.split_once(':').unwrap_or((link, link));
        (alias.trim_start_matches('/').to_owned(), container.trim_start_matches('/').to_owned())
    });
    Ok(Attached {
        network: id.to_owned(),
        network_name: net.record.name.clone(),
        endpoint_id: ContainerId::from_bytes((asking.random)()),
        host_name: if bridged { names::port(bridges.tag(), number) } else { String::new() },
        name,
        segment,
        addresses,
        mac: decide::mac_text(mac),
        ports: Vec::new(),
        names: own_names,
        links: links.collect(),
        gateway: false,
        priority: settings.gw_priority,
        send_limit,
        receive_limit,
    })
}

fn mac_of(address: IpAddr) -> Option<network::Mac> {
    let IpAddr::V4(address) = address else { return None };
    let [a, b, c, d] = address.octets();
    Some([2, 0x42, a, b, c, d])
}

fn take_addresses(net: &mut Net, settings: &EndpointSettings) -> Result<Vec<IpAddr>> {
    let mut taken = Vec::new();
    for at in 0..net.ipams.len() {
        let ipam = &mut net.ipams[at];
        let text = if ipam.subnet().is_ipv4() { &settings.ipv4_address } else { &settings.ipv6_address };
        let address = match text.parse::<IpAddr>() {
            Ok(address) => ipam.take(address).map(|()| address),
            Err(_) => ipam.allocate(),
        };
        match address {
            Ok(address) => taken.push(address),
            Err(error) => {
                for address in taken {
                    net.ipams.iter_mut().for_each(|ipam| ipam.release(address));
                }
                let what = "failed to set up container networking".to_owned();
                return Err(Error::Other { what, kind: error.kind(), message: error.to_string() });
            }
        }
    }
    Ok(taken)
}

/// How many endpoints each of the network's bridges has.
fn segment_counts(state: &State, id: &str) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    let all = state.running.values().flat_map(|running| &running.endpoints);
    for endpoint in all.filter(|endpoint| endpoint.network == id) {
        *counts.entry(endpoint.segment).or_default() += 1;
    }
    counts
}

fn choose_segment(net: &mut Net, counts: &BTreeMap<usize, usize>) -> Result<usize> {
    let free = |segment: &usize| counts.get(segment).copied().unwrap_or(0) < names::SEGMENT_MAX;
    let segment = (0..36).find(free).unwrap_or(36);
    // Containers that must not see each other are kept apart by the ports of one bridge.
    if segment >= 36 || (segment > 0 && !net.kernel.between_containers) {
        return Err(Error::Other {
            what: format!("network {}", net.record.name),
            kind: vocab::ErrorKind::Exhausted,
            message: "it has as many containers as its bridges take".into(),
        });
    }
    net.segments = net.segments.max(segment + 1);
    Ok(segment)
}

/// Notes which endpoint is the container's way out.
pub(super) fn choose_gateway(endpoints: &mut [Attached], state: &State) {
    let internal = |id: &str| state.networks.get(id).is_none_or(|net| net.record.internal);
    let rows = endpoints.iter().map(|e| (e.network_name.as_str(), e.priority, internal(&e.network)));
    let chosen = decide::gateway(rows).map(str::to_owned);
    for endpoint in endpoints {
        endpoint.gateway = chosen.as_deref() == Some(&endpoint.network_name);
    }
}
