//! The resolver that containers of user networks find at 127.0.0.11: names of containers from memory, everything else from the
//! name servers that the container would have asked itself. On internal networks nothing is asked outside (NW-04).
//!
//! Its sockets are made in the container's network namespace and served from here: no process, no thread for a container. The
//! keeper holds them too: while no engine is there, `away` answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use linux::netlink::Socket;
use linux::ns::{self, Namespaces};
use nameserver::{Answers, Transport};
use network::dns::{self, Code, Question, Record};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;

use super::Running;
use crate::core::Inner;
use crate::core::records::ContainerRecord;
use crate::{ContainerId, Error, Result};

/// Questions of one container that are asked outside at the same time; more are refused (DN-01).
const ASKED_MAX: usize = 256;
/// Open TCP connections of one container.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// UDP, TCP.
pub(super) type Sockets = (OwnedFd, OwnedFd);

/// The resolver of one container: it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Handle {
    task: tokio::task::AbortHandle,
    /// For the keeper, until it has them.
    unkept: Mutex<Option<Sockets>>,
}

impl Handle {
    pub(super) fn take_unkept(&self) -> Option<Sockets> {
        self.unkept.lock().unwrap_or_else(|e| e.into_inner()).take()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Who is on the networks.
pub(super) trait View: Send + Sync + 'static {
    /// What is known of the name or address that a container asks for, and whether others may be asked about it. `None`: nobody
    /// is there any more who knows.
    fn look_up(&self, id: ContainerId, question: &Question) -> Option<(Option<Vec<Record>>, bool)>;
}

impl View for Weak<Inner> {
    fn look_up(&self, id: ContainerId, question: &Question) -> Option<(Option<Vec<Record>>, bool)> {
        let inner = self.upgrade()?;
        let state = inner.networks.state();
        let named = |name: &str| inner.find(name).ok().map(|container| container.id);
        Some((lookup(&state.running, &named, id, question), goes_out(&state.running, id)))
    }
}

pub(super) struct Resolver<V> {
    view: V,
    id: ContainerId,
    servers: Vec<SocketAddr>,
    asked: Semaphore,
}

impl<V: View> Resolver<V> {
    pub(super) fn new(view: V, id: ContainerId, servers: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(Self { view, id, servers, asked: Semaphore::new(ASKED_MAX) })
    }
}

/// Must be called within the runtime.
pub(super) fn listen((udp, tcp): Sockets) -> std::io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::from_std(udp.into())?, TcpListener::from_std(tcp.into())?))
}

/// Starts it in the namespace. Must be called within the runtime.
pub(super) fn start(inner: &Arc<Inner>, id: ContainerId, record: &ContainerRecord, netns: &OwnedFd) -> Result<Handle> {
    let (udp, tcp) = sockets(netns)?;
    let failed = |e: std::io::Error| Error::internal("start a container's resolver", e);
    let copies = (udp.try_clone().map_err(failed)?, tcp.try_clone().map_err(failed)?);
    let handle = serve(inner, id, record, (udp.into(), tcp.into()))?;
    *handle.unkept.lock().unwrap_or_else(|e| e.into_inner()) = Some((copies.0.into(), copies.1.into()));
    Ok(handle)
}

/// Goes on with the sockets that the keeper has. Must be called within the runtime.
pub(super) fn serve(inner: &Arc<Inner>, id: ContainerId, record: &ContainerRecord, sockets: Sockets) -> Result<Handle> {
    let runtime = tokio::runtime::Handle::current();
    let _entered = runtime.enter();
    let (udp, tcp) = listen(sockets).map_err(|e| Error::internal("start a container's resolver", e))?;
    let resolver = Resolver::new(Arc::downgrade(inner), id, servers(record));
    let task = runtime.spawn(nameserver::serve(resolver, udp, tcp, CONNECTIONS_MAX));
    Ok(Handle { task: task.abort_handle(), unkept: Mutex::default() })
}

