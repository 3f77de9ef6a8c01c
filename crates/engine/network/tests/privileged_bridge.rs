//! Real traffic between namespaces: one plays the host, one the world outside, the others containers on three networks.
//! All of it lives in namespaces of the test's own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use linux::netlink::Socket;
use linux::netlink::route::Veth;
use linux::ns::{self, Namespaces};
use network::{
    Bridges, Driver, Endpoint, Firewall, HeldPorts, Network, NetworkError, Plug, PortBinding, Protocol, Range,
};

/// Runs the test with a network namespace of its own as the host.
fn on_a_host_of_its_own(test: impl FnOnce() + Send) {
    if linux::cred::effective_ids().0 != 0 {
        eprintln!("SKIPPED: needs root");
        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            ns::unshare(Namespaces::NET).unwrap();
            linux::net::loopback_up().unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(id: &str, subnet: &str, internal: bool) -> Network {
    let subnet: network::Subnet = subnet.parse().unwrap();
    Network {
        id: id.into(),
        driver: Driver::Bridge,
        bridge: format!("kn{id}"),
        subnets: vec![(subnet, subnet.nth(1).unwrap())],
        internal,
        between_containers: true,
        masquerade: true,
        mtu: None,
        pods: None,
    }
}

struct Container {
    netns: OwnedFd,
    endpoint: Endpoint,
}

fn container(bridges: &Bridges, network: &Network, name: &str, address: &str) -> Container {
    container_at(bridges, network, name, address, 0)
}

fn container_at(bridges: &Bridges, network: &Network, name: &str, address: &str, segment: usize) -> Container {
    let addresses = [ip(address)];
    let plug = Plug {
        network,
        host_name: name,
        name: "eth0",
        addresses: &addresses,
        mac: None,
        segment,
        default_route: true,
        send_limit: None,
        receive_limit: None,
    };
    let netns = bridges.sandbox(&[plug]).unwrap();
    serve(&netns, 80);
    let endpoint = Endpoint {
        network: network.id.clone(),
        container: name.into(),
        addresses: addresses.into(),
        ports: Vec::new(),
    };
    Container { netns, endpoint }
}

fn pod(bridges: &Bridges, network: &Network, name: &str, address: &str) -> Container {
    let addresses = [ip(address)];
    let netns = bridges.sandbox(&[]).unwrap();
    let plug = Plug {
        network,
        host_name: name,
        name: "eth0",
        addresses: &addresses,
        mac: None,
        segment: 0,
        default_route: true,
        send_limit: None,
        receive_limit: None,
    };
    bridges.plug(&netns, &plug).unwrap();
    serve(&netns, 80);
    let endpoint = Endpoint {
        network: network.id.clone(),
        container: name.into(),
        addresses: addresses.into(),
        ports: Vec::new(),
    };
    Container { netns, endpoint }
}

/// As [`ask_from`], with an address that the asker takes for itself.
fn ask_as(netns: &OwnedFd, own: &str, address: &str) -> String {
    let mut inside = Socket::route_in(netns).unwrap();
    let eth0 = inside.link("eth0").unwrap().unwrap();
    inside.add_address(eth0.index, ip(own), 32).unwrap();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            ns::setns(netns, Namespaces::NET).unwrap();
            let socket =
                rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
            rustix::net::bind(&socket, &SocketAddr::new(ip(own), 0)).unwrap();
            rustix::net::sockopt::set_socket_timeout(
                &socket,
                rustix::net::sockopt::Timeout::Send,
                Some(Duration::from_millis(300)),
            )
            .unwrap();
            let address: SocketAddr = address.parse().unwrap();
            if rustix::net::connect(&socket, &address).is_ok() { "connected".to_owned() } else { "-".to_owned() }
        });
        asking.join().unwrap()
    })
}

/// Answers each connection with the caller's address, until the test's process ends.
fn serve(netns: &OwnedFd, port: u16) {
    let netns = netns.try_clone().unwrap();
    let (ready, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        ns::setns(&netns, Namespaces::NET).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap().ip().to_string();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
    wait.recv().unwrap();
}

/// Whom the server at `address` sees; `-` if there is no connection.
fn ask(address: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let mut answer = String::new();
    match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            stream.read_to_string(&mut answer).map_or("-".into(), |_| answer)
        }
        Err(_) => "-".into(),
    }
}

