//! The catalogue's cases about nodes: pods that try to get more of their node than they are given. What an agent's own port says to strangers
//! (KN-01) is in `nodes_agents.rs`, what one node may ask about another (KN-08) among the API's tests of admission.

use blackbox::{Cloud, eventually};

fn pod(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{spec}\n"
    )
}

fn ready(cloud: &Cloud, name: &str) {
    cloud.kubectl(&format!("wait --for=condition=Ready pod/{name} --timeout=60s")).success();
}

fn clear(cloud: &Cloud) {
    cloud.kubectl("delete pod --all --timeout=60s").success();
}

const SLEEPS: &str = "image: busybox, command: [sleep, '3600']";

/// A directory of this machine that a volume shows, with something outside of it that no pod may reach.
struct Shared {
    directory: tempfile::TempDir,
    canary: tempfile::TempDir,
}

impl Shared {
    fn new() -> Self {
        let shared = Self { directory: tempfile::tempdir().unwrap(), canary: tempfile::tempdir().unwrap() };
        std::fs::write(shared.canary.path().join("canary"), "sings").unwrap();
        shared
    }
}

/// One pod turns a directory into a link to the host's root and back while others mount it.
#[test]
fn kn_02_a_sub_path_leads_nowhere_else() {
    let Some(cloud) = Cloud::start() else { return };
    let shared = Shared::new();
    let outside = shared.canary.path();
    let volume = format!("  volumes: [{{name: v, hostPath: {{path: {}}}}}]", shared.directory.path().display());
    let flips = format!(
        "cd /v; while :; do rm -rf s; mkdir s; sleep 0.01; rm -rf s; ln -s {} s; sleep 0.01; done",
        outside.display()
    );
    cloud.apply(&pod(
        "flips",
        &format!(
            "{volume}\n  containers: [{{name: c, image: busybox, command: [sh, -c, '{flips}'], volumeMounts: [{{name: v, mountPath: /v}}]}}]"
        ),
    ));
    ready(&cloud, "flips");
    let mounts = |number: usize| {
        let looks = "command: [sh, -c, 'if [ -e /s/canary ]; then echo ESCAPED; fi'], volumeMounts: [{name: v, mountPath: /s, subPath: s}]";
        let spec = format!("  restartPolicy: Never\n{volume}\n  containers: [{{name: c, image: busybox, {looks}}}]");
        pod(&format!("mounts-{number}"), &spec).replace("metadata: {name", "metadata: {labels: {app: mounts}, name")
    };
    let mut succeeded = 0;
    for round in 0..4 {
        cloud.apply(&(0..15).map(|number| mounts(round * 15 + number)).collect::<String>());
        // What was gone in that moment is told as such.
        eventually("all have ended", || {
            let phases = cloud.kubectl("get pods -l app=mounts -o jsonpath={.items[*].status.phase}").text();
            phases.split(' ').filter(|phase| matches!(*phase, "Succeeded" | "Failed")).count() == (round + 1) * 15
        });
        let phases = cloud.kubectl("get pods -l app=mounts -o jsonpath={.items[*].status.phase}").text();
        succeeded = phases.matches("Succeeded").count();
    }
    assert!(succeeded > 5, "some of {succeeded} were mounted");
    let said = cloud.kubectl("logs -l app=mounts --ignore-errors --tail=-1 --max-log-requests=100").success().text();
    assert!(!said.contains("ESCAPED"), "{said}");
    assert_eq!(std::fs::read_to_string(outside.join("canary")).unwrap(), "sings");
    clear(&cloud);
}

/// Keys and paths of ConfigMaps and their volumes name nothing above the volume.
#[test]
fn kn_02_keys_name_nothing_above_the_volume() {
    let Some(cloud) = Cloud::start() else { return };
    for key in ["..", "../up", "a/b", "..data"] {
        let made = cloud.kubectl_with(&["create", "configmap", "bad", &format!("--from-literal={key}=x")], "");
        assert_ne!(made.code, 0, "{key}");
    }
    cloud.kubectl("create configmap words --from-literal=one=1").success();
    for path in ["../up", "/up", "a/../../up", ".."] {
        let spec = format!(
            "  volumes: [{{name: v, configMap: {{name: words, items: [{{key: one, path: '{path}'}}]}}}}]\n  containers: [{{name: c, {SLEEPS}}}]"
        );
        let made = cloud.kubectl_with(&["apply", "-f", "-"], &pod("up", &spec));
        assert_ne!(made.code, 0, "{path}");
    }
    for below in ["../up", "/up", "a/../../up"] {
        let mounts = format!("volumeMounts: [{{name: v, mountPath: /v, subPath: '{below}'}}]");
        let spec = format!("  volumes: [{{name: v, emptyDir: {{}}}}]\n  containers: [{{name: c, {SLEEPS}, {mounts}}}]");
        assert_ne!(cloud.kubectl_with(&["apply", "-f", "-"], &pod("up", &spec)).code, 0, "{below}");
    }
}

