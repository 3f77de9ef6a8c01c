//! Rules of a schema, `x-kubernetes-validations`: compiled with the schema, run over an object and its change.

use std::collections::BTreeMap;

use cel::{Expr, Key, Kind, Program, Val};
use serde_json::Value;

use crate::errors::{FaultKind, FieldError};
use crate::kinds::Faults;
use crate::meta;
use crate::schema::{ListType, Node, Shape};

/// What all rules of one object may cost together.
const OBJECT_COST_MAX: u64 = 10_000_000;

#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    pub rule: String,
    program: Program,
    message: String,
    message_program: Option<Program>,
    reason: String,
    field_path: String,
    /// The rule compares with what was there before.
    transition: bool,
    optional_old: bool,
}

const VARIABLES: [&str; 2] = ["self", "oldSelf"];

/// The rules of a schema that compile; those of a stored definition all do.
pub(super) fn of(schema: &Value) -> Vec<Expression> {
    let compiled = |rule: &Value| {
        let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        let program = Program::compile(&text("rule"), &VARIABLES).ok()?;
        let optional_old = rule["optionalOldSelf"] == true;
        Some(Expression {
            rule: text("rule"),
            transition: program.reads("oldSelf"),
            program,
            message: text("message"),
            message_program: Program::compile(&text("messageExpression"), &VARIABLES).ok(),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old,
        })
    };
    meta::list_at(schema, &["x-kubernetes-validations"]).iter().filter_map(compiled).collect()
}

/// Judges one rule of a definition.
pub(super) fn validate(rule: &Value, node: &Node, correlated: bool, path: &str, faults: &mut Faults) {
    for field in ["rule", "messageExpression"] {
        let text = rule[field].as_str().unwrap_or_default();
        let path = format!("{path}.{field}");
        if text.trim().is_empty() {
            if field == "rule" {
                faults.required(&path, "rule is not specified");
            }
            continue;
        }
        match Program::compile(text, &VARIABLES) {
            Err(error) => faults.invalid(&path, text, format!("compilation failed: {error}")),
            Ok(program) => {
                if let Some(name) = unknown_field(program.expr(), node) {
                    faults.invalid(&path, text, format!("compilation failed: undefined field '{name}'"));
                }
                if field == "rule" && program.reads("oldSelf") && !correlated {
                    let detail = "oldSelf cannot be used on the uncorrelatable portion of the schema";
                    faults.invalid(&path, text, detail);
                }
            }
        }
    }
    let reason = rule["reason"].as_str().unwrap_or("FieldValueInvalid");
    let known = ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];
    if !known.contains(&reason) {
        faults.push(FieldError::unsupported(format!("{path}.reason"), reason, &known));
    }
    if rule["message"].as_str().is_some_and(|text| text.contains('\n')) {
        faults.invalid(&format!("{path}.message"), rule["message"].clone(), "message must not contain line breaks");
    }
}

/// A field that a rule reads and the schema does not have.
fn unknown_field(expr: &Expr, node: &Node) -> Option<String> {
    if let Kind::Select { target, field, .. } | Kind::Has { target, field } = &expr.kind
        && let Some(Some(above)) = place(target, node)
        && child(above, field) == Child::Unknown
    {
        return Some(field.clone());
    }
    expr.children().into_iter().find_map(|child| unknown_field(child, node))
}

/// The schema of what an expression stands for: `None` if it is no path from `self`, `Some(None)` if anything may be there.
fn place<'a>(expr: &Expr, node: &'a Node) -> Option<Option<&'a Node>> {
    match &expr.kind {
        Kind::Ident(name) if name == "self" => Some(Some(node)),
        Kind::Select { target, field, .. } => {
            let above = place(target, node)?;
            Some(above.and_then(|above| match child(above, field) {
                Child::Known(node) => Some(node),
                _ => None,
            }))
        }
        _ => None,
    }
}

#[derive(PartialEq)]
enum Child<'a> {
    Known(&'a Node),
    Anything,
    Unknown,
}

