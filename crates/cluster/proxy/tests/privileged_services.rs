//! Real traffic to services. One namespace plays the node, one the world outside, others pods that are reached by a route each.
//! All of it lives in namespaces of the test's own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use cache::Key;
use linux::netlink::Socket;
use linux::netlink::nft::Protocol;
use linux::netlink::route::Veth;
use linux::ns::{self, Namespaces};
use proxy::{Applied, Backend, Block, Frame, Rules, Service, ServicePort};

/// Runs the test with a network namespace of its own as the node.
fn on_a_node_of_its_own(test: impl FnOnce() + Send) {
    if linux::cred::effective_ids().0 != 0 {
        eprintln!("SKIPPED: needs root");
        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            ns::unshare(Namespaces::NET).unwrap();
            linux::net::loopback_up().unwrap();
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn new_netns() -> OwnedFd {
    let make = || {
        ns::unshare(Namespaces::NET)?;
        linux::net::loopback_up()?;
        ns::open("/proc/thread-self/ns/net")
    };
    std::thread::spawn(make).join().unwrap().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A namespace behind a wire: its address, and the node's on that wire. The way out leads over the node.
fn wired(name: &str, address: &str, node: &str) -> OwnedFd {
    let netns = new_netns();
    let mut route = Socket::route().unwrap();
    let veth = Veth { name, master: None, peer_name: "eth0", peer_netns: &netns, peer_mac: None, mtu: None };
    route.add_veth(&veth).unwrap();
    let here = route.link(name).unwrap().unwrap();
    route.add_address(here.index, ip(node), 30).unwrap();
    let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1");
    let mut inside = Socket::route_in(&netns).unwrap();
    let eth0 = inside.link("eth0").unwrap().unwrap();
    inside.set_up(eth0.index).unwrap();
    inside.add_address(eth0.index, ip(address), 30).unwrap();
    inside.add_route(None, ip(node), eth0.index).unwrap();
    netns
}

/// Answers each connection and datagram with its name and the caller's address, until the test's process ends.
fn serve(netns: &OwnedFd, name: &'static str, port: u16) {
    let netns = netns.try_clone().unwrap();
    let (ready, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        ns::setns(&netns, Namespaces::NET).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        ready.send(()).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap().ip();
            let _ = stream.write_all(format!("{name} {peer}").as_bytes());
        }
    });
    wait.recv().unwrap();
}

/// Who answers at an address, and whom it sees: `refused`, or `-` for silence.
fn ask(address: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let mut answer = String::new();
    match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            stream.read_to_string(&mut answer).map_or("-".into(), |_| answer)
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => "refused".into(),
        Err(_) => "-".into(),
    }
}

fn inside<T: Send>(netns: &OwnedFd, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            ns::setns(netns, Namespaces::NET).unwrap();
            act()
        });
        acting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ask_from(netns: &OwnedFd, address: &str) -> String {
    inside(netns, || ask(address))
}

/// Who answers `times` connections, sorted and without repetition.
fn ask_often(netns: &OwnedFd, address: &str, times: usize) -> Vec<String> {
    let mut all: Vec<String> = inside(netns, || (0..times).map(|_| ask(address)).collect());
    all.sort();
    all.dedup();
    all
}

struct Node {
    rules: Rules,
    applied: Applied,
    world: OwnedFd,
    one: OwnedFd,
    two: OwnedFd,
}

