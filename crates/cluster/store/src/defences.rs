//! The defences that this crate's own tests check: each is noticed when it is left out.

#[path = "../../apiserver/tests/support/weakened.rs"]
mod weakened;

#[test]
fn tests_notice_a_weakened_build() {
    weakened::check(&[
        ("sync", "power::a_power_cut_at_any_write_loses_nothing_acknowledged"),
        ("walk", "power::a_changed_byte_is_an_error_at_worst"),
        ("acknowledged", "power::a_changed_byte_is_an_error_at_worst_after_a_kill_too"),
        ("checksum", "record::tests::cut_records_are_refused"),
    ]);
}
