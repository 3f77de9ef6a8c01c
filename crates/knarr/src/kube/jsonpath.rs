//! kubectl's JSONPath templates: text with `{...}` expressions over an object. Pure.
//!
//! The subset that people write: fields (`.a.b`, `['a.b']`, `\.` in names), indices and slices, `*`, `..name`, unions (`[0,2]`),
//! filters (`?(@.type=="Ready")`), `range`/`end`, quoted text, `@` and `$`.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Part>),
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// Every field of this name, however deep.
    Deep(String),
    All,
    Indices(Vec<i64>),
    Slice(Option<i64>, Option<i64>, i64),
    Filter(Vec<Step>, Option<(Comparison, Operand)>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Value(Value),
    Path(Vec<Step>),
}

/// A template that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Part>);

impl JsonPath {
    /// `{.metadata.name}`, or the same without braces and even without its first dot, as `custom-columns` and `wait` write it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let failed = |problem: String| format!("error parsing jsonpath {text}, {problem}");
        let whole = match text.contains('{') {
            true => text.to_owned(),
            false if text.starts_with(['.', '[', '$', '@']) => format!("{{{text}}}"),
            false => format!("{{.{text}}}"),
        };
        let mut reader = Reader { chars: whole.chars().collect(), at: 0 };
        let parts = reader.parts(false).map_err(failed)?;
        Ok(Self(parts))
    }

    pub fn render(&self, value: &Value) -> String {
        let mut out = String::new();
        render(&self.0, value, &mut out);
        out
    }

    /// Everything that the expressions find.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let paths = self.0.iter().filter_map(|part| if let Part::Path(steps) = part { Some(steps) } else { None });
        paths.flat_map(|steps| walk(steps, value)).collect()
    }
}

struct Reader {
    chars: Vec<char>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let is = self.peek() == Some(wanted);
        self.at += usize::from(is);
        is
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let chars: Vec<char> = word.chars().collect();
        let there = self.chars[self.at..].starts_with(&chars)
            && !self.chars.get(self.at + chars.len()).is_some_and(|c| c.is_alphanumeric());
        self.at += if there { chars.len() } else { 0 };
        there
    }

    fn parts(&mut self, in_range: bool) -> Result<Vec<Part>, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            if c != '{' {
                text.push(c);
                continue;
            }
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            self.blanks();
            if self.word("range") {
                self.blanks();
                let steps = self.path()?;
                self.close()?;
                parts.push(Part::Range(steps, self.parts(true)?));
            } else if self.word("end") {
                self.close()?;
                return if in_range { Ok(parts) } else { Err("not in range, nothing to end".into()) };
            } else if let Some(quote @ ('"' | '\'')) = self.peek() {
                self.at += 1;
                parts.push(Part::Text(self.quoted(quote)?));
                self.close()?;
            } else {
                let steps = self.path()?;
                self.close()?;
                parts.push(Part::Path(steps));
            }
        }
        if in_range {
            return Err("unterminated range".into());
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(parts)
    }

    fn close(&mut self) -> Result<(), String> {
        self.blanks();
        if self.take('}') { Ok(()) } else { Err("unclosed action".into()) }
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            match c {
                c if c == quote => return Ok(text),
                '\\' => {
                    let escaped = self.peek().ok_or("unterminated quoted string")?;
                    self.at += 1;
                    text.push(match escaped {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    });
                }
                c => text.push(c),
            }
        }
        Err("unterminated quoted string".into())
    }

    fn path(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        if !self.take('$') {
            self.take('@');
        }
        loop {
            match self.peek() {
                Some('.') => {
                    self.at += 1;
                    if self.take('.') {
                        let name = self.name();
                        steps.push(Step::Deep(name));
                    } else if self.take('*') {
                        steps.push(Step::All);
                    } else {
                        let name = self.name();
                        if !name.is_empty() {
                            steps.push(Step::Field(name));
                        }
                    }
                }
                Some('[') => {
                    self.at += 1;
                    steps.push(self.bracket()?);
                }
                _ => return Ok(steps),
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            match c {
                '\\' => {
                    self.at += 1;
                    name.extend(self.peek());
                }
                c if c.is_alphanumeric() || matches!(c, '_' | '-' | '/') => name.push(c),
                _ => break,
            }
            self.at += 1;
        }
        name
    }

    fn bracket(&mut self) -> Result<Step, String> {
        self.blanks();
        if self.take('*') {
            return self.end_bracket(Step::All);
        }
        if let Some(quote @ ('"' | '\'')) = self.peek() {
            self.at += 1;
            let name = self.quoted(quote)?;
            return self.end_bracket(Step::Field(name));
        }
        if self.take('?') {
            if !self.take('(') {
                return Err("a filter begins with ?(".into());
            }
            self.blanks();
            let path = self.path()?;
            self.blanks();
            let comparison = self.comparison();
            let rest = match comparison {
                None => None,
                Some(comparison) => {
                    self.blanks();
                    Some((comparison, self.operand()?))
                }
            };
            self.blanks();
            if !self.take(')') {
                return Err("unterminated filter".into());
            }
            return self.end_bracket(Step::Filter(path, rest));
        }
        let text: String = self.chars[self.at..].iter().take_while(|c| **c != ']').collect();
        self.at += text.chars().count();
        let number = |word: &str| {
            let word = word.trim();
            let parsed = if word.is_empty() { Ok(None) } else { word.parse().map(Some) };
            parsed.map_err(|_| format!("invalid array index {word}"))
        };
        let step = if text.contains(':') {
            let mut words = text.split(':');
            let (from, to) = (number(words.next().unwrap_or(""))?, number(words.next().unwrap_or(""))?);
            Step::Slice(from, to, number(words.next().unwrap_or(""))?.unwrap_or(1).max(1))
        } else {
            let indices: Result<Vec<_>, _> = text.split(',').map(number).collect();
            Step::Indices(indices?.into_iter().flatten().collect())
        };
        self.end_bracket(step)
    }

    fn end_bracket(&mut self, step: Step) -> Result<Step, String> {
        self.blanks();
        if self.take(']') { Ok(step) } else { Err("unterminated array".into()) }
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let table = [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::MoreOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::More),
        ];
        let rest = &self.chars[self.at..];
        let found = table.iter().find(|(text, _)| rest.starts_with(&text.chars().collect::<Vec<_>>()))?;
        self.at += found.0.len();
        Some(found.1)
    }

    fn operand(&mut self) -> Result<Operand, String> {
        match self.peek() {
            Some(quote @ ('"' | '\'')) => {
                self.at += 1;
                Ok(Operand::Value(self.quoted(quote)?.into()))
            }
            Some('@' | '$' | '.') => Ok(Operand::Path(self.path()?)),
            _ => {
                let text: String = self.chars[self.at..].iter().take_while(|c| !matches!(**c, ')' | ' ')).collect();
                self.at += text.chars().count();
                Ok(Operand::Value(serde_json::from_str(&text).unwrap_or(Value::String(text))))
            }
        }
    }
}

