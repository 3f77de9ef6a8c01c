//! Dockerfiles as users write them: a Python web application with pip, a Node application, a static binary, heredocs everywhere,
//! every kind of `RUN --mount`. They build from base images in a registry of ours by all four doors: the stock client without
//! and with buildx, compose, and `knarr build`; Docker's own engine gives the same; and what comes out runs.
//!
//! The base images are made of Debian's packages (and of this machine's Node) that `scripts/clients` has fetched.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use blackbox::image::client;
use blackbox::{Answer, Registry, StockEngine, World, context, eventually, is_root, tree};
use serde_json::Value;

/// A world, and a registry that has `debian:12` and perhaps `node:20`.
struct Place {
    world: World,
    registry: Registry,
    buildx: bool,
    compose: bool,
    stock: Option<StockEngine>,
}

/// What only some doors can bring into a build.
#[derive(Default, Clone, Copy)]
struct Brought<'a> {
    /// `id=...,src=...`
    secrets: &'a [&'a str],
    /// `default=SOCKET`
    ssh: Option<&'a str>,
}

impl Brought<'_> {
    fn flags(&self) -> Vec<String> {
        let mut flags: Vec<String> = self.secrets.iter().map(|secret| format!("--secret={secret}")).collect();
        flags.extend(self.ssh.map(|ssh| format!("--ssh={ssh}")));
        flags
    }
}

