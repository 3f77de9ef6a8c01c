//! What a pod is on its node: its control groups, what its containers share, what its volumes show, and how its ends are told.

use std::path::Path;

use blackbox::{Cloud, eventually};

/// Control group directories of a pod on this machine, in every hierarchy.
fn groups(uid: &str) -> Vec<std::path::PathBuf> {
    fn walk(directory: &Path, name: &str, depth: usize, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy() == name {
                found.push(entry.path());
            } else if depth > 0 {
                walk(&entry.path(), name, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &format!("pod{uid}"), 4, &mut found);
    found
}

fn pod(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{spec}\n"
    )
}

fn ready(cloud: &Cloud, name: &str) {
    cloud.kubectl(&format!("wait --for=condition=Ready pod/{name} --timeout=60s")).success();
}

const SLEEPS: &str = "image: busybox, command: [sleep, '3600']";

#[test]
fn pods_are_grouped_by_their_quality_of_service() {
    let Some(cloud) = Cloud::start() else { return };
    let limits = "resources: {limits: {cpu: 100m, memory: 32Mi}}";
    cloud.apply(&pod("best", &format!("  containers: [{{name: c, {SLEEPS}}}]")));
    cloud
        .apply(&pod("burst", &format!("  containers: [{{name: c, {SLEEPS}, resources: {{requests: {{cpu: 50m}}}}}}]")));
    cloud.apply(&pod(
        "sure",
        &format!("  containers: [{{name: c, {SLEEPS}, {limits}}}, {{name: d, {SLEEPS}, {limits}}}]"),
    ));
    for (name, class) in [("best", "kubepods/besteffort/"), ("burst", "kubepods/burstable/"), ("sure", "kubepods/pod")]
    {
        ready(&cloud, name);
        let uid = cloud.value(&format!("pod/{name}"), "{.metadata.uid}");
        let groups = groups(&uid);
        assert!(!groups.is_empty(), "{name}");
        assert!(groups.iter().all(|group| group.to_string_lossy().contains(class)), "{groups:?}");
        // The containers' own groups are within.
        let id = cloud.value(&format!("pod/{name}"), "{.status.containerStatuses[0].containerID}");
        let id = id.strip_prefix("knarr://").expect("a container id");
        assert!(groups.iter().any(|group| group.join(id).is_dir()), "{groups:?}");
        if name == "sure" {
            let read = |file: &str| groups.iter().find_map(|group| std::fs::read_to_string(group.join(file)).ok());
            let memory = read("memory.limit_in_bytes").or_else(|| read("memory.max")).expect("a memory limit");
            assert_eq!(memory.trim(), (64u64 << 20).to_string(), "both containers' together");
        }
    }
    let uid = cloud.value("pod/sure", "{.metadata.uid}");
    cloud.kubectl("delete pod --all --timeout=60s").success();
    eventually("its group goes with it", || groups(&uid).is_empty());
    cloud.world.knarr(["doctor"]).success();
}

#[test]
fn containers_share_one_process_namespace_where_the_pod_says_so() {
    let Some(cloud) = Cloud::start() else { return };
    let containers =
        format!("  containers: [{{name: a, {SLEEPS}}}, {{name: b, image: busybox, command: [sleep, '4000']}}]");
    cloud.apply(&pod("apart", &containers));
    cloud.apply(&pod("shared", &format!("  shareProcessNamespace: true\n{containers}")));
    ready(&cloud, "apart");
    ready(&cloud, "shared");
    let see =
        |pod: &str| cloud.kubectl_with(&["exec", pod, "-c", "a", "--", "ps", "-o", "pid,args"], "").success().text();
    assert!(!see("apart").contains("sleep 4000"));
    let shared = see("shared");
    assert!(shared.contains("sleep 4000") && shared.contains("sleep 3600"), "{shared}");
    // Process 1 is nobody's workload, and holds nothing of the host.
    assert!(!shared.lines().any(|line| line.trim_start().starts_with("1 sleep")), "{shared}");
    let root = cloud.kubectl_with(&["exec", "shared", "-c", "a", "--", "ls", "/proc/1/root"], "");
    assert!(!root.text().contains("home"), "{root:?}");
    // What is orphaned is reaped.
    cloud.kubectl_with(&["exec", "shared", "-c", "a", "--", "sh", "-c", "(sleep 0.1 &) ; true"], "").success();
    eventually("no zombie is left", || !see("shared").contains('Z') && !see("shared").contains("sleep 0.1"));
    // A container that ends and comes back is still among the others.
    let id = cloud.value("pod/shared", "{.status.containerStatuses[?(@.name==\"b\")].containerID}");
    cloud.world.docker(["kill", id.strip_prefix("knarr://").expect("a container id")]).success();
    eventually("b runs again", || {
        let restarts = "{.status.containerStatuses[?(@.name==\"b\")].restartCount}";
        cloud.value("pod/shared", restarts) == "1" && see("shared").contains("sleep 4000")
    });
    cloud.kubectl("delete pod --all --timeout=60s").success();
    eventually("no container is left", || cloud.world.docker(["ps", "-aq"]).success().text().is_empty());
}

#[test]
fn what_configuration_says_is_seen_while_the_pod_runs() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.kubectl("create configmap words --from-literal=one=1 --from-literal=two=2").success();
    cloud.kubectl("create secret generic keys --from-literal=key=first").success();
    let spec = format!(
        "  volumes:
  - {{name: words, configMap: {{name: words}}}}
  - {{name: all, projected: {{sources: [{{configMap: {{name: words, items: [{{key: one, path: in/one}}]}}}}, {{secret: {{name: keys}}}},
      {{downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}]}}}}
  containers:
  - {{name: c, {SLEEPS}, volumeMounts: [{{name: words, mountPath: /words}}, {{name: all, mountPath: /all}}, {{name: words, mountPath: /fixed, subPath: one}}]}}"
    );
    cloud.apply(&pod("reader", &spec));
    ready(&cloud, "reader");
    let read = |path: &str| cloud.run_in("reader", &format!("cat {path}")).text();
    assert_eq!((read("/words/one"), read("/all/in/one"), read("/all/key")), ("1".into(), "1".into(), "first".into()));
    let began = std::time::Instant::now();
    cloud
        .kubectl_with(
            &["patch", "configmap", "words", "-p", "{\"data\": {\"one\": \"changed\", \"two\": null, \"new\": \"n\"}}"],
            "",
        )
        .success();
    eventually("the map's change is seen", || read("/words/one") == "changed" && read("/all/in/one") == "changed");
    assert!(began.elapsed().as_secs() < 20, "by a watch, not by looking now and then");
    assert_eq!(cloud.run_in("reader", "ls /words").text(), "new\none");
    assert_eq!(read("/fixed"), "1", "a subPath stays what it was");
    cloud.kubectl_with(&["patch", "secret", "keys", "-p", "{\"stringData\": {\"key\": \"second\"}}"], "").success();
    eventually("the secret's change is seen", || read("/all/key") == "second");
    cloud.kubectl("label pod reader colour=red").success();
    eventually("the label is seen", || read("/all/labels") == "colour=\"red\"");
    // A pod that waits for its configuration starts when that comes.
    cloud.apply(&pod("waits", &format!("  containers: [{{name: c, {SLEEPS}, env: [{{name: X, valueFrom: {{configMapKeyRef: {{name: late, key: k}}}}}}]}}]")));
    cloud.wait_for("pod/waits", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerConfigError");
    assert_eq!(
        cloud.value("pod/waits", "{.status.containerStatuses[0].state.waiting.message}"),
        "configmap \"late\" not found"
    );
    cloud.kubectl("create configmap late --from-literal=k=v").success();
    ready(&cloud, "waits");
    cloud.kubectl("delete pod --all --timeout=60s").success();
}

#[test]
fn a_running_pod_is_debugged_with_a_container_of_ones_own() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(&pod("web", "  containers: [{name: c, image: busybox, command: [sleep, '3600']}]"));
    ready(&cloud, "web");
    let words =
        ["debug", "web", "--image=busybox", "--target=c", "--container=dbg", "--profile=general", "--", "sh", "-c"];
    let script = "ps -o args; echo looked; exec sleep 3600";
    cloud.kubectl_with(&[&words[..], &[script]].concat(), "").success();
    cloud.wait_for("pod/web", "{.status.ephemeralContainerStatuses[0].state.running.startedAt != ''}", "");
    eventually("it runs among the target's processes", || {
        let log = cloud.kubectl("logs web -c dbg").text();
        log.contains("sleep 3600") && log.contains("looked")
    });
    assert_eq!(cloud.kubectl("exec web -c dbg -- echo hello").success().text(), "hello");
    // It came beside the others: nothing was restarted.
    assert_eq!(cloud.value("pod/web", "{.status.containerStatuses[0].restartCount}"), "0");
    cloud.kubectl("delete pod web --timeout=60s").success();
}

#[test]
fn ends_are_told_with_their_last_words() {
    let Some(cloud) = Cloud::start() else { return };
    let one = |name: &str, script: &str, more: &str| {
        pod(
            name,
            &format!(
                "  restartPolicy: Never\n  containers: [{{name: c, image: busybox, command: [sh, -c, '{script}'], {more}}}]"
            ),
        )
    };
    cloud.apply(&one("message", "echo noted > /dev/termination-log; exit 3", ""));
    cloud.apply(&one("quoted", "echo last; echo words >&2; exit 4", "terminationMessagePolicy: FallbackToLogsOnError"));
    cloud.apply(&one("silent", "echo nothing to tell", "terminationMessagePolicy: FallbackToLogsOnError"));
    let ended = "{.status.containerStatuses[0].state.terminated";
    for (name, phase, code, reason, message) in [
        ("message", "Failed", "3", "Error", "noted"),
        ("quoted", "Failed", "4", "Error", "last\nwords"),
        ("silent", "Succeeded", "0", "Completed", ""),
    ] {
        let object = format!("pod/{name}");
        cloud.wait_for(&object, "{.status.phase}", phase);
        let told = |field: &str| cloud.value(&object, &format!("{ended}.{field}}}"));
        assert_eq!((told("exitCode").as_str(), told("reason").as_str()), (code, reason), "{name}");
        assert_eq!(told("message").trim(), message, "{name}");
    }
    // Nobody runs as root who said not to.
    cloud.apply(&pod(
        "root",
        &format!("  securityContext: {{runAsNonRoot: true}}\n  containers: [{{name: c, {SLEEPS}}}]"),
    ));
    let message = "{.status.containerStatuses[0].state.waiting.message}";
    eventually("it is refused", || {
        cloud
            .value("pod/root", message)
            .starts_with("container has runAsNonRoot and image will run as root (pod: \"root_default(")
    });
    // A directory that outgrows its limit ends its pod.
    let spec = "  restartPolicy: Never
  volumes: [{name: cache, emptyDir: {sizeLimit: 1Mi}}, {name: memory, emptyDir: {medium: Memory, sizeLimit: 2Mi}}]
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'dd if=/dev/zero of=/memory/x bs=1M count=4 2>/dev/null; wc -c < /memory/x > /dev/termination-log; dd if=/dev/zero of=/cache/x bs=1M count=3; exec sleep 3600']
    volumeMounts: [{name: cache, mountPath: /cache}, {name: memory, mountPath: /memory}]";
    cloud.apply(&pod("greedy", spec));
    cloud.wait_for("pod/greedy", "{.status.reason}", "Evicted");
    assert_eq!(
        cloud.value("pod/greedy", "{.status.message}").trim(),
        "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\"."
    );
    assert_eq!(cloud.value("pod/greedy", &format!("{ended}.message}}")).trim(), "2097152", "memory ends at its size");
    assert_eq!(
        cloud.value("pod/greedy", "{.status.conditions[?(@.type==\"DisruptionTarget\")].reason}"),
        "TerminationByKubelet"
    );
    // So does a container that writes more to the node's disk than it may.
    let spec = "  restartPolicy: Never
  containers: [{name: c, image: busybox, command: [sh, -c, 'dd if=/dev/zero of=/x bs=1M count=3; exec sleep 3600'], resources: {limits: {ephemeral-storage: 1Mi}}}]";
    cloud.apply(&pod("writes", spec));
    cloud.wait_for("pod/writes", "{.status.reason}", "Evicted");
    let message = cloud.value("pod/writes", "{.status.message}");
    assert_eq!(message.trim(), "Container c exceeded its local ephemeral storage limit \"1Mi\".");
    cloud.kubectl("delete pod --all --timeout=60s").success();
}

