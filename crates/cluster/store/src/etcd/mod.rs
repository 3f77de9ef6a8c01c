//! A real etcd as the store, so that several servers share one state.
//!
//! Reads are linearizable. A call that found its server unreachable is tried on the next one if it only reads; a write whose
//! answer was lost is reported as [`StoreError::Unreachable`], for its caller to read and decide. Watches resume by
//! themselves from the revision they have reached.
//!
//! Endpoints are addresses or names that the C library resolves. Progress is asked for on demand from etcd 3.4.25 or 3.5.8
//! on: older servers may send it ahead of events, so from them only what events say counts.

mod client;
mod convert;
mod watch;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use client::Client;

use crate::{
    Answer, LeaseId, RangeReply, RangeRequest, Revision, Store, StoreError, Txn, TxnReply, Watch, WatchRequest,
};

/// Where the servers are and how to speak to them.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// `http://` or `https://` addresses of the members; tried in turn.
    pub endpoints: Vec<String>,
    pub tls: Option<Tls>,
    pub credentials: Option<Credentials>,
    /// How long one call may take before the next endpoint is tried.
    pub timeout: Duration,
}

impl EtcdOptions {
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Self { endpoints, tls: None, credentials: None, timeout: Duration::from_secs(5) }
    }
}

/// Certificates in PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    pub ca: Vec<u8>,
    /// Client certificate and key, where the servers ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in the servers' certificates, where it is not that of the endpoint.
    pub server_name: Option<String>,
}

/// User name and password, for servers with authentication enabled.
#[derive(Clone)]
pub struct Credentials {
    pub name: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The etcd backend. Cheap to clone.
#[derive(Clone)]
pub struct Etcd {
    client: Arc<Client>,
}

impl Etcd {
    /// Connects and asks for the revision, so that a wrong address or password is told at once.
    pub async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        let etcd = Self { client: Arc::new(Client::new(options)?) };
        etcd.revision().await?;
        Ok(etcd)
    }

    async fn newest_revision(&self) -> Result<Revision, StoreError> {
        // A key that no one has: the header alone is wanted.
        let request =
            wire::RangeRequest { key: crate::Bytes::from_static(b"\0"), keys_only: true, ..Default::default() };
        let response: wire::RangeResponse = self.client.read("range", "/etcdserverpb.KV/Range", request).await?;
        Ok(revision_of(response.header))
    }

    /// Makes etcd's word about a revision ours, which names the oldest or newest revision.
    async fn about_revision(&self, error: StoreError, asked: Revision) -> StoreError {
        match &error {
            StoreError::Refused { cause, .. } if cause.contains("required revision has been compacted") => {
                let oldest = watch::oldest(&self.client).await.unwrap_or(asked + 1);
                StoreError::Compacted { asked, oldest }
            }
            StoreError::Refused { cause, .. } if cause.contains("required revision is a future revision") => {
                match self.newest_revision().await {
                    Ok(current) => StoreError::Future { asked, current },
                    Err(error) => error,
                }
            }
            _ => error,
        }
    }

    async fn range_at(&self, request: RangeRequest) -> Result<RangeReply, StoreError> {
        if request.span.is_empty() {
            let revision = self.newest_revision().await?;
            return Ok(RangeReply { kvs: Vec::new(), more: false, count: request.count.then_some(0), revision });
        }
        let (key, range_end) = convert::bounds(&request.span);
        let ask = wire::RangeRequest {
            key,
            range_end,
            limit: request.limit as i64,
            revision: request.revision.unwrap_or(0) as i64,
            ..Default::default()
        };
        let response: wire::RangeResponse = match self.client.read("range", "/etcdserverpb.KV/Range", ask).await {
            Ok(response) => response,
            Err(error) => return Err(self.about_revision(error, request.revision.unwrap_or(0)).await),
        };
        Ok(RangeReply {
            kvs: response.kvs.into_iter().map(convert::key_value).collect::<Result<_, _>>()?,
            more: response.more,
            count: request.count.then_some(response.count as usize),
            revision: revision_of(response.header),
        })
    }

    async fn transact(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        let request = convert::txn(&txn)?;
        let response: wire::TxnResponse = match self.client.write("txn", "/etcdserverpb.KV/Txn", request).await {
            Ok(response) => response,
            Err(error) => return Err(about_txn(error, &txn)),
        };
        let revision = revision_of(response.header.clone());
        let succeeded = response.succeeded;
        let done = if succeeded { &txn.success } else { &txn.failure };
        Ok(TxnReply { succeeded, revision, replies: convert::replies(done, response, revision)? })
    }