fn ask_from(netns: &OwnedFd, address: &str) -> String {
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            ns::setns(netns, Namespaces::NET).unwrap();
            ask(address)
        });
        asking.join().unwrap()
    })
}

/// The world: 192.0.2.2, which knows the way to the containers' subnets through the host.
fn world() -> OwnedFd {
    let world = Bridges::new("world").sandbox(&[]).unwrap();
    let mut route = Socket::route().unwrap();
    let veth = Veth { name: "up0", master: None, peer_name: "eth0", peer_netns: &world, peer_mac: None, mtu: None };
    route.add_veth(&veth).unwrap();
    let up = route.link("up0").unwrap().unwrap();
    route.add_address(up.index, ip("192.0.2.1"), 24).unwrap();
    let mut inside = Socket::route_in(&world).unwrap();
    let eth0 = inside.link("eth0").unwrap().unwrap();
    inside.set_up(eth0.index).unwrap();
    inside.add_address(eth0.index, ip("192.0.2.2"), 24).unwrap();
    inside.add_route(Some((ip("10.1.0.0"), 16)), ip("192.0.2.1"), eth0.index).unwrap();
    serve(&world, 80);
    world
}

fn tcp(host_address: &str, first: u16, last: u16) -> PortBinding {
    let host_ports = Range { first, last };
    PortBinding { protocol: Protocol::Tcp, container_port: 80, host_address: ip(host_address), host_ports }
}

#[test]
fn networks_join_isolate_publish_and_reach_out() {
    on_a_host_of_its_own(|| {
        let world = world();
        let (bridges, firewall, ports) = (Bridges::new("test"), Firewall::new("test"), HeldPorts::default());
        let networks =
            [network("a", "10.1.0.0/24", false), network("b", "10.1.1.0/24", false), network("i", "10.1.2.0/24", true)];
        for network in &networks {
            bridges.add_network(network).unwrap();
            bridges.add_network(network).unwrap();
        }
        let mut one = container(&bridges, &networks[0], "one", "10.1.0.2");
        let two = container(&bridges, &networks[0], "two", "10.1.0.3");
        let other = container(&bridges, &networks[1], "other", "10.1.1.2");
        let inner = container(&bridges, &networks[2], "inner", "10.1.2.2");
        let inner_too = container(&bridges, &networks[2], "innertoo", "10.1.2.3");
        one.endpoint.ports.push(ports.hold(&tcp("0.0.0.0", 8080, 8080)).unwrap());
        one.endpoint.ports.push(ports.hold(&tcp("127.0.0.1", 8081, 8081)).unwrap());
        let endpoints: Vec<_> =
            [&one, &two, &other, &inner, &inner_too].map(|container| container.endpoint.clone()).into();
        firewall.apply(&networks, &endpoints).unwrap();
        assert!(firewall.is_there().unwrap());

        let rows = [
            ("neighbours on one network", ask_from(&one.netns, "10.1.0.3:80"), "10.1.0.2"),
            ("another network", ask_from(&one.netns, "10.1.1.2:80"), "-"),
            ("from the host", ask("10.1.0.2:80"), "10.1.0.1"),
            ("out, with the host's address", ask_from(&one.netns, "192.0.2.2:80"), "192.0.2.1"),
            ("in, straight to a container", ask_from(&world, "10.1.0.2:80"), "-"),
            ("in, by a published port, address kept", ask_from(&world, "192.0.2.1:8080"), "192.0.2.2"),
            ("a port of loopback only, from outside", ask_from(&world, "192.0.2.1:8081"), "-"),
            ("a published port on loopback", ask("127.0.0.1:8080"), "10.1.0.1"),
            ("a port of loopback only", ask("127.0.0.1:8081"), "10.1.0.1"),
            ("its own published port", ask_from(&one.netns, "10.1.0.1:8080"), "10.1.0.1"),
            ("a neighbour's published port", ask_from(&two.netns, "192.0.2.1:8080"), "10.1.0.1"),
            ("another network's published port", ask_from(&other.netns, "192.0.2.1:8080"), "10.1.0.1"),
            ("within an internal network", ask_from(&inner.netns, "10.1.2.3:80"), "10.1.2.2"),
            ("out of an internal network", ask_from(&inner.netns, "192.0.2.2:80"), "-"),
            ("into an internal network", ask_from(&one.netns, "10.1.2.2:80"), "-"),
        ];
        let wrong: Vec<_> = rows.iter().filter(|(_, seen, expected)| seen != expected).collect();
        assert!(wrong.is_empty(), "(what, seen, expected): {wrong:#?}");

        let taken = ports.hold(&tcp("0.0.0.0", 8080, 8080)).unwrap_err();
        assert_eq!(taken.to_string(), "Bind for 0.0.0.0:8080 failed: port is already allocated");
        assert_eq!(ports.hold(&tcp("0.0.0.0", 8080, 8082)).unwrap().host_port, 8082, "8081 is taken on loopback");
        assert_ne!(ports.hold(&tcp("0.0.0.0", 0, 0)).unwrap().host_port, 0);
        let full = ports.hold(&tcp("0.0.0.0", 8080, 8081)).unwrap_err();
        assert!(matches!(full, NetworkError::PortsExhausted { .. }), "{full}");

        bridges.remove_links(&["one"]).unwrap();
        assert_eq!(ask_from(&two.netns, "10.1.0.2:80"), "-");
        firewall.apply(&networks, &[]).unwrap();
        assert_eq!(ask_from(&world, "192.0.2.1:8080"), "-");
        firewall.remove().unwrap();
        assert!(!firewall.is_there().unwrap());
        for network in &networks {
            bridges.remove_network(network, 1).unwrap();
            bridges.remove_network(network, 1).unwrap();
        }
        let left = Socket::route().unwrap().links().unwrap();
        assert!(left.iter().all(|link| link.kind.as_deref() != Some("bridge")), "{left:?}");
    });
}

