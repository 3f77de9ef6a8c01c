//! What the registry remembers: manifests and tags by repository. Which blobs a repository has are the image store's holds,
//! so that they are part of one reckoning of what is reachable.

use std::collections::{BTreeMap, BTreeSet};

use db::Table;
use image::{HOLDS, Hold, Store};
use serde::{Deserialize, Serialize};
use vocab::Digest;

use super::error::{Code, Outcome, Refusal};
use super::route::Name;
use crate::media::Facts;
use crate::names::Repository;

/// By `repository@digest`.
pub(crate) const MANIFESTS: Table<String, ManifestRecord> = Table::new("registry-manifests");
/// The manifests' own bytes, which are text, under the same keys.
pub(crate) const DOCUMENTS: Table<String, String> = Table::new("registry-documents");
/// By `repository:tag`.
pub(crate) const TAGS: Table<String, TagRecord> = Table::new("registry-tags");

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ManifestRecord {
    pub(crate) media_type: String,
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) blobs: Vec<Digest>,
    #[serde(default)]
    pub(crate) manifests: Vec<Digest>,
    #[serde(default)]
    pub(crate) subject: Option<Digest>,
    #[serde(default)]
    pub(crate) artifact_type: Option<String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// Seconds since 1970.
    #[serde(default)]
    pub(crate) at: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TagRecord {
    pub(crate) digest: Digest,
    /// Seconds since 1970: when it was put, or last compared with the registry behind this one.
    #[serde(default)]
    pub(crate) at: i64,
}

pub(crate) const HOLD_PREFIX: &str = "registry/";

pub(crate) fn hold_key(repository: &Repository, digest: &Digest) -> String {
    format!("{HOLD_PREFIX}{repository}@{digest}")
}

pub(crate) fn manifest_key(repository: &Repository, digest: &Digest) -> String {
    format!("{repository}@{digest}")
}

pub(crate) fn tag_key(repository: &Repository, tag: &str) -> String {
    format!("{repository}:{tag}")
}

/// A manifest as it is given out.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) digest: Digest,
    pub(crate) record: ManifestRecord,
    pub(crate) text: String,
}

/// What a manifest that is put asks for beside its bytes.
pub(crate) struct NewManifest<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) digest: Digest,
    pub(crate) facts: Facts,
    pub(crate) text: &'a str,
    pub(crate) tag: Option<&'a str>,
    /// Blobs of the store to take into the repository with it.
    pub(crate) adopt: &'a [Digest],
    /// A cache's index names manifests that nobody has asked for yet.
    pub(crate) sparse: bool,
}

pub(crate) fn hold(store: &Store, repository: &Repository, digest: &Digest) -> Outcome<Option<Hold>> {
    Ok(store.db().read()?.get(&HOLDS, &hold_key(repository, digest))?)
}

/// Whether anything was ever put there and not deleted.
pub(crate) fn exists(store: &Store, repository: &Repository) -> Outcome<bool> {
    let read = store.db().read()?;
    let prefix = format!("{repository}@");
    if !read.list_prefix(&MANIFESTS, prefix.as_bytes())?.is_empty() {
        return Ok(true);
    }
    Ok(!read.list_prefix(&HOLDS, format!("{HOLD_PREFIX}{prefix}").as_bytes())?.is_empty())
}

pub(crate) fn find(store: &Store, repository: &Repository, name: &Name) -> Outcome<Option<Found>> {
    let read = store.db().read()?;
    let digest = match name {
        Name::Digest(digest) => *digest,
        Name::Tag(tag) => match read.get(&TAGS, &tag_key(repository, tag))? {
            Some(tag) => tag.digest,
            None => return Ok(None),
        },
    };
    let key = manifest_key(repository, &digest);
    let (record, text) = (read.get(&MANIFESTS, &key)?, read.get(&DOCUMENTS, &key)?);
    Ok(record.zip(text).map(|(record, text)| Found { digest, record, text }))
}

pub(crate) fn tag(store: &Store, repository: &Repository, tag: &str) -> Outcome<Option<TagRecord>> {
    Ok(store.db().read()?.get(&TAGS, &tag_key(repository, tag))?)
}

/// Makes a manifest part of the repository, durably, if everything that it speaks of is there.
pub(crate) fn put(store: &Store, new: &NewManifest<'_>) -> Outcome<()> {
    let now = jiff::Timestamp::now().as_second();
    let adopt: Vec<(String, Digest)> =
        new.adopt.iter().map(|digest| (hold_key(new.repository, digest), *digest)).collect();
    store.hold(&adopt, |txn| {
        for digest in new.facts.blobs.iter().filter(|_| !new.sparse) {
            if txn.get(&HOLDS, &hold_key(new.repository, digest))?.is_none() {
                return Err(Refusal::with(Code::ManifestBlobUnknown, digest.to_string()));
            }
        }
        for digest in new.facts.manifests.iter().filter(|_| !new.sparse) {
            if txn.get(&MANIFESTS, &manifest_key(new.repository, digest))?.is_none() {
                return Err(Refusal::with(Code::ManifestBlobUnknown, digest.to_string()));
            }
        }
        let facts = new.facts.clone();
        let record = ManifestRecord {
            media_type: facts.media_type,
            bytes: new.text.len() as u64,
            blobs: facts.blobs,
            manifests: facts.manifests,
            subject: facts.subject,
            artifact_type: facts.artifact_type,
            annotations: facts.annotations,
            at: now,
        };
        let key = manifest_key(new.repository, &new.digest);
        txn.put(&MANIFESTS, &key, &record)?;
        txn.put(&DOCUMENTS, &key, &new.text.to_owned())?;
        if let Some(tag) = new.tag {
            txn.put(&TAGS, &tag_key(new.repository, tag), &TagRecord { digest: new.digest, at: now })?;
        }
        Ok(())
    })
}

