//! Volumes made of the API's objects: what is in them (pure), and putting it in place so that a reader never sees half.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path};

use resources::{Value, meta};

use crate::container::{self, Found};
use crate::pod;
use crate::runtime::Sandbox;
use crate::status::NodeFacts;

/// A file's contents and mode by its path within the volume.
pub type Contents = BTreeMap<String, (Vec<u8>, u32)>;

/// A service account token that a volume wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenRequest {
    pub audience: String,
    pub seconds: i64,
}

/// Tokens that a pod's volumes want.
pub fn tokens(pod: &Value) -> Vec<TokenRequest> {
    let mut wanted: Vec<TokenRequest> = meta::list_at(pod, &["spec", "volumes"])
        .iter()
        .flat_map(|volume| meta::list_at(volume, &["projected", "sources"]))
        .filter_map(|source| source.get("serviceAccountToken").filter(|token| token.is_object()))
        .map(token_request)
        .collect();
    wanted.sort();
    wanted.dedup();
    wanted
}

fn token_request(source: &Value) -> TokenRequest {
    TokenRequest {
        audience: source["audience"].as_str().unwrap_or_default().to_owned(),
        seconds: source["expirationSeconds"].as_i64().unwrap_or(3600),
    }
}

/// Whether a volume is made of the API's objects.
pub fn is_made_here(volume: &Value) -> bool {
    ["configMap", "secret", "downwardAPI", "projected"].iter().any(|kind| volume[*kind].is_object())
}

/// What a volume contains.
pub fn contents(
    pod: &Value,
    volume: &Value,
    found: &Found,
    tokens: &BTreeMap<TokenRequest, String>,
    sandbox: Option<&Sandbox>,
    node: &NodeFacts,
    allocatable: &Value,
) -> Result<Contents, String> {
    let mode = |source: &Value| source["defaultMode"].as_u64().unwrap_or(0o644) as u32;
    let mut all = Contents::new();
    let downward = |items: &Value, mode: u32| -> Result<Contents, String> {
        let mut files = Contents::new();
        for item in meta::list_at(items, &["items"]) {
            let path = item["path"].as_str().unwrap_or_default();
            let text = match (item["fieldRef"]["fieldPath"].as_str(), item["resourceFieldRef"].as_object()) {
                (Some(field), _) => container::field(pod, field, sandbox, node),
                (None, Some(reference)) => {
                    let text = |key: &str| reference.get(key).and_then(Value::as_str).unwrap_or_default();
                    let of = pod::containers(pod).map(|(_, c)| c).find(|c| pod::name(c) == text("containerName"));
                    of.and_then(|of| container::resource(of, text("resource"), text("divisor"), allocatable))
                }
                (None, None) => None,
            };
            let text = text.ok_or_else(|| format!("unsupported downward API item {path:?}"))?;
            files.insert(path.to_owned(), (text.into_bytes(), item["mode"].as_u64().unwrap_or(mode.into()) as u32));
        }
        Ok(files)
    };
    if volume["configMap"].is_object() {
        let source = &volume["configMap"];
        return listed(source, source["name"].as_str(), "configmap", &found.maps, mode(source));
    }
    if volume["secret"].is_object() {
        let source = &volume["secret"];
        return listed(source, source["secretName"].as_str(), "secret", &found.secrets, mode(source));
    }
    if volume["downwardAPI"].is_object() {
        return downward(&volume["downwardAPI"], mode(&volume["downwardAPI"]));
    }
    let default = mode(&volume["projected"]);
    for source in meta::list_at(volume, &["projected", "sources"]) {
        if source["configMap"].is_object() {
            let name = source["configMap"]["name"].as_str();
            all.extend(listed(&source["configMap"], name, "configmap", &found.maps, default)?);
        } else if source["secret"].is_object() {
            let name = source["secret"]["name"].as_str();
            all.extend(listed(&source["secret"], name, "secret", &found.secrets, default)?);
        } else if source["downwardAPI"].is_object() {
            all.extend(downward(&source["downwardAPI"], default)?);
        } else if source["serviceAccountToken"].is_object() {
            let wanted = &source["serviceAccountToken"];
            let token = tokens.get(&token_request(wanted)).ok_or("the service account's token is not there")?;
            let path = wanted["path"].as_str().unwrap_or("token").to_owned();
            all.insert(path, (token.clone().into_bytes(), default));
        } else {
            return Err("a projected source of this kind is not supported".into());
        }
    }
    Ok(all)
}

