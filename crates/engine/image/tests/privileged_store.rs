//! The store as root: archives in, images, archives out.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use common::*;
use image::tar::Kind;
use image::*;
use vocab::ErrorKind;

fn base() -> Vec<u8> {
    tar(&[
        dir("./"),
        dir("bin"),
        file("bin/sh", "#!"),
        dir("etc"),
        file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
        dir("tmp"),
        other("lib", Kind::Symlink("usr/lib".into())),
        dir("usr"),
        dir("usr/lib"),
    ])
}

fn second() -> Vec<u8> {
    tar(&[dir("etc"), file("etc/motd", "hello"), file("etc/.wh.passwd", ""), dir("data"), file("data/a", "1")])
}

fn third() -> Vec<u8> {
    tar(&[file("data/b", "2"), file("tmp/.wh..wh..opq", "")])
}

fn tags(store: &Store) -> Vec<String> {
    let mut tags: Vec<String> = store
        .list(&ListFilter { all: true, ..Default::default() })
        .unwrap()
        .iter()
        .flat_map(|i| i.tags.iter().map(|t| t.familiar()))
        .collect();
    tags.sort();
    tags
}

#[test]
fn a_docker_archive_loads_in_any_order_and_packing_and_comes_out_again() {
    if !root_or_skip("load") {
        return;
    }
    let (one, two, three) = (base(), second(), third());
    let members = docker_members(&[("app:1", &[&one, &two, &three]), ("base", &[&one])]);
    let mut reversed = members.clone();
    reversed.reverse();
    let app_id = image::hash::sha256(&config(&[&one, &two, &three], serde_json::json!({})));
    for (how, bytes) in [
        ("in order", archive(&members)),
        ("manifest first", archive(&reversed)),
        ("gzip", gzip(&archive(&members))),
        ("zstd", zstd(&archive(&reversed))),
    ] {
        let test = TestStore::new();
        let loaded = test.load(&bytes).unwrap_or_else(|e| panic!("{how}: {e}"));
        assert_eq!(loaded.len(), 2);
        assert_eq!(tags(&test.store), ["app:1", "base:latest"]);
        let facts = test.store.inspect("app:1").unwrap();
        assert_eq!(facts.id, app_id);
        assert_eq!(facts.config_bytes, config(&[&one, &two, &three], serde_json::json!({})));
        assert_eq!(facts.lowers.len(), 3);
        let history: Vec<_> = test.store.history("app:1").unwrap().iter().map(|h| h.size_bytes).collect();
        assert_eq!(history, [0, 1, 6, 24], "{how}");
        // The bottom layer is one folder for both images.
        assert_eq!(std::fs::read_dir(test.folder.path().join("layers")).unwrap().count(), 3);
        let mut saved = Vec::new();
        test.store.save(&["app:1".into(), "base".into()], &mut saved).unwrap();
        let again = TestStore::new();
        again.load(&saved).unwrap();
        assert_eq!(tags(&again.store), ["app:1", "base:latest"]);
        assert_eq!(again.store.resolve("app:1").unwrap(), app_id);
        let mut saved_again = Vec::new();
        again.store.save(&["app:1".into(), "base".into()], &mut saved_again).unwrap();
        assert!(saved == saved_again, "{how}: an image saved, loaded and saved again is another archive");
        again.assert_clean();
        test.assert_clean();
    }
}

#[test]
fn oci_layouts_keep_their_compressed_layers_and_manifests() {
    if !root_or_skip("OCI load") {
        return;
    }
    let (one, two) = (base(), second());
    for (kind, pack) in [("", plain as fn(&[u8]) -> Vec<u8>), ("+gzip", gzip), ("+zstd", zstd)] {
        let mut oci = OciArchive::default();
        let amd = oci.image(&[&one, &two], kind, pack, serde_json::json!({}));
        let oci = oci.name(amd.clone(), "docker.io/library/app:2");
        let test = TestStore::new();
        test.load(&oci.tar()).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(tags(&test.store), ["app:2"]);
        let by_digest = format!("app@{}", amd["digest"].as_str().unwrap());
        assert_eq!(test.store.resolve(&by_digest).unwrap(), test.store.resolve("app:2").unwrap());
        let mut saved = Vec::new();
        test.store.save(&["app:2".into()], &mut saved).unwrap();
        let members = read_all(&saved).unwrap();
        for blob in &oci.blobs {
            let name = format!("blobs/sha256/{}", hex_of(blob));
            let found = members.iter().find(|(entry, _)| entry.path == name.as_bytes());
            assert!(found.is_some_and(|(_, data)| data == blob), "{kind}: {name} is not saved as it came");
        }
        // A folder is the same as a tar of it.
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        for (name, data) in oci.members() {
            std::fs::write(folder.path().join(name), data).unwrap();
        }
        let again = TestStore::new();
        again.store.load_layout(folder.path(), &Default::default(), &|_| {}).unwrap();
        assert_eq!(again.store.resolve("app:2").unwrap(), test.store.resolve("app:2").unwrap());
        test.assert_clean();
        again.assert_clean();
    }
}

