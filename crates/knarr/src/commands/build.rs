//! `build` and `builder prune`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::copy::local::pack_contents;
use super::{Command, Context, images, out};
use crate::client::http::Body;
use crate::client::query;
use crate::failure::Failure;
use crate::flags::{Arity, Matches, list, switch, text};
use crate::units;

pub(super) static BUILD: Command = Command {
    name: "build",
    usage: "[OPTIONS] PATH | -",
    about: "Build an image from a Dockerfile",
    examples: "  knarr build -t app .\n  knarr build -t app -f docker/Dockerfile --build-arg VERSION=2 .\n  knarr build --target test .\n  tar -c . | knarr build -t app -",
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
        switch("no-cache", "Do not use cache when building the image"),
        switch("pull", "Always attempt to pull all referenced images"),
        switch("quiet", "Suppress the build output and print image ID on success").short('q'),
    ]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: build,
};

fn build(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let source = Source::find(&matches.arguments[0], matches.text("file"))?;
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
    let mut parameters: Vec<(&str, &str)> = vec![("dockerfile", source.dockerfile()), ("rm", "1")];
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
    let path = format!("/build{}", query(&parameters));
    let answer = match &source {
        Source::Tar => {
            context.client.request("POST", &path, Body::Stream(&mut io::stdin().lock(), "application/x-tar"))?
        }
        Source::Folder { path: folder, dockerfile } => {
            let (mut reader, writer) = io::pipe()?;
            let (folder, shown, dockerfile) = (folder.clone(), folder.display().to_string(), dockerfile.clone());
            let packing = std::thread::spawn(move || pack(&folder, &dockerfile, writer));
            let answer = context.client.request("POST", &path, Body::Stream(&mut reader, "application/x-tar"));
            drop(reader);
            // The packer's own error is the cause where both have one, unless it only saw that nobody reads any more.
            match packing.join() {
                Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(Failure::new(format!("read {shown}: {}", super::run::plain(&error))));
                }
                _ => answer?,
            }
        }
    };
    let mut id = String::new();
    let mut answer = Watch { inner: answer, line: Vec::new(), id: &mut id };
    images::progress(&mut answer, false)?;
    if let Some(file) = matches.text("iidfile") {
        std::fs::write(file, &id).map_err(|e| Failure::new(format!("write {file}: {}", super::run::plain(&e))))?;
    }
    Ok(0)
}

/// Where the context comes from.
enum Source {
    /// Standard input is the tar.
    Tar,
    Folder {
        path: PathBuf,
        dockerfile: String,
    },
}

impl Source {
    fn find(argument: &str, file: Option<&str>) -> Result<Self, Failure> {
        if argument == "-" {
            return Ok(Self::Tar);
        }
        let path = Path::new(argument);
        let data = std::fs::metadata(path)
            .map_err(|_| Failure::new(format!("unable to prepare context: path {argument:?} not found")))?;
        if !data.is_dir() {
            return Err(Failure::new(format!("unable to prepare context: {argument:?} is not a directory")));
        }
        let dockerfile = match file {
            None => "Dockerfile".to_owned(),
            Some(file) => inside(path, Path::new(file))?,
        };
        if !path.join(&dockerfile).is_file() {
            let place = path.join(&dockerfile);
            return Err(Failure::new(format!(
                "unable to evaluate symlinks in Dockerfile path: {}: no such file",
                place.display()
            )));
        }
        Ok(Self::Folder { path: path.to_owned(), dockerfile })
    }

    fn dockerfile(&self) -> &str {
        match self {
            Self::Tar => "Dockerfile",
            Self::Folder { dockerfile, .. } => dockerfile,
        }
    }
}

/// The Dockerfile's path within the context; `file` is relative to where we are, as with docker.
fn inside(context: &Path, file: &Path) -> Result<String, Failure> {
    let whole = |path: &Path| {
        std::fs::canonicalize(path).map_err(|e| Failure::new(format!("{}: {}", path.display(), super::run::plain(&e))))
    };
    let (context, file) = (whole(context)?, whole(file)?);
    match file.strip_prefix(&context) {
        Ok(relative) => Ok(relative.to_string_lossy().into_owned()),
        Err(_) => Err(Failure::new(format!(
            "the Dockerfile ({}) must be within the build context ({})",
            file.display(),
            context.display()
        ))),
    }
}

/// The folder as a tar, without what `.dockerignore` leaves out. The files that the engine itself reads always go along.
fn pack(folder: &Path, dockerfile: &str, out: impl io::Write) -> io::Result<()> {
    let patterns = match std::fs::read_to_string(folder.join(".dockerignore")) {
        Ok(text) => build::Patterns::parse(&text).map_err(io::Error::other)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => build::Patterns::default(),
        Err(error) => return Err(error),
    };
    let own_ignore = format!("{dockerfile}.dockerignore");
    let wanted = |name: &str, directory: bool| {
        let read_by_the_engine = name == ".dockerignore" || name == own_ignore || name == dockerfile;
        let leads_there =
            directory && (dockerfile.starts_with(&format!("{name}/")) || patterns.may_include_below(name));
        !patterns.excludes(name) || read_by_the_engine || leads_there
    };
    pack_contents(folder, &wanted, out)
}

/// Passes a progress stream through and remembers the image's id.
struct Watch<'a, R> {
    inner: R,
    line: Vec<u8>,
    id: &'a mut String,
}

impl<R: Read> Read for Watch<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        for byte in &buffer[..count] {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if let Ok(message) = serde_json::from_slice::<Value>(&line)
                && let Some(id) = message.pointer("/aux/ID").and_then(Value::as_str)
            {
                *self.id = id.to_owned();
            }
        }
        Ok(count)
    }
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
