//! The cluster without kubectl: knarr's own commands against a cloud of one node.

use blackbox::{Cloud, eventually};

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
      - {name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, 'echo started; exec sleep 3600']}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: hello}
";

#[test]
fn a_workload_is_declared_followed_changed_and_deleted_without_kubectl() {
    let Some(cloud) = Cloud::start() else { return };
    let knarr = |line: &str| cloud.world.knarr(line.split_whitespace());
    let file = cloud.path().join("web.yaml");
    std::fs::write(&file, WEB).unwrap();
    let file = file.to_str().unwrap();
    let apply = format!("apply -f {file}");
    knarr(&format!("{apply} --dry-run=server")).success().stdout_has("deployment.apps/web created (server dry run)");
    knarr("get deploy/web").exits(1).stderr("Error from server (NotFound): deployments.apps \"web\" not found\n");
    knarr(&apply).success().stdout("deployment.apps/web created\nconfigmap/words created\n");
    knarr("rollout status deploy/web --timeout=60s")
        .success()
        .stdout_has("deployment \"web\" successfully rolled out\n");
    knarr(&apply).success().stdout("deployment.apps/web unchanged\nconfigmap/words unchanged\n");
    // What others see as well: the same table as kubectl's but for ages.
    let without_ages = |text: String| {
        let lines: Vec<String> =
            text.lines().map(|line| line.rsplit_once(' ').unwrap().0.trim_end().to_owned()).collect();
        lines
    };
    let (ours, theirs) = (knarr("get deploy").success().text(), cloud.kubectl("get deploy").success().text());
    assert_eq!(without_ages(ours), without_ages(theirs));
    let (ours, theirs) = (knarr("get cm/words -o yaml").success(), cloud.kubectl("get cm/words -o yaml").success());
    assert_eq!(ours.text(), theirs.text());
    let path = "jsonpath={.items[*].status.phase}";
    cloud.world.knarr(["get", "pods", "-o", path]).success().stdout("Running Running");

    knarr("wait deploy/web --for=condition=Available").success().stdout("deployment.apps/web condition met\n");
    knarr("logs deploy/web").success().stdout("started\n");
    let pod = knarr("get pods -o name").success().text().lines().next().unwrap().to_owned();
    cloud
        .world
        .knarr(["exec", &pod, "--", "sh", "-c", "echo out; echo err >&2; exit 7"])
        .exits(7)
        .stdout("out\n")
        .stderr_has("err\n");
    let mut cat = cloud.world.knarr_command();
    cat.args(["exec", "-i", &pod, "--", "cat"]);
    blackbox::finish(cat, b"from here").success().stdout("from here");

    knarr("scale deploy/web --replicas=1").success().stdout("deployment.apps/web scaled\n");
    eventually("one pod is left", || knarr("get pods -o name").text().lines().count() == 1);
    knarr("rollout restart deploy/web").success().stdout("deployment.apps/web restarted\n");
    knarr("rollout status deploy/web --timeout=60s").success();
    knarr("rollout history deploy/web").success().stdout_has("2          <none>");
    knarr("rollout undo deploy/web").success().stdout("deployment.apps/web rolled back\n");
    knarr("rollout status deploy/web --timeout=60s").success();
    knarr("describe deploy/web").success().stdout_has("ScalingReplicaSet");
    knarr("explain deploy.spec.replicas").success().stdout_has("FIELD: replicas <integer>");
    // A name without a slash is a container's, as ever.
    knarr("logs web").exits(1).stderr_has("No such container: web");
    knarr(&format!("delete -f {file}"))
        .success()
        .stdout_has("deployment.apps \"web\" deleted from default namespace\n");
    eventually("nothing is left", || knarr("get pods -o name").text().is_empty());
}

#[test]
fn what_is_wrong_is_told_with_what_helps() {
    let Some(cloud) = Cloud::start() else { return };
    let knarr = |line: &str| cloud.world.knarr(line.split_whitespace());
    cloud.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, 'exit 3']}]
---
apiVersion: v1
kind: Pod
metadata: {name: nowhere}
spec:
  nodeSelector: {disk: fast}
  containers: [{name: c, image: busybox}]
