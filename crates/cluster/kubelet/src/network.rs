//! The node's network of pods: its subnet comes from the node's own object, and until it stands no pod of its own network runs.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cache::Kind;
use client::Client;
use resources::{Value, meta};

use crate::pod;
use crate::runtime::{NetworkConfig, PortRequest, Runtime};

/// How often the node's object is looked at while it has no subnet.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Whether the network stands.
#[derive(Debug)]
pub struct Network {
    /// Subnets of all nodes' pods.
    cluster: Vec<String>,
    /// Where the node's own are kept for an agent that starts while the API is away.
    kept: PathBuf,
    /// Why it does not.
    problem: Mutex<Option<String>>,
}

impl Network {
    pub fn new(cluster: Vec<String>, root: &Path) -> Self {
        let problem = Mutex::new(Some("the node has no pod subnet yet".into()));
        Self { cluster, kept: root.join("agent").join("pod-cidrs"), problem }
    }

    /// Makes it as it was last, so that pods go on before the API is asked.
    pub async fn resume<R: Runtime>(&self, runtime: &R) {
        let Ok(text) = std::fs::read_to_string(&self.kept) else { return };
        let subnets: Vec<String> = text.lines().map(str::to_owned).collect();
        if subnets.is_empty() {
            return;
        }
        let config = NetworkConfig { subnets, cluster: self.cluster.clone() };
        self.tell(runtime.network(&config).await.map_err(|error| error.to_string()));
    }

    fn keep(&self, subnets: &[String]) {
        let text: String = subnets.iter().map(|subnet| format!("{subnet}\n")).collect();
        if let Err(error) = crate::certificates::write_secret(&self.kept, text.as_bytes()) {
            tracing::warn!(%error, "cannot keep the node's subnets");
        }
    }

    /// Why pods cannot be on it, in upstream's words.
    pub fn problem(&self) -> Option<String> {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |problem: &String| {
            format!(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{problem}"
            )
        };
        problem.as_ref().map(text)
    }

    /// Makes it, as soon as the node's object says which subnet is its; waits for that until `patience` has passed.
    pub async fn settle<R: Runtime>(&self, runtime: &R, api: &Client, node: &str, patience: Duration) {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let outcome = match api.get(&Kind::Node.gvr(), "", node).await {
                Err(status) => Err(status.message),
                Ok(node) => match pod_cidrs(&node) {
                    subnets if subnets.is_empty() => Err("the node has no pod subnet yet".into()),
                    subnets => {
                        let config = NetworkConfig { subnets, cluster: self.cluster.clone() };
                        let made = runtime.network(&config).await.map_err(|error| error.to_string());
                        self.keep(&config.subnets);
                        self.tell(made);
                        return;
                    }
                },
            };
            self.tell(outcome);
            if tokio::time::Instant::now() >= until {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn tell(&self, outcome: Result<(), String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = outcome.err();
    }
}

/// The node's subnets for pods.
fn pod_cidrs(node: &Value) -> Vec<String> {
    let all = meta::list_at(node, &["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
    let mut all: Vec<String> = all.map(str::to_owned).collect();
    let one = meta::str_at(node, &["spec", "podCIDR"]);
    if all.is_empty() && !one.is_empty() {
        all.push(one.to_owned());
    }
    all
}

/// Ports of the host that lead to the pod.
pub fn host_ports(pod: &Value) -> Vec<PortRequest> {
    if pod::host_network(pod) {
        return Vec::new();
    }
    let number = |port: &Value, field: &str| port[field].as_u64().and_then(|port| u16::try_from(port).ok());
    pod::containers(pod)
        .flat_map(|(_, container)| meta::list_at(container, &["ports"]))
        .filter_map(|port| {
            Some(PortRequest {
                protocol: port["protocol"].as_str().unwrap_or("TCP").to_owned(),
                port: number(port, "containerPort")?,
                host_port: number(port, "hostPort").filter(|port| *port != 0)?,
                host_ip: port["hostIP"].as_str().unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

/// `kubernetes.io/egress-bandwidth` and `ingress-bandwidth`: what the pod may send and receive, in bytes a second.
pub fn bandwidth(pod: &Value) -> Result<(Option<u64>, Option<u64>), String> {
    let one = |direction: &str| {
        let name = format!("kubernetes.io/{direction}-bandwidth");
        let Some(text) = meta::at(pod, &["metadata", "annotations", &name]).and_then(Value::as_str) else {
            return Ok(None);
        };
        let bits = resources::quantity::Quantity::parse(text).ok().map(|quantity| quantity.ceil());
        match bits.and_then(|bits| u64::try_from(bits).ok()) {
            Some(bits @ 1_000..=1_000_000_000_000_000) => Ok(Some(bits / 8)),
            Some(_) => Err(format!("resource {text} of {name} is out of range: 1k to 1P bits a second")),
            None => Err(format!("{name}: {text:?} is not a quantity")),
        }
    };
    Ok((one("egress")?, one("ingress")?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_names_its_subnets_once_or_twice() {
        let rows = [
            (json!({}), vec![]),
            (json!({"spec": {"podCIDR": "10.42.0.0/22"}}), vec!["10.42.0.0/22"]),
            (
                json!({"spec": {"podCIDR": "10.42.0.0/22", "podCIDRs": ["10.42.0.0/22", "fd00::/64"]}}),
                vec!["10.42.0.0/22", "fd00::/64"],
            ),
        ];
        for (node, expected) in rows {
            assert_eq!(pod_cidrs(&node), expected, "{node}");
        }
    }

    #[test]
    fn only_ports_that_ask_for_the_hosts_are_published() {
        let ports = json!([{"containerPort": 80}, {"containerPort": 81, "hostPort": 8081},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"}]);
        let pod = json!({"spec": {"containers": [{"name": "c", "ports": ports}]}});
        let told: Vec<String> = host_ports(&pod)
            .iter()
            .map(|port| format!("{}:{}->{}/{}", port.host_ip, port.host_port, port.port, port.protocol))
            .collect();
        assert_eq!(told, [":8081->81/TCP", "127.0.0.1:53->53/UDP"]);
        let host = json!({"spec": {"hostNetwork": true, "containers": [{"name": "c", "ports": ports}]}});
        assert!(host_ports(&host).is_empty(), "it has them already");
    }

    #[test]
    fn bandwidth_is_asked_for_in_bits() {
        let check = |egress: &str, ingress: &str| {
            bandwidth(&json!({"metadata": {"annotations":
                {"kubernetes.io/egress-bandwidth": egress, "kubernetes.io/ingress-bandwidth": ingress}}}))
        };
        assert_eq!(bandwidth(&json!({"metadata": {}})), Ok((None, None)));
        assert_eq!(check("8M", "1Gi"), Ok((Some(1_000_000), Some(1 << 27))));
        assert!(check("1", "1M").is_err());
        assert!(check("fast", "1M").is_err());
    }
}
