//! The steps of admission around a write: gathers what plugins and webhooks need to know, and carries out what they say.

use base64::Engine as _;
use resources::{Status, Value, decode, meta, patch};
use serde_json::json;

use super::hooks::{self, Hook};
use super::{Attributes, Operation, webhook};
use crate::api::{Api, Outcome, new_uid};
use crate::catalog::Resource;
use crate::convert;

/// The object in the version that a webhook wants.
fn in_version(object: &Value, from: &Resource, to: &Resource) -> Value {
    let mut object = object.clone();
    if from.version != to.version || from.group != to.group {
        convert::to_stored(&mut object, from);
        convert::from_stored(&mut object, to);
    }
    object
}

/// The namespace that selectors look at: the one the request is in, or the namespace itself that it is about.
async fn namespace_of(api: &Api, attributes: &Attributes<'_>, object: Option<&Value>) -> Outcome<Option<Value>> {
    if attributes.is("", "namespaces") && attributes.sub.is_empty() {
        return Ok(object.or(attributes.old).cloned());
    }
    if attributes.namespace.is_empty() {
        return Ok(None);
    }
    let namespaces = api.builtin("", "namespaces");
    Ok(api.get_object(&namespaces, "", attributes.namespace).await?.map(|(namespace, _)| namespace))
}

/// What is to be asked of one webhook: nothing, or a request in the version that it wants.
fn question(
    api: &Api,
    hook: &Hook,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    namespace: Option<&Value>,
) -> Outcome<Option<(Value, std::sync::Arc<Resource>)>> {
    let catalog = api.catalog();
    let Some(shown) = hook.wants(attributes, &catalog) else { return Ok(None) };
    if !hook.selects(namespace, object, attributes.old) {
        return Ok(None);
    }
    let (own, whole) = (attributes.resource, attributes.sub.is_empty() || attributes.sub == "status");
    let show = |object: Option<&Value>| {
        object.map(|object| if whole { in_version(object, own, &shown) } else { object.clone() })
    };
    let (object, old) = (show(object), show(attributes.old));
    let request = hooks::request(attributes, &shown, &new_uid(), object.as_ref(), old.as_ref());
    match hook.conditions_hold(&request, namespace) {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(_) if !hook.fails => return Ok(None),
        Err(fault) => {
            return Err(attributes.forbidden(&format!("match conditions of webhook {:?}: {fault}", hook.name)));
        }
    }
    if attributes.dry && !hook.dry {
        return Err(Status::bad_request(format!("admission webhook {:?} does not support dry run", hook.name)));
    }
    Ok(Some((request, shown)))
}

/// Asks one webhook; `None` if it could not be asked and its policy is to go on without it.
async fn answer(api: &Api, hook: &Hook, request: Value, warnings: &mut Vec<String>) -> Outcome<Option<Value>> {
    let uid = request["uid"].clone();
    let review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request});
    let answered = webhook::ask(api, &hook.client, &review, hook.timeout).await.and_then(|answer| {
        let response = answer["response"].clone();
        match (answer["apiVersion"] == "admission.k8s.io/v1", response["uid"] == uid) {
            (false, _) => Err("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview".to_owned()),
            (_, false) => Err(format!("expected response.uid={uid}, got {}", response["uid"])),
            (true, true) => Ok(response),
        }
    });
    match answered {
        Ok(response) => {
            for warning in meta::list_at(&response, &["warnings"]).iter().filter_map(Value::as_str) {
                warnings.push(warning.to_owned());
            }
            match response["allowed"] == true {
                true => Ok(Some(response)),
                false => Err(refusal(hook, &response)),
            }
        }
        Err(why) if hook.fails => {
            let message = format!("failed calling webhook {:?}: failed to call webhook: {why}", hook.name);
            Err(Status::internal(message))
        }
        Err(why) => {
            tracing::warn!(webhook = hook.name, why, "a webhook cannot be asked and is left out");
            Ok(None)
        }
    }
}

