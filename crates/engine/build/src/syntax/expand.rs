//! Words: quotes, escapes, `$name` and every form of `${name...}`.

use super::limits;

/// Where names get their values.
pub trait Variables {
    fn value(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Variables for F {
    fn value(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// A word with its variables replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    pub text: String,
    /// The same split at blanks that no quotes held together.
    pub words: Vec<String>,
    /// Names that were asked for and had no value.
    pub unmatched: Vec<String>,
}

/// Expands words for one place of a file.
pub struct Expander<'a> {
    pub variables: &'a dyn Variables,
    pub escape: char,
    /// Quotes stay in the result (heredocs, `RUN` flags).
    pub raw_quotes: bool,
    /// Quotes are letters like others (the content of heredocs).
    pub plain_quotes: bool,
    /// Escape characters stay in the result.
    pub raw_escapes: bool,
    /// What has no value stays as it is written.
    pub keep_unset: bool,
}

impl std::fmt::Debug for Expander<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expander").field("escape", &self.escape).finish_non_exhaustive()
    }
}

impl<'a> Expander<'a> {
    pub fn new(variables: &'a dyn Variables, escape: char) -> Self {
        Self { variables, escape, raw_quotes: false, plain_quotes: false, raw_escapes: false, keep_unset: false }
    }

    /// One word: blanks stay.
    pub fn word(&self, text: &str) -> Result<String, String> {
        Ok(self.expand(text)?.text)
    }

    /// Several words.
    pub fn words(&self, text: &str) -> Result<Vec<String>, String> {
        Ok(self.expand(text)?.words)
    }

    pub fn expand(&self, text: &str) -> Result<Expansion, String> {
        let chars: Vec<char> = text.chars().collect();
        let mut run = Run { on: self, chars: &chars, at: 0, unmatched: Vec::new(), depth: 0 };
        let mut split = Split::default();
        let text = run.until(None, &mut split).map_err(|e| format!("failed to process {text:?}: {e}"))?;
        split.end_word();
        Ok(Expansion { text, words: split.words, unmatched: run.unmatched })
    }
}

#[derive(Default)]
struct Split {
    words: Vec<String>,
    word: String,
    inside: bool,
}

impl Split {
    fn push(&mut self, c: char) {
        if c.is_whitespace() {
            return self.end_word();
        }
        self.push_raw(c);
    }

    fn push_raw(&mut self, c: char) {
        self.word.push(c);
        self.inside = true;
    }

    fn end_word(&mut self) {
        if self.inside {
            self.words.push(std::mem::take(&mut self.word));
            self.inside = false;
        }
    }
}

struct Run<'r> {
    on: &'r Expander<'r>,
    chars: &'r [char],
    at: usize,
    unmatched: Vec<String>,
    depth: usize,
}

