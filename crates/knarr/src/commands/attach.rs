//! `attach` and `start`: joining a container that exists.

use serde_json::Value;

use super::run::{exit_code, start_failure};
use super::stream::{self, End, Session};
use super::{Command, Context, for_each, out};
use crate::client::http::{Body, encode};
use crate::client::{query, terminal};
use crate::failure::Failure;
use crate::flags::{Arity, Flag, Matches, switch, text};
use crate::text::printable;

pub(super) static ATTACH: Command = Command {
    name: "attach",
    usage: "[OPTIONS] CONTAINER",
    about: "Attach local standard input, output, and error streams to a running container",
    examples: "  knarr attach web     ctrl-p ctrl-q leaves it running (with a terminal)",
    flags: &[&[
        text("detach-keys", "Override the key sequence for detaching a container"),
        switch("no-stdin", "Do not attach STDIN"),
        switch("sig-proxy", "Proxy all received signals to the process").default("true"),
    ]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |context, matches| {
        let name = &matches.arguments[0];
        let view = context.client.get(&format!("/containers/{}/json", encode(name)))?;
        let state = &view["State"];
        if state["Running"] != true {
            return Err("You cannot attach to a stopped container, start it first".into());
        }
        if state["Paused"] == true {
            return Err("You cannot attach to a paused container, unpause it first".into());
        }
        if state["Restarting"] == true {
            return Err("You cannot attach to a restarting container, wait until it is running".into());
        }
        let join = Join { name, view: &view, stdin: !matches.is("no-stdin"), start: false, matches };
        join.run(context)
    },
};

const START_FLAGS: &[Flag] = &[
    switch("attach", "Attach STDOUT/STDERR and forward signals").short('a'),
    switch("interactive", "Attach container's STDIN").short('i'),
    text("detach-keys", "Override the key sequence for detaching a container"),
    text("checkpoint", "").refused("there are no checkpoints yet"),
    text("checkpoint-dir", "").refused("there are no checkpoints yet"),
];

pub(super) static START: Command = Command {
    name: "start",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Start one or more stopped containers",
    examples: "  knarr start web db     in the background
  knarr start -a job     and see what it says; the exit code is the container's",
    flags: &[START_FLAGS],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| {
        if !matches.is("attach") && !matches.is("interactive") {
            let mut failed = Vec::new();
            let code = for_each(&matches.arguments, |name| {
                let answer = context.client.post(&format!("/containers/{}/start", encode(name)), None);
                if let Err(failure) = answer {
                    failed.push(name.to_owned());
                    return Err(failure);
                }
                out(&format!("{name}\n"))
            })?;
            if !failed.is_empty() {
                eprintln!("Error: failed to start containers: {}", printable(&failed.join(", ")));
            }
            return Ok(code);
        }
        let [name] = matches.arguments.as_slice() else {
            return Err("you cannot start and attach multiple containers at once".into());
        };
        let view = context.client.get(&format!("/containers/{}/json", encode(name)))?;
        let join = Join { name, view: &view, stdin: matches.is("interactive"), start: true, matches };
        join.run(context)
    },
};

/// Joins one container's streams, starting it first if asked to.
struct Join<'a> {
    name: &'a str,
    /// What inspect says of it.
    view: &'a Value,
    stdin: bool,
    start: bool,
    matches: &'a Matches,
}

impl Join<'_> {
    fn run(&self, context: &Context) -> Result<u8, Failure> {
        let client = &context.client;
        let config = &self.view["Config"];
        let id = self.view["Id"].as_str().unwrap_or(self.name);
        let tty = config["Tty"] == true;
        let stdin = self.stdin && config["OpenStdin"] == true;
        let keys = terminal::detach_keys(self.matches.text("detach-keys"))?;
        stream::check_terminal(tty, stdin)?;
        let forward = self.matches.is_or("sig-proxy", true) && (!self.start || !tty);
        let signals = stream::take_signals(tty, forward)?;
        let streams =
            query(&[("stream", "1"), ("stdin", if stdin { "1" } else { "0" }), ("stdout", "1"), ("stderr", "1")]);
        let hijacked = client.hijack(&format!("/containers/{id}/attach{streams}"), Body::Empty)?;
        let condition = match (self.start, self.view.pointer("/HostConfig/AutoRemove") == Some(&Value::Bool(true))) {
            (true, true) => "?condition=removed",
            (true, false) => "?condition=next-exit",
            (false, _) => "",
        };
        let waiting = client.request("POST", &format!("/containers/{id}/wait{condition}"), Body::Empty)?;
        if self.start {
            client.post(&format!("/containers/{id}/start"), None).map_err(|failure| start_failure(failure).code(1))?;
        }
        let session = Session {
            tty,
            stdin,
            stdout: true,
            stderr: true,
            detach_keys: keys,
            resize: tty.then(|| format!("/containers/{id}/resize")),
            forward: forward.then(|| id.to_owned()),
        };
        session.treat_signals(client, signals);
        if tty {
            stream::send_size(client, &format!("/containers/{id}/resize"));
        }
        if session.run(hijacked)? == End::Detached {
            return if self.start { Ok(0) } else { Err("read escape sequence".into()) };
        }
        exit_code(context, waiting)
    }
}
