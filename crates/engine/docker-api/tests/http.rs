//! The server over a real unix socket: heads, versions, limits, refusals. What needs a running container is tested by
//! the black-box tests with the stock client.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use engine::{Engine, EngineConfig};

struct Server {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        Self::start_within(docker_api::Limits::default())
    }

    fn start_within(limits: docker_api::Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let config = EngineConfig {
            root: dir.path().join("root"),
            run: dir.path().join("run"),
            keeper: vec!["/nonexistent/keeper".into()],
            labels: Vec::new(),
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let path = socket.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let engine = Engine::open(config).await.unwrap();
                let listener = docker_api::bind(&path, None).unwrap();
                ready.send(()).unwrap();
                docker_api::serve_within(limits, engine, listener, async {
                    let _ = stopped.await;
                })
                .await
                .unwrap();
            });
        });
        is_ready.recv().unwrap();
        Self { _dir: dir, socket, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Sends one request that asks for the connection to be closed and returns everything that comes back.
    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"))
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

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn ping_tells_the_version_in_its_headers() {
    let server = Server::start();
    let answer = server.get("/_ping");
    assert_eq!((status(&answer), body(&answer)), ("200", "OK"));
    for header in [
        "api-version: 1.51",
        "ostype: linux",
        "docker-experimental: false",
        "swarm: inactive",
        "cache-control: no-cache, no-store",
    ] {
        assert!(answer.to_lowercase().contains(header), "{header} in {answer}");
    }
    let head = server.ask("HEAD /v1.41/_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
    assert_eq!((status(&head), body(&head)), ("200", ""));
}

#[test]
fn refusals_carry_dockers_texts() {
    let server = Server::start();
    for (path, code, message) in [
        ("/nothing", "404", "page not found"),
        ("/containers", "404", "page not found"),
        (
            "/v1.24/info",
            "400",
            "client version 1.24 is too old. Minimum supported API version is 1.40, please upgrade your client to a newer version",
        ),
        ("/v1.99/info", "400", "client version 1.99 is too new. Maximum supported API version is 1.51"),
        ("/containers/json?filters=x", "400", "invalid filters: expected a JSON object of names to values"),
        ("/containers/json?filters=%7B%22x%22%3A%5B%22y%22%5D%7D", "400", "invalid filter 'x'"),
        ("/containers/json?limit=1e400", "400", "invalid value for limit: \\\"1e400\\\" is not a number in range"),
        ("/containers/%zz/json", "400", "invalid URL escape in \\\"/containers/%zz/json\\\""),
        ("/containers/x/logs", "400", "Bad parameters: you must choose at least one stream"),
        ("/networks/nope", "404", "network nope not found"),
        (
            "/services",
            "503",
            "This node is not a swarm manager. Use \\\"docker swarm init\\\" or \\\"docker swarm join\\\" to connect this node to swarm and try again.",
        ),
    ] {
        let answer = server.get(path);
        assert_eq!(
            (status(&answer), body(&answer)),
            (code, format!("{{\"message\":\"{message}\"}}\n").as_str()),
            "{path}"
        );
        assert!(answer.contains("content-type: application/json"), "{answer}");
    }
}

#[test]
fn bodies_are_checked_before_the_engine_sees_them() {
    let server = Server::start();
    let post = |headers: &str, body: &str| {
        let length = body.len();
        server.ask(&format!(
            "POST /containers/create HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
    };
    let json = "Content-Type: application/json\r\n";
    for (headers, text, code, part) in [
        (json, "", "400", "invalid JSON: got EOF while reading request body"),
        (json, "{", "400", "invalid JSON"),
        (json, "{} {}", "400", "invalid JSON"),
        (json, "[]", "400", "invalid JSON"),
        (
            "Content-Type: text/plain\r\n",
            "{}",
            "400",
            "unsupported Content-Type header (text/plain): must be 'application/json'",
        ),
        (json, r#"{"HostConfig":{"Teleport":true}}"#, "400", "HostConfig.Teleport is not known to this engine"),
        (json, r#"{"HostConfig":{"BlkioWeight":70000}}"#, "400", "invalid JSON"),
        (
            json,
            r#"{"HostConfig":{"RestartPolicy":{"Name":"sometimes"}}}"#,
            "400",
            "invalid restart policy: unknown policy 'sometimes'",
        ),
        (json, r#"{"HostConfig":{"Mounts":[{"Type":"teleport"}]}}"#, "400", "mount type unknown"),
    ] {
        let answer = post(headers, text);
        assert_eq!(status(&answer), code, "{text}: {answer}");
        assert!(body(&answer).contains(part), "{text}: {answer}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(status(&post(json, &format!("{{\"Cmd\":{deep}}}"))), "400");
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let server = Server::start();
    let body = format!("{{\"Env\":[\"{}\"]}}", "x".repeat(5 << 20));
    let mut stream = server.connect();
    let head = format!(
        "POST /containers/create HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The server may stop reading and answer before all of it is sent.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(status(&String::from_utf8_lossy(&answer)), "413");
}

#[test]
fn huge_and_malformed_heads_are_refused() {
    let server = Server::start();
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
        let mut stream = server.connect();
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(codes.contains(&status(&answer)), "{name}: {answer}");
    }
    assert_eq!(status(&server.get("/_ping")), "200");
}

#[test]
fn the_socket_is_its_owners_alone_and_taken_over_when_nobody_serves_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let listener = docker_api::bind(&path, None).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(docker_api::bind(&path, None), Err(docker_api::BindError::InUse { .. })));
    drop(listener);
    docker_api::bind(&path, None).unwrap();
    assert!(matches!(
        docker_api::bind(&dir.path().join("other"), Some("no-such-group")),
        Err(docker_api::BindError::NoGroup { .. })
    ));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["docker.sock"]);
}

#[test]
fn slow_heads_are_cut_off_while_others_are_served() {
    let limits = docker_api::Limits { head_time: Duration::from_millis(300), ..docker_api::Limits::default() };
    let server = Server::start_within(limits);
    let mut slow: Vec<UnixStream> = (0..200)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: ").unwrap();
            stream
        })
        .collect();
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            let start = std::time::Instant::now();
            assert_eq!(status(&server.get("/_ping")), "200");
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
    let server = Server::start_within(docker_api::Limits { connections: 1, ..docker_api::Limits::default() });
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
