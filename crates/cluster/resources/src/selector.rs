//! Label and field selectors: parsing the query form, the object form, and matching.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::names;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

/// All requirements must hold; none means everything matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

impl LabelSelector {
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn matches<'a>(&self, labels: &impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(labels(&requirement.key)))
    }

    /// Judges an object by its `metadata.labels`.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.matches(&|key: &str| labels.get(key).and_then(Value::as_str))
    }

    /// Parses `a=b,c!=d,e in (f,g),!h,i`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { tokens: tokens(text), at: 0 };
        let mut requirements = Vec::new();
        if parser.peek().is_none() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(parser.requirement()?);
            match parser.next() {
                None => break,
                Some(Token::Comma) if parser.peek().is_some() => {}
                Some(Token::Comma) => return Err(SelectorError("found '', expected: identifier after ','".into())),
                Some(token) => return Err(SelectorError(format!("found '{token}', expected: ',' or 'end of string'"))),
            }
        }
        Ok(Self { requirements })
    }

    /// Reads a `LabelSelector` object (`matchLabels`, `matchExpressions`). An absent selector matches nothing, which
    /// the caller has to tell apart; an empty one matches everything.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let values = vec![value.as_str().unwrap_or_default().to_owned()];
            requirements.push(Requirement { key: key.clone(), operator: Operator::In, values });
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = expression["values"].as_array().into_iter().flatten();
            requirements.push(Requirement {
                key: expression["key"].as_str().unwrap_or_default().to_owned(),
                operator,
                values: values.filter_map(Value::as_str).map(str::to_owned).collect(),
            });
        }
        Ok(Self { requirements })
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|wanted| wanted == value);
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = self.values.first().and_then(|text| number(text));
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
            Operator::LessThan => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Equals,
    NotEquals,
    Greater,
    Less,
    Not,
    Comma,
    Open,
    Close,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Word(word) => word,
            Self::Equals => "=",
            Self::NotEquals => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::Not => "!",
            Self::Comma => ",",
            Self::Open => "(",
            Self::Close => ")",
        })
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (token, used) = match first {
            c if c.is_whitespace() => {
                rest = &rest[c.len_utf8()..];
                continue;
            }
            '=' if rest.starts_with("==") => (Token::Equals, 2),
            '=' => (Token::Equals, 1),
            '!' if rest.starts_with("!=") => (Token::NotEquals, 2),
            '!' => (Token::Not, 1),
            ',' => (Token::Comma, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '>' => (Token::Greater, 1),
            '<' => (Token::Less, 1),
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || "=!,()><".contains(c)).unwrap_or(rest.len());
                (Token::Word(rest[..end].to_owned()), end)
            }
        };
        out.push(token);
        rest = &rest[used..];
    }
    out
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let fail = |found: Option<Token>, expected: &str| {
            let found = found.map(|token| token.to_string()).unwrap_or_default();
            Err(SelectorError(format!("found '{found}', expected: {expected}")))
        };
        let absent = self.peek() == Some(&Token::Not);
        if absent {
            self.at += 1;
        }
        let key = match self.next() {
            Some(Token::Word(word)) => word,
            other => return fail(other, "identifier"),
        };
        if let Some(fault) = names::qualified_name(&key).first() {
            return Err(SelectorError(format!("key: Invalid value: {key:?}: {fault}")));
        }
        if absent {
            return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
        }
        let operator = match self.peek() {
            None | Some(Token::Comma) => {
                return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
            }
            Some(Token::Equals) => Operator::In,
            Some(Token::NotEquals) => Operator::NotIn,
            Some(Token::Greater) => Operator::GreaterThan,
            Some(Token::Less) => Operator::LessThan,
            Some(Token::Word(word)) if word == "in" || word == "notin" => {
                let operator = if word == "in" { Operator::In } else { Operator::NotIn };
                self.at += 1;
                let values = self.set()?;
                return checked(Requirement { key, operator, values });
            }
            other => return fail(other.cloned(), "in, notin, =, ==, !=, gt, lt"),
        };
        self.at += 1;
        let value = match self.peek() {
            Some(Token::Word(_)) => self.next().map(|token| token.to_string()).unwrap_or_default(),
            None | Some(Token::Comma) => String::new(),
            other => return fail(other.cloned(), "identifier"),
        };
        checked(Requirement { key, operator, values: vec![value] })
    }

    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        if self.next() != Some(Token::Open) {
            return Err(SelectorError("found '', expected: '('".into()));
        }
        let mut values = Vec::new();
        let mut word = String::new();
        loop {
            match self.next() {
                Some(Token::Word(next)) if word.is_empty() => word = next,
                Some(Token::Comma) => values.push(std::mem::take(&mut word)),
                Some(Token::Close) => {
                    values.push(word);
                    return Ok(values);
                }
                other => {
                    let found = other.map(|token| token.to_string()).unwrap_or_default();
                    return Err(SelectorError(format!("found '{found}', expected: ',', ')' or identifier")));
                }
            }
        }
    }
}

