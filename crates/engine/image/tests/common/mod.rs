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

/// A store in a folder of its own.
pub struct TestStore {
    pub folder: tempfile::TempDir,
    pub db: db::Db,
    pub store: image::Store,
}

impl TestStore {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = db::Db::open(&folder.path().join("knarr.db")).unwrap();
        let store = image::Store::open(folder.path(), db.clone(), Default::default()).unwrap();
        Self { folder, db, store }
    }

    pub fn load(&self, archive: &[u8]) -> image::Result<Vec<image::Loaded>> {
        self.store.load(&mut &archive[..], &Default::default(), &|_| {})
    }

    /// Nothing half done, nothing forgotten, every digest right.
    pub fn assert_clean(&self) {
        assert_whole(&self.store, "");
    }
}

/// Leaves each defence out in turn and shows that the test (of the same file) that guards it fails then.
pub fn weakened(defences: &[(&str, &str)]) {
    if !cfg!(feature = "weaken") {
        eprintln!("SKIPPED: only a build with --features weaken can be weakened");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    for (defence, test) in defences {
        let run = |weak: &str| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            let child = child.args([test, "--exact"]).env("KNARR_WEAKEN", weak).env("TMPDIR", temp.path());
            child.output().unwrap().status.success()
        };
        assert!(run("nothing"), "{test} fails anyway");
        assert!(!run(defence), "{test} does not notice that {defence} is missing");
    }
}

/// Nothing half done, nothing forgotten, every digest right, and the store counts exactly what the disk has.
pub fn assert_whole(store: &image::Store, what: &str) {
    assert_eq!(store.check(true).unwrap(), [], "{what}");
    store.wait_for_discarded();
    let root = store.root();
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0, "{what}");
    let usage = store.usage().unwrap();
    let on_disk = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let layers: u64 = on_disk(&root.join("layers")).map(|layer| image::tree_size(&layer.join("diff")).unwrap()).sum();
    let blobs: u64 = on_disk(&root.join("blobs/sha256")).map(|blob| blob.metadata().unwrap().len()).sum();
    assert_eq!((usage.layers_bytes, usage.blobs_bytes), (layers, blobs), "{what}: df is not du");
    let mut snapshots = store.snapshots().unwrap();
    snapshots.sort();
    let mut folders: Vec<String> =
        on_disk(&root.join("snapshots")).map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    folders.sort();
    assert_eq!(snapshots, folders, "{what}");
}

pub fn open_store(root: &Path) -> image::Store {
    let db = db::Db::open(&root.join("knarr.db")).unwrap();
    image::Store::open(root, db, Default::default()).unwrap()
}

pub fn digest(bytes: &[u8]) -> String {
    image::hash::sha256(bytes).to_string()
}

pub fn hex_of(bytes: &[u8]) -> String {
    image::hash::sha256(bytes).hex()
}

/// A configuration for these layers, with something in it that we do not know.
pub fn config(layers: &[&[u8]], extra: serde_json::Value) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let history: Vec<_> = ids
        .iter()
        .map(|_| serde_json::json!({"created": "2024-01-01T00:00:00Z", "created_by": "test"}))
        .chain([serde_json::json!({"created": "2024-01-01T00:00:00Z", "created_by": "CMD", "empty_layer": true})])
        .collect();
    let mut value = serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": ids}, "history": history, "x-vendor": {"kept": true},
    });
    for (key, part) in extra.as_object().unwrap() {
        value[key] = part.clone();
    }
    serde_json::to_vec(&value).unwrap()
}

/// A docker-archive as members, so that a test can order or damage them.
pub fn docker_members(images: &[(&str, &[&[u8]])]) -> Vec<(String, Vec<u8>)> {
    let mut members: Vec<(String, Vec<u8>)> = Vec::new();
    let mut list = Vec::new();
    for (name, layers) in images {
        let config = config(layers, serde_json::json!({}));
        let names: Vec<String> = layers.iter().map(|layer| format!("{}/layer.tar", hex_of(layer))).collect();
        for (name, layer) in names.iter().zip(*layers) {
            if !members.iter().any(|(has, _)| has == name) {
                members.push((name.clone(), layer.to_vec()));
            }
        }
        let config_name = format!("{}.json", hex_of(&config));
        let tags: Vec<&str> = if name.is_empty() { vec![] } else { vec![name] };
        list.push(serde_json::json!({"Config": config_name, "RepoTags": tags, "Layers": names}));
        members.push((config_name, config));
    }
    members.push(("manifest.json".into(), serde_json::to_vec(&list).unwrap()));
    members
}

pub fn archive(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<_> = members
        .iter()
        .map(|(name, data)| (entry(name, Kind::File(FileData::plain(data.len() as u64))), data.clone()))
        .collect();
    tar(&entries)
}

pub fn docker_archive(images: &[(&str, &[&[u8]])]) -> Vec<u8> {
    archive(&docker_members(images))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub const OCI: &str = "application/vnd.oci.image";

pub fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": format!("{OCI}.{media_type}"), "digest": digest(bytes), "size": bytes.len()})
}

/// An OCI archive under construction.
#[derive(Default)]
pub struct OciArchive {
    pub blobs: Vec<Vec<u8>>,
    pub index: Vec<serde_json::Value>,
}

impl OciArchive {
    pub fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> serde_json::Value {
        let descriptor = descriptor(media_type, &bytes);
        self.blobs.push(bytes);
        descriptor
    }

    pub fn json(&mut self, media_type: &str, value: &serde_json::Value) -> serde_json::Value {
        self.blob(media_type, serde_json::to_vec(value).unwrap())
    }

    /// An image of these tars, packed by `pack`, and its manifest's descriptor.
    pub fn image(
        &mut self,
        layers: &[&[u8]],
        kind: &str,
        pack: fn(&[u8]) -> Vec<u8>,
        extra: serde_json::Value,
    ) -> serde_json::Value {
        let config = self.blob("config.v1+json", config(layers, extra));
        let layers: Vec<_> =
            layers.iter().map(|layer| self.blob(&format!("layer.v1.tar{kind}"), pack(layer))).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": format!("{OCI}.manifest.v1+json"), "config": config, "layers": layers,
        });
        self.json("manifest.v1+json", &manifest)
    }

    pub fn name(mut self, mut descriptor: serde_json::Value, name: &str) -> Self {
        descriptor["annotations"] = serde_json::json!({"io.containerd.image.name": name});
        self.index.push(descriptor);
        self
    }

    pub fn members(&self) -> Vec<(String, Vec<u8>)> {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": self.index});
        let mut members = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), serde_json::to_vec(&index).unwrap()),
        ];
        for blob in &self.blobs {
            let name = format!("blobs/sha256/{}", hex_of(blob));
            if !members.iter().any(|(has, _)| *has == name) {
                members.push((name, blob.clone()));
            }
        }
        members
    }

    pub fn tar(&self) -> Vec<u8> {
        archive(&self.members())
    }
}

pub fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}
