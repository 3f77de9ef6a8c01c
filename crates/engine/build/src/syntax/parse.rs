//! Logical lines to the syntax tree.

use std::time::Duration;

use super::SyntaxError;
use super::args::{json_list, key_values, list};
use super::flags::{self, Flags, nearest};
use super::instruction::*;
use super::lines::{self, Logical};

const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads a Dockerfile.
pub fn parse(text: &str) -> Result<Dockerfile, SyntaxError> {
    let lines = lines::split(text)?;
    let mut file = Dockerfile {
        directives: lines.directives,
        escape: lines.escape,
        globals: Vec::new(),
        stages: Vec::new(),
        warnings: Vec::new(),
    };
    for line in lines.empty_continuations {
        file.warnings.push(Warning { rule: "NoEmptyContinuation", message: "Empty continuation line".into(), line });
    }
    if lines.logical.is_empty() {
        return Err(SyntaxError::new(1, "file with no instructions"));
    }
    let mut words = Vec::new();
    for line in &lines.logical {
        let (word, rest) = split_word(&line.text);
        let name = word.to_ascii_uppercase();
        if name == "FROM" {
            let stage = from(word, rest, line, file.escape, &mut file.warnings)?;
            file.stages.push(stage);
            words.push((word, line.span.first));
            continue;
        }
        let statement = statement(&name, rest, line, file.escape, &mut file.warnings)?;
        match file.stages.last_mut() {
            Some(stage) => {
                stage.body.push(statement);
                words.push((word, line.span.first));
            }
            None if matches!(statement.instruction, Instruction::Arg(_)) => file.globals.push(statement),
            None => {
                return Err(SyntaxError::new(line.span.first, "no build stage in current context"));
            }
        }
    }
    if file.stages.is_empty() {
        return Err(SyntaxError::new(1, "no build stage in current context"));
    }
    warn_about_case(&words, &mut file.warnings);
    warn_about_stages(&file.stages, &mut file.warnings);
    for stage in &file.stages {
        warn_about_repeats(stage, &mut file.warnings);
    }
    file.warnings.sort_by_key(|w| w.line);
    Ok(file)
}

/// Reads one instruction that an image left behind (`ONBUILD`).
pub fn parse_trigger(text: &str) -> Result<Statement, SyntaxError> {
    let lines = lines::split(text)?;
    let line = lines.logical.first().ok_or_else(|| SyntaxError::new(1, "an empty ONBUILD trigger"))?;
    let (word, rest) = split_word(&line.text);
    statement(&word.to_ascii_uppercase(), rest, line, '\\', &mut Vec::new())
}

fn split_word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim()),
        None => (text, ""),
    }
}

/// Instructions of stages are written as most of them are.
fn warn_about_case(words: &[(&str, usize)], warnings: &mut Vec<Warning>) {
    let lower = |word: &str| word == word.to_ascii_lowercase();
    let upper = |word: &str| word == word.to_ascii_uppercase();
    let lowers = words.iter().filter(|(word, _)| lower(word)).count();
    let uppers = words.iter().filter(|(word, _)| upper(word)).count();
    for (word, line) in words {
        let (fits, style) = if lowers > uppers { (lower(word), "lowercase") } else { (upper(word), "uppercase") };
        if !fits {
            warnings.push(Warning {
                rule: "ConsistentInstructionCasing",
                message: format!("Command '{word}' should match the case of the command majority ({style})"),
                line: *line,
            });
        }
    }
}

/// A comment above a stage or an argument that seems to describe it starts with its name.
fn warn_about_comment(instruction: &str, names: &[&str], line: &Logical, warnings: &mut Vec<Warning>) {
    let (Some(comment), Some(first)) = (line.comments.last(), names.first()) else { return };
    if names.contains(&comment.split(' ').next().unwrap_or_default()) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { first };
    warnings.push(Warning {
        rule: "InvalidDefinitionDescription",
        message: format!("Comment for {instruction} should follow the format: `# {example} <description>`"),
        line: line.span.first,
    });
}