#[test]
fn the_platform_of_an_index_is_chosen() {
    if !root_or_skip("platforms") {
        return;
    }
    let one = base();
    let mut oci = OciArchive::default();
    let mut manifests = Vec::new();
    for arch in ["arm64", "amd64"] {
        let mut image = oci.image(&[&one], "+gzip", gzip, serde_json::json!({"architecture": arch}));
        image["platform"] = serde_json::json!({"os": "linux", "architecture": arch});
        manifests.push(image);
    }
    let inner =
        serde_json::json!({"schemaVersion": 2, "mediaType": format!("{OCI}.index.v1+json"), "manifests": manifests});
    let inner = oci.json("index.v1+json", &inner);
    let archive = oci.name(inner, "multi").tar();
    for (platform, expected) in [(None, "amd64"), (Some("linux/arm64"), "arm64")] {
        let test = TestStore::new();
        let options = LoadOptions { platform: platform.map(|p| Platform::parse(p).unwrap()), ..Default::default() };
        test.store.load(&mut &archive[..], &options, &|_| {}).unwrap();
        assert_eq!(test.store.inspect("multi").unwrap().config.architecture, expected);
    }
    let test = TestStore::new();
    let options = LoadOptions { platform: Some(Platform::parse("linux/s390x").unwrap()), ..Default::default() };
    let error = test.store.load(&mut &archive[..], &options, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("nothing for platform linux/s390x"), "{error}");
    test.assert_clean();
}

