//! Custom resources: rules, status, scale, selectable fields, versions that a webhook converts.

mod support;

use apiserver::{Client, Config, Server, User};
use client::{Gvr, Happened, Patch, Selectors};
use serde_json::{Value, json};
use support::Webhook;

const DEFINITIONS: Gvr = Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
const V1: Gvr = Gvr::new("example.com", "v1", "boats");
const V2: Gvr = Gvr::new("example.com", "v2", "boats");

fn definition(hook: &Webhook) -> Value {
    let schema = |crew: Value| {
        json!({"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"crew": crew, "oars": {"type": "integer"}, "harbour": {"type": "string"}},
                "x-kubernetes-validations": [{"rule": "!has(self.oars) || self.oars % 2 == 0", "message": "oars come in pairs"},
                    {"rule": "!has(oldSelf.harbour) || has(self.harbour)", "message": "a boat stays registered"}]},
            "status": {"type": "object", "properties": {"oars": {"type": "integer"}, "crew": {"type": "string"}}}}}})
    };
    let subresources = json!({"status": {}, "scale": {"specReplicasPath": ".spec.oars", "statusReplicasPath": ".status.oars",
        "labelSelectorPath": ".status.crew"}});
    let version = |name: &str, storage: bool, crew: Value| {
        json!({"name": name, "served": true, "storage": storage, "schema": schema(crew), "subresources": subresources,
            "selectableFields": [{"jsonPath": ".spec.harbour"}]})
    };
    let list = json!({"type": "array", "items": {"type": "string"}});
    let client = json!({"url": format!("https://127.0.0.1:{}/convert", hook.port), "caBundle": hook.bundle});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat"},
            "versions": [version("v1", false, json!({"type": "string"})), version("v2", true, list)],
            "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]}}}})
}

async fn served(api: &Client) {
    let begun = std::time::Instant::now();
    while api.list(&V2, "", &Selectors::default()).await.is_err() {
        assert!(begun.elapsed().as_secs() < 120, "the definition takes effect");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn versions_with_different_shapes_are_one_resource() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    let hook = Webhook::start().await;
    api.create(&DEFINITIONS, "", &definition(&hook)).await.unwrap();
    served(&api).await;
    let all = Selectors::default();
    let from = api.list(&V1, "default", &all).await.unwrap().revision;
    let mut events = api.watch(&V1, "default", &all, from).await.unwrap();
    let boat = |name: &str, version: &str, crew: Value| json!({"apiVersion": format!("example.com/{version}"), "kind": "Boat", "metadata": {"name": name}, "spec": {"crew": crew}});
    let made = api.create(&V1, "default", &boat("a", "v1", "ann,bob".into())).await.unwrap();
    assert_eq!((&made["apiVersion"], &made["spec"]["crew"]), (&json!("example.com/v1"), &json!("ann,bob")));
    api.create(&V2, "default", &boat("b", "v2", json!(["cid"]))).await.unwrap();
    let names = |list: &client::List| list.items.iter().map(|boat| boat["spec"]["crew"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&api.list(&V1, "default", &all).await.unwrap()), [json!("ann,bob"), json!("cid")]);
    assert_eq!(names(&api.list(&V2, "default", &all).await.unwrap()), [json!(["ann", "bob"]), json!(["cid"])]);
    let patch = Patch::Merge(json!({"spec": {"crew": "ann,bob,dan"}}));
    api.patch(&V1, "default", "a", "", &patch).await.unwrap();
    let read = api.get(&V2, "default", "a").await.unwrap();
    assert_eq!(read["spec"]["crew"], json!(["ann", "bob", "dan"]));
    assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let (batch, _) = events.next().await.unwrap();
        seen.extend(batch.into_iter().map(|event| (event.happened, event.object["spec"]["crew"].clone())));
    }
    let expected = [(Happened::Added, "ann,bob"), (Happened::Added, "cid"), (Happened::Modified, "ann,bob,dan")];
    assert_eq!(seen, expected.map(|(happened, crew)| (happened, json!(crew))));
    server.stop().await;
}

#[tokio::test]
async fn rules_subresources_and_selectors_of_a_custom_resource() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    let hook = Webhook::start().await;
    api.create(&DEFINITIONS, "", &definition(&hook)).await.unwrap();
    served(&api).await;
    let boat = |name: &str, oars: i64, harbour: &str| json!({"metadata": {"name": name}, "spec": {"oars": oars, "harbour": harbour}});
    let odd = api.create(&V2, "default", &boat("odd", 3, "x")).await.unwrap_err();
    let text = "Boat.example.com \"odd\" is invalid: spec: Invalid value: \"object\": oars come in pairs";
    assert_eq!((odd.code, odd.message.as_str()), (422, text));
    api.create(&V2, "default", &boat("a", 4, "bergen")).await.unwrap();
    api.create(&V2, "default", &boat("b", 6, "oslo")).await.unwrap();
    let away = Patch::Merge(json!({"spec": {"harbour": null}}));
    let kept = api.patch(&V2, "default", "a", "", &away).await.unwrap_err();
    assert!(kept.message.contains("a boat stays registered"), "{}", kept.message);
    let in_oslo = Selectors { fields: "spec.harbour=oslo".into(), ..Selectors::default() };
    let found = api.list(&V2, "default", &in_oslo).await.unwrap();
    assert_eq!((found.items.len(), &found.items[0]["metadata"]["name"]), (1, &json!("b")));
    // Status is written by its own endpoint alone, and scale goes through the paths that the definition names.
    let both = json!({"spec": {"oars": 8}, "status": {"oars": 2, "crew": "role=rower"}});
    let written = api.patch(&V2, "default", "a", "status", &Patch::Merge(both)).await.unwrap();
    assert_eq!((&written["spec"]["oars"], &written["status"]["oars"]), (&json!(4), &json!(2)));
    assert_eq!(written["metadata"]["generation"], 1);
    let scaled =
        api.patch(&V2, "default", "a", "scale", &Patch::Merge(json!({"spec": {"replicas": 10}}))).await.unwrap();
    assert_eq!(scaled["kind"], "Scale");
    assert_eq!(
        (&scaled["spec"]["replicas"], &scaled["status"]),
        (&json!(10), &json!({"replicas": 2, "selector": "role=rower"}))
    );
    let refused =
        api.patch(&V2, "default", "a", "scale", &Patch::Merge(json!({"spec": {"replicas": 11}}))).await.unwrap_err();
    assert_eq!(refused.code, 422, "rules hold on this way too");
    // A rule that cannot work is refused with its definition.
    let mut bad = definition(&hook);
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] =
        json!([{"rule": "self.nothing > 1"}]);
    let refused = api.update(&DEFINITIONS, &bad).await.unwrap_err();
    assert!(refused.code == 422 && refused.message.contains("undefined field 'nothing'"), "{}", refused.message);
    server.stop().await;
}
