//! Command-line flags with docker's reading of them, from tables that cost nothing at start.
//!
//! Pure: an argument list in, [`Matches`] or a complaint in docker's words out. The tables are constants, and only the table of the
//! command that was named is looked at, so that a client starts in well under a millisecond (docs/decisions/0004).
//! The rules are those of docker's command line: `--name value` and `--name=value`, grouped short flags (`-itd`), booleans
//! that take `=false`, flags that may be repeated, and commands whose flags end at the first argument.

use std::collections::BTreeMap;

/// One flag of one command.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    pub help: &'static str,
    /// Shown in the help; the value that stands when the flag is absent.
    pub default: Option<&'static str>,
    /// A flag that docker has and this program refuses: the text says why.
    pub refused: Option<&'static str>,
    pub hidden: bool,
}

/// What a flag's value must look like. The names are the words that the help prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Text,
    /// May be given several times; the order is kept.
    List,
    Int,
    Decimal,
    Bytes,
    Duration,
}

const fn flag(long: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { long, short: None, kind, help, default: None, refused: None, hidden: false }
}

pub const fn switch(long: &'static str, help: &'static str) -> Flag {
    flag(long, Kind::Bool, help)
}
pub const fn text(long: &'static str, help: &'static str) -> Flag {
    flag(long, Kind::Text, help)
}
pub const fn list(long: &'static str, help: &'static str) -> Flag {
    flag(long, Kind::List, help)
}
pub const fn int(long: &'static str, help: &'static str) -> Flag {
    flag(long, Kind::Int, help)
}
pub const fn decimal(long: &'static str, help: &'static str) -> Flag {
    flag(long, Kind::Decimal, help)
}
pub const fn bytes(long: &'static str, help: &'static str) -> Flag {
    flag(long, Kind::Bytes, help)
}
pub const fn duration(long: &'static str, help: &'static str) -> Flag {
    flag(long, Kind::Duration, help)
}

impl Flag {
    pub const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }
    pub const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }
    /// Accepted nowhere: naming it is an error with this reason, so that nobody believes it had an effect.
    pub const fn refused(mut self, why: &'static str) -> Self {
        self.refused = Some(why);
        self.hidden = true;
        self
    }
    pub const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// How messages call the flag: `-m, --memory`.
    fn display(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.long),
            None => format!("--{}", self.long),
        }
    }

    fn accept(&self, value: &str) -> Result<(), String> {
        let problem = match self.kind {
            Kind::Text | Kind::List => None,
            Kind::Bool => parse_bool(value)
                .is_none()
                .then(|| format!("strconv.ParseBool: parsing {}: invalid syntax", crate::text::quoted(value))),
            Kind::Int => value
                .parse::<i64>()
                .is_err()
                .then(|| format!("strconv.ParseInt: parsing {}: invalid syntax", crate::text::quoted(value))),
            Kind::Decimal => crate::units::parse_nano_cpus(value).err(),
            Kind::Bytes => crate::units::parse_bytes(value).err(),
            Kind::Duration => crate::units::parse_duration(value).err(),
        };
        match problem {
            None => Ok(()),
            Some(problem) => Err(format!(
                "invalid argument {} for \"{}\" flag: {problem}",
                crate::text::quoted(value),
                self.display()
            )),
        }
    }
}

/// How many arguments a command takes after its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    None,
    Exactly(usize),
    AtLeast(usize),
    Between(usize, usize),
}

impl Arity {
    /// Docker's words for a wrong number, or nothing if `count` is right.
    pub fn complaint(self, count: usize) -> Option<String> {
        let arguments = |n: usize| format!("{n} argument{}", if n == 1 { "" } else { "s" });
        match self {
            Arity::None if count > 0 => Some("accepts no arguments".into()),
            Arity::Exactly(n) if count != n => Some(format!("requires {}", arguments(n))),
            Arity::AtLeast(n) if count < n => Some(format!("requires at least {}", arguments(n))),
            Arity::Between(low, high) if count < low || count > high => {
                Some(format!("requires at least {low} and at most {}", arguments(high)))
            }
            _ => None,
        }
    }
}

/// What was on the command line, by the long names of the flags.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Matches {
    values: BTreeMap<&'static str, Vec<String>>,
    pub arguments: Vec<String>,
    pub help: bool,
}

