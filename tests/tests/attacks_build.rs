//! Dockerfiles, contexts and requests that mean harm: the BL group of the attack catalogue.
//!
//! *Defence* is the name by which a program built with `--features weaken` leaves it out (`KNARR_WEAKEN`): every test file ends with
//! `tests_notice_a_weakened_build`, which shows with such a program (`KNARR_WEAKENED_BIN`) that the test fails then.
//!
//! | case | test | defence |
//! |---|---|---|
//! | BL-01 shared cache mounts | `a_cache_mount_leads_nowhere_outside` here, and `knarr_build.rs`: `a_shared_cache_mount_leads_nowhere_outside` | `cache-source` |
//! | BL-02 mount points' cleanup | `docker_build.rs`: `links_lead_nowhere_outside`, and `a_step_cannot_move_the_cleanup_elsewhere` here | `stubs` |
//! | BL-03 entitlements | `knarr_build.rs`: `steps_get_no_more_than_was_allowed`, and `no_door_gives_more_than_was_allowed` here | `entitlements` |
//! | BL-04 malformed requests | `requests_that_make_no_sense_are_refused`; fuzz targets of `build` and `buildkit` | `context-root` |
//! | BL-05 foreign frontends | `a_foreign_frontend_is_never_run` | `frontend` |
//! | BL-06 git and URLs | `docker_build_sources.rs`: `git_addresses_run_nothing_and_lead_nowhere` | `git-options`, `git-protocols`, `git-subdir` |
//! | BL-07 mount sources | `mount_sources_stay_where_they_belong` | `mount-source`, `cache-id` |
//! | BL-08 contexts | `docker_build.rs`: `links_lead_nowhere_outside`, `docker_buildx.rs`; the image crate's `privileged_attacks` for what is unpacked | `copy-root` |
//! | BL-09 secrets | `knarr_build.rs`, `docker_buildx.rs`: `secrets_reach_their_step_and_nothing_else` | `secrets` |
//! | BL-10 cache poisoning | `an_image_with_the_same_story_is_no_cache` | `cache-key` |
//! | BL-11 bombs | `bombs_are_refused_at_once` | `nesting` |

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use blackbox::{Answer, World, is_root};

fn world() -> Option<World> {
    if !is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    Some(World::start())
}

fn context(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
    folder
}

fn build(world: &World, context: &Path, flags: &[&str]) -> Answer {
    world.knarr(["build"].iter().chain(flags).chain(&[context.to_str().unwrap()]))
}

fn run(world: &World, image: &str, script: &str) -> String {
    world.knarr(["run", "--rm", "--network", "none", image, "sh", "-c", script]).success().text()
}

/// BL-01: a step leaves a link in a cache mount; another mount of the same cache names a path through it.
#[test]
fn a_cache_mount_leads_nowhere_outside() {
    let Some(world) = world() else { return };
    let victim = world.dir().join("victim");
    std::fs::create_dir(&victim).unwrap();
    let place = victim.display();
    let text = format!("FROM busybox\nRUN --mount=type=cache,target=/c,id=x ln -s {place} /c/sub\n");
    build(&world, context(&text).path(), &[]).success();
    let text = "FROM busybox\nRUN --mount=type=cache,target=/d,id=x,source=sub touch /d/stolen; true\n";
    build(&world, context(text).path(), &[]).exits(1).stderr_has("there is no from");
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    world.knarr(["doctor"]).success();
}

/// BL-02: a step puts a link where the builder made a mount point, or where it lies: what the builder removes afterwards is only
/// what it made itself.
#[test]
fn a_step_cannot_move_the_cleanup_elsewhere() {
    let Some(world) = world() else { return };
    let victim = world.dir().join("victim");
    std::fs::create_dir_all(victim.join("point")).unwrap();
    // The mount point's parent can be moved away while the mount is there, and a link takes its place.
    let text = format!(
        "FROM busybox\nRUN --mount=type=tmpfs,target=/deep/point mv /deep /moved; ln -s {} /deep; true\nRUN --mount=type=cache,target=/a/b/c rm -rf /a 2>/dev/null; ln -sfn {} /a; true\n",
        victim.display(),
        victim.display()
    );
    let folder = context(&text);
    build(&world, folder.path(), &["-t", "moved"]).success();
    assert!(victim.join("point").is_dir(), "the host's folder is gone");
    world.knarr(["doctor"]).success();
}

