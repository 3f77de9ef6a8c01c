//! Broken input for what this crate parses: configurations of network plugins, and what plugins answer.

use std::path::Path;

use network::cni;

#[test]
fn configurations_of_plugins_are_read_or_refused() {
    fuzz::Target::new("cni-list", env!("CARGO_MANIFEST_DIR"))
        .seed(r#"{"cniVersion": "1.0.0", "name": "net", "disableCheck": true, "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}},
            {"type": "portmap", "capabilities": {"portMappings": true}}]}"#)
        .seed(r#"{"cniVersion": "0.3.1", "name": "one", "type": "ptp"}"#)
        .words(["\"plugins\"", "\"type\"", "\"cniVersion\"", "\"1.1\"", "null", "[]", "{}"])
        .run(|bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return (0, String::new()) };
            ["a.conflist", "a.conf"].iter().fold((0, String::new()), |seen, name| match cni::parse_list(Path::new(name), text) {
                Ok(list) => {
                    assert!(!list.plugins.is_empty() && !list.name.is_empty());
                    (seen.0 + list.plugins.len() + usize::from(list.knows_check()), seen.1)
                }
                Err(error) => (seen.0, error.chars().filter(|letter| !letter.is_ascii_digit()).take(24).collect()),
            })
        });
}

#[test]
fn answers_of_plugins_are_read_or_refused() {
    fuzz::Target::new("cni-result", env!("CARGO_MANIFEST_DIR"))
        .seed(
            r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/ns"}],
            "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1}], "dns": {}}"#,
        )
        .seed(r#"{"ip4": {"ip": "10.0.0.2/24"}}"#)
        .seed(r#"{"code": 7, "msg": "no room", "details": "all taken"}"#)
        .words(["\"ips\"", "\"interface\"", "\"sandbox\"", "18446744073709551615", "-1", "fd00::1", "/"])
        .run(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            let addresses = cni::parse_result(&text, "1.0.0").and_then(|result| cni::addresses(&result));
            (addresses.map(|all| all.len()).map_err(|error| error.len() > 60), cni::refusal(&text).is_some())
        });
}