fn child<'a>(node: &'a Node, field: &str) -> Child<'a> {
    match &node.shape {
        Shape::Struct(reference) => {
            let def = reference.def();
            match def.fields.iter().find(|own| escaped(&own.name) == field) {
                Some(own) if own.name == "metadata" && node.rules.is_none() => Child::Anything,
                Some(own) => Child::Known(&own.node),
                None if def.open || def.additional.is_some() => Child::Anything,
                None => Child::Unknown,
            }
        }
        _ => Child::Anything,
    }
}

/// Runs the rules of a schema over an object, and those about changes over it and what was there before.
pub(super) fn check(object: &Value, old: Option<&Value>, node: &Node, faults: &mut Faults) {
    let mut walk =
        Walk { budget: if vocab::weak::without("budget") { u64::MAX } else { OBJECT_COST_MAX }, faults, ended: false };
    // Rules at the root see no metadata but the names.
    let trimmed = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|key, _| matches!(key.as_str(), "name" | "generateName"));
        }
        object
    };
    if has_rules(node, 0) {
        let old = old.map(trimmed);
        walk.node(&trimmed(object), old.as_ref(), node, "");
    }
}

fn has_rules(node: &Node, depth: usize) -> bool {
    if depth > 64 || node.rules.as_ref().is_some_and(|rules| !rules.expressions.is_empty()) {
        return depth <= 64;
    }
    match &node.shape {
        Shape::List(item) | Shape::Map(item) => has_rules(item, depth + 1),
        Shape::Struct(crate::schema::StructRef::Inline(def)) => {
            let additional = def.additional.as_deref();
            def.fields.iter().map(|field| &field.node).chain(additional).any(|node| has_rules(node, depth + 1))
        }
        _ => false,
    }
}

struct Walk<'a> {
    budget: u64,
    faults: &'a mut Faults,
    ended: bool,
}

impl Walk<'_> {
    fn node(&mut self, value: &Value, old: Option<&Value>, node: &Node, path: &str) {
        if self.ended || value.is_null() {
            return;
        }
        if let Some(rules) = node.rules.as_ref().filter(|rules| !rules.expressions.is_empty()) {
            self.rules(&rules.expressions, value, old, node, path);
        }
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match (&node.shape, value) {
            (Shape::Struct(reference), Value::Object(map)) => {
                let def = reference.def();
                for (key, child) in map {
                    let known = def.field(key).map(|field| &field.node).or(def.additional.as_deref());
                    if let Some(node) = known {
                        self.node(child, old.and_then(|old| old.get(key)), node, &below(key));
                    }
                }
            }
            (Shape::Map(item), Value::Object(map)) => {
                for (key, child) in map {
                    self.node(child, old.and_then(|old| old.get(key)), item, &format!("{path}[{key}]"));
                }
            }
            (Shape::List(item), Value::Array(items)) => {
                for (at, child) in items.iter().enumerate() {
                    self.node(child, correlated(child, old, &node.list), item, &format!("{path}[{at}]"));
                }
            }
            _ => {}
        }
    }

    fn rules(&mut self, rules: &[Expression], value: &Value, old: Option<&Value>, node: &Node, path: &str) {
        let mine = to_val(value, node);
        let before = old.filter(|old| !old.is_null());
        for rule in rules {
            let old_self = match (rule.optional_old, before) {
                (true, before) => Val::Optional(before.map(|old| to_val(old, node).into())),
                (false, Some(old)) => to_val(old, node),
                (false, None) if rule.transition => continue,
                (false, None) => Val::Null,
            };
            // What did not change is not judged again.
            if !rule.transition && before == Some(value) {
                continue;
            }
            let variables = [("self", mine.clone()), ("oldSelf", old_self)];
            let type_name = node.rules.as_ref().map_or("", |rules| rules.type_name.as_str());
            let text = match rule.program.eval(&variables, &mut self.budget) {
                Ok(Val::Bool(true)) => continue,
                Ok(Val::Bool(false)) => self.message(rule, &variables),
                Ok(other) => format!("the rule's value is no bool but {}: {}", other.type_name(), rule.rule),
                Err(cel::EvalError::Cost) => {
                    self.ended = true;
                    format!(
                        "{:?}: no further validation rules will be run due to call cost exceeds limit for rule: {}",
                        cel::EvalError::Cost.to_string(),
                        rule.rule
                    )
                }
                Err(error @ cel::EvalError::NoOverload(_)) => format!(
                    "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                    rule.rule
                ),
                Err(error) => format!("{error} evaluating rule: {}", rule.rule),
            };
            let path = format!("{path}{}", rule.field_path);
            let path = path.trim_start_matches('.');
            self.faults.push(match rule.reason.as_str() {
                "FieldValueForbidden" => FieldError::forbidden(path, text),
                "FieldValueRequired" => FieldError::required(path, text),
                "FieldValueDuplicate" => FieldError::duplicate(path, type_name),
                _ => FieldError::new(
                    if path.is_empty() { "<nil>" } else { path },
                    FaultKind::Invalid(type_name.into(), text),
                ),
            });
            if self.ended {
                return;
            }
        }
    }

    fn message(&mut self, rule: &Expression, variables: &[(&str, Val)]) -> String {
        if let Some(program) = &rule.message_program
            && let Ok(Val::Text(text)) = program.eval(variables, &mut self.budget)
            && !text.trim().is_empty()
            && !text.contains('\n')
        {
            return text.trim().to_owned();
        }
        match rule.message.is_empty() {
            true => format!("failed rule: {}", rule.rule.trim()),
            false => rule.message.clone(),
        }
    }
}

