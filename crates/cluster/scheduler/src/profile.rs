//! Profiles: which scheduler a pod names in `schedulerName`, and how that one decides. `config` reads them.

use std::time::Duration;

use resources::Value;
use serde_json::json;

use crate::rules::WEIGHTS;

/// How full nodes are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    LeastAllocated,
    MostAllocated,
    /// Points of use in percent and score from 0 to 10.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// How pods are spread that say nothing about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Defaults {
    /// Over hosts and zones, softly.
    System,
    List(Vec<Value>),
}

impl Defaults {
    pub fn constraints(&self) -> Vec<Value> {
        let soft =
            |key: &str, skew: i64| json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": "ScheduleAnyway"});
        match self {
            Self::System => vec![soft("kubernetes.io/hostname", 3), soft("topology.kubernetes.io/zone", 5)],
            Self::List(list) => list.clone(),
        }
    }
}

/// How one scheduler decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// As pods name it.
    pub name: String,
    pub strategy: Strategy,
    /// Resources whose use is scored, with their weights.
    pub scored: Vec<(String, i64)>,
    /// Extended resources that need not fit: by name, and by what stands before the slash.
    pub ignored_resources: Vec<String>,
    pub ignored_groups: Vec<String>,
    /// Resources whose shares in use are wanted alike.
    pub balanced: Vec<String>,
    pub default_spread: Defaults,
    /// What a pod's required affinity to others counts for when they are placed.
    pub hard_pod_affinity: i64,
    /// What pods that have a node would like near them counts for nothing.
    pub ignores_wishes_of_others: bool,
    /// Node affinity that all pods have besides their own; null is none.
    pub added_affinity: Value,
    /// Rules that are not asked where they filter.
    pub no_filters: Vec<String>,
    /// Rules that score, with their weights.
    pub weights: Vec<(String, i64)>,
    /// Pods of lower priority may be pushed out.
    pub preempts: bool,
    /// On how many nodes that is worked out at most: in a hundred, and not less than.
    pub candidates: (u64, u64),
    /// How long a pod waits for its claims to be bound before it is looked at again.
    pub claims_patience: Duration,
    /// Of how many nodes in a hundred that would do the best is taken; 0 decides by their number.
    pub percentage_of_nodes: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            name: "default-scheduler".into(),
            strategy: Strategy::LeastAllocated,
            scored: vec![("cpu".into(), 1), ("memory".into(), 1)],
            ignored_resources: Vec::new(),
            ignored_groups: Vec::new(),
            balanced: vec!["cpu".into(), "memory".into()],
            default_spread: Defaults::System,
            hard_pod_affinity: 1,
            ignores_wishes_of_others: false,
            added_affinity: Value::Null,
            no_filters: Vec::new(),
            weights: WEIGHTS.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(),
            preempts: true,
            candidates: (10, 100),
            claims_patience: Duration::from_secs(30),
            percentage_of_nodes: 0,
        }
    }
}

impl Profile {
    pub fn weight(&self, rule: &str) -> i64 {
        self.weights.iter().find(|(name, _)| name == rule).map_or(0, |(_, weight)| *weight)
    }

    pub fn filters_with(&self, rule: &str) -> bool {
        !self.no_filters.iter().any(|name| name == rule)
    }

    /// After how many nodes that would do the search ends.
    pub fn enough(&self, nodes: usize) -> usize {
        const LEAST: usize = 100;
        let percent = match self.percentage_of_nodes {
            0 => 50_usize.saturating_sub(nodes / 125).max(5),
            percent => percent.min(100) as usize,
        };
        if nodes < LEAST || percent >= 100 { nodes } else { (nodes * percent / 100).max(LEAST) }
    }
}
