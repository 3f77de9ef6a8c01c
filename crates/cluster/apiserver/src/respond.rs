//! What a client wants to get back, and making it: content negotiation, tables, partial objects, Status errors.

use std::collections::VecDeque;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, WARNING};
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use resources::schema::Node;
use resources::{Status, Value, proto, table};
use serde_json::json;

use crate::body::Body;
use crate::catalog::Resource;
use crate::codec;

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
        Format::Yaml => (Body::from(codec::to_yaml(&codec::decode(&json))), format),
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

/// A list in protobuf. Its length stands at its beginning, so all items are encoded before the first is sent.
fn protobuf_list(api_version: &str, kind: &str, node: &Node, items: VecDeque<Bytes>, metadata: &Value) -> Option<Body> {
    let meta = proto::list_meta(metadata.to_string().as_bytes()).ok()?;
    let encoded: VecDeque<Bytes> = items
        .into_iter()
        .map(|item| proto::encode_item(&item, node).map(Bytes::from))
        .collect::<Result<_, _>>()
        .ok()?;
    let length = meta.len() + encoded.iter().map(Bytes::len).sum::<usize>();
    let mut head = proto::head(api_version, kind, length);
    head.extend_from_slice(&meta);
    Some(Body::parts(head, encoded))
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

/// A list in the form asked for.
pub fn list(
    resource: &Resource,
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
        As::Table => {
            let rows = items.iter().map(|item| row(resource, &codec::decode(item), include)).collect();
            value(200, &table_value(resource, rows, metadata), wanted.format)
        }
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
