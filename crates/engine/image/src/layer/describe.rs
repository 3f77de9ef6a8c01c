//! The recipe of a directory that is a layer already: the tar that was packed from it is read once, and nothing is written
//! but what the directory does not hold.

use std::path::Path;

use linux::fs::{Mode, OFlags, Root};

use super::recipe::RecipeWriter;
use super::unpack::Unpacked;
use crate::chunk::Source;
use crate::error::{Context, Error, Result};
use crate::tar::path::{Effect, effect, parts};
use crate::tar::{Kind, Reader};

/// Writes `layer/recipe` for a tar whose files will be found at their own paths below `layer/diff`. Reads the tar to its end.
pub(crate) fn describe(tar: impl Source, layer: &Path, what: &str) -> Result<Unpacked> {
    let folder = Root::open(layer).context(|| "open a new layer")?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let recipe = linux::fs::openat(&folder, "recipe", flags, Mode::from_raw_mode(0o600)).context(|| "make a recipe")?;
    let recipe = RecipeWriter::new(Some(recipe.into())).context(|| "make a recipe")?;
    let mut tar = Reader::with_observer(tar, recipe);
    let tar_error = |source| Error::Tar { what: what.to_owned(), source };
    let mut unpacked = Unpacked::default();
    while let Some(entry) = tar.next_entry().map_err(tar_error)? {
        unpacked.entries += 1;
        let Kind::File(data) = &entry.kind else { continue };
        if !matches!(effect(&entry.path), Ok(Effect::Put { .. })) {
            continue;
        }
        unpacked.bytes += data.stored;
        let path = parts(&entry.path).map_err(|detail| Error::invalid(what, detail))?.join(&b'/');
        for (offset, len) in data.pieces() {
            tar.observer().file(&path, offset, len).context(|| "write a recipe")?;
        }
        while tar.data().map_err(tar_error)?.is_some() {}
    }
    tar.into_observer().finish().context(|| "write a recipe")?;
    Ok(unpacked)
}
