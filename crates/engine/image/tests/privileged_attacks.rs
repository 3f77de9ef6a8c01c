//! The attacks on images that this crate knows of, by the numbers of the catalogue, and where each is tried. The cases that no other
//! test had are here. *Defence* is the name by which a build with `--features weaken` leaves it out (`KNARR_WEAKEN`): every test file
//! ends with `tests_notice_a_weakened_build`, which shows that the test fails then.
//!
//! | case | what | where | defence |
//! |---|---|---|---|
//! | IM-01 | paths, links and hard links out of the layer | `privileged_layers::hostile_archives_touch_nothing_outside`, `fuzz::a_layer_never_leaves_its_folder`, `privileged_archive::what_comes_in_stays_in`; folders in the making are below a folder of mode 0700, so nobody can race | `root` |
//! | IM-02 | metadata through links | `metadata_is_never_set_through_a_link` | `root` |
//! | IM-03 | two readers see two archives | `tar::what_readers_disagree_about_is_refused`, `tar::gnu_tar_agrees_about_names_and_sizes`, `fuzz::what_the_tar_reader_takes_it_takes_again_from_the_writer` | `trailing` |
//! | IM-04 | bombs | `privileged_store::bombs_are_stopped_at_their_limit`, `privileged_layers::limits_hold` | `limits` |
//! | IM-05 | digest and size lies | `privileged_store::every_bit_of_a_small_archive_counts_or_is_harmless`, `archives_that_lie_are_refused_and_leave_nothing`, `privileged_feeds::a_registry_that_lies_is_refused_and_leaves_nothing` | `digest`, `pull-digest` |
//! | IM-06 | image and index at once | `manifest::documents_mean_one_thing_or_nothing`, `fuzz::manifests_make_an_image_of_what_was_received_or_none` | `announced`, `ambiguous` |
//! | IM-07 | cycles, depth, counts | `privileged_store::archives_that_lie_are_refused_and_leave_nothing` (rows of indexes) | `depth` |
//! | IM-11 | names that were not asked for | `privileged_store::only_the_names_asked_for_move` | `only` |
//! | IM-12 | configuration as host actions | `a_configuration_is_data` | nothing to leave out: no code acts on it |
//! | IM-13 | overlay's own marks | `stacks_of_layers_look_as_a_model_says`, `privileged_layers::whiteouts_become_overlays_own_form`, `hostile_archives_touch_nothing_outside` (attributes, 0:0 devices) | `overlay`, `opaque` |
//! | IM-14 | names | `any_bytes_may_be_a_name` | `names` |
//! | IM-15 | everything at once | `privileged_store::loads_removals_and_collections_at_once_leave_a_whole_store`, `what_comes_between_the_files_and_the_record_of_a_snapshot_does_no_harm`, `builds_pulls_and_prunes_at_once_leave_a_whole_store` | `pins`, `claims` |
//! | IM-16 | names in archives as paths | `privileged_store::archives_that_lie_are_refused_and_leave_nothing` (rows of paths) | nothing to leave out: a name is only compared |
//! | IM-17 | layers that the kernel would parse | the row `erofs` there, `manifest::documents_mean_one_thing_or_nothing` | `layer-type` |
//! | F-24 | power cuts | `privileged_power` | `sync` |
//!
//! IM-08, 09, 10 and 18 are the registry's; IM-19 (signatures) nobody's yet. CP-03 and BL-08 stand on `privileged_archive`.

mod common;

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use image::tar::{Entry, Kind};
use image::*;

