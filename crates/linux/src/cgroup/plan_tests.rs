//! Tables: resources and a layout -> the writes, warnings or the refusal.

use std::collections::BTreeMap;

use super::super::devices::tests::rule;
use super::super::layout::Hierarchy;
use super::super::resources::{InterfacePriority, WeightDevice};
use super::*;

fn hierarchy(version: Version, controllers: &str) -> Hierarchy {
    Hierarchy {
        version,
        controllers: ControllerSet::parse(controllers),
        name: None,
        mount: "/sys/fs/cgroup".into(),
        root: "/".into(),
    }
}

fn v1() -> Layout {
    let all = [
        "cpu cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "hugetlb",
        "rdma",
        "net_cls net_prio",
    ];
    let mut hierarchies: Vec<Hierarchy> = all.iter().map(|c| hierarchy(Version::V1, c)).collect();
    hierarchies.push(hierarchy(Version::V2, ""));
    Layout { hierarchies }
}

fn v2() -> Layout {
    Layout { hierarchies: vec![hierarchy(Version::V2, "cpu cpuset memory io pids hugetlb rdma")] }
}

fn everything() -> ControllerSet {
    Controller::ALL.into_iter().collect()
}

/// The writes as `file=value` (`?` where the file may be missing, `~` where a retry is due), then warnings, or the error.
fn shown(layout: &Layout, available: ControllerSet, resources: &Resources, current: &Current) -> Vec<String> {
    match plan(layout, available, resources, current) {
        Err(error) => vec![format!("error: {error}")],
        Ok(plan) => {
            let mark = |t: Tolerance| match t {
                Tolerance::None => "",
                Tolerance::Missing => "?",
                Tolerance::Retry => "~",
            };
            let writes = plan.writes.iter().map(|w| format!("{}={}{}", w.file, w.value, mark(w.tolerance)));
            let program = plan.device_program.iter().map(|rules| format!("program of {} rules", rules.len()));
            writes.chain(program).chain(plan.warnings.iter().map(|w| format!("warning: {w}"))).collect()
        }
    }
}

fn check(change: impl Fn(&mut Resources), on_v1: &[&str], on_v2: &[&str]) {
    check_now(change, &Current::default(), on_v1, on_v2);
}

fn check_now(change: impl Fn(&mut Resources), current: &Current, on_v1: &[&str], on_v2: &[&str]) {
    let mut resources = Resources::default();
    change(&mut resources);
    assert_eq!(shown(&v1(), everything(), &resources, current), on_v1, "v1 {resources:?}");
    assert_eq!(shown(&v2(), everything(), &resources, current), on_v2, "v2 {resources:?}");
}

#[test]
fn nothing_asked_is_nothing_written() {
    check(|_| {}, &[], &[]);
    // What clients send for "unset".
    check(
        |r| {
            r.memory.limit = Some(0);
            r.memory.swap = Some(0);
            r.memory.reservation = Some(0);
            r.cpu.shares = Some(0);
            r.cpu.quota = Some(0);
            r.cpu.period = Some(0);
            r.cpu.cpus = Some(String::new());
            r.block_io.weight = Some(0);
        },
        &[],
        &[],
    );
}

#[test]
fn memory() {
    check(|r| r.memory.limit = Some(1000), &["memory.limit_in_bytes=1000"], &["memory.max=1000"]);
    check(
        |r| {
            r.memory.limit = Some(1000);
            r.memory.swap = Some(3000);
            r.memory.reservation = Some(500);
        },
        &["memory.limit_in_bytes=1000", "memory.memsw.limit_in_bytes=3000", "memory.soft_limit_in_bytes=500"],
        &["memory.swap.max=2000", "memory.max=1000", "memory.low=500"],
    );
}

#[test]
fn swap_equal_to_memory_is_no_swap_and_needs_no_swap_accounting_on_v2() {
    check(
        |r| (r.memory.limit, r.memory.swap) = (Some(1000), Some(1000)),
        &["memory.limit_in_bytes=1000", "memory.memsw.limit_in_bytes=1000"],
        &["memory.swap.max=0?", "memory.max=1000"],
    );
}

