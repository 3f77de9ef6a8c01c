//! Repositories behind git's own server, which is started for each connection.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const DAEMON: &str = "/usr/lib/git-core/git-daemon";

/// Ends with this.
#[derive(Debug)]
pub struct GitServer {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl GitServer {
    /// Serves the repositories in `base`; none, and said aloud, where git has no server.
    pub fn start(base: &Path) -> Option<Self> {
        if !Path::new(DAEMON).exists() {
            eprintln!("SKIPPED: no git-daemon");
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it listens").port();
        let ended = Arc::new(AtomicBool::new(false));
        let (over, base) = (ended.clone(), base.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let socket = OwnedFd::from(stream);
                let mut daemon = Command::new(DAEMON)
                    .args(["--inetd", "--export-all"])
                    .arg(format!("--base-path={}", base.display()))
                    .arg(&base)
                    .stdin(socket.try_clone().expect("a second descriptor"))
                    .stdout(socket)
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("start git's server");
                std::thread::spawn(move || daemon.wait());
            }
        });
        Some(Self { port, ended })
    }

    pub fn url(&self, name: &str) -> String {
        format!("git://127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
