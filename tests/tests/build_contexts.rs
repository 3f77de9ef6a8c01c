//! Contexts from build to build: a folder is kept by the engine, only what has changed is sent and written, and whatever a user
//! does to the files in between, what is built is what is there. By `knarr build`, and by the stock client's classic door.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use blackbox::{Answer, World, context, eventually, is_root};

const TEXT: &str = "FROM busybox\nCOPY . /c/\n";

/// Who brings the context.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Door {
    Own,
    Classic,
}

impl Door {
    fn build(self, world: &World, folder: &Path) -> Answer {
        match self {
            Self::Own => world.knarr(["build", "-q", "-t", "kept", &folder.display().to_string()]),
            Self::Classic => {
                let mut command = world.docker_command();
                command.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", "kept"]).arg(folder);
                blackbox::finish(command, b"")
            }
        }
    }

    fn all() -> Vec<Self> {
        let docker = std::process::Command::new("docker").arg("--version").output().is_ok();
        if docker { vec![Self::Own, Self::Classic] } else { vec![Self::Own] }
    }
}

/// What an image has in `/c`: kind, mode, links and contents.
fn files(world: &World) -> String {
    let script = "cd /c && find . | sort | while read -r f; do stat -c '%n %a %F %h' \"$f\"; test -L \"$f\" && readlink \"$f\"; test -f \"$f\" && cat \"$f\"; done; true";
    world.knarr(["run", "--rm", "--network", "none", "kept", "sh", "-c", script]).success().text()
}

/// Inodes of what the engine keeps of the context, by path.
fn kept(world: &World) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let sync = world.root().join("build/sync");
    let mut open: Vec<PathBuf> =
        std::fs::read_dir(sync).unwrap().flatten().map(|folder| folder.path().join("files")).collect();
    let roots = open.clone();
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            let facts = entry.path().symlink_metadata().unwrap();
            let root = roots.iter().find(|root| entry.path().starts_with(root)).unwrap();
            found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), facts.ino());
            if facts.is_dir() {
                open.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn only_what_has_changed_is_written_again() {
    if !is_root() {
        return;
    }
    for door in Door::all() {
        let world = World::start();
        let folder =
            context(&[("Dockerfile", TEXT), ("a", "one"), ("d/b", "two"), ("d/c", "three"), ("e/f/g", "four")]);
        let at = |name: &str| folder.path().join(name);
        door.build(&world, folder.path()).success();
        // What changed a moment ago is compared with more care: the next build finds all of it settled.
        eventually("the files are known", || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let before = kept(&world);
            door.build(&world, folder.path()).success();
            before == kept(&world)
        });
        let before = kept(&world);
        std::fs::write(at("d/b"), "other").unwrap();
        std::fs::remove_file(at("d/c")).unwrap();
        std::fs::write(at("n"), "new").unwrap();
        door.build(&world, folder.path()).success();
        let after = kept(&world);
        let path = Path::new;
        assert_eq!(after.get(path("a")), before.get(path("a")), "{door:?}");
        assert_eq!(after.get(path("e/f/g")), before.get(path("e/f/g")), "{door:?}");
        assert!(!after.contains_key(path("d/c")) && after.contains_key(path("n")), "{door:?}: {after:?}");
        let text = files(&world);
        assert!(text.contains("other") && text.contains("new") && !text.contains("three"), "{door:?}: {text}");
    }
}

#[test]
fn what_is_built_is_what_is_there() {
    what_is_built_by(Door::Own);
}

#[test]
fn what_is_built_is_what_is_there_by_the_classic_door() {
    if Door::all().contains(&Door::Classic) {
        what_is_built_by(Door::Classic);
    }
}

