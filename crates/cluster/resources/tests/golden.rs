//! What each kind fills in, refuses, keeps fixed and shows: one file a kind in `tests/golden`, read and compared whole.
//!
//! A file begins with `base`, a valid object as somebody writes it, in JSON. Each `create` or `update` is a merge patch of it
//! in one line (an update is judged against the base); what follows, indented, are the faults, none for what is allowed.
//! `defaults` are the fields that the base gets, one a line. `strategy` says how the kind is written. `kept` is a merge patch
//! that an update sends, and what of it (and of what the base had) is not as it was sent: what an update cannot change is put
//! back. `row` is a merge patch with a status, and the columns with the cells that `kubectl get` shows of it on the first day
//! of 2026; the ones behind the bar with `-o wide`. `status` is a merge patch of what stands, by way of the status, and `stands`
//! the one that gives the base what stands, the status also for the updates that follow.
//! `KNARR_GOLDEN=write` writes what is found into the files, for whoever then reads the difference.

use std::path::Path;

use resources::kinds::{Faults, strategy, validate_meta};
use resources::{Value, decode, facts, patch, proto, table};

struct Kind {
    group: String,
    plural: String,
    node: resources::schema::Node,
}

impl Kind {
    fn read(object: &Value, plural: &str) -> Self {
        let api_version = object["apiVersion"].as_str().unwrap();
        let group = api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
        let node = proto::node_of(api_version, object["kind"].as_str().unwrap()).expect("a kind of ours");
        Self { group, plural: plural.to_owned(), node }
    }

    /// As the server does it on a create, without what comes from outside.
    fn prepare(&self, object: &mut Value) {
        let rules = strategy(&self.group, &self.plural);
        if let Err(error) = decode::conform(object, &self.node) {
            panic!("{}: {}", self.plural, error.0);
        }
        (rules.default)(object);
        (rules.prepare_create)(object);
    }

    /// How the kind is written, in words.
    fn strategy(&self) -> Vec<&'static str> {
        let rules = strategy(&self.group, &self.plural);
        let mut words = vec![if rules.generation { "generation is counted" } else { "no generation" }];
        let flags = [
            (rules.status_on_create, "a create may bring a status"),
            (rules.create_on_update, "an update makes what is not there"),
            (!rules.unconditional_update, "an update needs the resource version"),
            (rules.graceful, "a delete waits for the node"),
        ];
        words.extend(flags.into_iter().filter(|(holds, _)| *holds).map(|(_, word)| word));
        words
    }

    fn row(&self, object: &Value) -> String {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let columns = table::columns(&self.group, &self.plural);
        let cells = table::cells(&self.group, &self.plural, object, now);
        let shown = |wide: bool| {
            let both = columns.iter().zip(&cells).filter(|(column, _)| (column.priority > 0) == wide);
            let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
            both.map(|(column, cell)| format!("{}={}", column.name, text(cell))).collect::<Vec<_>>().join("; ")
        };
        format!("  {} | {}", shown(false), shown(true)).trim_end_matches([' ', '|']).to_owned()
    }

    /// Of a write of `object`'s status over `old`.
    fn status_faults(&self, object: &Value, old: &Value) -> Vec<String> {
        let mut faults = Faults::default();
        strategy(&self.group, &self.plural).judge_status(object, old, &mut faults);
        shown(&faults)
    }

    fn faults(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let rules = strategy(&self.group, &self.plural);
        let mut faults = Faults::default();
        let namespaced = object["metadata"].get("namespace").is_some();
        validate_meta(object, namespaced, rules.name, &mut faults);
        (rules.validate)(object, &mut faults);
        if let Some(old) = old {
            (rules.validate_update)(object, old, &mut faults);
        }
        shown(&faults)
    }
}

fn shown(faults: &Faults) -> Vec<String> {
    faults.0.iter().map(|fault| format!("  {}: {}", fault.path, fault.body())).collect()
}

/// Paths and values that `new` has and `old` has not.
fn added(new: &Value, old: &Value, path: &str, out: &mut Vec<String>) {
    match (new, old) {
        _ if new == old => {}
        (Value::Object(new), Value::Object(old)) => {
            for (key, value) in new {
                added(value, old.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}"), out);
            }
        }
        (Value::Array(new), Value::Array(old)) if new.len() == old.len() => {
            for (at, (new, old)) in new.iter().zip(old).enumerate() {
                added(new, old, &format!("{path}[{at}]"), out);
            }
        }
        _ => out.push(format!("  {path}: {new}")),
    }
}

