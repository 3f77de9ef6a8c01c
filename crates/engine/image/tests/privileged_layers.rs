//! Unpacking as root: everything that a layer may hold, and everything that it may not.

mod common;

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use common::*;
use image::layer::RecipeReader;
use image::tar::{Entry, Kind};

#[test]
fn what_gnu_tar_packed_unpacks_the_same_and_its_tar_is_made_again() {
    if !root_or_skip("unpacking") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let long = "n".repeat(120);
    let script = format!(
        r#"
        mkdir -p a/b empty {long}/{long}; echo one > a/b/one; ln a/b/one a/two; ln -s ../a/b/one empty/link
        ln -s {long}{long} longlink; ln a/b/one {long}/{long}/hard; mkfifo fifo; mknod null c 1 3; mknod disk b 8 1
        echo suid > suid; chmod 4755 suid; chmod 2775 a/b; chmod 0555 empty; chown 1234:70000 a/two; chown -h 5:6 longlink
        head -c 3000000 /dev/urandom > big; truncate -s 20M sparse; printf x | dd of=sparse bs=1 seek=10000000 conv=notrunc 2>/dev/null
        printf 'newline' > "$(printf 'new\nline')"; printf x > "$(printf 'bad\377utf8')"; touch -d '1969-12-31 12:00:00.5' old
        printf y > .hidden; for i in $(seq 300); do echo $i > a/f$i; done; touch -d 2001-01-01 a a/b .
        "#
    );
    run("sh", &["-euc", &script], &tree);
    for format in [
        "gnu",
        "posix",
        "posix --sparse",
        "gnu --sparse",
        "posix --sparse --sparse-version=0.1",
        "posix --sparse --sparse-version=0.0",
    ] {
        let args = format!("tar --format={format} -cf - .");
        let bytes = run("sh", &["-c", &args], &tree);
        let layer = temp.path().join(format.replace(' ', "_"));
        let unpacked = unpack(&bytes, &layer).unwrap_or_else(|e| panic!("{format}: {e}"));
        assert_eq!(unpacked.implicit_dirs, Vec::<Vec<u8>>::new());
        let mut expected = listing(&tree);
        let mut found = listing(&layer.join("diff"));
        if format.starts_with("gnu") {
            // This format has whole seconds only.
            let whole = |text: String| {
                let cut = |line: &str| {
                    line.split(' ')
                        .map(|w| w.split_once(".0000").map_or(w, |(a, _)| a).to_owned())
                        .collect::<Vec<_>>()
                        .join(" ")
                };
                text.lines().map(cut).collect::<Vec<_>>().join("\n")
            };
            run("sh", &["-c", "find . -exec stat -c '%n %Y' {} + | sort > ../expected"], &tree);
            run("sh", &["-c", "find . -exec stat -c '%n %Y' {} + | sort > ../../found"], &layer.join("diff"));
            let drop_times = |text: &str| {
                text.lines()
                    .map(|l| {
                        l.split(' ').enumerate().filter(|(i, _)| *i != 4).map(|(_, w)| w).collect::<Vec<_>>().join(" ")
                    })
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            expected = drop_times(&whole(expected));
            found = drop_times(&whole(found));
            assert_eq!(
                std::fs::read(temp.path().join("found")).unwrap(),
                std::fs::read(temp.path().join("expected")).unwrap()
            );
        }
        assert_eq!(found, expected, "{format}");
        run("diff", &["-r", "--no-dereference", "a", layer.join("diff/a").to_str().unwrap()], &tree);
        run("cmp", &["sparse", layer.join("diff/sparse").to_str().unwrap()], &tree);
        if format.contains("sparse") {
            assert!(
                std::fs::metadata(layer.join("diff/sparse")).unwrap().blocks() < 1000,
                "{format}: holes were filled"
            );
        }
        let mut again = Vec::new();
        RecipeReader::open(&layer).unwrap().read_to_end(&mut again).unwrap();
        assert!(again == bytes, "{format}: the tar made from the recipe differs");
    }
}

#[test]
fn whiteouts_become_overlays_own_form() {
    if !root_or_skip("whiteouts") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let bytes = tar(&[
        dir("etc"),
        file("etc/.wh.gone", ""),
        dir("opaque"),
        file("opaque/new", "1"),
        file("opaque/.wh..wh..opq", ""),
        file("implicit/.wh..wh..opq", ""),
        // Both orders of a whiteout and its replacement mean the same.
        file(".wh.first", ""),
        dir("first"),
        file("first/x", "1"),
        dir("second"),
        file("second/x", "1"),
        file(".wh.second", ""),
        file("both", "1"),
        file(".wh.both", ""),
        file(".wh.reborn", ""),
        file("reborn", "2"),
        file(".wh..wh.plnk/99", "aufs"),
    ]);
    let layer = temp.path().join("layer");
    unpack(&bytes, &layer).unwrap();
    let diff = layer.join("diff");
    let is_whiteout = |name: &str| {
        let meta = std::fs::symlink_metadata(diff.join(name)).unwrap();
        meta.file_type().is_char_device() && meta.rdev() == 0
    };
    let opaque = |name: &str| {
        let fd = std::fs::File::open(diff.join(name)).unwrap();
        linux::xattr::get(&fd, "trusted.overlay.opaque").unwrap() == Some(b"y".to_vec())
    };
    assert!(is_whiteout("etc/gone"));
    assert!(opaque("opaque") && opaque("implicit") && opaque("first") && opaque("second"));
    assert!(!opaque("etc"));
    assert_eq!(std::fs::read(diff.join("both")).unwrap(), b"1");
    assert_eq!(std::fs::read(diff.join("reborn")).unwrap(), b"2");
    assert!(!diff.join(".wh..wh.plnk").exists());
    let mut again = Vec::new();
    RecipeReader::open(&layer).unwrap().read_to_end(&mut again).unwrap();
    assert!(again == bytes);
}

#[test]
fn a_later_member_takes_the_place_of_an_earlier_one_and_the_tar_is_still_made_again() {
    if !root_or_skip("replacing") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let bytes = tar(&[
        file("a", "first"),
        file("a", "second"),
        file("a", "third"),
        dir("d"),
        file("d/inside", "kept for the tar"),
        other("d", Kind::Symlink("elsewhere".into())),
        file("l", "file before link"),
        other("l", Kind::Symlink("a".into())),
        file("l", "file again"),
        file("f", "file before dir"),
        dir("f"),
        file("f/below", "1"),
        file("h1", "hard"),
        other("h2", Kind::HardLink("h1".into())),
        file("h1", "soft"),
    ]);
    let layer = temp.path().join("layer");
    unpack(&bytes, &layer).unwrap();
    let read = |name: &str| std::fs::read_to_string(layer.join("diff").join(name)).unwrap();
    assert_eq!((read("a"), read("l"), read("f/below")), ("third".into(), "file again".into(), "1".into()));
    assert_eq!((read("h1"), read("h2")), ("soft".into(), "hard".into()));
    assert_eq!(std::fs::read_link(layer.join("diff/d")).unwrap(), Path::new("elsewhere"));
    let mut again = Vec::new();
    RecipeReader::open(&layer).unwrap().read_to_end(&mut again).unwrap();
    assert!(again == bytes);
}

/// The archive may not touch anything outside; what it may not do inside is refused by name.
#[test]
fn hostile_archives_touch_nothing_outside() {
    if !root_or_skip("hostile archives") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    std::fs::set_permissions(outside.join("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let target = outside.to_str().unwrap().to_owned();
    let before = listing(&outside);
    let up = "../".repeat(12) + &target[1..];
    let with = |mut e: (Entry, Vec<u8>), f: &dyn Fn(&mut Entry)| {
        f(&mut e.0);
        e
    };
    let link = |path: &str, to: &str| other(path, Kind::Symlink(to.into()));
    let hard = |path: &str, to: &str| other(path, Kind::HardLink(to.into()));
    let xattr = |name: &str, value: &str| {
        let pair = (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        move |e: &mut Entry| e.xattrs.push(pair.clone())
    };
    // Whether it must be refused; what is accepted must stay inside.
    type Case = (&'static str, bool, Vec<(Entry, Vec<u8>)>);
    let cases: Vec<Case> = vec![
        ("dot dot", true, vec![file(&format!("{up}/secret"), "x")]),
        ("dot dot inside", true, vec![file("a/../../b", "x")]),
        ("absolute", false, vec![file(&format!("{target}/secret"), "x")]),
        ("through an absolute link", true, vec![link("l", &target), file("l/secret", "x")]),
        ("through a relative link", true, vec![link("l", &up), file("l/secret", "x")]),
        ("through two links", true, vec![link("a", "b"), link("b", &up), file("a/secret", "x")]),
        ("over a link", false, vec![link("l", &format!("{target}/secret")), file("l", "x")]),
        ("chmod over a link", false, vec![link("l", &target), with(dir("l"), &|e| e.mode = 0o777)]),
        ("owner through a link", false, vec![with(link("l", &format!("{target}/secret")), &|e| e.uid = 99)]),
        (
            "hard link outside",
            false,
            vec![hard("h", &format!("{target}/secret")), with(file("h", "x"), &|e| e.mode = 0o777)],
        ),
        ("hard link dot dot", true, vec![hard("h", &format!("{up}/secret"))]),
        ("hard link through a link", false, vec![link("l", &target), hard("h", "l/secret")]),
        ("hard link to a link", false, vec![link("l", &format!("{target}/secret")), hard("h", "l"), file("h", "x")]),
        ("magic link", true, vec![link("l", "/proc/self/root"), file(&format!("l{target}/secret"), "x")]),
        ("whiteout of dot dot", true, vec![file("a/.wh...", "")]),
        ("whiteout through a link", true, vec![link("l", &target), file("l/.wh.secret", "")]),
        ("opaque through a link", true, vec![link("l", &target), file("l/.wh..wh..opq", "")]),
        ("opaque root", true, vec![file(".wh..wh..opq", "")]),
        ("raw whiteout", true, vec![other("dev", Kind::Char { major: 0, minor: 0 })]),
        ("redirect", true, vec![with(dir("d"), &xattr("trusted.overlay.redirect", "/etc"))]),
        ("metacopy", true, vec![with(file("f", "x"), &xattr("trusted.overlay.metacopy", ""))]),
        ("user redirect", true, vec![with(dir("d"), &xattr("user.overlay.redirect", "/etc"))]),
        ("root is a file", true, vec![file("./", "")]),
        ("root is a link", true, vec![link(".", "/etc")]),
        ("file as a directory", true, vec![file("f", "x"), file("f/below", "y")]),
        ("device as a directory", true, vec![other("n", Kind::Char { major: 1, minor: 3 }), file("n/below", "y")]),
        ("hard link to itself", false, vec![hard("h", "h")]),
        ("hard link to a directory", true, vec![dir("d"), hard("h", "d")]),
        ("hard link to a whiteout", true, vec![file(".wh.w", ""), hard("h", "w")]),
        ("link loop", true, vec![link("a", "b"), link("b", "a"), file("a/x", "y")]),
        ("name too long", true, vec![file(&"n".repeat(256), "")]),
    ];
    for (name, refused, members) in cases {
        let layer = temp.path().join("layers").join(name.replace(' ', "_"));
        let result = unpack(&tar(&members), &layer);
        assert_eq!(result.is_err(), refused, "{name}: {result:?}");
        if let Err(error) = result {
            assert_eq!(error.kind(), vocab::ErrorKind::Invalid, "{name}: {error}");
        }
        assert_eq!(listing(&outside), before, "{name}");
    }
}

#[test]
fn limits_hold() {
    if !root_or_skip("limits") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let many: Vec<_> = (0..50).map(|i| file(&format!("f{i}"), "0123456789")).collect();
    for (limits, says) in [
        (image::Limits { layer_entries: 49, ..Default::default() }, "more than 49 entries"),
        (image::Limits { layer_bytes: 499, ..Default::default() }, "more than 499 bytes unpacked"),
    ] {
        let layer = temp.path().join(says);
        std::fs::create_dir(&layer).unwrap();
        let bytes = tar(&many);
        let source = image::chunk::ReadSource::new(&bytes[..], image::chunk::Pool::new(4));
        let error = image::layer::unpack(source, &layer, "bomb", &image::layer::Options { limits, ..options(true) })
            .unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.kind(), vocab::ErrorKind::Exhausted);
    }
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened(&[
        ("root", "hostile_archives_touch_nothing_outside"),
        ("overlay", "hostile_archives_touch_nothing_outside"),
    ]);
}
