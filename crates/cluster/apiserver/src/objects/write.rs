//! create, update, patch and apply. All end in one transaction that holds only if nobody wrote in between.

use std::sync::LazyLock;

use http::Response;
use resources::apply::{self, ApplyError, Set, Writer};
use resources::decode::Parsed;
use resources::kinds::{Faults, validate_finalizers, validate_meta, validate_meta_update};
use resources::patch::{self, PatchError};
use resources::{FieldError, Status, Value, crd, decode, meta};

use super::Call;
use super::admission::Held;
use super::decode::{parse, parse_yaml};
use crate::admission::Operation;
use crate::allocated::{Others, Reserved};
use crate::api::{Created, Outcome, name_suffix, new_uid, now, store_error};
use crate::catalog::Resource;
use crate::{codec, convert};
use client::Body;
use store::Span;

/// How often a write is tried again when others write the same object in between.
const RACES_MAX: usize = 100;
/// How often a generated name is tried again when it is taken.
const NAMES_MAX: usize = 8;

/// What turns the current object into the new one.
pub(super) enum Change {
    Replace(Value),
    Patch { kind: PatchKind, patch: Parsed },
    Apply { config: Value, force: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchKind {
    Json,
    Merge,
    Strategic,
}

const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl Call {
    fn invalid(&self, name: &str, faults: &[FieldError]) -> Status {
        Status::invalid(&self.resource.group, &self.resource.kind, name, faults)
    }

    /// Fields that this endpoint does not write.
    fn reset(&self, sub: &str) -> &'static Set {
        const OF_STATUS: [&str; 4] = ["spec", "metadata.labels", "metadata.ownerReferences", "metadata.finalizers"];
        const OF_APPROVAL: [&str; 2] = ["spec", "status.certificate"];
        static SETS: LazyLock<[Set; 4]> = LazyLock::new(|| {
            let [status, approval] = [OF_STATUS.as_slice(), &OF_APPROVAL].map(Set::of_fields);
            [Set::default(), Set::of_fields(&["status"]), status, approval]
        });
        match sub {
            "approval" => &SETS[3],
            "status" => &SETS[2],
            _ if self.resource.has_status() => &SETS[1],
            _ => &SETS[0],
        }
    }

    fn writer(&self, operation: apply::Operation, sub: &str) -> Outcome<Writer> {
        let api_version = self.resource.api_version();
        Ok(Writer { operation, manager: self.manager()?, api_version, subresource: sub.to_owned() })
    }

    pub(super) async fn create(&mut self) -> Outcome<Response<Body>> {
        if self.resource.group.is_empty() && self.resource.plural == "bindings" {
            return self.bind_named().await;
        }
        let object = self.body_object()?;
        if !self.path.name.is_empty() {
            return Err(self.not_supported());
        }
        self.create_object(object, None).await
    }

    /// Makes an object; `applied` are the books of an apply, which has none of its own to keep.
    pub(super) async fn create_object(&mut self, mut object: Value, applied: Option<()>) -> Outcome<Response<Body>> {
        let dry = self.dry_run()?;
        self.place(&mut object)?;
        if !meta::resource_version(&object).is_empty() {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let generate = meta::get(&object, "generateName").to_owned();
        let generated = meta::name(&object).is_empty() && !generate.is_empty();
        let before = self.warnings.len();
        for attempt in 0..RACES_MAX {
            let again = generated || self.is_crowdable();
            let mut object = if again { object.clone() } else { std::mem::take(&mut object) };
            if generated {
                let base: String = generate.chars().take(58).collect();
                meta::set(&mut object, "name", format!("{base}{}", name_suffix()));
            }
            let prepared = self.prepare_new(&mut object, applied.is_some()).await?;
            if dry {
                let bytes = serde_json::to_vec(&object).expect("trees always encode");
                let name = meta::name(&object);
                let key = self.resource.key(meta::namespace(&object), name);
                if self.api.get_kv(&key).await?.is_some() {
                    return Err(Status::already_exists(&self.resource.group, &self.resource.plural, name));
                }
                return Ok(self.respond_raw(201, bytes.into()));
            }
            let (namespace, name) = (meta::namespace(&object).to_owned(), meta::name(&object).to_owned());
            let key = self.resource.key(&namespace, &name);
            convert::store_value(&self.api, &mut object, &self.resource).await?;
            let lease =
                if self.resource.prefix == "/registry/core/events/" { self.api.event_lease().await? } else { 0 };
            let present: Vec<String> = match self.resource.namespaced {
                true => vec![self.api.builtin("", "namespaces").key("", &namespace)],
                false => Vec::new(),
            };
            let outcome = self.api.put_new(&key, &object, &present, lease, prepared.guard()).await?;
            drop(prepared);
            if matches!(outcome, Created::Yes(_)) {
                self.take_effect().await?;
            }
            match outcome {
                Created::Yes(stored) => return self.respond(201, stored).await,
                Created::Orphan => return Err(Status::not_found("", "namespaces", &namespace)),
                Created::Exists if generated && attempt + 1 < NAMES_MAX => {}
                Created::Crowded if attempt + 1 < RACES_MAX => self.warnings.truncate(before),
                Created::Crowded => return Err(self.crowded()),
                Created::Exists => {
                    return Err(Status::already_exists(&self.resource.group, &self.resource.plural, &name));
                }
            }
        }
        unreachable!("the last attempt answers")
    }

    /// A response for bytes that are in the version asked for already.
    fn respond_raw(&self, code: u16, bytes: bytes::Bytes) -> Response<Body> {
        crate::respond::object(&self.resource, code, bytes, self.wanted, self.query.get("includeObject"))
    }

    /// Puts the object into the namespace of the path, or says that it wants another.
    fn place(&self, object: &mut Value) -> Outcome<()> {
        meta::object_at(object, &["metadata"]);
        if !self.resource.namespaced {
            return Ok(());
        }
        match meta::namespace(object) {
            "" => meta::set(object, "namespace", self.path.namespace.as_str()),
            namespace if namespace == self.path.namespace => {}
            _ => {
                let message = "the namespace of the provided object does not match the namespace sent on the request";
                return Err(Status::bad_request(message));
            }
        }
        Ok(())
    }

    /// Everything between decoding and storing a new object. The guard answered is to be held until it is stored.
    async fn prepare_new(&mut self, object: &mut Value, applied: bool) -> Outcome<Held> {
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
            meta::unset(object, field);
        }
        meta::set(object, "uid", new_uid());
        meta::set(object, "creationTimestamp", now());
        let strategy = self.resource.strategy;
        if strategy.generation || self.resource.custom.is_some() {
            meta::set(object, "generation", 1);
        } else {
            meta::unset(object, "generation");
        }
        if self.resource.has_status() && !strategy.status_on_create {
            object.as_object_mut().map(|map| map.remove("status"));
        }
        self.default(object);
        self.admit_create(object).await?;
        (strategy.prepare_create)(object);
        if !applied {
            let writer = self.writer(apply::Operation::Update, "")?;
            let reset = self.reset("");
            meta::unset(object, "managedFields");
            apply::update(None, object, &self.resource.node, &writer, reset, &now());
        }
        self.check(object, None, "")?;
        let quota = self.judge(Operation::Create, Some(object), None, "").await?;
        let allocation = self.allocate(object).await?;
        Ok(Held { _room: quota, addresses: allocation })
    }

    fn default(&self, object: &mut Value) {
        default_of(&self.resource, object);
    }

    /// Rules that this server follows from memory hold from the answer on, not a moment later.
    pub(super) async fn take_effect(&self) -> Outcome<()> {
        match self.resource.group.as_str() {
            _ if self.query.has("dryRun") => Ok(()),
            "admissionregistration.k8s.io" => crate::controllers::load_hooks(&self.api).await,
            "rbac.authorization.k8s.io" => crate::controllers::load_rbac(&self.api).await,
            _ => Ok(()),
        }
    }

    /// Validation; with `old`, of an update.
    fn check(&self, object: &Value, old: Option<&Value>, sub: &str) -> Outcome<()> {
        let mut faults = Faults::default();
        let strategy = &self.resource.strategy;
        validate_meta(object, self.resource.namespaced, strategy.name, &mut faults);
        if self.resource.custom.is_none() && self.resource.group != "apiextensions.k8s.io" {
            validate_finalizers(object, &mut faults);
        }
        if let Some(old) = old {
            validate_meta_update(object, old, &mut faults);
        }
        match &self.resource.custom {
            Some(custom) => crd::validate(object, old, &custom.node, &mut faults),
            // The rest stays as it was, and is not judged by rules that came later.
            None if sub == "status" && !self.is_signing_request() => {}
            None => (strategy.validate)(object, &mut faults),
        }
        if let Some(old) = old.filter(|_| sub == "status") {
            strategy.judge_status(object, old, &mut faults);
        }
        if self.resource.group == "apiextensions.k8s.io" {
            crd::validate_definition(object, &mut faults);
        }
        if let Some(old) = old.filter(|_| matches!(sub, "" | "scale")) {
            (strategy.validate_update)(object, old, &mut faults);
        }
        if let Some(old) = old.filter(|_| self.is_signing_request()) {
            resources::kinds::signing_request_stays(object, old, sub, &mut faults);
        }
        if let Some(old) = old.filter(|_| sub == "ephemeralcontainers") {
            resources::kinds::ephemeral_containers_stay(object, old, &mut faults);
        }
        match faults.0.is_empty() {
            true => Ok(()),
            false => Err(self.invalid(meta::name(object), &faults.0)),
        }
    }

    fn crowded(&self) -> Status {
        let mut status = Status::new(503, "ServiceUnavailable", "other servers keep on taking addresses and ports");
        status.retry_after_secs = 1;
        status
    }

    /// Whether other servers may take what this write would.
    fn is_crowdable(&self) -> bool {
        self.is_service() && self.api.store.is_shared()
    }

    fn is_service(&self) -> bool {
        self.resource.group.is_empty() && self.resource.plural == "services"
    }

    /// Addresses and ports of a service.
    async fn allocate(&self, object: &mut Value) -> Outcome<Option<Reserved>> {
        if !self.is_service() {
            return Ok(None);
        }
        let pick = u32::from_le_bytes(crate::api::random());
        let range = self.api.service_range;
        let key = self.resource.key(meta::namespace(object), meta::name(object));
        let span = Span::prefix(self.resource.collection(""));
        let choose = |service: &mut Value, others: Others<'_>| crate::services::allocate(service, others, range, pick);
        let reserved = self.api.allocated.reserve(&*self.api.store, span, key, object, choose).await;
        let reserved = reserved.map_err(store_error)?;
        Ok(Some(reserved.map_err(|error| self.invalid(meta::name(object), &[error]))?))
    }

    pub(super) async fn update(&mut self, sub: &str) -> Outcome<Response<Body>> {
        let object = self.body_object()?;
        self.write_over(Change::Replace(object), sub).await
    }

    pub(super) async fn patch(&mut self, sub: &str) -> Outcome<Response<Body>> {
        let kind = match self.content_type.as_str() {
            "application/json-patch+json" => PatchKind::Json,
            "application/merge-patch+json" => PatchKind::Merge,
            "application/strategic-merge-patch+json" if self.resource.custom.is_none() => PatchKind::Strategic,
            "application/apply-patch+yaml" => return self.apply(sub).await,
            _ => {
                let accepted: &[&str] = match self.resource.custom {
                    Some(_) => &[PATCH_TYPES[0], PATCH_TYPES[1], PATCH_TYPES[3]],
                    None => &PATCH_TYPES,
                };
                return Err(Status::unsupported_media_type(accepted));
            }
        };
        if self.query.has("force") {
            let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
            return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]));
        }
        let patch = decode::parse_json(&self.body)
            .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
        self.write_over(Change::Patch { kind, patch }, sub).await
    }

    async fn apply(&mut self, sub: &str) -> Outcome<Response<Body>> {
        if self.query.get("fieldManager").is_empty() {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]));
        }
        let force = self.query.flag("force")?;
        let parsed = parse_yaml(&self.body)?;
        if meta::str_at(&parsed.value, &["kind"]).is_empty() || meta::str_at(&parsed.value, &["apiVersion"]).is_empty()
        {
            return Err(Status::bad_request("Object 'Kind' is missing in the applied configuration"));
        }
        let resource = self.resource.clone();
        let config = self.fit(parsed, &resource)?;
        self.write_over(Change::Apply { config, force }, sub).await
    }

    /// Reads, changes, checks and writes one object, again if somebody else wrote it meanwhile.
    pub(super) async fn write_over(&mut self, change: Change, sub: &str) -> Outcome<Response<Body>> {
        let key = self.resource.key(&self.path.namespace, &self.path.name);
        let dry = self.dry_run()?;
        for _ in 0..RACES_MAX {
            let Some(kv) = self.api.get_kv(&key).await? else {
                return self.write_missing(change, sub).await;
            };
            let mut old = codec::decode(&kv.value);
            convert::show_value(&self.api, &mut old, &self.resource).await?;
            let before = self.warnings.len();
            let (mut new, pinned) = self.changed(&change, &old, sub)?;
            self.identify(&change, &mut new, &old)?;
            self.prepare_over(&mut new, &old, sub);
            self.default(&mut new);
            self.admit_update(&mut new, &old, sub).await?;
            if !matches!(change, Change::Apply { .. }) {
                let writer = self.writer(apply::Operation::Update, sub)?;
                apply::update(Some(&old), &mut new, &self.resource.node, &writer, self.reset(sub), &now());
            }
            let allocation = if sub.is_empty() { self.allocate(&mut new).await? } else { None };
            self.check(&new, Some(&old), sub)?;
            let quota = self.judge(Operation::Update, Some(&new), Some(&old), sub).await?;
            let held = Held { _room: quota, addresses: allocation };
            let guard = held.guard();
            if same_but_books_time(&new, &old) {
                return self.respond(200, kv.value).await;
            }
            if dry {
                let bytes = serde_json::to_vec(&new).expect("trees always encode");
                return Ok(self.respond_raw(200, bytes.into()));
            }
            convert::store_value(&self.api, &mut new, &self.resource).await?;
            let ended = meta::is_terminating(&new)
                && meta::finalizers(&new).is_empty()
                && meta::at(&new, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0)
                    == 0
                && !(self.resource.plural == "namespaces" && has_spec_finalizers(&new));
            let written = match ended {
                // The last finalizer has gone: so does the object.
                true => self.api.delete_at(&key, kv.mod_revision).await?.then(|| codec::encode(&new).bytes),
                false => self.api.put_over_guarded(&key, &new, kv.mod_revision, guard).await?,
            };
            drop(held);
            match written {
                Some(stored) => {
                    self.take_effect().await?;
                    return self.respond(200, stored).await;
                }
                // Another server took something; whether somebody wrote this object is seen now.
                None if guard.is_some() => self.warnings.truncate(before),
                None if pinned => {
                    let name = &self.path.name;
                    return Err(Status::modified(&self.resource.group, &self.resource.plural, name));
                }
                None => self.warnings.truncate(before),
            }
        }
        Err(Status::modified(&self.resource.group, &self.resource.plural, &self.path.name))
    }

    /// An update or apply of something that is not there.
    async fn write_missing(&mut self, change: Change, sub: &str) -> Outcome<Response<Body>> {
        if !sub.is_empty() {
            return Err(self.not_found());
        }
        match change {
            Change::Replace(mut object) if self.resource.strategy.create_on_update => {
                if meta::uid(&object).is_empty() {
                    meta::unset(&mut object, "resourceVersion");
                    return self.create_object(object, None).await;
                }
                Err(self.not_found())
            }
            Change::Apply { mut config, force } => {
                if !meta::uid(&config).is_empty() {
                    let why = "uid mismatch: the provided object specified uid, and no existing object was found";
                    return Err(Status::conflict(&self.resource.group, &self.resource.plural, &self.path.name, why));
                }
                self.place(&mut config)?;
                if meta::name(&config).is_empty() {
                    meta::set(&mut config, "name", self.path.name.as_str());
                }
                self.same_name(&config)?;
                let writer = self.writer(apply::Operation::Apply, sub)?;
                let node = &self.resource.node;
                let made = apply::apply(None, &config, node, &writer, force, self.reset(sub), &now())
                    .map_err(|error| self.apply_error(error))?;
                self.create_object(made, Some(())).await
            }
            _ => Err(self.not_found()),
        }
    }

    fn same_name(&self, object: &Value) -> Outcome<()> {
        let (have, want) = (meta::name(object), &self.path.name);
        if have != want {
            let message = format!("the name of the object ({have}) does not match the name on the URL ({want})");
            return Err(Status::bad_request(message));
        }
        Ok(())
    }

    fn apply_error(&self, error: ApplyError) -> Status {
        let text = error.to_string();
        match error {
            ApplyError::Conflicts(conflicts) => {
                let mut status = Status::new(409, "Conflict", text);
                for conflict in conflicts {
                    let message = format!("conflict with {}", conflict.owner_text());
                    status = status.cause("FieldManagerConflict", message, &conflict.path);
                }
                status
            }
            ApplyError::Malformed(_) => Status::bad_request(text),
        }
    }

    /// The new object, and whether the writer insists on the revision it saw.
    fn changed(&mut self, change: &Change, old: &Value, sub: &str) -> Outcome<(Value, bool)> {
        match change {
            Change::Replace(object) => Ok((object.clone(), !meta::resource_version(object).is_empty())),
            Change::Apply { config, force } => {
                let mut config = config.clone();
                self.place(&mut config)?;
                if meta::name(&config).is_empty() {
                    meta::set(&mut config, "name", self.path.name.as_str());
                }
                let pinned = !meta::resource_version(&config).is_empty();
                if pinned && meta::resource_version(&config) != meta::resource_version(old) {
                    return Err(Status::modified(&self.resource.group, &self.resource.plural, &self.path.name));
                }
                meta::unset(&mut config, "resourceVersion");
                let writer = self.writer(apply::Operation::Apply, sub)?;
                let node = &self.resource.node;
                let mut made = apply::apply(Some(old), &config, node, &writer, *force, self.reset(sub), &now())
                    .map_err(|error| self.apply_error(error))?;
                // A list whose last item went is no list.
                decode::conform(&mut made, node).map_err(|error| Status::bad_request(error.0))?;
                Ok((made, pinned))
            }
            Change::Patch { kind, patch } => {
                let mut new = old.clone();
                let outcome = match kind {
                    PatchKind::Json => patch::json_patch(&mut new, &patch.value),
                    PatchKind::Merge => {
                        patch::merge_patch(&mut new, &patch.value);
                        Ok(())
                    }
                    PatchKind::Strategic => patch::strategic_merge(&mut new, &patch.value, &self.resource.node),
                };
                outcome.map_err(|error| match error {
                    PatchError::Malformed(text) => Status::bad_request(text),
                    PatchError::TooLarge(text) => Status::new(413, "RequestEntityTooLarge", text),
                    PatchError::Inapplicable(text) => {
                        let message = "the server rejected our request due to an error in our request";
                        Status::new(422, "Invalid", message).cause("UnexpectedServerResponse", text, "")
                    }
                })?;
                let pinned = match kind {
                    PatchKind::Json => meta::resource_version(&new) != meta::resource_version(old),
                    _ => !meta::resource_version(&patch.value).is_empty(),
                };
                let resource = self.resource.clone();
                let duplicates = patch.duplicates.clone();
                let fitted = self.fit(Parsed { value: new, duplicates }, &resource)?;
                Ok((fitted, pinned))
            }
        }
    }

    /// Name, namespace, uid and revision must be those of the object that is there.
    fn identify(&self, change: &Change, new: &mut Value, old: &Value) -> Outcome<()> {
        if meta::name(new).is_empty() {
            meta::set(new, "name", self.path.name.as_str());
        }
        self.same_name(new)?;
        self.place(new)?;
        let (resource, name) = (&self.resource, &self.path.name);
        let uid = meta::uid(new);
        if !uid.is_empty() && uid != meta::uid(old) {
            let why =
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta::uid(old));
            return Err(Status::conflict(&resource.group, &resource.plural, name, &why));
        }
        let version = meta::resource_version(new);
        if !version.is_empty() && version != meta::resource_version(old) {
            return Err(Status::modified(&resource.group, &resource.plural, name));
        }
        let unconditional = resource.strategy.unconditional_update && resource.custom.is_none();
        if version.is_empty() && matches!(change, Change::Replace(_)) && !unconditional {
            let error = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
            return Err(self.invalid(name, &[error]));
        }
        Ok(())
    }

    /// Puts back what this endpoint does not write, and counts generations.
    fn prepare_over(&self, new: &mut Value, old: &Value, sub: &str) {
        for field in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "selfLink",
            "resourceVersion",
            "generateName",
        ] {
            match meta::at(old, &["metadata", field]) {
                Some(value) => meta::set(new, field, value.clone()),
                None => meta::unset(new, field),
            }
        }
        match sub {
            "status" => {
                let status = new.get("status").cloned();
                let metadata = new["metadata"].clone();
                *new = old.clone();
                match status {
                    Some(status) => new["status"] = status,
                    None => drop(new.as_object_mut().map(|map| map.remove("status"))),
                }
                for field in ["annotations", "finalizers", "managedFields"] {
                    // Custom resources let the status endpoint touch nothing but the status.
                    if self.resource.custom.is_some() && field != "managedFields" {
                        continue;
                    }
                    match metadata.get(field) {
                        Some(value) => meta::set(new, field, value.clone()),
                        None => meta::unset(new, field),
                    }
                }
            }
            // What is the approval's is sorted out below.
            "approval" => {}
            "ephemeralcontainers" => {
                let containers = new["spec"].get("ephemeralContainers").cloned();
                let books = meta::at(new, &["metadata", "managedFields"]).cloned();
                *new = old.clone();
                match containers {
                    Some(containers) => new["spec"]["ephemeralContainers"] = containers,
                    None => drop(new["spec"].as_object_mut().map(|spec| spec.remove("ephemeralContainers"))),
                }
                books.into_iter().for_each(|books| meta::set(new, "managedFields", books));
                self.default(new);
            }
            "resize" => {
                let wanted = new["spec"].clone();
                *new = old.clone();
                for list in ["containers", "initContainers"] {
                    for (at, container) in meta::items_mut(new, &["spec", list]).enumerate() {
                        container["resources"] = wanted[list][at]["resources"].clone();
                    }
                }
                self.default(new);
                if !same_spec(new, old) {
                    meta::set(new, "generation", meta::generation(old) + 1);
                }
            }
            _ => {
                if self.resource.has_status() {
                    match old.get("status") {
                        Some(status) => new["status"] = status.clone(),
                        None => drop(new.as_object_mut().map(|map| map.remove("status"))),
                    }
                }
                (self.resource.strategy.prepare_update)(new, old);
                self.default(new);
                let counts = self.resource.strategy.generation || self.resource.custom.is_some();
                if counts && !same_spec(new, old) {
                    meta::set(new, "generation", meta::generation(old) + 1);
                }
            }
        }
        if matches!(sub, "approval" | "status") && self.is_signing_request() {
            resources::kinds::signing_request_prepare(new, old, sub, client::now());
        }
    }

    fn is_signing_request(&self) -> bool {
        self.resource.prefix == "/registry/certificates.k8s.io/certificatesigningrequests/"
    }

    /// The body of a subresource: an object, or a patch of one.
    pub(super) fn parse_body(&self) -> Outcome<Value> {
        let patch = self.verb == "patch" && self.content_type.ends_with("patch+json");
        let content_type = if patch { "application/json" } else { self.content_type.as_str() };
        Ok(parse(content_type, &self.body)?.value)
    }
}

