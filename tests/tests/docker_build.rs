//! Dockerfiles built by the stock client's classic builder, and the images run.

use std::path::Path;

use blackbox::{Answer, World, context, is_root};

fn world() -> Option<World> {
    let there = is_root() && std::process::Command::new("docker").arg("--version").output().is_ok();
    there.then(World::start)
}

fn build(world: &World, context: &Path, flags: &[&str]) -> Answer {
    let mut command = world.docker_command();
    command.env("DOCKER_BUILDKIT", "0").arg("build").args(flags).arg(context);
    blackbox::finish(command, b"")
}

fn run(world: &World, image: &str, words: &[&str]) -> String {
    world.docker(["run", "--rm", "--network", "none", image].iter().chain(words)).success().text()
}

#[test]
fn stages_caches_and_configuration() {
    let Some(world) = world() else { return };
    let dockerfile = r#"
FROM busybox AS build
ARG V=1
ENV A=b
WORKDIR /src
COPY . .
RUN echo "built $V $A $(cat kept.txt)" > result && ls > names
FROM unbuilt AS never
RUN exit 1
FROM busybox
WORKDIR /out
COPY --from=build --chown=7:8 --chmod=640 /src/result /src/names /out/
LABEL made="by test"
EXPOSE 80
ENV GREETING=hi
USER 7
ENTRYPOINT ["cat"]
CMD ["result"]
"#;
    let folder = context(&[
        ("Dockerfile", dockerfile),
        ("kept.txt", "k"),
        ("left.out", "l"),
        ("sub/also.out", "a"),
        (".dockerignore", "**/*.out\n.dockerignore\nDockerfile\n"),
    ]);
    build(&world, folder.path(), &["-t", "app", "--build-arg", "V=2"])
        .success()
        .stdout_has("Successfully tagged app:latest");
    assert_eq!(run(&world, "app", &[]), "built 2 b k");
    assert_eq!(run(&world, "app", &["names"]), "kept.txt\nnames\nresult\nsub");
    let stat =
        world.docker(["run", "--rm", "--network", "none", "--entrypoint", "stat", "app", "-c", "%u:%g %a", "result"]);
    stat.success().stdout("7:8 640\n");
    let image = &world.docker(["inspect", "app"]).success().json()[0];
    assert_eq!(image["Config"]["Labels"]["made"], "by test");
    assert_eq!(image["Config"]["User"], "7");
    assert_eq!(image["Config"]["WorkingDir"], "/out");
    assert!(image["Config"]["ExposedPorts"]["80/tcp"].is_object());
    // Nothing changed: nothing is done, and the image is the very same.
    let id = world.docker(["images", "-q", "--no-trunc", "app"]).text();
    let again = build(&world, folder.path(), &["-t", "app", "--build-arg", "V=2"]).success();
    assert_eq!(again.text().matches("Using cache").count(), 5, "{}", again.text());
    assert_eq!(world.docker(["images", "-q", "--no-trunc", "app"]).text(), id);
    // A file that is left out changes nothing; one that is copied does.
    std::fs::write(folder.path().join("left.out"), "changed").unwrap();
    assert_eq!(build(&world, folder.path(), &["-q", "--build-arg", "V=2"]).success().text(), id);
    std::fs::write(folder.path().join("kept.txt"), "changed").unwrap();
    assert_ne!(build(&world, folder.path(), &["-q", "--build-arg", "V=2"]).success().text(), id);
    world.docker(["rmi", "-f", "app"]).success();
    world.docker(["builder", "prune", "-af"]).success();
    world.knarr(["doctor"]).success();
}

#[test]
fn every_kind_of_run_mount() {
    let Some(world) = world() else { return };
    let dockerfile = r#"
FROM busybox AS tools
RUN mkdir /t && echo tool > /t/name
FROM busybox
RUN --mount=type=bind,target=/ctx cat /ctx/data > /a && ! touch /ctx/x
RUN --mount=type=bind,rw,source=sub,target=/sub echo new > /sub/new && cat /sub/file > /b
RUN --mount=type=bind,from=tools,source=/t,target=/t cat /t/name > /c
RUN --mount=type=bind,from=tools,target=/all cat /all/t/name > /d
RUN --mount=type=cache,target=/cache,id=c1 echo one >> /cache/lines
RUN --mount=type=tmpfs,target=/scratch,size=1m touch /scratch/x && grep ' /scratch ' /proc/mounts > /e
RUN --mount=type=secret,id=none,target=/s test ! -e /s
"#;
    let folder = context(&[("Dockerfile", dockerfile), ("data", "context"), ("sub/file", "inner")]);
    build(&world, folder.path(), &["-t", "mounts"]).success();
    assert_eq!(run(&world, "mounts", &["sh", "-c", "cat /a /b; echo; cat /c /d"]), "contextinner\ntool\ntool");
    // Mount points leave no trace, and nothing that was mounted is in the image.
    let left = "for p in /ctx /sub /t /all /cache /scratch /s; do test ! -e $p || echo $p; done";
    assert_eq!(run(&world, "mounts", &["sh", "-c", left]), "");
    assert!(!folder.path().join("sub/new").exists());
    // A cache mount is there in the next build.
    let more =
        context(&[("Dockerfile", "FROM busybox\nRUN --mount=type=cache,target=/other,id=c1 cp /other/lines /seen\n")]);
    build(&world, more.path(), &["-t", "more"]).success();
    assert_eq!(run(&world, "more", &["cat", "/seen"]), "one");
    world.knarr(["doctor"]).success();
}

