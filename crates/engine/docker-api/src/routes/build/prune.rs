//! `POST /build/prune`: which part of the build cache goes.

use build::{CacheFilter, PrunePolicy};
use serde_json::json;

use super::refused;
use crate::http::error::{ApiError, ApiResult};
use crate::http::filters;
use crate::http::reply::{self, Reply};
use crate::router::Call;

const FILTERS: &[&str] = &[
    "until",
    "unused-for",
    "id",
    "parent",
    "type",
    "description",
    "inuse",
    "shared",
    "private",
    "mutable",
    "immutable",
    "label",
    "label!",
];

pub(crate) async fn prune(call: Call) -> ApiResult<Reply> {
    let filters = filters::parse(&call.query, FILTERS)?;
    let all = call.query.flag("all");
    // The newer name of the same.
    let keep = call.query.number::<u64>("reserved-space")?.or(call.query.number::<u64>("keep-storage")?);
    for limit in ["max-used-space", "min-free-space"] {
        if call.query.number::<u64>(limit)?.is_some_and(|bytes| bytes > 0) {
            return Err(ApiError::unsupported(format!("{limit} is not supported by this engine; use keep-storage")));
        }
    }
    let mut asked = engine::Filters::default();
    for text in filters.values("until").chain(filters.values("unused-for")) {
        asked.insert("until", text);
    }
    let until = engine::parse_until(&asked, jiff::Timestamp::now())?;
    let list = |name: &str| filters.values(name).map(str::to_owned).collect();
    let private = filters::boolean(&filters, "private")?;
    let filter = CacheFilter {
        ids: list("id"),
        parents: list("parent"),
        kinds: list("type"),
        descriptions: list("description"),
        in_use: filters::boolean(&filters, "inuse")?,
        shared: filters::boolean(&filters, "shared")?.or(private.map(|private| !private)),
    };
    if filters.values("label").next().is_some() {
        // `docker system prune --filter label=` says it to every kind of thing; no part of the cache has labels.
        return reply::ok(&json!({ "CachesDeleted": null, "SpaceReclaimed": 0 }));
    }
    let policy = PrunePolicy { all, keep_bytes: keep, unused_since: until, filter };
    call.buildkit.forget_results();
    let removed = call.builder.prune(policy).await.map_err(refused)?;
    let bytes: u64 = removed.iter().map(|entry| entry.record.bytes).sum();
    let keys: Vec<&str> = removed.iter().map(|entry| entry.key.as_str()).collect();
    let keys = if keys.is_empty() { None } else { Some(keys) };
    reply::ok(&json!({ "CachesDeleted": keys, "SpaceReclaimed": bytes }))
}
