//! Running a server: certificates that renew themselves, data that goes to a file and back, bootstrap tokens, figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::data::{self, Place};
use apiserver::{Config, Server, User};
use client::{Gvr, Selectors};
use http_body_util::BodyExt as _;
use serde_json::json;

const MAPS: Gvr = Gvr::new("", "v1", "configmaps");

type Answer = (u16, Vec<u8>, Vec<u8>);

/// Asks over TLS with a bearer token; answers code, body and the serving certificate.
async fn ask(server: &Server, path: &str, token: &str) -> Answer {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.authority_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder()
        .uri(path)
        .header("host", "localhost")
        .header("authorization", format!("Bearer {token}"))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let code = response.status().as_u16();
    (code, response.into_body().collect().await.unwrap().to_bytes().to_vec(), shown)
}

#[tokio::test]
async fn certificates_renew_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let config = Config {
        certificate_lifetime: Duration::from_secs(3600),
        kubeconfig: Some(kubeconfig.clone()),
        ..Config::default()
    };
    let server = Server::start(config.clone()).await.unwrap();
    let (_, _, first) = ask(&server, "/livez", "").await;
    let (_, _, second) = ask(&server, "/livez", "").await;
    assert_eq!(first, second);
    server.stop().await;
    // Renewed each third of it, so that a busy machine has the rest for its work.
    let server = Server::start(Config { certificate_lifetime: Duration::from_secs(6), ..config }).await.unwrap();
    let before = std::fs::read_to_string(&kubeconfig).unwrap();
    let (_, _, shown) = ask(&server, "/livez", "").await;
    let begun = Instant::now();
    while std::fs::read_to_string(&kubeconfig).unwrap() == before || ask(&server, "/livez", "").await.2 == shown {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "the kubeconfig or the serving certificate stays as it was"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn data_goes_to_a_file_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, "secret,admin,1,\"system:masters\"\nplain,ann,2\n").unwrap();
    let root = |name: &str| dir.path().join(name);
    let config = |name: &str| Config { root: Some(root(name)), tokens: Some(tokens.clone()), ..Config::default() };
    let server = Server::start(config("one")).await.unwrap();
    let api = server.local(User::admin(), "test");
    for n in 0..20 {
        api.create(&MAPS, "default", &json!({"metadata": {"name": format!("m{n}")}})).await.unwrap();
    }
    // A running server gives its data to administrators.
    assert_eq!(ask(&server, "/knarr/backup", "plain").await.0, 403);
    let (code, online, _) = ask(&server, "/knarr/backup", "secret").await;
    assert_eq!(code, 200);
    let file = root("online");
    std::fs::write(&file, online).unwrap();
    let held = data::backup(&Place::Root(root("one")), &root("x")).await;
    assert!(held.is_err(), "a file that a server holds is not opened twice");
    drop(api);
    server.stop().await;
    let (_, keys) = data::backup(&Place::Root(root("one")), &root("offline")).await.unwrap();
    assert_eq!(data::restore(&file, &Place::Root(root("two"))).await.unwrap(), keys);
    assert!(data::restore(&file, &Place::Root(root("two"))).await.is_err(), "not over what is there");
    assert_eq!(data::transfer(&Place::Root(root("two")), &Place::Root(root("three"))).await.unwrap(), keys);
    let mut cut = std::fs::read(root("offline")).unwrap();
    cut.truncate(cut.len() - 9);
    std::fs::write(root("cut"), cut).unwrap();
    assert!(data::restore(&root("cut"), &Place::Root(root("four"))).await.is_err(), "a file cut short");
    let server = Server::start(config("three")).await.unwrap();
    let api = server.local(User::admin(), "test");
    let found = api.list(&MAPS, "default", &Selectors::default()).await.unwrap();
    assert_eq!(found.items.iter().filter(|map| map["metadata"]["name"].as_str().unwrap().starts_with('m')).count(), 20);
    drop(api);
    server.stop().await;
}

#[tokio::test]
async fn bootstrap_tokens_are_good_while_their_secret_says_so() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    let secrets = Gvr::new("", "v1", "secrets");
    let token = |id: &str, more: serde_json::Value| {
        let mut secret = json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:workers"}});
        resources::patch::merge_patch(&mut secret, &more);
        secret
    };
    let rows = [
        ("good00", json!({}), true),
        ("over00", json!({"stringData": {"expiration": "2020-01-01T00:00:00Z"}}), false),
        ("later0", json!({"stringData": {"expiration": "2999-01-01T00:00:00Z"}}), true),
        ("other0", json!({"type": "Opaque"}), false),
        ("sign00", json!({"stringData": {"usage-bootstrap-authentication": "false"}}), false),
    ];
    for (id, more, good) in rows {
        api.create(&secrets, "kube-system", &token(id, more)).await.unwrap();
        let (code, body, _) = ask(&server, "/api/v1/secrets", &format!("{id}.0123456789abcdef")).await;
        assert_eq!(code, if good { 403 } else { 401 }, "{id}");
        assert!(!good || String::from_utf8_lossy(&body).contains(&format!("system:bootstrap:{id}")), "{id}");
        assert_eq!(ask(&server, "/api/v1/secrets", &format!("{id}.0123456789abcdee")).await.0, 401);
    }
    server.stop().await;
}

#[tokio::test]
async fn figures_tell_what_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, "secret,admin,1,\"system:masters\"\n").unwrap();
    let server = Server::start(Config { tokens: Some(tokens), ..Config::default() }).await.unwrap();
    for path in ["/api/v1/namespaces", "/api/v1/namespaces", "/api/v1/namespaces/none", "/api/v1/nonsense"] {
        ask(&server, path, "secret").await;
    }
    let (_, body, _) = ask(&server, "/metrics", "secret").await;
    let text = String::from_utf8(body).unwrap();
    for line in [
        "apiserver_request_total{verb=\"list\",resource=\"namespaces\",code=\"200\"} 2",
        "apiserver_request_total{verb=\"get\",resource=\"namespaces\",code=\"404\"} 1",
        "apiserver_storage_objects{resource=\"namespaces\"} 4",
    ] {
        assert!(text.lines().any(|own| own == line), "{line}\n{text}");
    }
    assert!(!text.contains("nonsense"), "what is not served is no label");
    server.stop().await;
}
