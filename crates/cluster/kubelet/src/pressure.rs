//! When the node runs short: which thresholds are crossed, what the node says of it, and which pod has to go. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use resources::quantity::Quantity;
use resources::{Value, meta};

use crate::pod;
use crate::qos;
use crate::stats::machine::MachineUse;
use crate::stats::{PodUse, Reading};

/// How long a condition is told after its cause has gone.
const TRANSITION: Duration = Duration::from_secs(300);
/// Pods of the cluster's own upkeep; they are never sent away.
const CRITICAL_PRIORITY: i64 = 2_000_000_000;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Memory,
    Disk,
    Inodes,
    Processes,
}

impl Signal {
    const NAMES: [(&'static str, Self); 6] = [
        ("memory.available", Self::Memory),
        ("nodefs.available", Self::Disk),
        ("imagefs.available", Self::Disk),
        ("nodefs.inodesFree", Self::Inodes),
        ("imagefs.inodesFree", Self::Inodes),
        ("pid.available", Self::Processes),
    ];

    fn parse(name: &str) -> Result<Self, String> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name.trim());
        known.map(|(_, signal)| *signal).ok_or_else(|| format!("eviction signal {name:?} is not known"))
    }

    pub fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk | Self::Inodes => "DiskPressure",
            Self::Processes => "PIDPressure",
        }
    }

    /// As messages name what is short.
    fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Processes => "pids",
        }
    }

    /// What there is and what is left of it.
    fn of(self, node: &MachineUse) -> (u64, u64) {
        match self {
            Self::Memory => (node.memory.total_bytes, node.memory.available_bytes),
            Self::Disk => (node.disk.capacity_bytes, node.disk.available_bytes),
            Self::Inodes => (node.disk.inodes, node.disk.inodes_free),
            Self::Processes => (node.processes_max, node.processes_max.saturating_sub(node.processes)),
        }
    }
}

/// The least that has to be left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Least {
    Amount(u64),
    /// Of everything there is.
    Share(f64),
}

impl Least {
    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_suffix('%') {
            Some(share) => {
                let share = share.parse::<f64>().ok().filter(|share| (0.0..=100.0).contains(share));
                Ok(Self::Share(share.ok_or_else(|| format!("{text:?} is not a share from 0% to 100%"))? / 100.0))
            }
            None => {
                let amount = Quantity::parse(text).map_err(|_| format!("{text:?} is not a quantity"))?;
                Ok(Self::Amount(u64::try_from(amount.ceil()).map_err(|_| format!("{text:?} is negative"))?))
            }
        }
    }
}

/// Thresholds at which pods are sent away.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds(BTreeMap<Signal, Least>);

impl Default for Thresholds {
    /// Amounts, where upstream takes a tenth and more of a disk: a node is often somebody's own machine.
    fn default() -> Self {
        Self::parse("memory.available<100Mi,nodefs.available<1Gi,nodefs.inodesFree<1%").expect("a text of ours")
    }
}

impl Thresholds {
    /// As upstream's flag writes them: `memory.available<100Mi,nodefs.available<10%`. Empty switches eviction off.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let (name, least) = one.split_once('<').ok_or_else(|| format!("{one:?} is not SIGNAL<QUANTITY"))?;
            all.insert(Signal::parse(name)?, Least::parse(least.trim())?);
        }
        Ok(Self(all))
    }

    /// Bytes of memory that pods do not get.
    pub fn memory_kept(&self, total: u64) -> u64 {
        self.0.get(&Signal::Memory).map_or(0, |least| bytes(*least, total))
    }
}

fn bytes(least: Least, total: u64) -> u64 {
    match least {
        Least::Amount(amount) => amount,
        Least::Share(share) => (total as f64 * share) as u64,
    }
}

/// A threshold that is crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossed {
    pub signal: Signal,
    pub least: u64,
    pub left: u64,
    /// Pods may have their own grace.
    pub soft: bool,
    /// It has been for as long as is waited for.
    pub due: bool,
}

/// When pods are sent away.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Eviction {
    pub hard: Thresholds,
    /// Waited for, and for how long.
    pub soft: Thresholds,
    pub patience: BTreeMap<Signal, Duration>,
    /// The most grace that a pod gets for a soft one; `None`: its own.
    pub soft_grace_max: Option<Duration>,
    /// How much more than a threshold is to be left before its shortage is over.
    pub reclaim: BTreeMap<Signal, Least>,
}

