//! Connections that are handed on to a node's agent: only its 101 to somebody who asked for one opens a pipe (KA-01).

#[path = "support/weakened.rs"]
mod weakened;
#[path = "support/wire.rs"]
mod wire;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wire::{Wire, tls};

const PATIENCE: Duration = Duration::from_secs(20);

/// An agent that answers every request with the same bytes, and keeps what it was sent, connection by connection.
struct Agent {
    port: u16,
    answer: Arc<Mutex<&'static str>>,
    heard: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Agent {
    async fn start(wire: &Wire, node: &str) -> Self {
        let (pem, key) = wire.authority();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&pem, rcgen::KeyPair::from_pem(&key).unwrap()).unwrap();
        let own = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec![node.to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(own.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(Mutex::new(""));
        let (tell, heard) = tokio::sync::mpsc::unbounded_channel();
        let answers = answer.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answers, tell) = (acceptor.clone(), answers.clone(), tell.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut all = Vec::new();
                    let mut piece = vec![0; 4096];
                    let mut answered = false;
                    while let Ok(count) = stream.read(&mut piece).await {
                        all.extend(&piece[..count]);
                        if !answered && all.windows(4).any(|end| end == b"\r\n\r\n") {
                            answered = true;
                            let answer = *answers.lock().unwrap();
                            let _ = stream.write_all(answer.as_bytes()).await;
                        }
                        if count == 0 {
                            break;
                        }
                    }
                    let _ = tell.send(String::from_utf8_lossy(&all).into_owned());
                });
            }
        });
        Self { port, answer, heard }
    }
}

#[tokio::test]
async fn only_a_switch_that_was_asked_for_opens_a_pipe() {
    let mut client = Wire::start_durable().await;
    let mut agent = Agent::start(&client, "n1").await;
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": agent.port}}}});
    assert_eq!(client.post("/api/v1/nodes", &node).await.code, 201);
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(client.post("/api/v1/namespaces/default/pods", &pod).await.code, 201);
    let exec = "POST /api/v1/namespaces/default/pods/p/exec?command=id&stdout=true HTTP/1.1\r\nhost: localhost\r\n\
        authorization: Bearer secret\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\
        x-stream-protocol-version: v4.channel.k8s.io\r\n\r\n";
    let log =
        "GET /api/v1/namespaces/default/pods/p/log HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer secret\r\n\r\n";
    let smuggled = "GET /exec/kube-system/other/c?command=smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
    // (what is asked, what the agent says, what the client must hear of it, whether there is a pipe then)
    let rows = [
        (exec, "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n", "101", true),
        (exec, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "200", false),
        (exec, "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", "403", false),
        (exec, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404", false),
        (exec, "HTTP/1.1 302 Found\r\nlocation: https://127.0.0.1:1/steal\r\ncontent-length: 0\r\n\r\n", "502", false),
        (exec, "HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "500", false),
        (exec, "SSH-2.0-garbage\r\n\r\n", "503", false),
        (log, "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n", "50", false),
        (
            log,
            "HTTP/1.1 307 Elsewhere\r\nlocation: https://127.0.0.1:1/steal\r\ncontent-length: 0\r\n\r\n",
            "502",
            false,
        ),
    ];
    for (asked, answer, expected, pipe) in rows {
        *agent.answer.lock().unwrap() = answer;
        let mut stream = tls(&client.server, &[b"http/1.1"], None, "localhost").await.unwrap();
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut bytes = vec![0; 4096];
        let count = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await.expect("an answer").unwrap();
        let head = String::from_utf8_lossy(&bytes[..count]).into_owned();
        assert!(head.starts_with(&format!("HTTP/1.1 {expected}")), "{answer:?}: {head}");
        assert!(!head.contains("steal"), "nobody is sent elsewhere: {head}");
        // The client goes on as if it had been let through.
        let _ = stream.write_all(smuggled.as_bytes()).await;
        let _ = stream.shutdown().await;
        let _ =
            tokio::time::timeout(PATIENCE, async { while stream.read(&mut bytes).await.is_ok_and(|n| n > 0) {} }).await;
        drop(stream);
        let heard =
            tokio::time::timeout(PATIENCE, agent.heard.recv()).await.expect("the agent's connection ends").unwrap();
        assert_eq!(heard.contains("smuggled"), pipe, "{answer:?}: {heard}");
        assert!(!heard.contains("Bearer"), "whose token it is stays here: {heard}");
    }
    assert_eq!(client.send(Method::GET, "/readyz", &[], "").await.code, 200);
}

#[tokio::test]
async fn every_method_reaches_the_agent_with_its_body() {
    let mut client = Wire::start_durable().await;
    let mut agent = Agent::start(&client, "n1").await;
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": agent.port}}}});
    assert_eq!(client.post("/api/v1/nodes", &node).await.code, 201);
    *agent.answer.lock().unwrap() = "HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    let path = "/api/v1/nodes/n1/proxy/some/where?a=b";
    // A patch is the agent's to read: it is not taken for one of an object.
    let headers = [("content-type", "application/merge-patch+json")];
    for method in [Method::PATCH, Method::PUT, Method::POST, Method::DELETE] {
        let answer = client.send(method.clone(), path, &headers, "{not json").await;
        assert_eq!((answer.code, answer.body.as_ref()), (202, b"ok".as_slice()), "{method}");
        let heard =
            tokio::time::timeout(PATIENCE, agent.heard.recv()).await.expect("the agent's connection ends").unwrap();
        assert!(heard.starts_with(&format!("{method} /some/where?a=b HTTP/1.1")), "{heard}");
        assert!(heard.contains("application/merge-patch+json") && heard.ends_with("{not json"), "{heard}");
    }
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened::check(&[("redirect", "only_a_switch_that_was_asked_for_opens_a_pipe")]);
}