fn listed(
    source: &Value,
    name: Option<&str>,
    kind: &str,
    found: &BTreeMap<String, Option<Value>>,
    mode: u32,
) -> Result<Contents, String> {
    let name = name.unwrap_or_default();
    let optional = source["optional"] == true;
    let Some(Some(object)) = found.get(name) else {
        return if optional { Ok(Contents::new()) } else { Err(format!("{kind} {name:?} not found")) };
    };
    let mut data = container::data(object);
    let items = meta::list_at(source, &["items"]);
    if items.is_empty() {
        return Ok(data.into_iter().map(|(key, bytes)| (key, (bytes, mode))).collect());
    }
    let mut files = Contents::new();
    for item in items {
        let key = item["key"].as_str().unwrap_or_default();
        let mode = item["mode"].as_u64().unwrap_or(mode.into()) as u32;
        match data.get_mut(key) {
            Some(bytes) => {
                files.insert(item["path"].as_str().unwrap_or(key).to_owned(), (bytes.clone(), mode));
            }
            None if optional => {}
            None => return Err(format!("references non-existent {kind} key: {key}")),
        }
    }
    Ok(files)
}

/// Puts contents in place: new files go to a directory of their own, and one rename of the link `..data` shows them all.
/// Nothing happens if they are there already.
pub fn put(volume: &Path, contents: &Contents, group: Option<u32>, serial: u128) -> std::io::Result<()> {
    let safe =
        |path: &str| !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if let Some(bad) = contents.keys().find(|path| !safe(path)) {
        return Err(std::io::Error::other(format!("{bad:?} leaves the volume")));
    }
    let data = volume.join("..data");
    let same =
        |(path, (bytes, _)): (&String, &(Vec<u8>, u32))| fs::read(data.join(path)).is_ok_and(|have| have == *bytes);
    let before = fs::read_link(&data).ok();
    if before.is_some() && contents.iter().all(same) && count(&data)? == contents.len() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(volume)?;
    fs::set_permissions(volume, fs::Permissions::from_mode(0o755))?;
    let name = format!("..{serial}");
    let fresh = volume.join(&name);
    fs::DirBuilder::new().mode(0o755).create(&fresh)?;
    for (path, (bytes, mode)) in contents {
        let file = fresh.join(path);
        if let Some(parent) = file.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        use std::io::Write as _;
        fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&file)?.write_all(bytes)?;
        let mut mode = *mode;
        if let Some(group) = group {
            std::os::unix::fs::chown(&file, None, Some(group))?;
            mode |= (mode & 0o400) >> 3;
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
    }
    let link = volume.join("..data_tmp");
    let _ = fs::remove_file(&link);
    symlink(&name, &link)?;
    fs::rename(&link, &data)?;
    // The names that people see lead through the link.
    let tops: std::collections::BTreeSet<&str> = contents.keys().filter_map(|path| path.split('/').next()).collect();
    for top in &tops {
        let shown = volume.join(top);
        if fs::symlink_metadata(&shown).is_err() {
            symlink(format!("..data/{top}"), &shown)?;
        }
    }
    for entry in fs::read_dir(volume)?.flatten() {
        let have = entry.file_name().to_string_lossy().into_owned();
        if !have.starts_with("..") && !tops.contains(have.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = before.filter(|old| old.as_os_str() != name.as_str()) {
        let _ = fs::remove_dir_all(volume.join(old));
    }
    Ok(())
}

fn count(directory: &Path) -> std::io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(directory)?.flatten() {
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_all_of_a_version_or_nothing_of_it() {
        let dir = std::env::temp_dir().join(format!("knarr-files-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let file = |text: &str| (text.as_bytes().to_vec(), 0o640);
        let first: Contents = [("a".to_owned(), file("1")), ("d/b".to_owned(), file("2"))].into();
        put(&dir, &first, None, 1).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        put(&dir, &first, None, 2).unwrap();
        assert_eq!(fs::read_link(dir.join("..data")).unwrap().to_str(), Some("..1"), "nothing changed");
        let second: Contents = [("a".to_owned(), file("3"))].into();
        put(&dir, &second, None, 3).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join("d").exists() && !dir.join("..1").exists());
        let hostile: Contents = [("../x".to_owned(), file(""))].into();
        assert!(put(&dir, &hostile, None, 4).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
