//! Looking at images, naming them, and letting them go. The rules of `rmi` are Docker's, to the text of its refusals.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use vocab::{Digest, Reference};

use super::Store;
use super::gc::Dead;
use super::names::Found;
use super::records::*;
use super::staging::remove_tree;
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::glob;
use crate::model::*;

/// All records at one instant, with the ways back from them.
struct View {
    images: BTreeMap<Digest, ImageRecord>,
    names: HashMap<Digest, Vec<Reference>>,
    layers: HashMap<Digest, LayerRecord>,
    containers: HashMap<Digest, Vec<String>>,
}

impl View {
    fn children(&self, id: &Digest) -> usize {
        self.images.values().filter(|image| image.parent == Some(*id)).count()
    }

    fn names(&self, id: &Digest) -> &[Reference] {
        self.names.get(id).map_or(&[], Vec::as_slice)
    }

    fn tags(&self, id: &Digest) -> Vec<Reference> {
        self.names(id).iter().filter(|name| name.digest().is_none()).cloned().collect()
    }

    fn digests(&self, id: &Digest) -> Vec<Reference> {
        self.names(id).iter().filter(|name| name.digest().is_some()).cloned().collect()
    }

    fn containers(&self, id: &Digest) -> &[String] {
        self.containers.get(id).map_or(&[], Vec::as_slice)
    }

    fn size(&self, image: &ImageRecord) -> u64 {
        image.layers.iter().filter_map(|chain| self.layers.get(chain)).map(|layer| layer.bytes).sum()
    }
}

fn view_of(
    images: Vec<(Digest, ImageRecord)>,
    names: Vec<(String, NameRecord)>,
    layers: Vec<(Digest, LayerRecord)>,
    snapshots: Vec<(String, SnapshotRecord)>,
) -> View {
    let mut view = View {
        images: images.into_iter().collect(),
        names: HashMap::new(),
        layers: layers.into_iter().collect(),
        containers: HashMap::new(),
    };
    for (name, record) in names {
        // What was written as a reference reads as one.
        if let Ok(name) = name.parse() {
            view.names.entry(record.image).or_default().push(name);
        }
    }
    for (container, record) in snapshots {
        if let Some(image) = record.image {
            view.containers.entry(image).or_default().push(container);
        }
    }
    view
}

impl Store {
    fn view(&self) -> Result<View> {
        let read = self.db.read()?;
        Ok(view_of(read.list(&IMAGES)?, read.list(&NAMES)?, read.list(&LAYERS)?, read.list(&SNAPSHOTS)?))
    }

