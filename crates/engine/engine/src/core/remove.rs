//! Remove, prune, rename.

use std::sync::Arc;

use super::container::Told;
use super::inner::blocking;
use super::records::{CONTAINERS, STATES, VOLUMES};
use super::{Container, Inner};
use crate::decide::names::parse_name;
use crate::{Error, Filters, Pruned, RemoveOptions, Result, Status, WaitOutcome};

/// How often a forced removal kills what runs again.
const FORCE_ATTEMPTS: u32 = 5;

impl Inner {
    pub(crate) async fn remove(self: &Arc<Self>, container: &Arc<Container>, options: RemoveOptions) -> Result<()> {
        let mut attempts = 0;
        let _alone = loop {
            if options.force && container.status().is_running() {
                self.kill_to_remove(container).await?;
            }
            let alone = container.operation.lock().await;
            // A restart, by policy or by somebody else, may have been under way while it was killed.
            let again = options.force && matches!(container.status(), Status::Running | Status::Paused);
            attempts += 1;
            if !again || attempts == FORCE_ATTEMPTS {
                break alone;
            }
        };
        {
            let mut live = container.live();
            if live.removed {
                // By its auto-remove, perhaps because we killed it.
                return if options.force { Ok(()) } else { Err(Error::NoSuchContainer(container.id.to_string())) };
            }
            let name = container.name();
            match live.saved.state.status {
                Status::Paused if !options.force => {
                    return Err(Error::Conflict(format!(
                        "cannot remove container \"/{name}\": container is paused and must be unpaused first"
                    )));
                }
                status if status.is_running() && !options.force => {
                    return Err(Error::Conflict(format!(
                        "cannot remove container \"/{name}\": container is {}: stop the container before removing or force remove",
                        status.as_str()
                    )));
                }
                Status::Running | Status::Paused => {
                    // Somebody starts it again and again.
                    return Err(Error::Conflict(format!("cannot remove container \"/{name}\": container is running")));
                }
                _ => {}
            }
            if let Some(timer) = live.restart_timer.take() {
                timer.abort();
            }
        }
        self.last_lines(container).await;
        let (inner, held) = (self.clone(), container.clone());
        let removal = async move {
            let (keeper, gone) = (inner.clone(), held.clone());
            blocking(move || inner.forget_container(&held, options.volumes)).await?;
            let unforgotten = std::mem::take(&mut gone.live().unforgotten);
            if unforgotten {
                keeper.forget(&gone.id.to_string()).await;
            }
            Ok(())
        };
        self.whole("remove a container", removal).await
    }

    async fn kill_to_remove(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        match self.kill(container, &container.id.to_string(), "KILL").await {
            Err(Error::Conflict(_)) | Ok(()) => Ok(()),
            Err(error) => {
                let what = format!("cannot remove container \"/{}\": could not kill container", container.name());
                Err(Error::internal(what, error))
            }
        }
    }

    /// The record first, durably, then what it spoke of: a crash in between leaves files without a record, which the
    /// next start removes.
    fn forget_container(&self, container: &Arc<Container>, volumes: bool) -> Result<()> {
        let id = container.id;
        let mut anonymous = if volumes { self.own_volumes(container) } else { Vec::new() };
        vocab::crash::point("engine.remove.before_commit");
        let snapshot = id.to_string();
        let layers = self.db.write(|txn| {
            for name in &anonymous {
                txn.remove(&VOLUMES, name)?;
            }
            txn.remove(&CONTAINERS, &id)?;
            txn.remove(&STATES, &id)?;
            Ok::<_, Error>(self.images.remove_record(txn, &snapshot)?)
        })?;
        vocab::crash::point("engine.remove.after_commit");
        let outcome = {
            let mut live = container.live();
            live.removed = true;
            live.pending_sinks.clear();
            live.execs.clear();
            WaitOutcome { exit_code: live.saved.state.exit_code, error: None }
        };
        if let Err(error) = self.images.remove_files_of(&snapshot, layers) {
            tracing::warn!(container = %id, %error, "the root file system stays behind until the next start");
        }
        self.forget_images(container);
        for name in anonymous.drain(..) {
            let driver = self.volumes.get(&name).map(|record| record.driver).unwrap_or_default();
            if let Err(error) = self.volumes.forget(&name) {
                tracing::warn!(volume = name, %error, "the volume's files stay behind until the next start");
            }
            self.volume_event(&name, &driver, "destroy", &[]);
        }
        let folder = self.container_dir(id);
        if is_small(&folder) {
            self.images.discard_folder(&folder);
        }
        remove_dir(&folder);
        vocab::crash::point("engine.remove.after_files");
        self.container_event(container, "destroy", &[]);
        self.registry().remove(id);
        container.live().tell_waiters(Told::Removed, &outcome);
        container.tell_stage();
        Ok(())
    }

