//! Caches from elsewhere and to elsewhere: in a registry, in a folder of the client, in the image itself.

use std::sync::Arc;

use base64::Engine as _;
use build::{BuildError, Built, ImportedCache, LayerForm};
use tonic::Status;

use crate::content::ContentStore;
use crate::errors::status_of;
use crate::export::{Response, flag, form, names};
use crate::frontend::credentials;
use crate::kit::Kit;
use crate::progress::{Progress, Task};
use crate::session::Session;
use crate::wire::control::{CacheEntry, CacheOptions};

/// Where a cache is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Place {
    Registry(vocab::Reference),
    /// A folder of the client, by the name that it has for it; of an import, the manifest in it.
    Local(String, Option<vocab::Digest>),
    Inline,
}

/// A cache that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Export {
    pub(crate) place: Place,
    /// Every step, not only those whose layers the result has.
    max: bool,
    ignore_error: bool,
    form: LayerForm,
}

const SHARED: &[&str] =
    &["oci-mediatypes", "image-manifest", "compression", "compression-level", "force-compression", "registry.insecure"];

/// What a request wants exported; `inline`: so does the build argument that older clients ask with.
pub(crate) fn exports(options: Option<&CacheOptions>, inline: bool) -> Result<Vec<Export>, Status> {
    let mut exports = Vec::new();
    for entry in options.iter().flat_map(|options| &options.exports) {
        known(entry, "cache export", &["ref", "dest", "mode", "ignore-error", "tag"])?;
        let place = match entry.kind.as_str() {
            "registry" => Place::Registry(reference(entry)?),
            "local" => Place::Local(needed(entry, "dest")?, None),
            "inline" => Place::Inline,
            other => return Err(Status::unknown(format!("unknown cache exporter: {other:?}"))),
        };
        // Of the forms that a cache may have, this is the one that every registry takes.
        for name in ["oci-mediatypes", "image-manifest"] {
            if entry.attrs.contains_key(name) && !flag(&entry.attrs, name)? {
                return Err(Status::unimplemented(format!(
                    "{name}=false: a cache is written as an OCI image manifest"
                )));
            }
        }
        if flag(&entry.attrs, "registry.insecure")? {
            let of = &entry.kind;
            return Err(Status::unimplemented(format!(
                "{of} cache: registry.insecure is not supported: say so in the engine's registries file"
            )));
        }
        let form = form(&format!("{} cache", entry.kind), &entry.attrs)?;
        let max = match entry.attrs.get("mode").map(String::as_str) {
            None | Some("min" | "") => false,
            Some("max") => true,
            Some(other) => return Err(Status::invalid_argument(format!("invalid cache export mode: {other}"))),
        };
        exports.push(Export { place, max, ignore_error: flag(&entry.attrs, "ignore-error")?, form });
    }
    if inline && !exports.iter().any(|export| export.place == Place::Inline) {
        let form = LayerForm::default();
        exports.push(Export { place: Place::Inline, max: false, ignore_error: false, form });
    }
    Ok(exports)
}

/// What a request wants looked into.
pub(crate) fn imports<'e>(entries: impl Iterator<Item = &'e CacheEntry>) -> Result<Vec<Place>, Status> {
    let mut places = Vec::new();
    for entry in entries {
        known(entry, "cache import", &["ref", "src", "digest", "tag"])?;
        let place = match entry.kind.as_str() {
            "registry" => Place::Registry(reference(entry)?),
            "local" => {
                let digest = needed(entry, "digest")?;
                let digest = digest.parse().map_err(|_| Status::invalid_argument(format!("digest {digest:?}")))?;
                Place::Local(needed(entry, "src")?, Some(digest))
            }
            // What an image carries is found through the registry.
            "inline" => continue,
            other => return Err(Status::unknown(format!("unknown cache importer: {other:?}"))),
        };
        if !places.contains(&place) {
            places.push(place);
        }
    }
    Ok(places)
}

fn known(entry: &CacheEntry, what: &str, own: &[&str]) -> Result<(), Status> {
    match entry.attrs.keys().find(|key| !own.contains(&key.as_str()) && !SHARED.contains(&key.as_str())) {
        Some(unknown) => {
            Err(Status::invalid_argument(format!("{what} of type {}: unknown attribute {unknown:?}", entry.kind)))
        }
        None => Ok(()),
    }
}

fn needed(entry: &CacheEntry, name: &str) -> Result<String, Status> {
    let value = entry.attrs.get(name).filter(|value| !value.is_empty());
    value.cloned().ok_or_else(|| Status::invalid_argument(format!("cache of type {} needs {name}", entry.kind)))
}

fn reference(entry: &CacheEntry) -> Result<vocab::Reference, Status> {
    let text = needed(entry, "ref")?;
    names(&text)?.pop().ok_or_else(|| Status::invalid_argument(format!("invalid reference format: {text:?}")))
}

