//! ResourceQuota: what an object counts for, which quotas it falls under, and whether there is room. Pure.

use std::collections::BTreeMap;

use resources::quantity::{Format, Quantity};
use resources::{Value, meta};
use serde_json::json;

pub type Usage = BTreeMap<String, Quantity>;

const ONE: i128 = 1_000_000_000;

fn count(number: i128) -> Quantity {
    Quantity::from_nanos(number * ONE, Format::Decimal)
}

fn add(usage: &mut Usage, name: &str, amount: Quantity) {
    let sum = usage.get(name).map_or(0, Quantity::nanos).saturating_add(amount.nanos());
    usage.insert(name.to_owned(), Quantity::from_nanos(sum, amount.format));
}

/// The resources that a pod asks for in sum: containers together with sidecars, or the largest init container if that is
/// more, and the runtime's overhead.
pub fn pod_amounts(pod: &Value, list: &str) -> Usage {
    let own = |container: &Value| -> Usage {
        let entries = container["resources"][list].as_object().into_iter().flatten();
        entries.filter_map(|(name, value)| Some((name.clone(), Quantity::parse(value.as_str()?).ok()?))).collect()
    };
    let mut sum = Usage::new();
    for container in meta::list_at(pod, &["spec", "containers"]) {
        own(container).iter().for_each(|(name, amount)| add(&mut sum, name, *amount));
    }
    let (mut sidecars, mut largest) = (Usage::new(), Usage::new());
    for container in meta::list_at(pod, &["spec", "initContainers"]) {
        let mut here = own(container);
        if container["restartPolicy"] == "Always" {
            here.iter().for_each(|(name, amount)| {
                add(&mut sum, name, *amount);
                add(&mut sidecars, name, *amount);
            });
            here = sidecars.clone();
        } else {
            sidecars.iter().for_each(|(name, amount)| add(&mut here, name, *amount));
        }
        for (name, amount) in here {
            let most = largest.entry(name).or_insert(amount);
            if most.nanos() < amount.nanos() {
                *most = amount;
            }
        }
    }
    for (name, amount) in largest {
        if sum.get(&name).is_none_or(|have| have.nanos() < amount.nanos()) {
            sum.insert(name, amount);
        }
    }
    for (name, value) in meta::map_at(pod, &["spec", "overhead"]) {
        if let Some(amount) = value.as_str().and_then(|text| Quantity::parse(text).ok())
            && (list == "requests" || sum.contains_key(name))
        {
            add(&mut sum, name, amount);
        }
    }
    sum
}

fn is_ended(pod: &Value) -> bool {
    matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

/// What one object counts for.
pub fn usage(group: &str, plural: &str, object: &Value) -> Usage {
    let mut out = Usage::new();
    let all = if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") };
    out.insert(all, count(1));
    match (group, plural) {
        ("", "pods") => {
            // Pods that have ended hold nothing.
            if is_ended(object) {
                return out;
            }
            out.insert("pods".into(), count(1));
            for (name, amount) in pod_amounts(object, "requests") {
                if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                    out.insert(name.clone(), amount);
                }
                out.insert(format!("requests.{name}"), amount);
            }
            for (name, amount) in pod_amounts(object, "limits") {
                out.insert(format!("limits.{name}"), amount);
            }
        }
        ("", "services") => {
            out.insert("services".into(), count(1));
            let kind = meta::str_at(object, &["spec", "type"]);
            let ports = meta::list_at(object, &["spec", "ports"]).len() as i128;
            if kind == "LoadBalancer" {
                out.insert("services.loadbalancers".into(), count(1));
            }
            if kind == "NodePort"
                || (kind == "LoadBalancer" && object["spec"]["allocateLoadBalancerNodePorts"] != false)
            {
                out.insert("services.nodeports".into(), count(ports));
            }
        }
        ("", "persistentvolumeclaims") => {
            out.insert("persistentvolumeclaims".into(), count(1));
            let asked = meta::str_at(object, &["spec", "resources", "requests", "storage"]);
            let class = meta::str_at(object, &["spec", "storageClassName"]);
            let amount = Quantity::parse(asked).unwrap_or(count(0));
            out.insert("requests.storage".into(), amount);
            if !class.is_empty() {
                let name = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
                out.insert(name("persistentvolumeclaims"), count(1));
                out.insert(name("requests.storage"), amount);
            }
        }
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            out.insert(plural.to_owned(), count(1));
        }
        _ => {}
    }
    out
}

