//! Judging a custom resource by its schema. What did not change since the last write is not judged again, so that a rule
//! that came later does not keep old objects from being written.

use serde_json::{Map, Value};

use super::{expressions, to_node};
use crate::decode::fits;
use crate::errors::{FaultKind, FieldError};
use crate::kinds::Faults;
use crate::meta;
use crate::schema::{ListType, Node, Rules, Shape};

/// Checks a custom resource against its schema, and with `old` as a change of it. Metadata is not looked at.
pub fn validate(object: &Value, old: Option<&Value>, node: &Node, faults: &mut Faults) {
    let Some(def) = node.struct_def() else { return };
    let before = faults.0.len();
    for field in def.fields.iter().filter(|field| !matches!(field.name.as_str(), "apiVersion" | "kind" | "metadata")) {
        match object.get(&field.name) {
            Some(value) => check(value, old.and_then(|old| old.get(&field.name)), &field.node, &field.name, faults),
            None if field.required => faults.required(&field.name, ""),
            None => {}
        }
    }
    // Rules expect objects of the right shape.
    let misshapen = |fault: &FieldError| {
        matches!(
            fault.kind,
            FaultKind::Required(_) | FaultKind::TypeInvalid(..) | FaultKind::TooLong(_) | FaultKind::TooMany(..)
        )
    };
    if !faults.0[before..].iter().any(misshapen) {
        expressions::check(object, old, node, faults);
    }
}

fn check(value: &Value, old: Option<&Value>, node: &Node, path: &str, faults: &mut Faults) {
    let Some(rules) = &node.rules else { return };
    if old == Some(value) {
        return;
    }
    if value.is_null() && node.nullable {
        return;
    }
    if !fits(value, &node.shape) {
        let wanted = if matches!(node.shape, Shape::IntOrString) { "integer,string" } else { &rules.type_name };
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let detail = format!("{path} in body must be of type {wanted}: \"{found}\"");
        faults.push(FieldError::new(path, FaultKind::TypeInvalid(found.into(), detail)));
        return;
    }
    check_rules(value, rules, path, faults);
    match (&node.shape, value) {
        (Shape::Struct(reference), Value::Object(map)) => {
            let def = reference.def();
            for field in &def.fields {
                let here = format!("{path}.{}", field.name);
                match map.get(&field.name) {
                    Some(child) => check(child, old.and_then(|old| old.get(&field.name)), &field.node, &here, faults),
                    None if field.required => faults.required(&here, ""),
                    None => {}
                }
            }
            if let Some(additional) = &def.additional {
                for (key, child) in map.iter().filter(|(key, _)| def.field(key).is_none()) {
                    check(child, old.and_then(|old| old.get(key)), additional, &format!("{path}.{key}"), faults);
                }
            }
        }
        (Shape::Map(item), Value::Object(map)) => {
            for (key, child) in map {
                check(child, old.and_then(|old| old.get(key)), item, &format!("{path}.{key}"), faults);
            }
        }
        (Shape::List(item), Value::Array(items)) => {
            for (at, child) in items.iter().enumerate() {
                let before = expressions::correlated(child, old, &node.list);
                check(child, before, item, &format!("{path}[{at}]"), faults);
            }
            unique(items, &node.list, path, faults);
        }
        _ => {}
    }
}

fn unique(items: &[Value], list: &ListType, path: &str, faults: &mut Faults) {
    let mut seen: Vec<Value> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let identity = match list {
            ListType::Atomic => return,
            ListType::Set => item.clone(),
            ListType::Map(keys) => {
                keys.iter().map(|key| (key.clone(), item[key].clone())).collect::<Map<_, _>>().into()
            }
        };
        if seen.contains(&identity) {
            faults.push(FieldError::duplicate(format!("{path}[{at}]"), identity.clone()));
        }
        seen.push(identity);
    }
}

