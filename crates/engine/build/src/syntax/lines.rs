//! Physical lines to logical ones: parser directives, comments, continuations, heredocs.

use super::expand::unquote_word;
use super::instruction::Heredoc;
use super::{Span, SyntaxError, limits};

/// `# name=value` above everything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    pub name: String,
    pub value: String,
    pub line: usize,
}

/// The parser directives of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directives {
    pub all: Vec<Directive>,
}

impl Directives {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all.iter().find(|d| d.name == name).map(|d| d.value.as_str())
    }
}

/// One instruction as written: its line with continuations joined, and the heredocs that follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logical {
    pub(crate) text: String,
    pub(crate) span: Span,
    pub(crate) heredocs: Vec<Heredoc>,
    /// Comment lines directly above, without `#`.
    pub(crate) comments: Vec<String>,
}

/// What a text consists of, before any word of it is understood.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) directives: Directives,
    pub(crate) escape: char,
    pub(crate) logical: Vec<Logical>,
    /// Line numbers of empty lines inside a continued instruction.
    pub(crate) empty_continuations: Vec<usize>,
}

pub(crate) fn split(text: &str) -> Result<Lines, SyntaxError> {
    if text.len() > limits::TEXT_BYTES_MAX {
        return Err(SyntaxError::new(1, format!("the file is larger than {} bytes", limits::TEXT_BYTES_MAX)));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut physical: Vec<&str> = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    // The end of the last line is no line of its own.
    if physical.last().is_some_and(|line| line.is_empty()) {
        physical.pop();
    }
    let directives = directives(&physical)?;
    let escape = match directives.get("escape") {
        None | Some("\\") => '\\',
        Some("`") => '`',
        Some(other) => {
            let line = directives.all.iter().find(|d| d.name == "escape").map_or(1, |d| d.line);
            return Err(SyntaxError::new(line, format!("invalid ESCAPE '{other}'. Must be ` or \\")));
        }
    };
    let mut lines = Lines { directives, escape, logical: Vec::new(), empty_continuations: Vec::new() };
    let mut comments = Vec::new();
    let mut at = 0;
    while at < physical.len() {
        let trimmed = physical[at].trim_start();
        if let Some(comment) = trimmed.strip_prefix('#') {
            comments.push(comment.trim().to_owned());
            at += 1;
            continue;
        }
        if trimmed.is_empty() {
            comments.clear();
            at += 1;
            continue;
        }
        let first = at + 1;
        let mut joined = String::new();
        let mut last;
        loop {
            let line = if at + 1 == first { physical[at].trim_start() } else { physical[at] };
            let look = line.trim_start();
            last = at + 1;
            at += 1;
            if at != first && look.starts_with('#') {
                // A comment between the lines of an instruction is not part of it.
            } else if at != first && look.is_empty() {
                lines.empty_continuations.push(at);
            } else {
                match continuation(line, escape) {
                    Some(head) => joined.push_str(head),
                    None => {
                        joined.push_str(line);
                        break;
                    }
                }
            }
            if at == physical.len() {
                break;
            }
        }
        let text = joined.trim_end().to_owned();
        if text.is_empty() {
            continue;
        }
        let mut heredocs = heredocs_of(&text, escape).map_err(|m| SyntaxError::new(first, m))?;
        for heredoc in &mut heredocs {
            let mut closed = false;
            while at < physical.len() {
                let raw = physical[at];
                at += 1;
                last = at;
                let line = if heredoc.chomp { raw.trim_start_matches('\t') } else { raw };
                if line == heredoc.name {
                    closed = true;
                    break;
                }
                heredoc.content.push_str(line);
                heredoc.content.push('\n');
            }
            if !closed {
                return Err(SyntaxError::new(first, format!("unterminated heredoc: {} is not closed", heredoc.name)));
            }
        }
        lines.logical.push(Logical {
            text,
            span: Span { first, last },
            heredocs,
            comments: std::mem::take(&mut comments),
        });
        if lines.logical.len() > limits::INSTRUCTIONS_MAX {
            return Err(SyntaxError::new(first, format!("more than {} instructions", limits::INSTRUCTIONS_MAX)));
        }
    }
    Ok(lines)
}

/// The line without its continuation character, if it has one: an escape character and nothing but blanks after it, that
/// is not escaped itself.
fn continuation(line: &str, escape: char) -> Option<&str> {
    let head = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!head.ends_with(escape)).then_some(head)
}

