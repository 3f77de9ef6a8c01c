//! The kinds of the Kubernetes API: one module a kind, and the machinery they share.
