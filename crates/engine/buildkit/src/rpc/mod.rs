//! gRPC over connections that somebody else opened: as the server on `/grpc`, as the client on `/session`.

mod client;

pub(crate) use client::Channel;
pub(crate) use grpc::{Answer, MESSAGE_BYTES_MAX, serve, server_stream, streams, unary, unimplemented};
