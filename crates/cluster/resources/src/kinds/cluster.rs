//! Namespace, Event, LimitRange, ResourceQuota, Lease, PriorityClass.

use serde_json::{Value, json};

use super::rules::{Faults, default_to};
use super::{Strategy, status};
use crate::quantity::Quantity;
use crate::{FieldError, meta, names};

pub(super) const NAMESPACE: Strategy = Strategy {
    default: |object| {
        // Selectors rely on every namespace carrying its name as a label.
        let name = meta::name(object).to_owned();
        if !name.is_empty() {
            meta::object_at(object, &["metadata", "labels"]).insert("kubernetes.io/metadata.name".into(), name.into());
        }
    },
    prepare_create: |object| {
        object["status"] = json!({"phase": "Active"});
        let spec = meta::object_at(object, &["spec"]);
        let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = finalizers.as_array_mut()
            && !list.iter().any(|name| name == "kubernetes")
        {
            list.push("kubernetes".into());
        }
    },
    prepare_update: |new, old| {
        // spec.finalizers change through the finalize subresource only.
        new["spec"] = old["spec"].clone();
    },
    name: names::dns_label,
    validate_status: status::namespace,
    ..Strategy::PLAIN
};

pub(super) const EVENT: Strategy = Strategy {
    validate: |object, faults| {
        let involved = object.get("involvedObject").or(object.get("regarding"));
        let namespace = involved.map_or("", |object| object["namespace"].as_str().unwrap_or_default());
        let own = meta::namespace(object);
        let fits = if namespace.is_empty() { own == "default" || own.is_empty() } else { namespace == own };
        if !(fits || namespace.is_empty() && own == "kube-system") {
            faults.invalid("involvedObject.namespace", namespace, "does not match event.namespace");
        }
    },
    create_on_update: true,
    ..Strategy::PLAIN
};

/// The newer group asks for more.
pub(super) const NEW_EVENT: Strategy = Strategy {
    validate: |object, faults| {
        (EVENT.validate)(object, faults);
        if object["eventTime"].as_str().unwrap_or_default().is_empty() {
            faults.required("eventTime", "");
        }
        let kind = object["type"].as_str().unwrap_or_default();
        if kind != "Normal" && kind != "Warning" {
            faults.invalid("type", "", format!("has invalid type: {kind}"));
        }
        for (field, max) in [("reportingController", 0), ("reportingInstance", 128), ("action", 128), ("reason", 128)] {
            match object[field].as_str().unwrap_or_default() {
                "" => faults.required(field, ""),
                name if max == 0 => faults.all_invalid(field, name, names::qualified_name(name)),
                text if text.len() > max => {
                    faults.invalid(field, "", format!("can have at most {max} characters"));
                }
                _ => {}
            }
        }
        if object["note"].as_str().is_some_and(|note| note.len() > 1024) {
            faults.invalid("message", "", "can have at most 1024 characters");
        }
    },
    ..EVENT
};

pub(super) const LIMIT_RANGE: Strategy = Strategy {
    default: |object| {
        let spec = meta::object_at(object, &["spec"]);
        for limit in super::rules::each(spec, "limits") {
            if limit.get("type").is_none_or(|kind| kind != "Container") {
                continue;
            }
            // The default request is the default limit, and that the maximum, where not said otherwise.
            if let Some(max) = limit.get("max").cloned() {
                fill(limit, "default", &max);
            }
            if let Some(default) = limit.get("default").cloned() {
                fill(limit, "defaultRequest", &default);
            }
            if let Some(min) = limit.get("min").cloned() {
                fill(limit, "defaultRequest", &min);
            }
        }
    },
    validate: |object, faults| {
        let mut seen = std::collections::BTreeSet::new();
        for (at, limit) in meta::list_at(object, &["spec", "limits"]).iter().enumerate() {
            let path = format!("spec.limits[{at}]");
            let kind = limit["type"].as_str().unwrap_or_default();
            if kind.is_empty() {
                faults.required(&format!("{path}.type"), "");
            }
            if !seen.insert(kind) {
                faults.push(FieldError::duplicate(format!("{path}.type"), kind));
            }
            limits(limit, kind, &path, faults);
        }
    },
    ..Strategy::PLAIN
};

