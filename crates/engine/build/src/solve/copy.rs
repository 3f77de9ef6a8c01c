//! `COPY`, `ADD` and `WORKDIR` as steps: a snapshot, files put into it by descriptor, sealed as a layer.

use std::collections::BTreeMap;
use std::sync::Arc;

use linux::fs::Root;

use super::key::{self, Content};
use super::{Scratchpad, State, Work, blocking};
use crate::context::Context;
use crate::copy::{Chmod, Item, Loose, Target, apply, digest, select};
use crate::error::{BuildError, Result};
use crate::plan::{CopyOp, CopySource, Files, NodeId, Unpack};
use crate::{Patterns, copy as files};

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
                let root = Root::from_fd(store.mount(name, false)?);
                Ok(Some(Open { root, _pad: Some(pad) }))
            }
        }
    }
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

    /// Two keys where files come from layers: by which layers (found without looking into them) and by which content.
    pub(super) async fn copy_keys(
        &self,
        copy: &CopyOp,
        below: &Content,
        inputs: &BTreeMap<NodeId, State>,
    ) -> Result<Vec<String>> {
        let epoch = self.job.graph.epoch;
        let source = self.source(copy, inputs)?;
        let quick = match &source {
            Source::Layers { state, .. } => Some(key::copy(below, copy, &state.content(), epoch)),
            Source::None => return Ok(vec![key::copy(below, copy, &Content::Nothing, epoch)]),
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
            let items = items(&copy, open.as_ref())?;
            let patterns = Patterns::of(copy.exclude.iter().map(String::as_str)).map_err(BuildError::Invalid)?;
            let content = Content::Files(digest(&items, &patterns, copy.parents)?);
            Ok(quick.into_iter().chain([key::copy(&below, &copy, &content, epoch)]).collect())
        })
        .await
    }

    pub(super) async fn copy(
        &self,
        copy: &CopyOp,
        parent: &State,
        inputs: &BTreeMap<NodeId, State>,
    ) -> Result<image::Sealed> {
        let mut fetched = Vec::new();
        for source in &copy.sources {
            match source {
                CopySource::Http { url, .. } => {
                    return Err(BuildError::Invalid(format!(
                        "ADD {url}: downloads are not supported by this builder yet; COPY the file from the context, or RUN a program that fetches it"
                    )));
                }
                CopySource::Git { remote, .. } => {
                    return Err(BuildError::Invalid(format!(
                        "ADD {remote}: git repositories are not supported by this builder yet; use a named build context"
                    )));
                }
                CopySource::Inline { name, data } => fetched.push((name.clone(), data.clone().into_bytes(), 0o644)),
                CopySource::Path(_) => {}
            }
        }
        let source = self.source(copy, inputs)?;
        let (inner, copy, name, parent) = (self.builder.clone(), copy.clone(), self.snapshot_name(), parent.clone());
        let epoch = self.job.graph.epoch;
        blocking(move || {
            let store = inner.engine.store();
            let open = source.open(store)?;
            let items = items(&copy, open.as_ref())?;
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
                let (archives, plain): (Vec<Item>, Vec<Item>) = match copy.unpack {
                    Unpack::Never => (Vec::new(), items),
                    Unpack::Local | Unpack::Always => {
                        let mut archives = Vec::new();
                        let mut plain = Vec::new();
                        for item in items {
                            if files::is_archive(&item)? { archives.push(item) } else { plain.push(item) }
                        }
                        (archives, plain)
                    }
                };
                if copy.unpack == Unpack::Always && !plain.is_empty() {
                    return Err(BuildError::Invalid(format!("{:?} is not an archive", plain[0].path)));
                }
                apply(&plain, &target)?;
                for item in &archives {
                    files::unpack(item, &target)?;
                }
                for (name, data, mode) in &fetched {
                    target.write(&Loose { name, data, mode: *mode, mtime: None })?;
                }
            }
            drop(open);
            pad.seal(epoch)
        })
        .await
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

/// What the step's patterns name, in their order.
fn items(copy: &CopyOp, open: Option<&Open>) -> Result<Vec<Item>> {
    let mut found = Vec::new();
    let Some(open) = open else { return Ok(found) };
    for source in &copy.sources {
        if let CopySource::Path(pattern) = source {
            found.extend(select(&open.root, pattern)?);
        }
    }
    Ok(found)
}
