//! A disk that is full while an image is loaded, a container committed, a log written: an error that says so, nothing half
//! there, and everything works again when there is room.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use blackbox::image::{Entry, Image, busybox};
use blackbox::{World, eventually, is_root};

/// An ext4 file system of a few megabytes in a file, unmounted on drop. Ext4 rather than tmpfs: overlay needs its xattrs, and
/// delayed allocation is where a full disk is met late.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn new(megabytes: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("knarr-disk-").tempdir().expect("make a temporary directory");
        let file = std::fs::File::create(dir.path().join("image")).expect("make a disk file");
        file.set_len(megabytes << 20).expect("size the disk file");
        let disk = Self { dir };
        std::fs::create_dir(disk.place()).expect("make a mount point");
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(disk.dir.path().join("image")));
        run(Command::new("mount").args(["-o", "loop"]).arg(disk.dir.path().join("image")).arg(disk.place()));
        disk
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    /// Takes all the room but about `kilobytes`, with a file whose removal gives it back.
    fn fill(&self, kilobytes: u64) -> PathBuf {
        let ballast = self.place().join("ballast");
        let free = rustix::fs::statvfs(self.place()).map(|stat| stat.f_bavail * stat.f_frsize).expect("statvfs");
        let file = std::fs::File::create(&ballast).expect("make the ballast");
        let size = free.saturating_sub(kilobytes << 10);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size).expect("take the room");
        ballast
    }

    /// Takes the last block.
    fn fill_up(&self) -> PathBuf {
        let ballast = self.place().join("ballast-last");
        let mut file = std::fs::File::create(&ballast).expect("make the last ballast");
        // Synchronised, for a block is only taken for good when it is written out. A byte that does not fit says that none is left.
        for size in [4096, 1] {
            while file.write_all(&[7; 4096][..size]).and_then(|()| file.sync_data()).is_ok() {}
        }
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.place()).status().is_ok_and(|status| status.success());
        if !unmounted {
            // A process of a failed test still holds it: detach, so that the machine is left clean.
            let _ = Command::new("umount").arg("-l").arg(self.place()).status();
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn big_image(name: &str, megabytes: usize) -> Image {
    let mut image = busybox();
    image.tags = vec![name.into()];
    // Not compressible and not all zero, so that every byte needs room.
    let mut state = 1u64;
    let data = (0..megabytes << 17)
        .flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()
        })
        .collect();
    image.layers[0].insert("big".into(), Entry::File { mode: 0o644, data });
    image
}

fn write_archive(world: &World, name: &str, megabytes: usize) -> PathBuf {
    let path = std::env::temp_dir().join(format!("knarr-{}-{name}.tar", std::process::id()));
    std::fs::write(&path, big_image(&format!("{name}:1"), megabytes).archive()).expect("write an archive");
    // In the world's own folder it would take the room that is being tested.
    assert!(!path.starts_with(world.dir()));
    path
}

struct Removed(PathBuf);
impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn a_load_that_does_not_fit_leaves_nothing_behind() {
    if !is_root() {
        return;
    }
    let disk = SmallDisk::new(96);
    let world = World::start_in(&disk.place());
    let archive = Removed(write_archive(&world, "load", 60));
    for room in [200, 4_000, 30_000] {
        let ballast = disk.fill(room);
        let answer = world.knarr(["load", "-i", text(&archive.0)]);
        assert_ne!(answer.code, 0, "with {room} kB\n{answer}");
        answer.stderr_has("No space left on device");
        world.knarr(["images", "-q", "load"]).success().stdout("");
        world.knarr(["run", "--rm", "busybox", "echo", "on"]);
        std::fs::remove_file(ballast).expect("give the room back");
        let doctor = world.knarr(["doctor"]);
        assert_eq!(doctor.code, 0, "with {room} kB\n{doctor}");
    }
    world.knarr(["load", "-i", text(&archive.0)]).success().stdout_has("Loaded image: load:1");
    world.knarr(["run", "--rm", "load:1", "true"]).success();
    world.knarr(["rmi", "load:1"]).success();
}

#[test]
fn a_commit_that_does_not_fit_leaves_nothing_behind() {
    if !is_root() {
        return;
    }
    let disk = SmallDisk::new(96);
    let world = World::start_in(&disk.place());
    world
        .knarr([
            "run",
            "--name",
            "made",
            "busybox",
            "sh",
            "-c",
            "dd if=/dev/urandom of=/big bs=1M count=20 2>/dev/null",
        ])
        .success();
    let ballast = disk.fill(3_000);
    world.knarr(["commit", "made", "mine:1"]).exits(1).stderr_has("No space left on device");
    world.knarr(["images", "-q", "mine"]).success().stdout("");
    std::fs::remove_file(ballast).expect("give the room back");
    let doctor = world.knarr(["doctor"]);
    assert_eq!(doctor.code, 0, "{doctor}");
    world.knarr(["commit", "made", "mine:1"]).success();
    world.knarr(["run", "--rm", "mine:1", "ls", "/big"]).success();
}

