//! What the keeper is started with, and where its files are.

use std::path::{Path, PathBuf};

/// What the keeper's command line says.
#[derive(Debug, Clone)]
pub struct Args {
    /// The instance's run directory.
    pub run: PathBuf,
    /// Which keeper of this run directory; its socket is `<run>/keeper/<generation>.sock`.
    pub generation: u32,
    /// Fingerprint of the program, from the engine that starts it.
    pub build: u64,
    /// Become a daemon: the caller's process exits once the socket listens.
    pub detach: bool,
}

impl Args {
    /// Reads `--run DIR --generation N --build N [--detach]`.
    pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Self, String> {
        let mut args = args.into_iter();
        let mut parsed = Self { run: PathBuf::new(), generation: 0, build: 0, detach: false };
        while let Some(name) = args.next() {
            let name = name.to_string_lossy().into_owned();
            if name == "--detach" {
                parsed.detach = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("keeper: {name} needs a value"))?;
            let number = || value.to_string_lossy().parse::<u64>().map_err(|_| format!("keeper: {name}: not a number"));
            match name.as_str() {
                "--run" => parsed.run = value.clone().into(),
                "--generation" => parsed.generation = number()? as u32,
                "--build" => parsed.build = number()?,
                _ => return Err(format!("keeper: unknown argument {name}")),
            }
        }
        if parsed.run.as_os_str().is_empty() { Err("keeper: --run is missing".into()) } else { Ok(parsed) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("keeper: {0}")]
    System(#[from] linux::Error),
    #[error("keeper: {path}: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
}

pub(crate) fn directory(run: &Path) -> PathBuf {
    run.join("keeper")
}

pub(crate) fn socket_path(run: &Path, generation: u32) -> PathBuf {
    directory(run).join(format!("{generation}.sock"))
}

pub(crate) fn exit_path(run: &Path, id: &str) -> PathBuf {
    directory(run).join(format!("{id}.exit"))
}

/// Ids name files: letters, digits, `_`, `.`, `-`, not beginning with a dot.
pub(crate) fn valid_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}
