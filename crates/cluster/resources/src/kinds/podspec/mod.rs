//! The pod spec, which pods and everything that makes pods share: defaults and validation, in upstream's order and words.

mod container;
mod defaults;
mod placement;
mod probe;
mod resources;
mod security;
mod source;
mod volume;

use std::collections::BTreeSet;

use serde_json::Value;

pub(crate) use defaults::{default, default_template};
pub(crate) use placement::node_selector;
pub(crate) use resources::validate_resources;

use super::rules::Faults;
use crate::errors::FieldError;
use crate::meta::list_at;
use crate::names;

/// The three lists of containers, with the path of each.
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

const IP_DETAIL: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Every container of the spec, of all three kinds, with its path.
pub(crate) fn containers<'a>(spec: &'a Value, path: &str) -> Vec<(String, &'a Value)> {
    let mut out = Vec::new();
    for list in CONTAINER_LISTS {
        for (at, container) in list_at(spec, &[list]).iter().enumerate() {
            out.push((format!("{path}.{list}[{at}]"), container));
        }
    }
    out
}

pub(crate) fn validate(spec: &Value, path: &str, faults: &mut Faults) {
    let volumes = volume::validate_all(spec, path, faults);
    container::validate_all(spec, path, &volumes, faults);
    faults.required_one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"]);
    dns(spec, path, faults);
    for (key, value) in spec["nodeSelector"].as_object().into_iter().flatten() {
        faults.label(key, value, &format!("{path}.nodeSelector"));
    }
    security::of_pod(spec, path, faults);
    placement::affinity(&spec["affinity"], &format!("{path}.affinity"), faults);
    dns_config(&spec["dnsConfig"], &format!("{path}.dnsConfig"), faults);
    for (at, gate) in list_at(spec, &["readinessGates"]).iter().enumerate() {
        let kind = gate["conditionType"].as_str().unwrap_or_default();
        faults.all_invalid(&format!("{path}.readinessGates[{at}].conditionType"), kind, names::qualified_name(kind));
    }
    scheduling_gates(spec, path, faults);
    placement::spread(spec, path, faults);
    if spec["hostUsers"] == false {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec[field] == true {
                faults.forbidden(&format!("{path}.{field}"), "when `hostUsers` is false");
            }
        }
    }
    for (field, judge) in
        [("serviceAccountName", names::dns_subdomain as fn(&str) -> Vec<String>), ("nodeName", names::dns_subdomain)]
    {
        named(spec, field, judge, path, faults);
    }
    faults.non_negative(spec, "terminationGracePeriodSeconds", path);
    if let Some(secs) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&secs)
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        faults.invalid(&format!("{path}.activeDeadlineSeconds"), secs, detail);
    }
    named(spec, "hostname", names::dns_label, path, faults);
    named(spec, "subdomain", names::dns_label, path, faults);
    for (at, toleration) in list_at(spec, &["tolerations"]).iter().enumerate() {
        placement::toleration(toleration, &format!("{path}.tolerations[{at}]"), faults);
    }
    for (at, alias) in list_at(spec, &["hostAliases"]).iter().enumerate() {
        let here = format!("{path}.hostAliases[{at}]");
        let ip = alias["ip"].as_str().unwrap_or_default();
        if ip.parse::<std::net::IpAddr>().is_err() {
            faults.invalid(&format!("{here}.ip"), ip, IP_DETAIL);
        }
        for (n, name) in list_at(alias, &["hostnames"]).iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            faults.all_invalid(&format!("{here}.hostnames[{n}]"), name, names::dns_subdomain(name));
        }
    }
    named(spec, "priorityClassName", names::dns_subdomain, path, faults);
    named(spec, "runtimeClassName", names::dns_subdomain, path, faults);
    faults.one_of(spec, "preemptionPolicy", path, &["Never", "PreemptLowerPriority"]);
    if spec["overhead"].is_object() {
        let overhead = serde_json::json!({"limits": spec["overhead"]});
        validate_resources(&overhead, &format!("{path}.overhead"), faults);
    }
    if spec["os"].is_object() {
        faults.required_one_of(&spec["os"], "name", &format!("{path}.os"), &["linux", "windows"]);
    }
}

