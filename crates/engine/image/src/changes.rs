//! `--change`: the Dockerfile instructions that `commit` and `import` apply to an image's configuration. Pure.

use crate::config::{Empty, Healthcheck, Workload};
use crate::error::{Error, Result};

/// Applies the lines in their order.
pub fn apply(config: &mut Workload, changes: &[String]) -> Result<()> {
    changes.iter().try_for_each(|line| one(config, line.trim()).map_err(|detail| Error::invalid(line, detail)))
}

fn one(config: &mut Workload, line: &str) -> Result<(), String> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let instruction = word.to_ascii_uppercase();
    if rest.is_empty() {
        return Err(format!("{instruction} requires at least one argument"));
    }
    match instruction.as_str() {
        "CMD" => config.cmd = Some(command(rest)?),
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(rest)?);
        }
        "ENV" => {
            for (key, value) in pairs(rest, "ENV")? {
                let prefix = format!("{key}=");
                let text = format!("{key}={value}");
                match config.env.iter_mut().find(|has| has.starts_with(&prefix)) {
                    Some(has) => *has = text,
                    None => config.env.push(text),
                }
            }
        }
        "LABEL" => config.labels.extend(pairs(rest, "LABEL")?),
        "EXPOSE" => {
            for port in words(rest)? {
                let (number, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
                let valid = |n: &str| n.parse::<u16>().is_ok();
                let range = number.split_once('-');
                if !range.map_or(valid(number), |(low, high)| valid(low) && valid(high)) {
                    return Err(format!("invalid containerPort: {port}"));
                }
                if !matches!(protocol, "tcp" | "udp" | "sctp") {
                    return Err(format!("invalid proto: {protocol}"));
                }
                config.exposed_ports.insert(format!("{number}/{protocol}"), Empty);
            }
        }
        "VOLUME" => {
            let volumes = match json(rest) {
                Some(list) => list,
                None => words(rest)?,
            };
            if volumes.iter().any(String::is_empty) {
                return Err("VOLUME specified can not be an empty string".into());
            }
            config.volumes.extend(volumes.into_iter().map(|volume| (volume, Empty)));
        }
        "USER" => config.user = single(rest, "USER")?,
        "WORKDIR" => {
            let path = single(rest, "WORKDIR")?;
            config.working_dir =
                if path.starts_with('/') { clean(&path) } else { clean(&format!("{}/{path}", config.working_dir)) };
        }
        "STOPSIGNAL" => config.stop_signal = Some(single(rest, "STOPSIGNAL")?),
        "SHELL" => config.shell = Some(json(rest).ok_or("SHELL requires the arguments to be in JSON form")?),
        "ONBUILD" => {
            let trigger = rest.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
            if matches!(trigger.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                return Err(format!("{trigger} isn't allowed as an ONBUILD trigger"));
            }
            config.on_build.push(rest.to_owned());
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        other => return Err(format!("{other} is not a valid change command")),
    }
    Ok(())
}

/// A JSON list is run as it is, anything else by the shell.
fn command(text: &str) -> Result<Vec<String>, String> {
    Ok(json(text).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), text.to_owned()]))
}

