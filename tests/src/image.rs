//! Images made in-process, so that tests need no registry: docker-archives around Debian's static busybox.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One entry of a layer.
#[derive(Debug, Clone)]
pub enum Entry {
    Dir { mode: u32 },
    File { mode: u32, data: Vec<u8> },
    Symlink(String),
}

/// An image under construction: paths without a leading slash, parents before children.
#[derive(Debug, Clone)]
pub struct Image {
    pub tags: Vec<String>,
    pub layers: Vec<BTreeMap<String, Entry>>,
    /// The `config` of the image's configuration.
    pub config: Value,
}

/// `busybox:latest` with its applets as links, a `/etc/passwd` with root and nobody, `/tmp`.
pub fn busybox() -> Image {
    let program = std::fs::read("/bin/busybox").expect("/bin/busybox: install busybox-static");
    let mut layer = BTreeMap::new();
    for dir in ["bin", "etc", "home", "root", "usr", "usr/bin", "var"] {
        layer.insert(dir.to_owned(), Entry::Dir { mode: 0o755 });
    }
    layer.insert("tmp".into(), Entry::Dir { mode: 0o1777 });
    layer.insert("bin/busybox".into(), Entry::File { mode: 0o755, data: program });
    let applets = std::process::Command::new("/bin/busybox").arg("--list").output().expect("run busybox --list").stdout;
    for applet in String::from_utf8(applets).expect("applets are ASCII").lines().filter(|name| *name != "busybox") {
        layer.insert(format!("bin/{applet}"), Entry::Symlink("busybox".into()));
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
    let group = b"root:x:0:\nusers:x:100:nobody\nnogroup:x:65534:\n";
    layer.insert("etc/passwd".into(), Entry::File { mode: 0o644, data: passwd.to_vec() });
    layer.insert("etc/group".into(), Entry::File { mode: 0o644, data: group.to_vec() });
    Image {
        tags: vec!["busybox:latest".into()],
        layers: vec![layer],
        config: json!({
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["sh"],
        }),
    }
}

impl Image {
    /// The image as `docker save` of old writes it.
    pub fn archive(&self) -> Vec<u8> {
        let layers: Vec<Vec<u8>> = self.layers.iter().map(layer_tar).collect();
        let diff_ids: Vec<String> = layers.iter().map(|tar| format!("sha256:{}", digest(tar))).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": diff_ids.iter().map(|_| json!({
                "created": "2024-01-02T03:04:05Z",
                "created_by": "made by the tests",
            })).collect::<Vec<_>>(),
        });
        let config = serde_json::to_vec(&config).expect("a value is valid JSON");
        let config_name = format!("{}.json", digest(&config));
        let names: Vec<String> = layers.iter().map(|tar| format!("{}/layer.tar", digest(tar))).collect();
        let manifest = json!([{ "Config": config_name, "RepoTags": self.tags, "Layers": names }]);
        let mut out = Vec::new();
        append(&mut out, &config_name, b'0', 0o644, "", &config);
        for (name, tar) in names.iter().zip(&layers) {
            append(&mut out, name, b'0', 0o644, "", tar);
        }
        append(
            &mut out,
            "manifest.json",
            b'0',
            0o644,
            "",
            &serde_json::to_vec(&manifest).expect("a value is valid JSON"),
        );
        finish(&mut out);
        out
    }
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A layer as a tar.
pub fn layer_tar(entries: &BTreeMap<String, Entry>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, entry) in entries {
        match entry {
            Entry::Dir { mode } => append(&mut out, &format!("{name}/"), b'5', *mode, "", b""),
            Entry::File { mode, data } => append(&mut out, name, b'0', *mode, "", data),
            Entry::Symlink(target) => append(&mut out, name, b'2', 0o777, target, b""),
        }
    }
    finish(&mut out);
    out
}

fn append(out: &mut Vec<u8>, name: &str, kind: u8, mode: u32, target: &str, data: &[u8]) {
    assert!(name.len() < 100 && target.len() < 100, "{name}: longer names need an extension that tests do without");
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    let mut octal = |at: usize, width: usize, value: u64| {
        let text = format!("{value:0width$o}", width = width - 1);
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    octal(100, 8, mode.into());
    octal(108, 8, 0);
    octal(116, 8, 0);
    octal(124, 12, data.len() as u64);
    octal(136, 12, 1_704_164_645);
    header[156] = kind;
    header[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn finish(out: &mut Vec<u8>) {
    out.resize(out.len() + 1024, 0);
}

/// What `scripts/clients` has fetched, or `None` (said aloud) if it is not there.
pub fn client(name: &str) -> Option<std::path::PathBuf> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: no {}: run scripts/clients", path.display());
    None
}

/// A layer of everything below a folder.
pub fn layer_of(folder: &std::path::Path) -> BTreeMap<String, Entry> {
    fn walk(folder: &std::path::Path, name: &str, layer: &mut BTreeMap<String, Entry>) {
        use std::os::unix::fs::PermissionsExt;
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let own = entry.file_name().into_string().expect("a name in UTF-8");
            let name = if name.is_empty() { own } else { format!("{name}/{own}") };
            let facts = entry.metadata().expect("its metadata");
            let mode = facts.permissions().mode() & 0o7777;
            if facts.is_dir() {
                layer.insert(name.clone(), Entry::Dir { mode });
                walk(&entry.path(), &name, layer);
            } else if facts.is_symlink() {
                let target = std::fs::read_link(entry.path()).expect("a link");
                layer.insert(name, Entry::Symlink(target.to_str().expect("UTF-8").to_owned()));
            } else {
                layer.insert(name, Entry::File { mode, data: std::fs::read(entry.path()).expect("a file") });
            }
        }
    }
    let mut layer = BTreeMap::new();
    walk(folder, "", &mut layer);
    layer
}

/// `redis:latest`: Debian's Redis on top of busybox, if `scripts/clients` has fetched it.
pub fn redis() -> Option<Image> {
    let tree = client("redis")?;
    let mut image = busybox();
    image.tags = vec!["redis:latest".into()];
    let mut layer = layer_of(&tree);
    layer.insert("data".into(), Entry::Dir { mode: 0o755 });
    image.layers.push(layer);
    image.config["Cmd"] = json!(["redis-server", "--dir", "/data", "--protected-mode", "no", "--appendonly", "yes"]);
    image.config["ExposedPorts"] = json!({ "6379/tcp": {} });
    Some(image)
}
