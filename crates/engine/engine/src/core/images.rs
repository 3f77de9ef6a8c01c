//! Images for the engine's callers: the store's calls in the engine's words, with events.

use std::sync::Arc;

use image::config::{Empty, Workload};
use vocab::{Digest, Reference};

use super::Inner;
use super::inner::blocking;
use crate::decide::time::parse_until;
use crate::stream::{Body, ByteSink, Stream};
use crate::{
    ByteStream, ContainerConfig, Error, Filters, Healthcheck, HistoryEntry, ImageConfig, ImageListOptions, ImagePruned,
    ImageRemoval, ImageSummary, ImageView, ImportRequest, LoadProgress, Result,
};

/// What `create` needs of an image.
pub(crate) struct ImageForCreate {
    pub(crate) id: Digest,
    pub(crate) config: ImageConfig,
}

impl Inner {
    pub(crate) fn image_for_create(&self, name: &str, platform: Option<&str>) -> Result<ImageForCreate> {
        let id = self.images.resolve(name)?;
        let known =
            self.image_configs.lock().unwrap_or_else(|e| e.into_inner()).iter().find(|(k, _)| *k == id).cloned();
        let facts = match known {
            Some((_, config)) => config,
            None => {
                let facts = Arc::new(self.images.inspect(name)?.config);
                let mut known = self.image_configs.lock().unwrap_or_else(|e| e.into_inner());
                if known.len() == 16 {
                    known.remove(0);
                }
                known.push((id, facts.clone()));
                facts
            }
        };
        if let Some(text) = platform.filter(|p| !p.is_empty()) {
            let wanted = image::Platform::parse(text)?;
            if wanted.os != facts.os || wanted.architecture != facts.architecture {
                return Err(Error::NotFound(format!(
                    "image with reference {name} was found but its platform ({}/{}) does not match the specified platform ({wanted})",
                    facts.os, facts.architecture
                )));
            }
        }
        Ok(ImageForCreate { id, config: from_workload(&facts.config) })
    }

    pub(crate) fn image_list(&self, options: &ImageListOptions) -> Result<Vec<ImageSummary>> {
        let f = &options.filters;
        if let Some(key) = f.unknown_key(&["dangling", "label", "before", "since", "reference", "until"]) {
            return Err(Error::Invalid(format!("invalid filter '{key}'")));
        }
        let own = |key: &str| f.values(key).map(str::to_owned).collect::<Vec<_>>();
        let filter = image::ListFilter {
            all: options.all,
            dangling: dangling(f)?,
            labels: own("label"),
            references: own("reference"),
            before: own("before"),
            since: own("since"),
            until: parse_until(f, jiff::Timestamp::now())?,
        };
        let list = self.images.list(&filter)?.into_iter().map(|i| ImageSummary {
            id: i.id,
            parent: i.parent,
            tags: familiar(&i.tags),
            digests: familiar(&i.digests),
            created_at: i.created_at,
            size_bytes: i.size_bytes,
            shared_size_bytes: options.shared_size.then_some(i.shared_size_bytes),
            labels: i.labels,
            containers: i.containers.len(),
        });
        Ok(list.collect())
    }

    pub(crate) fn image_view(&self, name: &str) -> Result<ImageView> {
        let i = self.images.inspect(name)?;
        Ok(ImageView {
            id: i.id,
            parent: i.parent,
            tags: familiar(&i.tags),
            digests: familiar(&i.digests),
            comment: i.config.comment.clone(),
            author: i.config.author.clone(),
            created_at: i.config.created_at(),
            tagged_at: i.tagged_at,
            architecture: i.config.architecture.clone(),
            variant: i.config.variant.clone(),
            os: i.config.os.clone(),
            size_bytes: i.size_bytes,
            config: from_workload(&i.config.config),
            layers: i.config.rootfs.diff_ids.clone(),
            lowers: i.lowers,
        })
    }

