//! The engine on a real kernel: a keeper of its own, an image made of the host's busybox, containers that run.
//!
//! This program is the test, the keeper (`keeper ...`) and an engine that can be killed (`act <root> <run> <words>`).

use std::process::ExitCode;

#[path = "privileged/acts.rs"]
mod acts;
#[path = "privileged/cases.rs"]
mod cases;
#[path = "privileged/world.rs"]
mod world;

fn main() -> ExitCode {
    let words: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    match words.first().and_then(|word| word.to_str()) {
        Some("keeper") => keeper(words[1..].to_vec()),
        Some("act") => acts::main(&words[1..]),
        filter => cases::main(filter.filter(|word| !word.starts_with('-'))),
    }
}

fn keeper(words: Vec<std::ffi::OsString>) -> ExitCode {
    let token = linux::clone::SingleThreaded::new().expect("a keeper has one thread");
    let args = keeper::Args::parse(words).expect("the engine starts keepers with good arguments");
    match keeper::serve(&token, &args, &keeper::RuntimeLauncher) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}
