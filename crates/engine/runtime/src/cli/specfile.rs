//! spec and features: what this runtime starts from, and what it knows.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::plan::options::KNOWN;

use super::args::{Flag, parse, switch, value};
use super::{Fatal, Outcome, SPEC_VERSION};

pub(super) fn spec(rest: &[String]) -> Outcome {
    const FLAGS: &[Flag] = &[value(&["bundle", "b"]), switch(&["rootless"])];
    let flags = parse(rest, FLAGS)?;
    let path = Path::new(flags.get("bundle").unwrap_or(".")).join("config.json");
    if path.exists() {
        return Err(format!("file {} exists. Remove it first", path.display()).into());
    }
    let ids = flags.is_set("rootless").then(linux::cred::effective_ids);
    let mut text = serde_json::to_string_pretty(&default_spec(ids))?;
    text.push('\n');
    std::fs::write(&path, text).map_err(|error| format!("write {}: {error}", path.display()))?;
    Ok(0)
}

/// A shell in `./rootfs`; with ids a user namespace that maps root to them.
fn default_spec(rootless: Option<(u32, u32)>) -> Value {
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        match rootless {
            None => mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            // Group 5 is not mapped.
            Some(_) => mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            ),
        },
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    let mut namespaces =
        vec![json!({"type": "pid"}), json!({"type": "ipc"}), json!({"type": "uts"}), json!({"type": "mount"})];
    if rootless.is_none() {
        mounts.push(mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]));
        namespaces.insert(1, json!({"type": "network"}));
    } else {
        mounts.push(mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]));
        namespaces.push(json!({"type": "user"}));
    }
    mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]));
    namespaces.push(json!({"type": "cgroup"}));
    let mut linux = json!({
        "namespaces": namespaces,
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    match rootless {
        None => linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]}),
        Some((uid, gid)) => {
            linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
            linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
        }
    }
    json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "runc",
        "mounts": mounts,
        "linux": linux,
    })
}

pub(super) fn features() -> Outcome {
    println!("{}", serde_json::to_string_pretty(&features_value())?);
    Ok(0)
}

fn features_value() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": KNOWN.iter().chain(["tmpcopyup"].iter()).collect::<Vec<_>>(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": linux::caps::NAMES.as_slice(),
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
                    "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
                "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
                "archs": linux::seccomp::Arch::ALL,
                "knownFlags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                "supportedFlags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": false},
            "memoryPolicy": {
                "modes": ["MPOL_DEFAULT", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE", "MPOL_PREFERRED",
                    "MPOL_PREFERRED_MANY", "MPOL_LOCAL"],
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": false},
        },
        "annotations": {"org.opencontainers.runc.version": super::VERSION},
        "potentiallyUnsafeConfigAnnotations": [],
    })
}

/// Go's durations as far as flags use them: `5s`, `500ms`, `1m30s`.
pub(super) fn duration(text: &str) -> Result<Duration, Fatal> {
    vocab::duration::parse(text).ok_or_else(|| Fatal::from(format!("invalid duration {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_spec_can_be_planned() {
        for ids in [None, Some((1000, 1000))] {
            let spec = serde_json::from_value(default_spec(ids)).unwrap();
            let rootfs = crate::RootfsSource::Directory("/b/rootfs".into());
            let mut facts = crate::HostFacts::typical();
            if ids.is_some() {
                (facts.euid, facts.egid, facts.privileged) = (1000, 1000, false);
            }
            crate::plan(&spec, &rootfs, &facts, &crate::Options::new("x", "/b")).unwrap();
        }
    }

    #[test]
    fn features_are_in_the_specs_shape() {
        let features: oci_spec::runtime::Features = serde_json::from_value(features_value()).unwrap();
        assert_eq!(features.hooks().as_ref().map(Vec::len), Some(6));
    }

    #[test]
    fn durations_are_gos() {
        for (text, millis) in
            [("5s", Some(5000)), ("500ms", Some(500)), ("1m30s", Some(90_000)), ("5", None), ("", None), ("x", None)]
        {
            assert_eq!(duration(text).ok().map(|d| d.as_millis()), millis, "{text}");
        }
    }
}
