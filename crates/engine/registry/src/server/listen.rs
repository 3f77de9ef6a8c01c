//! Connections: who may connect, how long a head may take, how many there may be.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{Door, Inner, Listen, ServerError};
use crate::tls;

const CONNECTIONS_MAX: usize = 4096;
const HEAD_TIME: Duration = Duration::from_secs(30);
/// The buffer of a connection bounds the head of a request too.
const BUFFER_BYTES_MAX: usize = 512 << 10;
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// A reader that takes nothing for so long is gone, as far as we care.
const STALL: Duration = Duration::from_secs(120);
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// A registry that listens and is not served yet.
pub struct Listening {
    inner: Arc<Inner>,
    listener: TcpListener,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    door: Door,
}

impl Listening {
    pub(super) async fn bind(inner: Arc<Inner>, listen: &Listen) -> Result<Self, ServerError> {
        let loopback = listen.address.ip().is_loopback();
        if listen.tls.is_none() && !loopback && !listen.plain {
            return Err(ServerError::Plain(listen.address));
        }
        let acceptor = match &listen.tls {
            Some((chain, key)) => Some(TlsAcceptor::from(tls::server(chain, key)?)),
            None => None,
        };
        let failed = |source| ServerError::Bind { address: listen.address, source };
        let listener = TcpListener::bind(listen.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        // Where everybody who reaches it may do everything, reaching it must not be possible by way of a browser.
        let guarded = loopback && acceptor.is_none() && inner.access.is_open();
        let hosts = if guarded {
            listen.names.iter().cloned().chain(["localhost".to_owned()]).collect()
        } else {
            Arc::default()
        };
        let door = Door { scheme: if acceptor.is_some() { "https" } else { "http" }, hosts };
        Ok(Self { inner, listener, address, acceptor, door })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves; then lets requests under way end, for two seconds at most.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let (closing, closed) = watch::channel(false);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                place = places.clone().acquire_owned() => {
                    let Ok(place) = place else { break };
                    tokio::select! {
                        accepted = self.listener.accept() => accepted.map(|(stream, _)| (stream, place)),
                        () = &mut shutdown => break,
                    }
                }
                () = &mut shutdown => break,
            };
            while connections.try_join_next().is_some() {}
            let (stream, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: what holds them will end.
                    tracing::warn!(%error, "accept a connection to the registry");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            prepare(&stream);
            let (inner, door, acceptor) = (self.inner.clone(), self.door.clone(), self.acceptor.clone());
            let closed = closed.clone();
            connections.spawn(async move {
                match acceptor {
                    None => connection(inner, door, stream, closed).await,
                    Some(acceptor) => {
                        let shaken = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await;
                        if let Ok(Ok(stream)) = shaken {
                            connection(inner, door, stream, closed).await;
                        }
                    }
                }
                drop(place);
            });
        }
        closing.send_replace(true);
        // What takes longer is cut: uploads and downloads can be resumed.
        let _ = tokio::time::timeout(DRAIN_TIME_MAX, async { while connections.join_next().await.is_some() {} }).await;
    }
}

fn prepare(stream: &TcpStream) {
    // Both only make things better; a socket that refuses them still works.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, STALL.as_millis() as u32);
}

async fn connection<S>(inner: Arc<Inner>, door: Door, stream: S, mut closed: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request| {
        let answered = inner.clone().answer(door.clone(), request);
        async move { Ok::<_, std::convert::Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let closing = async move {
        // An error means that the registry itself is gone.
        drop(closed.wait_for(|closing| *closing).await);
    };
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = closing => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to the registry ended");
    }
}
