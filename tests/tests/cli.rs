//! `knarr` as a user has it: commands, exit codes, what is printed where, and what the next command sees.

use blackbox::{World, eventually, is_root};

#[test]
fn run_gives_back_output_and_exit_code() {
    if !is_root() {
        return;
    }
    let world = World::start();
    world.knarr(["run", "--rm", "busybox", "echo", "hello"]).success().stdout("hello\n");
    let answer = world.knarr(["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]).exits(7);
    assert_eq!((answer.text().as_str(), answer.errors().contains("err\n")), ("out", true), "{answer}");
    // Not the container's first process, which no signal of its own can end.
    world.knarr(["run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).exits(137);
    world.knarr(["ps", "-aq"]).success().stdout("");
}

#[test]
fn a_command_that_cannot_run_has_the_code_of_a_shell() {
    if !is_root() {
        return;
    }
    let world = World::start();
    world.knarr(["run", "--rm", "busybox", "nope"]).exits(127).stderr_has("executable file not found in $PATH");
    world.knarr(["run", "--rm", "busybox", "/nope"]).exits(127).stderr_has("no such file or directory");
    world.knarr(["run", "--rm", "busybox", "/etc/passwd"]).exits(126).stderr_has("permission denied");
    world.knarr(["run", "--rm", "-w", "/x", "nosuchimage", "true"]).exits(125).stderr_has("Unable to find image");
    world.knarr(["run", "--no-such-flag", "busybox"]).exits(125).stderr_has("unknown flag: --no-such-flag");
    world.knarr(["run", "-m", "1", "busybox", "true"]).exits(125).stderr_has("Minimum memory limit");
    world.knarr(["run"]).exits(1).stderr_has("'knarr run' requires at least 1 argument");
    eventually("what was to be removed is gone", || world.knarr(["ps", "-aq"]).success().text().is_empty());
}

#[test]
fn standard_input_reaches_the_container_and_its_end_too() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let mut command = world.knarr_command();
    command.args(["run", "-i", "--rm", "busybox", "wc", "-c"]);
    let big = vec![b'x'; 3 << 20];
    blackbox::finish(command, &big).success().stdout("3145728\n");
    // Without -i there is nothing to read.
    let mut command = world.knarr_command();
    command.args(["run", "--rm", "busybox", "wc", "-c"]);
    blackbox::finish(command, b"ignored").success().stdout("0\n");
}

#[test]
fn the_environment_user_and_folder_are_as_asked() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let run = |arguments: &[&str]| world.knarr([&["run", "--rm"], arguments].concat()).success().text();
    assert_eq!(run(&["-e", "A=1", "-e", "B=two words", "busybox", "sh", "-c", "echo $A $B"]), "1 two words");
    assert_eq!(run(&["-u", "nobody", "busybox", "id", "-u"]), "65534");
    assert_eq!(run(&["-u", "1000:100", "busybox", "sh", "-c", "id -u; id -g"]), "1000\n100");
    assert_eq!(run(&["-w", "/var/new", "busybox", "pwd"]), "/var/new");
    assert_eq!(run(&["--entrypoint", "echo", "busybox", "from", "entrypoint"]), "from entrypoint");
    assert_eq!(run(&["--hostname", "here", "busybox", "hostname"]), "here");
    assert_eq!(run(&["--read-only", "busybox", "sh", "-c", "touch /x 2>/dev/null || echo refused"]), "refused");
    assert_eq!(run(&["--tmpfs", "/t:size=1m", "busybox", "sh", "-c", "touch /t/x && echo ok"]), "ok");
    assert_eq!(
        run(&["--cap-drop", "ALL", "busybox", "grep", "CapEff", "/proc/self/status"]),
        "CapEff:\t0000000000000000"
    );
    assert_eq!(
        run(&["--security-opt", "no-new-privileges", "busybox", "grep", "NoNewPrivs", "/proc/self/status"]),
        "NoNewPrivs:\t1"
    );
    assert_eq!(run(&["--ulimit", "nofile=100:200", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn"]), "100\n200");
    assert_eq!(run(&["--network", "host", "--uts", "host", "busybox", "hostname"]), hostname());
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name").trim().to_owned()
}

#[test]
fn bind_mounts_are_the_hosts_files() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let shared = world.dir().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("a"), "from the host\n").unwrap();
    let volume = format!("{}:/shared", shared.display());
    world
        .knarr(["run", "--rm", "-v", &volume, "busybox", "sh", "-c", "cat /shared/a; echo back > /shared/b"])
        .success()
        .stdout("from the host\n");
    assert_eq!(std::fs::read_to_string(shared.join("b")).unwrap(), "back\n");
    let read_only = format!("type=bind,src={},dst=/shared,readonly", shared.display());
    world.knarr(["run", "--rm", "--mount", &read_only, "busybox", "sh", "-c", "touch /shared/c"]).exits(1);
    assert!(!shared.join("c").exists());
}

#[test]
fn a_container_lives_through_its_commands() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let id = world
        .knarr(["run", "-d", "--name", "web", "-l", "tier=front", "busybox", "sh", "-c", "echo started; sleep 600"])
        .success()
        .text();
    assert_eq!(id.len(), 64, "{id}");
    let short = &id[..12];
    let line = world
        .knarr(["ps", "--format", "{{.ID}} {{.Image}} {{.Names}} {{.State}} {{.Label \"tier\"}}"])
        .success()
        .text();
    assert_eq!(line, format!("{short} busybox web running front"));
    world.knarr(["exec", "web", "sh", "-c", "exit 3"]).exits(3);
    world
        .knarr(["exec", "-e", "X=1", "-w", "/tmp", "-u", "nobody", "web", "sh", "-c", "echo $X $(pwd) $(id -u)"])
        .success()
        .stdout("1 /tmp 65534\n");
    world.knarr(["exec", "web", "nope"]).exits(127);
    eventually("the first line is in the log", || world.knarr(["logs", "web"]).text() == "started");
    world.knarr(["top", "web"]).success().stdout_has("sleep 600");
    world.knarr(["exec", "web", "touch", "/new"]).success();
    world.knarr(["diff", "web"]).success().stdout_has("A /new");
    world.knarr(["pause", "web"]).success().stdout("web\n");
    world.knarr(["inspect", "-f", "{{.State.Status}} {{.State.Paused}}", "web"]).success().stdout("paused true\n");
    world.knarr(["exec", "web", "true"]).exits(1).stderr_has("is paused");
    world.knarr(["unpause", "web"]).success();
    world.knarr(["rename", "web", "shop"]).success();
    world.knarr(["rm", "shop"]).exits(1).stderr_has("container is running");
    world.knarr(["restart", "-t", "0", "shop"]).success().stdout("shop\n");
    world.knarr(["stop", "-t", "0", "shop"]).success().stdout("shop\n");
    world.knarr(["wait", "shop"]).success().stdout("137\n");
    world.knarr(["ps", "-q"]).success().stdout("");
    world.knarr(["ps", "-a", "--filter", "status=exited", "--format", "{{.Names}}"]).success().stdout("shop\n");
    world.knarr(["start", "shop"]).success();
    world.knarr(["kill", "-s", "KILL", "shop"]).success();
    world.knarr(["rm", short]).success();
    world.knarr(["inspect", "shop"]).exits(1).stdout("[]\n").stderr_has("No such object: shop");
}

#[test]
fn start_attached_gives_the_output_and_the_code() {
    if !is_root() {
        return;
    }
    let world = World::start();
    world.knarr(["create", "--name", "job", "busybox", "sh", "-c", "echo done; exit 5"]).success();
    world.knarr(["start", "-a", "job"]).exits(5).stdout("done\n");
    world.knarr(["start", "-a", "job"]).exits(5).stdout("done\n");
    world.knarr(["logs", "job"]).success().stdout("done\ndone\n");
    world.knarr(["logs", "--tail", "1", "job"]).success().stdout("done\n");
    world.knarr(["attach", "job"]).exits(1).stderr_has("stopped container");
}

#[test]
fn images_move_by_files() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let file = world.dir().join("saved.tar");
    let file = file.to_str().unwrap();
    let id = world.knarr(["images", "-q", "--no-trunc"]).success().text();
    world.knarr(["tag", "busybox", "tools:1"]).success();
    world.knarr(["save", "-o", file, "tools:1", "busybox"]).success();
    world.knarr(["rmi", "tools:1", "busybox"]).success().stdout_has("Untagged: tools:1").stdout_has("Deleted: ");
    world.knarr(["images", "-q"]).success().stdout("");
    world.knarr(["load", "-i", file]).success().stdout_has("Loaded image: tools:1");
    assert_eq!(world.knarr(["images", "-q", "--no-trunc", "tools"]).success().text(), id);
    world.knarr(["run", "--rm", "tools:1", "true"]).success();
    world
        .knarr(["load", "-i", "/nonexistent.tar"])
        .exits(1)
        .stderr_has("open /nonexistent.tar: no such file or directory");
    world.knarr(["history", "tools:1"]).success().stdout_has("made by the tests");
    world.knarr(["rmi", "nothing"]).exits(1).stderr_has("No such image: nothing");
}

#[test]
fn commit_export_and_import_keep_what_was_changed() {
    if !is_root() {
        return;
    }
    let world = World::start();
    world.knarr(["run", "--name", "made", "busybox", "sh", "-c", "echo new > /root/new; rm /etc/group"]).success();
    world
        .knarr(["commit", "-m", "by hand", "-c", "CMD [\"cat\", \"/root/new\"]", "made", "mine:1"])
        .success()
        .stdout_has("sha256:");
    world.knarr(["run", "--rm", "mine:1"]).success().stdout("new\n");
    world.knarr(["run", "--rm", "mine:1", "ls", "/etc/group"]).exits(1);
    let file = world.dir().join("rootfs.tar");
    let file = file.to_str().unwrap();
    world.knarr(["export", "-o", file, "made"]).success();
    world.knarr(["import", "-c", "CMD [\"sh\"]", file, "flat:1"]).success().stdout_has("sha256:");
    world.knarr(["run", "--rm", "flat:1", "cat", "/root/new"]).success().stdout("new\n");
    world.knarr(["inspect", "-f", "{{len .RootFS.Layers}}", "flat:1"]).success().stdout("1\n");
    world.knarr(["inspect", "-f", "{{len .RootFS.Layers}}", "mine:1"]).success().stdout("2\n");
}

#[test]
fn files_are_copied_both_ways() {
    if !is_root() {
        return;
    }
    let world = World::start();
    world.knarr(["run", "-d", "--name", "box", "busybox", "sleep", "600"]).success();
    let here = world.dir().join("here");
    std::fs::create_dir_all(here.join("sub")).unwrap();
    std::fs::write(here.join("sub/a"), "hello").unwrap();
    let here = here.to_str().unwrap();
    world.knarr(["cp", here, "box:/root"]).success();
    world.knarr(["exec", "box", "cat", "/root/here/sub/a"]).success().stdout("hello");
    world.knarr(["cp", &format!("{here}/."), "box:/var/new"]).success();
    world.knarr(["exec", "box", "cat", "/var/new/sub/a"]).success().stdout("hello");
    let back = world.dir().join("back");
    world.knarr(["cp", "box:/root/here", back.to_str().unwrap()]).success();
    assert_eq!(std::fs::read_to_string(back.join("sub/a")).unwrap(), "hello");
    world.knarr(["cp", "box:/nope", "/tmp"]).exits(1).stderr_has("Could not find the file /nope in container box");
    // A stopped container has files as well.
    world.knarr(["kill", "box"]).success();
    let passwd = world.dir().join("passwd");
    world.knarr(["cp", "box:/etc/passwd", passwd.to_str().unwrap()]).success();
    assert!(std::fs::read_to_string(passwd).unwrap().starts_with("root:"));
}

#[test]
fn a_container_id_file_is_written_once() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let file = world.dir().join("cid");
    let path = file.to_str().unwrap();
    world.knarr(["run", "--rm", "--cidfile", path, "busybox", "true"]).success();
    assert_eq!(std::fs::read_to_string(&file).unwrap().len(), 64);
    world.knarr(["run", "--rm", "--cidfile", path, "busybox", "true"]).exits(125).stderr_has("container ID file found");
    std::fs::remove_file(&file).unwrap();
    world.knarr(["run", "--cidfile", path, "nosuchimage"]).exits(125);
    assert!(!file.exists());
}

