//! A seccomp profile in the words of the OCI runtime spec ("config-linux", Seccomp). Reads the same JSON.

use serde::{Deserialize, Serialize};

use super::arch::Arch;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    pub default_action: Action,
    /// For a default action of ERRNO or TRACE; without it EPERM.
    #[serde(default)]
    pub default_errno_ret: Option<u32>,
    /// The native architecture counts as named.
    #[serde(default)]
    pub architectures: Vec<Arch>,
    /// `None` asks for the default, SPEC_ALLOW alone (as runc does); an empty list asks for none.
    #[serde(default)]
    pub flags: Option<Vec<Flag>>,
    /// Unix socket that gets the descriptor of a filter with NOTIFY.
    #[serde(default)]
    pub listener_path: Option<String>,
    #[serde(default)]
    pub listener_metadata: Option<String>,
    #[serde(default)]
    pub syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Names that an architecture does not have are skipped there.
    pub names: Vec<String>,
    pub action: Action,
    /// For ERRNO and TRACE; without it EPERM.
    #[serde(default)]
    pub errno_ret: Option<u32>,
    /// All must hold. If two of them look at the same argument, each one alone is enough (libseccomp cannot say otherwise, so runc
    /// splits such a rule, and profiles rely on it).
    #[serde(default)]
    pub args: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// 0 to 5.
    pub index: u32,
    /// To compare with; the mask for MASKED_EQ.
    pub value: u64,
    /// MASKED_EQ: what the masked argument must equal.
    #[serde(default)]
    pub value_two: u64,
    pub op: Operator,
}

/// Comparisons are unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// The old name of KILL_THREAD.
    #[serde(rename = "SCMP_ACT_KILL")]
    Kill,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

impl Action {
    /// The call (or something that decides like it) still happens.
    pub(super) fn lets_through(self) -> bool {
        matches!(self, Self::Allow | Self::Log | Self::Trace)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flag {
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    Tsync,
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillableRecv,
}
