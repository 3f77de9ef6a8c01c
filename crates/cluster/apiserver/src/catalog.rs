//! What the server serves: the built-in resources of the table of facts and those of custom resource definitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use resources::crd::CustomVersion;
use resources::facts;
use resources::kinds::{self, Strategy};
use resources::schema::{Node, Shape, StructRef};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    pub name: String,
    /// Group, version and kind of its answers, where they differ from the resource's.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: Vec<String>,
}

/// A resource in one version.
#[derive(Debug, Clone)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub subresources: Vec<Subresource>,
    pub node: Node,
    /// Keys of its objects begin with this; it ends with a slash. Empty: nothing of it is stored.
    pub prefix: String,
    /// `apiVersion` and `kind` in which objects are stored.
    pub stored_as: (String, String),
    pub strategy: Strategy,
    /// Set for custom resources.
    pub custom: Option<Arc<CustomVersion>>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    pub fn has_status(&self) -> bool {
        self.subresources.iter().any(|sub| sub.name == "status")
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    pub fn key(&self, namespace: &str, name: &str) -> String {
        match self.namespaced {
            true => format!("{}{namespace}/{name}", self.prefix),
            false => format!("{}{name}", self.prefix),
        }
    }

    /// Where its objects of one namespace lie; of all namespaces when it is empty.
    pub fn collection(&self, namespace: &str) -> String {
        match (self.namespaced, namespace) {
            (true, namespace) if !namespace.is_empty() => format!("{}{namespace}/", self.prefix),
            _ => self.prefix.clone(),
        }
    }

    pub fn is_stored_form(&self) -> bool {
        self.stored_as.0 == self.api_version()
    }
}

/// Objects of a version can be kept in the form of another: we know how, or every field has its place there.
fn converts(group: &str, version: &str, plural: &str, from: u32, to: u32) -> bool {
    let known = matches!((group, version, plural), ("autoscaling", "v1", "horizontalpodautoscalers"));
    let beta = (group, version) == ("resource.k8s.io", "v1beta1") && kinds::devices::beta::differs(plural);
    known || beta || fits_into(&builtin(from), &builtin(to), &mut Vec::new())
}

fn builtin(id: u32) -> Node {
    Node::new(Shape::Struct(StructRef::Builtin(id)))
}

fn fits_into(from: &Node, to: &Node, seen: &mut Vec<(u32, u32)>) -> bool {
    match (&from.shape, &to.shape) {
        (Shape::Struct(StructRef::Builtin(a)), Shape::Struct(StructRef::Builtin(b))) => {
            if a == b || seen.contains(&(*a, *b)) {
                return true;
            }
            seen.push((*a, *b));
            let table = facts::facts();
            let (from, to) = (table.struct_def(*a), table.struct_def(*b));
            from.fields
                .iter()
                .all(|field| to.field(&field.name).is_some_and(|other| fits_into(&field.node, &other.node, seen)))
        }
        (Shape::List(a), Shape::List(b)) | (Shape::Map(a), Shape::Map(b)) => fits_into(a, b, seen),
        (a, b) => a == b,
    }
}

pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// A group with its versions, the preferred one first.
#[derive(Debug, Clone, Default)]
pub struct Group {
    pub name: String,
    pub versions: Vec<Version>,
}

#[derive(Debug, Clone, Default)]
pub struct Version {
    pub name: String,
    pub resources: Vec<Arc<Resource>>,
}

#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// The core group first.
    pub groups: Vec<Group>,
    /// Counts changes, so that answers made from a catalog can be kept.
    pub serial: u64,
}

impl Catalog {
    pub fn builtin() -> Self {
        let mut catalog = Self::default();
        let table = facts::facts();
        for gv in &table.groups {
            // Several versions of a resource share one place; the first, preferred one is the form stored.
            let mut resources = Vec::with_capacity(gv.resources.len());
            for resource in &gv.resources {
                let preferred = table
                    .groups
                    .iter()
                    .find(|other| {
                        other.group == gv.group && other.resources.iter().any(|r| r.plural == resource.plural)
                    })
                    .expect("the group itself has it");
                let (group, stored) = match (gv.group, resource.plural) {
                    ("events.k8s.io", "events") => ("", "v1".to_owned()),
                    _ => (gv.group, api_version(gv.group, preferred.version)),
                };
                let place = if group.is_empty() { "core" } else { group };
                let id = resource.type_id.expect("every resource of the table has a type");
                let kept = table
                    .group_version(preferred.group, preferred.version)
                    .and_then(|gv| gv.resources.iter().find(|other| other.plural == resource.plural)?.type_id);
                if kept.is_some_and(|kept| !converts(gv.group, gv.version, resource.plural, id, kept)) {
                    continue;
                }
                resources.push(Arc::new(Resource {
                    group: gv.group.into(),
                    version: gv.version.into(),
                    plural: resource.plural.into(),
                    singular: resource.singular.into(),
                    kind: resource.kind.into(),
                    list_kind: format!("{}List", resource.kind),
                    namespaced: resource.namespaced,
                    verbs: owned(&resource.verbs),
                    short_names: owned(&resource.short_names),
                    categories: owned(&resource.categories),
                    subresources: resource
                        .subresources
                        .iter()
                        .map(|sub| Subresource {
                            name: sub.name.into(),
                            group: sub.group.into(),
                            version: sub.version.into(),
                            kind: sub.kind.into(),
                            verbs: owned(&sub.verbs),
                        })
                        .collect(),
                    node: Node::new(Shape::Struct(StructRef::Builtin(id))),
                    prefix: format!("/registry/{place}/{}/", resource.plural),
                    stored_as: (stored, resource.kind.into()),
                    strategy: kinds::strategy_in(gv.group, gv.version, resource.plural),
                    custom: None,
                }));
            }
            catalog.add(gv.group, gv.version, resources);
        }
        crate::usage::add_to(&mut catalog);
        catalog
    }

