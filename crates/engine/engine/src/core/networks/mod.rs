//! Networks and who is on them: memory of the records, of addresses given and of ports held, and the kernel's side of each.
//!
//! What runs now is written to one small file a container under `<run>/networks/`, before anything of it is made: it lives as
//! long as the kernel's state does, so that an engine that was killed neither gives an address twice nor leaves a link behind.
//!
//! * `state` — addresses, ports and names: reserved at a start, given back at an exit
//! * `manage` — create, list, remove, prune
//! * `sandbox` — a container's network namespace at start and exit, connect and disconnect
//! * `pods` — namespaces that the cluster holds, on a network of their own
//! * `adopt` — a new engine finds what the last one left; doctor
//! * `resolver` — answers at 127.0.0.11 inside of containers
//! * `away` — the same from the files, in a process of its own, while no engine is there

mod adopt;
mod away;
mod manage;
mod pods;
mod resolver;
mod sandbox;
mod services;
mod state;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use network::{Bridges, Firewall, HeldPorts, Ipam, Network, NetworkError, PublishedPort, Subnet};
use serde::{Deserialize, Serialize};

use super::records::NETWORKS;
use crate::decide::network::{self as decide, NetworkRecord};
use crate::{ContainerId, Error, Result};

pub(crate) use adopt::guard_rules;
pub use away::serve_names;
pub use pods::{PodNetwork, PodPlug};
pub(crate) use sandbox::{Sandbox, asked_networks};

/// The networks of one engine.
#[derive(Debug)]
pub(crate) struct Networks {
    bridges: Bridges,
    firewall: Firewall,
    ports: HeldPorts,
    /// `<run>/networks`.
    dir: PathBuf,
    /// `<run>/podnet`.
    pod_dir: PathBuf,
    /// For this machine's unique local prefix.
    seed: String,
    state: Mutex<State>,
    /// Why published ports are closed, as the log has it.
    told: Mutex<Option<String>>,
    /// Creating and removing, one at a time.
    managing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    networks: BTreeMap<String, Net>,
    running: BTreeMap<ContainerId, Running>,
    pods: pods::Pods,
    /// Links of containers and pods that have ended; the kernel removes most of them by itself.
    dying: Vec<String>,
}

/// One network in memory.
#[derive(Debug)]
struct Net {
    record: NetworkRecord,
    kernel: Network,
    ipams: Vec<Ipam>,
    /// Its bridge exists, as far as we know.
    up: bool,
    /// How many bridges it has had.
    segments: usize,
}

impl Net {
    fn new(id: &str, record: NetworkRecord) -> Result<Self> {
        let kernel = decide::kernel_network(id, &record)?;
        let ipams = record.pools.iter().map(|pool| {
            let reserved = pool.auxiliary.values().copied().chain([pool.gateway]);
            Ipam::new(pool.subnet, pool.range, reserved)
        });
        Ok(Self { ipams: ipams.collect(), kernel, record, up: false, segments: 1 })
    }
}

/// What a running container has.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Running {
    /// As `inspect` of a network shows it.
    name: String,
    endpoints: Vec<Attached>,
    /// The name servers that its resolver asks.
    #[serde(default)]
    servers: Vec<std::net::SocketAddr>,
    /// Not in the file: the tasks of its resolver.
    #[serde(skip)]
    resolver: Option<resolver::Handle>,
}

/// One interface of a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Attached {
    network: String,
    network_name: String,
    endpoint_id: ContainerId,
    /// The host's end.
    host_name: String,
    /// `eth0`.
    name: String,
    #[serde(default)]
    segment: usize,
    addresses: Vec<IpAddr>,
    mac: String,
    #[serde(default)]
    ports: Vec<PublishedPort>,
    /// By which others on the network find it.
    #[serde(default)]
    names: Vec<String>,
    /// Names of its own for others: alias, container.
    #[serde(default)]
    links: Vec<(String, String)>,
    /// Its way out.
    #[serde(default)]
    gateway: bool,
    #[serde(default)]
    priority: i64,
    #[serde(default)]
    send_limit: Option<u64>,
    #[serde(default)]
    receive_limit: Option<u64>,
}

