//! One tiny supervisor per node: parent of every container, holder of their stdio, logs and exit codes.
