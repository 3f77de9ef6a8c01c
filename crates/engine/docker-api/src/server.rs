//! The socket and its connections: who may connect, how long a head may take, how many connections there may be.
//!
//! What a request means is `router`'s business.

use std::future::Future;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue, SERVER};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::http::{error::ApiError, reply, reply::Reply, version};
use crate::router::{self, Doors};

/// A request's line and headers together, bytes. Longer ones are answered 431.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What strangers may take up. The defaults suit a socket that root alone can reach.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections served at once; further clients wait in the socket's backlog. Each costs a descriptor.
    pub connections: usize,
    /// How long a connection may stay silent, or take over one request's head.
    pub head_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 8192, head_time: Duration::from_secs(60) }
    }
}

/// How long requests under way may take to end after a shutdown was asked for.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("socket {}: another process answers there", path.display())]
    InUse { path: PathBuf },
    #[error("socket {}: no group named {group:?} in /etc/group", path.display())]
    NoGroup { path: PathBuf, group: String },
    #[error("socket {}: {step}", path.display())]
    Io { path: PathBuf, step: &'static str, source: io::Error },
}

/// Makes the listening socket. It appears under its name with its final owner and mode (0600, or 0660 with a group),
/// never wider, and replaces a socket that nobody serves any more.
pub fn bind(path: &Path, group: Option<&str>) -> Result<UnixListener, BindError> {
    let fail = |step| move |source| BindError::Io { path: path.to_owned(), step, source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(BindError::InUse { path: path.to_owned() });
    }
    let gid = match group {
        Some(group) => {
            Some(group_id(group).ok_or_else(|| BindError::NoGroup { path: path.to_owned(), group: group.to_owned() })?)
        }
        None => None,
    };
    // Made under another name first: between bind and chmod the mode is what the umask left.
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(fail("remove the draft of an earlier process")(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&draft).map_err(fail("bind"))?;
    let finish = || {
        chown(&draft, None, gid).map_err(fail("set the group"))?;
        let mode = if gid.is_some() { 0o660 } else { 0o600 };
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(mode)).map_err(fail("set the mode"))?;
        std::fs::rename(&draft, path).map_err(fail("give it its name"))
    };
    finish().inspect_err(|_| {
        // The error above is the one to tell; the draft is removed as far as that goes.
        let _ = std::fs::remove_file(&draft);
    })?;
    Ok(listener)
}

/// The group's number. Read by ourselves: a static program has no name service.
fn group_id(group: &str) -> Option<u32> {
    if let Ok(number) = group.parse() {
        return Some(number);
    }
    let table = std::fs::read_to_string("/etc/group").ok()?;
    let fields = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.filter(|fields| fields.len() >= 3 && fields[0] == group).find_map(|fields| fields[2].parse().ok())
}

/// Serves Docker's API until `shutdown` resolves; then lets requests under way end, for a few seconds at most.
pub async fn serve(doors: Doors, listener: UnixListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    serve_within(Limits::default(), doors, listener, shutdown).await
}

/// [`serve`] with limits of the caller's choice.
pub async fn serve_within(
    limits: Limits,
    doors: Doors,
    listener: UnixListener,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_requests(limits, listener, shutdown, move |request| answer(doors.clone(), request)).await
}

async fn serve_requests<A, F>(
    limits: Limits,
    listener: UnixListener,
    shutdown: impl Future<Output = ()>,
    answer: A,
) -> io::Result<()>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send,
{
    let mut shutdown = pin!(shutdown);
    let places = Arc::new(Semaphore::new(limits.connections));
    let (closing, closed) = tokio::sync::watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.map_err(io::Error::other)?,
            () = &mut shutdown => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: what holds them will end, and a busy loop would not help.
                    warn!(%error, "accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        while connections.try_join_next().is_some() {}
        let answer = answer.clone();
        let mut closed = closed.clone();
        connections.spawn(async move {
            let closing = async move {
                // An error means that the server itself is gone.
                let _ = closed.wait_for(|closing| *closing).await;
            };
            connection(answer, limits, stream, closing).await;
            drop(place);
        });
    }
    drop(listener);
    closing.send_replace(true);
    let drained =
        tokio::time::timeout(DRAIN_TIME_MAX, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        debug!(left = connections.len(), "connections cut at shutdown");
    }
    Ok(())
}

async fn connection<A, F>(answer: A, limits: Limits, stream: UnixStream, closing: impl Future<Output = ()>)
where
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Reply> + Send,
{
    let service = service_fn(move |request| {
        let answered = answer(request);
        async move { Ok::<_, std::convert::Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = closing => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    // Clients come and go as they like (a closed `docker logs -f` ends here): not worth a warning.
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}

async fn answer(doors: Doors, request: Request<Incoming>) -> Reply {
    // The path alone: what else a request carries may be secret.
    let told = tracing::enabled!(tracing::Level::DEBUG)
        .then(|| (request.method().clone(), request.uri().path().to_owned(), std::time::Instant::now()));
    let mut reply = router::route(doors, request).await.unwrap_or_else(|error: ApiError| {
        if error.status == StatusCode::INTERNAL_SERVER_ERROR {
            warn!(message = %error.message, "request failed");
        }
        reply::error(&error)
    });
    let headers = reply.headers_mut();
    headers.insert(HeaderName::from_static("api-version"), API_VERSION_HEADER.clone());
    headers.insert(HeaderName::from_static("docker-experimental"), HeaderValue::from_static("false"));
    headers.insert(HeaderName::from_static("ostype"), HeaderValue::from_static("linux"));
    headers.insert(SERVER, SERVER_HEADER);
    if let Some((method, path, start)) = told {
        debug!(%method, path, status = reply.status().as_u16(), micros = start.elapsed().as_micros() as u64, "request");
    }
    reply
}

static API_VERSION_HEADER: std::sync::LazyLock<HeaderValue> =
    std::sync::LazyLock::new(|| HeaderValue::from_str(&version::NEWEST.to_string()).expect("digits and a dot"));

const SERVER_HEADER: HeaderValue = HeaderValue::from_static(concat!("Knarr/", env!("CARGO_PKG_VERSION"), " (linux)"));

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
