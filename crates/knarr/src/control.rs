//! The parts of a cluster that a server runs besides the API: controllers and scheduler, over one view.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use apiserver::{Server, User};
use cache::{Driver, Election, Kind, Member};
use client::{Client, Status, UsageTable};
use controllers::{Cidr, LoadBalancers, PoolRange};

use crate::flags::{Flag, text};
use crate::nodes::token::{self, Token};

/// What runs controllers and scheduler, as often as it has to begin anew.
pub struct Control {
    manager: Client,
    scheduler: Client,
    /// What nodes get the subnets of their pods from.
    cluster: Vec<Cidr>,
    usage: UsageTable,
    balancing: Balancing,
    scheduling: scheduler::Config,
}

pub const LOAD_BALANCER_POOL: Flag = text(
    "load-balancer-pool",
    "What services of type LoadBalancer get: ADDRESS/PREFIX, FIRST-LAST, several by commas; none leaves them to others (default: the \
     nodes' own addresses)",
);

pub const SIGNING_DURATION: Flag = text(
    "cluster-signing-duration",
    "Most that certificates which nodes and others ask for are good for (default: 8760h)",
);

/// What `--cluster-signing-duration` says.
pub fn signing_lifetime(text: Option<&str>) -> Result<Duration, String> {
    let Some(text) = text else { return Ok(apiserver::Config::default().signing_lifetime) };
    let time = vocab::duration::parse(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| format!("--cluster-signing-duration {text}: expected a duration as 24h"))
}

/// Who gives services of type LoadBalancer their addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balancing {
    /// Somebody else.
    Left,
    /// They have the nodes' own.
    Nodes,
    Pool(Vec<PoolRange>),
}

impl Balancing {
    /// What `--load-balancer-pool` says.
    pub fn parse(text: Option<&str>) -> Result<Self, String> {
        let ranges = match text {
            None | Some("") => return Ok(Self::Nodes),
            Some("none") => return Ok(Self::Left),
            Some(text) => text.split(',').map(PoolRange::parse).collect::<Result<Vec<_>, _>>(),
        };
        let ranges = ranges.map_err(|error| format!("--load-balancer-pool: {error}"))?;
        match ranges.iter().find(|range| range.first.is_ipv6()) {
            Some(range) => Err(format!("--load-balancer-pool: {}: services have IPv4 addresses only", range.first)),
            None => Ok(Self::Pool(ranges)),
        }
    }

    fn part(&self) -> Option<LoadBalancers> {
        match self {
            Self::Left => None,
            Self::Nodes => Some(LoadBalancers::default()),
            Self::Pool(ranges) => Some(LoadBalancers::new(ranges.clone())),
        }
    }
}

/// Of several servers the one that holds this lease runs the parts.
const LEASE: &str = "kube-controller-manager";

impl Control {
    pub fn new(server: &Server, cluster: Vec<Cidr>, balancing: Balancing, scheduling: scheduler::Config) -> Self {
        let local = |user: &str, agent: &str| server.local(User::component(user), agent);
        let manager = local("system:kube-controller-manager", "kube-controller-manager");
        let scheduler = local("system:kube-scheduler", "kube-scheduler");
        Self { manager, scheduler, cluster, usage: server.usage(), balancing, scheduling }
    }

    /// A driver with every controller and the scheduler; more observers and parts may be added.
    pub fn driver(&self) -> Driver {
        let mut driver = driver(&self.manager, self.cluster.clone(), self.usage.clone());
        let scheduler = scheduler::Scheduler::new(self.scheduling.clone());
        driver.add(Member::new(Box::new(scheduler), self.scheduler.clone()));
        if let Some(part) = self.balancing.part() {
            driver.add(Member::new(Box::new(part), self.manager.clone()));
        }
        driver
    }

