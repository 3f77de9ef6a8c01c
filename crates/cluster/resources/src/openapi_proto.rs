//! The OpenAPI v2 document in gnostic's protobuf, which is all that kubectl reads it in.
//!
//! The messages are those of gnostic's `openapi.v2`; of each, the fields that our own documents ([`crate::openapi::v2`])
//! use. What has no fixed type (defaults, extensions) travels as YAML text, which JSON is.

use serde_json::Value;

use crate::proto::encode::{close, key, open, text, varint};

/// What a field holds.
#[derive(Clone, Copy)]
enum Holds {
    Text,
    Flag,
    Count,
    Double,
    /// YAML text in an `Any`.
    Any,
    Texts,
    Anys,
    One(&'static Message),
    Many(&'static Message),
    /// A map, as a message of pairs (at this number) of a name and a message.
    Named(u32, &'static Message),
    /// Text or texts in a message of their own, as `type` is.
    TextsWithin,
    /// A message within a message at this number: the choices of a `oneof`.
    Within(u32, &'static Message),
    /// A schema, or a boolean.
    SchemaOrFlag,
    /// Parameters: of the body, of the query or of the path.
    Parameters,
}

struct Message {
    /// Name in JSON, number, content.
    fields: &'static [(&'static str, u32, Holds)],
    /// Where fields that begin with `x-` go; 0 is nowhere.
    extensions: u32,
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Holds::Text),
        ("info", 2, Holds::One(&INFO)),
        ("paths", 8, Holds::Named(2, &PATH)),
        ("definitions", 9, Holds::Named(1, &SCHEMA)),
    ],
    extensions: 16,
};
static INFO: Message = Message { fields: &[("title", 1, Holds::Text), ("version", 2, Holds::Text)], extensions: 7 };
static PATH: Message = Message {
    fields: &[
        ("get", 2, Holds::One(&OPERATION)),
        ("put", 3, Holds::One(&OPERATION)),
        ("post", 4, Holds::One(&OPERATION)),
        ("delete", 5, Holds::One(&OPERATION)),
        ("options", 6, Holds::One(&OPERATION)),
        ("head", 7, Holds::One(&OPERATION)),
        ("patch", 8, Holds::One(&OPERATION)),
        ("parameters", 9, Holds::Parameters),
    ],
    extensions: 10,
};
static OPERATION: Message = Message {
    fields: &[
        ("description", 3, Holds::Text),
        ("operationId", 5, Holds::Text),
        ("produces", 6, Holds::Texts),
        ("consumes", 7, Holds::Texts),
        ("parameters", 8, Holds::Parameters),
        // Of a response or a reference, the response.
        ("responses", 9, Holds::Named(1, &RESPONSE_VALUE)),
        ("schemes", 10, Holds::Texts),
    ],
    extensions: 13,
};
static RESPONSE_VALUE: Message = Message { fields: &[("", 1, Holds::One(&RESPONSE))], extensions: 0 };
static RESPONSE: Message =
    Message { fields: &[("description", 1, Holds::Text), ("schema", 2, Holds::Within(1, &SCHEMA))], extensions: 5 };
static BODY: Message = Message {
    fields: &[
        ("description", 1, Holds::Text),
        ("name", 2, Holds::Text),
        ("in", 3, Holds::Text),
        ("required", 4, Holds::Flag),
        ("schema", 5, Holds::One(&SCHEMA)),
    ],
    extensions: 6,
};
static QUERY: Message = Message {
    fields: &[
        ("required", 1, Holds::Flag),
        ("in", 2, Holds::Text),
        ("description", 3, Holds::Text),
        ("name", 4, Holds::Text),
        ("type", 6, Holds::Text),
        ("uniqueItems", 20, Holds::Flag),
    ],
    extensions: 23,
};
static IN_PATH: Message = Message {
    fields: &[
        ("required", 1, Holds::Flag),
        ("in", 2, Holds::Text),
        ("description", 3, Holds::Text),
        ("name", 4, Holds::Text),
        ("type", 5, Holds::Text),
        ("uniqueItems", 19, Holds::Flag),
    ],
    extensions: 22,
};
static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Holds::Text),
        ("format", 2, Holds::Text),
        ("title", 3, Holds::Text),
        ("description", 4, Holds::Text),
        ("default", 5, Holds::Any),
        ("multipleOf", 6, Holds::Double),
        ("maximum", 7, Holds::Double),
        ("exclusiveMaximum", 8, Holds::Flag),
        ("minimum", 9, Holds::Double),
        ("exclusiveMinimum", 10, Holds::Flag),
        ("maxLength", 11, Holds::Count),
        ("minLength", 12, Holds::Count),
        ("pattern", 13, Holds::Text),
        ("maxItems", 14, Holds::Count),
        ("minItems", 15, Holds::Count),
        ("uniqueItems", 16, Holds::Flag),
        ("maxProperties", 17, Holds::Count),
        ("minProperties", 18, Holds::Count),
        ("required", 19, Holds::Texts),
        ("enum", 20, Holds::Anys),
        ("additionalProperties", 21, Holds::SchemaOrFlag),
        ("type", 22, Holds::TextsWithin),
        ("items", 23, Holds::Within(1, &SCHEMA)),
        ("allOf", 24, Holds::Many(&SCHEMA)),
        ("properties", 25, Holds::Named(1, &SCHEMA)),
    ],
    extensions: 31,
};

