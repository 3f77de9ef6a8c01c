//! What a client wants to get back, and making it: content negotiation, tables, partial objects, Status errors.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, VARY, WARNING,
};
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use resources::schema::Node;
use resources::{Status, Value, proto, table};
use serde_json::json;

use crate::catalog::Resource;
use crate::codec;
use client::Body;

/// The encoding asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    /// Kubernetes' protobuf; only for shapes whose field numbers are known, and not for tables.
    Proto,
}

/// The form asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    Object,
    Table,
    /// `PartialObjectMetadata`, or its list.
    Metadata,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub format: Format,
    pub form: As,
}

pub const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", PROTOBUF];
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Reads `Accept`: the first entry that we can serve counts. Entries are taken in order, as upstream does. `encodable`
/// says whether what will be answered has a form in protobuf.
pub fn negotiate(headers: &HeaderMap, encodable: bool) -> Result<Wanted, Status> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    for entry in accept.split(',') {
        let mut parts = entry.split(';').map(str::trim);
        let format = match parts.next().unwrap_or_default() {
            "application/json" | "*/*" | "application/*" | "" => Format::Json,
            "application/yaml" => Format::Yaml,
            PROTOBUF if encodable => Format::Proto,
            _ => continue,
        };
        let mut form = "";
        let mut group = "meta.k8s.io";
        let mut version = "v1";
        for part in parts {
            match part.split_once('=') {
                Some(("as", value)) => form = value,
                Some(("g", value)) => group = value,
                Some(("v", value)) => version = value,
                _ => {}
            }
        }
        let form = match form {
            "" => As::Object,
            _ if group != "meta.k8s.io" || !matches!(version, "v1" | "v1beta1") => continue,
            "Table" if format != Format::Proto => As::Table,
            "PartialObjectMetadata" | "PartialObjectMetadataList" => As::Metadata,
            _ => continue,
        };
        return Ok(Wanted { format, form });
    }
    Err(Status::not_acceptable(if encodable { &ACCEPTED } else { &ACCEPTED[..2] }))
}

/// The encoding of errors: every client that reads protobuf reads a Status in it.
pub fn error_format(headers: &HeaderMap) -> Format {
    match negotiate(headers, true) {
        Ok(Wanted { format: Format::Proto, .. }) => Format::Proto,
        _ => Format::Json,
    }
}

pub fn content_type(format: Format) -> HeaderValue {
    HeaderValue::from_static(match format {
        Format::Json => "application/json",
        Format::Yaml => "application/yaml",
        Format::Proto => PROTOBUF,
    })
}

/// A response whose body is JSON bytes already.
pub fn bytes(code: u16, json: Bytes, format: Format) -> Response<Body> {
    let (body, format) = match format {
        Format::Json => (Body::from(json), format),
        Format::Yaml => (Body::from(resources::yaml::to_yaml(&codec::decode(&json))), format),
        Format::Proto => match protobuf(&json) {
            Some(bytes) => (Body::from(bytes), format),
            None => (Body::from(json), Format::Json),
        },
    };
    with_type(code, body, content_type(format))
}

/// A JSON object as a body in protobuf, by the kind that it names itself; `None` if that has no such form.
pub fn protobuf(json: &[u8]) -> Option<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(borrow, rename = "apiVersion")]
        api_version: std::borrow::Cow<'a, str>,
        #[serde(borrow)]
        kind: std::borrow::Cow<'a, str>,
    }
    let head: Head<'_> = serde_json::from_slice(json).ok()?;
    let found: Node;
    let node = match head.kind.as_ref() {
        "PartialObjectMetadata" => proto::partial_node(),
        kind => {
            found = proto::node_of(&head.api_version, kind)?;
            &found
        }
    };
    if !proto::is_encodable(node) && !std::ptr::eq(node, proto::partial_node()) {
        return None;
    }
    let message = proto::encode(json, node).ok()?;
    Some(proto::wrap(&head.api_version, &head.kind, &message))
}

