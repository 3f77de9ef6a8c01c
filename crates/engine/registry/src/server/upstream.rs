//! A cache of another registry: what is asked for and not here is fetched there, verified, kept, and given out. A tag is
//! compared with the other registry's from time to time; while that cannot be reached, what is here goes on being given.

use std::sync::Arc;
use std::time::Duration;

use vocab::Digest;

use super::Inner;
use super::error::{Code, Outcome, Refusal};
use super::records::{self, NewManifest, hold_key};
use super::route::Name;
use crate::client::{Credentials, Error};
use crate::media;
use crate::names::Repository;

/// Another registry, whose repositories appear here.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Repositories whose names begin with this and a slash are the other registry's, called by the rest of their names.
    /// Empty: all are.
    pub prefix: String,
    /// Address (`https://host`) or domain (`docker.io`).
    pub address: String,
    pub credentials: Credentials,
    /// How long a tag is taken to stand for what it stood for.
    pub fresh: Duration,
}

impl Upstream {
    /// `[PREFIX=]ADDRESS`
    pub fn parse(text: &str) -> Option<Self> {
        let (prefix, address) = text.split_once('=').unwrap_or(("", text));
        let prefix = prefix.trim_matches('/');
        let fresh = Duration::from_secs(60);
        (!address.is_empty()).then(|| Self {
            prefix: prefix.to_owned(),
            address: address.to_owned(),
            credentials: Credentials::default(),
            fresh,
        })
    }

    /// What the other registry calls a repository, if it is one of its.
    fn name_there<'a>(&self, repository: &'a Repository) -> Option<&'a str> {
        match self.prefix.as_str() {
            "" => Some(repository.as_str()),
            prefix => repository.as_str().strip_prefix(prefix)?.strip_prefix('/'),
        }
    }
}

