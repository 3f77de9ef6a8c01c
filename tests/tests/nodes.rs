//! Several machines as one cluster: servers and agents in network namespaces, as the stock kubectl sees them.

use std::process::Command;

use blackbox::{Agent, Lan, Server, eventually, is_root};
use rustix::process::Signal;

/// Whether this machine can be several.
fn can() -> bool {
    let there = |program: &str| Command::new(program).arg("--help").output().is_ok();
    let can = is_root() && there("kubectl") && there("ip") && there("nsenter");
    if !can {
        eprintln!("SKIPPED: needs root, kubectl, ip and nsenter");
    }
    can
}

fn pod(name: &str, node: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: c, image: busybox, imagePullPolicy: IfNotPresent, \
         command: [sh, -c, '{command}']}}\n"
    )
}

fn ready(server: &Server, node: &str) {
    eventually(&format!("node {node} is ready"), || {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        server.kubectl_with(&["get", "node", node, "-o", path], "").text() == "True"
    });
}

fn running(server: &Server, pod: &str) -> bool {
    server.kubectl(&format!("get pod {pod} -o jsonpath={{.status.phase}}")).text() == "Running"
}

/// A server and an agent on another machine: the pod runs there, and logs and exec reach it.
#[test]
fn an_agent_joins_and_runs_pods_for_a_server_elsewhere() {
    if !can() {
        return;
    }
    let mut lan = Lan::new();
    let (here, there) = (lan.host(), lan.host());
    let mut server = Server::start(&here, &[]);
    let token = server.knarr("token create --ttl 1h --description test").success().text();
    assert!(server.knarr("token ls").success().text().contains(&token));
    let mut agent = Agent::start(&there, "one", &["--server", &server.url(), "--token", &token]);
    ready(&server, "one");
    // Both certificates came by requests that were approved and signed.
    eventually("both certificates are issued", || {
        let issued = server.kubectl("get csr").text();
        issued.matches("Approved,Issued").count() == 2
    });
    server.kubectl_with(&["apply", "-f", "-"], &pod("web", "one", "echo started; exec sleep 3600")).success();
    eventually("the pod runs", || running(&server, "web"));
    assert_eq!(server.kubectl("logs web").success().text(), "started");
    server.kubectl_with(&["exec", "web", "--", "sh", "-c", "echo out; exit 7"], "").exits(7).stdout("out\n");
    server.kubectl_with(&["exec", "-i", "web", "--", "cat"], "typed\n").success().stdout("typed\n");
    // The server goes: the pod runs on, and is healed where it is; what happened meanwhile is told later.
    server.kill();
    let id = agent.world.docker(["ps", "--filter", "label=io.kubernetes.container.name=c", "-q"]).success().text();
    agent.world.docker(["kill", &id]).success();
    eventually("the container runs again while no server is there", || {
        let now = agent.world.docker(["ps", "--filter", "label=io.kubernetes.container.name=c", "-q"]).text();
        !now.is_empty() && now != id
    });
    server.again();
    eventually("the restart is told", || {
        server.kubectl("get pod web -o jsonpath={.status.containerStatuses[0].restartCount}").text() == "1"
    });
    // The agent dies and comes again without a token: the same container is there.
    let id = agent.world.docker(["ps", "--filter", "label=io.kubernetes.container.name=c", "-q"]).success().text();
    agent.end(Signal::KILL);
    agent.again();
    server.kubectl_with(&["apply", "-f", "-"], &pod("next", "one", "exec sleep 3600")).success();
    eventually("the agent works again", || running(&server, "next"));
    let now = agent.world.docker(["ps", "--no-trunc", "-q"]).success().text();
    assert!(now.contains(&id), "{id} is not in {now}");
    assert_eq!(server.kubectl("logs web").success().text(), "started");
    server.kubectl("delete pod web next").success();
    eventually("no pod is left", || server.kubectl("get pods -o name").text().is_empty());
}

/// A pod that says where it runs over HTTP, and gives up its node at once.
fn web(name: &str, node: &str) -> String {
    let run = format!("mkdir /www; echo I am {name} > /www/index.html; exec httpd -f -p 8080 -h /www");
    pod(name, node, &run)
}

fn ask(server: &Server, from: &str, address: &str) -> String {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 8080 | tail -n 1");
    server.kubectl_with(&["exec", from, "--", "sh", "-c", &script], "").text()
}

fn address(server: &Server, pod: &str) -> String {
    server.kubectl(&format!("get pod {pod} -o jsonpath={{.status.podIP}}")).success().text()
}

