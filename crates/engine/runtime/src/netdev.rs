//! Network interfaces of the host that the spec gives to the container.

use crate::plan::Plan;
use crate::report::{Cause, Failure, RefusedKind};

pub(crate) fn hand_over(plan: &Plan, _pid: i32) -> Result<(), Failure> {
    match plan.net_devices.first() {
        None => Ok(()),
        Some(device) => Err(Cause::refused(RefusedKind::Unsupported, "moving interfaces is not supported")
            .at(format!("move network interface {}", device.host_name))),
    }
}

/// For `features`.
pub(crate) const SUPPORTED: bool = false;
