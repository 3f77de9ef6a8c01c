//! Which stages are built, on what, and in which order.

use std::cell::RefCell;
use std::collections::BTreeMap;

use image::Platform;

use super::dispatch::StageState;
use super::platform::platform_args;
use super::scope::{ALL_PROXIES, Globals, PROXIES};
use super::*;
use crate::syntax::{Dockerfile, Expander, Instruction, Source, Stage, lint, nearest};

/// Dockerfile and options to a graph.
pub fn plan(file: &Dockerfile, options: &Options, host: &Platform, bases: &dyn Bases) -> Result<Graph, PlanError> {
    let target_platform = options.platform.clone().unwrap_or_else(|| host.clone());
    let globals = globals(file, options, host, &target_platform)?;
    let target = find_target(file, options)?;
    let mut planner = Planner {
        file,
        options,
        target_platform: &target_platform,
        globals,
        bases,
        nodes: Vec::new(),
        done: BTreeMap::new(),
        images: BTreeMap::new(),
        warnings: RefCell::new(file.warnings.clone()),
        outline: outline_of(file, target),
    };
    warn_about_defaults(&planner, host)?;
    let state = planner.stage(target, &mut Vec::new())?;
    let StageState { config, fs, layers, base_history, .. } = state;
    let mut config = config;
    for (key, value) in &options.labels {
        config.config.labels.insert(key.clone(), value.clone());
    }
    let epoch = match planner.globals.get("SOURCE_DATE_EPOCH").filter(|t| !t.is_empty()) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| PlanError::Invalid(format!("invalid SOURCE_DATE_EPOCH: {text}")))?),
    };
    let strict_epoch = epoch.filter(|_| options.rewrite_timestamps);
    let Planner { nodes, warnings, outline, .. } = planner;
    let warnings = wanted(warnings.into_inner(), file, options)?;
    Ok(Graph { nodes, result: fs, config, base_history, layers, warnings, outline, epoch, strict_epoch })
}

