//! Uploads under way: a file and what it hashes to so far. They outlive a restart of the server (the file's length says how
//! far one got) and vanish when nobody has touched them for a day.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use image::hash::Hasher;
use tokio::sync::OwnedMutexGuard;
use vocab::Digest;

use super::error::{Code, Outcome, Refusal};
use crate::names::Repository;

pub(crate) struct Uploads {
    folder: PathBuf,
    live: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Upload>>>>>,
}

/// One upload. `None` in its lock: what is known of it is on the disk.
pub(crate) struct Upload {
    path: PathBuf,
    file: File,
    hasher: Hasher,
}

/// Whoever holds it may write; others wait.
pub(crate) type Claim = OwnedMutexGuard<Option<Upload>>;

impl Uploads {
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder, live: Mutex::default() })
    }

    fn place(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// Begins an upload; returns its id.
    pub(crate) fn begin(&self, repository: &Repository) -> Outcome<String> {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|e| Refusal::internal("no random numbers", e))?;
        let id = hex::encode(random);
        let folder = self.place(&id);
        let make = || {
            fs::DirBuilder::new().mode(0o700).create(&folder)?;
            fs::write(folder.join("repository"), repository.as_str())?;
            File::create_new(folder.join("data")).map(drop)
        };
        make().map_err(|e| Refusal::internal("begin an upload", e))?;
        Ok(id)
    }

    /// Waits until nobody else writes to the upload, then claims it.
    pub(crate) async fn claim(&self, repository: &Repository, id: &str) -> Outcome<Claim> {
        let unknown = || Refusal::with(Code::BlobUploadUnknown, id.chars().take(100).collect::<String>());
        if id.len() != 32 || !id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(unknown());
        }
        let folder = self.place(id);
        // An upload belongs to the repository in which it began, whoever knows its id.
        if fs::read_to_string(folder.join("repository")).ok().as_deref() != Some(repository.as_str()) {
            return Err(unknown());
        }
        let slot = {
            let mut live = self.live.lock().unwrap_or_else(|e| e.into_inner());
            live.entry(id.to_owned()).or_default().clone()
        };
        let mut claim = slot.lock_owned().await;
        if claim.is_none() {
            let path = folder.join("data");
            let resumed = tokio::task::spawn_blocking(move || Upload::resume(path)).await;
            let resumed = resumed.map_err(|e| Refusal::internal("resume an upload", e))?;
            match resumed {
                Ok(upload) => *claim = Some(upload),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.live.lock().unwrap_or_else(|e| e.into_inner()).remove(id);
                    return Err(unknown());
                }
                Err(e) => return Err(Refusal::internal("resume an upload", e)),
            }
        }
        Ok(claim)
    }

    /// Forgets an upload that is finished or given up. Its claim must be at hand, so that nobody writes.
    pub(crate) fn end(&self, id: &str, mut claim: Claim) {
        *claim = None;
        remove(&self.place(id));
        self.live.lock().unwrap_or_else(|e| e.into_inner()).remove(id);
    }

    /// Removes uploads that nobody has touched since `before`.
    pub(crate) fn expire(&self, idle: Duration) {
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            // An upload that is just being made has no file yet: then its folder tells.
            let meta = entry.path().join("data").metadata().or_else(|_| entry.metadata());
            let touched = meta.and_then(|meta| meta.modified());
            let old = touched.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age >= idle));
            let id = entry.file_name().to_string_lossy().into_owned();
            let slot = self.live.lock().unwrap_or_else(|e| e.into_inner()).get(&id).cloned();
            match slot.map(|slot| slot.try_lock_owned()) {
                Some(Ok(claim)) if old => self.end(&id, claim),
                None if old => remove(&entry.path()),
                _ => {}
            }
        }
    }
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %folder.display(), %error, "an upload could not be removed");
    }
}

impl Upload {
    fn resume(path: PathBuf) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).open(&path)?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        Ok(Self { path, file, hasher })
    }

    /// Bytes so far.
    pub(crate) fn offset(&self) -> u64 {
        self.hasher.bytes()
    }

    /// Appends pieces. Blocking. After an error the upload must be forgotten: how much was written is not known.
    pub(crate) fn append(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            self.file.write_all(piece)?;
            self.hasher.update(piece);
        }
        Ok(())
    }

    /// Ends the writing: the file, its length and its digest.
    pub(crate) fn finish(self) -> (PathBuf, u64, Digest) {
        let bytes = self.hasher.bytes();
        (self.path, bytes, self.hasher.finish())
    }
}
