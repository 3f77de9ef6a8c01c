//! Broken input for what this crate reads from strangers: tars, documents, names, whole archives, and layers that are unpacked.

mod common;

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use common::*;
use fuzz::Target;
use image::config::Config;
use image::tar::{Entry, Kind, Reader, TarError, Time, Writer};
use image::*;
use vocab::{Digest, Reference};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// A tar of everything that a tar may hold.
fn everything() -> Vec<u8> {
    let long = format!("long/{}", "n".repeat(150));
    let mut odd = file("odd", "x");
    odd.0.xattrs.push((b"user.a".to_vec(), b"b".to_vec()));
    odd.0.mtime = Time { secs: 1_700_000_000, nanos: 5 };
    tar(&[
        dir("./"),
        dir("d"),
        file("d/f", "hello"),
        file("d/.wh.gone", ""),
        file("d/.wh..wh..opq", ""),
        other("d/l", Kind::Symlink("../../../../etc".into())),
        other("d/h", Kind::HardLink("d/f".into())),
        other("d/c", Kind::Char { major: 1, minor: 3 }),
        other("d/b", Kind::Block { major: 7, minor: 0 }),
        other("d/p", Kind::Fifo),
        odd,
        file(&long, "long"),
    ])
}

/// Names that lead somewhere else, and the fields that say what an entry is.
fn words() -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = [
        "../",
        "/",
        "..",
        "./",
        ".wh.",
        ".wh..wh..opq",
        ".wh...",
        "d/l/passwd",
        "/proc/self/root/",
        "\0",
        "\u{0}ustar\u{0}00",
        "ustar  \0",
        "27 path=../../x\n",
        "19 size=9999999999\n",
        "30 SCHILY.xattr.trusted.overlay=",
        "22 GNU.sparse.major=1\n",
        "0000644\0",
        "0007777\0",
        "00000000000\0",
        "77777777777\0",
        "-1",
    ]
    .iter()
    .map(|word| word.as_bytes().to_vec())
    .collect();
    // The header's type, and a header whose checksum is right for each type.
    for flag in b"0123456xgLKSD7" {
        words.push(vec![*flag]);
        let mut block = everything()[512..1024].to_vec();
        block[156] = *flag;
        block[100..108].copy_from_slice(b"0000644\0");
        words.push(sum(block));
    }
    words.push(vec![0; 512]);
    words.push(vec![0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    words
}

/// The header with the checksum that belongs to it.
fn sum(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A change to a header is found out by its checksum alone; half of the inputs get theirs put right.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut mended = bytes.to_vec();
    if bytes.len().is_multiple_of(2) {
        for block in mended.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
            let whole = sum(block.to_vec());
            block.copy_from_slice(&whole);
        }
    }
    mended
}

fn shape(error: &TarError) -> String {
    match error {
        TarError::Header { detail, .. } | TarError::Entry { detail, .. } => {
            detail.chars().filter(|c| c.is_alphabetic()).take(40).collect()
        }
        other => format!("{:?}", discriminant(other)),
    }
}

fn members(bytes: &[u8]) -> Result<Vec<(Entry, u64)>, TarError> {
    let mut tar = reader(bytes);
    let mut members = Vec::new();
    while let Some(entry) = tar.next_entry()? {
        let mut data = 0;
        while let Some(chunk) = tar.data()? {
            data += chunk.len() as u64;
        }
        members.push((entry, data));
    }
    Ok(members)
}

#[test]
fn what_the_tar_reader_takes_it_takes_again_from_the_writer() {
    Target::new("tar", HERE).seed(everything()).seed(tar(&[])).words(words()).run(|bytes| {
        let bytes = mended(bytes);
        let members = match members(&bytes) {
            Ok(members) => members,
            Err(error) => return Err(shape(&error)),
        };
        let mut kinds = BTreeSet::new();
        for (entry, data) in &members {
            kinds.insert(format!("{:?}", discriminant(&entry.kind)));
            if let Kind::File(file) = &entry.kind {
                assert_eq!(file.stored, *data);
                let pieces: u64 = file.pieces().iter().map(|(_, len)| len).sum();
                assert_eq!(pieces, file.stored);
            }
            // What the path comes to stays inside.
            if let Ok(parts) = image::tar::path::parts(&entry.path) {
                assert!(
                    parts
                        .iter()
                        .all(|part| !part.is_empty() && *part != b"." && *part != b".." && !part.contains(&b'/'))
                );
            }
        }
        // One reader for everything: what it saw, written anew, is seen the same.
        let mut writer = Writer::new(Vec::new());
        for (entry, data) in &members {
            writer.entry(entry).unwrap();
            writer.data(&vec![0; *data as usize]).unwrap();
        }
        assert_eq!(self::members(&writer.finish().unwrap()), Ok(members));
        Ok(kinds)
    });
}