fn render(parts: &[Part], current: &Value, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path(steps) => {
                let found: Vec<String> = walk(steps, current).into_iter().map(shown).collect();
                out.push_str(&found.join(" "));
            }
            Part::Range(steps, inner) => {
                for item in walk(steps, current) {
                    // `range .items` and `range .items[*]` mean the same.
                    match item {
                        Value::Array(items) => items.iter().for_each(|item| render(inner, item, out)),
                        item => render(inner, item, out),
                    }
                }
            }
        }
    }
}

/// A value as templates print it: text as it is, everything else as JSON.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn walk<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        found = found.into_iter().flat_map(|value| one(step, value)).collect();
    }
    found
}

fn one<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let at = |index: i64| if index < 0 { index + items.len() as i64 } else { index };
    match step {
        Step::Field(name) => value.get(name.as_str()).into_iter().collect(),
        Step::Deep(name) => {
            let mut found = Vec::new();
            deep(name, value, &mut found);
            found
        }
        Step::All => match value {
            Value::Object(map) => map.values().collect(),
            _ => items.iter().collect(),
        },
        Step::Indices(indices) => {
            indices.iter().filter_map(|index| items.get(usize::try_from(at(*index)).ok()?)).collect()
        }
        Step::Slice(from, to, step) => {
            let bound = |index: i64| at(index).clamp(0, items.len() as i64) as usize;
            let (from, to) = (from.map_or(0, bound), to.map_or(items.len(), bound));
            items.get(from..to).unwrap_or_default().iter().step_by(*step as usize).collect()
        }
        Step::Filter(path, rest) => items.iter().filter(|item| passes(item, path, rest.as_ref())).collect(),
    }
}

fn deep<'a>(name: &str, value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(name));
            map.values().for_each(|value| deep(name, value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| deep(name, value, found)),
        _ => {}
    }
}

fn passes(item: &Value, path: &[Step], rest: Option<&(Comparison, Operand)>) -> bool {
    let left = walk(path, item);
    let Some((comparison, operand)) = rest else { return !left.is_empty() };
    let Some(left) = left.first() else { return false };
    let right = match operand {
        Operand::Value(value) => value,
        Operand::Path(path) => match walk(path, item).first() {
            Some(value) => *value,
            None => return false,
        },
    };
    let order = match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.partial_cmp(&right),
        _ => Some(shown(left).cmp(&shown(right))),
    };
    let Some(order) = order else { return false };
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::Unequal => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::More => order.is_gt(),
        Comparison::MoreOrEqual => order.is_ge(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_render_as_kubectls() {
        let list = json!({"items": [
            {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "web"}}, "n": 1,
             "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}},
            {"metadata": {"name": "b"}, "n": 5, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}]});
        let rows = [
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1:].metadata.name}", "b"),
            ("{.items[0,1].n}", "1 5"),
            ("{.items..name}", "a b"),
            ("{range .items[*]}{.metadata.name}{\"\\t\"}{.n}{\"\\n\"}{end}", "a\t1\nb\t5\n"),
            ("{.items[?(@.n>2)].metadata.name}", "b"),
            ("{.items[?(@.metadata.name==\"a\")].n}", "1"),
            ("{.items[*].status.conditions[?(@.type==\"Ready\")].status}", "True False"),
            ("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "web"),
            ("{.items[0].metadata.labels['app.kubernetes.io/name']}", "web"),
            ("{.items[0].metadata.nothing}", ""),
            ("name: {.items[1].metadata.name}!", "name: b!"),
            ("items[0].n", "1"),
            (".items[0].metadata.labels", "{\"app.kubernetes.io/name\":\"web\"}"),
        ];
        for (template, wanted) in rows {
            assert_eq!(JsonPath::parse(template).unwrap().render(&list), wanted, "{template}");
        }
    }

    #[test]
    fn broken_templates_say_what_is_wrong() {
        for (template, problem) in [
            ("{.a", "unclosed action"),
            ("{range .a}x", "unterminated range"),
            ("{end}", "nothing to end"),
            ("{.a[}", "invalid array index"),
            ("{.a[?(@.b}", "unterminated filter"),
            ("{\"x}", "unterminated quoted string"),
        ] {
            let error = JsonPath::parse(template).unwrap_err();
            assert!(error.contains(problem), "{template}: {error}");
        }
    }
}