impl Inner {
    fn upstream_of<'a>(&'a self, repository: &'a Repository) -> Option<(&'a Upstream, &'a str)> {
        let mut found: Vec<_> =
            self.config.upstreams.iter().filter_map(|up| Some((up, up.name_there(repository)?))).collect();
        // The longest prefix is meant.
        found.sort_by_key(|(up, _)| std::cmp::Reverse(up.prefix.len()));
        found.into_iter().next()
    }

    /// One fetch of a thing at a time; the others find it here afterwards.
    fn turn(&self, what: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(|e| e.into_inner());
        fetching.retain(|_, turn| Arc::strong_count(turn) > 1);
        fetching.entry(what).or_default().clone()
    }

    /// Sees to it that a manifest is here and fresh, if it is another registry's.
    pub(super) async fn refresh(&self, repository: &Repository, name: &Name) -> Outcome<()> {
        let Some((upstream, there)) = self.upstream_of(repository) else { return Ok(()) };
        let is_fresh = || -> Outcome<bool> {
            Ok(match name {
                Name::Digest(_) => records::find(&self.store, repository, name)?.is_some(),
                Name::Tag(tag) => records::tag(&self.store, repository, tag)?.is_some_and(|tag| {
                    let age = jiff::Timestamp::now().as_second() - tag.at;
                    (0..upstream.fresh.as_secs() as i64).contains(&age)
                }),
            })
        };
        if is_fresh()? {
            return Ok(());
        }
        let wanted = match name {
            Name::Tag(tag) => tag.clone(),
            Name::Digest(digest) => digest.to_string(),
        };
        let turn = self.turn(format!("{repository} {wanted}"));
        let _turn = turn.lock().await;
        if is_fresh()? {
            return Ok(());
        }
        let session = self.client.session_of(&upstream.address, there, upstream.credentials.clone()).await;
        let fetched = match session {
            Ok(session) => session.manifest(&wanted, &format!("{repository}:{wanted}")).await,
            Err(error) => Err(error),
        };
        let manifest = match fetched {
            Ok(manifest) => manifest,
            // What is here is better than nothing; what is not, is not.
            Err(Error::NoManifest { .. } | Error::Denied { .. }) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, upstream = upstream.address, "the registry behind this one failed");
                let known = records::find(&self.store, repository, name)?.is_some();
                return if known { Ok(()) } else { Err(unavailable(&error)) };
            }
        };
        let facts =
            media::parse(&manifest.bytes, &manifest.media_type).map_err(|e| Refusal::with(Code::ManifestInvalid, e))?;
        let text =
            String::from_utf8(manifest.bytes).map_err(|e| Refusal::with(Code::ManifestInvalid, e.to_string()))?;
        let tag = match name {
            Name::Tag(tag) => Some(tag.as_str()),
            Name::Digest(_) => None,
        };
        let new =
            NewManifest { repository, digest: manifest.digest, facts, text: &text, tag, adopt: &[], sparse: true };
        records::put(&self.store, &new)
    }

    /// Fetches a blob that a manifest of the cache speaks of. False: it is nothing of another registry's.
    pub(super) async fn fetch_blob(&self, repository: &Repository, digest: &Digest) -> Outcome<bool> {
        let Some((upstream, there)) = self.upstream_of(repository) else { return Ok(false) };
        let turn = self.turn(format!("{repository} {digest}"));
        let _turn = turn.lock().await;
        if records::hold(&self.store, repository, digest)?.is_some() {
            return Ok(true);
        }
        // The store may have it from elsewhere: then it only has to be known that the repository has it too, which the
        // manifest that was fetched there proves.
        if records::speaks_of(&self.store, repository, digest)? {
            match self.store.hold(&[(hold_key(repository, digest), *digest)], |_| Ok::<_, image::Error>(())) {
                Ok(()) => return Ok(true),
                Err(image::Error::NoSuchBlob(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let session = self.client.session_of(&upstream.address, there, upstream.credentials.clone()).await;
        let session = session.map_err(|error| unavailable(&error))?;
        let id = self.uploads.begin(repository)?;
        let mut claim = self.uploads.claim(repository, &id).await?;
        let mut upload = claim.take().ok_or_else(|| Refusal::new(Code::BlobUploadUnknown))?;
        let mut tries = 0;
        loop {
            let from = upload.offset();
            let done = match session.blob_from(digest, from).await {
                // A registry that gives no ranges begins over; so must the file.
                Ok(Some((first, _))) if first != from => Err(Error::Invalid("it gives no ranges".into())),
                Ok(Some((_, mut answer))) => loop {
                    match answer.piece().await {
                        Ok(None) => break Ok(()),
                        Ok(Some(piece)) => {
                            if upload.offset() + piece.len() as u64 > self.config.blob_bytes_max {
                                self.uploads.end(&id, claim);
                                return Err(Refusal::with(Code::SizeInvalid, "the blob is too large"));
                            }
                            let written = tokio::task::spawn_blocking(move || {
                                let written = upload.append(&[piece]);
                                (upload, written)
                            });
                            let (back, written) = written.await.map_err(|e| Refusal::internal("keep a blob", e))?;
                            upload = back;
                            written.map_err(|e| Refusal::internal("keep a blob", e))?;
                        }
                        Err(text) => break Err(Error::Invalid(text)),
                    }
                },
                Ok(None) => {
                    self.uploads.end(&id, claim);
                    return Ok(false);
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => break,
                Err(error) => {
                    tries = if upload.offset() > from { 0 } else { tries + 1 };
                    if tries >= 3 {
                        self.uploads.end(&id, claim);
                        return Err(unavailable(&error));
                    }
                }
            }
        }
        let (path, bytes, actual) = upload.finish();
        if actual != *digest {
            self.uploads.end(&id, claim);
            return Err(unavailable(&format!("blob {digest} came as {actual}")));
        }
        let (store, key, wanted) = (self.store.clone(), hold_key(repository, digest), *digest);
        let kept = tokio::task::spawn_blocking(move || store.adopt_blob(&path, wanted, bytes, &key)).await;
        self.uploads.end(&id, claim);
        kept.map_err(|e| Refusal::internal("keep a blob", e))??;
        Ok(true)
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> Refusal {
    tracing::debug!(%error, "the registry behind this one");
    Refusal::with(Code::Unknown, "the registry behind this one cannot be reached").status(http::StatusCode::BAD_GATEWAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_belong_to_the_registry_that_their_names_begin_with() {
        let name = |text: &str| Repository::parse(text).unwrap();
        for (upstream, repository, expected) in [
            ("https://r.example", "library/busybox", Some("library/busybox")),
            ("hub=docker.io", "hub/library/busybox", Some("library/busybox")),
            ("hub=docker.io", "hubs/busybox", None),
            ("hub=docker.io", "hub", None),
            ("a/b/=https://r", "a/b/c", Some("c")),
        ] {
            assert_eq!(
                Upstream::parse(upstream).unwrap().name_there(&name(repository)),
                expected,
                "{upstream} {repository}"
            );
        }
        assert!(Upstream::parse("hub=").is_none());
    }
}
