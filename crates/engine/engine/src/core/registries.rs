//! Registries: pulling and pushing for the engine's callers, and the engine's own registry, which gives out what the store
//! has and takes a push from this engine as records alone.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use image::Platform;
use registry::client::{self, Client, Credentials, Report, Reporter};
use registry::server::Server;
use tokio::sync::{mpsc, watch};
use vocab::{ErrorKind, Reference};

use super::Inner;
use super::images::parse_reference;
use super::inner::blocking;
use crate::stream::Stream;
use crate::{Error, Registries, Result};

/// Steps that a caller who reads slowly may lag behind.
const REPORTS: usize = 256;

/// What the engine has of registries.
pub(crate) struct Doors {
    pub(crate) client: Client,
    own: OnceLock<Own>,
}

struct Own {
    server: Server,
    address: SocketAddr,
    names: Vec<String>,
    closing: watch::Sender<bool>,
}

impl Doors {
    pub(crate) fn new(registries: &Registries) -> Self {
        Self { client: Client::new(registries.client.clone()), own: OnceLock::new() }
    }

    /// The engine's own registry, if that is what a domain means.
    fn own(&self, domain: &str) -> Option<&Server> {
        let own = self.own.get()?;
        means(domain, own.address, &own.names).then_some(&own.server)
    }

    pub(crate) fn close(&self) {
        if let Some(own) = self.own.get() {
            own.closing.send_replace(true);
        }
    }
}

/// Whether `host:port` is this address, or a name for it. Pure.
fn means(domain: &str, address: SocketAddr, names: &[String]) -> bool {
    if names.iter().any(|name| name.eq_ignore_ascii_case(domain)) {
        return true;
    }
    let Some((host, port)) = domain.rsplit_once(':') else { return false };
    if port.parse() != Ok(address.port()) {
        return false;
    }
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let any = address.ip().is_unspecified();
    match ip {
        Ok(ip) => ip == address.ip() || any && ip.is_loopback(),
        // The name may lead to either loopback address.
        Err(_) => host.eq_ignore_ascii_case("localhost") && (any || address.ip().is_loopback()),
    }
}

impl Inner {
    /// Starts the engine's own registry, if it is to have one.
    pub(crate) async fn open_registry(&self) -> Result<()> {
        let Some((listen, config)) = self.config.registries.serve.clone() else { return Ok(()) };
        let failed = |e: registry::server::ServerError| Error::Other {
            what: "start the registry".into(),
            kind: e.kind(),
            message: e.to_string(),
        };
        let (images, client) = (self.images.clone(), self.doors.client.clone());
        let server = blocking(move || Server::open(images, config, client)).await.map_err(failed)?;
        let listening = server.bind(&listen).await.map_err(failed)?;
        let (address, names) = (listening.address(), listen.names.clone());
        let (closing, mut closed) = watch::channel(false);
        let tidy = server.clone();
        tokio::spawn(async move {
            let served = listening.serve(async move { drop(closed.wait_for(|closing| *closing).await) });
            tokio::select! {
                () = served => {}
                () = tidy.keep_clean() => {}
            }
        });
        tracing::info!(%address, "serving the registry");
        // Opened once in an engine's life.
        let _ = self.doors.own.set(Own { server, address, names, closing });
        Ok(())
    }