#[test]
fn references_and_digests_read_back_as_they_were_shown() {
    let digest = format!("sha256:{}", "a".repeat(64));
    Target::new("reference", HERE)
        .seed("busybox")
        .seed("host.example:5000/a/b_c/d-e:tag")
        .seed(format!("repo@{digest}"))
        .seed(&digest)
        .words(["/", ":", "@", "sha256:", "localhost", "docker.io/library/", "[::1]", "__", "..", "-", "A"])
        .run(|bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return (false, 0) };
            if let Ok(digest) = text.parse::<Digest>() {
                assert_eq!(digest.to_string(), text);
            }
            match text.parse::<Reference>() {
                Ok(name) => {
                    assert_eq!(name.to_string().parse::<Reference>().unwrap(), name);
                    assert_eq!(name.familiar().parse::<Reference>().unwrap(), name);
                    assert!(!name.to_string().contains("..") || text.contains(".."));
                    (true, usize::from(name.tag().is_some()) * 2 + usize::from(name.digest().is_some()))
                }
                Err(error) => (false, error.to_string().len()),
            }
        });
}

#[test]
fn configurations_are_read_or_refused() {
    Target::new("config", HERE)
        .seed(config(&[b"x"], serde_json::json!({"config": {"Healthcheck": {"Test": ["CMD", "x"], "Interval": 5}}})))
        .words([
            "null",
            "\"\"",
            "{}",
            "[]",
            "-1",
            "1e99",
            "\"rootfs\":",
            "\"diff_ids\":[\"sha512:00\"]",
            "\"Healthcheck\":",
        ])
        .run(|bytes| match Config::parse(bytes, "fuzz") {
            Ok(parsed) => {
                // What is written of it is read again.
                let again = Config::parse(&serde_json::to_vec(&parsed).unwrap(), "fuzz again").unwrap();
                assert_eq!(again.rootfs.diff_ids, parsed.rootfs.diff_ids);
                Ok((parsed.rootfs.diff_ids.len(), parsed.history.len(), parsed.config.healthcheck.is_some()))
            }
            Err(error) => Err(discriminant(&error)),
        });
}

#[test]
fn manifests_make_an_image_of_what_was_received_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let db = db::Db::open(&folder.path().join("knarr.db")).unwrap();
    let store = Arc::new(Store::open(folder.path(), db, Default::default()).unwrap());
    let mut oci = OciArchive::default();
    oci.image(&[&everything()], "+gzip", gzip, serde_json::json!({}));
    let (config, manifest) = (oci.blobs[0].clone(), oci.blobs[2].clone());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", &manifest)]});
    Target::new("manifest", HERE)
        .seed(&manifest)
        .seed(serde_json::to_vec(&index).unwrap())
        .words([
            "\"manifests\":[]",
            "\"layers\":[]",
            "\"config\":null",
            "\"schemaVersion\":1",
            "\"fsLayers\":[]",
            "\"urls\":[\"file:///\"]",
        ])
        .run(|bytes| {
            let pull = store.pull().unwrap();
            let pulled = PulledManifest { media_type: String::new(), manifest: bytes.to_vec(), config: config.clone() };
            let error = pull.commit(pulled, vec!["evil".parse().unwrap()]).expect_err("an image without its layer");
            // Without the digest that it begins with.
            let text = error.to_string();
            let detail = text.split_once(": ").map_or(text.as_str(), |(_, detail)| detail);
            detail.chars().filter(|c| c.is_alphabetic()).take(40).collect::<String>()
        });
    assert_eq!(store.list(&Default::default()).unwrap().len(), 0);
    assert_whole(&store, "after broken manifests");
}

/// Everything about what lies around the layer.
fn surroundings(outside: &Path) -> String {
    let mut text = String::new();
    for name in ["secret", "dir", "dir/file"] {
        let meta = std::fs::symlink_metadata(outside.join(name)).unwrap();
        text += &format!(
            "{name} {} {:o} {} {} {}.{}\n",
            meta.ino(),
            meta.mode(),
            meta.uid(),
            meta.nlink(),
            meta.ctime(),
            meta.ctime_nsec()
        );
    }
    text + &format!("{:?}", std::fs::read_dir(outside).unwrap().count())
}

