//! Lists that are too long to be taken from the store at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apiserver::{Client, Config, Server, User};
use client::{Gvr, Request};
use serde_json::{Value, json};

const MAPS: Gvr = Gvr::new("", "v1", "configmaps");

async fn make(api: &Client, name: String) {
    let labels = json!({"odd": (name.len() % 2 == 1).to_string()});
    api.create(&MAPS, "default", &json!({"metadata": {"name": name, "labels": labels}})).await.unwrap();
}

/// As a client over HTTP gets it, without a limit.
async fn list(api: &Client, query: &str) -> Value {
    let request = Request { verb: "list", namespace: "default".into(), query: query.into(), ..Request::default() };
    serde_json::from_slice(&api.request(&MAPS, request).await.unwrap()).unwrap()
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_is_whole_and_of_one_revision() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    for number in 0..4500 {
        make(&api, format!("m-{number}")).await;
    }
    // One that stands before all of them, then one that stands behind: no list may have the second and not the first.
    let (writing, enough) = (api.clone(), Arc::new(AtomicBool::new(false)));
    let told = enough.clone();
    let writer = tokio::spawn(async move {
        for number in 0.. {
            make(&writing, format!("a-{number}")).await;
            make(&writing, format!("z-{number}")).await;
            if told.load(Ordering::Relaxed) {
                return number + 1;
            }
        }
        unreachable!("numbers do not end")
    });
    for _ in 0..30 {
        let list = list(&api, "").await;
        let names: Vec<&str> = items(&list).iter().filter_map(|map| map["metadata"]["name"].as_str()).collect();
        assert!(names.is_sorted());
        let count = |start: &str| names.iter().filter(|name| name.starts_with(start)).count();
        let (first, behind) = (count("a-"), count("z-"));
        assert_eq!(count("m-"), 4500);
        assert!(first == behind || first == behind + 1, "{first} and {behind}");
    }
    enough.store(true, Ordering::Relaxed);
    let pairs: usize = writer.await.unwrap();
    let odd = list(&api, "labelSelector=odd%3Dtrue").await;
    let even = list(&api, "labelSelector=odd%3Dfalse").await;
    assert_eq!(items(&odd).len() + items(&even).len(), 4500 + 2 * pairs);
    server.stop().await;
}
