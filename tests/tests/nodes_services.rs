//! Services, names and policies over several nodes, and a cluster that loses servers and nodes while somebody uses it.

use std::process::Command;

use blackbox::{Agent, Etcd, Lan, Server, Traffic, eventually, fetch, is_root, traffic};
use rustix::process::Signal;

/// Whether this machine can be several.
fn can(more: &[&str]) -> bool {
    let there = |program: &&str| Command::new(program).arg("--help").output().is_ok();
    let can = is_root() && ["kubectl", "ip", "nsenter"].iter().chain(more).all(there);
    if !can {
        eprintln!("SKIPPED: needs root, kubectl, ip, nsenter {}", more.join(" "));
    }
    can
}

fn ready(server: &Server, node: &str) {
    eventually(&format!("node {node} is ready"), || {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        server.kubectl_with(&["get", "node", node, "-o", path], "").text() == "True"
    });
}

/// Web servers that say their pod's name and end at once when they are told to: who asks them then gets no answer.
fn web(replicas: usize) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 2
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}
      - {{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {{matchLabels: {{app: web}}}}}}
      containers:
      - name: c
        image: busybox
        imagePullPolicy: IfNotPresent
        command:
        - sh
        - -c
        - 'mkdir /www; hostname > /www/index.html; trap \"exit 0\" TERM; httpd -f -p 8080 -h /www & wait'
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{tcpSocket: {{port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: web}}
spec: {{maxUnavailable: 1, selector: {{matchLabels: {{app: web}}}}}}
"
    )
}

fn value(server: &Server, object: &str, path: &str) -> String {
    server.kubectl_with(&["get", object, "-o", &format!("jsonpath={path}")], "").text()
}

/// Names of the nodes on which ready pods of the deployment are, sorted.
fn places(server: &Server) -> Vec<String> {
    let path = "{range .items[?(@.status.phase==\"Running\")]}{.spec.nodeName}{\"\\n\"}{end}";
    let text = server.kubectl_with(&["get", "pods", "-l", "app=web", "-o", &format!("jsonpath={path}")], "").text();
    let mut all: Vec<String> = text.lines().map(str::to_owned).collect();
    all.sort();
    all
}

fn gone(server: &Server) {
    server.kubectl("delete deployment,service,pod,pvc,networkpolicy --all --wait=false").success();
    eventually("no pod is left", || server.kubectl("get pods -o name").success().text().is_empty());
}

/// A pod on a node, from which others are asked.
fn client(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{role: {name}}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: busybox, imagePullPolicy: IfNotPresent, \
         command: [sleep, '3600']}}]\n---\n"
    )
}

fn in_pod(server: &Server, pod: &str, script: &str) -> String {
    server.kubectl_with(&["exec", pod, "--", "sh", "-c", script], "").text()
}

fn asks(server: &Server, pod: &str, address: &str) -> String {
    in_pod(server, pod, &format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {address} 80 2>&1 | tail -n 1"))
}

const CLAIM: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: two}
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
  containers: [{name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, 'echo kept > /data/file; exec sleep 3600'],
    volumeMounts: [{name: data, mountPath: /data}]}]
";

