//! What is in the files of a folder, remembered from build to build, so that only what has changed is read again.
//!
//! A file is known by its inode, size and time of last change: every write to it and every renewal of it moves that time,
//! and nobody can set it back. One that changed a moment ago is not remembered: the clock may not have moved since.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use linux::fs::Stat;
use vocab::Digest;

/// Longer than the kernel's clock takes from one time to the next.
const SETTLED: Duration = Duration::from_millis(40);
/// Bytes of one entry in the file: inode, size, seconds, nanoseconds, digest.
const ENTRY_BYTES: usize = 8 + 8 + 8 + 8 + 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    inode: u64,
    size: u64,
    secs: i64,
    nanos: i64,
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        Self { inode: stat.st_ino, size: stat.st_size as u64, secs: stat.st_ctime, nanos: stat.st_ctime_nsec as i64 }
    }

    fn settled(&self, now: SystemTime) -> bool {
        let at = u64::try_from(self.secs).ok().map(|secs| UNIX_EPOCH + Duration::new(secs, self.nanos as u32));
        at.and_then(|at| now.duration_since(at).ok()).is_some_and(|age| age > SETTLED)
    }
}

/// Written back, if anything was learnt, when it goes.
#[derive(Debug)]
pub(crate) struct Digests {
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Identity, Known>,
    learnt: bool,
}

#[derive(Debug)]
struct Known {
    digest: Digest,
    /// Somebody asked for it.
    used: bool,
}

impl Digests {
    /// With what `file` remembers; a file that is missing or damaged remembers nothing.
    pub(crate) fn open(file: PathBuf) -> Self {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let known = bytes.chunks_exact(ENTRY_BYTES).map(entry).collect();
        Self { file, state: Mutex::new(State { known, learnt: false }) }
    }

    pub(crate) fn get(&self, stat: &Stat) -> Option<Digest> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let known = state.known.get_mut(&Identity::of(stat))?;
        known.used = true;
        Some(known.digest)
    }

    /// `before` and `after` the file was read.
    pub(crate) fn learn(&self, before: &Stat, after: &Stat, digest: Digest) {
        let identity = Identity::of(before);
        if identity == Identity::of(after) && identity.settled(SystemTime::now()) {
            let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
            state.known.insert(identity, Known { digest, used: true });
            state.learnt = true;
        }
    }

    fn save(&self) -> std::io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if !state.learnt {
            return Ok(());
        }
        state.learnt = false;
        // Files that are gone are asked for no more; another build of the same folder may ask for other files.
        let used = state.known.values().filter(|known| known.used).count();
        let all = state.known.len() <= 2 * used + 1000;
        let mut bytes = Vec::with_capacity(state.known.len() * ENTRY_BYTES);
        for (identity, known) in state.known.iter().filter(|(_, known)| all || known.used) {
            bytes.extend_from_slice(&identity.inode.to_le_bytes());
            bytes.extend_from_slice(&identity.size.to_le_bytes());
            bytes.extend_from_slice(&identity.secs.to_le_bytes());
            bytes.extend_from_slice(&identity.nanos.to_le_bytes());
            bytes.extend_from_slice(known.digest.as_bytes());
        }
        let draft = self.file.with_extension("new");
        std::fs::write(&draft, bytes)?;
        std::fs::rename(&draft, &self.file)
    }
}

fn entry(bytes: &[u8]) -> (Identity, Known) {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let identity = Identity { inode: number(0), size: number(8), secs: number(16) as i64, nanos: number(24) as i64 };
    let digest = Digest::from_sha256(bytes[32..ENTRY_BYTES].try_into().expect("an entry's rest"));
    (identity, Known { digest, used: false })
}

impl Drop for Digests {
    fn drop(&mut self) {
        if let Err(error) = self.save() {
            tracing::warn!(file = %self.file.display(), %error, "digests of a build context are not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(path: &std::path::Path) -> Stat {
        let root = linux::fs::Root::open(path.parent().unwrap()).unwrap();
        root.lstat(path.file_name().unwrap()).unwrap()
    }

    #[test]
    fn what_has_not_changed_is_known_and_what_has_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, memory) = (folder.path().join("f"), folder.path().join("digests"));
        std::fs::write(&path, "one").unwrap();
        let (digest, digests) = (Digest::from_sha256([7; 32]), Digests::open(memory.clone()));
        let fresh = stat(&path);
        digests.learn(&fresh, &fresh, digest);
        assert_eq!(digests.get(&fresh), None, "it may be written to within the same tick");
        while digests.get(&fresh).is_none() {
            digests.learn(&fresh, &fresh, digest);
        }
        assert_eq!(digests.get(&fresh), Some(digest));
        drop(digests);
        let digests = Digests::open(memory.clone());
        assert_eq!(digests.get(&stat(&path)), Some(digest), "it outlives the engine");
        std::fs::write(&path, "two").unwrap();
        assert_eq!(digests.get(&stat(&path)), None);
        digests.learn(&fresh, &stat(&path), digest);
        assert_eq!(digests.get(&stat(&path)), None, "it changed while it was read");
        drop(digests);
        std::fs::write(&memory, "damaged").unwrap();
        assert_eq!(Digests::open(memory).get(&fresh), None);
    }
}
