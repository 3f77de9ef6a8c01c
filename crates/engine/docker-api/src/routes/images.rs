//! Images: lists, names, archives in and out, commit.

use std::ops::ControlFlow;

use http::StatusCode;
use hyper::body::Body as _;
use serde_json::json;

use super::system::append_line;
use super::{containers, registries, to_the_end};
use crate::http::body::{Body, feed};
use crate::http::error::{ApiError, ApiResult};
use crate::http::filters;
use crate::http::reply::{self, Reply};
use crate::router::Call;
use crate::wire::config::Config;
use crate::wire::image::{History, Inspect, Progress, Removal, Summary};

pub(crate) async fn list(call: Call) -> ApiResult<Reply> {
    let known = ["before", "dangling", "label", "reference", "since", "until"];
    let options = engine::ImageListOptions {
        all: call.query.flag("all"),
        shared_size: call.query.flag("shared-size"),
        filters: filters::parse(&call.query, &known)?,
    };
    let images = call.engine.image_list(options).await?;
    reply::ok(&images.into_iter().map(|image| Summary::from_model(image, call.version, false)).collect::<Vec<_>>())
}

pub(crate) async fn inspect(call: Call, name: &str) -> ApiResult<Reply> {
    refuse_platform(&call)?;
    reply::ok(&Inspect::from_model(call.engine.image_inspect(name).await?, call.version))
}

pub(crate) async fn history(call: Call, name: &str) -> ApiResult<Reply> {
    refuse_platform(&call)?;
    let entries = call.engine.image_history(name).await?;
    reply::ok(&entries.into_iter().map(History::from_model).collect::<Vec<_>>())
}

/// An image here has one platform: which one of several to take is no question that this store can answer.
fn refuse_platform(call: &Call) -> ApiResult<()> {
    match call.query.text("platform") {
        None => Ok(()),
        Some(_) => Err(ApiError::unsupported(
            "choosing one platform of a multi-platform image is not supported: one platform of each image is kept",
        )),
    }
}

/// `repo` and `tag` (or `repo` alone, or a digest as the tag) as one reference.
fn joined_reference(call: &Call, tag_name: &str) -> Option<String> {
    let repository = call.query.text("repo")?;
    Some(match call.query.text(tag_name) {
        None => repository.to_owned(),
        Some(digest) if digest.contains(':') => format!("{repository}@{digest}"),
        Some(tag) => format!("{repository}:{tag}"),
    })
}

pub(crate) async fn tag(call: Call, name: &str) -> ApiResult<Reply> {
    let target =
        joined_reference(&call, "tag").ok_or_else(|| ApiError::invalid("repository name must not be empty"))?;
    let (engine, name) = (call.engine, name.to_owned());
    to_the_end(async move { engine.image_tag(&name, &target).await }).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

pub(crate) async fn remove(call: Call, name: &str) -> ApiResult<Reply> {
    if call.query.get("platforms").is_some() {
        refuse_platform(&call)?;
        return Err(ApiError::unsupported(
            "removing one platform of an image is not supported: one platform of each image is kept",
        ));
    }
    let (force, no_prune) = (call.query.flag("force"), call.query.flag("noprune"));
    let (engine, name) = (call.engine, name.to_owned());
    let removed = to_the_end(async move { engine.image_remove(&name, force, no_prune).await }).await?;
    reply::ok(&removed.into_iter().map(Removal::from_model).collect::<Vec<_>>())
}

pub(crate) async fn prune(call: Call) -> ApiResult<Reply> {
    let filters = filters::parse(&call.query, &["dangling", "label", "label!", "until"])?;
    let engine = call.engine;
    let pruned = to_the_end(async move { engine.image_prune(&filters).await }).await?;
    let removed = pruned.removed.into_iter().map(Removal::from_model).collect::<Vec<_>>();
    let removed = if removed.is_empty() { None } else { Some(removed) };
    reply::ok(&json!({ "ImagesDeleted": removed, "SpaceReclaimed": pruned.space_reclaimed_bytes }))
}

pub(crate) async fn save(call: Call, name: &str) -> ApiResult<Reply> {
    save_all(call, vec![name.to_owned()]).await
}

pub(crate) async fn save_several(call: Call) -> ApiResult<Reply> {
    let names: Vec<String> = call.query.all("names").filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(ApiError::invalid("name the images to save: names is empty"));
    }
    save_all(call, names).await
}

