//! A conversation about one repository: which endpoints there are, and one request with all that can happen to it:
//! challenges, redirects, refusals to try again later, broken connections.

use std::sync::Mutex;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HeaderName, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde_json::Value;
use vocab::{Digest, Reference};

use super::auth::{Credentials, Known};
use super::connect::{Answer, Plain};
use super::error::{Error, Result, go_method};
use super::url::{Origin, Url};
use super::{Client, host_of};
use crate::body::Body;
use crate::{challenge, media, query};

const REDIRECTS_MAX: usize = 5;
/// How often a request is tried that another try may help.
const TRIES: u32 = 5;
/// The longest pause that a registry may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(60);
const MANIFEST_BYTES_MAX: usize = 4 << 20;
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// One place that may have a repository.
pub(crate) struct Endpoint {
    /// The registry as the user calls it.
    pub(super) name: String,
    pub(super) base: Url,
    pub(super) credentials: Credentials,
    pub(super) known: Mutex<Known>,
    /// A mirror is told whose image is meant.
    namespace: Option<String>,
}

pub(crate) struct Session {
    pub(super) client: Client,
    /// In the order in which they are asked.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) repository: String,
    /// For messages: the repository as a person would type it.
    pub(super) familiar: String,
    /// An identity token is wanted.
    pub(super) login: bool,
}

/// A request to an endpoint.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: &'a (dyn Fn() -> Result<Body> + Sync),
    pub(super) scope: &'a str,
    /// Doing it twice is as good as doing it once.
    pub(super) repeatable: bool,
}

fn no_body() -> Result<Body> {
    Ok(Body::Empty)
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, scope: &'a str) -> Self {
        let repeatable = matches!(method, Method::GET | Method::HEAD);
        Self { method, headers: Vec::new(), body: &no_body, scope, repeatable }
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A manifest as a registry gave it, verified.
pub(crate) struct Manifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
    /// Which endpoint had it: its blobs are there too.
    pub(super) endpoint: usize,
}

impl Client {
    /// Endpoints for pulling: mirrors, then the registry.
    pub(crate) async fn session(
        &self,
        reference: &Reference,
        credentials: Credentials,
        mirrors: bool,
    ) -> Result<Session> {
        let domain = reference.domain();
        let mut endpoints = Vec::new();
        if mirrors {
            for (_, address) in self.config.mirrors.iter().filter(|(of, _)| of == domain || of == "*") {
                let base = Url::parse(address)
                    .ok_or_else(|| Error::Invalid(format!("mirror {address:?} of {domain} is not an address")))?;
                // A password for the registry is not the mirror's to see.
                endpoints.push(Endpoint {
                    name: base.origin.authority(),
                    base: base.origin.url(base.path.trim_end_matches('/')),
                    credentials: Credentials::default(),
                    known: Mutex::default(),
                    namespace: Some(domain.to_owned()),
                });
            }
        }
        match self.endpoint(domain, credentials).await {
            Ok(endpoint) => endpoints.push(endpoint),
            // A mirror may do without the registry behind it.
            Err(error) if endpoints.is_empty() => return Err(error),
            Err(error) => tracing::debug!(%error, domain, "only mirrors are left"),
        }
        Ok(Session {
            client: self.clone(),
            endpoints,
            repository: reference.path().to_owned(),
            familiar: reference.familiar_repository(),
            login: false,
        })
    }

    fn session_at(&self, base: Url, repository: &str, credentials: Credentials) -> Session {
        let endpoint = Endpoint {
            name: base.origin.authority(),
            base: base.origin.url(base.path.trim_end_matches('/')),
            credentials,
            known: Mutex::default(),
            namespace: None,
        };
        Session {
            client: self.clone(),
            endpoints: vec![endpoint],
            repository: repository.to_owned(),
            familiar: repository.to_owned(),
            login: false,
        }
    }