    /// Adds resources to a version, which is made if need be.
    pub fn add(&mut self, group: &str, version: &str, resources: Vec<Arc<Resource>>) {
        let at = self.groups.iter().position(|have| have.name == group).unwrap_or_else(|| {
            self.groups.push(Group { name: group.to_owned(), versions: Vec::new() });
            self.groups.len() - 1
        });
        let group = &mut self.groups[at];
        match group.versions.iter_mut().find(|have| have.name == version) {
            Some(have) => have.resources.extend(resources),
            None => {
                group.versions.push(Version { name: version.to_owned(), resources });
                group.versions.sort_by(|a, b| version_order(&a.name, &b.name));
            }
        }
    }

    pub fn version(&self, group: &str, version: &str) -> Option<&Version> {
        let group = self.groups.iter().find(|have| have.name == group)?;
        group.versions.iter().find(|have| have.name == version)
    }

    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.version(group, version)?.resources.iter().find(|resource| resource.plural == plural)
    }

    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.version(group, version)?.resources.iter().find(|resource| resource.kind == kind)
    }

    /// The resource in its preferred version.
    pub fn preferred(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        let group = self.groups.iter().find(|have| have.name == group)?;
        group.versions.iter().find_map(|version| version.resources.iter().find(|resource| resource.plural == plural))
    }

    /// Each stored resource once, in its preferred version.
    pub fn stored(&self) -> Vec<Arc<Resource>> {
        let mut by_prefix: BTreeMap<&str, &Arc<Resource>> = BTreeMap::new();
        for resource in self.groups.iter().flat_map(|group| &group.versions).flat_map(|version| &version.resources) {
            let stored = !resource.prefix.is_empty() && resource.plural != "componentstatuses";
            if stored && resource.verbs.iter().any(|verb| verb == "list") {
                let entry = by_prefix.entry(&resource.prefix).or_insert(resource);
                if resource.is_stored_form() {
                    *entry = resource;
                }
            }
        }
        by_prefix.into_values().cloned().collect()
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Stable versions before beta before alpha, newer before older, as upstream sorts them.
pub fn version_order(a: &str, b: &str) -> std::cmp::Ordering {
    let rank = |text: &str| -> Option<(u8, u64, u64)> {
        let rest = text.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..end].parse().ok()?;
        let minor = |text: &str| if text.is_empty() { Some(0) } else { text.parse().ok() };
        match &rest[end..] {
            "" => Some((2, major, 0)),
            tail if tail.starts_with("beta") => Some((1, major, minor(&tail[4..])?)),
            tail if tail.starts_with("alpha") => Some((0, major, minor(&tail[5..])?)),
            _ => None,
        }
    };
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_upstream() {
        let mut versions = ["v1", "foo1", "v1alpha1", "v2", "v1beta2", "v1beta1", "v10"];
        versions.sort_by(|a, b| version_order(a, b));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo1"]);
    }

    #[test]
    fn everything_that_the_release_has_is_served() {
        let catalog = Catalog::builtin();
        let versions = catalog.groups.iter().flat_map(|group| &group.versions);
        let all: Vec<_> = versions.flat_map(|version| &version.resources).collect();
        let own: Vec<_> = all.iter().filter(|resource| resource.group != crate::usage::GROUP).collect();
        let subs: usize = own.iter().map(|resource| resource.subresources.len()).sum();
        assert_eq!((own.len(), subs), (95, 55));
    }

    #[test]
    fn several_versions_share_one_place() {
        let catalog = Catalog::builtin();
        let (v1, v2) = ("v1", "v2");
        let one = catalog.resource("autoscaling", v1, "horizontalpodautoscalers").unwrap();
        let two = catalog.resource("autoscaling", v2, "horizontalpodautoscalers").unwrap();
        assert_eq!((one.prefix.as_str(), one.stored_as.0.as_str()), (two.prefix.as_str(), "autoscaling/v2"));
        let prefixes: std::collections::BTreeSet<_> = catalog.stored().iter().map(|r| r.prefix.clone()).collect();
        assert_eq!(prefixes.len(), catalog.stored().len());
    }
}
