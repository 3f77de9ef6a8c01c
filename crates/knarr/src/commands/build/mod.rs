//! `build` and `builder prune`.
//!
//! * `wish` — flags to what the engine is asked
//! * `source` — where the context comes from, and how it goes to the engine
//! * `answer` — what comes back, and where it lands
//! * `progress` — how steps are shown

mod answer;
mod progress;
mod source;
mod wish;

use std::io::{self, Read};

use serde_json::{Map, Value};

use docker_api::own_build::MEDIA_TYPE;

use self::source::Source;
use super::{Command, Context, out};
use crate::client::http::Body;
use crate::client::query;
use crate::credentials;
use crate::failure::Failure;
use crate::flags::{Arity, Matches, list, switch, text};
use crate::units;

pub(super) static BUILD: Command = Command {
    name: "build",
    usage: "[OPTIONS] PATH | URL | -",
    about: "Build an image from a Dockerfile",
    examples: "  knarr build -t app .\n  knarr build -t app -f docker/Dockerfile --build-arg VERSION=2 .\n  knarr build --target test .\n  tar -c . | knarr build -t app -\n  knarr build -o out --target files .\n  knarr build --secret id=token,src=token.txt --ssh default .\n  knarr build --check .",
    flags: &[&[
        list("tag", "Name and optionally a tag (\"name:tag\")").short('t'),
        text("file", "Name of the Dockerfile (default: \"PATH/Dockerfile\")").short('f'),
        list("build-arg", "Set build-time variables"),
        list("label", "Set metadata for an image"),
        text("target", "Set the target build stage to build"),
        text("network", "Set the networking mode for the \"RUN\" instructions during build"),
        text("platform", "Set target platform for build"),
        list("add-host", "Add a custom host-to-IP mapping (\"host:ip\")"),
        text("memory", "Memory limit of a step").short('m'),
        text("shm-size", "Shared memory size for build steps"),
        text("iidfile", "Write the image ID to a file"),
        list("output", "Output destination (\"type=local,dest=path\")").short('o'),
        switch("push", "Shorthand for \"--output=type=registry\""),
        switch("load", "Shorthand for \"--output=type=docker\""),
        list("secret", "Secret to expose to the build (\"id=mysecret[,src=/local/secret]\", \"id=NAME,env=NAME\")"),
        list("ssh", "SSH agent socket to expose to the build (\"default|<id>[=<socket>]\")"),
        list("build-context", "Additional build contexts (\"name=path\", \"name=docker-image://...\")"),
        list("annotation", "Add annotation to the image"),
        text("provenance", "Provenance attestation (\"mode=min\", \"mode=max,version=v1\")"),
        text("sbom", "Bill of materials attestation (\"true\")"),
        list("cache-from", "External cache sources (\"type=registry,ref=...\", \"type=local,src=path\")"),
        list("cache-to", "Cache export destinations (\"type=registry,ref=...\", \"type=local,dest=path\")"),
        list("allow", "Allow extra privileged entitlement (\"network.host\", \"security.insecure\")"),
        list("no-cache-filter", "Do not cache specified stages"),
        switch("check", "Shorthand for \"--call=check\""),
        text("call", "Set method for evaluating build (\"check\", \"outline\", \"targets\")"),
        text("progress", "Set type of progress output (\"auto\", \"plain\", \"tty\", \"quiet\")"),
        switch("no-cache", "Do not use cache when building the image"),
        switch("pull", "Always attempt to pull all referenced images"),
        switch("quiet", "Suppress the build output and print image ID on success").short('q'),
    ]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: build,
};

fn build(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let mut source = Source::find(&matches.arguments[0])?;
    let mut asked = wish::Asked::read(matches)?;
    if matches.text("file") == Some("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text)?;
        asked.wish.dockerfile_text = Some(text);
    }
    let style = progress::Style::of(matches.text("progress"), matches.is("quiet"))?;
    let pairs = |name: &str| -> String {
        let mut map = Map::new();
        for pair in matches.list(name) {
            match pair.split_once('=') {
                Some((key, value)) => map.insert(key.to_owned(), value.into()),
                // A bare name passes the value of this shell on.
                None => map.insert(pair.clone(), std::env::var(pair).ok().into()),
            };
        }
        Value::Object(map).to_string()
    };
    let (args, labels) = (pairs("build-arg"), pairs("label"));
    let bytes = |name: &str| -> Result<Option<String>, Failure> {
        let Some(text) = matches.text(name) else { return Ok(None) };
        Ok(Some(units::parse_bytes(text)?.to_string()))
    };
    let (memory, shm) = (bytes("memory")?, bytes("shm-size")?);
    let dockerfile = source.dockerfile(matches.text("file"), &mut asked.wish)?;
    let address = match &source {
        Source::Remote(address) => Some(address.clone()),
        _ => None,
    };
    let mut parameters: Vec<(&str, &str)> = vec![("dockerfile", &dockerfile), ("rm", "1")];
    parameters.extend(matches.list("tag").iter().map(|name| ("t", name.as_str())));
    parameters.extend(matches.list("add-host").iter().map(|host| ("extrahosts", host.as_str())));
    for (flag, name) in [("target", "target"), ("network", "networkmode"), ("platform", "platform")] {
        parameters.extend(matches.text(flag).map(|value| (name, value)));
    }
    for (flag, name) in [("no-cache", "nocache"), ("pull", "pull"), ("quiet", "q")] {
        if matches.is(flag) {
            parameters.push((name, "1"));
        }
    }
    if args != "{}" {
        parameters.push(("buildargs", &args));
    }
    if labels != "{}" {
        parameters.push(("labels", &labels));
    }
    parameters.extend(memory.as_deref().map(|bytes| ("memory", bytes)));
    parameters.extend(shm.as_deref().map(|bytes| ("shmsize", bytes)));
    parameters.extend(address.as_deref().map(|address| ("remote", address)));
    let path = format!("/build{}", query(&parameters));
    let held = source::bring(&context.client, &source, &mut asked.wish, &mut asked.folders)?;
    let (mut reader, writer) = io::pipe()?;
    let (wish, folders) = (asked.wish.clone(), asked.folders.clone());
    let sending = std::thread::spawn(move || {
        // One thread, one order: the engine reads one stream after the other.
        let sent = source::send(&mut source, &wish, &folders, writer);
        (sent, source)
    });
    let logins = credentials::all_header()?;
    let body = Body::Stream { reader: &mut reader, kind: MEDIA_TYPE, logins: logins.as_deref() };
    let answer = context.client.request("POST", &path, body);
    drop(reader);
    // The sender's own error is the cause where both have one, unless it only saw that nobody reads any more.
    match sending.join() {
        Ok((Err(error), source)) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::new(format!("read {}: {}", source.shown(), super::run::plain(&error))));
        }
        _ => {}
    }
    let answer = answer?;
    let mut lines = answer::Lines::new(answer, &asked.landings)?;
    let told = progress::show(&mut lines, style)?;
    lines.finish()?;
    drop(held);
    if let Some(file) = matches.text("iidfile") {
        std::fs::write(file, &told.id).map_err(|e| Failure::new(format!("write {file}: {}", super::run::plain(&e))))?;
    }
    Ok(u8::from(told.warnings > 0))
}

