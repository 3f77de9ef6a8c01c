//! The spec as Docker writes it, shown as JSON.

use linux::idmap::{IdMaps, IdSpan};
use serde_json::{Value, json};

use super::*;
use crate::decide::mounts::plan_mounts;
use crate::spec::parse_security_opt;

fn facts() -> HostFacts {
    HostFacts {
        capabilities: (1 << 41) - 1,
        cpus: 2,
        mqueue_folder: true,
        thermal_cpus: vec![0],
        nofile_hard: 20_000,
        cgroup_parent: "/knarr-1a2b".into(),
    }
}

fn build(config: ContainerConfig, host: HostConfig) -> Value {
    build_for(config, host, None, &[])
}

fn build_for(config: ContainerConfig, host: HostConfig, users: Option<&IdMaps>, devices: &[HostDevice]) -> Value {
    let mounts = plan_mounts(&config, &host).unwrap();
    let security = parse_security_opt(&host.security_opt).unwrap();
    let spec = build_spec(&SpecInput {
        id: ContainerId::from_bytes([0xab; 32]),
        config: &config,
        host: &host,
        security: &security,
        user: &ExecUser { uid: 0, gid: 0, groups: vec![0, 10], home: "/root".into() },
        users,
        mounts: &mounts,
        files: &NetworkFiles {
            resolv_conf: "/r/resolv.conf".into(),
            hostname: "/r/hostname".into(),
            hosts: "/r/hosts".into(),
        },
        joined: &Joined { network: Some("/proc/7/ns/net".into()), ..Default::default() },
        facts: &facts(),
        seccomp: None,
        devices,
        view: &[],
        init: None,
        device_numbers: &|_| Ok((8, 0)),
    })
    .unwrap();
    serde_json::to_value(spec).unwrap()
}

fn config() -> ContainerConfig {
    ContainerConfig { hostname: "abababababab".into(), cmd: Some(vec!["sh".into()]), ..Default::default() }
}

fn mounts(spec: &Value) -> Vec<String> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let list = spec["mounts"].as_array().unwrap().iter();
    list.map(|m| {
        let options: Vec<String> = m["options"].as_array().unwrap().iter().map(text).collect();
        format!("{} {} {} {}", text(&m["type"]), text(&m["source"]), text(&m["destination"]), options.join(","))
    })
    .collect()
}

#[test]
fn a_plain_container_is_dockers_default() {
    let spec = build(config(), HostConfig::default());
    assert_eq!(
        mounts(&spec),
        [
            "proc proc /proc nosuid,noexec,nodev",
            "tmpfs tmpfs /dev nosuid,strictatime,mode=755,size=65536k",
            "devpts devpts /dev/pts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
            "sysfs sysfs /sys nosuid,noexec,nodev,ro",
            "cgroup cgroup /sys/fs/cgroup nosuid,noexec,nodev,ro",
            "mqueue mqueue /dev/mqueue nosuid,noexec,nodev",
            "tmpfs shm /dev/shm nosuid,noexec,nodev,mode=1777,size=67108864",
            "bind /r/resolv.conf /etc/resolv.conf rbind,rprivate",
            "bind /r/hostname /etc/hostname rbind,rprivate",
            "bind /r/hosts /etc/hosts rbind,rprivate",
        ]
    );
    let process = &spec["process"];
    assert_eq!(process["args"], json!(["sh"]));
    assert_eq!(process["cwd"], "/");
    assert_eq!(process["env"][1], "HOSTNAME=abababababab");
    assert_eq!(process["user"], json!({"uid": 0, "gid": 0, "additionalGids": [0, 10]}));
    assert_eq!(process["noNewPrivileges"], false);
    assert_eq!(process["rlimits"], json!([{"type": "RLIMIT_NOFILE", "soft": 20000, "hard": 20000}]));
    for set in ["bounding", "effective", "permitted"] {
        assert_eq!(process["capabilities"][set].as_array().unwrap().len(), 14, "{set}");
    }
    for set in ["inheritable", "ambient"] {
        assert_eq!(process["capabilities"][set], json!([]), "{set}");
    }
    let linux = &spec["linux"];
    let kinds: Vec<&str> =
        linux["namespaces"].as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["mount", "network", "uts", "pid", "ipc", "cgroup"]);
    assert_eq!(linux["cgroupsPath"], format!("/knarr-1a2b/{}", "ab".repeat(32)));
    assert_eq!(linux["maskedPaths"].as_array().unwrap().len(), 13);
    assert_eq!(linux["readonlyPaths"].as_array().unwrap().len(), 5);
    assert_eq!(linux["resources"]["devices"][0], json!({"allow": false, "type": "a", "access": "rwm"}));
    assert_eq!(spec["hostname"], "abababababab");
}

#[test]
fn privileged_opens_what_it_should_and_no_more() {
    let spec = build(config(), HostConfig { privileged: true, ..Default::default() });
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!([]));
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": true, "type": "a", "access": "rwm"}]));
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
    assert_eq!(spec["process"]["capabilities"]["inheritable"], json!([]));
    assert!(mounts(&spec).contains(&"sysfs sysfs /sys nosuid,noexec,nodev,rw".to_owned()));
}

