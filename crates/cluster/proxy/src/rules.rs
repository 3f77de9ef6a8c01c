//! All services of the cluster as one table, and what changes in it with one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cache::Key;
use linux::netlink::nft::{Chain, Change, Family, Field, Set, Table, Value};

use crate::frame::{self, Frame, HAIRPIN};
use crate::model::Service;
use crate::render::{Rendered, render};

/// An address, a protocol's number and a port.
type Claim = (IpAddr, u8, u16);

/// Pure: what is done with the answers is `apply`'s.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    frame: Frame,
    rendered: BTreeMap<Key, Rendered>,
    /// Chains that services lead to. They stay: the next service with as many endpoints has the same.
    chains: BTreeMap<String, Chain>,
    /// A pod may be behind several services.
    hairpins: BTreeMap<(&'static str, Vec<Field>), u32>,
    /// Whose an address from outside is: of two services that claim one, the first has it.
    claims: BTreeMap<Claim, BTreeSet<Key>>,
    claimed: BTreeMap<Key, BTreeSet<Claim>>,
    datagrams: BTreeMap<(IpAddr, u16), BTreeSet<IpAddr>>,
}

/// Datagrams' destinations that lead elsewhere than before.
pub type Moved = BTreeSet<(IpAddr, u16)>;

impl Rules {
    pub fn new(frame: Frame) -> Self {
        Self { frame, ..Self::default() }
    }

    pub fn name(&self) -> &str {
        &self.frame.table
    }

    /// The whole table.
    pub fn table(&self) -> Table {
        let mut sets = frame::sets();
        let places: BTreeMap<String, usize> =
            sets.iter().enumerate().map(|(at, set): (usize, &Set)| (set.name.clone(), at)).collect();
        let all = self.rendered.values().flat_map(|rendered| &rendered.elements);
        let all = all.filter(|((set, _), _)| !HAIRPIN.contains(set));
        for ((set, key), value) in all {
            if let Some(at) = places.get(*set) {
                sets[*at].elements.push(Rendered::element(key, value));
            }
        }
        for (set, key) in self.hairpins.keys() {
            if let Some(at) = places.get(*set) {
                sets[*at].elements.push(Rendered::element(key, &Value::None));
            }
        }
        let mut chains = frame::chains(&self.frame);
        chains.extend(self.chains.values().cloned());
        Table { family: Family::Inet, name: self.frame.table.clone(), sets, chains }
    }

    pub fn change(&self) -> Change {
        Change::new(Family::Inet, &self.frame.table)
    }

    /// Makes a service what it is now, and adds to `change` what that means for the table. Answers the services that claim an
    /// address which became free, to be set again.
    pub fn set(
        &mut self,
        key: &Key,
        service: Option<&Service>,
        change: &mut Change,
        moved: &mut Moved,
    ) -> BTreeSet<Key> {
        let (service, freed) = self.claim(key, service);
        let new = service.as_ref().map(render).unwrap_or_default();
        let old = self.rendered.remove(key).unwrap_or_default();
        for pick in new.picks.difference(&old.picks) {
            self.chains.entry(pick.name()).or_insert_with(|| {
                let chain = pick.chain();
                change.new_chains.push(chain.clone());
                chain
            });
        }
        for (name, chain) in &new.chains {
            self.chains.entry(name.clone()).or_insert_with(|| {
                change.new_chains.push(chain.clone());
                chain.clone()
            });
        }
        for (place, before) in &old.elements {
            let after = new.elements.get(place);
            self.exchange(place, Some(before), after, change);
        }
        for (place, after) in new.elements.iter().filter(|(place, _)| !old.elements.contains_key(*place)) {
            self.exchange(place, None, Some(after), change);
        }
        for (place, to) in &old.datagrams {
            if new.datagrams.get(place) != Some(to) {
                moved.insert(*place);
                self.datagrams.remove(place);
            }
        }
        for (place, to) in &new.datagrams {
            if old.datagrams.get(place) != Some(to) {
                moved.insert(*place);
                self.datagrams.insert(*place, to.clone());
            }
        }
        if new != Rendered::default() {
            self.rendered.insert(key.clone(), new);
        }
        freed
    }

