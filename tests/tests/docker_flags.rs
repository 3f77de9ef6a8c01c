//! The tables in docs/reference/docker-flags.md are true: every flag of the stock client's help stands there, and each is asked of
//! a running engine.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use blackbox::{Answer, World, eventually, finish, has_docker};

const PAGE: &str = include_str!("../../docs/reference/docker-flags.md");

/// How it is seen that a flag does what the page says.
enum See {
    /// A template of `docker inspect` over a container that was created with it, and its answer.
    Inspect(&'static str, &'static str),
    /// A shell line in a container that runs with it, and what it prints.
    Inside(&'static str, &'static str),
    /// A file below /sys/fs/cgroup and what it holds: of the first version, and of the second where that has one.
    Limit((&'static str, &'static str), Option<(&'static str, &'static str)>),
    /// The client fails, with this text.
    Refused(&'static str),
    /// It starts, and its creator is told.
    Warned(&'static str),
    /// The container is the same as without.
    Nothing,
    /// Takes more than a line.
    By(fn(&Rig)),
}
use See::{By, Inside, Inspect, Limit, Nothing, Refused, Warned};

/// A flag, the words that use it, and what is seen. `{dir}` and `{disk}` are the test's folder and a disk of this machine.
type Probe = (&'static str, &'static [&'static str], See);

struct Rig {
    world: World,
    disk: Option<String>,
}

impl Rig {
    /// An engine with a network `net` and a container `peer`; `None` (said aloud) where the test cannot run.
    fn new() -> Option<Self> {
        if !has_docker() {
            return None;
        }
        let disk = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let disk = disk.map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()));
        let disk = disk.filter(|disk| !disk.contains("zram")).find(|disk| Path::new(disk).exists());
        if disk.is_none() {
            eprintln!("SKIPPED: no disk to limit");
        }
        let world = World::start();
        std::fs::write(world.dir().join("env"), "FROM=file\n").unwrap();
        std::fs::write(world.dir().join("labels"), "from=file\n").unwrap();
        world.docker(["run", "-d", "--name", "peer", "-v", "shared:/shared", "busybox", "sleep", "4321"]).success();
        Some(Self { world, disk })
    }

    /// Of a number of its own: tests run beside each other.
    fn with_network(self, number: u8) -> Self {
        let subnets = [format!("10.213.{number}.0/24"), format!("fd00:d:{number}::/64")];
        let flags = ["--subnet", &subnets[0], "--ipv6", "--subnet", &subnets[1]];
        self.docker(&["network", "create"], &flags, &["net"]).success();
        self
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        let dir = self.world.dir().to_str().expect("UTF-8");
        let disk = self.disk.as_deref().unwrap_or_default();
        words.iter().map(|word| word.replace("{dir}", dir).replace("{disk}", disk)).collect()
    }

    fn docker(&self, first: &[&str], flags: &[&str], rest: &[&str]) -> Answer {
        self.world.docker([self.words(first), self.words(flags), self.words(rest)].concat())
    }

    fn inside(&self, flags: &[&str], line: &str) -> Answer {
        self.docker(&["run", "--rm"], flags, &["busybox", "sh", "-c", line])
    }

    fn inspect(&self, flags: &[&str], template: &str) -> String {
        let id = self.docker(&["create"], flags, &["busybox", "true"]).success().text();
        let seen = self.docker(&["inspect", "-f", template], &[], &[&id]).success().text();
        self.docker(&["rm"], &[], &[&id]).success();
        seen
    }

    /// A probe of `docker run`.
    fn prove(&self, (flag, flags, see): &Probe) {
        if self.disk.is_none() && flags.iter().any(|word| word.contains("{disk}")) {
            return;
        }
        match see {
            Inspect(template, wanted) => {
                assert_eq!(self.inspect(flags, template), *wanted, "{flag}: {flags:?} in {template}");
            }
            Inside(line, wanted) => {
                let answer = self.inside(flags, line).success();
                assert_eq!(answer.text().replace('\r', ""), *wanted, "{flag}: {answer}");
            }
            Limit(first, second) => {
                let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
                let Some((file, wanted)) = (if unified { *second } else { Some(*first) }) else { return };
                let answer = self.inside(flags, &format!("cat /sys/fs/cgroup/{file}")).success();
                // A device stands before its limit.
                assert!(answer.text().ends_with(wanted), "{flag}: not {wanted}: {answer}");
            }
            Refused(text) => {
                let answer = self.inside(flags, "true");
                assert!(
                    answer.code != 0 && answer.errors().contains(text),
                    "{flag}: not refused with {text:?}: {answer}"
                );
            }
            Warned(text) => drop(self.inside(flags, "true").success().stderr_has(text)),
            Nothing => {
                let all = "{{json .Config.Env}} {{json .HostConfig}} {{json .Mounts}}";
                assert_eq!(self.inspect(flags, all), self.inspect(&[], all), "{flag}: it does something");
            }
            By(prove) => prove(self),
        }
    }

    fn state(&self, name: &str) -> String {
        self.docker(&["inspect", "-f", "{{.State.Status}}", name], &[], &[]).text()
    }
}

/// The rows of a command: flag, answer, note.
fn table(command: &str) -> BTreeMap<String, (String, String)> {
    let section = PAGE.split("\n## ").find(|section| section.lines().next() == Some(command));
    let section = section.unwrap_or_else(|| panic!("no section {command:?}"));
    let rows = section.lines().filter(|line| line.starts_with("| `--")).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [flag, answer, note] = cells[..] else { panic!("a row of three cells: {line}") };
        (flag.trim_matches('`').to_owned(), (answer.to_owned(), note.to_owned()))
    });
    rows.collect()
}

/// The flags that the stock client's help of a command has: all of them, as where it knows nothing of the engine.
fn offered(command: &str) -> BTreeSet<String> {
    let mut docker = Command::new("docker");
    docker.args(command.split(' ').skip(1)).arg("--help");
    docker.env("DOCKER_BUILDKIT", "0").env("DOCKER_HOST", "unix:///nowhere/docker.sock").env_remove("DOCKER_CONTEXT");
    let help = finish(docker, b"").success().text();
    let options = help.split("\nOptions:\n").nth(1).unwrap_or_else(|| panic!("no options: {help}"));
    let flags = options.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let flags = flags.filter_map(|line| line.split(' ').find(|word| word.starts_with("--")));
    flags.filter(|flag| *flag != "--help").map(str::to_owned).collect()
}

/// Every flag of the client's help has its row, and every row a probe that can tell its answer from another.
#[track_caller]
fn check_table(command: &str, probes: &[Probe]) {
    let rows = table(command);
    let offered = offered(command);
    let missing: Vec<&String> = offered.iter().filter(|flag| !rows.contains_key(*flag)).collect();
    assert!(missing.is_empty(), "{command}: the page does not speak of {missing:?}");
    for (flag, (answer, note)) in &rows {
        let of: Vec<&See> = probes.iter().filter(|probe| probe.0 == flag).map(|probe| &probe.2).collect();
        let refused = |see: &&See| matches!(see, Refused(text) if note.contains(&format!("`{text}")));
        let served = |see: &&See| !matches!(see, Refused(_) | Nothing);
        let proven = match answer.as_str() {
            "served" | "different" | "client" => of.iter().any(served),
            "refused" => of.iter().any(refused) && !of.iter().any(served),
            "nothing" => of.iter().any(|see| matches!(see, Nothing)),
            other => panic!("{command} {flag}: what is {other:?}?"),
        };
        assert!(proven, "{command} {flag}: no probe shows that it is {answer}");
    }
    for (flag, ..) in probes {
        assert!(rows.contains_key(*flag), "{command}: the page has no row for {flag}");
    }
}

const REALTIME: &str = "Your kernel does not support CPU real-time scheduler";

