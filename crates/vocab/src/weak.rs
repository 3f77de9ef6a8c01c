//! Defences that a build with the feature `weaken` switches off by name (`KNARR_WEAKEN=signature`), to show that their tests would notice.
//! Other builds have none of this. The names are in the tables of the tests that check attacks.

#[cfg(feature = "weaken")]
pub fn without(defence: &str) -> bool {
    std::env::var("KNARR_WEAKEN").is_ok_and(|name| name == defence)
}

/// Leaves each defence out in turn and shows that the test of this program that guards it fails then.
#[cfg(feature = "weaken")]
pub fn noticed(defences: &[(&str, &str)]) {
    let passes = |test: &str, weak: &str| {
        let program = std::env::current_exe().expect("this program's own file");
        let mut child = std::process::Command::new(program);
        let output = child.args([test, "--exact"]).env("KNARR_WEAKEN", weak).output().expect("run this program again");
        String::from_utf8_lossy(&output.stdout).contains("1 passed") && output.status.success()
    };
    for (defence, test) in defences {
        assert!(passes(test, "nothing"), "{test} fails anyway, or is not there");
        assert!(!passes(test, defence), "{test} does not notice that {defence} is missing");
    }
}

#[cfg(not(feature = "weaken"))]
pub const fn without(_defence: &str) -> bool {
    false
}