    /// Makes what a cluster has from its first start on, besides the API's own. `dns` is where pods ask for names.
    pub async fn begin(&self, dns: IpAddr) -> Result<(), String> {
        let announced = crate::cluster_services::announce(&self.manager, dns).await;
        announced.map_err(|status| format!("make the name server's service: {}", status.message))?;
        let shown = crate::plain::begin(&self.manager).await;
        shown.map_err(|status| format!("make the namespace of plain containers: {}", status.message))?;
        let class = controllers::storage_class();
        match self.manager.create(&Kind::StorageClass.gvr(), "", &class).await {
            Err(status) if status.reason != "AlreadyExists" => {
                Err(format!("make the default storage class: {}", status.message))
            }
            _ => Ok(()),
        }
    }

    /// Runs while this server leads, as `me` among the others; ends with the server.
    pub async fn lead(self, me: String) {
        let mut election = Election::new(self.manager.clone(), LEASE, &me);
        loop {
            election.won().await;
            tokio::select! {
                () = self.driver().lean().run() => return,
                () = election.lost() => {}
            }
        }
    }
}

/// A name among candidates that no earlier process of this machine had.
pub fn candidate() -> String {
    format!("{}_{:016x}", crate::cloud::host_name(), crate::cloud::seed())
}

/// Lets another server lead at once.
pub async fn resign(server: &Server, me: &str) {
    let manager = server.local(User::component("system:kube-controller-manager"), "kube-controller-manager");
    Election::new(manager, LEASE, me).resign().await;
}

fn driver(manager: &Client, cluster: Vec<Cidr>, usage: UsageTable) -> Driver {
    let manager = manager.clone();
    let mut driver = Driver::new(manager.clone());
    for part in controllers::all(crate::cloud::seed()) {
        driver.add(Member::new(part, manager.clone()));
    }
    driver.add(Member::new(Box::new(controllers::NodeIpam::new(cluster)), manager.clone()));
    let readings = move |namespace: &str, name: &str| {
        let read = usage.pod(namespace, name)?;
        let amounts = |(container, used): (&String, &client::Amounts)| {
            let limited = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
            (container.clone(), (limited(used.cpu_nanos.div_ceil(1_000_000)), limited(used.memory_bytes)))
        };
        let containers = read.containers.iter().map(amounts).collect();
        Some(controllers::Reading { at: read.at, window: read.window, containers })
    };
    driver.add(Member::new(Box::new(controllers::Autoscalers::new(Box::new(readings))), manager));
    driver
}

/// The token that is in the server's files from its first start on and never expires, unless it is removed.
pub async fn own_token(server: &Server, root: &Path) -> Result<(), String> {
    let path = root.join("token");
    if path.exists() {
        return Ok(());
    }
    let token = Token::random(server.authority_pem());
    let admin = server.local(User::admin(), "knarr");
    let made = token::create(&admin, &token, None, "made with the server").await;
    made.map_err(|status: Status| format!("make a token for agents: {}", status.message))?;
    // Written last: a file without its secret would be a token that nobody believes.
    kubelet::write_secret(&path, format!("{}\n", token.show()).as_bytes())
        .map_err(|error| crate::failure::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_addresses_nodes_or_nobodys() {
        assert_eq!(Balancing::parse(None), Ok(Balancing::Nodes));
        assert_eq!(Balancing::parse(Some("none")), Ok(Balancing::Left));
        let Ok(Balancing::Pool(ranges)) = Balancing::parse(Some("192.0.2.0/28,192.0.2.32-192.0.2.40")) else {
            panic!()
        };
        assert_eq!(ranges.len(), 2);
        let why = Balancing::parse(Some("192.0.2.9-192.0.2.1")).unwrap_err();
        assert!(why.starts_with("--load-balancer-pool: \"192.0.2.9-192.0.2.1\" is no range of addresses"), "{why}");
        assert!(Balancing::parse(Some("2001:db8::/64")).unwrap_err().ends_with("services have IPv4 addresses only"));
    }
}
