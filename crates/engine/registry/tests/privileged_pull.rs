//! The client against registries that break off, lie, redirect and delay: a completed pull or a clear error, never a wrong
//! image, and nothing left behind. Root, because layers are unpacked with their owners.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use common::*;
use registry::client::{self, Credentials, PushRequest, Report};
use registry::server::{AuthMethod, Config, Upstream, User};

fn quick() -> client::Config {
    client::Config { certs: Vec::new(), ..client::Config::default() }
}

fn user(name: &str, password: &str) -> Credentials {
    Credentials { username: name.into(), password: password.into(), ..Credentials::default() }
}

#[test]
fn a_layer_that_is_cut_at_every_offset_arrives() {
    if !root_or_skip() {
        return;
    }
    let made = Made::new(&[40_000]);
    let length = made.layers[0].len();
    for cut in (0..length).step_by(3571).chain([1, 511, 512, length - 1]) {
        let (image, cuts) = (made.clone(), AtomicUsize::new(0));
        let layer = digest(&made.layers[0]);
        let evil = Evil::start(move |asked| {
            let mut reply = image.answer(asked);
            // The first answer breaks after `cut` bytes, and so does the next one where it can.
            if asked.path.ends_with(&layer) && cuts.fetch_add(1, Ordering::SeqCst) < 2 {
                reply.cut = Some(cut);
            }
            reply
        });
        let puller = Puller::new(quick());
        let name = format!("127.0.0.1:{}/x:1", evil.address.port());
        let id = puller.pull(&name, Credentials::default()).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        assert_eq!(id.to_string(), made.id());
        assert!(puller.file(&name, "file-0").unwrap() == noise(1, 40_000), "cut at {cut}");
        puller.assert_clean();
    }
}

