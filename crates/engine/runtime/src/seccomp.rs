//! Loading the compiled filter, and handing its notify descriptor to the agent.

use crate::init::Inherited;
use crate::plan::SeccompPlan;
use crate::report::{Cause, RefusedKind};

pub(crate) fn install(_plan: &SeccompPlan, _with: &mut Inherited) -> Result<(), Cause> {
    Err(Cause::refused(RefusedKind::Unsupported, "not in this build"))
}