#[test]
fn a_layer_never_leaves_its_folder() {
    if !root_or_skip("hostile layers") {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    std::fs::create_dir(outside.path().join("dir")).unwrap();
    std::fs::write(outside.path().join("dir/file"), "file").unwrap();
    let layers = outside.path().join("layers");
    std::fs::create_dir(&layers).unwrap();
    let before = surroundings(outside.path());
    let root = outside.path().to_str().unwrap().to_owned();
    let links =
        [other("up", Kind::Symlink("../../../".into())), other("abs", Kind::Symlink(root.clone().into_bytes()))];
    let through = [
        file("up/new", "x"),
        file("abs/new", "x"),
        dir("abs/dir"),
        other("abs/hard", Kind::HardLink("abs/secret".into())),
        other("hard", Kind::HardLink("up/secret".into())),
        file("abs/dir/.wh.file", ""),
        file("up/dir/.wh..wh..opq", ""),
    ];
    let evil = through.map(|member| tar(&[&links[..], &[member]].concat()));
    let words = words().into_iter().chain([
        root.clone().into_bytes(),
        format!("{root}/secret").into_bytes(),
        b"../../../secret".to_vec(),
    ]);
    let target = evil.iter().fold(Target::new("layer", HERE).seed(everything()), Target::seed);
    target.words(words).run(|bytes| {
        let bytes = mended(bytes);
        let layer = layers.join("layer");
        let unpacked = unpack(&bytes, &layer);
        if unpacked.is_ok() {
            // What was taken can be made again, byte for byte.
            let mut again = Vec::new();
            let mut recipe = image::layer::RecipeReader::open(&layer).unwrap();
            std::io::Read::read_to_end(&mut recipe, &mut again).unwrap();
            assert!(again == bytes, "the recipe gives another tar");
        }
        std::fs::remove_dir_all(&layer).unwrap();
        assert_eq!(surroundings(outside.path()), before, "something outside the layer was touched");
        match unpacked {
            Ok(unpacked) => Ok((unpacked.entries, unpacked.foreign_links.len(), unpacked.implicit_dirs.len())),
            Err(Error::Tar { source, .. }) => Err(shape(&source)),
            Err(other) => Err(other.to_string().chars().filter(|c| c.is_alphabetic()).take(30).collect()),
        }
    });
}

#[test]
fn an_archive_makes_images_or_leaves_nothing() {
    if !root_or_skip("hostile archives") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let db = db::Db::open(&folder.path().join("knarr.db")).unwrap();
    let store = Store::open(folder.path(), db, Default::default()).unwrap();
    let one = tar(&[file("a", "1")]);
    let mut oci = OciArchive::default();
    let image = oci.image(&[&one], "+gzip", gzip, serde_json::json!({}));
    Target::new("archive", HERE)
        .seed(docker_archive(&[("app", &[&one])]))
        .seed(oci.name(image, "app").tar())
        .words([
            "manifest.json",
            "index.json",
            "../",
            "layer.tar",
            "\"Layers\":[]",
            "\"RepoTags\":null",
            "blobs/sha256/",
        ])
        .run(|bytes| {
            let bytes = mended(bytes);
            let way = match store.load(&mut &bytes[..], &Default::default(), &|_| {}) {
                Ok(loaded) => {
                    for image in &loaded {
                        store
                            .remove(&image.id.to_string(), RemoveOptions { force: true, no_prune: false }, &|_| false)
                            .unwrap();
                    }
                    Ok(loaded.len())
                }
                Err(error) => Err(error.to_string().chars().filter(|c| c.is_alphabetic()).take(40).collect::<String>()),
            };
            for left in ["layers", "blobs/sha256", "tmp"] {
                assert_eq!(std::fs::read_dir(folder.path().join(left)).unwrap().count(), 0, "{left}");
            }
            way
        });
    assert_whole(&store, "after broken archives");
}

/// The reader's own promise, on which the others stand: it never asks for more than there is.
#[test]
fn a_reader_ends_where_its_stream_ends() {
    let whole = everything();
    for end in 0..whole.len() {
        let mut tar: Reader<_> = reader(&whole[..end]);
        while let Ok(Some(_)) = tar.next_entry() {}
        assert!(tar.offset() <= end as u64);
    }
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened(&[("root", "a_layer_never_leaves_its_folder")]);
}
