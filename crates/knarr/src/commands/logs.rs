//! `logs`: what a container wrote.

use std::io;

use super::{Command, Context};
use crate::client::http::{Body, encode};
use crate::client::{frames, query};
use crate::failure::Failure;
use crate::flags::{Arity, Matches, switch, text};
use crate::units;

pub(super) static LOGS: Command = Command {
    name: "logs",
    usage: "[OPTIONS] CONTAINER",
    about: "Fetch the logs of a container",
    examples: "  knarr logs -f web                 and follow
  knarr logs --tail 20 -t web       the last lines, with times
  knarr logs --since 10m web",
    flags: &[&[
        switch("details", "Show extra details provided to logs"),
        switch("follow", "Follow log output").short('f'),
        text("since", "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\")"),
        text("tail", "Number of lines to show from the end of the logs").short('n').default("all"),
        switch("timestamps", "Show timestamps").short('t'),
        text("until", "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\")"),
    ]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run,
};

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let name = encode(&matches.arguments[0]);
    let view = context.client.get(&format!("/containers/{name}/json"))?;
    let now = units::now_nanos();
    let time = |flag: &str| matches.text(flag).map(|text| units::api_time(text, now)).transpose();
    let (since, until) = (time("since")?, time("until")?);
    let mut parameters = vec![("stdout", "1"), ("stderr", "1"), ("tail", matches.text("tail").unwrap_or("all"))];
    for (flag, parameter) in [("details", "details"), ("follow", "follow"), ("timestamps", "timestamps")] {
        if matches.is(flag) {
            parameters.push((parameter, "1"));
        }
    }
    if let Some(since) = &since {
        parameters.push(("since", since));
    }
    if let Some(until) = &until {
        parameters.push(("until", until));
    }
    let mut answer =
        context.client.request("GET", &format!("/containers/{name}/logs{}", query(&parameters)), Body::Empty)?;
    // Through a buffer: logs are many small frames, and each would be a write of its own.
    let mut stdout = io::BufWriter::with_capacity(32 << 10, io::stdout().lock());
    if view.pointer("/Config/Tty") == Some(&true.into()) {
        io::copy(&mut answer, &mut io::stdout().lock())?;
    } else if matches.is("follow") {
        frames::copy(&mut answer, &mut io::stdout(), &mut io::stderr())?;
    } else {
        copy_ordered(&mut answer, &mut stdout)?;
    }
    Ok(0)
}

/// Frames to both outputs; what is buffered for one is written before the other gets anything, so that a reader of both sees the order.
fn copy_ordered(from: &mut impl io::Read, stdout: &mut impl io::Write) -> io::Result<()> {
    struct Unflushed<'a, W: io::Write>(&'a std::cell::RefCell<W>);
    impl<W: io::Write> io::Write for Unflushed<'_, W> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    struct Stderr<'a, W: io::Write>(&'a std::cell::RefCell<W>);
    impl<W: io::Write> io::Write for Stderr<'_, W> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().flush()?;
            io::stderr().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let shared = std::cell::RefCell::new(stdout);
    let copied = frames::copy(from, &mut Unflushed(&shared), &mut Stderr(&shared));
    shared.borrow_mut().flush()?;
    copied
}
