//! Killed at every step, and out of space at every size: afterwards the store is whole, what was acknowledged is there, and
//! what was not is wholly there or wholly absent.

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::*;
use image::*;

const POINTS: [&str; 10] = [
    "image.layer.unpacked",
    "image.layer.unpacked:2",
    "image.load.unpacked",
    "image.commit.staged",
    "image.commit.synced",
    "image.commit.moved",
    "image.commit.moved:3",
    "image.commit.before_record",
    "db.commit.before",
    "image.commit.after_record",
];

fn layers() -> [Vec<u8>; 2] {
    [tar(&[dir("./"), file("a", "1"), dir("d"), file("d/b", "2")]), tar(&[file("c", "3"), file(".wh.a", "")])]
}

/// Run by the others as a process of its own: opens the store named by the environment and does one thing. Else it does nothing.
#[test]
fn the_part_of_the_child() {
    let Ok(root) = std::env::var("IMAGE_TEST_ROOT") else { return };
    let store = open_store(Path::new(&root));
    let [one, two] = layers();
    match std::env::var("IMAGE_TEST_DO").unwrap().as_str() {
        "load" => {
            let bytes = docker_archive(&[("app", &[&one, &two])]);
            store.load(&mut &bytes[..], &Default::default(), &|_| {}).map(drop)
        }
        "remove" => store.remove("app", Default::default(), &|_| false).map(drop),
        "prepare" => store.prepare("c", &store.resolve("app").unwrap()).map(drop),
        "remove_snapshot" => store.remove_snapshot("c"),
        "seal" => Arc::new(store).seal("c").map(drop),
        "pull" => pull(&Arc::new(store)),
        "commit" => {
            let options = CommitOptions { reference: Some("committed".parse().unwrap()), ..Default::default() };
            store.commit("c", &options).map(drop)
        }
        other => panic!("{other}"),
    }
    .unwrap();
    println!("acknowledged");
}

/// Two compressed layers and their documents, received and committed.
fn pull(store: &Arc<Store>) -> image::Result<()> {
    let layers = layers();
    let mut oci = OciArchive::default();
    oci.image(&[&layers[0], &layers[1]], "+gzip", gzip, serde_json::json!({}));
    let (config, manifest) = (oci.blobs.remove(0), oci.blobs.pop().unwrap());
    let pull = store.pull()?;
    for layer in &oci.blobs {
        let part = pull.layer(image::hash::sha256(layer), layer.len() as u64)?;
        let from = part.have();
        part.receive(from, &mut &layer[from as usize..], &|_| {})?;
    }
    let manifest = PulledManifest { media_type: format!("{OCI}.manifest.v1+json"), manifest, config };
    pull.commit(manifest, vec!["pulled".parse().unwrap()]).map(drop)
}

/// True if the child got as far as acknowledging.
fn run_child(root: &Path, what: &str, point: &str) -> bool {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["the_part_of_the_child", "--exact", "--nocapture"])
        .env("IMAGE_TEST_ROOT", root)
        .env("IMAGE_TEST_DO", what)
        .env("KNARR_CRASH_POINT", point)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let done = text.contains("acknowledged");
    assert!(done || text.contains("crash point"), "{what} at {point}: {text}");
    done
}

fn whole(store: &Store, name: &str) -> bool {
    match store.inspect(name) {
        Err(Error::NoSuchImage(_)) => false,
        Err(error) => panic!("{name}: {error}"),
        Ok(facts) => {
            assert!(facts.lowers.iter().all(|dir| dir.exists()));
            let mut saved = Vec::new();
            store.save(&[name.to_owned()], &mut saved).unwrap();
            true
        }
    }
}

fn assert_clean(root: &Path, what: &str) -> Store {
    let store = open_store(root);
    assert_whole(&store, what);
    store
}

