//! The agent's certificates: asked for by certificate requests, kept in files, renewed before they end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Client, Gvr, Identity};
use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use resources::{Status, Value, meta};
use serde_json::json;

const REQUESTS: Gvr = Gvr::new("certificates.k8s.io", "v1", "certificatesigningrequests");
/// How long an answer is waited for before a new request is made.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("make a certificate request for {0}: {1}")]
    Make(String, rcgen::Error),
    #[error("ask for a certificate of {signer}: {}", .status.message)]
    Ask { signer: &'static str, status: Status },
    #[error("the request {name} for a certificate was {outcome}: {why}")]
    Refused { name: String, outcome: String, why: String },
    #[error("nobody has answered the request {0} for a certificate")]
    Unanswered(String),
    #[error("{action} {path}")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the certificate in {path}: {why}")]
    Malformed { path: PathBuf, why: String },
}

/// A certificate that a node needs.
#[derive(Debug, Clone)]
pub struct Wanted {
    signer: &'static str,
    usages: &'static [&'static str],
    node: String,
    /// Names and addresses that the certificate is good for.
    names: Vec<String>,
    /// Where certificate and key are kept, in one file.
    path: PathBuf,
}

impl Wanted {
    /// By which the agent proves to the API who it is.
    pub fn client(node: &str, directory: &Path) -> Self {
        Self {
            signer: "kubernetes.io/kube-apiserver-client-kubelet",
            usages: &["digital signature", "client auth"],
            node: node.to_owned(),
            names: Vec::new(),
            path: directory.join("kubelet-client.pem"),
        }
    }

    /// By which the API knows that it speaks to the agent.
    pub fn serving(node: &str, address: &str, directory: &Path) -> Self {
        Self {
            signer: "kubernetes.io/kubelet-serving",
            usages: &["digital signature", "server auth"],
            node: node.to_owned(),
            names: vec![node.to_owned(), address.to_owned()],
            path: directory.join("kubelet-serving.pem"),
        }
    }

