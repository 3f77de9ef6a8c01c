//! Manifests, tags, referrers and the catalog.

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK, LOCATION};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::json;
use vocab::Digest;

use super::blobs::{DIGEST, accepted};
use super::error::{Code, Outcome, Refusal};
use super::records::{self, Found, NewManifest};
use super::route::Name;
use super::{Inner, text_header};
use crate::body::Body;
use crate::media::{self, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::names::Repository;
use crate::query::{Query, encode};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Entries of one page where none was asked for, and the most that are given.
const PAGE: usize = 1000;
const PAGE_MAX: usize = 10_000;

impl Inner {
    pub(super) async fn manifest(
        &self,
        method: &Method,
        headers: &HeaderMap,
        repository: &Repository,
        name: &Name,
    ) -> Outcome<Response<Body>> {
        self.refresh(repository, name).await?;
        let found = records::find(&self.store, repository, name)?;
        let Some(mut found) = found else {
            return Err(match records::exists(&self.store, repository)? {
                true => Refusal::with(Code::ManifestUnknown, json!({ "unknown": name_text(name) })),
                false => Refusal::with(Code::NameUnknown, json!({ "name": repository.as_str() })),
            });
        };
        if let Name::Tag(_) = name {
            found = self.negotiate(repository, found, headers)?;
        }
        let mut response = Response::new(Body::Empty);
        let out = response.headers_mut();
        let tag = format!("\"{}\"", found.digest);
        text_header(out, DIGEST, &found.digest.to_string());
        text_header(out, ETAG, &tag);
        let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        if known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag)) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        text_header(out, CONTENT_TYPE, &found.record.media_type);
        text_header(out, CONTENT_LENGTH, &found.text.len().to_string());
        if method == Method::GET {
            *response.body_mut() = Body::text(found.text);
        }
        Ok(response)
    }

    /// A client that takes images only gets the one of an index that everybody has run since there were indexes.
    fn negotiate(&self, repository: &Repository, found: Found, headers: &HeaderMap) -> Outcome<Found> {
        let accepted = accepted_types(headers);
        if takes(&accepted, &found.record.media_type) {
            return Ok(found);
        }
        let takes_images = [OCI_MANIFEST, DOCKER_MANIFEST].iter().any(|image| takes(&accepted, image));
        if media::is_index(&found.record.media_type) && takes_images {
            let entries = media::index_entries(found.text.as_bytes()).unwrap_or_default();
            let usual = entries.iter().find(|entry| {
                let platform = entry.platform.clone().unwrap_or_default();
                platform.os == "linux" && platform.architecture == "amd64"
            });
            if let Some(entry) = usual
                && let Some(image) = records::find(&self.store, repository, &Name::Digest(entry.digest))?
                && takes(&accepted, &image.record.media_type)
            {
                return Ok(image);
            }
        }
        let detail = format!("it is of type {}, which the request does not accept", found.record.media_type);
        Err(Refusal::with(Code::ManifestUnknown, detail))
    }

    pub(super) async fn put_manifest(
        &self,
        repository: &Repository,
        name: &Name,
        request: Request<Incoming>,
    ) -> Outcome<Response<Body>> {
        self.writes()?;
        let announced = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let announced = announced.split(';').next().unwrap_or_default().trim().to_owned();
        let max = self.config.manifest_bytes_max;
        let bytes = match Limited::new(request.into_body(), max).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let refusal = Refusal::with(Code::ManifestInvalid, format!("a manifest may have {max} bytes"));
                return Err(refusal.status(StatusCode::PAYLOAD_TOO_LARGE));
            }
            Err(error) => return Err(Refusal::with(Code::ManifestInvalid, error.to_string())),
        };
        let digest = image::hash::sha256(&bytes);
        if let Name::Digest(expected) = name
            && *expected != digest
        {
            return Err(Refusal::with(Code::DigestInvalid, format!("the content is {digest}")));
        }
        let invalid = |detail: String| Refusal::with(Code::ManifestInvalid, detail);
        let facts = media::parse(&bytes, &announced).map_err(invalid)?;
        let text = std::str::from_utf8(&bytes).map_err(|e| invalid(e.to_string()))?;
        let subject = facts.subject;
        let tag = match name {
            Name::Tag(tag) => Some(tag.as_str()),
            Name::Digest(_) => None,
        };
        let (store, repository_name) = (self.store.clone(), repository.clone());
        let (text, tag) = (text.to_owned(), tag.map(str::to_owned));
        let put = tokio::task::spawn_blocking(move || {
            records::put(
                &store,
                &NewManifest {
                    repository: &repository_name,
                    digest,
                    facts,
                    text: &text,
                    tag: tag.as_deref(),
                    adopt: &[],
                    sparse: false,
                },
            )
        });
        put.await.map_err(|e| Refusal::internal("keep a manifest", e))??;
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::CREATED;
        let headers = response.headers_mut();
        text_header(headers, LOCATION, &format!("/v2/{repository}/manifests/{digest}"));
        text_header(headers, DIGEST, &digest.to_string());
        if let Some(subject) = subject {
            text_header(headers, SUBJECT, &subject.to_string());
        }
        Ok(response)
    }

    pub(super) fn delete_manifest(&self, repository: &Repository, name: &Name) -> Outcome<Response<Body>> {
        self.deletes()?;
        records::delete_manifest(&self.store, repository, name)?;
        Ok(accepted())
    }

    pub(super) fn list_tags(&self, repository: &Repository, query: &Query) -> Outcome<Response<Body>> {
        let tags = records::tags(&self.store, repository)?;
        if tags.is_empty() && !records::exists(&self.store, repository)? {
            return Err(Refusal::with(Code::NameUnknown, json!({ "name": repository.as_str() })));
        }
        let (page, more) = page_of(tags, query)?;
        let link = more.then(|| next_link(&format!("/v2/{repository}/tags/list"), &page, query));
        Ok(listing(json!({"name": repository.as_str(), "tags": page}), link))
    }

    pub(super) fn catalog(&self, may: impl Fn(&Repository) -> bool, query: &Query) -> Outcome<Response<Body>> {
        let names = records::repositories(&self.store)?;
        let names = names.into_iter().filter(|name| Repository::parse(name).is_some_and(|name| may(&name))).collect();
        let (page, more) = page_of(names, query)?;
        let link = more.then(|| next_link("/v2/_catalog", &page, query));
        Ok(listing(json!({ "repositories": page }), link))
    }

    /// Manifests that speak about another one: those that say so themselves, and those that an older client has listed under
    /// the tag that stands in for this.
    pub(super) fn referrers(&self, repository: &Repository, digest: &Digest, query: &Query) -> Outcome<Response<Body>> {
        let mut entries: Vec<serde_json::Value> = Vec::new();
        for (manifest, record) in records::referrers(&self.store, repository, digest)? {
            let mut entry = json!({"mediaType": record.media_type, "digest": manifest, "size": record.bytes});
            if let Some(artifact) = record.artifact_type {
                entry["artifactType"] = artifact.into();
            }
            if !record.annotations.is_empty() {
                entry["annotations"] = json!(record.annotations);
            }
            entries.push(entry);
        }
        let fallback = Name::Tag(format!("sha256-{}", digest.hex()));
        if let Some(found) = records::find(&self.store, repository, &fallback)? {
            for listed in media::index_entries(found.text.as_bytes()).unwrap_or_default() {
                if entries.iter().any(|entry| entry["digest"] == listed.digest.to_string()) {
                    continue;
                }
                let mut entry = json!({"mediaType": listed.media_type, "digest": listed.digest, "size": listed.size});
                if let Some(artifact) = listed.artifact_type {
                    entry["artifactType"] = artifact.into();
                }
                if let Some(annotations) = listed.annotations {
                    entry["annotations"] = json!(annotations);
                }
                entries.push(entry);
            }
        }
        let wanted: Vec<&str> = query.all("artifactType").filter(|text| !text.is_empty()).collect();
        if !wanted.is_empty() {
            entries.retain(|entry| entry["artifactType"].as_str().is_some_and(|kind| wanted.contains(&kind)));
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        let mut response = Response::new(Body::text(index.to_string()));
        text_header(response.headers_mut(), CONTENT_TYPE, OCI_INDEX);
        if !wanted.is_empty() {
            text_header(response.headers_mut(), FILTERS, "artifactType");
        }
        Ok(response)
    }
}

