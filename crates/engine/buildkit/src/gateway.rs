//! LLBBridge: what a build function at the client asks while its solve waits for it.

use std::collections::HashMap;
use std::sync::Arc;

use build::plan::Bases;
use tonic::Status;

use crate::caps;
use crate::frontend::{self, SessionBases};
use crate::kit::Kit;
use crate::results;
use crate::solve::Solve;
use crate::target::Target;
use crate::view::View;
use crate::wire::gateway as wire;
use crate::wire::rpc::Empty;

pub(crate) async fn ping(kit: Kit, build: String) -> Result<wire::PongResponse, Status> {
    kit.solves.get(&build).await?;
    Ok(wire::PongResponse {
        frontend_caps: caps::frontend(),
        llb_caps: caps::builder(),
        workers: vec![caps::worker(&kit)],
    })
}

pub(crate) async fn solve(kit: Kit, build: String, request: wire::SolveRequest) -> Result<wire::SolveResponse, Status> {
    let solve = kit.solves.get(&build).await?;
    let empty = request.definition.as_ref().is_none_or(|definition| definition.def.is_empty());
    if request.frontend.is_empty() {
        if empty {
            // Nothing asked for is nothing to be had.
            return Ok(wire::SolveResponse { result: Some(wire::Result::default()) });
        }
        return Err(Status::unimplemented("a graph of the client's own: this builder builds Dockerfiles only"));
    }
    if let Some(metadata) = request.options.get("requestid").and_then(|question| frontend::describe(question)) {
        return Ok(wire::SolveResponse { result: Some(wire::Result { refs: None, metadata }) });
    }
    let (options, inputs, imports) = (&request.options, &request.inputs, &request.cache_imports);
    let targets = solve.open(&kit, &request.frontend, options, inputs, imports).await?;
    if let Some(target) = targets.first()
        && let Some(question) = &target.asked.request
    {
        let metadata = frontend::answer(question, &target.prepared)?;
        return Ok(wire::SolveResponse { result: Some(wire::Result { refs: None, metadata }) });
    }
    if request.evaluate {
        futures_util::future::try_join_all(targets.iter().map(|target| target.built())).await?;
    }
    let mut metadata = HashMap::new();
    let mut refs = Vec::new();
    for target in &targets {
        kit.results.keep(target);
        let config = serde_json::to_vec(&target.prepared.graph.config);
        let config = config.map_err(|error| Status::internal(error.to_string()))?;
        let key = match targets.len() {
            1 => "containerimage.config".to_owned(),
            _ => format!("containerimage.config/{}", target.platform()),
        };
        metadata.insert(key, config.into());
        refs.push(wire::Ref { id: target.id.clone(), def: Some(results::definition(target)) });
    }
    let refs = match refs.len() {
        1 => refs.pop().map(wire::Refs::One),
        _ => {
            metadata.insert("refs.platforms".to_owned(), platforms(&targets).to_string().into());
            let refs = targets.iter().map(|target| target.platform()).zip(refs).collect();
            Some(wire::Refs::Several(wire::RefMap { refs }))
        }
    };
    Ok(wire::SolveResponse { result: Some(wire::Result { refs, metadata }) })
}

/// Which result is for which platform.
fn platforms(targets: &[Arc<Target>]) -> serde_json::Value {
    let each = targets.iter().map(|target| {
        let platform = target.asked.platforms.first().cloned().unwrap_or_else(image::Platform::host);
        let mut told = serde_json::json!({ "architecture": platform.architecture, "os": platform.os });
        if !platform.variant.is_empty() {
            told["variant"] = platform.variant.clone().into();
        }
        serde_json::json!({ "ID": platform.to_string(), "Platform": told })
    });
    serde_json::json!({ "Platforms": each.collect::<Vec<_>>() })
}

pub(crate) async fn finish(kit: Kit, build: String, request: wire::ReturnRequest) -> Result<Empty, Status> {
    kit.solves.get(&build).await?.finish(request)?;
    Ok(Empty {})
}

