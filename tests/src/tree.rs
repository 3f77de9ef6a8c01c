//! Files: those that a build is made from, and those of an image with its configuration, in a form that two engines' answers can be
//! compared in.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A folder of text files that a build is made from; names may have directories.
pub fn context(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it is below the folder")).expect("make its folder");
        std::fs::write(path, text).expect("write it");
    }
    folder
}

/// Every file of an image, by its path: kind, mode, owner, link target or content. Not when it was written.
///
/// `docker` makes a container and exports it; what engines put into containers themselves is left out.
pub fn files(docker: &dyn Fn(&[&str]) -> Command, image: &str) -> BTreeMap<String, String> {
    let made = docker(&["create", "--network", "none", image, "true"]).output().expect("docker create");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let container = String::from_utf8(made.stdout).expect("an id").trim().to_owned();
    let tar = docker(&["export", &container]).output().expect("docker export");
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    docker(&["rm", &container]).output().expect("docker rm");
    listed(&tar.stdout)
}

const CONTAINERS_OWN: [&str; 8] =
    [".dockerenv", "dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];

fn listed(tar: &[u8]) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tar");
    std::fs::write(&file, tar).expect("keep the tar");
    // Python's reader knows every extension of the format and is at hand wherever these tests run.
    let script = r#"
import hashlib, json, sys, tarfile
out = {}
with tarfile.open(sys.argv[1]) as tar:
    for m in tar:
        name = m.name.removeprefix("./").rstrip("/")
        kind = "dir" if m.isdir() else "link " + m.linkname if m.issym() else "twin " + m.linkname if m.islnk() else "file" if m.isreg() else "other"
        if m.isreg():
            data = tar.extractfile(m).read()
            # Compiled Python says when its source was written.
            kind += " compiled" if name.endswith(".pyc") else f" {len(data)} {hashlib.sha256(data).hexdigest()}"
        attributes = {k: v for k, v in m.pax_headers.items() if k.startswith("SCHILY.xattr")}
        out[name] = f"{kind} {m.mode:o} {m.uid}:{m.gid} {attributes or ''}".strip()
json.dump(out, sys.stdout)
"#;
    let done = Command::new("python3").args(["-c", script]).arg(&file).output().expect("python3");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let all: BTreeMap<String, String> = serde_json::from_slice(&done.stdout).expect("a list");
    let own = |name: &String| {
        CONTAINERS_OWN.iter().any(|own| name == own || name.strip_prefix(own).is_some_and(|rest| rest.starts_with('/')))
    };
    all.into_iter().filter(|(name, _)| !own(name) && !name.is_empty()).collect()
}

/// What of an image's `inspect` an engine decides by the Dockerfile alone; nothing and empty are the same.
pub fn configuration(inspected: &Value) -> Value {
    let one = &inspected[0];
    let mut config = one["Config"].clone();
    if let Some(map) = config.as_object_mut() {
        map.retain(|key, value| key != "Image" && key != "Hostname" && key != "Domainname" && !is_nothing(value));
    }
    serde_json::json!({ "Config": config, "Os": one["Os"], "Architecture": one["Architecture"] })
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is) => !is,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(_) => false,
    }
}

/// Where two lists differ, readable.
pub fn difference(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differ = names.into_iter().filter(|name| a.get(*name) != b.get(*name));
    differ.map(|name| format!("{name}: {:?} / {:?}", a.get(name), b.get(name))).collect()
}

/// Removes a cgroup and those below it, if they are empty.
pub fn remove_cgroup(path: &Path) {
    let Ok(below) = std::fs::read_dir(path) else { return };
    for entry in below.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&entry.path());
    }
    let gone = (0..100).any(|_| match std::fs::remove_dir(path) {
        // The kernel is still burying what lived there.
        Err(error) if error.raw_os_error() == Some(16) => {
            std::thread::sleep(std::time::Duration::from_millis(20));
            false
        }
        _ => true,
    });
    if !gone {
        eprintln!("{} stays behind", path.display());
    }
}
