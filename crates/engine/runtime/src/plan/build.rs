//! A spec becomes a plan. Pure: same arguments, same plan; every fault of the spec is collected.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use linux::idmap::IdSpan;
use oci_spec::runtime::{
    LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType, LinuxPersonalityDomain, MemoryPolicyFlagType,
    MemoryPolicyModeType, Spec,
};

use super::cgroup::cgroup_plan;
use super::error::{Faults, PlanError};
use super::facts::HostFacts;
use super::mounts::mount_steps;
use super::options::{Propagation, PropagationKind};
use super::process::{NO_SELINUX, number_list, process_plan};
use super::seccomp::seccomp_plan;
use super::types::{
    ConsoleSize, DeviceNode, EarlyIdmap, Hook, Hooks, IdMaps, Join, MapWriter, MemoryPolicyPlan, Namespace, NodeKind,
    Plan, RootfsSource, Step,
};

/// What the caller decides beside the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Names the container in its cgroup, keyring and state.
    pub id: String,
    /// Relative bind sources start here; hooks are told of it.
    pub bundle: PathBuf,
    /// chroot instead of pivot_root (an initramfs cannot be pivoted).
    pub no_pivot: bool,
    pub new_keyring: bool,
    /// Descriptors 3..3+n stay open for the program.
    pub preserve_fds: u32,
    /// Read `cgroupsPath` as systemd's `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// A limit that cannot be set is a warning (rootless).
    pub cgroup_optional: bool,
    /// By destination: what to bind of a bind's source, found beneath it at the last moment, so that no link in it leads out.
    pub subpaths: std::collections::BTreeMap<String, PathBuf>,
}

impl Options {
    pub fn new(id: impl Into<String>, bundle: impl Into<PathBuf>) -> Self {
        Self {
            id: id.into(),
            bundle: bundle.into(),
            no_pivot: false,
            new_keyring: true,
            preserve_fds: 0,
            systemd_cgroup: false,
            cgroup_optional: false,
            subpaths: Default::default(),
        }
    }
}

/// Container ids are file names: letters, digits and `_+-.`, never `.` or `..`, at most 1,024 bytes (runc's rule).
pub fn valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 1024
        && id != "."
        && id != ".."
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b))
}

