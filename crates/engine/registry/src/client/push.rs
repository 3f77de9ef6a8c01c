//! Push: an image of the store goes to a registry. Blobs that are there, or in another repository there, are not sent; one
//! whose connection breaks goes on where the registry says that it got.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{Method, StatusCode};
use image::{Distributable, Store};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use vocab::{Digest, Reference};

use super::connect::Answer;
use super::error::{Error, Result};
use super::pull::blocking;
use super::session::{Ask, Endpoint, Session, pause};
use super::url::Url;
use super::{Client, Credentials, Report, Reporter, short};
use crate::body::Body;
use crate::query;

const REPORT_EVERY: Duration = Duration::from_millis(100);
const TRIES: u32 = 5;

pub struct PushRequest {
    /// With a tag.
    pub reference: Reference,
    pub credentials: Credentials,
}

/// Where the bytes of a blob come from.
#[derive(Debug, Clone)]
pub enum BlobSource {
    Stored,
    Bytes(bytes::Bytes),
}

/// Blobs and manifests that are no image of the store, or more than one.
pub struct PackageRequest {
    /// With a tag; with a digest instead, the whole gets no tag.
    pub reference: Reference,
    pub credentials: Credentials,
    /// Digest, length, and where the bytes are.
    pub blobs: Vec<(Digest, u64, BlobSource)>,
    /// Media types and bytes; what one refers to stands before it. The last one gets the tag.
    pub manifests: Vec<(String, Vec<u8>)>,
}