fn warn_about_stages(stages: &[Stage], warnings: &mut Vec<Warning>) {
    let mut seen = std::collections::BTreeSet::new();
    for stage in stages {
        let Some(name) = &stage.name else { continue };
        let mut warn = |rule, message| warnings.push(Warning { rule, message, line: stage.span.first });
        if matches!(name.as_str(), "context" | "scratch") {
            let message = format!("Stage name should not use the same name as reserved stage {name:?}");
            warn("ReservedStageName", message);
        }
        if !seen.insert(name) {
            warn("DuplicateStageName", format!("Duplicate stage name {name:?}, stage names should be unique"));
        }
    }
}

/// Only the last of these counts.
fn warn_about_repeats(stage: &Stage, warnings: &mut Vec<Warning>) {
    for name in ["CMD", "ENTRYPOINT", "HEALTHCHECK"] {
        let all: Vec<_> = stage.body.iter().filter(|s| s.instruction.name() == name).collect();
        for statement in all.iter().rev().skip(1) {
            warnings.push(Warning {
                rule: "MultipleInstructionsDisallowed",
                message: format!(
                    "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
                ),
                line: statement.span.first,
            });
        }
    }
}

fn from(
    word: &str,
    rest: &str,
    line: &Logical,
    escape: char,
    warnings: &mut Vec<Warning>,
) -> Result<Stage, SyntaxError> {
    let at = line.span.first;
    let fail = |m: String| SyntaxError::new(at, m);
    let (given, rest) = flags::take(rest, escape);
    let given = Flags::parse("FROM", given, &["platform"]).map_err(fail)?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let name = match words[..] {
        [_] => None,
        [_, between, name] if between.eq_ignore_ascii_case("as") => {
            let lower = word == word.to_ascii_lowercase();
            let upper = word == word.to_ascii_uppercase();
            let fits = lower && between == "as" || upper && between == "AS" || !lower && !upper;
            if !fits {
                let message = format!("'{between}' and '{word}' keywords' casing do not match");
                warnings.push(Warning { rule: "FromAsCasing", message, line: at });
            }
            if name != name.to_ascii_lowercase() {
                let message = format!("Stage name '{name}' should be lowercase");
                warnings.push(Warning { rule: "StageNameCasing", message, line: at });
            }
            Some(name.to_ascii_lowercase())
        }
        _ => return Err(fail("FROM requires either one or three arguments".into())),
    };
    if let Some(name) = &name {
        let proper = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
        if !proper {
            return Err(fail(format!(
                "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
            )));
        }
    }
    if let Some(name) = &name {
        warn_about_comment("FROM", &[name], line, warnings);
    }
    Ok(Stage {
        description: description(&line.comments, name.as_deref().unwrap_or_default()),
        base: words[0].to_owned(),
        name,
        platform: given.text("platform").map_err(fail)?,
        span: line.span,
        source: line.text.clone(),
        body: Vec::new(),
    })
}

