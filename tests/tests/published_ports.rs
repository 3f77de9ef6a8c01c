//! Published ports that obey the host's own filters: `knarr engine --published-ports=obey-input`. The host is a network namespace,
//! its administrator the stock `nft` and `iptables-nft`, and two others outside ask.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blackbox::{Host, Lan, World, eventually, has_docker};
use rustix::process::Signal;

/// Whether something that these tests need is missing; said aloud.
fn world_is_missing() -> bool {
    let no_nft = Command::new("nft").arg("--version").output().is_err();
    if no_nft {
        eprintln!("SKIPPED: no nft on the path");
    }
    no_nft || !has_docker()
}

fn field(world: &World, name: &str, format: &str) -> String {
    world.docker(["inspect", "-f", format, name]).success().text()
}

/// Answers from within a network namespace with the address that asked, over TCP and UDP, until it is dropped.
struct Answerer {
    ended: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Answerer {
    fn new(netns: &Path, port: u16) -> Self {
        let (listener, socket) = blackbox::traffic::within(netns.to_owned(), move || {
            (std::net::TcpListener::bind(("::", port)).unwrap(), UdpSocket::bind(("::", port)).unwrap())
        });
        listener.set_nonblocking(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = (ended.clone(), ended.clone());
        let tcp = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((mut stream, peer)) => {
                        let _ = stream.write_all(peer.ip().to_canonical().to_string().as_bytes());
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        let udp = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                    let _ = socket.send_to(peer.ip().to_canonical().to_string().as_bytes(), peer);
                }
            }
        });
        Self { ended, threads: vec![tcp, udp] }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// What an [`Answerer`] says to somebody in a network namespace; empty if it says nothing.
fn told(netns: &Path, protocol: &'static str, address: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    blackbox::traffic::within(netns.to_owned(), move || {
        let patience = Duration::from_millis(700);
        let mut text = String::new();
        if protocol == "tcp" {
            let Ok(mut stream) = TcpStream::connect_timeout(&address, patience) else { return text };
            stream.set_read_timeout(Some(patience)).unwrap();
            let _ = stream.read_to_string(&mut text);
            return text;
        }
        let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 64];
        match socket.send_to(b"?", address).and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
            Err(_) => text,
        }
    })
}

/// A machine with an engine, two others that ask, and an administrator with `nft`.
struct Walled {
    _inside: Answerer,
    world: World,
    host: Host,
    outside: Host,
    other: Host,
    _lan: Lan,
}

impl Walled {
    /// With a container whose port 80 is published as 8080, TCP and UDP, and UDP as 8053.
    fn new(flags: &[&str]) -> Self {
        let mut lan = Lan::new();
        let [host, outside, other] = [lan.host(), lan.host(), lan.host()];
        for (number, host) in [&host, &outside, &other].into_iter().enumerate() {
            host.run(&format!("ip address add fd99::{}/64 dev eth0 nodad", number + 1)).success();
        }
        let world = World::start_on(&host, flags);
        world.docker(["network", "create", "--ipv6", "--subnet", "fd42:bbbb::/64", "six"]).success();
        let ports = ["-p", "8080:80", "-p", "8080:80/udp", "-p", "8053:80/udp"];
        let words = ["run", "-d", "--name", "web", "--network", "six"];
        world.docker([&words[..], &ports, &["busybox", "sleep", "600"]].concat()).success();
        let netns = format!("/proc/{}/ns/net", field(&world, "web", "{{.State.Pid}}"));
        Self { _inside: Answerer::new(Path::new(&netns), 80), world, host, outside, other, _lan: lan }
    }

    /// Further lines for the administrator's `nft -f -`.
    fn nft(&self, lines: &str) {
        let mut command = self.host.command("nft");
        command.args(["-f", "-"]);
        blackbox::finish(command, lines.as_bytes()).success();
    }

    fn open(&self, from: &Host, protocol: &'static str, address: &str, client: &str) {
        eventually(&format!("{protocol} {address} answers {client}"), || {
            told(&from.netns(), protocol, address) == client
        });
    }

    fn closed(&self, from: &Host, protocol: &'static str, address: &str) {
        eventually(&format!("{protocol} {address} is closed"), || told(&from.netns(), protocol, address).is_empty());
        assert_eq!(told(&from.netns(), protocol, address), "", "{protocol} {address}");
    }
}

const WEB: &str = "10.99.0.1:8080";
const WEB6: &str = "[fd99::1]:8080";

/// A filter as people have it: with a policy, answers, loopback, a jump, a named set, and a map of verdicts.
const FILTER: &str = "
table inet filter {
    set open { type inet_proto . inet_service; flags interval; }
    chain friends { ip saddr 10.99.0.3 accept; ip6 saddr fd99::3 accept; }
    chain services {
        meta l4proto . th dport @open accept
        tcp dport vmap { 22 : accept, 8000-8010 : accept, 9090 : jump friends }
    }
    chain input {
        type filter hook input priority 0; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iif lo accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        jump services
    }
}
";