    pub(crate) fn image_history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let steps = self.images.history(name)?.into_iter().map(|h| HistoryEntry {
            id: h.id,
            created_at: h.created_at,
            created_by: h.created_by,
            size_bytes: h.size_bytes,
            comment: h.comment,
            tags: familiar(&h.tags),
        });
        Ok(steps.collect())
    }

    pub(crate) fn image_tag(&self, name: &str, target: &str) -> Result<()> {
        let target = parse_reference(target)?;
        let id = self.images.tag(name, &target)?;
        self.image_event("tag", id.to_string(), Some(target.familiar()));
        Ok(())
    }

    pub(crate) fn image_remove(&self, name: &str, force: bool, no_prune: bool) -> Result<Vec<ImageRemoval>> {
        let running = |id: &str| {
            let container = super::image_mounts::owner_of(id).and_then(|id| self.registry().get(id));
            container.is_some_and(|c| c.status().is_running())
        };
        let image = self.images.resolve(name).ok();
        let removed = self.images.remove(name, image::RemoveOptions { force, no_prune }, &running)?;
        Ok(self.told(removed, image))
    }

    pub(crate) fn image_prune(&self, filters: &Filters) -> Result<ImagePruned> {
        if let Some(key) = filters.unknown_key(&["dangling", "label", "label!", "until"]) {
            return Err(Error::Invalid(format!("invalid filter '{key}'")));
        }
        let own = |key: &str| filters.values(key).map(str::to_owned).collect::<Vec<_>>();
        let pruned = self.images.prune(&image::PruneFilter {
            dangling: dangling(filters)?.unwrap_or(true),
            until: parse_until(filters, jiff::Timestamp::now())?,
            labels: own("label"),
            labels_not: own("label!"),
        })?;
        let attributes = [("reclaimed".to_owned(), pruned.reclaimed_bytes.to_string())].into();
        let removed = self.told(pruned.removed, None);
        self.events.emit(crate::EventKind::Image, "prune", String::new(), attributes);
        Ok(ImagePruned { removed, space_reclaimed_bytes: pruned.reclaimed_bytes })
    }

    /// Events are about images, by their ids: `image` is whose names went, and layers are no images.
    fn told(&self, removed: Vec<image::Removed>, image: Option<Digest>) -> Vec<ImageRemoval> {
        let told = removed.into_iter().map(|removed| match removed {
            image::Removed::Untagged(name) => {
                let id = image.as_ref().map_or_else(|| name.clone(), ToString::to_string);
                self.image_event("untag", id.clone(), Some(id));
                ImageRemoval::Untagged(name)
            }
            image::Removed::Deleted(id) => {
                if image.is_none_or(|image| image == id) {
                    self.image_event("delete", id.to_string(), Some(id.to_string()));
                }
                ImageRemoval::Deleted(id)
            }
        });
        told.collect()
    }

    pub(crate) fn image_load(self: &Arc<Self>, mut body: Body) -> Stream<LoadProgress> {
        let (sender, stream) = Stream::channel(64);
        let inner = self.clone();
        tokio::task::spawn_blocking(move || {
            let report = |progress| {
                let told = match progress {
                    image::Progress::Layer { id, current, total } => LoadProgress::Layer { id, current, total },
                    image::Progress::LayerDone { .. } => return,
                    image::Progress::Tagged { reference, id } => {
                        LoadProgress::Tagged { reference: reference.familiar(), id }
                    }
                    image::Progress::Loaded { id } => LoadProgress::Loaded { id },
                };
                match &told {
                    // Progress may be lost on a slow reader, news may not.
                    LoadProgress::Layer { .. } => drop(sender.try_send(Ok(told))),
                    _ => drop(sender.blocking_send(Ok(told))),
                }
            };
            match inner.images.load(&mut body, &image::LoadOptions::default(), &report) {
                Ok(loaded) => {
                    for image in loaded {
                        let id = image.id.to_string();
                        inner.image_event("load", id.clone(), Some(id));
                    }
                }
                Err(error) => drop(sender.blocking_send(Err(error.into()))),
            }
        });
        stream
    }

    pub(crate) async fn image_save(self: &Arc<Self>, names: Vec<String>) -> Result<ByteStream> {
        // Unknown names are an answer, not a broken stream.
        let (inner, asked) = (self.clone(), names.clone());
        blocking(move || asked.iter().try_for_each(|name| inner.images.resolve(name).map(drop))).await?;
        let (sender, stream) = ByteStream::channel(16);
        let inner = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut sink = ByteSink::new(sender.clone());
            let saved = inner.images.save(&names, &mut sink).and_then(|()| {
                std::io::Write::flush(&mut sink).map_err(|source| image::Error::Stream { what: "save", source })
            });
            match saved {
                Ok(()) => {
                    for name in names {
                        let id = inner.images.resolve(&name).map_or(name, |id| id.to_string());
                        inner.image_event("save", id.clone(), Some(id));
                    }
                }
                Err(error) => drop(sender.blocking_send(Err(error.into()))),
            }
        });
        Ok(stream)
    }

    pub(crate) fn image_import(&self, request: ImportRequest, mut body: Body) -> Result<Digest> {
        let reference = request.reference.as_deref().filter(|r| !r.is_empty()).map(parse_reference).transpose()?;
        let platform = request.platform.as_deref().filter(|p| !p.is_empty()).map(image::Platform::parse).transpose()?;
        let name = reference.as_ref().map(Reference::familiar);
        let options = image::ImportOptions { reference, message: request.message, changes: request.changes, platform };
        let id = self.images.import(&mut body, &options, &|_| {})?;
        if name.is_some() {
            self.image_event("tag", id.to_string(), name);
        }
        self.image_event("import", id.to_string(), Some(id.to_string()));
        Ok(id)
    }
}

