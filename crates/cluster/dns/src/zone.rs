//! Questions about the cluster's own names. Pure.
//!
//! | name, below the cluster's domain | records |
//! |---|---|
//! | `SERVICE.NAMESPACE.svc` | its addresses; of a headless one those of its ready endpoints; of an external name that name |
//! | `HOST.SERVICE.NAMESPACE.svc` | one endpoint: by its host name, or its address with dashes |
//! | `_PORT._PROTOCOL.SERVICE.NAMESPACE.svc` | where the port is (SRV) |
//! | `1-2-3-4.NAMESPACE.pod` | that address |
//! | `dns-version` | the specification's version |

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use cache::{Key, Kind, View};
use resources::{Value, meta};
use vocab::dns::{self, Code, Entry, Question, Record, Reply};

use crate::Addresses;

/// Short enough that a headless service's pods are found soon after they come.
pub const TTL_SECS: u32 = 5;
const VERSION: &str = "1.1.0";
/// Where the name server itself is a service.
const OWN: (&str, &str) = ("kube-system", "kube-dns");

/// The cluster's domain.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: String,
}

/// What is known about a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Here(Reply),
    /// The name is another one: its addresses are to be found there.
    Elsewhere(Reply, String),
    /// Nothing of ours.
    Unknown,
}

/// One endpoint of a service.
struct Endpoint {
    name: String,
    addresses: Vec<IpAddr>,
    ports: Vec<(String, String, u16)>,
}

impl Zone {
    /// `cluster.local`
    pub fn new(domain: &str) -> Self {
        Self { domain: domain.trim_matches('.').to_ascii_lowercase() }
    }

    pub fn answer(&self, view: &View, addresses: &Addresses, question: &Question) -> Found {
        if !question.is_internet() {
            return Found::Unknown;
        }
        if question.kind == dns::PTR
            && let Some(address) = dns::reversed(&question.name)
        {
            return self.reverse(view, addresses, address);
        }
        let below = match question.name.strip_suffix(&self.domain) {
            Some("") => "",
            Some(rest) => match rest.strip_suffix('.') {
                Some(below) => below,
                None => return Found::Unknown,
            },
            None => return Found::Unknown,
        };
        let labels: Vec<&str> = below.split('.').filter(|label| !label.is_empty()).rev().collect();
        match labels.as_slice() {
            [] => self.records(question, vec![Record::Server(self.own_name()), self.start()]),
            ["dns-version"] => self.records(question, vec![Record::Text(VERSION.into())]),
            ["svc"] | ["pod"] => self.records(question, Vec::new()),
            ["svc" | "pod", namespace] => match view.get(Kind::Namespace, "", namespace) {
                Some(_) => self.records(question, Vec::new()),
                None => self.none(),
            },
            ["pod", namespace, dashed] => match undashed(dashed) {
                Some(address) if view.get(Kind::Namespace, "", namespace).is_some() => {
                    self.records(question, vec![Record::Address(address)])
                }
                _ => self.none(),
            },
            ["svc", namespace, service] => self.service(view, question, namespace, service),
            ["svc", namespace, service, host] => {
                let endpoints = endpoints(view, &Key::new(*namespace, *service));
                let found = endpoints.into_iter().filter(|endpoint| endpoint.name == *host);
                let found: Vec<Endpoint> = found.collect();
                match found.is_empty() {
                    true => self.none(),
                    false => self.addresses_of(question, &found),
                }
            }
            ["svc", namespace, service, protocol, port] if port.starts_with('_') && protocol.starts_with('_') => {
                self.ports(view, question, &Key::new(*namespace, *service), Some((&port[1..], &protocol[1..])))
            }
            _ => self.none(),
        }
    }

    fn own_name(&self) -> String {
        format!("{}.{}.svc.{}", OWN.1, OWN.0, self.domain)
    }

    fn start(&self) -> Record {
        Record::Zone {
            server: format!("ns.dns.{}", self.domain),
            mailbox: format!("hostmaster.{}", self.domain),
            serial: 1,
            negative_secs: TTL_SECS,
        }
    }

    fn reply(&self, code: Code, answers: Vec<Entry>) -> Reply {
        let authority = match answers.is_empty() {
            // For how long it holds that there is nothing.
            true => vec![Entry { name: Some(self.domain.clone()), ttl_secs: TTL_SECS, record: self.start() }],
            false => Vec::new(),
        };
        Reply { code, authoritative: true, answers, authority, additional: Vec::new() }
    }

    /// There is no such name.
    fn none(&self) -> Found {
        Found::Here(self.reply(Code::NoSuchName, Vec::new()))
    }

