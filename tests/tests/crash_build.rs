//! A build whose engine is killed at any step: the next engine finds nothing left of it, and the build repeats from its cache.

use std::path::Path;

use blackbox::{World, context, eventually, is_root};

/// Every point that this build passes, in about the order in which it does.
const POINTS: &[&str] = &[
    "build.context.before_change",
    "build.context.changed",
    "image.snapshot.files",
    "image.snapshot.recorded",
    "image.seal.synced",
    "image.seal.taken",
    "image.seal.before_record",
    "image.seal.after_record",
    "image.snapshot.forgotten",
    "image.snapshot.files_gone",
    "build.cache.before_record",
    "build.cache.after_record",
    "image.commit.staged",
    "image.commit.synced",
    "image.commit.before_record",
    "image.commit.after_record",
];

const DOCKERFILE: &str = "\
FROM busybox AS one
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/c cat sub/* > /c/all && cp /c/all /all
FROM busybox
COPY --from=one --link /all /all
RUN --mount=type=bind,target=/m sort /all > /sorted
";

fn left(world: &World) -> usize {
    let count = |path: &Path| std::fs::read_dir(path).map_or(0, |entries| entries.count());
    let (root, run) = (world.root(), world.run_dir());
    count(&root.join("build/contexts")) + count(&root.join("snapshots")) + count(&run.join("steps"))
}

fn sweep(point: &str) {
    let mark = std::env::temp_dir().join(format!("knarr-mark-{}-{point}", std::process::id()));
    let environment = [("KNARR_CRASH_POINT", point), ("KNARR_CRASH_MARK", mark.to_str().expect("a plain path"))];
    let mut world = World::with(&environment);
    world.load(&blackbox::image::busybox());
    let folder = context(&[("Dockerfile", DOCKERFILE), ("sub/a", "2\n"), ("sub/b", "1\n")]);
    let build = |world: &World| {
        world.knarr(["build", "--progress", "plain", "--network", "none", "-t", "app", folder.path().to_str().unwrap()])
    };
    // Passed for the first time, and again when most of it is cached and one file has changed.
    for content in ["3\n", "4\n"] {
        std::fs::write(folder.path().join("sub/c"), content).expect("change a file");
        std::fs::write(&mark, "").expect("arm the point");
        let cut = build(&world);
        assert!(!mark.exists(), "{point}: this build does not pass it: {cut}");
        assert_ne!(cut.code, 0, "{point}: {cut}");
        world.end_engine(rustix::process::Signal::KILL);
        world.start_engine(&environment);
        eventually(&format!("{point}: nothing is left of the build"), || left(&world) == 0);
        let doctor = world.knarr(["doctor"]);
        assert_eq!(doctor.code, 0, "{point}: the doctor is not content\n{doctor}\n{}", world.engine_log());
        build(&world).success();
        let sorted = world.knarr(["run", "--rm", "--network", "none", "app", "cat", "/sorted"]).success().text();
        assert_eq!(sorted, format!("1\n2\n{}", content.trim_end()), "{point}");
        // What was made before the end was made whole: all of it serves again.
        let again = build(&world).success().errors();
        let steps = again.lines().filter(|line| line.ends_with(" CACHED")).count();
        assert_eq!(steps, 5, "{point}: {again}");
    }
}

#[test]
fn a_build_survives_its_engines_end_at_any_step() {
    if !is_root() {
        return;
    }
    let chosen = std::env::var("KNARR_CRASH_SWEEP").ok();
    let swept = POINTS.iter().filter(|point| chosen.as_ref().is_none_or(|part| point.contains(part)));
    let failed: Vec<_> = swept.filter(|point| std::panic::catch_unwind(|| sweep(point)).is_err()).collect();
    assert!(failed.is_empty(), "not survived: {failed:#?}");
}
