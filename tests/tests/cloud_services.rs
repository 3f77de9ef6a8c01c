//! Services, their names and network policies in a cloud of one node, as the stock kubectl, pods and the host itself see them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use blackbox::{Cloud, eventually};

/// A deployment of web servers that say their pod's name, and end at once when they are told to.
fn web(name: &str, replicas: usize) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: c
        image: busybox
        command:
        - sh
        - -c
        - 'mkdir /www; hostname > /www/index.html; trap \"exit 0\" TERM; httpd -f -p 8080 -h /www & wait'
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{tcpSocket: {{port: http}}, periodSeconds: 1}}
"
    )
}

/// A pod that sleeps, from which others are asked.
const CLIENT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox, command: [sleep, '3600']}]
";

fn service(name: &str, app: &str, more: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {app}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
  {more}
"
    )
}

fn fetch(address: &str) -> Result<String, String> {
    let address: SocketAddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
    let asked = TcpStream::connect_timeout(&address, Duration::from_secs(5)).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    match asked {
        Ok(text) if text.starts_with("HTTP/1.0 200") || text.starts_with("HTTP/1.1 200") => {
            Ok(text.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned())
        }
        Ok(text) => Err(format!("an answer without its beginning: {text:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// The same from inside of a pod, by an address and port 80.
fn fetch_in(cloud: &Cloud, pod: &str, address: &str) -> String {
    cloud.run_in(pod, &format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} 80 2>&1 | tail -n 1")).text()
}

/// The address that a pod's programs find for a name, with the search domains of its resolver. This applet asks by
/// the C library.
fn resolved(cloud: &Cloud, pod: &str, name: &str) -> String {
    let text = cloud.run_in(pod, &format!("ping -c 1 -w 1 {name} 2>&1 | head -n 1")).text();
    text.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or(text.clone(), |(ip, _)| ip.to_owned())
}

fn cluster_ip(cloud: &Cloud, name: &str) -> String {
    cloud.value(&format!("service/{name}"), "{.spec.clusterIP}")
}

#[test]
fn a_service_is_reached_by_address_name_and_node_port_and_refuses_when_nobody_is_there() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(&web("web", 2));
    cloud.apply(CLIENT);
    cloud.apply(&service("web", "web", "type: NodePort"));
    cloud.kubectl("rollout status deployment/web --timeout=120s").success();
    cloud.kubectl("wait --for=condition=Ready pod/client --timeout=120s").success();
    let (ip, port) = (cluster_ip(&cloud, "web"), cloud.value("service/web", "{.spec.ports[0].nodePort}"));
    let node = cloud.value("node/node", "{.status.addresses[?(@.type=='InternalIP')].address}");
    eventually("both pods are endpoints", || {
        cloud.value("endpoints/web", "{.subsets[0].addresses[*].ip}").split_whitespace().count() == 2
    });
    let answers = |ask: &dyn Fn() -> String| -> Vec<String> {
        let mut all: Vec<String> = (0..30).map(|_| ask()).collect();
        all.sort();
        all.dedup();
        all
    };
    let pods = cloud.kubectl("get pods -l app=web -o jsonpath={.items[*].metadata.name}").success().text();
    let mut pods: Vec<String> = pods.split_whitespace().map(str::to_owned).collect();
    pods.sort();
    eventually("the host reaches both by the service's address", || {
        answers(&|| fetch(&format!("{ip}:80")).unwrap_or_else(|error| error)) == pods
    });
    assert_eq!(answers(&|| fetch(&format!("{node}:{port}")).unwrap()), pods, "by a port of the node");
    assert_eq!(answers(&|| fetch(&format!("127.0.0.1:{port}")).unwrap()), pods, "by that port on loopback");
    for name in ["web", "web.default", "web.default.svc.cluster.local"] {
        assert_eq!(resolved(&cloud, "client", name), ip, "a pod, by the name {name}");
    }
    for pod in ["client", &pods[0]] {
        let once = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {ip} 80 | tail -n 1");
        let seen = cloud.run_in(pod, &format!("for n in $(seq 30); do {once}; done | sort -u")).text();
        assert_eq!(seen.lines().collect::<Vec<_>>(), pods, "{pod} reaches all of them, itself as well");
    }
    // The API is a service like any other.
    let api = cluster_ip(&cloud, "kubernetes");
    assert!(TcpStream::connect((api.as_str(), 443)).is_ok());
    let seen = cloud.run_in("client", "nslookup kubernetes.default.svc.cluster.local").text();
    assert!(seen.contains(&api), "{seen}");
    let nobody = cloud.run_in("client", "nslookup nobody.default.svc.cluster.local");
    assert!(nobody.text().contains("NXDOMAIN"), "{}", nobody.text());

    cloud.kubectl("scale deployment/web --replicas=0").success();
    // A pod that ends is still an endpoint where there is no other one, and its program may refuse before the service does.
    eventually("nobody is an endpoint", || cloud.value("endpoints/web", "{.subsets}").is_empty());
    eventually("it refuses", || fetch(&format!("{ip}:80")).is_err_and(|error| error.contains("refused")));
    eventually("it refuses pods", || fetch_in(&cloud, "client", &ip).contains("refused"));
    assert!(fetch(&format!("127.0.0.1:{port}")).is_err_and(|error| error.contains("refused")));
    cloud.kubectl("scale deployment/web --replicas=1").success();
    eventually("it answers again", || fetch(&format!("{ip}:80")).is_ok());
    cloud.world.knarr(["doctor"]).success();
    cloud.kubectl("delete deployment web").success();
    cloud.kubectl("delete pod/client service/web").success();
}

#[test]
fn headless_services_and_balancers() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(CLIENT);
    for number in 0..2 {
        cloud.apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: db-{number}, labels: {{app: db}}}}
spec:
  hostname: db-{number}
  subdomain: db
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: c, image: busybox, command: [httpd, -f, -p, '8080'], ports: [{{name: http, containerPort: 8080}}]}}
"
        ));
    }
    cloud.apply(&service("db", "db", "clusterIP: None"));
    cloud.kubectl("wait --for=condition=Ready pod/client pod/db-0 pod/db-1 --timeout=120s").success();
    let address = |pod: &str| cloud.value(&format!("pod/{pod}"), "{.status.podIP}");
    let (first, second) = (address("db-0"), address("db-1"));
    let ask = |name: &str| cloud.run_in("client", &format!("nslookup {name}.default.svc.cluster.local")).text();
    eventually("the name has both addresses", || ask("db").contains(&first) && ask("db").contains(&second));
    let one = ask("db-1.db");
    assert!(one.contains(&second) && !one.contains(&format!("{first}\n")), "{one}");
    assert_eq!(cloud.run_in("db-0", "hostname -f").text(), "db-0.db.default.svc.cluster.local");
    // A name of the world is an alias.
    cloud.kubectl("create service externalname out --external-name db.default.svc.cluster.local").success();
    eventually("it leads on", || ask("out").contains(&first));
    // A balancer's address is the node's, with the service's own port.
    let port = 21_000 + std::process::id() % 10_000;
    let balancer = service("lb", "db", "type: LoadBalancer\n  externalTrafficPolicy: Local")
        .replace("port: 80,", &format!("port: {port},"));
    cloud.apply(&balancer);
    let node = cloud.value("node/node", "{.status.addresses[?(@.type=='InternalIP')].address}");
    cloud.wait_for("service/lb", "{.status.loadBalancer.ingress[0].ip}", &node);
    eventually("it answers there", || fetch(&format!("{node}:{port}")).is_err_and(|error| error.contains("404")));
    assert_ne!(cloud.value("service/lb", "{.spec.healthCheckNodePort}"), "");
    cloud.kubectl("delete pod client db-0 db-1").success();
}