#[test]
fn killed_at_every_step() {
    if !root_or_skip("crash points") {
        return;
    }
    let mut died = 0;
    for point in POINTS {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let done = run_child(root, "load", point);
        died += usize::from(!done);
        let store = assert_clean(root, point);
        let there = whole(&store, "app");
        assert!(there || !done, "{point}: acknowledged and gone");
        if !there {
            assert_eq!(std::fs::read_dir(root.join("layers")).unwrap().count(), 0, "{point}");
            assert_eq!(std::fs::read_dir(root.join("blobs/sha256")).unwrap().count(), 0, "{point}");
        }
        // The next try finds nothing in its way.
        drop(store);
        assert!(run_child(root, "load", "none"));
        let store = assert_clean(root, point);
        assert!(whole(&store, "app"));

        store.prepare("c", &store.resolve("app").unwrap()).unwrap();
        let upper = store.snapshot("c").unwrap().upper;
        std::fs::write(upper.join("new"), "x").unwrap();
        drop(store);
        let done = run_child(root, "commit", point);
        let store = assert_clean(root, point);
        assert!(whole(&store, "committed") || !done);
        assert!(whole(&store, "app"));
        store.remove_snapshot("c").unwrap();
        let _ = store.remove("committed", Default::default(), &|_| false);
        drop(store);
        for point in ["db.commit.before", "db.commit.after", "image.collect.records_gone", "none"] {
            let store = assert_clean(root, point);
            if !whole(&store, "app") {
                break;
            }
            drop(store);
            run_child(root, "remove", point);
        }
        let store = assert_clean(root, "after rmi");
        assert!(!whole(&store, "app"));
        assert_eq!(std::fs::read_dir(root.join("layers")).unwrap().count(), 0, "{point}");
    }
    // A point that nobody passes proves nothing.
    assert_eq!(died, POINTS.len(), "some crash point was never reached during load");
}

/// Snapshots come and go in two steps, files and record. Killed at each instant of either, the next start has both or none, and what
/// the store counts is what the disk has.
#[test]
fn snapshots_killed_at_every_step_are_whole_or_gone() {
    if !root_or_skip("crash points of snapshots") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    assert!(run_child(root, "load", "none"));
    let has = |store: &Store| !store.snapshots().unwrap().is_empty();
    const PREPARE: [&str; 5] = [
        "image.snapshot.upper",
        "image.snapshot.files",
        "db.commit.before",
        "db.commit.after",
        "image.snapshot.recorded",
    ];
    for point in PREPARE.into_iter().chain(["none"]) {
        let done = run_child(root, "prepare", point);
        assert_eq!(done, point == "none", "{point} was never reached");
        let store = assert_clean(root, point);
        assert!(has(&store) || !done, "{point}: acknowledged and gone");
        store.remove_snapshot("c").unwrap();
    }
    const REMOVE: [&str; 5] = [
        "db.commit.before",
        "db.commit.after",
        "image.snapshot.forgotten",
        "image.snapshot.trashed",
        "image.snapshot.files_gone",
    ];
    for forced in [false, true] {
        for point in REMOVE.into_iter().chain(["none"]) {
            let store = assert_clean(root, point);
            if store.resolve("app").is_err() {
                drop(store);
                assert!(run_child(root, "load", "none"));
            } else {
                drop(store);
            }
            assert!(run_child(root, "prepare", "none"));
            if forced {
                // Its image is gone: with it go the layers.
                let store = open_store(root);
                store.remove("app", RemoveOptions { force: true, no_prune: false }, &|_| false).unwrap();
            }
            let done = run_child(root, "remove_snapshot", point);
            assert_eq!(done, point == "none", "{point} was never reached");
            let store = assert_clean(root, point);
            assert!(!has(&store) || !done);
            store.remove_snapshot("c").unwrap();
            let layers = std::fs::read_dir(root.join("layers")).unwrap().count();
            assert_eq!(layers, if forced { 0 } else { 2 }, "{point}");
        }
    }
    assert!(run_child(root, "load", "none"));
    for point in [
        "image.staging.sync",
        "image.seal.synced",
        "image.seal.taken",
        "image.seal.before_record",
        "db.commit.before",
        "db.commit.after",
        "image.seal.after_record",
        "none",
    ] {
        assert!(run_child(root, "prepare", "none"));
        let upper = open_store(root).snapshot("c").unwrap().upper;
        std::fs::write(upper.join("new"), "x").unwrap();
        let done = run_child(root, "seal", point);
        assert_eq!(done, point == "none", "{point} was never reached");
        // What nobody keeps is gone with the process that made it.
        let store = assert_clean(root, point);
        assert_eq!(store.layers().unwrap().len(), 2, "{point}");
        store.remove_snapshot("c").unwrap();
    }
    assert_clean(root, "in the end");
}

