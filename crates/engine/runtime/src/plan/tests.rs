//! Specs in, ordered steps out.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::{HostFacts, Namespace, Options, Plan, RootfsSource, Step, plan};

fn base() -> Value {
    json!({
        "ociVersion": "1.2.1",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], "cgroupsPath": "/c"},
    })
}

fn facts() -> HostFacts {
    HostFacts::typical()
}

fn planned(spec: Value, facts: &HostFacts) -> Result<Plan, super::PlanError> {
    let spec = serde_json::from_value(spec).expect("the spec's shape");
    plan(&spec, &RootfsSource::Directory("/b/rootfs".into()), facts, &Options::new("box", "/b"))
}

/// The names of the steps, without those that every container has.
#[track_caller]
fn check(change: impl Fn(&mut Value), expected: Expect) {
    let mut spec = base();
    change(&mut spec);
    let names = |plan: &Plan| plan.steps.iter().map(Step::name).collect::<Vec<_>>();
    let common: Vec<String> = names(&planned(base(), &facts()).expect("the base is fine"));
    let text = match planned(spec, &facts()) {
        Ok(plan) => names(&plan).into_iter().filter(|name| !common.contains(name)).collect::<Vec<_>>().join("\n"),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&text);
}

#[test]
fn the_least_container_has_these_steps() {
    let plan = planned(base(), &facts()).unwrap();
    let text: Vec<String> = plan.steps.iter().map(Step::name).collect();
    expect![[r#"
        join the cgroup
        new session
        new session keyring
        set propagation of /
        attach the root file system
        make device /dev/null
        make device /dev/zero
        make device /dev/full
        make device /dev/random
        make device /dev/urandom
        make device /dev/tty
        make /dev/ptmx
        make link /dev/fd
        make link /dev/stdin
        make link /dev/stdout
        make link /dev/stderr
        make link /dev/core
        pivot_root
        set umask 22"#]]
    .assert_eq(&text.join("\n"));
    assert_eq!((plan.clone_flags, plan.two_stages), (Namespace::Mount.flag() | Namespace::Pid.flag(), false));
}

#[test]
fn mounts_keep_their_order_and_are_sealed_at_the_end() {
    check(
        |spec| {
            spec["mounts"] = json!([
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
                {"destination": "/dev/../srv//x/.", "type": "bind", "source": "data", "options": ["rbind"]},
            ]);
            spec["root"]["readonly"] = json!(true);
            spec["linux"]["maskedPaths"] = json!(["/proc/keys"]);
            spec["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
            spec["process"]["cwd"] = json!("/work");
        },
        expect![[r#"
            mount proc on /proc
            mount tmpfs on /dev
            bind /b/data on /srv/x
            make /dev read-only
            make /proc/sys read-only
            mask /proc/keys
            make working directory /work
            make / read-only"#]],
    );
}

#[test]
fn names_clocks_sysctls_and_hooks_have_their_places() {
    check(
        |spec| {
            spec["linux"]["namespaces"] =
                json!([{"type": "mount"}, {"type": "uts"}, {"type": "network"}, {"type": "cgroup"}, {"type": "time"}]);
            spec["hostname"] = json!("h");
            spec["domainname"] = json!("d");
            spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.domainname": "x"});
            spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 5}});
            spec["hooks"] = json!({"createRuntime": [{"path": "/x"}], "createContainer": [{"path": "/x"}]});
            spec["process"]["oomScoreAdj"] = json!(7);
            spec["process"]["terminal"] = json!(true);
        },
        expect![[r#"
            new cgroup namespace
            set time offsets
            bring lo up
            set oom_score_adj 7
            run createRuntime hooks
            run createContainer hooks
            set up the console
            set sysctl kernel/domainname to "x"
            set sysctl net/ipv4/ip_forward to "1"
            set hostname h
            set domainname d"#]],
    );
}

#[test]
fn every_fault_is_named_with_its_field() {
    check(
        |spec| {
            spec["ociVersion"] = json!("one");
            spec["process"]["args"] = json!([]);
            spec["process"]["cwd"] = json!("x");
            spec["hostname"] = json!("h");
            spec["linux"]["sysctl"] = json!({"vm.swappiness": "1"});
            spec["mounts"] = json!([{"destination": "/", "type": "tmpfs"}, {"destination": "/x", "options": ["bind"]}]);
        },
        expect![[
            r#"ociVersion: "one" is not a version MAJOR.MINOR.PATCH; process.args: must name a program; process.cwd: "x" is not an absolute path; mounts[0].destination: must not be /; mounts[1].source: a bind mount needs a source; linux.sysctl["vm.swappiness"]: is not in a separate kernel namespace; hostname: needs a uts namespace of its own"#
        ]],
    );
}

#[test]
fn namespaces_decide_the_number_of_stages() {
    let stages = |namespaces: Value| {
        let mut spec = base();
        spec["linux"]["namespaces"] = namespaces;
        spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        spec["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        planned(spec, &facts()).map(|plan| plan.two_stages).map_err(|error| error.to_string())
    };
    for (namespaces, expected) in [
        (json!([{"type": "mount"}, {"type": "user"}]), Ok(false)),
        (json!([{"type": "mount"}, {"type": "user", "path": "/n"}]), Ok(true)),
        (json!([{"type": "mount"}, {"type": "user"}, {"type": "network", "path": "/n"}]), Ok(true)),
    ] {
        assert_eq!(stages(namespaces.clone()), expected, "{namespaces}");
    }
    let mut spec = base();
    spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network", "path": "/n"}]);
    assert!(!planned(spec.clone(), &facts()).unwrap().two_stages);
    spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid", "path": "/n"}]);
    assert!(planned(spec, &facts()).unwrap().two_stages);
}

#[test]
fn a_user_without_rights_needs_a_user_namespace() {
    let unprivileged = HostFacts { euid: 1000, egid: 1000, privileged: false, ..facts() };
    assert!(planned(base(), &unprivileged).unwrap_err().to_string().contains("needs a user namespace"));
    let mut spec = base();
    spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "user"}]);
    spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    spec["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let maps = planned(spec.clone(), &unprivileged).unwrap().id_maps.unwrap();
    assert_eq!((maps.writer, maps.deny_setgroups), (super::MapWriter::Direct, true));
    spec["linux"]["uidMappings"] =
        json!([{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 100000, "size": 65536}]);
    let maps = planned(spec, &unprivileged).unwrap().id_maps.unwrap();
    assert_eq!((maps.writer, maps.deny_setgroups), (super::MapWriter::Helpers, false));
}

#[test]
fn a_root_and_mounts_are_seen_through_the_maps_of_a_user_namespace_new_or_joined() {
    let seen = |namespace: Value, described: bool| {
        let mut spec = base();
        spec["linux"]["namespaces"] = json!([{"type": "mount"}, namespace]);
        if described {
            spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 9}]);
            spec["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 2000, "size": 9}]);
        }
        spec["mounts"] = json!([
            {"destination": "/a", "type": "bind", "source": "/src", "options": ["bind"]},
            {"destination": "/b", "type": "bind", "source": "/src", "options": ["bind", "idmap"]},
        ]);
        let spec = serde_json::from_value(spec).unwrap();
        let options = Options { subpaths: [("/b".to_owned(), "part".into())].into(), ..Options::new("box", "/b") };
        let plan = plan(&spec, &RootfsSource::Directory("/b/rootfs".into()), &facts(), &options);
        plan.map_err(|error| error.to_string()).map(|plan| {
            let first = |maps: &super::EarlyIdmap| (maps.uid[0].outside, maps.gid[0].outside);
            let early = plan.early.iter().map(|mount| (mount.within.clone(), mount.idmap.as_ref().map(first)));
            (plan.rootfs_maps.as_ref().map(first), early.collect::<Vec<_>>())
        })
    };
    let wanted = (Some((1000, 2000)), vec![(None, None), (Some("part".into()), Some((1000, 2000)))]);
    assert_eq!(seen(json!({"type": "user"}), true), Ok(wanted.clone()));
    assert_eq!(seen(json!({"type": "user", "path": "/n"}), true), Ok(wanted));
    assert!(seen(json!({"type": "user", "path": "/n"}), false).unwrap_err().contains("does not tell its mappings"));
    assert!(seen(json!({"type": "uts"}), false).unwrap_err().contains("needs a user namespace"));
}

#[test]
fn cgroup_paths_are_absolute_and_plain() {
    let path = |given: Value, systemd: bool, own: &str| {
        let mut spec = base();
        spec["linux"]["cgroupsPath"] = given;
        let spec = serde_json::from_value(spec).unwrap();
        let facts = HostFacts { own_cgroup: own.into(), ..facts() };
        let options = Options { systemd_cgroup: systemd, ..Options::new("box", "/b") };
        plan(&spec, &RootfsSource::Directory("/b/rootfs".into()), &facts, &options)
            .map(|plan| plan.cgroup.path)
            .map_err(|e| e.to_string())
    };
    for (given, systemd, own, expected) in [
        (json!("/a/b"), false, "/", "/a/b"),
        (json!("a//b"), false, "/user/x", "/user/x/a/b"),
        (json!(null), false, "/", "/box"),
        (json!("a-b.slice:p:n"), true, "/", "/a.slice/a-b.slice/p-n.scope"),
        (json!(":p:n"), true, "/", "/system.slice/p-n.scope"),
        (json!(null), true, "/", "/system.slice/runc-box.scope"),
    ] {
        assert_eq!(path(given.clone(), systemd, own).as_deref(), Ok(expected), "{given}");
    }
    for (given, systemd) in [(json!("/a/../b"), false), (json!("/"), false), (json!("/a"), true), (json!("x:y"), true)]
    {
        assert!(path(given.clone(), systemd, "/").is_err(), "{given}");
    }
}

#[test]
fn a_plan_travels() {
    let mut spec = base();
    spec["mounts"] =
        json!([{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "nosuid"]}]);
    spec["linux"]["seccomp"] =
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]});
    let plan = planned(spec, &facts()).unwrap();
    let bytes = postcard::to_allocvec(&plan).unwrap();
    assert_eq!(postcard::from_bytes::<Plan>(&bytes).unwrap(), plan);
}

