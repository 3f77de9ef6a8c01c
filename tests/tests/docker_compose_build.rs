//! `docker compose build` by the stock client: through buildx's bake, and through the classic builder.

use std::process::Command;

use blackbox::{Answer, Registry, World, is_root};

/// A world whose docker client has compose and buildx.
fn world() -> Option<World> {
    if !is_root() || Command::new("docker").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs root and a docker client on the path");
        return None;
    }
    let world = World::start();
    (world.plugin("docker-compose") && world.plugin("docker-buildx")).then_some(world)
}

/// How compose builds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Bake,
    /// BuildKit, without bake.
    Sessions,
    Classic,
}

fn compose(world: &World, way: Way, words: &[&str]) -> Answer {
    let mut command = world.docker_command();
    let flag = |yes: bool| if yes { "1" } else { "0" };
    command
        .env("COMPOSE_BAKE", flag(way == Way::Bake))
        .env("DOCKER_BUILDKIT", flag(way != Way::Classic))
        .env("BUILDKIT_PROGRESS", "plain")
        .env("NO_COLOR", "1")
        .env("TOKEN", "t0ken-t0ken")
        .args(["compose", "--ansi", "never"])
        .args(words)
        .current_dir(world.dir());
    blackbox::finish_within(command, b"", std::time::Duration::from_secs(120))
}