    /// Pulls one reference, or all tags of a repository.
    pub(crate) fn pull(self: &Arc<Self>, request: crate::PullRequest) -> Result<Stream<Report>> {
        let reference: Reference = request.reference.parse().map_err(image::Error::from)?;
        let all = request.all_tags && reference.tag().is_none() && reference.digest().is_none();
        let platform = request.platform.as_deref().filter(|text| !text.is_empty()).map(Platform::parse).transpose()?;
        if let Some(platform) = &platform
            && platform.os != "linux"
        {
            return Err(Error::Invalid(format!("operating system is not supported: {platform}")));
        }
        let (sender, stream) = Stream::channel(REPORTS);
        let inner = self.clone();
        tokio::spawn(async move {
            let credentials = request.credentials;
            let references = match all {
                false => Ok(vec![reference.or_latest()]),
                true => match inner.doors.client.tags(&reference, credentials.clone()).await {
                    Ok(tags) => {
                        tags.iter().map(|tag| reference.with_tag(tag).map_err(|e| Error::Image(e.into()))).collect()
                    }
                    Err(error) => Err(error.into()),
                },
            };
            let pulled = async {
                for reference in references? {
                    let name = reference.familiar();
                    let wanted =
                        client::PullRequest { reference, platform: platform.clone(), credentials: credentials.clone() };
                    inner.doors.client.pull(&inner.images, wanted, reporter(&sender)).await?;
                    inner.image_event("pull", name.clone(), Some(name));
                }
                Ok(())
            };
            if let Err(error) = pulled.await {
                // A caller who has gone needs no news.
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(stream)
    }

    /// Pushes one tag, or all tags of a repository.
    pub(crate) fn push(self: &Arc<Self>, request: crate::PushRequest) -> Result<Stream<Report>> {
        let reference: Reference = request.reference.parse().map_err(image::Error::from)?;
        if reference.digest().is_some() {
            return Err(Error::Invalid("cannot push a digest reference".into()));
        }
        let references = match (reference.tag(), request.all_tags) {
            (Some(_), _) | (None, false) => vec![reference.clone().or_latest()],
            (None, true) => self.tags_of(&reference)?,
        };
        let (sender, stream) = Stream::channel(REPORTS);
        let inner = self.clone();
        tokio::spawn(async move {
            let report = reporter(&sender);
            report(Report::Status(format!("The push refers to repository [{}]", reference.repository())));
            let pushed = async {
                if references.is_empty() {
                    return Err(Error::from(client::Error::NoLocal(reference.familiar())));
                }
                for reference in references {
                    inner.push_one(reference, request.credentials.clone(), report.clone()).await?;
                }
                Ok(())
            };
            if let Err(error) = pushed.await {
                // A caller who has gone needs no news.
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(stream)
    }

    async fn push_one(
        self: &Arc<Self>,
        reference: Reference,
        credentials: Credentials,
        report: Reporter,
    ) -> Result<()> {
        let name = reference.familiar();
        let digest = match self.doors.own(reference.domain()) {
            None => {
                let wanted = client::PushRequest { reference: reference.clone(), credentials };
                self.doors.client.push(&self.images, wanted, report).await?
            }
            Some(server) => {
                let (inner, server, reference) = (self.clone(), server.clone(), reference.clone());
                blocking(move || inner.publish(&server, &reference, &report)).await?
            }
        };
        let (inner, noted) = (self.clone(), reference.with_digest(digest));
        blocking(move || {
            let id = inner.images.resolve(&reference.familiar())?;
            inner.images.note_digest(&noted, &id)
        })
        .await?;
        self.image_event("push", name.clone(), Some(name));
        Ok(())
    }

    /// A push to the engine's own registry: its bytes are where they belong already.
    fn publish(&self, server: &Server, reference: &Reference, report: &Reporter) -> Result<vocab::Digest> {
        let name = reference.familiar();
        let image = match self.images.distributable(&name) {
            Err(image::Error::NoSuchImage(_)) => return Err(client::Error::NoLocal(name).into()),
            other => other?,
        };
        for layer in image.layers.iter().rev() {
            let id = layer.diff_id.hex()[..12].to_owned();
            let known = server.has_blob(reference.path(), &layer.digest);
            let status = if known { "Layer already exists" } else { "Pushed" };
            report(Report::Step { id, status: status.into(), bytes: None });
        }
        server.publish(reference, &image).map_err(|e| Error::Other {
            what: format!("push {name}"),
            kind: e.kind(),
            message: e.to_string(),
        })?;
        let (tag, bytes) = (reference.tag().unwrap_or("latest").to_owned(), image.manifest.len() as u64);
        report(Report::Status(format!("{tag}: digest: {} size: {bytes}", image.digest)));
        report(Report::Pushed { tag, digest: image.digest, bytes });
        Ok(image.digest)
    }

    fn tags_of(&self, repository: &Reference) -> Result<Vec<Reference>> {
        let all = self.images.list(&image::ListFilter { all: true, ..image::ListFilter::default() })?;
        let tags = all.into_iter().flat_map(|image| image.tags);
        let mut same: Vec<Reference> = tags.filter(|tag| tag.repository() == repository.repository()).collect();
        same.sort();
        Ok(same)
    }
}

/// Progress may be lost on a slow reader, news may not. A reader who has gone ends the work.
fn reporter(sender: &mpsc::Sender<Result<Report>>) -> Reporter {
    let sender = sender.clone();
    Arc::new(move |report| {
        let progress = matches!(&report, Report::Step { bytes: Some(_), .. });
        match sender.try_send(Ok(report)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) if progress => true,
            Err(mpsc::error::TrySendError::Full(report)) => {
                // Off the caller's thread, which may be one that must not block.
                let sender = sender.clone();
                tokio::runtime::Handle::current().spawn(async move { drop(sender.send(report).await) });
                true
            }
        }
    })
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Image(error) => Self::Image(error),
            error => Self::Registry { kind: error.kind(), message: error.to_string() },
        }
    }
}

/// Looking at registries.
impl Inner {
    pub(crate) async fn registry_login(&self, server: &str, credentials: Credentials) -> Result<client::Login> {
        self.doors.client.login(server, credentials).await.map_err(|error| match error {
            // Docker's word for a password that was wrong is 401, which clients ask again on.
            error @ client::Error::Unauthorized { .. } => Error::Unauthorized(error.to_string()),
            error => error.into(),
        })
    }

    pub(crate) async fn registry_inspect(
        &self,
        reference: &str,
        credentials: Credentials,
    ) -> Result<client::Inspected> {
        let reference = parse_reference(reference)?;
        Ok(self.doors.client.inspect(&reference, credentials).await?)
    }

    pub(crate) async fn registry_search(
        &self,
        term: &str,
        limit: usize,
        credentials: Credentials,
    ) -> Result<Vec<client::Found>> {
        if term.trim().is_empty() {
            return Err(Error::Other {
                what: "search".into(),
                kind: ErrorKind::Invalid,
                message: "the term is empty".into(),
            });
        }
        Ok(self.doors.client.search(term, limit, credentials).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_registry_is_known_by_all_its_names() {
        let names = ["box.lan".to_owned()];
        for (domain, address, expected) in [
            ("localhost:5000", "127.0.0.1:5000", true),
            ("127.0.0.1:5000", "127.0.0.1:5000", true),
            ("127.0.0.2:5000", "127.0.0.1:5000", false),
            ("[::1]:5000", "[::1]:5000", true),
            ("localhost:5000", "0.0.0.0:5000", true),
            ("10.0.0.1:5000", "10.0.0.1:5000", true),
            ("localhost:5000", "10.0.0.1:5000", false),
            ("localhost:5001", "127.0.0.1:5000", false),
            ("localhost", "127.0.0.1:80", false),
            ("docker.io", "127.0.0.1:5000", false),
            ("box.lan", "10.0.0.1:443", true),
        ] {
            assert_eq!(means(domain, address.parse().unwrap(), &names), expected, "{domain} {address}");
        }
    }
}
