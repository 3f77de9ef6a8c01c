//! The sockets of the name server, and what it hears of the cluster.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cache::{Key, Kind, View};
use nameserver::{Answers, Transport, random};
use resources::{Value, meta};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use vocab::dns::{self, Code, Entry, Question, Record, Reply};

use crate::{Addresses, Found, Upstream, Zone};

/// What it has to hear of.
pub const KINDS: &[Kind] = &[Kind::Service, Kind::EndpointSlice, Kind::Namespace];
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Questions that wait for others' answers at a time.
const ASKED_MAX: usize = 512;
const CONNECTIONS_MAX: usize = 256;

/// What answers questions.
struct Answerer {
    zone: Zone,
    view: Arc<RwLock<View>>,
    addresses: RwLock<Addresses>,
    listed: watch::Receiver<bool>,
    upstream: Upstream,
    asked: Semaphore,
}

/// The name server of one node.
pub struct Server {
    answerer: Arc<Answerer>,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Server {
    /// Listens at port 53 of an address of this machine.
    pub async fn bind(
        address: IpAddr,
        zone: Zone,
        view: Arc<RwLock<View>>,
        listed: watch::Receiver<bool>,
        upstream: Upstream,
    ) -> std::io::Result<Self> {
        let at = SocketAddr::new(address, 53);
        let udp = UdpSocket::bind(at).await?;
        let tcp = TcpListener::bind(at).await?;
        let answerer =
            Answerer { zone, view, addresses: RwLock::default(), listed, upstream, asked: Semaphore::new(ASKED_MAX) };
        Ok(Self { answerer: Arc::new(answerer), udp, tcp })
    }

    /// Runs until `changes` ends.
    pub async fn run(self, mut changes: mpsc::UnboundedReceiver<(Kind, Arc<Value>)>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(nameserver::serve(self.answerer.clone(), self.udp, self.tcp, CONNECTIONS_MAX));
        while let Some((kind, object)) = changes.recv().await {
            self.answerer.note(kind, &object);
        }
    }
}

impl Answers for Answerer {
    async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = Question::parse(query)?;
        let bytes_max = match transport {
            Transport::Udp => dns::udp_max(query, &question),
            Transport::Tcp => usize::from(u16::MAX),
        };
        let failed = |code: Code| Reply {
            code,
            authoritative: false,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
        };
        // Half a view would say of names that they are not there.
        if !self.is_listed().await {
            return Some(dns::write(query, &question, &failed(Code::Failed), bytes_max));
        }
        let mut reply = match self.find(&question) {
            Found::Here(reply) => reply,
            Found::Elsewhere(mut reply, target) => {
                self.follow(&mut reply, &target, &question, transport).await;
                reply
            }
            Found::Unknown => match self.ask(query, &question, transport).await {
                Ok(answer) => return Some(answer),
                Err(code) => failed(code),
            },
        };
        // Another one is first each time.
        if !reply.answers.is_empty() && reply.answers.iter().all(|entry| matches!(entry.record, Record::Address(_))) {
            let by = usize::from(random().unwrap_or(0)) % reply.answers.len();
            reply.answers.rotate_left(by);
        }
        Some(dns::write(query, &question, &reply, bytes_max))
    }
}

impl Answerer {
    fn note(&self, kind: Kind, object: &Value) {
        let key = match kind {
            Kind::Service => Some(Key::of(object)),
            Kind::EndpointSlice => meta::at(object, &["metadata", "labels", SERVICE_NAME])
                .and_then(Value::as_str)
                .map(|service| Key::new(meta::namespace(object), service)),
            _ => None,
        };
        let Some(key) = key else { return };
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        addresses.service(&view, &key, view.at(Kind::Service, &key).map(|service| &**service));
    }

    fn find(&self, question: &Question) -> Found {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        self.zone.answer(&view, &addresses, question)
    }

    async fn is_listed(&self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(2);
        let mut listed = self.listed.clone();
        matches!(tokio::time::timeout(PATIENCE, listed.wait_for(|listed| *listed)).await, Ok(Ok(_)))
    }

    async fn ask(&self, query: &[u8], question: &Question, transport: Transport) -> Result<Vec<u8>, Code> {
        let _permit = self.asked.try_acquire().map_err(|_| Code::Refused)?;
        self.upstream.ask(query, question, transport).await.ok_or(Code::Failed)
    }

    /// The addresses of an external name, after the name itself.
    async fn follow(&self, reply: &mut Reply, target: &str, question: &Question, transport: Transport) {
        let query = dns::query(random().unwrap_or(question.id), target, question.kind);
        let Some(asked) = Question::parse(&query) else { return };
        let found: Vec<(u32, IpAddr)> = match self.find(&asked) {
            // Names of ours that lead on to others are not followed further.
            Found::Here(own) | Found::Elsewhere(own, _) => own
                .answers
                .iter()
                .filter_map(|entry| match entry.record {
                    Record::Address(address) => Some((entry.ttl_secs, address)),
                    _ => None,
                })
                .collect(),
            Found::Unknown => match self.ask(&query, &asked, transport).await {
                Ok(answer) => dns::addresses_in(&answer),
                Err(_) => Vec::new(),
            },
        };
        let ipv4 = question.kind == dns::A;
        reply.answers.extend(found.into_iter().filter(|(_, address)| address.is_ipv4() == ipv4).map(
            |(ttl_secs, address)| Entry { name: Some(target.to_owned()), ttl_secs, record: Record::Address(address) },
        ));
    }
}