/// Two nodes on one link and a third behind a router: every pod reaches every other, with its own address.
#[test]
fn pods_reach_each_other_over_routes_and_vxlan() {
    if !can() {
        return;
    }
    let mut lan = Lan::new();
    let (here, hosts) = (lan.host(), [lan.host(), lan.host(), lan.host_behind()]);
    let server = Server::start(&here, &[]);
    let (url, token) = (server.url(), server.token());
    let names = ["one", "two", "far"];
    let agents: Vec<Agent> = std::iter::zip(&hosts, names)
        .map(|(host, name)| Agent::start(host, name, &["--server", &url, "--token", &token]))
        .collect();
    for name in names {
        ready(&server, name);
        server.kubectl_with(&["apply", "-f", "-"], &web(&format!("web-{name}"), name)).success();
    }
    for name in names {
        eventually("the pod runs", || running(&server, &format!("web-{name}")));
    }
    for (from, to) in names.iter().flat_map(|from| names.iter().map(move |to| (from, to))) {
        let at = address(&server, &format!("web-{to}"));
        eventually(&format!("{from} reaches {to} at {at}"), || {
            ask(&server, &format!("web-{from}"), &at) == format!("I am web-{to}")
        });
    }
    // Neighbours need no tunnel; who is behind a router does.
    let routes = hosts[0].run("ip route show proto 75").success().text();
    let (direct, tunnelled) = (routes.matches("dev eth0").count(), routes.matches("onlink").count());
    assert_eq!((direct, tunnelled), (1, 1), "{routes}");
    // What somebody takes away is put back; what belongs to a node that is gone goes with it.
    for route in routes.lines() {
        let to = route.split_whitespace().next().unwrap();
        hosts[0].run(&format!("ip route del {to} proto 75")).success();
    }
    let touch = |value: &str| server.kubectl(&format!("annotate --overwrite node two touched={value}")).success();
    touch("1");
    eventually("the routes are back", || hosts[0].run("ip route show proto 75").text().lines().count() == 2);
    server.kubectl("delete pod --all").success();
    eventually("no pod is left", || server.kubectl("get pods -o name").text().is_empty());
    drop(agents);
    // An agent that goes down takes its ways along.
    assert_eq!(hosts[0].run("ip route show proto 75").success().text(), "");
    assert!(!hosts[0].run("ip -d link").success().text().contains("vxlan id"));
}

/// A node that is cut off: it is not ready any more, its pods move, and when it comes back it gives up what moved.
#[test]
fn pods_leave_a_node_that_is_cut_off() {
    if !can() {
        return;
    }
    let mut lan = Lan::new();
    let (here, first, second) = (lan.host(), lan.host(), lan.host());
    let server = Server::start(&here, &[]);
    let words = ["--server", &server.url(), "--token", &server.token()];
    let one = Agent::start(&first, "one", &words);
    ready(&server, "one");
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 1\n  selector: {matchLabels: {app: web}}\n  \
        template:\n    metadata: {labels: {app: web}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      tolerations:\n      \
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}\n      \
        - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}\n      \
        containers:\n      - {name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, '3600']}\n";
    server.kubectl_with(&["apply", "-f", "-"], deployment).success();
    server.kubectl("rollout status deployment/web --timeout=60s").success();
    let two = Agent::start(&second, "two", &words);
    ready(&server, "two");
    let place = |of: &str| {
        let path =
            format!("get pods -l app=web -o jsonpath={{range.items[?(@.spec.nodeName==\"{of}\")]}}{{.status.phase}}");
        let path = path.replace("{range.items", "{.items").replace("]}{.status.phase}", "].status.phase}");
        server.kubectl(&path).text()
    };
    assert_eq!(place("one"), "Running");
    let container =
        |agent: &Agent| agent.world.docker(["ps", "--filter", "label=io.kubernetes.container.name=c", "-q"]).text();
    let id = container(&one);
    first.cut_off();
    // The lease lasts 40 seconds, then comes the pods' own patience.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(150);
    while place("two") != "Running" {
        assert!(std::time::Instant::now() < deadline, "the pod does not move");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert!(server.kubectl("get node one").success().text().contains("NotReady"));
    assert_eq!(container(&one), id, "nobody could tell the node, so its pod runs on");
    first.reconnect();
    ready(&server, "one");
    eventually("what moved is ended where it was", || container(&one).is_empty());
    assert_eq!(server.kubectl("get pods -l app=web -o name").success().text().lines().count(), 1);
    server.kubectl("delete deployment web").success();
    eventually("no pod is left", || server.kubectl("get pods -o name").text().is_empty());
    drop((one, two));
}
