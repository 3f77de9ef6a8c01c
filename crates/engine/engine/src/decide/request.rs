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
    super::userns::users_mode(host)?;
    let parent = &host.resources.cgroup_parent;
    if parent.contains(['\0', '\n']) || parent.split('/').any(|part| part == "..") {
        return refused(format!("invalid cgroup parent: {parent:?}"));
    }
    if !host.port_bindings.is_empty() && matches!(host.network_mode.as_str(), "host" | "none") {
        warnings.push(format!("Published ports are discarded when using {} network mode", host.network_mode));
    }
    if host.resources.oom_kill_disable == Some(true) && host.resources.memory_bytes == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                .into(),
        );
    }
    Ok(())
}

/// What says something about a namespace that is another's: it could only be left out, or change what is not the container's.
pub(crate) fn check_shared(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    let network = spec::network_mode(host)?;
    let joins = matches!(network, NamespaceMode::Container(_));
    let on_host = host.network_mode == "host";
    let uts_of_host = host.uts_mode == "host";
    let conflicts = [
        (joins && !config.hostname.is_empty(), "hostname and the network mode"),
        (uts_of_host && !config.hostname.is_empty(), "hostname and the UTS mode"),
        (uts_of_host && !config.domainname.is_empty(), "domainname and the UTS mode"),
        (
            joins && !host.links.is_empty(),
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (
            on_host && !host.links.is_empty(),
            "host type networking can't be used with links. This would result in undefined behavior",
        ),
        (
            joins && [&host.dns, &host.dns_search, &host.dns_options].iter().any(|list| !list.is_empty()),
            "dns and the network mode",
        ),
        (joins && !host.extra_hosts.is_empty(), "custom host-to-IP mapping and the network mode"),
        ((joins || on_host) && !config.mac_address.is_empty(), "mac-address and the network mode"),
        (
            joins && (!host.port_bindings.is_empty() || host.publish_all_ports),
            "port publishing and the container type network mode",
        ),
        (joins && !config.exposed_ports.is_empty(), "port exposing and the container type network mode"),
    ];
    match conflicts.iter().find(|(hit, _)| *hit) {
        Some((_, why)) => Err(Error::Invalid(format!("conflicting options: {why}"))),
        None => Ok(()),
    }
}

/// What was asked for and the kernel will not let this engine hand out: containers start with what there is (RT-34), and their
/// creator is told. `hard_limit` is the engine's own.
pub(crate) fn warn_of_lesser(
    host: &HostConfig,
    may_raise: bool,
    hard_limit: impl Fn(&str) -> u64,
    warnings: &mut Vec<String>,
) {
    if may_raise {
        return;
    }
    for asked in &host.resources.ulimits {
        let most = hard_limit(&asked.name);
        if u64::try_from(asked.hard).unwrap_or(u64::MAX) > most {
            warnings.push(format!(
                "This engine lacks CAP_SYS_RESOURCE and cannot raise ulimit {} above {most}; the container gets that.",
                asked.name
            ));
        }
    }
    if host.oom_score_adj < 0 {
        warnings
            .push("This engine lacks CAP_SYS_RESOURCE and cannot lower oom_score_adj; the engine's own stays.".into());
    }
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
        for mode in ["host", "none"] {
            let warned = host(|h| {
                h.network_mode = mode.into();
                h.port_bindings.insert("80/tcp".into(), Vec::new());
            });
            assert_eq!(warned.unwrap(), [format!("Published ports are discarded when using {mode} network mode")]);
        }
        assert!(host(|_| {}).unwrap().is_empty());
    }

    #[test]
    fn what_a_shared_namespace_cannot_have_is_refused() {
        type Change = fn(&mut ContainerConfig, &mut HostConfig);
        let joined: Change = |_, h| h.network_mode = "container:a".into();
        let on_host: Change = |_, h| h.network_mode = "host".into();
        let uts: Change = |_, h| h.uts_mode = "host".into();
        let rows: Vec<(Change, Change, &str)> = vec![
            (joined, |c, _| c.hostname = "x".into(), "hostname and the network mode"),
            (uts, |c, _| c.hostname = "x".into(), "hostname and the UTS mode"),
            (uts, |c, _| c.domainname = "x".into(), "domainname and the UTS mode"),
            (on_host, |c, _| c.hostname = "x".into(), ""),
            (joined, |_, h| h.dns.push("1.1.1.1".into()), "dns and the network mode"),
            (joined, |_, h| h.dns_search.push("x".into()), "dns and the network mode"),
            (joined, |_, h| h.dns_options.push("ndots:1".into()), "dns and the network mode"),
            (on_host, |_, h| h.dns.push("1.1.1.1".into()), ""),
            (joined, |_, h| h.extra_hosts.push("a:1.1.1.1".into()), "custom host-to-IP mapping and the network mode"),
            (joined, |c, _| c.mac_address = "02:00:00:00:00:01".into(), "mac-address and the network mode"),
            (on_host, |c, _| c.mac_address = "02:00:00:00:00:01".into(), "mac-address and the network mode"),
            (joined, |_, h| h.publish_all_ports = true, "port publishing and the container type network mode"),
            (
                joined,
                |c, _| c.exposed_ports = ["80/tcp".to_owned()].into(),
                "port exposing and the container type network mode",
            ),
            (
                on_host,
                |_, h| h.links.push("a".into()),
                "host type networking can't be used with links. This would result in undefined behavior",
            ),
            (
                joined,
                |_, h| h.links.push("a".into()),
                "container type network can't be used with links. This would result in undefined behavior",
            ),
        ];
        for (mode, asked, wanted) in rows {
            let (mut config, mut host) = (ContainerConfig::default(), HostConfig::default());
            mode(&mut config, &mut host);
            assert!(check_shared(&config, &host).is_ok());
            asked(&mut config, &mut host);
            let wanted = if wanted.is_empty() { String::new() } else { format!("conflicting options: {wanted}") };
            assert_eq!(check_shared(&config, &host).map_or_else(|e| e.to_string(), |()| String::new()), wanted);
        }
    }

    #[test]
    fn less_than_was_asked_for_is_told() {
        let warned = |may_raise: bool, hard: i64, score: i32| {
            let mut host = HostConfig { oom_score_adj: score, ..Default::default() };
            host.resources.ulimits.push(crate::Ulimit { name: "nofile".into(), soft: 10, hard });
            let mut warnings = Vec::new();
            warn_of_lesser(&host, may_raise, |_| 100, &mut warnings);
            warnings.len()
        };
        assert_eq!([warned(false, 100, 0), warned(false, 101, 0), warned(false, -1, -1)], [0, 1, 2]);
        assert_eq!(warned(true, -1, -1), 0);
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