    /// Newest first.
    pub fn list(&self, filter: &ListFilter) -> Result<Vec<ImageSummary>> {
        let created = |image: &ImageRecord| image.created.as_deref().and_then(|t| t.parse::<Timestamp>().ok());
        let created_of = |name: &String| -> Result<Option<Timestamp>> {
            let id = self.resolve(name)?;
            Ok(self.db.read()?.get(&IMAGES, &id)?.as_ref().and_then(created))
        };
        let before = filter.before.iter().map(created_of).collect::<Result<Vec<_>>>()?;
        let since = filter.since.iter().map(created_of).collect::<Result<Vec<_>>>()?;
        let view = self.view()?;
        let mut users: HashMap<Digest, usize> = HashMap::new();
        view.images.values().flat_map(|image| &image.layers).for_each(|chain| *users.entry(*chain).or_default() += 1);
        let mut found = Vec::new();
        for (id, image) in &view.images {
            let created_at = created(image);
            let mut tags = view.tags(id);
            let mut digests = view.digests(id);
            let untagged = tags.is_empty() && digests.is_empty();
            let has_children = view.children(id) > 0;
            let wanted = match filter.dangling {
                Some(dangling) => dangling == untagged && !(dangling && has_children),
                None => filter.all || !(untagged && has_children),
            };
            let in_time = before.iter().all(|limit| created_at < *limit)
                && since.iter().all(|limit| created_at > *limit)
                && filter.until.is_none_or(|until| created_at.is_some_and(|at| at < until));
            if !wanted || !in_time || !filter.labels.iter().all(|label| has_label(&image.labels, label)) {
                continue;
            }
            if !filter.references.is_empty() {
                let hit = |name: &Reference| {
                    let (full, short) = (name.familiar(), name.familiar_repository());
                    filter.references.iter().any(|p| glob::matches(p, &full) || glob::matches(p, &short))
                };
                tags.retain(hit);
                digests.retain(hit);
                if tags.is_empty() && digests.is_empty() {
                    continue;
                }
            }
            let shared = image.layers.iter().filter(|chain| users.get(chain).is_some_and(|n| *n > 1));
            let shared_size_bytes = shared.filter_map(|chain| view.layers.get(chain)).map(|layer| layer.bytes).sum();
            found.push(ImageSummary {
                id: *id,
                parent: image.parent,
                tags,
                digests,
                created_at,
                size_bytes: view.size(image),
                shared_size_bytes,
                labels: image.labels.clone(),
                containers: view.containers(id).to_vec(),
            });
        }
        found.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(a.id.cmp(&b.id)));
        Ok(found)
    }

    pub fn inspect(&self, name: &str) -> Result<ImageFacts> {
        let id = self.resolve(name)?;
        let view = self.view()?;
        let image = view.images.get(&id).ok_or_else(|| Error::NoSuchImage(name.to_owned()))?;
        let (config, config_bytes) = self.config(&id)?;
        let lowers = image.layers.iter().rev().filter_map(|chain| view.layers.get(chain));
        Ok(ImageFacts {
            id,
            parent: image.parent,
            tags: view.tags(&id),
            digests: view.digests(&id),
            tagged_at: Timestamp::from_second(image.tagged_at).ok(),
            size_bytes: view.size(image),
            config,
            config_bytes,
            lowers: lowers.map(|layer| self.layers_dir().join(&layer.folder).join("diff")).collect(),
            containers: view.containers(&id).to_vec(),
        })
    }

    /// An image's configuration, from its blob.
    pub(crate) fn config(&self, id: &Digest) -> Result<(Config, Vec<u8>)> {
        let path = self.blob_path(id);
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                // Removed between the caller's look at the records and this one at the file.
                if self.db.read()?.get(&IMAGES, id)?.is_none() {
                    return Err(Error::NoSuchImage(id.to_string()));
                }
                return Err(Error::Damaged(format!("the configuration of image {id} is missing")));
            }
            other => other.context(|| format!("read {}", path.display()))?,
        };
        Ok((Config::parse(&bytes, &format!("configuration {id}"))?, bytes))
    }

    /// Newest first.
    pub fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let id = self.resolve(name)?;
        let view = self.view()?;
        let image = view.images.get(&id).ok_or_else(|| Error::NoSuchImage(name.to_owned()))?;
        let (config, _) = self.config(&id)?;
        let mut layers = image.layers.iter();
        let mut entries = Vec::with_capacity(config.history.len());
        for step in &config.history {
            let layer = if step.empty_layer { None } else { layers.next().and_then(|chain| view.layers.get(chain)) };
            entries.push(HistoryEntry {
                id: None,
                created_at: step.created.as_deref().and_then(|t| t.parse().ok()),
                created_by: step.created_by.clone(),
                size_bytes: layer.map_or(0, |layer| layer.bytes),
                comment: step.comment.clone(),
                tags: Vec::new(),
            });
        }
        entries.reverse();
        // Each step back in the history is a step to the parent, as long as parents are known.
        let mut at = Some(id);
        for entry in &mut entries {
            let Some(id) = at else { break };
            entry.id = Some(id);
            entry.tags = view.tags(&id);
            at = view.images.get(&id).and_then(|image| image.parent);
        }
        Ok(entries)
    }

    /// Lets `target` (`:latest` if it has no tag) stand for the image; returns its id.
    pub fn tag(&self, name: &str, target: &Reference) -> Result<Digest> {
        if target.digest().is_some() {
            return Err(Error::invalid("tag", "refusing to create a tag with a digest reference"));
        }
        let id = self.resolve(name)?;
        let target = target.clone().or_latest();
        let now = self.now_secs();
        self.db.write(|txn| {
            let mut image = txn.get(&IMAGES, &id)?.ok_or_else(|| Error::NoSuchImage(name.to_owned()))?;
            image.tagged_at = now;
            txn.put(&IMAGES, &id, &image)?;
            txn.put(&NAMES, &target.to_string(), &NameRecord { image: id })?;
            Ok::<_, Error>(())
        })?;
        Ok(id)
    }

    /// `rmi`: removes the name, and the image with its last name; an image given by id loses all its names if they are of one
    /// repository. `running` says whether a container (a snapshot's id) runs: its image stays even with `force`.
    pub fn remove(&self, name: &str, options: RemoveOptions, running: &dyn Fn(&str) -> bool) -> Result<Vec<Removed>> {
        let (id, found) = self.find(name)?;
        let lock = self.lock();
        let (removed, dead) = self.db.write(|txn| {
            let mut removal = Removal { view: txn_view(txn)?, running, removed: Vec::new() };
            removal.begin(txn, &id, name, &found, options)?;
            let dead = self.sweep(txn)?;
            let mut removed = removal.removed;
            removed.extend(dead.layers.iter().map(|chain| Removed::Deleted(*chain)));
            Ok::<_, Error>((removed, dead))
        })?;
        self.finish_removal(lock, &dead);
        Ok(removed)
    }

    pub fn prune(&self, filter: &PruneFilter) -> Result<Pruned> {
        let lock = self.lock();
        let (removed, dead) = self.db.write(|txn| {
            let mut removal = Removal { view: txn_view(txn)?, running: &|_| true, removed: Vec::new() };
            // A parent becomes free when its last child goes.
            loop {
                let view = &removal.view;
                let free = view.images.iter().find(|(id, image)| {
                    let untagged = view.names(id).is_empty();
                    let created = image.created.as_deref().and_then(|t| t.parse::<Timestamp>().ok());
                    (untagged || !filter.dangling)
                        && view.containers(id).is_empty()
                        && view.children(id) == 0
                        && filter.until.is_none_or(|until| created.is_some_and(|at| at < until))
                        && filter.labels.iter().all(|label| has_label(&image.labels, label))
                        && !filter.labels_not.iter().any(|label| has_label(&image.labels, label))
                });
                let Some(id) = free.map(|(id, _)| *id) else { break };
                removal.delete(txn, &id)?;
            }
            let dead = self.sweep(txn)?;
            let mut removed = removal.removed;
            removed.extend(dead.layers.iter().map(|chain| Removed::Deleted(*chain)));
            Ok::<_, Error>((removed, dead))
        })?;
        let reclaimed_bytes = dead.bytes;
        self.finish_removal(lock, &dead);
        Ok(Pruned { removed, reclaimed_bytes })
    }

    fn finish_removal(&self, lock: std::sync::MutexGuard<'_, ()>, dead: &Dead) {
        let trash = self.bury(dead);
        drop(lock);
        trash.iter().for_each(|path| remove_tree(path));
    }
}