#[test]
fn prune_removes_what_has_ended() {
    if !is_root() {
        return;
    }
    let world = World::start();
    world.knarr(["run", "--name", "old", "busybox", "true"]).success();
    world.knarr(["run", "-d", "--name", "alive", "busybox", "sleep", "600"]).success();
    world
        .knarr(["container", "prune", "-f"])
        .success()
        .stdout_has("Deleted Containers:")
        .stdout_has("Total reclaimed space:");
    world.knarr(["ps", "-a", "--format", "{{.Names}}"]).success().stdout("alive\n");
    world.knarr(["system", "df"]).success().stdout_has("Images").stdout_has("Containers");
    world.knarr(["info", "--format", "{{.Containers}} {{.ContainersRunning}}"]).success().stdout("1 1\n");
}

#[test]
fn limits_are_what_inspect_and_the_kernel_say() {
    if !is_root() {
        return;
    }
    let world = World::start();
    world
        .knarr([
            "run",
            "-d",
            "--name",
            "small",
            "-m",
            "64m",
            "--pids-limit",
            "50",
            "--cpus",
            "0.5",
            "busybox",
            "sleep",
            "600",
        ])
        .success();
    world
        .knarr(["inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.NanoCpus}}", "small"])
        .success()
        .stdout("67108864 50 500000000\n");
    world.knarr(["update", "-m", "128m", "--memory-swap", "256m", "small"]).success().stdout("small\n");
    world.knarr(["inspect", "-f", "{{.HostConfig.Memory}}", "small"]).success().stdout("134217728\n");
    let stats = world
        .knarr(["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", "small"])
        .success()
        .text();
    assert!(stats.starts_with("small ") && stats.ends_with(" 1") && stats.contains("/ 128MiB"), "{stats}");
}

