//! Shows that tests notice when a defence is missing.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A test that goes on for longer fails: some defences are all that ends it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Leaves each defence out in turn and shows that the test (of the same file) that guards it fails then.
pub fn check(defences: &[(&str, &str)]) {
    if !cfg!(feature = "weaken") {
        eprintln!("SKIPPED: only a build with --features weaken can be weakened");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    for (defence, test) in defences {
        let passes = |weak: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([test, "--exact"]).env("KNARR_WEAKEN", weak).env("TMPDIR", temp.path());
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let deadline = Instant::now() + PATIENCE;
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status.success();
                }
                if Instant::now() > deadline {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    return false;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        assert!(passes("nothing"), "{test} fails anyway");
        assert!(!passes(defence), "{test} does not notice that {defence} is missing");
    }
}
