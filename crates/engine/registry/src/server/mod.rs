//! The registry: the OCI distribution specification 1.1 over the image store.
//!
//! * `route` — what a path means
//! * `access` — who may do what
//! * `blobs`, `uploads` — blobs out and in
//! * `manifests` — manifests, tags, referrers, the catalog
//! * `upstream` — a cache of another registry
//! * `records` — what is remembered
//! * `listen` — connections

mod access;
mod blobs;
mod error;
mod listen;
mod manifests;
mod records;
mod route;
mod uploads;
mod upstream;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use image::{Distributable, Store};
use vocab::{Digest, ErrorKind, Reference};

pub use access::{Action, Grant, Method as AuthMethod, User};
pub use upstream::Upstream;

use access::{Access, Caller, Challenge};
use error::{Code, Outcome, Refusal};
use records::NewManifest;
use route::Route;
use uploads::Uploads;

use crate::body::Body;
use crate::names::Repository;
use crate::query::Query;
use crate::tls::TlsError;

/// Bytes of a form that asks for a token.
const FORM_BYTES_MAX: usize = 64 << 10;

/// What a registry does beyond the plain thing. The default serves everybody who can reach it.
#[derive(Debug, Clone)]
pub struct Config {
    /// With users, everybody else is anonymous.
    pub users: Vec<User>,
    /// What those may who do not say who they are, if there are users.
    pub anonymous: Vec<Grant>,
    pub method: AuthMethod,
    pub manifest_bytes_max: usize,
    pub blob_bytes_max: u64,
    /// Deleting is allowed.
    pub deletes: bool,
    /// Nothing may be put.
    pub read_only: bool,
    /// How long a blob without a manifest is kept.
    pub grace: Duration,
    /// How long an upload that nobody touches is kept.
    pub upload_idle: Duration,
    /// Between two collections.
    pub collect_every: Duration,
    pub upstreams: Vec<Upstream>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            anonymous: Vec::new(),
            method: AuthMethod::Basic,
            manifest_bytes_max: 4 << 20,
            blob_bytes_max: 64 << 30,
            deletes: true,
            read_only: false,
            grace: Duration::from_secs(3600),
            upload_idle: Duration::from_secs(24 * 3600),
            collect_every: Duration::from_secs(1800),
            upstreams: Vec::new(),
        }
    }
}

/// How a registry is reached.
#[derive(Debug, Clone)]
pub struct Listen {
    pub address: SocketAddr,
    /// Certificate chain and key, as PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Names beside `localhost` and addresses under which a plain registry on the loopback may be called.
    pub names: Vec<String>,
    /// Plain HTTP although others can reach it.
    pub plain: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the registry cannot listen at {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error(
        "the registry would send passwords and images in the clear at {0}: give it a certificate, let it listen on the loopback, or say that plain HTTP is meant"
    )]
    Plain(SocketAddr),
    #[error("prepare the registry below {}: {source}", path.display())]
    Prepare { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("repository name {0:?} is not valid")]
    Name(String),
    #[error("publish {name}: {detail}")]
    Publish { name: String, detail: String },
    #[error(transparent)]
    Image(#[from] image::Error),
}

impl ServerError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            ServerError::Plain(_) | ServerError::Name(_) => ErrorKind::Invalid,
            ServerError::Image(error) => error.kind(),
            _ => ErrorKind::Internal,
        }
    }
}

