//! Copies between container and host, clients of the Docker API that mean harm, and control sockets that a container might reach: the
//! CP and DA groups of the attack catalogue, and of its RT group what only a whole engine shows.
//!
//! | case | test |
//! |---|---|
//! | CP-01 paths that change meanwhile | `copies_stay_inside_while_their_path_is_swapped` |
//! | CP-02 the container's code on the host | `a_copy_runs_nothing_of_the_container` |
//! | CP-03 the host's metadata | `a_copy_changes_no_mode_and_no_file_of_the_host`; the image crate's `privileged_archive` |
//! | CP-04 special files | `special_files_hold_no_copy_up` |
//! | CP-05 what a client unpacks | `an_archive_from_an_engine_that_lies_stays_below_its_target` |
//! | CP-06 terminal escapes | `nothing_that_others_have_named_steers_the_terminal` |
//! | RT-18 control sockets | `a_container_of_the_hosts_network_reaches_no_control_socket` |
//! | DA-01 web pages that ask | `the_api_is_on_a_socket_only_and_gives_no_web_page_leave` |
//! | DA-02 bodies that two readers see differently | `however_a_body_is_framed_the_answer_is_the_same` |
//! | DA-03 rights of plugins | not offered: the rows of `/plugins` in `docs/reference/docker-operations.md` |
//! | DA-04 clients that go away | `docker_client.rs`: `clients_that_go_away_leave_nothing_behind` |
//! | DA-05 state, DA-06 numbers, DA-09 strings | `docker_operations.rs` |
//! | DA-07 secrets, DA-10 the credential store | `a_password_is_in_one_file_that_is_its_owners_alone` |
//! | DA-08 slow and endless requests | `thousands_of_slow_clients_hold_nobody_up`, `a_head_without_end_is_cut` |

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blackbox::image::{Entry, busybox, layer_tar};
use blackbox::{Registry, World, eventually, finish, is_root};
use rustix::fs::{CWD, RenameFlags, renameat_with};

fn world() -> Option<World> {
    if !is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    Some(World::start())
}

fn sleeper(world: &World, more: &[&str]) {
    let words = ["run", "-d", "--name", "box", "--network", "none"];
    world.knarr(words.iter().chain(more).chain(&["busybox", "sleep", "1000"])).success();
}

/// The container's files as the host sees them.
fn inside(world: &World) -> PathBuf {
    let pid = world.knarr(["inspect", "-f", "{{.State.Pid}}", "box"]).success().text();
    PathBuf::from(format!("/proc/{}/root", pid.trim()))
}

/// One request with bytes for a body: the status and the bytes of the answer.
fn exchange(world: &World, method: &str, path: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = UnixStream::connect(world.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n"
    );
    // It may refuse before it has read all.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let status = String::from_utf8_lossy(&answer[..12.min(answer.len())]).split(' ').nth(1).unwrap_or("").to_owned();
    (status, answer)
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

fn files<const N: usize>(entries: [(&str, Entry); N]) -> Vec<u8> {
    layer_tar(&entries.into_iter().map(|(name, entry)| (name.to_owned(), entry)).collect::<BTreeMap<_, _>>())
}

fn file(text: &str) -> Entry {
    Entry::File { mode: 0o666, data: text.into() }
}

/// CP-01: a folder of the container is exchanged with a link to a folder of the host, as fast as the kernel can.
#[test]
fn copies_stay_inside_while_their_path_is_swapped() {
    let Some(world) = world() else { return };
    let host = world.dir().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "canary of the host").unwrap();
    sleeper(&world, &[]);
    let flip = inside(&world).join("flip");
    std::fs::create_dir_all(flip.join("a")).unwrap();
    std::fs::write(flip.join("a/file"), "of the container").unwrap();
    symlink(&host, flip.join("b")).unwrap();
    let rounds = if std::env::var("KNARR_CATALOGUE").is_ok_and(|set| set == "1") { 10_000 } else { 150 };
    let (done, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut seen = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, flip.join("a"), CWD, flip.join("b"), RenameFlags::EXCHANGE).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let put = files([("written", file("by a copy"))]);
        for _ in 0..rounds {
            let (_, answer) = exchange(&world, "GET", "/containers/box/archive?path=/flip/a/file", b"");
            assert!(!contains(&answer, "canary of the host"), "a file of the host came out");
            seen += usize::from(contains(&answer, "of the container"));
            exchange(&world, "PUT", "/containers/box/archive?path=/flip/a", &put);
        }
        done.store(true, Ordering::Relaxed);
    });
    println!("{} swaps; {seen} of {rounds} copies met the container's own file", swaps.load(Ordering::Relaxed));
    assert!(seen > 0 && swaps.load(Ordering::Relaxed) > rounds as u64, "nothing was tried");
    let left: Vec<_> = std::fs::read_dir(&host).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["file"], "a copy wrote to the host");
}

