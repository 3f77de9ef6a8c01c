//! Images and file systems as files: `load`, `save`, `import`, `export`, `commit`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Command, Context, images, out};
use crate::client::http::{Body, encode};
use crate::client::{query, terminal};
use crate::failure::Failure;
use crate::flags::{Arity, Flag, Matches, list, switch, text};

/// A bar on standard error, only where that is a terminal.
fn bar(total: Option<u64>, quiet: bool) -> indicatif::ProgressBar {
    if quiet || !terminal::is_terminal(io::stderr()) {
        return indicatif::ProgressBar::hidden();
    }
    match total {
        Some(total) => {
            let style =
                indicatif::ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
            indicatif::ProgressBar::new(total).with_style(style.expect("a valid template"))
        }
        None => {
            let style = indicatif::ProgressStyle::with_template("{spinner} {bytes} {bytes_per_sec}");
            indicatif::ProgressBar::new_spinner().with_style(style.expect("a valid template"))
        }
    }
}

fn open(path: &str) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::new(format!("open {path}: {}", super::run::plain(&error))))
}

pub(super) static LOAD: Command = Command {
    name: "load",
    usage: "[OPTIONS]",
    about: "Load an image from a tar archive or STDIN",
    examples: "  knarr load -i busybox.tar          what `docker save` or `knarr save` wrote, or an OCI layout\n  zcat image.tar.gz | knarr load",
    flags: &[&[
        text("input", "Read from tar archive file, instead of STDIN").short('i'),
        switch("quiet", "Suppress the load output").short('q'),
        list("platform", "Load only the given platform(s)"),
    ]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let quiet = matches.is("quiet");
        let (mut input, size): (Box<dyn Read>, _) = match matches.text("input") {
            Some(path) => {
                let file = open(path)?;
                let size = file.metadata().ok().filter(|data| data.is_file()).map(|data| data.len());
                (Box::new(file), size)
            }
            None if terminal::is_terminal(io::stdin()) => {
                return Err("requested load from stdin, but stdin is empty".into());
            }
            None => (Box::new(io::stdin().lock()), None),
        };
        let bar = bar(size, quiet);
        let mut input = bar.wrap_read(&mut input);
        let mut parameters = vec![("quiet", if quiet { "1" } else { "0" })];
        parameters.extend(matches.list("platform").iter().map(|platform| ("platform", platform.as_str())));
        let path = format!("/images/load{}", query(&parameters));
        let answer = context.client.request(
            "POST",
            &path,
            Body::Stream { reader: &mut input, kind: "application/x-tar", logins: None },
        );
        bar.finish_and_clear();
        images::progress(answer?, false)?;
        Ok(0)
    },
};

const OUTPUT: Flag = text("output", "Write to a file, instead of STDOUT").short('o');

