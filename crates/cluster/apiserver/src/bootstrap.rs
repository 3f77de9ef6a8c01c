//! Objects that a new cluster has: namespaces, roles and bindings, priority classes, the API's own service.

use resources::Value;
use serde_json::json;

use crate::api::{Api, Outcome};
use crate::controllers::make;

const RBAC: &str = "rbac.authorization.k8s.io";

/// Makes what is missing. `port` is where the API listens, `address` how pods on this machine would reach it.
pub async fn run(api: &Api, address: &str, port: u16) -> Outcome<()> {
    let namespaces = api.builtin("", "namespaces");
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        make(api, &namespaces, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
    }
    let roles = api.builtin(RBAC, "clusterroles");
    for role in cluster_roles() {
        make(api, &roles, role).await?;
    }
    let bindings = api.builtin(RBAC, "clusterrolebindings");
    for (name, role, kind, subject) in CLUSTER_BINDINGS {
        make(api, &bindings, binding(name, role, kind, subject)).await?;
    }
    crate::controllers::load_rbac(api).await?;
    let classes = api.builtin("scheduling.k8s.io", "priorityclasses");
    for (name, value, text) in [
        ("system-node-critical", 2_000_001_000, "For pods that must not be moved off their node."),
        ("system-cluster-critical", 2_000_000_000, "For pods that the cluster cannot do without."),
    ] {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": text});
        make(api, &classes, class).await?;
    }
    let cidrs = json!([format!("{}/{}", api.service_range.base, api.service_range.prefix)]);
    let ranges = api.builtin("networking.k8s.io", "servicecidrs");
    let ready = json!([{"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
        "lastTransitionTime": resources::decode::format_time(jiff::Timestamp::now(), 0)}]);
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs}, "status": {"conditions": ready}});
    make(api, &ranges, range).await?;
    // Nodes read there what the servers' flags say now.
    api.modify(&ranges.key("", "kubernetes"), |range| {
        let differs = range["spec"]["cidrs"] != cidrs;
        range["spec"]["cidrs"] = cidrs.clone();
        differs
    })
    .await?;
    let ip = api.service_range.first().to_string();
    let services = api.builtin("", "services");
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}});
    make(api, &services, service).await?;
    let port_of_api = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let target = json!([{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]);
    restore(api, "", "services", "spec", |spec| spec["ports"] = target.clone()).await?;
    let slices = api.builtin("discovery.k8s.io", "endpointslices");
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}], "ports": port_of_api});
    make(api, &slices, slice.clone()).await?;
    restore(api, "discovery.k8s.io", "endpointslices", "endpoints", |now| *now = slice["endpoints"].clone()).await?;
    restore(api, "discovery.k8s.io", "endpointslices", "ports", |now| *now = slice["ports"].clone()).await?;
    // For clients that read the older form; its slice is there already.
    let subsets = json!([{"addresses": [{"ip": address}], "ports": port_of_api}]);
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "subsets": subsets,
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}});
    make(api, &api.builtin("", "endpoints"), endpoints).await?;
    restore(api, "", "endpoints", "subsets", |now| *now = subsets.clone()).await
}

/// Makes a field of the API's own service's objects what it is now: the API may listen elsewhere than it did.
async fn restore(api: &Api, group: &str, plural: &str, field: &str, set: impl Fn(&mut Value)) -> Outcome<()> {
    let key = api.builtin(group, plural).key("default", "kubernetes");
    api.modify(&key, |object| {
        let before = object[field].clone();
        set(&mut object[field]);
        object[field] != before
    })
    .await
    .map(drop)
}

const NODE_CLIENT: &str = "system:certificates.k8s.io:certificatesigningrequests:nodeclient";
const SELF_NODE_CLIENT: &str = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";

