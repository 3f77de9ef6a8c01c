//! Endpoints of containers on networks, asked for and observed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{none_if_empty, set, unset};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NetworkingConfig {
    pub(crate) endpoints_config: Option<BTreeMap<String, Option<EndpointSettings>>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct EndpointSettings {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<IpamConfig>,
    links: Option<Vec<String>>,
    aliases: Option<Vec<String>>,
    mac_address: Option<String>,
    driver_opts: Option<BTreeMap<String, String>>,
    gw_priority: Option<i64>,
    #[serde(rename = "NetworkID")]
    network_id: Option<String>,
    #[serde(rename = "EndpointID")]
    endpoint_id: Option<String>,
    gateway: Option<String>,
    #[serde(rename = "IPAddress")]
    ip_address: Option<String>,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: Option<u8>,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: Option<String>,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: Option<String>,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: Option<u8>,
    #[serde(rename = "DNSNames")]
    dns_names: Option<Vec<String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct IpamConfig {
    #[serde(rename = "IPv4Address", skip_serializing_if = "Option::is_none")]
    ipv4_address: Option<String>,
    #[serde(rename = "IPv6Address", skip_serializing_if = "Option::is_none")]
    ipv6_address: Option<String>,
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Option::is_none")]
    link_local_ips: Option<Vec<String>>,
}

impl EndpointSettings {
    pub(crate) fn into_model(self) -> engine::EndpointSettings {
        let ipam = self.ipam_config.unwrap_or_default();
        engine::EndpointSettings {
            ipv4_address: unset(ipam.ipv4_address),
            ipv6_address: unset(ipam.ipv6_address),
            link_local_ips: unset(ipam.link_local_ips),
            links: unset(self.links),
            aliases: unset(self.aliases),
            driver_options: unset(self.driver_opts),
            gw_priority: unset(self.gw_priority),
            mac_address: unset(self.mac_address),
            network_id: unset(self.network_id),
            endpoint_id: unset(self.endpoint_id),
            gateway: unset(self.gateway),
            ip_address: unset(self.ip_address),
            ip_prefix_len: unset(self.ip_prefix_len),
            ipv6_gateway: unset(self.ipv6_gateway),
            global_ipv6_address: unset(self.global_ipv6_address),
            global_ipv6_prefix_len: unset(self.global_ipv6_prefix_len),
            dns_names: unset(self.dns_names),
        }
    }

    pub(crate) fn from_model(endpoint: engine::EndpointSettings) -> Self {
        let ipam = IpamConfig {
            ipv4_address: none_if_empty(endpoint.ipv4_address),
            ipv6_address: none_if_empty(endpoint.ipv6_address),
            link_local_ips: none_if_empty(endpoint.link_local_ips),
        };
        let asked = ipam.ipv4_address.is_some() || ipam.ipv6_address.is_some() || ipam.link_local_ips.is_some();
        Self {
            ipam_config: asked.then_some(ipam),
            links: none_if_empty(endpoint.links),
            aliases: none_if_empty(endpoint.aliases),
            mac_address: set(endpoint.mac_address),
            driver_opts: none_if_empty(endpoint.driver_options),
            gw_priority: set(endpoint.gw_priority),
            network_id: set(endpoint.network_id),
            endpoint_id: set(endpoint.endpoint_id),
            gateway: set(endpoint.gateway),
            ip_address: set(endpoint.ip_address),
            ip_prefix_len: set(endpoint.ip_prefix_len),
            ipv6_gateway: set(endpoint.ipv6_gateway),
            global_ipv6_address: set(endpoint.global_ipv6_address),
            global_ipv6_prefix_len: set(endpoint.global_ipv6_prefix_len),
            dns_names: none_if_empty(endpoint.dns_names),
        }
    }
}
