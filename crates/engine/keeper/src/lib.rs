//! One tiny supervisor per node: parent of every container, holder of their stdio, logs and exit codes.
//!
//! * `log` — output as log records, and how a killed writer's successor continues (pure)

pub mod log;
