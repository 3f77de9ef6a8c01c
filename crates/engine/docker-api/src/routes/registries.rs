//! What reaches other machines: pull, push, login, search, and a look at what a registry has.

use std::ops::ControlFlow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use engine::{Credentials, RegistryReport};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::system::append_line;
use crate::http::body::{Body, read_json};
use crate::http::error::{ApiError, ApiResult};
use crate::http::filters;
use crate::http::reply::{self, Reply};
use crate::router::Call;
use crate::wire::image::Progress;

/// A whole password and a token of any length that anybody issues, encoded.
const AUTH_BYTES_MAX: usize = 64 << 10;
const SEARCH_LIMIT: usize = 25;

/// Docker's form of credentials: in a header, or the body of `/auth`. Older clients send an e-mail address as well.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthConfig {
    username: Option<String>,
    password: Option<String>,
    /// `username:password` in base64, as configuration files have it.
    auth: Option<String>,
    serveraddress: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl AuthConfig {
    fn into_credentials(self) -> Credentials {
        let pair = self.auth.and_then(|auth| String::from_utf8(STANDARD.decode(auth).ok()?).ok());
        let (user, password) = pair.as_deref().and_then(|pair| pair.split_once(':')).unwrap_or_default();
        let or =
            |own: Option<String>, other: &str| own.filter(|text| !text.is_empty()).unwrap_or_else(|| other.to_owned());
        Credentials {
            username: or(self.username, user),
            password: or(self.password, password.trim_end_matches('\0')),
            identity_token: self.identitytoken.unwrap_or_default(),
            registry_token: self.registrytoken.unwrap_or_default(),
        }
    }
}

/// What `X-Registry-Auth` says; nothing, or nothing that can be read, is nobody, as in Docker.
fn credentials(headers: &HeaderMap) -> Credentials {
    let Some(value) = headers.get("x-registry-auth").map(|value| value.as_bytes()) else {
        return Credentials::default();
    };
    if value.len() > AUTH_BYTES_MAX {
        return Credentials::default();
    }
    let decoders = [&URL_SAFE, &URL_SAFE_NO_PAD, &STANDARD, &STANDARD_NO_PAD];
    let bytes = decoders.iter().find_map(|decoder| decoder.decode(value).ok());
    let config: Option<AuthConfig> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    config.map(AuthConfig::into_credentials).unwrap_or_default()
}

/// What `X-Registry-Config` of a build says: credentials by registry.
pub(crate) fn all_credentials(headers: &HeaderMap) -> std::collections::BTreeMap<String, Credentials> {
    let value = headers.get("x-registry-config").map(|value| value.as_bytes()).filter(|v| v.len() <= AUTH_BYTES_MAX);
    let decoders = [&URL_SAFE, &URL_SAFE_NO_PAD, &STANDARD, &STANDARD_NO_PAD];
    let bytes = value.and_then(|value| decoders.iter().find_map(|decoder| decoder.decode(value).ok()));
    let all: Option<std::collections::BTreeMap<String, AuthConfig>> =
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let name = |server: String| {
        let bare = server.trim_start_matches("https://").trim_start_matches("http://");
        let host = bare.split('/').next().unwrap_or_default();
        if host == "index.docker.io" { "docker.io".to_owned() } else { host.to_owned() }
    };
    all.unwrap_or_default().into_iter().map(|(server, auth)| (name(server), auth.into_credentials())).collect()
}

/// `repository` with a tag or digest that stands beside it.
fn joined(repository: &str, tag: Option<&str>) -> String {
    match tag {
        None => repository.to_owned(),
        Some(digest) if digest.contains(':') => format!("{repository}@{digest}"),
        Some(tag) => format!("{repository}:{tag}"),
    }
}

pub(crate) async fn pull(call: Call) -> ApiResult<Reply> {
    let image = call.query.text("fromImage").unwrap_or_default().to_owned();
    let tag = call.query.text("tag").map(str::to_owned);
    let request = engine::PullRequest {
        reference: joined(&image, tag.as_deref()),
        // Docker's clients send `latest` when they mean it: nothing at all is everything.
        all_tags: tag.is_none(),
        platform: call.query.text("platform").map(str::to_owned),
        credentials: credentials(call.request.headers()),
    };
    let stream = call.engine.image_pull(request).await?;
    progress(stream).await
}

pub(crate) async fn push(call: Call, name: &str) -> ApiResult<Reply> {
    if call.query.text("platform").is_some() {
        return Err(ApiError::unsupported(
            "choosing one platform of a multi-platform image is not supported: one platform of each image is kept",
        ));
    }
    let tag = call.query.text("tag").map(str::to_owned);
    let request = engine::PushRequest {
        reference: joined(name, tag.as_deref()),
        all_tags: tag.is_none(),
        credentials: credentials(call.request.headers()),
    };
    let stream = call.engine.image_push(request).await?;
    progress(stream).await
}

