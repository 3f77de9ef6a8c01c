//! Checks of a create or update request that need nothing but the request, in Docker's words, and the defaults that
//! inspect shows.

use crate::spec::{self, HostFacts, NamespaceMode};
use crate::{ContainerConfig, Error, HostConfig, LogConfig, RestartMode, RestartPolicy, Result};

pub(crate) fn check_config(config: &ContainerConfig) -> Result<()> {
    let words = config.cmd.iter().chain(&config.entrypoint).flatten();
    let texts = words.chain(&config.env).chain([&config.working_dir, &config.user, &config.image]);
    if texts.into_iter().any(|t| t.contains('\0')) {
        return Err(Error::Invalid("invalid configuration: a value contains a NUL byte".into()));
    }
    for entry in &config.env {
        if entry.is_empty() || entry.starts_with('=') {
            return Err(Error::Invalid(format!("invalid environment variable: {entry}")));
        }
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::Invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    if let Some(check) = &config.healthcheck {
        let known = |kind: &str| matches!(kind, "" | "NONE" | "CMD" | "CMD-SHELL");
        if check.test.first().is_some_and(|kind| !known(kind)) {
            return Err(Error::Invalid(format!("Unknown healthcheck type {:?}", check.test[0])));
        }
    }
    super::health::on_failure(config)?;
    Ok(())
}

/// What Docker fills in at create.
pub(crate) fn fill_defaults(host: &mut HostConfig, facts: &HostFacts) {
    let fill = |text: &mut String, default: &str| {
        if text.is_empty() {
            default.clone_into(text);
        }
    };
    if host.network_mode == "default" {
        host.network_mode.clear();
    }
    fill(&mut host.network_mode, "bridge");
    fill(&mut host.ipc_mode, "private");
    fill(&mut host.cgroupns_mode, "private");
    fill(&mut host.log.driver, "json-file");
    fill(&mut host.runtime, "runc");
    if host.shm_size_bytes == 0 {
        host.shm_size_bytes = 64 << 20;
    }
    if host.resources.memory_bytes > 0 && host.resources.memory_swap_bytes == 0 {
        host.resources.memory_swap_bytes = host.resources.memory_bytes.saturating_mul(2);
    }
    if !host.privileged {
        host.masked_paths.get_or_insert_with(|| spec::masked_paths(&facts.thermal_cpus));
        host.readonly_paths.get_or_insert_with(|| spec::READONLY_PATHS.map(str::to_owned).to_vec());
    }
}

pub(crate) fn check_host(host: &HostConfig, cpus: usize, warnings: &mut Vec<String>) -> Result<()> {
    let refused = |why: String| Err(Error::Invalid(why));
    spec::check_resources(&host.resources, cpus)?;
    check_restart_policy(host.restart_policy, host.auto_remove)?;
    crate::procview::is_wanted(host)?;
    crate::ship::options::check(&host.log)?;
    log_rotation(&host.log)?;
    spec::check_sysctls(&host.sysctls, host)?;
    spec::uts_mode(host)?;
    spec::cgroupns_mode(host)?;
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return refused(format!("Invalid value {}, range for oom score adj is [-1000, 1000]", host.oom_score_adj));
    }
    if host.shm_size_bytes < 0 {
        return refused("SHM size can not be less than 0".into());
    }
    if !host.storage_opt.is_empty() {
        return refused("--storage-opt is supported only for overlay over xfs with 'pquota' mount option".into());
    }
    if !matches!(host.runtime.as_str(), "" | "runc" | "knarr" | "io.containerd.runc.v2") {
        return refused(format!("unknown or invalid runtime name: {}", host.runtime));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return refused(format!("invalid isolation '{}' on linux", host.isolation));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return refused(format!("invalid user namespace mode: {}", host.userns_mode));
    }
    if !host.links.is_empty() && (host.network_mode == "host" || host.network_mode.starts_with("container:")) {
        return refused(format!("conflicting options: links and network mode {}", host.network_mode));
    }
    let parent = &host.resources.cgroup_parent;
    if parent.contains(['\0', '\n']) || parent.split('/').any(|part| part == "..") {
        return refused(format!("invalid cgroup parent: {parent:?}"));
    }
    let network = spec::network_mode(host)?;
    if network != NamespaceMode::Private && !matches!(host.network_mode.as_str(), "none") {
        if !host.port_bindings.is_empty() && network == NamespaceMode::Host {
            warnings.push("Published ports are discarded when using host network mode".into());
        }
        if let NamespaceMode::Container(_) = network {
            let conflicts = [
                (
                    !host.port_bindings.is_empty() || host.publish_all_ports,
                    "conflicting options: port publishing and the container type network mode",
                ),
                (!host.extra_hosts.is_empty(), "conflicting options: custom host-to-IP mapping and the network mode"),
                (!host.dns.is_empty(), "conflicting options: dns and the network mode"),
            ];
            if let Some((_, why)) = conflicts.iter().find(|(hit, _)| *hit) {
                return refused((*why).into());
            }
        }
    }
    if host.resources.oom_kill_disable == Some(true) && host.resources.memory_bytes == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                .into(),
        );
    }
    Ok(())
}

