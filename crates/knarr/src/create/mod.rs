//! The flags that `run` and `create` share, and the request they make.
//!
//! Pure, except that files which flags name are read through [`Files`]. What the flags say is only brought into the API's form here; the
//! engine checks what it means, so that the stock client gets the same answers.

mod mounts;
mod network;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::flags::{Flag, Matches, bytes, decimal, duration, int, list, switch, text};
use crate::text::quoted;

pub const FLAGS: &[Flag] = &[
    // identity
    text("name", "Assign a name to the container"),
    text("hostname", "Container host name").short('h'),
    text("domainname", "Container NIS domain name"),
    list("label", "Set meta data on a container").short('l'),
    list("label-file", "Read in a line delimited file of labels"),
    text("proc-view", "Show the container's limits in /proc (auto, on, off)"),
    list("annotation", "Add an annotation to the container (passed through to the OCI runtime)"),
    text("cidfile", "Write the container ID to the file"),
    // process
    text("entrypoint", "Overwrite the default ENTRYPOINT of the image"),
    text("workdir", "Working directory inside the container").short('w'),
    text("user", "Username or UID (format: <name|uid>[:<group|gid>])").short('u'),
    list("group-add", "Add additional groups to join"),
    list("env", "Set environment variables").short('e'),
    list("env-file", "Read in a file of environment variables"),
    switch("init", "Run an init inside the container that forwards signals and reaps processes"),
    text("stop-signal", "Signal to stop the container"),
    int("stop-timeout", "Timeout (in seconds) to stop a container"),
    text("restart", "Restart policy to apply when a container exits").default("no"),
    switch("rm", "Automatically remove the container when it exits"),
    // terminal
    switch("interactive", "Keep STDIN open even if not attached").short('i'),
    switch("tty", "Allocate a pseudo-TTY").short('t'),
    list("attach", "Attach to STDIN, STDOUT or STDERR").short('a'),
    // image
    text("pull", "Pull image before running (\"always\", \"missing\", \"never\")").default("missing"),
    text("platform", "Set platform if server is multi-platform capable"),
    switch("quiet", "Suppress the pull output").short('q'),
    // processors
    decimal("cpus", "Number of CPUs"),
    int("cpu-shares", "CPU shares (relative weight)").short('c'),
    int("cpu-period", "Limit CPU CFS (Completely Fair Scheduler) period"),
    int("cpu-quota", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    int("cpu-rt-period", "Limit CPU real-time period in microseconds"),
    int("cpu-rt-runtime", "Limit CPU real-time runtime in microseconds"),
    text("cpuset-cpus", "CPUs in which to allow execution (0-3, 0,1)"),
    text("cpuset-mems", "MEMs in which to allow execution (0-3, 0,1)"),
    // memory
    bytes("memory", "Memory limit").short('m'),
    bytes("memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap"),
    int("memory-swappiness", "Tune container memory swappiness (0 to 100)").default("-1"),
    bytes("memory-reservation", "Memory soft limit"),
    switch("oom-kill-disable", "Disable OOM Killer"),
    int("oom-score-adj", "Tune host's OOM preferences (-1000 to 1000)"),
    bytes("shm-size", "Size of /dev/shm"),
    // input and output
    int("blkio-weight", "Block IO (relative weight), between 10 and 1000, or 0 to disable"),
    list("blkio-weight-device", "Block IO weight (relative device weight)"),
    list("device-read-bps", "Limit read rate (bytes per second) from a device"),
    list("device-write-bps", "Limit write rate (bytes per second) to a device"),
    list("device-read-iops", "Limit read rate (IO per second) from a device"),
    list("device-write-iops", "Limit write rate (IO per second) to a device"),
    list("storage-opt", "Storage driver options for the container"),
    // limits
    int("pids-limit", "Tune container pids limit (set -1 for unlimited)"),
    list("ulimit", "Ulimit options"),
    text("cgroup-parent", "Optional parent cgroup for the container"),
    // namespaces
    text("pid", "PID namespace to use"),
    text("ipc", "IPC mode to use"),
    text("uts", "UTS namespace to use"),
    text("userns", "User namespace to use"),
    text("cgroupns", "Cgroup namespace to use (host|private)"),
    list("network", "Connect a container to a network"),
    list("net", "Connect a container to a network").hidden(),
    list("network-alias", "Add network-scoped alias for the container"),
    list("net-alias", "Add network-scoped alias for the container").hidden(),
    text("ip", "IPv4 address (e.g., 172.30.100.104)"),
    text("ip6", "IPv6 address (e.g., 2001:db8::33)"),
    list("link-local-ip", "Container IPv4/IPv6 link-local addresses"),
    list("link", "Add link to another container"),
    text("mac-address", "Container MAC address (e.g., 92:d0:c6:0a:29:33)"),
    list("publish", "Publish a container's port(s) to the host").short('p'),
    switch("publish-all", "Publish all exposed ports to random ports").short('P'),
    list("expose", "Expose a port or a range of ports"),
    list("dns", "Set custom DNS servers"),
    list("dns-option", "Set DNS options"),
    list("dns-opt", "Set DNS options").hidden(),
    list("dns-search", "Set custom DNS search domains"),
    list("add-host", "Add a custom host-to-IP mapping (host:ip)"),
    // storage
    list("volume", "Bind mount a volume").short('v'),
    list("mount", "Attach a filesystem mount to the container"),
    list("tmpfs", "Mount a tmpfs directory"),
    list("volumes-from", "Mount volumes from the specified container(s)"),
    text("volume-driver", "Optional volume driver for the container"),
    switch("read-only", "Mount the container's root filesystem as read only"),
    // devices
    list("device", "Add a host device to the container"),
    list("device-cgroup-rule", "Add a rule to the cgroup allowed devices list"),
    text("gpus", "GPU devices to add to the container ('all' to pass all GPUs)"),
    // security
    list("cap-add", "Add Linux capabilities"),
    list("cap-drop", "Drop Linux capabilities"),
    switch("privileged", "Give extended privileges to this container"),
    list("security-opt", "Security Options"),
    list("sysctl", "Sysctl options"),
    // health
    text("health-cmd", "Command to run to check health"),
    duration("health-interval", "Time between running the check (ms|s|m|h)"),
    duration("health-timeout", "Maximum time to allow one check to run (ms|s|m|h)"),
    duration("health-start-period", "Start period before failures count (ms|s|m|h)"),
    duration("health-start-interval", "Time between running the check during the start period (ms|s|m|h)"),
    int("health-retries", "Consecutive failures needed to report unhealthy"),
    text("health-on-failure", "What to do when the container becomes unhealthy: none, kill, restart, stop"),
    switch("no-healthcheck", "Disable any container-specified HEALTHCHECK"),
    // logs and runtime
    text("log-driver", "Logging driver for the container"),
    list("log-opt", "Log driver options"),
    text("runtime", "Runtime to use for this container"),
    text("isolation", "Container isolation technology").hidden(),
    switch("disable-content-trust", "Skip image verification").hidden(),
];

/// Reads a file that a flag names.
pub type Files<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// What surrounds the flags: environment variables that `-e NAME` passes on, and the folder of relative paths.
pub struct Surroundings<'a> {
    pub files: Files<'a>,
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    pub folder: &'a str,
    /// Rows and columns of the terminal.
    pub console: Option<(u16, u16)>,
}

