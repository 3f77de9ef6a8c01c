//! Cache keys: what a step's result depends on, and nothing else. Pure.

use image::hash::Hasher;
use vocab::Digest;

use crate::plan::{CopyOp, CopySource, Mount, MountKind, RunOp, Unpack};

/// Changes when the meaning of a step changes: nothing cached by another version is taken.
const VERSION: &str = "2";

/// What an input amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Nothing,
    /// Layers, by the chain id of the topmost.
    Layers(Digest),
    /// Files, by what they are.
    Files(Digest),
}

struct Fields(Hasher);

impl Fields {
    fn new(kind: &str, parent: &Content) -> Self {
        let mut fields = Self(Hasher::default());
        fields.text(VERSION);
        fields.text(kind);
        if !vocab::weak::without("cache-key") {
            fields.content(parent);
        }
        fields
    }

    /// Length first, so that no two lists of fields give the same bytes.
    fn text(&mut self, text: &str) {
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    fn list(&mut self, list: &[String]) {
        self.text(&list.len().to_string());
        list.iter().for_each(|text| self.text(text));
    }

    fn content(&mut self, content: &Content) {
        match content {
            Content::Nothing => self.text("nothing"),
            Content::Layers(digest) => self.text(&format!("layers {digest}")),
            Content::Files(digest) => self.text(&format!("files {digest}")),
        }
    }

    /// Nothing where nothing is asked: keys of builds that came before stay what they were.
    fn epoch(&mut self, epoch: Option<i64>) {
        if let Some(secs) = epoch {
            self.text(&format!("epoch {secs}"));
        }
    }

    fn finish(self) -> String {
        self.0.finish().hex()
    }
}

/// `sources`: what each mount with files shows, in the order of the mounts. `epoch`: the latest time that the step's files
/// must have.
pub(crate) fn run(parent: &Content, run: &RunOp, sources: &[Content], hosts: &[String], epoch: Option<i64>) -> String {
    let mut fields = Fields::new("run", parent);
    fields.list(&run.args);
    // A proxy says how a step gets its files, not which.
    let proxies = crate::plan::proxy_names();
    let env: Vec<String> = run
        .env
        .iter()
        .filter(|pair| !proxies.iter().any(|p| pair.split_once('=').is_some_and(|(name, _)| name == *p)))
        .cloned()
        .collect();
    fields.list(&env);
    fields.text(&run.cwd);
    fields.text(&run.user);
    fields.text(&format!("{:?} {:?}", run.network, run.security));
    fields.list(hosts);
    let mut sources = sources.iter();
    for mount in &run.mounts {
        fields.text(&mount_text(mount));
        if mount.from.is_some() {
            fields.content(sources.next().unwrap_or(&Content::Nothing));
        }
    }
    fields.epoch(epoch);
    fields.finish()
}

/// Secrets and the content of caches are not part of a key: the name is.
fn mount_text(mount: &Mount) -> String {
    let kind = match &mount.kind {
        MountKind::Bind => "bind".to_owned(),
        MountKind::Cache { id, .. } => format!("cache {id:?}"),
        MountKind::Tmpfs { size } => format!("tmpfs {size}"),
        MountKind::Secret { id, env, .. } => format!("secret {id:?} {env:?}"),
        MountKind::Ssh { id, .. } => format!("ssh {id:?}"),
        MountKind::Inline { data } => format!("inline {data:?}"),
    };
    format!("{kind} {:?} {:?} {}", mount.target, mount.source, mount.read_only)
}

/// `source`: what the step copies from; `Nothing` where its files stand in the instruction itself. `fetched`: what each
/// source that comes from elsewhere amounts to, empty for the others.
pub(crate) fn copy(
    parent: &Content,
    copy: &CopyOp,
    source: &Content,
    fetched: &[String],
    epoch: Option<i64>,
) -> String {
    let mut fields = Fields::new(if copy.link { "link" } else { "copy" }, parent);
    for (at, item) in copy.sources.iter().enumerate() {
        let fetched = fetched.get(at).map_or("", String::as_str);
        match item {
            CopySource::Path(path) => fields.text(&format!("path {path:?}")),
            CopySource::Inline { name, data } => fields.text(&format!("inline {name:?} {data:?}")),
            // Not the address: the same file from elsewhere is the same file.
            CopySource::Http { .. } => fields.text(&format!("http {fetched}")),
            CopySource::Git { .. } => fields.text(&format!("git {fetched}")),
        }
    }
    fields.text(&copy.destination);
    fields.text(&copy.chown);
    fields.text(&copy.chmod);
    fields.text(match copy.unpack {
        Unpack::Never => "never",
        Unpack::Local => "local",
        Unpack::Always => "always",
    });
    fields.text(&format!("{} {epoch:?}", copy.parents));
    fields.list(&copy.exclude);
    fields.content(source);
    fields.finish()
}

/// A layer of its own, put on top of others.
pub(crate) fn stacked(parent: &Content, layer: &Digest) -> String {
    let mut fields = Fields::new("stacked", parent);
    fields.text(&layer.to_string());
    fields.finish()
}

pub(crate) fn workdir(parent: &Content, path: &str, user: &str, epoch: Option<i64>) -> String {
    let mut fields = Fields::new("workdir", parent);
    fields.text(path);
    fields.text(user);
    fields.epoch(epoch);
    fields.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::{RunNetwork, RunSecurity};

    fn op(env: &[&str]) -> RunOp {
        RunOp {
            args: vec!["make".into()],
            env: env.iter().map(|e| (*e).to_owned()).collect(),
            cwd: "/".into(),
            user: String::new(),
            mounts: Vec::new(),
            network: RunNetwork::Default,
            security: RunSecurity::Sandbox,
        }
    }

    #[test]
    fn keys_differ_where_results_may_and_nowhere_else() {
        let base = Content::Layers(Digest::from_sha256([1; 32]));
        let other = Content::Layers(Digest::from_sha256([2; 32]));
        let key = run(&base, &op(&["A=1"]), &[], &[], None);
        assert_ne!(key, run(&base, &op(&["A=1"]), &[], &[], Some(1)));
        assert_ne!(workdir(&base, "/w", "", None), workdir(&base, "/w", "", Some(1)));
        assert_eq!(key, run(&base, &op(&["A=1", "HTTP_PROXY=x"]), &[], &[], None));
        assert_ne!(key, run(&base, &op(&["A=2"]), &[], &[], None));
        assert_ne!(key, run(&other, &op(&["A=1"]), &[], &[], None));
        let mut more = op(&["A=1"]);
        more.args = vec!["ma".into(), "ke".into()];
        assert_ne!(key, run(&base, &more, &[], &[], None));
    }
}