fn directives(physical: &[&str]) -> Result<Directives, SyntaxError> {
    let mut found = Directives::default();
    for (at, line) in physical.iter().enumerate() {
        // A "#!" line lets a Dockerfile be a program.
        if at == 0 && line.starts_with("#!") {
            continue;
        }
        let Some(rest) = line.trim_start().strip_prefix('#') else { break };
        let Some((name, value)) = rest.split_once('=') else { break };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        let proper =
            name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric());
        if !proper || value.is_empty() || !matches!(name.as_str(), "syntax" | "escape" | "check") {
            break;
        }
        if found.get(&name).is_some() {
            return Err(SyntaxError::new(at + 1, format!("only one {name} parser directive can be used")));
        }
        found.all.push(Directive { name, value: value.to_owned(), line: at + 1 });
    }
    Ok(found)
}

/// The heredocs that an instruction announces; only these three have any.
fn heredocs_of(text: &str, escape: char) -> Result<Vec<Heredoc>, String> {
    let mut words = text.split_whitespace();
    let mut instruction = words.next().unwrap_or_default().to_ascii_uppercase();
    if instruction == "ONBUILD" {
        instruction = words.next().unwrap_or_default().to_ascii_uppercase();
    }
    if !matches!(instruction.as_str(), "RUN" | "COPY" | "ADD") || !text.contains("<<") {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for word in raw_words(text, escape) {
        if let Some(heredoc) = heredoc_word(&word, escape) {
            found.push(heredoc);
        }
    }
    Ok(found)
}

/// `<<EOF`, `<<-EOF`, `3<<"EOF"`: a number, two signs, a dash, one word.
pub(crate) fn heredoc_word(word: &str, escape: char) -> Option<Heredoc> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = word[digits..].strip_prefix("<<")?;
    let (chomp, name) = match rest.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, rest),
    };
    if name.is_empty() || name.contains('<') {
        return None;
    }
    let plain = unquote_word(name, escape)?;
    if plain.is_empty() {
        return None;
    }
    Some(Heredoc {
        file_descriptor: word[..digits].parse().unwrap_or(0),
        expand: plain == name,
        name: plain,
        chomp,
        content: String::new(),
    })
}

/// Whether a line is nothing but the announcement of one heredoc.
pub fn is_heredoc_word(line: &str) -> bool {
    !line.trim().contains(char::is_whitespace) && heredoc_word(line.trim(), '\\').is_some()
}

/// Words with their quotes and escapes kept.
pub(crate) fn raw_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            Some(q) => {
                word.push(c);
                if c == escape && q == '"' {
                    word.extend(chars.next());
                } else if c == q {
                    quote = None;
                }
            }
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            None => {
                word.push(c);
                if c == escape {
                    word.extend(chars.next());
                } else if c == '\'' || c == '"' {
                    quote = Some(c);
                }
            }
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        split(text).unwrap().logical.into_iter().map(|l| l.text).collect()
    }

    #[test]
    fn continuations_comments_and_blank_lines() {
        assert_eq!(
            texts("FROM a\nRUN b \\\n  # no\n\n  c\n# d\nRUN e\\\\\nUSER f\\ \n"),
            ["FROM a", "RUN b   c", "RUN e\\\\", "USER f"]
        );
        assert_eq!(split("RUN a \\\n\nb\n").unwrap().empty_continuations, [2]);
    }

    #[test]
    fn another_escape_character() {
        assert_eq!(texts("# escape=`\nFROM a\nRUN dir C:\\ `\n x\n"), ["FROM a", "RUN dir C:\\  x"]);
        assert!(split("# escape=x\nFROM a").unwrap_err().message.contains("Must be ` or \\"));
        assert!(split("# escape=`\n# escape=`\nFROM a").is_err());
    }

    #[test]
    fn directives_end_with_the_first_other_line() {
        let lines = split("# syntax=docker/dockerfile:1\n# check=skip=all\n\n# escape=`\nFROM a").unwrap();
        assert_eq!(lines.directives.get("syntax"), Some("docker/dockerfile:1"));
        assert_eq!(lines.directives.get("check"), Some("skip=all"));
        assert_eq!(lines.directives.get("escape"), None);
    }

    #[test]
    fn heredocs_are_taken_in_their_order() {
        let lines = split("FROM a\nCOPY <<one <<-'two' /x/\na $b\none\n\tc\n\ttwo\nRUN d\n").unwrap();
        let copy = &lines.logical[1];
        assert_eq!(copy.span, Span { first: 2, last: 6 });
        assert_eq!(copy.heredocs[0].content, "a $b\n");
        assert!(copy.heredocs[0].expand && !copy.heredocs[1].expand);
        assert_eq!(copy.heredocs[1].content, "c\n");
        assert_eq!(lines.logical[2].text, "RUN d");
        assert!(split("RUN <<EOF\nx\n").unwrap_err().message.contains("unterminated heredoc"));
        // No heredoc: a shift, a here-string, another instruction.
        for text in ["RUN echo $((1<<2))", "RUN cat <<< x", "LABEL a=<<b"] {
            assert!(split(text).unwrap().logical[0].heredocs.is_empty(), "{text}");
        }
    }
}
