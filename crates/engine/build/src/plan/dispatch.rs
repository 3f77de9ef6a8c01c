//! One stage's instructions, one after the other: what each does to the files and to the configuration.

use image::Platform;
use image::config::{Empty, Healthcheck, History, Workload};

use super::scope::{ALL_PROXIES, Args, PROXIES, Scope, assign, lookup};
use super::stages::{Planner, counts};
use super::*;
use crate::Remote;
use crate::syntax::{self, Command, Expander, Health, Heredoc, Instruction, KeyValue, Source, Statement, Variables};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Marks entries of the history, as BuildKit does.
pub(crate) const COMMENT: &str = "buildkit.dockerfile.v0";

/// `[build 2/5]`; the only stage of a file needs no name.
fn step_label(stage: &str, step: usize, steps: usize) -> String {
    if stage.is_empty() { format!("[{step}/{steps}]") } else { format!("[{stage} {step}/{steps}]") }
}

/// A stage up to some instruction.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    at: usize,
    name: String,
    fresh: bool,
    platform: Platform,
    /// Number of the next step and how many there are, for its name.
    step: usize,
    steps: usize,
    pub(super) fs: NodeId,
    pub(super) config: Config,
    pub(super) layers: Vec<NodeId>,
    pub(super) base_history: usize,
    args: Args,
    /// Of the statement under way.
    line: usize,
    /// Some `WORKDIR` was absolute.
    workdir_set: bool,
    /// `CMD` was given in this stage: an `ENTRYPOINT` leaves it alone.
    own_cmd: bool,
    triggers: Vec<String>,
}

impl StageState {
    pub(super) fn scratch(node: NodeId, platform: &Platform) -> Self {
        let config = Config {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            config: Workload {
                env: vec![format!("PATH={DEFAULT_PATH}")],
                working_dir: "/".into(),
                ..Workload::default()
            },
            ..Config::default()
        };
        Self::new(node, config)
    }

    pub(super) fn of_image(node: NodeId, base: &Base) -> Self {
        let mut config = base.config.clone();
        config.created = None;
        config.rootfs = Default::default();
        if config.config.working_dir.is_empty() {
            config.config.working_dir = "/".into();
        }
        let mut state = Self::new(node, config);
        state.base_history = state.config.history.len();
        state.triggers = std::mem::take(&mut state.config.config.on_build);
        state
    }

    fn new(node: NodeId, config: Config) -> Self {
        Self {
            at: 0,
            name: String::new(),
            fresh: false,
            platform: Platform::host(),
            step: 1,
            steps: 1,
            fs: node,
            config,
            layers: Vec::new(),
            base_history: 0,
            args: Args::default(),
            line: 0,
            workdir_set: false,
            own_cmd: false,
            triggers: Vec::new(),
        }
    }

    /// A stage on top of another one: everything but the arguments goes on.
    pub(super) fn inherit(&mut self) {
        self.args = Args::default();
        self.own_cmd = false;
        self.triggers = std::mem::take(&mut self.config.config.on_build);
    }

