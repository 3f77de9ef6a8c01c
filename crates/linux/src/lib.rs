//! The only door to the kernel, and the only `unsafe`.
