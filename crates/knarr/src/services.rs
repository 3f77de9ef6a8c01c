//! Services and their names on this node: the range of addresses, the data plane and the name server, started and taken away.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use apiserver::ServiceRange;
use cache::{Driver, Key, Kind, Observer};
use proxy::announce::Announcer;
use proxy::policy::{self, Policies};
use proxy::{Block, Frame, Outlets, Proxy, ground};
use resources::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cluster_services::{ClusterServices, DNS};
use crate::failure::{Failure, chain};

/// What servers without a node give services unless somebody says otherwise: no more, so that it covers nobody's machines.
pub const USUAL: &str = "10.96.0.0/16";
/// The API's own address, by its number in the range.
const API: u32 = 1;
pub const DOMAIN: &str = "cluster.local";

/// What a node's services stand on.
#[derive(Debug, Clone)]
pub struct Services {
    tag: String,
    range: Block,
    /// Where pods ask for names.
    dns: IpAddr,
    /// Services whose addresses this node answers itself.
    own: BTreeSet<Key>,
    /// This machine's.
    node: IpAddr,
}

fn api_service() -> Key {
    Key::new("default", "kubernetes")
}

fn dns_service() -> Key {
    Key::new("kube-system", "kube-dns")
}

impl Services {
    /// `root` remembers the range; `usual`: this is the cloud at the usual place; `asked`: `--service-cidr`.
    pub fn prepare(root: &Path, tag: &str, usual: bool, asked: Option<&str>, node: IpAddr) -> Result<Self, Failure> {
        let wrong = |text: &str, why: &str| Failure::new(format!("knarr up: --service-cidr {text}: {why}"));
        let asked = match asked {
            None => None,
            Some(text) => Some(block(text).map_err(|why| wrong(text, why))?),
        };
        let file = root.join("cluster").join("service-cidr");
        let range = ground::lay(tag, usual, &file, asked, source(node), &[API, DNS])
            .map_err(|error| Failure::new(format!("knarr up: choose the services' addresses: {}", chain(&error))))?;
        let dns = ground::nth(&range, DNS);
        Ok(Self { tag: tag.to_owned(), range, dns, own: BTreeSet::from([api_service(), dns_service()]), node })
    }

    /// The services of a cluster whose API is elsewhere, as it has them; `root` remembers the range.
    pub fn join(root: &Path, tag: &str, cluster: &ClusterServices, node: IpAddr) -> Result<Self, Failure> {
        if cluster.range.contains(node) {
            let why = "the servers' --service-cidr has to be another";
            return Err(Failure::new(format!(
                "knarr agent: this machine's address, {node}, is one of the services' ({}): {why}",
                cluster.range
            )));
        }
        let own: Vec<u32> = cluster.own_number().into_iter().collect();
        let file = root.join("agent").join("service-cidr");
        let range = ground::lay(tag, false, &file, Some(cluster.range), source(node), &own).map_err(|error| {
            Failure::new(format!("knarr agent: lay the ground of the services' addresses: {}", chain(&error)))
        })?;
        let own = if own.is_empty() { BTreeSet::new() } else { BTreeSet::from([dns_service()]) };
        Ok(Self { tag: tag.to_owned(), range, dns: cluster.dns, own, node })
    }

    pub fn range(&self) -> ServiceRange {
        of_api(&self.range)
    }

    /// The API's own address as a service: it listens there, for pods and the host.
    pub fn api(&self) -> SocketAddr {
        (ground::nth(&self.range, API), 443).into()
    }

    pub fn dns(&self) -> IpAddr {
        self.dns
    }

