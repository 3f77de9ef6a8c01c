//! Patterns of `.dockerignore` and `--exclude`: Go's `filepath.Match` with `**`, `!` for exceptions, the last match decides, and a
//! pattern that matches a directory matches everything below it.

use regex::Regex;

/// Bytes of a pattern file.
const TEXT_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Default)]
pub struct Patterns {
    list: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    exception: bool,
    regex: Regex,
    /// `!a/b/c` needs `a` and `a/b` to be looked into.
    text: String,
}

impl Patterns {
    /// Reads a `.dockerignore`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("the pattern file is larger than {TEXT_BYTES_MAX} bytes"));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|l| !l.starts_with('#')).map(str::trim).filter(|l| !l.is_empty());
        Self::of(lines)
    }

    pub fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut list = Vec::new();
        for pattern in patterns {
            let (exception, rest) = match pattern.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, pattern),
            };
            let text = clean(rest);
            if text.is_empty() {
                if exception {
                    return Err("illegal exclusion pattern: \"!\"".into());
                }
                continue;
            }
            let regex =
                Regex::new(&regex_of(&text)).map_err(|e| format!("syntax error in pattern {pattern:?}: {e}"))?;
            list.push(Pattern { exception, regex, text });
        }
        Ok(Self { list })
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The patterns again, cleaned, for somebody else who matches them.
    pub fn texts(&self) -> Vec<String> {
        self.list.iter().map(|p| if p.exception { format!("!{}", p.text) } else { p.text.clone() }).collect()
    }

    /// Whether `path` (relative, no leading slash) is left out.
    pub fn excludes(&self, path: &str) -> bool {
        let mut excluded = false;
        for pattern in &self.list {
            // Another match of the same kind would change nothing.
            if pattern.exception != excluded {
                continue;
            }
            if ancestors(path).any(|p| pattern.regex.is_match(p)) {
                excluded = !pattern.exception;
            }
        }
        excluded
    }

    /// Whether something below an excluded directory may still be wanted.
    pub fn may_include_below(&self, directory: &str) -> bool {
        let prefix = format!("{directory}/");
        self.list.iter().filter(|p| p.exception).any(|p| {
            let literal = p.text.split(['*', '?', '[', '\\']).next().unwrap_or_default();
            p.text.starts_with(&prefix) || (literal.len() < p.text.len() && prefix.starts_with(literal))
        })
    }
}

/// `a/b/c`, `a/b`, `a`.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |p| p.rsplit_once('/').map(|(parent, _)| parent))
}

fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The pattern as a regular expression over a whole path.
pub(crate) fn regex_of(pattern: &str) -> String {
    let mut out = String::from("^");
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                    out.push_str("(.*/)?");
                } else {
                    out.push_str(".*");
                }
            }
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '[' => {
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
                for c in chars.by_ref() {
                    match c {
                        ']' => {
                            out.push(']');
                            break;
                        }
                        '[' | '&' | '~' => {
                            out.push('\\');
                            out.push(c);
                        }
                        c => out.push(c),
                    }
                }
            }
            '\\' => out.push_str(&regex::escape(&chars.next().map(String::from).unwrap_or_default())),
            c => out.push_str(&regex::escape(&c.to_string())),
        }
    }
    out.push('$');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_match_decides() {
        let rows = [
            ("*.md\n!README.md", "a.md", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*", "a/b", true),
            ("*\n!a/b", "a/b", false),
            ("*\n!a/b", "a/c", true),
            ("node_modules", "node_modules/x/y", true),
            ("node_modules", "sub/node_modules", false),
            ("**/node_modules", "sub/node_modules/z", true),
            ("**/node_modules", "node_modules", true),
            ("*/temp*", "a/temporary", true),
            ("*/temp*", "a/b/temporary", false),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("/a", "a", true),
            ("a/", "a/b", true),
            ("# comment\n\n a ", "a", true),
            ("[a-c].txt", "b.txt", true),
            ("[^a-c].txt", "b.txt", false),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("a.b", "aXb", false),
        ];
        for (text, path, expected) in rows {
            assert_eq!(Patterns::parse(text).unwrap().excludes(path), expected, "{text:?} on {path}");
        }
    }

    #[test]
    fn an_exception_keeps_the_way_to_it_open() {
        let patterns = Patterns::parse("*\n!a/b/c\n!x*/y").unwrap();
        assert!(
            patterns.may_include_below("a") && patterns.may_include_below("a/b") && patterns.may_include_below("xx")
        );
        assert!(!patterns.may_include_below("z"));
    }
}
