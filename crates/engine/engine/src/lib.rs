//! Containers on this machine: one Rust API over images, runtime and keeper.
