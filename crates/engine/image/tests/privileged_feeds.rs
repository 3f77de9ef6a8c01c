//! What others feed into the store as root: a build makes layers step by step, a pull brings them as streams.

mod common;

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use image::*;
use vocab::{Digest, ErrorKind};

struct Shared {
    folder: tempfile::TempDir,
    db: db::Db,
    store: Arc<Store>,
}

impl Shared {
    fn new() -> Self {
        let TestStore { folder, db, store } = TestStore::new();
        Self { folder, db, store: Arc::new(store) }
    }

    fn load(&self, archive: &[u8]) -> Digest {
        self.store.load(&mut &archive[..], &Default::default(), &|_| {}).unwrap()[0].id
    }

    fn assert_clean(&self) {
        assert_eq!(self.store.check(true).unwrap(), []);
        self.store.wait_for_discarded();
        assert_eq!(self.count("tmp"), 0);
    }

    fn count(&self, folder: &str) -> usize {
        std::fs::read_dir(self.folder.path().join(folder)).unwrap().count()
    }
}

fn base() -> Vec<u8> {
    tar(&[dir("./"), dir("etc"), file("etc/a", "1"), file("etc/b", "2"), dir("srv"), file("srv/x", "3")])
}

/// Does something in the snapshot's merged tree.
fn change(store: &Store, snapshot: &str, change: impl FnOnce(&Path)) {
    let mount = store.mount(snapshot, true).unwrap();
    change(&PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount))));
}

fn config_of(diff_ids: &[Digest]) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .unwrap()
}

#[test]
fn a_build_seals_snapshots_into_layers_and_layers_into_an_image() {
    if !root_or_skip("sealing") {
        return;
    }
    let test = Shared::new();
    let store = &test.store;
    let image = test.load(&docker_archive(&[("base", &[&base()])]));
    let top = store.top_layer(&image).unwrap().unwrap();

    store.prepare_on("s1", Some(&top)).unwrap();
    change(store, "s1", |root| {
        std::fs::write(root.join("etc/new"), "new").unwrap();
        std::fs::hard_link(root.join("etc/new"), root.join("etc/linked")).unwrap();
        std::fs::remove_file(root.join("etc/a")).unwrap();
        std::fs::remove_dir_all(root.join("srv")).unwrap();
        std::fs::create_dir(root.join("srv")).unwrap();
        let sparse = std::fs::File::create(root.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"far", 8 << 20).unwrap();
    });
    let inode = std::fs::metadata(store.snapshot("s1").unwrap().upper.join("etc/new")).unwrap().ino();
    let one = store.seal("s1").unwrap();
    assert_eq!((one.layer.parent, one.layer.bytes), (Some(top), 6));
    assert!(matches!(store.snapshot("s1"), Err(Error::NoSuchSnapshot(_))));

    // On top of it, one that changes nothing, and the same once more: it is the same layer.
    let seal_empty = |name: &str| {
        store.prepare_on(name, Some(&one.layer.chain)).unwrap();
        store.seal(name).unwrap()
    };
    let (two, again) = (seal_empty("s2"), seal_empty("s3"));
    assert_eq!(two.layer, again.layer);
    assert_eq!(two.layer.diff_id, image::hash::sha256(&[0; 1024]));

    let diff_ids: Vec<Digest> =
        [&top, &one.layer.chain, &two.layer.chain].map(|c| store.layer(c).unwrap().unwrap().diff_id).to_vec();
    let wrong = store.create_image(config_of(&diff_ids[..2]), Some(&two.layer.chain), vec![], None).unwrap_err();
    assert!(wrong.to_string().contains("not to its layers"), "{wrong}");
    let id = store
        .create_image(config_of(&diff_ids), Some(&two.layer.chain), vec!["built".parse().unwrap()], Some(image))
        .unwrap();
    let facts = store.inspect("built").unwrap();
    assert_eq!((facts.id, facts.parent), (id, Some(image)));
    assert_eq!(std::fs::metadata(facts.lowers[1].join("etc/new")).unwrap().ino(), inode, "the file was copied");

    // Nothing but the image's name keeps it now; and what is saved is the same image elsewhere.
    drop((one, two, again));
    test.assert_clean();
    let mut saved = Vec::new();
    store.save(&["built".into()], &mut saved).unwrap();
    let other = Shared::new();
    assert_eq!(other.load(&saved), id);
    let export = |test: &Shared| {
        test.store.prepare("look", &id).unwrap();
        let mut bytes = Vec::new();
        test.store.export("look", &mut bytes).unwrap();
        test.store.remove_snapshot("look").unwrap();
        bytes
    };
    assert!(export(&test) == export(&other), "the image is another one when it was saved and loaded");
    other.assert_clean();
    store.remove("built", Default::default(), &|_| false).unwrap();
    assert_eq!(test.count("layers"), 1);
    test.assert_clean();
}