/// Every lie is found, and nothing of the archive remains.
#[test]
fn archives_that_lie_are_refused_and_leave_nothing() {
    if !root_or_skip("lies") {
        return;
    }
    let (one, two) = (base(), second());
    let good = docker_members(&[("app:1", &[&one, &two])]);
    let change = |name: &str, f: &dyn Fn(&mut Vec<u8>)| {
        let mut members = good.clone();
        let member = members.iter_mut().find(|(has, _)| has.contains(name)).unwrap();
        f(&mut member.1);
        archive(&members)
    };
    let replace = |name: &str, from: &str, to: &str| {
        change(name, &|data| *data = String::from_utf8_lossy(data).replace(from, to).into_bytes())
    };
    let layer_name = hex_of(&two);
    let flip = |at: usize| change(&layer_name, &move |data| data[at] ^= 1);
    let oci = |f: &dyn Fn(&mut OciArchive) -> serde_json::Value| {
        let mut oci = OciArchive::default();
        let descriptor = f(&mut oci);
        oci.name(descriptor, "app:1").tar()
    };
    let with = |mut value: serde_json::Value, key: &str, to: serde_json::Value| {
        value[key] = to;
        value
    };
    let index_of = |manifests: &[serde_json::Value]| serde_json::json!({"schemaVersion": 2, "mediaType": format!("{OCI}.index.v1+json"), "manifests": manifests});
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "neither a tar nor a compressed tar"),
        ("junk", b"junk".repeat(1000), "neither a tar nor a compressed tar"),
        ("a tar of nothing", tar(&[]), "it holds no image"),
        ("no manifest", archive(&good[..2]), "it holds no image"),
        ("truncated", archive(&good)[..6000].to_vec(), "the tar ends in the middle of"),
        ("data of a layer changed", flip(1026), "invalid diffID for layer 1: its digest is"),
        ("header of a layer changed", flip(3), "not a tar, gzip or zstd"),
        ("layer cut short", change(&layer_name, &|data| data.truncate(1024)), "the tar ends in the middle of"),
        ("layer grew", change(&layer_name, &|data| data.extend([0; 512])), "invalid diffID for layer 1"),
        ("layer is no tar", change(&layer_name, &|data| *data = vec![7; 4096]), "not a tar, gzip or zstd"),
        (
            "trailing archive in a layer",
            change(&layer_name, &|data| data.extend(base())),
            "data after the end of the tar",
        ),
        ("missing layer", replace("manifest.json", &layer_name, "gone"), "layer gone/layer.tar is missing"),
        ("layer outside", replace("manifest.json", &format!("{layer_name}/"), "../../../etc/"), "is missing"),
        ("config outside", replace("manifest.json", "\"Config\":\"", "\"Config\":\"/etc/"), "is missing"),
        ("manifest is no json", change("manifest.json", &|data| data.truncate(20)), "manifest.json: EOF"),
        ("bad name", replace("manifest.json", "app:1", "App:1"), "must be lowercase"),
        ("name as a path", replace("manifest.json", "app:1", "../../x:1"), "invalid reference format"),
        (
            "fewer layers than told",
            replace("manifest.json", &format!(",\"{layer_name}/layer.tar\""), ""),
            "layers length mismatch: expected 2, got 1",
        ),
        ("member twice", archive(&[good.clone(), vec![good[0].clone()]].concat()), "appears twice"),
        (
            "digest of no blob",
            oci(&|oci| with(oci.image(&[&one], "", plain, serde_json::json!({})), "digest", digest(b"x").into())),
            "no document has the digest",
        ),
        (
            "sha512",
            oci(&|oci| {
                with(
                    oci.image(&[&one], "", plain, serde_json::json!({})),
                    "digest",
                    format!("sha512:{}", "0".repeat(128)).into(),
                )
            }),
            "unsupported digest algorithm",
        ),
        (
            "size of a manifest",
            oci(&|oci| with(oci.image(&[&one], "", plain, serde_json::json!({})), "size", 5.into())),
            "expected 5",
        ),
        (
            "media type of a manifest",
            oci(&|oci| {
                with(
                    oci.image(&[&one], "", plain, serde_json::json!({})),
                    "mediaType",
                    format!("{OCI}.index.v1+json").into(),
                )
            }),
            "was announced as",
        ),
        (
            "windows",
            oci(&|oci| oci.image(&[&one], "", plain, serde_json::json!({"os": "windows"}))),
            "cannot load windows image on linux",
        ),
        ("erofs", oci(&|oci| oci.image(&[&one], "+erofs", plain, serde_json::json!({}))), "are not supported"),
        (
            "broken gzip",
            oci(&|oci| oci.image(&[&one], "+gzip", |tar| gzip(tar)[..100].to_vec(), serde_json::json!({}))),
            "cannot be inflated",
        ),
        (
            "garbage after gzip",
            oci(&|oci| {
                oci.image(&[&one], "+gzip", |tar| [gzip(tar), b"garbage!".repeat(9)].concat(), serde_json::json!({}))
            }),
            "cannot be inflated",
        ),
        (
            "deeply nested index",
            oci(&|oci| {
                let mut at = oci.image(&[&one], "", plain, serde_json::json!({}));
                for _ in 0..5 {
                    at = oci.json("index.v1+json", &index_of(&[at]));
                }
                at
            }),
            "nested too deeply",
        ),
        (
            "too many manifests",
            oci(&|oci| {
                let image = oci.image(&[&one], "", plain, serde_json::json!({}));
                oci.json("index.v1+json", &index_of(&vec![image; 10_001]))
            }),
            "an index may list 10000 manifests",
        ),
    ];
    for (name, bytes, says) in rows {
        let test = TestStore::new();
        let error = test.load(&bytes).err().unwrap_or_else(|| panic!("{name}: it was accepted"));
        assert!(error.to_string().contains(says), "{name}: {error}");
        assert!(
            matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Exhausted),
            "{name}: {error:?}"
        );
        assert_eq!(tags(&test.store), Vec::<String>::new());
        for folder in ["layers", "blobs/sha256"] {
            assert_eq!(std::fs::read_dir(test.folder.path().join(folder)).unwrap().count(), 0, "{name}: {folder}");
        }
        test.assert_clean();
    }
}

/// The weakened reader would take it: a blob with any one bit changed is never accepted.
#[test]
fn every_bit_of_a_small_archive_counts_or_is_harmless() {
    if !root_or_skip("bits") {
        return;
    }
    let one = tar(&[file("a", "payload")]);
    let good = OciArchive::default();
    let mut oci = good;
    let manifest = oci.image(&[&one], "+gzip", gzip, serde_json::json!({}));
    let oci = oci.name(manifest, "app:1");
    let layer = gzip(&one);
    let name = format!("blobs/sha256/{}", hex_of(&layer));
    let test = TestStore::new();
    for bit in 0..layer.len() * 8 {
        let mut members = oci.members();
        let member = members.iter_mut().find(|(has, _)| *has == name).unwrap();
        member.1[bit / 8] ^= 1 << (bit % 8);
        assert!(test.load(&archive(&members)).is_err(), "bit {bit} was changed and nobody noticed");
    }
    assert_eq!(test.store.list(&Default::default()).unwrap().len(), 0);
    test.assert_clean();
    test.load(&oci.tar()).unwrap();
}

