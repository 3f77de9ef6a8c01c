//! A node whose pods run with another runtime, over the container runtime interface: here another engine of ours, which knows nothing of
//! the cluster.

use blackbox::{Cloud, World, eventually, finish};

/// The cloud, and the engine that its pods run with: the pods end before it, whatever the test has come to.
struct Pair {
    cloud: Cloud,
    runtime: World,
}

fn start() -> Option<Pair> {
    if !blackbox::is_root() {
        return None;
    }
    let runtime = World::start_with(&["--cri", "default"]);
    let endpoint = format!("unix://{}", runtime.run_dir().join("cri.sock").display());
    Some(Pair { cloud: Cloud::start_with(&["--container-runtime-endpoint", &endpoint])?, runtime })
}

/// Nothing of any pod is left, neither with the runtime nor with the node.
fn nothing_is_left(cloud: &Cloud, runtime: &World) {
    eventually("their containers are gone", || containers(runtime).is_empty());
    let left = |path: std::path::PathBuf| std::fs::read_dir(path).map_or(0, Iterator::count);
    eventually("their files are gone", || {
        left(cloud.world.run_dir().join("foreign/pods")) + left(cloud.world.root().join("log/pods")) == 0
    });
    eventually("their sandboxes are gone", || left(runtime.run_dir().join("pods")) == 0);
}

