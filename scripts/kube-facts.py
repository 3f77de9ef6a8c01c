#!/usr/bin/env python3
"""Derives the compact table of facts about Kubernetes' kinds that `crates/cluster/resources` embeds.

    scripts/kube-facts.py CORE-V1.json DISCOVERY.json OPENAPI-V2.json K8S-PB/src > crates/cluster/resources/facts/kubernetes.facts

The inputs are the documents that a Kubernetes release publishes: the resource list of the core group, aggregated
discovery (apidiscovery.k8s.io/v2) of the others, and OpenAPI v2. The field numbers of the protobuf encoding are read
from the sources of the k8s-pb crate (cargo fetches them), which are generated from the release's .proto files. They are not part of this repository, and none of their prose goes into the table: only names, types and
rules. The format is described in crates/cluster/resources/src/facts/mod.rs, which reads it.
"""
import json
import pathlib
import re
import sys

PREFIXES = [
    ("io.k8s.apimachinery.pkg.", "m:"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.", "x:"),
    ("io.k8s.kube-aggregator.pkg.apis.", "g:"),
    ("io.k8s.api.", "a:"),
]
SCALARS = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "time",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "microtime",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "intorstring",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1": "raw",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "raw",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON": "any",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray": "any",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool": "any",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray": "any",
}
FORMATS = {
    ("string", None): "string",
    ("string", "byte"): "bytes",
    ("integer", "int32"): "int32",
    ("integer", "int64"): "int64",
    ("boolean", None): "bool",
    ("number", "double"): "double",
    ("object", None): "raw",
}
CRUD = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def short(name):
    for long, prefix in PREFIXES:
        if name.startswith(long):
            return prefix + name[len(long):]
    sys.exit(f"no short form for {name}")


def type_of(node):
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/definitions/")
        return SCALARS.get(name) or "@" + short(name)
    if node.get("type") == "array":
        return "[" + type_of(node["items"])
    if "additionalProperties" in node:
        return "{" + type_of(node["additionalProperties"])
    return FORMATS[(node.get("type"), node.get("format"))]


def flags(node):
    out = []
    kind = node.get("x-kubernetes-list-type")
    if kind == "map":
        out.append("=map:" + ",".join(node["x-kubernetes-list-map-keys"]))
    elif kind:
        out.append("=" + kind)
    if "x-kubernetes-map-type" in node:
        out.append("=" + node["x-kubernetes-map-type"])
    if "x-kubernetes-patch-strategy" in node:
        key = node.get("x-kubernetes-patch-merge-key")
        out.append("~" + node["x-kubernetes-patch-strategy"] + (":" + key if key else ""))
    return out


def verbs(listed):
    return "*" if sorted(listed) == CRUD else ",".join(sorted(listed))


def plain(name):
    """A name without case and separators, so that JSON's and protobuf's spellings meet."""
    return re.sub("[_$-]", "", name).lower()


def messages(source):
    """{short type name: [(plain field name, number, plain name of the message type or None)]}"""
    roots = {"api": "a:", "apimachinery/pkg": "m:", "apiextensions_apiserver/pkg/apis": "x:", "kube_aggregator/pkg/apis": "g:"}
    out = {}
    for root, prefix in roots.items():
        for path in sorted((source / root).rglob("mod.rs")):
            package = ".".join(path.parent.relative_to(source / root).parts)
            for struct, body in re.findall(r"pub struct (\w+) \{\n(.*?)\n\}", path.read_text(), re.S):
                fields = out.setdefault(plain(f"{prefix}{package}.{struct}"), [])
                # Up to the type's last word: what stands before the first comma that ends a line.
                form = r'#\[prost\(\s*(\w+)[^\]]*?tag = "(\d+)"[^\]]*\)\]\s*pub (?:r#)?(\w+):\s*(.*?),?\n'
                for kind, number, name, type_text in re.findall(form, re.sub(r"<\n\s*", "<", body) + "\n"):
                    message = plain(re.sub(r".*(::|<)|[>,]", "", type_text)) if kind == "message" else None
                    fields.append((plain(name), number, message))
    return out


