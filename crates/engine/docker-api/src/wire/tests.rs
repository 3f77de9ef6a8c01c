//! Bodies that the stock client 28.2 sends, to the engine's words and back: nothing that they say may be lost.

use serde_json::{Map, Value};

use super::config::{Config, CreateBody, ExecBody};
use super::host::{HostConfig, UpdateBody, says_nothing};

const PLAIN: &str = include_str!("testdata/create_plain.json");
const FULL: &str = include_str!("testdata/create_full.json");
const UPDATE: &str = include_str!("testdata/update.json");
const EXEC: &str = include_str!("testdata/exec.json");

/// Paths at which two values differ. What is left out, `null`, zero and empty are one: Go reads them alike.
fn differences(sent: &Value, shown: &Value, path: &str, out: &mut Vec<String>) {
    match (sent, shown) {
        _ if says_nothing(sent) && says_nothing(shown) => {}
        (Value::Object(sent), Value::Object(shown)) => {
            let keys: std::collections::BTreeSet<_> = sent.keys().chain(shown.keys()).collect();
            for key in keys {
                let value = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                differences(&value(sent), &value(shown), &format!("{path}.{key}"), out);
            }
        }
        (Value::Array(sent), Value::Array(shown)) if sent.len() == shown.len() => {
            for (at, (sent, shown)) in sent.iter().zip(shown).enumerate() {
                differences(sent, shown, &format!("{path}[{at}]"), out);
            }
        }
        _ if sent == shown => {}
        _ => out.push(format!("{path}: sent {sent}, shown {shown}")),
    }
}

#[test]
fn a_body_without_a_config_is_refused_in_dockers_words() {
    for text in ["{}", r#"{"HostConfig":{}}"#, r#"{"Image":null}"#] {
        let refused = serde_json::from_str::<CreateBody>(text).unwrap().into_request(None, None).unwrap_err();
        assert_eq!(refused.message, "config cannot be empty in order to create a container", "{text}");
    }
}

fn request(text: &str) -> engine::CreateRequest {
    serde_json::from_str::<CreateBody>(text).unwrap().into_request(None, None).unwrap()
}

#[test]
fn what_create_says_is_shown_by_inspect() {
    for text in [PLAIN, FULL] {
        let mut sent: Value = serde_json::from_str(text).unwrap();
        let request = request(text);
        let mut host = sent.as_object_mut().unwrap().remove("HostConfig").unwrap();
        // The client's way to say nothing.
        if host["MemorySwappiness"] == -1 {
            host["MemorySwappiness"] = Value::Null;
        }
        sent.as_object_mut().unwrap().remove("NetworkingConfig").unwrap();
        let mut out = Vec::new();
        differences(&sent, &serde_json::to_value(Config::from_model(request.config)).unwrap(), "", &mut out);
        differences(
            &host,
            &serde_json::to_value(HostConfig::from_model(request.host)).unwrap(),
            ".HostConfig",
            &mut out,
        );
        assert_eq!(out, Vec::<String>::new());
    }
}

#[test]
fn the_words_of_a_full_create_reach_the_engine() {
    let request = request(FULL);
    assert_eq!(request.config.cmd.as_deref(), Some(&["sh".to_owned(), "-c".into(), "echo hi".into()][..]));
    assert_eq!(request.config.healthcheck.as_ref().unwrap().interval, std::time::Duration::from_secs(5));
    assert_eq!(request.config.stop_timeout_secs, Some(7));
    assert_eq!(request.config.exposed_ports.iter().collect::<Vec<_>>(), ["53/udp", "80/tcp", "9000/tcp"]);
    assert_eq!(
        request.host.restart_policy,
        engine::RestartPolicy { mode: engine::RestartMode::OnFailure, retries_max: 3 }
    );
    assert_eq!(request.host.port_bindings["80/tcp"][0].host_port, "8080");
    assert_eq!(request.host.resources.memory_bytes, 64 << 20);
    assert_eq!(request.host.resources.ulimits, [engine::Ulimit { name: "nofile".into(), soft: 1024, hard: 2048 }]);
    assert_eq!(request.host.mounts.len(), 3);
    assert_eq!(request.host.mounts[1].tmpfs.as_ref().unwrap().mode, 0o1770);
    assert_eq!(request.host.init, Some(true));
    assert_eq!(self::request(PLAIN).networks.keys().collect::<Vec<_>>(), ["default"]);
}

#[test]
fn nulls_left_out_fields_and_lone_words_are_taken() {
    let text = r#"{"Image":"x","Cmd":"ls","Hostname":null,"Tty":null,"Env":null,"Entrypoint":[],
        "HostConfig":{"CapAdd":"ALL","Memory":null,"Binds":null,"RestartPolicy":null,"PortBindings":{"80/tcp":null},"Future":0,"Later":[""]}}"#;
    let request = request(text);
    assert_eq!(request.config.cmd, Some(vec!["ls".to_owned()]));
    assert_eq!(request.config.entrypoint, Some(Vec::new()));
    assert_eq!(request.host.cap_add, ["ALL"]);
    assert!(request.host.port_bindings["80/tcp"].is_empty());
}