/// The body of `POST /containers/create`. `words` are the image, the command and its arguments; `detach` as `run -d`.
pub fn request(matches: &Matches, detach: bool, around: &Surroundings<'_>) -> Result<Value, String> {
    let Some((image, command)) = matches.arguments.split_first() else {
        return Err("an image is needed".into());
    };
    let tty = matches.is("tty");
    let interactive = matches.is("interactive");
    let attach = attached(matches, interactive, detach)?;

    let mut body = Map::new();
    body.insert("Image".into(), json!(image));
    body.insert("Cmd".into(), if command.is_empty() { Value::Null } else { json!(command) });
    body.insert("Tty".into(), json!(tty));
    body.insert("OpenStdin".into(), json!(interactive));
    body.insert("StdinOnce".into(), json!(interactive && attach.stdin));
    body.insert("AttachStdin".into(), json!(attach.stdin));
    body.insert("AttachStdout".into(), json!(attach.stdout));
    body.insert("AttachStderr".into(), json!(attach.stderr));
    for (flag, field) in
        [("hostname", "Hostname"), ("domainname", "Domainname"), ("user", "User"), ("workdir", "WorkingDir")]
    {
        if let Some(value) = matches.text(flag) {
            body.insert(field.into(), json!(value));
        }
    }
    if let Some(entrypoint) = matches.text("entrypoint") {
        // An empty one takes the image's away.
        body.insert("Entrypoint".into(), json!([entrypoint]));
    }
    if let Some(signal) = matches.text("stop-signal") {
        body.insert("StopSignal".into(), json!(signal));
    }
    if let Some(seconds) = matches.int("stop-timeout") {
        body.insert("StopTimeout".into(), json!(seconds));
    }
    body.insert("Env".into(), json!(environment(matches, around)?));
    body.insert("Labels".into(), json!(labels(matches, around)?));
    let published = network::published(matches.list("publish"))?;
    if !matches.list("expose").is_empty() || !published.is_empty() {
        let mut exposed = exposed(matches.list("expose"))?;
        published.keys().for_each(|port| exposed[port] = json!({}));
        body.insert("ExposedPorts".into(), exposed);
    }
    if let Some(check) = healthcheck(matches)? {
        body.insert("Healthcheck".into(), check);
    }
    let volumes = mounts::volumes(matches.list("volume"), around.folder)?;
    if !volumes.anonymous.is_empty() {
        let empty: Map<String, Value> = volumes.anonymous.into_iter().map(|path| (path, json!({}))).collect();
        body.insert("Volumes".into(), Value::Object(empty));
    }
    let mut host = host_config(matches, around)?;
    let networking = network::networking(matches)?;
    host.insert("NetworkMode".into(), json!(networking.mode));
    host.insert("PortBindings".into(), json!(published));
    if !networking.endpoints.is_empty() {
        body.insert("NetworkingConfig".into(), json!({ "EndpointsConfig": networking.endpoints }));
    }
    host.insert("Binds".into(), json!(volumes.binds));
    if tty && let Some((rows, columns)) = around.console {
        host.insert("ConsoleSize".into(), json!([rows, columns]));
    }
    body.insert("HostConfig".into(), Value::Object(host));
    Ok(Value::Object(body))
}

