//! Base images: from the store, or pulled with what the client's session knows of its registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use build::StoreBases;
use build::plan::{Base, Bases};
use engine::Credentials;
use tonic::Code;

use crate::kit::Kit;
use crate::progress::{Progress, Task};
use crate::session::Session;
use crate::wire::session as wire;

const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";

pub(crate) struct SessionBases {
    engine: engine::Engine,
    session: Arc<Session>,
    progress: Arc<Progress>,
    pull: bool,
    /// Results of other builds, by the references that stand for them.
    results: BTreeMap<String, Base>,
    /// By registry, asked once.
    known: Mutex<BTreeMap<String, Credentials>>,
}

impl SessionBases {
    pub(crate) fn new(
        kit: &Kit,
        session: &Arc<Session>,
        progress: &Arc<Progress>,
        pull: bool,
        results: BTreeMap<String, Base>,
    ) -> Self {
        Self {
            engine: kit.builder.engine().clone(),
            session: session.clone(),
            progress: progress.clone(),
            pull,
            results,
            known: Mutex::default(),
        }
    }
}

impl Bases for SessionBases {
    fn resolve(&self, reference: &str, platform: &image::Platform) -> Result<Base, String> {
        if let Some(base) = self.results.get(reference) {
            return Ok(base.clone());
        }
        let full = reference.parse::<vocab::Reference>().map(vocab::Reference::or_latest);
        let shown = full.as_ref().map_or_else(|_| reference.to_owned(), ToString::to_string);
        let task = Task::begin(&self.progress, &format!("[internal] load metadata for {shown}"));
        let mut credentials = BTreeMap::new();
        if let Ok(full) = &full {
            let here = self.engine.store().inspect(reference).is_ok();
            if self.pull || !here {
                let known = self.credentials(full.domain());
                credentials.insert(full.domain().to_owned(), known);
            }
        }
        let resolved = StoreBases::new(&self.engine, credentials, self.pull).resolve(reference, platform);
        task.done(&resolved);
        resolved.map_err(|error| format!("{reference}: {error}"))
    }
}

impl SessionBases {
    fn credentials(&self, domain: &str) -> Credentials {
        if let Some(known) = self.known.lock().unwrap_or_else(|e| e.into_inner()).get(domain) {
            return known.clone();
        }
        // Planning has a thread of its own.
        let found = tokio::runtime::Handle::current().block_on(credentials(&self.session, domain));
        self.known.lock().unwrap_or_else(|e| e.into_inner()).insert(domain.to_owned(), found.clone());
        found
    }
}

/// What the client has for a registry; nothing if it has nothing.
pub(crate) async fn credentials(session: &Session, domain: &str) -> Credentials {
    if !session.supports(CREDENTIALS) {
        return Credentials::default();
    }
    // The client knows the main registry by the host that serves it.
    let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
    let asked = wire::CredentialsRequest { host: host.to_owned() };
    match session.channel.unary::<_, wire::Credentials>(CREDENTIALS, asked).await {
        // A user without a name is how an identity token is told.
        Ok(found) if found.username.is_empty() && !found.secret.is_empty() => {
            Credentials { identity_token: found.secret, ..Credentials::default() }
        }
        Ok(found) => Credentials { username: found.username, password: found.secret, ..Credentials::default() },
        Err(status) => {
            if status.code() != Code::NotFound {
                tracing::debug!(domain, message = status.message(), "the client has no credentials");
            }
            Credentials::default()
        }
    }
}
