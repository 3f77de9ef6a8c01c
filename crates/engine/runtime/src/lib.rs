//! The OCI runtime: a pure plan (spec and host facts in, ordered steps out), and the child that carries it out.