fn checked(requirement: Requirement) -> Result<Requirement, SelectorError> {
    for value in &requirement.values {
        if let Some(fault) = names::label_value(value).first() {
            return Err(SelectorError(format!("values[0][{}]: Invalid value: {value:?}: {fault}", requirement.key)));
        }
    }
    if matches!(requirement.operator, Operator::GreaterThan | Operator::LessThan)
        && requirement.values.first().is_none_or(|value| value.parse::<i64>().is_err())
    {
        return Err(SelectorError("for 'Gt', 'Lt' operators, the value must be an integer".into()));
    }
    Ok(requirement)
}

/// `field=value` and `field!=value`, joined by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    pub negated: bool,
}

impl FieldSelector {
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for term in split_escaped(text) {
            if term.is_empty() {
                continue;
            }
            let parts = term.split_once("!=").map(|(field, value)| (field, value, true)).or_else(|| {
                let (field, value) = term.split_once('=')?;
                Some((field, value.strip_prefix('=').unwrap_or(value), false))
            });
            let Some((field, value, negated)) = parts else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            terms.push(FieldTerm { field: field.trim().to_owned(), value: unescape(value), negated });
        }
        Ok(Self { terms })
    }

    /// `field` answers a field's text, empty when missing.
    pub fn matches(&self, field: impl Fn(&str) -> String) -> bool {
        self.terms.iter().all(|term| (field(&term.field) == term.value) != term.negated)
    }

    /// The value that `field` must have, if the selector fixes it.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.field == field && !term.negated).map(|term| term.value.as_str())
    }
}

fn split_escaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        match c {
            ',' if !escaped => parts.push(String::new()),
            _ => parts.last_mut().expect("never empty").push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

/// Labels that an equality-only selector map (`spec.selector` of a service) asks for.
pub fn matches_map(selector: &BTreeMap<String, String>, labels: &Value) -> bool {
    selector.iter().all(|(key, value)| labels.get(key).and_then(Value::as_str) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_match_as_upstream() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "x", "example.com/c": ""}}});
        let rows = [
            ("", true),
            ("a=1", true),
            ("a==1,b!=y", true),
            ("a in (0,1)", true),
            ("a in (0)", false),
            ("a notin (1)", false),
            ("z notin (1)", true),
            ("z!=1", true),
            ("a", true),
            ("!a", false),
            ("!z", true),
            ("example.com/c=", true),
            ("a>0", true),
            ("a<1", false),
            (" a = 1 , b = x ", true),
            ("a in (,1)", true),
        ];
        for (text, expected) in rows {
            assert_eq!(LabelSelector::parse(text).unwrap().matches_object(&object), expected, "{text}");
        }
        for bad in ["a=1,", "=", "a in 1", "a in (1", "a b", "a=b c", "a=!", "/=1", "a>x", ",", "a=1 b=2"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors_match() {
        let selector = FieldSelector::parse(r"metadata.name=a,status.phase!=Running,x=1\,2").unwrap();
        let value = |field: &str| match field {
            "metadata.name" => "a".into(),
            "x" => "1,2".into(),
            _ => String::new(),
        };
        assert!(selector.matches(value));
        assert_eq!(selector.exact("metadata.name"), Some("a"));
        assert!(FieldSelector::parse("nonsense").is_err());
    }
}
