//! The mounts of a spec as steps. Pure: destinations are resolved later, beneath the new root; sources are not looked at.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::build::{Context, check_maps, maps};
use super::error::Faults;
use super::options::{Attrs, Bind, MountOptions, attr};
use super::types::{EarlyIdmap, EarlyMount, MountSource, MountStep, Namespace};

/// File systems whose superblock is shared or that we must still write into: their `ro` is a property of the mount alone.
const VIRTUAL: [&str; 12] = [
    "proc",
    "sysfs",
    "tmpfs",
    "devtmpfs",
    "devpts",
    "mqueue",
    "cgroup",
    "cgroup2",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
];

/// The mounts in the spec's order, the destinations to make read-only at the end, and whether /dev is a bind mount.
pub(super) fn mount_steps(
    context: &Context<'_>,
    early: &mut Vec<EarlyMount>,
    faults: &mut Faults,
) -> (Vec<MountStep>, Vec<String>, bool) {
    let (mut steps, mut seals, mut dev_is_bind) = (Vec::new(), Vec::new(), false);
    for (n, mount) in context.spec.mounts().iter().flatten().enumerate() {
        let field = format!("mounts[{n}]");
        let Some(step) = mount_step(context, mount, &field, &steps, &mut seals, early, faults) else { continue };
        if step.destination == "/dev" && !matches!(step.source, MountSource::Fs { .. }) {
            dev_is_bind = true;
        }
        steps.push(step);
    }
    (steps, seals, dev_is_bind)
}

fn mount_step(
    context: &Context<'_>,
    mount: &Mount,
    field: &str,
    before: &[MountStep],
    seals: &mut Vec<String>,
    early: &mut Vec<EarlyMount>,
    faults: &mut Faults,
) -> Option<MountStep> {
    let destination = mount.destination().to_string_lossy();
    if destination.is_empty() || destination.contains('\0') {
        faults.invalid(format!("{field}.destination"), "is empty or contains a NUL byte");
        return None;
    }
    // A relative destination is read from the container's root, as runc does (with a warning in its log).
    let destination = normalize(&destination);
    if destination == "/" {
        faults.invalid(format!("{field}.destination"), "must not be /");
        return None;
    }
    let words = mount.options().clone().unwrap_or_default();
    let mut options = MountOptions::parse(&words);
    if words.iter().any(|word| word.contains('\0')) {
        faults.invalid(format!("{field}.options"), "contains a NUL byte");
    }
    let fstype = mount.typ().clone().unwrap_or_default();
    let source = mount.source().clone();
    let bind = options.bind.or((fstype == "bind").then_some(Bind::Single));

    // A bind mount gets its options at once, so that `remount` adds nothing to it.
    if options.remount && bind.is_none() {
        return remount(&destination, options, field, seals, before, faults);
    }
    let mut attrs = options.attrs;
    let source = if let Some(bind) = bind {
        let Some(path) = source.filter(|path| !path.as_os_str().is_empty()) else {
            faults.invalid(format!("{field}.source"), "a bind mount needs a source");
            return None;
        };
        if !options.data.is_empty() {
            let words: Vec<_> = options.data.iter().map(|(key, _)| key.as_str()).collect();
            // SELinux contexts and the like come with binds from older tools and mean nothing here.
            faults.invalid(format!("{field}.options"), format!("a bind mount takes no option {}", words.join(", ")));
        }
        if options.copy_up {
            faults.invalid(format!("{field}.options"), "tmpcopyup is for tmpfs");
        }
        let path = if path.is_absolute() { path } else { context.options.bundle.join(path) };
        let recursive = bind == Bind::Recursive;
        let idmap = idmap(context, mount, &options, field, faults);
        let within = context.options.subpaths.get(&destination).cloned();
        if idmap.is_some() || context.by_launcher {
            early.push(EarlyMount { source: path, within, recursive, idmap });
            MountSource::Early { index: early.len() - 1 }
        } else {
            MountSource::Bind { path, within, recursive }
        }
    } else {
        if options.idmap.is_some() || mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            faults.unsupported(format!("{field}.options"), "idmap is for bind mounts");
        }
        if fstype.is_empty() || fstype == "none" {
            faults.invalid(format!("{field}.type"), "is missing, and the options do not say bind");
            return None;
        }
        if options.copy_up && fstype != "tmpfs" {
            faults.invalid(format!("{field}.options"), "tmpcopyup is for tmpfs");
        }
        match fstype.as_str() {
            // Made from what the host has mounted, so their own options do not matter.
            "cgroup" | "cgroup2" => {
                options.data.clear();
                MountSource::Cgroup
            }
            _ => {
                let mut params: Vec<(String, Option<String>)> =
                    options.superblock.iter().map(|flag| (flag.clone(), None)).collect();
                if attrs.set & attr::RDONLY != 0 && !VIRTUAL.contains(&fstype.as_str()) {
                    params.push(("ro".into(), None));
                }
                params.append(&mut options.data);
                // The first sysfs instance and bare tmpfs would otherwise show up with an empty source.
                let source = source.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
                if fstype == "proc" && destination != "/proc" {
                    params.retain(|(key, _)| key != "newinstance");
                }
                MountSource::Fs { fstype: fstype.clone(), source, params }
            }
        }
    };
    let is_fs = matches!(source, MountSource::Fs { .. });
    if is_fs && attrs.set & attr::RDONLY != 0 && (fstype == "tmpfs" || destination == "/dev") {
        // Mount points and devices are still to be made in there.
        attrs.set &= !attr::RDONLY;
        seals.push(destination.clone());
    }
    if matches!(destination.as_str(), "/proc" | "/sys")
        && is_fs
        && !matches!(fstype.as_str(), "proc" | "sysfs" | "tmpfs")
    {
        faults.invalid(format!("{field}.type"), format!("{fstype} cannot be mounted on {destination}"));
    }
    if destination.starts_with("/proc/") && !allowed_in_proc(&destination) {
        faults.invalid(format!("{field}.destination"), format!("{destination} is inside /proc"));
    }
    Some(MountStep {
        destination,
        source,
        attrs: tidy(attrs),
        recursive_attrs: tidy(options.recursive_attrs),
        propagation: options.propagation,
        copy_up: options.copy_up,
    })
}

