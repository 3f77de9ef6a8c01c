//! Pull: a reference becomes an image of the store. Layers come several at a time, each through one pipeline from the
//! connection to the disk; one whose connection breaks goes on where it stopped.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use image::{Platform, Pull, PulledManifest, Store};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use vocab::{Digest, Reference};

use super::connect::Answer;
use super::error::{Error, Result};
use super::session::{Manifest, Session, pause};
use super::{Client, Credentials, Report, Reporter, short};
use crate::media::{self, Descriptor};

/// Between two reports about one layer.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Tries in a row that bring a layer no further.
const TRIES: u32 = 5;
const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Index in index: nobody needs more, and a cycle needs an end.
const INDEX_DEPTH_MAX: usize = 4;

pub struct PullRequest {
    /// With a tag or a digest.
    pub reference: Reference,
    pub platform: Option<Platform>,
    pub credentials: Credentials,
}

impl Client {
    /// Pulls one image; returns its id. Nothing of it is in the store under its name before all of it is.
    pub async fn pull(&self, store: &Arc<Store>, request: PullRequest, report: Reporter) -> Result<Digest> {
        let reference = request.reference.clone().or_latest();
        let session = Arc::new(self.session(&reference, request.credentials, true).await?);
        let wanted = match reference.digest() {
            Some(digest) => digest.to_string(),
            None => reference.tag().unwrap_or("latest").to_owned(),
        };
        let familiar = reference.familiar();
        let top = session.manifest(&wanted, &familiar).await?;
        tell(
            &report,
            Report::step(
                reference.tag().filter(|_| reference.digest().is_none()).unwrap_or(&wanted),
                format!("Pulling from {}", reference.path()),
            ),
        )?;
        let digest = top.digest;
        let platform = request.platform.unwrap_or_else(Platform::host);
        let manifest = session.image_of(top, &platform, &familiar).await?;
        let id = session.image(store, manifest, &reference, digest, &report).await?;
        Ok(id)
    }

    /// The tags of a repository.
    pub async fn tags(&self, reference: &Reference, credentials: Credentials) -> Result<Vec<String>> {
        self.session(reference, credentials, true).await?.tags().await
    }
}

fn tell(report: &Reporter, what: Report) -> Result<()> {
    if report(what) { Ok(()) } else { Err(Error::Cancelled) }
}

impl Session {
    /// Follows an index to the image for a platform.
    pub(super) async fn image_of(
        &self,
        mut manifest: Manifest,
        platform: &Platform,
        familiar: &str,
    ) -> Result<Manifest> {
        for _ in 0..INDEX_DEPTH_MAX {
            if !media::is_index(&manifest.media_type) {
                return Ok(manifest);
            }
            let chosen = image::choose(&manifest.bytes, &manifest.media_type, platform)?;
            let chosen = chosen.ok_or_else(|| Error::NoPlatform { platform: platform.to_string() })?;
            let endpoint = manifest.endpoint;
            manifest = self.manifest(&chosen.digest.to_string(), familiar).await?;
            if manifest.bytes.len() as u64 != chosen.size {
                let detail = format!(
                    "manifest {} has {} bytes, the index says {}",
                    chosen.digest,
                    manifest.bytes.len(),
                    chosen.size
                );
                return Err(Error::content(familiar, detail));
            }
            tracing::debug!(from = endpoint, to = manifest.endpoint, "followed an index");
        }
        Err(Error::content(familiar, "indexes are nested too deeply"))
    }

