//! The Kubernetes API over HTTP; the only crate that knows it.
//!
//! A request is read once ([`request`]), its sender identified ([`authn`]) and judged ([`authz`]), and then answered from
//! the store: objects are stored as the JSON that readers get ([`codec`]), so reads and lists share bytes with the store.
//! [`Server`] puts it together, [`InProcess`] without connections; [`controllers`] runs what the API cannot do without; [`Local`] is the same API for parts of
//! the same process.

mod admission;
mod allocated;
mod api;
mod authn;
mod authz;
mod bootstrap;
mod catalog;
mod certificates;
mod codec;
mod controllers;
mod convert;
pub mod data;
#[cfg(test)]
mod defences;
mod deletion;
mod discovery;
mod eviction;
mod garbage;
mod in_process;
mod local;
mod masters;
mod objects;
mod openapi;
mod pki;
mod renewal;
mod request;
mod respond;
mod reviews;
mod server;
mod services;
mod usage;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use store::{Credentials, EtcdOptions, Tls};
use store::{Embedded, Etcd, Options, Store};
use tokio::net::TcpListener;

pub use catalog::{Catalog, Resource};
use client::Identity;
pub use client::{
    Body, Client, DeleteOptions, Event, Events, Gvr, Happened, List, NodeRequest, Nodes, PODS, Patch, Query, Request,
    Selectors, User,
};
pub use in_process::InProcess;
pub use resources::Status;
pub use services::Range as ServiceRange;

