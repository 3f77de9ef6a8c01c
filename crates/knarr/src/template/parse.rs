//! From pieces to a tree of nodes.

use serde_json::Value;

use super::functions;
use super::lex::{Piece, Word, pieces};

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    /// Prints the pipeline's value unless it declares or assigns.
    Print(Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
}

#[derive(Debug)]
pub(super) struct Pipeline {
    /// `$x :=` or `$i, $x :=`.
    pub variables: Vec<String>,
    pub assigns: bool,
    pub commands: Vec<Call>,
}

#[derive(Debug)]
pub(super) struct Call {
    pub head: Operand,
    pub arguments: Vec<Operand>,
}

#[derive(Debug)]
pub(super) enum Operand {
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Function(String),
    Literal(Value),
    Nested(Box<Pipeline>, Vec<String>),
}

/// Nothing that people write comes near; it keeps hostile input from exhausting the stack.
const DEPTH_MAX: usize = 64;

pub(super) fn parse(template: &str) -> Result<Vec<Node>, String> {
    let mut pieces = pieces(template)?.into_iter();
    let (nodes, end) = block(&mut pieces, 0)?;
    match end {
        End::Input => Ok(nodes),
        End::Block => Err("unexpected {{end}}".into()),
        End::Else(_) => Err("unexpected {{else}}".into()),
    }
}

enum End {
    Input,
    Block,
    /// `else`, and the words after it (`if ...`).
    Else(Vec<Word>),
}

fn block(pieces: &mut impl Iterator<Item = Piece>, depth: usize) -> Result<(Vec<Node>, End), String> {
    if depth > DEPTH_MAX {
        return Err("nested too deeply".into());
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let words = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(words) => words,
        };
        match words.first() {
            Some(Word::Name(name)) if name == "end" => return Ok((nodes, End::Block)),
            Some(Word::Name(name)) if name == "else" => return Ok((nodes, End::Else(words[1..].to_vec()))),
            Some(Word::Name(name)) if matches!(name.as_str(), "if" | "with" | "range") => {
                nodes.push(control(name, &words[1..], pieces, depth)?);
            }
            Some(Word::Name(name))
                if matches!(name.as_str(), "define" | "template" | "block" | "break" | "continue") =>
            {
                return Err(format!("{{{{{name}}}}} is not supported"));
            }
            None => return Err("missing value for command".into()),
            Some(_) => nodes.push(Node::Print(whole_pipeline(&words)?)),
        }
    }
    Ok((nodes, End::Input))
}

fn control(name: &str, words: &[Word], pieces: &mut impl Iterator<Item = Piece>, depth: usize) -> Result<Node, String> {
    let pipeline = whole_pipeline(words)?;
    // The iterator's type must not grow with each level of nesting.
    let pieces: &mut dyn Iterator<Item = Piece> = pieces;
    let (body, end) = block_dyn(pieces, depth + 1)?;
    let otherwise = match end {
        End::Block => Vec::new(),
        End::Input => return Err("unexpected EOF".into()),
        End::Else(words) => match words.split_first() {
            None => match block_dyn(pieces, depth + 1)? {
                (nodes, End::Block) => nodes,
                (_, End::Input) => return Err("unexpected EOF".into()),
                (_, End::Else(_)) => return Err("expected end; found {{else}}".into()),
            },
            Some((Word::Name(again), rest)) if matches!(again.as_str(), "if" | "with") => {
                vec![control_dyn(again, rest, pieces, depth + 1)?]
            }
            Some(_) => return Err("unexpected word after {{else}}".into()),
        },
    };
    Ok(match name {
        "if" => Node::If(pipeline, body, otherwise),
        "with" => Node::With(pipeline, body, otherwise),
        _ => Node::Range(pipeline, body, otherwise),
    })
}

fn block_dyn(mut pieces: &mut dyn Iterator<Item = Piece>, depth: usize) -> Result<(Vec<Node>, End), String> {
    block(&mut pieces, depth)
}