    /// Brings an image into the store and gives it its names.
    async fn image(
        self: &Arc<Self>,
        store: &Arc<Store>,
        manifest: Manifest,
        reference: &Reference,
        top: Digest,
        report: &Reporter,
    ) -> Result<Digest> {
        let familiar = reference.familiar();
        let parts = media::image_parts(&manifest.bytes);
        let (config, layers) =
            parts.ok_or_else(|| Error::content(format!("manifest of {familiar}"), "it is no image's"))?;
        let config_bytes = self.small_blob(manifest.endpoint, &config.digest, config.size, CONFIG_BYTES_MAX).await?;
        let before = store.resolve(&familiar).ok();
        let store = store.clone();
        let (pull, missing) = {
            let (store, config) = (store.clone(), config_bytes.clone());
            blocking(move || {
                let pull = store.pull()?;
                let missing = pull.missing(&config)?;
                Ok((Arc::new(pull), missing))
            })
            .await?
        };
        if missing.len() != layers.len() {
            let detail = format!("{} layers, but its configuration tells {}", layers.len(), missing.len());
            return Err(Error::content(format!("manifest of {familiar}"), detail));
        }
        self.layers(&pull, manifest.endpoint, &layers, &missing, report).await?;
        let mut names = vec![reference.with_digest(top)];
        if let Some(tag) = reference.tag().filter(|_| reference.digest().is_none()) {
            names.push(reference.with_tag(tag).map_err(|e| Error::Invalid(e.to_string()))?);
        }
        let pulled = PulledManifest { media_type: manifest.media_type, manifest: manifest.bytes, config: config_bytes };
        let id = blocking(move || {
            let pull = Arc::try_unwrap(pull).map_err(|_| Error::Invalid("a layer is still on its way".into()))?;
            Ok(pull.commit(pulled, names)?)
        })
        .await?;
        // What is done is done, whether anybody listens or not.
        report(Report::Status(format!("Digest: {top}")));
        report(Report::Status(match before == Some(id) {
            true => format!("Status: Image is up to date for {familiar}"),
            false => format!("Status: Downloaded newer image for {familiar}"),
        }));
        Ok(id)
    }