/// The streams that the client joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attach {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

pub fn attached(matches: &Matches, interactive: bool, detach: bool) -> Result<Attach, String> {
    let mut attach = Attach { stdin: false, stdout: false, stderr: false };
    for stream in matches.list("attach") {
        match stream.to_ascii_lowercase().as_str() {
            "stdin" => attach.stdin = true,
            "stdout" => attach.stdout = true,
            "stderr" => attach.stderr = true,
            _ => {
                return Err(format!(
                    "invalid argument {} for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR",
                    quoted(stream)
                ));
            }
        }
    }
    if detach {
        if !matches.list("attach").is_empty() {
            return Err("conflicting options: cannot specify both --attach and --detach".into());
        }
        return Ok(attach);
    }
    if matches.list("attach").is_empty() {
        attach = Attach { stdin: interactive, stdout: true, stderr: true };
    }
    Ok(attach)
}

fn host_config(matches: &Matches, around: &Surroundings<'_>) -> Result<Map<String, Value>, String> {
    let mut host = Map::new();
    let mut put = |name: &str, value: Value| host.insert(name.to_owned(), value);

    let texts = [
        ("cidfile", "ContainerIDFile"),
        ("cgroup-parent", "CgroupParent"),
        ("cgroupns", "CgroupnsMode"),
        ("cpuset-cpus", "CpusetCpus"),
        ("cpuset-mems", "CpusetMems"),
        ("ipc", "IpcMode"),
        ("pid", "PidMode"),
        ("runtime", "Runtime"),
        ("isolation", "Isolation"),
        ("userns", "UsernsMode"),
        ("uts", "UTSMode"),
        ("volume-driver", "VolumeDriver"),
    ];
    for (flag, field) in texts {
        if let Some(value) = matches.text(flag) {
            put(field, json!(value));
        }
    }
    let lists = [
        ("cap-add", "CapAdd"),
        ("cap-drop", "CapDrop"),
        ("dns", "Dns"),
        ("dns-search", "DnsSearch"),
        ("device-cgroup-rule", "DeviceCgroupRules"),
        ("group-add", "GroupAdd"),
        ("link", "Links"),
        ("volumes-from", "VolumesFrom"),
    ];
    for (flag, field) in lists {
        if !matches.list(flag).is_empty() {
            put(field, json!(matches.list(flag)));
        }
    }
    let dns_options = [matches.list("dns-option"), matches.list("dns-opt")].concat();
    if !dns_options.is_empty() {
        put("DnsOptions", json!(dns_options));
    }
    let ints = [
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-rt-period", "CpuRealtimePeriod"),
        ("cpu-rt-runtime", "CpuRealtimeRuntime"),
        ("cpu-shares", "CpuShares"),
        ("blkio-weight", "BlkioWeight"),
        ("oom-score-adj", "OomScoreAdj"),
        ("pids-limit", "PidsLimit"),
    ];
    for (flag, field) in ints {
        if let Some(value) = matches.int(flag) {
            put(field, json!(value));
        }
    }
    for (flag, field) in [
        ("memory", "Memory"),
        ("memory-reservation", "MemoryReservation"),
        ("memory-swap", "MemorySwap"),
        ("shm-size", "ShmSize"),
    ] {
        if let Some(value) = matches.bytes(flag) {
            put(field, json!(value));
        }
    }
    if let Some(swappiness) = matches.int("memory-swappiness").filter(|value| *value >= 0) {
        put("MemorySwappiness", json!(swappiness));
    }
    if let Some(nanos) = matches.nano_cpus("cpus") {
        put("NanoCpus", json!(nanos));
    }
    if matches.given("oom-kill-disable") {
        put("OomKillDisable", json!(matches.is("oom-kill-disable")));
    }
    if matches.given("init") {
        put("Init", json!(matches.is("init")));
    }
    put("AutoRemove", json!(matches.is("rm")));
    put("Privileged", json!(matches.is("privileged")));
    put("ReadonlyRootfs", json!(matches.is("read-only")));
    put("PublishAllPorts", json!(matches.is("publish-all")));
    put("RestartPolicy", restart_policy(matches.text("restart").unwrap_or("no"))?);
    if matches.is("rm") && matches.text("restart").is_some_and(|policy| policy != "no") {
        return Err("conflicting options: cannot specify both --restart and --rm".into());
    }
    put(
        "LogConfig",
        json!({"Type": matches.text("log-driver").unwrap_or(""), "Config": pairs(matches.list("log-opt"))}),
    );
    put("ExtraHosts", json!(extra_hosts(matches.list("add-host"))?));
    let (named, files): (Vec<_>, Vec<_>) =
        matches.list("device").iter().cloned().partition(|device| cdi::Name::parse(device).is_some());
    put("Devices", Value::Array(devices(&files)?));
    let mut requests = Vec::new();
    if let Some(gpus) = matches.text("gpus") {
        requests.push(gpu_request(gpus)?);
    }
    if !named.is_empty() {
        requests.push(json!({"Driver": "cdi", "DeviceIDs": named}));
    }
    put("DeviceRequests", Value::Array(requests));
    put("Ulimits", Value::Array(ulimits(matches.list("ulimit"))?));
    put("Sysctls", json!(pairs(matches.list("sysctl"))));
    put("StorageOpt", json!(pairs(matches.list("storage-opt"))));
    let mut annotations = pairs(matches.list("annotation"));
    if let Some(view) = matches.text("proc-view") {
        annotations.insert("io.knarr.proc-view", view);
    }
    put("Annotations", json!(annotations));
    put("SecurityOpt", json!(security_options(matches.list("security-opt"), around.files)?));
    put("Tmpfs", json!(mounts::tmpfs(matches.list("tmpfs"))));
    put("Mounts", Value::Array(mounts::mounts(matches.list("mount"), around.folder)?));
    if !matches.list("blkio-weight-device").is_empty() {
        put("BlkioWeightDevice", Value::Array(rates(matches.list("blkio-weight-device"), "Weight", false)?));
    }
    for (flag, field, sizes) in [
        ("device-read-bps", "BlkioDeviceReadBps", true),
        ("device-write-bps", "BlkioDeviceWriteBps", true),
        ("device-read-iops", "BlkioDeviceReadIOps", false),
        ("device-write-iops", "BlkioDeviceWriteIOps", false),
    ] {
        if !matches.list(flag).is_empty() {
            put(field, Value::Array(rates(matches.list(flag), "Rate", sizes)?));
        }
    }
    Ok(host)
}

