//! Which addresses and ports services have. Kept up to date by what changes in the store, so that a new service costs no walk over
//! all others; what is chosen for services that are still being written counts as well.
//!
//! Servers that share a store do not see each other's choices before they are written. There each write of a service that takes
//! something also writes one key ([`GUARD`]), and holds only if that key was not written since its server's book was brought up
//! to date.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use resources::{Value, meta};
use store::{Change, RangeRequest, Revision, Span, Store, StoreError, Watch, WatchRequest};

use crate::codec;

/// Written with every service that takes an address or a port in a store that several servers share.
pub const GUARD: &str = "/registry/ranges/services";

/// What one service has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Taken {
    addresses: Vec<IpAddr>,
    ports: Vec<i64>,
}

impl Taken {
    fn of(service: &Value) -> Self {
        let addresses = meta::list_at(service, &["spec", "clusterIPs"]).iter();
        let ports = meta::list_at(service, &["spec", "ports"]).iter().filter_map(|port| port["nodePort"].as_i64());
        let mut ports: Vec<i64> =
            ports.chain(service["spec"]["healthCheckNodePort"].as_i64()).filter(|port| *port != 0).collect();
        // Two protocols may share one.
        ports.sort_unstable();
        ports.dedup();
        Self { addresses: addresses.filter_map(|address| address.as_str()?.parse().ok()).collect(), ports }
    }

    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.ports.is_empty()
    }
}

/// Who has what. Pure.
#[derive(Debug, Default)]
pub struct Book {
    /// By the service's key in the store.
    services: HashMap<Bytes, Taken>,
    addresses: HashMap<IpAddr, Vec<Bytes>>,
    ports: HashMap<i64, Vec<Bytes>>,
    /// Of services that are being written, by a number for each writing.
    pending: HashMap<u64, (Bytes, Taken)>,
    /// Writings that have ended: what became of them is told by the store.
    ended: Vec<u64>,
    last: u64,
}

impl Book {
    fn count(&mut self, key: &Bytes, taken: &Taken) {
        taken.addresses.iter().for_each(|address| self.addresses.entry(*address).or_default().push(key.clone()));
        taken.ports.iter().for_each(|port| self.ports.entry(*port).or_default().push(key.clone()));
    }

    fn uncount(&mut self, key: &Bytes, taken: &Taken) {
        fn take<K: std::hash::Hash + Eq>(all: &mut HashMap<K, Vec<Bytes>>, what: &K, key: &Bytes) {
            let Some(keys) = all.get_mut(what) else { return };
            if let Some(at) = keys.iter().position(|have| have == key) {
                keys.swap_remove(at);
            }
            if keys.is_empty() {
                all.remove(what);
            }
        }
        taken.addresses.iter().for_each(|address| take(&mut self.addresses, address, key));
        taken.ports.iter().for_each(|port| take(&mut self.ports, port, key));
    }

    /// A service is as it is now, or has gone.
    pub fn set(&mut self, key: &Bytes, service: Option<&Value>) {
        if let Some(before) = self.services.remove(key) {
            self.uncount(key, &before);
        }
        if let Some(service) = service {
            let taken = Taken::of(service);
            self.count(key, &taken);
            self.services.insert(key.clone(), taken);
        }
    }

    /// As the service with this key sees it: what it has itself is free.
    pub fn of<'a>(&'a self, key: &'a [u8]) -> Others<'a> {
        Others { book: self, key }
    }

    fn begin(&mut self, key: Bytes, taken: Taken) -> u64 {
        self.count(&key, &taken);
        self.last += 1;
        self.pending.insert(self.last, (key, taken));
        self.last
    }

    fn end(&mut self, number: u64) {
        if let Some((key, taken)) = self.pending.remove(&number) {
            self.uncount(&key, &taken);
        }
    }

    fn forget_services(&mut self) {
        for (key, taken) in std::mem::take(&mut self.services) {
            self.uncount(&key, &taken);
        }
    }
}

/// What services other than one have.
#[derive(Clone, Copy)]
pub struct Others<'a> {
    book: &'a Book,
    key: &'a [u8],
}

impl Others<'_> {
    fn anyone(&self, keys: Option<&Vec<Bytes>>) -> bool {
        keys.is_some_and(|keys| keys.iter().any(|key| **key != *self.key))
    }

    pub fn have_address(&self, address: IpAddr) -> bool {
        self.anyone(self.book.addresses.get(&address))
    }

    pub fn have_port(&self, port: i64) -> bool {
        self.anyone(self.book.ports.get(&port))
    }
}

/// The changes of all services, and how far they have been read.
#[derive(Default)]
struct Reader {
    watch: Option<Box<dyn Watch>>,
    through: Revision,
}

/// The book of one server.
#[derive(Default)]
pub struct Allocated {
    /// Held while the book is brought up to date and something is chosen.
    reader: tokio::sync::Mutex<Reader>,
    book: Arc<Mutex<Book>>,
}

/// What was chosen stays the service's until this goes, by when it has been written or never will be.
#[must_use]
pub struct Reserved {
    book: Arc<Mutex<Book>>,
    number: u64,
    guard: Option<Revision>,
}

