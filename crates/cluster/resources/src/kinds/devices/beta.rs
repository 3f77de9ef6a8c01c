//! Claims and slices as `resource.k8s.io/v1beta1` wrote them: what a request asks of its devices stands in the request itself (later below
//! `exactly`), and what a device is stands below `basic` (later in the device itself). They are kept, given defaults and judged as v1 has them.

use serde_json::{Map, Value};

use super::{CLAIM, SLICE, TEMPLATE};
use crate::kinds::Strategy;
use crate::meta::items_mut;

/// What a request says of the devices that it asks for.
const EXACTLY: [&str; 7] =
    ["adminAccess", "allocationMode", "capacity", "count", "deviceClassName", "selectors", "tolerations"];

/// Where the requests of a kind, or the devices of a slice, are.
fn place(resource: &str) -> &'static [&'static str] {
    match resource {
        "resourceclaims" => &["spec", "devices", "requests"],
        "resourceclaimtemplates" => &["spec", "spec", "devices", "requests"],
        "resourceslices" => &["spec", "devices"],
        _ => &[],
    }
}

/// This resource has another shape in v1beta1.
pub fn differs(resource: &str) -> bool {
    !place(resource).is_empty()
}

/// From v1beta1's shape to v1's.
pub fn to_v1(object: &mut Value, resource: &str) {
    for item in items_mut(object, place(resource)).filter_map(Value::as_object_mut) {
        if resource == "resourceslices" {
            if let Some(Value::Object(basic)) = item.remove("basic") {
                item.extend(basic);
            }
            continue;
        }
        let exactly: Map<String, Value> = EXACTLY.iter().filter_map(|field| item.remove_entry(*field)).collect();
        if !exactly.is_empty() {
            item.insert("exactly".to_owned(), exactly.into());
        }
    }
}

/// From v1's shape to v1beta1's.
pub fn from_v1(object: &mut Value, resource: &str) {
    for item in items_mut(object, place(resource)).filter_map(Value::as_object_mut) {
        if resource == "resourceslices" {
            let name = item.remove_entry("name");
            let basic = std::mem::take(item);
            item.insert("basic".to_owned(), basic.into());
            item.extend(name);
        } else if let Some(Value::Object(exactly)) = item.remove("exactly") {
            item.extend(exactly);
        }
    }
}

fn as_v1(object: &Value, resource: &str) -> Value {
    let mut object = object.clone();
    to_v1(&mut object, resource);
    object
}

/// v1's rules for an object in v1beta1's shape. Faults name v1's fields, as upstream's do.
pub(in crate::kinds) fn strategy(resource: &str) -> Option<Strategy> {
    macro_rules! within {
        ($resource:literal, $rules:expr) => {
            Strategy {
                default: |object| {
                    to_v1(object, $resource);
                    ($rules.default)(object);
                    from_v1(object, $resource);
                },
                validate: |object, faults| ($rules.validate)(&as_v1(object, $resource), faults),
                validate_update: |new, old, faults| {
                    ($rules.validate_update)(&as_v1(new, $resource), &as_v1(old, $resource), faults);
                },
                ..$rules
            }
        };
    }
    Some(match resource {
        "resourceclaims" => within!("resourceclaims", CLAIM),
        "resourceclaimtemplates" => within!("resourceclaimtemplates", TEMPLATE),
        "resourceslices" => within!("resourceslices", SLICE),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{decode, proto};

    fn check(kind: &str, resource: &str, beta: Value, v1: Value) {
        let node = |version: &str| proto::node_of(&format!("resource.k8s.io/{version}"), kind).unwrap();
        let mut object = beta.clone();
        assert_eq!(decode::conform(&mut object, &node("v1beta1")).unwrap(), [""; 0]);
        to_v1(&mut object, resource);
        assert_eq!(object, v1);
        assert_eq!(decode::conform(&mut object, &node("v1")).unwrap(), [""; 0], "it fits there");
        from_v1(&mut object, resource);
        assert_eq!(object, beta);
    }

    #[test]
    fn claims_and_slices_go_there_and_back() {
        let choice = json!({"name": "s", "deviceClassName": "d", "allocationMode": "All"});
        let devices = |requests: Value| json!({"requests": requests, "constraints": [{"matchAttribute": "a/b"}]});
        let beta = devices(json!([
            {"name": "r", "deviceClassName": "c", "count": 2, "allocationMode": "ExactCount", "adminAccess": true,
                "selectors": [{"cel": {"expression": "true"}}], "tolerations": [{"operator": "Exists"}],
                "capacity": {"requests": {"memory": "1Gi"}}},
            {"name": "q", "firstAvailable": [choice]}]));
        let v1 = devices(json!([
            {"name": "r", "exactly": {"deviceClassName": "c", "count": 2, "allocationMode": "ExactCount", "adminAccess": true,
                "selectors": [{"cel": {"expression": "true"}}], "tolerations": [{"operator": "Exists"}],
                "capacity": {"requests": {"memory": "1Gi"}}}},
            {"name": "q", "firstAvailable": [choice]}]));
        let claim = |devices: &Value| json!({"spec": {"devices": devices}});
        check("ResourceClaim", "resourceclaims", claim(&beta), claim(&v1));
        let template =
            |devices: &Value| json!({"spec": {"metadata": {"labels": {"a": "b"}}, "spec": {"devices": devices}}});
        check("ResourceClaimTemplate", "resourceclaimtemplates", template(&beta), template(&v1));
        let slice = |devices: Value| json!({"spec": {"driver": "d", "nodeName": "n", "devices": devices}});
        let device = json!({"attributes": {"a": {"bool": true}}, "capacity": {"b": {"value": "1Gi"}}});
        let mut named = device.clone();
        named["name"] = "x".into();
        check("ResourceSlice", "resourceslices", slice(json!([{"name": "x", "basic": device}])), slice(json!([named])));
    }
}
