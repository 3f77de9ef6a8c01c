//! What makes the API usable by itself: namespaces end, owners take their dependents along, every namespace has its
//! service account and the authority's certificate, roles and definitions take effect, certificate requests are answered,
//! history is trimmed.

use std::sync::Arc;
use std::time::Duration;

use resources::{Value, crd, meta};
use serde_json::json;
use store::{Span, WatchRequest};

use crate::api::{Api, Created, Outcome, new_uid, now, store_error};
use crate::catalog::{Catalog, Resource, Subresource};
use crate::deletion::{self, Options};

/// Runs all of them until the server stops.
pub fn start(api: &Arc<Api>, authority: Arc<crate::pki::Authority>, signing_lifetime: Duration) {
    run(api, "rbac", follow_rbac);
    run(api, "crd", follow_definitions);
    run(api, "webhooks", follow_hooks);
    run(api, "quotas", follow_quotas);
    run(api, "protection", follow_protected);
    run(api, "namespaces", follow_namespaces);
    run(api, "garbage", crate::garbage::collect);
    run(api, "certificates", move |api| crate::certificates::follow(api, authority.clone(), signing_lifetime));
    run(api, "compaction", compact);
}

/// One controller. A store that is away for a while ends its work and not the controller: it begins anew, from what there
/// is then.
fn run<F, Fut>(api: &Arc<Api>, name: &'static str, task: F)
where
    F: Fn(Arc<Api>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome<()>> + Send,
{
    const PAUSE: Duration = Duration::from_millis(500);
    let (api, stopping) = (api.clone(), api.stopping.clone());
    tokio::spawn(async move {
        let work = async {
            while let Err(status) = task(api.clone()).await {
                tracing::warn!(controller = name, message = status.message, "a controller begins anew");
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            biased;
            () = work => {}
            () = stopping.cancelled() => {}
        }
    });
}

/// Calls `work` at once and again after every change below `prefix`; changes that come together are one call.
async fn on_change<F, Fut>(api: &Arc<Api>, prefix: &str, mut work: F) -> Outcome<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Outcome<()>>,
{
    loop {
        let request = WatchRequest { span: Span::prefix(prefix.to_owned()), start: 0 };
        let mut watch = api.store.watch(request).await.map_err(store_error)?;
        loop {
            if let Err(status) = work().await {
                tracing::warn!(prefix, message = status.message, "a controller will try again");
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
            if watch.next().await.is_err() {
                break;
            }
        }
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

pub async fn load_rbac(api: &Api) -> Outcome<()> {
    let list = |plural: &'static str| async move { api.list_objects(&api.builtin(RBAC, plural), "").await };
    let (roles, cluster_roles) = (list("roles").await?, list("clusterroles").await?);
    let (bindings, cluster_bindings) = (list("rolebindings").await?, list("clusterrolebindings").await?);
    let view = crate::authz::View::new(&roles, &cluster_roles, &bindings, &cluster_bindings);
    // A role that collects others shows people what it collects.
    let resource = api.builtin(RBAC, "clusterroles");
    for role in cluster_roles.iter().filter(|role| role.get("aggregationRule").is_some()) {
        let mut rules: Vec<Value> = Vec::new();
        for rule in view.rules_of("", "ClusterRole", meta::name(role)) {
            let rule = rule.to_value();
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        let same = meta::list_at(role, &["rules"]).len() == rules.len()
            && rules.iter().all(|rule| meta::list_at(role, &["rules"]).contains(rule));
        if !same {
            let wanted = Value::from(rules);
            api.modify(&resource.key("", meta::name(role)), |role| {
                role["rules"] = wanted.clone();
                true
            })
            .await?;
        }
    }
    api.rbac.set(view);
    Ok(())
}

const ADMISSION: &str = "admissionregistration.k8s.io";

pub async fn load_hooks(api: &Api) -> Outcome<()> {
    let list = |plural: &'static str| async move { api.list_objects(&api.builtin(ADMISSION, plural), "").await };
    let mutating = list("mutatingwebhookconfigurations").await?;
    let validating = list("validatingwebhookconfigurations").await?;
    api.hooks.set(crate::admission::hooks::Hooks::new(&mutating, &validating));
    Ok(())
}

async fn follow_hooks(api: Arc<Api>) -> Outcome<()> {
    on_change(&api, "/registry/admissionregistration.k8s.io/", || load_hooks(&api)).await
}

/// What the objects of a quota's namespace use of it.
pub async fn quota_usage(api: &Api, quota: &Value) -> Outcome<crate::admission::quota::Usage> {
    let mut counted: Vec<(String, String)> =
        meta::map_at(quota, &["spec", "hard"]).filter_map(|(name, _)| crate::admission::quota::counted(name)).collect();
    counted.sort();
    counted.dedup();
    let mut objects = Vec::new();
    for (group, plural) in counted {
        let Some(resource) = api.catalog().preferred(&group, &plural).cloned() else { continue };
        let listed = api.list_objects(&resource, meta::namespace(quota)).await?;
        objects.extend(listed.into_iter().map(|object| (group.clone(), plural.clone(), object)));
    }
    Ok(crate::admission::quota::sum(&objects, quota))
}

/// Keeps the status of quotas true. While there are any, every change may concern one.
async fn follow_quotas(api: Arc<Api>) -> Outcome<()> {
    let quotas = api.builtin("", "resourcequotas");
    loop {
        let request = WatchRequest { span: Span::prefix("/registry/".to_owned()), start: 0 };
        let mut changes = api.store.watch(request).await.map_err(store_error)?;
        loop {
            let all = api.list_objects(&quotas, "").await?;
            for quota in &all {
                let _guard = api.quota.lock().await;
                let used = crate::admission::quota::to_value(&quota_usage(&api, quota).await?);
                let key = quotas.key(meta::namespace(quota), meta::name(quota));
                api.modify(&key, |quota| {
                    let status = json!({"hard": quota["spec"]["hard"], "used": used});
                    let changed = quota["status"] != status;
                    quota["status"] = status;
                    changed
                })
                .await?;
            }
            if !all.is_empty() {
                // Changes that come together are counted once.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if changes.next().await.is_err() {
                break;
            }
        }
    }
}

/// Lets claims and volumes go that nobody uses any more.
async fn follow_protected(api: Arc<Api>) -> Outcome<()> {
    let (claims, volumes, pods) =
        (api.builtin("", "persistentvolumeclaims"), api.builtin("", "persistentvolumes"), api.builtin("", "pods"));
    loop {
        let request = WatchRequest { span: Span::prefix("/registry/core/p".to_owned()), start: 0 };
        let mut changes = api.store.watch(request).await.map_err(store_error)?;
        loop {
            for claim in &terminating(&api, &claims).await? {
                let name = meta::name(claim);
                let namespace = meta::namespace(claim);
                let used = api.list_objects(&pods, namespace).await?.iter().any(|pod| {
                    let ended = matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed");
                    let volumes = meta::list_at(pod, &["spec", "volumes"]);
                    let named = volumes.iter().any(|volume| {
                        volume["persistentVolumeClaim"]["claimName"] == name
                            || volume.get("ephemeral").is_some()
                                && volume["name"]
                                    .as_str()
                                    .is_some_and(|own| name == format!("{}-{own}", meta::name(pod)))
                    });
                    named && !ended
                });
                if !used {
                    release(&api, &claims.key(namespace, name), "kubernetes.io/pvc-protection").await?;
                }
            }
            for volume in &terminating(&api, &volumes).await? {
                if meta::str_at(volume, &["status", "phase"]) != "Bound" {
                    release(&api, &volumes.key("", meta::name(volume)), "kubernetes.io/pv-protection").await?;
                }
            }
            if changes.next().await.is_err() {
                break;
            }
        }
    }
}

/// Objects that are being deleted; the others are not even read.
async fn terminating(api: &Api, resource: &Resource) -> Outcome<Vec<Value>> {
    const MARK: &[u8] = b"\"deletionTimestamp\"";
    let request = store::RangeRequest::newest(Span::prefix(resource.prefix.clone()));
    let reply = api.store.range(request).await.map_err(store_error)?;
    let marked = reply.kvs.iter().filter(|kv| kv.value.windows(MARK.len()).any(|part| part == MARK));
    Ok(marked.map(|kv| crate::codec::decode(&kv.value)).filter(meta::is_terminating).collect())
}

/// Takes a finalizer off an object that is being deleted, and the object away if that was the last one.
async fn release(api: &Api, key: &str, finalizer: &str) -> Outcome<()> {
    loop {
        let Some(kv) = api.get_kv(key).await? else { return Ok(()) };
        let mut object = crate::codec::decode(&kv.value);
        let mut finalizers = meta::finalizers(&object);
        let before = finalizers.len();
        finalizers.retain(|name| name != finalizer);
        if finalizers.len() == before {
            return Ok(());
        }
        let done = match finalizers.is_empty() {
            true => api.delete_at(key, kv.mod_revision).await?,
            false => {
                meta::set_finalizers(&mut object, finalizers);
                api.put_over(key, &object, kv.mod_revision).await?.is_some()
            }
        };
        if done {
            return Ok(());
        }
    }
}

async fn follow_rbac(api: Arc<Api>) -> Outcome<()> {
    on_change(&api, "/registry/rbac.authorization.k8s.io/", || load_rbac(&api)).await
}

/// Puts the resources of all definitions into the catalog.
pub async fn load_definitions(api: &Api) -> Outcome<()> {
    let definitions = api.builtin("apiextensions.k8s.io", "customresourcedefinitions");
    let mut catalog = Catalog::builtin();
    let mut all = api.list_objects(&definitions, "").await?;
    let mut changed = Vec::new();
    for at in 0..all.len() {
        let mut now = all[at].clone();
        if establish(&mut now, &all) {
            changed.push(definitions.key("", meta::name(&now)));
            all[at] = now;
        }
        if !meta::is_terminating(&all[at]) && is_established(&all[at]) {
            add_custom(&mut catalog, &all[at]);
        }
    }
    api.set_catalog(catalog);
    // Said when it is so: who has waited for a definition to be established uses it at once.
    for key in changed {
        api.modify(&key, |object| establish(object, &all)).await?;
    }
    // Definitions that are being deleted go when their objects have gone.
    for definition in all.iter().filter(|definition| meta::is_terminating(definition)) {
        finish_definition(api, &definitions, definition).await?;
    }
    Ok(())
}

fn is_established(definition: &Value) -> bool {
    let conditions = meta::list_at(definition, &["status", "conditions"]);
    conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

fn add_custom(catalog: &mut Catalog, definition: &Value) {
    let spec = &definition["spec"];
    let text = |path: &[&str]| meta::str_at(spec, path).to_owned();
    let words = |field: &str| -> Vec<String> {
        let accepted = meta::list_at(&definition["status"]["acceptedNames"], &[field]);
        accepted.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let group = text(&["group"]);
    let plural = text(&["names", "plural"]);
    // Names that another definition has are not served, whatever is asked for.
    let accepted = &definition["status"]["acceptedNames"];
    let name = |field: &str| meta::str_at(accepted, &[field]).to_owned();
    let versions = crd::versions(definition);
    let Some(stored) = versions.iter().find(|version| version.storage).map(|version| version.name.clone()) else {
        return;
    };
    for version in versions.into_iter().filter(|version| version.served) {
        if catalog.resource(&group, &version.name, &plural).is_some() {
            continue;
        }
        let mut subresources = Vec::new();
        let usual = || ["get", "patch", "update"].map(str::to_owned).to_vec();
        if version.has_status {
            subresources.push(Subresource {
                name: "status".into(),
                group: String::new(),
                version: String::new(),
                kind: name("kind"),
                verbs: usual(),
            });
        }
        if version.scale.is_some() {
            subresources.push(Subresource {
                name: "scale".into(),
                group: "autoscaling".into(),
                version: "v1".into(),
                kind: "Scale".into(),
                verbs: usual(),
            });
        }
        let resource = Resource {
            group: group.clone(),
            version: version.name.clone(),
            plural: plural.clone(),
            singular: name("singular"),
            kind: name("kind"),
            list_kind: name("listKind"),
            namespaced: spec["scope"] == "Namespaced",
            verbs: resources::facts::USUAL_VERBS.map(str::to_owned).to_vec(),
            short_names: words("shortNames"),
            categories: words("categories"),
            subresources,
            node: version.node.clone(),
            prefix: format!("/registry/{group}/{plural}/"),
            stored_as: (crate::catalog::api_version(&group, &stored), name("kind")),
            strategy: resources::kinds::Strategy::PLAIN,
            custom: Some(Arc::new(version.clone())),
        };
        catalog.add(&group, &version.name, vec![Arc::new(resource)]);
    }
}

/// Says in a definition's status whether it is in effect, and under which names; answers whether that changed anything.
fn establish(object: &mut Value, all: &[Value]) -> bool {
    use resources::kinds::conditions_set as set;
    let (before, time) = (object.clone(), jiff::Timestamp::now());
    let names = crd::accept(object, all);
    match &names.conflict {
        None => set(object, "NamesAccepted", "True", "NoConflicts", "no conflicts found", time),
        Some((reason, message)) => set(object, "NamesAccepted", "False", reason, message, time),
    }
    // What was in effect stays so under the names that it had.
    if !is_established(object) {
        match names.conflict {
            None => {
                let message = "the initial names have been accepted";
                set(object, "Established", "True", "InitialNamesAccepted", message, time);
            }
            Some(_) => set(object, "Established", "False", "NotAccepted", "not all names are accepted", time),
        }
    }
    object["status"]["acceptedNames"] = names.accepted;
    let versions = meta::list_at(object, &["spec", "versions"]).iter().find(|version| version["storage"] == true);
    let stored = versions.map(|version| version["name"].clone()).unwrap_or(Value::Null);
    let known = meta::object_at(object, &["status"]).entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(known) = known.as_array_mut()
        && !known.contains(&stored)
    {
        known.push(stored);
    }
    let mut finalizers = meta::finalizers(object);
    if !meta::is_terminating(object) && !finalizers.iter().any(|name| name == CLEANUP) {
        finalizers.push(CLEANUP.into());
        meta::set_finalizers(object, finalizers);
    }
    *object != before
}

async fn finish_definition(api: &Api, definitions: &Resource, definition: &Value) -> Outcome<()> {
    let spec = &definition["spec"];
    let prefix = format!("/registry/{}/{}/", meta::str_at(spec, &["group"]), meta::str_at(spec, &["names", "plural"]));
    // Its objects: their finalizers no longer have an API to be removed through, so they go with it.
    let txn = store::Txn::new().then(store::Op::Delete(store::Delete { span: Span::prefix(prefix) }));
    api.store.txn(txn).await.map_err(store_error)?;
    let key = definitions.key("", meta::name(definition));
    let Some((object, revision)) = api.get_object(definitions, "", meta::name(definition)).await? else {
        return Ok(());
    };
    let mut finalizers = meta::finalizers(&object);
    finalizers.retain(|name| name != CLEANUP);
    if finalizers.is_empty() {
        api.delete_at(&key, revision).await?;
    } else {
        api.modify(&key, |object| {
            meta::set_finalizers(object, finalizers.clone());
            true
        })
        .await?;
    }
    Ok(())
}

async fn follow_definitions(api: Arc<Api>) -> Outcome<()> {
    on_change(&api, "/registry/apiextensions.k8s.io/customresourcedefinitions/", || load_definitions(&api)).await
}

async fn follow_namespaces(api: Arc<Api>) -> Outcome<()> {
    let namespaces = api.builtin("", "namespaces");
    loop {
        let request = WatchRequest { span: Span::prefix(namespaces.prefix.clone()), start: 0 };
        let mut changes = api.store.watch(request).await.map_err(store_error)?;
        loop {
            let mut left = false;
            for namespace in api.list_objects(&namespaces, "").await? {
                let outcome = match meta::is_terminating(&namespace) {
                    true => empty_namespace(&api, &namespaces, &namespace).await.map(|done| left |= !done),
                    false => ensure_namespace(&api, meta::name(&namespace)).await,
                };
                if let Err(status) = outcome {
                    tracing::warn!(
                        namespace = meta::name(&namespace),
                        message = status.message,
                        "namespace controller"
                    );
                    left = true;
                }
            }
            // Objects with finalizers keep a namespace waiting; look again soon.
            let next = match left {
                true => match tokio::time::timeout(Duration::from_millis(200), changes.next()).await {
                    Ok(next) => next,
                    Err(_) => continue,
                },
                false => changes.next().await,
            };
            if next.is_err() {
                break;
            }
        }
    }
}

async fn ensure_namespace(api: &Api, namespace: &str) -> Outcome<()> {
    ensure_service_account(api, namespace).await?;
    let maps = api.builtin("", "configmaps");
    let wanted = json!({"ca.crt": api.keys.ca_pem});
    match api.get_object(&maps, namespace, "kube-root-ca.crt").await? {
        Some((map, _)) if map["data"] == wanted => Ok(()),
        Some(_) => {
            let key = maps.key(namespace, "kube-root-ca.crt");
            api.modify(&key, |map| {
                map["data"] = wanted.clone();
                true
            })
            .await
            .map(drop)
        }
        None => {
            let annotation = json!({"kubernetes.io/description":
                "The certificate of this cluster's own authority, for clients inside it."});
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": wanted,
                "metadata": {"name": "kube-root-ca.crt", "namespace": namespace, "annotations": annotation}});
            make(api, &maps, map).await
        }
    }
}

pub async fn ensure_service_account(api: &Api, namespace: &str) -> Outcome<()> {
    let accounts = api.builtin("", "serviceaccounts");
    if api.get_kv(&accounts.key(namespace, "default")).await?.is_some() {
        return Ok(());
    }
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": namespace}});
    make(api, &accounts, account).await
}

/// Makes an object of ours unless it is there. Only in namespaces that exist.
pub async fn make(api: &Api, resource: &Resource, mut object: Value) -> Outcome<()> {
    meta::set(&mut object, "uid", new_uid());
    meta::set(&mut object, "creationTimestamp", now());
    if resource.strategy.generation {
        meta::set(&mut object, "generation", 1);
    }
    (resource.strategy.default)(&mut object);
    (resource.strategy.prepare_create)(&mut object);
    let writer = resources::apply::Writer {
        operation: resources::apply::Operation::Update,
        manager: "knarr".into(),
        api_version: resource.api_version(),
        subresource: String::new(),
    };
    let reset = resources::apply::Set::default();
    resources::apply::update(None, &mut object, &resource.node, &writer, &reset, &now());
    let (namespace, name) = (meta::namespace(&object).to_owned(), meta::name(&object).to_owned());
    let present = match resource.namespaced {
        true => vec![api.builtin("", "namespaces").key("", &namespace)],
        false => Vec::new(),
    };
    match api.put_new(&resource.key(&namespace, &name), &object, &present, 0, None).await? {
        Created::Yes(_) | Created::Exists | Created::Orphan | Created::Crowded => Ok(()),
    }
}

/// Deletes what is in a namespace, then the namespace; answers whether it is done.
async fn empty_namespace(api: &Arc<Api>, namespaces: &Resource, namespace: &Value) -> Outcome<bool> {
    let name = meta::name(namespace);
    let mut left = 0;
    let mut held: Vec<String> = Vec::new();
    for resource in api.catalog().stored().iter().filter(|resource| resource.namespaced) {
        for object in api.list_objects(resource, name).await? {
            let key = resource.key(name, meta::name(&object));
            let options = Options { policy: Some(deletion::Policy::Background), ..Options::default() };
            if meta::is_terminating(&object) {
                left += 1;
                held.extend(meta::finalizers(&object));
                continue;
            }
            if let deletion::Deleted::Waiting(object) = deletion::delete(api, resource, &key, &options).await? {
                left += 1;
                held.extend(meta::finalizers(&object));
            }
        }
    }
    let key = namespaces.key("", name);
    if left > 0 {
        held.sort();
        held.dedup();
        let (remaining, message) = match held.is_empty() {
            true => ("False", "All content-preserving finalizers finished".to_owned()),
            false => ("True", format!("Some content in the namespace has finalizers remaining: {}", held.join(", "))),
        };
        let reason = if held.is_empty() { "ContentHasNoFinalizers" } else { "SomeFinalizersRemain" };
        api.modify(&key, |namespace| {
            let before = namespace.clone();
            let time = client::now();
            resources::kinds::conditions_set(
                namespace,
                "NamespaceFinalizersRemaining",
                remaining,
                reason,
                &message,
                time,
            );
            let more = format!("Some resources are remaining: {left}");
            resources::kinds::conditions_set(
                namespace,
                "NamespaceContentRemaining",
                "True",
                "SomeResourcesRemain",
                &more,
                time,
            );
            *namespace != before
        })
        .await?;
        return Ok(false);
    }
    let Some((mut object, revision)) = api.get_object(namespaces, "", name).await? else { return Ok(true) };
    let finalizers: Vec<Value> =
        meta::list_at(&object, &["spec", "finalizers"]).iter().filter(|name| *name != "kubernetes").cloned().collect();
    if finalizers.is_empty() && meta::finalizers(&object).is_empty() {
        return api.delete_at(&key, revision).await;
    }
    object["spec"]["finalizers"] = finalizers.into();
    api.put_over(&key, &object, revision).await?;
    Ok(true)
}

/// Forgets history older than some minutes, and earlier when there is much of it.
async fn compact(api: Arc<Api>) -> Outcome<()> {
    const EVERY: Duration = Duration::from_secs(300);
    loop {
        let before = api.store.revision().await.map_err(store_error)?;
        tokio::time::sleep(EVERY).await;
        match api.store.compact(before).await {
            Ok(()) | Err(store::StoreError::Compacted { .. }) => {}
            Err(error) => tracing::warn!(%error, "compact the store"),
        }
    }
}
