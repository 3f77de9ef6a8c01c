//! Deleting an object, for requests and for our own controllers.

use resources::{Status, Value, decode, meta};

use crate::api::{Api, Outcome};
use crate::catalog::Resource;
use crate::codec;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Background,
    Foreground,
    Orphan,
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub grace_secs: Option<i64>,
    pub policy: Option<Policy>,
    /// Delete only the object with this uid and revision, where they are not empty.
    pub uid: String,
    pub resource_version: String,
    pub dry: bool,
}

pub enum Deleted {
    Missing,
    Gone(Value),
    /// Marked; someone has to finish.
    Waiting(Value),
}

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

pub async fn delete(api: &Api, resource: &Resource, key: &str, options: &Options) -> Outcome<Deleted> {
    loop {
        let Some(kv) = api.get_kv(key).await? else { return Ok(Deleted::Missing) };
        let object = codec::decode(&kv.value);
        preconditions(resource, &object, options)?;
        let mut marked = object.clone();
        let now = client::now();
        if !mark(&mut marked, resource, options, now) {
            if options.dry || api.delete_at(key, kv.mod_revision).await? {
                return Ok(Deleted::Gone(object));
            }
            continue;
        }
        if marked == object || options.dry {
            return Ok(Deleted::Waiting(marked));
        }
        if let Some(stored) = api.put_over(key, &marked, kv.mod_revision).await? {
            return Ok(Deleted::Waiting(codec::decode(&stored)));
        }
    }
}

fn preconditions(resource: &Resource, object: &Value, options: &Options) -> Outcome<()> {
    let checks = [
        ("UID", &options.uid, meta::uid(object)),
        ("ResourceVersion", &options.resource_version, meta::resource_version(object)),
    ];
    for (what, wanted, have) in checks {
        if !wanted.is_empty() && wanted != have {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {have}");
            return Err(Status::conflict(&resource.group, &resource.plural, meta::name(object), &why));
        }
    }
    Ok(())
}

/// Marks the object as being deleted and answers true, or answers false: it can go at once. Pure.
fn mark(object: &mut Value, resource: &Resource, options: &Options, now: jiff::Timestamp) -> bool {
    let mut finalizers = meta::finalizers(object);
    match options.policy {
        None => {}
        Some(policy) => {
            finalizers.retain(|name| name != FOREGROUND && name != ORPHAN);
            match policy {
                Policy::Foreground => finalizers.push(FOREGROUND.into()),
                Policy::Orphan => finalizers.push(ORPHAN.into()),
                Policy::Background => {}
            }
        }
    }
    let grace = grace_secs(object, resource, options);
    let namespace =
        resource.prefix == "/registry/core/namespaces/" && !meta::list_at(object, &["spec", "finalizers"]).is_empty();
    if finalizers.is_empty() && grace == 0 && !namespace {
        return false;
    }
    meta::set_finalizers(object, finalizers);
    if namespace {
        object["status"]["phase"] = "Terminating".into();
    }
    let before = meta::at(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    if !meta::is_terminating(object) || before.is_some_and(|before| grace < before) {
        // The time is when the object should be gone.
        let end = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
        if !meta::is_terminating(object) && meta::at(object, &["metadata", "generation"]).is_some() {
            meta::set(object, "generation", meta::generation(object) + 1);
        }
        meta::set(object, "deletionTimestamp", decode::format_time(end, 0));
        meta::set(object, "deletionGracePeriodSeconds", grace);
    }
    true
}

fn grace_secs(object: &Value, resource: &Resource, options: &Options) -> i64 {
    if !resource.strategy.graceful {
        return 0;
    }
    let ended = matches!(meta::str_at(object, &["status", "phase"]), "Failed" | "Succeeded");
    if meta::str_at(object, &["spec", "nodeName"]).is_empty() || ended {
        return 0;
    }
    let own = meta::at(object, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    options.grace_secs.or(own).unwrap_or(30).max(0)
}
