//! Who somebody is, as others can tell, and what roles let them do.

#[path = "support/wire.rs"]
mod wire;

use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Value, json};
use wire::Wire;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Whoever is shown a token finds the issuer's keys by the issuer's own word, and needs nothing else to judge it.
#[tokio::test]
async fn a_third_party_can_judge_a_token() {
    let mut client = Wire::start().await;
    client.account("default").await;
    let request = json!({"spec": {"expirationSeconds": 600, "audiences": ["vault"]}});
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = client.post(tokens, &request).await.json()["status"]["token"].as_str().unwrap().to_owned();
    let decoded = |part: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap() };
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (head, claims) = signed.split_once('.').map(|(head, claims)| (decoded(head), decoded(claims))).unwrap();

    let discovery = client.get("/.well-known/openid-configuration").await.json();
    assert_eq!((&discovery["issuer"], &claims["aud"]), (&claims["iss"], &json!(["vault"])));
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    assert_eq!(discovery["id_token_signing_alg_values_supported"], json!([head["alg"]]));
    let keys_at = discovery["jwks_uri"].as_str().unwrap();
    let keys_at = keys_at.strip_prefix(discovery["issuer"].as_str().unwrap()).unwrap();
    let keys = client.get(keys_at).await.json();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == head["kid"]).unwrap();
    assert_eq!((&key["kty"], &key["crv"]), (&json!("EC"), &json!("P-256")));
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    key.verify(signed.as_bytes(), &signature).unwrap();
    assert!(key.verify(format!("{signed}x").as_bytes(), &signature).is_err());
}

/// A cluster role that gathers others lets its people do what those say, as long as they say it.
#[tokio::test]
async fn roles_follow_those_that_they_gather() {
    let mut client = Wire::start().await;
    let role = |name: &str, more: Value| {
        let mut role = json!({"metadata": {"name": name}});
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        role
    };
    let gathers = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"into": "sum"}}]}, "rules": []});
    let binding = json!({"metadata": {"name": "ann"}, "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sum"}});
    let part = json!({"metadata": {"name": "part", "labels": {"into": "sum"}},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
    for (path, object) in [("clusterroles", role("sum", gathers)), ("clusterrolebindings", binding)] {
        assert_eq!(client.post(&format!("{RBAC}/{path}"), &object).await.code, 201, "{object}");
    }
    let becomes = async |client: &mut Wire, code: u16| {
        client.token = "plain".into();
        let deadline = Instant::now() + Duration::from_secs(60);
        while client.get(MAPS).await.code != code {
            assert!(Instant::now() < deadline, "it never becomes {code}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.token = "secret".into();
    };
    becomes(&mut client, 403).await;
    assert_eq!(client.post(&format!("{RBAC}/clusterroles"), &part).await.code, 201);
    becomes(&mut client, 200).await;
    let sum = client.get(&format!("{RBAC}/clusterroles/sum")).await.json();
    assert_eq!(sum["rules"], part["rules"]);
    assert_eq!(client.send(Method::DELETE, &format!("{RBAC}/clusterroles/part"), &[], "").await.code, 200);
    becomes(&mut client, 403).await;
}
