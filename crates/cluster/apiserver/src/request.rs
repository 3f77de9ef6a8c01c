//! What a request asks for, read once from its path, method and query. Authorization and handling use the same answer,
//! so that they cannot disagree about it.

pub use client::{Query, percent_decode};
use http::Method;
use resources::Status;

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
        // A handler that takes such a segment for a step to another place must not be reached with it.
        if (hidden && !vocab::weak::without("segments")) || (decoded.is_empty() && !trimmed.is_empty()) {
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
