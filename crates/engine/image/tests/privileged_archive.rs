//! Copying into and out of a tree that is not to be trusted.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use common::*;
use image::archive::{self, UnpackOptions};
use image::tar::Kind;
use linux::fs::Root;

fn tree() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    let script = "mkdir -p root/etc root/srv/deep outside; echo secret > outside/secret; echo hi > root/etc/hosts;
        ln -s /etc root/abs; ln -s ../../../../../../outside root/out; ln -s etc/hosts root/link; mkfifo root/srv/pipe
        echo x > root/srv/deep/x; chmod 600 root/srv/deep/x";
    run("sh", &["-euc", script], temp.path());
    temp
}

fn names(root: &Path, path: &str) -> Result<Vec<String>, String> {
    let mut bytes = Vec::new();
    archive::pack(&Root::open(root).unwrap(), Path::new(path), &mut bytes).map_err(|e| e.to_string())?;
    Ok(read_all(&bytes).unwrap().iter().map(|(e, _)| String::from_utf8_lossy(&e.path).into_owned()).collect())
}

#[test]
fn a_path_comes_out_under_its_own_name() {
    if !root_or_skip("copying out") {
        return;
    }
    let temp = tree();
    let root = temp.path().join("root");
    assert_eq!(names(&root, "/etc/hosts").unwrap(), ["hosts"]);
    assert_eq!(names(&root, "/srv").unwrap(), ["srv/", "srv/deep/", "srv/deep/x", "srv/pipe"]);
    assert_eq!(names(&root, "/link").unwrap(), ["link"]);
    assert_eq!(names(&root, "/abs/hosts").unwrap(), ["hosts"]);
    assert_eq!(names(&root, "/abs/").unwrap(), ["abs/", "abs/hosts"]);
    assert!(names(&root, "/").unwrap().contains(&"etc/hosts".to_owned()));
    for gone in ["/none", "/out/secret", "/../outside/secret", "/out/"] {
        assert!(names(&root, gone).is_err(), "{gone}");
    }
    let root = Root::open(&root).unwrap();
    let facts = archive::stat(&root, Path::new("/link")).unwrap();
    assert_eq!((facts.name.as_str(), facts.link_target.as_deref()), ("link", Some(Path::new("etc/hosts"))));
    assert_eq!(archive::stat(&root, Path::new("/abs/")).unwrap().mode & 0o170000, 0o040000);
    assert_eq!(archive::stat(&root, Path::new("/")).unwrap().name, "/");
}

#[test]
fn what_comes_in_stays_in() {
    if !root_or_skip("copying in") {
        return;
    }
    let temp = tree();
    let path = temp.path().join("root");
    let root = Root::open(&path).unwrap();
    let before = listing(&temp.path().join("outside"));
    let put = |to: &str, members: &[(image::tar::Entry, Vec<u8>)], options: UnpackOptions| {
        archive::unpack(&root, Path::new(to), &mut &gzip(&tar(members))[..], &options).map_err(|e| e.to_string())
    };
    let plain = UnpackOptions::default();
    let mut owned = file("owned", "1");
    (owned.0.uid, owned.0.gid, owned.0.mode) = (5, 6, 0o4711);
    put(
        "/srv",
        &[owned.clone(), dir("new"), file("new/f", "2"), other("l", Kind::Symlink("/etc/hosts".into()))],
        plain,
    )
    .unwrap();
    let meta = std::fs::metadata(path.join("srv/owned")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777), (5, 6, 0o4711));
    put("/srv", &[owned], UnpackOptions { owner: Some((0, 0)), ..plain }).unwrap();
    assert_eq!(std::fs::metadata(path.join("srv/owned")).unwrap().uid(), 0);
    // Through links: inside the root, wherever they point.
    put("/abs", &[file("through", "3")], plain).unwrap();
    assert_eq!(std::fs::read(path.join("etc/through")).unwrap(), b"3");
    put("/", &[file("abs/again", "4")], plain).unwrap();
    assert_eq!(std::fs::read(path.join("etc/again")).unwrap(), b"4");
    // A link in the way is replaced, not written through.
    put("/", &[file("link", "5")], plain).unwrap();
    assert_eq!(std::fs::read(path.join("etc/hosts")).unwrap(), b"hi\n");
    // `out` leads to a place that the root does not have: it is made there, inside.
    put("/", &[file("out/secret", "6")], plain).unwrap();
    assert_eq!(std::fs::read(path.join("outside/secret")).unwrap(), b"6");
    assert!(put("/", &[file("../outside/secret", "7")], plain).unwrap_err().contains("path contains"));
    assert!(put("/", &[other("h", Kind::HardLink("../outside/secret".into()))], plain).is_err());
    assert!(put("/etc/hosts", &[file("f", "8")], plain).unwrap_err().contains("extraction point is not a directory"));
    assert!(put("/none", &[file("f", "8")], plain).is_err());
    let strict = UnpackOptions { no_overwrite_dir_non_dir: true, ..plain };
    assert!(
        put("/", &[file("srv", "9")], strict)
            .unwrap_err()
            .contains("cannot overwrite directory \"srv\" with non-directory")
    );
    assert!(
        put("/etc", &[dir("hosts")], strict)
            .unwrap_err()
            .contains("cannot overwrite non-directory \"hosts\" with directory")
    );
    assert!(put("/", &[other("w", Kind::Char { major: 0, minor: 0 })], plain).is_err());
    assert_eq!(listing(&temp.path().join("outside")), before);
}