    /// Anonymous volumes that nobody else uses.
    fn own_volumes(&self, container: &Container) -> Vec<String> {
        let others = self.registry().all();
        let used = |name: &str| {
            others.iter().filter(|o| o.id != container.id).any(|o| o.record().mounts.iter().any(|m| m.volume == name))
        };
        let record = container.record();
        let own = record.mounts.iter().filter(|m| m.anonymous && !m.volume.is_empty());
        own.map(|m| m.volume.clone()).filter(|name| !used(name)).collect()
    }

    /// For auto-remove, whose caller waits for nothing.
    pub(crate) fn remove_soon(self: &Arc<Self>, container: Arc<Container>) {
        let inner = self.clone();
        tokio::spawn(async move {
            match inner.remove(&container, RemoveOptions { force: false, volumes: true }).await {
                Ok(()) | Err(Error::NoSuchContainer(_)) => {}
                Err(error) => tracing::warn!(container = %container.id, %error, "auto-remove failed"),
            }
        });
    }

    pub(crate) async fn prune(self: &Arc<Self>, filters: &Filters) -> Result<Pruned> {
        if let Some(key) = filters.unknown_key(&["until", "label", "label!"]) {
            return Err(Error::Invalid(format!("invalid filter '{key}'")));
        }
        let until = crate::decide::time::parse_until(filters, jiff::Timestamp::now())?;
        let mut pruned = Pruned::default();
        let all = self.registry().all();
        for container in all {
            let record = container.record();
            let idle = matches!(container.status(), Status::Created | Status::Exited | Status::Dead);
            let excluded = filters.has("label!") && filters.allows_labels("label!", &record.config.labels);
            let chosen = filters.allows_labels("label", &record.config.labels) && !excluded;
            if !idle || !chosen || until.is_some_and(|until| record.created_at > until) {
                continue;
            }
            let size = {
                let (inner, held) = (self.clone(), container.clone());
                blocking(move || inner.container_size(&held).map_or(0, |size| size.rw_bytes)).await
            };
            match self.remove(&container, RemoveOptions::default()).await {
                Ok(()) => {
                    pruned.ids.push(container.id.to_string());
                    pruned.space_reclaimed_bytes += size;
                }
                // Started or removed by somebody else meanwhile.
                Err(Error::Conflict(_) | Error::NoSuchContainer(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let attributes = [("reclaimed".to_owned(), pruned.space_reclaimed_bytes.to_string())].into();
        self.events.emit(crate::EventKind::Container, "prune", String::new(), attributes);
        Ok(pruned)
    }

    /// Blocking; the caller holds the operation lock.
    pub(crate) fn rename(&self, container: &Container, new: &str) -> Result<()> {
        if new.is_empty() {
            return Err(Error::Invalid("Neither old nor new names may be empty".into()));
        }
        let new = parse_name(new)?;
        let old = container.name();
        if old == new {
            return Err(Error::Invalid("Renaming a container with the same name as its current name".into()));
        }
        self.registry().reserve_name(new, container.id)?;
        let mut record = (*container.record()).clone();
        new.clone_into(&mut record.name);
        vocab::crash::point("engine.rename.before_commit");
        if let Err(error) = self.db.write(|txn| txn.put(&CONTAINERS, &container.id, &record)) {
            self.registry().release_name(new, container.id);
            let error: db::Error = error;
            return Err(error.into());
        }
        container.set_record(record);
        self.registry().release_name(&old, container.id);
        self.networks.renamed(container.id, &old, new);
        self.container_event(container, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}

/// A few files that hold nearly nothing. Who removes more than that, such as long logs, waits until the disk has it back.
fn is_small(folder: &std::path::Path) -> bool {
    let mut bytes = 0;
    std::fs::read_dir(folder).is_ok_and(|mut entries| {
        entries.all(|entry| {
            let meta = entry.and_then(|entry| entry.metadata());
            bytes += meta.as_ref().map_or(0, std::fs::Metadata::len);
            meta.is_ok_and(|meta| meta.is_file()) && bytes < 1 << 20
        })
    })
}

pub(crate) fn remove_dir(path: &std::path::Path) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove");
        }
        _ => {}
    }
}