    /// Starts the data plane and the name server over the driver's view. `pods` are the subnets of all nodes' pods. They end with
    /// the view's changes.
    pub async fn start(
        &self,
        driver: &mut Driver,
        node: &str,
        pods: &[String],
    ) -> std::io::Result<(Outlets, Vec<JoinHandle<()>>)> {
        let frame = Frame {
            table: proxy::table_name(&self.tag),
            pods: pods.iter().filter_map(|text| Block::parse(text)).collect(),
            services: vec![self.range],
        };
        let changes = observe(driver, proxy::KINDS);
        let config = proxy::Config { node: node.to_owned(), frame, own: self.own.clone() };
        let proxy = Proxy::new(config, driver.view());
        let outlets = proxy.outlets();
        let mut tasks = vec![tokio::spawn(proxy.run(changes, driver.listed()))];
        let announcer = Announcer::new(controllers::ANNOUNCED_BY, &self.tag, node, self.node, self.range);
        let changes = observe(driver, proxy::announce::KINDS);
        tasks.push(tokio::spawn(announcer.run(driver.view(), changes, driver.listed())));
        if self.own.contains(&dns_service()) {
            let upstream = dns::Upstream::new("/etc/resolv.conf", vec![self.dns]);
            let zone = dns::Zone::new(DOMAIN);
            let names = dns::Server::bind(self.dns, zone, driver.view(), driver.listed(), upstream).await?;
            tasks.push(tokio::spawn(names.run(observe(driver, dns::KINDS))));
        }
        Ok((outlets, tasks))
    }

    /// Starts what enforces network policies, over a view that has all pods.
    pub fn judge(&self, driver: &mut Driver, node: &str) -> JoinHandle<()> {
        let table = proxy::policy_table_name(&self.tag);
        let policies = Policies::new(node, &table, vec![self.dns], driver.view());
        let judged = observe(driver, policy::KINDS);
        tokio::spawn(policies.run(judged, driver.listed()))
    }

    /// Takes away what the instance with this tag has in the kernel.
    pub fn remove(tag: &str) {
        if let Err(error) = proxy::remove(tag) {
            tracing::warn!(error = chain(&error), "cannot take the services' rules and addresses away");
        }
    }
}

/// Until it is told that the cloud runs: takes away what `prepare` has made, since no `down` could. What an earlier process of this
/// instance has left, which pods still use, stays.
pub struct Unfinished {
    tag: Option<String>,
}

impl Unfinished {
    /// To be made before `prepare`.
    pub fn new(tag: &str) -> Self {
        let there = Path::new("/sys/class/net").join(ground::link_name(tag)).exists();
        Self { tag: (!there).then(|| tag.to_owned()) }
    }

    pub fn runs(mut self) {
        self.tag = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(tag) = &self.tag {
            Services::remove(tag);
        }
    }
}

/// What `--service-cidr` says.
fn block(text: &str) -> Result<Block, &'static str> {
    let block = Block::parse(text).ok_or("expected ADDRESS/PREFIX")?;
    match block.is_ipv4() && (8..=28).contains(&block.prefix()) {
        true => Ok(block),
        false => Err("expected an IPv4 subnet of 16 to 16,777,216 addresses"),
    }
}

fn of_api(range: &Block) -> ServiceRange {
    match range.first() {
        IpAddr::V4(base) => ServiceRange { base, prefix: range.prefix() },
        IpAddr::V6(_) => ServiceRange { base: Ipv4Addr::UNSPECIFIED, prefix: 0 },
    }
}

/// The same for a server without a node.
pub fn range(text: &str) -> Result<ServiceRange, &'static str> {
    block(text).map(|block| of_api(&block))
}

/// Where pods of a cluster with this range ask for names.
pub fn name_server(range: ServiceRange) -> IpAddr {
    Ipv4Addr::from(u32::from(range.base) + DNS).into()
}

/// The address that this machine asks services from.
fn source(node: IpAddr) -> Option<IpAddr> {
    Some(node).filter(|node| node.is_ipv4() && !node.is_loopback())
}

fn observe(driver: &mut Driver, kinds: &'static [Kind]) -> mpsc::UnboundedReceiver<(Kind, Arc<Value>)> {
    let (tell, changes) = mpsc::unbounded_channel();
    driver.observe(Observer { kinds, tell });
    changes
}
