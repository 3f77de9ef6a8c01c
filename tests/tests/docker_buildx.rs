//! Dockerfiles built by the stock client with buildx: BuildKit's protocol on the engine's socket.

use std::os::unix::fs::symlink;
use std::path::Path;

use blackbox::{Answer, World, context, image, is_root};

/// A world whose docker client has buildx, or `None` (said aloud) where that cannot be.
fn world() -> Option<World> {
    if !is_root() || std::process::Command::new("docker").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs root and a docker client on the path");
        return None;
    }
    let plugin = image::client("docker-buildx")?;
    let world = World::start();
    let plugins = world.dir().join("docker-config/cli-plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    symlink(plugin.canonicalize().unwrap(), plugins.join("docker-buildx")).unwrap();
    Some(world)
}

fn docker(world: &World, words: &[&str], input: &str) -> Answer {
    let mut command = world.docker_command();
    command.args(words).env("BUILDKIT_PROGRESS", "plain").env("NO_COLOR", "1");
    blackbox::finish(command, input.as_bytes())
}

/// `docker build`, which is buildx when the engine says so.
fn build(world: &World, context: &Path, flags: &[&str]) -> Answer {
    let folder = context.display().to_string();
    docker(world, &[&["build"][..], flags, &[&folder]].concat(), "")
}

fn run(world: &World, image: &str, words: &[&str]) -> String {
    world.docker(["run", "--rm", "--network", "none", image].iter().chain(words)).success().text()
}

const SMALL: &str = "FROM busybox\nRUN echo made > /made\nCOPY a.txt sub /files/\nENV GREETING=hi\n";

#[test]
fn an_image_is_built_named_run_and_cached() {
    let Some(world) = world() else { return };
    let folder = context(&[("Dockerfile", SMALL), ("a.txt", "a"), ("sub/b.txt", "b"), ("unused", "u")]);
    let told = build(&world, folder.path(), &["-t", "app", "-t", "app:2"]).success().errors();
    for part in [
        "building with \"default\" instance using docker driver",
        "[internal] load build definition from Dockerfile",
        "[internal] load metadata for docker.io/library/busybox:latest",
        "[internal] load .dockerignore",
        "[internal] load build context",
        "RUN echo made > /made",
        "naming to docker.io/library/app:2 done",
    ] {
        assert!(told.contains(part), "{part:?} is not in:\n{told}");
    }
    assert_eq!(run(&world, "app:2", &["cat", "/made", "/files/a.txt", "/files/b.txt"]), "made\nab");
    let again = build(&world, folder.path(), &["-t", "app"]).success().errors();
    assert_eq!(again.matches("CACHED").count(), 3, "base and two steps:\n{again}");
    // Only what the build copies is sent, and only what has changed.
    std::fs::write(folder.path().join("a.txt"), "changed").unwrap();
    build(&world, folder.path(), &["-t", "app"]).success();
    assert_eq!(run(&world, "app", &["cat", "/files/a.txt"]), "changed");
    let id = build(&world, folder.path(), &["-q"]).success().text();
    assert_eq!(id, world.docker(["inspect", "-f", "{{.Id}}", "app"]).success().text());
}

#[test]
fn failures_show_the_line() {
    let Some(world) = world() else { return };
    let folder = context(&[("Dockerfile", "FROM busybox\nRUN echo so far\nRUN echo loud; exit 3\n")]);
    let told = build(&world, folder.path(), &[]).exits(1).errors();
    assert!(told.contains("Dockerfile:3") && told.contains("   3 | >>> RUN echo loud; exit 3"), "{told}");
    let why = "process \"/bin/sh -c echo loud; exit 3\" did not complete successfully: exit code: 3";
    assert!(told.contains(&format!("ERROR: failed to build: failed to solve: {why}")), "{told}");
    let folder = context(&[("Dockerfile", "FROM busybox\nCOPPY a b\n")]);
    let told = build(&world, folder.path(), &[]).exits(1).errors();
    assert!(told.contains("   2 | >>> COPPY a b") && told.contains("did you mean COPY?"), "{told}");
}