impl Run<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Up to `stop` (left unread) or the end.
    fn until(&mut self, stop: Option<&[char]>, split: &mut Split) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.peek() {
            if stop.is_some_and(|stop| stop.contains(&c)) {
                break;
            }
            match c {
                '\'' if !self.on.plain_quotes => {
                    let quoted = self.single_quoted()?;
                    quoted.chars().for_each(|c| split.push_raw(c));
                    split.inside = true;
                    out.push_str(&quoted);
                }
                '"' if !self.on.plain_quotes => {
                    let quoted = self.double_quoted()?;
                    quoted.chars().for_each(|c| split.push_raw(c));
                    split.inside = true;
                    out.push_str(&quoted);
                }
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| split.push(c));
                    out.push_str(&value);
                }
                c if c == self.on.escape => {
                    self.at += 1;
                    if self.on.raw_escapes {
                        out.push(c);
                        split.push_raw(c);
                    }
                    // An escape at the very end is dropped.
                    if let Some(escaped) = self.next() {
                        out.push(escaped);
                        split.push_raw(escaped);
                    }
                }
                c => {
                    self.at += 1;
                    out.push(c);
                    split.push(c);
                }
            }
            if out.len() > limits::WORD_BYTES_MAX {
                return Err(format!("the value is longer than {} bytes", limits::WORD_BYTES_MAX));
            }
        }
        Ok(out)
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        self.at += 1;
        if self.on.raw_quotes {
            out.push('\'');
        }
        loop {
            match self.next() {
                None => return Err("unexpected end of statement while looking for matching single-quote".into()),
                Some('\'') => break,
                Some(c) => out.push(c),
            }
        }
        if self.on.raw_quotes {
            out.push('\'');
        }
        Ok(out)
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        self.at += 1;
        if self.on.raw_quotes {
            out.push('"');
        }
        loop {
            match self.peek() {
                None => return Err("unexpected end of statement while looking for matching double-quote".into()),
                Some('"') => {
                    self.at += 1;
                    break;
                }
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) if c == self.on.escape => {
                    self.at += 1;
                    match self.peek() {
                        None => {
                            return Err("unexpected end of statement while looking for matching double-quote".into());
                        }
                        // Within double quotes only these are special; before anything else the escape is itself.
                        Some(escaped) => {
                            self.at += 1;
                            let special = escaped == '"' || escaped == '$' || escaped == self.on.escape;
                            if !special || self.on.raw_escapes {
                                out.push(c);
                            }
                            out.push(escaped);
                        }
                    }
                }
                Some(c) => {
                    self.at += 1;
                    out.push(c);
                }
            }
            if out.len() > limits::WORD_BYTES_MAX {
                return Err(format!("the value is longer than {} bytes", limits::WORD_BYTES_MAX));
            }
        }
        if self.on.raw_quotes {
            out.push('"');
        }
        Ok(out)
    }

    fn dollar(&mut self) -> Result<String, String> {
        let from = self.at;
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(self.lookup(&name).unwrap_or_else(|| self.unset(from)));
        }
        self.at += 1;
        self.depth += 1;
        if self.depth > limits::NESTING_MAX && !vocab::weak::without("nesting") {
            return Err(format!("variables nest deeper than {}", limits::NESTING_MAX));
        }
        let value = self.braces(from);
        self.depth -= 1;
        value
    }

    fn unset(&self, from: usize) -> String {
        if self.on.keep_unset { self.chars[from..self.at].iter().collect() } else { String::new() }
    }

    /// After `${`.
    fn braces(&mut self, from: usize) -> Result<String, String> {
        match self.peek() {
            None | Some('{') | Some(':') => return Err("syntax error: missing '}' or bad substitution".into()),
            Some('}') => return Err("syntax error: bad substitution".into()),
            _ => {}
        }
        let name = self.name();
        if name.is_empty() {
            return Err("syntax error: bad substitution".into());
        }
        match self.next() {
            None => Err("syntax error: missing '}'".into()),
            Some('}') => Ok(self.lookup(&name).unwrap_or_else(|| self.unset(from))),
            Some(':') => {
                let modifier = self.next();
                match modifier {
                    Some(m @ ('+' | '-' | '?')) => self.default(&name, m, true, from),
                    other => Err(format!("unsupported modifier ({}) in substitution", other.unwrap_or(' '))),
                }
            }
            Some(m @ ('+' | '-' | '?')) => self.default(&name, m, false, from),
            Some(m @ ('#' | '%')) => {
                let greedy = self.peek() == Some(m);
                if greedy {
                    self.at += 1;
                }
                let pattern = self.inner(&['}'])?;
                self.close()?;
                let Some(value) = self.lookup(&name) else { return Ok(self.unset(from)) };
                Ok(trim(&value, &pattern, greedy, m == '%', self.on.escape))
            }
            Some('/') => {
                let all = self.peek() == Some('/');
                if all {
                    self.at += 1;
                }
                let pattern = self.inner(&['/', '}'])?;
                let replacement = if self.peek() == Some('/') {
                    self.at += 1;
                    self.inner(&['}'])?
                } else {
                    return Err("syntax error: missing '/' in ${} after the pattern".into());
                };
                self.close()?;
                let Some(value) = self.lookup(&name) else { return Ok(self.unset(from)) };
                Ok(replace(&value, &pattern, &replacement, all, self.on.escape))
            }
            Some(c) => Err(format!("unsupported modifier ({c}) in substitution")),
        }
    }

    fn default(&mut self, name: &str, modifier: char, empty_is_unset: bool, from: usize) -> Result<String, String> {
        let word = self.inner(&['}'])?;
        self.close()?;
        let value = self.on.variables.value(name).filter(|v| !(empty_is_unset && v.is_empty()));
        match (modifier, value) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('?', None) => {
                let message = if !word.is_empty() {
                    word
                } else {
                    "is not allowed to be unset".to_owned() + if empty_is_unset { " or empty" } else { "" }
                };
                Err(format!("{name}: {message}"))
            }
            ('-', None) if self.on.keep_unset && word.is_empty() => Ok(self.unset(from)),
            ('-', None) => Ok(word),
            (_, Some(value)) => Ok(value),
            _ => Ok(word),
        }
    }

    fn inner(&mut self, stop: &[char]) -> Result<String, String> {
        self.until(Some(stop), &mut Split::default())
    }

    fn close(&mut self) -> Result<(), String> {
        match self.next() {
            Some('}') => Ok(()),
            _ => Err("syntax error: missing '}'".into()),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            let fits = c == '_' || c.is_ascii_alphanumeric();
            if !fits || name.is_empty() && c.is_ascii_digit() {
                // `$1` and the special parameters are one character long.
                if name.is_empty() && (c.is_ascii_digit() || "@*#".contains(c)) {
                    name.push(c);
                    self.at += 1;
                }
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }

    fn lookup(&mut self, name: &str) -> Option<String> {
        let value = self.on.variables.value(name);
        if value.is_none() {
            self.unmatched.push(name.to_owned());
        }
        value
    }
}

/// A shell pattern (`*`, `?`, escapes) as a list of parts.
enum Glob {
    Any,
    One,
    Char(char),
}

fn globs(pattern: &str, escape: char) -> Vec<Glob> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Glob::Any,
            '?' => Glob::One,
            c if c == escape => Glob::Char(chars.next().unwrap_or(c)),
            c => Glob::Char(c),
        });
    }
    parts
}

