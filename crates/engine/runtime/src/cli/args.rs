//! Flags as runc reads them: one dash or two, `--name value` or `--name=value`, flags before the words of a command. Pure.

use std::collections::BTreeMap;

/// A flag that a command knows: its names, and whether a value follows.
pub(super) struct Flag {
    pub(super) names: &'static [&'static str],
    pub(super) takes_value: bool,
}

pub(super) const fn value(names: &'static [&'static str]) -> Flag {
    Flag { names, takes_value: true }
}

pub(super) const fn switch(names: &'static [&'static str]) -> Flag {
    Flag { names, takes_value: false }
}

/// Flags found, under their first names, and the words after them.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    values: BTreeMap<&'static str, Vec<String>>,
    pub(super) words: Vec<String>,
}

impl Parsed {
    /// The last value given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.last().map(String::as_str)
    }

    pub(super) fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "false" | "0" | "f" | "F" | "FALSE" | "False"))
    }
}

/// Reads flags up to the first word (or `--`).
pub(super) fn parse(args: &[String], known: &'static [Flag]) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            break;
        }
        let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|name| !name.is_empty())
        else {
            parsed.words.push(arg.clone());
            break;
        };
        let (name, inline) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let Some(flag) = known.iter().find(|flag| flag.names.contains(&name)) else {
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let value = match (flag.takes_value, inline) {
            (_, Some(value)) => value,
            (false, None) => "true".to_owned(),
            (true, None) => rest.next().cloned().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        parsed.values.entry(flag.names[0]).or_default().push(value);
    }
    parsed.words.extend(rest.cloned());
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Flag] = &[value(&["bundle", "b"]), switch(&["detach", "d"]), value(&["env", "e"])];

    fn parsed(line: &str) -> Result<Parsed, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&args, KNOWN)
    }

    #[test]
    fn flags_have_one_dash_or_two_and_values_either_way() {
        for line in ["--bundle /x -d box", "-b=/x --detach box", "-bundle /x --d=true box"] {
            let parsed = parsed(line).unwrap();
            assert_eq!((parsed.get("bundle"), parsed.is_set("detach")), (Some("/x"), true), "{line}");
            assert_eq!(parsed.words, ["box"], "{line}");
        }
        assert!(!parsed("--detach=false box").unwrap().is_set("detach"));
    }

    #[test]
    fn words_end_the_flags() {
        let parsed = parsed("-e A=1 -e B=2 box sh -c true").unwrap();
        assert_eq!(parsed.all("env"), ["A=1", "B=2"]);
        assert_eq!(parsed.words, ["box", "sh", "-c", "true"]);
        assert_eq!(super::parse(&["--".into(), "-x".into()], KNOWN).unwrap().words, ["-x"]);
    }

    #[test]
    fn unknown_and_unfinished_flags_are_named() {
        assert_eq!(parsed("--nope box").unwrap_err(), "flag provided but not defined: -nope");
        assert_eq!(parsed("--bundle").unwrap_err(), "flag needs an argument: -bundle");
    }
}
