//! `kill -9` of the engine, and of the keeper, under a hundred running, logging containers: every one keeps its process, no
//! line of a log is lost or doubled, and all are adopted in no time.

use std::time::{Duration, Instant};

use blackbox::{World, eventually, is_root};

const CONTAINERS: usize = 100;

/// Counts into its log until it is asked to end, then says how far it came.
const COUNTING: &str = "n=0; trap 'echo end $n; exit 0' TERM; while :; do echo line $n; n=$((n+1)); usleep 50000; done";

/// For the optimised program; an unoptimised one on a busy machine gets more.
fn adoption_limit() -> Duration {
    let optimised = blackbox::program().components().any(|part| part.as_os_str() == "release");
    Duration::from_secs(if optimised { 2 } else { 10 })
}

fn start_all(world: &World) {
    std::thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                for number in (worker..CONTAINERS).step_by(4) {
                    world
                        .knarr(["run", "-d", "--name", &format!("c{number}"), "busybox", "sh", "-c", COUNTING])
                        .success();
                }
            });
        }
    });
}

/// Name and process of every running container.
fn running(world: &World) -> Vec<(String, String)> {
    let names = world.knarr(["ps", "--format", "{{.Names}}"]).success().text();
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    if names.is_empty() {
        return Vec::new();
    }
    let words = [&["inspect", "-f", "{{.Name}} {{.State.Pid}}"], names.as_slice()].concat();
    let text = world.knarr(words).success().text();
    text.lines()
        .filter_map(|line| line.trim_start_matches('/').split_once(' '))
        .map(|(name, pid)| (name.to_owned(), pid.to_owned()))
        .collect()
}

/// Asks every container to end and compares its log with what it says it wrote.
fn check_logs(world: &World) {
    let names: Vec<String> = (0..CONTAINERS).map(|number| format!("c{number}")).collect();
    let all = |words: &[&str]| {
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        words.extend(names.iter().cloned());
        world.knarr(words).success();
    };
    all(&["kill", "-s", "TERM"]);
    all(&["wait"]);
    for name in &names {
        let log = world.knarr(["logs", name]).success().text();
        let lines: Vec<&str> = log.lines().collect();
        let (last, lines) = lines.split_last().unwrap_or_else(|| panic!("{name}: an empty log"));
        let said: usize = last
            .strip_prefix("end ")
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("{name} ends with {last:?}"));
        // The signal may come after a line and before it is counted.
        assert!(
            lines.len() == said || lines.len() == said + 1,
            "{name}: {} lines in the log, {said} written",
            lines.len()
        );
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(*line, format!("line {number}"), "{name}");
        }
    }
}

#[test]
fn containers_outlive_the_engine() {
    if !is_root() {
        return;
    }
    let mut world = World::start();
    start_all(&world);
    let before = running(&world);
    assert_eq!(before.len(), CONTAINERS);
    for round in 0..3 {
        world.end_engine(rustix::process::Signal::KILL);
        let start = Instant::now();
        world.start_engine(&[]);
        let answered = world.knarr(["ps", "-q"]).success().text().lines().count();
        let took = start.elapsed();
        eprintln!("round {round}: {answered} containers adopted in {took:?}");
        assert_eq!(answered, CONTAINERS);
        assert!(took < adoption_limit(), "adopted in {took:?}");
        assert_eq!(running(&world), before, "names and processes");
    }
    check_logs(&world);
}

#[test]
fn containers_outlive_the_keeper() {
    if !is_root() {
        return;
    }
    let world = World::start();
    start_all(&world);
    let before = running(&world);
    for round in 0..3 {
        let [keeper] = world.keeper_pids()[..] else { panic!("one keeper, not {:?}", world.keeper_pids()) };
        let start = Instant::now();
        rustix::process::kill_process(keeper, rustix::process::Signal::KILL).expect("kill the keeper");
        eventually("there is another keeper", || matches!(world.keeper_pids()[..], [next] if next != keeper));
        // It works: a new process in an old container needs the keeper that has taken over.
        eventually("the new keeper starts processes", || world.knarr(["exec", "c0", "true"]).code == 0);
        eprintln!("round {round}: another keeper works after {:?}", start.elapsed());
        assert!(start.elapsed() < adoption_limit(), "{:?}", start.elapsed());
        assert_eq!(running(&world), before, "names and processes");
    }
    check_logs(&world);
}

#[test]
fn exit_codes_are_kept_for_an_engine_that_was_away() {
    if !is_root() {
        return;
    }
    let mut world = World::start();
    world.knarr(["run", "-d", "--rm", "--name", "vanishes", "busybox", "sh", "-c", "sleep 0.5"]).success();
    let gate = world.dir().join("gate");
    std::fs::create_dir(&gate).expect("make a folder");
    let volume = format!("{}:/gate", gate.display());
    world
        .knarr([
            "run",
            "-d",
            "--name",
            "waits",
            "-v",
            &volume,
            "busybox",
            "sh",
            "-c",
            "while [ ! -e /gate/go ]; do usleep 10000; done; echo gone; exit 42",
        ])
        .success();
    let pid = world.knarr(["inspect", "-f", "{{.State.Pid}}", "waits"]).success().text();
    world.end_engine(rustix::process::Signal::KILL);
    std::fs::write(gate.join("go"), "").expect("open the gate");
    eventually("the container has ended without an engine", || !std::path::Path::new("/proc").join(&pid).exists());
    world.start_engine(&[]);
    world.knarr(["wait", "waits"]).success().stdout("42\n");
    world.knarr(["logs", "waits"]).success().stdout("gone\n");
    eventually("a container with --rm that ended meanwhile is removed", || {
        world.knarr(["ps", "-a", "--filter", "name=vanishes", "-q"]).text().is_empty()
    });
}
