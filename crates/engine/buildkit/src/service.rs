//! Which function answers which method.

use http::Request;
use hyper::body::Incoming;

use crate::kit::Kit;
use crate::rpc::{Answer, server_stream, streams, unary, unimplemented};
use crate::session::SessionOffer;
use crate::wire::rpc::{Empty, Health, SERVING};
use crate::{control, gateway, solve};

/// Names the solve that a gateway's call belongs to.
const BUILD_ID: &str = "buildkit-controlapi-buildid";

pub(crate) async fn answer(kit: Kit, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    tracing::debug!(path, "build request");
    let build = request.headers().get(BUILD_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let Some((service, method)) = path.trim_start_matches('/').split_once('/') else { return unimplemented(&path) };
    match (service, method) {
        ("moby.buildkit.v1.Control", method) => match method {
            "Solve" => unary(request, |asked| solve::solve(kit, asked)).await,
            "Status" => server_stream(request, |asked| control::status(kit, asked)).await,
            "ListWorkers" => unary(request, |_: Empty| async move { Ok(control::workers(&kit)) }).await,
            "Info" => unary(request, |_: Empty| async move { Ok(control::info()) }).await,
            "Session" => match SessionOffer::of_headers(request.headers()) {
                Ok(offer) => streams(request, |pieces| control::session(kit, offer, pieces)).await,
                Err(error) => tonic::Status::invalid_argument(error).into_http(),
            },
            "DiskUsage" => unary(request, |asked| control::disk_usage(kit, asked)).await,
            "Prune" => server_stream(request, |asked| control::prune(kit, asked)).await,
            "ListenBuildHistory" => server_stream(request, |asked| control::listen_history(kit, asked)).await,
            "UpdateBuildHistory" => unary(request, |asked| control::update_history(kit, asked)).await,
            _ => unimplemented(&path),
        },
        ("moby.buildkit.v1.frontend.LLBBridge", method) => match method {
            "Ping" => unary(request, |_: Empty| gateway::ping(kit, build)).await,
            "Solve" => unary(request, |asked| gateway::solve(kit, build, asked)).await,
            "Return" => unary(request, |asked| gateway::finish(kit, build, asked)).await,
            "Evaluate" => unary(request, |asked| gateway::evaluate(kit, build, asked)).await,
            "Inputs" => unary(request, |_: Empty| gateway::inputs(kit, build)).await,
            "ReadFile" => unary(request, |asked| gateway::read_file(kit, build, asked)).await,
            "ReadDir" => unary(request, |asked| gateway::read_dir(kit, build, asked)).await,
            "StatFile" => unary(request, |asked| gateway::stat_file(kit, build, asked)).await,
            "ResolveImageConfig" => unary(request, |asked| gateway::resolve_image(kit, build, asked)).await,
            "Warn" => unary(request, |asked| gateway::warn(kit, build, asked)).await,
            _ => unimplemented(&path),
        },
        ("grpc.health.v1.Health", "Check") => unary(request, |_: Empty| async { Ok(Health { status: SERVING }) }).await,
        _ => unimplemented(&path),
    }
}