/// BL-03: rights that a Dockerfile asks for are refused unless the caller gave them, before anything runs.
#[test]
fn no_door_gives_more_than_was_allowed() {
    let Some(world) = world() else { return };
    let doors: Vec<bool> = if world.plugin("docker-buildx") { vec![false, true] } else { vec![false] };
    for (text, entitlement) in [
        ("FROM busybox\nRUN --security=insecure touch /ran\n", "security.insecure"),
        ("FROM busybox\nRUN --network=host touch /ran\n", "network.host"),
    ] {
        let folder = context(text);
        for buildx in &doors {
            let mut command = if *buildx { world.docker_command() } else { world.knarr_command() };
            command.arg("build").arg(folder.path());
            let refused = blackbox::finish(command, b"").exits(1);
            let told = format!("{}{}", refused.text(), refused.errors());
            assert!(told.contains(entitlement), "buildx {buildx}: {told}");
        }
        let mut classic = world.docker_command();
        classic.env("DOCKER_BUILDKIT", "0").arg("build").arg(folder.path());
        let refused = blackbox::finish(classic, b"").exits(1);
        assert!(format!("{}{}", refused.text(), refused.errors()).contains(entitlement));
    }
    let usage = world.api("GET", "/system/df", None).1;
    assert!(!usage.contains("touch /ran"), "{usage}");
}

/// BL-04: nonsense at every door is an answer, and the engine goes on.
#[test]
fn requests_that_make_no_sense_are_refused() {
    let Some(world) = world() else { return };
    let pid = world.engine_pid();
    let speak = |head: &str, body: &[u8]| {
        let mut stream = UnixStream::connect(world.socket()).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        // An engine that has seen enough may close before it has read everything.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        let mut answer = Vec::new();
        let _ = stream.take(1 << 20).read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let noise: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for query in [
        "buildargs=[1]",
        "buildargs={\"A\":{}}",
        "labels=nonsense",
        "memory=x",
        "memory=99999999999999999999",
        "cpuquota=-0x1",
        "t=UPPER%20CASE",
        "remote=ftp%3A%2F%2Fx",
        "remote=file%3A%2F%2F%2Fetc",
        "platform=a%2Fb%2Fc%2Fd%2Fe",
        "target=%00",
        "dockerfile=..%2F..%2F..%2Fetc%2Fpasswd",
        "dockerfile=%2Fetc%2Fpasswd",
        "cachefrom=%7B",
        "networkmode=container%3Ax",
        "version=2",
        "outputs=%5B",
    ] {
        for body in [&b""[..], &noise] {
            let head = format!(
                "POST /v1.47/build?{query} HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let answer = speak(&head, body);
            let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
            assert!(status.starts_with('4') || status.starts_with('5'), "{query}: {answer}");
            assert!(!answer.contains("root:x:0"), "{query}: {answer}");
        }
    }
    // Frames of our own door that say one thing and are another, and BuildKit's doors with noise behind the upgrade.
    let own = "POST /v1.47/build HTTP/1.1\r\nHost: d\r\nContent-Type: application/vnd.knarr.build.v1\r\nConnection: close\r\n";
    for body in [&b"\x00\x00\x00\x00\xff\xff\xff\xff"[..], b"\x07\x00\x00\x00\x00\x00\x00\x02{}", &noise] {
        let answer = speak(&format!("{own}Content-Length: {}\r\n\r\n", body.len()), body);
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    for (door, more) in [("grpc", ""), ("session", "X-Docker-Expose-Session-Uuid: x\r\n"), ("session", "")] {
        let head =
            format!("POST /v1.47/{door} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{more}\r\n");
        let mut stream = UnixStream::connect(world.socket()).unwrap();
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&noise)).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{door}: it does not end: {error}"));
    }
    assert_eq!(world.engine_pid(), pid);
    world.knarr(["run", "--rm", "busybox", "true"]).success();
    world.knarr(["doctor"]).success();
}

/// BL-05: a `# syntax=` line never makes the builder run an image that the file names.
#[test]
fn a_foreign_frontend_is_never_run() {
    let Some(world) = world() else { return };
    // It would be there to be run.
    world.knarr(["tag", "busybox", "evil/frontend:1"]).success();
    let folder = context("# syntax=evil/frontend:1\nFROM busybox\nRUN touch /ran\n");
    if world.plugin("docker-buildx") {
        let mut command = world.docker_command();
        command.arg("build").arg(folder.path());
        blackbox::finish(command, b"").exits(1).stderr_has("runs no others");
    }
    let answer = build(&world, folder.path(), &[]);
    let told = format!("{}{}", answer.text(), answer.errors());
    assert!(answer.code == 0 || told.contains("evil/frontend"), "{told}");
    assert_eq!(world.knarr(["ps", "-aq"]).success().text(), "", "nothing of it was started");
}

/// BL-07: where a mount takes its files from, by every way out that has been tried.
#[test]
fn mount_sources_stay_where_they_belong() {
    let Some(world) = world() else { return };
    let canary = world.dir().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("file"), "canary-of-the-host").unwrap();
    let place = canary.display().to_string();
    // Links in the context and in a stage that point at the host.
    for source in ["link/file", "link", "../../../../../../../../..", "/", "up/up/up/up/up/etc"] {
        for from in ["", "from=stage,"] {
            let text = format!(
                "FROM busybox AS stage\nRUN ln -s {place} /link && ln -s .. /up\nFROM busybox\nRUN --mount=type=bind,{from}source={source},target=/m find /m -maxdepth 2 -type f | xargs cat 2>/dev/null > /found; true\n"
            );
            let folder = context(&text);
            std::os::unix::fs::symlink(&place, folder.path().join("link")).unwrap();
            std::os::unix::fs::symlink("..", folder.path().join("up")).unwrap();
            // Refused, or found within.
            if build(&world, folder.path(), &["-t", "mounted"]).code == 0 {
                assert_eq!(run(&world, "mounted", "grep -c canary-of-the-host /found || true"), "0", "{from}{source}");
            }
        }
    }
    // A cache's id is no path.
    let text = format!(
        "FROM busybox\nRUN --mount=type=cache,id=../../../../{place},target=/c echo mine > /c/mine; ls /c > /listed\nRUN --mount=type=cache,id={place},target=/c ls /c >> /listed\n"
    );
    build(&world, context(&text).path(), &["-t", "cached"]).success();
    assert_eq!(run(&world, "cached", "cat /listed"), "mine");
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 1, "the host's folder has something new");
    world.knarr(["doctor"]).success();
}

