//! Calls to whichever member answers: connections, deadlines, tokens, and which failure moves on to the next member.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use futures_util::Stream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{EtcdOptions, Tls, wire};
use crate::StoreError;

pub(super) struct Client {
    options: EtcdOptions,
    channels: Vec<Channel>,
    /// The member that answered last.
    current: AtomicUsize,
    token: Mutex<Option<MetadataValue<Ascii>>>,
    progress: OnceLock<bool>,
}

impl Client {
    /// Opens no connection yet: each is made when it is first needed, and again when it was lost.
    pub(super) fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        let channels =
            options.endpoints.iter().map(|endpoint| channel(endpoint, &options)).collect::<Result<Vec<_>, _>>()?;
        if channels.is_empty() {
            return Err(StoreError::Open { path: "datastore".into(), cause: "no endpoint was given".into() });
        }
        Ok(Self { options, channels, current: AtomicUsize::new(0), token: Mutex::new(None), progress: OnceLock::new() })
    }

    /// A call that changes nothing: tried on every member before it fails.
    pub(super) async fn read<Q, R>(&self, call: &'static str, path: &'static str, request: Q) -> Result<R, StoreError>
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut status = Status::unavailable("no member was asked");
        // Twice around: a member that has just taken over may refuse the first time.
        for _ in 0..self.channels.len() * 2 {
            match self.unary(path, request.clone()).await {
                Ok(response) => return Ok(response),
                Err(failure) if moves_on(&failure) => {
                    self.next_member();
                    status = failure;
                }
                Err(failure) => return Err(self.failed(call, &failure)),
            }
        }
        Err(self.failed(call, &status))
    }

    /// A call that writes: tried on another member only where the first cannot have received it.
    pub(super) async fn write<Q, R>(&self, call: &'static str, path: &'static str, request: Q) -> Result<R, StoreError>
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut status = Status::unavailable("no member was asked");
        for _ in 0..self.channels.len() {
            match self.unary(path, request.clone()).await {
                Ok(response) => return Ok(response),
                Err(failure) if moves_on(&failure) => {
                    self.next_member();
                    let received = !never_sent(&failure);
                    status = failure;
                    if received {
                        break;
                    }
                }
                Err(failure) => return Err(self.failed(call, &failure)),
            }
        }
        Err(self.failed(call, &status))
    }

    /// Whether progress that is asked for comes after the events it is about. It may come ahead of them from servers
    /// before 3.4.25 and 3.5.8; whoever resumed from there would miss events.
    pub(super) async fn trusts_progress(&self) -> bool {
        if let Some(known) = self.progress.get() {
            return *known;
        }
        let status = self.read("status", "/etcdserverpb.Maintenance/Status", wire::Empty {}).await;
        let Ok(wire::StatusResponse { version }) = status else { return false };
        *self.progress.get_or_init(|| progress_is_ordered(&version))
    }

    /// A stream both ways on the current member.
    pub(super) async fn stream<Q, R, S>(&self, path: &'static str, asks: S) -> Result<Streaming<R>, StoreError>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
        S: Stream<Item = Q> + Send + 'static,
    {
        self.log_in().await.map_err(|status| self.stream_failed(&status))?;
        let mut grpc = self.grpc();
        let opened = async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let request = self.with_token(Request::new(asks));
            grpc.streaming(request, PathAndQuery::from_static(path), ProstCodec::<Q, R>::default()).await
        };
        match tokio::time::timeout(self.options.timeout, opened).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.stream_failed(&status)),
            Err(_) => Err(self.stream_failed(&Status::deadline_exceeded("no answer in time"))),
        }
    }

    fn stream_failed(&self, status: &Status) -> StoreError {
        let error = self.failed("stream", status);
        if wants_new_token(status) {
            self.forget_token();
        }
        if moves_on(status) {
            self.next_member();
        }
        error
    }

    pub(super) fn next_member(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    fn member(&self) -> usize {
        self.current.load(Ordering::Relaxed) % self.channels.len()
    }

    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.channels[self.member()].clone()).max_decoding_message_size(usize::MAX)
    }

    async fn unary<Q, R>(&self, path: &'static str, request: Q) -> Result<R, Status>
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        self.log_in().await?;
        match self.unary_once(path, request.clone()).await {
            Err(status) if wants_new_token(&status) && self.options.credentials.is_some() => {
                // Tokens expire, and die with their member; a new one is asked for once.
                self.forget_token();
                self.log_in().await?;
                self.unary_once(path, request).await
            }
            other => other,
        }
    }

    async fn unary_once<Q, R>(&self, path: &'static str, request: Q) -> Result<R, Status>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        let call = async {
            grpc.ready().await.map_err(|error| Status::unavailable(format!("{NEVER_SENT}: {error}")))?;
            let request = self.with_token(Request::new(request));
            grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, R>::default()).await
        };
        let response = tokio::time::timeout(self.options.timeout, call).await;
        Ok(response.map_err(|_| Status::deadline_exceeded("no answer in time"))??.into_inner())
    }

    /// Its failure is that of whatever was to be called: a member that is away is away for logins too.
    async fn log_in(&self) -> Result<(), Status> {
        let Some(credentials) = &self.options.credentials else { return Ok(()) };
        if self.token.lock().expect("the token's lock is never poisoned").is_some() {
            return Ok(());
        }
        let request =
            wire::AuthenticateRequest { name: credentials.name.clone(), password: credentials.password.clone() };
        let answer: wire::AuthenticateResponse = self.unary_once("/etcdserverpb.Auth/Authenticate", request).await?;
        let token = answer.token.parse().map_err(|_| Status::internal("the token is no ASCII text"))?;
        *self.token.lock().expect("the token's lock is never poisoned") = Some(token);
        Ok(())
    }

    /// The next call logs in again.
    pub(super) fn forget_token(&self) {
        *self.token.lock().expect("the token's lock is never poisoned") = None;
    }

    fn with_token<T>(&self, mut request: Request<T>) -> Request<T> {
        if let Some(token) = &*self.token.lock().expect("the token's lock is never poisoned") {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    pub(super) fn failed(&self, call: &'static str, status: &Status) -> StoreError {
        if moves_on(status) {
            let endpoint = self.options.endpoints.join(",");
            let cause = status.message().trim_start_matches(NEVER_SENT).trim_start_matches(": ").to_owned();
            return StoreError::Unreachable { endpoint, cause };
        }
        self.refused(call, status.message())
    }

    pub(super) fn refused(&self, call: &'static str, cause: &str) -> StoreError {
        StoreError::Refused { endpoint: self.options.endpoints[self.member()].clone(), call, cause: cause.to_owned() }
    }
}

fn progress_is_ordered(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, minor @ 0..=4, patch) => minor == 4 && patch >= 25,
        (3, 5, patch) => patch >= 8,
        (major, ..) => major >= 3,
    }
}

