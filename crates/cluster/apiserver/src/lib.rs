//! The Kubernetes API over HTTP; the only crate that knows it.