/// Other attributes for a mount that the spec has made before. What belongs to the file system and not to the mount cannot be changed.
fn remount(
    destination: &str,
    options: MountOptions,
    field: &str,
    seals: &mut Vec<String>,
    before: &[MountStep],
    faults: &mut Faults,
) -> Option<MountStep> {
    let field = format!("{field}.options");
    if !before.iter().any(|step| step.destination == destination) {
        faults.invalid(field, format!("remount: no entry before this one mounts {destination}"));
        return None;
    }
    if !options.data.is_empty() || !options.superblock.is_empty() || options.copy_up || options.idmap.is_some() {
        faults.unsupported(field, "remount: only attributes of the mount can be changed");
        return None;
    }
    let mut attrs = options.attrs;
    if (attrs.set | attrs.clear) & attr::RDONLY != 0 {
        // The last word on it decides; it is sealed at the end, when everything in it is made.
        seals.retain(|sealed| sealed != destination);
        if attrs.set & attr::RDONLY != 0 {
            seals.push(destination.to_owned());
            attrs.set &= !attr::RDONLY;
        }
    }
    Some(MountStep {
        destination: destination.to_owned(),
        source: MountSource::Existing,
        attrs: tidy(attrs),
        recursive_attrs: tidy(options.recursive_attrs),
        propagation: options.propagation,
        copy_up: false,
    })
}

/// A bit both set and cleared is how mount_setattr changes the access-time field, and only that.
const fn tidy(attrs: Attrs) -> Attrs {
    attrs
}

/// What tools may put over files of /proc (lxcfs and similar): never what setting up a container writes to.
fn allowed_in_proc(destination: &str) -> bool {
    const FILES: [&str; 11] = [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
        "net/dev",
        "sys/crypto/fips_enabled",
    ];
    let below = destination.trim_start_matches("/proc/");
    FILES.contains(&below)
        || below == "pressure"
        || below.starts_with("pressure/")
        || matches!(
            below,
            "sys"
                | "bus"
                | "fs"
                | "irq"
                | "sysrq-trigger"
                | "asound"
                | "acpi"
                | "kcore"
                | "keys"
                | "timer_list"
                | "sched_debug"
                | "scsi"
                | "latency_stats"
                | "interrupts"
                | "config.gz"
        )
}

fn idmap(
    context: &Context<'_>,
    mount: &Mount,
    options: &MountOptions,
    field: &str,
    faults: &mut Faults,
) -> Option<EarlyIdmap> {
    let (mut uid, mut gid) = (maps(mount.uid_mappings().as_ref()), maps(mount.gid_mappings().as_ref()));
    if options.idmap.is_none() && uid.is_empty() && gid.is_empty() {
        return None;
    }
    if uid.is_empty() != gid.is_empty() {
        faults.invalid(field, "uidMappings and gidMappings must be given together");
    }
    check_maps(&uid, &format!("{field}.uidMappings"), faults);
    check_maps(&gid, &format!("{field}.gidMappings"), faults);
    if uid.is_empty() {
        // Without maps of its own the mount takes the container's.
        let linux = context.spec.linux().as_ref();
        if !context.spaces.has(Namespace::User) {
            faults.invalid(format!("{field}.options"), "idmap without mappings needs a user namespace");
        }
        uid = linux.map(|linux| maps(linux.uid_mappings().as_ref())).unwrap_or_default();
        gid = linux.map(|linux| maps(linux.gid_mappings().as_ref())).unwrap_or_default();
        if uid.is_empty() && context.spaces.joins(Namespace::User) {
            faults.invalid(format!("{field}.uidMappings"), "a joined user namespace does not tell its mappings");
        }
    }
    if !context.facts.privileged {
        faults.unsupported(format!("{field}.options"), "idmapped mounts need CAP_SYS_ADMIN on the host");
    }
    Some(EarlyIdmap { uid, gid, recursive: options.idmap == Some(true) })
}

/// Absolute, without `.` and repeated slashes. `..` is resolved by name here and by descriptor again later.
pub(super) fn normalize(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

/// For callers that only know paths.
#[allow(dead_code, reason = "used by tables")]
pub(super) fn is_beneath(path: &Path, parent: &Path) -> bool {
    path.starts_with(parent)
}
