//! Who may do what. Users prove themselves with a password at every request, or once for a token that says what it allows.
//!
//! Tokens are signed with a key that only this registry has; nothing that a token says about keys is looked at. A wrong
//! password and an unknown user are the same answer after the same work.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{constant_time, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::error::{Code, Outcome, Refusal};
use crate::body::Body;
use crate::names::Repository;
use crate::query::Query;

/// OWASP's figure for PBKDF2 with SHA-256 is 600,000; a registry's password is also checked at every request of a basic
/// client, so what was right is remembered.
const ROUNDS: u32 = 600_000;
const TOKEN_SECS: u64 = 300;
/// Identity tokens stand for a login until the key changes; a year bounds a forgotten one.
const REFRESH_SECS: u64 = 365 * 24 * 3600;
const REMEMBERED_MAX: usize = 1024;
const SERVICE: &str = "knarr-registry";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    const ALL: [Action; 3] = [Action::Pull, Action::Push, Action::Delete];

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "pull" => Action::Pull,
            "push" => Action::Push,
            "delete" => Action::Delete,
            _ => return None,
        })
    }

    fn text(self) -> &'static str {
        match self {
            Action::Pull => "pull",
            Action::Push => "push",
            Action::Delete => "delete",
        }
    }
}

/// What is allowed where. The pattern is a repository's name, or the beginning of one followed by `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pattern: String,
    actions: Vec<Action>,
}

impl Grant {
    pub fn everything() -> Self {
        Self { pattern: "*".into(), actions: Action::ALL.to_vec() }
    }

    pub fn everywhere(actions: Vec<Action>) -> Self {
        Self { pattern: "*".into(), actions }
    }

    /// `team/*=pull,push`
    pub fn parse(text: &str) -> Option<Self> {
        let (pattern, actions) = text.split_once('=')?;
        let actions = match actions {
            "*" => Action::ALL.to_vec(),
            actions => actions.split(',').map(Action::parse).collect::<Option<_>>()?,
        };
        (!pattern.is_empty()).then(|| Self { pattern: pattern.to_owned(), actions })
    }

    fn allows(&self, repository: &str, action: Action) -> bool {
        let hit = match self.pattern.strip_suffix('*') {
            Some(start) => repository.starts_with(start),
            None => self.pattern == repository,
        };
        hit && self.actions.contains(&action)
    }
}

/// Somebody with a password, which is not kept.
#[derive(Clone)]
pub struct User {
    name: String,
    salt: Vec<u8>,
    rounds: NonZeroU32,
    hash: Vec<u8>,
    grants: Vec<Grant>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("grants", &self.grants).finish_non_exhaustive()
    }
}

impl User {
    /// A line of a users file: `name:pbkdf2-sha256$rounds$salt$hash[:grant;grant]`. Without grants: everything.
    pub fn parse(line: &str) -> Result<Self, String> {
        let wrong = || "expected NAME:pbkdf2-sha256$ROUNDS$SALT$HASH[:PATTERN=ACTIONS;...]".to_owned();
        let mut fields = line.splitn(3, ':');
        let (name, secret) = (fields.next().ok_or_else(wrong)?, fields.next().ok_or_else(wrong)?);
        let mut parts = secret.split('$');
        let (Some("pbkdf2-sha256"), Some(rounds), Some(salt), Some(hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let grants = match fields.next().filter(|text| !text.is_empty()) {
            None => vec![Grant::everything()],
            Some(text) => text.split(';').map(Grant::parse).collect::<Option<_>>().ok_or_else(wrong)?,
        };
        if name.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            name: name.to_owned(),
            rounds: rounds.parse().map_err(|_| wrong())?,
            salt: hex::decode(salt).map_err(|_| wrong())?,
            hash: hex::decode(hash).map_err(|_| wrong())?,
            grants,
        })
    }

    /// The line for a new user.
    pub fn line(name: &str, password: &str) -> Result<String, String> {
        if name.is_empty() || name.contains([':', '\n', '\r']) {
            return Err(format!("user name {name:?}: it may not be empty or hold a colon"));
        }
        let mut salt = [0; 16];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| "no random numbers".to_owned())?;
        let hash = derive(password, &salt, NonZeroU32::new(ROUNDS).ok_or("rounds")?);
        Ok(format!("{name}:pbkdf2-sha256${ROUNDS}${}${}", hex::encode(salt), hex::encode(hash)))
    }

    /// The users of a file; empty lines and lines that begin with `#` say nothing.
    pub fn read_file(path: &Path) -> Result<Vec<Self>, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("read {}: {e}", path.display()))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        lines
            .map(|(at, line)| Self::parse(line.trim()).map_err(|e| format!("{} line {}: {e}", path.display(), at + 1)))
            .collect()
    }
}

