//! The only door to the kernel, and the only `unsafe`.
//!
//! Each module is one family of system calls, wrapped so that the wrong call is hard to write: paths inside a foreign root are
//! resolved by descriptor ([`fs::Root`]), mounts are made by descriptor ([`mount`]), processes are held by [`pidfd`], and cloning
//! needs a [`clone::SingleThreaded`] token. Every error is an [`Error`] that carries the call, its arguments and the errno.
//!
//! Nothing here decides: no policy, no retry beyond what the call itself asks for, no logging, no global state.

pub mod caps;
pub mod cgroup;
pub mod clone;
pub mod cred;
pub mod epoll;
mod error;
pub mod exec;
pub mod feature;
pub mod fs;
pub mod idmap;
pub mod inotify;
pub mod keyring;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod net;
pub mod netlink;
pub mod ns;
pub mod pidfd;
pub mod pipe;
pub mod proc;
pub mod process;
pub mod pty;
pub mod rlimit;
pub mod seccomp;
pub mod self_exe;
pub mod shm;
pub mod signal;
pub mod socket;
mod sys;
pub mod timer;
pub mod tree;
pub mod xattr;

pub use error::{Attempt, Errno, Error, Result, errno_name};