pub(crate) fn parse_reference(text: &str) -> Result<Reference> {
    let reference: Reference = text.parse().map_err(image::Error::from)?;
    Ok(reference.or_latest())
}

fn familiar(references: &[Reference]) -> Vec<String> {
    references.iter().map(Reference::familiar).collect()
}

fn dangling(filters: &Filters) -> Result<Option<bool>> {
    match filters.values("dangling").last() {
        None => Ok(None),
        Some("true" | "1") => Ok(Some(true)),
        Some("false" | "0") => Ok(Some(false)),
        Some(other) => Err(Error::Invalid(format!("invalid filter 'dangling=[{other}]'"))),
    }
}

fn from_workload(w: &Workload) -> ImageConfig {
    ImageConfig {
        user: w.user.clone(),
        exposed_ports: w.exposed_ports.keys().cloned().collect(),
        env: w.env.clone(),
        entrypoint: w.entrypoint.clone(),
        cmd: w.cmd.clone(),
        args_escaped: w.args_escaped,
        volumes: w.volumes.keys().cloned().collect(),
        working_dir: w.working_dir.clone(),
        labels: w.labels.clone(),
        stop_signal: w.stop_signal.clone(),
        shell: w.shell.clone(),
        healthcheck: w.healthcheck.as_ref().map(|h| Healthcheck {
            test: h.test.clone(),
            interval: h.interval,
            timeout: h.timeout,
            start_period: h.start_period,
            start_interval: h.start_interval,
            retries: h.retries,
        }),
        on_build: w.on_build.clone(),
    }
}

pub(crate) fn to_workload(c: &ImageConfig) -> Workload {
    Workload {
        user: c.user.clone(),
        exposed_ports: c.exposed_ports.iter().map(|p| (p.clone(), Empty)).collect(),
        env: c.env.clone(),
        entrypoint: c.entrypoint.clone(),
        cmd: c.cmd.clone(),
        args_escaped: c.args_escaped,
        volumes: c.volumes.iter().map(|v| (v.clone(), Empty)).collect(),
        working_dir: c.working_dir.clone(),
        labels: c.labels.clone(),
        stop_signal: c.stop_signal.clone(),
        shell: c.shell.clone(),
        healthcheck: c.healthcheck.as_ref().map(|h| image::config::Healthcheck {
            test: h.test.clone(),
            interval: h.interval,
            timeout: h.timeout,
            start_period: h.start_period,
            start_interval: h.start_interval,
            retries: h.retries,
        }),
        on_build: c.on_build.clone(),
        ..Default::default()
    }
}

/// The part of a container's configuration that an image can hold.
pub(crate) fn image_config(c: &ContainerConfig) -> ImageConfig {
    ImageConfig {
        user: c.user.clone(),
        exposed_ports: c.exposed_ports.clone(),
        env: c.env.clone(),
        entrypoint: c.entrypoint.clone(),
        cmd: c.cmd.clone(),
        args_escaped: false,
        volumes: c.volumes.clone(),
        working_dir: c.working_dir.clone(),
        labels: c.labels.clone(),
        stop_signal: c.stop_signal.clone(),
        shell: c.shell.clone(),
        healthcheck: c.healthcheck.clone(),
        on_build: c.on_build.clone(),
    }
}

/// Puts an image's part back into a container's configuration.
pub(crate) fn overlay_config(config: &mut ContainerConfig, image: ImageConfig) {
    config.user = image.user;
    config.exposed_ports = image.exposed_ports;
    config.env = image.env;
    config.entrypoint = image.entrypoint;
    config.cmd = image.cmd;
    config.volumes = image.volumes;
    config.working_dir = image.working_dir;
    config.labels = image.labels;
    config.stop_signal = image.stop_signal;
    config.shell = image.shell;
    config.healthcheck = image.healthcheck;
    config.on_build = image.on_build;
}
