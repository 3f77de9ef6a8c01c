//! The OpenAPI documents, made when first asked for and kept until the catalog changes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use http::{HeaderMap, Response, StatusCode};
use resources::openapi::{self, Served};
use resources::{Status, Value};
use serde_json::json;

use crate::api::{Api, Outcome};
use crate::catalog::{Catalog, Resource};
use crate::respond::{self, Format};
use client::Body;

/// Documents by path, for one state of the catalog.
#[derive(Default)]
pub struct Cache(tokio::sync::Mutex<(u64, HashMap<String, Arc<Document>>)>);

struct Document {
    bytes: Bytes,
    etag: String,
}

fn served(resource: &Resource) -> Served<'_> {
    Served {
        group: &resource.group,
        version: &resource.version,
        plural: &resource.plural,
        kind: &resource.kind,
        list_kind: &resource.list_kind,
        namespaced: resource.namespaced,
        verbs: &resource.verbs,
        subresources: resource.subresources.iter().map(|sub| (sub.name.as_str(), &sub.verbs[..])).collect(),
        node: &resource.node,
        custom: resource.custom.is_some(),
    }
}

async fn document(api: &Api, catalog: &Catalog, path: &str, make: impl FnOnce() -> Vec<u8>) -> Arc<Document> {
    let mut cache = api.openapi.0.lock().await;
    if cache.0 != catalog.serial {
        *cache = (catalog.serial, HashMap::new());
    }
    if let Some(found) = cache.1.get(path) {
        return found.clone();
    }
    let bytes: Bytes = make().into();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    let etag = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02X}")).collect();
    let made = Arc::new(Document { bytes, etag });
    cache.1.insert(path.to_owned(), made.clone());
    made
}

fn respond(document: &Document, headers: &HeaderMap) -> Response<Body> {
    let quoted = format!("\"{}\"", document.etag);
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = match known == Some(&quoted) {
        true => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        false => respond::bytes(200, document.bytes.clone(), Format::Json),
    };
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}

/// gnostic's protobuf, under both names that clients know it by, and the one that answers carry.
const PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// The first entry that can be served; `Some(true)` is protobuf.
fn wants_protobuf(headers: &HeaderMap) -> Option<bool> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    accept.split(',').find_map(|entry| match entry.split(';').next().unwrap_or_default().trim() {
        "" | "*/*" | "application/*" | "application/json" => Some(false),
        kind if PROTOBUF.contains(&kind) => Some(true),
        _ => None,
    })
}

pub async fn v2(api: &Api, catalog: &Catalog, headers: &HeaderMap) -> Outcome<Response<Body>> {
    let Some(protobuf) = wants_protobuf(headers) else {
        return Err(Status::not_acceptable(&["application/json", PROTOBUF[1]]));
    };
    let make = || {
        let all = catalog.groups.iter().flat_map(|group| &group.versions).flat_map(|version| &version.resources);
        openapi::v2(&all.map(|resource| served(resource)).collect::<Vec<_>>())
    };
    if protobuf {
        let document = document(api, catalog, "v2.pb", || resources::openapi_proto::encode(&make())).await;
        let mut response = respond(&document, headers);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF[1]));
        return Ok(response);
    }
    let document = document(api, catalog, "v2", || encode(&make())).await;
    Ok(respond(&document, headers))
}

fn encode(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).expect("trees always encode")
}

/// Where the document of a group and version lies.
fn place(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

pub async fn v3_index(api: &Api, catalog: &Catalog) -> Outcome<Response<Body>> {
    let mut paths = serde_json::Map::new();
    for group in &catalog.groups {
        for version in &group.versions {
            let place = place(&group.name, &version.name);
            let document = v3_document(api, catalog, &place).await.ok_or_else(Status::no_such_path)?;
            paths.insert(
                place.clone(),
                json!({"serverRelativeURL": format!("/openapi/v3/{place}?hash={}", document.etag)}),
            );
        }
    }
    Ok(respond::value(200, &json!({"paths": paths}), Format::Json))
}

async fn v3_document(api: &Api, catalog: &Catalog, path: &str) -> Option<Arc<Document>> {
    let found = catalog.groups.iter().find_map(|group| {
        let version = group.versions.iter().find(|version| place(&group.name, &version.name) == path)?;
        Some((group, version))
    });
    let (_, version) = found?;
    Some(
        document(api, catalog, path, || {
            encode(&openapi::v3(&version.resources.iter().map(|resource| served(resource)).collect::<Vec<_>>()))
        })
        .await,
    )
}

pub async fn v3(api: &Api, catalog: &Catalog, path: &str, headers: &HeaderMap) -> Outcome<Response<Body>> {
    if wants_protobuf(headers) != Some(false) {
        return Err(Status::not_acceptable(&["application/json"]));
    }
    let document = v3_document(api, catalog, path).await.ok_or_else(Status::no_such_path)?;
    let mut response = respond(&document, headers);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