fn containers(world: &World) -> Vec<String> {
    let listed = world.docker(["ps", "-a", "--no-trunc", "--format", "{{.Names}}"]).success().text();
    listed.lines().map(str::to_owned).collect()
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
      - name: web
        image: busybox
        imagePullPolicy: Never
        command: [sh, -c, 'mkdir /www && hostname > /www/index.html && echo begun && exec httpd -f -p 8080 -h /www']
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
        livenessProbe: {exec: {command: [cat, /www/index.html]}, periodSeconds: 1, failureThreshold: 1}
        resources: {requests: {cpu: 10m}, limits: {memory: 64Mi}}
        volumeMounts: [{name: settings, mountPath: /etc/settings}]
      volumes: [{name: settings, configMap: {name: settings}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

#[test]
fn a_deployment_runs_with_another_runtime() {
    let Some(mut pair) = start() else { return };
    let Pair { cloud, runtime } = &mut pair;
    cloud.apply(WEB);
    cloud.kubectl("rollout status deployment/web --timeout=60s").success();
    let pod = cloud.value("pods", "{.items[0].metadata.name}");
    let uid = cloud.value(&format!("pod/{pod}"), "{.metadata.uid}");
    assert!(containers(runtime).contains(&format!("k8s_web_{pod}_default_{uid}_0")), "{:?}", containers(runtime));
    assert!(!containers(&cloud.world).iter().any(|name| name.starts_with("k8s_")), "none is in the cloud's own engine");

    // Logs, programs, files and the network.
    eventually("the log is told", || cloud.kubectl(&format!("logs {pod}")).text() == "begun");
    cloud.run_in(&pod, "echo $NODE; cat /etc/settings/colour").success().stdout("node\nblue");
    assert_eq!(cloud.run_in(&pod, "exit 7").code, 7);
    let piped = cloud.kubectl_with(&["exec", "-i", &pod, "--", "wc", "-c"], &"x".repeat(100_000));
    assert_eq!(piped.success().text().trim(), "100000");
    let hosts = cloud.run_in(&pod, "cat /etc/hosts").success().text();
    assert!(hosts.contains("Kubernetes-managed hosts file") && hosts.contains(&pod), "{hosts}");
    let other = cloud.value("pods", "{.items[1].status.podIP}");
    let fetch = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {other} 8080 | tail -n 1");
    assert_eq!(cloud.run_in(&pod, &fetch).success().text(), cloud.value("pods", "{.items[1].metadata.name}"));
    let usage = cloud.kubectl("get --raw /api/v1/nodes/node/proxy/stats/summary").success().text();
    assert!(usage.contains(&pod) && usage.contains("workingSetBytes"), "{usage}");
    forwarded(cloud, &pod);

    // A container that is sick is made anew; what it was is told.
    cloud.run_in(&pod, "rm /www/index.html");
    cloud.wait_for(&format!("pod/{pod}"), "{.status.containerStatuses[0].restartCount}", "1");
    cloud.wait_for(&format!("pod/{pod}"), "{.status.containerStatuses[0].ready}", "true");
    eventually("the earlier log is kept", || cloud.kubectl(&format!("logs -p {pod}")).text() == "begun");

    // The runtime dies; the pods do not, and the node goes on with its next process.
    let started = cloud.value(&format!("pod/{pod}"), "{.status.containerStatuses[0].state.running.startedAt}");
    runtime.end_engine(rustix::process::Signal::KILL);
    runtime.start_engine(&[]);
    eventually("the pod answers again", || cloud.run_in(&pod, "true").code == 0);
    assert_eq!(
        cloud.value(&format!("pod/{pod}"), "{.status.containerStatuses[0].state.running.startedAt}"),
        started,
        "it was not started again"
    );

    cloud.kubectl("delete deployment/web --wait=false").success();
    eventually("the pods are gone", || cloud.value("pods", "{.items}") == "[]");
    nothing_is_left(cloud, runtime);
}

/// A port of this machine leads to the pod.
fn forwarded(cloud: &Cloud, pod: &str) {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let mut command = cloud.kubectl_command();
    command.args(["port-forward", pod, ":8080"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("kubectl is there");
    let mut line = String::new();
    // It ends when it cannot say more.
    let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
    said.read_line(&mut line).expect("it says its port");
    // "Forwarding from 127.0.0.1:PORT -> 8080"
    let port = line.split([':', ' ']).find_map(|word| word.parse::<u16>().ok()).expect("a port");
    let got = blackbox::fetch(&format!("127.0.0.1:{port}"));
    child.kill().expect("end kubectl");
    let _ = child.wait();
    let got = got.unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(got.contains(pod), "{got}");
}

#[test]
fn a_job_with_what_it_says_at_its_end_and_a_pod_that_cannot_start() {
    let Some(pair) = start() else { return };
    let Pair { cloud, runtime } = &pair;
    cloud.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  restartPolicy: Never
  initContainers:
  - {name: first, image: busybox, imagePullPolicy: Never, command: [sh, -c, 'echo made > /shared/file'], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - name: main
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, 'cat /shared/file; id -u; echo last words > /dev/termination-log; exit 3']
    securityContext: {runAsUser: 1000, runAsNonRoot: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: shared, mountPath: /shared}]
  volumes: [{name: shared, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: broken}
spec:
  restartPolicy: Never
  containers: [{name: main, image: busybox, imagePullPolicy: Never, command: [/no/such/program]}]
",
    );
    cloud.wait_for("pod/once", "{.status.phase}", "Failed");
    let ended = "{.status.containerStatuses[0].state.terminated";
    assert_eq!(cloud.value("pod/once", &format!("{ended}.exitCode}}")), "3");
    assert_eq!(cloud.value("pod/once", &format!("{ended}.message}}")), "last words");
    assert_eq!(cloud.kubectl("logs once").text(), "made\n1000");
    eventually("it is told why the other one does not start", || {
        cloud.kubectl("get pod broken -o yaml").text().contains("no such file or directory")
    });
    cloud.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: talk}
spec:
  restartPolicy: Never
  containers: [{name: main, image: busybox, imagePullPolicy: Never, stdin: true, stdinOnce: true, command: [sh, -c, 'read line; echo got $line; cat']}]
",
    );
    cloud.wait_for("pod/talk", "{.status.phase}", "Running");
    cloud.kubectl_with(&["attach", "-i", "talk"], "hello\nmore\n").success().stdout_has("got hello\nmore\n");
    cloud.wait_for("pod/talk", "{.status.phase}", "Succeeded");
    cloud.kubectl("delete pod once broken talk --wait=true --timeout=60s").success();
    nothing_is_left(cloud, runtime);
}

#[test]
fn an_image_is_a_volume_with_another_runtime() {
    let Some(pair) = start() else { return };
    let Pair { cloud, runtime } = &pair;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY word /data/word\n").unwrap();
    std::fs::write(folder.path().join("word"), "from an image\n").unwrap();
    let mut build = runtime.docker_command();
    build.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", "data:1"]).arg(folder.path());
    finish(build, b"").success();
    cloud.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: reads}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: data, image: {reference: 'data:1', pullPolicy: Never}}]
  containers:
  - name: c
    image: busybox
    imagePullPolicy: Never
    command: [sleep, '3600']
    volumeMounts: [{name: data, mountPath: /data, subPath: data}, {name: data, mountPath: /all}]
",
    );
    cloud.kubectl("wait --for=condition=Ready pod/reads --timeout=120s").success();
    cloud.run_in("reads", "cat /data/word /all/data/word").success().stdout("from an image\nfrom an image\n");
    cloud.run_in("reads", "echo x > /all/data/word").exits(1);
    cloud.run_in("reads", "echo x > /data/word").exits(1);
    cloud.kubectl("delete pod reads --timeout=120s").success();
    nothing_is_left(cloud, runtime);
    runtime.docker(["rmi", "data:1"]).success();
}
