//! Looking at a registry: login, what a name stands for there, search.

use http::header::ACCEPT;
use http::{Method, StatusCode};
use image::Platform;
use serde::Deserialize;
use vocab::{Digest, Reference};

use super::auth::Credentials;
use super::error::{Error, Result};
use super::session::{Ask, Session};
use super::{Client, host_of};
use crate::media;
use crate::query;

const CONFIG_BYTES_MAX: u64 = 8 << 20;
const SEARCH_BYTES_MAX: usize = 8 << 20;
/// Docker's own index, which alone is searched when no registry is named.
const INDEX: &str = "index.docker.io";
const MATCHES_MAX: usize = 100;

/// A login that was right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Stands for the password from now on, if the registry gave one.
    pub identity_token: String,
}

/// What a name stands for in a registry.
#[derive(Debug, Clone)]
pub struct Inspected {
    pub media_type: String,
    pub digest: Digest,
    pub bytes: u64,
    pub platforms: Vec<Platform>,
    /// The manifest itself.
    pub manifest: Vec<u8>,
}

/// One repository that a search found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Found {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default, rename = "star_count")]
    pub stars: u64,
    #[serde(default, rename = "is_official")]
    pub official: bool,
    #[serde(default, rename = "is_automated")]
    pub automated: bool,
}

impl Client {
    /// Whether a registry (`docker.io`, `host:port`, with or without a scheme) takes these credentials.
    pub async fn login(&self, server: &str, credentials: Credentials) -> Result<Login> {
        let domain = domain_of(server);
        let endpoint = self.endpoint(&domain, credentials.clone()).await?;
        let session = Session {
            client: self.clone(),
            endpoints: vec![endpoint],
            repository: String::new(),
            familiar: domain.clone(),
            login: true,
        };
        let endpoint = &session.endpoints[0];
        let url = endpoint.base.origin.url("/v2/");
        let answer = session.send(endpoint, &url, &Ask::new(Method::GET, "")).await?;
        match answer.status {
            StatusCode::OK => answer.discard().await,
            _ => return Err(session.refusal(answer, &Method::GET, &format!("login to {domain}")).await),
        }
        let identity = endpoint.known.lock().unwrap_or_else(|e| e.into_inner()).identity.take();
        Ok(Login { identity_token: identity.unwrap_or_default() })
    }

    /// What a reference stands for, without pulling it.
    pub async fn inspect(&self, reference: &Reference, credentials: Credentials) -> Result<Inspected> {
        let reference = reference.clone().or_latest();
        let session = self.session(&reference, credentials, true).await?;
        let wanted = match reference.digest() {
            Some(digest) => digest.to_string(),
            None => reference.tag().unwrap_or("latest").to_owned(),
        };
        let manifest = session.manifest(&wanted, &reference.familiar()).await?;
        let mut platforms = Vec::new();
        let known = |platform: media::Platform| Platform {
            os: platform.os,
            architecture: platform.architecture,
            variant: platform.variant,
        };
        if let Some(entries) = media::index_entries(&manifest.bytes) {
            platforms.extend(entries.into_iter().filter_map(|entry| entry.platform).map(known));
        } else if let Some((config, _)) = media::image_parts(&manifest.bytes) {
            let bytes = session.small_blob(manifest.endpoint, &config.digest, config.size, CONFIG_BYTES_MAX).await?;
            // The configuration of something that is no image tells no platform.
            if let Ok(platform) = serde_json::from_slice::<media::Platform>(&bytes)
                && !platform.os.is_empty()
            {
                platforms.push(known(platform));
            }
        }
        Ok(Inspected {
            media_type: manifest.media_type,
            digest: manifest.digest,
            bytes: manifest.bytes.len() as u64,
            platforms,
            manifest: manifest.bytes,
        })
    }

    /// Repositories whose names hold a term; `host/term` asks that registry. A registry without a search is asked for its
    /// catalog.
    pub async fn search(&self, term: &str, limit: usize, credentials: Credentials) -> Result<Vec<Found>> {
        let (domain, words) = match term.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => (INDEX, term),
        };
        let limit = limit.clamp(1, MATCHES_MAX);
        let endpoint = self.endpoint(domain, credentials).await?;
        let session = Session {
            client: self.clone(),
            endpoints: vec![endpoint],
            repository: String::new(),
            familiar: domain.to_owned(),
            login: false,
        };
        let endpoint = &session.endpoints[0];
        let count = limit.to_string();
        let url = endpoint.base.origin.url(format!("/v1/search?{}", query::join(&[("q", words), ("n", &count)])));
        let answer =
            session.send(endpoint, &url, &Ask::new(Method::GET, "").header(ACCEPT, "application/json")).await?;
        if answer.status == StatusCode::OK {
            #[derive(Deserialize)]
            struct Results {
                #[serde(default)]
                results: Vec<Found>,
            }
            let bytes = answer.whole(&Method::GET, SEARCH_BYTES_MAX).await?;
            let found: Results = serde_json::from_slice(&bytes).map_err(|e| Error::content(&url, e))?;
            return Ok(found.results.into_iter().take(limit).collect());
        }
        if answer.status != StatusCode::NOT_FOUND {
            return Err(session.refusal(answer, &Method::GET, &format!("search {domain}")).await);
        }
        answer.discard().await;
        let url = endpoint.base.origin.url("/v2/_catalog?n=10000");
        let answer = session.send(endpoint, &url, &Ask::new(Method::GET, "registry:catalog:*")).await?;
        if answer.status != StatusCode::OK {
            return Err(session.refusal(answer, &Method::GET, &format!("search {domain}")).await);
        }
        #[derive(Deserialize)]
        struct Catalog {
            #[serde(default)]
            repositories: Vec<String>,
        }
        let bytes = answer.whole(&Method::GET, SEARCH_BYTES_MAX).await?;
        let catalog: Catalog = serde_json::from_slice(&bytes).map_err(|e| Error::content(&url, e))?;
        let hits = catalog.repositories.into_iter().filter(|name| name.contains(words)).take(limit);
        let found = hits.map(|name| Found {
            name: format!("{domain}/{name}"),
            description: String::new(),
            stars: 0,
            official: false,
            automated: false,
        });
        Ok(found.collect())
    }
}

/// The registry that a login names: Docker's clients call their own by an address of its first version.
fn domain_of(server: &str) -> String {
    let bare = server.trim().trim_start_matches("https://").trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or_default();
    match host {
        "" | INDEX | "docker.io" => "docker.io".to_owned(),
        host if host == host_of("docker.io") => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_names_a_registry_in_many_ways() {
        for (server, domain) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("https://r.example/v2/", "r.example"),
        ] {
            assert_eq!(domain_of(server), domain, "{server}");
        }
    }
}