/// The resource whose objects count for an entry of `hard`: group and plural.
pub fn counted(entry: &str) -> Option<(String, String)> {
    let owned = |group: &str, plural: &str| Some((group.to_owned(), plural.to_owned()));
    if let Some(rest) = entry.strip_prefix("count/") {
        let (plural, group) = rest.split_once('.').unwrap_or((rest, ""));
        return owned(group, plural);
    }
    match entry {
        "services" | "services.loadbalancers" | "services.nodeports" => owned("", "services"),
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" | "persistentvolumeclaims" => {
            owned("", entry)
        }
        entry if entry == "requests.storage" || entry.contains(".storageclass.storage.k8s.io/") => {
            owned("", "persistentvolumeclaims")
        }
        "pods" | "cpu" | "memory" | "ephemeral-storage" => owned("", "pods"),
        entry if entry.starts_with("requests.") || entry.starts_with("limits.") => owned("", "pods"),
        _ => None,
    }
}

/// Whether neither requests nor limits of cpu and memory are set.
fn is_best_effort(pod: &Value) -> bool {
    let lists = ["containers", "initContainers"];
    !lists.iter().flat_map(|list| meta::list_at(pod, &["spec", list])).any(|container| {
        ["requests", "limits"].iter().any(|list| {
            let resources = &container["resources"][*list];
            resources.get("cpu").is_some() || resources.get("memory").is_some()
        })
    })
}

/// The quota's scopes take the object in.
pub fn covers(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let scopes = meta::list_at(quota, &["spec", "scopes"]).iter().filter_map(Value::as_str);
    let plain = scopes.map(|scope| json!({"scopeName": scope, "operator": "Exists"}));
    let chosen = meta::list_at(quota, &["spec", "scopeSelector", "matchExpressions"]).iter().cloned();
    let is_pod = group.is_empty() && plural == "pods";
    plain.chain(chosen).all(|term| {
        if !is_pod {
            // Scopes but that of volumes speak of pods alone.
            return false;
        }
        let holds = match term["scopeName"].as_str().unwrap_or_default() {
            "Terminating" => !object["spec"]["activeDeadlineSeconds"].is_null(),
            "NotTerminating" => object["spec"]["activeDeadlineSeconds"].is_null(),
            "BestEffort" => is_best_effort(object),
            "NotBestEffort" => !is_best_effort(object),
            "PriorityClass" => {
                let class = &object["spec"]["priorityClassName"];
                let listed = meta::list_at(&term, &["values"]).contains(class);
                return match term["operator"].as_str().unwrap_or_default() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "DoesNotExist" => class.is_null(),
                    _ => !class.is_null(),
                };
            }
            "CrossNamespacePodAffinity" => {
                let text = object["spec"]["affinity"].to_string();
                text.contains("\"namespaces\"") || text.contains("\"namespaceSelector\"")
            }
            _ => false,
        };
        if term["operator"] == "DoesNotExist" { !holds } else { holds }
    })
}

/// Entries of a quota that the object must say something about, and does not: with a quota on memory, a pod without
/// memory could take all of it.
pub fn unspecified(quota: &Value, usage: &Usage) -> Vec<String> {
    let hard = meta::map_at(quota, &["spec", "hard"]).map(|(name, _)| name.as_str());
    let asked = hard.filter(|name| {
        let pods = matches!(*name, "cpu" | "memory") || name.starts_with("limits.") || name.starts_with("requests.");
        pods && counted(name).is_some_and(|(_, plural)| plural == "pods") && !usage.contains_key(*name)
    });
    let known = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
    asked.filter(|name| known.contains(name)).map(str::to_owned).collect()
}

/// What is asked for, used and allowed, for those entries of a quota that it would go beyond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    pub requested: String,
    pub used: String,
    pub limited: String,
}

