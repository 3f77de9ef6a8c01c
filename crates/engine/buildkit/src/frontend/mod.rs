//! The Dockerfile frontend: what `dockerfile.v0` (and `gateway.v0` with a Dockerfile image, which is answered by the same)
//! is asked, and the graph that comes out.
//!
//! * `attrs` — attributes to options (pure)
//! * `load` — the Dockerfile, `.dockerignore` and contexts from the client
//! * `bases` — base images, with the client's credentials; `layouts` — images in a folder of the client
//! * `questions` — what is answered instead of a build

mod attrs;
mod bases;
mod layouts;
mod load;
mod questions;

pub(crate) use attrs::{Asked, Remote};
pub(crate) use bases::{SessionBases, credentials};
pub(crate) use load::{Prepared, contexts, prepare};
pub(crate) use questions::{answer, describe};