/// A webhook's no, in upstream's words.
fn refusal(hook: &Hook, response: &Value) -> Status {
    let said = &response["status"];
    let text = |key: &str| said[key].as_str().unwrap_or_default();
    let denied = format!("admission webhook {:?} denied the request", hook.name);
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = said["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
    const REASONS: [&str; 9] = [
        "Forbidden",
        "Invalid",
        "BadRequest",
        "NotFound",
        "Conflict",
        "Unauthorized",
        "TooManyRequests",
        "Timeout",
        "InternalError",
    ];
    let reason = REASONS.into_iter().find(|reason| *reason == text("reason"));
    let code = code.unwrap_or(400);
    let mut status = Status::new(code, reason.unwrap_or(if code == 403 { "Forbidden" } else { "" }), message);
    for cause in meta::list_at(said, &["details", "causes"]) {
        let text = |key: &str| cause[key].as_str().unwrap_or_default().to_owned();
        status = status.cause(&text("reason"), text("message"), &text("field"));
    }
    status
}

/// Lets webhooks change the object. `refit` brings it back into shape after a change.
pub async fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
    warnings: &mut Vec<String>,
    refit: &(dyn Fn(&mut Value) -> Outcome<()> + Sync),
) -> Outcome<()> {
    let hooks = api.hooks.get();
    if hooks.mutating.is_empty() {
        return Ok(());
    }
    let namespace = namespace_of(api, attributes, Some(object)).await?;
    // What each one left behind, so that those who want to are asked again if others changed something after them.
    let mut left: Vec<(usize, Value)> = Vec::new();
    for (at, hook) in hooks.mutating.iter().enumerate() {
        if mutate_by(api, hook, attributes, object, namespace.as_ref(), warnings, refit).await? {
            left.push((at, object.clone()));
        }
    }
    for (at, before) in left {
        let hook = &hooks.mutating[at];
        if hook.again && before != *object {
            mutate_by(api, hook, attributes, object, namespace.as_ref(), warnings, refit).await?;
        }
    }
    Ok(())
}

/// Answers whether the webhook was asked.
async fn mutate_by(
    api: &Api,
    hook: &Hook,
    attributes: &Attributes<'_>,
    object: &mut Value,
    namespace: Option<&Value>,
    warnings: &mut Vec<String>,
    refit: &(dyn Fn(&mut Value) -> Outcome<()> + Sync),
) -> Outcome<bool> {
    let given = (attributes.operation != Operation::Delete).then_some(&*object);
    let Some((request, shown)) = question(api, hook, attributes, given, namespace)? else { return Ok(false) };
    let mut changed = request["object"].clone();
    let Some(response) = answer(api, hook, request, warnings).await? else { return Ok(true) };
    let failed = |why: String| Status::internal(format!("webhook {:?}: {why}", hook.name));
    let raw = patch_bytes(&response["patch"]).map_err(failed)?;
    if raw.is_empty() || attributes.operation == Operation::Delete {
        return Ok(true);
    }
    if response["patchType"] != "JSONPatch" {
        return Err(failed(format!("unsupported patch type {}", response["patchType"])));
    }
    let operations: Value = serde_json::from_slice(&raw).map_err(|error| failed(error.to_string()))?;
    patch::json_patch(&mut changed, &operations).map_err(|error| failed(error.to_string()))?;
    if attributes.sub.is_empty() || attributes.sub == "status" {
        decode::conform(&mut changed, &shown.node).map_err(|error| failed(error.0))?;
        changed = in_version(&changed, &shown, attributes.resource);
        // Name, namespace and kind are not a webhook's to change.
        for field in ["name", "namespace", "uid"] {
            if meta::get(&changed, field) != meta::get(object, field) {
                return Err(failed(format!("metadata.{field} cannot be changed")));
            }
        }
        refit(&mut changed)?;
    }
    *object = changed;
    Ok(true)
}

/// The bytes of a patch: base64, or a list of numbers. Upstream's decoder takes both, and kube-rs writes the latter.
fn patch_bytes(patch: &Value) -> Result<Vec<u8>, String> {
    match patch {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => {
            base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| format!("patch: {error}"))
        }
        Value::Array(numbers) => {
            let byte = |number: &Value| number.as_u64().and_then(|number| u8::try_from(number).ok());
            numbers.iter().map(byte).collect::<Option<_>>().ok_or_else(|| "patch: not all numbers are bytes".into())
        }
        _ => Err("patch: neither text nor bytes".into()),
    }
}

/// Lets webhooks judge the object. They are asked side by side; the first in order that refuses is answered.
pub async fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Outcome<()> {
    let hooks = api.hooks.get();
    if hooks.validating.is_empty() {
        return Ok(());
    }
    let namespace = namespace_of(api, attributes, object).await?;
    let mut asked = Vec::new();
    for hook in &hooks.validating {
        if let Some((request, _)) = question(api, hook, attributes, object, namespace.as_ref())? {
            asked.push(async move {
                let mut warnings = Vec::new();
                let outcome = answer(api, hook, request, &mut warnings).await;
                (outcome, warnings)
            });
        }
    }
    for (outcome, mut said) in join_all(asked).await {
        warnings.append(&mut said);
        outcome?;
    }
    Ok(())
}

/// Runs futures side by side and answers in their order.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, done) in futures.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(output) => *done = Some(output),
                std::task::Poll::Pending => waiting = true,
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    done.into_iter().flatten().collect()
}