/// How many characters from `at` on the pattern matches; the longest or the shortest way. Linear in memory, quadratic in time
/// at worst: patterns come from the file.
fn match_length(pattern: &[Glob], text: &[char], longest: bool) -> Option<usize> {
    // reach[i]: the pattern so far matches the first i characters.
    let mut reach = vec![false; text.len() + 1];
    reach[0] = true;
    for part in pattern {
        let mut next = vec![false; text.len() + 1];
        match part {
            Glob::Any => {
                let mut open = false;
                for at in 0..=text.len() {
                    open |= reach[at];
                    next[at] = open;
                }
            }
            Glob::One => (0..text.len()).for_each(|at| next[at + 1] = reach[at]),
            Glob::Char(c) => (0..text.len()).for_each(|at| next[at + 1] = reach[at] && text[at] == *c),
        }
        reach = next;
    }
    if longest { reach.iter().rposition(|r| *r) } else { reach.iter().position(|r| *r) }
}

fn trim(value: &str, pattern: &str, greedy: bool, suffix: bool, escape: char) -> String {
    let mut parts = globs(pattern, escape);
    let mut text: Vec<char> = value.chars().collect();
    if suffix {
        parts.reverse();
        text.reverse();
    }
    let cut = match_length(&parts, &text, greedy).unwrap_or(0);
    text.drain(..cut);
    if suffix {
        text.reverse();
    }
    text.into_iter().collect()
}