fn json(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

fn single(text: &str, instruction: &str) -> Result<String, String> {
    match words(text)?.as_slice() {
        [word] => Ok(word.clone()),
        _ => Err(format!("{instruction} requires exactly one argument")),
    }
}

/// `key=value key2="a b"`, or the old form `key value with blanks`.
fn pairs(text: &str, instruction: &str) -> Result<Vec<(String, String)>, String> {
    let words = words(text)?;
    if let [key, ..] = words.as_slice()
        && !key.contains('=')
    {
        let value = text.trim_start()[key.len().min(text.len())..].trim();
        if value.is_empty() {
            return Err(format!("{instruction} must have two arguments"));
        }
        return Ok(vec![(key.clone(), value.to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) | None => {
                Err(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value"))
            }
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        })
        .collect()
}

/// Words as the shell cuts them: quotes group, a backslash takes the next character as it is.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("unexpected end of statement while looking for matching quote".into());
    }
    words.extend(word);
    Ok(words)
}

fn healthcheck(text: &str) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (key, value) = option.split_once('=').ok_or_else(|| format!("flag --{option} needs a value"))?;
        match key {
            "interval" => check.interval = duration(value)?,
            "timeout" => check.timeout = duration(value)?,
            "start-period" => check.start_period = duration(value)?,
            "start-interval" => check.start_interval = duration(value)?,
            "retries" => check.retries = value.parse().map_err(|_| format!("--retries: {value:?} is no number"))?,
            _ => return Err(format!("unknown flag: --{key}")),
        }
        rest = after.trim_start();
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    check.test = match word.to_ascii_uppercase().as_str() {
        "NONE" if command.trim().is_empty() => vec!["NONE".into()],
        "CMD" if !command.trim().is_empty() => match json(command.trim()) {
            Some(list) => [vec!["CMD".to_owned()], list].concat(),
            None => vec!["CMD-SHELL".into(), command.trim().to_owned()],
        },
        "CMD" => return Err("Missing command after HEALTHCHECK CMD".into()),
        other => return Err(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
    };
    Ok(check)
}

/// Go's durations: `1h30m`, `1.5s`, `300ms`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let mut rest = text;
    let mut nanos = 0.0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        nanos += number
            * match &rest[..letters] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(invalid()),
            };
        rest = &rest[letters..];
    }
    if text.is_empty() || nanos > 1e18 { Err(invalid()) } else { Ok(std::time::Duration::from_nanos(nanos as u64)) }
}

fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_configuration() {
        let mut config = Workload { env: vec!["PATH=/bin".into(), "A=old".into()], ..Workload::default() };
        let lines = [
            r#"CMD ["a", "b"]"#,
            "entrypoint echo hi",
            r#"ENV A=new B="b c" C=d\ e"#,
            "ENV OLD form of it",
            "LABEL x=1 y='2 3'",
            "EXPOSE 80 53/udp 8000-8010",
            r#"VOLUME ["/a b", "/c"]"#,
            "VOLUME /d /e",
            "USER me:us",
            "WORKDIR /srv",
            "WORKDIR ../var/./x",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f localhost",
        ];
        apply(&mut config, &lines.map(str::to_owned)).unwrap();
        let expected = serde_json::json!({
            "Cmd": ["a", "b"], "Entrypoint": ["/bin/sh", "-c", "echo hi"],
            "Env": ["PATH=/bin", "A=new", "B=b c", "C=d e", "OLD=form of it"],
            "Labels": {"x": "1", "y": "2 3"},
            "ExposedPorts": {"53/udp": {}, "80/tcp": {}, "8000-8010/tcp": {}},
            "Volumes": {"/a b": {}, "/c": {}, "/d": {}, "/e": {}},
            "User": "me:us", "WorkingDir": "/var/x", "StopSignal": "SIGINT", "OnBuild": ["RUN make"],
            "Healthcheck": {"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 90_000_000_000u64, "Retries": 3},
        });
        assert_eq!(serde_json::to_value(&config).unwrap(), expected);
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for (line, error) in [
            ("RUN make", "RUN make: RUN is not a valid change command"),
            ("CMD", "CMD: CMD requires at least one argument"),
            ("ENV A", "ENV A: ENV must have two arguments"),
            ("LABEL a=1 b", "LABEL a=1 b: Syntax error - can't find = in \"b\". Must be of the form: name=value"),
            ("EXPOSE x", "EXPOSE x: invalid containerPort: x"),
            ("EXPOSE 70000", "EXPOSE 70000: invalid containerPort: 70000"),
            ("USER a b", "USER a b: USER requires exactly one argument"),
            ("ENV A='b", "ENV A='b: unexpected end of statement while looking for matching quote"),
            ("HEALTHCHECK --interval=1x CMD a", "HEALTHCHECK --interval=1x CMD a: time: invalid duration \"1x\""),
            ("ONBUILD FROM x", "ONBUILD FROM x: FROM isn't allowed as an ONBUILD trigger"),
        ] {
            let error_text = apply(&mut Workload::default(), &[line.to_owned()]).unwrap_err().to_string();
            assert_eq!(error_text, error);
        }
    }
}
