//! Feeds parsers what nobody would write on purpose. A target is one test function in its own crate's `tests/fuzz.rs`: it takes bytes, may
//! refuse them, and must neither panic nor run for ever. A short slice of it runs with the tests, always the same inputs; `scripts/fuzz`
//! runs on for as long as asked.
//!
//! There is no instrumented build: what guides the search is the value that a target gives back. An input that leads to a value never
//! seen before (another kind of error, another shape of the result) joins the pool that new inputs are made from, so a target should
//! give back *how* the input went, not the input.
//!
//! ```
//! fuzz::Target::new("number", "").seed("17").words(["-", "0x"]).run(|bytes| {
//!     std::str::from_utf8(bytes).map(|text| text.parse::<u32>().is_ok()).is_ok()
//! });
//! ```
//!
//! Never here: knowledge of any format. Words and seeds come from the target.

mod mutate;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use mutate::Random;

/// The short slice that runs with the tests: so many inputs, or so long, whichever is first.
const SLICE: u64 = 4000;
const SLICE_TIME: Duration = Duration::from_secs(3);
/// One input that takes longer than this on any machine is a fault of its own. Far above what a slow machine needs.
const HANG: Duration = Duration::from_secs(60);
const POOL_MAX: usize = 4096;

/// One parser under test.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    manifest: PathBuf,
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    longest: usize,
}

impl Target {
    /// `manifest` is `env!("CARGO_MANIFEST_DIR")`: every file of its `tests/corpus/NAME` is a seed, and is tried unchanged first. An
    /// input that once failed goes there and never fails again unseen.
    pub fn new(name: &'static str, manifest: &str) -> Self {
        let manifest = PathBuf::from(manifest);
        let mut target = Self { name, manifest, seeds: Vec::new(), words: Vec::new(), longest: 64 * 1024 };
        if let Ok(entries) = std::fs::read_dir(target.corpus()) {
            let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            files.sort();
            target.seeds.extend(files.iter().filter_map(|file| std::fs::read(file).ok()));
        }
        target
    }

    fn corpus(&self) -> PathBuf {
        self.manifest.join("tests/corpus").join(self.name)
    }

    /// One more input to start from.
    #[must_use]
    pub fn seed(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.seeds.push(bytes.as_ref().to_vec());
        self
    }

    /// Parts of the format that chance would not find.
    #[must_use]
    pub fn words<W: AsRef<[u8]>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_vec()));
        self
    }

    /// Bytes of the longest input (64 KiB unless said).
    #[must_use]
    pub const fn longest(mut self, bytes: usize) -> Self {
        self.longest = bytes;
        self
    }

    /// Runs the slice, or for `KNARR_FUZZ` seconds (from `KNARR_FUZZ_SEED`, or a seed of this moment that is printed).
    ///
    /// # Panics
    /// An input made the target panic: it is made as small as possible, kept in a file, and named. An input on which the target hangs
    /// is kept likewise and ends the process.
    pub fn run<S: Hash>(self, target: impl Fn(&[u8]) -> S) {
        let seconds = number("KNARR_FUZZ");
        let from = number("KNARR_FUZZ_SEED").unwrap_or_else(|| if seconds.is_some() { moment() } else { 1 });
        let (count, time) = seconds.map_or((SLICE, SLICE_TIME), |seconds| (u64::MAX, Duration::from_secs(seconds)));
        let mut search = Search {
            watch: Watch::start(self.name),
            seen: HashSet::new(),
            pool: Vec::new(),
            name: self.name,
            target: &target,
        };
        for seed in &self.seeds {
            search.try_one(seed);
        }
        search.try_one(b"");
        if search.pool.is_empty() {
            search.pool.push(Vec::new());
        }
        let (mut random, begin, mut tried) = (Random::new(from), Instant::now(), 0);
        let mut input = Vec::new();
        while tried < count && begin.elapsed() < time {
            mutate::mutate(&mut random, &search.pool, &self.words, self.longest, &mut input);
            search.try_one(&input);
            tried += 1;
        }
        if seconds.is_some() {
            let (name, ways) = (self.name, search.seen.len());
            println!("fuzz {name}: {tried} inputs from seed {from}, {ways} ways through it, no fault");
        }
    }
}

struct Search<'a, F> {
    watch: Watch,
    seen: HashSet<u64>,
    pool: Vec<Vec<u8>>,
    name: &'static str,
    target: &'a F,
}