/// Who a container runs as is said by its pod, however often it begins anew and whoever begins it.
#[test]
fn kn_03_identity_is_kept_over_restarts() {
    let Some(cloud) = Cloud::start() else { return };
    let spec = "  securityContext: {runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456, runAsNonRoot: true}
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'id -u; id -g; id -G; grep -E \"^(NoNewPrivs|CapEff)\" /proc/self/status; exec sleep 3600']
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}";
    cloud.apply(&pod("who", spec));
    ready(&cloud, "who");
    let count = || cloud.value("pod/who", "{.status.containerStatuses[0].restartCount}");
    let said = || cloud.kubectl("logs who").success().text();
    eventually("it says who it is", || said().lines().count() == 5);
    let first = said();
    assert!(first.starts_with("1234\n2345\n2345 3456\n"), "{first}");
    assert!(first.contains("CapEff:\t0000000000000000") && first.contains("NoNewPrivs:\t1"), "{first}");
    let kill = || {
        let id = cloud.value("pod/who", "{.status.containerStatuses[0].containerID}");
        cloud.world.docker(["kill", id.trim_start_matches("knarr://")]).success();
    };
    for (round, anew) in [("1", false), ("2", true)] {
        if anew {
            cloud.end(rustix::process::Signal::KILL);
            cloud.up();
        }
        kill();
        eventually("it begins anew", || count() == round);
        eventually("it is who it was", || said() == first);
    }
    // Names of users cannot be judged, and root is root by any number.
    for (name, user, why) in [
        (
            "word",
            "nobody",
            "container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root",
        ),
        ("zero", "0:1000", "container has runAsNonRoot and image will run as root"),
        ("zeroes", "00", "container has runAsNonRoot and image will run as root"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("Dockerfile"), format!("FROM busybox\nUSER {user}\n")).unwrap();
        cloud.world.docker(["build", "-q", "-t", name, folder.path().to_str().unwrap()]).success();
        let spec = format!(
            "  securityContext: {{runAsNonRoot: true}}\n  containers: [{{name: c, image: {name}, imagePullPolicy: Never, command: [sleep, '9']}}]"
        );
        cloud.apply(&pod(name, &spec));
        let message = "{.status.containerStatuses[0].state.waiting.message}";
        eventually(&format!("user {user} is refused"), || {
            cloud.value(&format!("pod/{name}"), message).starts_with(why)
        });
    }
    clear(&cloud);
}

