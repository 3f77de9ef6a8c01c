//! Files at addresses, kept below `<root>/build/downloads`: asked for again with what the server said of them, so that only
//! what has changed comes twice. Each address has one file; a step that reads it holds it open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use linux::fs::{Mode, OFlags, Root, Timespec, Timestamps};
use registry::client::{Client, Fetched, Validators};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use vocab::Digest;

use super::remote::file_name;
use crate::cache::{CacheEntry, CacheRecord};
use crate::error::{BuildError, Result};

const DOWNLOADS: db::Table<String, Record> = db::Table::new("build-downloads");
/// Bytes of one file. A server that tells more, or sends more, is not read on.
const BYTES_MAX: u64 = 32 << 30;

/// What is known of an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    digest: Digest,
    bytes: u64,
    etag: Option<String>,
    last_modified: Option<String>,
    created_at: Timestamp,
    last_used_at: Timestamp,
    uses: u64,
}

/// A file that was downloaded: root's, mode 0600, as old as the server says.
#[derive(Debug)]
pub(crate) struct Download {
    /// `O_PATH`. Good for reading although the file may be pruned meanwhile.
    pub(crate) fd: OwnedFd,
    pub(crate) digest: Digest,
    pub(crate) name: String,
}

pub(crate) struct Downloads {
    dir: PathBuf,
    db: db::Db,
    client: Client,
    /// Addresses that somebody is asking about.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl std::fmt::Debug for Downloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Downloads").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Downloads {
    /// Removes what a killed process was downloading.
    pub(crate) fn open(dir: PathBuf, engine: &engine::Engine) -> Result<Self> {
        let io = |source| BuildError::Io { what: format!("open {}", dir.display()), source };
        std::fs::create_dir_all(&dir).map_err(io)?;
        let db = engine.db().clone();
        let known: Vec<String> = db.read()?.list(&DOWNLOADS)?.iter().map(|(url, record)| file(url, record)).collect();
        let root = Root::open(&dir)?;
        for entry in linux::tree::entries(root.open_dir("/")?)? {
            if !known.iter().any(|name| entry.name == name.as_str()) {
                linux::tree::remove_all(&root, &entry.name)?;
            }
        }
        Ok(Self { dir, db, client: engine.web_client(), busy: Mutex::default() })
    }

    /// The file at an address as it is now. With a checksum, a file that is here already and has it is not asked for again.
    pub(crate) async fn get(
        &self,
        url: &str,
        checksum: Option<&Digest>,
        cancel: &CancellationToken,
    ) -> Result<Download> {
        let turn = {
            let mut busy = self.busy.lock().unwrap_or_else(|e| e.into_inner());
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            busy.entry(url.to_owned()).or_default().clone()
        };
        let work = async {
            let _turn = turn.lock().await;
            self.get_alone(url, checksum).await
        };
        tokio::select! {
            done = work => done,
            () = cancel.cancelled() => Err(BuildError::Cancelled),
        }
    }

    async fn get_alone(&self, url: &str, checksum: Option<&Digest>) -> Result<Download> {
        let known = self.db.read()?.get(&DOWNLOADS, &url.to_owned())?;
        let known = known.filter(|record| self.dir.join(file(url, record)).exists());
        if let Some(record) = &known
            && checksum == Some(&record.digest)
        {
            return self.use_again(url, record.clone());
        }
        let validators = known
            .as_ref()
            .map(|record| Validators { etag: record.etag.clone(), last_modified: record.last_modified.clone() });
        let failed = |detail: String| BuildError::Invalid(format!("failed to fetch {url}: {detail}"));
        let fetched = self.client.fetch(url, &validators.unwrap_or_default()).await;
        let mut download = match fetched.map_err(|e| failed(e.to_string()))? {
            Fetched::Unchanged => match known {
                Some(record) => {
                    check(url, checksum, &record.digest)?;
                    return self.use_again(url, record);
                }
                None => return Err(failed("the server says that nothing has changed, and was not asked".into())),
            },
            Fetched::Changed(download) => download,
        };
        let too_large = || failed(format!("it has more than {BYTES_MAX} bytes"));
        if download.bytes.is_some_and(|bytes| bytes > BYTES_MAX) {
            return Err(too_large());
        }
        let partial = Partial::new(&self.dir)?;
        let shown = partial.path.display().to_string();
        let io = |source| BuildError::Io { what: format!("write {shown}"), source };
        let mut out = tokio::fs::File::from_std(partial.create().map_err(io)?);
        let mut hasher = image::hash::Hasher::default();
        while let Some(piece) = download.piece().await.map_err(|e| failed(e.to_string()))? {
            hasher.update(&piece);
            if hasher.bytes() > BYTES_MAX {
                return Err(too_large());
            }
            out.write_all(&piece).await.map_err(io)?;
        }
        out.flush().await.map_err(io)?;
        let out = out.into_std().await;
        let bytes = hasher.bytes();
        let digest = hasher.finish();
        check(url, checksum, &digest)?;
        let now = Timestamp::now();
        let time = Timespec { tv_sec: download.modified_at().unwrap_or(now.as_second()), tv_nsec: 0 };
        linux::fs::fchown(&out, 0, 0)?;
        linux::fs::fchmod(&out, Mode::from_raw_mode(0o600))?;
        linux::fs::futimens(&out, &Timestamps { last_access: time, last_modification: time })?;
        let Validators { etag, last_modified } = download.validators;
        let record = Record { digest, bytes, etag, last_modified, created_at: now, last_used_at: now, uses: 1 };
        let name = file(url, &record);
        if let Some(old) = known.map(|record| file(url, &record)).filter(|old| *old != name) {
            self.forget(&old)?;
        }
        partial.keep(&self.dir.join(&name)).map_err(io)?;
        self.db.write(|txn| Ok::<_, BuildError>(txn.put(&DOWNLOADS, &url.to_owned(), &record)?))?;
        self.open_file(url, &record)
    }