/// A registry over a store. Cheap to clone; all clones are the same registry.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    store: Arc<Store>,
    config: Config,
    access: Access,
    uploads: Uploads,
    client: crate::client::Client,
    /// Fetches from an upstream that are under way, so that many readers cause one.
    fetching: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Server {
    /// Opens the registry of a store. Its records are the store's database, its uploads a folder beside the blobs.
    pub fn open(store: Arc<Store>, config: Config, client: crate::client::Client) -> Result<Self, ServerError> {
        let root = store.root().to_owned();
        let failed = |source| ServerError::Prepare { path: root.clone(), source };
        let key = signing_key(&root.join("registry.key")).map_err(failed)?;
        let uploads = Uploads::open(root.join("uploads")).map_err(failed)?;
        let access = Access::new(config.users.clone(), config.anonymous.clone(), config.method, &key);
        let fetching = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { store, config, access, uploads, client, fetching }) })
    }

    /// Listens; the address is the one that the system chose if port 0 was asked for.
    pub async fn bind(&self, listen: &Listen) -> Result<Listening, ServerError> {
        Listening::bind(self.inner.clone(), listen).await
    }

    /// Makes an image of the store part of the registry under a name: records move, bytes stay where they are.
    pub fn publish(&self, reference: &Reference, image: &Distributable) -> Result<(), ServerError> {
        let name = reference.path();
        let repository = Repository::parse(name).ok_or_else(|| ServerError::Name(name.to_owned()))?;
        let failed = |detail: String| ServerError::Publish { name: reference.familiar(), detail };
        let facts = crate::media::parse(&image.manifest, &image.media_type).map_err(failed)?;
        let text = std::str::from_utf8(&image.manifest).map_err(|e| failed(e.to_string()))?;
        let adopt = facts.blobs.clone();
        let new = NewManifest {
            repository: &repository,
            digest: image.digest,
            facts,
            text,
            tag: reference.tag(),
            adopt: &adopt,
            sparse: false,
        };
        records::put(&self.inner.store, &new).map_err(|refusal| failed(format!("{refusal:?}")))
    }

    /// Which of these blobs a repository of this registry has.
    pub fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        let repository = Repository::parse(repository);
        repository.is_some_and(|name| records::hold(&self.inner.store, &name, digest).is_ok_and(|hold| hold.is_some()))
    }

    /// Lets go of what nothing needs: old uploads, blobs without a manifest after the grace, and then what the store holds
    /// for nobody. Safe while requests are served. Blocking.
    pub fn collect(&self, grace: Duration) -> Result<image::Collected, image::Error> {
        self.inner.uploads.expire(self.inner.config.upload_idle);
        let before = jiff::Timestamp::now().as_second() - i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        // A blob of this very second is older than no grace at all.
        let before = if grace.is_zero() { i64::MAX } else { before };
        match records::release_unused(&self.inner.store, before) {
            Ok(_) => self.inner.store.collect(),
            Err(refusal) => {
                tracing::warn!(?refusal, "the registry's collection failed");
                Ok(image::Collected::default())
            }
        }
    }

    /// Collects from time to time, for as long as it is polled.
    pub async fn keep_clean(&self) {
        loop {
            tokio::time::sleep(self.inner.config.collect_every).await;
            let (server, grace) = (self.clone(), self.inner.config.grace);
            match tokio::task::spawn_blocking(move || server.collect(grace)).await {
                Ok(Ok(collected)) => tracing::debug!(?collected, "the registry collected"),
                Ok(Err(error)) => tracing::warn!(%error, "the registry's collection failed"),
                Err(error) => tracing::warn!(%error, "the registry's collection was cut short"),
            }
        }
    }
}

pub use listen::Listening;