#[test]
fn a_failing_step_says_where_and_why_and_leaves_nothing() {
    let Some(world) = world() else { return };
    let folder =
        context(&[("Dockerfile", "FROM busybox\nRUN echo before\nRUN echo oops >&2; exit 42\nRUN echo after\n")]);
    let failed = build(&world, folder.path(), &["-t", "broken"]).exits(42);
    failed
        .stdout_has("   3 | >>> RUN echo oops >&2; exit 42")
        .stdout_has("oops")
        .stderr_has("The command '/bin/sh -c echo oops >&2; exit 42' returned a non-zero code: 42");
    world.docker(["image", "inspect", "broken"]).exits(1);
    for (text, part) in [
        ("FROM busybox\nRUM x\n", "dockerfile parse error on line 2: unknown instruction: RUM (did you mean RUN?)"),
        ("FROM busybox\nCOPY nowhere /x\n", "\"nowhere\": not found"),
        ("FROM busybox\nCOPY --from=0 a b\n", "refers to current build stage"),
        ("FROM 127.0.0.1:1/not-here:1\n", "127.0.0.1:1"),
    ] {
        let folder = context(&[("Dockerfile", text)]);
        build(&world, folder.path(), &[]).exits(1).stderr_has(part);
    }
    world.knarr(["doctor"]).success();
}

/// BL-02, BL-07, BL-08: links in contexts, stages and steps lead nowhere on the host.
#[test]
fn links_lead_nowhere_outside() {
    let Some(world) = world() else { return };
    let folder = context(&[("Dockerfile", "FROM busybox\nCOPY link/hostname /stolen\n")]);
    std::os::unix::fs::symlink("/etc", folder.path().join("link")).unwrap();
    build(&world, folder.path(), &[]).exits(1).stderr_has("not found");
    // A step that puts a link in the place of its mount point's parent.
    let victim = world.dir().join("victim");
    std::fs::create_dir_all(&victim).unwrap();
    let text = format!(
        "FROM busybox\nRUN --mount=type=tmpfs,target=/deep/point mkdir /other; mount 2>/dev/null; ln -s {0} /link\nRUN --mount=type=bind,source=../../../..{0},target=/x true\n",
        victim.display()
    );
    let folder = context(&[("Dockerfile", &text)]);
    build(&world, folder.path(), &[]).exits(1).stderr_has("not found");
    assert!(victim.exists());
    world.knarr(["doctor"]).success();
}

/// Steps have a network as containers have: the default bridge, none, or the host's.
#[test]
fn steps_have_a_network() {
    let Some(world) = world() else { return };
    let text = "FROM busybox\nRUN ip -o addr show eth0 > /default\nRUN --network=none ls /sys/class/net > /none\n";
    let folder = context(&[("Dockerfile", text)]);
    build(&world, folder.path(), &["-t", "net"]).success();
    assert!(run(&world, "net", &["cat", "/default"]).contains("inet "));
    assert_eq!(run(&world, "net", &["cat", "/none"]), "lo");
    build(&world, folder.path(), &["--network", "none"]).exits(1);
    world.knarr(["doctor"]).success();
}

#[test]
fn knarr_builds_what_docker_builds() {
    let Some(world) = world() else { return };
    let folder = context(&[
        ("sub/Dockerfile", "FROM busybox\nARG WHO\nCOPY . /all\nRUN echo $WHO > /who && ls /all > /names\n"),
        ("one", "1"),
        ("two.tmp", "2"),
        (".dockerignore", "*.tmp\nsub\n"),
    ]);
    let path = folder.path().to_str().unwrap();
    let file = folder.path().join("sub/Dockerfile");
    let id = folder.path().join("id.tmp");
    let flags =
        ["-t", "mine", "--build-arg", "WHO=me", "--iidfile", id.to_str().unwrap(), "-f", file.to_str().unwrap()];
    let built = world.knarr(["build"].iter().chain(&flags).chain(&[path])).success();
    built.stdout_has("Successfully tagged mine:latest");
    assert_eq!(run(&world, "mine", &["cat", "/who", "/names"]), "me\none");
    let made = std::fs::read_to_string(&id).unwrap();
    assert_eq!(world.docker(["images", "-q", "--no-trunc", "mine"]).text(), made);
    world.knarr(["build", "/nowhere"]).exits(1).stderr_has("path \"/nowhere\" not found");
    world.knarr(["builder", "prune", "-af"]).success().stdout_has("Total reclaimed space");
}

/// The same Dockerfile gives bit-identical images when it says what time it is.
#[test]
fn a_given_time_makes_images_reproducible() {
    let Some(world) = world() else { return };
    let folder = context(&[("Dockerfile", "FROM busybox\nCOPY a /a\nRUN echo x > /b\nWORKDIR /w\n"), ("a", "a")]);
    let epoch = ["-q", "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    let first = build(&world, folder.path(), &epoch).success().text();
    std::fs::write(folder.path().join("a"), "a").unwrap();
    let second = build(&world, folder.path(), &epoch).success().text();
    assert_eq!(first, second);
    assert_eq!(world.docker(["inspect", "-f", "{{.Created}}", &first]).text(), "2023-11-14T22:13:20Z");
}

#[test]
fn tests_notice_a_weakened_build() {
    blackbox::weakened(&[("copy-root", "links_lead_nowhere_outside")]);
}
