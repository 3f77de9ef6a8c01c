//! Certificate requests: approved where the rules say so, signed by the cluster's authority, and cleared away.
//!
//! [`judge`] reads a request and says what its signer allows; [`grant`] says whether it may be approved without a person.
//! Both are pure. The subject that is judged is the one that is signed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use resources::kinds::conditions_set;
use resources::{Value, meta};
use store::{Span, WatchRequest};

use crate::api::{Api, Outcome, store_error};
use crate::authn::{User, request_groups};
use crate::authz::Action;
use crate::pki::Authority;

pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
const LIFETIME_SECS_MAX: i64 = 365 * 86400;
pub const LIFETIME_MAX: Duration = Duration::from_secs(LIFETIME_SECS_MAX.unsigned_abs());
const SWEEP: Duration = Duration::from_secs(300);
/// How long requests are kept: answered ones and those that nobody answers.
const ANSWERED_SECS: i64 = 3600;
const PENDING_SECS: i64 = 24 * 3600;

/// A request as its signer would sign it.
pub struct Judged {
    params: CertificateSigningRequestParams,
    pub name: String,
    pub alternatives: Vec<SanType>,
    pub lifetime: Duration,
}

/// Reads a request and holds it against its signer's rules. The error is upstream's sentence about it.
pub fn judge(request: &Value) -> Result<Judged, String> {
    let spec = &request["spec"];
    let encoded = spec["request"].as_str().unwrap_or_default();
    let pem = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pem = pem.ok_or("unable to parse csr: PEM block type must be CERTIFICATE REQUEST")?;
    let mut params =
        CertificateSigningRequestParams::from_pem(&pem).map_err(|error| format!("unable to parse csr: {error}"))?;
    let groups = request_groups(encoded).ok_or("unable to parse csr: its subject cannot be read")?;
    let name = text(params.params.distinguished_name.get(&rcgen::DnType::CommonName));
    let alternatives = params.params.subject_alt_names.clone();
    let usages: Vec<&str> = meta::list_at(spec, &["usages"]).iter().filter_map(Value::as_str).collect();
    let exactly = |needed: &[&str]| {
        needed.iter().all(|usage| usages.contains(usage))
            && usages.iter().all(|usage| needed.contains(usage) || *usage == "key encipherment")
    };
    let of_node = || match (groups.as_slice(), name.starts_with(NODE_PREFIX)) {
        ([group], true) if group == NODES => Ok(()),
        ([group], false) if group == NODES => Err(format!("subject common name does not begin with {NODE_PREFIX}")),
        _ => Err(format!("subject organization is not {NODES}")),
    };
    match spec["signerName"].as_str().unwrap_or_default() {
        NODE_CLIENT => {
            of_node()?;
            if let Some(other) = alternatives.first() {
                return Err(format!("{} subjectAltNames are not allowed", kind_of(other)));
            }
            if !exactly(&["digital signature", "client auth"]) {
                return Err("usages did not match [client auth digital signature key encipherment]".into());
            }
        }
        NODE_SERVING => {
            of_node()?;
            let addresses = |name: &&SanType| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_));
            if let Some(other) = alternatives.iter().find(|name| !addresses(name)) {
                return Err(format!("{} subjectAltNames are not allowed", kind_of(other)));
            }
            if alternatives.is_empty() {
                return Err("DNS or IP subjectAltName is required".into());
            }
            if !exactly(&["digital signature", "server auth"]) {
                return Err("usages did not match [digital signature key encipherment server auth]".into());
            }
        }
        CLIENT => {
            if name.is_empty() {
                return Err("subject common name is required".into());
            }
            if groups.iter().any(|group| group == "system:masters") {
                return Err("organization system:masters is not allowed".into());
            }
            let known = ["digital signature", "key encipherment", "client auth"];
            if !usages.contains(&"client auth") || usages.iter().any(|usage| !known.contains(usage)) {
                return Err("usages did not match [client auth digital signature key encipherment]".into());
            }
        }
        other => return Err(format!("the signer {other:?} is not this cluster's")),
    }
    if groups.len() > 1 {
        // What is judged must be what is signed, and a subject is written with one organization only.
        return Err("more than one organization is not supported".into());
    }
    let asked = spec["expirationSeconds"].as_i64().unwrap_or(LIFETIME_SECS_MAX).clamp(600, LIFETIME_SECS_MAX);
    let purposes = usages.iter().filter_map(|usage| match *usage {
        "client auth" => Some(ExtendedKeyUsagePurpose::ClientAuth),
        "server auth" => Some(ExtendedKeyUsagePurpose::ServerAuth),
        _ => None,
    });
    params.params.extended_key_usages = purposes.collect();
    let uses = usages.iter().filter_map(|usage| match *usage {
        "digital signature" => Some(KeyUsagePurpose::DigitalSignature),
        "key encipherment" => Some(KeyUsagePurpose::KeyEncipherment),
        _ => None,
    });
    params.params.key_usages = uses.collect();
    params.params.is_ca = IsCa::ExplicitNoCa;
    let lifetime = Duration::from_secs(asked.unsigned_abs());
    Ok(Judged { params, name, alternatives, lifetime })
}

