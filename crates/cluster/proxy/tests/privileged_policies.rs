//! Real traffic under network policies: pods on wires of a namespace that plays the node.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use linux::netlink::Socket;
use linux::netlink::nft::{Protocol, difference};
use linux::netlink::route::Veth;
use linux::ns::{self, Namespaces};
use proxy::policy::{self, Allow, Direction, Peers, Policy, Ports};
use proxy::{Applied, Block};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn new_netns() -> OwnedFd {
    let make = || {
        ns::unshare(Namespaces::NET)?;
        linux::net::loopback_up()?;
        ns::open("/proc/thread-self/ns/net")
    };
    std::thread::spawn(make).join().unwrap().unwrap()
}

fn wired(name: &str, address: &str, node: &str) -> OwnedFd {
    let netns = new_netns();
    let mut route = Socket::route().unwrap();
    let veth = Veth { name, master: None, peer_name: "eth0", peer_netns: &netns, peer_mac: None, mtu: None };
    route.add_veth(&veth).unwrap();
    let here = route.link(name).unwrap().unwrap();
    route.add_address(here.index, ip(node), 30).unwrap();
    let mut inside = Socket::route_in(&netns).unwrap();
    let eth0 = inside.link("eth0").unwrap().unwrap();
    inside.set_up(eth0.index).unwrap();
    inside.add_address(eth0.index, ip(address), 30).unwrap();
    inside.add_route(None, ip(node), eth0.index).unwrap();
    netns
}

/// Says nothing and ends each connection, until the test's process ends.
fn serve(netns: Option<&OwnedFd>, ports: &'static [u16]) {
    let netns = netns.map(|netns| netns.try_clone().unwrap());
    let here = ns::open("/proc/thread-self/ns/net").unwrap();
    for port in ports {
        let netns = netns.as_ref().unwrap_or(&here).try_clone().unwrap();
        let (ready, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            ns::setns(&netns, Namespaces::NET).unwrap();
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).unwrap();
            ready.send(()).unwrap();
            for stream in listener.incoming() {
                drop(stream);
            }
        });
        wait.recv().unwrap();
    }
}

fn reaches(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_millis(200)) else {
        return false;
    };
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.read_to_end(&mut Vec::new()).is_ok()
}

fn reaches_from(netns: &OwnedFd, address: &str) -> bool {
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            ns::setns(netns, Namespaces::NET).unwrap();
            reaches(address)
        });
        asking.join().unwrap()
    })
}

fn policy(direction: Direction, isolates: &[&str], allows: Vec<Allow>) -> Policy {
    Policy {
        name: format!("d/{isolates:?}{direction:?}"),
        direction,
        isolates: isolates.iter().map(|a| ip(a)).collect(),
        allows,
    }
}

fn pods(addresses: &[&str]) -> Peers {
    Peers::Pods { selected: "some".into(), addresses: addresses.iter().map(|a| ip(a)).collect() }
}

#[test]
fn policies_let_through_what_they_allow_and_nothing_else() {
    if linux::cred::effective_ids().0 != 0 {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let test = || {
        ns::unshare(Namespaces::NET).unwrap();
        linux::net::loopback_up().unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let (web, db, other) = (
            wired("pod1", "10.1.0.2", "10.1.0.1"),
            wired("pod2", "10.1.0.6", "10.1.0.5"),
            wired("pod3", "10.1.0.10", "10.1.0.9"),
        );
        for netns in [&web, &db, &other] {
            serve(Some(netns), &[80, 5432, 8080]);
        }
        serve(None, &[53, 443]);
        let mut applied = Applied::new("knarr-test-policies");
        let mut now = None;
        let mut apply = |policies: &[Policy]| {
            let wanted = policy::table("knarr-test-policies", &[ip("10.1.0.1")], policies);
            match now.as_ref().and_then(|now| difference(now, &wanted)) {
                Some(change) => applied.change(&change, || panic!("refused: {change:?}")).unwrap(),
                None => applied.replace(&wanted).unwrap(),
            }
            now = Some(wanted);
        };
        let (from_web, from_other) = (|to: &str| reaches_from(&web, to), |to: &str| reaches_from(&other, to));
        assert!(from_web("10.1.0.6:5432") && from_other("10.1.0.6:5432"), "without policies all is open");
        // Nothing comes in.
        apply(&[policy(Direction::Ingress, &["10.1.0.6"], vec![])]);
        assert!(!from_web("10.1.0.6:5432") && !from_other("10.1.0.6:80"));
        assert!(reaches("10.1.0.6:5432"), "the node's probes are not asked about");
        assert!(reaches_from(&db, "10.1.0.2:80"), "the other direction is open, and answers come back");
        // One pod, one port; then another pod joins the selected ones.
        let allow = |peers: Peers, ports: Ports| Allow { peers: Some(vec![peers]), ports: Some(vec![ports]) };
        let sql = || Ports::Range(Protocol::Tcp, 5432, 5432);
        apply(&[policy(Direction::Ingress, &["10.1.0.6"], vec![allow(pods(&["10.1.0.2"]), sql())])]);
        assert!(from_web("10.1.0.6:5432") && !from_web("10.1.0.6:80") && !from_other("10.1.0.6:5432"));
        apply(&[policy(Direction::Ingress, &["10.1.0.6"], vec![allow(pods(&["10.1.0.2", "10.1.0.10"]), sql())])]);
        assert!(from_web("10.1.0.6:5432") && from_other("10.1.0.6:5432"));
        // A range of ports, a block with a hole, a name.
        let block = Peers::Blocks {
            with: vec![Block::parse("10.1.0.0/24").unwrap()],
            without: vec![Block::parse("10.1.0.8/29").unwrap()],
        };
        apply(&[policy(
            Direction::Ingress,
            &["10.1.0.6"],
            vec![allow(block, Ports::Range(Protocol::Tcp, 8000, 9000))],
        )]);
        assert!(from_web("10.1.0.6:8080") && !from_web("10.1.0.6:5432") && !from_other("10.1.0.6:8080"));
        let named =
            Ports::Named { name: "http".into(), protocol: Protocol::Tcp, at: BTreeSet::from([(ip("10.1.0.6"), 80)]) };
        apply(&[policy(Direction::Ingress, &["10.1.0.6"], vec![Allow { peers: None, ports: Some(vec![named]) }])]);
        assert!(from_other("10.1.0.6:80") && !from_other("10.1.0.6:8080"));
        // What goes out: to one pod, and to the name server here, but to nothing else of this node.
        apply(&[policy(Direction::Egress, &["10.1.0.2"], vec![allow(pods(&["10.1.0.6"]), sql())])]);
        assert!(from_web("10.1.0.6:5432") && !from_web("10.1.0.6:80") && !from_web("10.1.0.10:80"));
        assert!(from_web("10.1.0.1:53") && !from_web("10.1.0.1:443"));
        // Two policies of one pod add up.
        let more = Policy {
            name: "d/more".into(),
            ..policy(Direction::Egress, &["10.1.0.2"], vec![allow(pods(&["10.1.0.6"]), Ports::Any(Protocol::Tcp))])
        };
        apply(&[policy(Direction::Egress, &["10.1.0.2"], vec![]), more]);
        assert!(from_web("10.1.0.6:80") && !from_web("10.1.0.10:80"));
        apply(&[]);
        assert!(from_web("10.1.0.10:80"));
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(test).join() {
            std::panic::resume_unwind(panic);
        }
    });
}
