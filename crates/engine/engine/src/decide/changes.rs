//! Dockerfile instructions that `commit --change` and `import --change` apply to an image's configuration.

use crate::{Error, ImageConfig, Result};

/// Applies each line to `config`, in order.
pub(crate) fn apply_changes(config: &mut ImageConfig, changes: &[String]) -> Result<()> {
    for line in changes.iter().flat_map(|c| c.lines()).map(str::trim).filter(|l| !l.is_empty()) {
        apply_change(config, line)?;
    }
    Ok(())
}

fn apply_change(config: &mut ImageConfig, line: &str) -> Result<()> {
    let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let upper = instruction.to_ascii_uppercase();
    let needs = |what: &str| Error::Invalid(format!("{upper} requires {what}"));
    if rest.is_empty() && upper != "MAINTAINER" {
        return Err(needs("at least one argument"));
    }
    match upper.as_str() {
        "CMD" => config.cmd = Some(command(config, rest)?),
        "ENTRYPOINT" => config.entrypoint = Some(command(config, rest)?),
        "ENV" => {
            for (name, value) in pairs(rest, &upper)? {
                let entry = format!("{name}={value}");
                match config.env.iter_mut().find(|e| e.split('=').next() == Some(&name)) {
                    Some(slot) => *slot = entry,
                    None => config.env.push(entry),
                }
            }
        }
        "LABEL" => config.labels.extend(pairs(rest, &upper)?),
        "EXPOSE" => {
            for port in words(rest)? {
                config.exposed_ports.insert(expose(&port)?);
            }
        }
        "VOLUME" => {
            let paths = match json_words(rest) {
                Some(paths) => paths,
                None => words(rest)?,
            };
            if paths.iter().any(|p| p.trim().is_empty()) {
                return Err(Error::Invalid("VOLUME specified can not be an empty string".into()));
            }
            config.volumes.extend(paths);
        }
        "USER" => config.user = single(rest, &upper)?,
        "WORKDIR" => {
            let path = single(rest, &upper)?;
            config.working_dir = join_path(&config.working_dir, &path);
        }
        "STOPSIGNAL" => {
            super::signal::parse_signal(rest)?;
            config.stop_signal = Some(rest.to_owned());
        }
        "SHELL" => {
            config.shell = Some(json_words(rest).ok_or_else(|| needs("the arguments to be in JSON form"))?);
        }
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        "HEALTHCHECK" if rest.eq_ignore_ascii_case("NONE") => {
            config.healthcheck = Some(crate::Healthcheck { test: vec!["NONE".into()], ..Default::default() });
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        _ => return Err(Error::Invalid(format!("{instruction} is not a valid change command"))),
    }
    Ok(())
}

/// JSON form as it is; shell form is handed to the image's shell.
fn command(config: &ImageConfig, rest: &str) -> Result<Vec<String>> {
    if let Some(words) = json_words(rest) {
        return Ok(words);
    }
    let mut line = config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
    line.push(rest.to_owned());
    Ok(line)
}

fn json_words(rest: &str) -> Option<Vec<String>> {
    rest.starts_with('[').then(|| serde_json::from_str(rest).ok())?
}

fn healthcheck(rest: &str) -> Result<crate::Healthcheck> {
    let mut check = crate::Healthcheck::default();
    let mut rest = rest;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, tail) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let refused = || Error::Invalid(format!("HEALTHCHECK: invalid option --{option}"));
        match name {
            "interval" => check.interval = duration(value).ok_or_else(refused)?,
            "timeout" => check.timeout = duration(value).ok_or_else(refused)?,
            "start-period" => check.start_period = duration(value).ok_or_else(refused)?,
            "start-interval" => check.start_interval = duration(value).ok_or_else(refused)?,
            "retries" => check.retries = value.parse().map_err(|_| refused())?,
            _ => return Err(refused()),
        }
        rest = tail.trim_start();
    }
    let (kind, line) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if !kind.eq_ignore_ascii_case("CMD") || line.trim().is_empty() {
        return Err(Error::Invalid(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)")));
    }
    check.test = match json_words(line.trim()) {
        Some(words) => [vec!["CMD".to_owned()], words].concat(),
        None => vec!["CMD-SHELL".into(), line.trim().into()],
    };
    Ok(check)
}

