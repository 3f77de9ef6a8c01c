//! The files of a finished build, mounted for reading while somebody looks at them.

use std::path::PathBuf;
use std::sync::Arc;

use build::Built;
use linux::fs::{FileType, Mode, OFlags, Root};
use tonic::Status;

use crate::errors::status_of;
use crate::files::stat_of;
use crate::kit::Kit;
use crate::wire::fsutil::Stat;

/// Bytes of a file that are answered at once.
const READ_BYTES_MAX: u64 = 12 << 20;
/// Entries of a directory that are answered.
const ENTRIES_MAX: usize = 100_000;

/// Goes with its snapshot; what was built stays as long as `built` is held.
#[derive(Debug)]
pub(crate) struct View {
    store: Arc<image::Store>,
    name: String,
    root: Option<Root>,
    _built: Arc<Built>,
}

impl View {
    /// Blocking.
    pub(crate) fn open(kit: &Kit, built: &Arc<Built>) -> Result<Self, Status> {
        let store = kit.builder.engine().store().clone();
        let name = format!("build-view-{}-{}", std::process::id(), crate::ids::new());
        let failed = |error: image::Error| status_of(&error.into(), None);
        store.prepare_on(&name, built.top.as_ref()).map_err(failed)?;
        let mut view = Self { store, name, root: None, _built: built.clone() };
        let mounted = view.store.mount_files(&view.name).map_err(failed)?;
        view.root = Some(Root::from_fd(mounted));
        Ok(view)
    }

    pub(crate) fn root(&self) -> &Root {
        self.root.as_ref().expect("there until it is dropped")
    }

    pub(crate) fn read(&self, path: &str, offset: u64, length: u64) -> Result<Vec<u8>, Status> {
        use std::io::{Read, Seek, SeekFrom};
        let fd = self.root().open_file(relative(path), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
        let mut file = std::fs::File::from(fd.map_err(|error| not_there(path, &error))?);
        let io = |error: std::io::Error| Status::unknown(format!("read {path}: {error}"));
        if !file.metadata().map_err(io)?.is_file() {
            return Err(Status::invalid_argument(format!("{path} is not a file")));
        }
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        let limit = if length == 0 { READ_BYTES_MAX } else { length.min(READ_BYTES_MAX) };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > limit {
            if length == 0 || length > READ_BYTES_MAX {
                return Err(Status::resource_exhausted(format!("{path} is larger than {READ_BYTES_MAX} bytes")));
            }
            bytes.truncate(limit as usize);
        }
        Ok(bytes)
    }

    pub(crate) fn stat(&self, path: &str) -> Result<Stat, Status> {
        let facts = self.root().lstat(relative(path)).map_err(|error| not_there(path, &error))?;
        let mut stat = stat_of(path.rsplit('/').next().unwrap_or(path), &facts);
        stat.size = facts.st_size;
        if linux::fs::file_type(&facts) == FileType::Symlink
            && let Ok(target) = self.root().readlink(relative(path))
        {
            stat.linkname = target.to_string_lossy().into_owned();
        }
        Ok(stat)
    }

    pub(crate) fn list(&self, path: &str) -> Result<Vec<Stat>, Status> {
        let failed = |error: linux::Error| not_there(path, &error);
        let dir = self.root().open_dir(relative(path)).map_err(failed)?;
        let mut entries = linux::tree::entries(&dir).map_err(failed)?;
        if entries.len() > ENTRIES_MAX {
            return Err(Status::resource_exhausted(format!("{path} has more than {ENTRIES_MAX} entries")));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut stats = Vec::new();
        for entry in entries {
            let facts = linux::fs::lstatat(&dir, &entry.name).map_err(failed)?;
            let mut stat = stat_of(&entry.name.to_string_lossy(), &facts);
            stat.size = facts.st_size;
            if linux::fs::file_type(&facts) == FileType::Symlink {
                let target = linux::fs::readlinkat(&dir, &entry.name).map_err(failed)?;
                stat.linkname = target.to_string_lossy().into_owned();
            }
            stats.push(stat);
        }
        Ok(stats)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // The mount first: it lies on the snapshot's folders.
        self.root = None;
        if let Err(error) = self.store.remove_snapshot(&self.name) {
            tracing::warn!(snapshot = self.name, %error, "a look at a build's files stays behind");
        }
    }
}

fn relative(path: &str) -> PathBuf {
    let path = path.trim_matches('/');
    PathBuf::from(if path.is_empty() { "." } else { path })
}

fn not_there(path: &str, error: &linux::Error) -> Status {
    match error.errno() {
        linux::Errno::NOENT | linux::Errno::NOTDIR => {
            Status::not_found(format!("open {path}: no such file or directory"))
        }
        _ => Status::unknown(format!("open {path}: {error}")),
    }
}
