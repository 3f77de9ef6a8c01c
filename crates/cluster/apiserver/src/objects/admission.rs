//! Built-in admission: what a write is given, and what keeps it out, because of other objects.

use resources::{Status, Value, meta};
use serde_json::json;

use super::Call;
use crate::api::Outcome;
use crate::authz::{Rule, role_rules};

impl Call {
    pub(super) async fn admit_create(&mut self, object: &mut Value) -> Outcome<()> {
        self.namespace_lives(object).await?;
        self.escalation(object, None)?;
        if self.resource.prefix == "/registry/core/pods/" {
            self.pod_defaults(object).await?;
        }
        if self.resource.prefix == "/registry/core/persistentvolumeclaims/"
            && object["spec"].get("storageClassName").is_none()
        {
            self.default_storage_class(object).await?;
        }
        if self.resource.plural == "certificatesigningrequests" {
            object["spec"]["username"] = self.user.name.as_str().into();
            object["spec"]["groups"] = self.user.groups.clone().into();
        }
        Ok(())
    }

    pub(super) async fn admit_update(&mut self, new: &Value, old: &Value, _sub: &str) -> Outcome<()> {
        self.escalation(new, Some(old))
    }

    fn forbidden(&self, object: &Value, why: &str) -> Status {
        Status::forbidden(&self.resource.group, &self.resource.plural, meta::name(object), why)
    }

    /// NamespaceLifecycle: nothing new in a namespace that is missing or going away.
    async fn namespace_lives(&self, object: &Value) -> Outcome<()> {
        if !self.resource.namespaced {
            return Ok(());
        }
        let name = meta::namespace(object);
        let namespaces = self.api.builtin("", "namespaces");
        match self.api.get_object(&namespaces, "", name).await? {
            None => Err(Status::not_found("", "namespaces", name)),
            Some((namespace, _)) if meta::is_terminating(&namespace) => {
                let why = format!("unable to create new content in namespace {name} because it is being terminated");
                let message = format!("namespace {name} is being terminated");
                Err(self.forbidden(object, &why).cause("NamespaceTerminating", message, "metadata.namespace"))
            }
            Some(_) => Ok(()),
        }
    }

