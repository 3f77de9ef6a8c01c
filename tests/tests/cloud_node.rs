//! What a node does with its pods as time goes by: probes, changes of resources, shortage, pods of its own, and their logs.

use blackbox::{Cloud, eventually};

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
fn probes_ask_the_workload_at_its_address() {
    let Some(cloud) = Cloud::start() else { return };
    let spec = "  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'mkdir /www; busybox httpd -p 8080 -h /www; exec sleep 3600']
    ports: [{name: web, containerPort: 8080}]
    startupProbe: {tcpSocket: {port: web}, periodSeconds: 1, failureThreshold: 30}
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {httpGet: {path: /alive, port: web}, periodSeconds: 1, failureThreshold: 2, initialDelaySeconds: 4}";
    cloud.apply(&pod("web", spec));
    cloud.wait_for("pod/web", "{.status.containerStatuses[0].started}", "true");
    assert_eq!(cloud.value("pod/web", "{.status.containerStatuses[0].ready}"), "false");
    let why = "{.status.conditions[?(@.type==\"Ready\")].reason} {.status.conditions[?(@.type==\"Ready\")].message}";
    assert_eq!(cloud.value("pod/web", why), "ContainersNotReady containers with unready status: [c]");
    cloud.run_in("web", "echo > /www/alive; echo > /www/ready").success();
    ready(&cloud, "web");
    cloud.run_in("web", "rm /www/ready").success();
    cloud.wait_for("pod/web", "{.status.containerStatuses[0].ready}", "false");
    let events = || cloud.kubectl("get events --field-selector involvedObject.name=web").text();
    eventually("the probe's failure is told", || {
        events().contains("Readiness probe failed: HTTP probe failed with statuscode: 404")
    });
    cloud.run_in("web", "rm /www/alive").success();
    cloud.wait_for("pod/web", "{.status.containerStatuses[0].restartCount}", "1");
    assert!(events().contains("Container c failed liveness probe, will be restarted"), "{}", events());
    cloud.kubectl("delete pod web --timeout=60s").success();
}

#[test]
fn a_running_pod_gets_other_resources() {
    let Some(cloud) = Cloud::start() else { return };
    let spec = format!(
        "  containers:
  - {{name: c, {SLEEPS}, resources: {{requests: {{cpu: 100m, memory: 32Mi}}, limits: {{cpu: 200m, memory: 64Mi}}}},
     resizePolicy: [{{resourceName: memory, restartPolicy: RestartContainer}}]}}"
    );
    cloud.apply(&pod("grows", &spec));
    ready(&cloud, "grows");
    let resize = |resources: &str| {
        let patch = format!("{{\"spec\": {{\"containers\": [{{\"name\": \"c\", \"resources\": {resources}}}]}}}}");
        cloud.kubectl_with(&["patch", "pod", "grows", "--subresource", "resize", "--patch", &patch], "").success();
    };
    let quota = || {
        let id = cloud.value("pod/grows", "{.status.containerStatuses[0].containerID}");
        let id = id.trim_start_matches("knarr://");
        cloud.world.docker(["inspect", "-f", "{{.HostConfig.CpuQuota}}", id]).text()
    };
    assert_eq!(quota(), "20000");
    resize("{\"limits\": {\"cpu\": \"400m\"}}");
    eventually("the running container gets it", || quota() == "40000");
    cloud.wait_for("pod/grows", "{.status.containerStatuses[0].resources.limits.cpu}", "400m");
    assert_eq!(cloud.value("pod/grows", "{.status.containerStatuses[0].restartCount}"), "0");
    // Memory's policy says that it begins anew.
    resize("{\"limits\": {\"memory\": \"96Mi\"}}");
    cloud.wait_for("pod/grows", "{.status.containerStatuses[0].restartCount}", "1");
    cloud.wait_for("pod/grows", "{.status.containerStatuses[0].resources.limits.memory}", "96Mi");
    // What no node of this size can give is told, and nothing changes.
    resize("{\"requests\": {\"cpu\": \"9000\"}, \"limits\": {\"cpu\": \"9000\"}}");
    cloud.wait_for("pod/grows", "{.status.conditions[?(@.type==\"PodResizePending\")].reason}", "Infeasible");
    assert_eq!(quota(), "40000");
    resize("{\"requests\": {\"cpu\": \"100m\"}, \"limits\": {\"cpu\": \"400m\"}}");
    cloud.wait_for("pod/grows", "{.status.conditions[?(@.type==\"PodResizePending\")].reason}", "");
    cloud.kubectl("delete pod grows --timeout=60s").success();
}