#[test]
fn layers_stay_as_long_as_a_lease_or_a_keep_and_no_longer() {
    if !root_or_skip("keeping layers") {
        return;
    }
    let test = Shared::new();
    let store = &test.store;
    // From nothing: a tar, a snapshot on it.
    let bottom = store.add_layer_tar(None, &mut &gzip(&base())[..]).unwrap();
    assert_eq!((bottom.layer.chain, bottom.layer.parent), (image::hash::sha256(&base()), None));
    let second = tar(&[file("etc/c", "implicit"), file("etc/.wh.b", "")]);
    let top = store.add_layer_tar(Some(&bottom.layer.chain), &mut &second[..]).unwrap();
    store.prepare_on("s", Some(&top.layer.chain)).unwrap();
    change(store, "s", |root| {
        assert!(root.join("etc/c").exists() && root.join("etc/a").exists() && !root.join("etc/b").exists());
    });
    // The snapshot alone keeps them.
    let chain = top.layer.chain;
    drop((bottom, top));
    store.collect().unwrap();
    assert_eq!(test.count("layers"), 2);
    test.db.write(|txn| store.keep(txn, "cache/1", &chain)).unwrap();
    store.remove_snapshot("s").unwrap();
    store.collect().unwrap();
    assert_eq!(test.count("layers"), 2);
    test.assert_clean();
    let kept = store.kept("cache/").unwrap();
    assert_eq!((kept.len(), kept[0].0.as_str(), kept[0].1.chain), (1, "cache/1", chain));

    // Let go under a lease: they go with the lease.
    let lease = store.lease(&chain).unwrap();
    test.db.write(|txn| store.unkeep(txn, "cache/1")).unwrap();
    store.collect().unwrap();
    assert_eq!(test.count("layers"), 2);
    assert_eq!(store.check(true).unwrap(), []);
    drop(lease);
    assert_eq!(test.count("layers"), 0);
    assert!(matches!(store.lease(&chain), Err(Error::NoSuchLayer(_))));
    assert!(test.db.write(|txn| store.keep(txn, "cache/2", &chain)).is_err());
    assert!(store.prepare_on("s", Some(&chain)).is_err());
    assert_eq!(test.count("snapshots"), 0);

    // A snapshot on nothing at all becomes a bottom layer.
    store.prepare_on("scratch", None).unwrap();
    change(store, "scratch", |root| std::fs::write(root.join("only"), "1").unwrap());
    let sealed = store.seal("scratch").unwrap();
    assert_eq!((sealed.layer.parent, sealed.layer.diff_id), (None, sealed.layer.chain));
    test.assert_clean();
    // Nobody kept it: it goes with its lease.
    drop(sealed);
    assert_eq!((test.count("layers"), test.count("snapshots")), (0, 0));
    test.assert_clean();
}

/// A layer's bytes from `from` on, cut off after `most`.
struct Line<'a> {
    rest: &'a [u8],
    most: usize,
    taken: &'a AtomicU64,
}

impl Read for Line<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.rest.is_empty() {
            return Ok(0);
        }
        if self.most == 0 {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        let n = self.rest.len().min(self.most).min(out.len()).min(1000);
        out[..n].copy_from_slice(&self.rest[..n]);
        (self.rest, self.most) = (&self.rest[n..], self.most - n);
        self.taken.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// An image as a registry gives it out.
struct Remote {
    manifest: PulledManifest,
    layers: Vec<Vec<u8>>,
}

fn remote(tars: &[Vec<u8>], pack: fn(&[u8]) -> Vec<u8>) -> Remote {
    let tars: Vec<&[u8]> = tars.iter().map(Vec::as_slice).collect();
    let mut oci = OciArchive::default();
    oci.image(&tars, "+gzip", pack, serde_json::json!({}));
    let manifest = oci.blobs.pop().unwrap();
    let config = oci.blobs.remove(0);
    let media_type = format!("{OCI}.manifest.v1+json");
    Remote { manifest: PulledManifest { media_type, manifest, config }, layers: oci.blobs }
}

fn noise(bytes: usize) -> String {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + (state >> 33) as u8 % 26)
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn a_pull_takes_up_where_the_line_broke_and_commits_everything_at_once() {
    if !root_or_skip("pulling") {
        return;
    }
    let tars = [base(), tar(&[dir("./"), file("noise", &noise(300_000))]), tar(&[file("etc/c", "4")])];
    for (kind, pack) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd), ("plain", plain)] {
        let test = Shared::new();
        let remote = remote(&tars, pack);
        let pull = test.store.pull().unwrap();
        assert_eq!(pull.missing(&remote.manifest.config).unwrap(), [true, true, true]);
        let taken = AtomicU64::new(0);
        // Several at a time; each line breaks again and again.
        std::thread::scope(|scope| {
            for layer in &remote.layers {
                let (pull, taken) = (&pull, &taken);
                scope.spawn(move || {
                    let digest = image::hash::sha256(layer);
                    for attempt in 1.. {
                        let part = pull.layer(digest, layer.len() as u64).unwrap();
                        let from = part.have();
                        let most = if kind == "plain" { attempt * 100_000 } else { 70_000 };
                        let mut line = Line { rest: &layer[from as usize..], most, taken };
                        match part.receive(from, &mut line, &|_| {}) {
                            Ok(()) => break,
                            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{kind}: {error}"),
                        }
                        assert!(attempt < 20, "{kind}: no headway");
                    }
                });
            }
        });
        let bytes: u64 = remote.layers.iter().map(|layer| layer.len() as u64).sum();
        if kind != "plain" {
            assert_eq!(taken.load(Ordering::Relaxed), bytes, "{kind}: bytes were fetched twice");
        }
        assert!(test.store.list(&Default::default()).unwrap().is_empty());
        let by_digest = format!("host/app@{}", image::hash::sha256(&remote.manifest.manifest));
        let names = vec!["host/app:1".parse().unwrap(), by_digest.parse().unwrap()];
        let id = pull.commit(remote.manifest.clone(), names).unwrap();
        assert_eq!(test.store.resolve("host/app:1").unwrap(), id);
        assert_eq!(test.store.resolve(&by_digest).unwrap(), id);
        assert_eq!(test.count("partial"), 0);
        test.assert_clean();

        // Nothing is missing the next time, whatever becomes of the image meanwhile.
        let pull = test.store.pull().unwrap();
        assert_eq!(pull.missing(&remote.manifest.config).unwrap(), [false, false, false]);
        let force = RemoveOptions { force: true, no_prune: false };
        test.store.remove(&id.to_string(), force, &|_| false).unwrap();
        assert_eq!(pull.commit(remote.manifest.clone(), vec!["again".parse().unwrap()]).unwrap(), id);
        test.assert_clean();
        // And a pull that is given up takes along what only it has kept.
        let pull = test.store.pull().unwrap();
        assert_eq!(pull.missing(&remote.manifest.config).unwrap(), [false, false, false]);
        test.store.remove("again", force, &|_| false).unwrap();
        drop(pull);
        assert_eq!((test.count("layers"), test.count("blobs/sha256")), (0, 0));
        test.assert_clean();
    }
}

