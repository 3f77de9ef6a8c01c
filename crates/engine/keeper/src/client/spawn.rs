//! Starting a keeper, and finding those that run.

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use linux::self_exe;

use super::{Config, Error, Result};
use crate::server::{directory, socket_path};

/// Tells one build of the program from another: what the keeper was made from understands the plans of what has the same fingerprint.
pub(super) fn fingerprint(config: &Config) -> Result<u64> {
    let program = program(config)?;
    let meta = std::fs::metadata(program).map_err(|error| system("fingerprint of the program", program, &error))?;
    let words = [meta.dev(), meta.ino(), meta.size(), meta.mtime() as u64, meta.mtime_nsec() as u64];
    // FNV-1a.
    Ok(words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)))
}

fn program(config: &Config) -> Result<&Path> {
    config.command.first().map(Path::new).ok_or_else(|| Error::Refused {
        what: "start",
        kind: vocab::ErrorKind::Invalid,
        message: "no program is configured".into(),
    })
}

fn system(what: &'static str, path: &Path, error: &std::io::Error) -> Error {
    let errno = linux::Errno::from_raw_os_error(error.raw_os_error().unwrap_or(5));
    Error::System { what, source: linux::Error::new(what, format_args!("{path:?}"), errno) }
}

/// Starts keeper number `generation`; it listens when this returns. Blocks for some milliseconds.
///
/// The keeper runs from a read-only view (or a sealed copy) of the program, because its children enter containers before they execute another
/// program, and from inside `/proc/PID/exe` leads here.
pub(super) fn spawn(config: &Config, generation: u32, build: u64) -> Result<()> {
    let dir = directory(&config.run);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|error| system("create the directory", &dir, &error))?;
    let program = program(config)?;
    let view = self_exe::read_only_view(program)
        .or_else(|_| self_exe::sealed_copy(program))
        .map_err(|source| Error::System { what: "start", source })?;
    let log_path = dir.join("keeper.log");
    let log = std::fs::File::options()
        .append(true)
        .create(true)
        .open(&log_path)
        .map_err(|error| system("open the log", &log_path, &error))?;
    let numbered = |name: &str, value: u64| [OsString::from(name), value.to_string().into()];
    let mut command = Command::new(format!("/proc/self/fd/{}", view.as_raw_fd()));
    command
        .arg0(&config.command[0])
        .args(&config.command[1..])
        .arg("--run")
        .arg(&config.run)
        .args(numbered("--generation", generation.into()))
        .args(numbered("--build", build))
        .arg("--detach")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0);
    let status = command.status().map_err(|error| system("start", program, &error))?;
    if !status.success() {
        return Err(Error::Refused {
            what: "start",
            kind: vocab::ErrorKind::Internal,
            message: format!("{status}; see {}", log_path.display()),
        });
    }
    Ok(())
}

/// Numbers of the sockets in the run directory, oldest first.
pub(super) fn generations(run: &Path) -> Vec<u32> {
    let mut found: Vec<u32> = std::fs::read_dir(directory(run))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".sock")?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

/// A socket on which nobody listens any more.
pub(super) fn remove_socket(run: &Path, generation: u32) {
    let _ = std::fs::remove_file(socket_path(run, generation));
}