#[test]
fn ids_are_file_names() {
    for (id, good) in [
        ("a", true),
        ("A-b_c.d+e", true),
        ("", false),
        (".", false),
        ("..", false),
        ("a/b", false),
        ("a b", false),
        ("é", false),
    ] {
        assert_eq!(super::valid_id(id), good, "{id:?}");
    }
}

/// RT-25: what is written beside a container chooses nothing about it.
#[test]
fn annotations_choose_nothing() {
    let mut random = fuzz::Random::new(25);
    let keys = [
        "org.systemd.property.ExecStart",
        "run.oci.hooks.stderr",
        "run.oci.delegate-cgroup",
        "run.oci.keep_original_groups",
        "run.oci.pidfd_receiver",
        "run.oci.systemd.subgroup",
        "io.kubernetes.cri-o.Devices",
        "io.kubernetes.cri-o.userns-mode",
        "cdi.k8s.io/x",
        "kernel.core_pattern",
        "a\nb",
        "",
    ];
    let values =
        ["'|/evil'", "/../../etc", "true", "+1", "x\ny=z", "vendor.com/class=all", "\0", "18446744073709551616"];
    let plain = planned(base(), &facts()).unwrap();
    for _ in 0..500 {
        let mut spec = base();
        for _ in 0..=random.below(4) {
            let key = format!("{}{}", keys[random.below(keys.len())], ["", ".x", "/y"][random.below(3)]);
            spec["annotations"][key] = json!(values[random.below(values.len())]);
        }
        let plan = planned(spec, &facts()).unwrap();
        assert_eq!(Plan { annotations: Vec::new(), ..plan }, plain);
    }
}