/// Marks a failure to connect: the request has not left this process.
const NEVER_SENT: &str = "not sent";

fn never_sent(status: &Status) -> bool {
    let connect = |error: &(dyn std::error::Error + 'static)| error.to_string().contains("tcp connect error");
    let source = std::error::Error::source(status);
    status.message().starts_with(NEVER_SENT) || std::iter::successors(source, |error| error.source()).any(connect)
}

/// The token is not, or no longer, good. A token from before a change of users is told apart by its text only.
fn wants_new_token(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || status.message().contains("revision of auth store is old")
}

/// The member is away, has no leader, or lost its connection: another one may answer.
fn moves_on(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
        && !status.message().starts_with("etcdserver: user")
}

fn channel(endpoint: &str, options: &EtcdOptions) -> Result<Channel, StoreError> {
    let wrong = |cause: String| StoreError::Open { path: format!("datastore {endpoint}"), cause };
    let mut builder = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|error| wrong(error.to_string()))?
        .connect_timeout(options.timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    if endpoint.starts_with("https://") {
        let tls = options.tls.as_ref().ok_or_else(|| wrong("https needs the certificate of its authority".into()))?;
        builder = builder.tls_config(tls_config(tls)).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(builder.connect_lazy())
}

fn tls_config(tls: &Tls) -> ClientTlsConfig {
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
    if let Some((certificate, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = &tls.server_name {
        config = config.domain_name(name);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_ordered_progress_are_known() {
        let ordered = ["3.4.25", "3.4.40", "3.5.8", "3.5.21", "3.6.0", "3.6.0-rc.1", "4.0.0"];
        let not = ["3.4.23", "3.3.27", "3.5.7", "2.3.8", "", "odd"];
        assert!(ordered.iter().all(|version| progress_is_ordered(version)));
        assert!(!not.iter().any(|version| progress_is_ordered(version)));
    }
}
