//! A cloud whose process is killed: containers, services and logs go on without it, and the next one goes on with them.

use blackbox::{Cloud, eventually, fetch};
use rustix::process::Signal;

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
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: busybox
        command: [sh, -c, 'mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www']
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: counts}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox, command: [sh, -c, 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done']}]
";

#[test]
fn pods_services_and_logs_go_on_without_the_process_and_what_happened_is_told() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(WEB);
    cloud.kubectl("rollout status deployment/web --timeout=60s").success();
    cloud.kubectl("wait --for=condition=Ready pod/counts --timeout=60s").success();
    let address = format!("{}:80", cloud.value("service/web", "{.spec.clusterIP}"));
    eventually("the service answers", || fetch(&address).is_ok());
    let pods = cloud.kubectl("get pods -l app=web -o jsonpath={.items[*].metadata.name}").success().text();
    let pods: Vec<String> = pods.split(' ').map(str::to_owned).collect();
    let pid = |pod: &str| -> i32 {
        let id = cloud.value(&format!("pod/{pod}"), "{.status.containerStatuses[0].containerID}");
        let shown = cloud.world.docker(["inspect", "-f", "{{.State.Pid}}", id.trim_start_matches("knarr://")]);
        shown.success().text().parse().unwrap()
    };
    let before: Vec<i32> = pods.iter().map(|pod| pid(pod)).collect();
    let counting = pid("counts");
    cloud.end(Signal::KILL);
    // Nobody is there who could do anything.
    for _ in 0..50 {
        fetch(&address).expect("the service answers by the rules that are in the kernel");
    }
    let alive = |pid: i32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert!(before.iter().all(|pid| alive(*pid)) && alive(counting));
    rustix::process::kill_process(rustix::process::Pid::from_raw(before[0]).unwrap(), Signal::KILL).unwrap();
    eventually("one has ended", || !alive(before[0]));
    cloud.up();
    eventually("its end is told and healed", || {
        let path =
            "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.exitCode}";
        cloud.value(&format!("pod/{}", pods[0]), path) == "1 137"
    });
    assert_eq!(pid(&pods[1]), before[1], "the other one noticed nothing");
    assert_eq!(cloud.value(&format!("pod/{}", pods[1]), "{.status.containerStatuses[0].restartCount}"), "0");
    eventually("both answer", || {
        let mut answers: Vec<String> = (0..20).filter_map(|_| fetch(&address).ok()).collect();
        answers.sort();
        answers.dedup();
        answers.len() == 2
    });
    // Not a line was lost, and the writer was never held up.
    eventually("it has counted far enough", || {
        let text = cloud.kubectl("logs counts").success().text();
        let counted: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(counted, (1..=counted.len()).collect::<Vec<_>>());
        counted.len() > 100
    });
    assert_eq!(pid("counts"), counting);
    cloud.kubectl("delete deployment,service web").success();
    cloud.kubectl("delete pod --all --timeout=60s").success();
}