/// `name=value` pairs; a bare name has the empty value.
fn pairs(flags: &[String]) -> BTreeMap<&str, &str> {
    flags.iter().map(|flag| flag.split_once('=').unwrap_or((flag, ""))).collect()
}

fn environment(matches: &Matches, around: &Surroundings<'_>) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for file in matches.list("env-file") {
        for line in lines_of(&(around.files)(file)?) {
            let name = line.split('=').next().unwrap_or("");
            if name.is_empty() {
                return Err(format!("invalid environment file {}: no variable name on line '{line}'", quoted(file)));
            }
            if name.contains(char::is_whitespace) {
                return Err(format!(
                    "invalid environment file {}: variable '{name}' contains whitespaces",
                    quoted(file)
                ));
            }
            push_variable(&mut out, line, around);
        }
    }
    for variable in matches.list("env") {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(format!(
                "invalid argument {} for \"-e, --env\" flag: invalid environment variable: {variable}",
                quoted(variable)
            ));
        }
        push_variable(&mut out, variable, around);
    }
    Ok(out)
}

/// A bare name takes its value from the client's environment, and is left out if it has none there.
fn push_variable(out: &mut Vec<String>, variable: &str, around: &Surroundings<'_>) {
    if variable.contains('=') {
        out.push(variable.to_owned());
    } else if let Some(value) = (around.environment)(variable) {
        out.push(format!("{variable}={value}"));
    }
}

