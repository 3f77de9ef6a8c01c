//! The defences that this crate's own tests check: each is noticed when it is left out.

#[path = "../tests/support/weakened.rs"]
mod weakened;

#[test]
fn tests_notice_a_weakened_build() {
    weakened::check(&[("segments", "request::tests::paths_are_read_once_and_only_one_way")]);
}