impl Networks {
    /// Reads the records; nothing is made in the kernel yet.
    pub(crate) fn open(
        run: &std::path::Path,
        tag: &str,
        seed: &str,
        published_ports: network::PublishedPorts,
        db: &db::Db,
    ) -> Result<Self> {
        let dir = run.join("networks");
        std::fs::create_dir_all(&dir).map_err(|e| Error::internal(format_args!("make {}", dir.display()), e))?;
        let networks = Self {
            bridges: Bridges::new(tag),
            firewall: Firewall::with(tag, published_ports),
            told: Mutex::default(),
            ports: HeldPorts::default(),
            dir,
            pod_dir: run.join("podnet"),
            seed: seed.to_owned(),
            state: Mutex::default(),
            managing: Mutex::default(),
        };
        let records = db.read()?.list(&NETWORKS)?;
        let now = jiff::Timestamp::now();
        {
            let mut state = networks.state();
            for (id, record) in records {
                match Net::new(&id, record) {
                    Ok(net) => drop(state.networks.insert(id, net)),
                    Err(error) => tracing::error!(network = id, %error, "a record that makes no network"),
                }
            }
            for (name, id, driver) in
                [(decide::HOST.0, decide::HOST.1, "host"), (decide::NONE.0, decide::NONE.1, "null")]
            {
                state.networks.insert(id.to_owned(), Net::new(id, decide::placeholder(name, driver, now))?);
            }
            if !state.networks.contains_key(decide::BRIDGE.1) {
                let others: Vec<Subnet> = subnets(&state);
                // A machine on which every subnet is taken has an engine all the same; its bridge cannot come up.
                let taken = [others, networks.bridges.taken().unwrap_or_default()].concat();
                let subnet = network::choose_pool(&taken).or_else(|_| network::choose_pool(&[]))?;
                let record = decide::default_bridge(subnet, network::names::default_bridge(tag), now);
                state.networks.insert(decide::BRIDGE.1.to_owned(), Net::new(decide::BRIDGE.1, record)?);
            }
        }
        Ok(networks)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes the network's bridge and rules if they are not there. The default bridge moves to another subnet when somebody
    /// else has taken its own while it was not up.
    fn ensure_up(&self, state: &mut State, id: &str, db: &db::Db) -> Result<()> {
        let net = state.networks.get(id).ok_or_else(|| Error::NoSuchNetwork(id.to_owned()))?;
        if net.up || net.kernel.driver != network::Driver::Bridge {
            return Ok(());
        }
        let _choosing = self.bridges.choosing()?;
        let there = self.bridges.links()?.contains(&net.kernel.bridge);
        if !there {
            let taken = self.bridges.taken()?;
            let clash = net.kernel.subnets.iter().any(|(subnet, _)| taken.iter().any(|other| other.overlaps(subnet)));
            if clash && id == decide::BRIDGE.1 {
                let taken = [taken, subnets_but(state, id)].concat();
                let record = decide::default_bridge(
                    network::choose_pool(&taken)?,
                    network::names::default_bridge(self.bridges.tag()),
                    jiff::Timestamp::now(),
                );
                state.networks.insert(id.to_owned(), Net::new(id, record)?);
            } else if clash {
                return Err(NetworkError::PoolOverlaps.into());
            }
        }
        let net = state.networks.get_mut(id).ok_or_else(|| Error::NoSuchNetwork(id.to_owned()))?;
        if id == decide::BRIDGE.1 {
            let record = net.record.clone();
            // Kept, so that its addresses stay the same from one start to the next.
            if db.read()?.get(&NETWORKS, &id.to_owned())?.as_ref() != Some(&record) {
                db.write(|txn| txn.put(&NETWORKS, &id.to_owned(), &record)).map_err(|e: db::Error| e)?;
            }
        }
        vocab::crash::point("engine.network.before_bridge");
        self.bridges.add_network(&net.kernel)?;
        vocab::crash::point("engine.network.after_bridge");
        net.up = true;
        self.change_pins(&self.pins(state, &[], Some(id)), &[]);
        self.apply(state)
    }

    /// Makes the rules what the state says.
    fn apply(&self, state: &State) -> Result<()> {
        let up = state.networks.values().filter(|net| net.up).map(|net| &net.kernel);
        let networks: Vec<Network> = up.chain(state.pods.network()).cloned().collect();
        let endpoints: Vec<network::Endpoint> = state
            .running
            .iter()
            .flat_map(|(id, running)| running.endpoints.iter().map(move |endpoint| (id, endpoint)))
            .filter(|(_, endpoint)| !endpoint.ports.is_empty())
            .map(|(id, endpoint)| network::Endpoint {
                network: endpoint.network.clone(),
                container: id.to_string(),
                addresses: endpoint.addresses.clone(),
                ports: endpoint.ports.clone(),
            })
            .chain(state.pods.endpoints())
            .collect();
        if networks.is_empty() && !self.firewall.is_applied() {
            return Ok(());
        }
        let applied = self.firewall.apply(&networks, &endpoints);
        self.tell_if_closed();
        Ok(applied?)
    }

    /// Why published ports take nothing new, although containers have some.
    pub(crate) fn closed_for(&self) -> Option<String> {
        self.firewall.closed_for()
    }

    /// Logs when published ports close because a filter of the host cannot be followed, and when they follow again.
    fn tell_if_closed(&self) {
        let closed = self.closed_for();
        let mut told = self.told.lock().unwrap_or_else(|e| e.into_inner());
        if *told == closed {
            return;
        }
        match &closed {
            Some(problem) => {
                tracing::warn!(problem, "a filter at input cannot be followed: published ports are closed")
            }
            None => tracing::info!("published ports follow the filters at input again"),
        }
        *told = closed;
    }

    /// What makes these endpoints' addresses theirs alone, and the gateway's that of the network's bridge.
    fn pins<'a>(
        &self,
        state: &State,
        endpoints: impl IntoIterator<Item = &'a Attached>,
        network: Option<&str>,
    ) -> Vec<(String, network::Pin)> {
        let pinned = |id: &str| {
            let net = state.networks.get(id);
            net.filter(|net| {
                net.kernel.driver == network::Driver::Bridge && decide::pins_addresses(&net.record).unwrap_or(true)
            })
        };
        let ports = endpoints.into_iter().filter(|endpoint| pinned(&endpoint.network).is_some()).map(|endpoint| {
            let pin = network::Pin {
                port: Some(endpoint.host_name.clone()),
                mac: decide::parse_mac(&endpoint.mac).ok(),
                addresses: endpoint.addresses.clone(),
            };
            (endpoint.host_name.clone(), pin)
        });
        let bridge = network.and_then(pinned).map(|net| self.bridges.pin(&net.kernel));
        ports.chain(bridge).collect()
    }

