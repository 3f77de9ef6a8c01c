//! The storage of a StatefulSet's pods: made before the pod, kept when it goes, unless the set says otherwise. Pure.

use cache::{Key, Kind, View, Write};
use resources::{Value, meta};
use serde_json::json;

use super::Look;

pub fn templates(set: &Value) -> &[Value] {
    meta::list_at(set, &["spec", "volumeClaimTemplates"])
}

pub fn name(set: &Value, template: &Value, ordinal: i64) -> String {
    format!("{}-{}-{ordinal}", meta::name(template), meta::name(set))
}

/// Sets that a claim may belong to, by its name.
pub fn set_keys(view: &View, claim: &Value) -> Vec<Key> {
    let of = |set: &Value| {
        templates(set).iter().any(|template| {
            let rest = meta::name(claim).strip_prefix(&format!("{}-{}-", meta::name(template), meta::name(set)));
            rest.is_some_and(|ordinal| ordinal.parse::<i64>().is_ok())
        })
    };
    let sets = view.in_namespace(Kind::StatefulSet, meta::namespace(claim));
    sets.filter(|set| of(set)).map(|set| Key::of(set)).collect()
}

/// Makes the claims of a pod that are missing; false while one of them is going away.
pub fn make(view: &View, set: &Value, ordinal: i64, pod: &str, writes: &mut Vec<Write>) -> bool {
    for template in templates(set) {
        let name = name(set, template, ordinal);
        match view.get(Kind::Claim, meta::namespace(set), &name) {
            Some(claim) if meta::is_terminating(claim) => return false,
            Some(_) => continue,
            None => {}
        }
        let check = still_there(set);
        if !writes.contains(&check) {
            writes.push(check);
        }
        let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": template["spec"],
            "metadata": {"name": name, "namespace": meta::namespace(set)}});
        if let Some(annotations) = meta::at(template, &["metadata", "annotations"]) {
            claim["metadata"]["annotations"] = annotations.clone();
        }
        // By these the claims of a set are found when the set has gone.
        let mut labels = meta::at(template, &["metadata", "labels"]).cloned().unwrap_or_else(|| json!({}));
        for (key, value) in meta::map_at(set, &["spec", "selector", "matchLabels"]) {
            labels[key] = value.clone();
        }
        claim["metadata"]["labels"] = labels;
        if policy(set, "whenDeleted") == "Delete" {
            claim["metadata"]["ownerReferences"] = json!([owner(Kind::StatefulSet, set)]);
        }
        writes.push(Write::Create(Kind::Claim, claim));
        let text = format!("create Claim {name} Pod {pod} in StatefulSet {} success", meta::name(set));
        writes.push(Write::normal(Kind::StatefulSet, set, "SuccessfulCreate", text));
    }
    true
}

/// Changes nothing, and is refused if the set was deleted or changed since it was looked at: a claim that outlives its set by policy would
/// never be anybody's.
fn still_there(set: &Value) -> Write {
    let patch = json!({"metadata": {"uid": meta::uid(set), "resourceVersion": meta::resource_version(set)}});
    Write::Merge { kind: Kind::StatefulSet, key: Key::of(set), sub: "", patch }
}

fn policy<'a>(set: &'a Value, when: &str) -> &'a str {
    match meta::str_at(set, &["spec", "persistentVolumeClaimRetentionPolicy", when]) {
        "" => "Retain",
        policy => policy,
    }
}

fn owner(kind: Kind, object: &Value) -> Value {
    json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "name": meta::name(object), "uid": meta::uid(object),
        "controller": true, "blockOwnerDeletion": true})
}

/// Lets claims go with the set, with a pod that is too much, or with nobody, as the set's policy says.
pub fn keep_owners(view: &View, look: &Look<'_>, writes: &mut Vec<Write>) {
    let set = look.set;
    let (deleted, scaled) = (policy(set, "whenDeleted"), policy(set, "whenScaled"));
    let condemned = look.condemned.iter().map(|(ordinal, pod)| (*ordinal, *pod, true));
    let wanted = look.wanted.iter().map(|(ordinal, pod)| (*ordinal, *pod, false));
    for (ordinal, pod, too_much) in wanted.chain(condemned) {
        let keeper = match (too_much && scaled == "Delete", deleted == "Delete") {
            (true, _) => Some(owner(Kind::Pod, pod)),
            (false, true) => Some(owner(Kind::StatefulSet, set)),
            (false, false) => None,
        };
        for template in templates(set) {
            let Some(claim) = view.get(Kind::Claim, meta::namespace(set), &name(set, template, ordinal)) else {
                continue;
            };
            let have = meta::list_at(claim, &["metadata", "ownerReferences"]);
            let ours = |reference: &&Value| {
                let uid = reference["uid"].as_str().unwrap_or_default();
                uid == meta::uid(set) || (reference["kind"] == "Pod" && reference["name"] == meta::name(pod))
            };
            let mut wanted: Vec<Value> = have.iter().filter(|reference| !ours(reference)).cloned().collect();
            if !wanted.iter().any(|reference| reference["controller"] == true) {
                wanted.extend(keeper.clone());
            }
            let uids = |list: &[Value]| {
                let mut uids: Vec<String> =
                    list.iter().map(|one| one["uid"].as_str().unwrap_or_default().to_owned()).collect();
                uids.sort();
                uids
            };
            if uids(&wanted) != uids(have) && !meta::is_terminating(claim) {
                let patch = json!({"metadata": {"uid": meta::uid(claim), "ownerReferences": wanted}});
                writes.push(Write::Merge { kind: Kind::Claim, key: Key::of(claim), sub: "", patch });
            }
        }
    }
}
