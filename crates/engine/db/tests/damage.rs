//! A byte that has changed on the disk is noticed or harmless: never a record that is not what was written.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use db::{Db, Error, Table};

const WORDS: Table<String, String> = Table::new("words");
const NUMBERS: Table<u64, Vec<u64>> = Table::new("numbers");

/// One byte of so many is tried.
const STRIDE: usize = 293;
/// Where what describes the whole file is: all of it is tried.
const HEADER: usize = 400;

type Content = (Vec<(String, String)>, Vec<(u64, Vec<u64>)>);

fn content(path: &Path) -> Result<Content, Error> {
    let db = Db::open(path)?;
    let read = db.read()?;
    Ok((read.list(&WORDS)?, read.list(&NUMBERS)?))
}

fn fill(db: &Db) {
    for round in 0..20 {
        db.write(|txn| {
            for n in 0..10 {
                txn.put(&WORDS, &format!("{round}-{n}"), &"a record of several words ".repeat(n))?;
            }
            txn.put(&NUMBERS, &round, &(0..round).collect())
        })
        .unwrap();
    }
}

/// Changes one byte after another of `file` and opens it.
fn outcomes(file: &[u8], path: &Path, expected: &Content) -> BTreeMap<&'static str, Vec<usize>> {
    let mut outcomes = BTreeMap::<_, Vec<usize>>::new();
    // Each would be told with a backtrace, which takes seconds.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for at in (0..file.len()).filter(|at| *at < HEADER || at % STRIDE == 0) {
        let mut changed = file.to_vec();
        changed[at] ^= 1 << (at % 8);
        std::fs::write(path, changed).unwrap();
        let outcome = match catch_unwind(AssertUnwindSafe(|| content(path))) {
            // Of redb, at what it keeps beside the tree to open faster, which has no checksum of its own. Nothing was read.
            Err(_) => "given up",
            Ok(Err(Error::Damaged { .. })) => "damaged",
            Ok(Err(error)) => {
                println!("{at}: {error:?}");
                "another error"
            }
            Ok(Ok(content)) if content == *expected => "harmless",
            Ok(Ok(_)) => "a lie",
        };
        outcomes.entry(outcome).or_default().push(at);
    }
    std::panic::set_hook(hook);
    outcomes
}

#[test]
fn a_changed_byte_is_noticed_or_harmless() {
    // In memory, where each opening does not wait for a disk.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("knarr.db");
    fill(&Db::open(&path).unwrap());
    let expected = content(&path).unwrap();
    let file = std::fs::read(&path).unwrap();
    let outcomes = outcomes(&file, &path, &expected);
    for outcome in ["a lie", "another error"] {
        assert_eq!(outcomes.get(outcome), None, "{outcomes:?}");
    }
    let count = |outcome| outcomes.get(outcome).map_or(0, Vec::len);
    assert!(count("damaged") > 10 * count("given up"), "{outcomes:?}");
}

#[test]
fn a_file_of_a_killed_process_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("knarr.db");
    let db = Db::open(&path).unwrap();
    fill(&db);
    // As a kill leaves it: nobody has closed it.
    let copy = folder.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    drop(db);
    assert_eq!(content(&copy).unwrap(), content(&path).unwrap());
}