fn derive(password: &str, salt: &[u8], rounds: NonZeroU32) -> [u8; 32] {
    let mut out = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password.as_bytes(), &mut out);
    out
}

/// How callers prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    #[default]
    Basic,
    Token,
}

/// Who asks, and what they may.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) name: Option<String>,
    grants: Vec<Grant>,
}

impl Caller {
    pub(crate) fn may(&self, repository: &Repository, action: Action) -> bool {
        self.grants.iter().any(|grant| grant.allows(repository.as_str(), action))
    }
}

pub(crate) struct Access {
    users: Vec<User>,
    anonymous: Vec<Grant>,
    method: Method,
    key: hmac::Key,
    /// Passwords that were right, as signatures that nobody else can make.
    remembered: Mutex<HashMap<Vec<u8>, usize>>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    /// Whether it may be exchanged for tokens, or is one.
    refresh: bool,
    grants: Vec<Grant>,
}

impl Access {
    pub(crate) fn new(users: Vec<User>, anonymous: Vec<Grant>, method: Method, key: &[u8]) -> Self {
        Self { users, anonymous, method, key: hmac::Key::new(hmac::HMAC_SHA256, key), remembered: Mutex::default() }
    }

    /// Whether everybody may do everything.
    pub(crate) fn is_open(&self) -> bool {
        self.users.is_empty()
    }

