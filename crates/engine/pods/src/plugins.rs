//! What plugins of the container network interface are told of a pod. Pure.

use std::path::PathBuf;

use network::cni::{Bandwidth, CniAttachment, CniError, DnsSettings, PortMapping};

use crate::runtime::{RuntimeError, SandboxRequest};

/// As every pod's is named.
const INTERFACE: &str = "eth0";

pub fn told(error: CniError) -> RuntimeError {
    RuntimeError::Failed(format!("failed to setup network for sandbox: {error}"))
}

/// A sandbox whose network namespace that file holds.
pub fn attachment(request: &SandboxRequest, netns: PathBuf) -> CniAttachment {
    let args = [
        // Or older plugins take the others for theirs.
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &request.namespace),
        ("K8S_POD_NAME", &request.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &request.uid),
        ("K8S_POD_UID", &request.uid),
    ];
    let ports = request.ports.iter().map(|port| PortMapping {
        host_port: port.host_port,
        container_port: port.port,
        protocol: port.protocol.to_lowercase(),
        host_ip: port.host_ip.clone(),
    });
    let bits = |bytes: Option<u64>| bytes.unwrap_or(0).saturating_mul(8);
    let limited = request.send_limit.is_some() || request.receive_limit.is_some();
    let mut dns = DnsSettings::default();
    for line in request.resolv_conf.iter().flat_map(|text| text.lines()) {
        let mut words = line.split_whitespace();
        let list = match words.next() {
            Some("nameserver") => &mut dns.servers,
            Some("search") => &mut dns.searches,
            Some("options") => &mut dns.options,
            _ => continue,
        };
        list.extend(words.map(str::to_owned));
    }
    CniAttachment {
        id: request.uid.clone(),
        netns,
        interface: INTERFACE.into(),
        args: args.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ports: ports.collect(),
        bandwidth: limited
            .then(|| Bandwidth { ingress: bits(request.receive_limit), egress: bits(request.send_limit) }),
        dns: (dns != DnsSettings::default()).then_some(dns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::PortRequest;

    #[test]
    fn plugins_know_whose_the_network_is() {
        let port = PortRequest { protocol: "UDP".into(), port: 53, host_port: 5353, host_ip: "127.0.0.1".into() };
        let request = SandboxRequest {
            uid: "u".into(),
            namespace: "d".into(),
            name: "p".into(),
            ports: vec![port],
            receive_limit: Some(1000),
            resolv_conf: Some("nameserver 10.96.0.10\nsearch a b\n".into()),
            ..SandboxRequest::default()
        };
        let attachment = attachment(&request, "/run/ns".into());
        assert!(attachment.args.contains(&("K8S_POD_NAME".into(), "p".into())));
        assert_eq!(attachment.ports[0].protocol, "udp");
        assert_eq!(attachment.bandwidth, Some(Bandwidth { ingress: 8000, egress: 0 }));
        assert_eq!(attachment.dns.unwrap().searches, ["a", "b"]);
        let plain = super::attachment(&SandboxRequest::default(), "/run/ns".into());
        assert_eq!((plain.ports.len(), plain.bandwidth, plain.dns), (0, None, None));
    }
}
