//! Follows the cluster: what changes in the API changes in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cache::{Key, Kind, View};
use linux::netlink::Socket;
use linux::netlink::nft::Protocol;
use linux::netlink::watch::RulesetWatch;
use resources::{Value, meta};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::apply::Applied;
use crate::health::HealthPorts;
use crate::model::Service;
use crate::read::Here;
use crate::rules::{Moved, Rules};
use crate::{Frame, Outlets, read};

/// What it has to hear of.
pub const KINDS: &[Kind] = &[Kind::Service, Kind::EndpointSlice, Kind::Node];
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";
const UDP: u8 = 17;
/// After the kernel refused something.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct Config {
    /// This node's name.
    pub node: String,
    pub frame: Frame,
    /// Services whose addresses this node answers itself.
    pub own: BTreeSet<Key>,
}

/// The data plane of one node.
pub struct Proxy {
    config: Config,
    view: Arc<RwLock<View>>,
    /// Where this node is, as it was last heard of.
    zone: String,
    rules: Rules,
    applied: Applied,
    /// The service that each slice was last seen to be of.
    of: BTreeMap<Key, Key>,
    dirty: BTreeSet<Key>,
    /// The newest revision of slices that was heard of.
    heard: u64,
    outlets: Outlets,
    health: HealthPorts,
    /// The pods that each service leads to, as the kernel has it.
    leads: BTreeMap<Key, Leads>,
}

/// Hears of what others do to nftables.
pub struct Guard {
    watch: RulesetWatch,
    news: AsyncFd<OwnedFd>,
}

impl Guard {
    pub fn new() -> std::io::Result<Self> {
        let watch = RulesetWatch::new().map_err(std::io::Error::other)?;
        let fd = watch.as_fd().try_clone_to_owned()?;
        // Deprecated because a type could change its descriptor while it is registered; an OwnedFd cannot.
        #[allow(deprecated)]
        let news = AsyncFd::with_interest(fd, tokio::io::Interest::READABLE)?;
        Ok(Self { watch, news })
    }

    /// Waits for news; whether somebody took something out of the table.
    pub async fn lost(guard: &mut Option<Self>, applied: &mut Applied) -> bool {
        let Some(guard) = guard else { return std::future::pending().await };
        match guard.news.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => return std::future::pending().await,
        }
        applied.is_lost(&mut guard.watch).unwrap_or(true)
    }
}

impl Proxy {
    pub fn new(config: Config, view: Arc<RwLock<View>>) -> Self {
        Self {
            rules: Rules::new(config.frame.clone()),
            applied: Applied::new(&config.frame.table),
            config,
            view,
            zone: String::new(),
            of: BTreeMap::new(),
            dirty: BTreeSet::new(),
            heard: 0,
            outlets: Outlets::default(),
            health: HealthPorts::default(),
            leads: BTreeMap::new(),
        }
    }

    pub fn outlets(&self) -> Outlets {
        self.outlets.clone()
    }

    /// Runs until `changes` ends. Nothing is applied before `listed`: half of the services would cut off the others.
    pub async fn run(
        mut self,
        mut changes: mpsc::UnboundedReceiver<(Kind, Arc<Value>)>,
        mut listed: watch::Receiver<bool>,
    ) {
        let mut guard = Guard::new()
            .inspect_err(|error| tracing::warn!(%error, "services are not put back when somebody flushes them"))
            .ok();
        let mut whole = false;
        loop {
            let ready = *listed.borrow();
            tokio::select! {
                change = changes.recv() => {
                    let mut next = change;
                    if next.is_none() {
                        return;
                    }
                    while let Some((kind, object)) = next {
                        self.note(kind, &object);
                        next = changes.try_recv().ok();
                    }
                }
                changed = listed.changed(), if !ready => {
                    if changed.is_err() {
                        return;
                    }
                }
                lost = Guard::lost(&mut guard, &mut self.applied) => {
                    if lost {
                        tracing::warn!(table = self.rules.name(), "somebody removed rules of services; putting them back");
                        whole = false;
                    } else {
                        continue;
                    }
                }
                () = tokio::time::sleep(RETRY), if ready && !whole => {}
            }
            if *listed.borrow() {
                whole = tokio::task::block_in_place(|| self.apply(!whole));
            }
        }
    }

