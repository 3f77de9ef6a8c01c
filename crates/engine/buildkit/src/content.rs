//! Blobs in a folder of the client, which is an OCI layout: caches and images come from there and go there.

use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::Arc;

use build::{BuildError, Builder, Package, PackageBlob};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use vocab::Digest;

use crate::session::Session;
use crate::wire::content as wire;

const READ: &str = "/containerd.services.content.v1.Content/Read";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";
const STORE: &str = "buildkit-attachable-store-id";
const CHUNK_BYTES: usize = 256 << 10;

/// One of the client's stores.
#[derive(Debug, Clone)]
pub(crate) struct ContentStore {
    session: Arc<Session>,
    id: String,
}

impl ContentStore {
    /// The store of that name: `local:FOLDER` is a cache, `oci:NAME` a named context, `export` an output.
    pub(crate) fn new(session: &Arc<Session>, id: String) -> Self {
        Self { session: session.clone(), id }
    }

    fn metadata(&self, method: &str) -> Result<MetadataMap, Status> {
        if !self.session.supports(method) {
            return Err(Status::failed_precondition(format!("method {method} not supported by the client")));
        }
        let mut metadata = MetadataMap::new();
        let id = MetadataValue::try_from(&self.id)
            .map_err(|_| Status::invalid_argument(format!("{:?} cannot be named in a header", self.id)))?;
        metadata.insert(STORE, id);
        Ok(metadata)
    }

    /// A blob, at most `limit` bytes of it, into a file. Whoever reads it checks the digest.
    pub(crate) async fn fetch(
        &self,
        digest: &Digest,
        limit: u64,
        into: &mut (dyn Write + Send),
    ) -> Result<u64, Status> {
        let metadata = self.metadata(READ)?;
        let asked = wire::ReadRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let once = Box::pin(futures_util::stream::once(async { asked }));
        let mut incoming = self.session.channel.streams::<_, wire::ReadResponse>(READ, metadata, once).await?;
        let mut got = 0;
        while let Some(piece) = incoming.next().await {
            let piece = piece?;
            got += piece.data.len() as u64;
            if got > limit {
                return Err(Status::invalid_argument(format!("{digest} is longer than {limit} bytes")));
            }
            into.write_all(&piece.data).map_err(|error| Status::unknown(format!("keep {digest}: {error}")))?;
        }
        Ok(got)
    }

    /// A small blob, checked.
    pub(crate) async fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Status> {
        let mut bytes = Vec::new();
        self.fetch(digest, limit, &mut bytes).await?;
        if image::hash::sha256(&bytes) != *digest {
            return Err(Status::data_loss(format!("{digest} is damaged at the client")));
        }
        Ok(bytes)
    }

    /// Gives a blob to the client; one that it has already is not sent.
    async fn put(&self, digest: &Digest, size: u64, open: Open) -> Result<(), Status> {
        let metadata = self.metadata(WRITE)?;
        let (pieces, to_send) = mpsc::channel::<wire::WriteRequest>(4);
        let base = wire::WriteRequest {
            reference: format!("knarr-{}", crate::ids::new()),
            total: size as i64,
            expected: digest.to_string(),
            ..wire::WriteRequest::default()
        };
        let sending = tokio::task::spawn_blocking(move || send(open, &base, &pieces));
        let outgoing = futures_util::stream::unfold(to_send, |mut to_send| async move {
            to_send.recv().await.map(|piece| (piece, to_send))
        });
        let told = async {
            let opened = self.session.channel.streams::<_, wire::WriteResponse>(WRITE, metadata, Box::pin(outgoing));
            let mut incoming = opened.await?;
            let mut committed = false;
            while let Some(answer) = incoming.next().await {
                committed |= answer?.action == wire::WriteAction::Commit as i32;
            }
            match committed {
                true => Ok(()),
                false => Err(Status::unknown(format!("the client did not keep {digest}"))),
            }
        };
        let told: Result<(), Status> = told.await;
        let sent = sending.await.map_err(|error| Status::internal(error.to_string()))?;
        match told {
            // It is there: that is all we want.
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(status),
            Ok(()) => sent,
        }
    }

    /// Everything that a package consists of; returns its top manifest's media type, digest and length.
    pub(crate) async fn put_package(&self, builder: &Builder, package: &Arc<Package>) -> Result<Top, Status> {
        for (digest, blob) in &package.blobs {
            self.put(digest, blob.bytes(), of_blob(builder, *digest, blob.clone())).await?;
        }
        let mut top = None;
        for (media_type, bytes) in &package.manifests {
            let digest = image::hash::sha256(bytes);
            self.put(&digest, bytes.len() as u64, of_bytes(bytes.clone())).await?;
            top = Some(Top { media_type: media_type.clone(), digest, bytes: bytes.len() as u64 });
        }
        top.ok_or_else(|| Status::internal("a package without a manifest"))
    }
}

/// The manifest that stands for a package.
#[derive(Debug)]
pub(crate) struct Top {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
}

impl Top {
    pub(crate) fn descriptor(&self) -> serde_json::Value {
        let digest = self.digest.to_string();
        serde_json::json!({ "mediaType": self.media_type, "digest": digest, "size": self.bytes })
    }
}

/// Opens a blob for reading, on a thread that may block.
type Open = Box<dyn FnOnce() -> Result<Box<dyn Read + Send>, Status> + Send>;

fn of_bytes(bytes: Vec<u8>) -> Open {
    Box::new(move || Ok(Box::new(std::io::Cursor::new(bytes)) as Box<dyn Read + Send>))
}

fn of_blob(builder: &Builder, digest: Digest, blob: PackageBlob) -> Open {
    let store = builder.engine().store().clone();
    Box::new(move || blob.reader(&store, &digest).map_err(|error| Status::unknown(format!("read {digest}: {error}"))))
}

fn send(open: Open, base: &wire::WriteRequest, pieces: &mpsc::Sender<wire::WriteRequest>) -> Result<(), Status> {
    let gone = |_| Status::cancelled("the client went away");
    // The first word asks whether the client has it: one that has ends the call.
    let stat = wire::WriteRequest { action: wire::WriteAction::Stat as i32, ..base.clone() };
    pieces.blocking_send(stat).map_err(gone)?;
    let mut reader = open()?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    loop {
        let count = reader.read(&mut buffer).map_err(|error| Status::unknown(format!("read a blob: {error}")))?;
        if count == 0 {
            break;
        }
        let data = Bytes::copy_from_slice(&buffer[..count]);
        let write = wire::WriteRequest { action: wire::WriteAction::Write as i32, offset, data, ..base.clone() };
        pieces.blocking_send(write).map_err(gone)?;
        offset += count as i64;
    }
    let commit = wire::WriteRequest { action: wire::WriteAction::Commit as i32, offset, ..base.clone() };
    pieces.blocking_send(commit).map_err(gone)
}

impl build::Blobs for ContentStore {
    fn fetch<'a>(
        &'a self,
        digest: &'a Digest,
        limit: u64,
        into: &'a mut (dyn Write + Send),
    ) -> Pin<Box<dyn Future<Output = build::Result<u64>> + Send + 'a>> {
        Box::pin(async move {
            let got = ContentStore::fetch(self, digest, limit, into).await;
            got.map_err(|status| BuildError::Invalid(status.message().to_owned()))
        })
    }
}
