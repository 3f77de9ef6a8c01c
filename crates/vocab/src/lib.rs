//! Words that both hulls use. Values only: nothing here touches the outside world, except that a crash point
//! may end the process when a test asks for it, and that `world` reads the clock.

pub mod crash;
mod digest;
pub mod dns;
pub mod duration;
mod kind;
pub mod quantity;
mod reference;
pub mod weak;
pub mod world;

pub use digest::{Digest, DigestError};
pub use kind::ErrorKind;
pub use reference::{Reference, ReferenceError};
