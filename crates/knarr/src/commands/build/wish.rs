//! Flags of `build` that the classic request has no words for, to what the engine is asked. Values that name files or variables
//! are read here: the engine sees what they hold.

use std::collections::BTreeMap;
use std::path::PathBuf;

use docker_api::own_build::{CachePlace, Layers, Output, Provenance, Wish, WishedContext};

use crate::failure::Failure;
use crate::flags::Matches;

/// What one output becomes on this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Landing {
    /// Nothing comes.
    Store,
    /// A tar is unpacked here.
    Folder(PathBuf),
    /// The bytes are a file; `-` is standard output.
    File(String),
}

/// What is asked, and where its answers and further folders are on this side.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) wish: Wish,
    /// Folders to send, in the order of the wish's contexts.
    pub(super) folders: Vec<PathBuf>,
    pub(super) landings: Vec<Landing>,
}

/// `type=local,dest=out` as pairs; a word without a key is the first key's value.
fn fields(text: &str, lone: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut map = BTreeMap::new();
    let mut quoted = false;
    let mut parts = vec![String::new()];
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            c => parts.last_mut().expect("never empty").push(c),
        }
    }
    for (at, part) in parts.iter().enumerate() {
        match part.split_once('=') {
            Some((key, value)) => map.insert(key.trim().to_ascii_lowercase(), value.to_owned()),
            None if at == 0 && parts.len() == 1 => map.insert(lone.to_owned(), part.clone()),
            None => return Err(Failure::new(format!("invalid value {part:?}, expected key=value"))),
        };
    }
    Ok(map)
}

impl Asked {
    pub(super) fn read(matches: &Matches) -> Result<Self, Failure> {
        let mut asked = Self::default();
        for text in matches.list("secret") {
            let (id, bytes) = secret(text)?;
            use base64::Engine;
            asked.wish.secrets.insert(id, base64::engine::general_purpose::STANDARD.encode(bytes));
        }
        for text in matches.list("ssh") {
            let (id, path) = text.split_once('=').unwrap_or((text, ""));
            let path = match path {
                "" => std::env::var("SSH_AUTH_SOCK")
                    .map_err(|_| Failure::new("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"))?,
                path => path.to_owned(),
            };
            let whole = std::fs::canonicalize(&path).map_err(|e| Failure::new(format!("{path}: {e}")))?;
            asked.wish.ssh.insert(id.to_owned(), whole.display().to_string());
        }
        let mut folders = BTreeMap::new();
        for text in matches.list("build-context") {
            let Some((name, value)) = text.split_once('=') else {
                return Err(Failure::new(format!("invalid context value: {text}, expected key=value")));
            };
            let (context, folder) = named_context(value)?;
            folders.extend(folder.map(|folder| (name.to_owned(), folder)));
            asked.wish.contexts.insert(name.to_owned(), context);
        }
        for (flag, into) in [("cache-from", true), ("cache-to", false)] {
            for text in matches.list(flag) {
                let (place, folder) = cache_place(text, into, asked.wish.contexts.len())?;
                match (&place, folder) {
                    (CachePlace::Local { context, .. }, Some(folder)) if into => {
                        asked.wish.contexts.insert(context.clone(), WishedContext::Folder);
                        folders.insert(context.clone(), folder);
                    }
                    _ => {}
                }
                if into { asked.wish.cache_from.push(place) } else { asked.wish.cache_to.push(place) }
            }
        }
        asked.folders = folders.into_values().collect();
        asked.outputs(matches)?;
        for text in matches.list("cache-to") {
            let map = fields(text, "ref")?;
            if map.get("type").is_some_and(|kind| kind == "local") {
                let place = map.get("dest").cloned().unwrap_or_default();
                asked.landings.push(Landing::Folder(place.into()));
            }
        }
        for text in matches.list("annotation") {
            let Some((key, value)) = text.split_once('=') else {
                return Err(Failure::new(format!("invalid annotation {text:?}, expected key=value")));
            };
            let key = key.strip_prefix("manifest:").unwrap_or(key);
            if key.contains(':') {
                return Err(Failure::new(format!("annotation {key:?}: only those of a manifest are supported")));
            }
            asked.wish.annotations.insert(key.to_owned(), value.to_owned());
        }
        if let Some(text) = matches.text("provenance") {
            asked.provenance(text)?;
        }
        asked.wish.sbom = match matches.text("sbom") {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(Failure::new(format!("invalid sbom {other:?}: true or false"))),
        };
        asked.wish.allow = matches.list("allow").to_vec();
        asked.wish.no_cache_stages = matches.list("no-cache-filter").to_vec();
        asked.wish.call = match (matches.is("check"), matches.text("call")) {
            (true, _) => Some("check".into()),
            (false, None | Some("build")) => None,
            (false, Some(call)) => Some(call.to_owned()),
        };
        asked.wish.steps = !matches.is("quiet") && asked.wish.call.is_none();
        Ok(asked)
    }

