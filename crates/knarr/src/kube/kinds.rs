//! Which resource a word names (`po`, `pods`, `Deployment`, `deploy.apps`), from the server's own discovery. Pure but for asking.

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;

use super::api::Api;
use crate::failure::Failure;

/// One resource that the server has, in the version it prefers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    singular: String,
    short: Vec<String>,
    categories: Vec<String>,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Resource {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As messages name it: `pod`, `deployment.apps`.
    pub fn shown(&self) -> String {
        let singular = if self.singular.is_empty() { self.kind.to_lowercase() } else { self.singular.clone() };
        if self.group.is_empty() { singular } else { format!("{singular}.{}", self.group) }
    }

    /// The path of a collection, or of all namespaces' where `namespace` is empty.
    pub fn path(&self, namespace: &str) -> String {
        let base = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match self.namespaced && !namespace.is_empty() {
            true => format!("{base}/namespaces/{namespace}/{}", self.plural),
            false => format!("{base}/{}", self.plural),
        }
    }

    pub fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.path(namespace), crate::client::http::encode(name))
    }

    fn is_called(&self, word: &str) -> bool {
        self.plural == word
            || self.singular == word
            || self.short.iter().any(|s| s == word)
            || self.kind.to_lowercase() == word
    }
}

/// Everything that the server has, each resource once for each version, the preferred version first.
pub struct Catalog {
    resources: Vec<Resource>,
}

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

impl Catalog {
    pub fn ask(api: &Api) -> Result<Self, Failure> {
        let mut resources = Vec::new();
        for path in ["/api", "/apis"] {
            let reply = api.ask(Method::GET, path, DISCOVERY, "", Bytes::new())?;
            read(&reply.json()?, &mut resources);
        }
        Ok(Self { resources })
    }

    #[cfg(test)]
    pub fn of(lists: &[Value]) -> Self {
        let mut resources = Vec::new();
        lists.iter().for_each(|list| read(list, &mut resources));
        Self { resources }
    }

    /// What a word on the command line names: `NAME`, `NAME.GROUP` or `NAME.VERSION.GROUP`.
    pub fn named(&self, word: &str) -> Result<&Resource, Failure> {
        let lower = word.to_lowercase();
        let (name, rest) = lower.split_once('.').unwrap_or((&lower, ""));
        let fits = |resource: &&Resource| {
            let full = format!("{}.{}", resource.version, resource.group);
            resource.is_called(name)
                && (rest.is_empty() || resource.group == rest || full == rest || full.trim_end_matches('.') == rest)
        };
        self.resources.iter().find(fits).ok_or_else(|| {
            Failure::new(format!("error: the server doesn't have a resource type {}", crate::text::quoted(word)))
        })
    }

    /// The resources of a category such as `all`; empty if there is none of that name.
    pub fn category(&self, word: &str) -> Vec<&Resource> {
        self.resources.iter().filter(|resource| resource.categories.iter().any(|category| category == word)).collect()
    }

    /// The resource of an object, by its `apiVersion` and `kind`.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Result<&Resource, Failure> {
        let fits = |resource: &&Resource| resource.kind == kind && resource.api_version() == api_version;
        self.resources.iter().find(fits).ok_or_else(|| {
            Failure::new(format!(
                "error: no matches for kind {kind:?} in version {api_version:?}\nensure CRDs are installed first"
            ))
        })
    }
}

