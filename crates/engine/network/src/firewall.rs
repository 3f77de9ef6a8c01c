//! Puts the instance's one table in place: whole the first time, and from then on only what differs. Notices when somebody
//! else took something out of it, as `nft flush ruleset` does, and puts it back (NW-03). Where published ports are to obey the
//! host's filters at `input`, reads those and has what [`input`] makes of them in the same table.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard};

use linux::netlink::Socket;
use linux::netlink::nft::{Element, Family, ForeignTable, HookPoint, Set, Table};
use linux::netlink::watch::{News, RulesetWatch};

use crate::input::{self, Obeyed, Reject};
use crate::pins::{Pin, Pins};
use crate::{Endpoint, Network, NetworkError, PublishedPorts, rules};

/// The rules of one instance.
#[derive(Debug)]
pub struct Firewall {
    tag: String,
    ports: PublishedPorts,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    socket: Option<Socket>,
    /// What the kernel has, as far as we did it.
    applied: Option<Vec<Table>>,
    /// The first without what obeys others.
    own: Option<Table>,
    followed: Followed,
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

/// What published ports obey.
#[derive(Debug, Default)]
struct Followed {
    /// As read last, and what was first made of it.
    asked: Option<Result<Obeyed, String>>,
    /// What was read.
    tables: Vec<ForeignTable>,
    refuses: bool,
    /// What the table has.
    obeyed: Obeyed,
    /// Why it has something lesser than was asked for.
    problem: Option<String>,
}

impl Followed {
    fn new(read: Result<Vec<ForeignTable>, String>) -> Self {
        let (tables, asked) = match read {
            Ok(tables) => {
                let asked = input::obey(&tables, Reject::Copied).map_err(|refusal| refusal.to_string());
                (tables, asked)
            }
            Err(error) => (Vec::new(), Err(error)),
        };
        let (obeyed, problem) = match &asked {
            Ok(obeyed) => (obeyed.clone(), None),
            Err(problem) => (input::closed(), Some(problem.clone())),
        };
        Self { asked: Some(asked), tables, refuses: true, obeyed, problem }
    }

    /// The next lesser thing after the kernel refused the last; false if there is none.
    fn yields(&mut self, error: &linux::Error) -> bool {
        if self.problem.is_some() || self.obeyed.is_empty() {
            return false;
        }
        let dropping = input::obey(&self.tables, Reject::Dropped).ok();
        match dropping.filter(|dropping| std::mem::take(&mut self.refuses) && *dropping != self.obeyed) {
            Some(dropping) => self.obeyed = dropping,
            None => (self.obeyed, self.problem) = (input::closed(), Some(error.to_string())),
        }
        true
    }
}

/// Tables of other people: engines' own say nothing of the host's ports.
fn is_foreign(name: &str) -> bool {
    !name.starts_with("knarr-")
}

impl Firewall {
    pub fn new(tag: &str) -> Self {
        Self::with(tag, PublishedPorts::default())
    }

