//! What nodes and pods use: `kubectl top`, the metrics API and the node's own pages.

use blackbox::{Cloud, eventually};

const BUSY: &str = "
apiVersion: v1
kind: Pod
metadata: {name: busy, labels: {app: busy}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: loop, image: busybox, command: [sh, -c, 'while :; do :; done'], resources: {limits: {cpu: 200m, memory: 32Mi}}}
  - {name: idle, image: busybox, command: [sleep, '3600']}
";

/// `120m` of a line's column.
fn millis(line: &str, column: usize) -> u64 {
    let word = line.split_whitespace().nth(column).unwrap_or_default();
    word.strip_suffix('m').and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line:?}"))
}

#[test]
fn top_tells_what_pods_and_nodes_use() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(BUSY);
    cloud.kubectl("wait --for=condition=Ready pod/busy --timeout=60s").success();
    let mut shown = String::new();
    eventually("the busy container takes what it may", || {
        shown = cloud.kubectl("top pod busy --containers --no-headers").text();
        let line = shown.lines().find(|line| line.contains(" loop "));
        line.is_some_and(|line| (120..=260).contains(&millis(line, 2)))
    });
    let idle = shown.lines().find(|line| line.contains(" idle ")).expect("both containers");
    assert!(millis(idle, 2) < 50, "{shown}");
    assert!(cloud.kubectl("top pods -l app=busy --no-headers").success().text().starts_with("busy"));
    cloud.kubectl("top pods -l app=other").success().stderr_has("No resources found");
    let nodes = cloud.kubectl("top nodes --no-headers").success().text();
    assert!(nodes.starts_with("node ") && millis(&nodes, 1) > 0, "{nodes}");
    // The group is found, and answers as an object of its kind.
    assert!(cloud.kubectl("api-resources --api-group=metrics.k8s.io --no-headers").text().contains("PodMetrics"));
    let one = cloud.kubectl("get --raw /apis/metrics.k8s.io/v1beta1/namespaces/default/pods/busy").success().text();
    assert!(one.contains("\"kind\":\"PodMetrics\"") && one.contains("\"window\":"), "{one}");
    cloud.kubectl("get --raw /apis/metrics.k8s.io/v1beta1/namespaces/default/pods/gone").exits(1);
    // The same figures from the node itself.
    let page = |path: &str| cloud.kubectl(&format!("get --raw /api/v1/nodes/node/proxy/{path}")).success().text();
    assert_eq!(page("healthz"), "ok");
    assert!(page("stats/summary").contains("\"nodeName\":\"node\""));
    let resource = page("metrics/resource");
    for line in [
        "container_cpu_usage_seconds_total{container=\"loop\",namespace=\"default\",pod=\"busy\"} ",
        "pod_memory_working_set_bytes{namespace=\"default\",pod=\"busy\"} ",
        "node_cpu_usage_seconds_total ",
    ] {
        assert!(resource.contains(line), "{line}\n{resource}");
    }
    assert!(page("metrics/cadvisor").contains("container_memory_working_set_bytes{container=\"loop\","));
    assert!(page("metrics").contains("kubelet_running_pods 1\n"));
    assert!(page("pods").contains("\"name\":\"busy\""));
    cloud.kubectl("get --raw /api/v1/nodes/node/proxy/nothing").exits(1);
    cloud.kubectl("delete pod busy --timeout=60s").success();
    eventually("its figures go with it", || cloud.kubectl("top pods").text().is_empty());
}
