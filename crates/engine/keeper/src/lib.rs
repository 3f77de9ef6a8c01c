//! One tiny supervisor per node: parent of every container, holder of their stdio, logs and exit codes. It outlives the engine; the engine
//! holds duplicates of every descriptor, so that it outlives the keeper. The death of either loses nothing.
//!
//! [`serve`] is the keeper's process: one thread, one epoll loop. [`client::Keeper`] is the engine's side of the socket.
//!
//! Never here: images, networks, restart policies, databases, any decision about a container. What is to be run arrives as a finished plan.

// What cannot be written is no reason to die, and these macros panic: the next keeper would meet the same full disk.
#![warn(clippy::print_stderr, clippy::print_stdout)]

/// A line in the keeper's log, if it can be written.
macro_rules! complain {
    ($($argument:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($argument)*)));
    }};
}

pub mod client;
mod log;
mod model;
mod protocol;
mod server;

pub use model::{Exited, Kind, LogDriver, LogSpec, Phase, Stdio, Stream};
pub use server::launcher::{Job, Launcher, Launching, RuntimeLauncher};
pub use server::{Args, Order as NamesOrder, ServeError, serve};
