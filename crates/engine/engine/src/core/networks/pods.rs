//! The network of pods: namespaces that somebody else holds by files get an interface, an address and published ports.
//!
//! It is no network that containers join: it has no record and no name. What it is and who is on it stands in small files under
//! `<run>/podnet/`, written before anything is made, so that the next engine neither gives an address twice nor leaves a wire
//! behind. Who is on it is alive as long as the namespace's file is a namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use network::{Bridges, Driver, Ipam, Network, NetworkError, Plug, PodModel, PublishedPort, Subnet, names};
use serde::{Deserialize, Serialize};
use vocab::ErrorKind;

use super::Networks;
use super::adopt::binding_of;
use crate::core::Inner;
use crate::core::open::names_in;
use crate::{Error, Result};

/// Its name among the kernel's networks.
const ID: &str = "pods";
/// The file that says what the network is; pods' own are named by their uids.
const FILE: &str = "network";
/// As every pod's is named.
const INTERFACE: &str = "eth0";

/// What a node's network of pods is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetwork {
    /// This node's part, one of each family.
    pub subnets: Vec<Subnet>,
    /// All nodes' parts: traffic to there keeps its source address.
    pub cluster: Vec<Subnet>,
    /// Bytes; `None` leaves the kernel's.
    pub mtu: Option<u32>,
}

/// A pod that is to be on it.
#[derive(Debug, Clone)]
pub struct PodPlug {
    /// A plain file name.
    pub uid: String,
    /// The file that holds its network namespace.
    pub netns: PathBuf,
    pub ports: Vec<PublishedPort>,
    /// What it may send and receive, in bytes a second.
    pub send_limit: Option<u64>,
    pub receive_limit: Option<u64>,
}

/// A pod's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    netns: PathBuf,
    host_name: String,
    addresses: Vec<IpAddr>,
    #[serde(default)]
    ports: Vec<PublishedPort>,
}

#[derive(Debug, Default)]
pub(super) struct Pods {
    network: Option<(PodNetwork, Network)>,
    ipams: Vec<Ipam>,
    places: BTreeMap<String, Place>,
}

impl Pods {
    /// Its part of the rules.
    pub(super) fn network(&self) -> Option<&Network> {
        self.network.as_ref().map(|(_, kernel)| kernel)
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = network::Endpoint> + '_ {
        self.places.iter().filter(|(_, place)| !place.ports.is_empty()).map(|(uid, place)| network::Endpoint {
            network: ID.into(),
            container: uid.clone(),
            addresses: place.addresses.clone(),
            ports: place.ports.clone(),
        })
    }

    /// Links that are meant to be there.
    pub(super) fn links(&self) -> impl Iterator<Item = &str> {
        let wires = self.places.values().map(|place| place.host_name.as_str());
        wires.chain(self.network().map(|network| network.bridge.as_str()))
    }

    pub(super) fn subnets(&self) -> impl Iterator<Item = Subnet> + '_ {
        self.network.iter().flat_map(|(asked, _)| asked.subnets.iter().chain(&asked.cluster).copied())
    }

    fn set(&mut self, asked: PodNetwork, tag: &str) -> Result<()> {
        let kernel = kernel_network(&asked, tag)?;
        self.ipams = kernel.subnets.iter().map(|(subnet, gateway)| Ipam::new(*subnet, None, [*gateway])).collect();
        for address in self.places.values().flat_map(|place| &place.addresses) {
            take(&mut self.ipams, *address);
        }
        self.network = Some((asked, kernel));
        Ok(())
    }
}

fn take(ipams: &mut [Ipam], address: IpAddr) {
    for ipam in ipams.iter_mut().filter(|ipam| ipam.subnet().contains(address)) {
        // Given once: nobody else has it.
        let _ = ipam.take(address);
    }
}

fn release(ipams: &mut [Ipam], addresses: &[IpAddr]) {
    for address in addresses {
        ipams.iter_mut().for_each(|ipam| ipam.release(*address));
    }
}

