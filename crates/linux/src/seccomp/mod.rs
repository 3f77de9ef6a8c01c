//! Filters of system calls.
//!
//! A [`Profile`] is the OCI spec's seccomp object. [`compile`] turns it into a [`Filter`] (a classic BPF program and flags), purely;
//! [`load`] puts that in force for the calling thread. [`docker`] resolves Docker's own profile format, and its default profile, to
//! a [`Profile`] for a capability set.
//!
//! This room does not know containers, does not send the listener's descriptor anywhere, and contains no other filter library.

mod arch;
mod compile;
pub mod docker;
mod docker_default;
#[cfg(test)]
mod interpret;
mod load;
mod policy;
mod profile;
pub mod syscalls;

pub use arch::Arch;
pub use compile::{CompileError, Filter, Instruction, compile};
pub use load::load;
pub use profile::{Action, Condition, Flag, Operator, Profile, Rule};