fn named(spec: &Value, field: &str, judge: fn(&str) -> Vec<String>, path: &str, faults: &mut Faults) {
    if let Some(text) = spec[field].as_str().filter(|text| !text.is_empty()) {
        faults.all_invalid(&format!("{path}.{field}"), text, judge(text));
    }
}

fn dns(spec: &Value, path: &str, faults: &mut Faults) {
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    faults.required_one_of(spec, "dnsPolicy", path, &policies);
    if spec["dnsPolicy"] != "None" {
        return;
    }
    if !spec["dnsConfig"].is_object() {
        faults.required(&format!("{path}.dnsConfig"), "must provide `dnsConfig` when `dnsPolicy` is None");
    } else if list_at(spec, &["dnsConfig", "nameservers"]).is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        faults.required(&format!("{path}.dnsConfig.nameservers"), detail);
    }
}

fn dns_config(config: &Value, path: &str, faults: &mut Faults) {
    let servers = list_at(config, &["nameservers"]);
    if servers.len() > 3 {
        let here = format!("{path}.nameservers");
        faults.invalid(&here, config["nameservers"].clone(), "must not have more than 3 nameservers");
    }
    for (at, server) in servers.iter().enumerate() {
        let text = server.as_str().unwrap_or_default();
        if text.parse::<std::net::IpAddr>().is_err() {
            faults.invalid(&format!("{path}.nameservers[{at}]"), text, IP_DETAIL);
        }
    }
    let searches = list_at(config, &["searches"]);
    if searches.len() > 32 {
        let here = format!("{path}.searches");
        faults.invalid(&here, config["searches"].clone(), "must not have more than 32 search paths");
    }
    for (at, search) in searches.iter().enumerate() {
        let text = search.as_str().unwrap_or_default();
        // A name may end in a dot, and the root alone searches nowhere.
        let bare = text.strip_suffix('.').unwrap_or(text);
        if !(bare.is_empty() && text == ".") {
            faults.all_invalid(&format!("{path}.searches[{at}]"), text, names::dns_subdomain(bare));
        }
    }
    for (at, option) in list_at(config, &["options"]).iter().enumerate() {
        if option["name"].as_str().unwrap_or_default().is_empty() {
            faults.required(&format!("{path}.options[{at}]"), "must not be empty");
        }
    }
}

fn scheduling_gates(spec: &Value, path: &str, faults: &mut Faults) {
    let gates = list_at(spec, &["schedulingGates"]);
    let mut seen = BTreeSet::new();
    for (at, gate) in gates.iter().enumerate() {
        let here = format!("{path}.schedulingGates[{at}]");
        let name = gate["name"].as_str().unwrap_or_default();
        faults.all_invalid(&here, name, names::qualified_name(name));
        if !seen.insert(name) {
            faults.push(FieldError::duplicate(here, name));
        }
    }
    if !gates.is_empty() && spec["nodeName"].as_str().is_some_and(|name| !name.is_empty()) {
        let detail = "cannot be set until all schedulingGates have been cleared";
        faults.forbidden(&format!("{path}.nodeName"), detail);
    }
}

pub(crate) fn validate_template(template: &Value, path: &str, faults: &mut Faults) {
    for (key, value) in template["metadata"]["labels"].as_object().into_iter().flatten() {
        faults.label(key, value, &format!("{path}.metadata.labels"));
    }
    for (key, _) in template["metadata"]["annotations"].as_object().into_iter().flatten() {
        let here = format!("{path}.metadata.annotations");
        faults.all_invalid(&here, key, names::qualified_name(&key.to_ascii_lowercase()));
    }
    validate(&template["spec"], &format!("{path}.spec"), faults);
    if !list_at(template, &["spec", "ephemeralContainers"]).is_empty() {
        let here = format!("{path}.spec.ephemeralContainers");
        faults.forbidden(&here, "ephemeral containers not allowed in pod template");
    }
}
