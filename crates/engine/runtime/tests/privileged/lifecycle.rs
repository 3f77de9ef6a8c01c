//! From create to delete, as tools drive it.

use serde_json::json;

use super::Test;
use super::bundle::Bundle;

pub const TESTS: &[Test] = &[
    ("a_container_is_created_started_and_deleted", life),
    ("exit_codes_are_the_programs", exit_codes),
    ("exec_joins_the_container", exec),
    ("exec_runs_a_process_file", exec_process),
    ("every_hook_runs_in_its_place", hooks),
    ("a_hook_that_fails_ends_the_create", hooks_fail),
    ("delete_force_ends_what_runs", force),
    ("logs_are_in_runcs_formats", logs),
    ("hooks_run_beside_their_launcher", hooks_beside),
    ("the_pidfd_is_sent_where_it_is_asked_for", pidfd_socket),
];

fn life() {
    let b = Bundle::new("echo started; sleep 100");
    b.write();
    let bundle = b.dir.to_str().unwrap();
    let pid_file = b.dir.join("pid");
    b.call(&["state", &b.id]).fails("container does not exist");
    b.call_detached(&["create", "-b", bundle, "--pid-file", pid_file.to_str().unwrap(), &b.id]).ok();
    let state = b.state();
    assert_eq!((state["status"].as_str(), state["id"].as_str()), (Some("created"), Some(b.id.as_str())));
    assert_eq!(state["pid"].to_string(), std::fs::read_to_string(&pid_file).unwrap());
    assert_eq!(state["bundle"], json!(b.dir));
    assert_eq!(b.read("out"), "");
    b.call(&["create", "-b", bundle, &b.id]).fails("container with given ID already exists");
    b.call(&["start", &b.id]).ok();
    assert_eq!(b.status(), "running");
    b.call(&["start", &b.id]).fails("cannot start an already running container");
    b.call(&["delete", &b.id]).fails("that is not stopped: running");
    b.call(&["list", "-q"]).ok().says(&b.id);
    b.call(&["list"]).ok().says("running");
    let list: serde_json::Value = serde_json::from_str(&b.call(&["list", "-f", "json"]).ok().out).unwrap();
    assert_eq!(list[0]["id"], json!(b.id));
    let pids: Vec<i64> = serde_json::from_str(&b.call(&["ps", "-f", "json", &b.id]).ok().out).unwrap();
    assert!(pids.contains(&state["pid"].as_i64().unwrap()), "{pids:?}");
    b.call(&["kill", &b.id, "NOPE"]).fails("unknown signal");
    b.call(&["kill", &b.id, "KILL"]).ok();
    b.wait_for("stopped");
    b.call(&["kill", &b.id, "KILL"]).fails("container not running");
    b.call(&["start", &b.id]).fails("cannot start a container that has stopped");
    b.call(&["exec", &b.id, "true"]).fails("cannot exec in a stopped container");
    b.call(&["delete", &b.id]).ok();
    b.call(&["delete", &b.id]).fails("container does not exist");
    b.call(&["delete", "--force", &b.id]).ok();
    assert!(std::fs::read_dir(b.state_dir()).unwrap().next().is_none());
}

fn exit_codes() {
    assert_eq!(Bundle::new("exit 42").run().code, 42);
    assert_eq!(Bundle::new("sh -c 'kill -9 $$'; exit $?").run().code, 137);
    for (args, text) in [
        (json!(["nosuch"]), "\\\"nosuch\\\": executable file not found in $PATH"),
        (json!(["/nosuch"]), "\\\"/nosuch\\\": no such file or directory"),
        (json!(["/etc/passwd"]), "\\\"/etc/passwd\\\": permission denied"),
        (json!(["/etc"]), "permission denied"),
    ] {
        let mut b = Bundle::new("");
        b.config["process"]["args"] = args;
        let said = b.run().fails(text);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("unable to start container process"), "{said:?}");
    }
}

