//! Filters as containerd's clients write them: `type==regular,inuse`; all conditions of one hold together, several filters
//! are alternatives. Pure.

use crate::wire::control::{HistoryRecord, UsageRecord};

#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<Vec<Condition>>);

#[derive(Debug)]
struct Condition {
    field: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    /// Has a value, and it is not false.
    Present,
    Is(String),
    IsNot(String),
    Matches(regex::Regex),
}

/// What can be filtered: its fields as text; `None`: it has no such field.
pub(crate) trait Fields {
    fn field(&self, name: &str) -> Option<String>;
}

impl Filters {
    pub(crate) fn parse(filters: &[String]) -> Result<Self, String> {
        let parsed = filters
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| text.split(',').map(|condition| condition_of(condition.trim())).collect::<Result<Vec<_>, _>>());
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn matches(&self, what: &impl Fields) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|condition| condition.holds(what)))
    }
}

fn condition_of(text: &str) -> Result<Condition, String> {
    let bad = || format!("failed to parse filter {text:?}");
    let (field, test) = if let Some((field, value)) = text.split_once("==") {
        (field, Test::Is(unquote(value)))
    } else if let Some((field, value)) = text.split_once("!=") {
        (field, Test::IsNot(unquote(value)))
    } else if let Some((field, value)) = text.split_once("~=") {
        (field, Test::Matches(regex::Regex::new(&unquote(value)).map_err(|_| bad())?))
    } else {
        (text, Test::Present)
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if field.is_empty() || !field.chars().all(plain) {
        return Err(bad());
    }
    Ok(Condition { field: field.to_ascii_lowercase(), test })
}

fn unquote(value: &str) -> String {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value).to_owned()
}

impl Condition {
    fn holds(&self, what: &impl Fields) -> bool {
        let value = what.field(&self.field);
        match &self.test {
            Test::Present => value.is_some_and(|v| !v.is_empty() && v != "false"),
            Test::Is(wanted) => value.as_ref() == Some(wanted),
            Test::IsNot(unwanted) => value.as_ref() != Some(unwanted),
            Test::Matches(regex) => value.is_some_and(|v| regex.is_match(&v)),
        }
    }
}

impl Fields for UsageRecord {
    fn field(&self, name: &str) -> Option<String> {
        Some(match name {
            "id" => self.id.clone(),
            "parents" => self.parents.join(";"),
            "description" => self.description.clone(),
            "inuse" => self.in_use.to_string(),
            "mutable" => self.mutable.to_string(),
            "immutable" => (!self.mutable).to_string(),
            "type" => self.record_type.clone(),
            "shared" => self.shared.to_string(),
            "private" => (!self.shared).to_string(),
            _ => return None,
        })
    }
}

impl Fields for HistoryRecord {
    fn field(&self, name: &str) -> Option<String> {
        Some(match name {
            "ref" => self.reference.clone(),
            "status" => {
                let status = match (&self.completed_at, &self.error) {
                    (None, _) => "running",
                    (Some(_), None) => "completed",
                    // gRPC's code of what was cancelled.
                    (Some(_), Some(error)) if error.code == 1 => "canceled",
                    (Some(_), Some(_)) => "error",
                };
                status.to_owned()
            }
            "repository" => self.frontend_attrs.get("vcs:source").cloned()?,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filters: &[&str], matches: bool) {
        let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
        let record =
            UsageRecord { id: "abc".into(), record_type: "regular".into(), shared: true, ..Default::default() };
        assert_eq!(Filters::parse(&filters).expect("a filter").matches(&record), matches, "{filters:?}");
    }

    #[test]
    fn conditions_hold_together_and_filters_are_alternatives() {
        check(&[], true);
        check(&["type==regular"], true);
        check(&["type==regular,inuse"], false);
        check(&["inuse", "shared"], true);
        check(&["id~=^a.c$"], true);
        check(&["id!=abc"], false);
        check(&["type==\"regular\",private"], false);
        assert!(Filters::parse(&["a b".into()]).is_err() && Filters::parse(&["id~=(".into()]).is_err());
    }
}