/// A list in protobuf. Its length stands at its beginning: all items are measured first, and encoded while those before
/// them are sent.
fn protobuf_list(api_version: &str, kind: &str, node: &Node, items: VecDeque<Bytes>, metadata: &Value) -> Option<Body> {
    /// Bytes of a piece, and how many of them wait to be sent.
    const PIECE: usize = 128 << 10;
    const WAITING: usize = 4;
    let meta = proto::list_meta(metadata.to_string().as_bytes()).ok()?;
    let items = Vec::from(items);
    let length = meta.len() + protobuf_length(&items, node)?;
    let mut piece = proto::head(api_version, kind, length);
    let left = piece.len() + length;
    piece.reserve(left.min(PIECE + (16 << 10)));
    piece.extend_from_slice(&meta);
    if left <= PIECE {
        let mut encoder = proto::Items::new(node);
        for item in &items {
            encoder.append(item, &mut piece).ok()?;
        }
        return Some(Body::from(piece));
    }
    let (send, pieces) = tokio::sync::mpsc::channel(WAITING);
    let node = node.clone();
    tokio::spawn(async move {
        let mut encoder = proto::Items::new(&node);
        for item in items {
            // What was measured is encoded by the same code.
            if encoder.append(&item, &mut piece).is_err() {
                return;
            }
            if piece.len() >= PIECE {
                let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE + (16 << 10)));
                if send.send(full.into()).await.is_err() {
                    return;
                }
            }
        }
        if !piece.is_empty() {
            let _ = send.send(piece.into()).await;
        }
    });
    Some(Body::Piped { pieces, left: left as u64 })
}

/// Items from which on a list is long enough for two threads to measure it.
const LONG: usize = 2000;

/// The bytes that items take in a list.
fn protobuf_length(items: &[Bytes], node: &Node) -> Option<usize> {
    let sum = |items: &[Bytes]| {
        let mut lengths = proto::Lengths::new(node);
        items.iter().try_fold(0, |sum, item| Some(sum + lengths.of(item).ok()?))
    };
    if items.len() < LONG {
        return sum(items);
    }
    std::thread::scope(|scope| {
        let (first, second) = items.split_at(items.len() / 2);
        let second = scope.spawn(|| sum(second));
        let first = sum(first)?;
        Some(first + second.join().ok()??)
    })
}

fn with_type(code: u16, body: Body, kind: HeaderValue) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-cache, private"));
    response
}

pub fn value(code: u16, value: &Value, format: Format) -> Response<Body> {
    bytes(code, serde_json::to_vec(value).expect("trees always encode").into(), format)
}

