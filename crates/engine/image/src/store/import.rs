//! Images made here: `import` of a root file system, `commit` of a container; and what else reads a container's tree.

use std::io::{Read, Write};

use linux::fs::{OFlags, Root};
use serde_json::{Value, json};
use vocab::{Digest, Reference};

use super::Store;
use super::commit::NewImage;
use super::ingest::{Blob, Packing, StagedLayer};
use super::load::read_head;
use super::staging::Staging;
use crate::changes;
use crate::chunk::Pool;
use crate::config::{Config, History, Workload};
use crate::error::{Context, Error, Result};
use crate::model::*;
use crate::pack::{self, Packer};

const BUFFERS: usize = 32;
/// Between two reports.
const REPORT_BYTES: u64 = 4 << 20;

impl Store {
    pub(super) fn import_tar(
        &self,
        input: &mut (dyn Read + Send),
        options: &ImportOptions,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Digest> {
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let mut workload = Workload::default();
        changes::apply(&mut workload, &options.changes)?;
        let stream = |source| Error::Stream { what: "read the root file system", source };
        let head = read_head(input).map_err(stream)?;
        let tar = crate::inflate::inflate(head, input).map_err(stream)?;
        let mut tar = tar.ok_or_else(|| Error::invalid("import", "not a tar or compressed tar"))?;
        let staging = Staging::new(&self.tmp())?;
        let layer = self.stage(&staging, "imported layer", |send| {
            let pool = Pool::new(BUFFERS);
            let (mut current, mut reported) = (0, 0);
            while let Some(chunk) = pool.read(&mut tar).map_err(stream)? {
                current += chunk.len() as u64;
                if !send(&chunk) {
                    break;
                }
                if current - reported >= REPORT_BYTES {
                    reported = current;
                    progress(Progress::Layer { id: String::new(), current, total: 0 });
                }
            }
            Ok(())
        })?;
        let created = jiff::Timestamp::now().to_string();
        let comment = match options.message.as_str() {
            "" => "Imported from -".to_owned(),
            message => message.to_owned(),
        };
        let config = Config {
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            created: Some(created.clone()),
            comment: comment.clone(),
            config: workload,
            history: vec![History { created: Some(created), comment, ..History::default() }],
            ..Config::default()
        };
        let value = serde_json::to_value(&config).map_err(|e| Error::invalid("configuration", e))?;
        self.commit_one(&staging, value, vec![layer], options.reference.clone(), None)
    }

    /// Makes an image of the container's image and its writable layer; returns its id. Pausing is the caller's step.
    pub fn commit(&self, container: &str, options: &CommitOptions) -> Result<Digest> {
        let (record, _pins) = {
            let _lock = self.lock();
            let record = self.snapshot_record(container)?;
            let pins = self.pin(record.layers.iter().copied());
            (record, pins)
        };
        // A forced `rmi` may have taken the image away; then its configuration is gone and the container's must do.
        let parent =
            record.image.ok_or_else(|| Error::invalid("commit", format!("{container} was made of no image")))?;
        if self.db.read()?.get(&super::records::IMAGES, &parent)?.is_none() {
            return Err(Error::NoSuchImage(parent.to_string()));
        }
        let (base, bytes) = self.config(&parent)?;
        let mut workload = options.config.clone().unwrap_or_else(|| base.config.clone());
        changes::apply(&mut workload, &options.changes)?;

        let staging = Staging::new(&self.tmp())?;
        let upper = Root::open(self.snapshots_dir().join(container).join("upper"))
            .and_then(|upper| linux::fs::reopen(&upper, OFlags::RDONLY | OFlags::DIRECTORY))
            .context(|| format!("open snapshot {container}"))?;
        let layer = self.stage(&staging, "committed layer", |send| {
            let (reader, writer) = std::io::pipe().context(|| "make a pipe")?;
            std::thread::scope(|scope| {
                let packing = scope.spawn(|| {
                    let mut packer = Packer::new(std::io::BufWriter::with_capacity(128 << 10, writer));
                    crate::deep::walk(|| pack::pack_layer(&mut packer, &upper)).context(|| "pack a layer")??;
                    let mut out = packer.finish()?;
                    out.flush().map_err(|source| Error::Stream { what: "write the layer", source })
                });
                let pool = Pool::new(BUFFERS);
                let mut reader = reader;
                while let Some(chunk) = pool.read(&mut reader).context(|| "read a pipe")? {
                    if !send(&chunk) {
                        break;
                    }
                }
                drop(reader);
                packing.join().unwrap_or_else(|_| Err(Error::Damaged("packing a layer panicked".into())))
            })
        })?;

        // The parent's own document is changed in place, so that fields which we do not know survive.
        let mut value: Value = serde_json::from_slice(&bytes).map_err(|e| Error::invalid("configuration", e))?;
        let created = jiff::Timestamp::now().to_string();
        let step = History {
            created: Some(created.clone()),
            created_by: options.created_by.clone(),
            author: options.author.clone(),
            comment: options.message.clone(),
            empty_layer: false,
        };
        let mut history = value["history"].as_array().cloned().unwrap_or_default();
        history.push(serde_json::to_value(step).map_err(|e| Error::invalid("history", e))?);
        let config = serde_json::to_value(&workload).map_err(|e| Error::invalid("configuration", e))?;
        let mut diff_ids = base.rootfs.diff_ids.clone();
        diff_ids.push(layer.diff_id);
        value["created"] = json!(created);
        value["config"] = config;
        value["history"] = Value::Array(history);
        value["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        value["author"] = json!(options.author);
        value["comment"] = json!(options.message);
        value["container"] = json!(container);

        let mut layers = self.stored_layers(&record.layers)?;
        layers.push(layer);
        self.commit_one(&staging, value, layers, options.reference.clone(), Some(parent))
    }

    /// What the container changed, by path. Mount points of the init layer are not told.
    pub fn diff(&self, container: &str) -> Result<Vec<Change>> {
        let record = self.snapshot_record(container)?;
        let below = crate::union::Union::open(&self.lowers(&record.layers)?)?;
        let upper = Root::open(self.snapshots_dir().join(container).join("upper"))
            .context(|| format!("open snapshot {container}"))?
            .into_fd();
        crate::deep::walk(|| pack::diff(&upper, &below)).context(|| format!("compare {container}"))?
    }

    /// The merged tree as a tar. Volumes are not part of it.
    pub fn export(&self, container: &str, output: &mut (dyn Write + Send)) -> Result<()> {
        let union = self.union_of(container)?;
        let stream = |source| Error::Stream { what: "write the archive", source };
        let mut packer = Packer::new(std::io::BufWriter::with_capacity(128 << 10, output));
        crate::deep::walk(|| pack::pack_union(&mut packer, &union)).context(|| format!("export {container}"))??;
        packer.finish()?.flush().map_err(stream)
    }

    /// One plain layer, from whatever `feed` sends.
    pub(super) fn stage(
        &self,
        staging: &Staging,
        what: &str,
        feed: impl FnOnce(&dyn Fn(&crate::chunk::Chunk) -> bool) -> Result<()>,
    ) -> Result<StagedLayer> {
        let ingest = self.ingest(staging);
        std::thread::scope(|scope| {
            let running = ingest.start(scope, Packing::Plain, what.to_owned(), false, Blob::Staged);
            let fed = feed(&|chunk| running.send(chunk));
            let layer = running.join();
            // When the layer failed, the feeder only saw that nobody listened.
            match (fed, layer) {
                (Ok(()) | Err(Error::Stream { .. }), Err(layer)) => Err(layer),
                (Err(fed), _) => Err(fed),
                (Ok(()), layer) => layer,
            }
        })
    }

    fn commit_one(
        &self,
        staging: &Staging,
        mut config: Value,
        layers: Vec<StagedLayer>,
        name: Option<Reference>,
        parent: Option<Digest>,
    ) -> Result<Digest> {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let config = serde_json::to_vec(&config).map_err(|e| Error::invalid("configuration", e))?;
        let id = crate::hash::sha256(&config);
        let parsed = Config::parse(&config, &format!("configuration {id}"))?;
        if layers.len() > self.options.limits.layers {
            return Err(Error::limit(format!("image {id}"), format!("max depth exceeded: {} layers", layers.len())));
        }
        let names = name.map(Reference::or_latest).into_iter().collect();
        let image = NewImage { id, config, parsed, layers, names, manifests: Vec::new(), parent };
        self.commit_images(staging, vec![image])?;
        Ok(id)
    }
}
