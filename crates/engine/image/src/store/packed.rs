//! Layers in a form that somebody asked for, kept so that the next one who asks packs nothing. Such a blob lives as long as a
//! layer with the tar that it was packed from, or until it is forgotten.

use std::fs::File;
use std::path::Path;

use vocab::Digest;

use super::Store;
use super::records::*;
use super::staging::unique;
use crate::compress::Compression;
use crate::error::{Context, Error, Result};
use crate::model::PackedLayer;

/// How exact the time of the last use is: a record is not written for less.
const USED_SECS: i64 = 600;

impl Store {
    /// A layer in this form, packed now or earlier: digest and length of a blob of the store. Whoever has a lease of the
    /// layer can count on it.
    pub fn packed_layer(&self, chain: &Digest, form: Compression) -> Result<(Digest, u64)> {
        let diff_id = self.layer(chain)?.ok_or(Error::NoSuchLayer(*chain))?.diff_id;
        let key = format!("{}-{form}", diff_id.hex());
        let known = self.db.read()?.get(&PACKED, &key)?;
        if let Some(known) = known.filter(|known| self.blob_path(&known.digest).exists()) {
            self.use_packed(&key)?;
            return Ok((known.digest, known.bytes));
        }
        let path = self.tmp().join(format!("packed-{}", unique()?));
        let packed = self.pack_into(&path, chain, form).and_then(|(digest, bytes)| {
            let now = self.now_secs();
            let record = PackedRecord { diff_id, digest, bytes, made_at: now, used_at: now };
            self.adopt_file(&path, digest, bytes, |txn| Ok(txn.put(&PACKED, &key, &record)?))?;
            Ok((digest, bytes))
        });
        if packed.is_err() {
            // It may not have been made, or have found its place.
            let _ = std::fs::remove_file(&path);
        }
        packed
    }

    fn pack_into(&self, path: &Path, chain: &Digest, form: Compression) -> Result<(Digest, u64)> {
        let mut file = File::create_new(path).context(|| format!("make {}", path.display()))?;
        self.pack_layer(chain, form, &mut file)
    }

    fn use_packed(&self, key: &str) -> Result<()> {
        let now = self.now_secs();
        let fresh = |record: &PackedRecord| now - record.used_at < USED_SECS;
        if self.db.read()?.get(&PACKED, &key.to_owned())?.is_none_or(|record| fresh(&record)) {
            return Ok(());
        }
        self.db.write(|txn| {
            if let Some(record) = txn.get(&PACKED, &key.to_owned())? {
                txn.put(&PACKED, &key.to_owned(), &PackedRecord { used_at: now, ..record })?;
            }
            Ok(())
        })
    }

    pub fn packed_layers(&self) -> Result<Vec<PackedLayer>> {
        let read = self.db.read()?;
        let layers = read.list(&LAYERS)?;
        let held = self.held.lock();
        let view = |(key, record): (String, PackedRecord)| PackedLayer {
            in_use: layers.iter().any(|(chain, layer)| layer.diff_id == record.diff_id && held.is_pinned(chain)),
            key,
            diff_id: record.diff_id,
            bytes: record.bytes,
            made_at: record.made_at,
            used_at: record.used_at,
        };
        Ok(read.list(&PACKED)?.into_iter().map(view).collect())
    }

    /// Forgets what these keys stand for, but for what may be on its way out; returns the keys that are gone.
    pub fn forget_packed(&self, keys: &[String]) -> Result<Vec<String>> {
        let lock = self.lock();
        let idle = self.packed_layers()?.into_iter().filter(|packed| !packed.in_use && keys.contains(&packed.key));
        let gone: Vec<String> = idle.map(|packed| packed.key).collect();
        if gone.is_empty() {
            return Ok(gone);
        }
        self.db.write(|txn| {
            for key in &gone {
                txn.remove(&PACKED, key)?;
            }
            Ok::<_, Error>(())
        })?;
        self.collect_locked(lock)?;
        Ok(gone)
    }
}