#[test]
fn metadata_is_never_set_through_a_link() {
    if !root_or_skip("metadata through links") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let facts = |path: &Path| {
        let meta = std::fs::symlink_metadata(path).unwrap();
        (meta.ino(), meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.ctime(), meta.ctime_nsec(), meta.nlink())
    };
    let (file_victim, dir_victim) = (temp.path().join("file"), temp.path().join("dir"));
    std::fs::write(&file_victim, "victim").unwrap();
    std::fs::create_dir(&dir_victim).unwrap();
    let before = (facts(&file_victim), facts(&dir_victim));
    let strange = |(mut entry, data): (Entry, Vec<u8>)| {
        (entry.mode, entry.uid, entry.gid) = (0o4777, 4242, 4242);
        entry.xattrs.push((b"user.mark".to_vec(), b"1".to_vec()));
        (entry, data)
    };
    for victim in [&file_victim, &dir_victim] {
        let link = |name: &str| strange(other(name, Kind::Symlink(victim.as_os_str().as_bytes().to_vec())));
        let relative =
            other("x", Kind::Symlink(format!("../../{}", victim.file_name().unwrap().to_str().unwrap()).into_bytes()));
        for members in [
            vec![link("x"), strange(dir("x"))],
            vec![link("x"), strange(file("x", "1"))],
            vec![link("x"), strange(dir("x/y"))],
            vec![link("x"), strange(file("x/y", "1"))],
            vec![link("x"), strange(other("y", Kind::HardLink("x".into())))],
            vec![link("x"), strange(other("y", Kind::HardLink("x/z".into())))],
            vec![dir("x"), link("x"), strange(dir("x"))],
            // A directory whose metadata is set at the end, when a link has taken its place.
            vec![strange(dir("x")), link("x")],
            vec![strange(dir("x")), strange(dir("x/y")), link("x")],
            vec![relative.clone(), strange(dir("x"))],
            vec![relative.clone(), strange(file("x/y", "1"))],
            vec![file("real", "1"), other("x", Kind::HardLink("real".into())), link("x"), strange(file("real", "2"))],
        ] {
            let layer = temp.path().join("layer");
            let _ = unpack(&tar(&members), &layer);
            std::fs::remove_dir_all(&layer).unwrap();
            let names: Vec<_> =
                members.iter().map(|(entry, _)| (String::from_utf8_lossy(&entry.path), &entry.kind)).collect();
            assert_eq!((facts(&file_victim), facts(&dir_victim)), before, "{names:?}");
        }
    }
    assert_eq!(std::fs::read(&file_victim).unwrap(), b"victim");
    assert_eq!(std::fs::read_dir(&dir_victim).unwrap().count(), 0);
}

#[test]
fn a_configuration_is_data() {
    if !root_or_skip("configurations") {
        return;
    }
    let test = TestStore::new();
    let one = tar(&[dir("./"), other("srv", Kind::Symlink("/etc".into()))]);
    let evil = serde_json::json!({
        "config": {
            "WorkingDir": "../../../srv/x", "User": "../../root", "Volumes": {"/../../etc": {}, "srv": {}}, "StopSignal": "/bin/sh",
            "Labels": {"io.containerd.log": "binary:///bin/sh", "org.criu.config": "/etc/shadow", "com.docker.x": "file:///etc"},
            "Env": ["LD_PRELOAD=/x", "no-equals-sign"], "ExposedPorts": {"../../x": {}},
        },
        "container": "../../../etc", "docker_version": "$(touch /tmp/x)",
    });
    let config = config(&[&one], evil);
    let list = serde_json::json!([{"Config": "c.json", "RepoTags": ["evil:1"], "Layers": ["l.tar"]}]);
    let members = [
        ("l.tar".to_owned(), one),
        ("c.json".to_owned(), config.clone()),
        ("manifest.json".to_owned(), serde_json::to_vec(&list).unwrap()),
    ];
    let id = test.load(&archive(&members)).unwrap()[0].id;
    assert_eq!(test.store.inspect("evil:1").unwrap().config_bytes, config, "kept as it came");
    let outside = listing(test.folder.path()).lines().filter(|line| !line.starts_with("snapshots")).count();
    test.store.prepare("c", &id).unwrap();
    drop(test.store.mount("c", true).unwrap());
    let init = 8; // the init layer beside the image's own: five directories, and files in them; nothing else is made
    let now = listing(test.folder.path()).lines().filter(|line| !line.starts_with("snapshots")).count();
    assert!(now <= outside + init + 5, "{now} things after {outside}");
    test.store.remove_snapshot("c").unwrap();
    test.assert_clean();
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// `None`: a directory.
type Tree = BTreeMap<String, Option<String>>;

fn remove_below(tree: &mut Tree, path: &str) {
    tree.retain(|name, _| !name.starts_with(&format!("{path}/")));
}

/// With all above it. A directory over a file hides it, over a directory it joins it.
fn put_dir(tree: &mut Tree, path: &str) {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for end in ends {
        tree.insert(path[..end].to_owned(), None);
    }
}

/// A random layer, and what it makes of the tree below: first it hides, then it puts.
fn random_layer(random: &mut Random, tree: &mut Tree, number: usize) -> Vec<u8> {
    // Within one layer a name is a directory or a file wherever it appears.
    let is_dir: Vec<bool> = (0..4).map(|_| random.below(2) == 0).collect();
    let (mut members, mut hidden, mut puts) = (vec![dir("./")], Vec::new(), Vec::new());
    for _ in 0..1 + random.below(7) {
        let dirs: Vec<usize> = (0..4).filter(|n| is_dir[*n]).collect();
        let mut path = String::new();
        if !dirs.is_empty() {
            for _ in 0..random.below(3) {
                path += &format!("x{}/", dirs[random.below(dirs.len() as u64) as usize]);
            }
        }
        let above = path.trim_end_matches('/').to_owned();
        let name = random.below(4) as usize;
        let full = format!("{path}x{name}");
        match random.below(5) {
            0 => {
                members.push(file(&format!("{path}.wh.x{name}"), ""));
                hidden.push((full, above));
            }
            1 if !above.is_empty() => {
                members.push(file(&format!("{path}.wh..wh..opq"), ""));
                hidden.push((String::new(), above));
            }
            _ if is_dir[name] => {
                members.push(dir(&full));
                puts.push((full, None));
            }
            _ => {
                let text = format!("{number}-{}", members.len());
                members.push(file(&full, &text));
                puts.push((full, Some(text)));
            }
        }
    }
    for (path, above) in &hidden {
        if path.is_empty() {
            remove_below(tree, above);
        } else {
            tree.remove(path);
            remove_below(tree, path);
        }
    }
    for (_, above) in hidden.iter().filter(|(_, above)| !above.is_empty()) {
        put_dir(tree, above);
    }
    for (path, text) in puts {
        if let Some((above, _)) = path.rsplit_once('/') {
            put_dir(tree, above);
        }
        match text {
            None => put_dir(tree, &path),
            Some(text) => {
                remove_below(tree, &path);
                tree.insert(path, Some(text));
            }
        }
    }
    tar(&members)
}

fn seen(root: &Path) -> Tree {
    fn walk(dir: &Path, path: &str, tree: &mut Tree) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            // The rest is the init layer's.
            if path.is_empty() && !name.starts_with('x') {
                continue;
            }
            let full = if path.is_empty() { name } else { format!("{path}/{name}") };
            if entry.file_type().unwrap().is_dir() {
                tree.insert(full.clone(), None);
                walk(&entry.path(), &full, tree);
            } else {
                tree.insert(full, Some(std::fs::read_to_string(entry.path()).unwrap()));
            }
        }
    }
    let mut tree = Tree::new();
    walk(root, "", &mut tree);
    tree
}

