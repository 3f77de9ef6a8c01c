//! Real containers from real bundles. Needs root and a static busybox. This program is also the runtime that it tests: called with
//! `--runc` first it is the command line.

#[path = "privileged/attacks.rs"]
mod attacks;
#[path = "privileged/bundle.rs"]
mod bundle;
#[path = "privileged/faults.rs"]
mod faults;
#[path = "privileged/features.rs"]
mod features;
#[path = "privileged/lifecycle.rs"]
mod lifecycle;
#[path = "privileged/security.rs"]
mod security;

use std::ffi::OsString;

type Test = (&'static str, fn());

fn main() {
    let argv: Vec<OsString> = std::env::args_os().collect();
    if argv.get(1).is_some_and(|word| word == "--runc") {
        std::process::exit(runtime::cli::main(argv.clone(), &argv[2..]).into());
    }
    // What this program is beside: parts of attacks.
    match argv.get(1).and_then(|word| word.to_str()) {
        Some("--flip") => return attacks::flip(&argv[2..]),
        Some("--reuse") => return attacks::reuse(&argv[2..]),
        Some("--session") => return println!("{}", linux::keyring::session().expect("a session keyring")),
        _ => {}
    }
    let tests: Vec<Test> = [features::TESTS, lifecycle::TESTS, security::TESTS, attacks::TESTS, faults::TESTS].concat();
    let filters: Vec<String> = argv[1..]
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .filter(|word| !word.starts_with('-'))
        .collect();
    if argv[1..].iter().any(|word| word == "--list") {
        if argv[1..].iter().any(|word| word == "--ignored") {
            return;
        }
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    if !bundle::is_root() {
        println!("skipped: the privileged tests of the runtime need root");
        return;
    }
    bundle::hide_canary();
    let mut failed = Vec::new();
    for (name, test) in tests {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let before = bundle::host();
        let outcome = std::panic::catch_unwind(test);
        let after = bundle::host();
        let clean = before == after;
        if !clean {
            println!("left on the host by {name}:\n  before {before:?}\n  after  {after:?}");
        }
        let good = outcome.is_ok() && clean;
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        if !good {
            failed.push(name);
        }
    }
    bundle::remove_parents();
    if !failed.is_empty() {
        println!("failed: {failed:?}");
        std::process::exit(1);
    }
}