/// The warnings of the rules that are looked at; an error if they are to be one.
fn wanted(mut warnings: Vec<Warning>, file: &Dockerfile, options: &Options) -> Result<Vec<Warning>, PlanError> {
    let given = options.args.get("BUILDKIT_DOCKERFILE_CHECK").cloned().flatten();
    let text = given.as_deref().or_else(|| file.directives.get("check")).unwrap_or_default();
    let checks = lint::Checks::parse(text).map_err(|message| {
        let line = file.directives.all.iter().find(|d| d.name == "check").map_or(1, |d| d.line);
        PlanError::at(line, message)
    })?;
    warnings.retain(|warning| lint::rule_named(warning.rule).is_some_and(|rule| checks.takes(rule)));
    warnings.sort_by_key(|w| w.line);
    warnings.dedup();
    if checks.error && !options.only_check && !warnings.is_empty() {
        let mut rules: Vec<&str> = warnings.iter().map(|w| w.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        let message = format!("lint violation found for rules: {}", rules.join(", "));
        return Err(PlanError::at(warnings[0].line, message));
    }
    Ok(warnings)
}

/// The arguments above all stages, and what the target is.
fn outline_of(file: &Dockerfile, target: usize) -> Outline {
    let stage = &file.stages[target];
    let mut outline = Outline {
        name: stage.name.clone().unwrap_or_default(),
        description: stage.description.clone(),
        ..Outline::default()
    };
    for statement in &file.globals {
        let Instruction::Arg(items) = &statement.instruction else { continue };
        for item in items {
            outline.arg(OutlineArg {
                name: item.name.clone(),
                description: crate::syntax::description(&statement.comments, &item.name),
                value: item.default.clone(),
                location: Location::of(statement.span),
            });
        }
    }
    outline
}

/// Every `FROM` names an image even if the caller gives no argument.
fn warn_about_defaults(planner: &Planner<'_>, host: &Platform) -> Result<(), PlanError> {
    let nothing = Options::default();
    let Ok(values) = globals(planner.file, &nothing, host, planner.target_platform) else { return Ok(()) };
    for stage in planner.file.stages.iter().filter(|stage| stage.base.contains('$')) {
        let scope = Globals(&values);
        let Ok(base) = Expander::new(&scope, planner.file.escape).word(&stage.base) else { continue };
        if base.parse::<vocab::Reference>().is_err() {
            let message = format!("Default value for ARG {} results in empty or invalid base image name", stage.base);
            planner.warn("InvalidDefaultArgInFrom", message, stage.span.first);
        }
    }
    Ok(())
}

/// `ARG`s before the first stage, over the platform's and under the caller's.
fn globals(
    file: &Dockerfile,
    options: &Options,
    host: &Platform,
    target: &Platform,
) -> Result<BTreeMap<String, String>, PlanError> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in platform_args(host, target) {
        values.insert(name.to_owned(), value);
    }
    values.insert("TARGETSTAGE".to_owned(), options.target.clone().unwrap_or_else(|| "default".to_owned()));
    for name in PROXIES.into_iter().chain(ALL_PROXIES).chain(["SOURCE_DATE_EPOCH"]) {
        if let Some(Some(value)) = options.args.get(name) {
            values.insert(name.to_owned(), value.clone());
        }
    }
    for statement in &file.globals {
        let Instruction::Arg(items) = &statement.instruction else { continue };
        for item in items {
            let given = options.args.get(&item.name).cloned().flatten();
            let value = match (given, &item.default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => {
                    let scope = Globals(&values);
                    let word = Expander::new(&scope, file.escape).word(default);
                    Some(word.map_err(|m| PlanError::at(statement.span.first, m))?)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                values.insert(item.name.clone(), value);
            }
        }
    }
    Ok(values)
}

fn find_target(file: &Dockerfile, options: &Options) -> Result<usize, PlanError> {
    let Some(target) = options.target.as_deref().filter(|t| !t.is_empty()) else { return Ok(file.stages.len() - 1) };
    let lower = target.to_ascii_lowercase();
    if let Some(at) = file.stages.iter().rposition(|s| s.name.as_deref() == Some(&lower)) {
        return Ok(at);
    }
    match target.parse::<usize>() {
        Ok(at) if at < file.stages.len() => Ok(at),
        _ => Err(PlanError::Invalid(format!("target stage {target:?} could not be found"))),
    }
}

pub(super) struct Planner<'a> {
    pub(super) file: &'a Dockerfile,
    pub(super) options: &'a Options,
    pub(super) target_platform: &'a Platform,
    pub(super) globals: BTreeMap<String, String>,
    pub(super) bases: &'a dyn Bases,
    pub(super) nodes: Vec<Node>,
    done: BTreeMap<usize, StageState>,
    images: BTreeMap<(String, String), (NodeId, Base)>,
    /// Whoever expands a word may have something to say.
    pub(super) warnings: RefCell<Vec<Warning>>,
    pub(super) outline: Outline,
}

/// What a name after `FROM` or `--from=` stands for.
enum Origin {
    Scratch,
    Stage(usize),
    Context(String),
    Image(String),
}

