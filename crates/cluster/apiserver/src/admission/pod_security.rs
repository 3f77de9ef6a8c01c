//! PodSecurity: what the levels `baseline` and `restricted` forbid, and which level a namespace asks for. Pure.

use resources::{Value, meta};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }
}

/// A release whose rules are meant, by its minor number; the newest is greater than all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32);

impl Version {
    pub const LATEST: Self = Self(u32::MAX);

    /// `latest`, or `v1.` and a number without leading zeros.
    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::LATEST);
        }
        let minor = text.strip_prefix("v1.")?;
        let number = minor.parse::<u32>().ok()?;
        (number.to_string() == minor).then_some(Self(number))
    }

    /// Whether a rule that came with `v1.MINOR` is meant.
    fn since(self, minor: u32) -> bool {
        self.0 >= minor
    }
}

/// One of a namespace's three policies: the level, whose rules are meant, and how it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub level: Level,
    pub version: Version,
    pub shown: String,
}

pub const MODES: [&str; 3] = ["enforce", "audit", "warn"];

/// The policy of a mode (`enforce`, `warn`, `audit`). A level that is none counts as the strictest, a version that is none
/// as the newest.
pub fn policy(namespace: &Value, mode: &str) -> Policy {
    let label = |suffix: &str| {
        let key = format!("pod-security.kubernetes.io/{mode}{suffix}");
        meta::str_at(namespace, &["metadata", "labels", &key]).to_owned()
    };
    let level = match label("").as_str() {
        "" => Level::Privileged,
        text => Level::parse(text).unwrap_or(Level::Restricted),
    };
    let (version, word) = match label("-version").as_str() {
        text if !text.is_empty() && Version::parse(text).is_some() => {
            (Version::parse(text).unwrap_or(Version::LATEST), text.to_owned())
        }
        _ => (Version::LATEST, "latest".to_owned()),
    };
    let name = match level {
        Level::Privileged => "privileged",
        Level::Baseline => "baseline",
        Level::Restricted => "restricted",
    };
    Policy { level, version, shown: format!("{name}:{word}") }
}

/// Labels of a namespace that are no levels or versions, each with what it must be.
pub fn label_faults(namespace: &Value) -> Vec<resources::FieldError> {
    let mut out = Vec::new();
    for mode in MODES {
        for (suffix, detail) in
            [("", "must be one of privileged, baseline, restricted"), ("-version", "must be \"latest\" or \"v1.x\"")]
        {
            let key = format!("pod-security.kubernetes.io/{mode}{suffix}");
            let Some(text) = namespace["metadata"]["labels"][&key].as_str() else { continue };
            let good = if suffix.is_empty() { Level::parse(text).is_some() } else { Version::parse(text).is_some() };
            if !good {
                out.push(resources::FieldError::invalid(format!("metadata.labels[{key}]"), text, detail));
            }
        }
    }
    out
}

/// The pod inside an object that makes pods, with the path at which its spec lies; `None` if it makes none.
pub fn pod_of<'a>(group: &str, plural: &str, object: &'a Value) -> Option<&'a Value> {
    let path: &[&str] = match (group, plural) {
        ("", "pods") => &[],
        ("", "podtemplates") => &["template"],
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => &["spec", "template"],
        ("batch", "cronjobs") => &["spec", "jobTemplate", "spec", "template"],
        _ => return None,
    };
    meta::at(object, path)
}

/// What a pod does that the level forbids; each as the rule's name with the places in parentheses.
pub fn faults(pod: &Value, level: Level, version: Version) -> Vec<String> {
    let mut out = Vec::new();
    if level >= Level::Baseline {
        baseline(pod, version, &mut out);
    }
    if level >= Level::Restricted {
        restricted(pod, version, &mut out);
    }
    out
}

/// Every container, of all three kinds.
fn containers(pod: &Value) -> Vec<&Value> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.iter().flat_map(|list| meta::list_at(pod, &["spec", list])).collect()
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    names.join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn named(names: &[&str]) -> String {
    format!("{} {}", if names.len() == 1 { "container" } else { "containers" }, quoted(names))
}

fn which<'a>(containers: &[&'a Value], bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
    containers.iter().filter(|one| bad(one)).map(|one| one["name"].as_str().unwrap_or_default()).collect()
}

fn is_windows(pod: &Value) -> bool {
    meta::str_at(pod, &["spec", "os", "name"]) == "windows"
}

