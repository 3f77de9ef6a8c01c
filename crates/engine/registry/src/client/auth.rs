//! Proving who one is: passwords for basic authentication, tokens for bearer.

use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use serde::Deserialize;

use super::connect::Plain;
use super::error::{Error, Result, go_method};
use super::session::{Endpoint, Session};
use super::url::Url;
use crate::body::Body;
use crate::challenge::Challenge;
use crate::query;

/// What a user has shown. Never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    /// Stands for a login: exchanged for tokens.
    pub identity_token: String,
    /// Is a token itself.
    pub registry_token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    fn basic(&self) -> Option<String> {
        let pair = format!("{}:{}", self.username, self.password);
        (!self.username.is_empty()).then(|| format!("Basic {}", STANDARD.encode(pair)))
    }
}

/// How an endpoint wants to be spoken to, as far as is known.
#[derive(Default)]
pub(super) struct Known {
    basic: bool,
    /// By scope; used until a little before they end.
    tokens: Vec<(String, String, Instant)>,
    /// What the endpoint gave for a login.
    pub(super) identity: Option<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    refresh_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// A token's life where none is told, as the token specification has it.
const TOKEN_SECS: u64 = 60;
const TOKEN_BYTES_MAX: usize = 1 << 20;
const CLIENT_ID: &str = "knarr";

impl Session {
    /// The `Authorization` header for a request to the endpoint itself.
    pub(super) fn authorization(&self, endpoint: &Endpoint, scope: &str) -> Option<String> {
        let known = endpoint.known.lock().unwrap_or_else(|e| e.into_inner());
        let token = known.tokens.iter().find(|(known, _, until)| known == scope && *until > Instant::now());
        match token {
            Some((_, token, _)) => Some(format!("Bearer {token}")),
            None if known.basic => endpoint.credentials.basic(),
            None => None,
        }
    }

    /// Answers a challenge; afterwards [`Session::authorization`] has something to say.
    pub(super) async fn authenticate(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        scope: &str,
        method: &Method,
        url: &Url,
    ) -> Result<()> {
        match challenge {
            Challenge::Basic => {
                if endpoint.credentials.basic().is_none() {
                    return Err(Error::NoCredentials { method: go_method(method), url: url.to_string() });
                }
                endpoint.known.lock().unwrap_or_else(|e| e.into_inner()).basic = true;
                Ok(())
            }
            Challenge::Bearer { realm, service, scope: asked } => {
                if !endpoint.credentials.registry_token.is_empty() {
                    let until = Instant::now() + Duration::from_secs(TOKEN_SECS);
                    self.keep(endpoint, scope, endpoint.credentials.registry_token.clone(), until);
                    return Ok(());
                }
                // What the registry asks for is sent as well, if it is about more than we thought.
                let mut scopes: Vec<&str> = scope.split(' ').filter(|scope| !scope.is_empty()).collect();
                scopes.extend(asked.split(' ').filter(|asked| !asked.is_empty() && !scope.contains(asked)));
                let (token, until) = self.fetch_token(endpoint, realm, service, &scopes).await?;
                self.keep(endpoint, scope, token, until);
                Ok(())
            }
        }
    }

    fn keep(&self, endpoint: &Endpoint, scope: &str, token: String, until: Instant) {
        let mut known = endpoint.known.lock().unwrap_or_else(|e| e.into_inner());
        known.tokens.retain(|(known, _, _)| known != scope);
        known.tokens.push((scope.to_owned(), token, until));
    }

    async fn fetch_token(
        &self,
        endpoint: &Endpoint,
        realm: &str,
        service: &str,
        scopes: &[&str],
    ) -> Result<(String, Instant)> {
        let realm_url = Url::parse(realm).ok_or_else(|| {
            Error::content(&endpoint.name, format!("it asks for a token from {realm:?}, which is no address"))
        })?;
        // A registry that is spoken to over TLS must not make us send a password in the clear.
        if endpoint.base.origin.https && !realm_url.origin.https {
            return Err(Error::content(&endpoint.name, format!("its token server {realm} does not use TLS")));
        }
        let credentials = &endpoint.credentials;
        let mut pairs: Vec<(&str, &str)> = vec![("service", service)];
        let joined = scopes.join(" ");
        let (method, url, headers, form): (_, _, Vec<(HeaderName, String)>, String) =
            if credentials.identity_token.is_empty() {
                pairs.extend(scopes.iter().map(|scope| ("scope", *scope)));
                let mut headers = Vec::new();
                if let Some(basic) = credentials.basic() {
                    headers.push((AUTHORIZATION, basic));
                    pairs.push(("account", &credentials.username));
                    pairs.push(("client_id", CLIENT_ID));
                    if self.login {
                        pairs.push(("offline_token", "true"));
                    }
                }
                (Method::GET, realm_url.with(&query::join(&pairs)), headers, String::new())
            } else {
                pairs.push(("client_id", CLIENT_ID));
                pairs.push(("grant_type", "refresh_token"));
                pairs.push(("refresh_token", &credentials.identity_token));
                pairs.push(("scope", &joined));
                let headers = vec![(CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned())];
                (Method::POST, realm_url.clone(), headers, query::join(&pairs))
            };
        let body = || Ok(if form.is_empty() { Body::Empty } else { Body::text(form.clone()) });
        let plain = Plain { method: method.clone(), url: &url, headers: &headers, body: &body };
        let trust = self.client.trust_of(&realm_url.origin, Some(endpoint));
        let answer = self.client.pool.send(&trust, &plain).await?;
        let status = answer.status;
        let bytes = answer.whole(&method, TOKEN_BYTES_MAX).await?;
        if !status.is_success() {
            let detail = super::session::refusal_text(&bytes).unwrap_or_else(|| "authentication required".into());
            // The address alone: its query tells the account.
            return Err(match status.as_u16() {
                401 | 403 => {
                    let detail = detail.strip_prefix("unauthorized: ").unwrap_or(&detail).to_owned();
                    Error::Unauthorized { method: go_method(&method), url: realm_url.to_string(), detail }
                }
                status => Error::Refused { what: format!("fetch a token from {realm}"), status, detail },
            });
        }
        let answer: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|e| Error::content(format!("token of {realm}"), e))?;
        let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if token.is_empty() {
            return Err(Error::content(format!("token of {realm}"), "there is none in the answer"));
        }
        if !answer.refresh_token.is_empty() {
            endpoint.known.lock().unwrap_or_else(|e| e.into_inner()).identity = Some(answer.refresh_token);
        }
        // Not to the last second: a request is on its way for a while.
        let secs = answer.expires_in.unwrap_or(TOKEN_SECS).clamp(TOKEN_SECS, 24 * 3600) * 9 / 10;
        Ok((token, Instant::now() + Duration::from_secs(secs)))
    }
}