    /// `true`, `false`, `mode=max`, `mode=min,version=v1`.
    fn provenance(&mut self, text: &str) -> Result<(), Failure> {
        let (mut mode, mut v1) = (Some(Provenance::Min), false);
        for word in text.split(',') {
            match word {
                "false" | "disabled=true" => mode = None,
                "true" | "mode=min" | "min" => mode = Some(Provenance::Min),
                "mode=max" | "max" => mode = Some(Provenance::Max),
                "version=v0.2" => v1 = false,
                "version=v1" => v1 = true,
                other => {
                    let known = "mode=min or mode=max, version=v0.2 or version=v1";
                    return Err(Failure::new(format!("invalid provenance {other:?}: {known}")));
                }
            }
        }
        (self.wish.provenance, self.wish.slsa_v1) = (mode, v1);
        Ok(())
    }

    fn outputs(&mut self, matches: &Matches) -> Result<(), Failure> {
        for text in matches.list("output") {
            let map = fields(text, "dest")?;
            let names: Vec<String> =
                map.get("name").map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default();
            let dest = map.get("dest").cloned().unwrap_or_default();
            let known = [
                "type",
                "name",
                "dest",
                "push",
                "tar",
                "oci-mediatypes",
                "compression",
                "compression-level",
                "force-compression",
            ];
            if let Some(unknown) =
                map.keys().find(|key| !known.contains(&key.as_str()) && !key.starts_with("annotation."))
            {
                return Err(Failure::new(format!("output: unknown attribute {unknown:?}")));
            }
            let bad = |e: String| Failure::new(format!("output: {e}"));
            let mut layers = layers(&map).map_err(bad)?;
            for (key, value) in map.iter().filter_map(|(key, value)| Some((key.strip_prefix("annotation.")?, value))) {
                self.wish.annotations.insert(key.to_owned(), value.clone());
            }
            let needs_dest = || match dest.as_str() {
                "" => Err(Failure::new(format!("output {text:?} needs dest=..."))),
                dest => Ok(dest.to_owned()),
            };
            let kind = match map.get("type").map(String::as_str) {
                Some(kind) => kind,
                None if dest == "-" => "tar",
                None => "local",
            };
            // As with BuildKit, an archive for Docker has Docker's names unless others are asked for.
            layers.docker_types = !truth(&map, "oci-mediatypes", kind != "docker").map_err(bad)?;
            let (output, landing) = match kind {
                "local" => (Output::Files, Landing::Folder(needs_dest()?.into())),
                "tar" => (Output::Files, Landing::File(needs_dest()?)),
                "oci" if !truth(&map, "tar", true).map_err(bad)? => {
                    (Output::Archive { names, layers }, Landing::Folder(needs_dest()?.into()))
                }
                "oci" => (Output::Archive { names, layers }, Landing::File(needs_dest()?)),
                "docker" if !dest.is_empty() => (Output::Archive { names, layers }, Landing::File(dest.clone())),
                "docker" => (Output::Image { names, push: false, layers }, Landing::Store),
                "image" => {
                    let push = truth(&map, "push", false).map_err(bad)?;
                    (Output::Image { names, push, layers }, Landing::Store)
                }
                "registry" => (Output::Image { names, push: true, layers }, Landing::Store),
                "cacheonly" => continue,
                other => return Err(Failure::new(format!("output: unknown type {other:?}"))),
            };
            self.wish.outputs.push(output);
            self.landings.push(landing);
        }
        let image = |push| Output::Image { names: Vec::new(), push, layers: Layers::default() };
        if matches.is("push") {
            self.wish.outputs.push(image(true));
            self.landings.push(Landing::Store);
        } else if matches.is("load") && !self.wish.outputs.is_empty() {
            self.wish.outputs.push(image(false));
            self.landings.push(Landing::Store);
        }
        Ok(())
    }
}

/// An attribute that is `true` or `false`.
fn truth(map: &BTreeMap<String, String>, name: &str, usual: bool) -> Result<bool, String> {
    match map.get(name).map(String::as_str) {
        None => Ok(usual),
        Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(other) => Err(format!("{name} {other:?}: true or false")),
    }
}

/// `compression=zstd,compression-level=5,force-compression=true`, checked here already.
fn layers(map: &BTreeMap<String, String>) -> Result<Layers, String> {
    let layers = Layers {
        compression: map.get("compression").cloned(),
        level: map.get("compression-level").cloned(),
        force: truth(map, "force-compression", false)?,
        docker_types: false,
    };
    layers.form()?;
    Ok(layers)
}