fn baseline(pod: &Value, version: Version, out: &mut Vec<String>) {
    let spec = &pod["spec"];
    let all = containers(pod);
    let context = |one: &Value, key: &str| one["securityContext"][key].clone();
    let host: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|key| spec[*key] == true)
        .map(|key| format!("{key}=true"))
        .collect();
    if !host.is_empty() {
        out.push(format!("host namespaces ({})", host.join(", ")));
    }
    let bad = which(&all, |one| context(one, "privileged") == true);
    if !bad.is_empty() {
        out.push(format!("privileged ({} must not set securityContext.privileged=true)", named(&bad)));
    }
    const CAPABILITIES: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let added = |one: &Value| -> Vec<String> {
        let list = meta::list_at(one, &["securityContext", "capabilities", "add"]);
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let bad = which(&all, |one| added(one).iter().any(|name| !CAPABILITIES.contains(&name.as_str())));
    if !bad.is_empty() {
        let mut names: Vec<String> =
            all.iter().flat_map(|one| added(one)).filter(|name| !CAPABILITIES.contains(&name.as_str())).collect();
        names.sort();
        names.dedup();
        let names = quoted(&names.iter().map(String::as_str).collect::<Vec<_>>());
        out.push(format!(
            "non-default capabilities ({} must not include {names} in securityContext.capabilities.add)",
            named(&bad)
        ));
    }
    let volumes = meta::list_at(pod, &["spec", "volumes"]);
    let bad: Vec<&str> = volumes
        .iter()
        .filter(|volume| volume.get("hostPath").is_some())
        .map(|volume| volume["name"].as_str().unwrap_or_default())
        .collect();
    if !bad.is_empty() {
        let word = if bad.len() == 1 { "volume" } else { "volumes" };
        out.push(format!("hostPath volumes ({word} {})", quoted(&bad)));
    }
    let ports = |one: &Value| -> Vec<i64> {
        let ports = meta::list_at(one, &["ports"]).iter().filter_map(|port| port["hostPort"].as_i64());
        ports.filter(|port| *port != 0).collect()
    };
    let bad = which(&all, |one| !ports(one).is_empty());
    if !bad.is_empty() {
        let numbers: Vec<String> = all.iter().flat_map(|one| ports(one)).map(|port| port.to_string()).collect();
        let word = if numbers.len() == 1 { "hostPort" } else { "hostPorts" };
        out.push(format!("hostPort ({} uses {word} {})", named(&bad), numbers.join(", ")));
    }
    // Until v1.33 a probe could be sent anywhere.
    let elsewhere = |handler: &Value| {
        version.since(34)
            && ["httpGet", "tcpSocket"]
                .iter()
                .any(|kind| handler[*kind]["host"].as_str().is_some_and(|host| !host.is_empty()))
    };
    let bad = which(&all, |one| {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
        probes.iter().any(|probe| elsewhere(&one[*probe]))
            || ["postStart", "preStop"].iter().any(|hook| elsewhere(&one["lifecycle"][*hook]))
    });
    if !bad.is_empty() {
        out.push(format!("probe or lifecycle host ({} must not set host in probes or lifecycle hooks)", named(&bad)));
    }
    let contexts = || std::iter::once(&spec["securityContext"]).chain(all.iter().map(|one| &one["securityContext"]));
    let profile = |kind: &str| contexts().any(|context| context[kind]["type"] == "Unconfined");
    let annotations = meta::map_at(pod, &["metadata", "annotations"]);
    let old = annotations.filter(|(key, value)| {
        key.starts_with("container.apparmor.security.beta.kubernetes.io/")
            && value
                .as_str()
                .is_some_and(|text| !text.is_empty() && text != "runtime/default" && !text.starts_with("localhost/"))
    });
    if profile("appArmorProfile") || old.count() > 0 {
        out.push("forbidden AppArmor profile (unconfined)".into());
    }
    let selinux = contexts().any(|context| {
        let options = &context["seLinuxOptions"];
        let kind = options["type"].as_str().unwrap_or_default();
        let known = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (kind == "container_engine_t" && version.since(31));
        let set = |key: &str| options[key].as_str().is_some_and(|text| !text.is_empty());
        !known || set("user") || set("role")
    });
    if selinux {
        out.push("seLinuxOptions (forbidden user, role or type)".into());
    }
    let bad = which(&all, |one| matches!(context(one, "procMount").as_str(), Some(kind) if kind != "Default"));
    // A pod in a user namespace is not root outside, whoever it is inside.
    let inside = version.since(35) && spec["hostUsers"] == false;
    if !bad.is_empty() && !inside {
        out.push(format!("procMount ({} must not set securityContext.procMount)", named(&bad)));
    }
    if version.since(19) && profile("seccompProfile") {
        out.push("seccompProfile (must not set securityContext.seccompProfile.type to \"Unconfined\")".into());
    }
    // Each with the release since which it is safe.
    const SYSCTLS: [(&str, u32); 12] = [
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
    ];
    let safe = |name: &str| SYSCTLS.iter().any(|(known, minor)| *known == name && version.since(*minor));
    let sysctls = meta::list_at(pod, &["spec", "securityContext", "sysctls"]);
    let bad: Vec<&str> = sysctls.iter().filter_map(|one| one["name"].as_str()).filter(|name| !safe(name)).collect();
    if !bad.is_empty() {
        out.push(format!("forbidden sysctls ({})", bad.join(", ")));
    }
    if contexts().any(|context| context["windowsOptions"]["hostProcess"] == true) {
        out.push("hostProcess (pod or containers must not set securityContext.windowsOptions.hostProcess=true)".into());
    }
}