    /// `base_steps`: 1 where what the stage stands on counts as a step of its own.
    pub(super) fn open(&mut self, at: usize, name: String, fresh: bool, platform: Platform, base_steps: usize) {
        (self.at, self.name, self.fresh, self.platform) = (at, name, fresh, platform);
        (self.step, self.steps) = (1 + base_steps, base_steps);
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn platform(&self) -> &Platform {
        &self.platform
    }

    /// `ONBUILD` of the base, before the stage's own instructions.
    pub(super) fn run_triggers(&mut self, planner: &mut Planner<'_>, path: &mut Vec<usize>) -> Result<(), PlanError> {
        let own = &planner.file.stages[self.at];
        let span = own.span;
        let mut statements = Vec::new();
        for trigger in std::mem::take(&mut self.triggers) {
            let mut statement = syntax::parse_trigger(&trigger)
                .map_err(|e| PlanError::at(span.first, format!("ONBUILD {trigger}: {}", e.message)))?;
            statement.span = span;
            statements.push(statement);
        }
        let steps = statements.iter().chain(&own.body).filter(|s| counts(&s.instruction)).count();
        let base = planner.nodes.get_mut(self.fs).filter(|_| self.steps == 1);
        self.steps += steps;
        // An image that several stages stand on has the name that the first one gave it.
        if let Some(base) = base.filter(|base| base.name.starts_with("FROM ")) {
            base.name = format!("{} {}", step_label(&self.name, 1, self.steps), base.name);
        }
        for statement in &statements {
            self.apply(planner, statement, path)?;
        }
        Ok(())
    }

    pub(super) fn apply(
        &mut self,
        planner: &mut Planner<'_>,
        statement: &Statement,
        path: &mut Vec<usize>,
    ) -> Result<(), PlanError> {
        let line = statement.span.first;
        let fail = |message: String| PlanError::at(line, message);
        self.line = line;
        match &statement.instruction {
            Instruction::Arg(items) => {
                for item in items {
                    let value = self.arg(planner, item).map_err(fail)?;
                    planner.outline.arg(OutlineArg {
                        name: item.name.clone(),
                        description: syntax::description(&statement.comments, &item.name),
                        value,
                        location: Location::of(statement.span),
                    });
                }
            }
            Instruction::Env(pairs) => {
                let pairs = self.pairs(planner, pairs).map_err(fail)?;
                let mut text = String::from("ENV");
                for (key, value) in pairs {
                    self.warn_about_secret(planner, "ENV", &key);
                    text.push_str(&format!(" {key}={value}"));
                    assign(&mut self.config.config.env, &key, &value);
                }
                self.note(text, true);
            }
            Instruction::Label(pairs) => {
                let pairs = self.pairs(planner, pairs).map_err(fail)?;
                let mut text = String::from("LABEL");
                for (key, value) in pairs {
                    text.push_str(&format!(" {key}={value}"));
                    self.config.config.labels.insert(key, value);
                }
                self.note(text, true);
            }
            Instruction::Run(run) => self.run(planner, run, statement, path)?,
            Instruction::Copy(copy) => self.copy(planner, copy, statement, false, path)?,
            Instruction::Add(copy) => self.copy(planner, copy, statement, true, path)?,
            Instruction::Cmd(command) => {
                self.warn_about_shell_form(planner, "CMD", command);
                let words = self.words(command);
                self.note(format!("CMD {}", history::quoted(&words)), true);
                self.config.config.cmd = Some(words);
                self.config.config.args_escaped = true;
                self.own_cmd = true;
            }
            Instruction::Entrypoint(command) => {
                self.warn_about_shell_form(planner, "ENTRYPOINT", command);
                let words = self.words(command);
                self.note(format!("ENTRYPOINT {}", history::quoted(&words)), true);
                self.config.config.entrypoint = Some(words);
                // The base's arguments were meant for the base's program.
                if !self.own_cmd {
                    self.config.config.cmd = None;
                }
            }
            Instruction::Shell(words) => {
                self.note(format!("SHELL {}", history::plain(words)), true);
                self.config.config.shell = Some(words.clone());
            }
            Instruction::Workdir(text) => {
                let text = self.word(planner, text).map_err(fail)?;
                if !self.workdir_set && !text.starts_with('/') {
                    let message =
                        format!("Relative workdir {text:?} can have unexpected results if the base image changes");
                    planner.warn("WorkdirRelativePath", message, line);
                }
                self.workdir_set = true;
                let directory = join(&self.config.config.working_dir, &text);
                self.config.config.working_dir = directory.clone();
                let name = self.step_name(&format!("WORKDIR {text}"));
                if directory != "/" {
                    let user = self.config.config.user.clone();
                    self.push(planner, Op::Workdir { path: directory.clone(), user }, name, statement);
                }
                self.note(format!("WORKDIR {directory}"), directory == "/");
            }
            Instruction::User(text) => {
                let user = self.word(planner, text).map_err(fail)?;
                self.note(format!("USER {user}"), true);
                self.config.config.user = user;
            }
            Instruction::Expose(text) => {
                let expansion = self.expander(planner, |e| e.expand(text)).map_err(fail)?;
                self.warn_about_undefined(planner, &expansion.unmatched);
                let mut ports = Vec::new();
                for word in expansion.words {
                    if let Some((_, protocol)) = word.split_once('/')
                        && protocol != protocol.to_ascii_lowercase()
                    {
                        let message = format!("Defined protocol '{word}' in EXPOSE instruction should be lowercase");
                        planner.warn("ExposeProtoCasing", message, line);
                    }
                    if word.contains(':') {
                        let message = format!(
                            "EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
                        );
                        planner.warn("ExposeInvalidFormat", message, line);
                    }
                    ports.extend(ports::parse(&word).map_err(fail)?);
                }
                self.note(format!("EXPOSE {}", history::plain(&ports)), true);
                self.config.config.exposed_ports.extend(ports.into_iter().map(|port| (port, Empty)));
            }
            Instruction::Volume(paths) => {
                let mut list = Vec::new();
                for text in paths {
                    let volume = self.word(planner, text).map_err(fail)?;
                    if volume.is_empty() {
                        return Err(fail("VOLUME specified can not be an empty string".into()));
                    }
                    list.push(volume);
                }
                self.note(format!("VOLUME {}", history::plain(&list)), true);
                self.config.config.volumes.extend(list.into_iter().map(|volume| (volume, Empty)));
            }
            Instruction::StopSignal(text) => {
                let signal = self.word(planner, text).map_err(fail)?;
                self.note(format!("STOPSIGNAL {signal}"), true);
                self.config.config.stop_signal = Some(signal);
            }
            Instruction::Healthcheck(health) => {
                let check = self.health(health);
                self.note(history::healthcheck(&check), true);
                self.config.config.healthcheck = Some(check);
            }
            Instruction::Onbuild(trigger) => {
                self.note(format!("ONBUILD {trigger}"), true);
                self.config.config.on_build.push(trigger.clone());
            }
            Instruction::Maintainer(text) => {
                self.note(format!("MAINTAINER {text}"), true);
                self.config.author = text.clone();
            }
        }
        Ok(())
    }

    fn arg(&mut self, planner: &Planner<'_>, item: &syntax::ArgItem) -> Result<Option<String>, String> {
        let given = planner.options.args.get(&item.name).cloned().flatten();
        let value = match (given, &item.default) {
            (Some(given), _) => Some(given),
            (None, Some(default)) => Some(self.word(planner, default)?),
            (None, None) => planner.globals.get(&item.name).cloned(),
        };
        let text = match &value {
            Some(value) => format!("ARG {}={value}", item.name),
            None => format!("ARG {}", item.name),
        };
        self.warn_about_secret(planner, "ARG", &item.name);
        self.args.set(&item.name, value.clone());
        self.note(text, true);
        Ok(value)
    }

    fn run(
        &mut self,
        planner: &mut Planner<'_>,
        run: &syntax::Run,
        statement: &Statement,
        path: &mut Vec<usize>,
    ) -> Result<(), PlanError> {
        let line = statement.span.first;
        let fail = |message: String| PlanError::at(line, message);
        let any = vocab::weak::without("entitlements");
        if run.security == RunSecurity::Insecure && !planner.options.allow.insecure && !any {
            return Err(fail("security.insecure is not allowed".into()));
        }
        let network = if run.network == RunNetwork::Default { planner.options.network } else { run.network };
        if run.network == RunNetwork::Host && !planner.options.allow.host_network && !any {
            return Err(fail("network.host is not allowed".into()));
        }
        let mut mounts = Vec::new();
        for text in &run.mounts {
            let text = self.expander(planner, |e| e.word(text)).map_err(fail)?;
            let mounts::Parsed { mut mount, from } = mounts::parse(&text).map_err(fail)?;
            let outline = &mut planner.outline;
            match &mount.kind {
                MountKind::Secret { id, required, .. } => {
                    Outline::want(&mut outline.secrets, id, *required, statement.span);
                }
                MountKind::Ssh { id, required, .. } => {
                    Outline::want(&mut outline.ssh, id, *required, statement.span);
                }
                MountKind::Cache { id, .. } if !outline.caches.iter().any(|known| known.id == *id) => {
                    outline.caches.push(CacheId { id: id.clone() });
                }
                _ => {}
            }
            if !mount.target.is_empty() {
                mount.target = join(&self.config.config.working_dir, &mount.target);
            }
            mount.from = match (from, &mount.kind) {
                (Some(name), _) => Some(planner.files_from(&name, self, line, path)?),
                (None, MountKind::Bind) => Some(Files::Context(MAIN_CONTEXT.into())),
                (None, _) => None,
            };
            mounts.push(mount);
        }
        let (command, script) = self.script(run);
        if let Some(script) = script {
            mounts.push(script);
        }
        // What a step sees of the arguments; the environment wins.
        let declared: Vec<(String, String)> = self
            .args
            .iter()
            .filter(|(name, _)| lookup(&self.config.config.env, name).is_none())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut env = self.config.config.env.clone();
        for (name, value) in &declared {
            assign(&mut env, name, value);
        }
        for name in PROXIES.into_iter().chain(ALL_PROXIES) {
            if let Some(Some(value)) = planner.options.args.get(name)
                && lookup(&env, name).is_none()
            {
                assign(&mut env, name, value);
            }
        }
        if lookup(&env, "PATH").is_none() {
            assign(&mut env, "PATH", DEFAULT_PATH);
        }
        let text = history::run(&declared, &command);
        let op = RunOp {
            args: command,
            env,
            cwd: self.config.config.working_dir.clone(),
            user: self.config.config.user.clone(),
            mounts,
            network,
            security: run.security,
        };
        let shown = match run.heredocs.first() {
            Some(_) => format!("{} ({})", statement.source, first_line(run)),
            None => statement.source.clone(),
        };
        let name = self.step_name(&shown);
        self.push(planner, Op::Run(op), name, statement);
        self.note(text, false);
        Ok(())
    }

    /// The program of a `RUN`, and the file that it needs if its text names an interpreter.
    fn script(&self, run: &syntax::Run) -> (Vec<String>, Option<Mount>) {
        let line = match &run.command {
            Command::Exec(words) => return (words.clone(), None),
            Command::Shell(line) => line,
        };
        let [heredoc, ..] = &run.heredocs[..] else { return (self.shell(line), None) };
        let alone = run.heredocs.len() == 1 && syntax::is_heredoc_word(line);
        if alone && heredoc.content.starts_with("#!") {
            let target = format!("/dev/pipes/{}", heredoc.name);
            let mount = Mount {
                kind: MountKind::Inline { data: heredoc.content.clone() },
                target: target.clone(),
                from: None,
                source: String::new(),
                read_only: true,
            };
            return (vec![target], Some(mount));
        }
        if alone {
            return (self.shell(&heredoc.content), None);
        }
        // The shell reads them as it would from a file.
        let mut text = line.clone();
        for heredoc in &run.heredocs {
            text.push('\n');
            text.push_str(&heredoc.content);
            text.push_str(&heredoc.name);
        }
        (self.shell(&text), None)
    }

    fn copy(
        &mut self,
        planner: &mut Planner<'_>,
        copy: &syntax::Copy,
        statement: &Statement,
        add: bool,
        path: &mut Vec<usize>,
    ) -> Result<(), PlanError> {
        let line = statement.span.first;
        let fail = |message: String| PlanError::at(line, message);
        let from = match &copy.from {
            Some(name) => {
                let name = self.word(planner, name).map_err(fail)?;
                Some(planner.files_from(&name, self, line, path)?)
            }
            None => None,
        };
        let checksum = self.word(planner, &copy.checksum).map_err(fail)?;
        if !checksum.is_empty() && copy.sources.len() > 1 {
            return Err(fail("checksum can't be specified for multiple sources".into()));
        }
        let mut sources = Vec::new();
        let mut local = false;
        let mut shown = Vec::new();
        for source in &copy.sources {
            let source = match source {
                Source::Inline(heredoc) => {
                    shown.push(format!("<<{}", heredoc.name));
                    self.inline(planner, heredoc).map_err(fail)?
                }
                Source::Path(text) => {
                    let text = self.word(planner, text).map_err(fail)?;
                    if text.is_empty() {
                        return Err(fail(format!("{} source can not be empty", statement.instruction.name())));
                    }
                    shown.push(text.clone());
                    if from.is_none() && planner.options.ignore.as_ref().is_some_and(|ignore| ignored(ignore, &text)) {
                        let what = if add { "Add" } else { "Copy" };
                        let message = format!("Attempting to {what} file {text:?} that is excluded by .dockerignore");
                        planner.warn("CopyIgnoredFile", message, line);
                    }
                    self.source(&text, copy, &checksum, add).map_err(fail)?
                }
            };
            local |= matches!(source, CopySource::Path(_));
            sources.push(source);
        }
        let destination = self.word(planner, &copy.destination).map_err(fail)?;
        if sources.len() > 1 && !destination.ends_with('/') && !destination.ends_with('.') {
            return Err(fail(format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                statement.instruction.name()
            )));
        }
        let chown = self.word(planner, &copy.chown).map_err(fail)?;
        let chmod = self.word(planner, &copy.chmod).map_err(fail)?;
        crate::copy::check_chmod(&chmod).map_err(fail)?;
        let mut exclude = Vec::new();
        for pattern in &copy.exclude {
            exclude.push(self.word(planner, pattern).map_err(fail)?);
        }
        let mut absolute = join(&self.config.config.working_dir, &destination);
        if (destination.ends_with('/') || destination.ends_with("/.") || destination == ".") && !absolute.ends_with('/')
        {
            absolute.push('/');
        }
        let unpack = match (copy.unpack, add) {
            (Some(true), _) => Unpack::Always,
            (Some(false), _) | (None, false) => Unpack::Never,
            (None, true) => Unpack::Local,
        };
        let from = from.or_else(|| local.then(|| Files::Context(MAIN_CONTEXT.into())));
        let mut text = String::from(statement.instruction.name());
        if copy.parents {
            text.push_str(" --parents");
        }
        if !chown.is_empty() {
            text.push_str(&format!(" --chown={chown}"));
        }
        if !chmod.is_empty() {
            text.push_str(&format!(" --chmod={chmod}"));
        }
        if copy.link {
            text.push_str(" --link");
        }
        text.push_str(&format!(" {} {destination} # buildkit", shown.join(" ")));
        let op = CopyOp {
            sources,
            destination: absolute,
            from,
            chown,
            chmod,
            link: copy.link,
            parents: copy.parents,
            exclude,
            unpack,
            add,
        };
        let name = self.step_name(&statement.source);
        self.push(planner, Op::Copy(op), name, statement);
        self.note(text, false);
        Ok(())
    }

