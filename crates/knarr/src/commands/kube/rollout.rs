//! `rollout`: how far a change has come, back to an earlier one, again, and pauses.

use hyper::Method;
use serde_json::{Value, json};

use super::super::{Command, Context, out};
use crate::client::http::encode;
use crate::failure::Failure;
use crate::flags::{Arity, Flag, Matches, duration, int, switch};
use crate::kube::kinds::Resource;
use crate::kube::{self, Cluster, output};

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

const fn command(
    name: &'static str,
    about: &'static str,
    examples: &'static str,
    flags: &'static [&'static [Flag]],
    run: fn(&Context, &Matches) -> Result<u8, Failure>,
) -> Command {
    Command {
        name,
        usage: "KIND/NAME [OPTIONS]",
        about,
        examples,
        flags,
        interspersed: true,
        arity: Arity::AtLeast(1),
        run,
    }
}

pub(crate) static STATUS: Command = command(
    "status",
    "Watch a rollout until it is done",
    "  knarr rollout status deploy/web --timeout=60s",
    &[
        kube::FLAGS,
        &[
            duration("timeout", "How long to wait; 0 waits for as long as it takes").default("0"),
            switch("watch", "Wait until it is done").short('w').default("true"),
        ],
    ],
    |context, matches| each(context, matches, |cluster, resource, name| status(cluster, resource, name, matches)),
);
pub(crate) static RESTART: Command = command(
    "restart",
    "Replace all pods of a workload by new ones",
    "  knarr rollout restart deploy/web",
    &[kube::FLAGS],
    |context, matches| each(context, matches, restart),
);
pub(crate) static UNDO: Command = command(
    "undo",
    "Go back to an earlier revision",
    "  knarr rollout undo deploy/web
  knarr rollout undo deploy/web --to-revision=3",
    &[kube::FLAGS, &[int("to-revision", "Revision to go back to; 0 is the one before").default("0")]],
    |context, matches| {
        let to = matches.int("to-revision").unwrap_or(0);
        each(context, matches, |cluster, resource, name| undo(cluster, resource, name, to))
    },
);
pub(crate) static HISTORY: Command = command(
    "history",
    "Show the revisions of a workload",
    "  knarr rollout history deploy/web",
    &[kube::FLAGS],
    |context, matches| each(context, matches, history),
);
pub(crate) static PAUSE: Command = command(
    "pause",
    "Take no more changes into pods until resume",
    "  knarr rollout pause deploy/web",
    &[kube::FLAGS],
    |context, matches| each(context, matches, |cluster, resource, name| pause(cluster, resource, name, true)),
);
pub(crate) static RESUME: Command = command(
    "resume",
    "Take changes into pods again",
    "  knarr rollout resume deploy/web",
    &[kube::FLAGS],
    |context, matches| each(context, matches, |cluster, resource, name| pause(cluster, resource, name, false)),
);

fn each(
    context: &Context,
    matches: &Matches,
    act: impl Fn(&Cluster, &Resource, &str) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let cluster = Cluster::open(context.settings(), matches)?;
    for target in cluster.targets(&matches.arguments)? {
        let name = target.name.as_deref().ok_or("error: name the workload, such as deploy/web")?;
        if !["Deployment", "StatefulSet", "DaemonSet"].contains(&target.resource.kind.as_str()) {
            return Err(Failure::new(format!("error: {} has no rollouts", target.resource.shown())));
        }
        act(&cluster, target.resource, name)?;
    }
    Ok(0)
}

