//! Syntax to a graph of steps, and to the configuration of the image that comes out. Pure but for one question: what
//! configuration a base image has.

mod dispatch;
mod history;
mod mounts;
mod outline;
mod platform;
mod ports;
mod scope;
mod stages;

use std::collections::BTreeMap;

pub(crate) use dispatch::normal_parts;
pub use image::config::Config;
use image::config::Workload;
pub use mounts::{Mount, MountKind, Sharing};
pub use outline::*;
pub use platform::platform_args;
pub(crate) use scope::proxy_names;
pub use stages::plan;
use vocab::Digest;

use crate::syntax::{RunNetwork, RunSecurity, Span, SyntaxError, Warning};

/// What a build is asked for, beside the text.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A stage's name or number; the last one if none.
    pub target: Option<String>,
    /// `--build-arg`; `None`: the name alone was given, and the client has no value for it.
    pub args: BTreeMap<String, Option<String>>,
    /// `--label`, on top of the file's.
    pub labels: BTreeMap<String, String>,
    /// What the image is for (`linux/amd64`); this machine's if none.
    pub platform: Option<image::Platform>,
    /// `--build-context name=...`: names that stand for something else than a stage or an image.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Network of `RUN` steps that do not say.
    pub network: RunNetwork,
    /// `--allow security.insecure`, `--allow network.host`.
    pub allow: Entitlements,
    /// Steps of these stages are made anew (`--no-cache-filter`); all of them with [`Options::no_cache`].
    pub no_cache_stages: Vec<String>,
    pub no_cache: bool,
    /// What the context leaves out, if that is known: to warn of copies that find nothing.
    pub ignore: Option<crate::Patterns>,
    /// Only the warnings are wanted: `check=error=true` makes none of them an error.
    pub only_check: bool,
    /// All that is made has `SOURCE_DATE_EPOCH`'s times, also what the cache has with later ones.
    pub rewrite_timestamps: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entitlements {
    pub insecure: bool,
    pub host_network: bool,
}

/// What `--build-context` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A folder of the client, sent under this name.
    Local(String),
    /// `docker-image://reference`, or `oci-layout://name` if the one who answers for base images knows that name.
    Image(String),
}

/// Answers what an image is. Called while planning; may take as long as a pull.
pub trait Bases {
    fn resolve(&self, reference: &str, platform: &image::Platform) -> Result<Base, String>;
}

/// An image to build on.
#[derive(Debug, Clone)]
pub struct Base {
    pub id: Digest,
    pub config: Config,
}

/// A mistake that shows before any step runs.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    #[error("{message}")]
    At { line: usize, message: String },
    #[error("{0}")]
    Invalid(String),
}

impl PlanError {
    pub(crate) fn at(line: usize, message: impl Into<String>) -> Self {
        Self::At { line, message: message.into() }
    }

    /// 1-based, where there is one.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Syntax(error) => Some(error.line),
            Self::At { line, .. } => Some(*line),
            Self::Invalid(_) => None,
        }
    }
}

/// Number of a node in its graph.
pub type NodeId = usize;

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Files {
    /// The result of a step.
    Node(NodeId),
    /// The build context, or a named one.
    Context(String),
}

/// Name of the build context itself.
pub const MAIN_CONTEXT: &str = "context";

/// One step.
#[derive(Debug, Clone)]
pub struct Node {
    pub op: Op,
    /// The step whose files this one changes.
    pub parent: Option<NodeId>,
    /// `[build 2/5] RUN make`, as BuildKit names it.
    pub name: String,
    pub span: Span,
    /// The cache is not asked.
    pub fresh: bool,
}

impl Node {
    /// Everything that must be there before this step can be done.
    pub fn inputs(&self) -> Vec<Files> {
        let mut inputs: Vec<Files> = self.parent.iter().map(|p| Files::Node(*p)).collect();
        match &self.op {
            Op::Copy(copy) => inputs.extend(copy.from.clone()),
            Op::Run(run) => inputs.extend(run.mounts.iter().filter_map(|m| m.from.clone())),
            _ => {}
        }
        inputs.dedup();
        inputs
    }
}

#[derive(Debug, Clone)]
pub enum Op {
    /// `FROM scratch`: nothing.
    Scratch,
    Image {
        reference: String,
        id: Digest,
    },
    Run(RunOp),
    Copy(CopyOp),
    /// A directory, made if it is missing, for this user.
    Workdir {
        path: String,
        user: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOp {
    pub args: Vec<String>,
    /// `NAME=value`, with the arguments that the step sees.
    pub env: Vec<String>,
    pub cwd: String,
    pub user: String,
    pub mounts: Vec<Mount>,
    pub network: RunNetwork,
    pub security: RunSecurity,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOp {
    pub sources: Vec<CopySource>,
    /// Absolute. With a slash at its end it is a directory.
    pub destination: String,
    /// `None`: no source is a file of something else (only URLs and inline files).
    pub from: Option<Files>,
    pub chown: String,
    pub chmod: String,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<String>,
    pub unpack: Unpack,
    /// For messages and error texts: `COPY` or `ADD`.
    pub add: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpack {
    Never,
    /// Local archives are unpacked, downloaded ones are not: `ADD`.
    Local,
    Always,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// In-root path, may be a pattern.
    Path(String),
    Inline {
        name: String,
        data: String,
    },
    Http {
        url: String,
        checksum: Option<Digest>,
    },
    Git {
        remote: crate::GitRemote,
        keep_git_dir: bool,
    },
}

/// What is to be done, and what comes out.
#[derive(Debug)]
pub struct Graph {
    /// Every input of a node has a lower number.
    pub nodes: Vec<Node>,
    /// The step whose files are the image's.
    pub result: NodeId,
    /// The image's configuration, except what only the steps tell: `rootfs`, `created` and the times in the history.
    pub config: Config,
    /// How many entries of the history are the base image's, whose times stand.
    pub base_history: usize,
    /// Steps behind the entries of the history that made a layer, in their order (after the base image's).
    pub layers: Vec<NodeId>,
    /// Of the rules that the file and the caller want looked at, in the order of their lines.
    pub warnings: Vec<Warning>,
    /// What the target takes from its caller.
    pub outline: Outline,
    /// `SOURCE_DATE_EPOCH`, seconds.
    pub epoch: Option<i64>,
    /// The same where steps that were done without it do not do. Elsewhere they do: a time that changes with every commit
    /// would do them all again.
    pub strict_epoch: Option<i64>,
}

impl Graph {
    pub fn workload(&self) -> &Workload {
        &self.config.config
    }

    /// Contexts that some step reads.
    pub fn contexts(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .nodes
            .iter()
            .flat_map(Node::inputs)
            .filter_map(|input| match input {
                Files::Context(name) => Some(name),
                Files::Node(_) => None,
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod lint_tests;
#[cfg(test)]
mod tests;