    pub fn with(tag: &str, ports: PublishedPorts) -> Self {
        Self { tag: tag.to_owned(), ports, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes the rules those of these networks and endpoints, in one transaction: no packet sees a state in between.
    pub fn apply(&self, networks: &[Network], endpoints: &[Endpoint]) -> Result<(), NetworkError> {
        let own = rules::table(&self.tag, networks, endpoints);
        let mut state = self.state();
        if state.applied.is_none() {
            state.followed = self.read(&mut state);
        }
        put(&mut state, own)
    }

    fn read(&self, state: &mut State) -> Followed {
        if self.ports == PublishedPorts::BypassInput {
            return Followed::default();
        }
        let read = state.socket().and_then(|socket| Ok(socket.foreign_tables(HookPoint::Input, &is_foreign)?));
        Followed::new(read.map_err(|error| error.to_string()))
    }

    /// Looks whether others have changed what published ports obey, and obeys it.
    pub fn follow(&self) -> Result<(), NetworkError> {
        let mut state = self.state();
        let Some(own) = state.own.clone().filter(|_| self.ports == PublishedPorts::ObeyInput) else { return Ok(()) };
        let followed = self.read(&mut state);
        if followed.asked == state.followed.asked {
            return Ok(());
        }
        state.followed = followed;
        put(&mut state, own)
    }

    /// Why published ports are closed: a filter at `input` that cannot be followed.
    pub fn closed_for(&self) -> Option<String> {
        let state = self.state();
        state.followed.problem.clone().filter(|_| state.applied.is_some())
    }

    /// Puts the table back as it was last applied, if it ever was.
    pub fn repair(&self) -> Result<(), NetworkError> {
        let mut state = self.state();
        if !state.pins.is_empty() {
            let pins = state.pins.table(&self.tag);
            state.socket()?.replace_table(&pins)?;
        }
        let Some(own) = state.own.clone() else { return Ok(()) };
        state.applied = None;
        state.followed = self.read(&mut state);
        put(&mut state, own)
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
        let families = state.applied.iter().flatten().map(|table| table.family);
        let families: Vec<Family> = families.chain([Family::Inet]).collect();
        for family in families {
            if !state.socket()?.has_table(family, &name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether rules are meant to be there.
    pub fn is_applied(&self) -> bool {
        self.state().own.is_some()
    }

    pub fn remove(&self) -> Result<(), NetworkError> {
        let mut state = self.state();
        (state.applied, state.own) = (None, None);
        let name = rules::table_name(&self.tag);
        for family in [Family::Inet, Family::Ip, Family::Ip6, Family::Bridge] {
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

/// What others have done to the ruleset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Something was taken out of our table.
    pub lost: bool,
    /// Published ports may have to obey something else.
    pub others: bool,
}

impl Guard {
    /// Reads the news.
    pub fn hear(&mut self, firewall: &Firewall) -> Result<Heard, NetworkError> {
        let own = match &firewall.state().socket {
            Some(socket) => socket.port()?,
            None => 0,
        };
        let obeys = firewall.ports == PublishedPorts::ObeyInput;
        let other = |name: &str| obeys && is_foreign(name);
        let (news, others) = self.0.news_and_others(&rules::table_name(&firewall.tag), own, &other)?;
        Ok(Heard { lost: news != News::Nothing, others: others && obeys })
    }
}

impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes the table `own` with what is followed. A ruleset that the kernel does not let us say again closes published ports.
fn put(state: &mut State, own: Table) -> Result<(), NetworkError> {
    loop {
        let wanted = state.followed.obeyed.tables(&own);
        // Somebody may have changed it: then what we think is there is not.
        let changed = match state.applied.take().and_then(|applied| differences(&applied, &wanted)) {
            Some(changes) => update(state.socket()?, &own.name, &changes).is_ok(),
            None => false,
        };
        match if changed { Ok(()) } else { replace(state.socket()?, &own.name, &wanted) } {
            Ok(()) => {
                (state.applied, state.own) = (Some(wanted), Some(own));
                return Ok(());
            }
            Err(error) if state.followed.yields(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn update(socket: &mut Socket, name: &str, changes: &[(Family, (Changes, Changes))]) -> linux::Result<()> {
    let named: Vec<_> =
        changes.iter().map(|(family, (remove, add))| (*family, by_name(remove), by_name(add))).collect();
    let borrowed: Vec<_> =
        named.iter().map(|(family, remove, add)| (*family, remove.as_slice(), add.as_slice())).collect();
    socket.update_tables(name, &borrowed)
}

fn replace(socket: &mut Socket, name: &str, tables: &[Table]) -> linux::Result<()> {
    let mut gone = Vec::new();
    for family in [Family::Ip, Family::Ip6] {
        // Asked for, not only taken away: a kernel may not know the family.
        if tables.iter().all(|table| table.family != family) && socket.has_table(family, name)? {
            gone.push(family);
        }
    }
    socket.replace_tables(tables, &gone)
}

/// What to remove and what to add in each table; `None` if more than elements differs.
fn differences(old: &[Table], new: &[Table]) -> Option<Vec<(Family, (Changes, Changes))>> {
    let same = old.len() == new.len() && old.iter().zip(new).all(|(old, new)| old.family == new.family);
    let each = |(old, new): (&Table, &Table)| Some((new.family, difference(old, new)?));
    if same { old.iter().zip(new).map(each).collect() } else { None }
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
    use linux::netlink::nft::{Attributes, ForeignChain, ForeignExpr, ForeignHook};

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

    #[test]
    fn what_the_kernel_refuses_gives_way_to_less_and_closes_in_the_end() {
        let refused = linux::Error::new("netlink", "rule 1", linux::Errno::OPNOTSUPP);
        let filter = |expression: &str| ForeignTable {
            family: Family::Inet,
            name: "t".into(),
            chains: vec![ForeignChain {
                name: "input".into(),
                hook: Some(ForeignHook { kind: "filter".into(), at: 1, priority: 0, accept: true }),
                rules: vec![vec![ForeignExpr { name: expression.into(), data: Attributes::default() }]],
            }],
            sets: Vec::new(),
        };
        let mut rejects = Followed::new(Ok(vec![filter("reject")]));
        let asked = rejects.obeyed.clone();
        assert!(rejects.yields(&refused) && rejects.obeyed != asked && rejects.problem.is_none(), "it drops");
        assert!(rejects.yields(&refused) && rejects.obeyed == input::closed());
        assert!(rejects.problem.as_ref().is_some_and(|problem| problem.contains("rule 1")));
        assert!(!rejects.yields(&refused), "there is nothing less");
        assert_eq!(rejects.asked, Some(Ok(asked)), "what was read is known again");
        let mut limits = Followed::new(Ok(vec![filter("limit")]));
        assert!(limits.yields(&refused) && limits.obeyed == input::closed());
        let unread = Followed::new(Err("no right to".into()));
        assert_eq!((unread.obeyed, unread.problem), (input::closed(), Some("no right to".into())));
        assert!(!Followed::new(Ok(Vec::new())).yields(&refused), "what the kernel refuses is the engine's own");
    }
}
