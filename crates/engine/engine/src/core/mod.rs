//! The engine's inside: what it remembers and what it does about it. `api` is its face.

mod archive;
mod attach;
mod container;
mod copy;
mod create;
mod devices;
mod doctor;
mod events;
mod exec;
mod exits;
mod files;
mod follow;
mod health;
mod images;
pub(crate) mod info;
mod inner;
mod lifecycle;
mod list;
mod networks;
pub(crate) mod open;
pub(crate) mod records;
mod registry;
mod remove;
mod rest;
mod roots;
mod seccomp;
pub(crate) mod start;
mod stats;
pub(crate) mod step;
mod top;
mod update;
mod view;

pub(crate) use archive::PutOptions;
pub(crate) use container::{Container, Stage};
pub(crate) use copy::copy_tree;
pub(crate) use inner::{Inner, blocking};
