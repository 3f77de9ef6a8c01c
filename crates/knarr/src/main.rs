//! The program: one binary that is the engine, the keeper, an OCI runtime, and the command line.
//!
//! Which of them is decided before anything else happens: the keeper and the runtime clone processes, so no thread may
//! have started. Commands are thin clients of Docker's API. Start reading at `commands/mod.rs` for the command line and
//! at `daemon.rs` for the engine.

mod client;
mod cloud;
mod cluster_services;
mod commands;
mod control;
mod create;
mod credentials;
mod cri;
mod daemon;
mod docker_context;
mod failure;
mod flags;
mod kube;
mod node;
mod nodes;
mod pid_one;
mod plain;
mod pod_cidr;
mod registry;
mod scheduler_config;
mod server;
mod services;
mod settings;
mod show;
mod template;
mod text;
mod units;

use std::ffi::OsString;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: linux::memory::Allocator = linux::memory::Allocator;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    if std::path::Path::new(&name).file_name().is_some_and(|name| name == "runc") {
        return daemon::runtime(words);
    }
    if std::path::Path::new(&name).file_name().is_some_and(|name| name == "docker-init") {
        return pid_one::main(&words);
    }
    match words.first().and_then(|word| word.to_str()) {
        Some("runtime") => return daemon::runtime(words[1..].to_vec()),
        Some("keeper") => return daemon::keeper(words[1..].to_vec()),
        Some("resolver") => return daemon::resolver(words[1..].to_vec()),
        Some("server") => return server::main(&words[1..]),
        _ => {}
    }
    commands::main(words)
}