fn name_text(name: &Name) -> String {
    match name {
        Name::Tag(tag) => tag.clone(),
        Name::Digest(digest) => digest.to_string(),
    }
}

fn accepted_types(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let types = values.flat_map(|value| value.split(','));
    types.map(|one| one.split(';').next().unwrap_or_default().trim().to_owned()).filter(|one| !one.is_empty()).collect()
}

/// Nothing said takes everything. The two kinds of index, and of image, differ in name only.
fn takes(accepted: &[String], media_type: &str) -> bool {
    let any = |one: &str| matches!(one, "*/*" | "application/*") || one == media_type;
    accepted.is_empty()
        || accepted.iter().any(|one| any(one))
        || (![OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&media_type)
            && accepted.iter().any(|one| one == "application/json"))
}

/// `n` entries after `last`; whether there are more.
fn page_of(all: Vec<String>, query: &Query) -> Outcome<(Vec<String>, bool)> {
    let count = match query.get("n") {
        None => PAGE,
        Some(text) => match text.parse::<usize>() {
            Ok(count) if count <= PAGE_MAX => count,
            _ => return Err(Refusal::with(Code::PageInvalid, json!({ "n": text }))),
        },
    };
    let last = query.get("last").unwrap_or_default();
    let mut rest = all.into_iter().filter(|name| last.is_empty() || name.as_str() > last);
    let page: Vec<String> = rest.by_ref().take(count).collect();
    let more = count > 0 && rest.next().is_some();
    Ok((page, more))
}