fn answer(text: &str, plural: &str) -> String {
    let mut out = String::new();
    let mut base = Value::Null;
    let mut stands = Value::Null;
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" => continue,
            _ => out += &format!("{line}\n"),
        }
        let read = || serde_json::from_str::<Value>(rest).unwrap_or_else(|error| panic!("{plural}: {error}: {rest}"));
        match word {
            "#" => {}
            "base" => {
                base = read();
                let kind = Kind::read(&base, plural);
                let mut made = base.clone();
                kind.prepare(&mut made);
                assert_eq!(kind.faults(&made, None), [""; 0], "{plural}: the base is valid");
            }
            "defaults" => {
                let mut made = base.clone();
                Kind::read(&base, plural).prepare(&mut made);
                let mut lines = Vec::new();
                added(&made, &base, "", &mut lines);
                out += &lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            }
            "strategy" => {
                let words = Kind::read(&base, plural).strategy();
                out += &words.iter().map(|word| format!("  {word}\n")).collect::<String>();
            }
            "row" => {
                let mut object = base.clone();
                patch::merge_patch(&mut object, &read());
                out += &format!("{}\n", Kind::read(&base, plural).row(&object));
            }
            "kept" => {
                let kind = Kind::read(&base, plural);
                let mut old = base.clone();
                kind.prepare(&mut old);
                let mut sent = old.clone();
                patch::merge_patch(&mut sent, &read());
                let mut new = sent.clone();
                (strategy(&kind.group, plural).prepare_update)(&mut new, &old);
                let mut lines = Vec::new();
                added(&new, &sent, "", &mut lines);
                out += &lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            }
            "stands" => {
                stands = base.clone();
                let kind = Kind::read(&base, plural);
                kind.prepare(&mut stands);
                patch::merge_patch(&mut stands, &read());
                (strategy(&kind.group, plural).default)(&mut stands);
            }
            "status" => {
                let mut new = stands.clone();
                patch::merge_patch(&mut new, &read());
                let kind = Kind::read(&base, plural);
                (strategy(&kind.group, plural).default)(&mut new);
                let found = kind.status_faults(&new, &stands);
                out += &found.iter().map(|line| format!("{line}\n")).collect::<String>();
            }
            "create" | "update" => {
                let kind = Kind::read(&base, plural);
                let mut object = base.clone();
                patch::merge_patch(&mut object, &read());
                kind.prepare(&mut object);
                let mut old = base.clone();
                kind.prepare(&mut old);
                if let Some(status) = stands.get("status").filter(|_| word == "update") {
                    (object["status"], old["status"]) = (status.clone(), status.clone());
                }
                let found = kind.faults(&object, (word == "update").then_some(&old));
                out += &found.iter().map(|line| format!("{line}\n")).collect::<String>();
            }
            other => panic!("{plural}: {other}?"),
        }
    }
    out
}

#[test]
fn every_golden_file_is_as_the_rules_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 15);
    let mut wrong = Vec::new();
    for file in files {
        // Two groups have events.
        let plural = file.file_stem().unwrap().to_str().unwrap().trim_start_matches("new-");
        let text = std::fs::read_to_string(&file).unwrap();
        let asked: String =
            text.lines().filter(|line| !line.starts_with("  ")).map(|line| format!("{line}\n")).collect();
        let found = answer(&asked, plural);
        if std::env::var("KNARR_GOLDEN").is_ok_and(|value| value == "write") {
            std::fs::write(&file, &found).unwrap();
        } else if found != text {
            wrong.push(format!("{plural}:\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "found:\n{}", wrong.join("\n"));
}

/// Kinds that are written nowhere, or only asked: nothing is filled in, refused or shown.
fn is_kept(group: &str, resource: &facts::Resource) -> bool {
    ["create", "get"].iter().all(|verb| resource.verbs.contains(verb)) && group != "metrics.k8s.io"
}

#[test]
fn every_kind_has_golden_data() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut lacking = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for gv in &facts::facts().groups {
        for resource in gv.resources.iter().filter(|resource| is_kept(gv.group, resource)) {
            seen.insert((gv.group, resource.plural));
        }
    }
    assert!(seen.len() > 65, "{}", seen.len());
    for (group, plural) in seen {
        let file =
            folder.join(if group == "events.k8s.io" { "new-events.txt".into() } else { format!("{plural}.txt") });
        let Ok(text) = std::fs::read_to_string(&file) else {
            lacking.push(format!("{group}/{plural}: no file"));
            continue;
        };
        for word in ["base", "defaults", "strategy", "create", "update", "row"] {
            if !text.lines().any(|line| line.split(' ').next() == Some(word)) {
                lacking.push(format!("{group}/{plural}: no {word}"));
            }
        }
    }
    assert!(lacking.is_empty(), "{}", lacking.join("\n"));
}