    fn note(&mut self, kind: Kind, object: &Arc<Value>) {
        let key = Key::of(object);
        if kind == Kind::Service {
            self.dirty.insert(key);
            return;
        }
        if kind == Kind::Node {
            return self.moved(&key.name);
        }
        self.heard = self.heard.max(meta::resource_version(object).parse().unwrap_or(0));
        let service = meta::at(object, &["metadata", "labels", SERVICE_NAME]).and_then(Value::as_str);
        let service = service.map(|service| Key::new(&key.namespace, service));
        // A slice that somebody gave to another service concerns the one that had it.
        let there = self.view.read().unwrap_or_else(PoisonError::into_inner).at(kind, &key).is_some();
        let before = match &service {
            Some(service) if there => self.of.insert(key, service.clone()),
            _ => self.of.remove(&key),
        };
        self.dirty.extend(before.into_iter().chain(service));
    }

    /// A node changed. Where this one is decides who is near.
    fn moved(&mut self, name: &str) {
        if name != self.config.node {
            return;
        }
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let zone = view.get(Kind::Node, "", name).and_then(|node| meta::at(node, &["metadata", "labels", ZONE]));
        let zone = zone.and_then(Value::as_str).unwrap_or_default();
        if zone != self.zone {
            self.zone = zone.to_owned();
            self.dirty.extend(view.keys(Kind::Service).cloned());
        }
    }

    fn service(&self, key: &Key) -> Option<Service> {
        if self.config.own.contains(key) {
            return None;
        }
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let slices = view.slices_of(key).map(|slice| &**slice);
        read::service(view.at(Kind::Service, key)?, slices, Here { node: &self.config.node, zone: &self.zone })
    }

    /// Brings the kernel up to what is known. False: it has to be tried again, whole.
    fn apply(&mut self, anew: bool) -> bool {
        let mut change = self.rules.change();
        let mut moved = Moved::new();
        let mut leads = Vec::new();
        let mut dirty = std::mem::take(&mut self.dirty);
        // What one service lets go of may fall to another.
        for _ in 0..2 {
            let mut again = BTreeSet::new();
            for key in dirty {
                let service = self.service(&key);
                let local = service.as_ref().map_or(0, Service::local_endpoints);
                self.health.set(&key, service.as_ref().and_then(|service| service.health_port), local);
                again.extend(self.rules.set(&key, service.as_ref(), &mut change, &mut moved));
                leads.push((key, service.map(|service| Leads::of(&service)).unwrap_or_default()));
            }
            dirty = again;
        }
        if anew {
            moved = self.rules.all_datagrams();
        }
        let rules = &self.rules;
        let done = match anew {
            true => self.applied.replace(&rules.table()),
            false => self.applied.change(&change, || rules.table()),
        };
        if let Err(error) = done {
            tracing::error!(%error, "cannot apply the rules of services; trying again");
            self.dirty.extend(leads.into_iter().map(|(key, _)| key));
            return false;
        }
        if !moved.is_empty() {
            let stale = |flow: &linux::netlink::conntrack::Flow| flow.protocol == UDP && rules.is_stale(&moved, flow);
            if let Err(error) = Socket::netfilter().and_then(|mut socket| socket.forget_flows(stale)) {
                tracing::warn!(%error, "cannot forget connections of datagrams to endpoints that are gone");
            }
        }
        let mut gone = BTreeSet::<IpAddr>::new();
        for (key, after) in leads {
            let before = self.leads.remove(&key).unwrap_or_default();
            self.outlets.exchange(&before.pods, &after.pods);
            gone.extend(before.streams.difference(&after.streams).copied());
            if after != Leads::default() {
                self.leads.insert(key, after);
            }
        }
        self.outlets.reach(self.heard);
        if !gone.is_empty() {
            // Who still waits there for a first answer is led elsewhere when it asks again, and so is the next one at its port.
            let asking = |flow: &linux::netlink::conntrack::Flow| {
                flow.is_asking && gone.contains(&flow.answers_from) && flow.destination.0 != flow.answers_from
            };
            if let Err(error) = Socket::netfilter().and_then(|mut socket| socket.forget_flows(asking)) {
                tracing::warn!(%error, "cannot forget who asks endpoints that are gone");
            }
        }
        true
    }
}

/// Where new connections of a service may be led to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Leads {
    /// One that ends and is the last resort has been left already.
    pods: Vec<String>,
    /// Addresses of endpoints of streams.
    streams: BTreeSet<IpAddr>,
}

impl Leads {
    fn of(service: &Service) -> Self {
        let all = service.ports.iter().flat_map(|port| &port.backends);
        let leading = all.filter(|backend| backend.ready && !backend.terminating && !backend.pod.is_empty());
        let mut pods: Vec<String> = leading.map(|backend| backend.pod.clone()).collect();
        pods.sort();
        pods.dedup();
        let streams = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        let usable = streams.flat_map(|port| [true, false].map(|ipv4| port.usable(ipv4, false))).flatten();
        Self { pods, streams: usable.map(|(address, _)| address).collect() }
    }
}