#[test]
fn a_node_that_is_short_sends_pods_away_and_takes_none() {
    let Some(cloud) = Cloud::start_with(&["--eviction-hard", "pid.available<900000000"]) else { return };
    cloud.apply(&pod("first", &format!("  nodeName: node\n  containers: [{{name: c, {SLEEPS}}}]")));
    cloud.wait_for("pod/first", "{.status.reason}", "Evicted");
    let message = cloud.value("pod/first", "{.status.message}");
    let known =
        ["The node was low on resource: pids. Threshold quantity: 900000000, available: ", "Pod was rejected: "];
    assert!(known.iter().any(|known| message.starts_with(known)), "{message}");
    cloud.wait_for("node/node", "{.status.conditions[?(@.type==\"PIDPressure\")].status}", "True");
    let reason = cloud.value("node/node", "{.status.conditions[?(@.type==\"PIDPressure\")].reason}");
    assert_eq!(reason, "KubeletHasInsufficientPID");
    cloud.apply(&pod("late", &format!("  nodeName: node\n  containers: [{{name: c, {SLEEPS}}}]")));
    cloud.wait_for("pod/late", "{.status.reason}", "Evicted");
    assert_eq!(
        cloud.value("pod/late", "{.status.message}").trim(),
        "Pod was rejected: The node had condition: [PIDPressure]."
    );
    assert_eq!(cloud.value("pod/late", "{.status.phase}"), "Failed");
    cloud.kubectl("delete pod --all --timeout=60s").success();
}

/// A soft threshold is told at once, acted on after a while, and leaves the pod its grace.
#[test]
fn a_node_that_gets_short_waits_before_it_sends_pods_away() {
    let out = tempfile::tempdir().unwrap();
    let flags = ["--eviction-hard", "", "--eviction-soft", "memory.available<99%"];
    let more = ["--eviction-soft-grace-period", "memory.available=12s", "--eviction-max-pod-grace-period", "20"];
    let Some(cloud) = Cloud::start_with(&[flags, more].concat()) else { return };
    let spec = format!(
        "  terminationGracePeriodSeconds: 30
  nodeName: node
  volumes: [{{name: out, hostPath: {{path: {}}}}}]
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'trap \"sleep 3; echo goodbye > /out/said; exit 0\" TERM; touch /out/runs; while :; do sleep 0.1; done']
    resources: {{requests: {{memory: 1}}}}
    volumeMounts: [{{name: out, mountPath: /out}}]",
        out.path().display()
    );
    cloud.apply(&pod("user", &spec).replacen("  terminationGracePeriodSeconds: 0\n", "", 1));
    eventually("it runs", || out.path().join("runs").exists());
    cloud.wait_for("node/node", "{.status.conditions[?(@.type==\"MemoryPressure\")].status}", "True");
    assert_eq!(cloud.value("pod/user", "{.status.phase}"), "Running", "its patience is not over");
    cloud.wait_for("pod/user", "{.status.reason}", "Evicted");
    assert_eq!(std::fs::read_to_string(out.path().join("said")).unwrap(), "goodbye\n", "it had its grace");
    cloud.kubectl("delete pod --all --timeout=60s").success();
}

/// The machine goes down: pods end by their importance, each within its time, and are told as ended.
#[test]
fn pods_end_with_the_machine_the_important_ones_last() {
    let out = tempfile::tempdir().unwrap();
    let flags = ["--shutdown-grace-period", "6s", "--shutdown-grace-period-critical-pods", "2s"];
    let Some(cloud) = Cloud::start_with(&flags) else { return };
    let says = |name: &str, more: &str, script: &str| {
        let spec = format!(
            "  {more}
  volumes: [{{name: out, hostPath: {{path: {}}}}}]
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'trap \"{script}\" TERM; while :; do sleep 0.1; done']
    volumeMounts: [{{name: out, mountPath: /out}}]",
            out.path().display()
        );
        pod(name, &spec).replacen("  terminationGracePeriodSeconds: 0\n", "", 1)
    };
    let told = |name: &str| format!("echo {name} >> /out/order; exit 0");
    let all = [
        says("plain", "terminationGracePeriodSeconds: 60", &format!("sleep 1; {}", told("plain"))),
        says("critical", "priorityClassName: system-node-critical", &told("critical")),
        says("stubborn", "terminationGracePeriodSeconds: 3600", "echo no"),
    ];
    cloud.apply(&all.join("---\n"));
    cloud.kubectl("create deployment idle --image=busybox -- sleep 3600").success();
    for name in ["plain", "critical", "stubborn"] {
        ready(&cloud, name);
    }
    cloud.kubectl("rollout status deployment/idle --timeout=60s").success();
    let began = std::time::Instant::now();
    cloud.end(rustix::process::Signal::TERM);
    assert!(began.elapsed() < std::time::Duration::from_secs(12), "{:?}", began.elapsed());
    assert_eq!(std::fs::read_to_string(out.path().join("order")).unwrap(), "plain\ncritical\n");
    cloud.up();
    cloud.kubectl("wait --for=condition=Ready node/node --timeout=60s").success();
    for name in ["plain", "critical", "stubborn"] {
        let told = cloud.value(&format!("pod/{name}"), "{.status.phase} {.status.reason}: {.status.message}");
        assert_eq!(told, "Failed Terminated: Pod was terminated in response to imminent node shutdown.", "{name}");
    }
    cloud.kubectl("rollout status deployment/idle --timeout=60s").success();
    let idle = cloud.kubectl("get pods -l app=idle -o jsonpath={.items[*].status.phase}").text();
    assert!(idle.contains("Running") && idle.contains("Failed"), "another one was made: {idle}");
    // Whoever only wants another program says so: pods run on.
    let running = || cloud.world.docker(["ps", "-q", "--filter", "label=io.kubernetes.container.name=busybox"]).text();
    let before = running();
    cloud.world.knarr(["down", "--keep"]).success();
    cloud.up();
    assert_eq!(running(), before);
    cloud.kubectl("delete deployment idle").success();
    cloud.kubectl("delete pod --all --timeout=60s").success();
}

