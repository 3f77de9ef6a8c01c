//! What a build tells the classic client: lines of text in JSON.

use build::Event;
use build::plan::Graph;
use serde_json::json;

use crate::routes::system::append_line;
use crate::wire::image::Progress;

/// Tells steps one after another, as the classic builder did, although some run at once: the first that is not over is
/// told live, later ones when their turn comes.
pub(super) struct Story {
    names: Vec<String>,
    waiting: Vec<Vec<u8>>,
    done: Vec<bool>,
    current: usize,
    quiet: bool,
    /// Every step is told as it happens: for clients that show several at once.
    steps: bool,
    began: Vec<Option<jiff::Timestamp>>,
    /// What is to be sent.
    pub(super) out: Vec<u8>,
}

impl Story {
    pub(super) fn new(graph: &Graph, quiet: bool, steps: bool) -> Self {
        let names: Vec<String> = graph
            .nodes
            .iter()
            .map(|node| match &node.op {
                build::plan::Op::Image { reference, .. } => format!("FROM {reference}"),
                _ => node.name.split_once("] ").map_or(node.name.as_str(), |(_, text)| text).to_owned(),
            })
            .collect();
        let count = names.len();
        let mut story = Self {
            names,
            waiting: vec![Vec::new(); count],
            done: vec![false; count],
            current: 0,
            quiet,
            steps,
            began: vec![None; count],
            out: Vec::new(),
        };
        if steps {
            story.names = graph.nodes.iter().map(|node| node.name.clone()).collect();
        } else {
            story.head();
        }
        story
    }

    /// Something that is told whatever the client wants to hear.
    pub(super) fn say(&mut self, text: &str) {
        let _ = append_line(&mut self.out, &Progress::stream(text.to_owned()));
    }

    pub(super) fn line(&mut self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    fn head(&mut self) {
        let (at, all) = (self.current, self.names.len());
        if at < all {
            let text = format!("Step {}/{all} : {}\n", at + 1, self.names[at]);
            self.line(&text);
        }
    }

    pub(super) fn hear(&mut self, event: Event) {
        if self.steps {
            return self.step(event);
        }
        match event {
            Event::Started { .. } => {}
            Event::Cached { node } => self.tell(node, b" ---> Using cache\n"),
            Event::Output { node, bytes, .. } => self.tell(node, &bytes),
            Event::Done { node, .. } => {
                self.done[node] = true;
                while self.current < self.names.len() && self.done[self.current] {
                    self.current += 1;
                    self.head();
                    if self.current < self.names.len() {
                        let waiting = std::mem::take(&mut self.waiting[self.current]);
                        if !waiting.is_empty() {
                            self.line(&String::from_utf8_lossy(&waiting));
                        }
                    }
                }
            }
        }
    }

    /// A line about one step.
    fn step(&mut self, event: Event) {
        let line = match event {
            Event::Started { node, at } => {
                self.began[node] = Some(at);
                json!({ "node": node, "name": self.names[node] })
            }
            Event::Cached { node } => json!({ "node": node, "cached": true }),
            Event::Output { node, bytes, .. } => {
                json!({ "node": node, "output": String::from_utf8_lossy(&bytes) })
            }
            Event::Done { node, error, at } => {
                let took = self.began[node].map_or(0.0, |began| at.duration_since(began).as_secs_f64());
                json!({ "node": node, "took": took, "failed": error })
            }
        };
        let _ = append_line(&mut self.out, &json!({ "step": line }));
    }

    fn tell(&mut self, node: usize, bytes: &[u8]) {
        if node == self.current {
            self.line(&String::from_utf8_lossy(bytes));
        } else {
            self.waiting[node].extend_from_slice(bytes);
        }
    }
}
