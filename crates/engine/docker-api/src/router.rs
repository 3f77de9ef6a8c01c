//! Which handler answers a method and a path.
//!
//! Names of images may hold slashes, so those paths are read from both ends. A known path with a wrong method is
//! answered like an unknown path, as Docker does.

use build::Builder;
use buildkit::Kit;
use engine::Engine;
use http::Request;
use hyper::body::Incoming;

use crate::http::error::{ApiError, ApiResult};
use crate::http::query::{self, Plus, Query};
use crate::http::reply::Reply;
use crate::http::version::{self, ApiVersion};
use crate::routes::{
    attach, build as builds, buildkit as buildkit_doors, containers, elsewhere, execs, files, images, networks,
    registries, system, volumes,
};

/// What requests are answered with.
#[derive(Debug, Clone)]
pub struct Doors {
    pub engine: Engine,
    pub builder: Builder,
    pub buildkit: Kit,
}

/// One request on its way to its handler.
pub(crate) struct Call {
    pub(crate) engine: Engine,
    pub(crate) builder: Builder,
    pub(crate) buildkit: Kit,
    pub(crate) version: ApiVersion,
    pub(crate) query: Query,
    pub(crate) request: Request<Incoming>,
}

pub(crate) async fn route(doors: Doors, request: Request<Incoming>) -> ApiResult<Reply> {
    let path = query::decode(request.uri().path(), Plus::IsPlus)?;
    let (version, path) = version::split(&path)?;
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    let method = request.method().clone();
    let Doors { engine, builder, buildkit } = doors;
    let call = Call { engine, builder, buildkit, version, query, request };
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method.as_str(), segments.as_slice()) {
        ("GET" | "HEAD", ["_ping"]) => Ok(system::ping(&method)),
        ("GET", ["version"]) => system::version(call).await,
        ("GET", ["info"]) => system::info(call).await,
        // Not Docker's: what the records and the machine do not agree on.
        ("GET", ["knarr", "doctor"]) => system::doctor(call).await,
        ("GET", ["events"]) => system::events(call).await,
        ("GET", ["system", "df"]) => system::disk_usage(call).await,

        ("GET", ["containers", "json"]) => containers::list(call).await,
        ("POST", ["containers", "create"]) => containers::create(call).await,
        ("POST", ["containers", "prune"]) => containers::prune(call).await,
        ("DELETE", ["containers", id]) => containers::remove(call, id).await,
        ("HEAD", ["containers", id, "archive"]) => files::stat(call, id).await,
        ("GET", ["containers", id, "attach", "ws"]) => attach::websocket(call, id).await,
        ("GET", ["containers", id, action]) => match *action {
            "json" => containers::inspect(call, id).await,
            "top" => containers::top(call, id).await,
            "logs" => containers::logs(call, id).await,
            "stats" => containers::stats(call, id).await,
            "changes" => files::changes(call, id).await,
            "export" => files::export(call, id).await,
            "archive" => files::get(call, id).await,
            _ => Err(ApiError::page_not_found()),
        },
        ("PUT", ["containers", id, "archive"]) => files::put(call, id).await,
        ("POST", ["containers", id, action]) => match *action {
            "start" => containers::start(call, id).await,
            "stop" => containers::stop(call, id).await,
            "restart" => containers::restart(call, id).await,
            "kill" => containers::kill(call, id).await,
            "pause" => containers::pause(call, id).await,
            "unpause" => containers::unpause(call, id).await,
            "rename" => containers::rename(call, id).await,
            "update" => containers::update(call, id).await,
            "wait" => containers::wait(call, id).await,
            "resize" => containers::resize(call, id).await,
            "attach" => attach::attach(call, id).await,
            "exec" => execs::create(call, id).await,
            "checkpoints" => Err(elsewhere::checkpoints()),
            _ => Err(ApiError::page_not_found()),
        },

        ("GET", ["exec", id, "json"]) => execs::inspect(call, id).await,
        ("POST", ["exec", id, "start"]) => execs::start(call, id).await,
        ("POST", ["exec", id, "resize"]) => execs::resize(call, id).await,

        ("GET", ["images", "json"]) => images::list(call).await,
        ("GET", ["images", "get"]) => images::save_several(call).await,
        ("GET", ["images", "search"]) => registries::search(call).await,
        ("POST", ["images", "create"]) => images::create(call).await,
        ("POST", ["images", "load"]) => images::load(call).await,
        ("POST", ["images", "prune"]) => images::prune(call).await,
        ("GET", ["images", name @ .., "json"]) if !name.is_empty() => images::inspect(call, &name.join("/")).await,
        ("GET", ["images", name @ .., "history"]) if !name.is_empty() => images::history(call, &name.join("/")).await,
        ("GET", ["images", name @ .., "get"]) if !name.is_empty() => images::save(call, &name.join("/")).await,
        ("POST", ["images", name @ .., "tag"]) if !name.is_empty() => images::tag(call, &name.join("/")).await,
        ("POST", ["images", name @ .., "push"]) if !name.is_empty() => registries::push(call, &name.join("/")).await,
        ("DELETE", ["images", name @ ..]) if !name.is_empty() => images::remove(call, &name.join("/")).await,
        ("POST", ["auth"]) => registries::login(call).await,
        ("GET", ["distribution", name @ .., "json"]) if !name.is_empty() => {
            registries::distribution(call, &name.join("/")).await
        }
        ("POST", ["commit"]) => images::commit(call).await,

        ("POST", ["build"]) => builds::build(call).await,
        // Not Docker's: a folder for a build, of which only what has changed is sent.
        ("POST", ["build", "context"]) => buildkit_doors::context(call),
        ("POST", ["build", "prune"]) => builds::prune(call).await,
        ("POST", ["grpc"]) => buildkit_doors::grpc(call),
        ("POST", ["session"]) => buildkit_doors::session(call),

        ("GET", ["networks"]) => networks::list(call).await,
        ("POST", ["networks", "create"]) => networks::create(call).await,
        ("POST", ["networks", "prune"]) => networks::prune(call).await,
        ("GET", ["networks", id]) => networks::inspect(call, id).await,
        ("DELETE", ["networks", id]) => networks::remove(call, id).await,
        ("POST", ["networks", id, "connect"]) => networks::connect(call, id).await,
        ("POST", ["networks", id, "disconnect"]) => networks::disconnect(call, id).await,
        ("GET", ["volumes"]) => volumes::list(call).await,
        ("POST", ["volumes", "create"]) => volumes::create(call).await,
        ("POST", ["volumes", "prune"]) => volumes::prune(call).await,
        ("GET", ["volumes", name]) => volumes::inspect(call, name).await,
        ("PUT", ["volumes", name]) => volumes::update(call, name).await,
        ("DELETE", ["volumes", name]) => volumes::remove(call, name).await,
        // Not Docker's either: a volume as a tar.
        ("GET", ["knarr", "volumes", name, "archive"]) => volumes::export(call, name).await,
        ("PUT", ["knarr", "volumes", name, "archive"]) => volumes::import(call, name).await,

        (_, ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..]) => {
            Err(elsewhere::swarm(&method, &segments))
        }
        _ => elsewhere::rest(&method, &segments),
    }
}