impl Planner<'_> {
    pub(super) fn warn(&self, rule: &'static str, message: String, line: usize) {
        self.warnings.borrow_mut().push(Warning { rule, message, line });
    }

    /// A word of a `FROM` line.
    fn word_of_from(&self, text: &str, line: usize) -> Result<String, PlanError> {
        let scope = Globals(&self.globals);
        let expander = Expander::new(&scope, self.file.escape);
        let expansion = expander.expand(text).map_err(|m| PlanError::at(line, m))?;
        for name in &expansion.unmatched {
            let known: Vec<&str> = self.globals.keys().map(String::as_str).collect();
            let hint = nearest(name, &known).map(|n| format!(" (did you mean {n}?)")).unwrap_or_default();
            self.warn("UndefinedArgInFrom", format!("FROM argument '{name}' is not declared{hint}"), line);
        }
        Ok(expansion.text)
    }

    /// What is said of `FROM --platform`: the target's is meant anyway, and a constant one is for a stage that says so.
    fn warn_about_platform(&self, text: &str, platform: &Platform, stage: &Stage) {
        let line = stage.span.first;
        if matches!(text, "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
            let message =
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
            return self.warn("RedundantTargetPlatform", message.into(), line);
        }
        let name = stage.name.as_deref().unwrap_or_default();
        if !text.contains('$') && !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let message = format!("FROM --platform flag should not use constant value {text:?}");
            self.warn("FromPlatformFlagConstDisallowed", message, line);
        }
    }

    /// The state after a stage; planned once, together with everything it needs.
    fn stage(&mut self, at: usize, path: &mut Vec<usize>) -> Result<StageState, PlanError> {
        if let Some(done) = self.done.get(&at) {
            return Ok(done.clone());
        }
        let stage = &self.file.stages[at];
        let line = stage.span.first;
        if path.contains(&at) {
            return Err(PlanError::at(
                line,
                format!("circular dependency detected on stage: {}", stage_name(stage, at)),
            ));
        }
        path.push(at);
        let mut state = self.open(at, path)?;
        state.run_triggers(self, path)?;
        for statement in &stage.body {
            state.apply(self, statement, path)?;
        }
        path.pop();
        self.done.insert(at, state.clone());
        Ok(state)
    }

    /// A stage before its first instruction.
    fn open(&mut self, at: usize, path: &mut Vec<usize>) -> Result<StageState, PlanError> {
        let stage = &self.file.stages[at];
        let line = stage.span.first;
        let base = self.word_of_from(&stage.base, line)?;
        let platform = match &stage.platform {
            None => self.target_platform.clone(),
            Some(text) => {
                let word = self.word_of_from(text, line)?;
                if word.is_empty() {
                    return Err(PlanError::at(line, format!("empty platform value from expression {text}")));
                }
                let platform = Platform::parse(&word)
                    .map_err(|e| PlanError::at(line, format!("failed to parse platform {word}: {e}")))?;
                self.warn_about_platform(text, &platform, stage);
                platform
            }
        };
        if base.is_empty() {
            return Err(PlanError::at(line, format!("base name ({}) should not be blank", stage.base)));
        }
        let name = stage_name(stage, at);
        let fresh = self.options.no_cache
            || self.options.no_cache_stages.iter().any(|s| s.eq_ignore_ascii_case(&name) || *s == at.to_string());
        let origin = self.origin(&base, at, false);
        let base_steps = usize::from(matches!(origin, Origin::Context(_) | Origin::Image(_)));
        let mut state = match origin {
            Origin::Stage(below) => {
                let mut state = self.stage(below, path)?;
                state.inherit();
                state
            }
            Origin::Scratch => {
                let node = self.push(Node {
                    op: Op::Scratch,
                    parent: None,
                    name: "FROM scratch".into(),
                    span: stage.span,
                    fresh: false,
                });
                StageState::scratch(node, &platform)
            }
            Origin::Context(context) => {
                // A folder as a base: its files on nothing.
                let scratch = self.push(Node {
                    op: Op::Scratch,
                    parent: None,
                    name: format!("FROM {base}"),
                    span: stage.span,
                    fresh: false,
                });
                let copy = CopyOp {
                    sources: vec![CopySource::Path("/".into())],
                    destination: "/".into(),
                    from: Some(Files::Context(context)),
                    chown: String::new(),
                    chmod: String::new(),
                    link: false,
                    parents: false,
                    exclude: Vec::new(),
                    unpack: Unpack::Never,
                    add: false,
                };
                let node = self.push(Node {
                    op: Op::Copy(copy),
                    parent: Some(scratch),
                    name: format!("FROM {base}"),
                    span: stage.span,
                    fresh: false,
                });
                StageState::scratch(node, &platform)
            }
            Origin::Image(reference) => {
                let (node, base) = self.image(&reference, &platform, stage.span)?;
                StageState::of_image(node, &base)
            }
        };
        let label = if self.file.stages.len() == 1 && stage.name.is_none() { String::new() } else { name };
        state.open(at, label, fresh, platform, base_steps);
        Ok(state)
    }

    fn image(
        &mut self,
        reference: &str,
        platform: &Platform,
        span: crate::syntax::Span,
    ) -> Result<(NodeId, Base), PlanError> {
        let key = (reference.to_owned(), platform.to_string());
        if let Some((node, base)) = self.images.get(&key) {
            return Ok((*node, base.clone()));
        }
        let base = self.bases.resolve(reference, platform).map_err(|m| PlanError::at(span.first, m))?;
        let own = Platform {
            os: base.config.os.clone(),
            architecture: base.config.architecture.clone(),
            variant: base.config.variant.clone(),
        };
        if (&own.os, &own.architecture) != (&platform.os, &platform.architecture) {
            let message = format!(
                "Base image {reference} was pulled with platform {:?}, expected {:?} for current build",
                own.to_string(),
                platform.to_string()
            );
            self.warn("InvalidBaseImagePlatform", message, span.first);
        }
        let node = self.push(Node {
            op: Op::Image { reference: reference.to_owned(), id: base.id },
            parent: None,
            name: format!("FROM {}", full_name(reference)),
            span,
            fresh: false,
        });
        self.images.insert(key, (node, base.clone()));
        Ok((node, base))
    }

    /// Names are looked for among earlier stages, named contexts, then images. Only `--from` may be a stage's number.
    fn origin(&self, name: &str, before: usize, numbers: bool) -> Origin {
        let lower = name.to_ascii_lowercase();
        if let Some(at) = self.file.stages[..before].iter().rposition(|s| s.name.as_deref() == Some(&lower)) {
            return Origin::Stage(at);
        }
        if numbers
            && let Ok(at) = name.parse::<usize>()
            && at < before
        {
            return Origin::Stage(at);
        }
        let without_tag = name.strip_suffix(":latest").unwrap_or(name);
        let named = self.options.contexts.get(name).or_else(|| self.options.contexts.get(without_tag));
        match named {
            Some(NamedContext::Local(context)) => return Origin::Context(context.clone()),
            Some(NamedContext::Image(reference)) => return Origin::Image(reference.clone()),
            None => {}
        }
        if name == "scratch" {
            return Origin::Scratch;
        }
        Origin::Image(name.to_owned())
    }

    /// What `--from=name` gives files of.
    pub(super) fn files_from(
        &mut self,
        name: &str,
        state: &StageState,
        line: usize,
        path: &mut Vec<usize>,
    ) -> Result<Files, PlanError> {
        let before = state.at();
        let own = self.file.stages[before].name.as_deref();
        if own == Some(&name.to_ascii_lowercase()) && !matches!(self.origin(name, before, true), Origin::Stage(_)) {
            return Err(PlanError::at(line, format!("circular dependency detected on stage: {name}")));
        }
        if let Ok(number) = name.parse::<usize>()
            && number >= before
        {
            return Err(PlanError::at(
                line,
                format!("invalid from flag value {name}: refers to current build stage or a later one"),
            ));
        }
        Ok(match self.origin(name, before, true) {
            Origin::Stage(at) => Files::Node(self.stage(at, path)?.fs),
            Origin::Context(context) => Files::Context(context),
            Origin::Scratch => {
                return Err(PlanError::at(line, "invalid from flag value scratch: it is empty"));
            }
            Origin::Image(reference) => {
                let platform = state.platform().clone();
                let span = crate::syntax::Span { first: line, last: line };
                Files::Node(self.image(&reference, &platform, span)?.0)
            }
        })
    }

    pub(super) fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }
}

/// An image's name in full, as progress shows it.
fn full_name(reference: &str) -> String {
    match reference.parse::<vocab::Reference>() {
        Ok(reference) => reference.or_latest().to_string(),
        Err(_) => reference.to_owned(),
    }
}

fn stage_name(stage: &Stage, at: usize) -> String {
    stage.name.clone().unwrap_or_else(|| format!("stage-{at}"))
}

/// How many steps a progress display counts.
pub(super) fn counts(instruction: &Instruction) -> bool {
    match instruction {
        Instruction::Run(_) | Instruction::Workdir(_) => true,
        Instruction::Copy(copy) | Instruction::Add(copy) => {
            copy.sources.iter().any(|s| matches!(s, Source::Path(_) | Source::Inline(_)))
        }
        _ => false,
    }
}