#[test]
fn a_layer_that_leans_on_those_below_is_completed_from_them() {
    if !root_or_skip("rebasing") {
        return;
    }
    let mut private = dir("private");
    private.0.mode = 0o1700;
    private.0.uid = 33;
    let one = tar(&[private, file("private/target", "linked")]);
    let two = tar(&[file("private/new", "x"), other("alias", Kind::HardLink("private/target".into()))]);
    let test = TestStore::new();
    test.load(&docker_archive(&[("app", &[&one, &two])])).unwrap();
    let facts = test.store.inspect("app").unwrap();
    let top = std::fs::metadata(facts.lowers[0].join("private")).unwrap();
    assert_eq!((top.mode() & 0o7777, top.uid()), (0o1700, 33));
    assert_eq!(std::fs::read_to_string(facts.lowers[0].join("alias")).unwrap(), "linked");
    // The same layer where there is nothing below it to link to.
    let error = test.load(&docker_archive(&[("broken", &[&two])])).unwrap_err();
    assert!(error.to_string().contains("hard link to private/target"), "{error}");
    test.assert_clean();
}

#[test]
fn rmi_speaks_dockers_rules() {
    if !root_or_skip("rmi") {
        return;
    }
    let (one, two) = (base(), second());
    let test = TestStore::new();
    let load = || test.load(&docker_archive(&[("app:1", &[&one, &two]), ("base", &[&one])])).unwrap();
    let remove = |name: &str, force: bool, running: bool| {
        let result = test.store.remove(name, RemoveOptions { force, no_prune: false }, &|_| running);
        result
            .map(|removed| {
                removed
                    .iter()
                    .map(|r| match r {
                        Removed::Untagged(name) => format!("-{name}"),
                        Removed::Deleted(_) => "x".to_owned(),
                    })
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .map_err(|e| e.to_string())
    };
    load();
    let id = test.store.resolve("app:1").unwrap();
    let hex = id.hex();
    let short = &hex[..12];

    // One of two names: the image stays.
    test.store.tag("app:1", &"other/app:2".parse().unwrap()).unwrap();
    assert_eq!(remove("app:1", false, false).unwrap(), "-app:1");
    test.store.tag("other/app:2", &"app:1".parse().unwrap()).unwrap();
    // By id with names in two repositories.
    assert_eq!(
        remove(short, false, false).unwrap_err(),
        format!("conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories")
    );
    assert_eq!(remove("other/app:2", false, false).unwrap(), "-other/app:2");

    // A container uses it.
    test.store.prepare("c1", &id).unwrap();
    assert_eq!(
        remove("app:1", false, false).unwrap_err(),
        format!(
            "conflict: unable to remove repository reference \"app:1\" (must force) - container c1 is using its referenced image {short}"
        )
    );
    assert_eq!(
        remove(short, false, false).unwrap_err(),
        format!("conflict: unable to delete {short} (must be forced) - image is being used by stopped container c1")
    );
    assert_eq!(
        remove(short, true, true).unwrap_err(),
        format!("conflict: unable to delete {short} (cannot be forced) - image is being used by running container c1")
    );
    assert_eq!(remove("app:1", true, true).unwrap(), "-app:1");
    assert_eq!(tags(&test.store), ["base:latest"]);
    // Forced away under a stopped container: its layers stay until it goes.
    assert_eq!(remove(short, true, false).unwrap(), "x");
    assert_eq!(test.store.snapshot("c1").unwrap().lowers.len(), 3);
    assert!(test.store.snapshot("c1").unwrap().lowers.iter().all(|dir| dir.exists()));
    test.store.remove_snapshot("c1").unwrap();
    assert_eq!(std::fs::read_dir(test.folder.path().join("layers")).unwrap().count(), 1);
    // With its last name goes the image, and with it its layers.
    assert_eq!(remove("base", false, false).unwrap(), "-base:latest x x");
    assert_eq!(remove("base", false, false).unwrap_err(), "No such image: base:latest");
    assert_eq!(std::fs::read_dir(test.folder.path().join("layers")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(test.folder.path().join("blobs/sha256")).unwrap().count(), 0);
    test.assert_clean();

    // A short prefix must be unique.
    load();
    assert!(matches!(test.store.resolve(""), Err(Error::Reference(_))));
    assert_eq!(test.store.resolve(&hex[..5]).unwrap(), id);
    assert_eq!(test.store.resolve(&format!("sha256:{hex}")).unwrap(), id);
    assert!(matches!(test.store.resolve("0000000"), Err(Error::NoSuchImage(_))));
}

#[test]
fn lists_are_filtered_and_prune_spares_what_is_used() {
    if !root_or_skip("prune") {
        return;
    }
    let (one, two, three) = (base(), second(), third());
    let test = TestStore::new();
    test.load(&docker_archive(&[("app:1", &[&one, &two]), ("base", &[&one]), ("", &[&one, &three])])).unwrap();
    let names = |filter: ListFilter| {
        let list = test.store.list(&filter).unwrap();
        let mut names: Vec<String> =
            list.iter().map(|i| i.tags.first().map_or("<none>".into(), |t| t.familiar())).collect();
        names.sort();
        names
    };
    assert_eq!(names(ListFilter::default()), ["<none>", "app:1", "base:latest"]);
    assert_eq!(names(ListFilter { dangling: Some(true), ..Default::default() }), ["<none>"]);
    assert_eq!(names(ListFilter { dangling: Some(false), ..Default::default() }), ["app:1", "base:latest"]);
    assert_eq!(names(ListFilter { references: vec!["app".into()], ..Default::default() }), ["app:1"]);
    assert_eq!(names(ListFilter { references: vec!["b*:latest".into()], ..Default::default() }), ["base:latest"]);
    assert_eq!(names(ListFilter { labels: vec!["a=b".into()], ..Default::default() }), Vec::<String>::new());
    assert_eq!(names(ListFilter { since: vec!["app:1".into()], ..Default::default() }), Vec::<String>::new());
    assert!(test.store.list(&ListFilter { before: vec!["gone".into()], ..Default::default() }).is_err());
    let app = test.store.list(&ListFilter { references: vec!["app".into()], ..Default::default() }).unwrap();
    assert_eq!((app[0].size_bytes, app[0].shared_size_bytes), (30, 24));
    let usage = test.store.usage().unwrap();
    assert_eq!(usage.layers_bytes, 31);

    let pruned = test.store.prune(&PruneFilter::default()).unwrap();
    assert_eq!(pruned.removed.len(), 2);
    assert_eq!(names(ListFilter::default()), ["app:1", "base:latest"]);
    test.store.prepare("c", &test.store.resolve("base").unwrap()).unwrap();
    test.store.prune(&PruneFilter { dangling: false, ..Default::default() }).unwrap();
    assert_eq!(names(ListFilter::default()), ["base:latest"]);
    test.assert_clean();
}

#[test]
fn a_snapshot_is_mounted_changed_compared_committed_and_exported() {
    if !root_or_skip("snapshots") {
        return;
    }
    let (one, two) = (base(), second());
    let test = TestStore::new();
    test.load(&docker_archive(&[("app:1", &[&one, &two])])).unwrap();
    let id = test.store.resolve("app:1").unwrap();
    let snapshot = test.store.prepare("c1", &id).unwrap();
    assert_eq!(snapshot.lowers.len(), 3);
    let mount = test.store.mount("c1", true).unwrap();
    let root = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount));
    let root = Path::new(&root);
    // Mount points are there, and are no change.
    for path in ["dev/console", "proc", "sys", "etc/hosts", "etc/resolv.conf", "etc/hostname", ".dockerenv", "etc/motd"]
    {
        assert!(root.join(path).exists(), "{path}");
    }
    assert_eq!(test.store.diff("c1").unwrap(), []);
    std::fs::write(root.join("etc/new"), "n").unwrap();
    std::fs::write(root.join("etc/motd"), "changed").unwrap();
    std::fs::remove_file(root.join("bin/sh")).unwrap();
    std::fs::remove_dir_all(root.join("data")).unwrap();
    std::fs::create_dir(root.join("data")).unwrap();
    std::fs::write(root.join("data/c"), "3").unwrap();
    std::fs::create_dir(root.join("srv")).unwrap();
    std::fs::set_permissions(root.join("srv"), std::fs::Permissions::from_mode(0o2750)).unwrap();
    std::os::unix::fs::symlink("/srv", root.join("link")).unwrap();
    drop(mount);
    let diff: Vec<String> = test
        .store
        .diff("c1")
        .unwrap()
        .iter()
        .map(|change| {
            let letter = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Changed => 'C',
                ChangeKind::Deleted => 'D',
            };
            format!("{letter} {}", change.path.display())
        })
        .collect();
    assert_eq!(
        diff,
        [
            "C /bin",
            "D /bin/sh",
            "C /data",
            "D /data/a",
            "A /data/c",
            "C /etc",
            "C /etc/motd",
            "A /etc/new",
            "A /link",
            "A /srv"
        ]
    );
    assert_eq!(test.store.snapshot_usage("c1").unwrap(), (9, 30));

    let options = CommitOptions {
        reference: Some("committed".parse().unwrap()),
        message: "a message".into(),
        author: "me".into(),
        changes: vec!["ENV A=b".into()],
        created_by: "sh".into(),
        ..Default::default()
    };
    let new = test.store.commit("c1", &options).unwrap();
    let facts = test.store.inspect("committed").unwrap();
    assert_eq!((facts.id, facts.parent, facts.lowers.len()), (new, Some(id), 3));
    assert_eq!(facts.config.config.env, ["A=b"]);
    assert_eq!(facts.config.config.cmd, Some(vec!["sh".into()]));
    let value: serde_json::Value = serde_json::from_slice(&facts.config_bytes).unwrap();
    assert_eq!(value["x-vendor"]["kept"], true);
    let history = test.store.history("committed").unwrap();
    assert_eq!((history[0].id, history[1].id, history[0].comment.as_str()), (Some(new), Some(id), "a message"));
    assert!(test.store.remove("app:1", Default::default(), &|_| false).is_err());

    // The committed image has the container's tree, without the init layer.
    test.store.prepare("c2", &new).unwrap();
    let export = |container: &str| {
        let mut bytes = Vec::new();
        test.store.export(container, &mut bytes).unwrap();
        let members = read_all(&bytes).unwrap();
        members
            .into_iter()
            .map(|(e, data)| {
                format!("{} {:o} {}", String::from_utf8_lossy(&e.path), e.mode, String::from_utf8_lossy(&data))
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(export("c1"), export("c2"));
    assert!(export("c2").contains(&"data/c 644 3".to_owned()));
    assert!(export("c2").contains(&"srv/ 2750 ".to_owned()));
    assert!(!export("c2").iter().any(|line| line.starts_with("bin/sh") || line.starts_with("data/a")));
    assert_eq!(test.store.diff("c2").unwrap(), []);
    // What the walk sees is what the kernel's own overlay shows.
    let mount = test.store.mount("c2", false).unwrap();
    let root = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount));
    let seen = |path: &str| std::fs::symlink_metadata(Path::new(&root).join(path)).is_ok();
    assert!(seen("data/c") && seen("srv") && !seen("data/a") && !seen("bin/sh") && !seen("etc/passwd"));
    assert!(std::fs::write(Path::new(&root).join("x"), "").is_err());
    drop(mount);

    let mut exported = Vec::new();
    test.store.export("c2", &mut exported).unwrap();
    let imported = test
        .store
        .import(
            &mut &exported[..],
            &ImportOptions {
                changes: vec!["CMD [\"x\"]".into()],
                reference: Some("flat".parse().unwrap()),
                ..Default::default()
            },
            &|_| {},
        )
        .unwrap();
    let facts = test.store.inspect("flat").unwrap();
    assert_eq!((facts.id, facts.config.config.cmd), (imported, Some(vec!["x".into()])));
    test.store.remove_snapshot("c1").unwrap();
    test.store.remove_snapshot("c2").unwrap();
    test.store.remove_snapshot("c2").unwrap();
    assert_eq!(test.store.snapshots().unwrap(), Vec::<String>::new());
    test.assert_clean();
}

#[test]
fn only_the_names_asked_for_move() {
    if !root_or_skip("names") {
        return;
    }
    let (one, two) = (base(), second());
    let test = TestStore::new();
    test.load(&docker_archive(&[("trusted", &[&one])])).unwrap();
    let trusted = test.store.resolve("trusted").unwrap();
    let evil = docker_archive(&[("trusted", &[&two]), ("asked", &[&one, &two])]);
    let options = LoadOptions { only: vec!["asked".parse().unwrap()], ..Default::default() };
    test.store.load(&mut &evil[..], &options, &|_| {}).unwrap();
    assert_eq!(test.store.resolve("trusted").unwrap(), trusted);
    assert_eq!(tags(&test.store), ["asked:latest", "trusted:latest"]);
}

#[test]
fn loads_removals_and_collections_at_once_leave_a_whole_store() {
    if !root_or_skip("concurrency") {
        return;
    }
    let test = TestStore::new();
    let layers = [base(), second(), third()];
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (test, layers) = (&test, &layers);
            scope.spawn(move || {
                for round in 0..12 {
                    let name = format!("w{}:1", (worker + round) % 3);
                    let bytes = docker_archive(&[(&name, &[&layers[0], &layers[1 + (worker + round) % 2]])]);
                    let loaded = test.load(&bytes).unwrap();
                    let container = format!("c{worker}-{round}");
                    // Somebody may have removed it meanwhile; if not, it must be whole.
                    if let Ok(snapshot) = test.store.prepare(&container, &loaded[0].id) {
                        assert!(snapshot.lowers.iter().all(|dir| dir.exists()));
                        test.store.remove_snapshot(&container).unwrap();
                    }
                    let _ = test.store.remove(&name, RemoveOptions { force: true, no_prune: false }, &|_| false);
                    test.store.collect().unwrap();
                }
            });
        }
    });
    for name in ["w0:1", "w1:1", "w2:1"] {
        let _ = test.store.remove(name, RemoveOptions { force: true, no_prune: false }, &|_| false);
    }
    test.store.prune(&PruneFilter { dangling: false, ..Default::default() }).unwrap();
    test.assert_clean();
    assert_eq!(std::fs::read_dir(test.folder.path().join("layers")).unwrap().count(), 0);
}

