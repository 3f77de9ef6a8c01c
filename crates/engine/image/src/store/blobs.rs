//! Blobs for others than images: what a registry gives out and takes in.
//!
//! A blob is a file below `blobs/`, or the tar of a layer that is kept as a recipe and made again when somebody reads it. A
//! [`Hold`] keeps the bytes in the store although no image speaks of them; its key is the holder's own.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use db::Table;
use serde::{Deserialize, Serialize};
use vocab::{Digest, Reference, crash};

use super::Store;
use super::records::*;
use crate::error::{Context, Error, Result};
use crate::layer::RecipeReader;

/// Bytes that stay in the store until their holder removes this record. Keys belong to the holders: one table, so that what
/// is reachable is read in one place.
pub const HOLDS: Table<String, Hold> = Table::new("image-holds");

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    pub digest: Digest,
    pub bytes: u64,
    /// The bytes are the tar of this layer (by chain id), made from its recipe.
    #[serde(default)]
    pub layer: Option<Digest>,
    /// Seconds since 1970.
    #[serde(default)]
    pub at: i64,
}

/// A blob that can be read: opened, so that removing it meanwhile does not matter to the reader.
#[derive(Debug)]
pub struct Blob {
    pub bytes: u64,
    source: BlobSource,
}

#[derive(Debug)]
enum BlobSource {
    File(File),
    Recipe(PathBuf),
}

impl Blob {
    /// The file that has its bytes, if there is one.
    pub fn into_file(self) -> std::result::Result<File, Self> {
        match self.source {
            BlobSource::File(file) => Ok(file),
            source => Err(Self { source, ..self }),
        }
    }

    /// Its bytes from `offset` on. A layer without a file is made from its beginning, so a late offset costs what lies
    /// before it.
    pub fn reader(self, offset: u64) -> Result<Box<dyn Read + Send>> {
        match self.source {
            BlobSource::File(mut file) => {
                file.seek(io::SeekFrom::Start(offset)).context(|| "read a blob")?;
                Ok(Box::new(file))
            }
            BlobSource::Recipe(folder) => {
                let mut reader = RecipeReader::open(&folder)?;
                io::copy(&mut reader.by_ref().take(offset), &mut io::sink()).context(|| "make a layer's tar again")?;
                Ok(Box::new(reader))
            }
        }
    }
}

/// An image as a registry knows it.
#[derive(Debug, Clone)]
pub struct Distributable {
    pub id: Digest,
    pub media_type: String,
    pub digest: Digest,
    pub manifest: Vec<u8>,
    pub config_bytes: u64,
    /// Bottom first.
    pub layers: Vec<DistributableLayer>,
}

#[derive(Debug, Clone)]
pub struct DistributableLayer {
    /// Of the bytes as they are given out.
    pub digest: Digest,
    pub bytes: u64,
    pub diff_id: Digest,
}