/// `id=token,src=file`, `id=token,env=NAME`, `id=NAME` (a variable of that name).
fn secret(text: &str) -> Result<(String, Vec<u8>), Failure> {
    let map = fields(text, "id")?;
    let get = |names: [&str; 2]| names.iter().find_map(|name| map.get(*name)).cloned();
    let kind = map.get("type").map(String::as_str);
    let mut path = get(["src", "source"]);
    let mut variable = map.get("env").cloned();
    if kind == Some("env") && variable.is_none() {
        variable = path.take();
    }
    let id = map.get("id").cloned().or_else(|| path.clone()).or_else(|| variable.clone());
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| Failure::new(format!("secret {text:?} has no id")))?;
    if path.is_none() && variable.is_none() {
        if std::env::var_os(&id).is_some() { variable = Some(id.clone()) } else { path = Some(id.clone()) }
    }
    let bytes = match (variable, path) {
        (Some(name), _) => {
            use std::os::unix::ffi::OsStringExt;
            std::env::var_os(&name)
                .map(OsStringExt::into_vec)
                .ok_or_else(|| Failure::new(format!("secret {id}: the variable {name} is not set")))?
        }
        (None, path) => {
            let path = path.unwrap_or_default();
            std::fs::read(&path)
                .map_err(|e| Failure::new(format!("secret {id}: read {path}: {}", crate::commands::run::plain(&e))))?
        }
    };
    Ok((id, bytes))
}

fn named_context(value: &str) -> Result<(WishedContext, Option<PathBuf>), Failure> {
    if let Some(reference) = value.strip_prefix("docker-image://") {
        return Ok((WishedContext::Image(reference.to_owned()), None));
    }
    if let Some(place) = value.strip_prefix("oci-layout://") {
        let (path, which) = match place.split_once('@') {
            Some((path, digest)) => (path, digest),
            None => match place.rsplit_once(':') {
                Some((path, tag)) if !tag.contains('/') => (path, tag),
                _ => (place, ""),
            },
        };
        return Ok((WishedContext::Layout(which.to_owned()), Some(path.into())));
    }
    if build::Remote::parse(value).map_err(Failure::new)?.is_some() {
        return Ok((WishedContext::Remote(value.to_owned()), None));
    }
    if !std::path::Path::new(value).is_dir() {
        return Err(Failure::new(format!("failed to find build context {value:?}: it is not a directory")));
    }
    Ok((WishedContext::Folder, Some(value.into())))
}

/// `type=local,src=cache`, `type=registry,ref=host/cache,mode=max`, `type=inline`, `host/cache`.
fn cache_place(text: &str, into: bool, number: usize) -> Result<(CachePlace, Option<PathBuf>), Failure> {
    let map = fields(text, "ref")?;
    let bad = |what: String| Failure::new(format!("cache {text:?}: {what}"));
    let known = ["type", "ref", "src", "dest", "mode", "compression", "compression-level", "force-compression"];
    if let Some(unknown) = map.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(bad(format!("unknown attribute {unknown:?}")));
    }
    let max = match map.get("mode").map(String::as_str) {
        None | Some("min") => false,
        Some("max") => true,
        Some(other) => return Err(bad(format!("mode {other:?}: min or max"))),
    };
    let layers = layers(&map).map_err(bad)?;
    match map.get("type").map_or("registry", String::as_str) {
        "registry" => match map.get("ref") {
            Some(reference) => Ok((CachePlace::Registry { reference: reference.clone(), max, layers }, None)),
            None => Err(Failure::new(format!("cache {text:?} needs ref=..."))),
        },
        "local" => {
            let key = if into { "src" } else { "dest" };
            let path = map.get(key).ok_or_else(|| Failure::new(format!("cache {text:?} needs {key}=...")))?;
            Ok((CachePlace::Local { context: format!("cache-{number}"), max, layers }, Some(path.into())))
        }
        "inline" => Ok((CachePlace::Inline, None)),
        other => Err(Failure::new(format!("cache type {other:?} is not supported: registry, local or inline"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_told_apart() {
        let layout = |text: &str| named_context(text).map(|(c, p)| (c, p.unwrap_or_default().display().to_string()));
        assert_eq!(layout("oci-layout:///a/b:1").unwrap(), (WishedContext::Layout("1".into()), "/a/b".into()));
        assert_eq!(layout("oci-layout://b@sha256:0").unwrap(), (WishedContext::Layout("sha256:0".into()), "b".into()));
        assert_eq!(layout("oci-layout://x/b").unwrap(), (WishedContext::Layout(String::new()), "x/b".into()));
        assert_eq!(layout("docker-image://a:1").unwrap().0, WishedContext::Image("a:1".into()));
        assert_eq!(layout("https://h/r.git").unwrap().0, WishedContext::Remote("https://h/r.git".into()));
        assert!(layout("/nowhere/at/all").is_err());
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s");
        std::fs::write(&file, "text").unwrap();
        let text = format!("id=a,src={}", file.display());
        assert_eq!(secret(&text).unwrap(), ("a".into(), b"text".to_vec()));
        let path = std::env::var("PATH").unwrap().into_bytes();
        assert_eq!(secret("id=b,env=PATH").unwrap(), ("b".into(), path.clone()));
        assert_eq!(secret("type=env,id=b,src=PATH").unwrap(), ("b".into(), path.clone()));
        assert_eq!(secret("id=PATH").unwrap(), ("PATH".into(), path));
        assert!(secret("id=c,src=/nowhere").is_err() && secret("src=").is_err());
    }
}
