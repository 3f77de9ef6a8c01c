//! Images from Dockerfiles: text to a syntax tree, the tree to a graph of steps, the graph to layers.
//!
//! * `syntax` — what the text says (pure)
//! * `plan` — what is to be done, and what configuration comes out (pure)
//! * `sources` — what comes from elsewhere: files at addresses, git repositories
//! * `solve` — doing it: cache, snapshots, the engine's runtime
//!
//! It knows no HTTP and no client: a door turns [`Event`]s into its own words and answers what only a [`Client`] can.

mod attest;
mod bases;
mod cache;
mod context;
mod copy;
mod error;
mod event;
mod export;
mod external;
mod ignore;
mod media;
pub mod plan;
mod solve;
mod sources;
pub mod syntax;

pub use attest::{BuildFacts, SlsaVersion, provenance};
pub use bases::StoreBases;
pub use cache::{CacheEntry, CacheFilter, CacheKind, CacheRecord, Keep, Limits, PrunePolicy};
pub use context::Context;
pub use error::{BuildError, Result, excerpt};
pub use event::{Event, Events};
pub use export::{LayerForm, Package, PackageBlob, PackageOptions};
pub use external::{Blobs, ImportedCache};
pub use ignore::Patterns;
pub use media::MediaTypes;
pub use solve::{Answer, Builder, Built, Client, Job, NoClient};
pub use sources::{GitRemote, Remote, RemoteContext};
