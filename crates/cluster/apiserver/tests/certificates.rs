//! Certificate requests from asking to the signed certificate.

use apiserver::{Config, Gvr, Patch, Selectors, Server, User};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const REQUESTS: Gvr = Gvr::new("certificates.k8s.io", "v1", "certificatesigningrequests");

fn request(name: &str, signer: &str, common_name: &str, group: &str, usage: &str, alternatives: &[&str]) -> Value {
    let names: Vec<String> = alternatives.iter().map(|&name| name.to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({"metadata": {"name": name}, "spec": {"signerName": signer, "request": STANDARD.encode(pem),
        "usages": ["digital signature", usage]}})
}

#[tokio::test]
async fn nodes_get_certificates_by_themselves_and_others_with_leave() {
    let server = Server::start(Config::default()).await.unwrap();
    let admin = server.local(User::admin(), "test");
    let until = |name: &'static str, done: fn(&Value) -> bool| {
        let admin = admin.clone();
        async move {
            let fields = Selectors { fields: format!("metadata.name={name}"), ..Selectors::default() };
            let now = admin.list(&REQUESTS, "", &fields).await.unwrap();
            if let Some(object) = now.items.into_iter().find(done) {
                return object;
            }
            let mut events = admin.watch(&REQUESTS, "", &fields, now.revision).await.unwrap();
            let wait = async {
                loop {
                    let (batch, _) = events.next().await.unwrap();
                    if let Some(event) = batch.into_iter().find(|event| done(&event.object)) {
                        return event.object;
                    }
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("within 20 s")
        }
    };
    let signed = |object: &Value| object["status"]["certificate"].is_string();

    // A machine with a bootstrap token asks to be a node.
    let mut joining = User::component("system:bootstrap:abcdef");
    joining.groups.push("system:bootstrappers".into());
    let first = request(
        "first",
        "kubernetes.io/kube-apiserver-client-kubelet",
        "system:node:n1",
        "system:nodes",
        "client auth",
        &[],
    );
    server.local(joining, "kubelet").create(&REQUESTS, "", &first).await.unwrap();
    let done = until("first", signed).await;
    let condition = &done["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("Approved"), &json!("AutoApproved")));
    let pem = STANDARD.decode(done["status"]["certificate"].as_str().unwrap()).unwrap();
    assert!(pem.starts_with(b"-----BEGIN CERTIFICATE-----"));

    // The node asks for the certificate that it serves with: approved once its addresses are known.
    let node = server.local(User::node("n1"), "kubelet");
    let serving = request(
        "serving",
        "kubernetes.io/kubelet-serving",
        "system:node:n1",
        "system:nodes",
        "server auth",
        &["10.0.0.7"],
    );
    node.create(&REQUESTS, "", &serving).await.unwrap();
    node.create(&Gvr::new("", "v1", "nodes"), "", &json!({"metadata": {"name": "n1"}})).await.unwrap();
    assert!(!signed(&admin.get(&REQUESTS, "", "serving").await.unwrap()));
    let address = Patch::Merge(json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}}));
    node.patch(&Gvr::new("", "v1", "nodes"), "", "n1", "status", &address).await.unwrap();
    until("serving", signed).await;

    // A person's request waits for an administrator.
    let person = request("person", "kubernetes.io/kube-apiserver-client", "ann", "crew", "client auth", &[]);
    admin.create(&REQUESTS, "", &person).await.unwrap();
    let mut waiting = admin.get(&REQUESTS, "", "person").await.unwrap();
    assert!(waiting["status"].get("conditions").is_none());
    waiting["status"] =
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "KubectlApprove", "message": "yes"}]});
    let approval = apiserver::Request {
        verb: "update",
        name: "person".into(),
        subresource: "approval".into(),
        body: serde_json::to_vec(&waiting).unwrap().into(),
        ..apiserver::Request::default()
    };
    admin.request(&REQUESTS, approval).await.unwrap();
    until("person", signed).await;

    // What its signer forbids is told, not signed.
    let mut wrong =
        request("wrong", "kubernetes.io/kube-apiserver-client-kubelet", "ann", "system:nodes", "client auth", &[]);
    wrong["metadata"]["name"] = "wrong".into();
    let made = admin.create(&REQUESTS, "", &wrong).await.unwrap();
    let yes = json!({"type": "Approved", "status": "True", "reason": "KubectlApprove", "message": "yes"});
    let approval = Patch::Merge(json!({"spec": {"username": "eve"}, "status": {"conditions": [yes]}}));
    let approved = admin.patch(&REQUESTS, "", "wrong", "approval", &approval).await.unwrap();
    assert_eq!(approved["status"]["conditions"][0]["type"], "Approved");
    assert_eq!(approved["spec"], made["spec"], "an approval changes nothing else");
    let failed = |object: &Value| {
        object["status"]["conditions"].as_array().into_iter().flatten().any(|condition| condition["type"] == "Failed")
    };
    let refused = until("wrong", failed).await;
    assert!(refused["status"].get("certificate").is_none());
    drop((admin, node));
    server.stop().await;
}
