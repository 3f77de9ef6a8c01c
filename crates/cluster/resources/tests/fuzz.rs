//! What clients send, as nobody would write it: bodies, patches, applied configurations, selectors, field paths, definitions
//! with their rules. Besides not to panic, each target keeps a law that its format has.

use resources::apply::{self, Element, Set};
use resources::kinds::{Faults, strategy};
use resources::schema::Node;
use resources::selector::{FieldSelector, LabelSelector};
use resources::{Value, crd, decode, meta, patch, proto};
use serde_json::json;

fn node(api_version: &str, kind: &str) -> Node {
    proto::node_of(api_version, kind).expect("a kind of ours")
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {
        "selector": {"matchLabels": {"app": "web"}}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "a", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}], "env": [{"name": "A", "value": "b"}],
             "resources": {"requests": {"cpu": "100m"}}},
            {"name": "b", "image": "j"}], "tolerations": [{"key": "x", "operator": "Exists"}]}}}})
}

const WORDS: [&str; 24] = [
    "\"$patch\":\"delete\"",
    "\"$patch\":\"replace\"",
    "\"$retainKeys\":[\"type\"]",
    "\"$deleteFromPrimitiveList/finalizers\":[\"x\"]",
    "\"$setElementOrder/containers\":[{\"name\":\"a\"}]",
    "\"name\":\"a\"",
    "\"containers\":[",
    "\"metadata\":{",
    "\"spec\":{",
    "null",
    "\"template\":{",
    "{}",
    "[]",
    "\"op\":\"copy\"",
    "\"op\":\"test\"",
    "\"path\":\"/spec/template/spec/containers/0\"",
    "\"from\":\"\"",
    "\"-\"",
    "~1",
    "~0",
    "1e400",
    "-0",
    "\\ud800",
    "\"\"",
];

#[test]
fn json_bodies() {
    let target = fuzz::Target::new("kube-json", env!("CARGO_MANIFEST_DIR")).words(WORDS);
    let pod = node("apps/v1", "Deployment");
    target.seed(deployment().to_string()).run(|bytes| {
        let Ok(parsed) = decode::parse_json(bytes) else { return 0 };
        let mut value = parsed.value;
        let Ok(unknown) = decode::conform(&mut value, &pod) else { return 1 };
        // What fits once fits again, unchanged.
        let mut again = value.clone();
        assert_eq!(decode::conform(&mut again, &pod).map(|more| more.len()).ok(), Some(0));
        assert_eq!(again, value);
        let mut faults = Faults::default();
        let rules = strategy("apps", "deployments");
        if value.is_object() {
            (rules.default)(&mut value);
            (rules.validate)(&value, &mut faults);
            let first = value.clone();
            (rules.default)(&mut value);
            assert_eq!(value, first, "defaults are filled in once");
        }
        2 + unknown.len().min(3) * 8 + faults.0.len().min(7)
    });
}

/// Whatever is taken for stored JSON: no panic, and as long as was said. What is JSON reads back as it was.
#[test]
fn protobuf_of_text() {
    let node = node("apps/v1", "Deployment");
    // These have seen much by and by; what they write is the same.
    let items = std::cell::RefCell::new(proto::Items::new(&node));
    let lengths = std::cell::RefCell::new(proto::Lengths::new(&node));
    fuzz::Target::new("kube-proto-text", env!("CARGO_MANIFEST_DIR"))
        .seed(deployment().to_string())
        .words(["\\", "\"", "\\u00e9", "{\"a\":", "[", "null", "1e9", "-0", "2024-02-29T23:59:59Z"])
        .run(|text| {
            let (mut item, mut again) = (Vec::new(), Vec::new());
            let written = proto::Items::new(&node).append(text, &mut item);
            assert_eq!(items.borrow_mut().append(text, &mut again), written);
            assert!(written.is_err() || item == again);
            let length = lengths.borrow_mut().of(text);
            match written {
                Ok(()) => assert_eq!(length, Ok(item.len())),
                Err(error) => assert_eq!(length, Err(error)),
            }
            usize::from(length.is_ok())
        });
}

