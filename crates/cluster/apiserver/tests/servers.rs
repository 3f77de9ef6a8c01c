//! Several servers on one real etcd, from Debian's `etcd-server`: what each gives away is given once. Skipped aloud where there
//! is no etcd.

#[path = "../../store/tests/support/etcd_server.rs"]
mod etcd_server;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use apiserver::{Config, Server, ServiceRange, User};
use client::{Client, Gvr};
use resources::{Status, Value};
use serde_json::json;
use tokio::task::JoinSet;

const SERVICES: Gvr = Gvr::new("", "v1", "services");

/// Two, with one authority.
async fn servers(etcd: &etcd_server::Server, range: ServiceRange) -> (Server, Server) {
    let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let start = async |number: usize| {
        let (root, datastore) = (roots[number].path().to_owned(), store::EtcdOptions::new([&etcd.client]));
        let config = Config { root: Some(root), datastore: Some(datastore), service_range: range, ..Config::default() };
        Server::start(config).await.unwrap()
    };
    let first = start(0).await;
    let [from, to] = [0, 1].map(|number: usize| roots[number].path().join("pki"));
    std::fs::create_dir(&to).unwrap();
    for file in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    (first, start(1).await)
}

async fn make(api: &Client, name: &str, spec: Value) -> Result<Value, Status> {
    api.create(&SERVICES, "default", &json!({"metadata": {"name": name}, "spec": spec})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_two_servers_at_one_instant_is_given_once() {
    let Some(etcd) = etcd_server::Server::start() else { return };
    let (one, two) = servers(&etcd, ServiceRange::default()).await;
    let (first, second) = (one.local(User::admin(), "test"), two.local(User::admin(), "test"));
    for number in 0..30 {
        let address = json!({"clusterIP": format!("10.96.7.{number}"), "ports": [{"port": 80}]});
        let port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000 + number}]});
        for (what, spec) in [("address", address), ("port", port)] {
            let (a, b) = (format!("{what}-{number}-a"), format!("{what}-{number}-b"));
            let answers = tokio::join!(make(&first, &a, spec.clone()), make(&second, &b, spec));
            let refused = match answers {
                (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
                other => panic!("one of two has {what} {number}: {other:?}"),
            };
            assert_eq!(refused.code, 422, "{}", refused.message);
            assert!(refused.message.contains("provided") && refused.message.contains("already allocated"));
        }
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_servers_choose_differs_until_the_range_is_full() {
    let Some(etcd) = etcd_server::Server::start() else { return };
    // Thirty addresses, of which one is the API's own.
    let (one, two) = servers(&etcd, ServiceRange { base: Ipv4Addr::new(10, 97, 0, 0), prefix: 27 }).await;
    let clients = [one.local(User::admin(), "test"), two.local(User::admin(), "test")];
    let mut making = JoinSet::new();
    for number in 0..29 {
        let api = clients[number % 2].clone();
        making.spawn(async move { make(&api, &format!("s{number}"), json!({"ports": [{"port": 80}]})).await });
    }
    let made = making.join_all().await.into_iter().map(|made| made.unwrap()["spec"]["clusterIP"].to_string());
    assert_eq!(made.collect::<BTreeSet<_>>().len(), 29);
    let full = make(&clients[0], "more", json!({"ports": [{"port": 80}]})).await.unwrap_err();
    assert!(full.message.contains("range is full"), "{}", full.message);
    // What is free again may be had from either; a change that takes nothing is no race.
    clients[0].delete(&SERVICES, "default", "s3", &client::DeleteOptions::default()).await.unwrap();
    let mut more = make(&clients[1], "more", json!({"ports": [{"port": 80}]})).await.unwrap();
    more["metadata"]["labels"] = json!({"a": "b"});
    clients[0].update(&SERVICES, &more).await.unwrap();
    one.stop().await;
    two.stop().await;
}
