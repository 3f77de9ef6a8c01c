//! What is in the files of a folder, remembered from build to build, so that only what has changed is read again.
//!
//! A file is known by its inode, size and time of last change: every write to it and every renewal of it moves that time,
//! and nobody can set it back. One that changed a moment ago is not remembered: the clock may not have moved since.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use linux::fs::Stat;
use vocab::Digest;

/// Longer than the kernel's clock takes from one time to the next.
const SETTLED: Duration = Duration::from_millis(40);
/// Bytes of one entry in the file: inode, size, seconds, nanoseconds, digest.
const ENTRY_BYTES: usize = 8 + 8 + 8 + 8 + 32;
/// What was learnt is sorted in among the rest when it is this many.
const LEARNT_MAX: usize = 8192;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// A context may have many thousand files: no table with room for twice as many.
#[derive(Debug, Default)]
struct State {
    /// In the order of their identities.
    known: Vec<Known>,
    learnt: BTreeMap<Identity, Digest>,
    /// Whether the file has less.
    fresh: bool,
}

#[derive(Debug)]
struct Known {
    identity: Identity,
    digest: Digest,
    /// Somebody asked for it.
    used: bool,
}

impl State {
    fn get(&mut self, identity: &Identity) -> Option<Digest> {
        if let Ok(at) = self.known.binary_search_by_key(identity, |known| known.identity) {
            self.known[at].used = true;
            return Some(self.known[at].digest);
        }
        self.learnt.get(identity).copied()
    }

    fn learn(&mut self, identity: Identity, digest: Digest) {
        self.fresh = true;
        if let Ok(at) = self.known.binary_search_by_key(&identity, |known| known.identity) {
            self.known[at] = Known { identity, digest, used: true };
            return;
        }
        self.learnt.insert(identity, digest);
        if self.learnt.len() >= LEARNT_MAX {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let learnt = std::mem::take(&mut self.learnt);
        self.known.reserve_exact(learnt.len());
        self.known.extend(learnt.into_iter().map(|(identity, digest)| Known { identity, digest, used: true }));
        // Two sorted runs: this only merges them.
        self.known.sort_by_key(|known| known.identity);
    }
}

impl Digests {
    /// With what `file` remembers; a file that is missing or damaged remembers nothing.
    pub(crate) fn open(file: PathBuf) -> Self {
        let mut known = read(&file).unwrap_or_default();
        known.sort_by_key(|known| known.identity);
        Self { file, state: Mutex::new(State { known, ..State::default() }) }
    }

    pub(crate) fn get(&self, stat: &Stat) -> Option<Digest> {
        self.state.lock().unwrap_or_else(|e| e.into_inner()).get(&Identity::of(stat))
    }

    /// `before` and `after` the file was read.
    pub(crate) fn learn(&self, before: &Stat, after: &Stat, digest: Digest) {
        let identity = Identity::of(before);
        if identity == Identity::of(after) && identity.settled(SystemTime::now()) {
            self.state.lock().unwrap_or_else(|e| e.into_inner()).learn(identity, digest);
        }
    }

    fn save(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if !state.fresh {
            return Ok(());
        }
        state.fresh = false;
        state.settle();
        // Files that are gone are asked for no more; another build of the same folder may ask for other files.
        let used = state.known.iter().filter(|known| known.used).count();
        let all = state.known.len() <= 2 * used + 1000;
        let draft = self.file.with_extension("new");
        let mut out = BufWriter::new(std::fs::File::create(&draft)?);
        for Known { identity, digest, .. } in state.known.iter().filter(|known| all || known.used) {
            out.write_all(&identity.inode.to_le_bytes())?;
            out.write_all(&identity.size.to_le_bytes())?;
            out.write_all(&identity.secs.to_le_bytes())?;
            out.write_all(&identity.nanos.to_le_bytes())?;
            out.write_all(digest.as_bytes())?;
        }
        out.flush()?;
        std::fs::rename(&draft, &self.file)
    }
}

fn read(file: &std::path::Path) -> io::Result<Vec<Known>> {
    let file = std::fs::File::open(file)?;
    let count = file.metadata()?.len() as usize / ENTRY_BYTES;
    let (mut known, mut entry) = (Vec::with_capacity(count), [0; ENTRY_BYTES]);
    let mut file = BufReader::new(file);
    for _ in 0..count {
        file.read_exact(&mut entry)?;
        known.push(Known::of(&entry));
    }
    Ok(known)
}

impl Known {
    fn of(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let identity =
            Identity { inode: number(0), size: number(8), secs: number(16) as i64, nanos: number(24) as i64 };
        let digest = Digest::from_sha256(bytes[32..].try_into().expect("an entry's rest"));
        Self { identity, digest, used: false }
    }
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
    fn what_is_learnt_is_found_among_what_was_known() {
        let identity = |n: u64| Identity { inode: n, size: 1, secs: 1, nanos: 1 };
        let digest = |n: u64| Digest::from_sha256([n as u8; 32]);
        let mut state = State::default();
        let (first, all) = (7, 2 * LEARNT_MAX as u64 + 9);
        // Odd ones first, so that others come in between; one comes twice.
        let order = (0..all).map(|n| (2 * n + 1) % all).chain([first]);
        for n in order {
            state.learn(identity(n), digest(n));
            assert_eq!(state.get(&identity(n)), Some(digest(n)));
        }
        state.settle();
        assert!(state.known.is_sorted_by(|a, b| a.identity < b.identity), "each once, in order");
        for n in 0..all {
            assert_eq!(state.get(&identity(n)), Some(digest(n)));
        }
        assert_eq!(state.get(&identity(all)), None);
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
