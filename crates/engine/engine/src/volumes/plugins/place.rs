//! Where plugins are: `NAME.sock` or `NAME/NAME.sock` is one, `NAME.spec` and `NAME.json` say where one is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use vocab::ErrorKind;

use crate::{Error, Result};

/// Of a file that names an address.
const FILE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    #[serde(default)]
    addr: String,
    #[serde(default, rename = "TLSConfig")]
    tls_config: Option<serde_json::Value>,
}

/// A name that leads to no other directory.
pub(crate) fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && name.len() <= 128 && name.bytes().all(good)
}

pub(super) fn find(dirs: &[PathBuf], name: &str) -> Result<Address> {
    let missing = || Error::Other {
        what: format!("error looking up volume plugin {name}"),
        kind: ErrorKind::NotFound,
        message: format!("plugin {name:?} not found"),
    };
    if !is_name(name) {
        return Err(missing());
    }
    for dir in dirs {
        for socket in [dir.join(format!("{name}.sock")), dir.join(name).join(format!("{name}.sock"))] {
            if socket.exists() {
                return Ok(Address::Unix(socket));
            }
        }
        for kind in ["spec", "json"] {
            let file = dir.join(format!("{name}.{kind}"));
            if let Some(text) = read(&file) {
                return parse(&text, kind == "json").map_err(|why| Error::Other {
                    what: format!("read {}", file.display()),
                    kind: ErrorKind::Invalid,
                    message: why,
                });
            }
        }
    }
    Err(missing())
}

fn read(file: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(file).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

fn parse(text: &str, is_json: bool) -> Result<Address, String> {
    let address = match is_json {
        true => {
            let described: Described = serde_json::from_str(text).map_err(|error| error.to_string())?;
            if described.tls_config.is_some_and(|tls| !tls.is_null()) {
                return Err("plugins over TLS are not supported: let it listen on a socket of this machine".into());
            }
            described.addr
        }
        false => text.trim().to_owned(),
    };
    match address.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
        Some(("tcp" | "http", host)) if !host.is_empty() => Ok(Address::Tcp(host.trim_end_matches('/').to_owned())),
        _ => Err(format!("{address:?} is no address of a plugin: unix:///path or tcp://host:port")),
    }
}

pub(super) fn all(dirs: &[PathBuf]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = Path::new(&name);
        let (stem, kind) = (name.file_stem().and_then(|s| s.to_str()), name.extension().and_then(|e| e.to_str()));
        let plugin = match (stem, kind) {
            (Some(stem), Some("sock" | "spec" | "json")) => Some(stem),
            _ => name.to_str().filter(|name| path.join(format!("{name}.sock")).exists()),
        };
        found.extend(plugin.filter(|name| is_name(name)).map(str::to_owned));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_name_sockets_and_addresses() {
        let read = |text: &str, is_json| parse(text, is_json).map(|address| address.to_string());
        assert_eq!(read("unix:///run/x.sock\n", false).unwrap(), "unix:///run/x.sock");
        assert_eq!(read("tcp://localhost:8080", false).unwrap(), "tcp://localhost:8080");
        assert_eq!(read(r#"{"Name":"x","Addr":"http://h:1/"}"#, true).unwrap(), "tcp://h:1");
        for (text, is_json) in [
            ("", false),
            ("unix://x", false),
            ("ftp://h", false),
            ("{", true),
            (r#"{"Addr":"tcp://h:1","TLSConfig":{}}"#, true),
        ] {
            assert!(read(text, is_json).is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_place_counts_and_names_lead_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::create_dir_all(one.join("sub")).unwrap();
        std::fs::create_dir_all(&two).unwrap();
        for file in [one.join("a.sock"), one.join("sub/sub.sock"), one.join(".hidden.sock"), one.join("other.txt")] {
            std::fs::write(file, "").unwrap();
        }
        std::fs::write(two.join("a.spec"), "tcp://h:1").unwrap();
        std::fs::write(two.join("b.spec"), "tcp://h:2").unwrap();
        let dirs = [one.clone(), two];
        assert_eq!(all(&dirs), ["a", "b", "sub"].map(str::to_owned).into());
        assert_eq!(find(&dirs, "a").unwrap(), Address::Unix(one.join("a.sock")));
        assert_eq!(find(&dirs, "sub").unwrap(), Address::Unix(one.join("sub/sub.sock")));
        assert_eq!(find(&dirs, "b").unwrap(), Address::Tcp("h:2".into()));
        for name in ["c", "../one/a", ".hidden", "", "sub/sub"] {
            assert!(find(&dirs, name).unwrap_err().to_string().contains("not found"), "{name}");
        }
    }
}