    /// The name is there, with these records; those of another kind than asked for are left out.
    fn records(&self, question: &Question, records: Vec<Record>) -> Found {
        let wanted = |record: &Record| question.kind == dns::ANY || record.kind() == question.kind;
        let entries = records.into_iter().filter(wanted).map(|record| entry(None, record)).collect();
        Found::Here(self.reply(Code::Fine, entries))
    }

    fn addresses_of(&self, question: &Question, endpoints: &[Endpoint]) -> Found {
        let all: BTreeSet<IpAddr> = endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
        self.records(question, all.into_iter().map(Record::Address).collect())
    }

    fn service(&self, view: &View, question: &Question, namespace: &str, name: &str) -> Found {
        let key = Key::new(namespace, name);
        let Some(service) = view.at(Kind::Service, &key) else { return self.none() };
        if service["spec"]["type"] == "ExternalName" {
            let target = meta::str_at(service, &["spec", "externalName"]).trim_end_matches('.').to_ascii_lowercase();
            let reply = self.reply(Code::Fine, vec![entry(None, Record::Canonical(target.clone()))]);
            let follows = matches!(question.kind, dns::A | dns::AAAA);
            return if follows { Found::Elsewhere(reply, target) } else { Found::Here(reply) };
        }
        if question.kind == dns::SRV {
            return self.ports(view, question, &key, None);
        }
        let own = cluster_ips(service);
        if !own.is_empty() {
            return self.records(question, own.into_iter().map(Record::Address).collect());
        }
        let endpoints = endpoints(view, &key);
        match endpoints.is_empty() {
            true => self.none(),
            false => self.addresses_of(question, &endpoints),
        }
    }

    /// Where a service's ports are: all of them, or one by name and protocol.
    fn ports(&self, view: &View, question: &Question, key: &Key, wanted: Option<(&str, &str)>) -> Found {
        let Some(service) = view.at(Kind::Service, key) else { return self.none() };
        let name = format!("{}.{}.svc.{}", key.name, key.namespace, self.domain);
        let meant = |port: &str, protocol: &str| {
            wanted.is_none_or(|(name, over)| port == name && protocol.eq_ignore_ascii_case(over))
        };
        let mut targets: Vec<(String, u16, Vec<IpAddr>)> = Vec::new();
        let own = cluster_ips(service);
        if own.is_empty() {
            for endpoint in endpoints(view, key) {
                for (_, _, port) in endpoint.ports.iter().filter(|(port, protocol, _)| meant(port, protocol)) {
                    targets.push((format!("{}.{name}", endpoint.name), *port, endpoint.addresses.clone()));
                }
            }
        } else {
            for port in meta::list_at(service, &["spec", "ports"]) {
                let protocol = port["protocol"].as_str().unwrap_or("TCP");
                let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok()).unwrap_or(0);
                if meant(port["name"].as_str().unwrap_or_default(), protocol) {
                    targets.push((name.clone(), number, own.clone()));
                }
            }
        }
        if targets.is_empty() {
            return self.none();
        }
        if !matches!(question.kind, dns::SRV | dns::ANY) {
            return Found::Here(self.reply(Code::Fine, Vec::new()));
        }
        let weight = (100 / targets.len()).max(1) as u16;
        let answers = targets.iter().map(|(target, port, _)| {
            entry(None, Record::Service { priority: 0, weight, port: *port, target: target.clone() })
        });
        let mut reply = self.reply(Code::Fine, answers.collect());
        let beside: BTreeSet<(String, IpAddr)> = targets
            .into_iter()
            .flat_map(|(target, _, addresses)| addresses.into_iter().map(move |address| (target.clone(), address)))
            .collect();
        reply.additional =
            beside.into_iter().map(|(target, address)| entry(Some(target), Record::Address(address))).collect();
        Found::Here(reply)
    }

    fn reverse(&self, view: &View, addresses: &Addresses, address: IpAddr) -> Found {
        let mut names = BTreeSet::new();
        for key in addresses.services(address) {
            let Some(service) = view.at(Kind::Service, key) else { continue };
            let base = format!("{}.{}.svc.{}", key.name, key.namespace, self.domain);
            if cluster_ips(service).contains(&address) {
                names.insert(base);
                continue;
            }
            for endpoint in endpoints(view, key).iter().filter(|endpoint| endpoint.addresses.contains(&address)) {
                names.insert(format!("{}.{base}", endpoint.name));
            }
        }
        if names.is_empty() {
            return Found::Unknown;
        }
        let entries = names.into_iter().map(|name| entry(None, Record::Name(name))).collect();
        Found::Here(self.reply(Code::Fine, entries))
    }
}

fn entry(name: Option<String>, record: Record) -> Entry {
    Entry { name, ttl_secs: TTL_SECS, record }
}

