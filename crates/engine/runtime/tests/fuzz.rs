//! Broken specs: planning refuses them or makes a plan that keeps its promises.

use oci_spec::runtime::{LinuxResources, Process, Spec};
use runtime::plan::{ExecTarget, MountSource, Step, resources_of};
use runtime::{HostFacts, Options, Plan, PlanError, RootfsSource, plan, plan_exec};

/// How it went: which fields were refused (without their numbers), or which steps there are.
fn way(outcome: &Result<Plan, PlanError>) -> Vec<String> {
    let shape = |text: &str| text.chars().filter(|c| c.is_ascii_alphabetic() || *c == '.').take(40).collect::<String>();
    let mut way: Vec<String> = match outcome {
        Ok(plan) => plan.steps.iter().map(|step| shape(step.name().split(' ').next().unwrap_or(""))).collect(),
        Err(error) => error.faults.iter().map(|fault| shape(&fault.field)).collect(),
    };
    way.sort_unstable();
    way.dedup();
    way
}

fn check(plan: &Plan) {
    for step in &plan.steps {
        match step {
            Step::Mount(mount) => {
                let destination = &mount.destination;
                let plain = destination.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
                assert!(destination.starts_with('/') && destination.len() > 1 && plain, "{destination:?}");
                if let MountSource::Early { index } = &mount.source {
                    assert!(*index < plan.early.len());
                }
            }
            Step::Sysctl { path, value } => {
                assert!(!path.split('/').any(|part| matches!(part, "" | "." | "..")), "{path:?}");
                let host = ["kernel/core_pattern", "vm/", "fs/binfmt_misc", "kernel/hostname", "dev/", "debug/"];
                assert!(!host.iter().any(|prefix| path.starts_with(prefix)), "{path:?}");
                assert!(!value.contains('\n'));
            }
            _ => {}
        }
    }
    let cgroup = &plan.cgroup.path;
    assert!(cgroup.is_empty() || (cgroup.len() > 1 && !cgroup.split('/').any(|part| part == "..")), "{cgroup:?}");
    assert!(plan.process.uid < 1 << 31 && plan.process.gid < 1 << 31);
    assert!(plan.process.groups.iter().all(|gid| *gid < 1 << 31));
}

const WORDS: [&str; 40] = [
    "\"type\":\"user\"",
    "\"type\":\"time\"",
    "\"type\":\"cgroup\"",
    "\"path\":\"/proc/1/ns/net\"",
    "\"path\":\"relative\"",
    "\"../..\"",
    "\"/\"",
    "\"/proc/self\"",
    "\"/dev/null\"",
    "\"kernel.core_pattern\":\"x\"",
    "\"net/../kernel/core_pattern\":\"x\"",
    "\"net.ipv4.conf.eth0/1.forwarding\":\"1\"",
    "\"hostID\":4294967295",
    "\"size\":0",
    "\"uid\":2147483648",
    "\"uid\":4294967295",
    "\"CAP_NOPE\"",
    "\"CAP_SYS_ADMIN\"",
    "\"RLIMIT_NOFILE\"",
    "\"rshared\"",
    "\"ridmap\"",
    "\"remount\"",
    "\"tmpcopyup\"",
    "\"upperdir=/\"",
    "\"cgroup\"",
    "\"overlay\"",
    "\"bind\"",
    "\"hooks\":{\"poststop\":[{\"path\":\"/x\"}]},",
    "\"linux\":{},",
    "\"process\":null,",
    "\"root\":{\"path\":\"/\"},",
    "\"timeout\":-1",
    "\"major\":-2",
    "\"access\":\"rwx\"",
    "\"cpus\":\"0-99999999999\"",
    "\"cpus\":\"1-18446744073709551615\"",
    "\"mode\":\"MPOL_LOCAL\"",
    "\"SCMP_ACT_NOTIFY\"",
    "\\u0000",
    "null",
];

#[test]
fn a_spec_is_planned_or_refused() {
    let hosts = [HostFacts::typical(), HostFacts { privileged: false, euid: 1000, egid: 1000, ..HostFacts::typical() }];
    fuzz::Target::new("plan", env!("CARGO_MANIFEST_DIR")).words(WORDS).run(|bytes| {
        let Ok(spec) = serde_json::from_slice::<Spec>(bytes) else { return Vec::new() };
        let rootfs = RootfsSource::Directory("/b/rootfs".into());
        let systemd = bytes.len() % 2 == 0;
        let options = Options { systemd_cgroup: systemd, ..Options::new("box", "/b") };
        let made = hosts.each_ref().map(|facts| plan(&spec, &rootfs, facts, &options));
        for plan in made.iter().flatten() {
            check(plan);
            // What the engine ships to the keeper arrives as it was.
            let bytes = postcard::to_allocvec(plan).unwrap();
            assert_eq!(&postcard::from_bytes::<Plan>(&bytes).unwrap(), plan);
        }
        for error in made.iter().filter_map(|made| made.as_ref().err()) {
            assert!(!error.faults.is_empty());
        }
        made.iter().flat_map(way).collect()
    });
}

#[test]
fn a_process_is_planned_or_refused() {
    let target = ExecTarget {
        id: "box".into(),
        namespaces: Vec::new(),
        cgroup: "/c".into(),
        cgroup_optional: false,
        setgroups: true,
        seccomp: None,
        capabilities: None,
        state: "{}".into(),
        personality: None,
    };
    fuzz::Target::new("process", env!("CARGO_MANIFEST_DIR"))
        .seed(r#"{"terminal":true,"consoleSize":{"height":24,"width":80},"user":{"uid":1,"gid":1,"umask":18,"additionalGids":[5]},"args":["sh"],"env":["A=b"],"cwd":"/w","capabilities":{"bounding":["CAP_CHOWN"],"ambient":["CAP_CHOWN"]},"rlimits":[{"type":"RLIMIT_NOFILE","soft":8,"hard":9}],"scheduler":{"policy":"SCHED_FIFO","priority":5},"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":4},"execCPUAffinity":{"initial":"0-1"}}"#)
        .words(WORDS)
        .run(|bytes| {
            let Ok(process) = serde_json::from_slice::<Process>(bytes) else { return Vec::new() };
            match plan_exec(&process, &target, &HostFacts::typical(), 0) {
                Ok(plan) => vec![format!("{}", plan.warnings.len())],
                Err(error) => error.faults.iter().map(|fault| fault.field.split('[').next().unwrap_or("").to_owned()).collect(),
            }
        });
}

#[test]
fn resources_are_read_or_refused() {
    fuzz::Target::new("resources", env!("CARGO_MANIFEST_DIR"))
        .seed(r#"{"unified":{"memory.high":"1"},"devices":[{"allow":true,"type":"c","major":10,"minor":-1,"access":"rwm"}],"memory":{"limit":1048576,"swap":-1},"cpu":{"shares":1024,"cpus":"0-1,5","mems":"0"},"pids":{"limit":100},"blockIO":{"weight":100,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}]},"hugepageLimits":[{"pageSize":"2MB","limit":0}],"rdma":{"mlx":{"hcaHandles":1}}}"#)
        .words(WORDS)
        .run(|bytes| {
            let Ok(given) = serde_json::from_slice::<LinuxResources>(bytes) else { return Vec::new() };
            match resources_of(&given) {
                Ok(_) => vec!["fine".to_owned()],
                Err(error) => error.faults.iter().map(|fault| fault.field.split('[').next().unwrap_or("").to_owned()).collect(),
            }
        });
}