pub(super) static PRUNE: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove build cache",
    examples: "  knarr builder prune\n  knarr builder prune --keep-storage 1g",
    flags: &[&[
        switch("all", "Remove all unused build cache, not just dangling ones").short('a'),
        list("filter", "Provide filter values (e.g. \"until=24h\")"),
        text("keep-storage", "Amount of disk space to keep for cache"),
        switch("force", "Do not prompt for confirmation").short('f'),
    ]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let filters = crate::client::filters(matches.list("filter"))?;
        let keep = matches.text("keep-storage").map(units::parse_bytes).transpose()?.map(|bytes| bytes.to_string());
        let mut parameters = Vec::new();
        if matches.is("all") {
            parameters.push(("all", "1"));
        }
        if !matches.list("filter").is_empty() {
            parameters.push(("filters", filters.as_str()));
        }
        parameters.extend(keep.as_deref().map(|bytes| ("keep-storage", bytes)));
        let answer = context.client.post(&format!("/build/prune{}", query(&parameters)), None)?;
        let removed = answer["CachesDeleted"].as_array().map_or(0, Vec::len);
        let bytes = answer["SpaceReclaimed"].as_f64().unwrap_or(0.0);
        out(&format!("Removed {removed} cache entries\nTotal reclaimed space: {}\n", units::size(bytes)))?;
        Ok(0)
    },
};