/// The numbers of one limit fit each other.
fn limits(limit: &Value, kind: &str, path: &str, faults: &mut Faults) {
    let amount = |list: &str, name: &str| limit[list][name].as_str().and_then(|text| Quantity::parse(text).ok());
    let text = |list: &str, name: &str| limit[list][name].as_str().unwrap_or_default().to_owned();
    if kind == "Pod" {
        for list in ["default", "defaultRequest"] {
            if limit[list].as_object().is_some_and(|map| !map.is_empty()) {
                let here = format!("{path}.{list}");
                faults.forbidden(&here, "may not be specified when `type` is 'Pod'");
            }
        }
    }
    if kind == "PersistentVolumeClaim" && amount("min", "storage").is_none() && amount("max", "storage").is_none() {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        faults.required(path, detail);
    }
    let lists = ["default", "defaultRequest", "max", "maxLimitRequestRatio", "min"];
    let names: std::collections::BTreeSet<&String> =
        lists.iter().flat_map(|list| limit[list].as_object().into_iter().flatten()).map(|(name, _)| name).collect();
    for name in names {
        // (the list that is at fault, the smaller, the greater, what upstream calls them)
        let pairs = [
            ("min", "min", "max", "min value", "max value"),
            ("defaultRequest", "min", "defaultRequest", "min value", "default request value"),
            ("defaultRequest", "defaultRequest", "max", "default request value", "max value"),
            ("defaultRequest", "defaultRequest", "default", "default request value", "default limit value"),
            ("default", "min", "default", "min value", "default value"),
            ("default", "default", "max", "default value", "max value"),
        ];
        for (at, smaller, greater, small_word, great_word) in pairs {
            if let (Some(small), Some(great)) = (amount(smaller, name), amount(greater, name))
                && small > great
            {
                let detail = format!(
                    "{small_word} {} is greater than {great_word} {}",
                    text(smaller, name),
                    text(greater, name)
                );
                faults.invalid(&format!("{path}.{at}[{name}]"), text(at, name), detail);
            }
        }
        if amount("maxLimitRequestRatio", name).is_some_and(|ratio| ratio.nanos() < 1_000_000_000) {
            let ratio = text("maxLimitRequestRatio", name);
            let here = format!("{path}.maxLimitRequestRatio[{name}]");
            faults.invalid(&here, ratio.clone(), format!("ratio {ratio} is less than 1"));
        }
    }
}

fn fill(limit: &mut serde_json::Map<String, Value>, name: &str, from: &Value) {
    let to = limit.entry(name).or_insert_with(|| json!({}));
    if let (Some(to), Some(from)) = (to.as_object_mut(), from.as_object()) {
        for (key, value) in from {
            to.entry(key).or_insert_with(|| value.clone());
        }
    }
}

pub(super) const RESOURCE_QUOTA: Strategy = Strategy {
    validate: |object, faults| {
        for (name, value) in meta::map_at(object, &["spec", "hard"]) {
            let path = format!("spec.hard[{name}]");
            quota_name(name, &path, faults);
            let quantity = value.as_str().and_then(|text| Quantity::parse(text).ok());
            if quantity.is_some_and(|quantity| quantity.is_negative()) {
                faults.invalid(&path, value.clone(), "must be greater than or equal to 0");
            }
            let whole = COUNTED.contains(&name.as_str()) || name.starts_with("count/");
            if whole && quantity.is_some_and(|quantity| quantity.nanos() % 1_000_000_000 != 0) {
                faults.invalid(&path, value.clone(), "must be an integer");
            }
        }
        scopes(object, faults);
    },
    validate_update: |new, old, faults| {
        let sorted = |object: &Value| {
            let mut scopes = meta::list_at(object, &["spec", "scopes"]).to_vec();
            scopes.sort_by_key(ToString::to_string);
            scopes
        };
        if sorted(new) != sorted(old) {
            faults.invalid("spec.scopes", new["spec"]["scopes"].clone(), "field is immutable");
        }
    },
    validate_status: status::resource_quota,
    ..Strategy::PLAIN
};

/// What a quota counts in whole objects.
const COUNTED: [&str; 9] = [
    "pods",
    "services",
    "services.nodeports",
    "services.loadbalancers",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
];