    async fn begin_watch(&self, request: WatchRequest) -> Result<Box<dyn Watch>, StoreError> {
        let start = if request.start == 0 {
            self.newest_revision().await? + 1
        } else {
            // The revision before it must be readable: etcd itself tells a watcher only later that history is gone.
            let probe = RangeRequest {
                span: crate::Span::key("\0"),
                revision: Some((request.start - 1).max(1)),
                limit: 1,
                count: false,
            };
            match self.range_at(probe).await {
                Ok(_) | Err(StoreError::Future { .. }) => request.start,
                Err(StoreError::Compacted { oldest, .. }) => {
                    return Err(StoreError::Compacted { asked: request.start, oldest });
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Box::new(watch::EtcdWatch::new(self.client.clone(), request.span, start)))
    }

    async fn compact_to(&self, revision: Revision) -> Result<(), StoreError> {
        let request = wire::CompactionRequest { revision: revision as i64 };
        match self.client.write::<_, wire::Empty>("compact", "/etcdserverpb.KV/Compact", request).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.about_revision(error, revision).await),
        }
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<u64, StoreError> {
        let ask = wire::LeaseId { id: id as i64 };
        let mut answers =
            self.client.stream("/etcdserverpb.Lease/LeaseKeepAlive", futures_util::stream::iter([ask])).await?;
        let answer: Option<wire::LeaseKeepAliveResponse> =
            answers.message().await.map_err(|status| self.client.failed("keep lease alive", &status))?;
        match answer.map_or(0, |answer| answer.ttl) {
            ttl if ttl > 0 => Ok(ttl as u64),
            _ => Err(StoreError::LeaseNotFound(id)),
        }
    }
}

impl Store for Etcd {
    fn is_shared(&self) -> bool {
        true
    }

    fn revision(&self) -> Answer<'_, Revision> {
        Box::pin(self.newest_revision())
    }

    fn range(&self, request: RangeRequest) -> Answer<'_, RangeReply> {
        Box::pin(self.range_at(request))
    }

    fn txn(&self, txn: Txn) -> Answer<'_, TxnReply> {
        Box::pin(self.transact(txn))
    }

    fn watch(&self, request: WatchRequest) -> Answer<'_, Box<dyn Watch>> {
        Box::pin(self.begin_watch(request))
    }

    fn compact(&self, revision: Revision) -> Answer<'_, ()> {
        Box::pin(self.compact_to(revision))
    }

    fn lease_grant(&self, id: LeaseId, ttl_secs: u64) -> Answer<'_, LeaseId> {
        Box::pin(async move {
            let request = wire::LeaseGrantRequest { ttl: ttl_secs as i64, id: id as i64 };
            let path = "/etcdserverpb.Lease/LeaseGrant";
            match self.client.write::<_, wire::LeaseGrantResponse>("grant lease", path, request).await {
                Ok(response) => Ok(response.id as LeaseId),
                Err(StoreError::Refused { cause, .. }) if cause.contains("lease already exists") => {
                    Err(StoreError::LeaseExists(id))
                }
                Err(error) => Err(error),
            }
        })
    }

    fn lease_keep_alive(&self, id: LeaseId) -> Answer<'_, u64> {
        Box::pin(self.keep_alive(id))
    }

    fn lease_revoke(&self, id: LeaseId) -> Answer<'_, ()> {
        Box::pin(async move {
            let request = wire::LeaseId { id: id as i64 };
            let path = "/etcdserverpb.Lease/LeaseRevoke";
            match self.client.write::<_, wire::Empty>("revoke lease", path, request).await {
                Ok(_) => Ok(()),
                Err(StoreError::Refused { cause, .. }) if cause.contains("lease not found") => {
                    Err(StoreError::LeaseNotFound(id))
                }
                Err(error) => Err(error),
            }
        })
    }
}

fn revision_of(header: Option<wire::Header>) -> Revision {
    header.map_or(0, |header| header.revision as Revision)
}

fn about_txn(error: StoreError, txn: &Txn) -> StoreError {
    let StoreError::Refused { endpoint, cause, .. } = &error else { return error };
    let puts = || {
        txn.success.iter().chain(&txn.failure).filter_map(|op| match op {
            crate::Op::Put(put) => Some(put),
            _ => None,
        })
    };
    let name = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    if cause.contains("duplicate key given in txn") {
        let mut seen = std::collections::BTreeSet::new();
        let twice = puts().find(|put| !seen.insert(&put.key)).or_else(|| puts().next());
        return StoreError::DuplicateKey(twice.map_or_else(String::new, |put| name(&put.key)));
    }
    if cause.contains("lease not found") {
        return StoreError::LeaseNotFound(puts().map(|put| put.lease).find(|lease| *lease != 0).unwrap_or(0));
    }
    if cause.contains("database space exceeded") {
        return StoreError::Full { path: endpoint.clone(), cause: cause.clone() };
    }
    if cause.contains("request is too large")
        && let Some(put) = puts().max_by_key(|put| put.value.len())
    {
        // etcd does not tell its limit; 1.5 MiB is what it has unless configured.
        return StoreError::TooLarge { key: name(&put.key), size: put.value.len(), limit: 3 << 19 };
    }
    error
}