impl<S: Hash, F: Fn(&[u8]) -> S> Search<'_, F> {
    fn try_one(&mut self, input: &[u8]) {
        self.watch.begin(input);
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.target)(input)));
        self.watch.end();
        match outcome {
            Ok(way) => {
                let mut hasher = DefaultHasher::new();
                way.hash(&mut hasher);
                if self.seen.insert(hasher.finish()) && self.pool.len() < POOL_MAX {
                    self.pool.push(input.to_vec());
                }
            }
            Err(_) => {
                let small = smallest(input, &|input| {
                    self.watch.begin(input);
                    let failed = catch_unwind(AssertUnwindSafe(|| (self.target)(input))).is_err();
                    self.watch.end();
                    failed
                });
                let shown: String = small.escape_ascii().take(2000).map(char::from).collect();
                let kept = keep(self.name, &small);
                panic!("fuzz {}: an input makes it panic: \"{shown}\"\n{kept}", self.name);
            }
        }
    }
}

/// Takes parts away for as long as it still fails.
fn smallest(input: &[u8], fails: &dyn Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut best = input.to_vec();
    let mut part = (best.len() / 2).max(1);
    let mut tries = 0;
    while part > 0 && !best.is_empty() {
        let mut at = 0;
        while at < best.len() && tries < 400 {
            let mut shorter = best.clone();
            shorter.drain(at..(at + part).min(best.len()));
            tries += 1;
            if fails(&shorter) { best = shorter } else { at += part }
        }
        part /= 2;
    }
    best
}

/// Where the input went, and what to do with it.
fn keep(name: &str, input: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = std::env::temp_dir().join(format!("fuzz-{name}-{:016x}", hasher.finish()));
    match std::fs::write(&path, input) {
        Ok(()) => format!("kept in {}: mend the fault and move the file to tests/corpus/{name}/", path.display()),
        Err(error) => format!("it could not be kept in {}: {error}", path.display()),
    }
}

/// Ends the process when one input takes too long: nothing else stops a loop.
struct Watch {
    current: Current,
}

/// The input that is being tried, and since when.
type Current = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

impl Watch {
    fn start(name: &'static str) -> Self {
        let current = Current::default();
        let watched = Arc::downgrade(&current);
        std::thread::spawn(move || {
            while let Some(current) = watched.upgrade() {
                if let Ok(current) = current.lock()
                    && let Some((since, input)) = current.as_ref()
                    && since.elapsed() > HANG
                {
                    eprintln!("fuzz {name}: no end after {HANG:?}; the input is {}", keep(name, input));
                    std::process::abort();
                }
                drop(current);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        Self { current }
    }

    fn begin(&self, input: &[u8]) {
        if let Ok(mut current) = self.current.lock() {
            *current = Some((Instant::now(), input.to_vec()));
        }
    }

    fn end(&self) {
        if let Ok(mut current) = self.current.lock() {
            *current = None;
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn moment() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64)
}

/// Every file below a folder, for targets whose seeds are the crate's other test data.
pub fn files_below(folder: impl AsRef<Path>) -> Vec<Vec<u8>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.as_ref().to_owned()]);
    while let Some(folder) = folders.pop() {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                found.push(bytes);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_behind_several_words_is_found_and_made_small() {
        let found = catch_unwind(|| {
            Target::new("staircase", "").seed("a long beginning of no interest").words(["<one>", "<two>"]).run(
                |bytes| {
                    let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
                    let steps = (has(b"<one>"), has(b"<one>") && has(b"<two>"));
                    assert!(!(steps.1 && bytes.contains(&0xff)), "the fault");
                    steps
                },
            );
        });
        let message = *found.unwrap_err().downcast::<String>().unwrap();
        let shown = message.split('"').nth(1).unwrap();
        assert!(shown.len() <= 14, "{message}");
        let path = message.split("kept in ").nth(1).unwrap().split(':').next().unwrap();
        assert!(std::fs::read(path).unwrap().contains(&0xff));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_slice_is_the_same_each_time() {
        let digest = || {
            let all = std::cell::RefCell::new(DefaultHasher::new());
            Target::new("same", "").seed("{\"a\": [1, 2, 3]}").run(|bytes| {
                bytes.hash(&mut *all.borrow_mut());
                bytes.len() % 7
            });
            all.into_inner().finish()
        };
        assert_eq!(digest(), digest());
    }
}