pub(super) static SAVE: Command = Command {
    name: "save",
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Save one or more images to a tar archive (streamed to STDOUT by default)",
    examples: "  knarr save -o busybox.tar busybox:1\n  knarr save busybox:1 | ssh there knarr load",
    flags: &[&[OUTPUT, list("platform", "Save only the given platform(s)")]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| {
        let mut parameters: Vec<(&str, &str)> = matches.arguments.iter().map(|name| ("names", name.as_str())).collect();
        parameters.extend(matches.list("platform").iter().map(|platform| ("platform", platform.as_str())));
        download(context, matches, &format!("/images/get{}", query(&parameters)))
    },
};

pub(super) static EXPORT: Command = Command {
    name: "export",
    usage: "[OPTIONS] CONTAINER",
    about: "Export a container's filesystem as a tar archive",
    examples: "  knarr export -o rootfs.tar web",
    flags: &[&[OUTPUT]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |context, matches| {
        download(context, matches, &format!("/containers/{}/export", encode(&matches.arguments[0])))
    },
};

/// Streams an archive to a file or to standard output. A file appears under its name only when it is whole.
pub(super) fn download(context: &Context, matches: &Matches, path: &str) -> Result<u8, Failure> {
    let Some(name) = matches.text("output") else {
        if terminal::is_terminal(io::stdout()) {
            return Err("cowardly refusing to save to a terminal. Use the -o flag or redirect".into());
        }
        let mut answer = context.client.request("GET", path, Body::Empty)?;
        io::copy(&mut answer, &mut io::stdout().lock())?;
        return Ok(0);
    };
    let target = Path::new(name);
    let failed = |what: &str, error: io::Error| Failure::new(format!("{what} {name}: {}", super::run::plain(&error)));
    // What is not a plain file, /dev/null for one, is written to as it is.
    let special = std::fs::metadata(target).is_ok_and(|data| !data.is_file());
    let mut answer = context.client.request("GET", path, Body::Empty)?;
    let bar = bar(None, false);
    let copied = match special {
        true => File::options()
            .write(true)
            .open(target)
            .and_then(|mut file| io::copy(&mut bar.wrap_read(&mut answer), &mut file)),
        false => {
            let partial = Partial::create(target).map_err(|error| failed("open", error))?;
            io::copy(&mut bar.wrap_read(&mut answer), &mut &partial.file)
                .and_then(|count| partial.keep(target).map(|()| count))
        }
    };
    bar.finish_and_clear();
    copied.map_err(|error| failed("write", error))?;
    Ok(0)
}

/// A file that is removed unless it was finished.
struct Partial {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Partial {
    fn create(target: &Path) -> io::Result<Self> {
        let mut name = std::ffi::OsString::from(".tmp-");
        name.push(target.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?);
        name.push(std::process::id().to_string());
        let path = target.with_file_name(name);
        Ok(Self { file: File::options().write(true).create_new(true).open(&path)?, path, kept: false })
    }

    fn keep(mut self, target: &Path) -> io::Result<()> {
        (&self.file).flush()?;
        std::fs::rename(&self.path, target)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // Ours alone, by its name; nothing else can be done about it here.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

pub(super) static IMPORT: Command = Command {
    name: "import",
    usage: "[OPTIONS] file|- [REPOSITORY[:TAG]]",
    about: "Import the contents from a tarball to create a filesystem image",
    examples: "  tar -C rootfs -c . | knarr import -c 'CMD [\"sh\"]' - mine:1",
    flags: &[&[
        list("change", "Apply Dockerfile instruction to the created image").short('c'),
        text("message", "Set commit message for imported image").short('m'),
        text("platform", "Set platform if server is multi-platform capable"),
    ]],
    interspersed: true,
    arity: Arity::Between(1, 2),
    run: |context, matches| {
        let source = &matches.arguments[0];
        if source.starts_with("http://") || source.starts_with("https://") {
            return Err("importing from an address is not supported: download it and import the file".into());
        }
        let mut input: Box<dyn Read> =
            if source == "-" { Box::new(io::stdin().lock()) } else { Box::new(open(source)?) };
        let mut parameters = vec![("fromSrc", "-")];
        let target = matches.arguments.get(1).map(|name| {
            let reference: Result<vocab::Reference, _> = name.parse();
            reference.map_err(|error| Failure::new(format!("invalid reference format: {error}")))
        });
        let target = target.transpose()?;
        let repository = target.as_ref().map(vocab::Reference::familiar_repository);
        if let (Some(repository), Some(target)) = (&repository, &target) {
            parameters.push(("repo", repository));
            if let Some(tag) = target.tag() {
                parameters.push(("tag", tag));
            }
        }
        parameters.extend(matches.list("change").iter().map(|change| ("changes", change.as_str())));
        if let Some(message) = matches.text("message") {
            parameters.push(("message", message));
        }
        if let Some(platform) = matches.text("platform") {
            parameters.push(("platform", platform));
        }
        let path = format!("/images/create{}", query(&parameters));
        let answer = context.client.request(
            "POST",
            &path,
            Body::Stream { reader: &mut input, kind: "application/x-tar", logins: None },
        )?;
        images::progress(answer, false)?;
        Ok(0)
    },
};

pub(super) static COMMIT: Command = Command {
    name: "commit",
    usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    about: "Create a new image from a container's changes",
    examples: "  knarr commit -m 'with curl' -c 'CMD [\"curl\"]' web tools:1",
    flags: &[&[
        text("author", "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")").short('a'),
        list("change", "Apply Dockerfile instruction to the created image").short('c'),
        text("message", "Commit message").short('m'),
        switch("pause", "Pause container during commit").short('p').default("true"),
    ]],
    interspersed: true,
    arity: Arity::Between(1, 2),
    run: |context, matches| {
        let mut parameters = vec![("container", matches.arguments[0].as_str())];
        let target = matches.arguments.get(1).map(|name| {
            let reference: Result<vocab::Reference, _> = name.parse();
            reference.map_err(|error| Failure::new(format!("invalid reference format: {error}")))
        });
        let target = target.transpose()?;
        let repository = target.as_ref().map(vocab::Reference::familiar_repository);
        if let (Some(repository), Some(target)) = (&repository, &target) {
            parameters.push(("repo", repository));
            parameters.push(("tag", target.tag().unwrap_or("latest")));
        }
        for (flag, parameter) in [("author", "author"), ("message", "comment")] {
            if let Some(value) = matches.text(flag) {
                parameters.push((parameter, value));
            }
        }
        parameters.extend(matches.list("change").iter().map(|change| ("changes", change.as_str())));
        if !matches.is_or("pause", true) {
            parameters.push(("pause", "0"));
        }
        let answer = context.client.post(&format!("/commit{}", query(&parameters)), Some(&json!({})))?;
        out(&format!("{}\n", answer["Id"].as_str().unwrap_or("")))?;
        Ok(0)
    },
};
