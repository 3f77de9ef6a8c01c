//! Networks through the stock docker client and `knarr`: what containers reach, by which addresses and names, what the host
//! answers, and what is left when an engine dies or somebody flushes the rules.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use blackbox::{World, eventually, is_root};
use rustix::process::Signal;

/// A world, or `None` (said aloud) where the test cannot run.
fn world() -> Option<World> {
    if !is_root() {
        return None;
    }
    for (program, flag) in [("docker", "--version"), ("nft", "--version")] {
        if Command::new(program).arg(flag).output().is_err() {
            eprintln!("SKIPPED: no {program} on the path");
            return None;
        }
    }
    Some(World::start())
}

/// Starts a container that answers every connection to port 80 with `word`.
fn server(world: &World, name: &str, word: &str, flags: &[&str]) {
    let line = format!("while true; do echo {word} | nc -l -p 80; done");
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(flags);
    words.extend(["busybox", "sh", "-c", &line]);
    world.docker(&words).success();
    eventually("the server listens", || {
        world.docker(["exec", name, "sh", "-c", "netstat -ltn | grep -q ':80 '"]).code == 0
    });
}

/// What the host is told at an address; empty if there is no connection.
fn ask(address: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else { return String::new() };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text.trim().to_owned()
}

/// Asks until there is an answer: between two connections the server does not listen.
fn answers(address: &str, word: &str) {
    eventually(&format!("{address} answers {word}"), || ask(address) == word);
}

/// What a container is told by another; empty if nothing.
fn ask_from(world: &World, container: &str, target: &str) -> String {
    world.docker(["exec", container, "sh", "-c", &format!("nc -w 2 {target} 80 </dev/null")]).text()
}

fn field(world: &World, name: &str, format: &str) -> String {
    world.docker(["inspect", "-f", format, name]).success().text()
}

#[test]
fn a_published_port_answers_from_everywhere_and_is_given_back() {
    let Some(world) = world() else { return };
    server(&world, "web", "hello", &["-p", "0:80"]);
    let port = world.docker(["port", "web", "80/tcp"]).success().text();
    let port: u16 = port.lines().next().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    answers(&format!("127.0.0.1:{port}"), "hello");
    let address = field(&world, "web", "{{.NetworkSettings.IPAddress}}");
    answers(&format!("{address}:80"), "hello");
    let gateway = field(&world, "web", "{{.NetworkSettings.Gateway}}");
    answers(&format!("{gateway}:{port}"), "hello");
    assert_eq!(world.docker(["ps", "--format", "{{.Ports}}"]).text(), format!("0.0.0.0:{port}->80/tcp"));
    assert_eq!(world.knarr(["port", "web"]).success().text(), format!("80/tcp -> 0.0.0.0:{port}"));
    // Its own port, through the host, and a neighbour's.
    world.docker(["run", "-d", "--name", "other", "busybox", "sleep", "600"]).success();
    eventually("a neighbour reaches the published port", || {
        let line = format!("nc -w 2 {gateway} {port} </dev/null");
        world.docker(["exec", "other", "sh", "-c", &line]).text() == "hello"
    });

    let taken = format!("{port}:80");
    world
        .docker(["run", "-d", "--name", "second", "-p", &taken, "busybox", "sleep", "600"])
        .exits(125)
        .stderr_has(&format!("Bind for 0.0.0.0:{port} failed: port is already allocated"));
    assert_eq!(field(&world, "second", "{{.State.Status}}"), "created");
    let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign = format!("127.0.0.1:{}:80", own.local_addr().unwrap().port());
    world
        .docker(["run", "--name", "third", "-p", &foreign, "busybox", "true"])
        .exits(125)
        .stderr_has("address already in use");

    world.docker(["rm", "-f", "web"]).success();
    world.docker(["start", "second"]).success();
    world.docker(["stop", "-t", "0", "second"]).success();
    std::net::TcpListener::bind(("0.0.0.0", port)).expect("a stopped container holds no port");
}

