//! Discovery: which groups, versions and resources there are, in the old form and the aggregated one.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::HeaderMap;
use http::header::ACCEPT;
use resources::Value;
use serde_json::json;

use crate::catalog::{Catalog, Group, Resource, Version, api_version};

/// The client asks for aggregated discovery.
pub fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // The first entry that we know decides.
    for entry in accept.split(',') {
        let plain: String = entry.chars().filter(|c| !c.is_whitespace()).collect();
        if !plain.starts_with("application/json") {
            continue;
        }
        return plain.contains("as=APIGroupDiscoveryList")
            && plain.contains("g=apidiscovery.k8s.io")
            && plain.contains("v=v2");
    }
    false
}

pub fn aggregated_type(headers: &HeaderMap) -> &'static str {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (first, _) = accept.split_once(',').unwrap_or((accept, ""));
    match first.contains("v2beta1") {
        true => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        false => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    }
}

/// Aggregated discovery of the core group (`core`) or of all others.
pub fn aggregated(catalog: &Catalog, core: bool) -> Value {
    let groups = catalog.groups.iter().filter(|group| group.name.is_empty() == core);
    let items: Vec<Value> = groups.map(aggregated_group).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> =
                version.resources.iter().map(|resource| aggregated_resource(resource)).collect();
            json!({"version": version.name, "freshness": "Current", "resources": resources})
        })
        .collect();
    let metadata = if group.name.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group.name, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut out = json!({
        "resource": resource.plural,
        "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        out["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        out["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let subs = resource.subresources.iter().map(|sub| {
            let (group, version) = sub_kind(resource, &sub.group, &sub.version);
            json!({"subresource": sub.name, "responseKind": kind(group, version, &sub.kind), "verbs": sub.verbs})
        });
        out["subresources"] = subs.collect();
    }
    out
}

fn sub_kind<'a>(resource: &'a Resource, group: &'a str, version: &'a str) -> (&'a str, &'a str) {
    if version.is_empty() { (&resource.group, &resource.version) } else { (group, version) }
}

/// `/api`.
pub fn versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// `/apis`.
pub fn group_list(catalog: &Catalog) -> Value {
    let groups: Vec<Value> = catalog.groups.iter().filter(|group| !group.name.is_empty()).map(group_entry).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_entry(group: &Group) -> Value {
    let entry =
        |version: &Version| json!({"groupVersion": api_version(&group.name, &version.name), "version": version.name});
    let versions: Vec<Value> = group.versions.iter().map(entry).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

/// `/apis/GROUP`.
pub fn group(catalog: &Catalog, name: &str) -> Option<Value> {
    let group = catalog.groups.iter().find(|group| group.name == name && !name.is_empty())?;
    let mut out = group_entry(group);
    out["kind"] = "APIGroup".into();
    out["apiVersion"] = "v1".into();
    Some(out)
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub fn resource_list(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let found = catalog.version(group, version)?;
    let mut resources = Vec::new();
    for resource in &found.resources {
        let mut entry = json!({"name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs});
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        if resource.verbs.iter().any(|verb| verb == "list") {
            let mut hasher = DefaultHasher::new();
            (&resource.stored_as, &resource.prefix).hash(&mut hasher);
            entry["storageVersionHash"] = format!("{:011x}=", hasher.finish() >> 20).into();
        }
        resources.push(entry);
        for sub in &resource.subresources {
            let mut entry = json!({"name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": sub.kind, "verbs": sub.verbs});
            if !sub.version.is_empty() {
                entry["group"] = sub.group.as_str().into();
                entry["version"] = sub.version.as_str().into();
            }
            resources.push(entry);
        }
    }
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version), "resources": resources}),
    )
}