/// A tag goes alone; a digest takes its tags along.
pub(crate) fn delete_manifest(store: &Store, repository: &Repository, name: &Name) -> Outcome<()> {
    let unknown = || match name {
        Name::Tag(tag) => Refusal::with(Code::ManifestUnknown, tag.as_str()),
        Name::Digest(digest) => Refusal::with(Code::ManifestUnknown, digest.to_string()),
    };
    store.db().write(|txn| {
        match name {
            Name::Tag(tag) => {
                let key = tag_key(repository, tag);
                txn.get(&TAGS, &key)?.ok_or_else(unknown)?;
                txn.remove(&TAGS, &key)?;
            }
            Name::Digest(digest) => {
                let key = manifest_key(repository, digest);
                txn.get(&MANIFESTS, &key)?.ok_or_else(unknown)?;
                txn.remove(&MANIFESTS, &key)?;
                txn.remove(&DOCUMENTS, &key)?;
                let prefix = format!("{repository}:");
                for (key, tag) in txn.list(&TAGS)? {
                    if tag.digest == *digest && key.starts_with(&prefix) {
                        txn.remove(&TAGS, &key)?;
                    }
                }
            }
        }
        Ok(())
    })
}

/// A blob that a manifest of the repository needs stays.
pub(crate) fn delete_blob(store: &Store, repository: &Repository, digest: &Digest) -> Outcome<()> {
    store.db().write(|txn| {
        let key = hold_key(repository, digest);
        txn.get(&HOLDS, &key)?.ok_or_else(|| Refusal::with(Code::BlobUnknown, digest.to_string()))?;
        let prefix = format!("{repository}@");
        for (manifest, record) in txn.list(&MANIFESTS)? {
            if manifest.starts_with(&prefix) && record.blobs.contains(digest) {
                return Err(Refusal::with(
                    Code::Unsupported,
                    format!("manifest {} needs it", &manifest[prefix.len()..]),
                ));
            }
        }
        txn.remove(&HOLDS, &key)?;
        Ok(())
    })
}

/// Tags of a repository in order of their bytes.
pub(crate) fn tags(store: &Store, repository: &Repository) -> Outcome<Vec<String>> {
    let prefix = format!("{repository}:");
    let tags = store.db().read()?.list_prefix(&TAGS, prefix.as_bytes())?;
    Ok(tags.into_iter().map(|(key, _)| key[prefix.len()..].to_owned()).collect())
}

/// Repositories that have a manifest, in order.
pub(crate) fn repositories(store: &Store) -> Outcome<Vec<String>> {
    let manifests = store.db().read()?.list(&MANIFESTS)?;
    let names = manifests.into_iter().filter_map(|(key, _)| Some(key.split_once('@')?.0.to_owned()));
    Ok(names.collect::<BTreeSet<_>>().into_iter().collect())
}

/// Manifests of the repository that speak about `subject`.
pub(crate) fn referrers(
    store: &Store,
    repository: &Repository,
    subject: &Digest,
) -> Outcome<Vec<(Digest, ManifestRecord)>> {
    let prefix = format!("{repository}@");
    let manifests = store.db().read()?.list_prefix(&MANIFESTS, prefix.as_bytes())?;
    let about = manifests.into_iter().filter(|(_, record)| record.subject == Some(*subject));
    Ok(about.filter_map(|(key, record)| Some((key[prefix.len()..].parse().ok()?, record))).collect())
}

/// Lets go of blobs that no manifest of their repository needs and that came before `before` (seconds since 1970): an upload
/// whose manifest is still to come keeps its blobs. Returns how many.
pub(crate) fn release_unused(store: &Store, before: i64) -> Outcome<usize> {
    store.db().write(|txn| {
        let mut needed = BTreeSet::new();
        for (key, record) in txn.list(&MANIFESTS)? {
            let repository = key.split_once('@').map_or("", |(repository, _)| repository);
            needed.extend(record.blobs.iter().map(|blob| format!("{HOLD_PREFIX}{repository}@{blob}")));
        }
        let mut released = 0;
        for (key, hold) in txn.list(&HOLDS)? {
            if key.starts_with(HOLD_PREFIX) && hold.at < before && !needed.contains(&key) {
                txn.remove(&HOLDS, &key)?;
                released += 1;
            }
        }
        Ok(released)
    })
}

/// Whether a manifest of the repository needs this blob.
pub(crate) fn speaks_of(store: &Store, repository: &Repository, digest: &Digest) -> Outcome<bool> {
    let manifests = store.db().read()?.list_prefix(&MANIFESTS, format!("{repository}@").as_bytes())?;
    Ok(manifests.iter().any(|(_, record)| record.blobs.contains(digest)))
}