#[test]
fn published_ports_obey_the_hosts_filters_where_asked_to() {
    if world_is_missing() {
        return;
    }
    let mut walled = Walled::new(&["--published-ports", "obey-input"]);
    let (outside, other) = (walled.outside.clone(), walled.other.clone());
    walled.open(&outside, "tcp", WEB, "10.99.0.2");
    walled.open(&outside, "udp", WEB, "10.99.0.2");
    walled.open(&outside, "tcp", WEB6, "fd99::2");
    walled.nft(FILTER);
    for (protocol, address) in [("tcp", WEB), ("udp", WEB), ("udp", "10.99.0.1:8053"), ("tcp", WEB6), ("udp", WEB6)] {
        walled.closed(&outside, protocol, address);
    }
    // The host's own connections are not of `input`; what a container asks for is answered.
    let host = walled.host.clone();
    walled.open(
        &host,
        "tcp",
        "127.0.0.1:8080",
        &field(&walled.world, "web", "{{.NetworkSettings.Networks.six.Gateway}}"),
    );
    {
        let _asked = Answerer::new(&outside.netns(), 90);
        let netns = format!("/proc/{}/ns/net", field(&walled.world, "web", "{{.State.Pid}}"));
        for protocol in ["tcp", "udp"] {
            eventually("a container's questions are answered", || {
                told(Path::new(&netns), protocol, "10.99.0.2:90") == "10.99.0.1"
            });
        }
    }
    // By a set of protocols and ports.
    walled.nft("add element inet filter open { tcp . 8080 }");
    walled.open(&outside, "tcp", WEB, "10.99.0.2");
    walled.open(&outside, "tcp", WEB6, "fd99::2");
    walled.closed(&outside, "udp", WEB);
    walled.nft("add element inet filter open { udp . 8000-8100 }");
    walled.open(&outside, "udp", WEB, "10.99.0.2");
    walled.open(&outside, "udp", "10.99.0.1:8053", "10.99.0.2");
    walled.open(&outside, "udp", WEB6, "fd99::2");
    walled.nft("delete element inet filter open { tcp . 8080, udp . 8000-8100 }");
    for (protocol, address) in [("tcp", WEB), ("tcp", WEB6), ("udp", WEB), ("udp", WEB6)] {
        walled.closed(&outside, protocol, address);
    }
    // By who asks, through a map of verdicts and a chain that is jumped to; refused, not lost, for everybody else.
    walled
        .nft("add rule inet filter services tcp dport vmap { 8080 : jump friends }; add rule inet filter input reject");
    walled.open(&other, "tcp", WEB, "10.99.0.3");
    walled.open(&other, "tcp", WEB6, "fd99::3");
    walled.closed(&outside, "tcp", WEB);
    let refused = blackbox::traffic::within(outside.netns(), || {
        TcpStream::connect_timeout(&WEB.parse().unwrap(), Duration::from_secs(20)).map(drop).map_err(|e| e.kind())
    });
    assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused));
    // Every filter is asked: one that lets it pass does not speak for the next.
    walled.nft("table ip second { chain input { type filter hook input priority 10; tcp dport 8080 drop; }; }");
    walled.closed(&other, "tcp", WEB);
    walled.open(&other, "tcp", WEB6, "fd99::3");
    walled.nft("delete table ip second");
    walled.open(&other, "tcp", WEB, "10.99.0.3");

    // Without an engine it stays as it was; the next one finds what has changed meanwhile.
    walled.world.end_engine(Signal::KILL);
    walled.open(&other, "tcp", WEB, "10.99.0.3");
    walled.closed(&outside, "tcp", WEB);
    // Who looks after a dead engine, or needs one and says nothing of ports, leaves them as they were.
    for word in ["doctor", "ps"] {
        let mut command = host.command(blackbox::program());
        command.args(walled.world.knarr_command().get_args()).arg(word);
        blackbox::finish(command, b"").success();
        walled.closed(&outside, "tcp", WEB);
    }
    let started = walled.world.pids_of("engine");
    assert_eq!(started.len(), 1);
    rustix::process::kill_process(started[0], Signal::TERM).unwrap();
    eventually("the engine of ps ends", || walled.world.pids_of("engine").is_empty());
    walled.nft("add element inet filter open { tcp . 8080 }");
    walled.world.start_engine(&[]);
    walled.open(&outside, "tcp", WEB, "10.99.0.2");
    walled.nft("delete element inet filter open { tcp . 8080 }");
    walled.closed(&outside, "tcp", WEB);
    // All at once, as a service that loads rules does it, our table with them.
    walled.nft(&format!("flush ruleset\n{FILTER}"));
    walled.closed(&other, "tcp", WEB);
    walled.nft("add element inet filter open { tcp . 8080 }");
    walled.open(&other, "tcp", WEB, "10.99.0.3");
    walled.nft("delete element inet filter open { tcp . 8080 }");
    walled.closed(&other, "tcp", WEB);

    // As Docker's are without a word about it.
    walled.world.end_engine(Signal::TERM);
    walled.world.flags(&[]);
    walled.world.start_engine(&[]);
    walled.open(&outside, "tcp", WEB, "10.99.0.2");
    walled.open(&outside, "udp", WEB6, "fd99::2");
}