impl Matches {
    /// A switch; the last mention decides.
    pub fn is(&self, name: &str) -> bool {
        self.text(name).and_then(parse_bool).unwrap_or(false)
    }
    /// A switch that is on unless switched off.
    pub fn is_or(&self, name: &str, absent: bool) -> bool {
        self.text(name).and_then(parse_bool).unwrap_or(absent)
    }
    /// The last value given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.last().map(String::as_str)
    }
    pub fn list(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }
    /// Was it mentioned at all, with whatever value?
    pub fn given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }
    /// Adds what another list of words said; it comes after what is here.
    pub fn absorb(&mut self, other: &Matches) {
        for (name, values) in &other.values {
            self.values.entry(name).or_default().extend(values.iter().cloned());
        }
    }
    /// A checked integer: the table says `Kind::Int`, so the text is one.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }
    pub fn bytes(&self, name: &str) -> Option<i64> {
        crate::units::parse_bytes(self.text(name)?).ok()
    }
    pub fn nano_cpus(&self, name: &str) -> Option<i64> {
        crate::units::parse_nano_cpus(self.text(name)?).ok()
    }
    pub fn duration_nanos(&self, name: &str) -> Option<i64> {
        crate::units::parse_duration(self.text(name)?).ok()
    }
}

pub fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads `words` by the tables. With `interspersed` flags may follow arguments (`ps`); without, the first argument ends them (`run`).
pub fn parse(tables: &[&[Flag]], interspersed: bool, words: &[String]) -> Result<Matches, String> {
    let mut matches = Matches::default();
    let find =
        |test: &dyn Fn(&Flag) -> bool| tables.iter().flat_map(|table| table.iter()).find(|flag| test(flag)).copied();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            matches.arguments.extend(words.cloned());
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            if name == "help" {
                matches.help = true;
                continue;
            }
            let flag = find(&|flag| flag.long == name).ok_or_else(|| format!("unknown flag: --{name}"))?;
            let value = match (value, flag.kind) {
                (Some(value), _) => value,
                (None, Kind::Bool) => "true".into(),
                (None, _) => words.next().cloned().ok_or_else(|| format!("flag needs an argument: --{name}"))?,
            };
            put(&mut matches, flag, value)?;
        } else if word.len() > 1 && word.starts_with('-') {
            let cluster = &word[1..];
            for (at, letter) in cluster.char_indices() {
                let rest = &cluster[at + letter.len_utf8()..];
                let Some(flag) = find(&|flag| flag.short == Some(letter)) else {
                    if letter == 'h' {
                        matches.help = true;
                        continue;
                    }
                    return Err(format!("unknown shorthand flag: '{letter}' in -{}", &cluster[at..]));
                };
                if flag.kind == Kind::Bool && !rest.starts_with('=') {
                    put(&mut matches, flag, "true".into())?;
                    continue;
                }
                let value = match rest.strip_prefix('=') {
                    Some(value) => value.to_owned(),
                    None if !rest.is_empty() => rest.to_owned(),
                    None => words
                        .next()
                        .cloned()
                        .ok_or_else(|| format!("flag needs an argument: '{letter}' in -{}", &cluster[at..]))?,
                };
                put(&mut matches, flag, value)?;
                break;
            }
        } else {
            matches.arguments.push(word.clone());
            if !interspersed {
                matches.arguments.extend(words.cloned());
                break;
            }
        }
    }
    Ok(matches)
}

fn put(matches: &mut Matches, flag: Flag, value: String) -> Result<(), String> {
    if let Some(why) = flag.refused {
        return Err(format!("--{} is not supported: {why}", flag.long));
    }
    flag.accept(&value)?;
    matches.values.entry(flag.long).or_default().push(value);
    Ok(())
}

