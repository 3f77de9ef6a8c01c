//! Registries from outside: the stock docker client and skopeo, Debian's docker-registry, `knarr registry`, the engine's own
//! registry, and an engine that dies in the middle of a pull.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blackbox::{World, eventually, is_root};
use sha2::Digest;

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("SKIPPED: no {program} on the path");
    }
    found
}

/// A world whose engine reads a registries file.
fn world_with(registries: &str) -> World {
    let file = tempfile::Builder::new().prefix("knarr-registries-").tempfile().expect("a temporary file");
    std::fs::write(file.path(), registries).expect("write the registries file");
    let world = World::with(&[("KNARR_REGISTRIES", file.path().to_str().expect("a plain path"))]);
    world.load(&blackbox::image::busybox());
    world
}

/// A child that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `knarr registry` on a free port; returns its address.
fn knarr_registry(folder: &Path, more: &[&str]) -> (Ended, String) {
    let mut command = Command::new(blackbox::program());
    command.args(["registry", "--listen", "127.0.0.1:0", "--root"]).arg(folder).args(more);
    let mut child = Ended(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start knarr registry"));
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().expect("a pipe was asked for")).read_line(&mut line).expect("its address");
    assert!(line.starts_with("127.0.0.1:"), "{line:?}");
    (child, line.trim().to_owned())
}

/// Debian's docker-registry on a free port, which its log tells.
fn docker_registry(folder: &Path) -> (Ended, String) {
    let file = folder.join("config.yml");
    let text = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
        folder.join("data").display()
    );
    std::fs::write(&file, text).expect("write its configuration");
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Ended(command.spawn().expect("start docker-registry"));
    let mut log = BufReader::new(child.0.stderr.take().expect("a pipe was asked for"));
    let mut line = String::new();
    let address = loop {
        line.clear();
        assert!(log.read_line(&mut line).expect("its log") > 0, "docker-registry ended");
        if let Some((_, rest)) = line.split_once("listening on ") {
            break rest.split(['"', ' ', '\n']).next().expect("an address").to_owned();
        }
    };
    // A full pipe would stop it.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    (child, address)
}

/// Pushes, removes, pulls and runs with the stock client.
fn daily_round(world: &World, registry: &str) {
    let name = format!("{registry}/team/box:1");
    world.docker(["tag", "busybox", &name]).success();
    let pushed = world.docker(["push", &name]).success();
    pushed.stdout_has(&format!("The push refers to repository [{registry}/team/box]")).stdout_has("1: digest: sha256:");
    world.docker(["push", &name]).success().stdout_has("Layer already exists");
    world.docker(["rmi", &name, "busybox"]).success();
    let pulled = world.docker(["pull", &name]).success();
    pulled.stdout_has("1: Pulling from team/box").stdout_has(&format!("Status: Downloaded newer image for {name}"));
    world.docker(["pull", &name]).success().stdout_has(&format!("Status: Image is up to date for {name}"));
    let digests = world.docker(["inspect", "-f", "{{range .RepoDigests}}{{println .}}{{end}}", &name]).success().text();
    let prefix = format!("{registry}/team/box@sha256:");
    let digest = digests.lines().find(|line| line.starts_with(&prefix));
    world.docker(["pull", digest.unwrap_or_else(|| panic!("{digests}"))]).success();
    world.docker(["rmi", "-f", &name]).success();
    // What is missing is pulled.
    world.docker(["run", "--rm", "--network", "none", &name, "echo", "hi"]).success().stdout("hi\n");
    world.docker(["pull", &format!("{registry}/team/box:no")]).exits(1).stderr_has("manifest unknown");
    world.docker(["push", &format!("{registry}/team/absent:1")]).exits(1).stderr_has("An image does not exist locally");
    world.docker(["tag", &name, "busybox"]).success();
}

