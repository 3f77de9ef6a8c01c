//! Errors as BuildKit's clients want them: a message, and in the details where in which text it happened, so that the client
//! can show the excerpt.

use std::sync::Arc;

use base64::Engine as _;
use build::BuildError;
use build::syntax::Span;
use prost::Message;
use serde_json::json;
use tonic::{Code, Status};

use crate::wire::rpc;

const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";

/// The text that a build follows.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) filename: String,
    pub(crate) text: Arc<str>,
}

impl Place {
    pub(crate) fn info(&self) -> crate::wire::pb::SourceInfo {
        crate::wire::pb::SourceInfo {
            filename: self.filename.clone(),
            data: self.text.as_bytes().to_vec(),
            language: "Dockerfile".into(),
        }
    }
}

/// A failed build in a client's words.
pub(crate) fn status_of(error: &BuildError, place: Option<&Place>) -> Status {
    let root = error.root();
    let code = match root {
        BuildError::Cancelled => return Status::cancelled("context canceled"),
        _ => Code::Unknown,
    };
    let status = Status::new(code, root.to_string());
    match (error.span(), place) {
        (Some(span), Some(place)) => located(status, place, span),
        _ => status,
    }
}

/// Adds where it happened.
pub(crate) fn located(status: Status, place: &Place, span: Span) -> Status {
    let value = json!({
        "info": {
            "filename": place.filename,
            "data": base64::engine::general_purpose::STANDARD.encode(place.text.as_bytes()),
            "language": "Dockerfile",
        },
        "ranges": [{ "start": { "line": span.first }, "end": { "line": span.last } }],
    });
    let detail = rpc::Any { type_url: SOURCE.into(), value: value.to_string().into_bytes() };
    of_wire(&rpc::Status { code: status.code() as i32, message: status.message().to_owned(), details: vec![detail] })
}

/// An error as it goes over the wire to an error as it is answered.
pub(crate) fn of_wire(status: &rpc::Status) -> Status {
    Status::with_details(Code::from_i32(status.code), status.message.clone(), status.encode_to_vec().into())
}

/// The other way.
pub(crate) fn to_wire(status: &Status) -> rpc::Status {
    rpc::Status::decode(status.details()).ok().filter(|told| told.code == status.code() as i32).unwrap_or_else(|| {
        rpc::Status { code: status.code() as i32, message: status.message().to_owned(), details: Vec::new() }
    })
}