impl Store {
    /// Opens a blob by its digest, if the store has it in any form.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Blob>> {
        let read = self.db.read()?;
        if let Some(record) = read.get(&BLOBS, digest)? {
            let path = self.blob_path(digest);
            return match File::open(&path) {
                Ok(file) => Ok(Some(Blob { bytes: record.bytes, source: BlobSource::File(file) })),
                // Collected between the record and the file.
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e).context(|| format!("open {}", path.display())),
            };
        }
        let layers = read.list(&LAYERS)?;
        Ok(recipe(&layers, digest).map(|(_, layer)| Blob {
            bytes: layer.tar_bytes,
            source: BlobSource::Recipe(self.layers_dir().join(&layer.folder)),
        }))
    }

    /// The image that `name` stands for, in the form in which it is pushed: the manifest it came with, or one of its own.
    pub fn distributable(&self, name: &str) -> Result<Distributable> {
        let id = self.resolve(name)?;
        let plan = self.plan_image(id, Vec::new())?;
        let config_bytes = plan.config.len() as u64;
        let layers = plan.layers.iter().map(|(descriptor, layer)| DistributableLayer {
            digest: descriptor.digest,
            bytes: descriptor.size,
            diff_id: layer.diff_id,
        });
        Ok(Distributable {
            id,
            layers: layers.collect(),
            media_type: plan.manifest.media_type,
            digest: plan.manifest.digest,
            manifest: plan.manifest_bytes,
            config_bytes,
        })
    }

    /// Takes a complete file, whose digest the caller has computed while it wrote it, into the store and holds it under
    /// `key`, durably. The file must be on the store's disk; it is gone from where it was.
    pub fn adopt_blob(&self, file: &Path, digest: Digest, bytes: u64, key: &str) -> Result<()> {
        let at = self.now_secs();
        self.adopt_file(file, digest, bytes, |txn| {
            Ok(txn.put(&HOLDS, &key.to_owned(), &Hold { digest, bytes, layer: None, at })?)
        })
    }

    /// `also` writes what keeps the blob.
    pub(super) fn adopt_file(
        &self,
        file: &Path,
        digest: Digest,
        bytes: u64,
        also: impl FnOnce(&mut db::Write<'_>) -> Result<()>,
    ) -> Result<()> {
        let what = || format!("keep blob {digest}");
        File::open(file).and_then(|file| file.sync_all()).context(what)?;
        crash::point("image.blob.synced");
        let _lock = self.lock();
        let place = self.blob_path(&digest);
        let moved = !place.exists();
        if moved {
            std::fs::rename(file, &place).context(what)?;
            File::open(self.blobs_dir()).and_then(|dir| dir.sync_all()).context(what)?;
            crash::point("image.blob.moved");
        }
        let written = self.db.write(|txn| {
            txn.put(&BLOBS, &digest, &BlobRecord { bytes })?;
            also(txn)
        });
        if written.is_err() && moved {
            // No record speaks of it; at worst the next start removes it.
            let _ = std::fs::remove_file(&place);
        } else if !moved {
            let _ = std::fs::remove_file(file);
        }
        written
    }

    /// Holds blobs that the store has already, and lets `also` write records of the holder in the same transaction: all of
    /// it is durable at the return, or none. [`Error::NoSuchBlob`] names the first blob that is not there.
    pub fn hold<T, E: From<Error> + From<db::Error>>(
        &self,
        blobs: &[(String, Digest)],
        also: impl FnOnce(&mut db::Write<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = self.lock();
        let at = self.now_secs();
        self.db.write(|txn| {
            let mut layers = None;
            for (key, digest) in blobs {
                if txn.get(&HOLDS, key)?.is_some_and(|held| held.digest == *digest) {
                    continue;
                }
                let hold = match txn.get(&BLOBS, digest)? {
                    Some(record) => Hold { digest: *digest, bytes: record.bytes, layer: None, at },
                    None => {
                        if layers.is_none() {
                            layers = Some(txn.list(&LAYERS)?);
                        }
                        let (chain, layer) = recipe(layers.as_deref().unwrap_or_default(), digest)
                            .ok_or(E::from(Error::NoSuchBlob(*digest)))?;
                        Hold { digest: *digest, bytes: layer.tar_bytes, layer: Some(*chain), at }
                    }
                };
                txn.put(&HOLDS, key, &hold)?;
            }
            also(txn)
        })
    }

    /// Notes the digest by which a registry knows an image.
    pub fn note_digest(&self, name: &Reference, image: &Digest) -> Result<()> {
        if name.digest().is_none() {
            return Err(Error::invalid("name", "it has no digest"));
        }
        self.db.write(|txn| {
            txn.get(&IMAGES, image)?.ok_or_else(|| Error::NoSuchImage(image.to_string()))?;
            Ok::<_, Error>(txn.put(&NAMES, &name.to_string(), &NameRecord { image: *image })?)
        })
    }

    /// The database, for records that live and die with what the store holds.
    pub fn db(&self) -> &db::Db {
        &self.db
    }
}

/// The layer whose tar has this digest and is kept as a recipe.
fn recipe<'a>(layers: &'a [(Digest, LayerRecord)], digest: &Digest) -> Option<(&'a Digest, &'a LayerRecord)> {
    let found = layers.iter().find(|(_, layer)| layer.diff_id == *digest && layer.compressed.is_none());
    found.map(|(chain, layer)| (chain, layer))
}