/// A snapshot has its folders before its record and loses its record before its folders. Whatever comes between, nothing is
/// left behind, nothing that it needs is gone, and nobody takes what is under way for a leftover.
#[test]
fn what_comes_between_the_files_and_the_record_of_a_snapshot_does_no_harm() {
    if !root_or_skip("snapshots under way") {
        return;
    }
    let test = TestStore::new();
    let (store, db) = (&test.store, &test.db);
    let bytes = docker_archive(&[("app", &[&base(), &second()])]);
    let id = test.load(&bytes).unwrap()[0].id;
    let force = RemoveOptions { force: true, no_prune: false };
    let count = |folder: &str| std::fs::read_dir(test.folder.path().join(folder)).unwrap().count();

    // Removed and collected: the layers stay until the snapshot is given up, and go with it.
    let prepared = store.prepare_files("c1", &id).unwrap();
    assert_eq!(store.check(true).unwrap(), [], "a snapshot under way is no leftover");
    store.remove("app", force, &|_| false).unwrap();
    store.collect().unwrap();
    assert_eq!((count("layers"), count("snapshots")), (2, 1));
    assert!(matches!(db.write(|txn| prepared.record(txn)), Err(Error::NoSuchImage(_))));
    drop(prepared);
    assert_eq!((count("layers"), count("snapshots"), count("blobs/sha256")), (0, 0, 0));
    test.assert_clean();

    // Removed and loaded again: what was handed out is what the new image has too.
    test.load(&bytes).unwrap();
    let prepared = store.prepare_files("c2", &id).unwrap();
    store.remove("app", force, &|_| false).unwrap();
    test.load(&bytes).unwrap();
    db.write(|txn| prepared.record(txn)).unwrap();
    let snapshot = prepared.keep();
    assert!(snapshot.lowers.iter().all(|dir| dir.exists()));
    assert_eq!(store.snapshot("c2").unwrap(), snapshot);
    assert!(matches!(store.prepare("c2", &id), Err(Error::Conflict(_))));
    test.assert_clean();

    // The record is gone, the folders are next: no leftover either.
    let left = db.write(|txn| store.remove_record(txn, "c2")).unwrap();
    store.remove("app", force, &|_| false).unwrap();
    assert_eq!(store.check(true).unwrap(), []);
    store.remove_files_of("c2", left).unwrap();
    test.assert_clean();

    // A layer that is damaged on disk: the folders that were begun go again.
    test.load(&bytes).unwrap();
    store.prepare("c3", &id).unwrap();
    let top = store.inspect("app").unwrap().lowers[0].clone();
    std::fs::rename(&top, top.with_extension("away")).unwrap();
    assert!(store.prepare("c4", &id).is_err());
    assert_eq!(count("snapshots"), 1, "a snapshot that could not be made left its folder");
    std::fs::rename(top.with_extension("away"), &top).unwrap();
    store.remove_snapshot("c3").unwrap();
    test.assert_clean();
}

