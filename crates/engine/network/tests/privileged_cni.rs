//! Pods' networks by Debian's plugins, on a host of the test's own.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;

use linux::mount::{self, MountFlags};
use linux::ns::{self, Namespaces};
use network::cni::{Bandwidth, Cni, CniAttachment, CniConfig, CniError, PortMapping};

const PLUGINS: &str = "/usr/lib/cni";

/// Runs the test with network and mount namespaces of its own as the host, where there are plugins.
fn on_a_host_of_its_own(test: impl FnOnce(&Path) + Send) {
    if linux::cred::effective_ids().0 != 0 || !Path::new(PLUGINS).join("bridge").exists() {
        eprintln!("SKIPPED: needs root and plugins in {PLUGINS}");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            ns::unshare(Namespaces::NET | Namespaces::MOUNT).unwrap();
            mount::set_propagation(Path::new("/"), mount::Propagation::Private, true).unwrap();
            linux::net::loopback_up().unwrap();
            test(place.path());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A network namespace held by a file.
fn hold(path: &Path) {
    std::fs::write(path, "").unwrap();
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            ns::unshare(Namespaces::NET).unwrap();
            linux::net::loopback_up().unwrap();
            mount::mount(Path::new("/proc/thread-self/ns/net"), path, None, MountFlags::BIND, None).unwrap();
        });
        inside.join().unwrap();
    });
}

/// What `work` comes to in a namespace.
fn within<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            ns::setns(ns::open(netns).unwrap().as_fd(), Namespaces::NET).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

fn cni(place: &Path, list: &str) -> Cni {
    let conf_dir = place.join("net.d");
    std::fs::create_dir_all(&conf_dir).unwrap();
    std::fs::write(conf_dir.join("10-net.conflist"), list).unwrap();
    Cni::new(CniConfig {
        conf_dir,
        bin_dirs: vec![PLUGINS.into()],
        state_dir: place.join("state"),
        patience: CniConfig::PATIENCE,
    })
}

fn attachment(place: &Path, id: &str) -> CniAttachment {
    let netns = place.join(format!("ns-{id}"));
    hold(&netns);
    let args = vec![("IgnoreUnknown".to_owned(), "1".to_owned()), ("K8S_POD_NAME".to_owned(), id.to_owned())];
    CniAttachment { id: id.into(), netns, interface: "eth0".into(), args, ..CniAttachment::default() }
}

fn list(place: &Path, more: &str) -> String {
    let leases = place.join("leases");
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "net", "plugins": [{{"type": "bridge", "bridge": "cnitest0", "isGateway": true,
        "ipam": {{"type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": "10.77.0.0/24"}}]],
        "routes": [{{"dst": "0.0.0.0/0"}}]}}}}{more}]}}"#,
        leases.display()
    )
}

fn leases(place: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(place.join("leases/net")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.parse::<IpAddr>().is_ok());
    names.sort();
    names
}

/// Interfaces of the namespace that this thread is in.
fn links() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// Whether a server in one namespace answers a client in another.
fn reaches(from: &Path, to: &Path, address: IpAddr) -> bool {
    let listener = within(to, || std::net::TcpListener::bind(SocketAddr::new(address, 8080)).unwrap());
    let client = within(from, || {
        std::net::TcpStream::connect_timeout(&SocketAddr::new(address, 8080), std::time::Duration::from_secs(5))
    });
    client.is_ok() && listener.accept().is_ok()
}

