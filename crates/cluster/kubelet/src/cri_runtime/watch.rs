//! What changes in a runtime: its events, or looking again and again where it has none. Logs that have grown are rotated on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cri::wire::*;
use pods::labels;
use tokio::sync::mpsc;

use super::{CriRuntime, logs};

/// How often everything is looked at, as upstream does.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// With events, this is for what they missed.
const LOOK_SELDOM: Duration = Duration::from_secs(30);
/// Looks after which it is tried again whether the runtime has events: it may have been away.
const LOOKS: u32 = 10;
const LOGS_EVERY: Duration = Duration::from_secs(10);

/// Tells uids of pods whose containers changed until nobody listens.
pub(super) async fn run(runtime: CriRuntime, sender: mpsc::Sender<String>) {
    let rotating = tokio::spawn(rotate(runtime.clone()));
    let mut events = runtime.client.events().await.ok();
    let (mut seen, mut looks) = (None, 0);
    loop {
        let every = if events.is_some() { LOOK_SELDOM } else { LOOK_EVERY };
        tokio::select! {
            () = sender.closed() => break,
            event = async { match &mut events { Some(events) => events.message().await, None => std::future::pending().await } } => {
                match event {
                    Ok(Some(event)) => {
                        let pod = event.pod_sandbox_status.and_then(|status| status.metadata).map(|metadata| metadata.uid);
                        if let Some(uid) = pod.filter(|uid| !uid.is_empty()) {
                            let _ = sender.send(uid).await;
                        }
                    }
                    // The runtime has none, or has gone.
                    Ok(None) | Err(_) => events = None,
                }
            }
            () = tokio::time::sleep(every) => {
                let Ok(now) = look(&runtime).await else { continue };
                for uid in seen.as_ref().map(|before| changed(before, &now)).unwrap_or_default() {
                    let _ = sender.send(uid).await;
                }
                seen = Some(now);
                looks += 1;
                if events.is_none() && looks % LOOKS == 0 {
                    events = runtime.client.events().await.ok();
                }
            }
        }
    }
    rotating.abort();
}

/// States of all containers and sandboxes by their ids, with the pod's uid.
type Seen = BTreeMap<String, (String, i32)>;

async fn look(runtime: &CriRuntime) -> Result<Seen, pods::RuntimeError> {
    let uid = |labels: &BTreeMap<String, String>| labels.get(labels::POD_UID).cloned().unwrap_or_default();
    let containers = runtime.listed(BTreeMap::new()).await?.into_iter();
    let mut seen: Seen = containers.map(|found| (found.id, (uid(&found.labels), found.state))).collect();
    let sandboxes = runtime.found_sandboxes(None).await?.into_iter();
    seen.extend(sandboxes.map(|found| (found.id, (uid(&found.labels), found.state))));
    Ok(seen)
}

/// Pure: pods of which something came, went or changed its state.
fn changed(before: &Seen, now: &Seen) -> Vec<String> {
    let new = now.iter().filter(|(id, seen)| before.get(*id) != Some(seen));
    let gone = before.iter().filter(|(id, _)| !now.contains_key(*id));
    let mut uids: Vec<String> = new.chain(gone).map(|(_, (uid, _))| uid.clone()).collect();
    uids.sort();
    uids.dedup();
    uids
}

/// Rotates logs that have grown, until it is aborted.
async fn rotate(runtime: CriRuntime) {
    loop {
        tokio::time::sleep(LOGS_EVERY).await;
        for container in runtime.listed(BTreeMap::new()).await.unwrap_or_default() {
            if container.state != ContainerState::Running as i32 {
                continue;
            }
            let Ok(status) = runtime.status(&container.id).await else { continue };
            let path = Path::new(&status.log_path);
            if !path.starts_with(&runtime.logs)
                || std::fs::metadata(path).is_ok_and(|meta| meta.len() < logs::FILE_BYTES_MAX)
            {
                continue;
            }
            if let Err(error) = logs::rotate(path) {
                tracing::warn!(path = status.log_path, %error, "cannot rotate a log");
                continue;
            }
            let asked = ReopenContainerLogRequest { container_id: container.id };
            if let Err(error) = runtime.ask::<_, ReopenContainerLogResponse>("ReopenContainerLog", asked).await {
                tracing::warn!(path = status.log_path, %error, "the runtime does not write a new log");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_told_of_when_something_of_theirs_is_different() {
        let seen = |rows: &[(&str, &str, i32)]| -> Seen {
            rows.iter().map(|(id, uid, state)| ((*id).to_owned(), ((*uid).to_owned(), *state))).collect()
        };
        let before = seen(&[("1", "a", 1), ("2", "b", 1), ("3", "c", 1), ("4", "d", 1)]);
        let now = seen(&[("1", "a", 1), ("2", "b", 2), ("4", "d", 1), ("5", "d", 0), ("6", "b", 0)]);
        assert_eq!(changed(&before, &now), ["b", "c", "d"]);
        assert!(changed(&now, &now).is_empty());
    }
}
