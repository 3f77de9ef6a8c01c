//! Volumes that containers brought into being. Making and removing them by hand comes later.

use serde_json::json;

use crate::http::error::{ApiError, ApiResult};
use crate::http::filters;
use crate::http::reply::{self, Reply};
use crate::router::Call;
use crate::wire::info;

pub(crate) async fn list(call: Call) -> ApiResult<Reply> {
    let filters = filters::parse(&call.query, &["dangling", "driver", "label", "name"])?;
    let dangling = filters::boolean(&filters, "dangling")?;
    let volumes = call.engine.disk_usage().await?.volumes.into_iter().filter(|volume| {
        (!filters.has("name") || filters.values("name").any(|part| volume.name.contains(part)))
            && filters.allows("driver", &volume.driver)
            && filters.allows_labels("label", &volume.labels)
            && dangling.is_none_or(|dangling| dangling == (volume.used_by == 0))
    });
    let shown =
        volumes.map(|volume| info::volume(engine::VolumeView { size_bytes: None, ..volume })).collect::<Vec<_>>();
    reply::ok(&json!({ "Volumes": shown, "Warnings": null }))
}

pub(crate) async fn inspect(call: Call, name: &str) -> ApiResult<Reply> {
    let volumes = call.engine.disk_usage().await?.volumes;
    match volumes.into_iter().find(|volume| volume.name == name) {
        Some(volume) => reply::ok(&info::volume(engine::VolumeView { size_bytes: None, ..volume })),
        None => Err(ApiError::not_found(format!("get {name}: no such volume"))),
    }
}