impl Place {
    fn with(node: bool) -> Option<Self> {
        if !is_root() || Command::new("docker").arg("--version").output().is_err() {
            return None;
        }
        let debian = client("debian")?;
        let node = if node { Some(client("node")?) } else { None };
        let registry = Registry::start();
        let folder = tempfile::tempdir().unwrap();
        let world = World::empty();
        let tar = folder.path().join("base.tar");
        let packed = Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&debian).arg(".").status();
        assert!(packed.unwrap().success());
        let mut name = format!("{}/debian:12", registry.address);
        let path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        world.docker(["import", "-c", path, "-c", "CMD [\"bash\"]", tar.to_str().unwrap(), &name]).success();
        if let Some(node) = &node {
            let dockerfile = folder.path().join("Dockerfile.node");
            std::fs::write(&dockerfile, format!("FROM {name}\nCOPY --from=node / /\n")).unwrap();
            name = format!("{}/node:20", registry.address);
            let node = format!("--build-context=node={}", node.display());
            let mut command = world.knarr_command();
            command.args(["build", "-q", "-t", &name, &node, "-f"]).arg(&dockerfile).arg(folder.path());
            blackbox::finish(command, b"").success();
        }
        world.docker(["push", "-q", &name]).success();
        // From now on it is only in the registry.
        world.docker(["rmi", &name]).success();
        world.docker(["builder", "prune", "-af"]).success();
        let (buildx, compose) = (world.plugin("docker-buildx"), world.plugin("docker-compose"));
        Some(Self { world, registry, buildx, compose, stock: StockEngine::start() })
    }

    /// Builds by every door: the same image. Docker's engine: the same files and configuration. What the classic door said.
    fn build(&self, context: &Path, tag: &str) -> Answer {
        self.build_with(context, tag, Brought::default())
    }

    fn build_with(&self, context: &Path, tag: &str, brought: Brought<'_>) -> Answer {
        let world = &self.world;
        let argument = format!("REGISTRY={}", self.registry.address);
        let more = brought.flags();
        let finish = |command: Command| blackbox::finish_within(command, b"", std::time::Duration::from_secs(240));
        let mut command = world.docker_command();
        command.env("DOCKER_BUILDKIT", "0").args(["build", "-t", tag, "--build-arg", &argument]).arg(context);
        let classic = finish(command).success();
        let first = world.docker(["images", "-q", "--no-trunc", tag]).success().text();
        let mut doors = Vec::new();
        let mut command = world.knarr_command();
        command.args(["build", "-q", "--build-arg", &argument]).args(&more).arg(context);
        doors.push(("knarr build", finish(command).success().text()));
        if self.buildx {
            let mut command = world.docker_command();
            command
                .env("DOCKER_BUILDKIT", "1")
                .args(["build", "-q", "--build-arg", &argument])
                .args(&more)
                .arg(context);
            doors.push(("buildx", finish(command).success().text()));
        }
        for (door, built) in &doors {
            assert_eq!(*built, first, "{door}");
        }
        if self.compose && self.buildx {
            // Compose says of an image that it is its own: all else is the same.
            let image = self.compose_build(context, tag, brought);
            let facts = |image: &str| {
                let told = world.docker(["image", "inspect", image]).success().json();
                let mut configuration = tree::configuration(&told);
                let config = configuration["Config"].as_object_mut().unwrap();
                if let Some(labels) = config.get_mut("Labels").and_then(Value::as_object_mut) {
                    labels.retain(|key, _| !key.starts_with("com.docker.compose."));
                }
                config
                    .retain(|key, value| key != "Labels" || value.as_object().is_some_and(|labels| !labels.is_empty()));
                (told[0]["RootFS"].clone(), configuration)
            };
            assert_eq!(facts(&image), facts(tag), "compose");
        }
        if let Some(stock) = self.stock.as_ref().filter(|_| self.buildx) {
            let mut command = stock.docker_command(world);
            command.args(["build", "-q", "-t", tag, "--network", "none", "--build-arg", &argument]);
            // Without its first line: the frontend that it names is built in there too, and would be fetched from afar.
            let own = tempfile::tempdir().unwrap();
            let text = std::fs::read_to_string(context.join("Dockerfile")).unwrap();
            std::fs::write(own.path().join("Dockerfile"), text.replace("# syntax=docker/dockerfile:1\n", "#\n"))
                .unwrap();
            command.arg("-f").arg(own.path().join("Dockerfile")).args(&more).arg(context);
            finish(command).success();
            self.same_as(stock, tag);
        }
        classic
    }

    /// Files and configuration are those that Docker's engine has under this name.
    fn same_as(&self, stock: &StockEngine, tag: &str) {
        let world = &self.world;
        let there = |words: &[&str]| {
            let mut command = stock.docker_command(world);
            command.args(words);
            command
        };
        let here = |words: &[&str]| {
            let mut command = world.docker_command();
            command.args(words);
            command
        };
        let inspected = |answer: Answer| -> Value { tree::configuration(&answer.success().json()) };
        let theirs = inspected(stock.docker(world, &["image", "inspect", tag]));
        assert_eq!(inspected(world.docker(["image", "inspect", tag])), theirs, "configuration of {tag}");
        let (ours, theirs): (BTreeMap<_, _>, _) = (tree::files(&here, tag), tree::files(&there, tag));
        assert!(!ours.is_empty());
        assert_eq!(tree::difference(&ours, &theirs), [""; 0], "files of {tag}: ours / theirs");
    }

    /// By `docker compose build`; the name of what came out.
    fn compose_build(&self, context: &Path, tag: &str, brought: Brought<'_>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut build = serde_json::json!({ "context": context, "args": { "REGISTRY": self.registry.address } });
        let mut secrets = serde_json::Map::new();
        for secret in brought.secrets {
            let (id, file) = secret.trim_start_matches("id=").split_once(",src=").unwrap();
            secrets.insert(id.to_owned(), serde_json::json!({ "file": file }));
        }
        if !secrets.is_empty() {
            build["secrets"] = secrets.keys().cloned().collect::<Vec<_>>().into();
        }
        if let Some(ssh) = brought.ssh {
            build["ssh"] = vec![ssh].into();
        }
        let image = format!("{tag}-by-compose");
        let file = serde_json::json!({
            "name": "doors",
            "services": { "app": { "build": build, "image": image } },
            "secrets": secrets,
        });
        std::fs::write(folder.path().join("compose.yml"), file.to_string()).unwrap();
        let mut command = self.world.docker_command();
        command.args(["compose", "--ansi", "never", "build"]).env("COMPOSE_BAKE", "1").current_dir(folder.path());
        blackbox::finish_within(command, b"", std::time::Duration::from_secs(240)).success();
        image
    }

    /// What a page on a port of a running container says, asked from inside.
    fn ask(&self, container: &str, program: &[&str], expected: &str) {
        eventually("the application answers", || {
            let answer = self.world.docker(["exec", container].iter().chain(program));
            answer.code == 0 && answer.text() == expected
        });
    }
}

