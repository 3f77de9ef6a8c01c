//! Docker's JSON and the ways to and from the engine's words. Other people's names, no logic beyond translation.

pub(crate) mod config;
pub(crate) mod container;
pub(crate) mod event;
pub(crate) mod frames;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod info;
pub(crate) mod network;
pub(crate) mod stats;
pub(crate) mod time;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::http::error::{ApiError, ApiResult};

/// Go's `struct{}`: an object without fields, as values of sets (`{"80/tcp": {}}`).
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Empty {}

/// A field that was left out or sent as `null` is Go's zero value.
pub(crate) fn unset<T: Default>(value: Option<T>) -> T {
    value.unwrap_or_default()
}

/// A field that is always written, also when it is zero.
pub(crate) const fn set<T>(value: T) -> Option<T> {
    Some(value)
}

/// A field that Docker writes as `null` (or leaves out) when it is empty.
pub(crate) fn none_if_empty<T: MaybeEmpty>(value: T) -> Option<T> {
    if value.is_nothing() { None } else { Some(value) }
}

pub(crate) trait MaybeEmpty {
    fn is_nothing(&self) -> bool;
}

impl MaybeEmpty for String {
    fn is_nothing(&self) -> bool {
        self.is_empty()
    }
}

impl<T> MaybeEmpty for Vec<T> {
    fn is_nothing(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> MaybeEmpty for BTreeMap<K, V> {
    fn is_nothing(&self) -> bool {
        self.is_empty()
    }
}

/// Docker's `[height, width]`; zero in both is "not known".
pub(crate) fn console_size(size: Option<[u32; 2]>) -> ApiResult<Option<engine::ConsoleSize>> {
    match size {
        None | Some([0, 0]) => Ok(None),
        Some([rows, cols]) => match (u16::try_from(rows), u16::try_from(cols)) {
            (Ok(rows), Ok(cols)) => Ok(Some(engine::ConsoleSize { rows, cols })),
            _ => Err(ApiError::invalid(format!("console size {rows}x{cols} is out of range: at most 65535 each"))),
        },
    }
}
