//! Security contexts of pods and containers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::local_path;
use crate::errors::FieldError;
use crate::kinds::rules::Faults;
use crate::meta::list_at;

const ID: &str = "must be between 0 and 2147483647, inclusive";

fn id(context: &Value, field: &str, path: &str, faults: &mut Faults) {
    if let Some(id) = context[field].as_i64()
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        faults.invalid(&format!("{path}.{field}"), id, ID);
    }
}

pub(super) fn of_pod(spec: &Value, path: &str, faults: &mut Faults) {
    let context = &spec["securityContext"];
    let path = format!("{path}.securityContext");
    id(context, "fsGroup", &path, faults);
    id(context, "runAsUser", &path, faults);
    id(context, "runAsGroup", &path, faults);
    for (at, group) in list_at(context, &["supplementalGroups"]).iter().enumerate() {
        if !group.as_i64().is_some_and(|id| (0..=i64::from(i32::MAX)).contains(&id)) {
            faults.invalid(&format!("{path}.supplementalGroups[{at}]"), group.clone(), ID);
        }
    }
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        faults.invalid(&format!("{path}.shareProcessNamespace"), true, detail);
    }
    let mut seen = BTreeSet::new();
    for (at, sysctl) in list_at(context, &["sysctls"]).iter().enumerate() {
        let here = format!("{path}.sysctls[{at}].name");
        let name = sysctl["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            faults.required(&here, "");
        } else if !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex \
                ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            faults.invalid(&here, name, detail);
        } else if !seen.insert(name) {
            faults.push(FieldError::duplicate(here, name));
        }
    }
    faults.one_of(context, "fsGroupChangePolicy", &path, &["Always", "OnRootMismatch"]);
    faults.one_of(context, "supplementalGroupsPolicy", &path, &["Merge", "Strict"]);
    profiles(context, &path, faults);
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        !bytes.is_empty()
            && edge(bytes[0])
            && edge(bytes[bytes.len() - 1])
            && bytes.iter().all(|&b| edge(b) || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

pub(super) fn of_container(context: &Value, path: &str, faults: &mut Faults) {
    id(context, "runAsUser", path, faults);
    id(context, "runAsGroup", path, faults);
    faults.one_of(context, "procMount", path, &["Default", "Unmasked"]);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            faults.invalid(path, context.clone(), detail);
        }
        if list_at(context, &["capabilities", "add"]).iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            faults.invalid(path, context.clone(), detail);
        }
    }
    profiles(context, path, faults);
}

fn profiles(context: &Value, path: &str, faults: &mut Faults) {
    for (field, word) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = &context[field];
        if !profile.is_object() {
            continue;
        }
        let here = format!("{path}.{field}");
        let kind = profile["type"].as_str().unwrap_or_default();
        let local = profile["localhostProfile"].as_str();
        match kind {
            "" => faults.required(&format!("{here}.type"), &format!("type is required when {field} is set")),
            _ => faults.one_of(profile, "type", &here, &["Localhost", "RuntimeDefault", "Unconfined"]),
        }
        let local_at = format!("{here}.localhostProfile");
        match (kind, local) {
            ("Localhost", None | Some("")) => {
                faults.required(&local_at, &format!("must be set when {word} type is Localhost"));
            }
            ("Localhost", Some(text)) if field == "seccompProfile" => local_path(text, &local_at, faults),
            ("Localhost", Some(_)) | (_, None) => {}
            (_, Some(text)) => {
                faults.invalid(&local_at, text, format!("can only be set when {word} type is Localhost"));
            }
        }
    }
}