#[test]
fn a_network_of_several_bridges_is_one() {
    on_a_host_of_its_own(|| {
        let bridges = Bridges::new("0123abcd");
        let network = network("a", "10.1.0.0/24", false);
        bridges.add_network(&network).unwrap();
        let one = container_at(&bridges, &network, "one", "10.1.0.2", 0);
        let two = container_at(&bridges, &network, "two", "10.1.0.3", 1);
        let three = container_at(&bridges, &network, "three", "10.1.0.4", 2);
        let four = container_at(&bridges, &network, "four", "10.1.0.5", 1);
        Firewall::new("0123abcd").apply(std::slice::from_ref(&network), &[]).unwrap();
        let rows = [
            ("from the first to a further one", ask_from(&one.netns, "10.1.0.3:80"), "10.1.0.2"),
            ("between further ones", ask_from(&two.netns, "10.1.0.4:80"), "10.1.0.3"),
            ("within a further one", ask_from(&two.netns, "10.1.0.5:80"), "10.1.0.3"),
            ("from the host", ask("10.1.0.4:80"), "10.1.0.1"),
            ("and back", ask_from(&three.netns, "10.1.0.2:80"), "10.1.0.4"),
        ];
        let wrong: Vec<_> = rows.iter().filter(|(_, seen, expected)| seen != expected).collect();
        assert!(wrong.is_empty(), "(what, seen, expected): {wrong:#?}");
        assert!(four.endpoint.addresses.contains(&ip("10.1.0.5")));
        bridges.remove_network(&network, 3).unwrap();
        let left = bridges.links().unwrap();
        let ours: Vec<_> =
            left.iter().filter(|name| matches!(network::names::kind("0123abcd", name), Some(kind) if kind != network::names::Kind::Port)).collect();
        assert!(ours.is_empty(), "{ours:?}");
    });
}

