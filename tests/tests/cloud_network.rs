//! Pods' network in a cloud of one node: addresses, ports of the host, and what a restart and an end leave, as the stock kubectl
//! and the host itself see it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use blackbox::{Cloud, eventually};

/// A web server that says its own address; `more` is the container's, `spec` the pod's.
fn web(name: &str, spec: &str, more: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}}}
spec:
  terminationGracePeriodSeconds: 0
  {spec}
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'mkdir /www; echo I am $IP of $HOST > /www/index.html; exec httpd -f -p ${{PORT:-8080}} -h /www']
    env:
    - {{name: IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    - {{name: HOST, valueFrom: {{fieldRef: {{fieldPath: status.hostIP}}}}}}
    {more}
"
    )
}

/// What a web server answers; why not, if it does not.
fn fetch(address: &str) -> String {
    let address: SocketAddr = match address.parse() {
        Ok(address) => address,
        Err(error) => return format!("{address}: {error}"),
    };
    let asked = TcpStream::connect_timeout(&address, Duration::from_secs(2)).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    match asked {
        Ok(text) => text.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned(),
        Err(error) => error.to_string(),
    }
}

/// The same from inside of a pod.
fn fetch_in(cloud: &Cloud, pod: &str, host: &str, port: u16) -> String {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} {port} | tail -n 1");
    cloud.run_in(pod, &script).text()
}

fn ip(cloud: &Cloud, pod: &str) -> String {
    cloud.value(&format!("pod/{pod}"), "{.status.podIP}")
}

