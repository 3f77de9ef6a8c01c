//! Why a spec cannot be carried out: every fault at once, each with its field path.

use std::fmt;

use vocab::ErrorKind;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// As in the config file: `linux.namespaces[2].path`.
    pub field: String,
    pub message: String,
    pub kind: ErrorKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError {
    /// Never empty.
    pub faults: Vec<Fault>,
}

impl PlanError {
    /// Unsupported only if nothing in the spec itself is wrong.
    pub fn kind(&self) -> ErrorKind {
        if self.faults.iter().all(|fault| fault.kind == ErrorKind::Unsupported) {
            ErrorKind::Unsupported
        } else {
            ErrorKind::Invalid
        }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{}: {}", if n == 0 { "" } else { "; " }, fault.field, fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanError {}

/// Collects faults while the spec is read.
#[derive(Debug, Default)]
pub(super) struct Faults(pub(super) Vec<Fault>);

impl Faults {
    pub(super) fn invalid(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault { field: field.into(), message: message.into(), kind: ErrorKind::Invalid });
    }

    pub(super) fn unsupported(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault { field: field.into(), message: message.into(), kind: ErrorKind::Unsupported });
    }
}