#[test]
fn a_user_network_has_names_addresses_and_a_way_out_of_its_own() {
    let Some(world) = world() else { return };
    let id = world.docker(["network", "create", "--subnet", "10.213.7.0/24", "--label", "a=b", "net"]).success().text();
    assert_eq!(id.len(), 64);
    world.docker(["network", "create", "net"]).exits(1).stderr_has("network with name net already exists");
    world
        .docker(["network", "create", "--subnet", "10.213.7.128/25", "other"])
        .exits(1)
        .stderr_has("Pool overlaps with other one on this address space");
    server(&world, "db", "data", &["--network", "net", "--ip", "10.213.7.77", "--network-alias", "store"]);
    world.docker(["run", "-d", "--name", "app", "--network", "net", "busybox", "sleep", "600"]).success();
    for name in ["db", "store", "db.net", "10.213.7.77"] {
        eventually(&format!("{name} is found"), || ask_from(&world, "app", name) == "data");
    }
    world.docker(["exec", "app", "nslookup", "db", "127.0.0.11"]).success().stdout_has("10.213.7.77");
    assert_ne!(world.docker(["exec", "app", "nslookup", "nobody.invalid", "127.0.0.11"]).code, 0);
    world.docker(["exec", "app", "cat", "/etc/resolv.conf"]).success().stdout_has("nameserver 127.0.0.11\n");
    // A name moves with its container.
    world.docker(["rename", "db", "base"]).success();
    eventually("the new name is found", || ask_from(&world, "app", "base") == "data");
    // Two answer to one name.
    world.docker(["run", "-d", "--network", "net", "--network-alias", "store", "busybox", "sleep", "600"]).success();
    let both = world.docker(["exec", "app", "nslookup", "store", "127.0.0.11"]).success().text();
    assert_eq!(both.matches("Address: 10.213.7.").count(), 2, "{both}");

    world
        .docker(["run", "--rm", "--network", "net", "--ip", "10.213.7.77", "busybox", "true"])
        .exits(125)
        .stderr_has("Address already in use");
    world
        .docker(["run", "--rm", "--network", "net", "--ip", "10.9.9.9", "busybox", "true"])
        .exits(125)
        .stderr_has("10.9.9.9");
    world.docker(["network", "rm", "net"]).exits(1).stderr_has("has active endpoints");
    let inspected = world.docker(["network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", "net"]).text();
    assert!(inspected.contains("app") && inspected.contains("base"), "{inspected}");
    assert_eq!(world.docker(["network", "ls", "-q", "--no-trunc", "--filter", "label=a=b"]).text(), id);
    world.docker(["network", "prune", "-f"]).success().stdout("");
    let all: Vec<String> = world.docker(["ps", "-q"]).text().lines().map(str::to_owned).collect();
    world.docker([&["rm".to_owned(), "-f".to_owned()], &all[..]].concat()).success();
    world.docker(["network", "prune", "-f"]).success().stdout_has("net");
    world.docker(["network", "inspect", "net"]).exits(1).stderr_has("network net not found");
}

#[test]
fn networks_are_apart_and_a_running_container_moves_between_them() {
    let Some(world) = world() else { return };
    for (name, flags) in [("one", vec![]), ("two", vec![]), ("inner", vec!["--internal"])] {
        world.knarr([&["network", "create"], &flags[..], &[name]].concat()).success();
    }
    server(&world, "web", "hello", &["--network", "one"]);
    world.docker(["run", "-d", "--name", "box", "--network", "two", "busybox", "sleep", "600"]).success();
    world.docker(["run", "-d", "--name", "shut", "--network", "inner", "busybox", "sleep", "600"]).success();
    let web = field(&world, "web", "{{.NetworkSettings.Networks.one.IPAddress}}");
    assert_eq!(ask_from(&world, "box", &web), "", "another network's container is reached");
    assert_eq!(ask_from(&world, "shut", &web), "", "an internal network leads out");
    assert_eq!(world.docker(["exec", "shut", "ip", "route"]).text().matches("default").count(), 0);
    assert_ne!(world.docker(["exec", "shut", "nslookup", "example.com", "127.0.0.11"]).code, 0);

    world.docker(["network", "connect", "--alias", "guest", "one", "box"]).success();
    eventually("a container on both is let in", || ask_from(&world, "box", "web") == "hello");
    world.docker(["network", "connect", "one", "box"]).exits(1).stderr_has("already exists in network one");
    world.docker(["exec", "web", "nslookup", "guest", "127.0.0.11"]).success();
    world.docker(["network", "disconnect", "one", "box"]).success();
    assert_eq!(ask_from(&world, "box", &web), "");
    world.docker(["network", "disconnect", "one", "box"]).exits(1).stderr_has("is not connected to network one");
    // What was asked for stands after a restart.
    world.docker(["network", "connect", "inner", "box"]).success();
    world.docker(["restart", "-t", "0", "box"]).success();
    let networks = field(&world, "box", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}");
    assert_eq!(networks.split_whitespace().collect::<Vec<_>>(), ["inner", "two"]);
    world.docker(["network", "connect", "host", "box"]).exits(1).stderr_has("host network");
    world.docker(["network", "rm", "bridge"]).exits(1).stderr_has("is a pre-defined network and cannot be removed");
    world.docker(["network", "create", "bridge"]).exits(1).stderr_has("operation is not permitted on predefined");
}

