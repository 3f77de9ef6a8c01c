//! What Knarr knows about Kubernetes' kinds, and the machinery that all kinds share. Pure: values in, values out.
//!
//! Objects are trees of [`serde_json::Value`], read and judged by a [`schema`]: the built-in kinds' schemas come from
//! one compact table of facts, those of custom resources from their definitions, and everything else here (field
//! validation, patches, server-side apply, OpenAPI) works on either.
//!
//! This crate knows no HTTP, no store, no clock and no randomness: `apiserver` brings them.

pub mod apply;
pub mod binding;
pub mod crd;
pub mod decode;
pub mod errors;
pub mod facts;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod openapi_proto;
pub mod patch;
pub mod placement;
pub mod ports;
pub mod proto;
pub mod schema;
pub mod selector;
pub mod table;
pub mod yaml;

pub use errors::{Cause, FieldError, Status};
pub use serde_json::Value;
pub use vocab::quantity;