#[test]
fn contexts_come_from_folders_standard_input_and_names() {
    let Some(world) = world() else { return };
    let folder = context(&[("Dockerfile", SMALL), ("a.txt", "a"), ("sub/b.txt", "b")]);
    let path = folder.path().display().to_string();
    docker(&world, &["build", "-t", "one", "-f", "-", &path], "FROM busybox\nCOPY a.txt /\n").success();
    assert_eq!(run(&world, "one", &["cat", "/a.txt"]), "a");
    docker(&world, &["build", "-t", "two", "-"], "FROM busybox\nRUN echo alone > /x\n").success();
    assert_eq!(run(&world, "two", &["cat", "/x"]), "alone");
    let tar = std::process::Command::new("tar").args(["-C", &path, "-c", "."]).output().unwrap().stdout;
    let mut command = world.docker_command();
    command.args(["build", "-t", "three", "-"]);
    blackbox::finish(command, &tar).success();
    assert_eq!(run(&world, "three", &["cat", "/files/b.txt"]), "b");
    let named = format!("other={}", folder.path().join("sub").display());
    let text = "FROM base\nCOPY --from=other b.txt /named\n";
    let flags = ["--build-context", &named, "--build-context", "base=docker-image://busybox"];
    docker(&world, &[&["build", "-t", "four", "-f", "-"][..], &flags, &[&path]].concat(), text).success();
    assert_eq!(run(&world, "four", &["cat", "/named"]), "b");
}

#[test]
fn a_context_is_what_the_folder_is_at_every_build() {
    let Some(world) = world() else { return };
    let folder = context(&[("Dockerfile", "FROM busybox\nCOPY . /c\n"), ("plain", "1"), ("dir/deep/file", "2")]);
    let at = |name: &str| folder.path().join(name);
    symlink("plain", at("link")).unwrap();
    std::fs::hard_link(at("plain"), at("twin")).unwrap();
    std::fs::set_permissions(at("plain"), std::os::unix::fs::PermissionsExt::from_mode(0o4750)).unwrap();
    let look = || {
        build(&world, folder.path(), &["-t", "c"]).success();
        run(
            &world,
            "c",
            &["sh", "-c", "cd /c && find . | sort | xargs stat -c '%n %F %a %u:%g %s %h' && (readlink link || true)"],
        )
    };
    let first = look();
    assert!(first.contains("./plain regular file 4750 0:0 1 2") && first.ends_with("plain"), "{first}");
    // A directory becomes a link and a link a directory, a file loses its twin, another is gone.
    std::fs::remove_dir_all(at("dir")).unwrap();
    symlink("/etc", at("dir")).unwrap();
    std::fs::remove_file(at("link")).unwrap();
    std::fs::create_dir(at("link")).unwrap();
    std::fs::write(at("link/passwd"), "mine").unwrap();
    std::fs::remove_file(at("twin")).unwrap();
    let second = look();
    assert!(
        second.contains("./dir symbolic link") && second.contains("./link/passwd regular file 644 0:0 4 1"),
        "{second}"
    );
    assert!(!second.contains("twin") && !second.contains("deep"), "{second}");
    assert_eq!(look(), second);
    // A .dockerignore leaves out what it says.
    std::fs::write(at(".dockerignore"), "*\n!plain\n").unwrap();
    assert_eq!(look().lines().count(), 2, "the folder and one file");
}

#[test]
fn a_context_of_many_small_files_is_told_whole() {
    let Some(world) = world() else { return };
    let folder =
        context(&[("Dockerfile", "FROM busybox\nRUN --mount=type=bind,target=/c ls /c/many | wc -l > /count\n")]);
    std::fs::create_dir(folder.path().join("many")).unwrap();
    for number in 0..60_000 {
        std::fs::write(folder.path().join(format!("many/{number}")), "").unwrap();
    }
    let build = |name: &str| {
        let mut command = world.docker_command();
        command.args(["build", "-t", name]).arg(folder.path());
        blackbox::finish_within(command, b"", std::time::Duration::from_secs(240)).success();
        run(&world, name, &["cat", "/count"])
    };
    assert_eq!(build("first"), "60000");
    std::fs::remove_file(folder.path().join("many/7")).unwrap();
    assert_eq!(build("second"), "59999");
}

