//! `COPY`, `ADD` and `WORKDIR` as steps: a snapshot, files put into it by descriptor, sealed as a layer. With `--link` the
//! snapshot stands on nothing: the layer is the same whatever is below it, and is found again when that changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use linux::fs::Root;

use super::key::{self, Content};
use super::{Scratchpad, State, Work, blocking};
use crate::Patterns;
use crate::context::Context;
use crate::copy::{self as files, Chmod, Item, Loose, Target, apply, digest, select};
use crate::error::{BuildError, Result};
use crate::plan::{CopyOp, CopySource, Files, NodeId, Unpack};
use crate::sources::{Download, Git, Head};

/// Where a copy takes its files from.
enum Source {
    Context(Arc<Context>),
    /// Layers, mounted for reading while the step runs.
    Layers {
        state: State,
        name: String,
    },
    None,
}

/// A source that can be looked into; what holds it goes after it.
struct Open {
    root: Root,
    _pad: Option<Scratchpad>,
}

impl Source {
    /// Blocking.
    fn open(&self, store: &Arc<image::Store>) -> Result<Option<Open>> {
        match self {
            Self::None => Ok(None),
            Self::Context(context) => {
                let root = Root::from_fd(context.root().open_dir("/")?);
                Ok(Some(Open { root, _pad: None }))
            }
            Self::Layers { state, name } => {
                let pad = Scratchpad::new(store, name.clone(), state.top.as_ref())?;
                let root = Root::from_fd(store.mount_files(name)?);
                Ok(Some(Open { root, _pad: Some(pad) }))
            }
        }
    }
}

/// What is known of a source that comes from elsewhere, before anything is copied.
pub(super) enum Fetched {
    /// It does not.
    Local,
    /// A file that is here, or (with a checksum) one of which everything is known.
    File(Option<Download>, String),
    /// A commit; its files come when they are needed.
    Commit(Head, String),
}

impl Fetched {
    /// What it amounts to, for the key.
    pub(super) fn identity(&self) -> String {
        match self {
            Self::Local => String::new(),
            Self::File(_, identity) | Self::Commit(_, identity) => identity.clone(),
        }
    }
}

/// One thing to put into the root, in the order of the instruction.
enum Piece {
    File { item: Item, downloaded: bool },
    Folder(Item),
    Inline { name: String, data: String },
}

impl Work {
    fn source(&self, copy: &CopyOp, inputs: &BTreeMap<NodeId, State>) -> Result<Source> {
        Ok(match &copy.from {
            None => Source::None,
            Some(Files::Context(name)) => Source::Context(self.context(name)?),
            Some(Files::Node(node)) => {
                let state = inputs.get(node).cloned().ok_or(BuildError::Cancelled)?;
                Source::Layers { state, name: self.snapshot_name() }
            }
        })
    }

    /// Asks for what comes from elsewhere: downloads files, and asks repositories for commits.
    pub(super) async fn fetch(&self, copy: &CopyOp) -> Result<Vec<Fetched>> {
        let mut all = Vec::new();
        for source in &copy.sources {
            all.push(match source {
                CopySource::Path(_) | CopySource::Inline { .. } => Fetched::Local,
                CopySource::Http { url, checksum: Some(digest) } => {
                    Fetched::File(None, format!("{:?} {digest}", crate::sources::file_name(url)))
                }
                CopySource::Http { url, checksum: None } => {
                    let download = self.builder.downloads.get(url, None, &self.job.cancel).await?;
                    let identity = format!("{:?} {}", download.name, download.digest);
                    Fetched::File(Some(download), identity)
                }
                CopySource::Git { remote, keep_git_dir } => {
                    let scratch = Context::new(&self.builder.root.join("contexts"))?;
                    let git = Git { remote, client: &*self.job.client, cancel: &self.job.cancel };
                    let head = git.head(&scratch).await?;
                    let identity = format!("{} {:?} {keep_git_dir} {}", head.commit, remote.subdir, remote.submodules);
                    Fetched::Commit(head, identity)
                }
            });
        }
        Ok(all)
    }