/// An endpoint says in which zone it is; the node's label may come later, or change.
#[test]
fn endpoints_follow_the_zone_of_their_node() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(&web("web", 2));
    cloud.apply(&service("web", "web", "trafficDistribution: PreferSameZone"));
    cloud.kubectl("rollout status deploy/web --timeout=60s").success();
    let words = ["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o"];
    let path = "jsonpath={range .items[*].endpoints[*]}{.zone}/{.hints.forZones[*].name} {end}";
    let zones = || cloud.kubectl_with(&[&words[..], &[path]].concat(), "").text().trim().to_owned();
    eventually("both are there", || zones() == "/ /");
    for (label, wanted) in [("=east", "east/east east/east"), ("=west", "west/west west/west"), ("-", "/ /")] {
        cloud.kubectl(&format!("label node node --overwrite topology.kubernetes.io/zone{label}")).success();
        eventually("they say where they are", || zones() == wanted);
    }
}

#[test]
fn a_client_stays_with_its_pod_and_flushed_rules_come_back() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(&web("web", 3));
    cloud.apply(&service("web", "web", "sessionAffinity: ClientIP"));
    cloud.kubectl("rollout status deployment/web --timeout=120s").success();
    let ip = cluster_ip(&cloud, "web");
    eventually("it answers", || fetch(&format!("{ip}:80")).is_ok());
    let first = fetch(&format!("{ip}:80")).unwrap();
    for _ in 0..20 {
        assert_eq!(fetch(&format!("{ip}:80")).unwrap(), first);
    }
    cloud.kubectl_with(&["delete", "pod", &first], "").success();
    eventually("another one serves", || fetch(&format!("{ip}:80")).is_ok_and(|name| name != first));
    // Its range of addresses stands on a link that carries the instance's tag, as the tables do.
    let routes = std::fs::read_to_string("/proc/net/route").unwrap();
    // As the file has them: in the bytes' own order. How long the range is depends on what other clouds of this machine have.
    let address = u32::from_ne_bytes(ip.parse::<std::net::Ipv4Addr>().unwrap().octets());
    let link = routes.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(words[at], 16).unwrap();
        let (range, mask) = (number(1), number(7));
        (words[0].ends_with("-svc") && address & mask == range).then(|| words[0].to_owned())
    });
    let link = link.expect("the services' route");
    let tag = link.strip_prefix('c').unwrap().split('-').next().unwrap().to_owned();
    let table = format!("knarr-{tag}-services");
    let gone = |name: &str| !blackbox::nftables::has_table(name);
    blackbox::nftables::remove_table(&table);
    eventually("the table is back", || !gone(&table));
    let began = std::time::Instant::now();
    eventually("it answers again", || fetch(&format!("{ip}:80")).is_ok());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    cloud.kubectl("delete deployment web").success();
    cloud.world.knarr(["down"]).success();
    assert!(gone(&table), "rules go with the cloud");
    assert!(!std::path::Path::new(&format!("/sys/class/net/c{tag}-svc")).exists());
}

