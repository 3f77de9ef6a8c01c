//! Docker's Engine HTTP API over the engine; the only crate that knows Docker's JSON.