/// A pod fills every file that it can write to, one after the other: it is stopped or sent away, and the node stays healthy.
#[test]
fn kn_04_a_pod_fills_no_disk_but_its_own() {
    let Some(cloud) = Cloud::start() else { return };
    let limited = "resources: {limits: {ephemeral-storage: 4Mi}}";
    let fills = |path: &str| {
        format!(
            "command: [sh, -c, 'dd if=/dev/zero of={path} bs=64k count=1600; echo wrote $(wc -c < {path}); exec sleep 3600']"
        )
    };
    let evicted = [
        ("layer", format!("  containers: [{{name: c, image: busybox, {}, {limited}}}]", fills("/tmp/x"))),
        (
            "empty",
            format!(
                "  volumes: [{{name: v, emptyDir: {{}}}}]\n  containers: [{{name: c, image: busybox, {}, {limited}, volumeMounts: [{{name: v, mountPath: /v}}]}}]",
                fills("/v/x")
            ),
        ),
        (
            "sized",
            format!(
                "  volumes: [{{name: v, emptyDir: {{sizeLimit: 4Mi}}}}]\n  containers: [{{name: c, image: busybox, {}, volumeMounts: [{{name: v, mountPath: /v}}]}}]",
                fills("/v/x")
            ),
        ),
        (
            "log",
            format!(
                "  containers: [{{name: c, image: busybox, command: [sh, -c, 'yes | head -c 8000000; exec sleep 3600'], {limited}}}]"
            ),
        ),
    ];
    for (name, spec) in &evicted {
        cloud.apply(&pod(name, &format!("  restartPolicy: Never\n{spec}")));
    }
    // These are memory, and end at a size.
    let bounded = [
        ("hosts", "/etc/hosts"),
        ("hostname", "/etc/hostname"),
        ("resolv", "/etc/resolv.conf"),
        ("shm", "/dev/shm/x"),
        ("message", "/dev/termination-log"),
    ];
    for (name, path) in bounded {
        cloud.apply(&pod(
            name,
            &format!("  restartPolicy: Never\n  containers: [{{name: c, image: busybox, {}}}]", fills(path)),
        ));
    }
    for (name, _) in &evicted {
        cloud.wait_for(&format!("pod/{name}"), "{.status.reason}", "Evicted");
    }
    for (name, path) in bounded {
        let wrote = || {
            cloud
                .kubectl(&format!("logs {name}"))
                .text()
                .lines()
                .find_map(|line| line.strip_prefix("wrote ").map(str::to_owned))
        };
        eventually(&format!("{path} is full"), || wrote().is_some());
        let bytes: u64 = wrote().unwrap().trim().parse().unwrap();
        assert!(bytes <= 64 << 20, "{path} took {bytes} bytes");
        assert_eq!(cloud.value(&format!("pod/{name}"), "{.status.phase}"), "Running", "{path}");
    }
    cloud.wait_for("node/node", "{.status.conditions[?(@.type==\"Ready\")].status}", "True");
    cloud.apply(&pod("after", &format!("  containers: [{{name: c, {SLEEPS}}}]")));
    ready(&cloud, "after");
    clear(&cloud);
}

/// A seccomp profile that cannot be used starts nothing.
#[test]
fn kn_05_no_profile_means_no_start() {
    let Some(cloud) = Cloud::start() else { return };
    let folder = cloud.world.root().join("seccomp");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("empty.json"), "").unwrap();
    std::fs::write(folder.join("broken.json"), "{\"defaultAction\": \"SCMP_ACT_NONSENSE\"}").unwrap();
    std::fs::write(folder.join("huge.json"), " ".repeat(2 << 20)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link.json")).unwrap();
    let spec = |path: &str| {
        format!(
            "  securityContext: {{seccompProfile: {{type: Localhost, localhostProfile: {path}}}}}\n  containers: [{{name: c, {SLEEPS}}}]"
        )
    };
    for path in ["''", "'../up.json'", "/etc/passwd"] {
        assert_ne!(cloud.kubectl_with(&["apply", "-f", "-"], &pod("refused", &spec(path))).code, 0, "{path}");
    }
    for name in ["empty", "broken", "huge", "link", "missing"] {
        cloud.apply(&pod(name, &spec(&format!("{name}.json"))));
    }
    for name in ["empty", "broken", "huge", "link", "missing"] {
        let waiting = "{.status.containerStatuses[0].state.waiting.reason}";
        eventually(&format!("{name} does not begin"), || {
            let reason = cloud.value(&format!("pod/{name}"), waiting);
            reason.starts_with("CreateContainer") || reason == "RunContainerError"
        });
        assert_eq!(cloud.value(&format!("pod/{name}"), "{.status.containerStatuses[0].started}"), "false", "{name}");
    }
    clear(&cloud);
}

/// A directory of the host keeps its labels, whatever a pod asks for its own processes.
#[test]
fn kn_06_paths_of_the_host_are_not_labelled() {
    let Some(cloud) = Cloud::start() else { return };
    let shared = Shared::new();
    let file = shared.directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let labels = || {
        let mut buffer = [0u8; 1024];
        [shared.directory.path(), &file].map(|path| {
            let found = rustix::fs::getxattr(path, "security.selinux", &mut buffer[..]);
            found.map(|len| buffer[..len].to_vec()).map_err(|error| error.raw_os_error())
        })
    };
    let before = labels();
    let spec = format!(
        "  securityContext: {{seLinuxOptions: {{level: 's0:c123,c456'}}}}\n  volumes: [{{name: v, hostPath: {{path: {}}}}}]\n  \
         containers: [{{name: c, {SLEEPS}, volumeMounts: [{{name: v, mountPath: /v}}]}}]",
        shared.directory.path().display()
    );
    cloud.apply(&pod("labels", &spec));
    eventually("it runs or is refused", || {
        let waits = cloud.value("pod/labels", "{.status.containerStatuses[0].state.waiting.reason}");
        cloud.value("pod/labels", "{.status.phase}") == "Running" || waits.starts_with("CreateContainer")
    });
    assert_eq!(labels(), before);
    clear(&cloud);
}

