//! Amounts of resources: what pods ask for and what nodes have.

use std::collections::BTreeMap;

use resources::quantity::Quantity;
use resources::{Value, meta};

/// Amounts by resource: thousandths of `cpu`, whole units of everything else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu: i64,
    pub memory: i64,
    /// Everything else, by name.
    pub others: BTreeMap<String, i64>,
}

/// What pods count for in scores that ask for nothing.
pub const DEFAULT_CPU_MILLIS: i64 = 100;
pub const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

fn amount(resource: &str, value: &Value) -> i64 {
    let parsed = match value {
        Value::String(text) => Quantity::parse(text),
        other => Quantity::parse(&other.to_string()),
    };
    let nanos = parsed.map_or(0, |quantity| quantity.nanos());
    let unit = if resource == "cpu" { 1_000_000 } else { 1_000_000_000 };
    i64::try_from(nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) != 0)).unwrap_or(i64::MAX)
}

/// Reads a map of quantities.
pub fn amounts(map: &Value) -> Resources {
    let mut out = Resources::default();
    for (name, value) in map.as_object().into_iter().flatten() {
        *out.at(name) = amount(name, value);
    }
    out
}

impl Resources {
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            name => self.others.get(name).copied().unwrap_or(0),
        }
    }

    fn at(&mut self, name: &str) -> &mut i64 {
        match name {
            "cpu" => &mut self.cpu,
            "memory" => &mut self.memory,
            name => self.others.entry(name.to_owned()).or_default(),
        }
    }

    pub fn add(&mut self, more: &Self) {
        self.cpu = self.cpu.saturating_add(more.cpu);
        self.memory = self.memory.saturating_add(more.memory);
        for (name, amount) in &more.others {
            let have = self.at(name);
            *have = have.saturating_add(*amount);
        }
    }

    pub fn take(&mut self, less: &Self) {
        self.cpu -= less.cpu;
        self.memory -= less.memory;
        for (name, amount) in &less.others {
            *self.at(name) -= amount;
        }
    }

    fn at_least(&mut self, floor: &Self) {
        self.cpu = self.cpu.max(floor.cpu);
        self.memory = self.memory.max(floor.memory);
        for (name, amount) in &floor.others {
            let have = self.at(name);
            *have = (*have).max(*amount);
        }
    }

    /// Names in the order in which they are asked for, with their amounts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        let fixed = [("cpu", self.cpu), ("memory", self.memory)];
        fixed.into_iter().chain(self.others.iter().map(|(name, amount)| (name.as_str(), *amount)))
    }
}

/// What a pod needs of its node: its containers together, or its hungriest init step if that is more. Amounts for the
/// whole pod count instead of its containers' where they are given.
pub fn requests(pod: &Value) -> Resources {
    let mut running = Resources::default();
    for container in meta::list_at(pod, &["spec", "containers"]) {
        running.add(&amounts(&container["resources"]["requests"]));
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in meta::list_at(pod, &["spec", "initContainers"]) {
        let own = amounts(&container["resources"]["requests"]);
        if container["restartPolicy"] == "Always" {
            sidecars.add(&own);
            peak.at_least(&sidecars);
        } else {
            let mut step = own;
            step.add(&sidecars);
            peak.at_least(&step);
        }
    }
    running.add(&sidecars);
    running.at_least(&peak);
    for (name, value) in meta::map_at(pod, &["spec", "resources", "requests"]) {
        *running.at(name) = amount(name, value);
    }
    running.add(&amounts(&pod["spec"]["overhead"]));
    running
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_asks_for_its_hungriest_moment() {
        let cpu = |amount: &str| json!({"resources": {"requests": {"cpu": amount}}});
        let sidecar = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}});
        for (containers, init, more, wanted) in [
            (vec![cpu("1"), cpu("250m")], vec![], json!({}), 1250),
            (vec![cpu("1")], vec![cpu("3")], json!({}), 3000),
            (vec![cpu("1")], vec![sidecar.clone()], json!({}), 1100),
            (vec![cpu("1")], vec![sidecar, cpu("2")], json!({}), 2100),
            (vec![cpu("1")], vec![], json!({"overhead": {"cpu": "0.2"}}), 1200),
            (vec![cpu("1")], vec![], json!({"resources": {"requests": {"cpu": "4"}}}), 4000),
        ] {
            let mut spec = json!({"containers": containers, "initContainers": init});
            resources::patch::merge_patch(&mut spec, &more);
            assert_eq!(requests(&json!({"spec": spec})).cpu, wanted, "{spec}");
        }
    }
}
