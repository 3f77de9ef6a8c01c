//! A socket between a client and the engine that notes what is asked.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Passes everything on, and keeps the first line of every request.
#[derive(Debug)]
pub struct Recorder {
    socket: PathBuf,
    seen: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl Recorder {
    /// In front of the socket `to`; its own stands beside it.
    pub fn start(to: &Path) -> Self {
        let socket = to.with_extension("recorded");
        let listener = UnixListener::bind(&socket).expect("a socket of its own");
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let (to, kept) = (to.to_owned(), seen.clone());
        // Ends with the test's process, as its connections do.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(engine) = UnixStream::connect(&to) else { continue };
                let (asked, answered) = (client.try_clone(), engine.try_clone());
                let (Ok(asked), Ok(answered)) = (asked, answered) else { continue };
                let kept = kept.clone();
                std::thread::spawn(move || pass(asked, engine, |bytes| note(bytes, &kept)));
                std::thread::spawn(move || pass(answered, client, |_| ()));
            }
        });
        Self { socket, seen }
    }

    /// `unix://...`, for `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Whether an operation of Docker's documentation was asked for: `GET`, `/containers/{id}/json`.
    pub fn has(&self, method: &str, template: &str) -> bool {
        let seen = self.seen.lock().expect("nobody panics with it");
        seen.iter().any(|(asked, path)| asked == method && is_of(path, template))
    }
}

/// Until the end of what is read, which is passed on as well.
fn pass(mut from: UnixStream, mut to: UnixStream, mut look: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        look(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other one may be gone.
    let _ = to.shutdown(Shutdown::Write);
}

/// Clients write the head of a request in one piece.
fn note(bytes: &[u8], seen: &Mutex<BTreeSet<(String, String)>>) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines().filter(|line| line.ends_with(" HTTP/1.1")) {
        let words: Vec<&str> = line.split(' ').collect();
        let [method, path, _] = words[..] else { continue };
        let path = path.split('?').next().unwrap_or_default();
        let path = path.strip_prefix("/v1.").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(path);
        seen.lock().expect("nobody panics with it").insert((method.to_owned(), path.to_owned()));
    }
}

fn is_of(path: &str, template: &str) -> bool {
    let Some((before, rest)) = template.split_once('{') else { return path == template };
    let (variable, after) = rest.split_once('}').expect("a template");
    let middle = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).unwrap_or_default();
    // Names of images have parts.
    !middle.is_empty() && (variable == "name" || !middle.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_its_operation() {
        let of = |path: &str, template: &str| is_of(path, template);
        assert!(of("/info", "/info") && !of("/info", "/version"));
        assert!(of("/containers/a/json", "/containers/{id}/json") && !of("/containers/json", "/containers/{id}/json"));
        assert!(of("/containers/a", "/containers/{id}") && !of("/containers/a/json", "/containers/{id}"));
        assert!(of("/images/host:5000/a/b/push", "/images/{name}/push"));
    }
}