fn exec() {
    let b = Bundle::new("sleep 100");
    b.start();
    assert_eq!(b.call(&["exec", &b.id, "sh", "-c", "exit 7"]).code, 7);
    b.call(&[
        "exec",
        "--user",
        "1000:1001",
        "-g",
        "5,6",
        "--cwd",
        "/tmp",
        "-e",
        "X=y",
        &b.id,
        "sh",
        "-c",
        "id; pwd; echo $X $HOME",
    ])
    .ok()
    .says("uid=1000(app) gid=1001 groups=5,6")
    .says("/tmp\ny /home/app");
    b.call(&["exec", &b.id, "grep", "^Cap", "/proc/self/status"]).ok().says(
        "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb",
    );
    b.call(&[
        "exec",
        "--cap",
        "CAP_NET_ADMIN",
        "--no-new-privs",
        &b.id,
        "grep",
        "-E",
        "Cap|NoNew",
        "/proc/self/status",
    ])
    .ok()
    .says("CapBnd:\t00000000a80435fb")
    .says("NoNewPrivs:\t1");
    let said = b.call(&["exec", &b.id, "nosuch"]).fails("executable file not found in $PATH");
    assert_eq!(said.code, 255);
    let pid = b.state()["pid"].as_i64().unwrap();
    let ns = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    b.call(&["exec", &b.id, "readlink", "/proc/self/ns/mnt"]).ok().says(ns(&pid.to_string()).to_str().unwrap());
    // In the background, with its pid on file, in the container's cgroup, outliving the command.
    let file = b.dir.join("exec.pid");
    b.call_detached(&["exec", "-d", "--pid-file", file.to_str().unwrap(), &b.id, "sleep", "99"]).ok();
    let exec_pid: i64 = std::fs::read_to_string(file).unwrap().parse().unwrap();
    let pids: Vec<i64> = serde_json::from_str(&b.call(&["ps", "-f", "json", &b.id]).ok().out).unwrap();
    assert!(pids.contains(&exec_pid) && pids.contains(&pid), "{pids:?}");
}

fn exec_process() {
    let b = Bundle::new("sleep 100");
    b.start();
    let file = b.dir.join("process.json");
    let process = json!({
        "args": ["sh", "-c", "id -u; pwd; echo $Z; grep CapEff /proc/self/status"], "cwd": "/etc", "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin", "Z=zed"], "terminal": false,
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
    });
    std::fs::write(&file, process.to_string()).unwrap();
    b.call(&["exec", "--process", file.to_str().unwrap(), &b.id]).ok().says("0\n/etc\nzed\n").says("0000000000000001");
}

fn hook_script(b: &Bundle, name: &str) -> serde_json::Value {
    let log = b.dir.join("hooks.log");
    let line = format!(
        "state=$(cat); echo {name} $(pwd) ${{LD_PRELOAD:-clean}} $ONLY $(echo \"$state\" | tr ',' '\\n' | grep status) >> {}",
        log.display()
    );
    json!({"path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/bin:/usr/bin", "ONLY=mine"], "timeout": 20})
}

fn hooks() {
    let mut b = Bundle::new("true");
    b.config["process"]["env"] = json!(["PATH=/bin", "LD_PRELOAD=/evil.so"]);
    let mut all = serde_json::Map::new();
    for name in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        all.insert(name.into(), json!([hook_script(&b, name)]));
    }
    // This one runs inside.
    all.insert("startContainer".into(), json!([{"path": "/bin/sh", "args": ["sh", "-c", "pwd > /hooked; cat >> /hooked; env >> /hooked"], "env": ["PATH=/bin"]}]));
    b.config["hooks"] = all.into();
    b.run().ok();
    let log = b.read("hooks.log");
    let expected = [
        "prestart / clean mine \"status\":\"creating\"",
        "createRuntime / clean mine \"status\":\"creating\"",
        "createContainer / clean mine \"status\":\"creating\"",
        "poststart / clean mine \"status\":\"running\"",
        "poststop / clean mine \"status\":\"stopped\"",
    ];
    assert_eq!(log.lines().map(|line| line.trim_end_matches('}')).collect::<Vec<_>>(), expected);
    let inside = std::fs::read_to_string(b.rootfs().join("hooked")).unwrap();
    assert!(
        inside.starts_with("/\n") && inside.contains("\"status\":\"created\"") && !inside.contains("LD_PRELOAD"),
        "{inside}"
    );
}

fn hooks_fail() {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let mut b = Bundle::new("echo never");
        b.config["hooks"] = json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo it broke; exit 3"]}]});
        let said = b.run().fails("it broke");
        assert!(said.err.contains(kind) && said.out.is_empty(), "{said:?}");
    }
    let mut b = Bundle::new("echo never");
    b.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]});
    b.run().fails("timed out after 1 s");
}

fn force() {
    let b = Bundle::new("sleep 100 & sleep 100 & wait");
    b.start();
    b.call(&["pause", &b.id]).ok();
    b.call(&["delete", "--force", &b.id]).ok();
    b.call(&["state", &b.id]).fails("does not exist");
    let b = Bundle::new("sleep 100");
    b.write();
    b.call_detached(&["create", "-b", b.dir.to_str().unwrap(), &b.id]).ok();
    b.call(&["delete", &b.id]).ok();
}

