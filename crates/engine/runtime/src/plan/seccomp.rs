//! The spec's seccomp object as a compiled filter. Pure.

use oci_spec::runtime::Spec;

use super::error::Faults;
use super::types::SeccompPlan;

pub(super) fn seccomp_plan(spec: &Spec, _architecture: &str, faults: &mut Faults) -> Option<SeccompPlan> {
    if spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some()) {
        faults.unsupported("linux.seccomp", "not in this build");
    }
    None
}