fn check_rules(value: &Value, rules: &Rules, path: &str, faults: &mut Faults) {
    let mut bad = |shown: Value, detail: String| faults.invalid(path, shown, format!("{path} in body {detail}"));
    if let Some(number) = value.as_f64() {
        if let Some(least) = rules.minimum {
            let low = if rules.exclusive_minimum { number <= least } else { number < least };
            if low {
                let word = if rules.exclusive_minimum { "greater than" } else { "greater than or equal to" };
                bad(value.clone(), format!("should be {word} {least}"));
            }
        }
        if let Some(most) = rules.maximum {
            let high = if rules.exclusive_maximum { number >= most } else { number > most };
            if high {
                let word = if rules.exclusive_maximum { "less than" } else { "less than or equal to" };
                bad(value.clone(), format!("should be {word} {most}"));
            }
        }
        if let Some(step) = rules.multiple_of
            && (number / step).fract().abs() > f64::EPSILON
        {
            bad(value.clone(), format!("should be a multiple of {step}"));
        }
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        if rules.length_min.is_some_and(|least| length < least) {
            bad(text.into(), format!("should be at least {} chars long", rules.length_min.unwrap_or(0)));
        }
        if let Some(pattern) = &rules.pattern {
            let matched = regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
            if !matched {
                bad(text.into(), format!("should match '{pattern}'"));
            }
        }
        if rules.format == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
            bad(text.into(), format!("must be of type date-time: {text:?}"));
        }
        if rules.length_max.is_some_and(|most| length > most) {
            faults.push(FieldError::too_long(path, rules.length_max.unwrap_or(0)));
        }
    }
    if let Some(items) = value.as_array() {
        if let Some(least) = rules.items_min
            && (items.len() as u64) < least
        {
            faults.invalid(path, items.len(), format!("{path} in body should have at least {least} items"));
        }
        if let Some(most) = rules.items_max
            && items.len() as u64 > most
        {
            faults.push(FieldError::new(path, FaultKind::TooMany(items.len(), most)));
        }
        if rules.unique_items && items.iter().enumerate().any(|(at, item)| items[..at].contains(item)) {
            faults.invalid(path, value.clone(), format!("{path} in body shouldn't contain duplicates"));
        }
    }
    if let Some(map) = value.as_object() {
        let count = map.len() as u64;
        if rules.properties_min.is_some_and(|least| count < least) {
            let detail =
                format!("{path} in body should have at least {} properties", rules.properties_min.unwrap_or(0));
            faults.invalid(path, count, detail);
        }
        if let Some(most) = rules.properties_max
            && count > most
        {
            faults.push(FieldError::new(path, FaultKind::TooMany(map.len(), most)));
        }
    }
    if !rules.enumeration.is_empty() && !rules.enumeration.contains(value) {
        let supported = rules.enumeration.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned));
        faults.push(FieldError::new(path, FaultKind::Unsupported(value.clone(), supported.collect())));
    }
    let holds = |schema: &Value| {
        let mut inner = Faults::default();
        junctor(value, schema, path, &mut inner);
        inner.0.is_empty()
    };
    for schema in &rules.all_of {
        junctor(value, schema, path, faults);
    }
    if !rules.any_of.is_empty() && !rules.any_of.iter().any(holds) {
        faults.invalid(path, "", format!("{path:?} must validate at least one schema (anyOf)"));
    }
    if !rules.one_of.is_empty() && rules.one_of.iter().filter(|schema| holds(schema)).count() != 1 {
        faults.invalid(path, "", format!("{path:?} must validate one and only one schema (oneOf)"));
    }
    if rules.not.as_ref().is_some_and(holds) {
        faults.invalid(path, "", format!("{path:?} must not validate the schema (not)"));
    }
}

/// A schema inside `allOf` and the like: value rules and required fields, types only where it names them.
fn junctor(value: &Value, schema: &Value, path: &str, faults: &mut Faults) {
    check(value, None, &to_node(schema), path, faults);
    if let (Value::Object(map), None) = (value, schema.get("properties")) {
        for name in meta::list_at(schema, &["required"]).iter().filter_map(Value::as_str) {
            if !map.contains_key(name) {
                faults.required(&format!("{path}.{name}"), "");
            }
        }
    }
}