#[test]
fn a_python_web_application_with_pip() {
    let Some(place) = Place::with(false) else { return };
    let dockerfile = r#"# syntax=docker/dockerfile:1
ARG REGISTRY
FROM ${REGISTRY}/debian:12 AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app

FROM base AS wheels
COPY greeting/ /src/greeting/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip3 wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels /src/greeting

FROM base
COPY requirements.txt .
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/pip \
    pip3 install --break-system-packages --no-index --find-links /wheels -r requirements.txt
COPY --chown=1000:1000 app.py .
USER 1000
EXPOSE 8000
HEALTHCHECK --interval=1s CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/')"]
CMD ["python3", "app.py"]
"#;
    let app = r#"
from http.server import BaseHTTPRequestHandler, HTTPServer
import greeting

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = greeting.hello("world").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"#;
    let folder = context(&[
        ("Dockerfile", dockerfile),
        ("requirements.txt", "greeting==1.0\n"),
        ("app.py", app),
        (
            "greeting/setup.py",
            "from setuptools import setup\nsetup(name='greeting', version='1.0', py_modules=['greeting'])\n",
        ),
        ("greeting/greeting.py", "def hello(who):\n    return f'hello {who}'\n"),
        (".dockerignore", "Dockerfile\n.dockerignore\n"),
    ]);
    place.build(folder.path(), "webapp");
    let world = &place.world;
    let container = world.docker(["run", "-d", "webapp"]).success().text();
    let fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/').read().decode())";
    place.ask(&container, &["python3", "-c", fetch], "hello world");
    eventually("it is healthy", || {
        world.docker(["inspect", "-f", "{{.State.Health.Status}}", &container]).text() == "healthy"
    });
    world.docker(["rm", "-f", &container]).success();
    // The application changed: pip does not run again.
    std::fs::write(folder.path().join("app.py"), app.replace("world", "cache")).unwrap();
    let again = place.build(folder.path(), "webapp").text();
    assert_eq!(again.matches("Using cache").count(), 5, "{again}");
    world.knarr(["doctor"]).success();
}