#[test]
fn both_address_families_and_other_modes() {
    let Some(world) = world() else { return };
    world.docker(["network", "create", "--ipv6", "--subnet", "fd42:aaaa::/64", "six"]).success();
    server(&world, "web", "hello", &["--network", "six", "-p", "0:80", "--mac-address", "02:00:00:00:12:34"]);
    let six = field(&world, "web", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}");
    assert!(six.starts_with("fd42:aaaa::"), "{six}");
    world.docker(["exec", "web", "ip", "link", "show", "eth0"]).success().stdout_has("02:00:00:00:12:34");
    world.docker(["run", "-d", "--name", "box", "--network", "six", "busybox", "sleep", "600"]).success();
    world.docker(["exec", "box", "ping", "-6", "-c", "1", "-w", "5", &six]).success();
    world.docker(["exec", "box", "nslookup", "-type=aaaa", "web", "127.0.0.11"]).success().stdout_has(&six);
    // Without IPv6 there is none, not even link-local, and nobody is told where to go.
    world.docker(["run", "--rm", "busybox", "ip", "-6", "addr", "show", "eth0"]).success().stdout("");

    world.docker(["run", "-d", "--name", "pod", "--network", "container:web", "busybox", "sleep", "600"]).success();
    eventually("loopback is shared", || ask_from(&world, "pod", "127.0.0.1") == "hello");
    let own = world.docker(["run", "--rm", "--network", "none", "busybox", "ip", "-o", "link"]).success().text();
    assert_eq!(own.lines().count(), 1, "{own}");
    let host = world.docker(["run", "--rm", "--network", "host", "busybox", "ip", "-o", "link"]).success().text();
    assert!(host.lines().count() > 1, "{host}");
    // The interfaces go with the container that they were made for.
    world.docker(["rm", "-f", "web"]).success();
    let left = || world.docker(["exec", "pod", "ip", "-o", "link"]).text();
    eventually("only loopback is left", || left().lines().count() == 1);
    world
        .docker(["run", "--rm", "--link", "box", "busybox", "true"])
        .exits(125)
        .stderr_has("Cannot link to a non running container");
}

#[test]
fn links_hosts_and_servers_are_as_asked_for() {
    let Some(world) = world() else { return };
    server(&world, "db", "data", &[]);
    let line = "cat /etc/hosts /etc/resolv.conf; nc -w 2 store 80 </dev/null";
    let flags = ["run", "--rm", "--link", "db:store", "--add-host", "gate:host-gateway", "--dns", "192.0.2.53"];
    let more = ["--dns-search", "example.org", "--dns-option", "ndots:3", "-h", "me", "busybox", "sh", "-c", line];
    let text = world.docker([&flags[..], &more[..]].concat()).success().text();
    let db = field(&world, "db", "{{.NetworkSettings.IPAddress}}");
    let gateway = field(&world, "db", "{{.NetworkSettings.Gateway}}");
    for wanted in [
        format!("{db}\tstore "),
        format!("{gateway}\tgate\n"),
        "\tme\n".to_owned(),
        "nameserver 192.0.2.53\n".to_owned(),
        "search example.org\n".to_owned(),
        "options ndots:3\n".to_owned(),
    ] {
        assert!(text.contains(&wanted), "{wanted:?} in {text}");
    }
    assert!(text.ends_with("data"), "{text}");
}