/// Decides everything about one container.
///
/// # Errors
/// Every fault of the spec, each with its field path; nothing has been touched.
pub fn plan(spec: &Spec, rootfs: &RootfsSource, facts: &HostFacts, options: &Options) -> Result<Plan, PlanError> {
    let mut faults = Faults::default();
    let mut warnings = Vec::new();
    check_version(spec.version(), &mut faults);
    if !valid_id(&options.id) {
        faults.invalid("id", format!("{:?}: letters, digits and _+-. only, and not . or ..", options.id));
    }
    let Some(linux) = spec.linux() else {
        faults.invalid("linux", "is missing: this is a Linux runtime");
        return Err(PlanError { faults: faults.0 });
    };
    check_rootfs(rootfs, &mut faults);

    let spaces = namespaces(spec, facts, &mut faults);
    let id_maps = id_maps(spec, facts, &spaces, &mut faults);
    let rootfs_maps = rootfs_maps(linux, facts, &spaces);

    let mut process = match spec.process() {
        Some(process) => process_plan(process, "process", facts, &mut warnings, &mut faults),
        None => {
            faults.invalid("process", "is missing");
            return Err(PlanError { faults: faults.0 });
        }
    };
    process.preserve_fds = options.preserve_fds;
    process.affinity_initial = None;
    process.affinity_final = None;
    process.seccomp = seccomp_plan(spec, &mut faults);
    process.personality = linux.personality().as_ref().map(|personality| {
        if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
            faults.unsupported("linux.personality.flags", "no flag is defined");
        }
        match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        }
    });
    process.memory_policy = memory_policy(spec, &mut faults);
    if id_maps.as_ref().is_some_and(|maps| maps.deny_setgroups) && !process.groups.is_empty() {
        faults.invalid(
            "process.user.additionalGids",
            "cannot be set in a user namespace with a single group mapped by an unprivileged user",
        );
    }

    if linux.intel_rdt().is_some() {
        faults.unsupported(
            "linux.intelRdt",
            if facts.resctrl { "resctrl groups are not supported" } else { "this host has no resctrl file system" },
        );
    }
    if linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()) {
        let why = if facts.selinux { "labels of mounts are not supported" } else { NO_SELINUX };
        faults.unsupported("linux.mountLabel", why);
    }
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        faults.unsupported("linux.netDevices", "moving network interfaces into the container is not supported");
    }
    let cgroup = cgroup_plan(spec, facts, options, &mut warnings, &mut faults);
    let hooks = hooks(spec, &mut faults);
    let terminal = spec.process().as_ref().and_then(|p| p.terminal()).unwrap_or(false);
    let console_size = spec.process().as_ref().and_then(|p| p.console_size()).map(|size| ConsoleSize {
        rows: size.height().min(u64::from(u16::MAX)) as u16,
        cols: size.width().min(u64::from(u16::MAX)) as u16,
    });

    let any_user_namespace = spaces.has(Namespace::User);
    let by_launcher = any_user_namespace && facts.privileged;
    let context = Context { spec, facts, options, spaces: &spaces, by_launcher };
    let mut early = Vec::new();
    let steps =
        steps(&context, id_maps.as_ref(), &hooks, terminal, console_size, &cgroup.path, &mut early, &mut faults);
    if !faults.0.is_empty() {
        return Err(PlanError { faults: faults.0 });
    }
    let mut annotations: Vec<_> =
        spec.annotations().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    annotations.sort_unstable();
    Ok(Plan {
        id: options.id.clone(),
        oci_version: spec.version().clone(),
        bundle: options.bundle.clone(),
        annotations,
        clone_flags: spaces.clone_flags(),
        namespaces: Namespace::ALL.into_iter().filter(|n| spaces.has(*n)).collect(),
        two_stages: spaces.two_stages(),
        cgroup_namespace: spaces.has(Namespace::Cgroup),
        join: spaces.join,
        id_maps,
        rootfs_maps,
        cgroup,
        rootfs: rootfs.clone(),
        rootfs_by_launcher: by_launcher,
        early,
        steps,
        process,
        hooks,
        terminal,
        console_size,
        warnings,
    })
}

/// What the parts of planning share.
pub(super) struct Context<'a> {
    pub(super) spec: &'a Spec,
    pub(super) facts: &'a HostFacts,
    pub(super) options: &'a Options,
    pub(super) spaces: &'a Spaces,
    /// The child is root of a user namespace only, the launcher is root of the host: it opens host paths for the child.
    pub(super) by_launcher: bool,
}

/// The namespaces of a spec, apart by how they come about.
#[derive(Debug, Default)]
pub(super) struct Spaces {
    new: Vec<Namespace>,
    join: Vec<Join>,
}

impl Spaces {
    pub(super) fn is_new(&self, namespace: Namespace) -> bool {
        self.new.contains(&namespace)
    }

    pub(super) fn joins(&self, namespace: Namespace) -> bool {
        self.join.iter().any(|join| join.namespace == namespace)
    }

    pub(super) fn has(&self, namespace: Namespace) -> bool {
        self.is_new(namespace) || self.joins(namespace)
    }

    /// The cgroup namespace has to wait until the child is in its group, the time namespace until its offsets are set.
    fn clone_flags(&self) -> u64 {
        self.new
            .iter()
            .filter(|n| !matches!(n, Namespace::Cgroup | Namespace::Time))
            .fold(0, |flags, n| flags | n.flag())
    }

    fn two_stages(&self) -> bool {
        self.joins(Namespace::User)
            || self.joins(Namespace::Pid)
            || (self.is_new(Namespace::User) && !self.join.is_empty())
    }
}

