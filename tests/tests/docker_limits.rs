//! What a limited container reads about itself, also while the engine is away; and exec inherits its limits.

use blackbox::{World, eventually, is_root};

fn world() -> Option<World> {
    (is_root() && std::process::Command::new("docker").arg("--version").output().is_ok()).then(World::start)
}

#[test]
fn proc_tells_the_limits_of_a_limited_container_and_never_waits() {
    let Some(mut world) = world() else { return };
    let flags =
        ["run", "-d", "--network", "none", "--memory", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--name", "box"];
    world.docker(flags.iter().chain(&["busybox", "sleep", "600"])).success();
    let read = |world: &World, path: &str| world.docker(["exec", "box", "cat", path]).success().text();
    let field = |world: &World, name: &str| {
        let text = read(world, "/proc/meminfo");
        let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).expect("a line").to_owned();
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number")
    };
    assert_eq!(field(&world, "MemTotal"), 65536);
    assert!(field(&world, "MemFree") <= 65536 && field(&world, "MemAvailable") <= 65536);
    assert_eq!(field(&world, "SwapTotal"), 0);
    assert_eq!(read(&world, "/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(), 1);
    assert_eq!(read(&world, "/sys/devices/system/cpu/online"), "0");
    assert_eq!(read(&world, "/proc/stat").lines().filter(|line| line.starts_with("cpu")).count(), 2);
    assert_eq!(read(&world, "/proc/swaps").lines().count(), 1);
    assert_eq!(read(&world, "/proc/loadavg").split(' ').count(), 5);
    read(&world, "/proc/diskstats");
    assert!(world.docker(["exec", "box", "free", "-m"]).success().text().contains("64"));
    // At an update at once, and with time by itself.
    world.docker(["update", "--memory", "32m", "--memory-swap", "32m", "box"]).success();
    assert_eq!(field(&world, "MemTotal"), 32768);
    let up = || read(&world, "/proc/uptime").split('.').next().unwrap().parse::<u64>().unwrap();
    eventually("time goes on", || (1..10_000).contains(&up()));
    world.docker(["exec", "box", "sh", "-c", "echo 1 > /proc/meminfo"]).exits(1);
    // Nobody is there to answer, and the read ends all the same.
    let pid = world.docker(["inspect", "-f", "{{.State.Pid}}", "box"]).text();
    world.end_engine(rustix::process::Signal::KILL);
    let inside = std::fs::read_to_string(format!("/proc/{pid}/root/proc/meminfo")).unwrap();
    assert!(inside.starts_with("MemTotal:"), "{inside}");
    world.start_engine(&[]);
    world.docker(["update", "--memory", "48m", "--memory-swap", "48m", "box"]).success();
    assert_eq!(field(&world, "MemTotal"), 49152);
    world.docker(["rm", "-f", "box"]).success();
    eventually("its files go with it", || {
        std::fs::read_dir(world.run_dir().join("view")).map_or(0, Iterator::count) == 0
    });
}

#[test]
fn the_view_has_a_switch() {
    let Some(world) = world() else { return };
    let total = |flags: &[&str]| {
        let words: Vec<&str> = ["run", "--rm", "--network", "none"].iter().chain(flags).copied().collect();
        let words: Vec<&str> = words.into_iter().chain(["busybox", "head", "-1", "/proc/meminfo"]).collect();
        world.docker(words).success().text()
    };
    let host = std::fs::read_to_string("/proc/meminfo").unwrap().lines().next().unwrap().to_owned();
    assert_eq!(total(&[]), host);
    assert_ne!(total(&["--memory", "64m"]), host);
    assert_eq!(total(&["--memory", "64m", "--annotation", "io.knarr.proc-view=off"]), host);
    let mounts = [
        "run",
        "--rm",
        "--network",
        "none",
        "--proc-view",
        "on",
        "busybox",
        "grep",
        "-c",
        "/proc/uptime",
        "/proc/self/mountinfo",
    ];
    world.knarr(mounts).success().stdout("1\n");
    world
        .docker(["create", "--network", "none", "--annotation", "io.knarr.proc-view=maybe", "busybox"])
        .exits(1)
        .stderr_has("\"maybe\" is none of");
}

#[test]
fn an_exec_has_the_containers_own_limits() {
    let Some(world) = world() else { return };
    let flags = ["run", "-d", "--network", "none", "--ulimit", "nofile=77:88", "--ulimit", "core=0", "--name", "lim"];
    world.docker(flags.iter().chain(&["busybox", "sleep", "600"])).success();
    world.docker(["exec", "lim", "sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c"]).success().stdout("77\n88\n0\n");
}

#[test]
fn knarr_under_the_name_of_docker_is_the_same() {
    let Some(world) = world() else { return };
    let listed = world.knarr(["ps", "-a"]).success().text();
    world.knarr(["docker", "ps", "-a"]).success().stdout(&format!("{listed}\n"));
    let docker = world.dir().join("docker");
    std::os::unix::fs::symlink(blackbox::program(), &docker).unwrap();
    let mut command = std::process::Command::new(&docker);
    command.env("DOCKER_HOST", world.host()).args(["--context", "default", "ps", "-a"]);
    blackbox::finish(command, b"").success().stdout(&format!("{listed}\n"));
    world.knarr(["context", "ls", "-q"]).success().stdout("default\n");
    world.knarr(["context", "show"]).success().stdout("default\n");
    world
        .knarr(["context", "inspect", "-f", "{{.Endpoints.docker.Host}}"])
        .success()
        .stdout(&format!("{}\n", world.host()));
    world.knarr(["context", "use", "other"]).exits(1).stderr_has("not found");
}
