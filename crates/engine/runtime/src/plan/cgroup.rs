//! The container's control group: where it is. Pure.

use oci_spec::runtime::Spec;

use super::build::Options;
use super::error::Faults;
use super::facts::HostFacts;
use super::types::CgroupPlan;

pub(super) fn cgroup_plan(spec: &Spec, facts: &HostFacts, options: &Options, faults: &mut Faults) -> CgroupPlan {
    let linux = spec.linux().as_ref();
    let asked = linux.and_then(|linux| linux.cgroups_path().as_ref()).map(|path| path.to_string_lossy().into_owned());
    let path = group_path(asked.as_deref(), facts, options, faults);
    CgroupPlan { path, optional: options.cgroup_optional }
}

/// `cgroupsPath` as a path below every hierarchy's root, without a leading slash.
fn group_path(asked: Option<&str>, facts: &HostFacts, options: &Options, faults: &mut Faults) -> String {
    let own = facts.own_cgroup.trim_matches('/');
    let join = |parent: &str, child: &str| {
        let (parent, child) = (parent.trim_matches('/'), child.trim_matches('/'));
        if parent.is_empty() { child.to_owned() } else { format!("{parent}/{child}") }
    };
    let path = match asked.filter(|path| !path.is_empty()) {
        None if options.systemd_cgroup => join("system.slice", &format!("runc-{}.scope", options.id)),
        None => join(own, &options.id),
        Some(path) if options.systemd_cgroup => match systemd_path(path) {
            Some(path) => path,
            None => {
                faults.invalid("linux.cgroupsPath", format!("{path:?}: with --systemd-cgroup it is slice:prefix:name"));
                return String::new();
            }
        },
        Some(path) if path.starts_with('/') => path.trim_matches('/').to_owned(),
        Some(path) => join(own, path),
    };
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', '\n']);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || !parts.iter().all(|part| plain(part)) {
        faults.invalid("linux.cgroupsPath", format!("{path:?} is not the path of a group below the root"));
        return String::new();
    }
    parts.join("/")
}

/// `a-b.slice:prefix:name` is `a.slice/a-b.slice/prefix-name.scope`, where systemd itself would put it.
fn systemd_path(path: &str) -> Option<String> {
    let mut parts = path.split(':');
    let (slice, prefix, name) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || name.is_empty() {
        return None;
    }
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let mut expanded = String::new();
    if slice != "-.slice" {
        let stem = slice.strip_suffix(".slice").filter(|stem| !stem.is_empty() && !stem.contains('/'))?;
        let mut so_far = String::new();
        for part in stem.split('-') {
            if part.is_empty() {
                return None;
            }
            so_far = if so_far.is_empty() { part.to_owned() } else { format!("{so_far}-{part}") };
            expanded.push_str(&format!("{so_far}.slice/"));
        }
    }
    let unit = if name.ends_with(".slice") {
        name.to_owned()
    } else if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    };
    Some(format!("{expanded}{unit}"))
}
