//! The roles that are not commands: engine, keeper and runtime, each wired to its crate.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::failure::Failure;
use crate::flags::Matches;
use crate::settings::Settings;

pub fn runtime(_words: Vec<OsString>) -> ExitCode {
    eprintln!("runc: this build has no runtime");
    ExitCode::FAILURE
}

pub fn keeper(_words: Vec<OsString>) -> ExitCode {
    eprintln!("keeper: this build has no keeper");
    ExitCode::FAILURE
}

pub fn engine(_settings: &Settings, _matches: &Matches) -> Result<u8, Failure> {
    Err("this build has no engine".into())
}