/// Fills in what the writer of an object left out.
pub(super) fn default_of(resource: &Resource, object: &mut Value) {
    match &resource.custom {
        Some(custom) => crd::default(object, &custom.node),
        None => (resource.strategy.default)(object),
    }
    if resource.group == "apiextensions.k8s.io" {
        crd::default_definition(object);
    }
}

fn has_spec_finalizers(namespace: &Value) -> bool {
    !meta::list_at(namespace, &["spec", "finalizers"]).is_empty()
}

/// Everything but metadata and status is the same.
fn same_spec(new: &Value, old: &Value) -> bool {
    same_but(new, old, &["metadata", "status", "apiVersion", "kind"])
}

/// All fields but these are the same.
fn same_but(new: &Value, old: &Value, but: &[&str]) -> bool {
    fn rest<'a>(object: &'a Value, but: &'a [&'a str]) -> impl Iterator<Item = (&'a String, &'a Value)> {
        object.as_object().into_iter().flatten().filter(|(key, _)| !but.contains(&key.as_str()))
    }
    rest(new, but).eq(rest(old, but))
}

/// Nothing changed but owners, finalizers and the books.
pub(super) fn same_but_for_cleaning(new: &Value, old: &Value) -> bool {
    same_but(new, old, &["metadata"])
        && same_but(&new["metadata"], &old["metadata"], &["ownerReferences", "finalizers", "managedFields"])
}

/// Nothing changed, save perhaps the times in the books.
fn same_but_books_time(new: &Value, old: &Value) -> bool {
    let books = |object| meta::list_at(object, &["metadata", "managedFields"]);
    let (mine, theirs) = (books(new), books(old));
    same_but(new, old, &["metadata"])
        && same_but(&new["metadata"], &old["metadata"], &["managedFields"])
        && mine.len() == theirs.len()
        && mine.iter().zip(theirs).all(|(new, old)| same_but(new, old, &["time"]))
}
