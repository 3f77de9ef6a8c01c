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
mod api_server;
mod cloud;
mod distribution;
mod git;
mod hosts;
pub mod image;
pub mod nftables;
pub mod plugin;
mod recorder;
mod stock;
pub mod traffic;
pub mod tree;
mod weakened;
pub mod web;
mod world;

pub use answer::Answer;
pub use api_server::ApiServer;
pub use cloud::Cloud;
pub use distribution::Registry;
pub use git::GitServer;
pub use hosts::{Agent, Etcd, Host, Lan, Server};
pub use recorder::Recorder;
pub use stock::StockEngine;
pub use traffic::{Traffic, fetch};
pub use tree::context;
pub use weakened::weakened;
pub use world::{World, eventually, finish, finish_within, has_docker, is_root, program};