#[test]
fn secrets_reach_their_step_and_nothing_else() {
    let Some(world) = world() else { return };
    let text = "FROM busybox\nRUN --mount=type=secret,id=key,required cat /run/secrets/key | wc -c > /count\n";
    let folder = context(&[("Dockerfile", text), ("key", "s3cr3t-s3cr3t")]);
    let why = build(&world, folder.path(), &["-t", "s"]).exits(1).errors();
    assert!(why.contains("secret key: not found") && why.contains(">>> RUN --mount=type=secret"), "{why}");
    let source = format!("id=key,src={}", folder.path().join("key").display());
    build(&world, folder.path(), &["-t", "s", "--secret", &source]).success();
    assert_eq!(run(&world, "s", &["cat", "/count"]), "13");
    let found = std::process::Command::new("grep").arg("-rlF").arg("s3cr3t-s3cr3t").arg(world.root()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "the secret is on the disk");
}

#[test]
fn outputs_go_to_the_client() {
    let Some(world) = world() else { return };
    let text = "FROM scratch\nCOPY --chmod=640 a.txt sub /out/\n";
    let folder = context(&[("Dockerfile", text), ("a.txt", "a"), ("sub/b.txt", "b")]);
    let (there, tar) = (world.dir().join("there"), world.dir().join("files.tar"));
    build(&world, folder.path(), &["-o", &there.display().to_string()]).success();
    assert_eq!(std::fs::read_to_string(there.join("out/b.txt")).unwrap(), "b");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(there.join("out/a.txt")).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o640);
    build(&world, folder.path(), &["-o", &format!("type=tar,dest={}", tar.display())]).success();
    let listed = std::process::Command::new("tar").arg("-tf").arg(&tar).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains("out/a.txt\n") && listed.contains("out/b.txt\n"), "{listed}");
    assert_eq!(world.docker(["images", "-aq"]).success().text().lines().count(), 1, "only the base is in the store");
}

#[test]
fn bake_builds_targets_on_targets() {
    let Some(world) = world() else { return };
    let bake = r#"
group "default" { targets = ["app", "copy"] }
target "base" {
  dockerfile-inline = "FROM busybox\nENV WHO=base\nRUN echo made > /base"
}
target "app" {
  contexts = { base = "target:base" }
  dockerfile-inline = "FROM base\nRUN echo on $WHO > /app"
  tags = ["app"]
}
target "copy" {
  contexts = { base = "target:base" }
  dockerfile-inline = "FROM busybox\nCOPY --from=base /base /copied"
  tags = ["copy"]
}
"#;
    let folder = context(&[("docker-bake.hcl", bake)]);
    let mut command = world.docker_command();
    command.args(["buildx", "bake", "--progress", "plain"]).current_dir(folder.path());
    blackbox::finish(command, b"").success();
    assert_eq!(run(&world, "app", &["cat", "/app", "/base"]), "on base\nmade");
    assert_eq!(run(&world, "copy", &["cat", "/copied"]), "made");
    blackbox::eventually("what stood for the result is gone", || {
        world.docker(["images", "-aq"]).success().text().lines().count() == 3
    });
}

#[test]
fn usage_history_and_workers_are_told() {
    let Some(world) = world() else { return };
    let folder = context(&[("Dockerfile", SMALL), ("a.txt", "a"), ("sub/b.txt", "b")]);
    build(&world, folder.path(), &["-t", "app"]).success();
    docker(&world, &["buildx", "inspect"], "").success().stdout_has("Driver:        docker");
    docker(&world, &["buildx", "ls"], "").success().stdout_has("running");
    let used = docker(&world, &["buildx", "du", "--verbose"], "").success().text();
    assert!(used.contains("Type:         source.local") && used.contains("RUN echo made > /made"), "{used}");
    let builds = docker(&world, &["buildx", "history", "ls", "--format", "{{.Ref}}"], "").success().text();
    assert_eq!(builds.lines().count(), 1, "{builds}");
    let told = docker(&world, &["buildx", "history", "logs"], "").success();
    let told = format!("{}{}", told.text(), told.errors());
    assert!(told.contains("RUN echo made > /made"), "{told}");
    docker(&world, &["buildx", "history", "inspect"], "").success().stdout_has("Dockerfile");
    docker(&world, &["buildx", "prune", "-af"], "").success();
    let used = docker(&world, &["buildx", "du"], "").success().text();
    assert!(!used.contains("true"), "nothing is left:\n{used}");
    docker(&world, &["buildx", "history", "rm", "--all"], "").success();
    let builds = docker(&world, &["buildx", "history", "ls", "--format", "{{.Ref}}"], "").success().text();
    assert_eq!(builds, "");
}