    /// Two keys where files come from layers: by which layers (found without looking into them) and by which content.
    pub(super) async fn copy_keys(
        &self,
        copy: &CopyOp,
        below: &Content,
        inputs: &BTreeMap<NodeId, State>,
        fetched: &[Fetched],
    ) -> Result<Vec<String>> {
        let epoch = self.job.graph.epoch;
        let fetched: Vec<String> = fetched.iter().map(Fetched::identity).collect();
        let source = self.source(copy, inputs)?;
        let quick = match &source {
            Source::Layers { state, .. } => Some(key::copy(below, copy, &state.content(), &fetched, epoch)),
            Source::None => return Ok(vec![key::copy(below, copy, &Content::Nothing, &fetched, epoch)]),
            Source::Context(_) => None,
        };
        if let Some(quick) = &quick
            && !self.graph_node().fresh
        {
            let (inner, key) = (self.builder.clone(), quick.clone());
            if blocking(move || Ok(inner.cache.find(&key)?.is_some())).await? {
                return Ok(vec![quick.clone()]);
            }
        }
        let (inner, copy, below) = (self.builder.clone(), copy.clone(), below.clone());
        blocking(move || {
            let open = source.open(inner.engine.store())?;
            let mut items = Vec::new();
            for source in &copy.sources {
                items.extend(selected(source, &copy, open.as_ref())?);
            }
            let patterns = Patterns::of(copy.exclude.iter().map(String::as_str)).map_err(BuildError::Invalid)?;
            let known = match &source {
                Source::Context(context) => context.digests(),
                _ => None,
            };
            let content = Content::Files(digest(&items, &patterns, copy.parents, known)?);
            Ok(quick.into_iter().chain([key::copy(&below, &copy, &content, &fetched, epoch)]).collect())
        })
        .await
    }

    pub(super) async fn copy(
        &self,
        copy: &CopyOp,
        parent: &State,
        inputs: &BTreeMap<NodeId, State>,
        fetched: Vec<Fetched>,
    ) -> Result<image::Sealed> {
        // In the order of the sources; those that are here already are looked for below.
        let mut foreign = Vec::new();
        let mut checkouts = Vec::new();
        for (source, fetched) in copy.sources.iter().zip(fetched) {
            foreign.push(match (source, fetched) {
                (CopySource::Http { url, checksum }, Fetched::File(download, _)) => {
                    let download = match download {
                        Some(download) => download,
                        None => self.builder.downloads.get(url, checksum.as_ref(), &self.job.cancel).await?,
                    };
                    let (path, kept) = (download.name.clone(), download.name);
                    Some(Piece::File { item: Item { path, kept, fd: download.fd, directory: false }, downloaded: true })
                }
                (CopySource::Git { remote, keep_git_dir }, Fetched::Commit(head, _)) => {
                    let context = Context::new(&self.builder.root.join("contexts"))?;
                    let git = Git { remote, client: &*self.job.client, cancel: &self.job.cancel };
                    git.check_out(&head, *keep_git_dir, &context).await?;
                    let context = context.into_sub(&remote.subdir)?;
                    let fd = context.root().open_dir("/")?;
                    checkouts.push(context);
                    Some(Piece::Folder(Item { path: String::new(), kept: String::new(), fd, directory: true }))
                }
                _ => None,
            });
        }
        let source = self.source(copy, inputs)?;
        let (inner, copy, name, parent) = (self.builder.clone(), copy.clone(), self.snapshot_name(), parent.clone());
        let epoch = self.job.graph.epoch;
        blocking(move || {
            let store = inner.engine.store();
            let open = source.open(store)?;
            let mut pieces = Vec::new();
            for (source, foreign) in copy.sources.iter().zip(foreign) {
                match (source, foreign) {
                    (_, Some(piece)) => pieces.push(piece),
                    (CopySource::Inline { name, data }, None) => {
                        pieces.push(Piece::Inline { name: name.clone(), data: data.clone() });
                    }
                    (source, None) => {
                        let items = selected(source, &copy, open.as_ref())?;
                        pieces.extend(items.into_iter().map(|item| Piece::File { item, downloaded: false }));
                    }
                }
            }
            let pad = Scratchpad::new(store, name, parent.top.as_ref())?;
            {
                let root = Root::from_fd(store.mount(&pad.name, true)?);
                let exclude = Patterns::of(copy.exclude.iter().map(String::as_str)).map_err(BuildError::Invalid)?;
                let owner = match copy.chown.as_str() {
                    "" => None,
                    text => {
                        let user = engine::lookup_user(&root, text)?;
                        Some((user.0, user.1))
                    }
                };
                let chmod = match copy.chmod.as_str() {
                    "" => None,
                    text => Some(Chmod::parse(text).map_err(BuildError::Invalid)?),
                };
                let target = Target {
                    root: &root,
                    destination: &copy.destination,
                    owner,
                    chmod,
                    parents: copy.parents,
                    exclude: &exclude,
                    epoch,
                };
                put(&pieces, &copy, &target)?;
            }
            drop((open, checkouts));
            pad.seal(epoch)
        })
        .await
    }