#[rustfmt::skip]
const RUN: &[Probe] = &[
    ("--add-host", &["--add-host", "there:10.9.8.7"], Inside("grep there /etc/hosts", "10.9.8.7\tthere")),
    ("--annotation", &["--annotation", "a=b"], Inspect("{{.HostConfig.Annotations.a}}", "b")),
    ("--annotation", &["--annotation", "io.knarr.proc-view=maybe"], Refused("\"maybe\" is none of")),
    ("--attach", &["-a", "stderr"], Inside("echo out; echo err >&2", "")),
    ("--blkio-weight", &["--blkio-weight", "300"], Inspect("{{.HostConfig.BlkioWeight}}", "300")),
    ("--blkio-weight", &["--blkio-weight", "5"], Refused("Range of blkio weight is from 10 to 1000")),
    (
        "--blkio-weight-device",
        &["--blkio-weight-device", "/dev/null:300"],
        Inspect("{{json .HostConfig.BlkioWeightDevice}}", r#"[{"Path":"/dev/null","Weight":300}]"#),
    ),
    ("--blkio-weight-device", &["--blkio-weight-device", "/dev/null:300"], Refused("set limits")),
    ("--cap-add", &["--cap-drop", "ALL", "--cap-add", "KILL"], Inside("grep CapEff /proc/self/status", "CapEff:\t0000000000000020")),
    ("--cap-add", &["--cap-add", "FOO"], Refused("unknown capability: \"CAP_FOO\"")),
    ("--cap-drop", &["--cap-drop", "ALL"], Inside("grep CapEff /proc/self/status", "CapEff:\t0000000000000000")),
    ("--cgroup-parent", &[], By(cgroup_parent)),
    ("--cgroupns", &["--cgroupns", "private"], Inside("grep -c :/knarr- /proc/self/cgroup || true", "0")),
    ("--cgroupns", &["--cgroupns", "host"], Inside("grep -q :/knarr- /proc/self/cgroup && echo seen", "seen")),
    ("--cidfile", &[], By(cidfile)),
    ("--cpu-count", &["--cpu-count", "2"], Refused(r#""--cpu-count" is only supported on a Docker daemon running on windows"#)),
    ("--cpu-percent", &["--cpu-percent", "2"], Refused(r#""--cpu-percent" is only supported on a Docker daemon running on windows"#)),
    ("--cpu-period", &["--cpu-period", "50000", "--cpu-quota", "20000"], Limit(("cpu/cpu.cfs_period_us", "50000"), Some(("cpu.max", "20000 50000")))),
    ("--cpu-quota", &["--cpu-quota", "20000"], Limit(("cpu/cpu.cfs_quota_us", "20000"), Some(("cpu.max", "20000 100000")))),
    ("--cpu-rt-period", &["--cpu-rt-period", "50000"], Refused(REALTIME)),
    ("--cpu-rt-runtime", &["--cpu-rt-runtime", "50000"], Refused(REALTIME)),
    ("--cpu-shares", &["-c", "262144"], Limit(("cpu/cpu.shares", "262144"), Some(("cpu.weight", "10000")))),
    ("--cpu-shares", &["-c", "1"], Refused("must be 2 to 262144")),
    ("--cpus", &["--cpus", "0.5"], Limit(("cpu/cpu.cfs_quota_us", "50000"), Some(("cpu.max", "50000 100000")))),
    ("--cpuset-cpus", &["--cpuset-cpus", "0"], Limit(("cpuset/cpuset.cpus", "0"), Some(("cpuset.cpus", "0")))),
    ("--cpuset-cpus", &["--cpuset-cpus", "7777"], Refused("Requested CPUs are not available")),
    ("--cpuset-mems", &["--cpuset-mems", "0"], Limit(("cpuset/cpuset.mems", "0"), Some(("cpuset.mems", "0")))),
    ("--detach", &[], By(detach)),
    ("--detach-keys", &[], By(detach_keys)),
    ("--device", &["--device", "/dev/null:/dev/other:r"], Inside("stat -c '%F %t:%T' /dev/other", "character special file 1:3")),
    ("--device", &["--device", "vendor.com/gpu=all"], Refused("CDI device injection failed")),
    // Nobody is behind that number: then the kernel says so, once the rule lets it.
    ("--device-cgroup-rule", &["--device-cgroup-rule", "c 240:77 r"], Inside("mknod /tmp/d c 240 77; cat /tmp/d 2>&1 | sed 's/.*: //'", "No such device or address")),
    ("--device-cgroup-rule", &["--device-cgroup-rule", "c 240:78 r"], Inside("mknod /tmp/d c 240 77; cat /tmp/d 2>&1 | sed 's/.*: //'", "Operation not permitted")),
    ("--device-read-bps", &["--device-read-bps", "{disk}:1mb"], Limit(("blkio/blkio.throttle.read_bps_device", " 1048576"), Some(("io.max", " rbps=1048576 wbps=max riops=max wiops=max")))),
    ("--device-write-bps", &["--device-write-bps", "{disk}:1mb"], Limit(("blkio/blkio.throttle.write_bps_device", " 1048576"), Some(("io.max", " rbps=max wbps=1048576 riops=max wiops=max")))),
    ("--device-read-iops", &["--device-read-iops", "{disk}:77"], Limit(("blkio/blkio.throttle.read_iops_device", " 77"), Some(("io.max", " rbps=max wbps=max riops=77 wiops=max")))),
    ("--device-write-iops", &["--device-write-iops", "{disk}:77"], Limit(("blkio/blkio.throttle.write_iops_device", " 77"), Some(("io.max", " rbps=max wbps=max riops=max wiops=77")))),
    ("--disable-content-trust", &["--disable-content-trust"], Nothing),
    ("--dns", &["--dns", "10.9.8.7"], Inside("grep nameserver /etc/resolv.conf", "nameserver 10.9.8.7")),
    ("--dns", &["--network", "container:peer", "--dns", "10.9.8.7"], Refused("conflicting options: dns and the network mode")),
    ("--dns-option", &["--dns-option", "ndots:7"], Inside("grep options /etc/resolv.conf", "options ndots:7")),
    ("--dns-search", &["--dns-search", "one.test"], Inside("grep search /etc/resolv.conf", "search one.test")),
    ("--domainname", &["--hostname", "a", "--domainname", "one.test"], Inside("hostname -f; cat /proc/sys/kernel/domainname", "a.one.test\none.test")),
    ("--domainname", &["--uts", "host", "--domainname", "one.test"], Refused("conflicting options: domainname and the UTS mode")),
    ("--entrypoint", &[], By(entrypoint)),
    ("--env", &["-e", "A=b"], Inside("echo $A", "b")),
    ("--env-file", &["--env-file", "{dir}/env"], Inside("echo $FROM", "file")),
    ("--expose", &["--expose", "80-81/udp"], Inspect("{{json .Config.ExposedPorts}}", r#"{"80/udp":{},"81/udp":{}}"#)),
    ("--expose", &["--network", "container:peer", "--expose", "80"], Refused("conflicting options: port exposing and the container type network mode")),
    // What it is with such files: docker_devices.rs.
    ("--gpus", &["--gpus", "all"], Refused("could not select device driver \"\" with capabilities: [[gpu]]")),
    ("--gpus", &[], By(|_| assert!(include_str!("docker_devices.rs").contains("\"--gpus\"")))),
    ("--group-add", &["--group-add", "77"], Inside("id -G", "0 77")),
    // What they do: docker_health.rs.
    ("--health-cmd", &["--health-cmd", "test -e /ok"], Inspect("{{json .Config.Healthcheck.Test}}", r#"["CMD-SHELL","test -e /ok"]"#)),
    ("--health-interval", &["--health-cmd", "true", "--health-interval", "7s"], Inspect("{{.Config.Healthcheck.Interval}}", "7s")),
    ("--health-retries", &["--health-cmd", "true", "--health-retries", "7"], Inspect("{{.Config.Healthcheck.Retries}}", "7")),
    ("--health-start-interval", &["--health-cmd", "true", "--health-start-interval", "7s"], Inspect("{{.Config.Healthcheck.StartInterval}}", "7s")),
    ("--health-start-period", &["--health-cmd", "true", "--health-start-period", "7s"], Inspect("{{.Config.Healthcheck.StartPeriod}}", "7s")),
    ("--health-timeout", &["--health-cmd", "true", "--health-timeout", "7s"], Inspect("{{.Config.Healthcheck.Timeout}}", "7s")),
    ("--hostname", &["--hostname", "harald"], Inside("hostname; grep -c harald /etc/hosts", "harald\n1")),
    ("--hostname", &["--uts", "host", "--hostname", "harald"], Refused("conflicting options: hostname and the UTS mode")),
    ("--hostname", &["--network", "container:peer", "--hostname", "harald"], Refused("conflicting options: hostname and the network mode")),
    ("--init", &["--init"], Inside("tr '\\0' ' ' </proc/1/cmdline | cut -d' ' -f1,2", "/sbin/docker-init --")),
    ("--interactive", &[], By(interactive)),
    ("--io-maxbandwidth", &["--io-maxbandwidth", "1"], Refused(r#""--io-maxbandwidth" is only supported on a Docker daemon running on windows"#)),
    ("--io-maxiops", &["--io-maxiops", "1"], Refused(r#""--io-maxiops" is only supported on a Docker daemon running on windows"#)),
    ("--ip", &["--network", "net", "--ip", "10.213.77.77"], Inside("ip -4 addr show eth0 | grep -o '10.213.77.77/24'", "10.213.77.77/24")),
    ("--ip", &["--ip", "10.213.77.77"], Refused("user specified IP address is supported on user defined networks only")),
    ("--ip", &["--network", "host", "--ip", "10.213.77.77"], Refused("user specified IP address is supported on user defined networks only")),
    ("--ip6", &["--network", "net", "--ip6", "fd00:d:77::77"], Inside("ip -6 addr show eth0 | grep -o 'fd00:d:77::77/64'", "fd00:d:77::77/64")),
    ("--ipc", &[], By(ipc)),
    ("--ipc", &["--ipc", "none"], Inside("grep -c ' /dev/shm ' /proc/mounts || true", "0")),
    ("--isolation", &["--isolation", "process"], Refused("linux only supports 'default'")),
    ("--kernel-memory", &["--kernel-memory", "10m"], Nothing),
    ("--label", &["-l", "a=b"], Inspect("{{.Config.Labels.a}}", "b")),
    ("--label-file", &["--label-file", "{dir}/labels"], Inspect("{{.Config.Labels.from}}", "file")),
    ("--link", &["--link", "peer:db"], Inside("grep -c '\tdb ' /etc/hosts", "1")),
    ("--link", &["--network", "host", "--link", "peer:db"], Refused("conflicting options: host type networking can't be used with links")),
    ("--link-local-ip", &["--network", "net", "--link-local-ip", "169.254.7.7"], Refused("link-local addresses are not supported by this engine")),
    ("--link-local-ip", &["--network", "host", "--link-local-ip", "169.254.7.7"], Refused("link-local addresses are not supported by this engine")),
    ("--log-driver", &["--log-driver", "local"], Inspect("{{.HostConfig.LogConfig.Type}}", "local")),
    ("--log-driver", &["--log-driver", "splunk"], Refused("logger: no log driver named 'splunk' is registered")),
    ("--log-opt", &["--log-opt", "max-size=1m"], Inspect("{{json .HostConfig.LogConfig.Config}}", r#"{"max-size":"1m"}"#)),
    ("--log-opt", &["--log-opt", "what=1m"], Refused("unknown log opt 'what' for json-file log driver")),
    ("--mac-address", &["--mac-address", "02:42:0a:09:08:07"], Inside("cat /sys/class/net/eth0/address", "02:42:0a:09:08:07")),
    ("--mac-address", &["--network", "host", "--mac-address", "02:42:0a:09:08:07"], Refused("conflicting options: mac-address and the network mode")),
    ("--mac-address", &["--network", "container:peer", "--mac-address", "02:42:0a:09:08:07"], Refused("conflicting options: mac-address and the network mode")),
    ("--memory", &["-m", "64m"], Limit(("memory/memory.limit_in_bytes", "67108864"), Some(("memory.max", "67108864")))),
    ("--memory", &["-m", "1m"], Refused("Minimum memory limit allowed is 6MB")),
    ("--memory-reservation", &["--memory-reservation", "32m"], Limit(("memory/memory.soft_limit_in_bytes", "33554432"), Some(("memory.low", "33554432")))),
    ("--memory-swap", &["-m", "64m", "--memory-swap", "96m"], Limit(("memory/memory.memsw.limit_in_bytes", "100663296"), Some(("memory.swap.max", "33554432")))),
    ("--memory-swappiness", &["--memory-swappiness", "30"], Limit(("memory/memory.swappiness", "30"), None)),
    ("--mount", &["--mount", "type=tmpfs,dst=/x,tmpfs-size=1m"], Inside("df -k /x | tail -1 | awk '{print $2}'", "1024")),
    ("--mount", &["--mount", "type=bind,src={dir},dst=/x,ro"], Inside("cat /x/env; touch /x/y 2>&1 || true", "FROM=file\ntouch: /x/y: Read-only file system")),
    ("--mount", &["--mount", "type=image,src=busybox,dst=/x"], Inside("test -e /x/bin/busybox && echo there", "there")),
    ("--mount", &["--mount", "type=cluster,src=v,dst=/x"], Refused("mount type unknown")),
    ("--name", &["--name", "harald"], Inspect("{{.Name}}", "/harald")),
    ("--network", &["--network", "none"], Inside("ls /sys/class/net", "lo")),
    ("--network", &["--network", "nope"], Refused("network nope not found")),
    // Not by pulling the image, which a missing one would be answered by.
    ("--network", &["--network", "container:nope"], Refused("joining network namespace of container: No such container: nope")),
    ("--network-alias", &["--network", "net", "--network-alias", "other"], Inside("nslookup other >/dev/null && echo found", "found")),
    ("--network-alias", &["--network", "host", "--network-alias", "other"], Refused("network-scoped alias")),
    ("--no-healthcheck", &["--no-healthcheck"], Inspect("{{json .Config.Healthcheck}}", r#"{"Test":["NONE"]}"#)),
    ("--oom-kill-disable", &["-m", "64m", "--oom-kill-disable"], Inspect("{{.HostConfig.OomKillDisable}}", "true")),
    ("--oom-kill-disable", &["-m", "64m", "--oom-kill-disable"], Limit(("memory/memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 0"), None)),
    ("--oom-score-adj", &["--oom-score-adj", "300"], Inside("cat /proc/self/oom_score_adj", "300")),
    ("--oom-score-adj", &["--oom-score-adj", "5000"], Refused("range for oom score adj is [-1000, 1000]")),
    ("--oom-score-adj", &[], By(oom_score_that_is_lower)),
    ("--pid", &["--pid", "container:peer"], Inside("ps -o args | grep -c '^sleep 4321'", "1")),
    ("--pid", &["--pid", "container:nope"], Refused("Error response from daemon: No such container: nope")),
    ("--pids-limit", &["--pids-limit", "33"], Limit(("pids/pids.max", "33"), Some(("pids.max", "33")))),
    ("--platform", &["--pull", "never", "--platform", "linux/s390x"], Refused("does not match the specified platform (linux/s390x)")),
    ("--platform", &["--platform", if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }], Inside("echo here", "here")),
    ("--privileged", &["--privileged"], Inside("grep -c '^sysfs /sys sysfs rw' /proc/mounts", "1")),
    ("--publish", &[], By(published)),
    ("--publish", &["--network", "none", "-p", "80:80"], Warned("Published ports are discarded when using none network mode")),
    ("--publish", &["--network", "host", "-p", "80:80"], Warned("Published ports are discarded when using host network mode")),
    ("--publish", &["--network", "container:peer", "-p", "80:80"], Refused("conflicting options: port publishing and the container type network mode")),
    ("--publish-all", &[], By(published_all)),
    ("--pull", &[], By(pull_never)),
    ("--quiet", &[], By(quiet)),
    ("--read-only", &["--read-only"], Inside("touch /x 2>&1 || true", "touch: /x: Read-only file system")),
    ("--restart", &["--restart", "on-failure:3"], Inspect("{{json .HostConfig.RestartPolicy}}", r#"{"Name":"on-failure","MaximumRetryCount":3}"#)),
    ("--rm", &[], By(removed)),
    ("--runtime", &["--runtime", "runc"], Inspect("{{.HostConfig.Runtime}}", "runc")),
    ("--runtime", &["--runtime", "kata"], Refused("unknown or invalid runtime name: kata")),
    ("--security-opt", &["--security-opt", "no-new-privileges"], Inside("grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1")),
    ("--security-opt", &["--security-opt", "seccomp=unconfined"], Inside("grep Seccomp: /proc/self/status", "Seccomp:\t0")),
    ("--security-opt", &["--security-opt", "apparmor=unconfined"], Inside("echo started", "started")),
    ("--security-opt", &["--security-opt", "what=is-this"], Refused("invalid --security-opt 2: \"what=is-this\"")),
    ("--security-opt", &[], By(apparmor_without_it)),
    ("--shm-size", &["--shm-size", "10m"], Inside("df -k /dev/shm | tail -1 | awk '{print $2}'", "10240")),
    ("--sig-proxy", &[], By(sig_proxy)),
    ("--stop-signal", &[], By(stop_signal)),
    ("--stop-signal", &["--stop-signal", "NOPE"], Refused("invalid signal: NOPE")),
    ("--stop-timeout", &["--stop-timeout", "77"], Inspect("{{.Config.StopTimeout}}", "77")),
    ("--storage-opt", &["--storage-opt", "size=10m"], Refused("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")),
    ("--sysctl", &["--sysctl", "net.ipv4.ip_default_ttl=77"], Inside("cat /proc/sys/net/ipv4/ip_default_ttl", "77")),
    ("--sysctl", &["--network", "host", "--sysctl", "net.ipv4.ip_default_ttl=77"], Refused("not allowed in host network namespace")),
    ("--tmpfs", &["--tmpfs", "/x:size=1m"], Inside("df -k /x | tail -1 | awk '{print $2}'", "1024")),
    ("--tty", &["-t"], Inside("test -t 1 && echo yes", "yes")),
    ("--ulimit", &["--ulimit", "nofile=77:88"], Inside("ulimit -n; ulimit -Hn", "77\n88")),
    ("--ulimit", &[], By(ulimit_that_is_higher)),
    ("--use-api-socket", &["--use-api-socket"], Inside("test -S /var/run/docker.sock && echo there", "there")),
    ("--user", &["-u", "12:34"], Inside("id -u; id -g", "12\n34")),
    ("--user", &["-u", "nope"], Refused("unable to find user nope: no matching entries in passwd file")),
    ("--userns", &["--userns", "host"], Inside("echo started", "started")),
    ("--userns", &["--userns", "private"], Refused("invalid USER mode")),
    ("--uts", &[], By(uts)),
    ("--volume", &["-v", "shared:/x:ro"], Inside("grep ' /x ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1", "ro")),
    ("--volume-driver", &["--volume-driver", "local", "-v", "kept:/x"], Inspect("{{(index .Mounts 0).Driver}} {{(index .Mounts 0).Name}}", "local kept")),
    ("--volume-driver", &["--volume-driver", "nope", "-v", "never:/x"], Refused("nope")),
    ("--volumes-from", &["--volumes-from", "peer:ro"], Inside("grep ' /shared ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1", "ro")),
    ("--volumes-from", &["--volumes-from", "nope"], Refused("Error response from daemon: could not get container for nope: No such container: nope")),
    ("--workdir", &["-w", "/new/dir"], Inside("pwd", "/new/dir")),
];

fn cgroup_parent(rig: &Rig) {
    let parent = format!("knarr-flags-{}", std::process::id());
    let seen =
        rig.inside(&["--cgroupns", "host", "--cgroup-parent", &parent], "cat /proc/self/cgroup").success().text();
    // As Docker leaves it: it may be somebody else's.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        blackbox::tree::remove_cgroup(&hierarchy.path().join(&parent));
    }
    blackbox::tree::remove_cgroup(&Path::new("/sys/fs/cgroup").join(&parent));
    assert!(seen.contains(&format!(":/{parent}/")), "{seen}");
}

fn cidfile(rig: &Rig) {
    let file = rig.world.dir().join("cid");
    let id = rig.docker(&["create", "--cidfile", file.to_str().unwrap()], &[], &["busybox"]).success().text();
    assert_eq!(std::fs::read_to_string(file).unwrap(), id);
    rig.docker(&["rm", &id], &[], &[]).success();
}

fn detach(rig: &Rig) {
    let id = rig.docker(&["run", "-d", "--name", "apart"], &[], &["busybox", "sleep", "1000"]).success().text();
    assert_eq!((id.len(), rig.state("apart").as_str()), (64, "running"));
    rig.docker(&["rm", "-f", "apart"], &[], &[]).success();
}

/// Types keys into a client with a terminal, and waits for its end.
fn type_into(rig: &Rig, line: &str, keys: &[u8], ready: impl Fn() -> bool) {
    let mut script = Command::new("script");
    script.args(["-qec", line, "/dev/null"]).env("DOCKER_HOST", rig.world.host());
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("script is there");
    eventually("what is typed is read", ready);
    let mut keyboard = script.stdin.take().expect("a pipe was asked for");
    // A key that comes before the client has put its terminal into raw mode is the terminal's.
    eventually("the client lets go", || {
        let _ = keyboard.write_all(keys);
        script.try_wait().expect("look after the client").is_some()
    });
}

fn detach_keys(rig: &Rig) {
    let line = "docker run -it --name left --detach-keys ctrl-x,x busybox cat";
    type_into(rig, line, b"\x18x", || rig.state("left") == "running");
    assert_eq!(rig.state("left"), "running");
    rig.docker(&["rm", "-f", "left"], &[], &[]).success();
}

fn entrypoint(rig: &Rig) {
    let flags = ["--entrypoint", "echo"];
    rig.docker(&["run", "--rm"], &flags, &["busybox", "said"]).success().stdout("said\n");
}

fn interactive(rig: &Rig) {
    rig.world.docker_with(["run", "--rm", "-i", "busybox", "cat"], b"typed").success().stdout("typed");
    rig.world.docker_with(["run", "--rm", "busybox", "cat"], b"typed").success().stdout("");
}

/// What a namespace of this process is called.
fn namespace(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace").display().to_string()
}

fn ipc(rig: &Rig) {
    let inside = |mode: &str| rig.inside(&["--ipc", mode], "readlink /proc/self/ns/ipc").success().text();
    assert_eq!(inside("host"), namespace("ipc"));
    assert_ne!(inside("private"), namespace("ipc"));
    let peer = rig.docker(&["exec", "peer", "readlink", "/proc/self/ns/ipc"], &[], &[]).success().text();
    assert_eq!(inside("container:peer"), peer);
}

fn uts(rig: &Rig) {
    let inside = |flags: &[&str]| rig.inside(flags, "readlink /proc/self/ns/uts").success().text();
    assert_eq!(inside(&["--uts", "host"]), namespace("uts"));
    assert_ne!(inside(&[]), namespace("uts"));
}

/// Whether the engine, which inherits it from here, may raise limits and lower scores.
fn may_raise() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).expect("CapPrm");
    u64::from_str_radix(line, 16).expect("hexadecimal") >> 24 & 1 == 1
}

fn oom_score_that_is_lower(rig: &Rig) {
    let answer = rig.inside(&["--oom-score-adj", "-100"], "cat /proc/self/oom_score_adj").success();
    let told = answer.errors().contains("cannot lower oom_score_adj");
    assert_eq!(answer.text() != "-100", told, "{answer}");
    assert_eq!(told, !may_raise(), "{answer}");
}

fn ulimit_that_is_higher(rig: &Rig) {
    let answer = rig.inside(&["--ulimit", "nofile=1048576:1048576"], "ulimit -Hn").success();
    let told = answer.errors().contains("cannot raise ulimit nofile");
    assert_eq!(answer.text() != "1048576", told, "{answer}");
}

fn apparmor_without_it(rig: &Rig) {
    let here = std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
    if !here {
        let answer = rig.inside(&["--security-opt", "apparmor=some-profile"], "true");
        answer.exits(125).stderr_has("this kernel has no AppArmor");
    }
}

fn published(rig: &Rig) {
    rig.docker(&["run", "-d", "--name", "web", "-p", "127.0.0.1::80"], &[], &["busybox", "sleep", "1000"]).success();
    let port = rig.docker(&["port", "web", "80"], &[], &[]).success().text();
    rig.docker(&["exec", "-d", "web", "nc", "-l", "-p", "80", "-e", "echo", "served"], &[], &[]).success();
    eventually("the port answers", || {
        let Ok(mut stream) = std::net::TcpStream::connect(&port) else { return false };
        let mut said = String::new();
        std::io::Read::read_to_string(&mut stream, &mut said).is_ok() && said == "served\n"
    });
    rig.docker(&["rm", "-f", "web"], &[], &[]).success();
}

fn published_all(rig: &Rig) {
    let flags = ["-P", "--expose", "80", "--expose", "81/udp"];
    rig.docker(&["run", "-d", "--name", "web"], &flags, &["busybox", "sleep", "1000"]).success();
    let ports = rig.docker(&["port", "web"], &[], &[]).success().text();
    assert!(ports.contains("80/tcp -> 0.0.0.0:") && ports.contains("81/udp -> 0.0.0.0:"), "{ports}");
    rig.docker(&["rm", "-f", "web"], &[], &[]).success();
}

fn pull_never(rig: &Rig) {
    let answer = rig.docker(&["run", "--pull", "never", "127.0.0.1:1/nobody"], &[], &[]);
    answer.exits(125).stderr_has("No such image: 127.0.0.1:1/nobody:latest");
}

fn quiet(rig: &Rig) {
    let told = |flags: &[&str]| rig.docker(&["run"], flags, &["127.0.0.1:1/nobody"]).exits(125).errors();
    assert!(told(&[]).contains("Unable to find image") && !told(&["-q"]).contains("Unable to find image"));
}

fn removed(rig: &Rig) {
    rig.docker(&["run", "--rm", "--name", "gone"], &[], &["busybox", "true"]).success();
    rig.docker(&["inspect", "gone"], &[], &[]).exits(1);
}

fn sig_proxy(rig: &Rig) {
    let trap = "trap 'exit 7' USR1; echo up; while :; do sleep 0.05; done";
    let start = |flag: &str| {
        let mut docker = rig.world.docker_command();
        docker.args(["run", "--name", "told", flag, "busybox", "sh", "-c", trap]);
        let client = docker.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("the trap is set", || rig.docker(&["logs", "told"], &[], &[]).text() == "up");
        let pid = rustix::process::Pid::from_child(&client);
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
        client
    };
    let mut client = start("--sig-proxy=true");
    assert_eq!(client.wait().unwrap().code(), Some(7));
    rig.docker(&["rm", "told"], &[], &[]).success();
    // The client keeps it to itself, or dies of it.
    let mut client = start("--sig-proxy=false");
    rig.docker(&["kill", "-s", "USR1", "told"], &[], &[]).success();
    let _ = client.kill();
    client.wait().unwrap();
    assert_eq!(rig.docker(&["wait", "told"], &[], &[]).success().text(), "7");
    rig.docker(&["rm", "-f", "told"], &[], &[]).success();
}

fn stop_signal(rig: &Rig) {
    let trap = "trap 'exit 7' USR1; echo up; while :; do sleep 0.05; done";
    let flags = ["--stop-signal", "USR1", "--name", "told"];
    rig.docker(&["run", "-d"], &flags, &["busybox", "sh", "-c", trap]).success();
    eventually("the trap is set", || rig.docker(&["logs", "told"], &[], &[]).text() == "up");
    rig.docker(&["stop", "told"], &[], &[]).success();
    assert_eq!(rig.docker(&["wait", "told"], &[], &[]).text(), "7");
    rig.docker(&["rm", "told"], &[], &[]).success();
}

/// Asks everything, and tells all that is not true.
fn each(rig: &Rig, probes: &[Probe], prove: impl Fn(&Rig, &Probe)) {
    let untrue = |probe: &&Probe| {
        let asked = std::panic::AssertUnwindSafe(|| prove(rig, probe));
        std::panic::catch_unwind(asked).is_err()
    };
    let untrue: Vec<_> = probes.iter().filter(untrue).map(|(flag, words, _)| (flag, words)).collect();
    assert!(untrue.is_empty(), "not as the page says (see above): {untrue:#?}");
}

#[test]
fn every_flag_of_run_does_what_the_page_says() {
    let Some(rig) = Rig::new().map(|rig| rig.with_network(77)) else { return };
    check_table("docker run", RUN);
    let create = offered("docker create");
    assert!(create.is_subset(&offered("docker run")), "docker create has flags of its own");
    each(&rig, RUN, Rig::prove);
}

#[rustfmt::skip]
const EXEC: &[Probe] = &[
    ("--detach", &["-d"], Inside("touch /tmp/apart", "")),
    ("--detach-keys", &[], By(exec_detach_keys)),
    ("--env", &["-e", "A=b"], Inside("echo $A", "b")),
    ("--env-file", &["--env-file", "{dir}/env"], Inside("echo $FROM", "file")),
    ("--interactive", &[], By(|rig| {
        rig.world.docker_with(["exec", "-i", "peer", "cat"], b"typed").success().stdout("typed");
        rig.world.docker_with(["exec", "peer", "cat"], b"typed").success().stdout("");
    })),
    ("--privileged", &[], By(|rig| {
        let caps = |flags: &[&str]| rig.docker(&["exec"], flags, &["peer", "grep", "CapEff", "/proc/self/status"]).success().text();
        assert_ne!(caps(&["--privileged"]), caps(&[]));
    })),
    ("--tty", &["-t"], Inside("test -t 1 && echo yes", "yes")),
    ("--user", &["-u", "12:34"], Inside("id -u; id -g", "12\n34")),
    ("--user", &["-u", "nope"], Refused("unable to find user nope")),
    ("--workdir", &["-w", "/tmp"], Inside("pwd", "/tmp")),
    ("--workdir", &["-w", "not/absolute"], Refused("needs to be an absolute path")),
];

fn exec_detach_keys(rig: &Rig) {
    let line = "docker exec -it --detach-keys ctrl-x,x peer sh -c 'touch /tmp/started; exec cat'";
    type_into(rig, line, b"\x18x", || rig.docker(&["exec", "peer", "test", "-e", "/tmp/started"], &[], &[]).code == 0);
    rig.docker(&["exec", "peer", "pidof", "cat"], &[], &[]).success();
}

#[test]
fn every_flag_of_exec_does_what_the_page_says() {
    let Some(rig) = Rig::new() else { return };
    check_table("docker exec", EXEC);
    each(&rig, EXEC, |rig, (flag, words, see)| {
        let exec = |line: &str| rig.docker(&["exec"], words, &["peer", "sh", "-c", line]);
        match see {
            Inside(line, wanted) => assert_eq!(exec(line).success().text().replace('\r', ""), *wanted, "{flag}"),
            Refused(text) => {
                let answer = exec("true");
                assert!(answer.code != 0 && format!("{answer}").contains(text), "{flag}: {answer}");
            }
            By(prove) => prove(rig),
            _ => unreachable!("{flag}: not seen like that"),
        }
    });
    eventually("the detached one has run", || {
        rig.docker(&["exec", "peer", "test", "-e", "/tmp/apart"], &[], &[]).code == 0
    });
}

#[rustfmt::skip]
const UPDATE: &[Probe] = &[
    ("--blkio-weight", &["--blkio-weight", "300"], Inspect("{{.HostConfig.BlkioWeight}}", "300")),
    ("--blkio-weight", &["--blkio-weight", "5"], Refused("Range of blkio weight is from 10 to 1000")),
    ("--cpu-rt-period", &["--cpu-rt-period", "50000"], Refused(REALTIME)),
    ("--cpu-rt-runtime", &["--cpu-rt-runtime", "50000"], Refused(REALTIME)),
    ("--cpu-shares", &["-c", "262144"], Limit(("cpu/cpu.shares", "262144"), Some(("cpu.weight", "10000")))),
    ("--cpus", &["--cpus", "0.5"], Limit(("cpu/cpu.cfs_quota_us", "50000"), Some(("cpu.max", "50000 100000")))),
    ("--cpu-period", &["--cpu-period", "50000"], Refused("CPU Period cannot be updated as NanoCPUs has already been set")),
    ("--cpu-period", &[], By(|rig| limited(rig, &["--cpu-period", "50000", "--cpu-quota", "20000"], "cpu/cpu.cfs_period_us", "50000", "20000 50000"))),
    ("--cpu-quota", &[], By(|rig| limited(rig, &["--cpu-quota", "20000"], "cpu/cpu.cfs_quota_us", "20000", "20000 100000"))),
    ("--cpuset-cpus", &["--cpuset-cpus", "0"], Limit(("cpuset/cpuset.cpus", "0"), Some(("cpuset.cpus", "0")))),
    ("--cpuset-mems", &["--cpuset-mems", "0"], Limit(("cpuset/cpuset.mems", "0"), Some(("cpuset.mems", "0")))),
    ("--memory", &["-m", "64m", "--memory-swap", "96m"], Limit(("memory/memory.limit_in_bytes", "67108864"), Some(("memory.max", "67108864")))),
    ("--memory-reservation", &["--memory-reservation", "32m"], Limit(("memory/memory.soft_limit_in_bytes", "33554432"), Some(("memory.low", "33554432")))),
    ("--memory-swap", &["-m", "64m", "--memory-swap", "128m"], Limit(("memory/memory.memsw.limit_in_bytes", "134217728"), Some(("memory.swap.max", "67108864")))),
    ("--pids-limit", &["--pids-limit", "33"], Limit(("pids/pids.max", "33"), Some(("pids.max", "33")))),
    ("--restart", &["--restart", "on-failure:3"], Inspect("{{json .HostConfig.RestartPolicy}}", r#"{"Name":"on-failure","MaximumRetryCount":3}"#)),
];

/// An update of a container of its own.
fn limited(rig: &Rig, flags: &[&str], file: &str, wanted: &str, wanted_unified: &str) {
    let id = rig.docker(&["run", "-d", "busybox", "sleep", "1000"], &[], &[]).success().text();
    rig.docker(&["update"], flags, &[&id]).success();
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (file, wanted) = if unified { ("cpu.max", wanted_unified) } else { (file, wanted) };
    assert_eq!(rig.docker(&["exec", &id, "cat", &format!("/sys/fs/cgroup/{file}")], &[], &[]).success().text(), wanted);
    rig.docker(&["rm", "-f", &id], &[], &[]).success();
}

#[test]
fn every_flag_of_update_does_what_the_page_says() {
    let Some(rig) = Rig::new() else { return };
    check_table("docker update", UPDATE);
    each(&rig, UPDATE, |rig, (flag, words, see)| {
        let update = || rig.docker(&["update"], words, &["peer"]);
        match see {
            Inspect(template, wanted) => {
                update().success();
                let seen = rig.docker(&["inspect", "-f", template, "peer"], &[], &[]).success().text();
                assert_eq!(seen, *wanted, "{flag}");
            }
            Limit(first, second) => {
                update().success();
                let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
                let Some((file, wanted)) = (if unified { *second } else { Some(*first) }) else { return };
                let seen = rig.docker(&["exec", "peer", "cat", &format!("/sys/fs/cgroup/{file}")], &[], &[]);
                assert_eq!(seen.success().text(), *wanted, "{flag}");
            }
            Refused(text) => drop(update().exits(1).stderr_has(text)),
            By(prove) => prove(rig),
            _ => unreachable!("{flag}: not seen like that"),
        }
    });
    // What the client has no flag for, and the API's body has.
    for (field, value) in [("Ulimits", r#"[{"Name":"nofile","Soft":1,"Hard":1}]"#), ("OomKillDisable", "true")] {
        let body = format!(r#"{{"{field}":{value}}}"#);
        let (status, text) = rig.world.api("POST", "/containers/peer/update", Some(&body));
        assert!(status == 400 && text.contains(field), "{field}: {status} {text}");
    }
}

#[rustfmt::skip]
const NETWORK_CREATE: &[Probe] = &[
    ("--attachable", &["--attachable"], Inspect("{{.Attachable}}", "true")),
    ("--aux-address", &["--subnet", "10.213.78.0/29", "--aux-address", "r=10.213.78.2"], Inspect("{{(index .IPAM.Config 0).AuxiliaryAddresses.r}}", "10.213.78.2")),
    ("--aux-address", &["--subnet", "10.213.78.0/29", "--aux-address", "r=10.213.78.2"], Inside("hostname -i", "10.213.78.3")),
    ("--config-from", &["--config-from", "bridge"], Refused("configuration-only networks are not supported by this engine")),
    ("--config-only", &["--config-only"], Refused("configuration-only networks are not supported by this engine")),
    ("--driver", &["-d", "bridge"], Inspect("{{.Driver}}", "bridge")),
    ("--driver", &["-d", "nope"], Refused("could not find plugin nope in v1 plugin registry: plugin not found")),
    ("--gateway", &["--subnet", "10.213.78.0/24", "--gateway", "10.213.78.77"], Inside("ip route | grep default | cut -d' ' -f3", "10.213.78.77")),
    ("--ingress", &["--ingress"], Refused("networks of a swarm are not supported by this engine")),
    ("--internal", &["--internal"], Inside("ip route | grep -c default || true", "0")),
    ("--ip-range", &["--subnet", "10.213.78.0/24", "--ip-range", "10.213.78.64/26", "--gateway", "10.213.78.1"], Inside("hostname -i", "10.213.78.64")),
    ("--ipam-driver", &["--ipam-driver", "default"], Inspect("{{.IPAM.Driver}}", "default")),
    ("--ipam-driver", &["--ipam-driver", "nope"], Refused("invalid ipam driver: \"nope\"")),
    ("--ipam-opt", &["--ipam-opt", "a=b"], Refused("ipam option a=b is not supported by this engine")),
    ("--ipv4", &["--ipv4=false", "--ipv6"], Inside("ip -4 addr show eth0 | grep -c inet || true", "0")),
    ("--ipv6", &["--ipv6", "--subnet", "fd00:d:78::/64"], Inside("ip -6 addr show eth0 | grep -c fd00:d:78::", "1")),
    ("--label", &["--label", "a=b"], Inspect("{{.Labels.a}}", "b")),
    ("--opt", &["-o", "com.docker.network.driver.mtu=1400"], Inside("cat /sys/class/net/eth0/mtu", "1400")),
    ("--opt", &["-o", "com.docker.network.bridge.what=b"], Refused("option com.docker.network.bridge.what=b is not supported by this engine")),
    ("--scope", &["--scope", "local"], Inspect("{{.Scope}}", "local")),
    ("--scope", &["--scope", "swarm"], Refused("only networks of scope local are supported")),
    ("--subnet", &["--subnet", "10.213.78.0/24"], Inside("hostname -i", "10.213.78.2")),
    ("--subnet", &["--subnet", "10.213.78.0/24", "--subnet", "10.213.79.0/24"], Refused("one subnet")),
];

#[test]
fn every_flag_of_network_create_does_what_the_page_says() {
    let Some(rig) = Rig::new() else { return };
    check_table("docker network create", NETWORK_CREATE);
    each(&rig, NETWORK_CREATE, |rig, (flag, words, see)| {
        let created = rig.docker(&["network", "create"], words, &["made"]);
        match see {
            Refused(text) => return drop(created.exits(1).stderr_has(text)),
            Inspect(template, wanted) => {
                created.success();
                let seen = rig.docker(&["network", "inspect", "-f", template, "made"], &[], &[]).success().text();
                assert_eq!(seen, *wanted, "{flag}");
            }
            Inside(line, wanted) => {
                created.success();
                assert_eq!(rig.inside(&["--network", "made"], line).success().text(), *wanted, "{flag}");
            }
            _ => unreachable!("{flag}: not seen like that"),
        }
        rig.docker(&["network", "rm", "made"], &[], &[]).success();
    });
}

#[rustfmt::skip]
const NETWORK_CONNECT: &[Probe] = &[
    ("--alias", &["--alias", "other"], Inside("nslookup other >/dev/null && echo found", "found")),
    ("--driver-opt", &["--driver-opt", "com.docker.network.endpoint.ifname=odd0"], Inside("ls /sys/class/net | grep odd", "odd0")),
    ("--driver-opt", &["--driver-opt", "a=b"], Refused("endpoint option a is not supported by this engine")),
    ("--gw-priority", &["--gw-priority", "5"], Inside("ip route | grep default | cut -d' ' -f3", "10.213.76.1")),
    ("--ip", &["--ip", "10.213.76.77"], Inside("ip addr | grep -o '10.213.76.77/24'", "10.213.76.77/24")),
    ("--ip6", &["--ip6", "fd00:d:76::77"], Inside("ip addr | grep -o 'fd00:d:76::77/64'", "fd00:d:76::77/64")),
    ("--link", &["--link", "onnet:db"], Inside("nslookup db >/dev/null && echo found", "found")),
    ("--link-local-ip", &["--link-local-ip", "169.254.7.7"], Refused("link-local addresses are not supported by this engine")),
];

#[test]
fn every_flag_of_network_connect_does_what_the_page_says() {
    let Some(rig) = Rig::new().map(|rig| rig.with_network(76)) else { return };
    check_table("docker network connect", NETWORK_CONNECT);
    rig.docker(&["run", "-d", "--name", "onnet", "--network", "net", "busybox", "sleep", "1000"], &[], &[]).success();
    each(&rig, NETWORK_CONNECT, |rig, (flag, words, see)| {
        let connected = rig.docker(&["network", "connect"], words, &["net", "peer"]);
        match see {
            Refused(text) => return drop(connected.exits(1).stderr_has(text)),
            Inside(line, wanted) => {
                connected.success();
                assert_eq!(
                    rig.docker(&["exec", "peer", "sh", "-c", line], &[], &[]).success().text(),
                    *wanted,
                    "{flag}"
                );
            }
            _ => unreachable!("{flag}: not seen like that"),
        }
        rig.docker(&["network", "disconnect", "net", "peer"], &[], &[]).success();
    });
}

const NO_SWARM: &str = "volume create: this node is not part of a swarm";

#[rustfmt::skip]
const VOLUME_CREATE: &[Probe] = &[
    ("--driver", &["-d", "local"], Inspect("{{.Driver}}", "local")),
    ("--driver", &["-d", "nope"], Refused("nope")),
    ("--label", &["--label", "a=b"], Inspect("{{.Labels.a}}", "b")),
    ("--opt", &["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m"], Inside("df -k /x | tail -1 | awk '{print $2}'", "1024")),
    ("--opt", &["-o", "what=b"], Refused("invalid option")),
    ("--availability", &["--availability", "active"], Refused(NO_SWARM)),
    ("--group", &["--group", "x"], Refused(NO_SWARM)),
    ("--limit-bytes", &["--limit-bytes", "1"], Refused(NO_SWARM)),
    ("--required-bytes", &["--required-bytes", "1"], Refused(NO_SWARM)),
    ("--scope", &["--scope", "single"], Refused(NO_SWARM)),
    ("--secret", &["--secret", "a=b"], Nothing),
    ("--sharing", &["--sharing", "none"], Refused(NO_SWARM)),
    ("--topology-preferred", &["--topology-preferred", "a=b"], Nothing),
    ("--topology-required", &["--topology-required", "a=b"], Nothing),
    ("--type", &["--type", "block"], Refused(NO_SWARM)),
];

#[test]
fn every_flag_of_volume_create_does_what_the_page_says() {
    let Some(rig) = Rig::new() else { return };
    check_table("docker volume create", VOLUME_CREATE);
    each(&rig, VOLUME_CREATE, |rig, (flag, words, see)| {
        let created = rig.docker(&["volume", "create"], words, &["made"]);
        match see {
            Refused(text) => return drop(created.exits(1).stderr_has(text)),
            Inspect(template, wanted) => {
                created.success();
                let seen = rig.docker(&["volume", "inspect", "-f", template, "made"], &[], &[]).success().text();
                assert_eq!(seen, *wanted, "{flag}");
            }
            Inside(line, wanted) => {
                created.success();
                assert_eq!(rig.inside(&["-v", "made:/x"], line).success().text(), *wanted, "{flag}");
            }
            Nothing => {
                created.success();
                let seen = rig.docker(&["volume", "inspect", "made"], &[], &[]).success().json();
                assert!(seen[0]["Options"].is_null() && seen[0]["ClusterVolume"].is_null(), "{flag}: {seen}");
            }
            _ => unreachable!("{flag}: not seen like that"),
        }
        rig.docker(&["volume", "rm", "made"], &[], &[]).success();
    });
}

/// `Inside` is a step of the Dockerfile, and what is printed last; `Inspect` is of the image.
#[rustfmt::skip]
const BUILD: &[Probe] = &[
    ("--add-host", &["--add-host", "there:10.9.8.7"], Inside("grep there /etc/hosts", "10.9.8.7\tthere")),
    ("--build-arg", &["--build-arg", "WHAT=this"], Inside("echo $WHAT", "this")),
    ("--cache-from", &["--cache-from", "busybox"], Nothing),
    ("--cgroup-parent", &[], By(build_cgroup_parent)),
    ("--compress", &["--compress"], Inside("echo built", "built")),
    ("--cpu-period", &["--cpu-period", "50000", "--cpu-quota", "20000"], Limit(("cpu/cpu.cfs_period_us", "50000"), Some(("cpu.max", "20000 50000")))),
    ("--cpu-quota", &["--cpu-quota", "20000"], Limit(("cpu/cpu.cfs_quota_us", "20000"), Some(("cpu.max", "20000 100000")))),
    ("--cpu-shares", &["-c", "262144"], Limit(("cpu/cpu.shares", "262144"), Some(("cpu.weight", "10000")))),
    ("--cpuset-cpus", &["--cpuset-cpus", "0"], Limit(("cpuset/cpuset.cpus", "0"), Some(("cpuset.cpus", "0")))),
    ("--cpuset-mems", &["--cpuset-mems", "0"], Limit(("cpuset/cpuset.mems", "0"), Some(("cpuset.mems", "0")))),
    ("--disable-content-trust", &["--disable-content-trust"], Nothing),
    ("--file", &[], By(build_file)),
    ("--force-rm", &["--force-rm"], Nothing),
    ("--iidfile", &[], By(iidfile)),
    ("--isolation", &["--isolation", "process"], Refused("unsupported isolation: \"process\"")),
    ("--label", &["--label", "a=b"], Inspect("{{.Config.Labels.a}}", "b")),
    ("--memory", &["-m", "64m"], Limit(("memory/memory.limit_in_bytes", "67108864"), Some(("memory.max", "67108864")))),
    ("--memory-swap", &["-m", "64m", "--memory-swap", "96m"], Limit(("memory/memory.memsw.limit_in_bytes", "100663296"), Some(("memory.swap.max", "33554432")))),
    ("--network", &["--network", "none"], Inside("ls /sys/class/net", "lo")),
    ("--network", &["--network", "nope"], Refused("network nope not found")),
    ("--no-cache", &[], By(no_cache)),
    ("--platform", &["--platform", "linux/s390x"], Refused("manifests/latest")),
    ("--platform", &["--platform", if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }], Inside("echo built", "built")),
    ("--pull", &["--pull"], Inside("echo built", "built")),
    ("--quiet", &[], By(|rig| {
        let id = build(rig, &["-q"], "RUN true").success().text();
        assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    })),
    ("--rm", &["--rm=false"], Nothing),
    ("--security-opt", &["--security-opt", "seccomp=unconfined"], Refused("The daemon on this platform does not support setting security options on build")),
    ("--shm-size", &["--shm-size", "10m"], Inside("df -k /dev/shm | tail -1 | awk '{print $2}'", "10240")),
    ("--squash", &["--squash"], Refused("\"--squash\" is only supported on a Docker daemon with experimental features enabled")),
    ("--tag", &["-t", "made:one"], Inspect("{{index .RepoTags 0}}", "made:one")),
    ("--target", &[], By(target)),
    ("--target", &["--target", "nope"], Refused("target stage \"nope\" could not be found")),
    ("--ulimit", &["--ulimit", "nofile=77:88"], Inside("ulimit -n; ulimit -Hn", "77\n88")),
];

fn build(rig: &Rig, flags: &[&str], lines: &str) -> Answer {
    let folder = rig.world.dir().join("context");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("Dockerfile"), format!("FROM busybox AS first\nARG WHAT\n{lines}\n")).unwrap();
    let mut docker = rig.world.docker_command();
    docker.env("DOCKER_BUILDKIT", "0").arg("build").args(rig.words(flags)).arg(folder);
    finish(docker, b"")
}

/// The lines that the step printed.
fn printed(answer: &Answer) -> String {
    let text = answer.text();
    let story = |line: &&str| line.contains("--->") || line.starts_with("Removed intermediate");
    let after = text.lines().skip_while(|line| !line.contains(": RUN ")).skip(1).skip_while(story);
    let said = after.take_while(|line| !story(line) && !line.starts_with("Successfully "));
    said.collect::<Vec<_>>().join("\n")
}

fn build_cgroup_parent(rig: &Rig) {
    let parent = format!("knarr-flags-build-{}", std::process::id());
    let answer = build(rig, &["--no-cache", "--cgroup-parent", &parent], "RUN true");
    let all: Vec<_> = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().collect();
    let made = all.iter().map(|entry| entry.path().join(&parent)).chain([Path::new("/sys/fs/cgroup").join(&parent)]);
    let made: Vec<_> = made.filter(|path| path.exists()).collect();
    for path in &made {
        blackbox::tree::remove_cgroup(path);
    }
    answer.success();
    assert!(!made.is_empty(), "nothing ran below it");
}

fn build_file(rig: &Rig) {
    build(rig, &[], "RUN true").success();
    std::fs::write(rig.world.dir().join("context/Other"), "FROM busybox\nLABEL from=other\n").unwrap();
    build(rig, &["-t", "other", "-f", "{dir}/context/Other"], "RUN false").success();
    let seen = rig.docker(&["image", "inspect", "-f", "{{.Config.Labels.from}}", "other"], &[], &[]);
    seen.success().stdout("other\n");
}

fn iidfile(rig: &Rig) {
    build(rig, &["--iidfile", "{dir}/iid", "-t", "made:iid"], "RUN true").success();
    let id = rig.docker(&["image", "inspect", "-f", "{{.Id}}", "made:iid"], &[], &[]).success().text();
    assert_eq!(std::fs::read_to_string(rig.world.dir().join("iid")).unwrap(), id);
}

fn no_cache(rig: &Rig) {
    let run = "RUN head -c 8 /dev/urandom | base64";
    let first = printed(&build(rig, &[], run).success());
    assert_eq!(printed(&build(rig, &[], run).success()), "");
    let again = printed(&build(rig, &["--no-cache"], run).success());
    assert!(!first.is_empty() && !again.is_empty() && first != again, "{first} {again}");
}

fn target(rig: &Rig) {
    let lines = "LABEL stage=first\nFROM busybox AS second\nLABEL stage=second";
    build(rig, &["--target", "first", "-t", "made:first"], lines).success();
    let seen = rig.docker(&["image", "inspect", "-f", "{{.Config.Labels.stage}}", "made:first"], &[], &[]);
    seen.success().stdout("first\n");
}

#[test]
fn every_flag_of_the_classic_build_does_what_the_page_says() {
    let Some(rig) = Rig::new() else { return };
    check_table("docker build", BUILD);
    each(&rig, BUILD, |rig, (flag, words, see)| {
        let fresh = |line: &str| build(rig, &[&["--no-cache"], *words].concat(), line);
        match see {
            Inside(line, wanted) => {
                let answer = fresh(&format!("RUN {line}")).success();
                assert_eq!(printed(&answer), *wanted, "{flag}: {answer}");
            }
            Limit(first, second) => {
                let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
                let Some((file, wanted)) = (if unified { *second } else { Some(*first) }) else { return };
                let answer = fresh(&format!("RUN cat /sys/fs/cgroup/{file}")).success();
                assert_eq!(printed(&answer), *wanted, "{flag}: {answer}");
            }
            Inspect(template, wanted) => {
                fresh("RUN true\nLABEL it=made").success();
                let images = rig.docker(&["images", "-q", "--filter", "label=it=made"], &[], &[]).success().text();
                let newest = images.lines().next().expect("an image").to_owned();
                let seen = rig.docker(&["image", "inspect", "-f", template, &newest], &[], &[]).success().text();
                assert_eq!(seen, *wanted, "{flag}");
                rig.docker(&["rmi", "-f", &newest], &[], &[]).success();
            }
            Refused(text) => {
                let answer = fresh("RUN true");
                assert!(answer.code != 0 && format!("{answer}").contains(text), "{flag}: {answer}");
            }
            Nothing => {
                let image = |words: &[&str]| {
                    build(rig, &[words, &["-t", "made:nothing"]].concat(), "ENV A=b\nCMD [\"true\"]").success();
                    let all = "{{json .Config}} {{json .RootFS}}";
                    rig.docker(&["image", "inspect", "-f", all, "made:nothing"], &[], &[]).success().text()
                };
                assert_eq!(image(words), image(&[]), "{flag}");
                rig.docker(&["ps", "-aq", "--filter", "status=exited"], &[], &[]).success().stdout("");
            }
            By(prove) => prove(rig),
            Warned(_) => unreachable!("{flag}: not seen like that"),
        }
    });
}