const CLUSTER_BINDINGS: &[(&str, &str, &str, &str)] = &[
    ("cluster-admin", "cluster-admin", "Group", "system:masters"),
    ("system:discovery", "system:discovery", "Group", "system:authenticated"),
    ("system:basic-user", "system:basic-user", "Group", "system:authenticated"),
    ("system:public-info-viewer", "system:public-info-viewer", "Group", "system:authenticated"),
    ("system:public-info-viewer-anonymous", "system:public-info-viewer", "Group", "system:unauthenticated"),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        "Group",
        "system:serviceaccounts",
    ),
    ("system:monitoring", "system:monitoring", "Group", "system:monitoring"),
    ("system:kube-scheduler", "system:kube-scheduler", "User", "system:kube-scheduler"),
    ("system:kube-controller-manager", "system:kube-controller-manager", "User", "system:kube-controller-manager"),
    ("system:node", "system:node", "Group", "system:nodes"),
    ("system:node-proxier", "system:node-proxier", "User", "system:kube-proxy"),
    // An agent's proxy and name server ask as the node.
    ("knarr:node-proxier", "system:node-proxier", "Group", "system:nodes"),
    ("knarr:node-network", "knarr:node-network", "Group", "system:nodes"),
    // Nodes join by a bootstrap token and renew what they got for it.
    ("knarr:node-bootstrapper", "system:node-bootstrapper", "Group", "system:bootstrappers"),
    ("knarr:node-autoapprove-bootstrap", NODE_CLIENT, "Group", "system:bootstrappers"),
    ("knarr:node-autoapprove-certificate-rotation", SELF_NODE_CLIENT, "Group", "system:nodes"),
];

fn binding(name: &str, role: &str, kind: &str, subject: &str) -> Value {
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": RBAC, "kind": kind, "name": subject}]})
}

fn rule(verbs: &str, group: &str, resources: &str) -> Value {
    let words = |text: &str| -> Value { text.split_whitespace().collect::<Vec<_>>().into() };
    json!({"verbs": words(verbs), "apiGroups": [group], "resources": words(resources)})
}

fn paths(list: &str) -> Value {
    json!({"verbs": ["get"], "nonResourceURLs": list.split_whitespace().collect::<Vec<_>>()})
}

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";

