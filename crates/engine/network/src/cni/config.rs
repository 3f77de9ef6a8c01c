//! Configurations of the container network interface, and what a plugin is told. Pure.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::CniAttachment;

/// A port of the host that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
    /// Empty is every address.
    #[serde(rename = "hostIP", default, skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

/// What the pod may receive (`ingress`) and send, in bits a second; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    pub ingress: u64,
    pub egress: u64,
}

/// The pod's resolver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSettings {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// Bits that may come at once where a rate is limited: the most that fits, as others ask for.
const BURST_BITS: u64 = i32::MAX as u64;

/// What is told to plugins that declare the capability for it.
#[derive(Debug, Clone, Default)]
pub struct Extras(Map<String, Value>);

impl Extras {
    pub fn of(attachment: &CniAttachment) -> Self {
        let mut all = Map::new();
        if !attachment.ports.is_empty() {
            all.insert("portMappings".into(), json!(attachment.ports));
        }
        if let Some(bandwidth) = &attachment.bandwidth {
            let mut limits = Map::new();
            for (name, rate) in [("ingress", bandwidth.ingress), ("egress", bandwidth.egress)] {
                if rate > 0 {
                    limits.insert(format!("{name}Rate"), rate.into());
                    limits.insert(format!("{name}Burst"), BURST_BITS.into());
                }
            }
            all.insert("bandwidth".into(), limits.into());
        }
        if let Some(dns) = &attachment.dns {
            all.insert("dns".into(), json!(dns));
        }
        Self(all)
    }
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plugin {
    pub kind: String,
    config: Map<String, Value>,
}

/// Plugins that make a pod's network together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct List {
    pub name: String,
    pub version: String,
    disable_check: bool,
    pub plugins: Vec<Plugin>,
}

pub fn is_config(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["conflist", "conf", "json"].iter().any(|known| extension == *known))
}

/// `path` tells a list from a single plugin by its ending.
pub fn parse(path: &Path, text: &str) -> Result<List, String> {
    let mut object: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let word = |object: &Map<String, Value>, name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
    let name = word(&object, "name").filter(|name| is_name(name)).ok_or("it has no name, or none that is valid")?;
    let version = word(&object, "cniVersion").unwrap_or_else(|| "0.2.0".into());
    let numbers = numbers(&version).ok_or_else(|| format!("cniVersion {version:?} is no version"))?;
    if !((0, 1)..=(1, 1)).contains(&(numbers.0, numbers.1)) {
        return Err(format!("cniVersion {version} is not supported"));
    }
    let disable_check = object.get("disableCheck").is_some_and(|value| *value == true || *value == "true");
    let plugins = if path.extension().is_some_and(|extension| extension == "conflist") {
        match object.remove("plugins") {
            Some(Value::Array(plugins)) => plugins,
            _ => return Err("it has no list of plugins".into()),
        }
    } else {
        vec![Value::Object(object)]
    };
    let plugins = plugins.into_iter().map(|plugin| {
        let Value::Object(config) = plugin else { return Err("a plugin is no object".to_owned()) };
        let kind = word(&config, "type").filter(|kind| !kind.is_empty()).ok_or("a plugin has no type")?;
        Ok(Plugin { kind, config })
    });
    let plugins = plugins.collect::<Result<Vec<_>, String>>()?;
    if plugins.is_empty() {
        return Err("its list of plugins is empty".into());
    }
    Ok(List { name, version, disable_check, plugins })
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && name.bytes().all(plain)
}

fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let numbers = (parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
    parts.next().is_none().then_some(numbers)
}

impl List {
    fn at_least(&self, major: u32, minor: u32) -> bool {
        numbers(&self.version).is_some_and(|(a, b, _)| (a, b) >= (major, minor))
    }

    /// Since 0.4 a plugin can be asked whether all is well, and is told the result when it takes it away.
    pub fn knows_check(&self) -> bool {
        self.at_least(0, 4) && !self.disable_check
    }

    pub fn knows_status(&self) -> bool {
        self.at_least(1, 1)
    }
}

