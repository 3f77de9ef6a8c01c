//! Nothing: the tests are in `tests/`. They are a package of their own because they speak gRPC with the crates `cri` and `grpc`, and the
//! black box links no crate that it tests.