#[test]
fn lies_are_found_out() {
    if !root_or_skip() {
        return;
    }
    type Lie = Box<dyn Fn(&Made, &Asked, Reply) -> Reply + Send + Sync>;
    let is_layer = |made: &Made, asked: &Asked| asked.path.ends_with(&digest(&made.layers[0]));
    let is_config = |made: &Made, asked: &Asked| asked.path.ends_with(&digest(&made.config));
    let lies: Vec<(&str, &str, Lie)> = vec![
        (
            "other bytes of the same length",
            "sha256:",
            Box::new(move |made, asked, mut reply| {
                if is_layer(made, asked) {
                    // In the middle of what does not compress, so that the stream stays one.
                    let at = reply.body.len() / 2;
                    reply.body[at] ^= 1;
                }
                reply
            }),
        ),
        (
            "always shorter than declared",
            "it broke off at byte",
            Box::new(move |made, asked, mut reply| {
                if is_layer(made, asked) {
                    reply.cut = Some(100.min(reply.body.len() / 2));
                }
                reply
            }),
        ),
        (
            "another length than the manifest's",
            "the manifest says",
            Box::new(move |made, asked, mut reply| {
                if is_layer(made, asked) {
                    reply.body.push(0);
                }
                reply
            }),
        ),
        (
            "another configuration",
            "its content is",
            Box::new(move |made, asked, mut reply| {
                if is_config(made, asked) {
                    reply.body[0] = b' ';
                }
                reply
            }),
        ),
        (
            "a configuration without end",
            "the answer is longer than",
            Box::new(move |made, asked, mut reply| {
                reply.endless = is_config(made, asked);
                reply
            }),
        ),
        (
            "a manifest without end",
            "the answer is longer than",
            Box::new(|_, asked, mut reply| {
                reply.endless = asked.path.contains("/manifests/");
                reply
            }),
        ),
        (
            "a digest that is not the manifest's",
            "manifest verification failed",
            Box::new(|_, asked, reply| match asked.path.contains("/manifests/") {
                true => reply.header("Docker-Content-Digest", &digest(b"another")),
                false => reply,
            }),
        ),
        (
            "no JSON",
            "not a manifest",
            Box::new(|_, asked, reply| match asked.path.contains("/manifests/") {
                true => Reply::new(200, b"<html>").header("Content-Type", MANIFEST),
                false => reply,
            }),
        ),
        (
            "a layer fewer than the configuration tells",
            "0 layers, but its configuration tells 1",
            Box::new(|made, asked, reply| match asked.path.contains("/manifests/") {
                true => Reply::new(200, &manifest_of(&made.config, &[])).header("Content-Type", MANIFEST),
                false => reply,
            }),
        ),
        (
            "a range that was not asked for",
            "it broke off at byte",
            Box::new(move |made, asked, mut reply| {
                if is_layer(made, asked) {
                    if reply.status == 206 {
                        reply.headers.retain(|(name, _)| name != "Content-Range");
                        reply.headers.push(("Content-Range".into(), "bytes 0-1/2".into()));
                    }
                    reply.cut = Some(100.min(reply.body.len() / 2));
                }
                reply
            }),
        ),
        (
            "redirects in a circle",
            "stopped after 5 redirects",
            Box::new(move |made, asked, reply| match is_layer(made, asked) {
                true => Reply::new(307, b"").header("Location", &asked.path),
                false => reply,
            }),
        ),
        (
            "a refusal",
            "denied: no",
            Box::new(move |made, asked, reply| match is_layer(made, asked) {
                true => Reply::new(403, br#"{"errors":[{"code":"DENIED","message":"no"}]}"#),
                false => reply,
            }),
        ),
    ];
    for (what, expected, lie) in lies {
        let made = Made::new(&[5_000]);
        let image = made.clone();
        let evil = Evil::start(move |asked| lie(&image, asked, image.answer(asked)));
        let puller = Puller::new(quick());
        let name = format!("127.0.0.1:{}/x:1", evil.address.port());
        let error = puller.pull(&name, Credentials::default()).expect_err(what).to_string();
        assert!(error.contains(expected), "{what}: {error}");
        assert!(puller.store.resolve(&name).is_err(), "{what}");
        puller.assert_clean();
    }
}

#[test]
fn a_layer_without_end_is_no_more_than_it_declared() {
    if !root_or_skip() {
        return;
    }
    let made = Made::new(&[30_000]);
    let image = made.clone();
    let evil = Evil::start(move |asked| {
        let mut reply = image.answer(asked);
        reply.endless = asked.path.ends_with(&digest(&image.layers[0]));
        reply
    });
    let puller = Puller::new(quick());
    let name = format!("127.0.0.1:{}/x:1", evil.address.port());
    // The right bytes come first: that they go on for ever is nothing to us.
    puller.pull(&name, Credentials::default()).unwrap();
    assert!(puller.file(&name, "file-0").unwrap() == noise(1, 30_000));
    puller.assert_clean();
}

#[test]
fn a_busy_registry_is_asked_again() {
    if !root_or_skip() {
        return;
    }
    let made = Made::new(&[5_000]);
    let (image, count) = (made.clone(), AtomicUsize::new(0));
    let evil = Evil::start(move |asked| match count.fetch_add(1, Ordering::SeqCst) % 3 {
        1 => Reply::new(429, b"").header("Retry-After", "0"),
        _ => image.answer(asked),
    });
    let puller = Puller::new(quick());
    let name = format!("127.0.0.1:{}/x:1", evil.address.port());
    puller.pull(&name, Credentials::default()).unwrap();
    puller.assert_clean();
}

#[test]
fn a_password_goes_to_nobody_else() {
    if !root_or_skip() {
        return;
    }
    let made = Made::new(&[5_000]);
    let image = made.clone();
    let elsewhere = Evil::start(move |asked| image.answer(asked));
    let (image, other) = (made.clone(), elsewhere.address);
    let evil = Evil::start(move |asked| match asked.headers.get("authorization") {
        None => Reply::new(401, b"").header("WWW-Authenticate", "Basic realm=\"x\""),
        Some(_) if asked.path.contains("/blobs/") => {
            Reply::new(307, b"").header("Location", &format!("http://localhost:{}{}", other.port(), asked.path))
        }
        Some(_) => image.answer(asked),
    });
    let puller = Puller::new(quick());
    let name = format!("127.0.0.1:{}/x:1", evil.address.port());
    let error = puller.pull(&name, Credentials::default()).unwrap_err().to_string();
    assert!(error.ends_with("no basic auth credentials"), "{error}");
    puller.pull(&name, user("ann", "secret")).unwrap();
    let seen = elsewhere.asked();
    assert!(!seen.is_empty() && seen.iter().all(|asked| !asked.headers.contains_key("authorization")), "{seen:?}");
    assert!(evil.asked().iter().any(|asked| asked.headers.contains_key("authorization")));
}

#[test]
fn a_mirror_comes_first_and_sees_no_password() {
    if !root_or_skip() {
        return;
    }
    let made = Made::new(&[5_000]);
    let image = made.clone();
    let mirror = Evil::start(move |asked| image.answer(asked));
    let dead = "http://127.0.0.1:1".to_owned();
    let address = format!("http://{}", mirror.address);
    let mirrors = vec![("r.invalid".to_owned(), dead), ("r.invalid".to_owned(), address)];
    let puller = Puller::new(client::Config { mirrors, ..quick() });
    puller.pull("r.invalid/x:1", user("ann", "secret")).unwrap();
    let seen = mirror.asked();
    assert!(seen.iter().all(|asked| !asked.headers.contains_key("authorization")), "{seen:?}");
    assert!(seen.iter().any(|asked| asked.path.contains("ns=r.invalid")), "{seen:?}");
    assert!(puller.store.resolve("r.invalid/x:1").is_ok());
}

/// An image of two layers, one kept as a recipe and one compressed, in a store.
fn filled(puller: &Puller, name: &str) -> String {
    let tar = layer_tar("plain", &noise(9, 70_000));
    let options = image::ImportOptions { reference: Some(name.parse().unwrap()), ..image::ImportOptions::default() };
    puller.store.import(&mut &tar[..], &options, &|_| {}).unwrap().to_string()
}

fn push(puller: &Puller, name: &str, credentials: Credentials) -> client::Result<vocab::Digest> {
    let request = PushRequest { reference: name.parse().unwrap(), credentials };
    puller.runtime.block_on(puller.client.push(&puller.store, request, puller.reporter()))
}

#[test]
fn what_is_pushed_comes_back() {
    if !root_or_skip() {
        return;
    }
    let registry = Registry::start(Config::default());
    let puller = Puller::new(client::Config { chunk_bytes: 10_000, ..quick() });
    let name = format!("localhost:{}/app:1", registry.address.port());
    let id = filled(&puller, &name);
    let pushed = push(&puller, &name, Credentials::default()).unwrap();
    assert!(puller.reports.lock().unwrap().iter().any(|report| matches!(report, Report::Pushed { .. })));
    // Under another name there: nothing is sent again.
    let other = format!("localhost:{}/other:2", registry.address.port());
    puller.store.tag(&name, &other.parse().unwrap()).unwrap();
    push(&puller, &other, Credentials::default()).unwrap();
    let mounted = |report: &Report| matches!(report, Report::Step { status, .. } if status == "Mounted from app");
    assert!(puller.reports.lock().unwrap().iter().any(mounted), "{:?}", puller.reports.lock().unwrap());
    let fresh = Puller::new(quick());
    for name in [name, other, format!("localhost:{}/app@{pushed}", registry.address.port())] {
        assert_eq!(fresh.pull(&name, Credentials::default()).unwrap().to_string(), id);
        assert!(fresh.file(&name, "plain").unwrap() == noise(9, 70_000));
    }
    let inspected = fresh.runtime.block_on(
        fresh
            .client
            .inspect(&format!("localhost:{}/app:1", registry.address.port()).parse().unwrap(), Credentials::default()),
    );
    assert_eq!(inspected.unwrap().digest, pushed);
    let tags = format!("localhost:{}/app", registry.address.port()).parse().unwrap();
    assert_eq!(fresh.runtime.block_on(fresh.client.tags(&tags, Credentials::default())).unwrap(), ["1"]);
    fresh.assert_clean();
    assert_eq!(registry.store.check(true).unwrap(), []);
}

#[test]
fn an_image_of_the_same_store_is_published_without_its_bytes() {
    if !root_or_skip() {
        return;
    }
    let registry = Registry::start(Config::default());
    let name: vocab::Reference = "localhost:1/app:1".parse().unwrap();
    let tar = layer_tar("plain", &noise(9, 70_000));
    let options = image::ImportOptions { reference: Some(name.clone()), ..image::ImportOptions::default() };
    registry.store.import(&mut &tar[..], &options, &|_| {}).unwrap();
    let image = registry.store.distributable(&name.familiar()).unwrap();
    registry.server.publish(&name, &image).unwrap();
    // The image may go: what was published stays, layers that are kept as recipes too.
    registry.store.remove(&name.familiar(), image::RemoveOptions { force: true, no_prune: false }, &|_| false).unwrap();
    registry.server.collect(std::time::Duration::ZERO).unwrap();
    let fresh = Puller::new(quick());
    let name = format!("localhost:{}/app:1", registry.address.port());
    fresh.pull(&name, Credentials::default()).unwrap();
    assert!(fresh.file(&name, "plain").unwrap() == noise(9, 70_000));
    assert_eq!(registry.store.check(true).unwrap(), []);
}

#[test]
fn logins_give_tokens_and_tokens_open_what_they_may() {
    if !root_or_skip() {
        return;
    }
    let users = vec![User::parse(&User::line("ann", "pw").unwrap()).unwrap()];
    for method in [AuthMethod::Basic, AuthMethod::Token] {
        let registry = Registry::start(Config { users: users.clone(), method, ..Config::default() });
        let server = format!("localhost:{}", registry.address.port());
        let puller = Puller::new(quick());
        let name = format!("{server}/app:1");
        filled(&puller, &name);
        let login = |password: &str| puller.runtime.block_on(puller.client.login(&server, user("ann", password)));
        assert!(matches!(login("no"), Err(client::Error::Unauthorized { .. })), "{method:?}");
        let identity = login("pw").unwrap().identity_token;
        assert_eq!(identity.is_empty(), method == AuthMethod::Basic);
        assert!(push(&puller, &name, Credentials::default()).is_err());
        assert!(push(&puller, &name, user("ann", "no")).is_err());
        let known = match method {
            AuthMethod::Basic => user("ann", "pw"),
            AuthMethod::Token => Credentials { identity_token: identity, ..Credentials::default() },
        };
        push(&puller, &name, known.clone()).unwrap();
        let fresh = Puller::new(quick());
        assert!(fresh.pull(&name, Credentials::default()).is_err());
        fresh.pull(&name, known).unwrap();
    }
}

#[test]
fn certificates_are_checked_where_an_authority_is_known() {
    if !root_or_skip() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let made = |name: &str| {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (chain, secret) = (files.path().join(format!("{name}.pem")), files.path().join(format!("{name}.key")));
        std::fs::write(&chain, key.cert.pem()).unwrap();
        std::fs::write(&secret, key.signing_key.serialize_pem()).unwrap();
        (chain, secret)
    };
    let (own, other) = (made("own"), made("other"));
    let registry = Registry::start_with(Config::default(), |listen| listen.tls = Some(own.clone()));
    let server = format!("localhost:{}", registry.address.port());
    let name = format!("{server}/app:1");
    let with = |authority: &std::path::Path| {
        let certs = tempfile::tempdir().unwrap();
        std::fs::create_dir(certs.path().join(&server)).unwrap();
        std::fs::copy(authority, certs.path().join(&server).join("ca.crt")).unwrap();
        let puller = Puller::new(client::Config { certs: vec![certs.path().to_owned()], ..client::Config::default() });
        filled(&puller, &name);
        push(&puller, &name, Credentials::default())
    };
    with(&own.0).unwrap();
    let error = with(&other.0).unwrap_err().to_string();
    assert!(error.contains("tls: ") || error.contains("certificate"), "{error}");
    // The loopback is trusted as it is, as long as nobody has said whom to trust there.
    let puller = Puller::new(quick());
    puller.pull(&name, Credentials::default()).unwrap();
}

#[test]
fn a_cache_gives_what_the_other_registry_has_even_when_it_is_gone() {
    if !root_or_skip() {
        return;
    }
    let made = Made::new(&[5_000, 7_000]);
    let image = made.clone();
    let evil = Evil::start(move |asked| image.answer(asked));
    let upstream = Upstream::parse(&format!("hub=http://{}", evil.address)).unwrap();
    let cache = Registry::start(Config { upstreams: vec![upstream], ..Config::default() });
    let name = format!("localhost:{}/hub/x:1", cache.address.port());
    let puller = Puller::new(quick());
    assert_eq!(puller.pull(&name, Credentials::default()).unwrap().to_string(), made.id());
    let asked = evil.asked().len();
    drop(evil);
    let again = Puller::new(quick());
    assert_eq!(again.pull(&name, Credentials::default()).unwrap().to_string(), made.id());
    assert!(again.file(&name, "file-1").unwrap() == noise(2, 7_000));
    assert!(asked >= 4);
    cache.call("GET", "/v2/hub/none/manifests/1").is(502);
    cache.call("GET", "/v2/own/manifests/1").is(404);
}

#[test]
fn who_no_longer_listens_ends_the_pull() {
    if !root_or_skip() {
        return;
    }
    let made = Made::new(&[200_000]);
    let image = made.clone();
    let evil = Evil::start(move |asked| {
        let mut reply = image.answer(asked);
        // Never more than a little at a time: without its listener the pull would try again.
        if asked.path.ends_with(&digest(&image.layers[0])) {
            reply.cut = Some(1000);
        }
        reply
    });
    let puller = Puller::new(quick());
    let name = format!("127.0.0.1:{}/x:1", evil.address.port());
    let request =
        client::PullRequest { reference: name.parse().unwrap(), platform: None, credentials: Credentials::default() };
    let begun = Instant::now();
    let gone: client::Reporter = std::sync::Arc::new(|report| !matches!(report, Report::Step { bytes: Some(_), .. }));
    let error = puller.runtime.block_on(puller.client.pull(&puller.store, request, gone)).unwrap_err();
    assert!(matches!(error, client::Error::Cancelled), "{error}");
    assert!(begun.elapsed() < PATIENCE);
    puller.assert_clean();
}
