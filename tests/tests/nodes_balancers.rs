//! Addresses of a pool: services get them, one node answers for each on the wire, and machines that are no nodes use them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use blackbox::{Agent, Host, Lan, Server, eventually, fetch, is_root, traffic};

fn can() -> bool {
    let there = |program: &&str| Command::new(program).arg("--help").output().is_ok();
    let can = is_root() && ["kubectl", "ip", "nsenter"].iter().all(there);
    if !can {
        eprintln!("SKIPPED: needs root, kubectl, ip, nsenter");
    }
    can
}

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
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: c
        image: busybox
        imagePullPolicy: IfNotPresent
        command:
        - sh
        - -c
        - |
          mkdir -p /www/cgi-bin; hostname > /www/index.html
          printf '#!/bin/sh\\necho; echo \"asked by $REMOTE_ADDR.\"\\n' > /www/cgi-bin/who; chmod +x /www/cgi-bin/who
          exec httpd -f -p 8080 -h /www
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
";

fn service(name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: LoadBalancer\n  selector: {{app: web}}\n  \
         ports: [{{port: 80, targetPort: 8080}}]\n  {more}\n"
    )
}

fn value(server: &Server, object: &str, path: &str) -> String {
    server.kubectl_with(&["get", object, "-o", &format!("jsonpath={path}")], "").text()
}

fn ask(host: &Host, address: &str) -> Result<String, String> {
    let address = address.to_owned();
    traffic::within(host.netns(), move || fetch(&address))
}

/// Whom the pod takes for its client.
fn asked_by(host: &Host, address: &str) -> String {
    let address = address.to_owned();
    traffic::within(host.netns(), move || {
        let mut stream = TcpStream::connect(address).expect("it answers");
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(b"GET /cgi-bin/who HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    })
}

const ADDRESS: &str = "{.status.loadBalancer.ingress[0].ip}";
const ANNOUNCER: &str = "{.metadata.annotations.knarr\\.io/announced-by}";

#[test]
fn a_machine_on_the_link_uses_a_services_address_of_the_pool() {
    if !can() {
        return;
    }
    let mut lan = Lan::new();
    let (here, outside, other) = (lan.host(), lan.host(), lan.host());
    let hosts = [lan.host(), lan.host()];
    let server = Server::start(&here, &["--load-balancer-pool", "10.99.0.100-10.99.0.101"]);
    let (url, token) = (server.url(), server.token());
    let agents: Vec<Agent> = std::iter::zip(&hosts, ["one", "two"])
        .map(|(host, name)| Agent::start(host, name, &["--server", &url, "--token", &token]))
        .collect();
    for node in ["one", "two"] {
        eventually("the node is ready", || {
            value(&server, &format!("node/{node}"), "{.status.conditions[?(@.type==\"Ready\")].status}") == "True"
        });
    }
    let asked = "loadBalancerIP: 10.99.0.101\n  allocateLoadBalancerNodePorts: false";
    let foreign = service("foreign", "loadBalancerClass: example.com/other");
    let all = [WEB, &service("web", asked), &foreign].concat();
    server.kubectl_with(&["apply", "-f", "-"], &all).success();
    server.kubectl("rollout status deployment/web --timeout=120s").success();
    eventually("it has the address that it asked for", || value(&server, "service/web", ADDRESS) == "10.99.0.101");
    assert_eq!(value(&server, "service/web", "{.spec.ports[0].nodePort}"), "", "it wants no port of the nodes");
    eventually("a machine that is no node reaches it", || ask(&outside, "10.99.0.101:80").is_ok());
    assert!(outside.run("ip neigh show 10.99.0.101").text().contains("lladdr"), "somebody on the link said so");

    // Who comes from elsewhere is kept out by the ranges of sources.
    let only = format!("loadBalancerSourceRanges: [{}/32]\n  {asked}", other.address);
    server.kubectl_with(&["apply", "-f", "-"], &service("web", &only)).success();
    eventually("who is not named is kept out", || ask(&outside, "10.99.0.101:80").is_err());
    ask(&other, "10.99.0.101:80").expect("who is named is let in");
    server.kubectl_with(&["apply", "-f", "-"], &service("web", asked)).success();
    eventually("everybody is let in", || ask(&outside, "10.99.0.101:80").is_ok());

    // With a policy of this node's endpoints only, the source address stays: the pod sees the machine itself.
    server.kubectl_with(&["apply", "-f", "-"], &service("near", "externalTrafficPolicy: Local")).success();
    eventually("the other address", || value(&server, "service/near", ADDRESS) == "10.99.0.100");
    eventually("it answers", || ask(&outside, "10.99.0.100:80").is_ok());
    let own = |answer: String| answer.contains(&format!(":{}]", outside.address));
    let seen = asked_by(&outside, "10.99.0.100:80");
    assert!(own(seen.clone()), "the machine at {}: {seen}", outside.address);
    // The other address leads to pods of any node, and the node stands between them.
    let seen = asked_by(&outside, "10.99.0.101:80");
    assert!(seen.contains("asked by") && !own(seen.clone()), "{seen}");

    // The node that announces it takes no more part: the other one takes over, and who knew the first turns to it.
    let (first, mac) = (value(&server, "service/web", ANNOUNCER), |text: String| {
        text.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).map(str::to_owned)
    });
    let before = mac(outside.run("ip neigh show 10.99.0.101").text()).expect("a neighbour");
    server.kubectl(&format!("label node {first} node.kubernetes.io/exclude-from-external-load-balancers=")).success();
    eventually("another node announces it", || {
        let now = value(&server, "service/web", ANNOUNCER);
        !now.is_empty() && now != first
    });
    eventually("the neighbours know", || {
        let now = mac(outside.run("ip neigh show 10.99.0.101").text());
        now.is_some_and(|now| now != before)
    });
    ask(&outside, "10.99.0.101:80").expect("it answers from there");

    // The pool is empty: the third one waits and is told why, until one lets go.
    server.kubectl_with(&["apply", "-f", "-"], &service("late", "")).success();
    eventually("it is told why", || {
        let events = server.kubectl("get events --field-selector involvedObject.name=late").text();
        events.contains("failed to ensure load balancer: no address is left in the pool")
    });
    assert_eq!(value(&server, "service/foreign", ADDRESS), "", "another class is another's");
    server.kubectl("delete service web").success();
    eventually("it gets what was let go of", || value(&server, "service/late", ADDRESS) == "10.99.0.101");
    eventually("it answers", || ask(&outside, "10.99.0.101:80").is_ok());
    server.kubectl("delete service late near foreign").success();
    eventually("nobody answers there any more", || {
        hosts.iter().all(|host| !host.run("ip -brief address").text().contains("10.99.0.10"))
    });
    server.kubectl("delete deployment web").success();
    eventually("no pod is left", || server.kubectl("get pods -o name").success().text().is_empty());
    drop(agents);
}