fn text(value: Option<&rcgen::DnValue>) -> String {
    match value {
        Some(rcgen::DnValue::Utf8String(text)) => text.clone(),
        Some(rcgen::DnValue::PrintableString(text)) => text.to_string(),
        Some(rcgen::DnValue::Ia5String(text)) => text.to_string(),
        _ => String::new(),
    }
}

fn kind_of(name: &SanType) -> &'static str {
    match name {
        SanType::DnsName(_) => "DNS",
        SanType::IpAddress(_) => "IP",
        SanType::Rfc822Name(_) => "Email",
        SanType::URI(_) => "URI",
        _ => "other",
    }
}

/// On what ground a request may be approved without a person, each of which has yet to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// The user may `create` this subresource of certificate requests; the sentence says so.
    IfAllowed(&'static str, &'static str),
    /// The node of this name has all these addresses.
    IfNodeHas(String, Vec<String>),
    No,
}

pub fn grant(request: &Value, judged: &Judged) -> Vec<Grant> {
    let user = meta::str_at(request, &["spec", "username"]);
    let own = user == judged.name;
    match meta::str_at(request, &["spec", "signerName"]) {
        NODE_CLIENT => {
            let renewed = "Auto approving self kubelet client certificate after SubjectAccessReview.";
            let first = "Auto approving kubelet client certificate after SubjectAccessReview.";
            let renews = own.then_some(Grant::IfAllowed("selfnodeclient", renewed));
            renews.into_iter().chain([Grant::IfAllowed("nodeclient", first)]).collect()
        }
        // A node vouches for nothing but itself, at addresses that it is known by.
        NODE_SERVING if own && in_group(request, NODES) => {
            let names = judged.alternatives.iter().map(|name| match name {
                SanType::DnsName(name) => name.to_string(),
                SanType::IpAddress(address) => address.to_string(),
                other => format!("{other:?}"),
            });
            vec![Grant::IfNodeHas(judged.name.trim_start_matches(NODE_PREFIX).to_owned(), names.collect())]
        }
        _ => vec![Grant::No],
    }
}

fn in_group(request: &Value, group: &str) -> bool {
    meta::list_at(request, &["spec", "groups"]).iter().any(|name| name == group)
}

/// Whether a node is known by all of these names and addresses.
pub fn node_has(node: &Value, names: &[String]) -> bool {
    let known: Vec<&str> = meta::list_at(node, &["status", "addresses"])
        .iter()
        .filter_map(|address| address["address"].as_str())
        .collect();
    let same = |one: &str, other: &str| match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one.eq_ignore_ascii_case(other),
    };
    names.iter().all(|name| known.iter().any(|have| same(have, name)))
}

fn has(request: &Value, kind: &str) -> bool {
    meta::list_at(request, &["status", "conditions"]).iter().any(|condition| condition["type"] == kind)
}

/// Whether a request has been kept for long enough.
pub fn is_over(request: &Value, now: Timestamp) -> bool {
    let age = |stamp: &Value| {
        let stamp = stamp.as_str().and_then(|text| text.parse::<Timestamp>().ok());
        stamp.map_or(0, |stamp| now.duration_since(stamp).as_secs())
    };
    let answered = meta::list_at(request, &["status", "conditions"]).iter().find(|condition| {
        let done = condition["type"] == "Approved" && request["status"].get("certificate").is_some();
        done || condition["type"] == "Denied" || condition["type"] == "Failed"
    });
    match answered {
        Some(condition) => age(&condition["lastUpdateTime"]) > ANSWERED_SECS,
        None => age(&request["metadata"]["creationTimestamp"]) > PENDING_SECS,
    }
}

/// Approves, signs and clears away until the server stops.
///
/// `most` is how long what is signed is good for, unless less was asked for.
pub async fn follow(api: Arc<Api>, authority: Arc<Authority>, most: Duration) -> Outcome<()> {
    let resource = api.builtin("certificates.k8s.io", "certificatesigningrequests");
    loop {
        let request = WatchRequest { span: Span::prefix(resource.prefix.clone()), start: 0 };
        let mut changes = api.store.watch(request).await.map_err(store_error)?;
        loop {
            // A node that will have its addresses soon is asked about again.
            let mut waits = false;
            for request in api.list_objects(&resource, "").await? {
                let key = resource.key("", meta::name(&request));
                if is_over(&request, client::now()) {
                    if let Some(kv) = api.get_kv(&key).await? {
                        api.delete_at(&key, kv.mod_revision).await?;
                    }
                    continue;
                }
                waits |= look(&api, &authority, most, &key, &request).await?;
            }
            let patience = if waits { Duration::from_secs(1) } else { SWEEP };
            if let Ok(Err(_)) = tokio::time::timeout(patience, changes.next()).await {
                break;
            }
        }
    }
}