#[test]
fn pulls_killed_at_every_step_go_on() {
    if !root_or_skip("crash points of pulls") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for point in [
        "image.layer.unpacked",
        "image.layer.unpacked:2",
        "image.commit.staged",
        "image.commit.moved",
        "image.commit.moved:4",
        "image.commit.before_record",
        "db.commit.before",
        "db.commit.after",
        "none",
    ] {
        let done = run_child(root, "pull", point);
        assert_eq!(done, point == "none", "{point} was never reached");
        let store = assert_clean(root, point);
        assert!(whole(&store, "pulled") || !done);
        let _ = store.remove("pulled", Default::default(), &|_| false);
        assert_whole(&store, point);
    }
    assert_eq!(std::fs::read_dir(root.join("partial")).unwrap().count(), 0);
}

/// A small file system of its own, gone with the test.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "knarr-test", folder.path().to_str().unwrap()], Path::new("/"));
        Self(folder)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_loads_and_recovers() {
    if !root_or_skip("full disk") {
        return;
    }
    let big: String = "0123456789abcdef".repeat(1 << 16);
    let one = tar(&[dir("./"), file("big", &big), file("big2", &big)]);
    let small = tar(&[file("s", "1")]);
    let bytes = docker_archive(&[("app", &[&one])]);
    let (mut refused, mut taken) = (0, 0);
    for (options, most) in [("size", 6), ("nr_inodes", 8)] {
        for step in 1..=most {
            let value = if options == "size" {
                format!("size={}k", 2200 + step * 400)
            } else {
                format!("nr_inodes={}", 12 + step * 3)
            };
            let disk = Tmpfs::new(&value);
            let root = disk.0.path();
            let Ok(db) = db::Db::open(&root.join("knarr.db")) else { continue };
            let Ok(store) = Store::open(root, db, Default::default()) else { continue };
            // Something that was there before must stay, and must be removable when there is no space.
            let before =
                store.load(&mut &docker_archive(&[("small", &[&small])])[..], &Default::default(), &|_| {}).is_ok();
            match store.load(&mut &bytes[..], &Default::default(), &|_| {}) {
                Ok(_) => taken += 1,
                Err(error) => {
                    assert_eq!(error.kind(), vocab::ErrorKind::Exhausted, "{value}: {error:?}");
                    refused += 1;
                    assert!(store.resolve("app").is_err());
                }
            }
            assert_eq!(store.check(true).unwrap(), [], "{value}");
            assert_eq!(store.resolve("small").is_ok(), before, "{value}");
            // Fill what is left to the last byte.
            let _ = std::fs::write(root.join("filler"), vec![1; 16 << 20]);
            if before {
                store
                    .remove("small", Default::default(), &|_| false)
                    .unwrap_or_else(|e| panic!("{value}: rmi on a full disk: {e}"));
                std::fs::remove_file(root.join("filler")).unwrap();
                store.load(&mut &docker_archive(&[("small", &[&small])])[..], &Default::default(), &|_| {}).unwrap();
            }
            assert_eq!(store.check(true).unwrap(), [], "{value}");
        }
    }
    assert!(refused > 3 && taken > 1, "{refused} refused, {taken} taken: the sizes do not cover both");
}
