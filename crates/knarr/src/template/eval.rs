//! Walks the tree with a value and writes text.

use serde_json::Value;

use super::functions;
use super::parse::{Call, Node, Operand, Pipeline};

struct Scope<'a> {
    root: &'a Value,
    /// Innermost last; a block forgets what it declared when it ends.
    variables: Vec<(String, Value)>,
    strict: bool,
    out: String,
}

pub(super) fn render(nodes: &[Node], root: &Value, strict: bool) -> Result<String, String> {
    let mut scope = Scope { root, variables: Vec::new(), strict, out: String::new() };
    scope.walk(nodes, root)?;
    Ok(scope.out)
}

impl Scope<'_> {
    fn walk(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        let outer = self.variables.len();
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.out.push_str(&functions::plain(&value));
                    }
                }
                Node::If(pipeline, then, otherwise) => {
                    let before = self.variables.len();
                    let value = self.pipeline(pipeline, dot)?;
                    self.walk(if functions::truth(&value) { then } else { otherwise }, dot)?;
                    self.variables.truncate(before);
                }
                Node::With(pipeline, then, otherwise) => {
                    let before = self.variables.len();
                    let value = self.pipeline(pipeline, dot)?;
                    if functions::truth(&value) {
                        self.walk(then, &value)?
                    } else {
                        self.walk(otherwise, dot)?
                    }
                    self.variables.truncate(before);
                }
                Node::Range(pipeline, each, none) => self.range(pipeline, each, none, dot)?,
            }
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn range(&mut self, pipeline: &Pipeline, each: &[Node], none: &[Node], dot: &Value) -> Result<(), String> {
        let before = self.variables.len();
        let value = self.commands(&pipeline.commands, dot)?;
        let items: Vec<(Value, Value)> = match value {
            Value::Array(items) => items.into_iter().enumerate().map(|(at, item)| (Value::from(at), item)).collect(),
            // Go visits a map in the order of its keys; serde_json's map is kept in that order.
            Value::Object(map) => map.into_iter().map(|(key, item)| (Value::String(key), item)).collect(),
            Value::Number(count) => {
                (0..count.as_i64().unwrap_or(0)).map(|at| (Value::from(at), Value::from(at))).collect()
            }
            Value::Null => Vec::new(),
            other => return Err(format!("range can't iterate over {}", functions::plain(&other))),
        };
        if items.is_empty() {
            return self.walk(none, dot);
        }
        for (key, item) in items {
            match pipeline.variables.as_slice() {
                [] => {}
                [one] => self.variables.push((one.clone(), item.clone())),
                [index, one, ..] => {
                    self.variables.push((index.clone(), key));
                    self.variables.push((one.clone(), item.clone()));
                }
            }
            self.walk(each, &item)?;
            self.variables.truncate(before);
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let value = self.commands(&pipeline.commands, dot)?;
        if let Some(name) = pipeline.variables.last() {
            if pipeline.assigns {
                let slot = self.variables.iter_mut().rev().find(|(known, _)| known == name);
                slot.ok_or_else(|| format!("undefined variable {}", crate::text::quoted(name)))?.1 = value.clone();
            } else {
                self.variables.push((name.clone(), value.clone()));
            }
        }
        Ok(value)
    }

    fn commands(&mut self, commands: &[Call], dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for call in commands {
            last = Some(self.call(call, last, dot)?);
        }
        Ok(last.unwrap_or(Value::Null))
    }

    fn call(&mut self, call: &Call, piped: Option<Value>, dot: &Value) -> Result<Value, String> {
        let mut arguments = Vec::with_capacity(call.arguments.len() + 1);
        for argument in &call.arguments {
            arguments.push(self.operand(argument, dot)?);
        }
        arguments.extend(piped);
        match &call.head {
            Operand::Function(name) => functions::call(name, &arguments),
            head => {
                let value = self.operand(head, dot)?;
                match (&value, arguments.as_slice()) {
                    (_, []) => Ok(value),
                    // Docker's rows have methods such as `.Label "key"`; here they are maps.
                    (Value::Object(map), [Value::String(key)]) => {
                        Ok(map.get(key).cloned().unwrap_or_else(|| Value::String(String::new())))
                    }
                    _ => Err("can't give argument to non-function".into()),
                }
            }
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(path) => self.follow(dot, path),
            Operand::Function(name) => functions::call(name, &[]),
            Operand::Variable(name, path) if name == "$" => self.follow(self.root, path),
            Operand::Variable(name, path) => {
                let value = self.variables.iter().rev().find(|(known, _)| known == name);
                let value = &value.ok_or_else(|| format!("undefined variable {}", crate::text::quoted(name)))?.1;
                self.follow(value, path)
            }
            Operand::Nested(pipeline, path) => {
                let value = self.pipeline(pipeline, dot)?;
                self.follow(&value, path)
            }
        }
    }

    fn follow(&self, from: &Value, path: &[String]) -> Result<Value, String> {
        let mut value = from;
        for name in path {
            value = match value {
                Value::Object(map) => match map.get(name) {
                    Some(value) => value,
                    None if self.strict => {
                        return Err(format!("map has no entry for key {}", crate::text::quoted(name)));
                    }
                    None => return Ok(Value::Null),
                },
                Value::Null => {
                    return Err(format!("nil pointer evaluating field {name}"));
                }
                _ => return Err(format!("can't evaluate field {name} in this value")),
            };
        }
        Ok(value.clone())
    }
}
