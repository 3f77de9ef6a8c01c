//! Which stages are built, on what, and in which order.

use std::collections::BTreeMap;

use image::Platform;

use super::dispatch::StageState;
use super::platform::platform_args;
use super::scope::{ALL_PROXIES, Globals, PROXIES};
use super::*;
use crate::syntax::{Dockerfile, Expander, Instruction, Source, Stage};

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
        warnings: file.warnings.clone(),
    };
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
    let Planner { nodes, mut warnings, .. } = planner;
    warnings.sort_by_key(|w| w.line);
    warnings.dedup();
    Ok(Graph { nodes, result: fs, config, base_history, layers, warnings, epoch })
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
    pub(super) warnings: Vec<Warning>,
}

/// What a name after `FROM` or `--from=` stands for.
enum Origin {
    Scratch,
    Stage(usize),
    Context(String),
    Image(String),
}

impl Planner<'_> {
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
        let (base, platform) = {
            let scope = Globals(&self.globals);
            let expander = Expander::new(&scope, self.file.escape);
            let base = expander.word(&stage.base).map_err(|m| PlanError::at(line, m))?;
            let platform = match &stage.platform {
                None => self.target_platform.clone(),
                Some(text) => {
                    let word = expander.word(text).map_err(|m| PlanError::at(line, m))?;
                    if word.is_empty() {
                        return Err(PlanError::at(line, format!("empty platform value from expression {text}")));
                    }
                    Platform::parse(&word)
                        .map_err(|e| PlanError::at(line, format!("failed to parse platform {word}: {e}")))?
                }
            };
            (base, platform)
        };
        if base.is_empty() {
            return Err(PlanError::at(line, format!("base name ({}) should not be blank", stage.base)));
        }
        let name = stage_name(stage, at);
        let fresh = self.options.no_cache
            || self.options.no_cache_stages.iter().any(|s| s.eq_ignore_ascii_case(&name) || *s == at.to_string());
        let mut state = match self.origin(&base, at, false) {
            Origin::Stage(below) => {
                let mut state = self.stage(below, path)?;
                state.inherit();
                state
            }
            Origin::Scratch => {
                let node = self.push(Node {
                    op: Op::Scratch,
                    parent: None,
                    name: format!("[{name}] FROM scratch"),
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
                    name: format!("[{name}] FROM {base}"),
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
                    name: format!("[{name}] FROM {base}"),
                    span: stage.span,
                    fresh: false,
                });
                StageState::scratch(node, &platform)
            }
            Origin::Image(reference) => {
                let (node, base) = self.image(&reference, &platform, &name, stage.span)?;
                StageState::of_image(node, &base)
            }
        };
        state.open(at, name, fresh, platform);
        Ok(state)
    }

    fn image(
        &mut self,
        reference: &str,
        platform: &Platform,
        stage: &str,
        span: crate::syntax::Span,
    ) -> Result<(NodeId, Base), PlanError> {
        let key = (reference.to_owned(), platform.to_string());
        if let Some((node, base)) = self.images.get(&key) {
            return Ok((*node, base.clone()));
        }
        let base = self.bases.resolve(reference, platform).map_err(|m| PlanError::at(span.first, m))?;
        let node = self.push(Node {
            op: Op::Image { reference: reference.to_owned(), id: base.id },
            parent: None,
            name: format!("[{stage}] FROM {reference}"),
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
                Files::Node(self.image(&reference, &platform, state.name(), span)?.0)
            }
        })
    }

    pub(super) fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
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
