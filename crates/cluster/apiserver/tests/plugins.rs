//! The built-in admission plugins that look at other objects: PodSecurity's versions, runtime classes, growing claims, who may
//! approve and sign; and names of definitions that are taken.

use apiserver::{Client, Config, Gvr, Patch, Request, Selectors, Server, Status, User};
use serde_json::{Value, json};

const PODS: Gvr = Gvr::new("", "v1", "pods");
const NAMESPACES: Gvr = Gvr::new("", "v1", "namespaces");
const CLAIMS: Gvr = Gvr::new("", "v1", "persistentvolumeclaims");
const CLASSES: Gvr = Gvr::new("storage.k8s.io", "v1", "storageclasses");
const RUNTIMES: Gvr = Gvr::new("node.k8s.io", "v1", "runtimeclasses");
const REQUESTS: Gvr = Gvr::new("certificates.k8s.io", "v1", "certificatesigningrequests");
const ROLES: Gvr = Gvr::new("rbac.authorization.k8s.io", "v1", "clusterroles");
const BINDINGS: Gvr = Gvr::new("rbac.authorization.k8s.io", "v1", "clusterrolebindings");
const DEFINITIONS: Gvr = Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");

fn pod(name: &str, more: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    resources::patch::merge_patch(&mut pod, &more);
    pod
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: u16, text: &str) {
    let status = answer.expect_err("it is refused");
    assert!(status.code == code && status.message.contains(text), "{} {}", status.code, status.message);
}

async fn start() -> (Server, Client) {
    let server = Server::start(Config::default()).await.unwrap();
    let admin = server.local(User::admin(), "test");
    (server, admin)
}

