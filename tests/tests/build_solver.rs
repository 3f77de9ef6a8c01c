//! What the solver promises about work: independent branches at once, identical steps of builds at once only once, nothing again
//! that has not changed, and what "changed" means.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use blackbox::{Answer, World, context, is_root};

fn world() -> Option<World> {
    is_root().then(World::start)
}

fn build(world: &World, context: &Path, flags: &[&str]) -> Answer {
    let flags = ["build", "--progress", "plain", "--network", "none"].iter().chain(flags);
    world.knarr(flags.chain(&[context.to_str().unwrap()]))
}

fn text(dockerfile: &str) -> tempfile::TempDir {
    context(&[("Dockerfile", dockerfile)])
}

fn run(world: &World, image: &str, script: &str) -> String {
    world.knarr(["run", "--rm", "--network", "none", image, "sh", "-c", script]).success().text()
}

/// Each of two stages ends only when the other has begun.
#[test]
fn branches_run_at_once() {
    let Some(world) = world() else { return };
    let wait = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/c,id=meet touch /c/{own}; for i in $(seq 600); do [ -e /c/{other} ] && exit 0; sleep 0.1; done; exit 1\n"
        )
    };
    let dockerfile = format!(
        "FROM busybox AS one\n{}FROM busybox AS two\n{}FROM busybox\nCOPY --from=one /etc/passwd /one\nCOPY --from=two /etc/passwd /two\n",
        wait("a", "b"),
        wait("b", "a")
    );
    build(&world, text(&dockerfile).path(), &[]).success();
}

/// A build that has told of the step with these words.
fn begun(world: &World, folder: &Path, tag: &str, words: &str) -> Child {
    let mut command = world.knarr_command();
    command.args(["build", "--progress", "plain", "--network", "none", "-t", tag]).arg(folder);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(words)), "the step of {tag} was not told of");
    // Somebody has to read on, or the build would wait for that.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

#[test]
fn identical_steps_of_builds_at_once_run_once() {
    let Some(world) = world() else { return };
    let step = "RUN --mount=type=cache,target=/c,id=count echo ran >> /c/runs; for i in $(seq 600); do [ -e /c/go ] && exit 0; sleep 0.1; done; exit 1\n";
    let builds: Vec<(tempfile::TempDir, Child)> = ["first", "second", "third"]
        .into_iter()
        .map(|name| {
            // What follows differs, and so does what is said of the image.
            let folder = text(&format!("FROM busybox\n{step}RUN echo {name} > /name\nLABEL name={name}\n"));
            let child = begun(&world, folder.path(), name, "echo ran >> /c/runs");
            (folder, child)
        })
        .collect();
    let go = "FROM busybox\nRUN --mount=type=cache,target=/c,id=count touch /c/go\n";
    build(&world, text(go).path(), &[]).success();
    for (_folder, mut child) in builds {
        assert!(child.wait().unwrap().success());
    }
    let count = "FROM busybox\nRUN --mount=type=cache,target=/c,id=count cp /c/runs /runs\n";
    build(&world, text(count).path(), &["-t", "count"]).success();
    assert_eq!(run(&world, "count", "cat /runs"), "ran");
    for name in ["first", "second", "third"] {
        assert_eq!(run(&world, name, "cat /name"), name);
    }
    world.knarr(["doctor"]).success();
}

/// Who shares a cache mount sees the others' files; who has it alone sees nobody at work in it; private ones are not the same.
#[test]
fn cache_mounts_are_shared_as_they_say() {
    let Some(world) = world() else { return };
    // They meet in a cache that both share, so both are at work.
    let meet = |own: &str, other: &str| {
        format!(
            "touch /meet/{own}; for i in $(seq 600); do [ ! -e /meet/{other} ] || break; sleep 0.1; done; [ -e /meet/{other} ]"
        )
    };
    let stages = |sharing: &str, script: &dyn Fn(&str, &str) -> String| {
        let stage = |own: &str, other: &str| {
            let meeting = format!("--mount=type=cache,target=/meet,id=meet-{sharing}");
            let mount = format!("--mount=type=cache,target=/c,id={sharing},sharing={sharing}");
            format!("FROM busybox AS {own}\nRUN {meeting} {mount} {}\n", script(own, other))
        };
        let end = "FROM busybox\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n";
        text(&format!("{}{}{end}", stage("a", "b"), stage("b", "a")))
    };
    let private = |own: &str, other: &str| {
        let (first, second) = (meet(own, other), meet(&format!("{own}2"), &format!("{other}2")));
        format!("{first} && touch /c/{own} && {second} && [ ! -e /c/{other} ]")
    };
    build(&world, stages("private", &private).path(), &[]).success();
    let shared = |own: &str, other: &str| format!("touch /c/{own}; {} && [ -e /c/{other} ]", meet(own, other));
    build(&world, stages("shared", &shared).path(), &[]).success();
    // Alone: what one has in hand while it works the other never sees.
    let locked = |_: &str, _: &str| {
        "for i in 1 2 3; do [ ! -e /c/busy ] || exit 1; touch /c/busy; sleep 0.2; rm /c/busy; done".to_owned()
    };
    build(&world, stages("locked", &locked).path(), &[]).success();
}