#[test]
fn a_node_application_with_npm() {
    let Some(place) = Place::with(true) else { return };
    let dockerfile = r#"
ARG REGISTRY
FROM ${REGISTRY}/node:20 AS deps
WORKDIR /app
COPY package.json ./
COPY vendor/ ./vendor/
RUN --mount=type=cache,target=/root/.npm npm install --offline --omit=dev --no-audit --no-fund

FROM ${REGISTRY}/node:20
ENV NODE_ENV=production
WORKDIR /app
COPY --from=deps /app/node_modules ./node_modules
COPY . .
USER 1000:1000
EXPOSE 3000
ENTRYPOINT ["node"]
CMD ["server.js"]
"#;
    let folder = context(&[
        ("Dockerfile", dockerfile),
        (
            "package.json",
            r#"{"name": "app", "version": "1.0.0", "private": true, "dependencies": {"greet": "file:vendor/greet-1.0.0.tgz"}}"#,
        ),
        ("package/package.json", r#"{"name": "greet", "version": "1.0.0", "main": "index.js"}"#),
        ("package/index.js", "module.exports = who => `hello ${who}`;\n"),
        (
            "server.js",
            "require('http').createServer((_, out) => out.end(require('greet')('node'))).listen(3000, '127.0.0.1');\n",
        ),
        (".dockerignore", "node_modules\npackage\nDockerfile\n"),
    ]);
    std::fs::create_dir(folder.path().join("vendor")).unwrap();
    let mut pack = Command::new("tar");
    pack.args(["-czf", "vendor/greet-1.0.0.tgz", "package"]).current_dir(folder.path());
    assert!(pack.status().unwrap().success());
    place.build(folder.path(), "nodeapp");
    let world = &place.world;
    let container = world.docker(["run", "-d", "nodeapp"]).success().text();
    let fetch = "require('http').get('http://127.0.0.1:3000/', r => r.on('data', d => process.stdout.write(d)))";
    place.ask(&container, &["node", "-e", fetch], "hello node");
    world.docker(["rm", "-f", &container]).success();
    world.knarr(["doctor"]).success();
}

/// Compiled in one stage, alone in the other; heredocs wherever they may be.
#[test]
fn a_static_binary_and_heredocs_everywhere() {
    let Some(place) = Place::with(false) else { return };
    let dockerfile = r#"# syntax=docker/dockerfile:1
ARG REGISTRY
FROM ${REGISTRY}/debian:12 AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG WHO=scratch
COPY <<hello.c <<-"notes" /src/
static long call(long n, long a, long b, long c) {
    long r;
    __asm__ volatile ("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
void _start(void) {
    call(1, 1, (long) "hello $WHO\\n", sizeof "hello $WHO\\n" - 1);
    call(60, 0, 0, 0);
}
hello.c
	$WHO stays as it is
	notes
RUN <<EOF
mkdir /out
tcc -nostdlib -static -o /out/hello /src/hello.c
/out/hello
EOF
RUN <<PY
#!/usr/bin/env python3
import os
os.symlink("hello", "/out/alias")
open("/out/notes", "w").write(open("/src/notes").read().upper())
PY
RUN cat > /out/both <<one && cat >> /out/both <<'two'
first $WHO
one
second $WHO
two
FROM scratch
COPY --from=build /out/ /
ADD <<made /etc/made
by ${0:-a heredoc}
made
ENTRYPOINT ["/alias"]
"#;
    let folder = context(&[("Dockerfile", dockerfile)]);
    place.build(folder.path(), "static");
    let world = &place.world;
    world.docker(["run", "--rm", "--network", "none", "static"]).success().stdout("hello scratch\n");
    let out = tempfile::tempdir().unwrap();
    let files = out.path().join("files");
    let mut command = world.knarr_command();
    let registry = format!("REGISTRY={}", place.registry.address);
    command.args(["build", "--build-arg", &registry, "-o"]).arg(&files).arg(folder.path());
    blackbox::finish(command, b"").success();
    let read = |name: &str| std::fs::read_to_string(out.path().join("files").join(name)).unwrap();
    assert_eq!(read("notes"), "$WHO STAYS AS IT IS\n");
    assert_eq!(read("both"), "first scratch\nsecond $WHO\n");
    assert_eq!(read("etc/made"), "by a heredoc\n");
    world.knarr(["doctor"]).success();
}

/// Answers for an ssh agent that has no keys.
fn agent(socket: &Path) {
    use std::io::{Read, Write};
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                // Whatever the question: SSH_AGENT_IDENTITIES_ANSWER, none.
                let mut question = [0; 5];
                while stream.read_exact(&mut question).is_ok() {
                    if stream.write_all(&[0, 0, 0, 5, 12, 0, 0, 0, 0]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Every kind of `RUN --mount` with its owner, mode and other options, in one file. Secret and agent are optional in it, so that
/// the classic door builds it too; where they are there, they have to be right.
#[test]
fn one_file_with_every_kind_of_run_mount() {
    let Some(place) = Place::with(false) else { return };
    let dockerfile = r#"# syntax=docker/dockerfile:1
ARG REGISTRY
FROM ${REGISTRY}/debian:12 AS tools
RUN mkdir -p /kit/bin && printf '#!/bin/sh\necho tool $*\n' > /kit/bin/tool && chmod 755 /kit/bin/tool && echo other > /kit/other

FROM ${REGISTRY}/debian:12
WORKDIR /work
RUN mkdir /out
RUN --mount=type=bind,target=. cat data sub/file > /out/bind && ! touch here
RUN --mount=type=bind,source=sub,target=/sub,rw echo more >> /sub/file && cp /sub/file /out/bind-rw
RUN --mount=type=bind,source=sub/file,target=/one cat /one > /out/bind-file
RUN --mount=type=bind,from=tools,source=/kit,target=/kit /kit/bin/tool of a stage > /out/bind-from
RUN --mount=type=bind,from=tools,target=/all,readonly cat /all/kit/other > /out/bind-whole
RUN --mount=type=cache,target=/c,id=plain,uid=11,gid=12,mode=0750 stat -c '%u:%g %a' /c > /out/cache && touch /c/kept
RUN --mount=type=cache,target=/c,id=plain,uid=11,gid=12,mode=0750,sharing=locked test -e /c/kept
RUN --mount=type=cache,target=/c,id=plain test ! -e /c/kept
RUN --mount=type=cache,target=/c,id=own,sharing=private test ! -e /c/kept
RUN --mount=type=cache,target=/c,id=filled,from=tools,source=/kit cat /c/other > /out/cache-from
RUN --mount=type=cache,target=/c,id=plain,uid=11,gid=12,mode=0750,ro ! touch /c/x 2>/dev/null && ls /c > /out/cache-ro
RUN --mount=type=tmpfs,target=/t,size=1048576 stat -f -c '%T' /t > /out/tmpfs && ! head -c 2000000 /dev/zero 2>/dev/null > /t/big
RUN --mount=type=secret,id=token,target=/s,uid=21,gid=22,mode=0440 \
    test ! -e /s || { test "$(stat -c '%u:%g %a' /s)" = '21:22 440' && test "$(cat /s)" = sesame; }
RUN --mount=type=secret,id=token,env=TOKEN test -z "$TOKEN" || test "$TOKEN" = sesame
RUN --mount=type=secret,id=token test ! -e /run/secrets/token || test "$(stat -c '%u:%g %a' /run/secrets/token)" = '0:0 400'
RUN --mount=type=ssh,uid=31,gid=32,mode=0660,target=/agent <<EOF
    set -e
    test -S "$SSH_AUTH_SOCK" || exit 0
    test "$SSH_AUTH_SOCK $(stat -c '%u:%g %a' /agent)" = '/agent 31:32 660'
    python3 -B -c 'import socket as s; c = s.socket(s.AF_UNIX); c.connect("/agent"); c.sendall(bytes([0, 0, 0, 1, 11])); assert c.makefile("rb").read(9) == bytes([0, 0, 0, 5, 12, 0, 0, 0, 0])'
EOF
RUN test -z "$SSH_AUTH_SOCK$TOKEN" && for p in /sub /one /kit /all /c /t /s /agent /run/secrets/token; do test ! -e $p || echo $p; done > /out/left
"#;
    let folder = context(&[("Dockerfile", dockerfile), ("data", "data\n"), ("sub/file", "file\n")]);
    let own = tempfile::tempdir().unwrap();
    let (socket, token) = (own.path().join("agent"), own.path().join("token"));
    agent(&socket);
    std::fs::write(&token, "sesame").unwrap();
    let (secret, ssh) = (format!("id=token,src={}", token.display()), format!("default={}", socket.display()));
    place.build_with(folder.path(), "mounts", Brought { secrets: &[&secret], ssh: Some(&ssh) });
    let world = &place.world;
    let read = |name: &str| {
        let file = format!("/out/{name}");
        world.docker(["run", "--rm", "--network", "none", "mounts", "cat", &file]).success().text()
    };
    let names =
        ["bind", "bind-rw", "bind-file", "bind-from", "bind-whole", "cache", "cache-from", "cache-ro", "tmpfs", "left"];
    let expected =
        ["data\nfile", "file\nmore", "file", "tool of a stage", "other", "11:12 750", "other", "kept", "tmpfs", ""];
    assert_eq!(names.map(read), expected);
    // That they were there is only shown where they must be: each door fails without, and has to run the steps with them.
    let required = dockerfile.replace("id=token", "id=token,required").replace("type=ssh", "type=ssh,required");
    std::fs::write(folder.path().join("Dockerfile"), required).unwrap();
    let registry = format!("REGISTRY={}", place.registry.address);
    let build = |buildx: bool, flags: &[&str]| {
        let mut command = if buildx { world.docker_command() } else { world.knarr_command() };
        command.args(["build", "-q", "--no-cache", "--build-arg", &registry]).args(flags).arg(folder.path());
        blackbox::finish_within(command, b"", std::time::Duration::from_secs(120))
    };
    for buildx in [false, true].into_iter().filter(|buildx| !buildx || place.buildx) {
        build(buildx, &["--ssh", &ssh]).exits(1).stderr_has("secret token: not found");
        build(buildx, &["--secret", &secret]).exits(1).stderr_has("ssh socket default: not found");
        build(buildx, &["--secret", &secret, "--ssh", &ssh]).success();
    }
    world.knarr(["doctor"]).success();
}

/// Every instruction of the language, with a base whose triggers run in what is built on it.
#[test]
fn every_instruction_gives_what_the_stock_engine_gives() {
    let Some(place) = Place::with(false) else { return };
    let world = &place.world;
    let base = r#"# syntax=docker/dockerfile:1
ARG REGISTRY
FROM ${REGISTRY}/debian:12
MAINTAINER somebody@example.org
ENV BASE=base
ONBUILD ARG WHO=nobody
ONBUILD COPY data/ /srv/
ONBUILD RUN echo "for $WHO on $BASE" > /srv/who
LABEL kind=base over=base
"#;
    let text = r#"# syntax=docker/dockerfile:1
ARG REGISTRY
FROM ${REGISTRY}/debian:12 AS other
RUN mkdir -p /tree/deep && echo other > /tree/deep/file && ln -s deep/file /tree/link && ln /tree/deep/file /tree/hard && chmod 4755 /tree/deep/file
FROM ${REGISTRY}/onbuild:1
ENV A=1 B="two words" C=three\ words
ENV D="${A}x${UNSET:-default}${A:+plus}${B#two }${B%words}" E='$A'
LABEL over="child of $BASE" multi="line one\
 and two" "quoted key"=value
WORKDIR /work/${A}
WORKDIR below
RUN pwd > where && umask > mask
ADD data/packed.tar unpacked/
ADD --chown=3:4 data/a data/sub ./added/
COPY --from=other --chown=1000:1000 /tree /tree
COPY --chmod=0640 data/a data/sub/b /modes/
COPY --link --chown=5:6 data/a /linked/a
COPY data/sub /work/1/below/again
USER 1000:1000
RUN id -u > /tmp/user && id -g >> /tmp/user
USER root
VOLUME ["/data", "/more data"]
VOLUME /plain /another
EXPOSE 80 443/tcp 53/udp 8000-8002
STOPSIGNAL 9
SHELL ["/bin/bash", "-eu", "-o", "pipefail", "-c"]
RUN echo "$BASH_VERSINFO" > /shell
RUN ["/bin/sh", "-c", "echo $0 exec form > /exec", "zero"]
RUN <<EOF
echo "in a heredoc $A" > /heredoc
EOF
COPY <<made.txt <<'as-is.txt' /made/
with $A
made.txt
with $A
as-is.txt
HEALTHCHECK --interval=5s --timeout=1s --start-period=2s --retries=4 CMD test -e /srv/who
ENTRYPOINT exec echo "shell form $A"
CMD ["one", "two"]
"#;
    let folder = context(&[
        ("Dockerfile", base),
        ("data/a", "a"),
        ("data/sub/b", "b"),
        ("data/sub/left.out", ""),
        (".dockerignore", "Dockerfile\n.dockerignore\n**/*.out\n"),
    ]);
    let packed = Command::new("tar").args(["-cf", "data/packed.tar", "data/sub"]).current_dir(folder.path()).status();
    assert!(packed.unwrap().success());
    let tag = format!("{}/onbuild:1", place.registry.address);
    let argument = format!("REGISTRY={}", place.registry.address);
    let mut command = world.knarr_command();
    command.args(["build", "-q", "-t", &tag, "--build-arg", &argument]).arg(folder.path());
    blackbox::finish_within(command, b"", std::time::Duration::from_secs(240)).success();
    world.docker(["push", "-q", &tag]).success();
    std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
    place.build(folder.path(), "every");
    let said = world.docker(["run", "--rm", "--network", "none", "every"]).success().text();
    assert_eq!(said, "shell form 1");
    let show = ["run", "--rm", "--network", "none", "--entrypoint", "cat", "every", "/srv/who", "/made/as-is.txt"];
    assert_eq!(world.docker(show).success().text(), "for nobody on base\nwith $A");
    world.knarr(["doctor"]).success();
}