pub(crate) fn check_restart_policy(policy: RestartPolicy, auto_remove: bool) -> Result<()> {
    if auto_remove && policy.mode != RestartMode::No {
        return Err(Error::Invalid("can't create 'AutoRemove' container with restart policy".into()));
    }
    if policy.mode != RestartMode::OnFailure && policy.retries_max > 0 {
        return Err(Error::Invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'".into(),
        ));
    }
    Ok(())
}

/// When a log is rotated. Unlike Docker's our default is bounded, because unbounded logs fill disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// `None`: never.
    pub(crate) size_bytes_max: Option<u64>,
    pub(crate) files_max: u32,
}

pub(crate) fn log_rotation(log: &LogConfig) -> Result<Rotation> {
    // Of a driver that delivers elsewhere, the file is Docker's cache for `logs`.
    let (size, files) = if crate::ship::options::is_remote(&log.driver) {
        ("cache-max-size", "cache-max-file")
    } else {
        ("max-size", "max-file")
    };
    let size_bytes_max = match log.options.get(size).map(String::as_str) {
        None => Some(20 << 20),
        Some("-1") => None,
        Some(text) => Some(parse_size(text).ok_or_else(|| Error::Invalid(format!("invalid size: '{text}'")))?),
    };
    let files_max = match log.options.get(files) {
        None if log.options.contains_key(size) && log.driver != "local" => 1,
        None => 5,
        Some(text) => match text.parse::<u32>() {
            Ok(0) => return Err(Error::Invalid(format!("{files} cannot be less than 1"))),
            Ok(count) => count,
            Err(_) => return Err(Error::Invalid(format!("invalid value for {files}: {text}"))),
        },
    };
    Ok(Rotation { size_bytes_max, files_max })
}

/// `10m`, `1.5g`, `64KiB`, `1000`: binary units.
fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let value: f64 = lower[..digits].parse().ok()?;
    let scale = match lower[digits..].trim() {
        "" | "b" => 1u64,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    let bytes = value * scale as f64;
    (bytes.is_finite() && bytes >= 1.0 && bytes < i64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(change: impl FnOnce(&mut HostConfig)) -> Result<Vec<String>, String> {
        let mut host = HostConfig::default();
        change(&mut host);
        fill_defaults(&mut host, &HostFacts::default());
        let mut warnings = Vec::new();
        check_host(&host, 2, &mut warnings).map(|()| warnings).map_err(|e| e.to_string())
    }

    #[test]
    fn what_cannot_be_is_refused_in_dockers_words() {
        let policy = |mode, retries_max| RestartPolicy { mode, retries_max };
        let rows: Vec<(Result<Vec<String>, String>, &str)> = vec![
            (
                host(|h| {
                    h.auto_remove = true;
                    h.restart_policy = policy(RestartMode::Always, 0)
                }),
                "can't create 'AutoRemove' container with restart policy",
            ),
            (
                host(|h| h.restart_policy = policy(RestartMode::Always, 3)),
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ),
            (host(|h| h.log.driver = "splunk".into()), "logger: no log driver named 'splunk' is registered"),
            (
                host(|h| drop(h.log.options.insert("what".into(), "1".into()))),
                "unknown log opt 'what' for json-file log driver",
            ),
            (host(|h| drop(h.log.options.insert("max-size".into(), "x".into()))), "invalid size: 'x'"),
            (host(|h| h.oom_score_adj = 1001), "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
            (host(|h| h.runtime = "kata".into()), "unknown or invalid runtime name: kata"),
            (host(|h| h.pid_mode = "what".into()), ""),
        ];
        for (got, wanted) in rows {
            match wanted {
                // Checked where the other container is looked up.
                "" => assert!(got.is_ok()),
                wanted => assert_eq!(got.unwrap_err(), wanted),
            }
        }
        assert!(host(|h| h.network_mode = "none".into()).unwrap().is_empty());
        assert!(host(|_| {}).unwrap().is_empty());
    }

    #[test]
    fn sizes_and_rotation() {
        let log = |pairs: &[(&str, &str)]| LogConfig {
            driver: String::new(),
            options: pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        };
        type Options = &'static [(&'static str, &'static str)];
        let rows: [(Options, Option<u64>, u32); 5] = [
            (&[], Some(20 << 20), 5),
            (&[("max-size", "10m")], Some(10 << 20), 1),
            (&[("max-size", "1.5k"), ("max-file", "3")], Some(1536), 3),
            (&[("max-size", "-1")], None, 1),
            (&[("max-file", "2")], Some(20 << 20), 2),
        ];
        for (pairs, size_bytes_max, files_max) in rows {
            assert_eq!(log_rotation(&log(pairs)).unwrap(), Rotation { size_bytes_max, files_max }, "{pairs:?}");
        }
        for bad in ["", "m", "-5", "1e400", "NaN", "0", "10x", "99999999999999g"] {
            assert!(log_rotation(&log(&[("max-size", bad)])).is_err(), "{bad}");
        }
        assert!(log_rotation(&log(&[("max-file", "0")])).is_err());
    }
}