/// Pure.
fn kernel_network(asked: &PodNetwork, tag: &str) -> Result<Network> {
    let with_gateway = |subnet: &Subnet| {
        let gateway = subnet.nth(1).filter(|gateway| subnet.is_host(*gateway) && subnet.size() >= 8);
        gateway
            .map(|gateway| (*subnet, gateway))
            .ok_or_else(|| Error::Invalid(format!("{subnet} is too small for pods")))
    };
    let subnets = asked.subnets.iter().map(with_gateway).collect::<Result<Vec<_>>>()?;
    let of = |ipv4: bool| subnets.iter().filter(|(subnet, _)| subnet.is_ipv4() == ipv4).count();
    if subnets.is_empty() || of(true) > 1 || of(false) > 1 {
        return Err(Error::Invalid("pods need one subnet, or one of each family".into()));
    }
    Ok(Network {
        id: ID.into(),
        driver: Driver::Bridge,
        bridge: names::pod_bridge(tag),
        subnets,
        internal: false,
        between_containers: true,
        masquerade: true,
        mtu: asked.mtu,
        pods: Some(PodModel { cluster: asked.cluster.clone() }),
    })
}

fn is_plain(uid: &str) -> bool {
    !uid.is_empty() && uid != FILE && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// A namespace is mounted there.
fn is_held(netns: &Path) -> bool {
    linux::ns::open(netns).is_ok_and(|fd| linux::ns::kind(fd).is_ok_and(|kind| kind == linux::ns::Namespaces::NET))
}

impl Networks {
    fn pod_file(&self, name: &str) -> PathBuf {
        self.pod_dir.join(name)
    }

    fn write_pod_file(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.pod_file(name);
        let failed = |e: std::io::Error| Error::internal(format_args!("write {}", path.display()), e);
        std::fs::create_dir_all(&self.pod_dir).map_err(failed)?;
        let text = serde_json::to_vec(value).map_err(|e| Error::internal("encode a pod's endpoint", e))?;
        let new = path.with_extension("new");
        std::fs::write(&new, text).map_err(failed)?;
        std::fs::rename(&new, &path).map_err(failed)
    }

    fn remove_pod_file(&self, name: &str) {
        let path = self.pod_file(name);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove");
        }
    }

    /// Reads what the last engine left: the network, and the pods whose namespaces are still held.
    pub(super) fn read_pods(&self) -> Pods {
        let mut pods = Pods::default();
        let read = |name: &str| std::fs::read(self.pod_file(name)).unwrap_or_default();
        for file in names_in(&self.pod_dir).into_iter().filter(|file| file != FILE) {
            match serde_json::from_slice::<Place>(&read(&file)) {
                Ok(place) if is_plain(&file) && is_held(&place.netns) => {
                    self.hold_again(&file, &place.ports);
                    pods.places.insert(file, place);
                }
                _ => self.remove_pod_file(&file),
            }
        }
        if let Ok(asked) = serde_json::from_slice::<PodNetwork>(&read(FILE))
            && let Err(error) = pods.set(asked, self.bridges.tag())
        {
            tracing::warn!(%error, "what pods had is not understood");
        }
        pods
    }

    fn hold_again(&self, uid: &str, ports: &[PublishedPort]) {
        for port in ports {
            // Its traffic goes to the pod all the same.
            if let Err(error) = self.ports.hold(&binding_of(port)) {
                tracing::warn!(pod = uid, %error, "a published port was taken while no engine held it");
            }
        }
    }

    /// Takes the network of pods away, if nobody is on it.
    pub(super) fn rest_pods(&self, pods: &mut Pods) -> Result<()> {
        if !pods.places.is_empty() {
            return Ok(());
        }
        let Some((_, kernel)) = pods.network.take() else { return Ok(()) };
        self.remove_pod_file(FILE);
        pods.ipams.clear();
        Ok(self.bridges.remove_network(&kernel, 1)?)
    }

    /// What is wrong with pods' places, as `place`, problem, remedy.
    pub(super) fn look_at_pods(
        &self,
        pods: &Pods,
        links: &std::collections::BTreeSet<String>,
        mut add: impl FnMut(String, &str, &str),
    ) {
        for (uid, place) in &pods.places {
            if !links.contains(&place.host_name) {
                let at = format!("{} of pod {uid}", place.host_name);
                add(at, "the host's end of an interface is missing", "delete the pod");
            } else if !is_held(&place.netns) {
                add(uid.clone(), "a pod that is gone has an address", "restart the engine: it takes it back");
            }
        }
        if let Some(network) = pods.network()
            && !links.contains(&network.bridge)
        {
            add(network.bridge.clone(), "the bridge of pods is missing", "restart the cloud");
        }
        for file in names_in(&self.pod_dir) {
            if file != FILE && !pods.places.contains_key(&file) {
                let at = self.pod_file(&file).display().to_string();
                add(at, "an address without a pod", "restart the engine: it removes it");
            }
        }
    }
}

