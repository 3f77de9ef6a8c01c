//! Files that are no blobs: what `ADD https://...` and a build context at an address mean. Anonymous, redirects followed, and
//! nothing taken again that has not changed.

use std::fs::File;
use std::io::Write;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LOCATION};
use http::{Method, StatusCode};
use vocab::{Digest, Reference};

use super::connect::{Answer, Plain};
use super::error::{Error, Result};
use super::session::pause;
use super::url::Url;
use super::{Client, Credentials};
use crate::body::Body;

/// As many as browsers and Go follow.
const REDIRECTS_MAX: usize = 10;
const TRIES: u32 = 3;

/// What a server said of a file, to ask it later whether that is still so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

/// The answer to [`Client::fetch`].
pub enum Fetched {
    /// It is still what the validators stand for.
    Unchanged,
    Changed(Download),
}

/// A file on its way.
pub struct Download {
    pub validators: Validators,
    pub bytes: Option<u64>,
    pub media_type: String,
    answer: Answer,
}

impl Download {
    /// Seconds since 1970.
    pub fn modified_at(&self) -> Option<i64> {
        let text = self.validators.last_modified.as_deref()?;
        Some(jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp().as_second())
    }

    /// The next bytes; nothing at the end. An answer that ends before the length it told is an error.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        let url = self.answer.url.clone();
        self.answer.piece().await.map_err(|detail| Error::transport(&Method::GET, &url, detail))
    }
}

impl Client {
    /// A manifest by tag or digest, verified.
    pub async fn manifest_bytes(&self, reference: &Reference, credentials: Credentials) -> Result<Vec<u8>> {
        let reference = reference.clone().or_latest();
        let session = self.session(&reference, credentials, false).await?;
        let digest = reference.digest().map(|digest| digest.to_string());
        let name = digest.as_deref().or(reference.tag()).unwrap_or("latest").to_owned();
        Ok(session.manifest(&name, &reference.familiar()).await?.bytes)
    }

    /// A small blob, whole and verified.
    pub async fn blob_bytes(
        &self,
        reference: &Reference,
        credentials: Credentials,
        digest: &Digest,
        size: u64,
        max: u64,
    ) -> Result<Vec<u8>> {
        self.session(reference, credentials, false).await?.small_blob(0, digest, size, max).await
    }

    /// A blob into a file, verified.
    pub async fn blob_file(
        &self,
        reference: &Reference,
        credentials: Credentials,
        digest: &Digest,
        size: u64,
        out: &mut File,
    ) -> Result<()> {
        let session = self.session(reference, credentials, false).await?;
        let (_, mut answer) = session.open_blob(0, digest, size, 0).await?;
        let mut hasher = image::hash::Hasher::default();
        let what = format!("blob {digest}");
        while let Some(piece) = answer.piece().await.map_err(|detail| Error::content(&what, detail))? {
            hasher.update(&piece);
            if hasher.bytes() > size {
                return Err(Error::content(what, "it is longer than it should be"));
            }
            tokio::task::block_in_place(|| out.write_all(&piece)).map_err(|e| Error::content(&what, e))?;
        }
        let actual = hasher.finish();
        if actual == *digest { Ok(()) } else { Err(Error::content(what, format!("its content is {actual}"))) }
    }

    /// Asks for a file, unless it is what `known` stands for.
    pub async fn fetch(&self, address: &str, known: &Validators) -> Result<Fetched> {
        let mut url = Url::parse(address).ok_or_else(|| Error::Invalid(format!("not an http(s) URL: {address}")))?;
        let mut headers = Vec::new();
        headers.extend(known.etag.clone().map(|etag| (IF_NONE_MATCH, etag)));
        headers.extend(known.last_modified.clone().map(|at| (IF_MODIFIED_SINCE, at)));
        let (mut hops, mut tries) = (0, 0);
        loop {
            let mut trust = self.trust_of(&url.origin, None);
            // A registry on the loopback may show any certificate: that is no reason to believe every server there.
            trust.anybody = false;
            let plain = Plain { method: Method::GET, url: &url, headers: &headers, body: &|| Ok(Body::Empty) };
            tries += 1;
            let answer = match self.pool.send(&trust, &plain).await {
                Ok(answer) => answer,
                Err(error) if error.is_transport() && tries < TRIES && !error.to_string().contains("refused") => {
                    tokio::time::sleep(pause(tries, None)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match answer.status {
                StatusCode::NOT_MODIFIED if !headers.is_empty() => return Ok(Fetched::Unchanged),
                StatusCode::OK => {
                    let text = |name| answer.header(name).map(str::to_owned);
                    return Ok(Fetched::Changed(Download {
                        validators: Validators { etag: text(ETAG), last_modified: text(LAST_MODIFIED) },
                        bytes: answer.header(CONTENT_LENGTH).and_then(|length| length.parse().ok()),
                        media_type: text(CONTENT_TYPE).unwrap_or_default(),
                        answer,
                    }));
                }
                status if status.is_redirection() && answer.header(LOCATION).is_some() => {
                    let next = answer.header(LOCATION).and_then(|location| url.join(location));
                    let next = next.ok_or_else(|| Error::content(&url, "a redirect to no http(s) address"))?;
                    if url.origin.https && !next.origin.https {
                        let to = next.origin.authority();
                        return Err(Error::content(&url, format!("a redirect away from TLS, to {to}")));
                    }
                    hops += 1;
                    if hops > REDIRECTS_MAX {
                        return Err(Error::content(&url, format!("stopped after {REDIRECTS_MAX} redirects")));
                    }
                    answer.discard().await;
                    url = next;
                }
                status if status.is_server_error() && tries < TRIES => {
                    answer.discard().await;
                    tokio::time::sleep(pause(tries, None)).await;
                }
                // In the words of BuildKit's http source.
                status => return Err(Error::Invalid(format!("invalid response status {}", status.as_u16()))),
            }
        }
    }
}