    /// A registry by address or domain: what a cache stands in front of.
    pub(crate) async fn session_of(
        &self,
        address: &str,
        repository: &str,
        credentials: Credentials,
    ) -> Result<Session> {
        if address.contains("://") {
            let base = Url::parse(address).ok_or_else(|| Error::Invalid(format!("{address:?} is not an address")))?;
            return Ok(self.session_at(base, repository, credentials));
        }
        let endpoint = self.endpoint(address, credentials).await?;
        let (repository, familiar) = (repository.to_owned(), format!("{address}/{repository}"));
        Ok(Session { client: self.clone(), endpoints: vec![endpoint], repository, familiar, login: false })
    }

    pub(super) async fn endpoint(&self, domain: &str, credentials: Credentials) -> Result<Endpoint> {
        let host = host_of(domain);
        let invalid = || Error::Invalid(format!("{domain:?} is not a registry's host"));
        let secure = Origin::parse(true, host).ok_or_else(invalid)?;
        let endpoint = |origin: Origin| Endpoint {
            name: domain.to_owned(),
            base: origin.url(""),
            credentials: credentials.clone(),
            known: Mutex::default(),
            namespace: None,
        };
        if !self.may_be_plain(&secure) {
            return Ok(endpoint(secure));
        }
        let plain = Origin::parse(false, host).ok_or_else(invalid)?;
        let known = self.schemes.lock().unwrap_or_else(|e| e.into_inner()).get(host).copied();
        if let Some(https) = known {
            return Ok(endpoint(if https { secure } else { plain }));
        }
        // Nothing secret goes along with these questions. On the loopback plain HTTP is the usual thing and TLS costs more.
        let order = if secure.is_loopback() { [plain, secure] } else { [secure, plain] };
        let mut last_error = None;
        for origin in order {
            match self.speaks_registry(&origin).await {
                Ok(true) => {
                    self.schemes.lock().unwrap_or_else(|e| e.into_inner()).insert(host.to_owned(), origin.https);
                    return Ok(endpoint(origin));
                }
                Ok(false) => {}
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.unwrap_or_else(|| Error::Invalid(format!("{domain} does not speak the registry protocol"))))
    }

    async fn speaks_registry(&self, origin: &Origin) -> Result<bool> {
        let url = origin.url("/v2/");
        let plain = Plain { method: Method::GET, url: &url, headers: &[], body: &no_body };
        let answer = self.pool.send(&self.trust_of(origin, None), &plain).await?;
        let status = answer.status;
        answer.discard().await;
        // A server for TLS answers a plain request with 400, if at all.
        Ok(status != StatusCode::BAD_REQUEST)
    }
}

impl Session {
    pub(super) fn scope(&self, actions: &str) -> String {
        format!("repository:{}:{actions}", self.repository)
    }

    pub(super) fn url(&self, endpoint: &Endpoint, rest: &str) -> Url {
        let url = endpoint.base.origin.url(format!("{}/v2/{}/{rest}", endpoint.base.path, self.repository));
        match &endpoint.namespace {
            Some(namespace) => url.with(&query::join(&[("ns", namespace)])),
            None => url,
        }
    }