#[test]
fn a_pod_that_names_its_node_has_to_fit_there() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(&pod(
        "huge",
        &format!("  nodeName: node\n  containers: [{{name: c, {SLEEPS}, resources: {{requests: {{cpu: '5000'}}}}}}]"),
    ));
    cloud.wait_for("pod/huge", "{.status.reason}", "OutOfcpu");
    let message = cloud.value("pod/huge", "{.status.message}");
    assert!(
        message.starts_with("Pod was rejected: Node didn't have enough resource: cpu, requested: 5000000, used: "),
        "{message}"
    );
    // What this node cannot do is said, not left out.
    cloud.apply(&pod("apart", &format!("  hostUsers: false\n  containers: [{{name: c, {SLEEPS}}}]")));
    let events = || cloud.kubectl("get events --field-selector involvedObject.name=apart").text();
    eventually("it is refused", || events().contains("user namespaces for pods (hostUsers: false) are not supported"));
    cloud.kubectl("delete pod --all --timeout=60s").success();
}

#[test]
fn a_directory_declares_pods_of_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let Some(cloud) = Cloud::start_with(&["--pod-manifests", folder.path().to_str().unwrap()]) else { return };
    let file = folder.path().join("web.yaml");
    let manifest = |word: &str| {
        pod("web", &format!("  containers: [{{name: c, {SLEEPS}, env: [{{name: WORD, value: {word}}}]}}]"))
    };
    std::fs::write(&file, manifest("one")).unwrap();
    std::fs::write(folder.path().join("broken.yaml"), "kind: [").unwrap();
    eventually("its pod is there", || cloud.value("pod/web-node", "{.status.phase}") == "Running");
    assert_eq!(cloud.value("pod/web-node", "{.metadata.annotations.kubernetes\\.io/config\\.source}"), "file");
    let uid = cloud.value("pod/web-node", "{.metadata.uid}");
    cloud.kubectl("delete pod web-node --wait=false").success();
    eventually("it comes again", || {
        let (now, phase) =
            (cloud.value("pod/web-node", "{.metadata.uid}"), cloud.value("pod/web-node", "{.status.phase}"));
        !now.is_empty() && now != uid && phase == "Running"
    });
    std::fs::write(&file, manifest("two")).unwrap();
    eventually("it changes", || cloud.run_in("web-node", "echo $WORD").text() == "two");
    std::fs::remove_file(&file).unwrap();
    eventually("it goes", || cloud.value("pod/web-node", "{.metadata.name}").is_empty());
}