/// CP-02: programs, name services and preloaded libraries in the image that an engine could run by mistake.
#[test]
fn a_copy_runs_nothing_of_the_container() {
    if !is_root() {
        return;
    }
    let world = World::empty();
    let mut image = busybox();
    let layer = &mut image.layers[0];
    let trap = || Entry::File { mode: 0o755, data: b"#!/bin/busybox sh\n: > /sprung\n".into() };
    for name in ["tar", "gzip", "gunzip", "xz", "unxz", "cp", "chown", "getent"] {
        layer.insert(format!("bin/{name}"), trap());
    }
    layer.insert("lib".into(), Entry::Dir { mode: 0o755 });
    for name in ["lib/libnss_files.so.2", "lib/trap.so"] {
        layer.insert(name.into(), trap());
    }
    layer.insert("etc/ld.so.preload".into(), Entry::File { mode: 0o644, data: b"/lib/trap.so\n".into() });
    layer.insert("etc/nsswitch.conf".into(), Entry::File { mode: 0o644, data: b"passwd: files\n".into() });
    world.load(&image);
    sleeper(&world, &["--user", "nobody"]);
    let here = tempfile::tempdir().unwrap();
    std::fs::write(here.path().join("in"), "text").unwrap();
    let at = |name: &str| here.path().join(name).display().to_string();
    let round = || {
        world.knarr(["cp", &at("in"), "box:/tmp/in"]).success();
        world.knarr(["cp", "-a", &at("in"), "box:/tmp/owned"]).success();
        world.knarr(["cp", "box:/etc", &at("out")]).success();
        world.docker(["cp", &at("in"), "box:/tmp/in"]).success();
    };
    round();
    assert!(!inside(&world).join("sprung").exists(), "a program of the container ran");
    world.knarr(["kill", "box"]).success();
    world.knarr(["wait", "box"]).success();
    round();
    world.knarr(["cp", "box:/sprung", &at("sprung")]).exits(1);
    assert!(!Path::new("/sprung").exists() && Path::new(&at("out/passwd")).exists());
}

