//! The API without a client library: versions, refusals and their texts, bodies and their limits.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use blackbox::{World, is_root};

fn world() -> Option<World> {
    is_root().then(World::empty)
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// Sends one request that asks for the connection to be closed and returns everything that comes back.
fn ask(world: &World, request: &str) -> String {
    let mut stream = UnixStream::connect(world.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // The engine may answer and stop reading before all of it is sent.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(world: &World, path: &str) -> String {
    ask(world, &format!("GET {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"))
}

#[test]
fn ping_tells_the_version_in_its_headers() {
    let Some(world) = world() else { return };
    let answer = get(&world, "/_ping");
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
    let head = ask(&world, "HEAD /v1.41/_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
    assert_eq!((status(&head), body(&head)), ("200", ""));
}

#[test]
fn refusals_carry_dockers_texts() {
    let Some(world) = world() else { return };
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
        let answer = get(&world, path);
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
    let Some(world) = world() else { return };
    let post = |headers: &str, body: &str| {
        let length = body.len();
        ask(
            &world,
            &format!(
                "POST /containers/create HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
            ),
        )
    };
    let json = "Content-Type: application/json\r\n";
    for (headers, text, code, part) in [
        (json, "", "400", "invalid JSON: got EOF while reading request body"),
        (json, "{", "400", "invalid JSON"),
        (json, "{} {}", "400", "unexpected content after JSON"),
        (json, "[]", "400", "invalid JSON: json: cannot unmarshal array"),
        (json, "{}", "400", "config cannot be empty in order to create a container"),
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
    let Some(world) = world() else { return };
    let body = format!("{{\"Env\":[\"{}\"]}}", "x".repeat(5 << 20));
    let head = format!(
        "POST /containers/create HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    assert_eq!(status(&ask(&world, &format!("{head}{body}"))), "413");
}

#[test]
fn attach_speaks_websocket() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let body = r#"{"Image":"busybox","Cmd":["cat"],"OpenStdin":true,"HostConfig":{"NetworkMode":"none"}}"#;
    assert_eq!(world.api("POST", "/containers/create?name=box", Some(body)).0, 201);
    assert_eq!(world.api("POST", "/containers/box/start", None).0, 204);
    let mut stream = UnixStream::connect(world.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let head = format!(
        "GET /containers/box/attach/ws?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    // Masked with zeros, which changes nothing.
    for (opcode, sent, expected) in
        [(2, &b"hello\n"[..], &b"\x82\x06hello\n"[..]), (9, b"hi", b"\x8a\x02hi"), (8, b"", b"\x88\x02\x03\xe8")]
    {
        let mut frame = vec![0x80 | opcode, 0x80 | sent.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(sent);
        stream.write_all(&frame).unwrap();
        let mut got = vec![0; expected.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, expected, "opcode {opcode}");
    }
}
