//! What a container asks for and what it is limited to.

use serde_json::Value;

use crate::kinds::rules::Faults;
use crate::quantity::Quantity;

fn amount(value: &Value) -> Option<Quantity> {
    value.as_str().and_then(|text| Quantity::parse(text).ok())
}

/// Names without a domain that containers may have amounts of.
fn is_standard(name: &str) -> bool {
    ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-")
}

/// Names that mean something elsewhere (in quotas), and so are told apart from words that mean nothing.
fn is_known(name: &str) -> bool {
    let elsewhere = [
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "storage",
    ];
    is_standard(name)
        || elsewhere.contains(&name)
        || ["requests.", "limits."].iter().any(|prefix| name.strip_prefix(prefix).is_some_and(is_standard))
        || name == "requests.storage"
}

/// Resources of somebody's domain, which nobody has a part of.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// These are given as asked for, never more.
fn is_exact(name: &str) -> bool {
    name.starts_with("hugepages-") || is_extended(name)
}

pub(crate) fn validate_resources(resources: &Value, path: &str, faults: &mut Faults) {
    let limits = &resources["limits"];
    let (mut with_others, mut huge) = (false, false);
    for list in ["limits", "requests"] {
        for (name, value) in resources[list].as_object().into_iter().flatten() {
            let here = format!("{path}.{list}[{name}]");
            if !name.contains('/') {
                if !is_known(name) {
                    faults.invalid(&here, name.as_str(), "must be a standard resource type or fully qualified");
                }
                if !is_standard(name) {
                    faults.invalid(&here, name.as_str(), "must be a standard resource for containers");
                }
            }
            with_others |= name == "cpu" || name == "memory";
            huge |= name.starts_with("hugepages-");
            let Some(quantity) = amount(value) else { continue };
            if quantity.is_negative() {
                faults.invalid(&here, value.clone(), "must be greater than or equal to 0");
            } else if is_extended(name) && quantity.nanos() % 1_000_000_000 != 0 {
                faults.invalid(&here, value.clone(), "must be an integer");
            }
            if list == "limits" {
                continue;
            }
            match limits.get(name).and_then(amount) {
                Some(most) if is_exact(name) && quantity != most => {
                    let detail = format!("must be equal to {name} limit of {}", text(&limits[name]));
                    faults.invalid(&format!("{path}.requests"), value.clone(), detail);
                }
                Some(most) if quantity > most => {
                    let detail = format!("must be less than or equal to {name} limit of {}", text(&limits[name]));
                    faults.invalid(&format!("{path}.requests"), value.clone(), detail);
                }
                None if is_exact(name) => {
                    let detail = "Limit must be set for non overcommitable resources";
                    faults.required(&format!("{path}.limits"), detail);
                }
                _ => {}
            }
        }
    }
    if huge && !with_others {
        faults.forbidden(path, "HugePages require cpu or memory");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
