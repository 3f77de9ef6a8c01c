//! Blobs: given out from the content store, taken in by uploads.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, RANGE,
};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use vocab::Digest;

use super::access::{Action, Caller};
use super::error::{Code, Outcome, Refusal};
use super::uploads::{Claim, Upload};
use super::{Inner, records, route, text_header};
use crate::body::Body;
use crate::names::Repository;
use crate::query::Query;
use crate::ranges::{self, Asked};

pub(crate) const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// How much of an upload is gathered before it goes to the disk.
const GATHER_BYTES: usize = 1 << 20;
/// How long a sender may be silent.
const SILENCE: Duration = Duration::from_secs(120);

impl Inner {
    pub(super) async fn blob(
        &self,
        method: &Method,
        headers: &HeaderMap,
        repository: &Repository,
        digest: Digest,
    ) -> Outcome<Response<Body>> {
        let unknown = || Refusal::with(Code::BlobUnknown, digest.to_string());
        if records::hold(&self.store, repository, &digest)?.is_none() && !self.fetch_blob(repository, &digest).await? {
            return Err(unknown());
        }
        let blob = self.store.blob(&digest)?.ok_or_else(unknown)?;
        let length = blob.bytes;
        let tag = format!("\"{digest}\"");
        let mut response = Response::new(Body::Empty);
        let out = response.headers_mut();
        text_header(out, DIGEST, &digest.to_string());
        text_header(out, ETAG, &tag);
        text_header(out, CACHE_CONTROL, "max-age=31536000, immutable");
        let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        if known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        text_header(out, CONTENT_TYPE, "application/octet-stream");
        text_header(out, ACCEPT_RANGES, "bytes");
        let asked = headers.get(RANGE).map(|value| value.to_str().unwrap_or_default());
        let (first, count) = match ranges::parse_range(asked, length) {
            Asked::Whole => (0, length),
            Asked::Part(first, last) => {
                text_header(out, CONTENT_RANGE, &format!("bytes {first}-{last}/{length}"));
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                (first, last - first + 1)
            }
            Asked::Unsatisfiable => {
                let refusal = Refusal::with(Code::SizeInvalid, "the range lies outside the blob");
                return Err(refusal
                    .status(StatusCode::RANGE_NOT_SATISFIABLE)
                    .header(CONTENT_RANGE, format!("bytes */{length}")));
            }
        };
        text_header(response.headers_mut(), CONTENT_LENGTH, &count.to_string());
        if method == Method::GET {
            *response.body_mut() = match blob.into_file() {
                Ok(file) => Body::of_file(file, first, count),
                Err(blob) => {
                    let reader = tokio::task::spawn_blocking(move || blob.reader(first)).await;
                    Body::of(reader.map_err(|e| Refusal::internal("open a blob", e))??, count)
                }
            };
        }
        Ok(response)
    }

    pub(super) fn delete_blob(&self, repository: &Repository, digest: &Digest) -> Outcome<Response<Body>> {
        self.deletes()?;
        records::delete_blob(&self.store, repository, digest)?;
        Ok(accepted())
    }

    /// `POST uploads/`: begins an upload, or takes a blob at once (`digest`), or from another repository (`mount`).
    pub(super) async fn begin_upload(
        &self,
        caller: &Caller,
        repository: &Repository,
        query: &Query,
        request: Request<Incoming>,
    ) -> Outcome<Response<Body>> {
        self.writes()?;
        if let Some(digest) = query.get("mount") {
            let digest = route::parse_digest(digest)?;
            if self.mount(caller, repository, query.get("from"), &digest)? {
                return Ok(created(repository, &digest));
            }
        }
        let id = self.uploads.begin(repository)?;
        match query.get("digest") {
            None => Ok(self.progress(StatusCode::ACCEPTED, repository, &id, 0)),
            Some(digest) => {
                let digest = route::parse_digest(digest)?;
                let claim = self.uploads.claim(repository, &id).await?;
                let done = self.receive(claim, request).await;
                self.complete(repository, &id, digest, done).await
            }
        }
    }

