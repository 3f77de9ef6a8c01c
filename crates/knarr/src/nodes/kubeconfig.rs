//! A kubeconfig as commands of this program need it: where the API is, and who asks.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Client, Https, Identity, Target};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    clusters: Vec<Named<Cluster>>,
    #[serde(default)]
    users: Vec<Named<Who>>,
    #[serde(default)]
    contexts: Vec<Named<Context>>,
    #[serde(default, rename = "current-context")]
    current: String,
}

#[derive(Debug, Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    of: T,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Who {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

/// The API that a kubeconfig leads to.
pub struct Access {
    pub client: Client,
    /// The cluster's authority, PEM.
    pub authority: String,
}

impl Access {
    /// Reads the file; the current context counts.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |why: String| format!("kubeconfig {}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("."))).map_err(failed)
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let context = file.contexts.iter().find(|context| context.name == file.current);
        let context = &context.ok_or_else(|| format!("there is no context {:?}", file.current))?.of;
        let cluster = file.clusters.iter().find(|cluster| cluster.name == context.cluster);
        let cluster = &cluster.ok_or_else(|| format!("there is no cluster {:?}", context.cluster))?.of;
        let none = Who::default();
        let who = file.users.iter().find(|who| who.name == context.user).map_or(&none, |who| &who.of);
        let part = |data: &Option<String>, path: &Option<PathBuf>, what: &str| match (data, path) {
            (Some(data), _) => {
                let raw = STANDARD.decode(data).map_err(|error| format!("{what}: {error}"))?;
                String::from_utf8(raw).map(Some).map_err(|error| format!("{what}: {error}"))
            }
            (None, Some(path)) => std::fs::read_to_string(folder.join(path))
                .map(Some)
                .map_err(|error| format!("{}: {error}", path.display())),
            (None, None) => Ok(None),
        };
        let authority =
            part(&cluster.certificate_authority_data, &cluster.certificate_authority, "certificate-authority-data")?;
        let authority = authority.ok_or("the cluster has no certificate authority")?;
        let certificate = part(&who.client_certificate_data, &who.client_certificate, "client-certificate-data")?;
        let key = part(&who.client_key_data, &who.client_key, "client-key-data")?;
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Identity::from_pem(&certificate, &key).map_err(|error| error.to_string())?
            }
            _ => Identity::default(),
        };
        let server = Target::parse(&cluster.server)?;
        let https = Https::new(vec![server], &authority, &identity, who.token.as_deref(), "knarr");
        let client = Client::new(https.map_err(|error| error.to_string())?);
        Ok(Self { client, authority })
    }
}