#[test]
fn lifting_the_memory_limit_lifts_the_swap_limit() {
    let lifted = ["memory.memsw.limit_in_bytes=-1?", "memory.limit_in_bytes=-1"];
    check(|r| r.memory.limit = Some(-1), &lifted, &["memory.swap.max=max?", "memory.max=max"]);
}

#[test]
fn on_v1_the_sum_is_raised_first_and_lowered_last() {
    let ask = |r: &mut Resources| (r.memory.limit, r.memory.swap) = (Some(1000), Some(2000));
    let low = Current { memory_limit: Some(500), ..Current::default() };
    let high = Current { memory_limit: Some(5000), ..Current::default() };
    let v2 = ["memory.swap.max=1000", "memory.max=1000"];
    check_now(ask, &low, &["memory.memsw.limit_in_bytes=2000", "memory.limit_in_bytes=1000"], &v2);
    check_now(ask, &high, &["memory.limit_in_bytes=1000", "memory.memsw.limit_in_bytes=2000"], &v2);
}

#[test]
fn impossible_memory_is_refused() {
    let below = "error: memory+swap limit 10 must not be below the memory limit 20";
    check(|r| (r.memory.limit, r.memory.swap) = (Some(20), Some(10)), &[below], &[below]);
    let negative = "error: memory limit -2: must be -1 or more";
    check(|r| r.memory.limit = Some(-2), &[negative], &[negative]);
    let alone = "error: a memory+swap limit needs a memory limit";
    check(|r| r.memory.swap = Some(10), &["memory.memsw.limit_in_bytes=10"], &[alone]);
    let swappy = "error: memory swappiness 101: must be 0 to 100";
    check(
        |r| r.memory.swappiness = Some(101),
        &[swappy],
        &["warning: swappiness is ignored: cgroup v2 has no such setting"],
    );
}

#[test]
fn a_limit_below_usage_is_refused_if_asked() {
    let used = Current { memory_usage: 1500, swap_usage: 700, ..Current::default() };
    let refused = "error: memory limit 1000 is below what is used now (1500 bytes)";
    check_now(|r| (r.memory.limit, r.memory.check_before_update) = (Some(1000), true), &used, &[refused], &[refused]);
    let swap = "error: memory limit 2000 is below what is used now (2200 bytes)";
    let ask = |r: &mut Resources| {
        (r.memory.limit, r.memory.swap, r.memory.check_before_update) = (Some(2000), Some(2000), true)
    };
    check_now(ask, &used, &[swap], &[swap]);
    check_now(|r| r.memory.limit = Some(1000), &used, &["memory.limit_in_bytes=1000"], &["memory.max=1000"]);
}

#[test]
fn what_only_v1_has_is_a_warning_on_v2_and_what_nobody_has_on_both() {
    check(
        |r| {
            r.memory.kernel = Some(5);
            r.memory.kernel_tcp = Some(6);
            r.memory.swappiness = Some(60);
            r.memory.disable_oom_killer = true;
        },
        &[
            "memory.kmem.tcp.limit_in_bytes=6",
            "memory.oom_control=1",
            "memory.swappiness=60",
            "warning: the kernel memory limit is ignored: the kernel has none any more",
        ],
        &[
            "warning: the kernel memory limit is ignored: the kernel has none any more",
            "warning: kernel TCP memory limit is ignored: cgroup v2 has no such setting",
            "warning: swappiness is ignored: cgroup v2 has no such setting",
            "warning: disabling the OOM killer is ignored: cgroup v2 has no such setting",
        ],
    );
    // -1 as Docker sends it through an unsigned field.
    check(|r| r.memory.swappiness = Some(u64::MAX), &[], &[]);
}

