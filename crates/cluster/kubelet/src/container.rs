//! What a container gets: environment, mounts, limits and rights. Pure: everything it refers to comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use resources::quantity::Quantity;
use resources::{Value, meta};

use crate::runtime::{ContainerRequest, ImageSeen, Mount, Sandbox, Seccomp};
use crate::status::NodeFacts;
use crate::{pod, qos};

/// ConfigMaps and Secrets that a pod names, as found; `None` is missing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    pub maps: BTreeMap<String, Option<Value>>,
    pub secrets: BTreeMap<String, Option<Value>>,
    /// Services whose addresses go into the environment.
    pub services: Vec<Arc<Value>>,
}

/// Names of ConfigMaps and Secrets that a pod refers to.
pub fn references(pod: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let mut add = |set: &str, name: &Value| {
        if let Some(name) = name.as_str() {
            if set == "map" {
                maps.insert(name.to_owned())
            } else {
                secrets.insert(name.to_owned())
            };
        }
    };
    for (_, container) in pod::containers(pod) {
        for source in meta::list_at(container, &["envFrom"]) {
            add("map", &source["configMapRef"]["name"]);
            add("secret", &source["secretRef"]["name"]);
        }
        for variable in meta::list_at(container, &["env"]) {
            add("map", &variable["valueFrom"]["configMapKeyRef"]["name"]);
            add("secret", &variable["valueFrom"]["secretKeyRef"]["name"]);
        }
    }
    for volume in meta::list_at(pod, &["spec", "volumes"]) {
        add("map", &volume["configMap"]["name"]);
        add("secret", &volume["secret"]["secretName"]);
        for source in meta::list_at(volume, &["projected", "sources"]) {
            add("map", &source["configMap"]["name"]);
            add("secret", &source["secret"]["name"]);
        }
    }
    (maps, secrets)
}

/// Whether a container's environment takes anything from them.
pub fn refers(container: &Value) -> bool {
    let variables = meta::list_at(container, &["env"]).iter();
    let mut sources = variables.map(|variable| &variable["valueFrom"]);
    !meta::list_at(container, &["envFrom"]).is_empty()
        || sources.any(|source| source.get("configMapKeyRef").is_some() || source.get("secretKeyRef").is_some())
}

/// Data of a ConfigMap or Secret as bytes.
pub fn data(object: &Value) -> BTreeMap<String, Vec<u8>> {
    let decoded = |text: &Value| {
        base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap_or_default()).unwrap_or_default()
    };
    let secret = object["kind"] == "Secret";
    let plain = meta::map_at(object, &["data"]).map(|(key, value)| {
        let bytes = if secret { decoded(value) } else { value.as_str().unwrap_or_default().as_bytes().to_vec() };
        (key.clone(), bytes)
    });
    let binary = meta::map_at(object, &["binaryData"]).map(|(key, value)| (key.clone(), decoded(value)));
    plain.chain(binary).collect()
}