/// CP-03: modes and owners that an archive asks for are set on what it brings, never on what a link of the container leads to.
#[test]
fn a_copy_changes_no_mode_and_no_file_of_the_host() {
    let Some(world) = world() else { return };
    let host = world.dir().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("key"), "secret").unwrap();
    for (path, mode) in [(host.join("key"), 0o600), (host.clone(), 0o700)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let facts = || {
        let of = |path: &Path| {
            let stat = std::fs::symlink_metadata(path).unwrap();
            (stat.mode(), stat.uid(), stat.gid(), stat.mtime_nsec(), stat.nlink())
        };
        (of(&host), of(&host.join("key")), std::fs::read_to_string(host.join("key")).unwrap())
    };
    let before = facts();
    sleeper(&world, &[]);
    let root = inside(&world);
    symlink(&host, root.join("way")).unwrap();
    symlink(host.join("key"), root.join("key")).unwrap();
    let target = host.display().to_string();
    let bad = [
        files([("key", file("replaced")), ("way/key", file("through a link"))]),
        files([("new", Entry::Symlink(target.clone())), ("new/key", file("through its own link"))]),
        files([("way/", Entry::Dir { mode: 0o777 })]),
        files([(&*format!("../../../../../..{target}/key"), file("upwards"))]),
        files([(&*format!("{target}/key"), file("from the root"))]),
    ];
    for (number, archive) in bad.iter().enumerate() {
        for path in ["/", "/way", "/way/.", "/tmp"] {
            for more in ["", "&copyUIDGID=1", "&noOverwriteDirNonDir=1"] {
                let (status, answer) =
                    exchange(&world, "PUT", &format!("/containers/box/archive?path={path}{more}"), archive);
                assert!(!status.is_empty() && status != "500", "{number} {path}: {}", String::from_utf8_lossy(&answer));
                assert_eq!(facts(), before, "{number} at {path}{more}");
            }
        }
    }
    let (status, answer) = exchange(&world, "GET", "/containers/box/archive?path=/key", b"");
    assert!(!contains(&answer, "secret"), "{status}: the host's key came out");
}

/// CP-04: pipes, devices, files of `/proc`, a terabyte that is all hole, copies that nobody reads to their end.
#[test]
fn special_files_hold_no_copy_up() {
    let Some(world) = world() else { return };
    sleeper(&world, &[]);
    world.knarr(["exec", "box", "sh", "-c", "mkfifo /pipe; truncate -s 1099511627776 /hole; mkdir /all; mkfifo /all/p; dd if=/dev/urandom of=/much bs=1M count=40 2>/dev/null"]).success();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", world.engine_pid())).unwrap().count();
    let before = descriptors();
    for path in ["/pipe", "/all", "/dev/zero", "/dev/tty", "/proc/version", "/proc/self", "/proc/kmsg", "/dev"] {
        let (status, _) = exchange(&world, "GET", &format!("/containers/box/archive?path={path}"), b"");
        assert!(matches!(&*status, "200" | "403" | "404" | "500"), "{path}: {status}");
    }
    // A terabyte of nothing is a few blocks, and who goes away in the middle of much is not waited for.
    let (status, answer) = exchange(&world, "GET", "/containers/box/archive?path=/hole", b"");
    assert!(status == "200" && answer.len() < 1 << 20, "{status}, {} bytes", answer.len());
    for _ in 0..4 {
        let mut stream = UnixStream::connect(world.socket()).unwrap();
        stream.write_all(b"GET /containers/box/archive?path=/much HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
        let mut some = vec![0; 1 << 20];
        stream.read_exact(&mut some).unwrap();
        assert!(some.starts_with(b"HTTP/1.1 200"));
    }
    eventually("the engine has let go of what nobody reads", || descriptors() <= before + 2);
    // A pipe at the place that a copy writes to is replaced, not written into.
    let (status, answer) = exchange(&world, "PUT", "/containers/box/archive?path=/", &files([("pipe", file("text"))]));
    assert_eq!(status, "200", "{}", String::from_utf8_lossy(&answer));
    world.knarr(["exec", "box", "cat", "/pipe"]).success().stdout("text");
}

/// CP-05: the engine, or what it runs, gives the client an archive that leads elsewhere.
#[test]
fn an_archive_from_an_engine_that_lies_stays_below_its_target() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("target")).unwrap();
    std::fs::create_dir_all(at("elsewhere")).unwrap();
    let outside = at("elsewhere").display().to_string();
    let bad = [
        files([("../elsewhere/evil", file("x"))]),
        files([("x/", Entry::Dir { mode: 0o755 }), ("x/../../elsewhere/evil", file("x"))]),
        files([(&*format!("{outside}/evil"), file("x"))]),
        files([("x", Entry::Symlink(outside.clone())), ("x/evil", file("x"))]),
        files([("x", Entry::Symlink("../elsewhere".into())), ("x/evil", file("x"))]),
        files([
            ("x/", Entry::Dir { mode: 0o755 }),
            ("x/y", Entry::Symlink("../../elsewhere".into())),
            ("x/y/evil", file("x")),
        ]),
    ];
    // A folder called x, of mode 0755.
    let stat = "eyJuYW1lIjoieCIsInNpemUiOjAsIm1vZGUiOjIxNDc0ODQxNDEsIm10aW1lIjoiMjAyMC0wMS0wMVQwMDowMDowMFoiLCJsaW5rVGFyZ2V0IjoiIn0=";
    for (number, archive) in bad.into_iter().enumerate() {
        let socket = at(&format!("{number}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let archive = archive.clone();
                std::thread::spawn(move || serve_archive(stream.unwrap(), stat, &archive));
            }
        });
        for target in ["target", "target/new"] {
            let mut copy = Command::new(blackbox::program());
            copy.args(["--host", &format!("unix://{}", socket.display()), "cp", "box:/x"]).arg(at(target));
            let answer = finish(copy, b"");
            println!("{number}: {answer}");
            let found: Vec<_> = std::fs::read_dir(at("elsewhere")).unwrap().flatten().map(|e| e.file_name()).collect();
            assert!(found.is_empty(), "{number}: {found:?}\n{answer}");
            assert!(!at("evil").exists(), "{number}: {answer}");
        }
    }
}