/// The name servers that the container would ask by itself.
pub(super) fn servers(record: &ContainerRecord) -> Vec<SocketAddr> {
    let named = record.host.dns.clone();
    let texts =
        if named.is_empty() { crate::spec::host_servers(&super::super::start::host_resolv_conf()) } else { named };
    let addresses = texts.iter().filter_map(|text| text.parse::<IpAddr>().ok());
    addresses
        .filter(|address| *address != IpAddr::V4(dns::ADDRESS))
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// Sockets at 127.0.0.11 of the namespace, on ports of the kernel's choice, and the rules that bring port 53 there.
fn sockets(netns: &OwnedFd) -> Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let netns = netns.as_fd();
    let make = || -> Result<_> {
        ns::setns(netns, Namespaces::NET)?;
        let failed = |e: std::io::Error| Error::internal("make a container's resolver", e);
        let udp = std::net::UdpSocket::bind((dns::ADDRESS, 0)).map_err(failed)?;
        let tcp = std::net::TcpListener::bind((dns::ADDRESS, 0)).map_err(failed)?;
        udp.set_nonblocking(true).map_err(failed)?;
        tcp.set_nonblocking(true).map_err(failed)?;
        let ports = (udp.local_addr().map_err(failed)?.port(), tcp.local_addr().map_err(failed)?.port());
        let table = network::resolver_table(dns::ADDRESS, ports.0, ports.1);
        let mut netfilter = Socket::netfilter()?;
        if netfilter.has_table(table.family, &table.name)? {
            netfilter.replace_table(&table)?;
        } else {
            netfilter.add_table(&table)?;
        }
        Ok((udp, tcp))
    };
    std::thread::scope(|scope| scope.spawn(make).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

impl<V: View> Answers for Resolver<V> {
    async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = Question::parse(query)?;
        let bytes_max = if transport == Transport::Udp { dns::UDP_MAX } else { usize::from(u16::MAX) };
        let (known, outside) = self.view.look_up(self.id, &question)?;
        if let Some(mut records) = known {
            shuffle(&mut records, nameserver::random().ok()?);
            return Some(dns::answer(query, &question, Code::Fine, &records, bytes_max));
        }
        if !outside {
            // Nobody outside is asked, and nobody outside is known.
            return Some(dns::answer(query, &question, Code::NoSuchName, &[], bytes_max));
        }
        let Ok(_permit) = self.asked.try_acquire() else {
            return Some(dns::answer(query, &question, Code::Refused, &[], bytes_max));
        };
        match nameserver::ask(&self.servers, query, &question, transport).await {
            Some(answer) => Some(answer),
            None => Some(dns::answer(query, &question, Code::Failed, &[], bytes_max)),
        }
    }
}

/// Whether the container has a way out of this machine.
pub(super) fn goes_out(running: &BTreeMap<ContainerId, Running>, id: ContainerId) -> bool {
    running.get(&id).is_some_and(|running| running.endpoints.iter().any(|endpoint| endpoint.gateway))
}

/// What is known of a name or address on the container's networks. `None`: nothing; an empty list: the name, but not of this kind.
pub(super) fn lookup(
    running: &BTreeMap<ContainerId, Running>,
    container: &dyn Fn(&str) -> Option<ContainerId>,
    id: ContainerId,
    question: &Question,
) -> Option<Vec<Record>> {
    if !question.is_internet() {
        return None;
    }
    let own = &running.get(&id)?.endpoints;
    let own = || own.iter().filter(|endpoint| !endpoint.names.is_empty());
    if question.kind == dns::PTR {
        let address = dns::reversed(&question.name)?;
        let neighbours = running.values().flat_map(|running| &running.endpoints);
        let found = neighbours
            .filter(|endpoint| own().any(|own| own.network == endpoint.network))
            .find(|endpoint| endpoint.addresses.contains(&address))?;
        return Some(vec![Record::Name(format!("{}.{}", found.names.first()?, found.network_name))]);
    }
    let mut known = false;
    let mut records = Vec::new();
    for own in own() {
        let name = question.name.strip_suffix(&format!(".{}", own.network_name.to_ascii_lowercase()));
        let name = name.unwrap_or(&question.name);
        // A name of its own for another container.
        let linked = own.links.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name));
        let linked = linked.and_then(|(_, target)| container(target));
        for (other, place) in running {
            for endpoint in place.endpoints.iter().filter(|endpoint| endpoint.network == own.network) {
                let named = endpoint.names.iter().any(|own| own.eq_ignore_ascii_case(name));
                if !named && linked != Some(*other) {
                    continue;
                }
                known = true;
                let wanted = endpoint.addresses.iter().filter(|address| match question.kind {
                    dns::A => address.is_ipv4(),
                    dns::AAAA => address.is_ipv6(),
                    _ => false,
                });
                for address in wanted {
                    let record = Record::Address(*address);
                    if !records.contains(&record) {
                        records.push(record);
                    }
                }
            }
        }
    }
    known.then_some(records)
}

/// Another one is first each time.
fn shuffle(records: &mut [Record], random: u16) {
    if !records.is_empty() {
        records.rotate_left(usize::from(random) % records.len());
    }
}