fn txn_view(txn: &db::Write<'_>) -> Result<View> {
    Ok(view_of(txn.list(&IMAGES)?, txn.list(&NAMES)?, txn.list(&LAYERS)?, txn.list(&SNAPSHOTS)?))
}

/// One `rmi` while it is decided; the view follows what was removed so far.
struct Removal<'a> {
    view: View,
    running: &'a dyn Fn(&str) -> bool,
    removed: Vec<Removed>,
}

/// Why an image stays.
struct Obstacle {
    /// `force` does not help.
    hard: bool,
    /// Because a container uses it.
    used: bool,
    text: String,
}

impl Removal<'_> {
    fn begin(
        &mut self,
        txn: &mut db::Write<'_>,
        id: &Digest,
        name: &str,
        found: &Found,
        options: RemoveOptions,
    ) -> Result<()> {
        let single = is_single(self.view.names(id));
        let mut untagged = false;
        match found {
            Found::Name(reference) => {
                // Without its only name the image would be left dangling under its container.
                if !options.force
                    && single
                    && let Some(container) = self.view.containers(id).first()
                {
                    return Err(Error::Conflict(format!(
                        "conflict: unable to remove repository reference {name:?} (must force) - container {} is using its referenced image {}",
                        short(container),
                        short(&id.hex()),
                    )));
                }
                self.untag(txn, id, reference)?;
                let same = |name: &&Reference| name.repository() == reference.repository();
                if reference.digest().is_none() && !self.view.tags(id).iter().any(|name| same(&name)) {
                    for digest in self.view.digests(id).iter().filter(same) {
                        self.untag(txn, id, digest)?;
                    }
                }
                if !self.view.names(id).is_empty() {
                    return Ok(());
                }
                untagged = true;
            }
            Found::Id if single => {
                // All names are of one repository: they go with the image.
                if let Some(obstacle) = self.obstacle(id, options.force, false) {
                    return Err(conflict(id, &obstacle));
                }
                for name in self.view.names(id).to_vec() {
                    self.untag(txn, id, &name)?;
                }
            }
            Found::Id => {}
        }
        self.delete_unless_needed(txn, id, options, untagged)
    }

    fn delete_unless_needed(
        &mut self,
        txn: &mut db::Write<'_>,
        id: &Digest,
        options: RemoveOptions,
        quiet: bool,
    ) -> Result<()> {
        if let Some(obstacle) = self.obstacle(id, options.force, true) {
            let dangling = self.view.names(id).is_empty() && self.view.children(id) == 0;
            return if quiet && (!dangling || obstacle.used) { Ok(()) } else { Err(conflict(id, &obstacle)) };
        }
        let parent = self.view.images.get(id).and_then(|image| image.parent);
        self.delete(txn, id)?;
        match parent {
            Some(parent) if !options.no_prune && self.view.images.contains_key(&parent) => {
                self.delete_unless_needed(txn, &parent, RemoveOptions { force: false, no_prune: false }, true)
            }
            _ => Ok(()),
        }
    }

    fn obstacle(&self, id: &Digest, force: bool, names_count: bool) -> Option<Obstacle> {
        let containers = self.view.containers(id);
        if self.view.children(id) > 0 {
            return Some(Obstacle { hard: true, used: false, text: "image has dependent child images".into() });
        }
        if let Some(container) = containers.iter().find(|container| (self.running)(container)) {
            let text = format!("image is being used by running container {}", short(container));
            return Some(Obstacle { hard: true, used: true, text });
        }
        if force {
            return None;
        }
        if names_count && !self.view.names(id).is_empty() {
            let text = "image is referenced in multiple repositories".into();
            return Some(Obstacle { hard: false, used: false, text });
        }
        containers.first().map(|container| {
            let text = format!("image is being used by stopped container {}", short(container));
            Obstacle { hard: false, used: true, text }
        })
    }

    fn untag(&mut self, txn: &mut db::Write<'_>, id: &Digest, name: &Reference) -> Result<()> {
        txn.remove(&NAMES, &name.to_string())?;
        if let Some(names) = self.view.names.get_mut(id) {
            names.retain(|other| other != name);
        }
        self.removed.push(Removed::Untagged(name.familiar()));
        Ok(())
    }

    fn delete(&mut self, txn: &mut db::Write<'_>, id: &Digest) -> Result<()> {
        for name in self.view.names(id).to_vec() {
            self.untag(txn, id, &name)?;
        }
        txn.remove(&IMAGES, id)?;
        self.view.images.remove(id);
        self.removed.push(Removed::Deleted(*id));
        Ok(())
    }
}

fn conflict(id: &Digest, obstacle: &Obstacle) -> Error {
    let force = if obstacle.hard { "cannot be forced" } else { "must be forced" };
    Error::Conflict(format!("conflict: unable to delete {} ({force}) - {}", short(&id.hex()), obstacle.text))
}

/// At most one tag, and digests of the same repository only.
fn is_single(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|name| name.digest().is_none()).count();
    names.len() <= 1 || tags <= 1 && names.windows(2).all(|pair| pair[0].repository() == pair[1].repository())
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// `key` or `key=value`.
pub(crate) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|has| has == value),
        None => labels.contains_key(wanted),
    }
}
