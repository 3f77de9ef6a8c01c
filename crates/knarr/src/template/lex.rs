//! Cuts a template into text and actions, and an action into words.

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Action(Vec<Word>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    /// `.`, or `.A.B` as ["A", "B"].
    Field(Vec<String>),
    /// `$`, `$x`, with the fields that follow.
    Variable(String, Vec<String>),
    Name(String),
    Text(String),
    Int(i64),
    Float(f64),
    Open,
    /// `)` with the fields that follow: `(index .A 0).B`.
    Close(Vec<String>),
    Pipe,
    Comma,
    Declare,
    Assign,
}

pub(super) fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let mut out = Vec::new();
    let mut rest = template;
    let mut trim_next = false;
    loop {
        let Some(at) = rest.find("{{") else {
            push_text(&mut out, rest, trim_next, false);
            return Ok(out);
        };
        let (text, after) = rest.split_at(at);
        let mut inner = &after[2..];
        let trim_before = inner.starts_with("- ") || inner.starts_with("-\t") || inner.starts_with("-\n");
        if trim_before {
            inner = &inner[2..];
        }
        push_text(&mut out, text, trim_next, trim_before);
        let trimmed = inner.trim_start();
        if let Some(comment) = trimmed.strip_prefix("/*") {
            let end = comment.find("*/").ok_or("unclosed comment")?;
            let tail = comment[end + 2..].trim_start();
            (rest, trim_next) = match tail.strip_prefix("-}}") {
                Some(tail) => (tail, true),
                None => (tail.strip_prefix("}}").ok_or("comment ends before closing delimiter")?, false),
            };
            continue;
        }
        let (words, tail, trim) = action(inner)?;
        out.push(Piece::Action(words));
        rest = tail;
        trim_next = trim;
    }
}

fn push_text(out: &mut Vec<Piece>, text: &str, trim_start: bool, trim_end: bool) {
    let text = if trim_start { text.trim_start() } else { text };
    let text = if trim_end { text.trim_end() } else { text };
    if !text.is_empty() {
        out.push(Piece::Text(text.to_owned()));
    }
}

/// The words up to `}}`, what follows, and whether the following text is to be trimmed.
fn action(inner: &str) -> Result<(Vec<Word>, &str, bool), String> {
    let mut words = Vec::new();
    let mut rest = inner;
    loop {
        let space = rest.len() - rest.trim_start().len();
        rest = &rest[space..];
        if space > 0 && rest.starts_with("-}}") {
            return Ok((words, &rest[3..], true));
        }
        if let Some(tail) = rest.strip_prefix("}}") {
            return Ok((words, tail, false));
        }
        let Some(first) = rest.chars().next() else { return Err("unclosed action".into()) };
        let (word, tail) = match first {
            '(' => (Word::Open, &rest[1..]),
            ')' => {
                let (path, tail) = fields(&rest[1..]);
                (Word::Close(path), tail)
            }
            '|' => (Word::Pipe, &rest[1..]),
            ',' => (Word::Comma, &rest[1..]),
            '=' => (Word::Assign, &rest[1..]),
            ':' if rest.starts_with(":=") => (Word::Declare, &rest[2..]),
            '"' => quoted(rest)?,
            '`' => {
                let end = rest[1..].find('`').ok_or("unterminated raw quoted string")?;
                (Word::Text(rest[1..=end].to_owned()), &rest[end + 2..])
            }
            '\'' => {
                let mut letters = rest[1..].chars();
                let letter = letters.next().ok_or("unterminated character constant")?;
                let tail = letters.as_str().strip_prefix('\'').ok_or("unterminated character constant")?;
                (Word::Int(letter as i64), tail)
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let (path, tail) = fields(rest);
                // A lone dot: `fields` takes nothing then.
                if path.is_empty() { (Word::Field(path), &rest[1..]) } else { (Word::Field(path), tail) }
            }
            '$' => {
                let end = rest[1..].find(|c: char| !is_name(c)).map_or(rest.len(), |end| end + 1);
                let (path, tail) = fields(&rest[end..]);
                (Word::Variable(rest[..end].to_owned(), path), tail)
            }
            c if c.is_ascii_digit() || c == '-' || c == '+' || c == '.' => number(rest)?,
            c if is_name(c) => {
                let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
                (Word::Name(rest[..end].to_owned()), &rest[end..])
            }
            c => return Err(format!("unexpected {c:?} in action")),
        };
        words.push(word);
        rest = tail;
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `.A.B` and what follows it.
fn fields(text: &str) -> (Vec<String>, &str) {
    let mut path = Vec::new();
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('.') {
        let end = after.find(|c: char| !is_name(c)).unwrap_or(after.len());
        if end == 0 {
            break;
        }
        path.push(after[..end].to_owned());
        rest = &after[end..];
    }
    (path, rest)
}

fn number(text: &str) -> Result<(Word, &str), String> {
    let end = text[1..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).map_or(text.len(), |end| end + 1);
    let (digits, tail) = text.split_at(end);
    if let Ok(int) = digits.parse() {
        return Ok((Word::Int(int), tail));
    }
    digits.parse().map(|float| (Word::Float(float), tail)).map_err(|_| format!("bad number syntax: {digits:?}"))
}

fn quoted(text: &str) -> Result<(Word, &str), String> {
    let unterminated = || "unterminated quoted string".to_owned();
    let mut out = String::new();
    let mut letters = text[1..].chars();
    loop {
        match letters.next().ok_or_else(unterminated)? {
            '"' => return Ok((Word::Text(out), letters.as_str())),
            '\n' => return Err(unterminated()),
            '\\' => out.push(match letters.next().ok_or_else(unterminated)? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                c @ ('"' | '\\' | '\'') => c,
                c => return Err(format!("unknown escape \\{c} in string")),
            }),
            c => out.push(c),
        }
    }
}
