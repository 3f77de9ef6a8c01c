//! Certificates and the kubeconfig: our own CA, the serving certificate, the administrator's certificate.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;

const CA_DAYS: u64 = 3650;
/// Leaf certificates are made anew at every start, so they need not live long; a server that runs on renews them.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 86400);

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{action} {path}")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("make certificate for {0}: {1}")]
    Certificate(String, rcgen::Error),
    #[error("set up TLS: {0}")]
    Tls(String),
}

/// The cluster's own authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate with its key, both PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Leaf {
    /// The certificate with its key as TLS wants it.
    pub fn certified(&self) -> Result<rustls::sign::CertifiedKey, PkiError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_der.clone()));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::sign::CertifiedKey::from_der(vec![self.der.clone()], key, &provider)
            .map_err(|error| PkiError::Tls(error.to_string()))
    }
}

fn validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = std::time::SystemTime::now();
    // Clocks differ a little between machines.
    params.not_before = (now - Duration::from_secs(300)).into();
    params.not_after = (now + lifetime).into();
}

impl Authority {
    /// Reads the authority from `dir`, or makes one there; without a directory it lives in memory.
    pub fn open(dir: Option<&Path>) -> Result<Self, PkiError> {
        let Some(dir) = dir else { return Self::make() };
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        if key.exists() {
            let pem = read(&certificate)?;
            let keys = KeyPair::from_pem(&read(&key)?).map_err(|e| PkiError::Certificate("the authority".into(), e))?;
            // The issuer's name and key are all that signing needs; the certificate that clients trust is the file's.
            return Ok(Self { issuer: Issuer::new(params(), keys), pem });
        }
        let made = Self::make()?;
        write_secret(&key, made.issuer.key().serialize_pem().as_bytes())?;
        write_file(&certificate, made.pem.as_bytes(), 0o644)?;
        Ok(made)
    }

    fn make() -> Result<Self, PkiError> {
        let failed = |error| PkiError::Certificate("the authority".into(), error);
        let keys = KeyPair::generate().map_err(failed)?;
        let mut params = params();
        validity(&mut params, Duration::from_secs(CA_DAYS * 86400));
        let pem = params.self_signed(&keys).map_err(failed)?.pem();
        Ok(Self { issuer: Issuer::new(params, keys), pem })
    }

    fn sign(&self, mut params: CertificateParams, name: &str, lifetime: Duration) -> Result<Leaf, PkiError> {
        let failed = |error| PkiError::Certificate(name.to_owned(), error);
        validity(&mut params, lifetime);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let keys = KeyPair::generate().map_err(failed)?;
        let made = params.signed_by(&keys, &self.issuer).map_err(failed)?;
        Ok(Leaf {
            certificate: made.pem(),
            key: keys.serialize_pem(),
            der: made.der().clone(),
            key_der: keys.serialize_der(),
        })
    }

    /// Signs a request as it stands; whether it may be signed is for the caller to have judged.
    pub fn sign_request(
        &self,
        mut request: CertificateSigningRequestParams,
        name: &str,
        lifetime: Duration,
    ) -> Result<String, PkiError> {
        validity(&mut request.params, lifetime);
        let made = request.signed_by(&self.issuer).map_err(|error| PkiError::Certificate(name.to_owned(), error))?;
        Ok(made.pem())
    }

    /// A certificate by which clients prove who they are.
    pub fn client(&self, user: &str, groups: &[&str], lifetime: Duration) -> Result<Leaf, PkiError> {
        let mut params = CertificateParams::default();
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, user, lifetime)
    }

    /// The API's certificate, good for these names besides the usual ones.
    pub fn server(&self, addresses: &[IpAddr], names: &[String], lifetime: Duration) -> Result<Leaf, PkiError> {
        let mut params = CertificateParams::default();
        let usual = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        for name in usual.iter().map(|&name| name.to_owned()).chain(names.iter().cloned()) {
            let name = name.try_into().map_err(|e| PkiError::Certificate("the server".into(), e))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];
        params.subject_alt_names.extend(own.iter().chain(addresses).map(|ip| SanType::IpAddress(*ip)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, "knarr-apiserver", lifetime)
    }
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "knarr-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// TLS for the server: its certificate, and client certificates of our authority where a client has one.
pub fn tls(
    authority: &Authority,
    serving: Arc<crate::renewal::Serving>,
) -> Result<Arc<rustls::ServerConfig>, PkiError> {
    let failed = |error: &dyn std::fmt::Display| PkiError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let der = pem_der(&authority.pem).ok_or_else(|| PkiError::Tls("the authority's certificate is no PEM".into()))?;
    roots.add(der.into()).map_err(|e| failed(&e))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| failed(&e))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn pem_der(pem: &str) -> Option<Vec<u8>> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).ok()
}

/// A kubeconfig for a client certificate.
pub fn kubeconfig(server: &str, ca_pem: &str, leaf: &Leaf) -> String {
    let data = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: knarr\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\ncontexts:\n- name: knarr\n  context:\n    cluster: knarr\n    user: knarr-admin\n\
         current-context: knarr\nusers:\n- name: knarr-admin\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\n",
        data(ca_pem),
        data(&leaf.certificate),
        data(&leaf.key)
    )
}

fn read(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|source| PkiError::File { action: "read", path: path.to_owned(), source })
}

/// Writes a file that only its owner reads, wholly or not at all.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    write_file(path, bytes, 0o600)
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |action, path: &Path, source| PkiError::File { action, path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&temporary).map_err(|e| failed("create", &temporary, e))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| failed("write", &temporary, e))?;
    std::fs::rename(&temporary, path).map_err(|e| failed("rename to", path, e))
}

/// The key that signs tokens, made once.
pub fn signing_key(dir: Option<&Path>) -> Result<Vec<u8>, PkiError> {
    let Some(dir) = dir else { return Ok(crate::authn::Keys::generate()) };
    let path = dir.join("sa.key");
    match std::fs::read(&path) {
        Ok(key) => Ok(key),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = crate::authn::Keys::generate();
            write_secret(&path, &key)?;
            Ok(key)
        }
        Err(source) => Err(PkiError::File { action: "read", path, source }),
    }
}
