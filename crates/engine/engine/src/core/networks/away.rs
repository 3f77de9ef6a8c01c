//! Containers' resolvers while no engine is there: a process that a keeper starts when the engine is gone, and lets end when
//! another answers. Who is on the networks it reads from `<run>/networks`, as the last engine has left it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use keeper::NamesOrder;
use linux::{Errno, pipe, socket};
use network::dns::{Question, Record};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Running;
use super::resolver::{self, CONNECTIONS_MAX, Resolver, View};
use crate::ContainerId;
use crate::core::open::names_in;

/// An order is an id with a few bytes.
const ORDER_MAX: usize = 256;
/// What others are asked about takes no longer, and who keeps a connection has had his answer.
const REST_MAX: Duration = Duration::from_secs(5);

/// Who was on the networks when the engine went away, less those that have ended since.
struct LastKnown {
    dir: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Read at the first question.
    running: Option<BTreeMap<ContainerId, Running>>,
    /// An engine has been there since it was read.
    old: bool,
    ended: BTreeSet<ContainerId>,
}

impl LastKnown {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn with<T>(&self, look: impl FnOnce(&BTreeMap<ContainerId, Running>) -> T) -> T {
        let mut seen = self.seen();
        let Seen { running, ended, .. } = &mut *seen;
        look(running.get_or_insert_with(|| read(&self.dir, ended)))
    }
}

fn read(dir: &Path, ended: &BTreeSet<ContainerId>) -> BTreeMap<ContainerId, Running> {
    let ids = names_in(dir).into_iter().filter_map(|name| name.parse::<ContainerId>().ok());
    let living = ids.filter(|id| !ended.contains(id));
    living.filter_map(|id| Some((id, read_one(dir, id)?))).collect()
}

/// `None`: an engine has removed it just now.
fn read_one(dir: &Path, id: ContainerId) -> Option<Running> {
    serde_json::from_slice(&std::fs::read(dir.join(id.to_string())).ok()?).ok()
}

impl View for Arc<LastKnown> {
    fn look_up(&self, id: ContainerId, question: &Question) -> Option<(Option<Vec<Record>>, bool)> {
        Some(self.with(|running| {
            let named = |name: &str| {
                let by_name = running.iter().find(|(_, place)| place.name == name);
                let prefix = |id: &ContainerId| !name.is_empty() && id.to_string().starts_with(name);
                by_name.or_else(|| running.iter().find(|(id, _)| prefix(id))).map(|(id, _)| *id)
            };
            (resolver::lookup(running, &named, id, question), resolver::goes_out(running, id))
        }))
    }
}

/// Answers as the keeper orders, until its end of `orders` is closed.
pub fn serve_names(run: &Path, orders: OwnedFd) -> std::io::Result<()> {
    pipe::set_nonblocking(&orders, true)?;
    // Two descriptors a container. Refused: as many as fit.
    let _ = linux::rlimit::raise_soft(linux::rlimit::Resource::NOFILE);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(follow(run.join("networks"), orders))
}

async fn follow(dir: PathBuf, orders: OwnedFd) -> std::io::Result<()> {
    let orders = crate::stream::register(orders, Interest::READABLE)?;
    let known = Arc::new(LastKnown { dir, seen: Mutex::default() });
    let mut served: BTreeMap<ContainerId, oneshot::Sender<()>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    while let Some((order, fds)) = next(&orders).await? {
        match order {
            NamesOrder::Serve { id } => {
                let (Ok(id), Ok([udp, tcp])) = (id.parse::<ContainerId>(), <[OwnedFd; 2]>::try_from(fds)) else {
                    continue;
                };
                // One container's sockets that are none are no reason to leave the others without an answer.
                let Ok((udp, tcp)) = resolver::listen((udp, tcp)) else { continue };
                let servers = read_one(&known.dir, id).map(|place| place.servers);
                let mut seen = known.seen();
                // It has been started again since.
                seen.ended.remove(&id);
                if std::mem::take(&mut seen.old) {
                    seen.running = None;
                }
                drop(seen);
                let resolver = Resolver::new(known.clone(), id, servers.unwrap_or_default());
                let (stop, stopped) = oneshot::channel::<()>();
                let stopped = async { drop(stopped.await) };
                tasks.spawn(nameserver::serve_until(resolver, udp, tcp, CONNECTIONS_MAX, stopped));
                served.insert(id, stop);
            }
            NamesOrder::Leave { id } => {
                drop(id.parse().ok().and_then(|id: ContainerId| served.remove(&id)));
                known.seen().old = true;
            }
            NamesOrder::Ended { id } => {
                if let Ok(id) = id.parse::<ContainerId>() {
                    served.remove(&id);
                    let mut seen = known.seen();
                    seen.ended.insert(id);
                    seen.running.as_mut().map(|running| running.remove(&id));
                }
            }
        }
        while tasks.try_join_next().is_some() {}
    }
    drop(served);
    let rest = async { while tasks.join_next().await.is_some() {} };
    // What takes longer is asked again by whoever asked.
    let _ = tokio::time::timeout(REST_MAX, rest).await;
    Ok(())
}

/// The next order with its descriptors; `None` at the end.
async fn next(orders: &AsyncFd<OwnedFd>) -> std::io::Result<Option<(NamesOrder, Vec<OwnedFd>)>> {
    let mut buffer = [0; ORDER_MAX];
    loop {
        let mut ready = orders.readable().await?;
        let mut fds = Vec::new();
        match socket::recv(orders.get_ref(), &mut buffer, &mut fds) {
            Ok(received) if received.len == 0 => return Ok(None),
            Ok(received) => {
                let order = NamesOrder::decode(&buffer[..received.len]).filter(|_| !received.truncated);
                return order.map(|order| Some((order, fds))).ok_or_else(|| std::io::Error::other("an order unknown"));
            }
            Err(error) if error.is(Errno::AGAIN) => ready.clear_ready(),
            Err(error) if error.is(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