impl Node {
    /// The world is 192.0.2.2, the node 192.0.2.1 to it; pods are 10.1.0.2 and 10.1.0.6.
    fn new() -> Self {
        let world = wired("up0", "192.0.2.2", "192.0.2.1");
        let mut inside = Socket::route_in(&world).unwrap();
        let eth0 = inside.link("eth0").unwrap().unwrap();
        inside.add_route(Some((ip("10.96.0.0"), 16)), ip("192.0.2.1"), eth0.index).unwrap();
        // The node's own way to services is over its world.
        let mut route = Socket::route().unwrap();
        let up = route.link("up0").unwrap().unwrap();
        route.add_route(None, ip("192.0.2.2"), up.index).unwrap();
        let one = wired("pod1", "10.1.0.2", "10.1.0.1");
        let two = wired("pod2", "10.1.0.6", "10.1.0.5");
        serve(&one, "one", 8080);
        serve(&two, "two", 8080);
        let frame = Frame {
            table: "knarr-test-services".into(),
            pods: vec![Block::parse("10.1.0.0/24").unwrap()],
            services: vec![Block::parse("10.96.0.0/16").unwrap()],
        };
        let mut node = Self { applied: Applied::new(&frame.table), rules: Rules::new(frame), world, one, two };
        node.applied.replace(&node.rules.table()).unwrap();
        node
    }

    fn set(&mut self, name: &str, service: Option<Service>) {
        let mut change = self.rules.change();
        self.rules.set(&Key::new("d", name), service.as_ref(), &mut change, &mut Default::default());
        let rules = &self.rules;
        self.applied.change(&change, || panic!("{change:?} was refused of {}", rules.name())).unwrap();
    }
}

fn backend(address: &str, local: bool) -> Backend {
    Backend {
        address: ip(address),
        port: 8080,
        local,
        ready: true,
        serving: true,
        terminating: false,
        for_zone: None,
        for_node: None,
        pod: address.into(),
    }
}

fn service(cluster_ip: &str, backends: &[Backend]) -> Service {
    let port = |protocol| ServicePort { protocol, port: 80, node_port: Some(30080), backends: backends.to_vec() };
    Service {
        cluster_ips: vec![ip(cluster_ip)],
        ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
        ..Service::default()
    }
}

fn check(rows: &[(&str, String, &str)]) {
    let wrong: Vec<_> = rows.iter().filter(|(_, seen, expected)| seen != expected).collect();
    assert!(wrong.is_empty(), "(what, seen, expected): {wrong:#?}");
}

#[test]
fn services_are_reached_from_pods_the_node_and_outside() {
    on_a_node_of_its_own(|| {
        let mut node = Node::new();
        let mut web = service("10.96.0.9", &[backend("10.1.0.2", true)]);
        web.external_ips = vec![ip("198.51.100.7")];
        node.set("web", Some(web.clone()));
        check(&[
            ("a pod, its address kept", ask_from(&node.two, "10.96.0.9:80"), "one 10.1.0.6"),
            ("a pod that reaches itself", ask_from(&node.one, "10.96.0.9:80"), "one 10.1.0.1"),
            ("the node", ask("10.96.0.9:80"), "one 10.1.0.1"),
            ("the world, by the service's address", ask_from(&node.world, "10.96.0.9:80"), "one 10.1.0.1"),
            ("the world, by a node port", ask_from(&node.world, "192.0.2.1:30080"), "one 10.1.0.1"),
            ("a pod, by a node port", ask_from(&node.two, "192.0.2.1:30080"), "one 10.1.0.1"),
            ("the node, by a node port on loopback", ask("127.0.0.1:30080"), "one 10.1.0.1"),
            ("the world, by an external address", ask_from(&node.world, "192.0.2.1:80"), "refused"),
            ("a pod, by an external address", ask_from(&node.two, "198.51.100.7:80"), "one 10.1.0.1"),
            ("another port of the service", ask_from(&node.two, "10.96.0.9:81"), "refused"),
            ("an address that no service has", ask("10.96.7.7:80"), "refused"),
        ]);
        web.ports
            .iter_mut()
            .for_each(|port| port.backends = vec![backend("10.1.0.2", true), backend("10.1.0.6", true)]);
        node.set("web", Some(web.clone()));
        assert_eq!(ask_often(&node.world, "192.0.2.1:30080", 40), ["one 10.1.0.1", "two 10.1.0.5"]);
        web.ports.iter_mut().for_each(|port| port.backends.clear());
        node.set("web", Some(web));
        check(&[
            ("nobody answers: a pod", ask_from(&node.two, "10.96.0.9:80"), "refused"),
            ("nobody answers: the node", ask("10.96.0.9:80"), "refused"),
            ("nobody answers: a node port", ask_from(&node.world, "192.0.2.1:30080"), "refused"),
            ("nobody answers: a node port on loopback", ask("127.0.0.1:30080"), "refused"),
        ]);
        node.set("web", None);
        node.applied.remove().unwrap();
        let there = Socket::netfilter().unwrap().has_table(linux::netlink::nft::Family::Inet, "knarr-test-services");
        assert!(!there.unwrap());
    });
}

