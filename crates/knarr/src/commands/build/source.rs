//! Where a context comes from, and how it goes to the engine.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use docker_api::own_build::{FIRST, MORE, StreamWriter, WISH, Wish, WishedContext};

use crate::client::http::Stream;
use crate::client::{Client, query};
use crate::commands::copy::local::pack_contents;
use crate::commands::run::plain;
use crate::failure::Failure;

/// Everything that the engine needs and has not been brought, in its order.
pub(super) fn send(source: &mut Source, wish: &Wish, folders: &[PathBuf], out: impl io::Write) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(256 << 10, out);
    let mut stream = StreamWriter::new(&mut out, WISH);
    stream.write_all(&serde_json::to_vec(wish)?)?;
    stream.end()?;
    let mut stream = StreamWriter::new(&mut out, FIRST);
    match source {
        Source::Remote(_) => {}
        Source::Input(head) => {
            let mut whole = io::Cursor::new(std::mem::take(head)).chain(io::stdin().lock());
            io::copy(&mut whole, &mut stream)?;
            stream.end()?;
        }
        Source::Dockerfile(text) => {
            let mut tar = image::tar::Writer::new(&mut stream);
            let kind = image::tar::Kind::File(image::tar::FileData::plain(text.len() as u64));
            let (path, mtime) = (b"Dockerfile".to_vec(), image::tar::Time::default());
            tar.entry(&image::tar::Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: Vec::new() })?;
            tar.data(text)?;
            tar.finish()?;
            stream.end()?;
        }
        Source::Folder { .. } if wish.kept.is_some() => {}
        // What is asked stands in the Dockerfile alone.
        Source::Folder { .. } if wish.call.is_some() => stream.end()?,
        Source::Folder { path, .. } => {
            let ignored = Ignored::of(wish.ignore_text.as_deref())?;
            pack_contents(path, &|name, directory| ignored.wants(name, directory), &mut stream)?;
            stream.end()?;
        }
    }
    let streamed = wish.contexts.iter().filter(|(_, c)| matches!(c, WishedContext::Folder | WishedContext::Layout(_)));
    for (at, ((_, context), folder)) in streamed.zip(folders).enumerate() {
        let number = MORE.checked_add(at as u8).ok_or_else(|| io::Error::other("too many build contexts"))?;
        let mut stream = StreamWriter::new(&mut out, number);
        match context {
            WishedContext::Folder => {
                let ignored = Ignored::of(read_text(&folder.join(".dockerignore"))?.as_deref())?;
                pack_contents(folder, &|name, directory| ignored.wants(name, directory), &mut stream)?;
            }
            _ => pack_contents(folder, &|_: &str, _: bool| true, &mut stream)?,
        }
        stream.end()?;
    }
    out.flush()
}

/// Where the context comes from.
pub(super) enum Source {
    /// Standard input is the tar; its first bytes were read.
    Input(Vec<u8>),
    /// Standard input was a Dockerfile: there is nothing else.
    Dockerfile(Vec<u8>),
    Remote(String),
    Folder {
        path: PathBuf,
    },
}

impl Source {
    pub(super) fn find(argument: &str) -> Result<Self, Failure> {
        if argument == "-" {
            let mut head = Vec::new();
            io::stdin().lock().take(512).read_to_end(&mut head)?;
            if image::is_archive(&head) {
                return Ok(Self::Input(head));
            }
            io::stdin().lock().take(4 << 20).read_to_end(&mut head)?;
            return Ok(Self::Dockerfile(head));
        }
        if build::Remote::parse(argument).map_err(Failure::new)?.is_some() && !Path::new(argument).exists() {
            return Ok(Self::Remote(argument.to_owned()));
        }
        let path = Path::new(argument);
        let data = std::fs::metadata(path)
            .map_err(|_| Failure::new(format!("unable to prepare context: path {argument:?} not found")))?;
        if !data.is_dir() {
            return Err(Failure::new(format!("unable to prepare context: {argument:?} is not a directory")));
        }
        Ok(Self::Folder { path: path.to_owned() })
    }