async fn save_all(call: Call, names: Vec<String>) -> ApiResult<Reply> {
    refuse_platform(&call)?;
    let archive = call.engine.image_save(&names).await?;
    Ok(reply::with_type(StatusCode::OK, reply::TAR, Body::Bytes(archive)))
}

/// An error before the first progress message is a status, as in Docker; after it the stream says it.
pub(crate) async fn load(call: Call) -> ApiResult<Reply> {
    refuse_platform(&call)?;
    let quiet = call.query.flag_or("quiet", true);
    let body = feed(call.request.into_body());
    let mut progress = call.engine.image_load(body).await?;
    let Some(first) = progress.next().await.transpose()? else {
        return Ok(reply::with_type(StatusCode::OK, reply::JSON, Body::Empty));
    };
    let encode = move |item: engine::Result<engine::LoadProgress>, out: &mut Vec<u8>| match item {
        Ok(engine::LoadProgress::Layer { .. }) if quiet => ControlFlow::Continue(()),
        Ok(item) => append_line(out, &Progress::from_load(item)),
        Err(error) => {
            let _ = append_line(out, &Progress::error(error.to_string()));
            ControlFlow::Break(())
        }
    };
    let mut head = Vec::new();
    let _ = encode(Ok(first), &mut head);
    Ok(reply::with_type(StatusCode::OK, reply::JSON, Body::encoded(progress, encode).after(head.into())))
}

/// `fromSrc` imports a root file system; `fromImage` pulls.
pub(crate) async fn create(call: Call) -> ApiResult<Reply> {
    if call.query.text("fromImage").is_some() {
        return registries::pull(call).await;
    }
    let Some(source) = call.query.text("fromSrc") else {
        return Err(ApiError::invalid("name what to make the image of: fromImage and fromSrc are empty"));
    };
    if source != "-" {
        return Err(ApiError::unsupported(
            "import from a URL is not supported: send the archive as the request's body",
        ));
    }
    if call.request.body().is_end_stream() {
        return Err(ApiError::invalid("the request has no body: an archive was expected"));
    }
    let request = engine::ImportRequest {
        reference: joined_reference(&call, "tag"),
        message: call.query.get("message").unwrap_or_default().to_owned(),
        changes: call.query.all("changes").map(str::to_owned).collect(),
        platform: call.query.text("platform").map(str::to_owned),
    };
    let body = feed(call.request.into_body());
    let engine = call.engine;
    let id = to_the_end(async move { engine.image_import(request, body).await }).await?;
    reply::ok(&Progress::status(id.to_string()))
}

pub(crate) async fn commit(mut call: Call) -> ApiResult<Reply> {
    let container = call.query.text("container").map(str::to_owned);
    let container = container.ok_or_else(|| ApiError::invalid("name the container to commit: container is empty"))?;
    let config = containers::read_optional::<Config>(&mut call).await?;
    let request = engine::CommitRequest {
        reference: joined_reference(&call, "tag"),
        comment: call.query.get("comment").unwrap_or_default().to_owned(),
        author: call.query.get("author").unwrap_or_default().to_owned(),
        pause: call.query.text("pause").is_none() || call.query.flag("pause"),
        changes: call.query.all("changes").map(str::to_owned).collect(),
        config: config.map(Config::into_model).transpose()?,
    };
    let engine = call.engine;
    let id = to_the_end(async move { engine.commit(&container, request).await }).await?;
    reply::json(StatusCode::CREATED, &json!({ "Id": id.to_string() }))
}