/// A look at a container while it is removed does not make its folders again.
#[test]
fn a_snapshot_that_is_looked_at_while_it_goes_stays_gone() {
    if !root_or_skip("looking at snapshots") {
        return;
    }
    let test = TestStore::new();
    let id = test.load(&docker_archive(&[("app", &[&base()])])).unwrap()[0].id;
    for round in 0..20 {
        let container = format!("c{round}");
        test.store.prepare(&container, &id).unwrap();
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| while test.store.snapshot(&container).is_ok() {});
            // As after a power cut: a look makes the folders again.
            std::fs::remove_dir_all(test.folder.path().join("snapshots").join(&container)).unwrap_or_default();
            test.store.remove_snapshot(&container).unwrap();
            looking.join().unwrap();
        });
    }
    assert_eq!(std::fs::read_dir(test.folder.path().join("snapshots")).unwrap().count(), 0);
    test.assert_clean();
}

/// Small on the wire, huge when inflated: refused at the limit, with little memory and nothing left behind.
#[test]
fn bombs_are_stopped_at_their_limit() {
    if !root_or_skip("bombs") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let db = db::Db::open(&folder.path().join("knarr.db")).unwrap();
    let limits = Limits { layer_bytes: 8 << 20, layer_entries: 1000, ratio: 100, ..Default::default() };
    let options = Options { limits, ..Default::default() };
    let store = Store::open(folder.path(), db, options).unwrap();
    let zeros = "\0".repeat(12 << 20);
    let large = tar(&[file("zeros", &zeros)]);
    let many: Vec<_> = (0..1001).map(|n| file(&format!("f{n}"), "")).collect();
    let many = tar(&many);
    let deep = tar(&[dir(&"d/".repeat(2000))]);
    for (what, layer, says) in [
        ("bytes", &large, "more than 8388608 bytes"),
        ("entries", &many, "more than 1000 entries"),
        ("depth", &deep, "path is deeper than 512 directories"),
    ] {
        for pack in [gzip, zstd] {
            let mut oci = OciArchive::default();
            let image = oci.image(&[layer], "+gzip", pack, serde_json::json!({}));
            let error = store.load(&mut &oci.name(image, "bomb").tar()[..], &Default::default(), &|_| {}).unwrap_err();
            assert!(error.to_string().contains(says), "{what}: {error}");
            assert_eq!(store.check(true).unwrap(), []);
        }
    }
    // The stream under a gzip member that is itself a gzip member is no tar.
    let nested = gzip(&gzip(&tar(&[file("a", "1")])));
    let mut oci = OciArchive::default();
    let config = oci.blob("config.v1+json", config(&[&nested], serde_json::json!({})));
    let layer = oci.blob("layer.v1.tar+gzip", nested);
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let manifest = oci.json("manifest.v1+json", &manifest);
    assert!(store.load(&mut &oci.name(manifest, "nested").tar()[..], &Default::default(), &|_| {}).is_err());
    assert_eq!(std::fs::read_dir(folder.path().join("layers")).unwrap().count(), 0);

    // The deepest tree that is taken can also be walked and removed.
    let deepest = tar(&[dir(&"d/".repeat(512))]);
    let loaded = store.load(&mut &docker_archive(&[("deep", &[&deepest])])[..], &Default::default(), &|_| {}).unwrap();
    let snapshot = store.prepare("c", &loaded[0].id).unwrap();
    run("mkdir", &["-p", &"u/".repeat(512)], &snapshot.upper);
    let mut exported = Vec::new();
    store.export("c", &mut exported).unwrap();
    assert_eq!(store.diff("c").unwrap().len(), 512);
    assert_eq!(store.snapshot_usage("c").unwrap().0, 0);
    store.commit("c", &CommitOptions::default()).unwrap();
    store.remove_snapshot("c").unwrap();
    store.prune(&PruneFilter { dangling: false, ..Default::default() }).unwrap();
    assert_eq!(store.check(true).unwrap(), []);
    assert_eq!(std::fs::read_dir(folder.path().join("layers")).unwrap().count(), 0);
}