#[test]
fn a_registry_that_lies_is_refused_and_leaves_nothing() {
    if !root_or_skip("lying registries") {
        return;
    }
    let test = Shared::new();
    let remote = remote(&[tar(&[dir("./"), file("noise", &noise(100_000))])], gzip);
    let layer = &remote.layers[0];
    let (digest, size) = (image::hash::sha256(layer), layer.len() as u64);
    let longer = [layer, &b"more"[..]].concat();
    let mut flipped = layer.clone();
    flipped[5000] ^= 1;
    let other = image::hash::sha256(b"other");
    for (what, digest, size, bytes, says) in [
        ("longer", digest, size, &longer, "longer than"),
        ("another digest", other, size, layer, "its digest is"),
        ("no tar", digest, size, &vec![b'x'; layer.len()], "not a tar, gzip or zstd"),
        ("flipped", digest, size, &flipped, ""),
    ] {
        let pull = test.store.pull().unwrap();
        let part = pull.layer(digest, size).unwrap();
        assert_eq!(part.have(), 0, "{what}: bytes of the liar before were kept");
        let error = part.receive(0, &mut &bytes[..], &|_| {}).err().unwrap_or_else(|| panic!("{what} was taken"));
        assert!(error.to_string().contains(says), "{what}: {error}");
        assert_ne!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
        // Not received: no image of it.
        assert!(pull.commit(remote.manifest.clone(), vec![]).is_err(), "{what}");
        assert_eq!((test.count("layers"), test.count("blobs/sha256"), test.count("partial")), (0, 0, 0), "{what}");
        test.assert_clean();
    }
    // A line that ends early is a broken line. What came of it is kept, and goes through the same checks when it is used.
    let pull = test.store.pull().unwrap();
    let part = pull.layer(digest, size).unwrap();
    assert_eq!(part.receive(0, &mut &flipped[..6000], &|_| {}).unwrap_err().kind(), ErrorKind::Unavailable);
    let part = pull.layer(digest, size).unwrap();
    assert_eq!(part.have(), 6000);
    // While one pull has it, another does without.
    assert_eq!(test.store.pull().unwrap().layer(digest, size).unwrap().have(), 0);
    assert_ne!(part.receive(6000, &mut &layer[6000..], &|_| {}).unwrap_err().kind(), ErrorKind::Unavailable);
    let part = pull.layer(digest, size).unwrap();
    assert_eq!(part.have(), 0);
    part.receive(0, &mut &layer[..], &|_| {}).unwrap();
    // The documents must be those of each other.
    let mut wrong = remote.manifest.clone();
    wrong.config.push(b' ');
    assert!(pull.commit(wrong, vec![]).unwrap_err().to_string().contains("configuration: its digest is"));
    let pull = test.store.pull().unwrap();
    drop(pull.layer(digest, size).unwrap().receive(0, &mut &layer[..6000], &|_| {}));
    drop(pull);
    assert_eq!(test.count("partial"), 1);
    assert_eq!(test.store.forget_partials().unwrap(), 6000);
    assert_eq!(test.count("partial"), 0);
    test.assert_clean();
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened(&[("pull-digest", "a_registry_that_lies_is_refused_and_leaves_nothing")]);
}
