//! What Dockerfiles take from elsewhere: `ADD` of URLs, of git repositories and of archives, contexts at addresses; and `COPY`
//! with `--link`, `--parents` and `--exclude`. The web and git servers are the tests' own, on the loopback.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use blackbox::web::{Page, Web};
use blackbox::{Answer, GitServer, World, context, is_root};
use sha2::Digest;

fn world() -> Option<World> {
    let there = is_root() && Command::new("docker").arg("--version").output().is_ok();
    there.then(World::start)
}

fn build(world: &World, context: &Path, flags: &[&str]) -> Answer {
    let mut command = world.docker_command();
    command.env("DOCKER_BUILDKIT", "0").arg("build").args(flags).arg(context);
    blackbox::finish(command, b"")
}

fn build_text(world: &World, text: &str, flags: &[&str]) -> Answer {
    let folder = context(&[("Dockerfile", text)]);
    build(world, folder.path(), flags)
}

fn run(world: &World, image: &str, script: &str) -> String {
    world.docker(["run", "--rm", "--network", "none", image, "sh", "-c", script]).success().text()
}

fn sh(folder: &Path, script: &str) -> String {
    let out = Command::new("sh").arg("-ec").arg(script).current_dir(folder).env("LC_ALL", "C").output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// A request without a body; the whole answer as text.
fn post(world: &World, path: &str) -> String {
    let mut stream = UnixStream::connect(world.socket()).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// A file comes once, is asked about in the next build, and comes again when it changes.
#[test]
fn urls_are_downloaded_once_and_asked_about_again() {
    let Some(world) = world() else { return };
    let web = Web::start();
    web.file("/files/tool.txt", "one", "\"1\"");
    web.put("/moved", Page::Redirect("/files/tool.txt".into()));
    let text = format!(
        "FROM busybox\nADD {} /named\nADD --chown=7:8 --chmod=755 {} {0} /dir/\n",
        web.url("/moved"),
        web.url("/files/tool.txt?v=1"),
    );
    web.file("/files/tool.txt?v=1", "two", "\"2\"");
    build_text(&world, &text, &["-t", "added"]).success();
    assert_eq!(run(&world, "added", "cat /named; stat -c ' %a %u %Y' /named"), "one 600 0 1445412480");
    assert_eq!(run(&world, "added", "cd /dir; cat tool.txt moved; stat -c ' %a %u:%g' *"), "twoone 755 7:8\n 755 7:8");
    let asked = web.log();
    assert_eq!(asked.iter().filter(|line| line.starts_with("200")).count(), 2, "{asked:?}");
    // Nothing changed: the server says so, and nothing is done.
    let again = build_text(&world, &text, &["-t", "added"]).success().text();
    assert_eq!(again.matches("Using cache").count(), 2, "{again}");
    let asked = web.log().split_off(asked.len());
    assert!(asked.iter().all(|line| !line.starts_with("200")), "{asked:?}");
    web.file("/files/tool.txt", "changed", "\"3\"");
    build_text(&world, &text, &["-t", "added"]).success();
    assert_eq!(run(&world, "added", "cat /named"), "changed");
    world.knarr(["doctor"]).success();
}

#[test]
fn a_checksum_is_held_against_what_comes() {
    let Some(world) = world() else { return };
    let web = Web::start();
    web.file("/f", "one", "\"1\"");
    let with = |sum: &str| format!("FROM busybox\nARG SUM={sum}\nADD --checksum=$SUM {} /f\n", web.url("/f"));
    build_text(&world, &with(&sha256(b"one")), &["-t", "summed"]).success();
    assert_eq!(run(&world, "summed", "cat /f"), "one");
    // Known by its checksum: nobody is asked again.
    let before = web.log().len();
    build_text(&world, &with(&sha256(b"one")), &[]).success().stdout_has("Using cache");
    assert_eq!(web.log().len(), before);
    build_text(&world, &with(&sha256(b"two")), &[]).exits(1).stderr_has("digest mismatch");
    for (text, part) in [
        ("ADD --checksum=sha256:xyz http://h/f /f", "invalid checksum digest format"),
        ("ADD --checksum=sha256:00 f /f", "checksum requires HTTP(S) or Git sources"),
        ("ADD --keep-git-dir=true http://h/f /f", "keep-git-dir requires a Git source"),
    ] {
        build_text(&world, &format!("FROM busybox\n{text}\n"), &[]).exits(1).stderr_has(part);
    }
}

/// Servers that say no, lie about lengths or send round in circles; nothing of it stays behind.
#[test]
fn downloads_that_fail_leave_nothing() {
    let Some(world) = world() else { return };
    let web = Web::start();
    web.put("/circle", Page::Redirect("/circle".into()));
    web.put("/cut", Page::Cut(1000));
    web.put("/error", Page::Status(403));
    web.put("/away", Page::Redirect("file:///etc/passwd".into()));
    for (path, part) in [
        ("/circle", "stopped after 10 redirects"),
        ("/cut", "failed to fetch"),
        ("/error", "invalid response status 403"),
        ("/none", "invalid response status 404"),
        ("/away", "redirect to no http(s) address"),
    ] {
        let text = format!("FROM busybox\nADD {} /f\n", web.url(path));
        build_text(&world, &text, &[]).exits(1).stderr_has(part);
    }
    let left = std::fs::read_dir(world.root().join("build/downloads")).unwrap().count();
    assert_eq!(left, 0);
    world.knarr(["doctor"]).success();
}

#[test]
fn archives_are_unpacked_however_they_are_packed() {
    let Some(world) = world() else { return };
    let folder = context(&[("tree/inner/file", "content")]);
    for (flag, name) in [("", "a.tar"), ("z", "b.tar.gz"), ("j", "c.tar.bz2"), ("J", "d.tar.xz")] {
        sh(folder.path(), &format!("tar -c{flag}f {name} -C tree ."));
    }
    let web = Web::start();
    web.file("/e.tgz", std::fs::read(folder.path().join("b.tar.gz")).unwrap(), "\"1\"");
    let url = web.url("/e.tgz");
    let text = format!(
        "FROM busybox\nADD a.tar /a\nADD b.tar.gz /b\nADD c.tar.bz2 /c\nADD d.tar.xz /d\nADD {url} /e/\nADD --unpack=true {url} /f/\nADD --unpack=false a.tar /g/\nCOPY a.tar /h/\n"
    );
    std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
    build(&world, folder.path(), &["-t", "unpacked"]).success();
    assert_eq!(
        run(&world, "unpacked", "cat /[abcdf]/inner/file; ls /e /g /h"),
        "contentcontentcontentcontentcontent/e:\ne.tgz\n\n/g:\na.tar\n\n/h:\na.tar"
    );
}

/// A repository behind git's own server.
struct Repository {
    folder: tempfile::TempDir,
    server: GitServer,
}

impl Repository {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"
            git init -q -b main repo && cd repo
            git config user.email t@example.invalid && git config user.name t
            mkdir -p app/deep && echo first > app/deep/file && echo top > top
            ln -s app inside && ln -s /etc outside
            printf 'FROM busybox\nCOPY . /src\n' > Dockerfile
            printf 'FROM busybox\nCOPY deep/file /only\n' > app/Dockerfile
            git add -A && git commit -qm one && git tag -a -m v1 v1
            echo second > app/deep/file && git commit -qam two
            git branch side && echo third > top && git commit -qam three
        "#;
        sh(folder.path(), script);
        let server = GitServer::start(folder.path())?;
        Some(Self { folder, server })
    }

    fn url(&self) -> String {
        self.server.url("repo")
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    fn commit(&self, name: &str) -> String {
        sh(&self.path(), &format!("git rev-parse '{name}^{{commit}}'"))
    }
}

#[test]
fn git_repositories_are_added_by_branch_tag_and_commit() {
    let (Some(world), Some(repository)) = (world(), Repository::start()) else { return };
    let url = repository.url();
    let old = repository.commit("HEAD~1");
    let text = format!(
        "FROM busybox\nADD {url} /head\nADD {url}#v1:app/deep /tag/\nADD {url}#side /side\nADD --keep-git-dir=true {url}#{old} /kept\nADD --checksum={} {url}#v1 /sum\nADD {url}#:inside/deep /link\n",
        &repository.commit("v1")[..12],
    );
    build_text(&world, &text, &["-t", "git"]).success();
    assert_eq!(
        run(&world, "git", "cat /head/top /head/app/deep/file; ls -A /tag; cat /tag/file"),
        "third\nsecond\nfile\nfirst"
    );
    assert_eq!(run(&world, "git", "cat /side/top /kept/top /sum/app/deep/file /link/file"), "top\ntop\nfirst\nsecond");
    assert_eq!(run(&world, "git", "ls -d /*/.git; readlink /head/outside"), "/kept/.git\n/etc");
    // Nothing moved: nothing is done. A branch that moves is seen.
    let again = build_text(&world, &text, &[]).success().text();
    assert_eq!(again.matches("Using cache").count(), 6, "{again}");
    sh(&repository.path(), "echo fourth > top && git commit -qam four");
    build_text(&world, &text, &["-t", "git"]).success();
    assert_eq!(run(&world, "git", "cat /head/top"), "fourth");
    for (what, part) in [
        (format!("{url}#nowhere"), "repository does not contain ref nowhere"),
        (format!("{url}#:top"), "is no directory of the repository"),
        (format!("{url}#:missing"), "is no directory of the repository"),
        (format!("--checksum=0123456789 {url}"), "expected checksum to match 0123456789"),
    ] {
        build_text(&world, &format!("FROM busybox\nADD {what} /x\n"), &[]).exits(1).stderr_has(part);
    }
    let left = std::fs::read_dir(world.root().join("build/contexts")).unwrap().count();
    assert_eq!(left, 0);
    world.knarr(["doctor"]).success();
}

/// BL-06: nothing in an address is an option, a transport of another kind or a path of this machine, and a link in a repository
/// leads nowhere outside it.
#[test]
fn git_addresses_run_nothing_and_lead_nowhere() {
    let (Some(world), Some(repository)) = (world(), Repository::start()) else { return };
    let witness = world.dir().join("witness");
    let url = repository.url();
    for (source, part) in [
        (format!("{url}#--upload-pack=touch${{IFS}}{}", witness.display()), "is no reference's name"),
        (format!("{url}#:../../../etc"), "leads out of the repository"),
        (format!("{url}#:outside"), "is no directory of the repository"),
        (format!("ssh://-oProxyCommand=touch%20{}/r.git", witness.display()), "its host cannot be one"),
        (format!("git@-oProxyCommand=x:{}.git", witness.display()), "its host cannot be one"),
        (format!("ext::touch%20{}", witness.display()), "not found"),
        (format!("file://{}", repository.path().display()), "not found"),
        (repository.path().display().to_string(), "not found"),
    ] {
        build_text(&world, &format!("FROM busybox\nADD {source} /x\n"), &[]).exits(1).stderr_has(part);
    }
    // A submodule on this machine's disk is not fetched.
    let script = format!(
        "git -c protocol.file.allow=always submodule --quiet add file://{} sub && git commit -qm sub",
        repository.path().display()
    );
    sh(&repository.path(), &script);
    build_text(&world, &format!("FROM busybox\nADD {url} /x\n"), &[]).exits(1).stderr_has("'file' not allowed");
    sh(&repository.path(), "git reset -q --hard HEAD~1");
    build_text(&world, &format!("FROM busybox\nADD {url} /x\n"), &[]).success();
    assert!(!witness.exists());
    world.knarr(["doctor"]).success();
}

/// A whole context at an address: a tar, a Dockerfile, a repository.
#[test]
fn contexts_are_fetched_from_addresses() {
    let (Some(world), Some(repository)) = (world(), Repository::start()) else { return };
    let folder = context(&[("Dockerfile", "FROM busybox\nCOPY a /a\n"), ("a", "from the tar")]);
    sh(folder.path(), "tar -cJf /dev/stdout . > ../ctx.$$ && mv ../ctx.$$ ctx.tar.xz");
    let web = Web::start();
    web.file("/ctx.tar.xz", std::fs::read(folder.path().join("ctx.tar.xz")).unwrap(), "\"1\"");
    web.file("/Dockerfile.alone", "FROM busybox\nRUN echo alone > /a\n", "\"1\"");
    let from = |remote: &str, name: &str| {
        let encoded = remote.replace('%', "%25").replace('#', "%23").replace('&', "%26");
        post(&world, &format!("/v1.47/build?t={name}&remote={encoded}"))
    };
    for (remote, name, script, expected) in [
        (web.url("/ctx.tar.xz"), "tar", "cat /a", "from the tar"),
        (web.url("/Dockerfile.alone"), "alone", "cat /a", "alone"),
        (repository.url(), "git", "cat /src/top; test ! -e /src/.git", "third"),
        (format!("{}#v1:app", repository.url()), "sub", "cat /only", "first"),
    ] {
        let answer = from(&remote, name);
        assert!(answer.contains("Successfully tagged"), "{remote}: {answer}");
        assert_eq!(run(&world, name, script), expected, "{remote}");
    }
    assert!(from("file:///etc", "x").contains("neither a git nor an http(s) URL"));
    world.knarr(["doctor"]).success();
}

/// A linked layer is the same whatever is below it, and is found again when that changes.
#[test]
fn linked_copies_do_not_depend_on_what_is_below() {
    let Some(world) = world() else { return };
    let text = "FROM busybox\nARG V\nRUN echo $V > /v\nCOPY --link file /data/file\nCOPY --link --chown=7:8 --from=busybox /bin/busybox /data/\n";
    let folder = context(&[("Dockerfile", text), ("file", "linked")]);
    let layers = |name: &str| world.docker(["inspect", "-f", "{{json .RootFS.Layers}}", name]).success().json();
    build(&world, folder.path(), &["-t", "one", "--build-arg", "V=1"]).success();
    let second = build(&world, folder.path(), &["-t", "two", "--build-arg", "V=2"]).success().text();
    assert_eq!(second.matches("Using cache").count(), 2, "{second}");
    let (one, two) = (layers("one"), layers("two"));
    let count = one.as_array().unwrap().len();
    assert_ne!(one[count - 3], two[count - 3]);
    assert_eq!(one[count - 2], two[count - 2]);
    assert_eq!(one[count - 1], two[count - 1]);
    assert_eq!(run(&world, "two", "cat /v /data/file; stat -c ' %u:%g' /data/busybox"), "2\nlinked 7:8");
    // Alone on nothing as well.
    let scratch = context(&[("Dockerfile", "FROM scratch\nCOPY --link file /data/file\n"), ("file", "linked")]);
    build(&world, scratch.path(), &["-t", "three"]).success().stdout_has("Using cache");
    assert_eq!(layers("three")[0], one[count - 2]);
    world.docker(["rmi", "-f", "one", "two", "three"]).success();
    world.docker(["builder", "prune", "-af"]).success();
    world.knarr(["doctor"]).success();
}

#[test]
fn parents_are_kept_and_excluded_files_left_out() {
    let Some(world) = world() else { return };
    let text = r#"
FROM busybox
COPY --parents a/b/one.txt a/c /all/
COPY --parents a/./b/one.txt /pivot/
COPY --parents **/*.txt /deep/
COPY --exclude=*.md --exclude=c/keep/no* a /some/
COPY --exclude=*.md a/b/* /flat/
COPY --parents --exclude=a/c a /notc/
RUN cd / && find all pivot deep some flat notc -type f | sort > /list
"#;
    let folder = context(&[
        ("Dockerfile", text),
        ("a/b/one.txt", "1"),
        ("a/b/read.md", "m"),
        ("a/c/keep/yes", "y"),
        ("a/c/keep/not", "n"),
        ("top.txt", "t"),
    ]);
    build(&world, folder.path(), &["-t", "parents"]).success();
    let expected = [
        "all/a/b/one.txt",
        "all/a/c/keep/not",
        "all/a/c/keep/yes",
        "deep/a/b/one.txt",
        "deep/top.txt",
        "flat/one.txt",
        "notc/a/b/one.txt",
        "notc/a/b/read.md",
        "pivot/b/one.txt",
        "some/b/one.txt",
        "some/b/read.md",
        "some/c/keep/yes",
    ];
    assert_eq!(run(&world, "parents", "cat /list"), expected.join("\n"));
    // What is left out is not part of the cache key; what is not, is.
    let text = "FROM busybox\nCOPY --exclude=c/keep/no* a /some/\nCOPY --parents --exclude=a/c a /notc/\n";
    std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
    build(&world, folder.path(), &[]).success();
    std::fs::write(folder.path().join("a/c/keep/not"), "changed").unwrap();
    let again = build(&world, folder.path(), &[]).success().text();
    assert_eq!(again.matches("Using cache").count(), 2, "{again}");
    std::fs::write(folder.path().join("a/c/keep/yes"), "changed").unwrap();
    let again = build(&world, folder.path(), &[]).success().text();
    assert_eq!(again.matches("Using cache").count(), 0, "{again}");
}

/// `builder prune` takes what its filters name.
#[test]
fn prune_takes_what_its_filters_name() {
    let Some(world) = world() else { return };
    let web = Web::start();
    web.file("/f", "one", "\"1\"");
    let text =
        format!("FROM busybox\nADD {} /f\nRUN --mount=type=cache,target=/c touch /c/x\nRUN echo kept\n", web.url("/f"));
    build_text(&world, &text, &["-t", "pruned"]).success();
    let df = world.knarr(["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]).success().text();
    assert!(df.ends_with("Build Cache 5 0"), "{df}");
    let prune = |filter: &[&str]| {
        let words: Vec<&str> =
            ["builder", "prune", "-f", "-a"].into_iter().chain(filter.iter().flat_map(|f| ["--filter", *f])).collect();
        let text = world.knarr(words).success().text();
        text.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(prune(&["until=24h"]), "Removed 0 cache entries");
    assert_eq!(prune(&["type=source.http"]), "Removed 1 cache entries");
    assert_eq!(prune(&["type=exec.cachemount"]), "Removed 1 cache entries");
    assert_eq!(prune(&["description=echo kept"]), "Removed 1 cache entries");
    assert_eq!(prune(&["shared=false"]), "Removed 0 cache entries");
    assert_eq!(prune(&["shared=true"]), "Removed 2 cache entries");
    world.docker(["run", "--rm", "--network", "none", "pruned", "cat", "/f"]).success().stdout("one");
    world.knarr(["doctor"]).success();
}

#[test]
fn tests_notice_a_weakened_build() {
    blackbox::weakened(&[
        ("git-options", "git_addresses_run_nothing_and_lead_nowhere"),
        ("git-protocols", "git_addresses_run_nothing_and_lead_nowhere"),
        ("git-subdir", "git_addresses_run_nothing_and_lead_nowhere"),
    ]);
}