/// How to run a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where state lives: the store, the authority, keys. `None` keeps everything in memory.
    pub root: Option<PathBuf>,
    /// A real etcd as the store, instead of a file below `root`. Several servers may share one.
    pub datastore: Option<store::EtcdOptions>,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Further addresses to listen at, such as the API's own address as a service.
    pub also_listen: Vec<SocketAddr>,
    /// The address by which other machines and pods reach this server, unless it is the one that it listens on.
    pub advertise: Option<IpAddr>,
    /// Where to write a kubeconfig for the administrator.
    pub kubeconfig: Option<PathBuf>,
    /// Static bearer tokens, CSV as upstream's `--token-auth-file`.
    pub tokens: Option<PathBuf>,
    pub service_range: ServiceRange,
    /// More names and addresses for the serving certificate.
    pub names: Vec<String>,
    /// How long certificates are good for; they are renewed when a third of it is over.
    pub certificate_lifetime: std::time::Duration,
    /// The most that certificates which somebody asked for are good for.
    pub signing_lifetime: std::time::Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: None,
            datastore: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            also_listen: Vec::new(),
            advertise: None,
            kubeconfig: None,
            tokens: None,
            service_range: ServiceRange::default(),
            names: Vec::new(),
            certificate_lifetime: pki::LEAF_LIFETIME,
            signing_lifetime: certificates::LIFETIME_MAX,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("make {path}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] store::StoreError),
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    #[error(transparent)]
    Keys(#[from] authn::KeyError),
    #[error("make the objects of a new cluster: {0}")]
    Bootstrap(resources::Status),
}

/// A running server. Dropping it does not stop it; [`Server::stop`] does.
pub struct Server {
    api: Arc<api::Api>,
    address: SocketAddr,
    kubeconfig: String,
    to_nodes: Identity,
    accepting: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Starts a server; it is ready when this returns.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        if let Some(root) = &config.root {
            make_private(root)?;
        }
        let store: Arc<dyn Store> = match (&config.datastore, &config.root) {
            (Some(etcd), _) => Arc::new(Etcd::connect(etcd.clone()).await?),
            (None, None) => Arc::new(Embedded::ephemeral()),
            (None, Some(root)) => Arc::new(Embedded::open(&root.join("cluster.db"), &Options::default())?),
        };
        let dir = match &config.root {
            None => None,
            Some(root) => {
                let dir = root.join("pki");
                make_private(&dir)?;
                Some(dir)
            }
        };
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| StartError::Listen { address: config.listen, source })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
        let mut further = Vec::new();
        for address in &config.also_listen {
            let listener = TcpListener::bind(address).await;
            further.push(listener.map_err(|source| StartError::Listen { address: *address, source })?);
        }
        let authority = Arc::new(pki::Authority::open(dir.as_deref())?);
        let own = IpAddr::V4(config.service_range.first());
        let mut addresses = vec![own, address.ip()];
        addresses.extend(config.advertise);
        let (ips, names): (Vec<_>, Vec<_>) =
            config.names.iter().cloned().partition(|name| name.parse::<IpAddr>().is_ok());
        addresses.extend(ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
        let leaf = authority.server(&addresses, &names, config.certificate_lifetime)?;
        let serving = Arc::new(renewal::Serving::new(&leaf)?);
        let tls = pki::tls(&authority, serving.clone())?;
        let tokens = match &config.tokens {
            Some(path) => authn::Keys::read_tokens(path)?,
            None => HashMap::new(),
        };
        let key = pki::signing_key(dir.as_deref())?;
        let issuer = "https://kubernetes.default.svc.cluster.local";
        let keys = authn::Keys::new(&key, issuer, &authority.pem, tokens)?;
        let reach = if address.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { address.ip() };
        let to_nodes = Identity::default();
        let renewal = renewal::Renewal {
            authority: authority.clone(),
            serving,
            to_nodes: to_nodes.clone(),
            addresses,
            names,
            lifetime: config.certificate_lifetime,
            kubeconfig: config.kubeconfig.clone(),
            url: format!("https://{}", SocketAddr::new(reach, address.port())),
        };
        let kubeconfig = renewal.kubeconfig()?;
        renewal.renew_to_nodes()?;

        let api = api::Api::new(store, keys, config.service_range);
        let reached = config.advertise.unwrap_or(reach).to_string();
        if config.datastore.is_some() {
            masters::agree(&api, &api.keys.ca_pem).await.map_err(StartError::Bootstrap)?;
        }
        bootstrap::run(&api, &reached, address.port()).await.map_err(StartError::Bootstrap)?;
        controllers::load_definitions(&api).await.map_err(StartError::Bootstrap)?;
        controllers::load_hooks(&api).await.map_err(StartError::Bootstrap)?;
        let reader =
            Client::new(local::Local::new(&api, User::component("system:apiserver").with("system:masters"), "knarr"));
        let nodes = client::RemoteNodes::new(reader, &api.keys.ca_pem, &to_nodes);
        let nodes = nodes.map_err(|error| pki::PkiError::Tls(error.to_string()))?;
        let _ = api.nodes.set(nodes);
        tokio::spawn(usage::run(api.clone()));
        controllers::start(&api, authority, config.signing_lifetime);
        for listener in further {
            tokio::spawn(server::serve(api.clone(), listener, tls.clone()));
        }
        if let Some(advertise) = config.advertise {
            let (follower, stopping) = (api.clone(), api.stopping.clone());
            tokio::spawn(async move {
                tokio::select! {
                    _ = masters::follow(follower, advertise, address.port()) => {}
                    () = stopping.cancelled() => {}
                }
            });
        }
        let accepting = tokio::spawn(server::serve(api.clone(), listener, tls));
        tokio::spawn(renewal.run(api.stopping.clone()));
        api.ready.store(true, Ordering::Release);
        if let Some(path) = &config.kubeconfig {
            pki::write_secret(path, kubeconfig.as_bytes())?;
        }
        Ok(Self { api, address, kubeconfig, to_nodes, accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API for a part of this process, which asks as `user`. `agent` names the writer in `managedFields`.
    pub fn local(&self, user: User, agent: &str) -> Client {
        Client::new(local::Local::new(&self.api, user, agent))
    }

    /// The node of this process is asked for logs, exec and the like by its door; the others are over HTTPS.
    pub fn connect_node(&self, node: &str, door: Arc<dyn Nodes>) {
        if let Some(nodes) = self.api.nodes.get() {
            nodes.connect(node.to_owned(), door);
        }
    }

    /// What this server shows to nodes; it is renewed in place.
    pub fn to_nodes(&self) -> Identity {
        self.to_nodes.clone()
    }

    /// What pods and nodes use, as the nodes told it last.
    pub fn usage(&self) -> client::UsageTable {
        self.api.usage.table.clone()
    }

    /// Counts the requests received so far, those of this process's own parts too.
    pub fn requests(&self) -> impl Fn() -> u64 + Send + 'static {
        let api = Arc::downgrade(&self.api);
        move || api.upgrade().map_or(0, |api| api.metrics.requests.load(Ordering::Relaxed))
    }

    /// A kubeconfig for the administrator.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// The certificate of the cluster's authority, PEM.
    pub fn authority_pem(&self) -> &str {
        &self.api.keys.ca_pem
    }

    /// Ends connections, watches and controllers, and waits until nobody uses the store any more, so that it can be
    /// opened again at once. Requests that hang are not waited for longer than ten seconds.
    pub async fn stop(self) {
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
        self.api.stopping.cancel();
        let _ = self.accepting.await;
        let unused = async {
            while Arc::strong_count(&self.api) > 1 {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, unused).await.is_err() {
            tracing::warn!("requests were still being answered when the server stopped");
        }
    }
}

fn make_private(path: &std::path::Path) -> Result<(), StartError> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let failed = |source| StartError::Directory { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    if vocab::weak::without("folder") {
        return Ok(());
    }
    // A directory that others can read is repaired: it holds keys and secrets.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}
