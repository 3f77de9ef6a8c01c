//! Of ops.proto and worker.proto: definitions (which we make and read back ourselves), platforms, places in a source file.

use std::collections::HashMap;

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Platform {
    #[prost(string, tag = "1")]
    pub(crate) architecture: String,
    #[prost(string, tag = "2")]
    pub(crate) os: String,
    #[prost(string, tag = "3")]
    pub(crate) variant: String,
}

/// A graph in BuildKit's own low-level language.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Definition {
    /// Each an [`Op`]; the last one has no operation and names the result.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) def: Vec<Vec<u8>>,
    #[prost(map = "string, message", tag = "2")]
    pub(crate) metadata: HashMap<String, OpMetadata>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OpMetadata {
    #[prost(map = "string, string", tag = "2")]
    pub(crate) description: HashMap<String, String>,
    #[prost(map = "string, bool", tag = "5")]
    pub(crate) caps: HashMap<String, bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Op {
    #[prost(message, repeated, tag = "1")]
    pub(crate) inputs: Vec<Input>,
    #[prost(oneof = "Operation", tags = "3")]
    pub(crate) operation: Option<Operation>,
    #[prost(message, optional, tag = "10")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Operation {
    #[prost(message, tag = "3")]
    Source(SourceOp),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Input {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) index: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SourceOp {
    #[prost(string, tag = "1")]
    pub(crate) identifier: String,
    #[prost(map = "string, string", tag = "2")]
    pub(crate) attrs: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SourceInfo {
    #[prost(string, tag = "1")]
    pub(crate) filename: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) data: Vec<u8>,
    #[prost(string, tag = "4")]
    pub(crate) language: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Range {
    #[prost(message, optional, tag = "1")]
    pub(crate) start: Option<Position>,
    #[prost(message, optional, tag = "2")]
    pub(crate) end: Option<Position>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Position {
    #[prost(int32, tag = "1")]
    pub(crate) line: i32,
    #[prost(int32, tag = "2")]
    pub(crate) character: i32,
}

/// moby.buildkit.v1.types.WorkerRecord
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Worker {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(map = "string, string", tag = "2")]
    pub(crate) labels: HashMap<String, String>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) platforms: Vec<Platform>,
    #[prost(message, optional, tag = "5")]
    pub(crate) version: Option<Version>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Version {
    #[prost(string, tag = "1")]
    pub(crate) package: String,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    #[prost(string, tag = "3")]
    pub(crate) revision: String,
}

/// moby.buildkit.v1.apicaps.APICap
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Cap {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(bool, tag = "2")]
    pub(crate) enabled: bool,
}
