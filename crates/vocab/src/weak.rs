//! Defences that a build with the feature `weaken` switches off by name (`KNARR_WEAKEN=signature`), to show that their tests would notice.
//! Other builds have none of this. The names are in the tables of the tests that check attacks.

#[cfg(feature = "weaken")]
pub fn without(defence: &str) -> bool {
    std::env::var("KNARR_WEAKEN").is_ok_and(|name| name == defence)
}

#[cfg(not(feature = "weaken"))]
pub const fn without(_defence: &str) -> bool {
    false
}
