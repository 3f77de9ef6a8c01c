//! The stock kubectl does everything it can with every kind that is served: one object of each resource in each version is made,
//! read, labelled, patched, applied, replaced, compared and deleted. Each step is one call for all of them.

#[path = "support/cluster.rs"]
mod cluster;

use apiserver::Catalog;
use cluster::Cluster;
use serde_json::{Value, json};

/// Kinds that a step cannot be tried on, and why.
const NOT_MADE: &[(&str, &str)] =
    &[("componentstatuses", "is made up when it is read"), ("bindings", "is no object that is kept")];

/// What an object of a kind must say at least.
fn sample(group: &str, version: &str, kind: &str) -> Value {
    let pod = json!({"containers": [{"name": "c", "image": "i"}]});
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": pod});
    let selector = json!({"matchLabels": {"app": "x"}});
    let claim = match version {
        "v1beta1" => json!({"devices": {"requests": [{"name": "r", "deviceClassName": "d"}]}}),
        _ => json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "d"}}]}}),
    };
    let rules = json!({"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    let mutation = json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}});
    let reference = json!({"group": "", "resource": "services", "name": "s", "namespace": "default"});
    match (group, kind) {
        ("", "Pod") => json!({"spec": pod}),
        ("", "PodTemplate") => json!({"template": template}),
        ("", "ReplicationController") => json!({"spec": {"selector": {"app": "x"}, "template": template}}),
        ("", "Service") => json!({"spec": {"ports": [{"port": 80}]}}),
        ("", "PersistentVolume") => {
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}})
        }
        ("", "PersistentVolumeClaim") => {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
        }
        ("", "Event") => {
            json!({"involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Tested", "type": "Normal"})
        }
        ("events.k8s.io", _) => {
            json!({"regarding": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Tested",
            "type": "Normal", "action": "Test", "eventTime": "2024-01-01T00:00:00.000000Z", "reportingController": "example.com/c",
            "reportingInstance": "i"})
        }
        ("", "LimitRange") => {
            json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "1m"}, "defaultRequest": {"cpu": "10m"}}]}})
        }
        ("", "ResourceQuota") => json!({"spec": {"hard": {"pods": "1000"}}}),
        ("apps", "ControllerRevision") => json!({"revision": 1, "data": {}}),
        ("apps", "StatefulSet") => json!({"spec": {"serviceName": "s", "selector": selector, "template": template}}),
        ("apps", _) => json!({"spec": {"selector": selector, "template": template}}),
        ("autoscaling", _) => {
            json!({"spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
        }
        ("batch", kind) => {
            let mut job = json!({"template": {"spec": pod}});
            job["template"]["spec"]["restartPolicy"] = "Never".into();
            if kind == "Job" {
                json!({"spec": job})
            } else {
                json!({"spec": {"schedule": "0 0 * * *", "jobTemplate": {"spec": job}}})
            }
        }
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            json!({"spec": {"request": "LS0tLS1CRUdJTg==", "signerName": "example.com/s", "usages": ["client auth"]}})
        }
        ("certificates.k8s.io", "ClusterTrustBundle") => {
            json!({"spec": {"trustBundle": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"}})
        }
        ("certificates.k8s.io", _) => json!({"spec": {"signerName": "example.com/s", "podName": "p", "podUID": "u",
            "serviceAccountName": "default", "serviceAccountUID": "u", "nodeName": "n", "nodeUID": "u",
            "maxExpirationSeconds": 86400, "stubPKCS10Request": "AA==", "pkixPublicKey": "AA==", "proofOfPossession": "AA=="}}),
        ("coordination.k8s.io", "LeaseCandidate") => {
            json!({"spec": {"leaseName": "l", "strategy": "OldestEmulationVersion", "binaryVersion": "1.36.0",
                "emulationVersion": "1.36.0"}})
        }
        ("discovery.k8s.io", _) => json!({"addressType": "IPv4", "endpoints": []}),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => {
            json!({"spec": {"priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 100}})
        }
        ("flowcontrol.apiserver.k8s.io", _) => {
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}})
        }
        ("networking.k8s.io", "Ingress") => {
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}})
        }
        ("networking.k8s.io", "NetworkPolicy") => json!({"spec": {"podSelector": {}}}),
        ("networking.k8s.io", "IPAddress") => json!({"spec": {"parentRef": reference}}),
        ("networking.k8s.io", "ServiceCIDR") => json!({"spec": {"cidrs": ["10.200.0.0/24"]}}),
        ("networking.k8s.io", _) => json!({"spec": {"controller": "example.com/c"}}),
        ("node.k8s.io", _) => json!({"handler": "h"}),
        ("policy", _) => json!({"spec": {"minAvailable": 1, "selector": selector}}),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}})
        }
        ("rbac.authorization.k8s.io", _) => json!({"rules": []}),
        ("resource.k8s.io", "ResourceClaim") => json!({"spec": claim}),
        ("resource.k8s.io", "ResourceClaimTemplate") => json!({"spec": {"spec": claim}}),
        ("resource.k8s.io", "ResourceSlice") => json!({"spec": {"driver": "d.example.com", "nodeName": "n",
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
        ("resource.k8s.io", "DeviceTaintRule") => json!({"spec": {"taint": {"key": "k", "effect": "NoSchedule"}}}),
        ("resource.k8s.io", "ResourcePoolStatusRequest") => json!({"spec": {"driver": "d.example.com"}}),
        ("resource.k8s.io", _) => json!({"spec": {}}),
        ("scheduling.k8s.io", "PriorityClass") => json!({"value": 1}),
        ("scheduling.k8s.io", "PodGroup") => json!({"spec": {"schedulingPolicy": {"basic": {}}}}),
        ("scheduling.k8s.io", _) => {
            json!({"spec": {"podGroupTemplates": [{"name": "a", "schedulingPolicy": {"basic": {}}}]}})
        }
        ("storage.k8s.io", "CSIDriver") => json!({"spec": {}}),
        ("storage.k8s.io", "CSINode") => json!({"spec": {"drivers": []}}),
        ("storage.k8s.io", "CSIStorageCapacity") => json!({"storageClassName": "s"}),
        ("storage.k8s.io", "StorageClass") => json!({"provisioner": "example.com/p"}),
        ("storage.k8s.io", "VolumeAttachment") => {
            json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}})
        }
        ("storage.k8s.io", _) => json!({"driverName": "d.example.com", "parameters": {"iops": "1"}}),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => {
            json!({"spec": {"matchConstraints": rules, "validations": [{"expression": "true"}]}})
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => {
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}})
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => {
            json!({"spec": {"matchConstraints": rules, "mutations": [mutation], "reinvocationPolicy": "Never"}})
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => json!({"spec": {"policyName": "p"}}),
        ("admissionregistration.k8s.io", _) => json!({"webhooks": []}),
        ("apiextensions.k8s.io", _) => json!({"spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat"}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}}),
        ("apiregistration.k8s.io", _) => {
            json!({"spec": {"group": "far.example.com", "version": "v1", "groupPriorityMinimum": 100,
            "versionPriority": 100, "service": {"name": "s", "namespace": "default"}}})
        }
        ("internal.apiserver.k8s.io", _) => json!({"spec": {}, "status": {}}),
        ("storagemigration.k8s.io", _) => {
            json!({"spec": {"resource": {"group": "apps", "resource": format!("deployments{version}")}}})
        }
        _ => json!({}),
    }
}