    /// The caller of a request. Credentials that are wrong are refused even where nobody needs any.
    pub(crate) fn caller(&self, headers: &HeaderMap, challenge: &Challenge) -> Outcome<Caller> {
        if self.is_open() {
            return Ok(Caller { name: None, grants: vec![Grant::everything()] });
        }
        let refused = || self.refusal(challenge);
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Ok(Caller { name: None, grants: self.anonymous.clone() });
        };
        let value = value.to_str().map_err(|_| refused())?;
        let (scheme, rest) = value.split_once(' ').ok_or_else(refused)?;
        if scheme.eq_ignore_ascii_case("basic") {
            let user = basic(rest).and_then(|(name, password)| self.verify(&name, &password)).ok_or_else(refused)?;
            return Ok(Caller { name: Some(user.name.clone()), grants: user.grants.clone() });
        }
        if scheme.eq_ignore_ascii_case("bearer") && self.method == Method::Token {
            let claims = self.open(rest.trim()).filter(|claims| !claims.refresh).ok_or_else(refused)?;
            let name = (!claims.sub.is_empty()).then_some(claims.sub);
            return Ok(Caller { name, grants: claims.grants });
        }
        Err(refused())
    }

    /// Lets the request through or says how to prove more.
    pub(crate) fn demand(
        &self,
        caller: &Caller,
        repository: &Repository,
        action: Action,
        challenge: &Challenge,
    ) -> Outcome<()> {
        if caller.may(repository, action) {
            return Ok(());
        }
        match (&caller.name, self.method) {
            // Who is known and may not is told so; a token may merely be the wrong one.
            (Some(_), Method::Basic) => Err(Refusal::with(Code::Denied, repository.as_str())),
            _ => Err(self.refusal(challenge)),
        }
    }

    /// `/v2/` is what clients ask to learn whether a login is needed and right.
    pub(crate) fn demand_known(&self, caller: &Caller, challenge: &Challenge) -> Outcome<()> {
        match self.is_open() || caller.name.is_some() || (self.method == Method::Token && !caller.grants.is_empty()) {
            true => Ok(()),
            false => Err(self.refusal(challenge)),
        }
    }

    fn refusal(&self, challenge: &Challenge) -> Refusal {
        let text = match self.method {
            Method::Basic => format!("Basic realm=\"{SERVICE}\""),
            Method::Token => {
                let scope = match &challenge.scope {
                    Some((repository, actions)) => {
                        let actions: Vec<&str> = actions.iter().map(|action| action.text()).collect();
                        format!(",scope=\"repository:{repository}:{}\"", actions.join(","))
                    }
                    None => String::new(),
                };
                format!("Bearer realm=\"{}/token\",service=\"{SERVICE}\"{scope}", challenge.base)
            }
        };
        Refusal::new(Code::Unauthorized).header(WWW_AUTHENTICATE, text)
    }

    fn verify(&self, name: &str, password: &str) -> Option<&User> {
        let mark = hmac::sign(&self.key, format!("{}:{name}{password}", name.len()).as_bytes()).as_ref().to_vec();
        if let Some(at) = self.remembered.lock().unwrap_or_else(|e| e.into_inner()).get(&mark) {
            return self.users.get(*at);
        }
        let found = self.users.iter().position(|user| user.name == name);
        // An unknown name costs as much as a wrong password.
        let user = &self.users[found.unwrap_or(0)];
        let hash = derive(password, &user.salt, user.rounds);
        let right = constant_time::verify_slices_are_equal(&hash, &user.hash).is_ok();
        let at = found.filter(|_| right)?;
        let mut remembered = self.remembered.lock().unwrap_or_else(|e| e.into_inner());
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(mark, at);
        Some(user)
    }

    fn seal(&self, claims: &Claims) -> String {
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims).unwrap_or_default());
        let signature = hmac::sign(&self.key, payload.as_bytes());
        format!("{payload}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn open(&self, token: &str) -> Option<Claims> {
        let (payload, signature) = token.split_once('.')?;
        hmac::verify(&self.key, payload.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        (claims.exp > now()).then_some(claims)
    }

    /// The token endpoint: `GET` with basic credentials, or a form with a password or an identity token.
    pub(crate) fn token(&self, headers: &HeaderMap, query: &Query, form: Option<&Query>) -> Outcome<Response<Body>> {
        if self.method != Method::Token {
            return Err(Refusal::with(Code::NameUnknown, "no such path"));
        }
        let refused = || Refusal::new(Code::Unauthorized);
        let asked = form.unwrap_or(query);
        let (name, grants) = match (form.and_then(|form| form.get("grant_type")), headers.get(AUTHORIZATION)) {
            (Some("refresh_token"), _) => {
                let token = asked.get("refresh_token").unwrap_or_default();
                let claims = self.open(token).filter(|claims| claims.refresh).ok_or_else(refused)?;
                // What the user may is read anew: rights that were taken away are gone.
                let user = self.users.iter().find(|user| user.name == claims.sub).ok_or_else(refused)?;
                (user.name.clone(), user.grants.clone())
            }
            (Some("password"), _) => {
                let (name, password) = (asked.get("username").unwrap_or(""), asked.get("password").unwrap_or(""));
                let user = self.verify(name, password).ok_or_else(refused)?;
                (user.name.clone(), user.grants.clone())
            }
            (Some(_), _) => return Err(Refusal::with(Code::Unsupported, "grant_type")),
            (None, Some(value)) => {
                let value = value.to_str().ok().and_then(|value| value.split_once(' '));
                let (name, password) = value
                    .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
                    .and_then(|(_, rest)| basic(rest))
                    .ok_or_else(refused)?;
                let user = self.verify(&name, &password).ok_or_else(refused)?;
                (user.name.clone(), user.grants.clone())
            }
            (None, None) => (String::new(), self.anonymous.clone()),
        };
        let granted = scopes(asked).into_iter().filter_map(|(repository, actions)| {
            let allowed = |action: &Action| grants.iter().any(|grant| grant.allows(&repository, *action));
            let actions: Vec<Action> = actions.into_iter().filter(allowed).collect();
            (!actions.is_empty()).then_some(Grant { pattern: repository, actions })
        });
        let claims = Claims { sub: name.clone(), exp: now() + TOKEN_SECS, refresh: false, grants: granted.collect() };
        let token = self.seal(&claims);
        let issued_at = jiff::Timestamp::now().to_string();
        let mut answer =
            json!({"token": token, "access_token": token, "expires_in": TOKEN_SECS, "issued_at": issued_at});
        let offline = asked.get("offline_token") == Some("true") || asked.get("access_type") == Some("offline");
        if offline && !name.is_empty() {
            let claims = Claims { sub: name, exp: now() + REFRESH_SECS, refresh: true, grants: Vec::new() };
            answer["refresh_token"] = self.seal(&claims).into();
        }
        let mut response = Response::new(Body::text(answer.to_string()));
        super::text_header(response.headers_mut(), http::header::CONTENT_TYPE, "application/json");
        super::text_header(response.headers_mut(), http::header::CACHE_CONTROL, "no-store");
        Ok(response)
    }
}

/// What a refusal has to tell: where tokens are had, and what for.
pub(crate) struct Challenge {
    /// `http://host:port` as the caller knows it.
    pub(crate) base: String,
    pub(crate) scope: Option<(Repository, Vec<Action>)>,
}

fn basic(encoded: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    text.split_once(':').map(|(name, password)| (name.to_owned(), password.to_owned()))
}