impl Plugin {
    /// Its standard input.
    pub fn input(&self, list: &List, extras: &Extras, previous: Option<&Value>) -> Value {
        let mut config = self.config.clone();
        config.insert("name".into(), list.name.as_str().into());
        config.insert("cniVersion".into(), list.version.as_str().into());
        let declared = |name: &str| {
            config.get("capabilities").and_then(|all| all.get(name)).is_some_and(|declared| *declared == true)
        };
        let told: Map<String, Value> = extras
            .0
            .iter()
            .filter(|(name, _)| declared(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        config.remove("capabilities");
        config.remove("runtimeConfig");
        if !told.is_empty() {
            config.insert("runtimeConfig".into(), told.into());
        }
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        config.into()
    }
}

/// `NAME=VALUE;...`; what is not in a name or value of Kubernetes' is left out.
pub fn args(args: &[(String, String)]) -> String {
    let plain = |text: &str| !text.is_empty() && !text.contains([';', '=']);
    let good = args.iter().filter(|(name, value)| plain(name) && plain(value));
    good.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_a_name_a_version_and_plugins() {
        let read = |name: &str, text: &str| {
            parse(Path::new(name), text).map(|list| {
                let kinds: Vec<&str> = list.plugins.iter().map(|plugin| plugin.kind.as_str()).collect();
                format!(
                    "{} {} {} {} {}",
                    list.name,
                    list.version,
                    kinds.join("+"),
                    list.knows_check(),
                    list.knows_status()
                )
            })
        };
        let list = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#;
        assert_eq!(read("a.conflist", list).unwrap(), "net 1.0.0 bridge+portmap true false");
        assert_eq!(
            read("a.conf", r#"{"cniVersion": "0.3.1", "name": "one", "type": "ptp"}"#).unwrap(),
            "one 0.3.1 ptp false false"
        );
        let quiet = r#"{"cniVersion": "1.1.0", "name": "n", "disableCheck": true, "plugins": [{"type": "x"}]}"#;
        assert_eq!(read("a.conflist", quiet).unwrap(), "n 1.1.0 x false true");
        for (bad, why) in [
            ("{", "EOF while parsing an object at line 1 column 1"),
            (r#"{"plugins": []}"#, "it has no name, or none that is valid"),
            (r#"{"name": "a/b", "plugins": []}"#, "it has no name, or none that is valid"),
            (r#"{"name": "a", "plugins": []}"#, "its list of plugins is empty"),
            (r#"{"name": "a"}"#, "it has no list of plugins"),
            (r#"{"name": "a", "plugins": [{}]}"#, "a plugin has no type"),
            (r#"{"name": "a", "plugins": [1]}"#, "a plugin is no object"),
            (
                r#"{"name": "a", "cniVersion": "2.0.0", "plugins": [{"type": "x"}]}"#,
                "cniVersion 2.0.0 is not supported",
            ),
            (r#"{"name": "a", "cniVersion": "new", "plugins": [{"type": "x"}]}"#, "cniVersion \"new\" is no version"),
        ] {
            assert_eq!(read("a.conflist", bad).unwrap_err(), why, "{bad}");
        }
        for (name, expected) in
            [("a.conflist", true), ("a.conf", true), ("a.json", true), ("a.conflist.bak", false), ("a", false)]
        {
            assert_eq!(is_config(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn a_plugin_is_told_what_it_can_do_something_with() {
        let text = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [
            {"type": "bridge", "bridge": "b0", "runtimeConfig": "not for you to say"},
            {"type": "portmap", "capabilities": {"portMappings": true, "bandwidth": false}}]}"#;
        let list = parse(Path::new("a.conflist"), text).unwrap();
        let attachment = CniAttachment {
            ports: vec![PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: "tcp".into(),
                host_ip: String::new(),
            }],
            bandwidth: Some(Bandwidth { ingress: 8000, egress: 0 }),
            ..CniAttachment::default()
        };
        let extras = Extras::of(&attachment);
        let told = |plugin: usize, previous: Option<&Value>| list.plugins[plugin].input(&list, &extras, previous);
        assert_eq!(told(0, None), json!({"type": "bridge", "bridge": "b0", "name": "net", "cniVersion": "1.0.0"}));
        assert_eq!(
            told(1, Some(&json!({"ips": []}))),
            json!({"type": "portmap", "name": "net", "cniVersion": "1.0.0", "prevResult": {"ips": []},
                "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}})
        );
        assert_eq!(extras.0["bandwidth"], json!({"ingressRate": 8000, "ingressBurst": i32::MAX}));
    }

    #[test]
    fn arguments_cannot_pretend_to_be_others() {
        let pairs = [("K8S_POD_NAME", "web"), ("K8S_POD_UID", "a;IP=10.0.0.1"), ("X", "")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(args(&pairs), "K8S_POD_NAME=web");
    }
}