#[test]
fn events_tell_a_containers_life() {
    if !is_root() {
        return;
    }
    let world = World::start();
    world.knarr(["run", "--rm", "--name", "short", "busybox", "true"]).success();
    let answer = world
        .knarr(["events", "--since", "1m", "--until", "0s", "--filter", "container=short", "--format", "{{.Action}}"])
        .success();
    let text = answer.text();
    let actions: Vec<&str> = text.lines().filter(|action| !action.starts_with("exec")).collect();
    for wanted in ["create", "start", "die", "destroy"] {
        assert!(actions.contains(&wanted), "{actions:?}");
    }
}

#[test]
fn help_teaches_every_command() {
    let help = |words: &[&str]| {
        let output = std::process::Command::new(blackbox::program()).args(words).output().expect("run knarr");
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).expect("help is text")
    };
    let top = help(&["--help"]);
    let commands = top.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    for command in commands.filter(|word| {
        word.chars().all(|c| c.is_ascii_lowercase())
            && !matches!(*word, "knarr" | "keeper" | "resolver" | "runtime" | "the")
    }) {
        let text = help(&[command, "--help"]);
        assert!(text.starts_with("Usage:  knarr"), "{command}: {text}");
    }
}

#[test]
fn a_server_has_a_heap_of_its_own() {
    // mimalloc tells at the end what it has reserved, if anything: nothing where the C library's heap is used.
    let keeps = |words: &[&str]| {
        let mut command = std::process::Command::new(blackbox::program());
        let output = command.args(words).env("MIMALLOC_SHOW_STATS", "1").output().expect("run knarr");
        assert!(output.status.success(), "{words:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        let mut reserved =
            told.lines().filter_map(|line| line.trim().strip_prefix("reserved")?.trim().strip_prefix(':'));
        reserved.any(|amount| !amount.trim().starts_with("0 "))
    };
    assert!(keeps(&["server", "--help"]));
    for words in
        [&["--version"][..], &["runtime", "--version"], &["engine", "--help"], &["ps", "--help"], &["up", "--help"]]
    {
        assert!(!keeps(words), "{words:?}");
    }
}