/// A field of the pod as the downward API shows it.
pub fn field(pod: &Value, path: &str, sandbox: Option<&Sandbox>, node: &NodeFacts) -> Option<String> {
    let listed = |name: &str| -> String {
        meta::map_at(pod, &["metadata", name])
            .map(|(key, value)| format!("{key}={}\n", quoted(value.as_str().unwrap_or_default())))
            .collect()
    };
    for kind in ["labels", "annotations"] {
        if let Some(rest) = path.strip_prefix(&format!("metadata.{kind}")) {
            if rest.is_empty() {
                return Some(listed(kind).trim_end().to_owned());
            }
            let key = rest.strip_prefix("['")?.strip_suffix("']")?;
            return Some(meta::str_at(pod, &["metadata", kind, key]).to_owned());
        }
    }
    let ips = || match pod::host_network(pod) {
        true => vec![node.ip.clone()],
        false => sandbox.map(|sandbox| sandbox.ips.clone()).unwrap_or_default(),
    };
    Some(match path {
        "metadata.name" => meta::name(pod).to_owned(),
        "metadata.namespace" => meta::namespace(pod).to_owned(),
        "metadata.uid" => meta::uid(pod).to_owned(),
        "spec.nodeName" => node.name.clone(),
        "spec.serviceAccountName" => meta::str_at(pod, &["spec", "serviceAccountName"]).to_owned(),
        "status.hostIP" | "status.hostIPs" => node.ip.clone(),
        "status.podIP" => ips().into_iter().next().unwrap_or_default(),
        "status.podIPs" => ips().join(","),
        _ => return None,
    })
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// What a container may use of a resource, as the downward API counts it.
pub fn resource(container: &Value, name: &str, divisor: &str, allocatable: &Value) -> Option<String> {
    let (which, what) = name.split_once('.')?;
    let which = match which {
        "limits" => "limits",
        "requests" => "requests",
        _ => return None,
    };
    let own = container["resources"][which].get(what).and_then(Value::as_str);
    let whole = allocatable.get(what).and_then(Value::as_str);
    let text = own.or(if which == "limits" { whole } else { None }).unwrap_or("0");
    let amount = Quantity::parse(text).ok()?.nanos();
    let unit = Quantity::parse(if divisor.is_empty() || divisor == "0" { "1" } else { divisor }).ok()?.nanos().max(1);
    Some((amount.div_euclid(unit) + i128::from(amount.rem_euclid(unit) != 0)).to_string())
}

/// The environment, in the order in which upstream builds it: services, `envFrom`, `env`.
pub fn environment(
    pod: &Value,
    container: &Value,
    found: &Found,
    sandbox: Option<&Sandbox>,
    node: &NodeFacts,
    allocatable: &Value,
) -> Result<Vec<(String, String)>, String> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut set = |name: String, value: String| match all.iter_mut().find(|(have, _)| *have == name) {
        Some((_, have)) => *have = value,
        None => all.push((name, value)),
    };
    for (name, value) in service_variables(pod, &found.services) {
        set(name, value);
    }
    for source in meta::list_at(container, &["envFrom"]) {
        let prefix = source["prefix"].as_str().unwrap_or_default();
        let object = refer(source, "configMapRef", "secretRef", found)?;
        for (key, value) in object.map(data).unwrap_or_default() {
            set(format!("{prefix}{key}"), String::from_utf8_lossy(&value).into_owned());
        }
    }
    for variable in meta::list_at(container, &["env"]) {
        let name = variable["name"].as_str().unwrap_or_default().to_owned();
        let from = &variable["valueFrom"];
        let value = if from.is_object() {
            match value_from(pod, container, from, found, sandbox, node, allocatable)? {
                Some(value) => value,
                None => continue,
            }
        } else {
            expand(variable["value"].as_str().unwrap_or_default(), &all)
        };
        match all.iter_mut().find(|(have, _)| *have == name) {
            Some((_, have)) => *have = value,
            None => all.push((name, value)),
        }
    }
    Ok(all)
}

/// The ConfigMap or Secret that a source names; `None` if it is optional and missing.
fn refer<'a>(source: &Value, map: &str, secret: &str, found: &'a Found) -> Result<Option<&'a Value>, String> {
    for (field, all, kind) in [(map, &found.maps, "configmap"), (secret, &found.secrets, "secret")] {
        let reference = &source[field];
        let Some(name) = reference["name"].as_str() else { continue };
        return match all.get(name) {
            Some(Some(object)) => Ok(Some(object)),
            _ if reference["optional"] == true => Ok(None),
            _ => Err(format!("{kind} {name:?} not found")),
        };
    }
    Ok(None)
}

