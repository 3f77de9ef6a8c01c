//! The etcd backend against a real server, from Debian's `etcd-server`. Says aloud when there is none.

#[path = "support/etcd_server.rs"]
mod etcd_server;
mod suite;

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_server::{Authority, Server};
use store::{Credentials, Etcd, EtcdOptions, Op, RangeRequest, Span, Store, StoreError, Tls, Txn, Watch, WatchRequest};

/// How a client that may speaks to a server.
fn options(server: &Server) -> EtcdOptions {
    let tls = server.papers().map(|(ca, (certificate, key))| Tls {
        ca: ca.into(),
        identity: Some((certificate.into(), key.into())),
        server_name: None,
    });
    EtcdOptions { tls, ..EtcdOptions::new([&server.client]) }
}

fn with_password(options: EtcdOptions, name: &str, password: &str) -> EtcdOptions {
    EtcdOptions { credentials: Some(Credentials { name: name.into(), password: password.into() }), ..options }
}

fn put(key: &str, value: &str) -> Txn {
    Txn::new().then(Op::put(key.to_owned(), value.to_owned()))
}

/// The keys of the next events, this many.
async fn seen(watch: &mut Box<dyn Watch>, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let batch = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("events come").unwrap();
        seen.extend(batch.events.into_iter().map(|event| String::from_utf8(event.kv.key.to_vec()).unwrap()));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_holds_on_a_real_etcd() {
    let Some(_first) = Server::start() else { return };
    let servers = Mutex::new(Vec::new());
    let fresh = || {
        let server = Server::start().unwrap();
        let options = options(&server);
        servers.lock().unwrap().push(server);
        let connect = Etcd::connect(options);
        let store = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(connect));
        Arc::new(store.unwrap()) as Arc<dyn Store>
    };
    suite::all(&fresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_costs_no_event_and_no_acknowledged_write() {
    let Some(mut server) = Server::start() else { return };
    let store = Etcd::connect(options(&server)).await.unwrap();
    let mut watch = store.watch(WatchRequest { span: Span::prefix("/k/"), start: 0 }).await.unwrap();
    let put = |n: u32| put(&format!("/k/{n:03}"), "v");
    for n in 0..20 {
        store.txn(put(n)).await.unwrap();
    }
    server.kill();
    let away = store.txn(put(20)).await;
    assert!(matches!(away, Err(StoreError::Unreachable { .. })), "{away:?}");
    let away = store.range(RangeRequest::newest(Span::all())).await;
    assert!(matches!(away, Err(StoreError::Unreachable { .. })), "{away:?}");
    server.restart();
    for n in 20..40 {
        store.txn(put(n)).await.unwrap();
    }
    assert_eq!(seen(&mut watch, 40).await, (0..40).map(|n| format!("/k/{n:03}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_is_passed_over() {
    let Some(server) = Server::start() else { return };
    let dead = format!("http://127.0.0.1:{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let store = Etcd::connect(EtcdOptions::new([dead, server.client.clone()])).await.unwrap();
    let reply = store.txn(Txn::new().then(Op::put("/a", "1"))).await.unwrap();
    assert!(reply.succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_address_is_told_at_once() {
    let options = |endpoint: &str| EtcdOptions::new([endpoint]);
    assert!(matches!(Etcd::connect(options("not an address")).await, Err(StoreError::Open { .. })));
    assert!(matches!(Etcd::connect(options("https://127.0.0.1:1")).await, Err(StoreError::Open { .. })));
    assert!(matches!(Etcd::connect(options("http://127.0.0.1:1")).await, Err(StoreError::Unreachable { .. })));
}

/// The whole suite over TLS with client certificates, as a user who has a password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_holds_over_tls_with_certificates_and_passwords() {
    let servers = Mutex::new(Vec::new());
    let Some(_first) = Server::with_tls() else { return };
    let fresh = || {
        let server = Server::with_tls().unwrap();
        server.ask_for_passwords();
        let options = with_password(options(&server), "root", "sesame");
        servers.lock().unwrap().push(server);
        let connect = Etcd::connect(options);
        let store = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(connect));
        Arc::new(store.unwrap()) as Arc<dyn Store>
    };
    suite::all(&fresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_told_so_at_once() {
    let Some(server) = Server::with_tls() else { return };
    let good = options(&server);
    let tls = good.tls.clone().unwrap();
    let with =
        |tls: Option<Tls>| EtcdOptions { tls, timeout: Duration::from_secs(3), ..EtcdOptions::new([&server.client]) };
    // No certificate, one of a stranger, an authority that did not sign the server's, no TLS at all.
    let stranger = Authority::new();
    let (certificate, key) = stranger.leaf("knarr");
    for wrong in [
        Tls { identity: None, ..tls.clone() },
        Tls { identity: Some((certificate.into(), key.into())), ..tls.clone() },
        Tls { ca: stranger.pem.clone().into(), ..tls.clone() },
        Tls { server_name: Some("elsewhere.example.com".into()), ..tls.clone() },
    ] {
        let said = Etcd::connect(with(Some(wrong))).await.map(drop);
        assert!(matches!(said, Err(StoreError::Unreachable { .. })), "{said:?}");
    }
    assert!(matches!(Etcd::connect(with(None)).await, Err(StoreError::Open { .. })));
    Etcd::connect(good.clone()).await.unwrap();

    server.ask_for_passwords();
    for (wrong, cause) in [
        // Without a password it is taken for the name in its certificate, who may nothing.
        (good.clone(), "permission denied"),
        (with_password(good.clone(), "root", "wrong"), "authentication failed"),
        (with_password(good.clone(), "nobody", "sesame"), "authentication failed"),
    ] {
        match Etcd::connect(wrong).await.map(drop) {
            Err(StoreError::Refused { cause: said, .. }) => assert!(said.contains(cause), "{said}"),
            other => panic!("{other:?}"),
        }
    }
    // A user with rights to some keys has those and no others.
    let refused = |said: Result<(), StoreError>| match said {
        Err(StoreError::Refused { cause, .. }) => assert!(cause.contains("permission denied"), "{cause}"),
        other => panic!("{other:?}"),
    };
    refused(Etcd::connect(with_password(good.clone(), "clerk", "pencil")).await.map(drop));
    server.let_clerk_read("AA==");
    let clerk = Etcd::connect(with_password(good, "clerk", "pencil")).await.unwrap();
    clerk.txn(put("/k/a", "1")).await.unwrap();
    refused(clerk.txn(put("/l", "1")).await.map(drop));
    let mut watch = clerk.watch(WatchRequest { span: Span::prefix("/l/"), start: 0 }).await.unwrap();
    let said = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("an answer");
    refused(said.map(drop));
    let mut watch = clerk.watch(WatchRequest { span: Span::prefix("/k/"), start: 1 }).await.unwrap();
    assert_eq!(seen(&mut watch, 1).await, ["/k/a"]);
}

/// The token dies with the server that gave it; calls and watches get another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_token_is_asked_for_again() {
    let Some(mut server) = Server::with_tls() else { return };
    server.ask_for_passwords();
    let connect = || Etcd::connect(with_password(options(&server), "root", "sesame"));
    let (watching, calling) = (connect().await.unwrap(), connect().await.unwrap());
    let mut watch = watching.watch(WatchRequest { span: Span::prefix("/k/"), start: 0 }).await.unwrap();
    calling.txn(put("/k/1", "v")).await.unwrap();
    assert_eq!(seen(&mut watch, 1).await, ["/k/1"]);
    server.kill();
    server.restart();
    calling.txn(put("/k/2", "v")).await.unwrap();
    // Nothing but this watch uses its client, so that it has to find out by itself.
    assert_eq!(seen(&mut watch, 1).await, ["/k/2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_is_passed_over_by_who_has_a_password_too() {
    let Some(server) = Server::with_tls() else { return };
    server.ask_for_passwords();
    let dead = format!("https://127.0.0.1:{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let mut options = with_password(options(&server), "root", "sesame");
    options.endpoints.insert(0, dead);
    let store = Etcd::connect(options).await.unwrap();
    assert!(store.txn(put("/a", "1")).await.unwrap().succeeded);
}

/// Three members as one: whichever of them dies, what was acknowledged is there, and a watch misses and repeats nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_die_in_turn_and_nothing_is_lost() {
    let Some(mut members) = Server::three() else { return };
    let endpoints: Vec<_> = members.iter().map(|member| member.client.clone()).collect();
    let store = Etcd::connect(EtcdOptions::new(endpoints)).await.unwrap();
    let mut watch = store.watch(WatchRequest { span: Span::prefix("/k/"), start: 0 }).await.unwrap();
    let mut written = Vec::new();
    for (turn, member) in members.iter_mut().enumerate() {
        member.kill();
        for n in 0..10 {
            let key = format!("/k/{turn}{n}");
            // A write whose answer was lost may have happened: its maker reads and decides, as the API server does.
            let create = || Txn::new().when(key.clone(), store::Test::Absent).then(Op::put(key.clone(), "v"));
            while let Err(error) = store.txn(create()).await {
                assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
            }
            written.push(key);
        }
        member.restart();
    }
    assert_eq!(seen(&mut watch, written.len()).await, written);
    let reply = store.range(RangeRequest::newest(Span::prefix("/k/"))).await.unwrap();
    assert!(reply.kvs.iter().all(|kv| kv.version == 1) && reply.kvs.len() == 30, "{reply:?}");
}

/// A watcher that was cut off while history was forgotten is told which revision is left, and goes on from a new list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_behind_a_compaction_is_told_so() {
    let Some(mut server) = Server::start() else { return };
    let store = Etcd::connect(options(&server)).await.unwrap();
    let mut watch = store.watch(WatchRequest { span: Span::prefix("/k/"), start: 0 }).await.unwrap();
    store.txn(put("/k/1", "v")).await.unwrap();
    assert_eq!(seen(&mut watch, 1).await, ["/k/1"]);
    server.kill();
    server.restart();
    // Nobody reads the watch, so that it is still where it was.
    let mut revision = 0;
    for n in 2..9 {
        revision = store.txn(put(&format!("/k/{n}"), "v")).await.unwrap().revision;
    }
    store.compact(revision).await.unwrap();
    let behind = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("an answer");
    assert!(matches!(behind, Err(StoreError::Compacted { oldest, .. }) if oldest == revision), "{behind:?}");
    let list = store.range(RangeRequest::newest(Span::prefix("/k/"))).await.unwrap();
    assert_eq!(list.kvs.len(), 8);
    let request = WatchRequest { span: Span::prefix("/k/"), start: list.revision + 1 };
    let mut watch = store.watch(request).await.unwrap();
    store.txn(put("/k/new", "v")).await.unwrap();
    assert_eq!(seen(&mut watch, 1).await, ["/k/new"]);
}