/// A profile of the node's own: no directory can be made.
#[test]
fn a_profile_of_the_node_forbids_system_calls() {
    let Some(cloud) = Cloud::start() else { return };
    let folder = cloud.world.root().join("seccomp/profiles");
    std::fs::create_dir_all(&folder).unwrap();
    let profile = "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"mkdir\", \"mkdirat\"], \"action\": \"SCMP_ACT_ERRNO\"}]}";
    std::fs::write(folder.join("no-mkdir.json"), profile).unwrap();
    let spec = |path: &str| {
        format!(
            "  securityContext: {{seccompProfile: {{type: Localhost, localhostProfile: {path}}}}}\n  containers: [{{name: c, {SLEEPS}}}]"
        )
    };
    cloud.apply(&pod("held", &spec("profiles/no-mkdir.json")));
    cloud.apply(&pod("lost", &spec("profiles/none.json")));
    ready(&cloud, "held");
    cloud.run_in("held", "mkdir /x").exits(1);
    cloud.run_in("held", "touch /x").success();
    cloud.wait_for("pod/lost", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerConfigError");
    cloud.kubectl("delete pod --all --timeout=60s").success();
}

#[test]
fn hooks_run_after_the_start_and_before_the_end() {
    let Some(cloud) = Cloud::start() else { return };
    let notes = cloud.path().join("notes");
    std::fs::create_dir(&notes).unwrap();
    let spec = |hooks: &str| {
        format!(
            "  containers:\n  - name: c\n    image: busybox\n    command: [sh, -c, 'trap \"echo told >> /notes/all; exit 0\" TERM; while :; do sleep 0.1; done']\n    \
             lifecycle: {{{hooks}}}\n    volumeMounts: [{{name: notes, mountPath: /notes}}]\n  volumes: [{{name: notes, hostPath: {{path: {}}}}}]",
            notes.display()
        )
    };
    let note = |word: &str| format!("exec: {{command: [sh, -c, 'echo {word} >> /notes/all']}}");
    let both = spec(&format!("postStart: {{{}}}, preStop: {{{}}}", note("begun"), note("ends")));
    cloud.apply(&pod("hooked", &both).replace("terminationGracePeriodSeconds: 0", "terminationGracePeriodSeconds: 60"));
    ready(&cloud, "hooked");
    let read = || std::fs::read_to_string(notes.join("all")).unwrap_or_default();
    assert_eq!(read(), "begun\n", "a pod is not ready before its hook has ended");
    cloud.kubectl("delete pod hooked --timeout=120s").success();
    assert_eq!(read(), "begun\nends\ntold\n");
    // A hook that fails ends the container, and people are told.
    cloud.apply(&pod("failing", &spec("postStart: {exec: {command: [sh, -c, 'echo no >&2; exit 4']}}")));
    eventually("it is told", || {
        let reasons = "get events --field-selector reason=FailedPostStartHook,involvedObject.name=failing -o name";
        !cloud.kubectl(reasons).success().text().trim().is_empty()
    });
    eventually("it is tried again", || {
        cloud.value("pod/failing", "{.status.containerStatuses[0].restartCount}") != "0"
    });
    cloud.kubectl("delete pod failing --timeout=120s").success();
}

#[test]
fn a_pods_names_and_its_kind_of_runtime_are_what_it_asks_for() {
    let Some(cloud) = Cloud::start() else { return };
    let c = format!("  containers: [{{name: c, {SLEEPS}}}]");
    cloud.apply("apiVersion: v1\nkind: Service\nmetadata: {name: names}\nspec: {clusterIP: None, selector: {app: x}}");
    let whole = "  hostname: first\n  subdomain: names\n";
    cloud.apply(&pod("plain", &format!("{whole}{c}")));
    cloud.apply(&pod("whole", &format!("{whole}  setHostnameAsFQDN: true\n{c}")));
    cloud.apply(&pod(
        "aliased",
        &format!(
            "  hostnameOverride: old.example.com\n  hostAliases: [{{ip: 192.0.2.7, hostnames: [far, away]}}]\n{c}"
        ),
    ));
    for (name, hostname, hosts) in [
        ("plain", "first", "first.names.default.svc.cluster.local\tfirst"),
        ("whole", "first.names.default.svc.cluster.local", "first.names.default.svc.cluster.local\tfirst"),
        ("aliased", "old.example.com", "192.0.2.7\tfar\taway"),
    ] {
        ready(&cloud, name);
        cloud.run_in(name, "hostname; echo $HOSTNAME").success().stdout(&format!("{hostname}\n{hostname}\n"));
        let all = cloud.run_in(name, "cat /etc/hosts").success().text();
        assert!(all.contains(hosts), "{name}: {all}");
    }
    let long = format!("  hostname: {}\n  subdomain: names\n  setHostnameAsFQDN: true\n{c}", "h".repeat(40));
    cloud.apply(&pod("long", &long));
    let told = |name: &str| {
        let events = format!(
            "get events --field-selector reason=FailedCreatePodSandBox,involvedObject.name={name} -o jsonpath={{.items[*].message}}"
        );
        cloud.kubectl(&events).success().text()
    };
    eventually("it is told why", || told("long").contains("is too long (64 characters is the max"));
    // One runtime there is; whoever asks for another one does not get this.
    let class = |name: &str| {
        format!("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {name}}}\nhandler: {name}")
    };
    cloud.apply(&class("runc"));
    cloud.apply(&class("walled"));
    cloud.apply(&pod("usual", &format!("  runtimeClassName: runc\n{c}")));
    cloud.apply(&pod("other", &format!("  runtimeClassName: walled\n{c}")));
    ready(&cloud, "usual");
    eventually("it is told why", || told("other").contains("no runtime for \"walled\" is configured"));
    assert_eq!(cloud.value("pod/other", "{.status.phase}"), "Pending");
}