#[test]
fn update_and_exec_bodies_are_read() {
    let update = serde_json::from_str::<UpdateBody>(UPDATE).unwrap().into_model().unwrap();
    assert_eq!(update.resources.memory_bytes, 100 << 20);
    assert_eq!(update.restart_policy.unwrap().mode, engine::RestartMode::Always);
    let none = serde_json::from_str::<UpdateBody>(r#"{"RestartPolicy":{"Name":""}}"#).unwrap().into_model().unwrap();
    assert_eq!(none.restart_policy, None);
    let exec = serde_json::from_str::<ExecBody>(EXEC).unwrap().into_model().unwrap();
    assert_eq!(
        (exec.cmd, exec.user.as_str(), exec.privileged, exec.detach_keys.as_str()),
        (vec!["ls".into(), "-l".into()], "root", true, "ctrl-a")
    );
    assert!(serde_json::from_str::<ExecBody>("{}").unwrap().into_model().is_err());
}

#[test]
fn numbers_out_of_range_are_refused_not_cut() {
    for host in [
        r#"{"Memory":9223372036854775808}"#,
        r#"{"Memory":1e400}"#,
        r#"{"Memory":1.5}"#,
        r#"{"BlkioWeight":-1}"#,
        r#"{"OomScoreAdj":2147483648}"#,
        r#"{"ConsoleSize":[70000,1]}"#,
        r#"{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":4294967296}}"#,
        r#"{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":-1}}"#,
        r#"{"CpuCount":1}"#,
        r#"{"KernelMemory":1}"#,
        r#"{"Isolation":"hyperv"}"#,
    ] {
        let body = serde_json::from_str::<CreateBody>(&format!("{{\"Image\":\"x\",\"HostConfig\":{host}}}"));
        assert!(body.is_err() || body.unwrap().into_request(None, None).is_err(), "{host}");
    }
    let extreme = request(
        r#"{"Image":"x","HostConfig":{"Memory":9223372036854775807,"CpuShares":-9223372036854775808,"PidsLimit":-1}}"#,
    );
    assert_eq!((extreme.host.resources.memory_bytes, extreme.host.resources.cpu_shares), (i64::MAX, i64::MIN));
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    /// Numbers at the edges of every type that a field may have, and texts that are no numbers.
    fn scalar() -> impl Strategy<Value = String> {
        let edges = [
            "0",
            "-0",
            "1",
            "-1",
            "0.5",
            "1e400",
            "-1e400",
            "255",
            "256",
            "65535",
            "65536",
            "2147483647",
            "2147483648",
            "4294967295",
            "4294967296",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "-9223372036854775809",
            "18446744073709551615",
            "18446744073709551616",
            "NaN",
            "null",
            "true",
            "false",
            "\"\"",
            "\"1\"",
            "\"\\u0000\"",
            "\"a\\nb\"",
            "[]",
            "{}",
            "[null]",
            "[[]]",
            "{\"\":null}",
        ];
        proptest::sample::select(edges.map(str::to_owned).to_vec())
    }

    /// Names of all fields that any body has.
    fn names() -> Vec<String> {
        let mut names = Vec::new();
        fn collect(value: &Value, names: &mut Vec<String>) {
            match value {
                Value::Object(map) => map.iter().for_each(|(name, value)| {
                    names.push(name.clone());
                    collect(value, names);
                }),
                Value::Array(list) => list.iter().for_each(|value| collect(value, names)),
                _ => {}
            }
        }
        for text in [PLAIN, FULL, UPDATE, EXEC] {
            collect(&serde_json::from_str(text).unwrap(), &mut names);
        }
        names.sort();
        names.dedup();
        names
    }

    fn value() -> impl Strategy<Value = String> {
        let leaf = scalar();
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                proptest::collection::vec((proptest::sample::select(names()), inner), 0..6).prop_map(|fields| {
                    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
                    format!("{{{}}}", fields.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_body_makes_the_edge_panic(fields in proptest::collection::vec((proptest::sample::select(names()), value()), 0..8)) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
            let text = format!("{{{}}}", fields.join(","));
            if let Ok(body) = serde_json::from_str::<CreateBody>(&text) {
                let _ = body.into_request(None, None);
            }
            if let Ok(body) = serde_json::from_str::<CreateBody>(&format!("{{\"HostConfig\":{text}}}"))
                && let Ok(request) = body.into_request(None, None)
            {
                // What was accepted can be shown.
                serde_json::to_value(HostConfig::from_model(request.host)).unwrap();
            }
            if let Ok(body) = serde_json::from_str::<UpdateBody>(&text) {
                let _ = body.into_model();
            }
            if let Ok(body) = serde_json::from_str::<ExecBody>(&text) {
                let _ = body.into_model();
            }
        }
    }
}
