//! Node, RuntimeClass.

use super::Strategy;
use crate::{meta, names};

pub(super) const NODE: Strategy = Strategy {
    validate: |object, faults| {
        for (at, taint) in meta::list_at(object, &["spec", "taints"]).iter().enumerate() {
            let path = format!("spec.taints[{at}]");
            let key = taint["key"].as_str().unwrap_or_default();
            faults.all_invalid(&format!("{path}.key"), key, names::qualified_name(key));
            let value = taint["value"].as_str().unwrap_or_default();
            faults.all_invalid(&format!("{path}.value"), value, names::label_value(value));
            faults.required_one_of(taint, "effect", &path, &["NoExecute", "NoSchedule", "PreferNoSchedule"]);
            let same = |other: &&serde_json::Value| other["key"] == taint["key"] && other["effect"] == taint["effect"];
            if meta::list_at(object, &["spec", "taints"])[..at].iter().any(|other| same(&other)) {
                faults.push(crate::FieldError::duplicate(path, taint.clone()));
            }
        }
        for (at, cidr) in meta::list_at(object, &["spec", "podCIDRs"]).iter().enumerate() {
            let text = cidr.as_str().unwrap_or_default();
            if !super::network::is_cidr(text) {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                faults.invalid(&format!("spec.podCIDRs[{at}]"), text, detail);
            }
        }
    },
    validate_update: |new, old, faults| {
        let was = old["spec"].get("providerID").filter(|id| *id != "");
        if was.is_some() {
            faults.immutable(new["spec"].get("providerID"), was, "spec.providerID");
        }
        let was = old["spec"].get("podCIDR").filter(|cidr| *cidr != "");
        if was.is_some() && new["spec"].get("podCIDR") != was {
            faults.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
        }
    },
    // The node's agent registers itself with its status.
    status_on_create: true,
    ..Strategy::PLAIN
};

pub(super) const RUNTIME_CLASS: Strategy = Strategy {
    validate: |object, faults| match object["handler"].as_str().unwrap_or_default() {
        "" => faults.required("handler", ""),
        handler => faults.all_invalid("handler", handler, names::dns_label(handler)),
    },
    validate_update: |new, old, faults| faults.immutable(new.get("handler"), old.get("handler"), "handler"),
    ..Strategy::PLAIN
};
