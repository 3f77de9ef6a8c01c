//! Containers that people run without the cluster, as the cluster shows them.

use blackbox::{Cloud, eventually};

const POD: &str = "pod/web-node";

fn value(cloud: &Cloud, path: &str) -> String {
    cloud.kubectl_with(&["get", "-n", "knarr-containers", POD, "-o", &format!("jsonpath={path}")], "").text()
}

#[test]
fn a_plain_container_is_a_pod_that_only_the_container_changes() {
    let Some(cloud) = Cloud::start() else { return };
    let docker = |words: &[&str]| cloud.world.docker(words);
    let labels = ["--label", "com.docker.compose.project=shop", "--label", "note=not a label of a pod"];
    let run =
        [&["run", "-d", "--name", "web", "--restart", "always", "-e", "PASSWORD=secret", "-p", "8080"], &labels[..]]
            .concat();
    docker(
        &[&run[..], &["busybox", "sh", "-c", "echo hello; trap 'exit 3' TERM; while :; do sleep 0.1; done"]].concat(),
    )
    .success();
    eventually("it is shown", || cloud.kubectl("get pods -A").text().contains("web-node"));
    eventually("it runs and is ready", || {
        value(&cloud, "{.status.phase} {.status.conditions[?(@.type==\"Ready\")].status}") == "Running True"
    });
    let address = docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "web"]).text();
    assert_eq!(value(&cloud, "{.status.podIP}"), address);
    assert_eq!(
        value(&cloud, "{.spec.nodeName} {.spec.restartPolicy} {.spec.containers[0].image}"),
        "node Always busybox"
    );
    assert_ne!(value(&cloud, "{.spec.containers[0].ports[0].containerPort}"), "");
    let shop = cloud.kubectl("get pods -A -l com.docker.compose.project=shop -o name").text();
    assert_eq!(shop, POD, "labels that can be a pod's are");
    let whole = cloud.kubectl("get -n knarr-containers pod/web-node -o yaml").success().text();
    assert!(!whole.contains("secret") && !whole.contains("PASSWORD"), "its environment is its own: {whole}");
    let id = docker(&["inspect", "-f", "{{.Id}}", "web"]).text();
    assert_eq!(value(&cloud, "{.metadata.annotations.kubernetes\\.io/config\\.mirror}"), id);

    // It is read through the pod.
    assert_eq!(cloud.kubectl("logs -n knarr-containers web-node").success().text(), "hello");
    let exec = ["exec", "-n", "knarr-containers", "web-node", "--", "hostname"];
    assert_eq!(cloud.kubectl_with(&exec, "").success().text(), &id[..12]);

    // Nothing that is done to the pod reaches the container, and nothing of it stays.
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", "web"]).text();
    let uid = value(&cloud, "{.metadata.uid}");
    cloud.kubectl("delete -n knarr-containers pod/web-node --wait=false").success();
    eventually("it comes again", || {
        let now = value(&cloud, "{.metadata.uid}");
        !now.is_empty() && now != uid && value(&cloud, "{.status.phase}") == "Running"
    });
    cloud.kubectl("set image -n knarr-containers pod/web-node web=other").success();
    cloud.kubectl("label -n knarr-containers --overwrite pod/web-node com.docker.compose.project=mine").success();
    eventually("it says again what is", || {
        value(&cloud, "{.spec.containers[0].image} {.metadata.labels.com\\.docker\\.compose\\.project}")
            == "busybox shop"
    });
    cloud.kubectl("drain node --ignore-daemonsets --timeout=60s").success();
    cloud.kubectl("uncordon node").success();
    assert_eq!(docker(&["inspect", "-f", "{{.State.Pid}}", "web"]).text(), pid, "the container noticed nothing");

    // What happens to the container is told.
    docker(&["pause", "web"]).success();
    eventually("it is not ready", || value(&cloud, "{.status.conditions[?(@.type==\"Ready\")].status}") == "False");
    docker(&["unpause", "web"]).success();
    docker(&["stop", "web"]).success();
    let ended = "{.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}";
    eventually("its end is told", || value(&cloud, ended) == "Failed 3");
    docker(&["rename", "web", "shop"]).success();
    eventually("it has another name", || {
        let all = cloud.kubectl("get pods -n knarr-containers -o name").text();
        all == "pod/shop-node"
    });
    docker(&["rm", "shop"]).success();
    eventually("it vanishes", || cloud.kubectl("get pods -n knarr-containers -o name").text().is_empty());

    // Pods are no plain containers.
    cloud.kubectl("run pod --image=busybox --restart=Never -- sleep 3600").success();
    cloud.kubectl("wait --for=condition=Ready pod/pod --timeout=60s").success();
    assert_eq!(cloud.kubectl("get pods -n knarr-containers -o name").text(), "");
    cloud.kubectl("delete pod pod --grace-period=0 --force").success();
}
