//! The networks that exist without anyone making them. Others come with networking.

use serde_json::{Value, json};

use crate::http::error::{ApiError, ApiResult};
use crate::http::filters;
use crate::http::reply::{self, Reply};
use crate::router::Call;

/// Name, driver, id. The ids are fixed: the networks are the same in every engine. `bridge` is what a container gets that
/// names none; it has no addresses to give yet.
const BUILT_IN: [(&str, &str, &str); 3] = [
    ("bridge", "bridge", "6272696467650000000000000000000000000000000000000000006b6e617272"),
    ("host", "host", "686f737400000000000000000000000000000000000000000000006b6e617272"),
    ("none", "null", "6e6f6e6500000000000000000000000000000000000000000000006b6e617272"),
];

fn view((name, driver, id): (&str, &str, &str), created: &str) -> Value {
    json!({
        "Name": name,
        "Id": id,
        "Created": created,
        "Scope": "local",
        "Driver": driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": null },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {},
        "Labels": {},
    })
}

pub(crate) fn list(call: &Call) -> ApiResult<Reply> {
    let filters = filters::parse(&call.query, &["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let matches =
        |key: &str, value: &str| !filters.has(key) || filters.values(key).any(|wanted| value.contains(wanted));
    let wanted = |(name, driver, id): &(&str, &str, &str)| {
        matches("name", name)
            && filters.allows("driver", driver)
            && (!filters.has("id") || filters.values("id").any(|prefix| id.starts_with(prefix)))
            && filters.allows("scope", "local")
            && filters.allows("type", "builtin")
            && !filters.has("label")
            && filters::boolean(&filters, "dangling").is_ok_and(|dangling| dangling != Some(true))
    };
    reply::ok(
        &BUILT_IN.into_iter().filter(wanted).map(|network| view(network, crate::wire::time::NEVER)).collect::<Vec<_>>(),
    )
}

pub(crate) fn inspect(_call: &Call, id: &str) -> ApiResult<Reply> {
    let found = BUILT_IN.into_iter().find(|(name, _, full)| *name == id || (id.len() >= 12 && full.starts_with(id)));
    match found {
        Some(network) => reply::ok(&view(network, crate::wire::time::NEVER)),
        None => Err(ApiError::not_found(format!("network {id} not found"))),
    }
}
