//! The expression language CEL, with the functions that Kubernetes gives it.
//!
//! A [`Program`] is compiled once ([`parse`] reads it, [`check`](Program::compile) knows variables, functions and their number of
//! arguments) and evaluated often ([`eval`]). Every step of an evaluation costs, and what costs too much ends with an
//! error, so that nobody's rule holds a server up.
//!
//! Pure: no clock, no randomness, no input but the variables. This crate knows nothing of objects or schemas.

mod eval;
mod kube;
mod lex;
mod library;
mod parse;
mod value;

pub use library::parse_duration as duration;
pub use parse::{Expr, Kind};
pub use value::{Key, Val};

use std::fmt;

/// What one evaluation may cost, in steps; as upstream's limit for one call of a rule.
pub const COST_MAX: u64 = 1_000_000;
/// Longest source, in bytes.
const SOURCE_BYTES_MAX: usize = 64 << 10;

/// Why a text is no program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// Byte offset in the source.
    pub at: usize,
    pub message: String,
    line: usize,
    column: usize,
}

impl std::error::Error for CompileError {}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ERROR: <input>:{}:{}: {}", self.line, self.column, self.message)
    }
}

impl CompileError {
    fn new(source: &str, at: usize, message: impl Into<String>) -> Self {
        let before = &source.as_bytes()[..at.min(source.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
        Self { at, message: message.into(), line, column }
    }
}

/// Why an evaluation has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("no such key: {0}")]
    NoSuchKey(String),
    #[error("no such overload: {0}")]
    NoOverload(String),
    #[error("{0}")]
    Failed(String),
    #[error("operation cancelled: actual cost limit exceeded")]
    Cost,
}

/// A compiled expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    expr: Expr,
}

impl Program {
    /// Compiles a source in which these variables are known.
    pub fn compile(source: &str, variables: &[&str]) -> Result<Self, CompileError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(CompileError::new(source, 0, "the expression is too long"));
        }
        let expr = parse::parse(source).map_err(|(at, message)| CompileError::new(source, at, message))?;
        let mut scope: Vec<String> = variables.iter().map(|&name| name.to_owned()).collect();
        known(&expr, &mut scope).map_err(|(at, message)| CompileError::new(source, at, message))?;
        Ok(Self { expr })
    }

    pub fn expr(&self) -> &Expr {
        &self.expr
    }

    /// The expression reads this variable.
    pub fn reads(&self, variable: &str) -> bool {
        fn reads(expr: &Expr, variable: &str) -> bool {
            matches!(&expr.kind, Kind::Ident(name) if name == variable)
                || expr.children().into_iter().any(|child| reads(child, variable))
        }
        reads(&self.expr, variable)
    }

    /// Evaluates with these variables; takes what it costs from `budget`.
    pub fn eval(&self, variables: &[(&str, Val)], budget: &mut u64) -> Result<Val, EvalError> {
        let allowed = (*budget).min(if vocab::weak::without("budget") { u64::MAX } else { COST_MAX });
        let mut run = eval::Run::new(variables, allowed);
        let out = run.eval(&self.expr);
        *budget -= allowed - run.left();
        out
    }
}

/// Every name is known: variables of the scope, of the macros around, and functions with so many arguments.
fn known(expr: &Expr, scope: &mut Vec<String>) -> Result<(), (usize, String)> {
    match &expr.kind {
        Kind::Ident(name) if !scope.contains(name) && !eval::is_type_name(name) => {
            return Err((expr.at, format!("undeclared reference to '{name}' (in container '')")));
        }
        Kind::Comprehension(made) => {
            known(&made.range, scope)?;
            let depth = scope.len();
            scope.extend(made.names.iter().cloned());
            for part in made.filter.iter().chain(std::iter::once(&made.body)) {
                known(part, scope)?;
            }
            scope.truncate(depth);
            return Ok(());
        }
        Kind::OptMap { target, name, body, .. } => {
            known(target, scope)?;
            scope.push(name.clone());
            known(body, scope)?;
            scope.pop();
            return Ok(());
        }
        Kind::Call { target, name, args } => {
            let count = args.len() + usize::from(target.is_some());
            let space = target.as_deref().and_then(eval::namespace);
            let found = match space {
                Some(space) => library::is_function(&format!("{space}.{name}"), args.len()),
                None => library::is_function(name, count),
            };
            if !found {
                return Err((expr.at, format!("undeclared reference to '{name}' (in container '')")));
            }
            if let (Some(target), None) = (target, space) {
                known(target, scope)?;
            }
            return args.iter().try_for_each(|arg| known(arg, scope));
        }
        _ => {}
    }
    expr.children().into_iter().try_for_each(|child| known(child, scope))
}

#[cfg(test)]
mod tests;
