//! The power goes at any instant: what was acknowledged is there, what was not is wholly there or wholly absent, and nothing needs
//! repair.
//!
//! The store is on a small ext4 of its own, in a file. A child works through a list of operations and says after each that it is done;
//! it dies at a chosen instant; then the file is copied as it is. What the kernel had not written to it by then is lost, as in a power
//! cut; the copy is mounted, ext4 replays its journal, and the store is opened. The state must be the one after the last operation that
//! was acknowledged, or after the one that was under way, as a run without a cut has shown them.
//!
//! A slice runs with the tests: one cut at each durable step. The campaign: `KNARR_POWER_CUTS=1000 cargo test -p image --test
//! privileged_power` cuts so many times at random instants; `KNARR_POWER_SEED` repeats one.

mod common;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use image::*;

/// One after another, each acknowledged. Every kind of change that the store knows, some of them twice.
const OPERATIONS: [&str; 14] = [
    "load",
    "tag",
    "prepare",
    "commit",
    "pull",
    "untag",
    "remove_snapshot",
    "seal",
    "load",
    "create",
    "unkeep",
    "prune",
    "import",
    "load_gzip",
];

fn layers() -> [Vec<u8>; 2] {
    let big = "0123456789abcdef".repeat(20_000);
    [tar(&[dir("./"), file("a", "1"), dir("d"), file("d/b", &big)]), tar(&[file("c", "3"), file(".wh.a", "")])]
}

fn operate(store: &Arc<Store>, db: &db::Db, what: &str) -> image::Result<()> {
    let [one, two] = layers();
    let load = |bytes: &[u8]| store.load(&mut &bytes[..], &Default::default(), &|_| {}).map(drop);
    let id = |name: &str| store.resolve(name);
    match what {
        "load" => load(&docker_archive(&[("app", &[&one, &two]), ("base", &[&one])])),
        "load_gzip" => {
            let mut oci = OciArchive::default();
            let image = oci.image(&[&one, &two], "+gzip", gzip, serde_json::json!({"author": "gzip"}));
            load(&oci.name(image, "packed").tar())
        }
        "tag" => store.tag("app", &"other:1".parse().unwrap()).map(drop),
        "untag" => store.remove("other:1", Default::default(), &|_| false).map(drop),
        "prepare" => store.prepare("c", &id("app")?).map(drop),
        "commit" => {
            std::fs::write(store.snapshot("c")?.upper.join("new"), "x").unwrap();
            let options = CommitOptions { reference: Some("committed".parse().unwrap()), ..Default::default() };
            store.commit("c", &options).map(drop)
        }
        "remove_snapshot" => store.remove_snapshot("c"),
        "pull" => {
            let mut oci = OciArchive::default();
            oci.image(&[&one, &two], "+zstd", zstd, serde_json::json!({"author": "pull"}));
            let (config, manifest) = (oci.blobs.remove(0), oci.blobs.pop().unwrap());
            let pull = store.pull()?;
            for layer in &oci.blobs {
                let part = pull.layer(image::hash::sha256(layer), layer.len() as u64)?;
                let from = part.have();
                part.receive(from, &mut &layer[from as usize..], &|_| {})?;
            }
            let manifest = PulledManifest { media_type: format!("{OCI}.manifest.v1+json"), manifest, config };
            pull.commit(manifest, vec!["pulled".parse().unwrap()]).map(drop)
        }
        "seal" => {
            let top = store.top_layer(&id("app")?)?;
            store.prepare_on("s", top.as_ref())?;
            std::fs::write(store.snapshot("s")?.upper.join("sealed"), "sealed").unwrap();
            let sealed = store.seal("s")?;
            db.write(|txn| store.keep(txn, "cache", &sealed.layer.chain))
        }
        "create" => {
            let (_, kept) = store.kept("cache")?.remove(0);
            let mut diff_ids = vec![kept.diff_id];
            let mut at = kept.parent;
            while let Some(layer) = at.map(|chain| store.layer(&chain)).transpose()?.flatten() {
                diff_ids.insert(0, layer.diff_id);
                at = layer.parent;
            }
            let config = serde_json::json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
            let config = serde_json::to_vec(&config).unwrap();
            store.create_image(config, Some(&kept.chain), vec!["built".parse().unwrap()], None).map(drop)
        }
        "unkeep" => db.write(|txn| store.unkeep(txn, "cache")),
        "prune" => store.prune(&PruneFilter { dangling: false, ..Default::default() }).map(drop),
        "import" => {
            let options = ImportOptions { reference: Some("imported".parse().unwrap()), ..Default::default() };
            store.import(&mut &one[..], &options, &|_| {}).map(drop)
        }
        other => panic!("{other}"),
    }
}