impl Eviction {
    /// From the texts of the flags, as upstream's are written. Every soft threshold needs its patience.
    pub fn parse(hard: Option<&str>, soft: &str, patience: &str, reclaim: &str) -> Result<Self, String> {
        let hard = hard.map_or_else(|| Ok(Thresholds::default()), Thresholds::parse);
        let mut all = Self {
            hard: hard.map_err(|error| format!("--eviction-hard: {error}"))?,
            soft: Thresholds::parse(soft).map_err(|error| format!("--eviction-soft: {error}"))?,
            ..Self::default()
        };
        for (signal, text) in pairs(patience).map_err(|error| format!("--eviction-soft-grace-period: {error}"))? {
            let time = vocab::duration::parse(text);
            let time = time.ok_or_else(|| format!("--eviction-soft-grace-period: {text:?} is not a duration"))?;
            all.patience.insert(signal, time);
        }
        for (signal, text) in pairs(reclaim).map_err(|error| format!("--eviction-minimum-reclaim: {error}"))? {
            let least = Least::parse(text).map_err(|error| format!("--eviction-minimum-reclaim: {error}"))?;
            all.reclaim.insert(signal, least);
        }
        match all.soft.0.keys().find(|signal| !all.patience.contains_key(signal)) {
            None => Ok(all),
            Some(signal) => {
                let (name, _) = Signal::NAMES.iter().find(|(_, known)| known == signal).unwrap_or(&Signal::NAMES[0]);
                Err(format!("--eviction-soft: grace period must be specified for the soft eviction threshold {name}"))
            }
        }
    }
}

/// `SIGNAL=VALUE,...`
fn pairs(text: &str) -> Result<Vec<(Signal, &str)>, String> {
    let mut all = Vec::new();
    for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
        let (name, value) = one.split_once('=').ok_or_else(|| format!("{one:?} is not SIGNAL=VALUE"))?;
        all.push((Signal::parse(name)?, value.trim()));
    }
    Ok(all)
}

/// What has been short, and since when: thresholds that are crossed stay so until enough is free again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shortage(BTreeMap<(bool, Signal), Timestamp>);

impl Shortage {
    /// Takes in how things are now; all that is crossed, what counts at once first.
    pub fn note(&mut self, eviction: &Eviction, node: &MachineUse, now: Timestamp) -> Vec<Crossed> {
        let hard = eviction.hard.0.iter().map(|(signal, least)| (false, *signal, *least));
        let soft = eviction.soft.0.iter().map(|(signal, least)| (true, *signal, *least));
        let mut crossed = Vec::new();
        for (soft, signal, least) in hard.chain(soft) {
            let (total, left) = signal.of(node);
            let least = bytes(least, total);
            let more = eviction.reclaim.get(&signal).filter(|_| self.0.contains_key(&(soft, signal)));
            let wanted = least.saturating_add(more.map_or(0, |more| bytes(*more, total)));
            // What cannot be read is not short.
            if total == 0 || left >= wanted {
                self.0.remove(&(soft, signal));
                continue;
            }
            let since = *self.0.entry((soft, signal)).or_insert(now);
            let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            let due = !soft || eviction.patience.get(&signal).is_none_or(|patience| waited >= *patience);
            crossed.push(Crossed { signal, least, left, soft, due });
        }
        crossed
    }
}

/// Which conditions hold, and since when their causes have gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pressure(BTreeMap<&'static str, Timestamp>);

impl Pressure {
    /// Takes in what is crossed now; true if the conditions changed.
    pub fn note(&mut self, crossed: &[Crossed], now: Timestamp) -> bool {
        let before: Vec<&str> = self.0.keys().copied().collect();
        for one in crossed {
            self.0.insert(one.signal.condition(), now);
        }
        self.0.retain(|_, last| Duration::try_from(now.duration_since(*last)).unwrap_or_default() < TRANSITION);
        before != self.0.keys().copied().collect::<Vec<_>>()
    }

    pub fn has(&self, condition: &str) -> bool {
        self.0.contains_key(condition)
    }

    /// Why a new pod may not begin here now.
    pub fn refuses(&self, pod: &Value) -> Option<String> {
        if self.0.is_empty() || is_critical(pod) {
            return None;
        }
        // Short memory alone keeps out only those who ask for none.
        let only_memory = self.0.keys().all(|condition| *condition == "MemoryPressure");
        if only_memory && (pod::quality(pod) != "BestEffort" || tolerates(pod)) {
            return None;
        }
        let names: Vec<&str> = self.0.keys().copied().collect();
        Some(format!("Pod was rejected: The node had condition: [{}]. ", names.join(", ")))
    }
}