/// Links, pipes and devices that a workload puts in the place of logs and last words lead the node nowhere.
#[test]
fn kn_07_the_node_follows_nothing_that_a_workload_has_made() {
    let Some(cloud) = Cloud::start() else { return };
    let shared = Shared::new();
    let secret = shared.canary.path().join("canary");
    // Last words are a file of the node's, which is mounted: nothing can take its place, and it is told up to a size.
    let words = "rm -f /dev/termination-log; ln -sf /etc/passwd /dev/termination-log; mkfifo /dev/termination-log; \
        head -c 20000 /dev/zero | tr '\\\\0' x > /dev/termination-log; exit 1";
    cloud.apply(&pod(
        "words",
        &format!("  restartPolicy: Never\n  containers: [{{name: c, image: busybox, command: [sh, -c, \"{words}\"]}}]"),
    ));
    let ended = "{.status.containerStatuses[0].state.terminated.message}";
    eventually("its last words are told", || !cloud.value("pod/words", ended).is_empty());
    let told = cloud.value("pod/words", ended);
    assert!(told.len() <= 4096 && told.chars().all(|c| c == 'x'), "{} {told:.60}", told.len());
    // A pod that may write where logs are puts a link, a pipe and a device there.
    let logs = cloud.world.root().join("log");
    let spec = format!(
        "  volumes: [{{name: log, hostPath: {{path: {}}}}}]\n  containers: [{{name: c, image: busybox, command: [sh, -c, 'echo mine; exec sleep 3600'], \
         volumeMounts: [{{name: log, mountPath: /log}}]}}]",
        logs.display()
    );
    cloud.apply(&pod("links", &spec));
    ready(&cloud, "links");
    eventually("it has said something", || cloud.kubectl("logs links").text() == "mine");
    let record = format!("2026-01-02T03:04:05.1Z stdout F {}\n", "secret");
    std::fs::write(&secret, record).unwrap();
    for place in [
        format!("ln -sf {} /log/pods/*/c/0.log", secret.display()),
        "rm -f /log/pods/*links*/c/0.log; mkfifo /log/pods/*links*/c/0.log"
            .replace("mkfifo /log/pods/*links*/c/0.log", "cd /log/pods/*links*/c && mkfifo 0.log"),
        "cd /log/pods/*links*/c && rm -f 0.log && mknod 0.log c 1 5".to_owned(),
    ] {
        cloud.run_in("links", &place);
        let said = cloud.kubectl("logs links --request-timeout=20s").text();
        assert!(!said.contains("secret"), "{place}: {said}");
    }
    cloud.wait_for("node/node", "{.status.conditions[?(@.type==\"Ready\")].status}", "True");
    clear(&cloud);
    assert!(secret.exists(), "what a link named is still there");
}

/// What is not offered is refused with a reason.
#[test]
fn kn_09_dangerous_volumes_are_refused() {
    let Some(cloud) = Cloud::start() else { return };
    for (name, volume) in [
        ("git", "gitRepo: {repository: 'https://example.com/x.git'}"),
        ("flex", "flexVolume: {driver: example.com/x}"),
        ("gluster", "nfs: {server: 192.0.2.1, path: /x}"),
    ] {
        let spec = format!(
            "  volumes: [{{name: v, {volume}}}]\n  containers: [{{name: c, {SLEEPS}, volumeMounts: [{{name: v, mountPath: /v}}]}}]"
        );
        cloud.apply(&pod(name, &spec));
        let kind = volume.split(':').next().unwrap();
        let wanted = format!("volumes of kind {kind} are not supported");
        eventually(&format!("{kind} is refused"), || {
            cloud.kubectl(&format!("get events --field-selector involvedObject.name={name}")).text().contains(&wanted)
        });
        assert_eq!(cloud.value(&format!("pod/{name}"), "{.status.phase}"), "Pending");
    }
    clear(&cloud);
}