/// An engine as far as `cp` asks one.
fn serve_archive(mut stream: UnixStream, stat: &str, archive: &[u8]) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte) {
        seen.push(byte[0]);
        if !seen.ends_with(b"\r\n\r\n") {
            continue;
        }
        let head = String::from_utf8_lossy(&std::mem::take(&mut seen)).into_owned();
        let headers = format!("HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nX-Docker-Container-Path-Stat: {stat}\r\n");
        let archive = if head.starts_with("GET") && head.contains("/archive") { archive } else { b"" };
        let length = archive.len();
        let answer = format!("{headers}Content-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n");
        // The client may have seen enough.
        if stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(archive)).is_err() {
            return;
        }
    }
}

/// CP-06: names, labels, commands and errors that carry escape sequences, in every list.
#[test]
fn nothing_that_others_have_named_steers_the_terminal() {
    let Some(world) = world() else { return };
    let evil = "\u{1b}]52;c;ZXZpbA==\u{7}\u{1b}[2J\r\u{9b}31m";
    let label = serde_json::to_string(evil).unwrap();
    let body = format!(
        r#"{{"Image":"busybox","Cmd":["echo",{label}],"Labels":{{"evil":{label}}},"HostConfig":{{"NetworkMode":"none"}}}}"#
    );
    let (status, answer) = world.api("POST", "/containers/create?name=box", Some(&body));
    assert_eq!(status, 201, "{answer}");
    let labelled = format!(r#"{{"Name":"evil","Labels":{{"evil":{label}}}}}"#);
    assert_eq!(world.api("POST", "/volumes/create", Some(&labelled)).0, 201);
    assert_eq!(world.api("POST", "/networks/create", Some(&labelled)).0, 201);
    world.knarr(["commit", "-m", evil, "box", "evil"]).success();
    let asked = format!("evil={evil}");
    for words in [
        &["ps", "-a", "--no-trunc"][..],
        &["ps", "-a", "--format", "{{.Labels}} {{.Command}}"],
        &["ps", "-a", "--format", "table {{.Names}}\t{{.Labels}}"],
        &["ps", "-a", "--format", "json"],
        &["volume", "ls", "--format", "{{.Name}} {{.Labels}}"],
        &["network", "ls", "--format", "{{.Name}} {{.Labels}}"],
        &["history", "--no-trunc", "evil"],
        &["events", "--since", "1h", "--until", "0s"],
        &["inspect", "box"],
        &["inspect", evil],
        &["start", evil],
        &["rm", evil],
        &["run", "--network", evil, "busybox"],
        &["run", "--name", evil, "busybox"],
        &["pull", evil],
        &["volume", "inspect", evil],
        &["ps", "-a", "--filter", &asked],
        &["system", "df", "-v"],
    ] {
        let answer = world.knarr(words);
        let said = answer.text() + &answer.errors();
        let steering: Vec<char> = said.chars().filter(|c| c.is_control() && !matches!(c, '\n' | '\t')).collect();
        assert!(steering.is_empty(), "{words:?}: {steering:?} in {said:?}");
        assert!(!said.is_empty(), "{words:?} says nothing");
    }
}

/// DA-01: no page in somebody's browser reaches the API, and none is told that it may read an answer.
#[test]
fn the_api_is_on_a_socket_only_and_gives_no_web_page_leave() {
    if !is_root() {
        return;
    }
    let world = World::empty();
    for host in ["tcp://127.0.0.1:0", "tcp://0.0.0.0:2375", "http://127.0.0.1:0", "fd://"] {
        let mut engine = Command::new(blackbox::program());
        engine
            .args(["engine", "--host", host, "--root"])
            .arg(world.dir().join("r"))
            .arg("--run")
            .arg(world.dir().join("s"));
        let refused = finish(engine, b"");
        assert_ne!(refused.code, 0, "{refused}");
        refused.stderr_has("unix:///PATH");
    }
    for origin in ["http://evil.example", "null", "http://localhost", "http://127.0.0.1:2375"] {
        for method in ["GET", "OPTIONS"] {
            let mut stream = UnixStream::connect(world.socket()).unwrap();
            let request = format!(
                "{method} /version HTTP/1.1\r\nHost: rebound.example\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
            assert!(!answer.to_lowercase().contains("access-control-"), "{answer}");
        }
    }
}

/// DA-02: what decides and what acts read the same bytes.
#[test]
fn however_a_body_is_framed_the_answer_is_the_same() {
    if !is_root() {
        return;
    }
    let world = World::empty();
    let json = r#"{"Image":"nowhere:1","HostConfig":{"NetworkMode":"none"}}"#;
    let whole = format!("{:x}\r\n{json}\r\n0\r\n\r\n", json.len());
    let single: String = json.chars().map(|c| format!("1\r\n{c}\r\n")).collect::<String>() + "0\r\n\r\n";
    let length = json.len();
    let ask = |headers: &str, body: &str| {
        let mut stream = UnixStream::connect(world.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let request = format!(
            "POST /containers/create HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}\r\n{body}"
        );
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let wanted = "No such image: nowhere:1";
    for (headers, body) in [
        (format!("Content-Length: {length}\r\n"), json),
        ("Transfer-Encoding: chunked\r\n".into(), &*whole),
        ("Transfer-Encoding: chunked\r\n".into(), &*single),
        (format!("Expect: 100-continue\r\nContent-Length: {length}\r\n"), json),
        (format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"), json),
    ] {
        let answer = ask(&headers, body);
        assert!(answer.contains("404 Not Found") && answer.contains(wanted), "{headers}: {answer}");
    }
    // Two lengths, or a length and chunks: one reader's end of the request would be another's middle.
    let second = "GET /version HTTP/1.1\r\nHost: d\r\n\r\n";
    for headers in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n".to_owned(),
        format!("Content-Length: 4\r\nContent-Length: {length}\r\n"),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        "Content-Length: +4\r\n".to_owned(),
        "Content-Length: 0x4\r\n".to_owned(),
        "Content-Length : 4\r\n".to_owned(),
        format!("Content-Length: {}\r\n", u128::MAX),
    ] {
        let answer = ask(&headers, &format!("{whole}{second}"));
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{headers}: two answers to one request: {answer}");
        assert!(!answer.contains("\"ApiVersion\""), "{headers}: a request was smuggled: {answer}");
    }
    assert_eq!(world.api("GET", "/_ping", None).0, 200);
}

/// DA-07 and DA-10: a password stands where a login keeps it and nowhere else; also for an engine that tells all.
#[test]
fn a_password_is_in_one_file_that_is_its_owners_alone() {
    if !is_root() {
        return;
    }
    let canary = "canary-in-the-coal-mine";
    let encoded = "YW5uOmNhbmFyeS1pbi10aGUtY29hbC1taW5l";
    let mut world = World::start_with(&["--debug"]);
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    let mut hash = Command::new(blackbox::program());
    hash.args(["registry", "hash", "ann"]);
    std::fs::write(&users, finish(hash, format!("{canary}\n").as_bytes()).success().text()).unwrap();
    let mut said = String::new();
    for auth in ["basic", "token"] {
        let registry = Registry::with(&["--users", users.to_str().unwrap(), "--auth", auth]);
        let name = format!("{}/private:1", registry.address);
        let config = folder.path().join(auth);
        std::fs::create_dir(&config).unwrap();
        // A file that others may read becomes the owner's alone.
        std::fs::write(config.join("config.json"), "{}").unwrap();
        std::fs::set_permissions(config.join("config.json"), PermissionsExt::from_mode(0o644)).unwrap();
        let mut knarr = |words: &[&str], input: &str| {
            let mut command = world.knarr_command();
            command.env("DOCKER_CONFIG", &config).arg("--debug").args(words);
            let answer = finish(command, input.as_bytes());
            said += &format!("{words:?}: {}{}", answer.text(), answer.errors());
            answer
        };
        knarr(&["login", "-u", "ann", "--password-stdin", &registry.address], canary).success();
        knarr(&["tag", "busybox", &name], "").success();
        knarr(&["push", &name], "").success();
        knarr(&["rmi", &name], "").success();
        knarr(&["pull", &name], "").success();
        knarr(&["pull", &format!("{}/absent:1", registry.address)], "").exits(1);
        knarr(&["info"], "").success();
        knarr(&["inspect", &name], "").success();
        knarr(&["history", &name], "").success();
        let mode = std::fs::metadata(config.join("config.json")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "the mode of docker's configuration");
        let kept = std::fs::read_to_string(config.join("config.json")).unwrap();
        // A registry that hands out tokens is asked for one that stands for the password.
        let wanted = if auth == "basic" { encoded } else { "identitytoken" };
        assert!(kept.contains(wanted) && (auth == "basic" || !kept.contains(encoded)), "the login is kept: {kept}");
        drop(registry);
    }
    assert!(!said.contains(canary) && !said.contains(encoded), "a command printed the password: {said}");
    world.end_engine(rustix::process::Signal::TERM);
    let kept = all_files(world.dir());
    assert!(kept.len() > 3, "nothing was looked at");
    for path in kept {
        let bytes = std::fs::read(&path).unwrap_or_default();
        for text in [canary, encoded] {
            assert!(!contains(&bytes, text), "the password is in {}", path.display());
        }
    }
    world.start_engine(&[]);
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(all_files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// DA-08: heads that come byte by byte, bodies that never end, clients that say nothing.
#[test]
fn thousands_of_slow_clients_hold_nobody_up() {
    if !is_root() {
        return;
    }
    let world = World::empty();
    let clients = 3_000;
    // Ours and the engine's descriptors; the engine raises its own limit.
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: Some(clients + 500),
            ..rustix::process::getrlimit(rustix::process::Resource::Nofile)
        },
    )
    .unwrap();
    let parts: [&[u8]; 4] = [
        b"",
        b"GET /version HTTP/1.1\r\nHost: d\r\nX-Slow: ",
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{",
        b"POST /build HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ];
    let mut slow: Vec<UnixStream> = Vec::new();
    for at in 0..clients as usize {
        let mut stream = UnixStream::connect(world.socket()).unwrap();
        stream.write_all(parts[at % parts.len()]).unwrap();
        slow.push(stream);
        if at % 300 == 299 {
            for stream in &mut slow {
                // Those that were answered already are closed on the other side.
                let _ = stream.write(b"x");
            }
            assert_eq!(world.api("GET", "/version", None).0, 200, "with {at} slow clients");
            assert_eq!(world.api("GET", "/containers/json?all=1", None).0, 200, "with {at} slow clients");
        }
    }
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", world.engine_pid())).unwrap().count();
    assert!(descriptors() > clients as usize / 2, "the engine kept none of them: {}", descriptors());
    drop(slow);
    eventually("the engine has let go of them", || descriptors() < 100);
}

#[test]
fn a_head_without_end_is_cut() {
    if !is_root() {
        return;
    }
    let world = World::empty();
    let forms: [(&[u8], &[u8]); 3] = [
        (b"GET /version HTTP/1.1\r\nHost: d\r\n", b"X-Many: abcdefgh\r\n"),
        (b"GET /version HTTP/1.1\r\nHost: d\r\nX-Long: ", b"aaaaaaaaaaaaaaaa"),
        (b"GET /", b"aaaaaaaaaaaaaaaa"),
    ];
    for (begin, more) in forms {
        let mut stream = UnixStream::connect(world.socket()).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(begin).unwrap();
        let block = more.repeat(256);
        let mut sent = 0;
        let error = loop {
            match stream.write(&block) {
                Ok(count) => sent += count,
                Err(error) => break error,
            }
            assert!(sent < 8 << 20, "it reads a head of {sent} bytes");
        };
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "after {sent}: {error}");
    }
    assert_eq!(world.api("GET", "/_ping", None).0, 200);
}

/// Sockets of the processes that a name of theirs makes reachable: the name, abstract if it begins with `@`.
fn named_sockets(listing: &str, pids: &[u32]) -> Vec<String> {
    let descriptors = pids.iter().flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten());
    let targets: Vec<String> = descriptors
        .filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        .collect();
    let mut names = Vec::new();
    for line in listing.lines().skip(1) {
        let mut words = line.split_ascii_whitespace().skip(6);
        let (Some(inode), Some(name)) = (words.next(), words.next()) else { continue };
        if targets.contains(&format!("socket:[{inode}]")) {
            names.push(name.to_owned());
        }
    }
    names
}

/// CVE-2020-15257. Abstract sockets belong to the network namespace, and a container may share the host's.
#[test]
fn a_container_of_the_hosts_network_reaches_no_control_socket() {
    let Some(world) = world() else { return };
    world.knarr(["run", "-d", "--name", "box", "--network", "host", "busybox", "sleep", "1000"]).success();
    let seen = world.knarr(["exec", "box", "cat", "/proc/net/unix"]).success().text();
    let mut pids: Vec<u32> = world.keeper_pids().iter().map(|pid| pid.as_raw_nonzero().get() as u32).collect();
    assert!(!pids.is_empty());
    pids.push(world.engine_pid());
    // The engine's socket was made under a name of its own and then moved to its place.
    let suffix = format!(".{}", world.engine_pid());
    let names = named_sockets(&seen, &pids);
    let names: Vec<&str> = names.iter().map(|name| name.strip_suffix(&suffix).unwrap_or(name)).collect();
    // The listing is the host's: it has the engine's own socket in it, which has a place in the host's file system only.
    let socket = world.socket().to_string_lossy().into_owned();
    assert!(names.contains(&socket.as_str()), "{names:?}");
    for name in names {
        assert!(name.starts_with('/'), "{name} is abstract");
        world.knarr(["exec", "box", "ls", name]).exits(1);
        let path = Path::new(name);
        let (mode, folder) = (path.metadata().unwrap().mode(), path.parent().unwrap().metadata().unwrap().mode());
        assert!(mode & 0o007 == 0 || folder & 0o007 == 0, "{name}: {mode:o} in {folder:o}");
    }
}