/// `1h2m3.5s`, `300ms`.
pub(crate) fn duration(text: &str) -> Option<std::time::Duration> {
    let mut total = 0.0f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        let unit_len = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len() - digits);
        let scale = match &rest[digits..digits + unit_len] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += value * scale;
        rest = &rest[digits + unit_len..];
    }
    (!text.is_empty()).then(|| std::time::Duration::try_from_secs_f64(total).ok())?
}

fn expose(port: &str) -> Result<String> {
    let refused = || Error::Invalid(format!("invalid containerPort: {port}"));
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let valid = |n: &str| n.parse::<u16>().is_ok_and(|n| n > 0);
    let known = matches!(protocol.as_str(), "tcp" | "udp" | "sctp");
    let good = match number.split_once('-') {
        Some((low, high)) => valid(low) && valid(high),
        None => valid(number),
    };
    if good && known { Ok(format!("{number}/{protocol}")) } else { Err(refused()) }
}

fn single(rest: &str, instruction: &str) -> Result<String> {
    match <[String; 1]>::try_from(words(rest)?) {
        Ok([word]) => Ok(word),
        Err(_) => Err(Error::Invalid(format!("{instruction} requires exactly one argument"))),
    }
}

fn join_path(base: &str, path: &str) -> String {
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("/{base}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `A=1 B="two words"`, or the old form `A the rest`.
fn pairs(rest: &str, instruction: &str) -> Result<Vec<(String, String)>> {
    let words = words(rest)?;
    if words.first().is_some_and(|first| !first.contains('=')) {
        let (name, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::Invalid(format!("{instruction} must have two arguments")))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => {
                Err(Error::Invalid(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value")))
            }
        })
        .collect()
}

/// Splits at spaces outside quotes; a backslash keeps the next character.
fn words(rest: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = rest.chars();
    while let Some(c) = letters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                if let Some(next) = letters.next() {
                    word.get_or_insert_default().push(next);
                }
            }
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Error::Invalid(format!("unterminated quote in {rest:?}")));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> ImageConfig {
        let mut config = ImageConfig { env: vec!["A=old".into()], working_dir: "/srv".into(), ..Default::default() };
        let lines: Vec<String> = lines.iter().map(|l| l.to_string()).collect();
        apply_changes(&mut config, &lines).unwrap();
        config
    }

    #[test]
    fn instructions_change_the_configuration() {
        let config = changed(&[
            "CMD [\"ls\", \"-l\"]",
            "entrypoint echo hi",
            "ENV A=new B=\"two words\"",
            "ENV C see  this",
            "LABEL a=1 'b c'=2",
            "EXPOSE 80 53/UDP 8000-8010",
            "VOLUME [\"/a b\"]",
            "VOLUME /c /d",
            "USER app:wheel",
            "WORKDIR sub/../dir",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f localhost",
        ]);
        assert_eq!(config.cmd.unwrap(), ["ls", "-l"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(config.env, ["A=new", "B=two words", "C=see  this"]);
        assert_eq!(config.labels, [("a".to_owned(), "1".to_owned()), ("b c".into(), "2".into())].into());
        assert_eq!(config.exposed_ports, ["80/tcp".to_owned(), "53/udp".into(), "8000-8010/tcp".into()].into());
        assert_eq!(config.volumes, ["/a b".to_owned(), "/c".into(), "/d".into()].into());
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("app:wheel", "/srv/dir"));
        let health = config.healthcheck.unwrap();
        assert_eq!(health.test, ["CMD-SHELL", "curl -f localhost"]);
        assert_eq!((health.interval.as_secs(), health.retries), (90, 3));
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for bad in [
            "RUN ls",
            "COPY a b",
            "CMD",
            "EXPOSE 0",
            "EXPOSE x",
            "ENV A",
            "ENV \"A=1",
            "USER a b",
            "STOPSIGNAL X",
            "HEALTHCHECK --x=1 CMD a",
        ] {
            assert!(apply_changes(&mut ImageConfig::default(), &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
