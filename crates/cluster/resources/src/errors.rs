//! Errors in Kubernetes' words: field errors of validation and the `Status` object that clients get. People and tools
//! match on these texts.

use std::fmt;

use serde_json::{Value, json};

/// One fault found by validation, with the path of the field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    pub path: String,
    pub kind: FaultKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum FaultKind {
    Required(String),
    Invalid(Value, String),
    /// An invalid value that would be no help to show.
    Wrong(String),
    TypeInvalid(Value, String),
    Unsupported(Value, Vec<String>),
    Duplicate(Value),
    NotFound(Value),
    Forbidden(String),
    TooLong(u64),
    TooMany(usize, u64),
    Internal(String),
}

impl FieldError {
    pub fn new(path: impl Into<String>, kind: FaultKind) -> Self {
        Self { path: path.into(), kind }
    }

    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, FaultKind::Required(detail.into()))
    }

    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(path, FaultKind::Invalid(value.into(), detail.into()))
    }

    pub fn wrong(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, FaultKind::Wrong(detail.into()))
    }

    pub fn unsupported(path: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut supported: Vec<String> = supported.iter().map(|&text| text.to_owned()).collect();
        supported.sort();
        Self::new(path, FaultKind::Unsupported(value.into(), supported))
    }

    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(path, FaultKind::Duplicate(value.into()))
    }

    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(path, FaultKind::NotFound(value.into()))
    }

    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, FaultKind::Forbidden(detail.into()))
    }

    pub fn too_long(path: impl Into<String>, max: u64) -> Self {
        Self::new(path, FaultKind::TooLong(max))
    }

    /// The machine-readable reason in a status cause.
    pub fn reason(&self) -> &'static str {
        match self.kind {
            FaultKind::Required(_) => "FieldValueRequired",
            FaultKind::Invalid(..) | FaultKind::Wrong(_) => "FieldValueInvalid",
            FaultKind::TypeInvalid(..) => "FieldValueTypeInvalid",
            FaultKind::Unsupported(..) => "FieldValueNotSupported",
            FaultKind::Duplicate(_) => "FieldValueDuplicate",
            FaultKind::NotFound(_) => "FieldValueNotFound",
            FaultKind::Forbidden(_) => "FieldValueForbidden",
            FaultKind::TooLong(_) => "FieldValueTooLong",
            FaultKind::TooMany(..) => "FieldValueTooMany",
            FaultKind::Internal(_) => "InternalError",
        }
    }

    /// The fault without its path.
    pub fn body(&self) -> String {
        let with = |head: String, detail: &str| if detail.is_empty() { head } else { format!("{head}: {detail}") };
        match &self.kind {
            FaultKind::Required(detail) => with("Required value".into(), detail),
            FaultKind::Invalid(value, detail) => with(format!("Invalid value: {}", shown(value)), detail),
            FaultKind::Wrong(detail) => with("Invalid value".into(), detail),
            FaultKind::TypeInvalid(value, detail) => with(format!("Invalid value: {}", shown(value)), detail),
            FaultKind::Unsupported(value, supported) => {
                let supported: Vec<String> = supported.iter().map(|text| format!("{text:?}")).collect();
                let detail = match supported.is_empty() {
                    true => String::new(),
                    false => format!("supported values: {}", supported.join(", ")),
                };
                with(format!("Unsupported value: {}", shown(value)), &detail)
            }
            FaultKind::Duplicate(value) => format!("Duplicate value: {}", shown(value)),
            FaultKind::NotFound(value) => format!("Not found: {}", shown(value)),
            FaultKind::Forbidden(detail) => with("Forbidden".into(), detail),
            FaultKind::TooLong(max) => format!("Too long: may not be more than {max} bytes"),
            FaultKind::TooMany(have, max) => format!("Too many: {have}: must have at most {max} items"),
            FaultKind::Internal(detail) => with("Internal error".into(), detail),
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// An answer of kind `Status`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub name: String,
    pub group: String,
    /// Resource or kind, as upstream has it in `details.kind`.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_secs: u32,
}

/// `pods`, or `deployments.apps` outside the core group.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_secs: 0,
        }
    }

    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.group = group.to_owned();
        self.kind = kind.to_owned();
        self.name = name.to_owned();
        self
    }

    pub fn cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        self.causes.push(Cause { reason: reason.to_owned(), message: message.into(), field: field.to_owned() });
        self
    }

    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(group, resource));
        Self::new(404, "NotFound", message).about(group, resource, name)
    }

    /// A path that names no resource we serve.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(group, resource));
        Self::new(409, "AlreadyExists", message).about(group, resource, name)
    }

    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let message = format!("Operation cannot be fulfilled on {what} {name:?}: {why}");
        Self::new(409, "Conflict", message).about(group, resource, name)
    }

    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let message = match name {
            "" => format!("{what} is forbidden: {why}"),
            _ => format!("{what} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        let list = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
        let message = format!("{} {name:?} is invalid: {list}", qualified(group, kind));
        let mut status = Self::new(422, "Invalid", message).about(group, kind, name);
        for error in errors {
            status = status.cause(error.reason(), error.body(), &error.path);
        }
        status
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn method_not_supported(group: &str, resource: &str, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind {:?}", qualified(group, resource));
        Self::new(405, "MethodNotAllowed", message).about(group, resource, "")
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {list}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// The resource version asked for is not kept any more.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}")).cause(
            "",
            message.to_string(),
            "",
        )
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    pub fn to_value(&self) -> Value {
        let mut details = serde_json::Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                details.insert(key.into(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            let cause = |cause: &Cause| {
                let mut out = serde_json::Map::new();
                for (key, text) in [("reason", &cause.reason), ("message", &cause.message), ("field", &cause.field)] {
                    if !text.is_empty() {
                        out.insert(key.into(), text.as_str().into());
                    }
                }
                Value::Object(out)
            };
            details.insert("causes".into(), self.causes.iter().map(cause).collect());
        }
        if self.retry_after_secs > 0 {
            details.insert("retryAfterSeconds".into(), self.retry_after_secs.into());
        }
        let mut out = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if !details.is_empty() {
            out["details"] = Value::Object(details);
        }
        out
    }
}