#[test]
fn a_client_that_goes_away_ends_its_build() {
    let Some(world) = world() else { return };
    let folder = context(&[("Dockerfile", "FROM busybox\nRUN echo begun && sleep 1000\n")]);
    let mut command = world.docker_command();
    command.args(["buildx", "build", "--progress", "plain"]).arg(folder.path());
    let log = world.dir().join("client.log");
    command.stdout(std::process::Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let mut client = command.spawn().unwrap();
    blackbox::eventually("the step runs", || std::fs::read_to_string(&log).unwrap().contains(" begun"));
    // No word of goodbye: docker is gone, and the plugin that it started with it.
    let plugin = std::process::Command::new("pkill").args(["-KILL", "-P", &client.id().to_string()]).status().unwrap();
    assert!(plugin.success());
    client.kill().unwrap();
    client.wait().unwrap();
    let listed = || docker(&world, &["buildx", "history", "ls", "--format", "{{.Status}}"], "").success().text();
    blackbox::eventually("the build has ended", || listed() == "Error");
    docker(&world, &["buildx", "history", "inspect"], "").success().stdout_has("Canceled");
    let sleeps = || std::process::Command::new("pgrep").args(["-fx", "sleep 1000"]).output().unwrap().stdout.is_empty();
    blackbox::eventually("its step is gone", sleeps);
    let doctor = world.knarr(["doctor"]);
    doctor.success();
}

#[test]
fn every_door_gives_the_same_image() {
    let Some(world) = world() else { return };
    let text = r#"# syntax=docker/dockerfile:1
ARG BASE=busybox
FROM $BASE AS build
ARG V=1
WORKDIR /src
COPY . .
RUN <<EOF
echo "built $V" > result
ln -s result link
EOF
FROM busybox
COPY --from=build --chown=7:8 /src /out/
ENV A=b GREETING="hi there"
LABEL made="by test"
EXPOSE 80 90/udp
VOLUME /data
HEALTHCHECK --interval=5s CMD true
USER 7
STOPSIGNAL SIGINT
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["cat"]
CMD ["/out/result"]
"#;
    let folder =
        context(&[("Dockerfile", text), ("a.txt", "a"), ("sub/b.txt", "b"), (".dockerignore", "*.md\n"), ("x.md", "")]);
    let flags = ["--no-cache", "--build-arg", "V=2", "--label", "by=caller"];
    build(&world, folder.path(), &[&["-t", "modern"][..], &flags].concat()).success();
    let mut classic = world.docker_command();
    classic.env("DOCKER_BUILDKIT", "0").args(["build", "-t", "classic"]).args(flags).arg(folder.path());
    blackbox::finish(classic, b"").success();
    let facts = |image: &str| {
        let config =
            world.docker(["inspect", "-f", "{{json .Config}} {{.Os}}/{{.Architecture}}", image]).success().text();
        let history = world.docker(["history", "--no-trunc", "--format", "{{.CreatedBy}}", image]).success().text();
        let list = "find / -xdev -not -path '/proc/*' -not -path '/sys/*' -not -path '/dev/*' | sort | xargs stat -c '%n %F %a %u:%g %s'";
        let files =
            world.docker(["run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "sh", image, "-c", list]);
        format!("{config}\n{history}\n{}", files.success().text())
    };
    assert_eq!(facts("modern"), facts("classic"));
}
