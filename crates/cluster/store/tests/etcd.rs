//! The etcd backend against a real server, from Debian's `etcd-server`. Says aloud when there is none.

mod suite;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use store::{Etcd, EtcdOptions, Op, RangeRequest, Span, Store, StoreError, Txn, WatchRequest};

/// A server of our own on loopback; ends with the value.
struct Server {
    child: Child,
    dir: tempfile::TempDir,
    client: String,
    peer: String,
}

impl Server {
    fn start() -> Option<Self> {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (client, peer) = (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(&dir, &client, &peer)?;
        let server = Self { child, dir, client, peer };
        server.wait_until_ready();
        Some(server)
    }

    fn wait_until_ready(&self) {
        let address = self.client.trim_start_matches("http://").to_owned();
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < deadline, "etcd does not listen on {address}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = spawn(&self.dir, &self.client, &self.peer).unwrap();
        self.wait_until_ready();
    }

    fn options(&self) -> EtcdOptions {
        EtcdOptions::new([&self.client])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(dir: &tempfile::TempDir, client: &str, peer: &str) -> Option<Child> {
    let spawned = Command::new("etcd")
        .args(["--listen-client-urls", client, "--advertise-client-urls", client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error", "--data-dir"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match spawned {
        Ok(child) => Some(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: no etcd on this machine (Debian's etcd-server)");
            None
        }
        Err(error) => panic!("etcd: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_holds_on_a_real_etcd() {
    let Some(_first) = Server::start() else { return };
    let servers = Mutex::new(Vec::new());
    let fresh = || {
        let server = Server::start().unwrap();
        let options = server.options();
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
    let store = Etcd::connect(server.options()).await.unwrap();
    let mut watch = store.watch(WatchRequest { span: Span::prefix("/k/"), start: 0 }).await.unwrap();
    let put = |n: u32| Txn::new().then(Op::put(format!("/k/{n:03}"), "v"));
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
    let mut seen = Vec::new();
    while seen.len() < 40 {
        let batch = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.unwrap().unwrap();
        seen.extend(batch.events.into_iter().map(|event| String::from_utf8(event.kv.key.to_vec()).unwrap()));
    }
    assert_eq!(seen, (0..40).map(|n| format!("/k/{n:03}")).collect::<Vec<_>>());
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
