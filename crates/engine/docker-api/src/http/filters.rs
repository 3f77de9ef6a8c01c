//! The `filters` parameter: `{"status":{"running":true}}`, or the older `{"status":["running"]}`.

use engine::Filters;
use serde_json::Value;

use super::error::{ApiError, ApiResult};
use super::query::Query;

/// Reads `filters`, refusing names that the route does not know with Docker's text.
pub(crate) fn parse(query: &Query, known: &[&str]) -> ApiResult<Filters> {
    let Some(text) = query.text("filters") else { return Ok(Filters::default()) };
    let filters = parse_json(text)?;
    match filters.unknown_key(known) {
        Some(name) => Err(ApiError::invalid(format!("invalid filter '{name}'"))),
        None => Ok(filters),
    }
}

fn parse_json(text: &str) -> ApiResult<Filters> {
    let invalid = || ApiError::invalid("invalid filters: expected a JSON object of names to values");
    let Value::Object(names) = serde_json::from_str(text).map_err(|_| invalid())? else { return Err(invalid()) };
    let mut filters = Filters::default();
    for (name, values) in names {
        match values {
            // The flag beside a value is always true in practice; a false one means the value was taken back.
            Value::Object(set) => {
                for (value, on) in set {
                    if on != Value::Bool(false) {
                        filters.insert(&name, value);
                    }
                }
            }
            Value::Array(list) => {
                for value in list {
                    filters.insert(&name, value.as_str().ok_or_else(invalid)?);
                }
            }
            _ => return Err(invalid()),
        }
    }
    Ok(filters)
}

/// A filter that takes one boolean: `None` when absent, an error when it is neither or both.
pub(crate) fn boolean(filters: &Filters, name: &str) -> ApiResult<Option<bool>> {
    let values: Vec<_> = filters.values(name).collect();
    match values[..] {
        [] => Ok(None),
        ["1" | "true" | "True" | "TRUE"] => Ok(Some(true)),
        ["0" | "false" | "False" | "FALSE"] => Ok(Some(false)),
        _ => Err(ApiError::invalid(format!("invalid filter '{name}={}'", values.join(",")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read_alike() {
        let new = parse_json(r#"{"status":{"running":true,"paused":true},"label":{"a=b":true}}"#).unwrap();
        let old = parse_json(r#"{"status":["paused","running"],"label":["a=b"]}"#).unwrap();
        assert_eq!(new, old);
        assert_eq!(new.values("label").collect::<Vec<_>>(), ["a=b"]);
        assert!(!new.has("none"));
    }

    #[test]
    fn malformed_filters_are_refused() {
        for bad in ["", "x", "[]", "1", r#"{"a":1}"#, r#"{"a":[1]}"#, r#"{"a":"b"}"#] {
            assert!(parse_json(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_names_are_refused_with_dockers_text() {
        let query = Query::parse("filters=%7B%22nope%22%3A%7B%22x%22%3Atrue%7D%7D").unwrap();
        assert_eq!(parse(&query, &["id"]).unwrap_err().message, "invalid filter 'nope'");
    }

    #[test]
    fn a_boolean_filter_takes_one_boolean() {
        let read = |text| boolean(&parse_json(text).unwrap(), "dangling");
        assert_eq!(read(r#"{"dangling":["true"]}"#), Ok(Some(true)));
        assert_eq!(read(r#"{"dangling":["0"]}"#), Ok(Some(false)));
        assert_eq!(read("{}"), Ok(None));
        assert!(read(r#"{"dangling":["maybe"]}"#).is_err());
        assert!(read(r#"{"dangling":["1","0"]}"#).is_err());
    }
}
