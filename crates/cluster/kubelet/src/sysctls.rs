//! Which kernel parameters a pod may set: those that are its own namespaces' and harm nobody else, as upstream's kubelet has them. Pure.

const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// The name with dots, or why the pod may not set it.
pub(crate) fn check(name: &str, host_network: bool, host_ipc: bool) -> Result<String, String> {
    // Either sign may separate; whichever comes first does.
    let separator = name.find(['.', '/']).map(|at| name.as_bytes()[at]);
    let dotted: String = match separator {
        Some(b'/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    };
    if !SAFE.contains(&dotted.as_str()) {
        return Err(format!("forbidden sysctl: {name:?} not allowlisted"));
    }
    if dotted.starts_with("net.") && host_network {
        return Err(format!("forbidden sysctl: {name:?} not allowed with host net enabled"));
    }
    if dotted.starts_with("kernel.shm") && host_ipc {
        return Err(format!("forbidden sysctl: {name:?} not allowed with host ipc enabled"));
    }
    Ok(dotted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_pods_own_is_set() {
        assert_eq!(check("net.ipv4.tcp_syncookies", false, false).as_deref(), Ok("net.ipv4.tcp_syncookies"));
        assert_eq!(check("net/ipv4/tcp_syncookies", false, false).as_deref(), Ok("net.ipv4.tcp_syncookies"));
        for name in
            ["kernel.core_pattern", "vm.swappiness", "net.ipv4/../../kernel/core_pattern", "net.core.somaxconn", ""]
        {
            assert!(check(name, false, false).unwrap_err().contains("not allowlisted"), "{name}");
        }
        assert!(check("net.ipv4.tcp_rmem", true, false).unwrap_err().contains("host net"));
        assert!(check("kernel.shm_rmid_forced", false, true).unwrap_err().contains("host ipc"));
    }
}
