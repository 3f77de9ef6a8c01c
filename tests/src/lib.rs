//! The harness of the black-box tests: starts the built program in a world of its own and takes that world down again.
//!
//! It never links the crates it tests: what it knows is what a user can see.
//!
//! ```no_run
//! let world = blackbox::World::start();
//! world.knarr(["run", "--rm", "busybox", "echo", "hello"]).success().stdout("hello\n");
//! ```
//!
//! The program is the one that `KNARR_BIN` names, else the debug build in this workspace's target folder.

mod answer;
pub mod image;
mod world;

pub use answer::Answer;
pub use world::{World, eventually, finish, finish_within, is_root, program};