    /// Takes a blob over from a repository that the caller may read. Nothing is said about repositories that they may not.
    fn mount(&self, caller: &Caller, repository: &Repository, from: Option<&str>, digest: &Digest) -> Outcome<bool> {
        let from = match from {
            Some(from) => Repository::parse(from).ok_or_else(|| Refusal::with(Code::NameInvalid, from))?,
            // Without a source it may come from where the caller put it before, which is only here.
            None => repository.clone(),
        };
        if !caller.may(&from, Action::Pull) || records::hold(&self.store, &from, digest)?.is_none() {
            return Ok(false);
        }
        let key = records::hold_key(repository, digest);
        match self.store.hold(&[(key, *digest)], |_| Ok::<_, image::Error>(())) {
            Ok(()) => Ok(true),
            Err(image::Error::NoSuchBlob(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn upload(
        &self,
        repository: &Repository,
        id: &str,
        query: &Query,
        request: Request<Incoming>,
    ) -> Outcome<Response<Body>> {
        self.writes()?;
        let claim = self.uploads.claim(repository, id).await?;
        let offset = claim.as_ref().map_or(0, Upload::offset);
        match request.method().as_str() {
            "GET" => Ok(self.progress(StatusCode::NO_CONTENT, repository, id, offset)),
            "DELETE" => {
                self.uploads.end(id, claim);
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            "PATCH" => {
                self.check_chunk(repository, id, offset, request.headers())?;
                let (claim, offset) = self.receive(claim, request).await?;
                drop(claim);
                Ok(self.progress(StatusCode::ACCEPTED, repository, id, offset))
            }
            "PUT" => {
                let digest =
                    query.get("digest").ok_or_else(|| Refusal::with(Code::DigestInvalid, "digest is missing"))?;
                let digest = route::parse_digest(digest)?;
                self.check_chunk(repository, id, offset, request.headers())?;
                let done = self.receive(claim, request).await;
                self.complete(repository, id, digest, done).await
            }
            _ => Err(Refusal::new(Code::Unsupported)),
        }
    }

    /// A chunk that names its place must be the next one, and as long as it says.
    fn check_chunk(&self, repository: &Repository, id: &str, offset: u64, headers: &HeaderMap) -> Outcome<()> {
        let Some(range) = headers.get(CONTENT_RANGE) else { return Ok(()) };
        let range = range.to_str().ok().and_then(ranges::parse_chunk);
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let wrong = |detail: String| {
            Refusal::with(Code::BlobUploadInvalid, detail)
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(LOCATION, location(repository, id))
                .header(RANGE, range_of(offset))
        };
        match range {
            None => Err(wrong("the chunk's range cannot be read".into())),
            Some((first, _)) if first != offset => Err(wrong(format!("the next chunk begins at {offset}"))),
            Some((first, last)) if length.is_some_and(|length| length != last - first + 1) => {
                Err(Refusal::with(Code::SizeInvalid, "the chunk's length is not that of its range"))
            }
            Some(_) => Ok(()),
        }
    }

    /// Writes a request's body to the upload, however it ends: what has arrived stays, so that the sender can go on there.
    async fn receive(&self, mut claim: Claim, request: Request<Incoming>) -> Outcome<(Claim, u64)> {
        let mut upload = claim.take().ok_or_else(|| Refusal::new(Code::BlobUploadUnknown))?;
        let mut body = request.into_body();
        let max = self.config.blob_bytes_max;
        // A task of its own: a client that goes away drops the handler, and must not take the upload's state along.
        let task = tokio::spawn(async move {
            let mut outcome = Ok(());
            let mut ended = false;
            while !ended && outcome.is_ok() {
                let (mut pieces, mut gathered): (Vec<Bytes>, usize) = (Vec::new(), 0);
                while gathered < GATHER_BYTES && outcome.is_ok() {
                    match tokio::time::timeout(SILENCE, body.frame()).await {
                        Err(_) => outcome = Err(Refusal::with(Code::BlobUploadInvalid, "the sender is silent")),
                        Ok(None) => {
                            ended = true;
                            break;
                        }
                        Ok(Some(Err(error))) => {
                            outcome =
                                Err(Refusal::with(Code::BlobUploadInvalid, format!("the body broke off: {error}")))
                        }
                        Ok(Some(Ok(frame))) => {
                            let piece = Frame::into_data(frame).unwrap_or_default();
                            gathered += piece.len();
                            pieces.push(piece);
                        }
                    }
                }
                if upload.offset() + gathered as u64 > max {
                    let refusal = Refusal::with(Code::SizeInvalid, format!("a blob may have {max} bytes"));
                    return Err(refusal.status(StatusCode::PAYLOAD_TOO_LARGE));
                }
                let written = tokio::task::spawn_blocking(move || {
                    let written = upload.append(&pieces);
                    (upload, written)
                });
                let (back, written) = written.await.map_err(|e| Refusal::internal("write an upload", e))?;
                upload = back;
                // The file's length is the truth from now on.
                written.map_err(|e| Refusal::internal("write an upload", e))?;
            }
            let offset = upload.offset();
            *claim = Some(upload);
            outcome.map(|()| (claim, offset))
        });
        task.await.map_err(|e| Refusal::internal("take an upload", e))?
    }

    /// Compares the digest and makes the upload a blob of the repository.
    async fn complete(
        &self,
        repository: &Repository,
        id: &str,
        digest: Digest,
        received: Outcome<(Claim, u64)>,
    ) -> Outcome<Response<Body>> {
        let (mut claim, _) = received?;
        let upload = claim.take().ok_or_else(|| Refusal::new(Code::BlobUploadUnknown))?;
        let (path, bytes, actual) = upload.finish();
        if actual != digest {
            self.uploads.end(id, claim);
            return Err(Refusal::with(Code::DigestInvalid, format!("the content is {actual}, expected {digest}")));
        }
        let (store, key) = (self.store.clone(), records::hold_key(repository, &digest));
        let kept = tokio::task::spawn_blocking(move || store.adopt_blob(&path, digest, bytes, &key)).await;
        self.uploads.end(id, claim);
        kept.map_err(|e| Refusal::internal("keep a blob", e))??;
        Ok(created(repository, &digest))
    }

    fn progress(&self, status: StatusCode, repository: &Repository, id: &str, offset: u64) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        text_header(headers, LOCATION, &location(repository, id));
        text_header(headers, RANGE, &range_of(offset));
        text_header(headers, UPLOAD_ID, id);
        response
    }
}

fn location(repository: &Repository, id: &str) -> String {
    format!("/v2/{repository}/blobs/uploads/{id}")
}

/// The last byte that is there; an upload of nothing says `0-0`, which every client reads as nothing.
fn range_of(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn created(repository: &Repository, digest: &Digest) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    text_header(headers, LOCATION, &format!("/v2/{repository}/blobs/{digest}"));
    text_header(headers, DIGEST, &digest.to_string());
    response
}

pub(super) fn accepted() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}
