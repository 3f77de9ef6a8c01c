//! What plugins answer. Pure.

use std::net::IpAddr;

use serde_json::{Value, json};

/// The result of one plugin, for the next one. A plugin that answers in another version than it was asked in is taken at its word.
pub fn parse(text: &str, version: &str) -> Result<Value, String> {
    let mut value: Value =
        serde_json::from_str(text).map_err(|error| format!("its result is not understood: {error}"))?;
    let Some(object) = value.as_object_mut() else { return Err("its result is no object".into()) };
    object.entry("cniVersion").or_insert_with(|| version.into());
    Ok(value)
}

/// The pod's addresses, the first one first. Addresses of interfaces that are not in the pod are the plugins' own.
pub fn addresses(result: &Value) -> Result<Vec<IpAddr>, String> {
    let none = json!([]);
    let list = |name: &str| result.get(name).unwrap_or(&none).as_array().cloned().unwrap_or_default();
    let interfaces = list("interfaces");
    let in_pod = |ip: &Value| {
        let interface = ip["interface"].as_u64().and_then(|index| interfaces.get(usize::try_from(index).ok()?));
        interface.is_none_or(|interface| interface["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty()))
    };
    let mut texts: Vec<String> =
        list("ips").iter().filter(|ip| in_pod(ip)).filter_map(|ip| ip["address"].as_str().map(str::to_owned)).collect();
    // Before 0.3 there was one of each family.
    texts.extend(["ip4", "ip6"].iter().filter_map(|family| result[*family]["ip"].as_str().map(str::to_owned)));
    let read = |text: &String| {
        let address = text.split('/').next().unwrap_or_default();
        address.parse().map_err(|_| format!("{text:?} is no address"))
    };
    let addresses = texts.iter().map(read).collect::<Result<Vec<IpAddr>, String>>()?;
    if addresses.is_empty() { Err("the pod was given no address".into()) } else { Ok(addresses) }
}

/// Why a plugin has failed, in its own words.
pub fn refusal(text: &str) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    let message = value["msg"].as_str()?;
    let details = value["details"].as_str().filter(|details| !details.is_empty());
    Some(details.map_or_else(|| message.to_owned(), |details| format!("{message}; {details}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_within_the_pod() {
        let read = |result: Value| {
            addresses(&result).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let interfaces = json!([{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/ns"}]);
        let ips = json!([{"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.2/24", "interface": 1},
            {"address": "fd00::2/64", "interface": 1}]);
        assert_eq!(read(json!({"interfaces": interfaces, "ips": ips})).unwrap(), "10.0.0.2 fd00::2");
        assert_eq!(read(json!({"ips": [{"version": "4", "address": "10.0.0.3/24"}]})).unwrap(), "10.0.0.3");
        assert_eq!(read(json!({"ip4": {"ip": "10.0.0.4/24"}})).unwrap(), "10.0.0.4");
        assert_eq!(read(json!({})).unwrap_err(), "the pod was given no address");
        assert_eq!(read(json!({"ips": [{"address": "x"}]})).unwrap_err(), "\"x\" is no address");
        assert_eq!(read(json!({"ips": [{"address": "10.0.0.5/24", "interface": 9}]})).unwrap(), "10.0.0.5");
    }

    #[test]
    fn a_result_is_an_object_with_a_version() {
        assert_eq!(parse("{}", "1.0.0").unwrap(), json!({"cniVersion": "1.0.0"}));
        assert_eq!(parse(r#"{"cniVersion": "0.4.0"}"#, "1.0.0").unwrap(), json!({"cniVersion": "0.4.0"}));
        for bad in ["", "[]", "{"] {
            assert!(parse(bad, "1.0.0").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refusal_is_in_the_plugins_words() {
        assert_eq!(
            refusal(r#"{"code": 7, "msg": "no room", "details": "all taken"}"#).as_deref(),
            Some("no room; all taken")
        );
        assert_eq!(refusal(r#"{"code": 7, "msg": "no room"}"#).as_deref(), Some("no room"));
        assert_eq!(refusal("panic: oh"), None);
    }
}