/// A service's own addresses; none of a headless one.
pub fn cluster_ips(service: &Value) -> Vec<IpAddr> {
    let listed = meta::list_at(service, &["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    let mut all: Vec<IpAddr> =
        listed.chain([meta::str_at(service, &["spec", "clusterIP"])]).filter_map(|ip| ip.parse().ok()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Endpoints that are ready, or that are to be told before they are.
fn endpoints(view: &View, key: &Key) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for slice in view.slices_of(key).filter(|slice| slice["addressType"] != "FQDN") {
        let ports: Vec<(String, String, u16)> = meta::list_at(slice, &["ports"])
            .iter()
            .filter_map(|port| {
                let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok())?;
                let text = |field: &str, none: &str| port[field].as_str().unwrap_or(none).to_owned();
                Some((text("name", ""), text("protocol", "TCP"), number))
            })
            .collect();
        for endpoint in meta::list_at(slice, &["endpoints"]) {
            if endpoint["conditions"]["ready"] == false {
                continue;
            }
            let listed = meta::list_at(endpoint, &["addresses"]).iter();
            let addresses: Vec<IpAddr> = listed.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
            let Some(first) = addresses.first() else { continue };
            let name = match endpoint["hostname"].as_str().filter(|name| !name.is_empty()) {
                Some(hostname) => hostname.to_ascii_lowercase(),
                None => dashed(*first),
            };
            found.push(Endpoint { name, addresses, ports: ports.clone() });
        }
    }
    found
}

/// An address as a label.
pub fn dashed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string().replace('.', "-"),
        IpAddr::V6(address) => address.to_string().replace(':', "-"),
    }
}

