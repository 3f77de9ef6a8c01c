//! The resolver that containers of user networks find at 127.0.0.11: names of containers from memory, everything else from the
//! name servers that the container would have asked itself. On internal networks nothing is asked outside (NW-04).
//!
//! Its sockets are made in the container's network namespace and served from here: no process, no thread for a container.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use linux::netlink::Socket;
use linux::ns::{self, Namespaces};
use network::dns::{self, Code, Question, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::State;
use crate::core::Inner;
use crate::core::records::ContainerRecord;
use crate::{ContainerId, Error, Result};

/// Questions of one container that are asked outside at the same time; more are refused (DN-01).
const ASKED_MAX: usize = 256;
/// Open TCP connections of one container.
const CONNECTIONS_MAX: usize = 64;
/// How long one name server has for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// The resolver of one container: it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Handle(tokio::task::AbortHandle);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Resolver {
    inner: Weak<Inner>,
    id: ContainerId,
    servers: Vec<SocketAddr>,
    asked: Semaphore,
}

/// Starts it in the namespace. Must be called within the runtime.
pub(super) fn start(inner: &Arc<Inner>, id: ContainerId, record: &ContainerRecord, netns: &OwnedFd) -> Result<Handle> {
    let (udp, tcp) = sockets(netns)?;
    let runtime = tokio::runtime::Handle::current();
    let _entered = runtime.enter();
    let failed = |e: std::io::Error| Error::internal("start a container's resolver", e);
    let udp = UdpSocket::from_std(udp).map_err(failed)?;
    let tcp = TcpListener::from_std(tcp).map_err(failed)?;
    let resolver = Arc::new(Resolver {
        inner: Arc::downgrade(inner),
        id,
        servers: servers(record),
        asked: Semaphore::new(ASKED_MAX),
    });
    let task = runtime.spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(serve_udp(resolver.clone(), Arc::new(udp)));
        tasks.spawn(serve_tcp(resolver, tcp));
        // Aborted with this task.
        while tasks.join_next().await.is_some() {}
    });
    Ok(Handle(task.abort_handle()))
}

/// The name servers that the container would ask by itself.
fn servers(record: &ContainerRecord) -> Vec<SocketAddr> {
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
        Socket::netfilter()?.replace_table(&network::resolver_table(dns::ADDRESS, ports.0, ports.1))?;
        Ok((udp, tcp))
    };
    std::thread::scope(|scope| scope.spawn(make).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

async fn serve_udp(resolver: Arc<Resolver>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; 4096];
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = tasks.join_next() => continue,
        };
        // An error tells of an earlier answer that nobody took.
        let Ok((length, client)) = received else { continue };
        let query = buffer[..length].to_vec();
        let (resolver, socket) = (resolver.clone(), socket.clone());
        tasks.spawn(async move {
            if let Some(answer) = resolver.answer(&query, Transport::Udp).await {
                // A client that is gone needs none.
                let _ = socket.send_to(&answer, client).await;
            }
        });
    }
}

async fn serve_tcp(resolver: Arc<Resolver>, listener: TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve_connection(resolver.clone(), stream))),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(resolver: Arc<Resolver>, mut stream: TcpStream) {
    loop {
        let query = match tokio::time::timeout(IDLE, read_message(&mut stream)).await {
            Ok(Ok(query)) => query,
            _ => return,
        };
        let Some(answer) = resolver.answer(&query, Transport::Tcp).await else { return };
        let sent = tokio::time::timeout(IDLE, write_message(&mut stream, &answer)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let mut bytes = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl Resolver {
    /// `None`: nothing to be answered.
    async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = Question::parse(query)?;
        let bytes_max = if transport == Transport::Udp { dns::UDP_MAX } else { usize::from(u16::MAX) };
        let (known, outside) = {
            let inner = self.inner.upgrade()?;
            let state = inner.networks.state();
            (lookup(&state, &|name| inner.find(name).ok().map(|c| c.id), self.id, &question), goes_out(&state, self.id))
        };
        if let Some(mut records) = known {
            shuffle(&mut records, self.inner.upgrade()?.random_bytes());
            return Some(dns::answer(query, &question, Code::Fine, &records, bytes_max));
        }
        if !outside {
            // Nobody outside is asked, and nobody outside is known.
            return Some(dns::answer(query, &question, Code::NoSuchName, &[], bytes_max));
        }
        let Ok(_permit) = self.asked.try_acquire() else {
            return Some(dns::answer(query, &question, Code::Refused, &[], bytes_max));
        };
        for server in &self.servers {
            let asked = async {
                match transport {
                    Transport::Udp => self.ask_udp(query, &question, *server).await,
                    Transport::Tcp => ask_tcp(query, &question, *server).await,
                }
            };
            if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asked).await {
                return Some(answer);
            }
        }
        Some(dns::answer(query, &question, Code::Failed, &[], bytes_max))
    }

    /// A new socket for each question: its port and the number are what a forger would have to guess.
    async fn ask_udp(&self, query: &[u8], question: &Question, server: SocketAddr) -> std::io::Result<Vec<u8>> {
        let any: SocketAddr = if server.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        let inner = self.inner.upgrade().ok_or_else(|| std::io::Error::other("the engine ends"))?;
        let id = u16::from_ne_bytes(inner.random_bytes());
        drop(inner);
        let mut asked = query.to_vec();
        asked[..2].copy_from_slice(&id.to_be_bytes());
        socket.send(&asked).await?;
        let mut buffer = vec![0; 65535];
        loop {
            let length = socket.recv(&mut buffer).await?;
            // Anything else is not for us.
            if question.is_answered_by(id, &buffer[..length]) {
                let mut answer = buffer[..length].to_vec();
                answer[..2].copy_from_slice(&question.id.to_be_bytes());
                return Ok(answer);
            }
        }
    }
}

async fn ask_tcp(query: &[u8], question: &Question, server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    let answer = read_message(&mut stream).await?;
    if question.is_answered_by(question.id, &answer) {
        Ok(answer)
    } else {
        Err(std::io::Error::other("an answer to another question"))
    }
}

/// Whether the container has a way out of this machine.
fn goes_out(state: &State, id: ContainerId) -> bool {
    state.running.get(&id).is_some_and(|running| running.endpoints.iter().any(|endpoint| endpoint.gateway))
}

/// What is known of a name or address on the container's networks. `None`: nothing; an empty list: the name, but not of this kind.
fn lookup(
    state: &State,
    container: &dyn Fn(&str) -> Option<ContainerId>,
    id: ContainerId,
    question: &Question,
) -> Option<Vec<Record>> {
    if !question.is_internet() {
        return None;
    }
    let own = &state.running.get(&id)?.endpoints;
    let own = || own.iter().filter(|endpoint| !endpoint.names.is_empty());
    if question.kind == dns::PTR {
        let address = dns::reversed(&question.name)?;
        let neighbours = state.running.values().flat_map(|running| &running.endpoints);
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
        for (other, running) in &state.running {
            for endpoint in running.endpoints.iter().filter(|endpoint| endpoint.network == own.network) {
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
fn shuffle(records: &mut [Record], random: [u8; 8]) {
    if !records.is_empty() {
        let by = u64::from_ne_bytes(random) % records.len() as u64;
        records.rotate_left(by as usize);
    }
}