    fn unpin(&self, names: &[String]) {
        self.change_pins(&[], names);
    }

    /// A kernel that cannot do it keeps nobody from a network: doctor tells.
    fn change_pins(&self, add: &[(String, network::Pin)], remove: &[String]) {
        if let Err(error) = self.firewall.pin(add, remove) {
            tracing::warn!(%error, "containers may claim each other's addresses");
        }
    }

    fn file(&self, id: ContainerId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// Writes what a container has. Not synced: it need not outlive the boot.
    fn write_file(&self, id: ContainerId, running: &Running) -> Result<()> {
        let path = self.file(id);
        let failed = |e: std::io::Error| Error::internal(format_args!("write {}", path.display()), e);
        let text = serde_json::to_vec(running).map_err(|e| Error::internal("encode a container's endpoints", e))?;
        let new = path.with_extension("new");
        std::fs::write(&new, text).map_err(failed)?;
        std::fs::rename(&new, &path).map_err(failed)
    }

    fn remove_file(&self, id: ContainerId) {
        let path = self.file(id);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove");
        }
    }
}

fn subnets(state: &State) -> Vec<Subnet> {
    subnets_but(state, "")
}

fn subnets_but(state: &State, but: &str) -> Vec<Subnet> {
    let others = state.networks.iter().filter(|(id, _)| *id != but);
    others.flat_map(|(_, net)| net.record.pools.iter().map(|pool| pool.subnet)).chain(state.pods.subnets()).collect()
}

impl State {
    /// By full id, name, or unique prefix of an id, in that order.
    fn find(&self, reference: &str) -> Result<(String, &Net)> {
        let missing = || Error::NoSuchNetwork(reference.to_owned());
        if let Some((id, net)) = self.networks.get_key_value(reference) {
            return Ok((id.clone(), net));
        }
        if let Some((id, net)) = self.networks.iter().find(|(_, net)| net.record.name == reference) {
            return Ok((id.clone(), net));
        }
        if reference.is_empty() {
            return Err(missing());
        }
        let mut matching = self.networks.iter().filter(|(id, _)| id.starts_with(reference));
        match (matching.next(), matching.next()) {
            (Some((id, net)), None) => Ok((id.clone(), net)),
            (Some(_), Some(_)) => Err(Error::Invalid(format!(
                "network {reference} is ambiguous ({} matches found on ID prefix)",
                self.networks.keys().filter(|id| id.starts_with(reference)).count()
            ))),
            (None, _) => Err(missing()),
        }
    }
}
