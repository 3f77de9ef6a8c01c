//! Layers: from a tar to a directory in overlay's own form, and back to the very same bytes.
//!
//! [`unpack`] carries an archive out beneath one directory, in-root by descriptor; [`recipe`] keeps what the directory does
//! not (headers, padding, order), so that an uncompressed layer need not be stored twice.

mod describe;
mod dirs;
mod files;
mod finish;
mod rebase;
mod recipe;
mod unpack;

pub(crate) use describe::describe;
pub(crate) use files::{set_xattrs, times};
pub(crate) use finish::is_whiteout;
pub use rebase::rebase;
pub use recipe::{Moved, RecipeReader};

pub use unpack::{Options, Unpacked, unpack};
