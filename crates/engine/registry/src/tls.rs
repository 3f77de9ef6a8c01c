//! TLS for both sides: certificates from PEM files, and whom a client trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {}: {detail}", path.display())]
    File { path: PathBuf, detail: String },
    #[error("set TLS up: {0}")]
    Setup(#[from] rustls::Error),
}

/// Where Linux distributions keep the certificates that everybody trusts.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |detail: String| TlsError::File { path: path.to_owned(), detail };
    let found = CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|e| failed(e.to_string()))?;
    if found.is_empty() { Err(failed("no certificate in it".into())) } else { Ok(found) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| TlsError::File { path: path.to_owned(), detail: e.to_string() })
}

/// A server with this chain of certificates and key.
pub(crate) fn server(chain: &Path, key_file: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_single_cert(certificates(chain)?, key(key_file)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Whom a client trusts, and who it is, for one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Authorities beside the system's.
    pub(crate) authorities: Vec<PathBuf>,
    /// A certificate of the client's own and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// Anybody: the registry was named insecure.
    pub(crate) anybody: bool,
}

impl Trust {
    /// What lies in a folder like `/etc/docker/certs.d/host:port/`: `*.crt` are authorities, `*.cert` with `*.key` is the
    /// client's own.
    pub(crate) fn add_folder(&mut self, folder: &Path) {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.push(file),
                Some("cert") => {
                    let key = file.with_extension("key");
                    if key.exists() {
                        self.identity = Some((file, key));
                    }
                }
                _ => {}
            }
        }
    }
}

pub(crate) fn client(trust: &Trust) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = if trust.anybody {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider())))
    } else {
        let mut roots = RootCertStore::empty();
        let bundle = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let system = SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists());
        if let Some(path) = bundle.or(system) {
            // One strange certificate among hundreds is no reason to trust nobody.
            roots.add_parsable_certificates(certificates(&path)?);
        }
        for path in &trust.authorities {
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
        }
        builder.with_root_certificates(roots)
    };
    let mut config = match &trust.identity {
        Some((chain, key_file)) => builder.with_client_auth_cert(certificates(chain)?, key(key_file)?)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Takes any certificate, for registries that the administrator has named insecure. Signatures are still checked, so that
/// the connection is at least with one party.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