#[test]
fn filters_that_cannot_be_followed_close_published_ports() {
    if world_is_missing() {
        return;
    }
    let walled = Walled::new(&["--published-ports=obey-input"]);
    let (outside, host) = (walled.outside.clone(), walled.host.clone());
    let warnings = || walled.world.docker(["info", "-f", "{{json .Warnings}}"]).success().text();
    walled.open(&outside, "tcp", WEB, "10.99.0.2");
    for (rule, why) in [
        (
            "counter name seen",
            "rule 2 of chain input in table inet filter has an expression that cannot be copied (objref)",
        ),
        ("tcp dport 22 add @late { ip saddr }", "(dynset)"),
        ("ip saddr @late drop", "rules write as packets pass (late)"),
        (
            "tcp dport 8080 meta mark set 7",
            "rule 2 of chain input in table inet filter changes packets or connections (meta)",
        ),
        // It is the kernel that says no: one more chain on the way than it goes.
        ("jump deep1", "netlink"),
    ] {
        let deep = |n: u32| format!("chain deep{n} {{ jump deep{}; }}\n", n + 1);
        let deep: String = (1..14).rev().map(deep).collect();
        walled.nft(&format!(
            "table inet filter {{
                counter seen {{ }}
                set late {{ type ipv4_addr; size 100; flags dynamic, timeout; timeout 1m; }}
                chain deep14 {{ accept; }}
                {deep}
                chain input {{ type filter hook input priority 0; tcp dport 8080 counter; {rule}; }}
            }}"
        ));
        walled.closed(&outside, "tcp", WEB);
        walled.closed(&outside, "udp", WEB6);
        assert_ne!(told(&host.netns(), "tcp", "127.0.0.1:8080"), "", "{rule}: the host's own are not concerned");
        let warning = warnings();
        assert!(warning.contains("published ports are closed") && warning.contains(why), "{rule}: {warning}");
        assert!(walled.world.engine_log().contains(why), "{rule}");
        walled.nft("delete table inet filter");
        walled.open(&outside, "tcp", WEB, "10.99.0.2");
        assert!(!warnings().contains("published ports"), "{}", warnings());
    }
}

/// What `iptables` of today writes: nftables with extensions.
#[test]
fn published_ports_obey_rules_of_iptables() {
    if world_is_missing() {
        return;
    }
    let walled = Walled::new(&["--published-ports=obey-input"]);
    let (outside, other) = (walled.outside.clone(), walled.other.clone());
    if walled.host.command("iptables-nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no iptables-nft on the path");
        return;
    }
    for line in [
        "iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "iptables-nft -A INPUT -i lo -j ACCEPT",
        "iptables-nft -A INPUT -p icmp --icmp-type echo-request -j ACCEPT",
        "iptables-nft -A INPUT -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix wall",
        "iptables-nft -A INPUT -m addrtype --dst-type MULTICAST -j DROP",
        "iptables-nft -A INPUT -m recent --name wall --rcheck --seconds 30 --hitcount 600 -j DROP",
        "iptables-nft -A INPUT -m iprange --src-range 10.99.0.200-10.99.0.209 -j ACCEPT",
        "iptables-nft -A INPUT -m mac --mac-source 02:00:00:00:00:01 -j DROP",
        "iptables-nft -A INPUT -p tcp --syn -m connlimit --connlimit-above 100 -j REJECT",
        "iptables-nft -A INPUT -m hashlimit --hashlimit-above 1000/sec --hashlimit-name wall -j DROP",
        "iptables-nft -N WEB",
        "iptables-nft -A WEB -s 10.99.0.3 -m comment --comment friend -j ACCEPT",
        "iptables-nft -A INPUT -p tcp -m conntrack --ctstate NEW -m multiport --dports 443,8080 -j WEB",
        "iptables-nft -A INPUT -p udp --dport 8053 -j ACCEPT",
        "iptables-nft -P INPUT DROP",
    ] {
        walled.host.run(line).success();
    }
    walled.closed(&outside, "tcp", WEB);
    walled.open(&other, "tcp", WEB, "10.99.0.3");
    walled.closed(&other, "udp", WEB);
    walled.open(&other, "udp", "10.99.0.1:8053", "10.99.0.3");
    // The other family has rules of its own.
    walled.open(&outside, "tcp", WEB6, "fd99::2");
    walled.host.run("ip6tables-nft -A INPUT -p tcp --dport 8080 -j REJECT --reject-with tcp-reset").success();
    walled.closed(&outside, "tcp", WEB6);
    walled.open(&outside, "udp", WEB6, "fd99::2");
    walled.host.run("iptables-nft -D WEB 1").success();
    walled.closed(&other, "tcp", WEB);
}