/// Every file below a folder, with what changes when anybody changes it.
fn facts(folder: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, i64, i64)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(path) = open.pop() {
        let facts = path.symlink_metadata().unwrap();
        if facts.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let times = (facts.ino(), facts.mtime(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec());
        found.insert(path, times);
    }
    found
}

#[test]
fn a_cached_build_touches_no_layer() {
    let Some(world) = world() else { return };
    let dockerfile = "FROM busybox AS one\nWORKDIR /src\nCOPY . .\nRUN cat sub/* > /all\nFROM busybox\nCOPY --from=one --link /all /all\nCOPY --from=one /all /again\nRUN --mount=type=bind,target=/m cat /m/sub/a > /a\n";
    let folder = context(&[("Dockerfile", dockerfile), ("sub/a", "1"), ("sub/b", "2")]);
    build(&world, folder.path(), &["-t", "app"]).success();
    let (layers, blobs) = (world.root().join("layers"), world.root().join("blobs"));
    let before = (facts(&layers), facts(&blobs));
    assert!(before.0.len() > 20);
    let id = world.knarr(["images", "-q", "--no-trunc", "app"]).success().text();
    let again = build(&world, folder.path(), &["-t", "app"]).success();
    assert_eq!(again.errors().lines().filter(|line| line.ends_with(" CACHED")).count(), 6, "{}", again.errors());
    assert_eq!(world.knarr(["images", "-q", "--no-trunc", "app"]).success().text(), id);
    assert!((facts(&layers), facts(&blobs)) == before, "something was written");
    assert_eq!(std::fs::read_dir(world.root().join("snapshots")).map_or(0, Iterator::count), 0);
}

/// What a file is counts: name, content, mode, link. When it was written does not.
#[test]
fn times_are_no_change_and_everything_else_is() {
    let Some(world) = world() else { return };
    let dockerfile = "FROM busybox\nCOPY sub /sub\nRUN ls -lR /sub > /listed\n";
    let folder = context(&[("Dockerfile", dockerfile), ("sub/a", "1"), ("sub/b", "2")]);
    let sub = folder.path().join("sub");
    std::os::unix::fs::symlink("a", sub.join("link")).unwrap();
    let cached = || {
        let told = build(&world, folder.path(), &[]).success().errors();
        told.lines().filter(|line| line.ends_with(" CACHED")).count()
    };
    assert_eq!((cached(), cached()), (0, 2));
    for path in ["sub/a", "sub/b", "sub"] {
        let file = std::fs::File::open(folder.path().join(path)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)).unwrap();
    }
    assert_eq!(cached(), 2, "only times have changed");
    let changes: [(&str, &dyn Fn()); 5] = [
        ("a mode", &|| std::fs::set_permissions(sub.join("a"), PermissionsExt::from_mode(0o600)).unwrap()),
        ("a content of the same length", &|| std::fs::write(sub.join("b"), "3").unwrap()),
        ("a name", &|| std::fs::rename(sub.join("a"), sub.join("c")).unwrap()),
        ("a link's target", &|| {
            std::fs::remove_file(sub.join("link")).unwrap();
            std::os::unix::fs::symlink("c", sub.join("link")).unwrap();
        }),
        ("an empty folder", &|| std::fs::create_dir(sub.join("d")).unwrap()),
    ];
    for (what, change) in changes {
        change();
        assert_eq!((cached(), cached()), (0, 2), "{what}");
    }
}