/// Nodes whose server is elsewhere have services, names, policies and volumes as every node has.
#[test]
fn agents_have_services_names_policies_and_volumes() {
    if !can(&[]) {
        return;
    }
    let mut lan = Lan::new();
    let (here, hosts) = (lan.host(), [lan.host(), lan.host()]);
    let server = Server::start(&here, &[]);
    let (url, token) = (server.url(), server.token());
    let names = ["one", "two"];
    let agents: Vec<Agent> = std::iter::zip(&hosts, names)
        .map(|(host, name)| Agent::start(host, name, &["--server", &url, "--token", &token]))
        .collect();
    names.iter().for_each(|name| ready(&server, name));
    let all = [web(2), client("near", "one"), client("far", "two")].join("---\n");
    server.kubectl_with(&["apply", "-f", "-"], &all).success();
    server.kubectl("rollout status deployment/web --timeout=120s").success();
    server.kubectl("wait --for=condition=Ready pod/near pod/far --timeout=60s").success();
    assert_eq!(places(&server), names, "one on each");
    let (ip, port) = (
        value(&server, "service/web", "{.spec.clusterIP}"),
        value(&server, "service/web", "{.spec.ports[0].nodePort}"),
    );

    // From the hosts, by the service's address and by any node's port; both pods answer, wherever they are.
    for host in &hosts {
        for at in [format!("{ip}:80"), format!("{}:{port}", hosts[1].address)] {
            eventually(&format!("{} reaches both pods at {at}", host.address), || {
                let (netns, at) = (host.netns(), at.clone());
                let answers = traffic::within(netns, move || (0..30).map(|_| fetch(&at)).collect::<Vec<_>>());
                let mut answers: Vec<String> = answers.into_iter().map(|one| one.unwrap_or_else(|why| why)).collect();
                answers.sort();
                answers.dedup();
                answers.len() == 2 && answers.iter().all(|answer| answer.starts_with("web-"))
            });
        }
    }
    // From pods, by name; and the API by its own.
    for pod in ["near", "far"] {
        eventually("a pod reaches the service by name", || asks(&server, pod, "web.default.svc").starts_with("web-"));
        let resolved = in_pod(&server, pod, "ping -c 1 -w 1 kubernetes.default 2>&1 | head -n 1");
        assert!(resolved.contains("(10.96.0.1)"), "{resolved}");
        eventually("a pod reaches the API", || {
            in_pod(&server, pod, "nc -w 2 kubernetes.default 443 </dev/null && echo there").ends_with("there")
        });
    }
    // A policy on pods of both nodes lets in whom it names, wherever that runs.
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec:\n  podSelector: {matchLabels: {app: web}}\n  \
        ingress: [{from: [{podSelector: {matchLabels: {role: far}}}]}]\n";
    server.kubectl_with(&["apply", "-f", "-"], policy).success();
    let every = |pod: &str, wanted: &dyn Fn(&str) -> bool| (0..6).all(|_| wanted(&asks(&server, pod, "web")));
    eventually("who is not named is kept out on both nodes", || every("near", &|text| !text.starts_with("web-")));
    assert!(every("far", &|text| text.starts_with("web-")), "who is named is let in on both nodes");
    server.kubectl("delete networkpolicy web").success();
    eventually("everybody is let in again", || every("near", &|text| text.starts_with("web-")));

    // A volume lives on the node and goes with its claim.
    server.kubectl_with(&["apply", "-f", "-"], CLAIM).success();
    server.kubectl("wait --for=condition=Ready pod/writer --timeout=60s").success();
    assert_eq!(in_pod(&server, "writer", "cat /data/file"), "kept");
    let volume = value(&server, "pvc/data", "{.spec.volumeName}");
    let directory = agents[1].world.root().join("local-path").join(&volume);
    assert_eq!(std::fs::read_to_string(directory.join("file")).unwrap(), "kept\n");
    server.kubectl("delete pod writer").success();
    server.kubectl("delete pvc data").success();
    eventually("the volume goes", || server.kubectl("get pv -o name").success().text().is_empty());
    assert!(!directory.exists(), "its directory went first");
    gone(&server);
    drop(agents);
    for host in &hosts {
        let links = host.run("ip -brief link").success().text();
        assert!(!links.contains("-svc"), "{links}");
    }
}

