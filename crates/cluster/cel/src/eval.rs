//! Evaluation: a walk over the tree that counts its steps.

use std::collections::BTreeMap;

use crate::parse::{Comprehension, Expr, Kind, Macro};
use crate::value::{Key, Val};
use crate::{EvalError, library};

pub struct Run<'a> {
    variables: Vec<(&'a str, Val)>,
    left: u64,
}

/// Names that are types where no variable has them.
pub fn is_type_name(name: &str) -> bool {
    matches!(name, "bool" | "int" | "uint" | "double" | "string" | "bytes" | "list" | "map" | "null_type" | "type")
}

/// A target that is no value but the first part of a function's name: `sets.contains(...)`.
pub fn namespace(target: &Expr) -> Option<&str> {
    match &target.kind {
        Kind::Ident(name) if matches!(name.as_str(), "sets" | "optional" | "format" | "ip" | "math") => Some(name),
        _ => None,
    }
}

impl<'a> Run<'a> {
    pub fn new(variables: &[(&'a str, Val)], budget: u64) -> Self {
        Self { variables: variables.to_vec(), left: budget }
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    fn pay(&mut self, cost: u64) -> Result<(), EvalError> {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(EvalError::Cost)
            }
        }
    }

    fn flag(&mut self, expr: &'a Expr) -> Result<bool, EvalError> {
        match self.eval(expr)? {
            Val::Bool(value) => Ok(value),
            other => Err(EvalError::NoOverload(format!("a condition of type {}", other.type_name()))),
        }
    }

    pub fn eval(&mut self, expr: &'a Expr) -> Result<Val, EvalError> {
        self.pay(1)?;
        Ok(match &expr.kind {
            Kind::Null => Val::Null,
            Kind::Bool(value) => Val::Bool(*value),
            Kind::Int(value) => Val::Int(*value),
            Kind::Uint(value) => Val::Uint(*value),
            Kind::Double(value) => Val::Double(*value),
            Kind::Text(text) => text.as_str().into(),
            Kind::Bytes(bytes) => Val::Bytes(bytes.as_slice().into()),
            Kind::Ident(name) => match self.variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => value.clone(),
                None if is_type_name(name) => Val::Type(name.as_str().into()),
                None => return Err(EvalError::Failed(format!("no such attribute: {name}"))),
            },
            Kind::Select { target, field, optional } => {
                let target = self.eval(target)?;
                let found = select(&target, field);
                match (target, optional) {
                    // A step further along an optional chain stays optional.
                    (Val::Optional(_), _) | (_, true) => Val::Optional(found.map(Box::new)),
                    (Val::Map(_), false) => found.ok_or_else(|| EvalError::NoSuchKey(field.clone()))?,
                    (other, false) => {
                        return Err(EvalError::NoOverload(format!("field {field:?} of {}", other.type_name())));
                    }
                }
            }
            Kind::Has { target, field } => {
                let target = self.eval(target)?;
                match target {
                    Val::Map(_) | Val::Optional(_) => select(&target, field).is_some().into(),
                    other => return Err(EvalError::NoOverload(format!("has() of {}", other.type_name()))),
                }
            }
            Kind::Index { target, index, optional } => {
                let (target, index) = (self.eval(target)?, self.eval(index)?);
                self.index(target, &index, *optional)?
            }
            Kind::Not(one) => (!self.flag(one)?).into(),
            Kind::Negate(one) => match self.eval(one)? {
                Val::Int(value) => Val::Int(value.checked_neg().ok_or_else(overflow)?),
                Val::Double(value) => Val::Double(-value),
                Val::Duration(value) => Val::Duration(-value),
                other => return Err(EvalError::NoOverload(format!("-{}", other.type_name()))),
            },
            Kind::Binary("&&", a, b) => self.both(a, b, false)?,
            Kind::Binary("||", a, b) => self.both(a, b, true)?,
            Kind::Binary(sign, a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.pay(a.size().min(b.size()))?;
                let made = library::binary(sign, &a, &b)?;
                if *sign == "+" {
                    self.pay(made.size())?;
                }
                made
            }
            Kind::Conditional(condition, yes, no) => match self.flag(condition)? {
                true => self.eval(yes)?,
                false => self.eval(no)?,
            },
            Kind::List(items) => {
                let mut out = Vec::with_capacity(items.len());
                for (optional, item) in items {
                    match (self.eval(item)?, optional) {
                        (Val::Optional(value), true) => out.extend(value.map(|value| *value)),
                        (value, _) => out.push(value),
                    }
                }
                out.into()
            }
            Kind::Map(entries) => {
                let mut out = BTreeMap::new();
                for (optional, key, value) in entries {
                    let key = self.eval(key)?;
                    let key = key
                        .key()
                        .ok_or_else(|| EvalError::Failed(format!("unsupported key type: {}", key.type_name())))?;
                    match (self.eval(value)?, optional) {
                        (Val::Optional(None), true) => {}
                        (Val::Optional(Some(value)), true) => drop(out.insert(key, *value)),
                        (value, _) => drop(out.insert(key, value)),
                    }
                }
                out.into()
            }
            Kind::Comprehension(made) => self.comprehension(made)?,
            Kind::OptMap { target, name, body, flat } => match self.eval(target)? {
                Val::Optional(None) => Val::Optional(None),
                Val::Optional(Some(value)) => {
                    self.variables.push((name, *value));
                    let out = self.eval(body);
                    self.variables.pop();
                    match (out?, flat) {
                        (out @ Val::Optional(_), true) => out,
                        (out, false) => Val::Optional(Some(out.into())),
                        (out, true) => return Err(EvalError::NoOverload(format!("optFlatMap to {}", out.type_name()))),
                    }
                }
                other => return Err(EvalError::NoOverload(format!("optMap of {}", other.type_name()))),
            },
            Kind::Call { target, name, args } => {
                let space = target.as_deref().and_then(namespace);
                let mut values = Vec::with_capacity(args.len() + 1);
                if let (Some(target), None) = (target, space) {
                    values.push(self.eval(target)?);
                }
                for arg in args {
                    values.push(self.eval(arg)?);
                }
                // A regular expression is compiled at each call.
                let pattern = matches!(name.as_str(), "matches" | "find" | "findAll" | "validate");
                self.pay(values.iter().map(Val::size).sum::<u64>() + if pattern { 200 } else { 0 })?;
                let out = match space {
                    Some(space) => library::call(&format!("{space}.{name}"), &values),
                    None => library::call(name, &values),
                }?;
                self.pay(out.size())?;
                out
            }
        })
    }

