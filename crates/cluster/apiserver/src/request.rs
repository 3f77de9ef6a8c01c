//! What a request asks for, read once from its path, method and query. Authorization and handling use the same answer,
//! so that they cannot disagree about it.

use http::Method;
use resources::Status;

/// The query, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let decode = |part: &str| percent_decode(&part.replace('+', " ")).unwrap_or_else(|| part.to_owned());
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key), decode(value))
        };
        Self(text.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    /// The first value of a key, empty if there is none.
    pub fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(name, _)| name == key)
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A boolean as Go's query decoder reads it: present without value is true.
    pub fn flag(&self, key: &str) -> Result<bool, Status> {
        if !self.has(key) {
            return Ok(false);
        }
        match self.get(key) {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            // Go takes any other word for true in query parameters; only these are false.
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(Status::bad_request(format!("{key}: Invalid value: {other:?}: must be a boolean"))),
        }
    }

    pub fn number(&self, key: &str) -> Result<Option<u64>, Status> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax ({key})"))
            }),
        }
    }
}

/// `None` when an escape is cut short or the result is no UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let hex = |b: u8| (b as char).to_digit(16);
        let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).ok()
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/api/v1/...` or `/apis/GROUP/VERSION/...`.
    Resource(ResourcePath),
    /// Everything else, by its path.
    Path(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    /// Empty for all namespaces and for cluster scope.
    pub namespace: String,
    pub resource: String,
    /// Empty for a collection.
    pub name: String,
    pub subresource: String,
    /// What follows the subresource, for proxies, without leading slash.
    pub rest: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    pub target: Target,
    pub query: Query,
    /// Kubernetes' verb: get, list, watch, create, update, patch, delete, deletecollection; for plain paths the
    /// method in lower case.
    pub verb: &'static str,
}

/// Reads a request line. Paths with empty, dot or undecodable segments are refused, so that no two spellings of a
/// path mean the same.
pub fn parse(method: &Method, path: &str, query: &str) -> Result<RequestInfo, Status> {
    let query = Query::parse(query);
    let trimmed = path.strip_prefix('/').ok_or_else(Status::no_such_path)?;
    let mut segments = Vec::new();
    for segment in trimmed.strip_suffix('/').unwrap_or(trimmed).split('/') {
        let decoded = percent_decode(segment).ok_or_else(|| Status::bad_request("the path cannot be decoded"))?;
        let hidden = decoded.contains('/') || decoded.contains('\0') || decoded == "." || decoded == "..";
        if hidden || (decoded.is_empty() && !trimmed.is_empty()) {
            return Err(Status::no_such_path());
        }
        segments.push(decoded);
    }
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, rest) = match words[..] {
        ["api", version, ref rest @ ..] if !rest.is_empty() => ("", version, rest),
        ["apis", group, version, ref rest @ ..] if !rest.is_empty() => (group, version, rest),
        _ => {
            let verb = match *method {
                Method::GET => "get",
                Method::HEAD => "head",
                Method::POST => "post",
                Method::PUT => "put",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                Method::OPTIONS => "options",
                _ => "unknown",
            };
            return Ok(RequestInfo { target: Target::Path(path.to_owned()), query, verb });
        }
    };
    let (rest, old_watch) = match rest {
        // The deprecated way to ask for a watch: /api/v1/watch/...
        ["watch", rest @ ..] if !rest.is_empty() => (rest, true),
        rest => (rest, false),
    };
    let mut target = ResourcePath { group: group.into(), version: version.into(), ..ResourcePath::default() };
    let rest = match rest {
        ["namespaces", namespace, resource, rest @ ..] if !matches!(*resource, "status" | "finalize") => {
            target.namespace = (*namespace).to_owned();
            target.resource = (*resource).to_owned();
            rest
        }
        [resource, rest @ ..] => {
            target.resource = (*resource).to_owned();
            rest
        }
        [] => &[],
    };
    if let [name, rest @ ..] = rest {
        target.name = (*name).to_owned();
        if let [subresource, rest @ ..] = rest {
            target.subresource = (*subresource).to_owned();
            target.rest = rest.join("/");
        }
    }
    let watch = old_watch || (query.has("watch") && query.flag("watch")?);
    let one = !target.name.is_empty();
    let verb = match *method {
        Method::GET | Method::HEAD if one && !old_watch => "get",
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if one => "delete",
        Method::DELETE => "deletecollection",
        _ => {
            return Err(Status::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            ));
        }
    };
    Ok(RequestInfo { target: Target::Resource(target), query, verb })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(method: Method, path: &str, query: &str) -> String {
        match parse(&method, path, query) {
            Err(status) => status.code.to_string(),
            Ok(info) => match info.target {
                Target::Path(path) => format!("{} {path}", info.verb),
                Target::Resource(to) => {
                    let place = [to.group, to.version, to.namespace, to.resource, to.name, to.subresource, to.rest];
                    format!("{} {}", info.verb, place.join("|"))
                }
            },
        }
    }

    #[test]
    fn paths_are_read_once_and_only_one_way() {
        let rows = [
            (Method::GET, "/api/v1/pods", "", "list |v1||pods|||"),
            (Method::GET, "/api/v1/pods", "watch=1", "watch |v1||pods|||"),
            (Method::GET, "/api/v1/watch/namespaces/a/pods", "", "watch |v1|a|pods|||"),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", "", "get |v1|a|pods|b|log|"),
            (Method::GET, "/api/v1/namespaces/a", "", "get |v1||namespaces|a||"),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "", "update |v1||namespaces|a|finalize|"),
            (Method::DELETE, "/apis/apps/v1/namespaces/a/deployments", "", "deletecollection apps|v1|a|deployments|||"),
            (Method::POST, "/apis/apps/v1/namespaces/a/deployments", "", "create apps|v1|a|deployments|||"),
            (Method::GET, "/api/v1/nodes/n/proxy/a/b", "", "get |v1||nodes|n|proxy|a/b"),
            (Method::GET, "/apis/apps/v1", "", "get /apis/apps/v1"),
            (Method::GET, "/healthz", "", "get /healthz"),
            (Method::GET, "/", "", "get /"),
            (Method::GET, "/api/v1/namespaces/a%2fb/pods", "", "404"),
            (Method::GET, "/api/v1/namespaces//pods", "", "404"),
            (Method::GET, "/api/v1/namespaces/../pods", "", "404"),
            (Method::GET, "/api/v1/namespaces/%2e%2e/pods", "", "404"),
            (Method::GET, "/api/v1/pods/%zz", "", "400"),
            (Method::TRACE, "/api/v1/pods", "", "405"),
        ];
        for (method, path, query, expected) in rows {
            assert_eq!(shown(method, path, query), expected, "{path}");
        }
    }
}