    /// What is kept, if it is still good for a while and for all names; with the time to renew it.
    pub fn kept(&self, identity: &Identity, now: Timestamp) -> Result<Option<Timestamp>, CertificateError> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CertificateError::File { action: "read", path: self.path.clone(), source }),
        };
        // The first line names what the certificate was asked for.
        if text.lines().next() != Some(self.heading().as_str()) {
            return Ok(None);
        }
        let malformed = |why: String| CertificateError::Malformed { path: self.path.clone(), why };
        identity.set(&text, &text).map_err(|error| malformed(error.to_string()))?;
        let times = identity.current().and_then(|key| client::validity(key.cert.first()?));
        let (begin, end) = times.ok_or_else(|| malformed("its times cannot be read".into()))?;
        Ok((now < end).then(|| renewal(begin, end)))
    }

    fn heading(&self) -> String {
        format!("# {} {} {}", self.signer, self.node, self.names.join(","))
    }

    /// Asks for the certificate until it is there or refused, and keeps it.
    pub async fn ask(&self, api: &Client, identity: &Identity) -> Result<Timestamp, CertificateError> {
        let make = |error| CertificateError::Make(self.node.clone(), error);
        let mut params = CertificateParams::new(self.names.clone()).map_err(make)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node));
        let key = KeyPair::generate().map_err(make)?;
        let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(make)?;
        let ask = |status| CertificateError::Ask { signer: self.signer, status };
        let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"generateName": "csr-"},
            "spec": {"request": STANDARD.encode(request), "signerName": self.signer, "usages": self.usages}});
        let made = api.create(&REQUESTS, "", &object).await.map_err(ask)?;
        let name = meta::name(&made).to_owned();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let certificate = loop {
            let now = api.get(&REQUESTS, "", &name).await.map_err(ask)?;
            if let Some(certificate) = now["status"]["certificate"].as_str() {
                break certificate.to_owned();
            }
            if let Some((outcome, why)) = refusal(&now) {
                return Err(CertificateError::Refused { name, outcome, why });
            }
            if tokio::time::Instant::now() > deadline {
                return Err(CertificateError::Unanswered(name));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let malformed = |why: String| CertificateError::Malformed { path: self.path.clone(), why };
        let certificate = STANDARD.decode(certificate).map_err(|error| malformed(error.to_string()))?;
        let certificate = String::from_utf8(certificate).map_err(|error| malformed(error.to_string()))?;
        let key = key.serialize_pem();
        identity.set(&certificate, &key).map_err(|error| malformed(error.to_string()))?;
        let text = format!("{}\n{certificate}\n{key}", self.heading());
        write_secret(&self.path, text.as_bytes())?;
        let times = identity.current().and_then(|key| client::validity(key.cert.first()?));
        let (_, end) = times.ok_or_else(|| malformed("its times cannot be read".into()))?;
        // It says that it began a little before: clocks differ.
        Ok(renewal(Timestamp::now(), end))
    }

    /// Keeps the certificate good until dropped. `renewed` is called after every change.
    pub async fn keep(self, api: Client, identity: Identity, renewed: impl AsyncFn()) {
        let mut due = match self.kept(&identity, Timestamp::now()) {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "a certificate is asked for anew");
                None
            }
        };
        let mut retry = Duration::from_secs(1);
        loop {
            let wait = due.map(|due| Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default());
            // Clocks are set: look now and then.
            const LONGEST: Duration = Duration::from_secs(3600);
            match wait {
                Some(wait) if !wait.is_zero() => {
                    tokio::time::sleep(wait.min(LONGEST)).await;
                    continue;
                }
                _ => {}
            }
            match self.ask(&api, &identity).await {
                Ok(next) => {
                    tracing::info!(signer = self.signer, renewal = %next, "the node has a new certificate");
                    (due, retry) = (Some(next), Duration::from_secs(1));
                    renewed().await;
                }
                Err(error) => {
                    tracing::warn!(error = said(&error), "will ask for the certificate again");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }
}

/// An error with its cause.
fn said(error: &CertificateError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A certificate is renewed when four fifths of its time are over.
fn renewal(begin: Timestamp, end: Timestamp) -> Timestamp {
    let life = Duration::try_from(end.duration_since(begin)).unwrap_or_default();
    begin.saturating_add(life.mul_f64(0.8)).unwrap_or(end)
}

fn refusal(request: &Value) -> Option<(String, String)> {
    let conditions = meta::list_at(request, &["status", "conditions"]);
    let found = conditions.iter().find(|condition| condition["type"] == "Denied" || condition["type"] == "Failed")?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Some((text("type").to_lowercase(), text("message")))
}

/// Writes a file that only its owner reads, wholly or not at all.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), CertificateError> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let failed =
        |action: &'static str, path: &Path, source| CertificateError::File { action, path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(|source| failed("make", parent, source))?;
    }
    let temporary = path.with_extension("tmp");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary).map_err(|source| failed("create", &temporary, source))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| failed("write", &temporary, source))?;
    std::fs::rename(&temporary, path).map_err(|source| failed("rename to", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_before_it_ends() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(renewal(at("2026-01-01T00:00:00Z"), at("2026-01-11T00:00:00Z")), at("2026-01-09T00:00:00Z"));
    }

    #[test]
    fn what_is_kept_is_used_for_what_it_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = Wanted::serving("n1", "10.0.0.1", folder.path());
        let identity = Identity::default();
        let now = Timestamp::now();
        assert_eq!(wanted.kept(&identity, now).unwrap(), None);
        let made = rcgen::generate_simple_self_signed(vec!["n1".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        write_secret(&wanted.path, format!("{}\n{certificate}\n{key}", wanted.heading()).as_bytes()).unwrap();
        assert!(wanted.kept(&identity, now).unwrap().is_some());
        // The node has another address now.
        assert_eq!(Wanted::serving("n1", "10.0.0.2", folder.path()).kept(&identity, now).unwrap(), None);
        write_secret(&wanted.path, format!("{}\ncut", wanted.heading()).as_bytes()).unwrap();
        assert!(wanted.kept(&identity, now).is_err());
    }
}