/// What `view` shows, by group; secrets and roles are not for viewers.
const VIEWED: &[(&str, &str)] = &[
    (
        "",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods pods/log pods/status \
         replicationcontrollers replicationcontrollers/scale replicationcontrollers/status serviceaccounts services \
         services/status bindings events limitranges namespaces namespaces/status resourcequotas resourcequotas/status",
    ),
    ("discovery.k8s.io", "endpointslices"),
    (
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets \
         replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    ("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    ("batch", "cronjobs cronjobs/status jobs jobs/status"),
    ("policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    ("networking.k8s.io", "ingresses ingresses/status networkpolicies"),
];

const EDITED: &[(&str, &str)] = &[
    (
        "",
        "pods pods/attach pods/exec pods/portforward pods/proxy pods/eviction configmaps events persistentvolumeclaims \
         replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy \
         serviceaccounts/token",
    ),
    (
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
         statefulsets/scale",
    ),
    ("autoscaling", "horizontalpodautoscalers"),
    ("batch", "cronjobs jobs"),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "ingresses networkpolicies"),
    ("coordination.k8s.io", "leases"),
];

fn cluster_roles() -> Vec<Value> {
    let role = |name: &str, rules: Vec<Value>| {
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole",
            "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
            "rules": rules})
    };
    let aggregated = |name: &str, into: &str, rules: Vec<Value>| {
        let mut made = role(name, rules);
        made["metadata"]["labels"][format!("{RBAC}/aggregate-to-{into}")] = "true".into();
        made
    };
    let collects = |name: &str| {
        let mut made = role(name, Vec::new());
        made["aggregationRule"] =
            json!({"clusterRoleSelectors": [{"matchLabels": {format!("{RBAC}/aggregate-to-{name}"): "true"}}]});
        made
    };
    let view: Vec<Value> = VIEWED.iter().map(|(group, list)| rule(READ, group, list)).collect();
    let mut edit: Vec<Value> = EDITED.iter().map(|(group, list)| rule(WRITE, group, list)).collect();
    edit.push(rule(READ, "", "secrets pods/attach pods/exec pods/portforward pods/proxy services/proxy"));
    edit.push(rule("impersonate", "", "serviceaccounts"));
    let admin = vec![
        rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
        rule(&format!("{READ} {WRITE}"), RBAC, "rolebindings roles"),
    ];
    let mut roles = vec![
        role("cluster-admin", vec![rule("*", "*", "*"), json!({"verbs": ["*"], "nonResourceURLs": ["*"]})]),
        collects("admin"),
        collects("edit"),
        collects("view"),
        aggregated("system:aggregate-to-admin", "admin", admin),
        aggregated("system:aggregate-to-edit", "edit", edit.clone()),
        aggregated("system:aggregate-to-view", "view", view.clone()),
        aggregated("system:aggregated-metrics-reader", "view", vec![rule(READ, "metrics.k8s.io", "nodes pods")]),
        role(
            "system:discovery",
            vec![paths("/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")],
        ),
        role("system:public-info-viewer", vec![paths("/healthz /livez /readyz /version /version/")]),
        role(
            "system:basic-user",
            vec![
                rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
                rule("create", "authentication.k8s.io", "selfsubjectreviews"),
            ],
        ),
        role(
            "system:service-account-issuer-discovery",
            vec![paths("/.well-known/openid-configuration /openid/v1/jwks /openid/v1/jwks/")],
        ),
        role(
            "system:monitoring",
            vec![paths("/metrics /metrics/slis /livez /readyz /healthz /livez/* /readyz/* /healthz/*")],
        ),
        role(
            "system:auth-delegator",
            vec![
                rule("create", "authentication.k8s.io", "tokenreviews"),
                rule("create", "authorization.k8s.io", "subjectaccessreviews"),
            ],
        ),
        role(
            "system:kube-scheduler",
            vec![
                rule("create patch update", "", "events"),
                rule("create patch update", "events.k8s.io", "events"),
                rule("create get list update watch", "coordination.k8s.io", "leases"),
                rule(
                    READ,
                    "",
                    "nodes namespaces pods replicationcontrollers services persistentvolumeclaims persistentvolumes",
                ),
                rule("delete", "", "pods"),
                rule("create", "", "bindings pods/binding"),
                rule("patch update", "", "pods/status"),
                rule(READ, "apps", "replicasets statefulsets"),
                rule(READ, "policy", "poddisruptionbudgets"),
                rule(
                    READ,
                    "storage.k8s.io",
                    "csidrivers csinodes csistoragecapacities storageclasses volumeattachments",
                ),
                rule("patch update", "", "persistentvolumeclaims persistentvolumes"),
                rule(READ, "resource.k8s.io", "deviceclasses resourceclaims resourceslices"),
                rule("create", "authentication.k8s.io", "tokenreviews"),
                rule("create", "authorization.k8s.io", "subjectaccessreviews"),
            ],
        ),
        role("system:kube-controller-manager", vec![rule("*", "*", "*")]),
        role(
            "system:node",
            vec![
                rule("create", "authentication.k8s.io", "tokenreviews"),
                rule("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
                rule(READ, "", "services"),
                rule("create get list patch update watch", "", "nodes"),
                rule("patch update", "", "nodes/status pods/status"),
                rule("create patch update", "", "events"),
                rule("create delete get list watch", "", "pods"),
                rule("create", "", "pods/eviction serviceaccounts/token"),
                // Volumes on its own disk only; admission sees to that.
                rule("patch", "", "persistentvolumes"),
                rule("create delete get patch update", "coordination.k8s.io", "leases"),
                rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
                rule(READ, "storage.k8s.io", "csidrivers volumeattachments"),
                rule("create delete get patch update", "storage.k8s.io", "csinodes"),
                rule(READ, "node.k8s.io", "runtimeclasses"),
            ],
        ),
        // What an agent reads besides: for names and network policies, and which of its volumes are to go.
        role(
            "knarr:node-network",
            vec![
                rule(READ, "", "namespaces persistentvolumes pods"),
                rule(READ, "networking.k8s.io", "networkpolicies"),
            ],
        ),
        role(
            "system:node-bootstrapper",
            vec![rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests")],
        ),
        role(NODE_CLIENT, vec![rule("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")]),
        role(
            SELF_NODE_CLIENT,
            vec![rule("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
        ),
        role(
            "system:node-proxier",
            vec![
                rule(READ, "", "endpoints nodes services"),
                rule(READ, "discovery.k8s.io", "endpointslices"),
                rule("create patch update", "", "events"),
                rule(READ, "networking.k8s.io", "servicecidrs"),
            ],
        ),
    ];
    // A role that collects is also an object that people read: it shows what it collects.
    for (name, rules) in
        [("admin", [edit.clone(), view.clone()].concat()), ("edit", [edit, view.clone()].concat()), ("view", view)]
    {
        if let Some(made) = roles.iter_mut().find(|made| made["metadata"]["name"] == name) {
            made["rules"] = rules.into();
        }
    }
    // Admins may what editors may, editors what viewers may.
    for (from, into) in [
        ("system:aggregate-to-view", "edit"),
        ("system:aggregate-to-view", "admin"),
        ("system:aggregated-metrics-reader", "edit"),
        ("system:aggregated-metrics-reader", "admin"),
        ("system:aggregate-to-edit", "admin"),
    ] {
        if let Some(made) = roles.iter_mut().find(|made| made["metadata"]["name"] == from) {
            made["metadata"]["labels"][format!("{RBAC}/aggregate-to-{into}")] = "true".into();
        }
    }
    roles
}
