//! A context of the stock docker client that names this cloud's engine: `docker --context knarr ps`.
//!
//! It is a file below `~/.docker` (or `DOCKER_CONFIG`), in the folder that the SHA-256 of its name names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The context that goes with an instance: the one that was asked for, or `knarr` for the machine's usual instance.
pub fn name<'a>(asked: Option<&'a str>, run: &Path) -> Option<&'a str> {
    match asked {
        Some("") => None,
        Some(name) => Some(name),
        None => (run == Path::new("/run/knarr")).then_some("knarr"),
    }
}

/// Where docker keeps its settings; nothing where there is no home.
pub fn settings_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")))
}

fn folder(settings: &Path, name: &str) -> PathBuf {
    settings.join("contexts/meta").join(hex::encode(Sha256::digest(name.as_bytes())))
}

fn content(name: &str, host: &str) -> Value {
    json!({"Name": name, "Metadata": {"Description": "Knarr on this machine"},
        "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": false}}})
}

/// Makes the context, or renews it. One that somebody else made under this name is left alone: false.
pub fn write(settings: &Path, name: &str, host: &str) -> io::Result<bool> {
    let folder = folder(settings, name);
    let file = folder.join("meta.json");
    let wanted = content(name, host);
    if let Ok(text) = fs::read(&file) {
        let there: Value = serde_json::from_slice(&text).unwrap_or_default();
        if there == wanted {
            return Ok(true);
        }
        if there["Metadata"] != wanted["Metadata"] {
            return Ok(false);
        }
    }
    fs::create_dir_all(&folder)?;
    let part = folder.join("meta.json.part");
    fs::write(&part, wanted.to_string())?;
    fs::rename(part, file)?;
    Ok(true)
}

/// Takes away a context that names this engine.
pub fn remove(settings: &Path, name: &str, host: &str) -> io::Result<()> {
    let folder = folder(settings, name);
    match fs::read(folder.join("meta.json")) {
        Ok(text) if serde_json::from_slice::<Value>(&text).unwrap_or_default() == content(name, host) => {
            fs::remove_dir_all(folder)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_made_renewed_and_taken_away() {
        let settings = tempfile::tempdir().unwrap();
        let file = folder(settings.path(), "k").join("meta.json");
        assert!(write(settings.path(), "k", "unix:///a").unwrap());
        assert!(write(settings.path(), "k", "unix:///b").unwrap());
        assert!(fs::read_to_string(&file).unwrap().contains("unix:///b"));
        remove(settings.path(), "k", "unix:///a").unwrap();
        assert!(file.exists(), "it names another engine");
        remove(settings.path(), "k", "unix:///b").unwrap();
        assert!(!file.exists());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "{\"Name\":\"k\",\"Metadata\":{}}").unwrap();
        assert!(!write(settings.path(), "k", "unix:///b").unwrap(), "somebody else's");
    }

    #[test]
    fn only_the_usual_instance_has_a_context_unasked() {
        assert_eq!(name(None, Path::new("/run/knarr")), Some("knarr"));
        assert_eq!(name(None, Path::new("/tmp/r")), None);
        assert_eq!(name(Some("x"), Path::new("/tmp/r")), Some("x"));
        assert_eq!(name(Some(""), Path::new("/run/knarr")), None);
    }
}