/// An error before the first line is a status, as in Docker; after it the stream says it.
async fn progress(mut stream: engine::ItemStream<RegistryReport>) -> ApiResult<Reply> {
    let Some(first) = stream.next().await.transpose()? else {
        return Ok(reply::with_type(StatusCode::OK, reply::JSON, Body::Empty));
    };
    let encode = |item: engine::Result<RegistryReport>, out: &mut Vec<u8>| match item {
        Ok(item) => append_line(out, &Progress::from_registry(item)),
        Err(error) => {
            let _ = append_line(out, &Progress::error(error.to_string()));
            ControlFlow::Break(())
        }
    };
    let mut head = Vec::new();
    let _ = encode(Ok(first), &mut head);
    Ok(reply::with_type(StatusCode::OK, reply::JSON, Body::encoded(stream, encode).after(head.into())))
}

pub(crate) async fn login(call: Call) -> ApiResult<Reply> {
    let (parts, body) = call.request.into_parts();
    let config: AuthConfig = read_json(&parts.headers, body).await?;
    let server = config.serveraddress.clone().unwrap_or_default();
    let login = call.engine.registry_login(&server, config.into_credentials()).await?;
    reply::ok(&json!({"Status": "Login Succeeded", "IdentityToken": login.identity_token}))
}

pub(crate) async fn distribution(call: Call, name: &str) -> ApiResult<Reply> {
    let credentials = credentials(call.request.headers());
    let found = call.engine.registry_inspect(name, credentials).await?;
    let platforms: Vec<_> = found
        .platforms
        .iter()
        .map(|platform| {
            let mut json = json!({"architecture": platform.architecture, "os": platform.os});
            if !platform.variant.is_empty() {
                json["variant"] = platform.variant.clone().into();
            }
            json
        })
        .collect();
    reply::ok(&json!({
        "Descriptor": {"mediaType": found.media_type, "digest": found.digest, "size": found.bytes},
        "Platforms": platforms,
    }))
}

pub(crate) async fn search(call: Call) -> ApiResult<Reply> {
    let filters = filters::parse(&call.query, &["is-automated", "is-official", "stars"])?;
    let limit = match call.query.text("limit") {
        None => SEARCH_LIMIT,
        Some(text) => match text.parse() {
            Ok(0) => SEARCH_LIMIT,
            Ok(limit @ 1..=100) => limit,
            _ => return Err(ApiError::invalid(format!("limit {text} is outside the range of [1, 100]"))),
        },
    };
    let official = filters::boolean(&filters, "is-official")?;
    let automated = filters::boolean(&filters, "is-automated")?;
    let mut stars = 0;
    for text in filters.values("stars") {
        let wanted = text.parse::<u64>().map_err(|_| ApiError::invalid(format!("invalid filter 'stars=[{text}]'")))?;
        stars = stars.max(wanted);
    }
    let term = call.query.text("term").unwrap_or_default().to_owned();
    let credentials = credentials(call.request.headers());
    let found = call.engine.registry_search(&term, limit, credentials).await?;
    let wanted = found.into_iter().filter(|found| {
        official.is_none_or(|wanted| found.official == wanted)
            && automated.is_none_or(|wanted| found.automated == wanted)
            && found.stars >= stars
    });
    let list: Vec<_> = wanted
        .map(|found| {
            json!({
                "name": found.name, "description": found.description, "star_count": found.stars,
                "is_official": found.official, "is_automated": found.automated,
            })
        })
        .collect();
    reply::ok(&list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_in_every_encoding() {
        let of = |text: &str| {
            let headers: HeaderMap =
                [(http::HeaderName::from_static("x-registry-auth"), text.parse().unwrap())].into_iter().collect();
            let credentials = credentials(&headers);
            (credentials.username, credentials.password, credentials.identity_token)
        };
        let json = br#"{"username":"ann","password":"p?>~","serveraddress":"r"}"#;
        let expected = ("ann".to_owned(), "p?>~".to_owned(), String::new());
        assert_eq!(of(&URL_SAFE.encode(json)), expected);
        assert_eq!(of(&URL_SAFE_NO_PAD.encode(json)), expected);
        assert_eq!(of(&STANDARD.encode(json)), expected);
        let pair = format!(r#"{{"auth":"{}","identitytoken":"t"}}"#, STANDARD.encode("bob:pw"));
        assert_eq!(of(&URL_SAFE.encode(pair)), ("bob".into(), "pw".into(), "t".into()));
        for nothing in ["", "e30=", "bnVsbA==", "%%%"] {
            assert_eq!(of(nothing), Default::default(), "{nothing}");
        }
    }
}
