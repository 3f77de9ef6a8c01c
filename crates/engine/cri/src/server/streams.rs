//! Exec, attach and port-forward. Whoever asks over the interface is given an address with a ticket in it, good for one connection
//! and for a minute; the kubelet or its client comes there over HTTP, on this machine only, and upgrades the connection.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use grpc::Outcome;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pods::Runtime;
use streaming::{Refusal, port_forward, session};
use tokio::net::TcpListener;
use tonic::Status;

use super::Server;
use super::records::random_id;
use crate::wire::*;

/// As upstream's.
const TICKETS_MAX: usize = 1000;
const GOOD_FOR: Duration = Duration::from_secs(60);
const HEAD_TIME: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
enum Ticket {
    Exec { container: String, asked: session::Asked },
    Attach { container: String, asked: session::Asked },
    Forward { sandbox: String },
}

/// What was promised and not yet asked for.
#[derive(Debug)]
pub(super) struct Tickets {
    address: std::net::SocketAddr,
    listener: Mutex<Option<TcpListener>>,
    given: Mutex<BTreeMap<String, (Instant, Ticket)>>,
}

impl Tickets {
    pub async fn open() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, listener: Mutex::new(Some(listener)), given: Mutex::default() })
    }

    /// The address to come to.
    fn give(&self, what: &str, ticket: Ticket) -> Outcome<String> {
        let token = random_id()?;
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|_, (at, _)| at.elapsed() < GOOD_FOR);
        if given.len() >= TICKETS_MAX {
            return Err(Status::resource_exhausted("maximum number of in-flight requests exceeded"));
        }
        given.insert(token.clone(), (Instant::now(), ticket));
        Ok(format!("http://{}/{what}/{token}", self.address))
    }

    fn take(&self, path: &str) -> Option<Ticket> {
        let (_, token) = path.trim_start_matches('/').split_once('/')?;
        let (at, ticket) = self.given.lock().unwrap_or_else(PoisonError::into_inner).remove(token)?;
        (at.elapsed() < GOOD_FOR).then_some(ticket)
    }
}

/// At least one stream, and errors apart only without a terminal.
fn check(asked: &session::Asked) -> Outcome<()> {
    if !(asked.stdin || asked.stdout || asked.stderr) {
        return Err(Status::invalid_argument("one of stdin, stdout, or stderr must be set"));
    }
    if asked.tty && asked.stderr {
        return Err(Status::invalid_argument("tty and stderr cannot both be true"));
    }
    Ok(())
}

impl Server {
    pub(super) async fn exec(&self, asked: ExecRequest) -> Outcome<ExecResponse> {
        let container = self.container_id(&asked.container_id).await?;
        if asked.cmd.is_empty() {
            return Err(Status::invalid_argument("cmd must not be empty"));
        }
        let ExecRequest { cmd: command, tty, stdin, stdout, stderr, .. } = asked;
        let asked = session::Asked { stdin, stdout, stderr, tty, command };
        check(&asked)?;
        Ok(ExecResponse { url: self.0.tickets.give("exec", Ticket::Exec { container, asked })? })
    }

    pub(super) async fn attach(&self, asked: AttachRequest) -> Outcome<AttachResponse> {
        let container = self.container_id(&asked.container_id).await?;
        let AttachRequest { tty, stdin, stdout, stderr, .. } = asked;
        let asked = session::Asked { stdin, stdout, stderr, tty, command: Vec::new() };
        check(&asked)?;
        Ok(AttachResponse { url: self.0.tickets.give("attach", Ticket::Attach { container, asked })? })
    }

    pub(super) async fn port_forward(&self, asked: PortForwardRequest) -> Outcome<PortForwardResponse> {
        let (sandbox, record) = self.0.records.find(&asked.pod_sandbox_id)?;
        if record.stopped {
            return Err(Status::failed_precondition(format!("sandbox {sandbox} is not running")));
        }
        Ok(PortForwardResponse { url: self.0.tickets.give("portforward", Ticket::Forward { sandbox })? })
    }

    fn carry(&self, mut request: Request<Incoming>) -> Result<Response<()>, Refusal> {
        let missing = || Refusal { status: StatusCode::NOT_FOUND, message: "404 page not found".into() };
        let ticket = self.0.tickets.take(request.uri().path()).ok_or_else(missing)?;
        let (websocket, spdy) = match &ticket {
            Ticket::Forward { .. } => (port_forward::PROTOCOLS, port_forward::SPDY_PROTOCOLS),
            _ => (session::PROTOCOLS, session::SPDY_PROTOCOLS),
        };
        let wire = streaming::negotiate(request.headers(), websocket, spdy)?;
        let query = request.uri().query().unwrap_or_default().to_owned();
        let ports = match &ticket {
            Ticket::Forward { .. } => {
                port_forward::ports(&wire, query.split('&').filter_map(|pair| pair.strip_prefix("port=")))?
            }
            _ => Vec::new(),
        };
        let response = streaming::switch(&wire);
        let upgrade = hyper::upgrade::on(&mut request);
        let runtime = self.0.runtime.clone();
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let io = TokioIo::new(upgraded);
            match ticket {
                Ticket::Exec { container, asked } => {
                    let (command, tty, stdin) = (asked.command.clone(), asked.tty, asked.stdin);
                    let start = async { runtime.exec(&container, &command, tty, stdin).await };
                    session::serve(io, wire, asked, start).await;
                }
                Ticket::Attach { container, asked } => {
                    let stdin = asked.stdin;
                    session::serve(io, wire, asked, async { runtime.attach(&container, stdin).await }).await;
                }
                Ticket::Forward { sandbox } => {
                    let connect = move |port: u16| {
                        let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
                        async move {
                            let connected = runtime.connect(&sandbox, port).await;
                            connected.map_err(|error| format!("failed to forward port {port} of {sandbox}: {error}"))
                        }
                    };
                    port_forward::serve(io, wire, ports, connect).await;
                }
            }
        });
        Ok(response)
    }
}

/// Answers at the address until dropped.
pub(super) async fn serve(server: Server) {
    let listener = server.0.tickets.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(listener) = listener else { return };
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let server = server.clone();
        connections.spawn(async move {
            let service = service_fn(|request| {
                let answered = match server.carry(request) {
                    Ok(switched) => switched.map(|()| String::new()),
                    Err(refusal) => {
                        let mut response = Response::new(refusal.message);
                        *response.status_mut() = refusal.status;
                        response
                    }
                };
                async move { Ok::<_, Infallible>(answered) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a streaming connection ended");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ticket_is_good_once() {
        let tickets = Tickets::open().await.unwrap();
        let address = tickets.give("exec", Ticket::Forward { sandbox: "s".into() }).unwrap();
        let path = address.strip_prefix(&format!("http://{}", tickets.address)).unwrap();
        assert!(matches!(tickets.take(path), Some(Ticket::Forward { sandbox }) if sandbox == "s"));
        assert!(tickets.take(path).is_none());
        for bad in ["", "/", "/exec", "/exec/", "/exec/00"] {
            assert!(tickets.take(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_session_has_a_stream_and_a_terminal_one_output() {
        let asked = |stdout, stderr, tty| session::Asked { stdout, stderr, tty, ..session::Asked::default() };
        for (asked, good) in [
            (asked(true, true, false), true),
            (asked(true, false, true), true),
            (asked(true, true, true), false),
            (asked(false, false, false), false),
        ] {
            assert_eq!(check(&asked).is_ok(), good, "{asked:?}");
        }
    }
}
