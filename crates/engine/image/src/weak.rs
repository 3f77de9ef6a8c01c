//! Defences that a build with the feature `weaken` switches off by name (`KNARR_WEAKEN=digest`), to show that their tests would notice.
//! Other builds have none of this. The names are in the table of `tests/privileged_attacks.rs`.

#[cfg(feature = "weaken")]
pub(crate) fn without(defence: &str) -> bool {
    std::env::var("KNARR_WEAKEN").is_ok_and(|name| name == defence)
}

#[cfg(not(feature = "weaken"))]
pub(crate) const fn without(_defence: &str) -> bool {
    false
}