#[test]
fn protobuf_bodies() {
    let pod = node("apps/v1", "Deployment");
    let whole = proto::encode(deployment().to_string().as_bytes(), &pod).unwrap();
    let body = proto::wrap("apps/v1", "Deployment", &whole);
    fuzz::Target::new("kube-proto", env!("CARGO_MANIFEST_DIR")).seed(body).words([[0x0a], [0xff], [0x80], [0x12]]).run(
        |bytes| {
            let Ok(envelope) = proto::envelope(bytes) else { return 0 };
            let Some(node) = proto::node_of(&envelope.api_version, &envelope.kind) else { return 1 };
            match proto::decode(envelope.raw, &node) {
                Err(_) => 2,
                Ok(value) => {
                    // What was read can be written, and reads the same.
                    let Ok(again) = proto::encode(value.to_string().as_bytes(), &node) else { return 3 };
                    assert_eq!(proto::decode(&again, &node).unwrap(), value);
                    4
                }
            }
        },
    );
}

#[test]
fn patches() {
    let node = node("apps/v1", "Deployment");
    let object = deployment();
    let target = fuzz::Target::new("kube-patch", env!("CARGO_MANIFEST_DIR")).words(WORDS);
    let target = target
        .seed(r#"[{"op":"replace","path":"/spec/replicas","value":3},{"op":"move","from":"/metadata/labels","path":"/x"}]"#)
        .seed(r#"{"spec":{"template":{"spec":{"containers":[{"name":"a","image":"z"},{"$patch":"delete","name":"b"}]}}}}"#)
        .seed(r#"{"metadata":{"labels":null},"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}"#);
    target.run(|bytes| {
        let Ok(parsed) = decode::parse_json(bytes) else { return 0 };
        let mut way = 1;
        let mut by_json = object.clone();
        way |= u32::from(patch::json_patch(&mut by_json, &parsed.value).is_ok()) << 1;
        let mut merged = object.clone();
        patch::merge_patch(&mut merged, &parsed.value);
        // RFC 7396: the same patch again changes nothing.
        let mut again = merged.clone();
        patch::merge_patch(&mut again, &parsed.value);
        assert_eq!(again, merged);
        let mut strategic = object.clone();
        way |= u32::from(patch::strategic_merge(&mut strategic, &parsed.value, &node).is_ok()) << 2;
        way | u32::from(strategic == object) << 3
    });
}

#[test]
fn applied_configurations() {
    let node = node("apps/v1", "Deployment");
    let live = deployment();
    fuzz::Target::new("kube-apply", env!("CARGO_MANIFEST_DIR")).words(WORDS).seed(deployment().to_string()).run(
        |bytes| {
            let Ok(parsed) = decode::parse_json(bytes) else { return 0 };
            let mut config = parsed.value;
            if decode::conform(&mut config, &node).is_err() || !config.is_object() {
                return 1;
            }
            if apply::mergeable(&config, Some(&node)).is_err() {
                return 2;
            }
            let set = apply::to_set(&config, Some(&node));
            // The books read back as they were written.
            assert_eq!(Set::from_value(&set.to_value()).as_ref(), Some(&set));
            assert!(set.clone().union(set.clone()) == set && set.difference(&set).is_empty());
            let merged = apply::merge(&live, &config, Some(&node));
            // Applying the same again changes nothing.
            assert_eq!(apply::merge(&merged, &config, Some(&node)), merged);
            3 + u32::from(merged == live) + 2 * set.paths().len().min(20) as u32
        },
    );
}

#[test]
fn field_sets_and_paths() {
    let seed =
        r#"{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"k:{\"name\":\"a\"}":{},"v:\"x\"":{},"i:3":{}}}"#;
    let words = ["f:", "k:{", "v:", "i:", ".", "{}", "\\\""];
    fuzz::Target::new("kube-fields", env!("CARGO_MANIFEST_DIR")).words(words).seed(seed).run(|bytes| {
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Some(element) = Element::parse(text)
        {
            assert_eq!(Element::parse(&element.serialized()), Some(element));
        }
        let Ok(parsed) = decode::parse_json(bytes) else { return 0 };
        let Some(set) = Set::from_value(&parsed.value) else { return 1 };
        assert_eq!(Set::from_value(&set.to_value()).as_ref(), Some(&set));
        2 + set.paths().len().min(20)
    });
}

#[test]
fn selectors() {
    let words = [" in (", " notin (", "!", "!=", "==", "=", ",", "(", ")", "\\,", ">", "<"];
    let target = fuzz::Target::new("kube-selectors", env!("CARGO_MANIFEST_DIR")).words(words);
    let target =
        target.seed("app in (a,b),tier!=x,!gone,n>3").seed("metadata.name=a,status.phase!=Running").longest(512);
    target.run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return 0 };
        let object = json!({"metadata": {"labels": {"app": "a", "n": "4"}}});
        let labels = LabelSelector::parse(text).map(|selector| selector.matches_object(&object));
        let fields = FieldSelector::parse(text).map(|selector| selector.matches(|_| "a".into()));
        // The order of requirements does not matter.
        if let (Ok(matched), false) = (&labels, text.contains('(')) {
            let turned: Vec<&str> = text.rsplit(',').collect();
            if let Ok(other) = LabelSelector::parse(&turned.join(",")) {
                assert_eq!(other.matches_object(&object), *matched, "{text}");
            }
        }
        1 + labels.map_or(0, |matched| 1 + u32::from(matched)) + 3 * fields.map_or(0, |matched| 1 + u32::from(matched))
    });
}

