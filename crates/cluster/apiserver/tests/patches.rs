//! Patches of subresources for which kubectl has no command: each kind of patch changes what the subresource is for, and nothing else.

use apiserver::{Client, Config, Server, Status, User};
use client::{Gvr, PODS, Patch};
use serde_json::{Value, json};

const NAMESPACES: Gvr = Gvr::new("", "v1", "namespaces");

async fn debug(api: &Client, patch: Patch) -> Result<Value, Status> {
    api.patch(&PODS, "default", "p", "ephemeralcontainers", &patch).await
}

fn names(pod: &Value) -> Vec<&str> {
    pod["spec"]["ephemeralContainers"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
}

#[tokio::test]
async fn ephemeral_containers_come_by_every_patch_and_never_go() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.create(&PODS, "default", &pod).await.unwrap();
    let one = |name: &str| json!({"name": name, "image": "i"});

    let first = Patch::Json(json!([{"op": "add", "path": "/spec/ephemeralContainers", "value": [one("a")]}]));
    assert_eq!(names(&debug(&api, first).await.unwrap()), ["a"]);
    let second = Patch::Json(json!([{"op": "add", "path": "/spec/ephemeralContainers/-", "value": one("b")}]));
    assert_eq!(names(&debug(&api, second).await.unwrap()), ["a", "b"]);
    // By name, not by place.
    let third = Patch::Strategic(json!({"spec": {"ephemeralContainers": [one("d")]}}));
    let now = debug(&api, third).await.unwrap();
    let mut all = names(&now);
    all.sort_unstable();
    assert_eq!(all, ["a", "b", "d"]);
    let mut list = now["spec"]["ephemeralContainers"].as_array().unwrap().clone();
    list.push(one("e"));
    let now = debug(&api, Patch::Merge(json!({"spec": {"ephemeralContainers": list}}))).await.unwrap();
    assert_eq!(names(&now).len(), 4);

    // What is there stays as it is.
    let gone = debug(&api, Patch::Merge(json!({"spec": {"ephemeralContainers": []}}))).await.unwrap_err();
    let why = "existing ephemeral containers \"a\" may not be removed";
    assert!(gone.code == 422 && gone.message.contains(why), "{}", gone.message);
    let changed = Patch::Strategic(json!({"spec": {"ephemeralContainers": [{"name": "a", "image": "other"}]}}));
    assert_eq!(debug(&api, changed).await.unwrap_err().code, 422);
    // Nothing else changes here, and they do not come elsewhere.
    let elsewhere = Patch::Merge(json!({"spec": {"activeDeadlineSeconds": 5}}));
    let now = debug(&api, elsewhere).await.unwrap();
    assert!(now["spec"].get("activeDeadlineSeconds").is_none(), "{now}");
    let aside = Patch::Strategic(json!({"spec": {"ephemeralContainers": [one("f")]}}));
    assert_eq!(api.patch(&PODS, "default", "p", "", &aside).await.unwrap_err().code, 422);
    assert_eq!(names(&api.get(&PODS, "default", "p").await.unwrap()).len(), 4);
    server.stop().await;
}

/// As upstream: by update alone.
#[tokio::test]
async fn a_namespaces_finalizers_are_not_patched() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    let held = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["example.com/hold"]}});
    let made = api.create(&NAMESPACES, "", &held).await.unwrap();
    for sub in ["finalize", ""] {
        let patched = api.patch(&NAMESPACES, "", "n", sub, &Patch::Merge(json!({"spec": {"finalizers": []}}))).await;
        assert_eq!(patched.map_or_else(|error| error.code, |_| 200), if sub.is_empty() { 200 } else { 405 });
        assert_eq!(api.get(&NAMESPACES, "", "n").await.unwrap()["spec"], made["spec"], "{sub}");
    }
    server.stop().await;
}
