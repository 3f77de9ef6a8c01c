//! `exec`: a second process in a running container.

use serde_json::json;

use super::stream::{self, End, Session};
use super::{Command, Context};
use crate::client::http::{Body, encode};
use crate::client::terminal;
use crate::failure::Failure;
use crate::flags::{Arity, Matches, list, switch, text};

pub(super) static EXEC: Command = Command {
    name: "exec",
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    about: "Execute a command in a running container",
    examples: "  knarr exec web ps                one command
  knarr exec -it web sh            a shell
  knarr exec -u 1000 -w /tmp web id",
    flags: &[&[
        switch("detach", "Detached mode: run command in the background").short('d'),
        text("detach-keys", "Override the key sequence for detaching a container"),
        list("env", "Set environment variables").short('e'),
        list("env-file", "Read in a file of environment variables"),
        switch("interactive", "Keep STDIN open even if not attached").short('i'),
        switch("privileged", "Give extended privileges to the command"),
        switch("tty", "Allocate a pseudo-TTY").short('t'),
        text("user", "Username or UID (format: \"<name|uid>[:<group|gid>]\")").short('u'),
        text("workdir", "Working directory inside the container").short('w'),
    ]],
    interspersed: false,
    arity: Arity::AtLeast(2),
    run,
};

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let client = &context.client;
    let (tty, stdin, detach) = (matches.is("tty"), matches.is("interactive"), matches.is("detach"));
    let keys = terminal::detach_keys(matches.text("detach-keys"))?;
    if !detach {
        stream::check_terminal(tty, stdin)?;
    }
    let signals = stream::take_signals(tty, false)?;
    let id = create(context, matches)?;
    let mut begin = json!({"Detach": detach, "Tty": tty});
    if detach {
        client.post(&format!("/exec/{id}/start"), Some(&begin))?;
        return Ok(0);
    }
    if tty && let Some((rows, columns)) = terminal::size() {
        begin["ConsoleSize"] = json!([rows, columns]);
    }
    let hijacked = client.hijack(&format!("/exec/{id}/start"), Body::Json(&begin)).map_err(|failure| {
        let code = super::run::start_failure(Failure::new(failure.message.clone())).code;
        // What is not about the program itself is an ordinary failure of the command.
        if code == 125 { failure } else { failure.code(code) }
    })?;
    let session = Session {
        tty,
        stdin,
        stdout: true,
        stderr: true,
        detach_keys: keys,
        resize: tty.then(|| format!("/exec/{id}/resize")),
        forward: None,
    };
    session.treat_signals(client, signals);
    if tty {
        stream::send_size(client, &format!("/exec/{id}/resize"));
    }
    if session.run(hijacked)? == End::Detached {
        return Err("read escape sequence".into());
    }
    let view = client.get(&format!("/exec/{id}/json"))?;
    Ok((view["ExitCode"].as_i64().unwrap_or(0) & 0xff) as u8)
}

fn create(context: &Context, matches: &Matches) -> Result<String, Failure> {
    let (container, command) = matches.arguments.split_first().ok_or("a container is needed")?;
    let mut variables = Vec::new();
    for file in matches.list("env-file") {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::new(format!("open {file}: {}", super::run::plain(&error))))?;
        let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
        variables.extend(lines.map(str::to_owned));
    }
    variables.extend(matches.list("env").iter().cloned());
    let variables: Vec<String> = variables
        .into_iter()
        .filter_map(|variable| match variable.contains('=') {
            true => Some(variable),
            false => std::env::var(&variable).ok().map(|value| format!("{variable}={value}")),
        })
        .collect();
    let attach = !matches.is("detach");
    let mut body = json!({
        "Cmd": command,
        "Env": variables,
        "Tty": matches.is("tty"),
        "AttachStdin": attach && matches.is("interactive"),
        "AttachStdout": attach,
        "AttachStderr": attach,
        "Privileged": matches.is("privileged"),
        "User": matches.text("user").unwrap_or(""),
        "WorkingDir": matches.text("workdir").unwrap_or(""),
        "DetachKeys": matches.text("detach-keys").unwrap_or(""),
    });
    if matches.is("tty")
        && let Some((rows, columns)) = terminal::size()
    {
        body["ConsoleSize"] = json!([rows, columns]);
    }
    let answer = context.client.post(&format!("/containers/{}/exec", encode(container)), Some(&body))?;
    Ok(answer["Id"].as_str().map(str::to_owned).ok_or("the engine's answer to exec has no Id")?)
}