fn labels(matches: &Matches, around: &Surroundings<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    let mut put = |label: &str| {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        out.insert(name.to_owned(), value.to_owned());
    };
    for file in matches.list("label-file") {
        lines_of(&(around.files)(file)?).for_each(&mut put);
    }
    matches.list("label").iter().for_each(|label| put(label));
    if let Some(action) = matches.text("health-on-failure") {
        // The engine's own: Docker's API has no field for it.
        put(&format!("io.knarr.health-on-failure={action}"));
    }
    Ok(out)
}

fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn exposed(flags: &[String]) -> Result<Value, String> {
    let mut out = Map::new();
    for flag in flags {
        let invalid = || format!("invalid range format for --expose: {flag}");
        let (ports, protocol) = flag.split_once('/').unwrap_or((flag, "tcp"));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last): (u16, u16) = (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?);
        if first > last {
            return Err(invalid());
        }
        for port in first..=last {
            out.insert(format!("{port}/{protocol}"), json!({}));
        }
    }
    Ok(Value::Object(out))
}

pub fn restart_policy(text: &str) -> Result<Value, String> {
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (
            name,
            count
                .parse::<u32>()
                .map_err(|_| "invalid restart policy format: maximum retry count must be an integer")?,
        ),
        None => (text, 0),
    };
    if text.starts_with(':') || name.is_empty() {
        return Err("invalid restart policy format: no policy provided before colon".into());
    }
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

/// `name:address` or `name=address`; the API knows the first form.
fn extra_hosts(flags: &[String]) -> Result<Vec<String>, String> {
    let split = |flag: &String| {
        let (name, address) = flag.split_once('=').or_else(|| flag.split_once(':'))?;
        let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
        (!name.is_empty() && (address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok()))
            .then(|| format!("{name}:{address}"))
    };
    flags.iter().map(|flag| split(flag).ok_or_else(|| format!("bad format for add-host: {}", quoted(flag)))).collect()
}

fn devices(flags: &[String]) -> Result<Vec<Value>, String> {
    let valid = |mode: &str| !mode.is_empty() && mode.chars().all(|c| "rwm".contains(c));
    flags
        .iter()
        .map(|flag| {
            let parts: Vec<&str> = flag.split(':').collect();
            let (host, inside, mode) = match parts.as_slice() {
                [host] => (*host, *host, "rwm"),
                [host, mode] if valid(mode) => (*host, *host, *mode),
                [host, inside] => (*host, *inside, "rwm"),
                [host, inside, mode] if valid(mode) => (*host, *inside, *mode),
                _ => return Err(format!("invalid device specification: {flag}")),
            };
            if host.is_empty() || !inside.starts_with('/') {
                return Err(format!("invalid device specification: {flag}"));
            }
            Ok(json!({"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": mode}))
        })
        .collect()
}

