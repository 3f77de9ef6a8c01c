//! Profiles: which scheduler a pod names in `schedulerName`, and how that one decides. Read from upstream's
//! `KubeSchedulerConfiguration`.

use resources::{Value, meta};
use serde_json::json;

use crate::rules::{RULES, WEIGHTS};

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
    pub default_spread: Defaults,
    /// What a pod's required affinity to others counts for when they are placed.
    pub hard_pod_affinity: i64,
    /// Node affinity that all pods have besides their own; null is none.
    pub added_affinity: Value,
    /// Rules that are not asked where they filter.
    pub no_filters: Vec<String>,
    /// Rules that score, with their weights.
    pub weights: Vec<(String, i64)>,
    /// Of how many nodes in a hundred that would do the best is taken; 0 decides by their number.
    pub percentage_of_nodes: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            name: "default-scheduler".into(),
            strategy: Strategy::LeastAllocated,
            scored: vec![("cpu".into(), 1), ("memory".into(), 1)],
            default_spread: Defaults::System,
            hard_pod_affinity: 1,
            added_affinity: Value::Null,
            no_filters: Vec::new(),
            weights: WEIGHTS.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(),
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

/// Reads the profiles of a `KubeSchedulerConfiguration`. What this scheduler does not have is refused, not forgotten.
pub fn parse(config: &Value) -> Result<Vec<Profile>, String> {
    let kind = meta::str_at(config, &["kind"]);
    if kind != "KubeSchedulerConfiguration" || meta::str_at(config, &["apiVersion"]) != "kubescheduler.config.k8s.io/v1"
    {
        return Err(format!("want a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1, not {kind:?}"));
    }
    let percentage = config["percentageOfNodesToScore"].as_u64().unwrap_or(0);
    let listed = meta::list_at(config, &["profiles"]);
    let empty = [json!({})];
    let listed = if listed.is_empty() { &empty[..] } else { listed };
    let profiles: Vec<Profile> = listed.iter().map(|one| profile(one, percentage)).collect::<Result<_, String>>()?;
    for (number, one) in profiles.iter().enumerate() {
        if profiles[..number].iter().any(|other| other.name == one.name) {
            return Err(format!("profiles[{number}].schedulerName: Duplicate value: {:?}", one.name));
        }
    }
    Ok(profiles)
}

fn profile(config: &Value, percentage: u64) -> Result<Profile, String> {
    let mut profile = Profile { percentage_of_nodes: percentage, ..Profile::default() };
    if let Some(name) = config["schedulerName"].as_str() {
        profile.name = name.to_owned();
    }
    if let Some(percentage) = config["percentageOfNodesToScore"].as_u64() {
        profile.percentage_of_nodes = percentage;
    }
    plugins(&mut profile, &config["plugins"])?;
    for entry in meta::list_at(config, &["pluginConfig"]) {
        let args = &entry["args"];
        match entry["name"].as_str().unwrap_or_default() {
            "NodeResourcesFit" => fit(&mut profile, &args["scoringStrategy"])?,
            "PodTopologySpread" => {
                let list = meta::list_at(args, &["defaultConstraints"]);
                let system = args["defaultingType"] != "List" && list.is_empty();
                profile.default_spread = if system { Defaults::System } else { Defaults::List(list.to_vec()) };
            }
            "InterPodAffinity" => {
                profile.hard_pod_affinity = args["hardPodAffinityWeight"].as_i64().unwrap_or(1);
            }
            "NodeAffinity" => profile.added_affinity = args["addedAffinity"].clone(),
            "DefaultPreemption" | "VolumeBinding" | "NodeResourcesBalancedAllocation" if args.is_null() => {}
            name => return Err(format!("pluginConfig of {name:?} is not supported")),
        }
    }
    Ok(profile)
}

fn fit(profile: &mut Profile, strategy: &Value) -> Result<(), String> {
    profile.strategy = match strategy["type"].as_str().unwrap_or("LeastAllocated") {
        "LeastAllocated" => Strategy::LeastAllocated,
        "MostAllocated" => Strategy::MostAllocated,
        "RequestedToCapacityRatio" => {
            let points = meta::list_at(strategy, &["requestedToCapacityRatio", "shape"]).iter();
            let shape: Vec<(i64, i64)> = points
                .map(|point| (point["utilization"].as_i64().unwrap_or(0), point["score"].as_i64().unwrap_or(0)))
                .collect();
            if shape.is_empty() {
                return Err("requestedToCapacityRatio.shape: at least one point must be specified".into());
            }
            if !shape.windows(2).all(|pair| pair[0].0 < pair[1].0) {
                return Err(
                    "requestedToCapacityRatio.shape: utilization values must be sorted in increasing order".into()
                );
            }
            let within = |(used, score): &(i64, i64)| (0..=100).contains(used) && (0..=10).contains(score);
            if !shape.iter().all(within) {
                return Err("requestedToCapacityRatio.shape: utilization is 0 to 100, score is 0 to 10".into());
            }
            Strategy::RequestedToCapacityRatio(shape)
        }
        other => return Err(format!("scoringStrategy.type: Unsupported value: {other:?}")),
    };
    let listed = meta::list_at(strategy, &["resources"]).iter();
    let scored: Vec<(String, i64)> = listed
        .map(|one| (one["name"].as_str().unwrap_or_default().to_owned(), one["weight"].as_i64().unwrap_or(1)))
        .collect();
    if !scored.is_empty() {
        profile.scored = scored;
    }
    Ok(())
}

/// Rules switched on and off, for all that they do or for one of it.
fn plugins(profile: &mut Profile, plugins: &Value) -> Result<(), String> {
    let known = |name: &str| name == "*" || RULES.iter().any(|rule| rule.name() == name);
    for (point, sets) in plugins.as_object().into_iter().flatten() {
        let names = |which: &str| {
            let listed = meta::list_at(sets, &[which]).iter();
            let read = |one: &Value| {
                let name = one["name"].as_str().unwrap_or_default().to_owned();
                if known(&name) {
                    Ok((name, one["weight"].as_i64()))
                } else {
                    Err(format!("plugin {name:?} is not known"))
                }
            };
            listed.map(read).collect::<Result<Vec<_>, String>>()
        };
        let (off, on) = (names("disabled")?, names("enabled")?);
        if !matches!(point.as_str(), "filter" | "score" | "multiPoint") {
            return Err(format!("plugins.{point} is not supported"));
        }
        for (name, _) in off {
            let is = |other: &str| name == "*" || other == name;
            if point != "score" {
                profile.no_filters.extend(RULES.iter().map(|rule| rule.name().to_owned()).filter(|rule| is(rule)));
            }
            if point != "filter" {
                profile.weights.retain(|(rule, _)| !is(rule));
            }
        }
        for (name, weight) in on {
            if point != "score" {
                profile.no_filters.retain(|rule| *rule != name);
            }
            let usual = WEIGHTS.iter().find(|(rule, _)| *rule == name).map(|(_, weight)| *weight);
            if point != "filter"
                && let Some(usual) = usual
            {
                profile.weights.retain(|(rule, _)| *rule != name);
                profile.weights.push((name, weight.filter(|weight| *weight > 0).unwrap_or(usual)));
            }
        }
    }
    Ok(())
}