/// Whatever is done to a folder, a build from what is kept gives what a build from nothing gives.
fn what_is_built_by(door: Door) {
    if !is_root() {
        return;
    }
    let mut world = World::start();
    let fresh = World::start();
    let folder = context(&[("Dockerfile", TEXT), ("a", "aaa"), ("d/b", "bbb"), ("x/y/z", "zzz"), ("keep", "kept")]);
    let at = |name: &str| folder.path().join(name);
    let set_time = |name: &str, like: &str| {
        let file = std::fs::File::options().write(true).open(at(name)).unwrap();
        file.set_modified(std::fs::metadata(at(like)).unwrap().modified().unwrap()).unwrap();
    };
    let check = |world: &World, what: &str| {
        door.build(world, folder.path()).success();
        door.build(&fresh, folder.path()).success();
        fresh.knarr(["builder", "prune", "-af"]).success();
        assert_eq!(files(world), files(&fresh), "{door:?}: {what}");
    };
    check(&world, "as it was");
    std::fs::write(at("a"), "AAA").unwrap();
    check(&world, "other bytes, the same length");
    std::fs::set_permissions(at("a"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    check(&world, "another mode");
    std::fs::remove_dir_all(at("d")).unwrap();
    std::fs::write(at("d"), "a file now").unwrap();
    check(&world, "a file where a directory was");
    std::fs::remove_file(at("d")).unwrap();
    symlink("x/y", at("d")).unwrap();
    check(&world, "a link where a file was");
    std::fs::remove_file(at("d")).unwrap();
    std::fs::create_dir(at("d")).unwrap();
    std::fs::set_permissions(at("d"), std::fs::Permissions::from_mode(0o700)).unwrap();
    check(&world, "an empty directory where a link was");
    std::fs::rename(at("x/y"), at("d/y")).unwrap();
    check(&world, "a directory elsewhere");
    std::fs::hard_link(at("keep"), at("again")).unwrap();
    check(&world, "two names of one file");
    std::fs::remove_file(at("keep")).unwrap();
    check(&world, "one of them gone");
    std::fs::write(at("t"), "111").unwrap();
    check(&world, "a new file");
    std::fs::write(at("t2"), "222").unwrap();
    set_time("t2", "t");
    std::fs::rename(at("t2"), at("t")).unwrap();
    if door == Door::Classic {
        // With the very same time and length a client that tells no bytes cannot tell them apart.
        check(&world, "another file of the same length and time");
    } else {
        std::fs::write(at("t"), "333").unwrap();
    }
    world.end_engine(rustix::process::Signal::KILL);
    world.start_engine(&[]);
    std::fs::write(at("after"), "a restart").unwrap();
    check(&world, "an engine that was killed");
    std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"not-\xff-text")), "odd").unwrap();
    check(&world, "a name that is not text");
    world.knarr(["doctor"]).success();
}

#[test]
fn what_is_left_out_is_left_out_by_the_right_file() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let folder = context(&[
        ("Dockerfile", TEXT),
        (".dockerignore", "Dockerfile\n.dockerignore\n*.log\nd/*\n!d/wanted\nother.Dockerfile*\n"),
        ("other.Dockerfile", TEXT),
        ("other.Dockerfile.dockerignore", "d\n*ockerfile*\n.dockerignore\n"),
        ("a.log", "log"),
        ("d/unwanted", "no"),
        ("d/wanted", "yes"),
    ]);
    let path = folder.path().display().to_string();
    let list = || {
        let names = ["run", "--rm", "--network", "none", "kept", "find", "/c", "-type", "f"];
        let mut names: Vec<String> = world.knarr(names).success().text().lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    world.knarr(["build", "-q", "-t", "kept", &path]).success();
    assert_eq!(list(), "/c/d/wanted");
    let other = folder.path().join("other.Dockerfile").display().to_string();
    world.knarr(["build", "-q", "-t", "kept", "-f", &other, &path]).success();
    assert_eq!(list(), "/c/a.log");
    // As with buildx, the Dockerfile may be elsewhere.
    let elsewhere = context(&[("My.Dockerfile", "FROM busybox\nCOPY d/wanted /c/\n")]);
    let file = elsewhere.path().join("My.Dockerfile").display().to_string();
    world.knarr(["build", "-q", "-t", "kept", "-f", &file, &path]).success();
    assert_eq!(list(), "/c/wanted");
    let missing = world.knarr(["build", "-f", "/nowhere/Dockerfile", &path]).exits(1);
    assert!(missing.errors().contains("/nowhere/Dockerfile: no such file"), "{}", missing.errors());
}

/// Two builds of one folder do not meet, and a client that is killed lets go of what it held.
#[test]
fn a_folder_belongs_to_one_build_at_a_time() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let folder = context(&[
        ("Dockerfile", "FROM busybox\nARG N\nRUN --mount=target=/m cat /m/a > /a; sleep $N\n"),
        ("a", "one"),
    ]);
    let path = folder.path().display().to_string();
    let mut command = world.knarr_command();
    command.args(["build", "-q", "--build-arg", "N=600", &path]);
    let mut slow = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let folders = || std::fs::read_dir(world.root().join("build/sync")).map_or(0, |all| all.flatten().count());
    eventually("the first build runs", || {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", world.engine_pid())).unwrap_or_default();
        folders() == 1
            && !mounts.is_empty()
            && world.root().join("build/sync").read_dir().unwrap().flatten().any(|f| f.path().join("tree").exists())
    });
    std::fs::write(folder.path().join("a"), "two").unwrap();
    world.knarr(["build", "-q", "-t", "second", "--build-arg", "N=0", &path]).success();
    assert_eq!(world.knarr(["run", "--rm", "--network", "none", "second", "cat", "/a"]).success().text(), "two");
    assert_eq!(folders(), 2, "the second has a folder of its own");
    slow.kill().unwrap();
    slow.wait().unwrap();
    // The first folder is free again: it is taken before the second one.
    let first = || {
        std::fs::write(folder.path().join("a"), "three").unwrap();
        world.knarr(["build", "-q", "--build-arg", "N=0", &path]).success();
        let all = world.root().join("build/sync").read_dir().unwrap().flatten();
        all.filter(|f| std::fs::read(f.path().join("files/a")).is_ok_and(|text| text == b"three"))
            .any(|f| f.file_name().to_string_lossy().ends_with(".0"))
    };
    eventually("the first folder is free", first);
    assert_eq!(folders(), 2);
}