/// Traffic flows to a service while everything around it happens: a rollout, a server that is killed, a node that is drained, one that
/// is cut off, and an agent that dies.
#[test]
fn traffic_flows_while_servers_and_nodes_come_and_go() {
    if !can(&["etcd"]) {
        return;
    }
    let mut lan = Lan::new();
    let (third, first, second) = (lan.host(), lan.host(), lan.host());
    let hosts = [lan.host(), lan.host(), lan.host()];
    let etcd = Etcd::start(&third);
    let mut one = Server::start(&first, &["--datastore", &etcd.url]);
    let two = Server::join(&second, &["--datastore", &etcd.url], &one);
    let (urls, token) = (format!("{},{}", one.url(), two.url()), one.token());
    let names = ["a", "b", "c"];
    let mut agents: Vec<Agent> = std::iter::zip(&hosts, names)
        .map(|(host, name)| Agent::start(host, name, &["--server", &urls, "--token", &token]))
        .collect();
    names.iter().for_each(|name| ready(&two, name));
    two.kubectl_with(&["apply", "-f", "-"], &web(6)).success();
    two.kubectl("rollout status deployment/web --timeout=120s").success();
    assert_eq!(places(&two), ["a", "a", "b", "b", "c", "c"]);
    let address = format!("{}:80", value(&two, "service/web", "{.spec.clusterIP}"));
    let from: Vec<_> = hosts[..2].iter().map(|host| host.netns()).collect();
    eventually("the service answers everywhere", || {
        from.iter().all(|netns| {
            let address = address.clone();
            traffic::within(netns.clone(), move || fetch(&address)).is_ok()
        })
    });
    let flow = Traffic::start(&address, &from);
    flow.unharmed("nothing happens");
    assert_eq!(flow.answers().len(), 6, "every pod answers");

    // A rollout replaces all pods.
    two.kubectl("set env deployment/web ROUND=2").success();
    two.kubectl("rollout status deployment/web --timeout=180s").success();
    flow.unharmed("a rollout");

    // A server is killed, whichever leads; the other one goes on with everything.
    one.kill();
    flow.unharmed("a server was killed");
    two.kubectl("rollout restart deployment/web").success();
    two.kubectl("rollout status deployment/web --timeout=180s").success();
    flow.unharmed("a rollout with one server");
    one.again();
    assert_eq!(one.kubectl("get deployment web -o jsonpath={.status.readyReplicas}").success().text(), "6");

    // A node is drained.
    two.kubectl("drain b --ignore-daemonsets --timeout=120s").success();
    two.kubectl("rollout status deployment/web --timeout=120s").success();
    flow.unharmed("a drain");
    assert!(!places(&two).contains(&"b".to_owned()));
    two.kubectl("uncordon b").success();

    // Both servers are away while an agent is killed and comes again: its pods run on and are healed.
    one.kill();
    let mut two = two;
    two.kill();
    let id =
        |agent: &Agent| agent.world.docker(["ps", "--filter", "label=io.kubernetes.container.name=c", "-q"]).text();
    agents[0].end(Signal::KILL);
    flow.unharmed("an agent was killed without a server");
    agents[0].again();
    let before = id(&agents[0]);
    assert!(!before.is_empty());
    agents[0].world.docker(["kill", before.lines().next().unwrap()]).success();
    eventually("a container is healed by an agent that has not seen a server", || {
        let now = id(&agents[0]);
        now != before && now.lines().count() == before.lines().count()
    });
    one.again();
    two.again();
    two.kubectl("rollout status deployment/web --timeout=120s").success();
    // What was asked of the container that was killed, or was led to it after, has failed: nobody could know.
    flow.failures();
    eventually("its end is told", || {
        let path = "{.items[*].status.containerStatuses[0].restartCount}";
        let counts = two.kubectl_with(&["get", "pods", "-l", "app=web", "-o", &format!("jsonpath={path}")], "").text();
        counts.split_whitespace().filter(|count| *count != "0").count() == 1
    });
    flow.flows(50);
    flow.failures();
    flow.unharmed("everything is back");

    // A node is cut off: nobody can say how its pods are until its time is over, then they are somewhere else.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(150);
    hosts[2].cut_off();
    // What runs there ends when somebody can tell it to; six others run meanwhile.
    while places(&two).iter().filter(|place| *place != "c").count() < 6
        || value(&two, "deployment/web", "{.status.readyReplicas}") != "6"
    {
        assert!(std::time::Instant::now() < deadline, "the pods do not move");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    flow.flows(50);
    flow.failures();
    flow.unharmed("the pods have moved away from a node that is cut off");
    two.kubectl("rollout restart deployment/web").success();
    two.kubectl("rollout status deployment/web --timeout=180s").success();
    flow.unharmed("a rollout without the node that is cut off");
    hosts[2].reconnect();
    ready(&two, "c");
    flow.unharmed("the node is back");
    eventually("it has given up what moved", || places(&two).len() == 6 && !places(&two).contains(&"c".to_owned()));
    eventually("nothing of it runs there", || id(&agents[2]).is_empty());
    drop(flow);
    gone(&two);
    drop(agents);
}
