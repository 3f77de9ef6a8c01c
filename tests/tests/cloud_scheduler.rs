//! How pods find their nodes, where a file says so.

use blackbox::{Cloud, World, eventually, finish, is_root};

const CONFIG: &str = "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
podInitialBackoffSeconds: 1
profiles:
- schedulerName: default-scheduler
- schedulerName: picky
  pluginConfig:
  - name: NodeAffinity
    args:
      addedAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: In, values: [ssd]}]}]
- schedulerName: generous
  pluginConfig: [{name: NodeResourcesFit, args: {ignoredResourceGroups: [example.com]}}]
";

fn pod(name: &str, scheduler: &str, resources: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  schedulerName: {scheduler}\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: c, image: busybox, command: [sleep, '3600'], resources: {{limits: {{{resources}}}}}}}]\n"
    )
}

#[test]
fn profiles_of_a_file_decide_for_the_pods_that_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scheduler.yaml");
    std::fs::write(&file, CONFIG).unwrap();
    let Some(cloud) = Cloud::start_with(&["--scheduler-config", file.to_str().unwrap()]) else { return };
    cloud.apply(&pod("plain", "default-scheduler", ""));
    cloud.apply(&pod("picky", "picky", ""));
    cloud.apply(&pod("wants", "default-scheduler", "example.com/gpu: 1"));
    cloud.apply(&pod("nobodys", "somebody-elses", ""));
    cloud.kubectl("wait --for=condition=Ready pod/plain --timeout=120s").success();
    let why =
        |name: &str| cloud.value(&format!("pod/{name}"), "{.status.conditions[?(@.type==\"PodScheduled\")].message}");
    eventually("it is told why", || {
        why("picky").starts_with("0/1 nodes are available: 1 node(s) didn't match scheduler-enforced node affinity.")
    });
    eventually("it is told why", || {
        why("wants").starts_with("0/1 nodes are available: 1 Insufficient example.com/gpu.")
    });
    // What helps is noticed.
    cloud.kubectl("label node node disk=ssd").success();
    cloud.kubectl("wait --for=condition=Ready pod/picky --timeout=120s").success();
    // The node has no such thing and says so itself: by this profile the pod gets there, no further.
    cloud.apply(&pod("asks", "generous", "example.com/gpu: 1"));
    cloud.wait_for("pod/asks", "{.spec.nodeName}", "node");
    assert_eq!(why("nobodys"), "", "nobody looks after it");
    cloud.kubectl("delete pod --all --timeout=120s").success();
}

#[test]
fn a_file_that_is_wrong_starts_nothing() {
    if !is_root() {
        return;
    }
    let world = World::without_engine();
    let file = world.dir().join("scheduler.yaml");
    let wrong = CONFIG.replace("leaderElection: {leaderElect: false}", "extenders: [{urlPrefix: 'http://x'}]\npods: 3");
    std::fs::write(&file, wrong).unwrap();
    let mut up = world.knarr_command();
    up.args(["up", "--port", "0", "--node-name", "node", "--kubeconfig"]).arg(world.dir().join("kubeconfig"));
    up.arg("--scheduler-config").arg(&file);
    let answer = finish(up, b"");
    assert_ne!(answer.code, 0);
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    let expected = format!("--scheduler-config {}: pods: unknown field; extenders: not supported", file.display());
    assert!(said.contains(&expected), "{said}");
}