/// The item of the old list that is the same item as this one, where lists have items that are known by keys.
pub(super) fn correlated<'a>(item: &Value, old: Option<&'a Value>, list: &ListType) -> Option<&'a Value> {
    let ListType::Map(keys) = list else { return None };
    old?.as_array()?.iter().find(|other| keys.iter().all(|key| other[key] == item[key]))
}

/// A field's name as expressions write it.
fn escaped(name: &str) -> String {
    const RESERVED: [&str; 17] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
    ];
    if RESERVED.contains(&name) || matches!(name, "return" | "var" | "void" | "while") {
        return format!("__{name}__");
    }
    if !name.contains(['-', '.', '/']) && !name.contains("__") {
        return name.to_owned();
    }
    let name = name.replace("__", "__underscores__");
    name.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}

/// A value as its schema means it.
fn to_val(value: &Value, node: &Node) -> Val {
    let format = node.rules.as_ref().map_or("", |rules| rules.format.as_str());
    match (&node.shape, value) {
        (Shape::Struct(reference), Value::Object(map)) => {
            let def = reference.def();
            let entries = map.iter().map(|(key, value)| {
                let shown = match def.field(key).map(|field| &field.node).or(def.additional.as_deref()) {
                    Some(node) => to_val(value, node),
                    None => Val::from_json(value),
                };
                (Key::Text(escaped(key).into()), shown)
            });
            entries.collect::<BTreeMap<_, _>>().into()
        }
        (Shape::Map(item), Value::Object(map)) => {
            let entries = map.iter().map(|(key, value)| (Key::Text(key.as_str().into()), to_val(value, item)));
            entries.collect::<BTreeMap<_, _>>().into()
        }
        (Shape::List(item), Value::Array(items)) => {
            items.iter().map(|value| to_val(value, item)).collect::<Vec<_>>().into()
        }
        (Shape::Double, Value::Number(number)) => Val::Double(number.as_f64().unwrap_or(f64::NAN)),
        (Shape::String, Value::String(text)) => match format {
            "date-time" => text.parse().map_or_else(|_| text.as_str().into(), Val::Timestamp),
            "date" => format!("{text}T00:00:00Z").parse().map_or_else(|_| text.as_str().into(), Val::Timestamp),
            "duration" => cel::duration(text).map_or_else(|| text.as_str().into(), Val::Duration),
            "byte" => {
                crate::kinds::from_base64(text).map_or_else(|| text.as_str().into(), |raw| Val::Bytes(raw.into()))
            }
            _ => text.as_str().into(),
        },
        _ => Val::from_json(value),
    }
}