/// `all`, a number, or fields by commas: `device=`, `count=`, `driver=`, `capabilities=`, `options=`. A value with commas stands in
/// quotes together with its name.
fn gpu_request(flag: &str) -> Result<Value, String> {
    let mut request = Map::new();
    let mut seen = Vec::new();
    let count = |text: &str| match text {
        "all" => Ok(json!(-1)),
        number => number.parse::<i64>().map(|n| json!(n)).map_err(|_| "count must be an integer".to_owned()),
    };
    let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    for field in csv(flag) {
        let (key, value) = field.split_once('=').unwrap_or(("count", &field));
        if seen.iter().any(|have| have == key) {
            return Err(format!("gpu request key '{key}' can be specified only once"));
        }
        seen.push(key.to_owned());
        match key {
            "count" => request.insert("Count".into(), count(value)?),
            "driver" => request.insert("Driver".into(), json!(value)),
            "device" => request.insert("DeviceIDs".into(), json!(words(value))),
            "capabilities" => {
                let all = [words(value), vec!["gpu".to_owned()]].concat();
                request.insert("Capabilities".into(), json!([all]))
            }
            "options" => request.insert("Options".into(), json!(pairs(&csv(value)))),
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        };
    }
    if !request.contains_key("Count") && !request.contains_key("DeviceIDs") {
        request.insert("Count".into(), json!(1));
    }
    request.entry("Capabilities").or_insert_with(|| json!([["gpu"]]));
    Ok(Value::Object(request))
}

/// Fields by commas, but for those within quotes.
fn csv(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().expect("it begins with one").push(c),
        }
    }
    fields
}

fn ulimits(flags: &[String]) -> Result<Vec<Value>, String> {
    const NAMES: [&str; 16] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
        "as",
    ];
    flags
        .iter()
        .map(|flag| {
            let invalid = |why: &str| format!("invalid argument {} for \"--ulimit\" flag: {why}", quoted(flag));
            let (name, limits) =
                flag.split_once('=').ok_or_else(|| invalid(&format!("invalid ulimit argument: {flag}")))?;
            if !NAMES.contains(&name) {
                return Err(invalid(&format!("invalid ulimit type: {name}")));
            }
            let number = |text: &str| match text {
                "unlimited" => Ok(-1),
                text => text
                    .parse::<i64>()
                    .map_err(|_| invalid(&format!("strconv.ParseInt: parsing {}: invalid syntax", quoted(text)))),
            };
            let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
            let (soft, hard) = (number(soft)?, number(hard)?);
            if hard != -1 && (soft == -1 || soft > hard) {
                return Err(invalid(&format!(
                    "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
                )));
            }
            Ok(json!({"Name": name, "Soft": soft, "Hard": hard}))
        })
        .collect()
}

/// `/dev/sda:1mb`.
fn rates(flags: &[String], field: &str, sizes: bool) -> Result<Vec<Value>, String> {
    flags
        .iter()
        .map(|flag| {
            let invalid = || format!("bad format: {flag}");
            let (path, rate) = flag.rsplit_once(':').ok_or_else(invalid)?;
            if !path.starts_with("/dev/") {
                return Err(format!("bad format for device path: {flag}"));
            }
            let rate = if sizes { crate::units::parse_bytes(rate).ok() } else { rate.parse().ok() };
            let rate = rate.filter(|rate| *rate >= 0).ok_or_else(|| {
                format!("invalid rate for device: {flag}. The correct format is <device-path>:<number>")
            })?;
            Ok(json!({"Path": path, field: rate}))
        })
        .collect()
}