/// One step for one request; answers whether it may be approved later.
async fn look(api: &Api, authority: &Authority, most: Duration, key: &str, request: &Value) -> Outcome<bool> {
    let ours = matches!(meta::str_at(request, &["spec", "signerName"]), CLIENT | NODE_CLIENT | NODE_SERVING);
    let done = request["status"].get("certificate").is_some() || has(request, "Denied") || has(request, "Failed");
    if !ours || done {
        return Ok(false);
    }
    let judged = judge(request);
    if has(request, "Approved") {
        let signed = judged.and_then(|judged| {
            authority
                .sign_request(judged.params, &judged.name, judged.lifetime.min(most))
                .map_err(|error| error.to_string())
        });
        api.modify(key, |request| {
            match &signed {
                Ok(pem) => request["status"]["certificate"] = STANDARD.encode(pem).into(),
                Err(why) => condition(request, "Failed", "SignerValidationFailure", why),
            }
            true
        })
        .await?;
        return Ok(false);
    }
    let Ok(judged) = judged else { return Ok(false) };
    let mut waits = false;
    for ground in grant(request, &judged) {
        let why = match &ground {
            Grant::IfAllowed(sub, why) => may(api, request, sub).then_some(*why),
            Grant::IfNodeHas(name, names) => {
                let node = api.get_object(&api.builtin("", "nodes"), "", name).await?;
                let vouched = node.is_some_and(|(node, _)| node_has(&node, names));
                waits |= !vouched;
                vouched.then_some("Auto approving kubelet serving certificate: the node has all its addresses.")
            }
            Grant::No => None,
        };
        if let Some(why) = why {
            api.modify(key, |request| {
                let open = !has(request, "Approved") && !has(request, "Denied");
                if open {
                    condition(request, "Approved", "AutoApproved", why);
                }
                open
            })
            .await?;
            return Ok(false);
        }
    }
    Ok(waits)
}

fn condition(request: &mut Value, kind: &str, reason: &str, message: &str) {
    let now = client::now();
    conditions_set(request, kind, "True", reason, message, now);
    for condition in meta::items_mut(request, &["status", "conditions"]).filter(|condition| condition["type"] == kind) {
        condition["lastUpdateTime"] = resources::decode::format_time(now, 0).into();
    }
}