fn write(world: &World, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = world.dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn run(world: &World, image: &str, script: &str) -> String {
    world.docker(["run", "--rm", "--network", "none", image, "sh", "-c", script]).success().text()
}

/// What every way understands.
const PLAIN: &str = r#"
name: plain
services:
  app:
    build:
      context: app
      dockerfile: Other.Dockerfile
      target: ship
      args: { WHO: compose }
      labels: { made: here }
    image: app:1
    command: sleep 1000
    stop_grace_period: 0s
  other:
    build: other
"#;

const PLAIN_FILES: &[(&str, &str)] = &[
    ("compose.yml", PLAIN),
    (
        "app/Other.Dockerfile",
        "FROM busybox AS ship\nARG WHO=nobody\nCOPY . /app\nRUN echo for $WHO > /who\nFROM ship\nRUN false\n",
    ),
    ("app/file", "one"),
    ("app/left.out", ""),
    ("app/.dockerignore", "*.out\n"),
    ("other/Dockerfile", "FROM busybox\nRUN echo other > /who\n"),
];

fn builds_plainly(way: Way) {
    let Some(world) = world() else { return };
    write(&world, PLAIN_FILES);
    compose(&world, way, &["build"]).success();
    assert_eq!(run(&world, "app:1", "cat /who; ls /app"), "for compose\nOther.Dockerfile\nfile");
    assert_eq!(run(&world, "plain-other", "cat /who"), "other");
    assert_eq!(world.docker(["inspect", "-f", "{{.Config.Labels.made}}", "app:1"]).success().text(), "here");
    // Again: the same image. With other arguments: another.
    let id = || world.docker(["images", "-q", "--no-trunc", "app:1"]).success().text();
    let first = id();
    compose(&world, way, &["build", "app"]).success();
    assert_eq!(id(), first);
    compose(&world, way, &["build", "--build-arg", "WHO=flag", "app"]).success();
    assert_eq!(run(&world, "app:1", "cat /who"), "for flag");
    // What changed is built on the way up, and what is up is what was built.
    compose(&world, way, &["up", "-d", "--build", "app"]).success();
    let shown = compose(&world, way, &["exec", "-T", "app", "cat", "/who", "/app/file"]).success().text();
    assert_eq!(shown, "for compose\none");
    std::fs::write(world.dir().join("app/file"), "two").unwrap();
    compose(&world, way, &["up", "-d", "--build", "app"]).success();
    assert_eq!(compose(&world, way, &["exec", "-T", "app", "cat", "/app/file"]).success().text(), "two");
    compose(&world, way, &["down", "-t", "0", "--rmi", "all"]).success();
    // A step that fails fails the whole, with its line.
    write(&world, &[("other/Dockerfile", "FROM busybox\nRUN echo loud >&2; exit 7\n")]);
    let failed = compose(&world, way, &["build"]);
    assert_ne!(failed.code, 0);
    let told = format!("{}{}", failed.text(), failed.errors());
    assert!(told.contains("loud") && told.contains("exit 7"), "{told}");
    world.knarr(["doctor"]).success();
}

#[test]
fn bake_builds_what_a_compose_file_says() {
    builds_plainly(Way::Bake);
}

#[test]
fn sessions_build_what_a_compose_file_says() {
    builds_plainly(Way::Sessions);
}

#[test]
fn the_classic_builder_builds_what_a_compose_file_says() {
    builds_plainly(Way::Classic);
}

/// What only BuildKit's protocol carries.
#[test]
fn bake_brings_secrets_caches_contexts_and_more() {
    let Some(world) = world() else { return };
    let registry = Registry::start();
    let text = r#"
name: rich
secrets:
  token: { environment: TOKEN }
  file: { file: secret.txt }
services:
  app:
    image: REGISTRY/app:1
    build:
      context: app
      dockerfile_inline: |
        FROM base
        COPY --from=more /extra /extra
        RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /count
        RUN --mount=type=secret,id=renamed,target=/s cat /s | tr a-z A-Z > /shout
        RUN --network=none ls /sys/class/net > /net
        RUN grep pinned /etc/hosts > /hosts; ulimit -n > /files; df -k /dev/shm | tail -1 > /shm
        ARG BUILDARCH
        ENV ON=$$BUILDARCH
      secrets: [token, { source: file, target: renamed }]
      additional_contexts:
        base: service:base
        more: more
      cache_from: ["type=registry,ref=REGISTRY/cache"]
      cache_to: ["type=registry,ref=REGISTRY/cache,mode=max"]
      tags: ["REGISTRY/app:2"]
      extra_hosts: ["pinned=10.9.8.7"]
      ulimits: { nofile: 777 }
      shm_size: 8m
      platforms: ["linux/amd64"]
      no_cache_filter: []
  base:
    build: base
    image: REGISTRY/base-of-app
"#;
    let text = text.replace("REGISTRY", &registry.address).replace("      no_cache_filter: []\n", "");
    write(
        &world,
        &[
            ("compose.yml", &text),
            ("secret.txt", "from a file"),
            ("app/unused", ""),
            ("more/extra", "extra"),
            ("base/Dockerfile", "FROM busybox\nRUN echo base > /base\n"),
        ],
    );
    compose(&world, Way::Bake, &["build", "--push"]).success();
    let app = format!("{}/app:2", registry.address);
    assert_eq!(run(&world, &app, "cat /base /extra /shout /net"), "base\nextraFROM A FILElo");
    assert_eq!(run(&world, &app, "cat /count /files; cut -f1 /hosts"), "11\n777\n10.9.8.7");
    assert!(run(&world, &app, "cat /shm").contains(" 8192 "));
    let found = Command::new("grep").arg("-rlF").arg("t0ken-t0ken").arg(world.root()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "the secret is on the disk");
    // Pushed, and the cache with it: another engine needs neither steps nor base.
    for name in ["app:1", "app:2", "cache"] {
        let reference = format!("{}/{name}", registry.address);
        world.docker(["buildx", "imagetools", "inspect", &reference]).success();
    }
    world.docker(["rmi", "-f", &app]).success();
    world.docker(["builder", "prune", "-af"]).success();
    let told = compose(&world, Way::Bake, &["build", "app"]).success();
    let told = format!("{}{}", told.text(), told.errors());
    assert!(told.contains("importing cache manifest from") && told.contains("CACHED"), "{told}");
    world.knarr(["doctor"]).success();
}
