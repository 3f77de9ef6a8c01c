//! Which of a pod's pull secrets open the registry of an image. Pure.

use std::collections::BTreeMap;

use base64::Engine as _;
use resources::{Value, meta};

use crate::container;
use crate::runtime::Login;

const HUB: &str = "docker.io";

/// The logins that `secrets` have for an image, the ones meant for it most closely first.
pub fn logins(image: &str, secrets: &[&Value]) -> Vec<Login> {
    let Ok(reference) = image.parse::<vocab::Reference>() else { return Vec::new() };
    let (host, path) = (reference.domain(), format!("/{}", reference.path()));
    let mut found: Vec<(String, Login)> = Vec::new();
    for secret in secrets {
        for (place, login) in entries(secret) {
            let (place_host, place_path) = split(&place);
            let whole_parts = path == place_path
                || place_path.is_empty()
                || path.strip_prefix(place_path.as_str()).is_some_and(|rest| rest.starts_with('/'));
            if host_matches(&place_host, host) && whole_parts {
                found.push((place, login));
            }
        }
    }
    // Longest first within a host, which the reverse order of the text gives.
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    let mut logins: Vec<Login> = Vec::new();
    for (_, login) in found {
        if !logins.contains(&login) {
            logins.push(login);
        }
    }
    logins
}

/// Registry and login, as the two kinds of secret write them.
fn entries(secret: &Value) -> BTreeMap<String, Login> {
    let data = container::data(secret);
    let parsed = |key: &str| data.get(key).and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    let auths = match secret["type"].as_str() {
        Some("kubernetes.io/dockerconfigjson") => parsed(".dockerconfigjson").map(|config| config["auths"].clone()),
        Some("kubernetes.io/dockercfg") => parsed(".dockercfg"),
        _ => None,
    };
    let auths = auths.unwrap_or_default();
    meta::map_at(&auths, &[]).filter_map(|(place, entry)| Some((place.clone(), login(entry)?))).collect()
}

fn login(entry: &Value) -> Option<Login> {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let mut login =
        Login { username: text("username"), password: text("password"), identity_token: text("identitytoken") };
    if let Some(auth) = entry["auth"].as_str().filter(|auth| !auth.is_empty()) {
        let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
        let pair = String::from_utf8(bytes).ok()?;
        let (username, password) = pair.split_once(':')?;
        (login.username, login.password) = (username.to_owned(), password.trim_end_matches('\0').to_owned());
    }
    (login != Login::default()).then_some(login)
}

/// Host, with the Hub under its one name, and the path without what older clients append.
fn split(place: &str) -> (String, String) {
    let bare = place.strip_prefix("https://").or_else(|| place.strip_prefix("http://")).unwrap_or(place);
    let (host, path) = match bare.split_once('/') {
        Some((host, path)) => (host, format!("/{}", path.trim_end_matches('/'))),
        None => (bare, String::new()),
    };
    let path = match path.as_str() {
        "/" | "/v1" | "/v2" => String::new(),
        _ => path.strip_prefix("/v1/").or_else(|| path.strip_prefix("/v2/")).map_or(path.clone(), |p| format!("/{p}")),
    };
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { HUB } else { host };
    (host.to_owned(), path)
}

/// Parts between dots, each with `*` for any text; the port must be the same.
fn host_matches(pattern: &str, host: &str) -> bool {
    let port = |text: &str| text.split_once(':').map(|(_, port)| port.to_owned());
    let parts = |text: &str| -> Vec<String> {
        text.split(':').next().unwrap_or_default().split('.').map(str::to_owned).collect()
    };
    let (ours, theirs) = (parts(pattern), parts(host));
    port(pattern) == port(host)
        && ours.len() == theirs.len()
        && ours.iter().zip(&theirs).all(|(pattern, text)| glob(pattern.as_bytes(), text.as_bytes()))
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        Some((b'?', rest)) => !text.is_empty() && glob(rest, &text[1..]),
        Some((byte, rest)) => text.first() == Some(byte) && glob(rest, &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(auths: Value) -> Value {
        let text = json!({"auths": auths}).to_string();
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        json!({"kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": encoded}})
    }

    fn users(image: &str, secrets: &[Value]) -> String {
        let secrets: Vec<&Value> = secrets.iter().collect();
        logins(image, &secrets).iter().map(|login| login.username.clone()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_closest_login_of_the_right_registry_comes_first() {
        let user = |name: &str| json!({"username": name, "password": "x"});
        let many = [secret(json!({
            "https://index.docker.io/v1/": user("hub"),
            "r.example:5000": user("all"),
            "r.example:5000/team": user("team"),
            "*.cloud.example": user("any"),
        }))];
        let rows = [
            ("busybox", "hub"),
            ("docker.io/me/app:1", "hub"),
            ("r.example:5000/app", "all"),
            ("r.example:5000/team/app", "team all"),
            ("r.example:5000/teams/app", "all"),
            ("r.example/app", ""),
            ("eu.cloud.example/app", "any"),
            ("a.eu.cloud.example/app", ""),
        ];
        for (image, expected) in rows {
            assert_eq!(users(image, &many), expected, "{image}");
        }
    }

    #[test]
    fn both_kinds_of_secret_are_read_and_broken_ones_are_nothing() {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let old = json!({"kind": "Secret", "type": "kubernetes.io/dockercfg",
            "data": {".dockercfg": encode(&json!({"r.example": {"auth": encode("me:p:w")}}).to_string())}});
        let got = logins("r.example/a", &[&old]);
        assert_eq!((got[0].username.as_str(), got[0].password.as_str()), ("me", "p:w"));
        for bad in ["", "{", "[]", "{\"auths\": 3}", "{\"auths\": {\"r.example\": {\"auth\": \"?\"}}}"] {
            let broken = json!({"kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
                "data": {".dockerconfigjson": encode(bad)}});
            assert!(logins("r.example/a", &[&broken]).is_empty(), "{bad}");
        }
    }
}