#[tokio::test]
async fn a_namespace_chooses_whose_pod_security_is_meant() {
    let (server, api) = start().await;
    let labels = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let level = "pod-security.kubernetes.io/enforce";
    let version = "pod-security.kubernetes.io/enforce-version";
    // This sysctl is safe since 1.32.
    let buffers =
        pod("p", json!({"spec": {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1 2 3"}]}}}));
    for (name, wanted, good) in [("old", "v1.31", false), ("new", "v1.32", true), ("newest", "latest", true)] {
        api.create(&NAMESPACES, "", &labels(name, json!({level: "baseline", version: wanted}))).await.unwrap();
        let answer = api.create(&PODS, name, &buffers).await;
        match good {
            true => drop(answer.unwrap()),
            false => {
                refused(answer, 403, "violates PodSecurity \"baseline:v1.31\": forbidden sysctls (net.ipv4.tcp_rmem)")
            }
        }
    }
    let wrong = api.create(&NAMESPACES, "", &labels("odd", json!({level: "loose", version: "1.30"}))).await;
    refused(
        wrong.clone(),
        422,
        "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"loose\": must be one of privileged, baseline, restricted",
    );
    refused(wrong, 422, "must be \"latest\" or \"v1.x\"");
    // Stricter than what runs there: done, and said.
    api.create(&NAMESPACES, "", &labels("full", json!({}))).await.unwrap();
    for name in ["a", "b"] {
        api.create(&PODS, "full", &pod(name, json!({"spec": {"hostNetwork": true}}))).await.unwrap();
    }
    let stricter = Patch::Merge(labels("full", json!({level: "baseline"})));
    let changed = api.patch(&NAMESPACES, "", "full", "", &stricter).await.unwrap();
    assert_eq!(changed["metadata"]["labels"][level], "baseline");
    refused(api.create(&PODS, "full", &pod("c", json!({"spec": {"hostNetwork": true}}))).await, 403, "host namespaces");
    server.stop().await;
}

#[tokio::test]
async fn a_pod_pays_its_runtimes_overhead_and_goes_where_it_is() {
    let (server, api) = start().await;
    let class = json!({"metadata": {"name": "heavy"}, "handler": "kata", "overhead": {"podFixed": {"memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"kata": "yes"}, "tolerations": [{"key": "kata", "operator": "Exists"}]}});
    api.create(&RUNTIMES, "", &class).await.unwrap();
    api.create(&RUNTIMES, "", &json!({"metadata": {"name": "light"}, "handler": "runc"})).await.unwrap();
    let with = |class: &str, more: Value| {
        let mut made = pod("p", json!({"spec": {"runtimeClassName": class}}));
        resources::patch::merge_patch(&mut made["spec"], &more);
        made
    };
    let made = api.create(&PODS, "default", &with("heavy", json!({}))).await.unwrap();
    assert_eq!(made["spec"]["overhead"], json!({"memory": "64Mi"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"kata": "yes"}));
    let tolerations = made["spec"]["tolerations"].as_array().unwrap();
    assert!(tolerations.contains(&json!({"key": "kata", "operator": "Exists"})));
    let create = async |pod: Value| api.create(&PODS, "default", &pod).await;
    refused(create(with("none", json!({}))).await, 403, "pod rejected: RuntimeClass \"none\" not found");
    let overhead = json!({"overhead": {"memory": "1Mi"}});
    refused(
        create(with("heavy", overhead.clone())).await,
        403,
        "Pod's Overhead doesn't match RuntimeClass's defined Overhead",
    );
    for class in ["light", ""] {
        let text = "Pod Overhead set without corresponding RuntimeClass defined Overhead";
        refused(create(with(class, overhead.clone())).await, 403, text);
    }
    let elsewhere = with("heavy", json!({"nodeSelector": {"kata": "no"}}));
    refused(create(elsewhere).await, 403, "conflict: runtimeClass.scheduling.nodeSelector[kata]");
    server.stop().await;
}

#[tokio::test]
async fn a_claim_grows_only_where_its_class_allows_it() {
    let (server, api) = start().await;
    for (name, grows) in [("grows", true), ("stays", false)] {
        let class = json!({"metadata": {"name": name}, "provisioner": "example.com/p", "allowVolumeExpansion": grows});
        api.create(&CLASSES, "", &class).await.unwrap();
        let claim = json!({"metadata": {"name": name}, "spec": {"storageClassName": name, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "2Gi"}}}});
        api.create(&CLAIMS, "default", &claim).await.unwrap();
        let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}});
        api.patch(&CLAIMS, "default", name, "status", &Patch::Merge(bound)).await.unwrap();
    }
    let ask = async |name: &str, size: &str| {
        let patch = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": size}}}}));
        api.patch(&CLAIMS, "default", name, "", &patch).await
    };
    assert_eq!(ask("grows", "3Gi").await.unwrap()["spec"]["resources"]["requests"]["storage"], "3Gi");
    let text = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    refused(ask("stays", "3Gi").await, 403, text);
    // No class allows that.
    refused(
        ask("grows", "1Gi").await,
        422,
        "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity",
    );
    server.stop().await;
}

#[tokio::test]
async fn who_approves_and_signs_may_do_it_for_the_signer() {
    let (server, admin) = start().await;
    let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
    let rules = json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests",
        "certificatesigningrequests/approval", "certificatesigningrequests/status"], "verbs": ["get", "update", "patch"]}]);
    admin.create(&ROLES, "", &role("writer", rules)).await.unwrap();
    let signers = |verb: &str, name: &str| json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": [verb], "resourceNames": [name]}]);
    admin.create(&ROLES, "", &role("approver", signers("approve", "example.com/s"))).await.unwrap();
    admin.create(&ROLES, "", &role("signer", signers("sign", "example.com/*"))).await.unwrap();
    for (user, roles) in
        [("ann", vec!["writer"]), ("bob", vec!["writer", "approver"]), ("cas", vec!["writer", "signer"])]
    {
        for role in roles {
            let binding = json!({"metadata": {"name": format!("{user}-{role}")}, "subjects": [{"kind": "User", "name": user}],
                "roleRef": {"kind": "ClusterRole", "name": role}});
            admin.create(&BINDINGS, "", &binding).await.unwrap();
        }
    }
    // Roles take effect a moment after they were made.
    let reviews = Gvr::new("authorization.k8s.io", "v1", "subjectaccessreviews");
    for (user, verb, name) in
        [("bob", "approve", "example.com/s"), ("cas", "sign", "example.com/*"), ("ann", "get", "")]
    {
        let resource = if name.is_empty() { "certificatesigningrequests" } else { "signers" };
        let review = json!({"spec": {"user": user, "resourceAttributes": {"group": "certificates.k8s.io", "resource": resource, "verb": verb, "name": name}}});
        while admin.create(&reviews, "", &review).await.unwrap()["status"]["allowed"] != true {
            tokio::task::yield_now().await;
        }
    }
    for (name, signer) in [("one", "example.com/s"), ("two", "example.com/t")] {
        let request = json!({"metadata": {"name": name}, "spec": {"signerName": signer, "usages": ["client auth"],
            "request": "LS0tLS1CRUdJTg=="}});
        admin.create(&REQUESTS, "", &request).await.unwrap();
    }
    let put = async |user: &str, name: &str, sub: &str, status: Value| {
        let client = server.local(User::component(user), "test");
        let mut object = admin.get(&REQUESTS, "", name).await.unwrap();
        object["status"] = status;
        let body = serde_json::to_vec(&object).unwrap().into();
        let request =
            Request { verb: "update", name: name.into(), subresource: sub.into(), body, ..Request::default() };
        client.request(&REQUESTS, request).await
    };
    let yes = || json!({"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]});
    let no_approval = "user not permitted to approve requests with signerName \"example.com/s\"";
    refused(put("ann", "one", "approval", yes()).await, 403, no_approval);
    refused(put("cas", "one", "approval", yes()).await, 403, no_approval);
    refused(put("bob", "two", "approval", yes()).await, 403, "signerName \"example.com/t\"");
    put("bob", "one", "approval", yes()).await.unwrap();
    let signed = || {
        let mut status = yes();
        status["certificate"] = "LS0tLS1CRUdJTg==".into();
        status
    };
    let no_signing = "user not permitted to sign requests with signerName \"example.com/s\"";
    refused(put("bob", "one", "status", signed()).await, 403, no_signing);
    put("cas", "one", "status", signed()).await.unwrap();
    server.stop().await;
}

/// ClusterTrustBundleAttest: who says whom to trust for a signer's certificates may do that for this signer.
#[tokio::test]
async fn who_says_whom_to_trust_may_do_it_for_the_signer() {
    let (server, admin) = start().await;
    let group = "certificates.k8s.io";
    let bundles = Gvr::new("certificates.k8s.io", "v1beta1", "clustertrustbundles");
    let rules = json!([{"apiGroups": [group], "resources": ["clustertrustbundles"], "verbs": ["*"]}]);
    let attests = json!([{"apiGroups": [group], "resources": ["signers"], "verbs": ["attest"], "resourceNames": ["example.com/*"]}]);
    for (name, rules, users) in [
        ("writer", rules, json!([{"kind": "User", "name": "ann"}, {"kind": "User", "name": "bob"}])),
        ("attester", attests, json!([{"kind": "User", "name": "bob"}])),
    ] {
        admin.create(&ROLES, "", &json!({"metadata": {"name": name}, "rules": rules})).await.unwrap();
        let binding =
            json!({"metadata": {"name": name}, "subjects": users, "roleRef": {"kind": "ClusterRole", "name": name}});
        admin.create(&BINDINGS, "", &binding).await.unwrap();
    }
    let (ann, bob) = (server.local(User::component("ann"), "test"), server.local(User::component("bob"), "test"));
    let trust = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
    let bundle = |name: &str, signer: &str| {
        let mut bundle = json!({"metadata": {"name": name}, "spec": {"trustBundle": trust}});
        if !signer.is_empty() {
            bundle["spec"]["signerName"] = signer.into();
        }
        bundle
    };
    let no = "user not permitted to attest for signerName \"example.com/s\"";
    ann.create(&bundles, "", &bundle("nobodys", "")).await.unwrap();
    refused(ann.create(&bundles, "", &bundle("example.com:s:a", "example.com/s")).await, 403, no);
    bob.create(&bundles, "", &bundle("example.com:s:a", "example.com/s")).await.unwrap();
    refused(bob.create(&bundles, "", &bundle("other.com:s:a", "other.com/s")).await, 403, "\"other.com/s\"");
    let patch = |more: Value| Patch::Merge(more);
    let label = patch(json!({"metadata": {"labels": {"a": "b"}}}));
    refused(ann.patch(&bundles, "", "example.com:s:a", "", &label).await, 403, no);
    bob.patch(&bundles, "", "example.com:s:a", "", &label).await.unwrap();
    // What concerns owners and finalizers alone is left to those who clean up.
    ann.patch(&bundles, "", "example.com:s:a", "", &patch(json!({"metadata": {"finalizers": ["a.b/c"]}})))
        .await
        .unwrap();
    let other = patch(json!({"spec": {"signerName": "example.com/t"}}));
    refused(
        bob.patch(&bundles, "", "example.com:s:a", "", &other).await,
        422,
        "spec.signerName: Invalid value: \"example.com/t\": field is immutable",
    );
    server.stop().await;
}

fn definition(plural: &str, kind: &str, short: &str) -> Value {
    json!({"metadata": {"name": format!("{plural}.example.com")}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": plural, "kind": kind, "shortNames": [short]}, "versions": [{"name": "v1", "served": true,
            "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
}

/// The status of a condition with its reason and message, once it is there.
async fn condition(api: &Client, name: &str, kind: &str, wanted: &str) -> String {
    let fields = Selectors { fields: format!("metadata.name={name}.example.com"), ..Selectors::default() };
    let list = api.list(&DEFINITIONS, "", &fields).await.unwrap();
    let found = |object: &Value| {
        let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let one = all.into_iter().find(|one| one["type"] == kind && one["status"] == wanted)?;
        Some(format!("{}: {}", one["reason"].as_str().unwrap(), one["message"].as_str().unwrap()))
    };
    if let Some(text) = list.items.iter().find_map(found) {
        return text;
    }
    let mut events = api.watch(&DEFINITIONS, "", &fields, list.revision).await.unwrap();
    let wait = async {
        loop {
            let (batch, _) = events.next().await.unwrap();
            if let Some(text) = batch.iter().find_map(|event| found(&event.object)) {
                return text;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("within 20 s")
}

#[tokio::test]
async fn names_that_a_definition_has_are_not_given_to_another() {
    let (server, api) = start().await;
    api.create(&DEFINITIONS, "", &definition("boats", "Boat", "b")).await.unwrap();
    assert_eq!(condition(&api, "boats", "NamesAccepted", "True").await, "NoConflicts: no conflicts found");
    api.create(&DEFINITIONS, "", &definition("ships", "Boat", "s")).await.unwrap();
    let text = "KindConflict: \"Boat\" is already in use";
    // The list kind follows from the kind, and is told last.
    let said = condition(&api, "ships", "NamesAccepted", "False").await;
    assert!(said == text || said == "ListKindConflict: \"BoatList\" is already in use", "{said}");
    assert_eq!(condition(&api, "ships", "Established", "False").await, "NotAccepted: not all names are accepted");
    let ships = Gvr::new("example.com", "v1", "ships");
    assert_eq!(api.list(&ships, "default", &Selectors::default()).await.unwrap_err().code, 404, "it is not served");
    // What it may not have it gets when the other one goes.
    api.delete(&DEFINITIONS, "", "boats.example.com", &client::DeleteOptions::default()).await.unwrap();
    condition(&api, "ships", "Established", "True").await;
    api.create(&ships, "default", &json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": "x"}}))
        .await
        .unwrap();
    // Who is in effect stays so when it asks for a name that is taken, under those that it had.
    api.create(&DEFINITIONS, "", &definition("rafts", "Raft", "r")).await.unwrap();
    condition(&api, "rafts", "Established", "True").await;
    let greedy = Patch::Merge(json!({"spec": {"names": {"shortNames": ["r", "s"]}}}));
    api.patch(&DEFINITIONS, "", "rafts.example.com", "", &greedy).await.unwrap();
    let said = condition(&api, "rafts", "NamesAccepted", "False").await;
    assert_eq!(said, "ShortNamesConflict: \"s\" is already in use");
    let rafts = api.get(&DEFINITIONS, "", "rafts.example.com").await.unwrap();
    assert_eq!(rafts["status"]["acceptedNames"]["shortNames"], json!(["r"]));
    let rafts = Gvr::new("example.com", "v1", "rafts");
    api.list(&rafts, "default", &Selectors::default()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn new_nodes_wait_and_placed_pods_tell_where_they_are() {
    let (server, api) = start().await;
    let nodes = Gvr::new("", "v1", "nodes");
    let not_ready = json!({"effect": "NoSchedule", "key": "node.kubernetes.io/not-ready"});
    let labels = json!({"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1", "kubernetes.io/hostname": "n"});
    let node = api.create(&nodes, "", &json!({"metadata": {"name": "n", "labels": labels}})).await.unwrap();
    assert_eq!(node["spec"]["taints"], json!([not_ready]));
    // Who takes the taint away later has it his way.
    let mut free = node.clone();
    free["spec"]["taints"] = json!([]);
    let freed = api.update(&nodes, &free).await.unwrap();
    assert!(resources::meta::list_at(&freed, &["spec", "taints"]).is_empty());

    let place = |pod: &Value| {
        let labels = &pod["metadata"]["labels"];
        (
            labels["topology.kubernetes.io/zone"].clone(),
            labels["topology.kubernetes.io/region"].clone(),
            labels.as_object().unwrap().len(),
        )
    };
    // Placed by whoever made it; its own labels stay.
    let own = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "mine"}}, "spec": {"nodeName": "n"}});
    let made = api.create(&PODS, "default", &pod("made", own)).await.unwrap();
    assert_eq!(place(&made), (json!("mine"), json!("r1"), 2));
    let nowhere =
        api.create(&PODS, "default", &pod("nowhere", json!({"spec": {"nodeName": "unknown"}}))).await.unwrap();
    assert!(nowhere["metadata"].get("labels").is_none());
    // Placed by a scheduler.
    api.create(&PODS, "default", &pod("bound", json!({"metadata": {"labels": {"app": "web"}}}))).await.unwrap();
    api.bind("default", "bound", "n").await.unwrap();
    assert_eq!(place(&api.get(&PODS, "default", "bound").await.unwrap()), (json!("z1"), json!("r1"), 3));
    server.stop().await;
}
