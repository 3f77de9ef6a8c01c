//! What several test files share.
#![allow(dead_code)]

use std::path::Path;
use std::process::Command;

use image::chunk::{Pool, ReadSource};
use image::layer::{Options, Unpacked};
use image::tar::{Entry, FileData, Kind, Reader, Time, Writer};

pub fn entry(path: &str, kind: Kind) -> Entry {
    let mode = if kind == Kind::Dir { 0o755 } else { 0o644 };
    Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: Time { secs: 1_000_000, nanos: 0 }, xattrs: vec![] }
}

pub fn file(path: &str, data: &str) -> (Entry, Vec<u8>) {
    (entry(path, Kind::File(FileData::plain(data.len() as u64))), data.into())
}

pub fn other(path: &str, kind: Kind) -> (Entry, Vec<u8>) {
    (entry(path, kind), Vec::new())
}

pub fn dir(path: &str) -> (Entry, Vec<u8>) {
    other(path, Kind::Dir)
}

pub fn tar(members: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in members {
        writer.entry(entry).unwrap();
        writer.data(data).unwrap();
    }
    writer.finish().unwrap()
}

pub fn reader(bytes: &[u8]) -> Reader<ReadSource<&[u8]>> {
    Reader::new(ReadSource::new(bytes, Pool::new(4)))
}

/// Every member with its payload.
pub fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, image::tar::TarError> {
    let mut tar = reader(bytes);
    let mut members = Vec::new();
    while let Some(entry) = tar.next_entry()? {
        let mut data = Vec::new();
        while let Some(chunk) = tar.data()? {
            data.extend_from_slice(&chunk);
        }
        members.push((entry, data));
    }
    Ok(members)
}

pub fn options(recipe: bool) -> Options {
    Options { recipe, rootless: false, workers: 2, limits: Default::default() }
}

pub fn unpack(bytes: &[u8], layer: &Path) -> image::Result<Unpacked> {
    std::fs::create_dir_all(layer).unwrap();
    image::layer::unpack(ReadSource::new(bytes, Pool::new(8)), layer, "test layer", &options(true))
}

/// True when run as root; else says aloud that the test proves nothing.
pub fn root_or_skip(test: &str) -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        eprintln!("SKIPPED: {test} needs root");
    }
    root
}

pub fn run(program: &str, args: &[&str], folder: &Path) -> Vec<u8> {
    let out = Command::new(program).args(args).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// Every path below `root` with type, mode, owner, size or target, and time: what a person would compare.
pub fn listing(root: &Path) -> String {
    let script = r#"find . \( -type f -printf '%P %y %m %U:%G %T@ %n %s\n' \) -o \( -type d -printf '%P %y %m %U:%G %T@\n' \) -o -printf '%P %y %m %U:%G %T@ %l\n' | LC_ALL=C sort"#;
    String::from_utf8_lossy(&run("sh", &["-c", script], root)).into_owned()
}
