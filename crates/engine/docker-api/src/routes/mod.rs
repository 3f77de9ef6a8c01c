//! The handlers. Each reads its request, calls the engine once or twice, and writes the answer.

pub(crate) mod attach;
pub(crate) mod build;
pub(crate) mod buildkit;
pub(crate) mod containers;
pub(crate) mod elsewhere;
pub(crate) mod execs;
pub(crate) mod files;
pub(crate) mod images;
pub(crate) mod networks;
pub(crate) mod registries;
pub(crate) mod system;
pub(crate) mod volumes;

use crate::http::error::{ApiError, ApiResult};

/// Runs a change to its end even if the client goes away meanwhile: a handler is dropped with its connection, and half
/// a create or stop is nobody's wish.
pub(crate) async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = engine::Result<T>> + Send + 'static,
) -> ApiResult<T> {
    match tokio::spawn(change).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(ApiError::internal(format!("the request was cut short: {error}"))),
    }
}