#[test]
fn an_engine_that_dies_leaves_traffic_alone_and_the_next_one_knows_all() {
    let Some(mut world) = world() else { return };
    world.docker(["network", "create", "net"]).success();
    server(&world, "web", "hello", &["--network", "net", "-p", "0:80"]);
    let port = world.docker(["port", "web", "80/tcp"]).success().text();
    let port = port.rsplit(':').next().unwrap().to_owned();
    let address = field(&world, "web", "{{.NetworkSettings.Networks.net.IPAddress}}");
    for _ in 0..2 {
        world.end_engine(Signal::KILL);
        answers(&format!("127.0.0.1:{port}"), "hello");
        world.start_engine(&[]);
        assert_eq!(field(&world, "web", "{{.NetworkSettings.Networks.net.IPAddress}}"), address);
        assert_eq!(world.docker(["port", "web"]).text(), format!("80/tcp -> 0.0.0.0:{port}"));
    }
    // No address is given twice, no port either; names are answered.
    world.docker(["run", "-d", "--name", "box", "--network", "net", "busybox", "sleep", "600"]).success();
    assert_ne!(field(&world, "box", "{{.NetworkSettings.Networks.net.IPAddress}}"), address);
    eventually("names are found", || ask_from(&world, "box", "web") == "hello");
    world.docker(["exec", "web", "nslookup", "box", "127.0.0.11"]).success();
    world
        .docker(["run", "--rm", "-p", &format!("{port}:80"), "busybox", "true"])
        .exits(125)
        .stderr_has("port is already allocated");
    // What ended while nobody looked holds nothing.
    let pid: i32 = field(&world, "web", "{{.State.Pid}}").parse().unwrap();
    world.end_engine(Signal::KILL);
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    world.start_engine(&[]);
    eventually("its end is known", || field(&world, "web", "{{.State.Status}}") == "exited");
    world.docker(["run", "--rm", "-p", &format!("{port}:80"), "busybox", "true"]).success();
    world.knarr(["doctor"]).success();
}

#[test]
fn rules_come_back_and_other_peoples_stay() {
    let Some(world) = world() else { return };
    server(&world, "web", "hello", &["-p", "127.0.0.1:0:80"]);
    let port = world.docker(["port", "web", "80/tcp"]).success().text();
    let port = port.rsplit(':').next().unwrap().to_owned();
    answers(&format!("127.0.0.1:{port}"), "hello");
    let nft = |words: &[&str]| {
        let answer = Command::new("nft").args(words).output().unwrap();
        assert!(answer.status.success(), "{answer:?}");
        String::from_utf8_lossy(&answer.stdout).into_owned()
    };
    // Only our table: a flush of everything is the same to us, and would take other tests' with it.
    let name = format!(
        "knarr-{}",
        nft(&["list", "tables"])
            .lines()
            .filter_map(|line| line.strip_prefix("table inet knarr-"))
            .find(|tag| nft(&["list", "table", "inet", &format!("knarr-{tag}")]).contains(&format!("tcp . {port} ")))
            .expect("our table")
    );
    for _ in 0..5 {
        nft(&["delete", "table", "inet", &name]);
        eventually("the table is back", || nft(&["list", "tables"]).contains(&name));
        nft(&["flush", "table", "inet", &name]);
        eventually("its rules are back", || nft(&["list", "table", "inet", &name]).contains("masquerade"));
        answers(&format!("127.0.0.1:{port}"), "hello");
    }
    world.knarr(["doctor"]).success();
}

#[test]
fn a_resolver_bears_any_question() {
    let Some(world) = world() else { return };
    world.docker(["network", "create", "--internal", "net"]).success();
    world.docker(["run", "-d", "--name", "box", "--network", "net", "busybox", "sleep", "600"]).success();
    inside(&field(&world, "box", "{{.State.Pid}}"), || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.11:53").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03box\x00\x00\x01\x00\x01";
        for end in 0..question.len() {
            socket.send(&question[..end]).unwrap();
        }
        let mut pointer = question.to_vec();
        pointer[12] = 0xc0;
        socket.send(&pointer).unwrap();
        socket.send(&[0xff; 2000]).unwrap();
        socket.send(question).unwrap();
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).unwrap();
        assert_eq!((&answer[..2], answer[7]), (&b"\x12\x34"[..], 1), "{:?}", &answer[..length]);
        // Many silent connections, and one that asks.
        let silent: Vec<TcpStream> =
            (0..40).map(|_| TcpStream::connect("127.0.0.11:53").expect("a connection")).collect();
        let mut stream = TcpStream::connect("127.0.0.11:53").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&(question.len() as u16).to_be_bytes()).unwrap();
        stream.write_all(question).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        assert!(u16::from_be_bytes(length) as usize > question.len());
        drop(silent);
    });
}

/// Acts in a container's network namespace, as a program in it would.
fn inside<T: Send>(pid: &str, act: impl FnOnce() -> T + Send) -> T {
    let netns = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&netns),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            act()
        });
        inside.join().unwrap()
    })
}