#[test]
fn network_policies_deny_and_allow() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(&web("web", 1));
    cloud.apply(CLIENT);
    cloud.apply(&CLIENT.replace("client", "other"));
    cloud.apply(&service("web", "web", ""));
    cloud.kubectl("rollout status deployment/web --timeout=120s").success();
    cloud.kubectl("wait --for=condition=Ready pod/client pod/other --timeout=120s").success();
    let ip = cluster_ip(&cloud, "web");
    let reaches = |pod: &str| fetch_in(&cloud, pod, &ip).starts_with("web-");
    eventually("everybody is let in", || reaches("client") && reaches("other"));
    cloud.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: http}]
",
    );
    eventually("the other one is kept out", || !reaches("other"));
    assert!(reaches("client"));
    assert_eq!(cloud.value("deployment/web", "{.status.readyReplicas}"), "1", "the node's probes pass");
    cloud.kubectl("label pod other app=client --overwrite").success();
    eventually("its label lets it in", || reaches("other"));
    cloud.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: quiet}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
",
    );
    eventually("nothing goes out", || !reaches("client") && !reaches("other"));
    let seen = cloud.run_in("client", "nslookup web.default.svc.cluster.local").text();
    assert!(seen.contains(&ip), "names are answered all the same: {seen}");
    cloud.kubectl("delete networkpolicy web quiet").success();
    eventually("all is open again", || reaches("client") && reaches("other"));
    cloud.kubectl("delete deployment web").success();
    cloud.kubectl("delete pod client other").success();
}

/// An endpoint leaves the data plane before its container is told to end.
#[test]
fn a_rollout_drops_nothing() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(&web("web", 2));
    cloud.apply(&service("web", "web", ""));
    cloud.kubectl("rollout status deployment/web --timeout=120s").success();
    let address = format!("{}:80", cluster_ip(&cloud, "web"));
    eventually("it answers", || fetch(&address).is_ok());
    let (done, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let (address, done, count) = (address.clone(), done.clone(), count.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    match fetch(&address) {
                        Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.push(error),
                    }
                }
                failures
            })
        })
        .collect();
    let before = cloud.kubectl("get pods -l app=web -o jsonpath={.items[*].metadata.name}").text();
    for _ in 0..2 {
        // kubectl restarts no deployment twice within a second, and the first rollout may be done by then.
        eventually("it is restarted", || {
            let said = cloud.kubectl("rollout restart deployment/web");
            let soon = said.errors().contains("already been triggered within the past second");
            assert!(said.code == 0 || soon, "{said}");
            said.code == 0
        });
        cloud.kubectl("rollout status deployment/web --timeout=120s").success();
    }
    eventually("the old pods are gone", || {
        let now = cloud.kubectl("get pods -l app=web -o jsonpath={.items[*].metadata.name}").text();
        now.split_whitespace().count() == 2 && !now.split_whitespace().any(|pod| before.contains(pod))
    });
    done.store(true, Ordering::Relaxed);
    let failures: Vec<String> = asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert!(failures.is_empty(), "{} of {}: {failures:?}", failures.len(), count.load(Ordering::Relaxed));
    assert!(count.load(Ordering::Relaxed) > 100, "there was traffic");
    cloud.kubectl("delete deployment web").success();
}