#[test]
fn stacks_of_layers_look_as_a_model_says() {
    if !root_or_skip("stacks of layers") {
        return;
    }
    let test = TestStore::new();
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut tree = Tree::new();
        let layers: Vec<Vec<u8>> =
            (0..1 + random.below(4) as usize).map(|at| random_layer(&mut random, &mut tree, at)).collect();
        let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        let id = test.load(&docker_archive(&[("stack", &layers)])).unwrap_or_else(|e| panic!("seed {seed}: {e}"))[0].id;
        test.store.prepare("c", &id).unwrap();
        let mount = test.store.mount("c", false).unwrap();
        assert_eq!(
            seen(&PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()))),
            tree,
            "seed {seed}, as the kernel shows it"
        );
        drop(mount);
        let mut exported = Vec::new();
        test.store.export("c", &mut exported).unwrap();
        let mut walked = Tree::new();
        for (entry, data) in read_all(&exported).unwrap() {
            let name = String::from_utf8(entry.path).unwrap().trim_start_matches("./").trim_end_matches('/').to_owned();
            if name.starts_with('x') {
                walked.insert(name, (entry.kind != Kind::Dir).then(|| String::from_utf8(data).unwrap()));
            }
        }
        assert_eq!(walked, tree, "seed {seed}, as export shows it");
        test.store.remove_snapshot("c").unwrap();
        test.store.remove("stack", RemoveOptions { force: true, no_prune: false }, &|_| false).unwrap();
    }
    test.assert_clean();
}