    /// What the engine calls the Dockerfile; reads it, and what it leaves out, where they are on this side.
    pub(super) fn dockerfile(&self, file: Option<&str>, wish: &mut Wish) -> Result<String, Failure> {
        let path = match self {
            Self::Folder { path } => path,
            Self::Input(_) | Self::Remote(_) if file != Some("-") => {
                return Ok(file.unwrap_or("Dockerfile").to_owned());
            }
            _ => return Ok("Dockerfile".to_owned()),
        };
        let failed = |e: io::Error| Failure::new(format!("read {}: {}", path.display(), plain(&e)));
        let place = file.map_or_else(|| path.join("Dockerfile"), PathBuf::from);
        let mut own_ignore = None;
        let name = if file == Some("-") {
            "Dockerfile".to_owned()
        } else {
            let text = std::fs::read(&place).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => Failure::new(format!(
                    "unable to evaluate symlinks in Dockerfile path: {}: no such file",
                    place.display()
                )),
                _ => Failure::new(format!("read {}: {}", place.display(), plain(&e))),
            })?;
            let text = String::from_utf8(text);
            wish.dockerfile_text = Some(text.map_err(|_| Failure::new("the Dockerfile is not UTF-8 text"))?);
            let mut own = place.clone().into_os_string();
            own.push(".dockerignore");
            own_ignore = read_text(Path::new(&own)).map_err(failed)?;
            within(path, &place)?
        };
        wish.ignore_text = match own_ignore {
            Some(own) => Some(own),
            None => read_text(&path.join(".dockerignore")).map_err(failed)?,
        };
        Ok(name)
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Self::Folder { path, .. } => path.display().to_string(),
            Self::Input(_) | Self::Dockerfile(_) => "standard input".into(),
            Self::Remote(address) => address.clone(),
        }
    }
}

/// The Dockerfile's path within the context, or its name alone where it is elsewhere; `file` is relative to where we are, as
/// with docker.
fn within(context: &Path, file: &Path) -> Result<String, Failure> {
    let whole = |path: &Path| {
        std::fs::canonicalize(path).map_err(|e| Failure::new(format!("{}: {}", path.display(), plain(&e))))
    };
    let (context, file) = (whole(context)?, whole(file)?);
    let name = file.strip_prefix(&context).ok().or(file.file_name().map(Path::new)).unwrap_or(&file);
    Ok(name.to_string_lossy().into_owned())
}

fn read_text(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a `.dockerignore` leaves out.
struct Ignored(build::Patterns);

impl Ignored {
    fn of(text: Option<&str>) -> io::Result<Self> {
        build::Patterns::parse(text.unwrap_or_default()).map(Self).map_err(io::Error::other)
    }

    fn wants(&self, name: &str, directory: bool) -> bool {
        !self.0.excludes(name) || directory && self.0.may_include_below(name)
    }
}

/// Connections over which folders were brought: the engine keeps the folders as they are while these are open.
pub(super) type Held = Vec<Stream>;

/// Brings all folders to the engine, which asks only for what has changed since the last time, and names them in the wish. One
/// that cannot be brought that way is left to [`send`].
pub(super) fn bring(
    client: &Client,
    source: &Source,
    wish: &mut Wish,
    folders: &mut Vec<PathBuf>,
) -> Result<Held, Failure> {
    let mut held = Held::new();
    if let Source::Folder { path } = source
        && wish.call.is_none()
    {
        let ignored = Ignored::of(wish.ignore_text.as_deref()).map_err(|e| Failure::new(e.to_string()))?;
        wish.kept = bring_one(client, path, "context", &ignored, &mut held)?;
    }
    let mut left = Vec::new();
    let mut places = folders.drain(..);
    for (name, context) in &mut wish.contexts {
        let place = match context {
            WishedContext::Folder | WishedContext::Layout(_) => places.next(),
            _ => None,
        };
        let Some(place) = place else { continue };
        if *context == WishedContext::Folder {
            let text = read_text(&place.join(".dockerignore"));
            let text = text.map_err(|e| Failure::new(format!("read {}: {}", place.display(), plain(&e))))?;
            let ignored = Ignored::of(text.as_deref()).map_err(|e| Failure::new(e.to_string()))?;
            if let Some(brought) = bring_one(client, &place, name, &ignored, &mut held)? {
                *context = WishedContext::Kept(brought);
                continue;
            }
        }
        left.push(place);
    }
    drop(places);
    *folders = left;
    Ok(held)
}

fn bring_one(
    client: &Client,
    folder: &Path,
    name: &str,
    ignored: &Ignored,
    held: &mut Held,
) -> Result<Option<String>, Failure> {
    let failed = |e: io::Error| Failure::new(format!("read {}: {}", folder.display(), plain(&e)));
    let key = key_of(folder, name).map_err(failed)?;
    let connection =
        client.hijack(&format!("/build/context{}", query(&[("key", &key)])), crate::client::http::Body::Empty)?;
    let output = connection.stream.try_clone()?;
    let wanted = |name: &str, directory: bool| ignored.wants(name, directory);
    match buildkit::sync::bring(folder, &wanted, connection.reader()?, output) {
        Ok(name) => {
            held.push(connection.stream);
            Ok(Some(name))
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Under what the engine keeps a folder: the same folder of the same machine, and no other.
fn key_of(folder: &Path, name: &str) -> io::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let whole = std::fs::canonicalize(folder)?;
    let facts = std::fs::metadata(&whole)?;
    let machine = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or(machine);
    Ok(format!("{name} {} {} {} {}", machine.trim(), facts.dev(), facts.ino(), whole.display()))
}
