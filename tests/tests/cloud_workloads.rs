//! Workloads as the stock kubectl declares them: jobs, sets with storage, one pod a node, and a drain that honours a budget.

use std::path::PathBuf;
use std::process::Command;

use blackbox::{Answer, World, eventually, finish, is_root};

struct Cloud {
    world: World,
    kubeconfig: PathBuf,
}

impl Cloud {
    /// Nothing where there is no root or no kubectl.
    fn start() -> Option<Self> {
        let there = |program: &str| Command::new(program).arg("--help").output().is_ok();
        if !is_root() || !there("kubectl") {
            eprintln!("skipped: this test needs root and kubectl");
            return None;
        }
        let mut world = World::empty();
        world.end_engine(rustix::process::Signal::TERM);
        let cloud = Self { kubeconfig: world.dir().join("kubeconfig"), world };
        cloud.up();
        cloud.world.load(&blackbox::image::busybox());
        cloud.kubectl("wait --for=condition=Ready node/node --timeout=120s").success();
        Some(cloud)
    }

    fn up(&self) {
        let kubeconfig = self.kubeconfig.to_str().unwrap();
        self.world.knarr(["up", "--port", "0", "--kubeconfig", kubeconfig, "--node-name", "node"]).success();
    }

    fn kubectl_with(&self, words: &[&str], input: &str) -> Answer {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", self.world.dir()).args(words);
        finish(command, input.as_bytes())
    }

    fn kubectl(&self, line: &str) -> Answer {
        self.kubectl_with(&line.split_whitespace().collect::<Vec<_>>(), "")
    }

    fn apply(&self, manifest: &str) {
        self.kubectl_with(&["apply", "-f", "-"], manifest).success();
    }

    /// Everything is gone, and the machine as before.
    fn end(self) {
        self.world.knarr(["doctor"]).success();
        self.world.knarr(["down"]).success();
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.kubectl("get pods,jobs,pvc,pv,events -o wide").text());
            eprintln!("{}", std::fs::read_to_string(self.world.run_dir().join("up.log")).unwrap_or_default());
        }
        // Whatever the test has come to: no pod outlives it.
        let _ = self.world.knarr(["down"]);
    }
}

const JOBS: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: squares}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: c, image: busybox, command: [sh, -c, 'echo $((JOB_COMPLETION_INDEX * JOB_COMPLETION_INDEX)) by $(hostname)']}
---
apiVersion: batch/v1
kind: Job
metadata: {name: broken}
spec:
  podFailurePolicy:
    rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: busybox, command: [sh, -c, exit 42]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: '@daily'
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{name: c, image: busybox, command: [echo, made by hand]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: often}
spec:
  schedule: '@every 1s'
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: c, image: busybox, command: ['true']}]
";

#[test]
fn jobs_run_to_their_end_and_on_time() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(JOBS);
    cloud.kubectl("wait --for=condition=complete job/squares --timeout=120s").success();
    let logs = cloud.kubectl("logs -l job-name=squares --tail=-1").success().text();
    let mut lines: Vec<&str> = logs.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0 by squares-0", "1 by squares-1", "4 by squares-2"]);
    let done = cloud.kubectl("get job squares -o jsonpath={.status.completedIndexes}/{.status.succeeded}").text();
    assert_eq!(done, "0-2/3");
    cloud.kubectl("wait --for=condition=failed job/broken --timeout=120s").success();
    let why = cloud.kubectl("get job broken -o jsonpath={.status.conditions[?(@.type=='Failed')].reason}").text();
    assert_eq!(why, "PodFailurePolicy");
    // What a person starts from a schedule, and what the schedule starts itself.
    cloud.kubectl("create job --from=cronjob/nightly byhand").success();
    cloud.kubectl("wait --for=condition=complete job/byhand --timeout=120s").success();
    assert_eq!(cloud.kubectl("logs job/byhand").text(), "made by hand");
    eventually("the schedule fires", || {
        !cloud.kubectl("get cronjob often -o jsonpath={.status.lastSuccessfulTime}").text().is_empty()
    });
    // Nothing holds back the pods of jobs that are deleted.
    cloud.kubectl("delete cronjob --all").success();
    cloud.kubectl("delete job --all").success();
    eventually("no pod is left", || cloud.kubectl("get pods -o name").text().is_empty());
    cloud.end();
}