pub fn text(code: u16, text: impl Into<String>) -> Response<Body> {
    let mut response = with_type(code, Body::from(text.into()), HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

pub fn status(status: &Status, format: Format) -> Response<Body> {
    let mut response = value(status.code, &status.to_value(), format);
    if status.retry_after_secs > 0 {
        response.headers_mut().insert("retry-after", status.retry_after_secs.into());
    }
    if status.code == 401 {
        response.headers_mut().insert("www-authenticate", HeaderValue::from_static("Bearer realm=\"kubernetes\""));
    }
    response
}

/// Whether the client takes gzip; one that weighs it with 0 does not.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|entry| {
        let (name, weight) = entry.split_once(';').unwrap_or((entry, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

/// Compresses a large answer.
pub fn gzip(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if !body.is_worth_gzip() || parts.headers.contains_key(CONTENT_ENCODING) {
        return Response::from_parts(parts, body);
    }
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, body.gzip())
}

/// Adds warnings as upstream writes them: `299 - "text"`.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let mut total = 0;
    for warning in warnings {
        let clean: String = warning.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let escaped = clean.replace('\\', "\\\\").replace('"', "\\\"");
        total += escaped.len();
        // Header space is limited; upstream stops at 4 KiB too.
        if total > 4096 {
            return;
        }
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// One object in the form asked for.
pub fn object(resource: &Resource, code: u16, stored: Bytes, wanted: Wanted, include: &str) -> Response<Body> {
    match wanted.form {
        As::Object => bytes(code, stored, wanted.format),
        As::Table => {
            let object = codec::decode(&stored);
            let version = resources::meta::resource_version(&object).to_owned();
            let rows = vec![row(resource, &object, include)];
            value(code, &table_value(resource, rows, json!({"resourceVersion": version})), wanted.format)
        }
        As::Metadata => value(code, &partial(&codec::decode(&stored)), wanted.format),
    }
}

/// `metadata` alone.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

pub fn row(resource: &Resource, object: &Value, include: &str) -> Value {
    let now = Timestamp::now();
    let cells = match &resource.custom {
        Some(custom) => table::custom_cells(&custom.columns, object, now),
        None => table::cells(&resource.group, &resource.plural, object, now),
    };
    match include {
        "None" => json!({"cells": cells}),
        "Object" => json!({"cells": cells, "object": object}),
        _ => json!({"cells": cells, "object": partial(object)}),
    }
}

pub fn table_value(resource: &Resource, rows: Vec<Value>, metadata: Value) -> Value {
    let custom = resource.custom.as_ref().map(|custom| &custom.columns[..]);
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": table::column_definitions(&resource.group, &resource.plural, custom),
        "rows": rows,
    })
}

/// A table whose rows are made while it is sent: a row takes many times the room of what it is made of.
fn table_list(resource: &Arc<Resource>, items: VecDeque<Bytes>, metadata: Value, include: &str) -> Response<Body> {
    let empty = table_value(resource, Vec::new(), metadata).to_string();
    let head = empty.strip_suffix("]}").expect("the rows are the last of its fields").to_owned();
    let (resource, include) = (resource.clone(), include.to_owned());
    let make = move |item: &Bytes, out: &mut BytesMut| {
        let row = row(&resource, &codec::decode(item), &include);
        serde_json::to_writer(out.writer(), &row).expect("trees always encode into memory");
    };
    with_type(200, Body::made(head, items, Box::new(make), "]}"), content_type(Format::Json))
}

/// The metadata of many objects, made while it is sent.
fn partial_list(items: VecDeque<Bytes>, metadata: &Value) -> Response<Body> {
    #[derive(serde::Deserialize)]
    struct Of<'a> {
        #[serde(borrow)]
        metadata: &'a serde_json::value::RawValue,
    }
    let head = format!(
        "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{metadata},\"items\":["
    );
    let make = |item: &Bytes, out: &mut BytesMut| {
        let of: Of<'_> = serde_json::from_slice(item).expect("what is stored was encoded here");
        out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
        out.extend_from_slice(of.metadata.get().as_bytes());
        out.extend_from_slice(b"}");
    };
    with_type(200, Body::made(head, items, Box::new(make), "]}"), content_type(Format::Json))
}

/// A list in the form asked for.
pub fn list(
    resource: &Arc<Resource>,
    items: VecDeque<Bytes>,
    metadata: Value,
    wanted: Wanted,
    include: &str,
) -> Response<Body> {
    match wanted.form {
        As::Object => {
            // Keys in the order in which kubectl and people expect them.
            let head = format!(
                "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
                Value::from(resource.list_kind.as_str()),
                Value::from(resource.api_version()),
            );
            match wanted.format {
                Format::Proto => {
                    let body =
                        protobuf_list(&resource.api_version(), &resource.list_kind, &resource.node, items, &metadata);
                    match body {
                        Some(body) => with_type(200, body, content_type(Format::Proto)),
                        None => status(&Status::internal("encode a list in protobuf"), Format::Proto),
                    }
                }
                Format::Json => with_type(200, Body::list(head, items, "]}\n"), content_type(Format::Json)),
                Format::Yaml => {
                    let items: Vec<Value> = items.iter().map(|item| codec::decode(item)).collect();
                    let list = json!({"kind": resource.list_kind, "apiVersion": resource.api_version(),
                        "metadata": metadata, "items": items});
                    value(200, &list, Format::Yaml)
                }
            }
        }
        As::Table if wanted.format == Format::Json => table_list(resource, items, metadata, include),
        As::Table => {
            let rows = items.iter().map(|item| row(resource, &codec::decode(item), include)).collect();
            value(200, &table_value(resource, rows, metadata), wanted.format)
        }
        As::Metadata if wanted.format == Format::Json => partial_list(items, &metadata),
        As::Metadata if wanted.format == Format::Proto => {
            let (version, kind) = ("meta.k8s.io/v1", "PartialObjectMetadataList");
            match protobuf_list(version, kind, proto::partial_node(), items, &metadata) {
                Some(body) => with_type(200, body, content_type(Format::Proto)),
                None => status(&Status::internal("encode a list in protobuf"), Format::Proto),
            }
        }
        As::Metadata => {
            let items: Vec<Value> = items.iter().map(|item| partial(&codec::decode(item))).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "items": items});
            value(200, &list, wanted.format)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_is_read_as_upstream_does() {
        let rows: &[(&str, Option<(Format, As)>)] = &[
            ("", Some((Format::Json, As::Object))),
            ("application/json", Some((Format::Json, As::Object))),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some((Format::Json, As::Table))),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some((Format::Json, As::Metadata))),
            ("application/vnd.kubernetes.protobuf,application/json", Some((Format::Json, As::Object))),
            ("application/vnd.kubernetes.protobuf", None),
            ("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", None),
            ("application/yaml", Some((Format::Yaml, As::Object))),
            ("application/json;as=Table;v=v9;g=meta.k8s.io", None),
            ("text/html", None),
        ];
        for (accept, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            let found = negotiate(&headers, false).ok().map(|wanted| (wanted.format, wanted.form));
            assert_eq!(found, *expected, "{accept}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.kubernetes.protobuf,application/json"));
        assert_eq!(negotiate(&headers, true).unwrap().format, Format::Proto);
    }
}
