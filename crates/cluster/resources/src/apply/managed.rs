//! The books of `metadata.managedFields`: what an update and an apply do to them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::walk::fields_of_new;
use super::{Element, Set, compare_unbooked, merge, mergeable, remove, to_set};
use crate::meta;
use crate::schema::Node;

/// Fields that nobody owns.
const UNOWNED: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata.name",
    "metadata.namespace",
    "metadata.creationTimestamp",
    "metadata.selfLink",
    "metadata.uid",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.resourceVersion",
];

/// Entries of updating managers kept apart; older ones are put together.
const UPDATERS_MAX: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// Who writes, as far as ownership goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Writer {
    pub operation: Operation,
    pub manager: String,
    /// The version of the API that the writer uses.
    pub api_version: String,
    pub subresource: String,
}

impl Writer {
    /// Appliers are the same manager in every version.
    fn identity(&self) -> (Operation, &str, &str, &str) {
        let version = if self.operation == Operation::Apply { "" } else { self.api_version.as_str() };
        (self.operation, &self.manager, version, &self.subresource)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Managed {
    writer: Writer,
    time: String,
    set: Set,
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managers(Vec<Managed>);

/// A field that the applied object sets to another value than its owner did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub owner: Writer,
    pub path: String,
}

impl Conflict {
    /// The owner as messages name it.
    pub fn owner_text(&self) -> String {
        let mut text = format!("{:?}", self.owner.manager);
        if !self.owner.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.owner.subresource);
        }
        if self.owner.operation == Operation::Update {
            text += &format!(" using {}", self.owner.api_version);
        }
        text
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("{}", conflict_text(.0))]
    Conflicts(Vec<Conflict>),
    #[error("{0}")]
    Malformed(String),
}

fn conflict_text(conflicts: &[Conflict]) -> String {
    let mut by_owner: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for conflict in conflicts {
        by_owner.entry(conflict.owner_text()).or_default().push(&conflict.path);
    }
    let one = |(owner, paths): (&String, &Vec<&str>)| match paths[..] {
        [path] => format!("conflict with {owner}: {path}"),
        _ => format!("conflicts with {owner}:\n- {}", paths.join("\n- ")),
    };
    let texts: Vec<String> = by_owner.iter().map(one).collect();
    let count = conflicts.len();
    let noun = if count == 1 { "conflict" } else { "conflicts" };
    format!("Apply failed with {count} {noun}: {}", texts.join("\n"))
}

impl Managers {
    /// Reads an object's books; entries that are no such thing are left out.
    pub fn read(object: &Value) -> Self {
        let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let entries = meta::list_at(object, &["metadata", "managedFields"]).iter();
        Self(
            entries
                .filter_map(|entry| {
                    let operation = match entry["operation"].as_str()? {
                        "Apply" => Operation::Apply,
                        "Update" => Operation::Update,
                        _ => return None,
                    };
                    let writer = Writer {
                        operation,
                        manager: text(entry, "manager"),
                        api_version: text(entry, "apiVersion"),
                        subresource: text(entry, "subresource"),
                    };
                    Some(Managed { writer, time: text(entry, "time"), set: Set::from_value(&entry["fieldsV1"])? })
                })
                .collect(),
        )
    }

    fn position(&self, writer: &Writer) -> Option<usize> {
        self.0.iter().position(|managed| managed.writer.identity() == writer.identity())
    }

    /// Sets what a manager owns; its time moves when that changes.
    fn set(&mut self, writer: &Writer, set: Set, now: &str) {
        match (self.position(writer), set.is_empty()) {
            (Some(at), true) => drop(self.0.remove(at)),
            (None, true) => {}
            (Some(at), false) => {
                let managed = &mut self.0[at];
                if managed.set != set || managed.writer != *writer {
                    *managed = Managed { writer: writer.clone(), time: now.to_owned(), set };
                }
            }
            (None, false) => self.0.push(Managed { writer: writer.clone(), time: now.to_owned(), set }),
        }
    }

    fn write(mut self, object: &mut Value) {
        self.0.retain(|managed| !managed.set.is_empty());
        self.0.sort_by(|a, b| {
            let operations = a.writer.operation.cmp(&b.writer.operation);
            operations.then_with(|| a.time.cmp(&b.time)).then_with(|| a.writer.cmp(&b.writer))
        });
        self.join_ancient();
        if self.0.is_empty() {
            return meta::unset(object, "managedFields");
        }
        let entry = |managed: &Managed| entry(&managed.writer, managed.set.to_value(), &managed.time);
        let entries: Vec<Value> = self.0.iter().map(entry).collect();
        meta::set(object, "managedFields", entries);
    }

