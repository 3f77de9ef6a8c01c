//! The runtime's command line alone, for trying it under other engines and for measuring.

use std::ffi::OsString;

fn main() {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let words = argv.get(1..).unwrap_or_default().to_vec();
    std::process::exit(i32::from(runtime::cli::main(argv, &words)));
}