fn read(list: &Value, into: &mut Vec<Resource>) {
    let items = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let word = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let words = |value: &Value, field: &str| -> Vec<String> {
        items(value, field).iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    for group in items(list, "items") {
        for version in items(&group, "versions") {
            for resource in items(&version, "resources") {
                into.push(Resource {
                    group: word(&group["metadata"], "name"),
                    version: word(&version, "version"),
                    kind: word(&resource["responseKind"], "kind"),
                    plural: word(&resource, "resource"),
                    singular: word(&resource, "singularResource"),
                    short: words(&resource, "shortNames"),
                    categories: words(&resource, "categories"),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: words(&resource, "verbs"),
                });
            }
        }
    }
}

/// Words by which people name the cluster's kinds in front of a slash; it tells `pod/web` from a container's name without asking
/// any server.
const WELL_KNOWN: &[&str] = &[
    "po",
    "pod",
    "pods",
    "deploy",
    "deployment",
    "deployments",
    "rs",
    "replicaset",
    "replicasets",
    "sts",
    "statefulset",
    "statefulsets",
    "ds",
    "daemonset",
    "daemonsets",
    "job",
    "jobs",
    "cj",
    "cronjob",
    "cronjobs",
    "rc",
    "replicationcontroller",
    "replicationcontrollers",
    "svc",
    "service",
    "services",
    "no",
    "node",
    "nodes",
];

/// Does `pod/web` or `deployment.apps/web` stand here, rather than a container's name?
pub fn is_of_cluster(word: &str) -> bool {
    word.split_once('/').is_some_and(|(kind, name)| {
        let kind = kind.split('.').next().unwrap_or_default().to_lowercase();
        !name.is_empty() && !name.contains('/') && WELL_KNOWN.contains(&kind.as_str())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn catalog() -> Catalog {
        let resource = |plural: &str, singular: &str, kind: &str, short: &str, scope: &str| {
            json!({"resource": plural, "singularResource": singular, "responseKind": {"kind": kind}, "scope": scope,
                "shortNames": [short], "categories": ["all"], "verbs": ["get", "list"]})
        };
        Catalog::of(&[
            json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [
                resource("pods", "pod", "Pod", "po", "Namespaced"), resource("nodes", "node", "Node", "no", "Cluster"),
                resource("events", "event", "Event", "ev", "Namespaced")]}]}]}),
            json!({"items": [
                {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                    resource("deployments", "deployment", "Deployment", "deploy", "Namespaced")]}]},
                {"metadata": {"name": "events.k8s.io"}, "versions": [{"version": "v1", "resources": [
                    resource("events", "event", "Event", "ev", "Namespaced")]}]}]}),
        ])
    }

    #[test]
    fn a_word_names_a_resource() {
        let catalog = catalog();
        let path = |word: &str| catalog.named(word).map(|resource| resource.object("ns", "x"));
        for word in ["po", "pod", "pods", "Pod", "pods.v1"] {
            assert_eq!(path(word).unwrap(), "/api/v1/namespaces/ns/pods/x", "{word}");
        }
        assert_eq!(path("no").unwrap(), "/api/v1/nodes/x");
        for word in ["deploy", "deployments.apps", "deployments.v1.apps", "Deployment"] {
            assert_eq!(path(word).unwrap(), "/apis/apps/v1/namespaces/ns/deployments/x", "{word}");
        }
        assert_eq!(path("events").unwrap(), "/api/v1/namespaces/ns/events/x", "the core group comes first");
        assert_eq!(path("ev.events.k8s.io").unwrap(), "/apis/events.k8s.io/v1/namespaces/ns/events/x");
        let problem = path("foo").unwrap_err().message;
        assert_eq!(problem, "error: the server doesn't have a resource type \"foo\"");
        assert_eq!(catalog.of_kind("apps/v1", "Deployment").unwrap().shown(), "deployment.apps");
        assert!(catalog.of_kind("apps/v2", "Deployment").unwrap_err().message.contains("no matches for kind"));
        assert_eq!(catalog.category("all").len(), 5);
    }

    #[test]
    fn a_slash_tells_the_clusters_names() {
        for word in ["pod/web", "deploy/web", "Deployment.apps/web", "svc/x"] {
            assert!(is_of_cluster(word), "{word}");
        }
        for word in ["web", "/web", "pod/", "file/x", "pod/a/b", "project/pod"] {
            assert!(!is_of_cluster(word), "{word}");
        }
    }
}
