//! The client: pull, push, login, search, and a look at what a registry has.
//!
//! * `url` — addresses; what a password may be sent to is an origin
//! * `connect` — connections and answers
//! * `auth` — basic and token authentication
//! * `session` — one reference's registry: its endpoints (mirrors first), redirects, retries
//! * `pull`, `push`, `remote` — what users ask for
//! * `fetch` — files at addresses, which have nothing to do with registries

mod auth;
mod connect;
mod error;
mod fetch;
mod pull;
mod push;
mod remote;
mod session;
mod url;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

pub use auth::Credentials;
pub use error::{Error, Result};
pub use fetch::{Download, Fetched, Validators};
pub use pull::PullRequest;
pub use push::{BlobSource, PackageRequest, PushRequest};
pub use remote::{Found, Inspected, Login};

use connect::Pool;
use session::Endpoint;
use url::Origin;

use crate::tls::Trust;

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct Config {
    /// Hosts (`host` or `host:port`) that may speak plain HTTP or show any certificate. The loopback may anyway.
    pub insecure: Vec<String>,
    /// Addresses to ask before a registry itself, by its domain; `*` is every registry.
    pub mirrors: Vec<(String, String)>,
    /// Folders of the shape of `/etc/docker/certs.d`.
    pub certs: Vec<PathBuf>,
    /// Authorities trusted for every registry, as PEM files.
    pub authorities: Vec<PathBuf>,
    /// Layers on their way at once.
    pub downloads: usize,
    pub uploads: usize,
    /// Larger blobs are pushed in pieces of this size. 0: in one.
    pub chunk_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            certs: vec!["/etc/docker/certs.d".into(), "/etc/knarr/certs.d".into()],
            authorities: Vec::new(),
            downloads: 3,
            uploads: 5,
            chunk_bytes: 0,
        }
    }
}

/// One line of progress, in the words that Docker's clients know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A sentence about the whole.
    Status(String),
    /// About one layer (or a tag); bytes so far and in all where they matter.
    Step { id: String, status: String, bytes: Option<(u64, u64)> },
    /// A manifest is in the registry under this tag.
    Pushed { tag: String, digest: vocab::Digest, bytes: u64 },
}

impl Report {
    pub(crate) fn step(id: impl Into<String>, status: impl Into<String>) -> Self {
        Report::Step { id: id.into(), status: status.into(), bytes: None }
    }
}

/// Whoever listens to progress. False: nobody does any more, and the work should end.
pub type Reporter = Arc<dyn Fn(Report) -> bool + Send + Sync>;

/// The client of all registries. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    config: Arc<Config>,
    pool: Arc<Pool>,
    /// Whether TLS is spoken, by host, where both are allowed.
    schemes: Arc<Mutex<HashMap<String, bool>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Client {
    pub fn new(config: Config) -> Self {
        Self { config: Arc::new(config), pool: Arc::default(), schemes: Arc::default() }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `localhost:5000` is allowed what `127.0.0.1` is; everything else must be named.
    fn may_be_plain(&self, origin: &Origin) -> bool {
        let named = |known: &String| {
            let known = known.trim_start_matches("http://").trim_start_matches("https://");
            known.eq_ignore_ascii_case(&origin.authority())
                || known.eq_ignore_ascii_case(&format!("{}:{}", origin.host, origin.port))
                || known.eq_ignore_ascii_case(&origin.host)
        };
        origin.is_loopback() || self.config.insecure.iter().any(named)
    }

    /// Whom to trust for an origin: of an endpoint's own host, or of one that it sent us to.
    fn trust_of(&self, origin: &Origin, endpoint: Option<&Endpoint>) -> Trust {
        let mut trust = Trust { authorities: self.config.authorities.clone(), ..Trust::default() };
        let mut names = vec![format!("{}:{}", origin.host, origin.port), origin.host.clone()];
        if let Some(endpoint) = endpoint
            && endpoint.base.origin == *origin
        {
            names.push(endpoint.name.clone());
        }
        for folder in &self.config.certs {
            for name in &names {
                trust.add_folder(&folder.join(name));
            }
        }
        // A registry for which somebody has put an authority in place is held to it.
        trust.anybody = trust.authorities.is_empty() && self.may_be_plain(origin);
        trust
    }
}

/// Docker's own registry answers under another name than it goes by.
fn host_of(domain: &str) -> &str {
    match domain {
        "docker.io" => "registry-1.docker.io",
        other => other,
    }
}

/// Twelve digits to show for a layer.
fn short(digest: &vocab::Digest) -> String {
    digest.hex()[..12].to_owned()
}