fn status(cluster: &Cluster, resource: &Resource, name: &str, matches: &Matches) -> Result<(), Failure> {
    let nanos = matches.duration_nanos("timeout").filter(|nanos| *nanos > 0);
    let deadline = nanos.map(|nanos| std::time::Instant::now() + std::time::Duration::from_nanos(nanos.unsigned_abs()));
    let mut told = String::new();
    loop {
        let object = cluster.api.get(&resource.object(&cluster.namespace, name))?;
        let mut done = tell(&object, &mut told)?;
        if !matches.is_or("watch", true) {
            return Ok(());
        }
        let left = deadline.map(|at| at.saturating_duration_since(std::time::Instant::now()));
        if done {
            return Ok(());
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Err("error: timed out waiting for the condition".into());
        }
        let version = encode(object["metadata"]["resourceVersion"].as_str().unwrap_or_default());
        let field = encode(&format!("metadata.name={name}"));
        let seconds = left.map_or(60, |left| left.as_secs().min(60)).max(1);
        let path = format!(
            "{}?watch=1&fieldSelector={field}&resourceVersion={version}&timeoutSeconds={seconds}",
            resource.path(&cluster.namespace)
        );
        cluster.api.watch(&path, kube::api::JSON, |kind, object| {
            match kind {
                "DELETED" => return Err(Failure::new("error: object has been deleted")),
                "MODIFIED" | "ADDED" => done = tell(object, &mut told)?,
                _ => return Ok(false),
            }
            Ok(!done)
        })?;
        if done {
            return Ok(());
        }
    }
}

/// Says what is new; true once the rollout is done.
fn tell(object: &Value, told: &mut String) -> Result<bool, Failure> {
    let (text, done) = progress(object)?;
    if text != *told {
        out(&format!("{text}\n"))?;
        *told = text;
    }
    Ok(done)
}

/// How far a workload's rollout is, in kubectl's words. Pure.
fn progress(object: &Value) -> Result<(String, bool), Failure> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let status = |field: &str| object["status"][field].as_i64().unwrap_or(0);
    let kind = object["kind"].as_str().unwrap_or_default();
    let strategy = match kind {
        "Deployment" => "",
        _ => object["spec"]["updateStrategy"]["type"].as_str().unwrap_or("RollingUpdate"),
    };
    if strategy == "OnDelete" {
        return Err("error: rollout status is only available for RollingUpdate strategy type".into());
    }
    if object["metadata"]["generation"].as_i64().unwrap_or(0) > status("observedGeneration") {
        let shown = match kind {
            "Deployment" => "deployment",
            "DaemonSet" => "daemon set",
            _ => "statefulset",
        };
        return Ok((format!("Waiting for {shown} spec update to be observed..."), false));
    }
    let updated = status("updatedReplicas");
    Ok(match kind {
        "Deployment" => {
            let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            let late =
                conditions.into_iter().any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded");
            if late {
                return Err(Failure::new(format!("error: deployment {name:?} exceeded its progress deadline")));
            }
            let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
            let (all, available) = (status("replicas"), status("availableReplicas"));
            let wait = format!("Waiting for deployment {name:?} rollout to finish: ");
            if updated < wanted {
                (format!("{wait}{updated} out of {wanted} new replicas have been updated..."), false)
            } else if all > updated {
                (format!("{wait}{} old replicas are pending termination...", all - updated), false)
            } else if available < updated {
                (format!("{wait}{available} of {updated} updated replicas are available..."), false)
            } else {
                (format!("deployment {name:?} successfully rolled out"), true)
            }
        }
        "DaemonSet" => {
            let (updated, wanted) = (status("updatedNumberScheduled"), status("desiredNumberScheduled"));
            let available = status("numberAvailable");
            let wait = format!("Waiting for daemon set {name:?} rollout to finish: ");
            if updated < wanted {
                (format!("{wait}{updated} out of {wanted} new pods have been updated..."), false)
            } else if available < wanted {
                (format!("{wait}{available} of {wanted} updated pods are available..."), false)
            } else {
                (format!("daemon set {name:?} successfully rolled out"), true)
            }
        }
        _ => {
            let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
            let ready = status("readyReplicas");
            let partition = object["spec"]["updateStrategy"]["rollingUpdate"]["partition"].as_i64().unwrap_or(0);
            if ready < wanted {
                return Ok((format!("Waiting for {} pods to be ready...", wanted - ready), false));
            }
            if partition > 0 {
                let parted = wanted - partition;
                return Ok(if updated < parted {
                    (
                        format!(
                            "Waiting for partitioned roll out to finish: {updated} out of {parted} new pods have been updated..."
                        ),
                        false,
                    )
                } else {
                    (format!("partitioned roll out complete: {updated} new pods have been updated..."), true)
                });
            }
            let revision = |field: &str| object["status"][field].as_str().unwrap_or_default();
            if revision("updateRevision") != revision("currentRevision") {
                let to = revision("updateRevision");
                return Ok((
                    format!("waiting for statefulset rolling update to complete {updated} pods at revision {to}..."),
                    false,
                ));
            }
            let at = status("currentReplicas");
            (
                format!("statefulset rolling update complete {at} pods at revision {}...", revision("currentRevision")),
                true,
            )
        }
    })
}