#[test]
fn definitions_with_rules() {
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "boats.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"}, "versions": [{"name": "v1", "served": true,
            "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
                "x-kubernetes-validations": [{"rule": "self.sails <= self.crew.size()", "message": "m"}],
                "properties": {"sails": {"type": "integer", "minimum": 0, "default": 1}, "crew": {"type": "array", "maxItems": 9,
                    "x-kubernetes-list-type": "set", "items": {"type": "string", "pattern": "^a+$"}}}}}}}}]}});
    let words = [
        "\"type\":\"object\"",
        "\"type\":\"array\"",
        "\"properties\":{",
        "\"items\":{",
        "\"x-kubernetes-preserve-unknown-fields\":true",
        "\"x-kubernetes-int-or-string\":true",
        "\"anyOf\":[",
        "\"not\":{",
        "\"default\":",
        "\"rule\":\"self.all(x, x > 1)\"",
        "oldSelf",
        "nullable",
        "\"maxItems\":-1",
        "\"pattern\":\"(\"",
        "\"additionalProperties\":",
    ];
    let target =
        fuzz::Target::new("kube-definitions", env!("CARGO_MANIFEST_DIR")).words(words).seed(definition.to_string());
    target.run(|bytes| {
        let Ok(parsed) = decode::parse_json(bytes) else { return 0 };
        let mut definition = parsed.value;
        let kind = node("apiextensions.k8s.io/v1", "CustomResourceDefinition");
        if decode::conform(&mut definition, &kind).is_err() || !definition.is_object() {
            return 1;
        }
        meta::object_at(&mut definition, &["metadata"]);
        crd::default_definition(&mut definition);
        crd::prepare_definition(&mut definition);
        let mut faults = Faults::default();
        crd::validate_definition(&definition, &mut faults);
        if !faults.0.is_empty() {
            return 2 + faults.0.len().min(5);
        }
        for version in crd::versions(&definition) {
            let mut boat = json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": "a"}, "spec": {"sails": 2, "crew": ["a"], "x": 1}});
            if decode::conform(&mut boat, &version.node).is_ok() {
                crd::default(&mut boat, &version.node);
                crd::validate(&boat, Some(&boat.clone()), &version.node, &mut faults);
            }
        }
        10 + faults.0.len().min(5)
    });
}
