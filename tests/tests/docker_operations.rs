//! The table in docs/reference/docker-operations.md is true: each operation is asked of a running engine. And requests that
//! nobody means well, with their answers.

use std::path::Path;

use blackbox::{World, is_root};

struct Row {
    tier: String,
    method: String,
    path: String,
    answer: String,
    proof: String,
}

fn table() -> Vec<Row> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/docker-operations.md"));
    let text = text.expect("the table of operations");
    let rows = text.lines().filter(|line| line.starts_with("| P")).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [tier, operation, answer, proof] = cells[..] else { panic!("a row of four cells: {line}") };
        let (method, path) = operation.trim_matches('`').split_once(' ').expect("a method and a path");
        let [tier, method, path, answer, proof] = [tier, method, path, answer, proof].map(str::to_owned);
        Row { tier, method, path, answer, proof }
    });
    rows.collect()
}

#[test]
fn every_operation_answers_as_the_table_says() {
    if !is_root() {
        return;
    }
    let rows = table();
    assert_eq!(rows.len(), 108, "operations that the documentation of Docker's API has");
    let world = World::empty();
    for Row { tier, method, path, answer, proof } in rows {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(tests.join("tests").join(&proof).exists() || tests.join(&proof).exists(), "{path}: no {proof}");
        assert!(
            tier == "P2" || answer != "503" || path == "/volumes/{name}",
            "{path}: part of what every client needs"
        );
        if path == "/volumes/{name}" && method == "PUT" {
            assert_eq!(world.api("POST", "/volumes/create", Some(r#"{"Name":"nobody"}"#)).0, 201);
        }
        if path == "/images/search" {
            // Nothing leaves this machine.
            continue;
        }
        let name = if answer == "registry" { "127.0.0.1:1/nobody" } else { "nobody" };
        let path = path.replace("{name}", name);
        let login = r#"{"username":"ann","password":"none","serveraddress":"127.0.0.1:1"}"#;
        let sent = (path == "/auth").then_some(login);
        let asked = path.replace("{id}", "nobody");
        // A stream that ends.
        let asked = if path == "/events" { format!("{asked}?since=1&until=2") } else { asked };
        let (status, body) = world.api(&method, &asked, sent);
        let told = format!("{method} {asked}: {status} {body}");
        assert!(status != 0 && !body.contains("page not found"), "no route: {told}");
        match answer.as_str() {
            "yes" => assert!(!matches!(status, 501 | 503), "{told}"),
            "none" => assert_eq!(status, 404, "{told}"),
            "registry" => {}
            code => assert_eq!(code, status.to_string(), "{told}"),
        }
        if status >= 400 && method != "HEAD" {
            let message: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("no JSON: {told}"));
            assert!(message["message"].as_str().is_some_and(|text| !text.is_empty()), "{told}");
        }
    }
}

/// DA-06: numbers at their edges are refused or taken, and cost nothing.
#[test]
fn numbers_at_their_edges_are_answered_at_once() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let numbers =
        ["9223372036854775807", "-9223372036854775808", "-1", "1e400", "-0", "0.5", "18446744073709551616", "\"x\""];
    let fields = [
        "Memory",
        "MemorySwap",
        "MemoryReservation",
        "NanoCpus",
        "CpuShares",
        "CpuPeriod",
        "CpuQuota",
        "PidsLimit",
        "ShmSize",
        "OomScoreAdj",
        "BlkioWeight",
        "MemorySwappiness",
        "CpuRealtimePeriod",
    ];
    for field in fields {
        for number in numbers {
            let body = format!(r#"{{"Image":"busybox","HostConfig":{{"NetworkMode":"none","{field}":{number}}}}}"#);
            let (status, answer) = world.api("POST", "/containers/create", Some(&body));
            assert!(matches!(status, 201 | 400), "{field}={number}: {status} {answer}");
        }
    }
    for field in ["StopTimeout"] {
        for number in numbers {
            let body = format!(r#"{{"Image":"busybox","{field}":{number},"HostConfig":{{"NetworkMode":"none"}}}}"#);
            let (status, answer) = world.api("POST", "/containers/create", Some(&body));
            assert!(matches!(status, 201 | 400), "{field}={number}: {status} {answer}");
        }
    }
    for set in ["0-9223372036854775807", "1-2147483647", "-1", "0-", "9999999999", "0,,1"] {
        let body = format!(r#"{{"Image":"busybox","HostConfig":{{"NetworkMode":"none","CpusetCpus":"{set}"}}}}"#);
        assert_eq!(world.api("POST", "/containers/create", Some(&body)).0, 400, "{set}");
    }
    assert_eq!(world.api("GET", "/containers/json?limit=9223372036854775807", None).0, 200);
    assert_eq!(world.api("GET", "/containers/json?limit=99999999999999999999", None).0, 400);
    let (status, _) = world.api("GET", "/version", None);
    assert_eq!(status, 200);
}

/// DA-09: what goes into hosts, resolv.conf and hostname reads back as what was asked for, or is refused.
#[test]
fn strings_with_line_breaks_reach_no_file() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let evil = ["a\nb", "a\r\nnameserver 6.6.6.6", "\u{0}", "a b", "a\tb", "a;b", "$(x)", "../x"];
    for text in evil {
        let text = serde_json::to_string(text).unwrap();
        let bodies = [
            format!(r#"{{"Image":"busybox","Hostname":{text},"HostConfig":{{"NetworkMode":"none"}}}}"#),
            format!(r#"{{"Image":"busybox","Domainname":{text},"HostConfig":{{"NetworkMode":"none"}}}}"#),
            format!(r#"{{"Image":"busybox","HostConfig":{{"NetworkMode":"none","Dns":[{text}]}}}}"#),
            format!(r#"{{"Image":"busybox","HostConfig":{{"NetworkMode":"none","DnsSearch":[{text}]}}}}"#),
            format!(r#"{{"Image":"busybox","HostConfig":{{"NetworkMode":"none","DnsOptions":[{text}]}}}}"#),
            format!(r#"{{"Image":"busybox","HostConfig":{{"NetworkMode":"none","ExtraHosts":[{text}]}}}}"#),
        ];
        for body in bodies {
            let (status, answer) = world.api("POST", "/containers/create", Some(&body));
            if status == 400 {
                continue;
            }
            assert_eq!(status, 201, "{body}: {answer}");
            // Taken: then it stays on its own line.
            let id = serde_json::from_str::<serde_json::Value>(&answer).unwrap()["Id"].as_str().unwrap().to_owned();
            let (status, answer) = world.api("POST", &format!("/containers/{id}/start"), None);
            assert!(matches!(status, 204 | 400 | 500), "{body}: {status} {answer}");
            for file in ["hosts", "resolv.conf", "hostname"] {
                let path = world.root().join("containers").join(&id).join(file);
                let text = std::fs::read_to_string(path).unwrap_or_default();
                assert!(!text.contains("6.6.6.6") && !text.lines().any(|line| line == "b"), "{body}: {text}");
            }
        }
    }
}

/// DA-05: nobody but root reaches what an instance keeps.
#[test]
fn other_users_read_nothing_of_an_instance() {
    if !is_root() {
        return;
    }
    use std::os::unix::process::CommandExt;
    let world = World::start();
    let run = ["run", "--network", "none", "-v", "data:/data", "--name", "box", "busybox", "sh", "-c"];
    let script =
        "echo secret; echo secret > /data/f; cp /bin/busybox /data/su; chmod 6777 /data/su /data/f; chmod 777 /data";
    world.knarr(run.iter().chain(&[script])).success();
    let mut find = std::process::Command::new("find");
    // The temporary folder itself is 0700: looked at as if it were not.
    std::fs::set_permissions(world.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    find.arg(world.root()).arg(world.run_dir()).args(["!", "-type", "d", "-readable", "-print"]).uid(65534).gid(65534);
    let found = find.output().expect("find");
    let seen = String::from_utf8_lossy(&found.stdout).into_owned();
    assert_eq!(seen, "", "readable by nobody");
}
