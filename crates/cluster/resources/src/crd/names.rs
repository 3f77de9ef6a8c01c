//! Which of the names that a definition asks for it gets: those that no other definition of its group has. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::meta;

/// What is decided about a definition's names.
#[derive(Debug, PartialEq)]
pub struct Names {
    /// `status.acceptedNames`: what it asked for and may have, and what it had before of the rest.
    pub accepted: Value,
    /// Why it may not have all of them: a condition's reason and message.
    pub conflict: Option<(&'static str, String)>,
}

/// `others` are all definitions that there are; only those of the same group matter.
pub fn accept(definition: &Value, others: &[Value]) -> Names {
    let group = meta::str_at(definition, &["spec", "group"]);
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for other in others {
        if meta::name(other) == meta::name(definition) || meta::str_at(other, &["spec", "group"]) != group {
            continue;
        }
        let names = &other["status"]["acceptedNames"];
        resources.extend(["plural", "singular"].iter().filter_map(|field| names[*field].as_str()));
        resources.extend(meta::list_at(names, &["shortNames"]).iter().filter_map(Value::as_str));
        kinds.extend(["kind", "listKind"].iter().filter_map(|field| names[*field].as_str()));
    }
    let asked = &definition["spec"]["names"];
    let had = &definition["status"]["acceptedNames"];
    let mut accepted = if had.is_object() { had.clone() } else { json!({}) };
    let mut conflict = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    // Of several conflicts the last one is told, as upstream does.
    for (field, used, reason) in [
        ("plural", &resources, "PluralConflict"),
        ("singular", &resources, "SingularConflict"),
        ("shortNames", &resources, "ShortNamesConflict"),
        ("kind", &kinds, "KindConflict"),
        ("listKind", &kinds, "ListKindConflict"),
    ] {
        if field == "shortNames" {
            let kept = meta::list_at(had, &[field]);
            let fresh = meta::list_at(asked, &[field]).iter().filter(|name| !kept.contains(name));
            let taken: Vec<&str> = fresh.filter_map(Value::as_str).filter(|name| used.contains(name)).collect();
            match &taken[..] {
                [] => put_list(&mut accepted, field, asked),
                [name] => conflict = Some((reason, in_use(name))),
                many => {
                    let texts: Vec<String> = many.iter().map(|name| in_use(name)).collect();
                    conflict = Some((reason, format!("[{}]", texts.join(", "))));
                }
            }
            continue;
        }
        match asked[field].as_str().filter(|name| !name.is_empty()) {
            Some(name) if had[field] != name && used.contains(name) => conflict = Some((reason, in_use(name))),
            Some(name) => accepted[field] = name.into(),
            None => {}
        }
    }
    put_list(&mut accepted, "categories", asked);
    Names { accepted, conflict }
}

fn put_list(accepted: &mut Value, field: &str, asked: &Value) {
    let Some(map) = accepted.as_object_mut() else { return };
    match asked.get(field) {
        Some(list) => drop(map.insert(field.into(), list.clone())),
        None => drop(map.remove(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, names: Value, accepted: Value) -> Value {
        json!({"metadata": {"name": format!("{plural}.example.com")}, "spec": {"group": "example.com", "names": names},
            "status": {"acceptedNames": accepted}})
    }

    #[test]
    fn names_that_others_have_are_not_given_again() {
        let boats = json!({"plural": "boats", "singular": "boat", "shortNames": ["b", "bt"], "kind": "Boat", "listKind": "BoatList"});
        let first = definition("boats", boats.clone(), boats.clone());
        let of = |names: Value, accepted: Value| {
            let found = accept(&definition("ships", names, accepted), std::slice::from_ref(&first));
            (found.conflict.map(|(reason, message)| format!("{reason}: {message}")), found.accepted)
        };
        let ships = json!({"plural": "ships", "singular": "ship", "kind": "Ship", "listKind": "ShipList"});
        assert_eq!(of(ships.clone(), Value::Null), (None, ships.clone()));
        let asks = |field: &str, value: Value| {
            let mut names = ships.clone();
            names[field] = value;
            of(names, Value::Null).0.unwrap_or_default()
        };
        // A plural may not be another's short name either.
        for name in ["boats", "boat", "bt"] {
            assert_eq!(asks("plural", json!(name)), format!("PluralConflict: {name:?} is already in use"));
        }
        assert_eq!(asks("singular", json!("boat")), "SingularConflict: \"boat\" is already in use");
        assert_eq!(asks("kind", json!("Boat")), "KindConflict: \"Boat\" is already in use");
        assert_eq!(asks("listKind", json!("Boat")), "ListKindConflict: \"Boat\" is already in use");
        assert_eq!(asks("shortNames", json!(["s", "b"])), "ShortNamesConflict: \"b\" is already in use");
        let both = "ShortNamesConflict: [\"b\" is already in use, \"bt\" is already in use]";
        assert_eq!(asks("shortNames", json!(["b", "bt"])), both);
        // What it had it keeps, and what it may have it gets.
        let mut more = ships.clone();
        more["kind"] = "Boat".into();
        more["singular"] = "vessel".into();
        let (conflict, accepted) = of(more, ships);
        assert_eq!(conflict.as_deref(), Some("KindConflict: \"Boat\" is already in use"));
        assert_eq!((&accepted["kind"], &accepted["singular"]), (&json!("Ship"), &json!("vessel")));
        // Its own names are not in its way, nor those of another group.
        assert_eq!(accept(&first, std::slice::from_ref(&first)).conflict, None);
        let mut elsewhere = definition("boats", boats, Value::Null);
        elsewhere["spec"]["group"] = "other.example.com".into();
        elsewhere["metadata"]["name"] = "boats.other.example.com".into();
        assert_eq!(accept(&elsewhere, &[first]).conflict, None);
    }
}