    /// A `--link` copy: the layer by itself, found or made, then on top of what is below it. Tells whether it was found.
    pub(super) async fn linked(
        &self,
        copy: &CopyOp,
        parent: &State,
        inputs: &BTreeMap<NodeId, State>,
        fetched: Vec<Fetched>,
    ) -> Result<(State, bool)> {
        let keys = self.copy_keys(copy, &Content::Nothing, inputs, &fetched).await?;
        let nothing = State { top: None, created_at: None, lease: None };
        let (own, found) = self.once(&keys, || self.copy(copy, &nothing, inputs, fetched)).await?;
        let (Some(layer), Some(top)) = (own.top, parent.top) else { return Ok((own, found)) };
        let (inner, below) = (self.builder.clone(), parent.content());
        let record = self.record(&layer, 0);
        let state = blocking(move || {
            let sealed = inner.engine.store().stack(Some(&top), &layer)?;
            let chain = sealed.layer.chain;
            let record = crate::cache::CacheRecord { top: Some(chain), bytes: sealed.layer.bytes, ..record };
            let key = key::stacked(&below, &layer);
            match inner.cache.find(&key)? {
                Some(_) => inner.cache.touch(&[key])?,
                None => inner.cache.put(&[key], &record)?,
            }
            Ok(State { top: Some(chain), created_at: own.created_at, lease: Some(Arc::new(sealed.lease)) })
        })
        .await?;
        Ok((state, found))
    }

    pub(super) async fn workdir(&self, path: &str, user: &str, parent: &State) -> Result<image::Sealed> {
        let (inner, path, user) = (self.builder.clone(), path.to_owned(), user.to_owned());
        let (name, parent, epoch) = (self.snapshot_name(), parent.clone(), self.job.graph.epoch);
        blocking(move || {
            let store = inner.engine.store();
            let pad = Scratchpad::new(store, name, parent.top.as_ref())?;
            {
                let root = Root::from_fd(store.mount(&pad.name, true)?);
                let owner = match user.as_str() {
                    "" => None,
                    text => Some(engine::lookup_user(&root, text)?),
                };
                let exclude = Patterns::default();
                let target = Target {
                    root: &root,
                    destination: &path,
                    owner,
                    chmod: None,
                    parents: false,
                    exclude: &exclude,
                    epoch,
                };
                target.directory(&path)?;
            }
            pad.seal(epoch)
        })
        .await
    }
}

fn put(pieces: &[Piece], copy: &CopyOp, target: &Target<'_>) -> Result<()> {
    let many = pieces.len() > 1;
    for piece in pieces {
        match piece {
            Piece::Inline { name, data } => {
                target.write(&Loose { name, data: data.as_bytes(), mode: 0o644, mtime: None })?;
            }
            Piece::Folder(item) => apply(std::slice::from_ref(item), target, many)?,
            Piece::File { item, downloaded } => {
                let wanted = match copy.unpack {
                    Unpack::Never => false,
                    Unpack::Local => !downloaded,
                    Unpack::Always => true,
                };
                if wanted && !item.excluded(target.exclude) && files::is_archive(item)? {
                    files::unpack(item, target)?;
                } else {
                    apply(std::slice::from_ref(item), target, many)?;
                }
            }
        }
    }
    Ok(())
}

/// What one source names in what is copied from.
fn selected(source: &CopySource, copy: &CopyOp, open: Option<&Open>) -> Result<Vec<Item>> {
    match (source, open) {
        (CopySource::Path(pattern), Some(open)) => Ok(select(&open.root, pattern, copy.parents)?),
        _ => Ok(Vec::new()),
    }
}
