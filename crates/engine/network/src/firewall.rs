//! Puts the instance's one table in place: whole the first time, and from then on only what differs. Notices when somebody
//! else took something out of it, as `nft flush ruleset` does, and puts it back (NW-03).

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard};

use linux::netlink::Socket;
use linux::netlink::nft::{Element, Family, Set, Table};
use linux::netlink::watch::RulesetWatch;

use crate::pins::{Pin, Pins};
use crate::{Endpoint, Network, NetworkError, rules};

/// The rules of one instance.
#[derive(Debug)]
pub struct Firewall {
    tag: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    socket: Option<Socket>,
    /// What the kernel has, as far as we did it.
    applied: Option<Table>,
    /// The bridges' table, in memory.
    pins: Pins,
    /// The kernel has it, as far as we did it.
    pinned: bool,
}

impl State {
    fn socket(&mut self) -> Result<&mut Socket, NetworkError> {
        match &mut self.socket {
            Some(socket) => Ok(socket),
            none => Ok(none.insert(Socket::netfilter()?)),
        }
    }
}

impl Firewall {
    pub fn new(tag: &str) -> Self {
        Self { tag: tag.to_owned(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes the rules those of these networks and endpoints, in one transaction: no packet sees a state in between.
    pub fn apply(&self, networks: &[Network], endpoints: &[Endpoint]) -> Result<(), NetworkError> {
        let wanted = rules::table(&self.tag, networks, endpoints);
        let mut state = self.state();
        if let Some(applied) = &state.applied
            && let Some((remove, add)) = difference(applied, &wanted)
        {
            if remove.is_empty() && add.is_empty() {
                return Ok(());
            }
            let (remove, add) = (by_name(&remove), by_name(&add));
            match state.socket()?.update_elements(wanted.family, &wanted.name, &remove, &add) {
                Ok(()) => {
                    state.applied = Some(wanted);
                    return Ok(());
                }
                // Somebody has changed it: what we think is there is not.
                Err(_) => state.applied = None,
            }
        }
        state.socket()?.replace_table(&wanted)?;
        state.applied = Some(wanted);
        Ok(())
    }

    /// Puts the table back as it was last applied, if it ever was.
    pub fn repair(&self) -> Result<(), NetworkError> {
        let mut state = self.state();
        if !state.pins.is_empty() {
            let pins = state.pins.table(&self.tag);
            state.socket()?.replace_table(&pins)?;
        }
        let Some(applied) = state.applied.clone() else { return Ok(()) };
        Ok(state.socket()?.replace_table(&applied)?)
    }

    /// Makes these addresses the ports' and bridges' own, in place of what had these names, and those of others nobody's.
    pub fn pin(&self, add: &[(String, Pin)], remove: &[String]) -> Result<(), NetworkError> {
        let mut state = self.state();
        let [gone, new] = state.pins.change(add, remove);
        if state.pins.is_empty() {
            return match std::mem::take(&mut state.pinned) {
                true => Ok(state.socket()?.remove_table(Family::Bridge, &rules::table_name(&self.tag))?),
                false => Ok(()),
            };
        }
        if state.pinned {
            let lists = [gone, new].map(|list| list.into_iter().collect::<Vec<_>>());
            let [gone, new] = &lists;
            match state.socket()?.update_elements(Family::Bridge, &rules::table_name(&self.tag), gone, new) {
                Ok(()) => return Ok(()),
                // Somebody has changed it: what we think is there is not.
                Err(_) => state.pinned = false,
            }
        }
        let table = state.pins.table(&self.tag);
        state.socket()?.replace_table(&table)?;
        state.pinned = true;
        Ok(())
    }

    /// Whether the instance's tables are there: that of the bridges only where addresses are pinned.
    pub fn is_there(&self) -> Result<bool, NetworkError> {
        let mut state = self.state();
        let name = rules::table_name(&self.tag);
        if state.pinned && !state.socket()?.has_table(Family::Bridge, &name)? {
            return Ok(false);
        }
        Ok(state.socket()?.has_table(Family::Inet, &name)?)
    }

    /// Whether rules are meant to be there.
    pub fn is_applied(&self) -> bool {
        self.state().applied.is_some()
    }

    pub fn remove(&self) -> Result<(), NetworkError> {
        let mut state = self.state();
        state.applied = None;
        let name = rules::table_name(&self.tag);
        for family in [Family::Inet, Family::Bridge] {
            if state.socket()?.has_table(family, &name)? {
                state.socket()?.remove_table(family, &name)?;
            }
        }
        state.pinned = false;
        Ok(())
    }

    /// Whether the kernel keeps addresses to their ports.
    pub fn is_pinned(&self) -> bool {
        let state = self.state();
        state.pinned || state.pins.is_empty()
    }

    /// Forgets the connections of addresses that are nobody's any more: what they were translated to is gone.
    pub fn forget_connections(&self, addresses: &[std::net::IpAddr]) -> Result<(), NetworkError> {
        Ok(Socket::netfilter()?.forget_connections(addresses)?)
    }

    /// What hears of changes. Its descriptor is readable when there is news.
    pub fn guard(&self) -> Result<Guard, NetworkError> {
        Ok(Guard(RulesetWatch::new()?))
    }
}

/// Hears of changes to the ruleset.
pub struct Guard(RulesetWatch);

impl Guard {
    /// Reads the news. Whether somebody else took something out of our table.
    pub fn lost(&mut self, firewall: &Firewall) -> Result<bool, NetworkError> {
        let own = match &firewall.state().socket {
            Some(socket) => socket.port()?,
            None => 0,
        };
        Ok(self.0.lost(&rules::table_name(&firewall.tag), own)?)
    }
}

impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

type Changes = BTreeMap<String, Vec<Element>>;

fn by_name(changes: &Changes) -> Vec<(&str, Vec<Element>)> {
    changes.iter().map(|(name, elements)| (name.as_str(), elements.clone())).collect()
}

/// What to remove and what to add so that `old` becomes `new`; `None` if more than elements differs.
fn difference(old: &Table, new: &Table) -> Option<(Changes, Changes)> {
    let frame = |set: &Set| Set { elements: Vec::new(), ..set.clone() };
    let same_frame = old.chains == new.chains
        && old.sets.len() == new.sets.len()
        && old.sets.iter().zip(&new.sets).all(|(one, other)| frame(one) == frame(other));
    if !same_frame {
        return None;
    }
    let (mut remove, mut add) = (Changes::new(), Changes::new());
    for (old, new) in old.sets.iter().zip(&new.sets) {
        let keyed = |set: &Set| -> BTreeMap<_, _> {
            set.elements.iter().map(|element| (element.key.clone(), element.clone())).collect()
        };
        let (before, after) = (keyed(old), keyed(new));
        for (key, element) in &before {
            if after.get(key) != Some(element) {
                remove.entry(old.name.clone()).or_default().push(element.clone());
            }
        }
        for (key, element) in &after {
            if before.get(key) != Some(element) {
                add.entry(new.name.clone()).or_default().push(element.clone());
            }
        }
    }
    Some((remove, add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Driver, Protocol, PublishedPort};

    fn network(id: &str) -> Network {
        let subnet: crate::Subnet = "10.0.0.0/24".parse().unwrap();
        Network {
            id: id.into(),
            driver: Driver::Bridge,
            bridge: format!("k{id}"),
            subnets: vec![(subnet, subnet.nth(1).unwrap())],
            internal: false,
            between_containers: true,
            masquerade: true,
            mtu: None,
            pods: None,
        }
    }

    fn endpoint(address: &str, host_port: u16) -> Endpoint {
        let port =
            PublishedPort { protocol: Protocol::Tcp, container_port: 80, host_address: [0, 0, 0, 0].into(), host_port };
        Endpoint {
            network: "a".into(),
            container: "c".into(),
            addresses: vec![address.parse().unwrap()],
            ports: vec![port],
        }
    }

    #[test]
    fn a_port_changes_elements_and_a_network_the_table() {
        let networks = [network("a")];
        let table = |endpoints: &[Endpoint]| rules::table("t", &networks, endpoints);
        let one = table(&[endpoint("10.0.0.2", 8080)]);
        let counts = |changes: Option<(Changes, Changes)>| {
            let count = |changes: &Changes| changes.values().map(Vec::len).sum::<usize>();
            changes.map(|(remove, add)| (count(&remove), count(&add)))
        };
        assert_eq!(counts(difference(&one, &one)), Some((0, 0)));
        let two = table(&[endpoint("10.0.0.2", 8080), endpoint("10.0.0.3", 8081)]);
        assert_eq!(counts(difference(&one, &two)), Some((0, 1)));
        assert_eq!(counts(difference(&two, &one)), Some((1, 0)));
        let moved = table(&[endpoint("10.0.0.9", 8080)]);
        assert_eq!(counts(difference(&one, &moved)), Some((1, 1)), "the same port leads elsewhere");
        let more = rules::table("t", &[network("a"), network("b")], &[]);
        assert_eq!(counts(difference(&one, &more)), None);
    }
}