#[test]
fn traffic_policies_keep_the_client_and_stay_on_the_node() {
    on_a_node_of_its_own(|| {
        let mut node = Node::new();
        // One of both is another node's, as far as the service knows.
        let mut web = service("10.96.0.9", &[backend("10.1.0.2", true), backend("10.1.0.6", false)]);
        web.external_local = true;
        web.internal_local = true;
        web.balancer_ips = vec![ip("192.0.2.1")];
        node.set("web", Some(web.clone()));
        assert_eq!(ask_often(&node.world, "192.0.2.1:30080", 20), ["one 192.0.2.2"], "the client's address");
        assert_eq!(ask_often(&node.world, "192.0.2.1:80", 20), ["one 192.0.2.2"], "by the balancer's address");
        assert_eq!(ask_often(&node.two, "10.96.0.9:80", 20), ["one 10.1.0.6"]);
        let from_inside = ask_often(&node.one, "192.0.2.1:80", 40);
        assert!(from_inside.iter().any(|answer| answer.starts_with("two")), "{from_inside:?}");
        web.ports.iter_mut().for_each(|port| port.backends = vec![backend("10.1.0.6", false)]);
        node.set("web", Some(web.clone()));
        check(&[
            ("from outside there is nobody here", ask_from(&node.world, "192.0.2.1:30080"), "-"),
            ("by the balancer's address neither", ask_from(&node.world, "192.0.2.1:80"), "-"),
            ("nor by the service's", ask_from(&node.one, "10.96.0.9:80"), "-"),
            ("pods are led elsewhere", ask_from(&node.one, "192.0.2.1:80"), "two 10.1.0.2"),
        ]);
        web.sources = vec![Block::parse("198.51.100.0/24").unwrap()];
        web.external_local = false;
        node.set("web", Some(web.clone()));
        assert_eq!(ask_from(&node.world, "192.0.2.1:80"), "-", "the balancer takes others only");
        web.sources.push(Block::parse("192.0.2.0/24").unwrap());
        node.set("web", Some(web));
        assert_eq!(ask_from(&node.world, "192.0.2.1:80"), "two 10.1.0.5");
    });
}

#[test]
fn a_client_stays_with_its_endpoint_as_long_as_that_is_there() {
    on_a_node_of_its_own(|| {
        let mut node = Node::new();
        let both = [backend("10.1.0.2", true), backend("10.1.0.6", true)];
        let mut web = service("10.96.0.9", &both);
        web.affinity_secs = Some(60);
        node.set("web", Some(web.clone()));
        let first = ask_often(&node.world, "10.96.0.9:80", 20);
        assert_eq!(first.len(), 1, "{first:?}");
        let by_port = ask_often(&node.world, "192.0.2.1:30080", 20);
        assert_eq!(by_port.len(), 1, "{by_port:?}");
        let left = both.iter().find(|backend| (backend.address == ip("10.1.0.2")) != first[0].starts_with("one"));
        web.ports.iter_mut().for_each(|port| port.backends = vec![left.unwrap().clone()]);
        node.set("web", Some(web.clone()));
        let second = ask_often(&node.world, "10.96.0.9:80", 5);
        assert!(second.len() == 1 && second[0][..3] != first[0][..3], "{first:?} {second:?}");
        web.ports.iter_mut().for_each(|port| port.backends = both.to_vec());
        node.set("web", Some(web));
        assert_eq!(ask_often(&node.world, "10.96.0.9:80", 20), second, "it stays with the new one");
    });
}

