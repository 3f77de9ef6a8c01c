//! A claim's way to its volume. Pure.

use cache::{Key, Kind, View, Write};
use resources::{Value, binding, meta};
use serde_json::json;

use super::{BIND_COMPLETED, bind, local_path};

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

pub fn look(view: &View, claim: &Value) -> Vec<Write> {
    let name = meta::str_at(claim, &["spec", "volumeName"]);
    if !name.is_empty() {
        return named(view, claim, name);
    }
    if meta::is_terminating(claim) {
        return Vec::new();
    }
    let class_name = binding::class(claim);
    let class = view.get(Kind::StorageClass, "", class_name);
    let waits = class.is_some_and(|class| class["volumeBindingMode"] == "WaitForFirstConsumer");
    let selected = meta::str_at(claim, &["metadata", "annotations", binding::SELECTED_NODE]);
    let node = view.get(Kind::Node, "", selected);
    let reserved = view.list(Kind::Volume).find(|volume| {
        !volume["spec"]["claimRef"].is_null() && binding::is_for(volume, claim) && !meta::is_terminating(volume)
    });
    if let Some(volume) = reserved.filter(|volume| binding::fits(volume, claim)) {
        return bind(volume, claim);
    }
    if waits && node.is_none() {
        let text = "waiting for first consumer to be created before binding";
        return once(claim, "WaitForFirstConsumer", text, false);
    }
    let node: Option<&Value> = node.map(|node| &**node);
    if let Some(volume) = binding::best(view.list(Kind::Volume), claim, node.filter(|_| waits)) {
        return bind(volume, claim);
    }
    if class_name.is_empty() {
        let text = "no persistent volumes available for this claim and no storage class is set";
        return once(claim, "FailedBinding", text, false);
    }
    let Some(class) = class else {
        let text = format!("storageclass.storage.k8s.io {class_name:?} not found");
        return once(claim, "ProvisioningFailed", &text, true);
    };
    match meta::str_at(class, &["provisioner"]) {
        binding::NO_PROVISIONER => once(
            claim,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
            false,
        ),
        binding::LOCAL_PATH => local_path::provision(view, class, claim, node),
        other => {
            let mut writes = Vec::new();
            if meta::str_at(claim, &["metadata", "annotations", PROVISIONER]) != other {
                let patch = json!({"metadata": {"annotations": {PROVISIONER: other,
                    "volume.beta.kubernetes.io/storage-provisioner": other}}});
                writes.push(Write::Merge { kind: Kind::Claim, key: Key::of(claim), sub: "", patch });
                let text = format!(
                    "Waiting for a volume to be created either by the external provisioner '{other}' or manually by the \
                     system administrator. If volume creation is delayed, please verify that the provisioner is running and \
                     correctly registered."
                );
                writes.push(Write::normal(Kind::Claim, claim, "ExternalProvisioning", text));
            }
            writes
        }
    }
}

/// A look changes nothing, so what it tells is told again at each; people see it counted.
fn once(claim: &Value, reason: &str, text: &str, warning: bool) -> Vec<Write> {
    let event = if warning { Write::warning } else { Write::normal };
    vec![event(Kind::Claim, claim, reason, text.to_owned())]
}

/// The claim names its volume.
fn named(view: &View, claim: &Value, name: &str) -> Vec<Write> {
    let phase = |phase: &str| {
        let patch = json!({"status": {"phase": phase}});
        let changes = meta::str_at(claim, &["status", "phase"]) != phase;
        changes.then(|| Write::Merge { kind: Kind::Claim, key: Key::of(claim), sub: "status", patch })
    };
    let completed = meta::at(claim, &["metadata", "annotations", BIND_COMPLETED]).is_some();
    let lost = |text: &str| {
        let told =
            phase("Lost").map(|write| vec![write, Write::warning(Kind::Claim, claim, "ClaimLost", text.to_owned())]);
        told.unwrap_or_default()
    };
    let Some(volume) = view.get(Kind::Volume, "", name) else {
        if completed {
            return lost("Bound claim has lost its PersistentVolume. Data on the volume is lost!");
        }
        return phase("Pending").into_iter().collect();
    };
    let reference = &volume["spec"]["claimRef"];
    if reference.is_null() && !completed && !meta::is_terminating(claim) {
        if binding::fits(volume, claim) {
            return bind(volume, claim);
        }
        let text = format!("Cannot bind to requested volume {name:?}: requested PV does not fit the claim");
        let mut writes: Vec<Write> = phase("Pending").into_iter().collect();
        writes.extend(once(claim, "VolumeMismatch", &text, true));
        return writes;
    }
    if binding::is_for(volume, claim) {
        return if meta::is_terminating(claim) { Vec::new() } else { bind(volume, claim) };
    }
    if completed {
        return lost("Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let mut writes: Vec<Write> = phase("Pending").into_iter().collect();
    writes.extend(once(claim, "FailedBinding", &format!("volume {name:?} already bound to a different claim."), true));
    writes
}