/// All of it blocks.
impl Inner {
    /// Makes the network, or makes sure that it is this one. Another one is refused while pods are on it.
    pub(crate) fn pod_network(&self, asked: PodNetwork) -> Result<()> {
        let networks = &self.networks;
        let mut state = networks.state();
        let now = state.pods.network.as_ref().map(|(now, _)| now);
        if now != Some(&asked) {
            let moved = now.is_none_or(|now| now.subnets != asked.subnets);
            if moved && !state.pods.places.is_empty() {
                return Err(Error::Conflict(format!(
                    "{} pods have addresses of another subnet; the node's subnet can change when they have ended",
                    state.pods.places.len()
                )));
            }
            let kernel = kernel_network(&asked, networks.bridges.tag())?;
            if moved {
                if let Some((_, old)) = state.pods.network.take() {
                    networks.bridges.remove_network(&old, 1)?;
                }
                let _choosing = networks.bridges.choosing()?;
                check_free(&networks.bridges, &kernel)?;
                networks.write_pod_file(FILE, &asked)?;
                vocab::crash::point("engine.pods.before_bridge");
                networks.bridges.add_network(&kernel)?;
            }
            networks.write_pod_file(FILE, &asked)?;
            state.pods.set(asked, networks.bridges.tag())?;
        } else if let Some(kernel) = state.pods.network() {
            networks.bridges.add_network(kernel)?;
        }
        networks.apply(&state)
    }

    /// Gives a pod its interface and ports; its addresses. A pod that is on the network already has what it got.
    pub(crate) fn pod_plug(&self, asked: &PodPlug) -> Result<Vec<IpAddr>> {
        let networks = &self.networks;
        if !is_plain(&asked.uid) {
            return Err(Error::Invalid(format!("{:?} is no name for a pod", asked.uid)));
        }
        let netns = linux::ns::open(&asked.netns)?;
        let (place, kernel) = {
            let mut state = networks.state();
            if let Some(place) = state.pods.places.get(&asked.uid) {
                return Ok(place.addresses.clone());
            }
            let missing = || Error::Other {
                what: "pods".into(),
                kind: ErrorKind::Unavailable,
                message: "this node has no subnet for them yet".into(),
            };
            let kernel = state.pods.network().cloned().ok_or_else(missing)?;
            let place = self.pod_place(&mut state.pods, asked)?;
            vocab::crash::point("engine.pods.before_reserve");
            if let Err(error) = networks.write_pod_file(&asked.uid, &place) {
                self.give_back_place(&mut state.pods, &place);
                return Err(error);
            }
            state.pods.places.insert(asked.uid.clone(), place.clone());
            (place, kernel)
        };
        vocab::crash::point("engine.pods.after_reserve");
        let plug = Plug {
            network: &kernel,
            host_name: &place.host_name,
            name: INTERFACE,
            addresses: &place.addresses,
            mac: None,
            segment: 0,
            default_route: true,
            send_limit: asked.send_limit,
            receive_limit: asked.receive_limit,
        };
        let mut wired = networks.bridges.plug(&netns, &plug).map_err(Error::from);
        vocab::crash::point("engine.pods.after_wire");
        if wired.is_ok() && !place.ports.is_empty() {
            wired = networks.apply(&networks.state());
        }
        if let Err(error) = wired {
            let _ = networks.bridges.remove_links(&[&place.host_name]);
            let mut state = networks.state();
            state.pods.places.remove(&asked.uid);
            self.give_back_place(&mut state.pods, &place);
            networks.remove_pod_file(&asked.uid);
            return Err(error);
        }
        Ok(place.addresses)
    }

