//! Images on this machine: content store, layers, references, snapshots on overlay, garbage collection.
//!
//! What it is for: everything between a stream of archive bytes and the directories that make a container's root. The
//! calls are synchronous and may be made from any thread; the engine runs them on its blocking pool.
//!
//! What it never does: it talks to no registry, starts no process and mounts nothing in the caller's namespace (a detached
//! mount is a descriptor). What an archive or an image says is data for the workload, never an action on the host.
//!
//! Below one root folder:
//! ```text
//! blobs/sha256/<hex>    manifests, configurations and compressed layers, by digest
//! layers/<name>/diff    an unpacked layer, in overlay's own form (whiteouts are 0:0 devices)
//! layers/<name>/recipe  what makes the layer's tar again from `diff`, where no compressed blob is kept
//! snapshots/<id>/       a container's init layer, writable layer and work folder
//! partial/              compressed layers of which a pull has received a part
//! tmp/                  not yet, and no longer, part of the store
//! ```
//! The records are in the database ([`db::Db`]); whatever a record speaks of is on disk before the record is.

pub mod archive;
mod changes;
pub mod chunk;
mod compress;
pub mod config;
mod deep;
mod error;
mod glob;
pub mod hash;
mod inflate;
pub mod layer;
mod manifest;
mod model;
mod pack;
mod store;
pub mod tar;
mod union;

pub use compress::{Compression, SharedFile};
pub use error::{Error, Result};
pub use inflate::is_archive;
pub use manifest::{Chosen, choose};
pub use model::*;
pub use store::{
    Blob, Distributable, DistributableLayer, HOLDS, Hold, LayersLeft, Lease, Options, Part, Prepared, Pull,
    PulledManifest, Sealed, Store, tree_size,
};