fn replace(value: &str, pattern: &str, replacement: &str, all: bool, escape: char) -> String {
    let parts = globs(pattern, escape);
    let text: Vec<char> = value.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    let mut done = false;
    while at < text.len() {
        let length = if done { None } else { match_length(&parts, &text[at..], true).filter(|n| *n > 0) };
        match length {
            Some(length) => {
                out.push_str(replacement);
                at += length;
                done = !all;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

/// A word without its quotes and escapes, no variable replaced. `None`: a quote is open.
pub(crate) fn unquote_word(word: &str, escape: char) -> Option<String> {
    let none = |_: &str| None;
    let mut expander = Expander::new(&none, escape);
    expander.keep_unset = true;
    expander.word(word).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Result<String, String> {
        let values = |name: &str| match name {
            "a" => Some("one".to_owned()),
            "path" => Some("/usr/local/lib.tar.gz".to_owned()),
            "empty" => Some(String::new()),
            "two" => Some("x y".to_owned()),
            _ => None,
        };
        Expander::new(&values, '\\').word(text)
    }

    #[test]
    fn every_form_gives_what_a_shell_gives() {
        for (text, expected) in [
            ("$a-$b", "one-"),
            ("${a}b", "oneb"),
            ("\\$a", "$a"),
            ("'$a'", "$a"),
            ("\"$a\"", "one"),
            ("\"\\$a \\x\"", "$a \\x"),
            ("${b:-x}", "x"),
            ("${b-x}", "x"),
            ("${empty:-x}", "x"),
            ("${empty-x}", ""),
            ("${a:+x}", "x"),
            ("${empty:+x}", ""),
            ("${empty+x}", "x"),
            ("${b:-${a}}", "one"),
            ("${b:-\"q r\"}", "q r"),
            ("${path#*/}", "usr/local/lib.tar.gz"),
            ("${path##*/}", "lib.tar.gz"),
            ("${path%.*}", "/usr/local/lib.tar"),
            ("${path%%.*}", "/usr/local/lib"),
            ("${path/l/L}", "/usr/Local/lib.tar.gz"),
            ("${path//l/L}", "/usr/LocaL/Lib.tar.gz"),
            ("${path//\\//_}", "_usr_local_lib.tar.gz"),
            ("${path/l*b/}", "/usr/.tar.gz"),
            ("$", "$"),
            ("a$ b", "a$ b"),
            ("end\\", "end"),
        ] {
            assert_eq!(word(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (text, part) in [
            ("${a", "missing '}'"),
            ("${}", "bad substitution"),
            ("${a:x}", "unsupported modifier (x) in substitution"),
            ("${b:?needed}", "b: needed"),
            ("${empty:?}", "empty: is not allowed to be unset or empty"),
            ("'a", "matching single-quote"),
            ("\"a", "matching double-quote"),
        ] {
            let error = word(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn words_split_where_no_quotes_are() {
        let values = |name: &str| (name == "two").then(|| "x y".to_owned());
        let expander = Expander::new(&values, '\\');
        assert_eq!(expander.words("a $two \"$two\" '' b\\ c").unwrap(), ["a", "x", "y", "x y", "", "b c"]);
    }

    #[test]
    fn quotes_are_letters_in_the_content_of_heredocs() {
        let values = |name: &str| (name == "a").then(|| "one".to_owned());
        let mut expander = Expander::new(&values, '\\');
        expander.plain_quotes = true;
        assert_eq!(expander.word("don't '$a' \"${a}\" \\$a").unwrap(), "don't 'one' \"one\" $a");
    }

    #[test]
    fn bombs_end_at_their_limit() {
        let bomb = "${b:-".repeat(200_000);
        assert!(word(&bomb).unwrap_err().contains("nest deeper"));
        let big = "v".repeat(4096);
        let values = |_: &str| Some(big.clone());
        let text = "$x".repeat(4096);
        assert!(Expander::new(&values, '\\').word(&text).unwrap_err().contains("longer than"));
    }
}
