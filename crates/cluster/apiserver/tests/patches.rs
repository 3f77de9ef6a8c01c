//! Patches of subresources for which kubectl has no command: each kind of patch changes what the subresource is for, and nothing else.

use apiserver::{Client, Config, Server, Status, User};
use client::{Gvr, PODS, Patch};
use serde_json::{Value, json};

const NAMESPACES: Gvr = Gvr::new("", "v1", "namespaces");
const REQUESTS: Gvr = Gvr::new("certificates.k8s.io", "v1", "certificatesigningrequests");

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

    // Applied beside what others have brought: its manager is noted, and has no say over theirs.
    let apply = |containers: Value, manager: &str| {
        let config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"ephemeralContainers": containers}});
        Patch::Apply { config, manager: manager.into(), force: false }
    };
    let now = debug(&api, apply(json!([one("g")]), "doctor")).await.unwrap();
    assert_eq!(names(&now).len(), 5);
    let books = now["metadata"]["managedFields"].as_array().unwrap();
    let entry = books.iter().find(|entry| entry["manager"] == "doctor").expect("its manager is noted");
    assert_eq!((&entry["operation"], &entry["subresource"]), (&json!("Apply"), &json!("ephemeralcontainers")));
    let other = json!([{"name": "a", "image": "other"}]);
    assert_eq!(debug(&api, apply(other, "nurse")).await.unwrap_err().code, 409);
    // What a manager no longer asks for would go, and may not.
    let gone = debug(&api, apply(json!([one("h")]), "doctor")).await.unwrap_err();
    assert!(gone.code == 422 && gone.message.contains("\"g\" may not be removed"), "{}", gone.message);

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
    assert_eq!(names(&api.get(&PODS, "default", "p").await.unwrap()).len(), 5);
    server.stop().await;
}

#[tokio::test]
async fn an_approval_is_patched_and_nothing_beside_it() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    let spec = json!({"signerName": "example.com/s", "usages": ["client auth"], "request": "LS0tLS1CRUdJTg=="});
    let approve = async |name: &str, patch: Patch| api.patch(&REQUESTS, "", name, "approval", &patch).await;
    let condition = json!({"type": "Approved", "status": "True", "reason": "r", "message": "m"});
    let status = json!({"conditions": [condition], "certificate": "LS0tLS1CRUdJTg=="});
    let config = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "apply"}, "status": status});
    let patches = [
        (
            "json",
            Patch::Json(json!([{"op": "add", "path": "/status", "value": status},
            {"op": "replace", "path": "/spec/signerName", "value": "example.com/t"}])),
        ),
        ("merge", Patch::Merge(json!({"status": status, "spec": {"signerName": "example.com/t"}}))),
        ("strategic", Patch::Strategic(json!({"status": status, "spec": {"signerName": "example.com/t"}}))),
        ("apply", Patch::Apply { config, manager: "approver".into(), force: false }),
    ];
    for (name, patch) in patches {
        let made = api.create(&REQUESTS, "", &json!({"metadata": {"name": name}, "spec": spec})).await.unwrap();
        let now = approve(name, patch).await.unwrap();
        let (kind, time) = (&now["status"]["conditions"][0]["type"], &now["status"]["conditions"][0]["lastUpdateTime"]);
        assert!(kind == "Approved" && time.is_string(), "{name}: {now}");
        assert_eq!(now["spec"], made["spec"], "{name}");
        // Signing is another right.
        assert_eq!(now["status"].get("certificate"), None, "{name}: {now}");
        let books = now["metadata"]["managedFields"].as_array().unwrap();
        let noted = books.iter().filter(|entry| entry["subresource"] == "approval").count();
        assert_eq!(noted, 1, "{name}: {now}");
        // Once approved, it stays so.
        let taken_back = Patch::Merge(json!({"status": {"conditions": []}}));
        let refused = approve(name, taken_back).await.unwrap_err();
        let why = "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"";
        assert!(refused.code == 422 && refused.message.contains(why), "{name}: {}", refused.message);
    }
    // Nor is it the status that approves, and a certificate that was signed stays.
    api.create(&REQUESTS, "", &json!({"metadata": {"name": "other"}, "spec": spec})).await.unwrap();
    let sign = async |status: Value| {
        let patched = api.patch(&REQUESTS, "", "other", "status", &Patch::Merge(json!({"status": status}))).await;
        patched.map_or_else(|refused| refused.message, |now| now["status"].to_string())
    };
    let refused = sign(json!({"conditions": [condition]})).await;
    assert!(refused.contains("updates may not add a condition of type \"Approved\""), "{refused}");
    assert_eq!(sign(json!({"certificate": "YQ=="})).await, r#"{"certificate":"YQ=="}"#);
    let refused = sign(json!({"certificate": "Yg=="})).await;
    assert!(refused.contains("status.certificate: Forbidden: updates may not modify existing"), "{refused}");
    let both = json!([condition, {"type": "Denied", "status": "True"}]);
    let refused = approve("other", Patch::Merge(json!({"status": {"conditions": both}}))).await.unwrap_err();
    assert!(refused.message.contains("Approved and Denied conditions are mutually exclusive"), "{}", refused.message);
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