fn restart(cluster: &Cluster, resource: &Resource, name: &str) -> Result<(), Failure> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
    let body = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    cluster.api.change(Method::PATCH, &resource.object(&cluster.namespace, name), STRATEGIC, &body)?;
    out(&format!("{}/{name} restarted\n", resource.shown()))
}

fn pause(cluster: &Cluster, resource: &Resource, name: &str, paused: bool) -> Result<(), Failure> {
    let shown = resource.shown();
    if resource.kind != "Deployment" {
        return Err(Failure::new(format!("error: {shown} {name:?} cannot be paused: only deployments can")));
    }
    let path = resource.object(&cluster.namespace, name);
    let object = cluster.api.get(&path)?;
    if (object["spec"]["paused"] == true) == paused {
        let already = if paused { "already paused" } else { "not paused" };
        return Err(Failure::new(format!("error: {} {name:?} is {already}", resource.shown())));
    }
    cluster.api.change(Method::PATCH, &path, MERGE, &json!({"spec": {"paused": paused}}))?;
    out(&format!("{shown}/{name} {}\n", if paused { "paused" } else { "resumed" }))
}

/// One remembered state of a workload.
struct Revision {
    number: i64,
    cause: String,
    /// The patch that brings it back.
    patch: Value,
}

fn revisions(cluster: &Cluster, resource: &Resource, name: &str) -> Result<(Value, Vec<Revision>), Failure> {
    let object = cluster.api.get(&resource.object(&cluster.namespace, name))?;
    let selector = kube::pod_selector(&object).unwrap_or_default();
    let query = format!("?labelSelector={}", encode(&selector));
    let keeper = if resource.kind == "Deployment" { "replicasets.apps" } else { "controllerrevisions.apps" };
    let kept = cluster.list(cluster.catalog.named(keeper)?, &cluster.namespace, &query)?;
    let mut found: Vec<Revision> = kept
        .iter()
        .filter(|kept| {
            let owners = kept["metadata"]["ownerReferences"].as_array();
            owners.into_iter().flatten().any(|owner| owner["uid"] == object["metadata"]["uid"])
        })
        .map(|kept| {
            let annotation = |name: &str| kept["metadata"]["annotations"][name].as_str();
            let number = annotation("deployment.kubernetes.io/revision").and_then(|text| text.parse().ok());
            let patch = match resource.kind.as_str() {
                "Deployment" => {
                    let mut template = kept["spec"]["template"].clone();
                    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
                        labels.remove("pod-template-hash");
                    }
                    json!([{"op": "replace", "path": "/spec/template", "value": template}])
                }
                _ => kept["data"].clone(),
            };
            Revision {
                number: number.or(kept["revision"].as_i64()).unwrap_or(0),
                cause: annotation("kubernetes.io/change-cause").unwrap_or("<none>").to_owned(),
                patch,
            }
        })
        .collect();
    found.sort_by_key(|revision| revision.number);
    Ok((object, found))
}

