//! HTTP as Docker speaks it, without any of Docker's nouns: versions, queries, filters, bodies, takeovers, refusals.

pub(crate) mod body;
pub(crate) mod error;
pub(crate) mod filters;
pub(crate) mod handshake;
pub(crate) mod hijack;
pub(crate) mod query;
pub(crate) mod reply;
pub(crate) mod version;