",
    );
    eventually("the crash is told", || knarr("why pod/crash").text().contains("knarr logs pod/crash -c c --previous"));
    let story = knarr("why pod/crash").success().text();
    let at = |step: &str| story.find(step).unwrap_or_else(|| panic!("{step:?} is not told:\n{story}"));
    assert!(
        at("admitted and created") < at("Scheduled") && at("Scheduled") < at("ended with code 3 (Error)"),
        "{story}"
    );
    knarr("why pod/nowhere").success().stdout_has("has no node");
    knarr("status").success().stdout_has("pod/nowhere has no node").stdout_has("1 of 1 ready: node");
    cloud.world.knarr(["run", "--name", "gone", "busybox", "no-such-program"]).exits(127);
    cloud.world.knarr(["why", "gone"]).success().stdout_has("its program was not found");
    knarr("rm gone").success();
    knarr("delete pods --all").success();
}

#[test]
fn docker_finds_the_cloud_by_a_context() {
    let folder = tempfile::tempdir().unwrap();
    let Some(cloud) = Cloud::start() else { return };
    cloud.world.knarr(["down"]).success();
    let mut up = cloud.world.knarr_command();
    up.env("DOCKER_CONFIG", folder.path()).args(["up", "--port", "0", "--docker-context", "ship"]);
    blackbox::finish(up, b"").success().stdout_has("docker --context ship ps");
    let docker = |words: &[&str]| {
        let mut docker = std::process::Command::new("docker");
        docker.env("DOCKER_CONFIG", folder.path()).env_remove("DOCKER_HOST").args(words);
        blackbox::finish(docker, b"")
    };
    docker(&["--context", "ship", "images", "--format", "{{.Repository}}"]).success().stdout("busybox\n");
    let mut down = cloud.world.knarr_command();
    down.env("DOCKER_CONFIG", folder.path()).arg("down");
    blackbox::finish(down, b"").success();
    assert!(!docker(&["context", "ls", "-q"]).success().text().contains("ship"));
}

#[test]
fn ports_of_pods_and_services_are_carried_here() {
    use std::io::{BufRead, BufReader};
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'mkdir /www; echo I am web > /www/index.html; exec httpd -f -p 8080 -h /www']
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
",
    );
    cloud.kubectl("wait --for=condition=Ready pod/web --timeout=60s").success();
    for (target, port) in [("pod/web", "8080"), ("pod/web", "http"), ("svc/front", "80")] {
        let mut command = cloud.world.knarr_command();
        command.args(["port-forward", target, &format!(":{port}"), "--address", "127.0.0.1"]);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let told = lines.next().unwrap_or_default();
        let at = told.strip_prefix("Forwarding from ").and_then(|rest| rest.strip_suffix(" -> 8080"));
        let answers: Vec<_> = at.into_iter().flat_map(|at| [blackbox::fetch(at), blackbox::fetch(at)]).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(answers, [Ok("I am web".to_owned()), Ok("I am web".to_owned())], "{target} {port}: {told}");
        assert!(lines.next().unwrap_or_default().starts_with("Handling connection for "));
    }
    let knarr = |line: &str| cloud.world.knarr(line.split_whitespace());
    knarr("port-forward svc/front 81").exits(1).stderr_has("Service does not have a service port 81");
    knarr("port-forward pod/none 80").exits(1).stderr_has("NotFound");
    cloud.kubectl("delete pod web").success();
}

#[test]
fn what_a_cloud_leaves_behind_is_named() {
    let Some(cloud) = Cloud::start() else { return };
    let links = || -> Vec<String> {
        let all =
            std::fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        all.filter(|name| name.ends_with("-svc")).collect()
    };
    let before = links();
    assert!(cloud.world.knarr(["doctor"]).success().text().starts_with("Nothing found"));
    cloud.world.knarr(["down"]).success();
    let now = links();
    let own: Vec<&String> = before.iter().filter(|name| !now.contains(name)).collect();
    let [link] = own[..] else { panic!("{before:?} {now:?}") };
    // As a cloud leaves it that is killed, and whose pods are ended by hand.
    let ip = |words: &[&str]| assert!(std::process::Command::new("ip").args(words).status().unwrap().success());
    ip(&["link", "add", link, "type", "bridge"]);
    let told = cloud.world.knarr(["doctor"]);
    ip(&["link", "del", link]);
    told.exits(1).stdout_has(link).stdout_has("knarr up, knarr down");
    cloud.world.knarr(["doctor"]).success();
}