    /// Puts the oldest updating managers together when there are too many, per version.
    fn join_ancient(&mut self) {
        let mut updaters = self.0.iter().filter(|managed| managed.writer.operation == Operation::Update).count();
        while updaters > UPDATERS_MAX {
            let oldest = self.0.iter().position(|managed| {
                managed.writer.operation == Operation::Update && managed.writer.manager != "ancient-changes"
            });
            let Some(oldest) = oldest else { return };
            let mut old = self.0.remove(oldest);
            old.writer.manager = "ancient-changes".into();
            old.writer.subresource.clear();
            match self.position(&old.writer) {
                Some(at) => {
                    let set = std::mem::take(&mut self.0[at].set);
                    self.0[at].set = set.union(old.set);
                    updaters -= 1;
                }
                None => self.0.insert(oldest, old),
            }
            if self.0.iter().filter(|managed| managed.writer.manager == "ancient-changes").count() >= updaters {
                return;
            }
        }
    }

    /// Takes changed fields from everyone but `writer`, and removed fields from everyone.
    fn yield_to(&mut self, writer: &Writer, changed: &Set, removed: &Set) {
        for managed in &mut self.0 {
            if managed.writer.identity() != writer.identity() {
                managed.set.subtract(changed);
            }
            managed.set.subtract(removed);
        }
    }
}

fn unowned() -> &'static Set {
    static UNOWNED_SET: OnceLock<Set> = OnceLock::new();
    UNOWNED_SET.get_or_init(|| Set::of_fields(UNOWNED))
}

/// Takes out what nobody owns, and what this endpoint does not write.
fn ownable(mut set: Set, reset: &Set) -> Set {
    set.subtract_below(unowned());
    set.subtract_below(reset);
    set
}

/// One manager in the books.
fn entry(writer: &Writer, fields: Value, time: &str) -> Value {
    let operation = match writer.operation {
        Operation::Apply => "Apply",
        Operation::Update => "Update",
    };
    let mut entry = json!({"apiVersion": writer.api_version, "fieldsType": "FieldsV1", "manager": writer.manager, "operation": operation});
    // Moved in: the macro would copy it, and nothing in the books is larger.
    entry["fieldsV1"] = fields;
    if !time.is_empty() {
        entry["time"] = time.into();
    }
    if !writer.subresource.is_empty() {
        entry["subresource"] = writer.subresource.as_str().into();
    }
    entry
}

fn without_books(object: &Value) -> Value {
    let mut object = object.clone();
    meta::unset(&mut object, "managedFields");
    object
}

/// Books an update: `new` has replaced `old` (or was created). `reset` are the fields that this endpoint does not
/// write. The books are those that `new` carries, or `old`'s if it carries none.
pub fn update(old: Option<&Value>, new: &mut Value, node: &Node, writer: &Writer, reset: &Set, now: &str) {
    let carried = meta::at(new, &["metadata", "managedFields"]).is_some();
    if old.is_none() && !carried && new["metadata"].is_object() {
        // Most of what is written: everything is the writer's, and there are no books to compare with.
        let fields = fields_of_new(new, Some(node), [Some(unowned()), Some(reset)]);
        if !fields.is_empty() {
            meta::set(new, "managedFields", vec![entry(writer, fields.into(), now)]);
        }
        return;
    }
    book_changes(old, carried, new, node, writer, reset, now);
}

fn book_changes(
    old: Option<&Value>,
    carried: bool,
    new: &mut Value,
    node: &Node,
    writer: &Writer,
    reset: &Set,
    now: &str,
) {
    let mut managers = match old {
        Some(old) if !carried => Managers::read(old),
        _ => Managers::read(new),
    };
    meta::unset(new, "managedFields");
    let nothing;
    let before = match old {
        Some(old) => old,
        None => {
            nothing = json!({"metadata": {}});
            &nothing
        }
    };
    let changes = compare_unbooked(before, new, Some(node));
    let changed = changes.added.union(changes.modified);
    managers.yield_to(writer, &changed, &changes.removed);
    let owned = managers.position(writer).map(|at| managers.0[at].set.clone()).unwrap_or_default();
    let owned = ownable(owned.union(changed), reset);
    managers.set(writer, owned, now);
    managers.write(new);
}