/// Links and nftables tables of this machine, of which a cloud must not leave one behind.
fn links() -> Vec<String> {
    let names = std::fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// The links of this cloud's pods, by the number that is in all their names.
fn pod_links(tag: &str) -> Vec<String> {
    links()
        .into_iter()
        .filter(|name| name.contains(tag) && (name.starts_with('p') || name.ends_with("-pods")))
        .collect()
}

/// The instance's tag, from the bridge that carries the pods' subnet.
fn tag(cloud: &Cloud) -> String {
    let subnet = cloud.value("node/node", "{.spec.podCIDR}");
    let network = subnet.split('/').next().unwrap().rsplit_once('.').unwrap().0.to_owned();
    let routes = std::fs::read_to_string("/proc/net/route").unwrap();
    let wanted: Vec<u8> = network.split('.').map(|part| part.parse().unwrap()).collect();
    let hex = format!("00{:02X}{:02X}{:02X}", wanted[2], wanted[1], wanted[0]);
    let line = routes.lines().find(|line| line.split_whitespace().nth(1) == Some(&hex));
    let bridge = line.unwrap_or_else(|| panic!("no route to {subnet}: {routes}")).split_whitespace().next().unwrap();
    bridge.strip_prefix('k').and_then(|rest| rest.strip_suffix("-pods")).expect("the pods' bridge").to_owned()
}

#[test]
fn pods_reach_each_other_and_the_host_and_keep_their_addresses() {
    let Some(cloud) = Cloud::start() else { return };
    let tag = tag(&cloud);
    cloud.apply(&web("one", "", ""));
    cloud.apply(&web("two", "subdomain: sites\n  hostname: second", ""));
    cloud.kubectl("wait --for=condition=Ready pod/one pod/two --timeout=120s").success();
    let (one, two, host) = (ip(&cloud, "one"), ip(&cloud, "two"), cloud.value("pod/one", "{.status.hostIP}"));
    assert_ne!(one, two);
    assert_eq!(cloud.value("pod/one", "{.status.podIPs[*].ip}"), one);
    let said = |address: &str| format!("I am {address} of {host}");
    assert_eq!(fetch(&format!("{one}:8080")), said(&one), "from the host");
    assert_eq!(fetch_in(&cloud, "two", &one, 8080), said(&one), "from another pod");
    assert_eq!(fetch_in(&cloud, "one", &one, 8080), said(&one), "from itself");
    let hosts = cloud.run_in("two", "cat /etc/hosts").text();
    assert!(hosts.contains(&format!("{two}\tsecond.sites.default.svc.cluster.local\tsecond")), "{hosts}");
    // A plain container of the same engine reaches pods as well.
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {one} 8080 | tail -n 1");
    assert_eq!(cloud.world.docker(["run", "--rm", "busybox", "sh", "-c", &script]).success().text(), said(&one));
    cloud.world.knarr(["doctor"]).success();

    // The process ends and comes again: the same addresses, and nobody else gets them.
    cloud.world.knarr(["down", "--keep"]).success();
    assert_eq!(fetch(&format!("{one}:8080")), said(&one), "pods answer while nobody is there");
    cloud.up();
    cloud.apply(&web("three", "", ""));
    cloud.kubectl("wait --for=condition=Ready pod/one pod/two pod/three --timeout=120s").success();
    assert_eq!((ip(&cloud, "one"), ip(&cloud, "two")), (one.clone(), two.clone()));
    assert!(![&one, &two].contains(&&ip(&cloud, "three")));
    assert_eq!(fetch_in(&cloud, "three", &two, 8080), said(&two));
    cloud.world.knarr(["doctor"]).success();

    assert_eq!(pod_links(&tag).len(), 4, "a bridge and three pods");
    cloud.kubectl("delete pod one two three").success();
    eventually("their wires go with them", || pod_links(&tag).len() == 1);
    assert_ne!(fetch(&format!("{one}:8080")), said(&one));
    cloud.world.knarr(["down"]).success();
    assert_eq!(pod_links(&tag), Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(cloud.world.run_dir().join("podnet")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn ports_of_the_host_lead_to_pods_and_are_given_once() {
    let Some(cloud) = Cloud::start() else { return };
    let port = 20_000 + std::process::id() % 10_000;
    cloud.apply(&web("one", "", &format!("ports: [{{containerPort: 8080, hostPort: {port}}}]")));
    cloud.kubectl("wait --for=condition=Ready pod/one --timeout=120s").success();
    let (one, host) = (ip(&cloud, "one"), cloud.value("pod/one", "{.status.hostIP}"));
    let said = format!("I am {one} of {host}");
    assert_eq!(fetch(&format!("127.0.0.1:{port}")), said);
    assert_eq!(fetch(&format!("{host}:{port}")), said);
    assert_eq!(fetch_in(&cloud, "one", &host, port as u16), said, "its own");
    // The scheduler knows that a port is taken by a pod.
    cloud.apply(&web("second", "", &format!("ports: [{{containerPort: 8080, hostPort: {port}}}]")));
    eventually("no node has the port", || {
        let message = cloud.value("pod/second", "{.status.conditions[?(@.type=='PodScheduled')].message}");
        message.contains("didn't have free ports")
    });
    // On the host's own network: its address, its ports.
    cloud.apply(&web("host", "hostNetwork: true", &format!("- {{name: PORT, value: '{}'}}", port + 1)));
    cloud.kubectl("wait --for=condition=Ready pod/host --timeout=120s").success();
    assert_eq!(ip(&cloud, "host"), host);
    eventually("it answers", || fetch(&format!("127.0.0.1:{}", port + 1)) == format!("I am {host} of {host}"));
    cloud.kubectl("delete pod one").success();
    cloud.kubectl("wait --for=condition=Ready pod/second --timeout=120s").success();
    eventually("the port leads to the next one", || {
        fetch(&format!("127.0.0.1:{port}")).contains(&ip(&cloud, "second"))
    });
    // One that another program has, or that the engine publishes, is not taken from it.
    let other = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let taken = other.local_addr().unwrap().port();
    cloud.apply(&web("third", "", &format!("ports: [{{containerPort: 8080, hostPort: {taken}}}]")));
    eventually("it is told", || {
        let events = cloud.kubectl("get events --field-selector=involvedObject.name=third").text();
        events.contains("FailedCreatePodSandBox") && events.contains("address already in use")
    });
    drop(other);
    cloud.kubectl("wait --for=condition=Ready pod/third --timeout=120s").success();
    cloud.kubectl("delete pod second third host").success();
    cloud.world.knarr(["doctor"]).success();
}

/// Two clouds side by side have different subnets; a wrong one is refused before anything starts.
#[test]
fn a_cloud_takes_no_subnet_that_somebody_else_has() {
    let Some(cloud) = Cloud::start() else { return };
    let Some(other) = Cloud::start() else { return };
    let cluster = |cloud: &Cloud| cloud.value("node/node", "{.spec.podCIDR}");
    assert_ne!(cluster(&cloud), cluster(&other));
    let (taken, others) = (cluster(&cloud), tag(&other));
    let services = other.value("servicecidr/kubernetes", "{.spec.cidrs[0]}");
    other.world.knarr(["down"]).success();
    let refused = other.world.knarr(["up", "--port", "0", "--cluster-cidr", &taken]);
    refused.exits(1).stderr_has("which this machine uses already");
    other
        .world
        .knarr(["up", "--port", "0", "--cluster-cidr", &services])
        .exits(1)
        .stderr_has("overlaps with the services' addresses");
    other.world.knarr(["up", "--port", "0", "--cluster-cidr", "everything"]).exits(1).stderr_has("is no subnet");
    // Whoever was refused leaves nothing in the kernel.
    assert!(!links().contains(&format!("c{others}-svc")), "{:?}", links());
}

/// `kubectl port-forward`, until it is dropped.
struct Forward {
    child: std::process::Child,
    port: u16,
}

impl Forward {
    fn start(cloud: &Cloud, target: &str, port: u16, websockets: bool) -> Self {
        use std::io::BufRead as _;
        let mut command = cloud.kubectl_command();
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets.to_string());
        command.args(["port-forward", target, &format!(":{port}")]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().expect("run kubectl port-forward");
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).expect("where it listens");
        // Forwarding from 127.0.0.1:40001 -> 8080
        let port = line.split_whitespace().nth(2).and_then(|at| at.rsplit_once(':')?.1.parse().ok());
        let Some(port) = port else {
            let _ = child.kill();
            let output = child.wait_with_output().unwrap();
            panic!("port-forward says {line:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        Self { child, port }
    }

    fn fetch(&self) -> String {
        fetch(&format!("127.0.0.1:{}", self.port))
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: site}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

#[test]
fn ports_are_forwarded_files_copied_and_commands_run_by_new_and_old_clients() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(&web("one", "", ""));
    cloud.apply(SERVICE);
    cloud.kubectl("wait --for=condition=Ready pod/one --timeout=120s").success();
    let said = format!("I am {} of {}", ip(&cloud, "one"), cloud.value("pod/one", "{.status.hostIP}"));
    for websockets in [true, false] {
        let forward = Forward::start(&cloud, "pod/one", 8080, websockets);
        let many: Vec<String> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| forward.fetch())).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        assert_eq!(many, vec![said.clone(); 8], "websockets: {websockets}");
        // The client's port for a service is that of its pods.
        assert_eq!(Forward::start(&cloud, "service/site", 80, websockets).fetch(), said);
        // Nobody listens there: the client is told, and its connection ends.
        let nowhere = Forward::start(&cloud, "pod/one", 8099, websockets);
        assert!(!nowhere.fetch().contains("I am"));
    }
    for websockets in ["true", "false"] {
        let kubectl = |words: &[&str], input: &[u8]| {
            let mut command = cloud.kubectl_command();
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets).args(words);
            blackbox::finish(command, input)
        };
        kubectl(&["exec", "one", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], b"")
            .exits(7)
            .stdout("out\n")
            .stderr_has("err");
        let large = b"0123456789abcdef".repeat(20_000);
        let echoed = kubectl(&["exec", "-i", "one", "--", "cat"], &large).success();
        assert_eq!(echoed.text().len(), large.len(), "websockets: {websockets}");
        kubectl(&["exec", "one", "--", "/nosuch"], b"").stderr_has("no such file");
        let file = cloud.path().join("large");
        std::fs::write(&file, &large).unwrap();
        kubectl(&["cp", file.to_str().unwrap(), "one:/tmp/large"], b"").success();
        let back = cloud.path().join("back");
        kubectl(&["cp", "one:/tmp/large", back.to_str().unwrap()], b"").success();
        assert_eq!(std::fs::read(&back).unwrap(), large, "websockets: {websockets}");
    }
    // Through the API, to a pod and to a service; a page that is not there is the pod's answer.
    let raw = |path: &str| cloud.kubectl(&format!("get --raw /api/v1/namespaces/default/{path}"));
    assert_eq!(raw("pods/one:8080/proxy/").success().text(), said);
    assert_eq!(raw("pods/http:one:8080/proxy/index.html").success().text(), said);
    eventually("the service has an endpoint", || raw("services/site:http/proxy/").text() == said);
    assert_eq!(raw("services/site:80/proxy/index.html").success().text(), said);
    raw("pods/one:8080/proxy/nosuch").exits(1).stderr_has("could not find the requested resource");
    raw("pods/one:8099/proxy/").exits(1).stderr_has("connection refused");
    raw("services/site:99/proxy/").exits(1).stderr_has("no endpoints available for service");
}

/// A probe speaks to the pod's address: a server on loopback alone is not there, one of another pod's port is.
#[test]
fn probes_ask_the_pods_address() {
    let Some(cloud) = Cloud::start() else { return };
    let probe = |kind: &str| format!("readinessProbe: {{periodSeconds: 1, {kind}}}");
    cloud.apply(&web("http", "", &probe("httpGet: {path: /index.html, port: 8080}")));
    cloud.apply(&web("tcp", "", &probe("tcpSocket: {port: 8080}")));
    cloud.apply(&web("page", "", &probe("httpGet: {path: /nosuch, port: 8080}")));
    cloud.apply(&web("grpc", "", &probe("grpc: {port: 8099}")));
    cloud.apply(&web("tls", "", &probe("httpGet: {scheme: HTTPS, port: 8080}")));
    cloud.kubectl("wait --for=condition=Ready pod/http pod/tcp --timeout=120s").success();
    let events = |pod: &str| {
        cloud.kubectl(&format!("get events --field-selector=reason=Unhealthy,involvedObject.name={pod}")).text()
    };
    let expected = [
        ("page", "Readiness probe failed: HTTP probe failed with statuscode: 404".to_owned()),
        ("grpc", format!("dial tcp {}:8099: connect: connection refused", ip(&cloud, "grpc"))),
        ("tls", format!("Get \"https://{}:8080/\"", ip(&cloud, "tls"))),
    ];
    for (pod, text) in expected {
        eventually(&format!("{pod}: {text}"), || events(pod).contains(&text));
        assert_eq!(cloud.value(&format!("pod/{pod}"), "{.status.containerStatuses[0].ready}"), "false");
    }
}