#[test]
fn the_stock_client_does_its_round_with_every_registry() {
    if !is_root() || !has("docker") {
        return;
    }
    let world = world_with(r#"{"serve": {"listen": "127.0.0.1:0"}}"#);
    let folder = tempfile::tempdir().expect("a folder");
    let (_registry, address) = knarr_registry(folder.path(), &[]);
    daily_round(&world, &address);
    world.docker(["pull", &format!("{address}/nobody/none")]).exits(1).stderr_has("pull access denied for");
    let found = world.knarr(["search", &format!("{address}/team")]).success();
    found.stdout_has(&format!("{address}/team/box"));
    world
        .knarr(["manifest", "inspect", &format!("{address}/team/box:1")])
        .success()
        .stdout_has("\"digest\": \"sha256:");
    if has("docker-registry") {
        let folder = tempfile::tempdir().expect("a folder");
        let (_registry, address) = docker_registry(folder.path());
        daily_round(&world, &address);
    }
    world.docker(["pull", "127.0.0.1:1/x"]).exits(1).stderr_has("connection refused");
}

#[test]
fn the_engines_own_registry_takes_a_push_as_records() {
    if !is_root() || !has("docker") {
        return;
    }
    let world = world_with(r#"{"serve": {"listen": "127.0.0.1:0"}}"#);
    let log = world.engine_log();
    let (_, rest) = log.split_once("serving the registry address=127.0.0.1:").expect("the engine tells where it is");
    let registry = format!("localhost:{}", rest.split_whitespace().next().expect("a port"));
    let blobs = || std::fs::read_dir(world.root().join("blobs/sha256")).expect("blobs").count();
    let before = blobs();
    world.docker(["tag", "busybox", &format!("{registry}/own:1")]).success();
    world.docker(["push", &format!("{registry}/own:1")]).success().stdout_has("Pushed");
    assert_eq!(blobs(), before, "a push to the engine itself brings no blob");
    daily_round(&world, &registry);
    if has("skopeo") {
        let folder = tempfile::tempdir().expect("a folder");
        let copy = |from: &str, to: &str| {
            let mut command = Command::new("skopeo");
            command.args(["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", from, to]);
            let done = blackbox::finish(command, b"");
            done.success();
        };
        let layout = format!("oci:{}:x", folder.path().display());
        copy(&format!("docker://{registry}/own:1"), &layout);
        copy(&layout, &format!("docker://{registry}/from/skopeo:2"));
        world
            .docker(["run", "--rm", "--network", "none", &format!("{registry}/from/skopeo:2"), "echo", "hi"])
            .success()
            .stdout("hi\n");
    }
}

#[test]
fn a_login_is_kept_and_used() {
    if !is_root() || !has("docker") {
        return;
    }
    let world = World::start();
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("users");
    let mut hash = Command::new(blackbox::program());
    hash.args(["registry", "hash", "ann"]);
    std::fs::write(&users, blackbox::finish(hash, b"secret\n").success().text()).expect("write the users");
    let users = users.to_str().expect("a plain path");
    for auth in ["basic", "token"] {
        let root = tempfile::tempdir().expect("a folder");
        let (_registry, address) = knarr_registry(root.path(), &["--users", users, "--auth", auth]);
        let name = format!("{address}/private:1");
        world.docker(["tag", "busybox", &name]).success();
        world.docker(["push", &name]).exits(1);
        world.docker_with(["login", "-u", "ann", "--password-stdin", &address], b"wrong").exits(1);
        world.docker_with(["login", "-u", "ann", "--password-stdin", &address], b"secret").success();
        world.docker(["push", &name]).success();
        // `knarr` reads what docker has written.
        let knarr = |words: &[&str]| {
            let mut command = world.knarr_command();
            command.env("DOCKER_CONFIG", world.dir().join("docker-config")).args(words);
            blackbox::finish(command, b"")
        };
        knarr(&["pull", &name]).success().stdout_has("Image is up to date");
        knarr(&["logout", &address]).success().stdout_has("Removing login credentials");
        knarr(&["pull", &name]).exits(1);
        let mut login = world.knarr_command();
        login.env("DOCKER_CONFIG", world.dir().join("docker-config"));
        login.args(["login", "-u", "ann", "--password-stdin", &address]);
        blackbox::finish(login, b"secret").success().stdout_has("Login Succeeded");
        world.docker(["pull", &name]).success();
    }
    let log = world.engine_log();
    assert!(!log.contains("secret"), "a password is in the log");
}

/// What podman and skopeo bring, each other and the stock client can have, with and without a login.
#[test]
fn podman_and_skopeo_share_with_the_stock_client() {
    if !is_root() || !has("docker") {
        return;
    }
    let [podman, skopeo] = ["podman", "skopeo"].map(|program| {
        let there = has(program);
        if !there {
            eprintln!("skipped: no {program} here (apt-get install {program})");
        }
        there
    });
    let world = World::start();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let mut hash = Command::new(blackbox::program());
    hash.args(["registry", "hash", "ann"]);
    std::fs::write(at("users"), blackbox::finish(hash, b"secret\n").success().text()).expect("write the users");
    std::fs::write(at("auth"), r"{}").expect("write an empty configuration");
    for auth in [None, Some("basic"), Some("token")] {
        let root = tempfile::tempdir().expect("a folder");
        let users = at("users");
        let flags = auth.map_or(Vec::new(), |auth| vec!["--users", users.as_str(), "--auth", auth]);
        let (_registry, address) = knarr_registry(root.path(), &flags);
        let credentials: &[&str] = if auth.is_some() { &["--creds", "ann:secret"] } else { &[] };
        if auth.is_some() {
            world.docker_with(["login", "-u", "ann", "--password-stdin", &address], b"secret").success();
        }
        let name = |from: &str| format!("{address}/from/{from}:1");
        world.docker(["tag", "busybox", &name("docker")]).success();
        world.docker(["push", &name("docker")]).success();
        let mut everybody = vec!["docker"];
        let run = |program: &str, words: &[&str]| {
            let mut command = Command::new(program);
            if program == "podman" {
                command.args(["--root", &at("storage"), "--runroot", &at("run"), "--storage-driver", "vfs"]);
                command.args(["--events-backend", "none", "--cgroup-manager", "cgroupfs"]);
            }
            command.env("REGISTRY_AUTH_FILE", at("auth")).args(words);
            blackbox::finish_within(command, b"", std::time::Duration::from_secs(120))
        };
        if skopeo {
            everybody.push("skopeo");
            let (from, to) = (format!("docker://{}", name("docker")), format!("docker://{}", name("skopeo")));
            let layout = format!("oci:{}:x", at("layout"));
            let (mut read, mut write) = (
                Vec::from(["copy", "-q", "--src-tls-verify=false"]),
                Vec::from(["copy", "-q", "--dest-tls-verify=false"]),
            );
            if auth.is_some() {
                run("skopeo", &["copy", "-q", "--src-tls-verify=false", &from, &layout]).exits(1);
                read.extend(["--src-creds", "ann:secret"]);
                write.extend(["--dest-creds", "ann:secret"]);
            }
            run("skopeo", &[&read[..], &[from.as_str(), layout.as_str()]].concat()).success();
            // Under its digest alone, as it is.
            let index = std::fs::read(folder.path().join("layout/index.json")).expect("an index");
            let index: serde_json::Value = serde_json::from_slice(&index).expect("a document");
            let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
            let nameless = format!("{address}/from/nameless@{digest}");
            let place = format!("docker://{nameless}");
            run("skopeo", &[&write[..], &["--preserve-digests", layout.as_str(), place.as_str()]].concat()).success();
            world.docker(["pull", "-q", &nameless]).success();
            world.docker(["pull", &format!("{address}/from/nameless:latest")]).exits(1);
            // Packed on its way: another form of the same layers.
            write.push("--dest-compress-format=gzip");
            run("skopeo", &[&write[..], &[layout.as_str(), to.as_str()]].concat()).success();
        }
        if podman {
            everybody.push("podman");
            let insecure = "--tls-verify=false";
            if auth.is_some() {
                run("podman", &["pull", "-q", insecure, &name("docker")]).exits(125);
            }
            for from in everybody.iter().filter(|from| **from != "podman") {
                run("podman", &[&["pull", "-q", insecure], credentials, &[&name(from)]].concat()).success();
            }
            run("podman", &["tag", &name("docker"), &name("podman")]).success();
            let mut push = Vec::from(["push", "-q", insecure]);
            push.extend_from_slice(credentials);
            run("podman", &[&push[..], &[&name("podman")]].concat()).success();
            push.push("--format=v2s2");
            run("podman", &[&push[..], &[&name("podman"), &format!("{address}/from/podman:docker")]].concat())
                .success();
            world.docker(["pull", "-q", &format!("{address}/from/podman:docker")]).success();
            run("podman", &["rmi", "-af"]).success();
        }
        for from in everybody {
            world.docker(["rmi", &name(from)]);
            world.docker(["pull", "-q", &name(from)]).success();
            world
                .docker(["run", "--rm", "--network", "none", &name(from), "echo", from])
                .success()
                .stdout(&format!("{from}\n"));
        }
    }
}

/// A registry that gives half of a layer and then waits, until it is told to go on.
struct Slow {
    address: String,
    ranges: Arc<Mutex<Vec<String>>>,
    whole: Arc<AtomicBool>,
}

fn slow_registry(manifest: Vec<u8>, blobs: Vec<Vec<u8>>, half_of: String) -> Slow {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let (ranges, whole) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let slow = Slow { address, ranges: ranges.clone(), whole: whole.clone() };
    let parts = Arc::new((manifest, blobs, half_of));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (parts, ranges, whole) = (parts.clone(), ranges.clone(), whole.clone());
            std::thread::spawn(move || serve(stream, &parts, &ranges, &whole));
        }
    });
    slow
}

