//! What a volume is when its claim comes and goes. Pure.

use cache::{Key, Kind, View, Write};
use jiff::Timestamp;
use resources::{Value, binding, decode, meta};
use serde_json::json;

use super::{BOUND_BY, local_path};

pub fn look(view: &View, volume: &Value, now: Timestamp) -> Vec<Write> {
    if meta::is_terminating(volume) {
        return local_path::let_go(view, volume).into_iter().collect();
    }
    let phase = |phase: &str| -> Vec<Write> {
        if meta::str_at(volume, &["status", "phase"]) == phase {
            return Vec::new();
        }
        let stamp = decode::format_time(now, 0);
        let patch = json!({"status": {"phase": phase, "lastPhaseTransitionTime": stamp}});
        vec![Write::Merge { kind: Kind::Volume, key: Key::of(volume), sub: "status", patch }]
    };
    let reference = &volume["spec"]["claimRef"];
    let Some(name) = reference["name"].as_str() else { return phase("Available") };
    let namespace = reference["namespace"].as_str().unwrap_or_default();
    let uid = reference["uid"].as_str().unwrap_or_default();
    let claim = view.get(Kind::Claim, namespace, name).filter(|claim| uid.is_empty() || meta::uid(claim) == uid);
    match claim {
        // Kept for a claim that has yet to come.
        None if uid.is_empty() => phase("Available"),
        None => {
            let mut writes = phase("Released");
            if meta::str_at(volume, &["spec", "persistentVolumeReclaimPolicy"]) == "Delete" {
                writes.extend(reclaim(volume, phase));
            }
            writes
        }
        Some(claim) if meta::str_at(claim, &["spec", "volumeName"]) == meta::name(volume) => phase("Bound"),
        // The claim's own look binds it.
        Some(claim) if meta::str_at(claim, &["spec", "volumeName"]).is_empty() => Vec::new(),
        // The claim went to another volume: what we reserved is free again, what a person reserved stays.
        Some(_) if meta::at(volume, &["metadata", "annotations", BOUND_BY]).is_some() => {
            let mut changed = volume.clone();
            meta::object_at(&mut changed, &["spec"]).remove("claimRef");
            meta::object_at(&mut changed, &["metadata", "annotations"]).remove(BOUND_BY);
            vec![Write::Update(Kind::Volume, changed)]
        }
        Some(_) => phase("Available"),
    }
}

fn reclaim(volume: &Value, phase: impl Fn(&str) -> Vec<Write>) -> Vec<Write> {
    let provisioner = meta::str_at(volume, &["metadata", "annotations", binding::PROVISIONED_BY]);
    match provisioner {
        binding::LOCAL_PATH => vec![Write::delete(Kind::Volume, volume)],
        // Whoever made it takes it away.
        other if !other.is_empty() => Vec::new(),
        _ => {
            let mut writes = phase("Failed");
            if !writes.is_empty() {
                let text = "no deletable volume plugin matched";
                writes.push(Write::warning(Kind::Volume, volume, "VolumeFailedDelete", text));
            }
            writes
        }
    }
}