fn control_dyn(
    name: &str,
    words: &[Word],
    mut pieces: &mut dyn Iterator<Item = Piece>,
    depth: usize,
) -> Result<Node, String> {
    if depth > DEPTH_MAX {
        return Err("nested too deeply".into());
    }
    control(name, words, &mut pieces, depth)
}

fn whole_pipeline(words: &[Word]) -> Result<Pipeline, String> {
    let mut words = words.iter().peekable();
    let pipeline = pipeline(&mut words, 0)?;
    match words.next() {
        None => Ok(pipeline),
        Some(_) => Err("unexpected right paren".into()),
    }
}

type Words<'a> = std::iter::Peekable<std::slice::Iter<'a, Word>>;

fn pipeline(words: &mut Words<'_>, depth: usize) -> Result<Pipeline, String> {
    if depth > DEPTH_MAX {
        return Err("nested too deeply".into());
    }
    let (variables, assigns) = declaration(words);
    let mut commands = vec![call(words, depth)?];
    while words.next_if_eq(&&Word::Pipe).is_some() {
        commands.push(call(words, depth)?);
    }
    Ok(Pipeline { variables, assigns, commands })
}

/// `$x :=`, `$x =` or `$i, $x :=` at the start of a pipeline; consumes nothing if there is none.
fn declaration(words: &mut Words<'_>) -> (Vec<String>, bool) {
    let plain = |word: Option<&Word>| match word {
        Some(Word::Variable(name, path)) if path.is_empty() => Some(name.clone()),
        _ => None,
    };
    let mut ahead = words.clone();
    let Some(first) = plain(ahead.next()) else { return (Vec::new(), false) };
    let mut names = vec![first];
    if ahead.next_if_eq(&&Word::Comma).is_some() {
        let Some(second) = plain(ahead.next()) else { return (Vec::new(), false) };
        names.push(second);
    }
    let assigns = match ahead.next() {
        Some(Word::Declare) => false,
        Some(Word::Assign) => true,
        _ => return (Vec::new(), false),
    };
    *words = ahead;
    (names, assigns)
}

fn call(words: &mut Words<'_>, depth: usize) -> Result<Call, String> {
    let head = operand(words, depth)?.ok_or("missing value for command")?;
    let mut arguments = Vec::new();
    while let Some(argument) = operand(words, depth)? {
        arguments.push(argument);
    }
    Ok(Call { head, arguments })
}

fn operand(words: &mut Words<'_>, depth: usize) -> Result<Option<Operand>, String> {
    Ok(Some(match words.peek() {
        None | Some(Word::Pipe | Word::Close(_)) => return Ok(None),
        Some(Word::Comma | Word::Declare | Word::Assign) => return Err("unexpected word in command".into()),
        Some(Word::Open) => {
            words.next();
            let nested = pipeline(words, depth + 1)?;
            match words.next() {
                Some(Word::Close(path)) => Operand::Nested(Box::new(nested), path.clone()),
                _ => return Err("unclosed left paren".into()),
            }
        }
        Some(_) => match words.next().expect("it was just seen") {
            Word::Field(path) => Operand::Field(path.clone()),
            Word::Variable(name, path) => Operand::Variable(name.clone(), path.clone()),
            Word::Text(text) => Operand::Literal(Value::String(text.clone())),
            Word::Int(int) => Operand::Literal(Value::from(*int)),
            Word::Float(float) => Operand::Literal(Value::from(*float)),
            Word::Name(name) => match name.as_str() {
                "true" => Operand::Literal(Value::Bool(true)),
                "false" => Operand::Literal(Value::Bool(false)),
                "nil" => Operand::Literal(Value::Null),
                name if functions::exists(name) => Operand::Function(name.to_owned()),
                name => return Err(format!("function {} not defined", crate::text::quoted(name))),
            },
            other => return Err(format!("unexpected {other:?} in command")),
        },
    }))
}
