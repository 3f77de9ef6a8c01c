//! The stock docker client against the engine: what its users see, exit codes and texts.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use blackbox::{World, eventually, has_docker};

/// A world, or `None` (said aloud) where the test cannot run.
fn world() -> Option<World> {
    has_docker().then(World::start)
}

/// What a shell line writes to a terminal on which nothing is typed; the line must succeed.
fn on_a_terminal(world: &World, line: &str) -> String {
    let mut command = Command::new("script");
    command.args(["-qec", line, "/dev/null"]).env("DOCKER_HOST", world.host());
    let mut script = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Held open: its end would be typed as an end of file.
    let keyboard = script.stdin.take();
    let answer = script.wait_with_output().unwrap();
    drop(keyboard);
    assert!(answer.status.success(), "{answer:?}");
    String::from_utf8_lossy(&answer.stdout).into_owned()
}

fn state(world: &World, name: &str) -> String {
    world.docker(["inspect", "-f", "{{.State.Status}}", name]).text()
}

#[test]
fn run_gives_output_errors_and_exit_codes() {
    let Some(world) = world() else { return };
    world
        .docker(["run", "--rm", "--network", "none", "busybox", "echo", "hello"])
        .success()
        .stdout("hello\n")
        .stderr("");
    world.docker(["run", "--rm", "busybox", "echo", "hello"]).success().stdout("hello\n").stderr("");
    world
        .docker(["run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"])
        .exits(7)
        .stdout("out\n")
        .stderr("err\n");
    world.docker(["run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).exits(137);
    world
        .docker(["run", "--rm", "busybox", "/no/such/program"])
        .exits(127)
        .stderr_has("exec: \"/no/such/program\": stat /no/such/program: no such file or directory");
    world
        .docker(["run", "--rm", "busybox", "nosuchprogram"])
        .exits(127)
        .stderr_has("executable file not found in $PATH");
    world.docker(["run", "--rm", "busybox", "/etc/passwd"]).exits(126).stderr_has("permission denied");
    world.docker(["ps", "-aq"]).success().stdout("");
}

#[test]
fn standard_input_reaches_the_container_and_ends() {
    let Some(world) = world() else { return };
    world.docker_with(["run", "--rm", "-i", "busybox", "cat"], b"abc\n").success().stdout("abc\n");
    let big: Vec<u8> = (0..8_000_000_u32).map(|at| (at * 7 + at / 251) as u8).collect();
    let answer = world.docker_with(["run", "--rm", "-i", "busybox", "cat"], &big).success();
    assert!(answer.stdout == big, "{} of {} bytes came back", answer.stdout.len(), big.len());
    // A process that does not read its input does not hold anything up.
    world
        .docker_with(["run", "--rm", "-i", "--network", "none", "busybox", "true"], &big)
        .success()
        .stdout("")
        .stderr("");
    world.docker_with(["run", "--rm", "busybox", "cat"], b"not attached").success().stdout("");
}

#[test]
fn a_terminal_is_a_terminal() {
    let Some(world) = world() else { return };
    let line = "docker run --rm -it --network none busybox sh -c 'tty; stty size; echo err >&2'";
    assert_eq!(on_a_terminal(&world, &format!("stty rows 33 cols 101; {line}")), "/dev/pts/0\r\n33 101\r\nerr\r\n");
}

#[test]
fn detach_keys_leave_the_container_running() {
    let Some(world) = world() else { return };
    world.docker(["run", "-dit", "--name", "box", "busybox", "cat"]).success();
    let mut script = Command::new("script")
        .args(["-qec", "docker attach box", "/dev/null"])
        .env("DOCKER_HOST", world.host())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = script.stdin.take().unwrap();
    let mut screen = script.stdout.take().unwrap();
    keyboard.write_all(b"hello\n").unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    // The terminal's echo and cat's answer.
    while String::from_utf8_lossy(&seen).matches("hello\r\n").count() < 2 {
        assert_eq!(screen.read(&mut byte).unwrap(), 1, "{:?}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    keyboard.write_all(b"\x10\x11").unwrap();
    eventually("docker attach ends", || script.try_wait().unwrap().is_some());
    assert_eq!(state(&world, "box"), "running");
}

#[test]
fn a_detached_container_logs_waits_stops_and_goes() {
    let Some(world) = world() else { return };
    let id = world
        .docker(["run", "-d", "--name", "web", "busybox", "sh", "-c", "echo one; echo two >&2; exec sleep 1000"])
        .success()
        .text();
    assert_eq!(id.len(), 64);
    assert_eq!(world.docker(["ps", "-q", "--no-trunc"]).text(), id);
    eventually("both lines are logged", || world.docker(["logs", "web"]).errors() == "two\n");
    world.docker(["logs", "web"]).success().stdout("one\n").stderr("two\n");
    world.docker(["logs", "--tail", "0", "web"]).success().stdout("").stderr("");
    let stamped = world.docker(["logs", "-t", "web"]).text();
    assert!(stamped.len() == 34 && &stamped[10..11] == "T" && &stamped[29..31] == "Z ", "{stamped}");
    world
        .docker(["run", "--rm", "--name", "web", "busybox", "true"])
        .exits(125)
        .stderr_has("Conflict. The container name \"/web\" is already in use by container");
    world.docker(["rm", "web"]).exits(1).stderr_has("cannot remove container");
    world.docker(["stop", "-t", "0", "web"]).success().stdout("web\n");
    world.docker(["wait", "web"]).success().stdout("137\n");
    world.docker(["start", "web"]).success().stdout("web\n");
    world.docker(["restart", "-t", "0", "web"]).success();
    assert_eq!(state(&world, "web"), "running");
    world.docker(["kill", "web"]).success();
    world.docker(["kill", "web"]).exits(1).stderr_has("is not running");
    world.docker(["rm", "web"]).success().stdout("web\n");
    world.docker(["inspect", "web"]).exits(1).stderr_has("No such object: web");
    world.docker(["logs", "web"]).exits(1).stderr_has("No such container: web");
}

#[test]
fn followed_logs_arrive_as_they_are_written_and_end_with_the_container() {
    let Some(world) = world() else { return };
    world
        .docker([
            "run",
            "-d",
            "--name",
            "box",
            "busybox",
            "sh",
            "-c",
            "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done",
        ])
        .success();
    world.docker(["logs", "-f", "box"]).success().stdout("1\n2\n3\n4\n5\n");
    world.docker(["logs", "--tail", "2", "box"]).success().stdout("4\n5\n");
    world.docker(["logs", "--since", "1h", "--until", "0s", "box"]).success();
}

#[test]
fn exec_runs_beside_the_first_process() {
    let Some(world) = world() else { return };
    world.docker(["run", "-d", "--name", "box", "-e", "A=b", "busybox", "sleep", "1000"]).success();
    world.docker(["exec", "box", "sh", "-c", "echo $A; echo err >&2; exit 9"]).exits(9).stdout("b\n").stderr("err\n");
    world.docker_with(["exec", "-i", "box", "wc", "-c"], &[7; 3_000_000]).success().stdout("3000000\n");
    world
        .docker(["exec", "-w", "/tmp", "-u", "nobody", "-e", "X=y", "box", "sh", "-c", "pwd; id -u; echo $X"])
        .success()
        .stdout("/tmp\n65534\ny\n");
    world.docker(["exec", "-d", "box", "touch", "/tmp/made"]).success().stdout("");
    eventually("the detached exec has run", || world.docker(["exec", "box", "test", "-e", "/tmp/made"]).code == 0);
    world.docker(["exec", "box", "nosuchprogram"]).exits(127).stdout_has("executable file not found in $PATH");
    world.docker(["exec", "-u", "nouser", "box", "true"]).exits(1).stderr_has("daemon: unable to find user nouser");
    world.docker(["exec", "-w", "/no", "box", "pwd"]).exits(127).stdout_has("chdir to cwd (\"/no\")");
    world
        .docker(["exec", "box", "/etc"])
        .exits(126)
        .stdout_has("process: exec: \"/etc\": is a directory: permission denied");
    let execs = world.docker(["inspect", "-f", "{{json .ExecIDs}}", "box"]).success().text();
    assert_eq!(execs.trim(), "null", "those that have ended are not the container's any more");
    world.docker(["exec", "nope", "true"]).exits(1).stderr_has("No such container: nope");
    assert_eq!(on_a_terminal(&world, "docker exec -it box tty"), "/dev/pts/0\r\n");
    world.docker(["stop", "-t", "0", "box"]).success();
    world.docker(["exec", "box", "true"]).exits(1).stderr_has("is not running");
}

#[test]
fn files_are_copied_both_ways_and_shown_by_diff() {
    let Some(world) = world() else { return };
    world.docker(["create", "--name", "box", "busybox", "sh", "-c", "cat /data/x"]).success();
    let here = world.dir().join("data");
    std::fs::create_dir(&here).unwrap();
    std::fs::write(here.join("x"), "from outside\n").unwrap();
    let here = here.to_str().unwrap();
    world.docker(["cp", here, "box:/"]).success();
    world.docker(["start", "-a", "box"]).success().stdout("from outside\n");
    world.docker(["diff", "box"]).success().stdout_has("A /data/x");
    let back = world.dir().join("back");
    world.docker(["cp", "box:/data/x", back.to_str().unwrap()]).success();
    assert_eq!(std::fs::read_to_string(back).unwrap(), "from outside\n");
    let tar = world.docker(["cp", "box:/data", "-"]).success();
    assert!(tar.stdout.windows(6).any(|part| part == b"data/x"));
    world.docker(["cp", "box:/nope", "-"]).exits(1).stderr_has("Could not find the file /nope in container box");
    world.docker(["cp", here, "nope:/"]).exits(1).stderr_has("No such container: nope");
}

#[test]
fn what_is_in_a_directory_is_copied_without_it_and_owners_are_kept() {
    let Some(world) = world() else { return };
    let make = "mkdir -p /whole/sub; echo 1 >/whole/sub/f";
    world.docker(["run", "--name", "box", "busybox", "sh", "-c", make]).success();
    let place = |name: &str| world.dir().join(name);
    std::fs::create_dir(place("into")).unwrap();
    for (from, to, found) in
        [("/whole/.", "into", "into/sub/f"), ("/whole/.", "new", "new/sub/f"), ("/", "root", "root/whole/sub/f")]
    {
        world.docker(["cp", &format!("box:{from}"), place(to).to_str().unwrap()]).success();
        assert_eq!(std::fs::read_to_string(place(found)).unwrap(), "1\n", "{from} {to}");
    }
    let file = place("into/sub/f");
    std::os::unix::fs::chown(&file, Some(7), Some(8)).unwrap();
    world.docker(["create", "--name", "other", "busybox", "stat", "-c", "%u:%g", "/kept/sub/f"]).success();
    world.docker(["cp", "-a", place("into").to_str().unwrap(), "other:/kept"]).success();
    world.docker(["start", "-a", "other"]).success().stdout("7:8\n");
}

#[test]
fn images_are_committed_saved_loaded_imported_tagged_and_removed() {
    let Some(world) = world() else { return };
    world.docker(["run", "--name", "box", "busybox", "sh", "-c", "echo made > /made"]).success();
    let id = world
        .docker(["commit", "-m", "a message", "-a", "me", "-c", "CMD [\"cat\", \"/made\"]", "box", "made:v1"])
        .success()
        .text();
    assert!(id.starts_with("sha256:"), "{id}");
    world.docker(["run", "--rm", "made:v1"]).success().stdout("made\n");
    world.docker(["history", "--format", "{{.Comment}}", "made:v1"]).success().stdout_has("a message");
    let file = world.dir().join("saved.tar");
    let file = file.to_str().unwrap();
    world.docker(["save", "-o", file, "made:v1", "busybox"]).success();
    world.docker(["rm", "box"]).success();
    world.docker(["rmi", "made:v1"]).success().stdout_has("Untagged: made:v1").stdout_has("Deleted: sha256:");
    world.docker(["run", "--rm", "made:v1"]).exits(125).stderr_has("Unable to find image 'made:v1' locally");
    world.docker(["load", "-i", file]).success().stdout_has("Loaded image: made:v1");
    world.docker(["run", "--rm", "made:v1"]).success().stdout("made\n");
    world.docker(["tag", "made:v1", "other/name:2"]).success();
    world.docker(["images", "--format", "{{.Repository}}:{{.Tag}}", "other/name"]).success().stdout("other/name:2\n");
    world
        .docker(["image", "inspect", "-f", "{{json .Config.Cmd}} {{.Os}}", "made:v1"])
        .success()
        .stdout("[\"cat\",\"/made\"] linux\n");
    world.docker(["create", "--name", "bare", "busybox"]).success();
    let export = world.docker(["export", "bare"]).success();
    world
        .docker_with(["import", "-c", "CMD [\"echo\", \"imported\"]", "-", "flat:1"], &export.stdout)
        .success()
        .stdout_has("sha256:");
    world.docker(["run", "--rm", "flat:1"]).success().stdout("imported\n");
    world.docker(["rmi", "nope"]).exits(1).stderr_has("No such image: nope");
    world.docker(["rmi", "busybox"]).exits(1).stderr_has("conflict");
    world.docker_with(["load"], b"this is no archive").exits(1);
    world.docker(["image", "prune", "-f"]).success().stdout_has("Total reclaimed space");
}

#[test]
fn lists_filter_and_inspect_formats() {
    let Some(world) = world() else { return };
    world.docker(["run", "-d", "--name", "up", "--label", "k=v", "busybox", "sleep", "1000"]).success();
    world.docker(["run", "--name", "down", "busybox", "false"]).exits(1);
    world.docker(["create", "--name", "fresh", "-m", "64m", "--cpus", "0.5", "busybox"]).success();
    let names = |arguments: &[&str]| {
        let mut all = vec!["ps", "--format", "{{.Names}}"];
        all.extend(arguments);
        world.docker(all).success().text()
    };
    assert_eq!(names(&[]), "up");
    assert_eq!(names(&["-a"]), "fresh\ndown\nup");
    assert_eq!(names(&["-a", "-f", "status=created"]), "fresh");
    assert_eq!(names(&["-a", "-f", "exited=1"]), "down");
    assert_eq!(names(&["-f", "label=k"]), "up");
    assert_eq!(names(&["-f", "label=k=x"]), "");
    assert_eq!(names(&["-a", "-f", "name=dow"]), "down");
    assert_eq!(names(&["-a", "-f", "ancestor=busybox", "-n", "2"]), "fresh\ndown");
    world.docker(["ps", "-f", "nope=1"]).exits(1).stderr_has("invalid filter 'nope'");
    let format = "{{.Name}} {{.State.ExitCode}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.Config.Image}} {{.Path}} {{.Driver}}";
    world
        .docker(["inspect", "-f", format, "fresh"])
        .success()
        .stdout("/fresh 0 67108864 500000000 busybox sh overlay2\n");
    world.docker(["rename", "fresh", "new"]).success();
    world.docker(["update", "-m", "128m", "--memory-swap", "256m", "new"]).success();
    world.docker(["inspect", "-f", "{{.HostConfig.Memory}}", "new"]).success().stdout("134217728\n");
    world.docker(["ps", "-as", "--format", "{{.Names}} {{.Size}}"]).success().stdout_has("virtual");
    world.docker(["container", "prune", "-f"]).success().stdout_has("Deleted Containers:");
    assert_eq!(names(&["-a"]), "up");
}

#[test]
fn running_containers_are_looked_at_paused_and_resized() {
    let Some(world) = world() else { return };
    world.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).success();
    world.docker(["top", "box"]).success().stdout_has("sleep 1000");
    world.docker(["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "box"]).success().stdout("box 1\n");
    world.docker(["pause", "box"]).success();
    assert_eq!(state(&world, "box"), "paused");
    world.docker(["exec", "box", "true"]).exits(1).stderr_has("is paused");
    world.docker(["unpause", "box"]).success();
    world.docker(["unpause", "box"]).exits(1).stderr_has("is not paused");
    world.docker(["port", "box"]).success().stdout("");
    world
        .docker(["info", "--format", "{{.ContainersRunning}} {{.Driver}} {{.OSType}}"])
        .success()
        .stdout("1 overlay2 linux\n");
    world.docker(["version", "--format", "{{.Server.APIVersion}} {{.Server.Os}}"]).success().stdout("1.51 linux\n");
    world
        .docker(["system", "df", "--format", "{{.Type}} {{.TotalCount}}"])
        .success()
        .stdout_has("Images 1")
        .stdout_has("Containers 1");
    world.docker(["network", "ls", "--format", "{{.Name}}"]).success().stdout("bridge\nhost\nnone\n");
    world.docker(["swarm", "ca"]).exits(1).stderr_has("This node is not a swarm manager");
}

#[test]
fn events_tell_the_life_of_a_container() {
    let Some(world) = world() else { return };
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string();
    world.docker(["run", "--rm", "--name", "box", "busybox", "true"]).success();
    let until = (since.parse::<u64>().unwrap() + 1000).to_string();
    let mut events = world.docker_command();
    events.args([
        "events",
        "--since",
        &since,
        "--until",
        &until,
        "--filter",
        "type=container",
        "--format",
        "{{.Action}}",
    ]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    let mut out = events.stdout.take().unwrap();
    let mut buffer = [0; 512];
    while !text.contains("destroy\n") {
        let count = out.read(&mut buffer).unwrap();
        assert!(count > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    events.kill().unwrap();
    events.wait().unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), ["create", "attach", "start", "die", "destroy"]);
}

#[test]
fn what_is_not_supported_is_refused_in_words() {
    let Some(world) = world() else { return };
    world.docker(["push", "--platform", "linux/arm64", "busybox"]).exits(1);
    world
        .docker(["run", "--rm", "--network", "mynet", "busybox", "true"])
        .exits(125)
        .stderr_has("network mynet not found");
    world.docker(["run", "--rm", "-p", "80:80", "--network", "none", "busybox", "true"]);
    world.docker(["network", "create", "-d", "overlay", "x"]).exits(1).stderr_has("This node is not a swarm manager");
    world.docker(["ps", "-aq"]).success().stdout("");
}

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let Some(world) = world() else { return };
    world.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).success();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", world.engine_pid())).unwrap().count();
    let ask = |request: &str, wanted: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(world.socket()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(String::from_utf8_lossy(&head), wanted, "{request}");
    };
    let upgrade = "Host: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n";
    let round = || {
        ask(
            &format!("POST /containers/box/attach?stream=1&stdout=1&stderr=1&stdin=1 HTTP/1.1\r\n{upgrade}\r\n"),
            "HTTP/1.1 101",
        );
        ask("GET /containers/box/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n", "HTTP/1.1 200");
        ask("GET /events HTTP/1.1\r\nHost: d\r\n\r\n", "HTTP/1.1 200");
        ask("POST /containers/box/wait HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200");
        ask("GET /containers/box/stats HTTP/1.1\r\nHost: d\r\n\r\n", "HTTP/1.1 200");
    };
    round();
    let before = descriptors();
    for _ in 0..200 {
        round();
    }
    eventually("the engine has let go of a thousand clients", || descriptors() <= before + 5);
    assert_eq!(state(&world, "box"), "running");
}