/// The key that signs tokens, made at the first start.
fn signing_key(path: &Path) -> io::Result<Vec<u8>> {
    let mut key = Vec::new();
    match std::fs::File::open(path) {
        Ok(mut file) => {
            file.read_to_end(&mut key)?;
            if key.len() == 32 {
                return Ok(key);
            }
            // Half written by a start that was cut short.
            std::fs::remove_file(path)?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    key = vec![0; 32];
    aws_lc_rs::rand::fill(&mut key).map_err(io::Error::other)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&key)?;
    file.sync_all()?;
    Ok(key)
}

/// Our own texts are header values; a strange one is left out.
fn text_header(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// How the connection came in.
#[derive(Debug, Clone)]
struct Door {
    scheme: &'static str,
    /// Hosts that a request may be meant for. Empty: any.
    hosts: Arc<[String]>,
}

impl Inner {
    async fn answer(self: Arc<Self>, door: Door, request: Request<Incoming>) -> Response<Body> {
        let told = tracing::enabled!(tracing::Level::DEBUG)
            .then(|| (request.method().clone(), request.uri().path().to_owned(), std::time::Instant::now()));
        let head = request.method() == Method::HEAD;
        let mut response = match self.route(&door, request).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        };
        if head && !matches!(response.body(), Body::Empty) {
            *response.body_mut() = Body::Empty;
        }
        let headers = response.headers_mut();
        headers.insert(
            HeaderName::from_static("docker-distribution-api-version"),
            HeaderValue::from_static("registry/2.0"),
        );
        headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
        if let Some((method, path, start)) = told {
            let micros = start.elapsed().as_micros() as u64;
            tracing::debug!(%method, path, status = response.status().as_u16(), micros, "registry request");
        }
        response
    }

    async fn route(&self, door: &Door, request: Request<Incoming>) -> Outcome<Response<Body>> {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
        check_host(door, &host, request.headers())?;
        let route = route::parse(request.uri().path())?;
        let invalid = || Refusal::with(Code::Unsupported, "the query cannot be read").status(StatusCode::BAD_REQUEST);
        let query = Query::parse(request.uri().query().unwrap_or_default()).ok_or_else(invalid)?;
        let base = format!("{}://{host}", door.scheme);
        let method = request.method().clone();
        let action = match method.as_str() {
            "GET" | "HEAD" => Action::Pull,
            "DELETE" => Action::Delete,
            _ => Action::Push,
        };
        let repository = match &route {
            Route::Tags(name)
            | Route::Manifest(name, _)
            | Route::Blob(name, _)
            | Route::Uploads(name)
            | Route::Upload(name, _)
            | Route::Referrers(name, _) => Some(name.clone()),
            Route::Base | Route::Catalog | Route::Token => None,
        };
        // Looking after an upload is part of pushing.
        let action = if matches!(route, Route::Uploads(_) | Route::Upload(..)) { Action::Push } else { action };
        let scope = repository.clone().map(|name| match action {
            Action::Push => (name, vec![Action::Pull, Action::Push]),
            action => (name, vec![action]),
        });
        let challenge = Challenge { base, scope };
        if route == Route::Token {
            return self.token(&query, request).await;
        }
        let caller = self.access.caller(request.headers(), &challenge)?;
        if let Some(repository) = &repository {
            self.access.demand(&caller, repository, action, &challenge)?;
        }
        self.dispatch(&caller, &challenge, route, &query, method, request).await
    }

    async fn dispatch(
        &self,
        caller: &Caller,
        challenge: &Challenge,
        route: Route,
        query: &Query,
        method: Method,
        request: Request<Incoming>,
    ) -> Outcome<Response<Body>> {
        match (method.as_str(), &route) {
            ("GET" | "HEAD", Route::Base) => {
                self.access.demand_known(caller, challenge)?;
                let mut response = Response::new(Body::text("{}"));
                text_header(response.headers_mut(), CONTENT_TYPE, "application/json");
                Ok(response)
            }
            ("GET", Route::Catalog) => self.catalog(|name| caller.may(name, Action::Pull), query),
            ("GET", Route::Tags(name)) => self.list_tags(name, query),
            ("GET" | "HEAD", Route::Manifest(name, reference)) => {
                self.manifest(&method, request.headers(), name, reference).await
            }
            ("PUT", Route::Manifest(name, reference)) => self.put_manifest(name, reference, request).await,
            ("DELETE", Route::Manifest(name, reference)) => self.delete_manifest(name, reference),
            ("GET" | "HEAD", Route::Blob(name, digest)) => self.blob(&method, request.headers(), name, *digest).await,
            ("DELETE", Route::Blob(name, digest)) => self.delete_blob(name, digest),
            ("POST", Route::Uploads(name)) => self.begin_upload(caller, name, query, request).await,
            (_, Route::Upload(name, id)) => self.upload(name, id, query, request).await,
            ("GET", Route::Referrers(name, digest)) => self.referrers(name, digest, query),
            _ => Err(Refusal::with(Code::Unsupported, method.as_str())),
        }
    }

    async fn token(&self, query: &Query, request: Request<Incoming>) -> Outcome<Response<Body>> {
        let headers = request.headers().clone();
        match request.method().as_str() {
            "GET" => self.access.token(&headers, query, None),
            "POST" => {
                let body = Limited::new(request.into_body(), FORM_BYTES_MAX).collect().await;
                let invalid = || Refusal::with(Code::Unsupported, "the form").status(StatusCode::BAD_REQUEST);
                let bytes = body.map_err(|_| invalid())?.to_bytes();
                let form = std::str::from_utf8(&bytes).ok().and_then(Query::parse).ok_or_else(invalid)?;
                self.access.token(&headers, query, Some(&form))
            }
            method => Err(Refusal::with(Code::Unsupported, method)),
        }
    }

    fn writes(&self) -> Outcome<()> {
        match self.config.read_only {
            true => Err(Refusal::with(Code::Unsupported, "this registry takes nothing in")),
            false => Ok(()),
        }
    }

    fn deletes(&self) -> Outcome<()> {
        self.writes()?;
        match self.config.deletes {
            true => Ok(()),
            false => Err(Refusal::with(Code::Unsupported, "this registry deletes nothing")),
        }
    }
}

/// A page in somebody's browser must not reach a registry that trusts whoever reaches it: neither under a foreign name that
/// was made to lead here, nor as a request across sites.
fn check_host(door: &Door, host: &str, headers: &HeaderMap) -> Outcome<()> {
    if door.hosts.is_empty() {
        return Ok(());
    }
    let denied = |why: &str| Err(Refusal::with(Code::Denied, why));
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_loopback && !door.hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return denied("this registry does not go by that host name")
            .map_err(|refusal| refusal.status(StatusCode::MISDIRECTED_REQUEST));
    }
    let cross = headers.get("sec-fetch-site").is_some_and(|site| site != "none" && site != "same-origin");
    if cross || headers.contains_key(ORIGIN) {
        return denied("requests from web pages are not answered");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_in_browsers_are_kept_out() {
        let door = Door { scheme: "http", hosts: ["localhost".to_owned(), "box".to_owned()].into() };
        let none = HeaderMap::new();
        for (host, good) in [
            ("localhost:5000", true),
            ("LOCALHOST", true),
            ("box:5000", true),
            ("127.0.0.1:5000", true),
            ("127.1.2.3", true),
            ("[::1]:5000", true),
            ("evil.example:5000", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1:5000", false),
            ("", false),
            ("localhost.", false),
        ] {
            assert_eq!(check_host(&door, host, &none).is_ok(), good, "{host}");
        }
        let with = |name: &'static str, value: &'static str| -> HeaderMap {
            [(HeaderName::from_static(name), HeaderValue::from_static(value))].into_iter().collect()
        };
        assert!(check_host(&door, "localhost", &with("origin", "http://evil.example")).is_err());
        assert!(check_host(&door, "localhost", &with("sec-fetch-site", "cross-site")).is_err());
        assert!(check_host(&door, "localhost", &with("sec-fetch-site", "none")).is_ok());
        let open = Door { scheme: "https", hosts: [].into() };
        assert!(check_host(&open, "anything", &none).is_ok());
    }
}
