//! What a caller can do about an error. Every crate's error maps to one of these; only the HTTP, gRPC and command-line
//! edges turn a kind into a status or exit code.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The thing named does not exist.
    NotFound,
    /// The thing exists already, or its state forbids what was asked.
    Conflict,
    /// The request itself is wrong; asking again will not help.
    Invalid,
    /// The state asked for is the state it already has (HTTP 304).
    NotModified,
    /// The caller may not do this.
    Forbidden,
    /// Disk, memory, descriptors or a configured limit ran out.
    Exhausted,
    /// What was asked for was kept for a while and is gone (a compacted revision, a token).
    Expired,
    /// This kernel or this build cannot do it.
    Unsupported,
    /// A peer or a part of ours did not answer; asking again may help.
    Unavailable,
    /// Our fault.
    Internal,
}
