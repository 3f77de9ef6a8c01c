//! Whom we believe, and who we are.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::connection::Target;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the authority's certificate: {0}")]
    Authority(String),
    #[error("the certificate and its key: {0}")]
    Identity(String),
    #[error("set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The authorities of a PEM bundle.
pub fn trust(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| TlsError::Authority(error.to_string()))?;
        roots.add(certificate).map_err(|error| TlsError::Authority(error.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(TlsError::Authority("there is none in the PEM".into())),
        false => Ok(roots),
    }
}

/// A certificate with its key, as client or server; it can be exchanged, and connections made from then on show the new
/// one.
#[derive(Debug, Clone, Default)]
pub struct Identity(Arc<RwLock<Option<Arc<CertifiedKey>>>>);

impl Identity {
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TlsError> {
        let identity = Self::default();
        identity.set(certificate, key)?;
        Ok(identity)
    }

    pub fn set(&self, certificate: &str, key: &str) -> Result<(), TlsError> {
        let failed = |error: &dyn std::fmt::Display| TlsError::Identity(error.to_string());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| failed(&error))?;
        let made = CertifiedKey::from_der(chain.map_err(|error| failed(&error))?, key, &provider());
        let made = made.map_err(|error| failed(&error))?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(made));
        Ok(())
    }

    pub fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl rustls::client::ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.current().is_some()
    }
}

impl rustls::server::ResolvesServerCert for Identity {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

/// TLS for a client that believes these authorities and shows this identity, if it has one by then.
pub fn client(authority: &str, identity: &Identity, protocols: &[&str]) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trust(authority)?)
        .with_client_cert_resolver(Arc::new(identity.clone()));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// Fetches a server's authority from somebody who has yet to prove anything: the caller compares its digest with one that
/// came another way, and believes nothing else of what this connection says.
pub async fn fetch_authority(target: &Target) -> Result<String, String> {
    const SIZE_MAX: usize = 64 << 10;
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut config = believing_anybody().map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let fetch = async {
        let stream = target.connect().await?;
        let name = target.server_name()?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = stream.map_err(|error| format!("TLS: {error}"))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let request = http::Request::get("/cacerts").header("host", target.authority()).body(Empty::<Bytes>::new());
        let response = sender.send_request(request.map_err(|error| error.to_string())?).await;
        let response = response.map_err(|error| error.to_string())?;
        let code = response.status();
        let body = Limited::new(response.into_body(), SIZE_MAX).collect().await.map_err(|error| error.to_string())?;
        connection.abort();
        match code.is_success() {
            true => String::from_utf8(body.to_bytes().to_vec()).map_err(|error| error.to_string()),
            false => Err(format!("it answered {code}")),
        }
    };
    let fetched = tokio::time::timeout(PATIENCE, fetch).await;
    fetched.unwrap_or_else(|_| Err("it does not answer in time".into()))
}

/// For those who do not care whose certificate it is: probes, and [`fetch_authority`], which checks by other means.
pub fn believing_anybody() -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?.dangerous();
    Ok(config.with_custom_certificate_verifier(Arc::new(Anybody(provider()))).with_no_client_auth())
}

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
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