/// `seccomp=FILE` sends the file's text: the engine may be on another machine.
fn security_options(flags: &[String], files: Files<'_>) -> Result<Vec<String>, String> {
    flags
        .iter()
        .map(|flag| {
            let normal = if flag.contains('=') { flag.clone() } else { flag.replacen(':', "=", 1) };
            match normal.split_once('=') {
                Some(("seccomp", value)) if value != "unconfined" && value != "builtin" => {
                    let profile = files(value).map_err(|e| format!("opening seccomp profile ({value}) failed: {e}"))?;
                    let profile: Value = serde_json::from_str(&profile)
                        .map_err(|e| format!("compacting json for seccomp profile ({value}) failed: {e}"))?;
                    Ok(format!("seccomp={profile}"))
                }
                Some(_) => Ok(normal),
                None if normal == "no-new-privileges" => Ok(normal),
                None => Err(format!("invalid --security-opt: {}", quoted(flag))),
            }
        })
        .collect()
}

fn healthcheck(matches: &Matches) -> Result<Option<Value>, String> {
    let timing =
        ["health-interval", "health-timeout", "health-start-period", "health-start-interval", "health-retries"];
    let some = matches.given("health-cmd") || timing.iter().any(|flag| matches.given(flag));
    if matches.is("no-healthcheck") {
        return if some {
            Err("--no-healthcheck conflicts with --health-* options".into())
        } else {
            Ok(Some(json!({"Test": ["NONE"]})))
        };
    }
    if !some {
        return Ok(None);
    }
    let nanos = |flag: &str| matches.duration_nanos(flag).unwrap_or(0);
    let test: Vec<&str> = matches.text("health-cmd").map_or(vec![], |command| vec!["CMD-SHELL", command]);
    Ok(Some(json!({
        "Test": test,
        "Interval": nanos("health-interval"),
        "Timeout": nanos("health-timeout"),
        "StartPeriod": nanos("health-start-period"),
        "StartInterval": nanos("health-start-interval"),
        "Retries": matches.int("health-retries").unwrap_or(0),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(words: &[&str]) -> Result<Value, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let matches = crate::flags::parse(&[FLAGS], false, &words)?;
        let files = |name: &str| match name {
            "env" => Ok("# comment\nA=1\nFROM_OUTSIDE\n\nB=two words\n".to_owned()),
            "bad" => Ok("=1\n".to_owned()),
            "profile" => Ok("{ \"defaultAction\": \"SCMP_ACT_ALLOW\" }".to_owned()),
            _ => Err(format!("open {name}: no such file or directory")),
        };
        let environment = |name: &str| (name == "FROM_OUTSIDE").then(|| "yes".to_owned());
        let around =
            Surroundings { files: &files, environment: &environment, folder: "/here", console: Some((24, 80)) };
        request(&matches, false, &around)
    }

    #[test]
    fn a_plain_run_attaches_its_output() {
        let body = make(&["busybox", "echo", "-n", "hi"]).unwrap();
        assert_eq!(body["Cmd"], json!(["echo", "-n", "hi"]));
        assert_eq!(
            (&body["AttachStdin"], &body["AttachStdout"], &body["Tty"]),
            (&json!(false), &json!(true), &json!(false))
        );
        assert_eq!(body["HostConfig"]["NetworkMode"], "default");
        assert!(body.get("Entrypoint").is_none() && body["HostConfig"].get("ConsoleSize").is_none());
        assert_eq!(make(&["busybox"]).unwrap()["Cmd"], Value::Null);
    }

    #[test]
    fn flags_become_fields() {
        let cases: &[(&[&str], &str, Value)] = &[
            (&["-it"], "/StdinOnce", json!(true)),
            (&["-it"], "/HostConfig/ConsoleSize", json!([24, 80])),
            (
                &["-e", "X=1", "--env-file", "env", "-e", "FROM_OUTSIDE", "-e", "UNSET"],
                "/Env",
                json!(["A=1", "FROM_OUTSIDE=yes", "B=two words", "X=1", "FROM_OUTSIDE=yes"]),
            ),
            (&["-m", "64m"], "/HostConfig/Memory", json!(67_108_864)),
            (&["--memory-swap", "-1"], "/HostConfig/MemorySwap", json!(-1)),
            (&["--cpus", "1.5"], "/HostConfig/NanoCpus", json!(1_500_000_000)),
            (
                &["--restart", "on-failure:3"],
                "/HostConfig/RestartPolicy",
                json!({"Name": "on-failure", "MaximumRetryCount": 3}),
            ),
            (&["--ulimit", "nofile=10:20"], "/HostConfig/Ulimits", json!([{"Name": "nofile", "Soft": 10, "Hard": 20}])),
            (&["--device", "/dev/fuse"], "/HostConfig/Devices/0/PathInContainer", json!("/dev/fuse")),
            (&["--device", "/dev/fuse:r"], "/HostConfig/Devices/0/CgroupPermissions", json!("r")),
            (&["--add-host", "db=10.0.0.1"], "/HostConfig/ExtraHosts", json!(["db:10.0.0.1"])),
            (&["--add-host", "six:::1"], "/HostConfig/ExtraHosts", json!(["six:::1"])),
            (&["-l", "a=b", "-l", "bare"], "/Labels", json!({"a": "b", "bare": ""})),
            (
                &["--security-opt", "seccomp=profile"],
                "/HostConfig/SecurityOpt",
                json!(["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]),
            ),
            (&["--security-opt", "seccomp:unconfined"], "/HostConfig/SecurityOpt", json!(["seccomp=unconfined"])),
            (&["--entrypoint", ""], "/Entrypoint", json!([""])),
            (&["--sysctl", "net.ipv4.ip_forward=1"], "/HostConfig/Sysctls", json!({"net.ipv4.ip_forward": "1"})),
            (
                &["--device-read-bps", "/dev/sda:1mb"],
                "/HostConfig/BlkioDeviceReadBps",
                json!([{"Path": "/dev/sda", "Rate": 1_048_576}]),
            ),
            (&["--health-cmd", "true", "--health-interval", "2s"], "/Healthcheck/Interval", json!(2_000_000_000i64)),
            (&["--no-healthcheck"], "/Healthcheck/Test", json!(["NONE"])),
            (&["--expose", "80-81"], "/ExposedPorts", json!({"80/tcp": {}, "81/tcp": {}})),
            (&["-p", "8080:80"], "/HostConfig/PortBindings", json!({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]})),
            (&["-p", "8080:80"], "/ExposedPorts", json!({"80/tcp": {}})),
            (&["-P"], "/HostConfig/PublishAllPorts", json!(true)),
            (&["--network", "net"], "/HostConfig/NetworkMode", json!("net")),
            (
                &["--network", "net", "--network-alias", "db", "--ip", "10.0.0.9"],
                "/NetworkingConfig/EndpointsConfig",
                json!({"net": {"Aliases": ["db"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}}}),
            ),
            (&["--log-driver", "none"], "/HostConfig/LogConfig/Type", json!("none")),
            (&["-a", "stderr"], "/AttachStdout", json!(false)),
        ];
        for (flags, pointer, expected) in cases {
            let body = make(&[flags, &["image"] as &[&str]].concat()).unwrap_or_else(|e| panic!("{flags:?}: {e}"));
            assert_eq!(body.pointer(pointer), Some(expected), "{flags:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let cases: &[(&[&str], &str)] = &[
            (&["--rm", "--restart", "always"], "cannot specify both --restart and --rm"),
            (&["-p", "80:x"], "invalid containerPort: x"),
            (&["--network", "a", "--network", "b", "--ip", "10.0.0.1"], "cannot use --ip with several networks"),
            (&["--env-file", "bad"], "no variable name on line '=1'"),
            (&["--env-file", "missing"], "open missing: no such file"),
            (&["--ulimit", "nofile=20:10"], "soft limit must be less than or equal"),
            (&["--ulimit", "nope=1"], "invalid ulimit type: nope"),
            (&["--device", "a:b:c:d"], "invalid device specification"),
            (&["--restart", "on-failure:x"], "maximum retry count must be an integer"),
            (&["--add-host", "nothing"], "bad format for add-host"),
            (&["-a", "nowhere"], "valid streams are STDIN, STDOUT and STDERR"),
            (&["--security-opt", "nonsense"], "invalid --security-opt"),
            (&["--no-healthcheck", "--health-cmd", "x"], "conflicts with --health-* options"),
        ];
        for (flags, expected) in cases {
            let error = make(&[flags, &["image"] as &[&str]].concat()).expect_err(&format!("{flags:?}"));
            assert!(error.contains(expected), "{flags:?}: {error}");
        }
    }
}
