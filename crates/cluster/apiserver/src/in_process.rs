//! The API without connections: for parts of the same process alone, over any store. Simulations run it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use client::{Client, User};
use store::Store;

use crate::local::Local;
use crate::{ServiceRange, StartError, api, authn, bootstrap, controllers, pki};

/// A running API that only [`InProcess::local`] reaches. Nobody connects, so nodes cannot be asked for logs.
pub struct InProcess {
    api: Arc<api::Api>,
}

impl InProcess {
    /// Makes what a new cluster has and starts the controllers that the API needs itself, on the current runtime.
    pub async fn start(store: Arc<dyn Store>) -> Result<Self, StartError> {
        let authority = Arc::new(pki::Authority::open(None)?);
        let issuer = "https://kubernetes.default.svc.cluster.local";
        let keys = authn::Keys::new(&authn::Keys::generate(), issuer, &authority.pem, HashMap::new())?;
        let api = api::Api::new(store, keys, ServiceRange::default());
        bootstrap::run(&api, "127.0.0.1", 6443).await.map_err(StartError::Bootstrap)?;
        controllers::load_definitions(&api).await.map_err(StartError::Bootstrap)?;
        controllers::load_hooks(&api).await.map_err(StartError::Bootstrap)?;
        controllers::start(&api, authority, crate::certificates::LIFETIME_MAX);
        api.ready.store(true, Ordering::Release);
        Ok(Self { api })
    }

    /// The API as `user` sees it. `agent` names the writer in `managedFields`.
    pub fn local(&self, user: User, agent: &str) -> Client {
        Client::new(Local::new(&self.api, user, agent))
    }

    /// Every request answers 503 from now on, and the controllers end.
    pub fn stop(&self) {
        self.api.stopping.cancel();
    }
}
