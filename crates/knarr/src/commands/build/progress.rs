//! Steps of a build as they happen, several at once: plain lines for logs, or a part of the terminal that shows what runs.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::time::Instant;

use serde_json::Value;

use crate::failure::Failure;

/// How steps are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Terminal,
    Quiet,
}

impl Style {
    pub(super) fn of(asked: Option<&str>, quiet: bool) -> Result<Self, Failure> {
        match asked {
            _ if quiet => Ok(Self::Quiet),
            None | Some("auto") if io::stderr().is_terminal() => Ok(Self::Terminal),
            None | Some("auto" | "plain") => Ok(Self::Plain),
            Some("tty") => Ok(Self::Terminal),
            Some("quiet") => Ok(Self::Quiet),
            Some(other) => Err(Failure::new(format!("invalid progress {other:?}: auto, plain, tty or quiet"))),
        }
    }
}

/// What came of a build.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) id: String,
    pub(super) warnings: u64,
}

struct Step {
    name: String,
    began: Instant,
    /// The last line that it wrote.
    line: String,
}

struct Screen<'a> {
    style: Style,
    out: &'a mut dyn Write,
    running: BTreeMap<u64, Step>,
    cached: std::collections::BTreeSet<u64>,
    /// Lines at the bottom of the terminal that are drawn anew.
    drawn: usize,
}

/// Shows the lines of the answer. Steps go to standard error, what a command answers to standard output.
pub(super) fn show(answer: impl Read, style: Style) -> Result<Told, Failure> {
    let mut told = Told::default();
    let mut stderr = io::stderr();
    let mut screen = Screen { style, out: &mut stderr, running: BTreeMap::new(), cached: Default::default(), drawn: 0 };
    for line in BufReader::new(answer).lines() {
        let line = line?;
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(error) =
            message["error"].as_str().or(message.pointer("/errorDetail/message").and_then(Value::as_str))
        {
            screen.clear()?;
            return Err(Failure::new(error));
        }
        if let Some(id) = message.pointer("/aux/ID").and_then(Value::as_str) {
            told.id = id.to_owned();
        }
        told.warnings += message.pointer("/aux/Warnings").and_then(Value::as_u64).unwrap_or(0);
        if let Some(text) = message["stream"].as_str() {
            screen.clear()?;
            crate::commands::out(text)?;
        }
        if message["step"].is_object() {
            screen.step(&message["step"])?;
        }
    }
    screen.clear()?;
    Ok(told)
}

impl Screen<'_> {
    fn step(&mut self, step: &Value) -> io::Result<()> {
        let Some(node) = step["node"].as_u64() else { return Ok(()) };
        let number = node + 1;
        if let Some(name) = step["name"].as_str() {
            let step = Step { name: name.to_owned(), began: Instant::now(), line: String::new() };
            self.running.insert(node, step);
            return self.line(&format!("#{number} {name}"), false);
        }
        if step["cached"] == true {
            self.cached.insert(node);
            return Ok(());
        }
        if let Some(text) = step["output"].as_str() {
            let Some(running) = self.running.get_mut(&node) else { return Ok(()) };
            let took = running.began.elapsed().as_secs_f64();
            if let Some(last) = text.lines().rev().find(|line| !line.trim().is_empty()) {
                running.line = last.to_owned();
            }
            for line in text.lines() {
                self.line(&format!("#{number} {took:.3} {line}"), false)?;
            }
            return self.draw();
        }
        let Some(done) = self.running.remove(&node) else { return Ok(()) };
        let took = step["took"].as_f64().unwrap_or(0.0);
        let end = match step["failed"].as_str() {
            Some("CANCELED") => "CANCELED".to_owned(),
            Some(error) => format!("ERROR: {error}"),
            None if self.cached.contains(&node) => "CACHED".to_owned(),
            None => format!("DONE {took:.1}s"),
        };
        match self.style {
            Style::Terminal => self.line(&format!("=> {} {end}", done.name), true),
            _ => self.line(&format!("#{number} {end}\n"), true),
        }
    }

    /// A line that stays. On a terminal only what has ended is worth one.
    fn line(&mut self, text: &str, ended: bool) -> io::Result<()> {
        match self.style {
            Style::Quiet => Ok(()),
            Style::Plain => writeln!(self.out, "{text}"),
            Style::Terminal if ended => {
                self.clear()?;
                writeln!(self.out, "{text}")?;
                self.draw()
            }
            Style::Terminal => self.draw(),
        }
    }

    fn clear(&mut self) -> io::Result<()> {
        if self.drawn > 0 {
            write!(self.out, "\x1b[{}A\x1b[J", self.drawn)?;
            self.drawn = 0;
        }
        self.out.flush()
    }

    /// What runs, with its time and its last line.
    fn draw(&mut self) -> io::Result<()> {
        const ROWS: usize = 8;
        const COLUMNS: usize = 78;
        if self.style != Style::Terminal {
            return Ok(());
        }
        self.clear()?;
        for step in self.running.values().take(ROWS) {
            let text = format!("=> {} {:.1}s  {}", step.name, step.began.elapsed().as_secs_f64(), step.line);
            let text: String = text.chars().filter(|c| !c.is_control()).take(COLUMNS).collect();
            writeln!(self.out, "{text}")?;
            self.drawn += 1;
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_lines_are_those_of_a_log() {
        let mut out = Vec::new();
        let mut screen = Screen {
            style: Style::Plain,
            out: &mut out,
            running: BTreeMap::new(),
            cached: Default::default(),
            drawn: 0,
        };
        for step in [
            json!({"node": 0, "name": "FROM a"}),
            json!({"node": 1, "name": "[2/2] RUN x"}),
            json!({"node": 0, "cached": true}),
            json!({"node": 0, "took": 0.0, "failed": null}),
            json!({"node": 1, "took": 1.25, "failed": "exit code: 1"}),
        ] {
            screen.step(&step).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "#1 FROM a\n#2 [2/2] RUN x\n#1 CACHED\n\n#2 ERROR: exit code: 1\n\n");
    }
}