    fn exchange(
        &mut self,
        place: &(&'static str, Vec<Field>),
        before: Option<&Value>,
        after: Option<&Value>,
        change: &mut Change,
    ) {
        let (set, key) = place;
        if HAIRPIN.contains(set) {
            let count = self.hairpins.get(place).copied().unwrap_or(0);
            let now = count + u32::from(after.is_some()) - u32::from(before.is_some()).min(count);
            let element = Rendered::element(key, &Value::None);
            match (count, now) {
                (0, 0) => {}
                (0, _) => change.exchange(set, None, Some(&element)),
                (_, 0) => change.exchange(set, Some(&element), None),
                _ => {}
            }
            match now {
                0 => drop(self.hairpins.remove(place)),
                now => drop(self.hairpins.insert(place.clone(), now)),
            }
            return;
        }
        let element = |value: &Value| Rendered::element(key, value);
        change.exchange(set, before.map(element).as_ref(), after.map(element).as_ref());
    }

    /// The service without the addresses that another one has for the same ports; and the services to which what it lets go of
    /// falls.
    fn claim(&mut self, key: &Key, service: Option<&Service>) -> (Option<Service>, BTreeSet<Key>) {
        let mut freed = BTreeSet::new();
        for claim in self.claimed.remove(key).unwrap_or_default() {
            let Some(claimants) = self.claims.get_mut(&claim) else { continue };
            let was_first = claimants.first() == Some(key);
            claimants.remove(key);
            if was_first {
                freed.extend(claimants.first().cloned());
            }
            if claimants.is_empty() {
                self.claims.remove(&claim);
            }
        }
        let Some(service) = service else { return (None, freed) };
        let mut service = service.clone();
        let ports: Vec<(u8, u16)> = service.ports.iter().map(|port| (port.protocol as u8, port.port)).collect();
        let mut mine = |address: &IpAddr| {
            let mut mine = true;
            for (protocol, port) in &ports {
                let claim = (*address, *protocol, *port);
                self.claimed.entry(key.clone()).or_default().insert(claim);
                let claimants = self.claims.entry(claim).or_default();
                claimants.insert(key.clone());
                mine &= claimants.first() == Some(key);
            }
            // One that comes first now takes it from another.
            if mine {
                let others = ports.iter().filter_map(|(protocol, port)| self.claims.get(&(*address, *protocol, *port)));
                freed.extend(others.flatten().filter(|other| *other != key).cloned());
            }
            mine
        };
        service.external_ips.retain(&mut mine);
        service.balancer_ips.retain(&mut mine);
        (Some(service), freed)
    }

    /// Whether a datagram's connection leads where nothing leads any more. `moved` are the destinations in question.
    pub fn is_stale(&self, moved: &Moved, flow: &linux::netlink::conntrack::Flow) -> bool {
        let any = if flow.destination.0.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let place = [flow.destination, (any, flow.destination.1)].into_iter().find(|place| moved.contains(place));
        let Some(place) = place else { return false };
        match self.datagrams.get(&place) {
            Some(to) if !to.is_empty() => !to.contains(&flow.answers_from),
            // Nobody answers: what is still led somewhere goes.
            _ => flow.answers_from != flow.destination.0,
        }
    }

    /// All destinations of datagrams: what a start has to look through.
    pub fn all_datagrams(&self) -> Moved {
        self.datagrams.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use linux::netlink::nft::Protocol;

    use super::*;
    use crate::model::{Backend, ServicePort};

    fn backend(n: u16) -> Backend {
        let [high, low] = n.to_be_bytes();
        Backend {
            address: [10, 1, high, low].into(),
            port: 8080,
            local: true,
            ready: true,
            serving: true,
            terminating: false,
            for_zone: None,
            for_node: None,
            pod: format!("u{n}"),
        }
    }

    fn service(ip: [u8; 4], backends: impl IntoIterator<Item = u16>) -> Service {
        Service {
            cluster_ips: vec![ip.into()],
            ports: vec![ServicePort {
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
                backends: backends.into_iter().map(backend).collect(),
            }],
            ..Service::default()
        }
    }

    fn key(name: &str) -> Key {
        Key::new("d", name)
    }

    fn rules() -> Rules {
        Rules::new(Frame { table: "t".into(), pods: Vec::new(), services: Vec::new() })
    }

    fn set(rules: &mut Rules, name: &str, service: Option<&Service>) -> Change {
        let mut change = rules.change();
        rules.set(&key(name), service, &mut change, &mut Moved::new());
        change
    }

    fn counts(change: &Change) -> (usize, usize, usize) {
        let sum = |lists: &BTreeMap<String, Vec<linux::netlink::nft::Element>>| lists.values().map(Vec::len).sum();
        (change.new_chains.len(), sum(&change.remove), sum(&change.add))
    }

    #[test]
    fn a_change_of_one_endpoint_is_a_few_elements() {
        let mut rules = rules();
        assert_eq!(counts(&set(&mut rules, "a", Some(&service([10, 96, 0, 1], [1, 2])))), (1, 0, 6));
        assert_eq!(counts(&set(&mut rules, "b", Some(&service([10, 96, 0, 2], [3, 4])))), (0, 0, 6));
        let third = service([10, 96, 0, 1], [1, 2, 5]);
        assert_eq!(counts(&set(&mut rules, "a", Some(&third))), (1, 1, 3), "another chain, one endpoint, its hairpin");
        assert_eq!(counts(&set(&mut rules, "a", Some(&third))), (0, 0, 0));
        assert_eq!(counts(&set(&mut rules, "a", Some(&service([10, 96, 0, 1], [1, 2])))), (0, 3, 1));
        assert_eq!(counts(&set(&mut rules, "a", Some(&service([10, 96, 0, 1], [])))), (0, 5, 1), "refused from now on");
        assert_eq!(counts(&set(&mut rules, "a", None)), (0, 2, 0));
        assert_eq!(counts(&set(&mut rules, "b", None)), (0, 6, 0));
    }

    #[test]
    fn a_table_made_by_changes_is_the_table_made_at_once() {
        // A small generator with a fixed seed: every run sees the same services.
        let mut state = 7u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut stepwise = rules();
        let mut services: BTreeMap<String, Service> = BTreeMap::new();
        let mut kernel = stepwise.table();
        for _ in 0..300 {
            let name = format!("s{}", next(12));
            let wanted = (next(5) > 0).then(|| {
                let number = name[1..].parse::<u8>().unwrap();
                let mut made = service([10, 96, 0, number], (0..next(5)).map(|n| n as u16 + number as u16 % 3));
                if next(3) == 0 {
                    made.external_ips = vec![[192, 0, 2, next(3) as u8].into()];
                }
                made.affinity_secs = (next(4) == 0).then_some(60);
                made.external_local = next(3) == 0;
                made.ports[0].node_port = (next(2) == 0).then_some(30000 + u16::from(number));
                made
            });
            match &wanted {
                Some(wanted) => drop(services.insert(name.clone(), wanted.clone())),
                None => drop(services.remove(&name)),
            }
            let (mut change, mut moved) = (stepwise.change(), Moved::new());
            // Whoever has to let go does so in the same transaction.
            let again = stepwise.set(&key(&name), services.get(&name), &mut change, &mut moved);
            for other in again {
                stepwise.set(&other, services.get(&other.name), &mut change, &mut moved);
            }
            carry_out(&mut kernel, &change);
            assert_eq!(sorted(&kernel), sorted(&stepwise.table()));
        }
        let mut at_once = rules();
        for _ in 0..2 {
            for (name, service) in &services {
                set(&mut at_once, name, Some(service));
            }
        }
        let (mut one, mut other) = (sorted(&stepwise.table()), sorted(&at_once.table()));
        // Chains stay when nobody leads to them any more.
        one.1.clear();
        other.1.clear();
        assert_eq!(one, other);
    }

    type Shown = (BTreeMap<String, Vec<String>>, Vec<String>);

    fn sorted(table: &Table) -> Shown {
        let elements = |set: &Set| {
            let mut all: Vec<String> = set.elements.iter().map(|element| format!("{element:?}")).collect();
            all.sort();
            (set.name.clone(), all)
        };
        let mut chains: Vec<String> = table.chains.iter().map(|chain| chain.name.clone()).collect();
        chains.sort();
        (table.sets.iter().map(elements).collect(), chains)
    }

    /// As the kernel does it: what goes is there, what comes is not.
    fn carry_out(table: &mut Table, change: &Change) {
        for chain in &change.new_chains {
            assert!(!table.chains.iter().any(|have| have.name == chain.name), "{}", chain.name);
            table.chains.push(chain.clone());
        }
        for (name, elements) in &change.remove {
            let set = table.sets.iter_mut().find(|set| set.name == *name).unwrap();
            for element in elements {
                let at = set.elements.iter().position(|have| have == element);
                set.elements.remove(at.unwrap_or_else(|| panic!("{element:?} is not in {name}")));
            }
        }
        for (name, elements) in &change.add {
            let set = table.sets.iter_mut().find(|set| set.name == *name).unwrap();
            for element in elements {
                assert!(!set.elements.iter().any(|have| have.key == element.key), "{element:?} is in {name}");
                if let Value::Verdict(linux::netlink::nft::Verdict::Goto(chain)) = &element.value {
                    assert!(table.chains.iter().any(|have| have.name == *chain), "{chain}");
                }
                set.elements.push(element.clone());
            }
        }
    }

    #[test]
    fn of_two_that_claim_an_address_one_has_it_until_it_goes() {
        let mut rules = rules();
        let mut first = service([10, 96, 0, 1], [1]);
        first.external_ips = vec![[192, 0, 2, 1].into()];
        let second = Service { cluster_ips: vec![[10, 96, 0, 2].into()], ..first.clone() };
        let has = |rules: &Rules, name: &str| {
            rules.rendered[&key(name)]
                .elements
                .keys()
                .any(|(_, fields)| fields[0] == Field::Address([192, 0, 2, 1].into()))
        };
        set(&mut rules, "b", Some(&second));
        assert!(has(&rules, "b"));
        let mut change = rules.change();
        let again = rules.set(&key("a"), Some(&first), &mut change, &mut Moved::new());
        assert_eq!(again, BTreeSet::from([key("b")]));
        set(&mut rules, "b", Some(&second));
        assert_eq!((has(&rules, "a"), has(&rules, "b")), (true, false));
        let again = rules.set(&key("a"), None, &mut change, &mut Moved::new());
        assert_eq!(again, BTreeSet::from([key("b")]));
        set(&mut rules, "b", Some(&second));
        assert!(has(&rules, "b"));
    }

    #[test]
    fn datagrams_that_lead_to_who_is_gone_are_forgotten() {
        let mut rules = rules();
        let mut dns = service([10, 96, 0, 10], [1, 2]);
        dns.ports[0].protocol = Protocol::Udp;
        let mut moved = Moved::new();
        let mut change = rules.change();
        rules.set(&key("dns"), Some(&dns), &mut change, &mut moved);
        moved.clear();
        dns.ports[0].backends.remove(0);
        rules.set(&key("dns"), Some(&dns), &mut change, &mut moved);
        let flow = |answers: [u8; 4]| linux::netlink::conntrack::Flow {
            protocol: 17,
            source: IpAddr::from([10, 1, 9, 9]),
            destination: ([10, 96, 0, 10].into(), 80),
            answers_from: answers.into(),
            is_open: false,
            is_asking: false,
        };
        let stale = |answers| rules.is_stale(&moved, &flow(answers));
        assert!(stale([10, 1, 0, 1]) && !stale([10, 1, 0, 2]) && stale([10, 96, 0, 10]));
        assert!(!rules.is_stale(&Moved::new(), &flow([10, 1, 0, 1])), "nothing moved");
    }
}