/// What `replace --raw` and its like are to be answered where the state of things or the lack of a node does not allow more.
fn wanted(plural: &str, sub: &str) -> &'static str {
    match (plural, sub) {
        // The pod is on no node.
        ("pods", "attach" | "exec" | "portforward") => "does not have a host assigned",
        ("pods", "proxy") => "address not allowed",
        ("nodes", "proxy") => "cannot be reached: it has told no address",
        ("services", "proxy") => "no endpoints available for service",
        _ => "",
    }
}

fn name(group: &str, version: &str, plural: &str) -> String {
    match (group, plural) {
        ("apiextensions.k8s.io", _) => "boats.example.com".into(),
        ("apiregistration.k8s.io", _) => "v1.far.example.com".into(),
        ("networking.k8s.io", "ipaddresses") => if version == "v1" { "10.200.0.1" } else { "10.200.0.2" }.into(),
        ("internal.apiserver.k8s.io", _) => "apps.deployments".into(),
        // Both groups' events are the same events.
        ("events.k8s.io", _) => "new-event".into(),
        _ => format!("{plural}-{version}"),
    }
}

#[test]
fn kubectl_does_everything_with_every_kind() {
    let Some(cluster) = Cluster::start(false) else { return };
    let catalog = Catalog::builtin();
    let (mut items, mut collections) = (Vec::new(), Vec::new());
    for group in &catalog.groups {
        for version in &group.versions {
            for resource in &version.resources {
                let has = |verb: &str| resource.verbs.iter().any(|own| own == verb);
                if !["create", "get", "patch", "update", "delete"].into_iter().all(has) {
                    // What pods and nodes use is nobody's to write.
                    let reviews = !has("get") || group.name == "metrics.k8s.io";
                    assert!(
                        reviews || NOT_MADE.iter().any(|(plural, _)| *plural == resource.plural),
                        "{}",
                        resource.plural
                    );
                    continue;
                }
                let mut object = sample(&group.name, &version.name, &resource.kind);
                object["apiVersion"] = resource.api_version().into();
                object["kind"] = resource.kind.as_str().into();
                object["metadata"] = json!({"name": name(&group.name, &version.name, &resource.plural)});
                if resource.namespaced {
                    object["metadata"]["namespace"] = "default".into();
                }
                items.push(object);
                assert!(has("list") && has("watch"), "{}", resource.plural);
                let root = if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
                let place = if resource.namespaced { "/namespaces/default" } else { "" };
                let path = format!("{root}/{}{place}/{}", version.name, resource.plural);
                collections.push((path, resource.kind.clone(), has("deletecollection")));
            }
        }
    }
    let count = items.len();
    assert!(count > 80, "{count}");
    let write = |name: &str, items: &[Value]| {
        let documents: Vec<String> = items.iter().map(Value::to_string).collect();
        std::fs::write(cluster.dir.path().join(name), documents.join("\n")).unwrap();
    };
    write("all.json", &items);
    let each = |said: &str, word: &str| {
        let found = said.lines().filter(|line| line.ends_with(word) && !line.starts_with("Warning:")).count();
        assert_eq!(found, count, "{word}:\n{said}");
    };
    each(&cluster.ok("create -f all.json --dry-run=server"), "created (server dry run)");
    each(&cluster.ok("create -f all.json"), "created");
    each(&cluster.ok("get -f all.json -o name"), "");
    // Warnings stand before or behind the object.
    let read_all = || {
        let said = cluster.ok("get -f all.json -o json");
        let (begin, end) = (said.find("{\n").unwrap(), said.rfind("\n}").unwrap() + 2);
        serde_json::from_str::<Value>(&said[begin..end]).unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    let read = read_all();
    let read = read["items"].as_array().unwrap();
    assert!(read.iter().all(|item| item["metadata"]["uid"].is_string()));
    for form in ["wide", "yaml", "jsonpath={.items[*].metadata.name}", "custom-columns=NAME:.metadata.name"] {
        cluster.ok(&format!("get -f all.json -o {form}"));
    }
    each(&cluster.ok("label -f all.json swept=yes"), "labeled");
    each(&cluster.ok("annotate -f all.json swept=yes"), "annotated");
    let patch = r#"{"metadata":{"annotations":{"patched":"yes"}}}"#;
    each(&cluster.ok(&format!("patch -f all.json --type=merge -p {patch}")), "patched");
    let json_patch = r#"[{"op":"add","path":"/metadata/annotations/json","value":"yes"}]"#;
    each(&cluster.ok(&format!("patch -f all.json --type=json -p {json_patch}")), "patched");
    let strategic = r#"{"metadata":{"annotations":{"strategic":"yes"}}}"#;
    each(&cluster.ok(&format!("patch -f all.json --type=strategic -p {strategic}")), "patched");
    each(&cluster.ok("apply -f all.json --server-side --force-conflicts --field-manager=sweep"), "serverside-applied");
    let said = cluster.ok("diff -f all.json --server-side --force-conflicts --field-manager=sweep");
    assert_eq!(said.lines().filter(|line| !line.starts_with("Warning:")).count(), 0, "{said}");
    // What was read is written back as it is.
    write("read.json", read);
    let fresh = read_all();
    write("read.json", fresh["items"].as_array().unwrap());
    each(&cluster.ok("replace -f read.json"), "replaced");
    cluster.ok("get -f all.json -l swept=yes --ignore-not-found");
    let delete = || {
        let said = cluster.ok("delete -f all.json --wait=false --grace-period=0 --force --ignore-not-found");
        said.lines().filter(|line| line.contains("deleted")).count()
    };
    lists_and_watches(&cluster, &collections);
    assert_eq!(delete(), count);
    // Again, and away as collections. What may not go as one goes by itself.
    let nothing = "get -f all.json --ignore-not-found -o name";
    let empty = |said: &str| said.lines().all(|line| line.starts_with("Warning:"));
    cluster.until(nothing, empty);
    for item in &mut items {
        item["metadata"]["labels"] = json!({"swept": "again"});
    }
    write("all.json", &items);
    each(&cluster.ok("create -f all.json"), "created");
    let mut alone = 0;
    for (path, kind, at_once) in &collections {
        if *at_once {
            let said = cluster.ok(&format!("delete --raw {path}?labelSelector=swept%3Dagain&gracePeriodSeconds=0"));
            assert!(said.contains(&format!("\"kind\":\"{kind}List\"")), "{path}: {said}");
        } else {
            alone += 1;
        }
    }
    assert!(alone <= 2, "namespaces, and what else?");
    delete();
    cluster.until(nothing, empty);
}

/// Every kind's collection, read whole and watched for a second: what was made and labelled is there.
fn lists_and_watches(cluster: &Cluster, collections: &[(String, String, bool)]) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let one = |path: &str, kind: &str| {
        let chosen = format!("{path}?labelSelector=swept%3Dyes");
        // Warnings stand before or behind the answer.
        let objects = |line: &str| -> Vec<Value> {
            let said = cluster.ok(line);
            let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            said.lines().filter(|line| line.starts_with('{')).map(read).collect()
        };
        let list = &objects(&format!("get --raw {chosen}"))[0];
        assert_eq!(list["kind"], format!("{kind}List"), "{path}");
        let listed = list["items"].as_array().unwrap();
        assert!(!listed.is_empty(), "{path}");
        let watched = objects(&format!("get --raw {chosen}&watch=1&timeoutSeconds=1"));
        assert!(watched.len() >= listed.len(), "{path}: {watched:?}");
        for event in watched {
            assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("ADDED"), &json!(kind)), "{path}: {event}");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((path, kind, _)) =
                    collections.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    one(path, kind);
                }
            });
        }
    });
}