    /// `&&` and `||`: one side that decides is enough, even if the other fails.
    fn both(&mut self, a: &'a Expr, b: &'a Expr, decides: bool) -> Result<Val, EvalError> {
        match self.flag(a) {
            Ok(value) if value == decides => Ok(Val::Bool(decides)),
            Ok(_) => self.flag(b).map(Val::Bool),
            Err(EvalError::Cost) => Err(EvalError::Cost),
            Err(error) => match self.flag(b) {
                Ok(value) if value == decides => Ok(Val::Bool(decides)),
                Err(EvalError::Cost) => Err(EvalError::Cost),
                _ => Err(error),
            },
        }
    }

    fn index(&mut self, target: Val, index: &Val, optional: bool) -> Result<Val, EvalError> {
        let (target, chained) = match target {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(value)) => (*value, true),
            target => (target, false),
        };
        let found = match &target {
            Val::List(items) => {
                let at = match index {
                    Val::Int(at) => *at,
                    Val::Uint(at) => *at as i64,
                    Val::Double(at) if at.fract() == 0.0 => *at as i64,
                    other => return Err(EvalError::NoOverload(format!("list[{}]", other.type_name()))),
                };
                let found = usize::try_from(at).ok().and_then(|at| items.get(at).cloned());
                found.ok_or_else(|| EvalError::Failed(format!("index out of bounds: {at}")))
            }
            Val::Map(map) => {
                let key = index.key().ok_or_else(|| EvalError::NoOverload(format!("map[{}]", index.type_name())))?;
                map.get(&key).cloned().ok_or_else(|| EvalError::NoSuchKey(library::to_text(index).unwrap_or_default()))
            }
            other => return Err(EvalError::NoOverload(format!("{}[]", other.type_name()))),
        };
        match optional || chained {
            true => Ok(Val::Optional(found.ok().map(Box::new))),
            false => found,
        }
    }

    fn comprehension(&mut self, made: &'a Comprehension) -> Result<Val, EvalError> {
        let range = self.eval(&made.range)?;
        let pairs: Vec<(Val, Val)> = match &range {
            Val::List(items) => {
                items.iter().enumerate().map(|(at, item)| (Val::Int(at as i64), item.clone())).collect()
            }
            Val::Map(map) => map.iter().map(|(key, value)| (key.into(), value.clone())).collect(),
            other => return Err(EvalError::NoOverload(format!("a comprehension over {}", other.type_name()))),
        };
        let listed = matches!(range, Val::List(_));
        let (mut list, mut map) = (Vec::new(), BTreeMap::new());
        let (mut count, mut failure) = (0, None);
        let depth = self.variables.len();
        let outcome = 'walk: {
            for (key, value) in pairs {
                self.variables.truncate(depth);
                let shown = if listed { value.clone() } else { key.clone() };
                match &made.names[..] {
                    [one] => self.variables.push((one, shown.clone())),
                    [one, two] => {
                        self.variables.push((one, key.clone()));
                        self.variables.push((two, value));
                    }
                    _ => unreachable!("the parser makes one or two"),
                }
                if let Some(filter) = &made.filter {
                    match self.flag(filter) {
                        Ok(true) => {}
                        Ok(false) => continue,
                        Err(error) => break 'walk Err(error),
                    }
                }
                match made.what {
                    Macro::Map | Macro::TransformList => match self.eval(&made.body) {
                        Ok(value) => list.push(value),
                        Err(error) => break 'walk Err(error),
                    },
                    Macro::TransformMap => match self.eval(&made.body) {
                        Ok(value) => {
                            let Some(key) = key.key() else { break 'walk Err(overflow()) };
                            map.insert(key, value);
                        }
                        Err(error) => break 'walk Err(error),
                    },
                    what => match self.flag(&made.body) {
                        Ok(true) if what == Macro::Exists => break 'walk Ok(Val::Bool(true)),
                        Ok(false) if what == Macro::All => break 'walk Ok(Val::Bool(false)),
                        Ok(true) if what == Macro::Filter => list.push(shown),
                        Ok(true) => count += 1,
                        Ok(false) => {}
                        Err(EvalError::Cost) => break 'walk Err(EvalError::Cost),
                        // An item that fails does not matter if another one decides.
                        Err(error) if matches!(what, Macro::All | Macro::Exists) => failure = Some(error),
                        Err(error) => break 'walk Err(error),
                    },
                }
            }
            match (failure, made.what) {
                (Some(error), _) => Err(error),
                (None, Macro::All) => Ok(true.into()),
                (None, Macro::Exists) => Ok(false.into()),
                (None, Macro::ExistsOne) => Ok((count == 1).into()),
                (None, Macro::TransformMap) => Ok(map.into()),
                (None, _) => Ok(list.into()),
            }
        };
        self.variables.truncate(depth);
        outcome
    }
}

fn overflow() -> EvalError {
    EvalError::Failed("integer overflow".into())
}

fn select(target: &Val, field: &str) -> Option<Val> {
    match target {
        Val::Map(map) => map.get(&Key::Text(field.into())).cloned(),
        Val::Optional(Some(inner)) => select(inner, field),
        _ => None,
    }
}