fn restricted(pod: &Value, version: Version, out: &mut Vec<String>) {
    let spec = &pod["spec"];
    let all = containers(pod);
    let own = &spec["securityContext"];
    // Since v1.25 pods may say that they are for Windows, where these mean nothing.
    let linux = !(version.since(25) && is_windows(pod));
    if linux {
        let bad = which(&all, |one| one["securityContext"]["allowPrivilegeEscalation"] != false);
        if version.since(8) && !bad.is_empty() {
            out.push(format!(
                "allowPrivilegeEscalation != false ({} must set securityContext.allowPrivilegeEscalation=false)",
                named(&bad)
            ));
        }
        let list = |one: &Value, key: &str| -> Vec<String> {
            let list = meta::list_at(one, &["securityContext", "capabilities", key]);
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let keeps = which(&all, |one| !list(one, "drop").iter().any(|name| name == "ALL"));
        let adds = which(&all, |one| list(one, "add").iter().any(|name| name != "NET_BIND_SERVICE"));
        let mut parts = Vec::new();
        if !keeps.is_empty() {
            parts.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeps)));
        }
        if !adds.is_empty() {
            parts.push(format!(
                "{} must not include anything but \"NET_BIND_SERVICE\" in securityContext.capabilities.add",
                named(&adds)
            ));
        }
        if version.since(22) && !parts.is_empty() {
            out.push(format!("unrestricted capabilities ({})", parts.join("; ")));
        }
    }
    const VOLUMES: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let volumes = meta::list_at(pod, &["spec", "volumes"]);
    let kind = |volume: &Value| volume.as_object().and_then(|map| map.keys().find(|key| *key != "name").cloned());
    let bad: Vec<(&str, String)> = volumes
        .iter()
        .filter_map(|volume| Some((volume["name"].as_str().unwrap_or_default(), kind(volume)?)))
        .filter(|(_, kind)| !VOLUMES.contains(&kind.as_str()))
        .collect();
    if !bad.is_empty() {
        let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
        let kinds: Vec<&str> = bad.iter().map(|(_, kind)| kind.as_str()).collect();
        let word = if bad.len() == 1 { "volume" } else { "volumes" };
        out.push(format!(
            "restricted volume types ({word} {} uses restricted volume type {})",
            quoted(&names),
            quoted(&kinds)
        ));
    }
    // A pod in a user namespace is not root outside, whoever it is inside.
    if !(version.since(35) && spec["hostUsers"] == false) {
        let whole = own["runAsNonRoot"] == true;
        let denied = which(&all, |one| one["securityContext"]["runAsNonRoot"] == false);
        let unset = which(&all, |one| one["securityContext"]["runAsNonRoot"].is_null());
        if !denied.is_empty() || (!whole && !unset.is_empty()) {
            let detail = match denied.is_empty() {
                true => format!("pod or {} must set securityContext.runAsNonRoot=true", named(&unset)),
                false => format!("{} must not set securityContext.runAsNonRoot=false", named(&denied)),
            };
            out.push(format!("runAsNonRoot != true ({detail})"));
        }
        let bad = which(&all, |one| one["securityContext"]["runAsUser"] == 0);
        if version.since(23) && (own["runAsUser"] == 0 || !bad.is_empty()) {
            let who = if bad.is_empty() { "pod".to_owned() } else { named(&bad) };
            out.push(format!("runAsUser=0 ({who} must not set runAsUser=0)"));
        }
    }
    if linux && version.since(19) {
        let good = |context: &Value| {
            matches!(context["seccompProfile"]["type"].as_str(), Some("RuntimeDefault" | "Localhost"))
        };
        let bad = which(&all, |one| {
            let context = &one["securityContext"];
            let set = !context["seccompProfile"]["type"].is_null();
            if set { !good(context) } else { !good(own) }
        });
        if !bad.is_empty() {
            out.push(format!(
                "seccompProfile (pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
                named(&bad)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: Value) -> Value {
        let mut whole = json!({"spec": {"containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
            "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}]}});
        resources::patch::merge_patch(&mut whole["spec"], &spec);
        whole
    }

    #[test]
    fn levels_forbid_what_upstreams_do() {
        let plain = json!({"containers": [{"name": "c"}]});
        let context = |context: Value| json!({"containers": [{"name": "c", "securityContext": context}]});
        let rows = [
            (json!({}), 0, 0),
            (plain.clone(), 0, 4),
            (json!({"hostNetwork": true, "hostPID": true}), 1, 1),
            (context(json!({"privileged": true})), 1, 5),
            (context(json!({"capabilities": {"add": ["SYS_ADMIN"]}})), 1, 5),
            (context(json!({"capabilities": {"add": ["CHOWN"]}})), 0, 4),
            (json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), 1, 2),
            (json!({"volumes": [{"name": "v", "nfs": {}}]}), 0, 1),
            (json!({"volumes": [{"name": "v", "emptyDir": {}}]}), 0, 0),
            (json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}]}]}), 1, 5),
            (json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}), 1, 1),
            (json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}), 1, 1),
            (json!({"securityContext": {"runAsUser": 0}}), 0, 1),
            (json!({"ephemeralContainers": [{"name": "e", "securityContext": {"privileged": true}}]}), 1, 5),
            (json!({"initContainers": [{"name": "i"}]}), 0, 4),
            (json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}), 1, 5),
        ];
        for (spec, baseline, restricted) in rows {
            let pod = pod(spec.clone());
            let found = [Level::Baseline, Level::Restricted].map(|level| faults(&pod, level, Version::LATEST));
            assert_eq!((found[0].len(), found[1].len()), (baseline, restricted), "{spec} {found:?}");
            assert!(faults(&pod, Level::Privileged, Version::LATEST).is_empty());
        }
        assert_eq!(
            faults(
                &pod(json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]})),
                Level::Baseline,
                Version::LATEST
            ),
            ["privileged (container \"c\" must not set securityContext.privileged=true)"]
        );
    }

    #[test]
    fn namespaces_choose_levels_by_label() {
        let namespace = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline",
            "pod-security.kubernetes.io/enforce-version": "v1.30", "pod-security.kubernetes.io/warn": "strange"}}});
        assert_eq!(
            policy(&namespace, "enforce"),
            Policy { level: Level::Baseline, version: Version(30), shown: "baseline:v1.30".into() }
        );
        assert_eq!(policy(&namespace, "warn").level, Level::Restricted);
        assert_eq!(policy(&namespace, "audit").level, Level::Privileged);
    }

    /// A rule holds from the release that it came with.
    #[test]
    fn versions_choose_whose_rules_are_meant() {
        let sysctl = |name: &str| json!({"securityContext": {"sysctls": [{"name": name}]}});
        let plain = json!({"containers": [{"name": "c"}]});
        let probe = json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]});
        let engine = json!({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}});
        let windows = json!({"os": {"name": "windows"}, "containers": [{"name": "c"}]});
        let inside = json!({"hostUsers": false, "securityContext": {"runAsUser": 0}});
        let rows = [
            (sysctl("net.ipv4.tcp_rmem"), Level::Baseline, vec![(31, 1), (32, 0)]),
            (sysctl("net.ipv4.ip_local_reserved_ports"), Level::Baseline, vec![(26, 1), (27, 0)]),
            (sysctl("net.ipv4.tcp_fin_timeout"), Level::Baseline, vec![(28, 1), (29, 0)]),
            (probe, Level::Baseline, vec![(33, 0), (34, 1)]),
            (engine, Level::Baseline, vec![(30, 1), (31, 0)]),
            // Not root; then no escalation; then a seccomp profile; then no capabilities.
            (plain, Level::Restricted, vec![(0, 1), (8, 2), (19, 3), (22, 4), (36, 4)]),
            (windows, Level::Restricted, vec![(24, 4), (25, 1)]),
            (inside, Level::Restricted, vec![(22, 0), (23, 1), (34, 1), (35, 0)]),
        ];
        for (spec, level, expected) in rows {
            for (minor, count) in expected {
                let found = faults(&pod(spec.clone()), level, Version(minor));
                assert_eq!(found.len(), count, "v1.{minor} {spec} {found:?}");
            }
        }
        for (text, version) in
            [("latest", Some(Version::LATEST)), ("v1.0", Some(Version(0))), ("v1.36", Some(Version(36)))]
        {
            assert_eq!(Version::parse(text), version);
        }
        for text in ["", "1.30", "v1", "v1.", "v1.030", "v2.1", "v1.x", "newest"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn labels_that_mean_nothing_are_told() {
        let namespace = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "loose",
            "pod-security.kubernetes.io/warn": "baseline", "pod-security.kubernetes.io/warn-version": "1.30"}}});
        let texts: Vec<String> = label_faults(&namespace).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"loose\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.30\": must be \"latest\" or \"v1.x\"",
            ]
        );
    }
}