impl Client {
    /// Pushes a package: its blobs, then its manifests.
    pub async fn push_package(&self, store: &Arc<Store>, request: PackageRequest) -> Result<()> {
        let reference = request.reference.clone().or_latest();
        let session = Arc::new(self.session(&reference, request.credentials, false).await?);
        let places = Arc::new(Semaphore::new(self.config().uploads.max(1)));
        let mut tasks = JoinSet::new();
        for (digest, bytes, source) in request.blobs {
            let job = BlobJob {
                session: session.clone(),
                store: store.clone(),
                sources: Arc::default(),
                digest,
                bytes,
                source,
                id: None,
                report: Arc::new(|_| true),
            };
            let places = places.clone();
            tasks.spawn(async move {
                let Ok(_place) = places.acquire_owned().await else { return Err(Error::Cancelled) };
                job.run().await
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap_or_else(|e| Err(Error::Invalid(format!("an upload was cut short: {e}"))))?;
        }
        let last = request.manifests.len().saturating_sub(1);
        for (at, (media_type, bytes)) in request.manifests.iter().enumerate() {
            let digest = image::hash::sha256(bytes);
            let own = digest.to_string();
            let name = if at == last { reference.tag().unwrap_or(&own) } else { &own };
            session.put_bytes(media_type, bytes, &digest, name).await?;
        }
        Ok(())
    }

    /// Pushes one tag of an image; returns the manifest's digest.
    pub async fn push(&self, store: &Arc<Store>, request: PushRequest, report: Reporter) -> Result<Digest> {
        let reference = request.reference.clone().or_latest();
        let familiar = reference.familiar();
        let (looking, name) = (store.clone(), familiar.clone());
        let image = blocking(move || match looking.distributable(&name) {
            Err(image::Error::NoSuchImage(_)) => Err(Error::NoLocal(name)),
            other => Ok(other?),
        })
        .await?;
        let session = Arc::new(self.session(&reference, request.credentials, false).await?);
        for layer in image.layers.iter().rev() {
            tell(&report, Report::step(short(&layer.diff_id), "Preparing"))?;
        }
        let sources = Arc::new(sources(store, &image, &reference)?);
        session.blobs(store, &image, &sources, &report).await?;
        let tag = reference.tag().unwrap_or("latest");
        session.put_manifest(&image, tag).await?;
        let bytes = image.manifest.len() as u64;
        report(Report::Status(format!("{tag}: digest: {} size: {bytes}", image.digest)));
        report(Report::Pushed { tag: tag.to_owned(), digest: image.digest, bytes });
        Ok(image.digest)
    }
}

fn tell(report: &Reporter, what: Report) -> Result<()> {
    if report(what) { Ok(()) } else { Err(Error::Cancelled) }
}

/// Other repositories of the same registry that the image is known by: its blobs may be there.
fn sources(store: &Store, image: &Distributable, reference: &Reference) -> Result<Vec<String>> {
    let facts = store.inspect(&image.id.to_string())?;
    let names = facts.digests.iter().chain(&facts.tags);
    let mut found: Vec<String> = Vec::new();
    for name in names.filter(|name| name.domain() == reference.domain() && name.path() != reference.path()) {
        if !found.iter().any(|known| known == name.path()) {
            found.push(name.path().to_owned());
        }
    }
    found.truncate(4);
    Ok(found)
}

impl Session {
    fn registry(&self) -> Result<&Endpoint> {
        self.endpoints.last().ok_or_else(|| Error::Invalid("there is no registry to push to".into()))
    }

    async fn blobs(
        self: &Arc<Self>,
        store: &Arc<Store>,
        image: &Distributable,
        sources: &Arc<Vec<String>>,
        report: &Reporter,
    ) -> Result<()> {
        let places = Arc::new(Semaphore::new(self.client.config().uploads.max(1)));
        let mut tasks = JoinSet::new();
        let mut begun = std::collections::HashSet::new();
        let layers = image.layers.iter().map(|layer| (layer.digest, layer.bytes, Some(short(&layer.diff_id))));
        for (digest, bytes, id) in layers.chain([(image.id, image.config_bytes, None)]) {
            if !begun.insert(digest) {
                if let Some(id) = id {
                    tell(report, Report::step(id, "Layer already exists"))?;
                }
                continue;
            }
            let job = BlobJob {
                session: self.clone(),
                store: store.clone(),
                sources: sources.clone(),
                digest,
                bytes,
                source: BlobSource::Stored,
                id,
                report: report.clone(),
            };
            let places = places.clone();
            tasks.spawn(async move {
                let Ok(_place) = places.acquire_owned().await else { return Err(Error::Cancelled) };
                job.run().await
            });
        }
        while let Some(done) = tasks.join_next().await {
            // Dropping the set stops the others.
            done.unwrap_or_else(|e| Err(Error::Invalid(format!("an upload was cut short: {e}"))))?;
        }
        Ok(())
    }

    async fn put_manifest(&self, image: &Distributable, tag: &str) -> Result<()> {
        self.put_bytes(&image.media_type, &image.manifest, &image.digest, tag).await
    }

    async fn put_bytes(&self, media_type: &str, manifest: &[u8], digest: &Digest, tag: &str) -> Result<()> {
        let endpoint = self.registry()?;
        let scope = self.scope("pull,push");
        let url = self.url(endpoint, &format!("manifests/{tag}"));
        let bytes = manifest.to_vec();
        let body = move || Ok(Body::Full(bytes.clone().into()));
        let mut ask = Ask::new(Method::PUT, &scope).header(CONTENT_TYPE, media_type);
        (ask.body, ask.repeatable) = (&body, true);
        let answer = self.send(endpoint, &url, &ask).await?;
        if !answer.status.is_success() {
            return Err(self.push_refusal(answer, &Method::PUT, "put the manifest").await);
        }
        let told = answer.header("docker-content-digest").map(str::to_owned);
        answer.discard().await;
        match told.filter(|told| *told != digest.to_string()) {
            Some(told) => {
                Err(Error::content("the registry", format!("it keeps manifest {told} where {digest} was sent")))
            }
            None => Ok(()),
        }
    }

    async fn push_refusal(&self, answer: Answer, method: &Method, what: &str) -> Error {
        match self.refusal(answer, method, what).await {
            Error::Unauthorized { .. } => {
                Error::PushDenied("denied: requested access to the resource is denied".into())
            }
            Error::Refused { status: 403, detail, .. } => Error::PushDenied(detail),
            other => other,
        }
    }
}

/// One blob on its way.
struct BlobJob {
    session: Arc<Session>,
    store: Arc<Store>,
    sources: Arc<Vec<String>>,
    digest: Digest,
    bytes: u64,
    source: BlobSource,
    /// What it is called in reports; the configuration is not told about.
    id: Option<String>,
    report: Reporter,
}

impl BlobJob {
    fn tell(&self, status: impl Into<String>) -> Result<()> {
        match &self.id {
            Some(id) => tell(&self.report, Report::step(id.clone(), status)),
            None => Ok(()),
        }
    }

    async fn run(self) -> Result<()> {
        let session = &self.session;
        let endpoint = session.registry()?;
        let scope = session.scope("pull,push");
        let url = session.url(endpoint, &format!("blobs/{}", self.digest));
        let answer = session.send(endpoint, &url, &Ask::new(Method::HEAD, &scope)).await?;
        let status = answer.status;
        if status == StatusCode::OK {
            answer.discard().await;
            return self.tell("Layer already exists");
        }
        if matches!(status.as_u16(), 401 | 403) {
            return Err(session.push_refusal(answer, &Method::HEAD, "look for a blob").await);
        }
        answer.discard().await;
        let mut location = None;
        for source in self.sources.iter() {
            // The right to read the source is asked for together with the right to write here.
            let scope = format!("{} repository:{source}:pull", session.scope("pull,push"));
            let digest = self.digest.to_string();
            let pairs = query::join(&[("mount", &digest), ("from", source)]);
            let url = session.url(endpoint, &format!("blobs/uploads/?{pairs}"));
            let ask = Ask { repeatable: true, ..Ask::new(Method::POST, &scope) }.header(CONTENT_LENGTH, "0");
            let Ok(answer) = session.send(endpoint, &url, &ask).await else { continue };
            match answer.status {
                StatusCode::CREATED => {
                    answer.discard().await;
                    return self.tell(format!("Mounted from {source}"));
                }
                StatusCode::ACCEPTED => {
                    // It could not be mounted; the registry has begun an upload instead.
                    location = answer.header(LOCATION).and_then(|location| answer.url.join(location));
                    answer.discard().await;
                    break;
                }
                _ => answer.discard().await,
            }
        }
        let location = match location {
            Some(location) => location,
            None => self.begin(endpoint, &scope).await?,
        };
        self.upload(endpoint, &scope, location).await?;
        self.tell("Pushed")
    }

    async fn begin(&self, endpoint: &Endpoint, scope: &str) -> Result<Url> {
        let url = self.session.url(endpoint, "blobs/uploads/");
        let ask = Ask { repeatable: true, ..Ask::new(Method::POST, scope) }.header(CONTENT_LENGTH, "0");
        let answer = self.session.send(endpoint, &url, &ask).await?;
        if answer.status != StatusCode::ACCEPTED {
            return Err(self.session.push_refusal(answer, &Method::POST, "begin an upload").await);
        }
        let location = answer.header(LOCATION).and_then(|location| answer.url.join(location));
        answer.discard().await;
        location.ok_or_else(|| Error::content("the registry", "it began an upload at no address"))
    }

    async fn upload(&self, endpoint: &Endpoint, scope: &str, mut location: Url) -> Result<()> {
        let (mut offset, mut tries) = (0, 0);
        while offset < self.bytes {
            let chunk = self.session.client.config().chunk_bytes;
            let end = if chunk == 0 { self.bytes } else { self.bytes.min(offset + chunk) };
            match self.patch(endpoint, scope, &location, offset, end).await {
                Ok(next) => {
                    location = next;
                    (offset, tries) = (end, 0);
                }
                Err(error) if error.is_transport() && tries + 1 < TRIES => {
                    tries += 1;
                    tracing::debug!(%error, offset, "an upload broke off");
                    tokio::time::sleep(pause(tries, None)).await;
                    let (at, next) = match self.where_is(endpoint, scope, &location).await {
                        Ok(found) => found,
                        // The registry has forgotten it: from the beginning.
                        Err(_) => (0, self.begin(endpoint, scope).await?),
                    };
                    tries = if at > offset { 0 } else { tries };
                    (offset, location) = (at, next);
                }
                Err(error) => return Err(error),
            }
        }
        let url = location.with(&query::join(&[("digest", &self.digest.to_string())]));
        let ask = Ask { repeatable: true, ..Ask::new(Method::PUT, scope) }.header(CONTENT_LENGTH, "0");
        let answer = self.session.send(endpoint, &url, &ask).await?;
        if !answer.status.is_success() {
            return Err(self
                .session
                .push_refusal(answer, &Method::PUT, &format!("complete blob {}", self.digest))
                .await);
        }
        answer.discard().await;
        Ok(())
    }

    async fn patch(&self, endpoint: &Endpoint, scope: &str, url: &Url, from: u64, end: u64) -> Result<Url> {
        let body = || self.body(from, end);
        let mut ask = Ask::new(Method::PATCH, scope)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, (end - from).to_string());
        // A blob in one piece needs to say nothing about its place, which every registry takes.
        if from > 0 || end < self.bytes {
            ask = ask.header(CONTENT_RANGE, format!("{from}-{}", end - 1));
        }
        ask.body = &body;
        let answer = self.session.send(endpoint, url, &ask).await?;
        if !answer.status.is_success() {
            return Err(self.session.push_refusal(answer, &Method::PATCH, &format!("send blob {}", self.digest)).await);
        }
        let next = answer.header(LOCATION).and_then(|location| answer.url.join(location));
        answer.discard().await;
        Ok(next.unwrap_or_else(|| url.clone()))
    }

    /// How far an upload that broke off has come.
    async fn where_is(&self, endpoint: &Endpoint, scope: &str, url: &Url) -> Result<(u64, Url)> {
        let answer = self.session.send(endpoint, url, &Ask::new(Method::GET, scope)).await?;
        if !answer.status.is_success() {
            return Err(self.session.push_refusal(answer, &Method::GET, "look after an upload").await);
        }
        let range = answer.header(RANGE).and_then(crate::ranges::parse_chunk);
        let next = answer.header(LOCATION).and_then(|location| answer.url.join(location));
        answer.discard().await;
        let offset = match range {
            // Nothing at all is told as `0-0`, which could also be one byte; beginning over is right for both.
            None | Some((_, 0)) => return Err(Error::content(url, "the upload is at its beginning")),
            Some((_, last)) => last + 1,
        };
        Ok((offset.min(self.bytes), next.unwrap_or_else(|| url.clone())))
    }

    fn body(&self, from: u64, end: u64) -> Result<Body> {
        let inner: Box<dyn Read + Send> = match &self.source {
            BlobSource::Bytes(bytes) => return Ok(Body::Full(bytes.slice(from as usize..end as usize))),
            BlobSource::Stored => {
                let blob = self.store.blob(&self.digest)?;
                blob.ok_or(image::Error::NoSuchBlob(self.digest))?.reader(from)?
            }
        };
        let counted = Counted {
            inner,
            sent: from,
            total: self.bytes,
            last: None,
            id: self.id.clone(),
            report: self.report.clone(),
        };
        Ok(Body::of(Box::new(counted), end - from))
    }
}

/// Tells how much of a blob was taken.
struct Counted {
    inner: Box<dyn Read + Send>,
    sent: u64,
    total: u64,
    last: Option<Instant>,
    id: Option<String>,
    report: Reporter,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        self.sent += count as u64;
        if let Some(id) = &self.id
            && self.last.is_none_or(|at| at.elapsed() >= REPORT_EVERY)
        {
            self.last = Some(Instant::now());
            let bytes = Some((self.sent, self.total));
            if !(self.report)(Report::Step { id: id.clone(), status: "Pushing".into(), bytes }) {
                return Err(io::Error::other("canceled"));
            }
        }
        Ok(count)
    }
}