/// What the store tells, in one line, without what depends on the clock.
fn state(store: &Store) -> String {
    let mut text = String::new();
    let mut images = store.list(&ListFilter { all: true, ..Default::default() }).unwrap();
    images.sort_by_key(|image| image.tags.first().map(|tag| tag.familiar()));
    for image in &images {
        let mut tags: Vec<String> = image.tags.iter().map(|tag| tag.familiar()).collect();
        tags.sort();
        write!(text, "{} {}; ", tags.join(","), image.size_bytes).unwrap();
    }
    let kept = store.kept("").unwrap();
    // The snapshot of a build's step is nobody's but the build's: an operation makes and seals it.
    let snapshots: Vec<String> = store.snapshots().unwrap().into_iter().filter(|name| name != "s").collect();
    write!(text, "snapshots {snapshots:?} kept {}", kept.len()).unwrap();
    text
}

/// Run by the others as a process of its own. Else it does nothing.
#[test]
fn the_part_of_the_child() {
    let Ok(root) = std::env::var("IMAGE_TEST_ROOT") else { return };
    let root = Path::new(&root);
    let db = db::Db::open(&root.join("knarr.db")).unwrap();
    let store = Arc::new(Store::open(root, db.clone(), Default::default()).unwrap());
    println!("\nstate {}", state(&store));
    for what in OPERATIONS {
        operate(&store, &db, what).unwrap_or_else(|e| panic!("{what}: {e}"));
        println!("state {}", state(&store));
    }
}

fn start(root: &Path, point: &str) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["the_part_of_the_child", "--exact", "--nocapture"])
        .env("IMAGE_TEST_ROOT", root)
        .env("KNARR_CRASH_POINT", point)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn states(out: impl std::io::Read) -> Vec<String> {
    let lines = BufReader::new(out).lines().map_while(Result::ok);
    lines.filter_map(|line| line.strip_prefix("state ").map(str::to_owned)).collect()
}

/// A file system in a file, mounted.
struct Disk {
    mount: PathBuf,
    device: PathBuf,
}

impl Disk {
    fn mount(file: &Path, mount: PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir_all(&mount).unwrap();
        let mounted = Command::new("mount").args(["-t", "ext4", "-o", options]).args([file, &mount]).status().unwrap();
        if !mounted.success() {
            return None;
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == mount.to_str()).unwrap();
        let device = PathBuf::from(line.split(' ').next().unwrap());
        Some(Self { mount, device })
    }

    /// Writes that the device has seen and writes that are on their way to it.
    fn traffic(&self) -> String {
        let block = Path::new("/sys/class/block").join(self.device.file_name().unwrap());
        let stat = std::fs::read_to_string(block.join("stat")).unwrap();
        let fields: Vec<&str> = stat.split_whitespace().collect();
        format!("{} {}", fields[4], fields[8])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mount).status();
    }
}

struct Cut {
    folder: tempfile::TempDir,
    options: &'static str,
}

impl Cut {
    /// `None`: there are no loop devices here.
    fn new(options: &'static str) -> Option<(Self, Disk)> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        std::fs::File::create(&file).unwrap().set_len(48 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0", "disk"], folder.path());
        let disk = Disk::mount(&file, folder.path().join("mnt"), options)?;
        Some((Self { folder, options }, disk))
    }

    /// The power goes: everything that the device does not have is lost.
    fn power_off(&self, disk: Disk) -> Disk {
        let (file, copy) = (self.folder.path().join("disk"), self.folder.path().join("copy"));
        // The kernel may write something of its own meanwhile; then the copy is of no one instant.
        for _ in 0..50 {
            let before = disk.traffic();
            run("cp", &["--sparse=always", file.to_str().unwrap(), copy.to_str().unwrap()], Path::new("/"));
            if disk.traffic() == before && before.ends_with(" 0") {
                drop(disk);
                return Disk::mount(&copy, self.folder.path().join("after"), self.options)
                    .expect("the copy is mounted");
            }
        }
        panic!("the disk never came to rest");
    }
}