    /// ServiceAccount, DefaultTolerationSeconds and Priority.
    async fn pod_defaults(&mut self, pod: &mut Value) -> Outcome<()> {
        let namespace = meta::namespace(pod).to_owned();
        let name = match meta::str_at(pod, &["spec", "serviceAccountName"]) {
            "" => "default".to_owned(),
            name => name.to_owned(),
        };
        let accounts = self.api.builtin("", "serviceaccounts");
        let mut account = self.api.get_object(&accounts, &namespace, &name).await?;
        if account.is_none() && name == "default" {
            // The controller may be a moment behind a new namespace.
            crate::controllers::ensure_service_account(&self.api, &namespace).await?;
            account = self.api.get_object(&accounts, &namespace, &name).await?;
        }
        let Some((account, _)) = account else {
            let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
            return Err(self.forbidden(pod, &why));
        };
        pod["spec"]["serviceAccountName"] = name.as_str().into();
        pod["spec"]["serviceAccount"] = name.into();
        if pod["spec"].get("imagePullSecrets").is_none()
            && let Some(secrets) = account.get("imagePullSecrets")
        {
            pod["spec"]["imagePullSecrets"] = secrets.clone();
        }
        let mounts = pod["spec"]["automountServiceAccountToken"].as_bool();
        if mounts.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true) {
            mount_token(pod);
        }
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let list = meta::list_at(pod, &["spec", "tolerations"]);
            let tolerated = list.iter().any(|toleration| {
                let own = toleration["key"].as_str().unwrap_or_default();
                let effect = toleration["effect"].as_str().unwrap_or_default();
                (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
            });
            if !tolerated {
                let toleration =
                    json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
                let list = meta::object_at(pod, &["spec"]).entry("tolerations").or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(toleration)
                }
            }
        }
        self.priority(pod).await
    }

    async fn priority(&self, pod: &mut Value) -> Outcome<()> {
        let classes = self.api.builtin("scheduling.k8s.io", "priorityclasses");
        let name = meta::str_at(pod, &["spec", "priorityClassName"]).to_owned();
        let class = if name.is_empty() {
            let all = self.api.list_objects(&classes, "").await?;
            all.into_iter().filter(|class| class["globalDefault"] == true).min_by_key(|class| class["value"].as_i64())
        } else {
            match self.api.get_object(&classes, "", &name).await? {
                Some((class, _)) => Some(class),
                None => return Err(self.forbidden(pod, &format!("no PriorityClass with name {name} was found"))),
            }
        };
        let (value, policy) = match &class {
            Some(class) => {
                pod["spec"]["priorityClassName"] = meta::name(class).into();
                (class["value"].clone(), class["preemptionPolicy"].clone())
            }
            None => (0.into(), "PreemptLowerPriority".into()),
        };
        if pod["spec"]["priority"].is_number() && pod["spec"]["priority"] != value {
            let given = &pod["spec"]["priority"];
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            );
            return Err(self.forbidden(pod, &why));
        }
        pod["spec"]["priority"] = value;
        if pod["spec"].get("preemptionPolicy").is_none() && !policy.is_null() {
            pod["spec"]["preemptionPolicy"] = policy;
        }
        Ok(())
    }

    async fn default_storage_class(&self, claim: &mut Value) -> Outcome<()> {
        let classes = self.api.builtin("storage.k8s.io", "storageclasses");
        let all = self.api.list_objects(&classes, "").await?;
        let annotation = ["metadata", "annotations", "storageclass.kubernetes.io/is-default-class"];
        // Of several defaults the newest counts.
        let default = all
            .iter()
            .filter(|class| meta::str_at(class, &annotation) == "true")
            .max_by_key(|class| (meta::get(class, "creationTimestamp").to_owned(), meta::name(class).to_owned()));
        if let Some(class) = default {
            claim["spec"]["storageClassName"] = meta::name(class).into();
        }
        Ok(())
    }

    /// Nobody may grant by a role or binding what he does not hold.
    fn escalation(&self, new: &Value, old: Option<&Value>) -> Outcome<()> {
        if self.resource.group != "rbac.authorization.k8s.io" || self.user.is_master() {
            return Ok(());
        }
        let view = self.api.rbac.view();
        let namespace = meta::namespace(new);
        let held = |verb: &str, resource: &str, name: &str| {
            let action = crate::authz::Action {
                verb: verb.into(),
                group: self.resource.group.clone(),
                resource: resource.into(),
                namespace: namespace.into(),
                name: name.into(),
                ..Default::default()
            };
            view.allows(&self.user, &action).is_some()
        };
        let granted: Vec<Rule> = match self.resource.plural.as_str() {
            "roles" | "clusterroles" => {
                if old.is_some_and(|old| old["rules"] == new["rules"])
                    || held("escalate", &self.resource.plural, meta::name(new))
                {
                    return Ok(());
                }
                role_rules(new)
            }
            _ => {
                let unchanged = |old: &Value| old["roleRef"] == new["roleRef"] && old["subjects"] == new["subjects"];
                let (kind, name) = (meta::str_at(new, &["roleRef", "kind"]), meta::str_at(new, &["roleRef", "name"]));
                let resource = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
                if old.is_some_and(unchanged) || held("bind", resource, name) {
                    return Ok(());
                }
                view.rules_of(namespace, kind, name)
            }
        };
        let lacking = view.lacking(&self.user, namespace, &granted);
        if lacking.is_empty() {
            return Ok(());
        }
        let rules: Vec<String> = lacking.iter().map(shown).collect();
        let why = format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            self.user.name,
            self.user.groups,
            rules.join("\n")
        );
        Err(self.forbidden(new, &why))
    }
}

fn shown(rule: &Rule) -> String {
    let list = |name: &str, items: &[String]| match items.is_empty() {
        true => None,
        false => Some(format!("{name}:{items:?}")),
    };
    let parts: Vec<String> = [
        list("APIGroups", &rule.groups),
        list("Resources", &rule.resources),
        list("ResourceNames", &rule.names),
        list("NonResourceURLs", &rule.paths),
        list("Verbs", &rule.verbs),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!("{{{}}}", parts.join(", "))
}

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The projected volume with token, CA and namespace, mounted into every container that has nothing there.
fn mount_token(pod: &mut Value) {
    let volumes = meta::list_at(pod, &["spec", "volumes"]);
    let found =
        volumes.iter().filter_map(|volume| volume["name"].as_str()).find(|name| name.starts_with("kube-api-access-"));
    let name = found.map_or_else(|| format!("kube-api-access-{}", crate::api::name_suffix()), str::to_owned);
    let mut used = found.is_some();
    for list in ["initContainers", "containers"] {
        for container in meta::items_mut(pod, &["spec", list]) {
            let mounted =
                meta::list_at(container, &["volumeMounts"]).iter().any(|mount| mount["mountPath"] == TOKEN_PATH);
            if mounted || !container.is_object() {
                continue;
            }
            let mount = json!({"name": name, "mountPath": TOKEN_PATH, "readOnly": true});
            let mounts = meta::object_at(container, &[]).entry("volumeMounts").or_insert_with(|| json!([]));
            if let Some(mounts) = mounts.as_array_mut() {
                mounts.push(mount)
            }
            used = true;
        }
    }
    if !used || found_volume(pod, &name) {
        return;
    }
    let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    let volumes = meta::object_at(pod, &["spec"]).entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(volume)
    }
}

fn found_volume(pod: &Value, name: &str) -> bool {
    meta::list_at(pod, &["spec", "volumes"]).iter().any(|volume| volume["name"] == name)
}