def numbers(pb, name, wanted, prefix=""):
    """{plain JSON field name: path of numbers}; fields of messages that JSON inlines have a path of several."""
    out = {}
    for field, number, message in pb.get(plain(name), []):
        if field in wanted:
            out[field] = prefix + number
        elif message:
            package = name.rsplit(".", 1)[0]
            out.update(numbers(pb, f"{package}.{message}", wanted, f"{prefix}{number}."))
    return out


def aggregated(core):
    """The core group's plain resource list in the form of aggregated discovery."""
    resources = {}
    for entry in core["resources"]:
        name, _, sub = entry["name"].partition("/")
        gvk = {key: entry.get(key, "") for key in ("group", "version", "kind")}
        if sub:
            subs = resources[name].setdefault("subresources", [])
            subs.append({"subresource": sub, "responseKind": gvk, "verbs": entry["verbs"]})
            continue
        resources[name] = {
            "resource": name,
            "singularResource": entry["singularName"],
            "responseKind": gvk,
            "scope": "Namespaced" if entry["namespaced"] else "Cluster",
            "verbs": entry["verbs"],
            "shortNames": entry.get("shortNames", []),
            "categories": entry.get("categories", []),
        }
    return {"metadata": {}, "versions": [{"version": "v1", "resources": list(resources.values())}]}


def main():
    core, discovery, openapi = (json.load(open(path)) for path in sys.argv[1:4])
    groups = [aggregated(core)] + discovery["items"]
    pb = messages(pathlib.Path(sys.argv[4]))
    kinds = {}
    for name, definition in openapi["definitions"].items():
        gvks = definition.get("x-kubernetes-group-version-kind", [])
        if len(gvks) == 1:
            kinds[(gvks[0]["group"], gvks[0]["version"], gvks[0]["kind"])] = name
    print("# Facts about the kinds of Kubernetes 1.36, made by scripts/kube-facts.py. Do not edit.")
    for group in groups:
        group_name = group["metadata"].get("name", "")
        for version in group["versions"]:
            print("group", group_name or "-", version["version"])
            for resource in version["resources"]:
                kind = resource["responseKind"]["kind"]
                gvk = (group_name, version["version"], kind)
                line = ["resource", resource["resource"], resource["singularResource"], kind]
                line.append("N" if resource["scope"] == "Namespaced" else "C")
                line.append(short(kinds[gvk]) if gvk in kinds else "-")
                line.append(verbs(resource["verbs"]))
                line.append(",".join(resource.get("shortNames", [])) or "-")
                line.append(",".join(resource.get("categories", [])) or "-")
                print(" ", *line)
                for sub in resource.get("subresources", []):
                    answer = sub.get("responseKind") or {}
                    gvk = [answer.get("group") or "-", answer.get("version") or "-", answer.get("kind") or "-"]
                    print("   sub", sub["subresource"], *gvk, verbs(sub["verbs"]))
    for name in sorted(openapi["definitions"], key=short):
        definition = openapi["definitions"][name]
        if name in SCALARS:
            continue
        atomic = ["=" + definition["x-kubernetes-map-type"]] if "x-kubernetes-map-type" in definition else []
        gvks = [
            "/".join([gvk["group"], gvk["version"], gvk["kind"]])
            for gvk in definition.get("x-kubernetes-group-version-kind", [])
        ]
        print("type", short(name), *atomic, *(gvks if len(gvks) == 1 else []))
        required = definition.get("required", [])
        fields = definition.get("properties", {})
        tags = numbers(pb, short(name), {plain(field) for field in fields})
        for field, node in sorted(fields.items()):
            tag = ["#" + tags[plain(field)]] if plain(field) in tags else []
            print(" ", field + ("!" if field in required else ""), type_of(node), *flags(node), *tag)


main()