/// Works out what `live` becomes when `writer` applies `config`, books included. Nothing in `config` may be reset.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    node: &Node,
    writer: &Writer,
    force: bool,
    reset: &Set,
    now: &str,
) -> Result<Value, ApplyError> {
    if meta::at(config, &["metadata", "managedFields"]).is_some() {
        return Err(ApplyError::Malformed("metadata.managedFields must be nil".into()));
    }
    mergeable(config, Some(node)).map_err(|why| {
        let text = |path: &[&str]| meta::str_at(config, path).to_owned();
        let place = format!("{}/{}", meta::namespace(config), meta::name(config));
        let kind = format!("{}, Kind={}", text(&["apiVersion"]), text(&["kind"]));
        ApplyError::Malformed(format!("failed to create typed patch object ({place}; {kind}): {why}"))
    })?;
    let mut managers = live.map(Managers::read).unwrap_or_default();
    let before = live.map_or_else(|| json!({}), without_books);
    if let Some(live) = live
        && managers.0.is_empty()
    {
        // Nobody has kept books so far: what is there belongs to whoever made it.
        let first = Writer {
            operation: Operation::Update,
            manager: "before-first-apply".into(),
            api_version: meta::str_at(live, &["apiVersion"]).to_owned(),
            subresource: String::new(),
        };
        let set = ownable(to_set(&before, Some(node)), reset);
        managers.set(&first, set, now);
    }
    let mut config = config.clone();
    remove(&mut config, reset, Some(node));
    let set = ownable(to_set(&config, Some(node)), reset);
    let last = managers.position(writer).map(|at| managers.0[at].set.clone()).unwrap_or_default();
    let mut merged = merge(&before, &config, Some(node));
    managers.set(writer, set, now);

    // What the writer applied before and does not any more goes, unless somebody else owns it or something below it.
    let abandoned = abandoned(&last, &managers);
    remove(&mut merged, &abandoned, Some(node));

    let changes = compare_unbooked(&before, &merged, Some(node));
    let changed = changes.added.union(changes.modified);
    let mut conflicts = Vec::new();
    for managed in managers.0.iter().filter(|managed| managed.writer.identity() != writer.identity()) {
        for path in managed.set.intersection(&changed).paths() {
            let path: String = path.iter().map(Element::to_string).collect();
            conflicts.push(Conflict { owner: managed.writer.clone(), path });
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(ApplyError::Conflicts(conflicts));
    }
    managers.yield_to(writer, &changed, &changes.removed);
    managers.write(&mut merged);
    Ok(merged)
}

fn abandoned(last: &Set, managers: &Managers) -> Set {
    let mut out = Set::default();
    for path in last.paths() {
        let owned = managers.0.iter().any(|managed| reaches(&managed.set, &path));
        if !owned {
            out.insert(&path);
        }
    }
    out
}

/// The set has the path or something below it.
fn reaches(set: &Set, path: &[Element]) -> bool {
    match path {
        [] => true,
        [first, rest @ ..] => set.child(first).is_some_and(|(member, below)| match rest {
            [] => member || !below.is_empty(),
            rest => reaches(below, rest),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::facts;

    fn writer(operation: Operation, manager: &str) -> Writer {
        let api_version = "apps/v1".into();
        Writer { operation, manager: manager.into(), api_version, subresource: String::new() }
    }

    fn node() -> Node {
        facts().node("a:apps.v1.Deployment")
    }

    fn deployment(replicas: i64, image: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
    }

    fn apply_as(live: Option<&Value>, config: &Value, who: &str, force: bool) -> Result<Value, ApplyError> {
        let reset = Set::of_fields(&["status"]);
        apply(live, config, &node(), &writer(Operation::Apply, who), force, &reset, "2026-01-01T00:00:00Z")
    }

    #[test]
    fn an_applier_owns_what_it_applied() {
        let made = apply_as(None, &deployment(1, "a"), "one", false).unwrap();
        let books = &made["metadata"]["managedFields"];
        assert_eq!(books[0]["manager"], "one");
        assert_eq!(
            books[0]["fieldsV1"],
            json!({"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers":
                {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}}}}}}})
        );
    }

    #[test]
    fn two_appliers_conflict_on_different_values_only() {
        let made = apply_as(None, &deployment(1, "a"), "one", false).unwrap();
        let shared = apply_as(Some(&made), &deployment(1, "a"), "two", false).unwrap();
        assert_eq!(shared["metadata"]["managedFields"].as_array().unwrap().len(), 2);
        let error = apply_as(Some(&shared), &deployment(2, "a"), "two", false).unwrap_err();
        assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
        let forced = apply_as(Some(&shared), &deployment(2, "a"), "two", true).unwrap();
        assert_eq!(forced["spec"]["replicas"], 2);
        let again = apply_as(Some(&forced), &deployment(1, "a"), "one", false).unwrap_err();
        assert!(again.to_string().contains("conflict with \"two\": .spec.replicas"), "{again}");
    }

    #[test]
    fn what_an_applier_drops_goes_unless_shared() {
        let made = apply_as(None, &deployment(1, "a"), "one", false).unwrap();
        let shared = apply_as(Some(&made), &deployment(1, "a"), "two", false).unwrap();
        let mut less = deployment(1, "a");
        less["spec"].as_object_mut().unwrap().remove("replicas");
        let kept = apply_as(Some(&shared), &less, "two", false).unwrap();
        assert_eq!(kept["spec"]["replicas"], 1, "one still owns it");
        let gone = apply_as(Some(&kept), &less, "one", false).unwrap();
        assert_eq!(gone["spec"].get("replicas"), None);
    }

    #[test]
    fn an_updater_takes_what_it_changes() {
        let made = apply_as(None, &deployment(1, "a"), "one", false).unwrap();
        let mut scaled = made.clone();
        scaled["spec"]["replicas"] = 5.into();
        let reset = Set::default();
        update(Some(&made), &mut scaled, &node(), &writer(Operation::Update, "hand"), &reset, "2026-01-02T00:00:00Z");
        let error = apply_as(Some(&scaled), &deployment(1, "a"), "one", false).unwrap_err();
        let text = "Apply failed with 1 conflict: conflict with \"hand\" using apps/v1: .spec.replicas";
        assert_eq!(error.to_string(), text);
        let same = apply_as(Some(&scaled), &deployment(5, "a"), "one", false).unwrap();
        assert_eq!(same["spec"]["replicas"], 5);
    }

    #[test]
    fn lists_keep_what_others_put_in() {
        let made = apply_as(None, &deployment(1, "a"), "one", false).unwrap();
        let mut other = deployment(1, "b");
        other["spec"] = json!({"template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}});
        let both = apply_as(Some(&made), &other, "two", false).unwrap();
        let names = |object: &Value| -> Vec<String> {
            let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
            containers.iter().map(|container| container["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&both), ["c", "side"]);
        other["spec"] = json!({});
        let one = apply_as(Some(&both), &other, "two", false).unwrap();
        assert_eq!(names(&one), ["c"]);
    }

    #[test]
    fn what_is_new_is_booked_as_a_comparison_with_nothing_would() {
        let check = |node: &Node, object: &Value, reset: &[&str]| {
            let (mut quick, mut slow) = (object.clone(), object.clone());
            let (who, reset) = (writer(Operation::Update, "m"), Set::of_fields(reset));
            update(None, &mut quick, node, &who, &reset, "2026-01-01T00:00:00Z");
            book_changes(None, false, &mut slow, node, &who, &reset, "2026-01-01T00:00:00Z");
            assert_eq!(quick, slow);
        };
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u", "labels": {"a": "b"}, "annotations": {},
                "finalizers": ["x/y", "x/z", "x/y"], "ownerReferences": [{"uid": "o", "name": "n"}, {"name": "no uid"}]},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"},
                    {"containerPort": 80, "name": "again"}], "env": [], "resources": {"limits": {"cpu": "1"}}}, {}, {"name": "d"}],
                "nodeSelector": {"x": "y"}, "tolerations": [{"key": "k"}], "securityContext": {}, "topologySpreadConstraints": [{"topologyKey": "t"}]},
            "status": {"phase": "Pending", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready"}]}});
        let podlike = facts().node("a:core.v1.Pod");
        for reset in [
            &["status"][..],
            &[],
            &["spec", "metadata.labels", "metadata.finalizers"],
            &["spec.containers", "spec.nodeSelector.x"],
        ] {
            check(&podlike, &pod, reset);
            check(&node(), &deployment(3, "i"), reset);
        }
        for other in [
            json!({"metadata": {}}),
            json!({"metadata": {"name": "only"}}),
            json!({"metadata": {}, "spec": null, "list": [1, {"a": 1}]}),
        ] {
            check(&node(), &other, &[]);
        }
    }

    #[test]
    fn many_updaters_become_one() {
        let mut object = json!({"metadata": {"name": "x"}, "spec": {}});
        for n in 0..15 {
            let old = object.clone();
            object["metadata"]["labels"][format!("l{n}")] = "x".into();
            let time = format!("2026-01-01T00:00:{n:02}Z");
            let who = writer(Operation::Update, &format!("m{n}"));
            update(Some(&old), &mut object, &node(), &who, &Set::default(), &time);
        }
        let books = object["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(books.len(), UPDATERS_MAX);
        assert!(books.iter().any(|entry| entry["manager"] == "ancient-changes"));
    }
}
