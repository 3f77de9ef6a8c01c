//! A scheduler's configuration: upstream's `KubeSchedulerConfiguration` of `kubescheduler.config.k8s.io/v1`. Pure.
//!
//! What this scheduler does not have is refused with its place in the file, and all of it at once; what is about a process of its
//! own, which this one is not, is named as having no effect.

use std::collections::BTreeMap;
use std::time::Duration;

use resources::{Value, meta};
use serde_json::json;

use crate::profile::{Defaults, Profile, Strategy};
use crate::rules::{RULES, WEIGHTS};

/// How pods find their nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub profiles: Vec<Profile>,
    /// How long a pod that found no place is not tried again: at first, and at most.
    pub backoff: (Duration, Duration),
    /// What the file says that changes nothing here.
    pub idle: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        let backoff = (Duration::from_secs(1), Duration::from_secs(10));
        Self { profiles: vec![Profile::default()], backoff, idle: Vec::new() }
    }
}

/// Faults with their places in the file.
#[derive(Debug, Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, path: &str, what: impl std::fmt::Display) {
        self.0.push(format!("{path}: {what}"));
    }

    /// Fields that nobody reads are somebody's mistake.
    fn unknown(&mut self, path: &str, object: &Value, known: &[&str]) {
        for (name, _) in object.as_object().into_iter().flatten().filter(|(name, _)| !known.contains(&name.as_str())) {
            self.add(&below(path, name), "unknown field");
        }
    }

    /// A whole number within bounds, if there is one.
    fn number(&mut self, path: &str, object: &Value, name: &str, within: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let value = object.get(name).filter(|value| !value.is_null())?;
        let number = value.as_i64().filter(|number| within.contains(number));
        if number.is_none() {
            let (least, most) = (within.start(), within.end());
            let bounds = match *most {
                i64::MAX => format!("{least} or more"),
                _ => format!("{least} to {most}"),
            };
            self.add(&below(path, name), format!("Invalid value: {value}: must be {bounds}"));
        }
        number
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// About a process of its own: another server leads, answers for health and tells its figures here.
const OF_A_PROCESS: &[&str] = &[
    "clientConnection",
    "delayCacheUntilActive",
    "enableContentionProfiling",
    "enableProfiling",
    "leaderElection",
    "parallelism",
];

/// Reads a `KubeSchedulerConfiguration`; or all that is wrong with it.
pub fn parse(config: &Value) -> Result<Config, Vec<String>> {
    let (kind, version) = (meta::str_at(config, &["kind"]), meta::str_at(config, &["apiVersion"]));
    if kind != "KubeSchedulerConfiguration" || version != "kubescheduler.config.k8s.io/v1" {
        return Err(vec![format!(
            "want a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1, not {kind:?} of {version:?}"
        )]);
    }
    let mut faults = Faults::default();
    let own = [
        "apiVersion",
        "extenders",
        "kind",
        "percentageOfNodesToScore",
        "podInitialBackoffSeconds",
        "podMaxBackoffSeconds",
        "profiles",
    ];
    faults.unknown("", config, &[&own[..], OF_A_PROCESS].concat());
    if !meta::list_at(config, &["extenders"]).is_empty() {
        faults.add("extenders", "not supported: decisions are made in one process");
    }
    let idle = OF_A_PROCESS.iter().filter(|name| config.get(**name).is_some()).map(|name| (*name).to_owned()).collect();
    let percentage = faults.number("", config, "percentageOfNodesToScore", 0..=100).unwrap_or(0);
    let first = faults.number("", config, "podInitialBackoffSeconds", 1..=i64::MAX).unwrap_or(1);
    let most = faults.number("", config, "podMaxBackoffSeconds", 1..=i64::MAX).unwrap_or(first.max(10));
    if most < first {
        let why = format!("Invalid value: {most}: must be greater than or equal to PodInitialBackoffSeconds");
        faults.add("podMaxBackoffSeconds", why);
    }
    let listed = meta::list_at(config, &["profiles"]);
    let empty = [json!({})];
    let listed = if listed.is_empty() { &empty[..] } else { listed };
    let mut profiles: Vec<Profile> = Vec::new();
    for (number, one) in listed.iter().enumerate() {
        let path = format!("profiles[{number}]");
        let made = profile(&path, one, percentage, &mut faults);
        if profiles.iter().any(|other| other.name == made.name) {
            faults.add(&format!("{path}.schedulerName"), format!("Duplicate value: {:?}", made.name));
        }
        profiles.push(made);
    }
    let secs = |number: i64| Duration::from_secs(number.unsigned_abs());
    match faults.0.is_empty() {
        true => Ok(Config { profiles, backoff: (secs(first), secs(most)), idle }),
        false => Err(faults.0),
    }
}

fn profile(path: &str, config: &Value, percentage: i64, faults: &mut Faults) -> Profile {
    faults.unknown(path, config, &["percentageOfNodesToScore", "pluginConfig", "plugins", "schedulerName"]);
    let mut profile = Profile::default();
    match &config["schedulerName"] {
        Value::Null => {}
        Value::String(name) if !name.is_empty() => profile.name.clone_from(name),
        _ => faults.add(&below(path, "schedulerName"), "Required value"),
    }
    let percentage = faults.number(path, config, "percentageOfNodesToScore", 0..=100).unwrap_or(percentage);
    profile.percentage_of_nodes = percentage.unsigned_abs();
    plugins(&below(path, "plugins"), &mut profile, &config["plugins"], faults);
    let mut seen: Vec<&str> = Vec::new();
    for (number, entry) in meta::list_at(config, &["pluginConfig"]).iter().enumerate() {
        let path = format!("{path}.pluginConfig[{number}]");
        faults.unknown(&path, entry, &["args", "name"]);
        let name = entry["name"].as_str().unwrap_or_default();
        if seen.contains(&name) {
            faults.add(&path, format!("Duplicate value: {name:?}"));
        }
        seen.push(name);
        if !entry["args"].is_null() {
            arguments(&below(&path, "args"), &mut profile, name, &entry["args"], faults);
        }
    }
    profile
}

/// What one plugin is told.
fn arguments(path: &str, profile: &mut Profile, plugin: &str, args: &Value, faults: &mut Faults) {
    let mut known = vec!["apiVersion", "kind"];
    match plugin {
        "NodeResourcesFit" => {
            known.extend(["ignoredResourceGroups", "ignoredResources", "scoringStrategy"]);
            let words = |name: &str| {
                let words = meta::list_at(args, &[name]).iter().filter_map(Value::as_str);
                words.map(str::to_owned).collect()
            };
            profile.ignored_resources = words("ignoredResources");
            profile.ignored_groups = words("ignoredResourceGroups");
            scoring(&below(path, "scoringStrategy"), profile, &args["scoringStrategy"], faults);
        }
        "NodeResourcesBalancedAllocation" => {
            known.push("resources");
            let resources = scored(&below(path, "resources"), meta::list_at(args, &["resources"]), faults);
            if resources.iter().any(|(_, weight)| *weight != 1) {
                faults.add(&below(path, "resources"), "the weight of every resource is 1 here");
            }
            if !resources.is_empty() {
                profile.balanced = resources.into_iter().map(|(name, _)| name).collect();
            }
        }
        "PodTopologySpread" => {
            known.extend(["defaultConstraints", "defaultingType"]);
            let list = meta::list_at(args, &["defaultConstraints"]);
            for (number, one) in list.iter().enumerate() {
                let path = format!("{path}.defaultConstraints[{number}]");
                faults.unknown(&path, one, &["maxSkew", "topologyKey", "whenUnsatisfiable"]);
                faults.number(&path, one, "maxSkew", 1..=i64::MAX);
            }
            profile.default_spread = match args["defaultingType"].as_str() {
                None | Some("System") if list.is_empty() => Defaults::System,
                None | Some("List") => Defaults::List(list.to_vec()),
                Some("System") => {
                    let why = "when .defaultingType is System, none can be given";
                    faults.add(&below(path, "defaultConstraints"), why);
                    Defaults::System
                }
                Some(other) => {
                    faults.add(&below(path, "defaultingType"), format!("Unsupported value: {other:?}"));
                    Defaults::System
                }
            };
        }
        "InterPodAffinity" => {
            known.extend(["hardPodAffinityWeight", "ignorePreferredTermsOfExistingPods"]);
            if let Some(weight) = faults.number(path, args, "hardPodAffinityWeight", 0..=100) {
                profile.hard_pod_affinity = weight;
            }
            profile.ignores_wishes_of_others = args["ignorePreferredTermsOfExistingPods"] == true;
        }
        "NodeAffinity" => {
            known.push("addedAffinity");
            profile.added_affinity = args["addedAffinity"].clone();
        }
        "DefaultPreemption" => {
            known.extend(["minCandidateNodesAbsolute", "minCandidateNodesPercentage"]);
            let percent = faults.number(path, args, "minCandidateNodesPercentage", 0..=100).unwrap_or(10);
            let least = faults.number(path, args, "minCandidateNodesAbsolute", 0..=i64::MAX).unwrap_or(100);
            if percent == 0 && least == 0 {
                faults.add(
                    path,
                    "one of minCandidateNodesPercentage and minCandidateNodesAbsolute has to be more than 0",
                );
            }
            profile.candidates = (percent.unsigned_abs(), least.unsigned_abs());
        }
        "VolumeBinding" => {
            known.push("bindTimeoutSeconds");
            if let Some(secs) = faults.number(path, args, "bindTimeoutSeconds", 1..=i64::MAX) {
                profile.claims_patience = Duration::from_secs(secs.unsigned_abs());
            }
        }
        other => return faults.add(path, format!("arguments of {other:?} are not supported")),
    }
    faults.unknown(path, args, &known);
}

fn scored(path: &str, listed: &[Value], faults: &mut Faults) -> Vec<(String, i64)> {
    let mut out = Vec::new();
    for (number, one) in listed.iter().enumerate() {
        let path = format!("{path}[{number}]");
        faults.unknown(&path, one, &["name", "weight"]);
        let weight = faults.number(&path, one, "weight", 1..=100).unwrap_or(1);
        out.push((one["name"].as_str().unwrap_or_default().to_owned(), weight));
    }
    out
}

fn scoring(path: &str, profile: &mut Profile, strategy: &Value, faults: &mut Faults) {
    faults.unknown(path, strategy, &["requestedToCapacityRatio", "resources", "type"]);
    match strategy["type"].as_str().unwrap_or("LeastAllocated") {
        "LeastAllocated" => profile.strategy = Strategy::LeastAllocated,
        "MostAllocated" => profile.strategy = Strategy::MostAllocated,
        "RequestedToCapacityRatio" => {
            let path = below(path, "requestedToCapacityRatio.shape");
            let points = meta::list_at(strategy, &["requestedToCapacityRatio", "shape"]);
            let number = |point: &Value, name: &str| point[name].as_i64().unwrap_or(0);
            let shape: Vec<(i64, i64)> =
                points.iter().map(|point| (number(point, "utilization"), number(point, "score"))).collect();
            let within = |(used, score): &(i64, i64)| (0..=100).contains(used) && (0..=10).contains(score);
            if shape.is_empty() {
                faults.add(&path, "at least one point must be specified");
            } else if !shape.windows(2).all(|pair| pair[0].0 < pair[1].0) {
                faults.add(&path, "utilization values must be sorted in increasing order");
            } else if !shape.iter().all(within) {
                faults.add(&path, "utilization is 0 to 100, score is 0 to 10");
            }
            profile.strategy = Strategy::RequestedToCapacityRatio(shape);
        }
        other => faults.add(&below(path, "type"), format!("Unsupported value: {other:?}")),
    }
    let resources = scored(&below(path, "resources"), meta::list_at(strategy, &["resources"]), faults);
    if !resources.is_empty() {
        profile.scored = resources;
    }
}

/// What else of upstream's is built in, by the point at which it stands; only preemption can do without.
const BUILT_IN: &[(&str, &str)] = &[
    ("DefaultBinder", "bind"),
    ("DefaultPreemption", "postFilter"),
    ("PrioritySort", "queueSort"),
    ("SchedulingGates", "preEnqueue"),
];

/// Rules switched on and off, for all that they do or for a part of it.
fn plugins(path: &str, profile: &mut Profile, plugins: &Value, faults: &mut Faults) {
    for (point, sets) in plugins.as_object().into_iter().flatten() {
        let path = below(path, point);
        faults.unknown(&path, sets, &["disabled", "enabled"]);
        let built_in = BUILT_IN.iter().any(|(_, at)| at == point);
        // What looks at a pod before it is asked about nodes goes with what is asked.
        let (filters, scores) = match point.as_str() {
            "multiPoint" => (true, true),
            "preFilter" | "filter" | "reserve" | "preBind" => (true, false),
            "preScore" | "score" => (false, true),
            "permit" | "postBind" => (false, false),
            _ if built_in => (false, false),
            _ => {
                faults.add(&path, "unknown field");
                continue;
            }
        };
        let mut names = |which: &str| {
            let mut names = Vec::new();
            for (number, one) in meta::list_at(sets, &[which]).iter().enumerate() {
                let path = format!("{path}.{which}[{number}]");
                faults.unknown(&path, one, &["name", "weight"]);
                let name = one["name"].as_str().unwrap_or_default().to_owned();
                let is_rule = RULES.iter().any(|rule| rule.name() == name);
                let is_built_in = BUILT_IN.iter().any(|(built_in, _)| *built_in == name);
                let is_all = name == "*" && which == "disabled";
                if !(is_rule || is_built_in || is_all) {
                    faults.add(&path, format!("plugin {name:?} is not known"));
                }
                names.push((name, faults.number(&path, one, "weight", 0..=100)));
            }
            names
        };
        let (off, on) = (names("disabled"), names("enabled"));
        let mut missing: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, _) in off {
            let is = |other: &str| name == "*" || other == name;
            if filters {
                profile.no_filters.extend(RULES.iter().map(|rule| rule.name().to_owned()).filter(|rule| is(rule)));
            }
            if scores {
                profile.weights.retain(|(rule, _)| !is(rule));
            }
            let gone = BUILT_IN.iter().filter(|(own, at)| is(own) && (at == point || point == "multiPoint"));
            missing.extend(gone.copied());
        }
        for (name, weight) in on {
            missing.remove(name.as_str());
            if filters {
                profile.no_filters.retain(|rule| *rule != name);
            }
            let usual = WEIGHTS.iter().find(|(rule, _)| *rule == name).map(|(_, weight)| *weight);
            if let Some(usual) = usual.filter(|_| scores) {
                profile.weights.retain(|(rule, _)| *rule != name);
                profile.weights.push((name, weight.filter(|weight| *weight > 0).unwrap_or(usual)));
            }
        }
        for (name, _) in missing {
            match name {
                "DefaultPreemption" => profile.preempts = false,
                name => faults.add(&path, format!("nothing else does what {name} does: it cannot be disabled")),
            }
        }
    }
}