pub(crate) async fn evaluate(kit: Kit, build: String, request: wire::EvaluateRequest) -> Result<Empty, Status> {
    let solve: Arc<Solve> = kit.solves.get(&build).await?;
    solve.target(&request.reference)?.built().await?;
    Ok(Empty {})
}

pub(crate) async fn inputs(kit: Kit, build: String) -> Result<wire::InputsResponse, Status> {
    let solve = kit.solves.get(&build).await?;
    Ok(wire::InputsResponse { definitions: solve.request.frontend_inputs.clone() })
}

pub(crate) async fn warn(kit: Kit, build: String, request: wire::WarnRequest) -> Result<Empty, Status> {
    let solve = kit.solves.get(&build).await?;
    solve.progress.warn(crate::wire::control::VertexWarning {
        vertex: request.digest,
        level: request.level,
        short: request.short,
        detail: request.detail,
        url: request.url,
        info: request.info,
        ranges: request.ranges,
    });
    Ok(Empty {})
}

pub(crate) async fn read_file(
    kit: Kit,
    build: String,
    request: wire::ReadFileRequest,
) -> Result<wire::ReadFileResponse, Status> {
    let range = request.range.unwrap_or_default();
    let (offset, length) = (range.offset.max(0) as u64, range.length.max(0) as u64);
    let data = look(&kit, &build, &request.reference, move |view| view.read(&request.path, offset, length)).await?;
    Ok(wire::ReadFileResponse { data })
}

pub(crate) async fn read_dir(
    kit: Kit,
    build: String,
    request: wire::ReadDirRequest,
) -> Result<wire::ReadDirResponse, Status> {
    let include = match request.include.as_str() {
        "" => None,
        pattern => Some(build::Patterns::of([pattern]).map_err(Status::invalid_argument)?),
    };
    let mut entries = look(&kit, &build, &request.reference, move |view| view.list(&request.path)).await?;
    // What a pattern would leave out of a context is what is asked for here.
    entries.retain(|entry| include.as_ref().is_none_or(|wanted| wanted.excludes(&entry.path)));
    Ok(wire::ReadDirResponse { entries })
}

pub(crate) async fn stat_file(
    kit: Kit,
    build: String,
    request: wire::StatFileRequest,
) -> Result<wire::StatFileResponse, Status> {
    let stat = look(&kit, &build, &request.reference, move |view| view.stat(&request.path)).await?;
    Ok(wire::StatFileResponse { stat: Some(stat) })
}

/// Looks into what a target is, building it if need be.
async fn look<T, F>(kit: &Kit, build: &str, reference: &str, look: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce(&View) -> Result<T, Status> + Send + 'static,
{
    let solve = kit.solves.get(build).await?;
    let built = solve.target(reference)?.built().await?;
    let kit = kit.clone();
    let looked = tokio::task::spawn_blocking(move || look(&View::open(&kit, &built)?)).await;
    looked.map_err(|error| Status::internal(error.to_string()))?
}

/// What an image's configuration is.
pub(crate) async fn resolve_image(
    kit: Kit,
    build: String,
    request: wire::ResolveImageConfigRequest,
) -> Result<wire::ResolveImageConfigResponse, Status> {
    let solve = kit.solves.get(&build).await?;
    let session = solve.session(&kit).await?;
    let platform = request.platform.map_or_else(image::Platform::host, |p| image::Platform {
        os: p.os,
        architecture: p.architecture,
        variant: p.variant,
    });
    let bases = SessionBases::new(&kit, &session, &solve.progress, request.resolve_mode == "pull", Default::default());
    let reference = request.reference;
    let resolved = tokio::task::spawn_blocking(move || {
        let base = bases.resolve(&reference, &platform).map_err(Status::unknown)?;
        let facts = kit.builder.engine().store().inspect(&base.id.to_string());
        let facts = facts.map_err(|error| Status::unknown(error.to_string()))?;
        Ok(wire::ResolveImageConfigResponse { digest: base.id.to_string(), config: facts.config_bytes, reference })
    })
    .await;
    resolved.map_err(|error| Status::internal(error.to_string()))?
}
