//! Built-in admission: what a write is given, and what keeps it out, because of other objects.

use resources::{Status, Value, meta};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

use super::Call;
use crate::admission::{self, Attributes, Operation, limits, node_restriction, placement, pod_security, quota};
use crate::allocated::Reserved;
use crate::api::Outcome;
use crate::authn::User;
use crate::authz::{Rule, role_rules};
use crate::catalog::Resource;

/// StorageObjectInUseProtection: the object stays until nobody uses it.
fn protect(object: &mut Value, finalizer: &str) {
    let mut finalizers = meta::finalizers(object);
    if !finalizers.iter().any(|name| name == finalizer) {
        finalizers.push(finalizer.to_owned());
        meta::set_finalizers(object, finalizers);
    }
}

/// What is to be held until an object is stored: room in a quota, and what a service was given.
pub(super) struct Held {
    pub(super) _room: Option<OwnedMutexGuard<()>>,
    pub(super) addresses: Option<Reserved>,
}

impl Held {
    pub(super) fn guard(&self) -> Option<store::Revision> {
        self.addresses.as_ref().and_then(Reserved::guard)
    }
}

impl Call {
    /// What admission knows of this request. `user` and `resource` are handed in so that warnings can be added meanwhile.
    fn attributes<'a>(
        &self,
        operation: Operation,
        (resource, user, sub): (&'a Resource, &'a User, &'a str),
        (namespace, name): (&'a str, &'a str),
        old: Option<&'a Value>,
    ) -> Outcome<Attributes<'a>> {
        let dry = self.dry_run()?;
        let options = admission::options(operation, self.verb == "patch", dry, self.query.get("fieldManager"));
        Ok(Attributes { operation, resource, sub, namespace, name, user, dry, old, options })
    }

    pub(super) async fn admit_create(&mut self, object: &mut Value) -> Outcome<()> {
        self.namespace_lives(object).await?;
        self.escalation(object, None)?;
        match self.resource.prefix.as_str() {
            "/registry/core/pods/" => {
                self.pod_defaults(object).await?;
                let ranges = self.of_namespace("limitranges", meta::namespace(object)).await?;
                limits::default(object, &ranges);
                let node = meta::str_at(object, &["spec", "nodeName"]).to_owned();
                if let Some(node) = self.node(&node).await? {
                    placement::label(object, &node, false);
                }
            }
            "/registry/core/nodes/" => placement::taint(object),
            "/registry/core/persistentvolumeclaims/" => {
                if object["spec"].get("storageClassName").is_none() {
                    self.default_storage_class(object).await?;
                }
                protect(object, "kubernetes.io/pvc-protection");
            }
            "/registry/core/persistentvolumes/" => protect(object, "kubernetes.io/pv-protection"),
            "/registry/networking.k8s.io/ingresses/" if object["spec"].get("ingressClassName").is_none() => {
                self.default_ingress_class(object).await?;
            }
            "/registry/certificates.k8s.io/certificatesigningrequests/" => {
                object["spec"]["username"] = self.user.name.as_str().into();
                object["spec"]["groups"] = self.user.groups.clone().into();
                let masters = object["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client"
                    && crate::authn::request_groups(meta::str_at(object, &["spec", "request"]))
                        .is_some_and(|groups| groups.iter().any(|group| group == "system:masters"));
                if masters {
                    let why =
                        "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
                    return Err(self.forbidden(object, why));
                }
            }
            _ => {}
        }
        self.mutate(Operation::Create, object, None, "").await
    }

    /// A node that pods are to be placed on; it may not be there (yet).
    pub(super) async fn node(&self, name: &str) -> Outcome<Option<Arc<Value>>> {
        match name {
            "" => Ok(None),
            name => self.api.get_shared(&self.api.builtin("", "nodes"), "", name).await,
        }
    }

    pub(super) async fn admit_update(&mut self, new: &mut Value, old: &Value, sub: &str) -> Outcome<()> {
        self.escalation(new, Some(old))?;
        if self.resource.prefix == "/registry/core/persistentvolumeclaims/" && sub.is_empty() {
            self.claim_may_grow(new, old).await?;
        }
        self.mutate(Operation::Update, new, Some(old), sub).await
    }

    async fn mutate(
        &mut self,
        operation: Operation,
        object: &mut Value,
        old: Option<&Value>,
        sub: &str,
    ) -> Outcome<()> {
        if self.api.hooks.get().mutating.is_empty() {
            return Ok(());
        }
        let (resource, user) = (self.resource.clone(), self.user.clone());
        let (namespace, name) = (meta::namespace(object).to_owned(), meta::name(object).to_owned());
        let attributes = self.attributes(operation, (&resource, &user, sub), (&namespace, &name), old)?;
        let refit = |object: &mut Value| {
            super::write::default_of(&resource, object);
            Ok(())
        };
        admission::mutate(&self.api, &attributes, object, &mut self.warnings, &refit).await
    }

    /// What judges a write and changes nothing. The lock answered is to be held until the object is stored.
    pub(super) async fn judge(
        &mut self,
        operation: Operation,
        object: Option<&Value>,
        old: Option<&Value>,
        sub: &str,
    ) -> Outcome<Option<OwnedMutexGuard<()>>> {
        let (resource, user) = (self.resource.clone(), self.user.clone());
        let shown = object.or(old).unwrap_or(&Value::Null);
        let namespace = match meta::namespace(shown) {
            "" => self.path.namespace.clone(),
            namespace => namespace.to_owned(),
        };
        let name = match self.path.name.as_str() {
            "" => meta::name(shown).to_owned(),
            name => name.to_owned(),
        };
        let attributes = self.attributes(operation, (&resource, &user, sub), (&namespace, &name), old)?;
        if let Some(node) = node_restriction::node_of(&user)
            && let Some(why) = node_restriction::refusal(node, &attributes, object)
            && !vocab::weak::without("nodes")
        {
            return Err(attributes.forbidden(&why));
        }
        if let Some(object) = object {
            self.pod_security(object, old, sub).await?;
            if resource.prefix == "/registry/core/namespaces/" && sub.is_empty() {
                self.pod_security_labels(object, old).await?;
            }
            if resource.prefix == "/registry/certificates.k8s.io/certificatesigningrequests/" {
                self.may_sign(object, old, sub)?;
            }
            if resource.prefix == "/registry/certificates.k8s.io/clustertrustbundles/" {
                self.may_attest(object, old)?;
            }
            let ranged = sub == "resize"
                || sub.is_empty() && (operation == Operation::Create || resource.plural == "persistentvolumeclaims");
            if ranged
                && resource.group.is_empty()
                && matches!(resource.plural.as_str(), "pods" | "persistentvolumeclaims")
            {
                let ranges = self.of_namespace("limitranges", &namespace).await?;
                let faults = limits::faults(&resource.group, &resource.plural, object, &ranges);
                if !faults.is_empty() {
                    let why = if faults.len() == 1 { faults[0].clone() } else { format!("[{}]", faults.join(", ")) };
                    return Err(attributes.forbidden(&why));
                }
            }
        }
        admission::validate(&self.api, &attributes, object, &mut self.warnings).await?;
        match object.filter(|_| resource.namespaced && matches!(sub, "" | "resize")) {
            Some(object) => self.reserve(&attributes, object).await,
            None => Ok(None),
        }
    }

    /// Objects of one kind of the core group in a namespace.
    async fn of_namespace(&self, plural: &str, namespace: &str) -> Outcome<Vec<Arc<Value>>> {
        self.api.list_shared(&self.api.builtin("", plural), namespace).await
    }

    /// PodSecurity: refuses pods that break the level their namespace enforces, and warns of those that break another one.
    async fn pod_security(&mut self, object: &Value, old: Option<&Value>, sub: &str) -> Outcome<()> {
        if !matches!(sub, "" | "ephemeralcontainers") || vocab::weak::without("pods") {
            return Ok(());
        }
        let (group, plural) = (self.resource.group.clone(), self.resource.plural.clone());
        let Some(pod) = pod_security::pod_of(&group, &plural, object) else { return Ok(()) };
        // An update of a pod that runs the same images with the same containers changes nothing about its safety.
        let images = |pod: &Value| {
            let lists = ["initContainers", "containers", "ephemeralContainers"];
            let all = lists.iter().flat_map(|list| meta::list_at(pod, &["spec", list]));
            all.map(|one| one["image"].clone()).collect::<Vec<_>>()
        };
        if old.and_then(|old| pod_security::pod_of(&group, &plural, old)).is_some_and(|old| images(old) == images(pod))
        {
            return Ok(());
        }
        let namespaces = self.api.builtin("", "namespaces");
        let Some(namespace) = self.api.get_shared(&namespaces, "", meta::namespace(object)).await? else {
            return Ok(());
        };
        let is_pod = group.is_empty() && plural == "pods";
        let enforced = pod_security::policy(&namespace, "enforce");
        let faults = pod_security::faults(pod, enforced.level, enforced.version);
        if is_pod && !faults.is_empty() {
            let why = format!("violates PodSecurity {:?}: {}", enforced.shown, faults.join(", "));
            return Err(self.forbidden(object, &why));
        }
        let warned = pod_security::policy(&namespace, "warn");
        let faults = pod_security::faults(pod, warned.level, warned.version);
        if !faults.is_empty() {
            self.warnings.push(format!("would violate PodSecurity {:?}: {}", warned.shown, faults.join(", ")));
        }
        Ok(())
    }

    /// PodSecurity: labels of a namespace mean something, and whoever makes it stricter is told which pods would not fit.
    async fn pod_security_labels(&mut self, new: &Value, old: Option<&Value>) -> Outcome<()> {
        let faults = pod_security::label_faults(new);
        if !faults.is_empty() && old.is_none_or(|old| pod_security::label_faults(old) != faults) {
            return Err(Status::invalid("", "Namespace", meta::name(new), &faults));
        }
        let Some(old) = old else { return Ok(()) };
        let (now, before) = (pod_security::policy(new, "enforce"), pod_security::policy(old, "enforce"));
        let looser = now.version == before.version && now.level <= before.level;
        if now == before || looser || now.level == pod_security::Level::Privileged {
            return Ok(());
        }
        let mut by_reason: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
        for pod in self.of_namespace("pods", meta::name(new)).await? {
            let faults = pod_security::faults(&pod, now.level, now.version);
            if !faults.is_empty() {
                // The rules' names alone: where each is broken would be too much for many pods.
                let names = faults.iter().map(|fault| fault.split(" (").next().unwrap_or_default());
                let reason = names.collect::<Vec<_>>().join(", ");
                by_reason.entry(reason).or_default().push(meta::name(&pod).to_owned());
            }
        }
        if by_reason.is_empty() {
            return Ok(());
        }
        self.warnings.push(format!(
            "existing pods in namespace {:?} violate the new PodSecurity enforce level {:?}",
            meta::name(new),
            now.shown
        ));
        let mut lines: Vec<String> = by_reason
            .into_iter()
            .map(|(reason, mut pods)| {
                pods.sort();
                let first = pods.swap_remove(0);
                match pods.len() {
                    0 => format!("{first}: {reason}"),
                    1 => format!("{first} (and 1 other pod): {reason}"),
                    more => format!("{first} (and {more} other pods): {reason}"),
                }
            })
            .collect();
        lines.sort();
        self.warnings.append(&mut lines);
        Ok(())
    }

    /// CertificateApproval and CertificateSigning: who decides about a signer's certificates, and who gives them out, may do
    /// that for this signer.
    fn may_sign(&self, new: &Value, old: Option<&Value>, sub: &str) -> Outcome<()> {
        let field = |object: &Value, name: &str| object["status"].get(name).cloned();
        let failed = |object: &Value| {
            let conditions = meta::list_at(object, &["status", "conditions"]);
            conditions.iter().any(|condition| condition["type"] == "Failed")
        };
        let verb = match (sub, old) {
            ("approval", _) => "approve",
            ("status", Some(old))
                if field(new, "certificate") != field(old, "certificate") || failed(new) != failed(old) =>
            {
                "sign"
            }
            _ => return Ok(()),
        };
        let signer = meta::str_at(old.unwrap_or(new), &["spec", "signerName"]);
        if self.may_for_signer(verb, signer) {
            return Ok(());
        }
        Err(self.forbidden(new, &format!("user not permitted to {verb} requests with signerName {signer:?}")))
    }

    /// ClusterTrustBundleAttest: who says whom to trust for a signer's certificates may do that for this signer.
    fn may_attest(&self, new: &Value, old: Option<&Value>) -> Outcome<()> {
        let signer = meta::str_at(new, &["spec", "signerName"]);
        // Whoever cleans up after others' owners and finalizers changes nothing about trust.
        let same = old.is_some_and(|old| super::write::same_but_for_cleaning(new, old));
        if signer.is_empty() || same || self.may_for_signer("attest", signer) {
            return Ok(());
        }
        Err(self.forbidden(new, &format!("user not permitted to attest for signerName {signer:?}")))
    }

    fn may_for_signer(&self, verb: &str, signer: &str) -> bool {
        let whole = format!("{}/*", signer.split('/').next().unwrap_or_default());
        let view = self.api.rbac.view();
        let may = [signer, &whole].into_iter().any(|name| {
            let action = crate::authz::Action {
                verb: verb.into(),
                group: "certificates.k8s.io".into(),
                resource: "signers".into(),
                name: name.into(),
                ..Default::default()
            };
            view.allows(&self.user, &action).is_some()
        });
        may || self.user.is_master()
    }

    /// ResourceQuota: takes the room that the object needs, or says which quota has none.
    async fn reserve(&self, attributes: &Attributes<'_>, object: &Value) -> Outcome<Option<OwnedMutexGuard<()>>> {
        let (group, plural) = (self.resource.group.as_str(), self.resource.plural.as_str());
        let counts = |quota: &Value| {
            let mut entries = meta::map_at(quota, &["spec", "hard"]);
            entries.any(|(name, _)| quota::counted(name).is_some_and(|(g, p)| g == group && p == plural))
        };
        if !self.of_namespace("resourcequotas", attributes.namespace).await?.iter().any(|quota| counts(quota)) {
            return Ok(None);
        }
        let guard = self.api.quota.clone().lock_owned().await;
        let quotas = self.api.builtin("", "resourcequotas");
        let new = quota::usage(group, plural, object);
        let old = attributes.old.map(|old| quota::usage(group, plural, old)).unwrap_or_default();
        let mut takes = Vec::new();
        for quota in self.of_namespace("resourcequotas", attributes.namespace).await? {
            if !counts(&quota) {
                continue;
            }
            if !quota::covers(&quota, group, plural, object) {
                continue;
            }
            let name = meta::name(&quota).to_owned();
            if attributes.operation == Operation::Create && plural == "pods" {
                let missing = quota::unspecified(&quota, &new);
                if !missing.is_empty() {
                    let why = format!("failed quota: {name}: must specify {}", missing.join(","));
                    return Err(attributes.forbidden(&why));
                }
            }
            let more = quota::growth(&new, &old);
            let hard = quota::read(&quota["spec"]["hard"]);
            if !more.keys().any(|entry| hard.contains_key(entry)) {
                continue;
            }
            let fresh = quota["status"]["hard"] == quota["spec"]["hard"];
            let used = match fresh {
                true => quota::read(&quota["status"]["used"]),
                false => crate::controllers::quota_usage(&self.api, &quota).await?,
            };
            if let Some(over) = quota::check(&hard, &used, &more) {
                let why = format!(
                    "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                    over.requested, over.used, over.limited
                );
                return Err(attributes.forbidden(&why));
            }
            takes.push((name, hard, used, more));
        }
        if attributes.dry {
            return Ok(None);
        }
        for (name, hard, mut used, more) in takes {
            for (entry, amount) in more.iter().filter(|(entry, _)| hard.contains_key(*entry)) {
                let sum = used.get(entry).map_or(0, |used| used.nanos()) + amount.nanos();
                used.insert(entry.clone(), resources::quantity::Quantity::from_nanos(sum, amount.format));
            }
            let key = quotas.key(attributes.namespace, &name);
            let written = |quota: &mut Value| {
                quota["status"] = json!({"hard": quota["spec"]["hard"], "used": quota::to_value(&used)});
                true
            };
            self.api.modify(&key, written).await?;
        }
        Ok(Some(guard))
    }

    /// Admission of a subresource that is made, not kept (binding, eviction, token): its body is the object.
    pub(super) async fn admit_sub(&mut self, body: &mut Value, about: &Value, sub: &str) -> Outcome<()> {
        let (resource, user) = (self.resource.clone(), self.user.clone());
        let (namespace, name) = (self.path.namespace.clone(), self.path.name.clone());
        let place = (namespace.as_str(), name.as_str());
        if let Some(node) = node_restriction::node_of(&user) {
            let attributes = self.attributes(Operation::Create, (&resource, &user, sub), place, Some(about))?;
            if let Some(why) = node_restriction::refusal(node, &attributes, Some(body)) {
                return Err(attributes.forbidden(&why));
            }
        }
        let hooks = self.api.hooks.get();
        if hooks.mutating.is_empty() && hooks.validating.is_empty() {
            return Ok(());
        }
        let attributes = self.attributes(Operation::Create, (&resource, &user, sub), place, None)?;
        let refit = |_: &mut Value| Ok(());
        admission::mutate(&self.api, &attributes, body, &mut self.warnings, &refit).await?;
        admission::validate(&self.api, &attributes, Some(body), &mut self.warnings).await
    }

    /// Admission of a connection through the API: exec, attach, port-forward, proxy.
    pub(super) async fn admit_connect(&mut self) -> Outcome<()> {
        let (resource, user, sub) = (self.resource.clone(), self.user.clone(), self.path.subresource.clone());
        let (namespace, name) = (self.path.namespace.clone(), self.path.name.clone());
        let kind = resource.subresource(&sub).map_or("", |sub| sub.kind.as_str()).to_owned();
        let mut asked = json!({"kind": kind, "apiVersion": "v1"});
        for key in ["container", "path"] {
            if self.query.has(key) {
                asked[key] = self.query.get(key).into();
            }
        }
        for key in ["stdin", "stdout", "stderr", "tty"] {
            if self.query.has(key) {
                asked[key] = self.query.flag(key)?.into();
            }
        }
        let command: Vec<&str> = self.query.all("command").collect();
        if !command.is_empty() {
            asked["command"] = command.into();
        }
        let attributes = self.attributes(Operation::Connect, (&resource, &user, &sub), (&namespace, &name), None)?;
        let refit = |_: &mut Value| Ok(());
        admission::mutate(&self.api, &attributes, &mut asked, &mut self.warnings, &refit).await?;
        admission::validate(&self.api, &attributes, Some(&asked), &mut self.warnings).await
    }

    /// Admission of a delete: `old` is what would go.
    pub(super) async fn admit_delete(&mut self, old: &Value) -> Outcome<()> {
        let hooks = self.api.hooks.get();
        if !hooks.mutating.is_empty() {
            let mut gone = old.clone();
            self.mutate(Operation::Delete, &mut gone, Some(old), "").await?;
        }
        self.judge(Operation::Delete, None, Some(old), "").await.map(drop)
    }

    /// DefaultIngressClass: the class that is marked as such, if there is just one of them or one is newest.
    async fn default_ingress_class(&self, ingress: &mut Value) -> Outcome<()> {
        if !meta::str_at(ingress, &["metadata", "annotations", "kubernetes.io/ingress.class"]).is_empty() {
            return Ok(());
        }
        let classes = self.api.builtin("networking.k8s.io", "ingressclasses");
        let all = self.api.list_objects(&classes, "").await?;
        let annotation = ["metadata", "annotations", "ingressclass.kubernetes.io/is-default-class"];
        let defaults = all.iter().filter(|class| meta::str_at(class, &annotation) == "true");
        let newest = defaults.max_by_key(|class| {
            (meta::get(class, "creationTimestamp").to_owned(), std::cmp::Reverse(meta::name(class).to_owned()))
        });
        if let Some(class) = newest {
            ingress["spec"]["ingressClassName"] = meta::name(class).into();
        }
        Ok(())
    }

    /// PersistentVolumeClaimResize: only claims of classes that allow it may ask for more.
    async fn claim_may_grow(&self, new: &Value, old: &Value) -> Outcome<()> {
        let size = |claim: &Value| {
            let text = meta::str_at(claim, &["spec", "resources", "requests", "storage"]);
            resources::quantity::Quantity::parse(text).map_or(0, |size| size.nanos())
        };
        if size(new) <= size(old) || meta::str_at(old, &["status", "phase"]) != "Bound" {
            return Ok(());
        }
        let classes = self.api.builtin("storage.k8s.io", "storageclasses");
        let name = meta::str_at(old, &["spec", "storageClassName"]);
        let class = if name.is_empty() { None } else { self.api.get_object(&classes, "", name).await? };
        match class {
            Some((class, _)) if class["allowVolumeExpansion"] == true => Ok(()),
            _ => {
                let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
                Err(self.forbidden(new, why))
            }
        }
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
        match self.api.get_shared(&namespaces, "", name).await? {
            None => Err(Status::not_found("", "namespaces", name)),
            Some(namespace) if meta::is_terminating(&namespace) => {
                let why = format!("unable to create new content in namespace {name} because it is being terminated");
                let message = format!("namespace {name} is being terminated");
                Err(self.forbidden(object, &why).cause("NamespaceTerminating", message, "metadata.namespace"))
            }
            Some(_) => Ok(()),
        }
    }

    /// ServiceAccount, DefaultTolerationSeconds and Priority.
    async fn pod_defaults(&mut self, pod: &mut Value) -> Outcome<()> {
        // A mirror pod shows what its node runs already: it has no identity, and none is put into it.
        if meta::str_at(pod, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_empty() {
            self.service_account(pod).await?;
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
        self.runtime_class(pod).await?;
        self.priority(pod).await
    }

    async fn service_account(&mut self, pod: &mut Value) -> Outcome<()> {
        let namespace = meta::namespace(pod).to_owned();
        let name = match meta::str_at(pod, &["spec", "serviceAccountName"]) {
            "" => "default".to_owned(),
            name => name.to_owned(),
        };
        let accounts = self.api.builtin("", "serviceaccounts");
        let mut account = self.api.get_shared(&accounts, &namespace, &name).await?;
        if account.is_none() && name == "default" {
            // The controller may be a moment behind a new namespace.
            crate::controllers::ensure_service_account(&self.api, &namespace).await?;
            account = self.api.get_shared(&accounts, &namespace, &name).await?;
        }
        let Some(account) = account else {
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
        Ok(())
    }

    /// RuntimeClass: a pod pays its runtime's overhead and goes where the runtime is.
    async fn runtime_class(&self, pod: &mut Value) -> Outcome<()> {
        let name = meta::str_at(pod, &["spec", "runtimeClassName"]).to_owned();
        if name.is_empty() {
            return match pod["spec"].get("overhead") {
                Some(_) => Err(self.forbidden(
                    pod,
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
                )),
                None => Ok(()),
            };
        }
        let classes = self.api.builtin("node.k8s.io", "runtimeclasses");
        let Some((class, _)) = self.api.get_object(&classes, "", &name).await? else {
            return Err(self.forbidden(pod, &format!("pod rejected: RuntimeClass {name:?} not found")));
        };
        match (class["overhead"].get("podFixed"), pod["spec"].get("overhead")) {
            (Some(fixed), Some(given)) if fixed != given => {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return Err(self.forbidden(pod, why));
            }
            (Some(fixed), _) => pod["spec"]["overhead"] = fixed.clone(),
            (None, Some(_)) => {
                let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
                return Err(self.forbidden(pod, why));
            }
            (None, None) => {}
        }
        for (key, value) in meta::map_at(&class, &["scheduling", "nodeSelector"]) {
            let own =
                meta::object_at(pod, &["spec", "nodeSelector"]).entry(key.clone()).or_insert_with(|| value.clone());
            if own != value {
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
                );
                return Err(self.forbidden(pod, &why));
            }
        }
        for toleration in meta::list_at(&class, &["scheduling", "tolerations"]) {
            let list = meta::object_at(pod, &["spec"]).entry("tolerations").or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut().filter(|list| !list.contains(toleration)) {
                list.push(toleration.clone());
            }
        }
        Ok(())
    }

    async fn priority(&self, pod: &mut Value) -> Outcome<()> {
        let classes = self.api.builtin("scheduling.k8s.io", "priorityclasses");
        let name = meta::str_at(pod, &["spec", "priorityClassName"]).to_owned();
        let class = if name.is_empty() {
            let all = self.api.list_shared(&classes, "").await?;
            all.into_iter().filter(|class| class["globalDefault"] == true).min_by_key(|class| class["value"].as_i64())
        } else {
            match self.api.get_shared(&classes, "", &name).await? {
                Some(class) => Some(class),
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
        let other = self.resource.group != "rbac.authorization.k8s.io";
        if other || self.user.is_master() || vocab::weak::without("escalation") {
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
