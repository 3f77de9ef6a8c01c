//! Pods whose network is made by Debian's plugins, where the node is told to use them.

use std::path::Path;
use std::process::Command;

use blackbox::{Cloud, eventually};

const PLUGINS: &str = "/usr/lib/cni";

/// A directory with one network, on a bridge of its own that no plugin removes.
struct Net {
    directory: tempfile::TempDir,
    bridge: String,
    subnet: String,
}

impl Net {
    fn new() -> Option<Self> {
        if !blackbox::is_root() || !Path::new(PLUGINS).join("bridge").exists() {
            eprintln!("SKIPPED: needs root and network plugins in {PLUGINS}");
            return None;
        }
        let number = std::process::id();
        let directory = tempfile::tempdir().expect("a directory");
        let (bridge, subnet) = (format!("cni{number}"), format!("100.127.{}", number % 256));
        let net = Self { directory, bridge, subnet };
        std::fs::create_dir(net.path("net.d")).expect("a directory");
        let list = format!(
            r#"{{"cniVersion": "1.0.0", "name": "net", "plugins": [{{"type": "bridge", "bridge": "{}", "isGateway": true,
            "ipam": {{"type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": "{}.0/24"}}]],
            "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#,
            net.bridge,
            net.path("leases").display(),
            net.subnet,
        );
        std::fs::write(net.path("net.d/10-net.conflist"), list).expect("a configuration");
        Some(net)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Addresses that are given.
    fn leases(&self) -> usize {
        let entries = std::fs::read_dir(self.path("leases/net")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("100.")).count()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).output();
    }
}

#[test]
fn pods_get_their_network_from_plugins() {
    let Some(net) = Net::new() else { return };
    let conf = net.path("net.d").display().to_string();
    let Some(cloud) = Cloud::start_with(&["--cni-conf-dir", &conf, "--cni-bin-dir", PLUGINS]) else { return };
    cloud.apply(
        "
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
        command: [sh, -c, 'mkdir /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www']
        readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
",
    );
    cloud.kubectl("rollout status deployment/web --timeout=60s").success();
    let pod = |number: usize, path: &str| cloud.value("pods", &format!("{{.items[{number}].{path}}}"));
    let (one, other) = (pod(0, "metadata.name"), pod(1, "metadata.name"));
    for number in 0..2 {
        assert!(pod(number, "status.podIP").starts_with(&net.subnet), "{}", pod(number, "status.podIP"));
    }
    assert_eq!(net.leases(), 2);
    let ask = |address: &str, port: u16| {
        let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port} | tail -n 1");
        cloud.run_in(&one, &script).text()
    };
    assert_eq!(ask(&pod(1, "status.podIP"), 8080), other);
    let service = cloud.value("service/web", "{.spec.clusterIP}");
    // From the node: a pod that is led to itself needs a bridge that turns back.
    eventually("the service is reached", || {
        blackbox::fetch(&format!("{service}:80")).is_ok_and(|name| name == one || name == other)
    });

    cloud.kubectl("delete deployment/web --wait=false").success();
    eventually("the pods are gone", || cloud.value("pods", "{.items}") == "[]");
    eventually("their addresses are given back", || net.leases() == 0);
    assert_eq!(std::fs::read_dir(cloud.world.run_dir().join("cni")).map_or(0, Iterator::count), 0);
}
