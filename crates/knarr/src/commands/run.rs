//! `run` and `create`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

use super::stream::{self, End, Session};
use super::{Command, Context, out};
use crate::client::http::{Body, Response};
use crate::client::{query, terminal};
use crate::create::{self, Surroundings};
use crate::failure::Failure;
use crate::flags::{Arity, Flag, Matches, switch, text};

const RUN_FLAGS: &[Flag] = &[
    switch("detach", "Run container in background and print container ID").short('d'),
    text("detach-keys", "Override the key sequence for detaching a container"),
    switch("sig-proxy", "Proxy received signals to the process").default("true"),
];

pub(super) static RUN: Command = Command {
    name: "run",
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create and run a new container from an image",
    examples: "  knarr run --rm busybox echo hello            one command, nothing left behind
  knarr run --rm -it busybox sh                a shell
  knarr run -d --name web -m 64m busybox httpd -f
                                               in the background, at most 64 MiB
  knarr run --rm -v \"$PWD\":/src:ro -w /src busybox ls
                                               a folder of yours, read-only
  knarr run --rm --network none --read-only --cap-drop ALL busybox id
                                               with as little as possible",
    flags: &[create::FLAGS, RUN_FLAGS],
    interspersed: false,
    arity: Arity::AtLeast(1),
    run: |context, matches| run(context, matches).map_err(|failure| explain(failure, "run")),
};

pub(super) static CREATE: Command = Command {
    name: "create",
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create a new container",
    examples: "  knarr create --name job busybox sh -c 'echo done'
  knarr start -a job",
    flags: &[create::FLAGS],
    interspersed: false,
    arity: Arity::AtLeast(1),
    run: |context, matches| {
        let id =
            create(context, matches, false).map_err(|failure| Failure { code: 1, ..explain(failure, "create") })?;
        out(&format!("{id}\n"))?;
        Ok(0)
    },
};

/// Docker says which command failed and where its help is; an engine's refusal of `run` exits with 125.
fn explain(failure: Failure, command: &str) -> Failure {
    // A missing terminal is said as it is, as docker does.
    if failure.message.is_empty() || failure.message == stream::NO_TERMINAL {
        return failure;
    }
    let code = if failure.code == 1 { 125 } else { failure.code };
    let message = format!("knarr: {}\n\nRun 'knarr {command} --help' for more information", failure.message.trim_end());
    Failure { message, code, ..failure }
}

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let client = &context.client;
    let detach = matches.is("detach");
    let tty = matches.is("tty");
    let attach = create::attached(matches, matches.is("interactive"), detach)?;
    let keys = terminal::detach_keys(matches.text("detach-keys"))?;
    if detach {
        let id = create(context, matches, true)?;
        start(context, &id)?;
        out(&format!("{id}\n"))?;
        return Ok(0);
    }
    stream::check_terminal(tty, attach.stdin).map_err(|failure| failure.code(1))?;
    let forward = matches.is_or("sig-proxy", true);
    let signals = stream::take_signals(tty, forward)?;
    let id = create(context, matches, false)?;

    let joined = attach.stdin || attach.stdout || attach.stderr;
    let flag = |on: bool| if on { "1" } else { "0" };
    let hijacked = match joined {
        true => {
            let streams = query(&[
                ("stream", "1"),
                ("stdin", flag(attach.stdin)),
                ("stdout", flag(attach.stdout)),
                ("stderr", flag(attach.stderr)),
            ]);
            Some(client.hijack(&format!("/containers/{id}/attach{streams}"), Body::Empty)?)
        }
        false => None,
    };
    // Armed before the start, so that no exit can be missed, however short the life.
    let condition = if matches.is("rm") { "removed" } else { "next-exit" };
    let waiting = client.request("POST", &format!("/containers/{id}/wait?condition={condition}"), Body::Empty)?;
    start(context, &id)?;

    let session = Session {
        tty,
        stdin: attach.stdin,
        stdout: attach.stdout,
        stderr: attach.stderr,
        detach_keys: keys,
        resize: tty.then(|| format!("/containers/{id}/resize")),
        forward: forward.then(|| id.clone()),
    };
    session.treat_signals(client, signals);
    if tty {
        stream::send_size(client, &format!("/containers/{id}/resize"));
    }
    if let Some(hijacked) = hijacked
        && session.run(hijacked)? == End::Detached
    {
        return Ok(0);
    }
    exit_code(context, waiting)
}

/// Reads what a wait answers: the exit code of the container.
pub(super) fn exit_code(context: &Context, waiting: Response) -> Result<u8, Failure> {
    let answer = context.client.json(waiting)?;
    if let Some(message) = answer.pointer("/Error/Message").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        return Err(Failure::new(format!("Error waiting for container: {message}")).code(125));
    }
    let code = answer["StatusCode"].as_i64().ok_or("the engine's answer to wait has no StatusCode")?;
    Ok((code & 0xff) as u8)
}

fn start(context: &Context, id: &str) -> Result<(), Failure> {
    context.client.post(&format!("/containers/{id}/start"), None).map(drop).map_err(start_failure)
}