/// Whether `more` still fits; entries that do not grow are not looked at.
pub fn check(hard: &Usage, used: &Usage, more: &Usage) -> Option<Exceeded> {
    let zero = count(0);
    struct Over<'a> {
        name: &'a str,
        more: Quantity,
        used: Quantity,
        limit: Quantity,
    }
    let over: Vec<Over<'_>> = hard
        .iter()
        .filter_map(|(name, limit)| {
            let (more, used) = (more.get(name)?, used.get(name).unwrap_or(&zero));
            let beyond = more.nanos() > 0 && used.nanos() + more.nanos() > limit.nanos();
            beyond.then_some(Over { name, more: *more, used: *used, limit: *limit })
        })
        .collect();
    if over.is_empty() {
        return None;
    }
    let list = |pick: fn(&Over<'_>) -> Quantity| {
        let parts: Vec<String> = over.iter().map(|row| format!("{}={}", row.name, pick(row).canonical())).collect();
        parts.join(",")
    };
    Some(Exceeded { requested: list(|row| row.more), used: list(|row| row.used), limited: list(|row| row.limit) })
}

/// What grew from one state of an object to the next.
pub fn growth(new: &Usage, old: &Usage) -> Usage {
    let more = |(name, amount): (&String, &Quantity)| {
        let before = old.get(name).map_or(0, Quantity::nanos);
        (name.clone(), Quantity::from_nanos(amount.nanos() - before, amount.format))
    };
    new.iter().map(more).filter(|(_, amount)| amount.nanos() > 0).collect()
}

pub fn read(value: &Value) -> Usage {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?))).collect()
}

pub fn sum(objects: &[(String, String, Value)], quota: &Value) -> Usage {
    let mut out = Usage::new();
    for (group, plural, object) in objects {
        if covers(quota, group, plural, object) {
            usage(group, plural, object).iter().for_each(|(name, amount)| add(&mut out, name, *amount));
        }
    }
    // Every entry of the quota has a number, if only nought.
    let hard = read(&quota["spec"]["hard"]);
    hard.into_keys().map(|name| (name.clone(), out.get(&name).copied().unwrap_or(count(0)))).collect()
}

pub fn to_value(usage: &Usage) -> Value {
    usage
        .iter()
        .map(|(name, amount)| (name.clone(), Value::from(amount.canonical())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn objects_count_for_what_they_hold() {
        let shown = |group: &str, plural: &str, object: &Value| to_value(&usage(group, plural, object));
        let one = pod(json!({"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}));
        assert_eq!(
            shown("", "pods", &one),
            json!({"count/pods": "1", "pods": "1", "cpu": "100m", "requests.cpu": "100m", "limits.memory": "1Gi"})
        );
        let mut ended = one.clone();
        ended["status"] = json!({"phase": "Succeeded"});
        assert_eq!(shown("", "pods", &ended), json!({"count/pods": "1"}));
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        assert_eq!(
            shown("", "services", &service),
            json!({"count/services": "1", "services": "1", "services.loadbalancers": "1", "services.nodeports": "2"})
        );
        assert_eq!(shown("apps", "deployments", &json!({})), json!({"count/deployments.apps": "1"}));
        let init = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}], "initContainers": [
            {"resources": {"requests": {"cpu": "3"}}}, {"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(to_value(&pod_amounts(&init, "requests")), json!({"cpu": "3"}));
    }

    #[test]
    fn quotas_have_room_or_not() {
        let quota = json!({"spec": {"hard": {"pods": "2", "requests.cpu": "1"}}});
        let one = pod(json!({"requests": {"cpu": "600m"}}));
        let used = sum(&[("".into(), "pods".into(), one.clone())], &quota);
        assert_eq!(to_value(&used), json!({"pods": "1", "requests.cpu": "600m"}));
        let hard = read(&quota["spec"]["hard"]);
        let over = check(&hard, &used, &usage("", "pods", &one)).unwrap();
        assert_eq!(
            (over.requested.as_str(), over.used.as_str(), over.limited.as_str()),
            ("requests.cpu=600m", "requests.cpu=600m", "requests.cpu=1")
        );
        assert_eq!(check(&hard, &used, &usage("", "pods", &pod(json!({"requests": {"cpu": "400m"}})))), None);
        assert_eq!(unspecified(&quota, &usage("", "pods", &pod(json!({})))), ["requests.cpu"]);
        let scoped = json!({"spec": {"hard": {"pods": "1"}, "scopes": ["BestEffort"]}});
        assert!(covers(&scoped, "", "pods", &pod(json!({}))) && !covers(&scoped, "", "pods", &one));
        assert!(!covers(&scoped, "", "services", &json!({})));
    }
}
