//! Claims find their volumes, and volumes without a claim are kept, given back or taken away.
//!
//! * `claim` — a claim's way to its volume
//! * `volume` — what a volume is when its claim comes and goes
//! * `local_path` — the built-in provisioner: directories on nodes

mod claim;
mod local_path;
mod volume;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, binding, meta};

pub use local_path::storage_class;

const BOUND_BY: &str = "pv.kubernetes.io/bound-by-controller";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

pub struct VolumeBinder;

impl Part for VolumeBinder {
    fn name(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Claim, Kind::Volume, Kind::StorageClass, Kind::Node]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        let waiting = |class: Option<&str>| -> Vec<Key> {
            view.list(Kind::Claim)
                .filter(|claim| meta::str_at(claim, &["status", "phase"]) != "Bound")
                .filter(|claim| class.is_none_or(|class| binding::class(claim) == class))
                .map(|claim| Key::of(claim))
                .collect()
        };
        match kind {
            Kind::Claim => {
                let volume = meta::str_at(object, &["spec", "volumeName"]);
                let named = (!volume.is_empty()).then(|| Key::new("", volume));
                // One that was reserved for this claim, or made for it.
                let reserved = view.list(Kind::Volume).filter(|volume| binding::is_for(volume, object));
                [Key::of(object)].into_iter().chain(named).chain(reserved.map(|volume| Key::of(volume))).collect()
            }
            Kind::Volume => {
                let reference = &object["spec"]["claimRef"];
                let mut keys = vec![Key::of(object)];
                match reference["name"].as_str() {
                    Some(name) => keys.push(Key::new(reference["namespace"].as_str().unwrap_or_default(), name)),
                    None => keys.extend(waiting(Some(binding::class(object)))),
                }
                keys
            }
            Kind::StorageClass => waiting(Some(meta::name(object))),
            // A node that has gone holds nothing any more.
            _ if view.get(Kind::Node, "", meta::name(object)).is_none() => {
                view.list(Kind::Volume).map(|volume| Key::of(volume)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let writes = match key.namespace.as_str() {
            "" => view.at(Kind::Volume, key).map(|volume| volume::look(view, volume, now)),
            _ => view.at(Kind::Claim, key).map(|claim| claim::look(view, claim)),
        };
        Outcome::of(writes.unwrap_or_default())
    }
}

/// Gives a volume to a claim: first the volume says so, then the claim, so that nobody else gets it in between.
fn bind(volume: &Value, claim: &Value) -> Vec<Write> {
    let mut writes = Vec::new();
    let reference = &volume["spec"]["claimRef"];
    if reference["uid"] != meta::uid(claim) {
        let mut changed = volume.clone();
        if reference.is_null() {
            meta::object_at(&mut changed, &["metadata", "annotations"]).insert(BOUND_BY.into(), "yes".into());
        }
        changed["spec"]["claimRef"] = serde_json::json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": meta::namespace(claim), "name": meta::name(claim), "uid": meta::uid(claim),
            "resourceVersion": meta::resource_version(claim)});
        // The whole object: whoever changed it meanwhile has it.
        writes.push(Write::Update(Kind::Volume, changed));
    }
    let completed = meta::at(claim, &["metadata", "annotations", BIND_COMPLETED]).is_some();
    if meta::str_at(claim, &["spec", "volumeName"]).is_empty() || !completed {
        let mut patch =
            serde_json::json!({"metadata": {"uid": meta::uid(claim), "annotations": {BIND_COMPLETED: "yes"}}});
        if meta::str_at(claim, &["spec", "volumeName"]).is_empty() {
            patch["metadata"]["annotations"][BOUND_BY] = "yes".into();
            patch["spec"] = serde_json::json!({"volumeName": meta::name(volume)});
        }
        writes.push(Write::Merge { kind: Kind::Claim, key: Key::of(claim), sub: "", patch });
    }
    let status = serde_json::json!({"phase": "Bound", "accessModes": volume["spec"]["accessModes"], "capacity": volume["spec"]["capacity"]});
    let have = &claim["status"];
    if ["phase", "accessModes", "capacity"].iter().any(|field| have[field] != status[field]) {
        let patch = serde_json::json!({"status": status});
        writes.push(Write::Merge { kind: Kind::Claim, key: Key::of(claim), sub: "status", patch });
    }
    if meta::str_at(volume, &["status", "phase"]) != "Bound" {
        let patch = serde_json::json!({"status": {"phase": "Bound"}});
        writes.push(Write::Merge { kind: Kind::Volume, key: Key::of(volume), sub: "status", patch });
    }
    writes
}

#[cfg(test)]
mod tests;
