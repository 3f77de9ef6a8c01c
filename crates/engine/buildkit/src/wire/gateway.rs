//! moby.buildkit.v1.frontend: what a build function at the client asks of us.

use std::collections::HashMap;

use prost::{Message, Oneof};

use super::{control, fsutil, pb, rpc};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Result {
    #[prost(oneof = "Refs", tags = "1, 3, 4")]
    pub(crate) refs: Option<Refs>,
    #[prost(map = "string, bytes", tag = "10")]
    pub(crate) metadata: HashMap<String, bytes::Bytes>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Refs {
    /// How older clients name one.
    #[prost(string, tag = "1")]
    Id(String),
    #[prost(message, tag = "3")]
    One(Ref),
    /// By platform.
    #[prost(message, tag = "4")]
    Several(RefMap),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ref {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) def: Option<pb::Definition>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RefMap {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) refs: HashMap<String, Ref>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReturnRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) result: Option<Result>,
    #[prost(message, optional, tag = "2")]
    pub(crate) error: Option<rpc::Status>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct InputsResponse {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) definitions: HashMap<String, pb::Definition>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResolveImageConfigRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) platform: Option<pb::Platform>,
    #[prost(string, tag = "3")]
    pub(crate) resolve_mode: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResolveImageConfigResponse {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) config: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(crate) reference: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SolveRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) definition: Option<pb::Definition>,
    #[prost(string, tag = "2")]
    pub(crate) frontend: String,
    #[prost(map = "string, string", tag = "3")]
    pub(crate) options: HashMap<String, String>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) cache_imports: Vec<control::CacheEntry>,
    #[prost(map = "string, message", tag = "13")]
    pub(crate) inputs: HashMap<String, pb::Definition>,
    #[prost(bool, tag = "14")]
    pub(crate) evaluate: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SolveResponse {
    #[prost(message, optional, tag = "3")]
    pub(crate) result: Option<Result>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReadFileRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(string, tag = "2")]
    pub(crate) path: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) range: Option<FileRange>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct FileRange {
    #[prost(int64, tag = "1")]
    pub(crate) offset: i64,
    #[prost(int64, tag = "2")]
    pub(crate) length: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReadFileResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReadDirRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(string, tag = "2")]
    pub(crate) path: String,
    #[prost(string, tag = "3")]
    pub(crate) include: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReadDirResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<fsutil::Stat>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatFileRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(string, tag = "2")]
    pub(crate) path: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatFileResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) stat: Option<fsutil::Stat>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EvaluateRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PongResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) frontend_caps: Vec<pb::Cap>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) llb_caps: Vec<pb::Cap>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) workers: Vec<pb::Worker>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WarnRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) level: i64,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) short: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(crate) detail: Vec<Vec<u8>>,
    #[prost(string, tag = "5")]
    pub(crate) url: String,
    #[prost(message, optional, tag = "6")]
    pub(crate) info: Option<pb::SourceInfo>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) ranges: Vec<pb::Range>,
}
