//! As much of SPDY/3.1 as Kubernetes' streams need: whoever has opened the connection opens streams with a few headers, both sides
//! send data and close their halves.
//!
//! * `frame` — bytes in, frames out and back, with limits (pure)
//! * `headers` — names and values in compressed blocks (pure)
//! * `connection` — the streams of one connection as channels
//!
//! Windows are not kept: no client of Kubernetes sends or awaits their updates. Who reads slowly holds up the connection.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub use connection::{Connection, Gone, Opener, Reader, Stream, Writer, dial, serve};
pub use frame::{Decoder, Encoder, Error, Frame};
pub use headers::Headers;