fn logs() {
    let b = Bundle::new("true");
    let log = b.dir.join("log.json");
    let said = b
        .call(&["--log", log.to_str().unwrap(), "--log-format", "json", "state", "nosuch"])
        .fails("container does not exist");
    let line: serde_json::Value = serde_json::from_str(b.read("log.json").trim()).unwrap();
    assert_eq!(line["level"], json!("error"));
    assert!(line["msg"].as_str().unwrap().contains("container does not exist"), "{line} {said:?}");
    let said = b.call(&["state", "nosuch"]);
    assert!(said.err.starts_with("time=\"20") && said.err.contains(" level=error msg=\""), "{said:?}");
    assert!(b.call(&["--version"]).ok().out.starts_with("runc version 1."));
    let features: serde_json::Value = serde_json::from_str(&b.call(&["features"]).ok().out).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], json!(true));
}

/// A launcher with other things to do is not held up by a hook that waits, and hears what became of it.
fn hooks_beside() {
    use runtime::{Event, Gate, HostFacts, Options, RootfsSource, Stdio};
    let token = linux::clone::SingleThreaded::new().unwrap();
    let mut b = Bundle::new("true");
    let dir = linux::fs::open_host(&b.dir, linux::fs::OFlags::PATH).unwrap();
    let mode = linux::fs::Mode::from_raw_mode(0o600);
    linux::fs::mknodat(&dir, "hold", linux::fs::FileType::Fifo, mode, 0, 0).unwrap();
    let hold = b.dir.join("hold");
    for (line, fault) in
        [(format!("cat {} > /dev/null", hold.display()), None), ("echo it broke; exit 3".into(), Some("it broke"))]
    {
        b.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", line]}]});
        let spec = serde_json::from_value(b.config.clone()).unwrap();
        let (rootfs, options) = (RootfsSource::Directory(b.rootfs()), Options::new(&b.id, &b.dir));
        let plan = runtime::plan(&spec, &rootfs, &HostFacts::gather().unwrap(), &options).unwrap();
        let launched = runtime::launch(&token, &plan, Stdio::Null, Gate::Open).unwrap();
        let runner = loop {
            match launched.report.wait() {
                Event::RuntimeHooks => break runtime::start_runtime_hooks(&token, &plan, &launched).unwrap(),
                Event::Warning(_) => {}
                other => panic!("{other:?}"),
            }
        };
        if fault.is_none() {
            assert!(matches!(launched.report.poll(), Event::Pending));
            std::fs::write(&hold, "go").unwrap();
        }
        let outcome = loop {
            match launched.report.wait() {
                Event::Started => break None,
                Event::Failed(failure) => break Some(failure.to_string()),
                _ => {}
            }
        };
        drop(runner);
        linux::process::wait_pid(launched.pid, true).unwrap();
        runtime::cleanup(&plan.cgroup).unwrap();
        match fault {
            None => assert_eq!(outcome, None),
            Some(text) => assert!(outcome.as_ref().is_some_and(|outcome| outcome.contains(text)), "{outcome:?}"),
        }
    }
}

fn pidfd_socket() {
    let b = Bundle::new("sleep 100");
    b.write();
    let path = b.dir.join("pidfd.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (dir, path) = (b.dir.to_str().unwrap(), path.to_str().unwrap());
    let received = || {
        let (connection, _) = listener.accept().unwrap();
        let (mut buf, mut fds) = ([0; 64], Vec::new());
        let got = linux::socket::recv(&connection, &mut buf, &mut fds).unwrap();
        let word = String::from_utf8_lossy(&buf[..got.len]).into_owned();
        (word, linux::pidfd::info(fds.pop().expect("a descriptor")).map(|info| i64::from(info.pid)))
    };
    b.call_detached(&["create", "--pidfd-socket", path, "-b", dir, &b.id]).ok();
    let (word, pid) = received();
    assert_eq!(word, "standard");
    // Kernels before 6.13 do not tell.
    if let Ok(pid) = pid {
        assert_eq!(Some(pid), b.state()["pid"].as_i64());
    }
    b.call(&["start", &b.id]).ok();
    b.call_detached(&["exec", "-d", "--pidfd-socket", path, &b.id, "sleep", "100"]).ok();
    assert_eq!(received().0, "setns");
    b.call(&["exec", "--pidfd-socket", "/no/such/socket", &b.id, "true"]).fails("--pidfd-socket");
}
