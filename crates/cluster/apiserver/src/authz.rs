//! Who may do what: RBAC over a view of the stored roles and bindings, kept up to date by `follow`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use resources::selector::LabelSelector;
use resources::{Value, meta};

use crate::authn::User;

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Action {
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// Set for paths that are no resources; the rest is then empty.
    pub path: Option<String>,
}

/// A rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub paths: Vec<String>,
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let list = |key: &str| -> Vec<String> {
            meta::list_at(rule, &[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            paths: list("nonResourceURLs"),
        }
    }

    pub fn allows(&self, action: &Action) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
        if !any(&self.verbs, &action.verb) {
            return false;
        }
        if let Some(path) = &action.path {
            return self.paths.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => pattern == path,
            });
        }
        any(&self.groups, &action.group)
            && self.covers(&action.resource, &action.subresource)
            && (self.names.is_empty() || (!action.name.is_empty() && self.names.contains(&action.name)))
    }

    fn covers(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|listed| match (listed.as_str(), subresource) {
            ("*", _) => true,
            (listed, "") => listed == resource,
            (listed, sub) => match listed.split_once('/') {
                Some((main, listed_sub)) => (main == resource || main == "*") && listed_sub == sub,
                None => false,
            },
        })
    }

    /// This rule allows all that `other` allows. Conservative: judged rule by rule, not over their union, except that
    /// the caller splits `other` into single permissions first.
    fn covers_rule(&self, other: &Rule) -> bool {
        let all = |mine: &[String], theirs: &[String]| {
            mine.iter().any(|one| one == "*") || theirs.iter().all(|wanted| mine.contains(wanted))
        };
        if !other.paths.is_empty() {
            let path = |wanted: &String| {
                self.paths.iter().any(|mine| {
                    mine == wanted || mine.strip_suffix('*').is_some_and(|prefix| wanted.starts_with(prefix))
                })
            };
            return all(&self.verbs, &other.verbs) && other.paths.iter().all(path);
        }
        let resource = |wanted: &String| {
            let (main, sub) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources.contains(wanted)
                || self.covers(main, sub) && main != "*"
                || self.resources.iter().any(|one| one == "*")
        };
        let names = self.names.is_empty()
            || (!other.names.is_empty() && other.names.iter().all(|name| self.names.contains(name)));
        all(&self.verbs, &other.verbs)
            && all(&self.groups, &other.groups)
            && other.resources.iter().all(resource)
            && names
    }

    /// The rule as single permissions.
    fn split(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        for verb in &self.verbs {
            for path in &self.paths {
                out.push(Rule { verbs: vec![verb.clone()], paths: vec![path.clone()], ..Rule::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let names: Vec<Vec<String>> = match self.names.is_empty() {
                        true => vec![Vec::new()],
                        false => self.names.iter().map(|name| vec![name.clone()]).collect(),
                    };
                    out.extend(names.into_iter().map(|names| Rule {
                        verbs: vec![verb.clone()],
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        names,
                        paths: Vec::new(),
                    }));
                }
            }
        }
        out
    }

    pub fn to_value(&self) -> Value {
        let mut out = serde_json::Map::new();
        for (key, list) in [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.paths),
        ] {
            if !list.is_empty() {
                out.insert(key.into(), list.clone().into());
            }
        }
        Value::Object(out)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

impl Subject {
    fn is(&self, user: &User, namespace: &str) -> bool {
        match self.kind.as_str() {
            "User" => user.name == self.name,
            "Group" => user.groups.contains(&self.name),
            "ServiceAccount" => {
                let namespace = if self.namespace.is_empty() { namespace } else { &self.namespace };
                user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
                    == Some((namespace, &self.name))
            }
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Binding {
    name: String,
    subjects: Vec<Subject>,
    /// Kind and name of the role.
    role: (String, String),
}

impl Binding {
    fn read(object: &Value) -> Self {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Self {
            name: meta::name(object).to_owned(),
            subjects: meta::list_at(object, &["subjects"])
                .iter()
                .map(|subject| Subject {
                    kind: text(subject, "kind"),
                    name: text(subject, "name"),
                    namespace: text(subject, "namespace"),
                })
                .collect(),
            role: (text(&object["roleRef"], "kind"), text(&object["roleRef"], "name")),
        }
    }
}

/// Roles and bindings as they stood at some moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    roles: BTreeMap<(String, String), Vec<Rule>>,
    cluster_roles: BTreeMap<String, Vec<Rule>>,
    bindings: BTreeMap<String, Vec<Binding>>,
    cluster_bindings: Vec<Binding>,
}

impl View {
    pub fn new(roles: &[Value], cluster_roles: &[Value], bindings: &[Value], cluster_bindings: &[Value]) -> Self {
        let rules = |role: &Value| meta::list_at(role, &["rules"]).iter().map(Rule::read).collect::<Vec<_>>();
        let mut view = Self::default();
        for role in roles {
            view.roles.insert((meta::namespace(role).into(), meta::name(role).into()), rules(role));
        }
        for role in cluster_roles {
            let rules = match role.get("aggregationRule") {
                // An aggregated role is the union of those that its selectors match.
                Some(aggregation) => {
                    aggregated(aggregation, cluster_roles).iter().flat_map(|role| rules(role)).collect()
                }
                None => rules(role),
            };
            view.cluster_roles.insert(meta::name(role).into(), rules);
        }
        for binding in bindings {
            view.bindings.entry(meta::namespace(binding).into()).or_default().push(Binding::read(binding));
        }
        view.cluster_bindings = cluster_bindings.iter().map(Binding::read).collect();
        view
    }

    fn role(&self, namespace: &str, role: &(String, String)) -> &[Rule] {
        let found = match role.0.as_str() {
            "ClusterRole" => self.cluster_roles.get(&role.1),
            _ => self.roles.get(&(namespace.to_owned(), role.1.clone())),
        };
        found.map(Vec::as_slice).unwrap_or_default()
    }

    /// Every rule that holds for a user in a namespace (cluster-wide ones alone when it is empty).
    pub fn rules<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = (&'a Rule, String)> {
        let wide = self.cluster_bindings.iter().map(|binding| ("", binding));
        let narrow = self.bindings.get(namespace).into_iter().flatten().map(move |binding| (namespace, binding));
        wide.chain(narrow)
            .filter(move |(namespace, binding)| binding.subjects.iter().any(|subject| subject.is(user, namespace)))
            .flat_map(|(namespace, binding)| {
                let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
                let shown = match namespace {
                    "" => format!("{:?}", binding.name),
                    namespace => format!("{:?}", format!("{}/{namespace}", binding.name)),
                };
                let why = format!("RBAC: allowed by {kind} {shown} of {} {:?}", binding.role.0, binding.role.1);
                self.role(namespace, &binding.role).iter().map(move |rule| (rule, why.clone()))
            })
    }

    /// Why the user may do it, or `None`.
    pub fn allows(&self, user: &User, action: &Action) -> Option<String> {
        if user.is_master() {
            return Some(String::new());
        }
        self.rules(user, &action.namespace).find(|(rule, _)| rule.allows(action)).map(|(_, why)| why)
    }

    /// The rules of a role, for checks of escalation.
    pub fn rules_of(&self, namespace: &str, kind: &str, name: &str) -> Vec<Rule> {
        self.role(namespace, &(kind.to_owned(), name.to_owned())).to_vec()
    }

    /// Permissions among `wanted` that the user does not hold.
    pub fn lacking(&self, user: &User, namespace: &str, wanted: &[Rule]) -> Vec<Rule> {
        if user.is_master() {
            return Vec::new();
        }
        let held: Vec<&Rule> = self.rules(user, namespace).map(|(rule, _)| rule).collect();
        let singles = wanted.iter().flat_map(Rule::split);
        singles.filter(|single| !held.iter().any(|rule| rule.covers_rule(single))).collect()
    }
}

fn aggregated<'a>(aggregation: &Value, roles: &'a [Value]) -> Vec<&'a Value> {
    let selectors: Vec<LabelSelector> = meta::list_at(aggregation, &["clusterRoleSelectors"])
        .iter()
        .filter_map(|selector| LabelSelector::from_object(selector).ok())
        .collect();
    let chosen = roles.iter().filter(|role| {
        role.get("aggregationRule").is_none() && selectors.iter().any(|selector| selector.matches_object(role))
    });
    chosen.collect()
}

/// The Node authorizer: an agent may read what the pods on its node name, and nothing else of these kinds.
pub async fn node_needs(api: &crate::api::Api, user: &User, action: &Action) -> crate::api::Outcome<bool> {
    let Some(node) = crate::admission::node_restriction::node_of(user) else { return Ok(false) };
    let kind = (action.group.as_str(), action.resource.as_str());
    let known = matches!(
        kind,
        ("", "secrets" | "configmaps" | "persistentvolumeclaims" | "persistentvolumes")
            | ("resource.k8s.io", "resourceclaims")
    );
    if !known || !matches!(action.verb.as_str(), "get" | "list" | "watch") || action.name.is_empty() {
        return Ok(false);
    }
    let pods = api.builtin("", "pods");
    let claims = api.builtin("", "persistentvolumeclaims");
    for pod in api.list_objects(&pods, &action.namespace).await? {
        if meta::str_at(&pod, &["spec", "nodeName"]) != node {
            continue;
        }
        let named = names(&pod, &action.resource);
        if action.resource != "persistentvolumes" {
            if named.contains(&action.name) {
                return Ok(true);
            }
            continue;
        }
        for claim in names(&pod, "persistentvolumeclaims") {
            let found = api.get_object(&claims, meta::namespace(&pod), &claim).await?;
            if found.is_some_and(|(claim, _)| meta::str_at(&claim, &["spec", "volumeName"]) == action.name) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Names of objects of a kind that a pod refers to.
fn names(pod: &Value, plural: &str) -> Vec<String> {
    // Where a reference to the kind stands, and the field that holds the name.
    let places: &[(&str, &str)] = match plural {
        "secrets" => &[
            ("secret", "secretName"),
            ("secret", "name"),
            ("secretRef", "name"),
            ("secretKeyRef", "name"),
            ("nodePublishSecretRef", "name"),
            ("azureFile", "secretName"),
        ],
        "configmaps" => &[("configMap", "name"), ("configMapRef", "name"), ("configMapKeyRef", "name")],
        "persistentvolumeclaims" => &[("persistentVolumeClaim", "claimName")],
        _ => &[],
    };
    fn walk(value: &Value, places: &[(&str, &str)], out: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, child) in map {
                    let fields = places.iter().filter(|(place, _)| place == key);
                    out.extend(fields.filter_map(|(_, field)| child[*field].as_str().map(str::to_owned)));
                    walk(child, places, out);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, places, out)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(&pod["spec"], places, &mut out);
    match plural {
        "secrets" => {
            let pull = meta::list_at(pod, &["spec", "imagePullSecrets"]).iter();
            out.extend(pull.filter_map(|secret| secret["name"].as_str().map(str::to_owned)));
        }
        "persistentvolumeclaims" => {
            let volumes = meta::list_at(pod, &["spec", "volumes"]).iter().filter(|one| one.get("ephemeral").is_some());
            out.extend(volumes.filter_map(|volume| Some(format!("{}-{}", meta::name(pod), volume["name"].as_str()?))));
        }
        "resourceclaims" => {
            let claims = meta::list_at(pod, &["status", "resourceClaimStatuses"]).iter();
            out.extend(claims.filter_map(|claim| claim["resourceClaimName"].as_str().map(str::to_owned)));
            let own = meta::list_at(pod, &["spec", "resourceClaims"]).iter();
            out.extend(own.filter_map(|claim| claim["resourceClaimName"].as_str().map(str::to_owned)));
        }
        _ => {}
    }
    out
}

/// Rules of a role object, aggregation not followed.
pub fn role_rules(role: &Value) -> Vec<Rule> {
    meta::list_at(role, &["rules"]).iter().map(Rule::read).collect()
}

/// The current view, exchanged as a whole.
#[derive(Default)]
pub struct Rbac(RwLock<Arc<View>>);

impl Rbac {
    pub fn view(&self) -> Arc<View> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, view: View) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view() -> View {
        let role = json!({"metadata": {"name": "r", "namespace": "n"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
                {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"]}]});
        let wide = json!({"metadata": {"name": "w"}, "rules": [{"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]},
            {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/livez/*"]}]});
        let bind = json!({"metadata": {"name": "b", "namespace": "n"}, "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": "n"}, {"kind": "User", "name": "u"}]});
        let wide_bind = json!({"metadata": {"name": "wb"}, "roleRef": {"kind": "ClusterRole", "name": "w"},
            "subjects": [{"kind": "Group", "name": "g"}]});
        View::new(&[role], &[wide], &[bind], &[wide_bind])
    }

    #[test]
    fn rules_allow_what_they_name_and_no_more() {
        let view = view();
        let sa = User::service_account("n", "s", "");
        let ada = User { name: "ada".into(), groups: vec!["g".into()], ..User::default() };
        let ask = |user: &User, verb: &str, what: &str| {
            let mut parts = what.split('|');
            let mut next = || parts.next().unwrap_or_default().to_owned();
            let action = Action {
                verb: verb.into(),
                namespace: next(),
                group: next(),
                resource: next(),
                subresource: next(),
                name: next(),
                path: None,
            };
            view.allows(user, &action).is_some()
        };
        let rows = [
            (&sa, "get", "n||pods", true),
            (&sa, "get", "m||pods", false),
            (&sa, "get", "||pods", false),
            (&sa, "list", "n||pods", false),
            (&sa, "get", "n||pods|log", true),
            (&sa, "get", "n||pods|exec", false),
            (&sa, "get", "n||secrets||one", true),
            (&sa, "get", "n||secrets||two", false),
            (&sa, "get", "n||secrets", false),
            (&ada, "delete", "m|apps|deployments|scale", true),
            (&ada, "delete", "m||pods", false),
        ];
        for (user, verb, what, expected) in rows {
            assert_eq!(ask(user, verb, what), expected, "{} {verb} {what}", user.name);
        }
        let path = |path: &str| Action { verb: "get".into(), path: Some(path.into()), ..Action::default() };
        assert!(view.allows(&ada, &path("/livez/ping")).is_some() && view.allows(&ada, &path("/metrics")).is_none());
        let wanted = Rule {
            verbs: vec!["get".into(), "list".into()],
            groups: vec!["".into()],
            resources: vec!["pods".into()],
            ..Rule::default()
        };
        assert_eq!(view.lacking(&sa, "n", std::slice::from_ref(&wanted)).len(), 1);
        assert_eq!(view.lacking(&sa, "m", &[wanted]).len(), 2);
    }
}