/// Encodes a whole document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(document, &DOCUMENT, &mut out);
    out
}

fn message(value: &Value, shape: &Message, out: &mut Vec<u8>) {
    for (name, number, holds) in shape.fields {
        // A field without a name holds the value itself.
        match if name.is_empty() { Some(value) } else { value.get(*name) } {
            Some(Value::Null) | None => {}
            Some(value) => field(value, *number, *holds, out),
        }
    }
    if shape.extensions == 0 {
        return;
    }
    for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        within(shape.extensions, out, |out| {
            text(out, 1, name);
            field(value, 2, Holds::Any, out);
        });
    }
}

fn within(number: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let begin = open(out, number);
    fill(out);
    close(out, begin);
}

fn field(value: &Value, number: u32, holds: Holds, out: &mut Vec<u8>) {
    let items = || value.as_array().into_iter().flatten();
    match holds {
        Holds::Text => text(out, number, value.as_str().unwrap_or_default()),
        Holds::Flag => {
            if value == true {
                key(out, number, 0);
                varint(out, 1);
            }
        }
        Holds::Count => {
            key(out, number, 0);
            varint(out, value.as_u64().unwrap_or_default());
        }
        Holds::Double => {
            key(out, number, 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Holds::Any => within(number, out, |out| text(out, 2, &value.to_string())),
        Holds::Texts => items().for_each(|item| text(out, number, item.as_str().unwrap_or_default())),
        Holds::Anys => items().for_each(|item| field(item, number, Holds::Any, out)),
        Holds::One(shape) => within(number, out, |out| message(value, shape, out)),
        Holds::Many(shape) => items().for_each(|item| field(item, number, Holds::One(shape), out)),
        Holds::Named(pairs, shape) => within(number, out, |out| {
            for (name, value) in value.as_object().into_iter().flatten() {
                within(pairs, out, |out| {
                    text(out, 1, name);
                    field(value, 2, Holds::One(shape), out);
                });
            }
        }),
        Holds::TextsWithin => within(number, out, |out| match value {
            Value::String(one) => text(out, 1, one),
            _ => field(value, 1, Holds::Texts, out),
        }),
        Holds::Within(inner, shape) => within(number, out, |out| field(value, inner, Holds::One(shape), out)),
        Holds::SchemaOrFlag => within(number, out, |out| match value {
            Value::Bool(flag) => {
                key(out, 2, 0);
                varint(out, u64::from(*flag));
            }
            schema => field(schema, 1, Holds::One(&SCHEMA), out),
        }),
        Holds::Parameters => {
            for item in items() {
                // ParametersItem { parameter = 1 }, Parameter { body = 1, other = 2 }, { query = 3, path = 4 }.
                within(number, out, |out| {
                    within(1, out, |out| match item["in"].as_str().unwrap_or_default() {
                        "body" => field(item, 1, Holds::One(&BODY), out),
                        "path" => field(item, 2, Holds::Within(4, &IN_PATH), out),
                        _ => field(item, 2, Holds::Within(3, &QUERY), out),
                    });
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_is_written_as_gnostic_reads_it() {
        let document = json!({"swagger": "2.0", "definitions": {"a": {"type": "array", "items": {"$ref": "r"},
            "maxItems": 3, "x-e": {"k": 1}}}});
        let schema: &[&[u8]] = &[
            &[0x70, 3],                                                  // maxItems
            &[0xb2, 1, 7, 0x0a, 5, b'a', b'r', b'r', b'a', b'y'],        // type { value }
            &[0xba, 1, 5, 0x0a, 3, 0x0a, 1, b'r'],                       // items { schema { $ref } }
            &[0xfa, 1, 16, 0x0a, 3, b'x', b'-', b'e', 0x12, 9, 0x12, 7], // extension { name, any { yaml } }
            br#"{"k":1}"#,
        ];
        let schema = schema.concat();
        let mut named = vec![0x0a, 1, b'a', 0x12, schema.len() as u8];
        named.extend(&schema);
        let mut expected = vec![0x0a, 3, b'2', b'.', b'0', 0x4a, named.len() as u8 + 2, 0x0a, named.len() as u8];
        expected.extend(&named);
        assert_eq!(encode(&document), expected);
    }
}