#[test]
fn processor_time() {
    check(
        |r| {
            r.cpu.shares = Some(1024);
            r.cpu.quota = Some(20_000);
            r.cpu.period = Some(50_000);
            r.cpu.burst = Some(10_000);
            r.cpu.idle = Some(0);
        },
        &[
            "cpu.idle=0",
            "cpu.shares=1024",
            "cpu.cfs_period_us=50000~",
            "cpu.cfs_burst_us=10000~",
            "cpu.cfs_quota_us=20000",
        ],
        &["cpu.idle=0", "cpu.weight=100", "cpu.max=20000 50000", "cpu.max.burst=10000"],
    );
    check(|r| r.cpu.quota = Some(-1), &["cpu.cfs_quota_us=-1"], &["cpu.max=max 100000"]);
    check(|r| r.cpu.period = Some(50_000), &["cpu.cfs_period_us=50000"], &["cpu.max=max 50000"]);
    let few = "error: cpu shares 1: must be 2 to 262144";
    check(|r| r.cpu.shares = Some(1), &[few], &[few]);
    check(
        |r| (r.cpu.realtime_period, r.cpu.realtime_runtime) = (Some(1_000_000), Some(950_000)),
        &["cpu.rt_period_us=1000000~", "cpu.rt_runtime_us=950000"],
        &["warning: realtime processor time is ignored: cgroup v2 has no such setting"],
    );
}

#[test]
fn processors_and_memory_nodes() {
    let both = ["cpuset.cpus=0-1,3", "cpuset.mems=0"];
    check(|r| (r.cpu.cpus, r.cpu.mems) = (Some("0-1,3".into()), Some("0".into())), &both, &both);
    let bad = "error: cpuset.cpus \"0;rm\": expected a list such as 0-3,7";
    check(|r| r.cpu.cpus = Some("0;rm".into()), &[bad], &[bad]);
}

#[test]
fn pids() {
    for (limit, value) in [(100, "pids.max=100"), (-1, "pids.max=max"), (-5, "pids.max=max"), (0, "pids.max=1")] {
        check(|r| r.pids = Some(limit), &[value], &[value]);
    }
}

#[test]
fn block_io() {
    let throttles = |r: &mut Resources| {
        r.block_io.read_bps = vec![ThrottleDevice { major: 8, minor: 0, rate: 100 }];
        r.block_io.write_bps = vec![ThrottleDevice { major: 8, minor: 0, rate: 0 }];
        r.block_io.read_iops = vec![ThrottleDevice { major: 8, minor: 0, rate: 3 }];
        r.block_io.write_iops = vec![ThrottleDevice { major: 8, minor: 16, rate: 4 }];
    };
    check(
        throttles,
        &[
            "blkio.throttle.read_bps_device=8:0 100",
            "blkio.throttle.write_bps_device=8:0 0",
            "blkio.throttle.read_iops_device=8:0 3",
            "blkio.throttle.write_iops_device=8:16 4",
        ],
        &["io.max=8:0 rbps=100", "io.max=8:0 wbps=max", "io.max=8:0 riops=3", "io.max=8:16 wiops=4"],
    );
    let weights = |r: &mut Resources| {
        r.block_io.weight = Some(500);
        r.block_io.weight_devices = vec![WeightDevice { major: 8, minor: 0, weight: Some(1000), leaf_weight: None }];
    };
    check(
        weights,
        &["blkio.bfq.weight=500", "blkio.bfq.weight_device=8:0 1000"],
        &["io.weight=4950", "io.weight=8:0 10000"],
    );
    let bfq = Current { bfq: true, ..Current::default() };
    check_now(
        weights,
        &bfq,
        &["blkio.bfq.weight=500", "blkio.bfq.weight_device=8:0 1000"],
        &["io.bfq.weight=500", "io.bfq.weight=8:0 1000"],
    );
    let cfq = Current { cfq: true, ..Current::default() };
    check_now(
        weights,
        &cfq,
        &["blkio.weight=500", "blkio.weight_device=8:0 1000"],
        &["io.weight=4950", "io.weight=8:0 10000"],
    );
    let bad = "error: block I/O weight 5: must be 10 to 1000";
    check(|r| r.block_io.weight = Some(5), &[bad], &[bad]);
    let leaf = "warning: the block I/O leaf weight is ignored: the kernel has no CFQ scheduler";
    check(|r| r.block_io.leaf_weight = Some(300), &[leaf], &[leaf]);
}

