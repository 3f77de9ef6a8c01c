//! From what a person types to an image.

use vocab::{Digest, Reference};

use super::Store;
use super::records::*;
use crate::error::{Error, Result};

/// What a name turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A name that stands for the image.
    Name(Reference),
    /// The image's id or a prefix of it.
    Id,
}

impl Store {
    /// The image that `name` stands for.
    pub fn resolve(&self, name: &str) -> Result<Digest> {
        Ok(self.find(name)?.0)
    }

    /// As Docker looks: a full id first, then a name, then a prefix of an id.
    pub(crate) fn find(&self, name: &str) -> Result<(Digest, Found)> {
        let read = self.db.read()?;
        // With the tag that was looked for, as Docker tells it.
        let told = || name.parse::<Reference>().map_or_else(|_| name.to_owned(), |name| name.or_latest().familiar());
        let no_such = || Error::NoSuchImage(told());
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = !hex.is_empty() && hex.len() <= 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex && hex.len() == 64 {
            let id: Digest = format!("sha256:{hex}").parse().map_err(|_| no_such())?;
            return if read.get(&IMAGES, &id)?.is_some() { Ok((id, Found::Id)) } else { Err(no_such()) };
        }
        let reference = match name.parse::<Reference>() {
            Ok(reference) => Some(reference.or_latest()),
            Err(_) if is_hex => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(reference) = reference {
            // With a digest, the tag beside it says nothing more.
            let exact = match reference.digest() {
                Some(digest) => reference.with_digest(digest),
                None => reference.clone(),
            };
            if let Some(record) = read.get(&NAMES, &exact.to_string())? {
                return Ok((record.image, Found::Name(exact)));
            }
            if let Some(digest) = reference.digest() {
                // `name@<id>` and the digests of manifests that came with the image.
                for (id, record) in read.list(&IMAGES)? {
                    if id == digest || record.manifests.iter().any(|manifest| manifest.digest == digest) {
                        return Ok((id, Found::Id));
                    }
                }
                return Err(no_such());
            }
        }
        if !is_hex {
            return Err(no_such());
        }
        let mut ids = read.list(&IMAGES)?.into_iter().map(|(id, _)| id).filter(|id| id.hex().starts_with(hex));
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok((id, Found::Id)),
            (Some(_), Some(_)) => Err(Error::Ambiguous(name.to_owned())),
            _ => Err(no_such()),
        }
    }
}