impl Reserved {
    /// The revision after which nobody may have written [`GUARD`], where there are others who might.
    pub fn guard(&self) -> Option<Revision> {
        self.guard
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        lock(&self.book).ended.push(self.number);
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Allocated {
    /// Lets `choose` give a service, which is to be at `key`, what it lacks. `span` is where all services are.
    pub async fn reserve<E>(
        &self,
        store: &dyn Store,
        span: Span,
        key: String,
        service: &mut Value,
        choose: impl Fn(&mut Value, Others<'_>) -> Result<(), E>,
    ) -> Result<Result<Reserved, E>, StoreError> {
        let mut reader = self.reader.lock().await;
        // Whatever had ended by now is seen by what follows.
        let ended = std::mem::take(&mut lock(&self.book).ended);
        if let Err(error) = self.refresh(store, span.clone(), &mut reader).await {
            lock(&self.book).ended.extend(ended);
            return Err(error);
        }
        ended.into_iter().for_each(|number| lock(&self.book).end(number));
        let key = Bytes::from(key);
        let lacking = service.clone();
        let mut chosen = choose(service, lock(&self.book).of(&key));
        if chosen.is_err() && store.is_shared() {
            // A watch tells what others gave back a little later: nobody is refused because of that.
            reader.watch = None;
            self.refresh(store, span, &mut reader).await?;
            *service = lacking;
            chosen = choose(service, lock(&self.book).of(&key));
        }
        if let Err(refused) = chosen {
            return Ok(Err(refused));
        }
        let mut book = lock(&self.book);
        let taken = Taken::of(service);
        let takes = !taken.is_empty() && book.services.get(&key) != Some(&taken);
        let guard = (takes && store.is_shared()).then_some(reader.through);
        let number = book.begin(key, taken);
        Ok(Ok(Reserved { book: self.book.clone(), number, guard }))
    }

    async fn refresh(&self, store: &dyn Store, span: Span, reader: &mut Reader) -> Result<(), StoreError> {
        if let Some(watching) = &mut reader.watch {
            match watching.poll().await {
                Ok(batch) => {
                    reader.through = batch.through;
                    let mut book = lock(&self.book);
                    for event in batch.events {
                        let service = (event.change == Change::Put).then(|| codec::decode(&event.kv.value));
                        book.set(&event.kv.key, service.as_ref());
                    }
                    return Ok(());
                }
                // It fell too far behind, or the store was away.
                Err(error) => tracing::debug!(%error, "reading all services anew"),
            }
        }
        reader.watch = None;
        let all = store.range(RangeRequest::newest(span.clone())).await?;
        let watching = store.watch(WatchRequest { span, start: all.revision + 1 }).await?;
        let mut book = lock(&self.book);
        book.forget_services();
        for kv in &all.kvs {
            book.set(&kv.key, Some(&codec::decode(&kv.value)));
        }
        *reader = Reader { watch: Some(watching), through: all.revision };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use store::{Embedded, Op, Txn};

    use super::*;

    fn service(address: &str, port: i64) -> Value {
        json!({"spec": {"clusterIPs": [address], "ports": [{"port": 80, "nodePort": port}, {"port": 81, "nodePort": port}]}})
    }

    #[tokio::test]
    async fn what_is_being_written_counts_and_what_never_was_written_is_free_again() {
        let (store, allocated) = (Embedded::ephemeral(), Allocated::default());
        let span = || Span::prefix("/s/");
        let put = async |key: &str, service: &Value| {
            let value = codec::encode(service).bytes;
            store.txn(Txn::new().then(Op::put(key.to_owned(), value))).await.unwrap();
        };
        let reserve = async |key: &str, wanted: &Value| {
            let free = |service: &mut Value, others: Others<'_>| {
                let taken = Taken::of(service);
                let free = !taken.addresses.iter().any(|address| others.have_address(*address))
                    && !taken.ports.iter().any(|port| others.have_port(*port));
                if free { Ok(()) } else { Err(()) }
            };
            allocated.reserve(&store, span(), key.to_owned(), &mut wanted.clone(), free).await.unwrap()
        };
        let (one, two) = (service("10.0.0.1", 30001), service("10.0.0.2", 30002));
        put("/s/d/a", &one).await;
        assert!(reserve("/s/d/b", &one).await.is_err(), "it was there before anybody asked");
        assert!(reserve("/s/d/a", &one).await.is_ok(), "its own");
        let held = reserve("/s/d/b", &two).await.unwrap();
        assert!(reserve("/s/d/c", &two).await.is_err(), "it is being written");
        assert!(reserve("/s/d/b", &two).await.is_ok(), "by two at a time, of whom one will lose");
        put("/s/d/b", &two).await;
        drop(held);
        assert!(reserve("/s/d/c", &two).await.is_err(), "it was written");
        store.txn(Txn::new().then(Op::delete("/s/d/b"))).await.unwrap();
        drop(reserve("/s/d/c", &two).await.expect("it was deleted"));
        drop(reserve("/s/d/e", &two).await.expect("the other one was never written"));
        // Compacted beyond what was seen: everything is read again.
        put("/s/d/a", &two).await;
        let revision = store.revision().await.unwrap();
        put("/s/d/x", &service("10.0.0.9", 30009)).await;
        store.compact(revision + 1).await.unwrap();
        assert!(reserve("/s/d/e", &two).await.is_err());
        assert!(reserve("/s/d/e", &one).await.is_ok());
    }
}
