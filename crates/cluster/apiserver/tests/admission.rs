//! Admission: webhooks that change, judge, fail and stay away; the built-in plugins; nodes.

mod support;
#[path = "support/weakened.rs"]
mod weakened;

use apiserver::{Client, Config, Server, Status, User};
use base64::Engine as _;
use client::{DeleteOptions, Gvr, PODS, Patch, Request};
use serde_json::{Value, json};
use support::Webhook;

const MAPS: Gvr = Gvr::new("", "v1", "configmaps");
const NAMESPACES: Gvr = Gvr::new("", "v1", "namespaces");
const MUTATING: Gvr = Gvr::new("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations");
const VALIDATING: Gvr = Gvr::new("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations");

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": "v"}})
}

async fn create(api: &Client, object: &Value) -> Result<Value, Status> {
    api.create(&MAPS, "default", object).await
}

#[tokio::test]
async fn webhooks_change_and_refuse() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    let hook = Webhook::start().await;
    api.create(&MUTATING, "", &hook.config("MutatingWebhookConfiguration", "labels", "/label", &json!({})))
        .await
        .unwrap();
    let made = create(&api, &map("a")).await.unwrap();
    assert_eq!(made["metadata"]["labels"]["seen"], "yes");
    assert_eq!(
        made["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"]["f:seen"],
        json!({}),
        "it is in the books"
    );
    assert_eq!(hook.asked(), ["/label CREATE"]);
    let patch = Patch::Merge(json!({"data": {"k": "w"}, "metadata": {"labels": null}}));
    let patched = api.patch(&MAPS, "default", "a", "", &patch).await.unwrap();
    assert_eq!((&patched["data"]["k"], &patched["metadata"]["labels"]["seen"]), (&json!("w"), &json!("yes")));
    api.delete(&MAPS, "default", "a", &DeleteOptions::default()).await.unwrap();
    assert_eq!(hook.asked(), ["/label UPDATE", "/label DELETE"]);

    // A dry run is no secret to a webhook without side effects.
    let request = Request {
        verb: "create",
        namespace: "default".into(),
        query: "dryRun=All".into(),
        body: map("d").to_string().into(),
        ..Request::default()
    };
    let dry: Value = serde_json::from_slice(&api.request(&MAPS, request).await.unwrap()).unwrap();
    assert_eq!(dry["metadata"]["labels"]["seen"], "yes");
    assert_eq!(hook.asked.lock().unwrap().pop().unwrap()["request"]["dryRun"], true);
    hook.asked();

    // Refusals, narrowed by selectors, conditions and operations.
    let rules = json!([{"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]);
    let narrow = json!({"rules": rules, "objectSelector": {"matchLabels": {"refuse": "me"}},
        "matchConditions": [{"name": "not-spared", "expression": "!has(object.data) || !('spare' in object.data)"}]});
    api.create(&VALIDATING, "", &hook.config("ValidatingWebhookConfiguration", "refusals", "/refuse", &narrow))
        .await
        .unwrap();
    create(&api, &map("b")).await.unwrap();
    let mut bad = map("c");
    bad["metadata"]["labels"] = json!({"refuse": "me"});
    let refused = create(&api, &bad).await.unwrap_err();
    let text = "admission webhook \"refusals.example.com\" denied the request: not today";
    assert_eq!((refused.code, refused.reason, refused.message.as_str()), (403, "Forbidden", text));
    bad["data"]["spare"] = "1".into();
    create(&api, &bad).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn webhooks_that_fail_keep_out_or_not_as_their_policy_says() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    let hook = Webhook::start().await;
    for (name, path, policy) in [("one", "/broken", "Ignore"), ("two", "/other-uid", "Ignore")] {
        let more = json!({"failurePolicy": policy});
        api.create(&VALIDATING, "", &hook.config("ValidatingWebhookConfiguration", name, path, &more)).await.unwrap();
    }
    create(&api, &map("a")).await.unwrap();
    assert_eq!(hook.asked(), ["/broken CREATE", "/other-uid CREATE"]);
    for (name, path) in [("three", "/broken"), ("four", "/other-uid")] {
        let made = hook.config("ValidatingWebhookConfiguration", name, path, &json!({}));
        api.create(&VALIDATING, "", &made).await.unwrap();
        let failed = create(&api, &map("b")).await.unwrap_err();
        assert_eq!(failed.code, 500);
        let text =
            format!("Internal error occurred: failed calling webhook \"{name}.example.com\": failed to call webhook:");
        assert!(failed.message.starts_with(&text), "{}", failed.message);
        // The configuration itself is never asked about, so that it can be taken away.
        api.delete(&VALIDATING, "", name, &DeleteOptions::default()).await.unwrap();
    }
    // Nobody listens there, and nobody with that name is trusted.
    let more = json!({"clientConfig": {"url": "https://127.0.0.1:1/x"}});
    api.create(&VALIDATING, "", &hook.config("ValidatingWebhookConfiguration", "nobody", "/", &more)).await.unwrap();
    assert_eq!(create(&api, &map("b")).await.unwrap_err().code, 500);
    api.delete(&VALIDATING, "", "nobody", &DeleteOptions::default()).await.unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap().cert.pem();
    let more = json!({"clientConfig": {"caBundle": base64::engine::general_purpose::STANDARD.encode(other)}});
    api.create(&VALIDATING, "", &hook.config("ValidatingWebhookConfiguration", "untrusted", "/label", &more))
        .await
        .unwrap();
    let untrusted = create(&api, &map("b")).await.unwrap_err();
    assert!(untrusted.message.contains("tls"), "{}", untrusted.message);
    server.stop().await;
}

#[tokio::test]
async fn who_wants_to_is_asked_again_after_others() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    let hook = Webhook::start().await;
    let kind = "MutatingWebhookConfiguration";
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    api.create(&MUTATING, "", &hook.config(kind, "a-counts", "/count", &again)).await.unwrap();
    let made = create(&api, &map("one")).await.unwrap();
    assert_eq!(made["data"]["count"], "1", "nobody changed anything after it");
    hook.asked();
    api.create(&MUTATING, "", &hook.config(kind, "b-labels", "/label", &json!({}))).await.unwrap();
    let made = create(&api, &map("two")).await.unwrap();
    assert_eq!(made["data"]["count"], "2");
    assert_eq!(hook.asked(), ["/count CREATE", "/label CREATE", "/count CREATE"]);
    server.stop().await;
}

async fn namespace(api: &Client, name: &str, labels: Value) {
    api.create(&NAMESPACES, "", &json!({"metadata": {"name": name, "labels": labels}})).await.unwrap();
}

fn pod(name: &str, more: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    resources::patch::merge_patch(&mut pod, &more);
    pod
}

#[tokio::test]
async fn namespaces_limit_what_pods_may() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    namespace(&api, "safe", json!({"pod-security.kubernetes.io/enforce": "baseline"})).await;
    api.create(&PODS, "safe", &pod("fine", json!({}))).await.unwrap();
    let host = api.create(&PODS, "safe", &pod("host", json!({"spec": {"hostNetwork": true}}))).await.unwrap_err();
    let text =
        "pods \"host\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    assert_eq!((host.code, host.message.as_str()), (403, text));
    // Not by the back door either.
    let debug = Patch::Strategic(json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i",
        "securityContext": {"privileged": true}}]}}));
    assert_eq!(api.patch(&PODS, "safe", "fine", "ephemeralcontainers", &debug).await.unwrap_err().code, 403);

    namespace(&api, "small", json!({})).await;
    let limits = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"},
        "default": {"cpu": "500m"}}]}});
    api.create(&Gvr::new("", "v1", "limitranges"), "small", &limits).await.unwrap();
    let made = api.create(&PODS, "small", &pod("a", json!({}))).await.unwrap();
    let given = &made["spec"]["containers"][0]["resources"];
    assert_eq!(*given, json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "500m"}}));
    let big = json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "2"}}}]}});
    let refused = api.create(&PODS, "small", &pod("b", big)).await.unwrap_err();
    assert_eq!(refused.message, "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2");

    namespace(&api, "counted", json!({})).await;
    let quotas = Gvr::new("", "v1", "resourcequotas");
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "3", "pods": "1"}}});
    api.create(&quotas, "counted", &quota).await.unwrap();
    api.create(&PODS, "counted", &pod("a", json!({}))).await.unwrap();
    let over = api.create(&PODS, "counted", &pod("b", json!({}))).await.unwrap_err();
    let text = "pods \"b\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1";
    assert_eq!((over.code, over.message.as_str()), (403, text));
    // Many at once get no more than there is room for: the authority's certificate takes one place, or does not yet.
    let many = (0..12).map(|n| {
        let api = api.clone();
        tokio::spawn(async move { api.create(&MAPS, "counted", &map(&format!("m{n}"))).await.is_ok() })
    });
    let mut made = 0;
    for one in many.collect::<Vec<_>>() {
        made += usize::from(one.await.unwrap());
    }
    assert!((2..=3).contains(&made), "{made}");
    let used = |quota: &Value| quota["status"]["used"].clone();
    api.delete(&PODS, "counted", "a", &DeleteOptions::default()).await.unwrap();
    let mut freed = false;
    for _ in 0..600 {
        let now = api.get(&quotas, "counted", "q").await.unwrap();
        if used(&now)["pods"] == "0" {
            freed = true;
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(freed, "what goes makes room");
    api.create(&PODS, "counted", &pod("b", json!({}))).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_nodes_agent_minds_its_own_business() {
    let server = Server::start(Config::default()).await.unwrap();
    let admin = server.local(User::admin(), "test");
    let agent = server.local(User::node("n1"), "kubelet");
    let nodes = Gvr::new("", "v1", "nodes");
    let secrets = Gvr::new("", "v1", "secrets");
    agent.create(&nodes, "", &json!({"metadata": {"name": "n1"}})).await.unwrap();
    assert_eq!(agent.create(&nodes, "", &json!({"metadata": {"name": "n2"}})).await.unwrap_err().code, 403);
    for name in ["mine", "other"] {
        admin.create(&secrets, "default", &json!({"metadata": {"name": name}})).await.unwrap();
    }
    let with = json!({"spec": {"nodeName": "n1", "volumes": [{"name": "v", "secret": {"secretName": "mine"}}]}});
    admin.create(&PODS, "default", &pod("p", with)).await.unwrap();
    admin.create(&PODS, "default", &pod("q", json!({"spec": {"nodeName": "n2"}}))).await.unwrap();
    assert!(agent.get(&secrets, "default", "mine").await.is_ok());
    assert_eq!(agent.get(&secrets, "default", "other").await.unwrap_err().code, 403);
    assert_eq!(agent.list(&secrets, "default", &client::Selectors::default()).await.unwrap_err().code, 403);
    let running = Patch::Merge(json!({"status": {"phase": "Running"}}));
    agent.patch(&PODS, "default", "p", "status", &running).await.unwrap();
    assert_eq!(agent.patch(&PODS, "default", "q", "status", &running).await.unwrap_err().code, 403);
    let gone = DeleteOptions { grace_secs: Some(0), ..DeleteOptions::default() };
    assert_eq!(agent.delete(&PODS, "default", "q", &gone).await.unwrap_err().code, 403);
    agent.delete(&PODS, "default", "p", &gone).await.unwrap();
    assert_eq!(agent.get(&secrets, "default", "mine").await.unwrap_err().code, 403, "nothing here needs it any more");
    server.stop().await;
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened::check(&[("pods", "namespaces_limit_what_pods_may"), ("nodes", "a_nodes_agent_minds_its_own_business")]);
}