/// Every subresource of every kind that is served, by every verb that it is served with: as kubectl's own flag where there is one
/// (`--subresource`), and by its raw requests else. What cannot be done where there is no node says why.
#[test]
fn kubectl_reaches_every_subresource() {
    let Some(cluster) = Cluster::start(false) else { return };
    let catalog = Catalog::builtin();
    let mut tried = 0;
    for group in &catalog.groups {
        for version in &group.versions {
            for resource in version.resources.iter().filter(|resource| !resource.subresources.is_empty()) {
                let has = |verb: &str| resource.verbs.iter().any(|own| own == verb);
                assert!(has("create") && has("get"), "{}", resource.plural);
                let mut object = sample(&group.name, &version.name, &resource.kind);
                let name = name(&group.name, &version.name, &resource.plural);
                object["apiVersion"] = resource.api_version().into();
                object["kind"] = resource.kind.as_str().into();
                object["metadata"] = json!({"name": name});
                if resource.namespaced {
                    object["metadata"]["namespace"] = "default".into();
                }
                cluster.ok_with("create -f -", &object.to_string());
                let root = if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
                let place = if resource.namespaced { "namespaces/default/" } else { "" };
                let path = format!("{root}/{}/{place}{}/{name}", version.name, resource.plural);
                let words = Words {
                    cluster: &cluster,
                    path: &path,
                    plural: &resource.plural,
                    group: &group.name,
                    version: &version.name,
                    name: &name,
                };
                for sub in &resource.subresources {
                    for verb in &sub.verbs {
                        words.try_out(&sub.name, verb);
                        tried += 1;
                    }
                }
                cluster.ok(&format!("delete --raw {path}?gracePeriodSeconds=0"));
            }
        }
    }
    assert!(tried > 100, "{tried}");
}