fn check_version(version: &str, faults: &mut Faults) {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = core.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(1)), Some(Ok(_)), Some(Ok(_)), None) => {}
        (Some(Ok(_)), Some(Ok(_)), Some(Ok(_)), None) => {
            faults.unsupported("ociVersion", format!("{version:?}: versions 1.x are understood"));
        }
        _ => faults.invalid("ociVersion", format!("{version:?} is not a version MAJOR.MINOR.PATCH")),
    }
}

fn check_rootfs(rootfs: &RootfsSource, faults: &mut Faults) {
    let absolute = |path: &Path, field: &str, faults: &mut Faults| {
        if !path.is_absolute() {
            faults.invalid(field, format!("{} is not an absolute path", path.display()));
        }
    };
    match rootfs {
        RootfsSource::Directory(path) => {
            absolute(path, "root.path", faults);
            if path == Path::new("/") {
                faults.invalid("root.path", "must not be the host's /");
            }
        }
        RootfsSource::Overlay { lowers, upper, work } => {
            if lowers.is_empty() {
                faults.invalid("rootfs.lowers", "an overlay needs at least one layer");
            }
            for (n, lower) in lowers.iter().enumerate() {
                absolute(lower, &format!("rootfs.lowers[{n}]"), faults);
            }
            absolute(upper, "rootfs.upper", faults);
            absolute(work, "rootfs.work", faults);
        }
    }
}

fn namespaces(spec: &Spec, facts: &HostFacts, faults: &mut Faults) -> Spaces {
    let mut spaces = Spaces::default();
    let mut seen = HashSet::new();
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    for (n, entry) in listed.into_iter().flatten().enumerate() {
        let namespace = match entry.typ() {
            LinuxNamespaceType::Mount => Namespace::Mount,
            LinuxNamespaceType::Cgroup => Namespace::Cgroup,
            LinuxNamespaceType::Uts => Namespace::Uts,
            LinuxNamespaceType::Ipc => Namespace::Ipc,
            LinuxNamespaceType::User => Namespace::User,
            LinuxNamespaceType::Pid => Namespace::Pid,
            LinuxNamespaceType::Network => Namespace::Network,
            LinuxNamespaceType::Time => Namespace::Time,
        };
        if !seen.insert(namespace) {
            faults
                .invalid(format!("linux.namespaces[{n}].type"), format!("{:?} is listed twice", namespace.proc_name()));
            continue;
        }
        match entry.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            None => spaces.new.push(namespace),
            Some(path) => {
                if !path.is_absolute() {
                    faults.invalid(
                        format!("linux.namespaces[{n}].path"),
                        format!("{} is not an absolute path", path.display()),
                    );
                }
                spaces.join.push(Join { namespace, path: path.clone() });
            }
        }
    }
    spaces.join.sort_by_key(|join| Namespace::ALL.iter().position(|n| *n == join.namespace));
    if !spaces.has(Namespace::Mount) {
        faults.unsupported("linux.namespaces", "a container without a mount namespace is not supported");
    }
    if !facts.privileged && !spaces.has(Namespace::User) {
        faults.invalid("linux.namespaces", "an unprivileged user needs a user namespace (rootless)");
    }
    spaces
}

pub(super) fn maps(list: Option<&Vec<LinuxIdMapping>>) -> Vec<IdSpan> {
    list.into_iter()
        .flatten()
        .map(|map| IdSpan { inside: map.container_id(), outside: map.host_id(), count: map.size() })
        .collect()
}

/// Checks what the kernel would refuse with a bare EINVAL.
pub(super) fn check_maps(maps: &[IdSpan], field: &str, faults: &mut Faults) {
    for (n, map) in maps.iter().enumerate() {
        let here = format!("{field}[{n}]");
        if map.count == 0 {
            faults.invalid(here, "size is 0");
            continue;
        }
        if map.inside.checked_add(map.count - 1).is_none_or(|last| last == u32::MAX)
            || map.outside.checked_add(map.count - 1).is_none_or(|last| last == u32::MAX)
        {
            faults.invalid(here, "reaches beyond the largest id");
            continue;
        }
        let overlap = |a: u32, b: u32, other: &IdSpan| {
            u64::from(a) < u64::from(b) + u64::from(other.count) && u64::from(b) < u64::from(a) + u64::from(map.count)
        };
        if maps[..n].iter().any(|m| overlap(map.inside, m.inside, m) || overlap(map.outside, m.outside, m)) {
            faults.invalid(here, "overlaps an earlier entry");
        }
    }
    if maps.len() > 340 && !vocab::weak::without("maps") {
        faults.invalid(field, format!("{} entries: the kernel takes 340", maps.len()));
    }
}

