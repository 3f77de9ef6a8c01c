//! A full disk, for real: needs root to mount one.

use db::{Db, Table};
use vocab::ErrorKind;

const WORDS: Table<u64, String> = Table::new("words");

/// Mounts a small file system of its own, so it needs root.
#[test]
fn a_full_disk_refuses_the_change_and_the_database_stays_usable() {
    let folder = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| std::process::Command::new("mount").args(args).arg(folder.path()).status();
    if !mount(&["-t", "tmpfs", "-o", "size=8m", "knarr-db-test"]).is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a full disk needs root");
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let db = Db::open(&folder.path().join("knarr.db")).unwrap();
        let big = "x".repeat(100_000);
        let mut taken = 0;
        let error = loop {
            match db.write(|txn| txn.put(&WORDS, &taken, &big)) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
            assert!(taken < 1000, "the disk never filled");
        };
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert_eq!(db.read().unwrap().len(&WORDS).unwrap(), taken);
        // Removing works although nothing is free, and makes room.
        std::fs::write(folder.path().join("filler"), vec![0; 8 << 20]).unwrap_err();
        for key in 0..taken / 2 {
            db.write(|txn| txn.remove(&WORDS, &key)).unwrap();
        }
        db.write(|txn| txn.put(&WORDS, &0, &"again".into())).unwrap();
        drop(db);
        let db = Db::open(&folder.path().join("knarr.db")).unwrap();
        assert_eq!(db.read().unwrap().get(&WORDS, &0).unwrap().as_deref(), Some("again"));
        assert_eq!(db.read().unwrap().len(&WORDS).unwrap(), taken - taken / 2 + 1);
    });
    std::process::Command::new("umount").arg(folder.path()).status().unwrap();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}