fn tolerates(pod: &Value) -> bool {
    meta::list_at(pod, &["spec", "tolerations"]).iter().any(|one| {
        let key = one["key"].as_str().unwrap_or_default();
        (key == "node.kubernetes.io/memory-pressure" || key.is_empty() && one["operator"] == "Exists")
            && matches!(one["effect"].as_str(), None | Some("" | "NoSchedule"))
    })
}

pub fn is_critical(pod: &Value) -> bool {
    pod["spec"]["priority"].as_i64().unwrap_or(0) >= CRITICAL_PRIORITY
        || meta::at(pod, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some()
}

/// The pod that goes first, and what is told of it: who uses more than asked for, then whose priority is less, then who uses
/// most beyond what was asked for.
pub fn victim(reading: &Reading, short: &Crossed) -> Option<(String, String)> {
    let figure = |of: &PodUse| -> i64 {
        let sum = match short.signal {
            Signal::Memory => of.containers.iter().map(|of| of.used.working_set_bytes).sum::<u64>(),
            Signal::Processes => of.containers.iter().map(|of| of.used.processes).sum(),
            Signal::Disk | Signal::Inodes => of.volumes.values().sum(),
        };
        i64::try_from(sum).unwrap_or(i64::MAX)
    };
    let asked = |of: &PodUse| match short.signal {
        Signal::Memory => qos::pod_amount(&of.pod, "requests", "memory", qos::bytes).unwrap_or(0),
        _ => 0,
    };
    let rank = |of: &PodUse| {
        let beyond = figure(of) - asked(of);
        (beyond > 0, std::cmp::Reverse(of.pod["spec"]["priority"].as_i64().unwrap_or(0)), beyond)
    };
    let may = reading.pods.iter().filter(|of| !is_critical(&of.pod) && !meta::is_terminating(&of.pod));
    let chosen = may.max_by_key(|of| rank(of))?;
    Some((meta::uid(&chosen.pod).to_owned(), message(chosen, short)))
}

fn message(of: &PodUse, short: &Crossed) -> String {
    let resource = short.signal.resource();
    let shown = |bytes: u64| match short.signal {
        Signal::Memory | Signal::Disk => binary(bytes),
        _ => bytes.to_string(),
    };
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        shown(short.least),
        shown(short.left)
    );
    if short.signal == Signal::Memory {
        for one in &of.containers {
            let spec = pod::containers(&of.pod).map(|(_, spec)| spec).find(|spec| pod::name(spec) == one.seen.name);
            let asked =
                spec.and_then(|spec| qos::amount(&spec["resources"], "requests", "memory")).map_or(0, qos::bytes);
            if i64::try_from(one.used.working_set_bytes).is_ok_and(|used| used > asked) {
                text.push_str(&format!(
                    "Container {} was using {}, request is {}, has larger consumption of memory. ",
                    one.seen.name,
                    binary(one.used.working_set_bytes),
                    binary(asked.unsigned_abs())
                ));
            }
        }
    }
    text
}