#[test]
fn what_the_caller_mounts_replaces_the_defaults_and_parents_come_first() {
    let host = HostConfig {
        binds: vec!["/src:/a/b/c:ro".into(), "/src2:/a".into(), "/h:/etc/hosts".into(), "/d:/dev:rslave".into()],
        tmpfs: [("/run".to_owned(), "size=1m".to_owned())].into(),
        ..Default::default()
    };
    let spec = build(config(), host);
    assert_eq!(
        mounts(&spec)[1..],
        [
            "sysfs sysfs /sys nosuid,noexec,nodev,ro",
            "cgroup cgroup /sys/fs/cgroup nosuid,noexec,nodev,ro",
            "bind /src2 /a rbind,rprivate",
            "bind /d /dev rbind,rslave",
            "tmpfs tmpfs /run noexec,nosuid,nodev,size=1m",
            "bind /h /etc/hosts rbind,rprivate",
            "bind /r/resolv.conf /etc/resolv.conf rbind,rprivate",
            "bind /r/hostname /etc/hostname rbind,rprivate",
            "bind /src /a/b/c rbind,rprivate,rro",
        ]
    );
    assert_eq!(spec["linux"]["rootfsPropagation"], "rslave");
}

#[test]
fn namespaces_of_the_host_and_of_others() {
    let host = HostConfig {
        network_mode: "container:x".into(),
        pid_mode: "host".into(),
        ipc_mode: "host".into(),
        uts_mode: "host".into(),
        cgroupns_mode: "host".into(),
        ..Default::default()
    };
    let spec = build(config(), host);
    assert_eq!(spec["linux"]["namespaces"], json!([{"type": "mount"}, {"type": "network", "path": "/proc/7/ns/net"}]));
    assert_eq!(spec.get("hostname"), None);
    assert_eq!(spec["linux"]["sysctl"], json!({}));
    assert!(mounts(&spec).contains(&"bind /dev/shm /dev/shm rbind,rprivate".to_owned()));
}

#[test]
fn a_container_with_ids_of_its_own_has_its_files_and_no_device_is_made() {
    let span = |outside| vec![IdSpan { inside: 0, outside, count: 65536 }];
    let users = IdMaps { uid: span(100_000), gid: span(200_000) };
    let device = HostDevice {
        source: "/dev/zero".into(),
        path: "/dev/z".into(),
        kind: 'c',
        major: 1,
        minor: 5,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "r".into(),
    };
    let host =
        || HostConfig { binds: vec!["/src:/a:idmap".into(), "/src:/b:idmap=uids=0-7-1".into()], ..Default::default() };
    let spec = build_for(config(), host(), Some(&users), std::slice::from_ref(&device));
    let linux = &spec["linux"];
    assert_eq!(linux["namespaces"][0], json!({"type": "user"}));
    assert_eq!(linux["uidMappings"], json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]));
    assert_eq!(linux["gidMappings"], json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]));
    // The kernel takes no group there that the namespace does not have.
    assert_eq!(linux["sysctl"], json!({"net.ipv4.ip_unprivileged_port_start": "0"}));
    assert_eq!(linux["devices"], json!([]));
    let mounted = mounts(&spec);
    for wanted in [
        "bind /r/hosts /etc/hosts rbind,rprivate,idmap",
        "bind /src /a rbind,rprivate,idmap",
        "bind /src /b rbind,rprivate",
        "bind /dev/zero /dev/z bind,nosuid,noexec",
    ] {
        assert!(mounted.contains(&wanted.to_owned()), "{wanted} in {mounted:#?}");
    }
    let by_hand = spec["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == "/b").unwrap();
    assert_eq!(by_hand["uidMappings"], json!([{"containerID": 0, "hostID": 7, "size": 1}]));
    // The host's queues can only be had as it shows them itself.
    let of_host = || HostConfig { ipc_mode: "host".into(), ..HostConfig::default() };
    let queues = |users: Option<&IdMaps>| {
        let spec = build_for(config(), of_host(), users, &[]);
        mounts(&spec).into_iter().find(|mount| mount.contains("/dev/mqueue"))
    };
    assert_eq!(queues(Some(&users)).as_deref(), Some("bind /dev/mqueue /dev/mqueue bind,nosuid,noexec,nodev"));
    assert_eq!(queues(None).as_deref(), Some("mqueue mqueue /dev/mqueue nosuid,noexec,nodev"));
    // With the host's ids nodes are made, as ever.
    let spec = build_for(config(), HostConfig::default(), None, &[device]);
    assert_eq!(spec["linux"]["devices"][0]["path"], "/dev/z");
    assert_eq!(spec["linux"].get("uidMappings"), None);
}

#[test]
fn a_read_only_root_keeps_what_must_be_writable() {
    let spec = build(config(), HostConfig { readonly_rootfs: true, ..Default::default() });
    assert_eq!(spec["root"]["readonly"], true);
    assert!(mounts(&spec).contains(&"bind /r/hosts /etc/hosts rbind,rprivate,ro".to_owned()));
    assert!(mounts(&spec).contains(&"tmpfs shm /dev/shm nosuid,noexec,nodev,mode=1777,size=67108864".to_owned()));
}
