//! `cp`: files between a container and this side, with cp's rules about what lands where.
//!
//! What crosses is a tar. What comes out of a container is not trusted: it is unpacked beneath its destination by
//! descriptor, so that no entry and no link can lead outside.

mod decide;
pub(super) mod local;

use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

use self::decide::{Landing, Side, land};
use super::{Command, Context};
use crate::client::http::{Body, encode};
use crate::client::{Client, query, terminal};
use crate::failure::Failure;
use crate::flags::{Arity, Matches, switch};

pub(super) static CP: Command = Command {
    name: "cp",
    usage: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n        knarr cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    about: "Copy files/folders between a container and the local filesystem",
    examples: "  knarr cp web:/etc/passwd .          out of a container
  knarr cp site/. web:/srv/           the content of a folder into one
  tar -c site | knarr cp - web:/srv   a tar from standard input",
    flags: &[&[
        switch("archive", "Archive mode (copy all uid/gid information)").short('a'),
        switch("follow-link", "Always follow symbol link in SRC_PATH").short('L'),
        switch("quiet", "Suppress progress output during copy").short('q'),
    ]],
    interspersed: true,
    arity: Arity::Exactly(2),
    run,
};

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let (from, to) = (place(&matches.arguments[0]), place(&matches.arguments[1]));
    match (from, to) {
        (Place::Inside(container, path), Place::Here(target)) => {
            out_of(&context.client, matches, container, path, target)?
        }
        (Place::Here(source), Place::Inside(container, path)) => {
            into(&context.client, matches, source, container, path)?
        }
        (Place::Inside(..), Place::Inside(..)) => {
            return Err("copying between containers is not supported".into());
        }
        (Place::Here(_), Place::Here(_)) => {
            return Err("must specify at least one container source or destination".into());
        }
    }
    Ok(0)
}

enum Place<'a> {
    Here(&'a str),
    Inside(&'a str, &'a str),
}

/// `container:path`; a path that begins with a slash or a dot is a local one whatever it contains.
fn place(word: &str) -> Place<'_> {
    if word.starts_with('/') || word.starts_with('.') {
        return Place::Here(word);
    }
    match word.split_once(':') {
        Some((container, path)) if !container.is_empty() => Place::Inside(container, path),
        _ => Place::Here(word),
    }
}

/// What the engine says of a path in a container.
struct Stat {
    is_directory: bool,
    is_link: bool,
    target: String,
}

/// Go's bits of a file mode, as the engine sends them.
const GO_DIRECTORY: u64 = 1 << 31;
const GO_LINK: u64 = 1 << 27;

fn stat(client: &Client, container: &str, path: &str) -> Result<Option<Stat>, Failure> {
    let target = format!("/containers/{}/archive{}", encode(container), query(&[("path", path)]));
    let response = client.send("HEAD", &target, Body::Empty)?;
    if response.status == 404 {
        // Without a body there is no telling whether the container or the path is missing: ask for the container.
        client.get(&format!("/containers/{}/json", encode(container)))?;
        return Ok(None);
    }
    let header = response.header("X-Docker-Container-Path-Stat").map(str::to_owned);
    let response = client.checked(response)?;
    client.keep(response);
    let text = header.ok_or("the engine's answer has no path stat")?;
    let decoded = decide::base64(&text).ok_or("the engine's path stat is not base64")?;
    let value: Value = serde_json::from_slice(&decoded).map_err(|_| "the engine's path stat is not JSON")?;
    let mode = value["mode"].as_u64().unwrap_or(0);
    Ok(Some(Stat {
        is_directory: mode & GO_DIRECTORY != 0,
        is_link: mode & GO_LINK != 0,
        target: value["linkTarget"].as_str().unwrap_or("").to_owned(),
    }))
}

fn out_of(client: &Client, matches: &Matches, container: &str, path: &str, target: &str) -> Result<(), Failure> {
    let missing =
        || Failure::new(format!("Error response from daemon: Could not find the file {path} in container {container}"));
    let mut path = path.to_owned();
    let mut found = stat(client, container, &path)?.ok_or_else(missing)?;
    if matches.is("follow-link") && found.is_link && !found.target.is_empty() {
        path = found.target.clone();
        found = stat(client, container, &path)?.ok_or_else(missing)?;
    }
    let archive = format!("/containers/{}/archive{}", encode(container), query(&[("path", &path)]));
    if target == "-" {
        if terminal::is_terminal(io::stdout()) {
            return Err("cowardly refusing to save to a terminal; redirect the output".into());
        }
        let mut answer = client.request("GET", &archive, Body::Empty)?;
        io::copy(&mut answer, &mut io::stdout().lock())?;
        return Ok(());
    }
    let here = local::stat(Path::new(target));
    let landing =
        land(&Side { path: &path, is_directory: found.is_directory }, target, here.map(|data| data.is_directory))?;
    let answer = client.request("GET", &archive, Body::Empty)?;
    local::unpack(answer, &landing, matches.is("archive")).map_err(Failure::new)
}

fn into(client: &Client, matches: &Matches, source: &str, container: &str, path: &str) -> Result<(), Failure> {
    let mut path = path.to_owned();
    let mut there = stat(client, container, &path)?;
    // A link at the destination is followed: what is copied lands where the link leads.
    if let Some(found) = &there
        && found.is_link
        && !found.target.is_empty()
    {
        path = found.target.clone();
        there = stat(client, container, &path)?;
    }
    let there_is_directory = there.map(|found| found.is_directory);
    let upload = |folder: &str, body: &mut dyn Read| -> Result<(), Failure> {
        let copy_owner = if matches.is("archive") { "1" } else { "0" };
        let parameters = query(&[("path", folder), ("noOverwriteDirNonDir", "1"), ("copyUIDGID", copy_owner)]);
        let target = format!("/containers/{}/archive{parameters}", encode(container));
        let answer =
            client.request("PUT", &target, Body::Stream { reader: body, kind: "application/x-tar", logins: None })?;
        client.keep(answer);
        Ok(())
    };
    if source == "-" {
        if there_is_directory != Some(true) {
            return Err(Failure::new(format!("destination \"{container}:{path}\" must be a directory")));
        }
        return upload(&path, &mut io::stdin().lock());
    }
    let source_path = Path::new(source);
    let data = match matches.is("follow-link") {
        true => std::fs::metadata(source_path),
        // A trailing slash asks for what a link leads to, as the kernel sees it too.
        false => std::fs::symlink_metadata(source_path),
    };
    let data = data.map_err(|error| Failure::new(format!("stat {source}: {}", super::run::plain(&error))))?;
    let landing = land(&Side { path: source, is_directory: data.is_dir() }, &path, there_is_directory)?;
    let (reader, writer) = io::pipe()?;
    let (name, root, follow) = (landing.name.clone(), source_path.to_owned(), matches.is("follow-link"));
    let packing = std::thread::spawn(move || local::pack(&root, &name, follow, writer));
    let Landing { folder, .. } = landing;
    let mut reader = reader;
    let sent = upload(&folder, &mut reader);
    // The packer's own error is the cause where both have one, unless it only saw that nobody reads any more.
    drop(reader);
    match packing.join() {
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("read {source}: {}", super::run::plain(&error))))
        }
        Ok(_) => sent,
        Err(_) => Err("packing the archive failed".into()),
    }
}
