//! Tokens by which nodes join: bootstrap tokens as Kubernetes keeps them, shown together with the digest of the cluster's
//! authority (`K10DIGEST::ID.SECRET`), so that who holds one knows whom it may be shown to.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Client, DeleteOptions, Gvr, Selectors, Status};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const SECRETS: Gvr = Gvr::new("", "v1", "secrets");
const SYSTEM: &str = "kube-system";
const KIND: &str = "bootstrap.kubernetes.io/token";
const PREFIX: &str = "bootstrap-token-";
const GROUP: &str = "system:bootstrappers:knarr:nodes";

/// A token as it is handed over.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the authority's PEM, in hex; `None` if whoever wrote it left it out.
    pub authority: Option<String>,
    pub id: String,
    pub secret: String,
}

impl std::fmt::Debug for Token {
    /// Logs show which token it is and never the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "token {}", self.id)
    }
}

impl Token {
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (authority, rest) = match text.strip_prefix("K10") {
            None => (None, text),
            Some(rest) => {
                let (digest, rest) = rest.split_once("::").ok_or("a token that begins with K10 has '::' in it")?;
                if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err("what follows K10 in a token is no SHA-256 digest".into());
                }
                (Some(digest.to_ascii_lowercase()), rest)
            }
        };
        let plain = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        match rest.split_once('.') {
            Some((id, secret)) if plain(id, 6) && plain(secret, 16) => {
                Ok(Self { authority, id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => {
                Err("a token ends with six letters or digits, a dot and sixteen more (abcdef.0123456789abcdef)".into())
            }
        }
    }

    /// A new one for the cluster of this authority.
    pub fn random(authority_pem: &str) -> Self {
        let (id, secret) = (letters::<6>(), letters::<16>());
        Self { authority: Some(digest(authority_pem)), id, secret }
    }

    /// What is shown to the API.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The whole, as it is handed over.
    pub fn show(&self) -> String {
        match &self.authority {
            Some(digest) => format!("K10{digest}::{}", self.bearer()),
            None => self.bearer(),
        }
    }
}

/// Random letters and digits.
fn letters<const N: usize>() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // Small requests are never cut short, but the system call may be interrupted.
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes.iter().map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()] as char).collect()
}

/// The digest by which an authority is known.
pub fn digest(authority_pem: &str) -> String {
    Sha256::digest(authority_pem.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The secret that makes the API believe a token. Pure.
fn secret(token: &Token, until: Option<Timestamp>, description: &str) -> Value {
    let mut data = json!({"token-id": token.id, "token-secret": token.secret, "usage-bootstrap-authentication": "true",
        "auth-extra-groups": GROUP});
    if let Some(until) = until {
        data["expiration"] = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    }
    if !description.is_empty() {
        data["description"] = description.into();
    }
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{PREFIX}{}", token.id), "namespace": SYSTEM},
        "type": KIND, "stringData": data})
}

/// Makes the API believe a token, for a while or for good.
pub async fn create(api: &Client, token: &Token, ttl: Option<Duration>, description: &str) -> Result<(), Status> {
    let until = ttl.map(|ttl| Timestamp::now().saturating_add(ttl).unwrap_or(Timestamp::MAX));
    match api.create(&SECRETS, SYSTEM, &secret(token, until, description)).await {
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        other => other.map(drop),
    }
}

/// A token as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub token: Token,
    pub expires: Option<String>,
    pub description: String,
}

/// Reads what [`secret`] writes; `None` for other secrets.
fn listed(object: &Value) -> Option<Listed> {
    if object["type"] != KIND {
        return None;
    }
    let text = |key: &str| {
        let raw = STANDARD.decode(object["data"][key].as_str()?).ok()?;
        String::from_utf8(raw).ok()
    };
    let token = Token { authority: None, id: text("token-id")?, secret: text("token-secret")? };
    Some(Listed { token, expires: text("expiration"), description: text("description").unwrap_or_default() })
}

pub async fn list(api: &Client) -> Result<Vec<Listed>, Status> {
    let selectors = Selectors { fields: format!("type={KIND}"), ..Selectors::default() };
    let all = api.list(&SECRETS, SYSTEM, &selectors).await?;
    Ok(all.items.iter().filter_map(listed).collect())
}

pub async fn delete(api: &Client, id: &str) -> Result<(), Status> {
    api.delete(&SECRETS, SYSTEM, &format!("{PREFIX}{id}"), &DeleteOptions::default()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_they_are_shown() {
        let token = Token::random("-----BEGIN");
        assert_eq!(Token::parse(&token.show()).unwrap(), token);
        assert_eq!(Token::parse("abcdef.0123456789abcdef\n").unwrap().bearer(), "abcdef.0123456789abcdef");
        let long = format!("K10{}::abcdef.0123456789abcdef", "0".repeat(64));
        assert_eq!(Token::parse(&long).unwrap().show(), long);
        for bad in [
            "",
            "abcdef",
            "abcde.0123456789abcdef",
            "ABCDEF.0123456789abcdef",
            "K10xx::abcdef.0123456789abcdef",
            "K10abcdef.0123456789abcdef",
        ] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", Token::parse(&long).unwrap()), "token abcdef");
    }

    #[test]
    fn secrets_are_bootstrap_tokens() {
        let token = Token::parse("abcdef.0123456789abcdef").unwrap();
        let made = secret(&token, Some("2026-01-02T03:04:05Z".parse().unwrap()), "why");
        assert_eq!(made["metadata"]["name"], "bootstrap-token-abcdef");
        assert_eq!(made["stringData"]["expiration"], "2026-01-02T03:04:05Z");
        let mut stored = made.clone();
        for (key, text) in made["stringData"].as_object().unwrap() {
            stored["data"][key] = STANDARD.encode(text.as_str().unwrap()).into();
        }
        let read = listed(&stored).unwrap();
        assert_eq!((read.token, read.description.as_str()), (token, "why"));
        assert!(listed(&json!({"type": "Opaque"})).is_none());
    }
}
