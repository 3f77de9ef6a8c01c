//! What callers rely on: all or nothing, shared commits, a full or damaged file.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};

use db::{Db, Error, Table};
use vocab::ErrorKind;

const NUMBERS: Table<String, u64> = Table::new("numbers");
const WORDS: Table<u64, String> = Table::new("words");

fn open() -> (tempfile::TempDir, Db) {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&folder.path().join("knarr.db")).unwrap();
    (folder, db)
}

#[test]
fn what_was_written_is_there_after_opening_again() {
    let (folder, db) = open();
    db.write(|txn| {
        txn.put(&NUMBERS, &"one".into(), &1)?;
        txn.put(&WORDS, &256, &"b".into())?;
        txn.put(&WORDS, &3, &"a".into())
    })
    .unwrap();
    drop(db);
    let db = Db::open(&folder.path().join("knarr.db")).unwrap();
    let read = db.read().unwrap();
    assert_eq!(read.get(&NUMBERS, &"one".into()).unwrap(), Some(1));
    assert_eq!(read.get(&NUMBERS, &"two".into()).unwrap(), None);
    assert_eq!(read.list(&WORDS).unwrap(), [(3, "a".into()), (256, "b".into())]);
    assert_eq!(read.len(&WORDS).unwrap(), 2);
}

#[test]
fn a_change_that_fails_leaves_nothing() {
    let (_folder, db) = open();
    let result: Result<(), Box<dyn std::error::Error>> = db.write(|txn| {
        txn.put(&NUMBERS, &"one".into(), &1)?;
        Err("no".into())
    });
    assert_eq!(result.unwrap_err().to_string(), "no");
    assert_eq!(db.read().unwrap().list(&NUMBERS).unwrap(), []);
}

#[test]
fn a_change_sees_its_own_writes_and_removals() {
    let (_folder, db) = open();
    for key in ["a1", "a2", "b1"] {
        db.write(|txn| txn.put(&NUMBERS, &key.to_owned(), &0)).unwrap();
    }
    db.write(|txn| {
        txn.remove(&NUMBERS, &"a1".into())?;
        txn.put(&NUMBERS, &"a3".into(), &3)?;
        assert_eq!(txn.get(&NUMBERS, &"a1".into())?, None);
        assert_eq!(txn.list_prefix(&NUMBERS, b"a")?, [("a2".into(), 0), ("a3".into(), 3)]);
        Ok::<_, Error>(())
    })
    .unwrap();
    let names: Vec<_> = db.read().unwrap().list_prefix(&NUMBERS, b"a").unwrap();
    assert_eq!(names, [("a2".into(), 0), ("a3".into(), 3)]);
}

#[test]
fn concurrent_increments_are_all_counted() {
    let (_folder, db) = open();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..20 {
                    db.write(|txn| {
                        let n = txn.get(&NUMBERS, &"n".into())?.unwrap_or(0);
                        txn.put(&NUMBERS, &"n".into(), &(n + 1))
                    })
                    .unwrap();
                }
            });
        }
    });
    assert_eq!(db.read().unwrap().get(&NUMBERS, &"n".into()).unwrap(), Some(320));
}

#[test]
fn a_change_that_panics_harms_nobody_else() {
    let (_folder, db) = open();
    let panicked = std::thread::scope(|scope| {
        scope.spawn(|| db.write(|_| -> Result<(), Error> { panic!("caller's fault") })).join()
    });
    assert!(panicked.is_err());
    db.write(|txn| txn.put(&NUMBERS, &"one".into(), &1)).unwrap();
}

#[test]
fn a_second_opener_is_told_so() {
    let (folder, _db) = open();
    let error = Db::open(&folder.path().join("knarr.db")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("another process has it open"), "{error}");
}

#[test]
fn an_opener_waits_for_one_that_is_ending() {
    let (folder, db) = open();
    let path = folder.path().join("knarr.db");
    let opener = std::thread::spawn({
        let path = path.clone();
        move || Db::open(&path)
    });
    // By the file, not by the name: it was made under another one.
    let file = std::fs::metadata(&path).unwrap().ino();
    let descriptors = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        all.filter(|entry| std::fs::metadata(entry.path()).is_ok_and(|other| other.ino() == file)).count()
    };
    while descriptors() < 2 {
        assert!(!opener.is_finished(), "it does not wait");
    }
    drop(db);
    assert!(opener.join().unwrap().is_ok());
}

#[test]
fn a_file_that_is_no_database_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("knarr.db");
    let junk = b"not a database, but somebody's file ".repeat(4096);
    std::fs::write(&path, &junk).unwrap();
    let error = Db::open(&path).err().unwrap();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), junk);
}

#[test]
fn a_making_that_was_cut_short_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("knarr.db.new"), vec![0; 5000]).unwrap();
    let path = folder.path().join("knarr.db");
    let db = Db::open(&path).unwrap();
    db.write(|txn| txn.put(&NUMBERS, &"one".into(), &1)).unwrap();
    assert!(!folder.path().join("knarr.db.new").exists());
    drop(db);
    // Cut between the file's two names: the second goes.
    std::fs::hard_link(&path, folder.path().join("knarr.db.new")).unwrap();
    assert_eq!(Db::open(&path).unwrap().read().unwrap().get(&NUMBERS, &"one".into()).unwrap(), Some(1));
    assert!(!folder.path().join("knarr.db.new").exists());
}

#[test]
fn a_record_that_cannot_be_read_is_named() {
    let (_folder, db) = open();
    const AS_TEXT: Table<String, String> = Table::new("numbers");
    db.write(|txn| txn.put(&NUMBERS, &"one".into(), &1)).unwrap();
    let error = db.read().unwrap().get(&AS_TEXT, &"one".into()).unwrap_err();
    assert!(error.to_string().contains("table numbers, record \"one\""), "{error}");
}

/// The child writes numbered records and prints each acknowledged one, and is killed in the middle, over and over.
#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    if let Ok(path) = std::env::var("DB_TEST_CHILD") {
        let db = Db::open(path.as_ref()).unwrap();
        let next = AtomicU32::new(db.read().unwrap().len(&WORDS).unwrap() as u32);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::SeqCst) as u64;
                        db.write(|txn| txn.put(&WORDS, &n, &"x".repeat(n as usize % 3000))).unwrap();
                        println!("ack {n}");
                    }
                });
            }
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("knarr.db");
    let mut acked = std::collections::BTreeSet::new();
    for round in 0..8 {
        use std::io::BufRead;
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["nothing_acknowledged_is_lost_when_the_process_is_killed", "--exact", "--nocapture"])
            .env("DB_TEST_CHILD", &path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            if let Some(n) = line.unwrap().strip_prefix("ack ") {
                acked.insert(n.parse::<u64>().unwrap());
                seen += 1;
                if seen == 20 + round * 7 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let db = Db::open(&path).unwrap();
        let there: std::collections::BTreeSet<u64> =
            db.read().unwrap().list(&WORDS).unwrap().into_iter().map(|(n, _)| n).collect();
        assert!(acked.is_subset(&there), "lost: {:?}", acked.difference(&there).collect::<Vec<_>>());
        // Whatever else is there was written but not yet acknowledged.
        acked = there;
    }
}