/// RT-25: of any text as the name of a sysctl only those are written that belong to a namespace of the container's own.
#[test]
fn sysctls_are_the_containers_own_whatever_they_are_called() {
    let mut random = fuzz::Random::new(25);
    let parts = [
        "net",
        "kernel",
        "fs",
        "vm",
        "mqueue",
        "core_pattern",
        "msgmax",
        "domainname",
        "hostname",
        "ipv4",
        "ip_forward",
        "..",
        ".",
        "",
        "shm_rmid_forced",
        "\n",
        "+",
        " ",
        "eth0",
    ];
    let mut written = 0;
    for _ in 0..3_000 {
        let mut key = String::new();
        for n in 0..=random.below(4) {
            if n > 0 {
                key.push(['.', '/'][random.below(2)]);
            }
            key.push_str(parts[random.below(parts.len())]);
        }
        let mut spec = base();
        let value = ["1", "x\ny"][random.below(2)];
        spec["linux"]["sysctl"] = json!({ key.clone(): value });
        assert!(planned(spec.clone(), &facts()).is_err(), "{key:?} without a namespace of its own");
        spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}]);
        let Ok(plan) = planned(spec, &facts()) else { continue };
        let mut paths = plan.steps.iter().filter_map(|step| match step {
            Step::Sysctl { path, value } => Some((path, value)),
            _ => None,
        });
        let (path, value) = paths.next().expect("it was taken");
        written += 1;
        let own = path.starts_with("net/")
            || path.starts_with("fs/mqueue/")
            || ["kernel/msgmax", "kernel/shm_rmid_forced", "kernel/domainname"].contains(&path.as_str());
        let plain = !path.contains("//")
            && !path.split('/').any(|part| matches!(part, "" | "." | ".."))
            && !path.contains('\n');
        assert!(own && plain && value == "1" && paths.next().is_none(), "{key:?} became {path:?}");
    }
    assert!(written > 0);
}

#[cfg(feature = "weaken")]
#[test]
fn tests_notice_a_weakened_build() {
    vocab::weak::noticed(&[("sysctl", "plan::tests::sysctls_are_the_containers_own_whatever_they_are_called")]);
}
