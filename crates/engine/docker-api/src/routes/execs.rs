//! Further processes in running containers.

use http::StatusCode;
use serde_json::json;

use super::{attach, containers, to_the_end};
use crate::http::body::read_json;
use crate::http::error::{ApiError, ApiResult};
use crate::http::hijack;
use crate::http::reply::{self, Reply};
use crate::router::Call;
use crate::wire::config::{ExecBody, ExecStartBody};
use crate::wire::container::ExecInspect;

pub(crate) async fn create(call: Call, id: &str) -> ApiResult<Reply> {
    let (parts, body) = call.request.into_parts();
    let config = read_json::<ExecBody>(&parts.headers, body).await?.into_model()?;
    attach::DetachKeys::parse(&config.detach_keys)?;
    let (engine, id) = (call.engine, id.to_owned());
    let exec = to_the_end(async move { engine.exec_create(&id, config).await }).await?;
    reply::json(StatusCode::CREATED, &json!({ "Id": exec.to_string() }))
}

pub(crate) async fn inspect(call: Call, id: &str) -> ApiResult<Reply> {
    reply::ok(&ExecInspect::from_model(call.engine.exec_inspect(id).await?))
}

pub(crate) async fn resize(call: Call, id: &str) -> ApiResult<Reply> {
    call.engine.exec_resize(id, containers::console_size(&call.query)?).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn start(mut call: Call, id: &str) -> ApiResult<Reply> {
    let options = containers::read_optional::<ExecStartBody>(&mut call).await?.unwrap_or_default().into_model()?;
    let detach = options.detach;
    let exec = call.engine.exec_inspect(id).await?;
    let keys = attach::DetachKeys::parse(&exec.config.detach_keys)?;
    if !detach && exec.pid == 0 && exec.exit_code.is_none() && hijack::wanted(call.request.headers()) {
        // Refused before the takeover, if it is refused at all.
        call.engine.exec_check(id).await?;
        return Ok(attach::take_over_and_start(call, id.to_owned(), options, exec.config.tty, keys));
    }
    let (engine, owned) = (call.engine.clone(), id.to_owned());
    let started = match tokio::spawn(async move { engine.exec_start(&owned, options).await }).await {
        Ok(started) => started,
        Err(error) => return Err(ApiError::internal(format!("the request was cut short: {error}"))),
    };
    match started {
        Ok(Some(attached)) => {
            let owner = attach::Owner::Exec(call.engine.clone(), id.to_owned());
            attach::take_over(call, attached, owner, keys)
        }
        Ok(None) => Ok(reply::empty(StatusCode::OK)),
        // Docker's clients expect the reason as output; the exit code tells them the rest.
        Err(engine::Error::Start { message, .. }) if !detach => {
            Ok(attach::output_as_text(exec.config.tty, format!("{message}\r\n")))
        }
        Err(error) => Err(error.into()),
    }
}