/// The store after a cut, compared with the states that a run without one went through.
fn verify(disk: &Disk, acknowledged: &[String], all: &[String], what: &str) {
    let store = open_store(&disk.mount);
    let found = state(&store);
    let done = acknowledged.len().saturating_sub(1);
    // A store that never came to tell its first state may be empty or not there.
    let allowed = &all[done..(done + 2).min(all.len())];
    assert!(
        allowed.contains(&found),
        "{what}: after {done} operations it is\n{found}\nallowed:\n{}",
        allowed.join("\n")
    );
    assert!(acknowledged.iter().eq(&all[..acknowledged.len()]), "{what}: {acknowledged:#?}");
    assert_whole(&store, what);
    for image in store.list(&ListFilter { all: true, ..Default::default() }).unwrap() {
        store.save(&[image.id.to_string()], &mut std::io::sink()).unwrap_or_else(|e| panic!("{what}: {e}"));
        // A container starts from it.
        let look = store.prepare("look", &image.id).unwrap();
        assert!(look.lowers.iter().all(|dir| dir.exists()));
        store.mount("look", true).unwrap();
        store.remove_snapshot("look").unwrap();
    }
    for container in store.snapshots().unwrap() {
        store.mount(&container, true).unwrap();
    }
    assert_whole(&store, what);
}

fn uncut() -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(folder.path(), "none");
    let all = states(child.stdout.take().unwrap());
    assert!(child.wait().unwrap().success());
    assert_eq!(all.len(), OPERATIONS.len() + 1);
    all
}

const POINTS: [&str; 19] = [
    "db.open.made",
    "db.commit.before",
    "db.commit.after",
    "db.commit.before:4",
    "db.commit.after:4",
    "db.commit.after:9",
    "image.commit.synced",
    "image.commit.moved:2",
    "image.commit.before_record",
    "image.commit.after_record",
    "image.commit.after_record:2",
    "image.commit.after_record:3",
    "image.commit.after_record:4",
    "image.snapshot.files",
    "image.snapshot.recorded",
    "image.snapshot.forgotten",
    "image.seal.taken",
    "image.seal.after_record",
    "image.collect.records_gone",
];

#[test]
fn a_power_cut_at_any_durable_step_loses_nothing_acknowledged() {
    if !root_or_skip("power cuts") {
        return;
    }
    let all = uncut();
    for (at, point) in POINTS.iter().enumerate() {
        // The second kind of disk keeps data and metadata in no order at all.
        let options = if at % 2 == 0 { "loop" } else { "loop,data=writeback" };
        let Some((cut, disk)) = Cut::new(options) else {
            eprintln!("SKIPPED: power cuts need loop devices");
            return;
        };
        let mut child = start(&disk.mount, point);
        let acknowledged = states(child.stdout.take().unwrap());
        assert!(!child.wait().unwrap().success(), "{point} was never reached");
        let after = cut.power_off(disk);
        verify(&after, &acknowledged, &all, point);
    }
}

#[test]
fn power_cuts_at_random_instants() {
    let Some(rounds) = std::env::var("KNARR_POWER_CUTS").ok().and_then(|text| text.parse::<u64>().ok()) else { return };
    let all = uncut();
    let first: u64 =
        std::env::var("KNARR_POWER_SEED").map_or_else(|_| u64::from(std::process::id()), |text| text.parse().unwrap());
    for seed in first..first + rounds {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let options = if random & 1 == 0 { "loop" } else { "loop,data=writeback" };
        let (cut, disk) = Cut::new(options).unwrap();
        let mut child = start(&disk.mount, "none");
        let mut out = BufReader::new(child.stdout.take().unwrap());
        // After so many states, and then some time into the next operation.
        let mut lines = Vec::new();
        for _ in 0..(random >> 8) % (all.len() as u64 + 1) {
            let mut line = String::new();
            while out.read_line(&mut line).unwrap() > 0 && !line.contains("state ") {
                line.clear();
            }
            lines.extend(line.trim_end().strip_prefix("state ").map(str::to_owned));
        }
        std::thread::sleep(Duration::from_micros((random >> 24) % 30_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let after = cut.power_off(disk);
        lines.extend(states(out));
        verify(&after, &lines, &all, &format!("seed {seed}"));
        println!("seed {seed}: cut after {} of {}", lines.len(), all.len());
    }
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened(&[("sync", "a_power_cut_at_any_durable_step_loses_nothing_acknowledged")]);
}