    async fn layers(
        self: &Arc<Self>,
        pull: &Arc<Pull>,
        endpoint: usize,
        layers: &[Descriptor],
        missing: &[bool],
        report: &Reporter,
    ) -> Result<()> {
        let places = Arc::new(Semaphore::new(self.client.config().downloads.max(1)));
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let mut begun = std::collections::HashSet::new();
        for (layer, missing) in layers.iter().zip(missing) {
            let id = short(&layer.digest);
            tell(report, Report::step(id.clone(), if *missing { "Pulling fs layer" } else { "Already exists" }))?;
            if !missing || !begun.insert(layer.digest) {
                continue;
            }
            let job = LayerJob {
                session: self.clone(),
                pull: pull.clone(),
                endpoint,
                digest: layer.digest,
                size: layer.size,
                id,
                report: report.clone(),
                stop: stop.clone(),
            };
            let places = places.clone();
            tasks.spawn(async move {
                let Ok(_place) = places.acquire_owned().await else { return Err(Error::Cancelled) };
                let handle = Handle::current();
                blocking(move || job.run(&handle)).await
            });
        }
        let mut outcome = Ok(());
        while let Some(done) = tasks.join_next().await {
            let done = done.unwrap_or_else(|e| Err(Error::Invalid(format!("a layer's download was cut short: {e}"))));
            if let Err(error) = done {
                // The others need not go on; what they have is kept for the next time.
                stop.store(true, Ordering::Relaxed);
                if outcome.is_ok() || matches!(outcome, Err(Error::Cancelled)) {
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    async fn tags(&self) -> Result<Vec<String>> {
        let mut tags = Vec::new();
        let endpoint = self.endpoints.last().ok_or_else(|| Error::Invalid("there is no endpoint to ask".into()))?;
        let scope = self.scope("pull");
        let mut url = self.url(endpoint, "tags/list");
        // Pages of at least one tag each: more than this is no answer but a trap.
        for _ in 0..10_000 {
            let answer = self.send(endpoint, &url, &super::session::Ask::new(http::Method::GET, &scope)).await?;
            if !answer.status.is_success() {
                return Err(self.denied_tags(answer).await);
            }
            let next = answer.header(http::header::LINK).and_then(next_page).and_then(|next| url.join(&next));
            let bytes = answer.whole(&http::Method::GET, 32 << 20).await?;
            #[derive(serde::Deserialize)]
            struct Page {
                #[serde(default)]
                tags: Option<Vec<String>>,
            }
            let page: Page = serde_json::from_slice(&bytes).map_err(|e| Error::content(&url, e))?;
            let page = page.tags.unwrap_or_default();
            let ended = page.is_empty();
            tags.extend(page);
            match next {
                Some(next) if !ended && next.origin == url.origin => url = next,
                _ => return Ok(tags),
            }
        }
        Err(Error::content(&self.familiar, "the list of tags has no end"))
    }

    async fn denied_tags(&self, answer: Answer) -> Error {
        match self.refusal(answer, &http::Method::GET, &format!("tags of {}", self.familiar)).await {
            Error::Refused { status: 404 | 403, detail, .. } | Error::Unauthorized { detail, .. } => {
                Error::Denied { repository: self.familiar.clone(), detail }
            }
            other => other,
        }
    }
}

/// `<address>; rel="next"`.
fn next_page(header: &str) -> Option<String> {
    let (address, rest) = header.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| address.to_owned())
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::Invalid(format!("the work was cut short: {error}"))),
    }
}

/// One layer on its way. Runs on a thread that may block.
struct LayerJob {
    session: Arc<Session>,
    pull: Arc<Pull>,
    endpoint: usize,
    digest: Digest,
    size: u64,
    id: String,
    report: Reporter,
    stop: Arc<AtomicBool>,
}

impl LayerJob {
    fn run(self, handle: &Handle) -> Result<()> {
        let (mut tries, mut best, mut ranges) = (0, 0, true);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let part = self.pull.layer(self.digest, self.size)?;
            let have = if ranges { part.have() } else { 0 };
            // A whole layer needs no question; it only has to go through the pipeline again.
            let opened = match have == self.size && have > 0 {
                true => Ok((have, None)),
                false => handle
                    .block_on(self.session.open_blob(self.endpoint, &self.digest, self.size, have))
                    .map(|(from, answer)| (from, Some(answer))),
            };
            let (from, answer) = match opened {
                Ok(opened) => opened,
                // What is there may be more than the registry wants to complete.
                Err(Error::Refused { status: 416, .. } | Error::Content { .. }) if have > 0 && ranges => {
                    ranges = false;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut input =
                AnswerReader { handle, answer, piece: Bytes::new(), left: self.size - from, stop: &self.stop };
            let progress = self.progress(self.size);
            match part.receive(from, &mut input, &progress) {
                Ok(()) => {
                    self.told(Report::step(self.id.clone(), "Download complete"));
                    self.told(Report::step(self.id.clone(), "Pull complete"));
                    return Ok(());
                }
                Err(image::Error::Stream { source, .. }) => {
                    if self.stop.load(Ordering::Relaxed) {
                        return Err(Error::Cancelled);
                    }
                    let reached = self.size - input.left;
                    tries = if reached > best { 1 } else { tries + 1 };
                    best = best.max(reached);
                    if tries >= TRIES {
                        let what = format!("layer {}", self.digest);
                        return Err(Error::content(
                            what,
                            format!("it broke off at byte {reached} of {}: {source}", self.size),
                        ));
                    }
                    // One that got further need not be left alone for long.
                    let wait = if tries == 1 { Duration::from_millis(20) } else { pause(tries, None) };
                    self.told(Report::step(self.id.clone(), format!("Retrying in {} seconds", wait.as_secs().max(1))));
                    std::thread::sleep(wait);
                }
                Err(image::Error::Digest { .. }) => return Err(Error::LayerDigest(self.digest)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn told(&self, report: Report) {
        if !(self.report)(report) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn progress(&self, total: u64) -> impl Fn(u64) + '_ {
        let last = Mutex::new(None::<Instant>);
        move |current| {
            let mut last = last.lock().unwrap_or_else(|e| e.into_inner());
            if last.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
                *last = Some(Instant::now());
                let bytes = Some((current, total));
                self.told(Report::Step { id: self.id.clone(), status: "Downloading".into(), bytes });
            }
        }
    }
}

/// An answer's body for code that blocks. It ends after as many bytes as were declared, however many there are.
struct AnswerReader<'a> {
    handle: &'a Handle,
    answer: Option<Answer>,
    piece: Bytes,
    left: u64,
    stop: &'a AtomicBool,
}

impl Read for AnswerReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || out.is_empty() {
            // Looked at once more, so that the connection can be used again. More than was declared is left where it is: the
            // digest decides about what came.
            if let Some(mut answer) = self.answer.take()
                && self.left == 0
                && self.piece.is_empty()
            {
                let _ = self.handle.block_on(tokio::time::timeout(Duration::from_millis(200), answer.piece()));
            }
            return Ok(0);
        }
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("canceled"));
        }
        while self.piece.is_empty() {
            let Some(answer) = &mut self.answer else { return Ok(0) };
            match self.handle.block_on(answer.piece()) {
                Ok(Some(piece)) => self.piece = piece,
                Ok(None) => {
                    let text = format!("the body ended {} bytes early", self.left);
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
                Err(text) => return Err(io::Error::new(io::ErrorKind::ConnectionReset, text)),
            }
        }
        let count = out.len().min(self.piece.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        out[..count].copy_from_slice(&self.piece[..count]);
        self.piece.advance(count);
        self.left -= count as u64;
        Ok(count)
    }
}
