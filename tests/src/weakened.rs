//! Shows that tests of attacks would notice a missing defence.

use std::process::Command;

/// Leaves each defence out in turn and shows that the test (of the same file) that guards it fails then, and only then.
///
/// `KNARR_WEAKENED_BIN` names a program that was built with `--features weaken`; others cannot be weakened.
pub fn weakened(defences: &[(&str, &str)]) {
    let Some(program) = std::env::var_os("KNARR_WEAKENED_BIN") else {
        eprintln!("SKIPPED: KNARR_WEAKENED_BIN names no program that can be weakened");
        return;
    };
    for (defence, test) in defences {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let run = |weak: &str| {
            let mut child = Command::new(std::env::current_exe().expect("this test"));
            child.args([test, "--exact"]).env("KNARR_BIN", &program).env("KNARR_WEAKEN", weak);
            child.env_remove("KNARR_WEAKENED_BIN").env("TMPDIR", temp.path());
            let answer = child.output().expect("run a test again");
            (answer.status.success(), String::from_utf8_lossy(&answer.stderr).into_owned())
        };
        let (fine, said) = run("nothing");
        assert!(fine && !said.contains("SKIPPED"), "{test} fails anyway, or is skipped: {said}");
        let (fine, _) = run(defence);
        assert!(!fine, "{test} does not notice that {defence} is missing");
        eprintln!("{test} notices that {defence} is missing");
    }
}