/// As many layers as the kernel stacks, with a container on top; one more is refused.
#[test]
fn the_only_limit_of_layers_is_the_kernels() {
    if !root_or_skip("many layers") {
        return;
    }
    let most = Limits::default().layers;
    let layers: Vec<Vec<u8>> = (0..most).map(|n| tar(&[dir("./"), file(&format!("layer{n}"), "x")])).collect();
    let all: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let test = TestStore::new();
    test.load(&docker_archive(&[("tall", &all)])).unwrap();
    let id = test.store.resolve("tall").unwrap();
    assert_eq!(test.store.prepare("c", &id).unwrap().lowers.len(), most + 1);
    for writable in [true, false] {
        let mount = test.store.mount("c", writable).unwrap();
        let root = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount));
        let seen = (0..most).filter(|n| Path::new(&root).join(format!("layer{n}")).exists()).count();
        assert_eq!(seen, most);
    }
    assert_eq!(test.store.check(false).unwrap(), []);
    let few = tempfile::tempdir().unwrap();
    let db = db::Db::open(&few.path().join("knarr.db")).unwrap();
    let options = Options { limits: Limits { layers: 3, ..Default::default() }, ..Default::default() };
    let store = Store::open(few.path(), db, options).unwrap();
    let load = |n: usize| store.load(&mut &docker_archive(&[("app", &all[..n])])[..], &Default::default(), &|_| {});
    assert!(load(3).is_ok());
    let error = load(4).unwrap_err();
    assert!(error.to_string().contains("max depth exceeded"), "{error}");
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened(&[
        ("digest", "archives_that_lie_are_refused_and_leave_nothing"),
        ("trailing", "archives_that_lie_are_refused_and_leave_nothing"),
        ("depth", "archives_that_lie_are_refused_and_leave_nothing"),
        ("limits", "bombs_are_stopped_at_their_limit"),
        ("only", "only_the_names_asked_for_move"),
        ("pins", "what_comes_between_the_files_and_the_record_of_a_snapshot_does_no_harm"),
        ("claims", "what_comes_between_the_files_and_the_record_of_a_snapshot_does_no_harm"),
    ]);
}
