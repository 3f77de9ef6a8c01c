//! A webhook server over TLS that speaks with kube's own admission types.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};

pub struct Hook {
    pub port: u16,
    /// Its authority, as configurations carry it.
    pub bundle: String,
}

fn judge(path: &str, request: &AdmissionRequest<ConfigMap>) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    let map = request.object.as_ref();
    match path {
        "/mutate" => {
            let who = request.user_info.username.clone().unwrap_or_default();
            let patch = serde_json::json!([{"op": "add", "path": "/metadata/annotations", "value": {"seen-by": who}}]);
            response.with_patch(serde_json::from_value(patch).unwrap()).unwrap()
        }
        _ if map.and_then(|map| map.data.as_ref()).is_some_and(|data| data.contains_key("forbidden")) => {
            response.deny("this data is forbidden")
        }
        _ => response,
    }
}

pub async fn start() -> Hook {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let review: AdmissionReview<ConfigMap> = serde_json::from_slice(&body).unwrap();
                    let request: AdmissionRequest<ConfigMap> = review.try_into().unwrap();
                    let answer = serde_json::to_vec(&judge(&path, &request).into_review()).unwrap();
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(answer))))
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Hook { port, bundle: base64::engine::general_purpose::STANDARD.encode(made.cert.pem()) }
}