/// 127 for a command that is not there, 126 for one that cannot be executed: what a shell says.
pub(super) fn start_failure(failure: Failure) -> Failure {
    let text = &failure.message;
    let code = if text.contains("executable file not found") || text.contains("no such file or directory") {
        127
    } else if text.contains("permission denied") || text.contains("is a directory") {
        126
    } else {
        125
    };
    failure.code(code)
}

/// Makes the container and answers its id; fetches the image first if the flags say so.
fn create(context: &Context, matches: &Matches, detach: bool) -> Result<String, Failure> {
    let client = &context.client;
    let cid = matches.text("cidfile").map(CidFile::reserve).transpose()?;
    let files = |name: &str| fs::read_to_string(name).map_err(|error| format!("open {name}: {}", plain(&error)));
    let folder = std::env::current_dir().map(|folder| folder.to_string_lossy().into_owned()).unwrap_or_default();
    let around = Surroundings {
        files: &files,
        environment: &|name| std::env::var(name).ok(),
        folder: &folder,
        console: terminal::size(),
    };
    let body = create::request(matches, detach, &around).map_err(|problem| Failure::new(problem).code(125))?;
    let image = matches.arguments[0].as_str();
    let pull = matches.text("pull").unwrap_or("missing");
    let platform = matches.text("platform").unwrap_or("");
    match pull {
        "missing" | "never" => {}
        "always" => super::registries::pull(context, image, platform, matches.is("quiet"))?,
        other => {
            let message =
                format!("invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\"");
            return Err(Failure::new(message).code(125));
        }
    }
    let mut parameters = Vec::new();
    if let Some(name) = matches.text("name") {
        parameters.push(("name", name));
    }
    if !platform.is_empty() {
        parameters.push(("platform", platform));
    }
    let path = format!("/containers/create{}", query(&parameters));
    let answer = match client.post(&path, Some(&body)) {
        Err(failure) if failure.is_not_found() && failure.message.contains("No such image") && pull == "missing" => {
            eprintln!("Unable to find image '{}' locally", familiar(image));
            super::registries::pull(context, image, platform, matches.is("quiet"))?;
            client.post(&path, Some(&body))?
        }
        other => other?,
    };
    for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("WARNING: {warning}");
    }
    let id = answer["Id"].as_str().ok_or("the engine's answer to create has no Id")?.to_owned();
    if let Some(mut cid) = cid {
        cid.write(&id)?;
    }
    Ok(id)
}

/// `busybox` as `busybox:latest`.
fn familiar(image: &str) -> String {
    image.parse::<vocab::Reference>().map_or_else(|_| image.to_owned(), |reference| reference.or_latest().familiar())
}

/// An error as the C library words it, without Rust's "(os error N)".
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().collect::<String>() + letters.as_str())
}

/// The file of `--cidfile`: reserved before anything is made, removed again if nothing was.
struct CidFile {
    path: String,
    file: fs::File,
    written: bool,
}

impl CidFile {
    fn reserve(path: &str) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
            Failure::new(match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    format!("container ID file found, make sure the other container isn't running or delete {path}")
                }
                _ => format!("failed to create the container ID file: open {path}: {}", plain(&error)),
            })
            .code(125)
        })?;
        Ok(Self { path: path.to_owned(), file, written: false })
    }

    fn write(&mut self, id: &str) -> Result<(), Failure> {
        self.file
            .write_all(id.as_bytes())
            .map_err(|error| Failure::new(format!("failed to write the container ID to {}: {error}", self.path)))?;
        self.written = true;
        Ok(())
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if !self.written {
            // Only an empty file of ours; if it is gone there is nothing to remove.
            let _ = fs::remove_file(Path::new(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_has_the_code_of_a_shell() {
        let cases = [
            ("exec: \"nope\": executable file not found in $PATH", 127),
            ("exec: \"/nope\": stat /nope: no such file or directory", 127),
            ("exec: \"/etc/passwd\": permission denied", 126),
            ("exec: \"/etc\": is a directory", 126),
            ("something else", 125),
        ];
        for (message, code) in cases {
            assert_eq!(start_failure(Failure::new(message)).code, code, "{message}");
        }
    }

    #[test]
    fn images_are_named_as_people_name_them() {
        assert_eq!(familiar("busybox"), "busybox:latest");
        assert_eq!(familiar("docker.io/library/busybox:1"), "busybox:1");
        assert_eq!(familiar("NOT valid"), "NOT valid");
    }

    #[test]
    fn a_reserved_id_file_is_removed_unless_written() {
        let folder = std::env::temp_dir().join(format!("knarr-cid-{}", std::process::id()));
        let path = folder.to_string_lossy().into_owned();
        drop(CidFile::reserve(&path).unwrap());
        let mut file = CidFile::reserve(&path).unwrap();
        assert!(CidFile::reserve(&path).is_err());
        file.write("abc").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "abc");
        fs::remove_file(&path).unwrap();
    }
}
