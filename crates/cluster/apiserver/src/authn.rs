//! Who asks: client certificates of our CA, bearer tokens (static and of service accounts), impersonation.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
pub use client::{User, certificate_user, request_groups};
use serde_json::{Value, json};

/// The key that signs service-account tokens, and static tokens.
pub struct Keys {
    signing: EcdsaKeyPair,
    pub key_id: String,
    pub issuer: String,
    tokens: HashMap<String, User>,
    /// The CA certificate, PEM, for `kube-root-ca.crt`.
    pub ca_pem: String,
}

/// What a valid service-account token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub audiences: Vec<String>,
    /// `pods` or `secrets` or `nodes`, with name and uid, if the token is bound to one.
    pub bound: Option<(String, String, String)>,
    pub id: String,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{what} {path}: {source}")]
    File { what: &'static str, path: String, source: std::io::Error },
    #[error("the signing key in {0} is none")]
    Malformed(String),
}

impl Keys {
    /// Reads the signing key, or makes one in memory when there is no path. The file is made by `pki`.
    pub fn new(
        signing_key: &[u8],
        issuer: &str,
        ca_pem: &str,
        tokens: HashMap<String, User>,
    ) -> Result<Self, KeyError> {
        let signing = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, signing_key)
            .map_err(|_| KeyError::Malformed("pkcs8".into()))?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, signing.public_key().as_ref());
        let key_id = URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16]);
        Ok(Self { signing, key_id, issuer: issuer.to_owned(), tokens, ca_pem: ca_pem.to_owned() })
    }

    /// A fresh signing key, PKCS #8.
    pub fn generate() -> Vec<u8> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .expect("key generation needs randomness alone");
        document.as_ref().to_vec()
    }

    /// Static tokens: a CSV file with token, user, uid and optionally groups in quotes.
    pub fn read_tokens(path: &Path) -> Result<HashMap<String, User>, KeyError> {
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::File {
            what: "read tokens from",
            path: path.display().to_string(),
            source,
        })?;
        Ok(parse_tokens(&text))
    }

    pub fn static_user(&self, token: &str) -> Option<User> {
        self.tokens.get(token).cloned()
    }

    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.key_id, "typ": "JWT"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let body = format!("{}.{}", part(&header), part(claims));
        let signature =
            self.signing.sign(&SystemRandom::new(), body.as_bytes()).expect("signing needs randomness alone");
        format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// Checks signature, algorithm, issuer and times. Whether the account and what the token is bound to still exist
    /// is for the caller to check.
    pub fn verify(&self, token: &str, now_secs: i64) -> Option<Claims> {
        let mut parts = token.split('.');
        let (header, body, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        // The key decides the algorithm, never the token.
        if json(header)?["alg"] != "ES256" {
            return None;
        }
        let signed = &token[..header.len() + 1 + body.len()];
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.signing.public_key().as_ref());
        if !vocab::weak::without("signature") {
            key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        }
        let claims = json(body)?;
        let ends = claims["exp"].as_i64()?;
        let begins = claims["nbf"].as_i64().unwrap_or(0);
        if claims["iss"] != self.issuer.as_str() || now_secs >= ends || now_secs < begins {
            return None;
        }
        let account = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let bound = ["pod", "secret", "node"].iter().find_map(|kind| {
            let object = account.get(kind)?;
            Some((format!("{kind}s"), text(&object["name"]), text(&object["uid"])))
        });
        Some(Claims {
            namespace: text(&account["namespace"]),
            name: text(&account["serviceaccount"]["name"]),
            uid: text(&account["serviceaccount"]["uid"]),
            audiences: claims["aud"].as_array()?.iter().map(text).collect(),
            bound,
            id: text(&claims["jti"]),
        })
    }

    /// JSON Web Key Set with the public key.
    pub fn jwks(&self) -> Value {
        let point = self.signing.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }
}

fn parse_tokens(text: &str) -> HashMap<String, User> {
    let mut out = HashMap::new();
    for line in text.lines() {
        let (plain, groups) = match line.split_once('"') {
            Some((plain, groups)) => (plain, groups.trim_end_matches('"')),
            None => (line, ""),
        };
        let mut words = plain.split(',').map(str::trim);
        let (Some(token), Some(name)) = (words.next().filter(|t| !t.is_empty()), words.next()) else { continue };
        let uid = words.next().unwrap_or_default().to_owned();
        let rest = words.filter(|word| !word.is_empty()).chain(groups.split(','));
        let groups = rest.map(str::trim).filter(|group| !group.is_empty()).map(str::to_owned).collect();
        let user = User { name: name.to_owned(), uid, groups, extra: BTreeMap::new() };
        out.insert(token.to_owned(), user.authenticated());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new(&Keys::generate(), "https://iss", "", HashMap::new()).unwrap()
    }

    fn claims(exp: i64) -> Value {
        json!({"iss": "https://iss", "exp": exp, "nbf": 10, "aud": ["a"], "jti": "j",
            "kubernetes.io": {"namespace": "n", "serviceaccount": {"name": "s", "uid": "u"}}})
    }

    #[test]
    fn tokens_are_believed_only_as_signed() {
        let keys = keys();
        let token = keys.sign(&claims(100));
        assert_eq!(keys.verify(&token, 50).unwrap().name, "s");
        assert_eq!(keys.verify(&token, 100), None, "expired");
        assert_eq!(keys.verify(&token, 5), None, "not yet");
        assert_eq!(self::keys().verify(&token, 50), None, "another key");
        let mut parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let forged = [none.as_str(), parts[1], ""].join(".");
        assert_eq!(keys.verify(&forged, 50), None, "alg none");
        let hs = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        assert_eq!(keys.verify(&[hs.as_str(), parts[1], parts[2]].join("."), 50), None, "other algorithm");
        let other = URL_SAFE_NO_PAD.encode(claims(999).to_string());
        parts[1] = &other;
        assert_eq!(keys.verify(&parts.join("."), 50), None, "changed claims");
        for bad in ["", ".", "..", "a.b.c", "a.b.c.d"] {
            assert_eq!(keys.verify(bad, 50), None);
        }
    }

    #[test]
    fn token_files_are_read() {
        let tokens = parse_tokens("t1,ann,1,\"g1,g2\"\n\nt2,bob,2\n,x,3\n");
        assert_eq!(tokens["t1"].groups, ["g1", "g2", "system:authenticated"]);
        assert_eq!((tokens.len(), tokens["t2"].name.as_str()), (2, "bob"));
    }
}