/// Whether the one who made the request may have it approved.
fn may(api: &Api, request: &Value, subresource: &str) -> bool {
    let spec = &request["spec"];
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let user = User {
        name: spec["username"].as_str().unwrap_or_default().to_owned(),
        groups: list(&spec["groups"]),
        ..User::default()
    };
    let action = Action {
        verb: "create".into(),
        group: "certificates.k8s.io".into(),
        resource: "certificatesigningrequests".into(),
        subresource: subresource.into(),
        ..Action::default()
    };
    api.rbac.view().allows(&user, &action).is_some()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    use super::*;

    fn request(signer: &str, name: &str, groups: &[&str], alternatives: &[&str], usages: &[&str]) -> Value {
        let mut params = CertificateParams::new(alternatives.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
            .expect("names are good");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for (at, group) in groups.iter().enumerate() {
            let kind = if at == 0 { DnType::OrganizationName } else { DnType::CustomDnType(vec![2, 5, 4, 10]) };
            params.distinguished_name.push(kind, *group);
        }
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"signerName": signer, "username": name, "groups": [NODES], "usages": usages,
                "request": STANDARD.encode(pem)}})
    }

    const FOR_CLIENT: &[&str] = &["digital signature", "client auth"];
    const FOR_SERVER: &[&str] = &["digital signature", "server auth", "key encipherment"];

    #[test]
    fn each_signer_has_its_rules() {
        let node = "system:node:n1";
        // Signer, common name, organizations, alternative names, usages, fault.
        type Case = (
            &'static str,
            &'static str,
            &'static [&'static str],
            &'static [&'static str],
            &'static [&'static str],
            &'static str,
        );
        let cases: &[Case] = &[
            (NODE_CLIENT, node, &[NODES], &[], FOR_CLIENT, ""),
            (NODE_CLIENT, node, &[NODES], &["n1"], FOR_CLIENT, "DNS subjectAltNames are not allowed"),
            (NODE_CLIENT, "ann", &[NODES], &[], FOR_CLIENT, "subject common name does not begin with system:node:"),
            (NODE_CLIENT, node, &["system:masters"], &[], FOR_CLIENT, "subject organization is not system:nodes"),
            (
                NODE_CLIENT,
                node,
                &[NODES, "system:masters"],
                &[],
                FOR_CLIENT,
                "subject organization is not system:nodes",
            ),
            (NODE_CLIENT, node, &[NODES], &[], FOR_SERVER, "usages did not match"),
            (NODE_SERVING, node, &[NODES], &["n1", "10.0.0.7"], FOR_SERVER, ""),
            (NODE_SERVING, node, &[NODES], &[], FOR_SERVER, "DNS or IP subjectAltName is required"),
            (NODE_SERVING, node, &[NODES], &["n1"], FOR_CLIENT, "usages did not match"),
            (CLIENT, "ann", &["crew"], &[], FOR_CLIENT, ""),
            (CLIENT, "ann", &["system:masters"], &[], FOR_CLIENT, "organization system:masters is not allowed"),
            (CLIENT, "ann", &["crew", "system:masters"], &[], FOR_CLIENT, "system:masters is not allowed"),
            (CLIENT, "ann", &["crew", "cooks"], &[], FOR_CLIENT, "more than one organization"),
            (CLIENT, "ann", &[], &[], &["server auth"], "usages did not match"),
            ("example.com/mine", "ann", &[], &[], FOR_CLIENT, "not this cluster's"),
        ];
        for (signer, name, groups, alternatives, usages, fault) in cases {
            let found = judge(&request(signer, name, groups, alternatives, usages)).err().unwrap_or_default();
            assert!(
                found.contains(fault) && found.is_empty() == fault.is_empty(),
                "{signer} {name} {groups:?}: {found}"
            );
        }
    }

    #[test]
    fn who_is_approved_without_a_person() {
        let kinds = |request: &Value| {
            let judged = judge(request).unwrap();
            grant(request, &judged)
        };
        let mut first = request(NODE_CLIENT, "system:node:n1", &[NODES], &[], FOR_CLIENT);
        assert!(matches!(kinds(&first)[0], Grant::IfAllowed("selfnodeclient", _)));
        first["spec"]["username"] = "system:bootstrap:abcdef".into();
        assert!(matches!(kinds(&first)[..], [Grant::IfAllowed("nodeclient", _)]));
        let mut serving = request(NODE_SERVING, "system:node:n1", &[NODES], &["n1", "10.0.0.7"], FOR_SERVER);
        let [Grant::IfNodeHas(name, names)] = &kinds(&serving)[..] else { panic!() };
        assert_eq!(name, "n1");
        let node = |addresses: &[&str]| {
            let list: Vec<Value> = addresses.iter().map(|address| json!({"address": address})).collect();
            json!({"status": {"addresses": list}})
        };
        assert!(node_has(&node(&["10.0.0.7", "N1", "x"]), names));
        assert!(!node_has(&node(&["10.0.0.8", "n1"]), names));
        serving["spec"]["username"] = "system:node:n2".into();
        assert_eq!(kinds(&serving), [Grant::No]);
        assert_eq!(kinds(&request(CLIENT, "ann", &[], &[], FOR_CLIENT)), [Grant::No]);
    }

    #[test]
    fn requests_are_kept_for_a_while() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut request = request(CLIENT, "ann", &[], &[], FOR_CLIENT);
        assert!(!is_over(&request, at("2026-01-01T23:00:00Z")));
        assert!(is_over(&request, at("2026-01-02T00:30:00Z")));
        request["status"] = json!({"conditions": [{"type": "Approved", "lastUpdateTime": "2026-01-02T00:00:00Z"}]});
        assert!(is_over(&request, at("2026-01-02T00:30:00Z")), "approved, but by whom should it be signed?");
        request["status"]["certificate"] = "x".into();
        assert!(!is_over(&request, at("2026-01-02T00:30:00Z")));
        assert!(is_over(&request, at("2026-01-02T01:30:00Z")));
    }

    #[test]
    fn what_is_signed_is_what_was_judged() {
        let authority = Authority::open(None).unwrap();
        let judged = judge(&request(CLIENT, "ann", &["crew"], &[], FOR_CLIENT)).unwrap();
        let pem = authority.sign_request(judged.params, &judged.name, judged.lifetime).unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let user = crate::authn::certificate_user(&STANDARD.decode(body).unwrap()).unwrap();
        assert_eq!(
            (user.name.as_str(), &user.groups[..]),
            ("ann", &["crew".to_owned(), "system:authenticated".into()][..])
        );
    }
}
