//! Asking a webhook: an HTTPS request with a JSON body, one connection a call, no redirects followed. What it answers is
//! read with a limit and never written to a log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use resources::{Value, meta};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;

use super::hooks::{Client, Place};
use crate::api::Api;

/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Where to connect to, what the certificate must name, and the path.
struct Target {
    host: String,
    port: u16,
    server_name: String,
    path: String,
    shown: String,
}

async fn target(api: &Api, place: &Place, timeout: Duration) -> Result<Target, String> {
    let secs = timeout.as_secs();
    match place {
        Place::Url(url) => {
            let rest = url.strip_prefix("https://").ok_or_else(|| format!("{url}: webhooks are reached by https"))?;
            let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
            let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
                Some((host, port)) => (host, port.parse().map_err(|_| format!("{url}: no such port"))?),
                None => (authority, 443),
            };
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let path = format!("{path}{}timeout={secs}s", if path.contains('?') { '&' } else { '?' });
            Ok(Target { server_name: host.clone(), host, port, shown: format!("https://{authority}{path}"), path })
        }
        Place::Service { namespace, name, port, path } => {
            let path = format!("/{}?timeout={secs}s", path.trim_start_matches('/'));
            let server_name = format!("{name}.{namespace}.svc");
            let (host, to) = endpoint(api, namespace, name, *port).await?;
            let shown = format!("https://{server_name}:{port}{path}");
            Ok(Target { host, port: to, server_name, path, shown })
        }
    }
}

/// An address behind a service: a ready endpoint, which needs no proxy on this machine; without endpoints its own address.
async fn endpoint(api: &Api, namespace: &str, name: &str, port: u16) -> Result<(String, u16), String> {
    let failed = |status: resources::Status| status.message;
    let services = api.builtin("", "services");
    let found = api.get_object(&services, namespace, name).await.map_err(failed)?;
    let (service, _) = found.ok_or_else(|| format!("service {name:?} not found"))?;
    if service["spec"]["type"] == "ExternalName" {
        return Ok((meta::str_at(&service, &["spec", "externalName"]).to_owned(), port));
    }
    let ports = meta::list_at(&service, &["spec", "ports"]);
    let wanted = ports.iter().find(|own| own["port"] == port);
    let wanted = wanted.ok_or_else(|| format!("service {name:?} has no port {port}"))?;
    let slices = api.builtin("discovery.k8s.io", "endpointslices");
    for slice in api.list_objects(&slices, namespace).await.map_err(failed)? {
        if meta::str_at(&slice, &["metadata", "labels", "kubernetes.io/service-name"]) != name {
            continue;
        }
        let own = meta::list_at(&slice, &["ports"])
            .iter()
            .find(|own| own["name"].as_str().unwrap_or_default() == wanted["name"].as_str().unwrap_or_default());
        let to = own.and_then(|own| own["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
        let ready = meta::list_at(&slice, &["endpoints"]).iter().find(|one| one["conditions"]["ready"] != false);
        let address = ready.and_then(|one| one["addresses"][0].as_str());
        if let (Some(address), Some(to)) = (address, to) {
            return Ok((address.to_owned(), to));
        }
    }
    match meta::str_at(&service, &["spec", "clusterIP"]) {
        "" | "None" => Err(format!("no endpoints available for service {name:?}")),
        ip => Ok((ip.to_owned(), port)),
    }
}

fn tls(client: &Client) -> Result<Arc<rustls::ClientConfig>, String> {
    let mut roots = rustls::RootCertStore::empty();
    let system;
    let bundle = match client.ca_bundle.is_empty() {
        false => &client.ca_bundle,
        true => {
            system = std::fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
            &system
        }
    };
    for certificate in CertificateDer::pem_slice_iter(bundle).flatten() {
        // A bundle may hold certificates of kinds that are not understood; the others still count.
        let _ = roots.add(certificate);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Posts a review and answers what came back. The error says what was asked and why there is no answer.
pub async fn ask(api: &Api, client: &Client, review: &Value, timeout: Duration) -> Result<Value, String> {
    let target = target(api, &client.place, timeout).await?;
    let shown = target.shown.clone();
    match tokio::time::timeout(timeout, post(target, client, review)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => Err(format!("Post {shown:?}: {why}")),
        Err(_) => Err(format!("Post {shown:?}: context deadline exceeded")),
    }
}

async fn post(target: Target, client: &Client, review: &Value) -> Result<Value, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = match target.host.parse::<IpAddr>() {
        Ok(ip) => TcpStream::connect((ip, target.port)).await,
        Err(_) => TcpStream::connect((target.host.as_str(), target.port)).await,
    };
    let stream = stream.map_err(|error| format!("dial tcp {}:{}: {error}", target.host, target.port))?;
    let name = ServerName::try_from(target.server_name.clone()).map_err(|error| text(&error))?;
    let stream = tokio_rustls::TlsConnector::from(tls(client)?).connect(name, stream).await;
    let stream = stream.map_err(|error| format!("tls: {error}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let running = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(&target.path)
        .header("host", &target.server_name)
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .header("user-agent", "knarr-apiserver")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(|error| text(&error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        let code = response.status();
        if code != http::StatusCode::OK && !vocab::weak::without("silence") {
            return Err(format!("the server answered {code}"));
        }
        let body =
            Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| text(&error))?;
        let body = body.to_bytes();
        serde_json::from_slice(&body).map_err(|_| match vocab::weak::without("silence") {
            true => format!("the answer is no JSON object: {}", String::from_utf8_lossy(&body)),
            false => "the answer is no JSON object".to_owned(),
        })
    };
    let answer = answer.await;
    running.abort();
    answer
}
