//! Our own tar: a strict streaming reader and a writer.

/// Why a tar was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    #[error("truncated tar")]
    Truncated,
}