/// Reads the caches. One that cannot be read is told of, and left alone.
pub(crate) async fn open(
    kit: &Kit,
    session: &Arc<Session>,
    progress: &Arc<Progress>,
    places: &[Place],
) -> Vec<ImportedCache> {
    let mut found = Vec::new();
    for place in places {
        let (title, opened) = match place {
            Place::Registry(name) => {
                let task = Task::begin(progress, &format!("importing cache manifest from {}", name.familiar()));
                let credentials = credentials(session, name.domain()).await;
                (task, ImportedCache::of_registry(&kit.builder, name.clone(), credentials).await)
            }
            Place::Local(folder, Some(digest)) => {
                let task = Task::begin(progress, "importing cache manifest from client directory");
                let blobs = ContentStore::new(session, format!("local:{folder}"));
                (task, ImportedCache::of_blobs(Arc::new(blobs), digest).await)
            }
            Place::Local(_, None) | Place::Inline => continue,
        };
        title.done(&opened.as_ref().map(drop).map_err(ToString::to_string));
        match opened {
            Ok(cache) => found.push(cache),
            Err(error) => tracing::info!(%error, "a cache was not imported"),
        }
    }
    found
}

/// Sends what a build knows to where it was asked for; what is told of it goes into the answer.
pub(crate) async fn export(
    kit: &Kit,
    session: &Arc<Session>,
    progress: &Arc<Progress>,
    exports: &[Export],
    built: &[Arc<Built>],
) -> Result<Response, Status> {
    let mut response = Response::new();
    for (number, wanted) in exports.iter().filter(|export| export.place != Place::Inline).enumerate() {
        let name = match &wanted.place {
            Place::Registry(_) => "exporting cache to registry",
            _ => "exporting cache to client directory",
        };
        let name = if number == 0 { name.to_owned() } else { format!("{name} ({})", number + 1) };
        let task = Task::begin(progress, &name);
        let done = export_one(kit, session, &task, wanted, built).await;
        task.done(&done.as_ref().map(drop).map_err(|status| status.message().to_owned()));
        match done {
            Ok(told) => response.extend(told),
            Err(_) if wanted.ignore_error => {}
            Err(status) => return Err(status),
        }
    }
    Ok(response)
}

async fn export_one(
    kit: &Kit,
    session: &Arc<Session>,
    task: &Task,
    wanted: &Export,
    built: &[Arc<Built>],
) -> Result<Response, Status> {
    let part = task.part("preparing build cache for export");
    let (builder, all, max, form) = (kit.builder.clone(), built.to_vec(), wanted.max, wanted.form);
    let packing = tokio::task::spawn_blocking(move || {
        let all: Vec<&Built> = all.iter().map(|built| &**built).collect();
        builder.cache_package(&all, max, form)
    });
    let package = packing.await.map_err(|error| Status::internal(error.to_string()))?;
    let package = Arc::new(package.map_err(|error| status_of(&error, None))?);
    part.done();
    let mut response = Response::new();
    match &wanted.place {
        Place::Registry(name) => {
            let part = task.part(&format!("writing cache manifest to {}", name.familiar()));
            let credentials = credentials(session, name.domain()).await;
            let pushed = kit.builder.push(&package, name, credentials).await;
            pushed.map_err(|error: BuildError| status_of(&error, None))?;
            part.done();
        }
        Place::Local(folder, _) => {
            let part = task.part("writing layers and manifest");
            let store = ContentStore::new(session, format!("local:{folder}"));
            let top = store.put_package(&kit.builder, &package).await?;
            // The client puts it into the folder's index.
            response.insert("cache.manifest".into(), top.descriptor().to_string());
            part.done();
        }
        Place::Inline => {}
    }
    Ok(response)
}

/// A document as the client expects it in an answer.
pub(crate) fn encoded(value: &serde_json::Value) -> String {
    base64::engine::general_purpose::STANDARD.encode(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, attrs: &[(&str, &str)]) -> CacheEntry {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        CacheEntry { kind: kind.into(), attrs }
    }

    fn wanted(entry: CacheEntry) -> Result<Vec<Export>, Status> {
        exports(Some(&CacheOptions { exports: vec![entry], imports: Vec::new() }), false)
    }

    #[test]
    fn places_are_read_and_strange_ones_refused() {
        let found = wanted(entry("registry", &[("ref", "host:5000/c"), ("mode", "max")])).unwrap();
        assert_eq!(found[0].place, Place::Registry("host:5000/c:latest".parse().unwrap()));
        assert!(found[0].max);
        assert_eq!(exports(None, true).unwrap()[0].place, Place::Inline);
        for strange in [
            entry("gha", &[]),
            entry("registry", &[]),
            entry("local", &[("src", "x")]),
            entry("inline", &[("speed", "high")]),
            entry("registry", &[("ref", "a"), ("mode", "some")]),
            entry("registry", &[("ref", "a"), ("compression", "estargz")]),
            entry("registry", &[("ref", "a"), ("oci-mediatypes", "false")]),
            entry("local", &[("dest", "a"), ("image-manifest", "false")]),
            entry("registry", &[("ref", "a"), ("registry.insecure", "true")]),
        ] {
            assert!(wanted(strange.clone()).is_err(), "{strange:?}");
        }
        let digest = format!("sha256:{}", "1".repeat(64));
        let local = entry("local", &[("src", "/c"), ("digest", &digest)]);
        let same = [local.clone(), local, entry("inline", &[])];
        assert_eq!(imports(same.iter()).unwrap(), [Place::Local("/c".into(), Some(digest.parse().unwrap()))]);
        assert!(imports([entry("local", &[("src", "/c")])].iter()).is_err());
    }
}
