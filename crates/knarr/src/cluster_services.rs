//! What all nodes of a cluster have to know of its services: the range of their addresses, and where names are asked for. Servers
//! tell it through the API, agents read it there and keep it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use cache::Kind;
use client::{Client, Gvr};
use proxy::{Block, ground};
use resources::{Status, Value, meta};
use serde_json::json;

const SERVICE_CIDRS: Gvr = Gvr::new("networking.k8s.io", "v1", "servicecidrs");
/// The name server's address, by its number in the range.
pub const DNS: u32 = 10;
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The services of a cluster, as its API has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterServices {
    pub range: Block,
    /// Where pods ask for names.
    pub dns: IpAddr,
    /// Every node answers for itself there; otherwise pods do, behind a service like others.
    pub answered_here: bool,
}

impl ClusterServices {
    /// The number of the address that every node answers itself, if there is one.
    pub fn own_number(&self) -> Option<u32> {
        let number = (0..=u32::from(u16::MAX)).find(|number| ground::nth(&self.range, *number) == self.dns);
        number.filter(|_| self.answered_here)
    }

    /// From the range's object and the name server's service. Pure.
    fn read(range: &Value, dns: &Value) -> Option<Self> {
        let range = meta::list_at(range, &["spec", "cidrs"]).first().and_then(Value::as_str).and_then(Block::parse)?;
        let ip = meta::str_at(dns, &["spec", "clusterIP"]).parse().ok()?;
        let selects = dns["spec"]["selector"].as_object().is_some_and(|selector| !selector.is_empty());
        Some(Self { range, dns: ip, answered_here: !selects && range.contains(ip) })
    }

    async fn ask(api: &Client) -> Result<Self, String> {
        let range = api.get(&SERVICE_CIDRS, "", "kubernetes").await.map_err(|status| status.message)?;
        let dns = api.get(&Kind::Service.gvr(), "kube-system", "kube-dns").await.map_err(|status| status.message)?;
        Self::read(&range, &dns).ok_or_else(|| "the API says neither range nor name server of its services".into())
    }

    /// As the API says, or as it said last while it does not answer. Waits for the one or the other.
    pub async fn learn(api: &Client, file: &Path) -> Self {
        let mut pause = Duration::from_millis(200);
        loop {
            let why = match Self::ask(api).await {
                Ok(learned) => {
                    let text = learned.to_value().to_string();
                    if let Err(error) = kubelet::write_secret(file, text.as_bytes()) {
                        tracing::warn!(error = crate::failure::chain(&error), "cannot keep what the services stand on");
                    }
                    return learned;
                }
                Err(why) => why,
            };
            let kept = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
            if let Some(kept) = kept.and_then(|kept| Self::of_value(&kept)) {
                return kept;
            }
            tracing::warn!(why, "cannot learn what the cluster's services stand on; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn to_value(&self) -> Value {
        json!({"range": self.range.to_string(), "dns": self.dns, "answeredHere": self.answered_here})
    }

    fn of_value(value: &Value) -> Option<Self> {
        Some(Self {
            range: Block::parse(value["range"].as_str()?)?,
            dns: value["dns"].as_str()?.parse().ok()?,
            answered_here: value["answeredHere"].as_bool()?,
        })
    }
}

/// Makes the service by which pods find the name server, unless it is there.
pub async fn announce(api: &Client, dns: IpAddr) -> Result<(), Status> {
    let ip = dns.to_string();
    let labels =
        json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {"clusterIP": ip, "clusterIPs": [ip],
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53}]}});
    // Asked for first: making it again would be refused because its own address is taken.
    match api.get(&Kind::Service.gvr(), "kube-system", "kube-dns").await {
        Err(status) if status.code == 404 => {
            match api.create(&Kind::Service.gvr(), "kube-system", &service).await {
                // Another server of the cluster was as quick.
                Err(status) if matches!(status.code, 409 | 422) => {
                    api.get(&Kind::Service.gvr(), "kube-system", "kube-dns").await.map(drop)
                }
                other => other.map(drop),
            }
        }
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_learn_what_services_stand_on() {
        let range = json!({"spec": {"cidrs": ["10.96.0.0/12"]}});
        let plain = json!({"spec": {"clusterIP": "10.96.0.10"}});
        let read = ClusterServices::read(&range, &plain).unwrap();
        assert_eq!((read.own_number(), read.dns.to_string().as_str()), (Some(10), "10.96.0.10"));
        assert_eq!(ClusterServices::of_value(&read.to_value()).unwrap(), read);
        // Somebody runs a name server of their own in pods.
        let pods = json!({"spec": {"clusterIP": "10.96.0.10", "selector": {"k8s-app": "kube-dns"}}});
        assert_eq!(ClusterServices::read(&range, &pods).unwrap().own_number(), None);
        let outside = json!({"spec": {"clusterIP": "192.168.0.10"}});
        assert_eq!(ClusterServices::read(&range, &outside).unwrap().own_number(), None);
        assert_eq!(ClusterServices::read(&json!({}), &plain), None);
    }
}
