//! Requests that go on while things happen: what they were answered, and which of them failed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::eventually;

const PATIENCE: Duration = Duration::from_secs(5);
/// Between two requests of one client.
const EVERY: Duration = Duration::from_millis(3);

/// One `GET /` over a connection of its own; the answer's body.
pub fn fetch(address: &str) -> Result<String, String> {
    fetch_at(address, "/")
}

fn fetch_at(address: &str, path: &str) -> Result<String, String> {
    let at: SocketAddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
    let asked = TcpStream::connect_timeout(&at, PATIENCE).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    match asked {
        Ok(text) if text.starts_with("HTTP/1.0 200") || text.starts_with("HTTP/1.1 200") => {
            Ok(text.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned())
        }
        Ok(text) => Err(format!("an answer without its beginning: {text:?}")),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// Requests that have come to an end, by client.
    asked: Vec<usize>,
    answers: BTreeMap<String, usize>,
    failures: Vec<String>,
}

/// Clients that ask one address over and over until they are dropped.
pub struct Traffic {
    seen: Arc<Mutex<Seen>>,
    ended: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Clients in network namespaces, by their files; an empty path is this machine.
    pub fn start(address: &str, from: &[PathBuf]) -> Self {
        Self::start_at(address, "/", from)
    }

    /// The same for another page than the first.
    pub fn start_at(address: &str, path: &str, from: &[PathBuf]) -> Self {
        let (seen, ended) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
        seen.lock().expect("nobody has it yet").asked = vec![0; from.len()];
        let clients = from.iter().enumerate().map(|(number, netns)| {
            let (address, path, netns) = (address.to_owned(), path.to_owned(), netns.clone());
            let (seen, ended) = (seen.clone(), ended.clone());
            std::thread::spawn(move || {
                enter(&netns);
                let began = Instant::now();
                while !ended.load(Ordering::SeqCst) {
                    let at = began.elapsed();
                    let answer = fetch_at(&address, &path);
                    let mut seen = seen.lock().expect("no client panics");
                    seen.asked[number] += 1;
                    match answer {
                        Ok(text) => *seen.answers.entry(text).or_default() += 1,
                        Err(why) => {
                            let took = began.elapsed() - at;
                            seen.failures.push(format!("{} after {at:?}, taking {took:?}: {why}", netns.display()));
                        }
                    }
                    drop(seen);
                    std::thread::sleep(EVERY);
                }
            })
        });
        let clients = clients.collect();
        Self { seen, ended, clients }
    }

    /// Requests that have come to an end, by client.
    pub fn asked(&self) -> Vec<usize> {
        self.seen.lock().expect("no client panics").asked.clone()
    }

    /// Waits for so many more requests of every client, so that what is said of them says something of now.
    pub fn flows(&self, more: usize) {
        let before = self.asked();
        eventually("traffic flows", || std::iter::zip(self.asked(), &before).all(|(now, before)| now >= before + more));
    }

    /// Who answered since this was asked last, and how often.
    pub fn answers(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.seen.lock().expect("no client panics").answers)
    }

    /// What failed since this was asked last.
    pub fn failures(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().expect("no client panics").failures)
    }

    /// No request has failed since it was asked last; `what` happened meanwhile.
    #[track_caller]
    pub fn unharmed(&self, what: &str) {
        self.flows(25);
        let (failures, asked) = (self.failures(), self.asked().iter().sum::<usize>());
        assert!(failures.is_empty(), "{what}: {} of {asked} failed: {failures:#?}", failures.len());
    }
}

/// This thread's network is that of a namespace from now on.
fn enter(netns: &std::path::Path) {
    if netns.as_os_str().is_empty() {
        return;
    }
    let file = std::fs::File::open(netns).expect("open a network namespace");
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(file.as_fd(), kind).expect("enter a network namespace");
}

/// Runs something with the network of a namespace.
pub fn within<T: Send + 'static>(netns: PathBuf, work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        enter(&netns);
        work()
    });
    thread.join().expect("it does not panic")
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}
