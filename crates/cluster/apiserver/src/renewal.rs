//! Certificates that renew themselves: the serving one while connections go on, the administrator's in its kubeconfig.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::pki::{self, Authority, Leaf, PkiError};

/// The serving certificate that new connections get.
#[derive(Debug)]
pub struct Serving(RwLock<Arc<CertifiedKey>>);

impl Serving {
    pub fn new(leaf: &Leaf) -> Result<Self, PkiError> {
        Ok(Self(RwLock::new(leaf.certified()?.into())))
    }

    fn set(&self, leaf: &Leaf) -> Result<(), PkiError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = leaf.certified()?.into();
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// What is needed to make the certificates again.
pub struct Renewal {
    pub authority: Arc<Authority>,
    pub serving: Arc<Serving>,
    /// What this server shows to nodes.
    pub to_nodes: client::Identity,
    pub addresses: Vec<IpAddr>,
    pub names: Vec<String>,
    pub lifetime: Duration,
    /// The kubeconfig to write again, and the URL that stands in it.
    pub kubeconfig: Option<PathBuf>,
    pub url: String,
}

impl Renewal {
    /// The kubeconfig of the administrator, with a new certificate.
    pub fn kubeconfig(&self) -> Result<String, PkiError> {
        let admin = self.authority.client("kubernetes-admin", &["system:masters"], self.lifetime)?;
        Ok(pki::kubeconfig(&self.url, &self.authority.pem, &admin))
    }

    pub fn renew_to_nodes(&self) -> Result<(), PkiError> {
        let leaf = self.authority.client("kube-apiserver-kubelet-client", &["system:masters"], self.lifetime)?;
        self.to_nodes.set(&leaf.certificate, &leaf.key).map_err(|error| PkiError::Tls(error.to_string()))
    }

    fn renew(&self) -> Result<(), PkiError> {
        self.renew_to_nodes()?;
        self.serving.set(&self.authority.server(&self.addresses, &self.names, self.lifetime)?)?;
        if let Some(path) = &self.kubeconfig {
            pki::write_secret(path, self.kubeconfig()?.as_bytes())?;
        }
        Ok(())
    }

    /// Renews when a third of the time is over, until the server stops.
    pub async fn run(self, stopping: tokio_util::sync::CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.lifetime / 3) => {}
                () = stopping.cancelled() => return,
            }
            match self.renew() {
                Ok(()) => tracing::info!("certificates are renewed"),
                // Two thirds of the time are left to try again.
                Err(error) => tracing::error!(%error, "certificates cannot be renewed"),
            }
        }
    }
}