#[test]
fn a_build_that_does_not_fit_leaves_nothing_behind_and_goes_on_from_its_cache() {
    if !is_root() {
        return;
    }
    let disk = SmallDisk::new(96);
    let world = World::start_in(&disk.place());
    let context = tempfile::tempdir().expect("make a temporary directory");
    let text = "FROM busybox\nRUN echo kept > /kept\nRUN dd if=/dev/urandom of=/big bs=1M count=20\n";
    std::fs::write(context.path().join("Dockerfile"), text).expect("write a Dockerfile");
    let build = || world.knarr(["build", "--progress", "plain", "-t", "mine:1", text_of(&context)]);
    let ballast = disk.fill(8_000);
    let failed = build();
    assert_ne!(failed.code, 0, "{failed}");
    assert!(format!("{failed}").contains("No space left on device"), "{failed}");
    world.knarr(["images", "-q", "mine"]).success().stdout("");
    std::fs::remove_file(ballast).expect("give the room back");
    let doctor = world.knarr(["doctor"]);
    assert_eq!(doctor.code, 0, "{doctor}");
    // What was done before is not done again.
    let again = build().success();
    assert!(again.errors().contains("[2/3] RUN echo kept > /kept") && again.errors().contains("CACHED"), "{again}");
    world.knarr(["run", "--rm", "mine:1", "ls", "/kept", "/big"]).success();
    // A copy of more than there is room for, and a context.
    std::fs::write(context.path().join("large"), vec![7; 40 << 20]).expect("write a large file");
    std::fs::write(context.path().join("Dockerfile"), "FROM busybox\nCOPY large /large\n").expect("write a Dockerfile");
    let ballast = disk.fill(20_000);
    let failed = build();
    assert_ne!(failed.code, 0, "{failed}");
    assert!(format!("{failed}").contains("No space left on device"), "{failed}");
    std::fs::remove_file(ballast).expect("give the room back");
    let doctor = world.knarr(["doctor"]);
    assert_eq!(doctor.code, 0, "{doctor}");
}

fn text_of(folder: &tempfile::TempDir) -> &str {
    text(folder.path())
}

#[test]
fn a_container_whose_log_does_not_fit_runs_on() {
    if !is_root() {
        return;
    }
    let disk = SmallDisk::new(64);
    let world = World::start_in(&disk.place());
    let gate = tempfile::tempdir().expect("make a temporary directory");
    let volume = format!("{}:/gate", gate.path().display());
    let loud = "n=0; while [ ! -e /gate/stop ]; do n=$((n+1)); printf '%01000d\\n' $n; done; echo $n > /gate/done; echo end; sleep 600";
    let ballast = disk.fill(500);
    world
        .knarr([
            "run",
            "-d",
            "--name",
            "loud",
            "-v",
            &volume,
            "--log-opt",
            "max-size=100m",
            "busybox",
            "sh",
            "-c",
            loud,
        ])
        .success();
    eventually("the disk is full", || {
        rustix::fs::statvfs(disk.place()).map(|stat| stat.f_bavail * stat.f_frsize).expect("statvfs") < 64 << 10
    });
    // Others go on, and the loud one is neither blocked nor ended by its full log.
    world.knarr(["exec", "loud", "true"]).success();
    std::fs::write(gate.path().join("stop"), "").expect("ask it to stop");
    eventually("it has come to its end", || gate.path().join("done").exists());
    // With no room for the record of an end, and none to complain of that: the end is told all the same.
    let last = disk.fill_up();
    world.knarr(["exec", "loud", "sh", "-c", "exit 7"]).exits(7);
    std::fs::remove_file(last).expect("give the room back");
    std::fs::remove_file(ballast).expect("give the room back");
    world.knarr(["exec", "loud", "true"]).success();
    world.knarr(["inspect", "-f", "{{.State.Running}}", "loud"]).success().stdout("true\n");
}

#[test]
fn an_engine_whose_own_log_does_not_fit_serves_on() {
    if !is_root() {
        return;
    }
    let mut world = World::without_engine();
    std::os::unix::fs::symlink("/dev/full", world.dir().join("engine.log")).expect("make its log a full disk");
    world.start_engine(&[]);
    world.load(&busybox());
    world.knarr(["run", "--rm", "busybox", "sh", "-c", "exit 7"]).exits(7);
    assert!(!world.engine_ended());
}
