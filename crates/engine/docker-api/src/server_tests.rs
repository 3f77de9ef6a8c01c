//! The server over a real socket, with a handler that answers without an engine.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Client;

use super::*;

struct Server {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let path = socket.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = bind(&path, None).unwrap();
                ready.send(()).unwrap();
                let shutdown = async {
                    let _ = stopped.await;
                };
                let answer = |request: Request<Incoming>| async move { crate::routes::system::ping(request.method()) };
                serve_requests(limits, listener, shutdown, answer).await.unwrap();
            });
        });
        is_ready.recv().unwrap();
        Self { _dir: dir, socket, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> Client {
        let stream = Client::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Sends a request and returns everything that comes back until the server closes.
    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        // The server may answer and close before it has read all.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn ping(&self) -> String {
        self.ask("GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn huge_and_malformed_heads_are_refused() {
    let server = Server::start(Limits::default());
    let long = format!("GET /_ping HTTP/1.1\r\nHost: docker\r\nX-Long: {}\r\n\r\n", "x".repeat(100 << 10));
    let many = format!("GET /_ping HTTP/1.1\r\nHost: docker\r\n{}\r\n", "X-Many: x\r\n".repeat(500));
    for (name, request, codes) in [
        ("one long header", long.as_str(), ["431", "400"]),
        ("many headers", many.as_str(), ["431", "400"]),
        ("no HTTP", "hello\r\n\r\n", ["400", "400"]),
        (
            "two lengths",
            "POST /auth HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            ["400", "400"],
        ),
        ("a bad length", "POST /auth HTTP/1.1\r\nHost: d\r\nContent-Length: -1\r\n\r\n", ["400", "400"]),
    ] {
        let answer = server.ask(request);
        assert!(codes.contains(&status(&answer)), "{name}: {answer}");
    }
    assert_eq!(status(&server.ping()), "200");
}

#[test]
fn the_socket_is_its_owners_alone_and_taken_over_when_nobody_serves_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let listener = bind(&path, None).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(bind(&path, None), Err(BindError::InUse { .. })));
    drop(listener);
    bind(&path, None).unwrap();
    assert!(matches!(bind(&dir.path().join("other"), Some("no-such-group")), Err(BindError::NoGroup { .. })));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["docker.sock"]);
}

#[test]
fn slow_heads_are_cut_off_while_others_are_served() {
    let limits = Limits { head_time: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(limits);
    let mut slow: Vec<Client> = (0..200)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: ").unwrap();
            stream
        })
        .collect();
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            let start = std::time::Instant::now();
            assert_eq!(status(&server.ping()), "200");
            start.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[98] < Duration::from_millis(50), "{:?}", times[98]);
    for stream in &mut slow {
        let mut answer = Vec::new();
        // Cut off with or without an answer, but cut off: the read ends.
        let _ = stream.read_to_end(&mut answer);
        assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    }
}

#[test]
fn clients_beyond_the_limit_wait_for_a_place() {
    let server = Server::start(Limits { connections: 1, ..Limits::default() });
    let mut first = server.connect();
    first.write_all(b"HEAD /_ping HTTP/1.1\r\nHost: docker\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).unwrap();
    let mut second = server.connect();
    second.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(second.read_exact(&mut answer).is_err());
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut text = String::new();
    second.read_to_string(&mut text).unwrap();
    assert_eq!(status(&text), "200");
}