/// Bytes as a quantity.
fn binary(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    if bytes >= 1 << 10 { format!("{}Ki", bytes >> 10) } else { bytes.to_string() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::runtime::{ContainerSeen, State, Used};
    use crate::stats::ContainerUse;
    use crate::stats::machine::{Disk, Memory};

    fn machine(available_mib: u64, disk_gib: u64) -> MachineUse {
        MachineUse {
            booted: Timestamp::UNIX_EPOCH,
            cpu_nanos: 0,
            memory: Memory { total_bytes: 1 << 30, available_bytes: available_mib << 20, ..Memory::default() },
            disk: Disk { capacity_bytes: 100 << 30, available_bytes: disk_gib << 30, inodes: 100, inodes_free: 50 },
            network: BTreeMap::new(),
            processes: 10,
            processes_max: 1000,
            pressure: BTreeMap::new(),
        }
    }

    fn user(name: &str, priority: i64, asked: &str, used_mib: u64) -> PodUse {
        let pod = json!({"metadata": {"uid": name, "name": name, "namespace": "d"}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {"memory": asked}}}]}});
        let state = State::Running { started: Timestamp::UNIX_EPOCH };
        let seen = ContainerSeen {
            id: name.into(),
            pod_uid: name.into(),
            name: "c".into(),
            attempt: 0,
            image: String::new(),
            image_id: String::new(),
            state,
            message: String::new(),
        };
        let used = Used { working_set_bytes: used_mib << 20, ..Used::default() };
        let container = ContainerUse { seen, began: Timestamp::UNIX_EPOCH, used, cpu_rate: 0 };
        PodUse { pod: Arc::new(pod), containers: vec![container], network: None, volumes: BTreeMap::new() }
    }

    fn reading(pods: Vec<PodUse>) -> Reading {
        Reading { at: Timestamp::UNIX_EPOCH, node: machine(50, 50), node_cpu_rate: 0, pods, states: BTreeMap::new() }
    }

    #[test]
    fn thresholds_are_read_as_upstream_writes_them_and_crossed_when_less_is_left() {
        let check = |text: &str, node: MachineUse| -> String {
            let eviction = Eviction::parse(Some(text), "", "", "").unwrap();
            let rows = Shortage::default().note(&eviction, &node, Timestamp::UNIX_EPOCH);
            rows.iter().map(|one| one.signal.condition()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(check("memory.available<100Mi", machine(99, 50)), "MemoryPressure");
        assert_eq!(check("memory.available<100Mi", machine(100, 50)), "");
        assert_eq!(check("nodefs.available<10%,pid.available<995", machine(1, 9)), "DiskPressure PIDPressure");
        assert_eq!(check("", machine(0, 0)), "");
        for bad in ["memory", "what<1Gi", "memory.available<x", "nodefs.available<101%", "memory.available<-1"] {
            assert!(Thresholds::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_soft_threshold_is_told_at_once_and_acted_on_after_its_patience() {
        let soft = "memory.available<200Mi";
        let eviction = Eviction::parse(Some(""), soft, "memory.available=1m30s", "memory.available=50Mi").unwrap();
        let mut shortage = Shortage::default();
        let mut at = |secs: i64, mib: u64| -> Vec<(bool, bool)> {
            let rows = shortage.note(&eviction, &machine(mib, 50), Timestamp::from_second(secs).unwrap());
            rows.iter().map(|row| (row.soft, row.due)).collect()
        };
        assert_eq!(at(0, 200), []);
        assert_eq!(at(10, 199), [(true, false)]);
        assert_eq!(at(99, 240), [(true, false)], "it is over when enough is free again");
        assert_eq!(at(100, 240), [(true, true)]);
        assert_eq!(at(110, 250), []);
        assert_eq!(at(120, 240), []);
        assert_eq!(at(130, 100), [(true, false)]);
        let why = Eviction::parse(None, soft, "", "").unwrap_err();
        assert_eq!(
            why,
            "--eviction-soft: grace period must be specified for the soft eviction threshold memory.available"
        );
        for (soft, patience, reclaim) in
            [("memory<1", "", ""), ("", "memory.available=x", ""), ("", "", "x=1"), ("", "", "memory.available=-1")]
        {
            assert!(Eviction::parse(None, soft, patience, reclaim).is_err(), "{soft} {patience} {reclaim}");
        }
    }

    #[test]
    fn conditions_stay_for_a_while_and_keep_pods_out() {
        let (mut pressure, at) = (Pressure::default(), |secs: i64| Timestamp::from_second(secs).unwrap());
        let eviction = Eviction::parse(Some("memory.available<100Mi"), "", "", "").unwrap();
        let short = Shortage::default().note(&eviction, &machine(1, 50), at(0));
        let (idle, asks) = (
            json!({"spec": {"containers": [{"name": "c"}]}}),
            json!({"spec": {"containers": [
            {"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]}}),
        );
        assert!(pressure.note(&short, at(0)) && pressure.has("MemoryPressure"));
        assert!(pressure.refuses(&asks).is_none());
        assert_eq!(pressure.refuses(&idle).unwrap(), "Pod was rejected: The node had condition: [MemoryPressure]. ");
        assert!(!pressure.note(&[], at(299)) && pressure.has("MemoryPressure"));
        assert!(pressure.note(&[], at(300)) && pressure.refuses(&idle).is_none());
    }

    #[test]
    fn who_uses_more_than_asked_for_goes_first() {
        let short = Crossed { signal: Signal::Memory, least: 100 << 20, left: 50 << 20, soft: false, due: true };
        let first = |pods: Vec<PodUse>| victim(&reading(pods), &short).map(|(uid, _)| uid).unwrap_or_default();
        assert_eq!(first(vec![user("within", 0, "200Mi", 150), user("beyond", 0, "10Mi", 20)]), "beyond");
        assert_eq!(first(vec![user("much", 5, "0", 900), user("less", 0, "0", 20)]), "less", "priority counts more");
        assert_eq!(first(vec![user("much", 0, "0", 900), user("less", 0, "0", 20)]), "much");
        assert_eq!(first(vec![user("critical", CRITICAL_PRIORITY, "0", 900)]), "");
        let (_, text) = victim(&reading(vec![user("p", 0, "1Mi", 8)]), &short).unwrap();
        assert_eq!(
            text,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 8Mi, \
             request is 1Mi, has larger consumption of memory. "
        );
    }
}