const DATABASE: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: busybox
        command: [sh, -c, 'echo $(hostname) >> /data/starts; exec sleep 3600']
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 1Mi}}
";

#[test]
fn a_set_keeps_its_data_and_lets_go_of_it_when_asked() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(DATABASE);
    cloud.kubectl("rollout status statefulset/db --timeout=120s").success();
    let starts = |pod: &str| cloud.kubectl(&format!("exec {pod} -- cat /data/starts")).text();
    assert_eq!((starts("db-0").as_str(), starts("db-1").as_str()), ("db-0", "db-1"));
    let claims = cloud.kubectl("get pvc -o jsonpath={.items[*].metadata.name}:{.items[*].status.phase}").text();
    assert_eq!(claims, "data-db-0 data-db-1:Bound Bound");
    // The same data after the pod was replaced, and after everything was started again.
    cloud.kubectl("delete pod db-1").success();
    eventually("db-1 is back with its data", || starts("db-1") == "db-1\ndb-1");
    cloud.world.knarr(["down", "--keep"]).success();
    cloud.up();
    eventually("the data is still there", || starts("db-0") == "db-0");
    // Scaled down, the claim stays; deleted, its directory goes.
    cloud.kubectl("scale statefulset db --replicas=1").success();
    eventually("db-1 has gone", || cloud.kubectl("get pods -o name").text() == "pod/db-0");
    assert_eq!(cloud.kubectl("get pvc -o name").text().lines().count(), 2);
    let volume = cloud.kubectl("get pvc data-db-1 -o jsonpath={.spec.volumeName}").text();
    let path = cloud.kubectl(&format!("get pv {volume} -o jsonpath={{.spec.hostPath.path}}")).text();
    assert_eq!(std::fs::read_to_string(PathBuf::from(&path).join("starts")).unwrap(), "db-1\ndb-1\n");
    cloud.kubectl("delete pvc data-db-1").success();
    eventually("the volume goes with its claim", || {
        !cloud.kubectl("get pv -o name").text().contains(&volume) && !PathBuf::from(&path).exists()
    });
    cloud.kubectl("delete statefulset db").success();
    cloud.kubectl("delete pvc --all").success();
    eventually("no volume is left", || cloud.kubectl("get pv -o name").text().is_empty());
    cloud.end();
}

const AGENTS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: busybox, command: [sleep, '3600']}]
---
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
      containers: [{name: c, image: busybox, command: [sleep, '3600']}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: web}}
";

#[test]
fn one_pod_a_node_and_a_drain_that_asks_first() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(AGENTS);
    cloud.kubectl("rollout status daemonset/agent --timeout=120s").success();
    cloud.kubectl("rollout status deployment/web --timeout=120s").success();
    cloud.kubectl("set env daemonset/agent WORD=new").success();
    cloud.kubectl("rollout status daemonset/agent --timeout=120s").success();
    cloud.kubectl("rollout undo daemonset/agent").success();
    cloud.kubectl("rollout status daemonset/agent --timeout=120s").success();
    eventually("the budget is counted", || {
        cloud.kubectl("get pdb web -o jsonpath={.status.currentHealthy}/{.status.disruptionsAllowed}").text() == "2/0"
    });
    let drain = cloud.kubectl("drain node --ignore-daemonsets --timeout=3s");
    drain.exits(1).stderr_has("Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(cloud.kubectl("get pods -l app=web -o name").text().lines().count(), 2);
    // A budget that allows one: it goes, and the next one finds no node; the DaemonSet's pod stays.
    cloud.kubectl_with(&["patch", "pdb", "web", "--type=merge", "-p", r#"{"spec":{"minAvailable":0}}"#], "").success();
    cloud.kubectl("drain node --ignore-daemonsets --timeout=60s").success();
    eventually("what was evicted waits for a node", || {
        let phases = cloud.kubectl("get pods -l app=web -o jsonpath={.items[*].status.phase}");
        phases.text() == "Pending Pending"
    });
    let running =
        cloud.kubectl("get pods --field-selector=status.phase=Running -o jsonpath={.items[*].metadata.labels.app}");
    assert_eq!(running.text(), "agent");
    cloud.kubectl("uncordon node").success();
    cloud.kubectl("rollout status deployment/web --timeout=120s").success();
    cloud.kubectl("delete deployment,daemonset --all").success();
    eventually("no pod is left", || cloud.kubectl("get pods -o name").text().is_empty());
    cloud.end();
}
