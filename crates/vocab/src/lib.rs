//! Words that both hulls use. Values only: nothing here touches the outside world, except that a crash point
//! may end the process when a test asks for it.

pub mod crash;
mod digest;
mod kind;
pub mod quantity;
mod reference;

pub use digest::{Digest, DigestError};
pub use kind::ErrorKind;
pub use reference::{Reference, ReferenceError};