    fn use_again(&self, url: &str, mut record: Record) -> Result<Download> {
        record.last_used_at = Timestamp::now();
        record.uses += 1;
        self.db.write(|txn| Ok::<_, BuildError>(txn.put(&DOWNLOADS, &url.to_owned(), &record)?))?;
        self.open_file(url, &record)
    }

    fn open_file(&self, url: &str, record: &Record) -> Result<Download> {
        let root = Root::open(&self.dir)?;
        let fd = linux::fs::openat(&root, file(url, record), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Download { fd, digest: record.digest, name: file_name(url) })
    }

    /// A file that nobody else sees and that is gone when it is closed.
    pub(crate) fn scratch(&self) -> Result<std::fs::File> {
        let partial = Partial::new(&self.dir)?;
        let io = |source| BuildError::Io { what: format!("make {}", partial.path.display()), source };
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).open(&partial.path).map_err(io)
    }

    /// Blocking.
    pub(crate) fn list(&self) -> Result<Vec<CacheEntry>> {
        let mut found = Vec::new();
        for (url, record) in self.db.read()?.list(&DOWNLOADS)? {
            found.push(CacheEntry {
                key: file(&url, &record),
                parent: None,
                shared: false,
                in_use: false,
                kind: crate::cache::CacheKind::Source,
                record: CacheRecord {
                    top: None,
                    description: format!("http url {url}"),
                    created_at: record.created_at,
                    last_used_at: record.last_used_at,
                    uses: record.uses,
                    bytes: record.bytes,
                },
            });
        }
        Ok(found)
    }

    /// Removes one; false if there is none of that key. Blocking.
    pub(crate) fn remove(&self, key: &str) -> Result<bool> {
        let found = self.db.read()?.list(&DOWNLOADS)?.into_iter().find(|(url, record)| file(url, record) == key);
        let Some((url, _)) = found else { return Ok(false) };
        self.db.write(|txn| Ok::<_, BuildError>(txn.remove(&DOWNLOADS, &url)?))?;
        self.forget(key)?;
        Ok(true)
    }

    fn forget(&self, name: &str) -> Result<()> {
        Ok(linux::tree::remove_all(Root::open(&self.dir)?, name)?)
    }
}

fn check(url: &str, expected: Option<&Digest>, actual: &Digest) -> Result<()> {
    match expected {
        Some(expected) if expected != actual => {
            Err(BuildError::Invalid(format!("digest mismatch for {url}: {actual}, expected {expected}")))
        }
        _ => Ok(()),
    }
}

/// A file's name on disk is made of digests only: an address leads nowhere.
fn file(url: &str, record: &Record) -> String {
    let url = image::hash::sha256(url.as_bytes()).hex();
    format!("{}-{}", &url[..32], &record.digest.hex()[..32])
}

/// A file that goes away unless it is complete.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn new(dir: &Path) -> Result<Self> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("partial-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Self { path: dir.join(name) })
    }

    fn create(&self) -> std::io::Result<std::fs::File> {
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)
    }

    fn keep(self, place: &Path) -> std::io::Result<()> {
        std::fs::rename(&self.path, place)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Nothing to remove once it was kept.
        let _ = std::fs::remove_file(&self.path);
    }
}