    fn pod_place(&self, pods: &mut Pods, asked: &PodPlug) -> Result<Place> {
        let failed = |error: NetworkError| Error::Other {
            what: "failed to set up pod networking".into(),
            kind: error.kind(),
            message: error.to_string(),
        };
        let number = u64::from_le_bytes(self.random_bytes());
        let host_name = names::pod_wire(self.networks.bridges.tag(), number);
        let mut place = Place { netns: asked.netns.clone(), host_name, addresses: Vec::new(), ports: Vec::new() };
        let filled = (0..pods.ipams.len()).try_for_each(|at| {
            place.addresses.push(pods.ipams[at].allocate()?);
            Ok(())
        });
        let filled = filled.and_then(|()| {
            for wanted in &asked.ports {
                if place.addresses.iter().any(|address| address.is_ipv4() == wanted.host_address.is_ipv4()) {
                    place.ports.push(self.networks.ports.hold(&binding_of(wanted))?);
                }
            }
            Ok(())
        });
        match filled {
            Ok(()) => Ok(place),
            Err(error) => {
                self.give_back_place(pods, &place);
                Err(failed(error))
            }
        }
    }

    fn give_back_place(&self, pods: &mut Pods, place: &Place) {
        place.ports.iter().for_each(|port| self.networks.ports.release(port));
        release(&mut pods.ipams, &place.addresses);
    }

    /// Gives everything back that a pod had; its namespace must not be held any more. No error where it had nothing.
    pub(crate) fn pod_unplug(self: &Arc<Self>, uid: &str) {
        let networks = &self.networks;
        let place = {
            let mut state = networks.state();
            let Some(place) = state.pods.places.remove(uid) else { return };
            state.dying.push(place.host_name.clone());
            if !place.ports.is_empty()
                && let Err(error) = networks.apply(&state)
            {
                tracing::warn!(pod = uid, %error, "its published ports stay until the next change");
            }
            self.give_back_place(&mut state.pods, &place);
            place
        };
        vocab::crash::point("engine.pods.before_release");
        networks.remove_pod_file(uid);
        if place.ports.iter().any(|port| port.protocol == network::Protocol::Udp)
            && let Err(error) = networks.firewall.forget_connections(&place.addresses)
        {
            tracing::warn!(pod = uid, %error, "clients of its UDP ports may still be sent to it");
        }
        self.bury_links(Duration::from_millis(500));
    }

    pub(crate) fn pods_plugged(&self) -> Vec<String> {
        self.networks.state().pods.places.keys().cloned().collect()
    }
}

/// Nobody else on this machine has these addresses. A bridge of ours that is there has them rightly.
fn check_free(bridges: &Bridges, kernel: &Network) -> Result<()> {
    if bridges.links()?.contains(&kernel.bridge) {
        return Ok(());
    }
    let taken = bridges.taken()?;
    let clash = kernel.subnets.iter().find_map(|(subnet, _)| {
        taken.iter().find(|other| other.prefix() > 0 && other.overlaps(subnet)).map(|other| (subnet, other))
    });
    match clash {
        None => Ok(()),
        Some((subnet, other)) => Err(Error::Conflict(format!(
            "the pods' subnet {subnet} overlaps with {other}, which this machine uses already"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_pods_has_one_subnet_of_each_family_at_most() {
        let check = |subnets: &[&str]| {
            let subnets = subnets.iter().map(|text| text.parse().unwrap()).collect();
            let asked = PodNetwork { subnets, ..PodNetwork::default() };
            kernel_network(&asked, "0123abcd").map(|network| {
                network.subnets.iter().map(|(_, gateway)| gateway.to_string()).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(check(&["10.42.0.0/22"]).unwrap(), "10.42.0.1");
        assert_eq!(check(&["10.42.4.0/22", "fd00:1::/64"]).unwrap(), "10.42.4.1 fd00:1::1");
        for bad in [&[][..], &["10.42.0.0/31"], &["10.42.0.0/24", "10.42.1.0/24"]] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_uid_is_a_file_name_and_no_path() {
        for (uid, expected) in
            [("d8c0-1f", true), ("", false), ("..", false), ("a/b", false), ("network", false), ("a.new", false)]
        {
            assert_eq!(is_plain(uid), expected, "{uid}");
        }
    }
}