fn quota_name(name: &str, path: &str, faults: &mut Faults) {
    let amounts = ["cpu", "memory", "ephemeral-storage", "storage"];
    let of_amounts = ["requests.", "limits."].iter().any(|prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| amounts.contains(&rest) || rest.starts_with("hugepages-") || rest.contains('/'))
    });
    let known = COUNTED.contains(&name) || amounts.contains(&name) || of_amounts || name.starts_with("hugepages-");
    if name.contains('/') || known {
        return faults.all_invalid(path, name, names::qualified_name(name));
    }
    faults.invalid(path, name, "must be a standard resource type or fully qualified");
    faults.invalid(path, name, "must be a standard resource for quota");
}

fn scopes(object: &Value, faults: &mut Faults) {
    let known = [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    ];
    let scopes = meta::list_at(object, &["spec", "scopes"]);
    for scope in scopes {
        if !scope.as_str().is_some_and(|scope| known.contains(&scope)) {
            faults.push(FieldError::unsupported("spec.scopes", scope.clone(), &known));
        }
    }
    let has = |scope: &str| scopes.iter().any(|own| own == scope);
    if (has("BestEffort") && has("NotBestEffort")) || (has("Terminating") && has("NotTerminating")) {
        faults.invalid("spec.scopes", object["spec"]["scopes"].clone(), "conflicting scopes");
    }
    for (at, expression) in meta::list_at(object, &["spec", "scopeSelector", "matchExpressions"]).iter().enumerate() {
        let path = format!("spec.scopeSelector.matchExpressions[{at}]");
        faults.one_of(expression, "scopeName", &path, &known);
        let count = meta::list_at(expression, &["values"]).len();
        match expression["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if count == 0 => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                faults.required(&format!("{path}.values"), detail);
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let detail = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
                faults.invalid(&format!("{path}.values"), expression["values"].clone(), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => faults.invalid(&format!("{path}.operator"), other, "not a valid selector operator"),
        }
    }
}

pub(super) const LEASE: Strategy = Strategy {
    validate: |object, faults| {
        faults.positive(&object["spec"], "leaseDurationSeconds", "spec");
        faults.non_negative(&object["spec"], "leaseTransitions", "spec");
    },
    create_on_update: true,
    unconditional_update: false,
    ..Strategy::PLAIN
};

/// The largest priority a user may give; more is the system's.
const PRIORITY_MAX: i64 = 1_000_000_000;

pub(super) const PRIORITY_CLASS: Strategy = Strategy {
    default: |object| {
        if let Some(map) = object.as_object_mut() {
            default_to(map, "preemptionPolicy", "PreemptLowerPriority");
            default_to(map, "value", 0);
        }
    },
    validate: |object, faults| {
        let name = meta::name(object);
        let system = matches!(name, "system-node-critical" | "system-cluster-critical");
        if name.starts_with("system-") && !system {
            faults.forbidden(
                "metadata.name",
                "priority class names with 'system-' prefix are reserved for system use only. error: ",
            );
        }
        if object["value"].as_i64().is_some_and(|value| value > PRIORITY_MAX) && !system {
            faults.forbidden("value", &format!("maximum allowed value of a user defined priority is {PRIORITY_MAX}"));
        }
    },
    validate_update: |new, old, faults| {
        if new["value"] != old["value"] {
            faults.forbidden("value", "may not be changed in an update.");
        }
        faults.immutable(new.get("preemptionPolicy"), old.get("preemptionPolicy"), "preemptionPolicy");
    },
    generation: true,
    ..Strategy::PLAIN
};

pub(super) const LEASE_CANDIDATE: Strategy = Strategy {
    validate: validate_candidate,
    validate_update: |new, old, faults| {
        let name = &new["spec"]["leaseName"];
        if *name != old["spec"]["leaseName"] {
            faults.invalid("spec.leaseName", name.clone(), "field is immutable");
        }
    },
    name: names::config_key,
    create_on_update: true,
    unconditional_update: false,
    ..Strategy::PLAIN
};

fn validate_candidate(object: &Value, faults: &mut Faults) {
    const OLDEST: &str = "OldestEmulationVersion";
    let text = |field: &str| object["spec"][field].as_str().unwrap_or_default();
    if text("leaseName").is_empty() {
        faults.required("spec.leaseName", "");
    }
    let (emulated, own) = (text("emulationVersion"), text("binaryVersion"));
    let read = |field: &str, version: &str, faults: &mut Faults| {
        let read = semantic_version(version);
        if read.is_none() && !version.is_empty() {
            faults.invalid(&format!("spec.{field}"), version, "must be a valid semantic version");
        }
        read
    };
    let emulates = read("emulationVersion", emulated, faults);
    if own.is_empty() {
        faults.required("spec.binaryVersion", "");
    }
    let is = read("binaryVersion", own, faults);
    if !own.is_empty() && !emulated.is_empty() && is.unwrap_or_default() < emulates.unwrap_or_default() {
        faults.invalid("spec.binaryVersion", own, "must be greater than or equal to `emulationVersion`");
    }
    let strategy = text("strategy");
    match strategy {
        "" => faults.required("spec.strategy", ""),
        OLDEST if emulates.unwrap_or_default() == Default::default() => {
            faults.required("spec.emulationVersion", "must be specified when `strategy` is 'OldestEmulationVersion'");
        }
        OLDEST => {}
        // The path is upstream's.
        other if !other.contains('/') => {
            faults.push(FieldError::unsupported("spec.strategy.strategy", other, &[OLDEST]));
        }
        other => faults.all_invalid("spec.strategy.strategy", other, names::qualified_name(other)),
    }
}

/// Major, minor and patch of a version, without what follows them.
fn semantic_version(text: &str) -> Option<(u64, u64, u64)> {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !build.into_iter().chain(pre).flat_map(|words| words.split('.')).all(word) {
        return None;
    }
    let number = |part: &str| {
        let plain = part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
        part.parse().ok().filter(|_| plain)
    };
    let parts: Vec<&str> = core.split('.').collect();
    let [major, minor, patch] = parts[..] else { return None };
    Some((number(major)?, number(minor)?, number(patch)?))
}

/// The name of an API's registration is its version and group.
pub(super) const API_SERVICE: Strategy = Strategy {
    default: |object| {
        if let Some(service) = object["spec"].get_mut("service").and_then(Value::as_object_mut) {
            default_to(service, "port", 443);
        }
    },
    validate: |object, faults| {
        let spec = &object["spec"];
        let text = |field: &str| spec[field].as_str().unwrap_or_default();
        let wanted = format!("{}.{}", text("version"), text("group"));
        if meta::name(object) != wanted {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            faults.invalid("metadata.name", meta::name(object), detail);
        }
        if text("group").is_empty() {
            if text("version") != "v1" {
                let detail = "only v1 may have an empty group and it better be legacy kube";
                faults.required("spec.group", detail);
            }
        } else {
            faults.all_invalid("spec.group", text("group"), names::dns_subdomain(text("group")));
        }
        faults.all_invalid("spec.version", text("version"), names::dns_1035_label(text("version")));
        for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let value = spec[field].as_i64().unwrap_or(0);
            if !(1..=max).contains(&value) {
                faults.invalid(&format!("spec.{field}"), value, format!("must be positive and less than {max}"));
            }
        }
        let bundle = text("caBundle");
        let insecure = spec["insecureSkipTLSVerify"] == true;
        if !spec["service"].is_object() {
            if !bundle.is_empty() {
                let size = super::from_base64(bundle).map_or(0, |bytes| bytes.len());
                let detail = "local APIServices may not have a caBundle";
                faults.invalid("spec.caBundle", format!("{size} bytes"), detail);
            }
            if insecure {
                let detail = "local APIServices may not have insecureSkipTLSVerify";
                faults.invalid("spec.insecureSkipTLSVerify", true, detail);
            }
            return;
        }
        for field in ["namespace", "name"] {
            if spec["service"][field].as_str().unwrap_or_default().is_empty() {
                faults.required(&format!("spec.service.{field}"), "");
            }
        }
        if insecure && !bundle.is_empty() {
            faults.invalid("spec.insecureSkipTLSVerify", true, "may not be true if caBundle is present");
        }
    },
    name: names::path_segment,
    ..Strategy::PLAIN
};