fn id_maps(spec: &Spec, facts: &HostFacts, spaces: &Spaces, faults: &mut Faults) -> Option<IdMaps> {
    let linux = spec.linux().as_ref()?;
    let (uid, gid) = (maps(linux.uid_mappings().as_ref()), maps(linux.gid_mappings().as_ref()));
    check_maps(&uid, "linux.uidMappings", faults);
    check_maps(&gid, "linux.gidMappings", faults);
    if !spaces.is_new(Namespace::User) {
        // With a joined namespace the maps only describe it.
        if !spaces.joins(Namespace::User) {
            for (list, field) in [(&uid, "linux.uidMappings"), (&gid, "linux.gidMappings")] {
                if !list.is_empty() {
                    faults.invalid(field, "needs a user namespace");
                }
            }
        }
        return None;
    }
    for (list, field) in [(&uid, "linux.uidMappings"), (&gid, "linux.gidMappings")] {
        if list.is_empty() {
            faults.invalid(field, "a new user namespace needs mappings");
        } else if !list.iter().any(|map| map.inside == 0) {
            faults.invalid(field, "id 0 of the container is not mapped");
        }
    }
    if facts.privileged {
        return Some(IdMaps { uid, gid, writer: MapWriter::Direct, deny_setgroups: false });
    }
    let own = |list: &[IdSpan], id: u32| matches!(list, [IdSpan { outside, count: 1, .. }] if *outside == id);
    let single = own(&uid, facts.euid) && own(&gid, facts.egid);
    Some(IdMaps {
        uid,
        gid,
        writer: if single { MapWriter::Direct } else { MapWriter::Helpers },
        deny_setgroups: single,
    })
}

/// A joined namespace that is not described shows the layers as the host's.
fn rootfs_maps(linux: &oci_spec::runtime::Linux, facts: &HostFacts, spaces: &Spaces) -> Option<EarlyIdmap> {
    let (uid, gid) = (maps(linux.uid_mappings().as_ref()), maps(linux.gid_mappings().as_ref()));
    let mapped = facts.privileged && spaces.has(Namespace::User) && !uid.is_empty() && !gid.is_empty();
    mapped.then_some(EarlyIdmap { uid, gid, recursive: false })
}

