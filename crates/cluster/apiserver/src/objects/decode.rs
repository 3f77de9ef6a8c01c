//! From a request's body to a tree of the right kind.

use bytes::Bytes;
use resources::decode::{self, Parsed};
use resources::{Status, Value, proto};

use super::Call;
use crate::api::Outcome;
use crate::catalog::{Resource, split_api_version};

/// Parses a body by its content type.
pub fn parse(content_type: &str, body: &Bytes) -> Outcome<Parsed> {
    match content_type {
        "" | "application/json" => decode::parse_json(body)
            .map_err(|error| Status::bad_request(format!("couldn't get version/kind; json parse error: {error}"))),
        "application/yaml" | "application/apply-patch+yaml" => parse_yaml(body),
        "application/vnd.kubernetes.protobuf" => parse_proto(body),
        _ => Err(Status::unsupported_media_type(&["application/json", "application/yaml"])),
    }
}

/// YAML, with JSON as the part of it that most clients send.
pub(super) fn parse_yaml(body: &Bytes) -> Outcome<Parsed> {
    if body.first() == Some(&b'{')
        && let Ok(parsed) = decode::parse_json(body)
    {
        return Ok(parsed);
    }
    let text = std::str::from_utf8(body).map_err(|_| Status::bad_request("yaml: invalid leading UTF-8 octet"))?;
    let value: Value = serde_saphyr::from_str(text)
        .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: yaml: {error}")))?;
    Ok(Parsed { value, duplicates: Vec::new() })
}

/// Kubernetes' protobuf: the kind it names says how to read it.
fn parse_proto(body: &Bytes) -> Outcome<Parsed> {
    let refused = |error: proto::ProtoError| Status::bad_request(format!("error decoding protobuf: {error}"));
    let opened = proto::envelope(body).map_err(refused)?;
    let (api_version, kind) = (opened.api_version.clone(), opened.kind.clone());
    let Some(node) = proto::node_of(&api_version, &kind) else {
        let message = format!("no kind {kind:?} is registered for version {api_version:?}");
        return Err(Status::bad_request(message));
    };
    let mut value = proto::decode(opened.raw, &node).map_err(|error| match error {
        proto::ProtoError::Unsupported(_) => Status::unsupported_media_type(&["application/json", "application/yaml"]),
        error => refused(error),
    })?;
    value["apiVersion"] = api_version.into();
    value["kind"] = kind.into();
    Ok(Parsed { value, duplicates: Vec::new() })
}

/// For bodies that are options and reviews: JSON or YAML, unknown fields ignored.
pub fn limit_json(content_type: &str, body: &Bytes) -> Outcome<Value> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    Ok(parse(content_type, body)?.value)
}

/// What to do about fields that are unknown or stand twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl Call {
    pub(super) fn field_validation(&self) -> Outcome<FieldValidation> {
        match self.query.get("fieldValidation") {
            "Ignore" => Ok(FieldValidation::Ignore),
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Strict" => Ok(FieldValidation::Strict),
            other => {
                let error = resources::FieldError::unsupported("fieldValidation", other, &["Ignore", "Strict", "Warn"]);
                Err(Status::invalid("meta.k8s.io", "CreateOptions", "", &[error]))
            }
        }
    }

    /// The body as an object of this resource.
    pub(super) fn body_object(&mut self) -> Outcome<Value> {
        let parsed = parse(&self.content_type, &self.body)?;
        self.fit(parsed, &self.resource.clone())
    }

    /// Checks kind and version, takes out unknown fields and deals with them as asked.
    pub(super) fn fit(&mut self, parsed: Parsed, resource: &Resource) -> Outcome<Value> {
        let Parsed { mut value, duplicates } = parsed;
        let (api_version, kind) = (resource.api_version(), &resource.kind);
        if !value.is_object() {
            let message =
                format!("the object provided is unrecognized (must be of type {kind}): couldn't get version/kind");
            return Err(Status::bad_request(message));
        }
        let given = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let (given_version, given_kind) = (given("apiVersion"), given("kind"));
        // Clients of typed endpoints may leave both out.
        if !given_kind.is_empty() && given_kind != *kind {
            let (group, version) = split_api_version(&given_version);
            let message = format!(
                "{given_kind} in version {version:?} cannot be handled as a {kind}: no kind {given_kind:?} is registered for the \
                 requested group {group:?}"
            );
            return Err(Status::bad_request(message));
        }
        if !given_version.is_empty() && given_version != api_version {
            let message = format!(
                "the API version in the data ({given_version}) does not match the expected API version ({api_version})"
            );
            return Err(Status::bad_request(message));
        }
        value["apiVersion"] = api_version.into();
        value["kind"] = kind.as_str().into();
        let refused = |detail: String| {
            let version = &resource.version;
            Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {detail}"))
        };
        let unknown = decode::conform(&mut value, &resource.node).map_err(|error| refused(error.0))?;
        let mut faults: Vec<String> = duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
        faults.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
        match self.field_validation()? {
            FieldValidation::Strict if !faults.is_empty() => {
                return Err(refused(format!("strict decoding error: {}", faults.join(", "))));
            }
            FieldValidation::Warn => self.warnings.append(&mut faults),
            _ => {}
        }
        Ok(value)
    }
}
