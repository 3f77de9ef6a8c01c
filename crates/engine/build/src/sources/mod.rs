//! What a build takes from elsewhere: files at addresses and git repositories, for `ADD` and for whole contexts.
//!
//! * `remote` — what an address means (pure)
//! * `git` — a commit of a repository, by the `git` program, which is given nothing that it would run
//! * `downloads` — files at addresses, kept until they change or are pruned
//! * `contexts` — a whole build context from either

mod contexts;
mod downloads;
mod git;
mod remote;

pub use contexts::RemoteContext;
pub(crate) use downloads::{Download, Downloads};
pub(crate) use git::{Git, Head};
pub(crate) use remote::file_name;
pub use remote::{GitRemote, Remote};