/// One question for the IPv4 address of a name, asked once, and how it was answered: `3` (no such name), or the address.
fn resolve(name: &str) -> String {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect("127.0.0.11:53").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.send(&question(name)).unwrap();
    let mut answer = [0; 512];
    match socket.recv(&mut answer) {
        Err(error) => error.to_string(),
        Ok(length) if answer[7] == 1 => {
            let [.., a, b, c, d] = answer[..length] else { return "a short answer".into() };
            format!("{a}.{b}.{c}.{d}")
        }
        Ok(_) => (answer[3] & 15).to_string(),
    }
}

fn question(name: &str) -> Vec<u8> {
    let mut question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.extend(b"\x00\x00\x01\x00\x01");
    question
}

/// A name server of the host that answers every question with 192.0.2.9.
fn upstream() -> String {
    let server = (1..255).map(|n| format!("127.53.7.{n}")).find_map(|address| {
        let socket = std::net::UdpSocket::bind((address.as_str(), 53)).ok()?;
        Some((address, socket))
    });
    let (address, socket) = server.expect("an address for a name server");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            answer[7] = 1;
            answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x09");
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

#[test]
fn names_are_resolved_while_the_engine_is_away() {
    let Some(mut world) = world() else { return };
    let dns = upstream();
    world.docker(["network", "create", "--subnet", "10.213.9.0/24", "net"]).success();
    for (name, address) in [("db", "10.213.9.77"), ("gone", "10.213.9.78"), ("box", "10.213.9.79")] {
        let place = ["--network", "net", "--ip", address, "--dns", &dns, "--network-alias", &format!("a-{name}")];
        let words = [&["run", "-d", "--name", name][..], &place, &["busybox", "sleep", "600"]].concat();
        world.docker(words).success();
    }
    // Was on no network of names when it was started.
    world.docker(["run", "-d", "--name", "late", "--dns", &dns, "busybox", "sleep", "600"]).success();
    world.docker(["network", "connect", "net", "late"]).success();
    let pid = |name: &str| field(&world, name, "{{.State.Pid}}");
    let (asker, gone, late) = (pid("box"), pid("gone"), pid("late"));
    let told = |name: &str| inside(&asker, || resolve(name));
    for signal in [Signal::KILL, Signal::TERM, Signal::KILL] {
        world.end_engine(signal);
        for _ in 0..3 {
            assert_eq!(told("db"), "10.213.9.77", "{signal:?}");
            assert_eq!(told("a-db.net"), "10.213.9.77");
            assert_eq!(told("www.example"), "192.0.2.9", "asked elsewhere");
        }
        assert_eq!(inside(&late, || resolve("db")), "10.213.9.77");
        // The next one takes over, and no question is lost on the way.
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut asked = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(told("db"), "10.213.9.77", "question {asked}");
                    assert_eq!(told("www.example"), "192.0.2.9", "question {asked}");
                    asked += 1;
                }
                asked
            });
            world.start_engine(&[]);
            eventually("the stand-in has ended", || world.pids_of("resolver").is_empty());
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(asking.join().unwrap() > 0);
        });
        assert_eq!(told("db"), "10.213.9.77");
    }
    // Another keeper knows of it too.
    let keeper = world.keeper_pids();
    rustix::process::kill_process(keeper[0], Signal::KILL).unwrap();
    eventually("another keeper holds all", || {
        let now = world.keeper_pids();
        now.len() == 1 && now != keeper && world.docker(["exec", "box", "true"]).code == 0
    });
    world.end_engine(Signal::KILL);
    assert_eq!(told("gone"), "10.213.9.78");
    // One that dies is replaced; and a container that ends has no name any more.
    let stands_in = world.pids_of("resolver");
    assert_eq!(stands_in.len(), 1, "one process for all of them");
    rustix::process::kill_process(stands_in[0], Signal::KILL).unwrap();
    let raw: i32 = gone.parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(raw).unwrap(), Signal::KILL).unwrap();
    eventually("its name is gone", || told("gone") == "192.0.2.9");
    assert_eq!(told("db"), "10.213.9.77");
    world.start_engine(&[]);
    world.knarr(["doctor"]).success();
}

/// Sends frames from `eth0` of the namespace that the caller is in, each several times, with pauses between rounds.
fn send_frames(frames: &[Vec<u8>]) {
    const SENDER: &str = "import socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
for _ in range(15):
    for frame in sys.argv[1:]:
        s.send(bytes.fromhex(frame))
    time.sleep(0.1)
";
    let hex = |frame: &Vec<u8>| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let sent = Command::new("python3").args(["-c", SENDER]).args(frames.iter().map(hex)).output().unwrap();
    assert!(sent.status.success(), "{sent:?}");
}

type Mac = [u8; 6];

fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// An ARP message from `at` that says that `address` is at `claimed`, with the operation (1 asks, 2 answers).
fn arp(at: Mac, claimed: Mac, address: [u8; 4], operation: u8) -> Vec<u8> {
    let ethernet = [&[0xff; 6][..], &at, &[8, 6]].concat();
    let header = [0, 1, 8, 0, 6, 4, 0, operation];
    [&ethernet[..], &header, &claimed, &address, &[0; 6], &address].concat()
}

/// A neighbour advertisement from `at` for a IPv6 address, behind an empty extension header if asked for.
fn advertisement(at: Mac, source: std::net::Ipv6Addr, target: std::net::Ipv6Addr, extended: bool) -> Vec<u8> {
    let all: std::net::Ipv6Addr = "ff02::1".parse().unwrap();
    let mut message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &at].concat();
    let pseudo = [&source.octets()[..], &all.octets(), &[0, 0, 0, message.len() as u8, 0, 0, 0, 58], &message].concat();
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = !((folded & 0xffff) + (folded >> 16)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let (next, extension): (u8, &[u8]) = if extended { (60, &[58, 0, 1, 4, 0, 0, 0, 0]) } else { (58, &[]) };
    let length = (message.len() + extension.len()) as u8;
    let ip = [&[0x60, 0, 0, 0, 0, length, next, 255][..], &source.octets(), &all.octets(), extension].concat();
    [&[0x33, 0x33, 0, 0, 0, 1][..], &at, &[0x86, 0xdd], &ip, &message].concat()
}

/// Where the bridge's frames for a MAC address go: the number of a port.
fn learnt_at(bridge: &str, mac: Mac) -> Option<u8> {
    let table = std::fs::read(format!("/sys/class/net/{bridge}/brforward")).unwrap();
    table.chunks(16).find(|entry| entry[..6] == mac).map(|entry| entry[6])
}

#[test]
fn nobody_on_a_network_takes_anothers_traffic() {
    let Some(world) = world() else { return };
    let pools = ["--ipv6", "--subnet", "10.213.12.0/24", "--subnet", "fd42:12::/64"];
    let free = ["--ipv6", "--subnet", "10.213.13.0/24", "--subnet", "fd42:13::/64", "-o", "knarr.pin-addresses=false"];
    world
        .docker(["network", "create", "-o", "knarr.pin-addresses=maybe", "no"])
        .exits(1)
        .stderr_has("knarr.pin-addresses");
    for (pinned, third, flags) in [(true, 12, &pools[..]), (false, 13, &free[..])] {
        let net = if pinned { "pinned" } else { "free" };
        world.docker([&["network", "create"], flags, &[net]].concat()).success();
        let name = |what: &str| format!("{what}-{net}");
        for (what, last) in [("victim", 77), ("thief", 78), ("client", 79)] {
            let place = (name(what), format!("10.213.{third}.{last}"), format!("fd42:{third}::{last}"));
            let words = ["run", "-d", "--name", &place.0, "--network", net, "--ip", &place.1, "--ip6", &place.2];
            world.docker([&words[..], &["busybox", "sleep", "600"]].concat()).success();
        }
        let pid = |what: &str| field(&world, &name(what), "{{.State.Pid}}");
        let own = |what: &str| {
            mac(&field(&world, &name(what), &format!("{{{{.NetworkSettings.Networks.{net}.MacAddress}}}}")))
        };
        let (victim, thief) = (own("victim"), own("thief"));
        let (client, thief_pid) = (pid("client"), pid("thief"));
        let victim4 = format!("10.213.{third}.77");
        let victim6 = format!("fd42:{third}::77");
        // Whom the client takes for an address; it asks, so that it has an opinion that can be changed.
        let neighbour = |address: &str| {
            let found = inside(&client, || Command::new("ip").args(["neigh", "show", address]).output().unwrap());
            let text = String::from_utf8_lossy(&found.stdout).into_owned();
            text.split_once("lladdr ").and_then(|(_, rest)| rest.split_whitespace().next()).map(mac)
        };
        let knock =
            |address: &str| drop(world.docker(["exec", &name("client"), "ping", "-c", "1", "-w", "1", address]));
        knock(&victim4);
        knock(&victim6);
        assert_eq!((neighbour(&victim4), neighbour(&victim6)), (Some(victim), Some(victim)), "{net}");
        // An address that nobody has may be taken by anybody: a virtual one, say. It also proves that frames arrive.
        let (spare4, spare6) = (format!("10.213.{third}.99"), format!("fd42:{third}::99"));
        let arps = |address: &str| {
            let address: std::net::Ipv4Addr = address.parse().unwrap();
            [1, 2].map(|operation| arp(thief, thief, address.octets(), operation))
        };
        let advertisements = |target: &str, source: &str| {
            let [source, target] = [source, target].map(|text| text.parse().unwrap());
            [false, true].map(|extended| advertisement(thief, source, target, extended))
        };
        let own6 = format!("fd42:{third}::78");
        let mut frames = Vec::new();
        frames.extend(arps(&victim4));
        frames.extend(advertisements(&victim6, &own6));
        frames.extend(advertisements(&victim6, &victim6));
        // Last, so that what came before has arrived when these have.
        frames.extend(arps(&spare4));
        frames.extend(advertisements(&spare6, &own6));
        eventually("a claim of what nobody has is heard", || {
            // It asks meanwhile: an entry that has failed takes no answer.
            for spare in [&spare4, &spare6] {
                world.docker(["exec", "-d", &name("client"), "ping", "-c", "3", "-w", "3", spare]).success();
            }
            inside(&thief_pid, || send_frames(&frames));
            neighbour(&spare4) == Some(thief) && neighbour(&spare6) == Some(thief)
        });
        let expected = if pinned { victim } else { thief };
        assert_eq!(neighbour(&victim4), Some(expected), "{net}: ARP");
        assert_eq!(neighbour(&victim6), Some(expected), "{net}: neighbour discovery");
        // Frames with the victim's own MAC address: the bridge would send its traffic to the thief.
        let bridge = bridge_of(&world, net);
        world.docker(["exec", &name("victim"), "ping", "-c", "1", "-w", "5", &format!("10.213.{third}.1")]).success();
        let before = learnt_at(&bridge, victim).expect("the bridge knows the victim");
        let nobodys = mac("02:00:00:00:00:99");
        let forged = [arp(victim, victim, [10, 213, third, 98], 1), arp(nobodys, thief, [10, 213, third, 98], 1)];
        inside(&thief_pid, || send_frames(&forged));
        assert!(learnt_at(&bridge, nobodys).is_some(), "{net}: an address of nobody's is free");
        assert_eq!(learnt_at(&bridge, victim) == Some(before), pinned, "{net}: the bridge's own memory");
    }
    // The next engine knows whose addresses are whose; a container that starts again has its own.
    world.docker(["restart", "-t", "0", "victim-pinned"]).success();
    world.docker(["exec", "client-pinned", "ping", "-c", "1", "-w", "5", "10.213.12.77"]).success();
    world.knarr(["doctor"]).success();
}