fn undashed(label: &str) -> Option<IpAddr> {
    let dots = label.replace('-', ".");
    dots.parse::<std::net::Ipv4Addr>().map(IpAddr::from).ok().or_else(|| {
        let colons = label.replace('-', ":");
        colons.parse::<Ipv6Addr>().map(IpAddr::from).ok()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster() -> (View, Addresses) {
        let mut view = View::default();
        let mut addresses = Addresses::default();
        let meta = |namespace: &str, name: &str| json!({"name": name, "namespace": namespace, "uid": name, "resourceVersion": "1"});
        for name in ["d", "kube-system"] {
            view.put(Kind::Namespace, json!({"metadata": {"name": name, "resourceVersion": "1"}}));
        }
        let services = [
            json!({"metadata": meta("d", "web"), "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}),
            json!({"metadata": meta("d", "db"), "spec": {"clusterIP": "None", "clusterIPs": ["None"],
                "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}}),
            json!({"metadata": meta("d", "idle"), "spec": {"clusterIP": "None"}}),
            json!({"metadata": meta("d", "out"), "spec": {"type": "ExternalName", "externalName": "Example.com."}}),
        ];
        for service in services {
            addresses.service(&view, &Key::of(&service), Some(&service));
            view.put(Kind::Service, service);
        }
        let mut slice = json!({"metadata": meta("d", "db-1"), "addressType": "IPv4",
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}], "endpoints": [
                {"addresses": ["10.1.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.1.0.3"], "conditions": {"ready": true}},
                {"addresses": ["10.1.0.4"], "hostname": "db-2", "conditions": {"ready": false}}]});
        slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "db"});
        view.put(Kind::EndpointSlice, slice);
        let key = Key::new("d", "db");
        let service = view.at(Kind::Service, &key).unwrap().clone();
        addresses.service(&view, &key, Some(&service));
        (view, addresses)
    }

    /// The answer in short: code, then each record.
    fn ask(name: &str, kind: u16) -> String {
        let (view, addresses) = cluster();
        let question = Question::parse(&dns::query(1, name, kind)).unwrap();
        let shown = |reply: &Reply| {
            let records = reply.answers.iter().map(|entry| match &entry.record {
                Record::Address(address) => address.to_string(),
                Record::Name(name) | Record::Canonical(name) | Record::Server(name) | Record::Text(name) => {
                    name.clone()
                }
                Record::Service { priority, weight, port, target } => format!("{priority} {weight} {port} {target}"),
                Record::Zone { server, .. } => server.clone(),
            });
            let records: Vec<String> = records.collect();
            let code = match (reply.code, records.is_empty()) {
                (Code::Fine, false) => "",
                (Code::Fine, true) => "NODATA",
                (Code::NoSuchName, _) => "NXDOMAIN",
                other => panic!("{other:?}"),
            };
            assert_eq!(reply.authority.len(), usize::from(!code.is_empty()), "how long nothing holds");
            format!("{code}{}", records.join(", "))
        };
        match Zone::new("cluster.local").answer(&view, &addresses, &question) {
            Found::Here(reply) => shown(&reply),
            Found::Elsewhere(reply, target) => format!("{} -> {target}", shown(&reply)),
            Found::Unknown => "elsewhere".into(),
        }
    }

    #[test]
    fn names_have_the_records_that_the_specification_gives_them() {
        use dns::{A, AAAA, ANY, CNAME, NS, PTR, SOA, SRV, TXT};
        let rows: &[(&str, u16, &str)] = &[
            ("dns-version.cluster.local", TXT, "1.1.0"),
            ("dns-version.cluster.local", A, "NODATA"),
            ("web.d.svc.cluster.local", A, "10.96.0.7"),
            ("WEB.D.svc.Cluster.Local", A, "10.96.0.7"),
            ("web.d.svc.cluster.local", AAAA, "NODATA"),
            ("web.d.svc.cluster.local", TXT, "NODATA"),
            ("nobody.d.svc.cluster.local", A, "NXDOMAIN"),
            ("web.other.svc.cluster.local", A, "NXDOMAIN"),
            ("d.svc.cluster.local", A, "NODATA"),
            ("other.svc.cluster.local", A, "NXDOMAIN"),
            ("svc.cluster.local", A, "NODATA"),
            ("cluster.local", SOA, "ns.dns.cluster.local"),
            ("cluster.local", NS, "kube-dns.kube-system.svc.cluster.local"),
            ("cluster.local", A, "NODATA"),
            ("bogus.cluster.local", A, "NXDOMAIN"),
            ("_http._tcp.web.d.svc.cluster.local", SRV, "0 100 80 web.d.svc.cluster.local"),
            ("_http._udp.web.d.svc.cluster.local", SRV, "NXDOMAIN"),
            ("_http._tcp.web.d.svc.cluster.local", A, "NODATA"),
            ("web.d.svc.cluster.local", SRV, "0 50 80 web.d.svc.cluster.local, 0 50 53 web.d.svc.cluster.local"),
            ("7.0.96.10.in-addr.arpa", PTR, "web.d.svc.cluster.local"),
            ("db.d.svc.cluster.local", A, "10.1.0.2, 10.1.0.3"),
            ("db.d.svc.cluster.local", AAAA, "NODATA"),
            ("db-0.db.d.svc.cluster.local", A, "10.1.0.2"),
            ("10-1-0-3.db.d.svc.cluster.local", A, "10.1.0.3"),
            ("db-2.db.d.svc.cluster.local", A, "NXDOMAIN"),
            (
                "_sql._tcp.db.d.svc.cluster.local",
                SRV,
                "0 50 5432 db-0.db.d.svc.cluster.local, 0 50 5432 10-1-0-3.db.d.svc.cluster.local",
            ),
            ("2.0.1.10.in-addr.arpa", PTR, "db-0.db.d.svc.cluster.local"),
            ("9.9.9.10.in-addr.arpa", PTR, "elsewhere"),
            ("idle.d.svc.cluster.local", A, "NXDOMAIN"),
            ("out.d.svc.cluster.local", A, "example.com -> example.com"),
            ("out.d.svc.cluster.local", CNAME, "example.com"),
            ("10-1-0-2.d.pod.cluster.local", A, "10.1.0.2"),
            ("fd00--2.d.pod.cluster.local", AAAA, "fd00::2"),
            ("10-1-0-2.d.pod.cluster.local", AAAA, "NODATA"),
            ("10-1-0-2.other.pod.cluster.local", A, "NXDOMAIN"),
            ("10-1-0.d.pod.cluster.local", A, "NXDOMAIN"),
            ("web.d.svc.cluster.local", ANY, "10.96.0.7"),
            // What a search domain makes of a name of the world.
            ("example.com.d.svc.cluster.local", A, "NXDOMAIN"),
            ("example.com.cluster.local", A, "NXDOMAIN"),
            ("example.com", A, "elsewhere"),
            ("notcluster.local", A, "elsewhere"),
        ];
        let wrong: Vec<String> = rows
            .iter()
            .filter(|(name, kind, wanted)| ask(name, *kind) != *wanted)
            .map(|(name, kind, wanted)| format!("{name} {kind}: {} and not {wanted}", ask(name, *kind)))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn a_port_comes_with_the_addresses_that_are_asked_for_next() {
        let (view, addresses) = cluster();
        let question = Question::parse(&dns::query(1, "_sql._tcp.db.d.svc.cluster.local", dns::SRV)).unwrap();
        let Found::Here(reply) = Zone::new("cluster.local").answer(&view, &addresses, &question) else { panic!() };
        assert_eq!(reply.additional.len(), 2);
    }
}