    fn inline(&self, planner: &Planner<'_>, heredoc: &Heredoc) -> Result<CopySource, String> {
        let data = if heredoc.expand {
            let expansion = self.expander(planner, |mut e| {
                e.plain_quotes = true;
                e.expand(&heredoc.content)
            })?;
            self.warn_about_undefined(planner, &expansion.unmatched);
            expansion.text
        } else {
            heredoc.content.clone()
        };
        Ok(CopySource::Inline { name: heredoc.name.clone(), data })
    }

    fn source(&self, text: &str, copy: &syntax::Copy, checksum: &str, add: bool) -> Result<CopySource, String> {
        if !add {
            return Ok(CopySource::Path(text.to_owned()));
        }
        match Remote::parse(text)? {
            Some(Remote::Git(mut remote)) => {
                if !checksum.is_empty() {
                    if remote.checksum.as_ref().is_some_and(|own| own != checksum) {
                        return Err(format!("--checksum={checksum} conflicts with the one in {text}"));
                    }
                    remote.checksum = Some(checksum.to_owned());
                }
                let keep_git_dir = remote.keep_git_dir.unwrap_or(copy.keep_git_dir);
                Ok(CopySource::Git { remote, keep_git_dir })
            }
            _ if copy.keep_git_dir => Err("keep-git-dir requires a Git source".into()),
            Some(Remote::Http(url)) => {
                let checksum = match checksum {
                    "" => None,
                    digest => Some(digest.parse().map_err(|_| format!("invalid checksum digest format: {digest}"))?),
                };
                Ok(CopySource::Http { url, checksum })
            }
            None if !checksum.is_empty() => Err("checksum requires HTTP(S) or Git sources".into()),
            None => Ok(CopySource::Path(text.to_owned())),
        }
    }

