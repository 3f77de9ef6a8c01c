//! Steps of a pod's life at which the cloud's process ends as if by `kill -9`: the next one finishes what was begun, and nothing is left.

use blackbox::{Cloud, eventually};
use rustix::process::Signal;

const POINTS: &[&str] = &[
    "engine.pods.before_reserve",
    "engine.pods.after_reserve",
    "engine.pods.after_wire",
    "engine.pods.before_release",
    "pods.sandbox.before_mount",
    "pods.sandbox.before_ready",
    "pods.sandbox.unmounted",
    "pods.start.created",
];

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox, command: [sleep, '1000']}]
";

fn sweep(cloud: &Cloud, point: &str) {
    let mark = cloud.path().join(point);
    let environment = [("KNARR_CRASH_POINT", point), ("KNARR_CRASH_MARK", mark.to_str().unwrap())];
    cloud.end(Signal::TERM);
    cloud.up_with(&environment).success();
    std::fs::write(&mark, "").unwrap();
    // The process may end before it has answered.
    let apply = || drop(cloud.kubectl_with(&["apply", "-f", "-"], POD));
    apply();
    let ready = || cloud.value("pod/one", "{.status.conditions[?(@.type=='Ready')].status}") == "True";
    eventually(&format!("{point}: the pod runs, or the process has ended"), || !mark.exists() || ready());
    if mark.exists() {
        // The steps of an end.
        cloud.kubectl("delete pod one --wait=false");
        eventually(&format!("{point}: the process has ended"), || !mark.exists());
    }
    cloud.ends();
    cloud.up();
    eventually(&format!("{point}: the pod runs"), || {
        // It may be on its way out, as asked for before.
        apply();
        ready() && cloud.value("pod/one", "{.metadata.deletionTimestamp}").is_empty()
    });
    cloud.kubectl("delete pod one --timeout=60s").success();
    // A pod without grace is gone from the API before it is from the node.
    eventually(&format!("{point}: the doctor is content"), || cloud.world.knarr(["doctor"]).code == 0);
}

#[test]
fn every_step_of_a_pod_can_be_the_last_one() {
    let Some(cloud) = Cloud::start() else { return };
    POINTS.iter().for_each(|point| sweep(&cloud, point));
}