#[test]
fn pods_get_addresses_reach_each_other_and_leave_nothing() {
    on_a_host_of_its_own(|place| {
        let cni = cni(place, &list(place, ""));
        cni.status().unwrap();
        let (one, two) = (attachment(place, "one"), attachment(place, "two"));
        let first = cni.add(&one).unwrap();
        let second = cni.add(&two).unwrap();
        assert_eq!(format!("{first:?} {second:?}"), "[10.77.0.2] [10.77.0.3]");
        assert_eq!(cni.add(&one).unwrap(), first, "it has it already");
        assert!(within(&one.netns, links).contains(&"eth0".to_owned()));
        assert!(reaches(&one.netns, &two.netns, second[0]));
        assert_eq!(leases(place), ["10.77.0.2", "10.77.0.3"]);
        cni.check("one").unwrap();
        within(&one.netns, || {
            let mut socket = linux::netlink::Socket::route().unwrap();
            let index = socket.links().unwrap().iter().find(|link| link.name == "eth0").unwrap().index;
            socket.delete_link(index).unwrap();
        });
        let lost = cni.check("one").unwrap_err().to_string();
        assert!(lost.contains("CHECK") && lost.contains("eth0"), "{lost}");

        // The directory may have changed by the time; what was made is taken away all the same, and twice is no error.
        std::fs::write(place.join("net.d/10-net.conflist"), "{").unwrap();
        assert!(matches!(cni.status(), Err(CniError::Config { .. })));
        let mut attached = cni.attached();
        attached.sort();
        assert_eq!(attached, ["one", "two"]);
        for id in ["one", "two", "two", "never"] {
            cni.del(id).unwrap();
        }
        assert!(cni.attached().is_empty() && leases(place).is_empty());
        assert!(!within(&two.netns, links).contains(&"eth0".to_owned()));
        assert!(!links().iter().any(|link| link.starts_with("veth")), "{:?}", links());
    });
}

#[test]
fn ports_and_limits_are_told_to_the_plugins_that_know_them() {
    if !["iptables", "tc"].iter().all(|program| Path::new("/usr/sbin").join(program).exists()) {
        eprintln!("SKIPPED: portmap needs iptables, and tc shows what bandwidth did");
        return;
    }
    on_a_host_of_its_own(|place| {
        let more = r#", {"type": "portmap", "capabilities": {"portMappings": true}}, {"type": "bandwidth", "capabilities": {"bandwidth": true}}"#;
        let cni = cni(place, &list(place, more));
        let mut pod = attachment(place, "pod");
        pod.ports = vec![PortMapping {
            host_port: 18080,
            container_port: 8080,
            protocol: "tcp".into(),
            host_ip: String::new(),
        }];
        pod.bandwidth = Some(Bandwidth { ingress: 8_000_000, egress: 0 });
        let address = cni.add(&pod).unwrap()[0];
        let output = |program: &str, arguments: &[&str]| {
            let ran = std::process::Command::new(program).args(arguments).output().unwrap();
            String::from_utf8_lossy(&ran.stdout).into_owned()
        };
        let rules = || output("iptables", &["-t", "nat", "-S"]);
        assert!(rules().contains(&format!("--to-destination {address}:8080")), "{}", rules());
        let limits = output("tc", &["qdisc", "show"]);
        assert!(limits.contains("tbf") && limits.contains("rate 8Mbit"), "{limits}");
        cni.del("pod").unwrap();
        assert!(!rules().contains("8080"), "{}", rules());
        assert!(leases(place).is_empty());
    });
}

#[test]
fn what_fails_is_undone_and_told_in_the_plugins_words() {
    on_a_host_of_its_own(|place| {
        let nobody = Cni::new(CniConfig {
            conf_dir: place.join("none"),
            bin_dirs: vec![PLUGINS.into()],
            state_dir: place.join("state"),
            patience: CniConfig::PATIENCE,
        });
        let none = format!("cni plugin not initialized: no networks found in {}", place.join("none").display());
        assert_eq!(nobody.status().unwrap_err().to_string(), none);
        let missing = cni(place, &list(place, r#", {"type": "no-such-plugin"}"#));
        assert!(matches!(missing.status(), Err(CniError::NoPlugin { .. })));
        let failed = missing.add(&attachment(place, "pod")).unwrap_err().to_string();
        assert!(failed.contains("failed to find plugin \"no-such-plugin\""), "{failed}");
        assert!(missing.attached().is_empty() && leases(place).is_empty(), "nothing was begun");

        let full = cni(
            place,
            &list(place, "")
                .replace("10.77.0.0/24", "10.78.0.0/30")
                .replace("\"net\"", "\"full\"")
                .replace("cnitest0", "cnitest1"),
        );
        full.add(&attachment(place, "first")).unwrap();
        let failed = full.add(&attachment(place, "second")).unwrap_err().to_string();
        assert!(
            failed.contains("type=\"bridge\" failed (ADD)") && failed.contains("no IP addresses available"),
            "{failed}"
        );
        assert_eq!(full.attached(), ["first"], "what failed was undone");
        full.del("first").unwrap();
    });
}