#[allow(clippy::too_many_arguments, reason = "one list is built from every part of the spec, once")]
fn steps(
    context: &Context<'_>,
    id_maps: Option<&IdMaps>,
    hooks: &Hooks,
    terminal: bool,
    console_size: Option<ConsoleSize>,
    cgroup_path: &str,
    early: &mut Vec<super::types::EarlyMount>,
    faults: &mut Faults,
) -> Vec<Step> {
    let Context { spec, options, spaces, .. } = *context;
    let Some(linux) = spec.linux() else { return Vec::new() };
    let mut steps = Vec::with_capacity(64);

    if !cgroup_path.is_empty() {
        steps.push(Step::JoinCgroups);
    }
    if spaces.has(Namespace::User) {
        steps.push(Step::BecomeRoot { setgroups: id_maps.is_none_or(|maps| !maps.deny_setgroups) });
    }
    if !spaces.join.is_empty() && !spaces.two_stages() {
        steps.push(Step::JoinNamespaces);
    }
    if spaces.is_new(Namespace::Cgroup) {
        steps.push(Step::UnshareCgroup);
    }
    match (spaces.is_new(Namespace::Time), time_offsets(spec, faults)) {
        (true, lines) => steps.push(Step::TimeOffsets(lines)),
        (false, lines) if !lines.is_empty() => {
            faults.invalid("linux.timeOffsets", "needs a new time namespace");
        }
        _ => {}
    }
    steps.push(Step::NewSession);
    if options.new_keyring {
        steps.push(Step::SessionKeyring { name: format!("_ses.{}", options.id) });
    }
    if spaces.is_new(Namespace::Network) {
        steps.push(Step::LoopbackUp);
    }
    if let Some(score) = spec.process().as_ref().and_then(|p| p.oom_score_adj()) {
        steps.push(Step::OomScoreAdj(score));
    }

    let propagation = match linux.rootfs_propagation().as_deref().filter(|word| !word.is_empty()) {
        None => Propagation { kind: PropagationKind::Slave, recursive: true },
        Some(word) => Propagation::parse(word).map(|p| Propagation { recursive: true, ..p }).unwrap_or_else(|| {
            faults.invalid("linux.rootfsPropagation", format!("{word:?} is not shared, slave, private or unbindable"));
            Propagation { kind: PropagationKind::Slave, recursive: true }
        }),
    };
    steps.push(Step::RootPropagation(propagation));
    steps.push(Step::AttachRootfs);
    let (mounts, seals, dev_is_bind) = mount_steps(context, early, faults);
    steps.extend(mounts.into_iter().map(|mount| Step::Mount(Box::new(mount))));
    if !dev_is_bind {
        steps.extend(devices(spec, faults).into_iter().map(Step::DeviceNode));
        steps.push(Step::Ptmx);
        for (path, target) in [
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "/proc/self/fd/0"),
            ("/dev/stdout", "/proc/self/fd/1"),
            ("/dev/stderr", "/proc/self/fd/2"),
            ("/dev/core", "/proc/kcore"),
        ] {
            steps.push(Step::Symlink { path: path.into(), target: target.into() });
        }
    }
    if hooks.before_pivot_outside() {
        steps.push(Step::RuntimeHooks);
    }
    if !hooks.create_container.is_empty() {
        steps.push(Step::CreateContainerHooks);
    }
    if terminal {
        steps.push(Step::Console { size: console_size, mount: true });
    }
    steps.extend(seals.into_iter().map(|destination| Step::SealMount { destination }));
    for (field, list, read_only) in
        [("linux.readonlyPaths", linux.readonly_paths(), true), ("linux.maskedPaths", linux.masked_paths(), false)]
    {
        for (n, path) in list.iter().flatten().enumerate() {
            if !path.starts_with('/') || path.contains('\0') {
                faults.invalid(format!("{field}[{n}]"), format!("{path:?} is not an absolute path"));
            }
            steps.push(if read_only { Step::ReadonlyPath(path.clone()) } else { Step::MaskPath(path.clone()) });
        }
    }
    if let Some(cwd) = spec.process().as_ref().map(|p| p.cwd().to_string_lossy().into_owned()).filter(|cwd| cwd != "/")
    {
        steps.push(Step::WorkingDirectory(cwd));
    }
    if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        steps.push(Step::SealRoot);
    }
    // The whole tree was made private above; only an explicit wish changes the container's own view.
    steps.push(if options.no_pivot { Step::MoveRoot } else { Step::PivotRoot });
    if linux.rootfs_propagation().as_deref().is_some_and(|word| !word.is_empty()) {
        steps.push(Step::RootPropagation(Propagation { recursive: false, ..propagation }));
    }
    steps.extend(sysctls(spec, spaces, faults));
    if let Some(name) = spec.hostname().as_ref().filter(|name| !name.is_empty()) {
        name_step(name, "hostname", spaces, faults);
        steps.push(Step::Hostname(name.clone()));
    }
    if let Some(name) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        name_step(name, "domainname", spaces, faults);
        steps.push(Step::Domainname(name.clone()));
    }
    let umask = spec.process().as_ref().and_then(|p| p.user().umask()).unwrap_or(0o022);
    steps.push(Step::Umask(umask));
    steps
}