struct Words<'a> {
    cluster: &'a Cluster,
    path: &'a str,
    plural: &'a str,
    group: &'a str,
    version: &'a str,
    name: &'a str,
}

impl Words<'_> {
    fn try_out(&self, sub: &str, verb: &str) {
        let (cluster, path) = (self.cluster, self.path);
        let what = if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}.{}", self.plural, self.version, self.group)
        };
        let raw = format!("{path}/{sub}");
        let read = || -> Value { serde_json::from_str(&cluster.ok(&format!("get --raw {raw}"))).unwrap() };
        // Those that kubectl knows by name.
        let known = matches!(sub, "status" | "scale" | "resize");
        let expected = wanted(self.plural, sub);
        let does = |line: &str, input: &str| match expected {
            "" => drop(cluster.ok_with(line, input)),
            expected => cluster.fails(line, input, expected),
        };
        let now: Value = serde_json::from_str(&cluster.ok(&format!("get --raw {path}"))).unwrap();
        match (sub, verb) {
            ("log", "get") => does(&format!("get --raw {raw}"), ""),
            ("attach" | "exec" | "portforward" | "proxy", "get") => {
                does(&format!("get --raw {raw}?command=id&ports=80&stdout=true"), "")
            }
            ("attach" | "exec" | "portforward" | "proxy", "create") => {
                does(&format!("create --raw {raw}?command=id&ports=80&stdout=true -f -"), "{}")
            }
            ("proxy", "update") => does(&format!("replace --raw {raw} -f -"), "{}"),
            ("proxy", "delete") => does(&format!("delete --raw {raw}"), ""),
            // kubectl has no raw patch, and nothing else that sends one there.
            ("proxy", "patch") => {}
            ("binding", "create") => {
                // Not this pod, which others are tried on: one of its own.
                let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "to-bind"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
                cluster.ok_with("create -f -", &pod.to_string());
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "to-bind"}, "target": {"kind": "Node", "name": "n"}});
                cluster
                    .ok_with("create --raw /api/v1/namespaces/default/pods/to-bind/binding -f -", &binding.to_string());
                assert_eq!(cluster.field("pod/to-bind", ".spec.nodeName"), "n");
            }
            ("eviction", "create") => {
                let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "to-evict"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
                cluster.ok_with("create -f -", &pod.to_string());
                let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "to-evict", "namespace": "default"}});
                cluster.ok_with(
                    "create --raw /api/v1/namespaces/default/pods/to-evict/eviction -f -",
                    &eviction.to_string(),
                );
                cluster.eventually("get pod to-evict", "not found");
            }
            ("token", "create") => {
                let said = cluster.ok(&format!("create token {} --duration=10m", self.name));
                assert_eq!(said.split('.').count(), 3, "{said}");
            }
            (_, "get") if known => {
                cluster.ok(&format!("get {what} {} --subresource={sub}", self.name));
                cluster.ok(&format!("get {what} {} --subresource={sub} -o yaml", self.name));
            }
            (_, "get") => drop(read()),
            (_, "update") if sub == "ephemeralcontainers" => {
                let mut changed = now;
                changed["spec"]["ephemeralContainers"] =
                    json!([{"name": "debug", "image": "i", "terminationMessagePolicy": "File"}]);
                cluster.ok_with(&format!("replace --raw {raw} -f -"), &changed.to_string());
                assert_eq!(cluster.field(&format!("pod/{}", self.name), ".spec.ephemeralContainers[0].name"), "debug");
            }
            (_, "update") if sub == "approval" => {
                let mut changed = now;
                changed["status"]["conditions"] =
                    json!([{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]);
                cluster.ok_with(&format!("replace --raw {raw} -f -"), &changed.to_string());
                cluster.ok(&format!("wait --for=condition=Approved csr/{} --timeout=10s", self.name));
            }
            (_, "update") => {
                let current = if sub == "scale" { read() } else { now };
                let said = cluster.ok_with(&format!("replace --raw {raw} -f -"), &current.to_string());
                assert!(said.starts_with('{'), "{said}");
                // kubectl finds no resource of the kind Scale.
                if known && sub != "scale" {
                    cluster.ok_with(
                        &format!("replace --subresource={sub} -f -"),
                        &current_of(self.cluster, path).to_string(),
                    );
                }
            }
            (_, "patch") if known => {
                let patch = if sub == "scale" {
                    r#"{"spec":{"replicas":2}}"#
                } else {
                    r#"{"metadata":{"annotations":{"by":"sub"}}}"#
                };
                cluster.ok(&format!("patch {what} {} --subresource={sub} --type=merge -p {patch}", self.name));
                if sub == "scale" {
                    assert_eq!(read()["spec"]["replicas"], 2);
                    cluster.ok(&format!("scale {what} {} --replicas=3", self.name));
                    assert_eq!(read()["spec"]["replicas"], 3);
                }
                let applied =
                    json!({"apiVersion": now["apiVersion"], "kind": now["kind"], "metadata": {"name": self.name}});
                if sub == "status" {
                    cluster.ok_with(
                        "apply --server-side --subresource=status --field-manager=sweep -f -",
                        &applied.to_string(),
                    );
                }
            }
            // kubectl sends patches to those alone that it knows; of the others their update is tried.
            (_, "patch") => {}
            (sub, verb) => panic!("nothing tries {verb} of {sub} of {}", self.plural),
        }
    }
}

/// The object as it is now.
fn current_of(cluster: &Cluster, path: &str) -> Value {
    serde_json::from_str(&cluster.ok(&format!("get --raw {path}"))).unwrap()
}
