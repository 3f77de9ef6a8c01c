//! Who may do what, certificates, and what judges requests.

use serde_json::Value;

use super::text::{age, human, name, or_none, text};
use super::{AGE, Column, NAME, Table, integer, string, wide};
use crate::meta::{at, list_at, str_at};

pub(super) const BINDING: Table = Table {
    columns: &[NAME, string("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")],
    cells: |object, now| {
        let subjects = |kind: &str| {
            let all = list_at(object, &["subjects"]).iter().filter(|subject| subject["kind"] == kind);
            let name = |subject: &Value| match subject["namespace"].as_str() {
                Some(namespace) => format!("{namespace}/{}", subject["name"].as_str().unwrap_or_default()),
                None => subject["name"].as_str().unwrap_or_default().to_owned(),
            };
            Value::from(all.map(name).collect::<Vec<_>>().join(", "))
        };
        let role = format!("{}/{}", str_at(object, &["roleRef", "kind"]), str_at(object, &["roleRef", "name"]));
        vec![
            name(object),
            role.into(),
            age(object, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    },
};

pub(super) const SIGNING_REQUEST: Table = Table {
    columns: &[NAME, AGE, string("SignerName"), string("Requestor"), string("RequestedDuration"), string("Condition")],
    cells: |object, now| {
        let has = |kind: &str| list_at(object, &["status", "conditions"]).iter().any(|c| c["type"] == kind);
        // Whoever denies has the last word.
        let decision = ["Denied", "Approved"].into_iter().find(|kind| has(kind)).unwrap_or("Pending");
        let mut state = vec![decision];
        if has("Failed") {
            state.push("Failed");
        }
        if !str_at(object, &["status", "certificate"]).is_empty() {
            state.push("Issued");
        }
        let asked = at(object, &["spec", "expirationSeconds"]).and_then(Value::as_i64);
        vec![
            name(object),
            age(object, now),
            or_none(str_at(object, &["spec", "signerName"])),
            text(object, &["spec", "username"]),
            asked.map_or("<none>".into(), human).into(),
            state.join(",").into(),
        ]
    },
};

pub(super) const TRUST_BUNDLE: Table = Table {
    columns: &[NAME, string("SignerName")],
    cells: |object, _| vec![name(object), or_none(str_at(object, &["spec", "signerName"]))],
};

pub(super) const POD_CERTIFICATE_REQUEST: Table = Table {
    columns: &[
        NAME,
        string("PodName"),
        string("ServiceAccountName"),
        string("NodeName"),
        string("SignerName"),
        string("State"),
    ],
    cells: |object, _| {
        let mut conditions = list_at(object, &["status", "conditions"]).iter().filter_map(|c| c["type"].as_str());
        let state = conditions.rfind(|kind| ["Denied", "Failed", "Issued"].contains(kind));
        vec![
            name(object),
            text(object, &["spec", "podName"]),
            text(object, &["spec", "serviceAccountName"]),
            text(object, &["spec", "nodeName"]),
            text(object, &["spec", "signerName"]),
            state.unwrap_or("Pending").into(),
        ]
    },
};

pub(super) const WEBHOOKS: Table = Table {
    columns: &[NAME, integer("Webhooks"), AGE],
    cells: |object, now| vec![name(object), list_at(object, &["webhooks"]).len().into(), age(object, now)],
};

fn param_kind(object: &Value) -> Value {
    let kind = &object["spec"]["paramKind"];
    match kind.is_object() {
        true => format!("{}/{}", str_at(kind, &["apiVersion"]), str_at(kind, &["kind"])).into(),
        false => "<unset>".into(),
    }
}

const PARAM_KIND: Column = string("ParamKind");

pub(super) const VALIDATING_POLICY: Table = Table {
    columns: &[NAME, integer("Validations"), PARAM_KIND, AGE],
    cells: |object, now| {
        let count = list_at(object, &["spec", "validations"]).len();
        vec![name(object), count.into(), param_kind(object), age(object, now)]
    },
};

pub(super) const MUTATING_POLICY: Table = Table {
    columns: &[NAME, integer("Mutations"), PARAM_KIND, AGE],
    cells: |object, now| {
        let count = list_at(object, &["spec", "mutations"]).len();
        vec![name(object), count.into(), param_kind(object), age(object, now)]
    },
};

pub(super) const POLICY_BINDING: Table = Table {
    columns: &[NAME, string("PolicyName"), string("ParamRef"), AGE],
    cells: |object, now| {
        let to = &object["spec"]["paramRef"];
        let param = match (str_at(to, &["name"]), str_at(to, &["namespace"])) {
            ("", _) if to["selector"].is_object() => super::text::selector(&to["selector"]),
            ("", _) => "<unset>".into(),
            (name, "") => name.into(),
            (name, namespace) => format!("{namespace}/{name}").into(),
        };
        vec![name(object), text(object, &["spec", "policyName"]), param, age(object, now)]
    },
};
