//! Bad specs, and a command that dies at any step: a specific error, and nothing left that delete cannot remove.

use serde_json::{Value, json};

use super::Test;
use super::bundle::{Bundle, host};

pub const TESTS: &[Test] = &[
    ("malformed_specs_change_nothing", malformed),
    ("a_killed_create_leaves_nothing_that_runs", crashes),
    ("what_cannot_be_mounted_is_named", unmountable),
];

fn malformed() {
    type Change = fn(&mut Value);
    let rows: &[(&str, Change)] = &[
        ("ociVersion", |c| c["ociVersion"] = json!("nonsense")),
        ("ociVersion", |c| c["ociVersion"] = json!("2.0.0")),
        ("config.json", |c| c["process"]["args"] = json!("not a list")),
        ("process.args", |c| c["process"]["args"] = json!([])),
        ("process.cwd", |c| c["process"]["cwd"] = json!("relative")),
        ("process: is missing", |c| c["process"] = json!(null)),
        ("linux: is missing", |c| c["linux"] = json!(null)),
        ("root", |c| c["root"] = json!(null)),
        ("root.path", |c| c["root"]["path"] = json!("nowhere")),
        ("root.path", |c| c["root"]["path"] = json!("config.json")),
        ("listed twice", |c| c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "pid"}))),
        ("config.json", |c| c["linux"]["namespaces"][0]["type"] = json!("nope")),
        ("namespace", |c| c["linux"]["namespaces"][1]["path"] = json!("/no/such/ns")),
        ("hostname", |c| c["linux"]["namespaces"] = json!([{"type": "mount"}])),
        ("needs a user namespace", |c| c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 1}])),
        ("RLIMIT_NOFILE: soft 9 is above hard 8", |c| {
            c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 8}])
        }),
        ("config.json", |c| c["process"]["capabilities"]["bounding"] = json!(["CAP_NOPE"])),
        ("process.user.uid", |c| c["process"]["user"]["uid"] = json!(2147483648u32)),
        ("config.json", |c| c["process"]["user"]["uid"] = json!(4294967296u64)),
        ("config.json", |c| c["process"]["user"]["uid"] = json!(-1)),
        ("env[0]", |c| c["process"]["env"] = json!(["=x"])),
        ("env[0]", |c| c["process"]["env"] = json!(["A=\0"])),
        ("mounts[0].destination", |c| c["mounts"][0]["destination"] = json!("/")),
        ("mounts[0].type", |c| c["mounts"][0]["type"] = json!("")),
        ("mount nosuchfs on /x", |c| {
            c["mounts"][0]["type"] = json!("nosuchfs");
            c["mounts"][0]["destination"] = json!("/x");
        }),
        ("cgroupsPath", |c| c["linux"]["cgroupsPath"] = json!("/../x")),
        ("seccomp", |c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
        (
            "listenerPath",
            |c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
        ),
        ("hooks.prestart[0].path", |c| c["hooks"] = json!({"prestart": [{"path": "relative"}]})),
        ("intelRdt", |c| c["linux"]["intelRdt"] = json!({"closID": "x"})),
        ("apparmorProfile", |c| c["process"]["apparmorProfile"] = json!("docker-default")),
        ("selinux is disabled or not supported", |c| c["linux"]["mountLabel"] = json!("system_u:object_r:x_t:s0")),
        ("netDevices", |c| c["linux"]["netDevices"] = json!({"a/b": {"name": "x"}})),
        ("timeOffsets", |c| c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1}})),
        ("scheduler", |c| c["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "priority": 5})),
        ("ioPriority", |c| c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 9})),
        ("memoryPolicy", |c| c["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND"})),
        ("cpus", |c| c["linux"]["resources"]["cpu"] = json!({"cpus": "0-"})),
        ("set limits", |c| c["linux"]["resources"]["cpu"] = json!({"cpus": "700"})),
    ];
    for (text, change) in rows {
        let mut b = Bundle::new("echo never");
        change(&mut b.config);
        let before = host();
        let said = b.run();
        assert!(said.code != 0 && said.err.contains(text) && said.out.is_empty(), "{text}: {said:?}");
        assert_eq!(before, host(), "{text}");
        let left = std::fs::read_dir(b.state_dir()).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{text}");
    }
    let b = Bundle::new("true");
    for config in ["", "{", "7", "{\"ociVersion\": 1}", "\u{0}"] {
        std::fs::write(b.dir.join("config.json"), config).unwrap();
        b.call(&["create", &b.id]).fails("config.json");
    }
    std::fs::remove_file(b.dir.join("config.json")).unwrap();
    b.call(&["create", &b.id]).fails("not found");
}

fn crashes() {
    for point in [
        "runtime.create.claimed",
        "cgroup.create.hierarchy:3",
        "runtime.launch.group",
        "runtime.launch.cloned",
        "runtime.create.ready",
        "runtime.create.recorded",
    ] {
        let b = Bundle::new("echo ran; sleep 100");
        b.write();
        let mut command = b.command(&["create", "-b", b.dir.to_str().unwrap(), &b.id]);
        let out = std::fs::File::create(b.dir.join("out")).unwrap();
        let status =
            command.env("KNARR_CRASH_POINT", point).stdout(out).stderr(std::process::Stdio::null()).status().unwrap();
        assert_eq!(status.code(), None, "{point}: the command dies by a signal");
        let said = b.call(&["delete", "--force", &b.id]);
        assert_eq!(said.code, 0, "{point}: {said:?}");
        assert_eq!(std::fs::read_dir(b.state_dir()).unwrap().count(), 0, "{point}");
        assert!(host().1.iter().all(|path| !path.ends_with(&b.id)), "{point}: {:?}", host().1);
        assert_eq!(b.read("out"), "", "{point}");
    }
    // Killed while it starts: the container runs or it does not, and both are said.
    let b = Bundle::new("sleep 100");
    b.write();
    b.call_detached(&["create", "-b", b.dir.to_str().unwrap(), &b.id]).ok();
    let status = b
        .command(&["start", &b.id])
        .env("KNARR_CRASH_POINT", "runtime.start.opened")
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), None);
    b.wait_for("running");
}

fn unmountable() {
    let mut b = Bundle::new("true");
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]}));
    b.run().fails("bind /no/such/source on /x: open_tree(");
    let mut b = Bundle::new("true");
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["size=nonsense"]}));
    b.run().fails("mount tmpfs on /x: fsconfig(");
}