fn serve(
    mut stream: TcpStream,
    (manifest, blobs, half_of): &(Vec<u8>, Vec<Vec<u8>>, String),
    ranges: &Mutex<Vec<String>>,
    whole: &AtomicBool,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut line, mut range) = (String::new(), None);
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).ok()? == 0 || header == "\r\n" {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("range: bytes=") {
            range = value.split('-').next()?.parse::<usize>().ok();
        }
    }
    let blob = blobs.iter().find(|blob| path.ends_with(&hex::encode(sha2::Sha256::digest(blob))));
    let body = match (path.as_str(), blob) {
        (_, Some(blob)) => blob.as_slice(),
        ("/v2/", _) => b"{}",
        _ => manifest,
    };
    let first = range.unwrap_or(0);
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    if range.is_some() {
        ranges.lock().ok()?.push(path.clone());
    }
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Range: bytes {first}-{}/{}\r\nContent-Length: {}\r\n\r\n",
        body.len() - 1,
        body.len(),
        body.len() - first
    );
    stream.write_all(head.as_bytes()).ok()?;
    if path.ends_with(half_of.as_str()) && !whole.load(Ordering::SeqCst) {
        stream.write_all(&body[first..body.len() / 2]).ok()?;
        // Until the other side gives up: it is killed.
        drop(stream.read(&mut [0]));
        return Some(());
    }
    stream.write_all(&body[first..]).ok()
}

