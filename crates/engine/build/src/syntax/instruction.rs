//! The syntax tree: what a Dockerfile says, instruction by instruction, variables not yet replaced.

use std::time::Duration;

use super::{Directives, Span};

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub directives: Directives,
    pub escape: char,
    /// `ARG` before the first `FROM`.
    pub globals: Vec<Statement>,
    pub stages: Vec<Stage>,
    /// Things that are allowed and still wrong, for `--check` and the build's warnings.
    pub warnings: Vec<Warning>,
}

/// What a comment says of something by its name: `# name what it is for`.
pub(crate) fn description(comments: &[String], name: &str) -> String {
    let said = |line: &String| line.strip_prefix(name)?.strip_prefix(' ').map(|rest| rest.trim().to_owned());
    comments.iter().find_map(said).unwrap_or_default()
}

/// One of BuildKit's lint rules ([`super::lint::RULES`]), broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub rule: &'static str,
    pub message: String,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// As written in `FROM`.
    pub base: String,
    /// `AS name`, in lower case.
    pub name: Option<String>,
    pub platform: Option<String>,
    pub span: Span,
    /// The line as written, for messages.
    pub source: String,
    /// What the comment above says of the stage: `# name description`.
    pub description: String,
    pub body: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub span: Span,
    /// The line as written, continuations joined.
    pub source: String,
    /// Comment lines directly above.
    pub comments: Vec<String>,
    pub instruction: Instruction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    Arg(Vec<ArgItem>),
    Env(Vec<KeyValue>),
    Label(Vec<KeyValue>),
    Run(Run),
    Copy(Copy),
    Add(Copy),
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<String>),
    Workdir(String),
    User(String),
    Expose(String),
    Volume(Vec<String>),
    StopSignal(String),
    Healthcheck(Health),
    Onbuild(String),
    Maintainer(String),
}

impl Instruction {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Arg(_) => "ARG",
            Self::Env(_) => "ENV",
            Self::Label(_) => "LABEL",
            Self::Run(_) => "RUN",
            Self::Copy(_) => "COPY",
            Self::Add(_) => "ADD",
            Self::Cmd(_) => "CMD",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Shell(_) => "SHELL",
            Self::Workdir(_) => "WORKDIR",
            Self::User(_) => "USER",
            Self::Expose(_) => "EXPOSE",
            Self::Volume(_) => "VOLUME",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Onbuild(_) => "ONBUILD",
            Self::Maintainer(_) => "MAINTAINER",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgItem {
    pub name: String,
    pub default: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
}

/// A program with arguments, or a line for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Exec(Vec<String>),
    Shell(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub command: Command,
    pub heredocs: Vec<Heredoc>,
    /// The text of each `--mount`, variables not replaced.
    pub mounts: Vec<String>,
    pub network: RunNetwork,
    pub security: RunSecurity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunNetwork {
    #[default]
    Default,
    None,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunSecurity {
    #[default]
    Sandbox,
    Insecure,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub sources: Vec<Source>,
    pub destination: String,
    pub from: Option<String>,
    pub chown: String,
    pub chmod: String,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<String>,
    /// `ADD` only.
    pub checksum: String,
    pub keep_git_dir: bool,
    pub unpack: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path, a pattern or, for `ADD`, a URL.
    Path(String),
    /// A file whose content stands in the Dockerfile.
    Inline(Heredoc),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    pub file_descriptor: u32,
    /// Variables are replaced: the name stood without quotes.
    pub expand: bool,
    /// `<<-`: leading tabs are gone.
    pub chomp: bool,
    pub content: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    None,
    Test {
        command: Command,
        interval: Duration,
        timeout: Duration,
        start_period: Duration,
        start_interval: Duration,
        retries: u32,
    },
}
