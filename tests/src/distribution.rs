//! `knarr registry` on a port of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ends with this; its files go too.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    pub address: String,
    folder: tempfile::TempDir,
}

impl Registry {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more flags.
    pub fn with(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(crate::program());
        command.args(["registry", "--listen", "127.0.0.1:0", "--root"]).arg(folder.path()).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start knarr registry");
        let mut line = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("it says where it listens");
        Self { child, address: line.trim().to_owned(), folder }
    }

    /// Where it keeps what it has.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