#[test]
fn a_pull_goes_on_where_a_killed_engine_stopped() {
    if !is_root() {
        return;
    }
    let data: Vec<u8> = (0..1_500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let entry = blackbox::image::Entry::File { mode: 0o644, data: data.clone() };
    let tar = blackbox::image::layer_tar(&[("big".to_owned(), entry)].into_iter().collect());
    // Of a compressed layer what arrived is kept.
    let mut gzip = Command::new("gzip");
    gzip.args(["-1", "-n", "-c"]);
    let layer = blackbox::finish(gzip, &tar).success().stdout;
    let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)));
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]},
    });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&layer), "size": layer.len()}],
    });
    let half_of = digest(&layer);
    let slow = slow_registry(manifest.to_string().into_bytes(), vec![config, layer.clone()], half_of);
    let mut world = World::start();
    let name = format!("{}/big:1", slow.address);
    let mut pull = world.knarr_command();
    pull.args(["pull", &name]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut pull = Ended(pull.spawn().expect("start knarr pull"));
    let partial = world.root().join("partial");
    let arrived = || -> u64 {
        let files = std::fs::read_dir(&partial).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
    };
    eventually("a good part of the layer is on the disk", || arrived() > layer.len() as u64 / 4);
    world.end_engine(rustix::process::Signal::KILL);
    let _ = pull.0.wait();
    slow.whole.store(true, Ordering::SeqCst);
    world.start_engine(&[]);
    world.knarr(["inspect", &name]).exits(1);
    world.knarr(["doctor"]).success();
    let begun = Instant::now();
    world.knarr(["pull", &name]).success();
    assert!(begun.elapsed() < Duration::from_secs(100));
    let ranges = slow.ranges.lock().expect("nobody panicked").len();
    assert!(ranges > 0, "the rest was asked for by its range");
    world.knarr(["create", "--name", "box", &name, "/x"]).success();
    let tar = world.knarr(["cp", "box:/big", "-"]).success().stdout;
    assert!(tar.windows(64).any(|window| window == &data[data.len() - 64..]), "the file's end is in its tar");
}
