//! `--name=value` between an instruction and its arguments.

/// The flags in front, and the rest of the line.
pub(super) fn take(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (flag, after) = one(rest, escape);
        rest = after.trim_start();
        if flag == "--" {
            break;
        }
        flags.push(flag);
    }
    (flags, rest)
}

/// A flag ends at the first blank outside quotes; quotes and escapes are resolved.
fn one(text: &str, escape: char) -> (String, &str) {
    let mut flag = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (flag, &text[at..]),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ if c == escape && quote != Some('\'') => match chars.next() {
                Some((_, next)) => {
                    // A variable's sign stays escaped: it is for the expansion that follows.
                    if next == '$' {
                        flag.push(c);
                    }
                    flag.push(next);
                }
                None => flag.push(c),
            },
            _ => flag.push(c),
        }
    }
    (flag, "")
}

/// The flags that an instruction knows.
pub(super) struct Flags {
    instruction: &'static str,
    given: Vec<(String, Option<String>)>,
}

impl Flags {
    pub(super) fn parse(instruction: &'static str, given: Vec<String>, known: &[&str]) -> Result<Self, String> {
        let mut list: Vec<(String, Option<String>)> = Vec::new();
        for flag in given {
            let body = &flag[2..];
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            if !known.contains(&name) {
                let hint = nearest(name, known).map(|n| format!(" (did you mean {n}?)")).unwrap_or_default();
                return Err(format!("unknown flag: --{name}{hint}"));
            }
            let repeatable = matches!(name, "mount" | "exclude" | "device");
            if !repeatable && list.iter().any(|(n, _)| n == name) {
                return Err(format!("duplicate flag specified: --{name}"));
            }
            list.push((name.to_owned(), value));
        }
        Ok(Self { instruction, given: list })
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, String> {
        match self.given.iter().find(|(n, _)| n == name) {
            None => Ok(None),
            Some((_, Some(value))) => Ok(Some(value.clone())),
            Some((_, None)) => Err(format!("missing a value on flag: --{name}")),
        }
    }

    pub(super) fn all(&self, name: &str) -> Result<Vec<String>, String> {
        let mut values = Vec::new();
        for (_, value) in self.given.iter().filter(|(n, _)| n == name) {
            values.push(value.clone().ok_or_else(|| format!("missing a value on flag: --{name}"))?);
        }
        Ok(values)
    }

    pub(super) fn switch(&self, name: &str) -> Result<Option<bool>, String> {
        match self.given.iter().find(|(n, _)| n == name) {
            None => Ok(None),
            Some((_, None)) => Ok(Some(true)),
            Some((_, Some(value))) => match value.to_ascii_lowercase().as_str() {
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                _ => Err(format!("expecting boolean value for flag {name} of {}, not: {value}", self.instruction)),
            },
        }
    }
}

/// The known word that a mistyped one is near to.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (distance(&word.to_ascii_lowercase(), &k.to_ascii_lowercase()), *k))
        .min()
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .map(|(_, k)| k)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = corner + usize::from(ca != *cb);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_where_arguments_start() {
        let (flags, rest) = take("--from=a --chown=\"b c\" --mount=type=bind,target=/x\\ y src --dst", '\\');
        assert_eq!(flags, ["--from=a", "--chown=b c", "--mount=type=bind,target=/x y"]);
        assert_eq!(rest, "src --dst");
        assert_eq!(take("-- --x", '\\').1, "--x");
    }

    #[test]
    fn unknown_flags_get_a_hint() {
        let error = Flags::parse("COPY", vec!["--chmdo=1".into()], &["chmod", "from"]).map(|_| ()).unwrap_err();
        assert_eq!(error, "unknown flag: --chmdo (did you mean chmod?)");
        assert!(Flags::parse("COPY", vec!["--from=1".into(), "--from=2".into()], &["from"]).is_err());
    }
}