/// The bridge of a network whose victim container is attached.
fn bridge_of(world: &World, net: &str) -> String {
    let link = world.docker(["exec", &format!("victim-{net}"), "cat", "/sys/class/net/eth0/iflink"]).success().text();
    let host = std::fs::read_dir("/sys/class/net")
        .unwrap()
        .flatten()
        .find(|entry| std::fs::read_to_string(entry.path().join("ifindex")).is_ok_and(|index| index.trim() == link));
    let bridge = host.expect("the host's end").path().join("brport/bridge").canonicalize().unwrap();
    bridge.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Ports of the host from here on, none of which anybody has.
fn free_ports(count: u16) -> u16 {
    let free = |first: u16| {
        let all = first..first + count;
        all.clone().all(|port| std::net::TcpListener::bind(("0.0.0.0", port)).is_ok())
    };
    (20_000..30_000).step_by(usize::from(count)).find(|first| free(*first)).expect("free ports")
}

fn create(world: &World, port: u16) -> String {
    let body = serde_json::json!({
        "Image": "busybox", "Cmd": ["sleep", "600"],
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": port.to_string()}]}},
    });
    let (status, text) = world.api("POST", "/containers/create", Some(&body.to_string()));
    assert_eq!(status, 201, "{text}");
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["Id"].as_str().unwrap().to_owned()
}

/// NW-10: everybody asks at once.
#[test]
fn of_all_who_ask_for_a_port_one_has_it() {
    const PORTS: u16 = 100;
    const ASK: u16 = 10;
    let Some(world) = world() else { return };
    let first = free_ports(PORTS);
    let all: Vec<(u16, String)> = (0..PORTS * ASK).map(|n| first + n % PORTS).map(|p| (p, create(&world, p))).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let started: Vec<(u16, u16, String)> = std::thread::scope(|scope| {
        let ask = || {
            let mut answers = Vec::new();
            while let Some((port, id)) = all.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                let (status, text) = world.api("POST", &format!("/containers/{id}/start"), None);
                answers.push((*port, status, text));
            }
            answers
        };
        let threads: Vec<_> = (0..32).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(started.len(), usize::from(PORTS * ASK));
    for port in first..first + PORTS {
        let owners = started.iter().filter(|(of, status, _)| (*of, *status) == (port, 204)).count();
        assert_eq!(owners, 1, "owners of {port}");
        let refused = format!("Bind for 0.0.0.0:{port} failed: port is already allocated");
        let losers =
            started.iter().filter(|(of, status, text)| *of == port && *status == 500 && text.contains(&refused));
        assert_eq!(losers.count(), usize::from(ASK - 1), "who was refused {port}: {started:?}");
        // No program of the host takes it from its owner.
        let taken = std::net::TcpListener::bind(("0.0.0.0", port)).map(drop).map_err(|error| error.kind());
        assert_eq!(taken, Err(std::io::ErrorKind::AddrInUse));
    }
    let running = world.docker(["ps", "-q"]).text();
    assert_eq!(running.lines().count(), usize::from(PORTS));
    // A port that a connection of the host has come by is taken as well.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let port = client.local_addr().unwrap().port();
    let id = create(&world, port);
    let (status, text) = world.api("POST", &format!("/containers/{id}/start"), None);
    assert!(status == 500 && text.contains("address already in use"), "{status} {text}");
    // What its owner gives back is everybody's.
    let listed = world.docker(["ps", "--format", "{{.ID}} {{.Ports}}"]).success().text();
    let owner =
        listed.lines().find(|line| line.contains(&format!(":{first}->"))).and_then(|line| line.split(' ').next());
    world.docker(["rm", "-f", owner.expect("an owner")]).success();
    std::net::TcpListener::bind(("0.0.0.0", first)).expect("given back");
}

/// Rules of the host's administrator, which go with it.
struct Rules(String);

impl Rules {
    fn put(name: &str, chains: &str) -> Self {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(format!("table inet {name} {{\n{chains}\n}}\n").as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{chains}");
        Self(name.to_owned())
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        let _ = Command::new("nft").args(["delete", "table", "inet", &self.0]).status();
    }
}

/// What docs/reference/networks.md tells an administrator to write.
#[test]
fn a_published_port_obeys_the_hosts_own_rules() {
    let Some(world) = world() else { return };
    server(&world, "web", "hello", &["-p", "0:80"]);
    server(&world, "open", "hello", &["-p", "0:80"]);
    world.docker(["run", "-d", "--name", "client", "busybox", "sleep", "600"]).success();
    let port_of = |name: &str| {
        let port = world.docker(["port", name, "80/tcp"]).success().text();
        port.lines().next().unwrap().rsplit(':').next().unwrap().to_owned()
    };
    let (port, open) = (port_of("web"), port_of("open"));
    let gateway = field(&world, "web", "{{.NetworkSettings.Gateway}}");
    let ask = |port: &str| {
        let line = format!("nc -w 1 {gateway} {port} </dev/null");
        world.docker(["exec", "client", "sh", "-c", &line]).text()
    };
    eventually("the ports answer", || ask(&port) == "hello" && ask(&open) == "hello");
    let name = format!("admin_{}", std::process::id());
    let input = "chain input { type filter hook input priority filter; jump services; }";
    let before = "chain published { type filter hook prerouting priority mangle; fib daddr type local jump services; }";
    let services = format!("chain services {{ tcp dport {port} counter drop; }}");
    let after = format!(
        "chain forward {{ type filter hook forward priority filter; ct status dnat meta l4proto tcp ct original proto-dst {port} drop; }}"
    );
    {
        let _rules = Rules::put(&name, &format!("{services}\n{input}"));
        eventually("input alone is not asked: the port is the container's", || ask(&port) == "hello");
    }
    for chains in [format!("{services}\n{input}\n{before}"), after] {
        let _rules = Rules::put(&name, &chains);
        // An answer that was under way may still come.
        eventually("the rule holds", || ask(&port).is_empty());
        eventually("the other port answers", || ask(&open) == "hello");
        assert_eq!(ask(&port), "", "{chains}");
        // What the engine changes leaves the administrator's rules alone.
        world.docker(["run", "--rm", "-p", "0:81", "busybox", "true"]).success();
        assert_eq!(ask(&port), "", "{chains}");
    }
    eventually("the port answers again", || ask(&port) == "hello");
}