/// BL-10: an image whose history tells of the same steps, with other files, is not what those steps made.
#[test]
fn an_image_with_the_same_story_is_no_cache() {
    let Some(world) = world() else { return };
    let text = "FROM busybox\nRUN echo good > /file\n";
    let mut forged = blackbox::image::busybox();
    forged.tags = vec!["forged:1".into()];
    let evil = blackbox::image::Entry::File { mode: 0o644, data: b"evil\n".to_vec() };
    forged.layers.push([("file".to_owned(), evil)].into());
    world.load(&forged);
    let folder = context(text);
    build(&world, folder.path(), &["-t", "app", "--cache-from", "forged:1"]).success();
    assert_eq!(run(&world, "app", "cat /file"), "good");
    // The same words on another base are another step, and so are other bytes under the same name and size.
    let other = context("FROM forged:1\nRUN echo good > /file2 && cat /file > /seen\n");
    build(&world, other.path(), &["-t", "other"]).success();
    let mut honest = forged.clone();
    let good = blackbox::image::Entry::File { mode: 0o644, data: b"fine\n".to_vec() };
    *honest.layers.last_mut().unwrap() = [("file".to_owned(), good)].into();
    world.load(&honest);
    build(&world, other.path(), &["-t", "other"]).success();
    assert_eq!(run(&world, "other", "cat /seen"), "fine");
}

/// BL-11: texts that would grow without end when they are read.
#[test]
fn bombs_are_refused_at_once() {
    let Some(world) = world() else { return };
    let mut doubling = "FROM busybox\nARG A0=xxxxxxxxxxxxxxxx\n".to_owned();
    for step in 1..64 {
        doubling.push_str(&format!("ARG A{step}=$A{0}$A{0}\n", step - 1));
    }
    let mut defaults = "x".to_owned();
    for _ in 0..20_000 {
        defaults = format!("${{A:-{defaults}}}");
    }
    let bombs = [
        ("doubling", doubling),
        ("defaults", format!("FROM busybox\nENV B={defaults}\n")),
        ("heredoc", format!("FROM busybox\nRUN <<EOF\n{}\n", "x".repeat(5 << 20))),
        ("lines", format!("FROM busybox\n{}", "RUN true\n".repeat(1_000_000))),
        ("stages", "FROM busybox\n".repeat(200_000)),
        ("continued", format!("FROM busybox\nRUN true {}\n", "\\\n ".repeat(2_000_000))),
        ("itself", "FROM a AS a\n".to_owned()),
        (
            "pattern",
            format!("FROM busybox\nARG A=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nENV B=${{A##{}b}}\n", "*a".repeat(2000)),
        ),
    ];
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", world.engine_pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    };
    let before = memory();
    for (name, text) in bombs {
        let folder = context(&text);
        let mut command = world.knarr_command();
        command.args(["build", "--check"]).arg(folder.path());
        let answer = blackbox::finish_within(command, b"", std::time::Duration::from_secs(20));
        assert!(matches!(answer.code, 0 | 1), "{name}: {answer}");
        // A text may be read whole, and told of in an answer; it may not grow.
        let now = memory();
        assert!(now < before + 512, "{name}: {before} MiB before, {now} MiB after");
    }
    world.knarr(["run", "--rm", "busybox", "true"]).success();
}

#[test]
fn tests_notice_a_weakened_build() {
    blackbox::weakened(&[
        ("cache-source", "a_cache_mount_leads_nowhere_outside"),
        ("stubs", "a_step_cannot_move_the_cleanup_elsewhere"),
        ("entitlements", "no_door_gives_more_than_was_allowed"),
        ("context-root", "requests_that_make_no_sense_are_refused"),
        ("frontend", "a_foreign_frontend_is_never_run"),
        ("mount-source", "mount_sources_stay_where_they_belong"),
        ("cache-id", "mount_sources_stay_where_they_belong"),
        ("cache-key", "an_image_with_the_same_story_is_no_cache"),
        ("nesting", "bombs_are_refused_at_once"),
    ]);
}
