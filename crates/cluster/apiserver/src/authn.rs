//! Who asks: client certificates of our CA, bearer tokens (static and of service accounts), impersonation.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Someone who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }

    /// A part of the cluster itself, such as `system:kube-scheduler`.
    pub fn component(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }.authenticated()
    }

    /// The administrator of the cluster.
    pub fn admin() -> Self {
        Self { name: "kubernetes-admin".into(), groups: vec!["system:masters".into()], ..Self::default() }
            .authenticated()
    }

    /// The agent of a node.
    pub fn node(name: &str) -> Self {
        Self { name: format!("system:node:{name}"), groups: vec!["system:nodes".into()], ..Self::default() }
            .authenticated()
    }

    /// The user with the group that everyone known is in.
    pub fn authenticated(mut self) -> Self {
        let all = "system:authenticated";
        if !self.groups.iter().any(|group| group == all) {
            self.groups.push(all.into());
        }
        self
    }

    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")],
            extra: BTreeMap::new(),
        }
        .authenticated()
    }

    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == "system:masters")
    }

    pub fn to_value(&self) -> Value {
        let mut out = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            out["uid"] = self.uid.as_str().into();
        }
        if !self.extra.is_empty() {
            out["extra"] = json!(self.extra);
        }
        out
    }
}

/// The subject of a certificate that TLS has verified: common name is the user, organizations are the groups.
pub fn certificate_user(der: &[u8]) -> Option<User> {
    let (_, certificate, _) = tlv(der)?;
    let (_, tbs, _) = tlv(certificate)?;
    let mut rest = tbs;
    // [0] version (optional), serial, algorithm, issuer, validity, subject.
    let (tag, _, after) = tlv(rest)?;
    if tag == 0xa0 {
        rest = after;
    }
    for _ in 0..4 {
        rest = tlv(rest)?.2;
    }
    let (_, subject, _) = tlv(rest)?;
    let user = subject_user(subject)?;
    (!user.name.is_empty()).then(|| user.authenticated())
}

/// The organizations that a certificate request (base64 of PEM) asks for; `None` if it cannot be read.
pub fn request_groups(request: &str) -> Option<Vec<String>> {
    use base64::engine::general_purpose::STANDARD;
    let pem = String::from_utf8(STANDARD.decode(request).ok()?).ok()?;
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let der = STANDARD.decode(body).ok()?;
    let (_, whole, _) = tlv(&der)?;
    let (_, info, _) = tlv(whole)?;
    let (_, _, rest) = tlv(info)?;
    let (_, subject, _) = tlv(rest)?;
    subject_user(subject).map(|user| user.groups)
}

/// Common name and organizations of a subject.
fn subject_user(mut subject: &[u8]) -> Option<User> {
    let mut user = User::default();
    while !subject.is_empty() {
        let (_, mut set, after) = tlv(subject)?;
        subject = after;
        while !set.is_empty() {
            let (_, attribute, after) = tlv(set)?;
            set = after;
            let (_, oid, value) = tlv(attribute)?;
            let text = std::str::from_utf8(tlv(value)?.1).ok()?.to_owned();
            match oid {
                [0x55, 0x04, 0x03] => user.name = text,
                [0x55, 0x04, 0x0a] => user.groups.push(text),
                _ => {}
            }
        }
    }
    Some(user)
}

/// One DER element: tag, content, what follows.
fn tlv(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        length = 0;
        for byte in rest.get(..count)? {
            length = length << 8 | usize::from(*byte);
        }
        rest = &rest[count..];
    }
    Some((tag, rest.get(..length)?, &rest[length..]))
}

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
        key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
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