    fn health(&self, health: &Health) -> Healthcheck {
        match health {
            Health::None => Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() },
            Health::Test { command, interval, timeout, start_period, start_interval, retries } => Healthcheck {
                test: match command {
                    Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
                    Command::Shell(line) => vec!["CMD-SHELL".into(), line.clone()],
                },
                interval: *interval,
                timeout: *timeout,
                start_period: *start_period,
                start_interval: *start_interval,
                retries: *retries,
            },
        }
    }

    fn push(&mut self, planner: &mut Planner<'_>, op: Op, name: String, statement: &Statement) {
        let node = Node { op, parent: Some(self.fs), name, span: statement.span, fresh: self.fresh };
        self.fs = planner.push(node);
        self.layers.push(self.fs);
    }

    fn step_name(&mut self, text: &str) -> String {
        let name = format!("{} {text}", step_label(&self.name, self.step, self.steps));
        self.step += 1;
        name
    }

    fn note(&mut self, created_by: String, empty_layer: bool) {
        self.config.history.push(History { created_by, comment: COMMENT.into(), empty_layer, ..History::default() });
    }

    fn shell(&self, line: &str) -> Vec<String> {
        let mut words = match &self.config.config.shell {
            Some(shell) => shell.clone(),
            None => vec!["/bin/sh".into(), "-c".into()],
        };
        words.push(line.to_owned());
        words
    }

    fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(line) if line.is_empty() => Vec::new(),
            Command::Shell(line) => self.shell(line),
        }
    }

    fn pairs(&self, planner: &Planner<'_>, pairs: &[KeyValue]) -> Result<Vec<(String, String)>, String> {
        // All of one instruction see the names as they were before it.
        pairs.iter().map(|pair| Ok((self.word(planner, &pair.key)?, self.word(planner, &pair.value)?))).collect()
    }

    fn word(&self, planner: &Planner<'_>, text: &str) -> Result<String, String> {
        let expansion = self.expander(planner, |e| e.expand(text))?;
        self.warn_about_undefined(planner, &expansion.unmatched);
        Ok(expansion.text)
    }

    fn warn_about_undefined(&self, planner: &Planner<'_>, names: &[String]) {
        for name in names.iter().filter(|name| !self.args.declares(name)) {
            let env = self.config.config.env.iter().filter_map(|pair| pair.split_once('=').map(|(key, _)| key));
            let known: Vec<&str> = env.chain(self.args.iter().map(|(name, _)| name)).collect();
            let hint = syntax::nearest(name, &known).map(|n| format!(" (did you mean ${n}?)")).unwrap_or_default();
            planner.warn("UndefinedVar", format!("Usage of undefined variable '${name}'{hint}"), self.line);
        }
    }

    fn warn_about_secret(&self, planner: &Planner<'_>, instruction: &str, name: &str) {
        if syntax::lint::looks_secret(name) {
            let message = format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})");
            planner.warn("SecretsUsedInArgOrEnv", message, self.line);
        }
    }

    /// A shell stands between the engine's signals and the program; somebody who chose the shell knows that.
    fn warn_about_shell_form(&self, planner: &Planner<'_>, instruction: &str, command: &Command) {
        let shell = matches!(command, Command::Shell(line) if !line.is_empty());
        if shell && self.config.config.shell.is_none() {
            let message = format!(
                "JSON arguments recommended for {instruction} to prevent unintended behavior related to OS signals"
            );
            planner.warn("JSONArgsRecommended", message, self.line);
        }
    }

    fn expander<T>(&self, planner: &Planner<'_>, use_it: impl FnOnce(Expander<'_>) -> T) -> T {
        let scope = Scope { env: &self.config.config.env, args: &self.args };
        use_it(Expander::new(&scope as &dyn Variables, planner.file.escape))
    }
}

fn first_line(run: &syntax::Run) -> String {
    let line = run.heredocs.first().and_then(|h| h.content.lines().next()).unwrap_or_default();
    if run.heredocs.first().is_some_and(|h| h.content.lines().count() > 1) { format!("{line}...") } else { line.into() }
}

/// Whether `.dockerignore` leaves a source out; `.` is never meant.
fn ignored(ignore: &crate::Patterns, source: &str) -> bool {
    let path = normal_parts(source).join("/");
    !path.is_empty() && ignore.excludes(&path)
}

/// `path` as seen from `directory`, without `.` and `..`.
pub(crate) fn join(directory: &str, path: &str) -> String {
    let from = if path.starts_with('/') { "" } else { directory };
    let whole = format!("{from}/{path}");
    format!("/{}", normal_parts(&whole).join("/"))
}

/// The parts of a path, without `.` and empty ones; `..` takes the one before it away and never leads above the root.
pub(crate) fn normal_parts(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}