#[test]
fn any_bytes_may_be_a_name() {
    if !root_or_skip("names") {
        return;
    }
    let mut random = Random(14);
    let mut names: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    while names.len() < 500 {
        let len = 1 + random.below(if names.len().is_multiple_of(5) { 255 } else { 12 });
        let name: Vec<u8> = (0..len).map(|_| random.below(256) as u8).filter(|b| !matches!(b, 0 | b'/')).collect();
        if !name.is_empty() && name != b"." && name != b".." && !name.starts_with(b".wh.") {
            names.insert(name, random.below(1000).to_string().into_bytes());
        }
    }
    let members: Vec<_> = names
        .iter()
        .map(|(name, data)| {
            let (mut entry, _) = file("x", std::str::from_utf8(data).unwrap());
            entry.path.clone_from(name);
            (entry, data.clone())
        })
        .collect();
    // Imported, saved, loaded, exported.
    let (test, again) = (TestStore::new(), TestStore::new());
    let options = ImportOptions { reference: Some("names".parse().unwrap()), ..Default::default() };
    test.store.import(&mut &tar(&members)[..], &options, &|_| {}).unwrap();
    let mut saved = Vec::new();
    test.store.save(&["names".into()], &mut saved).unwrap();
    let id = again.load(&saved).unwrap()[0].id;
    again.store.prepare("c", &id).unwrap();
    let mut exported = Vec::new();
    again.store.export("c", &mut exported).unwrap();
    let found: BTreeMap<Vec<u8>, Vec<u8>> = read_all(&exported)
        .unwrap()
        .into_iter()
        .filter(|(entry, _)| matches!(entry.kind, Kind::File(_)))
        .map(|(entry, data)| (entry.path, data))
        .collect();
    assert!(
        found == names,
        "{} of {} names came back",
        found.iter().filter(|(name, data)| names.get(*name) == Some(data)).count(),
        names.len()
    );
}

#[test]
fn builds_pulls_and_prunes_at_once_leave_a_whole_store() {
    if !root_or_skip("everything at once") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let db = db::Db::open(&folder.path().join("knarr.db")).unwrap();
    let store = Arc::new(Store::open(folder.path(), db.clone(), Default::default()).unwrap());
    let layers = [tar(&[dir("./"), file("a", "1")]), tar(&[file("b", "2")]), tar(&[file(".wh.a", "")])];
    let pull = |round: usize| {
        let mut oci = OciArchive::default();
        oci.image(&[&layers[0], &layers[1 + round % 2]], "+gzip", gzip, serde_json::json!({}));
        let (config, manifest) = (oci.blobs.remove(0), oci.blobs.pop().unwrap());
        let pull = store.pull().unwrap();
        let missing = pull.missing(&config).unwrap();
        for (layer, _) in oci.blobs.iter().zip(missing).filter(|(_, missing)| *missing) {
            let part = pull.layer(image::hash::sha256(layer), layer.len() as u64).unwrap();
            let from = part.have();
            part.receive(from, &mut &layer[from as usize..], &|_| {}).unwrap();
        }
        let manifest = PulledManifest { media_type: format!("{OCI}.manifest.v1+json"), manifest, config };
        pull.commit(manifest, vec![format!("pulled:{}", round % 3).parse().unwrap()]).unwrap();
    };
    let build = |worker: usize, round: usize| {
        let name = format!("b{worker}-{round}");
        let bottom = store.add_layer_tar(None, &mut &layers[0][..]).unwrap();
        let middle = store.add_layer_tar(Some(&bottom.layer.chain), &mut &layers[1][..]).unwrap();
        let snapshot = store.prepare_on(&name, Some(&middle.layer.chain)).unwrap();
        assert!(snapshot.lowers.iter().all(|dir| dir.exists()));
        std::fs::write(snapshot.upper.join("new"), round.to_string()).unwrap();
        let top = store.seal(&name).unwrap();
        db.write(|txn| store.keep(txn, &name, &top.layer.chain)).unwrap();
        let diff_ids = [&bottom, &middle, &top].map(|sealed| sealed.layer.diff_id);
        drop((bottom, middle));
        let config =
            serde_json::json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}, "author": name});
        let config = serde_json::to_vec(&config).unwrap();
        store
            .create_image(config, Some(&top.layer.chain), vec![format!("built:{worker}").parse().unwrap()], None)
            .unwrap();
        db.write(|txn| store.unkeep(txn, &name)).unwrap();
    };
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (store, pull, build) = (&store, &pull, &build);
            scope.spawn(move || {
                for round in 0..8 {
                    match worker {
                        0 => pull(round),
                        1 | 2 => build(worker, round),
                        _ => {
                            store.prune(&PruneFilter { dangling: round % 2 == 0, ..Default::default() }).unwrap();
                            store.collect().unwrap();
                            assert_eq!(store.check(true).unwrap(), [], "while others are at work");
                        }
                    }
                }
            });
        }
    });
    store.prune(&PruneFilter { dangling: false, ..Default::default() }).unwrap();
    store.forget_partials().unwrap();
    assert_whole(&store, "after everything at once");
    assert_eq!(std::fs::read_dir(folder.path().join("layers")).unwrap().count(), 0);
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened(&[
        ("root", "metadata_is_never_set_through_a_link"),
        ("opaque", "stacks_of_layers_look_as_a_model_says"),
        ("names", "any_bytes_may_be_a_name"),
    ]);
}