#[test]
fn huge_pages_rdma_and_network() {
    let pages = |r: &mut Resources| r.hugepages = vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }];
    check(pages, &["hugetlb.2MB.limit_in_bytes=4194304"], &["hugetlb.2MB.max=4194304"]);
    let reserved = Current { hugetlb_reserved: true, ..Current::default() };
    check_now(
        pages,
        &reserved,
        &["hugetlb.2MB.limit_in_bytes=4194304", "hugetlb.2MB.rsvd.limit_in_bytes=4194304?"],
        &["hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304?"],
    );
    let escape = "error: huge page size \"../x\": expected one such as 2MB";
    check(|r| r.hugepages = vec![HugepageLimit { page_size: "../x".into(), limit: 1 }], &[escape], &[escape]);
    let rdma = ["rdma.max=mlx5_1 hca_handle=2 hca_object=3"];
    check(|r| r.rdma = vec![Rdma { device: "mlx5_1".into(), handles: Some(2), objects: Some(3) }], &rdma, &rdma);
    check(
        |r| {
            r.network.class_id = Some(0x10_0001);
            r.network.priorities = vec![InterfacePriority { interface: "eth0".into(), priority: 5 }];
        },
        &["net_cls.classid=1048577", "net_prio.ifpriomap=eth0 5"],
        &["error: the network class id exists only on cgroup v1"],
    );
}

#[test]
fn devices_are_a_list_on_v1_and_a_program_on_v2() {
    let rules: Vec<DeviceRule> = ["deny a *:* rwm", "allow c 1:3 rw"].map(rule).to_vec();
    check(|r| r.devices = Some(rules.clone()), &["devices.deny=a", "devices.allow=c 1:3 rw"], &["program of 2 rules"]);
    check(|r| r.devices = Some(vec![]), &["devices.deny=a"], &["program of 0 rules"]);
}

#[test]
fn the_unified_map_is_v2_alone_and_reaches_only_resources() {
    let map = |entries: &[(&str, &str)]| {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let on_v1 = "error: the unified map (\"memory.high\") needs cgroup v2";
    check(|r| r.unified = map(&[("memory.high", "5")]), &[on_v1], &["memory.high=5"]);
    let lines = map(&[("io.max", "8:0 rbps=1\n8:16 rbps=2\n")]);
    assert_eq!(
        shown(&v2(), everything(), &Resources { unified: lines, ..Resources::default() }, &Current::default()),
        ["io.max=8:0 rbps=1", "io.max=8:16 rbps=2"]
    );
    for bad in ["cgroup.procs", "../x", "a/b.c", "memory", "", "memory..high"] {
        let resources = Resources { unified: map(&[(bad, "1")]), ..Resources::default() };
        let got = shown(&v2(), everything(), &resources, &Current::default());
        assert_eq!(got, [format!("error: unified: {bad:?} is not a controller's file")]);
    }
}

#[test]
fn a_limit_without_its_controller_is_refused() {
    let none = ControllerSet::EMPTY;
    let mut resources = Resources { pids: Some(5), ..Resources::default() };
    let refused = "error: processes cannot be limited: the pids controller is not available in this group";
    assert_eq!(shown(&v2(), none, &resources, &Current::default()), [refused]);
    resources.pids = Some(-1);
    assert_eq!(shown(&v2(), none, &resources, &Current::default()), Vec::<String>::new(), "unlimited is what it is");
    resources.devices = Some(vec![]);
    let devices = "error: device access cannot be limited: the devices controller is not available in this group";
    assert_eq!(shown(&v2(), none, &resources, &Current::default()), [devices]);
}
