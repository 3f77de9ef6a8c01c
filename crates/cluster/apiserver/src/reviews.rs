//! Reviews: kinds that are questions, answered at once and never stored.

use resources::{Status, Value, meta};
use serde_json::json;

use crate::api::{Api, Outcome, now};
use crate::authn::User;
use crate::authz::Action;

/// The resource is a review.
pub fn is_review(group: &str, plural: &str) -> bool {
    matches!(
        (group, plural),
        ("authentication.k8s.io", "selfsubjectreviews" | "tokenreviews")
            | (
                "authorization.k8s.io",
                "localsubjectaccessreviews"
                    | "selfsubjectaccessreviews"
                    | "selfsubjectrulesreviews"
                    | "subjectaccessreviews"
            )
    )
}

/// Fills in the status of a review that `user` asks for.
pub async fn answer(api: &Api, user: &User, plural: &str, namespace: &str, mut body: Value) -> Outcome<Value> {
    meta::object_at(&mut body, &["metadata"]).insert("creationTimestamp".into(), now().into());
    match plural {
        "selfsubjectreviews" => body["status"] = json!({"userInfo": user.to_value()}),
        "tokenreviews" => {
            let token = meta::str_at(&body, &["spec", "token"]).to_owned();
            let audiences: Vec<String> = meta::list_at(&body, &["spec", "audiences"])
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            let wanted = if audiences.is_empty() { vec![api.keys.issuer.clone()] } else { audiences };
            body["status"] = match token_user(api, &token, &wanted).await? {
                Some((found, audiences)) => {
                    json!({"authenticated": true, "user": found.to_value(), "audiences": audiences})
                }
                None => json!({"authenticated": false, "user": {}}),
            };
        }
        "selfsubjectaccessreviews" => body["status"] = decide(api, user, &body, namespace)?,
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            let spec = &body["spec"];
            let list = |key: &str| -> Vec<String> {
                meta::list_at(spec, &[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
            };
            let who = User {
                name: meta::str_at(spec, &["user"]).to_owned(),
                uid: meta::str_at(spec, &["uid"]).to_owned(),
                groups: list("groups"),
                ..User::default()
            };
            if who.name.is_empty() && who.groups.is_empty() {
                return Err(Status::bad_request("at least one of user or group must be specified"));
            }
            if plural == "localsubjectaccessreviews"
                && meta::str_at(spec, &["resourceAttributes", "namespace"]) != namespace
            {
                return Err(Status::bad_request("spec.resourceAttributes.namespace must match metadata.namespace"));
            }
            body["status"] = decide(api, &who, &body, namespace)?;
        }
        "selfsubjectrulesreviews" => {
            let namespace = meta::str_at(&body, &["spec", "namespace"]).to_owned();
            if namespace.is_empty() {
                return Err(Status::bad_request("no namespace on request"));
            }
            let view = api.rbac.view();
            let mut resource_rules = Vec::new();
            let mut path_rules = Vec::new();
            let every = crate::authz::Rule {
                verbs: vec!["*".into()],
                groups: vec!["*".into()],
                resources: vec!["*".into()],
                ..Default::default()
            };
            let every_path =
                crate::authz::Rule { verbs: vec!["*".into()], paths: vec!["*".into()], ..Default::default() };
            if user.is_master() {
                resource_rules.push(every.to_value());
                path_rules.push(every_path.to_value());
            }
            for (rule, _) in view.rules(user, &namespace) {
                if rule.paths.is_empty() { &mut resource_rules } else { &mut path_rules }.push(rule.to_value());
            }
            body["status"] =
                json!({"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": false});
        }
        _ => return Err(Status::no_such_path()),
    }
    Ok(body)
}

fn decide(api: &Api, who: &User, body: &Value, _namespace: &str) -> Outcome<Value> {
    let (resource, path) = (&body["spec"]["resourceAttributes"], &body["spec"]["nonResourceAttributes"]);
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let action = match (resource.is_object(), path.is_object()) {
        (true, false) => Action {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            path: None,
        },
        (false, true) => Action { verb: text(path, "verb"), path: Some(text(path, "path")), ..Action::default() },
        _ => {
            return Err(Status::bad_request(
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    // `*` in a question asks for everything; only a rule with `*` allows it.
    Ok(match api.rbac.view().allows(who, &action) {
        Some(reason) if reason.is_empty() => json!({"allowed": true}),
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": false}),
    })
}

/// Whose token this is, and which of the audiences wanted it is good for.
pub async fn token_user(api: &Api, token: &str, wanted: &[String]) -> Outcome<Option<(User, Vec<String>)>> {
    if let Some(user) = api.keys.static_user(token) {
        return Ok(Some((user, wanted.to_vec())));
    }
    if let Some(user) = bootstrap_user(api, token).await? {
        return Ok(Some((user, wanted.to_vec())));
    }
    let Some(claims) = api.keys.verify(token, client::now().as_second()) else { return Ok(None) };
    let any = vocab::weak::without("audience");
    let good: Vec<String> =
        wanted.iter().filter(|audience| any || claims.audiences.contains(audience)).cloned().collect();
    if good.is_empty() {
        return Ok(None);
    }
    // The account must be the same that the token was made for, and what it is bound to must still be there.
    let accounts = api.builtin("", "serviceaccounts");
    let account = api.get_object(&accounts, &claims.namespace, &claims.name).await?;
    let gone = account.is_none_or(|(account, _)| meta::uid(&account) != claims.uid);
    if gone && !vocab::weak::without("account") {
        return Ok(None);
    }
    let mut user = User::service_account(&claims.namespace, &claims.name, &claims.uid);
    if let Some((plural, name, uid)) = &claims.bound {
        let resource = api.builtin("", plural);
        let object = api.get_object(&resource, &claims.namespace, name).await?;
        if object.is_none_or(|(object, _)| meta::uid(&object) != uid) {
            return Ok(None);
        }
        let kind = plural.trim_end_matches('s');
        user.extra.insert(format!("authentication.kubernetes.io/{kind}-name"), vec![name.clone()]);
        user.extra.insert(format!("authentication.kubernetes.io/{kind}-uid"), vec![uid.clone()]);
    }
    user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("JTI={}", claims.id)]);
    Ok(Some((user, good)))
}

/// The user of a bootstrap token, `ID.SECRET`, kept as a secret of its own type in `kube-system`.
async fn bootstrap_user(api: &Api, token: &str) -> Outcome<Option<User>> {
    use base64::Engine as _;
    let Some((id, secret)) = token.split_once('.') else { return Ok(None) };
    let plain = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !plain(id, 6) || !plain(secret, 16) {
        return Ok(None);
    }
    let secrets = api.builtin("", "secrets");
    let name = format!("bootstrap-token-{id}");
    let Some((kept, _)) = api.get_object(&secrets, "kube-system", &name).await? else { return Ok(None) };
    let text = |key: &str| {
        let encoded = kept["data"][key].as_str().unwrap_or_default();
        let raw = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
        String::from_utf8(raw).unwrap_or_default()
    };
    let ends = text("expiration");
    let over = !ends.is_empty() && ends.parse::<jiff::Timestamp>().is_ok_and(|ends| ends <= client::now());
    let good = kept["type"] == "bootstrap.kubernetes.io/token"
        && !meta::is_terminating(&kept)
        && text("token-id") == id
        && aws_lc_rs::constant_time::verify_slices_are_equal(text("token-secret").as_bytes(), secret.as_bytes())
            .is_ok()
        && text("usage-bootstrap-authentication") == "true"
        && !over;
    if !good {
        return Ok(None);
    }
    let mut user = User { name: format!("system:bootstrap:{id}"), ..User::default() };
    user.groups.push("system:bootstrappers".into());
    let extra = text("auth-extra-groups");
    user.groups.extend(extra.split(',').filter(|group| group.starts_with("system:bootstrappers:")).map(str::to_owned));
    Ok(Some(user.authenticated()))
}
