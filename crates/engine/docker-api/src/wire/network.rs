//! Networks, and endpoints of containers on them, asked for and observed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{none_if_empty, set, time, unset};
use crate::http::error::{ApiError, ApiResult};

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

/// The body of create.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CreateBody {
    name: Option<String>,
    driver: Option<String>,
    scope: Option<String>,
    internal: Option<bool>,
    attachable: Option<bool>,
    ingress: Option<bool>,
    config_only: Option<bool>,
    config_from: Option<ConfigFrom>,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigFrom {
    network: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: Option<String>,
    options: Option<BTreeMap<String, String>>,
    config: Option<Vec<Pool>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Pool {
    #[serde(rename = "Subnet", skip_serializing_if = "Option::is_none")]
    subnet: Option<String>,
    #[serde(rename = "IPRange", skip_serializing_if = "Option::is_none")]
    ip_range: Option<String>,
    #[serde(rename = "Gateway", skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "Option::is_none")]
    auxiliary: Option<BTreeMap<String, String>>,
}

impl CreateBody {
    pub(crate) fn into_request(self) -> ApiResult<engine::NetworkRequest> {
        if self.scope.as_deref().is_some_and(|scope| !matches!(scope, "" | "local")) {
            return Err(ApiError::unsupported("only networks of scope local are supported"));
        }
        let from = self.config_from.and_then(|from| from.network).unwrap_or_default();
        if unset(self.config_only) || !from.is_empty() {
            return Err(ApiError::unsupported("configuration-only networks are not supported by this engine"));
        }
        if unset(self.ingress) {
            return Err(ApiError::unsupported("networks of a swarm are not supported by this engine"));
        }
        let ipam = self.ipam.unwrap_or_default();
        let pool = |pool: Pool| engine::NetworkPool {
            subnet: unset(pool.subnet),
            ip_range: unset(pool.ip_range),
            gateway: unset(pool.gateway),
            auxiliary: unset(pool.auxiliary),
        };
        Ok(engine::NetworkRequest {
            name: unset(self.name),
            driver: unset(self.driver),
            internal: unset(self.internal),
            attachable: unset(self.attachable),
            ipv4: self.enable_ipv4,
            ipv6: self.enable_ipv6,
            ipam_driver: unset(ipam.driver),
            ipam_options: unset(ipam.options),
            pools: unset(ipam.config).into_iter().map(pool).collect(),
            options: unset(self.options),
            labels: unset(self.labels),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ConnectBody {
    container: Option<String>,
    endpoint_config: Option<EndpointSettings>,
}

impl ConnectBody {
    pub(crate) fn into_request(self) -> (String, engine::EndpointSettings) {
        (unset(self.container), self.endpoint_config.unwrap_or_default().into_model())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DisconnectBody {
    container: Option<String>,
    force: Option<bool>,
}

impl DisconnectBody {
    pub(crate) fn into_request(self) -> (String, bool) {
        (unset(self.container), unset(self.force))
    }
}

/// A network as `ls` and `inspect` see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Network {
    name: String,
    id: String,
    created: String,
    scope: &'static str,
    driver: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigFrom,
    config_only: bool,
    containers: BTreeMap<String, Endpoint>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(rename = "MacAddress")]
    mac_address: String,
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
}

impl Network {
    pub(crate) fn from_model(network: engine::NetworkView) -> Self {
        let pool = |pool: engine::NetworkPool| Pool {
            subnet: none_if_empty(pool.subnet),
            ip_range: none_if_empty(pool.ip_range),
            gateway: none_if_empty(pool.gateway),
            auxiliary: none_if_empty(pool.auxiliary),
        };
        let endpoint = |(id, endpoint): (String, engine::EndpointView)| {
            let shown = Endpoint {
                name: endpoint.name,
                endpoint_id: endpoint.endpoint_id,
                mac_address: endpoint.mac_address,
                ipv4_address: endpoint.ipv4_address,
                ipv6_address: endpoint.ipv6_address,
            };
            (id, shown)
        };
        Self {
            name: network.name,
            id: network.id,
            created: time::nano(network.created_at),
            scope: "local",
            driver: network.driver,
            enable_ipv4: network.ipv4,
            enable_ipv6: network.ipv6,
            ipam: Ipam {
                driver: set(network.ipam_driver),
                options: set(network.ipam_options),
                config: set(network.pools.into_iter().map(pool).collect()),
            },
            internal: network.internal,
            attachable: network.attachable,
            ingress: false,
            config_from: ConfigFrom { network: set(String::new()) },
            config_only: false,
            containers: network.containers.into_iter().map(endpoint).collect(),
            options: network.options,
            labels: network.labels,
        }
    }
}
