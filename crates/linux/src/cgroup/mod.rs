//! Control groups, v1 and v2 behind one interface.
//!
//! [`Layout`] says which hierarchies this machine has (v1, v2, or both side by side), [`Cgroups`] holds their roots open,
//! [`Group`] is one group in all of them. What a set of [`Resources`] means for a layout is decided by [`plan`] without
//! touching anything: a list of (controller, file, value); [`Group::apply`] carries it out.
//!
//! This room never decides which limits a container gets, never talks to systemd, and never follows a path that leaves
//! the mounted hierarchies. Device access is `devices` (rules and the v1 list) and `device_bpf` (the v2 program).

mod controller;
mod convert;
mod device_bpf;
mod devices;
mod error;
mod events;
mod group;
mod layout;
mod life;
mod plan;
mod resources;
mod stats;

pub use controller::{Controller, ControllerSet};
pub use convert::{cpu_shares_from_weight, cpu_weight_from_shares, io_weight_from_blkio};
pub use device_bpf::{DeviceProgram, compile as compile_device_program};
pub use devices::{Access, DeviceKind, DeviceRule, DeviceRuleError, v1_writes as device_writes_v1};
pub use error::Error;
pub use events::{GroupEvents, Watch, WatchKind};
pub use group::{Cgroups, Group};
pub use layout::{Features, Hierarchy, Layout, Version};
pub use plan::{Current, Plan, PlanError, Tolerance, Write, plan};
pub use resources::{
    BlockIo, Cpu, HugepageLimit, InterfacePriority, Memory, Network, Rdma, Resources, ThrottleDevice, WeightDevice,
};
pub use stats::{CpuStats, HugetlbStats, IoDevice, MemoryStats, PidsStats, Pressure, PressureLine, Stats};