#[allow(clippy::too_many_arguments)]
fn value_from(
    pod: &Value,
    container: &Value,
    from: &Value,
    found: &Found,
    sandbox: Option<&Sandbox>,
    node: &NodeFacts,
    allocatable: &Value,
) -> Result<Option<String>, String> {
    if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
        return field(pod, path, sandbox, node).map(Some).ok_or_else(|| format!("unsupported fieldPath: {path}"));
    }
    if let Some(name) = from["resourceFieldRef"]["resource"].as_str() {
        let divisor = from["resourceFieldRef"]["divisor"].as_str().unwrap_or_default();
        let other = from["resourceFieldRef"]["containerName"].as_str();
        let of = pod::containers(pod).map(|(_, container)| container).find(|c| Some(pod::name(c)) == other);
        let value = resource(of.unwrap_or(container), name, divisor, allocatable);
        return value.map(Some).ok_or_else(|| format!("unsupported container resource: {name}"));
    }
    if from["fileKeyRef"].is_object() {
        return Err("variables out of files (fileKeyRef) are not supported by this node".into());
    }
    let Some(object) = refer(from, "configMapKeyRef", "secretKeyRef", found)? else { return Ok(None) };
    let (reference, kind) = match from.get("configMapKeyRef") {
        Some(reference) if reference.is_object() => (reference, "ConfigMap"),
        _ => (&from["secretKeyRef"], "Secret"),
    };
    let key = reference["key"].as_str().unwrap_or_default();
    match data(object).get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if reference["optional"] == true => Ok(None),
        None => Err(format!("couldn't find key {key} in {kind} {}/{}", meta::namespace(pod), meta::name(object))),
    }
}