fn history(cluster: &Cluster, resource: &Resource, name: &str) -> Result<(), Failure> {
    let (_, revisions) = revisions(cluster, resource, name)?;
    let mut lines = vec!["REVISION\tCHANGE-CAUSE".to_owned()];
    lines.extend(revisions.iter().map(|revision| format!("{}\t{}", revision.number, revision.cause)));
    out(&format!("{}/{name} \n{}\n", resource.shown(), output::align(&lines)))
}

fn undo(cluster: &Cluster, resource: &Resource, name: &str, to: i64) -> Result<(), Failure> {
    let (object, revisions) = revisions(cluster, resource, name)?;
    if object["spec"]["paused"] == true {
        return Err(Failure::new(format!(
            "error: you cannot rollback a paused deployment; resume it first with 'knarr rollout resume deployment/{name}' and try again"
        )));
    }
    let wanted = match to {
        0 => revisions.len().checked_sub(2).and_then(|at| revisions.get(at)),
        number => revisions.iter().find(|revision| revision.number == number),
    };
    let Some(wanted) = wanted else {
        return Err(match to {
            0 => Failure::new(format!("error: no rollout history found for {} {name:?}", resource.shown())),
            number => Failure::new(format!("error: unable to find specified revision {number} in history")),
        });
    };
    let kind = if resource.kind == "Deployment" { "application/json-patch+json" } else { STRATEGIC };
    cluster.api.change(Method::PATCH, &resource.object(&cluster.namespace, name), kind, &wanted.patch)?;
    out(&format!("{}/{name} rolled back\n", resource.shown()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_kubectls_words() {
        let deployment = |replicas: i64, updated: i64, all: i64, available: i64| {
            json!({"kind": "Deployment", "metadata": {"name": "web", "generation": 1}, "spec": {"replicas": replicas},
                "status": {"observedGeneration": 1, "updatedReplicas": updated, "replicas": all, "availableReplicas": available}})
        };
        let rows = [
            (
                deployment(2, 1, 2, 2),
                "Waiting for deployment \"web\" rollout to finish: 1 out of 2 new replicas have been updated...",
                false,
            ),
            (
                deployment(2, 2, 3, 2),
                "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...",
                false,
            ),
            (
                deployment(2, 2, 2, 1),
                "Waiting for deployment \"web\" rollout to finish: 1 of 2 updated replicas are available...",
                false,
            ),
            (deployment(2, 2, 2, 2), "deployment \"web\" successfully rolled out", true),
            (
                json!({"kind": "DaemonSet", "metadata": {"name": "log", "generation": 2}, "status": {"observedGeneration": 1}}),
                "Waiting for daemon set spec update to be observed...",
                false,
            ),
            (
                json!({"kind": "DaemonSet", "metadata": {"name": "log"}, "status": {"updatedNumberScheduled": 3, "desiredNumberScheduled": 3, "numberAvailable": 2}}),
                "Waiting for daemon set \"log\" rollout to finish: 2 of 3 updated pods are available...",
                false,
            ),
            (
                json!({"kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {"replicas": 3}, "status": {"readyReplicas": 1}}),
                "Waiting for 2 pods to be ready...",
                false,
            ),
            (
                json!({"kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {"replicas": 1}, "status":
                {"readyReplicas": 1, "currentReplicas": 1, "updateRevision": "r", "currentRevision": "r"}}),
                "statefulset rolling update complete 1 pods at revision r...",
                true,
            ),
        ];
        for (object, text, done) in rows {
            assert_eq!(progress(&object).unwrap(), (text.to_owned(), done));
        }
        let late = json!({"kind": "Deployment", "metadata": {"name": "web"}, "status": {"conditions":
            [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]}});
        assert_eq!(progress(&late).unwrap_err().message, "error: deployment \"web\" exceeded its progress deadline");
        let manual = json!({"kind": "DaemonSet", "spec": {"updateStrategy": {"type": "OnDelete"}}});
        assert!(progress(&manual).is_err());
    }
}
