//! A webhook for tests.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

/// A webhook over TLS on this machine: adds a label at `/label`, refuses at `/refuse`, is broken at `/broken`,
/// converts boats at `/convert`.
pub struct Webhook {
    pub port: u16,
    pub bundle: String,
    pub asked: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    pub async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log) = (acceptor.clone(), log.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let log = log.clone();
                        async move {
                            let path = request.uri().path().to_owned();
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            let review: Value = serde_json::from_slice(&body).unwrap();
                            let (code, answer) = answer(&path, &review);
                            log.lock().unwrap().push(json!({"path": path, "request": review["request"]}));
                            let answer = Full::new(Bytes::from(answer.to_string()));
                            http::Response::builder().status(code).body(answer)
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        let bundle = base64::engine::general_purpose::STANDARD.encode(made.cert.pem());
        Self { port, bundle, asked }
    }

    /// A configuration with one webhook at a path; `more` is merged into the webhook.
    #[allow(dead_code, reason = "not every test binary configures admission")]
    pub fn config(&self, kind: &str, name: &str, path: &str, more: &Value) -> Value {
        let mut hook = json!({"name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.bundle},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
        resources::patch::merge_patch(&mut hook, more);
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": [hook]})
    }

    #[allow(dead_code, reason = "not every test binary looks")]
    pub fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let shown = |one: &Value| {
            format!("{} {}", one["path"].as_str().unwrap(), one["request"]["operation"].as_str().unwrap_or_default())
        };
        asked.iter().map(shown).collect()
    }
}

fn answer(path: &str, review: &Value) -> (u16, Value) {
    let uid = &review["request"]["uid"];
    let whole = |response: Value| {
        (200, json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}))
    };
    match path {
        "/label" => {
            let labels = review["request"]["object"]["metadata"].get("labels").is_some();
            let patch = match labels {
                true => json!([{"op": "add", "path": "/metadata/labels/seen", "value": "yes"}]),
                false => json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}]),
            };
            let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
            whole(
                json!({"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": patch, "warnings": ["labelled"]}),
            )
        }
        "/count" => {
            let data = &review["request"]["object"]["data"];
            let count = data["count"].as_str().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0) + 1;
            let patch = json!([{"op": "add", "path": "/data/count", "value": count.to_string()}]);
            let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
            whole(json!({"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": patch}))
        }
        // Version 1 says `crew: "ann,bob"`, version 2 `crew: ["ann", "bob"]`.
        "/convert" => {
            let uid = &review["request"]["uid"];
            let wanted = review["request"]["desiredAPIVersion"].clone();
            let convert = |object: &Value| {
                let mut object = object.clone();
                object["apiVersion"] = wanted.clone();
                let crew = object["spec"].get("crew").cloned();
                match (&crew, wanted == "example.com/v2") {
                    (Some(Value::String(text)), true) => {
                        object["spec"]["crew"] = text.split(',').collect::<Vec<_>>().into();
                    }
                    (Some(Value::Array(names)), false) => {
                        let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
                        object["spec"]["crew"] = names.join(",").into();
                    }
                    _ => {}
                }
                object
            };
            let objects = review["request"]["objects"].as_array().unwrap();
            let converted: Vec<Value> = objects.iter().map(convert).collect();
            let response = json!({"uid": uid, "result": {"status": "Success"}, "convertedObjects": converted});
            (200, json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response}))
        }
        "/refuse" => whole(
            json!({"uid": uid, "allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "not today"}}),
        ),
        "/other-uid" => whole(json!({"uid": "x", "allowed": true})),
        _ => (500, json!({})),
    }
}