/// More endpoints than the kernel takes ports on one bridge.
#[test]
fn a_network_has_more_than_1_023_endpoints() {
    on_a_host_of_its_own(|| {
        let bridges = Bridges::new("0123abcd");
        let network = network("a", "10.1.0.0/20", false);
        bridges.add_network(&network).unwrap();
        let full = network::names::SEGMENT_MAX;
        // Ends of all but two of them, in one namespace: what counts is that the bridges have their ports.
        let crowd = bridges.sandbox(&[]).unwrap();
        let one = container_at(&bridges, &network, "one", "10.1.0.2", 0);
        let last = container_at(&bridges, &network, "last", "10.1.4.4", 1);
        for number in 0..1024 {
            let (host_name, name) = (network::names::port("0123abcd", number), format!("eth{number}"));
            let plug = Plug {
                network: &network,
                host_name: &host_name,
                name: &name,
                addresses: &[],
                mac: None,
                segment: usize::from(number as usize >= full - 1),
                default_route: false,
                send_limit: None,
                receive_limit: None,
            };
            bridges.plug(&crowd, &plug).unwrap();
        }
        Firewall::new("0123abcd").apply(std::slice::from_ref(&network), &[]).unwrap();
        assert_eq!(ask_from(&one.netns, "10.1.4.4:80"), "10.1.0.2");
        assert_eq!(ask_from(&last.netns, "10.1.0.2:80"), "10.1.4.4");
        assert_eq!(ask("10.1.4.4:80"), "10.1.0.1");
    });
}

#[test]
fn pods_are_reached_from_everywhere_and_through_the_host_alone() {
    on_a_host_of_its_own(|| {
        let world = world();
        let (bridges, firewall, ports) = (Bridges::new("test"), Firewall::new("test"), HeldPorts::default());
        let closed = network("c", "10.1.9.0/24", false);
        let mut pods = network("p", "10.1.0.0/24", false);
        pods.pods = Some(network::PodModel { cluster: vec!["10.1.0.0/24".parse().unwrap()] });
        for network in [&pods, &closed] {
            bridges.add_network(network).unwrap();
        }
        let mut one = pod(&bridges, &pods, "ptest-1", "10.1.0.2");
        let two = pod(&bridges, &pods, "ptest-2", "10.1.0.3");
        let other = container(&bridges, &closed, "other", "10.1.9.2");
        one.endpoint.ports.push(ports.hold(&tcp("0.0.0.0", 8080, 8080)).unwrap());
        let networks = [pods, closed];
        firewall.apply(&networks, &[one.endpoint.clone(), two.endpoint.clone()]).unwrap();
        let rows = [
            ("between pods", ask_from(&one.netns, "10.1.0.3:80"), "10.1.0.2"),
            ("from the host", ask("10.1.0.2:80"), "10.1.0.1"),
            ("from outside, straight", ask_from(&world, "10.1.0.2:80"), "192.0.2.2"),
            ("out, with the host's address", ask_from(&one.netns, "192.0.2.2:80"), "192.0.2.1"),
            ("from another network", ask_from(&other.netns, "10.1.0.2:80"), "10.1.0.1"),
            ("to another network", ask_from(&one.netns, "10.1.9.2:80"), "-"),
            ("a published port, from outside", ask_from(&world, "192.0.2.1:8080"), "192.0.2.2"),
            ("a published port, on loopback", ask("127.0.0.1:8080"), "10.1.0.1"),
            ("its own published port", ask_from(&one.netns, "192.0.2.1:8080"), "10.1.0.1"),
            ("a neighbour's published port, address kept", ask_from(&two.netns, "192.0.2.1:8080"), "10.1.0.3"),
            ("another pod's address as its own", ask_as(&one.netns, "10.1.0.3", "192.0.2.2:80"), "-"),
        ];
        let wrong: Vec<_> = rows.iter().filter(|(_, seen, expected)| seen != expected).collect();
        assert!(wrong.is_empty(), "(what, seen, expected): {wrong:#?}");
        // What is sent to the cluster's other nodes keeps its source: the world is one of them now.
        let mut networks = networks;
        networks[0].pods = Some(network::PodModel { cluster: vec!["192.0.2.2/32".parse().unwrap()] });
        firewall.apply(&networks, &[one.endpoint.clone()]).unwrap();
        assert_eq!(ask_from(&two.netns, "192.0.2.2:80"), "10.1.0.3");
        bridges.remove_links(&["ptest-1", "ptest-2"]).unwrap();
        for network in &networks {
            bridges.remove_network(network, 1).unwrap();
        }
    });
}