fn statement(
    name: &str,
    rest: &str,
    line: &Logical,
    escape: char,
    warnings: &mut Vec<Warning>,
) -> Result<Statement, SyntaxError> {
    let at = line.span.first;
    let fail = |m: String| SyntaxError::new(at, m);
    let known: &[&str] = match name {
        "RUN" => &["mount", "network", "security"],
        "COPY" => &["from", "chown", "chmod", "link", "parents", "exclude"],
        "ADD" => &["chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"],
        "HEALTHCHECK" => &["interval", "timeout", "start-period", "start-interval", "retries"],
        _ => &[],
    };
    let (given, rest) = match name {
        // These keep everything: it may be a program's own flag.
        "CMD" | "ENTRYPOINT" | "ONBUILD" | "MAINTAINER" | "LABEL" | "ENV" | "ARG" => (Vec::new(), rest),
        _ => flags::take(rest, escape),
    };
    let static_name = INSTRUCTIONS.iter().find(|i| **i == name).copied().ok_or_else(|| {
        let hint = nearest(name, &INSTRUCTIONS).map(|n| format!(" (did you mean {n}?)")).unwrap_or_default();
        fail(format!("unknown instruction: {}{hint}", split_word(&line.text).0))
    })?;
    let flags = Flags::parse(static_name, given, known).map_err(fail)?;
    let needs_some = || fail(format!("{name} requires at least one argument"));
    let exactly_one = || fail(format!("{name} requires exactly one argument"));
    let instruction = match name {
        "ARG" => {
            if rest.is_empty() {
                return Err(needs_some());
            }
            let mut items = Vec::new();
            for word in lines::raw_words(rest, escape) {
                let (key, default) = match word.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (word, None),
                };
                if key.is_empty() {
                    return Err(fail("ARG names can not be blank".into()));
                }
                items.push(ArgItem { name: key, default });
            }
            let names: Vec<&str> = items.iter().map(|item: &ArgItem| item.name.as_str()).collect();
            warn_about_comment("ARG", &names, line, warnings);
            Instruction::Arg(items)
        }
        "ENV" | "LABEL" => {
            let (pairs, legacy) = key_values(rest, name, escape).map_err(fail)?;
            if legacy {
                warnings.push(Warning {
                    rule: "LegacyKeyValueFormat",
                    message: format!(
                        "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
                    ),
                    line: at,
                });
            }
            if name == "ENV" { Instruction::Env(pairs) } else { Instruction::Label(pairs) }
        }
        "RUN" => run(rest, line, &flags, escape).map_err(fail)?,
        "COPY" | "ADD" => copy(name, rest, line, &flags, escape).map_err(fail)?,
        "CMD" => Instruction::Cmd(command(rest)),
        "ENTRYPOINT" => {
            if rest.is_empty() {
                return Err(needs_some());
            }
            Instruction::Entrypoint(command(rest))
        }
        "SHELL" => match json_list(rest) {
            Some(words) if !words.is_empty() => Instruction::Shell(words),
            Some(_) => return Err(needs_some()),
            None => return Err(fail("SHELL requires the arguments to be in JSON form".into())),
        },
        "WORKDIR" if rest.is_empty() => return Err(exactly_one()),
        "WORKDIR" => Instruction::Workdir(rest.to_owned()),
        "USER" => match rest.split_whitespace().collect::<Vec<_>>()[..] {
            [_] => Instruction::User(rest.to_owned()),
            _ => return Err(exactly_one()),
        },
        "STOPSIGNAL" => match rest.split_whitespace().collect::<Vec<_>>()[..] {
            [_] => Instruction::StopSignal(rest.to_owned()),
            _ => return Err(exactly_one()),
        },
        "EXPOSE" if rest.is_empty() => return Err(needs_some()),
        "EXPOSE" => Instruction::Expose(rest.to_owned()),
        "VOLUME" => {
            let paths = list(rest);
            if paths.is_empty() {
                return Err(needs_some());
            }
            if paths.iter().any(|p| p.trim().is_empty()) {
                return Err(fail("VOLUME specified can not be an empty string".into()));
            }
            Instruction::Volume(paths)
        }
        "HEALTHCHECK" => healthcheck(rest, &flags).map_err(fail)?,
        "ONBUILD" => {
            let trigger = split_word(rest).0.to_ascii_uppercase();
            match trigger.as_str() {
                "" => return Err(needs_some()),
                "ONBUILD" => return Err(fail("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into())),
                "FROM" | "MAINTAINER" => return Err(fail(format!("{trigger} isn't allowed as an ONBUILD trigger"))),
                _ => {}
            }
            let mut text = rest.to_owned();
            for heredoc in &line.heredocs {
                text.push('\n');
                text.push_str(&heredoc.content);
                text.push_str(&heredoc.name);
            }
            parse_trigger(&text).map_err(|e| fail(e.message))?;
            Instruction::Onbuild(text)
        }
        "MAINTAINER" => {
            if rest.is_empty() {
                return Err(exactly_one());
            }
            warnings.push(Warning {
                rule: "MaintainerDeprecated",
                message: "Maintainer instruction is deprecated in favor of using label".into(),
                line: at,
            });
            Instruction::Maintainer(rest.to_owned())
        }
        _ => return Err(fail(format!("unknown instruction: {name}"))),
    };
    let comments = line.comments.clone();
    Ok(Statement { span: line.span, source: line.text.clone(), comments, instruction })
}

fn command(rest: &str) -> Command {
    match json_list(rest) {
        Some(words) => Command::Exec(words),
        None => Command::Shell(rest.to_owned()),
    }
}

fn run(rest: &str, line: &Logical, flags: &Flags, _escape: char) -> Result<Instruction, String> {
    if rest.is_empty() {
        return Err("RUN requires at least one argument".into());
    }
    let network = match flags.text("network")?.as_deref() {
        None | Some("default") => RunNetwork::Default,
        Some("none") => RunNetwork::None,
        Some("host") => RunNetwork::Host,
        Some(other) => return Err(format!("invalid network mode {other:?} (expected one of: default, none, host)")),
    };
    let security = match flags.text("security")?.as_deref() {
        None | Some("sandbox") => RunSecurity::Sandbox,
        Some("insecure") => RunSecurity::Insecure,
        Some(other) => return Err(format!("security {other:?} is not valid (expected one of: sandbox, insecure)")),
    };
    Ok(Instruction::Run(Run {
        command: command(rest),
        heredocs: line.heredocs.clone(),
        mounts: flags.all("mount")?,
        network,
        security,
    }))
}

fn copy(name: &str, rest: &str, line: &Logical, flags: &Flags, escape: char) -> Result<Instruction, String> {
    let words = list(rest);
    let (destination, sources) = match words.split_last() {
        Some((destination, sources)) if !sources.is_empty() => (destination.clone(), sources),
        Some(_) => {
            return Err(format!(
                "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
            ));
        }
        None => {
            return Err(format!(
                "{name} requires at least two arguments, but no arguments were provided. Destination could not be determined"
            ));
        }
    };
    if sources.len() > 1 && !destination.ends_with('/') && !destination.ends_with('.') && !destination.contains('$') {
        return Err(format!(
            "Using {name} with more than one source file, the destination must be a directory and end with a /"
        ));
    }
    let mut heredocs = line.heredocs.iter();
    let sources = sources
        .iter()
        .map(|word| match lines::heredoc_word(word, escape) {
            Some(_) => match heredocs.next() {
                Some(heredoc) => Source::Inline(heredoc.clone()),
                None => Source::Path(word.clone()),
            },
            None => Source::Path(word.clone()),
        })
        .collect();
    let copy = Copy {
        sources,
        destination,
        from: flags.text("from")?,
        chown: flags.text("chown")?.unwrap_or_default(),
        chmod: flags.text("chmod")?.unwrap_or_default(),
        link: flags.switch("link")?.unwrap_or(false),
        parents: flags.switch("parents")?.unwrap_or(false),
        exclude: flags.all("exclude")?,
        checksum: flags.text("checksum")?.unwrap_or_default(),
        keep_git_dir: flags.switch("keep-git-dir")?.unwrap_or(false),
        unpack: flags.switch("unpack")?,
    };
    Ok(if name == "COPY" { Instruction::Copy(copy) } else { Instruction::Add(copy) })
}

fn healthcheck(rest: &str, flags: &Flags) -> Result<Instruction, String> {
    let (kind, rest) = split_word(rest);
    match kind.to_ascii_uppercase().as_str() {
        "" => Err("HEALTHCHECK requires at least one argument".into()),
        "NONE" if rest.is_empty() => Ok(Instruction::Healthcheck(Health::None)),
        "NONE" => Err("HEALTHCHECK NONE takes no arguments".into()),
        "CMD" => {
            if rest.is_empty() {
                return Err("Missing command after HEALTHCHECK CMD".into());
            }
            let duration = |name: &str| -> Result<Duration, String> {
                let Some(text) = flags.text(name)? else { return Ok(Duration::ZERO) };
                let value = vocab::duration::parse(&text).ok_or_else(|| format!("time: invalid duration {text:?}"))?;
                if value < Duration::from_millis(1) && value != Duration::ZERO {
                    return Err(format!("Interval {name:?} cannot be less than 1ms"));
                }
                Ok(value)
            };
            let retries = match flags.text("retries")? {
                None => 0,
                Some(text) => match text.parse::<u32>() {
                    Ok(n) => n,
                    Err(_) if text.starts_with('-') => return Err(format!("--retries cannot be negative ({text})")),
                    Err(_) => return Err(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")),
                },
            };
            Ok(Instruction::Healthcheck(Health::Test {
                command: command(rest),
                interval: duration("interval")?,
                timeout: duration("timeout")?,
                start_period: duration("start-period")?,
                start_interval: duration("start-interval")?,
                retries,
            }))
        }
        other => Err(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
    }
}