/// `repository:name:pull,push`, several parameters or several in one, separated by spaces.
fn scopes(query: &Query) -> Vec<(String, Vec<Action>)> {
    let all = query.all("scope").flat_map(|scope| scope.split(' '));
    let parsed = all.filter_map(|scope| {
        let rest = scope.strip_prefix("repository:")?;
        let (name, actions) = rest.rsplit_once(':')?;
        let actions = match actions {
            "*" => Action::ALL.to_vec(),
            actions => actions.split(',').filter_map(Action::parse).collect(),
        };
        Some((Repository::parse(name)?.to_string(), actions))
    });
    parsed.take(100).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        // Few rounds: these tests are about who may what.
        let hash = hex::encode(derive("pw", b"salt", NonZeroU32::new(1).unwrap()));
        let line = |name: &str, grants: &str| format!("{name}:pbkdf2-sha256$1${}${hash}{grants}", hex::encode("salt"));
        let users = [line("ann", ""), line("bob", ":team/*=pull,push;lib=pull")];
        let users = users.iter().map(|line| User::parse(line).unwrap()).collect();
        Access::new(users, vec![Grant::parse("public/*=pull").unwrap()], Method::Token, b"key")
    }

    fn headers(value: &str) -> HeaderMap {
        [(AUTHORIZATION, value.parse().unwrap())].into_iter().collect()
    }

    fn challenge() -> Challenge {
        Challenge { base: "http://r".into(), scope: None }
    }

    #[test]
    fn rights_end_where_grants_end() {
        let access = access();
        let basic = |pair: &str| headers(&format!("Basic {}", STANDARD.encode(pair)));
        let may = |headers: &HeaderMap, name: &str, action| {
            access
                .caller(headers, &challenge())
                .ok()
                .map(|caller| caller.may(&Repository::parse(name).unwrap(), action))
        };
        for (headers, name, action, expected) in [
            (basic("ann:pw"), "any/thing", Action::Delete, Some(true)),
            (basic("bob:pw"), "team/a", Action::Push, Some(true)),
            (basic("bob:pw"), "team/a", Action::Delete, Some(false)),
            (basic("bob:pw"), "teams", Action::Pull, Some(false)),
            (basic("bob:pw"), "lib", Action::Pull, Some(true)),
            (basic("bob:pw"), "lib/x", Action::Pull, Some(false)),
            (basic("bob:no"), "lib", Action::Pull, None),
            (basic("eve:pw"), "public/x", Action::Pull, None),
            (headers("Bearer x.y"), "public/x", Action::Pull, None),
            (headers("Nonsense"), "public/x", Action::Pull, None),
            (HeaderMap::new(), "public/x", Action::Pull, Some(true)),
            (HeaderMap::new(), "public/x", Action::Push, Some(false)),
        ] {
            assert_eq!(may(&headers, name, action), expected, "{headers:?} {name} {action:?}");
        }
    }

    #[test]
    fn a_token_allows_what_was_asked_and_granted() {
        let access = access();
        let claims = Claims {
            sub: "bob".into(),
            exp: now() + 60,
            refresh: false,
            grants: vec![Grant { pattern: "team/a".into(), actions: vec![Action::Pull] }],
        };
        let token = access.seal(&claims);
        let caller = access.caller(&headers(&format!("Bearer {token}")), &challenge()).unwrap();
        assert!(caller.may(&Repository::parse("team/a").unwrap(), Action::Pull));
        assert!(!caller.may(&Repository::parse("team/a").unwrap(), Action::Push));
        assert!(!caller.may(&Repository::parse("team/b").unwrap(), Action::Pull));
        // Another key, a changed payload, an expired one, and one for refreshing are no tokens.
        let other = Access::new(Vec::new(), Vec::new(), Method::Token, b"other").seal(&claims);
        let (payload, signature) = token.split_once('.').unwrap();
        let expired = access
            .seal(&Claims { exp: now() - 1, ..serde_json::from_slice(&serde_json::to_vec(&claims).unwrap()).unwrap() });
        let refresh = access.seal(&Claims { refresh: true, ..claims });
        for bad in [other, format!("{payload}x.{signature}"), format!("{payload}."), expired, refresh] {
            assert!(access.caller(&headers(&format!("Bearer {bad}")), &challenge()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_that_was_made_reads_back() {
        let line = User::line("ann", "secret").unwrap();
        assert!(!line.contains("secret"));
        let access = Access::new(vec![User::parse(&line).unwrap()], Vec::new(), Method::Basic, b"k");
        assert!(access.verify("ann", "secret").is_some() && access.verify("ann", "secret").is_some());
        assert!(access.verify("ann", "Secret").is_none() && access.verify("bob", "secret").is_none());
        assert!(User::line("a:b", "x").is_err());
        for bad in ["", "ann", "ann:x", "ann:pbkdf2-sha256$0$00$00", "ann:pbkdf2-sha256$1$00$00:x=fly"] {
            assert!(User::parse(bad).is_err(), "{bad}");
        }
    }
}
