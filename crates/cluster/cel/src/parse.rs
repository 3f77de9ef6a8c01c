//! From tokens to a tree. Macros (`has`, `all`, `map`, ...) become nodes of their own.

use crate::lex::{Token, tokens};

/// How deep expressions may nest.
const DEPTH_MAX: usize = 96;

#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    /// Byte offset in the source.
    pub at: usize,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Ident(String),
    /// `target.field`, or `target.?field`.
    Select {
        target: Box<Expr>,
        field: String,
        optional: bool,
    },
    /// `has(target.field)`
    Has {
        target: Box<Expr>,
        field: String,
    },
    /// `target[index]`, or `target[?index]`.
    Index {
        target: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    Call {
        target: Option<Box<Expr>>,
        name: String,
        args: Vec<Expr>,
    },
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Binary(&'static str, Box<Expr>, Box<Expr>),
    Conditional(Box<Expr>, Box<Expr>, Box<Expr>),
    /// Items, each with whether it is there only if it has a value.
    List(Vec<(bool, Expr)>),
    Map(Vec<(bool, Expr, Expr)>),
    Comprehension(Box<Comprehension>),
    /// `target.optMap(name, body)`; flat if the body's value is an optional itself.
    OptMap {
        target: Box<Expr>,
        name: String,
        body: Box<Expr>,
        flat: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Macro {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Comprehension {
    pub range: Expr,
    /// One name for items or keys; two for index or key and value.
    pub names: Vec<String>,
    pub what: Macro,
    pub filter: Option<Expr>,
    pub body: Expr,
}

impl Expr {
    pub fn children(&self) -> Vec<&Expr> {
        match &self.kind {
            Kind::Select { target, .. } | Kind::Has { target, .. } => vec![target],
            Kind::Index { target, index, .. } => vec![target, index],
            Kind::Call { target, args, .. } => target.iter().map(AsRef::as_ref).chain(args).collect(),
            Kind::Not(one) | Kind::Negate(one) => vec![one],
            Kind::Binary(_, a, b) => vec![a, b],
            Kind::Conditional(a, b, c) => vec![a, b, c],
            Kind::List(items) => items.iter().map(|(_, item)| item).collect(),
            Kind::Map(entries) => entries.iter().flat_map(|(_, key, value)| [key, value]).collect(),
            Kind::Comprehension(made) => {
                std::iter::once(&made.range).chain(&made.filter).chain(std::iter::once(&made.body)).collect()
            }
            Kind::OptMap { target, body, .. } => vec![target, body],
            _ => Vec::new(),
        }
    }
}

type Fault = (usize, String);

pub fn parse(source: &str) -> Result<Expr, Fault> {
    let tokens = tokens(source)?;
    let mut parser = Parser { tokens, at: 0, depth: 0, end: source.len() };
    let expr = parser.conditional()?;
    match parser.tokens.get(parser.at) {
        None => Ok(expr),
        Some((at, token)) => Err((*at, format!("Syntax error: mismatched input {}", shown(token)))),
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Ident(name) => format!("'{name}'"),
        Token::Sign(sign) => format!("'{sign}'"),
        Token::Text(text) => format!("{text:?}"),
        other => format!("{other:?}"),
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
    end: usize,
}

/// Binary operators from the weakest to the strongest.
const LEVELS: [&[&str]; 5] =
    [&["||"], &["&&"], &["==", "!=", "<", "<=", ">", ">=", "in"], &["+", "-"], &["*", "/", "%"]];

impl Parser {
    fn here(&self) -> usize {
        self.tokens.get(self.at).map_or(self.end, |(at, _)| *at)
    }

    fn sign(&self) -> &'static str {
        match self.tokens.get(self.at) {
            Some((_, Token::Sign(sign))) => sign,
            Some((_, Token::Ident(word))) if word == "in" => "in",
            _ => "",
        }
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.sign() == sign;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), Fault> {
        match self.take(sign) {
            true => Ok(()),
            false => {
                let found = self.tokens.get(self.at).map_or("<EOF>".into(), |(_, token)| shown(token));
                Err((self.here(), format!("Syntax error: mismatched input {found} expecting '{sign}'")))
            }
        }
    }

    fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err((self.here(), "the expression nests too deeply".into()));
        }
        let out = work(self);
        self.depth -= 1;
        out
    }

    fn conditional(&mut self) -> Result<Expr, Fault> {
        self.deeper(|this| {
            let at = this.here();
            let condition = this.binary(0)?;
            if !this.take("?") {
                return Ok(condition);
            }
            let yes = this.binary(0)?;
            this.expect(":")?;
            let no = this.conditional()?;
            Ok(Expr { at, kind: Kind::Conditional(condition.into(), yes.into(), no.into()) })
        })
    }

    fn binary(&mut self, level: usize) -> Result<Expr, Fault> {
        let Some(signs) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        let mut chained = 0;
        while let Some(sign) = signs.iter().find(|sign| self.sign() == **sign) {
            chained += 1;
            // A long chain is a deep tree.
            if chained > DEPTH_MAX * 4 {
                return Err((self.here(), "the expression is too long".into()));
            }
            let at = self.here();
            self.at += 1;
            let right = self.binary(level + 1)?;
            left = Expr { at, kind: Kind::Binary(sign, left.into(), right.into()) };
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, Fault> {
        self.deeper(|this| {
            let at = this.here();
            if this.take("!") {
                return Ok(Expr { at, kind: Kind::Not(this.unary()?.into()) });
            }
            if this.take("-") {
                let kind = match this.tokens.get(this.at) {
                    Some((_, Token::IntEdge)) => Kind::Int(i64::MIN),
                    Some((_, Token::Int(value))) => Kind::Int(-value),
                    Some((_, Token::Double(value))) => Kind::Double(-value),
                    _ => return Ok(Expr { at, kind: Kind::Negate(this.unary()?.into()) }),
                };
                this.at += 1;
                return this.members(Expr { at, kind });
            }
            let primary = this.primary()?;
            this.members(primary)
        })
    }

    fn members(&mut self, mut target: Expr) -> Result<Expr, Fault> {
        let mut chained = 0;
        loop {
            chained += 1;
            if chained > DEPTH_MAX * 4 {
                return Err((self.here(), "the expression is too long".into()));
            }
            let at = self.here();
            if self.take(".?") {
                let field = self.name()?;
                target = Expr { at, kind: Kind::Select { target: target.into(), field, optional: true } };
            } else if self.take(".") {
                let name = self.name()?;
                target = match self.take("(") {
                    true => {
                        let args = self.arguments()?;
                        Expr { at, kind: method(at, target, name, args)? }
                    }
                    false => Expr { at, kind: Kind::Select { target: target.into(), field: name, optional: false } },
                };
            } else if matches!(self.sign(), "[" | "[?") {
                let optional = self.sign() == "[?";
                self.at += 1;
                let index = self.conditional()?;
                self.expect("]")?;
                target = Expr { at, kind: Kind::Index { target: target.into(), index: index.into(), optional } };
            } else {
                return Ok(target);
            }
        }
    }

    fn name(&mut self) -> Result<String, Fault> {
        match self.tokens.get(self.at) {
            Some((_, Token::Ident(name))) => {
                self.at += 1;
                Ok(name.clone())
            }
            _ => Err((self.here(), "Syntax error: no viable alternative at input '.'".into())),
        }
    }

    /// What stands between parentheses, the first one read already.
    fn arguments(&mut self) -> Result<Vec<Expr>, Fault> {
        let mut out = Vec::new();
        if self.take(")") {
            return Ok(out);
        }
        loop {
            out.push(self.conditional()?);
            if self.take(")") {
                return Ok(out);
            }
            self.expect(",")?;
        }
    }

    fn primary(&mut self) -> Result<Expr, Fault> {
        let at = self.here();
        // A leading dot names what stands outside all containers; there are none.
        self.take(".");
        let Some((_, token)) = self.tokens.get(self.at).cloned() else {
            return Err((at, "Syntax error: mismatched input '<EOF>'".into()));
        };
        self.at += 1;
        let kind = match token {
            Token::Int(value) => Kind::Int(value),
            Token::Uint(value) => Kind::Uint(value),
            Token::Double(value) => Kind::Double(value),
            Token::Text(text) => Kind::Text(text),
            Token::Bytes(bytes) => Kind::Bytes(bytes),
            Token::Ident(word) => match word.as_str() {
                "true" => Kind::Bool(true),
                "false" => Kind::Bool(false),
                "null" => Kind::Null,
                _ if self.take("(") => {
                    let args = self.arguments()?;
                    function(at, word, args)?
                }
                _ => Kind::Ident(word),
            },
            Token::Sign("(") => {
                let inner = self.conditional()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign(open @ ("[" | "[?")) => self.list(open == "[?")?,
            Token::Sign("{") => self.map()?,
            other => return Err((at, format!("Syntax error: mismatched input {}", shown(&other)))),
        };
        Ok(Expr { at, kind })
    }

    fn list(&mut self, first_optional: bool) -> Result<Kind, Fault> {
        let mut items = Vec::new();
        if !first_optional && self.take("]") {
            return Ok(Kind::List(items));
        }
        let mut optional = first_optional;
        loop {
            optional |= self.take("?");
            items.push((optional, self.conditional()?));
            optional = false;
            if self.take("]") {
                return Ok(Kind::List(items));
            }
            self.expect(",")?;
            if self.take("]") {
                return Ok(Kind::List(items));
            }
        }
    }

    fn map(&mut self) -> Result<Kind, Fault> {
        let mut entries = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let key = self.conditional()?;
            self.expect(":")?;
            entries.push((optional, key, self.conditional()?));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(Kind::Map(entries))
    }
}

fn function(at: usize, name: String, mut args: Vec<Expr>) -> Result<Kind, Fault> {
    if name == "has" && args.len() == 1 {
        return match args.remove(0).kind {
            Kind::Select { target, field, optional: false } => Ok(Kind::Has { target, field }),
            _ => Err((at, "invalid argument to has() macro".into())),
        };
    }
    Ok(Kind::Call { target: None, name, args })
}

fn method(at: usize, target: Expr, name: String, mut args: Vec<Expr>) -> Result<Kind, Fault> {
    use Macro::*;
    let ident = |expr: &Expr| match &expr.kind {
        Kind::Ident(name) => Ok(name.clone()),
        _ => Err((at, "argument must be a simple name".to_owned())),
    };
    let (what, names, filtered) = match (name.as_str(), args.len()) {
        ("all", 2) => (All, 1, false),
        ("exists", 2) => (Exists, 1, false),
        ("exists_one" | "existsOne", 2) => (ExistsOne, 1, false),
        ("filter", 2) => (Filter, 1, false),
        ("map", 2) => (Map, 1, false),
        ("map", 3) => (Map, 1, true),
        ("all", 3) => (All, 2, false),
        ("exists", 3) => (Exists, 2, false),
        ("existsOne", 3) => (ExistsOne, 2, false),
        ("transformList", 3) => (TransformList, 2, false),
        ("transformList", 4) => (TransformList, 2, true),
        ("transformMap", 3) => (TransformMap, 2, false),
        ("transformMap", 4) => (TransformMap, 2, true),
        ("optMap" | "optFlatMap", 2) => {
            let flat = name == "optFlatMap";
            let (body, name) = (args.remove(1), ident(&args[0])?);
            return Ok(Kind::OptMap { target: target.into(), name, body: body.into(), flat });
        }
        _ => return Ok(Kind::Call { target: Some(target.into()), name, args }),
    };
    let body = args.pop().expect("counted above");
    let filter = if filtered { args.pop() } else { None };
    let names = args[..names].iter().map(ident).collect::<Result<_, _>>()?;
    Ok(Kind::Comprehension(Box::new(Comprehension { range: target, names, what, filter, body })))
}