fn next_link(path: &str, page: &[String], query: &Query) -> String {
    let last = page.last().map(String::as_str).unwrap_or_default();
    let count = query.get("n").map_or(String::new(), |n| format!("&n={}", encode(n)));
    format!("<{path}?last={}{count}>; rel=\"next\"", encode(last))
}

fn listing(value: serde_json::Value, link: Option<String>) -> Response<Body> {
    let mut response = Response::new(Body::text(value.to_string()));
    text_header(response.headers_mut(), CONTENT_TYPE, "application/json");
    if let Some(link) = link {
        text_header(response.headers_mut(), LINK, &link);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let all = || ["a", "b", "c"].map(str::to_owned).to_vec();
        let page = |query: &str| page_of(all(), &Query::parse(query).unwrap());
        assert_eq!(page("").unwrap(), (all(), false));
        assert_eq!(page("n=2").unwrap(), (all()[..2].to_vec(), true));
        assert_eq!(page("n=2&last=b").unwrap(), (all()[2..].to_vec(), false));
        assert_eq!(page("n=3").unwrap(), (all(), false));
        assert_eq!(page("n=0").unwrap(), (Vec::new(), false));
        assert_eq!(page("last=zz").unwrap(), (Vec::new(), false));
        for bad in ["n=-1", "n=x", "n=99999999999999999999", "n=10001"] {
            assert!(page(bad).is_err(), "{bad}");
        }
        let query = Query::parse("n=2").unwrap();
        assert_eq!(next_link("/v2/x/tags/list", &all()[..2], &query), "</v2/x/tags/list?last=b&n=2>; rel=\"next\"");
    }
}