/// `$(NAME)` with what is set; `$$` is a dollar sign; what is not known stays as it is written.
pub fn expand(text: &str, known: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match known.iter().find(|(have, _)| have == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The variables that tell where services are.
fn service_variables(pod: &Value, services: &[Arc<Value>]) -> Vec<(String, String)> {
    let linked = pod["spec"]["enableServiceLinks"] != false;
    let mut all = Vec::new();
    for service in services {
        let (namespace, name) = (meta::namespace(service), meta::name(service));
        let own = namespace == meta::namespace(pod) && linked;
        if !(own || (namespace == "default" && name == "kubernetes")) {
            continue;
        }
        let ip = meta::str_at(service, &["spec", "clusterIP"]);
        let ports = meta::list_at(service, &["spec", "ports"]);
        if ip.is_empty() || ip == "None" || ports.is_empty() {
            continue;
        }
        let base = name.to_uppercase().replace('-', "_");
        let first = &ports[0]["port"];
        all.push((format!("{base}_SERVICE_HOST"), ip.to_owned()));
        all.push((format!("{base}_SERVICE_PORT"), first.to_string()));
        for port in ports.iter().filter(|port| port["name"].as_str().is_some_and(|name| !name.is_empty())) {
            let name = port["name"].as_str().unwrap_or_default().to_uppercase().replace('-', "_");
            all.push((format!("{base}_SERVICE_PORT_{name}"), port["port"].to_string()));
        }
        for (at, port) in ports.iter().enumerate() {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            let (number, lower) = (port["port"].to_string(), protocol.to_lowercase());
            let url = format!("{lower}://{ip}:{number}");
            if at == 0 {
                all.push((format!("{base}_PORT"), url.clone()));
            }
            let head = format!("{base}_PORT_{number}_{protocol}");
            all.push((head.clone(), url));
            all.push((format!("{head}_PROTO"), lower));
            all.push((format!("{head}_PORT"), number));
            all.push((format!("{head}_ADDR"), ip.to_owned()));
        }
    }
    all
}

/// Where a pod's volumes are on this machine.
pub type Volumes = BTreeMap<String, PathBuf>;

/// The request for the runtime.
#[allow(clippy::too_many_arguments)]
pub fn request(
    pod: &Value,
    container: &Value,
    attempt: u32,
    env: Vec<(String, String)>,
    mounts: Vec<Mount>,
    image: &ImageSeen,
    sandbox: &Sandbox,
    node: &NodeFacts,
    node_memory: i64,
) -> Result<ContainerRequest, String> {
    let words = |field: &str| -> Option<Vec<String>> {
        let list = meta::list_at(container, &[field]);
        let expanded = list.iter().filter_map(Value::as_str).map(|word| expand(word, &env)).collect::<Vec<_>>();
        (!expanded.is_empty()).then_some(expanded)
    };
    let (own, all) = (&container["securityContext"], &pod["spec"]["securityContext"]);
    let either = |field: &str| own.get(field).filter(|value| !value.is_null()).or_else(|| all.get(field));
    let uid = either("runAsUser").and_then(Value::as_i64);
    let gid = either("runAsGroup").and_then(Value::as_i64);
    if either("runAsNonRoot").is_some_and(|wanted| *wanted == true) {
        let name = image.user.split(':').next().unwrap_or_default();
        let of = format!("(pod: {:?}, container: {})", pod::full_name(pod), pod::name(container));
        match (uid, name.parse::<i64>()) {
            (Some(0), _) => return Err(format!("container's runAsUser breaks non-root policy {of}")),
            (Some(_), _) => {}
            (None, Ok(number)) if number != 0 => {}
            (None, Err(_)) if !name.is_empty() => {
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {of}"
                ));
            }
            (None, _) => return Err(format!("container has runAsNonRoot and image will run as root {of}")),
        }
    }
    let user = match (uid, gid) {
        (Some(uid), Some(gid)) => format!("{uid}:{gid}"),
        (Some(uid), None) => format!("{uid}"),
        (None, Some(gid)) => {
            let name = image.user.split(':').next().filter(|name| !name.is_empty()).unwrap_or("0");
            format!("{name}:{gid}")
        }
        (None, None) => String::new(),
    };
    let mut groups: Vec<String> =
        meta::list_at(all, &["supplementalGroups"]).iter().filter_map(Value::as_i64).map(|n| n.to_string()).collect();
    groups.extend(all["fsGroup"].as_i64().map(|group| group.to_string()));
    let capabilities = |which: &str| -> Vec<String> {
        let list = meta::list_at(own, &["capabilities", which]);
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let seccomp = either("seccompProfile").and_then(|profile| profile["type"].as_str());
    let seccomp = match seccomp {
        Some("Unconfined") => Seccomp::Unconfined,
        Some("Localhost") => {
            let path = either("seccompProfile").and_then(|profile| profile["localhostProfile"].as_str());
            Seccomp::Local(path.unwrap_or_default().to_owned())
        }
        _ => Seccomp::Default,
    };
    let message = match container["terminationMessagePath"].as_str() {
        None | Some("") => None,
        Some(path) => {
            let file = format!("message-{}-{attempt}", pod::name(container));
            Some((path.to_owned(), sandbox.directory.join(file)))
        }
    };
    Ok(ContainerRequest {
        pod_uid: meta::uid(pod).into(),
        pod_name: meta::name(pod).into(),
        pod_namespace: meta::namespace(pod).into(),
        name: pod::name(container).into(),
        attempt,
        image: container["image"].as_str().unwrap_or_default().into(),
        command: words("command"),
        args: words("args"),
        working_dir: container["workingDir"].as_str().unwrap_or_default().into(),
        hostname: pod::hostname(pod, &node.name),
        env,
        mounts,
        tty: container["tty"] == true,
        stdin: container["stdin"] == true,
        stdin_once: container["stdinOnce"] == true,
        host_network: pod::host_network(pod),
        host_pid: pod["spec"]["hostPID"] == true,
        host_ipc: pod["spec"]["hostIPC"] == true,
        share_pid: pod["spec"]["shareProcessNamespace"] == true,
        pid_of: None,
        class: qos::group(pod).class,
        user,
        groups,
        privileged: own["privileged"] == true,
        read_only_root: own["readOnlyRootFilesystem"] == true,
        no_new_privileges: own["allowPrivilegeEscalation"] == false,
        seccomp,
        apparmor: match either("appArmorProfile").map(|profile| (&profile["type"], &profile["localhostProfile"])) {
            Some((kind, profile)) if kind == "Localhost" => profile.as_str().unwrap_or_default().to_owned(),
            _ => String::new(),
        },
        stop_signal: container["lifecycle"]["stopSignal"].as_str().unwrap_or_default().to_owned(),
        unmasked_proc: own["procMount"] == "Unmasked",
        cap_add: capabilities("add"),
        cap_drop: capabilities("drop"),
        limits: qos::container_limits(container),
        oom_score_adj: oom_score(pod, container, node_memory),
        message,
        log: None,
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        foreign: None,
        annotations: BTreeMap::new(),
    })
}

/// How readily the kernel ends it when memory runs out: the less of the node's memory it asks for, the more.
fn oom_score(pod: &Value, container: &Value, node_memory: i64) -> i32 {
    match pod::quality(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let asked = qos::amount(&container["resources"], "requests", "memory").map_or(0, qos::bytes);
            let score = 1000 - asked.saturating_mul(1000) / node_memory.max(1);
            // Between the guaranteed, and those who asked for nothing.
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// The mounts of a container from its pod's volumes. `sub` makes a path below a volume safe to mount.
pub fn mounts(
    container: &Value,
    env: &[(String, String)],
    volumes: &Volumes,
    mut sub: impl FnMut(&str, &Path, &str) -> Result<PathBuf, String>,
) -> Result<Vec<Mount>, String> {
    let mut all = Vec::new();
    for mount in meta::list_at(container, &["volumeMounts"]) {
        let name = mount["name"].as_str().unwrap_or_default();
        let volume = volumes.get(name).ok_or_else(|| format!("volume {name:?} is not there"))?;
        let target = mount["mountPath"].as_str().unwrap_or_default().to_owned();
        let below = match (mount["subPath"].as_str(), mount["subPathExpr"].as_str()) {
            (Some(path), _) if !path.is_empty() => path.to_owned(),
            (_, Some(text)) if !text.is_empty() => expand(text, env),
            _ => String::new(),
        };
        let source = if below.is_empty() { volume.clone() } else { sub(name, volume, &below)? };
        let propagation = match mount["mountPropagation"].as_str() {
            Some("HostToContainer") => "rslave",
            Some("Bidirectional") => "rshared",
            _ => "rprivate",
        };
        let read_only = mount["readOnly"] == true;
        let recursive_read_only = read_only && mount["recursiveReadOnly"] == "Enabled";
        all.push(Mount { source, target, read_only, recursive_read_only, propagation });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_are_expanded_as_upstream_does() {
        let known = [("A".to_owned(), "1".to_owned())];
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y", "x1y"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
        ] {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }

    #[test]
    fn the_environment_comes_from_everywhere_and_later_wins() {
        let found = Found {
            maps: [(
                "m".to_owned(),
                Some(json!({"kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"K": "map", "A": "map"}})),
            )]
            .into(),
            secrets: [
                ("s".to_owned(), Some(json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"K": "c2VjcmV0"}}))),
                ("none".to_owned(), None),
            ]
            .into(),
            services: [
                json!({"metadata": {"name": "web-1", "namespace": "d"}, "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80, "name": "http"}]}}),
                json!({"metadata": {"name": "other", "namespace": "e"}, "spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 80}]}}),
            ]
            .map(Arc::new)
            .into(),
        };
        let node = NodeFacts { name: "n1".into(), ip: "192.0.2.1".into(), port: 10250, ..NodeFacts::default() };
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "labels": {"app": "x"}}, "spec": {}});
        let container = json!({"name": "c", "resources": {"limits": {"cpu": "1500m"}},
            "envFrom": [{"prefix": "M_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "none", "optional": true}}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(M_K)"},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "K"}}},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "no", "optional": true}}}]});
        let env = environment(&pod, &container, &found, None, &node, &json!({})).unwrap();
        let get = |name: &str| env.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str());
        assert_eq!(get("WEB_1_SERVICE_HOST"), Some("10.96.0.9"));
        assert_eq!(get("WEB_1_PORT_80_TCP"), Some("tcp://10.96.0.9:80"));
        assert_eq!(get("OTHER_SERVICE_HOST"), None);
        assert_eq!((get("B"), get("S"), get("N"), get("L")), (Some("1-map"), Some("secret"), Some("n1"), Some("x")));
        assert_eq!((get("C"), get("O"), get("M_A")), (Some("1500"), None, Some("map")));
        let bad = json!({"name": "c", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k"}}}]});
        let error = environment(&pod, &bad, &found, None, &node, &json!({})).unwrap_err();
        assert_eq!(error, "configmap \"gone\" not found");
    }
}