#[test]
fn datagrams_follow_when_their_endpoint_goes() {
    on_a_node_of_its_own(|| {
        let mut node = Node::new();
        let mut web = service("10.96.0.9", &[backend("10.1.0.2", true)]);
        node.set("web", Some(web.clone()));
        inside(&node.world, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect("10.96.0.9:80").unwrap();
            let mut buffer = [0; 100];
            let mut ask = || {
                socket.send(b"who?").unwrap();
                let length = socket.recv(&mut buffer).unwrap();
                String::from_utf8_lossy(&buffer[..length]).into_owned()
            };
            assert_eq!(ask(), "one 10.1.0.1");
        });
        web.ports.iter_mut().for_each(|port| port.backends = vec![backend("10.1.0.6", true)]);
        let mut change = node.rules.change();
        let mut moved = Default::default();
        node.rules.set(&Key::new("d", "web"), Some(&web), &mut change, &mut moved);
        node.applied.change(&change, || panic!("refused")).unwrap();
        let mut seen = Vec::new();
        let mut socket = Socket::netfilter().unwrap();
        let rules = &node.rules;
        let flows = std::cell::RefCell::new(&mut seen);
        socket
            .forget_flows(|flow| {
                let stale = flow.protocol == 17 && rules.is_stale(&moved, flow);
                flows.borrow_mut().push((flow.answers_from, stale));
                stale
            })
            .unwrap();
        assert!(seen.contains(&(ip("10.1.0.2"), true)), "{seen:?}");
        let mut after = Vec::new();
        let flows = std::cell::RefCell::new(&mut after);
        socket
            .forget_flows(|flow| {
                flows.borrow_mut().push(flow.answers_from);
                false
            })
            .unwrap();
        assert!(!after.contains(&ip("10.1.0.2")), "{after:?}");
    });
}

#[test]
fn ten_thousand_services_are_one_transaction_and_an_endpoint_a_few_elements() {
    on_a_node_of_its_own(|| {
        let mut node = Node::new();
        let (mut change, mut moved) = (node.rules.change(), Default::default());
        let address = |n: u32| IpAddr::from(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + n));
        let made = |n: u32, backends: &[Backend]| {
            let mut made = service("10.96.0.9", backends);
            made.cluster_ips = vec![address(n)];
            made.ports.truncate(1);
            made.ports[0].node_port = None;
            made
        };
        let both = [backend("10.1.0.2", true), backend("10.1.0.6", true)];
        for n in 0..10_000 {
            node.rules.set(&Key::new("d", format!("s{n}")), Some(&made(n, &both)), &mut change, &mut moved);
        }
        let began = std::time::Instant::now();
        node.applied.change(&change, || panic!("refused")).unwrap();
        let all = began.elapsed();
        assert!(ask_from(&node.one, &format!("{}:80", address(9_999))) != "refused");
        let began = std::time::Instant::now();
        node.set("s4711", Some(made(4711, &both[..1])));
        eprintln!("10,000 services: {all:?}; one endpoint: {:?}", began.elapsed());
        assert_eq!(ask_often(&node.two, &format!("{}:80", address(4711)), 5), ["one 10.1.0.6"]);
        let began = std::time::Instant::now();
        node.applied.replace(&node.rules.table()).unwrap();
        eprintln!("put back whole: {:?}", began.elapsed());
        assert_eq!(ask_often(&node.two, &format!("{}:80", address(4711)), 5), ["one 10.1.0.6"]);
    });
}