#[test]
fn logs_are_shown_as_they_are_asked_for() {
    let Some(cloud) = Cloud::start() else { return };
    let spec = "  containers:
  - {name: a, image: busybox, command: [sh, -c, 'for i in 1 2 3 4 5; do echo a$i; done; exec sleep 3600']}
  - {name: b, image: busybox, command: [sh, -c, 'echo b; if [ -e /tmp/x ]; then exec sleep 3600; fi; exec sleep 3600']}";
    cloud.apply(&pod("talks", spec));
    ready(&cloud, "talks");
    let logs = |flags: &str| cloud.kubectl(&format!("logs talks {flags}")).success().text();
    eventually("everything is said", || logs("-c a").ends_with("a5") && logs("-c b") == "b");
    assert_eq!(logs("-c a --tail=2"), "a4\na5");
    assert_eq!(logs("-c a --limit-bytes=4"), "a1\na");
    assert_eq!(logs("-c a --since=1h"), "a1\na2\na3\na4\na5");
    assert_eq!(logs("--all-containers --prefix").lines().filter(|line| line.starts_with("[pod/talks/")).count(), 6);
    let stamped = logs("-c a --timestamps --tail=1");
    let (stamp, word) = stamped.split_once(' ').expect("a time before the line");
    assert!(word == "a5" && stamp.ends_with('Z') && stamp.len() > 20, "{stamped}");
    cloud
        .kubectl("logs talks -c a --previous")
        .exits(1)
        .stderr_has("previous terminated container \"a\" in pod \"talks\" not found");
    let id = cloud.value("pod/talks", "{.status.containerStatuses[?(@.name==\"a\")].containerID}");
    cloud.world.docker(["kill", id.trim_start_matches("knarr://")]).success();
    eventually("it runs again", || {
        cloud.value("pod/talks", "{.status.containerStatuses[?(@.name==\"a\")].restartCount}") == "1"
    });
    assert_eq!(logs("-c a --previous --tail=1"), "a5");
    cloud.kubectl("delete pod talks --timeout=60s").success();
}

/// A DaemonSet that mounts the node's `/var/log` finds every container's log by the paths and in the format that collectors know.
#[test]
fn collectors_find_logs_where_every_node_has_them() {
    let Some(cloud) = Cloud::start() else { return };
    let base = cloud.world.root().join("log");
    cloud.apply(&format!(
        "
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: collector}}
spec:
  selector: {{matchLabels: {{app: collector}}}}
  template:
    metadata: {{labels: {{app: collector}}}}
    spec:
      terminationGracePeriodSeconds: 0
      volumes: [{{name: varlog, hostPath: {{path: {}}}}}]
      containers:
      - {{name: c, {SLEEPS}, volumeMounts: [{{name: varlog, mountPath: /var/log, readOnly: true}}]}}
",
        base.display()
    ));
    let spec = "  containers:
  - {name: loud, image: busybox, command: [sh, -c, 'echo one; echo two >&2; printf three; exec sleep 3600']}";
    cloud.apply(&pod("talks", spec));
    ready(&cloud, "talks");
    cloud.kubectl("rollout status daemonset/collector --timeout=60s").success();
    let read = |path: &str| cloud.run_in("daemonset/collector", &format!("cat {path}")).text();
    let uid = cloud.value("pod/talks", "{.metadata.uid}");
    let id = |cloud: &Cloud| {
        let id = cloud.value("pod/talks", "{.status.containerStatuses[0].containerID}");
        id.trim_start_matches("knarr://").to_owned()
    };
    let first = id(&cloud);
    eventually("everything is written", || read("/var/log/pods/*/loud/*.log").lines().count() == 3);
    let text = read(&format!("/var/log/pods/default_talks_{uid}/loud/0.log"));
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        assert!(words[0].ends_with('Z') && words[0].starts_with("20") && words[0].contains('T'), "{line}");
        lines.push(words[1..].join(" "));
    }
    lines.sort();
    assert_eq!(lines, ["stderr F two", "stdout F one", "stdout P three"]);
    assert_eq!(read(&format!("/var/log/containers/talks_default_loud-{first}.log")), text, "by the link as well");
    let mut logs: Vec<String> = cloud.kubectl("logs talks").success().text().lines().map(str::to_owned).collect();
    logs.sort();
    assert_eq!(logs, ["one", "three", "two"], "kubectl reads the same");
    assert!(cloud.world.docker(["logs", &first]).text().contains("one"));
    // The next container writes the next file, and both go with the pod.
    cloud.world.docker(["kill", &first]).success();
    eventually("it runs again", || {
        cloud.value("pod/talks", "{.status.containerStatuses[0].restartCount}") == "1" && id(&cloud) != first
    });
    eventually("its file", || read(&format!("/var/log/pods/default_talks_{uid}/loud/1.log")).contains("stdout F one"));
    assert!(cloud.kubectl("logs talks --previous").success().text().contains("one"));
    let follow = cloud.kubectl("logs talks -f --tail=1 --pod-running-timeout=5s --limit-bytes=3").success().text();
    assert_eq!(follow.len(), 3, "followed as well: {follow}");
    cloud.kubectl("delete pod talks --timeout=60s").success();
    eventually("they are gone", || {
        let left = cloud.run_in("daemonset/collector", "ls /var/log/pods /var/log/containers").text();
        !left.contains("talks")
    });
    cloud.kubectl("delete daemonset collector").success();
    eventually("no pod is left", || cloud.kubectl("get pods -o name").text().is_empty());
    eventually("and no log", || std::fs::read_dir(base.join("pods")).unwrap().count() == 0);
}
