//! A cloud of one node, from `knarr up` to `knarr down`, as the stock kubectl and docker see it.

use blackbox::{Cloud, eventually, finish};

/// Pods of the deployment that run.
fn names(cloud: &Cloud) -> Vec<String> {
    let names = cloud.kubectl("get pods -l app=web -o name --field-selector=status.phase=Running");
    names.success().text().split_whitespace().map(str::to_owned).collect()
}

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: busybox
        command: [sh, -c, 'echo started as $WHO; exec sleep 3600']
        env:
        - {name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        - {name: WORD, valueFrom: {configMapKeyRef: {name: words, key: word}}}
";

#[test]
fn what_is_declared_runs_heals_scales_and_ends() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.kubectl("create configmap words --from-literal=word=hello").success();
    cloud.kubectl_with(&["apply", "-f", "-"], WEB).success();
    cloud.kubectl("rollout status deployment/web --timeout=120s").success();
    let first = names(&cloud);
    assert_eq!(first.len(), 2);
    assert_eq!(cloud.kubectl(&format!("logs {}", first[0])).success().text(), "started as default");
    let pod = &first[0];
    cloud.kubectl_with(&["exec", pod, "--", "sh", "-c", "echo $WORD"], "").success().stdout("hello\n");
    cloud
        .kubectl_with(&["exec", pod, "--", "sh", "-c", "echo to stderr >&2; exit 7"], "")
        .exits(7)
        .stderr_has("to stderr");
    // Both worlds see the same containers.
    let shown = cloud.world.docker(["ps", "--filter", "label=io.kubernetes.container.name=c", "-q"]).success().text();
    assert_eq!(shown.lines().count(), 2, "{shown}");
    // A pod that goes is replaced; a container that is killed runs again in its pod.
    cloud.kubectl(&format!("delete {pod}")).success();
    eventually("the pod is replaced", || names(&cloud).len() == 2 && !names(&cloud).contains(pod));
    let container = cloud.world.docker(["ps", "--filter", "label=io.kubernetes.container.name=c", "-lq"]).text();
    cloud.world.docker(["kill", &container]).success();
    eventually("the container runs again", || {
        let counts =
            cloud.kubectl("get pods -l app=web -o jsonpath={.items[*].status.containerStatuses[0].restartCount}");
        counts.text().split_whitespace().any(|count| count == "1") && names(&cloud).len() == 2
    });
    cloud.kubectl("scale deployment/web --replicas=4").success();
    cloud.kubectl("rollout status deployment/web --timeout=120s").success();
    assert_eq!(names(&cloud).len(), 4);
    // Pods outlive the process that runs them, and are found again.
    let before = names(&cloud);
    cloud.world.knarr(["down", "--keep"]).success();
    cloud.up();
    eventually("the same pods are there", || names(&cloud) == before);
    cloud.kubectl("delete deployment web").success();
    eventually("no pod is left", || cloud.kubectl("get pods -o name").text().is_empty());
    cloud.world.knarr(["doctor"]).success();
    cloud.world.knarr(["down"]).success();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = cloud.world.run_dir();
    assert!(!mounts.lines().any(|line| line.contains(ours.to_str().unwrap())), "{mounts}");
}

/// `docker build`, then `kubectl`: the image needs no push, no load and no copy.
#[test]
fn what_is_built_here_runs_at_once() {
    let Some(cloud) = Cloud::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let text =
        "FROM busybox\nRUN echo built > /word\nCMD [\"sh\", \"-c\", \"cat /word; exec sleep 3600\"]\nSTOPSIGNAL KILL\n";
    std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
    let mut build = cloud.world.docker_command();
    build.env("DOCKER_BUILDKIT", "0").args(["build", "-t", "app"]).arg(folder.path());
    finish(build, b"").success();
    cloud.kubectl("create deployment app --image=app").success();
    cloud.kubectl("rollout status deployment/app --timeout=120s").success();
    assert_eq!(cloud.kubectl("logs deployment/app").success().text(), "built");
    cloud.kubectl("delete deployment app").success();
    eventually("no pod is left", || cloud.kubectl("get pods -o name").text().is_empty());
}

/// A pod sets what is its own namespaces' and nothing else of the kernel's.
#[test]
fn a_pod_reaches_no_parameter_of_the_hosts_kernel() {
    let Some(cloud) = Cloud::start() else { return };
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  securityContext: {sysctls: [{name: kernel.core_pattern, value: '|/bin/evil'}]}
  containers: [{name: c, image: busybox, command: [sleep, '60']}]
";
    cloud.kubectl_with(&["apply", "-f", "-"], pod).success();
    eventually("it is refused", || cloud.kubectl("get events").text().contains("SysctlForbidden"));
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
    assert_eq!(cloud.kubectl("get pod greedy -o jsonpath={.status.phase}").text(), "Pending");
    cloud.kubectl("delete pod greedy --wait=false").success();
}