    /// Sends until there is an answer that is one: success, or a refusal that another try does not change.
    pub(super) async fn send(&self, endpoint: &Endpoint, url: &Url, ask: &Ask<'_>) -> Result<Answer> {
        let mut url = url.clone();
        let (mut tries, mut challenges, mut hops) = (0, 0, 0);
        loop {
            let own = url.origin == endpoint.base.origin;
            let mut headers = ask.headers.clone();
            if own && let Some(authorization) = self.authorization(endpoint, ask.scope) {
                headers.push((AUTHORIZATION, authorization));
            }
            let plain = Plain { method: ask.method.clone(), url: &url, headers: &headers, body: ask.body };
            let trust = self.client.trust_of(&url.origin, Some(endpoint));
            tries += 1;
            let answer = match self.client.pool.send(&trust, &plain).await {
                Ok(answer) => answer,
                // Nobody listens there: that does not change within a second.
                Err(error) if error.is_transport() && ask.repeatable && tries < TRIES && !is_refused(&error) => {
                    tokio::time::sleep(pause(tries, None)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match answer.status.as_u16() {
                401 if own && challenges < 2 => {
                    let headers = answer.headers.get_all(WWW_AUTHENTICATE).iter();
                    let texts: Vec<&str> = headers.filter_map(|value| value.to_str().ok()).collect();
                    let challenge = challenge::parse(&texts.join(", "));
                    let Some(challenge) = challenge else { return Ok(answer) };
                    // The same password again would not be better the second time.
                    if challenges > 0 && challenge == challenge::Challenge::Basic {
                        return Ok(answer);
                    }
                    answer.discard().await;
                    challenges += 1;
                    self.authenticate(endpoint, &challenge, ask.scope, &ask.method, &url).await?;
                }
                301 | 302 | 303 | 307 | 308 if matches!(ask.method, Method::GET | Method::HEAD) => {
                    let next = answer.header(LOCATION).and_then(|location| url.join(location));
                    let next = next.ok_or_else(|| Error::content(&url, "a redirect to no address"))?;
                    if url.origin.https && !next.origin.https {
                        return Err(Error::content(
                            &url,
                            format!("a redirect away from TLS, to {}", next.origin.authority()),
                        ));
                    }
                    hops += 1;
                    if hops > REDIRECTS_MAX {
                        return Err(Error::content(&url, format!("stopped after {REDIRECTS_MAX} redirects")));
                    }
                    answer.discard().await;
                    url = next;
                }
                429 if tries < TRIES => {
                    let asked = answer.header(RETRY_AFTER).and_then(retry_after);
                    answer.discard().await;
                    tokio::time::sleep(pause(tries, asked)).await;
                }
                500 | 502 | 503 | 504 if ask.repeatable && tries < TRIES => {
                    let asked = answer.header(RETRY_AFTER).and_then(retry_after);
                    answer.discard().await;
                    tokio::time::sleep(pause(tries, asked)).await;
                }
                _ => return Ok(answer),
            }
        }
    }

    /// The error that a refusal stands for.
    pub(super) async fn refusal(&self, answer: Answer, method: &Method, what: &str) -> Error {
        let (status, url) = (answer.status, answer.url.clone());
        let bytes = answer.whole(method, REFUSAL_BYTES_MAX).await.unwrap_or_default();
        let detail = refusal_text(&bytes);
        match status.as_u16() {
            401 => {
                let detail = detail.unwrap_or_else(|| "authentication required".into());
                let detail = detail.strip_prefix("unauthorized: ").unwrap_or(&detail).to_owned();
                Error::Unauthorized { method: go_method(method), url: url.to_string(), detail }
            }
            number => {
                let fallback = || status.canonical_reason().unwrap_or("refused").to_lowercase();
                Error::Refused { what: what.to_owned(), status: number, detail: detail.unwrap_or_else(fallback) }
            }
        }
    }

    /// What a refused question about this repository means to a user who pulls.
    fn denied(&self, error: Error) -> Error {
        let denied = |detail: String| Error::Denied { repository: self.familiar.clone(), detail };
        match error {
            Error::Unauthorized { .. } => denied("denied: requested access to the resource is denied".into()),
            Error::Refused { status: 403, detail, .. } => denied(detail),
            Error::Refused { status: 404, detail, .. } if detail.starts_with("name unknown") => denied(detail),
            other => other,
        }
    }

    /// Asks the endpoints in turn for a manifest, by tag or digest.
    pub(crate) async fn manifest(&self, name: &str, reference: &str) -> Result<Manifest> {
        let mut last = None;
        for at in 0..self.endpoints.len() {
            match self.manifest_at(at, name, reference).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => {
                    tracing::debug!(endpoint = self.endpoints[at].name, %error, "no manifest");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Invalid("there is no endpoint to ask".into())))
    }

    async fn manifest_at(&self, at: usize, name: &str, reference: &str) -> Result<Manifest> {
        let endpoint = &self.endpoints[at];
        let scope = self.scope("pull");
        let url = self.url(endpoint, &format!("manifests/{name}"));
        let ask = Ask::new(Method::GET, &scope).header(ACCEPT, media::ACCEPT);
        let answer = self.send(endpoint, &url, &ask).await.map_err(|error| match error {
            Error::Unauthorized { .. } => self.denied(error),
            other => other,
        })?;
        if answer.status != StatusCode::OK {
            let error = self.refusal(answer, &Method::GET, &format!("manifest of {reference}")).await;
            return Err(match error {
                Error::Refused { status: 404, detail, .. } if !detail.starts_with("name unknown") => {
                    let detail = detail.strip_prefix("manifest unknown: ").unwrap_or("manifest unknown").to_owned();
                    Error::NoManifest { reference: reference.to_owned(), detail }
                }
                other => self.denied(other),
            });
        }
        let media_type = answer.header(http::header::CONTENT_TYPE).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let told = answer.header("docker-content-digest").map(str::to_owned);
        let bytes = answer.whole(&Method::GET, MANIFEST_BYTES_MAX).await?;
        let digest = image::hash::sha256(&bytes);
        // By digest only what hashes to it will do; by tag the registry's own word is held against it.
        let expected = if name.contains(':') { Some(name.to_owned()) } else { told };
        if let Some(expected) = expected.filter(|expected| *expected != digest.to_string()) {
            let detail = format!("manifest verification failed for digest {expected}: its content is {digest}");
            return Err(Error::content(format!("manifest of {reference}"), detail));
        }
        let facts = media::parse(&bytes, &media_type)
            .map_err(|detail| Error::content(format!("manifest of {reference}"), detail))?;
        Ok(Manifest { digest, media_type: facts.media_type, bytes, endpoint: at })
    }

    /// Opens a blob from `from` on. The answer's first byte is the one that is told beside it: a registry that gives no
    /// ranges begins at 0.
    pub(crate) async fn open_blob(&self, at: usize, digest: &Digest, size: u64, from: u64) -> Result<(u64, Answer)> {
        let mut last = None;
        // From where the manifest came, then from whoever comes after it.
        for endpoint in self.endpoints.iter().skip(at) {
            let scope = self.scope("pull");
            let url = self.url(endpoint, &format!("blobs/{digest}"));
            let mut ask = Ask::new(Method::GET, &scope);
            if from > 0 {
                ask = ask.header(http::header::RANGE, format!("bytes={from}-{}", size.saturating_sub(1)));
            }
            let what = format!("blob {digest}");
            let error = match self.send(endpoint, &url, &ask).await {
                Err(error) => error,
                Ok(answer) => match answer.status.as_u16() {
                    200 => match length_of(&answer).filter(|length| *length != size) {
                        None => return Ok((0, answer)),
                        Some(length) => Error::content(
                            &what,
                            format!("the registry has {length} bytes of it, the manifest says {size}"),
                        ),
                    },
                    206 if from > 0 => {
                        let range =
                            answer.header(http::header::CONTENT_RANGE).and_then(crate::ranges::parse_content_range);
                        match range {
                            Some((first, last, whole))
                                if first == from && last == size - 1 && whole.is_none_or(|whole| whole == size) =>
                            {
                                return Ok((from, answer));
                            }
                            _ => Error::content(&what, "the registry gave another range than it was asked for"),
                        }
                    }
                    _ => self.denied(self.refusal(answer, &Method::GET, &what).await),
                },
            };
            last = Some(error);
        }
        Err(last.unwrap_or_else(|| Error::Invalid("there is no endpoint to ask".into())))
    }

    /// Opens a blob of unknown length from `from` on; nothing if the registry has none.
    pub(crate) async fn blob_from(&self, digest: &Digest, from: u64) -> Result<Option<(u64, Answer)>> {
        let endpoint = self.endpoints.last().ok_or_else(|| Error::Invalid("there is no endpoint to ask".into()))?;
        let scope = self.scope("pull");
        let mut ask = Ask::new(Method::GET, &scope);
        if from > 0 {
            ask = ask.header(http::header::RANGE, format!("bytes={from}-"));
        }
        let answer = self.send(endpoint, &self.url(endpoint, &format!("blobs/{digest}")), &ask).await?;
        match answer.status.as_u16() {
            200 => Ok(Some((0, answer))),
            206 => {
                let range = answer.header(http::header::CONTENT_RANGE).and_then(crate::ranges::parse_content_range);
                Ok(range.map(|(first, _, _)| (first, answer)))
            }
            404 => Ok(None),
            _ => Err(self.refusal(answer, &Method::GET, &format!("blob {digest}")).await),
        }
    }

    /// A small blob, whole and verified.
    pub(crate) async fn small_blob(&self, at: usize, digest: &Digest, size: u64, max: u64) -> Result<Vec<u8>> {
        let what = format!("blob {digest}");
        if size > max {
            return Err(Error::content(what, format!("it has {size} bytes, at most {max} are taken")));
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let (_, answer) = self.open_blob(at, digest, size, 0).await?;
            let bytes = match answer.whole(&Method::GET, size as usize).await {
                Ok(bytes) if bytes.len() as u64 == size => bytes,
                Ok(_) | Err(Error::Transport { .. }) if tries < TRIES => {
                    tokio::time::sleep(pause(tries, None)).await;
                    continue;
                }
                Ok(bytes) => return Err(Error::content(what, format!("{} of {size} bytes came", bytes.len()))),
                Err(error) => return Err(error),
            };
            let actual = image::hash::sha256(&bytes);
            if actual != *digest {
                return Err(Error::content(what, format!("its content is {actual}")));
            }
            return Ok(bytes);
        }
    }
}

fn length_of(answer: &Answer) -> Option<u64> {
    answer.header(http::header::CONTENT_LENGTH)?.parse().ok()
}

fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Transport { detail, .. } if detail.contains("connection refused"))
}

/// The errors of a refusal as Docker prints them: `denied: requested access to the resource is denied`.
pub(super) fn refusal_text(bytes: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let errors = value["errors"].as_array().filter(|errors| !errors.is_empty());
    let Some(errors) = errors else {
        // Token servers say it in their own ways.
        let text = value["error_description"].as_str().or(value["details"].as_str()).or(value["error"].as_str());
        return text.map(str::to_owned);
    };
    let texts = errors.iter().take(10).map(|error| {
        let code = error["code"].as_str().unwrap_or("unknown").to_lowercase().replace('_', " ");
        match error["message"].as_str().filter(|message| !message.is_empty()) {
            Some(message) => format!("{code}: {}", message.chars().take(500).collect::<String>()),
            None => code,
        }
    });
    Some(texts.collect::<Vec<_>>().join("\n"))
}

/// Seconds, or a date.
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(secs) = text.trim().parse() {
        return Some(Duration::from_secs(secs));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let secs = at.as_second() - jiff::Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(secs).unwrap_or(0)))
}

/// What was asked for, within bounds; else a quarter of a second, doubled with each try.
pub(super) fn pause(tries: u32, asked: Option<Duration>) -> Duration {
    match asked {
        Some(asked) => asked.min(PAUSE_MAX),
        None => Duration::from_millis(250 << tries.saturating_sub(1).min(5)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_docker_prints_them() {
        for (json, expected) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#,
                Some("denied: requested access to the resource is denied"),
            ),
            (r#"{"errors":[{"code":"NAME_UNKNOWN","message":"a"},{"code":"X"}]}"#, Some("name unknown: a\nx")),
            (r#"{"error":"invalid_grant","error_description":"no"}"#, Some("no")),
            (r#"{"details":"incorrect username or password"}"#, Some("incorrect username or password")),
            ("<html>", None),
            ("{}", None),
        ] {
            assert_eq!(refusal_text(json.as_bytes()).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn pauses_are_asked_for_or_grow() {
        assert_eq!(retry_after("3"), Some(Duration::from_secs(3)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
        assert_eq!(pause(1, Some(Duration::from_secs(9999))), PAUSE_MAX);
        assert_eq!([1, 2, 3].map(|tries| pause(tries, None).as_millis()), [250, 500, 1000]);
    }
}