fn name_step(name: &str, field: &str, spaces: &Spaces, faults: &mut Faults) {
    if !spaces.has(Namespace::Uts) {
        faults.invalid(field, "needs a uts namespace of its own");
    }
    if name.len() > 64 || name.contains('\0') {
        faults.invalid(field, "is longer than 64 bytes or contains a NUL byte");
    }
}

fn time_offsets(spec: &Spec, faults: &mut Faults) -> String {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let mut lines: Vec<String> = Vec::new();
    for (clock, offset) in offsets.into_iter().flatten() {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            faults.invalid("linux.timeOffsets", format!("{clock:?} is neither monotonic nor boottime"));
        }
        let nanos = offset.nanosecs().unwrap_or(0);
        if nanos > 999_999_999 {
            faults.invalid(format!("linux.timeOffsets.{clock}.nanosecs"), format!("{nanos} is a second or more"));
        }
        lines.push(format!("{clock} {} {nanos}\n", offset.secs().unwrap_or(0)));
    }
    lines.sort_unstable();
    lines.concat()
}

/// The devices every container has (runtime-spec, "Default Devices"), then the spec's own, which may replace them.
fn devices(spec: &Spec, faults: &mut Faults) -> Vec<DeviceNode> {
    let mut nodes: Vec<DeviceNode> = Vec::new();
    let listed = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    for (n, device) in listed.into_iter().flatten().enumerate() {
        let field = format!("linux.devices[{n}]");
        let path = device.path().to_string_lossy().into_owned();
        if !path.starts_with('/') || path.contains('\0') {
            faults.invalid(format!("{field}.path"), format!("{path:?} is not an absolute path"));
        }
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => NodeKind::Char,
            LinuxDeviceType::B => NodeKind::Block,
            LinuxDeviceType::P => NodeKind::Fifo,
            LinuxDeviceType::A => {
                faults.invalid(format!("{field}.type"), "a device node is c, b, u or p");
                NodeKind::Char
            }
        };
        let number = |value: i64, name: &str, faults: &mut Faults| {
            u32::try_from(value).unwrap_or_else(|_| {
                if kind != NodeKind::Fifo {
                    faults.invalid(format!("{field}.{name}"), format!("{value} is not a device number"));
                }
                0
            })
        };
        nodes.push(DeviceNode {
            kind,
            major: number(device.major(), "major", faults),
            minor: number(device.minor(), "minor", faults),
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
            path,
        });
    }
    let defaults = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let mut all: Vec<DeviceNode> = defaults
        .into_iter()
        .map(|(name, major, minor)| DeviceNode {
            path: format!("/dev/{name}"),
            kind: NodeKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .filter(|default| !nodes.iter().any(|node| node.path == default.path))
        .collect();
    all.append(&mut nodes);
    all
}

/// Only what belongs to a namespace that the container has of its own: anything else would change the host.
fn sysctls(spec: &Spec, spaces: &Spaces, faults: &mut Faults) -> Vec<Step> {
    let mut list: Vec<(&String, &String)> =
        spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten().collect();
    list.sort_unstable();
    let mut steps = Vec::new();
    for (key, value) in list {
        let field = format!("linux.sysctl[{key:?}]");
        let path = sysctl_path(key);
        let plain = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        };
        if !path.split('/').all(plain) {
            faults.invalid(field, "is not the name of a sysctl");
            continue;
        }
        if value.bytes().any(|b| b == 0 || b == b'\n') {
            faults.invalid(field, "its value holds a newline or NUL byte");
            continue;
        }
        let owner = sysctl_owner(&path);
        match owner {
            _ if vocab::weak::without("sysctl") => steps.push(Step::Sysctl { path, value: value.clone() }),
            SysctlOwner::Namespace(namespace) if spaces.has(namespace) => {
                steps.push(Step::Sysctl { path, value: value.clone() });
            }
            SysctlOwner::Namespace(namespace) => {
                faults.invalid(
                    field,
                    format!(
                        "belongs to the {} namespace, which this container shares with the host",
                        namespace.proc_name()
                    ),
                );
            }
            SysctlOwner::Hostname => faults.invalid(field, "is set by the spec's hostname field"),
            SysctlOwner::Host => faults.invalid(field, "is not in a separate kernel namespace"),
        }
    }
    steps
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SysctlOwner {
    Namespace(Namespace),
    Hostname,
    Host,
}

/// `net.ipv4.conf.eth0/1.x` and `net/ipv4/conf/eth0.1/x` name the same file: the first separator says which one parts.
fn sysctl_path(key: &str) -> String {
    match key.find(['.', '/']).map(|at| key.as_bytes()[at]) {
        Some(b'.') => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

pub(crate) fn sysctl_owner(path: &str) -> SysctlOwner {
    const IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    match path {
        "kernel/domainname" => SysctlOwner::Namespace(Namespace::Uts),
        "kernel/hostname" => SysctlOwner::Hostname,
        _ if IPC.contains(&path) || path.starts_with("fs/mqueue/") => SysctlOwner::Namespace(Namespace::Ipc),
        _ if path.starts_with("net/") => SysctlOwner::Namespace(Namespace::Network),
        _ if path.starts_with("user/") => SysctlOwner::Namespace(Namespace::User),
        _ => SysctlOwner::Host,
    }
}

fn hooks(spec: &Spec, faults: &mut Faults) -> Hooks {
    let Some(hooks) = spec.hooks() else { return Hooks::default() };
    let mut list = |name: &str, hooks: &Option<Vec<oci_spec::runtime::Hook>>| -> Vec<Hook> {
        let mut out = Vec::new();
        for (n, hook) in hooks.iter().flatten().enumerate() {
            let field = format!("hooks.{name}[{n}]");
            if !hook.path().is_absolute() {
                faults.invalid(format!("{field}.path"), format!("{} is not an absolute path", hook.path().display()));
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                faults.invalid(format!("{field}.timeout"), "must be greater than zero");
            }
            let args = hook.args().clone().filter(|args| !args.is_empty());
            out.push(Hook {
                args: args.unwrap_or_else(|| vec![hook.path().to_string_lossy().into_owned()]),
                path: hook.path().clone(),
                env: hook.env().clone().unwrap_or_default(),
                timeout_secs: hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()),
            });
        }
        out
    };
    #[allow(deprecated, reason = "prestart hooks are deprecated in the spec and still what tools use")]
    Hooks {
        prestart: list("prestart", hooks.prestart()),
        create_runtime: list("createRuntime", hooks.create_runtime()),
        create_container: list("createContainer", hooks.create_container()),
        start_container: list("startContainer", hooks.start_container()),
        poststart: list("poststart", hooks.poststart()),
        poststop: list("poststop", hooks.poststop()),
    }
}

fn memory_policy(spec: &Spec, faults: &mut Faults) -> Option<MemoryPolicyPlan> {
    let policy = spec.linux().as_ref().and_then(|linux| linux.memory_policy().as_ref())?;
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0u32, |bits, flag| {
        bits | match flag {
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        }
    });
    let nodes = match policy.nodes().as_deref().filter(|nodes| !nodes.is_empty()).map(number_list) {
        None => Vec::new(),
        Some(Ok(nodes)) => nodes,
        Some(Err(message)) => {
            faults.invalid("linux.memoryPolicy.nodes", message);
            Vec::new()
        }
    };
    if matches!(mode, 0 | 4) && !nodes.is_empty() {
        faults.invalid("linux.memoryPolicy.nodes", "must be empty for MPOL_DEFAULT and MPOL_LOCAL");
    }
    if matches!(mode, 2 | 3 | 5 | 6) && nodes.is_empty() {
        faults.invalid("linux.memoryPolicy.nodes", "this mode needs nodes");
    }
    Some(MemoryPolicyPlan { mode: mode | flags, nodes })
}