/// The `Options:` block of a command's help, as docker lays it out.
pub fn help(tables: &[&[Flag]]) -> String {
    let mut flags: Vec<&Flag> = tables.iter().flat_map(|table| table.iter()).filter(|flag| !flag.hidden).collect();
    flags.sort_by_key(|flag| flag.long);
    let left = |flag: &Flag| {
        let word = match flag.kind {
            Kind::Bool => "",
            Kind::Text => " string",
            Kind::List => " list",
            Kind::Int => " int",
            Kind::Decimal => " decimal",
            Kind::Bytes => " bytes",
            Kind::Duration => " duration",
        };
        match flag.short {
            Some(short) => format!("  -{short}, --{}{word}", flag.long),
            None => format!("      --{}{word}", flag.long),
        }
    };
    let width = flags.iter().map(|flag| left(flag).len()).max().unwrap_or(0) + 3;
    let mut out = String::new();
    for flag in flags {
        let default = match (flag.default, flag.kind) {
            (None, _) => String::new(),
            (Some(value), Kind::Text) => format!(" (default {})", crate::text::quoted(value)),
            (Some(value), _) => format!(" (default {value})"),
        };
        let mut first = true;
        for line in wrap(&format!("{}{default}", flag.help), 100usize.saturating_sub(width).max(40)) {
            let head = if first { left(flag) } else { String::new() };
            out.push_str(&format!("{head:width$}{line}\n"));
            first = false;
        }
    }
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("one line at least");
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Flag] = &[
        switch("interactive", "").short('i'),
        switch("tty", "").short('t'),
        switch("sig-proxy", "").default("true"),
        list("env", "").short('e'),
        text("name", ""),
        bytes("memory", "").short('m'),
        int("cpu-shares", "").short('c'),
        text("gpus", "").refused("there is no support for devices by vendor"),
    ];

    fn read(interspersed: bool, words: &[&str]) -> Result<Matches, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        parse(&[TABLE], interspersed, &words)
    }

    #[test]
    fn short_flags_group_and_the_last_may_take_a_value() {
        let matches = read(false, &["-ite", "A=1", "-eB=2", "-e=C=3", "image", "-x"]).unwrap();
        assert!(matches.is("interactive") && matches.is("tty"));
        assert_eq!(matches.list("env"), ["A=1", "B=2", "C=3"]);
        assert_eq!(matches.arguments, ["image", "-x"]);
    }

    #[test]
    fn the_first_argument_ends_the_flags_only_where_the_command_says_so() {
        assert_eq!(read(false, &["image", "--name", "x"]).unwrap().arguments, ["image", "--name", "x"]);
        let matches = read(true, &["web", "--name", "x", "--", "--tty"]).unwrap();
        assert_eq!(matches.arguments, ["web", "--tty"]);
        assert_eq!(matches.text("name"), Some("x"));
    }

    #[test]
    fn a_switch_can_be_switched_off() {
        assert!(!read(true, &["--sig-proxy=false"]).unwrap().is_or("sig-proxy", true));
        assert!(read(true, &["-t=false", "-t"]).unwrap().is("tty"));
        assert!(!read(true, &["-it=false"]).unwrap().is("tty"));
    }

    #[test]
    fn wrong_flags_are_named_in_dockers_words() {
        let cases = [
            (&["--foo"] as &[&str], "unknown flag: --foo"),
            (&["-z"], "unknown shorthand flag: 'z' in -z"),
            (&["-itz"], "unknown shorthand flag: 'z' in -z"),
            (&["-e"], "flag needs an argument: 'e' in -e"),
            (&["--name"], "flag needs an argument: --name"),
            (&["--memory=zz"], "invalid argument \"zz\" for \"-m, --memory\" flag: invalid size: 'zz'"),
            (
                &["--tty=maybe"],
                "invalid argument \"maybe\" for \"-t, --tty\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            (&["--gpus", "all"], "--gpus is not supported: there is no support for devices by vendor"),
        ];
        for (words, expected) in cases {
            assert_eq!(read(true, words).unwrap_err(), expected, "{words:?}");
        }
    }

    #[test]
    fn help_lines_up_and_wraps() {
        let text = help(&[&[
            switch("all", "Show everything").short('a'),
            int("last", "Show n last created containers").short('n').default("-1"),
            text("filter", "words that go on and on and on and on and on and on and on and on and on and on and on"),
        ]]);
        assert!(text.starts_with("  -a, --all             Show everything\n      --filter string   words"), "{text}");
        assert!(text.ends_with("  -n, --last int        Show n last created containers (default -1)\n"), "{text}");
    }
}
